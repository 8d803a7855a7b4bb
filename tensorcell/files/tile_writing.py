"""Write a volume of any size tile by tile, and go on with one that another run began."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tensorcell.errors import InputError
from tensorcell.files.formats import AS_USUAL, NotHeld, Variant
from tensorcell.files.lazy_values import in_one_line
from tensorcell.files.messages import naming, reason
from tensorcell.files.table import complete_suffixes, suffix_of, tile_suffixes, writable_format_of
from tensorcell.files.temporary import remove
from tensorcell.files.tiles import TileWriter, Tiling
from tensorcell.volume import Volume


class TileSpec(NamedTuple):
    """What a file is to hold, except for the values."""

    shape: tuple[int, ...]
    axes: str
    dtype: Any
    spacing: tuple[float, float, float] | None = None
    metadata: Mapping[str, Any] = {}
    variant: Variant = AS_USUAL

    def layout(self) -> Volume:
        """A volume of that shape whose values take no memory: they are one zero."""
        return Volume(
            np.broadcast_to(np.zeros((), self.dtype), self.shape), self.axes, self.spacing, None, self.metadata
        )


def tile_writer(part: Path, file: Path, spec: TileSpec, *, resume: bool = False) -> TileWriter:
    """Begin a file that is written tile by tile, or go on with it.

    Parameters
    ----------
    part : pathlib.Path
        The hidden name under which it is built, in the folder of ``file``; the caller renames it when it is complete.
    file : pathlib.Path
        The output, whose suffix says the format: ``.zarr`` (OME-Zarr), ``.tif`` (ImageJ, OME or plain TIFF as `write`
        chooses, not compressed), ``.ome.tif``, ``.h5`` (not compressed) or ``.npy``.
    spec : TileSpec
    resume : bool
        Whether to go on with what lies at ``part``, if anything does.

    Returns
    -------
    TileWriter
        ``chunks`` are the lengths of which the borders of tiles should be multiples, so that no two tiles write to one
        chunk; ``write(where, values)`` writes a tile; ``flush()`` has all that was written reach the disk;
        ``complete()`` finishes the file; ``close()`` ends without.

    Raises
    ------
    InputError
        In one line that starts with the output, if the format is only written as a whole or does not hold such a
        volume, if something lies at ``part`` already (without ``resume``) or was begun for another volume, or if there
        is no space for it on the disk.

    Notes
    -----
    ``read`` gives the same as for the volume written as a whole. What was written survives that the process is killed
    at any point, and what was flushed that the machine stops. TIFF, HDF5 and NPY claim their whole size on the disk at
    the beginning. OME-Zarr makes its smaller levels at the end, which reads and writes every chunk once; the memory
    that takes is that of some chunks. Tiles may be written by several processes of one machine; of several machines
    that share a disk only into OME-Zarr, in tiles of whole chunks.

    Examples
    --------
    >>> import tempfile
    >>> from tensorcell.files import read
    >>> folder = Path(tempfile.mkdtemp())
    >>> spec = TileSpec((4, 6, 8), "ZYX", np.uint16, (0.5, 0.1, 0.1))
    >>> with tile_writer(folder / ".part.npy", folder / "a.npy", spec) as writer:
    ...     for z in range(4):
    ...         writer.write((z, slice(None), slice(None)), np.full((6, 8), z, np.uint16))
    ...     writer.complete()
    Stored(form='NumPy', lost=('spacing',))
    >>> _ = (folder / ".part.npy").rename(folder / "a.npy")
    >>> read(folder / "a.npy").data[:, 0, 0]
    array([0, 1, 2, 3], dtype=uint16)
    """
    with naming(file), in_one_line():
        layout = spec.layout()
        form, _ = writable_format_of(file, spec.variant)
        if form.tiles is None:
            raise InputError(
                f"{form.name} ({suffix_of(file)}) is only written as a whole, expected {tile_suffixes()} for a volume "
                "that is written in parts"
            )
        try:
            form.check_holds(layout)
            if part.exists() and not resume:
                raise InputError(f"its unfinished file {part.name} exists already, expected resume=True")
            if not part.exists():
                _begin(form.tiles, part, layout)
            return form.tiles.resume(part, layout)
        except NotHeld as error:
            raise InputError(f"{error} (or write {complete_suffixes()})") from None
        except OSError as error:
            raise InputError(f"cannot be written: {reason(error)}") from error


def _begin(tiling: Tiling, part: Path, layout: Volume) -> None:
    """Make the file under yet another name, so that none lies at ``part`` that was begun by half."""
    new = part.with_name(f"{part.name}.new")
    remove(new)  # of a run that was killed while it began
    try:
        tiling.begin(new, layout)
        os.replace(new, part)
    finally:
        remove(new)
