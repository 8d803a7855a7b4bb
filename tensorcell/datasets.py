"""Simulated cells and planted tensors, with their truth, seeded.

`simulate_cells` draws a cluster of cells with stained membranes and nuclei as a confocal microscope would see
it; `degrade` is its measurement alone, for any volume; `planted_tucker` draws a random low-rank tensor with
missing entries and outliers. Lengths are in micrometres, masks are True where measured, unmeasured entries
hold NaN, and the same seed gives the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy.ndimage import convolve1d
from scipy.optimize import brentq
from scipy.spatial import cKDTree
from scipy.special import ndtr

from tensorcell.errors import InputError

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.intp]
Bools = NDArray[np.bool_]

# The microscope of psf=True: a confocal with a water dipping objective. Micrometres.
_WAVELENGTH, _APERTURE, _INDEX = 0.52, 1.0, 1.33
CONFOCAL_PSF = (
    0.88 * _WAVELENGTH / (_INDEX - math.sqrt(_INDEX**2 - _APERTURE**2)),
    0.51 * _WAVELENGTH / _APERTURE,
)
_FWHM_PER_SIGMA = math.sqrt(8 * math.log(2))

_MEMBRANE_SIGMA = 0.13  # micrometres: a profile 0.3 um wide at half height
_ATTENUATION_LENGTH = 60.0  # micrometres of depth that cost a factor e of the light, the whole depth at most
_DYE_MEMBRANE, _DYE_NUCLEUS, _DYE_CYTOPLASM, _DYE_OUTSIDE = 2.0, 1.15, 0.16, 0.02  # concentrations
_CELLS, _MEASUREMENT, _PLANTED = 1, 2, 3  # purposes of random streams: one seed serves all without overlap
_WIDEST_PSF = 1000  # voxels
_SLAB_VOXELS = 2**18


# ---------------------------------------------------------------------------------------------- measurements


@dataclass(frozen=True)
class Degraded:
    """A measurement of a volume.

    Attributes
    ----------
    measured
        Kept planes, in the unit of the truth, NaN where unmeasured.
    mask
        True = measured. Same shape as ``measured``.
    outliers
        True where an outlier replaced the measurement. Same shape as ``measured``.
    """

    measured: Floats
    mask: Bools
    outliers: Bools


def degrade(
    truth: Any,
    *,
    axial_factor: int = 1,
    keep_pixels: float = 1.0,
    outliers: float = 0.0,
    peak_photons: float | None = None,
    read_noise: float = 0.0,
    seed: int = 0,
) -> Degraded:
    """Measure a noise-free volume: planes dropped, shot and read noise, pixels dropped, outliers.

    ``measured = poisson(q truth) / q + read_noise n`` on planes 0, s, 2s, ... of the truth, where
    ``q = peak_photons / truth.max()`` and ``n`` is standard normal.

    Parameters
    ----------
    truth
        ZYX array, or one with further axes in front; any real dtype, finite. Planes are counted along the
        third axis from the end.
    axial_factor
        s: of n planes, ``ceil(n / s)`` are kept. What can be recovered from them ends at the last kept plane,
        so compare with ``truth[..., : (n - 1) // s * s + 1, :, :]``.
    keep_pixels
        Probability with which a voxel of the kept planes is measured, each by itself.
    outliers
        Probability with which a measured voxel is replaced by an outlier, uniform in [0, 2 truth.max()] (in
        [low, low + 2 (max - low)] if the truth has a negative minimum ``low``).
    peak_photons
        Photons that the brightest voxel of the truth stands for. None: no shot noise.
    read_noise
        Standard deviation of additional Gaussian noise, in the unit of the truth.
    seed
        Noise, pixels and outliers have streams of their own: the same voxels are measured whatever the noise.

    Returns
    -------
    Degraded
        float64 arrays for float64 truth, else float32.

    Raises
    ------
    InputError
        A parameter out of its range; a truth with fewer than 3 axes, without voxels, or with NaN or infinite
        values; shot noise asked for a truth with negative values or without a positive one.

    Examples
    --------
    >>> import numpy as np
    >>> d = degrade(np.ones((5, 4, 4)), axial_factor=2, keep_pixels=0.5, seed=1)
    >>> d.measured.shape, bool((np.isnan(d.measured) == ~d.mask).all())
    ((3, 4, 4), True)
    """
    truth = np.asarray(truth)
    _check_degradation(axial_factor, keep_pixels, outliers, read_noise)
    _check_truth(truth, peak_photons)
    noise_stream, pixel_stream, outlier_stream = _streams(seed, _MEASUREMENT, 3)
    low, high = min(0.0, float(truth.min())), float(truth.max())

    dtype = np.float64 if truth.dtype == np.float64 else np.float32
    measured = truth[..., ::axial_factor, :, :].astype(dtype, order="C")
    flat = measured.reshape(-1)
    for start in range(0, flat.size, _SLAB_VOXELS):
        part = flat[start : start + _SLAB_VOXELS]
        if peak_photons is not None:
            part[:] = noise_stream.poisson(part * (peak_photons / high)) * (high / peak_photons)
        if read_noise > 0:
            part += read_noise * noise_stream.standard_normal(part.size)

    mask = pixel_stream.random(measured.shape, dtype=np.float32) < keep_pixels
    outlying = mask & (outlier_stream.random(measured.shape, dtype=np.float32) < outliers)
    measured[outlying] = outlier_stream.uniform(low, low + 2 * (high - low), np.count_nonzero(outlying))
    measured[~mask] = np.nan
    return Degraded(measured, mask, outlying)


# --------------------------------------------------------------------------------------------------- cells


@dataclass(frozen=True)
class SimulatedCells:
    """Simulated cells: what is there and what was measured.

    Attributes
    ----------
    truth
        float32, ZYX: the noise-free blurred image, in the unit of ``measured``, up to the last kept plane.
    measured
        float32, ZYX: the kept planes with noise, NaN where unmeasured.
    mask, outliers
        bool, shape of ``measured``: True = measured, True = replaced by an outlier.
    labels
        int32, shape of ``truth``: the cell (1, 2, ...) a voxel belongs to, 0 outside.
    spacing, truth_spacing
        Voxel sizes (z, y, x) of ``measured`` and of ``truth``, in micrometres.
    """

    truth: NDArray[np.float32]
    measured: NDArray[np.float32]
    mask: Bools
    outliers: Bools
    labels: NDArray[np.int32]
    spacing: tuple[float, float, float]
    truth_spacing: tuple[float, float, float]


def simulate_cells(
    shape: Sequence[int] = (48, 128, 128),
    *,
    spacing: Sequence[float] = (0.5, 0.2, 0.2),
    cells: int = 40,
    psf: bool | Sequence[float] = True,
    peak_photons: float = 100.0,
    shot_noise: bool = True,
    read_noise: float = 1.0,
    background: float = 2.0,
    gain: float = 1.0,
    offset: float = 0.0,
    axial_factor: int = 1,
    keep_pixels: float = 1.0,
    outliers: float = 0.0,
    seed: int = 0,
) -> SimulatedCells:
    """A cluster of cells with stained membranes and nuclei, imaged by a confocal microscope.

    The cells are a relaxed, weighted Voronoi tessellation (a power diagram of balls), bent by a smooth random
    field; they hold textured nuclei with dark nucleoli and faint cytoplasm, and light is lost with depth. The
    image is blurred by a Gaussian PSF, scaled to photons, and measured by `degrade`. A count of photons
    ``p`` becomes ``gain p + offset`` in both truth and measurement.

    Parameters
    ----------
    shape
        Voxels (z, y, x).
    spacing
        Voxel size (z, y, x) in micrometres. Everything is drawn in micrometres: at the same extent
        ``shape * spacing`` and seed, other voxel sizes show the same cells.
    cells
        Number of cells, at most that of voxels; they fill the volume, so this sets their size (by default
        about 7 micrometres).
    psf
        Full widths at half maximum (axial, lateral) in micrometres; True: a confocal with NA 1.0 in water at
        520 nm, (1.01, 0.27); False or 0: none. A blur of half a voxel (standard deviation) remains at least.
    peak_photons
        Photons of the brightest voxel, without the background.
    shot_noise
        False: no Poisson noise.
    read_noise
        Standard deviation of the Gaussian noise, in photons.
    background
        Photons added to every voxel.
    gain, offset
        Intensity units per photon, and the intensity of no light.
    axial_factor, keep_pixels, outliers
        As for `degrade`. They, and the noise, change nothing in the truth but where it ends.
    seed
        Cells and measurement.

    Returns
    -------
    SimulatedCells

    Raises
    ------
    InputError
        A parameter out of its range.

    Notes
    -----
    Time and memory are linear in the number of voxels (about a second per million).
    Walls thinner than a voxel are rendered blurred by half a voxel, so that they do not alias; the PSF that
    is then applied is narrower by as much.

    Examples
    --------
    >>> cells = simulate_cells((9, 32, 32), cells=4, axial_factor=2, seed=3)
    >>> cells.truth.shape, cells.measured.shape, cells.spacing
    ((9, 32, 32), (5, 32, 32), (1.0, 0.2, 0.2))
    """
    shape, spacing = _checked_grid(shape, spacing)
    fwhm = _checked_psf(psf, spacing)
    _check_number("cells", cells, lowest=1, highest=math.prod(shape), whole=True)
    _check_number("peak_photons", peak_photons, above=0, highest=1e15)
    _check_number("background", background, lowest=0, highest=1e15)
    _check_number("gain", gain, above=0)
    _check_number("offset", offset)
    _check_degradation(axial_factor, keep_pixels, outliers, read_noise)

    specimen, labels = _draw_specimen(shape, spacing, int(cells), seed)
    photons = _blur(specimen, spacing, fwhm)
    photons *= peak_photons / photons.max()
    photons += background
    camera = degrade(
        photons,
        axial_factor=axial_factor,
        keep_pixels=keep_pixels,
        outliers=outliers,
        peak_photons=float(photons.max()) if shot_noise else None,
        read_noise=read_noise,
        seed=seed,
    )
    seen = (shape[0] - 1) // axial_factor * axial_factor + 1
    return SimulatedCells(
        truth=gain * photons[:seen] + np.float32(offset),
        measured=gain * camera.measured + np.float32(offset),
        mask=camera.mask,
        outliers=camera.outliers,
        labels=labels[:seen],
        spacing=(spacing[0] * axial_factor, spacing[1], spacing[2]),
        truth_spacing=spacing,
    )


class _Cells(NamedTuple):
    """Geometry of the cells before bending, lengths in micrometres; n cells."""

    centres: Floats  # (n, 3)
    radii: Floats  # (n,) of the balls whose power diagram the cells are
    size: float  # radius of the typical cell
    membrane: Floats  # (n,) brightness
    cytoplasm: Floats  # (n,) brightness
    nucleus: Floats  # (n,) brightness
    nucleus_centres: Floats  # (n, 3)
    nucleus_frames: Floats  # (n, 3, 3) maps the nucleus to the unit ball
    nucleus_radii: Floats  # (n,) mean semi-axis
    nucleoli: Floats  # (n, 3, 3) three centres in the unit ball
    nucleoli_radii: Floats  # (n, 3) in the unit ball, 0 where there is none


def _draw_cells(extent: Floats, cells: int, rng: np.random.Generator) -> _Cells:
    """Relaxed cell centres in an ellipsoid, a nucleus for each."""
    centres, reach, size = _relaxed_centres(extent, cells, rng)
    radii = np.clip(reach, 0.9 * size, 1.12 * size) * rng.uniform(0.96, 1.04, cells)
    inner = _inner_radii(centres, radii)

    semi_axes = np.exp(rng.normal(0.0, 0.14, (cells, 3)))
    semi_axes *= (inner * rng.uniform(0.72, 0.84, cells))[:, None]
    nucleus = rng.lognormal(0.0, 0.22, cells)
    nucleoli_radii = rng.uniform(0.16, 0.3, (cells, 3)) * (rng.random((cells, 3)) < [1.0, 0.6, 0.3])
    dividing = rng.random(cells) < 0.06  # a bright plate of chromosomes
    semi_axes[dividing] *= [0.35, 1.0, 1.0]
    nucleus[dividing] *= 1.8
    nucleoli_radii[dividing] = 0.0

    rotations = np.linalg.qr(rng.standard_normal((cells, 3, 3)))[0]
    return _Cells(
        centres=centres,
        radii=radii,
        size=size,
        membrane=rng.lognormal(0.0, 0.25, cells),
        cytoplasm=rng.lognormal(0.0, 0.3, cells),
        nucleus=nucleus,
        nucleus_centres=centres + 0.15 * inner[:, None] * rng.uniform(-1, 1, (cells, 3)),
        nucleus_frames=rotations / semi_axes[:, :, None],
        nucleus_radii=semi_axes.mean(axis=1),
        nucleoli=0.4 * rng.uniform(-1, 1, (cells, 3, 3)),
        nucleoli_radii=nucleoli_radii,
    )


def _relaxed_centres(extent: Floats, cells: int, rng: np.random.Generator) -> tuple[Floats, Floats, float]:
    """Centres in an ellipsoid after a few Lloyd steps, how far each cell reaches, and its median."""
    semi_axes = extent * [0.5, 0.42, 0.42]
    directions = rng.standard_normal((100 * cells, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    points = extent / 2 + semi_axes * directions * np.cbrt(rng.random((100 * cells, 1)))
    centres = points[:cells]
    for _ in range(5):
        nearest = cKDTree(centres).query(points)[1]
        counts = np.bincount(nearest, minlength=cells)
        sums = np.stack([np.bincount(nearest, points[:, a], cells) for a in range(3)], axis=1)
        centres = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], centres)
    distance, nearest = cKDTree(centres).query(points)
    reach = np.zeros(cells)
    np.maximum.at(reach, nearest, distance)
    return centres, reach, float(np.median(reach))


def _inner_radii(centres: Floats, radii: Floats) -> Floats:
    """Distance of each centre to its nearest wall."""
    if len(centres) == 1:
        return radii.copy()
    tree: Any = cKDTree(centres)
    distance, neighbours = (found[:, 1:] for found in tree.query(centres, min(16, len(centres))))
    walls = (distance**2 + radii[:, None] ** 2 - radii[neighbours] ** 2) / (2 * distance)
    inner: Floats = np.minimum(radii, walls.min(axis=1))
    return inner


def _draw_specimen(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], cells: int, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Concentration of dye, blurred by half a voxel so that walls do not alias, and label of each voxel."""
    step = np.array(spacing)
    streams = iter(_streams(seed, _CELLS, 9))
    cluster = _draw_cells(np.array(shape) * step, cells, next(streams))

    def field(length: float) -> _SmoothField:
        return _smooth_field(shape, spacing, length * cluster.size, next(streams))

    bends = [field(1.1), field(1.1), field(1.1)]
    textures = {"mottle": field(0.3), "outline": field(0.3), "fine": field(0.11), "coarse": field(0.3)}
    lamp = field(4.0)
    attenuation = max(_ATTENUATION_LENGTH, shape[0] * step[0])

    image = np.empty(shape, np.float32)
    labels = np.zeros(shape, np.int32)
    for slab in _slabs(shape):
        z, y, x = (
            (np.arange(n)[part] + 0.5) * h
            for n, part, h in zip(shape, (slab, slice(None), slice(None)), spacing, strict=True)
        )
        grid = np.stack(np.meshgrid(z, y, x, indexing="ij"), axis=-1)
        grid += 0.16 * cluster.size * np.stack([bend(slab) for bend in bends], axis=-1)
        points = grid.reshape(-1, 3)
        near, neighbours, power = _nearest_cells(cluster, points, step)
        texture = {name: texture(slab).reshape(-1)[near] for name, texture in textures.items()}

        dye = np.full(len(points), _DYE_OUTSIDE, np.float32)
        dye[near] += _dye(cluster, points[near], neighbours, power, texture, step)
        light = np.exp(0.1 * lamp(slab) - z[:, None, None] / attenuation)
        image[slab] = dye.reshape(image[slab].shape) * light
        labels[slab].reshape(-1)[near] = np.where(power[:, 0] < 0, neighbours[:, 0] + 1, 0)
    return image, labels


def _nearest_cells(cluster: _Cells, points: Floats, step: Floats) -> tuple[Ints, Ints, Floats]:
    """Points in or near a cell, their five cells of least power distance |x - c|^2 - r^2, and these.

    Where there are fewer cells, the distance is infinite. The power distance is a Euclidean one in four
    dimensions, so that a k-d tree finds it.
    """
    largest = cluster.radii.max()
    lift = np.sqrt(largest**2 - cluster.radii**2)
    tree: Any = cKDTree(np.column_stack([cluster.centres, lift]))
    halo = _reach(step) * (6 * largest + _reach(step))  # whatever is farther adds no membrane
    distance, neighbours = tree.query(
        np.column_stack([points, np.zeros(len(points))]), 5, distance_upper_bound=math.sqrt(largest**2 + halo)
    )
    near = np.flatnonzero(np.isfinite(distance[:, 0]))
    return near, neighbours[near], distance[near] ** 2 - largest**2


def _dye(
    cluster: _Cells,
    points: Floats,
    neighbours: Ints,
    power: Floats,
    texture: dict[str, Floats],
    step: Floats,
) -> Floats:
    """Dye of membranes, cytoplasm and nucleus at points (m, 3) with their neighbours and powers (m, 5)."""
    own = neighbours[:, 0]
    radial = points - cluster.centres[own]
    depth = cluster.radii[own] - np.linalg.norm(radial, axis=1)  # below the outer surface of the cell
    inside = ndtr(depth / _edge_width(radial, step))

    walls = np.square(cluster.membrane[own] * _profile(depth, radial, step))
    for k in range(1, neighbours.shape[1]):
        at = np.flatnonzero(power[:, k] - power[:, 0] < 4 * cluster.radii.max() * _reach(step))
        mine, other = own[at], neighbours[at, k]
        between = cluster.centres[other] - cluster.centres[mine]
        distance = (power[at, k] - power[at, 0]) / (2 * np.linalg.norm(between, axis=1))
        brightness = 0.5 * (cluster.membrane[mine] + cluster.membrane[other])
        walls[at] += np.square(inside[at] * brightness * _profile(distance, between, step))
    walls = np.sqrt(walls) * np.exp(0.3 * texture["mottle"])

    cytoplasm = cluster.cytoplasm[own] * np.exp(0.25 * texture["fine"] + 0.25 * texture["coarse"])
    nucleus, brightness = _nuclei(cluster, own, points, texture, step)
    filling = _DYE_CYTOPLASM * cytoplasm * inside * (1 - nucleus) + _DYE_NUCLEUS * brightness * nucleus
    dye: Floats = _DYE_MEMBRANE * walls + filling
    return dye


def _nuclei(
    cluster: _Cells, own: Ints, points: Floats, texture: dict[str, Floats], step: Floats
) -> tuple[Floats, Floats]:
    """Part of each point that is nucleus, and brightness there: chromatin, a denser rim, dark nucleoli."""
    local = np.einsum("pab,pb->pa", cluster.nucleus_frames[own], points - cluster.nucleus_centres[own])
    radius = np.linalg.norm(local, axis=1) * (1 + 0.05 * texture["outline"])
    edge = math.sqrt(np.square(step).mean()) / 2
    nucleus = ndtr((1 - radius) * cluster.nucleus_radii[own] / edge)
    brightness = cluster.nucleus[own] * np.exp(0.38 * texture["fine"] + 0.2 * texture["coarse"])
    brightness *= 1 + 0.3 * np.exp(-0.5 * np.square((1 - radius) / 0.09))
    for k in range(cluster.nucleoli.shape[1]):
        away = np.linalg.norm(local - cluster.nucleoli[own, k], axis=1) - cluster.nucleoli_radii[own, k]
        brightness *= 1 - 0.75 * ndtr(-away / 0.05) * (cluster.nucleoli_radii[own, k] > 0)
    return nucleus, brightness


def _edge_width(normal: Floats, step: Floats) -> Floats:
    """Half a voxel along each axis, seen across a face with this normal."""
    squares = np.square(normal)
    width: Floats = np.sqrt(squares @ (np.square(step) / 4) / (squares.sum(axis=1) + np.finfo(float).tiny))
    return width


def _reach(step: Floats) -> float:
    """Distance from a membrane at which its profile has ended in every direction."""
    return 5 * math.hypot(_MEMBRANE_SIGMA, step.max() / 2)


def _profile(distance: Floats, normal: Floats, step: Floats) -> Floats:
    """A Gaussian membrane at a distance along its normal: amplitude 1 before the blur by half a voxel."""
    variance = _MEMBRANE_SIGMA**2 + np.square(_edge_width(normal, step))
    profile: Floats = _MEMBRANE_SIGMA / np.sqrt(variance) * np.exp(-0.5 * np.square(distance) / variance)
    return profile


class _SplineAxis(NamedTuple):
    """Four cubic B-splines meet at every voxel; their squares sum to one."""

    first: Ints  # (voxels,) index of the first of them
    weights: NDArray[np.float32]  # (4, voxels)


class _SmoothField(NamedTuple):
    """A random field of unit variance: a cubic spline with normal coefficients, separable in the axes."""

    axes: tuple[_SplineAxis, _SplineAxis, _SplineAxis]
    coefficients: NDArray[np.float32]  # (knots, knots, knots)

    def __call__(self, slab: slice) -> NDArray[np.float32]:
        """Values on the planes of a slab, (planes, y, x)."""
        values = self.coefficients
        for axis, (first, weights) in enumerate(self.axes):
            part = slab if axis == 0 else slice(None)
            terms = weights[:, part].reshape(4, *(-1 if a == axis else 1 for a in range(3)))
            values = sum(terms[k] * values.take(first[part] + k, axis) for k in range(4))
        return values


def _smooth_field(
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    length: float,
    rng: np.random.Generator,
) -> _SmoothField:
    """Knots stand ``length`` micrometres apart: a field in space, whatever the voxels (unless coarser)."""
    lengths = [max(length, h) for h in spacing]
    z, y, x = (_spline_axis(n, h / d) for n, h, d in zip(shape, spacing, lengths, strict=True))
    knots = [math.ceil(round(n * h / d, 6)) + 3 for n, h, d in zip(shape, spacing, lengths, strict=True)]
    return _SmoothField((z, y, x), rng.standard_normal(knots, dtype=np.float32))


def _spline_axis(voxels: int, step: float) -> _SplineAxis:
    """Cubic B-splines at the centres of voxels that are ``step`` knots apart."""
    position = (np.arange(voxels) + 0.5) * step
    first = np.floor(position).astype(np.intp)
    t = position - first
    weights = np.stack([(1 - t) ** 3, 4 - 6 * t**2 + 3 * t**3, 1 + 3 * t + 3 * t**2 - 3 * t**3, t**3])
    weights /= np.linalg.norm(weights, axis=0)
    return _SplineAxis(first, weights.astype(np.float32))


def _blur(specimen: NDArray[np.float32], spacing: Sequence[float], fwhm: Sequence[float]) -> NDArray[np.float32]:
    """Gaussian PSF on an image that is already blurred by half a voxel on each axis (standard deviation)."""
    image = specimen
    for axis in range(3):
        variance = (fwhm[axis] / _FWHM_PER_SIGMA / spacing[axis]) ** 2 - 0.25
        if variance > 0:
            image = convolve1d(image, _gaussian_kernel(variance), axis=axis, mode="nearest")
    return image


def _gaussian_kernel(variance: float) -> Floats:
    """Samples of a Gaussian, of sum 1 and of exactly this variance (in voxels), however narrow."""
    half = math.ceil(6 * math.sqrt(variance + 1))
    squares = np.square(np.arange(-half, half + 1.0))

    def kernel(width: float) -> Floats:
        samples: Floats = np.exp(-squares / (2 * width))
        samples /= samples.sum()
        return samples

    width: float = brentq(lambda width: kernel(width) @ squares - variance, 1e-3, 1.01 * variance + 1)
    return kernel(width)


# ------------------------------------------------------------------------------------------ planted tensors


@dataclass(frozen=True)
class PlantedTensor:
    """A low-rank tensor and a measurement of it.

    Attributes
    ----------
    data
        Truth plus noise plus outliers where measured, NaN elsewhere.
    mask
        bool, True = measured.
    truth
        The low-rank tensor, of unit standard deviation.
    outliers
        The sparse part that was added, zero where there is none.
    """

    data: Floats
    mask: Bools
    truth: Floats
    outliers: Floats


def planted_tucker(
    shape: Sequence[int],
    rank: int | Sequence[int],
    *,
    observed: float = 1.0,
    outliers: float = 0.0,
    outlier_range: Sequence[float] = (1.0, 3.0),
    noise: float = 0.0,
    seed: int = 0,
    dtype: DTypeLike = np.float64,
) -> PlantedTensor:
    """A random Tucker tensor: normal core, random orthonormal factors, unit standard deviation.

    Parameters
    ----------
    shape
        Sides, any number of modes.
    rank
        Multilinear rank, one for all modes or one for each; at most the side, and at most the product of the
        others.
    observed
        Probability with which an entry is measured, each by itself.
    outliers
        Probability with which a measured entry has an outlier added.
    outlier_range
        Lowest and highest magnitude of an outlier in standard deviations of the truth, uniform between them;
        the sign is random. (10, 10): exactly +10 or -10.
    noise
        Standard deviation of Gaussian noise, in standard deviations of the truth.
    seed
        Truth, mask, outliers and noise have streams of their own: none changes the others.
    dtype
        float32 or float64.

    Returns
    -------
    PlantedTensor

    Raises
    ------
    InputError
        A rank that no tensor of this shape has, or a parameter out of its range.

    Examples
    --------
    >>> planted = planted_tucker((20, 15, 10), (3, 2, 2), observed=0.5)
    >>> [int(np.linalg.matrix_rank(np.moveaxis(planted.truth, n, 0).reshape(side, -1)))
    ...  for n, side in enumerate(planted.truth.shape)]
    [3, 2, 2]
    """
    shape = _checked_sides(shape)
    rank = _checked_rank(rank, shape)
    if math.prod(shape) < 2:
        raise InputError(f"shape is {shape}, expected at least two entries to have a standard deviation")
    dtype = np.dtype(dtype)
    if dtype not in (np.float32, np.float64):
        raise InputError(f"dtype is {dtype}, expected float32 or float64")
    _check_number("observed", observed, above=0, highest=1)
    _check_number("outliers", outliers, lowest=0, below=1)
    _check_number("noise", noise, lowest=0)
    lowest, highest = _entries("outlier_range", outlier_range, 2, "lowest and highest magnitude")
    _check_number("lowest magnitude in outlier_range", lowest, lowest=0)
    _check_number("highest magnitude in outlier_range", highest, lowest=lowest)

    truth_stream, mask_stream, outlier_stream, noise_stream = _streams(seed, _PLANTED, 4)
    truth = truth_stream.standard_normal(rank).astype(dtype)
    for mode, side in enumerate(shape):
        factor = np.linalg.qr(truth_stream.standard_normal((side, rank[mode])))[0].astype(dtype)
        truth = np.moveaxis(np.tensordot(factor, truth, (1, mode)), 0, mode)
    truth = np.ascontiguousarray(truth / truth.std(dtype=np.float64).astype(dtype))

    mask = mask_stream.random(shape, dtype=np.float32) < observed
    outlying = mask & (outlier_stream.random(shape, dtype=np.float32) < outliers)
    count = np.count_nonzero(outlying)
    sparse = np.zeros(shape, dtype)
    signs = outlier_stream.choice([-1.0, 1.0], count)
    sparse[outlying] = signs * outlier_stream.uniform(lowest, highest, count)

    data = truth + sparse
    if noise > 0:
        data += (noise * noise_stream.standard_normal(shape)).astype(dtype)
    data[~mask] = np.nan
    return PlantedTensor(data, mask, truth, sparse)


# --------------------------------------------------------------------------------------------------- checks


def _check_number(
    name: str,
    value: Any,
    *,
    lowest: float = -math.inf,
    above: float = -math.inf,
    highest: float = math.inf,
    below: float = math.inf,
    whole: bool = False,
) -> None:
    """Refuse what is not a finite real number in its range, or not whole."""
    kinds = (int, np.integer) if whole else (int, float, np.integer, np.floating)
    number = isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)
    if number and lowest <= value <= highest and above < value < below:
        return
    limits = [("at least", lowest), ("above", above), ("at most", highest), ("below", below)]
    wanted = " and ".join(f"{word} {limit:g}" for word, limit in limits if math.isfinite(limit))
    kind = "an integer" if whole else "a finite number"
    raise InputError(f"{name} is {value}, expected {kind} {wanted}".rstrip())


