"""How finely planes must lie: the axial band limit of a stack, from its spectrum and from the optics.

Whole planes that were never measured are in no low-rank theorem. What stands in for one is smoothness along z: a stack
without frequencies above ``f`` is given by planes ``1 / (2 f)`` apart (Shannon 1949, doi:10.1109/JRPROC.1949.232969).
:func:`axial_band` looks for ``f``, and :func:`axial_verdict` says whether a distance between planes is small enough.

No finite stack is strictly band-limited. The limit meant here is effective: the frequency above which the axial power
density is below ``LEVEL`` of its peak, or below what can be told from noise. What lies above it is lost, but small.

1. *Axial spectrum.* Means of pixels over z (fixed patterns) and of planes (flicker of the lamp) are taken off, all
   three axes get a Hann window, and power is averaged over those lateral frequencies that hold any signal. The limit is
   where this falls below the level, if it does so before the Nyquist frequency of the measured planes. Power well above
   the noise at that frequency is evidence of aliasing: spectra fold there.
2. *Noise floor.* Noise is taken as white, so its power is that at the highest lateral frequencies, unless given. Noise
   that is correlated within planes alone shows as a flat end of the axial spectrum, far below its peak.
3. *Lateral spectrum.* Power along y and x, with a tenth of the level, to be safe. In an isotropic object, blurred along
   z at least as much as within planes, no axial frequency is above the lateral limit: an upper bound only.
4. *Optics.* The three-dimensional transfer function of a widefield fluorescence microscope ends along z at
   ``(n - sqrt(n^2 - NA^2)) / wavelength`` and within planes at ``2 NA / wavelength`` (McCutchen 1964,
   doi:10.1364/JOSA.54.000240; Frieden 1967, doi:10.1364/JOSA.57.000056). A confocal microscope with a nearly closed
   pinhole reaches up to twice that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import fft, ndimage

from tensorcell.errors import InputError
from tensorcell.volume import check_mask, check_spacing

Floats = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.integer]
Source = Literal["axial spectrum", "optics", "lateral spectrum", "none"]

LEVEL = 3e-3  # of the peak: -25 dB; white noise blurred by a Gaussian of s then has its limit at 0.38 / s
CLEAR_LEVEL = 1e-2  # of the peak: more than this at the Nyquist frequency shows aliasing
MARGIN = 0.15  # of the noise floor: less excess is not told from noise that is not quite white
RANGE = 10.0  # the peak must exceed that margin by this factor, or noise may hide most of the band
TOLERANCE = 0.1  # steps up to 10 % above the Nyquist step count as resolved ...
CLEARLY_ABOVE = 0.25  # ... and those from 25 % above as aliased: the limit is known to about 15 %
MIN_PLANES = 8
MIN_PIXELS = 16
TILE = 192
MAX_PLANES = 256


@dataclass(frozen=True)
class AxialSpectrum:
    """Power density against frequency, averaged over the other two axes.

    White noise of standard deviation ``s`` has the power ``s^2`` at every frequency.
    """

    frequency: tuple[float, ...]
    """Cycles per unit of length, rising from 0."""
    power: tuple[float, ...]
    """In the square of the data's unit, noise included."""
    floor: float
    """Power of the noise."""
    level: float
    """Power, noise included, below which nothing counts as signal."""
    limit: float | None
    """Where the power falls below the level; None when it does not do so before the Nyquist frequency."""
    peak: float
    """Largest power, noise included; what hardly changes along the axis counts for a tenth."""
    hidden: bool
    """The peak does not stand out of the noise enough for a limit."""
    at_least: float | None
    """Highest frequency with power well above noise and level: a lower bound of the limit. None where there is none."""


@dataclass(frozen=True)
class AxialBand:
    """Result of :func:`axial_band`. Frequencies in cycles per ``unit``, lengths in ``unit``."""

    limit: float | None
    """Axial band limit, None when nothing tells it."""
    nyquist_step: float | None
    """Largest distance between planes that still carries the limit: ``1 / (2 limit)``."""
    unit: str
    """``"um"``, or ``"plane"`` (the distance between planes of the array) when the spacing is unknown."""
    optics_limit: float | None
    """Axial cutoff of a widefield microscope, in cycles per um whatever ``unit``."""
    obtained: str
    """One sentence: how the limit was obtained, or why not, and what was done to the data."""
    source: Source
    """What ``limit`` rests on. From ``"lateral spectrum"`` and ``"optics"`` it is an upper bound."""
    at_least: float | None
    """Lower bound where the axial spectrum gives no limit: the highest frequency with power well above the noise."""
    lateral_limit: float | None
    """Lateral band limit, in cycles per um or, when the spacing is unknown, per pixel."""
    optics_lateral_limit: float | None
    """Lateral cutoff of a widefield microscope, in cycles per um."""
    step: float | None
    """Distance between the planes that the axial spectrum was taken from."""
    axial: AxialSpectrum | None
    """Along z."""
    lateral: AxialSpectrum | None
    """Along y and x, averaged."""


