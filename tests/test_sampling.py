"""Patterns of masks: counts by brute force, planted patterns, and uniform masks that must be called uniform."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearson3

from tensorcell.solvers import sampling
from tensorcell.solvers.sampling import describe_sampling

SHAPE = (12, 20, 16)


def uniform(shape: tuple[int, ...], share: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) < share


def some_slices(shape: tuple[int, ...], mode: int, kept: Any) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[(slice(None),) * mode + (kept,)] = True
    return mask


@pytest.mark.parametrize("shape", [(5, 6), (4, 5, 6), (3, 4, 2, 5), (1, 4, 3), (2, 300, 501)])
def test_describe_sampling_counts_what_loops_count(xp: Any, shape: tuple[int, ...]) -> None:
    mask = uniform(shape, 0.2, seed=3)
    found = describe_sampling(xp.put(mask))
    counts = [[int(plane.sum()) for plane in np.moveaxis(mask, mode, 0)] for mode in range(len(shape))]
    assert found.observed == mask.sum()
    assert found.ratio == mask.mean()
    assert found.empty_slices == tuple(tuple(i for i, number in enumerate(c) if number == 0) for c in counts)
    assert found.empty_fibres == tuple(int(np.sum(~mask.any(axis=mode))) for mode in range(len(shape)))
    assert found.min_slice_count == min(min(c) for c in counts)
    assert found.sentence.startswith(found.pattern + ": ")


def test_axis_counts_equals_definitions_in_small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a few entries: rows and columns are both split, unevenly."""
    mask = uniform((5, 7, 11), 0.4)
    mask[2, :, 3] = True
    monkeypatch.setattr(sampling, "chunk_elements", lambda xp: 20)
    for mode in range(3):
        axis = sampling.axis_counts(mask, mode)
        fibres = mask.sum(axis=mode)
        np.testing.assert_array_equal(axis.slices, np.moveaxis(mask, mode, 0).reshape(mask.shape[mode], -1).sum(axis=1))
        assert (axis.empty, axis.whole) == (np.sum(fibres == 0), np.sum(fibres == mask.shape[mode]))
        assert axis.squares == np.sum(fibres**2)
        moved = np.moveaxis(mask, mode, 0)
        assert axis.neighbours == np.sum(moved[1:] & moved[:-1])


@pytest.mark.parametrize("mode", [0, 1, 2])
@pytest.mark.parametrize(
    ("kept", "words"),
    [
        (slice(None, None, 2), "every 2nd slice"),
        (slice(None, None, 3), "every 3rd slice"),
        (slice(1, None, 4), "every 4th slice"),
        (slice(3, 8), "a block of slices (3 to 7) of mode"),
        ([0, 2, 3, 7, 8, 10], "a random (not regular) subset of the slices"),
        ([0, 2, 4], "a random (not regular) subset of the slices"),  # every second, but not to the end
        ([5], "one slice of mode"),
        ([0, 1], "a block of slices (0 to 1)"),
        (np.r_[:4, 5:12], "but one (index 4)"),
    ],
)
def test_describe_sampling_recognises_planes_of_any_mode(mode: int, kept: Any, words: str) -> None:
    shape = tuple(np.roll((12, 20, 16), mode))
    mask = some_slices(shape, mode, kept)
    found = describe_sampling(mask)
    assert found.pattern == "planes"
    assert words in found.sentence
    assert f"of mode {mode}" in found.sentence
    absent = tuple(np.flatnonzero(~mask.any(axis=tuple(a for a in range(3) if a != mode))))
    assert found.empty_slices == tuple(absent if a == mode else () for a in range(3))


@pytest.mark.parametrize(
    ("size", "kept", "words"),
    [
        (12, [0, 1, 2, 9, 10, 11], "all slices of mode 0 but a block of slices (3 to 8)"),
        (12, [1, 2, 4, 5, 7, 8, 10, 11], "all slices of mode 0 but every 3rd slice"),
        (40, [0, 11, 22, 33], "every 11th slice"),
        (60, [0, 21, 42], "every 21st slice"),
    ],
)
def test_describe_sampling_words_for_planes(size: int, kept: list[int], words: str) -> None:
    assert words in describe_sampling(some_slices((size, 5, 6), 0, kept)).sentence


