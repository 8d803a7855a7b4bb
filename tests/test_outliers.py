"""Which voxels are outliers: neighbours, isolated and beyond, against brute force and planted values."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tensorcell.solvers import CompletionResult, IterationRecord, Status, outliers
from tensorcell.solvers.results import SparsePart, tucker_tensor

NAN = float("nan")


def brute_neighbours(volume: np.ndarray, mask: np.ndarray, where: tuple[int, ...]) -> list[float]:
    """Measured values among the 26 around one voxel."""
    found = []
    for step in itertools.product((-1, 0, 1), repeat=3):
        place = tuple(w + s for w, s in zip(where, step, strict=True))
        inside = all(0 <= p < size for p, size in zip(place, volume.shape, strict=True))
        if any(step) and inside and mask[place]:
            found.append(float(volume[place]))
    return found


def at(shape: tuple[int, ...], *where: int) -> np.ndarray:
    """Flat position of one voxel."""
    return np.array([np.ravel_multi_index(where, shape)])


def test_neighbours_equal_brute_force_at_every_voxel() -> None:
    rng = np.random.default_rng(0)
    volume, mask = rng.random((4, 5, 3)), rng.random((4, 5, 3)) < 0.6
    rows = outliers.neighbours(volume, mask, np.arange(volume.size))
    assert rows.shape == (60, 26)
    for row, where in zip(rows, np.ndindex(volume.shape), strict=True):
        assert sorted(row[~np.isnan(row)]) == sorted(brute_neighbours(volume, mask, where))


def test_neighbours_do_not_wrap_around_nor_see_under_the_mask() -> None:
    volume = np.arange(27.0).reshape(3, 3, 3)
    mask = np.ones((3, 3, 3), bool)
    corner = outliers.neighbours(volume, mask, at((3, 3, 3), 0, 0, 0))[0]
    assert sorted(corner[~np.isnan(corner)]) == [1, 3, 4, 9, 10, 12, 13]
    mask[0, 0, 1] = mask[1, 1, 1] = False
    volume[1, 1, 1] = np.inf
    corner = outliers.neighbours(volume, mask, at((3, 3, 3), 0, 0, 0))[0]
    assert sorted(corner[~np.isnan(corner)]) == [3, 4, 9, 10, 12]


def smooth_bump(height: float, width: float = 1.6) -> np.ndarray:
    z, y, x = np.mgrid[:7, :9, :9]
    return height * np.exp(-((z - 3) ** 2 + (y - 4) ** 2 + (x - 4) ** 2) / (2 * width**2))


def test_isolated_tells_a_wrong_value_from_the_top_of_a_structure() -> None:
    everything = np.ones((7, 9, 9), bool)
    top = at((7, 9, 9), 3, 4, 4)
    bump = smooth_bump(10.0)
    assert not outliers.isolated(bump, everything, top, 1.0)[0]
    for sign in (1, -1):
        wrong = sign * bump
        wrong[3, 4, 4] += sign * 40
        assert outliers.isolated(wrong, everything, top, 1.0)[0]


def test_isolated_compares_with_the_threshold_and_with_three_times_the_spread() -> None:
    """Neighbours at -1 and +1 (median 0, spread 1): the voxel must pass three and the threshold."""
    residual = np.ones((3, 3, 3))
    residual.ravel()[::2] = -1  # the centre is number 13; 14 neighbours at -1 and 12 at +1 without the next line
    residual[0, 0, 0] = 1
    mask = np.ones((3, 3, 3), bool)
    centre = at((3, 3, 3), 1, 1, 1)
    assert np.nanmedian(outliers.neighbours(residual, mask, centre)) == 0
    for value, threshold, expected in [(2.9, 0.5, False), (3.1, 0.5, True), (3.1, 4.0, False), (4.1, 4.0, True)]:
        residual[1, 1, 1] = value
        assert outliers.isolated(residual, mask, centre, threshold)[0] == expected
        assert outliers.isolated(-residual, mask, centre, threshold)[0] == expected


def test_isolated_bears_one_fifth_of_wrong_neighbours() -> None:
    residual = np.zeros((3, 3, 3))
    residual.ravel()[[0, 5, 11, 18, 26]] = 100
    residual[1, 1, 1] = 10
    everything = np.ones((3, 3, 3), bool)
    assert outliers.isolated(residual, everything, at((3, 3, 3), 1, 1, 1), 1.0)[0]


def test_isolated_without_three_measured_neighbours_is_isolated() -> None:
    residual = np.full((3, 3, 3), 5.0)
    mask = np.zeros((3, 3, 3), bool)
    mask[1, 1, 1] = mask[0, 0, 0] = mask[2, 2, 2] = True
    centre = at((3, 3, 3), 1, 1, 1)
    assert outliers.isolated(residual, mask, centre, 1.0)[0]
    mask[0, 1, 1] = True  # a third neighbour of the same residual: shared, so structure
    assert not outliers.isolated(residual, mask, centre, 1.0)[0]


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -1e30])
def test_isolated_ignores_what_lies_under_the_mask(garbage: float) -> None:
    rng = np.random.default_rng(1)
    residual, mask = rng.standard_t(2, (5, 6, 7)), rng.random((5, 6, 7)) < 0.5
    positions = np.flatnonzero(mask)
    expected = outliers.isolated(np.where(mask, residual, 0), mask, positions, 0.8)
    assert 0 < expected.sum() < len(expected)
    dirty = np.where(mask, residual, garbage)
    np.testing.assert_array_equal(outliers.isolated(dirty, mask, positions, 0.8), expected)


@pytest.mark.parametrize("fwhm", [3.5, 4.0, 6.0])
def test_isolated_spares_the_top_of_a_smooth_spot(fwhm: float) -> None:
    spot = 100 * smooth_bump(1.0, fwhm / 2.355)
    assert not outliers.isolated(spot, np.ones(spot.shape, bool), np.arange(spot.size), 1.0)[at(spot.shape, 3, 4, 4)[0]]


def test_isolated_of_nothing_and_of_many() -> None:
    """Candidates go in chunks of 65 536: more than that gives what each part gives."""
    rng = np.random.default_rng(2)
    residual, mask = rng.standard_t(2, (30, 50, 50)).astype(np.float32), rng.random((30, 50, 50)) < 0.9
    assert outliers.isolated(residual, mask, np.zeros(0, int), 1.0).shape == (0,)
    positions = np.arange(residual.size)
    whole = outliers.isolated(residual, mask, positions, 1.0)
    np.testing.assert_array_equal(whole[-100:], outliers.isolated(residual, mask, positions[-100:], 1.0))


@pytest.mark.parametrize("sign", [1, -1])
def test_beyond_neighbours_compares_the_step_out_with_the_span_within(sign: int) -> None:
    """Lowest and highest neighbour do not count: 0 to 10 are left over, and a span is to be exceeded."""
    around = np.array([-3.0, 0.0, *np.linspace(1, 9, 22), 10.0, 13.0])
    everything = np.ones((3, 3, 3), bool)
    centre = at((3, 3, 3), 1, 1, 1)
    for value, expected in [(19.0, False), (-9.0, False), (5.0, False), (60.0, True), (-50.0, True)]:
        volume = sign * np.insert(around, 13, value).reshape(3, 3, 3)
        assert outliers.beyond_neighbours(volume, everything, centre, 1.0)[0] == expected


def test_beyond_neighbours_bears_one_wrong_neighbour() -> None:
    """Two hot pixels side by side are both found, three are not: anything resolved has more bright voxels."""
    volume = np.random.default_rng(0).uniform(0, 1, (5, 5, 5))
    everything = np.ones((5, 5, 5), bool)
    volume[2, 2, 2] = volume[2, 2, 3] = 50
    both = np.concatenate([at((5, 5, 5), 2, 2, 2), at((5, 5, 5), 2, 2, 3)])
    assert outliers.beyond_neighbours(volume, everything, both, 1.0).all()
    volume[2, 3, 2] = 50
    assert not outliers.beyond_neighbours(volume, everything, both, 1.0).any()


@pytest.mark.parametrize("fwhm", [2.0, 2.5, 3.0])
@pytest.mark.parametrize("shift", [0.0, 0.25, 0.5])
def test_beyond_neighbours_leaves_resolved_spots_alone(fwhm: float, shift: float) -> None:
    z, y, x = np.mgrid[:9, :9, :9]
    spot = np.exp(-((z - 4) ** 2 + (y - 4 - shift) ** 2 + (x - 4 - shift) ** 2) / (2 * (fwhm / 2.355) ** 2))
    everything = np.ones(spot.shape, bool)
    assert not outliers.beyond_neighbours(spot, everything, np.arange(spot.size)).any()
    assert not outliers.beyond_neighbours(-spot, everything, np.arange(spot.size)).any()


def test_beyond_neighbours_finds_hot_pixels_of_twelve_standard_deviations_and_nothing_in_noise() -> None:
    """24 of 26 normal numbers range over some 3.3 standard deviations, up to 1.6 above their mean.

    Twice that range beyond them is 8 standard deviations from the mean, 4 less than the hot pixels have; their own
    noise and that of the range are 1.3 together. Noise alone gets that far nowhere among 32 000 voxels but by chance.
    """
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((20, 40, 40))
    everything = np.ones(noise.shape, bool)
    hot = np.ravel_multi_index(np.mgrid[1:19:3, 1:39:3, 1:39:3].reshape(3, -1), noise.shape)
    assert outliers.beyond_neighbours(noise, everything, np.arange(noise.size)).mean() < 1e-4
    noise.ravel()[hot] += 12
    assert outliers.beyond_neighbours(noise, everything, hot).mean() > 0.97


def test_beyond_neighbours_needs_three_measured_neighbours() -> None:
    volume = np.zeros((3, 3, 3))
    volume[1, 1, 1] = 100
    mask = np.zeros((3, 3, 3), bool)
    mask[1, 1, 1] = mask[0, 0, 0] = mask[0, 0, 1] = True
    centre = at((3, 3, 3), 1, 1, 1)
    assert not outliers.beyond_neighbours(volume, mask, centre, 1.0)[0]
    mask[0, 0, 2] = True
    assert outliers.beyond_neighbours(volume, mask, centre, 1.0)[0]


def empty_model(stack: np.ndarray, mask: np.ndarray, threshold: float) -> CompletionResult:
    """A robust fit of ``X = 0``: what it left over is the stack, its candidates are what exceeds the threshold."""
    positions = np.flatnonzero(mask & (np.abs(stack) > threshold))
    record = IterationRecord(
        iteration=1, stage="admm", change=0.0, residual=1.0, outliers=len(positions), threshold=threshold, seconds=0.0
    )
    return CompletionResult(
        tucker=tucker_tensor(np.zeros((1, 1, 1)), [np.ones((size, 1)) for size in stack.shape], stack.dtype),
        sparse=SparsePart(positions, stack.ravel()[positions]),
        status=Status.CONVERGED,
        history=(record,),
        state=None,
    )


def with_hot_pixels(share: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A stack of noise with hot pixels that do not touch, where these are, and its mask."""
    rng = np.random.default_rng(seed)
    stack, mask = rng.normal(0, 0.1, (12, 30, 30)), np.ones((12, 30, 30), bool)
    places = np.mgrid[0:12:2, 0:14:2, 0:30:2].reshape(3, -1)
    chosen = rng.permutation(places.shape[1])[: round(share * stack.size)]
    hot = np.zeros(stack.shape, bool)
    hot[tuple(places[:, chosen])] = True
    stack[hot] = 50
    return stack, hot, mask


