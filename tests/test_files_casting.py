"""Intensities in another data type, against exact arithmetic."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from volume_files import STACK, refuses

from tensorcell.files import Cast, cast


def exact_cast(value: float | int, dtype: np.dtype[Any]) -> tuple[int, bool, bool]:
    """Round half to even and clip in Python's unlimited integers; whether it was rounded, whether clipped."""
    info = np.iinfo(dtype)
    if value in (float("inf"), float("-inf")):
        return (info.max if value > 0 else info.min), False, True
    nearest = round(value)
    inside = min(max(nearest, int(info.min)), int(info.max))
    return inside, inside == nearest and nearest != value, inside != nearest


@settings(max_examples=150, deadline=None)
@given(
    st.data(),
    st.sampled_from(["f2", "f4", "f8", "bool", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"]),
    st.sampled_from(["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"]),
)
def test_cast_to_integers_matches_exact_arithmetic(data: st.DataObject, source: str, target: str) -> None:
    kind = np.dtype(source)
    if kind.kind == "f":
        # the ends of every integer range and their neighbours, ties, and anything else
        ends = [
            float(sign * 2**p + d) for p in (7, 8, 15, 16, 31, 32, 63, 64) for sign in (1, -1) for d in (-1, -0.5, 0)
        ]
        limit = float(np.finfo(kind).max)
        pool = [end for end in ends if abs(end) <= limit]
        width: Any = 8 * kind.itemsize
        number = st.sampled_from(pool) | st.floats(width=width, allow_nan=False)
    else:
        low, high = (0, 1) if kind.kind == "b" else (int(np.iinfo(kind).min), int(np.iinfo(kind).max))
        number = st.integers(low, high)
    values = np.array(data.draw(st.lists(number, min_size=1, max_size=6)), kind)
    expected = [exact_cast(value, np.dtype(target)) for value in values.tolist()]
    result = cast(values, target)
    assert result.data.dtype == target
    assert result.data.tolist() == [one for one, _, _ in expected]
    assert result.rounded == sum(rounded for _, rounded, _ in expected)
    assert result.clipped == sum(clipped for _, _, clipped in expected)


def test_cast_to_floats_counts_only_what_does_not_fit() -> None:
    result = cast(np.array([1e300, -1e300, np.inf, np.nan, 0.1, 1.0]), np.float32)
    top = np.finfo(np.float32).max
    np.testing.assert_array_equal(result.data, np.array([top, -top, np.inf, np.nan, 0.1, 1], np.float32))
    assert (result.rounded, result.clipped) == (0, 2)
    assert cast(np.array([70000, -3]), np.float16).clipped == 1
    assert cast(np.array([True, False]), "f4").data.tolist() == [1.0, 0.0]


def test_cast_works_in_blocks_and_leaves_its_input_alone() -> None:
    data = np.random.default_rng(2).normal(100, 80, (30, 300, 301)).astype(np.float32)  # three blocks
    before = data.copy()
    result = cast(data, np.uint8)
    nearest = np.rint(before.astype(np.float64))
    np.testing.assert_array_equal(result.data, np.clip(nearest, 0, 255))
    assert result.clipped == np.count_nonzero((nearest < 0) | (nearest > 255))
    assert result.rounded == np.count_nonzero((nearest >= 0) & (nearest <= 255) & (nearest != before))
    np.testing.assert_array_equal(data, before)


def test_cast_to_the_same_dtype_is_the_same_array() -> None:
    assert cast(STACK, "uint16") == Cast(STACK, 0, 0)
    assert cast(STACK, "uint16").data is STACK


def test_cast_refuses() -> None:
    refuses(lambda: cast(np.array([1.0, np.nan]), "u2"), r"cannot store NaN \(not measured\) as uint16; use a float")
    for dtype in ("complex64", "bool", "U3", np.longdouble):
        refuses(partial(cast, STACK, dtype), "does not hold intensities, expected integers or floats")
    refuses(lambda: cast(STACK, "uint17"), "dtype 'uint17' is unknown, expected one such as uint16")
