"""Local low rank: groups of similar patches, each shrunk as a small Tucker tensor.

Biological volumes are not of low rank as a whole; the tensor of a few dozen similar patches is. For each reference
patch ``K`` nearest ones within a window are stacked to ``X`` of shape ``(K, p, p, p)``. Its factors along the patch
axes are those of its HOSVD, the one along the stack is the Haar transform (adapted factors of that mode fit the noise:
``K`` patches have as many unknowns there as samples); its core is thresholded in a first stage, and in a second one
multiplied by Wiener's gains with factors and energies from the first estimate. The patches go back to their places and
are averaged, with weights by the energy kept.

==========  =====================================================================  =====================
symbol      meaning                                                                shape, unit
==========  =====================================================================  =====================
``Y, W``    data, mask                                                             ``(Z, Y, X)``
``E``       sparse outliers                                                        ``(Z, Y, X)``
``T``       completed data: ``Y - E`` where observed, the estimate elsewhere       ``(Z, Y, X)``
``X``       one group of similar patches                                           ``(K, p, p, p)``
``U_n``     factors of a group; ``U_0`` the Haar transform                         ``(p, p)``, ``(K, K)``
``C``       core ``X x_n U_n'``                                                    ``(K, p, p, p)``
``sigma``   standard deviation of the noise                                        unit of the data
``s_j``     noise level assumed in sweep j of a completion, descending             unit of the data
==========  =====================================================================  =====================

Stage one (hard threshold): ``C <- C [|C| > 2.9 sigma]``. Stage two (Wiener, pilot group with core ``P`` in the pilot's
factors): ``C <- C P^2 / (P^2 + c sigma^2)``.

Missing voxels are completed by the groups: sweep j filters ``T`` at level ``s_j`` and puts the result where nothing was
observed. Measured voxels further than ``4.5 s_j`` from the estimate count as missing in the next sweep, and
``E = Y - X`` there: a soft threshold would leave its own height of the outlier in the group, whose factors follow it.
The levels fall from the error of the start to the noise, as the thresholds of robust PCA do.

Denoising combines a gentle and a strong second stage with the first stage and the data itself, with the weights (on the
simplex, for each class of local contrast) that minimise Stein's unbiased estimate of the squared error; its divergence
comes from one more run on perturbed data.

References
----------
.. [1] M. Maggioni, V. Katkovnik, K. Egiazarian, A. Foi, Nonlocal transform-domain filter for volumetric data denoising
   and reconstruction, doi:10.1109/TIP.2012.2210725 (BM4D: groups, two stages, aggregation).
.. [2] A. Rajwade, A. Rangarajan, A. Banerjee, Image denoising using the higher order singular value decomposition,
   doi:10.1109/TPAMI.2012.140 (HOSVD of groups).
.. [3] S. Ramani, T. Blu, M. Unser, Monte-Carlo SURE, doi:10.1109/TIP.2008.2001404 (the divergence of a black box).
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .arrays import Array, from_host, is_numpy, namespace_of, scalar, to_host
from .results import IterationRecord
from .threads import one_blas_thread, share_out

Floats = npt.NDArray[np.floating[Any]]

HARD = 2.9
"""Hard threshold in noise levels: a little above the usual 2.7, since the factors follow the noise."""
OUTLIER = 4.5
"""Outlier threshold in noise levels: Gaussian noise exceeds it once in 150 000 voxels."""
GUIDE_WIDTH = 0.5
"""Gaussian width, in voxels, of what noisy data are smoothed with before patches are compared."""
PERTURBATION = 0.1
"""Step, in noise levels, of the divergence's finite difference."""
TRIAL_VOXELS = 450_000
RIM = 3
CONTRAST_WIDTH = 1.5
CLASSES, CLASS_VOXELS = 4, 30_000
"""Classes of local contrast, and the fewest voxels that tell a class its weights."""


