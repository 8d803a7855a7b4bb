"""The stacks of a volume of which parts are read, with all that says where they were measured."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorcell.errors import InputError
from tensorcell.files import open_volume
from tensorcell.files.formats import FilePath
from tensorcell.files.messages import naming
from tensorcell.large.cut import Box
from tensorcell.lazy_volume import LazyStack, LazyVolume, lazy_stacks
from tensorcell.missing_value import without_value
from tensorcell.volume import Index, Volume

Array = npt.NDArray[Any]

TRIED = 8
"""Voxels along y and x that are read of a stack to tell it from another one."""


@dataclass(frozen=True)
class MeasuredStack:
    """One stack, and where it was measured.

    Attributes
    ----------
    stack : LazyStack
    mask : LazyVolume or None
        Nonzero = measured; its axes are some of the volume's.
    missing_value : number or None
        Voxels with this value were not measured.
    """

    stack: LazyStack
    mask: LazyVolume | None = None
    missing_value: float | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Sides along z, y and x."""
        return self.stack.shape

    @property
    def label(self) -> str:
        """For messages."""
        return self.stack.label

    def read(self, box: Box) -> tuple[Array, Array | None]:
        """Intensities of a box ``(Z, Y, X)``, and where they were measured; None: everywhere, but for NaN."""
        data, known = self.stack.read(box)
        if self.mask is not None:
            seen = np.broadcast_to(self._mask_of(box), data.shape)
            known = seen if known is None else known & seen
        volume, _ = without_value(Volume(data, mask=known), self.missing_value)
        return volume.data, volume.mask

    def _mask_of(self, box: Box) -> Array:
        """The mask of a box; its axes are z, y and x, or the last of these."""
        assert self.mask is not None
        own = dict(zip(self.stack.volume.axes, self.stack.where, strict=True)) | dict(zip("ZYX", box, strict=True))
        part = self.mask.part([own[letter] for letter in self.mask.axes])
        inner = [letter for letter in part.axes if letter in "ZYX"]
        found = part.data != 0 if part.mask is None else part.mask
        if part.data.dtype.kind == "f" and np.isnan(part.data).any():
            raise InputError("the mask holds NaN, expected zero (not measured) or nonzero (measured)")
        return np.asarray(found.transpose([inner.index(letter) for letter in "ZYX" if letter in inner]))

    def place(self, box: Box) -> Index:
        """Where a box of the stack lies in the volume."""
        sides = dict(zip("ZYX", box, strict=True))
        axes = self.stack.volume.axes
        return tuple(sides.get(letter, own) for letter, own in zip(axes, self.stack.where, strict=True))

    def in_volume(self, box: Box, values: Array) -> tuple[Index, Array]:
        """Where a box of the stack lies in the volume, and its values ``(Z, Y, X)`` with the axes in that order."""
        axes, where = self.stack.volume.axes, self.place(box)
        order = [letter for letter in axes if letter in "ZYX"]
        if "Z" not in axes:
            return where, values[0].transpose(["YX".index(letter) for letter in order])
        return where, values.transpose(["ZYX".index(letter) for letter in order])


def tried_of(stack: MeasuredStack) -> tuple[Array, Array | None]:
    """A few voxels in the middle of a stack, and which of them were measured: to tell it from another one."""
    z, y, x = (size // 2 for size in stack.shape)
    return stack.read((slice(z, z + 1), slice(y, y + TRIED), slice(x, x + TRIED)))


def measured_stacks(volume: LazyVolume, mask: FilePath | LazyVolume | None, missing_value: Any) -> list[MeasuredStack]:
    """All stacks of a volume; the mask must fit it, as for `tensorcell.read_mask`."""
    found = None if mask is None else opened_mask(mask, volume)
    return [MeasuredStack(stack, found, missing_value) for stack in lazy_stacks(volume)]


def opened_mask(mask: FilePath | LazyVolume, volume: LazyVolume) -> LazyVolume:
    """A mask that fits a volume: its axes are some of the volume's, and not zero means measured.

    Raises
    ------
    InputError
        If it does not fit.
    """
    found = mask if isinstance(mask, LazyVolume) else open_volume(mask)
    sizes = dict(zip(volume.axes, volume.shape, strict=True))
    with contextlib.nullcontext() if isinstance(mask, LazyVolume) else naming(mask):
        if not set(found.axes) <= set(volume.axes):
            raise InputError(f"mask has axes {found.axes}, data has axes {volume.axes}")
        wanted = tuple(sizes[letter] for letter in found.axes)
        if found.shape != wanted:
            raise InputError(f"mask has shape {found.shape} ({found.axes}), data has {wanted}")
    return found if found.mask is None else replace(found, data=found.mask, mask=None)
