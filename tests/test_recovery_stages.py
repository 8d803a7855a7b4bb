"""What `recover` does around a method: planes put together, signs, kept voxels, places; methods here are made up."""

from __future__ import annotations

import dataclasses
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from problems import SIGMA, given, outliers_at, problem_of, waves

import tensorcell as tc
from tensorcell.fitting import TuckerOptions
from tensorcell.methods import table
from tensorcell.methods.kriging import between_by_kriging
from tensorcell.methods.protocol import Estimate, Filled, Gaps, Method, Problem
from tensorcell.plane_grid import PlaneGrid
from tensorcell.recovery import samples_of_all
from tensorcell.solvers import Status
from tensorcell.stack_recovery import HOW, decisions_first, doubt_zeros, fill_gaps, places_in_given, put_back


def method_of(value: float, samples: int = 0) -> Method:
    """A method that estimates the same value everywhere, and draws samples that lie 1, 2, ... above it."""

    def estimate(problem: Problem) -> Estimate:
        flat = np.full_like(problem.stack.values, value)
        drawn = np.stack([flat + 1 + number for number in range(samples)]) if samples else None
        return Estimate(flat, np.ones_like(flat), Status.COMPLETED, (), (), drawn)

    def between(gaps: Gaps) -> Filled:
        shape = (gaps.planes, *gaps.estimate.value.shape[1:])
        whole = np.full(shape, value, gaps.estimate.value.dtype)
        drawn = np.stack([whole + 1 + number for number in range(samples)]) if samples else None
        return Filled(whole, np.full(shape, 3.0), (), drawn)

    return Method(name="flat", summary="Flat.", options=(TuckerOptions,), estimate=estimate, between=between)


def recovered(monkeypatch: pytest.MonkeyPatch, method: Method, data: np.ndarray, **more: Any) -> tc.Recovery:
    monkeypatch.setitem(table.METHODS, "flat", method)  # type: ignore[arg-type]
    return tc.recover(data, method="flat", rank=(2, 2, 2), noise=more.pop("noise", "auto"), **more)


def small(low: float = 0.5) -> np.ndarray:
    """Half-measured intensities, none below `low`."""
    rng = np.random.default_rng(0)
    data = low + rng.random((6, 14, 15))
    data[rng.random(data.shape) < 0.5] = np.nan
    return data


@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize("samples", [0, 2])
def test_measured_voxels_come_back_in_the_result_and_in_every_sample(
    monkeypatch: pytest.MonkeyPatch, factor: int, samples: int
) -> None:
    data = small()
    result = recovered(monkeypatch, method_of(7.0, samples), data, axial_factor=factor)
    kept = PlaneGrid(6, Fraction(factor)).spread(~np.isnan(data))
    assert np.array_equal(result.measured, kept)
    values = np.nan_to_num(data)
    assert result.outlier_count == 0
    wholes = [result.volume.data, *(() if result.samples is None else result.samples)]
    assert len(wholes) == 1 + samples
    for number, whole in enumerate(wholes):
        np.testing.assert_array_equal(whole[kept], values[~np.isnan(data)])
        np.testing.assert_array_equal(whole[~kept], 7.0 + number)


@pytest.mark.parametrize(("low", "asked", "clipped"), [
    (0.5, "auto", True), (0.5, True, True), (0.5, False, False), (-0.5, "auto", False),
])  # fmt: skip
def test_negative_estimates_are_clipped_where_no_measured_voxel_is_negative(
    monkeypatch: pytest.MonkeyPatch, low: float, asked: Any, clipped: bool
) -> None:
    data = small(low)
    result = recovered(monkeypatch, method_of(-5.0, samples=2), data, nonnegative=asked)
    lacking = np.isnan(data)
    assert result.samples is not None
    for whole, value in ((result.volume.data, -5.0), (result.samples[0], -4.0), (result.samples[1], -3.0)):
        np.testing.assert_array_equal(whole[lacking], 0.0 if clipped else value)


def test_outliers_are_not_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    _, data, mask = waves(0.8)
    data[5, 16, 16], mask[5, 16, 16] = -500, True  # a single bright one might be signal
    result = recovered(monkeypatch, method_of(7.0), np.where(mask, data, np.nan))
    assert result.outliers[5, 16, 16] < -400
    assert result.volume.data[5, 16, 16] == 7
    assert any("are defects and were replaced" in note for note in result.notes)


def test_put_back_changes_inliers_only() -> None:
    _, data, mask = waves(0.8, planes=4)
    stack = given(data, mask)
    outliers = np.flatnonzero(mask)[::7]
    filled = Filled(np.zeros((10, 32, 32)), np.zeros((10, 32, 32)), (), np.zeros((2, 10, 32, 32)))
    put_back(stack, outliers, filled, PlaneGrid(4, Fraction(3)))
    inlier = mask.copy()
    inlier.ravel()[outliers] = False
    expected = np.zeros((10, 32, 32))
    expected[[0, 3, 6, 9]] = np.where(inlier, data, 0)
    assert filled.samples is not None
    for whole in (filled.volume, *filled.samples):
        np.testing.assert_array_equal(whole, expected)


