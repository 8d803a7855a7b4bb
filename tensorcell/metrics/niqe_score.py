"""NIQE: the distance of the statistics of a plane from those of pristine photographs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from tensorcell.errors import InputError

from .grey_images import grey_planes, in_bytes, mean_over_planes
from .natural_statistics import asymmetric_gaussian, contrast_normalized, whole_blocks
from .parameter_files import PathLike, existing_file, named_arrays
from .resampling import resized
from .scores import PlaneScore

Array = NDArray[np.float64]

NAMES = (("mu_prisparam", "mu_pris_param"), ("cov_prisparam", "cov_pris_param"))
"""The two names of the mean and of the covariance of the pristine features in published files."""

FEATURES = 36
EXPECTED = "expected mu_prisparam of 36 numbers and cov_prisparam of 36 x 36, as .mat, .npz or .h5"


def niqe(
    volume: Any,
    parameters: PathLike,
    *,
    data_range: float | None = None,
    axis: int | None = None,
    block: int = 96,
) -> PlaneScore:
    """Natural image quality evaluator of planes: distance of their statistics from those of photographs.

    Each block has 36 features (fits of generalised Gaussians to contrast-normalised pixels and to products of
    neighbours, at two scales). With their mean m and covariance S over the blocks, the score is
    ``sqrt((m - mu)' ((S + Sigma) / 2)^+ (m - mu))`` for mu, Sigma of pristine photographs. Smaller is better.

    Parameters
    ----------
    volume
        One plane (2-D) or a stack (3-D), array or Volume, finite everywhere.
    parameters
        Path of the pristine model: ``mu_prisparam`` (36) and ``cov_prisparam`` (36 x 36), or the names with
        ``pris_param``, in a ``.mat`` (``modelparameters.mat`` of the authors), ``.npz`` or ``.h5`` file.
    data_range
        The intensity that is white. Default: 255 for uint8, 1 for floating data on [0, 1].
    axis
        Axis across which the planes lie. Default: Z of a Volume, the first axis of an array.
    block
        Side of the blocks: 96 in the published model, an even number. Scores with blocks of different sides do not
        compare.

    Returns
    -------
    PlaneScore
        Mean over the planes with at least two blocks that vary, and ``planes`` with NaN for the others.

    Raises
    ------
    InputError
        The path does not exist or holds something else, planes that hold fewer than two blocks (in microscopy often:
        96 x 192 pixels at least), no plane with two blocks that vary, intensities without a known white.

    Notes
    -----
    Flat blocks have no fit and are left out whole; the published code includes those of their features that are finite
    in the mean. Each part is tested against its definition; with the published model the whole has not been compared
    with a published score.

    References
    ----------
    Mittal, Soundararajan, Bovik 2013, IEEE Signal Processing Letters, doi:10.1109/LSP.2012.2227726, Eq. 10.
    """
    if not isinstance(block, int | np.integer) or block < 8 or block % 2:
        raise InputError(f"block is {block}, expected an even number of at least 8")
    mean, covariance = _pristine_model(existing_file("parameters", parameters))
    planes, _ = grey_planes("volume", volume, data_range, axis, smallest=block, score="niqe")
    scores = []
    for plane in planes:
        rows, columns = plane.shape
        if (rows // block) * (columns // block) < 2:
            raise InputError(f"planes are {rows} x {columns}, niqe expects room for two blocks of {block} x {block}")
        scores.append(_distance(in_bytes(plane), mean, covariance, int(block)))
    if all(math.isnan(score) for score in scores):
        raise InputError(f"no plane of the volume has two blocks of {block} x {block} pixels that vary")
    return mean_over_planes(scores)


def _distance(image: Array, mean: Array, covariance: Array, block: int) -> float:
    """NIQE of an image of whole numbers from 0 to 255; NaN where fewer than two blocks vary."""
    image = image[: image.shape[0] // block * block, : image.shape[1] // block * block]
    half = resized(image, (image.shape[0] // 2, image.shape[1] // 2))
    features = np.concatenate(
        [
            [_natural_features(b) for b in whole_blocks(contrast_normalized(scale), side)]
            for scale, side in ((image, block), (half, block // 2))
        ],
        axis=1,
    )
    features = features[np.isfinite(features).all(axis=1)]
    if len(features) < 2:
        return math.nan
    difference = features.mean(axis=0) - mean
    pooled = (covariance + np.cov(features, rowvar=False)) / 2
    return math.sqrt(max(0.0, float(difference @ np.linalg.pinv(pooled) @ difference)))


def _natural_features(block: Array) -> Array:
    """18 features of a block: fits to its pixels and to their products with four neighbours (cyclic)."""
    shape, left, right = asymmetric_gaussian(block)
    features = [shape, (left + right) / 2]
    for shift in ((0, 1), (1, 0), (1, 1), (1, -1)):
        shape, left, right = asymmetric_gaussian(block * np.roll(block, shift, axis=(0, 1)))
        mean = (right - left) * math.exp(gammaln(2 / shape) - gammaln(1 / shape))
        features += [shape, mean, left, right]
    return np.array(features)


def _pristine_model(path: Path) -> tuple[Array, Array]:
    """Mean and covariance of the features of pristine photographs."""
    stored = [np.asarray(array, dtype=np.float64) for array in named_arrays(path, NAMES, EXPECTED)]
    mean, covariance = stored[0].ravel(), stored[1]
    if mean.shape != (FEATURES,) or covariance.shape != (FEATURES, FEATURES):
        raise InputError(f"{path} holds arrays of shape {stored[0].shape} and {covariance.shape}, {EXPECTED}")
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise InputError(f"{path} holds NaN or infinite values, {EXPECTED}")
    return mean, covariance
