"""Wrong dark voxels of one value, found by how often that value occurs.

Pixels and transmissions that fail mostly give one value, such as 0. Where the specimen is faint, such a voxel does not
stand out of the noise. But the share of failures is the same everywhere, whereas the share of sound voxels that have
that value by chance falls as the specimen gets brighter. So the share at the levels where wrong voxels were seen is the
share of failures, and wherever the value is hardly more frequent than that, voxels that have it are wrong.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from .arrays import Array, namespace_of, to_host
from .events import CROWDED
from .neighbourhoods import neighbours, values_at

Floats = npt.NDArray[np.floating]
Positions = npt.NDArray[np.integer]

FEWEST = 20
"""Fewest wrong voxels of one value from which its share is estimated."""

MOSTLY = 0.9
"""The value is theirs if this share of the wrong voxels has it."""

PROBABLY = 0.8
"""Voxels of that value are wrong where failures explain this share of those at their level."""

BLOCK = 1e-2
"""A voxel is part of a block of the value if so many neighbours with it are less probable than this by chance."""

SAMPLE = 100_000
"""Voxels whose levels make the classes, about."""

CLASSES, CLASS = 24, 400
"""Most classes of the level, and fewest voxels of the sample in a class."""


def alike(stack: Array, mask: Array, wrong: Positions, expected: Callable[[Positions], Floats]) -> Positions:
    """Flat positions, ascending, on the host, of the voxels that are wrong since they have the value of wrong ones.

    Parameters
    ----------
    stack : float array ``(Z, Y, X)``
        Measured intensities.
    mask : bool array of the same shape
        True = measured.
    wrong : int array
        Flat positions of dark single voxels that stand out of their surroundings.
    expected : callable
        What is expected at flat positions in ascending order; from and to the host.
    """
    from scipy.stats import binom

    nothing = np.zeros(0, np.intp)
    if len(wrong) < FEWEST:
        return nothing
    values, counts = np.unique(values_at(stack, wrong), return_counts=True)
    if counts.max() < max(FEWEST, MOSTLY * len(wrong)):
        return nothing
    value = values[np.argmax(counts)]
    xp, step = namespace_of(stack, mask), max(1, mask.size // SAMPLE)
    sample = np.sort(expected(np.flatnonzero(to_host(mask.ravel()[::step])) * step))
    classes = np.array_split(sample, max(1, min(CLASSES, len(sample) // CLASS)))
    edges = np.array([levels[0] for levels in classes[1:]])
    sizes = step * np.array([len(levels) for levels in classes])
    found = xp.flatnonzero(mask & (stack == value))
    places, around = to_host(found), to_host(neighbours(stack, mask, found))
    same, known = np.sum(around == value, axis=1), np.sum(~np.isnan(around), axis=1)
    number = np.searchsorted(edges, expected(places), side="right")
    seen = np.searchsorted(edges, expected(wrong), side="right")
    share = np.bincount(number, minlength=len(sizes)) / sizes
    chance = binom.sf(same - 1, known, np.minimum(1.0, CROWDED * share[number]))
    single = np.asarray(chance >= BLOCK)  # blocks of the value, such as the corners of a mosaic, are no failures
    share = np.bincount(number[single], minlength=len(sizes)) / sizes
    failures = np.median(share[seen])
    return np.asarray(places[single & (PROBABLY * share[number] <= failures)])
