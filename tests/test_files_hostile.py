"""Files that hold no volume, and damaged ones: each must end in one clear line or be read whole."""

from __future__ import annotations

import errno
import io
import logging
import os
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
from volume_files import KNOWN, STACK, assert_same, hdf5, npz, read_or_line, refuses, text_file, tiff

from tensorcell.files import claimed_sizes, open_volume, read, write
from tensorcell.volume import Volume


def never_written(path: Path, **options: Any) -> Path:
    with h5py.File(path, "w") as file:
        stored = file.create_dataset("raw", STACK.shape, np.uint16, **options)
        if stored.chunks is not None:
            stored[:2] = STACK[:2]
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
    ("photo.tif", lambda p: tifffile.imwrite(p, np.ones((16, 18, 3), "u1"), photometric="rgb"), "is a colour image"),
    (
        "photos.tif",
        lambda p: tifffile.imwrite(p, np.ones((5, 16, 18, 3), "u1"), photometric="rgb", imagej=True),
        r"is a colour image \(5, 16, 18, 3\) \(\w+S\), expected intensities",
    ),
    ("complex.tif", lambda p: tiff(p, STACK.astype(complex)), "data has dtype complex128"),
    ("incomplete.tif", incomplete_ome, r"is incomplete: 2 planes \(3, 4\) of 5 are in none of its files"),
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
    ("none.h5", lambda p: hdf5(p, row=STACK[0, 0], words=["a"]), "has no dataset of two or more axes"),
    (
        "two.h5",
        lambda p: hdf5(p, **{"raw": STACK, "g/label": STACK}),
        r"has 2 volumes, name one with dataset= or after a colon: /g/label \(5, 16, 18\), /raw \(5, 16, 18\)",
    ),
    ("axes.h5", lambda p: hdf5(p, raw=STACK[None]), "data has 4 axes .* without names; pass axes="),
    ("chunks.h5", lambda p: never_written(p, chunks=(1, 16, 18)), "is incomplete: 3 of 5 chunks of /raw were never"),
    ("whole.h5", never_written, "is incomplete: /raw was never written"),
    ("text.npy", text_file, "cannot be read: the magic string is not correct"),
    ("flat.npy", lambda p: np.save(p, STACK[0, 0]), "data has 1 axis"),
    ("pickle.npy", lambda p: np.save(p, np.array([{}]), allow_pickle=True), "holds Python objects, expected numbers"),
    ("axes.npy", lambda p: np.save(p, STACK[None]), "data has 4 axes .* without names; pass axes="),
    ("words.npy", lambda p: np.save(p, STACK.astype(str)), "data has dtype <U5"),
    ("photo.npy", lambda p: np.save(p, np.ones((16, 18, 3), "u1")), "looks like an RGB photo"),
    ("text.npz", text_file, "is no .npz file"),
    (
        "several.npz",
        lambda p: npz(p, a=STACK, b=STACK),
        "has several arrays, name one with dataset= or after a colon: a, b",
    ),
    ("pickle.npz", lambda p: npz(p, data=np.array([{}])), "holds Python objects, expected numbers"),
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


def header(shape: tuple[int, ...], dtype: str = "<u2") -> bytes:
    """The beginning of an ``.npy`` file."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"shape": shape, "fortran_order": False, "descr": dtype})
    return stream.getvalue()


def archive(path: Path, content: bytes, name: str = "data.npy") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(name, content)
    return path


HUGE = (10**4, 10**4, 10**4)


def test_headers_that_claim_more_than_the_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claimed_sizes, "free_memory", lambda: 10**9)
    path = archive(tmp_path / "a.npz", header(HUGE))
    refuses(lambda: read(path), "claims 10000 x 10000 x 10000 values of uint16, which need 2 TB of memory; 1 GB are fr")


@pytest.mark.parametrize(
    ("suffix", "needs"),
    [(".npy", "numpy"), (".h5", "h5py"), (".zarr", "zarr"), (".tif", "tifffile"), (".mrc", "mrcfile")],
)
def test_more_than_the_memory_is_read_in_parts_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, needs: str
) -> None:
    pytest.importorskip(needs)
    path = tmp_path / f"a{suffix}"
    write(path, STACK.repeat(4, axis=0), compress=False)
    monkeypatch.setattr(claimed_sizes, "free_memory", lambda: 10**4)
    refuses(lambda: read(path), "claims 20 x 16 x 18 values of uint16, which need .* of memory; .* are free")
    box = (slice(3, 5), slice(None), slice(None))
    np.testing.assert_array_equal(open_volume(path).part(box).data, STACK.repeat(4, axis=0)[box])


def test_numpy_headers_must_claim_what_follows_them(tmp_path: Path) -> None:
    """A small archive can expand to any size: its directory says to which, before anything is decompressed."""
    values = STACK.tobytes()
    bomb = archive(tmp_path / "bomb.npz", header(STACK.shape) + values + bytes(30 * 2**20))
    assert bomb.stat().st_size < 50_000
    refuses(lambda: read(bomb), "is damaged: its header claims 2880 bytes of values, 31460160 follow it")
    refuses(lambda: read(archive(tmp_path / "a.npz", header(STACK.shape) + values[:-2])), "claims 2880 .*, 2878 follow")
    path = tmp_path / "a.npy"
    for content, there in ((values[:-2], 2878), (values + b"??", 2882), (b"", 0)):
        path.write_bytes(header(STACK.shape) + content)
        refuses(lambda: read(path), f"is damaged: its header claims 2880 bytes of values, {there} follow it")
    refuses(lambda: read(archive(tmp_path / "b.npz", b"?" * 100)), "cannot be read: the magic string is not correct")


def test_the_parts_beside_an_array_are_bounded_too(tmp_path: Path) -> None:
    path = npz(tmp_path / "a.npz", data=STACK)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as file:
        file.writestr("mask.npy", header(STACK.shape, "|b1") + bytes(2**20))
    refuses(lambda: read(path), "is damaged: its header claims 1440 bytes of values, 1048576 follow it")


def test_a_zip_directory_that_lies_is_noticed(tmp_path: Path) -> None:
    """The sizes in the directory are those that the archive is read by: no more comes out of it."""
    path = archive(tmp_path / "a.npz", header(STACK.shape) + STACK.tobytes() + bytes(2**20))
    raw = bytearray(path.read_bytes())
    entry = raw.rindex(b"PK\x01\x02")
    struct.pack_into("<I", raw, entry + 24, len(header(STACK.shape)) + STACK.nbytes)
    path.write_bytes(raw)
    refuses(lambda: read(path), "cannot be read: (Bad CRC-32|File size)")
