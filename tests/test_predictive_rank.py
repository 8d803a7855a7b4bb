"""The rank that predicts left-out voxels best: the choice among errors, the ranks tried, planted ranks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tensorcell.fitting import Fitting
from tensorcell.solvers import CompletionResult, RankEstimate, degrees_of_freedom, predictive_rank
from tensorcell.solvers.predictive_rank import (
    Candidates,
    choose_rank,
    has_empty_lines,
    rank_of_complete,
    read_ranks,
    smallest_error,
)


def half_normal(count: int = 4000, seed: int = 0) -> np.ndarray:
    """Absolute values of normal errors of standard deviation 1."""
    return np.abs(np.random.default_rng(seed).standard_normal(count))


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_smallest_error_wins_and_the_preferred_one_a_draw_only(unit: float) -> None:
    """A rank that was read from the data is kept for a hundredth of the error, not for a twentieth of it."""
    errors = unit * half_normal()
    assert smallest_error([1.2 * errors, 1.1 * errors, errors, 1.1 * errors], preferred=False) == 2
    assert smallest_error([1.01 * errors, errors], preferred=True) == 0
    assert smallest_error([1.01 * errors, errors], preferred=False) == 1
    assert smallest_error([1.05 * errors, errors], preferred=True) == 1
    assert smallest_error([1.2 * errors, 1.01 * errors, errors], preferred=True) == 2  # only the first is preferred


@pytest.mark.parametrize("outlier", [20.0, 1e3, 2e4])  # the last: hot pixels in a dim stack
def test_smallest_error_does_not_ask_who_misses_an_outlier_by_less(outlier: float) -> None:
    """One left-out voxel in a hundred is wrong; an estimate half as far from it, but worse elsewhere, loses."""
    good, bad = half_normal(seed=1), 1.1 * half_normal(seed=1)
    good[::100], bad[::100] = outlier, outlier / 2
    assert smallest_error([bad, good], preferred=False) == 1
    assert smallest_error([good, bad], preferred=False) == 0


def test_smallest_error_counts_the_structures_of_a_nearly_empty_volume() -> None:
    """Nineteen voxels in twenty are empty and predicted exactly: what counts is the rest, which no cap may cut off."""
    near, far = np.full(2000, 1e-9), np.full(2000, 1e-9)
    near[::20], far[::20] = 1.0, 3.0
    assert smallest_error([far, near], preferred=False) == 1


def estimate(rank: tuple[int, ...]) -> RankEstimate:
    return RankEstimate(rank=rank, spectra=(), thresholds=(), noise=math.nan, reason="")


def test_candidates_are_the_estimates_and_shares_of_the_sides() -> None:
    found = Candidates(estimate((3, 9, 4)), estimate((2, 5, 5)), ended=True)
    ranks = found.ranks((20, 40, 60), observed=1e9)
    assert ranks[:2] == [(2, 5, 5), (3, 9, 4)]  # the residual's first: it is the preferred one
    # A tenth of the sides is where the rank of smooth volumes lies, a third where that of textured ones does.
    assert ranks[2] == (2, 4, 6)
    shares = np.array(ranks[2:]) / (20, 40, 60)
    assert (np.diff(shares, axis=0) > 0).all()
    assert shares.min() <= 0.1 < 0.3 < shares.max() < 0.5


@pytest.mark.parametrize("observed", [100, 1000, 5000])
def test_candidates_have_fewer_unknowns_than_a_quarter_of_the_samples(observed: int) -> None:
    found = Candidates(estimate((20, 40, 60)), estimate((10, 20, 30)), ended=False)
    for rank in found.ranks((12, 40, 60), observed):
        assert all(1 <= r <= size for r, size in zip(rank, (12, 40, 60), strict=True))
        # A rank of one cannot be lowered: 110 unknowns.
        assert degrees_of_freedom(rank, (12, 40, 60)) <= max(observed / 4, 110)


def test_has_empty_lines() -> None:
    mask = np.zeros((3, 4, 5), bool)
    for plane in range(3):
        mask[plane, [plane, 3], :] = True
    assert not has_empty_lines(mask)
    assert has_empty_lines(np.where(np.arange(4)[:, None] == 3, False, mask))  # row 3
    assert has_empty_lines(np.where(np.arange(5) == 3, False, mask))  # column 3


@pytest.mark.parametrize("rank", [(2, 3, 3), (1, 2, 2)])
def test_choose_rank_finds_a_planted_rank(planted: Callable[..., Any], rank: tuple[int, ...]) -> None:
    """A tensor whose singular values stand out of the noise gets its rank, although larger ones are tried, too."""
    found = planted((12, 32, 32), rank, seen=0.8, noise=0.1, outliers=0.01, seed=1)
    stack = np.nan_to_num(found.data)
    chosen = choose_rank(stack, found.mask, Fitting().quick(), noise=0.1, neighbours=False)
    assert chosen.rank == rank
    assert "left-out" not in chosen.reason or chosen.spectra  # it is the estimate from the data, with its spectra


def test_choose_rank_takes_the_best_of_the_ranks_that_were_tried_and_shows_none_the_left_out_voxels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where the estimates from the data are poor, the error at left-out voxels overrules them."""
    rng = np.random.default_rng(0)
    factors = [np.linalg.qr(rng.standard_normal((n, n)))[0] * 0.7 ** np.arange(n) for n in (12, 32, 32)]
    truth = np.einsum("abc,ia,jb,kc->ijk", rng.standard_normal((12, 32, 32)), *factors, optimize=True)
    stack = truth / truth.std() + 0.1 * rng.standard_normal(truth.shape)
    mask = rng.random(stack.shape) < 0.9
    poor = Candidates(estimate((12, 32, 32)), estimate((1, 1, 1)), ended=True)
    monkeypatch.setattr(predictive_rank, "read_ranks", lambda *_: poor)
    fit, seen = Fitting().quick(), []

    def spy(y: np.ndarray, training: np.ndarray, rank: tuple[int, ...]) -> CompletionResult:
        seen.append((training, fit(np.where(training, y, 0), training, rank)))
        return seen[-1][1]

    chosen = choose_rank(stack, mask, spy, neighbours=False)
    training = seen[0][0]
    assert all(np.array_equal(training, other) for other, _ in seen)
    left_out = mask & ~training
    assert not (training & ~mask).any()
    # One in twenty of 11 000 voxels is left out: 550, give or take four times 23.
    assert left_out.sum() == pytest.approx(0.05 * mask.sum(), abs=92)
    errors = {one.rank: np.sqrt(np.mean((one.value - stack)[left_out] ** 2)) for _, one in seen}
    assert len(errors) == len(seen) > 3  # no rank is tried twice
    assert chosen.rank == min(errors, key=lambda rank: errors[rank]) != (1, 1, 1)


