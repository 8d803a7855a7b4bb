"""Open a volume in a file of any format in the table, to read parts of it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tensorcell.files.formats import FilePath
from tensorcell.files.lazy_values import in_one_line
from tensorcell.files.messages import naming
from tensorcell.files.notes import add_note
from tensorcell.files.paths import split_path
from tensorcell.files.reading import asked_of, completed, is_folder_of_files, read
from tensorcell.lazy_volume import LazyVolume
from tensorcell.memory import size_text
from tensorcell.volume import Volume

LARGE = 10**9
"""Bytes beyond which a note says that a volume was read as a whole."""


def open_volume(
    path: FilePath | Sequence[FilePath],
    *,
    dataset: str | None = None,
    series: str | int | None = None,
    axes: str | None = None,
    missing_planes: bool = False,
) -> LazyVolume:
    """Open a volume of which parts are to be read: all that `read` gives of the same file, except for the values.

    Parameters
    ----------
    path, dataset, series, axes, missing_planes
        As in `read`.

    Returns
    -------
    LazyVolume
        With the axes, voxel size, metadata and notes that `read` gives; each part of it equals that part of what `read`
        gives. It holds the path and not the open file, so that it can be sent to another process on this machine, or
        on one that sees the file under the same path.

    Raises
    ------
    InputError
        As `read`, where the values are not needed to find out; else when a part of the file that is damaged is read.

    Notes
    -----
    OME-Zarr, plain Zarr, HDF5 in all its layouts and chunked or compressed TIFF are read chunk by chunk, strip by strip
    or tile by tile; ``.npy``, MRC and TIFF without compression are mapped into memory for the time of a read. Other
    formats (``.npz``, NIfTI, NRRD, those of bioio), and planes in several files, are read as a whole at once; where
    that takes more than 1 GB, ``metadata["notes"]`` say so.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from tensorcell.files import write
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = f"{folder}/stack.zarr"
    ...     done = write(path, Volume(np.ones((5, 8, 9), np.uint16), spacing=(0.5, 0.1, 0.1)))
    ...     open_volume(path).part((slice(2), slice(None), slice(4, 9)))
    Volume(2 x 8 x 5 ZYX, uint16, 0.5 x 0.1 x 0.1 um)
    """
    wanted: dict[str, Any] = {
        "dataset": dataset, "series": series, "axes": axes, "missing_planes": missing_planes,
    }  # fmt: skip
    if not isinstance(path, str | os.PathLike):
        return _read_at_once(read(path, **wanted))
    file, inside = split_path(path)
    if is_folder_of_files(file):
        return _read_at_once(read(path, **wanted))
    with naming(path), in_one_line():
        form, asked = asked_of(file, inside, **wanted)
        if form.open is not None:
            volume = form.open(Path(os.path.abspath(file)), asked).lazily(os.fspath(path))
            return dataclasses.replace(volume, metadata=completed(volume, file))
    return _read_at_once(read(path, **wanted))


def _read_at_once(volume: Volume) -> LazyVolume:
    """A volume that was read as a whole."""
    metadata, size = dict(volume.metadata), volume.data.nbytes
    if size > LARGE:
        add_note(metadata, f"this kind of file is read as a whole, which takes {size_text(size)} of memory")
    return LazyVolume(volume.data, volume.axes, volume.spacing, volume.mask, metadata)
