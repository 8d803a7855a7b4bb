"""The noise of a volume: its variance against intensity, its correlation between pixels, and how to make it constant.

Model: ``var(y) = gain E[y] + offset`` (Poisson-Gaussian; ``gain = 0``: Gaussian). Nothing but the volume is known, and
real volumes have texture, so noise has to be told from structure. Square patches within planes are used, and no
intensities are compared across planes: a gap between planes changes nothing, and the lateral axes of real stacks are
sampled finely enough that patches leave no more structure behind than cubes of as many voxels do.

1. Each patch is fitted by its lowest cosines, over its observed voxels. For white Gaussian noise the residual and the
   fit are independent. So patches may be chosen by the fit (the flattest ones, by the energy of its gradient) without
   bias on the noise in the residual. Choosing by the residual itself would bias it low.
2. The residual of the flattest patches of a class of intensity is a mixture of a Gaussian and a uniform background,
   which takes outliers and edges; the variance of the Gaussian is the noise of the class.
3. A line through the classes gives gain and offset. The gain is kept where the line is better than a constant by
   more than the scatter of the classes explains.
4. Noise correlated between pixels (resampled or demosaiced images) is weak at the highest frequencies. It is found by
   comparing the products of neighbouring residuals, after a fit of few cosines, with what a Gaussian blur of white
   noise would give under the same fit. Structure looks the same but is not spread evenly: where the flattest patches
   hold less than the others do, the question is left open and said to be.

References
----------
A. Foi, M. Trimeche, V. Katkovnik, K. Egiazarian, Practical Poissonian-Gaussian noise modeling and fitting for
single-image raw-data, IEEE TIP 17 (2008) 1737-1754, doi:10.1109/TIP.2008.2001399 (variance against intensity,
clipping). X. Liu, M. Tanaka, M. Okutomi, Single-image noise level estimation for blind denoising, IEEE TIP 22 (2013)
5226-5237, doi:10.1109/TIP.2013.2283400 (weak texture by gradients). M. Makitalo, A. Foi, Optimal inversion of the
generalized Anscombe transformation for Poisson-Gaussian noise, IEEE TIP 22 (2013) 91-103,
doi:10.1109/TIP.2012.2202675.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares
from scipy.stats import poisson

from tensorcell.solvers.arrays import Array, as_float, from_host, is_cupy, is_numpy, namespace_of, to_host

Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.intp]

SIDE = 8
"""Patch side in pixels: longer ones hold more edges, shorter ones fewer residuals that are free of them."""

DRAW = 1 << 14
"""Patches read at a time: a million voxels of fully measured data."""

PATCHES = 6144
"""Patches analysed at most: the 30 % flattest leave 30 000 free residuals, a standard error of sigma of .4 %."""

MASKED_PATCHES = 2048
"""The same where voxels are missing, since each patch then needs a fit of its own."""

TOLERATED = 0.1
"""Smaller changes of the variance with the intensity are ignored (5 % in sigma), and smaller correlations along z."""


@dataclass(frozen=True)
class NoiseModel:
    """What is known of the noise of a volume; intensities and standard deviations are in the data's unit.

    Attributes
    ----------
    gain, offset : float
        ``var(y) = gain E[y] + offset``; ``gain = 0`` where constant variance explains the data as well. ``offset`` is
        read noise less ``gain`` times the detector's pedestal, so that it may be negative.
    sigma : float
        Standard deviation at ``intensity``, ``sqrt(offset)`` where ``gain = 0``. That of rounding (0 for floats) where
        no noise was found or none could be measured; then ``patches`` is 0.
    intensity : float
        Typical intensity: the mean over the analysed patches, weighted by what they hold above the darkest class, so
        that it lies in what was imaged even where most of the volume is background.
    correlation : tuple of three floats
        Correlation of the noise of neighbouring voxels along z, y, x; NaN where too few voxels tell it or where
        structure hides it. ``gain``, ``offset`` and ``sigma`` speak of single voxels, with its effect undone.
    correlated : bool or None
        Whether it exceeds .08 along y or x, or .1 along z; None where correlated noise and structure cannot be told
        apart. Then white noise was assumed, and ``sigma`` is too small if the noise is correlated within planes.
    low, high : float or None
        Lowest and highest value of the data where more voxels hold it than noise explains (background set to zero,
        saturation). Patches with more than a tenth of such voxels were left out; where this left fewer than 40
        patches, the voxels themselves.
    step : float
        Distance of the data's levels where they are evenly spaced (integers), else 0.
    floor : float
        Smallest variance that :meth:`variance` returns: below the darkest patches the line is not trusted.
    patches : int
        Patches that the estimate rests on.
    sentence : str
        All this in words.
    """

    gain: float
    offset: float
    sigma: float
    intensity: float = 0.0
    correlation: tuple[float, float, float] = (np.nan, np.nan, np.nan)
    correlated: bool | None = None
    low: float | None = None
    high: float | None = None
    step: float = 0.0
    floor: float = 0.0
    patches: int = 0
    sentence: str = ""

    @staticmethod
    def white(sigma: float) -> NoiseModel:
        """White Gaussian noise of one standard deviation at all intensities."""
        return NoiseModel(gain=0.0, offset=sigma**2, sigma=sigma, floor=sigma**2, sentence="")

    def variance(self, intensity: Array) -> Array:
        """``max(gain intensity + offset, floor)`` of an array of noise-free intensities (any shape; dtype kept)."""
        xp = namespace_of(intensity)
        line = self.gain * as_float(intensity) + self.offset
        return xp.where(line < self.floor, xp.asarray(self.floor, dtype=line.dtype), line)


def estimate_noise(data: Array, mask: Array | None = None) -> NoiseModel:
    """Noise of a stack, told from its structure.

    Parameters
    ----------
    data : real array ``(Z, Y, X)``
        In any unit; values that are not finite count as missing. Planes may be any distance apart.
    mask : bool array ``(Z, Y, X)``, optional
        True = observed.

    Returns
    -------
    NoiseModel

    Raises
    ------
    TypeError
        If the mask is not boolean, the data not real.
    ValueError
        If the data has not three axes, the mask another shape, or nothing was observed.

    Notes
    -----
    A sample of patches is read and analysed on the host: memory and time stop growing at about two million voxels
    (below half a second on one core). The result is deterministic.

    What no single noisy volume tells: texture as fine as a pixel that fills the volume looks like noise and is counted
    as noise, so that ``sigma`` is an upper bound for white noise. Where few voxels are observed, less of the texture
    can be fitted and the bound is looser.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> z, y, x = np.indices((20, 64, 64)) / 64
    >>> noise = estimate_noise(np.sin(7 * y * x + z) + 0.1 * rng.standard_normal(z.shape))
    >>> round(noise.sigma, 2), noise.gain, noise.correlated
    (0.1, 0.0, False)
    """
    xp = namespace_of(data, mask)
    if data.ndim != 3:
        raise ValueError(f"expected data with 3 axes (z, y, x), got shape {tuple(data.shape)}")
    if not xp.isdtype(data.dtype, ("bool", "integral", "real floating")):
        raise TypeError(f"expected real numbers, got dtype {data.dtype}")
    if mask is not None and tuple(mask.shape) != tuple(data.shape):
        raise ValueError(f"mask has shape {tuple(mask.shape)}, data has shape {tuple(data.shape)}")
    if mask is not None and mask.dtype != xp.bool:
        raise TypeError(f"mask: expected a boolean array (True = observed), got dtype {mask.dtype}")

    sample = _sample(data, mask)
    if len(sample.values) == 0:
        return _no_noise(sample, UNMEASURABLE)
    sample, outliers = _cleaned(sample)
    low_pass = _fit(sample, SMOOTH)
    if outliers and len(low_pass.rows) > 0 and not low_pass.seen.all():
        sample = _without_small_outliers(sample, low_pass)
        low_pass = _fit(sample, SMOOTH)
    pixels = sample.values.shape[1]
    fits = _fit(sample, pixels * 3 // 4 if len(sample.values) > 500 else pixels // 2)
    if min(len(low_pass.rows), len(fits.rows)) == 0:
        return _no_noise(sample, UNMEASURABLE)
    classes = _classes(fits)
    if not np.any(classes.variance > sample.step**2 / 24):  # rounding alone makes twice that, and 0 on flat ground
        return _no_noise(sample, "The flattest patches are constant but for rounding: no noise was found.")

    within = _correlation_within_planes(low_pass, sample.side)
    if within.correlated:
        # The middle frequencies hold less structure than all but the lowest, and enough noise unless the blur is wide.
        fits = _fit(sample, pixels * 3 // 8)
        if _left(fits, sample.side, within.correlation) < 0.2:
            fits = low_pass
        classes = _classes(fits)
        classes = classes._replace(variance=classes.variance / _left(fits, sample.side, within.correlation))
    along = _correlation_along_z(data, mask, sample, fits)
    return _model(sample, fits, classes, within, along)


# Reading patches -----------------------------------------------------------------------------------------------------


class _Sample(NamedTuple):
    """Patches ``P`` of ``n`` voxels each, on the host."""

    values: Doubles  # (P, n), 0 where unobserved
    seen: Bools  # (P, n)
    corners: Ints  # (P, 3): z, y, x of the first voxel
    side: tuple[int, int]
    low: float | None
    high: float | None
    step: float


def _sample(data: Array, mask: Array | None) -> _Sample:
    """Random patches of a grid; those with more than a tenth of clipped voxels or hardly any observed ones left out.

    Patches grow until half of those that hold anything hold 14 voxels. Where most patches are clipped (background set
    to zero) up to eight times as many are read.
    """
    height, width = int(data.shape[1]), int(data.shape[2])
    rng = np.random.default_rng(0)
    length = SIDE
    while True:
        side = (min(length, height), min(length, width))
        counts = _grid(data.shape, side)
        total = int(np.prod(counts))
        draw = max(1, DRAW * SIDE**2 // (side[0] * side[1]))
        order = np.arange(total) if total <= 8 * draw else np.unique(rng.integers(0, total, 8 * draw))
        order = rng.permutation(order)
        values, seen, _ = _draw(data, mask, order[:draw], counts, side)
        observed = seen.sum(axis=1)
        if length == SIDE and not observed.any() and total <= draw and not _any_observed(data, mask):
            raise ValueError(f"expected observed voxels, got none in data of shape {tuple(data.shape)}")
        sparse = not observed.any() or np.median(observed[observed > 0]) < 14
        if not sparse or length >= 32 or length >= max(height, width):
            break
        length *= 2

    if not observed.any():
        return _Sample(values[:0], seen[:0], np.zeros((0, 3), dtype=int), side, None, None, 0.0)
    pool = values[seen]
    step = _step(pool)
    low, high = _atoms(pool, step)
    most = PATCHES * SIDE**2 // max(SIDE**2, side[0] * side[1])
    kept: list[tuple[Doubles, Bools, Ints]] = []
    partly: list[tuple[Doubles, Bools, Ints]] = []
    count = 0
    for first in range(0, len(order), draw):
        values, seen, corners = _draw(data, mask, order[first : first + draw], counts, side)
        clipped = np.zeros(values.shape, dtype=bool)
        for end in (low, high):
            if end is not None:
                clipped |= values == end
        observed = seen.sum(axis=1)
        good = (observed >= 4) & (np.sum(clipped & seen, axis=1) <= 0.1 * observed)
        kept.append((values[good], seen[good], corners[good]))
        seen &= ~clipped
        some = seen.sum(axis=1) >= 14
        partly.append((np.where(seen, values, 0.0)[some], seen[some], corners[some]))
        count += int(good.sum())
        if count >= most:
            break
    if count < min(
        40, sum(len(part[0]) for part in partly)
    ):  # thin structures cut out of their background: what lies between clipped voxels
        kept = partly
    return _Sample(
        values=np.concatenate([part[0] for part in kept])[:most],
        seen=np.concatenate([part[1] for part in kept])[:most],
        corners=np.concatenate([part[2] for part in kept])[:most],
        side=side,
        low=low,
        high=high,
        step=step,
    )


def _any_observed(data: Array, mask: Array | None) -> bool:
    values = to_host(data)
    return bool(np.any(np.isfinite(values) if mask is None else np.isfinite(values) & to_host(mask)))


def _grid(shape: tuple[int, ...], side: tuple[int, int]) -> tuple[int, int, int]:
    """Patches along z, y, x."""
    strides = _strides(shape, side)
    return int(shape[0]), (shape[1] - side[0]) // strides[0] + 1, (shape[2] - side[1]) // strides[1] + 1


def _strides(shape: tuple[int, ...], side: tuple[int, int]) -> tuple[int, int]:
    """Patches lie side by side, and overlap by half where the volume is small."""
    part = 2 if np.prod(shape, dtype=float) < DRAW * SIDE**2 // 4 else 1
    return max(1, side[0] // part), max(1, side[1] // part)


def _draw(
    data: Array, mask: Array | None, places: Ints, counts: tuple[int, int, int], side: tuple[int, int]
) -> tuple[Doubles, Bools, Ints]:
    """Values, observed voxels and corners of the patches at these places of the grid."""
    steps = np.array([1, *_strides(data.shape, side)])
    corners: Ints = np.stack(np.unravel_index(places, counts), axis=1) * steps
    return (*_read(data, mask, corners, side), corners)


def _read(data: Array, mask: Array | None, corners: Ints, side: tuple[int, int]) -> tuple[Doubles, Bools]:
    """Patches ``(P, n)`` at these corners, and which of their voxels were observed."""
    dy, dx = np.divmod(np.arange(side[0] * side[1]), side[1])
    where = (corners[:, :1], corners[:, 1:2] + dy, corners[:, 2:] + dx)
    values = _gather(data, where).astype(np.float64)
    seen = np.isfinite(values)
    if mask is not None:
        seen &= _gather(mask, where)
    return np.where(seen, values, 0.0), seen


def _gather(array: Array, where: tuple[Ints, ...]) -> npt.NDArray[np.generic]:
    """``array[where]`` on the host; only what is asked for leaves a GPU or a memory map."""
    xp = namespace_of(array)
    if is_numpy(xp):
        return cast("npt.NDArray[np.generic]", array[where])
    if is_cupy(xp):
        return to_host(array[tuple(from_host(index, array) for index in where)])
    return cast("npt.NDArray[np.generic]", to_host(array)[where])


def _step(values: Doubles) -> float:
    """Distance of the levels if all values are multiples of one that many of them share, else 0."""
    levels = np.unique(values)
    if not 2 <= levels.size <= values.size // 4:
        return 0.0
    step = float(np.diff(levels).min())
    multiples = (levels - levels[0]) / step
    return step if np.all(np.abs(multiples - np.round(multiples)) < 1e-3) else 0.0


def _atoms(values: Doubles, step: float) -> tuple[float | None, float | None]:
    """The lowest and the highest value, each where it was clipped to: held by more than one voxel in a thousand.

    Of evenly spaced levels, the end must hold more than the next four together: the tail of no noise does.
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


