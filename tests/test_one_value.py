"""Wrong dark voxels of one value, by how often it occurs at each level."""

from __future__ import annotations

import numpy as np
import pytest

from tensorcell.solvers import one_value
from tensorcell.solvers.one_value import alike

SHAPE = (20, 60, 60)


def failing(share: float, seed: int = 0, value: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Photons on a ramp of means from .5 to 60, of which a share reads one value; levels, stack, and the failures."""
    rng = np.random.default_rng(seed)
    level = np.broadcast_to(np.geomspace(0.5, 60, SHAPE[2]), SHAPE).copy()
    stack = rng.poisson(level).astype(np.float32)
    wrong = rng.random(SHAPE) < share
    stack[wrong] = value
    return level, stack, wrong


def found_by(level: np.ndarray, stack: np.ndarray, seen: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """True where a voxel was found, given the flat positions of those that stand out."""
    mask = np.ones(SHAPE, bool) if mask is None else mask
    found = np.zeros(SHAPE, bool)
    found.ravel()[alike(stack, mask, seen, lambda positions: level.ravel()[positions])] = True
    return found


@pytest.mark.parametrize("share", [0.02, 0.1])
@pytest.mark.parametrize("seed", range(3))
def test_the_probability_of_a_failure_decides(share: float, seed: int) -> None:
    """Failures explain the share ``f / (f + (1 - f) exp(-level))`` of the zeros; .8 of them are asked for."""
    level, stack, wrong = failing(share, seed)
    seen = np.flatnonzero(wrong & (level > 40))
    found = found_by(level, stack, seen)
    probability = share / (share + (1 - share) * np.exp(-level))
    zeros = stack == 0
    assert found[zeros & (probability > 0.95)].mean() > 0.9
    assert not found[zeros & (probability < 0.4)].any()
    assert not found[~zeros].any()


def test_a_few_or_of_many_values_say_nothing() -> None:
    level, stack, wrong = failing(0.05)
    seen = np.flatnonzero(wrong & (level > 40))
    assert not found_by(level, stack, seen[: one_value.FEWEST - 1]).any()
    assert found_by(level, stack, seen[: one_value.FEWEST]).any()
    stack.ravel()[seen] = np.arange(len(seen)) % 5
    assert not found_by(level, stack, seen).any()


def test_blocks_of_the_value_are_no_failures() -> None:
    """The corner of a mosaic, which the model draws as bright as what lies beside it."""
    level, stack, wrong = failing(0.05)
    seen = np.flatnonzero(wrong & (level > 40))
    corner = np.zeros(SHAPE, bool)
    corner[:, 40:, 52:] = True
    seen = seen[~corner.ravel()[seen]]
    stack[corner] = 0
    found = found_by(level, stack, seen)
    assert not found[1:-1, 41:-1, 53:-1].any()
    assert found[wrong & (level > 20) & ~corner].mean() > 0.7  # next to the block failures look like a part of it


def test_what_was_not_measured_is_not_counted_and_not_found() -> None:
    level, stack, wrong = failing(0.05)
    mask = np.random.default_rng(1).random(SHAPE) < 0.5
    seen = np.flatnonzero(wrong & (level > 40) & mask)
    found = found_by(level, np.where(mask, stack, 0), seen, mask)
    assert not found[~mask].any()
    assert found[wrong & mask & (level > 10)].mean() > 0.9
