"""Steerable pyramid: oriented bands of an image at two scales (Simoncelli & Freeman 1995), in the Fourier domain."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

BANDS, LEVELS = 6, 2
"""Orientations, and scales an octave apart."""


class Pyramid(NamedTuple):
    """An image taken apart into bands."""

    high: Array
    """What lies above the finest band."""
    levels: list[list[Array]]
    """Bands by level (the finest first) and orientation; each level has half the sides of the one before."""


def steerable_pyramid(image: Array) -> Pyramid:
    """High-pass residual and 6 oriented bands on 2 levels; the low-pass residual is not computed."""
    y, x = np.meshgrid(*[(np.arange(n) - n // 2) / (n / 2) for n in image.shape], indexing="ij")
    direction = np.arctan2(y, x)
    radius = np.hypot(y, x)
    # The logarithm needs a radius above 0 at the centre; every filter is the same there as at any low frequency.
    radius[image.shape[0] // 2, image.shape[1] // 2] = 2 / image.shape[1]
    log_radius = np.log2(radius)
    spectrum = np.fft.fftshift(np.fft.fft2(image))
    high = _inverse(spectrum * _high_pass(log_radius))
    spectrum = spectrum * _low_pass(log_radius)

    order = BANDS - 1
    gain = math.sqrt(2 ** (2 * order) * math.factorial(order) ** 2 / (BANDS * math.factorial(2 * order)))
    levels = []
    for level in range(1, LEVELS + 1):
        band = (-1j) ** order * spectrum * _high_pass(log_radius + level)
        levels.append([_inverse(band * gain * np.cos(direction - np.pi * k / BANDS) ** order) for k in range(BANDS)])
        inner = tuple(_lower_half(n) for n in spectrum.shape)
        spectrum = (spectrum * _low_pass(log_radius + level))[inner]
        log_radius, direction = log_radius[inner], direction[inner]
    return Pyramid(high, levels)


def _high_pass(log_radius: Array) -> Array:
    """Raised cosine in the logarithm of the frequency: 0 up to an octave below ``log_radius = 0``, 1 from there on."""
    return np.asarray(np.cos(np.pi / 2 * np.clip(log_radius, -1, 0)))


def _low_pass(log_radius: Array) -> Array:
    """The complement of `_high_pass`: the squares of the two add up to 1."""
    return np.asarray(np.abs(np.sin(np.pi / 2 * np.clip(log_radius, -1, 0))))


def _inverse(spectrum: NDArray[np.complex128]) -> Array:
    return np.asarray(np.fft.ifft2(np.fft.ifftshift(spectrum)).real)


def _lower_half(length: int) -> slice:
    """The central half of a shifted axis of the spectrum, which holds the lower frequencies."""
    half = (length + 1) // 2
    start = length // 2 - half // 2
    return slice(start, start + half)