# Noise against structure ---------------------------------------------------------------------------------------------

FLAT = 0.3
"""Share of the patches of a class that its noise is taken from."""

SMOOTH = 10
"""Cosines of the fit that judges correlation: mean, slopes, curvatures and cubic terms."""


class _Fits(NamedTuple):
    """Patches ``P`` of ``n`` voxels after the fit of their ``q`` lowest cosines."""

    basis: Doubles  # (n, q)
    rows: Ints  # (P,) which patches of the sample
    corners: Ints  # (P, 3)
    seen: Bools  # (P, n)
    intensity: Doubles  # (P,) mean of the observed voxels
    roughness: Doubles  # (P,) energy of the gradient of the fit
    residual: Doubles  # (P, n) data - fit, 0 where unobserved
    scaled: Doubles  # (P, n) residual over its standard deviation under white noise of variance 1; NaN unobserved
    freedom: Doubles  # (P,) observed voxels less the cosines fitted


def _cosines(side: tuple[int, int]) -> tuple[Doubles, Doubles]:
    """Orthonormal cosines ``(n, n)`` in columns, by rising frequency, and their squared frequencies ``(n,)``."""
    bases = []
    for length in side:
        k, place = np.arange(length), np.arange(length)[:, None] + 0.5
        basis = np.cos(np.pi * place * k / length) * np.sqrt(2 / length)
        basis[:, 0] = np.sqrt(1 / length)
        bases.append(basis)
    frequency = np.add.outer((np.arange(side[0]) / side[0]) ** 2, (np.arange(side[1]) / side[1]) ** 2).ravel()
    order = np.argsort(frequency, kind="stable")
    return np.kron(bases[0], bases[1])[:, order], frequency[order]


