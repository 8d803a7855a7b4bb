"""PIQE: the share of blocks of a plane that look distorted by an artefact or by noise."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from .grey_images import grey_planes, in_bytes, mean_over_planes
from .natural_statistics import contrast_normalized, whole_blocks
from .scores import PlaneScore

Array = NDArray[np.float64]

BLOCK = 16
"""Side of a block in pixels."""
SEGMENT = 6
"""Neighbouring pixels of an edge of a block that are tested together."""
ACTIVE = 0.1
"""Variance above which a block is active."""
FLAT = 0.1
"""Standard deviation below which a segment is an artefact."""


def piqe(volume: Any, *, data_range: float | None = None, axis: int | None = None) -> PlaneScore:
    """Perception-based image quality evaluator of planes: 0 is best, 100 worst.

    The contrast-normalised pixels are cut into blocks of 16 x 16 (the last ones completed by repeating the border). A
    block is active where its variance v is above .1. An active block is distorted by an artefact where the standard
    deviation of any 6 neighbouring pixels along one of its four edges is below .1 (it counts 1 - v), and by noise where
    ``sqrt(v) > 2 beta`` (it counts v); ``beta = |s - c| / max(s, c)`` for s = sqrt(v) and c the ratio of the standard
    deviations of the two middle columns and of the rest. The score is ``100 (sum + 1) / (active blocks + 1)``; a plane
    without active blocks has 100.

    In a plane without any noise the edges of blocks hardly vary and count as artefacts: on smooth structure a
    little noise lowers the score, and only strong noise raises it.

    Parameters
    ----------
    volume
        One plane (2-D) or a stack (3-D), array or Volume, finite everywhere.
    data_range
        The intensity that is white. It decides which blocks are active, so give one value for all volumes that are
        compared. Default: 255 for uint8, 1 for floating data on [0, 1].
    axis
        Axis across which the planes lie. Default: Z of a Volume, the first axis of an array.

    Returns
    -------
    PlaneScore
        Mean over the planes, and ``planes``.

    Raises
    ------
    InputError
        Not 2 or 3 axes, NaN or infinite values, intensities without a known white.

    Notes
    -----
    Two details follow MATLAB's ``piqe``: "the rest" of the columns lacks the first middle column and the one two
    columns further, and planes are rounded to 8 bits.

    References
    ----------
    Venkatanath et al. 2015, NCC, doi:10.1109/NCC.2015.7084843.

    Examples
    --------
    >>> import numpy as np
    >>> piqe(np.zeros((32, 32)))
    100.0
    """
    planes, _ = grey_planes("volume", volume, data_range, axis, smallest=1, score="piqe")
    return mean_over_planes([_distortion(in_bytes(plane)) for plane in planes])


def _distortion(image: Array) -> float:
    """PIQE of an image of whole numbers from 0 to 255."""
    image = np.pad(image, [(0, -side % BLOCK) for side in image.shape], mode="edge")
    blocks = whole_blocks(contrast_normalized(image), BLOCK)
    variance = blocks.var(axis=(1, 2), ddof=1)
    active = variance > ACTIVE
    blocks, variance = blocks[active], variance[active]
    total = float((_has_artefact(blocks) * (1 - variance) + _is_noisy(blocks, variance) * variance).sum())
    return 100 * (total + 1) / (len(blocks) + 1)


def _has_artefact(blocks: Array) -> NDArray[np.bool_]:
    """Whether a segment of one of the four edges of each block is flat."""
    edges = np.stack([blocks[:, 0], blocks[:, -1], blocks[:, :, 0], blocks[:, :, -1]], axis=1)
    segments = sliding_window_view(edges, SEGMENT, axis=2)
    return np.asarray((segments.std(axis=3, ddof=1) < FLAT).any(axis=(1, 2)))


def _is_noisy(blocks: Array, variance: Array) -> NDArray[np.bool_]:
    """Whether the middle columns of each block vary much as the whole block does."""
    middle = BLOCK // 2 - 1
    centre = blocks[:, :, middle : middle + 2].std(axis=(1, 2), ddof=1)
    rest = np.delete(blocks, [middle, middle + 2], axis=2).std(axis=(1, 2), ddof=1)
    deviation = np.sqrt(variance)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where((rest == 0) & (centre == 0), 0, centre / rest)
        return np.asarray(deviation > 2 * np.abs(deviation - ratio) / np.maximum(deviation, ratio))
