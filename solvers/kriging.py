"""Best linear prediction of planes between measured planes, one lateral frequency band at a time.

The symbols, the steps and the sources stand at the head of :mod:`tensorcell.solvers.interplane`.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .arrays import Array, fft, from_host, namespace_of, ndimage, scalar, to_host
from .interpolation import bridge_variance, pchip
from .noise import NoiseModel

Floats = npt.NDArray[np.floating]
Doubles = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

NEIGHBOURS = 4
"""Number of measured planes that are used on either side."""

COARSEST = 4
"""Half-periods along the shorter side from which on all lies in bands; half as many and fewer are the trend."""

SMALLEST_NUGGET = 1e-5
"""Least number that is added to the unit diagonal of R, so that it is never singular."""

WEIGHED = 0.5
"""Share of the variance of the noise that the weights of the bands take into account. Roots magnify noise in the dark,
where too much of it is often expected: the whole variance is better by .2 to .5 dB where it is right, and worse by .5
to .9 dB where it is not."""

ROUNDS = 6
"""Rounds in which the two widths of a correlation are found in turn."""

LEAST_SLOW = 0.01
"""Least share of the wider Gaussian that is left four gaps away."""

SMALLEST_SIGNAL = 1e-3
"""Least share of a band's energy that is structure."""


class KrigedPlane(NamedTuple):
    """A kriged plane and the two parts of the variance of its error."""

    value: Array
    variance: Array
    """Of the prediction, without noise."""
    passed: Array
    """From the noise of the measured planes, which the weights pass on."""
    left: Doubles
    """``(J,)``: energy of the error that is expected in each band, a pixel; 0 where there is no contrast."""


def kriged(values: Array, positions: Doubles, targets: Doubles, noise: NoiseModel) -> Iterator[KrigedPlane]:
    """Planes strictly between the measured ones, predicted band by band on the roots, and their variances.

    All planes lie where ``values`` does (NumPy or CuPy); correlations and weights are found on the host.
    """
    xp, (_, rows, columns) = namespace_of(values), values.shape
    floor = scalar(xp.quantile(values, 0.001))
    offset = (scalar(xp.mean(values, dtype=xp.float64)) - floor) / 3  # the third was found by trial
    if not offset > 0:  # there is no contrast above the floor that roots could even out
        nothing = np.zeros(bands_of(rows, columns)[0].shape[0])
        for target, plane in zip(targets, pchip(values, positions, targets), strict=True):
            variance = bridge_variance(values, positions, target)
            yield KrigedPlane(plane, variance, noise.variance(plane), nothing)
        return
    roots = xp.astype(xp.sqrt(xp.maximum(values - floor, 0) + offset), xp.float32, copy=False)
    darkest = np.float32(np.sqrt(offset))
    spectra = fft("dctn", roots, axes=(1, 2), norm="ortho")
    bands, coarse = bands_of(rows, columns, xp)
    # (dy / dx)^2 = 1 / (2 y)^2
    level = scalar(xp.mean(noise.variance(values) * (0.25 / xp.square(roots)), dtype=xp.float64))
    correlation = correlations_of(spectra, positions, bands, WEIGHED * level if noise.told_apart else 0.0)
    few = from_host(np.flatnonzero(to_host(coarse)), values)
    trend = xp.take(xp.reshape(spectra, (len(positions), -1)), few, axis=1) * xp.take(xp.reshape(coarse, (-1,)), few)
    slow = correlation_of_trend(to_host(trend), positions, level)
    flat = xp.reshape(bands, (bands.shape[0], coarse.size))
    for target in targets:
        near = int(np.searchsorted(positions, target))
        chosen = slice(max(near - NEIGHBOURS, 0), near + NEIGHBOURS)
        weights = kriging_weights(correlation, positions[chosen], target)
        left = share_left(correlation, weights, positions[chosen], target)
        spectrum, passed = xp.zeros_like(coarse), xp.zeros((), dtype=xp.float32)
        for plane, of_bands in zip(spectra[chosen], from_host(weights.T.astype(np.float32), values), strict=True):
            gains = xp.reshape(xp.matmul(of_bands, flat), coarse.shape)
            spectrum += gains * plane
            passed = passed + xp.mean(xp.square(gains))
        (shares,) = kriging_weights(slow, positions[chosen], target, sum_to_one=True)
        xp.reshape(spectrum, (-1,))[few] += xp.matmul(from_host(shares.astype(np.float32), values), trend[chosen])
        root = xp.maximum(fft("idctn", spectrum, norm="ortho"), darkest)
        energy = (correlation.energy[near - 1] + correlation.energy[near]) / 2
        energies = energy * left
        spread = float(energies.sum()) * local_share(xp.square(roots[near] - roots[near - 1]))
        plane = xp.astype(xp.square(root), values.dtype)
        plane += floor - offset  # in the precision of the stack, since the floor may be large beside the contrast
        # The variance is that of the square of a normal variable.
        variance = (4 * xp.square(root) + 2 * spread) * spread
        yield KrigedPlane(plane, variance, passed * noise.variance(plane), energies)


