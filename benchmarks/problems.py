"""Seeded completion problems with a known answer: the ones every method is measured on.

All are planted Tucker tensors (Gaussian core, orthonormal factors, root mean square 1) of which a random
part is seen. Unseen entries of ``data`` are zero, because several methods multiply the mask with the data.

======  ============  ==========  =====  ==================================================================
name    shape         rank        seen   what is wrong with the seen entries
======  ============  ==========  =====  ==================================================================
``a``   100^3         5, 5, 5     30 %   nothing
``b``   100^3         5, 5, 5     30 %   10 % of them are off by 10 standard deviations, up or down
``b'``  100^3         5, 5, 5     30 %   10 % of them are off by 1 to 3 standard deviations, up or down
``c``   200x200x50    10, 10, 5   20 %   nothing
``d``   94x512x712    30, 60, 60  25 %   Gaussian noise of .1 standard deviations (float32)
======  ============  ==========  =====  ==================================================================
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np

SIZES = ("full", "small", "one")
"""How much asv's benchmarks do: as published; on tiny volumes; on tiny volumes, for one value of each parameter."""

SIZE = os.environ.get("TENSORCELL_BENCH_SIZE", "full")
if SIZE not in SIZES:
    raise ValueError(f"expected TENSORCELL_BENCH_SIZE to be one of {', '.join(SIZES)}, got {SIZE!r}")
SMALL = SIZE != "full"

T = TypeVar("T")


def some(values: Sequence[T]) -> list[T]:
    """All values of a parameter, or the first of them where ``SIZE`` says so."""
    return list(values[:1] if SIZE == "one" else values)


def volume_shape(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """The shape of a volume to measure on, tiny where ``SIZE`` says so."""
    return (12, 24, 24) if SMALL else shape


@dataclass(frozen=True, eq=False)
class Problem:
    """A masked, possibly corrupted tensor and the tensor that is to be found.

    Attributes
    ----------
    name : str
        Short name, as in the table above.
    data : array, shape (I1, ..., Ik)
        Measured values; zero where ``mask`` is False.
    mask : bool array, shape (I1, ..., Ik)
        True = observed.
    truth : array, shape (I1, ..., Ik)
        The planted tensor, in the dtype of ``data``.
    rank : tuple of int, length k
        Its Tucker rank.
    has_outliers : bool
        Whether some observed entries are grossly wrong.
    """

    name: str
    data: np.ndarray
    mask: np.ndarray
    truth: np.ndarray
    rank: tuple[int, ...]
    has_outliers: bool

    def relative_error(self, estimate: np.ndarray) -> float:
        """``||estimate - truth|| / ||truth||`` over the whole tensor, seen or not."""
        return float(np.linalg.norm(np.asarray(estimate) - self.truth) / np.linalg.norm(self.truth))


def planted_tucker(
    shape: tuple[int, ...], rank: tuple[int, ...], *, decay: float, dtype: type, rng: np.random.Generator
) -> np.ndarray:
    """Tensor of root mean square 1 and the given Tucker rank.

    Index ``i`` of every mode of the core is scaled by ``(i + 1) ** -decay``; 0: a well-conditioned core.
    """
    tensor = rng.standard_normal(rank)
    for axis, size in enumerate(rank):
        weights = np.arange(1.0, size + 1) ** -decay
        tensor *= weights.reshape([-1 if other == axis else 1 for other in range(len(rank))])
    tensor *= math.sqrt(math.prod(shape)) / np.linalg.norm(tensor)
    tensor = tensor.astype(dtype)
    for axis, (size, columns) in enumerate(zip(shape, rank, strict=True)):
        factor: np.ndarray = np.linalg.qr(rng.standard_normal((size, columns))).Q.astype(dtype)
        tensor = np.moveaxis(np.tensordot(tensor, factor, axes=(axis, 1)), -1, axis)
    return np.ascontiguousarray(tensor)


def planted_problem(
    name: str,
    shape: tuple[int, ...],
    rank: tuple[int, ...],
    *,
    seen: float,
    outlier_fraction: float = 0.0,
    outlier_size: tuple[float, float] = (0.0, 0.0),
    noise: float = 0.0,
    decay: float = 0.0,
    dtype: type = np.float64,
    seed: int = 0,
) -> Problem:
    """Planted tensor, sampled at random and corrupted.

    ``seen`` is the fraction of observed entries and ``outlier_fraction`` the fraction of those that are off
    by a random sign times a size drawn evenly from ``outlier_size``; sizes and ``noise`` are in standard
    deviations of the truth.
    """
    rng = np.random.default_rng(seed)
    truth = planted_tucker(shape, rank, decay=decay, dtype=dtype, rng=rng)
    mask = rng.random(shape, dtype=np.float32) < seen
    values = truth[mask]
    if noise:
        values += (noise * rng.standard_normal(values.size)).astype(dtype)
    if outlier_fraction:
        hit = rng.random(values.size) < outlier_fraction
        offsets = rng.uniform(*outlier_size, size=hit.sum()) * rng.choice([-1.0, 1.0], size=hit.sum())
        values[hit] += (offsets * truth.std()).astype(dtype)
    data = np.zeros_like(truth)
    data[mask] = values
    return Problem(name, data, mask, truth, rank, has_outliers=outlier_fraction > 0)


NAMES = ("a", "b", "b'", "c", "d")


def make_problem(name: str, *, seed: int = 0) -> Problem:
    """One of the problems of the table above."""
    cube, cube_rank = (100, 100, 100), (5, 5, 5)
    if name == "a":
        return planted_problem(name, cube, cube_rank, seen=0.3, seed=seed)
    if name == "b":
        return planted_problem(
            name, cube, cube_rank, seen=0.3, outlier_fraction=0.1, outlier_size=(10.0, 10.0), seed=seed
        )
    if name == "b'":
        return planted_problem(
            name, cube, cube_rank, seen=0.3, outlier_fraction=0.1, outlier_size=(1.0, 3.0), seed=seed
        )
    if name == "c":
        return planted_problem(name, (200, 200, 50), (10, 10, 5), seen=0.2, seed=seed)
    if name == "d":
        return planted_problem(name, (94, 512, 712), (30, 60, 60), seen=0.25, noise=0.1, dtype=np.float32, seed=seed)
    raise ValueError(f"unknown problem {name!r}, expected one of {', '.join(NAMES)}")


@lru_cache(maxsize=len(NAMES))
def sized_problem(name: str) -> Problem:
    """A problem of the table above, or its warm-up where ``SIZE`` asks for tiny ones."""
    problem = make_problem(name)
    return warm_up_problem(problem) if SMALL else problem


def warm_up_problem(problem: Problem, *, side: int = 16) -> Problem:
    """Small problem of the same dtype and number of modes: compiles and loads all before a clock runs."""
    modes = problem.data.ndim
    return planted_problem(
        "warm-up",
        (side,) * modes,
        (2,) * modes,
        seen=0.6,
        outlier_fraction=0.05 if problem.has_outliers else 0.0,
        outlier_size=(10.0, 10.0),
        dtype=problem.data.dtype.type,
    )
