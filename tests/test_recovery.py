"""`recover` against the promises made to its users: what is kept, what is filled, what is said, what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

import tensorcell as tc
from tensorcell import device
from tensorcell.datasets import SimulatedCells, simulate_cells
from tensorcell.errors import InputError
from tensorcell.metrics import psnr
from tensorcell.recovered import Recovery
from tensorcell.recovery import recover
from tensorcell.solvers import Status, slabs
from tensorcell.solvers.spread import conformal_width
from tensorcell.stack import float_type
from tensorcell.volume import Volume

SHAPE = (24, 32, 34)
RANK = (4, 8, 8)  # given where the choice of the rank is not what is tested: it saves most of the time
INTEGERS = ["uint8", "uint16", "int16"]


@pytest.fixture(scope="module")
def full() -> SimulatedCells:
    """Everything measured, with noise."""
    return read_only(simulate_cells(SHAPE, cells=6, seed=1))


@pytest.fixture(scope="module")
def half() -> SimulatedCells:
    """Half of the voxels measured, with noise."""
    return read_only(simulate_cells(SHAPE, cells=6, keep_pixels=0.5, seed=1))


@pytest.fixture(scope="module")
def half_recovered(half: SimulatedCells) -> Recovery:
    """What several tests compare with."""
    return recover(half.measured, rank=RANK)


def read_only(cells: SimulatedCells) -> SimulatedCells:
    for array in (cells.truth, cells.measured, cells.mask):
        array.setflags(write=False)
    return cells


def error(estimate: Any, truth: np.ndarray, where: Any = True) -> float:
    """Root mean square difference, in the data's unit."""
    data = estimate.volume.data if isinstance(estimate, Recovery) else estimate
    return float(np.sqrt(np.mean(np.square(np.subtract(data, truth, dtype=float)), where=where)))


def assert_whole(result: Recovery) -> None:
    """Finite everywhere and no plane of zeros."""
    assert np.isfinite(result.volume.data).all()
    axis = result.volume.axes.index("Z")
    planes = np.moveaxis(result.volume.data, axis, 0)
    assert all(plane.any() for plane in planes)


# ---------------------------------------------------------------------------------- what was measured is kept


@pytest.mark.parametrize(
    ("dtype", "method"),
    [("uint16", "local"), *((kind, "tucker") for kind in (*INTEGERS, "float32", "float64", ">u2", ">f4"))],
)
def test_recover_keeps_measured_voxels_bit_for_bit(half: SimulatedCells, dtype: str, method: str) -> None:
    rng = np.random.default_rng(0)
    scaled = 3 * np.where(half.mask, half.measured, 50 * rng.random(SHAPE)) + 20
    data = np.clip(scaled, 0, None).astype(dtype)
    data.setflags(write=False)
    result = recover(data, mask=half.mask, rank=RANK, method=method)
    assert result.volume.dtype == (np.float64 if dtype == "float64" else np.float32)
    inlier = half.mask & (result.outliers == 0)
    assert inlier.sum() > 0.97 * half.mask.sum()
    np.testing.assert_array_equal(result.volume.data[inlier], data[inlier])
    np.testing.assert_array_equal(result.measured, half.mask)
    assert_whole(result)


def test_recover_measures_what_mask_and_nan_allow(half: SimulatedCells) -> None:
    """NaN inside the mask and any value outside it are both gaps; the three ways to say it give the same volume."""
    stack = half.measured[:12]
    mask = np.random.default_rng(0).random(stack.shape) < 0.8
    both = mask & half.mask[:12]
    result = recover(stack, mask=mask, rank=RANK)
    np.testing.assert_array_equal(result.measured, both)
    by_nan = recover(np.where(both, stack, np.nan), rank=RANK)
    by_mask = recover(np.where(both, stack, -1e4).astype(np.float32), mask=both, rank=RANK)
    np.testing.assert_array_equal(result.volume.data, by_nan.volume.data)
    np.testing.assert_array_equal(result.volume.data, by_mask.volume.data)


@pytest.mark.parametrize("garbage", [-np.inf, 3e38])
def test_recover_does_not_mind_garbage_under_the_mask(
    half: SimulatedCells, half_recovered: Recovery, garbage: float
) -> None:
    data = np.where(half.mask, half.measured, np.float32(garbage))
    dirty = recover(data, mask=half.mask, rank=RANK)
    np.testing.assert_array_equal(dirty.volume.data, half_recovered.volume.data)
    assert dirty.noise == half_recovered.noise


@pytest.mark.parametrize("factor", [2, 3])
def test_recover_keeps_the_given_planes_between_which_it_fills(full: SimulatedCells, factor: int) -> None:
    volume = Volume(full.measured, spacing=(1.2, 0.2, 0.1))
    result = recover(volume, axial_factor=factor, rank=RANK)
    planes = (SHAPE[0] - 1) * factor + 1
    assert result.volume.shape == (planes, *SHAPE[1:])
    assert result.volume.spacing == (1.2 / factor, 0.2, 0.1)
    assert result.outliers.shape == SHAPE
    inlier = result.outliers == 0
    np.testing.assert_array_equal(result.volume.data[::factor][inlier], full.measured[inlier])
    assert result.measured[::factor].all()
    assert result.measured.sum() == full.measured.size
    assert_whole(result)
    told = f"{planes - SHAPE[0]} of {planes} planes were not measured and are interpolated along z: 1,"
    assert any(note.startswith(told) for note in result.notes)


def test_recover_replaces_measured_voxels_on_request(half: SimulatedCells, half_recovered: Recovery) -> None:
    for asked in ({"keep_measured": False}, {"noise": 3.0}):
        result = recover(half.measured, rank=RANK, **asked)
        changed = (result.volume.data != half.measured)[half.mask]
        assert changed.mean() > 0.99
        # Denoising is what it is for: the truth is closer, by 2 dB at least, where it was measured.
        gain = error(half_recovered, half.truth, half.mask) / error(result, half.truth, half.mask)
        assert gain > 10 ** (2 / 20)
        np.testing.assert_array_equal(result.measured, half.mask)
        assert_whole(result)


