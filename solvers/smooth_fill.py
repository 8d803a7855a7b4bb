"""Gaps filled by the smoothest volume through the measured voxels: a thin plate in three dimensions.

The fill ``u`` minimises the energy of a thin plate, with the measured voxels fixed::

    E(u) = sum_ab w_a w_b ||D_a D_b u||^2,        w = (axial, 1, 1)

where ``D_a D_a`` is the second difference along axis a and ``D_a D_b`` the mixed one, each wherever all of its voxels
lie in the volume: nothing is assumed beyond the borders, and a linear ramp has no energy. Where the noise is to be
smoothed out, too, the measured voxels are not fixed, and ``sum_measured (u - y)^2 + smoothing E(u)`` is minimised.

With ``G_a`` the second difference of a volume that is mirrored at its borders, ``E(u) = ||sum_a w_a G_a u||^2`` but for
``G_a G_a`` at the first and last voxel of each line, whose steps to their neighbours ``E`` does not count. Inside, this
is the biharmonic equation, which conjugate gradients solve for the voxels that are not measured.

References
----------
S. Damelin, N. Hoang, On surface completion and image inpainting by biharmonic functions: numerical aspects,
doi:10.1155/2018/3950312. G. Wahba, Spline models for observational data, doi:10.1137/1.9781611970128 (thin plates).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from .arrays import Array, clip, entries, is_numpy, namespace_of, scalar, within_mask
from .slabs import thick_parts, widened
from .spread import robust_sigma
from .threads import share_out

Floats = npt.NDArray[np.floating]

AXES = (-3, -2, -1)
"""Axes of the plate; frames before them are separate."""

TOLERANCE, COARSE = 1e-3, 0.03
"""Share of the first residual at which the steps end: the fill differs by far less than it errs then. The other is for
a smoothed stack, from which only what stands out is read."""

RIM = 2
"""Planes on either side that the energy of a plane depends on."""

MOST_STEPS = 200
"""Largest number of steps of conjugate gradients; gaps of a few voxels need 20 to 80."""

STANDS_OUT = 5.0
"""Measured voxels further than this many robust standard deviations from a smoothed stack are not interpolated."""


def smooth_fill(
    values: Array,
    known: Array,
    *,
    axial: float = 1.0,
    smoothing: float = 0.0,
    start: Array | None = None,
    tolerance: float = TOLERANCE,
) -> Array:
    """The smoothest volume through the measured voxels, within the range of their values.

    Parameters
    ----------
    values : float array ``(..., Z, Y, X)``
        Measured intensities, in any unit; any finite number elsewhere.
    known : bool array of the same shape
        True = measured; at least one voxel.
    axial : float
        Weight of bending along z, positive: larger where the stack changes less from plane to plane than within planes.
    smoothing : float
        Weight of the energy against the squared deviations from the measurement; 0: measured voxels are kept.
    start : float array of the same shape, optional
        A first guess; a closer one takes fewer steps. The mean of the measured voxels where none is given.
    tolerance : float
        Share of the first residual at which the steps end.

    Returns
    -------
    float array of the same shape, dtype and namespace (NumPy or CuPy)

    Notes
    -----
    A step takes about 15 passes over the volume; memory beyond the result: three volumes and some planes.

    Examples
    --------
    >>> import numpy as np
    >>> ramp = np.arange(4.0) + np.zeros((3, 3, 1))
    >>> known = np.ones(ramp.shape, bool)
    >>> known[1, 1, 1:3] = False
    >>> bool(np.allclose(smooth_fill(np.where(known, ramp, 0), known), ramp, atol=1e-2))
    True
    """
    xp = namespace_of(values, known, start)
    measured = entries(values, known)
    centre = scalar(xp.mean(measured, dtype=xp.float64))
    low, high = scalar(xp.min(measured)), scalar(xp.max(measured))
    del measured
    weights = (axial, 1.0, 1.0)
    guess = xp.zeros_like(values) if start is None else start - xp.asarray(centre, dtype=values.dtype)
    if smoothing > 0:

        def normal(u: Array) -> Array:
            found = bending(u, weights)
            found *= smoothing
            for slab in thick_parts(u):
                found[slab] += within_mask(u[slab], known[slab])
            return found

        found = conjugate_gradients(normal, deviation(values, known, centre), guess, tolerance)
    else:

        def normal(u: Array) -> Array:  # u is 0 at measured voxels
            found = bending(u, weights)
            for slab in thick_parts(u):
                found[slab] = within_mask(found[slab], ~known[slab])
            return found

        right = normal(deviation(values, known, centre))
        right *= -1
        guess = within_mask(guess, ~known)
        found = conjugate_gradients(normal, right, guess, tolerance)
        found += deviation(values, known, centre)
    found += xp.asarray(centre, dtype=values.dtype)
    return clip(found, low, high)


def deviation(values: Array, known: Array, centre: float) -> Array:
    """Measured values less a number, 0 elsewhere."""
    xp = namespace_of(values)
    return within_mask(values - xp.asarray(centre, dtype=values.dtype), known)


def bending(volume: Array, weights: tuple[float, ...]) -> Array:
    """Half of the gradient of ``E``: ``sum_ab w_a w_b D_a' D_b' D_a D_b u``, a few planes at a time."""
    xp = namespace_of(volume)
    found = xp.empty(volume.shape, dtype=volume.dtype)  # in C order, so that its frames are views
    of_frame = bending_numba if is_numpy(xp) else bending_arrays
    for frame, out in zip(stacks_of(volume), stacks_of(found), strict=True):
        of_frame(frame, weights, out)
    return found


def bending_numba(frame: Floats, weights: tuple[float, ...], out: Floats) -> None:
    """The bending of one frame by a threaded kernel; its twin is :func:`bending_arrays`."""
    from .kernels_fills import bend

    each = np.array(weights, frame.dtype), np.square(weights).astype(frame.dtype)
    share_out(lambda begin, end: bend(frame, *each, out, begin, end), len(frame))


def bending_arrays(frame: Array, weights: tuple[float, ...], out: Array) -> None:
    """Array twin of :func:`bending_numba`."""
    for slab in thick_parts(frame):
        wide, inside = widened(slab, len(frame), RIM)
        out[slab] = bending_of_slab(frame[wide], weights)[inside]


def bending_of_slab(volume: Array, weights: tuple[float, ...]) -> Array:
    """The same for a whole volume, whose first and last planes are borders."""
    xp = namespace_of(volume)
    found = laplacian(laplacian(volume, weights), weights)
    for axis, weight in zip(AXES, weights, strict=True):
        if volume.shape[axis] > 1:
            line, out = xp.moveaxis(volume, axis, 0), xp.moveaxis(found, axis, 0)
            for end, inner in ((0, 1), (-1, -2)):
                step = weight**2 * (line[end] - line[inner])
                out[end] -= step
                out[inner] += step
    return found


def laplacian(volume: Array, weights: tuple[float, ...]) -> Array:
    """``sum_a w_a G_a u``, with the sign of ``-u``."""
    xp = namespace_of(volume)
    found = xp.zeros_like(volume)
    for axis, weight in zip(AXES, weights, strict=True):
        step = xp.diff(xp.moveaxis(volume, axis, 0), axis=0)
        step *= weight
        out = xp.moveaxis(found, axis, 0)
        out[:-1] -= step
        out[1:] += step
    return found


def conjugate_gradients(normal: Callable[[Array], Array], right: Array, start: Array, tolerance: float) -> Array:
    """The solution of ``normal(u) = right``, a symmetric positive system; shapes are those of the volume.

    To save memory, ``right`` and ``start`` are written over.
    """
    found, rest, enough = start, right, inner(right, right)
    rest -= normal(start)
    direction, square = rest.copy(), inner(rest, rest)
    enough = tolerance**2 * max(enough, square)
    for _ in range(MOST_STEPS):
        if square <= enough:
            break
        image = normal(direction)
        bent = inner(direction, image)
        if bent <= 0:  # rounding
            break
        step = square / bent
        image *= step
        rest -= image
        for slab in thick_parts(found):
            found[slab] += step * direction[slab]
        del image
        before, square = square, inner(rest, rest)
        direction *= square / before
        direction += rest
    return found


def inner(one: Array, other: Array) -> float:
    """The sum of the products, a few planes at a time."""
    xp = namespace_of(one, other)
    total = xp.zeros((), dtype=xp.float64)
    for here, there in zip(stacks_of(one), stacks_of(other), strict=True):
        for slab in thick_parts(here):  # BLAS would sum in an order that depends on its threads
            total = total + xp.sum(here[slab] * there[slab], dtype=xp.float64)
    return scalar(total)


def stacks_of(volume: Array) -> Array:
    """The frames ``(T, Z, Y, X)`` of a volume, a view."""
    return volume.reshape(-1, *volume.shape[-3:])


def in_line(values: Array, known: Array, start: Array) -> Array:
    """Measured voxels that do not stand out from a smoothed stack, by which outliers that remained are left out.

    An outlier draws the smoothed stack to itself and less so its neighbours, so that the voxels are judged twice. The
    arguments are those of :func:`smooth_fill`.
    """
    xp, sound, smoothed = namespace_of(values, known), known, start
    for _ in range(2):
        smoothed = smooth_fill(values, sound, smoothing=1.0, start=smoothed, tolerance=COARSE)
        off = within_mask(values - smoothed, known)
        sound = known & (xp.abs(off) <= STANDS_OUT * robust_sigma(entries(off, sound)))
    return sound
