"""Arrays as stacks that are read block by block, and partitions whose blocks lie on no grid."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Any

import numpy as np

from tensorcell.solvers import BlockedStack
from tensorcell.solvers.blocks import Block


@dataclass
class Reader:
    """Reads blocks of arrays; it can be pickled, and counts how often each block is read."""

    data: np.ndarray
    mask: np.ndarray | None = None
    read: list[Block] = field(default_factory=list)

    def __call__(self, block: Block) -> tuple[np.ndarray, np.ndarray | None]:
        self.read.append(block)
        return self.data[block].copy(), None if self.mask is None else self.mask[block].copy()


def partition(shape: tuple[int, ...], cuts: int, seed: int = 0) -> tuple[Block, ...]:
    """Random cuts of random blocks, so that the blocks of all sizes lie on no grid."""
    rng = np.random.default_rng(seed)
    blocks = [tuple(slice(0, size) for size in shape)]
    for _ in range(cuts):
        number, mode = int(rng.integers(len(blocks))), int(rng.integers(len(shape)))
        part = blocks[number][mode]
        if part.stop - part.start > 1:
            middle = int(rng.integers(part.start + 1, part.stop))
            whole = blocks.pop(number)
            halves = slice(part.start, middle), slice(middle, part.stop)
            blocks += [(*whole[:mode], half, *whole[mode + 1 :]) for half in halves]
    return tuple(blocks)


def blocked(data: np.ndarray, mask: np.ndarray | None = None, cuts: int = 9, **more: Any) -> BlockedStack:
    """An array as a blocked stack."""
    return BlockedStack(data.shape, Reader(data, mask), partition(data.shape, cuts), **more)


def in_a_tree(function: Any, blocks: Iterable[Block]) -> list[Any]:
    """A map as several workers would run it: blocks out of order, results added up in pairs."""
    results = [function(block) for block in reversed(list(blocks))]
    while len(results) > 1:
        results = [reduce(add, results[first : first + 2]) for first in range(0, len(results), 2)]
    return results
