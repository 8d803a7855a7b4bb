"""Noise that neighbouring voxels share: its variances, draws and estimate, and what denoising makes of it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import ndimage, signal
from smooth_volumes import smooth

from tensorcell.fitting import Fitting
from tensorcell.methods.frames import mean_law
from tensorcell.model import bounded_by_fit
from tensorcell.recovery import recover
from tensorcell.solvers import Autocorrelation, LocalOptions, NoiseModel, estimate_noise, local_tucker
from tensorcell.solvers.autocorrelation import WHITE, checked, drawn, possible, smoothed_variance, toeplitz
from tensorcell.solvers.kernels_local import products_of, variances_of
from tensorcell.solvers.patch_denoising import (
    candidates,
    changes,
    local_contrast,
    total_spread,
    tried,
)
from tensorcell.solvers.patch_groups import Geometry, references_used, shares_of, sums_arrays, sums_numba
from tensorcell.solvers.stein import random_direction

BINOMIAL = (1.0, 2 / 3, 1 / 6)
"""Of white noise filtered by (1, 2, 1) / 4."""

LATERAL = Autocorrelation(y=BINOMIAL, x=BINOMIAL)
ALL_AXES = Autocorrelation((1.0, -0.2), (1.0, 0.5, 0.2), (1.0, 0.4, 0.1, 0.05))


def filtered_laterally(shape: tuple[int, int, int], seed: int) -> np.ndarray:
    """Noise of variance 1 with the autocorrelation `LATERAL`, made without the code that is tested."""
    z, y, x = shape
    noise = np.random.default_rng(seed).standard_normal((z, y + 2, x + 2))
    kernel = np.outer([1, 2, 1], [1, 2, 1]) / 6
    return signal.convolve(noise, kernel[None], mode="valid").astype(np.float32)


def orthonormal(size: int, seed: int) -> np.ndarray:
    """A random orthonormal matrix in float32."""
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))[0].astype(np.float32)


# Variances and draws -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sides", [(4, 5, 6), (1, 3, 2)])
def test_variances_of_the_coefficients_are_the_diagonal_of_their_covariance(sides: tuple[int, int, int]) -> None:
    factors = [orthonormal(size, number) for number, size in enumerate(sides)]
    matrices = [toeplitz(lags, size).astype(np.float32) for lags, size in zip(ALL_AXES, sides, strict=True)]
    basis, covariance = np.ones((1, 1)), np.ones((1, 1))
    for factor, matrix in zip(factors, matrices, strict=True):
        basis, covariance = np.kron(basis, factor), np.kron(covariance, matrix)
    expected = np.diag(basis.T @ covariance @ basis)
    assert np.ptp(expected) > 0.3  # the basis matters
    np.testing.assert_allclose(shares_of([f[None] for f in factors], ALL_AXES).ravel(), expected, rtol=1e-5)
    parts = [np.empty(size, np.float32) for size in sides]
    for factor, matrix, part in zip(factors, matrices, parts, strict=True):
        variances_of(factor, matrix, part)
    found = np.empty(math.prod(sides), np.float32)
    products_of(*parts, found)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_drawn_noise_has_the_autocorrelation_and_its_ends_do_not_meet() -> None:
    noise = drawn(np.random.default_rng(1), (4000, 6, 8, 10), ALL_AXES)
    assert noise.dtype == np.float32
    rows = {-3: noise.shape[-3], -2: noise.shape[-2], -1: noise.shape[-1]}
    for (axis, size), lags in zip(rows.items(), ALL_AXES, strict=True):
        flat = np.moveaxis(noise, axis, -1).reshape(-1, size)
        # 480 000 voxels and more: a standard error of some .002, times what neighbours share.
        np.testing.assert_allclose(flat.T @ flat / len(flat), toeplitz(lags, size), atol=0.015)


def test_white_noise_is_drawn_as_ever() -> None:
    shape = (3, 4, 5)
    np.testing.assert_array_equal(
        drawn(np.random.default_rng(2), shape, WHITE),
        np.random.default_rng(2).standard_normal(shape).astype(np.float32),
    )
    some = np.random.default_rng(4).random(shape) < 0.5
    direction = random_direction(np.random.default_rng(3), some, correlation=LATERAL)
    assert not direction[~some].any()
    np.testing.assert_array_equal(direction[some], drawn(np.random.default_rng(3), shape, LATERAL)[some])


def test_possible_correlations_are_scaled_until_no_spectrum_is_negative_and_some_noise_is_white() -> None:
    for lags in ((1.0, 0.9), (1.0, -0.9), (1.0, 0.7, 0.1), BINOMIAL, (1.0, 0.5, 0.25, 0.125)):
        found = possible(lags)
        assert np.linalg.eigvalsh(toeplitz(found, 60)).min() > 0.015  # 2 % are white
        share = np.array(found[1:]) / lags[1:]
        np.testing.assert_allclose(share, share[0])
        assert 0.5 < share[0] <= 0.98
    np.testing.assert_allclose(possible(BINOMIAL)[1:], 0.98 * np.array(BINOMIAL[1:]), atol=1e-3)


@pytest.mark.parametrize(
    ("correlation", "message"),
    [
        (((1.0,), (1.0,)), "1 at lag 0, got"),
        (((1.0,), (0.9,), (1.0,)), "1 at lag 0, got"),
        (((1.0,), (), (1.0,)), "1 at lag 0, got"),
        (((1.0,), (1.0,), (1.0, 0.7)), "nowhere negative, got .1.0, 0.7."),
        (((1.0,), (1.0,), (1.0, math.nan)), "nowhere negative, got"),
    ],
)
def test_impossible_correlations_are_said(correlation: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        local_tucker(np.zeros((4, 4, 4)), noise=1.0, correlation=correlation)


def test_correlations_may_be_given_with_three_digits_as_lists() -> None:
    assert checked([[1], [1, 0.667, 0.167], [1]]) == Autocorrelation(y=(1.0, 0.667, 0.167))


# The filter ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("geometry", [Geometry((4, 4, 4), (3, 3, 3), 8, 3), Geometry((1, 4, 3), (0, 3, 5), 4, 1)])
@pytest.mark.parametrize("second", [False, True])
def test_the_kernel_equals_its_array_twin_in_correlated_noise(geometry: Geometry, second: bool) -> None:
    data = smooth((9, 13, 11)) + np.float32(0.3) * drawn(np.random.default_rng(6), (9, 13, 11), ALL_AXES)
    pilot = smooth((9, 13, 11)) if second else None
    used = references_used(None, data.shape, geometry)
    strengths = (0.5, 1.0) if second else (2.9, 2.0)  # no entry is within rounding of a threshold
    kernel, arrays, white = (
        way(data, data, pilot, 0.3, strengths, geometry, used, correlation)
        for way, correlation in ((sums_numba, ALL_AXES), (sums_arrays, ALL_AXES), (sums_numba, WHITE))
    )
    for ours, twin in zip(kernel, arrays, strict=True):
        assert np.allclose(ours, twin, rtol=2e-4, atol=2e-4 * np.abs(twin).max())  # float32, other order of sums
    assert not np.allclose(kernel[0], white[0], rtol=0.01)


def test_denoising_weighs_correlated_noise_and_knows_its_error() -> None:
    truth = smooth((16, 40, 40), 6)
    noisy = truth + np.float32(0.5) * filtered_laterally(truth.shape, 7)
    plain, weighed = (local_tucker(noisy, noise=0.5, correlation=each) for each in (WHITE, LATERAL))
    errors = [float(np.sqrt(np.mean((found.value - truth) ** 2))) for found in (plain, weighed)]
    assert errors[1] < 0.75 * errors[0]
    assert weighed.predicted == pytest.approx(errors[1], rel=0.2)
    assert plain.predicted < 0.7 * errors[0]  # without the correlation, what is left of the noise passes for structure
    covered = np.mean(np.abs(weighed.value - truth) <= 1.645 * weighed.error)
    assert 0.85 < covered < 0.97


def test_the_divergence_is_what_the_estimates_owe_to_correlated_noise() -> None:
    """Stein's lemma with the noise known: ``sigma^2 tr(C df/dy)`` is the mean of ``<n, f - v>``."""
    truth = smooth((24, 32, 32), 8, 1.5)
    noise = np.float32(0.3) * filtered_laterally(truth.shape, 9)
    options = LocalOptions()
    found = candidates(truth + noise, 0.3, options, correlation=LATERAL)
    contrast, spread = local_contrast(found.values["third"]), total_spread(found)
    everywhere = np.ones(truth.shape, bool)

    def shares(correlation: Autocorrelation) -> list[float]:
        rng = np.random.default_rng(10)
        trial = tried(truth + noise, everywhere, 0.3, options, found, contrast, spread, rng, (), correlation)
        owed = [float(np.sum(noise * (each - truth), dtype=np.float64)) for each in found.values.values()]
        return [0.09 * float(terms.sum()) / o for terms, o in zip(trial.divergences[1:], owed, strict=True)]

    assert shares(LATERAL) == pytest.approx(
        [1.0] * len(found.values), rel=0.12
    )  # random direction and noise: some 4 % each


