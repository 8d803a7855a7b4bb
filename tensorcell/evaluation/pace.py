"""How far a run of cells has come, and how long it still takes."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from tensorcell.evaluation.cells import Cell


class Progress(NamedTuple):
    """How far a run has come."""

    done: int
    total: int
    """Cells to do in this run; those of earlier runs are not counted."""
    reused: int
    cell: str
    """The cell that was finished last."""
    seconds_left: float
    """From the pace of each method so far; NaN before the first cell."""


class Pace:
    """How long the waiting cells will take, from the mean time of their method so far, or else of all methods."""

    def __init__(self, cells: Sequence[Cell], jobs: int) -> None:
        self.waiting = defaultdict[str, int](int)
        for cell in cells:
            self.waiting[cell.method.name] += 1
        self.spent = defaultdict[str, list[float]](list)
        self.jobs, self.done = jobs, 0

    def add(self, cell: Cell, seconds: float) -> None:
        """Count a finished cell and its wall time."""
        self.done += 1
        self.waiting[cell.method.name] -= 1
        self.spent[cell.method.name].append(seconds)

    def left(self) -> float:
        """Seconds for the cells that wait; NaN before the first one is finished."""
        everything = [seconds for spent in self.spent.values() for seconds in spent]
        if not everything:
            return 0.0 if not any(self.waiting.values()) else math.nan
        parts = (count * float(np.mean(self.spent[name] or everything)) for name, count in self.waiting.items())
        return sum(parts) / self.jobs


@contextmanager
def reporter(progress: bool | Callable[[Progress], None], total: int) -> Iterator[Callable[[Progress], None]]:
    """What is called after every cell: the caller's own, or what shows progress on stderr."""
    if callable(progress):
        yield progress
        return
    from tensorcell.progress import CountBar

    with CountBar("cells", total, enabled=None if progress else False) as bar:

        def show(step: Progress) -> None:
            left = None if math.isnan(step.seconds_left) else step.seconds_left
            bar.at(step.done, left, f"after {step.cell}" if step.cell else "first cell")

        yield show
