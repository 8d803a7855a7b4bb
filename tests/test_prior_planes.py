"""Planes filled with a prior: measured planes stay, and the prior counts as far as left-out planes bear it out."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra 'diffusion'")

import torch

from tensorcell.diffusion_guidance import planes as planes_module
from tensorcell.diffusion_guidance.networks import SliceNetwork, SliceNetworkConfig
from tensorcell.diffusion_guidance.planes import LeftOut, Share, fill_with_prior, lateral_slope, middle_rows
from tensorcell.diffusion_guidance.priors import LateralPrior
from tensorcell.diffusion_guidance.slices import condition_of
from tensorcell.solvers.interplane import fill_planes, judged_slope

TINY = SliceNetworkConfig(widths=(8,), blocks=1)


def field(seed: int, shape: tuple[int, int, int]) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    normal = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 1.5)
    return np.exp(normal / normal.std()).astype(np.float32)


def oracle(monkeypatch: pytest.MonkeyPatch, truth: np.ndarray, factor: int, share: float) -> LateralPrior:
    """A prior that knows a share of what kriging misses, at the gap, at twice the gap, and at rows left out."""

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
    monkeypatch.setattr(planes_module, "lateral_slope", lambda *_: Share(1.0))
    return LateralPrior(SliceNetwork(TINY), axial_factor=factor)


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_fill_with_prior_believes_a_prior_that_is_right(
    monkeypatch: pytest.MonkeyPatch, factor: int, share: float
) -> None:
    truth = field(0, (8 * factor + 1, 24, 24))
    measured = truth[::factor]
    prior = oracle(monkeypatch, truth, factor, share)
    filled = fill_with_prior(measured, prior)
    # The correction is the share of what is missing: it should be taken 1 / share times, and is taken once at most.
    assert filled.prior.slope == pytest.approx(1 / share, rel=1e-4)  # float32
    assert filled.prior.weight == pytest.approx(1.0)
    np.testing.assert_array_equal(filled.volume[::factor], measured)
    base = np.asarray(fill_planes(measured, np.arange(0, len(truth), factor), len(truth)).volume)
    np.testing.assert_allclose(filled.volume, base + share * (truth - base), atol=1e-4)  # float32, values to 30


def test_fill_with_prior_takes_the_lower_end_for_an_exaggerating_prior(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = field(1, (33, 24, 24))
    prior = oracle(monkeypatch, truth, 4, 2.0)
    filled = fill_with_prior(truth[::4], prior)
    assert filled.prior.slope == pytest.approx(0.5, rel=1e-4)
    assert filled.prior.weight == pytest.approx(0.5, abs=1e-3)
    np.testing.assert_allclose(filled.volume, truth, atol=1e-2)  # half of twice what is missing


def test_fill_with_prior_does_not_believe_a_prior_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = field(2, (33, 24, 24))
    prior = oracle(monkeypatch, truth, 4, -1.0)
    filled = fill_with_prior(truth[::4], prior)
    assert filled.prior.weight == 0
    expected = fill_planes(truth[::4], np.arange(0, 33, 4), 33).volume
    np.testing.assert_array_equal(filled.volume, np.asarray(expected))
    assert filled.sentence.startswith(
        "0% of the change that the prior proposed to interpolation (kriging) was taken: at left-out planes"
    )


def test_rows_left_out_of_the_measured_planes_limit_the_share(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = field(0, (17, 24, 24))
    prior = oracle(monkeypatch, truth, 2, 1.0)
    monkeypatch.setattr(planes_module, "lateral_slope", lambda *_: Share(0.3, 0.4, 0.1))
    filled = fill_with_prior(truth[::2], prior)
    assert filled.prior.weight == 0.3
    assert filled.sentence.startswith("30% of the change that the prior proposed")
    assert filled.sentence.endswith("; at rows left out of the measured planes, 0.40 +- 0.10 of it")


@pytest.mark.parametrize("share", [1.0, 0.5, 2.0])
def test_lateral_slope_is_that_of_rows_and_columns(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    planes = field(1, (6, 33, 26))
    monkeypatch.setattr(planes_module, "matched_stretch", lambda *_: 1.0)

    def regress(prior: LateralPrior, slices: np.ndarray, at_once: int) -> np.ndarray:
        """A share of what kriging along the rows misses."""
        rows = slices.swapaxes(0, 1)
        base = np.asarray(fill_planes(rows[::3], np.arange(0, len(rows), 3), len(rows)).volume).swapaxes(0, 1)
        assert slices.shape == ((6, 31, 26) if slices.shape[1] == 31 else (6, 25, 33))  # whole gaps of two rows
        return base + share * (slices - base)

    monkeypatch.setattr(planes_module, "_regressed_slices", regress)
    found = lateral_slope(planes, LateralPrior(SliceNetwork(TINY), axial_factor=3))
    assert found.slope == pytest.approx(1 / share, rel=1e-4)  # float32
    assert found.weight == pytest.approx(min(1, 1 / share), rel=1e-3)


def test_lateral_slope_asks_the_network_of_the_prior(monkeypatch: pytest.MonkeyPatch) -> None:
    """An untrained network answers with the interpolation of the rows that it is given."""
    planes, prior = field(2, (5, 21, 21)), LateralPrior(SliceNetwork(TINY), axial_factor=2)
    monkeypatch.setattr(planes_module, "matched_stretch", lambda *_: 1.0)
    products, squares = np.zeros((2, 5))
    for slices in (planes, planes.swapaxes(1, 2)):
        rows = slices.swapaxes(0, 1)
        base = np.asarray(fill_planes(rows[::2], np.arange(0, 21, 2), 21).volume, float)
        given = torch.from_numpy(slices.copy())[:, None]
        with torch.no_grad():
            answer = prior.denoise(torch.zeros_like(given), np.inf, condition_of(given, 2))[:, 0]
        change = answer.numpy().swapaxes(0, 1) - base
        change[::2] = 0
        products += (change * (rows - base)).sum(axis=(0, 2))
        squares += (change * change).sum(axis=(0, 2))
    slope, error, weight = judged_slope(products, squares)
    found = lateral_slope(planes, prior)
    assert (found.slope, found.error, found.weight) == pytest.approx((slope, error, weight), rel=1e-3)
    assert np.isfinite(found.slope)


def test_planes_too_small_to_leave_rows_out_are_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planes_module, "matched_stretch", lambda *_: 1.0)
    prior = LateralPrior(SliceNetwork(TINY), axial_factor=4)
    found = lateral_slope(field(3, (6, 8, 8)), prior)
    assert found.weight == 1
    assert np.isnan(found.slope)


def test_a_slope_at_twice_the_gap_counts_as_far_as_kriging_errs_in_the_gap() -> None:
    """There it misses 2 (and noise of variance .44), and 1 is proposed; here it misses 1, and 0.5 or 2 is proposed."""

    def constant(planes: int, value: float) -> np.ndarray:
        return np.full((planes, 4, 4), value, np.float32)

    truth = constant(2, np.sqrt(4.44))
    turns = [LeftOut(constant(3, 0), truth, constant(5, 0), constant(5, 0), constant(5, 0))] * 2
    guesses = [constant(5, 1)] * 2
    for proposed, expected in ((0.5, (1 / 4) / (0.5**2 / 1**2)), (2.0, (1 / 4) / (2**2 / 1**2)), (0.0, 0.0)):
        scale = planes_module._smaller(turns, guesses, constant(7, proposed), constant(7, 1), np.sqrt(0.44), 2)
        assert scale == pytest.approx(expected, rel=1e-5)
    # Where the stated error is larger than that at twice the gap, it is no measure.
    assert planes_module._smaller(turns, guesses, constant(7, 1), constant(7, 3), 0.0, 2) == pytest.approx(1)


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