def local_share(change: Array) -> Array:
    """How the error is spread over a plane, of mean 1: most lies where the two measured planes around it differ."""
    xp = namespace_of(change)
    mean = xp.mean(change)  # stays where the planes lie, so that no device waits for the host
    # A tenth of the error is spread evenly: two planes that are alike do not prove that the one between them is alike.
    share = 0.1 + 0.9 * ndimage("gaussian_filter", change, 3.0) / xp.where(mean > 0, mean, 1)
    return xp.where(mean > 0, share, 1)


def bands_of(rows: int, columns: int, xp: ModuleType = np) -> tuple[Array, Array]:
    """Radial bands of a plane's cosine transform (J, Y, X), and what is coarser than they are (Y, X); they sum to one.

    The bands are raised cosines in the logarithm of the frequency. Their centres lie half an octave from each other,
    from the Nyquist frequency down. They are arrays of a namespace, NumPy or CuPy, in float32.
    """
    along_y, along_x = (xp.arange(size, dtype=xp.float64) / size for size in (rows, columns))
    frequency = xp.hypot(along_y[:, None], along_x)  # 1 = Nyquist
    octaves = 2 * xp.log2(xp.maximum(frequency, 1e-9))
    number = max(int(2 * np.log2(2 * min(rows, columns) / COARSEST)), 0)
    bands, coarse = xp.empty((number, rows, columns), dtype=xp.float32), xp.ones_like(octaves)
    for n in range(number):
        band = xp.cos(np.pi / 2 * xp.minimum(xp.abs(octaves + n), 1)) ** 2
        if n == 0:  # and the corners beyond the Nyquist frequency of a side
            band = xp.where(octaves > 0, 1.0, band)
        bands[n] = band
        coarse -= band
    return bands, xp.where(coarse < 1e-6, 0.0, coarse).astype(xp.float32)


class Correlation(NamedTuple):
    """``rho_j(t) = c_j exp(-h_j t^2) + (1 - c_j) exp(-g_j t^2)``, the noise, and the energy of the planes."""

    c: Doubles
    g: Doubles
    h: Doubles
    nugget: Doubles
    """Ratio of noise to signal."""
    energy: Doubles
    """Of the signal, a voxel of each plane (m, J)."""

    def __call__(self, distance: Doubles) -> Doubles:
        """Correlation (J, ...) at distances (...)."""
        c, g, h = (each.reshape((len(self.c),) + (1,) * distance.ndim) for each in self[:3])
        squares = np.square(distance)
        return np.asarray(c * np.exp(-h * squares) + (1 - c) * np.exp(-g * squares))


