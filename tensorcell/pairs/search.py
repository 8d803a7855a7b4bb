"""Search for the shift in whole voxels, by the normalised cross-correlation of what overlaps (Padfield 2012).

The pixels are averaged so that neither noise nor memory matters. The planes of the low stack lie on every ``a``-th
plane of the high stack, which are ``a`` stacks to compare with.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from skimage.registration import phase_cross_correlation

from tensorcell.pairs.placement import Factors, Floats, Placement, binned
from tensorcell.pairs.prediction import Predictor, filtered
from tensorcell.pairs.refinement import Level

WIDEST = 64
"""Pixels of the averaged low stack along y and x, at most."""

MOST_PLANES = 48
"""Planes of the low stack that are compared."""

STARTS = 4
"""Planes of the high stack that the first plane of the low stack is laid on, between two steps of the low stack."""

OVERLAP = 0.5
"""Part of the smaller stack that overlaps at least."""


def bins_of(shape: tuple[int, ...]) -> int:
    """The power of 2 that brings the pixels of the low stack to at most `WIDEST` along y and x."""
    bins = 1
    while max(shape[1:]) > WIDEST * bins:
        bins *= 2
    return bins


def searched(level: Level, start: Placement) -> Placement:
    """The placement whose shift, in whole voxels of the low stack, gives the largest correlation.

    A start that has no rotation, scale and shift is compared with all of the high stack; any other one only with the
    part of it that lies under the low stack.
    """
    factors = level.predictor.factors
    skipped = -(-level.low.shape[0] // MOST_PLANES)
    reference, corner = _reference(level, start)
    reference, moving = (filtered(each).astype(np.float32) for each in (reference, level.low[::skipped]))
    step = factors.axial * skipped
    candidates = [start]
    for first in range(0, min(step, len(reference)), -(-step // STARTS)):
        planes, y, x = _shift(reference[first::step], moving)
        low = np.array([0, y + corner[0], x + corner[1]]) * factors.steps
        z, y, x = start.turned() @ low + start.shift
        candidates.append(replace(start, shift=(float(z + first + planes * step), float(y), float(x))))
    return max(candidates, key=level.agreement)


def _reference(level: Level, start: Placement) -> tuple[Floats, tuple[int, int]]:
    """The high stack with all its planes and the pixels of the low stack, and the pixel (y, x) that it begins at."""
    lateral = level.predictor.factors.lateral
    if start == Placement(start.centre):
        return binned(level.high, 1, lateral), (0, 0)
    predictor = Predictor(level.predictor.spline, Factors(1, lateral))
    flat = replace(start, shift=(0.0, *start.shift[1:]))
    box = predictor.box(flat, (len(level.high), *level.low.shape[1:]))
    return predictor.at(flat, box).value, (box[1].start, box[2].start)


def _shift(reference: Floats, moving: Floats) -> Floats:
    """The shift in whole voxels that brings the first voxel of the moving stack to its place in the reference."""
    shift, _, _ = phase_cross_correlation(  # type: ignore[no-untyped-call]
        reference, moving, reference_mask=np.ones(reference.shape, bool), moving_mask=np.ones(moving.shape, bool),
        overlap_ratio=OVERLAP,
    )  # fmt: skip
    centred = (np.array(moving.shape) - reference.shape) / 2  # it measures from centre to centre
    return np.asarray(shift - centred)
