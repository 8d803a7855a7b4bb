"""Messages of errors: the path in front, the cause in one line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from tensorcell.errors import InputError


@contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Put the path in front of the message of an `InputError`."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{os.fspath(path)}: {error}") from error


def reason(error: BaseException) -> str:
    """The message of an exception in one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:300] or type(error).__name__