def axial_band(
    stack: Any,
    spacing: Sequence[float] | None,
    *,
    mask: Bools | None = None,
    noise: float | None = None,
    na: float | None = None,
    wavelength: float | None = None,
    refractive_index: float | None = None,
) -> AxialBand:
    """Estimate the axial band limit of a stack from its spectra and, where known, from the optics.

    Parameters
    ----------
    stack : real array ``(Z, Y, X)``
        Planes as measured; NaN = not measured. Never written to.
    spacing : (dz, dy, dx) in micrometres, or None
        Of the array: ``dz`` is the distance between its planes, whether measured or not. None: unknown, and then
        lengths along z are in planes, and neither the lateral bound nor the optics can be compared with them.
    mask : bool array ``(Z, Y, X)``
        True = measured. Planes without a measured pixel count as gaps; the longest evenly spaced run of the others is
        used. Measured planes with gaps get the mean of the nearest pixels there, and `obtained` says so.
    noise : float
        Standard deviation of white noise, in the data's unit. Default, and always where pixels had to be filled: from
        the highest lateral frequencies.
    na, wavelength, refractive_index : float
        Numerical aperture, vacuum wavelength of the emission in micrometres, refractive index of the medium: all
        three or none.

    Returns
    -------
    AxialBand

    Raises
    ------
    InputError
        A stack that is not three-dimensional and real, infinities, a mask or spacing that does not fit it, a negative
        noise, optics out of range (numerical aperture above the refractive index, a wavelength above 10, which looks
        like nanometres) or given in part.

    Notes
    -----
    On random volumes with a sharp ellipsoidal or a Gaussian band the limit came out within 15 % where it is at least
    four times the frequency resolution ``1 / (planes * step)``; below that the window makes it too large, which asks
    for more planes than needed. Noise makes it smaller: detail under the noise is not seen. What counts stands out of
    the noise by ``MARGIN`` of its power and is above ``LEVEL`` of the peak.

    Noise that is correlated within planes makes the floor too low; give `noise` then. One three-dimensional Fourier
    transform of at most 256 planes of 192 x 192 pixels (of larger stacks, the central planes and the tile that varies
    most): at most two seconds, and five times the memory of that part in float32.

    Examples
    --------
    White noise blurred by a Gaussian of 2 planes has its limit at ``sqrt(-ln 0.003) / (2 pi 2)``, 0.19 per um.

    >>> import numpy as np
    >>> from scipy.ndimage import gaussian_filter
    >>> white = np.random.default_rng(0).standard_normal((64, 48, 48))
    >>> band = axial_band(gaussian_filter(white, 2.0, mode="wrap"), (1.0, 1.0, 1.0))
    >>> band.source, round(band.limit, 1), band.unit
    ('axial spectrum', 0.2, 'um')
    >>> axial_verdict(2.0, band)[0], axial_verdict(4.0, band)[0]
    ('resolved', 'aliased')
    """
    data, seen = _checked_stack(stack, mask)
    steps = check_spacing(spacing)
    if noise is not None and not (math.isfinite(noise) and noise >= 0):
        raise InputError(f"noise must be a finite standard deviation of at least 0, got {noise}")
    optics = optics_limits(na, wavelength, refractive_index)
    axial, lateral, step, remarks = _spectra(data, seen, steps or (1.0, 1.0, 1.0), noise)
    return _band(axial, lateral, step, remarks, optics, known=steps is not None)


