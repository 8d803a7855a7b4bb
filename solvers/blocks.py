"""A stack that is read block by block: what a method needs of all its voxels, as sums over blocks.

A sweep over the whole (:mod:`tensorcell.solvers.sweeps`) is a sum over voxels, so that it is the sum of the sweeps over
the blocks of a partition, each with the rows of the factors that belong to the block: the core's sum adds up, and a
block's ``M_n`` are the summands of the rows of its range. What a block leaves is of the size of the model, never of the
data, and adding it up is associative, so that it can be done in a tree.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial, reduce
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .arrays import Array, as_float, contiguous, count
from .passes import observed_squares
from .rules import Rule
from .subspaces import IndexSet, ResidualGrid, take_grid
from .sweeps import Sweep, sweep
from .threads import one_blas_thread

Block = tuple[slice, ...]
"""A box of the stack: one range of indices a mode, with whole numbers as start and stop and no step."""

Read = Callable[[Block], tuple[Array, Array | None]]
"""``read(block)`` gives the block's data and mask (True = observed; None: every entry)."""

MapBlocks = Callable[[Callable[[Block], Any], Sequence[Block]], Iterable[Any]]
"""``map_blocks(function, blocks)`` runs a function on every block, as the built-in ``map`` does one after the other."""


@dataclass(frozen=True, eq=False)
class BlockSums:
    """What a sweep leaves of a block, or, added with ``+``, of several.

    Attributes
    ----------
    corner : tuple of int
        Index of the first row of ``sums.factors``, one number a mode.
    sums : Sweep
        Core, rows of ``M_n`` from the corner on, and the sums of the sweep.
    """

    corner: tuple[int, ...]
    sums: Sweep

    def __add__(self, other: BlockSums) -> BlockSums:
        one, two = self.sums, other.sums
        factors = added_rows(self.corner, one.factors, other.corner, two.factors)
        added = Sweep(one.core + two.core, factors, one.sums + two.sums)
        return BlockSums(tuple(map(min, self.corner, other.corner)), added)


def added_rows(
    corner: Sequence[int], rows: Sequence[Array], other_corner: Sequence[int], other_rows: Sequence[Array]
) -> tuple[Array, ...]:
    """For each mode the sum of two ranges of rows, on the smallest range that holds both; zero between them."""
    added = []
    for first, own, other_first, other in zip(corner, rows, other_corner, other_rows, strict=True):
        start = min(first, other_first)
        total = np.zeros((max(first + len(own), other_first + len(other)) - start, *own.shape[1:]), dtype=own.dtype)
        total[first - start : first - start + len(own)] = own
        total[other_first - start : other_first - start + len(other)] += other
        added.append(total)
    return tuple(added)


@one_blas_thread()
def block_sums(
    data: Array,
    mask: Array | None,
    core: Array,
    rows: Sequence[Array],
    threshold: float,
    *,
    corner: Sequence[int] | None = None,
) -> BlockSums:
    """A Huber sweep over one block.

    Parameters
    ----------
    data : array ``(n_1, ..., n_k)``
        The block; anything, NaN too, where the mask is False.
    mask : bool array of the same shape, or None
        True = observed; None: every entry.
    core : array ``(r_1, ..., r_k)``
        Of the model of the whole stack.
    rows : k arrays ``(n_m, r_m)``
        Rows of the factors of the whole stack that belong to the block.
    threshold : float
        Outlier threshold in the data's unit.
    corner : k ints, optional
        The block's first index, one number a mode; zero where it is not given.

    Returns
    -------
    BlockSums

    Notes
    -----
    Memory and time as for a sweep over the block: :mod:`tensorcell.solvers.sweeps`.

    Examples
    --------
    >>> data, ones = np.ones((2, 4, 4)), [np.ones((n, 1)) for n in (2, 4, 4)]
    >>> left, right = (
    ...     block_sums(data[:, :, x], None, np.ones((1, 1, 1)), [*ones[:2], ones[2][x]], 1.0, corner=(0, 0, x.start))
    ...     for x in (slice(0, 3), slice(3, 4))
    ... )
    >>> (left + right).sums.factors[2].shape
    (4, 1)
    """
    data, mask = checked_block(data, mask, [len(own) for own in rows])
    sums = sweep(data, mask, core, rows, rule=Rule.HUBER, threshold=threshold)
    return BlockSums((0,) * data.ndim if corner is None else tuple(corner), sums)


