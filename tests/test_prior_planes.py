"""Planes filled with a prior: measured planes stay, and the prior counts as far as left-out planes bear it out."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra 'diffusion'")

from tensorcell.diffusion_guidance import planes as planes_module
from tensorcell.diffusion_guidance.networks import SliceNetwork, SliceNetworkConfig
from tensorcell.diffusion_guidance.planes import between_rms, fill_with_prior, middle_rows
from tensorcell.diffusion_guidance.priors import LateralPrior
from tensorcell.solvers.interplane import fill_planes, judged_slope

TINY = SliceNetworkConfig(widths=(8,), blocks=1)


def field(seed: int, shape: tuple[int, int, int]) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    normal = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 1.5)
    return np.exp(normal / normal.std()).astype(np.float32)


def oracle(monkeypatch: pytest.MonkeyPatch, truth: np.ndarray, factor: int, share: float) -> LateralPrior:
    """A prior that knows a share of what kriging misses, at the gap as at twice the gap."""

    def regress(prior: LateralPrior, given: np.ndarray, **_: object) -> np.ndarray:
        at = [int(np.argmin(np.square(truth - plane).sum(axis=(1, 2)))) for plane in given]
        count = factor * (len(given) - 1) + 1
        base = np.asarray(fill_planes(given, np.arange(0, count, factor), count).volume)
        if at[1] - at[0] == factor:
            return base + share * (truth[at[0] : at[-1] + 1] - base)
        missing = truth[at[0] + factor : at[-1] : 2 * factor] - middle_rows(base, factor)
        base[:-1] += share * np.repeat(missing, factor, axis=0)
        return base

    monkeypatch.setattr(planes_module, "regress_planes", regress)
    return LateralPrior(SliceNetwork(TINY), axial_factor=factor)


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_fill_with_prior_believes_a_prior_that_is_right(
    monkeypatch: pytest.MonkeyPatch, factor: int, share: float
) -> None:
    truth = field(0, (8 * factor + 1, 24, 24))
    measured = truth[::factor]
    prior = oracle(monkeypatch, truth, factor, share)
    filled = fill_with_prior(measured, prior, project=False)
    # The correction is the share of what is missing: it should be taken 1 / share times, and is taken once at most.
    assert filled.prior.slope == pytest.approx(1 / share, rel=1e-4)  # float32
    assert filled.prior.weight == pytest.approx(1.0)
    np.testing.assert_array_equal(filled.volume[::factor], measured)
    base = np.asarray(fill_planes(measured, np.arange(0, len(truth), factor), len(truth)).volume)
    np.testing.assert_allclose(filled.volume, base + share * (truth - base), atol=1e-4)  # float32, values to 30


def test_fill_with_prior_takes_the_lower_end_for_an_exaggerating_prior(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = field(1, (33, 24, 24))
    prior = oracle(monkeypatch, truth, 4, 2.0)
    filled = fill_with_prior(truth[::4], prior, project=False)
    assert filled.prior.slope == pytest.approx(0.5, rel=1e-4)
    assert filled.prior.weight == pytest.approx(0.5, abs=1e-3)
    np.testing.assert_allclose(filled.volume, truth, atol=1e-2)  # half of twice what is missing


def test_fill_with_prior_does_not_believe_a_prior_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = field(2, (33, 24, 24))
    prior = oracle(monkeypatch, truth, 4, -1.0)
    filled = fill_with_prior(truth[::4], prior, project=False)
    assert filled.prior.weight == 0
    expected = fill_planes(truth[::4], np.arange(0, 33, 4), 33).volume
    np.testing.assert_array_equal(filled.volume, np.asarray(expected))
    assert filled.sentence.startswith(
        "0% of the change that the prior proposed to interpolation (kriging) was taken: at left-out planes"
    )


def test_the_projection_is_believed_where_it_helps_and_states_its_error() -> None:
    """Grain between planes that groups of patches can tell from structure; kriging and an untrained prior keep it."""
    rng = np.random.default_rng(5)
    z, y, x = np.mgrid[0:33, 0:40, 0:40]
    truth = (np.sin(x / 3 + z / 9) + np.sin(y / 4)).astype(np.float32)
    measured = (truth + 0.2 * rng.standard_normal(truth.shape)).astype(np.float32)[::4]
    prior = LateralPrior(SliceNetwork(TINY), axial_factor=4)
    plain, projected = (fill_with_prior(measured, prior, project=flag) for flag in (False, True))
    between = np.arange(33) % 4 != 0
    before, after = (float(np.square(f.volume - truth)[between].mean()) for f in (plain, projected))
    assert after < 0.9 * before
    assert projected.projection.weight > 0.3
    assert "of the change that similar patches proposed then" in projected.sentence
    assert projected.ratio < plain.ratio
    np.testing.assert_array_equal(projected.volume[::4], measured)
    assert between_rms(projected.error, 4) == pytest.approx(projected.ratio * between_rms(plain.error, 4) / plain.ratio)


def test_middle_rows() -> None:
    rows = np.arange(7, dtype=np.float32)[:, None, None]
    assert middle_rows(rows, 2).ravel().tolist() == [1, 3, 5]
    assert middle_rows(rows, 3).ravel().tolist() == [1.5, 4.5]


def test_fill_with_prior_of_few_planes_is_kriging() -> None:
    stack = field(3, (3, 16, 16))
    filled = fill_with_prior(stack, LateralPrior(SliceNetwork(TINY), axial_factor=2))
    assert filled.prior.weight == 0
    assert filled.turns == ()
    assert np.isnan(filled.prior.slope)
    assert "3 measured planes are too few to judge" in filled.sentence
    np.testing.assert_array_equal(filled.volume, np.asarray(fill_planes(stack, [0, 2, 4], 5).volume))


def test_fill_with_prior_says_what_it_cannot_use() -> None:
    prior = LateralPrior(SliceNetwork(TINY), axial_factor=2)
    stack = field(4, (5, 16, 16))
    with pytest.raises(ValueError, match="axial_factor of at least 2, got 1"):
        fill_with_prior(stack, LateralPrior(SliceNetwork(TINY)))
    with pytest.raises(ValueError, match="at least two planes, all of them whole, got 1 whole of 1"):
        fill_with_prior(stack[:1], prior)
    stack[2, 3, 3] = np.nan
    with pytest.raises(ValueError, match="all of them whole, got 4 whole of 5"):
        fill_with_prior(stack, prior)


def test_judged_slope_is_least_squares_and_its_jackknife() -> None:
    rng = np.random.default_rng(0)
    change, noise = rng.standard_normal((2, 200, 50))
    truth = 0.6 * change + noise
    slope, error, weight = judged_slope((change * truth).sum(axis=1), (change * change).sum(axis=1))
    assert slope == pytest.approx(np.polyfit(change.ravel(), truth.ravel(), 1)[0], abs=1e-3)  # with an intercept
    assert error == pytest.approx(1 / np.sqrt(change.size), rel=0.2)  # 200 planes tell a deviation to 5 %
    assert weight == pytest.approx(slope - 1.6525 * error, abs=1e-6)  # Student's t, 199 degrees of freedom
    assert judged_slope(np.ones(1), np.ones(1))[2] == 0