def _check_degradation(axial_factor: int, keep_pixels: float, outliers: float, read_noise: float) -> None:
    _check_number("axial_factor", axial_factor, lowest=1, whole=True)
    _check_number("keep_pixels", keep_pixels, above=0, highest=1)
    _check_number("outliers", outliers, lowest=0, below=1)
    _check_number("read_noise", read_noise, lowest=0)


def _check_truth(truth: NDArray[Any], peak_photons: float | None) -> None:
    if truth.ndim < 3:
        raise InputError(f"truth has {truth.ndim} axes, expected at least 3 (ZYX)")
    if truth.dtype.kind not in "buif":
        raise InputError(f"truth has dtype {truth.dtype}, expected real numbers")
    if truth.size == 0:
        raise InputError(f"truth has shape {truth.shape}, expected at least one voxel")
    bad = truth.size - np.count_nonzero(np.isfinite(truth))
    if bad:
        raise InputError(f"truth has {bad} NaN or infinite values, expected finite numbers")
    if peak_photons is None:
        return
    _check_number("peak_photons", peak_photons, above=0, highest=1e15)
    if truth.min() < 0 or truth.max() <= 0:
        raise InputError(
            f"truth runs from {float(truth.min()):g} to {float(truth.max()):g}, "
            "expected no negative and some positive values for shot noise"
        )


