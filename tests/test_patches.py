"""Groups of patches as methods use them: noise that grows with the intensity, and what corrects the result."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from tensorcell.methods.patches import Corrected, Stabilised, denoise_by_patches
from tensorcell.solvers import LocalOptions, NoiseModel, estimate_noise

OPTIONS = LocalOptions()
NOISE = NoiseModel(gain=2.0, offset=1.0, sigma=20.0, intensity=200.0)


def ramp() -> tuple[np.ndarray, np.ndarray]:
    """Intensities from 20 to 500 along x, and a copy with noise of variance ``2 I + 1``."""
    truth = np.broadcast_to(np.linspace(20, 500, 32), (8, 32, 32)).copy()
    rng = np.random.default_rng(0)
    return truth, truth + np.sqrt(2 * truth + 1) * rng.standard_normal(truth.shape)


def test_denoise_by_patches_knows_its_error_at_every_intensity() -> None:
    truth, noisy = ramp()
    found = denoise_by_patches(noisy, np.ones(noisy.shape, bool), NOISE, OPTIONS, 0)
    dark, bright = np.s_[..., :8], np.s_[..., -8:]
    for where in (dark, bright):
        rms, told = (float(np.sqrt(np.mean(each[where] ** 2))) for each in (found.value - truth, found.error))
        assert rms < 0.4 * np.sqrt(np.mean(2 * truth[where] + 1))
        # Neighbours share what denoising leaves over: some forty independent errors in 2 000 voxels, known to 11 %, and
        # Stein's estimate counts bright and dark ones together. A factor that forgets the intensity would be 15.
        assert 0.5 < told / rms < 2.0
    # In the unit of the data: the noise of the bright end is 3.6 times that of the dark one.
    assert np.mean(found.error[bright]) > 2 * np.mean(found.error[dark])


def test_denoise_by_patches_lets_a_correction_work_where_all_noise_is_alike() -> None:
    _, noisy = ramp()
    measured = np.random.default_rng(1).random(noisy.shape) < 0.9
    plain = denoise_by_patches(noisy, measured, NOISE, OPTIONS, 0)

    def correct(found: Stabilised) -> Corrected:
        assert found.measured is measured
        for part in (np.s_[..., :8], np.s_[..., -8:]):
            # The truth of a column is its mean: the standard deviation about it is that of 256 voxels in each of 8.
            off = found.values[part] - found.values[part].mean(axis=(0, 1))
            assert off.std() == pytest.approx(found.sigma, rel=0.07)
        np.testing.assert_array_equal(found.restore(found.values).value, found.value)
        return Corrected(found.value, 2 * found.error, np.stack([found.value, found.values]), ("corrected",))

    found = denoise_by_patches(noisy, measured, NOISE, OPTIONS, 0, correct)
    np.testing.assert_array_equal(found.value, plain.value)
    # The error goes back along a curve, whose bend tells at the darkest voxels.
    np.testing.assert_allclose(found.error, 2 * plain.error, rtol=1e-3)
    assert found.notes == ("corrected",)
    assert found.samples is not None
    np.testing.assert_allclose(found.samples[0], plain.value, rtol=1e-6)
    # Going to stabilised values and back is biased by the noise taken off, a quarter of its gain or so: .5.
    assert np.median(np.abs(found.samples[1] - noisy)) < 1
    assert plain.samples is None


def test_denoise_by_patches_knows_its_error_at_few_photons() -> None:
    """Intervals of 90 % at a photon a voxel, everywhere and where it is bright, and the mean of bright classes."""
    covered, bright, off = [], [], []
    for seed in range(3):
        rng = np.random.default_rng([seed, 5])
        blobs = ndimage.gaussian_filter(rng.standard_normal((20, 48, 48)), 2.5)
        truth = 0.25 + 1.5 * np.maximum(blobs / blobs.std(), 0)
        data = rng.poisson(truth).astype(np.float32)
        noise = estimate_noise(data)
        assert noise.counted
        found = denoise_by_patches(data, np.ones(data.shape, bool), noise, OPTIONS, seed)
        inside = np.abs(found.value - truth) <= 1.645 * found.error
        covered.append(inside.mean())
        bright.append(inside[truth > np.quantile(truth, 0.9)].mean())
        parts = np.array_split(np.argsort(found.value, axis=None), 4)
        off.append([found.value.ravel()[part].mean() / truth.ravel()[part].mean() - 1 for part in parts])
    # With the noise of more photons, of variance 1, they were .80 and .55 in simulated cells.
    assert 0.8 < np.mean(covered) < 0.98
    assert np.mean(bright) > 0.75
    # The counts of a fourth are known to 1 % in three stacks. In the dark half, where the truth is flat, estimates that
    # differ by a tenth are not told from each other.
    assert np.abs(np.mean(off, axis=0))[2:].max() < 0.04