@pytest.mark.parametrize("kept", [True, False])
def test_nothing_but_kept_voxels_has_no_error(kept: bool) -> None:
    """Planes 0 and 2 of four given ones are planes 0 and 3 of five; all others are estimates, and so are outliers."""
    _, data, mask = waves(0.8, planes=4)
    stack, outliers, error = given(data, mask), np.flatnonzero(mask)[::7], np.zeros((5, 32, 32))
    doubt_zeros(stack, outliers, Filled(error.copy(), error, ()), PlaneGrid(4, Fraction(3, 2)), kept=kept)
    inlier = mask.copy()
    inlier.ravel()[outliers] = False
    expected = np.full((5, 32, 32), data[mask].std())
    if kept:
        expected[[0, 3]] = np.where(inlier[[0, 2]], 0, expected[[0, 3]])
    np.testing.assert_allclose(error, expected, rtol=1e-12)


def test_places_in_given_count_the_planes_that_were_set_aside() -> None:
    _, data, mask = waves(0.9)
    mask[[0, 3, 4]] = False
    problem = problem_of(data, mask)
    wrong = np.array([[0, 5, 6], [1, 0, 0], [2, 31, 31], [8, 7, 9]])  # in the planes that were measured
    positions = np.ravel_multi_index(tuple(wrong.T), problem.stack.values.shape)
    model = dataclasses.replace(problem.model, outliers=outliers_at(positions))
    places = places_in_given(dataclasses.replace(problem, model=model), given(data, mask))
    expected = wrong.copy()
    expected[:, 0] = [1, 2, 5, 11]
    np.testing.assert_array_equal(np.stack(np.unravel_index(places, data.shape), axis=1), expected)


# ------------------------------------------------------------------------------- uncertainty between measured planes


def gaps_of(keep: bool) -> tuple[Gaps, np.ndarray]:
    """Six measured planes of which every other plane of the wanted stack lies between two, and their errors."""
    _, data, mask = waves(planes=6)
    problem = problem_of(data, mask, keep=keep)
    error = np.random.default_rng(0).uniform(0.5, 1.5, data.shape)
    estimate = Estimate(data, error, Status.COMPLETED, ())
    return Gaps(problem, estimate, np.arange(0.0, 11, 2), 11), error


def test_fill_gaps_adds_what_denoising_left_over_to_the_error_between_planes() -> None:
    """Their squares add up; halfway between two planes it is the mean square of the two, voxel by voxel."""
    gaps, error = gaps_of(keep=False)
    filled = fill_gaps(gaps, method_of(7.0))
    expected = np.sqrt(9 + (error[:-1] ** 2 + error[1:] ** 2) / 2)
    np.testing.assert_allclose(filled.error[1::2], expected, rtol=1e-12)
    np.testing.assert_array_equal(filled.error[::2], error)


def test_fill_gaps_carries_on_the_error_of_voxels_that_were_filled_in_kept_planes() -> None:
    gaps, error = gaps_of(keep=True)
    inlier = np.random.default_rng(1).random(error.shape) < 0.5
    problem = dataclasses.replace(gaps.problem, model=dataclasses.replace(gaps.problem.model, inlier=inlier))
    filled = fill_gaps(gaps._replace(problem=problem), method_of(7.0))
    square = np.where(inlier, 0, error**2)
    np.testing.assert_allclose(filled.error[1::2], np.sqrt(9 + (square[:-1] + square[1:]) / 2), rtol=1e-12)


def test_fill_gaps_carries_errors_to_planes_between_two_in_proportion_to_their_distances() -> None:
    """Planes given at 0, 1.5, 3, ...: plane 1 lies two thirds of the way to the second one, which is none of these."""
    gaps, error = gaps_of(keep=False)
    gaps = gaps._replace(grid=1.5 * np.arange(6), planes=8)
    assert gaps.spacing == 0
    filled = fill_gaps(gaps, method_of(7.0))
    np.testing.assert_array_equal(filled.error[::3], error[::2])
    for plane, (below, above), share in ((1, (0, 1), 2 / 3), (2, (1, 2), 1 / 3), (7, (4, 5), 2 / 3)):
        square = (1 - share) * error[below] ** 2 + share * error[above] ** 2
        np.testing.assert_allclose(filled.error[plane], np.sqrt(9 + square), rtol=1e-12)


