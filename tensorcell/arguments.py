"""What a valid argument is: the checks that `recover`, `diagnose`, `plan` and `evaluate` share.

Every function takes an argument as the caller gave it and returns it in the form that computations use, or raises
`InputError` with one line that says what was expected and what was given.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, NoReturn

import numpy as np

from tensorcell.errors import InputError
from tensorcell.volume import Volume

Rank = tuple[int, int, int]

LARGEST_FACTOR = 10**100
"""Up to here, what a factor asks for can be said in bytes."""


def is_number(value: Any) -> bool:
    """Whether this is a real number; True and False do not count as numbers."""
    return isinstance(value, Real) and not isinstance(value, bool | np.bool_)


def whole_number(name: str, value: Any, least: int = 1) -> int:
    """A whole number of at least ``least``; 2.0 counts as one, True does not.

    >>> whole_number("repeats", np.int64(3)), whole_number("axial factor", 2.0)
    (3, 2)
    """
    if not is_number(value) or value < least or value % 1 != 0:
        raise InputError(f"expected a whole number of at least {least} as {name}, got {value!r}")
    return int(value)


def positive(name: str, value: Any) -> float:
    """A finite number above 0."""
    if not is_number(value) or not math.isfinite(value):
        raise InputError(f"expected a finite number as {name}, got {value!r}")
    if value <= 0:
        raise InputError(f"expected {name} above 0, got {value!r}")
    return float(value)


def checked_axial_factor(value: Any) -> int:
    """The axial factor ``s``, a whole number of at least 1."""
    factor = whole_number("axial factor", value)
    if factor > LARGEST_FACTOR:
        raise InputError("expected an axial factor of at most 1e100, got a larger one")
    return factor


def checked_lateral_factor(value: Any, keep_measured: Any) -> int:
    """The lateral factor, a whole number of at least 1; above 1 no measured pixel is one of the result.

    >>> checked_lateral_factor(2, "auto")
    2
    """
    factor = whole_number("lateral factor", value)
    if factor > 1 and keep_measured is True:
        raise InputError(
            f"expected lateral factor 1 with keep_measured=True, since no pixel of the result is measured, got {factor}"
        )
    return factor


def checked_seed(value: Any) -> int:
    """The seed, a whole number of at least 0."""
    return whole_number("seed", value, least=0)


def checked_noise(value: Any) -> float | None:
    """The standard deviation of the noise that was given, or None for "auto".

    >>> checked_noise("auto"), checked_noise(3)
    (None, 3.0)
    """
    if isinstance(value, str) and value == "auto":
        return None
    if not is_number(value) or not 0 <= float(value) < math.inf:
        raise InputError(f"expected noise 'auto' or a standard deviation of at least 0, got {value!r}")
    return float(value)


def checked_rank(value: Any) -> Rank | None:
    """Three whole numbers of at least 1 (one number stands for all three), or None for "auto".

    >>> checked_rank("auto"), checked_rank(4), checked_rank([2, 3, 3])
    (None, (4, 4, 4), (2, 3, 3))
    """
    if isinstance(value, str) and value == "auto":
        return None
    if isinstance(value, str) or np.ndim(value) > 1:
        raise InputError(f"expected rank 'auto', a whole number or three, got {value!r}")
    numbers = tuple(value) if np.ndim(value) else (value,) * 3
    if len(numbers) != 3:
        raise InputError(f"rank has {len(numbers)} entries, a stack has 3 axes (z, y, x)")
    if not all(isinstance(r, Integral) and not isinstance(r, bool | np.bool_) and int(r) >= 1 for r in numbers):
        raise InputError(f"expected whole numbers of at least 1 as rank, got {value!r}")
    z, y, x = (int(r) for r in numbers)
    return z, y, x


def check_rank_fits(rank: Sequence[int], shape: Sequence[int], some_missing: bool) -> None:
    """Raise `InputError` unless a tensor of this shape can have this multilinear rank."""
    for name, r, size in zip("zyx", rank, shape, strict=True):
        if r > size:
            what = "measured planes" if name == "z" and some_missing else f"size of {name}"
            raise InputError(f"rank {r} along {name} is larger than the {what}, {size}")
    for axis, name in enumerate("zyx"):
        others = math.prod(rank) // rank[axis]
        if rank[axis] > others:
            raise InputError(f"rank {rank[axis]} along {name} is larger than the product of the other two, {others}")


def one_of(name: str, value: Any, allowed: Iterable[str]) -> str:
    """The value, if it is one of the allowed names."""
    names = tuple(allowed)
    if not isinstance(value, str) or value not in names:
        raise InputError(f"expected {name} {' or '.join(names)}, got {value!r}")
    return value


def true_false_or_auto(name: str, value: Any) -> bool | None:
    """True, False, or None for "auto"."""
    if isinstance(value, str) and value == "auto":
        return None
    if not isinstance(value, bool | np.bool_):
        raise InputError(f"expected {name} 'auto', True or False, got {value!r}")
    return bool(value)


def check_shape(volume: Volume, planes: int = 1) -> None:
    """Raise `InputError` unless every stack of the volume has so many planes of 2 x 2 pixels at least."""
    rows, columns = (volume.shape[volume.axes.index(axis)] for axis in "YX")
    if volume.planes < planes:
        raise InputError(f"expected a stack of at least {planes} planes, got {volume.planes}")
    if min(rows, columns) < 2:
        raise InputError(f"expected planes of at least 2 x 2 pixels, got {rows} x {columns}")


def options_of(kinds: Sequence[type], given: Mapping[str, Any], method: str) -> dict[type, Any]:
    """The option objects of a method, made of the options that were given by name.

    Parameters
    ----------
    kinds : sequence of dataclasses
        The option classes of the method; they check their values and raise ValueError.
    given : mapping
        Names and values; each goes to the dataclass that has such a field.
    method : str
        Name of the method, for messages.

    Raises
    ------
    TypeError
        For a name that none of them has; the message lists similar names.
    InputError
        For a value that its dataclass refuses.
    """
    names = {kind: {field.name for field in dataclasses.fields(kind)} for kind in kinds}
    known = sorted(set().union(*names.values()))
    for name in given:
        if name not in known:
            _refuse_option(name, known, method)
    try:
        return {kind: kind(**{name: given[name] for name in given if name in names[kind]}) for kind in kinds}
    except ValueError as error:
        raise InputError(str(error)) from None


def _refuse_option(name: str, known: Sequence[str], method: str) -> NoReturn:
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"; did you mean {' or '.join(near)}?" if near else f"; it has {', '.join(known)}"
    raise TypeError(f"method {method!r} has no option {name!r}{hint}")
