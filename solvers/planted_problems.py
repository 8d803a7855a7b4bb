"""Planted tensors of low multilinear rank, of which only some entries are observed: what a solver is tried on.

A problem is drawn from a seed, the shape, the rank, the number of samples and the number of the trial alone, so that a
trial is the same in every process and in every order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from .completion import complete_tucker
from .tensors import tucker_to_dense

Pattern = Literal["uniform", "planes", "lines"]
Rank = tuple[int, ...]
Shape = tuple[int, ...]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Method = Callable[..., Any]

OUTLIERS_FROM, OUTLIERS_TO = 1.0, 3.0
"""Least and largest size of an outlier, in root mean squares of the tensor."""


class Job(NamedTuple):
    """All that a cell's trials depend on."""

    method: Method
    shape: Shape
    pattern: Pattern
    trials: int
    success: float
    noise: float
    outliers: float
    seed: int


def checked_shape(shape: Sequence[int]) -> Shape:
    """The shape as at least two whole positive numbers."""
    sizes = tuple(shape)
    if len(sizes) < 2 or any(isinstance(size, bool) or size != int(size) or size < 1 for size in sizes):
        raise ValueError(f"expected a shape of at least two whole positive sizes, got {sizes}")
    return tuple(map(int, sizes))


def checked_job(
    method: Method | None,
    shape: Shape,
    pattern: Pattern,
    trials: int,
    success: float,
    noise: float,
    outliers: float,
    seed: int,
) -> Job:
    """The settings of a job, after a check of each."""
    if pattern not in get_args(Pattern):
        raise ValueError(f"expected pattern {', '.join(map(repr, get_args(Pattern)))}, got {pattern!r}")
    if method is not None and not callable(method):
        raise TypeError(f"expected method as a function of data, mask and rank, got {method!r}")
    for name, number, least in (("trials", trials, 1), ("seed", seed, 0)):
        if isinstance(number, bool) or not isinstance(number, (int, np.integer)) or number < least:
            raise ValueError(f"expected {name} as a whole number of at least {least}, got {number!r}")
    if not (success > 0 and math.isfinite(success)):
        raise ValueError(f"expected success as a relative error above 0, got {success}")
    if not (noise >= 0 and math.isfinite(noise)):
        raise ValueError(f"expected noise as a standard deviation of at least 0, got {noise}")
    if not 0 <= outliers < 1:
        raise ValueError(f"expected outliers as a share from 0 to below 1, got {outliers}")
    chosen = complete_tucker if method is None else method
    return Job(chosen, shape, pattern, int(trials), float(success), float(noise), float(outliers), int(seed))


def whole_samples(shape: Shape, pattern: Pattern, ratio: float) -> int:
    """Number of observed entries nearest to the ratio, in whole entries, planes or lines, at least one of them."""
    unit = unit_size(shape, pattern)
    units = math.prod(shape) // unit
    return unit * min(units, max(1, round(ratio * units)))


def unit_size(shape: Shape, pattern: str) -> int:
    """Number of entries that a pattern observes together."""
    return {"uniform": 1, "planes": math.prod(shape[1:]), "lines": shape[-1]}[pattern]


def planted(job: Job, rank: Rank, samples: int, trial: int) -> tuple[Floats, Floats, Bools]:
    """Truth, data and mask of one trial; data are zero where the mask is False."""
    place = get_args(Pattern).index(job.pattern)
    rng = np.random.default_rng([job.seed, place, *job.shape, *rank, samples, trial])
    factors = [np.linalg.qr(rng.standard_normal((size, r)))[0] for size, r in zip(job.shape, rank, strict=True)]
    truth: Floats = tucker_to_dense(rng.standard_normal(rank), factors)
    truth = truth * (math.sqrt(truth.size) / float(np.linalg.norm(truth)))
    mask = observed_entries(job.shape, job.pattern, samples, rng)
    data = np.where(mask, truth, 0.0)
    if job.noise > 0:
        data = data + job.noise * rng.standard_normal(job.shape) * mask
    if job.outliers > 0:
        places = rng.permutation(np.flatnonzero(mask))[: round(job.outliers * samples)]
        signs = rng.choice([-1.0, 1.0], places.size)
        data.flat[places] += signs * rng.uniform(OUTLIERS_FROM, OUTLIERS_TO, places.size)
    return truth, data, mask


def observed_entries(shape: Shape, pattern: Pattern, samples: int, rng: np.random.Generator) -> Bools:
    """A mask (True = observed) with exactly that many observed entries, in whole units of the pattern."""
    unit = unit_size(shape, pattern)
    units = math.prod(shape) // unit
    chosen = rng.permutation(units) < samples // unit
    return np.repeat(chosen, unit).reshape(shape)
