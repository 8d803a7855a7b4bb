"""A stack in files as a report shows it: means of blocks of pixels, read a few planes at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from tensorcell.large.cut import Box, Sides
from tensorcell.large.measured import MeasuredStack
from tensorcell.large.survey import Source
from tensorcell.pages.tiles import block_means
from tensorcell.pages.viewer import View, channel_of
from tensorcell.plane_grid import PlaneGrid
from tensorcell.volume import Stack

MOST_READ = 2**23
"""Voxels that are read at once: 32 MB of single-precision numbers."""


def coarse_view(given: MeasuredStack, outputs: Mapping[str, Source], grid: PlaneGrid, side: int) -> View:
    """A stack of a recovery in parts on a coarser lateral grid.

    Parameters
    ----------
    given : MeasuredStack
    outputs : dict of str to Source
        ``result``, and ``uncertainty``, ``invented`` and ``outliers`` if they were written.
    grid : PlaneGrid
    side : int
        Pixels of the result a side of a block: 1, or a multiple of the pixels of the result a side of one given.

    Notes
    -----
    Memory: `MOST_READ` voxels, and all planes of each volume on the coarser grid, in single precision.
    """
    shape = outputs["result"].shape
    factor = shape[1] // given.shape[1]
    own = 1 if side == 1 else side // factor
    values = means_of(given, own)
    measured = np.isfinite(values)
    further = {name: means_of(outputs[name], side) for name in ("result", "uncertainty", "invented") if name in outputs}
    replaced = np.zeros(values.shape, bool)
    if "outliers" in outputs:
        replaced = means_of(outputs["outliers"], own, np.abs) > 0
    result = further["result"]
    known = grid.spread(measured) if factor == 1 else np.zeros(result.shape, bool)
    return View(
        Stack((), given.label, values, None), measured, replaced if replaced.any() else None, result,
        further.get("uncertainty"), known, None, grid, share=further.get("invented"), block=side, whole=shape,
        channel=channel_of(given.stack.volume, given.stack.where),
    )  # fmt: skip


def means_of(
    source: Source, side: int, change: Callable[[np.ndarray], np.ndarray] = lambda values: values
) -> np.ndarray:
    """Means of the measured voxels of blocks of ``side`` x ``side`` pixels, as float32; NaN where none is.

    ``change`` is applied to the values that are read.
    """
    planes, rows, columns = source.shape
    found = np.empty((planes, -(-rows // side), -(-columns // side)), np.float32)
    for box in slabs(source.shape, side, MOST_READ):
        values, known = source.read(box)
        top = box[1].start // side
        for number, plane in enumerate(values):
            means = block_means(change(plane), side, None if known is None else known[number])
            found[box[0].start + number, top : top + len(means)] = means
    return found


def slabs(shape: Sides, side: int, most: int) -> Iterator[Box]:
    """Boxes of at most so many voxels, if they can be: several planes, or rows of one in whole blocks.

    >>> [(z.start, z.stop, y.start, y.stop) for z, y, _ in slabs((3, 6, 10), 2, 120)]
    [(0, 2, 0, 6), (2, 3, 0, 6)]
    >>> [(z.start, z.stop, y.start, y.stop) for z, y, _ in slabs((1, 6, 10), 2, 50)]
    [(0, 1, 0, 4), (0, 1, 4, 6)]
    """
    planes, rows, columns = shape
    depth = max(1, most // (rows * columns))
    height = rows if depth > 1 else max(side, most // columns // side * side)
    for z in range(0, planes, depth):
        for y in range(0, rows, height):
            yield slice(z, min(z + depth, planes)), slice(y, min(y + height, rows)), slice(0, columns)
