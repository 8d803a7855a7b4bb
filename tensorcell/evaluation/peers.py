"""Methods that ours are compared with: interpolation along z, the median, and denoisers of other packages.

Packages other than NumPy and SciPy are imported when a method runs.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorcell.evaluation.cases import Measurement
from tensorcell.evaluation.references import central
from tensorcell.finer_pixels import enlarged
from tensorcell.interpolation import interpolate_planes
from tensorcell.solvers.spread import robust_sigma

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]


def run_none(measurement: Measurement, seed: int) -> Array:
    """The measurement as it is."""
    return measurement.data


def run_along_z(measurement: Measurement, seed: int, *, form: str) -> Array:
    """Interpolate whole planes along z: "nearest", "linear", "cubic" (not-a-knot spline) or "pchip".

    Pixels larger than the wanted ones are interpolated within planes, too, linearly where the form is not "cubic" or
    "nearest". "linear" fills single voxels, too, between the nearest measured ones above and below; a column that was
    never measured gets the median of all measured voxels.
    """
    from scipy.interpolate import CubicSpline, PchipInterpolator

    if measurement.lateral_factor > 1:
        order = {"nearest": 0, "cubic": 3}.get(form, 1)
        finer = enlarged(measurement.data, measurement.lateral_factor, order)
        return run_along_z(replace(measurement, data=finer, lateral_factor=1), seed, form=form)
    if form == "linear":
        grid = measurement.grid
        filled = interpolate_planes(grid, ~np.isnan(grid))
        return np.where(np.isnan(filled), np.nanmedian(grid), filled)
    data, factor = measurement.data, measurement.axial_factor
    planes = np.arange((len(data) - 1) * factor + 1)
    if form == "nearest":
        return data[(planes + factor // 2) // factor]
    make = {"cubic": CubicSpline, "pchip": PchipInterpolator}[form]
    return np.asarray(make(factor * np.arange(len(data)), data.astype(np.float64), axis=0)(planes))


def run_median(measurement: Measurement, seed: int) -> Array:
    """The median of the measured voxels among each voxel's 3 x 3 x 3; where there are none, of those filled before."""
    grid = measurement.grid
    filled = np.full(grid.shape, np.nan, np.float32)
    source = grid
    while np.isnan(filled).any():
        found = _nan_median(source, np.isnan(filled))
        filled = np.where(np.isnan(filled), found, filled)
        source = np.where(np.isnan(grid), filled, grid)
    return filled


def _nan_median(stack: Array, wanted: Bools) -> Array:
    """Median of the finite voxels among 3 x 3 x 3, where it is wanted; NaN where there are none."""
    padded = np.pad(stack, 1, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3, 3))
    found = np.full(stack.shape, np.nan, np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a neighbourhood without a finite voxel
        for z in np.flatnonzero(wanted.any(axis=(1, 2))):
            found[z][wanted[z]] = np.nanmedian(windows[z][wanted[z]].reshape(-1, 27), axis=1)
    return found


# --- denoisers of complete stacks


SHORT = 16
"""Along shorter axes windows are taken at every voxel, along others at every second one."""

ROUNDING = 1e-12
"""Coefficients below this share of the largest intensity are zero."""


def wavelet_sigma(stack: Array) -> float:
    """The one standard deviation that the peers are told, from the finest diagonal wavelet coefficients.

    ``median|d| / .6745`` over the Daubechies-2 coefficients that are of high frequency along every axis, zeros left out
    (Donoho & Johnstone 1994, doi:10.1093/biomet/81.3.425). This is scikit-image's `estimate_sigma`, with which these
    denoisers are documented, but for the coefficients at the edges: there scikit-image mirrors the stack, and what is
    its own mirror image has less detail. Of 3 planes all coefficients are at an edge, and 70 % of the noise would be
    found. So only coefficients of whole windows count, and an axis shorter than a window is left as it is. The peers
    are not told the figure of
    :func:`tensorcell.solvers.estimate_noise`: where the noise grows with the intensity, that is the standard deviation
    at a typical intensity, and denoisers that know one for all voxels would smooth the dark ones too much.

    Parameters
    ----------
    stack : array ``(Z, Y, X)``
        Without NaN.

    Returns
    -------
    float
        In the unit of the data; 0 where all coefficients are zero to rounding. Structure of one voxel's size adds to
        it.

    Examples
    --------
    >>> round(wavelet_sigma(np.random.default_rng(0).normal(0, 2.0, (24, 96, 96))), 1)
    2.0
    """
    root = math.sqrt(3)
    high = np.array([root - 1, 3 - root, -(3 + root), 1 + root]) / (4 * math.sqrt(2))
    detail = np.asarray(stack, np.float64)
    largest = float(np.abs(detail).max())
    for axis in [axis for axis, size in enumerate(detail.shape) if size >= high.size]:
        step = 1 if detail.shape[axis] < SHORT else 2
        windows = np.lib.stride_tricks.sliding_window_view(detail, high.size, axis)
        detail = np.moveaxis(np.moveaxis(windows, axis, 0)[::step] @ high, 0, axis)
    values = np.abs(detail[np.abs(detail) > ROUNDING * largest])
    return robust_sigma(values) if values.size else 0.0


def _sigma(measurement: Measurement) -> float:
    return wavelet_sigma(measurement.data) if measurement.sigma is None else measurement.sigma


TRIAL = (24, 48, 48)
"""Planes, rows and columns of the central part on which the parameters of peers are chosen."""


def candidate_of_least_risk(
    denoise: Callable[[Array, float], Array], stack: Array, sigma: float, candidates: Sequence[float], seed: int
) -> float:
    """The candidate for a denoiser's parameter with the smallest estimated mean squared error, from noisy data alone.

    Stein's estimate ``mean((f(y) - y)^2) - sigma^2 + 2 sigma^2 div f(y) / N``, with the divergence along one random
    direction b of signs: ``b . (f(y + eps b) - f(y)) / eps``, eps = sigma / 10.

    References
    ----------
    Ramani, Blu & Unser 2008, doi:10.1109/TIP.2008.2001404.
    """
    y = np.asarray(stack[central(stack.shape, TRIAL)], np.float64)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], y.shape)
    step = sigma / 10

    def risk(parameter: float) -> float:
        clean, moved = denoise(y, parameter), denoise(y + step * signs, parameter)
        divergence = float(np.mean(signs * (moved - clean))) / step
        return float(np.mean((clean - y) ** 2)) + 2 * sigma**2 * divergence

    return min(candidates, key=risk)


