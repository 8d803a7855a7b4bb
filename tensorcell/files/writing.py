"""Write a volume to a file of any format in the table."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tensorcell.errors import InputError
from tensorcell.files.casting import Cast, cast
from tensorcell.files.formats import FilePath, NotHeld, Variant
from tensorcell.files.held_outputs import claimed
from tensorcell.files.messages import naming
from tensorcell.files.paths import check_inside, check_target, split_path
from tensorcell.files.table import complete_suffixes, writable_format_of
from tensorcell.files.whole_files import whole_file
from tensorcell.volume import Volume

WAIT = 60.0
"""Seconds for which another one that writes the same file is waited for."""


@dataclass(frozen=True)
class Written:
    """The result of `write`."""

    path: Path
    format: str
    """``ImageJ TIFF``, ``OME-TIFF``, ``TIFF``, ``HDF5`` or ``NumPy``."""
    rounded: int
    """Voxels rounded on the way to the dtype asked for, see `Cast`."""
    clipped: int
    """Voxels clipped on the way to the dtype asked for."""
    lost: tuple[str, ...]
    """What the format does not hold: ``"mask"``, ``"axes"``, ``"spacing"``, ``"metadata"`` ..."""


def write(
    path: FilePath,
    volume: Any,
    *,
    dtype: Any = None,
    compress: bool = True,
    overwrite: bool = True,
    pyramid: bool = False,
    ngff: str | None = None,
) -> Written:
    """Write a volume to a file; the format follows from the suffix (`tensorcell.files.table` says what each keeps).

    Parameters
    ----------
    path : path
        The output. ``file.h5:/group/data`` puts the volume beside what an HDF5 file already holds.
    volume : Volume or array_like
        An array is completed as by `Volume.from_array`.
    dtype : dtype, optional
        Convert to this dtype as `cast` does; None keeps the volume's.
    compress : bool
        Lossless compression (TIFF: deflate without a predictor, which Fiji reads; HDF5: gzip; ``.npz``).
        ``.npy`` has none.
    overwrite : bool
        False makes an existing output an error.
    pyramid : bool
        Of TIFF: write OME-TIFF in tiles with smaller levels of the image, for viewers of large images. OME-Zarr always
        has them.
    ngff : str, optional
        Of OME-Zarr: the version of OME-NGFF. ``"0.4"``, in zarr 2, is for programs that do not read ``"0.5"``, in
        zarr 3, which is written by default.

    Returns
    -------
    Written
        What was written, how many voxels were rounded and clipped, and what the format does not hold.

    Raises
    ------
    InputError
        In one line that starts with the path, if the suffix is unknown or of a format that can only be read, if the
        folder is missing or cannot be written to, if the disk is full, if the format does not have the dtype or the
        axes or smaller levels, if NaN would have to become an integer, or if another run is writing the file.

    Notes
    -----
    The file appears whole or not at all: it is written under a temporary name in the same folder, flushed to
    the disk and renamed. On any error or Ctrl-C the temporary file is removed and an existing output stays
    as it was.
    """
    file, inside = split_path(path)
    volume = Volume.from_array(volume)
    with naming(path):
        form, writer = writable_format_of(file, Variant(pyramid, ngff))
        check_inside(form, inside)
        check_target(file, form)
    with claimed([file], WAIT), naming(path):
        if not overwrite and file.exists():
            raise InputError("exists already, expected a new name (or overwrite=True)")
        converted = Cast(volume.data, 0, 0) if dtype is None else cast(volume.data, dtype)
        volume = dataclasses.replace(volume, data=converted.data)
        try:
            form.check_holds(volume)
            with whole_file(file, extend=inside is not None) as part:
                stored = writer(part, volume, inside, compress)
        except NotHeld as error:
            raise InputError(f"{error} (or write {complete_suffixes()})") from None
    return Written(file, stored.form, converted.rounded, converted.clipped, stored.lost)
