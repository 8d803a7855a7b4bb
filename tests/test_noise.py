"""Noise estimates against planted noise in simulated and real structure."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from tensorcell.solvers import noise_patches
from tensorcell.solvers.noise import NoiseModel, estimate_noise
from tensorcell.solvers.noise_fits import fitted, mean_operator, operator_products, residual_operators

CLEAN = ("flybrain_confocal_neuropil", "nuclei_chromocenters_clean")


@pytest.fixture(scope="module", params=CLEAN)
def reference(request: pytest.FixtureRequest, volumes_folder: Path) -> tuple[np.ndarray, float]:
    """A clean real volume on [0, 1], and what the estimator calls its own noise."""
    volume = tifffile.imread(volumes_folder / f"{request.param}.tif").astype(float)
    low, high = np.percentile(volume, [0.1, 99.9])
    scaled = np.clip((volume - low) / (high - low), 0, 1)
    return scaled, estimate_noise(scaled).sigma


def cells(shape: tuple[int, int, int] = (24, 96, 96), seed: int = 0) -> np.ndarray:
    """Smooth blobs of different brightness on a dark ground, on [0, 1]."""
    rng = np.random.default_rng(seed)
    fine = ndimage.gaussian_filter(rng.standard_normal(shape), (1.5, 2.5, 2.5))
    coarse = ndimage.gaussian_filter(rng.standard_normal(shape), (3, 8, 8))
    blobs = np.maximum(fine / fine.std() + coarse / coarse.std(), 0)
    return blobs / blobs.max()


def blurred(rng: np.random.Generator, shape: tuple[int, ...], width: tuple[float, float, float]) -> np.ndarray:
    """Gaussian noise of variance 1, blurred."""
    field = ndimage.gaussian_filter(rng.standard_normal(shape), width, mode="wrap")
    return field / field.std()


def lag_one(width: float) -> float:
    """Correlation of neighbouring pixels that a blur of this width makes of white noise."""
    kernel = ndimage.gaussian_filter1d(np.eye(41)[20], width)
    return float(np.sum(kernel[1:] * kernel[:-1]) / np.sum(kernel**2))


def damaged(rng: np.random.Generator, volume: np.ndarray, share: float, outliers: float) -> np.ndarray:
    """A share of the voxels, some of them uniform on [0, 2], the others NaN."""
    spoilt = np.where(rng.random(volume.shape) < outliers, rng.uniform(0, 2, volume.shape), volume)
    return np.where(rng.random(volume.shape) < share, spoilt, np.nan)


# Pure noise and simulated structure ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_pure_noise_gives_its_sigma(seed: int) -> None:
    found = estimate_noise(3 + 0.2 * np.random.default_rng(seed).standard_normal((40, 96, 96)))
    assert found.sigma == pytest.approx(0.2, rel=0.02)  # four standard errors; 30 000 free residuals have .4 %
    assert found.gain == 0
    assert found.offset == pytest.approx(found.sigma**2)
    assert found.correlated is False
    assert np.max(np.abs(found.correlation)) < 0.05  # a few thousand pairs of patches: .01
    assert "Gaussian" in found.sentence
    assert "not correlated" in found.sentence


def test_pure_noise_in_the_smallest_volumes_is_unbiased() -> None:
    rng = np.random.default_rng(0)
    found = [estimate_noise(rng.standard_normal((8, 16, 16))).sigma for _ in range(20)]
    # Each of 20 has about 1000 free residuals: 2.5 %; their mean .6 %.
    assert np.mean(found) == pytest.approx(1, abs=0.02)
    assert np.std(found) < 0.05


@pytest.mark.parametrize("shape", [(1, 8, 8), (5, 4, 200), (3, 3, 3), (2, 7, 9), (64, 1, 64), (6, 64, 2)])
def test_thin_volumes_get_an_estimate(shape: tuple[int, int, int]) -> None:
    found = estimate_noise(np.random.default_rng(1).standard_normal(shape))
    assert 0.3 < found.sigma < 2  # as few as a dozen free residuals


@pytest.mark.parametrize("share", [0.5, 0.05])
def test_missing_voxels_do_not_bias(share: float) -> None:
    rng = np.random.default_rng(2)
    volume = rng.standard_normal((30, 128, 128))
    mask = rng.random(volume.shape) < share
    found = estimate_noise(volume, mask)
    assert found.sigma == pytest.approx(1, abs=0.03)  # three standard errors at 5 %
    assert estimate_noise(np.where(mask, volume, np.nan)).sigma == found.sigma
    assert estimate_noise(np.where(mask, volume, 1e30), mask).sigma == found.sigma


def test_missing_planes_change_nothing_but_the_sample() -> None:
    rng = np.random.default_rng(3)
    volume = cells() + 0.05 * rng.standard_normal((24, 96, 96))
    mask = np.zeros(volume.shape, dtype=bool)
    mask[::3] = True
    found = estimate_noise(volume, mask)
    assert found.sigma == pytest.approx(estimate_noise(volume[::3]).sigma, rel=0.02)  # other patches of the same planes
    assert math.isnan(found.correlation[0])


def test_order_of_planes_does_not_matter() -> None:
    """No intensities are compared across planes: only the correlation along z may change."""
    rng = np.random.default_rng(4)
    volume = (cells() + 0.05 * rng.standard_normal((24, 96, 96)))[:, :64, :64]  # few enough patches to use them all
    found, shuffled = estimate_noise(volume), estimate_noise(volume[rng.permutation(24)])
    assert shuffled.sigma == pytest.approx(found.sigma, rel=1e-9)  # the same sums in another order


@pytest.mark.parametrize("sigma", [0.01, 0.05, 0.2])
def test_noise_is_told_from_simulated_structure(sigma: float) -> None:
    rng = np.random.default_rng(5)
    structure = ndimage.gaussian_filter(cells(), (0, 3, 3))
    found = estimate_noise(structure + sigma * rng.standard_normal((24, 96, 96)))
    assert found.sigma == pytest.approx(sigma, rel=0.03)  # structure of 4 pixels is in the fit; chance is .5 %
    assert found.gain == 0


@pytest.mark.parametrize("scale", [1e-9, 1e6])
def test_estimate_scales_with_the_unit(scale: float) -> None:
    rng = np.random.default_rng(6)
    truth = cells()
    volume = rng.poisson(50 * truth) / 50 + 0.02 * rng.standard_normal(truth.shape)
    found, scaled = estimate_noise(volume), estimate_noise(scale * volume)
    assert scaled.gain == pytest.approx(scale * found.gain, rel=1e-6)
    assert scaled.offset == pytest.approx(scale**2 * found.offset, rel=1e-6)
    assert scaled.correlation == pytest.approx(found.correlation, abs=1e-6, nan_ok=True)


@pytest.mark.parametrize("peak", [20, 200])
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_gain_and_offset_of_poisson_gaussian_noise(peak: int, share: float) -> None:
    rng = np.random.default_rng(7)
    truth = 0.1 + cells((30, 128, 128))
    volume = rng.poisson(peak * truth) / peak + 0.05 * rng.standard_normal(truth.shape)
    found = estimate_noise(np.where(rng.random(truth.shape) < share, volume, np.nan))
    assert found.gain == pytest.approx(1 / peak, rel=0.15)  # the bar; the classes give 5 %
    assert found.variance(np.array([0.1, 0.5])) == pytest.approx(np.array([0.1, 0.5]) / peak + 0.0025, rel=0.15)
    assert "Poisson-Gaussian" in found.sentence


def test_pedestal_gives_a_negative_offset_and_a_floor() -> None:
    rng = np.random.default_rng(8)
    truth = cells((30, 128, 128))
    found = estimate_noise(100 + 2.0 * rng.poisson(20 * truth + 1))
    assert found.gain == pytest.approx(2, rel=0.15)
    assert found.offset == pytest.approx(-200, rel=0.15)  # 2 (E y - 100)
    assert found.floor > 0
    assert found.variance(np.zeros(1))[0] == found.floor


@pytest.mark.parametrize("seed", range(5))
def test_gaussian_noise_gets_no_gain(seed: int) -> None:
    rng = np.random.default_rng(seed)
    assert estimate_noise(cells(seed=seed) + 0.1 * rng.standard_normal((24, 96, 96))).gain == 0


def test_clipped_background_and_saturation_are_left_out_and_said() -> None:
    rng = np.random.default_rng(9)
    volume = 3 * cells((30, 128, 128)) - 0.5 + 0.05 * rng.standard_normal((30, 128, 128))
    found = estimate_noise(np.clip(volume, 0, 1))
    assert (found.low, found.high) == (0, 1)
    assert found.sigma == pytest.approx(0.05, rel=0.05)  # a tenth of a patch may be clipped
    assert "background set to one value" in found.sentence
    assert "saturated" in found.sentence


def test_almost_empty_background_does_not_give_zero() -> None:
    rng = np.random.default_rng(10)
    volume = np.zeros((40, 200, 200), dtype=np.float32)
    volume[10:20, 50:90, 60:120] = 5 + rng.standard_normal((10, 40, 60))
    assert estimate_noise(volume).sigma == pytest.approx(1, rel=0.05)  # 300 patches: 1.5 %


def test_thin_structures_cut_out_of_their_background_have_noise() -> None:
    rng = np.random.default_rng(22)
    volume = np.zeros((40, 128, 128))
    volume[:, 40:45, :] = 50 + 3 * rng.standard_normal((40, 5, 128))
    assert estimate_noise(volume).sigma == pytest.approx(3, rel=0.1)  # 5 rows at most in any patch


def test_integers_are_recognised_and_rounding_is_noise() -> None:
    rng = np.random.default_rng(11)
    counts = np.round(100 + 2 * rng.standard_normal((20, 64, 64))).astype(np.uint16)
    found = estimate_noise(counts)
    assert found.step == 1
    assert found.sigma == pytest.approx(math.sqrt(4 + 1 / 12), rel=0.03)  # chance: 1 %
    assert estimate_noise(3.0 * counts).step == 3
    assert estimate_noise(counts + rng.random(counts.shape)).step == 0


def test_constant_and_binary_volumes_have_no_noise_but_rounding() -> None:
    constant = estimate_noise(np.full((9, 20, 20), 7.0))
    assert (constant.sigma, constant.gain, constant.patches) == (0, 0, 0)
    assert "no noise" in constant.sentence
    binary = estimate_noise(np.random.default_rng(0).random((9, 40, 40)) < 0.3)
    assert binary.sigma == pytest.approx(math.sqrt(1 / 12))
    ramp = estimate_noise(np.broadcast_to(np.repeat(np.arange(20.0), 8)[:, None], (4, 160, 64)))
    assert ramp.sigma <= math.sqrt(1 / 12) + 1e-12
    assert "no noise" in ramp.sentence


@pytest.mark.parametrize("count", [1, 2, 4, 5, 20, 40, 300])
def test_few_observed_voxels_give_an_answer(count: int) -> None:
    rng = np.random.default_rng(23)
    volume = rng.standard_normal((6, 40, 40))
    together = np.zeros(volume.size, dtype=bool)
    together[100 : 100 + count] = True
    for mask in (together, rng.permutation(together)):
        found = estimate_noise(volume, mask.reshape(volume.shape))
        assert (found.sigma > 0) == (found.patches > 0)
        assert found.patches > 0 or "no noise could be measured" in found.sentence


@pytest.mark.parametrize(
    ("peak", "step", "pedestal", "share"),
    [(2, 1.0, 0.0, 1.0), (2, 3.0, 100.0, 0.6), (5, 1.0, 0.0, 0.6), (20, 3.0, 100.0, 1.0)],
)
def test_counts_of_photons_have_the_law_of_their_levels(
    peak: float, step: float, pedestal: float, share: float
) -> None:
    """Most voxels have no photon: this is no background that was set to zero."""
    rng = np.random.default_rng(26)
    volume = pedestal + step * rng.poisson(peak * (0.05 + cells()))
    found = estimate_noise(volume, rng.random(volume.shape) < share)
    assert (found.gain, found.offset, found.low) == (step, -step * pedestal, None)
    assert found.counted
    assert found.correlated is False
    assert "photons, which the values count" in found.sentence
    assert found.variance(np.array([pedestal + 7 * step])) == pytest.approx([7 * step**2])


def test_integers_that_are_no_counts_of_photons_are_told() -> None:
    rng = np.random.default_rng(27)
    truth = 0.05 + cells()
    camera = np.round(100 + 2.3 * rng.poisson(5 * truth) + 1.5 * rng.standard_normal(truth.shape))
    clipped = np.round(np.maximum(40 * cells() - 5 + 3 * rng.standard_normal(truth.shape), 0))
    excess = rng.poisson(20 * truth * rng.gamma(2.0, 0.5, truth.shape))  # the specimen itself is grainy
    doubled = rng.poisson(5 * truth) + 2 * rng.poisson(2.5 * truth)  # some photons count twice
    for volume in (camera, clipped, excess, doubled, rng.poisson(5 * truth) + 0.3 * rng.standard_normal(truth.shape)):
        assert not estimate_noise(volume).counted
    found = estimate_noise(camera)
    assert found.gain == pytest.approx(2.3, rel=0.15)  # of the line
    assert found.offset == pytest.approx(1.5**2 + 1 / 12 - 230, rel=0.15)


# Correlation ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [(0, 0.6, 0.6), (0.6, 0.6, 0.6), (0, 0, 0.8), (0.7, 0, 0)])
def test_correlated_noise_is_recognised(width: tuple[float, float, float]) -> None:
    rng = np.random.default_rng(12)
    found = estimate_noise(cells() + 0.05 * blurred(rng, (24, 96, 96), width))
    assert found.correlated is True
    expected = [lag_one(w) if w else 0.0 for w in width]
    assert found.correlation == pytest.approx(expected, abs=0.08)  # the blur of a grid is not quite Gaussian
    assert found.sigma == pytest.approx(0.05, rel=0.1)
    for axis, w in zip("zyx", width, strict=True):
        assert (f"along {axis}" in found.sentence) == (w > 0)


def test_interpolated_noise_keeps_its_marginal_sigma() -> None:
    noise = ndimage.zoom(np.random.default_rng(13).standard_normal((20, 64, 64)), (1, 2, 2), order=1)
    found = estimate_noise(noise)
    assert found.correlated is True
    assert found.sigma == pytest.approx(noise.std(), rel=0.1)


def test_correlation_is_found_where_voxels_are_missing() -> None:
    rng = np.random.default_rng(14)
    noise = blurred(rng, (40, 96, 96), (0.6, 0.6, 0.6))
    found = estimate_noise(noise, rng.random(noise.shape) < 0.5)
    assert found.correlated is True
    assert found.correlation == pytest.approx([lag_one(0.6)] * 3, abs=0.12)  # 256 patches
    assert found.sigma == pytest.approx(1, rel=0.12)


@pytest.mark.parametrize("share", [0.4, 1.0])
def test_traces_and_means_of_operators_need_none_of_them(share: float) -> None:
    rng = np.random.default_rng(9)
    data, mask = rng.standard_normal((8, 40, 40)), rng.random((8, 40, 40)) < share
    fits = fitted(noise_patches.read_sample(data, mask), 10)
    rows, others = np.arange(20), np.arange(20, 40)
    first, second = (
        np.broadcast_to(operators, (20, *operators.shape[1:]))
        for operators in (residual_operators(fits, rows), residual_operators(fits, others))
    )
    # The ridge of the Gram matrices, 1e-6, makes the operators differ from projections by as much.
    np.testing.assert_allclose(mean_operator(fits, rows), first.mean(axis=0), atol=1e-5)
    found = operator_products(fits.observed[rows], fits.observed[others], fits.basis)
    np.testing.assert_allclose(found, np.sum(first * second, axis=(1, 2)), rtol=1e-4)
    own = operator_products(fits.observed[rows], fits.observed[rows], fits.basis)
    np.testing.assert_allclose(own, np.trace(first, axis1=1, axis2=2), rtol=1e-4)


def test_structure_everywhere_leaves_the_question_open(volumes_folder: Path) -> None:
    """A smooth volume without visible noise: its texture is no correlated noise, and the answer is unknown."""
    found = estimate_noise(tifffile.imread(volumes_folder / "ovule_membranes_confocal.tif"))
    assert found.correlated is None
    assert math.isnan(found.correlation[1])
    assert "cannot be told" in found.sentence


def test_white_noise_of_real_cameras_is_called_white(volumes_folder: Path) -> None:
    found = estimate_noise(tifffile.imread(volumes_folder / "ovule_nuclei_confocal_verynoisy.tif"))
    assert found.correlated is False  # PROVENANCE: photon-limited, white
    assert found.gain > 0


# Real structure ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.05, 0.1])
def test_gaussian_noise_in_real_volumes(reference: tuple[np.ndarray, float], sigma: float) -> None:
    volume, own = reference
    noisy = volume + sigma * np.random.default_rng(15).standard_normal(volume.shape)
    expected = math.hypot(sigma, own)
    assert estimate_noise(noisy).sigma == pytest.approx(expected, rel=0.05)  # the bar
    for factor in (2, 4):
        assert estimate_noise(noisy[::factor]).sigma == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_gaussian_noise_in_real_volumes_with_gaps_and_outliers(
    reference: tuple[np.ndarray, float], share: float
) -> None:
    volume, own = reference
    rng = np.random.default_rng(16)
    noisy = volume + 0.1 * rng.standard_normal(volume.shape)
    found = estimate_noise(damaged(rng, noisy, share, 0.05))
    # The bar is 5 %. The fly brain's texture is as fine as a pixel; through gaps less of it can be fitted: 8 %.
    assert found.sigma == pytest.approx(math.hypot(0.1, own), rel=0.05 if own < 0.02 else 0.08)


@pytest.mark.parametrize("peak", [20, 100])
def test_gain_in_real_volumes(reference: tuple[np.ndarray, float], peak: int) -> None:
    volume, _ = reference
    rng = np.random.default_rng(17)
    found = estimate_noise(rng.poisson(peak * volume) / peak + 0.01 * rng.standard_normal(volume.shape))
    itself = estimate_noise(volume).gain  # the reference counts photons of its own
    assert found.gain == pytest.approx(1 / peak + itself, rel=0.15)


# Input ---------------------------------------------------------------------------------------------------------------


def test_estimate_is_deterministic_and_leaves_the_input_alone() -> None:
    volume = cells() + 0.1 * np.random.default_rng(18).standard_normal((24, 96, 96))
    before = volume.copy()
    volume.setflags(write=False)
    assert estimate_noise(volume) == estimate_noise(volume)
    assert np.array_equal(volume, before)


def test_sample_of_a_large_volume_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a volume thirty times larger, no more is read."""
    read = 0
    gather = noise_patches.gather

    def counting(array: Any, where: Any) -> Any:
        nonlocal read
        values = gather(array, where)
        read += values.size
        return values

    monkeypatch.setattr(noise_patches, "gather", counting)
    small = np.random.default_rng(19).standard_normal((32, 256, 256), dtype=np.float32)
    found = estimate_noise(np.broadcast_to(small[None], (30, *small.shape)).reshape(-1, 256, 256))
    assert found.sigma == pytest.approx(1, rel=0.02)
    assert read < 3 * noise_patches.DRAW * noise_patches.SIDE**2


