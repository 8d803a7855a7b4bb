"""Files of microscopes through the plugins of bioio: sizes in micrometres, scenes, and plugins that are not there."""

from __future__ import annotations

import sys
import warnings
from datetime import timedelta
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile
from volume_files import STACK, refuses

import tensorcell as tc
from tensorcell.files import bioio_read, read
from tensorcell.files.formats import Wanted

DATA = np.stack([STACK, STACK + 1])[None]


class Reader:
    """What a plugin of bioio gives, of two scenes (the second is brighter by 7)."""

    order, scenes, unit = "TCZYX", ("A", "B"), None
    channel_names, time_interval = ["DAPI", "GFP"], timedelta(seconds=2.5)
    physical_pixel_sizes: Any = SimpleNamespace(Z=0.5, Y=0.12, X=0.108)

    def __init__(self, path: str) -> None:
        assert Path(path).exists()
        self.chosen = 0

    def set_scene(self, number: int) -> None:
        self.chosen = number

    @property
    def dims(self) -> Any:
        return SimpleNamespace(order=self.order)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def data(self) -> np.ndarray:
        return DATA + np.uint16(7 * self.chosen)

    @property
    def ome_metadata(self) -> Any:
        if self.unit is None:
            raise NotImplementedError
        sizes = {f"physical_size_{axis}": size for axis, size in zip("zyx", (500, 120, 108), strict=True)}
        units = {f"physical_size_{axis}_unit": SimpleNamespace(value=self.unit) for axis in "zyx"}
        times = {"time_increment": 250.0, "time_increment_unit": SimpleNamespace(value="ms")}
        return SimpleNamespace(images=[SimpleNamespace(pixels=SimpleNamespace(**sizes, **units, **times))] * 2)


def plugin(monkeypatch: pytest.MonkeyPatch, name: str, **changes: Any) -> None:
    module = ModuleType(name)
    module.Reader = type("Reader", (Reader,), changes)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, name, module)


def some(path: Path) -> Path:
    path.write_bytes(b"x")
    return path


@pytest.mark.parametrize(("suffix", "name"), [(".nd2", "bioio_nd2"), (".LIF", "bioio_lif"), (".czi", "bioio_czi")])
def test_sizes_of_plugins_that_give_micrometres(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, name: str
) -> None:
    plugin(monkeypatch, name, scenes=("A",))
    volume = tc.read(some(tmp_path / f"a{suffix}"))
    assert (volume.axes, volume.spacing) == ("TCZYX", (0.5, 0.12, 0.108))
    np.testing.assert_array_equal(volume.data, DATA)
    assert volume.metadata["channel_names"] == ["DAPI", "GFP"]
    assert volume.metadata["time_interval"] == 2.5
    assert volume.metadata["format"] == f"{suffix[1:].upper()} ({name.replace('_', '-')})"
    assert not {"series", "notes"} & set(volume.metadata)


@pytest.mark.parametrize(("unit", "factor"), [("nm", 1e-3), ("\u00b5m", 1), ("mm", 1e3), ("pixel", None), (None, None)])
def test_sizes_of_other_plugins_have_the_unit_of_the_ome_metadata(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unit: str | None, factor: float | None
) -> None:
    plugin(monkeypatch, "bioio_bioformats", unit=unit, time_interval=None)
    volume = read(some(tmp_path / "a.oir"), series=0)
    assert volume.spacing == (factor and pytest.approx((500 * factor, 120 * factor, 108 * factor)))
    assert volume.metadata.get("time_interval") == (None if unit is None else 0.25)
    said = "The voxel size is unknown: bioio-bioformats gives [0.5, 0.12, 0.108] along z, y and x without a unit."
    notes = [note for note in volume.metadata.get("notes", ()) if "is not between 1 nm and 1 mm" not in note]
    assert notes == ([said] if unit is None else [])


