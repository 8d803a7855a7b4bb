"""Noisy planes that are kept: how far the planes between are predicted from denoised ones, as left-out planes tell."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from problems import problem_of
from scipy import ndimage

import tensorcell as tc
from tensorcell.methods import denoised_planes
from tensorcell.methods.denoised_planes import Share, between_denoised, folds_of, in_common, share_denoised
from tensorcell.methods.kriging import between_by_kriging
from tensorcell.methods.protocol import Estimate, Gaps
from tensorcell.solvers import LocalOptions, NoiseModel, Status

FACTOR = 2


def cells(seed: int = 1) -> np.ndarray:
    """A stack without noise, wide along z."""
    found = tc.datasets.simulate_cells((21, 40, 40), cells=6, seed=seed)
    truth = ndimage.gaussian_filter1d(np.asarray(found.truth, np.float32), 2.0, axis=0)
    return (truth - truth.min()) / np.float32(np.ptp(truth))


def gaps_of(planes: np.ndarray, sigma: float, mask: np.ndarray | None = None) -> Gaps:
    """Planes of which every second of the wanted stack was measured, with the noise that is said to be theirs."""
    mask = np.ones(planes.shape, bool) if mask is None else mask
    problem = problem_of(planes, mask, keep=True)
    model = replace(problem.model, noise=NoiseModel.white(sigma))
    problem = replace(problem, model=model, options={**problem.options, LocalOptions: LocalOptions()})
    count = (len(planes) - 1) * FACTOR + 1
    estimate = Estimate(planes, np.full_like(planes, sigma), Status.COMPLETED, ())
    return Gaps(problem, estimate, np.arange(0.0, count, FACTOR), count)


def share_of(gaps: Gaps) -> Share:
    return share_denoised(gaps.problem, gaps.estimate.value, gaps.grid)


def squared(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.mean(np.square(a - b)))


def test_noise_of_kept_planes_is_hardly_passed_on() -> None:
    for seed in range(3):
        truth = cells(seed)
        planes = truth[::FACTOR] + np.float32(0.1) * np.random.default_rng(seed).standard_normal(
            truth[::FACTOR].shape
        ).astype(np.float32)
        before = planes.copy()
        gaps = gaps_of(planes, 0.1)
        filled, plain = between_denoised(gaps), between_by_kriging(gaps)
        assert squared(filled.volume[1::2], truth[1::2]) < 0.6 * squared(plain.volume[1::2], truth[1::2])
        inside = np.abs(filled.volume - truth)[1::2] <= 1.645 * filled.error[1::2]
        assert 0.8 < inside.mean() <= 1
        assert filled.notes[0].startswith("measured voxels are kept, and ")
        np.testing.assert_array_equal(planes, before)


def test_kept_planes_come_back_bit_for_bit() -> None:
    truth = cells()
    data = (truth[::FACTOR] + 0.1 * np.random.default_rng(0).standard_normal(truth[::FACTOR].shape)).astype(np.float32)
    found = tc.recover(data, axial_factor=FACTOR, rank=(4, 8, 8))
    kept = found.outliers == 0
    np.testing.assert_array_equal(found.volume.data[::FACTOR][kept], data[kept])
    assert sum(note.startswith("measured voxels are kept, and ") for note in found.notes) == 1


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_structure_that_is_taken_for_noise_is_left_in_the_planes(share: float) -> None:
    """Columns of one pixel look like noise in a plane. They go on along z, which noise does not."""
    rng = np.random.default_rng(4)
    texture = 0.1 * rng.standard_normal((1, 40, 40))
    noise = 0.1 * rng.standard_normal((11, 40, 40))
    planes = (cells()[::FACTOR] + (1 - share) * texture + share * noise).astype(np.float32)
    found = share_of(gaps_of(planes, 0.1))
    assert (found.value > 0.7) if share else (found.value < 0.1)


def test_noise_far_below_the_error_between_planes_costs_no_denoising(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(denoised_planes, "denoised", refused)
    rng = np.random.default_rng(5)
    planes = ndimage.gaussian_filter(rng.standard_normal((9, 32, 32)), (0, 2, 2)).astype(np.float32)
    assert share_of(gaps_of(planes, 0.01)) == Share(0.0)
    with pytest.raises(AssertionError):
        share_of(gaps_of(planes, 0.2))


def test_a_stopped_run_is_not_denoised(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(denoised_planes, "denoised", refused)
    planes = np.random.default_rng(9).standard_normal((9, 24, 24)).astype(np.float32)
    gaps = gaps_of(planes, 1.0)
    gaps = gaps._replace(estimate=gaps.estimate._replace(status=Status.STOPPED))
    np.testing.assert_array_equal(between_denoised(gaps).volume, between_by_kriging(gaps).volume)


def test_too_few_planes_to_judge_keep_their_noise() -> None:
    planes = np.random.default_rng(6).standard_normal((4, 24, 24)).astype(np.float32)
    assert share_of(gaps_of(planes, 1.0)) == Share(0.0)


def test_unmeasured_voxels_do_not_judge() -> None:
    """Whatever stands where nothing was measured is no truth."""
    rng = np.random.default_rng(7)
    planes, mask = rng.standard_normal((9, 24, 24)), rng.random((9, 24, 24)) < 0.7
    folds = folds_of(planes, mask, np.arange(0.0, 17, FACTOR), NoiseModel.white(0.5))
    for first, fold in enumerate(folds):
        told = mask[first + 1 : 8 : 2]
        np.testing.assert_array_equal(fold.told, told)
        assert not fold.errors[~told].any()
        np.testing.assert_array_equal(fold.errors[told], (planes[first + 1 : 8 : 2] - fold.kept)[told])
    assert len(folds) == 2


def test_what_neighbouring_planes_share_is_counted_by_hand() -> None:
    rng = np.random.default_rng(8)
    for count in (6, 7):
        planes, known = rng.standard_normal((count, 3, 4)), rng.random((count, 3, 4)) < 0.7
        planes[~known] = 0
        product = norm = 0.0
        for lower in range(count - 1):
            both = known[lower] & known[lower + 1]
            product += float(np.sum(planes[lower] * planes[lower + 1]))
            norm += float(np.sum(((planes[lower] ** 2 + planes[lower + 1] ** 2) / 2)[both]))
        found = in_common((planes[::2], known[::2]), (planes[1::2], known[1::2]))
        assert found == pytest.approx((product, norm))
