"""Gaps of a stack of which too few voxels were measured to judge a model by: a smooth fill.

A global model of some two hundred voxels has as many unknowns as these allow, and may be far off where none was
measured. The smooth fill (:mod:`tensorcell.solvers.smooth_fill`) stays within the range of the measurement. How
strongly it smooths is told by the measured voxels, a fifth of which is left out at a time. These tell hardly anything
of rare structures, so that no error in gaps is taken to be smaller than the standard deviation of the measured
intensities.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorcell.methods.blend import Blend, Fill
from tensorcell.methods.trial import FEWEST, VOXELS, PatchTrial
from tensorcell.solvers import NoiseModel
from tensorcell.solvers.slabs import central_block

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]

FOLDS = 5
"""Each of so many parts of the measured voxels is left out once."""

USUAL = 0.3
"""Strength of smoothing where there are too few voxels even for this."""

SMOOTHING = (0.03, USUAL, 3.0)
"""Strengths of smoothing that are tried."""

TOO_FEW = (
    "too few voxels were measured to judge a model by voxels left out: gaps hold a smooth volume, whose uncertainty "
    "is at least the standard deviation of the measured intensities, {:.4g}"
)


def trial_of_few(values: Array, inlier: Bools, noise: NoiseModel, seed: int) -> PatchTrial:
    """The smooth fill with the smallest error at measured voxels that were left out, and its errors.

    Parameters
    ----------
    values : float array ``(K, Y, X)`` or ``(T, K, Y, X)``
        Measured intensities.
    inlier : bool array of the same shape
        True = measured and no outlier; at least one voxel.
    noise : NoiseModel
        The noise of the measured voxels.
    seed : int
        Seed of the parts.
    """
    measured = values[inlier].astype(np.float64)
    spread = float(np.std(measured))
    z, row, column = central_block(values.shape[-3:], VOXELS)
    y, known = np.ascontiguousarray(values[..., z, row, column]), inlier[..., z, row, column]
    if np.count_nonzero(known) < FEWEST:
        smoothing, errors, intensities = USUAL, np.mean(measured) - measured, np.full(measured.shape, np.mean(measured))
    else:
        found = {strength: left_out_errors(y, known, strength, seed) for strength in SMOOTHING}
        smoothing = min(found, key=lambda strength: float(np.mean(np.square(found[strength]))))
        errors = found[smoothing]
        intensities = errors + y[known]
    return PatchTrial(
        error=math.sqrt(float(np.mean(np.square(errors)))), levels=(), errors=errors, spreads=np.zeros(errors.shape),
        intensities=intensities, noise_variance=np.asarray(noise.variance(intensities), np.float64), least=spread,
        blend=Blend(Fill(smoothing=smoothing), first=1.0, reach=max(values.shape)), few=True,
    )  # fmt: skip


def left_out_errors(values: Array, known: Bools, smoothing: float, seed: int) -> Array:
    """Errors ``(n,)`` of the smooth fill at all measured voxels, each left out of the fill that it is compared with."""
    parts = np.random.default_rng([seed, 5]).integers(0, FOLDS, values.shape)
    predicted = np.zeros_like(values)
    for part in range(FOLDS):
        left_out = known & (parts == part)
        predicted[left_out] = Fill(smoothing=smoothing)(values, known & ~left_out, None)[left_out]
    return (predicted - values)[known].astype(np.float64)
