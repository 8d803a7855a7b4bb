"""Objects of a stack, to judge a restoration by what is done with it next.

Cellpose segments where it is installed (and its model lies on this machine); otherwise a threshold and a watershed do,
the same for the truth and for every method. Neither is a truth of its own: what is compared is whether a restored stack
leads to the objects to which the reference leads.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

SMOOTHED = 1.0
"""Width of the Gaussian before the threshold, in voxels."""

APART = 4
"""Least distance of the middles of two objects, in voxels."""

SMALLEST = 30
"""Objects of fewer voxels are dropped."""


def segmenter() -> str:
    """What :func:`objects` segments with.

    >>> segmenter() in ("Cellpose", "threshold and watershed")
    True
    """
    return "Cellpose" if importlib.util.find_spec("cellpose") is not None else "threshold and watershed"


def objects(stack: Array) -> npt.NDArray[np.int32]:
    """Labels ``(Z, Y, X)`` of the bright objects of a stack; 0 is background."""
    found = by_cellpose(stack) if segmenter() == "Cellpose" else None
    return by_watershed(stack) if found is None else found


def by_cellpose(stack: Array) -> npt.NDArray[np.int32] | None:
    """Labels by Cellpose's default model, planes joined along z; None where it has no model on this machine."""
    try:
        from cellpose import models

        model = models.CellposeModel(gpu=False)
        labels, *_ = model.eval(np.asarray(stack, np.float32), z_axis=0, channel_axis=None, stitch_threshold=0.3)
    except (OSError, RuntimeError, ValueError):
        return None
    return np.asarray(labels, np.int32)


def by_watershed(stack: Array) -> npt.NDArray[np.int32]:
    """Otsu's threshold of the smoothed stack, cut at the ridges of the distance from the background.

    >>> z, y, x = np.meshgrid(np.arange(12), np.arange(20), np.arange(40), indexing="ij")
    >>> balls = [(z - 6) ** 2 + (y - 10) ** 2 + (x - c) ** 2 < 25 for c in (10, 18)]
    >>> int(by_watershed((balls[0] | balls[1]).astype(float)).max())
    2
    """
    import scipy.ndimage
    import skimage.feature
    import skimage.filters
    import skimage.segmentation

    smooth = scipy.ndimage.gaussian_filter(np.asarray(stack, np.float64), SMOOTHED)
    if smooth.min() == smooth.max():
        return np.zeros(stack.shape, np.int32)
    threshold: Any = skimage.filters.threshold_otsu
    peaks: Any = skimage.feature.peak_local_max
    watershed: Any = skimage.segmentation.watershed
    inside = smooth > threshold(smooth)
    distance = scipy.ndimage.gaussian_filter(scipy.ndimage.distance_transform_edt(inside), SMOOTHED)
    seeds = np.zeros(stack.shape, np.int32)
    parts, _ = scipy.ndimage.label(inside)
    places = peaks(distance, min_distance=APART, labels=parts, exclude_border=False)
    seeds[tuple(places.T)] = np.arange(1, len(places) + 1)
    labels = np.asarray(watershed(-distance, seeds, mask=inside), np.int32)
    sizes = np.bincount(labels.ravel())
    labels[sizes[labels] < SMALLEST] = 0
    return labels
