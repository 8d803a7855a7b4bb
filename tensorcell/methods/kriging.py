"""Planes between measured ones by kriging along z, for every method that has no better way of its own."""

from __future__ import annotations

import math

from tensorcell.device import on_device
from tensorcell.methods.protocol import Filled, Gaps
from tensorcell.solvers import NoiseModel, fill_planes
from tensorcell.solvers.arrays import to_host

BEYOND = (
    "uncertainty beyond the measured planes: how much measured planes at that distance differ; where none are as far "
    "apart, it grows to the spread of the data, and nothing tells whether that is enough"
)

TWO_PLANES = (
    "uncertainty between two measured planes: no plane could be left out, so that it rests on their difference alone"
)


def between_by_kriging(gaps: Gaps) -> Filled:
    """Predict the missing planes from the measured ones, with the weight that left-out measured planes justify."""
    return filled_by_kriging(gaps, gaps.problem.noise_passed_on)


def filled_by_kriging(gaps: Gaps, noise: NoiseModel) -> Filled:
    """The same for measured planes whose measured voxels have this noise; computed on the device, if there is one."""
    measured = float(gaps.problem.model.inlier.mean())
    noise = noise.reduced(math.sqrt(measured), "Estimated voxels hold no noise.")
    measured_planes = on_device(gaps.estimate.value, gaps.problem.fitting.device)
    filled = fill_planes(measured_planes, gaps.grid, gaps.planes, noise=noise)
    notes = [f"between planes: {filled.sentence}"]
    if gaps.grid[0] > 0 or gaps.grid[-1] < gaps.planes - 1:
        notes.append(BEYOND)
    if len(gaps.grid) == 2:
        notes.append(TWO_PLANES)
    return Filled(to_host(filled.volume), to_host(filled.error), tuple(notes))
