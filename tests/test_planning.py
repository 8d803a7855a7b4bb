"""Sampling plans: predicted errors against true ones, invariances, decisions, the page and the command line."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import call

import tensorcell as tc
from tensorcell import planning
from tensorcell.datasets import degrade, simulate_cells
from tensorcell.metrics import nrmse, psnr
from tensorcell.planning import PlannedChoice, SamplingPlan, Target, plan
from tensorcell.planning.decision import Depth, decide
from tensorcell.planning.noise import exposure_variance
from tensorcell.planning.pilot import pilot_block
from tensorcell.planning.prediction import interval
from tensorcell.planning.result import row
from tensorcell.recovery import recover
from tensorcell.solvers import NoiseModel, estimate_noise
from tensorcell.words import planes_in_words

SHAPE = (17, 32, 32)


@pytest.fixture(scope="module")
def cells() -> Any:
    return simulate_cells(SHAPE, cells=6, peak_photons=150, seed=4)


class Observed:
    """`recover`, with what went in and out written down."""

    def __init__(self) -> None:
        self.calls: list[tuple[np.ndarray, int, np.ndarray]] = []

    def __call__(self, data: np.ndarray, **options: Any) -> Any:
        result = recover(data, **options)
        self.calls.append((data, options.get("axial_factor", 1), result.volume.data))
        return result


@pytest.fixture(scope="module")
def watched(cells: Any) -> tuple[SamplingPlan, Observed]:
    observed = Observed()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning.trials, "recover", observed)
        result = plan(cells.measured, axial_factors=(4, 1, 2, 3), pixel_fractions=(0.5, 1.0), target_psnr=20)
    return result, observed


def left_out(data: np.ndarray, factor: int) -> np.ndarray:
    """True in the planes left out."""
    mask = np.ones(((len(data) - 1) * factor + 1, *data.shape[1:]), bool)
    mask[::factor] = False
    return mask


# -------------------------------------------------------------------------------------- predicted against true


def test_true_errors_lie_in_the_predicted_intervals(cells: Any, watched: tuple[SamplingPlan, Observed]) -> None:
    result, observed = watched
    dense, *_ = observed.calls[1]  # every plane and every pixel but those that are scored
    for choice, (data, factor, volume) in zip(result.choices, observed.calls[1:], strict=True):
        truth, mask = cells.truth[: len(volume)], np.isnan(dense)[: len(volume)]
        given = np.full(volume.shape, np.nan)
        given[::factor] = data
        assert np.isnan(given[mask]).all()  # no choice has seen a voxel that is scored, and all are scored there
        assert mask.sum() == np.isnan(dense).sum()
        assert factor == choice.axial_factor
        true = psnr(truth, volume, data_range=result.data_range, mask=mask)
        assert choice.psnr_interval[0] <= true <= choice.psnr_interval[1]
        # The mean square of the noise of some 850 voxels is known to 5 % of itself: up to 30 % of a small error.
        assert choice.psnr == pytest.approx(true, abs=1.5)
        # Left-out noisy voxels stand for the intensity, too: their power is that of the truth within a percent or so.
        assert choice.nrmse == pytest.approx(nrmse(truth, volume, mask=mask), rel=0.2)
        assert choice.nrmse_interval[0] < choice.nrmse < choice.nrmse_interval[1]


def test_a_naive_comparison_with_the_noisy_pilot_would_be_wrong(
    cells: Any, watched: tuple[SamplingPlan, Observed]
) -> None:
    result, observed = watched
    (data, _, volume), choice = observed.calls[1], result.choices[0]
    naive = psnr(cells.measured, volume, data_range=result.data_range, mask=np.isnan(data))
    assert naive < choice.psnr_interval[0] - 1


def test_errors_grow_as_less_is_kept(watched: tuple[SamplingPlan, Observed]) -> None:
    choices = watched[0].choices
    assert [(c.axial_factor, c.pixel_fraction) for c in choices] == [(s, p) for s in (1, 2, 3, 4) for p in (1.0, 0.5)]
    for fraction in (1.0, 0.5):
        errors = [c.nrmse for c in choices if c.pixel_fraction == fraction]
        assert errors == sorted(errors)
    for all_pixels, half in zip(choices[::2], choices[1::2], strict=True):
        assert all_pixels.nrmse < 1.01 * half.nrmse  # no more than equal where planes far apart decide


def test_planes_are_dropped_not_shifted(cells: Any, watched: tuple[SamplingPlan, Observed]) -> None:
    for data, factor, volume in watched[1].calls[1:]:
        kept = cells.measured[::factor][: len(data)]
        seen = ~np.isnan(data)
        np.testing.assert_array_equal(data[seen], kept[seen])
        assert len(volume) == (SHAPE[0] - 1) // factor * factor + 1
    shares = [1 - np.isnan(data).mean() for data, _, _ in watched[1].calls[1:]]
    # Shares of at least 7 000 pixels: a standard deviation is below .006. A twentieth of the pilot is held out.
    assert shares == pytest.approx([0.95, 0.5, 1, 0.5, 1, 0.5, 1, 0.5], abs=0.025)


def test_linear_column_is_linear_interpolation(cells: Any) -> None:
    result = plan(cells.measured, axial_factors=(4,), noise=0.0)
    truth, planes = cells.measured.astype(float), np.arange(SHAPE[0])
    flat = truth.reshape(SHAPE[0], -1)
    lines = np.stack([np.interp(planes, planes[::4], column[::4]) for column in flat.T], axis=1).reshape(truth.shape)
    mask = left_out(truth[::4], 4)
    expected = psnr(truth, lines, data_range=result.data_range, mask=mask)
    assert result.choices[0].linear_psnr == pytest.approx(expected, abs=1e-3)  # float32 interpolation


@pytest.mark.slow
def test_one_half_of_a_real_volume_predicts_the_other(volumes_folder: Path) -> None:
    data = tc.read(volumes_folder / "brain_nuclei_mesospim_lightsheet.tif").data.astype(np.float32)
    # The halves along y look alike. Those along x do not: the intervals, which know one half only, miss by 1-2 dB.
    pilot, other = (plan(half, axial_factors=(4,)) for half in (data[:, :43], data[:, 43:]))
    shift = 20 * math.log10(pilot.data_range / other.data_range)
    for predicted, found in zip(pilot.choices, other.choices, strict=True):
        assert predicted.psnr_interval[0] <= found.psnr + shift <= predicted.psnr_interval[1]
        assert predicted.nrmse_interval[0] <= found.nrmse <= predicted.nrmse_interval[1]


# ------------------------------------------------------------------------------------------ noise and exposure


def test_noise_of_a_plan_is_that_of_the_solvers_and_of_recover(cells: Any) -> None:
    hidden = np.where(np.random.default_rng(2).random((9, 32, 32)) < 0.9, cells.measured[:9], np.nan)
    for pilot in (cells.measured[:9], hidden):
        found = plan(pilot, axial_factors=(2,))
        assert found.noise == estimate_noise(pilot, ~np.isnan(pilot))
        assert found.noise.sigma == recover(pilot, method="tucker", rank=2).noise
        assert found.noise.sentence in found.notes
        assert found.noise_margin in ((0.95, 1.05), (0.75, 1.25))


def test_noise_of_a_cropped_pilot_is_that_of_the_whole(cells: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning.pilot, "PILOT_VOXELS", 9 * 24 * 24)
    found = plan(cells.measured[:9], axial_factors=(2,))
    assert found.shape == (9, 24, 24)
    assert found.noise == estimate_noise(cells.measured[:9])


def test_given_noise_is_exact_and_the_same_everywhere(cells: Any) -> None:
    found = plan(cells.measured[:9], axial_factors=(2,), noise=2.0)
    np.testing.assert_array_equal(found.noise.variance(np.array([-5.0, 0.0, 80.0])), 4.0)
    assert found.noise_margin == (1.0, 1.0)
    assert "Noise: standard deviation 2, as given." in found.notes


def test_exposure_adds_what_poisson_statistics_say() -> None:
    intensity = np.array([0.0, 5.0, 80.0])
    read, gain, share = 4.0, 1.5, 0.25
    # Image f x photons with the same read noise, divide by f.
    lower = read / share**2 + gain * intensity / share
    model = NoiseModel(gain=gain, offset=read, sigma=2.0)
    np.testing.assert_allclose(model.variance(intensity) + exposure_variance(model, intensity, share), lower)
    np.testing.assert_allclose(exposure_variance(model, intensity, 1.0), 0)
    # A pedestal of 20 and no read noise: all is shot noise, also below the pedestal, where there is none.
    model = NoiseModel(gain=1.5, offset=-30.0, sigma=2.0)
    np.testing.assert_allclose(exposure_variance(model, intensity, share), [0, 0, 1.5 * 60 * 3])


def test_lower_exposure_is_predicted_as_really_simulated(cells: Any) -> None:
    bright, dim = plan(cells.measured, axial_factors=(2,), exposure_factors=(0.3, 1.0)).choices
    # The truth is in photons, with read noise of 1: at .3 of the light, rescaled, read noise of 1 / .3.
    peak = 0.3 * float(cells.truth.max())
    really = degrade(cells.truth, axial_factor=2, peak_photons=peak, read_noise=1 / 0.3, seed=9).measured
    volume, mask = recover(really, axial_factor=2).volume.data, left_out(really, 2)
    true = nrmse(cells.truth[: len(volume)], volume, mask=mask)
    assert dim.nrmse_interval[0] <= true <= dim.nrmse_interval[1]
    assert dim.nrmse == pytest.approx(true, rel=0.08)  # other noise, another fit; without the model it is bright's
    assert bright.nrmse < 0.9 * true


def test_where_noise_outweighs_the_error_it_is_only_bounded(cells: Any, tmp_path: Path) -> None:
    result = plan(cells.measured[:13], axial_factors=(2,), noise=15.0, target_psnr=1)
    (choice,) = result.choices
    assert (choice.nrmse, choice.psnr, choice.nrmse_interval[0]) == (0.0, math.inf, 0.0)
    assert choice.psnr_interval[1] == math.inf
    assert "hides the error" in choice.note
    assert "hides the error" in str(result)
    facts = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert facts["choices"][0]["psnr"] is None
    result.to_html(tmp_path / "page.html")
    assert "hides the error" in (tmp_path / "page.html").read_text()


def test_outliers_of_the_pilot_are_not_scored(cells: Any) -> None:
    rng = np.random.default_rng(3)
    spoilt = np.where(rng.random(SHAPE) < 0.005, 3 * cells.measured.max(), cells.measured)
    clean, dirty = (plan(data[:13], axial_factors=(2,)) for data in (cells.measured, spoilt))
    assert any("stand out as outliers: not scored" in note for note in dirty.notes)
    # Unscored, they still harm the recovery a little; scored, the error would be some six times as large.
    assert dirty.choices[0].nrmse / clean.choices[0].nrmse == pytest.approx(1, abs=0.25)
    assert dirty.data_range == pytest.approx(clean.data_range, rel=0.02)


# ------------------------------------------------------------------------------------------------- invariances


def test_predictions_do_not_depend_on_the_unit(cells: Any) -> None:
    base, scaled = (
        plan(cells.measured[:13] * unit, axial_factors=(2,)) for unit in (1.0, 512.0)
    )  # a power of two: exact
    assert scaled.data_range == pytest.approx(512 * base.data_range)
    a, b = base.choices[0], scaled.choices[0]
    assert (b.psnr, b.nrmse, b.linear_psnr) == pytest.approx((a.psnr, a.nrmse, a.linear_psnr), rel=1e-3)
    assert (*b.psnr_interval, *b.nrmse_interval) == pytest.approx((*a.psnr_interval, *a.nrmse_interval), rel=1e-3)


def test_same_seed_same_plan_and_the_pilot_is_left_alone(cells: Any) -> None:
    hidden = np.zeros((9, 32, 32), bool)
    hidden[2, 3, :5] = True
    pilot = np.ma.masked_array(cells.measured[:9].copy(), hidden)
    before = pilot.data.copy()
    pilot.data.setflags(write=False)
    ways: dict[str, Any] = {"axial_factors": (3,), "pixel_fractions": (0.7,), "exposure_factors": (0.5,)}
    first, second = plan(pilot, **ways), plan(pilot, **ways)
    assert first.choices == second.choices
    assert plan(pilot, **ways, seed=1).choices != first.choices
    np.testing.assert_array_equal(pilot.data, before)


def test_nan_volume_mask_and_axis_order_are_one_pilot(cells: Any) -> None:
    mask = np.random.default_rng(5).random((9, 32, 32)) < 0.9
    data = cells.measured[:9]
    holes = plan(np.where(mask, data, np.nan), axial_factors=(2,))
    turned = tc.Volume(np.moveaxis(np.where(mask, data, -99), 0, 2), axes="YXZ", mask=np.moveaxis(mask, 0, 2))
    assert plan(turned, axial_factors=(2,)).choices == holes.choices


def test_repeats_start_at_other_planes(cells: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    observed = Observed()
    monkeypatch.setattr(planning.trials, "recover", observed)
    plan(cells.measured[:9], axial_factors=(2,), repeats=2)
    firsts = [data[0] for data, _, _ in observed.calls[1:]]
    np.testing.assert_array_equal(firsts, cells.measured[:2])


# ---------------------------------------------------------------------------------------- intervals, decisions


def test_interval_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(6)
    hits = 0
    for trial in range(300):
        error = rng.gamma(2.0, 1.0, 32)  # mean 2, skewed as squared errors are
        low, high = interval(error, np.zeros(32), np.ones(32), (1.0, 1.0), trial)
        hits += low <= 2 <= high
    # 270 of 300 expected; 90 % binomial spread is 5.2, and percentile intervals of skewed means miss a few more.
    assert 250 <= hits <= 290


def test_interval_widens_with_doubt_about_the_noise_and_stays_above_zero() -> None:
    rng = np.random.default_rng(7)
    noise, divisor = np.full(20, 10.0), np.full(20, 5.0)
    error = 10.0 + rng.uniform(3, 4, 20)
    sure = interval(error, noise, divisor, (1.0, 1.0), 0)
    unsure = interval(error, noise, divisor, (0.9, 1.1), 0)
    assert unsure == pytest.approx((sure[0] - 0.2, sure[1] + 0.2))  # a tenth of 10 / 5 on either side
    # an error below what the noise is uncertain by is not called none
    assert interval(0.5 * noise, noise, divisor, (0.9, 1.1), 0) == pytest.approx((0.0, 0.2))
    assert interval(error, 3 * noise, divisor, (1.0, 1.0), 0) == (0.0, 0.0)
    assert interval(error[:1], noise[:1], divisor[:1], (1.0, 1.0), 0)[0] > 0  # one block: no spread known


DEPTHS = {1: Depth("0.6 um", "resolved"), 2: Depth("1.2 um", "resolved"), 4: Depth("2.4 um", "aliased")}


def choice(factor: int, pixels: float, exposure: float, low: float, relative: float) -> PlannedChoice:
    saved = 1 - pixels * exposure / factor
    return PlannedChoice(
        axial_factor=factor, pixel_fraction=pixels, exposure_factor=exposure, psnr=low + 1,
        psnr_interval=(low, low + 2), nrmse=0.9 * relative, nrmse_interval=(0.8 * relative, relative),
        time_saved=saved, dose_saved=saved, linear_psnr=low - 1, note="",
    )  # fmt: skip


def test_the_sparsest_choice_that_surely_meets_the_target_is_taken() -> None:
    choices = (
        choice(1, 1.0, 1.0, 35, 0.05), choice(2, 1.0, 1.0, 31, 0.10), choice(2, 0.5, 1.0, 29.5, 0.12),
        choice(4, 1.0, 1.0, 30.2, 0.11), choice(8, 1.0, 1.0, 25, 0.3),
    )  # fmt: skip
    best, sentence, rule = decide(choices, Target(None, 30.0), DEPTHS)
    assert best is choices[3]
    assert sentence == (
        "Image every fourth plane: it meets a PSNR of at least 30 dB and saves 75% of the imaging time and 75% of the "
        "light dose; structures finer than 2.4 um along z will be blurred."
    )
    assert "whose whole 90 % interval meets the wanted error" in rule
    # 29.5 would do for the point prediction of 30.5, not for the interval.
    assert decide(choices[:3], Target(None, 30.0), DEPTHS)[0] is choices[1]
    assert decide(choices, Target(0.10, None), DEPTHS)[0] is choices[1]
    assert decide(choices, Target(0.12, 30.0), DEPTHS)[0] is choices[3]  # of two that save as much, the better
    assert decide(choices, Target(0.12, 29.0), DEPTHS)[0] is choices[3]
    assert decide(choices, Target(0.05, None), DEPTHS)[1] == (
        "Image every plane: it meets an NRMSE of at most 0.05, and no choice that saves light surely does."
    )
    best, sentence, _ = decide(choices, Target(0.01, 40.0), DEPTHS)
    assert best is None
    assert sentence.startswith("No choice meets an NRMSE of at most 0.01 and a PSNR of at least 40 dB; the best")
    assert "every plane (" in sentence


def test_a_choice_that_is_predicted_to_meet_the_target_but_not_surely_is_named() -> None:
    choices = (choice(1, 1.0, 1.0, 29.5, 0.10), choice(2, 1.0, 1.0, 25, 0.2))  # predictions of 30.5 and 26 dB
    best, sentence, _ = decide(choices, Target(None, 30.0), DEPTHS)
    assert best is None
    assert sentence.startswith(
        "No choice surely meets a PSNR of at least 30 dB: every plane is predicted to, but its 90 % interval reaches "
        "to a PSNR of 29.5 dB"
    )


def test_without_a_target_the_sparsest_planes_that_lose_nothing_are_named() -> None:
    best, sentence, rule = decide((), Target(None, None), DEPTHS)
    assert best is None
    assert sentence == (
        "Every second plane is enough for structures above 1.2 um along z, and the pilot shows no finer ones; with "
        "every fourth plane structures finer than 2.4 um along z will be blurred."
    )
    assert "--target-nrmse" in rule
    unknown = {factor: depth._replace(verdict="unknown") for factor, depth in DEPTHS.items()}
    assert decide((), Target(None, None), unknown)[1] == (
        "Whether the planes of the pilot are close enough for its finest structures cannot be told; with every second "
        "plane structures finer than 1.2 um along z, if there are any, will be blurred."
    )
    aliased = {factor: depth._replace(verdict="aliased") for factor, depth in DEPTHS.items()}
    assert decide((), Target(None, None), aliased)[1].startswith("Every plane is already too few for the finest ")


def test_words_for_planes() -> None:
    words = [planes_in_words(s) for s in (1, 2, 3, 4, 11, 12, 21, 111)]
    assert words == ["every plane", "every second plane", "every third plane", "every fourth plane",
                     "every 11th plane", "every 12th plane", "every 21st plane", "every 111th plane"]  # fmt: skip
    sparse = choice(2, 0.5, 0.25, 1, 1)
    assert sparse.label == "every second plane, 50% of the pixels, 25% of the exposure"
    assert row(sparse)[1].strip() == "2 vox."
    known = replace(sparse, step=0.6)
    assert known.label == "every second plane (0.6 um apart), 50% of the pixels, 25% of the exposure"
    assert row(known)[1].strip() == "0.6 um"


def test_savings_are_fraction_of_planes_pixels_and_exposure(cells: Any) -> None:
    (one,) = plan(
        cells.measured[:9], axial_factors=(4,), pixel_fractions=(0.8,), exposure_factors=(0.5,), noise=1.0
    ).choices
    assert one.time_saved == one.dose_saved == pytest.approx(1 - 0.25 * 0.8 * 0.5)


def test_plan_serialises_and_prints(watched: tuple[SamplingPlan, Observed], tmp_path: Path) -> None:
    result, _ = watched
    facts = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert facts["best"] == facts["choices"][[c == result.best for c in result.choices].index(True)]
    assert facts["target"] == {"nrmse": None, "psnr": 20.0}
    assert len(facts["assumptions"]) == 4
    lines = str(result).splitlines()
    assert facts["rule"].split()[0] == "The"
    assert facts["rule"][:60] in str(result)
    assert facts["assumptions"][0][:60] not in str(result)
    assert facts["assumptions"][0][:60] in result.text(details=True)
    assert lines[0].startswith("Image every ")
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 100
    table = [line for line in lines if line.lstrip().startswith("1/")]
    assert sum("*" in line.split()[-1] for line in table) == 1
    with pytest.raises(AttributeError):
        result.sentence = ""  # type: ignore[misc]
    page = tmp_path / "plan.html"
    result.to_html(page)
    text = page.read_text()
    assert "data:image/png;base64," in text
    assert "http" not in text  # self-contained
    assert result.sentence in text
    assert [p.name for p in tmp_path.iterdir()] == ["plan.html"]
    with pytest.raises(tc.InputError, match=r"expected one of \.html"):
        result.to_html(tmp_path / "plan.pdf")


# --------------------------------------------------------------------------------------------- input and size


def test_a_large_pilot_is_cropped_to_its_middle(cells: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for shape, largest in (((94, 512, 712), 8), ((124, 86, 94), 4), ((300, 2048, 2048), 2), ((20, 3000, 10), 3)):
        block = pilot_block(shape, largest)
        kept = [s.stop - s.start for s in block]
        assert math.prod(kept) <= 1.05 * planning.pilot.PILOT_VOXELS
        assert kept[0] >= min(shape[0], 64)
        assert all(abs(s.start - (n - s.stop)) <= 1 for s, n in zip(block, shape, strict=True))
    monkeypatch.setattr(planning.pilot, "PILOT_VOXELS", 9 * 24 * 24)
    result = plan(cells.measured[:9], axial_factors=(2,))
    assert result.shape == (9, 24, 24)
    assert result.notes[0] == "The middle of the pilot was used, 9 x 24 x 24 of 9 x 32 x 32 voxels."


STACK = np.random.default_rng(8).uniform(10, 100, (9, 20, 22)).astype(np.float32)
INFINITE = STACK.copy()
INFINITE[1, 2, 3] = np.inf

BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "too few planes": (
        lambda: plan(STACK, axial_factors=(2, 8)), "9 planes is too small for axial factor 8, which needs 17: .* is 4"
    ),
    "lost in noise": (lambda: plan(STACK, axial_factors=(2,), noise=1e3), "above its noise, .* deviation 1e\\+03, as"),
    "two planes": (lambda: plan(STACK[:2], axial_factors=(1,)), "pilot of at least 3 planes, got 2"),
    "narrow": (lambda: plan(STACK[:, :7], axial_factors=(1,)), "at least 8 x 8 pixels, got 7 x 22"),
    "few voxels": (lambda: plan(STACK[:, :10, :10], axial_factors=(1,)), "at least 2000 measured voxels, got 900"),
    "nothing measured": (lambda: plan(np.full_like(STACK, np.nan), axial_factors=(2,)), "measured voxel, got none of"),
    "constant": (lambda: plan(np.ones_like(STACK), axial_factors=(2,)), "got the value 1 everywhere"),
    "infinite": (lambda: plan(INFINITE, axial_factors=(2,)), "finite values at measured voxels, got 1 infinite"),
    "two channels": (
        lambda: plan(np.stack([STACK, STACK]), axes="CZYX", axial_factors=(2,)), "one stack .* one channel and frame"
    ),
    "4-D without axes": (lambda: plan(np.stack([STACK, STACK])), "axes="),
    "factor zero": (lambda: plan(STACK, axial_factors=(0, 2)), "whole axial_factors of at least 1, got \\(0, 2\\)"),
    "factor 1.5": (lambda: plan(STACK, axial_factors=(1.5,)), "whole axial_factors"),  # type: ignore[arg-type]
    "no factor": (lambda: plan(STACK, axial_factors=()), "at least one number in axial_factors, got none"),
    "factor, not a sequence": (lambda: plan(STACK, axial_factors=2), "a sequence of numbers"),  # type: ignore[arg-type]
    "pixels above one": (lambda: plan(STACK, pixel_fractions=(1.2,)), "pixel_fractions above 0 and at most 1"),
    "exposure zero": (lambda: plan(STACK, exposure_factors=(0.0,)), "exposure_factors above 0 and at most 1"),
    "next to no pixels": (
        lambda: plan(STACK, axial_factors=(2,), pixel_fractions=(0.001,)), "axial factor 2 with 0.001 of the pixels"
    ),
    "too small to compare": (
        lambda: plan(STACK[:, :14, :16], axial_factors=(1, 2, 3, 4)), "at least 100 .* every choice leaves out, got"
    ),
    "target not positive": (lambda: plan(STACK, target_nrmse=0.0), "target_nrmse above 0, got 0.0"),
    "target not finite": (lambda: plan(STACK, target_psnr=math.nan), "finite number as target_psnr"),
    "negative noise": (lambda: plan(STACK, noise=-1.0), "noise 'auto' or a standard deviation"),
    "noise in words": (lambda: plan(STACK, noise="low"), "noise 'auto' or a standard"),  # type: ignore[arg-type]
    "negative seed": (lambda: plan(STACK, seed=-1), "at least 0 as seed, got -1"),
    "no repeats": (lambda: plan(STACK, repeats=0), "at least 1 as repeats, got 0"),
}  # fmt: skip


def test_a_small_pilot_is_planned_with_the_usual_factors_that_it_has_planes_for() -> None:
    cells = simulate_cells((8, 24, 24), cells=4, seed=1)
    result = plan(cells.measured)
    assert [choice.axial_factor for choice in result.choices] == [1, 2, 3]
    assert any("too few planes (8) to try every s-th one for s above 3" in note for note in result.notes)


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_line(case: str) -> None:
    make, expected = BAD[case]
    with pytest.raises(tc.InputError, match=expected) as caught:
        make()
    assert "\n" not in str(caught.value)


# -------------------------------------------------------------------------------------------- the command line


@pytest.fixture
def folder(tmp_path: Path, cells: Any) -> Path:
    np.save(tmp_path / "pilot.npy", cells.measured[:13])
    return tmp_path


def test_command_line_plans_and_writes_the_page(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("pilot.npy", "--axial-factors", "2,4", "--target-nrmse", "5", "--html", "page.html", "--json")
    assert call(monkeypatch, folder, "plan", *arguments) == 0
    out, err = capsys.readouterr()
    facts = json.loads(out)
    assert err == ""
    assert facts["best"]["axial_factor"] == 4
    assert facts["sentence"] in (folder / "page.html").read_text()
    assert sorted(p.name for p in folder.iterdir()) == ["page.html", "pilot.npy"]


def test_command_line_says_when_no_choice_is_good_enough(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, folder, "plan", "pilot.npy", "--axial-factors", "2", "--target-psnr", "90") == 0
    out, err = capsys.readouterr()
    assert out.startswith("No choice meets a PSNR of at least 90 dB; the best reachable is every second plane")
    assert err == ""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("none.npy",), "none.npy"),
        (("pilot.npy", "--axial-factors", "8"), "the largest possible is 6"),
        (("pilot.npy", "--axial-factors", "2,x"), "whole numbers separated by commas for --axial-factors, got '2,x'"),
        (("pilot.npy", "--pixel-fractions", "a"), "numbers separated by commas for --pixel-fractions"),
        (("pilot.npy", "--axial-factors", "2", "--exposure-factors", "2"), "exposure_factors"),
        (("pilot.npy", "--axial-factors", "2", "--noise", "much"), "--noise"),
        (("pilot.npy", "--axial-factors", "2", "--html", "page.pdf"), ".pdf"),
        (("pilot.npy", "--axial-factors", "2", "--html", "none/page.html"), "none"),
        (("pilot.npy", "--target-psnr", "nan", "--axial-factors", "2"), "target_psnr"),
        ((), "IN"),
    ],
)
def test_command_line_answers_bad_input_with_one_line(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    expected: str,
) -> None:
    assert call(monkeypatch, folder, "plan", *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert expected in err
    assert [p.name for p in folder.iterdir()] == ["pilot.npy"]


def test_an_interrupt_leaves_nothing_behind(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(planning.trials, "recover", interrupted)
    assert call(monkeypatch, folder, "plan", "pilot.npy", "--axial-factors", "2", "--html", "page.html") == 130
    assert capsys.readouterr() == ("", "tensorcell: interrupted; nothing was written\n")
    assert [p.name for p in folder.iterdir()] == ["pilot.npy"]


def test_a_page_that_cannot_be_written_leaves_the_old_one(
    watched: tuple[SamplingPlan, Observed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.html"
    page.write_text("older")

    def full(*_: Any) -> None:
        raise OSError(28, "no space left")

    monkeypatch.setattr("tensorcell.pages.os.replace", full)
    with pytest.raises(tc.InputError, match=r"page\.html: cannot be written: no space left"):
        replace(watched[0], notes=()).to_html(page)
    assert page.read_text() == "older"
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]
