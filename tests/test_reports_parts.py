"""Reports of runs in parts: the slices are those of a report in memory, and nothing else is read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import call_here

import tensorcell as tc
from tensorcell.large import FileRecovery
from tensorcell.lazy_volume import LazyVolume, lazy_stacks
from tensorcell.pages import coarse, parts, pictures, viewer
from tensorcell.pages.recovery import recovery_pictures
from tensorcell.plane_grid import wanted_grid

Array = np.ndarray[Any, Any]


def as_file(result: tc.Recovery, path: Path, parts_: int = 3) -> FileRecovery:
    """What a run in parts would say of the same result, with its output in a file."""
    tc.write(path, result.volume)
    volume = result.volume
    return FileRecovery(
        path=path, shape=volume.shape, axes=volume.axes, dtype=volume.dtype, spacing=volume.spacing,
        input_shape=result.input_shape, measured=int(result.measured.sum()), rank=result.rank, noise=result.noise,
        defects=result.defects, outliers=result.outlier_count, status=result.status, notes=result.notes, seconds=1.0,
        parts=parts_, rounded=0, clipped=0, not_recovered={},
    )  # fmt: skip


class Counted:
    """An array that remembers how many voxels were read of it, and how many at once."""

    def __init__(self, data: Array) -> None:
        self.data, self.read, self.most = data, 0, 0
        self.shape, self.dtype = data.shape, data.dtype

    def __getitem__(self, where: Any) -> Array:
        found = self.data[where]
        self.read += found.size
        self.most = max(self.most, found.size)
        return found


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[pictures.Picture]:
    """The pictures that were drawn."""
    found: list[pictures.Picture] = []
    own = pictures.draw
    monkeypatch.setattr(pictures, "draw", lambda every: found.extend(every) or own(every))  # type: ignore[func-returns-value]
    return found


@pytest.mark.parametrize("options", [{"axial_factor": 2}, {"lateral_factor": 2}, {"spacing_z": 0.3}, {}])
def test_the_slices_are_those_of_a_report_in_memory(
    tmp_path: Path, options: dict[str, Any], shown: list[pictures.Picture]
) -> None:
    cells = tc.datasets.simulate_cells((9, 26, 30), cells=5, keep_pixels=1 if options else 0.6, seed=4)
    before = tc.Volume(cells.measured[None], axes="CZYX", spacing=(0.5, 0.2, 0.2))
    result = tc.recover(before, method="fast", **options)
    after = as_file(result, tmp_path / "out.ome.tif")
    np.save(tmp_path / "u.npy", result.uncertainty)
    data = Counted(before.data)
    given = LazyVolume(data, "CZYX", before.spacing, metadata={"source": "a<b.tif"})
    grid = wanted_grid(before, **options)
    parts.write_report(tmp_path / "r.html", given, after, grid, uncertainty=tmp_path / "u.npy")
    ((picture, (whole,)),) = zip(shown, [recovery_pictures(before, result)], strict=True)
    assert (picture.plane, picture.row, picture.plane_note) == (whole.plane, whole.row, whole.plane_note)
    *panels, error = picture.panels
    assert [panel.title for panel in panels] == [panel.title for panel in whole.panels]
    for one, other in zip(panels, whole.panels, strict=True):
        np.testing.assert_array_equal(one.xy, other.xy)
        np.testing.assert_array_equal(one.xz, other.xz)
    np.testing.assert_array_equal(error.xy, result.uncertainty[0, picture.plane])
    assert error.grey is not None
    assert re.fullmatch(r"Uncertainty, 0 to [\d.e+]+", error.title)
    planes, rows, columns = before.shape[1:]
    still = planes * columns + (2 * parts.NEAR + 2) * rows * columns
    assert data.read <= before.data.size + still
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    for text in (*after.notes, "a&lt;b.tif", '<th scope="row">parts</th><td>3</td>', "1 × 9 × 26 × 30 (CZYX)"):
        assert text in page
    assert page.count('src="data:image/png') == 1


def test_a_wide_volume_is_thinned_out_and_keeps_its_proportions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shown: list[pictures.Picture]
) -> None:
    rng = np.random.default_rng(0)
    data = Counted(rng.random((4, 40, 90), dtype=np.float32))
    volume = tc.Volume(data.data, spacing=(0.5, 0.2, 0.2))
    monkeypatch.setattr(parts, "MOST_PIXELS", 30)
    mask = rng.random(data.shape) < 0.8
    tc.write(tmp_path / "mask.npy", mask.astype(np.uint8))
    result = tc.recover(volume, mask, method="fast")
    after = as_file(result, tmp_path / "out.h5")
    given = LazyVolume(data, "ZYX", volume.spacing)
    parts.write_report(tmp_path / "r.png", given, after, result.grid, mask=tmp_path / "mask.npy")
    (picture,) = shown
    first, last = picture.panels
    np.testing.assert_array_equal(last.xy, result.volume.data[picture.plane, ::3, ::3])
    np.testing.assert_array_equal(last.xz, result.volume.data[:, picture.row, ::3])
    expected = np.where(mask, data.data, np.nan)
    np.testing.assert_array_equal(first.xy, expected[picture.plane, ::3, ::3])
    np.testing.assert_array_equal(first.xz, expected[:, picture.row, ::3])
    assert data.read == 4 * 30 + 14 * 30
    xy, xz, *_ = pictures.draw(shown).axes
    for ax, sides in ((xy, (40 * 0.2, 90 * 0.2)), (xz, (4 * 0.5, 90 * 0.2))):
        rows, columns = ax.get_images()[0].get_array().shape[:2]
        assert ax.get_aspect() * rows / columns == pytest.approx(sides[0] / sides[1])


@pytest.fixture
def moving(monkeypatch: pytest.MonkeyPatch) -> list[viewer.Shown]:
    """What pages were made of; nothing is drawn."""
    found: list[viewer.Shown] = []

    def rendered(*given: Any, **_: Any) -> str:
        found.append(given[5])
        return ""

    monkeypatch.setattr(parts, "rendered", rendered)
    monkeypatch.setattr(parts, "picture_bytes", lambda *_: b"")
    return found


@pytest.mark.parametrize(
    ("options", "voxels"),
    [
        ({"axial_factor": 2}, 10**6),
        ({"spacing_z": 0.3}, 10**6),
        ({"axial_factor": 2}, 900),
        ({"lateral_factor": 2}, 900),
    ],
)
def test_the_slices_that_move_are_those_of_a_report_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moving: list[viewer.Shown], options: dict[str, Any], voxels: int
) -> None:
    cells = tc.datasets.simulate_cells((9, 24, 28), cells=5, outliers=0.03, seed=4)
    before = tc.Volume(cells.measured[None], axes="CZYX", spacing=(0.5, 0.2, 0.2))
    result = tc.recover(before, method="fast", **options)
    after, grid = as_file(result, tmp_path / "out.ome.tif"), wanted_grid(before, **options)
    maps: Any = {name: tmp_path / f"{name}.npy" for name in ("uncertainty", "invented", "outliers")}
    for name, path in maps.items():
        np.save(path, getattr(result, name))
    monkeypatch.setattr(viewer, "MOST_VOXELS", voxels)
    monkeypatch.setattr(coarse, "MOST_READ", 300)
    data = Counted(before.data)
    given = LazyVolume(data, "CZYX", before.spacing)
    parts.write_report(tmp_path / "r.html", given, after, grid, **maps)
    parts.write_report(tmp_path / "r.html", given, after, grid)
    (((stack,), *_), ((bare,), *_)) = moving
    (whole,) = next(viewer.ways_to_show(list(viewer.views(before, result, None)), 1, after.spacing)).stacks
    for name in ("label", "size", "whole", "grain", "spacing", "tile", "columns", "start", "replaced"):
        assert stack[name] == pytest.approx(whole[name]), name
    layers, same = ({layer["key"]: layer for layer in one["layers"]} for one in (stack, whole))
    assert list(layers) == list(same)
    exact = set(layers) - {"invented"} if voxels > 900 else {"kind"}  # ends of the grey scale are those of the means
    for key in exact:
        assert layers[key] == same[key], key
    assert {"uncertainty", "invented"} & {layer["key"] for layer in bare["layers"]} == set()
    assert (bare["replaced"], whole["grain"]["y"] > 1) == (False, voxels == 900)
    assert stack["replaced"] == (result.outlier_count > 0)
    data.most = 0
    coarse.means_of(next(lazy_stacks(given)), 2)
    assert data.most <= 300


def test_channels_are_found_in_whatever_order_a_format_has_the_axes(
    tmp_path: Path, shown: list[pictures.Picture]
) -> None:
    data = np.random.default_rng(0).random((3, 2, 4, 12, 14)).astype(np.float32)
    volume = tc.Volume(data, axes="CTZYX", spacing=(0.5, 0.2, 0.2))
    result = tc.recover(volume, method="fast")
    after = as_file(result, tmp_path / "out.npz")
    tc.write(after.path, tc.Volume(np.moveaxis(result.volume.data, 0, 1), "TCZYX"))
    parts.write_report(tmp_path / "r.html", LazyVolume(data, "CTZYX", volume.spacing), after, result.grid)
    for one, other in zip(shown, recovery_pictures(volume, result), strict=True):
        assert one.title == other.title
        np.testing.assert_array_equal(one.panels[-1].xz, result.volume.data[where_of(one.title)][:, one.row])
    assert "the pictures show 4 of 6 stacks" in (tmp_path / "r.html").read_text(encoding="utf-8")


def where_of(title: str) -> tuple[int, int]:
    numbers = {letter: int(n) for letter, n in re.findall(r"([CT])=(\d)", title)}
    return numbers["C"], numbers["T"]


def test_a_report_that_cannot_be_written_costs_only_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tensorcell.cli.in_parts.peak_of_recovery", lambda *_: 1e15)
    tc.write("in.npz", tc.datasets.simulate_cells((4, 20, 20), cells=2, seed=0).truth)
    command = ("recover", "in.npz", "out.npy", "--method", "fast", "--report")
    assert call_here(monkeypatch, *command, "r.png") == 0
    assert Path("r.png").read_bytes().startswith(b"\x89PNG")
    assert call_here(monkeypatch, *command, "r.pdf") == 2
    capsys.readouterr()

    def full(*_: Any, **__: Any) -> None:
        raise tc.InputError("r.html: cannot be written: No space left on device")

    monkeypatch.setattr(parts, "write_whole", full)
    assert call_here(monkeypatch, *command, "r.html") == 2
    assert "out.npy was written, but its report was not: r.html: cannot be" in capsys.readouterr().err
