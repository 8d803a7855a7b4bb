from __future__ import annotations

import dataclasses
import itertools
import math
import time
from typing import Any

import numba
import numpy as np
import pytest
from scipy import ndimage
from smooth_volumes import noise_like, rms, smooth

from tensorcell.solvers import LocalOptions, LocalState, Status, local_tucker
from tensorcell.solvers.kernels_local import factor, from_core, multiply, nearest, scratch_for, to_core
from tensorcell.solvers.local import OUTLIER
from tensorcell.solvers.local_problem import neighbour_mean
from tensorcell.solvers.patch_groups import (
    GUIDE_WIDTH,
    HARD,
    Geometry,
    corners_along,
    filtered,
    fitted,
    haar_matrix,
    halving_order,
    nearest_corners,
    offsets_within,
    references_used,
    smoothed,
    sums_arrays,
    sums_numba,
    window_of,
)

GEOMETRIES = (
    Geometry((4, 4, 4), (3, 3, 3), 8, 3),
    Geometry((2, 5, 3), (1, 4, 2), 16, 2),
    Geometry((1, 4, 4), (0, 3, 5), 4, 1),
    Geometry((3, 3, 3), (2, 2, 2), 1, 2),
)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("second", [False, True])
def test_the_kernel_equals_its_array_twin(geometry: Geometry, second: bool) -> None:
    data = smooth((9, 13, 11)) + 0.3 * np.random.default_rng(1).standard_normal((9, 13, 11)).astype(np.float32)
    pilot = smooth((9, 13, 11)) if second else None
    strength = 0.5 if second else 2.9
    for wanted in (None, np.random.default_rng(4).random(data.shape) < 0.01):
        used = references_used(wanted, data.shape, geometry)
        strengths = (strength, 2 * strength)
        kernel, arrays = (way(data, data, pilot, 0.3, strengths, geometry, used) for way in (sums_numba, sums_arrays))
        for ours, twin in zip(kernel, arrays, strict=True):
            assert np.allclose(ours, twin, rtol=2e-4, atol=2e-4 * np.abs(twin).max())  # float32, other order of sums


def test_without_judging_measured_voxels_the_missing_ones_alone_are_estimated() -> None:
    truth = smooth((10, 14, 14), 2)
    mask = np.ones(truth.shape, bool)
    mask[4, 7, 7] = mask[8, 3, 10] = False
    noisy = truth + noise_like(truth, 0.1, 3)
    found = local_tucker(noisy, mask, noise=0.1, robust=False, denoise=False)
    np.testing.assert_allclose(found.value[mask], noisy[mask], atol=1e-6)
    assert np.abs(found.value - truth)[~mask].max() < 0.3
    assert not found.spread[mask].any()


def test_references_used_are_those_whose_patch_holds_a_wanted_voxel() -> None:
    wanted = np.random.default_rng(0).random((5, 6, 7)) < 0.02
    geometry = Geometry((2, 3, 4), (1, 1, 1), 1, 1)
    used = references_used(wanted, wanted.shape, geometry)
    assert used.shape == (1, 4, 4, 4)
    for a, b, c in np.ndindex(used.shape[1:]):
        assert used[0, a, b, c] == wanted[a : a + 2, b : b + 3, c : c + 4].any()
    assert 0 < used.mean() < 1
    assert references_used(None, wanted.shape, geometry).all()


def test_filtered_estimates_wanted_voxels_by_the_groups_that_hold_them_and_leaves_others_as_the_guide() -> None:
    data = smooth((12, 12, 12)) + noise_like(smooth((12, 12, 12)), 0.3, 1)
    geometry = Geometry((3, 3, 3), (2, 2, 2), 1, 1)  # groups of one patch: an estimate does not reach further
    wanted = np.zeros(data.shape, bool)
    wanted[5, 6, 7] = True
    everywhere, spread = filtered(data, data, None, 0.3, 2.9, geometry)
    value, own_spread = filtered(data, data, None, 0.3, 2.9, geometry, wanted)
    assert value[wanted] == everywhere[wanted] != data[wanted]
    assert own_spread[wanted] == spread[wanted]
    np.testing.assert_array_equal(value[~wanted], data[~wanted])
    assert not own_spread[~wanted].any()


