"""MRC files: the data types, axes and voxel sizes of MRC2014 and of Priism, BioTISR's frames, and damaged files."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from volume_files import STACK, refuses

import tensorcell as tc
from tensorcell.files import read, write
from tensorcell.pairs import read_biotisr
from tensorcell.volume import Volume

mrcfile = pytest.importorskip("mrcfile")

MODES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}


def mrc(path: Path, data: Any = STACK, change: Callable[[Any], object] = lambda file: None) -> Path:
    """A file as mrcfile writes it, with voxels of (1080, 1200, 5000) Angstrom along x, y and z, and changes."""
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(np.asarray(data))
        file.voxel_size = (1080.0, 1200.0, 5000.0)
        change(file)
    return path


def priism(path: Path, data: Any = STACK, **fields: Any) -> Path:
    """A file with a Priism header, as microscopes for structured illumination write it."""
    data = np.asarray(data)
    order = fields.get("order", "<")
    modes = {"uint8": 0, "int16": 1, "float32": 2, "uint16": 6}
    head = bytearray(1024)
    struct.pack_into(order + "4i", head, 0, *data.shape[::-1], modes[data.dtype.name])
    struct.pack_into(order + "3i3f", head, 28, *fields.get("steps", (1, 1, 1)), *fields.get("lengths", (0.1, 0.1, 0.4)))
    struct.pack_into(order + "3i", head, 64, 1, 2, 3)
    struct.pack_into(order + "h", head, 96, -16224)
    struct.pack_into(order + "2h", head, 180, fields.get("times", 1), fields.get("sequence", 0))
    struct.pack_into(order + "h", head, 196, fields.get("waves", 1))
    path.write_bytes(bytes(head) + data.astype(data.dtype.newbyteorder(order)).tobytes())
    return path


def changed(path: Path, offset: int, form: str, *values: Any) -> Path:
    content = bytearray(path.read_bytes())
    struct.pack_into("<" + form, content, offset, *values)
    path.write_bytes(content)
    return path


# ------------------------------------------------------------------------------------------------------- MRC2014


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("suffix", [".mrc", ".st", ".REC"])
def test_each_mode_is_read_bit_for_bit(tmp_path: Path, mode: int, suffix: str) -> None:
    data = np.random.default_rng(mode).integers(-128, 128, (4, 5, 6)).astype(MODES[mode])
    path = mrc(tmp_path / f"a{suffix}", data)
    content = path.read_bytes()
    volume = tc.read(path)
    assert mrcfile.mmap(path).header.mode == mode
    assert (volume.dtype, volume.axes) == (MODES[mode], "ZYX")
    np.testing.assert_array_equal(volume.data, data)
    assert volume.spacing == pytest.approx((0.5, 0.12, 0.108))
    assert (volume.metadata["format"], volume.metadata["source"]) == ("MRC", f"a{suffix}")
    assert "notes" not in volume.metadata
    volume.data[0] = 0  # the array is the caller's own
    assert path.read_bytes() == content


def test_big_endian_data_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.mrc"
    with mrcfile.new(path) as file:
        file.set_data(STACK)
        file.header.byteswap(inplace=True)
        file._header = file.header.view(file.header.dtype.newbyteorder(">"))
        file.header.machst = (0x11, 0x11, 0, 0)
        file._data = STACK.astype(">u2")
    assert path.read_bytes()[:4] == struct.pack(">i", STACK.shape[2])
    volume = read(path)
    assert volume.dtype.isnative
    np.testing.assert_array_equal(volume.data, STACK)


def test_imod_bytes_are_unsigned_unless_its_flag_says_otherwise(tmp_path: Path) -> None:
    data = np.array([0, 127, -128, -1], np.int8).reshape(2, 2, 1)
    path = changed(mrc(tmp_path / "a.mrc", data), 152, "2i", 1146047817, 0)
    np.testing.assert_array_equal(read(path).data.ravel(), np.array([0, 127, 128, 255], np.uint8))
    assert read(path).dtype == np.uint8
    np.testing.assert_array_equal(read(changed(path, 156, "i", 1)).data, data)


@pytest.mark.parametrize(
    ("lowest", "highest", "kind"), [(0, 255, "u1"), (3, 128, "u1"), (0, 127, "i1"), (-9, 200, "i1")]
)
def test_bytes_are_unsigned_where_the_header_gives_values_beyond_signed_ones(
    tmp_path: Path, lowest: int, highest: int, kind: str
) -> None:
    """As programs older than MRC2014 wrote mode 0."""
    data = np.array([0, 127, -128, -1], np.int8).reshape(2, 2, 1)
    volume = read(changed(mrc(tmp_path / "a.mrc", data), 76, "2f", lowest, highest))
    np.testing.assert_array_equal(volume.data, data.view(kind))
    assert volume.dtype == kind


def sized(file: Any) -> None:
    file.voxel_size = (1080.0, 1200.0, 5000.0)


def stacked(file: Any) -> None:
    file.set_image_stack()


@pytest.mark.parametrize(
    ("change", "cell"),
    [(stacked, 2.5), (lambda file: (stacked(file), sized(file)), 0.5)],
)
def test_the_step_of_an_image_stack_is_unknown(tmp_path: Path, change: Callable[[Any], object], cell: float) -> None:
    """mrcfile 1.5.4: a step that was set before the file became an image stack is multiplied by the sections."""
    volume = read(mrc(tmp_path / "a.mrc", change=change))
    np.testing.assert_array_equal(volume.data, STACK)
    assert (volume.axes, volume.spacing) == ("ZYX", None)
    assert volume.metadata["pixel_size"] == pytest.approx((0.12, 0.108))
    (note,) = volume.metadata["notes"]
    assert note.startswith("The step along z is unknown: the file is a stack of images, whose cell of ")
    assert f"{cell:g} micrometres may be that of one section or of all 5 ({cell / 5:g} each)" in note


def test_a_volume_again_and_planes_have_their_step(tmp_path: Path) -> None:
    path = mrc(tmp_path / "a.mrc", change=lambda file: (stacked(file), file.set_volume()))
    assert read(path).spacing == pytest.approx((0.5, 0.12, 0.108))
    path = mrc(tmp_path / "a.mrc", STACK[0])
    assert (read(path).shape, read(path).spacing) == ((1, 16, 18), pytest.approx((0.5, 0.12, 0.108)))


def test_axes_of_the_header_are_honoured(tmp_path: Path) -> None:
    path = changed(mrc(tmp_path / "a.mrc"), 64, "3i", 3, 1, 2)  # columns along z, rows along x, sections along y
    volume = read(path)
    assert volume.axes == "YXZ"
    np.testing.assert_array_equal(volume.data, STACK)
    assert read(changed(path, 64, "3i", 0, 0, 0)).axes == "ZYX"  # as old programs leave them
    refuses(lambda: read(changed(path, 64, "3i", 1, -2, 3)), r"has axes \(1, -2, 3\) along columns, rows and sections")


def test_volumes_one_after_the_other_need_axes(tmp_path: Path) -> None:
    stacks = np.arange(2 * 3 * 4 * 5, dtype=np.int16).reshape(2, 3, 4, 5)
    path = mrc(tmp_path / "a.mrc", stacks)
    refuses(lambda: read(path), "data has 4 axes .* pass axes=")
    np.testing.assert_array_equal(read(path, axes="CZYX").data, stacks)
    refuses(lambda: read(changed(path, 36, "i", 4)), "is damaged: its header says 6 sections in volumes of 4")
    refuses(lambda: read(changed(path, 36, "i", 0)), "is damaged: its header says 6 sections in volumes of 0")


@pytest.mark.parametrize(
    ("lengths", "spacing", "notes"),
    [
        ((0.0, 0.0, 0.0), None, 0),
        ((19440.0, 19200.0, 0.0), None, 0),
        ((19440.0, 19200.0, 25000.0), (0.5, 0.12, 0.108), 0),
        ((np.nan, 19200.0, 25000.0), None, 1),
        ((np.inf, 19200.0, 25000.0), None, 1),
    ],
)
def test_voxel_sizes_are_in_micrometres_or_unknown(
    tmp_path: Path, lengths: tuple[float, ...], spacing: tuple[float, ...] | None, notes: int
) -> None:
    volume = read(changed(mrc(tmp_path / "a.mrc"), 40, "3f", *lengths))
    assert volume.spacing == (None if spacing is None else pytest.approx(spacing))
    found = volume.metadata.get("notes", [])
    assert [note.split(":")[0] for note in found] == ["The voxel size is unknown"] * notes
    if lengths[0] and not lengths[2]:
        assert volume.metadata["pixel_size"] == pytest.approx((0.12, 0.108))


def test_notes_and_labels_survive_in_other_formats(tmp_path: Path) -> None:
    path = changed(mrc(tmp_path / "a.mrc", change=lambda file: file.add_label("Deconvolved")), 40, "f", np.nan)
    volume = read(path)
    assert "Deconvolved" in volume.metadata["description"]
    write(tmp_path / "a.h5", volume)
    assert read(tmp_path / "a.h5").metadata["notes"] == volume.metadata["notes"]


# -------------------------------------------------------------------------------------------------- damaged files


def test_a_file_that_is_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    path = mrc(tmp_path / "a.mrc", STACK[:2, :3, :4], lambda file: file.set_extended_header(np.zeros(40, "V1")))
    content = path.read_bytes()
    assert len(content) == 1024 + 40 + 48
    for length in (*range(1, 1024, 61), 1023, 1024, 1060, *range(1064, len(content))):
        path.write_bytes(content[:length])
        refuses(lambda: read(path), r"a.mrc: (is no MRC file, or its header is damaged|is truncated or damaged)")


@pytest.mark.parametrize(
    ("offset", "form", "values", "message"),
    [
        (0, "i", (0,), r"is damaged: its header says \(5, 16, 0\) voxels"),
        (8, "i", (-5,), r"is damaged: its header says \(-5, 16, 18\) voxels"),
        (8, "i", (6,), "is truncated or damaged: its sections end at byte 4480, the file has 3904"),
        (8, "i", (2**30,), "is truncated or damaged"),
        (8, "i", (3,), "is damaged: its header says 3 sections, the file holds 2 more"),
        (12, "i", (3,), r"holds complex numbers \(mode 3\), expected intensities"),
        (12, "i", (4,), r"holds complex numbers \(mode 4\), expected intensities"),
        (12, "i", (101,), "has mode 101, expected one of 0, 1, 2, 6, 12"),
        (92, "i", (-8,), "is no MRC file, or its header is damaged"),
        (92, "i", (80,), "is truncated or damaged"),
    ],
)
def test_a_damaged_header_is_refused(tmp_path: Path, offset: int, form: str, values: Any, message: str) -> None:
    path = changed(mrc(tmp_path / "a.mrc"), offset, form, *values)
    refuses(lambda: read(path), f"^{path}: ({message})")


def test_files_of_something_else_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mrc"
    path.write_text("this is text, not a picture\n" * 60)
    refuses(lambda: read(path), "is no MRC file, or its header is damaged: it has neither the mark MAP nor Priism's")
    path.write_bytes(b"\x1f\x8b" + bytes(2000))
    refuses(lambda: read(path), "a.mrc: ")
    refuses(lambda: read(mrc(path, STACK.astype(np.complex64))), r"holds complex numbers \(mode 4\)")


def test_a_header_without_marks_is_read_with_notes(tmp_path: Path) -> None:
    """As old programs write it: the sizes fit the file to the byte."""
    volume = read(changed(mrc(tmp_path / "a.mrc"), 208, "8s", bytes(8)))
    np.testing.assert_array_equal(volume.data, STACK)
    assert [note.split()[:2] for note in volume.metadata["notes"]] == [
        ["mrcfile:", "Map"],
        ["mrcfile:", "Unrecognised"],
    ]


def test_bytes_after_the_last_section_are_a_note(tmp_path: Path) -> None:
    path = mrc(tmp_path / "a.mrc")
    path.write_bytes(path.read_bytes() + bytes(100))
    volume = read(path)
    np.testing.assert_array_equal(volume.data, STACK)
    assert volume.metadata["notes"] == ["100 bytes follow the last section; they were not read."]


def test_without_mrcfile_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = mrc(tmp_path / "a.mrc")
    monkeypatch.setitem(sys.modules, "mrcfile", None)
    refuses(lambda: read(path), r'a.mrc: needs the package mrcfile; pip install "tensorcell\[mrc\]" installs it$')


@pytest.mark.parametrize("name", ["int8", "int16", "uint16", "float32"])
def test_a_written_stack_is_what_mrcfile_reads(tmp_path: Path, name: str) -> None:
    volume = Volume(STACK.astype(name), spacing=(0.5, 0.12, 0.108), metadata={"note": 1})
    assert write(tmp_path / "a.mrc", volume).lost == ("metadata",)
    with mrcfile.open(tmp_path / "a.mrc") as file:
        np.testing.assert_array_equal(file.data, volume.data)
        assert file.is_volume()
        assert [float(file.voxel_size[axis]) for axis in "zyx"] == pytest.approx([5000, 1200, 1080])
    assert mrcfile.validate(tmp_path / "a.mrc")
    again = read(tmp_path / "a.mrc")
    assert (again.dtype, again.axes) == (name, "ZYX")
    np.testing.assert_array_equal(again.data, volume.data)
    assert again.spacing == pytest.approx(volume.spacing)


def test_nan_is_written(tmp_path: Path) -> None:
    data = np.where(STACK > 2000, np.nan, STACK).astype(np.float32)
    write(tmp_path / "a.mrc", data)
    np.testing.assert_array_equal(read(tmp_path / "a.mrc").data, data)


def test_what_mrc_does_not_hold_is_said(tmp_path: Path) -> None:
    volume = Volume(STACK, "YXZ", mask=STACK > 9)
    assert write(tmp_path / "a.mrc", volume).lost == ("axes", "mask")
    np.testing.assert_array_equal(read(tmp_path / "a.mrc").data, STACK.transpose(2, 0, 1))
    plane = Volume(STACK[0], "YX", (0.12, 0.108))
    assert write(tmp_path / "a.mrc", plane).lost == ("axes",)
    assert read(tmp_path / "a.mrc").spacing == pytest.approx((0.12, 0.12, 0.108))
    refuses(lambda: write(tmp_path / "a.mrc", Volume(STACK[None], "TZYX")), "MRC has no axes TZYX, expected Z, Y, X")
    refuses(lambda: write(tmp_path / "a.mrc", STACK.astype("u1")), "MRC has no dtype uint8, expected int8, int16")


# --------------------------------------------------------------------------------------------------------- Priism


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32"])
def test_priism_states_micrometres_and_unsigned_bytes(tmp_path: Path, dtype: str) -> None:
    data = np.random.default_rng(0).integers(0, 200, (4, 5, 6)).astype(dtype)
    volume = read(priism(tmp_path / "a.mrc", data))
    assert (volume.dtype, volume.axes) == (dtype, "ZYX")
    np.testing.assert_array_equal(volume.data, data)
    assert volume.spacing == pytest.approx((0.4, 0.1, 0.1))
    assert volume.metadata == {"format": "Priism MRC", "source": "a.mrc"}
    if dtype != "uint8":  # mrcfile tells the order of the bytes by the mode, which is 0 in either order
        np.testing.assert_array_equal(read(priism(tmp_path / "b.mrc", data, order=">")).data, data)


def test_priism_voxel_sizes_may_be_lengths_of_the_axes(tmp_path: Path) -> None:
    lengths = {"steps": (18, 16, 5), "lengths": (1.8, 1.6, 2.0)}
    assert read(priism(tmp_path / "a.mrc", **lengths)).spacing == pytest.approx((0.4, 0.1, 0.1))
    volume = read(priism(tmp_path / "a.mrc", steps=(512, 512, 5)))  # 0.1 in 512 steps
    assert volume.spacing is None
    assert volume.metadata["notes"][0].startswith("The voxel size is unknown: the header says ")


@pytest.mark.parametrize(("sequence", "axes"), [(0, "CTZYX"), (1, "TZCYX"), (2, "TCZYX")])
def test_priism_sequences(tmp_path: Path, sequence: int, axes: str) -> None:
    """Every plane holds its time, wavelength and z as a number, in the order of the sections in the file."""
    lengths = {"T": 2, "C": 3, "Z": 4}
    grid = np.meshgrid(*(np.arange(lengths[name]) for name in axes[:3]), indexing="ij")
    index = dict(zip(axes[:3], grid, strict=True))
    numbers = (100 * index["T"] + 10 * index["C"] + index["Z"]).astype(np.int16)
    data = np.broadcast_to(numbers.reshape(-1, 1, 1), (24, 3, 2))
    volume = read(priism(tmp_path / "a.mrc", data, times=2, waves=3, sequence=sequence))
    assert volume.axes == axes
    np.testing.assert_array_equal(volume.data[..., 0, 0], numbers)


def test_priism_headers_that_contradict_themselves_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mrc"
    refuses(lambda: read(priism(path, times=2)), "its header says 5 sections, 2 times and 1 wavelengths")
    refuses(lambda: read(priism(path, times=5, sequence=7)), "has its sections in sequence 7, expected one of 0, 1, 2")
    assert read(priism(path, sequence=7, times=0, waves=0)).axes == "ZYX"


# -------------------------------------------------------------------------------------------------------- BioTISR


def numbered(sections: int) -> np.ndarray:
    return np.broadcast_to(np.arange(sections, dtype=np.uint16).reshape(-1, 1, 1), (sections, 4, 5))


@pytest.mark.parametrize("make", [mrc, priism, lambda path, data: priism(path, data, times=10)])
def test_biotisr_frames_are_one_after_the_other(tmp_path: Path, make: Callable[..., Path]) -> None:
    volume = read_biotisr(make(tmp_path / "SIM_gt.mrc", numbered(70)))
    assert (volume.axes, volume.shape, volume.dtype) == ("TZYX", (10, 7, 4, 5), np.uint16)
    np.testing.assert_array_equal(volume.data[:, :, 0, 0], 7 * np.arange(10)[:, None] + np.arange(7))
    assert volume.metadata["source"] == "SIM_gt.mrc"
    assert volume.spacing is not None


def test_biotisr_patterns_are_averaged(tmp_path: Path) -> None:
    volume = read_biotisr(mrc(tmp_path / "a.mrc", numbered(90)), frames=3, patterns=15)
    assert (volume.shape, volume.dtype) == ((3, 2, 4, 5), np.float32)
    np.testing.assert_array_equal(volume.data[:, :, 0, 0], 15 * np.arange(6).reshape(3, 2) + 7)


def test_biotisr_refuses_what_does_not_fit(tmp_path: Path) -> None:
    path = mrc(tmp_path / "a.mrc", numbered(71))
    refuses(lambda: read_biotisr(path), "a.mrc: holds 71 sections, expected a multiple of 10 frames$")
    refuses(lambda: read_biotisr(path, frames=0), "expected a whole number of at least 1 as frames, got 0")
    path = mrc(path, numbered(70))
    refuses(lambda: read_biotisr(path, patterns=15), "holds 70 sections, expected a multiple of 10 frames of 15 patt")
    path = priism(path, numbered(70), times=7)
    refuses(lambda: read_biotisr(path), r"states 7 frames in its header, expected 10 \(frames=\)")
    assert read_biotisr(path, frames=7).shape == (7, 10, 4, 5)
    path = priism(path, numbered(60), times=2, waves=3)
    refuses(lambda: read_biotisr(path), "has axes CTZYX, expected ZYX or TZYX")
    refuses(lambda: read_biotisr(tmp_path / "none.mrc"), "none.mrc: no such file")
