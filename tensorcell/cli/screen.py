"""What a command says on standard output."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import textwrap
from collections.abc import Mapping
from typing import Any, TextIO

from tensorcell.errors import InputError
from tensorcell.files.messages import reason


def filled(text: str, width: int) -> str:
    """The text with lines that are too long for a terminal broken at spaces, what follows further in than they began.

    >>> print(filled("a head\\n  a note of several words", 20))
    a head
      a note of several
        words
    """
    lines = []
    for line in text.split("\n"):
        inside = " " * (len(line) - len(line.lstrip()))
        wrapped = textwrap.wrap(
            line.lstrip(), max(width, 20), initial_indent=inside, subsequent_indent=inside and inside + "  ",
            break_long_words=False, break_on_hyphens=False,
        )  # fmt: skip
        lines += [line] if len(line) <= width else wrapped
    return "\n".join(lines)


def for_terminal(text: str, stream: TextIO | None) -> str:
    """The text with its lines broken at spaces if the stream is a terminal; files and pipes get it as it is."""
    if stream is None or not stream.isatty():
        return text
    return filled(text, shutil.get_terminal_size().columns)


def show(text: object, *, data: bool = False) -> None:
    """Print a text.

    Parameters
    ----------
    text : object
    data : bool
        Whether it is for other programs, so that no line is broken.

    Raises
    ------
    InputError
        If nobody reads it any more, or the disk that it goes to is full.
    """
    if sys.stdout is None:
        raise InputError("standard output is closed, and the result is not shown")
    try:
        print(text if data else for_terminal(str(text), sys.stdout), flush=True)
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
