"""For the tests of files: volumes, files as other programs write them, assertions, and two formats made up here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile

from tensorcell.errors import InputError
from tensorcell.files import read
from tensorcell.files.formats import Format, Stored, Wanted
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


def tiles_of(shape: tuple[int, ...], chunks: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """Boxes of whole chunks that cover a volume, of about half of its length along each axis, in a mixed order."""
    lengths = [chunk * max(1, size // 2 // chunk) for chunk, size in zip(chunks, shape, strict=True)]
    places = [*np.ndindex(*(-(-size // length) for size, length in zip(shape, lengths, strict=True)))]
    for number in np.random.default_rng(0).permutation(len(places)):
        pairs = zip(places[number], lengths, shape, strict=True)
        yield tuple(slice(one * length, min((one + 1) * length, size)) for one, length, size in pairs)


def read_or_line(path: Path) -> Volume | str:
    """The volume, or the one line of an `InputError`; anything else fails the test."""
    try:
        return read(path)
    except InputError as error:
        line = str(error)
    assert "\n" not in line
    return line


def text_file(path: Path) -> Path:
    path.write_text("x,y\n1,2\n" * 20)
    return path


def hdf5(path: Path, **arrays: Any) -> Path:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return path


def npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def names(place: Path) -> list[str]:
    """The paths of all files and folders in a folder."""
    return sorted(str(path.relative_to(place)) for path in place.rglob("*"))


def read_dummy(path: Path, wanted: Wanted) -> Volume:
    """Numbers as text, after a line with the shape."""
    head, *lines = path.read_text().splitlines()
    data = np.array(" ".join(lines).split(), np.uint16).reshape([int(size) for size in head.split()])
    return Volume(data, wanted.axes or "ZYX", metadata={"format": "Dummy", "dataset": wanted.dataset})


def write_dummy(part: Path, volume: Volume, _dataset: str | None, _compress: bool) -> Stored:
    numbers = " ".join(map(str, volume.data.ravel().tolist()))
    part.write_text(" ".join(map(str, volume.shape)) + "\n" + numbers)
    return Stored("Dummy", ())


def read_folder(path: Path, wanted: Wanted) -> Volume:
    return read_dummy(path / (wanted.dataset or "data"), wanted._replace(dataset=None))


def write_folder(part: Path, volume: Volume, dataset: str | None, compress: bool) -> Stored:
    part.mkdir(exist_ok=True)
    (part / "folder.json").write_text("{}")
    return write_dummy(part / (dataset or "data"), volume, None, compress)


DUMMY = Format("Dummy", (".dummy",), read_dummy)
FOLDER = Format("Folder", (".fold",), read_folder, write_folder, holds="tree", folder_marks=("folder.json",))
