"""Which measured planes are left out to judge how planes between measured ones are predicted."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .kriging import NEIGHBOURS
from .positions import GRAIN, rounded

Doubles = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

ENOUGH_RUNS, MOST_FOLDS = 40, 6
"""Runs of planes that are left out in all, and the largest number of folds they are spread over."""


class LeftOut(NamedTuple):
    """Folds of measured planes, and whether their left-out planes lie as far apart as the missing ones.

    Each fold holds the indices of the planes that predict and of those that are predicted.
    """

    folds: list[tuple[Indices, Indices]]
    same_gap: bool


def every_second(count: int) -> LeftOut:
    """Every second of so many planes: the left-out planes lie in gaps about twice as large as the present ones."""
    indices = np.arange(count)
    folds = [(indices[first::2], indices[first + 1 : count - 1 : 2]) for first in (0, 1)]
    return LeftOut([fold for fold in folds if len(fold[0]) >= 3], False)  # two gaps are needed for a correlation


def at_gap(positions: Doubles, gap: float) -> LeftOut:
    """Runs of neighbouring planes without which the measured ones are as far apart as around a missing run.

    Parameters
    ----------
    positions : float array (m,)
        Measured planes, increasing.
    gap : float
        Distance of the two measured planes around the missing run.

    Returns
    -------
    LeftOut
        Runs without which the distance is `gap`, or the smallest larger one where there is none of that distance.

    Examples
    --------
    >>> folds, same_gap = at_gap(np.arange(40.0), 3.0)
    >>> folds[0][1].tolist(), same_gap
    ([1, 2, 11, 12, 21, 22, 31, 32], True)
    """
    count = len(positions)
    starts = np.arange(count - 2)
    stops = np.maximum(np.searchsorted(positions, positions[:-2] + gap - GRAIN), starts + 2)
    starts, stops = starts[stops < count], stops[stops < count]
    if not len(starts):
        return every_second(count)
    gaps = rounded(positions[stops] - positions[starts])
    nearest = gaps == gaps.min()
    runs = list(zip(starts[nearest] + 1, stops[nearest], strict=True))
    folds, left = [], 0
    for _ in range(MOST_FOLDS):
        chosen = spread_out(runs)
        if not chosen or left >= ENOUGH_RUNS:
            break
        runs = [run for run in runs if run not in chosen]
        out = np.concatenate([np.arange(*run) for run in chosen])
        folds.append((np.setdiff1d(np.arange(count), out), out))
        left += len(chosen)
    folds = [fold for fold in folds if len(fold[0]) >= 3]
    return LeftOut(folds, bool(gaps.min() == rounded(gap))) if folds else every_second(count)


def spread_out(runs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Runs between which as many planes remain as predict a run."""
    chosen: list[tuple[int, int]] = []
    for first, stop in runs:
        if not chosen or first >= chosen[-1][1] + 2 * NEIGHBOURS:
            chosen.append((first, stop))
    return chosen