def test_recover_denoises_what_is_fully_measured(full: SimulatedCells) -> None:
    result = recover(full.measured)
    # 3.4 is the root mean square of the noise; two decibels of it must go.
    assert error(result, full.truth) < 10 ** (-2 / 20) * error(full.measured, full.truth)
    assert result.measured.all()
    # the noise grows with the intensity; what is told is that at the intensity of structures
    assert result.noise == pytest.approx(error(full.measured, full.truth), rel=0.35)


def test_recover_keeps_a_full_volume_when_told_to(full: SimulatedCells) -> None:
    result = recover(full.measured, keep_measured=True, rank=RANK)
    inlier = result.outliers == 0
    np.testing.assert_array_equal(result.volume.data[inlier], full.measured[inlier])


def test_recover_without_noise_returns_a_full_volume_as_it_is(full: SimulatedCells) -> None:
    """Wiener's weight of a voxel's own value is 1 - 0 / variance."""
    result = recover(full.truth, noise=0.0, rank=RANK, robust=False)
    # Model plus residual, added in float32: a few units in the last place of the largest value.
    np.testing.assert_allclose(result.volume.data, full.truth, rtol=0, atol=1e-5 * full.truth.max())


def test_recover_smooths_more_when_told_of_more_noise(full: SimulatedCells) -> None:
    stack = full.measured[:12]
    change = [error(recover(stack, noise=noise, rank=RANK), stack) for noise in (0.5, 2.0, 4.0)]
    assert change[0] < 0.5 * change[1] < change[1] < change[2]


# ------------------------------------------------------------------------------------------ gaps and planes


def test_recover_fills_gaps_better_than_neighbours_or_model_alone(
    half: SimulatedCells, half_recovered: Recovery
) -> None:
    missing = ~half.mask
    whole = error(half_recovered, half.truth, missing)
    model = error(recover(half.measured, method="tucker", rank=RANK, neighbours=False), half.truth, missing)
    assert whole < 0.97 * model
    assert whole < 0.9 * error(median_fill(half.measured), half.truth, missing)


