"""Sums over the blocks of a stack against the same of the whole."""

from __future__ import annotations

import pickle
import weakref
from functools import partial
from itertools import permutations
from operator import add
from typing import Any

import numpy as np
import pytest
from blocked_stacks import Reader, blocked, in_a_tree, partition

from tensorcell.solvers import BlockedStack, BlockSums, block_sums
from tensorcell.solvers.blocks import Sample, sums_of_block
from tensorcell.solvers.rules import Rule
from tensorcell.solvers.subspaces import ResidualGrid
from tensorcell.solvers.sweeps import Sweep, sweep

SHAPES = [((13, 11), (3, 3)), ((9, 8, 11), (2, 3, 4)), ((4, 5, 6, 7), (2, 2, 3, 2))]

ROUNDING = 1e-12
"""Relative: sums of a few thousand products in another order."""


def case(shape: tuple[int, ...], rank: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[np.ndarray]]:
    """Data (NaN where nothing was observed), mask and a model whose factors need not be orthonormal."""
    rng = np.random.default_rng(0)
    mask = rng.random(shape) < 0.6
    data = np.where(mask, 2 * rng.standard_normal(shape), np.nan)
    factors = [rng.standard_normal(sizes) for sizes in zip(shape, rank, strict=True)]
    return data, mask, rng.standard_normal(rank), factors


def assert_same(found: Sweep, wanted: Sweep) -> None:
    """Equal to rounding, counts exactly."""
    for one, two in zip((found.core, *found.factors), (wanted.core, *wanted.factors), strict=True):
        np.testing.assert_allclose(one, two, atol=ROUNDING * np.max(abs(two)))
    np.testing.assert_allclose(found.sums, wanted.sums, rtol=ROUNDING)
    assert found.read().outliers == wanted.read().outliers


@pytest.mark.parametrize(("shape", "rank"), SHAPES)
@pytest.mark.parametrize("masked", [True, False])
def test_sums_over_blocks_are_the_sweep_over_the_whole(shape: Any, rank: Any, masked: bool) -> None:
    data, mask, core, factors = case(shape, rank)
    if not masked:
        data, mask = np.nan_to_num(data), np.ones(shape, bool)
    whole = sweep(data, mask, core, factors, rule=Rule.HUBER, threshold=0.7)
    for cuts in (0, 1, 12):
        stack = blocked(data, mask if masked else None, cuts)
        assert_same(stack.sweep(core, factors, 0.7), whole)
    assert whole.read().outliers > 0  # so that the threshold does act


@pytest.mark.parametrize(("shape", "rank"), SHAPES)
def test_sums_may_be_added_in_a_tree_and_in_any_order(shape: Any, rank: Any) -> None:
    data, mask, core, factors = case(shape, rank)
    one, two = blocked(data, mask, 12), blocked(data, mask, 12, map_blocks=in_a_tree)
    assert_same(two.sweep(core, factors, 0.7), one.sweep(core, factors, 0.7))
    assert two.survey.observed == np.count_nonzero(mask)
    for mine, others in zip(two.survey.counts, one.survey.counts, strict=True):
        np.testing.assert_array_equal(mine, others)
    assert two.survey.fullest == one.survey.fullest
    first, second = (stack.samples([[np.arange(0, n, 2) for n in shape]])[0] for stack in (one, two))
    np.testing.assert_array_equal(first.data, second.data)


def test_added_rows_lie_at_their_indices_and_between_them_is_nothing() -> None:
    # Data are 1 and the model 1/2, so that the direction is 1/2, and a row's M is 1/4 for each entry of the other mode.
    rows = [np.ones((2, 1)), np.ones((3, 1))]
    first, last = (
        block_sums(np.ones((2, 3)), None, np.full((1, 1), 0.5), rows, 9.0, corner=(i, 4 - i)) for i in (0, 4)
    )
    for one, two in permutations((first, last)):
        both = one + two
        assert isinstance(both, BlockSums)
        assert both.corner == (0, 0)
        np.testing.assert_allclose(both.sums.factors[0][:, 0], 3 / 4 * np.array([1, 1, 0, 0, 1, 1]))
        np.testing.assert_allclose(both.sums.factors[1][:, 0], 2 / 4 * np.array([1, 1, 1, 0, 1, 1, 1]))


def test_sums_of_a_block_ignore_what_stands_under_the_mask_and_leave_the_data() -> None:
    data, mask, core, factors = case((9, 8, 11), (2, 3, 4))
    filled = np.where(mask, data, 7.0)
    filled.setflags(write=False)
    one, two = (block_sums(values, mask, core, factors, 0.7).sums for values in (data, filled))
    for mine, others in zip((one.core, *one.factors), (two.core, *two.factors), strict=True):
        np.testing.assert_array_equal(mine, others)


def test_survey_counts_what_was_observed() -> None:
    data, mask, *_ = case((9, 8, 11), (2, 3, 4))
    mask[:, 3] = False
    survey = blocked(data, mask).survey
    for mode, counts in enumerate(survey.counts):
        np.testing.assert_array_equal(counts, np.sum(mask, axis=tuple({0, 1, 2} - {mode})))
    assert survey.squares == pytest.approx(np.sum(data[mask] ** 2), rel=ROUNDING)
    assert survey.dtype == np.float64
    assert blocked(data.astype(np.float32), mask).survey.dtype == np.float32
    number, corner, sizes = survey.fullest
    assert number == max(np.count_nonzero(mask[block]) for block in partition(data.shape, 9))
    assert number == np.count_nonzero(mask[tuple(slice(a, a + n) for a, n in zip(corner, sizes, strict=True))])


