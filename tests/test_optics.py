"""How wide the optics draw: Gaussian-filtered white noise, whose autocovariance is known, and what must not matter."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from tensorcell.solvers.optics import (
    FWHM,
    WIDEST,
    Width,
    neighbours_alike,
    shared_light,
    structure_width,
    width_of_ratio,
)

SHAPE = (40, 56, 56)


def filtered(sigma: float | tuple[float, ...], seed: int = 0, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """White noise under a Gaussian PSF, with standard deviation 1: unresolved objects everywhere."""
    light = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), sigma, mode="wrap")
    return np.asarray(light / light.std())


def everywhere(stack: np.ndarray) -> np.ndarray:
    return np.ones(stack.shape, bool)


@pytest.mark.parametrize("sigma", [0.5, 0.7, 1.0, 1.5, 2.0])
def test_structure_width_is_that_of_the_psf(sigma: float) -> None:
    """The mean of three stacks of 125 000 voxels; sampling makes the discrete filter of .5 some 4 % wider."""
    found = [structure_width(filtered(sigma, seed), np.ones(SHAPE, bool)).sigma for seed in range(3)]
    assert np.mean(found, axis=0) == pytest.approx(np.full(3, sigma), rel=0.09)


def test_structure_width_is_told_along_each_axis() -> None:
    stack = filtered((0.7, 1.0, 1.5))
    assert structure_width(stack, everywhere(stack)).sigma == pytest.approx((0.7, 1.0, 1.5), rel=0.06)


@pytest.mark.parametrize("sigma", [0.6, 1.0, 1.5])
def test_noise_and_impulses_of_single_voxels_do_not_narrow_the_structure(sigma: float) -> None:
    """They change the autocovariance at lag 0 alone, which is not used; their scatter is what the bound allows."""
    rng = np.random.default_rng(1)
    stack = filtered(sigma) + 0.4 * rng.standard_normal(SHAPE)
    stack[rng.random(SHAPE) < 0.01] += 5
    assert structure_width(stack, everywhere(stack)).sigma == pytest.approx((sigma,) * 3, rel=0.12)


def test_structure_width_ignores_what_lies_under_the_mask_and_knows_no_level() -> None:
    """Half of the voxels are a quarter of the pairs; an offset that stayed would be a constant covariance."""
    stack, sound = filtered(1.0), np.random.default_rng(2).random(SHAPE) < 0.5
    width = structure_width(stack, sound)
    assert width.sigma == pytest.approx((1, 1, 1), rel=0.12)
    assert structure_width(np.where(sound, stack, np.nan), sound) == width
    assert structure_width(stack + 1000, sound).sigma == pytest.approx(width.sigma, rel=1e-6)
    assert structure_width(1024 * stack, sound) == width


@pytest.mark.parametrize("seed", range(6))
def test_noise_has_no_width(seed: int) -> None:
    """The covariance at lag 1 must exceed five of its standard errors: that of noise does in one stack of 10^6."""
    noise = np.random.default_rng(seed).standard_normal((12, 32, 32))
    width = structure_width(noise, everywhere(noise))
    assert np.isnan(width.sigma).all()
    assert width.lateral == 0


def test_no_width_without_enough_voxels() -> None:
    """Four planes have one pair at lag 3 each; a hundred pairs are needed."""
    stack = filtered(1.0)
    assert np.isnan(structure_width(stack, np.zeros(SHAPE, bool)).sigma).all()
    thin = structure_width(stack[:4], everywhere(stack[:4]))
    assert math.isnan(thin.sigma[0])
    assert thin.lateral == pytest.approx(1.0, rel=0.1)
    few = np.zeros(SHAPE, bool)
    few[0, 0, :] = True
    assert np.isnan(structure_width(stack, few).sigma).all()
    assert np.isnan(structure_width(np.full(SHAPE, 7.1), np.ones(SHAPE, bool)).sigma).all()


def test_a_smooth_structure_is_wide_and_stays_so_in_noise() -> None:
    """Its autocovariance hardly changes over three lags, so that noise decides the ratio but not that it is wide."""
    rng = np.random.default_rng(0)
    stack = filtered(6.0)
    assert min(structure_width(stack, everywhere(stack)).sigma) > 2.5
    stack += 0.5 * rng.standard_normal(SHAPE)
    assert min(structure_width(stack, everywhere(stack)).sigma) > 1


def test_a_wide_structure_adds_nearly_a_constant_to_all_lags() -> None:
    """Below it the finest one is found, though it has but half of the variance."""
    wide = filtered(6.0, seed=9)
    widths = [structure_width(filtered(0.8, seed) + wide, np.ones(SHAPE, bool)).sigma for seed in range(3)]
    assert np.mean(widths, axis=0) == pytest.approx(np.full(3, 0.8), rel=0.1)


@pytest.mark.parametrize("seed", range(6))
def test_noise_makes_no_narrow_structure_wide(seed: int) -> None:
    """Of spots as narrow as that nothing is left at lags 2 and 3 but noise, of which neither sign says wide."""
    rng = np.random.default_rng(seed)
    stack = filtered(0.5, seed, (16, 48, 48)) + 0.3 * rng.standard_normal((16, 48, 48))
    assert structure_width(stack, rng.random(stack.shape) < 0.7).lateral < 0.75


@pytest.mark.parametrize("sigma", [0.5, 0.7, 1.0, 1.7, 2.5])
def test_width_of_ratio_inverts_the_autocovariance_of_a_gaussian(sigma: float) -> None:
    c1, c2, c3 = (math.exp(-(lag**2) / (4 * sigma**2)) for lag in (1, 2, 3))
    assert width_of_ratio((c1 - c2) / (c2 - c3)) == pytest.approx(sigma, rel=0.002)  # interpolation between 400 values


def test_width_of_ratio_is_bounded() -> None:
    assert width_of_ratio(1e12) == width_of_ratio(math.inf) == 0.25
    assert width_of_ratio(0.1) == WIDEST


@pytest.mark.parametrize("sigma", [0.3, 0.35, 0.5, 1.0, 3.0])
def test_shared_light_is_what_a_gaussian_spot_gives_the_next_voxel(sigma: float) -> None:
    spot = np.exp(-(np.arange(-2.0, 3.0) ** 2) / (2 * sigma**2))
    assert shared_light(sigma) == pytest.approx(spot[3] / spot[2])


def test_shared_light_of_no_width_is_none() -> None:
    assert shared_light(0.0) == shared_light(0.02) == 0


def test_width_of_y_and_x_is_the_smaller_one_that_was_found() -> None:
    nan = math.nan
    for sigma, lateral in [((1, 2, 3), 2), ((1, 3, 2), 2), ((1, nan, 3), 3), ((1, 2, nan), 2), ((1, nan, nan), 0)]:
        assert Width(sigma).lateral == lateral
    assert Width((1, 2, 4)).fwhm == (FWHM, 2 * FWHM, 4 * FWHM)
    assert pytest.approx(2.3548, abs=1e-4) == FWHM


@pytest.mark.parametrize("seed", range(3))
def test_neighbours_are_alike_where_most_voxels_are_structure_and_not_where_they_are_random(seed: int) -> None:
    rng = np.random.default_rng(seed)
    impulses = rng.random(SHAPE) < 0.2
    structure = np.where(impulses, 50 * rng.random(SHAPE), filtered(1.0, seed))
    mask = rng.random(SHAPE) < 0.5
    assert neighbours_alike(structure, np.ones(SHAPE, bool))
    assert neighbours_alike(np.where(mask, structure, np.nan), mask)
    photons = np.where(rng.random(SHAPE) < 0.7, 0, rng.poisson(50, SHAPE))
    assert not neighbours_alike(photons, np.ones(SHAPE, bool))