def _products(basis: Doubles) -> Doubles:
    """``(n, q q)``: for weights ``(P, n)``, ``weights @ products`` are the Gram matrices of the weighted bases."""
    return (basis[:, :, None] * basis[:, None, :]).reshape(len(basis), -1)


def _cleaned(sample: _Sample) -> tuple[_Sample, bool]:
    """Without what lies far from a robust fit of slopes and curvatures (Tukey's biweight), and whether that is much.

    Near means within six robust standard deviations of the patch, which cuts off none of a Gaussian and little of
    a Poisson distribution. Where this finds more than one voxel in 200, smaller outliers are likely, and the limit is
    four (a Gaussian loses .1 % of its variance).
    """
    values, seen, side = sample.values, sample.seen, sample.side
    basis = _cosines(side)[0][:, : max(1, min(6, side[0] * side[1] // 4))]
    q = basis.shape[1]
    products = _products(basis)
    known = np.where(seen, values, np.nan)
    enough = seen.any(axis=1)
    known[~enough] = 0
    centre = _medians(known)
    apart = np.abs(known - centre)
    for _ in range(5):
        cut = 5 * np.maximum(1.4826 * _medians(apart), 0.5 * sample.step)
        inside = apart < cut
        ratio = np.divide(apart, cut, out=np.ones_like(apart), where=inside)
        weights = (1 - ratio**2) ** 2
        # The ridge decides only where fewer voxels than cosines were observed.
        gram = (weights @ products).reshape(-1, q, q) + 1e-3 * np.eye(q)
        right = (np.where(inside, known - centre, 0) * weights) @ basis
        apart = np.abs(known - centre - np.linalg.solve(gram, right[:, :, None])[:, :, 0] @ basis.T)
    scale = np.maximum(1.4826 * _medians(apart), 0.5 * sample.step)
    apart[np.isnan(apart)] = np.inf
    near = seen & (apart <= 6 * scale)
    flagged = 1 - near.sum() / max(1, seen.sum())
    many = bool(flagged > 0.005)
    if many:
        near = seen & (apart <= 4 * scale)
    return sample._replace(values=np.where(near, values, 0.0), seen=near), many


def _without_small_outliers(sample: _Sample, fits: _Fits) -> _Sample:
    """Without what lies 3.5 standard deviations of its class from a smooth fit (a Gaussian loses .5 % of its variance).

    In patches with edges the limit of :func:`_cleaned` is wide; here it is that of the flat patches.
    """
    classes = _classes(fits)
    limit = 3.5 * np.sqrt(np.interp(fits.intensity, classes.intensity, classes.variance))
    seen = fits.seen & ~(np.abs(fits.scaled) > limit[:, None])
    values = np.where(seen, sample.values[fits.rows], 0.0)
    kept = seen.any(axis=1)
    return sample._replace(values=values[kept], seen=seen[kept], corners=fits.corners[kept])


def _medians(rows: Doubles) -> Doubles:
    """Upper median of the entries of each row that are not NaN, ``(P, 1)``; NaN where there are none."""
    ordered = np.sort(rows, axis=1)
    count = np.sum(~np.isnan(ordered), axis=1)
    return np.asarray(ordered[np.arange(len(rows)), np.minimum(count // 2, rows.shape[1] - 1)][:, None])


def _fit(sample: _Sample, q: int, share: float | None = None) -> _Fits:
    """Least squares with the ``q`` lowest cosines.

    Where voxels are missing, `q` is at most this share of the observed: .75 if no more than an eighth is missing
    (outliers), else .6, since a fit of more through scattered voxels leaves most of them no freedom.
    Complete patches share one projection. If they are a quarter of all, or 2000, only they are used.
    """
    cosines, frequency = _cosines(sample.side)
    n = len(cosines)
    observed = sample.seen.sum(axis=1)
    rows = np.flatnonzero(observed == n)
    if len(rows) >= min(2000, 0.25 * len(observed)):
        values, seen = sample.values[rows], sample.seen[rows]
        basis = cosines[:, :q]
        coefficients = values @ basis
        leverage = np.broadcast_to(np.sum(basis**2, axis=1), values.shape)
    else:
        typical = float(np.median(observed))
        q = max(1, min(q, 48, int((share or (0.75 if typical >= 0.875 * n else 0.6)) * typical)))
        rows = np.flatnonzero(observed > q + 2)[:MASKED_PATCHES]
        values, seen = sample.values[rows], sample.seen[rows]
        basis = cosines[:, :q]
        inverse = np.linalg.inv((seen.astype(float) @ _products(basis)).reshape(-1, q, q) + 1e-6 * np.eye(q))
        coefficients = np.matmul(inverse, (values @ basis)[:, :, None])[:, :, 0]
        leverage = np.sum(np.matmul(basis, inverse) * basis, axis=2)
    residual = np.where(seen, values - coefficients @ basis.T, 0.0)
    free = seen & (leverage < 0.9)  # a voxel that decides the fit alone says nothing of the noise
    scaled = np.where(free, residual / np.sqrt(np.where(free, 1 - leverage, 1.0)), np.nan)
    roughness = coefficients**2 @ frequency[:q]
    return _Fits(
        basis=basis,
        rows=rows,
        corners=sample.corners[rows],
        seen=seen,
        intensity=values.sum(axis=1) / observed[rows],
        roughness=roughness,
        residual=residual,
        scaled=scaled,
        freedom=observed[rows] - float(q),
    )


class _Classes(NamedTuple):
    """Classes ``K`` of intensity, from dark to bright."""

    intensity: Doubles  # (K,)
    variance: Doubles  # (K,)
    error: Doubles  # (K,) standard error of the variance, relative to it
    doubt: Doubles  # (K,) standard error of a patch's intensity, by which the noise itself sorts it into a class
    typical: float


def _groups(intensity: Doubles, fewest: int = 40) -> list[Ints]:
    """Patches by classes of intensity: at least so many in each, and the range divided as well as the patches."""
    pieces = int(np.clip(len(intensity) // 50, 1, 14))
    share = np.linspace(0, 1, pieces + 1)
    low, high = float(intensity.min()), float(intensity.max())
    edges = np.sort(np.concatenate([np.quantile(intensity, share), low + (high - low) * share]))
    order = np.argsort(intensity, kind="stable")
    groups: list[Ints] = []
    first = 0
    for last in np.searchsorted(intensity[order], edges[1:-1]):
        if last - first >= fewest and len(order) - last >= fewest:
            groups.append(order[first:last])
            first = int(last)
    groups.append(order[first:])
    return groups


def _flattest(fits: _Fits, share: float, fewest: int = 30) -> list[Ints]:
    """The patches of each class whose fits have the least gradients."""
    chosen = []
    for group in _groups(fits.intensity):
        keep = max(int(share * len(group)), min(len(group), fewest))
        chosen.append(group[np.argsort(fits.roughness[group], kind="stable")[:keep]])
    return chosen


def _classes(fits: _Fits) -> _Classes:
    """Variance of the noise in each class of intensity."""
    chosen = _flattest(fits, FLAT)
    intensity = np.array([fits.intensity[group].mean() for group in chosen])
    variance = np.array([_width(fits.scaled[group]) for group in chosen])
    error = np.array([np.sqrt(2 / fits.freedom[group].sum()) for group in chosen])
    doubt = np.array([np.sqrt(v / fits.seen[g].sum(axis=1).mean()) for v, g in zip(variance, chosen, strict=True)])
    bright = np.maximum(fits.intensity - intensity[0], 0) + 1e-9 * (np.ptp(fits.intensity) + 1)
    return _Classes(intensity, variance, error, doubt, float(np.average(fits.intensity, weights=bright)))


def _width(values: Doubles) -> float:
    """Variance of the Gaussian in a mixture with a uniform distribution over the range (40 steps of EM).

    The range is at least ten standard deviations either way: a narrower one would take part of the Gaussian.
    """
    squares = values[np.isfinite(values)] ** 2
    if squares.size == 0:
        return 0.0
    variance = float(np.median(squares)) / 0.4549  # the median of chi squared with one degree of freedom
    if variance == 0:
        return float(squares.mean())
    reach = max(float(np.sqrt(squares.max())), 10 * np.sqrt(variance))
    share = 0.05
    for _ in range(40):
        bell = (1 - share) * np.exp(-squares / (2 * variance)) / np.sqrt(2 * np.pi * variance)
        belongs = bell / (bell + share / (2 * reach))
        variance = float(belongs @ squares / belongs.sum())
        share = float(1 - belongs.mean())
    return variance


def _line(classes: _Classes) -> tuple[float, float]:
    """Gain and offset through the classes; gain 0 unless it is more than chance and more than :data:`TOLERATED`.

    The slope must be four of its standard errors, which contain the scatter of the classes, and must change the
    variance by a tenth from the darkest to the brightest class.
    """
    x, v = classes.intensity, classes.variance
    constant, _ = _reweighted(np.ones((len(x), 1)), classes, 0.0)
    span = x[-1] - x[0]
    if len(x) < 3 or span <= 0:
        return 0.0, float(constant[0])
    design = np.stack([(x[-1] - x) / span, (x - x[0]) / span], axis=1)  # unknowns: the variances at both ends
    slope = np.polynomial.polynomial.polyfit(x, v, 1)[1]
    for _ in range(3):
        ends, covariance = _reweighted(design, classes, slope)
        slope = (ends[1] - ends[0]) / span
    rise = ends[1] - ends[0]
    doubt = np.sqrt(max(0.0, covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]))
    if rise <= 4 * doubt or rise <= TOLERATED * max(ends[0], 0):
        return 0.0, float(constant[0])
    return float(slope), float(ends[0] - slope * x[0])


def _reweighted(design: Doubles, classes: _Classes, slope: float) -> tuple[Doubles, Doubles]:
    """Coefficients of the line and their covariance: least squares, reweighted 20 times with Huber's weights.

    A class is off by its own error, by 3 % (texture differs), and by the slope times the error of its intensity.
    Huber's limit is 1.5 times the scatter found: what leaks structure is an outlier here.
    """
    v = classes.variance
    fitted, robust, scatter = v, np.ones(len(v)), 1.0
    for _ in range(20):
        own = np.maximum(fitted, 0.5 * v.min()) * np.hypot(classes.error, 0.03)
        scale = np.maximum(np.hypot(own, slope * classes.doubt), 1e-9 * v.max())
        weights = robust / scale**2
        inverse = np.linalg.pinv((design.T * weights) @ design)
        coefficients = inverse @ (design.T @ (weights * v))
        fitted = design @ coefficients
        apart = np.abs(v - fitted) / scale
        scatter = max(1.0, 1.4826 * float(np.median(apart)))
        robust = np.minimum(1, 1.5 * scatter / np.maximum(apart, 1e-300))
    return coefficients, scatter**2 * inverse


# Correlation ---------------------------------------------------------------------------------------------------------

OPERATORS = 256
"""Patches for which the operator of the fit is formed, where voxels are missing and each patch has its own."""

CORRELATED = 0.08
"""Correlations within planes above this are undone. Below, up to 10 % of sigma is missed: white noise in texture
shows up to .07, and undoing that would err as much the other way."""

UNEVEN = 1.1
"""Noise has the same power in all patches of one intensity, structure has not: where the patches next to the flattest
hold so many times the energy of the flattest, what looks like correlation may be structure."""


class _Within(NamedTuple):
    """Correlation along y and x; whether it matters (None: unknown)."""

    correlation: tuple[float, float]
    correlated: bool | None


def _operators(fits: _Fits, rows: Ints) -> Doubles:
    """``I - fit`` as matrices on patches ``(P, n, n)``; ``(1, n, n)`` where all patches are complete."""
    n, q = fits.basis.shape
    if fits.seen.all():
        return (np.eye(n) - fits.basis @ fits.basis.T)[None]
    weights = fits.seen[rows].astype(float)
    inverse = np.linalg.inv((weights @ _products(fits.basis)).reshape(-1, q, q) + 1e-6 * np.eye(q))
    hat = np.matmul(np.matmul(fits.basis, inverse), fits.basis.T)
    return np.asarray((np.eye(n) - hat) * weights[:, :, None] * weights[:, None, :])


def _gaussian(length: int, correlation: float) -> Doubles:
    """Toeplitz matrix of ``correlation^(lag^2)``: white noise under a Gaussian blur (signs alternate if negative)."""
    lag = np.abs(np.subtract.outer(np.arange(length), np.arange(length)))
    return np.asarray(np.sign(correlation) ** lag * np.abs(correlation) ** (lag.astype(float) ** 2))


def _correlation_within_planes(fits: _Fits, side: tuple[int, int]) -> _Within:
    """Correlation of the noise along y and x under a separable Gaussian model, from products of neighbours.

    With ``Q`` the operator of the fit, ``A`` the pairs of neighbours and ``C`` the correlation of the noise,
    ``E[r' A r] / E[r' r] = tr(Q A Q C) / tr(Q Q C)``: two equations (``A`` along y, along x) for two correlations.
    """
    unknown = _Within((np.nan, np.nan), None)
    if min(side) < 4 or side[0] * side[1] > 4 * SIDE**2:
        return unknown
    chosen = _flattest(fits, 0.1)
    rows = np.concatenate(chosen)
    operators = _operators(fits, rows[:: 1 + len(rows) // (OPERATORS * SIDE**2 // fits.basis.shape[0])])
    neighbours = (np.kron(np.eye(side[0], k=1), np.eye(side[1])), np.kron(np.eye(side[0]), np.eye(side[1], k=1)))
    found, expected = [], [np.mean(operators, axis=0)]
    for upper in neighbours:
        pairs = (upper + upper.T) / 2
        products = np.sum((fits.residual @ pairs) * fits.residual, axis=1)
        energy = np.sum(fits.residual**2, axis=1)
        ratio = np.divide(products, energy, out=np.full_like(energy, np.nan), where=energy > 0)
        known = [ratio[group][energy[group] > 0] for group in chosen]
        found.append(_lowest([r for r in known if r.size >= 10]))
        expected.append(np.mean(np.matmul(np.matmul(operators, pairs), operators), axis=0))
    if not np.all(np.isfinite(found)):
        return unknown

    def miss(correlation: Doubles) -> Doubles:
        c = np.kron(_gaussian(side[0], correlation[0]), _gaussian(side[1], correlation[1]))
        total = np.sum(expected[0] * c)
        return np.array([np.sum(e * c) / total - f for e, f in zip(expected[1:], found, strict=True)])

    along = least_squares(miss, [0.0, 0.0], bounds=(-0.9, 0.97)).x
    correlated = bool(np.max(np.abs(along)) > CORRELATED)
    if correlated and _uneven(fits):
        return unknown
    return _Within((float(along[0]), float(along[1])), correlated)


def _left(fits: _Fits, side: tuple[int, int], correlation: tuple[float, float]) -> float:
    """Variance of the residual of noise so correlated, relative to that of white noise of the same variance."""
    operator = np.mean(_operators(fits, np.arange(len(fits.seen))[:OPERATORS]), axis=0)
    matrix = np.kron(_gaussian(side[0], correlation[0]), _gaussian(side[1], correlation[1]))
    return float(np.sum(operator * matrix) / np.trace(operator))


def _lowest(classes: list[Doubles]) -> float:
    """Lower quartile of the means of the classes: structure adds to some of them, noise is in all.

    The quartile of equal means lies .67 of their standard errors below them; so much is added.
    """
    if not classes:
        return np.nan
    means = [float(np.mean(values)) for values in classes]
    errors = [float(np.std(values)) / np.sqrt(values.size) for values in classes]
    return float(np.quantile(means, 0.25)) + (0.67 * float(np.median(errors)) if len(classes) > 1 else 0.0)


def _uneven(fits: _Fits) -> bool:
    """Whether the residual grows from the flattest tenth of the patches to the next three tenths in most classes."""
    energy = np.sum(fits.residual**2, axis=1) / fits.freedom
    growth = []
    for flat, more in zip(_flattest(fits, 0.1), _flattest(fits, 0.4), strict=True):
        least = float(np.median(energy[flat]))
        rest = more[len(flat) :]
        if rest.size >= 10:
            growth.append(float(np.median(energy[rest])) / least if least > 0 else np.inf)
    return not growth or float(np.quantile(growth, 0.25)) > UNEVEN


def _correlation_along_z(data: Array, mask: Array | None, sample: _Sample, fits: _Fits) -> tuple[float, bool | None]:
    """Correlation of the residuals of the flattest patches with those of the next plane, and whether it matters.

    ``E[r' s] = c tr(Q S)`` for residuals ``r``, ``s`` of two planes with operators ``Q``, ``S``. NaN where
    there are no two planes observed one above the other.
    """
    n, q = fits.basis.shape
    rows = np.concatenate(_flattest(fits, 0.1))
    rows = rows[fits.corners[rows, 0] + 1 < data.shape[0]]
    if not fits.seen.all():
        rows = np.random.default_rng(0).permutation(rows)[: 2 * OPERATORS * SIDE**2 // n]
    if len(rows) < 30 or n > 4 * SIDE**2:
        return np.nan, False
    above: Ints = fits.corners[rows] + np.array([1, 0, 0])
    values, seen = _read(data, mask, above, sample.side)
    partner = _fit(_cleaned(sample._replace(values=values, seen=seen, corners=above))[0], q, share=1.0)
    if partner.basis.shape != fits.basis.shape or partner.seen.all() != fits.seen.all() or len(partner.rows) < 30:
        return np.nan, False
    here, there = rows[partner.rows], np.arange(len(partner.rows))
    first, second = _operators(fits, here), _operators(partner, there)
    r, s = fits.residual[here], partner.residual[there]
    size = np.sqrt(np.sum(r**2, axis=1) * np.sum(s**2, axis=1))
    own = np.sqrt(np.trace(first, axis1=1, axis2=2) * np.trace(second, axis1=1, axis2=2))
    due = np.broadcast_to(np.sum(first * second, axis=(1, 2)) / own, size.shape)
    usable = (size > 0) & (due > 0)
    if usable.sum() < 30:
        return np.nan, False
    c = float(np.sum(np.sum(r * s, axis=1)[usable] / size[usable]) / due[usable].sum())
    doubt = 1 / np.sqrt(np.sum(due[usable] ** 2 * fits.freedom[here][usable]))
    if abs(c) <= max(TOLERATED, 3 * doubt):
        return c, False
    return (np.nan, None) if _uneven(fits) else (c, True)


# The answer ----------------------------------------------------------------------------------------------------------


UNMEASURABLE = "Every patch is mostly clipped or too sparse: no noise could be measured."


def _no_noise(sample: _Sample, sentence: str) -> NoiseModel:
    """No spread but that of rounding."""
    variance = sample.step**2 / 12
    return NoiseModel(
        gain=0.0,
        offset=variance,
        sigma=float(np.sqrt(variance)),
        low=sample.low,
        high=sample.high,
        step=sample.step,
        floor=variance,
        sentence=sentence,
    )


def _model(
    sample: _Sample, fits: _Fits, classes: _Classes, within: _Within, along: tuple[float, bool | None]
) -> NoiseModel:
    gain, offset = _line(classes)
    rounding = sample.step**2 / 12
    floor = max(rounding, 0.25 * float(np.maximum(gain * classes.intensity + offset, 0).min()))
    if gain == 0:
        offset = floor = max(offset, rounding)
    flags = (within.correlated, along[1])
    model = NoiseModel(
        gain=gain,
        offset=offset,
        sigma=float(np.sqrt(max(gain * classes.typical + offset, floor))),
        intensity=classes.typical,
        correlation=(along[0], *within.correlation),
        correlated=True if True in flags else None if None in flags else False,
        low=sample.low,
        high=sample.high,
        step=sample.step,
        floor=floor,
        patches=len(fits.intensity),
    )
    return replace(model, sentence=_sentence(model, sample.side))


def _sentence(model: NoiseModel, side: tuple[int, int]) -> str:
    if model.gain > 0:
        said = f"Noise: variance {model.gain:.3g} x intensity {model.offset:+.3g} (Poisson-Gaussian), "
    else:
        said = "Noise: Gaussian, the same at all intensities, "
    said += (
        f"standard deviation {model.sigma:.3g} at intensity {model.intensity:.3g}, "
        f"from {model.patches} patches of {side[0]} x {side[1]} voxels."
    )
    named = [f"{c:.2f} along {axis}" for c, axis in zip(model.correlation, "zyx", strict=True) if abs(c) > CORRELATED]
    if model.correlated:
        said += f" It is correlated between neighbouring voxels: {', '.join(named)}."
    elif model.correlated is None:
        said += " Whether it is correlated between voxels cannot be told apart from structure; taken as white."
    else:
        said += " It is not correlated between voxels."
    if model.patches < 40:
        said += " The patches are few and the figures rough."
    if model.low is not None:
        said += f" Values at {model.low:g} are background set to one value and were left out."
    if model.high is not None:
        said += f" Values at {model.high:g} are saturated and were left out."
    return said


# Variance-stabilising transform --------------------------------------------------------------------------------------


def generalised_anscombe(y: Array, noise: NoiseModel) -> Array:
    """Values whose noise has standard deviation 1: ``2 / a sqrt(max(a y + 3/8 a^2 + b, 0))``, or ``y / sigma``.

    Parameters
    ----------
    y : real array of any shape
        Measured intensities; NaN stays NaN. Every real number is allowed: below the root the result is 0.
    noise : NoiseModel
        ``a`` is its gain and ``b`` its offset; without gain the values are divided by sigma.

    Returns
    -------
    array of the same shape; float32 stays float32, all other types become float64
        Rises with `y`. Its standard deviation is within 4 % of 1 where ``a y + b >= 4 a^2`` (four photons).

    Raises
    ------
    ValueError
        If the noise model says that there is no noise.

    References
    ----------
    M. Makitalo and A. Foi, IEEE TIP 22 (2013) 91-103, doi:10.1109/TIP.2012.2202675.

    Examples
    --------
    >>> import numpy as np
    >>> noise = NoiseModel(gain=2.0, offset=4.0, sigma=2.0)
    >>> generalised_anscombe(np.array([-100.0, 0.0, 100.0]), noise).round(3)
    array([ 0.   ,  2.345, 14.335])
    """
    y = as_float(y)
    a, b = noise.gain, noise.offset
    if a == 0:
        return y / _positive(noise.sigma)
    root = a * y + (0.375 * a * a + b)
    xp = namespace_of(root)
    return (2 / a) * xp.sqrt(xp.where(root < 0, xp.asarray(0.0, dtype=root.dtype), root))


def inverse_anscombe(d: Array, noise: NoiseModel) -> Array:
    """Mean intensities whose transform has the expectation `d`: the exact unbiased inverse, or ``sigma d``.

    Parameters
    ----------
    d : real array of any shape
        Denoised values of :func:`generalised_anscombe`, taken as expectations; NaN stays NaN.
    noise : NoiseModel

    Returns
    -------
    array of the same shape; float32 stays float32, all other types become float64

    Raises
    ------
    ValueError
        If the noise model says that there is no noise.

    Notes
    -----
    With ``y = a P + pedestal + read noise``, `P` Poisson of mean `m`, the expectation ``E[d | m]`` is tabulated by
    quadrature for ``m`` in [0, 100], and ``m = d^2 / 4 + correction(d)`` is interpolated; the inverse agrees with
    the quadrature to .001 gain (the closed form of Makitalo and Foi to .05 gain). Beyond, the correction is the
    asymptotic one, ``- 1/8 - b / a^2`` plus a term in ``1 / d^2`` matched at the end. Below ``E[d | 0]`` no mean
    exists, and ``d^2 / 4`` continues the table, so that noise around zero is not rectified; the result rises with `d`.
    The offset does not tell pedestal from read noise: a negative one is taken as pedestal without read noise,
    a positive one as read noise without pedestal.

    References
    ----------
    M. Makitalo and A. Foi, IEEE TIP 22 (2013) 91-103, doi:10.1109/TIP.2012.2202675.

    Examples
    --------
    >>> import numpy as np
    >>> noise = NoiseModel(gain=2.0, offset=0.0, sigma=2.0)
    >>> y = 2.0 * np.random.default_rng(0).poisson(1.5, 1_000_000)
    >>> stabilised = generalised_anscombe(y, noise)
    >>> round(float(inverse_anscombe(stabilised.mean(), noise)), 2)
    3.0
    """
    d = as_float(d)
    a, b = noise.gain, noise.offset
    if a == 0:
        return d * _positive(noise.sigma)
    places, corrections, tail = _inverse_table(max(b, 0.0) / a**2)
    xp = namespace_of(d)
    high = float(places[-1])
    zero = xp.asarray(0.0, dtype=d.dtype)
    d = xp.where(d < 0, zero, d)
    if is_numpy(xp) or is_cupy(xp):
        inside = xp.interp(d, xp.asarray(places), xp.asarray(corrections))
    else:  # the standard has no interpolation
        inside = from_host(np.interp(to_host(d), places, corrections), d)
    square = xp.where(d > high, d, xp.asarray(high, dtype=d.dtype)) ** 2
    far = float(corrections[-1]) + tail * (1 / square - 1 / high**2)
    correction = xp.where(d > high, far, xp.astype(inside, d.dtype))
    mean = d**2 / 4 + correction
    return a * mean - min(b, 0.0) / a


def _positive(sigma: float) -> float:
    if not sigma > 0:
        raise ValueError(f"expected noise with a positive standard deviation, got sigma = {sigma:g}")
    return sigma


@lru_cache(maxsize=16)
def _inverse_table(read: float) -> tuple[Doubles, Doubles, float]:
    """``d``, ``m - d^2 / 4`` and the factor of ``1 / d^2`` in its tail, for read noise of variance ``read`` at gain 1.

    ``E[d | m] = sum_k P(k; m) E_n[2 sqrt(max(k + n + 3/8 + read, 0))]``, `n` Gaussian (trapezoidal rule).
    """
    means = np.linspace(0, 10, 801) ** 2
    k = np.arange(260.0)  # P(k >= 260; 100) < 1e-37
    n, step = np.linspace(-9, 9, 721, retstep=True)
    weight = np.exp(-(n**2) / 2) * step / np.sqrt(2 * np.pi)
    given = 2 * np.sqrt(np.maximum(k[:, None] + np.sqrt(read) * n + 0.375 + read, 0)) @ weight
    d = poisson.pmf(k, means[:, None]) @ given
    corrections = means - d**2 / 4
    tail = (corrections[-1] + 0.125 + read) * d[-1] ** 2
    return d, corrections, float(tail)
