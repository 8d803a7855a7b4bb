"""TIFF files: the forms that are written, and what other programs write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from volume_files import KNOWN, RANDOM, STACK, assert_same, imagej, refuses, tiff

from tensorcell.files import read, tiff_write, write
from tensorcell.volume import Volume


@pytest.mark.parametrize(
    ("dtype", "form"),
    [("u1", "ImageJ TIFF"), ("u2", "ImageJ TIFF"), ("i2", "ImageJ TIFF"), ("f4", "ImageJ TIFF")]
    + [(dtype, "OME-TIFF") for dtype in ("bool", "i1", "i4", "u4", "f8")]
    + [(dtype, "TIFF") for dtype in ("i8", "u8", "f2")],
)
def test_tif_takes_the_form_that_holds_the_dtype(tmp_path: Path, dtype: str, form: str) -> None:
    path = tmp_path / "a.tif"
    assert write(path, Volume(STACK.astype(dtype), spacing=(1, 2, 3))).format == form
    with tifffile.TiffFile(path) as tif:
        assert (tif.is_imagej, tif.is_ome) == (form == "ImageJ TIFF", form == "OME-TIFF")
        assert tif.series[0].axes == "ZYX"
    assert read(path).metadata["format"] == form


def test_imagej_form_says_what_fiji_needs(tmp_path: Path) -> None:
    """Order TZCYX, unit, step, pixels per unit, no predictor (ImageJ ignores one with deflate)."""
    data = RANDOM.integers(0, 9, (3, 6, 7, 2, 4)).astype(np.uint8)
    write(tmp_path / "a.tif", Volume(data, "CYXTZ", (0.5, 0.25, 0.125), metadata={"time_interval": 30.0}))
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        said = tif.imagej_metadata
        assert said is not None
        assert tif.series[0].axes == "TZCYX"
        assert (said["frames"], said["slices"], said["channels"]) == (2, 4, 3)
        assert (said["unit"], said["spacing"], said["finterval"]) == ("um", 0.5, 30.0)
        page: Any = tif.pages[0]
        assert page.tags["XResolution"].value == (8, 1)
        assert page.tags["YResolution"].value == (4, 1)
        assert page.predictor == 1
        np.testing.assert_array_equal(tif.asarray(), data.transpose(3, 4, 0, 1, 2))


def test_ome_form_is_valid_for_others(tmp_path: Path) -> None:
    write(tmp_path / "a.ome.tif", Volume(STACK, spacing=(0.5, 0.25, 0.125), metadata={"channel_names": ["DAPI"]}))
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as tif:
        pixels = tifffile.xml2dict(str(tif.ome_metadata))["OME"]["Image"]["Pixels"]
    assert (pixels["PhysicalSizeZ"], pixels["PhysicalSizeY"], pixels["PhysicalSizeX"]) == (0.5, 0.25, 0.125)
    assert pixels["PhysicalSizeXUnit"] == "µm"
    assert pixels["Channel"]["Name"] == "DAPI"
    assert (pixels["SizeZ"], pixels["SizeY"], pixels["SizeX"]) == STACK.shape


def test_large_tif_becomes_bigtiff(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiff_write, "CLASSIC_LIMIT", STACK.nbytes)
    assert write(tmp_path / "a.tif", KNOWN).format == "OME-TIFF"
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        assert tif.is_bigtiff
    assert_same(read(tmp_path / "a.tif"), KNOWN)


def test_notes_do_not_overrule_a_file_changed_since(tmp_path: Path) -> None:
    """Cropped or calibrated anew in another program that kept our line: the file's own word counts."""
    path = tmp_path / "a.tif"
    write(path, Volume(STACK.transpose(2, 1, 0), "XYZ", (0.5, 0.1, 0.1), metadata={"k": 1}))
    with tifffile.TiffFile(path) as tif:
        line = (tif.imagej_metadata or {})["tensorcell"]
    calibrated: dict[str, Any] = {"spacing": 2.0, "unit": "um", "resolution": (1, 1), "tensorcell": line}
    again = read(imagej(path, "ZYX", **calibrated))
    assert (again.axes, again.spacing, again.metadata["k"]) == ("XYZ", (2.0, 1.0, 1.0), 1)
    cropped = read(imagej(path, "ZYX", STACK[:3], **calibrated))
    assert (cropped.axes, cropped.shape, cropped.spacing) == ("ZYX", (3, 16, 18), (2.0, 1.0, 1.0))
    assert "k" not in cropped.metadata
    broken = read(imagej(path, "ZYX", **{**calibrated, "tensorcell": "{nonsense"}))
    assert broken.axes == "ZYX"


