"""Dead, stuck and hot pixels planted in all planes, and what looks like them: filaments, clipped background, chance."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from tensorcell import datasets
from tensorcell.solvers import NoiseModel, estimate_noise
from tensorcell.solvers.camera_pixels import DEAD, HOT, STUCK, camera_pixels, repeated

SHAPE = (12, 56, 56)
SEEDS = range(6)


def cells(seed: int) -> np.ndarray:
    return np.asarray(datasets.simulate_cells(SHAPE, cells=8, seed=seed).measured, np.float32)


def photons(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).poisson(5, SHAPE).astype(np.float32)


WHITE = NoiseModel.white(1.0)


def kinds_of(stack: np.ndarray, mask: np.ndarray | None = None, noise: NoiseModel | None = None) -> np.ndarray:
    """Kinds of all pixels; by default all is measured and the noise is estimated."""
    seen = np.ones(stack.shape, bool) if mask is None else mask
    return camera_pixels(stack, seen, noise or estimate_noise(stack, seen))


def of_photons(mean: float) -> NoiseModel:
    """The law of counts. Its estimate, which takes thirty times as long as all else here, is used in the first stack of
    a test."""
    return NoiseModel(gain=1.0, offset=0.0, sigma=mean**0.5)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("make", [cells, photons])
def test_wrong_pixels_are_found_by_kind_and_no_others(make: object, seed: int) -> None:
    """20 of each kind, 8 standard deviations of the stack off, none beside another; dead ones show in light."""
    stack = make(seed)  # type: ignore[operator]
    law = estimate_noise(stack, np.ones(stack.shape, bool))
    assert not kinds_of(stack, noise=law).any()
    rng = np.random.default_rng(seed)
    y, x = 1 + 2 * np.array(np.divmod(rng.permutation(27 * 27)[:60], 27))
    planted = np.repeat([DEAD, STUCK, HOT], 20)
    bright = np.median(stack, axis=0) > np.median(stack) if make is cells else np.ones(SHAPE[1:], bool)
    stack[:, y[:20], x[:20]] = 0
    stack[:, y[20:40], x[20:40]] = np.median(stack, axis=0)[y[20:40], x[20:40]] + 8 * stack.std()
    stack[:, y[40:], x[40:]] += 8 * stack.std()
    kinds = kinds_of(stack, noise=law if seed else None)
    visible = bright[y, x] | (planted != DEAD)
    assert np.mean(kinds[y, x][visible] == planted[visible]) >= 0.95
    kinds[y, x] = 0
    assert not kinds.any()


@pytest.mark.parametrize("seed", SEEDS)
def test_hot_pixels_are_found_where_half_of_the_voxels_is_missing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    stack, mask = np.concatenate([photons(seed), photons(seed + 100)]), rng.random((24, 56, 56)) < 0.5
    stack[:, 3::10, 3::10] += 30
    hot = np.zeros(SHAPE[1:], bool)
    hot[3::10, 3::10] = True
    law = of_photons(5) if seed else None
    kinds = kinds_of(np.where(mask, stack, np.nan).astype(np.float32), mask, law)
    assert np.mean(kinds[hot] == HOT) >= 0.95
    assert not kinds[~hot].any()


def test_fewer_than_four_planes_show_no_pixels() -> None:
    """Two or three planes may be filled by one spot; the fourth decides. Pixels measured less often are not judged."""
    stack, law = photons(0), of_photons(5)
    stack[:, 20, 20] += 100
    mask = np.ones(SHAPE, bool)
    for planes in (2, 3):
        assert not kinds_of(stack[:planes], noise=law).any()
    assert kinds_of(stack[:4], noise=law)[20, 20] == HOT
    mask[3:, 20, 20] = False
    assert not kinds_of(stack, mask, law)[20, 20]
    mask[3, 20, 20] = True
    assert kinds_of(stack, mask, law)[20, 20] == HOT


def test_a_spot_that_fills_most_of_the_measured_planes_of_its_pixel_is_no_pixel_of_the_camera() -> None:
    """Four planes of the pixel were measured and three show the spot: three quarters of them, but not four."""
    rng = np.random.default_rng(0)
    stack, mask = rng.standard_normal((12, 40, 40)).astype(np.float32), np.ones((12, 40, 40), bool)
    stack[4:7, 20, 20] += 10, 50, 10
    mask[:, 20, 20] = False
    mask[[4, 5, 6, 9], 20, 20] = True
    assert not kinds_of(stack, mask).any()
    stack[9, 20, 20] += 10
    assert kinds_of(stack, mask)[20, 20] == HOT


def test_most_planes_must_agree() -> None:
    """Three quarters of them, by a third of the median difference."""
    rng = np.random.default_rng(1)
    stack = rng.standard_normal((12, 40, 40)).astype(np.float32)
    stack[:8, 20, 20] += 30
    assert not kinds_of(stack).any()
    stack[8, 20, 20] += 30
    assert kinds_of(stack)[20, 20] == HOT


@pytest.mark.parametrize("sigma", [0.6, 0.7, 1.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_vertical_filament_whose_neighbours_share_its_light_is_kept(sigma: float, seed: int) -> None:
    """Its neighbours in the plane have a quarter of its light or more (``exp(-1 / (2 sigma^2))``)."""
    rng = np.random.default_rng(seed)
    line = np.zeros(SHAPE)
    line[:, 30, 25] = line[:, 12, 40] = 1
    line = gaussian_filter(line, (0, sigma, sigma))
    for height in (5, 20, 100):
        stack = (height * line / line.max() + rng.standard_normal(SHAPE)).astype(np.float32)
        assert not kinds_of(stack, noise=WHITE if seed else None).any()


def test_a_column_without_any_light_around_it_is_a_pixel_of_the_camera() -> None:
    """Nothing tells it from a structure along z that is narrower than the camera sees; the same in all planes decides.

    It is structure if its neighbours may have a fifth of its light more than its corners.
    """
    noise = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    for share, expected in [(0.0, HOT), (0.12, HOT), (0.25, 0)]:
        stack = noise.copy()
        stack[:, 20, 20] += 100
        for y, x in [(19, 20), (21, 20), (20, 19), (20, 21)]:
            stack[:, y, x] += 100 * share
        assert kinds_of(stack)[20, 20] == expected


def test_lines_of_wrong_pixels_are_not_told_from_structure() -> None:
    """Rows and columns of a camera look like filaments, so they are kept but for the ends; so are blocks of pixels."""
    for where in (np.s_[:, 20], np.s_[:, :, 30], np.s_[:, 20:23, 30:33]):
        for off in (50, -50):
            stack = 100 + np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
            stack[where] += off
            assert not kinds_of(stack, noise=WHITE)[1:-1, 1:-1].any()


def test_two_hot_pixels_side_by_side_are_found_where_hot_pixels_are_many() -> None:
    """Among 1 % of wrong pixels eight neighbours hold another one with 8 %, which is no surprise; with three it is."""
    stack = np.random.default_rng(0).standard_normal((12, 80, 80)).astype(np.float32)
    stack[:, 4::10, 4::10] += 50
    stack[:, 4, 5] += 50
    stack[:, [44, 45, 44, 45], [44, 44, 45, 45]] += 50
    kinds = kinds_of(stack, noise=WHITE)
    assert kinds[4, 4] == kinds[4, 5] == HOT
    assert not kinds[44:46, 44:46].any()
    assert np.count_nonzero(kinds) == 64  # 8 x 8, of which one lies in the block, and the neighbour


@pytest.mark.parametrize("seed", SEEDS)
def test_clipped_background_is_no_stuck_pixel(seed: int) -> None:
    """Two regions repeat the value 0 in all planes, and most of their pixels do."""
    rng = np.random.default_rng(seed)
    light = np.zeros(SHAPE)
    light[:, :, 28:] = 20
    stack = rng.poisson(gaussian_filter(light, (0, 2, 2))).astype(np.float32)
    stack -= 3
    np.maximum(stack, 0, out=stack)
    assert not kinds_of(stack).any()


def test_a_stuck_pixel_repeats_its_value_while_its_neighbours_vary() -> None:
    """One value that is no brighter nor darker than those around it is stuck, unless a crowd repeats its values."""
    stack = np.random.default_rng(0).normal(100, 5, SHAPE).astype(np.float32)
    stack[:, 20, 20] = 101
    kinds = kinds_of(stack)
    assert kinds[20, 20] in (STUCK, DEAD)  # by the sign of its difference, which is small
    assert np.count_nonzero(kinds) == 1
    stack[:, 30:34, 30:34] = 101  # 16 of 25
    assert np.count_nonzero(kinds_of(stack)[30:34, 30:34]) < 16
    stack[:, 28:38, 28:38] = 101
    assert not kinds_of(stack)[30:36, 30:36].any()


def test_a_stuck_pixel_may_differ_in_one_plane_of_ten() -> None:
    stack = np.random.default_rng(0).normal(100, 5, (24, 40, 40)).astype(np.float32)
    stack[:, 20, 20] = 150
    stack[0, 20, 20] = 151  # 22 of 23 steps repeat the value
    assert kinds_of(stack)[20, 20] == STUCK
    stack[::4, 20, 20] = 151
    assert kinds_of(stack)[20, 20] == HOT


@pytest.mark.parametrize("seed", SEEDS)
def test_integers_repeat_their_values_by_chance(seed: int) -> None:
    """Of 5 photons one in eight is repeated: in four planes seven of 3136 pixels have one value. None is wrong.

    Of .3 photons more than half is repeated, which tells nothing at all.
    """
    rng = np.random.default_rng(seed)
    for mean, planes in [(5, 4), (5, 5), (0.3, 12)]:
        stack = rng.poisson(mean, (planes, 56, 56)).astype(np.float32)
        assert np.any(np.all(stack == stack[:1], axis=0)) or planes == 5
        assert not kinds_of(stack, noise=of_photons(mean) if seed else None).any()


def test_planes_that_all_repeat_hold_no_stuck_pixels() -> None:
    stack = np.repeat(np.random.default_rng(0).normal(100, 5, (1, 40, 40)), 8, axis=0).astype(np.float32)
    assert not kinds_of(stack).any()


def at(shape: tuple[int, ...], places: list[tuple[int, int, int]]) -> np.ndarray:
    """Flat positions, ascending."""
    return np.sort([int(np.ravel_multi_index(place, shape)) for place in places])


def test_repeated_finds_a_pixel_that_is_hot_in_alternating_planes() -> None:
    trusted = np.ones(SHAPE, bool)
    spots = [(3, 5, 9), (7, 40, 12), (9, 22, 31), (0, 50, 50)]
    positions = at(SHAPE, [(z, 10, 10) for z in range(0, 12, 2)] + spots)
    found = repeated(positions, np.ones(len(positions), bool), trusted)
    pixel = positions % (56 * 56)
    np.testing.assert_array_equal(found, pixel == 10 * 56 + 10)


def test_repeated_counts_events_that_touch_along_z_once() -> None:
    trusted = np.ones(SHAPE, bool)
    positions = at(SHAPE, [(z, 10, 10) for z in range(3, 9)])
    assert not repeated(positions, np.ones(6, bool), trusted).any()


def test_repeated_does_not_divide_a_spot_by_a_plane_that_was_not_measured_or_shares_its_light() -> None:
    """What divides is a voxel that was measured and does not stand out."""
    trusted = np.ones(SHAPE, bool)
    positions, single = at(SHAPE, [(3, 10, 10), (5, 10, 10)]), np.ones(2, bool)
    assert repeated(positions, single, trusted).all()
    trusted[4, 10, 10] = False
    assert not repeated(positions, single, trusted).any()
    trusted[4, 10, 10] = True
    positions, single = at(SHAPE, [(z, 10, 10) for z in (3, 4, 5)]), np.array([True, False, True])
    assert not repeated(positions, single, trusted).any()


def test_repeated_leaves_two_spots_by_chance_alone() -> None:
    """Among 40 events in 3136 pixels two share a pixel in one stack of four, three do in one of 1500."""
    trusted, rng = np.ones(SHAPE, bool), np.random.default_rng(0)
    others = [(int(rng.integers(12)), 2 * n + 1 - 56 * (n // 28), int(rng.integers(20, 56))) for n in range(40)]
    for planes, expected in [((2, 8), False), ((1, 5, 8, 11), True)]:
        positions = at(SHAPE, others + [(z, 10, 10) for z in planes])
        found = repeated(positions, np.ones(len(positions), bool), trusted)
        assert found[positions % (56 * 56) == 10 * 56 + 10].all() == expected
        assert found.sum() == expected * len(planes)


def test_repeated_of_nothing() -> None:
    assert repeated(np.zeros(0, int), np.zeros(0, bool), np.ones(SHAPE, bool)).shape == (0,)
    assert not repeated(np.array([3, 7]), np.zeros(2, bool), np.ones(SHAPE, bool)).any()
