"""How a command ends: exit statuses, and the exception that carries the message for the user after Ctrl-C."""

from __future__ import annotations

from tensorcell.files import split_path

DONE, USER, MISSED = 0, 2, 3
"""Exit statuses: done; unusable input (of several stacks perhaps only some: then the others were written); verdict
below ``--fail-under``. That of a command which was interrupted is `tensorcell.cli.signals.status`."""


class Interrupted(Exception):
    """Ctrl-C was pressed; the message says what was written and how to go on."""


Identity = tuple[int, ...] | None
"""What tells what lies at a path from what lay there before; None if nothing does."""


def identity_of(path: str) -> Identity:
    """What lies at the path of an output now."""
    try:
        found = split_path(path)[0].stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns


def written_or_not(target: str, before: Identity) -> str:
    """What is said of an output when a run was stopped that may just have finished; ``before`` it lay there."""
    now = identity_of(target)
    return "nothing was written" if now is None or now == before else f"{target} is written"
