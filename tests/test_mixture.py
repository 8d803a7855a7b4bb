"""Candidates of patch groups, their mixture by Stein's estimate of the squared error, and what is said of its error."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import ndimage
from smooth_volumes import noise_like, rms, smooth

from tensorcell.solvers import LocalOptions, local_tucker, patch_denoising
from tensorcell.solvers.patch_denoising import Candidates, candidates, local_contrast, stages, total_spread, tried
from tensorcell.solvers.patch_groups import HARD, filtered, smoothed
from tensorcell.solvers.stein import (
    Laws,
    divergence_terms,
    error_law,
    random_direction,
    sample_blocks,
    simplex_weights,
    squared_error_terms,
)


@pytest.fixture(scope="module")
def tested() -> Any:
    """Truth, noise, and the candidates made of their sum."""
    truth = smooth((24, 32, 32), 7, 1.5)
    noise = noise_like(truth, 0.3, 8)
    return truth, noise, candidates(truth + noise, 0.3, LocalOptions())


def test_later_stages_keep_structure_that_the_first_one_loses(tested: Any) -> None:
    """The gentle one most of it, at no larger error; the third one has the least error."""
    truth, noise, found = tested
    lost = {name: float(np.mean((truth + noise - each) * truth)) for name, each in found.values.items()}
    error = {name: rms(each - truth) for name, each in found.values.items()}
    assert lost["gentle"] < 0.5 * lost["first"]
    assert error["gentle"] < 1.1 * error["first"]
    assert lost["third"] < 0.7 * lost["first"]
    assert error["third"] < 0.97 * min(error["gentle"], error["first"])


def test_the_divergence_is_what_the_estimates_owe_to_the_noise(tested: Any) -> None:
    """Stein's lemma with the noise known: ``sigma^2 div f`` is the mean of ``<n, f - v>``."""
    truth, noise, found = tested
    contrast, spread = local_contrast(found.values["third"]), total_spread(found)
    everywhere, rng = np.ones(truth.shape, bool), np.random.default_rng(9)
    trial = tried(truth + noise, everywhere, 0.3, LocalOptions(), found, contrast, spread, rng)
    for estimate, terms in zip(found.values.values(), trial.divergences[1:], strict=True):
        owed = float(np.sum(noise * (estimate - truth), dtype=np.float64))
        assert 0.09 * terms.sum() == pytest.approx(owed, rel=0.1)  # the random direction alone: some 3 %
    assert not trial.misfits[0].any()
    assert (trial.divergences[0] == 1).all()


@pytest.mark.parametrize("law", ["normal", "signs"])
def test_random_directions_have_variance_one_where_measured_and_are_zero_elsewhere(law: Any) -> None:
    measured = np.random.default_rng(25).random((20, 40, 50)) < 0.7
    direction = random_direction(np.random.default_rng(26), measured, law)
    assert direction.dtype == np.float32
    assert not direction[~measured].any()
    assert abs(direction[measured].mean()) < 0.02  # four standard errors of 28 000 voxels
    assert np.mean(direction[measured] ** 2) == pytest.approx(1, abs=0.04)


@pytest.mark.parametrize("law", ["normal", "signs"])
def test_steins_estimate_of_a_linear_filter_is_its_true_error(law: Any) -> None:
    truth = smooth((30, 40, 40), 27, 2.0).astype(float)
    noisy = truth + 0.5 * np.random.default_rng(28).standard_normal(truth.shape)
    everywhere = np.ones(truth.shape, bool)
    direction = random_direction(np.random.default_rng(29), everywhere, law)
    before, after = (ndimage.gaussian_filter(y, 0.8, mode="wrap") for y in (noisy, noisy + 0.05 * direction))
    terms = divergence_terms(direction, before, after, 0.05)
    spike = np.zeros((15, 15, 15))
    spike[7, 7, 7] = 1
    assert terms.mean() == pytest.approx(ndimage.gaussian_filter(spike, 0.8)[7, 7, 7], rel=0.05)
    error = squared_error_terms(before - noisy, terms, 0.5).mean()
    assert error == pytest.approx(np.mean((before - truth) ** 2), abs=0.01 * 0.25)  # of the noise's variance