@dataclass(frozen=True, kw_only=True)
class LocalOptions:
    """Options of :func:`local_tucker`.

    Attributes
    ----------
    patch : int or three ints
        Sides of a patch; cut to the volume's sides.
    reach : int or three ints
        Similar patches are looked for at most this far away along each axis.
    group : int
        Patches in a group, a power of two.
    step : int
        Distance between reference patches; the cost falls with its cube.
    sweeps : int
        Sweeps that complete missing voxels.
    """

    patch: int | tuple[int, int, int] = 5
    reach: int | tuple[int, int, int] = 5
    group: int = 32
    step: int = 3
    sweeps: int = 6

    def __post_init__(self) -> None:
        for name, least in (("patch", 1), ("reach", 0)):
            given = getattr(self, name)
            numbers = three(given)
            if len(numbers) != 3 or not all(isinstance(n, int) and n >= least for n in numbers):
                raise ValueError(f"expected {name} as a whole number of at least {least}, or three, got {given!r}")
        if self.group < 1 or self.group & (self.group - 1):
            raise ValueError(f"expected a power of two as group, got {self.group}")
        if self.step < 1 or self.sweeps < 1:
            raise ValueError(f"expected step and sweeps of at least 1, got {self.step} and {self.sweeps}")

    @property
    def sides(self) -> tuple[int, int, int]:
        """Sides of a patch along z, y and x."""
        return three(self.patch)


def three(value: int | tuple[int, int, int]) -> tuple[int, int, int]:
    """One number for all axes, or the three given."""
    return (value, value, value) if isinstance(value, int) else value


class Geometry(NamedTuple):
    """Patches of one filter pass, fitted to a volume."""

    patch: tuple[int, ...]
    reach: tuple[int, ...]
    group: int
    step: int


@dataclass(frozen=True, kw_only=True)
class LocalResult:
    """What :func:`local_tucker` returns; arrays ``(Z, Y, X)`` in the data's namespace and unit.

    Attributes
    ----------
    value : float array
        The estimate, at measured voxels too (denoised).
    spread : float array
        Disagreement of the overlapping estimates of each voxel, a standard deviation: it ranks voxels by how uncertain
        they are and has to be scaled to become an error.
    error : float array or None
        Standard deviation of the error where ``value`` denoises a measured voxel: Stein's estimate, as a function
        of the spread. None where nothing was denoised.
    outliers : float array
        ``E``, zero where nothing was flagged.
    weights : dict of str to float
        What denoising combined.
    predicted : float
        Root mean squared error of ``value`` at measured voxels by Stein's estimate; NaN where nothing was denoised.
    history : tuple of IterationRecord
        The completion sweeps, after what was given.
    """

    value: Array
    spread: Array
    error: Array | None
    outliers: Array
    weights: dict[str, float]
    predicted: float
    history: tuple[IterationRecord, ...]


Callback = Callable[[IterationRecord, Any], bool | None]


