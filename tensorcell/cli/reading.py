"""What a command reads: the whole of a volume, or the part that ``--crop`` or ``--preview`` asks for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from tensorcell.cli.parsing import spacing_of
from tensorcell.cropping import box_of, cropped, preview_box, preview_sentence
from tensorcell.errors import InputError
from tensorcell.files import open_volume, read, read_mask
from tensorcell.lazy_volume import LazyVolume
from tensorcell.volume import Volume

Box = tuple[slice, ...]


class Wanted(NamedTuple):
    """What of a volume is to be read."""

    crop: str | None = None
    preview: bool = False
    voxels: Callable[[LazyVolume], float] = lambda _: 65536.0
    """How many voxels a preview has."""

    @property
    def all(self) -> bool:
        """Whether it is the whole."""
        return self.crop is None and not self.preview

    def box(self, volume: LazyVolume, *, quiet: bool) -> Box | None:
        """The box that is to be read, which is said of a preview; None for the whole.

        Raises
        ------
        InputError
            If both are asked for, or the volume has no such part.
        """
        if self.crop is not None and self.preview:
            raise InputError("expected --crop or --preview, got both")
        if self.all:
            return None
        box = preview_box(volume, self.voxels(volume)) if self.crop is None else box_of(self.crop, volume)
        if self.preview and not quiet:
            print(preview_sentence(volume, box), file=sys.stderr)
        return box


def read_wanted(
    source: str | Sequence[str], mask: str | None, spacing: str | None, wanted: Wanted, *, quiet: bool,
    **reading: Any,
) -> tuple[Volume, np.ndarray | None]:  # fmt: skip
    """A volume or a part of it, and its mask if there is one.

    Parameters
    ----------
    source : str or sequence of str
    mask, spacing : str, optional
        As the commands have them.
    wanted : Wanted
    quiet : bool
        Whether nothing is said of a preview.
    reading
        What `read` takes beside.
    """
    if wanted.all:
        volume = read(source, **reading)
        if spacing is not None:
            volume = replace(volume, spacing=spacing_of(spacing, volume.axes))
        return volume, read_mask(mask, like=volume) if mask is not None else None
    lazy = open_volume(source, **reading)
    if spacing is not None:
        lazy = replace(lazy, spacing=spacing_of(spacing, lazy.axes))
    box = wanted.box(lazy, quiet=quiet)
    return read_box(lazy, mask, box)


def read_box(lazy: LazyVolume, mask: str | None, box: Box | None) -> tuple[Volume, np.ndarray | None]:
    """A part of a volume that was opened, and of its mask; None: the whole."""
    part = lazy if box is None else cropped(lazy, box)
    volume = part.part((slice(None),) * len(part.axes))
    measured = read_mask(mask, like=lazy) if mask is not None else None
    return volume, measured if measured is None or box is None else measured[box].copy()
