"""One pass over a stack before hours of work: where its structure is, and what would stop a recovery."""

from __future__ import annotations

import math
from collections.abc import Iterable
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
    lowest: float
    highest: float
    infinite: int
    """Measured voxels that are infinite; lowest, highest and contrast are not found then."""


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
        Of a block; those at the end of the stack are smaller.

    Raises
    ------
    InputError
        If nothing was measured, or a measured voxel is infinite.
    """
    return survey_of(stack.shape, (block_of(stack, box) for box in boxes(stack.shape, sides)))


def block_of(stack: Source, box: Box) -> Block:
    """Read a block."""
    data, mask = stack.read(box)
    seen = data[known(data, mask)]
    infinite = int(np.count_nonzero(np.isinf(seen))) if seen.dtype.kind == "f" else 0
    if not seen.size or infinite:
        return Block(box, seen.size, 0.0, math.inf, -math.inf, infinite)
    return Block(box, seen.size, float(np.std(seen, dtype=np.float64)), float(seen.min()), float(seen.max()), 0)


def survey_of(shape: Sides, blocks: Iterable[Block]) -> Survey:
    """The survey of a stack from its blocks, in any order; see `surveyed`."""
    found = sorted(blocks, key=lambda block: [side.start for side in block.box])
    infinite, measured = sum(block.infinite for block in found), sum(block.measured for block in found)
    if infinite:
        raise InputError(f"expected finite values at measured voxels, got {infinite} infinite")
    voxels = math.prod(shape)
    if not measured:
        raise InputError(
            f"expected at least one measured voxel, got none of {voxels} (NaN or False in the mask everywhere)"
        )
    lowest, highest = min(block.lowest for block in found), max(block.highest for block in found)
    return Survey(tuple(found), measured, voxels, lowest, highest)


def known(data: Array, mask: Array | None) -> Any:
    """What selects the measured voxels."""
    seen = ~np.isnan(data) if data.dtype.kind == "f" else None
    if mask is None:
        return ... if seen is None else seen
    return mask if seen is None else mask & seen