def test_samples_are_the_entries_at_the_indices_and_other_blocks_are_not_read() -> None:
    data, mask, *_ = case((9, 8, 11), (2, 3, 4))
    reader = Reader(data, mask)
    stack = BlockedStack(data.shape, reader, partition(data.shape, 12))
    wanted = [[np.array([0, 3, 8]), np.array([2]), np.arange(11)], [np.array([4]), np.array([7]), np.array([10])]]
    stack.survey  # noqa: B018
    reader.read.clear()
    for indices, sample in zip(wanted, stack.samples(wanted), strict=True):
        np.testing.assert_array_equal(sample.data, data[np.ix_(*indices)])
        np.testing.assert_array_equal(sample.mask, mask[np.ix_(*indices)])
    hit = [b for b in stack.blocks if any(data[np.ix_(*i)].size and inside(b, i) for i in wanted)]
    assert reader.read == hit != list(stack.blocks)


def inside(block: Any, indices: Any) -> bool:
    """Whether an entry at the product of the indices lies in a block."""
    return all(np.any((i >= part.start) & (i < part.stop)) for part, i in zip(block, indices, strict=True))


def test_residual_grid_of_a_sample_without_observed_entries_is_that_of_the_fullest_block() -> None:
    data, mask, core, factors = case((9, 8, 11), (2, 3, 4))
    mask[:, :, :7] = False  # at the indices of the sample
    stack = blocked(data, mask)
    indices = [np.arange(9), np.arange(8), np.arange(7)]
    grid = stack.residual_grid(Sample(indices, data[:, :, :7], mask[:, :, :7]))
    _, corner, sizes = stack.survey.fullest
    block = tuple(slice(first, first + size) for first, size in zip(corner, sizes, strict=True))
    rows = [factor[part] for factor, part in zip(factors, block, strict=True)]
    wanted = ResidualGrid.of(data[block], mask[block]).scale(core, rows, True)
    assert grid.scale(core, factors, True) == pytest.approx(wanted, rel=ROUNDING)
    assert wanted > 0


def test_one_block_is_in_memory_at_a_time() -> None:
    data, mask, core, factors = case((9, 8, 11), (2, 3, 4))
    alive: list[weakref.ref[np.ndarray]] = []

    def read(block: Any) -> tuple[np.ndarray, np.ndarray]:
        assert not [other for other in alive if other() is not None]
        values, known = data[block].copy(), mask[block].copy()
        alive[:] = [weakref.ref(values), weakref.ref(known)]
        return values, known

    stack = BlockedStack(data.shape, read, partition(data.shape, 12))
    stack.survey  # noqa: B018
    stack.sweep(core, factors, 0.7)
    stack.samples([[np.arange(0, n, 2) for n in data.shape]])


def test_what_runs_on_a_block_can_be_pickled_and_so_can_its_sums() -> None:
    data, mask, core, factors = case((9, 8, 11), (2, 3, 4))
    blocks = partition(data.shape, 3)
    function = partial(sums_of_block, Reader(data, mask), core, tuple(factors), 0.7)
    sent = [pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(function))(block))) for block in blocks]
    found = sent[0]
    for other in sent[1:]:
        found = add(found, other)
    assert_same(found.sums, blocked(data, mask).sweep(core, factors, 0.7))


def test_what_a_block_sends_is_of_the_size_of_its_rows() -> None:
    data, mask = np.ones((40, 40, 40), np.float32), np.ones((40, 40, 40), bool)
    core, factors = np.ones((2, 2, 2)), tuple(np.ones((40, 2)) for _ in range(3))
    block = (slice(0, 10), slice(30, 40), slice(10, 20))
    sums = sums_of_block(Reader(data, mask), core, factors, 1.0, block)
    assert sums.corner == (0, 30, 10)
    assert [rows.shape for rows in sums.sums.factors] == [(10, 2)] * 3


WHOLE = (slice(0, 4), slice(0, 5))


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        (((slice(0, 4), slice(0, 3)),), "blocks hold 12 of 20 voxels, expected all of them"),
        ((), "blocks hold 0 of 20 voxels"),
        ((WHOLE, (slice(1, 2), slice(1, 2))), r"expected blocks that do not meet, got .* and .*slice\(1, 2"),
        (((slice(0, 5), slice(0, 5)),), r"expected blocks that lie in a stack of shape \(4, 5\)"),
        (((slice(-1, 4), slice(0, 5)),), "expected blocks that lie in"),
        (((slice(0, 4, 2), slice(0, 5)),), "expected blocks that lie in"),
        (((slice(None), slice(0, 5)),), "expected blocks that lie in"),
        ((WHOLE, (slice(2, 2), slice(0, 5))), "expected blocks that lie in"),
        (((slice(0, 4),),), "expected blocks that lie in"),
    ],
)
def test_blocks_that_do_not_partition_the_stack_are_refused(blocks: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BlockedStack((4, 5), Reader(np.ones((4, 5))), blocks)


@pytest.mark.parametrize(
    ("data", "mask", "error", "message"),
    [
        (np.ones((3, 5)), None, ValueError, r"data of a block have shape \(3, 5\), expected \(4, 5\)"),
        (np.ones((4, 5)), np.ones((4, 4), bool), ValueError, r"mask of a block has shape \(4, 4\), data have"),
        (np.ones((4, 5)), np.ones((4, 5)), TypeError, "expected a bool mask .*, got dtype float64"),
        (np.full((4, 5), np.inf), None, ValueError, "expected finite values at observed entries, got NaN or infinity"),
        (np.ones((4, 5)), np.zeros((4, 5), bool), ValueError, "expected at least one observed entry"),
    ],
)
def test_what_is_read_is_checked(data: Any, mask: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        BlockedStack((4, 5), lambda block: (data, mask), (WHOLE,)).survey  # noqa: B018
