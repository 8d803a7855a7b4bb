"""What the descriptions and tags of TIFF files say: voxel sizes, calibration of intensities, how an image is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from volume_files import RANDOM, STACK, imagej, tiff

from tensorcell.files import read, write
from tensorcell.files.units import micrometres
from tensorcell.volume import Volume

INCH, CENTIMETRE = 2, 3


def described(path: Path, text: str, resolution: tuple[float, float], unit: int, data: Any = STACK) -> Path:
    """A file with an ImageJ description of its own and resolution tags."""
    head = f"ImageJ=1.53t\nimages={len(data)}\nslices={len(data)}\n"
    return tiff(path, data, description=head + text, metadata=None, resolution=resolution, resolutionunit=unit)


@pytest.mark.parametrize("dots", [72, 96, 300])
@pytest.mark.parametrize("unit", [INCH, CENTIMETRE])
def test_resolutions_for_print_are_no_pixel_sizes(tmp_path: Path, dots: int, unit: int) -> None:
    resolution = (dots / 2.54, dots / 2.54) if unit == CENTIMETRE else (dots, dots)
    said = f"its resolution of {dots} per inch is one for print: the pixel size is unknown"
    for text in ("spacing=0.5\n", "unit=um\nspacing=0.5\n"):
        volume = read(described(tmp_path / "a.tif", text, resolution, unit))
        assert volume.spacing is None
        assert "pixel_size" not in volume.metadata
        assert said in volume.metadata["notes"]
    plain = read(tiff(tmp_path / "b.tif", metadata=None, resolution=resolution, resolutionunit=unit))
    assert plain.spacing is None
    assert plain.metadata["notes"] == [said]


def test_an_image_in_inches_may_have_any_resolution(tmp_path: Path) -> None:
    volume = read(described(tmp_path / "a.tif", "unit=inch\nspacing=0.01\n", (300, 300), INCH))
    assert volume.spacing == pytest.approx((254, 25400 / 300, 25400 / 300))


def test_a_bare_resolution_is_no_pixel_size(tmp_path: Path) -> None:
    volume = read(tiff(tmp_path / "a.tif", metadata=None, resolution=(10, 10), resolutionunit=1))
    assert volume.spacing is None
    assert volume.metadata["notes"] == ["its resolution has no unit of length: the pixel size is unknown"]
    assert "notes" not in read(tiff(tmp_path / "a.tif", metadata=None, resolution=(1, 1), resolutionunit=1)).metadata


@pytest.mark.parametrize(
    ("unit", "tag", "resolution", "expected"),
    [
        ("um", CENTIMETRE, 1e5, 0.1),  # as the tag says: per micrometre it would be 0.01 nm
        ("um", INCH, 254000, 0.1),
        ("um", INCH, 10, 0.1),  # as the description says: per inch it would be 2.54 mm
        ("nm", CENTIMETRE, 1e6, 0.01),
        ("um", CENTIMETRE, 100, None),  # 0.01 um or 100 um
        ("cm", CENTIMETRE, 1e5, 0.1),
    ],
)
def test_two_units_of_one_resolution_are_weighed(
    tmp_path: Path, unit: str, tag: int, resolution: float, expected: float | None
) -> None:
    pair, json = (resolution, resolution), {"axes": "ZYX", "spacing": 0.5, "unit": unit}
    for path in (
        described(tmp_path / "a.tif", f"unit={unit}\nspacing=0.5\n", pair, tag),
        tiff(tmp_path / "b.tif", metadata=json, resolution=pair, resolutionunit=tag),
    ):
        volume = read(path)
        notes = " ".join(volume.metadata.get("notes", ()))
        if expected is None:
            assert volume.spacing is None
            assert "the pixel size is unknown" in notes
        else:
            assert volume.spacing is not None
            assert volume.spacing[1:] == pytest.approx((expected, expected))
            assert unit == "cm" or "by its tag" in notes


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("micrometers", 1.0), ("Micrometre", 1.0), ("microns", 1.0), ("\u00b5m", 1.0), ("\u03bcm", 1.0),
        ("\\u00B5m", 1.0), ("\\u00b5m", 1.0), ("\\u03BCm", 1.0), ("\\xb5m", 1.0), ("&#181;m", 1.0), ("&micro;m", 1.0),
        ("\u00c2\u00b5m", 1.0), ('"um"', 1.0), (" um ", 1.0), ("nanometers", 1e-3), ("nanometres", 1e-3),
        ("millimeters", 1e3), ("centimetres", 1e4), ("dm", 1e5), ("decimeter", 1e5), ("meters", 1e6),
        ("inches", 25400.0), ("\u212b", 1e-4), ("\u00c5", 1e-4), ("A\u030a", 1e-4), ("\\u212B", 1e-4),
        ("angstroms", 1e-4), ("pm", 1e-6),
        ("pixel", None), ("", None), ("s", None), ("ms", None), ("furlong", None), (None, None),
    ],
)  # fmt: skip
def test_units_of_length(name: Any, size: float | None) -> None:
    assert micrometres(name) == size


def test_ome_units(tmp_path: Path) -> None:
    sizes = {"PhysicalSizeX": 0.1, "PhysicalSizeY": 1000.0, "PhysicalSizeYUnit": "\u00c5"}
    depth = {"PhysicalSizeZ": 9.999999999999994e-6, "PhysicalSizeZUnit": "dm"}
    volume = read(tiff(tmp_path / "a.ome.tif", ome=True, metadata={"axes": "ZYX", **sizes, **depth}))
    assert volume.spacing == pytest.approx((1.0, 0.1, 0.1))
    depth = {"PhysicalSizeZ": 2.0, "PhysicalSizeZUnit": "reference frame"}
    volume = read(tiff(tmp_path / "a.ome.tif", ome=True, metadata={"axes": "ZYX", **sizes, **depth}))
    assert volume.metadata["pixel_size"] == pytest.approx((0.1, 0.1))
    assert volume.metadata["notes"] == ["PhysicalSizeZ is 2.0 in 'reference frame', which is no unit of length"]


@pytest.mark.parametrize(("step", "odd"), [(1e-4, True), (0.001, False), (999.0, False), (25400.0, True)])
def test_steps_that_no_microscope_has_are_noted(tmp_path: Path, step: float, odd: bool) -> None:
    volume = read(imagej(tmp_path / "a.tif", "ZYX", unit="um", spacing=step, resolution=(10, 10)))
    assert volume.spacing == pytest.approx((step, 0.1, 0.1))
    said = f"the voxel size along Z is {step:g} um, which is not between 1 nm and 1 mm"
    assert volume.metadata.get("notes", []) == ([said] if odd else [])


@pytest.mark.parametrize(("name", "dtype"), [("a.tif", "uint16"), ("a.ome.tif", "uint16"), ("a.tif", "int64")])
def test_a_pixel_size_without_a_step_is_kept(tmp_path: Path, name: str, dtype: str) -> None:
    volume = Volume(STACK.astype(dtype), metadata={"pixel_size": (0.2, 1 / 9)})
    write(tmp_path / name, volume)
    again = read(tmp_path / name)
    assert again.spacing is None
    assert again.metadata["pixel_size"] == (0.2, 1 / 9)


def test_the_step_wins_over_a_pixel_size_noted_before(tmp_path: Path) -> None:
    write(tmp_path / "a.tif", Volume(STACK, spacing=(1, 0.5, 0.5), metadata={"pixel_size": (0.2, 0.2)}))
    again = read(tmp_path / "a.tif")
    assert again.spacing == (1, 0.5, 0.5)
    assert "pixel_size" not in again.metadata


SIGNED = "unit=um\nspacing=0.5\ncf=0\nc0=-32768.0\nc1=1.0\nvunit=Gray Value\n"


def test_signed_stacks_of_imagej_are_signed(tmp_path: Path) -> None:
    truth = RANDOM.integers(-(2**15), 2**15, (8, 16, 18)).astype(np.int16)
    stored = (truth.astype(np.int32) + 2**15).astype(np.uint16)
    volume = read(described(tmp_path / "a.tif", SIGNED, (10, 10), 1, stored))
    np.testing.assert_array_equal(volume.data, truth)
    assert volume.dtype == np.int16
    assert "calibration" not in volume.metadata
    write(tmp_path / "b.tif", volume)
    np.testing.assert_array_equal(read(tmp_path / "b.tif").data, truth)


@pytest.mark.parametrize(
    "text", ["cf=0\nc0=-100.0\nc1=0.5\nvunit=OD\n", "cf=3\nc0=1.0\nc1=2.0\nc2=0.5\nvunit=OD\n"], ids=["line", "other"]
)
def test_other_calibrations_are_kept_and_said(tmp_path: Path, text: str) -> None:
    volume = read(described(tmp_path / "a.tif", text, (10, 10), 1))
    np.testing.assert_array_equal(volume.data, STACK)
    assert volume.metadata["calibration"]["unit"] == "OD"
    assert "was kept and not applied" in volume.metadata["notes"][-1]
    assert write(tmp_path / "b.tif", volume).lost == ()
    with tifffile.TiffFile(tmp_path / "b.tif") as tif:
        said = tif.imagej_metadata or {}
    assert [f"{key}={said[key]}" for key in ("cf", "c0", "c1", "vunit")] == [
        line for line in text.splitlines() if not line.startswith("c2")
    ]
    assert read(tmp_path / "b.tif").metadata["calibration"] == volume.metadata["calibration"]
    assert write(tmp_path / "c.tif", volume, dtype="float32").lost == ("calibration",)
    assert write(tmp_path / "c.ome.tif", volume).lost == ("calibration",)


def test_how_imagej_shows_an_image_is_kept(tmp_path: Path) -> None:
    tables = [RANDOM.integers(0, 255, (3, 256)).astype(np.uint8) for _ in range(2)]
    data = RANDOM.integers(0, 9, (3, 2, 8, 9)).astype(np.uint8)
    shown: dict[str, Any] = {
        "Labels": [f"z{z} c{c}" for z in range(3) for c in range(2)],
        "Ranges": (0.0, 5.0, 1.0, 8.0),
        "LUTs": tables,
        "Properties": {"stain": "H&E"},
        "Info": "text",
    }
    imagej(tmp_path / "a.tif", "ZCYX", data, mode="composite", Overlays=b"abc", **shown)
    first = read(tmp_path / "a.tif")
    assert first.metadata["notes"] == ["not kept of ImageJ's metadata: Overlays"]
    assert write(tmp_path / "b.tif", first).lost == ()
    for volume in (first, read(tmp_path / "b.tif")):
        assert volume.metadata["labels"] == shown["Labels"]
        assert volume.metadata["display_ranges"] == [[0.0, 5.0], [1.0, 8.0]]
        assert volume.metadata["properties"] == shown["Properties"]
        for table, truth in zip(volume.metadata["luts"], tables, strict=True):
            np.testing.assert_array_equal(table, truth)
    cropped = Volume(first.data[:2], "ZCYX", metadata=first.metadata)
    assert write(tmp_path / "c.tif", cropped).lost == ("metadata 'labels'",)


def test_a_colour_table_of_plain_pages_is_kept(tmp_path: Path) -> None:
    table = RANDOM.integers(0, 255, (3, 256)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", STACK.astype(np.uint8), colormap=table * 257)
    volume = read(tmp_path / "a.tif")
    np.testing.assert_array_equal(volume.metadata["luts"][0], table)
