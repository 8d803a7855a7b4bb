"""The command line: ``tensorcell recover``, ``diagnose``, ``plan``, ``evaluate``, ``train`` and ``demo``.

Exit status 0: done; 1: a defect of ours; 2: the user's input, one line on stderr; 3: below
``--fail-under``; 130: interrupted.
"""

from tensorcell.cli.app import main

__all__ = ["main"]