def test_the_variance_of_smoothed_noise_is_that_of_the_matrices() -> None:
    kernel = ndimage.gaussian_filter1d(np.eye(1, 13, 6)[0], 1.5, mode="constant")
    for size in (1, 2, 5, 30):
        smoothing = ndimage.gaussian_filter1d(np.eye(size), 1.5, mode="constant", axis=0)
        for lags in ALL_AXES:
            expected = np.diag(smoothing @ toeplitz(lags, size) @ smoothing.T)
            np.testing.assert_allclose(smoothed_variance(kernel, lags, size), expected, rtol=1e-6)


def test_correlated_noise_is_no_change_of_a_frame() -> None:
    noise = drawn(np.random.default_rng(11), (6, 8, 40, 40), LATERAL)
    everywhere = np.ones(noise.shape, bool)
    assert np.mean(changes(noise, everywhere, 1.0)[0] > 0) > 0.3
    assert np.mean(changes(noise, everywhere, 1.0, LATERAL)[0] > 0) < 0.01  # as often as of white noise


# The estimate --------------------------------------------------------------------------------------------------------


def blobs(seed: int = 0) -> np.ndarray:
    """Smooth blobs of different brightness on a dark ground, on [0, 1]."""
    rng = np.random.default_rng(seed)
    shape = (20, 80, 80)
    fine = ndimage.gaussian_filter(rng.standard_normal(shape), (1.5, 2.5, 2.5))
    coarse = ndimage.gaussian_filter(rng.standard_normal(shape), (3, 8, 8))
    found = np.maximum(fine / fine.std() + coarse / coarse.std(), 0)
    return found / found.max()


