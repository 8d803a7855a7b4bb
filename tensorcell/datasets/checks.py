"""Checks of the arguments of this package; each raises `InputError` with one line: what, got, expected."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tensorcell.errors import InputError


def check_number(
    name: str,
    value: Any,
    *,
    lowest: float = -math.inf,
    above: float = -math.inf,
    highest: float = math.inf,
    below: float = math.inf,
    whole: bool = False,
) -> None:
    """Raise unless the value is a finite real number in its range, and an integer where ``whole`` is True.

    The range includes ``lowest`` and ``highest``, and excludes ``above`` and ``below``.
    """
    kinds = (int, np.integer) if whole else (int, float, np.integer, np.floating)
    number = isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)
    if number and lowest <= value <= highest and above < value < below:
        return
    limits = [("at least", lowest), ("above", above), ("at most", highest), ("below", below)]
    wanted = " and ".join(f"{word} {limit:g}" for word, limit in limits if math.isfinite(limit))
    kind = "an integer" if whole else "a finite number"
    raise InputError(f"{name} is {value}, expected {kind} {wanted}".rstrip())


def entries(name: str, values: Any, count: int, meaning: str) -> tuple[Any, ...]:
    """The values as a tuple of ``count`` entries; ``meaning`` says in the message what they are."""
    if np.ndim(values) != 1:
        raise InputError(f"{name} is {values}, expected {count} numbers ({meaning})")
    if len(values) != count:
        raise InputError(f"{name} has {len(values)} entries, expected {count} ({meaning})")
    return tuple(values)


def checked_sides(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape as integers of at least 1, for any number of axes."""
    for side in shape:
        check_number("a side of shape", side, lowest=1, whole=True)
    return tuple(int(side) for side in shape)