def correlations_of(spectra: Array, positions: Doubles, bands: Array, noise: float) -> Correlation:
    """Correlation along z of every band; ``noise`` is the variance of white noise."""
    xp = namespace_of(spectra)
    voxels = spectra[0].size
    flat, planes = (xp.reshape(each, (each.shape[0], voxels)) for each in (bands, spectra))
    energy = to_host(xp.stack([xp.matmul(flat, xp.square(plane)) for plane in planes])).astype(np.float64) / voxels
    products = []
    for lower, upper in pairs_of(positions):
        pairs = zip(lower.tolist(), upper.tolist(), strict=True)
        total = to_host(sum(xp.matmul(flat, planes[i] * planes[k]) for i, k in pairs))
        products.append((lower, upper, total.astype(np.float64) / (voxels * len(lower))))
    width = to_host(xp.sum(flat, axis=1, dtype=xp.float64)) / voxels
    return fitted_correlation(products, positions, energy, noise, width, voxels)


def fitted_correlation(
    products: list[tuple[Indices, Indices, Doubles]],
    positions: Doubles,
    energy: Doubles,
    noise: float,
    width: Doubles,
    voxels: int,
) -> Correlation:
    """Correlation of bands through those of pairs of measured planes.

    Parameters
    ----------
    products : list of (lower, upper, products)
        For each distance the pairs, and the mean product of both planes of a pair in each band ``(J,)``.
    positions : float array (m,)
        Positions of the planes.
    energy : float array (m, J)
        Mean squares of each band.
    noise : float
        Variance of white noise. What two planes one gap apart share is no noise, so that no more is taken off than is
        left beside that in any band.
    width : float array (J,)
        Share of the ``voxels`` coefficients that a band has.
    """
    points = []
    for lower, upper, product in products:
        middle = (energy[lower].mean(axis=0) + energy[upper].mean(axis=0)) / 2
        rho = np.divide(product, middle, out=np.zeros_like(middle), where=middle > 0)
        points.append((float(np.mean(positions[upper] - positions[lower])), rho))
    mean = energy.mean(axis=0)
    unsure = 2 / np.sqrt(np.maximum(width * voxels, 1) * len(products[0][0]))  # two standard errors of a rho of zero
    most = (np.maximum(1 - points[0][1], 0) + unsure) * mean / width
    noise = float(np.min(most, initial=noise))
    signal = np.maximum(1 - np.divide(noise * width, mean, out=np.zeros_like(mean), where=mean > 0), SMALLEST_SIGNAL)
    fitted = correlation_through([(t, rho / signal) for t, rho in points], np.minimum(unsure / signal, 0.5))
    return Correlation(*fitted, np.maximum(1 / signal - 1, SMALLEST_NUGGET), energy * signal)


def pairs_of(positions: Doubles) -> list[tuple[Indices, Indices]]:
    """Pairs (lower, upper) of planes about one, two and four median gaps apart; those four apart only if there are.

    Where the gaps are so uneven that there are no pairs one or two gaps apart, all neighbours are taken, and all planes
    at larger distances than those.
    """
    lower, upper = np.triu_indices(len(positions), k=1)
    distance = (positions[upper] - positions[lower]) / np.median(np.diff(positions))
    one, two, four = (np.abs(np.log(distance / gaps)) < np.log(1.25) for gaps in (1, 2, 4))
    if not one.any():
        one = upper - lower == 1
    if not two.any():
        two = distance > 1.25 * distance[one].mean()
    if distance[four].size and distance[four].mean() < 1.25 * distance[two].mean():
        four = np.zeros_like(four)
    return [(lower[near], upper[near]) for near in (one, two, four) if near.any()]


def correlation_of_trend(trend: npt.NDArray[np.float32], positions: Doubles, noise: float) -> Correlation:
    """Correlation along z of the coefficients ``(m, n)`` of the trend about their means, as one band.

    The trend is far above the noise, so that the noise may be taken off whether or not it is told apart from detail.
    """
    about = trend.astype(np.float64) - trend.mean(axis=0, dtype=np.float64)
    energy = np.mean(np.square(about), axis=1)
    return fitted_correlation(
        [(lower, upper, np.array([np.mean(about[lower] * about[upper])])) for lower, upper in pairs_of(positions)],
        positions, energy[:, None], noise, np.ones(1), trend.shape[1],
    )  # fmt: skip


