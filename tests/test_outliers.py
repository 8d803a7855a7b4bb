"""Outliers: the defects that were found before, and what only the residual of a model shows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import correlate

from tensorcell import datasets
from tensorcell.fitting import Fitting
from tensorcell.model import model_of
from tensorcell.solvers import CompletionResult, IterationRecord, NoiseModel, Status
from tensorcell.solvers.defects import FEWEST, MANY, Defects, Kind, find_defects
from tensorcell.solvers.neighbourhoods import neighbours
from tensorcell.solvers.optics import Width
from tensorcell.solvers.outliers import Outliers, find_outliers, no_defects
from tensorcell.solvers.results import SparsePart, tucker_tensor

SHAPE = (12, 40, 40)
ONE = NoiseModel.white(1.0)


def waves(shape: tuple[int, ...] = SHAPE) -> tuple[np.ndarray, CompletionResult]:
    """A smooth truth from 20 to 180 of multilinear rank 2, and a fit that is exactly that."""
    axes = [np.stack([np.ones(n), np.sin(np.arange(n) / 3 + mode)], axis=1) for mode, n in enumerate(shape)]
    core = np.zeros((2, 2, 2))
    core[0, 0, 0], core[1, 1, 1], core[0, 1, 1] = 100, 40, 40
    record = IterationRecord(
        iteration=1, stage="admm", change=0.0, residual=1.0, outliers=0, threshold=0.0, seconds=0.0
    )  # fmt: skip
    fit = CompletionResult(
        tucker=tucker_tensor(core, axes, np.float64),
        sparse=SparsePart(np.zeros(0, int), np.zeros(0)),
        status=Status.CONVERGED,
        history=(record,),
        state=None,
    )
    return np.einsum("abc,za,yb,xc->zyx", core, *axes), fit


def noisy(truth: np.ndarray, seed: int = 0) -> np.ndarray:
    return np.asarray(truth + np.random.default_rng(seed).standard_normal(truth.shape))


def scattered(count: int, seed: int = 0, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Flat positions, ascending, of voxels that do not touch."""
    places = np.stack(np.meshgrid(*(np.arange(1, n - 1, 3) for n in shape), indexing="ij")).reshape(3, -1)
    chosen = np.random.default_rng(seed).permutation(places.shape[1])[:count]
    return np.sort(np.ravel_multi_index(tuple(places[:, chosen]), shape))


def bright_before(positions: np.ndarray) -> Defects:
    return Defects(positions, np.full(len(positions), Kind.BRIGHT, np.uint8), 3, Width((1.0, 1.0, 1.0)))


def everywhere(stack: np.ndarray) -> np.ndarray:
    return np.ones(stack.shape, bool)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_dead_voxels_that_only_the_model_shows_are_found(seed: int) -> None:
    """Dead voxels in bright cells: shot noise hides nearly all among their neighbours, but not from the model."""
    cells = datasets.simulate_cells((16, 56, 56), cells=8, seed=seed)
    stack = np.clip(cells.measured, 0, None).astype(np.float32)
    rng = np.random.default_rng(3)
    dead = (rng.random(stack.shape) < 0.02) & (cells.truth > 40)
    stack[dead] = 0
    model = model_of(stack, everywhere(stack), Fitting())
    flagged = ~model.inlier
    assert flagged[dead].mean() >= 0.9
    assert flagged[~dead].mean() < 3e-3
    assert not stack[flagged & ~dead].any()  # where a value of 0 is mostly that of a dead voxel, photons give it, too
    alone = find_defects(stack, everywhere(stack), model.noise)
    assert np.isin(np.flatnonzero(dead), alone.positions).mean() < 0.3


def test_dark_voxels_of_the_residual_are_found_and_their_distance_is_that_from_the_model() -> None:
    truth, fit = waves()
    stack, dark = noisy(truth), scattered(60)
    stack.ravel()[dark] = 0
    mask = everywhere(stack)
    found = find_outliers(stack, mask, fit, ONE)
    visible = dark[truth.ravel()[dark] > 60]
    assert np.isin(visible, found.positions).mean() >= 0.95
    assert np.isin(found.positions, dark).all()
    assert np.all(np.diff(found.positions) > 0)
    assert found.count(Kind.DARK) == len(found.positions)
    np.testing.assert_allclose(found.values, (stack - truth).ravel()[found.positions])  # E = Y - X
    inliers = found.inliers(mask)
    assert inliers.sum() == mask.sum() - len(found.positions)
    assert not inliers.ravel()[found.positions].any()
    assert mask.all()  # the caller's mask stays as it is


