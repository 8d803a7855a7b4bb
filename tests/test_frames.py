"""Time series: patches followed from frame to frame, drift, changes that one frame shows, and what `recover` does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numba
import numpy as np
import pytest
from scipy import ndimage

import tensorcell as tc
from tensorcell import model, series
from tensorcell.solvers import Autocorrelation, LocalOptions, NoiseModel, estimate_noise, frame_drift, local_tucker
from tensorcell.solvers.drift import believable, is_related, smooth
from tensorcell.solvers.patch_denoising import CHANGE_WIDTH, changes
from tensorcell.solvers.patch_groups import (
    Geometry,
    filtered,
    fitted,
    nearest_corners,
    references_used,
    sums_arrays,
    sums_numba,
)

Array = np.ndarray[Any, Any]


def texture(shape: tuple[int, ...], seed: int = 0, width: float = 1.5) -> Array:
    """A smooth random volume with a standard deviation of 1."""
    drawn = np.random.default_rng(seed).standard_normal(shape)
    found = ndimage.gaussian_filter(drawn, width)
    return np.asarray(found / found.std(), np.float32)


def still(count: int, shape: tuple[int, int, int] = (10, 24, 24), seed: int = 0) -> Array:
    """Frames in which nothing moves."""
    return np.stack([texture(shape, seed)] * count)


def noisy(frames: Array, sigma: float, seed: int = 9) -> Array:
    return np.asarray(frames + sigma * np.random.default_rng(seed).standard_normal(frames.shape), np.float32)


def rms(values: Array) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


GEOMETRIES = (
    Geometry((3, 4, 3), (2, 2, 3), 4, 2, 4),
    Geometry((3, 3, 3), (2, 2, 2), 2, 2, 2, ((0, 0, 0), (0, 1, -2), (1, 0, 0), (0, 9, 0), (0, 2, 2))),
    Geometry((1, 4, 4), (0, 3, 3), 4, 2, 4),
)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("second", [False, True])
def test_the_kernel_equals_its_array_twin_on_a_series(geometry: Geometry, second: bool) -> None:
    pilot = np.stack([np.roll(texture((7, 11, 12), 1), n, 2) for n in range(5)])
    data = noisy(pilot, 0.3)
    for wanted in (None, np.random.default_rng(4).random(data.shape) < 0.003):
        used = references_used(wanted, data.shape, geometry)
        kernel, arrays = (
            way(data, data, pilot if second else None, 0.3, (0.5, 2.0) if second else (2.9, 5.8), geometry, used)
            for way in (sums_numba, sums_arrays)
        )
        for ours, twin in zip(kernel, arrays, strict=True):
            assert np.allclose(ours, twin, rtol=2e-4, atol=2e-4 * np.abs(twin).max())  # float32, other order of sums


@pytest.mark.parametrize("step", [(0, 1, 0), (0, 5, 6)])
def test_patches_are_found_where_the_specimen_went(step: tuple[int, int, int]) -> None:
    """With its drift, however far that is."""
    frame = np.random.default_rng(2).standard_normal((6, 60, 60)).astype(np.float32)
    frames = np.stack([np.roll(frame, np.multiply(step, n), (0, 1, 2)) for n in range(4)])
    drift = tuple((0, n * step[1], n * step[2]) for n in range(4)) if max(step) > 3 else ()
    references = np.array([[1, 1, 30, 30], [1, 2, 28, 33], [2, 1, 31, 27]])
    corners = nearest_corners(frames, references, Geometry((3, 3, 3), (2, 2, 2), 2, 3, 4, drift))
    for (at, *corner), group in zip(references, corners, strict=True):
        assert np.array_equal(group[:4, 0], [0, 1, 2, 3])  # the second, too: its group has a frame before and two after
        assert np.array_equal(group[:4, 1:], [np.add(corner, np.multiply(step, n - at)) for n in range(4)])


def test_with_one_frame_a_pass_a_series_is_its_frames() -> None:
    data = np.stack([texture((8, 12, 12), n) for n in range(3)])
    geometry = fitted(LocalOptions(frames=1), data.shape)
    whole, spread = filtered(data, data, None, 0.3, 2.9, geometry)
    for number, frame in enumerate(data):
        alone, its_spread = filtered(frame, frame, None, 0.3, 2.9, geometry)
        assert np.array_equal(whole[number], alone)
        assert np.array_equal(spread[number], its_spread)


def test_frames_are_at_least_one_and_need_be_no_power_of_two() -> None:
    with pytest.raises(ValueError, match="frames"):
        LocalOptions(frames=0)
    data = noisy(still(5), 0.3)
    assert fitted(LocalOptions(frames=7), data.shape).frames == 4
    assert fitted(LocalOptions(frames=3, group=16), data.shape)[2:5:2] == (8, 2)
    assert np.array_equal(
        local_tucker(data, noise=0.3, options=LocalOptions(frames=3)).value,
        local_tucker(data, noise=0.3, options=LocalOptions(frames=2)).value,
    )


def test_one_frame_is_a_volume() -> None:
    data = noisy(still(1), 0.3)
    one, volume = local_tucker(data, noise=0.3), local_tucker(data[0], noise=0.3)
    assert np.array_equal(one.value[0], volume.value)
    assert one.error is not None
    assert volume.error is not None
    assert np.array_equal(one.error[0], volume.error)


def test_a_still_series_is_denoised_far_better_together_and_unrelated_frames_lose_nothing() -> None:
    sigma = 0.5
    for frames, share in ((still(8), 0.7), (np.stack([texture((10, 24, 24), n) for n in range(8)]), 1.02)):
        data = noisy(frames, sigma)
        together = local_tucker(data, noise=sigma)
        alone = np.stack([local_tucker(frame, noise=sigma).value for frame in data])
        assert rms(together.value - frames) < share * rms(alone - frames)
        assert together.error is not None
        assert 0.8 < np.mean(np.abs(together.value - frames) <= 1.645 * together.error) < 0.97


def test_gaps_of_a_still_series_are_filled_by_what_other_frames_show() -> None:
    frames = still(5)
    mask = np.random.default_rng(3).random(frames.shape) < 0.3
    together = local_tucker(frames, mask, noise=0.05, denoise=False)
    alone = [local_tucker(f, m, noise=0.05, denoise=False).value for f, m in zip(frames, mask, strict=True)]
    assert rms((together.value - frames)[~mask]) < 0.6 * rms((np.stack(alone) - frames)[~mask])


def test_a_flash_of_one_frame_is_kept_as_well_as_in_that_frame_alone() -> None:
    """A spot as wide as the optics, of four standard deviations of the noise."""
    sigma, frames = 0.5, 0.5 * still(8)
    spike = np.zeros(frames.shape[1:], np.float32)
    spike[5, 12, 12] = 1
    flash = ndimage.gaussian_filter(spike, (1.5, 1.2, 1.2))
    flash *= 4 * sigma / flash.max()
    core = flash > 0.3 * flash.max()

    def share(value: Array) -> float:
        return float(np.sum((value - frames[0]) * flash) / np.sum(flash**2))

    found = []
    for seed in range(2):
        truth = frames.copy()
        truth[4] += flash
        data = noisy(truth, sigma, seed)
        together, alone = local_tucker(data, noise=sigma), local_tucker(data[4], noise=sigma)
        assert together.error is not None
        error = together.error[4][core]
        found.append(
            (
                share(together.value[4]), share(alone.value), abs(share(together.value[5])),
                rms((together.value - truth)[4][core]) / rms(error),
            )
        )  # fmt: skip
    kept, kept_alone, beside, missed = np.mean(found, axis=0)
    assert kept > 0.85 * kept_alone
    assert beside < 0.2
    assert missed < 2


def test_changes_are_those_that_noise_does_not_explain_at_borders_too() -> None:
    sigma, rng = 2.0, np.random.default_rng(0)
    residual = sigma * rng.standard_normal((4, 12, 40, 40))
    known = np.ones(residual.shape, bool)
    quiet, _ = changes(residual, known, sigma)
    assert 0 < np.mean(quiet > 0) < 0.04
    rim = np.zeros(known.shape, bool)
    rim[:, :, :2] = True
    assert np.mean(quiet[rim] > 0) < 0.08
    spike = np.zeros(residual.shape)
    spike[2, 0, 0, 20] = 1
    spot = ndimage.gaussian_filter(spike, CHANGE_WIDTH, axes=(1, 2, 3), mode="constant")
    assert changes(residual + 4 * sigma * spot / spot.max(), known, sigma)[0][2, 0, 0, 20] == 1
    known[2, :3, :4, 16:25] = False
    assert changes(residual + 4 * sigma * spot / spot.max(), known, sigma)[0][2, 0, 0, 20] == 0


def test_the_result_of_a_series_does_not_depend_on_the_number_of_threads() -> None:
    data, before = noisy(still(4, (8, 40, 16)), 0.3), numba.get_num_threads()
    mask = np.random.default_rng(1).random(data.shape) < 0.7
    try:
        results = []
        for threads in (1, before):
            numba.set_num_threads(threads)
            results.append(local_tucker(data, mask, noise=0.3, drift=[[0, 0, 0]] * 3 + [[1, -2, 0]]).value)
    finally:
        numba.set_num_threads(before)
    assert np.array_equal(*results)


@pytest.mark.parametrize("sigma", [0.0, 2.0])
def test_drift_is_found_and_slow_drift_adds_up(sigma: float) -> None:
    big = texture((20, 90, 90), 5, 2.0)
    for step in ((0.0, 0.0, 0.0), (0.1, 0.4, -0.7), (0.2, 4.0, -3.0)):
        frames = np.stack([ndimage.shift(big, np.multiply(step, n), order=3)[4:-4, 20:-20, 20:-20] for n in range(6)])
        found = frame_drift(noisy(frames, sigma))
        assert np.all(np.abs(found[-1] - np.multiply(step, 5)) <= 1 + 0.12 * np.abs(np.multiply(step, 5)))


def test_noise_constant_frames_and_what_is_lost_do_not_drift() -> None:
    noise = np.random.default_rng(0).standard_normal((6, 8, 40, 40))
    assert not frame_drift(noise).any()
    assert not frame_drift(np.full((3, 4, 8, 8), 7.0)).any()
    assert not frame_drift(noise[:, :1, :3, :3]).any()
    frame = smooth(noise[0])
    assert not believable(frame, smooth(noise[1]), np.array([0.0, 8.0, 0.0]))
    with pytest.raises(ValueError, match="4 axes"):
        frame_drift(noise[0])


def test_a_drift_that_fits_no_frame_is_refused() -> None:
    data = still(3)
    for wrong in ([[0, 0, 0]] * 2, [[0.5, 0, 0]] * 3, [0, 0, 0]):
        with pytest.raises(ValueError, match=r"expected a drift of whole numbers, \(3, 3\)"):
            local_tucker(data, noise=0.1, drift=wrong)  # type: ignore[arg-type]


def cells(frames: int, sigma: float = 30.0, step: float = 0.0) -> tuple[Array, Array]:
    """Frames of intensities around 300, and what was measured of them."""
    big = 300 + 100 * texture((10, 40, 40), 7)
    truth = np.stack([ndimage.shift(big, (0, step * n, 0), order=1)[:, 4:36, 4:36] for n in range(frames)])
    return truth, noisy(truth, sigma)


def test_recover_gains_from_the_frames_beside_each_other_and_says_so() -> None:
    truth, data = cells(6, step=0.8)
    together = tc.recover(data, axes="TZYX", noise=30.0)
    alone = tc.recover(data, axes="TZYX", noise=30.0, frames=1)
    assert rms(together.volume.data - truth) < 0.9 * rms(alone.volume.data - truth)
    assert together.notes[0].startswith("frames T=0 to T=5 were recovered together")
    assert "moves as a whole by up to 0, 4, 0 voxels" in together.notes[0]
    assert not any("together" in note for note in alone.notes)
    assert 0.8 < np.mean(np.abs(together.volume.data - truth) <= 1.645 * together.uncertainty) < 0.97


def test_single_planes_of_a_film_are_recovered_together() -> None:
    truth, data = cells(8)
    film, plane = data[:, 4], truth[:, 4]
    together, alone = (tc.recover(film, axes="TYX", noise=30.0, frames=n).volume.data for n in (4, 1))
    assert rms(together - plane) < 0.75 * rms(alone - plane)


def test_texture_that_stays_is_no_noise() -> None:
    grain = np.random.default_rng(3).standard_normal((10, 32, 32))
    truth = np.stack([300 + 100 * texture((10, 32, 32), 7) + 30 * grain] * 5)
    data = noisy(truth, 10.0)
    together, alone = tc.recover(data, axes="TZYX"), tc.recover(data, axes="TZYX", frames=1)
    assert isinstance(together.noise, dict)
    assert together.noise["T=0"] < 40  # that of the frame by itself; the one that was removed stands in the notes
    assert rms(together.volume.data - truth) < 10
    assert rms(alone.volume.data - truth) > 15


def test_frames_unlike_the_others_are_recovered_by_themselves() -> None:
    _, data = cells(6)
    data[2] = noisy(cells(1)[0], 200.0)[0]
    data[4] = np.nan
    found = tc.recover(data, axes="TZYX")
    assert list(found.not_recovered) == ["T=4"]
    without = [note for note in found.notes if note.startswith("1 of 5 frames was recovered without the others")]
    assert "T=2" in without[0]
    assert found.notes[0].startswith("frames T=0 to T=5 were recovered together")
    assert np.isfinite(np.delete(found.volume.data, 4, 0)).all()


def test_frames_that_show_something_else_share_nothing() -> None:
    data = np.concatenate([cells(3)[1], noisy(300 + 100 * np.stack([texture((10, 32, 32), 50)] * 3), 30.0)])
    found = tc.recover(data, axes="TZYX", noise=30.0)
    together = [note.partition(";")[0] for note in found.notes[:2]]
    assert together == [f"frames T={a} to T={b} were recovered together" for a, b in ((0, 2), (3, 5))]
    assert found.notes[2].startswith("frames that show something else than the ones before begin at T=3")
    for part in (slice(0, 3), slice(3, 6)):
        assert np.array_equal(found.volume.data[part], tc.recover(data[part], axes="TZYX", noise=30.0).volume.data)
    quiet = np.random.default_rng(1).standard_normal((4, 10, 32, 32))
    assert is_related(quiet[0], quiet[1], np.zeros(3), 1.0)  # nothing is seen, so that nothing differs


def test_a_plane_that_one_frame_lacks_comes_from_the_frames_beside_it() -> None:
    truth = np.stack([300 + 100 * texture((10, 32, 32), 7, 0.8)] * 5)
    truth[:, :, 8:16, 8:16] += 200 * np.random.default_rng(0).standard_normal((5, 1, 1, 1))  # this part changes
    data = truth.copy()
    data[2, 4] = np.nan
    data[0, 6] = np.nan
    together, alone = (tc.recover(data, axes="TZYX", frames=n) for n in (4, 1))
    assert any(note.startswith("2 planes that a frame lacks follow") for note in together.notes)
    for where in ((2, 4), (0, 6)):
        off, off_alone = (rms(one.volume.data[where] - truth[where]) for one in (together, alone))
        assert off < 0.6 * off_alone
        assert rms(together.uncertainty[where]) < rms(alone.uncertainty[where])
    still = np.ones((32, 32), bool)
    still[5:19, 5:19] = False
    assert rms((together.volume.data - truth)[2, 4][still]) < 0.1 * rms((alone.volume.data - truth)[2, 4][still])
    assert together.uncertainty[2, 4, 12, 12] > 5 * np.median(together.uncertainty[2, 4][still])
    kept = together.measured
    assert np.array_equal(together.volume.data[kept], data[kept])


def test_frames_that_differ_in_all_planes_and_lost_frames_lend_nothing() -> None:
    _, data = cells(4)
    data[1, 3] = np.nan
    data[[0, 2]] += np.random.default_rng(3).normal(0, 400, data[[0, 2]].shape).astype(np.float32)
    data[3] = np.nan
    one, alone = tc.recover(data, axes="TZYX"), tc.recover(data, axes="TZYX", frames=1)
    lacking, by_itself = one.volume.data[1, 3], alone.volume.data[1, 3]
    assert rms(lacking - by_itself) < 0.3 * rms(by_itself - by_itself.mean())


def test_frames_on_a_large_offset_are_alike() -> None:
    _, data = cells(4)
    plain = tc.recover(data.astype(np.float64), axes="TZYX", noise=30.0)
    shifted = tc.recover(data + 2.0**20, axes="TZYX", noise=30.0)
    assert shifted.notes[0] == plain.notes[0]
    assert rms(shifted.volume.data - 2.0**20 - plain.volume.data) < 0.1


def test_a_gap_in_one_frame_keeps_the_measured_voxels_of_all() -> None:
    _, data = cells(3)
    data[1, 3, 5, 5] = np.nan
    found = tc.recover(data, axes="TZYX")
    kept = found.measured & (found.outliers == 0)
    assert kept[0].mean() > 0.99
    assert np.array_equal(found.volume.data[kept], data[kept])


def test_a_long_series_is_recovered_window_by_window(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, data = cells(14)
    whole = tc.recover(data, axes="TZYX", noise=30.0).volume.data
    monkeypatch.setattr(series, "WINDOW_VOXELS", 10 * data[0].size)
    cut = tc.recover(data, axes="TZYX", noise=30.0)
    assert cut.notes[0].startswith("frames T=0 to T=9 were recovered together")
    assert rms(cut.volume.data - truth) < 1.05 * rms(whole - truth)
    assert rms(cut.volume.data - whole) < 0.3 * rms(whole - truth)
    monkeypatch.setattr(series, "WINDOW_VOXELS", 1)
    alone = tc.recover(data[:3], axes="TZYX", noise=30.0)
    assert alone.notes[0].startswith("each frame was recovered by itself, since at most 1 voxels")
    assert np.array_equal(alone.volume.data, tc.recover(data[:3], axes="TZYX", noise=30.0, frames=1).volume.data)


def test_channels_have_series_of_their_own() -> None:
    _, data = cells(3)
    both = np.stack([data, 2 * data + 1])
    found = tc.recover(both, axes="CTZYX", noise=30.0)
    first = tc.recover(data, axes="TZYX", noise=30.0)
    assert np.array_equal(found.volume.data[0], first.volume.data)
    assert [note[:4] for note in found.notes[:2]] == ["C=0:", "C=1:"]
    swapped = tc.recover(np.moveaxis(both, 0, 1), axes="TCZYX", noise=30.0)
    assert np.array_equal(np.moveaxis(swapped.volume.data, 1, 0), found.volume.data)


def correlated_film() -> tuple[Array, Array]:
    """Three frames whose noise neighbours share within planes, and their truth."""
    truth = np.stack([texture((8, 48, 48), width=3)] * 3)
    drawn = np.random.default_rng(4).standard_normal(truth.shape)
    blurred = ndimage.convolve1d(ndimage.convolve1d(drawn, [0.25, 0.5, 0.25], axis=2), [0.25, 0.5, 0.25], axis=3)
    return truth, np.asarray(truth + 0.5 * blurred / blurred.std(), np.float32)


def test_a_frame_that_does_not_tell_the_correlation_of_its_noise_has_that_of_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    truth, data = correlated_film()

    def blind(values: Array, *args: Any, correlation: Any = None, **kwargs: Any) -> NoiseModel:
        law = estimate_noise(values, *args, correlation=correlation, **kwargs)
        if correlation is not None or abs(float(values[0, 0, 0]) - float(data[1, 0, 0, 0])) > 1e-6:
            return law
        return replace(law.reduced(0.15, ""), autocorrelation=Autocorrelation(), correlated=None)

    monkeypatch.setattr(model, "estimate_noise", blind)
    found = tc.recover(data, axes="TZYX")
    assert isinstance(found.noise, dict)
    assert all(sigma == pytest.approx(0.5, rel=0.15) for sigma in found.noise.values())
    assert not any("without the others" in note for note in found.notes)
    first, middle, last = (rms(one) for one in found.volume.data - truth)
    assert middle < min(first, last)


def test_a_frame_with_less_noise_than_the_others_is_not_given_theirs() -> None:
    truth, data = correlated_film()
    clean = texture((8, 48, 48), width=3) + 0.02 * np.random.default_rng(1).standard_normal((8, 48, 48))
    data[1] = clean
    found = tc.recover(data, axes="TZYX")
    assert isinstance(found.noise, dict)
    assert found.noise["T=1"] < 0.05
    assert rms(found.volume.data[1] - truth[1]) < 0.03
