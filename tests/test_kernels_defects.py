"""Kernels that compare voxels with those around them, and the rows of 26 neighbours, against brute force in NumPy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tensorcell.solvers import neighbourhoods, threads
from tensorcell.solvers.neighbourhoods import AXIAL, IN_PLANE, LATERAL, OFFSETS, neighbours

SHAPES = [(1, 1, 1), (1, 7, 5), (3, 1, 9), (4, 5, 3), (7, 9, 11), (2, 13, 2)]


def around(volume: np.ndarray, trusted: np.ndarray, where: tuple[int, ...]) -> np.ndarray:
    """Trusted values among the 26 around one voxel."""
    found = []
    for step in itertools.product((-1, 0, 1), repeat=3):
        place = tuple(w + s for w, s in zip(where, step, strict=True))
        inside = all(0 <= p < size for p, size in zip(place, volume.shape, strict=True))
        if any(step) and inside and trusted[place]:
            found.append(volume[place])
    return np.array(found, volume.dtype)


def sample(shape: tuple[int, ...], dtype: str, share: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Multiples of 1 / 8, of which many are equal and all sums are exact, and a mask; garbage under the mask."""
    rng = np.random.default_rng(seed)
    volume, mask = np.round(8 * rng.standard_normal(shape)) / 8, rng.random(shape) < share
    return np.where(mask, volume, np.nan).astype(dtype), mask


def test_neighbours_equal_brute_force_at_every_voxel() -> None:
    rng = np.random.default_rng(0)
    volume, mask = rng.random((4, 5, 3)), rng.random((4, 5, 3)) < 0.6
    rows = neighbours(volume, mask, np.arange(volume.size))
    assert rows.shape == (60, 26)
    for row, where in zip(rows, np.ndindex(volume.shape), strict=True):
        assert sorted(row[~np.isnan(row)]) == sorted(around(volume, mask, where))


def test_neighbours_do_not_wrap_around_nor_see_under_the_mask() -> None:
    volume = np.arange(27.0).reshape(3, 3, 3)
    mask = np.ones((3, 3, 3), bool)
    corner = neighbours(volume, mask, np.array([0]))[0]
    assert sorted(corner[~np.isnan(corner)]) == [1, 3, 4, 9, 10, 12, 13]
    mask[0, 0, 1] = mask[1, 1, 1] = False
    volume[1, 1, 1] = np.inf
    corner = neighbours(volume, mask, np.array([0]))[0]
    assert sorted(corner[~np.isnan(corner)]) == [3, 4, 9, 10, 12]


def test_columns_of_neighbours_have_the_names_of_their_steps() -> None:
    assert OFFSETS.shape == (26, 3)
    assert {tuple(step) for step in OFFSETS[LATERAL]} == {(0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)}
    assert {tuple(step) for step in OFFSETS[AXIAL]} == {(1, 0, 0), (-1, 0, 0)}
    assert len(IN_PLANE) == 8
    assert not OFFSETS[IN_PLANE, 0].any()
    volume = np.arange(27.0).reshape(3, 3, 3)
    row = neighbours(volume, np.ones((3, 3, 3), bool), np.array([13]))[0]
    np.testing.assert_array_equal(row, 13 + OFFSETS @ [9, 3, 1])


