"""A denoiser evaluated on overlapping tiles, for volumes larger than a network may see at once: :func:`tiled`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tensorcell.diffusion_guidance.paths import Denoiser


class Tile(NamedTuple):
    """A range of one axis, and whether it is the first or the last of that axis."""

    start: int
    stop: int
    first: bool
    last: bool


def tiles_along(size: int, tile: int, overlap: int, stride: int) -> list[Tile]:
    """Overlapping ranges of at most ``tile`` voxels that cover an axis and start at multiples of the stride.

    >>> tiles_along(10, 4, 2, 2)[-1]
    Tile(start=6, stop=10, first=False, last=True)
    """
    starts, stops = [0], [min(size, tile)]
    while stops[-1] < size:
        start = min((stops[-1] - overlap) // stride * stride, -(-(size - tile) // stride) * stride)
        starts.append(start)
        stops.append(min(size, start + tile))
    count = len(starts)
    return [Tile(a, b, n == 0, n == count - 1) for n, (a, b) in enumerate(zip(starts, stops, strict=True))]


def window_along(tile: Tile, ramp: int, context: int, like: Tensor) -> Tensor:
    """Weight of a tile along one axis: 0 within ``context`` of an inner end, then a raised cosine to 1."""
    length = tile.stop - tile.start
    depth = torch.arange(length, dtype=torch.float64, device=like.device)
    rise = ((depth - context + 0.5) / ramp).clamp(0.0, 1.0)
    rise = (1 - torch.cos(math.pi * rise)) / 2
    window = torch.ones(length, dtype=torch.float64, device=like.device)
    if not tile.first:
        window = window * rise
    if not tile.last:
        window = window * rise.flip(0)
    return window.to(like.dtype)


def tiled(
    denoise: Denoiser,
    tile: int | Sequence[int],
    overlap: int | Sequence[int],
    stride: int | Sequence[int] = 1,
    *,
    context: int | Sequence[int] | None = None,
) -> Denoiser:
    """The denoiser, evaluated on overlapping tiles whose results fade into each other.

    Parameters
    ----------
    denoise : denoiser
    tile : int, or one a spatial axis
        Largest size of a tile, a multiple of the stride; axes no longer than it are not cut.
    overlap : int, or one a spatial axis
        Smallest number of voxels that neighbouring tiles share (starts are moved down to the stride).
    stride : int, or one a spatial axis
        Tiles start at multiples of it, so that a network that halves its input sees every voxel at the same place of
        its grid as in the whole.
    context : int, or one a spatial axis, optional
        Voxels at inner ends of a tile whose results are thrown away, at most ``(overlap - 1) // 2``. A denoiser whose
        result at a voxel depends on no voxel farther away gives the same as on the whole, to rounding. Default: a
        quarter of the overlap.

    Returns
    -------
    denoiser
        Memory: that of the network on one tile, two volumes, and the result.

    Raises
    ------
    ValueError
        If the numbers do not fit together.

    Notes
    -----
    The windows are raised cosines over what is left of the overlap; they are divided by their sum, so that wherever the
    tiles agree nothing is changed.

    Examples
    --------
    >>> x = torch.arange(20.0).reshape(1, 1, 20)
    >>> bool(torch.allclose(tiled(lambda x, level: 2 * x, 8, 4)(x, 1.0), 2 * x))
    True
    """

    return tiled_at(lambda _: denoise, tile, overlap, stride, context=context)


def tiled_at(
    denoise_at: Callable[[tuple[slice, ...]], Denoiser],
    tile: int | Sequence[int],
    overlap: int | Sequence[int],
    stride: int | Sequence[int] = 1,
    *,
    context: int | Sequence[int] | None = None,
) -> Denoiser:
    """The same for denoisers that differ from place to place, as those that are told a part of a condition.

    ``denoise_at(place)`` is the denoiser of the tile at this place, one slice a spatial axis.
    """

    def along(x: Tensor) -> list[list[tuple[Tile, Tensor]]]:
        axes = []
        for axis, size in enumerate(x.shape[2:]):
            t, o, s = (entry(value, axis, x.ndim - 2) for value in (tile, overlap, stride))
            c = o // 4 if context is None else entry(context, axis, x.ndim - 2)
            check_tiles(t, o, s, c)
            ranges = tiles_along(size, t, o, s)
            ramp = max(1, o - 2 * c)
            axes.append([(each, window_along(each, ramp, c, x)) for each in ranges])
        return axes

    def whole(x: Tensor, level: float | Tensor) -> Tensor:
        axes = along(x)
        if all(len(axis) == 1 for axis in axes):
            return denoise_at(tuple(slice(0, size) for size in x.shape[2:]))(x, level)
        total = torch.zeros_like(x)
        weights = torch.zeros(x.shape[2:], dtype=x.dtype, device=x.device)
        for combination in itertools.product(*axes):
            place = tuple(slice(each.start, each.stop) for each, _ in combination)
            part: Any = (..., *place)
            window = torch.ones((), dtype=x.dtype, device=x.device)
            for _, profile in combination:
                window = window[..., None] * profile
            total[part] += window * denoise_at(place)(x[part], level)
            weights[place] += window
        return total / weights

    return whole


def entry(value: int | Sequence[int], axis: int, axes: int) -> int:
    """The number of one axis, where one for all axes or one for each was given."""
    if isinstance(value, int):
        return value
    if len(value) != axes:
        raise ValueError(f"expected one number or {axes}, one a spatial axis, got {tuple(value)}")
    return value[axis]


def check_tiles(tile: int, overlap: int, stride: int, context: int) -> None:
    """Raise a ValueError where the sizes of tiles do not fit together."""
    if stride < 1 or tile < 1 or tile % stride:
        raise ValueError(f"expected a tile that is a multiple of the stride {stride}, got {tile}")
    if not 0 <= overlap <= tile - stride:
        raise ValueError(f"expected an overlap from 0 to {tile - stride} (tile less stride), got {overlap}")
    if context < 0 or (context and 2 * context >= overlap):
        raise ValueError(f"expected a context below half the overlap {overlap}, got {context}")
