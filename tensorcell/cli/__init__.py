"""The command line: ``tensorcell recover``, ``diagnose``, ``plan``, ``evaluate``, ``train`` and ``demo``.

Exit status 0: the command is done; 1: this package has a defect; 2: the input cannot be used, and one line on stderr
says why; 3: the verdict is below ``--fail-under``; 130: the command was interrupted.
"""

from tensorcell.cli.app import main

__all__ = ["main"]
