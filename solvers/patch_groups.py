"""Filter passes over groups of similar patches, each shrunk as a small Tucker tensor.

For each reference patch the ``K`` nearest patches within a window are stacked to a group ``X``. Its core ``C`` is
shrunk, and the patches go back to their places, where overlapping estimates are averaged with weights that fall with
the energy kept. The symbols are those of :mod:`tensorcell.solvers.local`::

    C = X x_0 H x_1 U_1' x_2 U_2' x_3 U_3'      H: Haar transform; U_n: eigenvectors of the Gram matrices of the model
    g = [C^2 > strength^2 sigma^2]              without a pilot: the model is X, and g a hard threshold
    g = P^2 / (P^2 + strength sigma^2)          with a pilot of core P: the model is the pilot, and g Wiener's gain
    X <- (g C) x_0 H' x_1 U_1 x_2 U_2 x_3 U_3   weight: window / max(1, sum g^2)

Where neighbouring voxels share noise, ``sigma^2`` is that of the entry, ``sigma^2 a_i b_j c_k`` (see
:mod:`tensorcell.solvers.autocorrelation`), and the weight has ``sum a_i b_j c_k g^2``. That patches which overlap share
noise, too, is left out of account, as for white noise.

Cost of the kernel a group of 32 patches of 5^3 voxels (64 000 multiply-adds to the core and as many back, 16 kB of
patches in and 48 kB of sums out), measured as shares: search 15-20 %, factors 20 %, to the core and back 30 %, sums
25 %.

NumPy arrays pass through the kernel of :mod:`tensorcell.solvers.kernels_local`, all others through its array twin.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from .arrays import Array, contiguous, from_host, is_cupy, is_numpy, namespace_of, ndimage, to_host
from .autocorrelation import WHITE, Autocorrelation, toeplitz
from .slabs import in_parts
from .threads import share_out

Floats = npt.NDArray[np.floating[Any]]
Bools = npt.NDArray[np.bool_]
Drift = tuple[tuple[int, int, int], ...]
Box = tuple[slice, slice, slice]

HARD = 2.9
"""Hard threshold in standard deviations of the noise: above the usual 2.7, since the factors follow the noise."""

GUIDE_WIDTH = 0.5
"""Gaussian width, in voxels, with which noisy data are smoothed before patches are compared."""


NEAR = 2
"""Within so many voxels of a reference patch all patches are compared with it, and every second one further away."""

MOVE = 2
"""A patch is looked for so many voxels around its place in each frame."""

STAYS = 0.7
"""A patch counts as moved if the squared distance at the new place is below this share of that at the old one: the
smallest of many distances is small by chance, where noise is most of them."""

LEAST_SIGMA = 1e-18
"""Smallest standard deviation of the noise that a pass assumes: the square of a smaller one underflows to 0 in float32,
and Wiener's gain of an entry of 0 would be 0 / 0."""


SLAB_VOXELS = 1 << 17
"""Voxels that are averaged, or mixed, at a time: temporary arrays of them are small beside the estimates."""


class PatchOptions(Protocol):
    """What a caller asks of a pass, whatever the volume; an ``int`` holds for z, y and x."""

    @property
    def patch(self) -> int | tuple[int, int, int]:
        """Sides of a patch."""

    @property
    def reach(self) -> int | tuple[int, int, int]:
        """Largest distance to a similar patch along each axis."""

    @property
    def group(self) -> int:
        """Patches in a group, a power of two."""

    @property
    def step(self) -> int:
        """Distance between reference patches."""

    @property
    def frames(self) -> int:
        """Frames over which each patch is followed."""


class Geometry(NamedTuple):
    """Patches of one pass, along z, y and x; :func:`fitted` makes them fit a volume."""

    patch: tuple[int, int, int]
    reach: tuple[int, int, int]
    group: int
    step: int
    frames: int = 1
    """Frames over which each patch of a group is followed, a power of two."""
    drift: Drift = ()
    """Where each frame lies, in whole voxels along z, y and x; empty: all at the same place."""


def three(value: int | tuple[int, int, int]) -> tuple[int, int, int]:
    """One number for all axes, or the three given."""
    return (value, value, value) if isinstance(value, int) else value


