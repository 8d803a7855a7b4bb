"""The variance-stabilising transform and its inverse against quadrature."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import integrate, stats

from tensorcell.solvers.anscombe import (
    destabilised,
    destabilised_error,
    generalised_anscombe,
    inverse_anscombe,
    stabilised,
    stabilised_variance,
)
from tensorcell.solvers.noise import NoiseModel


def expectation(mean: float, gain: float, read: float, pedestal: float, power: int = 1) -> float:
    """``E[d^power]`` for ``y = gain Poisson(mean) + pedestal + read n``, by adaptive quadrature over the read noise."""
    offset = read**2 - gain * pedestal
    model = NoiseModel(gain=gain, offset=offset, sigma=1.0)
    counts = np.arange(int(stats.poisson.ppf(1 - 1e-14, mean)) + 2)
    weights = stats.poisson.pmf(counts, mean)

    def given(n: float) -> float:
        y = gain * counts + pedestal + read * n
        return float(weights @ generalised_anscombe(y, model) ** power)

    if read == 0:
        return given(0.0)
    value, _ = integrate.quad(lambda n: given(n) * stats.norm.pdf(n), -9, 9, limit=400, epsabs=1e-9)
    return float(value)


@pytest.mark.parametrize("read", [0.0, 0.2, 1.0, 5.0])
@pytest.mark.parametrize("mean", [0.0, 0.3, 1.7, 12.0, 99.0, 150.0])
@pytest.mark.parametrize("gain", [0.05])
def test_inverse_undoes_the_expectation(mean: float, read: float, gain: float) -> None:
    model = NoiseModel(gain=gain, offset=(gain * read) ** 2, sigma=1.0)
    d = expectation(mean, gain, gain * read, 0.0)
    assert float(inverse_anscombe(np.array(d), model)) == pytest.approx(gain * mean, abs=1e-3 * gain)  # as stated


def test_inverse_knows_a_pedestal() -> None:
    model = NoiseModel(gain=2.0, offset=-200.0, sigma=1.0)
    d = expectation(3.3, 2.0, 0.0, 100.0)
    assert float(inverse_anscombe(np.array(d), model)) == pytest.approx(106.6, abs=2e-3)


def test_plain_algebraic_inverse_would_be_biased() -> None:
    """What the exact inverse is for: at half a photon the algebraic inverse is off by more than 20 %."""
    d = expectation(0.5, 1.0, 0.0, 0.0)
    assert abs(d**2 / 4 - 0.375 - 0.5) > 0.1


@pytest.mark.parametrize("read", [0.0, 1.0])
def test_transform_makes_the_variance_one(read: float) -> None:
    for mean in (4.0, 10.0, 40.0):
        first = expectation(mean, 0.3, 0.3 * read, 0.0)
        second = expectation(mean, 0.3, 0.3 * read, 0.0, power=2)
        assert math.sqrt(second - first**2) == pytest.approx(1, abs=0.04)  # as stated for four photons and more


@pytest.mark.parametrize("read", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("mean", [0.05, 0.7, 3.0, 50.0, 150.0])
def test_variance_of_few_photons(read: float, mean: float) -> None:
    model = NoiseModel(gain=0.3, offset=(0.3 * read) ** 2, sigma=1.0)
    first, second = (expectation(mean, 0.3, 0.3 * read, 0.0, power=power) for power in (1, 2))
    assert float(stabilised_variance(np.array(first), model)) == pytest.approx(second - first**2, abs=2e-3)


@pytest.mark.parametrize("offset", [-3.0, 0.0, 0.01, 4.0, 1e4])
def test_both_directions_rise(offset: float) -> None:
    model = NoiseModel(gain=0.7, offset=offset, sigma=1.0)
    d = np.linspace(-1, 400, 20_001)
    assert np.all(np.diff(inverse_anscombe(d, model)[d >= 0]) > 0)
    y = np.linspace(-1e5, 1e5, 20_001)
    stable = generalised_anscombe(y, model)
    assert np.all(np.diff(stable) >= 0)
    assert np.all(stable >= 0)
    assert stable[0] == 0


def test_without_gain_values_are_divided_by_sigma() -> None:
    model = NoiseModel(gain=0.0, offset=0.25, sigma=0.5)
    y = np.array([-2.0, np.nan, 3.0])
    assert generalised_anscombe(y, model) == pytest.approx(2 * y, nan_ok=True)
    assert inverse_anscombe(generalised_anscombe(y, model), model) == pytest.approx(y, nan_ok=True)


@pytest.mark.parametrize("gain", [0.0, 0.5])
def test_transforms_keep_dtype_shape_and_nan_on_every_backend(xp: Any, gain: float) -> None:
    model = NoiseModel(gain=gain, offset=0.1, sigma=0.4)
    values = np.array([[-50.0, 0.0, 0.3], [np.nan, 7.0, 900.0]])
    for transform in (generalised_anscombe, inverse_anscombe):
        double = xp.take(transform(xp.put(values), model))
        single = xp.take(transform(xp.put(values.astype(np.float32)), model))
        assert (double.dtype, single.dtype) == (np.float64, np.float32)
        assert double.shape == single.shape == values.shape
        assert np.array_equal(np.isnan(double), np.isnan(values))
        assert single == pytest.approx(double, rel=1e-5, abs=1e-5, nan_ok=True)
        assert double == pytest.approx(transform(values, model), rel=1e-12, nan_ok=True)
    assert xp.take(model.variance(xp.put(np.ones(2, np.float32)))).dtype == np.float32


def test_transforms_refuse_no_noise() -> None:
    silent = NoiseModel(gain=0.0, offset=0.0, sigma=0.0)
    for transform in (generalised_anscombe, inverse_anscombe):
        with pytest.raises(ValueError, match="expected noise with a positive standard deviation, got sigma = 0"):
            transform(np.ones(3), silent)


def test_stabilised_values_of_gaussian_noise_are_themselves() -> None:
    values, errors = np.array([1.0, -2.0]), np.array([0.5, 0.1])
    model = NoiseModel.white(0.5)
    stable, sigma = stabilised(values, model)
    assert stable is values
    assert sigma == 0.5
    assert destabilised(stable, model) is values
    assert destabilised_error(stable, errors, model) is errors


def test_stabilised_values_of_poisson_noise_have_unit_noise_and_come_back_with_their_errors() -> None:
    model = NoiseModel(gain=2.0, offset=0.0, sigma=1.0)
    values = 2.0 * np.random.default_rng(0).poisson(30, 200_000)
    stable, sigma = stabilised(values, model)
    assert sigma == 1
    assert stable.std() == pytest.approx(1, abs=0.01)  # chance: .2 %; the transform is within 1 % at 30 photons
    mean, error = destabilised(stable.mean(), model), destabilised_error(stable.mean(), np.array(1.0), model)
    assert float(mean) == pytest.approx(60, rel=2e-3)
    assert float(error) == pytest.approx(2 * math.sqrt(30), rel=0.02)


@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_transforms_do_not_depend_on_the_unit(scale: float) -> None:
    y = np.linspace(-2, 50, 100, dtype=np.float32)
    model = NoiseModel(gain=0.7, offset=0.3, sigma=1.0)
    scaled = NoiseModel(gain=0.7 * scale, offset=0.3 * scale**2, sigma=scale)
    stable = generalised_anscombe(y, model)
    assert generalised_anscombe(y * np.float32(scale), scaled) == pytest.approx(stable, rel=1e-5, abs=1e-5)
    assert inverse_anscombe(stable, scaled) / scale == pytest.approx(inverse_anscombe(stable, model), rel=1e-5)