@pytest.mark.parametrize(
    ("unit", "step"),
    [("um", 1.0), ("micron", 1.0), ("\\u00B5m", 1.0), ("nm", 1e-3), ("mm", 1e3), ("cm", 1e4), ("inch", 25400.0)],
)
def test_imagej_units(tmp_path: Path, unit: str, step: float) -> None:
    volume = read(imagej(tmp_path / "a.tif", "ZYX", unit=unit, spacing=0.5, resolution=(4, 8)))
    assert volume.spacing == pytest.approx((0.5 * step, step / 8, step / 4), rel=1e-12)


@pytest.mark.parametrize("unit", ["pixel", "", "furlong"])
def test_imagej_without_a_unit_of_length_has_no_spacing(tmp_path: Path, unit: str) -> None:
    assert read(imagej(tmp_path / "a.tif", "ZYX", unit=unit, spacing=0.5, resolution=(4, 4))).spacing is None


def test_imagej_leaves_out_a_step_of_one(tmp_path: Path) -> None:
    """Only what ImageJ itself wrote is credited with it."""
    calibrated: dict[str, Any] = {"unit": "um", "resolution": (4, 4)}
    assert read(imagej(tmp_path / "a.tif", "ZYX", ImageJ="1.53t", **calibrated)).spacing == (1.0, 0.25, 0.25)
    volume = read(imagej(tmp_path / "a.tif", "ZYX", **calibrated))
    assert volume.spacing is None
    assert volume.metadata["pixel_size"] == (0.25, 0.25)


def test_imagej_details(tmp_path: Path) -> None:
    path = imagej(tmp_path / "a.tif", "ZYX", unit="um", spacing=-2, resolution=(4, 4), finterval=3, tunit="min")
    volume = read(path)
    assert volume.spacing == (2.0, 0.25, 0.25)  # negative steps: a stack taken downwards
    assert volume.metadata["time_interval"] == 180.0
    tiff(
        path, resolution=(400, 400), resolutionunit="CENTIMETER", imagej=True, metadata={"axes": "ZYX", "spacing": 0.01}
    )
    assert read(path).spacing == pytest.approx((100.0, 25.0, 25.0))
    tiff(path, resolution=(0, 0), imagej=True, metadata={"axes": "ZYX", "spacing": 0.01, "unit": "um"})
    assert read(path).spacing is None


def test_plain_tiff_has_no_depth_step(tmp_path: Path) -> None:
    """72 dots per inch is what programs write that know nothing."""
    path = tiff(tmp_path / "a.tif", metadata=None, resolution=(72, 72), resolutionunit="INCH")
    volume = read(path)
    assert (volume.axes, volume.spacing, volume.metadata["format"]) == ("ZYX", None, "TIFF")
    assert_same(volume, Volume(STACK))


def test_ome_units_and_missing_steps(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"axes": "ZYX", "PhysicalSizeX": 100, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.1}
    depth = {"PhysicalSizeZ": 0.0005, "PhysicalSizeZUnit": "mm", "TimeIncrement": 500, "TimeIncrementUnit": "ms"}
    volume = read(tiff(tmp_path / "a.tif", ome=True, metadata={**sizes, **depth}))
    assert volume.spacing == pytest.approx((0.5, 0.1, 0.1), rel=1e-12)
    assert volume.metadata["time_interval"] == 0.5
    volume = read(tiff(tmp_path / "a.tif", ome=True, metadata={**sizes, "Description": "a < b"}))
    assert volume.spacing is None
    assert volume.metadata["pixel_size"] == pytest.approx((0.1, 0.1))
    assert volume.metadata["description"] == "a < b"