def test_choose_rank_of_too_few_voxels_trusts_the_spectra() -> None:
    """Without a hundred left-out voxels nothing is tried."""
    rng = np.random.default_rng(0)
    stack, mask = 5 + rng.random((5, 12, 12)), rng.random((5, 12, 12)) < 0.9

    def never(*_: Any) -> CompletionResult:
        raise AssertionError("nothing is to be fitted")

    rank = choose_rank(stack, mask, never).rank
    assert degrees_of_freedom(rank, stack.shape) <= mask.sum() / 5


def test_read_ranks_tells_whether_the_spectrum_ends(planted: Callable[..., Any]) -> None:
    """A tensor of rank 3 has an end within a third of the sides; factors without an end have none."""
    found = planted((12, 32, 32), (2, 3, 3), noise=0.05, seed=1)
    low = read_ranks(found.data, found.mask, 1.0, 0.05, 0)
    assert (low.residual.rank, low.ended) == ((2, 3, 3), True)
    endless = planted((12, 32, 32), (12, 30, 30), noise=0.05, seed=1)
    assert not read_ranks(endless.data, endless.mask, 1.0, 0.05, 0).ended


@pytest.mark.parametrize("share", [0.9, 0.5, 0.1])
def test_choose_rank_tries_on_a_block_of_limited_size(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    """About 125 000 measured voxels are enough, and no more than 300 000 are looked at however few are measured."""
    rng = np.random.default_rng(0)
    stack, mask = rng.random((50, 90, 90)), rng.random((50, 90, 90)) < share
    few = Candidates(estimate((2, 2, 2)), estimate((2, 2, 2)), ended=True)
    monkeypatch.setattr(predictive_rank, "read_ranks", lambda *_: few)

    class LookedAtError(Exception):
        pass

    def stop(y: np.ndarray, training: np.ndarray, rank: tuple[int, ...]) -> CompletionResult:
        # Sides are rounded: half a voxel of 35 on each.
        assert y.size == pytest.approx(min(125_000 / share, 300_000), rel=0.05)
        raise LookedAtError

    with pytest.raises(LookedAtError):
        choose_rank(stack, mask, stop)


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("rank", [(2, 2, 2), (4, 3, 5), (8, 8, 8)])
@pytest.mark.parametrize("seed", range(3))
def test_the_rank_of_a_complete_stack_is_read_from_its_spectra(noise: float, rank: tuple[int, ...], seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (24, 32, 40)
    core = rng.standard_normal(rank)
    tensor = np.einsum("abc,ia,jb,kc->ijk", core, *(rng.standard_normal(s) for s in zip(shape, rank, strict=True)))
    tensor /= tensor.std()

    def fit(*_: object) -> CompletionResult:
        pytest.fail("no trial is needed")

    data = tensor + noise * rng.standard_normal(shape)
    found = choose_rank(data, np.ones(shape, bool), fit)
    assert found.rank == rank
    assert choose_rank(1e6 * data - 7e5, np.ones(shape, bool), fit).rank in (rank, tuple(r + 1 for r in rank))


def test_the_noise_of_a_complete_stack_is_that_of_the_flattest_spectrum() -> None:
    # Along z half of the directions and more hold structure, so that its median eigenvalue is no noise.
    rng = np.random.default_rng(0)
    factors = [rng.standard_normal((size, 5)) for size in (8, 40, 44)]
    tensor = np.einsum("abc,ia,jb,kc->ijk", rng.standard_normal((5, 5, 5)), *factors)
    data = tensor / tensor.std() + 0.1 * rng.standard_normal(tensor.shape)
    found = rank_of_complete(data)
    assert found.rank[1:] == (5, 5)
    assert found.rank[0] == 4  # no more than half of the planes can be told from noise
    assert found.noise == pytest.approx(0.1, rel=0.03)  # 14 080 voxels; the median of 44 eigenvalues
    assert rank_of_complete(data, noise=3.0).rank < found.rank
