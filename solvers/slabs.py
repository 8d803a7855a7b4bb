"""Parts of a volume: ranges of planes, the model on them, and a central block for trials.

No array that is made here is as large as the volume.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from .arrays import Array, from_host, is_cupy, namespace_of, to_host
from .results import CompletionResult, tucker_tensor
from .threads import share_out

Result = TypeVar("Result")

Floats = npt.NDArray[np.floating]

SLAB_VOXELS = 1 << 20
"""Largest number of voxels that are handled at a time."""

THICK, FEW_VOXELS = 16, 1 << 18
"""Planes, and voxels, that are handled at least at a time where the planes around them are computed, too."""

ON_DEVICE = 1 << 24
"""Voxels that are handled at a time on a GPU."""

BLOCK_VOXELS = 400_000
"""Largest number of voxels of the block on which scales and widths are estimated."""


def slabs(shape: Sequence[int], voxels: int | None = None) -> list[slice]:
    """Ranges of planes that cover a volume, about so many voxels each (``SLAB_VOXELS``) and at least one plane."""
    step = max(1, (voxels or SLAB_VOXELS) // math.prod(shape[1:]))
    return [slice(first, min(shape[0], first + step)) for first in range(0, shape[0], step)]


def thick_slabs(shape: Sequence[int]) -> list[slice]:
    """The same with few voxels, but so many planes that it costs little to compute those around them, too."""
    return slabs(shape, max(FEW_VOXELS, THICK * math.prod(shape[1:])))


def parts_of(volume: Array, voxels: int | None = None) -> list[slice]:
    """Ranges of the first axis of an array, about so many voxels each (``SLAB_VOXELS``); more on a GPU, which needs
    many to be busy."""
    return slabs(volume.shape, ON_DEVICE if is_cupy(namespace_of(volume)) else voxels)


def in_parts(work: Callable[[slice], Result], volume: Array, voxels: int) -> list[Result]:
    """``work(planes)`` on the ranges of :func:`parts_of`, side by side on the host's threads; results in order."""
    parts = parts_of(volume, voxels)
    if is_cupy(namespace_of(volume)):
        return [work(planes) for planes in parts]
    shares = share_out(lambda first, last: [work(planes) for planes in parts[first:last]], len(parts))
    return [result for share in shares for result in share]


def thick_parts(volume: Array) -> list[slice]:
    """The ranges of :func:`thick_slabs`; more voxels each on a GPU."""
    return slabs(volume.shape, ON_DEVICE) if is_cupy(namespace_of(volume)) else thick_slabs(volume.shape)


def widened(slab: slice, planes: int, rim: int) -> tuple[slice, slice]:
    """The range with ``rim`` more planes on either side as far as there are any, and where the range lies in it.

    >>> widened(slice(4, 8), 9, 2)
    (slice(2, 9, None), slice(2, 6, None))
    """
    wide = slice(max(0, slab.start - rim), min(planes, slab.stop + rim))
    return wide, slice(slab.start - wide.start, slab.stop - wide.start)


def model_planes(fit: CompletionResult, planes: slice) -> Array:
    """The model ``X`` on a range of planes, without forming the rest of it, where core and factors lie."""
    core, (leading, *others) = fit.tucker
    xp = namespace_of(core)
    part = xp.tensordot(leading[planes, ...], core, axes=1)
    part = xp.matmul(others[0], part)
    return xp.matmul(part, others[1].T)


def moved_to(fit: CompletionResult, like: Array) -> CompletionResult:
    """The fit, with the core and factors of its model where an array lies; they are few numbers."""
    core, factors = fit.tucker
    moved = [from_host(to_host(array), like) for array in (core, *factors)]
    return replace(fit, tucker=tucker_tensor(moved[0], moved[1:], moved[0].dtype))


def central_block(shape: Sequence[int], voxels: int = BLOCK_VOXELS) -> tuple[slice, ...]:
    """The middle of a volume, of the same proportions, with at most about so many voxels."""
    shrink = min(1.0, (voxels / math.prod(shape)) ** (1 / len(shape)))
    sizes = [max(1, round(size * shrink)) for size in shape]
    return tuple(
        slice((size - inside) // 2, (size - inside) // 2 + inside) for size, inside in zip(shape, sizes, strict=True)
    )


def block_residual(stack: Floats, fit: CompletionResult) -> tuple[tuple[slice, ...], Floats]:
    """The central block, and ``Y - X`` there."""
    block = central_block(stack.shape)
    return block, stack[block] - model_planes(fit, block[0])[:, block[1], block[2]]
