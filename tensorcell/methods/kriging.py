"""Planes between measured ones by kriging along z, for every method that has no better way of its own."""

from __future__ import annotations

import math

import numpy as np

from tensorcell.methods.protocol import Filled, Gaps
from tensorcell.solvers import fill_planes


def between_by_kriging(gaps: Gaps) -> Filled:
    """Predict the missing planes from the measured ones, with the weight that left-out measured planes justify."""
    measured = float(gaps.problem.model.inlier.mean())
    noise = gaps.problem.noise_passed_on.reduced(math.sqrt(measured), "Estimated voxels hold no noise.")
    filled = fill_planes(gaps.estimate.value, gaps.grid, gaps.planes, noise=noise, denoise=False)
    return Filled(np.asarray(filled.volume), np.asarray(filled.error), (f"between planes: {filled.sentence}",))
