"""What a command says on standard output."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping
from typing import Any

from tensorcell.errors import InputError
from tensorcell.files.messages import reason


def show(text: object) -> None:
    """Print a text.

    Raises
    ------
    InputError
        If nobody reads it any more, or the disk that it goes to is full.
    """
    if sys.stdout is None:
        raise InputError("standard output is closed, and the result is not shown")
    try:
        print(text, flush=True)
    except OSError as error:
        with contextlib.suppress(OSError):  # Python would try to write what is left of it once more at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise InputError(f"standard output cannot be written, and the result is not shown: {reason(error)}") from None


def summary(facts: Mapping[str, Any], how: str) -> str:
    """A line on the output of a recovery, with how it was made, and a line for the status and each note."""
    shape = " x ".join(map(str, facts["shape"]))
    head = f"{facts['output']}: {shape} {facts['axes']}, {facts['dtype']}; {how}; {facts['seconds']:.1f} s"
    notes = (note for note in facts["notes"] if not note.startswith("the fit "))
    return "\n  ".join((head, f"the fit {facts['status']}", *notes))


def said_of(reasons: Mapping[str, str]) -> str:
    """The stacks that were not recovered, with their reasons, in a line.

    >>> said_of({"T=2": "expected at least 2 measured planes, got 1 of 8"})
    '1 stack was not recovered and is NaN there: T=2: expected at least 2 measured planes, got 1 of 8'
    """
    shown = "; ".join(f"{label}: {reason}" for label, reason in list(reasons.items())[:3])
    more = "; ..." if len(reasons) > 3 else ""
    count = "1 stack was" if len(reasons) == 1 else f"{len(reasons)} stacks were"
    return f"{count} not recovered and {'is' if len(reasons) == 1 else 'are'} NaN there: {shown}{more}"
