"""Agreement plane by plane: multi-scale structural similarity."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tensorcell.errors import InputError

from .axes import as_planes, plane_size, planes_axis
from .inputs import checked_pair
from .scores import MultiScaleSSIM
from .sums import intensity_width, scored_sums
from .windows import GAUSSIAN_SIDE, gaussian_mean, similarity

Array = NDArray[np.float64]

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of the five scales, the finest first."""


def ms_ssim(
    reference: Any, estimate: Any, *, data_range: float | None = None, axis: int | None = None
) -> MultiScaleSSIM:
    """Multi-scale structural similarity of planes, and its mean over the planes.

    In each plane ``prod_j mean(cs_j)^w_j mean(l_M cs_M)^w_M``: contrast and structure at every scale, luminance only at
    the coarsest. Gaussian window of 11 x 11 pixels with sigma 1.5 and windows inside the plane, K1 = .01,
    K2 = .03, population (co)variances. The next scale holds the means of 2 x 2 pixels (an odd last row or column is
    dropped). A mean below 0 counts as 0.

    Five scales need planes of at least 176 pixels a side. Smaller planes get fewer: as many as leave 11 pixels at the
    coarsest scale, with the weights of those scales divided by their sum. ``scales`` names them; scores with
    different scales do not compare.

    Parameters
    ----------
    reference, estimate
        One plane (2-D) or a stack (3-D), arrays or Volumes of one shape and one unit, finite everywhere.
    data_range
        As for `psnr`, one for all planes.
    axis
        Axis across which the planes lie. Default: Z of a Volume, the first axis of an array. With 1 or 2 of a stack
        (Z, Y, X) the sections along z are scored.

    Returns
    -------
    MultiScaleSSIM
        A float with ``scales``, ``weights`` and the scores of the ``planes``.

    Raises
    ------
    InputError
        As for `psnr`; not 2 or 3 axes; planes with a side below 11 pixels.

    References
    ----------
    Wang, Simoncelli, Bovik 2003, Asilomar, doi:10.1109/ACSSC.2003.1292216, Eq. 7 and its weights.

    Examples
    --------
    >>> import numpy as np
    >>> truth = np.random.default_rng(0).random((2, 64, 48))
    >>> score = ms_ssim(truth, truth)
    >>> score, score.scales
    (1.0, (1, 2, 4))
    """
    axis = planes_axis(reference, estimate, axis=axis)
    reference, estimate, _ = checked_pair(reference, estimate, None)
    width = intensity_width(data_range, scored_sums(reference, estimate, None))
    reference, estimate = as_planes(reference, axis), as_planes(estimate, axis)
    shortest = min(reference.shape[1:])
    if shortest < GAUSSIAN_SIDE:
        raise InputError(f"planes are {plane_size(reference)}, expected sides of at least {GAUSSIAN_SIDE} pixels")
    count = min(len(WEIGHTS), 1 + int(math.log2(shortest / GAUSSIAN_SIDE)))
    weights = np.array(WEIGHTS[:count])
    weights /= weights.sum()
    planes = tuple(
        _score_of_plane(r.astype(np.float64), e.astype(np.float64), width, weights)
        for r, e in zip(reference, estimate, strict=True)
    )
    return MultiScaleSSIM(
        float(np.mean(planes)),
        planes=planes,
        scales=tuple(2**j for j in range(count)),
        weights=tuple(weights.tolist()),
    )


def _score_of_plane(a: Array, b: Array, width: float, weights: Array) -> float:
    score = 1.0
    for scale, weight in enumerate(weights):
        luminance, term = similarity(a, b, gaussian_mean, width)
        if scale == len(weights) - 1:
            term = luminance * term
        score *= max(0.0, float(term.mean())) ** float(weight)
        a, b = _halved(a), _halved(b)
    return score


def _halved(image: Array) -> Array:
    """Means of 2 x 2 pixels."""
    rows, columns = image.shape[0] // 2, image.shape[1] // 2
    return np.asarray(image[: 2 * rows, : 2 * columns].reshape(rows, 2, columns, 2).mean(axis=(1, 3)))