def checked_block(data: Array, mask: Array | None, shape: Sequence[int]) -> tuple[Array, Array]:
    """Data as float and mask as bool (all True for None), both in C order, after checking that they fit the block."""
    data = contiguous(as_float(data))
    if tuple(data.shape) != tuple(shape):
        raise ValueError(f"data of a block have shape {tuple(data.shape)}, expected {tuple(shape)}")
    if mask is None:
        return data, np.ones(data.shape, dtype=bool)
    if mask.dtype != np.bool_:
        raise TypeError(f"expected a bool mask (True = observed), got dtype {mask.dtype}")
    if mask.shape != data.shape:
        raise ValueError(f"mask of a block has shape {tuple(mask.shape)}, data have shape {tuple(data.shape)}")
    return data, contiguous(mask)


def block_shape(block: Block) -> tuple[int, ...]:
    """Sizes of a block."""
    return tuple(part.stop - part.start for part in block)


def block_corner(block: Block) -> tuple[int, ...]:
    """First index of a block, one number a mode."""
    return tuple(part.start for part in block)


# The functions that run on a block stand here and not in the class, so that they can be sent to other processes.


def sums_of_block(read: Read, core: Array, factors: Sequence[Array], threshold: float, block: Block) -> BlockSums:
    """Read a block and sweep over it with its rows of the factors."""
    rows = [factor[part] for factor, part in zip(factors, block, strict=True)]
    return block_sums(*read(block), core, rows, threshold, corner=block_corner(block))


@dataclass(frozen=True, eq=False)
class Survey:
    """What must be known about the observed entries of a block, or, added with ``+``, of several.

    Attributes
    ----------
    corner : tuple of int
        Index of the first of ``counts``, one number a mode.
    counts : tuple of int arrays
        Number of observed entries at each index of a mode.
    squares : float
        ``||P_Omega(Y)||^2``.
    dtype : dtype
        Float32, or float64 if any block has that.
    fullest : tuple
        Number of observed entries of the block that has most of them, and that block's corner and sizes.
    """

    corner: tuple[int, ...]
    counts: tuple[npt.NDArray[np.int64], ...]
    squares: float
    dtype: np.dtype[Any]
    fullest: tuple[int, tuple[int, ...], tuple[int, ...]]

    def __add__(self, other: Survey) -> Survey:
        return Survey(
            tuple(map(min, self.corner, other.corner)),
            added_rows(self.corner, self.counts, other.corner, other.counts),
            self.squares + other.squares,
            np.result_type(self.dtype, other.dtype),
            max(self.fullest, other.fullest),
        )

    @property
    def observed(self) -> int:
        """Number of observed entries."""
        return int(np.sum(self.counts[0]))


@one_blas_thread()
def survey_of_block(read: Read, block: Block) -> Survey:
    """Read a block and count its observed entries, which must be finite."""
    data, mask = checked_block(*read(block), block_shape(block))
    if not bool(np.all(np.isfinite(data) | ~mask)):
        raise ValueError(f"expected finite values at observed entries, got NaN or infinity in the block {block}")
    modes = range(mask.ndim)
    counts = tuple(np.asarray(np.sum(mask, axis=tuple(m for m in modes if m != mode)), np.int64) for mode in modes)
    fullest = (count(mask), block_corner(block), block_shape(block))
    return Survey(block_corner(block), counts, observed_squares(data, mask), data.dtype, fullest)


class Sample(NamedTuple):
    """The stack at the product of index sets."""

    indices: Sequence[IndexSet]
    data: Array
    mask: Array


Pieces = tuple[tuple[int, Block, Array, Array], ...]
"""Which sample, where in it, and data and mask there; pieces of several blocks are joined with ``+``."""


def pieces_of_block(read: Read, samples: Sequence[Sequence[IndexSet]], block: Block) -> Pieces:
    """Read a block, if an entry of a sample lies in it, and take these entries."""
    places = [
        tuple(
            slice(*map(int, np.searchsorted(indices, (part.start, part.stop))))
            for indices, part in zip(sample, block, strict=True)
        )
        for sample in samples
    ]
    wanted = [number for number, place in enumerate(places) if min(block_shape(place)) > 0]
    if not wanted:
        return ()
    data, mask = checked_block(*read(block), block_shape(block))
    pieces = []
    for number in wanted:
        inside = [
            indices[place] - part.start
            for indices, place, part in zip(samples[number], places[number], block, strict=True)
        ]
        # Copies, since a view would hold the whole block.
        pieces.append((number, places[number], take_grid(data, inside).copy(), take_grid(mask, inside).copy()))
    return tuple(pieces)


