"""Files: exact round trips, what other programs write, and hostile files that must end in one clear line."""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import os
import re
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tensorcell import files
from tensorcell.errors import InputError
from tensorcell.files import Cast, cast, check_writable, read, read_mask, same_file, split_path, write
from tensorcell.volume import Volume

RANDOM = np.random.default_rng(0)
STACK = RANDOM.integers(0, 4000, (5, 16, 18)).astype(np.uint16)
KNOWN = Volume(
    STACK, "ZYX", (0.5, 0.108, 1 / 9), metadata={"channel_names": ["DAPI"], "time_interval": 2.5, "note": {"a": [1]}}
)
ALL_DTYPES = ("bool", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")


def tiff(path: Path, data: Any = STACK, **options: Any) -> Path:
    """A TIFF as other programs write them."""
    tifffile.imwrite(path, data, **{"photometric": "minisblack", **options})
    return path


def imagej(path: Path, axes: str, data: Any = STACK, **description: Any) -> Path:
    resolution = description.pop("resolution", None)
    return tiff(path, data, imagej=True, metadata={"axes": axes, **description}, resolution=resolution)


def assert_same(volume: Volume, expected: Volume) -> None:
    assert volume.axes == expected.axes
    assert volume.dtype == expected.dtype.newbyteorder("=")
    np.testing.assert_array_equal(volume.data, expected.data)  # NaN equal to NaN
    assert volume.spacing == expected.spacing


def refuses(call: Callable[[], object], message: str) -> None:
    """The call ends in an `InputError` of one line that matches."""
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def read_or_line(path: Path) -> Volume | str:
    """The volume, or the one line of an `InputError`; anything else fails the test."""
    try:
        return read(path)
    except InputError as error:
        line = str(error)
    assert "\n" not in line
    return line


# ------------------------------------------------------------------------------------------------ real volumes


def test_read_real_volumes(volumes_folder: Path) -> None:
    """Axes, shape, dtype and voxel size of every volume as its table of provenance has them."""
    table = (volumes_folder / "PROVENANCE.md").read_text()
    rows = re.findall(r"^\| (\S+\.tif) \| \(([\d, ]+)\) (\w+) \| (\w+) (\d+)\.\.(\d+) \| ([^|]+) \|", table, re.M)
    assert len(rows) == len(list(volumes_folder.glob("*.tif")))
    for name, shape, axes, dtype, low, high, voxel in rows:
        volume = read(volumes_folder / name)
        assert volume.axes == axes
        assert volume.shape == tuple(int(size) for size in shape.split(","))
        assert volume.dtype == dtype
        assert (volume.data.min(), volume.data.max()) == (int(low), int(high))
        if voxel == "unknown":
            assert volume.spacing is None
        else:  # the tags hold ratios of 32-bit integers
            assert volume.spacing == pytest.approx([float(step) for step in voxel.split(",")], rel=1e-8)
        assert volume.metadata["source"] == name


@pytest.mark.parametrize("suffix", [".tif", ".ome.tif", ".h5", ".npz"])
def test_real_volume_round_trip(volumes_folder: Path, tmp_path: Path, suffix: str) -> None:
    volume = read(volumes_folder / "carcinoma_cells_4d_T2.tif")
    cropped = Volume(volume.data[:, :6], volume.axes, (0.5, 1.242, 1.242))
    write(tmp_path / f"out{suffix}", cropped)
    assert_same(read(tmp_path / f"out{suffix}"), cropped)


def test_truncated_real_volume_is_never_partly_read(volumes_folder: Path, tmp_path: Path) -> None:
    source = volumes_folder / "ovule_membranes_confocal.tif"
    whole = source.read_bytes()
    cuts = np.unique(np.linspace(0, len(whole) - 1, 60).astype(int))
    for cut in [*cuts, len(whole) - 1]:
        path = tmp_path / "cut.tif"
        path.write_bytes(whole[:cut])
        refuses(partial(read, path), "truncated|damaged|empty|no TIFF file")


# ------------------------------------------------------------------------------------------------- round trips


@st.composite
def volumes(draw: st.DrawFn, suffix: str) -> Volume:
    """Small volumes of any order of axes and any dtype that the format takes."""
    ome = suffix == ".ome.tif"
    dtype = np.dtype(draw(st.sampled_from([d for d in ALL_DTYPES if not ome or d not in ("i8", "u8", "f2")])))
    outer = draw(st.lists(st.sampled_from("TC" if ome else "TCAQI"), max_size=2, unique=True))
    axes = "".join(draw(st.permutations(["Z", "Y", "X", *outer])))
    shape = tuple(draw(st.integers(2 if letter == "X" else 1, 4)) for letter in axes)
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    raw = random.bytes(int(np.prod(shape)) * dtype.itemsize)
    data: Any = np.frombuffer(raw, dtype).reshape(shape)  # every bit pattern: NaN, infinities, subnormal numbers
    if dtype.kind == "b":
        data = np.frombuffer(raw, np.uint8).reshape(shape) > 127
    steps = st.floats(1e-3, 1e3)
    spacing = draw(st.none() | st.tuples(steps, steps, steps))
    mask = draw(st.none() | st.just(random.random(shape) < 0.5))
    channels = dict(zip(axes, shape, strict=True)).get("C", 1)
    names = [draw(st.text(max_size=5)) for _ in range(channels)]
    return Volume(data, axes, spacing, mask, {"channel_names": names, "k": 1.5} if draw(st.booleans()) else {})


@pytest.mark.parametrize("suffix", [".tif", ".ome.tif", ".h5", ".npz"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_write_read_round_trip(tmp_path: Path, suffix: str, data: st.DataObject) -> None:
    volume = data.draw(volumes(suffix))
    path = tmp_path / f"volume{suffix}"
    done = write(path, volume, compress=data.draw(st.booleans()))
    again = read(path)
    assert_same(again, volume)
    assert again.data.tobytes() == np.ascontiguousarray(volume.data).tobytes()  # bit for bit, NaN included
    if suffix in (".h5", ".npz"):
        assert (again.mask is None) == (volume.mask is None)
        if volume.mask is not None:
            np.testing.assert_array_equal(again.mask, volume.mask)
    else:
        assert again.mask is None
    assert done.lost == (("mask",) if volume.mask is not None and "tif" in suffix else ())
    assert again.metadata.get("k") == volume.metadata.get("k")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("dtype", ALL_DTYPES)
def test_npy_holds_the_array_only(tmp_path: Path, dtype: str) -> None:
    volume = Volume(STACK.astype(dtype)[None], "TZYX", (1, 1, 1), STACK[None] > 9, {"a": 1})
    done = write(tmp_path / "a.npy", volume)
    assert done.lost == ("axes", "spacing", "mask", "metadata")
    again = read(tmp_path / "a.npy", axes="TZYX")
    np.testing.assert_array_equal(again.data, volume.data)
    assert again.dtype == volume.dtype
    assert again.spacing is None


@pytest.mark.parametrize("suffix", [".tif", ".ome.tif", ".h5", ".npz"])
def test_metadata_survives(tmp_path: Path, suffix: str) -> None:
    names = ["DAPI <1>", 'GFP & "α"']
    metadata = {"channel_names": names, "time_interval": 2.5, "info": "a = 1\nµ", "objective": {"NA": np.float32(0.5)}}
    volume = Volume(np.stack([STACK, STACK + 1]), "CZYX", metadata=metadata)
    write(tmp_path / f"a{suffix}", volume)
    again = read(tmp_path / f"a{suffix}").metadata
    assert again["channel_names"] == names
    assert again["time_interval"] == 2.5
    assert again["info"] == "a = 1\nµ"
    assert again["objective"] == {"NA": 0.5}
    assert again["source"] == f"a{suffix}"


def test_metadata_that_no_file_holds_is_reported(tmp_path: Path) -> None:
    volume = Volume(STACK, metadata={"reader": object(), "kept": 1})
    assert write(tmp_path / "a.tif", volume).lost == ("metadata 'reader'",)
    assert read(tmp_path / "a.tif").metadata["kept"] == 1
    huge = Volume(STACK, metadata={"text": "x" * 100_000})
    assert write(tmp_path / "a.h5", huge).lost == ("metadata",)
    assert_same(read(tmp_path / "a.h5"), Volume(STACK))


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
    monkeypatch.setattr(files, "CLASSIC_LIMIT", STACK.nbytes)
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


def test_write_takes_arrays_and_any_memory_layout(tmp_path: Path) -> None:
    view = np.asfortranarray(STACK)[::-1, ::2]
    for suffix in (".tif", ".ome.tif", ".h5", ".npz", ".npy"):
        write(tmp_path / f"a{suffix}", view.astype(">u2"))
        np.testing.assert_array_equal(read(tmp_path / f"a{suffix}").data, view)


def test_write_converts_and_counts(tmp_path: Path) -> None:
    data = np.array([-1.0, 0.4, 2.0, 300.0]).reshape(1, 2, 2)
    done = write(tmp_path / "a.tif", Volume(data), dtype="uint8")
    assert (done.rounded, done.clipped) == (1, 2)
    assert read(tmp_path / "a.tif").data.tolist() == [[[0, 0], [2, 255]]]


def test_write_hdf5_inside_keeps_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write(path, KNOWN)
    write(f"{path}:/rec/one", Volume(STACK + 1, mask=STACK > 9))
    write(f"{path}:/rec/one", Volume(STACK + 2))
    np.testing.assert_array_equal(read(path, dataset="data").data, STACK)
    np.testing.assert_array_equal(read(f"{path}:/rec/one").data, STACK + 2)
    assert read(f"{path}:rec").mask is None
    refuses(lambda: write(f"{path}:/rec", KNOWN), "'rec' is a group in the file")
    refuses(lambda: write(f"{path}:/data/x", KNOWN), "'data' is a dataset in the file, expected a group")
    (tmp_path / "b.h5").write_text("hello")
    refuses(lambda: write(f"{tmp_path}/b.h5:/x", KNOWN), "exists and is no HDF5 file")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.h5", "b.h5"]


def test_hdf5_attributes_are_those_of_other_programs(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", dataclasses.replace(KNOWN, mask=STACK > 9))
    with h5py.File(tmp_path / "a.h5") as file:
        assert list(file) == ["data", "data_mask"]
        assert file["data"].attrs["element_size_um"].tolist() == [0.5, 0.108, 1 / 9]
        assert [dim.label for dim in file["data"].dims] == ["z", "y", "x"]
        assert file["data"].compression == "gzip"
        assert file["data"].chunks is not None


# ------------------------------------------------------------------------------------------- foreign TIFF files


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
    refuses(lambda: read(frames), r"b.tif: holds single planes, axes TYX .* pass axes=, for example axes='ZYX'")
    assert_same(read(frames, axes="ZYX"), Volume(STACK, spacing=(2, 0.25, 0.25)))


def test_an_axis_beside_z_keeps_its_letter(tmp_path: Path) -> None:
    path = tiff(tmp_path / "a.tif", np.stack([STACK, STACK]), metadata={"axes": "QZYX"})
    assert read(path).axes == "QZYX"


# -------------------------------------------------------------------------------- files that hold no volume


def text_file(path: Path) -> Path:
    path.write_text("x,y\n1,2\n" * 20)
    return path


def never_written(path: Path, **options: Any) -> Path:
    with h5py.File(path, "w") as file:
        stored = file.create_dataset("raw", STACK.shape, np.uint16, **options)
        if stored.chunks is not None:
            stored[:2] = STACK[:2]
    return path


def hdf5(path: Path, **arrays: Any) -> Path:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return path


def npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def incomplete_ome(path: Path) -> Path:
    """The second half of the planes is said to be in another file, which is not there."""
    tiff(path, ome=True, metadata={"axes": "ZYX", "Description": "x" * 400})
    xml = str(tifffile.tiffcomment(path))
    there, rest = '<TiffData IFD="0" PlaneCount="5"/>', "urn:uuid:6F9619FF-8B86-D011-B42D-00CF4FC964FF"
    assert there in xml
    uuid = re.search('UUID="([^"]+)"', xml)
    assert uuid is not None
    pieces = [
        f'<TiffData IFD="0" FirstZ="0" PlaneCount="3"><UUID FileName="{path.name}">{uuid[1]}</UUID></TiffData>',
        f'<TiffData IFD="0" FirstZ="3" PlaneCount="2"><UUID FileName="gone.tif">{rest}</UUID></TiffData>',
    ]
    xml = xml.replace("x" * 400, "").replace(there, "".join(pieces))
    tifffile.tiffcomment(path, xml.encode())
    return path


def set_tag_to_zero(path: Path, name: str, **options: Any) -> Path:
    """A strip or tile of the second page without bytes, as GDAL writes for "nothing here"."""
    tiff(path, metadata=None, **options)
    with tifffile.TiffFile(path) as tif:
        tag = tif.pages[1].aspage().tags[name]
        offset = tag.valueoffset
    raw = bytearray(path.read_bytes())
    struct.pack_into("<H" if tag.dtype == 3 else "<I", raw, offset, 0)
    path.write_bytes(raw)
    return path


HOSTILE: list[tuple[str, Callable[[Path], object], str]] = [
    ("missing.tif", lambda p: None, "no such file"),
    ("link.tif", lambda p: p.symlink_to("nowhere"), "no such file"),
    ("folder.tif", lambda p: p.mkdir(), "is a folder, expected a file"),
    ("pipe.tif", lambda p: os.mkfifo(p), "is no regular file"),
    ("empty.tif", lambda p: p.touch(), r"is empty \(0 bytes\)"),
    ("text.tif", text_file, "is no TIFF file: it begins with b'x,y"),
    ("picture.png", text_file, "the suffix '.png' is unknown, expected one of .tif, .tiff, .ome.tif,"),
    ("stack", text_file, "the name has no suffix, expected one of"),
    ("stack.tif.gz", text_file, "the suffix '.gz' is unknown"),
    ("png.tif", lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50)), "is no TIFF file: it begins with"),
    ("short.tif", lambda p: p.write_bytes(b"II*\0\x08"), "is truncated or damaged: its directory 0"),
    ("header.tif", lambda p: p.write_bytes(b"II*\0" + bytes(40)), "its directory 0 is not within its 44 bytes"),
    ("plane.tif", lambda p: tiff(p, STACK[0]), r"holds one plane of shape \(16, 18\), expected a stack"),
    ("photo.tif", lambda p: tifffile.imwrite(p, np.ones((16, 18, 3), "u1"), photometric="rgb"), "is a colour image"),
    (
        "photos.tif",
        lambda p: tifffile.imwrite(p, np.ones((5, 16, 18, 3), "u1"), photometric="rgb", imagej=True),
        r"is a colour image \(5, 16, 18, 3\) \(\w+S\), expected intensities",
    ),
    ("channels.tif", lambda p: imagej(p, "CYX"), "holds single planes, axes CYX"),
    ("frames.tif", lambda p: imagej(p, "TCYX", np.stack([STACK] * 2)), "holds single planes, axes TCYX"),
    ("complex.tif", lambda p: tiff(p, STACK.astype(complex)), "data has dtype complex128"),
    ("incomplete.tif", incomplete_ome, "is incomplete: plane 3 of 5 is in none of its files"),
    (
        "sparse.tif",
        lambda p: set_tag_to_zero(p, "TileByteCounts", tile=(16, 16)),
        "is incomplete: plane 1 lacks some of its 2 strips or tiles",
    ),
    (
        "strip.tif",
        lambda p: set_tag_to_zero(p, "StripOffsets"),
        "is incomplete: plane 1 lacks some of its 1 strips or tiles",
    ),
    ("text.h5", text_file, "is no HDF5 file"),
    ("none.h5", lambda p: hdf5(p, flat=STACK[0], words=["a"]), "has no dataset of three or more axes"),
    (
        "two.h5",
        lambda p: hdf5(p, **{"raw": STACK, "g/label": STACK}),
        r"has 2 volumes, name one with dataset= or after a colon: /g/label \(5, 16, 18\), /raw \(5, 16, 18\)",
    ),
    ("axes.h5", lambda p: hdf5(p, raw=STACK[None]), "data has 4 axes .* without names; pass axes="),
    ("chunks.h5", lambda p: never_written(p, chunks=(1, 16, 18)), "is incomplete: 3 of 5 chunks of /raw were never"),
    ("whole.h5", never_written, "is incomplete: /raw was never written"),
    ("text.npy", text_file, "cannot be read: the magic string is not correct"),
    ("flat.npy", lambda p: np.save(p, STACK[0]), "data has 2 axes"),
    ("pickle.npy", lambda p: np.save(p, np.array([{}]), allow_pickle=True), "Object arrays cannot be loaded"),
    ("axes.npy", lambda p: np.save(p, STACK[None]), "data has 4 axes .* without names; pass axes="),
    ("words.npy", lambda p: np.save(p, STACK.astype(str)), "data has dtype <U5"),
    ("photo.npy", lambda p: np.save(p, np.ones((16, 18, 3), "u1")), "looks like an RGB photo"),
    ("text.npz", text_file, "is no .npz file"),
    ("several.npz", lambda p: npz(p, a=STACK, b=STACK), "has several arrays, name one with dataset=: a, b"),
    ("pickle.npz", lambda p: npz(p, data=np.array([{}])), "Object arrays cannot be loaded"),
    ("mask.npz", lambda p: npz(p, data=STACK, mask=STACK[0] > 0), r"mask has shape \(16, 18\), data has shape"),
]


@pytest.mark.parametrize(("name", "make", "message"), HOSTILE, ids=[name for name, _, _ in HOSTILE])
def test_read_refuses_in_one_line(
    tmp_path: Path, name: str, make: Callable[[Path], object], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    make(path)
    refuses(lambda: read(path), f"^{re.escape(str(path))}: .*{message}")
    assert capfd.readouterr() == ("", "")


def test_read_does_not_change_logging(tmp_path: Path) -> None:
    log = logging.getLogger("tifffile")
    before = list(log.handlers), list(log.filters), log.level, log.propagate, log.disabled
    read(tiff(tmp_path / "a.tif"))
    refuses(lambda: read(text_file(tmp_path / "b.tif")), "no TIFF file")
    assert (list(log.handlers), list(log.filters), log.level, log.propagate, log.disabled) == before


def test_read_names_what_it_cannot_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiff(tmp_path / "a.tif")

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(tifffile.TiffPageSeries, "asarray", fail)
    error: BaseException = MemoryError("Unable to allocate 9 TiB")
    refuses(lambda: read(path), "a.tif: does not fit into memory: Unable to allocate 9 TiB")
    error = PermissionError(errno.EACCES, "Permission denied")
    refuses(lambda: read(path), "a.tif: cannot be read: Permission denied")
    error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        read(path)


def test_a_directory_that_points_back_is_refused(tmp_path: Path) -> None:
    path = tiff(tmp_path / "a.tif", metadata=None)
    raw = bytearray(path.read_bytes())
    first = struct.unpack_from("<I", raw, 4)[0]
    entries = struct.unpack_from("<H", raw, first)[0]
    struct.pack_into("<I", raw, first + 2 + 12 * entries, first)
    path.write_bytes(raw)
    refuses(lambda: read(path), f"is damaged: its directory 1 points back to byte {first}")


def bioformats_like(path: Path) -> Path:
    """OME-XML at the very end of the file, as Bio-Formats writes it: without it the planes look like a plain TIFF."""
    tiff(path, ome=True, metadata={"axes": "ZYX", "PhysicalSizeX": 0.1, "PhysicalSizeY": 0.1, "PhysicalSizeZ": 0.5})
    xml = str(tifffile.tiffcomment(path)).encode() + b"\0"
    tiff(path, metadata=None, description=" ")
    with tifffile.TiffFile(path) as tif:
        first: Any = tif.pages[0]
        entry = first.tags["ImageDescription"].offset
    raw = bytearray(path.read_bytes())
    struct.pack_into("<II", raw, entry + 4, len(xml), len(raw))
    path.write_bytes(raw + xml)
    return path


def known(path: Path, dtype: str = "u2", compress: bool = True) -> Path:
    write(path, Volume(STACK.astype(dtype), spacing=(0.5, 0.1, 0.1)), compress=compress)
    return path


WHOLE: dict[str, Callable[[Path], object]] = {
    "imagej.tif": known,
    "imagej_plain.tif": lambda p: known(p, compress=False),
    "ome.ome.tif": known,
    "ome_plain.tif": lambda p: known(p, "f8", compress=False),
    "shaped.tif": lambda p: known(p, "i8"),
    "shaped_plain.tif": lambda p: known(p, "i8", compress=False),
    "pages.tif": lambda p: tiff(p, metadata=None),
    "deflate.tif": lambda p: tiff(p, metadata=None, compression="zlib", rowsperstrip=5),
    "tiles.tif": lambda p: tiff(p, metadata={"axes": "ZYX"}, tile=(16, 16)),
    "big.tif": lambda p: tiff(p, metadata=None, bigtiff=True),
    "big_endian.tif": lambda p: tiff(p, imagej=True, byteorder=">", metadata={"axes": "ZYX"}),
    "one_directory.tif": lambda p: tiff(p, imagej=True, truncate=True, metadata={"axes": "ZYX"}),
    "bioformats.tif": bioformats_like,
    "a.h5": known,
    "a.npz": known,
    "b.npz": lambda p: known(p, compress=False),
    "a.npy": known,
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_truncated_file_is_refused_or_read_whole(tmp_path: Path, name: str) -> None:
    """Cut at many places, the first bytes and the last all among them: never less than the whole."""
    source = tmp_path / name
    WHOLE[name](source)
    whole, raw = read(source), source.read_bytes()
    source.unlink()
    places = {*range(24), *range(0, len(raw), max(1, len(raw) // 70)), *range(len(raw) - 24, len(raw))}
    for cut in sorted(places):
        source.write_bytes(raw[:cut])
        again = read_or_line(source)
        if isinstance(again, Volume):
            assert_same(again, whole)
            assert len(raw) - cut < 24  # only padding can be missed


@pytest.mark.parametrize("name", [name for name in WHOLE if not name.endswith(".h5")])
def test_a_damaged_file_raises_nothing_else(tmp_path: Path, name: str) -> None:
    """Random bytes in random places. (Not HDF5: there a damaged file can stop the library itself.)"""
    source = tmp_path / name
    WHOLE[name](source)
    raw = source.read_bytes()
    random = np.random.default_rng(1)
    for _ in range(60):
        damaged = bytearray(raw)
        for place in random.integers(0, min(len(raw), 900), 3):
            damaged[place] = random.integers(0, 256)
        source.write_bytes(damaged)
        read_or_line(source)


def test_a_flipped_bit_in_an_npz_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write(path, KNOWN, compress=False)
    raw = bytearray(path.read_bytes())
    raw[raw.index(STACK.tobytes()) + 100] ^= 1
    path.write_bytes(raw)
    refuses(lambda: read(path), "cannot be read: Bad CRC-32 for file 'data.npy'")


# --------------------------------------------------------------------------------------- foreign HDF5 and npz


def test_hdf5_of_other_programs(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["raw"] = STACK
        file["raw"].attrs["element_size_um"] = [0.5, 0.1, 0.2]  # plantseg
        file["note"] = "text"
        file["lines"] = STACK[0]
    assert_same(read(path), Volume(STACK, spacing=(0.5, 0.1, 0.2)))
    tags = {"axes": [{"key": key, "typeFlags": 2} for key in "tzyxc"]}
    with h5py.File(path, "w") as file:
        file["exported_data"] = STACK[None, ..., None]
        file["exported_data"].attrs["axistags"] = json.dumps(tags)  # ilastik
        file["exported_data"].attrs["element_size_um"] = [1, 0.5, 0.1, 0.2, 1]
    assert_same(read(path), Volume(STACK[None, ..., None], "TZYXC", (0.5, 0.1, 0.2)))
    with h5py.File(path, "w") as file:
        file["a"] = STACK[:, None]
        for dim, label in zip(file["a"].dims, ("depth", "channel", "height", "width"), strict=True):
            dim.label = label
        file["a"].attrs["element_size_um"] = "unknown"
    assert_same(read(path), Volume(STACK[:, None], "ZCYX"))
    assert read(path, axes="TZYX").axes == "TZYX"


def test_hdf5_series_of_planes_is_no_stack(tmp_path: Path) -> None:
    with h5py.File(hdf5(tmp_path / "a.h5", raw=STACK), "r+") as file:
        file["raw"].attrs["axistags"] = json.dumps({"axes": [{"key": key} for key in "tyx"]})
    refuses(lambda: read(tmp_path / "a.h5"), "a.h5: axes 'TYX' hold no stack of planes")
    assert_same(read(tmp_path / "a.h5", axes="ZYX"), Volume(STACK))


@pytest.mark.parametrize("size", [[0.0, 1.0, 1.0], [np.nan, 1, 1], [1.0, 1.0], "x"])
def test_hdf5_with_a_senseless_voxel_size(tmp_path: Path, size: Any) -> None:
    with h5py.File(hdf5(tmp_path / "a.h5", raw=STACK), "r+") as file:
        file["raw"].attrs["element_size_um"] = size
        file["raw"].attrs["axistags"] = "{broken"
    assert_same(read(tmp_path / "a.h5"), Volume(STACK))


def test_hdf5_paths_inside(tmp_path: Path) -> None:
    path = hdf5(tmp_path / "a.h5", **{"raw": STACK, "g/label": STACK + 1})
    for inside in ("raw", "/raw"):
        np.testing.assert_array_equal(read(f"{path}:{inside}").data, STACK)
        np.testing.assert_array_equal(read(path, dataset=inside).data, STACK)
    np.testing.assert_array_equal(read(f"{path}:/g").data, STACK + 1)
    np.testing.assert_array_equal(read(f"{path}:/raw", dataset="raw").data, STACK)
    refuses(lambda: read(f"{path}:/none"), r"has no dataset 'none', it has /g/label \(5, 16, 18\), /raw")
    refuses(lambda: read(f"{path}:/raw", dataset="g"), "two datasets are named, 'raw' in the path and dataset='g'")
    refuses(lambda: read(tiff(tmp_path / "a.tif"), dataset="raw"), "dataset= is for HDF5 and .npz files")


def test_hdf5_contiguous_and_virtual_layouts(tmp_path: Path) -> None:
    assert_same(read(hdf5(tmp_path / "a.h5", raw=STACK)), Volume(STACK))
    layout = h5py.VirtualLayout(STACK.shape, np.uint16)
    layout[:] = h5py.VirtualSource(tmp_path / "a.h5", "raw", STACK.shape)
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file.create_virtual_dataset("raw", layout)
    assert_same(read(tmp_path / "v.h5"), Volume(STACK))


def test_npz_of_other_programs(tmp_path: Path) -> None:
    assert_same(read(npz(tmp_path / "a.npz", volume=STACK)), Volume(STACK))
    path = npz(tmp_path / "b.npz", x=STACK, y=STACK[0])
    assert_same(read(path, dataset="x"), Volume(STACK))
    refuses(lambda: read(path, dataset="z"), "has no array 'z': x, y")
    with zipfile.ZipFile(tmp_path / "c.npz", "w") as archive:
        archive.writestr("readme.txt", "x")
    refuses(lambda: read(tmp_path / "c.npz"), "has several arrays, name one with dataset=: none")


# ------------------------------------------------------------------------------------------------------- masks


@pytest.mark.parametrize("suffix", [".tif", ".ome.tif", ".h5", ".npz", ".npy"])
@pytest.mark.parametrize("dtype", ["bool", "u1", "f4"])
def test_read_mask_nonzero_is_measured(tmp_path: Path, suffix: str, dtype: str) -> None:
    mask = STACK > 2000
    write(tmp_path / f"m{suffix}", (255 * mask.astype(np.uint8)).astype(dtype))
    found = read_mask(tmp_path / f"m{suffix}")
    assert found.dtype == bool
    np.testing.assert_array_equal(found, mask)


def test_read_mask_fits_the_volume(tmp_path: Path) -> None:
    mask = STACK > 2000
    volume = Volume(np.zeros((18, 2, 16, 5), np.float32), "XCYZ")
    write(tmp_path / "m.tif", mask.astype(np.uint8))
    found = read_mask(tmp_path / "m.tif", like=volume)
    for channel in (0, 1):
        np.testing.assert_array_equal(found[:, channel], mask.transpose(2, 1, 0))
    found[:] = True  # the caller's own
    other = Volume(np.zeros((5, 16, 17)))
    refuses(lambda: read_mask(tmp_path / "m.tif", like=other), r"m.tif: mask has shape \(5, 16, 18\) \(ZYX\), data has")
    write(tmp_path / "m.h5", Volume(mask[None], "TZYX"))
    refuses(lambda: read_mask(tmp_path / "m.h5", like=volume), "mask has axes TZYX, data has axes XCYZ")


def test_read_mask_of_a_file_that_carries_one(tmp_path: Path) -> None:
    write(tmp_path / "v.h5", dataclasses.replace(KNOWN, mask=STACK > 2000))
    np.testing.assert_array_equal(read_mask(tmp_path / "v.h5"), STACK > 2000)
    np.testing.assert_array_equal(read_mask(f"{tmp_path}/v.h5:/data_mask"), STACK > 2000)


def test_read_mask_refuses_nan(tmp_path: Path) -> None:
    write(tmp_path / "m.npy", np.full((2, 3, 4), np.nan))
    refuses(lambda: read_mask(tmp_path / "m.npy"), "m.npy: the mask holds NaN")


# -------------------------------------------------------------------------------------------------------- cast


def exact_cast(value: float | int, dtype: np.dtype[Any]) -> tuple[int, bool, bool]:
    """Round half to even and clip in Python's unlimited integers; whether it was rounded, whether clipped."""
    info = np.iinfo(dtype)
    if value in (float("inf"), float("-inf")):
        return (info.max if value > 0 else info.min), False, True
    nearest = round(value)
    inside = min(max(nearest, int(info.min)), int(info.max))
    return inside, inside == nearest and nearest != value, inside != nearest


@settings(max_examples=150, deadline=None)
@given(
    st.data(),
    st.sampled_from(["f2", "f4", "f8", "bool", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"]),
    st.sampled_from(["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"]),
)
def test_cast_to_integers_matches_exact_arithmetic(data: st.DataObject, source: str, target: str) -> None:
    kind = np.dtype(source)
    if kind.kind == "f":
        # the ends of every integer range and their neighbours, ties, and anything else
        ends = [
            float(sign * 2**p + d) for p in (7, 8, 15, 16, 31, 32, 63, 64) for sign in (1, -1) for d in (-1, -0.5, 0)
        ]
        limit = float(np.finfo(kind).max)
        pool = [end for end in ends if abs(end) <= limit]
        width: Any = 8 * kind.itemsize
        number = st.sampled_from(pool) | st.floats(width=width, allow_nan=False)
    else:
        low, high = (0, 1) if kind.kind == "b" else (int(np.iinfo(kind).min), int(np.iinfo(kind).max))
        number = st.integers(low, high)
    values = np.array(data.draw(st.lists(number, min_size=1, max_size=6)), kind)
    expected = [exact_cast(value, np.dtype(target)) for value in values.tolist()]
    result = cast(values, target)
    assert result.data.dtype == target
    assert result.data.tolist() == [one for one, _, _ in expected]
    assert result.rounded == sum(rounded for _, rounded, _ in expected)
    assert result.clipped == sum(clipped for _, _, clipped in expected)


def test_cast_to_floats_counts_only_what_does_not_fit() -> None:
    result = cast(np.array([1e300, -1e300, np.inf, np.nan, 0.1, 1.0]), np.float32)
    top = np.finfo(np.float32).max
    np.testing.assert_array_equal(result.data, np.array([top, -top, np.inf, np.nan, 0.1, 1], np.float32))
    assert (result.rounded, result.clipped) == (0, 2)
    assert cast(np.array([70000, -3]), np.float16).clipped == 1
    assert cast(np.array([True, False]), "f4").data.tolist() == [1.0, 0.0]


def test_cast_works_in_blocks_and_leaves_its_input_alone() -> None:
    data = np.random.default_rng(2).normal(100, 80, (30, 300, 301)).astype(np.float32)  # three blocks
    before = data.copy()
    result = cast(data, np.uint8)
    nearest = np.rint(before.astype(np.float64))
    np.testing.assert_array_equal(result.data, np.clip(nearest, 0, 255))
    assert result.clipped == np.count_nonzero((nearest < 0) | (nearest > 255))
    assert result.rounded == np.count_nonzero((nearest >= 0) & (nearest <= 255) & (nearest != before))
    np.testing.assert_array_equal(data, before)


def test_cast_to_the_same_dtype_is_the_same_array() -> None:
    assert cast(STACK, "uint16") == Cast(STACK, 0, 0)
    assert cast(STACK, "uint16").data is STACK


def test_cast_refuses() -> None:
    refuses(lambda: cast(np.array([1.0, np.nan]), "u2"), r"cannot store NaN \(not measured\) as uint16; use a float")
    for dtype in ("complex64", "bool", "U3", np.longdouble):
        refuses(partial(cast, STACK, dtype), "does not hold intensities, expected integers or floats")
    refuses(lambda: cast(STACK, "uint17"), "dtype 'uint17' is unknown, expected one such as uint16")


# --------------------------------------------------------------------------------------- writing goes wrong

SUFFIXES = [".tif", ".ome.tif", ".h5", ".npz", ".npy"]


def fail_while_writing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Let every format fail after part of the output is in the temporary file."""

    def fail(*_: object, **__: object) -> None:
        raise error

    def half(stream: Any, *_: object, **__: object) -> None:
        stream.write(b"half a file")
        raise error

    monkeypatch.setattr(tifffile.TiffWriter, "close", fail)
    monkeypatch.setattr(h5py.AttributeManager, "__setitem__", fail)
    monkeypatch.setattr(np, "save", half)
    monkeypatch.setattr(np, "savez_compressed", half)


@pytest.mark.parametrize("existing", [True, False])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, existing: bool
) -> None:
    path = tmp_path / f"a{suffix}"
    if existing:
        path.write_bytes(b"precious")
    fail_while_writing(monkeypatch, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    refuses(lambda: write(path, KNOWN), f"^{re.escape(str(path))}: cannot be written: No space left on device$")
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == [b"precious"] * existing


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), RuntimeError("a defect of ours")], ids=repr)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_interrupt_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, error: BaseException
) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"precious")
    fail_while_writing(monkeypatch, error)
    with pytest.raises(type(error)):
        write(path, KNOWN)
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == [b"precious"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failure_at_the_very_end_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    (tmp_path / "a.tif").write_bytes(b"precious")
    monkeypatch.setattr(os, call, fail)
    refuses(lambda: write(tmp_path / "a.tif", KNOWN), "cannot be written: Disk quota exceeded")
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == [b"precious"]


FULL_DISK = """
import os, resource, signal, sys
import numpy as np
from tensorcell.errors import InputError
from tensorcell.files import read, write
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
data = np.random.default_rng(0).normal(size=(20, 32, 32))
for suffix in (".tif", ".ome.tif", ".h5", ".npz", ".npy"):
    for compress in (True, False):
        try:
            write(sys.argv[1] + suffix, data, compress=compress)
        except InputError as error:
            assert "cannot be written: " in str(error) and "\\n" not in str(error), error
        else:
            raise AssertionError(suffix)
write(sys.argv[1] + ".tif", data[:3])
raw = open(sys.argv[1] + ".tif", "rb").read()
open(sys.argv[1] + ".tif", "wb").write(raw[:-500])
try:
    read(sys.argv[1] + ".tif")
except InputError:
    print(sorted(os.listdir(os.path.dirname(sys.argv[1]))))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the limit on file sizes is a Unix one")
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """The system refuses to let a file grow: one line each, nothing on the terminal, no crash in a library."""
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "out")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "['out.tif']\n", "")


def test_write_refuses_before_it_begins(tmp_path: Path) -> None:
    refuses(lambda: write(tmp_path / "a.png", KNOWN), "a.png: the suffix '.png' is unknown, expected one of .tif")
    refuses(lambda: write(tmp_path / "no" / "a.tif", KNOWN), "a.tif: the folder .*no does not exist")
    (tmp_path / "b.tif").mkdir()
    refuses(lambda: write(tmp_path / "b.tif", KNOWN), "b.tif: is a folder, expected a file name")
    refuses(lambda: write(tmp_path / "a.tif", STACK[0]), "data has 2 axes")
    (tmp_path / "c.npy").write_bytes(b"old")
    refuses(lambda: write(tmp_path / "c.npy", KNOWN, overwrite=False), "c.npy: exists already")
    narrow = Volume(STACK[:, :, :1])
    refuses(lambda: write(tmp_path / "a.tif", narrow), "TIFF has no place for a volume one voxel wide along X")
    refuses(lambda: write(tmp_path / "a.ome.tif", STACK.astype("i8")), "OME-TIFF has no dtype int64, expected bool,")
    letters = Volume(STACK[None], "AZYX")
    refuses(lambda: write(tmp_path / "a.ome.tif", letters), "OME-TIFF has no axes AZYX, expected T, C, Z, Y, X")
    missing = Volume(np.full((2, 3, 4), np.nan))
    refuses(lambda: write(tmp_path / "a.tif", missing, dtype="u2"), "a.tif: cannot store NaN")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["b.tif", "c.npy"]


def test_write_follows_a_link_and_keeps_the_mode(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    target = tmp_path / "data" / "real.tif"
    target.touch(mode=0o640)
    (tmp_path / "link.tif").symlink_to(target)
    write(tmp_path / "link.tif", KNOWN)
    assert (tmp_path / "link.tif").is_symlink()
    assert_same(read(target), KNOWN)
    assert target.stat().st_mode & 0o777 == 0o640
    write(tmp_path / "new.tif", KNOWN)
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "new.tif").stat().st_mode & 0o777 == 0o666 & ~umask


# ------------------------------------------------------------------------------------------------------- paths


def test_check_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.tif", "a.OME.TIFF", "a.h5:/x/y", "a.npz"):
        check_writable(tmp_path / name)
    check_writable("relative.npy")
    check_writable(tmp_path / "r.html", [".png", ".html"])
    assert list(tmp_path.iterdir()) == []
    refuses(lambda: check_writable(tmp_path / "a.jpg"), "a.jpg: the suffix '.jpg' is unknown, expected one of .tif")
    refuses(lambda: check_writable(tmp_path / "a.tif", [".png", ".html"]), "expected one of .png, .html$")
    refuses(lambda: check_writable(tmp_path / "no" / "a.tif"), "the folder .*no does not exist")
    (tmp_path / "b.tif").mkdir()
    refuses(lambda: check_writable(tmp_path / "b.tif"), "is a folder, expected a file name")
    refuses(lambda: check_writable(tmp_path / f"{'a' * 300}.tif"), "cannot be written: File name too long")
    refuses(lambda: read(tmp_path / f"{'a' * 300}.tif"), "cannot be read: File name too long")
    (tmp_path / "c.tif").touch()
    check_writable(tmp_path / "c.tif")
    monkeypatch.setattr(os, "access", lambda *_: False)  # for the superuser it is always True
    refuses(lambda: check_writable(tmp_path / "c.tif"), "c.tif: is write-protected")


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that nobody can write to")
def test_check_writable_tries_even_for_the_superuser() -> None:
    refuses(lambda: check_writable("/proc/self/a.tif"), "/proc/self/a.tif: cannot be written: ")
    refuses(lambda: write("/proc/self/a.tif", KNOWN), "/proc/self/a.tif: cannot be written: ")


def test_same_file(tmp_path: Path) -> None:
    one = tiff(tmp_path / "one.tif")
    (tmp_path / "soft.tif").symlink_to(one)
    (tmp_path / "hard.tif").hardlink_to(one)
    tiff(tmp_path / "other.tif")
    for alias in ("soft.tif", "hard.tif", "../" + tmp_path.name + "/one.tif"):
        assert same_file(one, tmp_path / alias)
    assert not same_file(one, tmp_path / "other.tif")
    assert same_file(tmp_path / "new.h5:/a", f"{tmp_path}/./new.h5:/b")
    assert not same_file(one, tmp_path / "new.tif")


def test_split_path() -> None:
    assert split_path("a/b.h5:/c/d") == (Path("a/b.h5"), "c/d")
    assert split_path(Path("a/b.HDF5:c")) == (Path("a/b.HDF5"), "c")
    assert split_path("b.h5") == (Path("b.h5"), None)
    assert split_path("b.h5:/") == (Path("b.h5"), None)
    assert split_path("odd:name.tif") == (Path("odd:name.tif"), None)
