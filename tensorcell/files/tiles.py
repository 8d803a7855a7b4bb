"""A file that is written tile by tile, under a name of its own, and finished at the end."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tensorcell.errors import InputError
from tensorcell.files.formats import Stored
from tensorcell.files.layout import native
from tensorcell.lazy_volume import resolved
from tensorcell.volume import Index, Volume


class TileWriter(ABC):
    """Writes the tiles of a volume, in any order.

    Parameters
    ----------
    part : pathlib.Path
        The file or folder that is written.
    layout : Volume
        Axes, shape, data type, voxel size and metadata; its values are not looked at.
    axes : str
        Those of the volume in the order in which the file stores them.
    shape, dtype
        What the file holds, with its axes in that order. They differ from those of the layout if the file was begun
        for another volume, which is an `InputError`.
    """

    chunks: tuple[int, ...]
    """Along each axis of the volume: where tiles begin at a multiple of this, no two of them write to one chunk."""

    def __init__(self, part: Path, layout: Volume, axes: str, shape: tuple[int, ...], dtype: Any) -> None:
        self.part, self.layout, self.axes = part, layout, axes
        self.chunks = (1,) * len(layout.axes)
        sizes = dict(zip(layout.axes, layout.shape, strict=True))
        wanted = tuple(sizes[letter] for letter in axes)
        if (tuple(shape), np.dtype(dtype)) != (wanted, layout.dtype.newbyteorder("=")):
            raise InputError(f"was begun with {shape} ({axes}) of {dtype}, expected {wanted} of {layout.dtype}")

    def write(self, where: Sequence[int | slice], values: np.ndarray) -> None:
        """Write a tile.

        Parameters
        ----------
        where : sequence of int or slice
            An entry for each axis, in the order of the volume's.
        values : numpy.ndarray
            Of the volume's data type, and of the shape that the index takes. Writing them twice changes nothing.

        Raises
        ------
        InputError
            If the index or the values do not fit.
        """
        index = dict(zip(self.layout.axes, resolved(where, self.layout.shape), strict=True))
        taken = {letter: each for letter, each in index.items() if isinstance(each, slice)}
        shape = tuple(len(range(each.start, each.stop, each.step)) for each in taken.values())
        if values.shape != shape or values.dtype != self.layout.dtype:
            raise InputError(
                f"a tile has shape {values.shape} of {values.dtype}, expected {shape} of {self.layout.dtype}"
            )
        order = [letter for letter in self.axes if letter in taken]
        now = list(taken)
        self.store(
            tuple(index[letter] for letter in self.axes), values.transpose([now.index(letter) for letter in order])
        )

    def read(self, where: Sequence[int | slice]) -> np.ndarray:
        """What was written of a tile."""
        index = dict(zip(self.layout.axes, resolved(where, self.layout.shape), strict=True))
        kept = [letter for letter in self.axes if isinstance(index[letter], slice)]
        order = [letter for letter in self.layout.axes if letter in kept]
        found = self.load(tuple(index[letter] for letter in self.axes))
        return found.transpose([kept.index(letter) for letter in order])

    @abstractmethod
    def store(self, index: Index, values: np.ndarray) -> None:
        """Write values, whose axes have the file's order."""

    @abstractmethod
    def load(self, index: Index) -> np.ndarray:
        """Read values that were written, with the axes in the file's order."""

    @abstractmethod
    def flush(self) -> None:
        """Have what was written reach the disk."""

    @abstractmethod
    def complete(self) -> Stored:
        """Finish the file, which then has to be renamed; what it does not hold is said."""

    def close(self) -> None:
        """End without finishing; the tiles that were written stay."""
        self.flush()

    def __enter__(self) -> TileWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Plot(NamedTuple):
    """Where in a file the values of an array lie, one after the other."""

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    """As stored."""


class MappedTiles(TileWriter):
    """Tiles of a file in which the values lie one after the other, as they are.

    The file is mapped into memory for each tile, so that what was written does not count as memory of the process. Its
    place on the disk must have been claimed: a disk that fills up under a map ends the process.
    """

    def __init__(
        self, part: Path, layout: Volume, axes: str, plot: Plot, finish: Callable[[Path, Volume], Stored]
    ) -> None:
        super().__init__(part, layout, axes, plot.shape, plot.dtype.newbyteorder("="))
        needed, there = plot.offset + math.prod(plot.shape) * plot.dtype.itemsize, part.stat().st_size
        if there < needed:  # NumPy would make the file longer: zeros in place of what was written
            raise InputError(f"its unfinished file {part.name} has {there} bytes, expected {needed}: it was cut off")
        self.plot, self.finish = plot, finish

    def store(self, index: Index, values: np.ndarray) -> None:
        np.memmap(self.part, self.plot.dtype, "r+", self.plot.offset, self.plot.shape)[index] = values

    def load(self, index: Index) -> np.ndarray:
        return native(np.array(np.memmap(self.part, self.plot.dtype, "r", self.plot.offset, self.plot.shape)[index]))

    def flush(self) -> None:
        with self.part.open("rb+") as file:
            os.fsync(file.fileno())

    def complete(self) -> Stored:
        stored = self.finish(self.part, self.layout)
        self.flush()
        return stored


class Tiling(NamedTuple):
    """How a format is written tile by tile."""

    begin: Callable[[Path, Volume], None]
    """Makes a file of zeros or of nothing, with what is known beside the values."""
    resume: Callable[[Path, Volume], TileWriter]
    """Opens such a file."""