@dataclass(frozen=True, eq=False)
class BlockedStack:
    """A stack that is read block by block, one at a time.

    Attributes
    ----------
    shape : tuple of int
        Sizes of the whole stack ``(I_1, ..., I_k)``.
    read : callable
        ``read(block) -> (data, mask)`` with arrays of the block's shape on the host: float32 or float64 (other real
        types become float64, which is slow), anything, NaN too, where the mask is False; a bool mask, True = observed,
        or None: every entry. The same block must give the same values every time. It must be one that can be pickled
        if ``map_blocks`` uses other processes.
    blocks : tuple of tuples of k slices
        They partition the stack; any mode may be cut, and blocks may differ in size.
    map_blocks : callable
        ``map_blocks(function, blocks)`` runs a function on every block, by default one after the other, and gives the
        results in any form that can be iterated over. ``function`` can be pickled if ``read`` can, and holds what the
        blocks share (the model of a sweep). Results can be added with ``+``, in any grouping: a map that does so on the
        way, as a tree of workers does, may give fewer results than there are blocks. The same results in the same order
        give the same sums bit for bit.

    Raises
    ------
    ValueError
        If a block is empty, has a step, lies outside or meets another one, or if the blocks leave something out.

    Notes
    -----
    Blocks much larger than the rank are swept over as fast as the whole; in smaller ones the algebra of core size, and
    about a millisecond a block, are felt.

    Examples
    --------
    >>> data = np.ones((2, 3, 4))
    >>> blocks = tuple((slice(0, 2), slice(0, 3), slice(x, x + 2)) for x in (0, 2))
    >>> BlockedStack(data.shape, lambda block: (data[block], None), blocks).survey.observed
    24
    """

    shape: tuple[int, ...]
    read: Read
    blocks: tuple[Block, ...]
    map_blocks: MapBlocks = field(default_factory=lambda: map)  # no attribute of the class: its help would be `map`'s

    def __post_init__(self) -> None:
        check_partition(self.shape, self.blocks)

    def total(self, function: Callable[[Block], Any]) -> Any:
        """The results of a function on every block, added up in the order in which they come."""
        return reduce(operator.add, self.map_blocks(function, self.blocks))

    def sweep(self, core: Array, factors: Sequence[Array], threshold: float) -> Sweep:
        """The Huber sweep over the whole stack."""
        added: BlockSums = self.total(partial(sums_of_block, self.read, core, tuple(factors), threshold))
        return added.sums

    @cached_property
    def survey(self) -> Survey:
        """Counts and norm of the observed entries, by reading every block once; ValueError if there are none."""
        survey: Survey = self.total(partial(survey_of_block, self.read))
        if survey.observed == 0:
            raise ValueError("expected at least one observed entry, got a mask without any True")
        return survey

    def samples(self, wanted: Sequence[Sequence[IndexSet]]) -> list[Sample]:
        """The stack at the products of sorted index sets, by reading every block at most once."""
        dtype = self.survey.dtype
        found = []
        for indices in wanted:
            sizes = tuple(map(len, indices))
            found.append(Sample(indices, np.zeros(sizes, dtype=dtype), np.zeros(sizes, dtype=bool)))
        pieces: Pieces = self.total(partial(pieces_of_block, self.read, wanted))
        for number, place, data, mask in pieces:
            found[number].data[place], found[number].mask[place] = data, mask
        return found

    def residual_grid(self, sample: Sample) -> ResidualGrid:
        """The grid on which the scale of a residual is estimated: a sample of the stack.

        Where nothing was observed in it, the grid is that of the block with most observed entries, which is read.
        """
        if count(sample.mask):
            return ResidualGrid(*sample)
        _, corner, sizes = self.survey.fullest
        block = tuple(slice(first, first + size) for first, size in zip(corner, sizes, strict=True))
        grid = ResidualGrid.of(*checked_block(*self.read(block), sizes))
        grid.indices = [indices + first for indices, first in zip(grid.indices, corner, strict=True)]
        return grid


def check_partition(shape: Sequence[int], blocks: Sequence[Block]) -> None:
    """Complain about blocks that do not partition a stack of that shape."""
    for block in blocks:
        fits = len(block) == len(shape) and all(
            part.step in (None, 1) and part.start is not None and 0 <= part.start < (part.stop or 0) <= size
            for part, size in zip(block, shape, strict=True)
        )
        if not fits:
            raise ValueError(f"expected blocks that lie in a stack of shape {tuple(shape)}, got {block}")
    first = np.array([block_corner(block) for block in blocks]).reshape(len(blocks), len(shape))
    last = first + np.array([block_shape(block) for block in blocks]).reshape(first.shape)
    for number in range(len(blocks)):
        rest = slice(number + 1, None)
        meets = np.all((first[rest] < last[number]) & (last[rest] > first[number]), axis=1)
        if np.any(meets):
            other = number + 1 + int(np.argmax(meets))
            raise ValueError(f"expected blocks that do not meet, got {blocks[number]} and {blocks[other]}")
    covered = sum(math.prod(block_shape(block)) for block in blocks)
    if covered != math.prod(shape):
        raise ValueError(f"blocks hold {covered} of {math.prod(shape)} voxels, expected all of them")
