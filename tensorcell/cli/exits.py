"""How a command ends: exit statuses, and the exception that carries the message for the user after Ctrl-C."""

from __future__ import annotations

DONE, USER, MISSED = 0, 2, 3
"""Exit statuses: done; unusable input (of several stacks perhaps only some: then the others were written); verdict
below ``--fail-under``. That of a command which was interrupted is `tensorcell.cli.signals.status`."""


class Interrupted(Exception):
    """Ctrl-C was pressed; the message says what was written and how to go on."""