def test_planes_are_a_whole_number_apart_or_none() -> None:
    gaps, _ = gaps_of(keep=True)
    assert gaps.spacing == 2
    assert not gaps.none
    assert gaps._replace(grid=np.arange(11.0)).none
    for grid, planes in (([0, 2.5, 5], 6), ([0, 2, 5], 6), ([2, 4, 6], 7), ([0, 2, 4], 6)):
        assert gaps._replace(grid=np.array(grid, float), planes=planes).spacing == 0


def test_fill_gaps_between_kept_planes_has_the_error_of_the_filling_alone() -> None:
    gaps, error = gaps_of(keep=True)
    filled = fill_gaps(gaps, method_of(7.0))
    np.testing.assert_array_equal(filled.error[1::2], 3.0)
    np.testing.assert_array_equal(filled.error[::2], error)


def test_planes_between_kept_ones_know_of_the_noise_of_the_planes_that_were_left_out() -> None:
    """Planes that were left out differ from their prediction by their own noise, too: it is taken off the error.

    Of planes that are said to be denoised nothing is taken off. In both cases intervals of 90 % hold the truth, and the
    measured planes are left as they are.
    """
    truth, data, _ = waves(planes=21)
    planes, errors = data[::2], np.full(data[::2].shape, SIGMA)
    mean, true = {}, {}
    for keep in (True, False):
        problem = problem_of(planes, np.ones(planes.shape, bool), keep=keep)
        filled = between_by_kriging(
            Gaps(problem, Estimate(planes, errors, Status.COMPLETED, ()), np.arange(0.0, 21, 2), 21)
        )
        np.testing.assert_array_equal(filled.volume[::2], planes)
        assert np.mean(np.abs(filled.volume - truth)[1::2] <= 1.645 * filled.error[1::2]) > 0.9
        mean[keep] = float(np.mean(filled.error[1::2] ** 2))
        true[keep] = float(np.mean((filled.volume - truth)[1::2] ** 2))
    # Noise that neighbours do not share is no error of the planes between; kept planes pass half of it on.
    assert true[True] < mean[True] < 4 * true[True]
    assert mean[True] < 0.5 * mean[False]


def test_samples_of_all_are_as_many_as_every_stack_has() -> None:
    out = np.arange(2 * 3 * 4 * 5, dtype=float).reshape(2, 3, 4, 5)
    three, two = np.full((3, 3, 4, 5), 7.0), np.full((2, 3, 4, 5), 8.0)
    both = samples_of_all([((0,), three), ((1,), two)], out, "CZYX")
    assert both is not None
    assert both.shape == (2, 2, 3, 4, 5)
    assert (both[:, 0] == 7).all()
    assert (both[:, 1] == 8).all()
    one = samples_of_all([((0,), three), ((1,), None)], out, "CZYX")
    assert one is not None
    assert len(one) == 3
    np.testing.assert_array_equal(one[2, 1], out[1])  # a stack without samples is the result in each
    assert samples_of_all([((0,), None), ((1,), None)], out, "CZYX") is None


def test_noisy_measured_planes_among_smooth_ones_are_told_and_can_be_denoised() -> None:
    cells = tc.datasets.simulate_cells((21, 40, 40), cells=6, seed=3)
    truth = np.asarray(cells.truth, np.float64)
    noise = 0.3 * truth.std() * np.random.default_rng(0).standard_normal(truth[::4].shape)
    kept = tc.recover(truth[::4] + noise, axial_factor=4)
    assert sum("(--no-keep-measured) denoises them" in note for note in kept.notes) == 1
    even = tc.recover(truth[::4] + noise, axial_factor=4, keep_measured=False)
    assert not any("keep_measured=False" in note for note in even.notes)
    rough = [
        np.abs(np.diff(result.volume.data, n=2, axis=2)).mean(axis=(1, 2)) for result in (kept, even)
    ]  # fine structure of each plane
    assert rough[0][::4].mean() > 2 * rough[1][::4].mean()
    between = np.delete(rough[1], np.arange(0, 21, 4))
    # Planes along the flow are means of pixels and a little smoother than what was denoised.
    assert 0.8 < rough[1][::4].mean() / between.mean() < 1.5
    clean = tc.recover(truth[::4], axial_factor=4)
    assert not any("keep_measured" in note for note in clean.notes)


@pytest.mark.parametrize("beginning", HOW)
def test_notes_on_how_it_was_done_are_those_that_are_written(beginning: str) -> None:
    """A note that begins otherwise now would come before what asks for a decision."""
    package = Path(tc.__file__).parent
    places = [*package.glob("*.py"), *package.glob("methods/*.py"), *package.glob("solvers/*.py")]
    written = re.compile(rf"""["']{re.escape(beginning)}[^"']""")
    assert any(written.search(place.read_text(encoding="utf-8")) for place in places)
    last = f"{beginning}so and so"
    assert decisions_first([last, "7 of 15 planes were not measured"])[1] == last
