"""Reports: interpolation against NumPy, colours and proportions of the pictures, self-contained pages, whole files."""

from __future__ import annotations

import base64
import io
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorcell as tc
from tensorcell.interpolation import interpolate_planes, interpolated_plane
from tensorcell.pages import pictures
from tensorcell.pages import recovery as reports
from tensorcell.pages.pictures import GAP, OUTLIER, Panel, Picture, choose_slices, draw, grey_scale, scale_bar_length
from tensorcell.pages.recovery import facts, recovery_pictures, split_runs, write_report
from tensorcell.solvers import IterationRecord


def rgb(colour: str) -> list[int]:
    return [int(colour[place : place + 2], 16) for place in (1, 3, 5)]


@pytest.fixture(scope="module")
def planes() -> tuple[tc.Volume, tc.Recovery, np.ndarray]:
    cells = tc.datasets.simulate_cells((9, 30, 34), cells=5, axial_factor=2, outliers=0.03, seed=4)
    before = tc.Volume(cells.measured, spacing=cells.spacing, metadata={"source": "cells.tif"})
    before.data.setflags(write=False)
    return before, tc.recover(before, axial_factor=2, rank=(3, 8, 8), psf_fwhm=(1.0, 0.6, 0.6)), cells.truth


@pytest.fixture(scope="module")
def channels() -> tuple[tc.Volume, tc.Recovery]:
    made = [tc.datasets.simulate_cells((6, 20, 22), cells=3, keep_pixels=0.7, seed=seed) for seed in range(5)]
    data = np.stack([one.measured for one in made], axis=1)  # ZCYX
    before = tc.Volume(data, axes="ZCYX")
    return before, tc.recover(before, rank=3)


# -------------------------------------------------------------------------------------------------- baseline


def test_interpolate_planes_equals_numpy_column_by_column() -> None:
    rng = np.random.default_rng(0)
    values, mask = rng.standard_normal((9, 5, 6)), rng.random((9, 5, 6)) < 0.4
    mask[:, 2, 3] = False
    values[~mask] = np.nan
    filled = interpolate_planes(values, mask)
    z = np.arange(9)
    for y, x in np.ndindex(5, 6):
        seen = mask[:, y, x]
        if not seen.any():
            assert np.isnan(filled[:, y, x]).all()
            continue
        # both are float64 interpolation; a few roundings
        np.testing.assert_allclose(filled[:, y, x], np.interp(z, z[seen], values[seen, y, x]), rtol=0, atol=1e-14)
    np.testing.assert_array_equal(filled[mask], values[mask])


def test_interpolated_plane_between_planes_equals_the_finer_grid() -> None:
    rng = np.random.default_rng(1)
    values, mask = rng.integers(0, 4000, (4, 5, 6)).astype(np.uint16), rng.random((4, 5, 6)) < 0.7
    fine, seen = np.zeros((10, 5, 6)), np.zeros((10, 5, 6), bool)
    fine[::3], seen[::3] = values, mask
    for z, expected in enumerate(interpolate_planes(fine, seen)):
        # weights (z - below) / gap in units of one or of three planes: rounding of values up to 4000
        np.testing.assert_allclose(interpolated_plane(values, mask, z / 3), expected, rtol=0, atol=1e-11)


# ---------------------------------------------------------------------------------------------------- choices


def test_grey_scale_uses_only_the_mask_and_is_never_empty() -> None:
    values = np.random.default_rng(2).uniform(0, 100, (20, 50, 60))
    mask = np.random.default_rng(3).random(values.shape) < 0.5
    expected = np.percentile(values[mask], [0.5, 99.8])
    assert grey_scale(np.where(mask, values, 1e9), mask) == pytest.approx(tuple(expected))
    assert grey_scale(np.full((2, 3, 4), 7.0), np.ones((2, 3, 4), bool)) == (6.5, 7.5)
    assert grey_scale(values, np.zeros(values.shape, bool)) == (0.0, 1.0)


