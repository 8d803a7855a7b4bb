"""Numbers of samples that half of random tensors need: the table that ships, and the laws fitted to it."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tensorcell.solvers import planted_problems, thresholds
from tensorcell.solvers.phase_simulation import phase_transition
from tensorcell.solvers.rank_limits import degrees_of_freedom
from tensorcell.solvers.thresholds import empirical_threshold, half_point


def test_half_point_interpolates_a_monotone_curve() -> None:
    # 0 at 100 by definition; regression makes (.4, .2) one level of .3; then .3 to .7 in equal steps of the logarithm.
    assert half_point([200, 400, 800], [0.4, 0.2, 0.7], 100) == pytest.approx(400 * 2**0.5, rel=1e-12)
    assert half_point([800, 200, 400], [0.7, 0.4, 0.2], 100) == pytest.approx(400 * 2**0.5, rel=1e-12)
    assert half_point([200, 400], [0.0, 0.4], 100) == math.inf
    assert half_point([], [], 100) == math.inf
    assert half_point([400], [1.0], 100) == pytest.approx(200)  # between the degrees of freedom and what was tried


def test_covering_units_leave_no_slice_empty_in_half_of_the_draws() -> None:
    for shape, pattern in (((12, 9, 10), "uniform"), ((12, 9, 10), "lines")):
        units = round(thresholds.covering_units(shape, pattern))
        rng = np.random.default_rng(0)
        masks = (
            planted_problems.observed_entries(shape, pattern, units * planted_problems.unit_size(shape, pattern), rng)
            for _ in range(1000)
        )
        covered = sum(all(mask.any(axis=axes).all() for axes in ((1, 2), (0, 2), (0, 1))) for mask in masks)
        # The standard deviation of 1000 draws is 16; the rest is the Poisson form and whole units.
        assert 430 <= covered <= 570


def test_a_cell_of_the_shipped_table_is_found_again(tmp_path: Path) -> None:
    curve = next(c for c in thresholds.shipped() if c.shape == (30, 30, 30) and c.rank == (12, 12, 12))
    found = phase_transition(curve.shape, [12], [m / 27000 for m in curve.samples[1:3]], workers=1)
    assert found.samples[0].tolist() == list(curve.samples[1:3])
    # Other versions of NumPy and BLAS round otherwise, which may turn a trial near the transition.
    assert (np.abs(found.successes[0] - curve.successes[1:3]) <= 1).all()


def test_planes_fail_in_the_shipped_table() -> None:
    planes = [c for c in thresholds.shipped() if c.pattern == "planes"]
    assert planes
    assert not any(any(c.successes) for c in planes)
    found = empirical_threshold((30, 30, 30), 2, pattern="planes")
    assert (found.samples, found.extrapolated) == (27000, False)
    assert "a plane without a sample" in found.sentence


def test_threshold_lies_between_degrees_of_freedom_and_other_methods() -> None:
    found = empirical_threshold((50, 50, 50), 4)
    # Rank 4 was not simulated. Of others, geomCG recovers 2 of 2 at 6 times the degrees of freedom, HaLRTC at 40.
    assert 616 < found.samples < 6 * 616
    assert not found.extrapolated
    assert "616 degrees of freedom" in found.sentence


def test_threshold_predicts_transitions_that_were_left_out(tmp_path: Path) -> None:
    known = [c for c in thresholds.shipped() if c.pattern == "uniform" and c.bracketed]
    errors = []
    for curve in known:
        others = [c for c in known if c is not curve]
        samples, _ = thresholds.entry_law(others, curve.shape, curve.rank)
        errors.append(math.log(samples / degrees_of_freedom(curve.rank, curve.shape) / curve.oversampling))
    assert len(known) == 18
    # The numbers that the docstring states.
    assert np.sqrt(np.mean(np.square(errors))) < math.log(1.115)
    assert np.abs(errors).max() < math.log(1.275)
    # The error in the sentence comes from the hat matrix: the same number without the loop.
    _, stated = thresholds.entry_law(known, (50, 50, 50), (4, 4, 4))
    assert stated == pytest.approx(math.expm1(float(np.sqrt(np.mean(np.square(errors))))), rel=1e-6)


@pytest.mark.parametrize(
    "shape", [(30, 30, 30), (50, 50, 50), (94, 512, 712), (12, 12, 12, 12), (80, 90), (20, 300, 9)]
)
@pytest.mark.parametrize("pattern", ["uniform", "lines"])
def test_threshold_rises_with_the_rank(shape: tuple[int, ...], pattern: Any) -> None:
    found = [empirical_threshold(shape, rank, pattern=pattern).samples for rank in range(1, min(shape) + 1)]
    assert (np.diff(found) >= 0).all()


@given(
    shape=st.lists(st.integers(2, 300), min_size=2, max_size=4),
    seed=st.integers(0, 2**32 - 1),
    pattern=st.sampled_from(["uniform", "planes", "lines"]),
)
@settings(max_examples=60, deadline=None)
def test_threshold_lies_between_degrees_of_freedom_and_voxels(shape: list[int], seed: int, pattern: Any) -> None:
    rng = np.random.default_rng(seed)
    rank = [int(rng.integers(1, size + 1)) for size in shape]
    found = empirical_threshold(shape, rank, pattern=pattern)
    clipped = thresholds.clipped(rank, tuple(shape))
    assert degrees_of_freedom(clipped, shape) <= found.samples <= math.prod(shape)
    assert np.isfinite(found.samples)


def test_threshold_does_not_depend_on_the_order_of_modes() -> None:
    first = empirical_threshold((60, 50, 20), (12, 8, 4))
    second = empirical_threshold((20, 60, 50), (4, 12, 8))
    assert first.samples == pytest.approx(second.samples, rel=1e-12)  # rounding of sums in another order


@pytest.mark.parametrize(
    ("shape", "rank", "beyond"),
    [
        ((94, 512, 712), 20, "sides of up to 60"),
        ((9, 9, 9), 2, "sizes of 27,000 to 125,000 voxels"),
        ((40, 40, 40), 25, "11 to 845 voxels a degree of freedom"),
        ((9, 9, 9, 9, 9), 2, r"numbers of modes, \[2, 3, 4\]"),
    ],
)
def test_threshold_says_when_it_extrapolates(shape: tuple[int, ...], rank: int, beyond: str) -> None:
    found = empirical_threshold(shape, rank)
    assert found.extrapolated
    assert re.search(f"extrapolated beyond the simulated {beyond}", found.sentence)


def test_ranks_above_the_product_of_the_others_count_as_that() -> None:
    assert empirical_threshold((40, 40, 40), (2, 3, 30)) == empirical_threshold((40, 40, 40), (2, 3, 6))


def test_empirical_threshold_refuses_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="rank 51 does not fit mode 0 of size 50"):
        empirical_threshold((50, 50, 50), 51)
    with pytest.raises(ValueError, match="rank has 2 entries, data has 3 axes"):
        empirical_threshold((50, 50, 50), (2, 2))
    with pytest.raises(ValueError, match="expected pattern 'uniform', 'planes', 'lines', got 'dots'"):
        empirical_threshold((50, 50, 50), 2, pattern="dots")  # type: ignore[arg-type]
    path = tmp_path / "table.h5"
    phase_transition((6, 6), [1], [0.9], path=path, trials=3, workers=1)
    with pytest.raises(ValueError, match="expected a table with at least 6 transitions of pattern 'uniform', got 0"):
        empirical_threshold((50, 50, 50), 2, table=path)
    with pytest.raises(ValueError, match="expected a table with at least 1 transitions of pattern 'lines', got 0"):
        empirical_threshold((50, 50, 50), 2, table=path, pattern="lines")