def axial_verdict(step: float, band: AxialBand) -> tuple[str, str]:
    """Whether planes ``step`` apart carry the stack: ``resolved``, ``aliased`` or ``unknown``, and a sentence.

    ``resolved``: the step is at most 10 % above the Nyquist step. ``aliased``: it is more than 25 % above that of a
    limit seen in the axial spectrum or passed by the optics, or, where the axial spectrum gives no limit, it has power
    well above the noise beyond the frequency ``1 / (2 step)``. ``unknown``: neither is shown, or the optics contradict
    the spectrum.

    Parameters
    ----------
    step : float
        Distance between measured planes, in ``band.unit``.
    band : AxialBand
        From :func:`axial_band`.

    Raises
    ------
    InputError
        A step that is not positive and finite.

    Examples
    --------
    >>> import numpy as np
    >>> axial_verdict(1.0, axial_band(np.zeros((20, 32, 32)), None))[0]
    'unknown'
    """
    if not (math.isfinite(step) and step > 0):
        raise InputError(f"step must be a positive distance between planes in {band.unit}, got {step}")
    planes = f"planes {_length(step, band.unit)} apart"
    shown_above = band.at_least is not None and 2 * step * band.at_least >= 1 - 1e-9
    if band.limit is None or band.nyquist_step is None:
        if shown_above:
            return "aliased", f"aliased: {planes} are too far apart; {band.obtained}"
        return "unknown", f"unknown whether {planes} are close enough; {band.obtained}"
    excess = step / band.nyquist_step
    needed = f"the {band.source} asks for {_length(band.nyquist_step, band.unit)}"
    if shown_above and excess <= 1 + TOLERANCE and band.source == "optics":
        return "unknown", f"unknown whether {planes} are close enough: {needed}, but {band.obtained}"
    if shown_above:
        return "aliased", f"aliased: {planes} are too far apart, {band.obtained}"
    if excess <= 1 + TOLERANCE:
        return "resolved", f"resolved: {planes} are close enough, {needed}; {band.obtained}"
    if excess > 1 + CLEARLY_ABOVE and band.source != "lateral spectrum":
        return "aliased", f"aliased: {planes} are too far apart, {needed}; {band.obtained}"
    return "unknown", f"unknown whether {planes} are close enough: {needed}; {band.obtained}"


def optics_limits(
    na: float | None, wavelength: float | None, refractive_index: float | None
) -> tuple[float, float] | None:
    """Axial and lateral cutoff of a widefield microscope in cycles per um; None when no optics are given.

    ``(n - sqrt(n^2 - NA^2)) / wavelength`` and ``2 NA / wavelength`` (Frieden 1967, doi:10.1364/JOSA.57.000056).

    Parameters
    ----------
    na, wavelength, refractive_index : float or None
        As for :func:`axial_band`: all three or none.

    Raises
    ------
    InputError
        Given in part, not positive and finite, a numerical aperture above the refractive index, a refractive index
        below 1, or a wavelength above 10 (nanometres).

    Examples
    --------
    >>> axial, lateral = optics_limits(1.2, 0.5, 1.3)
    >>> round(axial, 12), round(lateral, 12)
    (1.6, 4.8)
    """
    given = {"na": na, "wavelength": wavelength, "refractive_index": refractive_index}
    if all(value is None for value in given.values()):
        return None
    missing = [name for name, value in given.items() if value is None]
    if na is None or wavelength is None or refractive_index is None:
        raise InputError(f"optics need na, wavelength and refractive_index together, {' and '.join(missing)} not given")
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int | float | np.number):
            raise InputError(f"{name} must be a number, got {value!r}")
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"{name} must be positive and finite, got {value}")
    if wavelength > 10:
        raise InputError(f"wavelength must be in micrometres, got {wavelength}, which looks like nanometres")
    if refractive_index < 1:
        raise InputError(f"refractive_index must be at least 1, got {refractive_index}")
    if na > refractive_index:
        raise InputError(f"na must not exceed the refractive index {refractive_index}, got {na}")
    # The same as n - sqrt(n^2 - NA^2), without the cancellation at small apertures.
    axial = na**2 / (refractive_index + math.sqrt((refractive_index - na) * (refractive_index + na)))
    return float(axial / wavelength), float(2 * na / wavelength)


