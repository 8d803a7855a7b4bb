"""What is added to a denoised estimate by its intensity, and the light that smoothing has lost."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from tensorcell.methods.patches import covered, denoise_by_patches, lost_light
from tensorcell.settled import Settled
from tensorcell.solvers import LocalOptions, NoiseModel, intensity_correction, local_tucker, stein
from tensorcell.solvers.anscombe import generalised_anscombe
from tensorcell.solvers.intensity_correction import Correction, correction, peaks, shrunk
from tensorcell.solvers.noise_terms import Gaussian, Photons

Array = np.ndarray[Any, Any]
UNIT = Gaussian(1.0)


def rms(values: Array) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def pulled_in(count: int, share: float, sigma: float, own: float, seed: int = 0) -> tuple[Array, Array, Array, Array]:
    """Truth, and an estimate ``share v + own n`` of it: the estimate, its misfit and divergences with noise of 1."""
    rng = np.random.default_rng(seed)
    truth, noise = rng.gamma(1.0, 4 * sigma, count), sigma * rng.standard_normal(count)
    estimate = share * truth + own * noise
    return truth, estimate, estimate - truth - noise, own + 0.3 * rng.standard_normal(count)


def hats(estimate: Array, knots: Array) -> tuple[Array, Array]:
    """Hat functions and their derivatives ``(knots, n)``, from their definition."""
    weights = np.stack([np.interp(estimate, knots, row) for row in np.eye(len(knots))])
    step = 1e-7
    return weights, (np.stack([np.interp(estimate + step, knots, row) for row in np.eye(len(knots))]) - weights) / step


def test_the_correction_solves_its_equations() -> None:
    """Against dense hat functions, and the covariance of the terms as NumPy has it."""
    _, estimate, misfit, divergence = pulled_in(5000, 0.8, 1.0, 0.1)
    found, knots = correction(estimate, misfit, divergence, UNIT), peaks(estimate, 1.0, -math.inf)
    weights, slopes = hats(estimate, knots)
    added = found(knots)
    np.testing.assert_allclose(found(estimate), added @ weights, atol=1e-12)
    np.testing.assert_allclose(found.slope(estimate), added @ slopes, atol=1e-5)
    terms = -misfit * weights - divergence * slopes
    wanted = shrunk(weights @ weights.T, terms.sum(axis=1), np.cov(terms) * estimate.size)
    np.testing.assert_allclose(added, wanted, rtol=1e-3, atol=1e-3)
    assert len(knots) > 4
    assert rms(added) > 0.1


def test_parts_are_shrunk_by_their_own_uncertainty() -> None:
    """Against the whitened problem, solved part by part."""
    rng = np.random.default_rng(0)
    gram, uncertain = (root @ root.T for root in rng.standard_normal((2, 4, 4)))
    right = rng.standard_normal(4)
    root = np.linalg.cholesky(gram)
    whole = np.linalg.solve(root, np.linalg.solve(root, uncertain).T)
    variances, turn = np.linalg.eigh(whole)
    parts = turn.T @ np.linalg.solve(root, right)
    expected = np.linalg.solve(root.T, turn @ (parts * np.maximum(1 - variances / parts**2, 0)))
    np.testing.assert_allclose(shrunk(gram, right, uncertain), expected, rtol=1e-9)
    np.testing.assert_allclose(shrunk(gram, right, 1e-30 * uncertain), np.linalg.solve(gram, right), rtol=1e-9)


def test_the_correction_follows_the_truth_and_not_the_noise_of_the_datum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the term of Stein's lemma an estimate that follows its noise would be corrected by that noise."""
    truth, estimate, misfit, divergence = pulled_in(200_000, 1.0, 1.0, 0.4)
    found = correction(estimate, misfit, divergence, UNIT)
    values = estimate + found(estimate)
    # The mean of the truth at an estimate, from the truth itself: nothing knows better.
    order = np.argsort(estimate)
    best = ndimage.uniform_filter1d(truth[order], 2001)
    most = order[2000:-4000]
    assert rms(values[most] - best[2000:-4000]) < 0.15
    assert rms(values - truth) < rms(estimate - truth)
    monkeypatch.setattr(intensity_correction, "LEAST_NOISE", 0.0)
    truth, estimate, misfit, divergence = pulled_in(200_000, 1.0, 1.0, 0.1)
    right, wrong = (correction(estimate, misfit, terms, UNIT) for terms in (divergence, 0 * divergence))
    assert rms(estimate + right(estimate) - truth) < 1.01 * rms(estimate - truth)
    assert rms(estimate + wrong(estimate) - truth) > 1.02 * rms(estimate - truth)


