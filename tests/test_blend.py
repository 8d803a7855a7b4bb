"""Mixtures of the global estimate, the smooth fill and groups of patches, judged at left-out voxels."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from problems import problem_of, waves
from scipy import ndimage

import tensorcell as tc
from tensorcell.methods.blend import Blend, Fill, best_weights, blended_trial, chosen_fill, distances, quietest
from tensorcell.methods.trial import GlobalTrial, global_trial
from tensorcell.solvers import LocalOptions, NoiseModel


def smooth(shape: tuple[int, int, int], seed: int = 0, width: float = 1.5) -> np.ndarray:
    """A smooth random stack with a standard deviation of 1."""
    found = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), width)
    return np.asarray(found / found.std(), np.float32)


def trial_of(truth: np.ndarray, share: float = 0.5, **more: object) -> GlobalTrial:
    """A trial whose global model knows nothing but the mean."""
    drawn = np.random.default_rng(4).random(truth.shape)
    start = np.full_like(truth, truth.mean())
    return GlobalTrial(truth, drawn < share, drawn > 0.95, start, NoiseModel.white(0.0), **more)  # type: ignore[arg-type]


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def test_best_weights_are_those_of_least_squares() -> None:
    rng = np.random.default_rng(0)
    errors = [rng.standard_normal(5000) * width + rng.standard_normal(5000) for width in (1.0, 2.0, 4.0)]
    found = best_weights(errors, np.inf)
    gram = np.stack(errors) @ np.stack(errors).T
    expected = np.linalg.solve(gram, np.ones(3))
    assert found.sum() == pytest.approx(1)
    # Thirty voxels of 5 000 speak for the best single estimate.
    np.testing.assert_allclose(found, expected / expected.sum(), atol=0.02)


def test_best_weights_are_not_those_of_outliers() -> None:
    """One left-out voxel in twenty is an outlier, which the better estimate misses by a little more."""
    rng = np.random.default_rng(1)
    good, poor = rng.standard_normal(5000), 3 * rng.standard_normal(5000)
    clean = best_weights([good, poor], np.inf)
    wild = rng.random(5000) < 0.05
    good[wild] += 30
    poor[wild] += 20
    assert clean[0] > 0.85
    assert best_weights([good, poor], 5.0)[0] > 0.6
    assert best_weights([good, poor], np.inf)[0] < 0.01  # the cap is what does it


def test_chosen_fill_bends_where_the_stack_does() -> None:
    """A stack that changes along z three times as slowly as within planes is stiffer along z."""
    steady = np.asarray(ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((20, 30, 30)), (4, 1, 1)))
    for truth, stiffer in ((steady, True), (np.ascontiguousarray(steady.transpose(1, 0, 2)), False)):
        _, fill, _ = chosen_fill(trial_of(truth.astype(np.float32)))
        assert (fill.axial > 1) == stiffer
        assert fill.limit > 0


def test_chosen_fill_leaves_out_outliers_that_nobody_found() -> None:
    truth = smooth((12, 30, 30))
    rng = np.random.default_rng(5)
    wrong = rng.random(truth.shape) < 0.05
    trial = trial_of(np.where(wrong, truth + 8, truth).astype(np.float32), outliers=False)
    kept, fill, filled = chosen_fill(trial)
    assert fill.limit == 0
    assert not (kept.training & wrong).any()
    right = trial.left_out & ~wrong
    assert rms((filled - truth)[right]) < 0.5 * rms((Fill()(trial.values, trial.training, trial.start) - truth)[right])
    _, fill, _ = chosen_fill(trial_of(truth, outliers=False))
    assert fill.limit > 0


def test_chosen_fill_leaves_out_the_few_outliers_that_others_tell() -> None:
    """Outliers were found elsewhere; of voxels that stand out only those that are no structure are left out."""
    truth = smooth((12, 30, 30))
    wrong = np.zeros(truth.shape, bool)
    wrong[3, 7, 9] = wrong[8, 20, 21] = True
    data = np.where(wrong, truth + 0.3 * np.ptp(truth), truth).astype(np.float32)
    trial = trial_of(data, outliers=True)
    near = ndimage.binary_dilation(wrong, iterations=4)  # no left-out voxel there tells that they are wrong
    trial = dataclasses.replace(trial, training=trial.training | near, left_out=trial.left_out & ~near)
    kept, fill, _ = chosen_fill(trial)
    assert 0 < fill.limit < np.inf
    assert not (kept.training & wrong).any()
    assert (kept.training | wrong)[trial.training].mean() > 0.99
    _, fill, _ = chosen_fill(dataclasses.replace(trial, outliers=False))
    assert fill.limit in (0, np.inf)


def test_blended_trial_is_better_than_each_estimate_and_does_not_see_left_out_voxels() -> None:
    _, data, mask = waves(0.6)
    trial = global_trial(problem_of(data, mask))
    assert trial is not None
    found = blended_trial(trial, LocalOptions(sweeps=2), 0)
    assert found.blend is not None
    assert found.error <= 1.001 * trial.error
    assert found.errors.shape == found.intensities.shape == (trial.left_out.sum(),)
    _, fill, filled = chosen_fill(trial)
    changed = dataclasses.replace(trial, values=np.where(trial.left_out, 1e3, trial.values))
    np.testing.assert_array_equal(fill(changed.values, changed.training, trial.start).shape, filled.shape)
    np.testing.assert_array_equal(
        fill(changed.values, changed.training, trial.start), fill(trial.values, trial.training, trial.start)
    )


def test_a_blend_holds_near_measured_voxels_only() -> None:
    known = np.ones((9, 12, 12), bool)
    known[1:8, 2:10, 2:10] = False
    values, model, patches = (np.full(known.shape, number, np.float32) for number in (0.0, 1.0, 5.0))
    sources = Blend(Fill(), first=0.25, reach=1, final=(0.5, 0.25, 0.25)).of(values, known, model)
    deep = distances(known) > 1
    assert deep.sum() == 5 * 6 * 6
    np.testing.assert_allclose(sources.start, 0.75, atol=1e-5)  # the fill is 0
    np.testing.assert_allclose(sources.with_patches(patches), np.where(deep, 5.0, 0.5 + 0.25 * 5), atol=1e-5)


def test_distances_are_those_within_a_frame() -> None:
    known = np.zeros((2, 3, 5, 5), bool)
    known[0, 1, 2, 2] = known[1, 0, 0, 0] = True
    assert distances(known)[0].max() == 2
    assert distances(known)[1].max() == 4


def test_quietest_lowers_noise_that_the_errors_do_not_hold() -> None:
    """Noise of 1 was stated; half of the voxels err by .2 in all, and the others by their structure, too."""
    rng = np.random.default_rng(6)
    keys = np.arange(4000.0)
    errors = rng.standard_normal(4000) * np.where(keys < 2000, 0.2, 3.0)
    assert quietest(errors, np.ones(4000), keys) == pytest.approx(0.04, rel=0.25)  # the least of four groups
    assert quietest(errors + rng.standard_normal(4000), np.ones(4000), keys) > 0.8
    assert quietest(errors, np.zeros(4000), keys) == 1


@pytest.mark.parametrize("share", [0.5, 0.2])
def test_auto_is_not_below_biharmonic_inpainting_on_a_small_smooth_stack(share: float) -> None:
    from skimage.restoration import inpaint_biharmonic

    truth = smooth((12, 24, 24))
    mask = np.random.default_rng(7).random(truth.shape) < share
    found = tc.recover(np.where(mask, truth, np.nan))
    theirs = inpaint_biharmonic(np.where(mask, truth, 0), ~mask)
    assert rms((found.volume.data - truth)[~mask]) < rms((theirs - truth)[~mask])
    np.testing.assert_array_equal(found.volume.data[mask], truth[mask])
    assert any(note.startswith("gaps are filled by ") for note in found.notes)
