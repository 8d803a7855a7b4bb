"""Read MRC files: stacks of sections with an MRC2014 header (CCP4, IMOD) or a Priism header (DeltaVision, SIM).

Both headers have 1024 bytes and begin alike. A Priism header is known by its number -16224: it states the voxel size in
micrometres, the numbers of times and wavelengths, and the order of the sections. MRC2014 states Angstrom and knows no
times. Sources: the MRC2014 paper (doi:10.1016/j.jsb.2015.04.002) and the format pages of IMOD and of Priism.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tensorcell.errors import InputError
from tensorcell.files.formats import Wanted
from tensorcell.files.lazy_values import Mapped, Opened
from tensorcell.files.messages import library, reason
from tensorcell.files.units import length, voxel_size
from tensorcell.volume import Volume

MODES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
"""Data types by the number of the mode."""

COMPLEX_MODES = (3, 4)

PRIISM = -16224

SEQUENCES = {0: "CTZ", 1: "TZC", 2: "TCZ"}
"""Axes of the sections by Priism's number of the sequence; the last one is the fastest."""

IMOD_STAMP = 1146047817
"""Says that IMOD's flags follow, of which 1 means that bytes are signed."""

LETTERS = {1: "X", 2: "Y", 3: "Z"}

SMALLEST_PIXEL = 1e-3
"""A Priism header that states less, in micrometres, cannot mean the voxel size."""


@dataclass(frozen=True)
class Header:
    """What the header says."""

    fields: Any
    """`mrcfile`'s record, in the byte order of the file."""
    notes: tuple[str, ...]
    """What mrcfile found wrong with it."""
    labels: str

    def number(self, name: str, offset: int, kind: str) -> int:
        """An integer in a field that mrcfile leaves as bytes."""
        order = self.fields.mode.dtype.byteorder
        return int(np.frombuffer(self.fields[name].tobytes(), np.dtype(kind).newbyteorder(order), 1, offset)[0])

    @property
    def priism(self) -> bool:
        """Whether this is a Priism header."""
        return self.number("extra1", 0, "i2") == PRIISM

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Sections, rows and columns."""
        return int(self.fields.nz), int(self.fields.ny), int(self.fields.nx)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of the voxels.

        Bytes are unsigned in Priism files, in IMOD's unless a flag says otherwise, and where the header gives a largest
        value that no signed byte has.
        """
        kind = MODES[int(self.fields.mode)]
        imod = self.number("extra2", 40, "i4") == IMOD_STAMP
        unsigned = not self.number("extra2", 44, "i4") & 1 if imod else self.priism or self.beyond_signed_bytes
        return np.dtype("u1" if kind == "i1" and unsigned else kind)

    @property
    def beyond_signed_bytes(self) -> bool:
        """Whether the smallest and the largest value in the header are those of unsigned bytes, not of signed ones."""
        lowest, highest = float(self.fields.dmin), float(self.fields.dmax)
        return 0 <= lowest <= highest and 127 < highest <= 255

    @property
    def image_stack(self) -> bool:
        """Whether the sections are images by themselves: space group 0, a cell of one section.

        Their distance has no place in the standard. Programs write the cell of one section or of all: mrcfile 1.5.4
        multiplies the step by the number of sections when a volume is turned into an image stack.
        """
        return not self.priism and int(self.fields.ispg) == 0 and int(self.fields.mz) == 1 < int(self.fields.nz)

    @property
    def bytes_before(self) -> int:
        """Bytes in front of the first voxel."""
        return int(self.fields.nbytes) + int(self.fields.nsymbt)


def read_mrc(path: Path, wanted: Wanted) -> Volume:
    """Read the sections of an MRC file."""
    return open_mrc(path, wanted).volume()


def open_mrc(path: Path, wanted: Wanted) -> Opened:
    """Read the header of an MRC file."""
    mrcfile = mrcfile_library()
    header = _read_header(mrcfile, path)
    extra = _check_complete(header, path.stat().st_size)
    shape, names = _layout(header)
    notes = [*header.notes, *extra]
    metadata: dict[str, Any] = {"format": "Priism MRC" if header.priism else "MRC"}
    spacing = voxel_size(_steps(header, notes), metadata)
    if header.labels:
        metadata["description"] = header.labels
    if notes:
        metadata["notes"] = notes
    stored = header.dtype.newbyteorder(header.fields.mode.dtype.byteorder)
    return Opened(Mapped(path, header.bytes_before, shape, stored), wanted.axes or names, spacing, metadata)


def mrcfile_library() -> Any:
    """The module mrcfile, or one line that says how to install it."""
    return library("mrcfile", "mrc")


