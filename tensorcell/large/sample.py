"""The sample of a stack on which everything is found that must not differ from part to part.

It is a stack of its own: blocks from all over the stack, side by side. The borders between them are few beside the
voxels within, and no voxel of it is taken over into the result.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tensorcell.large.cut import Box, Sides
from tensorcell.large.inputs import digest_of
from tensorcell.large.survey import Source, Survey
from tensorcell.settled import Settled
from tensorcell.stack_recovery import Request, StackResult, recovered_alone
from tensorcell.volume import Stack

Array = npt.NDArray[Any]

WANTED = (1.0, 0.99, 0.95, 0.9, 0.75, 0.6, 0.4, 0.1)
"""Quantiles of the contrast of the blocks that are taken: structure is rare in many stacks, and without it nothing
would tell how it is to be filtered. Background is taken, too, since it tells the noise."""

LEAST = 300_000
"""Fewest voxels of a sample: of fewer the noise of a stack of real cells came out several times too large."""

LEAST_MEASURED = 0.5
"""A block is as good as any other if it has this share of the measured voxels that most have."""


class Told(NamedTuple):
    """What a sample told of its stack."""

    request: Request
    """For the parts of the stack."""
    rank: tuple[int, ...]
    noise: float
    digest: str
    """Of the values of the sample."""


class Layout(NamedTuple):
    """How many blocks of a sample lie along z, y and x, and how large they are."""

    blocks: Sides
    sides: Sides

    @property
    def shape(self) -> Sides:
        """Sides of the sample."""
        z, y, x = (number * side for number, side in zip(self.blocks, self.sides, strict=True))
        return z, y, x


def layout_of(shape: Sequence[int], most: float, *, whole_z: bool) -> Layout:
    """The layout of a sample of at most so many voxels, or of `LEAST` if that is more.

    It is the whole stack where that has no more, else eight blocks that are as long along each side as they can be.

    >>> layout_of((100, 1000, 1000), 8e6, whole_z=True)
    Layout(blocks=(1, 2, 4), sides=(100, 100, 100))
    >>> layout_of((900, 1000, 1000), 8e6, whole_z=False)
    Layout(blocks=(2, 2, 2), sides=(100, 100, 100))
    >>> layout_of((20, 1000, 1000), 8e6, whole_z=False)
    Layout(blocks=(1, 2, 4), sides=(20, 223, 223))
    >>> layout_of((12, 100, 100), 1e3, whole_z=False)
    Layout(blocks=(1, 1, 1), sides=(12, 100, 100))
    """
    planes, rows, columns = shape
    if planes * rows * columns <= max(most, LEAST):
        return Layout((1, 1, 1), (planes, rows, columns))
    room = max(most, LEAST) / len(WANTED)
    side = int(room ** (1 / 3) + 1e-9)
    if whole_z or side >= planes / 2:
        side = int(math.sqrt(room / planes) + 1e-9)
        return Layout((1, 2, 4), (planes, min(side, rows), min(side, columns)))
    return Layout((2, 2, 2), (side, min(side, rows), min(side, columns)))


def chosen_blocks(survey: Survey, layout: Layout) -> list[Box]:
    """Blocks of the survey by their contrast, in ascending order of it; those at the end are moved to be whole.

    No block is taken twice: noise that lies at two places of a sample looks like structure.
    """
    usual = float(np.median([block.measured for block in survey.blocks if block.measured]))
    told = [block for block in survey.blocks if block.measured and block.measured >= LEAST_MEASURED * usual]
    told.sort(key=lambda block: block.contrast)
    places = [round(share * (len(told) - 1)) for share in sorted(WANTED)]
    for n in reversed(range(len(places) - 1)):
        places[n] = min(places[n], places[n + 1] - 1)
    places = [place for place in places if place >= 0]
    return [whole(told[place].box, layout.sides) for place in places]


def whole(box: Box, sides: Sides) -> Box:
    """The box, or one of these sides that ends where it ends.

    >>> whole((slice(0, 8), slice(16, 20), slice(8, 16)), (8, 8, 8))
    (slice(0, 8, None), slice(12, 20, None), slice(8, 16, None))
    """
    z, y, x = (slice(part.stop - side, part.stop) for part, side in zip(box, sides, strict=True))
    return z, y, x


def sampled(stack: Source, boxes: Sequence[Box], layout: Layout) -> tuple[Array, Array | None]:
    """The sample: the blocks side by side, and where they were measured."""
    values: Array | None = None
    if len(boxes) < math.prod(layout.blocks):
        layout = layout._replace(blocks=(1, 1, len(boxes)))
    measured = np.ones(layout.shape, bool)
    for number, box in zip(itertools.product(*map(range, layout.blocks)), boxes, strict=True):
        place = tuple(slice(n * side, (n + 1) * side) for n, side in zip(number, layout.sides, strict=True))
        data, mask = stack.read(box)
        if values is None:
            values = np.empty(layout.shape, data.dtype)
        values[place] = data
        if mask is not None:
            measured[place] = mask
    assert values is not None
    return values, None if measured.all() else measured


def told_by(stack: Source, boxes: Sequence[Box], layout: Layout, label: str, request: Request, complete: bool) -> Told:
    """Read the sample of a stack, and settle the request for its parts; see `settled_by`."""
    data, mask = sampled(stack, boxes, layout)
    digest = digest_of(data, mask)
    request, found = settled_by(Stack((), label, data, mask), request, complete=complete)
    return Told(request, found.rank, found.noise, digest)


def settled_by(sample: Stack, request: Request, *, complete: bool) -> tuple[Request, StackResult]:
    """The request for the parts of a stack, and the result of its sample.

    ``complete`` is whether every voxel of the stack was measured.

    Raises
    ------
    InputError
        If the sample cannot be recovered.
    """
    settled = Settled(keeps=True)
    settled.once("complete", lambda: complete)
    found = recovered_alone(sample, replace(request, settled=settled), complete=complete)
    settled.once("noise in the unit given", lambda: found.noise)
    settled.once("contrast", lambda: float(np.nanstd(found.volume, dtype=np.float64)))
    return replace(request, settled=settled.for_parts()), found
