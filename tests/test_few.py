"""Stacks of which too few voxels were measured to judge a model by."""

from __future__ import annotations

import numpy as np
import pytest

from tensorcell import recover
from tensorcell.datasets import simulate_cells
from tensorcell.methods.blend import Blend, Fill
from tensorcell.methods.few import SMOOTHING, USUAL, left_out_errors, trial_of_few
from tensorcell.solvers import NoiseModel

SHAPE = (10, 24, 26)


def wave(share: float, noise: float = 0.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A smooth volume of standard deviation 3, measured values, and where they were measured."""
    rng = np.random.default_rng(seed)
    z, y, x = np.indices(SHAPE)
    truth = 10 + 3 * (np.sin(z / 4 + y / 6) + np.cos(x / 7))
    return truth, truth + noise * rng.standard_normal(SHAPE), rng.random(SHAPE) < share


def test_left_out_errors_are_those_of_a_fill_that_did_not_see_the_voxel() -> None:
    _, data, known = wave(0.03)
    errors = left_out_errors(data, known, USUAL, seed=0)
    other = data.copy()
    first = tuple(np.argwhere(known)[0])
    other[first] += 5
    assert left_out_errors(other, known, USUAL, seed=0)[0] == pytest.approx(errors[0] - 5, abs=0.05)  # CG ends there
    np.testing.assert_array_equal(left_out_errors(np.where(known, data, 1e9), known, USUAL, 0), errors)


def test_trial_of_few_smooths_noise_more() -> None:
    chosen = {}
    for noise in (0.0, 6.0):
        _, data, known = wave(0.06, noise)
        trial = trial_of_few(data, known, NoiseModel.white(noise), seed=0)
        assert trial.blend is not None
        chosen[noise] = trial.blend.fill.smoothing
        np.testing.assert_allclose(trial.intensities - trial.errors, data[known])
        assert trial.noise_variance == pytest.approx(np.full(known.sum(), noise**2))
    assert chosen == {0.0: min(SMOOTHING), 6.0: max(SMOOTHING)}


@pytest.mark.parametrize("share", [0.003, 0.03])
def test_trial_of_few_is_never_more_certain_than_the_spread_of_the_measured_intensities(share: float) -> None:
    _, data, known = wave(share)
    assert (np.count_nonzero(known) < 50) == (share == 0.003)
    trial = trial_of_few(data, known, NoiseModel.white(0.0), seed=0)
    widths = trial.uncertainty(np.zeros(SHAPE), np.linspace(0, 20, data.size).reshape(SHAPE))
    assert (widths >= np.std(data[known]) * (1 - 1e-6)).all()


def test_a_blend_in_which_the_model_does_not_count_does_not_begin_with_it() -> None:
    """Conjugate gradients end at a share of their first residual: from a wild start they would end far off."""
    _, data, known = wave(0.01)
    blend = Blend(Fill(smoothing=USUAL), first=1.0, reach=1)
    wild = 1e4 * np.random.default_rng(1).standard_normal(SHAPE)
    one, other = (blend.of(data, known, model) for model in (wild, np.zeros(SHAPE)))
    np.testing.assert_array_equal(one.start, other.start)


@pytest.mark.parametrize(("share", "keep"), [(0.003, True), (0.01, False)])
def test_recover_of_very_few_voxels_is_about_as_good_as_their_mean_and_says_so(share: float, keep: bool) -> None:
    """A model of rank one, which could not be judged, was up to six times as wrong as the mean of the voxels."""
    cells = simulate_cells((24, 32, 34), cells=6, seed=1)
    mask = np.random.default_rng(0).random(cells.truth.shape) < share
    result = recover(cells.measured, mask=mask, keep_measured=keep)
    assert any(note.startswith("too few voxels were measured to judge") for note in result.notes)
    measured = cells.measured[mask]
    off = result.volume.data - cells.truth
    gap = ~mask
    assert np.sqrt(np.mean(off[gap] ** 2)) < 1.1 * np.sqrt(np.mean((measured.mean() - cells.truth)[gap] ** 2))
    low, high, spread = measured.min(), measured.max(), measured.std()
    assert low - 0.1 * spread <= result.volume.data.min() < result.volume.data.max() <= high + 0.1 * spread
    assert np.mean(np.abs(off) <= 1.645 * result.uncertainty) > 0.85


def test_the_global_model_of_very_few_voxels_is_said_to_be_unjudged() -> None:
    _, data, known = wave(0.03)
    assert any("judge the model" in note for note in recover(data, mask=known, method="tucker").notes)
    assert not any("judge the model" in note for note in recover(data, mask=wave(0.5)[2], method="tucker").notes)
