"""Periodic stripes: the hum of a laser or of the mains in a scanned image, which is neither structure nor white noise.

A plane with stripes along x holds ``A cos(2 pi y / p + phi)`` beside its structure, with a phase that may differ from
plane to plane. The means over each row hold all of it and hardly any noise. A single period is a narrow peak in the
spectrum of these means, averaged over planes: structure has a spectrum that varies slowly, and the periodogram of noise
exceeds 30 times its median once in 10^9 frequencies. Stripes run through the whole image, structure does not: both
halves of the rows must hold the same amplitude and phase.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .arrays import Array, to_host

Doubles = npt.NDArray[np.float64]
Complexes = npt.NDArray[np.complex128]
Bools = npt.NDArray[np.bool_]

ABOVE = 30.0
"""A peak is so many times higher than the median of the spectrum on either side of it."""

AROUND, BESIDE = 12, 3
"""The medians are those of so many frequencies on each side, without those beside the peak, which a window spreads."""

FEWEST_PERIODS = 6
"""Fewest periods a side: structure may have fewer."""

FINER = 8
"""Frequencies are found to this share of the distance of the periodogram's own."""

ALIKE = 0.9
"""Least agreement of the stripes in both halves of the rows."""

PLANES = 64
"""Largest number of planes, spread evenly, in which periods are looked for."""

MOST = 4
"""Largest number of periods along each axis."""


class Stripe(NamedTuple):
    """Stripes of one period."""

    axis: str
    """``"y"`` where intensities change along y."""
    period: float
    """In voxels."""
    amplitude: float
    """Root mean square over planes, in the data's unit; the peaks lie so far from the mean."""


class Profiles(NamedTuple):
    """Means over the rows (or columns) of planes, and of each half of them."""

    mean: Doubles
    """``(3, Z, N)``: over the whole rows, their first and their second halves; 0 where nothing was observed."""
    there: Bools
    """``(3, Z, N)``: whether anything was observed."""


def without_stripes(data: Array, mask: Array | None = None) -> tuple[Array | None, tuple[Stripe, ...]]:
    """The stack without its periodic stripes, and what they were.

    Parameters
    ----------
    data : real array ``(Z, Y, X)``
        Values that are not finite count as missing.
    mask : bool array ``(Z, Y, X)``, optional
        True = observed.

    Returns
    -------
    (stack, stripes)
        The stack as float32 on the host, None where there are no stripes.

    Notes
    -----
    One pass over at most 64 planes, and one over the stack where there are stripes.

    Examples
    --------
    >>> rows = np.cos(2 * np.pi * np.arange(80) / 5)[:, None]
    >>> noise = np.random.default_rng(0).standard_normal((9, 80, 60))
    >>> _, (stripe,) = without_stripes(noise + 2 * rows)
    >>> stripe.axis, round(stripe.period, 2), round(stripe.amplitude, 1)
    ('y', 5.0, 2.0)
    """
    chosen = np.unique(np.linspace(0, data.shape[0] - 1, min(PLANES, data.shape[0])).astype(int))
    some, seen = on_host(data, mask, chosen)
    found = [(axis, frequency) for axis in (1, 2) for frequency in frequencies_of(profiles_of(some, seen, axis))]
    if not found:
        return None, ()
    values, there = on_host(data, mask, np.arange(data.shape[0]))
    stripes = []
    for axis, frequency in found:
        wave = wave_of(frequency, values.shape[axis])
        profiles = profiles_of(values, there, axis)
        waves = (fitted(profiles, wave)[0][:, None] * wave).real
        values = values - np.expand_dims(waves, 3 - axis).astype(np.float32)
        amplitude = float(np.sqrt(2 * np.mean(np.square(waves))))
        stripes.append(Stripe("zyx"[axis], 1 / frequency, amplitude))
    return np.where(there, values, np.nan), tuple(stripes)


def on_host(data: Array, mask: Array | None, planes: npt.NDArray[np.integer]) -> tuple[npt.NDArray[np.float32], Bools]:
    """Some planes on the host, 0 where they were not observed, and where they were."""
    values = np.stack([to_host(data[int(z), ...]) for z in planes]).astype(np.float32)
    there = np.isfinite(values)
    if mask is not None:
        there &= np.stack([to_host(mask[int(z), ...]) for z in planes])
    return np.where(there, values, np.float32(0)), there


