"""Messages of errors: the path in front, the cause in one line."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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


def not_written(error: OSError) -> str:
    """What is said of an output that the system does not take."""
    hint = "" if error.errno else " (is the disk full?)"  # NumPy does not pass the number on
    return f"cannot be written: {reason(error)}{hint}"


def library(module: str, extra: str, package: str | None = None) -> Any:
    """An optional module; an `InputError` that says how to install it (as ``package`` if that has another name)."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        said = f'needs the package {package or module}; pip install "tensorcell[{extra}]" installs it'
        raise InputError(said) from error
