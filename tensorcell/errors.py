"""The one exception for input that the user can mend."""

from __future__ import annotations

from collections.abc import Iterable


class InputError(ValueError):
    """The input cannot be used as it is; the message says what, expected and got, in one line.

    The command line prints the message and exits with status 2.

    >>> raise InputError("rank has 2 entries, data has 3 axes")
    Traceback (most recent call last):
        ...
    tensorcell.errors.InputError: rank has 2 entries, data has 3 axes
    """


class SeveralVolumes(InputError):
    """A file holds several volumes, of which one must be named.

    Attributes
    ----------
    argument : str
        Of `tensorcell.read`, which names one of them: ``"dataset"`` or ``"series"``.
    names : tuple of str
        What it may be.
    """

    def __init__(self, message: str, argument: str, names: Iterable[str | int]) -> None:
        super().__init__(message)
        self.argument, self.names = argument, tuple(str(name) for name in names)