def test_scenes_are_listed_and_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin(monkeypatch, "bioio_nd2")
    path = some(tmp_path / "a.nd2")
    refuses(lambda: read(path), "a.nd2: holds 2 images, name one with series=: 0: A, 1: B$")
    for series in (1, "1", "B"):
        volume = read(path, series=series)
        np.testing.assert_array_equal(volume.data, DATA + 7)
        assert volume.metadata["series"] == "1 of 2: B"
    refuses(lambda: read(path, series="C"), "has no series 'C', it has 0: A, 1: B")


def test_what_is_no_stack_of_intensities(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = some(tmp_path / "a.czi")
    plugin(monkeypatch, "bioio_czi", scenes=("A",), order="TZYXS")
    refuses(lambda: read(path), r"is a colour image .* \(TZYXS\), expected intensities; split the colours")
    plugin(monkeypatch, "bioio_czi", scenes=("A",), order="MCZYX")
    assert read(path).metadata["notes"] == ["The tiles of a mosaic were not put together: they lie along the axis M."]
    plane = SimpleNamespace(Z=None, Y=0.12, X=0.108)
    plugin(monkeypatch, "bioio_czi", scenes=("A",), physical_pixel_sizes=plane)
    volume = read(path)
    assert (volume.spacing, volume.metadata["pixel_size"]) == (None, (0.12, 0.108))

    def broken(_: Any) -> Any:
        raise ValueError("no such\nblock")

    plugin(monkeypatch, "bioio_czi", scenes=("A",), data=property(broken))
    refuses(lambda: read(path), "a.czi: cannot be read: no such block$")


@pytest.mark.parametrize(
    ("suffix", "module", "expected"),
    [
        (".nd2", "bioio_nd2", r'needs the package bioio-nd2; pip install "tensorcell\[formats\]" installs it$'),
        (".lif", "bioio_lif", r'needs the package bioio-lif; pip install "tensorcell\[formats\]" installs it$'),
        (
            ".czi",
            "bioio_czi",
            r"needs the package bioio-czi; pip install bioio-czi installs it \(under a licence of its",
        ),
        (".vsi", "bioio_bioformats", "needs the package bioio-bioformats; pip install bioio-bioformats installs it"),
    ],
)
def test_a_plugin_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, module: str, expected: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    refuses(lambda: read(some(tmp_path / f"a{suffix}")), expected)


@pytest.mark.parametrize("module", ["bioio_nd2", "bioio_lif"])
def test_damaged_files_are_one_line(tmp_path: Path, module: str) -> None:
    """With the plugins themselves, where they are installed."""
    pytest.importorskip(module, reason="needs the extra 'formats'")
    refuses(lambda: read(some(tmp_path / f"a.{module[6:]}")), "a.(nd2|lif): cannot be read: ")


def test_nanometres_of_bioio_ome_tiff_become_micrometres(tmp_path: Path) -> None:
    """It hands on the numbers of the file as they stand, here of two units, and None as their units."""
    module = pytest.importorskip("bioio_ome_tiff", reason="needs bioio-ome-tiff")
    sizes = {"PhysicalSizeX": 108.0, "PhysicalSizeY": 120.0, "PhysicalSizeZ": 0.5}
    units = {"PhysicalSizeXUnit": "nm", "PhysicalSizeYUnit": "nm", "PhysicalSizeZUnit": "\u00b5m"}
    tifffile.imwrite(tmp_path / "a.ome.tif", STACK, ome=True, metadata={"axes": "ZYX", **sizes, **units})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ome-types, of an argument that it no longer takes
        given = module.Reader(tmp_path / "a.ome.tif")
        assert tuple(given.physical_pixel_sizes) == (0.5, 120.0, 108.0)
        assert given.dimension_properties.X.unit is None
    volume = bioio_read.read_with("bioio-ome-tiff", tmp_path / "a.ome.tif", Wanted())
    assert volume.spacing == pytest.approx((0.5, 0.12, 0.108))
    np.testing.assert_array_equal(volume.data.squeeze(), STACK)
    assert volume.spacing == pytest.approx(read(tmp_path / "a.ome.tif").spacing)
