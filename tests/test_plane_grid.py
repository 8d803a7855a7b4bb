"""Planes wanted at any distance: where they lie, what is kept of the measurement, and what is said and refused."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import call

import tensorcell as tc
from tensorcell.errors import InputError
from tensorcell.pages.recovery import facts, measured_planes, recovery_pictures
from tensorcell.plane_grid import PlaneGrid, simplest_near, wanted_grid
from tensorcell.solvers import NoiseModel, fill_planes
from tensorcell.solvers.left_out_planes import at_gap
from tensorcell.solvers.plane_errors import power_of_variogram, repeated
from tensorcell.volume import stacks

QUICK: dict[str, Any] = {"method": "tucker", "rank": (5, 6, 6), "noise": "auto"}


def waves(z: np.ndarray) -> np.ndarray:
    """A function of z with periods of 7.5 and 11 or more, and of y and x, at the positions given: (len(z), 24, 26)."""
    z, y, x = np.asarray(z, float)[:, None, None], np.arange(24.0)[:, None], np.arange(26.0)
    fine = np.cos(2 * np.pi * z / 7.5 + y / 3) * np.cos(x / 2)
    coarse = np.sin(2 * np.pi * z / 11 - x / 4) + np.cos(z / 5) * np.sin(y / 4 + 0.3)
    return 10 + fine + 2 * coarse


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


# ------------------------------------------------------------------------------------------------ where planes lie


@pytest.mark.parametrize("given", [1, 2, 3, 7, 12])
@pytest.mark.parametrize("step", [Fraction(1), Fraction(4), Fraction(3, 2), Fraction(10, 3), Fraction(100, 29)])
def test_the_planes_of_a_grid_are_those_counted_one_by_one(given: int, step: Fraction) -> None:
    grid = PlaneGrid(given, step)
    places = [k * step for k in range(given)]
    inside = [n for n in range(1000) if n <= places[-1]]
    assert grid.planes == len(inside)
    np.testing.assert_array_equal(grid.positions, [float(place) for place in places])
    common = [(k, int(place)) for k, place in enumerate(places) if place.denominator == 1]
    assert list(range(given)[grid.shared]) == [k for k, _ in common]
    assert list(range(grid.planes)[grid.places]) == [place for _, place in common]
    mask = np.random.default_rng(0).random((given, 3, 4)) < 0.5
    expected = np.zeros((grid.planes, 3, 4), bool)
    for k, place in common:
        expected[place] = mask[k]
    np.testing.assert_array_equal(grid.spread(mask), expected)


@pytest.mark.parametrize(("dz", "wanted", "step"), [
    (0.9, 0.3, Fraction(3)), (1.0, 0.3, Fraction(10, 3)), (1.0, 0.29, Fraction(100, 29)), (1.0, 0.65, Fraction(20, 13)),
    (float(np.float32(0.9)), 0.3, Fraction(3)), (1.0, 0.333333, Fraction(3)), (1.0, 0.333, Fraction(1000, 333)),
    (0.5, 0.5 + 1e-9, Fraction(1)), (2.5, float(np.float32(1.0)), Fraction(5, 2)),
])  # fmt: skip
def test_the_ratio_of_distances_is_taken_without_rounding(dz: float, wanted: float, step: Fraction) -> None:
    grid = wanted_grid(tc.Volume(np.zeros((9, 4, 4)), spacing=(dz, 1, 1)), spacing_z=wanted)
    assert grid == PlaneGrid(9, step, wanted)


def test_any_ratio_is_close_to_the_one_that_is_taken() -> None:
    for ratio in 1 + 50 * np.random.default_rng(0).random(300) ** 3:
        near = simplest_near(Fraction(ratio))
        assert abs(near - Fraction(ratio)) <= 5e-6 * ratio
        assert near.denominator <= 10**6


def test_isotropic_planes_are_as_far_apart_as_the_wanted_rows() -> None:
    volume = tc.Volume(np.zeros((5, 8, 8)), spacing=(1.2, 0.4, 0.3))
    assert wanted_grid(volume, spacing_z="isotropic") == PlaneGrid(5, Fraction(3), 0.4)
    assert wanted_grid(volume, spacing_z="isotropic", lateral_factor=2) == PlaneGrid(5, Fraction(6), 0.2)


@pytest.mark.parametrize(("options", "message"), [
    ({"spacing_z": 0.3}, r"spacing_z=0.3 needs the voxel size, which is not known here: give spacing=\(dz, dy, dx\)"),
    ({"spacing_z": 0.3, "axial_factor": 2, "spacing": (0.9, 1, 1)}, "expected axial factor 1 with spacing_z, .*got 2"),
    ({"spacing_z": 1.2, "spacing": (0.9, 1, 1)}, "expected spacing_z of at most 0.9 um, the distance .*, got 1.2"),
    ({"spacing_z": "isotropic", "spacing": (0.9, 1, 1)}, "expected spacing_z of at most 0.9 um, .* got 1: planes of"),
    ({"spacing_z": 0.0, "spacing": (0.9, 1, 1)}, "expected spacing_z above 0, got 0.0"),
    ({"spacing_z": np.nan, "spacing": (0.9, 1, 1)}, "expected a finite number as spacing_z, got nan"),
    ({"spacing_z": True, "spacing": (0.9, 1, 1)}, "expected a finite number as spacing_z, got True"),
    ({"spacing_z": "fine", "spacing": (0.9, 1, 1)}, "expected spacing_z 'isotropic' or a number .*, got 'fine'"),
    ({"spacing_z": 1e-12, "spacing": (0.9, 1, 1)}, "makes 3600000000001 planes of 24 x 26 voxels"),
])  # fmt: skip
def test_what_cannot_be_wanted_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        tc.recover(np.ones((5, 24, 26)), **options)


def test_single_planes_have_none_between_them() -> None:
    with pytest.raises(InputError, match=r"expected no spacing_z, since single planes .*, got 0\.1"):
        tc.recover(np.ones((24, 26)), spacing=(0.3, 0.3), spacing_z=0.1)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------ what is recovered


def test_a_whole_ratio_is_an_axial_factor_bit_for_bit() -> None:
    rng = np.random.default_rng(0)
    data = waves(np.arange(0, 27, 3)) + 0.1 * rng.standard_normal((9, 24, 26))
    data[rng.random(data.shape) < 0.2] = np.nan
    data[4] = np.nan
    one = tc.recover(data, spacing=(0.9, 0.3, 0.3), axial_factor=3, **QUICK)
    other = tc.recover(data, spacing=(0.9, 0.3, 0.3), spacing_z=0.3, **QUICK)
    for name in ("uncertainty", "measured", "outliers", "invented"):
        np.testing.assert_array_equal(getattr(other, name), getattr(one, name))
    np.testing.assert_array_equal(other.volume.data, one.volume.data)
    assert other.notes == one.notes
    assert other.volume.spacing == (0.3, 0.3, 0.3)


def test_planes_between_are_nearer_to_a_smooth_function_than_linear_interpolation() -> None:
    given = np.arange(16.0)
    data = waves(given)
    result = tc.recover(data, spacing=(1.0, 0.29, 0.29), spacing_z=0.3, **QUICK)
    places = 0.3 * np.arange(len(result.volume.data))
    assert places[-1] == pytest.approx(15.0)
    assert result.volume.spacing == (0.3, 0.29, 0.29)
    shared = np.flatnonzero(result.measured.any(axis=(1, 2)))
    assert shared.tolist() == [0, 10, 20, 30, 40, 50]
    assert result.measured[shared].all()
    np.testing.assert_array_equal(result.volume.data[shared], data[::3])  # 0, 3, 6 um
    between = np.setdiff1d(np.arange(len(places)), shared)
    flat = data.reshape(16, -1)
    linear = np.stack([np.interp(places[between], given, line) for line in flat.T], axis=1).reshape(-1, 24, 26)
    truth = waves(places[between])
    assert rms(result.volume.data[between] - truth) < 0.3 * rms(linear - truth)
    inside = np.abs(result.volume.data[between] - truth) <= 1.645 * result.uncertainty[between]
    assert inside.mean() > 0.9
    assert (result.uncertainty[between] > 0).all()
    assert result.notes[0] == (
        "6 of the 16 planes given are planes of the result, whose planes are 0.3 of their distance apart; the others "
        "lie between planes of it and are not in it (axial factor 3 keeps every plane)"
    )


@pytest.mark.parametrize("keep", [True, False])
def test_an_estimate_depends_on_its_place_and_not_on_the_planes_beside_it(keep: bool) -> None:
    """Planes 2 of 3 apart and planes 1 of 3 apart: every second one of the latter is one of the former."""
    rng = np.random.default_rng(1)
    data = waves(np.arange(0, 33, 3)) + 0.2 * rng.standard_normal((11, 24, 26))
    data[rng.random(data.shape) < 0.1] = np.nan
    data[[0, 5]] = np.nan  # beyond the measured planes, and a wide gap
    options = {**QUICK, "spacing": (3, 1, 1), "keep_measured": keep}
    fine, coarse = (tc.recover(data, spacing_z=step, **options) for step in (1, 2))  # type: ignore[arg-type]
    assert coarse.grid == PlaneGrid(11, Fraction(3, 2), 2.0)
    np.testing.assert_array_equal(coarse.measured, fine.measured[::2])
    for one, other in ((coarse.volume.data, fine.volume.data), (coarse.uncertainty, fine.uncertainty)):
        np.testing.assert_allclose(one, other[::2], rtol=1e-6)  # positions are halves in place of whole numbers
    np.testing.assert_array_equal(coarse.outliers, fine.outliers)


def test_outliers_stay_where_they_were_given_and_only_shared_planes_show_them() -> None:
    data = waves(np.arange(12)) + 0.05 * np.random.default_rng(2).standard_normal((12, 24, 26))
    data[4, 10, 10] = data[5, 8, 8] = -50
    result = tc.recover(data, spacing=(1.5, 1, 1), spacing_z=1, **QUICK)
    assert np.argwhere(result.outliers).tolist() == [[4, 10, 10], [5, 8, 8]]
    assert result.volume.shape == (17, 24, 26)
    assert result.volume.data[6, 10, 10] > 0
    assert result.invented[6, 10, 10] > 0  # plane 4 given is plane 6 of the result; plane 5 given lies at 7.5
    assert np.count_nonzero(result.invented[6]) == 1
    assert result.volume.data.min() > 0


def test_frames_channels_and_finer_pixels_share_one_grid() -> None:
    series = np.stack([waves(np.arange(7)), waves(np.arange(7) + 0.2)])
    series[1, 2] = np.nan
    volume = tc.Volume(series, "TZYX", (1.0, 0.8, 0.8))
    result = tc.recover(volume, spacing_z="isotropic", **QUICK)
    assert result.volume.shape == (2, 8, 24, 26)
    assert result.volume.spacing == (0.8, 0.8, 0.8)
    assert sum("planes given" in note for note in result.notes) == 1
    np.testing.assert_array_equal(result.volume.data[0, [0, 5]], series[0, [0, 4]])
    fine = tc.recover(volume, spacing_z="isotropic", lateral_factor=2, **QUICK)
    assert fine.volume.shape == (2, 16, 48, 52)
    assert fine.volume.spacing == (0.4, 0.4, 0.4)
    assert not fine.measured.any()


def test_stacks_of_one_value_and_stopped_runs_have_the_wanted_planes() -> None:
    data = np.stack([waves(np.arange(5)), np.full((5, 24, 26), 3.0), np.full((5, 24, 26), np.nan)])
    result = tc.recover(tc.Volume(data, "CZYX", (1.5, 1, 1)), spacing_z=1.0, **QUICK)
    assert result.volume.shape == (3, 7, 24, 26)
    assert (result.volume.data[1] == 3).all()
    np.testing.assert_array_equal(np.flatnonzero(result.measured[1].any(axis=(1, 2))), [0, 3, 6])
    assert np.isnan(result.volume.data[2]).all()


def test_two_planes_and_as_many_wanted_ones_are_not_the_same() -> None:
    data = waves(np.array([0.0, 1.5]))
    result = tc.recover(data, spacing=(1.5, 1, 1), spacing_z=1.0, method="tucker")
    assert result.volume.shape == (2, 24, 26)
    np.testing.assert_array_equal(result.volume.data[0], data[0])
    np.testing.assert_allclose(result.volume.data[1], data[0] + (data[1] - data[0]) / 1.5, rtol=1e-5)


# ------------------------------------------------------------------------------------------------ positions in solvers


def test_positions_that_are_whole_but_for_rounding_are_measured() -> None:
    stack = waves(np.arange(0, 27, 3))
    plain = fill_planes(stack, np.arange(0, 27, 3), 25)
    other = fill_planes(stack, np.arange(9) * (0.9 / 0.3) + 1e-8, 25)
    np.testing.assert_array_equal(other.measured, plain.measured)
    np.testing.assert_array_equal(other.volume, plain.volume)
    with pytest.raises(ValueError, match="grid must increase"):
        fill_planes(stack[:2], [0, 1e-8], 2)


def test_distances_that_differ_by_rounding_alone_are_one() -> None:
    """Planes at multiples of 10 / 3 have the laws of planes at multiples of 10, in another unit of length."""
    walk = np.cumsum(np.random.default_rng(0).standard_normal((9, 20, 20)), axis=0)
    noise, tens = NoiseModel.white(0.0), np.arange(0, 90, 10.0)
    thirds = np.array([float(Fraction(10 * k, 3)) for k in range(9)])
    assert len(np.unique(np.diff(thirds))) > 1  # else this shows nothing
    expected, found = (power_of_variogram(walk, places, noise) for places in (tens, thirds))
    assert expected is not None
    assert found == pytest.approx(expected, rel=1e-5)
    one, other = repeated(walk, tens, noise, 30.0), repeated(walk, thirds, noise, 10.0)
    assert len(other.distances) == len(one.distances)
    # Distances are rounded to a millionth of a plane.
    np.testing.assert_allclose(other(walk[-1], 5.0), one(walk[-1], 15.0), rtol=1e-5)
    for gap in (2, 3):
        assert str(at_gap(thirds, thirds[gap])) == str(at_gap(tens, tens[gap]))


# ------------------------------------------------------------------------------------------------ files and pages


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    data = waves(np.arange(10)).astype(np.float32)
    tc.write(tmp_path / "in.ome.tif", tc.Volume(data, spacing=(1.0, 0.29, 0.29)))
    tc.write(tmp_path / "bare.npy", tc.Volume(data))
    mask = np.ones(data.shape, bool)
    mask[4, :5] = False
    tc.write(tmp_path / "mask.tif", tc.Volume(mask.astype(np.uint8)))
    return tmp_path


@pytest.mark.parametrize(("out", "wanted", "planes", "dz"), [
    ("out.tif", "0.65", 14, 0.65), ("out.ome.tif", "isotropic", 32, 0.29), ("out.h5", "0.65", 14, 0.65),
])  # fmt: skip
def test_the_command_writes_the_wanted_planes_and_their_distance(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], out: str, wanted: str,
    planes: int, dz: float,
) -> None:  # fmt: skip
    status = call(
        monkeypatch, folder, "recover", "in.ome.tif", out, "--spacing-z", wanted, "--method", "tucker", "--quiet",
        "--mask", "mask.tif", "--report", "page.html",
    )  # fmt: skip
    assert (status, *capsys.readouterr()) == (0, "", "")
    found = tc.read(out)
    assert found.shape == (planes, 24, 26)
    assert found.spacing == (dz, 0.29, 0.29)
    assert (folder / "page.html").stat().st_size > 10_000


@pytest.mark.parametrize(("arguments", "message"), [
    (("bare.npy", "--spacing-z", "0.3"), "needs the voxel size, which is not known here: give --spacing dz,dy,dx"),
    (("in.ome.tif", "--spacing-z", "0.3", "--axial-factor", "3"), "expected axial factor 1 with spacing_z"),
    (("in.ome.tif", "--spacing-z", "2"), "expected spacing_z of at most 1 um"),
    (("in.ome.tif", "--spacing-z", "thin"), "expected isotropic or a number of micrometres for --spacing-z, got"),
])  # fmt: skip
def test_the_command_refuses_in_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...],
    message: str,
) -> None:  # fmt: skip
    source, *more = arguments
    assert call(monkeypatch, folder, "recover", source, "out.tif", *more) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert message in err
    assert not (folder / "out.tif").exists()


def test_pictures_take_what_was_measured_from_the_result_where_it_has_the_plane() -> None:
    data, grid = np.ones((4, 3, 3)), PlaneGrid(4, Fraction(3, 2))
    data[1, 0] = np.nan
    measured = np.zeros((5, 3, 3), bool)
    (stack,) = stacks(tc.Volume(data))
    np.testing.assert_array_equal(measured_planes(stack, measured, grid), np.isfinite(data))
    measured[3, 1:] = True
    expected = np.isfinite(data)
    expected[0] = expected[2, 0] = False
    np.testing.assert_array_equal(measured_planes(stack, measured, grid), expected)


def test_pictures_show_planes_that_lie_between_those_of_the_result() -> None:
    data = waves(np.arange(10))
    data[3, 12] = np.nan
    before = tc.Volume(data, spacing=(1.5, 1, 1))
    after = tc.recover(before, spacing_z=1.0, **QUICK)
    (picture,) = recovery_pictures(before, after)
    given, linear, ours = picture.panels
    rows = np.round(1.5 * np.arange(10)).astype(int)  # the nearest plane of the result
    seen = rows[rows < 14]
    np.testing.assert_array_equal(given.xz[seen], data[: len(seen), picture.row])
    assert np.isnan(np.delete(given.xz, seen, axis=0)).all()
    assert np.isnan(given.xy).all()  # the plane shown is one that was not measured
    assert not np.isnan(linear.xy).any()
    expected = [np.interp(np.arange(14), 1.5 * np.arange(10), column) for column in data[:, picture.row].T]
    if picture.row != 12:
        np.testing.assert_allclose(linear.xz, np.transpose(expected), rtol=1e-12)
    np.testing.assert_array_equal(ours.xz, after.volume.data[:, picture.row])
    assert facts(before, after)["measured"] == 5 * 24 * 26  # planes 0, 2, 4, 6, 8 given
