"""Defects told from signal by the measurement alone: spots and filaments are kept, wrong voxels are found."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from tensorcell import datasets
from tensorcell.solvers import NoiseModel, defects, estimate_noise, single_voxels
from tensorcell.solvers import events as events_module
from tensorcell.solvers.defects import (
    NOWHERE,
    Defects,
    Kind,
    find_defects,
    judge_bright,
    narrower_than,
    narrower_than_any_optics,
)
from tensorcell.solvers.events import Events, clustered, mean_share, shares_light
from tensorcell.solvers.optics import Width, shared_light
from tensorcell.solvers.single_voxels import Field, Scale

SHAPE = (12, 40, 40)
ONE = NoiseModel.white(1.0)
SEEDS = range(6)


def ground(kind: str, seed: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Nothing, or texture of standard deviation 10 that a PSF of 1.5 voxels could have drawn."""
    if kind == "black":
        return np.zeros(shape)
    light = gaussian_filter(np.random.default_rng(seed + 1000).standard_normal(shape), 1.5)
    return np.asarray(10 * light / light.std())


def spots(sigma: float, subpixel: bool, seed: int, count: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian spots 5 to 50 high, and the flat positions of the voxels that hold their peaks."""
    rng = np.random.default_rng(seed)
    light, grid = np.zeros(SHAPE), np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"))
    peaks = np.stack([rng.integers(2, size - 2, count) for size in SHAPE], axis=1).astype(float)
    peaks += rng.uniform(-0.5, 0.5, peaks.shape) if subpixel else 0
    for peak, height in zip(peaks, rng.uniform(5, 50, count), strict=True):
        near = tuple(slice(max(0, int(p) - 4), int(p) + 5) for p in peak)
        part = grid[(slice(None), *near)] - peak[:, None, None, None]
        light[near] += height * np.exp(-np.sum(part**2, axis=0) / (2 * sigma**2))
    return light, np.ravel_multi_index(tuple(np.rint(peaks).astype(int).T), SHAPE)


def noisy(stack: np.ndarray, seed: int = 0) -> np.ndarray:
    return np.asarray(stack + np.random.default_rng(seed + 500).standard_normal(stack.shape), np.float32)


def found_in(stack: np.ndarray, noise: NoiseModel = ONE, **more: object) -> Defects:
    """Defects of a complete stack."""
    return find_defects(stack, np.ones(stack.shape, bool), noise, **more)  # type: ignore[arg-type]


def impulses(count: int, height: float, seed: int = 0, kind: str = "texture") -> tuple[np.ndarray, np.ndarray]:
    """A stack with single voxels that are off by a height, and their flat positions; none has the pixel of another."""
    rng = np.random.default_rng(seed)
    y, x = 2 + 3 * np.array(np.divmod(rng.permutation(144)[:count], 12))
    positions = np.sort(np.ravel_multi_index((rng.integers(1, SHAPE[0] - 1, count), y, x), SHAPE))
    stack = noisy(ground(kind, seed), seed)
    stack.ravel()[positions] += height
    return stack, positions


@pytest.mark.parametrize("share", [1.0, 0.5])
@pytest.mark.parametrize("kind", ["black", "texture"])
@pytest.mark.parametrize("subpixel", [False, True])
@pytest.mark.parametrize("sigma", [0.35, 0.5, 0.7])
def test_no_peak_of_a_spot_is_a_defect(sigma: float, subpixel: bool, kind: str, share: float) -> None:
    for seed in SEEDS:
        light, peaks = spots(sigma, subpixel, seed)
        stack = noisy(light + ground(kind, seed), seed)
        mask = np.random.default_rng(seed).random(SHAPE) < share
        found = find_defects(np.where(mask, stack, 0), mask, ONE)
        assert not np.isin(peaks, found.positions).any()
        assert len(found.positions) <= 1e-3 * mask.sum()


@pytest.mark.parametrize("blur", [0.0, 0.4, 0.6])
@pytest.mark.parametrize("along", ["row", "diagonal", "curve"])
def test_filaments_one_voxel_wide_are_kept(along: str, blur: float) -> None:
    """They run through places where each of their voxels touches two others as bright."""
    for seed in range(2):
        rng = np.random.default_rng(seed)
        line = np.zeros(SHAPE)
        for _ in range(6):
            z, y, x = (rng.uniform(2, size - 2) for size in SHAPE)
            for step in range(34):
                if along == "row":
                    place = z, y, 3 + step
                elif along == "diagonal":
                    place = 1 + step / 3.4, 3 + step, (x + step / 2) % 40
                else:
                    place = z, y + 3 * math.sin(step / 4), 3 + step
                line[tuple(min(size - 1, int(p)) for p, size in zip(place, SHAPE, strict=True))] = 1
        light = gaussian_filter(line, blur) if blur else line
        for height in (8, 40):
            assert not len(found_in(noisy(height * light / light.max(), seed)).positions)


def salted(share: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Simulated cells with salt and pepper as uint8, where they are, and the truth."""
    cells = datasets.simulate_cells((16, 56, 56), cells=8, seed=seed)
    rng = np.random.default_rng(seed + 100)
    stack, wrong = np.clip(cells.measured, 0, None), rng.random(cells.truth.shape) < share
    stack[wrong] = np.where(rng.random(wrong.sum()) < 0.5, 0, 255)
    return stack.astype(np.uint8).astype(np.float32), wrong, cells.truth


@pytest.mark.parametrize("share", [0.0, 0.02, 0.1, 0.2])
def test_salt_and_pepper_on_cells_are_found(share: float) -> None:
    """Nine in ten of those that are more than 40 off, in three stacks, and less than one sound voxel in a thousand.

    Pepper in cells of some 60 photons is five standard deviations of shot noise off at best, so that nearly all of it
    is left to the model.
    """
    hits = total = 0
    first, *_ = salted(share, 0)
    law = estimate_noise(first, np.ones(first.shape, bool))
    for seed in range(3):
        stack, wrong, truth = salted(share, seed)
        result = found_in(stack, law)
        flagged = np.zeros(stack.shape, bool)
        flagged.ravel()[result.positions] = True
        far = wrong & (np.abs(stack - truth) > 40)
        hits, total = hits + int(flagged[far].sum()), total + int(far.sum())
        assert np.count_nonzero(flagged & ~wrong) < 1e-3 * stack.size
        if share == 0:
            assert not flagged.any()
    assert hits >= 0.9 * total


@pytest.mark.parametrize("seed", SEEDS)
def test_a_few_single_bright_voxels_are_kept_and_counted(seed: int) -> None:
    """Of fewer than ten nobody can tell what they are; of twenty, or of one so high that light would show, one can."""
    high, positions = impulses(3, 2000, seed)
    np.testing.assert_array_equal(found_in(high).positions, positions)
    few, positions = impulses(9, 60, seed)
    result = found_in(few)
    assert not len(result.positions)
    assert result.open_ == len(positions)
    many, positions = impulses(20, 1000, seed)
    result = found_in(many)
    np.testing.assert_array_equal(result.positions, positions)
    assert result.count(Kind.BRIGHT) == 20
    assert result.open_ == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_many_single_bright_voxels_are_kept_where_no_structure_is_resolved(seed: int) -> None:
    """On a black ground nothing says how wide the optics draw: all may be beads that were sampled coarsely."""
    stack, positions = impulses(60, 50, seed, "black")
    result = found_in(stack)
    assert not len(result.positions)
    assert result.open_ == len(positions)
    assert result.width.lateral < defects.RESOLVED


def test_a_given_psf_decides_on_single_bright_voxels() -> None:
    """Wider than half a pixel it makes them defects, be they few; narrower than they are it keeps them."""
    for kind in ("black", "texture"):
        stack, positions = impulses(5, 60, kind=kind)
        for psf in [(1.0, 1.0, 1.0), (0.1, 0.8, 0.8), (2.0, 0.7, 0.7)]:
            result = found_in(stack, psf=psf)
            np.testing.assert_array_equal(result.positions, positions)
            assert result.count(Kind.BRIGHT) == 5
        result = found_in(stack, psf=(0.3, 0.3, 0.3))
        assert (len(result.positions), result.open_) == (0, 0)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_given_psf_as_wide_as_the_spots_keeps_them(seed: int) -> None:
    light, peaks = spots(0.7, True, seed)
    result = found_in(noisy(light, seed), psf=(0.7, 0.7, 0.7))
    assert not np.isin(peaks, result.positions).any()


@pytest.mark.parametrize("seed", SEEDS)
def test_single_dark_voxels_are_found(seed: int) -> None:
    """Fluorescence adds light: a few suffice, and no width is asked for. Dark lines and holes are structure."""
    stack, positions = impulses(5, -100, seed)
    stack[6, 0, 4:36] -= 100  # a dark line
    stack[3:6, 36:39, 0:3] -= 100  # a dark cube
    result = found_in(stack)
    assert np.isin(positions, result.positions).all()
    dark = result.positions[result.kinds == Kind.DARK]
    assert len(dark) <= 5 + 1


def test_pixels_that_are_hot_in_some_planes_are_found() -> None:
    """In five of twelve planes, none beside another, so that neither the median of the planes nor a width tells."""
    stack, _ = impulses(0, 0)
    stack[1:11:2, 20, 20] += 40
    result = found_in(stack)
    np.testing.assert_array_equal(np.unravel_index(result.positions, SHAPE), [[1, 3, 5, 7, 9], [20] * 5, [20] * 5])
    assert result.count(Kind.HOT) == 5


def mixed(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """All kinds of defects and spots, in float64, and a mask of four in five voxels."""
    stack, _ = impulses(80, 200, seed)
    light, _ = spots(0.7, True, seed, count=30)
    stack = stack + light
    dark = np.random.default_rng(seed).integers(0, stack.size, 20)
    stack.ravel()[dark] -= 100
    stack[:, 5, 30] += 100
    stack[:, 30, 5] = 7
    return stack.astype(np.float64), np.random.default_rng(seed).random(SHAPE) < 0.8


def same(a: Defects, b: Defects) -> None:
    np.testing.assert_array_equal(a.positions, b.positions)
    np.testing.assert_array_equal(a.kinds, b.kinds)
    assert a.open_ == b.open_


def test_mixed_defects_are_of_all_kinds() -> None:
    """What the tests of invariance compare is no empty answer."""
    result = find_defects(*mixed(), ONE)
    for kind, least in [(Kind.HOT, 7), (Kind.BRIGHT, 40), (Kind.DARK, 10)]:
        assert result.count(kind) >= least
    assert result.count(Kind.DEAD) + result.count(Kind.STUCK) >= 7
    assert result.positions.tolist() == sorted(set(result.positions.tolist()))


@pytest.mark.parametrize("exponent", [-60, -3, 5, 60])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_unit_of_the_data_changes_nothing(dtype: str, exponent: int) -> None:
    stack, mask = mixed()
    stack, factor = stack.astype(dtype), 2.0**exponent
    scaled = find_defects((stack * factor).astype(dtype), mask, NoiseModel.white(factor))
    same(scaled, find_defects(stack, mask, ONE))
    shot = NoiseModel(gain=0.5, offset=1.0, sigma=1.0, floor=0.25)
    shot_scaled = NoiseModel(gain=0.5 * factor, offset=factor**2, sigma=factor, floor=0.25 * factor**2)
    same(find_defects((stack * factor).astype(dtype), mask, shot_scaled), find_defects(stack, mask, shot))


def test_exchanging_y_and_x_exchanges_the_defects() -> None:
    stack, mask = mixed()
    straight = find_defects(stack, mask, ONE)
    turned = find_defects(np.ascontiguousarray(stack.swapaxes(1, 2)), np.ascontiguousarray(mask.swapaxes(1, 2)), ONE)
    kinds = [np.zeros(SHAPE, np.uint8) for _ in range(2)]
    for map_, result in zip(kinds, (straight, turned), strict=True):
        map_.ravel()[result.positions] = result.kinds
    np.testing.assert_array_equal(kinds[0], kinds[1].swapaxes(1, 2))
    assert straight.open_ == turned.open_


@pytest.mark.parametrize("garbage", [1e6, -1e30])
def test_garbage_under_the_mask_changes_nothing_and_nothing_is_written(garbage: float) -> None:
    stack, mask = mixed()
    expected = find_defects(np.where(mask, stack, 0), mask, ONE)
    dirty, seen = np.where(mask, stack, garbage), mask.copy()
    dirty.setflags(write=False)
    seen.setflags(write=False)
    same(find_defects(dirty, seen, ONE), expected)
    assert mask.ravel()[expected.positions].all()


@pytest.mark.parametrize("planes", [1, 5])
def test_slabs_give_what_one_slab_gives(monkeypatch: pytest.MonkeyPatch, planes: int) -> None:
    stack, mask = mixed()
    whole = find_defects(stack, mask, ONE)
    monkeypatch.setattr("tensorcell.solvers.slabs.SLAB_VOXELS", planes * stack[0].size)
    monkeypatch.setattr(events_module, "PART", 3)
    same(find_defects(stack, mask, ONE), whole)


def events(
    count: int, *, lateral: float = 0.0, axial: float = 0.0, height: float = 1000.0, touching: int = 0,
    chance: float = 1e-3, sharing: int | None = None,
) -> Events:  # fmt: skip
    """Events with 26 measured neighbours, of which those that share a face have so much light."""
    four, two, rate = np.full(count, 4), np.full(count, 2), np.full(count, chance)
    faces = 4 * (lateral > 0.1) + 2 * (axial > 0.1) if sharing is None else sharing
    return Events(
        np.arange(count), np.full(count, height), np.full(count, 26), np.full(count, touching),
        np.full(count, touching), np.full(count, lateral), np.full(count, lateral), four,
        np.full(count, axial), two, rate, np.full(count, faces), rate,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("count", "lateral", "axial", "height", "expected"),
    [
        (10, 0, 0, 1000, True),
        (9, 0, 0, 1000, False),  # MANY
        (1000, 0.007, 0, 1000, True),
        (1000, 0.012, 0, 1000, False),  # NARROWEST: .017, of which .6 is certain to show
        (1000, -0.05, 0, 1000, True),
        (20, -0.05, 0, 6, False),  # a mean below 0 is no proof: noise alone reaches the limit
        (1000, 0, 0.1, 1000, False),  # light along z
        (1000, 0, 0.015, 1000, True),
        (100, 0.03, 0, 60, False),  # light is seen
    ],
)
def test_the_mean_of_many_must_exclude_the_narrowest_psf(
    count: int, lateral: float, axial: float, height: float, expected: bool
) -> None:
    found = events(count, lateral=lateral, axial=axial, height=height)
    if height < 100:
        rng = np.random.default_rng(0)
        found = found._replace(lateral=lateral + np.sqrt(0.31) / height * rng.standard_normal(count))
    assert narrower_than_any_optics(found, np.arange(count)) == expected


def test_frequent_voxels_without_any_light_are_impulses_though_centred_spots_are_not_excluded() -> None:
    """A hundred of height 15: the mean is 0 +- .0037, and three errors above it exclude .026, but not .010."""
    for chance, lateral, expected in [(0.02, 0.0, True), (0.005, 0.0, False), (0.02, 0.006, False)]:
        found = events(100, height=15, chance=chance)
        scatter = np.tile([-1.0, 1.0], 50) * np.sqrt(0.31) / 15  # of four neighbours and their median
        found = found._replace(lateral=lateral + scatter)
        assert narrower_than_any_optics(found, np.arange(100)) == expected


def test_light_on_all_sides_is_kept_among_impulses() -> None:
    """Impulses that lie beside another one have light on one side: the lower median of four is 0."""
    impulses_, wide = events(300, height=60, chance=0.02), Width((1.0, 1.0, 1.0))
    for lateral, low, height, kept in [
        (0.15, 0.13, 60, True),
        (0.15, 0.0, 60, False),
        (0.06, 0.06, 60, False),  # less than spots of half a pixel
        (0.15, 0.0, 12, True),  # noise may hide the light of half of the neighbours
        (0.1, 0.1, 6, False),  # noise has as much
    ]:
        one = events(1, lateral=lateral, height=height, chance=0.02, sharing=0)._replace(lateral_low=np.array([low]))
        both = Events(*(np.concatenate(columns) for columns in zip(one, impulses_, strict=True)))
        defect, open_ = judge_bright(both, wide)
        assert defect[1:].all()
        assert (not defect[0], open_[0]) == (kept, kept)


def test_bright_voxels_are_judged_where_the_structure_is_wider_than_they_are() -> None:
    many = events(50)
    for lateral, expected in [(0.0, 0), (0.55, 0), (0.65, 50), (2.0, 50)]:
        defect, open_ = judge_bright(many, Width((1.0, lateral, lateral)))
        assert (defect.sum(), open_.sum()) == (expected, 50 - expected)


def test_bright_voxels_are_judged_in_classes_of_their_height() -> None:
    """Twenty low ones share light and are kept, though they would not change the mean of a hundred high impulses."""
    low, high = events(20, lateral=0.09, height=15), events(100, height=60)
    both = Events(*(np.concatenate(columns) for columns in zip(low, high, strict=True)))
    defect, open_ = judge_bright(both, Width((1.0, 1.0, 1.0)))
    np.testing.assert_array_equal(defect, np.arange(120) >= 20)
    np.testing.assert_array_equal(open_, ~defect)


def test_voxels_that_share_light_or_touch_others_as_bright_are_never_defects() -> None:
    wide, psf = Width((1.0, 1.0, 1.0)), (1.0, 1.0, 1.0)
    for found in (events(50, lateral=0.2), events(50, axial=0.2), events(50, touching=2)):
        for given in (None, psf):
            assert not judge_bright(found, wide, given)[0].any()
            assert not judge_bright(found, wide, given)[1].any()


@pytest.mark.parametrize(
    ("touching", "chance", "expected"), [(0, 0.01, 0), (1, 0.001, 1), (1, 0.05, 0), (2, 0.06, 0), (5, 0.05, 1)]
)
def test_clustered_compares_with_independent_places(touching: int, chance: float, expected: int) -> None:
    """One neighbour as bright among 26 is structure where one in 1000 voxels is bright, and chance where one in 20 is.

    Where all of 30 events touch five others, that is structure, though one of ten has so many by chance.
    """
    assert clustered(events(30, touching=touching, chance=chance), rare=True).all() == bool(expected)
    assert clustered(events(30, touching=touching, chance=chance), rare=True).any() == bool(expected)


def test_as_many_events_touch_others_as_chance_has_or_most_of_them_are_structure() -> None:
    """Benjamini and Hochberg by hand: p is .038 at one neighbour of 26 and a chance of .001 * 1.5."""
    for touching, among, expected in [(1, 100, 0), (4, 100, 0), (8, 100, 8), (1, 10, 1), (1, 14, 0)]:
        some = events(among, chance=1e-3)._replace(comparable=(np.arange(among) < touching).astype(int))
        assert np.count_nonzero(clustered(some, rare=True)) == expected, (touching, among)
        assert clustered(some, rare=True)[:touching].all() == bool(expected)


def test_events_that_touch_none_tell_how_many_are_no_structure() -> None:
    """At a chance of .02 * 1.5, .45 of the events touch none: if all touch one, all are structure, though p is .55."""
    everyone = events(100, touching=1, chance=0.02)
    assert not clustered(everyone, rare=True).any()
    assert clustered(everyone).all()
    usual = everyone._replace(comparable=(np.arange(100) < 55).astype(int))
    assert not clustered(usual).any()


def test_shares_light_needs_more_than_noise_explains() -> None:
    """At a height of 10 the error of four neighbours is .056, so that .25 may be noise about a share of .1."""
    for height, lateral, expected in [(10, 0.25, False), (10, 0.35, True), (1000, 0.12, False), (1000, 0.15, True)]:
        assert shares_light(events(1, lateral=lateral, height=height))[0] == expected
    for height, axial, expected in [(10, 0.3, False), (10, 0.45, True)]:
        assert shares_light(events(1, axial=axial, height=height))[0] == expected


def test_narrower_than_asks_for_half_of_the_light_of_the_psf() -> None:
    """A PSF of .7 gives .36: impulses with .14 are defects, with .2 they are not. Planes far apart share nothing."""
    assert 0.5 * shared_light(0.7) == pytest.approx(0.18, abs=0.003)
    for lateral, axial, psf, expected in [
        (0.0, 0.0, (0.7, 0.7, 0.7), True),
        (0.14, 0.0, (0.7, 0.7, 0.7), True),
        (0.2, 0.0, (0.7, 0.7, 0.7), False),
        (0.0, 0.2, (0.7, 0.7, 0.7), False),
        (0.0, 0.2, (0.2, 0.7, 0.7), True),
        (0.0, math.nan, (0.7, 0.7, 0.7), True),
        (math.nan, 0.0, (0.7, 0.7, 0.7), False),
    ]:
        assert narrower_than(events(1, lateral=lateral, axial=axial), psf)[0] == expected


def test_mean_share_is_weighted_by_squared_height_up_to_a_cap() -> None:
    both = events(2)._replace(lateral=np.array([0.0, 0.3]), height=np.array([10.0, 20.0]))
    mean, error, count = mean_share(both.lateral, both.lateral_count, both.height)
    assert mean == pytest.approx(0.3 * 4 / 5)
    assert error == pytest.approx(math.hypot(1 / 5 * 0.24, 4 / 5 * 0.06))
    assert count == 2
    capped = mean_share(both.lateral, both.lateral_count, np.array([60.0, 3000.0]))[0]
    assert capped == pytest.approx(0.15)
    assert mean_share(np.full(1, np.nan), np.zeros(1, int), np.ones(1)) == (0.0, math.inf, 0)


def test_candidates_stand_out_by_five_standard_deviations_and_from_most_neighbours() -> None:
    """The distance from a median of 26 normal values has a standard deviation of 1.03."""
    stack, positions = noisy(np.zeros(SHAPE)), np.array([np.ravel_multi_index((6, 20, 20), SHAPE)])
    everything = np.ones(SHAPE, bool)
    for height, expected in [(4.0, False), (8.0, True), (-8.0, True)]:
        stack[6, 20, 20] = height
        field = Field(stack, ONE)
        scale = single_voxels.typical_distances(field, everything, everything)
        found = single_voxels.find_candidates(field, everything, scale, NOWHERE)
        assert np.isin(positions, found).all() == expected
    stack[5:8, 19:22, 19:22] = np.random.default_rng(0).uniform(-10, 10, (3, 3, 3))  # neighbours that differ as much
    stack[6, 20, 20] = 12
    assert not np.isin(positions, single_voxels.find_candidates(field, everything, scale, NOWHERE)).any()


def test_candidates_in_one_neighbourhood_do_not_hide_each_other() -> None:
    """Nine of 26 neighbours are wrong: they are found in rounds, the outer ones first."""
    stack, everything = noisy(np.zeros(SHAPE)), np.ones(SHAPE, bool)
    stack[6, 19:22, 19:22] += 40
    stack[5, 20, 20] += 40
    field = Field(stack, ONE)
    scale = single_voxels.typical_distances(field, everything, everything)
    found = single_voxels.find_candidates(field, everything, scale, NOWHERE)
    wanted = np.ravel_multi_index(np.nonzero(stack > 25), SHAPE)
    assert np.isin(wanted, found).all()


def test_typical_distances_of_noise_are_its_own_and_spots_do_not_move_the_background() -> None:
    """The mean distance from the median is at most one standard deviation of the noise, whatever light is there."""
    everything = np.ones(SHAPE, bool)
    flat = single_voxels.typical_distances(Field(noisy(np.zeros(SHAPE)), ONE), everything, everything)
    assert np.median(flat.linear) == pytest.approx(1.03, rel=0.05)
    np.testing.assert_allclose(flat.linear, 1.03, rtol=0.2)  # 24 classes of 800 voxels
    assert np.abs(flat.bias).max() <= 1
    assert np.abs(np.median(flat.bias)) < 0.1
    light = spots(0.7, False, 3, count=150)[0]
    busy: Scale = single_voxels.typical_distances(Field(noisy(light), ONE), everything, everything)
    assert np.abs(busy.bias).max() <= 1


@pytest.mark.parametrize("shape", [(12, 20, 20), (4, 34, 34)])
def test_a_third_of_the_voxels_at_random_bright_show_no_width_by_which_they_would_be_defects(
    shape: tuple[int, int, int],
) -> None:
    """Left among bright ones alone, the voxels that are no candidates look like neighbours of each other."""
    rng = np.random.default_rng(1)
    stack = np.where(rng.random(shape) < 0.7, 0, rng.poisson(50, shape)).astype(np.float32)
    found = find_defects(stack, np.ones(shape, bool), NoiseModel.white(7.0))
    assert found.count(Kind.BRIGHT) == 0
    assert found.width.lateral == 0