@pytest.mark.parametrize(("share", "believed"), [(0.01, False), (0.03, True)])
def test_find_outliers_believes_candidates_within_their_neighbours_range_only_where_hot_pixels_are_many(
    share: float, believed: bool
) -> None:
    """A voxel between two bright neighbours and zeros is isolated, but not beyond the range of the intensities."""
    stack, hot, mask = with_hot_pixels(share)
    stack[6, 22, 21:24] = 20, 5, 20
    found = outliers.find_outliers(stack, mask, empty_model(stack, mask, 3.0))
    assert np.isin(np.flatnonzero(hot), found.positions).all()
    between = at(stack.shape, 6, 22, 22)[0]
    assert (between in found.positions) == believed
    np.testing.assert_array_equal(found.values, stack.ravel()[found.positions])  # E = Y - X, and X is 0
    assert not found.inliers(mask).ravel()[found.positions].any()
    assert found.inliers(mask).sum() == mask.sum() - len(found.positions)


def test_find_outliers_finds_touching_defects_ring_by_ring() -> None:
    """In a 5 x 5 defect only the rim has four in five sound neighbours; the ring within has once the rim is known."""
    stack, hot, mask = with_hot_pixels(0.03)
    hot[6, 20:25, 20:25] = True
    stack[hot] = 50
    found = outliers.find_outliers(stack, mask, empty_model(stack, mask, 3.0))
    np.testing.assert_array_equal(found.positions, np.flatnonzero(hot))


