"""Where a denoised stack contradicts the measurement by more than noise explains, the measurement is returned.

A denoiser removes what is rare, and the rarest is often the signal: spots, vesicles, thin filaments. The residual of a
right estimate is noise. What stands out of that noise, and is no defect, is something that the model cannot draw.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorcell.methods.protocol import Estimate, Problem
from tensorcell.solvers import NoiseModel
from tensorcell.solvers.defects import MANY, Kind
from tensorcell.solvers.single_voxels import evened

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]

FALSE = 0.1
"""Largest expected share of noise among the voxels that stand out."""

LEVELS = np.arange(3.5, 7.0, 0.05)
"""Thresholds that are tried, in standard deviations of the noise."""

BESIDE = 3.0
"""Standard deviations by which a neighbour differs from the estimate if a voxel that stands out is not a single one."""

SURROUND = 2.0
"""A neighbour of such a voxel is returned as measured, too, if it differs on the same side by so many standard
deviations."""


def with_measured(problem: Problem, estimate: Estimate) -> Estimate:
    """The estimate with measured values where they stand out of it; their error is that of the noise."""
    noise, measured = problem.model.noise, problem.stack.values
    if problem.keep or not noise.sigma > 0:
        return estimate
    off = standard_residual(measured, estimate.value, noise)
    off[~problem.model.inlier] = 0
    threshold = threshold_of(off, int(np.count_nonzero(problem.model.inlier)))
    impulses = problem.model.outliers.count(Kind.BRIGHT) >= MANY
    seeds = [without_single(off, off > threshold) if impulses else off > threshold]
    seeds.append(without_single(-off, -off > threshold))
    seeds[0] |= shown(problem, off)
    chosen = grown(off, seeds[0]) | grown(-off, seeds[1])
    if not chosen.any():
        return estimate
    value, error = np.array(estimate.value), np.array(estimate.error)
    value[chosen] = measured[chosen]
    error[chosen] = np.sqrt(noise.variance(measured[chosen]))
    count = np.count_nonzero(seeds[0] | seeds[1])
    note = (
        f"{count} measured voxels stand out of the estimate by more than noise explains "
        f"and are no defects; with their neighbours, {np.count_nonzero(chosen)} voxels are returned as measured"
    )
    return estimate._replace(value=value, error=error, notes=(*estimate.notes, note))


def shown(problem: Problem, off: Array) -> Bools:
    """Voxels that the measurement itself shows as bright, and that the estimate draws too dark."""
    found = np.zeros(off.shape, bool)
    places = problem.model.outliers.shown
    found.ravel()[places] = off.ravel()[places] > SURROUND
    return found


def standard_residual(measured: Array, value: Array, noise: NoiseModel) -> Array:
    """``Y - X`` in standard deviations of the noise; shot noise is stabilised first, since it is skewed."""
    level = 1.0 if noise.gain else noise.sigma
    return np.asarray((evened(measured, noise) - evened(value, noise)) / level, np.float32)


def threshold_of(off: Array, count: int) -> float:
    """The smallest threshold above which at most a tenth of the voxels is expected to be noise; infinite if none is.

    References
    ----------
    Y. Benjamini, Y. Hochberg, Controlling the false discovery rate, doi:10.1111/j.2517-6161.1995.tb02031.x.
    """
    far = np.sort(np.abs(off[np.abs(off) > LEVELS[0]]))
    for level in LEVELS:
        found = len(far) - int(np.searchsorted(far, level, side="right"))
        if count * math.erfc(level / math.sqrt(2)) <= FALSE * found:
            return float(level)
    return math.inf


def without_single(off: Array, seeds: Bools) -> Bools:
    """Seeds that have a neighbour far off on the same side.

    Single dark voxels are no signal, and neither are bright ones in a stack that holds many impulses: those that were
    not found, since they differ too little from their surroundings, stand out here.
    """
    from scipy.ndimage import convolve

    beside = convolve((off > BESIDE).astype(np.uint8), np.ones((3, 3, 3), np.uint8), mode="constant")
    return np.asarray(seeds & (beside > 1))


def grown(off: Array, seeds: Bools) -> Bools:
    """Seeds, and neighbours of them that differ on the same side."""
    from scipy.ndimage import binary_dilation

    return np.asarray(seeds | (binary_dilation(seeds, np.ones((3, 3, 3), bool)) & (off > SURROUND)))
