"""A measured volume of which only parts are read: `LazyVolume`, for what the memory cannot hold."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, Protocol

import numpy as np

from tensorcell.errors import InputError
from tensorcell.volume import Index, Volume, stack_places, zyx_view
from tensorcell.volume_checks import check_axes, check_kind, check_mask_kind, check_spacing, described

Box = tuple[slice, slice, slice]
"""A box of a stack along Z, Y and X."""


class ArrayLike(Protocol):
    """What parts are read from: a NumPy array, a memory map, or an array of zarr, dask or h5py."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> Any: ...

    def __getitem__(self, where: Any, /) -> Any: ...


@dataclass(frozen=True, eq=False, repr=False)
class LazyVolume:
    """A microscopy volume whose intensities are read when a part of them is asked for.

    Parameters
    ----------
    data : array-like
        Intensities, with the axes in any order: anything with ``shape``, ``dtype`` and an index of integers and slices
        (of steps of at least 1) that gives a NumPy array, or what `numpy.asarray` makes one of.
    axes, spacing, metadata
        As in `Volume`.
    mask : array-like of bool or None
        Shape of ``data``, True = measured; None if everything was measured.

    Raises
    ------
    InputError
        As `Volume`; if the length of an axis is not known.

    Examples
    --------
    >>> volume = LazyVolume(np.zeros((5, 64, 64), np.uint16), spacing=(0.5, 0.1, 0.1))
    >>> volume
    LazyVolume(5 x 64 x 64 ZYX, uint16, 0.5 x 0.1 x 0.1 um)
    >>> volume.part((slice(1, 3), slice(0, 16), slice(None)))
    Volume(2 x 16 x 64 ZYX, uint16, 0.5 x 0.1 x 0.1 um)
    """

    data: ArrayLike
    axes: str = "ZYX"
    spacing: tuple[float, float, float] | None = None
    mask: ArrayLike | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, given in (("data", self.data), ("mask", self.mask)):
            if given is not None and not all(hasattr(given, part) for part in ("shape", "dtype", "__getitem__")):
                raise InputError(
                    f"{name} must be an array-like with shape, dtype and [...], got {type(given).__name__}"
                )
            if given is not None and not all(isinstance(size, Integral) for size in given.shape):
                raise InputError(
                    f"{name} must have a known length along each axis, got {tuple(given.shape)}; a dask array "
                    "finds it by compute_chunk_sizes()"
                )
        check_kind(self.shape, self.dtype)
        check_axes(self.axes, self.shape)
        object.__setattr__(self, "spacing", check_spacing(self.spacing, self.axes))
        if self.mask is not None:
            check_mask_kind(tuple(self.mask.shape), np.dtype(self.mask.dtype), self.shape)
        if not isinstance(self.metadata, Mapping):
            raise InputError(f"metadata must be a mapping, got {type(self.metadata).__name__}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of ``data``, in the order of ``axes``."""
        return tuple(self.data.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of ``data``."""
        dtype: np.dtype[Any] = np.dtype(self.data.dtype)
        return dtype

    @property
    def planes(self) -> int:
        """Number of planes of each stack; 1 where there is no axis Z."""
        return self.shape[self.axes.index("Z")] if "Z" in self.axes else 1

    def part(self, where: Sequence[int | slice]) -> Volume:
        """Read a box, and the mask there if there is one.

        Parameters
        ----------
        where : sequence of int or slice
            One entry for each axis, in the order of ``axes``, as in NumPy; steps are at least 1. An integer leaves the
            axis out.

        Returns
        -------
        Volume
            With the metadata of the whole. Its voxel size is multiplied by the steps.

        Raises
        ------
        InputError
            If an entry lies outside or nothing of an axis is asked for, or if a file cannot be read any more.
        """
        index = resolved(where, self.shape)
        pairs = [(letter, each) for letter, each in zip(self.axes, index, strict=True) if isinstance(each, slice)]
        axes = "".join(letter for letter, _ in pairs)
        strides = {letter: each.step for letter, each in pairs}
        spacing = self.spacing
        if spacing is not None:
            dz, dy, dx = (step * strides.get(letter, 1) for letter, step in zip("ZYX", spacing, strict=True))
            spacing = (dz, dy, dx)
        mask = None if self.mask is None else np.asanyarray(self.mask[index])
        return Volume(np.asanyarray(self.data[index]), axes, spacing, mask, self.metadata)

    def __repr__(self) -> str:
        return f"LazyVolume({described(self.shape, self.axes, self.dtype, self.spacing, masked=self.mask is not None)})"


@dataclass(frozen=True)
class LazyStack:
    """One 3-D stack of a `LazyVolume`: a channel of a time frame."""

    volume: LazyVolume
    where: Index
    """Its index in the volume, in the order of the axes: integers, and whole slices at Z, Y and X."""
    label: str
    """For messages, such as ``"T=0, C=1"``; empty where the volume has no outer axes."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Lengths along Z, Y and X; 1 along Z where there is no such axis."""
        rows, columns = (self.volume.shape[self.volume.axes.index(letter)] for letter in "YX")
        return self.volume.planes, rows, columns

    def read(self, box: Box) -> tuple[np.ndarray, np.ndarray | None]:
        """Intensities of a box, of shape (Z, Y, X), and where they were measured; None if everything was."""
        inner = dict(zip("ZYX", resolved(box, self.shape), strict=True))
        index = [inner.get(letter, own) for letter, own in zip(self.volume.axes, self.where, strict=True)]
        part = self.volume.part(index)
        whole = (slice(None),) * len(part.axes)
        mask = None if part.mask is None else zyx_view(part.mask, part.axes, whole)
        return zyx_view(part.data, part.axes, whole), mask


def lazy_stacks(volume: LazyVolume) -> Iterator[LazyStack]:
    """Split a volume into its 3-D stacks as `stacks` does, of which boxes can be read.

    Examples
    --------
    >>> volume = LazyVolume(np.arange(24.0).reshape(2, 3, 2, 2), axes="ZCYX")
    >>> for stack in lazy_stacks(volume):
    ...     print(stack.label, stack.shape, stack.read((slice(0, 1), slice(0, 2), slice(1, 2)))[0].ravel())
    C=0 (2, 2, 2) [1. 3.]
    C=1 (2, 2, 2) [5. 7.]
    C=2 (2, 2, 2) [ 9. 11.]
    """
    for where, label in stack_places(volume.axes, volume.shape):
        yield LazyStack(volume, where, label)


def resolved(where: Sequence[int | slice], shape: tuple[int, ...]) -> Index:
    """An index with integers from 0 and slices that have a start, a stop and a step.

    >>> resolved((-1, slice(None), slice(-3, 99, 2)), (4, 5, 6))
    (3, slice(0, 5, 1), slice(3, 6, 2))

    Raises
    ------
    InputError
        If it does not have an entry for each axis, or if one lies outside, is empty or goes backwards.
    """
    if len(where) != len(shape):
        raise InputError(f"the index has {len(where)} entries, expected one for each axis of the shape {shape}")
    found: list[int | slice] = []
    for entry, size in zip(where, shape, strict=True):
        if isinstance(entry, slice):
            start, stop, step = entry.indices(size)
            if step < 1 or start >= stop:
                raise InputError(f"the index {entry} takes nothing of {size} or goes backwards, expected a part of it")
            found.append(slice(start, stop, step))
            continue
        number = operator.index(entry)
        if not -size <= number < size:
            raise InputError(f"the index {number} lies outside, expected one below {size}")
        found.append(number % size)
    return tuple(found)
