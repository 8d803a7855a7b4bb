"""Best linear prediction of planes between measured planes, one lateral frequency band at a time.

The symbols, the steps and the sources stand at the head of :mod:`tensorcell.solvers.interplane`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .interpolation import bridge_variance, pchip
from .noise import NoiseModel

Floats = npt.NDArray[np.floating]
Doubles = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]

NEIGHBOURS = 4
"""Number of measured planes that are used on either side."""

COARSEST = 4
"""Half-periods along the shorter side from which on all is kriged; half as many and fewer are left to pchip."""

SMALLEST_NUGGET = 1e-5
"""Least number that is added to the unit diagonal of R, so that it is never singular."""


class NoiseLevels(NamedTuple):
    """The noise of the measured planes, and what the weights take into account of it."""

    present: NoiseModel
    weighed: float
    """Standard deviation; 0 for the weights of noise-free planes."""


class KrigedPlane(NamedTuple):
    """A kriged plane and the two parts of the variance of its error."""

    value: Floats
    variance: Floats
    """Of the prediction, without noise."""
    passed: Floats
    """From the noise of the measured planes, which the weights pass on."""


def kriged(values: Floats, positions: Doubles, targets: Doubles, noise: NoiseLevels) -> Iterator[KrigedPlane]:
    """Planes strictly between the measured ones, predicted band by band on the roots, and their variances."""
    from scipy.fft import dctn, idctn
    from scipy.interpolate import PchipInterpolator

    floor = float(np.quantile(values, 0.001))
    offset = (float(values.mean(dtype=np.float64)) - floor) / 3  # the third was found by trial
    if not offset > 0:  # there is no contrast above the floor that roots could even out
        for target, plane in zip(targets, pchip(values, positions, targets), strict=True):
            yield KrigedPlane(plane, bridge_variance(values, positions, target), noise.present.variance(plane))
        return
    roots = np.sqrt(np.maximum(values - floor, 0) + offset).astype(np.float32)
    darkest = np.float32(np.sqrt(offset))
    # Mean of (dy / dx)^2 = 1 / (2 y)^2, which the noise in the divisor holds finite in the dark.
    slope = np.mean(0.25 / (np.square(roots) + noise.weighed))

    spectra = dctn(roots, axes=(1, 2), norm="ortho")
    bands, coarse = bands_of(roots.shape[1], roots.shape[2])
    correlation = correlations_of(spectra, positions, bands, noise.weighed * float(np.sqrt(slope)))
    structure = correlation
    if noise.present.sigma != noise.weighed:  # the variance of the error is that of structure, whatever the weights are
        level = noise.present.variance(values) * (0.25 / np.square(roots))
        structure = correlations_of(spectra, positions, bands, float(np.sqrt(np.mean(level, dtype=np.float64))))
    few = coarse > 0
    trend = PchipInterpolator(positions, spectra[:, few] * coarse[few], axis=0)
    flat = bands.reshape(len(bands), coarse.size)
    for target in targets:
        near = np.searchsorted(positions, target)
        chosen = np.arange(max(near - NEIGHBOURS, 0), min(near + NEIGHBOURS, len(positions)))
        weights = kriging_weights(correlation, positions[chosen], target)
        left = share_left(structure, weights, positions[chosen], target)
        spectrum, passed = np.zeros(coarse.shape, dtype=np.float32), 0.0
        for k, plane in enumerate(chosen):
            gains = (weights[:, k].astype(np.float32) @ flat).reshape(coarse.shape)
            spectrum += gains * spectra[plane]
            passed += float(np.mean(np.square(gains)))
        spectrum[few] += trend(target)
        root = np.maximum(idctn(spectrum, norm="ortho"), darkest)
        energy = (structure.energy[near - 1] + structure.energy[near]) / 2
        spread = float(energy @ left) * local_share(np.square(roots[near] - roots[near - 1]))
        plane = np.square(root).astype(values.dtype)
        plane += floor - offset  # in the precision of the stack, since the floor may be large beside the contrast
        # The variance is that of the square of a normal variable.
        yield KrigedPlane(plane, (4 * np.square(root) + 2 * spread) * spread, passed * noise.present.variance(plane))


def local_share(change: Singles) -> Singles:
    """How the error is spread over a plane, of mean 1: most lies where the two measured planes around it differ."""
    from scipy.ndimage import gaussian_filter

    mean = float(change.mean())
    if mean == 0:
        return np.ones_like(change)
    # A tenth of the error is spread evenly: two planes that are alike do not prove that the one between them is alike.
    share: Singles = 0.1 + 0.9 * gaussian_filter(change, 3.0) / mean
    return share


def bands_of(rows: int, columns: int) -> tuple[Singles, Singles]:
    """Radial bands of a plane's cosine transform (J, Y, X), and what is coarser than they are (Y, X); they sum to one.

    The bands are raised cosines in the logarithm of the frequency. Their centres lie half an octave from each other,
    from the Nyquist frequency down.
    """
    frequency = np.hypot(np.arange(rows)[:, None] / rows, np.arange(columns) / columns)  # 1 = Nyquist
    octaves = 2 * np.log2(np.maximum(frequency, 1e-9))
    number = max(int(2 * np.log2(2 * min(rows, columns) / COARSEST)), 0)
    bands = np.cos(np.pi / 2 * np.clip(np.abs(octaves + np.arange(number)[:, None, None]), 0, 1)) ** 2
    bands[:1, octaves > 0] = 1  # the corners beyond the Nyquist frequency of a side
    coarse = np.maximum(1 - bands.sum(axis=0), 0)
    coarse[coarse < 1e-6] = 0
    return bands.astype(np.float32), coarse.astype(np.float32)


class Correlation(NamedTuple):
    """``rho_j(t) = (1 + b_j t^2)^-a_j``, the ratio of noise to signal, and the energy a voxel of each plane."""

    a: Doubles
    b: Doubles
    nugget: Doubles
    energy: Doubles  # (m, J)

    def __call__(self, distance: Doubles) -> Doubles:
        """Correlation (J, ...) at distances (...)."""
        shape = (len(self.a),) + (1,) * distance.ndim
        return np.exp(-self.a.reshape(shape) * np.log1p(self.b.reshape(shape) * np.square(distance)))


def correlations_of(spectra: Singles, positions: Doubles, bands: Singles, noise: float) -> Correlation:
    """Correlation along z of every band, from pairs of measured planes one and two median gaps apart."""
    voxels = spectra[0].size
    flat = bands.reshape(len(bands), voxels)
    level = noise**2 * flat.sum(axis=1, dtype=np.float64) / voxels
    energy = np.stack([flat @ np.square(plane).ravel() for plane in spectra]).astype(np.float64) / voxels
    signal = np.maximum(energy - level, 1e-3 * energy)
    points = []
    pairs = pairs_of(positions)
    for lower, upper in pairs:
        product = sum(flat @ (spectra[i] * spectra[k]).ravel() for i, k in zip(lower, upper, strict=True))
        middle = (signal[lower].sum(axis=0) + signal[upper].sum(axis=0)) / 2
        rho = np.divide(product / voxels, middle, out=np.zeros_like(middle), where=middle > 0)
        points.append((float(np.mean(positions[upper] - positions[lower])), rho))
    samples = np.maximum(flat.sum(axis=1, dtype=np.float64), 1) * len(pairs[1][0])
    a, b = cauchy_through(points, 2 / np.sqrt(samples))  # two standard errors of a correlation of zero
    mean = signal.mean(axis=0)
    nugget = np.maximum(np.divide(level, mean, out=np.zeros_like(mean), where=mean > 0), SMALLEST_NUGGET)
    return Correlation(a, b, nugget, signal)


def pairs_of(positions: Doubles) -> list[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]]:
    """Pairs (lower, upper) of planes about one and about two median gaps apart.

    Where the gaps are so uneven that there are no such pairs, all neighbours are taken, and all planes at larger
    distances than those.
    """
    lower, upper = np.triu_indices(len(positions), k=1)
    distance = (positions[upper] - positions[lower]) / np.median(np.diff(positions))
    one, two = (np.abs(np.log(distance / gaps)) < np.log(1.25) for gaps in (1, 2))
    if not one.any():
        one = upper - lower == 1
    if not two.any():
        two = distance > 1.25 * distance[one].mean()
    return [(lower[near], upper[near]) for near in (one, two)]


def cauchy_through(points: list[tuple[float, Doubles]], unsure: Doubles) -> tuple[Doubles, Doubles]:
    """`a` and `b` of ``(1 + b t^2)^-a`` through two points ``(t, rho)``, by bisection.

    The ratio of the two ``-log rho`` falls with `b` from ``(t2 / t1)^2`` (Gaussian) to 1 (heavy tail); a measured
    ratio beyond these ends is clipped to them. Bands are ordered from fine to coarse. Where the far `rho` of a band is
    below `unsure`, its ratio says nothing, and that of the next coarser band is taken.
    """
    (near, first), (far, second) = points
    near_log = -np.log(np.clip(first, 1e-3, 1 - 1e-6))
    far_log = -np.log(np.clip(second, 1e-4, 1 - 1e-6))
    gaussian = 0.99975 * (far / near) ** 2
    wanted = np.clip(far_log / near_log, 1.2, gaussian)
    for band in range(len(wanted) - 1, -1, -1):  # from coarse to fine
        if second[band] < unsure[band]:
            wanted[band] = wanted[band + 1] if band + 1 < len(wanted) else gaussian
    low, high = np.full(len(wanted), -16.0), np.full(len(wanted), 16.0)
    for _ in range(50):
        middle = (low + high) / 2
        b = np.exp(middle) / near**2
        above = np.log1p(b * far**2) / np.log1p(b * near**2) > wanted
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    b = np.exp((low + high) / 2) / near**2
    return near_log / np.log1p(b * near**2), b


def kriging_weights(correlation: Correlation, positions: Doubles, target: float) -> Floats:
    """Weights (J, k) of the planes at `positions` for the one at `target`."""
    between = correlation(positions[:, None] - positions) + correlation.nugget[:, None, None] * np.eye(len(positions))
    weights: Floats = np.linalg.solve(between, correlation(positions - target)[..., None])[..., 0]
    return weights


def share_left(correlation: Correlation, weights: Floats, positions: Doubles, target: float) -> Floats:
    """Share of the variance of each band that is left (J,): ``1 - 2 w r + w R w``, of noise-free planes."""
    between, towards = correlation(positions[:, None] - positions), correlation(positions - target)
    left: Floats = 1 - 2 * np.sum(weights * towards, axis=1) + np.einsum("jk,jkl,jl->j", weights, between, weights)
    return np.maximum(left, 0)
