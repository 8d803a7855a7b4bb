"""Square patches within the planes of a stack, read on the host: the sample from which its noise is estimated."""

from __future__ import annotations

from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt

from .arrays import Array, from_host, is_cupy, is_numpy, namespace_of, to_host

Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.intp]

SIDE = 8
"""Patch side in pixels: longer ones hold more edges, shorter ones fewer residuals that are free of them."""

LONGEST_SIDE = 32
"""Patches grow up to this side where few voxels are observed."""

DRAW = 1 << 14
"""Patches read at a time: a million voxels of fully measured data."""

PATCHES = 6144
"""Patches analysed at most: the 30 % flattest leave 30 000 free residuals, a standard error of sigma of .4 %."""

ENOUGH = 14
"""Observed voxels that half of the patches must hold."""

LEAST = 4
"""Observed voxels without which a patch is left out."""

CLIPPED = 0.1
"""Share of clipped voxels above which a patch is left out."""

FEWEST_PATCHES = 40
"""Where fewer patches are free of clipped voxels, only the clipped voxels themselves are left out."""


class Patches(NamedTuple):
    """Patches ``P`` of ``n`` voxels each, on the host."""

    values: Doubles  # (P, n), 0 where unobserved
    observed: Bools  # (P, n)
    corners: Ints  # (P, 3): z, y, x of the first voxel


class Sample(NamedTuple):
    """The patches that are analysed, and what all their values have in common."""

    values: Doubles  # (P, n), 0 where unobserved
    observed: Bools  # (P, n)
    corners: Ints  # (P, 3): z, y, x of the first voxel
    side: tuple[int, int]
    low: float | None
    high: float | None
    step: float


class Grid(NamedTuple):
    """Patches side by side, or overlapping by half in a small volume, of which some are taken in random order."""

    side: tuple[int, int]
    strides: tuple[int, int, int]
    counts: tuple[int, int, int]
    order: Ints
    draw: int
    """Patches read at a time."""


def read_sample(data: Array, mask: Array | None, *, dark: bool = False) -> Sample:
    """Random patches of a grid, without those that are clipped to a tenth or hold hardly an observed voxel.

    Where most patches are clipped (background set to zero), up to eight times as many are read. With ``dark``, the
    lowest value is taken for a measurement like all others, however often it is found.
    """
    grid, first = grid_and_first_draw(data, mask)
    if not first.observed.any():
        return Sample(first.values[:0], first.observed[:0], first.corners[:0], grid.side, None, None, 0.0)
    pool = first.values[first.observed]
    step = step_of(pool)
    low, high = clipped_ends(pool, step)
    low = None if dark else low
    pixels = grid.side[0] * grid.side[1]
    most = PATCHES * SIDE**2 // max(SIDE**2, pixels)
    free: list[Patches] = []
    remainders: list[Patches] = []
    for start in range(0, len(grid.order), grid.draw):
        patches = first if start == 0 else draw_patches(data, mask, grid, start)
        good, remainder = without_clipped(patches, low, high)
        free.append(good)
        remainders.append(remainder)
        if count_of(free) >= most:
            break
    # Thin structures cut out of their background lie between clipped voxels.
    taken = remainders if count_of(free) < min(FEWEST_PATCHES, count_of(remainders)) else free
    values, observed, corners = (np.concatenate(parts)[:most] for parts in zip(*taken, strict=True))
    return Sample(values, observed, corners, grid.side, low, high, step)


def count_of(parts: list[Patches]) -> int:
    """Number of patches in all parts."""
    return sum(len(part.values) for part in parts)


def without_clipped(patches: Patches, low: float | None, high: float | None) -> tuple[Patches, Patches]:
    """Patches with few clipped voxels, as they are; and what any patch holds beside its clipped voxels."""
    values, observed, corners = patches
    clipped = np.zeros(values.shape, dtype=bool)
    for end in (low, high):
        if end is not None:
            clipped |= values == end
    count = observed.sum(axis=1)
    good = (count >= LEAST) & (np.sum(clipped & observed, axis=1) <= CLIPPED * count)
    inside = observed & ~clipped
    some = inside.sum(axis=1) >= ENOUGH
    remainder = Patches(np.where(inside, values, 0.0)[some], inside[some], corners[some])
    return Patches(values[good], observed[good], corners[good]), remainder


