"""One pass over a stack before hours of work: where its structure is, and what would stop a recovery."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from tensorcell.errors import InputError
from tensorcell.large.cut import Box, Sides, boxes

Array = npt.NDArray[Any]


class Source(Protocol):
    """A stack of which boxes can be read."""

    @property
    def shape(self) -> Sides:
        """Sides along z, y and x."""

    def read(self, box: Box) -> tuple[Array, Array | None]:
        """Intensities of a box ``(Z, Y, X)``, and where they were measured (None: everywhere)."""


class Block(NamedTuple):
    """What one block holds."""

    box: Box
    measured: int
    """Voxels that were measured."""
    contrast: float
    """Standard deviation of the measured voxels, noise included."""


class Survey(NamedTuple):
    """What a stack holds."""

    blocks: tuple[Block, ...]
    measured: int
    voxels: int
    lowest: float
    highest: float

    @property
    def complete(self) -> bool:
        """Whether every voxel was measured."""
        return self.measured == self.voxels


def surveyed(stack: Source, sides: Sides) -> Survey:
    """Read a stack once, block by block.

    Parameters
    ----------
    stack : Source
    sides : three ints
        Of a block; what is left at the end of the stack belongs to blocks that begin earlier, so that all are as large.

    Raises
    ------
    InputError
        If nothing was measured, or a measured voxel is infinite.
    """
    blocks: list[Block] = []
    measured, lowest, highest, infinite = 0, math.inf, -math.inf, 0
    for box in boxes(stack.shape, sides):
        data, mask = stack.read(box)
        seen = data[known(data, mask)]
        unbounded = int(np.count_nonzero(np.isinf(seen))) if seen.dtype.kind == "f" else 0
        infinite += unbounded
        measured += seen.size
        if not seen.size or unbounded:
            blocks.append(Block(box, seen.size, 0.0))
            continue
        lowest, highest = min(lowest, float(seen.min())), max(highest, float(seen.max()))
        blocks.append(Block(box, seen.size, float(np.std(seen, dtype=np.float64))))
    if infinite:
        raise InputError(f"expected finite values at measured voxels, got {infinite} infinite")
    voxels = math.prod(stack.shape)
    if not measured:
        raise InputError(
            f"expected at least one measured voxel, got none of {voxels} (NaN or False in the mask everywhere)"
        )
    return Survey(tuple(blocks), measured, voxels, lowest, highest)


def known(data: Array, mask: Array | None) -> Any:
    """What selects the measured voxels."""
    seen = ~np.isnan(data) if data.dtype.kind == "f" else None
    if mask is None:
        return ... if seen is None else seen
    return mask if seen is None else mask & seen