def test_the_correction_has_the_unit_of_the_data() -> None:
    _, estimate, misfit, divergence = pulled_in(50_000, 0.8, 1.0, 0.1)
    one, other = (
        correction(estimate, misfit, divergence, UNIT),
        correction(7 * estimate, 7 * misfit, divergence, Gaussian(7.0)),
    )
    np.testing.assert_allclose(other.intensities, 7 * one.intensities, rtol=1e-9)
    np.testing.assert_allclose(other.added, 7 * one.added, rtol=1e-6, atol=1e-9)
    assert one.added.any()


@pytest.mark.parametrize("count", [60, 1000, 20_000])
def test_a_right_estimate_is_left_as_it_is_and_few_voxels_tell_nothing(count: int) -> None:
    changes = []
    for seed in range(20):
        truth, estimate, misfit, divergence = pulled_in(count, 1.0, 1.0, 0.02, seed)
        found = correction(estimate, misfit, divergence, UNIT)
        changes.append(rms(estimate + found(estimate) - truth) ** 2 - rms(estimate - truth) ** 2)
    assert np.mean(changes) < 6 / count  # the variance of the mean of so many data is 1 / count


def test_noise_that_is_not_what_it_is_taken_for_forbids_a_correction() -> None:
    rng = np.random.default_rng(0)
    truth = rng.gamma(1.0, 4.0, 100_000)
    noise = np.sqrt(0.2 + 0.2 * truth) * rng.standard_normal(truth.size)  # a variance of 1 in the mean
    estimate = 0.7 * truth
    found = correction(estimate, estimate - truth - noise, np.zeros(truth.size), UNIT)
    assert not found.added.any()
    noise = rng.standard_normal(truth.size)
    assert correction(estimate, estimate - truth - noise, np.zeros(truth.size), UNIT).added.any()


@pytest.mark.parametrize(("read", "most"), [(0.0, 0.04), (0.7, 0.09)])
def test_the_mean_of_few_photons_is_right_at_every_estimate(read: float, most: float) -> None:
    """An estimate with less contrast than the truth, and a share of the noise of its own datum."""
    rng = np.random.default_rng(0)
    mean = 0.5 + rng.gamma(1.0, 1.5, 400_000)
    counts = rng.poisson(mean) + math.sqrt(read) * rng.standard_normal(mean.size)
    values = generalised_anscombe(counts, NoiseModel(gain=1.0, offset=read, sigma=1.0))
    noise = Photons(read, 0.0)
    about = noise.reached(mean + read)
    estimate = 1.8 + 0.7 * (about - 1.8) + 0.06 * (values - about) + 0.1 * rng.standard_normal(mean.size)
    found = correction(estimate, estimate - values, np.full(mean.size, 0.06), noise)
    classes = np.array_split(np.argsort(estimate), 20)

    def bias(stable: Array) -> Array:
        off = noise.expected(stable) - read - mean
        return np.array([abs(off[part].mean()) / mean[part].mean() for part in classes])

    # The mean of a class of 20 000 voxels is known to 1 %; read noise comes in through its variance alone.
    assert bias(estimate).max() > 0.3
    assert bias(estimate + found(estimate)).max() < most
    assert bias(estimate + found(estimate)).mean() < 0.02