def decaying(shape: tuple[int, int, int], seed: int) -> np.ndarray:
    """Noise of variance 1 with the correlation ``2^-lag`` along x alone."""
    noise = np.random.default_rng(seed).standard_normal((*shape[:2], shape[2] + 40))
    return np.asarray(signal.lfilter([math.sqrt(0.75)], [1, -0.5], noise, axis=2)[..., 40:])


@pytest.mark.parametrize("seed", range(3))
def test_the_autocorrelation_is_found_beside_structure(seed: int) -> None:
    truth = blobs(seed)  # longer lags follow less surely than that of neighbours, and 2 % are taken to be white
    for sigma in (0.05, 0.1):
        found = estimate_noise(truth + sigma * filtered_laterally(truth.shape, seed)).autocorrelation
        assert found.z == (1.0,)
        for lags in (found.y, found.x):
            np.testing.assert_allclose(lags, (*BINOMIAL, 0, 0), atol=0.1)
        found = estimate_noise(truth + sigma * decaying(truth.shape, seed)).autocorrelation
        assert (found.z, found.y) == ((1.0,), (1.0,))
        np.testing.assert_allclose(found.x, 0.5 ** np.arange(5), atol=0.09)


def test_the_autocorrelation_along_z_is_found() -> None:
    noise = np.moveaxis(decaying((80, 80, 30), 3), 2, 0)
    found = estimate_noise(noise).autocorrelation
    assert (found.y, found.x) == ((1.0,), (1.0,))
    np.testing.assert_allclose(found.z, 0.5 ** np.arange(5), atol=0.06)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("sigma", [0.01, 0.02, 0.05, 0.1])
def test_white_noise_beside_structure_is_weighed_as_white(seed: int, sigma: float) -> None:
    truth = blobs(seed)
    noisy = truth + sigma * np.random.default_rng(seed).standard_normal(truth.shape)
    assert estimate_noise(noisy).autocorrelation.white


