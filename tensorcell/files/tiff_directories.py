"""The directories of a TIFF file as they stand there: where each one lies and how its page is stored.

tifffile takes what it can reach of a truncated file, and reads most pages by the directory of the first. A lost tail
must not look like a shorter stack, nor a lost description like a file without axes, nor a page that is stored otherwise
than the first like noise; so the chain of directories is walked before anything is decoded.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

from tensorcell.errors import InputError

TYPE_BYTES = dict(enumerate((0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8)))
"""Bytes of a value, by the number of its TIFF data type."""

CLASSIC, BIG = 42, 43
"""Versions in the header of a classic TIFF and of a BigTIFF."""

LAYOUT_TAGS = frozenset({254, 256, 257, 258, 259, 262, 266, 277, 278, 284, 317, 320, 322, 323, 338, 339, 347})
"""Tags that say how the pixels of a page are stored: size, data type, compression, predictor, strips, tiles, planes."""

PLACE_TAGS, SIZE_TAGS = frozenset({273, 324}), frozenset({279, 325})
"""Tags with the places of a page's strips or tiles, and with their lengths in bytes."""

COMPRESSION = 259
"""Tag of the compression; 1 is none."""

INDIRECT_TAGS = frozenset({320, 347})
"""Layout tags whose value is a table; where the tables of two pages lie says nothing."""

Entry = tuple[int, int, int, bytes]
"""Tag, number of the data type, count of values, and the value or the place of the values."""


class Directory(NamedTuple):
    """A TIFF directory."""

    offset: int
    """Place of the directory in the file."""
    layout: bytes
    """Pages with the same bytes here are stored alike; pages stored alike may differ here."""
    first: int | None
    """Place of the first strip or tile of its page."""


@dataclass(frozen=True)
class _Form:
    """The parts of a directory: the number of entries, an entry (tag, type, count, value), the link to the next."""

    order: str
    count: struct.Struct
    entry: struct.Struct
    link: struct.Struct

    @staticmethod
    def of(version: int, order: str) -> _Form:
        parts = ("Q", "HHQ8s", "Q") if version == BIG else ("H", "HHI4s", "I")
        return _Form(order, *(struct.Struct(order + part) for part in parts))


def directories_of(path: Path) -> list[Directory]:
    """The chain of directories; an `InputError` unless all of them, and the values that count, lie in the file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        form, link = _read_header(file)
        found: dict[int, Directory] = {}
        while len(link) == form.link.size:
            (offset,) = form.link.unpack(link)
            if offset == 0 and found:
                return list(found.values())
            if offset in found:
                raise InputError(f"is damaged: its directory {len(found)} points back to byte {offset}")
            file.seek(offset)
            raw = file.read(form.count.size)
            count = form.count.unpack(raw)[0] if len(raw) == form.count.size else 0
            body = file.read(min(count, 2**16) * form.entry.size)
            if offset == 0 or count == 0 or len(body) < count * form.entry.size:
                break
            entries = list(form.entry.iter_unpack(body))
            _check_values(entries, form, size, of_all=not found)
            link = file.read(form.link.size)
            found[offset] = _directory(file, offset, entries, form)
    raise InputError(f"is truncated or damaged: its directory {len(found)} is not within its {size} bytes")


def _read_header(file: IO[bytes]) -> tuple[_Form, bytes]:
    """The form of the directories, and the bytes that point to the first one."""
    head = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(head[:2], "")
    version = struct.unpack(order + "H", head[2:4])[0] if order and len(head) >= 4 else 0
    if version not in (CLASSIC, BIG):
        raise InputError(f"is no TIFF file: it begins with {head[:8]!r}")
    return _Form.of(version, order), head[8:16] if version == BIG else head[4:8]


def _check_values(entries: Iterable[Entry], form: _Form, size: int, *, of_all: bool) -> None:
    """Raise `InputError` if a tag's value lies beyond the end of the file: of all tags, or of those of the layout."""
    for tag, kind, count, value in entries:
        length = count * TYPE_BYTES.get(kind, 0)
        if length <= len(value) or not (of_all or tag in LAYOUT_TAGS or tag in PLACE_TAGS or tag in SIZE_TAGS):
            continue
        if form.link.unpack(value)[0] + length > size:  # a value that is too long is pointed to
            raise InputError(f"is truncated or damaged: the value of tag {tag} is not within its {size} bytes")


def _directory(file: IO[bytes], offset: int, entries: Iterable[Entry], form: _Form) -> Directory:
    layout, first, stored_as_is, length = [form.order.encode()], None, True, b""
    for tag, kind, count, value in entries:
        if tag in PLACE_TAGS:
            layout.append(b"%d*%d" % (tag, count))
            first = _first_place(file, kind, count, value, form)
        elif tag in SIZE_TAGS:
            layout.append(b"%d*%d" % (tag, count))
            length = value if count == 1 else b""
        elif tag in INDIRECT_TAGS:
            layout.append(b"%d" % tag)
        elif tag in LAYOUT_TAGS:
            layout.append(b"%d:%d:%d:" % (tag, kind, count) + value)
            stored_as_is &= tag != COMPRESSION or struct.unpack_from(form.order + "H", value)[0] == 1
    return Directory(offset, b" ".join([*layout, length if stored_as_is else b""]), first)


def _first_place(file: IO[bytes], kind: int, count: int, value: bytes, form: _Form) -> int | None:
    """The place of the first strip or tile of a page, or None if its data type is none for a place."""
    code = {3: "H", 4: "I", 13: "I", 16: "Q"}.get(kind)
    if code is None:
        return None
    if count * struct.calcsize(code) > len(value):  # then the value says where the places are listed
        file.seek(form.link.unpack(value)[0])
        value = file.read(struct.calcsize(code))
    return int(struct.unpack_from(form.order + code, value)[0]) if len(value) >= struct.calcsize(code) else None