def _streams(seed: int, purpose: int, count: int) -> list[np.random.Generator]:
    _check_number("seed", seed, lowest=0, whole=True)
    return np.random.default_rng((int(seed), purpose)).spawn(count)


def _entries(name: str, values: Any, count: int, meaning: str) -> tuple[Any, ...]:
    """The values as a tuple of ``count``."""
    if np.ndim(values) != 1:
        raise InputError(f"{name} is {values}, expected {count} numbers ({meaning})")
    if len(values) != count:
        raise InputError(f"{name} has {len(values)} entries, expected {count} ({meaning})")
    return tuple(values)


def _checked_grid(
    shape: Sequence[int], spacing: Sequence[float]
) -> tuple[tuple[int, int, int], tuple[float, float, float]]:
    nz, ny, nx = _checked_sides(_entries("shape", shape, 3, "z, y, x"))
    sizes = _entries("spacing", spacing, 3, "z, y, x in micrometres")
    for size in sizes:
        _check_number("a voxel size in spacing", size, above=0)
    dz, dy, dx = (float(size) for size in sizes)
    return (nz, ny, nx), (dz, dy, dx)


def _checked_sides(shape: Sequence[int]) -> tuple[int, ...]:
    for side in shape:
        _check_number("a side of shape", side, lowest=1, whole=True)
    return tuple(int(side) for side in shape)