@one_blas_thread()
def local_tucker(
    data: Array,
    mask: Array | None = None,
    *,
    noise: float,
    initial: Array | None = None,
    levels: Sequence[float] | None = None,
    robust: bool = True,
    denoise: bool = True,
    options: LocalOptions | None = None,
    callback: Callback | None = None,
    history: tuple[IterationRecord, ...] = (),
    seed: int = 0,
) -> LocalResult:
    """Complete and denoise a volume by low-rank models of groups of similar patches.

    Parameters
    ----------
    data : array ``(Z, Y, X)``
        Any real type and unit; anything, NaN too, where the mask is False. Computed in float32, relative to the mean.
    mask : bool array of the same shape, or None
        True = observed; None: every voxel.
    noise : float
        Standard deviation of white Gaussian noise, in the data's unit (stabilise the variance of other noise first).
    initial : array of the same shape, optional
        A first guess; a mean over neighbours where not given. With ``robust`` it should not hold the data themselves
        where they were observed, since voxels are judged by it.
    levels : sequence of float, optional
        Noise levels of the sweeps that complete missing voxels, descending: the first about as large as the error of
        ``initial``. Default: from a quarter of the standard deviation of the data to the noise.
    robust : bool
        Look for outliers in the sweeps.
    denoise : bool
        Whether to denoise measured voxels after the completion; False ends with a second stage at the last level.
    options : LocalOptions, optional
    callback : callable, optional
        ``callback(record, estimate)`` after each sweep; returning True stops the sweeps.
    history : tuple of IterationRecord
        Records of earlier stages, continued.
    seed : int
        Of the perturbation that Stein's estimate needs.

    Returns
    -------
    LocalResult

    Raises
    ------
    TypeError, ValueError
        If the arguments do not fit together.

    Notes
    -----
    Linear in the number of voxels. A volume thinner than a patch has its patches cut to fit. Memory beyond data and
    mask: about 70 bytes a voxel.

    Examples
    --------
    >>> import numpy as np
    >>> z, y, x = np.mgrid[:12, :24, :24] / 6
    >>> truth = np.sin(x + z) * np.cos(y)
    >>> noisy = truth + 0.2 * np.random.default_rng(0).standard_normal(truth.shape)
    >>> error = local_tucker(noisy, noise=0.2).value - truth
    >>> bool(error.std() < 0.05)
    True
    """
    options = LocalOptions() if options is None else options
    y, seen, centre = checked(data, mask, noise)
    xp = namespace_of(y)
    start = None if initial is None else xp.astype(initial - centre, xp.float32)
    if start is not None and start.shape != y.shape:
        raise ValueError(f"initial has shape {tuple(start.shape)}, data has {tuple(y.shape)}")
    sigma = float(noise)
    records = list(history)
    began = time.perf_counter() - (history[-1].seconds if history else 0.0)
    sparse = xp.zeros_like(y)
    spread = xp.zeros_like(y)
    completed = y
    if not bool(xp.all(seen)):
        steps = checked_levels(levels, y, seen, sigma, options.sweeps)
        estimate = neighbour_mean(y, seen) if start is None else start
        geometry = fitted(options, y.shape)
        if robust:
            sparse = far_off(y, seen, estimate, OUTLIER * steps[0])
        completed = xp.where(seen & (sparse == 0), y, estimate)
        for number, level in enumerate(steps, len(history) + 1):
            estimate, spread = filtered(completed, completed, None, level, HARD, geometry)
            if robust:
                sparse = far_off(y, seen, estimate, OUTLIER * level)
            before = completed
            completed = xp.where(seen & (sparse == 0), y, estimate)
            size = scalar(xp.linalg.vector_norm(completed))
            change = scalar(xp.linalg.vector_norm(completed - before)) / max(size, 1e-30)
            record = IterationRecord(
                iteration=number, stage="local", change=change, residual=level, outliers=int(xp.count_nonzero(sparse)),
                threshold=OUTLIER * level, seconds=time.perf_counter() - began,
            )  # fmt: skip
            records.append(record)
            if callback is not None and callback(record, completed):
                break
    weights: dict[str, float] = {}
    predicted, error = math.nan, None
    if denoise and sigma > 0:
        value, spread, error, weights, predicted = denoised(completed, seen, sigma, options, seed)
    elif bool(xp.all(seen)):
        value = y
    else:
        value, spread = filtered(completed, estimate, estimate, steps[-1], 1.0, geometry)
    dtype = data.dtype if data.dtype in (xp.float32, xp.float64) else xp.float64
    return LocalResult(
        value=xp.astype(value, dtype) + centre,
        spread=xp.astype(spread, dtype),
        error=None if error is None else xp.astype(error, dtype),
        outliers=xp.astype(sparse, dtype),
        weights=weights,
        predicted=predicted,
        history=tuple(records),
    )


def far_off(y: Array, seen: Array, estimate: Array, threshold: float) -> Array:
    """``E``: what measured voxels are off where that is more than the threshold."""
    xp = namespace_of(y)
    residual = y - estimate
    return xp.where(seen & (xp.abs(residual) > threshold), residual, xp.zeros_like(residual))


def checked(data: Array, mask: Array | None, noise: float) -> tuple[Array, Array, float]:
    """Observed data less their mean in float32 (0 elsewhere), the mask, the mean."""
    xp = namespace_of(data, mask)
    if data.ndim != 3:
        raise ValueError(f"expected 3 axes (z, y, x), got {data.ndim}")
    if not (xp.isdtype(data.dtype, "real floating") or xp.isdtype(data.dtype, ("bool", "integral"))):
        raise TypeError(f"expected real numbers, got dtype {data.dtype}")
    if not (noise >= 0 and math.isfinite(noise)):
        raise ValueError(f"expected noise as a standard deviation of at least 0, got {noise}")
    if mask is None:
        mask = xp.ones(data.shape, dtype=xp.bool)
    if mask.shape != data.shape:
        raise ValueError(f"mask has shape {tuple(mask.shape)}, data has {tuple(data.shape)}")
    if mask.dtype != xp.bool:
        raise TypeError(f"expected a bool mask, got dtype {mask.dtype}")
    total = int(xp.count_nonzero(mask))
    if total == 0:
        raise ValueError("expected at least one observed voxel, got none")
    zero = xp.zeros_like(data)
    centre = scalar(xp.sum(xp.where(mask, data, zero), dtype=xp.float64)) / total
    if not math.isfinite(centre):
        raise ValueError("expected finite numbers at observed voxels")
    return xp.where(mask, xp.astype(data - centre, xp.float32), xp.zeros(data.shape, dtype=xp.float32)), mask, centre


