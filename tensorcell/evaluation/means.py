"""Means of scores over volumes, and differences between methods, volume by volume."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tensorcell.errors import InputError
from tensorcell.evaluation.scores import LOWER_IS_BETTER, SCORES, Row


class Mean(NamedTuple):
    """Means of a method's scores over the volumes where it was done."""

    case: str
    method: str
    volumes: int
    scores: Mapping[str, float]


class Difference(NamedTuple):
    """How much better a method is than the best of others, volume by volume (positive: better)."""

    case: str
    mean: float
    lowest: float
    volume: str
    """Where it is lowest."""
    volumes: int


def means(rows: Sequence[Row]) -> tuple[Mean, ...]:
    """Means over volumes, for each case and method; a method with no finished cell in a case is left out."""
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        if row.done:
            groups[row.case, row.method].append(row)
    return tuple(
        Mean(case, method, len(members), {name: _mean([getattr(row, name) for row in members]) for name in SCORES})
        for (case, method), members in groups.items()
    )


def differences(
    rows: Sequence[Row], method: str, against: str | Sequence[str], score: str = "psnr"
) -> tuple[Difference, ...]:
    """How much better a method scores than the best of others; see `Evaluation.differences`."""
    if score not in SCORES:
        raise InputError(f"expected a score among {', '.join(SCORES)}, got {score!r}")
    sign = -1.0 if score in LOWER_IS_BETTER else 1.0
    others = (against,) if isinstance(against, str) else tuple(against)
    values = {(row.case, row.volume, row.method): sign * getattr(row, score) for row in rows if row.done}
    gains: dict[str, dict[str, float]] = defaultdict(dict)
    for (case, volume, name), value in values.items():
        rivals = [values[case, volume, other] for other in others if (case, volume, other) in values]
        if name == method and rivals and math.isfinite(value - max(rivals)):
            gains[case][volume] = value - max(rivals)
    return tuple(
        Difference(case, _mean(list(found.values())), found[worst], worst, len(found))
        for case, found in gains.items()
        for worst in [min(found, key=lambda volume: found[volume])]
    )


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan
