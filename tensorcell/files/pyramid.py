"""Smaller versions of a volume for viewers: means over blocks of two voxels, which keep the mean of integers, too."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from tensorcell.files.units import Spacing

LARGEST = 256
"""No smaller version is made of a level that has at most so many rows and columns."""

SLAB = 2**18
"""Voxels that are averaged at a time, so that temporary arrays stay small."""

PHASE_STEP = 0.6180339887498949
"""Fractions of the multiples of the golden ratio: the most even series of starting points for rounding."""


class PyramidLevel(NamedTuple):
    """A smaller version of a volume, to be made of the one before."""

    halved: list[str]
    """The axes along which it is half as long."""
    shape: tuple[int, ...]
    factors: dict[str, int]
    """Voxels of the volume in a block along Z, Y and X."""


def smaller_levels(shape: tuple[int, ...], axes: str, spacing: Spacing | None) -> Iterator[PyramidLevel]:
    """The smaller versions of a volume, each made of the one before.

    Y and X are halved as long as one of them is longer than `LARGEST`; Z is halved where its step is less than twice
    the smallest one, so that voxels become cubes and then stay cubes. Without a voxel size Z is left as it is.
    """
    factors = {letter: 1 for letter in "ZYX" if letter in axes}
    steps = dict(zip("ZYX", spacing, strict=True)) if spacing is not None else {"Z": np.inf, "Y": 1.0, "X": 1.0}
    while max(shape[axes.index(letter)] for letter in "YX") > LARGEST:
        now = {letter: steps[letter] * factor for letter, factor in factors.items() if shape[axes.index(letter)] > 1}
        halved = [letter for letter in now if now[letter] < 2 * min(now.values())]
        shape = tuple(-(-size // 2) if letter in halved else size for letter, size in zip(axes, shape, strict=True))
        factors = {letter: factor * (2 if letter in halved else 1) for letter, factor in factors.items()}
        yield PyramidLevel(halved, shape, dict(factors))


def fill_level(
    source: Any, measured: Any | None, target: Any, shares: Any | None, blocks: Sequence[int], axes: str,
    halved: list[str],
) -> None:  # fmt: skip
    """Make a level of the one before, and that of its mask, block by block.

    Parameters
    ----------
    source, measured : array-like
        The level before, and where it was measured; None if it was everywhere.
    target, shares : array-like
        The level, and that of the mask, which are written to.
    blocks : sequence of int
        Lengths of a block of ``target``. Integers are rounded by block, so that equal blocks give equal levels.
    axes, halved
        As in `halve`.
    """
    for number, box in enumerate(boxes(target.shape, blocks)):
        wide = tuple(
            slice(2 * each.start, min(2 * each.stop, size), 1) if letter in halved else each
            for letter, each, size in zip(axes, box, source.shape, strict=True)
        )
        mask = None if measured is None else np.asarray(measured[wide]).astype(bool)
        target[box], some = halve(np.asarray(source[wide]), mask, axes, halved, number)
        if shares is not None and some is not None:
            shares[box] = some.astype(np.uint8)


def boxes(shape: Sequence[int], lengths: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    """Boxes of these lengths that cover an array, such as those of its chunks."""
    for place in np.ndindex(*(-(-size // length) for size, length in zip(shape, lengths, strict=True))):
        ends = zip(place, lengths, shape, strict=True)
        yield tuple(slice(number * length, min((number + 1) * length, size), 1) for number, length, size in ends)


def halve(
    data: np.ndarray, mask: np.ndarray | None, axes: str, halved: list[str], first: int = 0
) -> tuple[np.ndarray, np.ndarray | None]:
    """Means over blocks of two voxels along some axes, of the voxels that were measured.

    Parameters
    ----------
    data : numpy.ndarray
        Intensities; NaN is not measured. Bool becomes True where at least half of a block is.
    mask : numpy.ndarray of bool or None
        True = measured.
    axes : str
        Names of the axes.
    halved : list of str
        Axes that become shorter. Of an odd length the last voxel is a block by itself, so that no voxel is left out.
    first : int
        Any number that differs from one part of a volume to the next, where parts are halved by themselves.

    Returns
    -------
    data : numpy.ndarray
        Of the same dtype. Integers are rounded up or down in turn, so that sums over rows are kept (see
        `mean_keeping`). Where nothing of a block was measured, NaN for floats and 0 for integers.
    mask : numpy.ndarray of bool or None
        True where something of a block was measured.

    Examples
    --------
    >>> halve(np.array([[1, 2, 2, 3, 9]]), None, "YX", ["X"])[0]
    array([[2, 2, 9]])
    """
    step = 2 * max(1, SLAB // (2 * data[0].size))
    parts = []
    for start in range(0, len(data), step):
        slab, own = data[start : start + step], None if mask is None else mask[start : start + step]
        complete = own is None and not (data.dtype.kind == "f" and np.isnan(slab).any())
        means = _means(slab, axes, halved) if complete else _means_of_measured(slab, own, axes, halved)
        parts.append((_rounded(means, data.dtype, first + start), means.some))
    some = None if mask is None else np.concatenate([own for _, own in parts])
    return np.concatenate([values for values, _ in parts]), some


class _Means(NamedTuple):
    """Means over blocks: ``whole + rest``, where rest is in [0, 1) and None unless the data are integers."""

    whole: np.ndarray
    rest: np.ndarray | None
    some: np.ndarray
    """True where something of a block was measured."""


def _means(data: np.ndarray, axes: str, halved: list[str]) -> _Means:
    """Means over blocks where every voxel was measured."""
    size = 2 ** len(halved)  # a power of two: integers are divided by shifts
    rest = None
    if data.dtype.kind == "f":
        whole = _sums(data, np.float64, axes, halved) / size
    elif data.dtype == bool:
        whole = np.greater_equal(_sums(data, np.uint8, axes, halved), size / 2)
    elif data.dtype.itemsize < 8:
        total = _sums(data, np.int32 if data.dtype.itemsize < 4 else np.int64, axes, halved)
        whole, rest = total >> len(halved), (total & (size - 1)) / size
    else:  # sums of whole parts and of rests never overflow
        rests = _sums(data & (size - 1), np.int64, axes, halved)
        whole = _sums(data >> len(halved), data.dtype, axes, halved) + (rests >> len(halved)).astype(data.dtype)
        rest = (rests & (size - 1)) / size
    return _Means(whole, rest, np.ones(whole.shape, bool))


def _means_of_measured(data: np.ndarray, mask: np.ndarray | None, axes: str, halved: list[str]) -> _Means:
    """Means over the measured voxels of each block."""
    measured = np.ones(data.shape, bool) if mask is None else mask
    if data.dtype.kind == "f":
        measured = measured & ~np.isnan(data)
    count = _sums(measured, np.uint8, axes, halved)
    divisor, some = np.maximum(count, 1), count > 0
    if data.dtype.kind == "f":
        total = _sums(np.where(measured, data, 0), np.float64, axes, halved)
        return _Means(np.where(some, total / divisor, np.nan), None, some)
    if data.dtype == bool:
        return _Means((2 * _sums(data & measured, np.uint8, axes, halved) >= divisor) & some, None, some)
    whole, rest = np.zeros(count.shape, data.dtype), np.zeros(count.shape, np.uint8)
    wide = divisor.astype(data.dtype)
    for part in _parts(np.where(measured, data, 0), axes, halved):  # sums of whole parts and of rests never overflow
        whole += part // wide
        rest += (part % wide).astype(np.uint8)
    return _Means(whole + (rest // divisor).astype(data.dtype), (rest % divisor) / divisor, some)


def _rounded(means: _Means, dtype: np.dtype[Any], start: int) -> np.ndarray:
    """Means in the data type of the volume; ``start`` is any number that differs from slab to slab."""
    whole = means.whole.astype(dtype)
    return whole if means.rest is None else mean_keeping(whole, means.rest, start)


def _sums(array: np.ndarray, kind: Any, axes: str, halved: list[str]) -> np.ndarray:
    """Sums over blocks, in a data type that holds them."""
    parts = _parts(array, axes, halved)
    total: np.ndarray = next(parts).astype(kind)
    for part in parts:
        np.add(total, part, out=total, casting="unsafe")
    return total


def _parts(array: np.ndarray, axes: str, halved: list[str]) -> Iterator[np.ndarray]:
    """The voxels of all blocks that have the same place in their block.

    A last block that is cut off is completed by itself, so that its mean stays what it is.
    """
    numbers = [axes.index(letter) for letter in halved]
    odd = [(0, array.shape[axis] % 2 if axis in numbers else 0) for axis in range(array.ndim)]
    padded = np.pad(array, odd, mode="edge") if any(after for _, after in odd) else array
    for offsets in itertools.product((0, 1), repeat=len(numbers)):
        place = [slice(None)] * array.ndim
        for axis, offset in zip(numbers, offsets, strict=True):
            place[axis] = slice(offset, None, 2)
        yield padded[tuple(place)]


def mean_keeping(whole: np.ndarray, rest: np.ndarray, first: int = 0) -> np.ndarray:
    """``whole + rest`` rounded up or down such that sums along rows stay, whatever the numbers are.

    Along each row the sum of ``rest`` (in [0, 1)) is followed, and a voxel is rounded up where it passes the next whole
    number; each row starts at another fraction, counted on from ``first``. So the mean over some tens of voxels is
    kept, where rounding to the nearest would turn counts of 3.4 into 3, and a volume of few ones into an empty one.

    >>> int(mean_keeping(np.zeros((10, 10), int), np.full((10, 10), 0.2)).sum())
    20
    """
    rows = rest.reshape(-1, rest.shape[-1])
    start = (PHASE_STEP * (first + np.arange(1, len(rows) + 1))) % 1.0
    passed = np.floor(np.cumsum(rows, axis=1) + start[:, None] + 1e-9)  # 1e-9: thirds that add up to one
    up = np.diff(passed, axis=1, prepend=0)
    rounded: np.ndarray = whole + up.reshape(whole.shape).astype(whole.dtype)
    return rounded
