"""The axial and the lateral power spectrum of a stack, from one three-dimensional periodogram."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tensorcell.axial.band_end import MARGIN, ended_spectrum
from tensorcell.axial.result import AxialSpectrum

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class LateralFrequencies:
    """The lateral frequencies of a periodogram of a real stack, which holds half of those along x."""

    height: int
    width: int
    """Pixels of a plane along y and x."""
    dy: float
    dx: float
    """Size of a pixel."""
    fy: Floats
    """(Y, 1) absolute frequencies along y."""
    fx: Floats
    """(1, X // 2 + 1) frequencies along x."""
    radius: Floats
    """(Y, X // 2 + 1) absolute value of both."""
    twice: Floats
    """(1, X // 2 + 1) how often a column counts: once or, where its mirror image is not held, twice."""
    weight: Floats
    """(Y, X // 2 + 1) the same, 0 at frequencies that do not count."""

    @property
    def bin_width(self) -> float:
        """The coarser of the resolutions along y and x."""
        return max(1 / (self.height * self.dy), 1 / (self.width * self.dx))


def lateral_frequencies(height: int, width: int, dy: float, dx: float) -> LateralFrequencies:
    """The frequencies of planes of this many pixels of this size."""
    fy, fx = np.abs(np.fft.fftfreq(height, dy))[:, None], np.fft.rfftfreq(width, dx)[None, :]
    # The Hann window spreads what is nearly constant in a plane (flicker, background) over the lowest frequencies.
    counted = (fy * height * dy > 1.5) | (fx * width * dx > 1.5)
    # The other half of the frequencies along x is the mirror image: all columns but the first and last count twice.
    twice = np.full(fx.shape, 2.0)
    twice[0, 0] = 1
    twice[0, width // 2 :] = 2 - (width + 1) % 2
    return LateralFrequencies(height, width, dy, dx, fy, fx, np.hypot(fy, fx), twice, counted * twice)


def windowed_periodogram(part: Floats) -> Floats:
    """Periodogram ``(Z, Y, X // 2 + 1)`` with Hann windows; white noise of variance ``v`` has the mean ``v``."""
    from scipy import fft  # slow to import

    windows = [np.hanning(length + 2)[1:-1].astype(np.float32) for length in part.shape]
    z, y, x = (window / np.sqrt(np.mean(window**2)) for window in windows)
    spectrum = fft.rfftn(part * z[:, None, None] * y[None, :, None] * x[None, None, :], overwrite_x=True, workers=-1)
    return np.asarray((spectrum.real**2 + spectrum.imag**2) / part.size)


def axial_and_lateral(
    power: Floats, width: int, spacing: tuple[float, float, float], floor: float | None
) -> tuple[AxialSpectrum, AxialSpectrum]:
    """Axial and lateral spectrum of a periodogram, over those frequencies of the other axes that hold any signal.

    Parameters
    ----------
    power : (Z, Y, X // 2 + 1)
        From `windowed_periodogram`.
    width : int
        Pixels along x.
    spacing : (dz, dy, dx)
        ``dz`` is the distance between the planes of the periodogram.
    floor : float or None
        Power of the noise; None: it is estimated.
    """
    lateral = lateral_frequencies(power.shape[1], width, *spacing[1:])
    if floor is None:
        floor = noise_floor(power, lateral)
    mean_over_z = power.mean(axis=0, dtype=np.float64)
    support = lateral_support(mean_over_z, lateral, floor)
    return (
        axial_spectrum(power, lateral, support, floor, spacing[0]),
        lateral_spectrum(mean_over_z, lateral, support, floor, len(power)),
    )


def noise_floor(power: Floats, lateral: LateralFrequencies) -> float:
    """Power of white noise, from the tenth of the lateral frequencies that are the highest."""
    every = np.hypot(lateral.fy, np.fft.fftfreq(lateral.width, lateral.dx))
    highest = np.where(lateral.radius >= np.quantile(every, 0.9), lateral.weight, 0)
    # Subtracting the means over z lowers the noise at the first axial frequencies, which are left out.
    return float(np.median(mean_of_planes(power[2 : len(power) - 1], highest)))


def lateral_support(mean_over_z: Floats, lateral: LateralFrequencies, floor: float) -> float:
    """The highest lateral frequency at which a ring of the spectrum has more power than the noise."""
    rings = (lateral.radius / lateral.bin_width + 0.5).astype(int).ravel()
    total = np.bincount(rings, lateral.weight.ravel())
    excess = np.bincount(rings, (lateral.weight * mean_over_z).ravel()) / np.maximum(total, 1) - floor
    above = np.flatnonzero((total > 0) & (excess > max(MARGIN * floor, 1e-4 * float(excess.max()))))
    return lateral.bin_width * (max(4, above[-1] if len(above) else 0) + 0.5)


def axial_spectrum(
    power: Floats, lateral: LateralFrequencies, support: float, floor: float, step: float
) -> AxialSpectrum:
    """Power along z, averaged over the lateral frequencies up to ``support``."""
    inside = np.where(lateral.radius <= support, lateral.weight, 0)
    along = mean_of_planes(power, inside)
    along = ((along + np.roll(along[::-1], 1)) / 2)[: len(power) // 2 + 1]
    frequency = np.fft.rfftfreq(len(power), step)
    return ended_spectrum(frequency, along, floor, int(inside.sum() / 2), nyquist=0.5 / step, along_z=True)


def lateral_spectrum(
    mean_over_z: Floats, lateral: LateralFrequencies, support: float, floor: float, planes: int
) -> AxialSpectrum:
    """Power along y and along x, each averaged over the frequencies of the other up to ``support``, in common bins."""
    along_x = weighted_mean(mean_over_z, np.where(lateral.fy <= support, lateral.weight, 0), axis=0)
    along_y = weighted_mean(mean_over_z, np.where(lateral.fx <= support, lateral.weight, 0), axis=1)
    coarser = max(lateral.dy, lateral.dx)
    edges = np.arange(0.5, 0.5 / coarser / lateral.bin_width) * lateral.bin_width
    where = np.concatenate([np.searchsorted(edges, lateral.fx[0]), np.searchsorted(edges, lateral.fy[:, 0])])
    values = np.concatenate([along_x, along_y])
    inner = (where < len(edges)) & np.isfinite(values)
    weight = np.concatenate([lateral.twice[0], np.ones(lateral.height)])[inner]
    total = np.bincount(where[inner], weight, minlength=len(edges))
    binned = np.bincount(where[inner], weight * values[inner], minlength=len(edges)) / np.maximum(total, 1)
    samples = int(planes * support * (lateral.height * lateral.dy + lateral.width * lateral.dx))
    frequency = np.arange(len(edges)) * lateral.bin_width
    return ended_spectrum(frequency, binned, floor, samples, nyquist=0.5 / coarser, along_z=False)


def mean_of_planes(power: Floats, weight: Floats) -> Floats:
    """Weighted mean over the lateral frequencies ``(Y, X // 2 + 1)`` for each axial one."""
    return np.asarray(power.reshape(len(power), -1) @ weight.astype(np.float32).ravel() / weight.sum(), np.float64)


def weighted_mean(values: Floats, weight: Floats, axis: int) -> Floats:
    """Weighted mean along an axis; NaN where all weights are 0."""
    total = weight.sum(axis=axis)
    return np.where(total > 0, (weight * values).sum(axis=axis) / np.where(total > 0, total, 1), np.nan)
