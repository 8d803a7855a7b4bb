"""The streamed robust Tucker model against the one in memory, closed forms, planted truth and itself resumed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blocked_stacks import Reader, blocked, in_a_tree, partition

from tensorcell.solvers import (
    AdmmOptions,
    AdmmState,
    BlockedStack,
    CompletionResult,
    Status,
    fit_of_tile,
    hosvd,
    robust_tucker_admm,
    streamed_rank,
    streamed_tucker,
    unfold,
)
from tensorcell.solvers.admm import spectral_start
from tensorcell.solvers.slabs import model_planes
from tensorcell.solvers.streamed import fibre_indices, sample_indices, start_from_fibres

HUBER = AdmmOptions(fidelity="huber")
SHAPE, RANK = (12, 13, 14), (2, 3, 2)


@pytest.fixture
def problem(planted: Any) -> Any:
    """Noise, outliers and gaps; what was not observed is NaN."""
    return planted(SHAPE, RANK, seen=0.7, outliers=0.05, noise=0.1)


def numbers(fit: CompletionResult) -> list[tuple[float, ...]]:
    """What the history tells but the time."""
    return [(r.iteration, r.change, r.residual, r.outliers, r.threshold) for r in fit.history]


# ------------------------------------------------------------------------------------------------------------------
# Against the fit in memory.


@pytest.mark.parametrize(
    "options",
    [
        HUBER,
        replace(HUBER, acceleration=True),
        replace(HUBER, threshold=0.3, ridge=0.05),
        replace(HUBER, threshold=math.inf),
        replace(HUBER, adaptive=False),
    ],
    ids=["plain", "accelerated", "ridge", "least squares", "fixed"],
)
@pytest.mark.parametrize("complete", [False, True])
def test_a_stack_as_small_as_its_samples_is_fitted_as_in_memory(
    planted: Any, options: AdmmOptions, complete: bool
) -> None:
    one = planted(SHAPE, RANK, seen=1.0 if complete else 0.7, outliers=0.05, noise=0.1)
    options = replace(options, max_iterations=25, tolerance=0.0)
    wanted = robust_tucker_admm(one.data, one.mask, RANK, options=options)
    mask = None if complete else one.mask
    single = streamed_tucker(blocked(one.data, mask, cuts=0), RANK, options=options)
    np.testing.assert_array_equal(single.value, wanted.value)  # one block: bit for bit
    assert numbers(single) == numbers(wanted)
    for map_blocks in (map, in_a_tree):
        found = streamed_tucker(blocked(one.data, mask, map_blocks=map_blocks), RANK, options=options)
        # Rounding of 1e-15 a sweep, let grow by the iteration, which is no contraction far from its limit.
        np.testing.assert_allclose(found.value, wanted.value, atol=1e-9)
        np.testing.assert_allclose(numbers(found), numbers(wanted), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("seen", [1.0, 0.6])
@pytest.mark.parametrize("start_voxels", [1 << 22, 3000, 300])
def test_fit_from_samples_ends_at_the_minimum_that_the_fit_in_memory_finds(
    planted: Any, seen: float, start_voxels: int
) -> None:
    one = planted((20, 21, 22), RANK, seen=seen, outliers=0.02, noise=0.2)
    options = replace(HUBER, threshold=0.5, tolerance=1e-10, max_iterations=2000)
    wanted = robust_tucker_admm(one.data, one.mask, RANK, options=options)
    found = streamed_tucker(blocked(one.data, one.mask), RANK, options=options, start_voxels=start_voxels)
    assert wanted.status is found.status is Status.CONVERGED
    # A sweep moves the model by a few hundredths of its error at least, so by 1e-8 at most in all that would follow.
    assert np.linalg.norm(found.value - wanted.value) < 1e-7 * np.linalg.norm(wanted.value)


def test_planted_tensor_is_recovered_with_the_default_options(planted: Any) -> None:
    one = planted((30, 31, 32), (3, 3, 3), seen=0.5, outliers=0.05)
    fit = streamed_tucker(blocked(one.data, one.mask, cuts=20), 3, start_voxels=3000)
    assert one.error(fit.value) < 1e-4  # the threshold is halved ten times
    assert fit.rank == (3, 3, 3)
    assert len(fit.sparse.positions) == 0


def test_single_precision_stays_and_is_fitted_to_its_digits(planted: Any) -> None:
    one = planted(SHAPE, RANK)
    fit = streamed_tucker(blocked(one.data.astype(np.float32)), RANK)
    assert fit.value.dtype == np.float32
    assert fit.status is Status.CONVERGED  # at what single precision allows
    np.testing.assert_allclose(fit.value, one.truth, atol=1e-4)


def test_the_fit_follows_the_unit_of_the_data(problem: Any) -> None:
    fits = [streamed_tucker(blocked(scale * problem.data, problem.mask), RANK) for scale in (1.0, 2.0**20)]
    assert len(fits[0].history) == len(fits[1].history)
    np.testing.assert_allclose(fits[1].value, 2.0**20 * fits[0].value, rtol=1e-6, atol=2.0**20 * 1e-7)


# ------------------------------------------------------------------------------------------------------------------
# The start.


@pytest.mark.parametrize("masked", [False, True])
def test_start_from_some_fibres_spans_the_subspaces_of_the_planted_tensor(planted: Any, masked: bool) -> None:
    one = planted((20, 21, 22), RANK, seen=0.8 if masked else 1.0)
    stack = blocked(one.data, one.mask)
    samples = stack.samples(fibre_indices(stack.survey.counts, RANK, 6000 if masked else 600))
    assert sum(sample.data.size for sample in samples) < (6000 if masked else 600) < 0.75 * one.data.size
    _, factors = start_from_fibres(stack, samples, RANK)
    for mode, factor in enumerate(factors):
        unfolded = unfold(one.truth, mode)
        outside = np.linalg.norm(unfolded - factor @ (factor.T @ unfolded)) / np.linalg.norm(unfolded)
        assert outside < 0.2  # clipping at four spreads, and gaps, blur them; of random ones nine tenths lie outside


def test_a_start_that_is_given_is_taken(problem: Any) -> None:
    options = replace(HUBER, max_iterations=5, tolerance=0.0)
    data = np.nan_to_num(problem.data)
    start = spectral_start(data, problem.mask, RANK, robust=True)
    wanted = robust_tucker_admm(data, problem.mask, RANK, options=options)
    found = streamed_tucker(blocked(data, problem.mask, cuts=0), RANK, options=options, start=start, start_voxels=1)
    np.testing.assert_array_equal(found.value, wanted.value)


def test_indices_of_a_sample_are_evenly_spaced_among_the_observed_ones() -> None:
    counts = [np.array([0, 5, 0, 5] * 10), np.full(50, 9), np.full(3, 9)]
    indices = sample_indices(counts, (2, 5, 1), 300)
    assert 150 < math.prod(map(len, indices)) <= 300
    assert set(indices[0]) <= set(range(1, 40, 2))
    assert len(indices[2]) == 3  # few for each direction of the rank: thinned last
    for chosen, last in zip(indices, (39, 49, 2), strict=True):
        assert chosen[-1] == last
        steps = np.diff(chosen)
        assert steps.max() - steps.min() <= 2  # one index among those observed, every other one in the first mode
    assert [len(chosen) for chosen in sample_indices(counts, (2, 5, 1), 0)] == [1, 1, 1]


def test_samples_too_small_for_the_rank_still_start_the_fit(planted: Any) -> None:
    one = planted((20, 21, 22), (3, 3, 3))
    fit = streamed_tucker(blocked(one.data), 3, start_voxels=8)
    assert one.error(fit.value) < 1e-4


def test_a_plane_that_was_not_observed_stays_zero(problem: Any) -> None:
    mask = problem.mask.copy()
    mask[:, 5] = False
    fit = streamed_tucker(blocked(problem.data, mask), RANK)
    assert np.all(fit.tucker.factors[1][5] == 0)
    assert np.all(np.any(np.delete(fit.value, 5, axis=1) != 0, axis=(0, 2)))


# ------------------------------------------------------------------------------------------------------------------
# Blocks.


def test_blocks_without_observed_entries_and_what_stands_under_the_mask_change_nothing(problem: Any) -> None:
    blocks = partition(SHAPE, 25)
    mask = problem.mask.copy()
    empty = [
        block
        for block in blocks
        if all(part.stop - part.start <= size / 2 for part, size in zip(block, SHAPE, strict=True))
    ]
    assert len(empty) > 3
    for block in empty:
        mask[block] = False
    assert min(np.min(np.sum(mask, axis=tuple({0, 1, 2} - {n}))) for n in range(3)) > 30  # every index is observed
    options = replace(HUBER, threshold=0.5, tolerance=1e-10, max_iterations=2000)
    values = []
    for garbage in (np.nan, np.inf, 1e30, 0.0):
        data = np.where(mask, problem.data, garbage)
        values.append(streamed_tucker(BlockedStack(SHAPE, Reader(data, mask), blocks), RANK, options=options).value)
    for other in values[1:]:
        np.testing.assert_array_equal(other, values[0])
    wanted = robust_tucker_admm(problem.data, mask, RANK, options=options)
    assert np.linalg.norm(values[0] - wanted.value) < 1e-7 * np.linalg.norm(wanted.value)


def test_every_block_is_read_five_times_and_once_a_sweep(problem: Any) -> None:
    reader = Reader(problem.data, problem.mask)
    stack = BlockedStack(SHAPE, reader, partition(SHAPE, 9))
    fit = streamed_tucker(stack, RANK, options=replace(HUBER, max_iterations=5, tolerance=0.0))
    assert reader.read == list(stack.blocks) * (5 + len(fit.history))
    reader.read.clear()
    streamed_tucker(stack, RANK, options=replace(HUBER, max_iterations=3, tolerance=0.0), initial_state=fit.state)
    assert len(reader.read) == len(stack.blocks) * (1 + 3)  # what the stack was surveyed for is not asked again


# ------------------------------------------------------------------------------------------------------------------
# Going on.


@pytest.mark.parametrize("stop", [1, 10, 13])
@pytest.mark.parametrize("acceleration", [False, True])
def test_resumed_from_a_file_equals_straight_bit_for_bit(
    problem: Any, tmp_path: Path, acceleration: bool, stop: int
) -> None:
    def run(count: int, **more: Any) -> CompletionResult:
        options = replace(HUBER, acceleration=acceleration, max_iterations=count, tolerance=0.0)
        return streamed_tucker(blocked(problem.data, problem.mask), RANK, options=options, **more)

    straight = run(25)
    first = run(25, callback=lambda record, state: record.iteration == stop)
    assert first.status is Status.STOPPED
    second = run(25 - stop, initial_state=through_a_file(first.state, tmp_path / "state.npz"), history=first.history)
    np.testing.assert_array_equal(second.value, straight.value)
    assert numbers(second) == numbers(straight)
    seconds = [record.seconds for record in second.history]
    assert seconds == sorted(seconds)


def through_a_file(state: AdmmState, path: Path) -> AdmmState:
    """The state, saved and read again."""
    plain = {name: getattr(state, name) for name in ("threshold", "start", "iteration", "momentum", "change")}
    old_core, old_factors = state.previous
    arrays = (state.core, *state.factors, old_core, *old_factors)
    np.savez(path, **{f"a{n}": array for n, array in enumerate(arrays)}, **plain)
    with np.load(path) as file:
        core, *rest = (file[f"a{n}"] for n in range(len(arrays)))
        k = len(state.factors)
        read: dict[str, Any] = {name: file[name].item() for name in plain}
    return AdmmState(core=core, factors=tuple(rest[:k]), dual=None, previous=(rest[k], tuple(rest[k + 1 :])), **read)


# ------------------------------------------------------------------------------------------------------------------
# Tiles.


def test_fit_of_a_tile_is_the_tile_of_the_fit(problem: Any) -> None:
    fit = streamed_tucker(blocked(problem.data, problem.mask), RANK)
    tile = (slice(3, 9), slice(0, 13), slice(5, 6))  # thinner than the rank
    part = fit_of_tile(fit, tile)
    np.testing.assert_allclose(part.value, fit.value[tile], atol=1e-12)
    np.testing.assert_allclose(model_planes(part, slice(2, 4)), fit.value[5:7, :, 5:6], atol=1e-12)
    assert part.outliers.shape == (6, 13, 1)
    assert not np.any(part.outliers)
    assert (part.rank, part.status, part.history, part.state) == (fit.rank, fit.status, fit.history, None)


@pytest.mark.parametrize("tile", [(slice(0, 2), slice(0, 2)), (slice(0, 4, 2), slice(0, 2), slice(0, 2))])
def test_fit_of_a_tile_refuses_what_is_none(problem: Any, tile: Any) -> None:
    fit = robust_tucker_admm(problem.data, problem.mask, RANK)
    with pytest.raises(ValueError, match="expected a tile as 3 slices without a step, got"):
        fit_of_tile(fit, tile)


# ------------------------------------------------------------------------------------------------------------------
# Rank.


@pytest.mark.parametrize("seen", [1.0, 0.5])
def test_rank_of_a_sample_is_that_of_a_planted_tensor(planted: Any, seen: float) -> None:
    one = planted((60, 50, 40), (3, 4, 2), seen=seen, noise=0.05)
    found = streamed_rank(blocked(one.data, one.mask), voxels=30_000)
    assert found.rank == (3, 4, 2)
    assert "of a sample of" in found.reason


def test_rank_is_judged_by_the_fit_that_is_given(planted: Any) -> None:
    one = planted((30, 30, 30), (3, 4, 2), seen=0.5, noise=0.05)
    asked: list[tuple[int, ...]] = []

    def fit(data: Any, mask: Any, rank: Any) -> CompletionResult:
        assert np.all(np.isfinite(data))
        asked.append(rank)
        return robust_tucker_admm(data, mask, rank, options=replace(HUBER, max_iterations=20))

    assert streamed_rank(blocked(one.data, one.mask), fit=fit).rank in asked


# ------------------------------------------------------------------------------------------------------------------
# Arguments.


def without_sample(shape: tuple[int, ...]) -> BlockedStack:
    """Observed on a diagonal, which a few indices of each mode may miss."""
    mask = np.zeros(shape, bool)
    mask[np.arange(shape[0]), np.arange(shape[0]), np.arange(shape[0])[::-1]] = True
    return blocked(np.ones(shape), mask)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: streamed_tucker(s, 2, options=AdmmOptions()), "expected fidelity 'huber'.*, got 'equality'"),
        (lambda s: streamed_tucker(s, (2, 2)), "rank has 2 entries, data has 3 axes"),
        (
            lambda s: streamed_tucker(s, 2, start=hosvd(np.ones((6, 5, 4)), (1, 2, 2))),
            r"start has a core and factors of shapes .*\(1, 2, 2\).*, expected \[\(2, 2, 2\), \(6, 2\)",
        ),
        (
            lambda s: streamed_tucker(s, 1, initial_state=streamed_tucker(s, 2).state),
            r"state has rank \(2, 2, 2\), expected \(1, 1, 1\)",
        ),
        (
            lambda s: streamed_tucker(without_sample((9, 9, 9)), 1, start_voxels=1),
            "expected observed entries in the sample of 9 x 1 x 1 voxels, got none",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_refused(call: Callable[[BlockedStack], Any], message: str) -> None:
    data = np.random.default_rng(0).random((6, 5, 4))
    with pytest.raises(ValueError, match=message):
        call(blocked(data))