def _checked_stack(stack: Any, mask: Bools | None) -> tuple[npt.NDArray[Any], Bools | None]:
    """The array, and where it was measured; None = everywhere."""
    data = np.asarray(stack)
    if data.ndim != 3 or 0 in data.shape:
        raise InputError(f"stack must be a non-empty array (z, y, x), got shape {data.shape}")
    if data.dtype.kind not in "fiub":
        raise InputError(f"stack must hold real numbers, got {data.dtype}")
    if mask is not None:
        check_mask(mask, data.shape)
    seen = mask
    if data.dtype.kind == "f":
        finite = np.isfinite(data)
        if not finite.all():
            seen = ~np.isnan(data) if mask is None else mask & ~np.isnan(data)
            if (seen & ~finite).any():
                raise InputError("stack holds infinities at measured voxels, expected finite numbers or NaN")
    return data, None if seen is None or seen.all() else seen


def _spectra(
    data: npt.NDArray[Any], seen: Bools | None, spacing: tuple[float, float, float], noise: float | None
) -> tuple[AxialSpectrum | None, AxialSpectrum | None, float | None, list[str]]:
    """Axial and lateral spectrum, the distance between the planes used, and what a reader should know of them."""
    planes, stride = _even_run(np.arange(len(data)) if seen is None else np.flatnonzero(seen.any(axis=(1, 2))))
    if len(planes) < MIN_PLANES:
        return None, None, None, [f"{len(planes)} evenly spaced planes were measured, a spectrum needs {MIN_PLANES}"]
    if min(data.shape[1:]) < MIN_PIXELS:
        return None, None, None, [f"planes of {data.shape[1:]} pixels are too small, a spectrum needs {MIN_PIXELS}"]
    remarks = []
    part, there, cropped = _part(data, seen, planes)
    if cropped:
        remarks.append(f"from a part of {' x '.join(map(str, part.shape))} voxels")
    if there is not None:
        remarks.append(f"{1 - there.mean():.0%} of its pixels were not measured and hold the mean of those near")
        part = _filled(part, there)
        noise = None  # filling changes the power of the noise; what is at the highest lateral frequencies holds it all
    step = stride * spacing[0]
    part, spread = _normalised(part)
    if spread == 0:
        return None, None, step, [*remarks, "the stack does not vary"]
    power = _power(part)
    floor = None if noise is None else (noise / spread) ** 2
    axial, lateral = _marginals(power, part.shape[2], (step, *spacing[1:]), floor)
    return _scaled(axial, spread**2), _scaled(lateral, spread**2), step, remarks


def _even_run(measured: Ints) -> tuple[Ints, int]:
    """The longest run of evenly spaced planes among the measured ones, and its stride; the denser one of equals."""
    if len(measured) < 2:
        return measured, 1
    gaps = np.diff(measured)
    starts = np.concatenate([[0], np.flatnonzero(np.diff(gaps)) + 1])
    ends = np.concatenate([starts[1:], [len(gaps)]])
    start, end = max(zip(starts, ends, strict=True), key=lambda run: (run[1] - run[0], -gaps[run[0]]))
    return measured[start : end + 1], int(gaps[start])


