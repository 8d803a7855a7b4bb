"""Patches of pixels that were measured in no plane (dead pixels of the camera, a speck of dust that was masked).

No plane tells what such a patch shows: on a real stack the low-rank model was wrong there by many times the error of
the mean of the neighbours, and errors at single left-out voxels do not reveal that. A patch is therefore treated as a
part of missing columns and, once more, of missing rows (`tensorcell.lateral_filling`). Both predictions come from its
neighbourhood, their errors from lines left out in gaps of the same width, and they are averaged with weights that fall
with the square of these errors.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tensorcell.lateral_filling import fill_lines, lines_without
from tensorcell.methods.protocol import Estimate, Problem
from tensorcell.solvers import NoiseModel

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]
Box = tuple[slice, slice]

SAMPLED = 0.05
"""A pixel is dead if a smaller share of the planes than this has a measured voxel there that is no outlier."""

SMALLEST = 2
"""Pixels of the smallest patch: a single pixel is surrounded by measured ones, and is left to the method."""

AROUND = 0.9
"""Share of the voxels around a patch that must be measured; in sparsely sampled stacks patches are left to the
method."""

REACH = 32
"""Pixels on each side of a patch from which it is predicted."""

MOST_PATCHES = 64
"""Largest number of patches; smaller ones are left to the method."""


def fill_dead_pixels(problem: Problem, estimate: Estimate) -> Estimate:
    """The estimate with patches of dead pixels predicted from their neighbourhood, and a note if there are any."""
    inlier = problem.model.inlier
    patches = dead_patches(inlier) if problem.stack.given_planes > 1 else []  # no pixel of a single plane has others
    if not patches:
        return estimate
    noise = problem.noise_passed_on
    value, error = estimate.value.copy(), np.array(estimate.error)
    samples = None if estimate.samples is None else estimate.samples.copy()
    for box, pixels in patches:
        around, inner = window(box, inlier.shape[1:])
        here, kept = (slice(None), *around), inlier[:, around[0], around[1]] & problem.keep
        found, u = predicted(estimate.value[here], estimate.error[here], kept, inner, noise)
        target = (slice(None), *box)
        np.copyto(value[target], found, where=pixels)
        np.copyto(error[target], u, where=pixels)
        for sample in () if samples is None else samples:
            one, _ = predicted(sample[here], estimate.error[here], kept, inner, noise)
            np.copyto(sample[target], one, where=pixels)
    total = sum(int(np.count_nonzero(pixels)) for _, pixels in patches)
    note = (
        f"{total} pixels in {len(patches)} patch{'es' if len(patches) > 1 else ''} were measured in no plane, or are "
        "outliers in all planes, and are interpolated along x and y"
    )
    return estimate._replace(value=value, error=error, notes=(*estimate.notes, note), samples=samples)


def dead_patches(inlier: Bools) -> list[tuple[Box, Bools]]:
    """Bounding boxes of patches of dead pixels, the largest first, and which pixels of the box are dead.

    Parameters
    ----------
    inlier : bool array ``(K, Y, X)``
        True = measured and no outlier.
    """
    from scipy.ndimage import find_objects, label

    dead = inlier.mean(axis=0) < SAMPLED
    if not dead.any():
        return []
    labels, _ = label(dead, np.ones((3, 3)))
    found = []
    for number, box in enumerate(find_objects(labels), start=1):
        pixels = labels[box] == number
        height, width = pixels.shape
        small = height + 2 <= dead.shape[0] and width + 2 <= dead.shape[1]  # two lines are needed to predict it
        if pixels.sum() >= SMALLEST and small and inlier[:, ring(box, labels, number)].mean() >= AROUND:
            found.append((box, pixels))
    found.sort(key=lambda patch: -int(patch[1].sum()))
    return found[:MOST_PATCHES]


def ring(box: Box, labels: Array, number: int) -> Bools:
    """The pixels around the bounding box of a patch, and those in it that are not dead."""
    wide = tuple(slice(max(0, side.start - 1), side.stop + 1) for side in box)
    found = np.zeros(labels.shape, bool)
    found[wide] = labels[wide] != number
    return found


def window(box: Box, shape: tuple[int, ...]) -> tuple[Box, Box]:
    """The neighbourhood from which a patch is predicted, and the place of the patch in it."""
    first = [max(0, side.start - REACH) for side in box]
    last = [min(size, side.stop + REACH) for side, size in zip(box, shape, strict=True)]
    y, x = (slice(a, b) for a, b in zip(first, last, strict=True))
    inner_y, inner_x = (slice(side.start - a, side.stop - a) for side, a in zip(box, first, strict=True))
    return (y, x), (inner_y, inner_x)


def predicted(values: Array, error: Array, kept: Bools, box: Box, noise: NoiseModel) -> tuple[Array, Array]:
    """A box in all planes predicted from the columns and rows around it, and the standard deviation of its error.

    The errors of the two predictions are alike, since both come from the same neighbourhood: the error of their mean is
    the mean of their errors.
    """
    parts = []
    for axis, side in zip((2, 1), reversed(box), strict=True):
        lines = lines_without(values.shape[1:], axis, side)
        part, u, own = (lines.taken_from(array) for array in (values, error, kept))
        filled = fill_lines(part, u, own, lines, noise)
        parts.append([array[:, box[0], box[1]].astype(np.float64) for array in (filled.volume, filled.error)])
    (along_x, u_x), (along_y, u_y) = parts
    share = np.square(u_y) / (np.square(u_x) + np.square(u_y))
    return share * along_x + (1 - share) * along_y, share * u_x + (1 - share) * u_y
