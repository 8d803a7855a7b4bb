"""The only loop: timing, finiteness, records, callback and stopping for every method."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import numpy as np

from .results import IterationRecord, Status

State = TypeVar("State")


class Measures(NamedTuple):
    """What a step reports about itself (fields as in :class:`IterationRecord`)."""

    change: float
    residual: float
    outliers: int
    threshold: float
    settled: bool = True
    """False while a small change must not be taken for convergence (the outliers still move, say)."""
    stalled: bool = False
    """True when no further step can help."""


Callback = Callable[[IterationRecord, State], bool | None]


def iterate(
    step: Callable[[State], tuple[State, Measures]],
    state: State,
    *,
    stage: str,
    tolerance: float,
    max_iterations: int,
    callback: Callable[[IterationRecord, State], bool | None] | None = None,
    history: tuple[IterationRecord, ...] = (),
) -> tuple[State, Status, tuple[IterationRecord, ...]]:
    """Apply ``step`` until the relative change of the model is at most ``tolerance``.

    ``history`` of an earlier stage is continued: iterations and seconds count on. Time spent in the callback is not
    counted. A step whose measures are not finite, or whose matrices cannot be decomposed, is discarded and ends the
    run with the state before it.
    """
    records = list(history)
    begun = records[-1].seconds if records else 0.0
    count = records[-1].iteration if records else 0
    for _ in range(max_iterations):
        start = time.perf_counter()
        try:
            new_state, measures = step(state)
        except np.linalg.LinAlgError:  # NumPy's decompositions refuse NaN
            return state, Status.DIVERGED, tuple(records)
        begun += time.perf_counter() - start
        if not (math.isfinite(measures.change) and math.isfinite(measures.residual)):
            return state, Status.DIVERGED, tuple(records)
        state = new_state
        count += 1
        record = IterationRecord(
            iteration=count,
            stage=stage,
            change=measures.change,
            residual=measures.residual,
            outliers=measures.outliers,
            threshold=measures.threshold,
            seconds=begun,
        )
        records.append(record)
        if callback is not None and callback(record, state):
            return state, Status.STOPPED, tuple(records)
        if measures.stalled:
            return state, Status.STALLED, tuple(records)
        if measures.settled and measures.change <= tolerance:
            return state, Status.CONVERGED, tuple(records)
    return state, Status.MAX_ITERATIONS, tuple(records)


def duration(seconds: float) -> str:
    """A length of time for people: whole seconds, whole minutes, or hours.

    >>> duration(7.4), duration(400), duration(9000)
    ('7 s', '7 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