@given(
    shape=st.lists(st.integers(1, 6), min_size=2, max_size=4).filter(lambda sizes: max(sizes) > 1),
    data=st.data(),
)
@settings(max_examples=200, deadline=None)
def test_describe_sampling_never_calls_planes_uniform(shape: list[int], data: st.DataObject) -> None:
    mode = data.draw(st.sampled_from([axis for axis, size in enumerate(shape) if size > 1]))
    kept = data.draw(st.sets(st.integers(0, shape[mode] - 1), min_size=1, max_size=shape[mode] - 1))
    assert describe_sampling(some_slices(tuple(shape), mode, sorted(kept))).pattern == "planes"


@pytest.mark.parametrize("mode", [0, 1, 2])
def test_describe_sampling_recognises_lines(xp: Any, mode: int) -> None:
    ends = uniform(tuple(np.delete(SHAPE, mode)), 0.3, seed=mode)
    found = describe_sampling(xp.put(np.broadcast_to(np.expand_dims(ends, mode), SHAPE)))
    assert found.pattern == "lines"
    assert f"{ends.sum()} of {ends.size} lines along mode {mode}" in found.sentence
    assert "in agreement with drawing them uniformly" in found.sentence
    assert found.empty_fibres[mode] == np.sum(~ends)


def test_describe_sampling_says_when_lines_are_regular() -> None:
    ends = np.zeros((20, 16), dtype=bool)
    ends[::2, ::2] = True
    found = describe_sampling(np.broadcast_to(ends, SHAPE))
    assert found.pattern == "lines"
    assert "not drawn at random" in found.sentence


def test_describe_sampling_speaks_of_sections_where_lines_are_whole_along_two_modes() -> None:
    """Planes missing here and there over time: (t, z) drawn at random, every y and x."""
    frames = uniform((9, 14), 0.5, seed=1)
    found = describe_sampling(np.broadcast_to(frames[:, :, None, None], (9, 14, 5, 6)))
    assert found.pattern == "lines"
    assert f"{frames.sum()} of 126 sections along modes 2 and 3" in found.sentence


@pytest.mark.parametrize("mode", [0, 1, 2])
@pytest.mark.parametrize("kept", [slice(None, None, 3), [0, 2, 3, 7, 8, 10], slice(0, 11), [4]])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_describe_sampling_recognises_planes_and_pixels(mode: int, kept: Any, share: float) -> None:
    shape = tuple(np.roll((12, 30, 24), mode))
    found = describe_sampling(some_slices(shape, mode, kept) & uniform(shape, share, seed=mode))
    assert found.pattern == "planes and pixels"
    assert f"of mode {mode}" in found.sentence


@pytest.mark.parametrize("share", [0.01, 0.02, 0.05, 0.1, 0.3, 0.5, 0.7, 0.9, 0.95, 0.98, 0.99])
@pytest.mark.parametrize("shape", [(14, 22, 18), (3, 40, 40), (30, 40), (6, 7, 8, 9), (1, 30, 30)])
def test_describe_sampling_calls_uniform_masks_uniform(shape: tuple[int, ...], share: float) -> None:
    # 10 seeds x 55 cases x at most 17 counts at 1e-7 each: a false alarm in one suite of a thousand.
    for seed in range(10):
        assert describe_sampling(uniform(shape, share, seed)).pattern == "uniform"


@pytest.mark.parametrize("number", [2, 7, 50, 500, 2000, 3800, 3838])
def test_describe_sampling_calls_draws_without_replacement_uniform(number: int) -> None:
    for seed in range(10):
        mask = np.zeros(SHAPE, dtype=bool)
        mask.flat[np.random.default_rng(seed).choice(mask.size, number, replace=False)] = True
        assert describe_sampling(mask).pattern == "uniform"


