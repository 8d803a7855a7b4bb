"""Which measured voxels are outliers: the one rule that all modules use.

A Tucker model of moderate rank leaves structure in the residual ``R = Y - X``, so that a large residual alone does not
make an outlier. Structure is shared with neighbours, a wrong value is not:

1. The robust fit names candidates, whose ``|R|`` is above its threshold.
2. :func:`isolated` selects the candidates whose residual is not shared by their measured neighbours. Those selected no
   longer count as neighbours, and the others are tested again, since two outliers in one neighbourhood hide each other.
3. :func:`beyond_neighbours` tests the intensities of these candidates instead of their residuals: the sharpest
   structure is as far from the model as an outlier, but it does not lie outside the intensities around it. If few
   voxels pass this test, they alone are outliers. If many pass it (hot pixels, impulses), all candidates of step 2 are.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .results import CompletionResult
from .slabs import model_planes, slabs, widened

Floats = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]
Positions = npt.NDArray[np.integer]

ROUNDS = 3
"""Largest number of rounds in which candidates are compared with their neighbours."""

SPREADS = 3.0
"""An isolated candidate is further from its neighbours' median than this multiple of the distance within which four in
five of the neighbours lie."""

BEYOND = 2.0
"""A voxel lies beyond its neighbours if its distance from the range of their intensities exceeds this many ranges."""

RARE = 0.02
"""If voxels beyond their neighbours are a smaller share of the measured voxels than this, they alone are outliers;
otherwise all isolated candidates are."""

FEWEST = 3
"""Fewest measured neighbours that a voxel is compared with."""

PART = 1 << 16
"""Candidates handled at a time: 26 neighbours each."""


class Outliers(NamedTuple):
    """Measured voxels taken for wrong: flat positions in C order, and ``E``, their distance from the model."""

    positions: Positions
    values: Floats

    def inliers(self, mask: Bools) -> Bools:
        """The mask (True = measured) without the outliers."""
        rest = mask.copy()
        rest.ravel()[self.positions] = False
        return rest


def find_outliers(stack: Floats, mask: Bools, fit: CompletionResult) -> Outliers:
    """Outliers of a stack, given a robust fit of it.

    Parameters
    ----------
    stack : float array ``(Z, Y, X)``
        Measured intensities; any finite number where the mask is False.
    mask : bool array of the same shape
        True = measured.
    fit : CompletionResult
        Of :func:`tensorcell.solvers.complete_tucker` on them; its sparse part names the candidates.

    Returns
    -------
    Outliers

    Notes
    -----
    Time: proportional to the number of candidates, plus the model on the planes that hold some. Memory: a few slabs.
    """
    positions, values = np.asarray(fit.sparse.positions), np.asarray(fit.sparse.values)
    if not len(positions):
        return Outliers(positions, values)
    alone = _alone(stack, mask, fit, positions)
    beyond = _beyond(stack, mask, positions, alone)
    chosen = beyond if beyond.sum() < RARE * np.count_nonzero(mask) else alone
    return Outliers(positions[chosen], values[chosen])


def _alone(stack: Floats, mask: Bools, fit: CompletionResult, positions: Positions) -> Bools:
    """Candidates whose residual their neighbours do not share, found in rounds."""
    threshold, plane = fit.history[-1].threshold, math.prod(stack.shape[1:])
    alone = np.zeros(len(positions), bool)
    trusted = mask
    for _ in range(ROUNDS):
        before = int(alone.sum())
        for slab in slabs(stack.shape):
            here = np.flatnonzero(~alone & (positions >= slab.start * plane) & (positions < slab.stop * plane))
            if len(here):
                wide, _ = widened(slab, len(stack), 1)
                residual = stack[wide] - model_planes(fit, wide)
                alone[here] = isolated(residual, trusted[wide], positions[here] - wide.start * plane, threshold)
        if alone.sum() == before:
            break
        trusted = mask.copy()
        trusted.ravel()[positions[alone]] = False
    return alone


def _beyond(stack: Floats, mask: Bools, positions: Positions, alone: Bools) -> Bools:
    """Those among the candidates found alone that lie beyond the intensities of their neighbours, too."""
    plane = math.prod(stack.shape[1:])
    beyond = np.zeros(len(positions), bool)
    for slab in slabs(stack.shape):
        here = np.flatnonzero(alone & (positions >= slab.start * plane) & (positions < slab.stop * plane))
        wide, _ = widened(slab, len(stack), 1)
        beyond[here] = beyond_neighbours(stack[wide], mask[wide], positions[here] - wide.start * plane)
    return beyond


def neighbours(volume: Floats, mask: Bools, positions: Positions) -> Floats:
    """The 26 neighbours of each position (flat, C order), NaN where unmeasured or outside; shape ``(n, 26)``."""
    index = np.stack(np.unravel_index(positions, volume.shape), axis=1)
    offsets = np.array([step for step in itertools.product((-1, 0, 1), repeat=3) if any(step)])
    around = index[:, None, :] + offsets
    inside = np.all((around >= 0) & (around < volume.shape), axis=2)
    around = np.where(inside[..., None], around, 0)
    where = tuple(np.moveaxis(around, 2, 0))
    return np.where(inside & mask[where], volume[where], np.nan)


def isolated(residual: Floats, mask: Bools, positions: Positions, threshold: float) -> Bools:
    """Which of the candidate voxels stand out from their measured neighbours, not only from the model.

    Parameters
    ----------
    residual : float array ``(Z, Y, X)``
        ``Y - X``; any number where nothing was measured.
    mask : bool array of the same shape
        True = measured.
    positions : int array ``(n,)``
        Candidates, flat in C order.
    threshold : float
        Residual that makes a candidate, in the data's unit.

    Returns
    -------
    bool array ``(n,)``
        True where the residual differs from the median of its neighbours by more than the threshold, and by more than
        three times the distance within which four in five of the neighbours lie. A wrong value does so, the top of a
        smooth structure does not. A candidate with fewer than three measured neighbours counts as isolated, since
        nothing supports it.
    """
    found = np.ones(len(positions), dtype=bool)
    for first in range(0, len(positions), PART):
        part = slice(first, first + PART)
        values = np.sort(neighbours(residual, mask, positions[part]), axis=1)  # NaN last
        count = np.sum(~np.isnan(values), axis=1)
        middle = _median(values, count)
        off = np.sort(np.abs(values - middle[:, None]), axis=1)
        spread = np.nan_to_num(off[np.arange(len(off)), np.maximum((4 * count) // 5 - 1, 0)])
        own = np.abs(residual.ravel()[positions[part]] - middle)
        found[part] = (count < FEWEST) | (own > np.maximum(threshold, SPREADS * spread))
    return found


def beyond_neighbours(volume: Floats, mask: Bools, positions: Positions, factor: float = BEYOND) -> Bools:
    """Which measured voxels lie beyond all neighbours but one by ``factor`` times the range of these neighbours.

    Hot and dead pixels do. The brightest voxel of a structure that the microscope resolves does not, since its
    neighbours share its light. ``volume`` holds the measured intensities; positions are flat, in C order; a voxel with
    fewer than three measured neighbours does not count.
    """
    found = np.zeros(len(positions), dtype=bool)
    for first in range(0, len(positions), PART):
        part = slice(first, first + PART)
        values = np.sort(neighbours(volume, mask, positions[part]), axis=1)
        count = np.sum(~np.isnan(values), axis=1)
        low, high = values[:, 1], values[np.arange(len(values)), np.maximum(count - 2, 0)]
        own = volume.ravel()[positions[part]]
        with np.errstate(invalid="ignore"):
            found[part] = (count >= FEWEST) & (np.maximum(own - high, low - own) > factor * (high - low))
    return found


def _median(ordered: Floats, count: Positions) -> Floats:
    """Median of the first ``count`` entries of each ordered row (lower and upper middle averaged; 0 where none)."""
    rows = np.arange(len(ordered))
    low, high = np.maximum((count - 1) // 2, 0), np.minimum(count // 2, ordered.shape[1] - 1)
    return np.asarray(np.nan_to_num((ordered[rows, low] + ordered[rows, high]) / 2))