def surroundings_twin(
    volume: np.ndarray, trusted: np.ndarray, positions: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Median of the neighbours, the distance of the one at rank 4 n / 5 of all distances, and the number n."""
    middle, spread = np.full(len(positions), np.nan), np.full(len(positions), np.nan)
    number = np.zeros(len(positions), int)
    for n, position in enumerate(positions):
        values = around(volume, trusted, tuple(np.unravel_index(position, volume.shape)))
        number[n] = len(values)
        if len(values):
            middle[n] = np.median(values)
            spread[n] = np.sort(np.abs(values - np.median(values)))[max(1, 4 * len(values) // 5) - 1]
    return middle, spread, number


@pytest.mark.parametrize("share", [1.0, 0.6, 0.15])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES)
def test_surroundings_equal_brute_force(shape: tuple[int, ...], dtype: str, share: float) -> None:
    volume, trusted = sample(shape, dtype, share)
    positions = np.arange(volume.size)[::-1]
    found = neighbourhoods.surroundings(volume, trusted, positions)
    assert found.middle.dtype == found.spread.dtype == dtype
    for one, other in zip(found, surroundings_twin(volume, trusted, positions), strict=True):
        np.testing.assert_array_equal(one, other)


def test_surroundings_are_nan_where_no_neighbour_is_trusted() -> None:
    volume, trusted = np.arange(27.0).reshape(3, 3, 3), np.zeros((3, 3, 3), bool)
    trusted.ravel()[[0, 1, 2, 13]] = True
    middle, spread, count = neighbourhoods.surroundings(volume, trusted, np.array([13, 26, 25]))
    np.testing.assert_array_equal(middle, [1, 13, 13])
    np.testing.assert_array_equal(spread, [1, 0, 0])
    np.testing.assert_array_equal(count, [3, 1, 1])
    trusted[1, 1, 1] = False
    middle, spread, count = neighbourhoods.surroundings(volume, trusted, np.array([26]))
    assert np.isnan(middle[0])
    assert np.isnan(spread[0])
    assert count[0] == 0
    for row in neighbourhoods.surroundings(volume, trusted, np.zeros(0, int)):
        assert row.shape == (0,)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 26, 32])
def test_sort_columns_sorts_each_column(size: int) -> None:
    """By the zero-one principle a network that sorts all zeros and ones sorts everything; random values beside."""
    from tensorcell.solvers.kernels_defects import sort_columns

    rng = np.random.default_rng(size)
    table = np.concatenate([rng.standard_normal((size, 200)), rng.random((size, 2000)) < rng.random(2000)], axis=1)
    ordered = table.copy()
    sort_columns(ordered)
    np.testing.assert_array_equal(ordered, np.sort(table, axis=0))


def standing_out_twin(volume: np.ndarray, trusted: np.ndarray, wanted: np.ndarray, least: float) -> np.ndarray:
    """Voxels of which at least half of the neighbours are further than ``least`` below, or above."""
    found = []
    for position in np.flatnonzero(wanted):
        where = tuple(np.unravel_index(position, volume.shape))
        values, least_ = around(volume, trusted, where), volume.dtype.type(least)
        lower, higher = np.sum(values < volume[where] - least_), np.sum(values > volume[where] + least_)
        if max(lower, higher) >= len(values) / 2:
            found.append(position)
    return np.array(found, int)


@pytest.mark.parametrize("share", [1.0, 0.6, 0.15])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES)
def test_standing_out_equals_brute_force(shape: tuple[int, ...], dtype: str, share: float) -> None:
    """The wanted voxels are some of the trusted ones, as in the search."""
    volume, trusted = sample(shape, dtype, share)
    wanted = trusted & (np.random.default_rng(1).random(shape) < 0.7)
    for least in (0.0, 0.625, 1.25):
        found = neighbourhoods.standing_out(volume, trusted, wanted, least)
        np.testing.assert_array_equal(found, standing_out_twin(volume, trusted, wanted, least))


def test_standing_out_finds_either_sign_and_needs_half_of_the_neighbours() -> None:
    volume, everything = np.zeros((3, 3, 3)), np.ones((3, 3, 3), bool)
    wanted = np.zeros((3, 3, 3), bool)
    wanted[1, 1, 1] = True
    for sign in (1, -1):
        volume[:] = 0
        volume[1, 1, 1] = sign
        assert neighbourhoods.standing_out(volume, everything, wanted, 0.9).tolist() == [13]
        assert not len(neighbourhoods.standing_out(volume, everything, wanted, 1.1))
        volume.ravel()[:13] = sign  # 13 of 26 share the value
        assert neighbourhoods.standing_out(volume, everything, wanted, 0.9).tolist() == [13]
        volume.ravel()[14] = sign
        assert not len(neighbourhoods.standing_out(volume, everything, wanted, 0.9))


def column_twin(volume: np.ndarray, measured: np.ndarray, y: int, x: int) -> tuple[float, float, float, float, int]:
    """``excess, level, same, agreeing, used`` of one pixel."""
    off, levels, kept = [], [], []
    for z in range(len(volume)):
        plane, seen = volume[z : z + 1], measured[z : z + 1]
        beside = around(plane, seen, (0, y, x))
        if measured[z, y, x] and len(beside) >= 3:
            kept.append(volume[z, y, x])
            levels.append(np.median(beside))
            off.append(volume[z, y, x] - np.median(beside))
    if not off:
        return np.nan, np.nan, 0, 0, 0
    excess = float(np.median(off))
    same = sum(a == b for a, b in itertools.pairwise(kept)) / max(1, len(kept) - 1)
    agreeing = np.mean([excess != 0 and 3 * d * np.sign(excess) >= abs(excess) for d in off])
    return excess, float(np.median(levels)), same, float(agreeing), len(off)


@pytest.mark.parametrize("share", [1.0, 0.7, 0.3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES)
def test_column_statistics_equal_brute_force(shape: tuple[int, ...], dtype: str, share: float) -> None:
    volume, measured = sample(shape, dtype, share)
    found = neighbourhoods.column_statistics(volume, measured)
    expected = np.array([[column_twin(volume, measured, y, x) for x in range(shape[2])] for y in range(shape[1])])
    for name, got, wanted in zip(
        ("excess", "level", "same", "agreeing", "used"), found, np.moveaxis(expected, 2, 0), strict=True
    ):
        np.testing.assert_array_equal(got, wanted.astype(got.dtype), err_msg=name)


def test_column_statistics_of_a_pixel_that_is_known() -> None:
    """Differences 4, 4, 1, -2, 4 from neighbours at 1: median 4, of which three agree and two pairs repeat."""
    volume = np.ones((5, 3, 3))
    volume[:, 1, 1] = 5, 5, 2, -1, 5
    excess, level, same, agreeing, used = neighbourhoods.column_statistics(volume, np.ones((5, 3, 3), bool))
    assert (excess[1, 1], level[1, 1], same[1, 1], agreeing[1, 1], used[1, 1]) == (4, 1, 1 / 4, 3 / 5, 5)
    mask = np.ones((5, 3, 3), bool)
    mask[2:4, 1, 1] = False  # "the plane before" is the one before among those measured
    same, agreeing, used = neighbourhoods.column_statistics(volume, mask)[2:]
    assert (same[1, 1], agreeing[1, 1], used[1, 1]) == (1, 1, 3)


def test_results_do_not_depend_on_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    volume, mask = sample((7, 9, 11), "float32", 0.8, seed=3)
    positions = np.flatnonzero(mask)

    def everything() -> list[np.ndarray]:
        return [
            *neighbourhoods.surroundings(volume, mask, positions),
            neighbourhoods.standing_out(volume, mask, mask, 0.5),
            *neighbourhoods.column_statistics(volume, mask),
        ]

    shares = []
    for count in (1, 2, 3, 50):
        monkeypatch.setattr(threads, "thread_count", lambda count=count: count)
        threads._pool.cache_clear()
        shares.append(everything())
    threads._pool.cache_clear()
    for several in shares[1:]:
        for one, other in zip(shares[0], several, strict=True):
            np.testing.assert_array_equal(one, other)