def irregular_masks() -> dict[str, np.ndarray]:
    grid = np.indices((18, 20, 22))
    radius = np.sqrt(sum((axis - (size - 1) / 2) ** 2 for axis, size in zip(grid, (18, 20, 22), strict=True)))
    block = np.zeros((18, 20, 22), dtype=bool)
    block[4:8, 5:9, 6:10] = True
    noise = np.random.default_rng(5).random((18, 20, 22))
    planes_and_more = some_slices((18, 20, 22), 0, slice(None, None, 3)) | (noise < 0.2)
    half_in_each = np.argsort(noise, axis=0) < 9
    return {
        "ball": radius < 7,
        "all but a ball": radius > 7,
        "checkerboard": grid.sum(axis=0) % 2 == 0,
        "diagonal planes": grid.sum(axis=0) % 3 == 0,
        "grid": np.all(grid % 2 == 0, axis=0),
        "block": block,
        "density grows": noise < grid[1] / 20,
        "dense and sparse blocks": noise < np.where((grid // 4).sum(axis=0) % 2 == 0, 0.2, 0.6),
        "full planes plus pixels between": planes_and_more,
        "half of each fibre": half_in_each,
        "runs": np.repeat(uniform((18, 20, 11), 0.3), 2, axis=2),
        "every 3rd plane of a ball": (radius < 8) & (grid[0] % 3 == 0),
    }


@pytest.mark.parametrize("name", irregular_masks())
def test_describe_sampling_calls_the_rest_irregular(name: str) -> None:
    found = describe_sampling(irregular_masks()[name])
    assert found.pattern == "irregular"
    assert "not drawn uniformly at random: " in found.sentence


def test_describe_sampling_says_why_a_mask_is_irregular() -> None:
    masks = irregular_masks()
    assert "neighbours are observed together too seldom" in describe_sampling(masks["checkerboard"]).sentence
    assert "fibres along mode 0 are observed too evenly" in describe_sampling(masks["half of each fibre"]).sentence
    assert "slices of mode 1 are observed too unevenly" in describe_sampling(masks["density grows"]).sentence


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_describe_sampling_of_permuted_axes_is_permuted(order: tuple[int, ...]) -> None:
    masks = {
        "uniform": uniform(SHAPE, 0.02),
        "planes": some_slices(SHAPE, 1, slice(None, None, 3)),
        "lines": np.broadcast_to(uniform((12, 1, 16), 0.5), SHAPE),
        "planes and pixels": some_slices(SHAPE, 2, [0, 1, 7, 9, 10, 14]) & uniform(SHAPE, 0.4),
        "irregular": np.indices(SHAPE).sum(axis=0) % 3 == 1,
    }
    for pattern, mask in masks.items():
        straight, turned = describe_sampling(mask), describe_sampling(np.transpose(mask, order))
        assert (straight.pattern, turned.pattern) == (pattern, pattern)
        assert turned.empty_slices == tuple(straight.empty_slices[axis] for axis in order)
        assert turned.empty_fibres == tuple(straight.empty_fibres[axis] for axis in order)
        assert turned.min_slice_count == straight.min_slice_count


@pytest.mark.parametrize(
    ("mask", "pattern"),
    [
        (np.ones((1, 1, 1), dtype=bool), "full"),
        (np.ones((4, 5), dtype=bool), "full"),
        (np.eye(2, dtype=bool), "uniform"),  # two of four: nothing speaks against chance
        (np.array([[True, False], [True, False]]), "planes"),
        (np.array([[[True]], [[False]]]), "planes"),
        (np.array([[True, False], [True, True]]), "uniform"),
        (np.arange(8).reshape(2, 2, 2) == 5, "uniform"),  # one voxel of many
        (np.arange(8).reshape(2, 2, 2) % 4 == 1, "lines"),
        (np.eye(100, dtype=bool), "irregular"),
    ],
)
def test_describe_sampling_of_tiny_and_two_dimensional_masks(mask: np.ndarray, pattern: str) -> None:
    assert describe_sampling(mask).pattern == pattern


def test_describe_sampling_reads_no_more_than_blocks_at_a_time() -> None:
    mask = uniform((64, 512, 512), 0.3)
    tracemalloc.start()
    describe_sampling(mask)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < mask.nbytes / 2  # 1 MiB of float32 in a block of 2^18 and some of its size: a few MiB of 16


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        ([[True]], TypeError, "expected NumPy or CuPy arrays, got list"),
        (np.ones((2, 2)), TypeError, r"expected a bool mask \(True = observed\), got dtype float64"),
        (np.ones(3, dtype=bool), ValueError, r"at least two axes and no empty one, got shape \(3,\)"),
        (np.ones((0, 3), dtype=bool), ValueError, r"at least two axes and no empty one, got shape \(0, 3\)"),
        (np.zeros((2, 3), dtype=bool), ValueError, "expected at least one observed entry"),
    ],
)
def test_describe_sampling_refuses(mask: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        describe_sampling(mask)


def adjacency(shape: tuple[int, ...], kind: str, mode: int) -> np.ndarray:
    """Dense matrix of the pairs of entries that a count looks at."""
    places = np.indices(shape).reshape(len(shape), -1).T
    difference = np.abs(places[:, None, :] - places[None, :, :])
    others = np.delete(difference, mode, axis=2)
    same_fibre = np.all(others == 0, axis=2)
    pairs = {
        "slices": (difference[:, :, mode] == 0) & ~np.eye(len(places), dtype=bool),
        "fibres": same_fibre & ~np.eye(len(places), dtype=bool),
        "neighbours": same_fibre & (difference[:, :, mode] == 1),
        "all neighbours": difference.sum(axis=2) == 1,
    }
    return np.asarray(pairs[kind])


@pytest.mark.parametrize("number", [1, 2, 5, 9, 11])
@pytest.mark.parametrize("kind", ["slices", "fibres", "neighbours", "all neighbours"])
def test_pair_moments_equal_those_of_all_masks(kind: str, number: int) -> None:
    """All choices of so many of 12 entries, counted one by one."""
    shape = (3, 4)
    pairs_matrix = adjacency(shape, kind, 0).astype(int)
    degree = pairs_matrix.sum(axis=0)
    counts = []
    for chosen in itertools.combinations(range(12), number):
        counts.append(pairs_matrix[np.ix_(chosen, chosen)].sum() // 2)
    mean, variance = sampling.pair_moments(int(degree.sum()) // 2, int(np.sum(degree * (degree - 1))), number, 12)
    assert mean == pytest.approx(np.mean(counts), rel=1e-13)  # rounding of the mean over at most 924 masks
    assert variance == pytest.approx(np.var(counts), rel=1e-12, abs=1e-13)


def test_cliques_equal_the_dense_adjacency_matrix() -> None:
    shape = (3, 4, 2)
    for mode, size in enumerate(shape):
        for kind, groups in (("slices", size), ("fibres", 24 // size)):
            matrix = adjacency(shape, kind, mode).astype(float)
            degree = matrix.sum(axis=0)
            centred = matrix - matrix.mean(axis=0) - matrix.mean(axis=1)[:, None] + matrix.mean()
            trace = np.trace(centred @ centred @ centred)
            expected = (matrix.sum() / 2, np.sum(degree * (degree - 1)), trace)
            np.testing.assert_allclose(sampling.cliques(groups, 24 // groups), expected, atol=1e-9)  # sums of 24 terms


@pytest.mark.parametrize("kept_mode", [0, 1, 2])
def test_least_probable_of_kept_slices_is_that_of_the_mask_cut_out(kept_mode: int) -> None:
    """The same neighbours are counted in the whole mask and in a block cut out of it; all counts at once."""
    shape = (8, 9, 10)
    mask = uniform(shape, 0.3) & some_slices(shape, kept_mode, slice(2, 7))
    cut = np.take(mask, range(2, 7), axis=kept_mode)
    everywhere = [np.ones(size, dtype=bool) for size in shape]
    kept = list(everywhere)
    kept[kept_mode] = np.isin(np.arange(shape[kept_mode]), range(2, 7))
    whole = [sampling.axis_counts(mask, mode) for mode in range(3)]
    part = [sampling.axis_counts(cut, mode) for mode in range(3)]
    number = int(mask.sum())
    assert sampling.least_probable(shape, whole, number, kept) == sampling.least_probable(
        cut.shape, part, number, [np.ones(size, dtype=bool) for size in cut.shape]
    )


@pytest.mark.parametrize("skew", [0.0, 0.01, 0.3, 1.0, math.sqrt(8)])
@pytest.mark.parametrize("z", [0.0, 0.7, 3.0, 6.0])
def test_upper_tail_equals_scipy(skew: float, z: float) -> None:
    # Two implementations of the incomplete gamma function, with a shape parameter up to 40000.
    assert sampling.upper_tail(z, skew) == pytest.approx(pearson3.sf(z, skew), rel=1e-8)


@pytest.mark.parametrize("observed", [7, 30, 111])
def test_the_whole_number_nearest_to_the_mean_is_no_surprise(observed: int) -> None:
    groups = sampling.cliques(12, 10)
    mean, _ = sampling.pair_moments(*groups[:2], observed, 120)

    def probability(found: int) -> float:
        return sampling.pairs_probability(found, *groups, observed, 120).probability

    # One, but for the skewness of a count with a mean of 1.6 only: its median is below its mean.
    assert probability(round(mean)) > 0.75
    assert probability(round(mean) + 20) < 0.5


def test_pairs_probability_is_near_uniform_under_uniform_sampling() -> None:
    """Of 400 masks about 4 have a probability below 1 % for a given count; 20 would be 8 standard deviations off."""
    shape = (10, 11, 12)
    low = np.zeros(6)
    for seed in range(400):
        mask = uniform(shape, 0.1, seed)
        number = int(mask.sum())
        for mode, size in enumerate(shape):
            axis = sampling.axis_counts(mask, mode)
            slices = sum(int(c) * (int(c) - 1) // 2 for c in axis.slices)
            total = mask.size
            by_slice = sampling.pairs_probability(slices, *sampling.cliques(size, total // size), number, total)
            fibres = (axis.squares - number) // 2
            by_fibre = sampling.pairs_probability(fibres, *sampling.cliques(total // size, size), number, total)
            low[mode] += by_slice[0] < 0.01
            low[3 + mode] += by_fibre[0] < 0.01
    assert np.all(low < 20)
    assert low.sum() > 0


@pytest.mark.parametrize("number", [3, 9, 15, 21])
def test_extreme_probability_is_at_least_the_exact_one(number: int) -> None:
    """All ways to spread so many over 4 slices of 6: the bound holds for every smallest and largest count."""
    ways = {
        counts: math.prod(math.comb(6, c) for c in counts) / math.comb(24, number)
        for counts in itertools.product(range(7), repeat=4)
        if sum(counts) == number
    }
    assert sum(ways.values()) == pytest.approx(1)
    for counts in ways:
        few = sum(chance for other, chance in ways.items() if min(other) <= min(counts))
        many = sum(chance for other, chance in ways.items() if max(other) >= max(counts))
        found = sampling.extreme_probability(np.array(counts), number, 24)
        assert found.probability >= min(few, many) - 1e-12  # sums of up to 2401 chances


def test_extreme_probability_is_small_for_a_slice_that_is_missing_or_full() -> None:
    counts = np.full(12, 36)
    for odd, more in ((0, False), (120, True)):
        counts[4] = odd
        for dense in (False, True):
            given_counts = 720 - counts if dense else counts
            found = sampling.extreme_probability(given_counts, int(given_counts.sum()), 12 * 720)
            assert found.probability < 1e-12
            assert found.more == (more != dense)
