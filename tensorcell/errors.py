"""The one exception for input that the user can mend."""

from __future__ import annotations


class InputError(ValueError):
    """The input cannot be used as it is; the message says what, expected and got, in one line.

    The command line prints the message and exits with status 2.

    >>> raise InputError("rank has 2 entries, data has 3 axes")
    Traceback (most recent call last):
        ...
    tensorcell.errors.InputError: rank has 2 entries, data has 3 axes
    """
