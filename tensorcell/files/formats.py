"""What a file format is: `Format`, of which `tensorcell.files.table` holds one line for each format."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from tensorcell.errors import InputError
from tensorcell.files.lazy_values import Opened
from tensorcell.volume import Volume

if TYPE_CHECKING:
    from tensorcell.files.tiles import Tiling

FilePath = str | os.PathLike[str]

MOST_LISTED = 8
"""Images that a message lists."""


class NotHeld(InputError):
    """The format has no place for the volume as it is; `write` adds to the message which formats have one."""


class Stored(NamedTuple):
    """What a `Writer` did."""

    form: str
    """The kind of file for the user, such as ``ImageJ TIFF``: one format may choose among several."""
    lost: tuple[str, ...]
    """What the file does not hold: ``"mask"``, ``"axes"``, ``"spacing"``, ``"metadata"`` ..."""


class Wanted(NamedTuple):
    """What a user wants of a file; None where nothing was said."""

    dataset: str | None = None
    """Path of the dataset inside an HDF5 file, name of the array in an ``.npz``."""
    series: str | int | None = None
    """Number or name of an image in a file that holds several."""
    axes: str | None = None
    """Names of the axes."""
    missing_planes: bool = False
    """Whether planes that lie in no file count as not measured, where they would be an error."""


class Variant(NamedTuple):
    """Which of the ways is wanted in which a format may be written."""

    pyramid: bool = False
    """With smaller levels of the image."""
    ngff: str | None = None
    """Version of OME-NGFF; None for the newest."""


AS_USUAL = Variant()


class Reader(Protocol):
    """The function that reads a format.

    It is called with an existing source that is not empty, and with what the user wants of it. It opens the source for
    reading only, raises an error rather than return part of the data, and says in ``metadata["format"]`` what it found.
    Any exception becomes one line for the user.
    """

    def __call__(self, path: Path, wanted: Wanted, /) -> Volume: ...


class Opener(Protocol):
    """The function that opens a format of which parts can be read.

    It is called as a `Reader` is, with an absolute path, and does all that the reader does except for the values.
    """

    def __call__(self, path: Path, wanted: Wanted, /) -> Opened: ...


class Writer(Protocol):
    """The function that writes a format.

    It is called with a temporary path, the volume, the path of the dataset inside the file (or None), and whether to
    compress. Nothing lies at the temporary path, except where a dataset is named and the output exists: then a copy
    of the output lies there, and the volume is put beside what it holds. The function need not clean up on errors.
    """

    def __call__(self, part: Path, volume: Volume, dataset: str | None, compress: bool, /) -> Stored: ...


class Way(NamedTuple):
    """How a format is written."""

    write: Writer
    tiles: Tiling


@dataclass(frozen=True)
class Format:
    """A file format: how it is recognised, read and written, and what it can hold."""

    name: str
    """The name in messages, such as ``HDF5``."""
    suffixes: tuple[str, ...]
    """They are in lower case, with the dot. No two formats share one; the longest that fits a name decides."""
    read: Reader
    write: Writer | None = None
    """None for a format that can only be read."""
    holds: Literal["one", "several", "tree"] = "one"
    """A file holds one dataset; several, of which one is read by its name; or a tree, in which one is written, too.

    The name or path is given as ``dataset=`` or after a colon.
    """
    dtypes: tuple[str, ...] = ()
    """The data types that can be written; empty if all can."""
    axes: str = ""
    """The axes that can be written; empty if all can."""
    has_series: bool = False
    """Whether a file may hold several images, chosen by ``series=``."""
    complete: bool = False
    """Whether a file keeps everything that a `Volume` holds: axes, voxel size, mask and metadata."""
    folder_marks: tuple[str, ...] = ()
    """If it is a folder: names, one of which every such folder holds; a folder that holds none is never replaced."""
    open: Opener | None = None
    """None for a format that is read as a whole."""
    tiles: Tiling | None = None
    """None for a format that is written as a whole."""
    pyramid: Way | None = None
    """How smaller levels of the image are written, too; None for a format that has none."""
    versions: Mapping[str, Way] = field(default_factory=dict)
    """How versions of the format are written, for those who ask for one."""

    @property
    def is_folder(self) -> bool:
        """Whether a volume is stored as a folder."""
        return bool(self.folder_marks)

    def check_holds(self, volume: Volume) -> None:
        """Raise `NotHeld` unless the format can be written with the volume's data type and axes."""
        if self.dtypes and volume.dtype.name not in self.dtypes:
            raise NotHeld(f"{self.name} has no dtype {volume.dtype.name}, expected {', '.join(self.dtypes)}")
        if self.axes and not set(volume.axes) <= set(self.axes):
            raise NotHeld(f"{self.name} has no axes {volume.axes}, expected {', '.join(self.axes)}")


def chosen_series(names: Sequence[str], sizes: Sequence[Any], wanted: str | int | None) -> int:
    """The number of the image that is wanted by number or name; that of the first of the largest where none is.

    >>> chosen_series(["overview", "stack"], [10, 1000], None), chosen_series(["overview", "stack"], [10, 1000], "0")
    (1, 0)

    Raises
    ------
    InputError
        If there is no such image; the message lists them.
    """
    if wanted is None:
        return max(range(len(sizes)), key=lambda number: sizes[number])  # `max` takes the first of equals
    if wanted in names and list(names).count(str(wanted)) == 1:
        return list(names).index(str(wanted))
    number = int(wanted) if str(wanted).isdecimal() else -1
    if not 0 <= number < len(names):
        listed = ", ".join(f"{number}: {name}".rstrip(": ") for number, name in enumerate(names[:MOST_LISTED]))
        more = ", ..." if len(names) > MOST_LISTED else ""
        raise InputError(f"has no series {wanted!r}, it has {listed}{more}")
    return number