@pytest.mark.parametrize(
    "options",
    [
        {"metadata": None},
        {},
        {"metadata": {"axes": "QYX"}},
        {"metadata": None, "description": "ImageJ=1.53t\nimages=5\n"},
    ],
)
def test_a_nameless_page_axis_is_z(tmp_path: Path, options: dict[str, Any]) -> None:
    assert_same(read(tiff(tmp_path / "a.tif", **options)), Volume(STACK))


@pytest.mark.parametrize(
    "options",
    [
        {"byteorder": ">"},
        {"byteorder": ">", "compression": "zlib", "predictor": 2},
        {"bigtiff": True},
        {"tile": (16, 16)},
        {"rowsperstrip": 3},
        {"rowsperstrip": 3, "compression": "lzw"},
        {"compression": "zstd"},
        {"photometric": "miniswhite"},
        {"imagej": True, "truncate": True, "metadata": {"axes": "ZYX"}},
        {"description": "SCIFIO=0.1", "metadata": None},
    ],
    ids=str,
)
def test_tiff_variants_give_the_same_intensities(tmp_path: Path, options: dict[str, Any]) -> None:
    assert_same(read(tiff(tmp_path / "a.tif", **options)), Volume(STACK))


def test_lookup_tables_do_not_change_intensities(tmp_path: Path) -> None:
    colours = RANDOM.integers(0, 2**16, (3, 256)).astype(np.uint16)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, STACK.astype(np.uint8), colormap=colours)
    assert_same(read(path), Volume(STACK.astype(np.uint8)))


def test_the_largest_image_of_several_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(STACK[:2, :4, :4], photometric="minisblack", metadata={"axes": "ZYX", "name": "thumbnail"})
        writer.write(STACK, photometric="minisblack", metadata={"axes": "ZYX", "name": "first"})
        writer.write(STACK + 1, photometric="minisblack", metadata={"axes": "ZYX", "name": "second"})
    volume = read(path)
    assert_same(volume, Volume(STACK))
    assert volume.metadata["series"] == "1 of 3: first"


def test_axes_given_by_the_user_count(tmp_path: Path) -> None:
    path = tiff(tmp_path / "a.tif", np.stack([STACK, STACK + 1]))
    refuses(lambda: read(path), r"a.tif: has 4 axes \(2, 5, 16, 18\) without names; pass axes=")
    assert read(path, axes="TZYX").axes == "TZYX"
    refuses(lambda: read(path, axes="ZYX"), r"a.tif: axes 'ZYX' name 3 axes, data has 4")
    frames = imagej(tmp_path / "b.tif", "TYX", unit="um", spacing=2, resolution=(4, 4))
    assert_same(read(frames), Volume(STACK, "TYX", spacing=(0.25, 0.25)))
    assert_same(read(frames, axes="ZYX"), Volume(STACK, spacing=(2, 0.25, 0.25)))


def test_an_axis_beside_z_keeps_its_letter(tmp_path: Path) -> None:
    path = tiff(tmp_path / "a.tif", np.stack([STACK, STACK]), metadata={"axes": "QZYX"})
    assert read(path).axes == "QZYX"


def test_a_series_is_chosen_by_number_or_name(tmp_path: Path) -> None:
    small, large = np.zeros((4, 8, 8), np.uint16), np.ones((6, 16, 16), np.uint16)
    with tifffile.TiffWriter(tmp_path / "two.ome.tif", ome=True) as tif:
        tif.write(small, metadata={"axes": "ZYX", "Name": "overview"})
        tif.write(large, metadata={"axes": "ZYX", "Name": "stack"})
    assert read(tmp_path / "two.ome.tif").shape == large.shape
    for series in (0, "0", "overview"):
        found = read(tmp_path / "two.ome.tif", series=series)
        assert found.shape == small.shape
        assert found.metadata["series"] == "0 of 2: overview"
    refuses(lambda: read(tmp_path / "two.ome.tif", series="third"), "has no series 'third', it has 0: overview, 1")
    np.save(tmp_path / "one.npy", large)
    refuses(lambda: read(tmp_path / "one.npy", series=0), "series= is for TIFF, OME-TIFF, .* files, expected none")