def test_what_is_no_darker_than_its_neighbours_is_kept_whatever_the_model_says() -> None:
    """The model is too bright at some voxels; the measurement shows nothing there."""
    truth, fit = waves()
    stack = noisy(np.zeros(SHAPE))
    assert not len(find_outliers(stack, everywhere(stack), fit, ONE).positions)
    places = scattered(60)
    dark = noisy(truth)
    dark.ravel()[places] -= 60
    around = dark.copy()
    for step in (1, -1, SHAPE[2], -SHAPE[2], SHAPE[1] * SHAPE[2], -SHAPE[1] * SHAPE[2]):
        around.ravel()[places + step] = dark.ravel()[places] - 20  # six of 26 neighbours are darker yet
    assert np.isin(places, find_outliers(dark, everywhere(dark), fit, ONE).positions).mean() > 0.9
    assert not np.isin(places, find_outliers(around, everywhere(dark), fit, ONE).positions).any()


def test_what_agrees_with_the_model_is_kept_among_light_that_the_model_lacks() -> None:
    """A dark voxel in a bright ball: darker than all around it, and as bright as the model says."""
    truth, fit = waves()
    stack = noisy(truth)
    stack[4:9, 15:24, 15:24] += 60
    stack[6, 19, 19] -= 60
    place = np.ravel_multi_index((6, 19, 19), SHAPE)
    mask = everywhere(stack)
    assert place not in find_outliers(stack, mask, fit, ONE).positions
    stack[6, 19, 19] -= 10
    assert place in find_outliers(stack, mask, fit, ONE).positions