def run_tv(measurement: Measurement, seed: int) -> Array:
    """Total variation (Chambolle) of scikit-image, with the one of six weights that has the least estimated error."""
    import skimage.restoration

    chambolle: Any = skimage.restoration.denoise_tv_chambolle
    sigma = _sigma(measurement)
    if sigma == 0:
        return measurement.data

    def denoise(y: Array, weight: float) -> Array:
        return np.asarray(chambolle(y, weight))

    weights = [factor * sigma for factor in (0.25, 0.35, 0.5, 0.7, 1.0, 1.4)]
    return denoise(measurement.data, candidate_of_least_risk(denoise, measurement.data, sigma, weights, seed))


def run_nlm(measurement: Measurement, seed: int) -> Array:
    """Non-local means of scikit-image, 3-D patches, with the one of five strengths of least estimated error."""
    from skimage.restoration import denoise_nl_means

    sigma = _sigma(measurement)
    if sigma == 0:
        return measurement.data

    def denoise(y: Array, strength: float) -> Array:
        return np.asarray(denoise_nl_means(y, patch_size=3, patch_distance=4, h=strength, sigma=sigma, fast_mode=True))

    strengths = [factor * sigma for factor in (0.3, 0.45, 0.6, 0.8, 1.1)]
    return denoise(measurement.data, candidate_of_least_risk(denoise, measurement.data, sigma, strengths, seed))


def run_wavelet(measurement: Measurement, seed: int) -> Array:
    """Wavelet shrinkage of scikit-image: BayesShrink, Daubechies 2, averaged over the 2 x 2 x 2 shifts of one voxel."""
    from skimage.restoration import denoise_wavelet

    sigma, data = _sigma(measurement), measurement.data
    if sigma == 0:
        return data
    total = np.zeros(data.shape)
    for shift in np.ndindex(2, 2, 2):
        moved = np.roll(data, shift, (0, 1, 2))
        clean = denoise_wavelet(moved, sigma, "db2", "soft", method="BayesShrink", rescale_sigma=False)
        total += np.roll(clean, [-step for step in shift], (0, 1, 2))
    return total / 8


def run_bm4d(measurement: Measurement, seed: int) -> Array:
    """BM4D of the package ``bm4d`` with its defaults; its licence is non-commercial, so it only serves to compare."""
    from bm4d import bm4d

    sigma = _sigma(measurement)
    return measurement.data if sigma == 0 else np.asarray(bm4d(measurement.data, sigma))


def run_two(measurement: Measurement, seed: int, *, first: Any, second: Any) -> Array:
    """Denoise the given planes, then interpolate between them."""
    clean = np.asarray(first(replace(measurement, axial_factor=1), seed), np.float32)
    return np.asarray(second(replace(measurement, data=clean), seed))
