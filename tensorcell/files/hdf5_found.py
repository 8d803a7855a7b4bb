"""A volume in an open HDF5 file: all that is known about it before its values are read."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tensorcell.files.claimed_sizes import check_claim
from tensorcell.files.hdf5_sources import check_whole
from tensorcell.files.layout import native
from tensorcell.files.units import Spacing
from tensorcell.volume import Volume, guess_axes

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
    dtype: str | None = None
    """The data type that the stored bits mean, where it is not the stored one."""
    mask: h5py.Dataset | None = None

    @property
    def inner(self) -> tuple[int, ...]:
        """Lengths of the axes of a part."""
        return tuple(self.parts[0].shape if self.size is None else self.size)

    def check(self) -> None:
        """Raise `InputError` if the volume does not fit into memory, or if parts of it are missing."""
        check_claim((*self.outer, *self.inner), self.parts[0].dtype)
        for part in self.parts:
            check_whole(part, self.inner)
        if self.mask is not None:
            check_claim(self.mask.shape, self.mask.dtype)
            check_whole(self.mask)


def read_found(found: Found) -> Volume:
    """Read the values."""
    if found.outer:
        data = np.empty((math.prod(found.outer), *found.inner), found.parts[0].dtype)
        for part, place in zip(found.parts, data, strict=True):
            part.read_direct(place, _cut(found))
        data = data.reshape(*found.outer, *found.inner)
    else:
        data = found.parts[0][_cut(found)]
    data = native(data)
    if found.dtype is not None:
        data = data.view(found.dtype)
    mask = None if found.mask is None else found.mask[()].astype(bool)
    return Volume(data, found.axes or guess_axes(data), found.spacing, mask, found.metadata)


def _cut(found: Found) -> tuple[slice, ...]:
    return tuple(slice(length) for length in found.inner)
