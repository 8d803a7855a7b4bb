"""Planted tensors: random tensors of a known low rank, with missing entries, outliers and noise."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorcell.datasets.checks import check_number, checked_sides, entries
from tensorcell.datasets.streams import PLANTED, random_streams
from tensorcell.errors import InputError

Floats = npt.NDArray[np.floating[Any]]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class PlantedTensor:
    """A tensor of low rank and a measurement of it.

    Attributes
    ----------
    data
        Truth plus outliers plus noise where measured, NaN elsewhere.
    mask
        bool, True = measured.
    truth
        The tensor of low rank; its standard deviation is 1.
    outliers
        What was added as outliers, 0 where there is none.
    """

    data: Floats
    mask: Bools
    truth: Floats
    outliers: Floats


def planted_tucker(
    shape: Sequence[int],
    rank: int | Sequence[int],
    *,
    observed: float = 1.0,
    outliers: float = 0.0,
    outlier_range: Sequence[float] = (1.0, 3.0),
    noise: float = 0.0,
    seed: int = 0,
    dtype: npt.DTypeLike = np.float64,
) -> PlantedTensor:
    """Draw a Tucker tensor with a normal core and random orthonormal factors, scaled to a standard deviation of 1.

    Parameters
    ----------
    shape
        Number of entries along each mode, for any number of modes.
    rank
        Multilinear rank: one number for all modes, or one for each. The rank of a mode is at most its side, and at
        most the product of the ranks of the others.
    observed
        Probability with which an entry is measured, independently of the others.
    outliers
        Probability with which an outlier is added to a measured entry.
    outlier_range
        Lowest and highest magnitude of an outlier, in standard deviations of the truth. The magnitude is uniform
        between them and the sign is random; (10, 10) gives exactly +10 or -10.
    noise
        Standard deviation of the Gaussian noise, in standard deviations of the truth.
    seed
        Truth, mask, outliers and noise have random streams of their own: none of them changes the others.
    dtype
        float32 or float64.

    Returns
    -------
    PlantedTensor

    Raises
    ------
    InputError
        If no tensor of this shape has this rank, or a parameter is out of its range.

    Examples
    --------
    >>> planted = planted_tucker((20, 15, 10), (3, 2, 2), observed=0.5)
    >>> [int(np.linalg.matrix_rank(np.moveaxis(planted.truth, n, 0).reshape(side, -1)))
    ...  for n, side in enumerate(planted.truth.shape)]
    [3, 2, 2]
    """
    shape = checked_sides(shape)
    rank = checked_rank(rank, shape)
    if math.prod(shape) < 2:
        raise InputError(f"shape is {shape}, expected at least two entries to have a standard deviation")
    dtype = np.dtype(dtype)
    if dtype not in (np.float32, np.float64):
        raise InputError(f"dtype is {dtype}, expected float32 or float64")
    check_number("observed", observed, above=0, highest=1)
    check_number("outliers", outliers, lowest=0, below=1)
    check_number("noise", noise, lowest=0)
    lowest, highest = entries("outlier_range", outlier_range, 2, "lowest and highest magnitude")
    check_number("lowest magnitude in outlier_range", lowest, lowest=0)
    check_number("highest magnitude in outlier_range", highest, lowest=lowest)

    truth_stream, mask_stream, outlier_stream, noise_stream = random_streams(seed, PLANTED, 4)
    truth = draw_tucker(shape, rank, truth_stream, dtype)
    mask = mask_stream.random(shape, dtype=np.float32) < observed
    outlying = mask & (outlier_stream.random(shape, dtype=np.float32) < outliers)
    count = np.count_nonzero(outlying)
    sparse = np.zeros(shape, dtype)
    signs = outlier_stream.choice([-1.0, 1.0], count)
    sparse[outlying] = signs * outlier_stream.uniform(lowest, highest, count)

    data = truth + sparse
    if noise > 0:
        data += (noise * noise_stream.standard_normal(shape)).astype(dtype)
    data[~mask] = np.nan
    return PlantedTensor(data, mask, truth, sparse)


def draw_tucker(
    shape: tuple[int, ...], rank: tuple[int, ...], rng: np.random.Generator, dtype: np.dtype[Any]
) -> Floats:
    """A random Tucker tensor of standard deviation 1."""
    tensor = rng.standard_normal(rank).astype(dtype)
    for mode, side in enumerate(shape):
        factor = np.linalg.qr(rng.standard_normal((side, rank[mode])))[0].astype(dtype)
        tensor = np.moveaxis(np.tensordot(factor, tensor, (1, mode)), 0, mode)
    return np.ascontiguousarray(tensor / tensor.std(dtype=np.float64).astype(dtype))


def checked_rank(rank: int | Sequence[int], shape: tuple[int, ...]) -> tuple[int, ...]:
    """One rank for each mode, such that a tensor of this shape can have them."""
    ranks: tuple[Any, ...] = (rank,) * len(shape) if not isinstance(rank, Iterable) else tuple(rank)
    if len(ranks) != len(shape):
        raise InputError(f"rank has {len(ranks)} entries, shape has {len(shape)} axes")
    for r in ranks:
        check_number("an entry of rank", r, lowest=1, whole=True)
    for mode, (r, side) in enumerate(zip(ranks, shape, strict=True)):
        if r > side:
            raise InputError(f"rank {r} of mode {mode} is larger than its side in shape {shape}")
        others = math.prod(ranks) // r
        if r > others:
            raise InputError(f"rank {r} of mode {mode} is larger than the product of the others, {others}")
    return tuple(int(r) for r in ranks)
