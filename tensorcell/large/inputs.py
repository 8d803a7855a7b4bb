"""What tells the input of a recovery in parts from another one, so that a run goes on only with the same."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tensorcell.errors import InputError
from tensorcell.files import split_path
from tensorcell.files.formats import FilePath
from tensorcell.files.lazy_values import in_one_line
from tensorcell.files.messages import naming
from tensorcell.files.plane_files import files_of_folder
from tensorcell.lazy_volume import LazyVolume


def files_named(source: FilePath | Sequence[FilePath] | LazyVolume) -> list[str]:
    """The paths that were given."""
    if isinstance(source, LazyVolume):
        return []
    several = [source] if isinstance(source, str | os.PathLike) else source
    if not isinstance(several, Sequence) or not all(isinstance(path, str | os.PathLike) for path in several):
        raise InputError(
            f"expected a path, a list of paths or a LazyVolume, got {type(source).__name__}: LazyVolume(array, axes) "
            "makes one of an array"
        )
    return [os.fspath(path) for path in several]


def facts_of_files(named: Sequence[str], volume: LazyVolume | None) -> list[Any]:
    """What tells an input from another one, and from what it was before: names, sizes and times of all its files.

    Where the files that hold the values are known, a folder that was named is not looked at: it may hold other images.

    Raises
    ------
    InputError
        If one of them is not there any more.
    """
    arrays = () if volume is None else (volume.data, volume.mask)
    places = [place for array in arrays for place in getattr(array, "files", ())]
    for path in named:
        place = Path(os.path.abspath(split_path(path)[0]))
        if not place.is_dir():
            places.append(place)
        elif not places:
            places += files_of_folder(place)
    total, digest = 0, hashlib.sha256()
    every = sorted({file for place in places for file in files_below(place)})
    for file in every:
        with naming(file), in_one_line():
            facts = file.stat()
        total += facts.st_size
        digest.update(f"{file}\0{facts.st_size}\0{facts.st_mtime_ns}\0".encode(errors="surrogateescape"))
    return [[os.path.abspath(path) for path in named], len(every), total, digest.hexdigest()]


def digest_of(*arrays: np.ndarray | None) -> str:
    """A number of arrays in a text that differs where they differ.

    >>> digest_of(np.zeros(3), None) == digest_of(np.zeros(3), None) != digest_of(np.ones(3), None)
    True
    """
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(b"none" if array is None else f"{array.shape}{array.dtype}".encode())
        digest.update(b"" if array is None else np.ascontiguousarray(array).data)
    return digest.hexdigest()


def files_below(place: Path) -> Iterator[Path]:
    """A file, or all files in a folder."""
    if not place.is_dir():
        yield place
    for top, _, names in os.walk(place):
        yield from (Path(top, name) for name in names)