def test_local_contrast_is_a_standard_deviation() -> None:
    noise = noise_like(np.zeros((20, 30, 30)), 1.0, 30)
    contrast = local_contrast(noise)
    assert contrast.mean() == pytest.approx(1, abs=0.1)  # less what the local mean takes of the noise
    np.testing.assert_allclose(local_contrast(10 * noise), 10 * contrast, rtol=1e-4)
    assert local_contrast(np.ones((5, 5, 5), np.float32)).max() < 1e-6


def test_total_spread_is_a_standard_deviation_over_all_estimates() -> None:
    ones = np.ones((2, 2, 2))
    values = {"a": ones, "b": -ones}
    assert np.allclose(total_spread(Candidates(values, 0 * ones)), 1)
    assert np.allclose(total_spread(Candidates(values, 9 * ones)), math.sqrt(10))


def test_candidates_have_the_mean_variance_of_their_overlapping_estimates() -> None:
    """Each stage counts as often as it has candidates: 1, 3 and 2 times."""
    noisy = smooth((10, 14, 15), 7, 1.5) + noise_like(np.ones((10, 14, 15)), 0.3, 8)
    found, options = candidates(noisy, 0.3, LocalOptions()), LocalOptions()
    first, second, third = stages(options, noisy.shape)
    pilot, spread = filtered(noisy, smoothed(noisy), None, 0.3, HARD, first)
    square = spread**2
    for times, geometry in ((3, second), (2, third)):
        pilot, spread = filtered(noisy, pilot, pilot, 0.3, 1.0, geometry)
        square += times * spread**2
    assert np.allclose(found.square, square / 6, rtol=1e-5, atol=1e-9)  # rounding in float32


def test_simplex_weights_are_the_minimum() -> None:
    """Against a fine grid over the simplex."""
    rng = np.random.default_rng(12)
    for _ in range(10):
        root, linear = rng.standard_normal((3, 3)), rng.standard_normal(3)
        quadratic = root @ root.T
        weights, risk = simplex_weights(quadratic, linear)
        grid = np.array([(a, b, 1 - a - b) for a in np.linspace(0, 1, 101) for b in np.linspace(0, 1 - a, 101)])
        values = np.einsum("ni,ij,nj->n", grid, quadratic, grid) + 2 * grid @ linear
        assert weights.min() >= 0
        assert weights.sum() == pytest.approx(1)
        assert risk <= values.min() + 1e-9
        assert risk > values.min() - 0.02


def test_the_error_law_is_the_one_that_made_the_risks() -> None:
    rng = np.random.default_rng(13)
    spread = rng.uniform(0.5, 2, 200_000)
    truth = 0.02 + 0.05 * spread**2
    least, slope, limit = error_law(truth + rng.standard_normal(spread.size), spread, float(truth.mean()))
    found = least + slope * np.minimum(spread, limit) ** 2
    assert np.abs(found / truth - 1).max() < 0.4  # the noise of a risk is ten times the risk


@pytest.mark.parametrize(("offset", "share"), [(-1.0, 0.65), (1.0, 1.0)])
def test_the_mean_of_an_error_law_is_held_near_the_divergence(offset: float, share: float) -> None:
    """A wrong noise level moves the mean of all risks, but not that of the law beyond its bounds."""
    spread = np.random.default_rng(31).uniform(0.5, 2, 50_000)
    truth = 0.02 + 0.05 * spread**2
    most = float(truth.mean())
    least, slope, limit = error_law(truth + offset, spread, most)
    law = least + slope * np.minimum(spread, limit) ** 2
    assert law.mean() == pytest.approx(share * most, rel=1e-6)
    assert min(least, slope) >= 0


def test_background_and_structure_get_weights_of_their_own() -> None:
    """Texture that no group shows is kept, where the background is smoothed."""
    rng = np.random.default_rng(14)
    truth = np.zeros((24, 48, 48), np.float32)
    truth[:, :, 24:] = rng.standard_normal((24, 48, 24))
    noisy = truth + 0.3 * rng.standard_normal(truth.shape).astype(np.float32)
    found = local_tucker(noisy, noise=0.3)
    error = found.value - truth
    assert np.sqrt(np.mean(error[:, :, :20] ** 2)) < 0.07
    assert np.sqrt(np.mean(error[:, :, 28:] ** 2)) < 0.32  # the data themselves have 0.3
    assert found.error[:, :, :20].mean() < 0.3 * found.error[:, :, 28:].mean()


