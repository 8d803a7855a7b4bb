"""Local means over windows, and the terms of structural similarity (SSIM) that are made of them.

With local means ``m``, variances ``s^2`` and covariance ``s_ab`` of two arrays a, b, and the data range R,

    luminance               ``l  = (2 m_a m_b + (K1 R)^2) / (m_a^2 + m_b^2 + (K1 R)^2)``
    contrast and structure  ``cs = (2 s_ab + (K2 R)^2) / (s_a^2 + s_b^2 + (K2 R)^2)``

(Wang et al. 2004, doi:10.1109/TIP.2003.819861, Eq. 6, 9, 10 and 13, with ``C3 = C2 / 2``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Array = NDArray[np.float64]

K1, K2 = 0.01, 0.03
GAUSSIAN_SIDE = 11
"""Side of the Gaussian window of `gaussian_mean` in pixels; its standard deviation is 1.5 pixels."""


def gaussian_mean(image: Array) -> Array:
    """Means under Gaussian windows of 11 x 11 pixels that lie inside the image."""
    half = GAUSSIAN_SIDE // 2
    return np.asarray(gaussian_filter(image, 1.5, radius=half)[half:-half, half:-half])


class Similarity(NamedTuple):
    """The two factors of structural similarity in every window."""

    luminance: Array
    contrast_structure: Array


def similarity(
    a: Array, b: Array, mean: Callable[[Array], Array], data_range: float, sample: float = 1.0
) -> Similarity:
    """The factors of SSIM in every window.

    Parameters
    ----------
    a, b
        Arrays of one shape.
    mean
        Local means of an array over the windows.
    data_range
        Width of the intensity range.
    sample
        Factor of the (co)variances: ``n / (n - 1)`` makes sample moments of n voxels of population moments.
    """
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    mean_a, mean_b = mean(a), mean(b)
    variances = sample * (mean(a * a) - mean_a**2 + mean(b * b) - mean_b**2)
    covariance = sample * (mean(a * b) - mean_a * mean_b)
    return Similarity(
        luminance=(2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1),
        contrast_structure=(2 * covariance + c2) / (variances + c2),
    )