def test_nothing_is_added_to_few_photons_where_they_were_not_counted() -> None:
    """Four photons have the stabilised value 4.2."""
    rng = np.random.default_rng(0)
    mean = rng.gamma(2.0, 4.0, 200_000)
    values = generalised_anscombe(rng.poisson(mean), NoiseModel(gain=1.0, offset=0.0, sigma=1.0)) - 2
    for counts in (True, False):
        noise = Photons(0.0, 2.0, counts)
        about = noise.reached(mean)
        estimate = 3 + 0.7 * (about - 3) + 0.06 * (values - about)
        found = correction(estimate, estimate - values, np.full(mean.size, 0.06), noise)
        assert found(np.array([8.0]))[0] > 1
        assert found.added[found.intensities < 2.0].any() == counts
    assert found.intensities[0] == pytest.approx(2.2)
    assert found.slope(np.array([1.0, 5.0]))[0] == 0
    assert not correction(estimate - 9, estimate - values, np.full(mean.size, 0.06), noise).added.any()


def test_peaks_are_apart() -> None:
    values = np.random.default_rng(0).standard_normal(60_000)
    found = peaks(values, 2.0, -math.inf)
    assert np.all(np.diff(found) >= 0.5)
    assert len(found) > 4
    assert len(peaks(np.zeros(50), 0.0, -math.inf)) == 1


def test_denoising_a_sparse_stack_gains_from_it_and_tells_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    rng, sigma = np.random.default_rng(0), 0.1
    spots = np.zeros((20, 48, 48))
    spots[tuple(rng.integers(0, side, 60) for side in spots.shape)] = 1
    truth = 60 * ndimage.gaussian_filter(spots, 1.8)
    truth = np.minimum(truth, 1.0)
    with_it, without = [], []
    for seed in range(3):
        noisy = truth + sigma * np.random.default_rng(seed).standard_normal(truth.shape)
        found = local_tucker(noisy, noise=sigma)
        with_it.append(rms(found.value - truth))
        assert 0.9 < found.predicted / with_it[-1] < 1.25
        with monkeypatch.context() as patch:
            patch.setattr(stein, "correction", lambda *_: Correction(np.zeros(1), np.zeros(1)))
            without.append(rms(local_tucker(noisy, noise=sigma).value - truth))
    assert np.mean(with_it) < 0.985 * np.mean(without)


def test_light_that_was_lost_comes_back_where_there_is_light_and_hardly_any_noise() -> None:
    rng = np.random.default_rng(0)
    photons = rng.gamma(2.0, 10.0, (30, 40, 40))
    photons[:, :, 30:] = 0
    share = 0.1 + 0.05 * np.linspace(0, 1, 40)[:, None]
    noise = rng.standard_normal(photons.shape)
    measured = rng.random(photons.shape) < 0.5
    found = lost_light(np.where(measured, share * photons + noise, 1e9), photons, measured, Settled())
    bright = photons > 20
    assert np.abs(found / np.maximum(photons, 1) - share)[bright].max() < 0.04
    assert not found[:, :, 30:].any()
    everywhere = np.ones_like(measured)
    assert rms(lost_light(noise, photons, everywhere, Settled())) < 0.03
    small, light = noise[:1], photons[:1]  # a small plane has one share
    np.testing.assert_allclose(lost_light(small, light, everywhere[:1], Settled()), small.sum() / light.sum() * light)
    assert not lost_light(noise, np.zeros_like(noise), everywhere, Settled()).any()
    assert not lost_light(-0.7 * photons, photons, everywhere, Settled()).any()
    assert covered((1, 20, 20), math.inf) == 400


@pytest.mark.parametrize("gain", [1.0, 30.0])
def test_denoising_shot_noise_keeps_the_light(gain: float) -> None:
    rng = np.random.default_rng(0)
    blobs = ndimage.gaussian_filter(rng.standard_normal((16, 48, 48)), 1.5)
    photons = 2 + 12 * np.maximum(blobs / blobs.std(), 0)
    data = gain * rng.poisson(photons)
    noise = NoiseModel(gain=gain, offset=0.0, sigma=gain * math.sqrt(photons.mean()))
    value = denoise_by_patches(data, np.ones(data.shape, bool), noise, LocalOptions(), 0).value
    assert abs(value.mean() / data.mean() - 1) < 5e-4
    half = value[:, :, :24].mean() / data[:, :, :24].mean()
    assert abs(half - 1) < 5e-3
