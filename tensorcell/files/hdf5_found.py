"""A volume in an open HDF5 file: all that is known about it before its values are read."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tensorcell.errors import InputError
from tensorcell.files.claimed_sizes import check_claim
from tensorcell.files.hdf5_sources import check_whole, files_of_values, find
from tensorcell.files.lazy_values import Box, Converted, Opened, Values, length_of, nonzero
from tensorcell.files.units import Spacing

if TYPE_CHECKING:
    import h5py


class Found(NamedTuple):
    """The datasets that make a volume, and what the file says about it."""

    parts: list[h5py.Dataset]
    """The datasets, the last outer axis fastest."""
    axes: str | None
    """Names of all axes; None if the file does not say them."""
    spacing: Spacing | None
    metadata: dict[str, Any]
    outer: tuple[int, ...] = ()
    """Lengths of the axes along which the datasets are put together."""
    size: tuple[int, ...] | None = None
    """The part of each dataset that is read, from the first voxel along each axis; the rest is padding."""
    unsigned: bool = False
    """Whether integers of 16 bits that are stored as signed ones are unsigned."""
    mask: h5py.Dataset | None = None

    @property
    def inner(self) -> tuple[int, ...]:
        """Lengths of the axes of a part."""
        return tuple(self.parts[0].shape if self.size is None else self.size)

    def check(self) -> None:
        """Raise `InputError` if a chunk does not fit into memory, or if parts of the volume are missing."""
        for part in self.parts:
            check_claim(part.chunks or (), part.dtype)
            check_whole(part, self.inner)
        if self.mask is not None:
            check_claim(self.mask.chunks or (), self.mask.dtype)
            check_whole(self.mask)

    def opened(self) -> Opened:
        """What is known before the values are read, which does not need the file to stay open."""
        data: Values = HDF5Values(self.parts, self.outer, self.inner)
        if self.unsigned:
            data = Converted(data, np.uint16, as_uint16)
        mask = None if self.mask is None else nonzero(HDF5Values([self.mask], (), self.mask.shape))
        return Opened(data, self.axes, self.spacing, self.metadata, mask)


class HDF5Values(Values):
    """The values of datasets of one shape, put together along outer axes.

    Parameters
    ----------
    parts : sequence of h5py.Dataset
        The datasets, the last outer axis fastest.
    outer : tuple of int
        Lengths of the outer axes; empty if there is one dataset.
    inner : tuple of int
        The part of each dataset that is read, from the first value along each axis.
    """

    def __init__(self, parts: Sequence[h5py.Dataset], outer: tuple[int, ...], inner: tuple[int, ...]) -> None:
        super().__init__((*outer, *inner), parts[0].dtype)
        self.outer = outer
        self.files = list(dict.fromkeys(file for part in parts for file in files_of_values(part)))
        self.places = [(Path(part.file.filename).resolve(), part.name) for part in parts]

    def read(self, box: Box) -> np.ndarray:
        outer, inner = box[: len(self.outer)], box[len(self.outer) :]
        data = np.empty([length_of(taken) for taken in box], self.dtype)
        numbers = np.arange(len(self.places)).reshape(self.outer)[outer]
        with ExitStack() as stack:
            files: dict[Path, h5py.File] = {}
            for place in np.ndindex(numbers.shape):
                path, name = self.places[numbers[place]]
                if path not in files:
                    files[path] = stack.enter_context(_opened(path))
                part = find(files[path], name)
                if part is None:
                    raise InputError(f"has no {name!r} any more")
                part.read_direct(data[place], inner)
        return data


def _opened(path: Path) -> h5py.File:
    import h5py

    return h5py.File(path, "r")


def as_uint16(array: np.ndarray) -> np.ndarray:
    """The unsigned numbers that signed ones of 16 bits stand for."""
    return array.view(np.uint16)
