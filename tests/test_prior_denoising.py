"""A prior fitted to simulations from the denoised volume: what it learns, and that the data alone decide on it."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the diffusion extra: torch")
pytest.importorskip("safetensors", reason="needs the diffusion extra: safetensors")

from scipy.ndimage import gaussian_filter  # noqa: E402

from tensorcell.diffusion_guidance import denoising  # noqa: E402
from tensorcell.diffusion_guidance.denoising import (  # noqa: E402
    CONDITION,
    PriorDenoised,
    denoise_with_prior,
    posterior_samples,
)
from tensorcell.diffusion_guidance.networks import SliceNetwork, SliceNetworkConfig  # noqa: E402
from tensorcell.diffusion_guidance.priors import LateralPrior  # noqa: E402
from tensorcell.solvers.local import LocalOptions, local_tucker  # noqa: E402

TINY = SliceNetworkConfig(widths=(8,), blocks=1)
SHAPE = (32, 48, 48)


def gaussian_data(sigma: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """White truth of unit variance, and it under noise."""
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal(SHAPE)
    return truth.astype(np.float32), (truth + sigma * rng.standard_normal(SHAPE)).astype(np.float32)


def untrained() -> LateralPrior:
    return LateralPrior(SliceNetwork(TINY), report={"condition": CONDITION})


def rmse(found: np.ndarray, truth: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(found - truth, dtype=np.float64))))


def proposing(monkeypatch: pytest.MonkeyPatch, proposal) -> LateralPrior:  # type: ignore[no-untyped-def]
    """A prior whose guess is ``f + proposal(f, y)``."""
    monkeypatch.setattr(denoising, "_regressed", lambda prior, f, y, sigma: (f + proposal(f, y)).astype(np.float32))
    return untrained()


@pytest.mark.parametrize(("share", "gain"), [(0.2, 1.0), (0.2, 0.5), (0.8, -0.5), (0.35, 1.0), (0.2, 0.2)])
def test_weight_is_the_slope_of_a_linear_correction(monkeypatch: pytest.MonkeyPatch, share: float, gain: float) -> None:
    # v and noise are white with variances 1 and s^2: the best estimate is y / (1 + s^2). The base is share * y, the
    # correction gain * (y - f); the weight that leads to the best estimate is (1 / (1 + s^2) - share) / (gain (1 -
    # share)).
    sigma = 1.0
    truth, noisy = gaussian_data(sigma)
    prior = proposing(monkeypatch, lambda f, y: gain * (y - f))
    found = denoise_with_prior(noisy, sigma, restore=lambda y: share * y, prior=prior)
    best = (1 / (1 + sigma**2) - share) / (gain * (1 - share))
    # 74 000 voxels tell the slope to 1 / sqrt(74 000) times a few; jackknife errors of 18 blocks are good to a third.
    assert found.slope == pytest.approx(best, abs=4 * found.slope_error + 1e-3)
    assert 0 < found.slope_error < 0.1 * max(best, 1.0)
    assert found.weight <= 1
    if best < 1:
        assert found.slope - 2 * found.slope_error < found.weight < found.slope - 1.3 * found.slope_error
    else:
        assert found.weight == 1
    assert rmse(found.volume, truth) < rmse(found.base, truth)
    assert found.predicted == pytest.approx(rmse(found.volume, truth), rel=0.02)  # 1 / sqrt(74 000), a few times


def test_no_weight_where_the_correction_is_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, noisy = gaussian_data(0.5)
    best = noisy / 1.25  # of white data, nothing is left to be found
    for seed in range(3):
        change = 0.1 * np.random.default_rng(seed + 7).standard_normal(SHAPE)
        prior = proposing(monkeypatch, lambda f, y, change=change: change)
        found = denoise_with_prior(noisy, 0.5, restore=lambda y: y / 1.25, prior=prior)
        assert abs(found.slope) < 4 * found.slope_error
        # One in twenty by the choice of the level; then a share that costs next to nothing.
        assert rmse(found.volume, truth) < 1.001 * rmse(best, truth)
    opposite = denoise_with_prior(
        noisy, 0.5, restore=lambda y: y / 1.25, prior=proposing(monkeypatch, lambda f, y: 0.2 * (y - f))
    )
    assert opposite.weight < 0.2  # its true slope is zero
    noise_back = proposing(monkeypatch, lambda f, y: y - f)
    found = denoise_with_prior(noisy, 0.5, restore=lambda y: 0.9 * y, prior=noise_back)  # too much of y already
    assert found.weight == 0
    np.testing.assert_array_equal(found.volume, found.base)
    assert found.sentence.startswith("0% of the change that the prior proposed was taken: Stein's estimate")


def test_untrained_prior_proposes_nothing_and_is_not_taken() -> None:
    _, noisy = gaussian_data(0.5)
    found = denoise_with_prior(noisy, 0.5, restore=lambda y: y / 1.25, prior=untrained())
    assert found.weight == 0
    np.testing.assert_array_equal(found.volume, found.base)


def test_bootstrap_learns_the_optimal_correction_of_a_linear_base() -> None:
    # Smooth truth, base with half its amplitude: the correction 2 f - f = f is linear in the base, and v is known to
    # be twice f but for what is left of the noise. The bootstrap learns it from f alone: f' is half of f.
    rng = np.random.default_rng(0)
    truth = gaussian_filter(rng.standard_normal((24, 48, 48)), 3)
    truth = (truth / truth.std()).astype(np.float32)
    noisy = (truth + 0.3 * rng.standard_normal(truth.shape)).astype(np.float32)
    found = denoise_with_prior(
        noisy, 0.3, restore=lambda y: 0.5 * gaussian_filter(y, 1.5), steps=120, seed=1, config=TINY
    )
    assert rmse(found.volume, truth) < 0.5 * rmse(found.base, truth)
    assert found.predicted == pytest.approx(rmse(found.volume, truth), rel=0.1)  # 55 000 voxels, s^2 = 0.09


def test_not_below_the_local_model_and_repeatable() -> None:
    rng = np.random.default_rng(3)
    truth = np.exp(gaussian_filter(rng.standard_normal((12, 30, 30)), 2) * 5).astype(np.float32)
    noisy = (truth + 0.2 * rng.standard_normal(truth.shape)).astype(np.float32)

    def restore(y: np.ndarray) -> np.ndarray:
        return local_tucker(y, noise=0.2, options=LocalOptions(reach=3, group=8, step=4)).value

    base = restore(noisy)
    first, again = (
        denoise_with_prior(noisy, 0.2, restore=restore, base=base, steps=20, seed=2, config=TINY) for _ in range(2)
    )
    np.testing.assert_array_equal(first.volume, again.volume)
    assert rmse(first.volume, truth) <= 1.002 * rmse(base, truth)  # 0.02 dB
    kept = denoise_with_prior(noisy, 0.2, restore=restore, base=base, prior=first.prior, seed=2)
    # The prior brings its weights along; only the signs of the divergence are others.
    np.testing.assert_allclose(kept.regression, first.regression, atol=1e-5)


def test_prior_serves_data_in_another_unit(tmp_path) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(4)
    truth = gaussian_filter(rng.standard_normal((8, 24, 24)), 2) * 10
    noisy = (truth + rng.standard_normal(truth.shape)).astype(np.float32)

    def restore(y: np.ndarray) -> np.ndarray:
        return gaussian_filter(y, 1.0)

    first = denoise_with_prior(noisy, 1.0, restore=restore, steps=20, config=TINY)
    first.prior.save(tmp_path)
    loaded = LateralPrior.load(tmp_path)
    other = denoise_with_prior(100 * noisy + 1000, 100.0, restore=restore, prior=loaded)
    np.testing.assert_allclose(other.regression, 100 * first.regression + 1000, atol=0.01)  # float32 at 1000


def test_samples_have_the_predicted_spread_about_the_volume() -> None:
    # Nothing is known of a white truth but what y says: D = base at level infinity, and the exact posterior of an
    # untrained network: x0 | f is N(f, tau^2), so that samples are f + tau * white noise.
    _, noisy = gaussian_data(1.0)
    tau = math.sqrt(0.5)
    network = SliceNetwork(SliceNetworkConfig(widths=(8,), blocks=1, condition_error=tau))
    prior = LateralPrior(network, report={"condition": CONDITION})
    found = denoise_with_prior(noisy, 1.0, restore=lambda y: y / 2, prior=prior)
    assert found.predicted == pytest.approx(tau, rel=0.02)
    drawn = posterior_samples(noisy, 1.0, found, samples=4, steps=40)
    assert drawn.samples.shape == (4, *SHAPE)
    np.testing.assert_allclose(drawn.samples.mean(axis=0), found.volume, atol=1e-5)
    assert float(np.sqrt(np.mean(drawn.spread**2))) == pytest.approx(found.predicted, rel=1e-4)
    # In prior units the deviation is tau, and a prior unit is std(f) = sqrt(1/2); 40 steps of ddpm err by a tenth.
    assert drawn.factor == pytest.approx(1 / found.prior.scale, rel=0.1)
    again = posterior_samples(noisy, 1.0, found, samples=4, steps=40)
    np.testing.assert_array_equal(again.samples, drawn.samples)
    stopped = posterior_samples(noisy, 1.0, found, samples=2, steps=40, progress=lambda step, steps: step == 3)
    assert np.isfinite(stopped.samples).all()


def test_bad_input() -> None:
    noisy = gaussian_data(1.0)[1][:8, :16, :16]
    fine = {"restore": lambda y: y, "prior": untrained()}
    for sigma in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="sigma must be positive and finite, got"):
            denoise_with_prior(noisy, sigma, **fine)
    with pytest.raises(ValueError, match=r"noisy must have three axes \(z, y, x\) and voxels, got shape \(16, 16\)"):
        denoise_with_prior(noisy[0], 1.0, **fine)
    holed = noisy.copy()
    holed[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="noisy must be finite, got NaN or infinity"):
        denoise_with_prior(holed, 1.0, **fine)
    with pytest.raises(ValueError, match=r"base must have the shape of the data, \(8, 16, 16\), got \(7, 16, 16\)"):
        denoise_with_prior(noisy, 1.0, base=noisy[1:], **fine)
    with pytest.raises(ValueError, match="what restore returns must have the shape of the data"):
        denoise_with_prior(noisy, 1.0, restore=lambda y: y[1:], prior=untrained())
    with pytest.raises(ValueError, match="expected a prior fitted by denoise_with_prior, got one of another kind"):
        denoise_with_prior(noisy, 1.0, restore=lambda y: y, prior=LateralPrior(SliceNetwork(TINY)))
    found: PriorDenoised = denoise_with_prior(noisy, 1.0, **fine)
    with pytest.raises(ValueError, match="expected at least 2 samples and 1 step, got 1 and 20"):
        posterior_samples(noisy, 1.0, found, samples=1)
    with pytest.raises(ValueError, match="noisy must have the shape of the data"):
        posterior_samples(noisy[1:], 1.0, found)


def test_a_constant_volume_stays_as_it_is() -> None:
    flat = np.full((8, 16, 16), 5.0, np.float32)
    found = denoise_with_prior(flat, 1.0, restore=lambda y: np.full_like(y, 5.0), steps=2, config=TINY)
    assert np.isfinite(found.volume).all()
    assert rmse(found.volume, flat) < 1e-2


def test_the_error_of_the_base_has_its_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """White data, a base that is half the best estimate: its error is known, and what the correction saves, too."""
    truth, noisy = gaussian_data(1.0)
    prior = proposing(monkeypatch, lambda f, y: 0.2 * (y - f))  # to .4 y, of .5 y
    found = denoise_with_prior(noisy, 1.0, restore=lambda y: 0.25 * y, prior=prior)
    told = denoise_with_prior(noisy, 1.0, restore=lambda y: 0.25 * y, prior=prior, base_error=rmse(found.base, truth))
    assert told.predicted == pytest.approx(rmse(told.volume, truth), rel=0.05)  # a slope above 1 counts as 1
    wrong = denoise_with_prior(noisy, 1.0, restore=lambda y: 0.25 * y, prior=prior, base_error=2 * told.predicted)
    assert told.predicted < wrong.predicted < 2 * told.predicted