def _part(data: npt.NDArray[Any], seen: Bools | None, planes: Ints) -> tuple[npt.NDArray[Any], Bools | None, bool]:
    """At most 256 central planes of the tile of at most 192 x 192 pixels that varies most, and its mask."""
    first = max(0, (len(planes) - MAX_PLANES) // 2)
    kept = planes[first : first + MAX_PLANES]
    tiles = [(slice(y, y + TILE), slice(x, x + TILE)) for y in _starts(data.shape[1]) for x in _starts(data.shape[2])]

    def variation(tile: tuple[slice, slice]) -> float:
        coarse = data[:, *tile][kept[:: max(1, len(kept) // 16)], ::4, ::4].astype(np.float64)
        if seen is not None:
            coarse = coarse[seen[:, *tile][kept[:: max(1, len(kept) // 16)], ::4, ::4]]
        return float(coarse.var()) if coarse.size else 0.0

    tile = max(tiles, key=variation) if len(tiles) > 1 else tiles[0]
    there = None if seen is None else seen[:, *tile][kept]
    part = data[:, *tile][kept]
    return part, None if there is None or there.all() else there, len(tiles) > 1 or len(kept) < len(planes)


def _starts(length: int) -> list[int]:
    """First pixels of tiles that cover the length."""
    if length <= TILE:
        return [0]
    count = -(-length // TILE)
    return [round(index * (length - TILE) / (count - 1)) for index in range(count)]


def _filled(part: npt.NDArray[Any], there: Bools) -> Floats:
    """Gaps hold the Gaussian-weighted mean of the pixels near them in the plane, or the mean of all pixels."""
    values: Any = np.where(there, part, 0).astype(np.float32 if part.dtype.itemsize <= 4 else np.float64)
    mean = values.sum() / there.sum()
    values -= np.where(there, mean, 0)
    weight = ndimage.gaussian_filter(there.astype(np.float32), (0, 1.0, 1.0))
    near = ndimage.gaussian_filter(values, (0, 1.0, 1.0))
    usable = weight > 1e-3
    fill = np.where(usable, near / np.where(usable, weight, 1.0), 0.0)
    return np.asarray(np.where(there, values, fill))


def _normalised(part: npt.NDArray[Any]) -> tuple[Floats, float]:
    """Float32, the means over z and over planes taken off, and divided by the spread, which is also returned."""
    # Small offsets and narrow integers are exact in float32; anything else is centred before it is rounded.
    centred: Any = part.astype(np.float32 if part.dtype.itemsize <= 2 else np.float64)
    size = max(abs(float(centred.max())), abs(float(centred.min())))
    centred -= centred.mean(axis=0, dtype=np.float64).astype(centred.dtype)
    centred -= centred.mean(axis=(1, 2), keepdims=True, dtype=np.float64).astype(centred.dtype)
    spread = float(centred.std(dtype=np.float64))
    # Centring a constant stack leaves rounding; anything that small is not structure.
    if not spread > 4 * float(np.finfo(centred.dtype).eps) * size:
        return centred, 0.0
    centred /= spread
    return centred.astype(np.float32, copy=False), spread


def _power(part: Floats) -> Floats:
    """Windowed periodogram ``(Z, Y, X // 2 + 1)``, in FFT order; white noise of variance ``v`` has the mean ``v``."""
    windows = [np.hanning(length + 2)[1:-1].astype(np.float32) for length in part.shape]
    z, y, x = (window / np.sqrt(np.mean(window**2)) for window in windows)
    spectrum = fft.rfftn(part * z[:, None, None] * y[None, :, None] * x[None, None, :], overwrite_x=True, workers=-1)
    return np.asarray((spectrum.real**2 + spectrum.imag**2) / part.size)


def _marginals(
    power: Floats, width: int, spacing: tuple[float, float, float], floor: float | None
) -> tuple[AxialSpectrum, AxialSpectrum]:
    """Axial and lateral spectrum of a periodogram, over those frequencies of the other axes that hold any signal."""
    planes, height, _ = power.shape
    _, dy, dx = spacing
    fy, fx = np.abs(fft.fftfreq(height, dy))[:, None], fft.rfftfreq(width, dx)[None, :]
    radius = np.hypot(fy, fx)
    # The Hann window spreads what is constant or nearly so in a plane (flicker, background) over these frequencies.
    kept = (fy * height * dy > 1.5) | (fx * width * dx > 1.5)
    # The other half of the frequencies along x is the mirror image: all columns but the first and last count twice.
    twice = np.full(fx.shape, 2.0)
    twice[0, 0] = 1
    twice[0, width // 2 :] = 2 - (width + 1) % 2
    weight = kept * twice
    if floor is None:
        highest = np.where(radius >= np.quantile(np.hypot(fy, fft.fftfreq(width, dx)), 0.9), weight, 0)
        # Taking off the means over z lowers the noise in the first axial frequencies.
        floor = float(np.median(_plane_means(power[2 : planes - 1], highest)))
    bin_width = max(1 / (height * dy), 1 / (width * dx))
    summed = power.mean(axis=0, dtype=np.float64)
    support = _support(summed, radius, weight, bin_width, floor)

    inside = np.where(radius <= support, weight, 0)
    along = _plane_means(power, inside)
    along = ((along + np.roll(along[::-1], 1)) / 2)[: planes // 2 + 1]
    axial = _spectrum(
        fft.rfftfreq(planes, spacing[0]), along, floor, int(inside.sum() / 2), nyquist=0.5 / spacing[0], along_z=True
    )

    along_x = _mean(summed, np.where(fy <= support, weight, 0), axis=0)
    along_y = _mean(summed, np.where(fx <= support, weight, 0), axis=1)
    edges = np.arange(0.5, 0.5 / max(dy, dx) / bin_width) * bin_width
    where = np.concatenate([np.searchsorted(edges, fx[0]), np.searchsorted(edges, fy[:, 0])])
    values = np.concatenate([along_x, along_y])
    inner = (where < len(edges)) & np.isfinite(values)
    share = np.concatenate([twice[0], np.ones(height)])[inner]
    total = np.bincount(where[inner], share, minlength=len(edges))
    binned = np.bincount(where[inner], share * values[inner], minlength=len(edges)) / np.maximum(total, 1)
    samples = int(planes * support * (height * dy + width * dx))
    lateral = _spectrum(
        np.arange(len(edges)) * bin_width, binned, floor, samples, nyquist=0.5 / max(dy, dx), along_z=False
    )
    return axial, lateral


def _plane_means(power: Floats, weight: Floats) -> Floats:
    """Weighted mean over the lateral frequencies ``(Y, X)`` for each axial one."""
    return np.asarray(power.reshape(len(power), -1) @ weight.astype(np.float32).ravel() / weight.sum(), np.float64)


def _mean(values: Floats, weight: Floats, axis: int) -> Floats:
    """Weighted mean along an axis; NaN where nothing has any weight."""
    total = weight.sum(axis=axis)
    return np.where(total > 0, (weight * values).sum(axis=axis) / np.where(total > 0, total, 1), np.nan)


def _support(summed: Floats, radius: Floats, weight: Floats, bin_width: float, floor: float) -> float:
    """The highest lateral frequency at which a ring of the spectrum stands out of the noise at all."""
    rings = (radius / bin_width + 0.5).astype(int).ravel()
    total = np.bincount(rings, weight.ravel())
    excess = np.bincount(rings, (weight * summed).ravel()) / np.maximum(total, 1) - floor
    above = np.flatnonzero((total > 0) & (excess > max(MARGIN * floor, 1e-4 * float(excess.max()))))
    return bin_width * (max(4, above[-1] if len(above) else 0) + 0.5)


def _spectrum(
    frequency: Floats, power: Floats, floor: float, samples: int, *, nyquist: float, along_z: bool
) -> AxialSpectrum:
    """Where a spectrum, the mean of ``samples`` periodogram values at each frequency, falls below the level."""
    if along_z:
        floor = max(floor, _plateau(power))
    excess = power - floor
    # The first two frequencies hold what hardly changes along the axis, which may be far above all else.
    peak = max(float(excess[2:].max()), 0.1 * float(excess.max()))
    # The windows correlate neighbouring frequencies: about 2.25 of a plane count as one.
    doubt = floor * max(MARGIN, 4 * math.sqrt(2.25 / max(samples, 1)))
    # The lateral bound has to be on the safe side: structure may be a little finer along z than along y and x.
    level = max(doubt, (LEVEL if along_z else LEVEL / 10) * peak)
    half_bin = 0.5 * float(frequency[1])

    limit, hidden = None, not peak > RANGE * doubt
    if not hidden and excess[-max(2, len(excess) // 12) :].max() <= level:
        # Half a frequency step less, about what the window widens a band by; not from the bound.
        limit = max(half_bin, _crossing(excess, level) * float(frequency[1]) - half_bin * along_z)

    # The window carries power of a band that ends at 0.9 of the Nyquist frequency to its end, the more the fewer the
    # planes: 12 % of the peak with 8 planes, 1 % with 16 (flat ellipsoidal bands). 30 / n^2 stays well above that.
    clear = max(3 * doubt, peak * max(CLEAR_LEVEL, 30 / (2 * len(power)) ** 2))
    held = np.flatnonzero(excess >= clear)
    at_least = None
    if peak > 0 and len(held):
        at_least = nyquist if held[-1] + 1 == len(power) else max(0.0, float(frequency[held[-1]]) - half_bin)
    return AxialSpectrum(
        frequency=tuple(map(float, frequency)),
        power=tuple(map(float, power)),
        floor=floor,
        level=floor + level,
        peak=floor + peak,
        limit=limit,
        hidden=hidden,
        at_least=at_least,
    )


def _plateau(power: Floats) -> float:
    """Power of the last third of an axial spectrum if it is flat there after a fall by ``RANGE``, else 0.

    Noise that is correlated within planes, and not between them, has more power at low lateral frequencies than at the
    highest, but the same at all axial ones. Folded structure that has fallen so far is still falling there: a decay
    as slow as ``1 / f^2`` loses 30 % over the last third.
    """
    third = power[len(power) * 2 // 3 :]
    if len(third) < 4:
        return 0.0
    half = len(third) // 2
    first, second = float(third[:half].mean()), float(third[half:].mean())
    flat = second > 0 and first / second < 1.15 and float(third.max()) < 1.5 * second
    return second if flat and float(power[2:].max()) > RANGE * second else 0.0


def _crossing(excess: Floats, level: float) -> float:
    """The index, with a fraction, where the excess falls below the level for good; logarithms are interpolated."""
    last = int(np.flatnonzero(excess > level)[-1])
    high, low = float(excess[last]), max(float(excess[last + 1]), 1e-3 * level)
    return last + math.log(high / level) / math.log(high / low)


def _scaled(spectrum: AxialSpectrum, factor: float) -> AxialSpectrum:
    """The same spectrum with its powers in another unit."""
    return replace(
        spectrum,
        power=tuple(value * factor for value in spectrum.power),
        floor=spectrum.floor * factor,
        level=spectrum.level * factor,
        peak=spectrum.peak * factor,
    )


def _band(
    axial: AxialSpectrum | None,
    lateral: AxialSpectrum | None,
    step: float | None,
    remarks: list[str],
    optics: tuple[float, float] | None,
    *,
    known: bool,
) -> AxialBand:
    """What the spectra and the optics say together: the axial spectrum first, then the optics, then the lateral one."""
    unit = "um" if known else "plane"
    optics_axial, optics_lateral = optics or (None, None)
    at_least = axial.at_least if axial is not None and axial.limit is None else None
    bounds: list[tuple[float, Source]] = []
    if known and optics_axial is not None:
        bounds.append((optics_axial, "optics"))
    if known and lateral is not None and lateral.limit is not None:
        bounds.append((lateral.limit, "lateral spectrum"))

    said = []
    limit: float | None
    source: Source
    if axial is not None and axial.limit is not None:
        limit, source = axial.limit, "axial spectrum"
        said.append(f"the axial spectrum falls to {_reached(axial)} at {limit:.3g} cycles per {unit}")
        if known and optics_axial is not None and limit > (1 + TOLERANCE) * optics_axial:
            said.append(
                f"above the widefield cutoff of {optics_axial:.3g}: a confocal microscope, other optics or noise that "
                "is correlated between planes"
            )
    else:
        limit, source = min(bounds, default=(None, "none"))
        if axial is not None and step is not None and at_least == 0.5 / step:
            share = (axial.power[-1] - axial.floor) / (axial.peak - axial.floor)
            said.append(f"the axial spectrum of planes {_length(step, unit)} apart ends at {share:.0%} of its peak")
        elif axial is not None and axial.hidden:
            said.append("the axial spectrum does not stand out of the noise enough")
        elif axial is not None:
            said.append("the axial spectrum neither falls to its level before its end nor is clearly above it there")
            if at_least is not None:
                said.append(f"it is clearly above up to {at_least:.3g} cycles per {unit}")
        if source == "optics":
            said.append(f"a widefield microscope passes {limit:.3g} cycles per um, a confocal one up to twice that")
        elif source == "lateral spectrum":
            said.append(f"in an isotropic object nothing is above the lateral limit, {limit:.3g} cycles per um")
    if not known and optics is not None:
        said.append("the optics cannot be compared, the spacing is unknown")
    return AxialBand(
        limit=limit,
        nyquist_step=None if limit is None else 1 / (2 * limit),
        unit=unit,
        optics_limit=optics_axial,
        obtained="; ".join(said + remarks),
        source=source,
        at_least=at_least,
        lateral_limit=None if lateral is None else lateral.limit,
        optics_lateral_limit=optics_lateral,
        step=step,
        axial=axial,
        lateral=lateral,
    )


def _reached(spectrum: AxialSpectrum) -> str:
    """What ended the band: the level under the peak, or the noise."""
    by_level = spectrum.level - spectrum.floor <= 1.001 * LEVEL * (spectrum.peak - spectrum.floor)
    return f"{LEVEL:.1%} of its peak" if by_level else "the noise, which hides what is weaker,"


def _length(step: float | None, unit: str) -> str:
    """A length with its unit; one of unknown size is the distance between the planes of the array."""
    return f"{step:.3g} {unit}" if unit == "um" else f"{step:.3g} step{'' if step == 1 else 's'}"
