"""Check that a TIFF file is whole before anything in it is decoded.

tifffile takes what it can reach of a truncated file. A lost tail must not look like a shorter stack, nor a lost
description like a file without axes; so the chain of directories and the places of the strips and tiles are compared
with the length of the file.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from tensorcell.errors import InputError

if TYPE_CHECKING:
    import tifffile

TYPE_BYTES = dict(enumerate((0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8)))
"""Bytes of a value, by the number of its TIFF data type."""

CLASSIC, BIG = 42, 43
"""Versions in the header of a classic TIFF and of a BigTIFF."""


@dataclass(frozen=True)
class _Directory:
    """The parts of a directory: the number of entries, an entry (tag, type, count, value), the link to the next."""

    count: struct.Struct
    entry: struct.Struct
    link: struct.Struct

    @staticmethod
    def of(version: int, order: str) -> _Directory:
        parts = ("Q", "HHQ8s", "Q") if version == BIG else ("H", "HHI4s", "I")
        return _Directory(*(struct.Struct(order + part) for part in parts))


def check_directories(path: Path) -> None:
    """Raise `InputError` unless the chain of TIFF directories, and the first one's values, lie in the file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        parts, link = _read_header(file)
        seen: set[int] = set()
        while len(link) == parts.link.size:
            (offset,) = parts.link.unpack(link)
            if offset == 0 and seen:
                return
            if offset in seen:
                raise InputError(f"is damaged: its directory {len(seen)} points back to byte {offset}")
            file.seek(offset)
            raw = file.read(parts.count.size)
            count = parts.count.unpack(raw)[0] if len(raw) == parts.count.size else 0
            body = file.read(min(count, 2**16) * parts.entry.size)
            if offset == 0 or count == 0 or len(body) < count * parts.entry.size:
                break
            if not seen:
                _check_values(parts.entry.iter_unpack(body), parts.link, size)
            seen.add(offset)
            link = file.read(parts.link.size)
    raise InputError(f"is truncated or damaged: its directory {len(seen)} is not within its {size} bytes")


def _read_header(file: IO[bytes]) -> tuple[_Directory, bytes]:
    """The form of the directories, and the bytes that point to the first one."""
    head = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(head[:2], "")
    version = struct.unpack(order + "H", head[2:4])[0] if order and len(head) >= 4 else 0
    if version not in (CLASSIC, BIG):
        raise InputError(f"is no TIFF file: it begins with {head[:8]!r}")
    return _Directory.of(version, order), head[8:16] if version == BIG else head[4:8]


def _check_values(entries: Iterator[tuple[Any, ...]], link: struct.Struct, size: int) -> None:
    """Raise `InputError` if a tag's value lies beyond the end of the file."""
    for tag, kind, count, value in entries:
        length = count * TYPE_BYTES.get(kind, 0)
        if length > len(value) and link.unpack(value)[0] + length > size:  # a value that is too long is pointed to
            raise InputError(f"is truncated or damaged: the value of tag {tag} is not within its {size} bytes")


def check_complete(tif: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> None:
    """Raise `InputError` unless all the image data of the series lie in the file."""
    claims = {"OME": tif.is_ome, "ImageJ": tif.is_imagej, "shape": tif.is_shaped}
    claimed = [name for name, claim in claims.items() if claim]
    if claimed and series.kind in ("generic", "uniform") and "BinaryOnly" not in (tif.ome_metadata or ""):
        raise InputError(f"is truncated or damaged: its planes do not fit its {claimed[0]} metadata")
    if series.dataoffset:
        end, size = series.dataoffset + series.nbytes, tif.filehandle.size
        if end > size:
            raise InputError(f"is truncated: its planes end at byte {end}, the file has {size}")
        return
    for number, page in enumerate(series):
        if page is None:
            raise InputError(f"is incomplete: plane {number} of {len(series)} is in none of its files")
        end, size = _end_of_data(page, number), page.parent.filehandle.size
        if end > size:
            raise InputError(f"is truncated: plane {number} ends at byte {end}, the file has {size}")


def _end_of_data(page: Any, number: int) -> int:
    """Last byte of the strips or tiles of a page; an `InputError` if some are missing."""
    frame = page.keyframe
    offsets, counts = page.dataoffsets, page.databytecounts
    if len(offsets) > 0 and offsets[0] > 0 and frame.is_contiguous:
        return int(offsets[0] + frame.nbytes)
    wanted = math.prod(frame.chunked)
    if len(offsets) < wanted or len(counts) < wanted or 0 in offsets[:wanted] or 0 in counts[:wanted]:
        raise InputError(f"is incomplete: plane {number} lacks some of its {wanted} strips or tiles")
    return int(max(offset + count for offset, count in zip(offsets[:wanted], counts[:wanted], strict=True)))
