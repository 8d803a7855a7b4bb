"""How large a multilinear rank may be: its degrees of freedom, and how many of them the observed entries determine."""

from __future__ import annotations

import math
from collections.abc import Sequence

Rank = tuple[int, ...]


def degrees_of_freedom(rank: Sequence[int], shape: Sequence[int]) -> int:
    """Dimension of the manifold of tensors of that shape and multilinear rank: ``prod r + sum r (I - r)``."""
    return math.prod(rank) + sum(r * (size - r) for r, size in zip(rank, shape, strict=True))


def affordable(rank: Sequence[int], shape: Sequence[int], unknowns: float) -> Rank:
    """The rank, made valid (no entry above the product of the others) and scaled down to at most that many unknowns."""
    scale, found = 1.0, tuple(rank)
    while True:
        found = tuple(max(1, round(scale * r)) for r in rank)
        for mode in range(len(found)):
            others = math.prod(found[:mode]) * math.prod(found[mode + 1 :])
            found = (*found[:mode], min(found[mode], others), *found[mode + 1 :])
        if degrees_of_freedom(found, shape) <= unknowns or max(found) == 1:
            return found
        scale *= 0.95


def lowered(wanted: Rank, rank: Rank, observed: float) -> str:
    """A clause that is added to a reason where a rank had to be lowered."""
    return "" if rank == wanted else f"; lowered from {wanted}, which {round(observed)} observed entries cannot fix"


def checked_limits(max_rank: int | Sequence[int] | None, shape: Sequence[int]) -> Rank:
    """Upper limits of the ranks, at most the shape."""
    if max_rank is None:
        return tuple(shape)
    limits = (max_rank,) * len(shape) if isinstance(max_rank, int) else tuple(max_rank)
    if len(limits) != len(shape) or min(limits) < 1:
        raise ValueError(f"expected {len(shape)} limits of at least 1 as max_rank, got {max_rank}")
    return tuple(min(limit, size) for limit, size in zip(limits, shape, strict=True))
