"""Which measured planes are left out to judge the planes between measured ones."""

from __future__ import annotations

import numpy as np
import pytest

from tensorcell.solvers import fill_planes
from tensorcell.solvers.left_out_planes import at_gap, every_second


@pytest.mark.parametrize("gap", [2.0, 3.0, 6.0])
def test_left_out_runs_lie_in_gaps_of_the_width_asked_for(gap: float) -> None:
    positions = np.setdiff1d(np.arange(60.0), [20.0, 21.0])
    found = at_gap(positions, gap)
    assert found.same_gap
    assert 2 <= len(found.folds) <= 6
    for used, out in found.folds:
        assert set(used) | set(out) == set(range(len(positions)))
        assert not set(used) & set(out)
        upper = np.searchsorted(positions[used], positions[out])
        np.testing.assert_array_equal(positions[used][upper] - positions[used][upper - 1], gap)
        assert len(np.unique(upper)) > 1  # several runs a fold


def test_a_gap_that_no_measured_planes_allow_is_judged_at_the_next_larger_one() -> None:
    found = at_gap(np.arange(0.0, 40, 2), 3.0)
    assert not found.same_gap
    for used, out in found.folds:
        assert 2 * (np.diff(used).max()) == 4
        assert len(out)
    assert at_gap(np.array([0.0, 1.0, 9.0]), 9.0) == every_second(3)


def test_wide_gaps_are_judged_at_wide_gaps() -> None:
    """A walk along z without nine planes in a row: errors judged at every second plane do not fit there."""
    truth = np.cumsum(np.random.default_rng(0).standard_normal((80, 12, 12)), axis=0) + 100
    missing = np.arange(20, 29)
    grid = np.setdiff1d(np.arange(80), np.r_[missing, 50])
    predicted = {}
    for each_gap in (True, False):
        filled = fill_planes(truth[grid], grid, 80, each_gap=each_gap)
        np.testing.assert_array_equal(filled.volume[grid], truth[grid])
        true = np.mean((filled.volume - truth)[missing] ** 2)
        predicted[each_gap] = np.mean(filled.error[missing] ** 2) / true
        assert np.mean(np.abs(filled.volume - truth)[missing] <= 1.645 * filled.error[missing]) > 0.85
    assert 0.7 < predicted[True] < 1.4  # nine correlated planes of 144 voxels
    assert predicted[False] != predicted[True]