def test_rare_structure_gets_weights_and_errors_of_its_own() -> None:
    """A thin filament in a smooth volume is .4 % of the voxels: the mean over all others does not speak for it."""
    z, y, x = np.indices((12, 60, 64))
    filament = 8 * np.exp(-((y - 20 - 1.6 * z) ** 2 + (x - 10 - 4 * z) ** 2) / 2.4)
    truth = (filament + 3 * np.exp(-((y - 44) ** 2 + (x - 50) ** 2) / 40)).astype(np.float32)
    there, covered, ratio = filament > 2, [], []
    for seed in range(3):
        found = local_tucker(truth + noise_like(truth, 1.0, seed), noise=1.0)
        error = found.value - truth
        covered.append(np.mean(np.abs(error) <= 1.645 * found.error, where=there))
        ratio.append(rms(error[there]) / rms(found.error[there]))
    assert there.mean() < 0.005
    assert np.mean(covered) > 0.75  # .3 without classes of rare contrast
    assert 0.6 < np.mean(ratio) < 1.4  # 2.6 without


def test_a_spot_in_structure_is_not_shrunk_with_the_noise_of_its_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spots of five standard deviations of the noise, in structure of three: rare among patches that are alike."""
    places = [(z, y, x) for z in (4, 10, 16) for y in (12, 32, 52) for x in (12, 32, 52)]
    spots = np.zeros((21, 64, 64))
    spots[tuple(np.array(places).T)] = 1
    spots = ndimage.gaussian_filter(spots, (1.1, 1.2, 1.2))
    spots *= 5 / spots.max()
    truth = (spots + 3 * smooth(spots.shape, 5, 5.0)).astype(np.float32)
    noisy = truth + noise_like(truth, 1.0, 6)
    at = tuple(np.array(places).T)
    left, covered = {}, {}
    for limits in (patch_denoising.CHANGED, (1e3, 2e3)):
        monkeypatch.setattr(patch_denoising, "CHANGED", limits)
        found = local_tucker(noisy, noise=1.0)
        left[limits] = float(np.mean((found.value - truth)[at]))
        covered[limits] = np.mean(np.abs(found.value - truth)[at] <= 1.645 * found.error[at])
    taken, without = left
    assert 0 > left[taken] > 0.75 * left[without]
    assert covered[taken] > covered[without] + 0.3


@pytest.mark.parametrize("shape", [(20, 30, 40), (32, 128, 128), (124, 86, 94), (57, 256, 256), (400, 500, 600)])
def test_sample_blocks_lie_inside_and_are_no_more_than_wanted(shape: tuple[int, ...]) -> None:
    voxels = 0
    for block, inner in sample_blocks(shape):
        assert all(0 <= part.start < part.stop <= size for part, size in zip(block, shape, strict=True))
        lengths = [part.stop - part.start for part in block]
        assert all(0 <= part.start < part.stop <= size for part, size in zip(inner, lengths, strict=True))
        voxels += math.prod(lengths)
    assert min(100_000, math.prod(shape)) <= voxels <= 500_000


@pytest.mark.parametrize("seed", range(4))
def test_on_nothing_but_noise_the_error_is_not_told_too_small(seed: int) -> None:
    """What an estimate of a flat volume has of the noise is hardly more than 0, and its mean is uncertain."""
    found = local_tucker(noise_like(np.zeros((24, 64, 64)), 1.0, seed), noise=1.0)
    assert np.mean(np.abs(found.value) <= 1.645 * found.error) > 0.9
    assert rms(found.error) < 0.2


def test_the_error_grows_with_a_contrast_that_no_class_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a flash of a few voxels the classes know nothing."""
    truth = np.zeros((12, 48, 48), np.float32)
    truth[:, 10:14, 10:30] = 3
    truth[6, 34, 34:37] = 12
    noisy = truth + noise_like(truth, 1.0, 5)
    flash = (6, 34, 35)
    found = local_tucker(noisy, noise=1.0)
    monkeypatch.setattr(Laws, "highest", math.inf)
    before = local_tucker(noisy, noise=1.0)
    assert (found.value == before.value).all()
    assert found.error[flash] > 1.5 * before.error[flash]
    assert np.median(found.error / before.error) == 1