def test_structure_that_the_model_lacks_is_no_outlier() -> None:
    """Bright spots, single bright voxels, bright and dark filaments: the model draws none of them."""
    truth, fit = waves()
    stack = noisy(truth)
    stack.ravel()[scattered(80)] += 80
    stack[6, 20, 3:37] += 60
    stack[3, 5:35, 8] -= 50
    for t in range(30):
        stack[1 + t // 3, 5 + t, 35 - t] += 60
    mask = everywhere(stack)
    found = find_outliers(stack, mask, fit, ONE)
    assert (len(found.positions), found.open_) == (0, 0)
    assert find_outliers(stack, mask, fit).positions.tolist() == []  # without a law of noise neither


def test_single_bright_voxels_of_the_residual_are_outliers_where_the_measurement_has_shown_many_impulses() -> None:
    truth, fit = waves()
    stack, bright = noisy(truth), scattered(80)
    stack.ravel()[bright] += 80
    for before, expected in [(MANY - 1, 0.0), (MANY, 0.95)]:
        mask = everywhere(stack)
        mask.ravel()[bright[:before]] = False
        found = find_outliers(stack, mask, fit, ONE, bright_before(bright[:before]))
        assert np.isin(bright[:before], found.positions).all()
        assert np.isin(bright[before:], found.positions).mean() >= expected
        assert expected or len(found.positions) == before
        assert found.count(Kind.BRIGHT) == len(found.positions)
        assert np.isin(found.positions, bright).all()


@pytest.mark.parametrize("share", [0.05, 0.1])
def test_impulses_among_few_measured_pixels_are_told_from_light_by_the_neighbours_they_have(share: float) -> None:
    """With one pixel of ten measured, a voxel has 2.6 neighbours: only the model says how bright it should be.

    Impulses share nothing; the flank of spots as narrow as .5 pixels has an eighth of their light, so they are kept.
    """
    shape = (24, 100, 100)
    truth, fit = waves(shape)
    rng = np.random.default_rng(0)
    mask, places = rng.random(shape) < share, scattered(6000, shape=shape)
    wide = Defects(np.zeros(0, int), np.zeros(0, np.uint8), 0, Width((1.0, 1.0, 1.0)))
    impulses = noisy(truth)
    impulses.ravel()[places] += 300
    found = find_outliers(np.where(mask, impulses, 0), mask, fit, ONE, wide)
    wrong = places[mask.ravel()[places]]
    hidden = np.sum(~np.isnan(neighbours(impulses, mask, wrong)), axis=1) < FEWEST
    assert np.isin(wrong[hidden], found.positions).mean() >= 0.9
    assert np.isin(found.positions, wrong[hidden]).all()
    spot = np.zeros(shape)
    spot.ravel()[places] = 1
    lit = noisy(truth) + 300 * correlate(spot, np.exp(-2 * np.sum((np.indices((3, 3, 3)) - 1.0) ** 2, axis=0)))
    assert not len(find_outliers(np.where(mask, lit, 0), mask, fit, ONE, wide).positions)
    narrow = replace(wide, width=Width((0.4, 0.4, 0.4)))
    assert not len(find_outliers(np.where(mask, impulses, 0), mask, fit, ONE, narrow).positions)


def test_defects_stay_outliers_with_their_kind_and_what_was_open_stays_open() -> None:
    truth, fit = waves()
    stack = noisy(truth)
    positions, kinds = np.array([5, 777, 9000]), np.array([Kind.HOT, Kind.DEAD, Kind.DARK], np.uint8)
    before = Defects(positions, kinds, 4, Width((1.0, 2.0, 3.0)), np.array([10, 20, 30, 40]))
    mask = everywhere(stack)
    mask.ravel()[positions] = False
    stack.ravel()[positions] = 500
    stack.ravel()[2000 * 2 + 1] = 0
    found = find_outliers(stack, mask, fit, ONE, before)
    assert found.positions.tolist() == [5, 777, 4001, 9000]
    assert found.kinds.tolist() == [Kind.HOT, Kind.DEAD, Kind.DARK, Kind.DARK]
    assert (found.open_, found.width) == (4, before.width)
    assert found.shown.tolist() == [10, 20, 30, 40]
    fewer = replace(before, shown=np.array([10, 4001]))  # one of them turns out to be wrong
    assert find_outliers(stack, mask, fit, ONE, fewer).open_ == 1
    assert [found.count(kind) for kind in (Kind.HOT, Kind.DEAD, Kind.DARK, Kind.BRIGHT)] == [1, 1, 2, 0]
    np.testing.assert_allclose(found.values, (stack - truth).ravel()[found.positions])


def test_no_defects_holds_none() -> None:
    none = no_defects()
    assert (len(none.positions), len(none.kinds), none.open_, none.width.lateral) == (0, 0, 0, 0)


def with_outliers(dtype: str = "float64") -> tuple[np.ndarray, np.ndarray, CompletionResult]:
    truth, fit = waves()
    stack, positions = noisy(truth), scattered(120)
    stack.ravel()[positions[::2]] = 0
    stack.ravel()[positions[1::2]] += 80
    return stack.astype(dtype), np.random.default_rng(1).random(SHAPE) < 0.7, fit


def same(a: Outliers, b: Outliers) -> None:
    np.testing.assert_array_equal(a.positions, b.positions)
    np.testing.assert_array_equal(a.kinds, b.kinds)
    np.testing.assert_allclose(a.values, b.values)  # BLAS may sum the model's terms in another order


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("planes", [1, 5])
def test_slabs_give_what_one_slab_gives(monkeypatch: pytest.MonkeyPatch, planes: int, dtype: str) -> None:
    stack, mask, fit = with_outliers(dtype)
    before = bright_before(np.arange(MANY))
    stack.ravel()[:MANY], mask.ravel()[:MANY] = 500, False
    whole = find_outliers(stack, mask, fit, ONE, before)
    assert len(whole.positions) > 60
    assert whole.values.dtype == dtype
    monkeypatch.setattr("tensorcell.solvers.slabs.SLAB_VOXELS", planes * stack[0].size)
    same(find_outliers(stack, mask, fit, ONE, before), whole)


@pytest.mark.parametrize("garbage", [1e9, -1e30])
def test_garbage_under_the_mask_changes_nothing(garbage: float) -> None:
    stack, mask, fit = with_outliers()
    expected = find_outliers(np.where(mask, stack, 0), mask, fit, ONE)
    assert len(expected.positions) > 20
    same(find_outliers(np.where(mask, stack, garbage), mask, fit, ONE), expected)
    assert mask.ravel()[expected.positions].all()