def test_groups_of_few_references_are_those_of_a_whole_pass() -> None:
    """Planes, rows and columns without a used reference are left out of the search, which must not move the others."""
    data = smooth((12, 14, 16)) + noise_like(smooth((12, 14, 16)), 0.3, 1)
    geometry = Geometry((3, 4, 5), (3, 3, 4), 8, 2)
    every = references_used(None, data.shape, geometry)
    expected = np.zeros_like(data)
    some = np.zeros_like(every)
    for corner in ((2, 4, 6), (2, 8, 2), (6, 0, 8)):
        one = np.zeros_like(every)
        one[0][corner] = some[0][corner] = True
        expected += sums_arrays(data, data, None, 0.3, (2.9,), geometry, one)[0][0]
    found = sums_numba(data, data, None, 0.3, (2.9,), geometry, some)[0][0]
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    assert not sums_numba(data, data, None, 0.3, (2.9,), geometry, np.zeros_like(every))[2].any()


def brute_force(data: np.ndarray, sigma: float, strength: float, geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """The first stage and its spread from their definition: each group by NumPy's SVD of the unfoldings, in float64."""
    patch, reach, size, step, *_ = geometry
    window = window_of(patch).reshape(patch).astype(float)
    total, squares, weights = np.zeros(data.shape), np.zeros(data.shape), np.zeros(data.shape)
    limits = [s - p for s, p in zip(data.shape, patch, strict=True)]

    def cut(corner: tuple[int, ...]) -> tuple[slice, ...]:
        return tuple(slice(c, c + p) for c, p in zip(corner, patch, strict=True))

    def compared(corner: tuple[int, ...], reference: tuple[int, ...]) -> bool:
        off = np.subtract(corner, reference)
        return bool(np.all(np.abs(off) <= 2) or np.all(off % 2 == 0))

    for corner in itertools.product(*(corners_along(s, p, step) for s, p in zip(data.shape, patch, strict=True))):
        ranges = [range(max(0, c - r), min(top, c + r) + 1) for c, r, top in zip(corner, reach, limits, strict=True)]
        own = data[cut(corner)].astype(float)
        others = sorted(
            (at for at in itertools.product(*ranges) if compared(at, corner)),
            key=lambda at: -1 if at == corner else ((data[cut(at)] - own) ** 2).sum(),
        )
        group = np.stack([data[cut(at)] for at in others[:size]]).astype(float)
        core = np.tensordot(haar_matrix(size), group, axes=1)
        factors = []
        for mode in (1, 2, 3):
            u = np.linalg.svd(np.moveaxis(group, mode, 0).reshape(patch[mode - 1], -1))[0]
            factors.append(u)
            core = np.moveaxis(np.tensordot(u.T, core, axes=(1, mode)), 0, mode)
        core[np.abs(core) <= strength * sigma] = 0
        weight = 1 / max(np.count_nonzero(core), 1)
        for mode, u in enumerate(factors, 1):
            core = np.moveaxis(np.tensordot(u, core, axes=(1, mode)), 0, mode)
        for at, estimate in zip(others[:size], np.tensordot(haar_matrix(size).T, core, axes=1), strict=True):
            total[cut(at)] += weight * window * estimate
            squares[cut(at)] += weight * window * estimate**2
            weights[cut(at)] += weight * window
    mean = total / weights
    return mean, np.sqrt(np.maximum(squares / weights - mean**2, 0))


def test_the_first_stage_is_what_its_definition_says() -> None:
    data = smooth((8, 9, 10)) + 0.3 * np.random.default_rng(2).standard_normal((8, 9, 10)).astype(np.float32)
    geometry = Geometry((3, 4, 3), (2, 2, 3), 8, 2)
    found, spread = filtered(data, data, None, 0.3, 2.9, geometry)
    value, disagreement = brute_force(data, 0.3, 2.9, geometry)
    # 3 % of the voxels may differ: a coefficient at the threshold falls on either side in float32
    assert np.mean(np.abs(found - value) < 1e-4) > 0.97
    assert np.mean(np.abs(spread - disagreement) < 1e-4 + 1e-2 * disagreement) > 0.97


def test_without_noise_the_filter_returns_the_data() -> None:
    data = smooth((10, 12, 14))
    found, spread = filtered(data, data, None, 0.0, 2.9, Geometry((4, 4, 4), (3, 3, 3), 16, 3))
    assert np.allclose(found, data, atol=2e-6)
    assert spread.max() < 1e-3


def test_the_result_does_not_depend_on_the_number_of_threads() -> None:
    data = smooth((40, 16, 16)) + 0.3 * np.random.default_rng(3).standard_normal((40, 16, 16)).astype(np.float32)
    geometry = Geometry((4, 4, 4), (3, 3, 3), 8, 3)
    before, everywhere = numba.get_num_threads(), references_used(None, data.shape, geometry)
    try:
        results = []
        for threads in (1, before):
            numba.set_num_threads(threads)
            results.append(sums_numba(data, data, None, 0.3, (2.9,), geometry, everywhere)[0])
    finally:
        numba.set_num_threads(before)
    assert np.array_equal(*results)


def test_a_tile_with_a_rim_gives_what_the_whole_gives() -> None:
    """The rim is what two passes can see: twice the reach and a patch each; tiles begin at multiples of the step."""
    data = smooth((24, 24, 90)) + 0.3 * np.random.default_rng(4).standard_normal((24, 24, 90)).astype(np.float32)
    geometry = Geometry((4, 4, 4), (3, 3, 3), 8, 3)

    def two_passes(v: np.ndarray) -> np.ndarray:
        first, _ = filtered(v, v, None, 0.3, 2.9, geometry)
        return filtered(v, first, first, 0.3, 1.0, geometry)[0]

    rim = 2 * 2 * (3 + 4)
    tile = two_passes(np.ascontiguousarray(data[..., : 40 + rim]))
    assert np.abs(two_passes(data)[..., :40] - tile[..., :40]).max() < 1e-6


def test_axes_may_be_exchanged() -> None:
    data = smooth((12, 12, 12)) + 0.3 * np.random.default_rng(5).standard_normal((12, 12, 12)).astype(np.float32)
    one = local_tucker(data, noise=0.3).value
    other = local_tucker(np.ascontiguousarray(data.transpose(2, 0, 1)), noise=0.3, seed=0).value.transpose(1, 2, 0)
    # the perturbation of Stein's estimate differs, and with it the weights by a few per cent
    assert np.sqrt(np.mean((one - other) ** 2)) < 0.02


def test_scale_and_offset_of_the_data_do_not_matter() -> None:
    data = smooth((12, 16, 16)) + 0.3 * np.random.default_rng(6).standard_normal((12, 16, 16)).astype(np.float32)
    plain = local_tucker(data, noise=0.3)
    moved = local_tucker(1000 * data.astype(np.float64) + 5e5, noise=300.0)
    # coefficients at the threshold fall on either side in float32: 0.5 % of the standard deviation on average
    assert np.sqrt(np.mean((moved.value - 1000 * plain.value - 5e5) ** 2)) < 5
    assert moved.predicted == pytest.approx(1000 * plain.predicted, rel=1e-2)
    for name in ("spread", "error"):
        assert rms(getattr(moved, name)) == pytest.approx(1000 * rms(getattr(plain, name)), rel=1e-2)


def test_denoising_beats_every_gaussian_filter_and_knows_its_error() -> None:
    z, y, x = np.mgrid[:24, :48, :48]
    balls = sum(
        ((z - a) ** 2 + (y - b) ** 2 + (x - c) ** 2 < 49) for a, b, c in ((8, 14, 12), (14, 32, 30), (10, 12, 36))
    )
    truth = ndimage.gaussian_filter(balls.astype(np.float32), 0.8)
    noisy = truth + 0.2 * np.random.default_rng(7).standard_normal(truth.shape).astype(np.float32)
    found = local_tucker(noisy, noise=0.2)
    error = found.value - truth
    blurred = min(np.mean((ndimage.gaussian_filter(noisy, w) - truth) ** 2) for w in (0.8, 1.0, 1.3, 1.6))
    assert np.mean(error**2) < 0.6 * blurred
    assert found.predicted == pytest.approx(np.sqrt(np.mean(error**2)), rel=0.5)
    assert found.error is not None
    assert 0.85 < np.mean(np.abs(error) < 1.645 * found.error) < 0.99
    assert sum(found.weights.values()) == pytest.approx(1)


def test_missing_voxels_and_outliers_are_completed() -> None:
    truth = smooth((20, 32, 32), width=1.5)
    rng = np.random.default_rng(8)
    mask = rng.random(truth.shape) < 0.5
    hit = mask & (rng.random(truth.shape) < 0.03)
    data = np.where(hit, truth + rng.choice([-6, 6], truth.shape), truth)
    data[~mask] = np.nan
    found = local_tucker(data, mask, noise=0.0, denoise=False)
    error = np.sqrt(np.mean((found.value - truth)[~mask] ** 2))
    clean = local_tucker(np.where(mask, truth, np.nan), mask, noise=0.0, denoise=False)
    blind = local_tucker(data, mask, noise=0.0, denoise=False, robust=False)
    assert error < 2 * np.sqrt(np.mean((clean.value - truth)[~mask] ** 2))
    assert error < 0.5 * np.sqrt(np.mean((blind.value - truth)[~mask] ** 2))
    flagged = found.outliers != 0
    assert flagged[hit].mean() > 0.95
    assert flagged[mask & ~hit].mean() < 0.02
    assert not flagged[~mask].any()
    assert len(found.history) == 6


def test_outliers_of_six_standard_deviations_are_found_and_ones_of_three_are_kept() -> None:
    """Judged by a good first guess; a poor one, made of the outliers too, follows them part of the way."""
    truth, sigma = smooth((16, 24, 24)), 0.1
    rng = np.random.default_rng(20)
    mask = rng.random(truth.shape) < 0.8
    drawn, signs = rng.random(truth.shape), rng.choice([-1, 1], truth.shape)
    six, three = mask & (drawn < 0.01), mask & (drawn > 0.99)
    noise = noise_like(truth, sigma, 21)
    noise[six], noise[three] = 6 * sigma * signs[six], 3 * sigma * signs[three]
    arguments = {"initial": truth, "levels": [sigma], "denoise": False}
    flagged = local_tucker(truth + noise, mask, noise=sigma, **arguments).outliers != 0
    assert flagged[six].mean() > 0.95
    assert flagged[three].mean() < 0.05
    assert flagged[mask & ~six & ~three].mean() < 0.001  # noise beyond 4.5 standard deviations of an estimate's error


def sweeps_of(data: np.ndarray, mask: np.ndarray, **arguments: Any) -> tuple[Any, list[LocalState]]:
    """A completion of four sweeps, and the states that its callback saw."""
    states: list[LocalState] = []
    options = LocalOptions(sweeps=4, group=8)
    found = local_tucker(data, mask, options=options, callback=lambda _, state: states.append(state), **arguments)
    return found, states


@pytest.fixture
def gaps() -> tuple[np.ndarray, np.ndarray]:
    """Noisy data about an offset with a few outliers, and a mask."""
    rng = np.random.default_rng(9)
    data = smooth((10, 12, 12)) + 3 + 0.1 * rng.standard_normal((10, 12, 12)).astype(np.float32)
    data[rng.random(data.shape) < 0.02] += 4
    return data, rng.random(data.shape) < 0.6


def test_all_sweeps_made_is_completed_and_each_has_a_record(gaps: Any) -> None:
    found, states = sweeps_of(*gaps, noise=0.1)
    assert found.status is Status.COMPLETED
    assert [record.iteration for record in found.history] == [state.sweep for state in states] == [1, 2, 3, 4]
    assert found.state is states[-1]
    assert all(array.dtype == np.float32 for state in states for array in state[:3])


@pytest.mark.parametrize("denoise", [False, True])
def test_a_stop_by_the_callback_returns_at_once_with_the_estimate_so_far(gaps: Any, denoise: bool) -> None:
    data, mask = gaps
    found = local_tucker(data, mask, noise=0.1, denoise=denoise, callback=lambda record, state: record.iteration == 2)
    assert len(found.history) == found.state.sweep == 2
    assert found.status is Status.STOPPED
    assert (found.error, found.weights) == (None, {})
    assert math.isnan(found.predicted)
    np.testing.assert_allclose(found.value, found.state.estimate + data[mask].mean(dtype=float), atol=1e-6)
    assert np.array_equal(found.outliers, found.state.outliers)


@pytest.mark.parametrize("stop", [1, 3, 4])
@pytest.mark.parametrize("robust", [False, True])
def test_going_on_equals_not_having_stopped(gaps: Any, stop: int, robust: bool) -> None:
    arguments = {"noise": 0.1, "robust": robust, "options": LocalOptions(sweeps=4, group=8)}
    straight = local_tucker(*gaps, **arguments)
    first = local_tucker(*gaps, callback=lambda record, state: record.iteration == stop, **arguments)
    before = [array.copy() for array in first.state[:3]]
    second = local_tucker(*gaps, initial_state=first.state, history=first.history, **arguments)
    for name in ("value", "spread", "error", "outliers"):
        assert np.array_equal(getattr(second, name), getattr(straight, name))
    assert second.status is straight.status is Status.COMPLETED
    timeless = [dataclasses.replace(record, seconds=0.0) for record in second.history]
    assert timeless == [dataclasses.replace(record, seconds=0.0) for record in straight.history]
    assert all(np.array_equal(*pair) for pair in zip(before, first.state[:3], strict=True))  # never written to


def test_records_hold_the_relative_residual_before_the_sweep_and_the_threshold_of_the_outliers(gaps: Any) -> None:
    data, mask = gaps
    found, states = sweeps_of(data, mask, noise=0.1)
    centre = data[mask].mean(dtype=float)
    for record, before, after in zip(found.history[1:], states, states[1:], strict=False):
        rest = (data - before.estimate - centre - before.outliers)[mask]
        assert record.residual == pytest.approx(np.linalg.norm(rest) / np.linalg.norm(data[mask]), rel=1e-4)
        far = np.abs(data - centre - after.estimate) > record.threshold
        assert record.outliers == np.count_nonzero(after.outliers) == np.count_nonzero(far & mask) > 0
    thresholds = np.array([record.threshold for record in found.history]) / OUTLIER
    assert thresholds[0] == pytest.approx(np.std(data[mask]) / 4, rel=1e-4)
    assert np.allclose(np.diff(np.log(thresholds)), np.log(thresholds[-1] / thresholds[0]) / 3)
    assert thresholds[-1] == pytest.approx(0.1)
    plain, _ = sweeps_of(data, mask, noise=0.1, robust=False)
    assert {(record.threshold, record.outliers) for record in plain.history} == {(0.0, 0)}


def test_records_do_not_depend_on_the_unit_of_the_data(gaps: Any) -> None:
    data, mask = gaps
    one, other = (sweeps_of(unit * data, mask, noise=unit * 0.1)[0].history for unit in (1.0, 1024.0))
    for ours, scaled in zip(one, other, strict=True):
        assert scaled.residual == pytest.approx(ours.residual, rel=1e-5)
        assert scaled.change == pytest.approx(ours.change, rel=1e-3)
        assert scaled.threshold == pytest.approx(1024 * ours.threshold, rel=1e-5)


def test_the_time_of_the_callback_does_not_count(gaps: Any) -> None:
    slept = 0.0

    def slow(record: Any, state: Any) -> bool:
        nonlocal slept
        began = time.perf_counter()
        time.sleep(0.1)
        slept += time.perf_counter() - began
        return record.iteration == 3

    began = time.perf_counter()
    found = local_tucker(*gaps, noise=0.1, callback=slow)
    assert found.history[-1].seconds <= time.perf_counter() - began - slept


def test_a_state_of_another_problem_is_refused(gaps: Any) -> None:
    state = sweeps_of(*gaps, noise=0.1)[0].state
    with pytest.raises(ValueError, match=r"state has estimate of shape \(10, 12, 12\), data has \(9, 12, 12\)"):
        local_tucker(gaps[0][1:], gaps[1][1:], noise=0.1, initial_state=state)
    with pytest.raises(ValueError, match="state comes after sweep 4, expected one of 0 to 2"):
        local_tucker(*gaps, noise=0.1, initial_state=state, options=LocalOptions(sweeps=2))


def test_without_gaps_there_is_no_sweep_and_the_state_holds_the_data(gaps: Any) -> None:
    found = local_tucker(gaps[0], noise=0.0)
    assert found.status is Status.COMPLETED
    assert (found.history, found.state.sweep) == ((), 0)
    np.testing.assert_allclose(found.value, gaps[0], atol=1e-6)  # float32


@pytest.mark.parametrize("at", [(4, 5, 5), (0, 5, 5), (7, 9, 0)])
def test_the_first_guess_at_a_voxel_leaves_the_voxel_out(at: tuple[int, int, int]) -> None:
    data, mask = smooth((8, 10, 10)), np.random.default_rng(22).random((8, 10, 10)) < 0.5
    mask[at] = True
    changed = data.copy()
    changed[at] += 100
    one, other = (neighbour_mean(np.where(mask, each, np.float32(0)), mask) for each in (data, changed))
    assert other[at] == pytest.approx(one[at], abs=1e-3)  # of 100; rounding in float32
    flat = neighbour_mean(np.where(mask, np.float32(2), np.float32(0)), mask)
    np.testing.assert_allclose(flat, 2, rtol=1e-4)


def test_garbage_under_the_mask_changes_nothing() -> None:
    data = smooth((10, 12, 12))
    mask = np.random.default_rng(10).random(data.shape) < 0.6
    one, other = (local_tucker(np.where(mask, data, fill), mask, noise=0.1).value for fill in (np.nan, 1e9))
    assert np.array_equal(one, other)


def test_the_input_is_not_written_to() -> None:
    data = smooth((8, 10, 10))
    data.flags.writeable = False
    mask = np.random.default_rng(11).random(data.shape) < 0.7
    mask.flags.writeable = False
    assert local_tucker(data, mask, noise=0.1).value.dtype == np.float32


@pytest.mark.parametrize("shape", [(2, 9, 9), (1, 12, 12), (3, 3, 3), (2, 2, 40)])
def test_volumes_thinner_than_a_patch(shape: tuple[int, ...]) -> None:
    data = smooth(shape, width=0.5) + 5
    assert np.isfinite(local_tucker(data, noise=0.2).value).all()


def test_window_and_corners_cover_every_voxel() -> None:
    for size, patch, step in ((5, 5, 3), (17, 4, 3), (9, 4, 5)):
        corners = corners_along(size, patch, min(step, patch))
        assert corners[0] == 0
        assert corners[-1] == size - patch
        assert np.diff(corners).max(initial=0) <= patch
    assert fitted(LocalOptions(group=64), (2, 9, 9)).group == 8 * 2 ** int(math.log2(25 * 1) - 3)


def test_haar_matrix_is_orthonormal_and_begins_with_the_mean() -> None:
    h = haar_matrix(16)
    assert np.allclose(h @ h.T, np.eye(16))
    assert np.allclose(h[0], 0.25)


@pytest.mark.parametrize("width", [1.5, 2.0])
def test_the_hard_threshold_is_better_than_a_fifth_less_or_a_quarter_more(width: float) -> None:
    truth = smooth((20, 24, 24), 3, width)
    noisy = truth + noise_like(truth, 0.5, 4)
    geometry = fitted(LocalOptions(), truth.shape)

    def error(threshold: float) -> float:
        return rms(filtered(noisy, smoothed(noisy), None, 0.5, threshold, geometry)[0] - truth)

    assert error(HARD) < 0.97 * min(error(0.8 * HARD), error(1.25 * HARD))


def test_the_guide_finds_patches_that_are_alike_in_truth() -> None:
    """Better than the noisy data do, and than a guide of half or twice the width."""
    truth = smooth((20, 24, 24), 3, 1.0)
    noisy = truth + noise_like(truth, 0.7, 4)
    side = 4
    references = np.random.default_rng(6).integers(0, np.array(truth.shape) - side, (300, 3))

    def distance(guide: np.ndarray) -> float:
        def patch(corner: np.ndarray) -> np.ndarray:
            return truth[tuple(slice(c, c + side) for c in corner)]

        corners = nearest_corners(guide, in_one_frame(references), Geometry((side,) * 3, (5, 5, 5), 8, 3))[..., 1:]
        return rms(np.array([patch(other) - patch(group[0]) for group in corners for other in group[1:]]))

    ours = distance(smoothed(noisy))
    assert ours < 0.96 * distance(noisy)
    assert ours < 0.98 * distance(ndimage.gaussian_filter(noisy, 0.5 * GUIDE_WIDTH))
    assert ours < 0.98 * distance(ndimage.gaussian_filter(noisy, 2 * GUIDE_WIDTH))


def test_a_reference_patch_comes_first_in_its_group_even_where_all_patches_are_equal() -> None:
    references = np.array([[2, 3, 4], [0, 0, 0], [5, 5, 5]])
    geometry = Geometry((3, 3, 3), (2, 2, 2), 8, 2)
    corners = nearest_corners(np.ones((8, 8, 8), np.float32), in_one_frame(references), geometry)[..., 1:]
    assert np.array_equal(corners[:, 0], references)
    for reference, group in zip(references, corners, strict=True):
        flat = kernel_corners(np.ones((8, 8, 8), np.float32), reference, geometry)
        assert np.array_equal(flat, group @ (64, 8, 1))
        assert flat[0] == reference @ (64, 8, 1)
        assert len(set(flat.tolist())) == 8


def in_one_frame(corners: np.ndarray) -> np.ndarray:
    """Corners of a volume, which is the only frame."""
    return np.column_stack([np.zeros(len(corners), int), corners])


def kernel_corners(guide: np.ndarray, reference: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Flat corners of the group of one reference patch, as the kernel finds them."""
    a, b, c = reference
    keys, found = np.zeros((1, 1, geometry.group), np.int64), np.zeros((1, 1, geometry.group), np.int64)
    offsets = offsets_within(geometry.reach, geometry.group)
    nearest(
        guide.ravel(), np.array((1, *guide.shape)), 0, 0, a, np.array([b]), np.array([c]), np.array(geometry.patch),
        offsets, np.float32(0), keys, found,
        scratch_for(guide.shape, geometry.patch, geometry.group, 1, 1, (1, 1), np.int32),
    )  # fmt: skip
    return np.asarray((reference + offsets[found[0, 0]]) @ (guide.shape[1] * guide.shape[2], guide.shape[2], 1))


@pytest.mark.parametrize("geometry", [Geometry((3, 2, 4), (4, 4, 4), 32, 3), Geometry((2, 2, 2), (3, 5, 4), 64, 2)])
def test_the_kernel_finds_the_nearest_patches_in_ascending_order_at_borders_too(geometry: Geometry) -> None:
    guide = np.random.default_rng(31).standard_normal((9, 10, 11)).astype(np.float32)
    limits = np.array(guide.shape) - geometry.patch
    offsets = offsets_within(geometry.reach, geometry.group)

    def patch(corner: np.ndarray) -> np.ndarray:
        return guide[tuple(slice(c, c + p) for c, p in zip(corner, geometry.patch, strict=True))]

    for reference in (np.zeros(3, int), limits, limits // 2, np.array([0, limits[1], 2])):
        others = [o for o in reference + offsets if np.all((o >= 0) & (o <= limits))]
        distance = [-1 if np.array_equal(o, reference) else np.sum((patch(o) - patch(reference)) ** 2) for o in others]
        nearest_ones = np.array(others)[np.argsort(distance)[: geometry.group]]
        assert np.array_equal(kernel_corners(guide, reference, geometry), nearest_ones @ (110, 11, 1))


@pytest.mark.parametrize(
    ("reach", "group"), [((5, 5, 5), 32), ((5, 5, 5), 64), ((0, 5, 5), 32), ((2, 3, 3), 32), ((1, 0, 0), 2)]
)
def test_a_patch_in_a_corner_finds_a_whole_group(reach: tuple[int, int, int], group: int) -> None:
    offsets = offsets_within(reach, group)
    assert not offsets[0].any()
    assert len(np.unique(offsets, axis=0)) == len(offsets)
    assert np.array_equal(np.unique(-offsets, axis=0), np.unique(offsets, axis=0))
    assert np.count_nonzero(np.all(offsets >= 0, axis=1)) >= group
    assert np.all(np.abs(offsets) <= reach)
    if reach == (5, 5, 5):
        assert len(offsets) < 500  # of 1331


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 7, 8, 9])
def test_factors_are_the_eigenvectors_and_products_with_them_are_undone(size: int) -> None:
    rng = np.random.default_rng(size)
    x = rng.standard_normal((2, size, 3, 8)).astype(np.float32)
    unfolded = np.moveaxis(x, 1, 0).reshape(size, -1).astype(float)
    gram, u, spare = (
        np.zeros((size, size), np.float32),
        np.zeros((size, size), np.float32),
        np.zeros(x.size, np.float32),
    )
    factor(x.ravel(), 2, size, gram, u, spare)
    np.testing.assert_allclose(u.T @ u, np.eye(size), atol=1e-5)
    core = u.T @ (unfolded @ unfolded.T) @ u
    assert np.abs(core - np.diag(np.diag(core))).max() < 1e-4 * np.abs(core).max()
    found = x.ravel().copy()
    multiply(found, u.ravel(), 2, size, spare)
    np.testing.assert_allclose(found.reshape(x.shape), np.einsum("rs,irkn->iskn", u, x), atol=1e-5)
    multiply(found, u.T.ravel(), 2, size, spare)
    np.testing.assert_allclose(found, x.ravel(), atol=1e-5)


@pytest.mark.parametrize("group", [1, 2, 8, 32])
def test_the_kernels_haar_transform_is_the_matrix_on_patches_in_halving_order(group: int) -> None:
    x = np.random.default_rng(32).standard_normal((6, group)).astype(np.float32)
    placed = np.empty_like(x)
    placed[:, halving_order(group)] = x
    core, spare = placed.copy(), np.empty(x.size, np.float32)
    one, six, patch = np.ones(1, np.float32), np.eye(6, dtype=np.float32).ravel(), np.array((1, 1, 6))
    to_core(core, core.ravel(), (one, one, six), patch, spare)
    expected = x @ haar_matrix(group).T
    np.testing.assert_allclose(np.sort(core, axis=1), np.sort(expected, axis=1), atol=1e-5)  # in another order
    np.testing.assert_allclose(core[:, 0], expected[:, 0], atol=1e-5)
    from_core(core, core.ravel(), (one, one, six), patch, spare)
    np.testing.assert_allclose(core, placed, atol=1e-5)


@pytest.mark.parametrize("sums", [sums_numba, sums_arrays])
def test_wiener_gains_are_best_at_the_true_noise(sums: Any) -> None:
    """With the truth as pilot, ``P^2 / (P^2 + c sigma^2)`` has the least error at ``c = 1``."""
    truth = smooth((9, 12, 12), 23, 1.0)
    noisy = truth + noise_like(truth, 0.5, 24)
    geometry = Geometry((4, 4, 4), (2, 2, 2), 8, 2)
    everywhere = references_used(None, truth.shape, geometry)
    errors = []
    for strength in (0.5, 1.0, 2.0):
        totals, _, weights = sums(noisy, truth, truth, 0.5, (strength,), geometry, everywhere)
        errors.append(rms(totals[0] / weights - truth))
    assert errors[1] < 0.99 * min(errors[0], errors[2])


def test_the_kernels_window_is_highest_in_the_middle_and_symmetric() -> None:
    window = window_of((5, 4, 1)).reshape(5, 4)
    assert np.allclose(window, window[::-1, ::-1])
    assert (np.diff(window[:3], axis=0) > 0).all()
    assert window.min() > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"noise": -1.0}, "expected noise as a standard deviation of at least 0, got -1.0"),
        ({"noise": 0.1, "levels": []}, "expected positive levels"),
        ({"noise": 0.1, "initial": np.zeros((3, 3, 3))}, "initial has shape"),
        ({"noise": 0.1, "initial": np.full((8, 8, 8), np.nan)}, "expected finite numbers as initial"),
        ({"noise": 0.1, "mask": np.zeros((8, 8, 8), bool)}, "expected at least one observed voxel, got none"),
        ({"noise": 0.1, "mask": np.ones((8, 8, 7), bool)}, "mask has shape"),
    ],
)
def test_bad_arguments_are_said(arguments: dict, message: str) -> None:
    mask = np.ones((8, 8, 8), bool)
    mask[0, 0, 0] = False
    with pytest.raises(ValueError, match=message):
        local_tucker(np.zeros((8, 8, 8)), arguments.pop("mask", mask), **arguments)


def test_bad_types_are_said() -> None:
    with pytest.raises(TypeError, match="expected real numbers"):
        local_tucker(np.zeros((8, 8, 8), complex), noise=1.0)
    with pytest.raises(TypeError, match="expected a bool mask"):
        local_tucker(np.zeros((8, 8, 8)), np.ones((8, 8, 8)), noise=1.0)
    with pytest.raises(ValueError, match="expected 3 axes"):
        local_tucker(np.zeros((8, 8)), noise=1.0)
    with pytest.raises(ValueError, match="expected finite numbers"):
        local_tucker(np.full((8, 8, 8), np.inf), noise=1.0)


NAMES = [each.name for each in dataclasses.fields(LocalOptions)]
BAD = [
    None,
    True,
    np.True_,
    "5",
    "555",
    2.5,
    5.0,
    np.float32(3),
    math.nan,
    math.inf,
    -1,
    np.int8(-2),
    1j,
    {},
    [],
    object,
]
BAD_SIDES = [
    (5, 5),
    (5, 5, 5.0),
    (5, True, 5),
    [[5], [5], [5]],
    (5, 5, 5, 5),
    (5, 5, -1),
    np.array([5.0, 5, 5]),
    np.array(5),
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [*BAD, *BAD_SIDES], ids=repr)
def test_options_of_a_wrong_type_are_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"expected .*{name}.*, got "):
        LocalOptions(**{name: value})


@pytest.mark.parametrize("kind", [int, np.int8, np.uint16, np.int64])
def test_whole_numbers_of_any_kind_are_options(kind: Any) -> None:
    plain = LocalOptions(patch=4, reach=(0, 3, 2), group=8, step=2, sweeps=3)
    found = LocalOptions(patch=kind(4), reach=[kind(n) for n in (0, 3, 2)], group=kind(8), step=kind(2), sweeps=kind(3))
    assert found == plain
    assert all(type(getattr(found, name)) in (int, tuple) for name in NAMES)
    assert LocalOptions(reach=np.array([0, 3, 2], dtype=np.int64)).reach == (0, 3, 2)
    assert found.sides == (4, 4, 4)


@pytest.mark.parametrize("name", NAMES)
def test_every_option_has_a_default_and_a_sentence_for_the_command_line(name: str) -> None:
    (option,) = (each for each in dataclasses.fields(LocalOptions) if each.name == name)
    assert option.default is not dataclasses.MISSING
    sentence = option.metadata["help"]
    assert sentence[0].isupper()
    assert sentence.endswith(".")
    assert sentence.count(".") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch": 0}, "expected patch as a whole number of at least 1"),
        ({"reach": (1, 2)}, "expected reach as a whole number of at least 0, or three"),
        ({"group": 12}, "expected a power of two as group, got 12"),
        ({"step": 0}, "expected step as a whole number of at least 1, got 0"),
    ],
)
def test_bad_options_are_said(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LocalOptions(**options)


def test_data_are_written_over_only_where_this_was_asked_for() -> None:
    data = noise_like(np.ones((8, 12, 12)), 1.0, 3) + 5
    before = data.copy()
    kept = local_tucker(data, noise=1.0)
    assert np.array_equal(data, before)
    np.testing.assert_array_equal(local_tucker(data, noise=1.0, overwrite_data=True).value, kept.value)
    np.testing.assert_array_equal(data, before - np.float32(before.mean(dtype=np.float64)))
