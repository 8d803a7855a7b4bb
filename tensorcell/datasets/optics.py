"""The point spread function (PSF) of the microscope: a Gaussian along each axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorcell.datasets.checks import check_number, entries
from tensorcell.errors import InputError

Floats = npt.NDArray[np.floating[Any]]

WAVELENGTH, APERTURE, INDEX = 0.52, 1.0, 1.33
"""A confocal microscope with a water dipping objective: emission in micrometres, aperture (NA), refractive index."""

CONFOCAL_PSF = (
    0.88 * WAVELENGTH / (INDEX - math.sqrt(INDEX**2 - APERTURE**2)),
    0.51 * WAVELENGTH / APERTURE,
)
"""Its full widths at half maximum in micrometres, axial and lateral."""

FWHM_PER_SIGMA = math.sqrt(8 * math.log(2))
"""Full width at half maximum of a Gaussian over its standard deviation."""

WIDEST_PSF = 1000
"""Voxels. A wider kernel would take long, and is more likely a length in another unit."""


def checked_psf(psf: bool | Sequence[float], spacing: tuple[float, float, float]) -> tuple[float, float, float]:
    """Full widths at half maximum along z, y and x in micrometres; 0 stands for no blur."""
    if isinstance(psf, bool | np.bool_):
        psf = CONFOCAL_PSF if psf else (0.0, 0.0)
    widths = entries("psf", psf, 2, "axial and lateral width in micrometres")
    for width in widths:
        check_number("a width in psf", width, lowest=0)
    axial, lateral = (float(width) for width in widths)
    fwhm = (axial, lateral, lateral)
    widest = max(width / size for width, size in zip(fwhm, spacing, strict=True))
    if widest > WIDEST_PSF:
        raise InputError(f"psf is {widest:g} voxels wide, expected at most {WIDEST_PSF}")
    return fwhm


def blur(specimen: npt.NDArray[np.float32], spacing: Sequence[float], fwhm: Sequence[float]) -> npt.NDArray[np.float32]:
    """Apply a Gaussian PSF to a specimen.

    The specimen was rendered with a blur of half a voxel (standard deviation) on each axis. The variance of that blur
    is part of the variance of the PSF, so only the rest is applied here.
    """
    from scipy.ndimage import convolve1d  # slow to import

    image = specimen
    for axis in range(3):
        variance = (fwhm[axis] / FWHM_PER_SIGMA / spacing[axis]) ** 2 - 0.25
        if variance > 0:
            image = convolve1d(image, gaussian_kernel(variance), axis=axis, mode="nearest")
    return image


def gaussian_kernel(variance: float) -> Floats:
    """Samples of a Gaussian whose sum is 1 and whose variance (in voxels) is exactly this, however narrow it is.

    A narrow Gaussian that is sampled at whole voxels has another variance than the continuous one. The width of the
    continuous Gaussian is chosen such that the samples have the variance that was asked for.
    """
    from scipy.optimize import brentq  # slow to import

    half = math.ceil(6 * math.sqrt(variance + 1))
    squares = np.square(np.arange(-half, half + 1.0))

    def kernel(width: float) -> Floats:
        samples: Floats = np.exp(-squares / (2 * width))
        samples /= samples.sum()
        return samples

    width: float = brentq(lambda width: kernel(width) @ squares - variance, 1e-3, 1.01 * variance + 1)
    return kernel(width)