def test_estimate_on_every_backend(xp: Any) -> None:
    volume = cells((10, 40, 40)) + 0.1 * np.random.default_rng(20).standard_normal((10, 40, 40))
    mask = np.random.default_rng(21).random(volume.shape) < 0.8
    assert estimate_noise(xp.put(volume), xp.put(mask)) == estimate_noise(volume, mask)


@pytest.mark.parametrize(
    ("data", "mask", "error", "match"),
    [
        (np.ones((4, 4)), None, ValueError, r"expected data with 3 axes .* got shape \(4, 4\)"),
        (np.ones((4, 4, 4)), np.ones((4, 4, 5), bool), ValueError, r"mask has shape \(4, 4, 5\), data has shape"),
        (np.ones((4, 4, 4)), np.ones((4, 4, 4)), TypeError, "mask: expected a boolean array .* got dtype float64"),
        (np.ones((4, 4, 4), complex), None, TypeError, "expected real numbers, got dtype complex128"),
        (np.full((4, 4, 4), np.nan), None, ValueError, "expected observed voxels, got none"),
        (np.ones((4, 4, 4)), np.zeros((4, 4, 4), bool), ValueError, "expected observed voxels, got none"),
    ],
)
def test_bad_input_is_refused(data: np.ndarray, mask: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        estimate_noise(data, mask)


@pytest.mark.parametrize(("scale", "peak"), [(1e-20, 50), (1e20, 0)])
def test_model_of_scaled_data_is_the_scaled_model(scale: float, peak: int) -> None:
    rng = np.random.default_rng(24)
    truth = cells()
    counted = rng.poisson(peak * truth) / peak if peak else truth
    volume = np.where(rng.random(truth.shape) < 0.9, counted + 0.02 * rng.standard_normal(truth.shape), np.nan)
    found, scaled = estimate_noise(volume), estimate_noise(scale * volume)
    assert (found.gain > 0) == (peak > 0)
    for name, power in (("gain", 1), ("offset", 2), ("sigma", 1), ("intensity", 1), ("floor", 2), ("step", 1)):
        # Rounding of the scaled data, through sums in another order.
        assert getattr(scaled, name) == pytest.approx(scale**power * getattr(found, name), rel=1e-6), name
    assert scaled.correlation == pytest.approx(found.correlation, abs=1e-6, nan_ok=True)
    assert (scaled.correlated, scaled.patches) == (found.correlated, found.patches)


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_typical_intensity_of_flat_data_is_their_mean(scale: float) -> None:
    rng = np.random.default_rng(25)
    found = estimate_noise(scale * (5 + 1e-3 * rng.standard_normal((8, 32, 32))))
    assert found.intensity == pytest.approx(5 * scale, rel=1e-3)


def test_white_noise_of_a_given_standard_deviation() -> None:
    given = NoiseModel.white(0.5)
    assert (given.gain, given.offset, given.sigma, given.floor) == (0, 0.25, 0.5, 0.25)
    assert given.sentence == "The standard deviation of the noise was given: 0.5 at all intensities."
    assert given.variance(np.array([-3.0, 9.0])).tolist() == [0.25, 0.25]
    assert NoiseModel.of(0.5) == given
    assert NoiseModel.of(given) is given
    for sigma in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="must be finite and not negative, got"):
            NoiseModel.white(sigma)
