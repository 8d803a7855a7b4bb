from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import tensorcell as tc
from tensorcell import model
from tensorcell.datasets import simulate_cells
from tensorcell.methods.fast import Mixture
from tensorcell.solvers import Status

PREVIEW = "this is a preview by total variation of the second order"


@pytest.fixture(scope="module")
def truth() -> np.ndarray:
    found = simulate_cells((20, 48, 48), cells=8, seed=3).truth
    return (found / np.percentile(found, 99.9)).astype(np.float32)


def noisy(truth: np.ndarray, sigma: float, seed: int = 0) -> np.ndarray:
    return (truth + sigma * np.random.default_rng([seed, 7]).standard_normal(truth.shape)).astype(np.float32)


def error_of(found: np.ndarray, truth: np.ndarray) -> float:
    return math.sqrt(float(np.mean((found - truth) ** 2)))


def covered(result: tc.Recovery, truth: np.ndarray, where: Any = ...) -> float:
    inside = np.abs(result.volume.data - truth) <= 1.645 * np.asarray(result.uncertainty)
    return float(np.mean(inside[where]))


@pytest.mark.parametrize("sigma", [0.05, 0.1])
def test_complete_stacks_are_denoised_with_honest_errors(truth: np.ndarray, sigma: float) -> None:
    result = tc.recover(noisy(truth, sigma), method="fast")
    assert error_of(result.volume.data, truth) < 0.5 * sigma  # .47 and less of it
    assert 0.85 < covered(result, truth) < 0.99
    assert result.notes[0].startswith(PREVIEW)
    assert result.status is Status.COMPLETED


@pytest.mark.parametrize(("sigma", "share"), [(0.0, 0.5), (0.0, 0.2), (0.05, 0.5)])
def test_gaps_are_filled_with_honest_errors(truth: np.ndarray, sigma: float, share: float) -> None:
    mask = np.random.default_rng(1).random(truth.shape) < share
    data = noisy(truth, sigma)
    result = tc.recover(data, mask, method="fast", **({"keep_measured": False} if sigma else {}))
    assert error_of(result.volume.data[~mask], truth[~mask]) < 0.6 * float(np.std(truth))
    assert 0.83 < covered(result, truth, ~mask) < 0.98
    if sigma:
        assert error_of(result.volume.data[mask], truth[mask]) < sigma
        assert 0.83 < covered(result, truth, mask) < 0.99
    else:
        kept = mask & (result.outliers == 0)
        np.testing.assert_array_equal(result.volume.data[kept], data[kept])


def test_no_rank_is_searched_unless_one_is_given(truth: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    def searched(*_: Any, **__: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(model, "choose_rank", searched)
    data = np.where(np.random.default_rng(2).random(truth.shape) < 0.5, truth, np.nan)
    assert tc.recover(data, method="fast").rank == (1, 1, 1)
    assert tc.recover(data, method="fast", rank=2).rank == (2, 2, 2)
    with pytest.raises(AssertionError):
        tc.recover(data, method="local")


@pytest.mark.parametrize("width", [1.2, 1.5])
def test_spots_as_wide_as_the_optics_stay(width: float) -> None:
    sigma, place = 0.05, (8, 20, 24)
    distance = sum((grid - at) ** 2 for grid, at in zip(np.indices((16, 40, 48)), place, strict=True))
    spot = 8 * sigma * np.exp(-distance / (2 * width**2))
    result = tc.recover(noisy(1 + spot, sigma, seed=4), method="fast")
    inside = spot > spot.max() / 2
    assert np.sum((result.volume.data - 1)[inside]) > 0.6 * np.sum(spot[inside])


def test_hot_and_dead_pixels_are_found(truth: np.ndarray) -> None:
    rng = np.random.default_rng(5)
    data, wrong = noisy(truth, 0.02), rng.random(truth.shape) < 0.01
    data[wrong] = np.where(rng.random(truth.shape) < 0.5, 40.0, -3.0)[wrong]
    result = tc.recover(data, method="fast", keep_measured=False)
    found = result.outliers != 0
    assert np.count_nonzero(found & wrong) > 0.98 * np.count_nonzero(wrong)
    assert np.count_nonzero(found & ~wrong) < 0.001 * truth.size
    assert error_of(result.volume.data[wrong], truth[wrong]) < 0.1


def test_shot_noise_keeps_the_light(truth: np.ndarray) -> None:
    photons = 3 + 20 * truth.astype(np.float64)
    data = np.random.default_rng(6).poisson(photons).astype(np.uint16)
    result = tc.recover(data, method="fast")
    assert abs(float(np.mean(result.volume.data - photons))) < 0.02 * float(photons.mean())
    assert error_of(result.volume.data, photons) < 0.5 * error_of(data, photons)
    assert 0.85 < covered(result, photons) < 0.995


def test_planes_that_have_little_in_common_are_smoothed_less_along_z() -> None:
    rng = np.random.default_rng(7)
    y, x = np.indices((48, 48))
    planes = [np.sin(x / a + b) + np.cos(y / c + b) for a, b, c in rng.uniform(3, 6, (10, 3))]
    result = tc.recover(noisy(np.stack(planes), 0.2), method="fast")
    assert "differences along z count 0.25 times as much" in result.notes[0]


def test_the_unit_does_not_matter(truth: np.ndarray) -> None:
    data = noisy(truth, 0.05)
    one, other = tc.recover(data, method="fast"), tc.recover(1024 * data, method="fast")
    np.testing.assert_allclose(other.volume.data / 1024, one.volume.data, atol=1e-4)
    np.testing.assert_allclose(np.asarray(other.uncertainty) / 1024, one.uncertainty, rtol=0.01)


def test_planes_between_and_small_stacks_have_errors() -> None:
    rng = np.random.default_rng(8)
    data = rng.standard_normal((5, 9, 8)) + np.arange(9.0)[:, None]
    data[2, 3, 4] = np.nan
    result = tc.recover(data, method="fast", axial_factor=2)
    assert result.volume.data.shape == (9, 9, 8)
    gaps = ~result.measured
    assert np.all(np.asarray(result.uncertainty)[gaps] > 0)
    single = tc.recover(data[0], method="fast", axes="YX", noise=1.0)
    assert single.notes[0].startswith(f"{PREVIEW}; method auto")  # too few voxels could be left out
    assert single.volume.data.shape == (9, 8)


def test_the_callback_stops(truth: np.ndarray) -> None:
    result = tc.recover(noisy(truth, 0.05), method="fast", callback=lambda *_: True)
    assert result.status is Status.STOPPED


def test_a_mixture_is_the_sum_of_its_shares() -> None:
    mixture = Mixture({1.0: 0.25, 3.0: 0.75}, 1.0)
    np.testing.assert_array_equal(mixture.of(lambda weight: np.full(2, weight)), [2.5, 2.5])