def profiles_of(values: npt.NDArray[np.float32], there: Bools, axis: int) -> Profiles:
    """Means over the other lateral axis."""
    other = 3 - axis
    half = values.shape[other] // 2
    parts = (slice(None), slice(None, half), slice(half, None))
    means, seen = [], []
    for part in parts:
        where = (slice(None), slice(None), part) if other == 2 else (slice(None), part)
        count = there[where].sum(axis=other)
        total = values[where].sum(axis=other, dtype=np.float64)
        means.append(np.divide(total, count, out=np.zeros(total.shape), where=count > 0))
        seen.append(count > 0)
    return Profiles(np.stack(means), np.stack(seen))


def frequencies_of(profiles: Profiles) -> list[float]:
    """Frequencies of stripes, in cycles a voxel; the strongest first."""
    found: list[float] = []
    mean, there = profiles
    length = mean.shape[2]
    for _ in range(MOST):
        frequency = highest_peak(mean[0], there[0])
        if frequency is None:
            break
        wave = wave_of(frequency, length)
        amplitudes = fitted(Profiles(mean, there), wave)
        _, left, right = amplitudes
        size = float(np.sum(np.abs(left) ** 2 + np.abs(right) ** 2)) / 2
        if not float(np.sum((left * right.conj()).real)) > ALIKE * size:
            break
        found.append(frequency)
        mean = np.where(there, mean - (amplitudes[..., None] * wave).real, 0)
    return found


def highest_peak(mean: Doubles, there: Bools) -> float | None:
    """Frequency of the highest narrow peak in the spectrum of profiles ``(Z, N)``, in cycles a voxel; None without one.

    It is found by the mean of the periodograms of all planes with a Hann window.
    """
    length = int(mean.shape[1])
    if length < 2 * (AROUND + FEWEST_PERIODS) or there.mean() < 0.5:
        return None
    centred = np.where(
        there, mean - mean.sum(axis=1, keepdims=True) / np.maximum(there.sum(axis=1, keepdims=True), 1), 0
    )
    window = np.hanning(length + 2)[1:-1]
    power = np.mean(np.abs(np.fft.rfft(centred * window)) ** 2, axis=0)
    ratios = np.zeros(power.size)
    for k in range(FEWEST_PERIODS, power.size):
        below, above = power[max(k - AROUND, 1) : k - BESIDE + 1], power[k + BESIDE : k + AROUND + 1]
        beside = max(float(np.median(side)) for side in (below, above) if side.size)  # structure falls off steeply
        ratios[k] = power[k] / beside if beside > 0 else 0
    best = int(np.argmax(ratios * (power >= np.max(np.where(ratios > ABOVE, power, 0), initial=0))))
    if not ratios[best] > ABOVE:
        return None
    fine = np.mean(np.abs(np.fft.rfft(centred * window, FINER * length)) ** 2, axis=0)
    around = np.arange(max(FINER * (best - 1), 1), min(FINER * (best + 1) + 1, fine.size - 1))
    top = int(around[np.argmax(fine[around])])
    left, peak, right = map(float, fine[top - 1 : top + 2])
    curve = left - 2 * peak + right
    between = (left - right) / (2 * curve) if curve < 0 else 0.0
    return float(top + between) / (FINER * length)


def wave_of(frequency: float, length: int) -> Complexes:
    """``exp(-2 pi i f y)`` ``(N,)``."""
    return np.asarray(np.exp(-2j * np.pi * frequency * np.arange(length)))


def fitted(profiles: Profiles, wave: Complexes) -> Complexes:
    """Complex amplitudes ``c`` ``(parts, Z)``: ``Re(c wave)`` and a mean are fitted to the profiles."""
    design = np.stack([wave.real, -wave.imag, np.ones(wave.size)], axis=1)
    weight = profiles.there.astype(np.float64)
    normal = np.einsum("pzn,ni,nj->pzij", weight, design, design)
    right = np.einsum("pzn,ni->pzi", weight * profiles.mean, design)
    found = np.linalg.pinv(normal, hermitian=True) @ right[..., None]
    return np.asarray(found[..., 0, 0] + 1j * found[..., 1, 0])
