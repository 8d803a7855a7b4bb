"""Argument checks shared by all completion methods."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .arrays import Array, as_float, chunk_elements, contiguous, count, namespace_of


def checked_problem(data: Array, mask: Array | None, rank: int | Sequence[int]) -> tuple[Array, Array, tuple[int, ...]]:
    """Data as float, mask as bool (all True for None) and rank as a tuple, after checking that they fit together.

    Neither array is copied where it need not be; values at observed entries must be finite.

    Raises
    ------
    TypeError
        Not arrays of one library, complex data, a mask that is not bool, a rank that is not whole.
    ValueError
        Fewer than two axes, another shape of the mask, nothing observed, values that are not finite at observed
        entries, a rank that does not fit the shape.
    """
    xp = namespace_of(data, mask)
    data = as_float(data)
    shape = tuple(data.shape)
    if len(shape) < 2 or min(shape) < 1:
        raise ValueError(f"expected data with at least two axes and no empty one, got shape {shape}")
    if mask is None:
        mask = xp.ones(shape, dtype=xp.bool)
    if mask.dtype != xp.bool:
        raise TypeError(f"expected a bool mask (True = observed), got dtype {mask.dtype}")
    if tuple(mask.shape) != shape:
        raise ValueError(f"mask has shape {tuple(mask.shape)}, data has shape {shape}")
    rank = checked_rank(rank, shape)
    data, mask = contiguous(data), contiguous(mask)
    observed = 0
    flat_step = max(1, chunk_elements(xp) * shape[0] // math.prod(shape))
    for first in range(0, shape[0], flat_step):
        part = slice(first, min(shape[0], first + flat_step))
        here = mask[part, ...]
        observed += count(here)
        if not bool(xp.all(xp.isfinite(data[part, ...]) | ~here)):
            raise ValueError("expected finite values at observed entries, got NaN or infinity")
    if observed == 0:
        raise ValueError("expected at least one observed entry, got a mask without any True")
    return data, mask, rank


def checked_rank(rank: int | Sequence[int], shape: Sequence[int]) -> tuple[int, ...]:
    """The rank as one whole number a mode, each within its mode and within the product of the others."""
    given = (rank,) * len(shape) if np.ndim(rank) == 0 else tuple(rank)  # type: ignore[arg-type]
    if len(given) != len(shape):
        raise ValueError(f"rank has {len(given)} entries, data has {len(shape)} axes")
    numbers = []
    for mode, (number, size) in enumerate(zip(given, shape, strict=True)):
        if not isinstance(number, (int, float, np.integer, np.floating)) or not float(number).is_integer():
            raise TypeError(f"expected whole numbers as rank, got {number!r} in mode {mode}")
        if not 1 <= number <= size:
            raise ValueError(f"rank {int(number)} does not fit mode {mode} of size {size} (expected 1 to {size})")
        numbers.append(int(number))
    for mode, number in enumerate(numbers):
        others = math.prod(numbers[:mode]) * math.prod(numbers[mode + 1 :])
        if number > others:
            raise ValueError(f"rank {number} of mode {mode} exceeds the product {others} of the other ranks")
    return tuple(numbers)


def check_state(state: Any, rank: Sequence[int]) -> None:
    """Complain about a state to go on from that belongs to another rank (None is fine)."""
    if state is not None and tuple(state.core.shape) != tuple(rank):
        raise ValueError(f"state has rank {tuple(state.core.shape)}, expected {tuple(rank)}")


def effective_tolerance(tolerance: float, data: Array) -> float:
    """The tolerance, but not below what the precision of the data allows."""
    xp = namespace_of(data)
    return max(tolerance, 8 * float(xp.finfo(data.dtype).eps))


def whole_number(value: object, name: str, least: int) -> int:
    """The value as Python's own integer; NumPy's integers are whole numbers, ``True`` and ``2.0`` are not.

    Raises
    ------
    ValueError
        If the value is not a whole number of at least ``least``.

    Examples
    --------
    >>> whole_number(np.int16(3), "step", 1)
    3
    >>> whole_number(True, "step", 1)
    Traceback (most recent call last):
    ValueError: expected step as a whole number of at least 1, got True
    """
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value >= least:
        return int(value)
    raise ValueError(f"expected {name} as a whole number of at least {least}, got {value!r}")


def one_or_three(value: object, name: str, least: int) -> int | tuple[int, int, int]:
    """A whole number, or three of them, as Python's own integers."""
    several = isinstance(value, (tuple, list)) or getattr(value, "ndim", 0) == 1
    given: tuple[object, ...] = tuple(value) if several else (value,) * 3  # type: ignore[arg-type]
    try:
        z, y, x = (whole_number(number, name, least) for number in given)
    except ValueError:
        raise ValueError(f"expected {name} as a whole number of at least {least}, or three, got {value!r}") from None
    return (z, y, x) if several else z


def power_of_two(value: object, name: str) -> int:
    """A power of two as Python's own integer."""
    try:
        number = whole_number(value, name, 1)
    except ValueError:
        number = 0
    if number & (number - 1) or number == 0:
        raise ValueError(f"expected a power of two as {name}, got {value!r}")
    return number