def _read_header(mrcfile: Any, path: Path) -> Header:
    """The header, whose faults are notes if the file can be read all the same."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with mrcfile.open(path, permissive=True, header_only=True) as file:
                fields, labels = file.header, "\n".join(file.get_labels()).strip()
        except ValueError as error:
            raise InputError(f"is no MRC file, or its header is damaged: {reason(error)}") from error
    said = [f"mrcfile: {' '.join(str(one.message).split())}" for one in caught]
    header = Header(fields, tuple(said), labels)
    # A Priism header has neither of the two marks that mrcfile looks for.
    return Header(fields, (), labels) if header.priism else header


def _check_complete(header: Header, size: int) -> list[str]:
    """Raise `InputError` unless the sections are as long as the header says; a note if a little more follows."""
    fields, mode = header.fields, int(header.fields.mode)
    if mode in COMPLEX_MODES:
        raise InputError(f"holds complex numbers (mode {mode}), expected intensities")
    marked = header.priism or bytes(fields.map)[:3] == b"MAP"
    known = mode in MODES and min(header.sizes) > 0 and fields.nsymbt >= 0
    if not marked and not known:
        raise InputError("is no MRC file, or its header is damaged: it has neither the mark MAP nor Priism's number")
    if mode not in MODES:
        raise InputError(f"has mode {mode}, expected one of {', '.join(map(str, MODES))}")
    if not known:
        raise InputError(
            f"is damaged: its header says {header.sizes} voxels and an extended header of {int(fields.nsymbt)} bytes"
        )
    section = math.prod(header.sizes[1:]) * header.dtype.itemsize
    end = header.bytes_before + header.sizes[0] * section
    if end > size:
        raise InputError(f"is truncated or damaged: its sections end at byte {end}, the file has {size}")
    if size - end >= section:
        more = (size - end) // section
        raise InputError(f"is damaged: its header says {header.sizes[0]} sections, the file holds {more} more")
    return [f"{size - end} bytes follow the last section; they were not read."] if size > end else []


def _layout(header: Header) -> tuple[tuple[int, ...], str | None]:
    """Shape of the data, and the names of the axes or None if the file does not say them."""
    sections, rows, columns = header.sizes
    if not header.priism and 401 <= header.fields.ispg <= 630:  # volumes one after the other
        depth = int(header.fields.mz)
        if depth < 1 or sections % depth:
            raise InputError(f"is damaged: its header says {sections} sections in volumes of {depth}")
        return (sections // depth, depth, rows, columns), None
    outer = _priism_axes(header) if header.priism else {"Z": sections}
    order = tuple(int(header.fields[name]) or place for place, name in enumerate(("mapc", "mapr", "maps"), start=1))
    if sorted(order) != [1, 2, 3]:
        raise InputError(f"has axes {order} along columns, rows and sections, expected 1, 2 and 3 in any order")
    x, y, z = (LETTERS[number] for number in order)
    return (*outer.values(), rows, columns), "".join(outer).replace("Z", z) + y + x


def _priism_axes(header: Header) -> dict[str, int]:
    """Names and lengths of the axes of the sections; times and wavelengths only where there are several."""
    sections = header.sizes[0]
    times, waves = max(1, header.number("extra2", 68, "i2")), max(1, header.number("origin", 0, "i2"))
    sequence = header.number("extra2", 70, "i2")
    if sections % (times * waves):
        raise InputError(f"is damaged: its header says {sections} sections, {times} times and {waves} wavelengths")
    if times * waves > 1 and sequence not in SEQUENCES:
        raise InputError(f"has its sections in sequence {sequence}, expected one of {', '.join(map(str, SEQUENCES))}")
    lengths = {"T": times, "C": waves, "Z": sections // (times * waves)}
    return {name: lengths[name] for name in SEQUENCES.get(sequence, "CTZ") if lengths[name] > 1 or name == "Z"}


def _steps(header: Header, notes: list[str]) -> tuple[float | None, ...]:
    """(dz, dy, dx) in micrometres; None where the header says 0, or what cannot be."""
    cell, unit = header.fields.cella, "um" if header.priism else "angstrom"
    lengths = [float(cell[name]) for name in "zyx"]
    counts = [int(header.fields[f"m{name}"]) for name in "zyx"]
    if not all(map(math.isfinite, lengths)):
        notes.append(f"The voxel size is unknown: the header says {lengths} for the lengths of the axes.")
        return None, None, None
    steps = tuple(length(one / max(1, count), unit) for one, count in zip(lengths, counts, strict=True))
    if header.priism and any(step is not None and step < SMALLEST_PIXEL for step in steps):
        notes.append(f"The voxel size is unknown: the header says {lengths} micrometres in {counts} steps.")
        return None, None, None
    if header.image_stack and steps[0] is not None:
        notes.append(
            f"The step along z is unknown: the file is a stack of images, whose cell of {steps[0]:g} micrometres may "
            f"be that of one section or of all {header.sizes[0]} ({steps[0] / header.sizes[0]:g} each)."
        )
        return None, *steps[1:]
    return steps