def test_grey_scale_of_a_large_stack_samples_it() -> None:
    values = np.random.default_rng(4).random((70, 300, 400), dtype=np.float32)  # 8.4 million
    low, high = grey_scale(values, np.ones(values.shape, bool))
    # uniform on [0, 1]: standard error of these percentiles from 1e6 samples is 7e-5 at most
    assert (low, high) == pytest.approx((0.005, 0.998), abs=1e-3)


def test_choose_slices_takes_an_unmeasured_plane_and_avoids_empty_ones() -> None:
    mask = np.ones((9, 8, 8), bool)
    assert choose_slices(mask) == (4, 4)
    values = np.zeros(mask.shape)
    values[2, 1] = np.arange(8)
    assert choose_slices(mask, values) == (2, 1)  # the middle shows nothing
    values[4, 4] = np.arange(8)
    assert choose_slices(mask, values) == (4, 4)
    mask[[0, 7]] = False
    assert choose_slices(mask)[0] == 7  # the nearer one to plane 4


@pytest.mark.parametrize("extent", np.geomspace(1e-3, 1e6, 97))
def test_scale_bar_is_round_and_fits(extent: float) -> None:
    length = scale_bar_length(extent)
    assert 0.11 * extent < length <= 0.28 * extent  # steps of 1, 2, 5: at worst 2/5 of the target
    assert f"{length:.0e}"[0] in "125"


def test_split_runs_at_each_new_stack() -> None:
    def record(number: int) -> IterationRecord:
        return IterationRecord(
            iteration=number, stage="admm", change=1.0, residual=1.0, outliers=0, threshold=0.0, seconds=0.0
        )

    runs = split_runs([record(n) for n in (1, 2, 3, 1, 2, 1)])
    assert [[r.iteration for r in run] for run in runs] == [[1, 2, 3], [1, 2], [1]]
    assert split_runs([]) == []


# ---------------------------------------------------------------------------------------------------- pictures