def checked_levels(
    levels: Sequence[float] | None, y: Array, seen: Array, sigma: float, sweeps: int
) -> tuple[float, ...]:
    """The noise levels of the sweeps."""
    if levels is not None:
        if not len(levels) or not all(level > 0 and math.isfinite(level) for level in levels):
            raise ValueError(f"expected positive levels, got {tuple(levels)}")
        return tuple(map(float, levels))
    xp = namespace_of(y)
    deviation = math.sqrt(scalar(xp.sum(y**2, dtype=xp.float64)) / max(1, int(xp.count_nonzero(seen))))
    first = max(deviation / 4, sigma, 1e-30)
    return tuple(np.geomspace(first, max(sigma, first / 16), sweeps).tolist())


def fitted(options: LocalOptions, shape: Sequence[int]) -> Geometry:
    """Patches no larger than the volume, groups no larger than a corner's window."""
    patch = tuple(min(p, size) for p, size in zip(options.sides, shape, strict=True))
    reach = tuple(min(r, size - p) for r, size, p in zip(three(options.reach), shape, patch, strict=True))
    candidates = math.prod(r + 1 for r in reach)
    group = min(options.group, 1 << int(math.log2(candidates)))
    return Geometry(patch, reach, group, min(options.step, *patch))


def corners_along(size: int, patch: int, step: int) -> npt.NDArray[np.int64]:
    """Reference corners along one axis: every step-th, and the last one that fits."""
    corners = np.arange(0, size - patch + 1, step)
    return corners if corners[-1] == size - patch else np.append(corners, size - patch)


def window_of(patch: Sequence[int]) -> Floats:
    """Kaiser window of a patch, flat: patches fade out at their rims."""
    rim = [np.kaiser(size, 2.0) for size in patch]
    return (rim[0][:, None, None] * rim[1][:, None] * rim[2]).ravel().astype(np.float32)


def filtered(
    data: Array, guide: Array, pilot: Array | None, sigma: float, strength: float, geometry: Geometry
) -> tuple[Array, Array]:
    """One pass over all groups: the average of the overlapping estimates, and their standard deviation.

    Parameters
    ----------
    data : float32 array ``(Z, Y, X)``
        What is filtered.
    guide : float32 array
        Where patches are compared.
    pilot : float32 array or None
        None: hard threshold at ``strength sigma``. Otherwise Wiener's gains ``P^2 / (P^2 + strength sigma^2)``.
    """
    xp = namespace_of(data, guide)
    passes = filter_numba if is_numpy(xp) else filter_arrays
    total, squares, weights = passes(data, guide, pilot, sigma, strength, geometry)
    mean = total / weights
    variance = squares / weights - mean**2
    return guide + mean, xp.sqrt(xp.where(variance > 0, variance, xp.zeros_like(variance)))