def test_find_outliers_counts_unmeasured_voxels_neither_as_candidates_nor_as_neighbours() -> None:
    stack, hot, mask = with_hot_pixels(0.03)
    mask[:, :, ::3] = False
    clean = outliers.find_outliers(stack, mask, empty_model(stack, mask, 3.0))
    np.testing.assert_array_equal(clean.positions, np.flatnonzero(hot & mask))
    dirty = np.where(mask, stack, 1e6)
    assert np.array_equal(outliers.find_outliers(dirty, mask, empty_model(dirty, mask, 3.0)).positions, clean.positions)


@pytest.mark.parametrize("share", [0.01, 0.03])
def test_find_outliers_in_slabs_gives_what_one_slab_gives(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    """Neighbours in the next slab support a voxel as those in its own do."""
    stack, hot, mask = with_hot_pixels(share)
    stack[4:6, 22:25, 18:21] = stack[3, 23, 19] = 15  # the top of a structure: the next plane shares its residual
    stack[6:9, 22, 25] = 20, 5, 20  # isolated, and within the range of its neighbours along z
    fit = empty_model(stack, mask, 3.0)
    whole = outliers.find_outliers(stack, mask, fit)
    assert np.isin(np.flatnonzero(hot), whole.positions).all()
    assert at(stack.shape, 3, 23, 19)[0] not in whole.positions
    assert (at(stack.shape, 7, 22, 25)[0] in whole.positions) == (share > 0.02)
    monkeypatch.setattr("tensorcell.solvers.slabs.SLAB_VOXELS", 2 * 30 * 30)
    np.testing.assert_array_equal(outliers.find_outliers(stack, mask, fit).positions, whole.positions)
