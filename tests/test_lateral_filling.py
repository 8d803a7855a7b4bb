"""Rows and columns that were measured in no plane: set aside for the model, and filled from those beside them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from problems import SIGMA, given, waves

import tensorcell as tc
from tensorcell.dead_pixels import dead_patches
from tensorcell.lateral_filling import MeasuredLines, fill_lines, measured_lines
from tensorcell.solvers import NoiseModel, fill_planes


def masked(data: np.ndarray, *where: Any) -> np.ndarray:
    """The data with NaN in the given places."""
    data = data.copy()
    for place in where:
        data[place] = np.nan
    return data


COLUMN, PAIR, ROW = np.s_[:, :, 15], np.s_[:, :, 8:10], np.s_[:, 11]


def test_lines_are_set_aside_where_they_hold_nothing_and_places_are_counted_back() -> None:
    _, data, mask = waves(0.9)
    mask[:, :, [0, 7]], mask[:, 31] = False, False
    lines = measured_lines(given(data, mask))
    np.testing.assert_array_equal(np.flatnonzero(~lines.columns), [0, 7])
    np.testing.assert_array_equal(np.flatnonzero(~lines.rows), [31])
    flat = np.arange(data.size).reshape(data.shape)
    part = lines.taken_from(flat)
    np.testing.assert_array_equal(lines.places(np.arange(part.size)), part.ravel())


def test_planes_and_lines_that_hold_only_each_other_are_set_aside_together() -> None:
    """One voxel in a plane of its own and in a column of its own: neither tells a model anything."""
    _, data, mask = waves()
    mask[:, :, 5], mask[3] = False, False
    mask[3, 4, 5] = True
    lines = measured_lines(given(data, mask))
    assert np.flatnonzero(~lines.columns).tolist() == [5]


def test_sparse_random_sampling_sets_only_empty_lines_aside() -> None:
    _, data, mask = waves(0.02)
    lines = measured_lines(given(data, mask))
    np.testing.assert_array_equal(lines.columns, mask.any(axis=(0, 1)))


@pytest.mark.parametrize("axis", [1, 2])
def test_lines_are_filled_as_planes_are(axis: int) -> None:
    """The same numbers as `fill_planes` of the turned stack; errors of voxels that do not hold data are carried on."""
    truth, data, _ = waves()
    present = np.ones(32, bool)
    present[[6, 20, 21]] = False
    lines = MeasuredLines(*(present if axis == number else np.ones(32, bool) for number in (1, 2)))
    part, kept = lines.taken_from(data), np.ones(lines.taken_from(data).shape, bool)
    error, noise = np.full(part.shape, SIGMA), NoiseModel.white(SIGMA)
    found = fill_lines(part, error, kept, lines, noise)
    grid = np.flatnonzero(present)
    turned = fill_planes(np.moveaxis(part, axis, 0), grid, 32, noise=noise, each_gap=True)
    np.testing.assert_array_equal(np.moveaxis(found.volume, axis, 0), turned.volume)
    filled = np.moveaxis(found.error, axis, 0)
    np.testing.assert_allclose(filled[~present], turned.error[~present], rtol=1e-12)
    np.testing.assert_array_equal(filled[grid], SIGMA)
    carried = fill_lines(part, error, ~kept, lines, NoiseModel.white(0.0)).error
    plain = fill_planes(np.moveaxis(part, axis, 0), grid, 32, each_gap=True).error
    np.testing.assert_allclose(np.moveaxis(carried, axis, 0)[~present], np.hypot(plain[~present], SIGMA), rtol=1e-9)
    assert np.mean(np.abs(found.volume - truth) <= 1.645 * found.error) > 0.85


def test_lines_beyond_the_measured_ones_repeat_the_nearest_and_are_as_uncertain_as_the_stack() -> None:
    _, data, _ = waves()
    lines = MeasuredLines(np.ones(32, bool), np.r_[np.zeros(2, bool), np.ones(30, bool)])
    part = lines.taken_from(data)
    found = fill_lines(part, np.full(part.shape, SIGMA), np.ones(part.shape, bool), lines, NoiseModel.white(SIGMA))
    for column in (0, 1):
        np.testing.assert_array_equal(found.volume[:, :, column], data[:, :, 2])
        assert found.error[:, :, column].min() >= 0.999 * data[:, :, 2:].std()
    assert "2 columns lie beyond the measured ones" in found.notes[0]


def test_uncertainty_is_above_zero_where_the_lines_on_both_sides_are_alike() -> None:
    data = np.broadcast_to(np.random.default_rng(0).random((4, 8, 1)), (4, 8, 9)).copy()
    for columns in (np.arange(9) != 4, np.isin(np.arange(9), [0, 3, 8])):  # kriging, and pchip
        lines = MeasuredLines(np.ones(8, bool), columns)
        part = lines.taken_from(data)
        found = fill_lines(part, np.zeros(part.shape), np.ones(part.shape, bool), lines, NoiseModel.white(0.0))
        np.testing.assert_allclose(found.volume, data, rtol=1e-6)
        assert found.error[:, :, ~columns].min() > 0


@pytest.mark.parametrize("where", [COLUMN, PAIR, ROW], ids=["column", "two columns", "row"])
def test_recover_fills_lines_better_than_the_mean_of_their_neighbours(where: Any) -> None:
    ratios, inside = [], []
    for seed in range(3):
        cells = tc.datasets.simulate_cells((8, 40, 40), cells=5, seed=seed)
        truth, data = cells.truth, cells.measured.astype(np.float32)
        result = tc.recover(masked(data, where), method="tucker")
        gap = ~result.measured
        axis = 1 if len(where) == 2 else 2
        turned, lines = np.moveaxis(data, axis, 0), np.flatnonzero(gap.all(axis=tuple({0, 1, 2} - {axis})))
        mean = (turned[lines[0] - 1] + turned[lines[-1] + 1]) / 2
        there = np.moveaxis(truth, axis, 0)[lines]
        ours = np.moveaxis(result.volume.data, axis, 0)[lines]
        ratios.append(np.sqrt(np.mean((ours - there) ** 2) / np.mean((mean - there) ** 2)))
        inside.append(np.mean(np.abs(result.volume.data - truth)[gap] <= 1.645 * result.uncertainty[gap]))
        assert result.uncertainty.min() > 0
        kept = result.measured & (result.outliers == 0)
        np.testing.assert_array_equal(result.volume.data[kept], data[kept])
    assert np.mean(ratios) < 0.9
    assert np.mean(inside) > 0.88


def test_notes_name_the_lines() -> None:
    _, data, _ = waves()
    result = tc.recover(masked(data, COLUMN, PAIR), method="tucker", rank=(2, 3, 3))
    (note,) = [note for note in result.notes if "interpolated along x" in note]
    assert note.startswith("x = 8, 9, 15 were measured in no plane and are interpolated along x (")


@pytest.mark.parametrize("method", ["tucker", "auto"])
@pytest.mark.parametrize("options", [
    {}, {"axial_factor": 2}, {"keep_measured": False}, {"nonnegative": True}, {"noise": SIGMA},
], ids=str)  # fmt: skip
def test_lines_beside_missing_planes_and_outliers(method: str, options: dict[str, Any]) -> None:
    truth, data, _ = waves()
    data = masked(data, COLUMN, ROW, 5)
    data[2, 20, 20] = 500
    result = tc.recover(data, method=method, rank=(2, 3, 3), **options)
    step = options.get("axial_factor", 1)
    assert np.isfinite(result.volume.data).all()
    assert result.uncertainty.min() > 0
    np.testing.assert_array_equal(result.measured[::step], ~np.isnan(data))
    assert np.flatnonzero(result.outliers).tolist() == [np.ravel_multi_index((2, 20, 20), data.shape)]
    gap = ~result.measured[::step]
    assert np.sqrt(np.mean((result.volume.data[::step] - truth)[gap] ** 2)) < 2 * SIGMA


def test_samples_hold_every_row_and_column(monkeypatch: pytest.MonkeyPatch) -> None:
    from test_recovery_stages import method_of, recovered

    _, data, _ = waves()
    result = recovered(monkeypatch, method_of(7.0, samples=2), masked(data, COLUMN, ROW), keep_measured=False)
    assert result.samples is not None
    for sample, value in zip(result.samples, (8, 9), strict=True):
        np.testing.assert_allclose(sample, value, rtol=1e-6)
    assert result.samples.shape == (2, *data.shape)


# -------------------------------------------------------------------------------------------------- dead pixels


def squares(shape: tuple[int, ...], *corners: tuple[int, int], side: int = 3) -> np.ndarray:
    """True where the camera works."""
    mask = np.ones(shape, bool)
    for y, x in corners:
        mask[:, y : y + side, x : x + side] = False
    return mask


def test_dead_patches_are_found_and_sparse_sampling_has_none() -> None:
    mask = squares((6, 30, 30), (4, 5), (20, 11))
    mask[:, 12, 25] = False  # a single pixel is left to the method
    found = dead_patches(mask)
    assert [box for box, _ in found] == [np.s_[4:7, 5:8], np.s_[20:23, 11:14]]
    assert all(pixels.all() for _, pixels in found)
    rng = np.random.default_rng(0)
    assert dead_patches(rng.random((3, 60, 60)) < 0.3) == []
    assert dead_patches(np.ones((3, 9, 9), bool)) == []


def test_dead_patches_are_filled_better_than_by_their_mean_and_with_honest_errors() -> None:
    ratios, inside = [], []
    corners = ((18, 18), (10, 11), (25, 14))
    for seed in range(2):
        cells = tc.datasets.simulate_cells((8, 36, 36), cells=4, seed=seed)
        truth, data = cells.truth, cells.measured.astype(np.float32)
        mask = squares(data.shape, *corners)
        result = tc.recover(data, mask, method="tucker", rank=(4, 12, 12))
        gap, mean = ~mask, np.zeros(data.shape)
        for y, x in corners:
            ring = np.zeros(mask.shape[1:], bool)
            ring[y - 1 : y + 4, x - 1 : x + 4] = mask[0, y - 1 : y + 4, x - 1 : x + 4]
            mean[:, y : y + 3, x : x + 3] = data[:, ring].mean(axis=1)[:, None, None]
        ratios.append(np.sqrt(np.mean((result.volume.data - truth)[gap] ** 2) / np.mean((mean - truth)[gap] ** 2)))
        inside.append(np.mean(np.abs(result.volume.data - truth)[gap] <= 1.645 * result.uncertainty[gap]))
        assert any("27 pixels in 3 patches were measured in no plane" in note for note in result.notes)
    assert np.mean(ratios) < 0.85
    assert np.mean(inside) > 0.85  # without this step, little more than half of them
