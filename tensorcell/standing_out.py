"""Where a denoised stack contradicts the measurement by more than noise explains, the measurement is returned.

A denoiser removes what is rare, and the rarest is often the signal: spots, vesicles, thin filaments. The residual of a
right estimate is noise. What stands out of that noise, and is no defect, is something that the model cannot draw.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorcell.device import on_device
from tensorcell.methods.protocol import Estimate, Problem
from tensorcell.solvers import NoiseModel
from tensorcell.solvers.arrays import count, from_host, namespace_of, ndimage, to_host, within_mask
from tensorcell.solvers.defects import MANY, Kind
from tensorcell.solvers.single_voxels import evened

Array = npt.NDArray[Any]

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
    """The estimate with measured values where they stand out of it; their error is that of the noise.

    The voxels are compared on the device of the fit; the few that stand out are replaced on the host.
    """
    noise, measured = problem.model.noise, problem.stack.values
    if problem.keep or not noise.sigma > 0:
        return estimate
    device = problem.fitting.device
    inlier = on_device(problem.model.inlier, device)
    off = within_mask(standard_residual(on_device(measured, device), on_device(estimate.value, device), noise), inlier)
    threshold = threshold_of(off, count(inlier))
    impulses = problem.model.outliers.count(Kind.BRIGHT) >= MANY
    seeds = [without_single(off, off > threshold) if impulses else off > threshold]
    seeds.append(without_single(-off, -off > threshold))
    seeds[0] |= shown(problem, off)
    chosen = to_host(namespace_of(off).flatnonzero(grown(off, seeds[0]) | grown(-off, seeds[1])))
    if not len(chosen):
        return estimate
    value, error = np.array(estimate.value, order="C"), np.array(estimate.error, order="C")
    returned = measured.ravel()[chosen]
    value.ravel()[chosen] = returned
    error.ravel()[chosen] = np.sqrt(noise.variance(returned))
    note = (
        f"{count(seeds[0] | seeds[1])} measured voxels stand out of the estimate by more than noise explains "
        f"and are no defects; with their neighbours, {len(chosen)} voxels are returned as measured"
    )
    return estimate._replace(value=value, error=error, notes=(*estimate.notes, note))


def shown(problem: Problem, off: Any) -> Any:
    """Voxels that the measurement itself shows as bright, and that the estimate draws too dark."""
    found = namespace_of(off).zeros(off.shape, dtype=bool)
    places = from_host(problem.model.outliers.shown, off)
    found.ravel()[places] = off.ravel()[places] > SURROUND
    return found


def standard_residual(measured: Any, value: Any, noise: NoiseModel) -> Any:
    """``Y - X`` in standard deviations of the noise; shot noise is stabilised first, since it is skewed."""
    xp, level = namespace_of(measured, value), 1.0 if noise.gain else noise.sigma
    return xp.astype((evened(measured, noise) - evened(value, noise)) / level, xp.float32, copy=False)


def threshold_of(off: Any, number: int) -> float:
    """The smallest threshold above which at most a tenth of the voxels is expected to be noise; infinite if none is.

    References
    ----------
    Y. Benjamini, Y. Hochberg, Controlling the false discovery rate, doi:10.1111/j.2517-6161.1995.tb02031.x.
    """
    far = np.sort(np.abs(to_host(off[abs(off) > float(LEVELS[0])])))
    for level in LEVELS:
        found = len(far) - int(np.searchsorted(far, level, side="right"))
        if number * math.erfc(level / math.sqrt(2)) <= FALSE * found:
            return float(level)
    return math.inf


def without_single(off: Any, seeds: Any) -> Any:
    """Seeds that have a neighbour far off on the same side.

    Single dark voxels are no signal, and neither are bright ones in a stack that holds many impulses: those that were
    not found, since they differ too little from their surroundings, stand out here.
    """
    xp = namespace_of(off)
    far, around = xp.astype(off > BESIDE, xp.uint8), xp.ones((3, 3, 3), dtype=xp.uint8)
    return seeds & (ndimage("convolve", far, around, mode="constant") > 1)


def grown(off: Any, seeds: Any) -> Any:
    """Seeds, and neighbours of them that differ on the same side."""
    around = namespace_of(off).ones((3, 3, 3), dtype=bool)
    return seeds | (ndimage("binary_dilation", seeds, around) & (off > SURROUND))