def median_fill(data: np.ndarray) -> np.ndarray:
    """NaN-median of 3 x 3 x 3 voxels at the gaps, the overall median where none of them was measured."""
    wide = np.pad(data, 1, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(wide, (3, 3, 3))[np.isnan(data)].reshape(-1, 27)
    ordered = np.sort(windows, axis=1)
    count = np.sum(~np.isnan(windows), axis=1)
    rows = np.arange(len(windows))
    middle = (ordered[rows, np.maximum(count - 1, 0) // 2] + ordered[rows, count // 2]) / 2
    out = data.copy()
    out[np.isnan(data)] = np.where(count > 0, middle, np.nanmedian(data))
    return out


MISSING = [
    ([5], "1 of 24 planes was not measured and is interpolated along z: 5"),
    (
        [0, 1, 10, 11, 23],
        "5 of 24 planes were not measured and are interpolated along z: 0, 1, 10, 11, 23 "
        "(3 of them lie beyond the measured planes and repeat the nearest one)",
    ),
    ([*range(1, 12), *range(13, 24)], "(11 of them lie beyond the measured planes and repeat the nearest one)"),
]


@pytest.mark.parametrize(("planes", "note"), MISSING)
@pytest.mark.parametrize("keep", [True, False])
def test_recover_fills_missing_planes_and_names_them(
    full: SimulatedCells, planes: list[int], note: str, keep: bool
) -> None:
    data = full.measured.copy()
    data[planes] = np.nan
    rank = (2, 4, 4)
    result = recover(data, rank=rank, keep_measured=keep)
    assert_whole(result)
    assert any(line.endswith(note) for line in result.notes)
    assert not result.measured[planes].any()
    for plane in planes:  # as bright as its nearest measured plane, within a factor of two
        near = min(set(range(24)) - set(planes), key=lambda other: abs(other - plane))
        assert 0.5 < result.volume.data[plane].mean() / full.truth[near].mean() < 2


def test_recover_numbers_missing_planes_as_in_the_output(full: SimulatedCells) -> None:
    data = full.measured[:6].copy()
    data[2] = np.nan
    result = recover(data, axial_factor=2, rank=(2, 4, 4))
    assert "6 of 11 planes were not measured and are interpolated along z: 1, 3, 4, 5, 7, 9" in result.notes
    np.testing.assert_array_equal(np.flatnonzero(result.measured.any(axis=(1, 2))), [0, 2, 6, 8, 10])
    assert_whole(result)


@pytest.mark.parametrize("how", ["axial_factor", "mask"])
def test_recover_fills_planes_of_a_volume_linear_in_z_exactly(how: str) -> None:
    rng = np.random.default_rng(0)
    slope, level = rng.random((20, 22)), 5 + rng.random((20, 22))
    truth = level + slope * np.arange(13.0)[:, None, None]
    if how == "axial_factor":
        result = recover(truth[::3], axial_factor=3, rank=2, nonnegative=False)
    else:
        mask = np.zeros(truth.shape, bool)
        mask[[0, 1, 4, 9, 12]] = True
        result = recover(truth, mask=mask, rank=2)
    assert result.outlier_count == 0
    # Measured planes are kept, and kriging weights are solved for with a nugget of 1e-5.
    np.testing.assert_allclose(result.volume.data, truth, rtol=0, atol=1e-7)


def test_recover_of_planes_with_a_few_voxels_only(full: SimulatedCells) -> None:
    """A plane with next to nothing measured is filled along z; the few voxels measured there are still kept."""
    data = full.measured.copy()
    few = np.zeros(SHAPE, bool)
    few[7].ravel()[::200] = True
    data[7][~few[7]] = np.nan
    result = recover(data, rank=RANK)
    np.testing.assert_array_equal(result.measured, few | ~np.isin(np.arange(24), [7])[:, None, None])
    np.testing.assert_array_equal(result.volume.data[few], full.measured[few])
    # Nearly as good as with the plane wholly missing, and far better than a plane of a model that never saw it.
    assert error(result, full.truth, ~result.measured) < 2 * error(full.measured, full.truth)
    assert any("of 24 planes" in note for note in result.notes)


def test_recover_of_a_column_seen_in_a_nearly_empty_plane_only(full: SimulatedCells) -> None:
    """That plane takes no part in the fit, so the column must not be left to a model that never saw it."""
    data = full.measured.copy()
    data[:, :, 20] = np.nan
    data[3] = np.nan
    data[3, 20, 20] = full.measured[3, 20, 20]
    result = recover(data, rank=RANK)
    column = np.s_[:, :, 20]
    assert error(result.volume.data[column], full.truth[column]) < 0.3 * full.truth[column].mean()
    assert result.volume.data[3, 20, 20] == data[3, 20, 20]  # the one measured voxel keeps its value


@pytest.mark.parametrize(("share", "keep"), [(0.004, True), (0.04, False)])
def test_recover_in_slabs_gives_what_one_slab_gives(
    half: SimulatedCells, share: float, keep: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slabs of one plane, and outliers of all sizes: whether the small ones count depends on the planes beside them."""
    rng = np.random.default_rng(0)
    spoilt = half.measured + np.where(rng.random(SHAPE) < share, rng.uniform(0, 300, SHAPE), 0).astype(np.float32)
    one = recover(spoilt, rank=RANK, keep_measured=keep, method="tucker")  # groups of patches know no slabs
    monkeypatch.setattr(slabs, "SLAB_VOXELS", SHAPE[1] * SHAPE[2])
    many = recover(spoilt, rank=RANK, keep_measured=keep, method="tucker")
    assert one.outlier_count > 20
    np.testing.assert_array_equal(many.outliers != 0, one.outliers != 0)
    # Products of other shapes are summed in another order: float32 rounding of values up to 300.
    np.testing.assert_allclose(many.volume.data, one.volume.data, rtol=0, atol=1e-3)
    np.testing.assert_allclose(many.outliers, one.outliers, rtol=0, atol=1e-3)


# ----------------------------------------------------------------------------------------------- invariances


@pytest.mark.parametrize("kind", ["half", "full", "planes"])
def test_recover_follows_the_unit(half: SimulatedCells, full: SimulatedCells, kind: str) -> None:
    data = half.measured if kind == "half" else full.measured
    factor = 2 if kind == "planes" else 1
    one = recover(data[:12], axial_factor=factor)
    other = recover(np.float32(2.0**20) * data[:12], axial_factor=factor)
    assert other.rank == one.rank
    assert other.noise == pytest.approx(2.0**20 * one.noise)
    np.testing.assert_array_equal(other.outliers != 0, one.outliers != 0)
    # Powers of two scale floats exactly; what is left is the eigensolver's freedom, by which few coefficients of groups
    # fall on the other side of a threshold.
    assert error(other.volume.data / 2.0**20, one.volume.data) < 1e-3 * float(np.nanmax(data))


def test_recover_times_a_million_is_a_million_times_the_result(half: SimulatedCells) -> None:
    data = half.measured[:12].astype(float)
    one, other = recover(data, rank=RANK), recover(1e6 * data, rank=RANK)
    assert other.status == one.status
    assert len(other.history) == len(one.history)
    # Groups are filtered in float32: few coefficients at the threshold fall on its other side.
    assert error(other.volume.data / 1e6, one.volume.data) < 1e-3 * float(np.nanmax(data))


@pytest.mark.parametrize("kind", ["half", "full"])
def test_recover_bears_a_camera_offset(half: SimulatedCells, full: SimulatedCells, kind: str) -> None:
    """An offset costs the model at most a rank: the error stays within a tenth, and nothing is flagged."""
    cells = half if kind == "half" else full
    missing = ~cells.mask if kind == "half" else True
    without, with_offset = recover(cells.measured), recover(cells.measured + np.float32(400))
    assert error(with_offset, cells.truth + 400, missing) < 1.1 * error(without, cells.truth, missing)
    assert with_offset.outlier_count < 0.002 * cells.mask.sum()


def test_recover_of_channels_and_frames_is_that_of_each_stack() -> None:
    one = [simulate_cells((10, 24, 26), cells=4, keep_pixels=0.6, seed=seed).measured for seed in range(2)]
    one[1] = 50 * one[1] + 1000  # its own statistics
    alone = [recover(stack, rank=(3, 6, 6)) for stack in one]
    for axes, axis in (("CZYX", 0), ("TZYX", 0), ("ZCYX", 1), ("ZYXC", 3)):
        data = np.stack(one, axis=axis)
        data.setflags(write=False)
        result = recover(data, axes=axes, rank=(3, 6, 6))
        assert result.volume.axes == axes
        assert result.volume.shape == result.measured.shape == result.outliers.shape == data.shape
        for index, single in enumerate(alone):
            np.testing.assert_array_equal(result.volume.data.take(index, axis), single.volume.data)
            np.testing.assert_array_equal(result.measured.take(index, axis), single.measured)
            np.testing.assert_array_equal(result.outliers.take(index, axis), single.outliers)
            label = f"{axes[axis]}={index}"
            assert result.rank[label] == single.rank
            assert result.noise[label] == single.noise
            assert all(f"{label}: {note}" in result.notes for note in single.notes)
        assert result.outlier_count == sum(single.outlier_count for single in alone)
        assert len(result.history) == sum(len(single.history) for single in alone)


def test_recover_of_frames_and_channels_with_fewer_planes() -> None:
    data = np.random.default_rng(0).random((2, 4, 3, 12, 14)).astype(np.float32)
    result = recover(data, axes="TZCYX", axial_factor=2, rank=2)
    assert result.volume.shape == (2, 7, 3, 12, 14)
    assert set(result.rank) == {f"T={t}, C={c}" for t in range(2) for c in range(3)}
    inlier = result.outliers == 0
    np.testing.assert_array_equal(result.volume.data[:, ::2][inlier], data[inlier])


def test_recover_finds_z_wherever_it_is(half: SimulatedCells) -> None:
    stack = half.measured[:12]
    straight = recover(stack, axial_factor=2, rank=RANK)
    for axes in ("YXZ", "XZY"):
        turned = stack.transpose(["ZYX".index(letter) for letter in axes])
        result = recover(Volume(turned, axes=axes, spacing=(2.0, 0.5, 0.4)), axial_factor=2, rank=RANK)
        back = result.volume.data.transpose([axes.index(letter) for letter in "ZYX"])
        np.testing.assert_array_equal(back, straight.volume.data)
        assert result.volume.axes == axes
        assert result.volume.spacing == (1.0, 0.5, 0.4)


def test_recover_of_a_volume_keeps_what_is_known_of_it(half: SimulatedCells) -> None:
    metadata = {"channel_names": ["DAPI"], "time_interval": 2.5, "objective": {"NA": 1.2}}
    volume = Volume(np.nan_to_num(half.measured), spacing=(0.5, 0.2, 0.2), mask=half.mask, metadata=metadata)
    result = recover(volume, rank=RANK)
    assert dict(result.volume.metadata) == metadata
    assert result.volume.spacing == volume.spacing
    assert result.volume.mask is None
    array = recover(half.measured, rank=RANK, spacing=(0.5, 0.2, 0.2))
    assert array.volume.spacing == (0.5, 0.2, 0.2)
    np.testing.assert_array_equal(result.volume.data, array.volume.data)
    further = np.random.default_rng(0).random(SHAPE) < 0.8
    np.testing.assert_array_equal(
        recover(volume, mask=further, rank=RANK, method="tucker").measured, half.mask & further
    )


def test_recover_leaves_the_input_alone_and_shares_no_memory(half: SimulatedCells) -> None:
    data, mask = half.measured[:12].copy(), half.mask[:12].copy()
    result = recover(data, mask=mask, rank=RANK, nonnegative=False)
    np.testing.assert_array_equal(data, half.measured[:12])
    np.testing.assert_array_equal(mask, half.mask[:12])
    assert not np.shares_memory(result.volume.data, data)
    assert not np.shares_memory(result.measured, mask)


def test_recover_does_not_depend_on_the_memory_layout(half: SimulatedCells, half_recovered: Recovery) -> None:
    for odd in (np.asfortranarray(half.measured), half.measured[::-1, :, ::-1].copy()[::-1, :, ::-1]):
        np.testing.assert_array_equal(recover(odd, rank=RANK).volume.data, half_recovered.volume.data)


@pytest.mark.parametrize(("given", "wanted"), [
    ("bool", "float32"), ("uint8", "float32"), ("int8", "float32"), ("uint16", "float32"), ("float16", "float32"),
    ("float32", "float32"), (">f4", "float32"), ("uint32", "float64"), ("int64", "float64"), (">f8", "float64"),
])  # fmt: skip
def test_float_type_holds_all_values(given: str, wanted: str) -> None:
    assert float_type(given) == np.dtype(wanted)


def test_recover_of_large_integers_keeps_every_digit(half: SimulatedCells) -> None:
    data = (np.nan_to_num(half.measured).clip(0) * 1e7).astype(np.uint32)
    result = recover(data, mask=half.mask, rank=RANK)
    assert result.volume.dtype == np.float64
    inlier = half.mask & (result.outliers == 0)
    np.testing.assert_array_equal(result.volume.data[inlier].astype(np.uint32), data[inlier])


# -------------------------------------------------------------------------------------------- constant input


@pytest.mark.parametrize("value", [0, 7])
def test_recover_returns_a_constant_volume_as_it_is(value: int) -> None:
    result = recover(np.full((4, 8, 9), value, np.uint8), axial_factor=2)
    np.testing.assert_array_equal(result.volume.data, np.full((7, 8, 9), value, np.float32))
    assert result.status is Status.UNCHANGED
    assert result.notes[0] == f"all measured voxels have the value {value}, which is returned everywhere"
    assert (result.uncertainty[~result.measured] == (value or 1)).all()  # nothing tells an error there
    assert not result.uncertainty[result.measured].any()
    assert result.outlier_count == 0
    assert not result.outliers.any()
    assert result.history == ()
    np.testing.assert_array_equal(result.measured.any(axis=(1, 2)), [1, 0, 1, 0, 1, 0, 1])


def test_recover_fills_gaps_of_a_constant_volume_with_the_constant() -> None:
    data = np.where(np.random.default_rng(0).random((4, 8, 9)) < 0.5, 3.5, np.nan)
    assert (recover(data).volume.data == 3.5).all()


def test_recover_reports_the_worst_status_of_all_stacks(full: SimulatedCells) -> None:
    data = np.stack([np.full((8, *SHAPE[1:]), 5, np.float32), full.measured[:8]])
    result = recover(data, axes="CZYX", rank=(3, 5, 5))
    assert result.status is not Status.UNCHANGED
    assert (result.volume.data[0] == 5).all()


# -------------------------------------------------------------------------------------------------- outliers


def spoil(data: np.ndarray, share: float, size: tuple[float, float], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Add positive outliers to a share of the measured voxels; also where."""
    rng = np.random.default_rng(seed)
    hot = ~np.isnan(data) & (rng.random(data.shape) < share)
    return data + np.where(hot, rng.uniform(*size, data.shape), 0).astype(data.dtype), hot


@pytest.mark.parametrize(("keep", "share"), [(0.5, 0.002), (1.0, 0.05)])
def test_recover_finds_hot_pixels(keep: float, share: float) -> None:
    cells = simulate_cells((24, 40, 44), cells=6, keep_pixels=keep, seed=1)
    data, hot = spoil(cells.measured, share, (150.0, 300.0))
    result = recover(data, rank=RANK)
    found = result.outliers != 0
    assert result.outliers.shape == data.shape
    assert result.outliers.dtype == np.float32
    assert not (found & ~cells.mask).any()
    assert result.outlier_count == found.sum()
    assert (found & hot).sum() >= 0.9 * hot.sum()
    assert (found & hot).sum() >= 0.85 * found.sum()
    # The flagged part is what was added, up to noise and model; and the volume has the cells there, not the outliers.
    wrong = found & hot
    assert error(result.outliers, data - cells.truth, wrong) < 0.15 * 225
    assert error(result, cells.truth, wrong) < 0.15 * 225
    said = f"{found.sum()} of {cells.mask.sum()} measured voxels are defects and were replaced: "
    assert any(note.startswith(said) for note in result.notes)
    assert sum(result.defects.values()) == found.sum()


def test_recover_finds_dead_pixels(full: SimulatedCells) -> None:
    data = full.measured + np.float32(300)
    dead = np.random.default_rng(0).random(SHAPE) < 0.02
    data[dead] = 0
    result = recover(data, rank=RANK)
    found = result.outliers != 0
    assert (found & dead).sum() >= 0.9 * dead.sum()
    assert (result.outliers[found & dead] < 0).all()


def test_recover_places_outliers_right_where_planes_are_missing(full: SimulatedCells) -> None:
    """The fit sees the measured planes only; its outliers must be numbered as in the input."""
    data, hot = spoil(full.measured, 0.01, (150.0, 300.0))
    data[[0, 1, 9, 10]] = np.nan
    hot[[0, 1, 9, 10]] = False
    result = recover(data, rank=RANK, axial_factor=2)
    found = result.outliers != 0
    assert result.outliers.shape == data.shape
    assert (found & hot).sum() >= 0.9 * max(hot.sum(), found.sum())
    assert error(result.volume.data[::2], full.truth, found & hot) < 0.15 * 225
    np.testing.assert_array_equal(
        result.volume.data[::2][result.measured[::2] & ~found], data[~np.isnan(data) & ~found]
    )


def test_recover_looks_for_no_outliers_when_told_not_to(half: SimulatedCells) -> None:
    data, hot = spoil(half.measured, 0.02, (150.0, 300.0))
    result = recover(data, rank=RANK, robust=False)
    assert result.outlier_count == 0
    assert not result.outliers.any()
    np.testing.assert_array_equal(result.volume.data[hot], data[hot])


@pytest.mark.parametrize("fwhm", [2.0, 3.0])
@pytest.mark.parametrize("keep", [1.0, 0.5])
def test_recover_does_not_take_resolved_spots_for_outliers(fwhm: float, keep: float) -> None:
    """Beads as narrow as sampling by Nyquist's rule makes them, some on the grid and some between."""
    rng = np.random.default_rng(0)
    grid = np.mgrid[:24, :40, :44]
    places = np.array([(z, y, x) for z in (4, 12, 19) for y in (6, 16, 26, 35) for x in (8, 20, 32)], float)
    places[::2] += rng.uniform(-0.5, 0.5, (len(places[::2]), 3))
    spots = sum(np.exp(-np.square(grid.T - p).sum(axis=3).T / (2 * (fwhm / 2.355) ** 2)) for p in places)
    data = 10 + 100 * spots + rng.standard_normal(spots.shape)
    data[rng.random(data.shape) >= keep] = np.nan
    result = recover(data.astype(np.float32), rank=RANK)
    assert np.count_nonzero((result.outliers != 0) & (spots > 0.2)) <= 1


def test_recover_of_clean_cells_flags_next_to_nothing(
    full: SimulatedCells, half: SimulatedCells, half_recovered: Recovery
) -> None:
    assert recover(full.measured, rank=RANK).outlier_count <= 2e-4 * full.mask.sum()
    assert half_recovered.outlier_count <= 2e-4 * half.mask.sum()


# ------------------------------------------------------------------------------------- arguments that matter


def test_recover_nonnegative() -> None:
    """Background near zero: a free fit undershoots, and with negative data the result may go below as well."""
    cells = simulate_cells((12, 30, 32), cells=3, background=0.0, read_noise=0.3, keep_pixels=0.4, seed=2)
    data = np.maximum(cells.measured, 0)
    rank = (4, 8, 8)
    assert recover(data, rank=rank, nonnegative=False).volume.data.min() < 0
    for asked in ("auto", True):
        assert recover(data, rank=rank, nonnegative=asked).volume.data.min() >= 0
    assert recover(data - 5, rank=rank).volume.data.min() < 0


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (3, (3, 3, 3)),
        ((2, 4, 3), (2, 4, 3)),
        ([1, 2, 2], (1, 2, 2)),
        (np.int64(2), (2, 2, 2)),
        (np.array([2, 4, 3]), (2, 4, 3)),
    ],
)
def test_recover_takes_the_rank_given(full: SimulatedCells, given: Any, wanted: tuple[int, ...]) -> None:
    assert recover(full.measured[:6], rank=given).rank == wanted


def test_recover_chooses_a_rank_that_predicts_well(half: SimulatedCells) -> None:
    chosen = recover(half.measured, method="tucker")
    missing = ~half.mask
    others = [
        error(recover(half.measured, method="tucker", rank=rank), half.truth, missing)
        for rank in (1, (5, 8, 9), (8, 14, 15))
    ]
    # A twentieth of the voxels decides; its noise makes near-ties a matter of chance.
    assert error(chosen, half.truth, missing) < 1.03 * min(others)
    assert all(1 <= r <= size for r, size in zip(chosen.rank, SHAPE, strict=True))


@pytest.mark.parametrize("noise", [np.float32(2.0), np.int64(2), 2])
def test_recover_takes_any_number_as_noise(full: SimulatedCells, noise: Any) -> None:
    assert recover(full.measured[:6], noise=noise, rank=2).noise == 2.0


def test_recover_is_the_same_each_time(half: SimulatedCells) -> None:
    a, b = (recover(half.measured[:12], seed=5) for _ in range(2))
    np.testing.assert_array_equal(a.volume.data, b.volume.data)
    assert a.rank == b.rank
    assert a.notes == b.notes


def test_recover_calls_back_with_every_record_of_the_history(half: SimulatedCells) -> None:
    seen: list[Any] = []
    result = recover(half.measured, rank=RANK, callback=lambda record, state: seen.append(record))
    assert tuple(seen) == result.history
    assert [record.iteration for record in seen] == list(range(1, len(seen) + 1))
    assert all(math.isfinite(record.residual) and record.outliers >= 0 for record in seen)


@pytest.mark.parametrize(("stop_at", "factor"), [(1, 2), (3, 1)])
def test_recover_stopped_by_the_callback_still_returns_a_whole_volume(
    half: SimulatedCells, stop_at: int, factor: int
) -> None:
    result = recover(
        half.measured, rank=RANK, axial_factor=factor, callback=lambda record, state: record.iteration == stop_at
    )
    assert result.status is Status.STOPPED
    assert len(result.history) == stop_at
    assert_whole(result)
    inlier = half.mask & (result.outliers == 0)
    assert inlier.sum() > 0.5 * half.mask.sum()
    np.testing.assert_array_equal(result.volume.data[::factor][inlier], half.measured[inlier])


def test_recover_passes_an_interruption_on(half: SimulatedCells) -> None:
    def interrupt(record: Any, state: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recover(half.measured, rank=RANK, callback=interrupt)


def test_recover_says_when_the_fit_was_cut_short(half: SimulatedCells) -> None:
    result = recover(half.measured, method="tucker", rank=RANK, max_iterations=1, tolerance=1e-9)
    assert result.status is Status.MAX_ITERATIONS
    assert f"the fit {Status.MAX_ITERATIONS}" in result.notes


def test_recover_result_is_complete(half: SimulatedCells) -> None:
    result = tc.recover(half.measured, method="tucker", rank=RANK, device="cpu")
    assert result.uncertainty.shape == result.volume.shape
    assert np.isfinite(result.uncertainty).all()
    assert result.seconds > 0
    assert str(result.status)
    assert len(result.history) > 0
    with pytest.raises(AttributeError):
        result.status = Status.STOPPED  # type: ignore[misc]


# ------------------------------------------------------------------------------------------- tiny and sparse


@pytest.mark.parametrize("shape", [(2, 2, 2), (3, 3, 3), (2, 30, 30), (30, 2, 2), (3, 2, 40)])
@pytest.mark.parametrize("factor", [1, 3])
def test_recover_of_small_volumes(shape: tuple[int, ...], factor: int) -> None:
    rng = np.random.default_rng(0)
    data = 1 + rng.random(shape)
    result = recover(data, axial_factor=factor)
    assert result.volume.shape == ((shape[0] - 1) * factor + 1, *shape[1:])
    assert_whole(result)
    assert 0.5 < result.volume.data.min() < result.volume.data.max() < 3


@pytest.mark.parametrize("share", [0.01, 0.05])
def test_recover_of_very_few_voxels_stays_below_the_error_of_their_mean(share: float) -> None:
    cells = simulate_cells((24, 40, 44), cells=6, seed=1)
    mask = np.random.default_rng(0).random(cells.truth.shape) < share
    result = recover(cells.measured, mask=mask)
    assert_whole(result)
    assert error(result, cells.truth) < 0.95 * error(cells.measured[mask].mean(), cells.truth)


def test_recover_of_counts_of_which_most_are_zero_keeps_the_law_of_photons() -> None:
    """The median of the residual is 0 where most voxels caught no photon: it says nothing about the noise."""
    z, y, x = np.indices((14, 48, 48))
    spot = 60 * np.exp(-((z - 7) ** 2 / 2 + (y - 20) ** 2 / 3 + (x - 30) ** 2 / 3))
    truth = 0.05 * (1 + np.sin(y / 7)) + spot
    data = np.random.default_rng(0).poisson(truth).astype(np.float32)
    assert np.mean(data == 0) > 0.9
    result = recover(data)
    assert result.noise == pytest.approx(math.sqrt(data.mean()), rel=0.1)
    assert error(result, truth) < 0.5 * error(data, truth)
    assert np.mean(np.abs(result.volume.data - truth) <= 1.645 * result.uncertainty) > 0.5
    assert result.volume.data[7, 20, 30] == pytest.approx(truth[7, 20, 30], abs=3 * 60**0.5)


def test_recover_of_sparse_structures_on_a_zero_background() -> None:
    """Most voxels are exactly 0, so medians are 0 too: neither the choice of the rank nor the outliers may trip."""
    z, y, x = np.mgrid[:16, :40, :44]
    truth = 200 * np.exp(-((y - 20 - 8 * np.sin(x / 6)) ** 2 + (z - 8) ** 2) / 6)
    truth[truth < 1] = 0
    mask = np.random.default_rng(0).random(truth.shape) < 0.6
    result = recover(np.where(mask, truth, np.nan).astype(np.float32))
    assert result.outlier_count <= 1e-3 * mask.sum()
    assert error(result, truth, ~mask) < 0.15 * error(0.0, truth, ~mask)


# ------------------------------------------------------------------------------------------------- bad input


def stack(shape: tuple[int, ...] = (6, 10, 12)) -> np.ndarray:
    return np.random.default_rng(0).random(shape).astype(np.float32)


def with_value(value: float, *where: Any) -> np.ndarray:
    data = stack()
    data[where] = value
    return data


BAD: list[tuple[Callable[[], Any], str]] = [
    (lambda: recover(with_value(np.inf, 1, 2, 3)), "expected finite values at measured voxels, got 1 infinite"),
    (lambda: recover(with_value(-np.inf, 1, 2)), "expected finite values at measured voxels, got 12 infinite"),
    (lambda: recover(with_value(np.nan, ...)), "expected at least one measured voxel, got none of 720"),
    (lambda: recover(stack(), mask=np.zeros((6, 10, 12), bool)), "expected at least one measured voxel, got none"),
    (lambda: recover(with_value(np.nan, slice(None), slice(0, 9))), "expected at least 2 measured rows, got 1 of 10"),
    (lambda: recover(with_value(np.nan, ..., slice(0, 11))), "expected at least 2 measured columns, got 1 of 12"),
    (lambda: recover(with_value(np.nan, slice(1, None))), "expected at least 2 measured planes, got 1 of 6"),
    (lambda: recover(stack((1, 10, 12)), axial_factor=2), "expected axial factor 1, since single planes have none"),
    (lambda: recover(stack((1, 1, 1))), "expected planes of at least 2 x 2 pixels, got 1 x 1"),
    (lambda: recover(stack((6, 1, 12))), "expected planes of at least 2 x 2 pixels, got 1 x 12"),
    (lambda: recover(stack((2, 6, 10, 12))), "data has 4 axes .* without names; pass axes="),
    (lambda: recover(stack((12,))), "data has 1 axis .*expected a plane"),
    (lambda: recover(stack().astype(complex)), "data has dtype complex128, expected integers or floats"),
    (lambda: recover(stack(), mask=np.ones((6, 10), bool)), r"mask has shape \(6, 10\), data has shape \(6, 10, 12\)"),
    (lambda: recover(stack(), rank=(2, 2)), "rank has 2 entries, a stack has 3 axes"),
    (lambda: recover(stack(), rank=7), "rank 7 along z is larger than the size of z, 6"),
    (lambda: recover(stack(), rank=(5, 11, 5)), "rank 11 along y is larger than the size of y, 10"),
    (lambda: recover(stack(), rank=(1, 2, 5)), "rank 5 along x is larger than the product of the other two, 2"),
    (lambda: recover(with_value(np.nan, 3), rank=6), "rank 6 along z is larger than the measured planes, 5"),
    (lambda: recover(stack(), rank=0), "expected whole numbers of at least 1 as rank, got 0"),
    (lambda: recover(stack(), rank=(2, 2.5, 2)), r"expected whole numbers of at least 1 as rank, got \(2, 2.5, 2\)"),
    (lambda: recover(stack(), rank=2.5), "rank"),
    (lambda: recover(stack(), rank=None), "rank"),
    (lambda: recover(with_value(-3, 1, 2, 3), nonnegative=True), "nonnegative=True, but measured values go down to -3"),
    (lambda: recover(stack(), nonnegative="yes"), "expected nonnegative 'auto', True or False, got 'yes'"),
    (lambda: recover(stack(), keep_measured="no"), "expected keep_measured 'auto', True or False, got 'no'"),
    (lambda: recover(stack(), noise=-1.0), "expected noise 'auto' or a standard deviation of at least 0, got -1.0"),
    (lambda: recover(stack(), noise=np.nan), "expected noise 'auto' or a standard deviation of at least 0, got nan"),
    (lambda: recover(stack(), noise="low"), "expected noise 'auto' or a standard deviation of at least 0, got 'low'"),
    (lambda: recover(stack(), axial_factor=0), "expected a whole number of at least 1 as axial factor, got 0"),
    (lambda: recover(stack(), axial_factor=1.5), "expected a whole number of at least 1 as axial factor, got 1.5"),
    (lambda: recover(stack(), axial_factor=True), "expected a whole number of at least 1 as axial factor, got True"),
    (lambda: recover(stack(), axial_factor="two"), "expected a whole number of at least 1 as axial factor, got 'two'"),
    (lambda: recover(stack(), axial_factor=None), "expected a whole number of at least 1 as axial factor, got None"),
    (lambda: recover(stack(), axial_factor=np.nan), "expected a whole number of at least 1 as axial factor, got nan"),
    (lambda: recover(stack(), axial_factor=np.inf), "expected a whole number of at least 1 as axial factor, got inf"),
    (lambda: recover(stack(), method="diffuse"), "expected method auto or tucker or local or"),
    (lambda: recover(stack(), device="gpu"), "expected device auto, cpu, cuda or cuda:NUMBER, got 'gpu'"),
    (lambda: recover(stack(), tolerance=0.0), "expected a positive tolerance, got 0.0"),
    (lambda: recover(stack(), max_iterations=0), "expected a whole number of at least 1 as max_iterations, got 0"),
    (lambda: recover(np.stack([with_value(np.nan, ...)] * 2), axes="TZYX"), "^T=0: expected at least one"),
    (lambda: recover(np.stack([stack(), with_value(-3, 1, 2, 3)]), axes="TZYX", nonnegative=True), "^T=1: nonnegative"),
    (lambda: recover(stack(), missing_value="0"), "expected a number as missing value, got '0'"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_recover_refuses_bad_input_in_one_clear_line(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_recover_refuses_unknown_options() -> None:
    with pytest.raises(TypeError, match="axial_faktor"):
        recover(stack(), axial_faktor=2)


def test_recover_on_cuda_gives_what_the_cpu_gives(half: SimulatedCells) -> None:
    problem = device.cuda_problem()
    if problem:
        with pytest.raises(InputError, match="device 'cuda' needs a CUDA GPU and CuPy"):
            recover(half.measured, device="cuda")
        return
    cpu, gpu = (recover(half.measured, rank=RANK, device=device) for device in ("cpu", "cuda"))
    assert isinstance(gpu.volume.data, np.ndarray)
    # The fit ends at a relative change of 1e-2: two paths of rounding may differ by a fraction of that.
    assert error(gpu, cpu.volume.data) < 1e-2 * error(cpu, np.zeros(1))


# ---------------------------------------------------------------------------------------------- real volumes


@pytest.mark.parametrize(
    ("name", "crop"),
    [
        ("nuclei_chromocenters_clean", np.s_[20:44, 15:55, 15:55]),
        ("flybrain_confocal_neuropil", np.s_[10:34, 64:112, 64:112]),
    ],
    ids=["nuclei", "flybrain"],
)
def test_recover_beats_the_median_of_neighbours_on_real_volumes(volumes_folder: Path, name: str, crop: Any) -> None:
    """Half of the pixels missing, 5 % of the others uniform on [0, 2], on a volume scaled to [0, 1]."""
    raw = tc.read(volumes_folder / f"{name}.tif").data.astype(np.float32)
    low, high = np.percentile(raw, [0.1, 99.9])
    truth = ((np.clip(raw, low, high) - low) / (high - low))[crop]
    rng = np.random.default_rng(0)
    mask = rng.random(truth.shape) < 0.5
    wrong = mask & (rng.random(truth.shape) < 0.05)
    data = np.where(mask, np.where(wrong, rng.uniform(0, 2, truth.shape), truth), np.nan).astype(np.float32)
    result = recover(data)
    ours = psnr(truth, result.volume.data, data_range=1, mask=~mask)
    median = psnr(truth, median_fill(data), data_range=1, mask=~mask)
    assert ours > median + 0.3
    assert psnr(truth, result.volume.data, data_range=1) > psnr(truth, median_fill(data), data_range=1)
    inlier = mask & (result.outliers == 0)
    np.testing.assert_array_equal(result.volume.data[inlier], data[inlier])


# ------------------------------------------------------------------------------- groups of patches, uncertainty


def covered(result: Recovery, truth: np.ndarray, where: Any = True) -> float:
    """Share of the voxels whose truth lies within 1.645 standard deviations."""
    inside = np.abs(result.volume.data - truth) <= 1.645 * result.uncertainty
    return float(np.mean(inside, where=where))


def test_recover_local_beats_the_global_model_in_gaps_and_says_so(half: SimulatedCells) -> None:
    gaps = ~half.mask
    both = {method: recover(half.measured, method=method, rank=RANK) for method in ("tucker", "local", "auto")}
    assert error(both["local"], half.truth, gaps) < 0.97 * error(both["tucker"], half.truth, gaps)
    assert both["auto"].notes[0].startswith("method local: at ")
    np.testing.assert_array_equal(both["auto"].volume.data, both["local"].volume.data)
    assert both["auto"].status is Status.COMPLETED


def test_recover_local_denoises_and_knows_how_well(full: SimulatedCells) -> None:
    local, tucker = (recover(full.measured, method=method) for method in ("auto", "tucker"))
    assert error(local, full.truth) < 0.9 * error(tucker, full.truth)
    assert any(note.startswith("measured voxels were denoised by groups of similar patches") for note in local.notes)
    assert 0.8 < covered(local, full.truth) < 0.99


@pytest.mark.parametrize("method", ["local", "tucker"])
def test_recover_covers_what_is_missing(half: SimulatedCells, method: str) -> None:
    result = recover(half.measured, method=method, rank=RANK)
    # the simulated noise makes up most of the left-out errors, of which never more than a third is taken off for it
    assert 0.8 < covered(result, half.truth, ~half.mask) < 0.99
    kept = half.mask & (result.outliers == 0)
    assert 0.85 < covered(result, half.truth, kept) < 0.98  # there it is the noise, which grows with the intensity


def test_recover_is_less_certain_between_planes_and_most_beyond_them(full: SimulatedCells) -> None:
    mask = np.zeros(full.truth.shape, bool)
    mask[0:17:2] = True
    result = recover(full.measured, mask=mask, keep_measured=False)
    at, between = result.uncertainty[0:17:2].mean(), result.uncertainty[1:16:2].mean()
    assert at < between
    assert between < 1.5 * result.uncertainty[20:].mean()


def test_recover_uncertainty_follows_the_unit(half: SimulatedCells) -> None:
    one, other = (recover(scale * half.measured[:12], rank=RANK) for scale in (1, 8))
    np.testing.assert_allclose(other.uncertainty, 8 * one.uncertainty, rtol=1e-3)


def test_recover_says_when_patches_are_cut(full: SimulatedCells) -> None:
    result = recover(full.measured[:3], method="local", rank=(2, 4, 4))
    assert any(note.startswith("patches were cut to 3 voxels along the shortest side") for note in result.notes)


def test_recover_says_when_noise_is_shared_by_neighbours() -> None:
    rng = np.random.default_rng(0)
    noise = ndimage.gaussian_filter(rng.standard_normal((12, 64, 64)), (0, 0.8, 0.8))
    result = recover(100 + 10 * (noise / noise.std()), rank=(1, 1, 1))
    assert any("share looks like structure; it was weighed by that correlation" in note for note in result.notes)


def test_recover_takes_options_of_the_patches_by_name(full: SimulatedCells) -> None:
    stack = full.measured[:8]
    coarse, fine = (recover(stack, method="local", rank=(2, 4, 4), group=group) for group in (4, 16))
    assert not np.array_equal(coarse.volume.data, fine.volume.data)
    with pytest.raises(InputError, match="expected a power of two as group, got 12"):
        recover(stack, group=12)
    with pytest.raises(TypeError, match="group"):
        recover(stack, method="tucker", group=4)


def test_recover_refuses_a_negative_seed(full: SimulatedCells) -> None:
    with pytest.raises(InputError, match="expected a whole number of at least 0 as seed, got -1"):
        recover(full.measured, seed=-1)


def test_a_conformal_width_covers_nine_in_ten_without_the_noise() -> None:
    rng = np.random.default_rng(0)
    errors = np.hypot(2.0, 1.0) * rng.standard_normal(20_000)  # model error 2, noise 1
    # the quantile of 20 000 draws is known to 1 %
    assert conformal_width(errors, 1.0) == pytest.approx(2.0, rel=0.03)
    assert conformal_width(errors, 100.0) == pytest.approx(np.sqrt(0.65 * 5), rel=0.03)  # never all put down to noise
