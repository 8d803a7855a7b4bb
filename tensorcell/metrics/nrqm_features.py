"""The features of NRQM: 18 of local DCT blocks, 45 of a steerable pyramid, and 75 singular values of patches."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.fft import dctn
from scipy.ndimage import gaussian_filter

from .image_pyramid import BANDS, LEVELS, steerable_pyramid
from .natural_statistics import gaussian_shape, whole_blocks
from .resampling import resized
from .windows import gaussian_mean, similarity

Array = NDArray[np.float64]

SMALLEST = 84
"""Below this side the coarsest of three scales has fewer than 25 patches of 5 x 5, so fewer singular values."""

GUARD = 16
"""Pixels at each border of a band of the finer level that are left out after the normalisation."""


def image_features(image: Array) -> tuple[Array, Array, Array]:
    """18, 45 and 75 features of an image of whole numbers from 0 to 255."""
    scales = [image / 255]
    for _ in range(2):
        scales.append(gaussian_filter(scales[-1], 0.5, mode="constant", radius=1)[1::2, 1::2])
    local = np.concatenate([dct_features(scale) for scale in scales])
    singular = np.concatenate([patch_singular_values(scale) for scale in scales])
    return local, pyramid_features(image), singular


# ------------------------------------------------------------------------------------------- blocks and patches


def dct_features(image: Array) -> Array:
    """Pooled statistics of the DCT of 7 x 7 blocks around every 3 x 3 pixels (zeros outside)."""
    padded = np.pad(image, [(2, 2 + -side % 3) for side in image.shape])
    blocks = sliding_window_view(padded, (7, 7))[::3, ::3].reshape(-1, 7, 7)
    spectra = dctn(blocks, axes=(1, 2), norm="ortho")
    waves = spectra.reshape(-1, 49)[:, 1:]
    shape = np.sort(gaussian_shape(waves))
    variation = np.sort(_variation(waves, 1e-7))
    oriented = [_variation(spectra[:, part], 1e-8) for part in _orientations()]
    anisotropy = np.sort(np.var(oriented, axis=0, ddof=1))
    count = len(blocks)
    low, high = math.ceil(0.1 * count), math.floor(0.9 * count) - 1
    return np.array(
        [
            shape[:low].mean(),
            shape.mean(),
            variation[high:].mean(),
            variation.mean(),
            anisotropy[high:].mean(),
            anisotropy.mean(),
        ]
    )


def _orientations() -> tuple[NDArray[np.bool_], ...]:
    """Masks of the mostly horizontal, diagonal and mostly vertical waves of a 7 x 7 DCT."""
    row, column = np.indices((7, 7))
    first = np.array([1, 2, 4, 5, 7, 7, 7])
    horizontal = column >= first[row]
    vertical = (row >= first[column]).astype(bool)
    diagonal = ~horizontal & ~vertical & (row + column > 0)
    return horizontal, diagonal, vertical


def _variation(values: Array, smallest: float) -> Array:
    """Standard deviation over mean of the absolute values; ``smallest`` keeps the divisor above 0."""
    size = np.abs(values)
    return np.asarray(size.std(axis=-1, ddof=1) / (size.mean(axis=-1) + smallest))


def patch_singular_values(image: Array) -> Array:
    """Singular values of the matrix of all 5 x 5 patches side by side (zeros outside), largest first."""
    padded = np.pad(image, [(0, -side % 5) for side in image.shape])
    return np.asarray(np.linalg.svd(whole_blocks(padded, 5).reshape(-1, 25), compute_uv=False))


# ------------------------------------------------------------------------------------------------ pyramid bands


def pyramid_features(image: Array) -> Array:
    """45 features: shapes of the normalised bands, and how alike bands are across scales and orientations."""
    high, levels = steerable_pyramid(image)
    fine, coarse = ([normalized_band(levels, level, k) for k in range(BANDS)] for level in range(LEVELS))
    features: list[Any] = [gaussian_shape(band.ravel())[0] for band in [*fine, *coarse]]
    features += [gaussian_shape(np.concatenate([a.ravel(), b.ravel()]))[0] for a, b in zip(fine, coarse, strict=True)]
    features += [structure(resized(band, high.shape), high) for level in levels for band in level]
    features += [structure(fine[a], fine[b]) for a in range(BANDS) for b in range(a + 1, BANDS)]
    return np.array(features)


def normalized_band(levels: list[list[Array]], level: int, k: int) -> Array:
    """A band divided by the local size of its neighbours in space, scale and orientation."""
    band = levels[level][k]
    rows, columns = band.shape
    inside = np.s_[1 : rows - 1, 1 : columns - 1]
    neighbours = [np.roll(band, (dy, dx), axis=(0, 1))[inside] for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    if level == 0 and k < BANDS - 1:
        parent = levels[1][k]
        neighbours.append(resized(parent, (2 * parent.shape[0], 2 * parent.shape[1]))[:rows, :columns][inside])
    size = len(neighbours)  # as in the authors' program, the other bands do not count in the divisor
    neighbours += [other[inside] for j, other in enumerate(levels[level]) if j != k]
    matrix = np.stack([values.ravel() for values in neighbours], axis=1)
    covariance = matrix.T @ matrix / len(matrix)
    local = np.sqrt(np.maximum(0, ((matrix @ np.linalg.pinv(covariance)) * matrix).sum(axis=1) / size))
    centred = (band[inside] - band[inside].mean()).ravel()
    result = np.divide(centred, local, out=np.zeros_like(centred), where=local > 0).reshape(rows - 2, columns - 2)
    guard = GUARD // 2**level
    result = result[guard:-guard, guard:-guard]
    return np.asarray(result - result.mean())


def structure(a: Array, b: Array) -> float:
    """Mean contrast and structure term of SSIM (window of 11 x 11 with sigma 1.5, range 255)."""
    return float(similarity(a, b, gaussian_mean, data_range=255).contrast_structure.mean())
