"""The noise of a pilot in a plan: its variance at each voxel, how sure that is, and what a lower exposure adds.

The noise itself is that of `tensorcell.model`, so that a plan, a recovery and a diagnosis of one stack rest on the same
figures.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tensorcell.model import noise_of_stack
from tensorcell.solvers import NoiseModel
from tensorcell.solvers.residual_kriging import neighbour_mean
from tensorcell.solvers.units import AS_GIVEN, Unit

Floats = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]

LEAST_MARGIN, MOST_MARGIN = 0.05, 0.25
"""Relative error that an estimated variance of noise may have; the larger one where the estimate itself is unsure."""
FEW_PATCHES = 40
"""From fewer patches than this an estimate of the noise is rough."""


class PilotNoise(NamedTuple):
    """What a plan knows of the noise of its pilot."""

    model: NoiseModel
    margin: tuple[float, float]
    """Factors by which the true variance may be smaller and larger."""
    words: str
    """Its standard deviation and where that comes from."""
    note: str
    """A sentence for the notes of the plan."""


def noise_of(y: Floats, mask: Bools, given: float | None, unit: Unit = AS_GIVEN) -> PilotNoise:
    """The noise given, which is taken as exact, or the one estimated; the words are in the caller's unit.

    The variance of an estimated one may be off by a quarter where the estimate could not tell noise that neighbours
    share from structure or rests on few patches, and else by a twentieth.
    """
    if given is not None:
        words = f"standard deviation {unit.width(given):.3g}, as given"
        return PilotNoise(NoiseModel.white(given, unit), (1.0, 1.0), words, f"Noise: {words}.")
    noise = noise_of_stack(y, mask, unit=unit)
    unsure = noise.correlated is None or noise.patches < FEW_PATCHES
    margin = MOST_MARGIN if unsure else LEAST_MARGIN
    told = noise.in_unit(unit)
    words = f"standard deviation {told.sigma:.3g} at intensity {told.intensity:.3g}, as estimated"
    return PilotNoise(noise, (1 - margin, 1 + margin), words, noise.sentence)


def local_intensity(y: Floats, mask: Bools) -> Floats:
    """The intensity at which the variance of a voxel's noise is taken: a Gaussian mean within its plane."""
    mean: Floats = neighbour_mean(y, mask, 0.0, 1.0, leave_out=False)
    return mean


def exposure_variance(noise: NoiseModel, intensity: Floats, exposure: float) -> Floats:
    """Variance that an exposure cut to a share f adds once the image is scaled back to the pilot's unit.

    Parameters
    ----------
    noise : NoiseModel
        That of the pilot.
    intensity : float array of any shape
        Noise-free intensities in the pilot's unit.
    exposure : float
        The share f, above 0 and at most 1.

    Returns
    -------
    float array of the same shape

    Notes
    -----
    The part that grows with the intensity is shot noise. An image of f times the photons, divided by f, has 1/f times
    its variance. The rest is read noise: a count of f x with the same read noise, divided by f, has 1/f^2 times its
    variance. A negative offset is the pedestal of the camera: then all of the noise is shot noise.

    Examples
    --------
    >>> exposure_variance(NoiseModel(gain=2.0, offset=3.0, sigma=4.0), np.array([0.0, 10.0]), 0.5)
    array([ 9., 29.])
    """
    shot: Any = np.maximum(noise.gain * intensity + min(noise.offset, 0.0), 0)
    return np.asarray(shot * (1 / exposure - 1) + max(noise.offset, 0.0) * (1 / exposure**2 - 1))
