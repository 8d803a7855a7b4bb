"""OME-TIFF with smaller levels of the image, each plane in tiles, written as a whole or part by part.

The levels lie where OME-TIFF has them, in SubIFDs of each plane, and so have as many planes as the image: rows and
columns alone are halved.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tensorcell.errors import InputError
from tensorcell.files.disk_space import reserve
from tensorcell.files.formats import NotHeld, Stored
from tensorcell.files.layout import arrange, native
from tensorcell.files.lazy_values import Box, length_of
from tensorcell.files.pyramid import fill_level, smaller_levels
from tensorcell.files.tiff_read import quiet_tifffile
from tensorcell.files.tiff_write import (
    NO_BOOL,
    OME_AXES,
    OME_DTYPES,
    Pyramid,
    blocks,
    stored_axes,
    stored_of,
    write_form,
)
from tensorcell.files.tiles import TileWriter, Tiling
from tensorcell.files.whole_files import flush_folder
from tensorcell.volume import Index, Volume

TILE = 256
"""Rows and columns of a tile; of smaller images, the next multiple of 16, as TIFF wants it."""

FORM = "OME-TIFF"


def write_pyramid(part: Path, volume: Volume, _dataset: str | None, compress: bool) -> Stored:
    """Write OME-TIFF in tiles with smaller levels."""
    return write_form(part, volume, FORM, compress, pyramid=_pyramid_of(volume))


def _pyramid_of(volume: Volume) -> Pyramid:
    """The levels of a volume; `NotHeld` if OME-TIFF does not hold it."""
    if volume.dtype.name not in OME_DTYPES:
        raise NotHeld(
            f"{FORM}, which has smaller levels, has no dtype {volume.dtype}, expected {', '.join(OME_DTYPES)}"
        )
    if not set(volume.axes) <= set(OME_AXES):
        raise NotHeld(f"{FORM}, which has smaller levels, has no axes {volume.axes}, expected {', '.join(OME_AXES)}")
    rows, columns = (volume.shape[volume.axes.index(letter)] for letter in "YX")
    tile = min(TILE, 16 * -(-rows // 16)), min(TILE, 16 * -(-columns // 16))
    axes = stored_axes(volume, FORM)
    shape = arrange(volume.data, volume.axes, axes).shape
    return Pyramid(tile, tuple(smaller_levels(shape, axes, None)))


@dataclass(frozen=True)
class TiledPlanes:
    """A level in an unfinished file: the tiles of each plane follow one another, none of them compressed.

    The file is mapped into memory for each access, as `MappedTiles` does it.
    """

    file: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    """As stored."""
    tile: tuple[int, int]
    starts: np.ndarray
    """Bytes at which the planes begin, of the shape of the outer axes."""

    @property
    def end(self) -> int:
        """Byte at which the last plane ends."""
        return int(self.starts.max()) + math.prod(self._tiles) * math.prod(self.tile) * self.dtype.itemsize

    @property
    def _tiles(self) -> tuple[int, int]:
        """How many tiles a plane has along Y and X."""
        rows, columns = self.shape[-2:]
        return -(-rows // self.tile[0]), -(-columns // self.tile[1])

    def __getitem__(self, box: Box) -> np.ndarray:
        starts = self.starts[box[:-2]]
        found = np.empty([length_of(each) for each in box], self.dtype)
        for place in np.ndindex(starts.shape):
            view, inner = self._covering(int(starts[place]), box, "r")
            found[place] = _plane_of(view)[inner]
        return native(found)

    def __setitem__(self, box: Box, values: np.ndarray) -> None:
        starts = self.starts[box[:-2]]
        for place in np.ndindex(starts.shape):
            view, inner = self._covering(int(starts[place]), box, "r+")
            plane = _plane_of(view)
            plane[inner] = values[place]
            view[...] = plane.reshape(view.shape)

    def _covering(self, start: int, box: Box, mode: Any) -> tuple[np.ndarray, Box]:
        """The tiles that hold something of a box of a plane, and the place of the box within them.

        Their axes are the tiles along Y, rows of a tile, tiles along X, columns of a tile.
        """
        mapped = np.memmap(self.file, self.dtype, mode, start, (*self._tiles, *self.tile))
        first, inner = [], []
        for each, length in zip(box[-2:], self.tile, strict=True):
            before = each.start // length
            first.append(slice(before, -(-each.stop // length)))
            inner.append(slice(each.start - before * length, each.stop - before * length, each.step))
        return mapped[tuple(first)].transpose(0, 2, 1, 3), tuple(inner)


def _plane_of(tiles: np.ndarray) -> np.ndarray:
    """A copy of the tiles as rows and columns."""
    down, rows, across, columns = tiles.shape
    return np.array(tiles).reshape(down * rows, across * columns)


class PyramidTiles(TileWriter):
    """A volume that is written part by part as OME-TIFF with smaller levels, which are made at the end."""

    def __init__(self, part: Path, layout: Volume) -> None:
        axes, pyramid = stored_axes(layout, FORM), _pyramid_of(layout)
        self.levels = _levels_in(part, arrange(layout.data, layout.axes, axes).shape, pyramid)
        super().__init__(part, layout, axes, self.levels[0].shape, self.levels[0].dtype.newbyteorder("="))
        lengths = dict(zip("YX", pyramid.tile, strict=True))
        self.chunks = tuple(lengths.get(letter, 1) for letter in layout.axes)
        self.pyramid = pyramid

    @staticmethod
    def begin(part: Path, layout: Volume) -> None:
        """Make a file of zeros."""
        pyramid = _pyramid_of(layout)
        if layout.dtype == bool:
            raise NotHeld(NO_BOOL)
        write_form(part, layout, FORM, compress=False, empty=True, pyramid=pyramid)
        reserve(part, part.stat().st_size)

    def store(self, index: Index, values: np.ndarray) -> None:
        box = _box_of(index)
        self.levels[0][box] = values.reshape([length_of(each) for each in box])

    def load(self, index: Index) -> np.ndarray:
        axes = tuple(number for number, each in enumerate(index) if not isinstance(each, slice))
        return self.levels[0][_box_of(index)].squeeze(axes)

    def flush(self) -> None:
        flush_folder(self.part)

    def complete(self) -> Stored:
        """Make the smaller levels, each of the one before."""
        for source, target, level in zip(self.levels[:-1], self.levels[1:], self.pyramid.levels, strict=True):
            fill_level(source, None, target, None, blocks(target.shape, self.pyramid.tile), self.axes, level.halved)
        self.flush()
        return stored_of(self.layout, FORM)


def _box_of(index: Index) -> Box:
    """The index with a slice in place of each number."""
    return tuple(each if isinstance(each, slice) else slice(each, each + 1, 1) for each in index)


PYRAMID_TILES = Tiling(PyramidTiles.begin, PyramidTiles)


def _levels_in(part: Path, shape: tuple[int, ...], pyramid: Pyramid) -> list[TiledPlanes]:
    """The image and its smaller levels in an unfinished file; an `InputError` if they are not those."""
    import tifffile

    shapes = [shape, *(level.shape for level in pyramid.levels)]
    with quiet_tifffile(), tifffile.TiffFile(part) as tif:
        found = []
        for wanted, level in zip(shapes, tif.series[0].levels, strict=False):
            if [n for n in level.shape if n > 1] != [n for n in wanted if n > 1]:  # tifffile leaves out length 1
                wanted = level.shape  # of another volume, which `TileWriter` says
            starts = np.array([page.dataoffsets[0] for page in level if page is not None], np.int64)
            stored = level.dtype.newbyteorder(tif.byteorder)
            found.append(TiledPlanes(part, wanted, stored, pyramid.tile, starts.reshape(wanted[:-2])))
    needed, there = max(level.end for level in found), part.stat().st_size
    if there < needed:  # NumPy would make the file longer: zeros in place of what was written
        raise InputError(f"its unfinished file {part.name} has {there} bytes, expected {needed}: it was cut off")
    if found[0].shape == shape and len(found) < len(shapes):
        raise InputError(f"its unfinished file {part.name} has {len(found)} levels, expected {len(shapes)}")
    return found