def fitted(options: PatchOptions, shape: Sequence[int], drift: Drift = ()) -> Geometry:
    """Patches no larger than the volume, and groups no larger than the number of patches that a corner can reach.

    In a series of frames, patches of a group are fewer, so that their number times the frames is the number asked for.
    """
    frames, *sides = in_frames(shape)
    z, y, x = (min(p, size) for p, size in zip(three(options.patch), sides, strict=True))
    patch = z, y, x
    z, y, x = (min(r, size - p) for r, size, p in zip(three(options.reach), sides, patch, strict=True))
    frames = 1 << int(math.log2(min(options.frames, frames)))
    group = min(max(1, options.group // frames), 1 << int(math.log2(math.prod(r + 1 for r in (z, y, x)))))
    return Geometry(patch, (z, y, x), group, options.step, frames, drift)


def in_frames(shape: Sequence[int]) -> tuple[int, int, int, int]:
    """The lengths along time, z, y and x; a volume has one frame.

    >>> in_frames((7, 8, 9))
    (1, 7, 8, 9)
    """
    frames, z, y, x = (1, *shape) if len(shape) == 3 else shape
    return frames, z, y, x


def offsets_within(reach: Sequence[int], group: int) -> npt.NDArray[np.int64]:
    """Offsets ``(n, 3)`` at which patches are compared with a reference patch, the reference itself first.

    Further than ``NEAR`` voxels away every second patch along each axis is compared: a patch has neighbours that are
    almost as similar, and comparing all of them takes longer than filtering. They are compared further away where a
    reference patch in a corner would find fewer than ``group``.
    """
    grid = grid_of([np.arange(-r, r + 1) for r in reach])
    offsets = grid
    for near in range(NEAR, max(reach)):
        some = grid[np.all(np.abs(grid) <= near, axis=1) | np.all(grid % 2 == 0, axis=1)]
        if np.count_nonzero(np.all(some >= 0, axis=1)) >= group:
            offsets = some
            break
    return offsets[np.argsort(np.any(offsets != 0, axis=1), kind="stable")]


def halving_order(size: int) -> npt.NDArray[np.int64]:
    """Where the patches of a group stand, so that the Haar transform pairs the first half of them with the second.

    Neighbours in the order of similarity are then paired, and every sum runs over contiguous numbers.

    >>> halving_order(8)
    array([0, 4, 2, 6, 1, 5, 3, 7])
    """
    if size == 1:
        return np.zeros(1, np.int64)
    return np.stack([halving_order(size // 2), halving_order(size // 2) + size // 2], axis=1).ravel()


def grid_of(places: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    """All positions ``(n, axes)`` whose coordinates are among the places along each axis, in C order."""
    return np.stack(np.meshgrid(*places, indexing="ij"), axis=-1).reshape(-1, len(places))


def corners_along(size: int, patch: int, step: int) -> npt.NDArray[np.int64]:
    """Reference corners along one axis: every step-th, no patch leaving out a voxel, and the last one that fits."""
    corners = np.arange(0, size - patch + 1, min(step, patch))
    return corners if corners[-1] == size - patch else np.append(corners, size - patch)


def drift_of(geometry: Geometry, shape: Sequence[int]) -> npt.NDArray[np.int64]:
    """Where each frame lies, ``(T, 3)``."""
    return np.array(geometry.drift or [(0, 0, 0)] * in_frames(shape)[0], np.int64)


def moves_of(geometry: Geometry) -> npt.NDArray[np.int64]:
    """Offsets ``(n, 3)`` at which a patch is looked for in another frame, no move first."""
    return offsets_within([min(MOVE, r) for r in geometry.reach], 1)


def corners_of(lengths: Sequence[int], geometry: Geometry) -> list[npt.NDArray[np.int64]]:
    """Coordinates of the reference corners along time, z, y and x."""
    along_space = zip(lengths[1:], geometry.patch, strict=True)
    return [np.arange(lengths[0]), *(corners_along(size, p, geometry.step) for size, p in along_space)]


def references_of(lengths: Sequence[int], geometry: Geometry, used: Array) -> Array:
    """Time, z, y and x of the reference corners that are used, ``(n, 4)`` in C order, where ``used`` lies."""
    xp, corners = namespace_of(used), [from_host(each, used) for each in corners_of(lengths, geometry)]
    for axis, places in enumerate(corners):
        used = xp.take(used, places, axis=axis)
    return xp.stack([xp.take(places, found) for places, found in zip(corners, xp.nonzero(used), strict=True)], axis=1)


def window_of(patch: Sequence[int]) -> Floats:
    """Kaiser window of a patch, flattened, so that patches fade out at their borders."""
    z, y, x = (np.kaiser(size, 2.0) for size in patch)
    return (z[:, None, None] * y[:, None] * x).ravel().astype(np.float32)


def smoothed(y: Array) -> Array:
    """Noisy data as a guide: smoothed a little, so that patches are compared by what they show."""
    return ndimage("gaussian_filter", y, GUIDE_WIDTH, axes=(-3, -2, -1))


def filtered(
    data: Array,
    guide: Array,
    pilot: Array | None,
    sigma: float,
    strength: float,
    geometry: Geometry,
    wanted: Array | None = None,
    correlation: Autocorrelation = WHITE,
) -> tuple[Array, Array]:
    """One pass over all groups: the average of the overlapping estimates, and their standard deviation.

    Parameters
    ----------
    data : float32 array ``(Z, Y, X)`` or ``(T, Z, Y, X)``
        What is filtered.
    guide : float32 array of the same shape
        Where patches are compared.
    pilot : float32 array of the same shape, or None
        None: the cores are thresholded at ``strength sigma``. Otherwise an estimate of the truth, for Wiener's gains
        ``P^2 / (P^2 + strength sigma^2)``.
    sigma : float
        Standard deviation of the noise in ``data``.
    strength : float
        Factor of ``sigma``, or of its square where there is a pilot.
    geometry : Geometry
        Patches that fit the volume.
    wanted : bool array of the same shape, optional
        True where an estimate is wanted: groups whose reference patch holds no such voxel are skipped. Elsewhere the
        guide is returned, with a standard deviation of 0. Default: everywhere.
    correlation : Autocorrelation
        Of the noise in ``data``. Default: white noise.

    Returns
    -------
    value, spread : float32 arrays of the same shape
    """
    values, spread = filtered_by(data, guide, pilot, sigma, (strength,), geometry, wanted, correlation)
    return values[0], spread


def filtered_by(
    data: Array,
    guide: Array,
    pilot: Array | None,
    sigma: float,
    strengths: Sequence[float],
    geometry: Geometry,
    wanted: Array | None = None,
    correlation: Autocorrelation = WHITE,
) -> tuple[tuple[Array, ...], Array]:
    """One pass with several strengths, which share groups, factors and cores; arguments as for :func:`filtered`.

    Returns
    -------
    values : float32 arrays of the data's shape, one a strength
        All of them average the overlapping estimates with the weights of the first strength.
    spread : float32 array of the same shape
        Standard deviation of the estimates of the first strength.
    """
    xp = namespace_of(data, guide)
    sums = sums_numba if is_numpy(xp) else sums_cuda if is_cupy(xp) else sums_arrays
    used = references_used(wanted, data.shape, geometry)
    level = max(sigma, LEAST_SIGMA)
    totals, squares, weights = sums(data, guide, pilot, level, strengths, geometry, used, correlation)

    def average(planes: slice) -> None:
        part = planes, ...
        weight, total, known = weights[part], totals[:, planes, ...], guide[part]
        if wanted is not None:
            weight = xp.where(wanted[part], weight, xp.ones_like(weight))
        total, square = total / weight, squares[part] / weight
        if wanted is not None:
            total = xp.where(wanted[part], total, known)
            square = xp.where(wanted[part], square, xp.zeros_like(square))
        square = square - (total[0, ...] - known) ** 2
        totals[:, planes, ...] = total
        squares[part] = xp.sqrt(xp.where(square > 0, square, xp.zeros_like(square)))

    in_parts(average, data, SLAB_VOXELS)
    return tuple(totals[number, ...] for number in range(len(strengths))), squares


def in_rim(like: Array, inner: Box, share: float) -> Array:
    """True in a box along z, y and x, and in that share of the rim around it; of the shape of ``like``.

    >>> in_rim(np.zeros((1, 1, 9)), (slice(0, 1), slice(0, 1), slice(0, 3)), 0.5).astype(int).tolist()
    [[[1, 1, 1, 1, 1, 1, 0, 0, 0]]]
    """
    shape = tuple(like.shape)
    near = np.zeros(shape, bool)
    z, y, x = (
        slice(math.floor((1 - share) * side.start), side.stop + math.ceil(share * (size - side.stop)))
        for side, size in zip(inner, shape[-3:], strict=True)
    )
    near[..., z, y, x] = True
    return from_host(near, like)


def references_used(wanted: Array | None, shape: Sequence[int], geometry: Geometry) -> Array:
    """Bool array of all corners along time, z, y and x: True where a patch holds a wanted voxel.

    It lies where ``wanted`` does, and on the host where all voxels are wanted.
    """
    lengths, sides = in_frames(shape), (1, *geometry.patch)
    if wanted is None:
        return np.ones([size - p + 1 for size, p in zip(lengths, sides, strict=True)], bool)
    xp = namespace_of(wanted)
    used = xp.reshape(wanted, lengths)
    for axis, (size, side) in enumerate(zip(lengths, sides, strict=True)):
        before = (slice(None),) * axis
        shifted = [used[(*before, slice(first, first + size - side + 1), ...)] for first in range(side)]
        used = xp.asarray(shifted[0], copy=True)
        for each in shifted[1:]:
            used |= each
    return contiguous(used)


def sums_numba(
    data: Floats,
    guide: Floats,
    pilot: Floats | None,
    sigma: float,
    strengths: Sequence[float],
    geometry: Geometry,
    used: Bools,
    correlation: Autocorrelation = WHITE,
) -> tuple[Floats, Floats, Floats]:
    """Threaded kernel over all reference corners: weighted sums of the estimates, ``(m, ...)`` for ``m`` strengths, of
    the squares of the first one less the guide, and of 1.

    The result does not depend on the number of threads. Corners are cut into chunks along one axis, which is never x:
    the search compares whole rows. Patches of a chunk do not reach beyond the next one, so that first the even chunks
    and then the odd ones are added up side by side.
    """
    from .kernels_local import filter_groups, scratch_for

    patch, reach, group, _, frames, _ = geometry
    lengths, drift, moves = in_frames(data.shape), drift_of(geometry, data.shape), moves_of(geometry)
    ways = ways_of(geometry, data.shape)
    places = corners_of(lengths, geometry)
    extents = [2 * frames - 1, *(2 * r + p for r, p in zip(ways, patch, strict=True))]
    axis = max(range(3), key=lambda a: lengths[a] / extents[a])
    chunks = [places[axis][places[axis] // extents[axis] == n] for n in range(lengths[axis] // extents[axis] + 1)]
    totals = np.zeros((len(strengths), data.size), np.float32)
    squares, weights = np.zeros(data.size, np.float32), np.zeros(data.size, np.float32)  # one outlives the other
    arrays = (data, guide, data if pilot is None else pilot)
    y, where, model = (np.ascontiguousarray(array, dtype=np.float32).ravel() for array in arrays)
    integers = np.int32 if data.size < 2**31 else np.int64
    inside = (voxels_within(patch) @ strides_of(data.shape)[1:]).astype(integers)
    factors, window = np.array(strengths, np.float32), window_of(patch)
    shape, sides = np.array(lengths), np.array(patch)
    offsets, halving = offsets_within(reach, group), halving_order(group * frames)
    matrices = tuple(matrix.astype(np.float32) for matrix in matrices_of(correlation, patch))

    for parity in (0, 1):
        turn = [chunk for chunk in chunks[parity::2] if len(chunk)]

        def work(first: int, last: int, turn: list[Any] = turn) -> None:
            for chunk in turn[first:last]:
                times, planes, seconds, thirds = (chunk if a == axis else places[a] for a in range(4))
                firsts = grid_of([times, planes])
                scratch = scratch_for(
                    lengths, patch, group * frames, frames, len(moves), (len(seconds), len(thirds)), integers
                )
                filter_groups(
                    y, where, model, shape, pilot is not None, np.float32(sigma) ** 2, matrices, factors, sides, frames,
                    offsets, moves, drift, np.float32(STAYS), halving, inside, window, used, firsts, seconds, thirds,
                    totals, squares, weights, scratch,
                )  # fmt: skip

        if turn:
            share_out(work, len(turn))
    return totals.reshape(-1, *data.shape), squares.reshape(data.shape), weights.reshape(data.shape)


def ways_of(geometry: Geometry, shape: Sequence[int]) -> npt.NDArray[np.int64]:
    """How far from its reference a patch of a group may lie, along z, y and x."""
    ways = np.array(geometry.reach)
    if geometry.frames == 1:
        return ways
    ways += np.max(np.abs(moves_of(geometry)), axis=0)
    ways += np.ptp(drift_of(geometry, shape), axis=0)
    return ways


def sums_cuda(
    data: Array,
    guide: Array,
    pilot: Array | None,
    sigma: float,
    strengths: Sequence[float],
    geometry: Geometry,
    used: Array,
    correlation: Autocorrelation = WHITE,
    **by: Any,
) -> tuple[Array, Array, Array]:
    """GPU twin of :func:`sums_numba`; ``by`` is what launches the kernel in tests without a GPU."""
    from .kernels_local_cuda import Pass, sums_of_pass

    xp, lengths = namespace_of(data), in_frames(data.shape)
    z, y, x = ways_of(geometry, data.shape).tolist()
    given = Pass(
        references_of(lengths, geometry, xp.asarray(used)), offsets_within(geometry.reach, geometry.group),
        moves_of(geometry), drift_of(geometry, data.shape), halving_order(geometry.group * geometry.frames),
        window_of(geometry.patch), matrices_of(correlation, geometry.patch), STAYS, (z, y, x),
    )  # fmt: skip

    def plain(array: Array) -> Array:
        return contiguous(xp.astype(array, xp.float32, copy=False))

    model = None if pilot is None else plain(pilot)
    return sums_of_pass(plain(data), plain(guide), model, lengths, sigma, strengths, geometry, given, **by)


def sums_arrays(
    data: Array,
    guide: Array,
    pilot: Array | None,
    sigma: float,
    strengths: Sequence[float],
    geometry: Geometry,
    used: Array,
    correlation: Autocorrelation = WHITE,
) -> tuple[Array, Array, Array]:
    """Array twin of :func:`sums_numba`, in batches of reference corners."""
    xp = namespace_of(data)
    patch, columns = geometry.patch, geometry.group * geometry.frames
    references = to_host(references_of(in_frames(data.shape), geometry, used))
    inside, strides = voxels_within(patch), strides_of(data.shape)
    window = from_host(window_of(patch), data)
    haar = from_host(haar_matrix(columns).astype(np.float32), data)
    flat_guide = xp.reshape(guide, (-1,))
    totals: list[Any] = [0.0] * (len(strengths) + 2)
    for batch in batches(len(references), columns * math.prod(patch)):
        corners = nearest_corners(guide, references[batch], geometry) @ strides
        index = from_host((corners[:, :, None] + inside @ strides[1:]).reshape(-1), data)
        shape = (len(corners), columns, *patch)

        def take(array: Array, index: Array = index, shape: tuple[int, ...] = shape) -> Array:
            return xp.reshape(xp.take(xp.reshape(array, (-1,)), index), shape)

        estimates, power = shrunk(
            take(data), None if pilot is None else take(pilot), haar, sigma, strengths, correlation
        )
        scale = 1 / xp.where(power > 1, power, xp.ones_like(power))
        weight = xp.reshape(scale[:, None, None] * xp.ones((1, columns, 1)) * window[None, None, :], (-1,))
        change = xp.reshape(estimates[0], (-1,)) - xp.take(flat_guide, index)
        terms = [*(weight * xp.reshape(one, (-1,)) for one in estimates), weight * change**2, weight]
        for number, values in enumerate(terms):
            totals[number] = totals[number] + added(values, index, math.prod(data.shape))
    *sums, squares, weights = (xp.reshape(xp.astype(each, xp.float32), data.shape) for each in totals)
    return xp.stack(sums), squares, weights


def shrunk(
    x: Array, pilot: Array | None, haar: Array, sigma: float, strengths: Sequence[float], correlation: Autocorrelation
) -> tuple[list[Array], Array]:
    """Groups ``(n, K, p, p, p)`` after their cores were shrunk, one array a strength, and the power ``sum g^2`` of each
    group at the first strength, in noise of variance 1; shape ``(n,)``."""
    xp = namespace_of(x)
    factors = [patch_factor(x if pilot is None else pilot, mode) for mode in (2, 3, 4)]
    core = to_core(x, factors, haar)
    shares = 1.0 if correlation.white else shares_of(factors, correlation)
    variance = float(np.float32(sigma) ** 2) * shares
    if pilot is None:
        gains = [xp.astype(core**2 > strength**2 * variance, core.dtype) for strength in strengths]
    else:
        energy = to_core(pilot, factors, haar) ** 2
        gains = [energy / (energy + strength * variance) for strength in strengths]
    power = xp.sum(xp.reshape(gains[0] ** 2 * shares, (x.shape[0], -1)), axis=1)
    return [from_core(core * gain, factors, haar) for gain in gains], power


def shares_of(factors: Sequence[Array], correlation: Autocorrelation) -> Array:
    """Variances ``(n, 1, p, p, p)`` of the coefficients of noise of variance 1: see
    :mod:`tensorcell.solvers.autocorrelation`."""
    xp = namespace_of(*factors)
    patch = [factor.shape[1] for factor in factors]
    z, y, x = (
        xp.sum(factor * (from_host(matrix.astype(np.float32), factor) @ factor), axis=1)
        for factor, matrix in zip(factors, matrices_of(correlation, patch), strict=True)
    )
    return z[:, None, :, None, None] * y[:, None, None, :, None] * x[:, None, None, None, :]


def matrices_of(correlation: Autocorrelation, patch: Sequence[int]) -> tuple[Floats, ...]:
    """Correlation matrices of the noise of a patch along z, y and x; empty ones for white noise."""
    if correlation.white:
        return (np.zeros((0, 0)),) * 3
    return tuple(toeplitz(lags, size) for lags, size in zip(correlation, patch, strict=True))


def added(values: Array, index: Array, size: int) -> Array:
    """Sums of the values that go to each place."""
    xp = namespace_of(values)
    if hasattr(xp, "bincount"):
        return xp.bincount(index, weights=values, minlength=size)
    return from_host(np.bincount(to_host(index), weights=to_host(values), minlength=size), values)


def batches(count: int, elements: int) -> Iterator[slice]:
    """Slices of groups, about 16 million entries each."""
    size = max(1, (1 << 24) // elements)
    for first in range(0, count, size):
        yield slice(first, min(count, first + size))


def voxels_within(patch: Sequence[int]) -> npt.NDArray[np.int64]:
    """Positions ``(p^3, 3)`` of the voxels of a patch relative to its corner."""
    return grid_of([np.arange(size) for size in patch])


def strides_of(shape: Sequence[int]) -> npt.NDArray[np.int64]:
    """Distances in the flattened array between neighbours along time, z, y and x."""
    _, z, y, x = in_frames(shape)
    return np.array([z * y * x, y * x, x, 1])


def nearest_corners(guide: Array, references: npt.NDArray[np.int64], geometry: Geometry) -> npt.NDArray[np.int64]:
    """Corners ``(n, K, 4)`` of the group of each reference patch, on the host: its nearest patches, itself first, each
    in one frame after the other."""
    lengths, drift, moves = in_frames(guide.shape), drift_of(geometry, guide.shape), moves_of(geometry)
    frame, frames = references[:, 0], geometry.frames
    start = np.clip(frame - (frames - 1) // 2, 0, lengths[0] - frames)
    offsets = offsets_within(geometry.reach, geometry.group)
    alike = ranked(guide, references, np.column_stack([np.zeros(len(offsets), int), offsets]), 0.0, geometry)
    alike = references[:, None, 1:] + offsets[alike[:, : geometry.group]]
    corners = np.empty((len(references), geometry.group, frames, 4), np.int64)
    for later in range(1 - frames, frames):
        use = np.flatnonzero((frame + later >= start) & (frame + later < start + frames))
        if not len(use):
            continue
        way = (drift[frame[use] + later] - drift[frame[use]])[:, None]
        if later:
            moved = np.concatenate([np.zeros((len(use), len(moves), 1), np.int64) + later, way + moves], axis=2)
            best = ranked(guide, references[use], moved, STAYS, geometry)[:, 0]
            way = way + moves[best][:, None]
        place = np.clip(alike[use] + way, 0, np.array(lengths[1:]) - geometry.patch)
        column = frame[use] + later - start[use]
        corners[use, :, column, 0] = (frame[use] + later)[:, None]
        corners[use, :, column, 1:] = place
    return corners.reshape(len(references), -1, 4)


def ranked(
    guide: Array, references: npt.NDArray[np.int64], offsets: npt.NDArray[np.int64], favour: float, geometry: Geometry
) -> npt.NDArray[np.int64]:
    """Numbers of the offsets ``(m, 4)``, or ``(n, m, 4)``, of each reference, by the distance of the patches there.

    The distance at the first offset counts ``favour`` times; patches outside of the volume come last.
    """
    xp = namespace_of(guide)
    limits = np.array(in_frames(guide.shape)) - (1, *geometry.patch)
    strides = strides_of(guide.shape)
    inside = voxels_within(geometry.patch) @ strides[1:]
    flat = xp.reshape(guide, (-1,))
    here = references @ strides
    own = xp.take(flat, from_host((here[:, None] + inside).reshape(-1), guide))
    offsets = np.broadcast_to(offsets, (len(references), *offsets.shape[-2:]))
    columns = []
    for number in range(offsets.shape[1]):
        moved = references + offsets[:, number]
        valid = np.all((moved >= 0) & (moved <= limits), axis=1)
        cells = np.where(valid, moved @ strides, here)
        other = xp.take(flat, from_host((cells[:, None] + inside).reshape(-1), guide))
        distance = xp.sum(xp.reshape((own - other) ** 2, (len(references), -1)), axis=1)
        distance = distance * (1.0 if number else favour)
        columns.append(xp.where(from_host(valid, guide), distance, xp.full_like(distance, xp.inf)))
    return np.asarray(to_host(xp.argsort(xp.stack(columns, axis=1), axis=1, stable=True)))


def patch_factor(groups: Array, mode: int) -> Array:
    """Eigenvectors ``(n, p, p)`` of the Gram matrices of one axis of the patches ``(n, K, p, p, p)``."""
    xp = namespace_of(groups)
    unfolded = xp.moveaxis(groups, mode, 1)
    unfolded = xp.reshape(unfolded, (*unfolded.shape[:2], -1))
    return xp.linalg.eigh(unfolded @ xp.matrix_transpose(unfolded))[1]


def along(groups: Array, matrices: Array, mode: int) -> Array:
    """Product of each group with the transpose of its matrix along one mode."""
    xp = namespace_of(groups)
    moved = xp.moveaxis(groups, mode, 1)
    product = xp.matrix_transpose(matrices) @ xp.reshape(moved, (*moved.shape[:2], -1))
    return xp.moveaxis(xp.reshape(product, moved.shape), 1, mode)


def to_core(groups: Array, factors: Sequence[Array], haar: Array) -> Array:
    """``X x_0 H x_n U_n'``."""
    xp = namespace_of(groups)
    for mode, factor in enumerate(factors, 2):
        groups = along(groups, factor, mode)
    return along(groups, xp.matrix_transpose(haar)[None], 1)


def from_core(core: Array, factors: Sequence[Array], haar: Array) -> Array:
    """The inverse of :func:`to_core`."""
    xp = namespace_of(core)
    for mode, factor in enumerate(factors, 2):
        core = along(core, xp.matrix_transpose(factor), mode)
    return along(core, haar[None], 1)


def haar_matrix(size: int) -> Floats:
    """Orthonormal Haar transform ``(K, K)`` of a power of two: averages first."""
    if size == 1:
        return np.ones((1, 1))
    half = haar_matrix(size // 2)
    return np.concatenate([np.kron(half, [1, 1]), np.kron(np.eye(size // 2), [1, -1])]) / math.sqrt(2)