def filter_numba(
    data: Floats, guide: Floats, pilot: Floats | None, sigma: float, strength: float, geometry: Geometry
) -> tuple[Floats, Floats, Floats]:
    """Threaded kernel over all reference corners; the result does not depend on the number of threads.

    Corners are cut into chunks along one axis. Patches of a chunk do not reach beyond the next one, so that first the
    even and then the odd chunks are added up side by side.
    """
    patch, reach, group, step = geometry
    places = [corners_along(size, p, step) for size, p in zip(data.shape, patch, strict=True)]
    extents = [2 * r + p for r, p in zip(reach, patch, strict=True)]
    axis = max(range(3), key=lambda a: data.shape[a] / extents[a])
    from .kernels_local import filter_groups

    chunks = [places[axis][places[axis] // extents[axis] == n] for n in range(data.shape[axis] // extents[axis] + 1)]
    total, squares, weights = (np.zeros(data.shape, np.float32) for _ in range(3))
    y, where = (np.ascontiguousarray(array, dtype=np.float32) for array in (data, guide))
    model = y if pilot is None else np.ascontiguousarray(pilot, dtype=np.float32)
    sides, distances, window = np.array(patch), np.array(reach), window_of(patch)

    for parity in (0, 1):
        turn = [chunk for chunk in chunks[parity::2] if len(chunk)]

        def work(first: int, last: int, turn: list[Any] = turn) -> None:
            for chunk in turn[first:last]:
                firsts, seconds, thirds = (chunk if a == axis else places[a] for a in range(3))
                filter_groups(
                    y, where, model, pilot is not None, np.float32(sigma) ** 2, strength, sides, distances, group,
                    window, firsts, seconds, thirds, total, squares, weights,
                )  # fmt: skip

        if turn:
            share_out(work, len(turn))
    return total, squares, weights


def filter_arrays(
    data: Array, guide: Array, pilot: Array | None, sigma: float, strength: float, geometry: Geometry
) -> tuple[Array, Array, Array]:
    """Array twin of the kernel, in batches of reference corners: weighted sums of ``X - guide``, its square, and 1."""
    xp = namespace_of(data)
    patch, _, group, step = geometry
    places = [corners_along(size, p, step) for size, p in zip(data.shape, patch, strict=True)]
    references = np.stack(np.meshgrid(*places, indexing="ij"), axis=-1).reshape(-1, 3)
    inside = np.stack(np.meshgrid(*map(np.arange, patch), indexing="ij"), axis=-1).reshape(-1, 3)
    strides = np.array([data.shape[1] * data.shape[2], data.shape[2], 1])
    window = from_host(window_of(patch), data)
    haar = from_host(haar_matrix(group).astype(np.float32), data)
    level = float(np.float32(sigma) ** 2)
    flat_guide = xp.reshape(guide, (-1,))
    totals: list[Any] = [0.0, 0.0, 0.0]
    for batch in batches(len(references), group * math.prod(patch)):
        corners = nearest_corners(guide, references[batch], geometry)
        cells = corners @ strides
        index = from_host((cells[:, :, None] + inside @ strides).reshape(-1), data)
        shape = (len(corners), group, *patch)

        def take(array: Array, index: Array = index, shape: tuple[int, ...] = shape) -> Array:
            return xp.reshape(xp.take(xp.reshape(array, (-1,)), index), shape)

        x = take(data)
        model = x if pilot is None else take(pilot)
        factors = [patch_factor(model, mode) for mode in (2, 3, 4)]
        core = to_core(x, factors, haar)
        if pilot is None:
            kept = core**2 > strength**2 * level
            core = xp.where(kept, core, xp.zeros_like(core))
            gains = xp.astype(kept, core.dtype)
        else:
            energy = to_core(model, factors, haar) ** 2
            gains = energy / (energy + strength * level)
            core = core * gains
        estimate = from_core(core, factors, haar)
        power = xp.sum(xp.reshape(gains**2, (len(corners), -1)), axis=1)
        scale = 1 / xp.where(power > 1, power, xp.ones_like(power))
        weight = xp.reshape(scale[:, None, None] * xp.ones((1, group, 1)) * window[None, None, :], (-1,))
        change = xp.reshape(estimate, (-1,)) - xp.take(flat_guide, index)
        for number, values in enumerate((weight * change, weight * change**2, weight)):
            totals[number] = totals[number] + added(values, index, math.prod(data.shape))
    total, squares, weights = (xp.reshape(xp.astype(each, xp.float32), data.shape) for each in totals)
    return total, squares, weights


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


def nearest_corners(guide: Array, references: npt.NDArray[np.int64], geometry: Geometry) -> npt.NDArray[np.int64]:
    """Corners ``(n, K, 3)`` of the nearest patches of each reference, itself first, on the host."""
    xp = namespace_of(guide)
    patch, reach, group, _ = geometry
    limits = np.array(guide.shape) - patch
    inside = np.stack(np.meshgrid(*map(np.arange, patch), indexing="ij"), axis=-1).reshape(-1, 3)
    strides = np.array([guide.shape[1] * guide.shape[2], guide.shape[2], 1])
    flat = xp.reshape(guide, (-1,))
    here = references @ strides
    own = xp.take(flat, from_host((here[:, None] + inside @ strides).reshape(-1), guide))
    offsets = np.array(list(itertools.product(*(range(-r, r + 1) for r in reach))))
    columns = []
    for offset in offsets:
        moved = references + offset
        valid = np.all((moved >= 0) & (moved <= limits), axis=1)
        cells = np.where(valid, moved @ strides, here)
        other = xp.take(flat, from_host((cells[:, None] + inside @ strides).reshape(-1), guide))
        distance = xp.sum(xp.reshape((own - other) ** 2, (len(references), -1)), axis=1)
        distance = xp.where(from_host(valid, guide), distance, xp.full_like(distance, xp.inf))
        columns.append(-xp.ones_like(distance) if not offset.any() else distance)
    order = xp.argsort(xp.stack(columns, axis=1), axis=1, stable=True)[:, :group]
    return np.asarray(references[:, None, :] + offsets[to_host(order)])


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
    """Orthonormal Haar transform of a power of two: averages first."""
    if size == 1:
        return np.ones((1, 1))
    half = haar_matrix(size // 2)
    return np.concatenate([np.kron(half, [1, 1]), np.kron(np.eye(size // 2), [1, -1])]) / math.sqrt(2)


def neighbour_mean(y: Array, seen: Array) -> Array:
    """A first guess: Gaussian means over observed neighbours, the voxel left out, the narrowest that reaches any."""
    from scipy import ndimage

    values, known = to_host(y), to_host(seen).astype(np.float32)
    guess, found = np.zeros_like(values), np.zeros(values.shape, bool)
    spike = np.zeros((3, 3, 3), np.float32)
    spike[1, 1, 1] = 1
    for width in (0.6, 1.0, 2.0, 4.0, 8.0):
        own = float(ndimage.gaussian_filter(np.pad(spike, 32), width)[33, 33, 33])
        weight = ndimage.gaussian_filter(known, width) - own * known
        total = ndimage.gaussian_filter(values, width) - own * values
        new = (weight > 0.02) & ~found
        guess[new] = total[new] / weight[new]
        found |= new
        if found.all():
            break
    return from_host(guess, y)


def smoothed(y: Array) -> Array:
    """Noisy data, smoothed a little so that patches are compared by what they show."""
    from scipy import ndimage

    return from_host(ndimage.gaussian_filter(to_host(y), GUIDE_WIDTH), y)


def candidates(completed: Array, sigma: float, options: LocalOptions) -> dict[str, tuple[Array, Array]]:
    """Estimates of different strength, each with its spread."""
    geometry = fitted(options, completed.shape)
    p, q, r = (side + (side > 1) for side in options.sides)
    large = LocalOptions(patch=(p, q, r), reach=options.reach, group=2 * options.group, step=options.step + 1)
    wide = fitted(large, completed.shape)
    first = filtered(completed, smoothed(completed), None, sigma, HARD, geometry)
    gentle = filtered(completed, first[0], first[0], sigma, 0.5, geometry)
    strong = filtered(completed, first[0], first[0], sigma, 1.0, wide)
    strong = filtered(completed, strong[0], strong[0], sigma, 1.0, wide)
    return {"first": first, "gentle": gentle, "strong": strong}


class Denoised(NamedTuple):
    """What :func:`denoised` returns; ``weights`` are means over all voxels, ``predicted`` a root mean squared error."""

    value: Array
    spread: Array
    error: Array
    weights: dict[str, float]
    predicted: float


def denoised(completed: Array, seen: Array, sigma: float, options: LocalOptions, seed: int) -> Denoised:
    """The candidates combined by Stein's estimate, for each class of local contrast on its own.

    ``SURE(a) = |sum a_i f_i - y|^2 + 2 sigma^2 sum a_i div f_i - N sigma^2`` over observed voxels, with
    ``div f = b' (f(y + h b) - f(y)) / h`` for Gaussian ``b``, on blocks spread over the volume. Weights and error laws
    are interpolated between the classes, so that no border is seen.
    """
    xp = namespace_of(completed)
    found = candidates(completed, sigma, options)
    contrast = local_contrast(found["strong"][0])
    spread = total_spread(found)
    rng = np.random.default_rng([seed, 1])  # data simulated with the same seed must not meet their own noise again
    residuals, slopes, contrasts, spreads = [], [], [], []
    for block, inner in sample_blocks(completed.shape):
        part, known = completed[block], seen[block]
        noise = from_host(rng.standard_normal(part.shape).astype(np.float32), part)
        noise = xp.where(known, noise, xp.zeros_like(noise))
        step = PERTURBATION * sigma
        base = found if part.shape == completed.shape else candidates(part, sigma, options)
        moved = candidates(part + step * noise, sigma, options)
        use = known[inner]
        y, b = part[inner][use], noise[inner][use]
        off, slope = [xp.zeros_like(y)], [xp.ones_like(y)]
        for name in found:
            off.append(base[name][0][inner][use] - y)
            slope.append((moved[name][0][inner][use] - base[name][0][inner][use]) * b / step)
        residuals.append(to_host(xp.stack(off, axis=0)).astype(np.float64))
        slopes.append(to_host(xp.stack(slope, axis=0)).astype(np.float64))
        contrasts.append(to_host(contrast[block][inner][use]))
        spreads.append(to_host(spread[block][inner][use]).astype(np.float64))
    laws = error_laws(
        np.concatenate(residuals, axis=1), np.concatenate(slopes, axis=1), np.concatenate(contrasts),
        np.concatenate(spreads), sigma,
    )  # fmt: skip

    class_of = np.interp(to_host(contrast), [law.contrast for law in laws], np.arange(len(laws))).astype(np.float32)

    def interpolated(numbers: Sequence[float]) -> Array:
        return from_host(np.interp(class_of, np.arange(len(laws)), numbers).astype(np.float32), completed)

    estimates = [completed, *(estimate for estimate, _ in found.values())]
    value = xp.zeros_like(completed)
    weights = {}
    for number, (name, estimate) in enumerate(zip(("data", *found), estimates, strict=True)):
        share = interpolated([law.weights[number] for law in laws])
        weights[name] = scalar(xp.mean(share))
        value = value + share * estimate
    limit = interpolated([law.limit for law in laws])
    relative = xp.where(spread < limit, spread, limit) ** 2
    error = xp.sqrt(interpolated([law.least for law in laws]) + interpolated([law.slope for law in laws]) * relative)
    predicted = math.sqrt(scalar(xp.mean(error**2)))
    return Denoised(value, spread, error, weights, predicted)


def local_contrast(estimate: Array) -> Array:
    """Standard deviation within some three voxels: what tells structure from background."""
    from scipy import ndimage

    host = to_host(estimate)
    mean = ndimage.gaussian_filter(host, CONTRAST_WIDTH)
    square = ndimage.gaussian_filter((host - mean) ** 2, CONTRAST_WIDTH)
    return from_host(np.sqrt(square), estimate)


def total_spread(found: dict[str, tuple[Array, Array]]) -> Array:
    """Standard deviation over the overlapping estimates of all candidates."""
    xp = namespace_of(*(estimate for estimate, _ in found.values()))
    mean = sum(estimate for estimate, _ in found.values()) / len(found)
    return xp.sqrt(sum(spread**2 + (estimate - mean) ** 2 for estimate, spread in found.values()) / len(found))


class ErrorLaw(NamedTuple):
    """One class of local contrast: weights of the candidates, and the law ``least + slope min(spread, limit)^2``."""

    contrast: float
    weights: Floats
    least: float
    slope: float
    limit: float


def error_laws(residuals: Floats, slopes: Floats, contrasts: Floats, spreads: Floats, sigma: float) -> list[ErrorLaw]:
    """Weights and error laws of classes with equal numbers of sampled voxels, in ascending order of contrast."""
    order = np.argsort(contrasts, kind="stable")
    laws: list[ErrorLaw] = []
    for part in np.array_split(order, max(1, min(CLASSES, len(order) // CLASS_VOXELS))):
        off, slope = residuals[:, part], slopes[:, part]
        weights, _ = simplex_weights(off @ off.T, sigma**2 * slope.sum(axis=1))
        risks = (weights @ off) ** 2 - sigma**2 + 2 * sigma**2 * (weights @ slope)
        most = max(sigma**2 * float((weights @ slope).mean()), 1e-6 * sigma**2)
        laws.append(ErrorLaw(float(np.median(contrasts[part])), weights, *error_law(risks, spreads[part], most)))
    return laws


def error_law(risks: Floats, spreads: Floats, most: float) -> tuple[float, float, float]:
    """The risk as a function of the spread, ``a + b min(spread, limit)^2`` by least squares: ``a, b, limit``.

    One risk is as uncertain as the noise is large, so that only few numbers can be learned from them; ``a`` and ``b``
    are not negative, and the spread counts up to where the highest thousandth begins. The mean is held between 65 % and
    all of ``most``, the variance of the noise times the divergence: where the weights have a minimum inside the simplex
    the two are equal, and an error of 1 % in ``sigma`` would move the mean of the risks by 2 % of the noise.
    """
    limit = max(float(np.quantile(spreads, 0.999)), 1e-30)
    shape = np.minimum(spreads / limit, 1.0) ** 2
    b, a = np.polyfit(shape, risks, 1) if shape.std() > 1e-6 else (0.0, 1.0)
    if b < 0 or a + b * float(shape.mean()) <= 0:
        a, b = 1.0, 0.0
    a = max(a, 0.05 * (a + b * float(shape.mean())))
    overall = min(max(float(risks.mean()), 0.65 * most), most)
    scale = overall / (a + b * float(shape.mean()))
    return float(scale * a), float(scale * b) / limit**2, limit


def sample_blocks(shape: Sequence[int]) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Blocks spread evenly over a volume, ``TRIAL_VOXELS`` altogether, each with its inside without the rim.

    A small volume is one block. Sides of less than 40 voxels are taken whole, the others twice.
    """
    if math.prod(shape) <= TRIAL_VOXELS:
        yield tuple(slice(0, size) for size in shape), tuple(slice(0, size) for size in shape)
        return
    whole = [size < 40 for size in shape]
    count = 2 ** (3 - sum(whole))
    free = TRIAL_VOXELS / count / math.prod(size for size, all_of_it in zip(shape, whole, strict=True) if all_of_it)
    side = max(16, round(free ** (1 / max(1, 3 - sum(whole)))))
    ranges = []
    for size, all_of_it in zip(shape, whole, strict=True):
        length = size if all_of_it else min(side, size // 2)
        centres = [size / 2] if all_of_it else [size / 4, 3 * size / 4]
        ranges.append([slice(round(c - length / 2), round(c - length / 2) + length) for c in centres])
    for block in itertools.product(*ranges):
        lengths = [part.stop - part.start for part in block]
        inner = tuple(
            slice(0, n) if all_of_it else slice(RIM, n - RIM) for n, all_of_it in zip(lengths, whole, strict=True)
        )
        yield block, inner


def simplex_weights(quadratic: Floats, linear: Floats) -> tuple[Floats, float]:
    """Minimum of ``a' Q a + 2 l' a`` over the simplex: the best of the solutions on its faces."""
    size = len(linear)
    scale = max(float(np.abs(np.diag(quadratic)).max()), float(np.abs(linear).max()), 1e-300)
    quadratic, linear = quadratic / scale, linear / scale  # as large as the ones of the constraint
    best, least = np.eye(size)[0], math.inf
    for count in range(1, size + 1):
        for face in itertools.combinations(range(size), count):
            chosen = list(face)
            system = np.block(
                [[quadratic[np.ix_(chosen, chosen)], np.ones((count, 1))], [np.ones((1, count)), np.zeros((1, 1))]]
            )
            right = np.append(-linear[chosen], 1.0)
            solved = np.linalg.lstsq(system, right, rcond=None)[0][:count]
            if solved.min() < -1e-9:
                continue
            weights = np.zeros(size)
            weights[chosen] = np.clip(solved, 0, None) / np.clip(solved, 0, None).sum()
            risk = float(weights @ quadratic @ weights + 2 * linear @ weights)
            if risk < least:
                best, least = weights, risk
    return best, scale * least
