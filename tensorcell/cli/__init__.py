"""The command line: ``tensorcell recover``, ``diagnose``, ``plan``, ``evaluate``, ``train`` and ``demo``.

Exit status 0: the command is done; 1: this package has a defect; 2: the input cannot be used, and one line on stderr
says why; 3: the verdict is below ``--fail-under``; 130, 143: the command was interrupted by Ctrl-C, by a request to
terminate.
"""

from tensorcell.cli.signals import leave_at_once, restore

__all__ = ["main"]


def main() -> None:
    """Run the command line; signals are heeded while it is imported, too."""
    earlier = leave_at_once()
    try:
        from tensorcell.cli.app import main as run

        run()
    finally:
        restore(earlier)