def test_sharp_structure_is_not_believed_to_be_correlated_noise() -> None:
    """Cubes with sharp edges, all over the volume, beside little white noise."""
    rng = np.random.default_rng(12)
    truth = ndimage.gaussian_filter(rng.random((20, 80, 80)), 1.0) > 0.5
    found = estimate_noise(truth + 0.02 * rng.standard_normal(truth.shape))
    assert found.autocorrelation.white


def test_a_model_that_explains_the_noise_takes_its_correlation_with_it() -> None:
    noisy = filtered_laterally((12, 48, 48), 13).astype(np.float64)
    law = estimate_noise(noisy)
    assert not law.autocorrelation.white
    fit = Fitting(seed=0)(noisy, np.ones(noisy.shape, bool), (12, 44, 44))
    bounded = bounded_by_fit(law, noisy, np.ones(noisy.shape, bool), fit)
    assert bounded.sigma < law.sigma
    assert bounded.autocorrelation == WHITE


def test_frames_share_the_mean_of_their_autocorrelations() -> None:
    first, second = (
        NoiseModel(gain=0.0, offset=1.0, sigma=1.0, autocorrelation=each)
        for each in (Autocorrelation(x=(1.0, 0.4, 0.2)), WHITE)
    )
    assert mean_law([first, second]).autocorrelation == Autocorrelation(x=(1.0, 0.2, 0.1))


# `recover` -----------------------------------------------------------------------------------------------------------


def test_recover_weighs_noise_that_neighbours_share_and_says_so() -> None:
    truth = 10 * smooth((14, 48, 48), 14, 3.0)
    noisy = (100 + truth + 5 * filtered_laterally(truth.shape, 15)).astype(np.float32)
    found, kept = (recover(noisy, rank=(2, 4, 4), keep_measured=keep) for keep in (False, True))
    plain = local_tucker(noisy, noise=5.0).value
    errors = [float(np.std(each - 100 - truth)) for each in (found.volume.data, plain)]
    assert errors[0] < 0.75 * errors[1]
    (note,) = (each for each in found.notes if "neighbouring voxels share" in each)
    assert "was weighed by that correlation" in note
    (note,) = (each for each in kept.notes if "neighbouring voxels share" in each)
    assert note.endswith("looks like structure; it is not removed.")


# Small stacks --------------------------------------------------------------------------------------------------------


def small_stack(seed: int, correlated: bool) -> np.ndarray:
    """A smooth volume of few patches with noise of .3."""
    shape = (9, 32, 32)
    noise = filtered_laterally(shape, seed) if correlated else np.random.default_rng(seed).standard_normal(shape)
    return (2 * smooth(shape, 50 + seed, 4.0) + 0.3 * noise).astype(np.float32)


def test_correlated_noise_is_told_in_small_stacks_too() -> None:
    laws = [estimate_noise(small_stack(seed, True)) for seed in range(8)]
    assert sum(not law.autocorrelation.white for law in laws) >= 6
    assert np.median([law.sigma for law in laws]) == pytest.approx(0.3, rel=0.15)
    assert all(estimate_noise(small_stack(seed, False)).autocorrelation.white for seed in range(8))


def test_texture_as_the_optics_draw_it_is_no_noise_in_a_small_stack() -> None:
    """In few patches nothing tells it from noise, and the measurement is kept."""
    texture = smooth((9, 32, 32), 3, 0.8)
    law = estimate_noise(texture)
    assert law.correlated is None
    assert law.sigma < 0.4


def test_a_correlation_that_is_known_is_not_estimated() -> None:
    data = small_stack(1, True)
    law = estimate_noise(data, correlation=LATERAL)
    assert law.correlated
    assert law.sigma == pytest.approx(0.3, rel=0.1)
    assert law.correlation[1:] == pytest.approx((2 / 3, 2 / 3))
    assert estimate_noise(data, correlation=WHITE).sigma < 0.1  # what is left at the highest frequencies


@pytest.mark.parametrize("shape", [(9, 30, 30), (20, 96, 96)])
def test_what_is_as_smooth_as_the_optics_draw_is_no_noise(shape: tuple[int, int, int]) -> None:
    """Planes that have nothing in common, each of smooth structure without noise."""
    field = ndimage.gaussian_filter(np.random.default_rng(1).standard_normal(shape), (0, 2, 2))
    law = estimate_noise(field / field.std())
    assert law.correlated is None
    assert law.sigma < 0.05