def correlation_through(points: list[tuple[float, Doubles]], unsure: Doubles) -> tuple[Doubles, Doubles, Doubles]:
    """`c`, `g`, `h` of ``c exp(-h t^2) + (1 - c) exp(-g t^2)`` through two or three points ``(t, rho)``, nearest first.

    For each `h`, `c` and `g` follow from the two nearest points by bisection; where the second `rho` is below that of a
    Gaussian through the first, `c` is 0. `h` follows from the third point in turn; without that it is 0.

    A first `rho` below ``unsure`` cannot be told from 0, and ``unsure`` is taken: planes that have nothing in common
    one gap apart are alike half a gap apart nevertheless, since whatever is imaged is blurred. Others below it are 0.
    """
    (near, first), (far, second), *others = points
    first = np.clip(first, np.maximum(unsure, 1e-3), 1 - 1e-6)
    second = np.where(second < unsure, 0, np.minimum(second, first * (1 - 1e-9)))
    h = np.zeros_like(first)
    for third, rho in others * ROUNDS:
        c, g = two_gaussians((near, first), (far, second), h)
        slow = np.maximum(rho, unsure) - (1 - c) * np.exp(-g * third**2)
        share = np.divide(slow, c, out=np.ones_like(c), where=c > 0)
        h = -np.log(np.clip(share, LEAST_SLOW, 1)) / third**2
    c, g = two_gaussians((near, first), (far, second), h)
    return c, g, h


def two_gaussians(
    near: tuple[float, Doubles], far: tuple[float, Doubles], h: Doubles
) -> tuple[Doubles, Doubles]:  # fmt: skip
    """`c` and `g` through two points for a given `h`."""
    (one, first), (two, second) = near, far
    squares, slow, slower = (two / one) ** 2, np.exp(-h * one**2), np.exp(-h * two**2)
    low, high = np.zeros_like(first), np.minimum(np.minimum(second / slower, first / slow), 1) * (1 - 1e-12)
    for _ in range(50):
        c = (low + high) / 2
        near_log = np.log(np.maximum(first - c * slow, 1e-300) / (1 - c))
        far_log = np.log(np.maximum(second - c * slower, 1e-300) / (1 - c))
        above = squares * near_log < far_log  # what is left falls more slowly than a Gaussian: `c` is larger
        low, high = np.where(above, c, low), np.where(above, high, c)
    c = np.where(second > first**squares, (low + high) / 2, 0.0)
    return c, -np.log((first - c * slow) / (1 - c)) / one**2


def kriging_weights(
    correlation: Correlation, positions: Doubles, target: float, *, sum_to_one: bool = False
) -> Floats:  # fmt: skip
    """Weights (J, k) of the planes at `positions` for the one at `target`.

    With ``sum_to_one`` a mean that is not known is passed on as it is (ordinary kriging; Cressie 1990).
    """
    between = correlation(positions[:, None] - positions) + correlation.nugget[:, None, None] * np.eye(len(positions))
    weights: Floats = np.linalg.solve(between, correlation(positions - target)[..., None])[..., 0]
    if sum_to_one:
        even = np.linalg.solve(between, np.ones((len(between), len(positions), 1)))[..., 0]
        weights = weights + even * ((1 - weights.sum(axis=1)) / even.sum(axis=1))[:, None]
    return weights


def share_left(correlation: Correlation, weights: Floats, positions: Doubles, target: float) -> Floats:
    """Share of the variance of each band that is left (J,): ``1 - 2 w r + w R w``, of noise-free planes."""
    between, towards = correlation(positions[:, None] - positions), correlation(positions - target)
    left: Floats = 1 - 2 * np.sum(weights * towards, axis=1) + np.einsum("jk,jkl,jl->j", weights, between, weights)
    return np.maximum(left, 0)