def test_picture_of_planes_has_gaps_where_nothing_was_measured(
    planes: tuple[tc.Volume, tc.Recovery, np.ndarray],
) -> None:
    before, after, truth = planes
    (picture,) = recovery_pictures(before, after, truth)
    assert [panel.title for panel in picture.panels] == ["Input", "Linear interpolation", "tensorcell"]
    assert picture.plane % 2 == 1
    assert picture.plane_note == "not measured"
    given, linear, ours = picture.panels
    assert np.isnan(given.xy).all()
    np.testing.assert_array_equal(given.xz[::2], before.data[:, picture.row])
    assert np.isnan(given.xz[1::2]).all()
    # float32 planes averaged in float64: exact
    np.testing.assert_array_equal(
        linear.xy, before.data[picture.plane // 2 : picture.plane // 2 + 2].astype(float).mean(axis=0)
    )
    np.testing.assert_array_equal(linear.xz[::2], before.data[:, picture.row])
    np.testing.assert_array_equal(ours.xy, after.volume.data[picture.plane])
    assert picture.truth is not None
    np.testing.assert_array_equal(picture.truth.xz, truth[:, picture.row])
    assert after.outlier_count > 0
    clean = before.data[after.outliers == 0]
    assert picture.grey == pytest.approx(tuple(np.percentile(clean.astype(float), [0.5, 99.8])))


def test_picture_of_pixels_shows_mask_and_nan_as_gaps(channels: tuple[tc.Volume, tc.Recovery]) -> None:
    before, after = channels
    pictures = recovery_pictures(before, after)
    assert [picture.title for picture in pictures] == ["C=0", "C=1", "C=2", "C=3"]  # four of five
    for channel, picture in enumerate(pictures):
        given, ours = picture.panels
        np.testing.assert_array_equal(given.xy, before.data[picture.plane, channel])  # NaN equal to NaN
        np.testing.assert_array_equal(ours.xz, after.volume.data[:, channel, picture.row])


@pytest.mark.parametrize("spacing", [(2.0, 0.5, 0.25), (9.0, 0.05, 0.25), None])
def test_slices_have_the_physical_aspect_ratio(spacing: tuple[float, float, float] | None) -> None:
    xy, xz = np.zeros((30, 80)), np.zeros((7, 80))
    picture = Picture([Panel("Input", xy, xz), Panel("x", xy, xz)], 3, 4, (7, 30, 80), spacing, (0, 1))
    figure = draw([picture])
    dz, dy, dx = spacing or (1, 1, 1)
    figure.savefig(io.BytesIO(), format="png")  # where the boxes take their shape
    for ax, expected in zip(figure.axes, 2 * [30 * dy / (80 * dx), 7 * dz / (80 * dx)], strict=True):
        box = ax.get_window_extent()
        assert box.height / box.width == pytest.approx(expected, rel=1e-6)  # geometry in float64
    bars: list[Any] = list(figure.axes[0].patches)
    assert len(bars) == (spacing is not None)
    if spacing is not None:
        assert bars[0].get_width() * 80 * dx == pytest.approx(scale_bar_length(80 * dx))


def test_grey_image_is_linear_with_gaps_in_their_own_colour() -> None:
    image = pictures.grey_image(np.array([[10.0, 15.0, 20.0], [5.0, 25.0, np.nan]]), (10.0, 20.0))
    assert image[..., 0].tolist()[0] == [0, 128, 255]
    assert image[1, :2].tolist() == [[0, 0, 0], [255, 255, 255]]
    assert image[1, 2].tolist() == rgb(GAP)
    assert len(set(rgb(GAP))) == 3  # no grey


def pixels(png: bytes) -> np.ndarray:
    from matplotlib.image import imread

    image = imread(io.BytesIO(png), format="png")
    return np.asarray(np.rint(255 * image[..., :3]), dtype=np.intp)


def test_png_shows_gaps_and_map_shows_outliers(planes: tuple[tc.Volume, tc.Recovery, np.ndarray]) -> None:
    before, after, _ = planes

    def share(png: bytes, colour: str) -> float:
        return float((pixels(png) == rgb(colour)).all(axis=-1).mean())

    picture = pictures.picture_bytes(recovery_pictures(before, after))
    assert share(picture, GAP) > 0.1  # one of six panels is all gap, another nearly half
    chart = pictures.png_bytes(lambda: reports.draw_map(before, after))
    assert share(chart, GAP) > 0.2
    assert share(chart, OUTLIER) > 0.001


def test_a_style_set_by_the_user_does_not_change_the_picture(
    channels: tuple[tc.Volume, tc.Recovery], monkeypatch: pytest.MonkeyPatch
) -> None:
    import matplotlib

    expected = pictures.picture_bytes(recovery_pictures(*channels)[:1])
    monkeypatch.setitem(matplotlib.rcParams, "text.color", "red")
    monkeypatch.setitem(matplotlib.rcParams, "savefig.dpi", 30)
    assert pictures.picture_bytes(recovery_pictures(*channels)[:1]) == expected
    assert matplotlib.rcParams["text.color"] == "red"


def test_truth_adds_differences_on_one_scale(planes: tuple[tc.Volume, tc.Recovery, np.ndarray]) -> None:
    before, after, truth = planes
    with_truth, without = draw(recovery_pictures(before, after, truth)), draw(recovery_pictures(before, after))
    assert len(without.axes) == 6
    assert len(with_truth.axes) == 8 + 4 + 1  # truth; differences of two methods; colour bar
    titles = [ax.get_title() for ax in with_truth.axes if ax.get_title()]
    difference = "absolute difference from the truth"
    assert titles == ["Input", "Linear interpolation", "tensorcell", "Truth", difference, difference]


# ------------------------------------------------------------------------------------------------------- files


def test_page_is_self_contained_and_tells_the_facts(
    planes: tuple[tc.Volume, tc.Recovery, np.ndarray], tmp_path: Path
) -> None:
    before, after, truth = planes
    write_report(tmp_path / "page.html", replace(before, metadata={"source": "<script>.tif"}), after, truth)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    images = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    # slices, map, intensities, history; measured voxels were kept, so there is no residual
    assert len(images) == 4
    assert all(base64.b64decode(image).startswith(b"\x89PNG") for image in images)
    assert not re.search(r"(src|href)=\"(?!data:)|https?:|<script>\\.tif", page)
    assert "the residual is 0 at each" in page
    assert "&lt;script&gt;.tif" in page
    for text in (str(after.status), *after.notes, "9 × 30 × 34 (ZYX), float32", "0.5 × 0.2 × 0.2 µm", "3 × 8 × 8"):
        assert text in page


def test_page_of_many_stacks_says_what_it_leaves_out(channels: tuple[tc.Volume, tc.Recovery], tmp_path: Path) -> None:
    write_report(tmp_path / "page.html", *channels)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "the pictures show 4 of 5 stacks" in page
    assert "C=4: 3 × 3 × 3 (z, y, x)" in page


def test_page_of_a_constant_stack_has_no_history(tmp_path: Path) -> None:
    before = tc.Volume(np.full((3, 4, 5), 7, np.uint8))
    write_report(tmp_path / "page.html", before, tc.recover(before))
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count('src="data:image/png') == 3  # slices, map, intensities
    assert "How the fit went" not in page


def test_facts_are_json_and_count_voxels(channels: tuple[tc.Volume, tc.Recovery]) -> None:
    import json

    known = json.loads(json.dumps(facts(*channels)))
    seen = int(np.isfinite(channels[0].data).sum())
    assert known["measured"] == seen
    assert known["observed_ratio"] == pytest.approx(seen / channels[0].data.size)
    assert known["rank"] == {f"C={c}": [3, 3, 3] for c in range(5)}
    assert known["spacing"] is None


@pytest.mark.parametrize(("name", "problem"), [("report.pdf", "is unknown"), ("report", "has no suffix")])
def test_report_refuses_other_suffixes(
    planes: tuple[tc.Volume, tc.Recovery, np.ndarray], tmp_path: Path, name: str, problem: str
) -> None:
    with pytest.raises(tc.InputError, match=rf"{problem}, expected one of \.png, \.html"):
        write_report(tmp_path / name, *planes)


def test_report_refuses_a_truth_of_another_shape(
    planes: tuple[tc.Volume, tc.Recovery, np.ndarray], tmp_path: Path
) -> None:
    before, after, truth = planes
    with pytest.raises(tc.InputError, match=r"truth has shape \(8, 30, 34\), the recovered volume has shape \(9, 30"):
        write_report(tmp_path / "report.png", before, after, truth[:-1])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [OSError(28, "no space left on device"), KeyboardInterrupt()])
def test_failed_report_leaves_an_older_one_as_it_was(
    channels: tuple[tc.Volume, tc.Recovery], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    (tmp_path / "report.png").write_bytes(b"older")

    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(os, "replace", fail)
    disk_full = pytest.raises(tc.InputError, match=r"report\.png: cannot be written: no space left on device")
    with disk_full if isinstance(error, OSError) else pytest.raises(KeyboardInterrupt):
        write_report(tmp_path / "report.png", *channels)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("report.png", b"older")]


def test_reports_never_touch_pyplot(tmp_path: Path) -> None:
    program = (
        "import sys, numpy as np, tensorcell as tc\n"
        "from tensorcell.pages.recovery import write_report\n"
        "v = tc.Volume(np.random.default_rng(0).random((4, 9, 9)))\n"
        "write_report(sys.argv[1], v, tc.recover(v, rank=2))\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    folder = str(Path(tc.__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "r.html")], cwd=folder, check=False)
    assert done.returncode == 0
    assert (tmp_path / "r.html").stat().st_size > 10_000
