"""What noise does to functions of a datum, and to the squared error of an estimate, against sums over all counts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from tensorcell.solvers.anscombe import generalised_anscombe, stabilised
from tensorcell.solvers.noise import NoiseModel
from tensorcell.solvers.noise_terms import Gaussian, Photons, terms_of
from tensorcell.solvers.stein import risk_terms, squared_error_terms

COUNTS = np.arange(200.0)
VALUES = 2 * np.sqrt(COUNTS + 0.375)


@pytest.mark.parametrize("mean", [0.01, 0.3, 1.0, 6.0, 60.0])
@pytest.mark.parametrize("centre", [0.0, 2.5])
def test_lemma_of_photons_is_exact_for_any_mean(mean: float, centre: float) -> None:
    chances, noise = stats.poisson.pmf(COUNTS, mean), Photons(read=0.0, centre=centre)
    values = VALUES - centre
    np.testing.assert_allclose(noise.measured(values), COUNTS, atol=1e-9)
    # The derivative of a straight line is the same in between: 0.3 s + 1.
    assert chances @ ((COUNTS - mean) * (0.3 * values + 1)) == pytest.approx(chances @ noise.factor(values) * 0.3)
    moved = values - noise.step(values)  # any function, by its differences
    curved = chances @ (COUNTS * (np.sin(values) - np.sin(moved)))
    assert chances @ ((COUNTS - mean) * np.sin(values)) == pytest.approx(curved, abs=1e-9)
    assert chances @ noise.variance(noise.measured(values)) == pytest.approx(mean)


def test_bright_photons_are_gaussian() -> None:
    noise, values = Photons(read=0.0, centre=0.0), np.array([200.0])
    # c is sigma^2 = 1 in stabilised values, times the slope of the way back
    assert noise.factor(values) / noise.slope(values) == pytest.approx(1, abs=1e-2)
    assert noise.spread(values) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("read", [0.0, 0.5, 30.0])
def test_ways_there_and_back_are_inverse(read: float) -> None:
    noise = Photons(read, centre=3.0)
    estimates = np.linspace(2.1, 40, 3000) - 3.0  # above the darkest, where the curve has a corner
    np.testing.assert_allclose(noise.reached(noise.expected(estimates)), estimates, atol=1e-4)
    rise = np.gradient(noise.expected(estimates), estimates)
    np.testing.assert_allclose(noise.slope(estimates)[1:-1], np.maximum(rise[1:-1], 0.5), rtol=0.03)
    assert np.all(noise.slope(np.linspace(-3, -1, 9)) >= 0.5)


@pytest.mark.parametrize("mean", [0.3, 1.0, 6.0])
def test_risk_of_photons_is_the_squared_error(mean: float) -> None:
    """For an estimate that has a twentieth of its datum, whose intensity is nearly a straight line of it."""
    noise, chances = Photons(read=0.0, centre=0.0), stats.poisson.pmf(COUNTS, mean)
    estimate = float(noise.reached(np.array(mean * 1.3))) + 0.05 * (VALUES - chances @ VALUES)
    risks, passed_on = risk_terms(VALUES, estimate, np.full(VALUES.shape, 0.05), noise)
    square = noise.slope(estimate) ** 2  # to photons
    wanted = chances @ (noise.expected(estimate) - mean) ** 2
    assert chances @ (square * risks) == pytest.approx(wanted, rel=0.03)
    # Without the noise that passes into the estimate it would be much less.
    assert chances @ (square * (risks - 2 * passed_on)) < 0.8 * wanted


def test_gaussian_noise_leaves_everything_as_it_is() -> None:
    rng = np.random.default_rng(0)
    values, estimate, divergence = rng.standard_normal((3, 50))
    noise = Gaussian(2.0)
    risks, passed_on = risk_terms(values, estimate, divergence, noise)
    np.testing.assert_allclose(risks, squared_error_terms(estimate - values, divergence, 2.0))
    np.testing.assert_allclose(passed_on, 4 * divergence)
    assert noise.expected(values) is noise.measured(values) is noise.reached(values) is values
    assert not noise.step(values).any()
    np.testing.assert_array_equal(noise.spread(values), noise.variance(values))


def test_terms_belong_to_the_stabilised_values() -> None:
    law = NoiseModel(gain=2.0, offset=-200.0, sigma=3.0, counted=True)
    data = 100 + 2 * np.random.default_rng(0).poisson(0.7, 1000)
    values, sigma = stabilised(data, law)
    noise = terms_of(law, sigma, centre=1.5)
    np.testing.assert_allclose(noise.measured(values - 1.5), (data - 100) / 2, atol=1e-9)
    assert noise.sigma == sigma == 1
    assert noise.spread(np.array([0.2]))[0] < 0.7
    loose = terms_of(NoiseModel(gain=2.0, offset=-200.0, sigma=3.0), sigma)
    np.testing.assert_array_equal(loose.spread(values), np.ones(values.shape))
    assert terms_of(NoiseModel.white(0.5), 0.5) == Gaussian(0.5)
    camera = NoiseModel(gain=2.0, offset=8.0, sigma=3.0)
    assert terms_of(camera, 1.0) == Photons(read=2.0, centre=0.0, counts=False)
    stable = generalised_anscombe(np.array([6.0]), camera)
    assert float(Photons.of(camera).measured(stable)[0]) == pytest.approx(6 / 2 + 8 / 4)
    assert math.isclose(float(Photons.of(camera).variance(np.array([5.0]))[0]), 5.0)