def _checked_psf(psf: bool | Sequence[float], spacing: tuple[float, float, float]) -> tuple[float, float, float]:
    """Full widths at half maximum along z, y, x; 0 for none."""
    if isinstance(psf, bool | np.bool_):
        psf = CONFOCAL_PSF if psf else (0.0, 0.0)
    widths = _entries("psf", psf, 2, "axial and lateral width in micrometres")
    for width in widths:
        _check_number("a width in psf", width, lowest=0)
    axial, lateral = (float(width) for width in widths)
    fwhm = (axial, lateral, lateral)
    widest = max(width / size for width, size in zip(fwhm, spacing, strict=True))
    if widest > _WIDEST_PSF:
        raise InputError(f"psf is {widest:g} voxels wide, expected at most {_WIDEST_PSF}")
    return fwhm


def _checked_rank(rank: int | Sequence[int], shape: tuple[int, ...]) -> tuple[int, ...]:
    ranks: tuple[Any, ...] = (rank,) * len(shape) if not isinstance(rank, Iterable) else tuple(rank)
    if len(ranks) != len(shape):
        raise InputError(f"rank has {len(ranks)} entries, shape has {len(shape)} axes")
    for r in ranks:
        _check_number("an entry of rank", r, lowest=1, whole=True)
    for mode, (r, side) in enumerate(zip(ranks, shape, strict=True)):
        if r > side:
            raise InputError(f"rank {r} of mode {mode} is larger than its side in shape {shape}")
        others = math.prod(ranks) // r
        if r > others:
            raise InputError(f"rank {r} of mode {mode} is larger than the product of the others, {others}")
    return tuple(int(r) for r in ranks)


def _slabs(shape: Sequence[int]) -> Iterator[slice]:
    """Slices of whole planes, a quarter of a million voxels each."""
    planes = max(1, _SLAB_VOXELS // math.prod(shape[1:]))
    for start in range(0, shape[0], planes):
        yield slice(start, min(start + planes, shape[0]))