def grid_and_first_draw(data: Array, mask: Array | None) -> tuple[Grid, Patches]:
    """A grid of the smallest patches of which half hold enough observed voxels, and the first of them.

    Raises
    ------
    ValueError
        If nothing was observed.
    """
    rng = np.random.default_rng(0)
    longest = min(LONGEST_SIDE, max(int(data.shape[1]), int(data.shape[2])))
    length = SIDE
    while True:
        grid = grid_of(data.shape, length, rng)
        first = draw_patches(data, mask, grid, 0)
        count = first.observed.sum(axis=1)
        whole = np.prod(grid.counts) <= grid.draw
        if length == SIDE and not count.any() and whole and not any_observed(data, mask):
            raise ValueError(f"expected observed voxels, got none in data of shape {tuple(data.shape)}")
        if (count.any() and np.median(count[count > 0]) >= ENOUGH) or length >= longest:
            return grid, first
        length *= 2


def any_observed(data: Array, mask: Array | None) -> bool:
    """Whether any voxel was observed."""
    finite = np.isfinite(to_host(data))
    return bool(np.any(finite if mask is None else finite & to_host(mask)))


def grid_of(shape: tuple[int, ...], length: int, rng: np.random.Generator) -> Grid:
    """Patches of at most this side, in random order."""
    planes, height, width = map(int, shape)
    side = (min(length, height), min(length, width))
    overlap = 2 if planes * height * width < DRAW * SIDE**2 // 4 else 1
    strides = (1, max(1, side[0] // overlap), max(1, side[1] // overlap))
    counts = (planes, (height - side[0]) // strides[1] + 1, (width - side[1]) // strides[2] + 1)
    total = int(np.prod(counts))
    draw = max(1, DRAW * SIDE**2 // (side[0] * side[1]))
    places = np.arange(total) if total <= 8 * draw else np.unique(rng.integers(0, total, 8 * draw))
    return Grid(side, strides, counts, rng.permutation(places), draw)


def draw_patches(data: Array, mask: Array | None, grid: Grid, start: int) -> Patches:
    """The patches of a grid from this place of its order on, as many as are read at a time."""
    places = grid.order[start : start + grid.draw]
    corners: Ints = np.stack(np.unravel_index(places, grid.counts), axis=1) * np.array(grid.strides)
    return read_patches(data, mask, corners, grid.side)


def read_patches(data: Array, mask: Array | None, corners: Ints, side: tuple[int, int]) -> Patches:
    """The patches at these corners."""
    dy, dx = np.divmod(np.arange(side[0] * side[1]), side[1])
    where = (corners[:, :1], corners[:, 1:2] + dy, corners[:, 2:] + dx)
    values = gather(data, where).astype(np.float64)
    observed = np.isfinite(values)
    if mask is not None:
        observed &= gather(mask, where)
    return Patches(np.where(observed, values, 0.0), observed, corners)


def gather(array: Array, where: tuple[Ints, ...]) -> npt.NDArray[np.generic]:
    """``array[where]`` on the host; only what is asked for leaves a GPU or a memory map."""
    xp = namespace_of(array)
    if is_numpy(xp):
        return cast("npt.NDArray[np.generic]", array[where])
    if is_cupy(xp):
        return to_host(array[tuple(from_host(index, array) for index in where)])
    return cast("npt.NDArray[np.generic]", to_host(array)[where])


def step_of(values: Doubles) -> float:
    """Distance of the levels if all values are multiples of one that many of them share, else 0."""
    levels = np.unique(values)
    if not 2 <= levels.size <= values.size // 4:
        return 0.0
    step = float(np.diff(levels).min())
    if step * 2.0**53 < levels[-1] - levels[0]:  # no number holds so many levels
        return 0.0
    multiples = (levels - levels[0]) / step
    return step if np.all(np.abs(multiples - np.round(multiples)) < 1e-3) else 0.0


def clipped_ends(values: Doubles, step: float) -> tuple[float | None, float | None]:
    """The lowest and the highest value of the data, each only if more than one voxel in a thousand was clipped to it.

    Where the levels are evenly spaced, more voxels must hold the end than hold the next four levels together: no noise
    has such a tail.
    """
    ends: list[float | None] = []
    for end in (values.min(), values.max()):
        share = np.mean(values == end)
        if share * values.size < 10:
            ends.append(None)
            continue
        near = np.mean(np.abs(values - end) < 4.5 * step) - share if step > 0 else 0.0
        ends.append(float(end) if share > max(0.001, near) else None)
    return ends[0], ends[1]
