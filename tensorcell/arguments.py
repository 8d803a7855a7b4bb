"""Checks of the arguments that several public functions share: each returns the value in its plain Python type."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

from tensorcell.errors import InputError


def whole_number(name: str, value: Any, least: int = 1) -> int:
    """A whole number of at least ``least``; numpy integers and floats such as 2.0 are accepted, booleans are not."""
    number = isinstance(value, Real) and not isinstance(value, bool) and float(value).is_integer()
    if not number or value < least:
        raise InputError(f"expected a whole number of at least {least} as {name}, got {value!r}")
    return int(value)


def checked_noise(value: Any) -> float | None:
    """The standard deviation that was given; None for "auto"."""
    if isinstance(value, str) and value == "auto":
        return None
    if not isinstance(value, Real) or isinstance(value, bool) or not 0 <= float(value) < math.inf:
        raise InputError(f"expected noise 'auto' or a standard deviation of at least 0, got {value!r}")
    return float(value)


def checked_seed(value: Any) -> int:
    """A whole number of at least 0."""
    return whole_number("seed", value, least=0)


def checked_axial_factor(value: Any) -> int:
    """A whole number of at least 1."""
    number = isinstance(value, Real) and not isinstance(value, bool) and float(value).is_integer()
    if not number or value < 1:
        raise InputError(f"expected a whole axial factor of at least 1, got {value!r}")
    return int(value)


def checked_rank(value: Any) -> tuple[int, int, int] | None:
    """One rank for each axis; None for "auto"."""
    if isinstance(value, str) and value == "auto":
        return None
    given = (value,) * 3 if isinstance(value, Integral) else value
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise InputError(f"expected rank 'auto', a whole number or three, got {value!r}")
    if len(given) != 3:
        raise InputError(f"rank has {len(given)} entries, a stack has 3 axes")
    first, second, third = (whole_number("rank", one) for one in given)
    return first, second, third


def positive(name: str, value: Any) -> float:
    """A finite number above 0."""
    if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(float(value)):
        raise InputError(f"expected a finite number as {name}, got {value!r}")
    if value <= 0:
        raise InputError(f"expected {name} above 0, got {value!r}")
    return float(value)
