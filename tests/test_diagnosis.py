"""`diagnose`: verdicts of planted problems, what the report says and on what grounds, screen, page, exit status."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import call

import tensorcell as tc
from tensorcell.diagnosis import VERDICTS, Diagnosis, diagnose, in_axes
from tensorcell.solvers.rank_limits import degrees_of_freedom

KEYS = (
    "shape",
    "observed",
    "observed_ratio",
    "rank",
    "degrees_of_freedom",
    "effective_rank",
    "mode_coherence",
    "mu",
    "alpha",
    "lambda",
    "noise_sigma",
    "outliers",
    "bound_theorem1",
    "bound_theorem1_simplified",
    "bound_theorem2",
    "bound_theorem2_full",
    "empirical_threshold",
    "empty_slices",
    "empty_fibres",
    "min_slice_count",
    "mask_pattern",
    "verdict",
    "axial_verdict",
)
SHAPE = (18, 22, 26)
RANK = (2, 3, 3)


def read_only(array: np.ndarray) -> np.ndarray:
    copy = np.array(array)
    copy.setflags(write=False)
    return copy


def bad_value(report: Diagnosis) -> list[str]:
    """Keys whose numbers are not finite."""
    numbers = {k: v for k, v in report.to_dict().items() if isinstance(v, float)}
    return [k for k, v in numbers.items() if not math.isfinite(v)]


# -------------------------------------------------------------------------------------------------- known cases


def test_report_has_all_keys_and_json_holds_them(planted: Callable[..., Any]) -> None:
    problem = planted(SHAPE, RANK, seen=0.5, outliers=0.03, noise=0.05, seed=1)
    report = diagnose(problem.data)
    content = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert set(KEYS) <= set(content)
    assert content["shape"] == list(SHAPE)
    assert content["observed"] == problem.mask.sum()
    assert content["observed_ratio"] == pytest.approx(problem.mask.mean(), abs=1e-15)
    assert content["rank"] == list(RANK)
    assert content["degrees_of_freedom"] == degrees_of_freedom(RANK, SHAPE)
    assert content["mask_pattern"] == "uniform"
    # off by 10 standard deviations: noise of .05 imitates none, and where outliers are neighbours one may hide another
    assert content["outliers"] == pytest.approx(np.count_nonzero(problem.support), rel=0.02)
    # noise was drawn with .05; the fit stops early and outliers are out, so 10 % either way
    assert content["noise_sigma"] == pytest.approx(0.05, rel=0.1)


def test_each_number_says_how_it_was_obtained(planted: Callable[..., Any]) -> None:
    report = diagnose(planted(SHAPE, RANK, seen=0.5, noise=0.05).data)
    content = report.to_dict()
    words = {"verdict", "axial_verdict"}  # these are explained in ``reasons``
    missing = [key for key in KEYS if key not in words and not content["obtained"].get(key)]
    assert missing == []
    assert len(content["reasons"]) == 2


def test_coherence_and_bounds_are_those_of_the_planted_model(planted: Callable[..., Any]) -> None:
    problem = planted(SHAPE, RANK, seen=0.6, seed=3)
    report = diagnose(problem.data, rank=RANK)
    assert report.rank == RANK
    for mode, (size, rank, found) in enumerate(zip(SHAPE, RANK, report.coherence.mode, strict=True)):
        unfolded = np.moveaxis(problem.truth, mode, 0).reshape(size, -1)
        factor = np.linalg.svd(unfolded, full_matrices=False)[0][:, :rank]
        truth = size / rank * np.max(np.sum(factor**2, axis=1))
        assert found == pytest.approx(truth, rel=1e-2)  # a fit of a few iterations
    largest, r, log2 = max(SHAPE), max(RANK), math.log(max(SHAPE)) ** 2
    assert report.bound.bound_theorem2_full == pytest.approx((r * largest**1.5 + r**2 * largest) * log2)


def test_plenty_of_samples_is_likely_or_better(planted: Callable[..., Any]) -> None:
    report = diagnose(planted(SHAPE, RANK, seen=0.6).data)
    assert report.verdict in ("likely", "guaranteed")
    assert report.sampling.pattern == "uniform"


def test_fewer_samples_than_degrees_of_freedom_is_impossible_not_an_error(planted: Callable[..., Any]) -> None:
    problem = planted(SHAPE, RANK, seen=0.05, seed=2)
    report = diagnose(problem.data, rank=(15, 15, 15))
    assert report.observed < report.bound.degrees_of_freedom == degrees_of_freedom((15, 15, 15), SHAPE)
    assert report.verdict == "impossible"
    assert report.rank == (15, 15, 15)
    assert "the samples do not determine a larger one" in report.obtained["mu"]
    assert bad_value(report) == []


@pytest.mark.parametrize("observed", [1, 2, 5, 40, 90])
def test_a_handful_of_voxels_is_impossible(observed: int) -> None:
    rng = np.random.default_rng(observed)
    mask = np.zeros(SHAPE, bool)
    mask.ravel()[rng.choice(mask.size, observed, replace=False)] = True
    report = diagnose(rng.uniform(5, 9, SHAPE), mask)
    assert (report.verdict, report.observed) == ("impossible", observed)
    assert bad_value(report) == []
    assert len(str(report).splitlines()) <= 24


def test_planes_only_are_never_called_uniform_and_the_sentence_says_what_stands_in(planted: Callable[..., Any]) -> None:
    data = planted((12, 30, 36), RANK).data
    as_factor = diagnose(data, axial_factor=2)
    spread = np.full((23, 30, 36), np.nan)
    spread[::2] = data
    as_gaps = diagnose(spread)
    for report in (as_factor, as_gaps):
        assert report.shape == (23, 30, 36)
        assert report.observed == data.size
        assert (report.verdict, report.sampling.pattern) == ("impossible", "planes")
        assert report.sampling.empty_slices == (tuple(range(1, 23, 2)), (), ())
        text = report.text(details=True).replace("\n", " ") + json.dumps(report.to_dict())
        assert "uniform" not in report.summary + " ".join(report.reasons) + report.to_dict()["mask_sentence"]
        assert "11 of 23 planes were never measured" in text
        assert "smoothness along z takes the place of the theorem" in report.summary
        assert report.answer.startswith("Every second plane is ")
        assert report.summary.count(".") == 1  # one sentence ...
        assert "impossible" in report.summary  # ... with both verdicts
    assert as_factor.rank == as_gaps.rank
    assert as_factor.coherence == as_gaps.coherence
    assert as_factor.axial_verdict == as_gaps.axial_verdict


@pytest.mark.parametrize("axis", [1, 2])
def test_an_empty_row_or_column_is_impossible_and_interpolation_stands_in(
    planted: Callable[..., Any], axis: int
) -> None:
    data = np.moveaxis(planted(SHAPE, RANK, seen=0.8).data.copy(), axis, 0)
    data[4] = np.nan
    report = diagnose(np.moveaxis(data, 0, axis))
    assert report.verdict == "impossible"
    assert f"lateral interpolation stands in for the {['rows', 'columns'][axis - 1]}" in report.summary
    assert report.sampling.empty_slices[axis] == (4,)


def test_planes_beyond_the_measured_ones_are_not_resolved() -> None:
    z, y, x = np.ogrid[:40, :24, :24]
    smooth = 10 + np.sin(z / 9.0) * np.cos(y / 3.0) + 0.2 * np.cos(x / 2.0) * np.cos(z / 7.0)
    smooth = smooth + 1e-3 * np.random.default_rng(0).standard_normal(smooth.shape)
    inside, outside = np.ones(smooth.shape, bool), np.ones(smooth.shape, bool)
    inside[17], outside[30:] = False, False
    assert diagnose(smooth, outside, rank=3).axial_verdict != "resolved"
    assert "impossible" in diagnose(smooth, inside, rank=3).summary


def test_non_uniform_sampling_is_never_guaranteed(planted: Callable[..., Any]) -> None:
    problem = planted((40, 40, 40), (1, 1, 1))
    half = np.random.default_rng(0).random((40, 40, 40)) < np.linspace(0.5, 1, 40)  # denser and denser along x
    report = diagnose(problem.truth, half, rank=1)
    assert report.observed > report.bound.bound_theorem2_full
    assert report.sampling.pattern not in ("full", "uniform")
    assert report.verdict == "likely"


def test_spacing_and_step_are_those_of_the_wanted_stack(planted: Callable[..., Any]) -> None:
    data = planted((12, 30, 36), RANK).data
    report = diagnose(data, axial_factor=3, spacing=(0.9, 0.2, 0.1), rank=2)
    assert report.spacing == pytest.approx((0.3, 0.2, 0.1))
    assert report.axial_band.unit == "um"
    assert report.axial_step == pytest.approx(0.9)
    gaps = np.full((11, 30, 36), np.nan)
    gaps[[0, 1, 4, 10]] = data[:4]
    assert diagnose(gaps, spacing=(0.5, 0.2, 0.1), rank=2).axial_step == pytest.approx(6 * 0.5)
    assert diagnose(gaps, rank=2).axial_step == 6  # in planes


def test_optics_limit_is_mccutchens(planted: Callable[..., Any]) -> None:
    data = planted((12, 30, 36), RANK).data
    content = diagnose(data, rank=2, spacing=(0.5, 0.2, 0.2), na=0.8, wavelength=0.52, refractive_index=1.33).to_dict()
    assert content["axial_optics_limit"] == pytest.approx((1.33 - math.sqrt(1.33**2 - 0.8**2)) / 0.52)


# -------------------------------------------------------------------------------------------------- invariances


def compared(report: Diagnosis) -> dict[str, Any]:
    content = report.to_dict()
    return {key: content[key] for key in KEYS}


def test_unit_does_not_matter(planted: Callable[..., Any]) -> None:
    data = planted(SHAPE, RANK, seen=0.5, outliers=0.02, noise=0.02).data
    one, other = compared(diagnose(data)), compared(diagnose(1e6 * data))
    assert other.pop("noise_sigma") == pytest.approx(1e6 * one.pop("noise_sigma"), rel=1e-4)  # sweeps run in float32
    for key, value in one.items():
        if isinstance(value, float) or key == "mode_coherence":
            assert other[key] == pytest.approx(value, rel=1e-4), key
        else:
            assert other[key] == value, key


def test_order_of_axes_does_not_matter_for_uniform_masks(planted: Callable[..., Any]) -> None:
    data = planted(SHAPE, RANK, seen=0.5, noise=0.02).data
    order = (2, 0, 1)
    one, other = diagnose(data), diagnose(np.transpose(data, order))
    assert other.rank == tuple(one.rank[axis] for axis in order)
    assert other.verdict == one.verdict
    assert other.bound.degrees_of_freedom == one.bound.degrees_of_freedom
    # fits stop after a few iterations that take the modes in turn
    turned = [one.coherence.mode[axis] for axis in order]
    assert other.coherence.mode == pytest.approx(turned, rel=0.02)


def test_nan_is_the_same_as_a_mask_and_garbage_under_it_changes_nothing(planted: Callable[..., Any]) -> None:
    problem = planted(SHAPE, RANK, seen=0.5, noise=0.02)
    garbage = np.where(problem.mask, problem.data, np.random.default_rng(1).choice([1e30, -7.0, np.inf], SHAPE))
    given = read_only(problem.data), read_only(garbage), read_only(problem.mask)
    first = diagnose(given[0]).to_dict()
    assert diagnose(given[1], given[2]).to_dict() == first
    masked = tc.Volume(given[1], mask=given[2])
    assert diagnose(masked).to_dict() == first


def test_volume_axes_and_integers_are_taken(planted: Callable[..., Any]) -> None:
    counts = np.clip(100 + 20 * planted(SHAPE, RANK).truth, 0, 255).astype(np.uint8)
    one = diagnose(tc.Volume(read_only(counts)), rank=4)
    turned = tc.Volume(read_only(np.transpose(counts, (1, 2, 0))), axes="YXZ")
    assert diagnose(turned, rank=4).to_dict() == one.to_dict()


def test_a_channel_without_samples_does_not_lose_the_others(planted: Callable[..., Any], tmp_path: Path) -> None:
    good = planted(SHAPE, RANK, seen=0.8).data
    report = diagnose(np.stack([good, good * np.nan]), axes="CZYX", rank=RANK)
    content = report.to_dict()
    assert list(content["not_diagnosed"]) == ["C=1"]
    assert report.notes[0].startswith("C=1 could not be diagnosed: expected at least one measured voxel")
    assert report.reasons == diagnose(good, rank=RANK).reasons
    report.to_html(tmp_path / "page.html")
    assert "not diagnosed" in (tmp_path / "page.html").read_text()


def test_blocks_of_one_value_are_said_and_can_be_declared_missing(planted: Callable[..., Any]) -> None:
    data = planted(SHAPE, RANK).data.copy()
    data[14:] = 0
    report = diagnose(data, rank=RANK)
    assert "have the exact value 0 (planes 14-17)" in report.notes[0]
    declared = diagnose(data, rank=RANK, missing_value=0)
    assert declared.sampling.empty_slices[0] == (14, 15, 16, 17)
    assert not any("exact value" in note for note in declared.notes)


def test_channels_are_diagnosed_one_by_one_and_the_worst_is_on_top(planted: Callable[..., Any]) -> None:
    good, bad = planted(SHAPE, RANK, seen=0.8).data, planted(SHAPE, RANK, seen=0.9).data.copy()
    bad[3] = np.nan
    report = diagnose(np.stack([good, bad]), axes="CZYX", rank=RANK)
    content = report.to_dict()
    assert (report.label, report.verdict) == ("C=1", "impossible")
    assert [part["label"] for part in content["stacks"]] == ["C=0", "C=1"]
    assert content["stacks"][0]["verdict"] in ("likely", "guaranteed")
    alone = diagnose(bad, rank=RANK).to_dict()
    assert {k: v for k, v in content.items() if k not in ("stacks", "label")} == {
        k: v for k, v in alone.items() if k != "label"
    }
    assert "C=1, the worst of 2" in str(report)
    assert len(str(report).splitlines()) <= 24


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_constant_stack(value: float) -> None:
    report = diagnose(np.full(SHAPE, value))
    assert report.rank == (1, 1, 1)
    assert report.verdict in ("likely", "guaranteed")
    assert report.coherence.mode == pytest.approx((1, 1, 1), abs=1e-12)  # rounding
    assert (report.noise_sigma, report.outliers, report.axial_verdict) == (0.0, 0, "unknown")


def test_given_noise_and_rank_are_said_to_be_given(planted: Callable[..., Any]) -> None:
    report = diagnose(planted(SHAPE, RANK).data, noise=0.25, rank=4)
    assert (report.rank, report.noise_sigma) == ((4, 4, 4), 0.25)
    assert report.obtained["rank"] == report.obtained["noise_sigma"] == "given"


def test_blocks_have_their_ranks(planted: Callable[..., Any]) -> None:
    report = diagnose(planted((32, 32, 64), (2, 2, 2), noise=0.01).data, blocks=True)
    assert report.to_dict()["block_ranks"] == [[2, 2, 2], [2, 2, 2]]
    assert "in 2 blocks" in str(report)


# --------------------------------------------------------------------------------------------- screen and page


def test_screen_has_the_answer_first_and_fits(planted: Callable[..., Any]) -> None:
    for keywords in ({}, {"axial_factor": 4}, {"spacing": (0.5, 0.1, 0.1), "na": 1.2, "wavelength": 0.5,
                                               "refractive_index": 1.33, "blocks": True}):  # fmt: skip
        report = diagnose(planted(SHAPE, RANK, noise=0.1).data, rank=RANK, **keywords)
        lines = str(report).splitlines()
        assert len(lines) <= 24
        assert max(map(len, lines)) <= 96
        assert str(report).replace("\n", " ").startswith(report.answer)
        assert f"(low-rank model {report.verdict}, planes {report.axial_verdict})" in str(report)
        assert report.verdict in report.summary
        assert report.axial_verdict in report.summary
        for theory in ("rank ", "tensor", "theorem", "coherence"):
            assert theory not in report.answer


def test_details_hold_the_theory_that_the_screen_does_not(planted: Callable[..., Any]) -> None:
    report = diagnose(planted(SHAPE, RANK, seen=0.6, noise=0.1).data, rank=RANK)
    words = ("Coherence.", "theorem 2 (C = 1)", "degrees of freedom", report.details[0][:40])
    assert not any(word in str(report) for word in words)
    details = report.text(details=True)
    assert all(word in details for word in words)
    assert details.index(report.answer[:40]) < details.index("Details") < details.index("Coherence.")
    assert max(map(len, details.splitlines())) <= 96


def smooth(planes: int = 33) -> np.ndarray:
    """A stack that changes slowly along z, with a little noise."""
    z, y, x = np.ogrid[:planes, :24, :24]
    waves = 10 + np.sin(z / 9.0) * np.cos(y / 3.0) + 0.2 * np.cos(x / 2.0) * np.cos(z / 7.0)
    return np.asarray(waves + 1e-3 * np.random.default_rng(0).standard_normal(waves.shape))


def test_answer_says_what_planes_carry_and_what_they_lose() -> None:
    stack, white = smooth(), np.random.default_rng(1).standard_normal((33, 24, 24))
    gaps = stack.copy()
    gaps[1::2] = np.nan
    assert diagnose(stack, rank=3, axial_factor=2, spacing=(0.6, 0.2, 0.2)).answer == (
        "Every second plane is enough for structures above 1.2 um along z; finer ones would be blurred, and this stack "
        "shows none."
    )
    assert diagnose(gaps, rank=3).answer.startswith(
        "Every second plane is enough for structures above 4 voxels of the given stack along z; "
    )
    assert diagnose(white, rank=3, axial_factor=3, spacing=(0.6, 0.2, 0.2), noise=0.01).answer == (
        "Every third plane is not enough for this stack: structures above 1.2 um along z come back, but it has finer "
        "ones, which will be blurred."
    )
    beyond = np.where(np.arange(33)[:, None, None] < 30, stack, np.nan)
    assert diagnose(beyond, rank=3).answer.endswith(
        "; the 3 planes beyond the measured ones will hold no more than a guess."
    )


def test_answer_says_what_pixels_are_enough_for(planted: Callable[..., Any]) -> None:
    enough = diagnose(planted(SHAPE, RANK, seen=0.6).data, rank=RANK)
    assert enough.answer.startswith(
        f"{100 * enough.observed_ratio:.3g} % of the voxels were measured, which is likely "
    )
    few = diagnose(planted(SHAPE, RANK, seen=0.05, seed=2).data, rank=(15, 15, 15))
    assert "far from enough: the gaps will hold no more than a smooth guess" in few.answer
    column = planted(SHAPE, RANK).data.copy()
    column[:, :, 4] = np.nan
    assert diagnose(column, rank=RANK).answer.startswith("1 of 26 columns were measured in no plane; they are ")
    assert diagnose(smooth(), rank=3).answer.startswith(
        "Every voxel was measured, so that only noise has to be removed"
    )


def test_verdict_on_planes_left_out_can_be_reached() -> None:
    """Low rank alone is impossible where planes are missing; smooth planes that are close enough are likely."""
    rng = np.random.default_rng(5)
    stack = smooth()
    close = diagnose(stack, rank=3, axial_factor=2)
    assert (close.verdict, close.axial_verdict) == ("impossible", "resolved")
    assert (close.planes_verdict, close.overall_verdict) == ("guaranteed", "likely")
    holes = diagnose(stack, rng.random(stack.shape) < 0.005, rank=3, axial_factor=2)
    assert holes.overall_verdict == holes.planes_verdict == "impossible"  # a hundred voxels for 243 unknowns
    wide = diagnose(rng.standard_normal((33, 24, 24)), rank=3, axial_factor=2, noise=0.01)
    assert (wide.axial_verdict, wide.overall_verdict) == ("aliased", "impossible")
    whole = diagnose(stack, rank=3)
    assert whole.overall_verdict == whole.verdict


@pytest.mark.parametrize(
    ("planes", "rows", "columns", "lateral"),
    [
        (False, [7, 15], [], "resolved"),
        (True, [], [11], "resolved"),
        (False, [0, 1], [], "unknown"),  # nothing lies beyond them
        (True, [*range(4, 16)], [], "unknown"),  # as wide as the waves
    ],
)
def test_verdict_on_rows_and_columns_left_out_can_be_reached(
    planes: bool, rows: list[int], columns: list[int], lateral: str
) -> None:
    mask = np.ones((33, 24, 24), bool)
    mask[:, rows], mask[:, :, columns] = False, False
    if planes:
        mask[1::2] = False
    report = diagnose(smooth(), mask, rank=3)
    assert (report.verdict, report.lateral_verdict) == ("impossible", lateral)
    assert report.overall_verdict == {"resolved": "likely", "unknown": "unlikely"}[lateral]
    assert f", rows {lateral})" in str(report)


def test_rows_left_out_of_white_noise_are_not_called_close_enough() -> None:
    mask = np.ones((33, 24, 24), bool)
    mask[:, 1:-1:2] = False
    white = np.random.default_rng(1).standard_normal(mask.shape)
    assert diagnose(white, mask, rank=3, noise=0.01).overall_verdict in ("impossible", "unlikely")


def test_in_axes_names_the_axes() -> None:
    assert in_axes("half of mode 2, mode-0 unfolding") == "half along x, z unfolding"


def page_of(report: Diagnosis, folder: Path) -> str:
    report.to_html(folder / "page.html")
    assert [p.name for p in folder.iterdir()] == ["page.html"]
    return (folder / "page.html").read_text()


def test_page_is_self_contained(planted: Callable[..., Any], tmp_path: Path) -> None:
    report = diagnose(planted((32, 32, 64), RANK, noise=0.1).data, blocks=True)
    page = page_of(report, tmp_path)
    images = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert not re.search(r"http|src|fetch|import", script)  # the switch between light and dark
    plain = re.sub(r"base64,[^\"]+", "", page.replace(script, ""))
    assert not re.search(r"http|//|<script |<link|@import|url\(", plain)
    assert len(images) == page.count("<img") == 5  # ladder, spectra, slices, along z, blocks
    assert all(base64.b64decode(image).startswith(b"\x89PNG") for image in images)
    assert "How to read this" in page
    assert "What the theorem does not cover" in page
    assert report.answer in page
    assert report.summary in page
    assert all(key in page for key in ("bound_theorem2_full", "min_slice_count", "noise_sigma"))


def test_page_of_the_least_there_can_be(tmp_path: Path) -> None:
    mask = np.zeros(SHAPE, bool)
    mask[3, 4, 5] = True
    page = page_of(diagnose(np.ones(SHAPE), mask), tmp_path)
    assert page.count("<img") == 2  # no spectra, no frequencies


def test_page_escapes_names(planted: Callable[..., Any], tmp_path: Path) -> None:
    volume = tc.Volume(planted(SHAPE, RANK).data, metadata={"source": "<script>alert(1)</script>.tif"})
    page = page_of(diagnose(volume, rank=2), tmp_path)
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page


def test_page_of_several_stacks_lists_all(planted: Callable[..., Any], tmp_path: Path) -> None:
    data = np.stack([planted(SHAPE, RANK, seed=seed).data for seed in (0, 1)])
    page = page_of(diagnose(data, axes="TZYX", rank=RANK), tmp_path)
    assert "T=0" in page
    assert "T=1" in page


def test_page_is_not_left_half_written(planted: Callable[..., Any], tmp_path: Path) -> None:
    report = diagnose(planted(SHAPE, RANK).data, rank=2)
    with pytest.raises(tc.InputError, match=r"suffix '.pdf' is unknown"):
        report.to_html(tmp_path / "page.pdf")
    with pytest.raises(tc.InputError, match="none"):
        report.to_html(tmp_path / "none" / "page.html")
    assert list(tmp_path.iterdir()) == []


# ----------------------------------------------------------------------------------------------------- bad input

WHOLE = np.random.default_rng(0).uniform(1, 9, SHAPE)
INFINITE = np.where(np.arange(SHAPE[2]) == 5, np.inf, WHOLE)

BAD: dict[str, tuple[Any, dict[str, Any], str]] = {
    "nothing observed": (np.full(SHAPE, np.nan), {}, "at least one measured voxel"),
    "mask with nothing observed": (WHOLE, {"mask": np.zeros(SHAPE, bool)}, "at least one measured voxel"),
    "infinite": (INFINITE, {}, "finite values at measured voxels, got 396 infinite"),
    "rank above its mode": (WHOLE, {"rank": (19, 5, 5)}, "rank 19 along z is larger than the size of z, 18"),
    "rank above the others": (WHOLE, {"rank": (7, 3, 2)}, "rank 7 along z is larger than the product of the other two"),
    "two ranks": (WHOLE, {"rank": (2, 3)}, "rank has 2 entries"),
    "no rank": (WHOLE, {"rank": 0}, "at least 1 as rank"),
    "noise": (WHOLE, {"noise": -1.0}, "expected noise"),
    "noise not finite": (WHOLE, {"noise": math.nan}, "expected noise"),
    "noise by another name": (WHOLE, {"noise": "much"}, "expected noise"),
    "axial factor": (WHOLE, {"axial_factor": 1.5}, "whole number of at least 1 as axial factor, got 1.5"),
    "seed": (WHOLE, {"seed": -1}, "whole number of at least 0 as seed, got -1"),
    "aperture above the index": (WHOLE, {"na": 1.4, "wavelength": 0.5, "refractive_index": 1.33}, "index 1.33"),
    "optics in part": (WHOLE, {"na": 0.5}, "wavelength and refractive_index not given"),
    "one plane": (WHOLE[:1], {}, "at least 2 planes"),
    "4-D without axes": (WHOLE[None], {}, "axes"),
    "channels": (np.stack([WHOLE * np.nan] * 2), {"axes": "CZYX", "rank": 2}, "C=0: expected at least one"),
    "missing value": (WHOLE, {"missing_value": "zero"}, "expected a number as missing value, got 'zero'"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_line(case: str) -> None:
    data, keywords, expected = BAD[case]
    with pytest.raises(tc.InputError, match=re.escape(expected)) as error:
        diagnose(data, **keywords)
    assert "\n" not in str(error.value)


# -------------------------------------------------------------------------------------------------- command line


@pytest.fixture
def folder(tmp_path: Path, planted: Callable[..., Any]) -> Path:
    problem = planted(SHAPE, RANK, seen=0.5, noise=0.02)
    np.save(tmp_path / "in.npy", np.where(problem.mask, problem.data, 0))
    np.save(tmp_path / "mask.npy", problem.mask)
    return tmp_path


def test_command_prints_one_json_object(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("in.npy", "--mask", "mask.npy", "--rank", "2,3,3", "--spacing", "0.5,0.2,0.2", "--json")
    optics = ("--na", "0.8", "--wavelength", "0.52", "--refractive-index", "1.33")
    before = (folder / "in.npy").read_bytes()
    assert call(monkeypatch, folder, "diagnose", *arguments, *optics, "--html", "page.html") == 0
    out, err = capsys.readouterr()
    content = json.loads(out)
    assert err == ""
    assert content["rank"] == [2, 3, 3]
    assert set(KEYS) <= set(content)
    assert content["axial_optics_limit"] > 0
    assert "data:image/png" in (folder / "page.html").read_text()
    assert (folder / "in.npy").read_bytes() == before
    assert sorted(p.name for p in folder.iterdir()) == ["in.npy", "mask.npy", "page.html"]


def test_command_prints_the_screen(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, folder, "diagnose", "in.npy", "--mask", "mask.npy", "--rank", "3") == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "% of the voxels were measured, " in out.splitlines()[0]
    assert len(out.splitlines()) <= 24
    assert call(monkeypatch, folder, "diagnose", "in.npy", "--mask", "mask.npy", "--rank", "3", "--details") == 0
    assert "\nDetails\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("--fail-under", "likely", "--axial-factor", "2"), 3),  # what lies between 18 noisy planes is unknown
        (("--fail-under", "unlikely"), 0),
        (("--fail-under", "likely"), 0),
        (("--axial-factor", "2"), 0),
        (("--fail-under", "maybe"), 2),
        (("--fail-under", "impossible"), 2),
        (("--na", "2", "--wavelength", "0.5", "--refractive-index", "1.3"), 2),
        (("--html", "page.png"), 2),
        (("--html", "in.npy"), 2),
        (("--rank", "40"), 2),
    ],
)
def test_exit_status(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    status: int,
) -> None:
    files = sorted(folder.iterdir())
    assert call(monkeypatch, folder, "diagnose", "in.npy", "--mask", "mask.npy", "--rank", "2", *arguments) == status
    out, err = capsys.readouterr()
    assert (err.count("\n"), out == "") == ((1, True) if status == 2 else (0, False))
    assert sorted(folder.iterdir()) == files


def test_fail_under_compares_in_the_order_of_the_words(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert VERDICTS == ("impossible", "unlikely", "likely", "guaranteed")
    report = diagnose(np.load(folder / "in.npy"), np.load(folder / "mask.npy"), rank=RANK)
    found = report.verdict
    monkeypatch.setattr("tensorcell.diagnosis.diagnose", lambda *_, **__: report)  # once is enough
    for word in VERDICTS[1:]:
        status = call(
            monkeypatch, folder, "diagnose", "in.npy", "--mask", "mask.npy", "--rank", "2,3,3", "--fail-under", word
        )
        assert status == (3 if VERDICTS.index(found) < VERDICTS.index(word) else 0)


def test_fail_under_passes_planes_that_are_close_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "in.npy", smooth())
    report = diagnose(smooth(), rank=3, axial_factor=2)
    monkeypatch.setattr("tensorcell.diagnosis.diagnose", lambda *_, **__: report)  # once is enough
    for word, expected in (("unlikely", 0), ("likely", 0), ("guaranteed", 3)):
        assert (
            call(monkeypatch, tmp_path, "diagnose", "in.npy", "--axial-factor", "2", "--fail-under", word) == expected
        )


# -------------------------------------------------------------------------------------------------- real volumes


@pytest.mark.parametrize(
    ("name", "rank"),
    [("neuron_filament_sparse.tif", (8, 16, 16)), ("mouse_embryo_8cell_nuclei_confocal.tif", (10, 12, 12))],
)
def test_real_volumes(volumes_folder: Path, name: str, rank: Any) -> None:
    whole = tc.read(volumes_folder / name)
    report = diagnose(replace(whole, data=whole.data[:40, :80, :80]), rank=rank)
    content = report.to_dict()
    assert report.verdict in ("likely", "guaranteed")  # complete stacks
    assert content["source"]
    assert all(1 <= r <= size for r, size in zip(report.rank, report.shape, strict=True))
    assert report.outliers < 0.1 * report.observed
    assert bad_value(report) == []
    assert len(str(report).splitlines()) <= 24


def test_diagnose_lowers_the_verdict_where_the_model_holds_little() -> None:
    """A random walk through an empty stack is of no low rank, however many voxels were measured."""
    rng = np.random.default_rng(3)
    data = np.zeros((24, 40, 40), np.float32)
    walk = np.cumsum(rng.integers(-1, 2, (1000, 3)), axis=0) % data.shape
    data[tuple(walk.T)] = 200
    report = tc.diagnose(data, rank=(3, 3, 3))
    assert report.explained < 0.5
    assert report.verdict == "likely"  # every voxel was measured: the theorem alone would say "guaranteed"
    assert "explains only" in report.reasons[0]
    holes = tc.diagnose(data, rng.random(data.shape) < 0.8, rank=(3, 3, 3))
    assert holes.verdict == "unlikely"


def test_diagnose_says_what_share_a_model_of_the_right_rank_holds() -> None:
    """A planted tensor of rank 3 with 20 dB noise: its model holds all but the noise, one of rank 1 does not."""
    rng = np.random.default_rng(4)
    factors = [np.linalg.qr(rng.standard_normal((30, 3)))[0] for _ in range(3)]
    data = 500 * np.einsum("abc,ia,jb,kc->ijk", rng.standard_normal((3, 3, 3)), *factors)
    noisy = data + 0.1 * data.std() * rng.standard_normal(data.shape)
    sigma = 0.1 * data.std()  # given: of random factors no neighbours tell it
    assert tc.diagnose(noisy, rank=3, noise=sigma).explained > 0.995
    one = np.linalg.norm(np.linalg.svd(data.reshape(30, -1), compute_uv=False)[:1]) ** 2 / np.linalg.norm(data) ** 2
    assert (
        tc.diagnose(noisy, rank=1, noise=sigma).explained < one + 0.02
    )  # no rank-one model holds more than the best of mode z
