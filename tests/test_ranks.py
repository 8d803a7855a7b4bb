"""Ranks: planted ones found, degrees of freedom against the tangent space, and what a budget allows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tensorcell.datasets import planted_tucker
from tensorcell.solvers import block_ranks, complete_tucker, estimate_rank, hosvd, ranks
from tensorcell.solvers.problem import Problem
from tensorcell.solvers.rank_limits import affordable, degrees_of_freedom
from tensorcell.solvers.rank_spectra import has_outliers
from tensorcell.solvers.subspaces import subgrid


@pytest.mark.parametrize(
    ("shape", "rank"), [((40, 41, 42), (3, 3, 3)), ((30, 44, 40), (2, 2, 2)), ((20, 21, 22), (1, 1, 1))]
)
@pytest.mark.parametrize("observed", [0.3, 0.5])
@pytest.mark.parametrize("seed", [0, 3])
def test_estimate_rank_finds_planted_ranks_under_gaps_outliers_and_noise(
    shape: tuple[int, ...], rank: tuple[int, ...], observed: float, seed: int
) -> None:
    planted = planted_tucker(shape, rank, observed=observed, outliers=0.02, noise=0.05, seed=seed)
    assert estimate_rank(planted.data, planted.mask).rank == rank


def test_estimate_rank_finds_the_planted_rank_of_four_modes() -> None:
    planted = planted_tucker((16, 18, 20, 17), (2, 2, 2, 2), observed=0.3, seed=0)
    assert estimate_rank(planted.data, planted.mask).rank == (2, 2, 2, 2)


PLANTED = [
    ((40, 40, 40), (3, 3, 3), 0.1),
    ((30, 50, 60), (3, 5, 8), 0.15),
    ((40, 40, 40), (6, 10, 12), 0.4),
    ((50, 50, 50), (20, 20, 20), 1.0),
]


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.316])  # none, 20 dB, 10 dB
@pytest.mark.parametrize("outliers", [0.0, 0.05])
@pytest.mark.parametrize(("shape", "rank", "observed"), PLANTED)
def test_estimate_rank_is_exact_under_masks_noise_and_outliers(
    shape: tuple[int, ...], rank: tuple[int, ...], observed: float, outliers: float, noise: float
) -> None:
    """At least six observed entries for each unknown: far enough above where completion starts to work."""
    planted = planted_tucker(shape, rank, observed=observed, outliers=outliers, noise=noise, seed=1)
    assert estimate_rank(planted.data, planted.mask).rank == rank


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.316])
def test_estimate_rank_of_a_matrix_without_outliers_is_exact(noise: float) -> None:
    """With outliers no rank of a matrix is promised: each one looks like a direction."""
    planted = planted_tucker((60, 70), (3, 3), observed=0.8, noise=noise, seed=1)
    assert estimate_rank(planted.data, planted.mask).rank == (3, 3)


@pytest.mark.parametrize("observed", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_estimate_rank_sees_nothing_in_noise(observed: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    noise = 5.0 + rng.standard_normal((40, 45, 50))
    assert estimate_rank(noise, rng.random(noise.shape) < observed).rank == (1, 1, 1)


@pytest.mark.parametrize("method", ["ratio", "threshold", "core", "residual", "holdout"])
def test_every_method_finds_an_easy_rank(method: Any) -> None:
    """Nearly all of the entries, little noise: what even the roughest method must get right."""
    planted = planted_tucker((40, 41, 42), (2, 2, 2), observed=0.95, noise=0.02, seed=3)
    found = estimate_rank(planted.data, planted.mask, method=method)
    if method == "threshold":  # may see one direction of the gaps
        assert all(2 <= r <= 3 for r in found.rank)
    else:
        assert found.rank == (2, 2, 2)
    assert len(found.spectra) == len(found.thresholds) == 3
    for spectrum, threshold in zip(found.spectra, found.thresholds, strict=True):
        assert list(spectrum) == sorted(spectrum, reverse=True)
        assert spectrum[1] > threshold  # what was counted is above what it was measured by


def test_noise_is_estimated_where_it_is_not_given() -> None:
    planted = planted_tucker((40, 41, 42), (3, 3, 3), observed=0.5, outliers=0.05, noise=0.2, seed=0)
    # Robust scale of 36 000 residuals: 1 %, and a bias of the outliers' share.
    assert estimate_rank(planted.data, planted.mask).noise == pytest.approx(0.2, rel=0.1)


def test_left_out_entries_lower_a_rank_that_fits_but_does_not_predict() -> None:
    """Noise whose size differs from plane to plane shows directions that predict nothing."""
    rng = np.random.default_rng(0)
    planted = planted_tucker((40, 41, 42), (3, 3, 3), observed=0.5, seed=0)
    loud = np.where(np.arange(40) % 10 == 0, 3.0, 0.1)[:, None, None] * rng.standard_normal(planted.truth.shape)
    shown, chosen = (estimate_rank(planted.truth + loud, planted.mask, method=m).rank for m in ("residual", "holdout"))
    assert all(3 <= a < b for a, b in zip(chosen, shown, strict=True))


@pytest.mark.parametrize("observed", [0.3, 1.0])
@pytest.mark.parametrize("count", ["gram", "subspaces"])
def test_directions_are_counted_from_the_edge_of_noise_upwards(count: str, observed: float) -> None:
    rng = np.random.default_rng(0)
    shape, mode = (20, 60, 61), 0  # many more columns than rows, as in a volume
    factors = [np.linalg.qr(rng.standard_normal((size, 4)))[0] for size in shape]
    outside = np.linalg.qr(np.c_[factors[0], rng.standard_normal((20, 1))])[0][:, 4]
    direction = np.einsum("i,j,k->ijk", outside, factors[1][:, 0], factors[2][:, 0])

    def found(strength: float) -> int:
        residual = (rng.standard_normal(shape) + strength * direction) * (rng.random(shape) < observed)
        if count == "gram":
            return ranks.beyond_noise_in_gram(residual, factors[0], mode, observed)
        return ranks.beyond_noise_in_subspaces(residual, factors, mode, observed)

    # Edges of the noise by random matrices: Wigner's of the Gram matrix, whose eigenvalues are squares of strengths,
    # and that of a matrix of 20 rows and 16 columns. What noise alone shows varies by some per cent around them.
    edge = (2 * math.sqrt(20 * 3660)) ** 0.5 if count == "gram" else math.sqrt(20) + 4
    edge /= math.sqrt(observed)
    assert [found(0.0) for _ in range(20)] == [0] * 20
    assert [found(1.3 * edge) for _ in range(20)] == [1] * 20


def test_a_fit_that_missed_the_model_is_no_argument_against_its_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    planted = planted_tucker((30, 31, 32), (3, 3, 3), observed=0.5, noise=0.3, seed=0)
    problem = Problem(planted.data, planted.mask)
    found, fit = ranks.from_residual(problem, planted.data.shape, None)
    assert found.rank == (3, 3, 3)
    nowhere = hosvd(0.1 * np.random.default_rng(0).standard_normal(planted.data.shape), (3, 3, 3))

    def lost(data: Any, mask: Any, rank: Any, **options: Any) -> Any:
        result = complete_tucker(data, mask, rank, **options)
        # Its residual is the whole signal: some three times the noise.
        return replace(result, tucker=nowhere) if rank == (3, 3, 3) else result

    monkeypatch.setattr(ranks, "complete_tucker", lost)
    assert ranks.arbitrate(problem, found, fit, seed=0).rank == (3, 3, 3)


def test_what_stands_clear_of_the_noise_is_among_the_ranks_tried() -> None:
    # The rank found is twice the true one, and so no share of it (a third, .6, .8) is near enough to half.
    planted = planted_tucker((30, 31, 32), (3, 3, 3), observed=0.5, noise=0.1, seed=0)
    problem = Problem(planted.data, planted.mask)
    fit = ranks.fitted(problem, (6, 6, 6), None, True)
    # Directions of noise that exceed their edge a little, as they do where the noise is uneven.
    fit = fit._replace(edges=tuple(float(values[3]) / 1.2 for values in fit.spectra))
    found = replace(estimate_rank(planted.data, planted.mask, method="residual"), rank=(6, 6, 6))
    assert ranks.arbitrate(problem, found, fit, seed=0).rank == (3, 3, 3)


@pytest.mark.parametrize(("worse", "chosen"), [(0.9, (3, 3, 3)), (1.1, (4, 4, 4))])
def test_the_smallest_rank_within_one_standard_error_of_the_best_is_taken(
    monkeypatch: pytest.MonkeyPatch, worse: float, chosen: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(0)
    data = rng.standard_normal((20, 21, 22))
    best, drawn = rng.uniform(1.0, 2.0, data.shape), rng.standard_normal(data.shape)
    left_out = np.zeros(data.shape, bool)

    def fit(data: Any, mask: Any, rank: Any, **options: Any) -> Any:
        left_out[...] = ~mask
        return SimpleNamespace(tucker=hosvd(data, rank))

    def residuals(data: Any, core: Any, factors: Any) -> Any:
        # Squared errors of rank 3 are above those of rank 4 by so many standard errors; others are far above.
        change = (drawn - drawn[left_out].mean()) / drawn[left_out].std() + worse / math.sqrt(left_out.sum())
        yield slice(0, len(data)), np.sqrt(best + {4: 0.0, 3: 0.1 * change, 2: 1.0, 1: 2.0}[core.shape[0]])

    monkeypatch.setattr(ranks, "complete_tucker", fit)
    monkeypatch.setattr(ranks, "residuals", residuals)
    problem = Problem(data, np.ones(data.shape, bool))
    found = ranks.RankEstimate(rank=(4, 4, 4), spectra=(), thresholds=(), noise=1.0, reason="found")
    largest = ranks.Fit(hosvd(data, (4, 4, 4)), 1.0, [np.ones(4)] * 3, (0.5,) * 3)
    estimate = ranks.arbitrate(problem, found, largest, seed=0)
    assert estimate.rank == chosen
    assert estimate.reason == (
        "found" if chosen == (4, 4, 4) else "predicts left-out entries as well as rank (4, 4, 4), the best of 4"
    )


def test_bright_structures_on_zeros_are_not_taken_for_outliers() -> None:
    """Most voxels are exactly 0, so every robust scale is 0 too."""
    z, y, x = np.mgrid[:16, :40, :44]
    fibre = 200 * np.exp(-((y - 20 - 8 * np.sin(x / 6)) ** 2 + (z - 8) ** 2) / 6)
    fibre[fibre < 1] = 0
    assert min(estimate_rank(fibre, method="residual").rank[1:]) > 4


def test_a_subgrid_stands_for_a_large_tensor() -> None:
    planted = planted_tucker((60, 70, 80), (3, 4, 5), observed=0.4, seed=0)
    assert estimate_rank(planted.data, planted.mask, voxels=100_000).rank == (3, 4, 5)


def test_block_ranks_are_those_of_the_blocks() -> None:
    parts = [planted_tucker((20, 24, 26), (r, r, r), seed=r).truth for r in (1, 2, 3)]
    found = block_ranks(np.concatenate(parts), block=(20, 24, 26))
    assert found.ranks == ((1, 1, 1), (2, 2, 2), (3, 3, 3))
    assert found.corners == ((0, 0, 0), (20, 0, 0), (40, 0, 0))


def test_block_ranks_cover_everything_and_leave_empty_blocks_out() -> None:
    data = planted_tucker((20, 21, 22), (2, 2, 2), seed=0).truth
    mask = np.ones(data.shape, bool)
    mask[:8, :8, :8] = False
    found = block_ranks(data, mask, block=8)
    covered = np.zeros(data.shape, bool)
    for corner in found.corners:
        covered[tuple(slice(first, first + 8) for first in corner)] = True
    assert (covered | ~mask).all()
    assert (0, 0, 0) not in found.corners


@pytest.mark.parametrize("block", [1, (4, 4), (4, 4, 0)])
def test_block_ranks_reject_blocks_that_do_not_fit(block: Any) -> None:
    with pytest.raises(ValueError, match="expected 3 block sizes of at least 2, got"):
        block_ranks(np.ones((8, 8, 8)), block=block)


def test_estimate_rank_ignores_what_lies_under_the_mask() -> None:
    planted = planted_tucker((30, 31, 32), (2, 2, 2), observed=0.5, seed=1)
    filled = np.where(planted.mask, planted.data, 1e30)
    a, b = estimate_rank(planted.data, planted.mask), estimate_rank(filled, planted.mask)
    assert a == b
    assert a.rank == (2, 2, 2)


@pytest.mark.parametrize("rank", [(1, 1, 1), (2, 3, 4), (5, 4, 6)])
def test_estimate_rank_is_exact_where_everything_is_known(rank: tuple[int, ...]) -> None:
    planted = planted_tucker((20, 21, 22), rank, seed=2)
    assert estimate_rank(planted.truth).rank == rank


def test_estimate_rank_leaves_noise_out_whether_it_is_told_or_not() -> None:
    planted = planted_tucker((20, 40, 42), (3, 4, 2), noise=0.05, seed=4)
    assert estimate_rank(planted.data, noise=0.055).rank == (3, 4, 2)
    assert estimate_rank(planted.data).rank == (3, 4, 2)


@pytest.mark.parametrize("factor", [2.0**-30, 2.0**20])
@pytest.mark.parametrize("observed", [0.4, 1.0])
def test_estimate_rank_is_free_of_the_unit(factor: float, observed: float) -> None:
    planted = planted_tucker((20, 21, 22), (3, 2, 4), observed=observed, outliers=0.02, noise=0.1, seed=5)
    one = estimate_rank(planted.data, planted.mask, noise=0.1)
    other = estimate_rank(factor * planted.data, planted.mask, noise=factor * 0.1)
    assert other.rank == one.rank
    for a, b in zip(one.spectra, other.spectra, strict=True):
        # Powers of two scale floats exactly; the eigensolver may still take another path in its last digits, and a fit
        # ends within its tolerance of 1e-4.
        np.testing.assert_allclose(b, np.multiply(a, factor), rtol=1e-4)


def test_estimate_rank_follows_a_permutation_of_the_axes() -> None:
    planted = planted_tucker((24, 30, 36), (2, 3, 3), observed=0.5, seed=6)
    rank = estimate_rank(planted.data, planted.mask).rank
    assert len(set(rank)) > 1
    for order in itertools.permutations(range(3)):
        turned = estimate_rank(planted.data.transpose(order), planted.mask.transpose(order))
        assert turned.rank == tuple(rank[axis] for axis in order)


def test_estimate_rank_never_asks_for_more_than_the_entries_can_pay() -> None:
    """Two observed entries must stand behind every unknown."""
    planted = planted_tucker((12, 13, 14), (6, 6, 6), observed=0.2, seed=0)
    for method in ("threshold", "residual", "auto"):
        found = estimate_rank(planted.data, planted.mask, method=method)
        assert degrees_of_freedom(found.rank, planted.data.shape) <= planted.mask.sum() / 2


def test_estimate_rank_of_zeros_is_one_and_says_so() -> None:
    found = estimate_rank(np.zeros((5, 6, 7)))
    assert (found.rank, found.noise, found.reason) == ((1, 1, 1), 0.0, "all zero")


def test_too_few_left_out_entries_decide_nothing() -> None:
    planted = planted_tucker((7, 7, 7), (2, 2, 2), seed=0)  # a tenth of 343 entries is less than fifty
    assert estimate_rank(planted.truth) == estimate_rank(planted.truth, method="residual")


def test_data_of_which_a_subgrid_shows_nothing_are_not_clipped() -> None:
    mask = np.zeros((70, 71, 72), bool)  # more than 2^18 entries
    missed = [
        sorted(set(range(size)) - set(kept.tolist()))
        for size, kept in zip(mask.shape, subgrid(mask.shape, 1 << 18, 0), strict=True)
    ]
    mask[tuple(some[0] if some else 0 for some in missed)] = True
    assert any(missed)
    assert not has_outliers(np.ones(mask.shape), mask)


def test_estimate_rank_limits() -> None:
    truth = planted_tucker((20, 21, 22), (4, 4, 4), seed=0).truth
    assert estimate_rank(truth, max_rank=3).rank == (3, 3, 3)
    assert estimate_rank(truth, max_rank=(4, 2, 3)).rank == (4, 2, 3)


@pytest.mark.parametrize("limits", [0, (2, 2), (3, 0, 3)])
def test_estimate_rank_rejects_limits_that_do_not_fit(limits: Any) -> None:
    with pytest.raises(ValueError, match="expected 3 limits of at least 1 as max_rank, got"):
        estimate_rank(np.ones((4, 5, 6)), max_rank=limits)


def test_estimate_rank_rejects_an_unknown_method() -> None:
    with pytest.raises(ValueError, match=r"expected method 'auto', 'ratio', .* got 'guess'"):
        estimate_rank(np.ones((4, 5, 6)), method="guess")  # type: ignore[arg-type]


@pytest.mark.parametrize("noise", [-1.0, np.nan, np.inf])
def test_estimate_rank_rejects_noise_that_is_no_standard_deviation(noise: float) -> None:
    with pytest.raises(ValueError, match="expected noise as a standard deviation of at least 0, got"):
        estimate_rank(np.ones((4, 5, 6)), noise=noise)


def test_estimate_rank_rejects_what_complete_tucker_rejects() -> None:
    with pytest.raises(ValueError, match=r"mask has shape \(4, 5\), data has shape \(4, 5, 6\)"):
        estimate_rank(np.ones((4, 5, 6)), np.ones((4, 5), bool))
    with pytest.raises(ValueError, match="expected at least one observed entry"):
        estimate_rank(np.ones((4, 5, 6)), np.zeros((4, 5, 6), bool))
    with pytest.raises(ValueError, match="expected finite values at observed entries"):
        estimate_rank(np.full((4, 5, 6), np.nan))


# -------------------------------------------------------------------------------------- degrees of freedom


def test_degrees_of_freedom_closed_forms() -> None:
    assert degrees_of_freedom((1, 1, 1), (7, 8, 9)) == 7 + 8 + 9 - 2  # rank one: three directions and a size
    assert degrees_of_freedom((7, 8, 9), (7, 8, 9)) == 7 * 8 * 9  # full rank: every entry
    assert degrees_of_freedom((3, 3), (10, 12)) == 3 * (10 + 12 - 3)  # matrices


def tangent_dimension(rank: Sequence[int], shape: Sequence[int]) -> int:
    """Rank of the Jacobian of (core, factors) -> tensor at a random point, column by column from its definition."""
    rng = np.random.default_rng(0)
    core = rng.standard_normal(rank)
    factors = [rng.standard_normal((size, r)) for size, r in zip(shape, rank, strict=True)]

    def tensor(core: np.ndarray, factors: Sequence[np.ndarray]) -> np.ndarray:
        for mode, factor in enumerate(factors):
            core = np.moveaxis(np.tensordot(factor, core, (1, mode)), 0, mode)
        return core.ravel()

    # The map is linear in each argument, so replacing one argument by a unit vector gives an exact derivative.
    columns = [tensor(unit.reshape(core.shape), factors) for unit in np.eye(core.size)]
    for mode, factor in enumerate(factors):
        for unit in np.eye(factor.size):
            columns.append(tensor(core, [*factors[:mode], unit.reshape(factor.shape), *factors[mode + 1 :]]))
    return int(np.linalg.matrix_rank(np.stack(columns)))


@pytest.mark.parametrize(
    ("rank", "shape"),
    [
        ((2, 2, 2), (4, 5, 3)),
        ((1, 2, 2), (3, 4, 5)),
        ((3, 2, 2), (3, 4, 4)),
        ((2, 2), (4, 5)),
        ((2, 1, 2, 1), (3, 2, 3, 3)),
    ],
)
def test_degrees_of_freedom_is_the_dimension_of_the_tangent_space(rank: Sequence[int], shape: Sequence[int]) -> None:
    assert degrees_of_freedom(rank, shape) == tangent_dimension(rank, shape)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=2, max_size=4),
    st.floats(1, 1e4),
)
def test_affordable_is_valid_and_within_the_budget(modes: list[tuple[int, int]], unknowns: float) -> None:
    shape = tuple(max(pair) for pair in modes)
    rank = tuple(min(pair) for pair in modes)
    found = affordable(rank, shape, unknowns)
    assert all(1 <= new <= old for new, old in zip(found, rank, strict=True))
    assert all(found[n] <= math.prod(found[:n]) * math.prod(found[n + 1 :]) for n in range(len(found)))
    assert degrees_of_freedom(found, shape) <= unknowns or max(found) == 1


def test_affordable_keeps_a_rank_that_can_be_paid() -> None:
    assert affordable((3, 4, 5), (20, 21, 22), 1e6) == (3, 4, 5)
    assert affordable((9, 2, 2), (20, 21, 22), 1e6) == (4, 2, 2)


def test_affordable_lowers_all_modes_together() -> None:
    """Down from (10, 20, 20): proportions stay, and the next larger step would not fit."""
    found = affordable((10, 20, 20), (100, 200, 200), 5000)
    assert found[1] == found[2]
    assert abs(found[1] - 2 * found[0]) <= 1
    assert (
        degrees_of_freedom(found, (100, 200, 200)) <= 5000 < degrees_of_freedom([r + 1 for r in found], (100, 200, 200))
    )
