"""`plan`: from a small, densely sampled pilot stack, how sparsely the next ones may be imaged.

The pilot is degraded in each way asked for: planes 0, s, 2s, ... are kept, a random share of the pixels, less light.
What is left is recovered with :func:`tensorcell.recover` as it will be used, and compared with the measured voxels that
were left out. A pilot of plane distance dz of which every s-th plane is kept is a stack of plane distance s dz, so
nothing is extrapolated.

The left-out voxels are noisy themselves. With ``y = x + n`` measured, ``x`` noise-free and an estimate ``e`` that has
not seen ``n``, the mean of ``(y - e)^2`` is that of ``(x - e)^2`` plus the variance of the noise, which is subtracted.
"""

from __future__ import annotations

import itertools
import math
import os
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from numbers import Integral, Real
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage, stats

from tensorcell.errors import InputError
from tensorcell.interpolation import interpolate_planes
from tensorcell.recovery import recover
from tensorcell import gaps
from tensorcell.stack import float_type
from tensorcell.volume import Volume, stacks

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]

PILOT_VOXELS = 500_000
"""A larger pilot is cropped to its middle: then one recovery takes some ten seconds on two cores."""
PILOT_PLANES = 64
HELD_OUT = 0.05
"""Share of the pixels left out where a choice leaves out none."""
FEWEST_PLANES = 3
"""Kept planes that a prediction needs: with two, every left-out plane lies at the border of the stack."""
FEWEST_LEFT_OUT = 100
BLOCKS = (2, 3, 3)
"""Large, since errors are correlated as far as the specimen has structure; more and smaller ones look too sure."""
DRAWS = 2000
COVERAGE = 0.9
NOISE_DOUBT = 0.05
"""Least relative doubt about an estimated noise variance; where two filters disagree more, their disagreement."""
MOST_DOUBT = 0.25


class Target(NamedTuple):
    """The wanted error: at most this NRMSE, at least this PSNR (decibels); None where nothing was asked."""

    nrmse: float | None
    psnr: float | None


class NoiseModel(NamedTuple):
    """Variance of the noise, ``constant + slope * intensity``, never below 0; in squared units of the data.

    ``doubt`` holds the factors by which the true variance may be smaller and larger; ``obtained`` says how it was got.
    """

    constant: float
    slope: float
    doubt: tuple[float, float]
    obtained: str

    def variance(self, intensity: Floats) -> Floats:
        """Variance at each intensity (any shape; the data's unit squared)."""
        return np.asarray(np.maximum(self.constant + self.slope * intensity, 0))

    def extra(self, intensity: Floats, exposure: float) -> Floats:
        """Variance that an exposure cut to a share f adds once the image is scaled back to the pilot's unit.

        The part that grows with intensity is shot noise, f times the photons: its variance grows by 1/f. The rest is
        read noise: a count of f x with the same read noise, divided by f, has 1/f^2 its variance. A negative constant
        is the offset of the camera: then all is shot noise.
        """
        shot = np.maximum(self.slope * intensity + min(self.constant, 0.0), 0)
        return np.asarray(shot * (1 / exposure - 1) + max(self.constant, 0.0) * (1 / exposure**2 - 1))


@dataclass(frozen=True, kw_only=True)
class PlannedChoice:
    """A way to sample, and the error that the pilot predicts for what it leaves out.

    Scored are the voxels of the planes left out; where every plane is kept, the pixels left out.

    Attributes
    ----------
    axial_factor : int
        s: planes 0, s, 2s, ... of the pilot's grid are imaged.
    pixel_fraction, exposure_factor : float
        Share of the pixels of these planes, at random, and of the pilot's exposure.
    psnr, nrmse : float
        Against the noise-free intensity: decibels with the plan's ``data_range``, and the root mean square error
        divided by that of the intensity. Infinity and 0 where nothing is left after the noise is subtracted.
    psnr_interval, nrmse_interval : (float, float)
        90 % intervals, lower end first.
    time_saved, dose_saved : float
        Shares of the pilot's imaging time and light dose, under the plan's assumptions.
    linear_psnr : float
        The same for linear interpolation along z.
    note : str
        What to know of this prediction, empty if nothing.
    """

    axial_factor: int
    pixel_fraction: float
    exposure_factor: float
    psnr: float
    psnr_interval: tuple[float, float]
    nrmse: float
    nrmse_interval: tuple[float, float]
    time_saved: float
    dose_saved: float
    linear_psnr: float
    note: str

    @property
    def label(self) -> str:
        """The choice in words."""
        words = [_planes(self.axial_factor)]
        if self.pixel_fraction < 1:
            words.append(f"{100 * self.pixel_fraction:.3g}% of the pixels")
        if self.exposure_factor < 1:
            words.append(f"{100 * self.exposure_factor:.3g}% of the exposure")
        return ", ".join(words)

    def meets(self, target: Target) -> bool:
        """Whether the worse end of the interval meets the wanted error."""
        fine = target.nrmse is None or self.nrmse_interval[1] <= target.nrmse
        return fine and (target.psnr is None or self.psnr_interval[0] >= target.psnr)


@dataclass(frozen=True, kw_only=True)
class SamplingPlan:
    """What :func:`plan` returns.

    Attributes
    ----------
    choices : tuple of PlannedChoice
        Sorted by axial factor, pixels, exposure.
    best : PlannedChoice or None
        The choice that saves most among those whose interval meets the target; None without a target, or if none does.
    target : Target
        The wanted error.
    sentence : str
        What to do, in one sentence.
    data_range : float
        Width of the intensities for PSNR: 0.1 to 99.9 percentile of the pilot without its outliers, in its unit.
    noise : NoiseModel
        The noise of the pilot.
    shape : (int, int, int)
        Part of the pilot that was used, planes first.
    assumptions : tuple of str
        What the predictions and savings rest on, a line each.
    notes : tuple of str
        What to know of this pilot.
    seconds : float
        Wall time.
    """

    choices: tuple[PlannedChoice, ...]
    best: PlannedChoice | None
    target: Target
    sentence: str
    data_range: float
    noise: NoiseModel
    shape: tuple[int, ...]
    assumptions: tuple[str, ...]
    notes: tuple[str, ...]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, texts, lists and dicts; None where a number is infinite (an error of 0)."""
        plain = {**asdict(self), "target": self.target._asdict(), "noise": self.noise._asdict()}
        cleaned = _without_infinity(plain)
        assert isinstance(cleaned, dict)
        return cleaned

    def to_html(self, path: str | os.PathLike[str]) -> None:
        """Write one self-contained HTML page; it appears whole or not at all.

        Raises
        ------
        InputError
            If the file cannot be written or does not end in ``.html``.
        """
        from tensorcell.planning_page import write_page

        write_page(path, self)

    def __str__(self) -> str:
        lines = [self.sentence, "", f"{'planes':>6} {'pixels':>6} {'expos.':>6} {'PSNR dB':>8} {'90 %':>13} "
                 f"{'linear':>6} {'NRMSE':>7} {'90 %':>16} {'time':>6} {'dose':>6}"]  # fmt: skip
        for choice in self.choices:
            mark = "*" if choice == self.best else "+" if choice.note else ""
            lines.append(" ".join((*row(choice), mark)).rstrip())
        lines.append("")
        if self.best is not None:
            lines.append("* the choice that saves most and meets the wanted error")
        remarks = sorted({choice.note for choice in self.choices if choice.note})
        lines += [f"+ {remark}" for remark in remarks]
        lines += [*self.notes, *self.assumptions[:2]]
        return "\n".join("\n".join(textwrap.wrap(line, 100)) if len(line) > 100 else line for line in lines)


def row(choice: PlannedChoice) -> tuple[str, ...]:
    """The cells of a choice in a table of text: planes, pixels, exposure, errors, and shares of time and dose saved."""
    low, high = choice.psnr_interval
    best = f"{choice.psnr:.1f}" if math.isfinite(choice.psnr) else f"> {low:.1f}"
    upper = f"{high:.1f}" if math.isfinite(high) else "..."
    return (
        f"{'1/' + str(choice.axial_factor):>6}",
        f"{choice.pixel_fraction:>6.3g}",
        f"{choice.exposure_factor:>6.3g}",
        f"{best:>8}",
        f"{f'{low:.1f} to {upper}':>13}",
        f"{choice.linear_psnr:>6.1f}",
        f"{choice.nrmse:>7.4f}",
        f"{f'{choice.nrmse_interval[0]:.4f} to {choice.nrmse_interval[1]:.4f}':>16}",
        f"{choice.time_saved:>6.0%}",
        f"{choice.dose_saved:>6.0%}",
    )


ASSUMPTIONS = (
    "Errors are those in planes left out (where every plane is kept: of pixels left out) against the noise-free "
    "intensity; the intervals (90 %) come from a bootstrap over blocks of the pilot and hold for other stacks only as "
    "far as these look like the pilot.",
    "Time and dose are relative to the pilot: fraction of planes x fraction of pixels x exposure. Planes and pixels "
    "save both (pixels: on a scanner that skips them, with the light off); exposure saves both if the exposure time is "
    "cut, only the dose if the light is dimmed.",
    "A lower exposure is simulated by adding Gaussian noise: variance constant (1/f^2 - 1) + slope x intensity "
    "(1/f - 1), for read and shot noise. An unknown camera offset makes this too mild, few photons a voxel make it "
    "inexact.",
    "The noise is taken as white; noise that is correlated between voxels makes the predicted error too large.",
)


def plan(
    pilot: Volume | npt.ArrayLike,
    *,
    axial_factors: Sequence[int] = (1, 2, 3, 4, 6, 8),
    pixel_fractions: Sequence[float] = (1.0,),
    exposure_factors: Sequence[float] = (1.0,),
    target_nrmse: float | None = None,
    target_psnr: float | None = None,
    axes: str | None = None,
    noise: Literal["auto"] | float = "auto",
    seed: int = 0,
    repeats: int = 1,
    progress: bool = False,
) -> SamplingPlan:
    """Predict the error of sparser imaging from a small, densely sampled pilot stack.

    Parameters
    ----------
    pilot : Volume or array (Z, Y, X)
        One stack, sampled as densely as one could wish; NaN, or False in the volume's mask, where nothing was measured.
    axial_factors, pixel_fractions, exposure_factors : sequences
        All combinations are tried: every s-th plane (s >= 1), a share of the pixels and of the exposure (0 < f <= 1).
    target_nrmse, target_psnr : float, optional
        The wanted error: at most this NRMSE, at least this PSNR in decibels.
    axes : str, optional
        For arrays: as in :class:`Volume`.
    noise : "auto" or float
        Standard deviation of the pilot's noise in its unit. "auto": estimated, with a part that grows with the
        intensity if the pilot shows one. A number is taken as exact and the same everywhere.
    seed : int
        For pixels, noise and bootstrap.
    repeats : int
        Degradations tried for each choice, with other pixels, other noise, and another first plane.
    progress : bool
        Show a progress bar on stderr, if that is a terminal.

    Returns
    -------
    SamplingPlan

    Raises
    ------
    InputError
        If the pilot or an argument cannot be used; a pilot too small for the factors asked says the largest possible.

    Notes
    -----
    One recovery for each choice and repeat, and one for the outliers of the pilot, which are not scored. Pilots of more
    than 500 000 voxels are cropped to their middle, so that six choices take a minute or two on two cores.

    Where the pilot's own noise outweighs the error, the prediction is only an upper bound; the choice's note says so.

    Examples
    --------
    >>> from tensorcell.datasets import simulate_cells
    >>> pilot = simulate_cells((17, 32, 32), cells=6, seed=1).measured
    >>> plan(pilot, axial_factors=(2, 4), target_psnr=18).best.axial_factor
    2
    """
    start = time.perf_counter()
    volume = Volume.from_array(pilot, axes=axes)
    factors = _whole_factors(axial_factors)
    fractions = _shares("pixel_fractions", pixel_fractions)
    exposures = _shares("exposure_factors", exposure_factors)
    target = Target(_positive("target_nrmse", target_nrmse), _finite("target_psnr", target_psnr))
    _check_rest(noise, seed, repeats)

    y, seen = _stack(volume)
    _check_size(y.shape, factors)
    block = pilot_block(y.shape, max(factors))
    notes = []
    if y[block].size < y.size:
        used = " x ".join(map(str, y[block].shape))
        notes.append(f"The middle of the pilot was used, {used} of {' x '.join(map(str, y.shape))} voxels.")
    y, seen = np.ascontiguousarray(y[block]), np.ascontiguousarray(seen[block])
    _check_content(y, seen)

    wanted = list(itertools.product(factors, fractions, exposures))
    with _bar(len(wanted) * repeats + 1, progress) as step:
        flagged = recover(np.where(seen, y, np.nan), keep_measured=True, seed=seed).outliers != 0
        step()
        scored = seen & ~flagged
        if flagged.any():
            notes.append(
                f"{int(flagged.sum())} of {int(seen.sum())} measured voxels stand out as outliers: not scored."
            )
        low, high = np.percentile(y[scored], (0.1, 99.9))
        width = float(high - low) or float(np.ptp(y[seen]))
        model = estimate_noise_model(y, scored) if noise == "auto" else _given_noise(float(noise))
        trial = _Pilot(y, seen, scored, local_mean(y, scored), model, width, block_numbers(y.shape))
        choices = tuple(_predict(trial, *way, repeats, seed, step) for way in wanted)
    best, sentence = _decide(choices, target)
    return SamplingPlan(
        choices=choices,
        best=best,
        target=target,
        sentence=sentence,
        data_range=width,
        noise=model,
        shape=y.shape,
        assumptions=ASSUMPTIONS,
        notes=(*notes, f"Noise: {model.obtained}."),
        seconds=time.perf_counter() - start,
    )


# -------------------------------------------------------------------------------------------------- the input


def _whole_factors(given: Any) -> tuple[int, ...]:
    factors = _sequence("axial_factors", given)
    if not all(isinstance(s, Integral) and not isinstance(s, bool) and int(s) >= 1 for s in factors):
        raise InputError(f"expected whole axial_factors of at least 1, got {given!r}")
    return tuple(sorted({int(s) for s in factors}))


def _shares(name: str, given: Any) -> tuple[float, ...]:
    shares = _sequence(name, given)
    if not all(isinstance(f, Real) and not isinstance(f, bool) and 0 < float(f) <= 1 for f in shares):
        raise InputError(f"expected {name} above 0 and at most 1, got {given!r}")
    return tuple(sorted({float(f) for f in shares}, reverse=True))


def _sequence(name: str, given: Any) -> list[Any]:
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise InputError(f"expected a sequence of numbers as {name}, got {given!r}")
    values = list(given)
    if not values:
        raise InputError(f"expected at least one number in {name}, got none")
    return values


def _positive(name: str, value: Any) -> float | None:
    number = _finite(name, value)
    if number is not None and number <= 0:
        raise InputError(f"expected {name} above 0, got {value!r}")
    return number


def _finite(name: str, value: Any) -> float | None:
    if value is None:
        return None
    if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(float(value)):
        raise InputError(f"expected a finite number as {name}, got {value!r}")
    return float(value)


def _check_rest(noise: Any, seed: Any, repeats: Any) -> None:
    number = isinstance(noise, Real) and not isinstance(noise, bool) and 0 <= float(noise) < math.inf
    if not number and not (isinstance(noise, str) and noise == "auto"):
        raise InputError(f"expected noise 'auto' or a standard deviation of at least 0, got {noise!r}")
    for name, value, least in (("seed", seed, 0), ("repeats", repeats, 1)):
        if not isinstance(value, Integral) or isinstance(value, bool) or int(value) < least:
            raise InputError(f"expected a whole number of at least {least} as {name}, got {value!r}")


def _stack(volume: Volume) -> tuple[Floats, Bools]:
    """Intensities (0 where nothing was measured) and mask of the one stack of a volume."""
    parts = list(itertools.islice(stacks(volume), 2))
    if len(parts) > 1:
        raise InputError(
            f"expected a pilot of one stack (Z, Y, X), got {volume.shape} {volume.axes}: plan one channel and frame"
        )
    (part,) = parts
    y = part.data.astype(float_type(part.data.dtype))
    seen = ~np.isnan(y)
    if part.mask is not None:
        seen &= part.mask
    infinite = int(np.count_nonzero(np.isinf(y) & seen))
    if infinite:
        raise InputError(f"expected finite values at measured voxels, got {infinite} infinite")
    y[~seen] = 0
    return y, seen


def _check_size(shape: Sequence[int], factors: Sequence[int]) -> None:
    planes = shape[0]
    if planes < FEWEST_PLANES:
        raise InputError(f"expected a pilot of at least {FEWEST_PLANES} planes, got {planes}")
    largest = (planes - 1) // (FEWEST_PLANES - 1)
    if max(factors) > largest:
        raise InputError(
            f"a pilot of {planes} planes is too small for axial factor {max(factors)}, which needs "
            f"{(FEWEST_PLANES - 1) * max(factors) + 1}: the largest possible is {largest}"
        )
    if min(shape[1:]) < 8:
        raise InputError(f"expected planes of at least 8 x 8 pixels, got {shape[1]} x {shape[2]}")


def _check_content(y: Floats, seen: Bools) -> None:
    least = round(FEWEST_LEFT_OUT / HELD_OUT)
    if seen.sum() < least:
        raise InputError(f"expected a pilot of at least {least} measured voxels, got {int(seen.sum())}")
    if np.ptp(y[seen]) == 0:
        raise InputError(f"expected a pilot that shows something, got the value {y[seen][0]:g} everywhere")


def pilot_block(shape: Sequence[int], largest: int) -> tuple[slice, ...]:
    """The middle of a pilot, at most about 500 000 voxels.

    Planes are kept before pixels: at least 64 of them, and ten times the largest factor.

    >>> pilot_block((94, 512, 712), 8)
    (slice(7, 87, None), slice(222, 289, None), slice(309, 402, None))
    """
    if math.prod(shape) <= PILOT_VOXELS:
        return tuple(slice(0, size) for size in shape)
    proportional = round(shape[0] * (PILOT_VOXELS / math.prod(shape)) ** (1 / 3))
    planes = min(shape[0], max(PILOT_PLANES, 10 * largest, proportional))
    shrink = min(1.0, math.sqrt(PILOT_VOXELS / (planes * shape[1] * shape[2])))
    kept = (planes, *(max(8, round(size * shrink)) for size in shape[1:]))
    return tuple(slice((n - k) // 2, (n - k) // 2 + k) for n, k in zip(shape, kept, strict=True))


# -------------------------------------------------------------------------------------------------- the noise


def estimate_noise_model(y: Floats, seen: Bools) -> NoiseModel:
    """Variance of the noise against intensity, from mixed second differences within planes.

    The 3 x 3 stencil (1 -2 1) x (1 -2 1) has the standard deviation 6 sigma for white noise and removes everything that
    is quadratic along y or along x (Immerkaer 1996, doi:10.1006/cviu.1996.0060). It is sorted by the mean of its nine
    voxels, with which white noise leaves it uncorrelated, into twelve bins of equal counts; the median of its size
    gives a variance each, and a line through them ``constant + slope * intensity``. The slope is believed if the line
    explains four fifths of the bins' scatter and the variance at least doubles from its low to its high end; otherwise
    the variance is constant: the smaller of the one over all stencils and that of
    :func:`tensorcell.gaps.estimate_noise`, as structure can only add to either.
    """
    whole = _windows(seen).all(axis=(-2, -1))
    plain = gaps.estimate_noise(y, seen) ** 2
    if whole.sum() < 500:
        found = f"the same everywhere, standard deviation {math.sqrt(plain):.3g}, from second differences"
        return NoiseModel(plain, 0.0, (1 - MOST_DOUBT, 1 + MOST_DOUBT), found)
    line = np.array([1.0, -2.0, 1.0])
    windows = _windows(y)
    mixed = np.abs(np.einsum("zyxij,i,j->zyx", windows, line, line))[whole]
    level = windows.mean(axis=(-2, -1))[whole]
    overall = _variance(mixed)
    # How far two filters disagree is how little is known: structure and correlation act on them differently.
    apart = abs(plain / overall - 1) if overall > 0 else 0.0
    doubt = float(np.clip(apart, NOISE_DOUBT, MOST_DOUBT))

    order = np.argsort(level, kind="stable")
    parts = np.array_split(order, 12)
    where = np.array([level[part].mean() for part in parts])
    variances = np.array([_variance(mixed[part]) for part in parts])
    if where[-1] > where[0] and variances.std() > 0:
        # A variance from n values is off in proportion to itself.
        slope, constant = np.polyfit(where, variances, 1, w=1 / (variances + variances.mean()))
        ends = np.maximum(constant + slope * where[[0, -1]], 0)
        fits = np.corrcoef(where, variances)[0, 1] ** 2 > 0.8
        if slope > 0 and fits and ends[1] > 2 * ends[0]:
            found = f"variance {constant:.3g} + {slope:.3g} x intensity, fitted to mixed second differences"
            return NoiseModel(float(constant), float(slope), (1 - doubt, 1 + doubt), found)
    constant = min(plain, overall)
    found = f"the same everywhere, standard deviation {math.sqrt(constant):.3g}, from second differences"
    return NoiseModel(constant, 0.0, (1 - doubt, 1 + doubt), found)


def _given_noise(deviation: float) -> NoiseModel:
    return NoiseModel(deviation**2, 0.0, (1.0, 1.0), f"standard deviation {deviation:.3g}, as given")


def _windows(array: Array) -> Array:
    """All 3 x 3 windows within planes: (Z, Y - 2, X - 2, 3, 3), a view."""
    return np.lib.stride_tricks.sliding_window_view(array, (3, 3), axis=(1, 2))


def _variance(mixed: Floats) -> float:
    return float((np.median(mixed) / 0.6745 / 6) ** 2)


def local_mean(y: Floats, seen: Bools) -> Floats:
    """Intensity for the variance of the noise: a Gaussian mean of a voxel's surroundings within its plane."""
    width = (0, 1, 1)
    weight = ndimage.gaussian_filter(seen.astype(np.float32), width)
    total = ndimage.gaussian_filter(np.where(seen, y, 0), width)
    overall = y[seen].mean() if seen.any() else 0.0
    return np.where(weight > 1e-3, total / np.maximum(weight, 1e-3), overall).astype(y.dtype)


# ---------------------------------------------------------------------------------------------- the prediction


class _Pilot(NamedTuple):
    """The pilot and what is known of it; arrays of one shape (Z, Y, X)."""

    y: Floats
    seen: Bools
    scored: Bools
    """Measured and no outlier."""
    mean: Floats
    noise: NoiseModel
    width: float
    blocks: npt.NDArray[np.intp]


class _Sums(NamedTuple):
    """Over the left-out voxels of each block: how many, squared errors, noise variances, squared intensities."""

    voxels: Floats
    error: Floats
    linear: Floats
    noise: Floats
    power: Floats


def block_numbers(shape: Sequence[int]) -> npt.NDArray[np.intp]:
    """Number of the block that each voxel belongs to: 2 x 3 x 3 blocks, fewer in small pilots.

    >>> int(block_numbers((16, 32, 32)).max()) + 1
    18
    """
    parts = [min(most, max(1, size // 4)) for size, most in zip(shape, BLOCKS, strict=True)]
    places = [np.arange(size) * part // size for size, part in zip(shape, parts, strict=True)]
    z, y, x = np.ix_(*places)
    return np.asarray((z * parts[1] + y) * parts[2] + x)


def _predict(
    pilot: _Pilot, factor: int, fraction: float, exposure: float, repeats: int, seed: int, step: Any
) -> PlannedChoice:
    """Degrade, recover and score a pilot one way."""
    rounds = []
    for turn in range(repeats):
        rounds.append(_trial(pilot, factor, fraction, exposure, turn, seed))
        step()
    sums = _Sums(*(np.sum(parts, axis=0) for parts in zip(*rounds, strict=True)))
    sums = sums._replace(power=np.maximum(sums.power, 0))  # blocks of nothing but noise come out on either side of 0
    if not sums.power.any():
        raise InputError(f"expected a pilot above its noise, got noise with {pilot.noise.obtained}")
    left_out = float(sums.voxels.sum())
    mean_noise = float(sums.noise.sum()) / left_out
    power = float(sums.power.sum()) / left_out

    def psnr(square: float) -> float:
        return 20 * math.log10(pilot.width) - 10 * math.log10(square) if square > 0 else math.inf

    square = max(0.0, float(sums.error.sum()) / left_out - mean_noise)
    linear = max(0.0, float(sums.linear.sum()) / left_out - mean_noise)
    low, high = interval(sums.error, sums.noise, sums.voxels, pilot.noise.doubt, seed)
    relative = interval(sums.error, sums.noise, sums.power, pilot.noise.doubt, seed)
    notes = []
    if low == 0 or square == 0:
        notes.append("the noise of the pilot outweighs the error, which is only bounded from above")
    if factor == 1 and fraction == 1:
        notes.append(f"nothing is left out: predicted for {HELD_OUT:.0%} of the pixels, left out at random")
    saved = 1 - fraction * exposure / factor
    return PlannedChoice(
        axial_factor=factor,
        pixel_fraction=fraction,
        exposure_factor=exposure,
        psnr=psnr(square),
        psnr_interval=(psnr(high), psnr(low)),
        nrmse=math.sqrt(square / power),
        nrmse_interval=(math.sqrt(relative[0]), math.sqrt(relative[1])),
        time_saved=saved,
        dose_saved=saved,
        linear_psnr=psnr(linear),
        note="; ".join(notes),
    )


def _trial(pilot: _Pilot, factor: int, fraction: float, exposure: float, turn: int, seed: int) -> _Sums:
    """One degradation of the pilot, its recovery, and the sums over what was left out."""
    # The same pixels and the same noise whatever the other factors: choices differ by what they are, not by chance.
    pixels, light = (np.random.default_rng([seed, turn, stream]) for stream in (0, 1))
    first = turn % factor
    last = first + (len(pilot.y) - 1 - first) // factor * factor
    if (last - first) // factor + 1 < FEWEST_PLANES:
        first, last = 0, (len(pilot.y) - 1) // factor * factor
    part = slice(first, last + 1)
    chosen = pixels.random(pilot.y.shape, np.float32)[part]
    share = 1 - HELD_OUT if factor == 1 and fraction == 1 else fraction
    seen = pilot.seen[part]
    kept = seen & (chosen < share)
    given = pilot.y[part]
    if exposure < 1:
        deviation = np.sqrt(pilot.noise.extra(pilot.mean, exposure))
        given = given + (deviation * light.standard_normal(pilot.y.shape, np.float32))[part].astype(given.dtype)
    planes = kept.copy()
    planes[np.arange(len(planes)) % factor != 0] = False
    data = np.where(planes, given, np.nan)
    try:
        best = recover(data[::factor], axial_factor=factor, seed=seed).volume.data
    except InputError as error:
        raise InputError(
            f"axial factor {factor} with {fraction:g} of the pixels leaves too little of this pilot: {error}"
        ) from None
    left = pilot.scored[part] & ~planes
    if factor > 1:  # pixels left out of imaged planes are nearer to measured ones: they would flatter the choice
        left[::factor] = False
    if left.sum() < FEWEST_LEFT_OUT:
        raise InputError(
            f"expected at least {FEWEST_LEFT_OUT} measured voxels to be left out at axial factor {factor} and "
            f"{fraction:g} of the pixels, got {int(left.sum())}"
        )
    straight = interpolate_planes(np.where(planes, given, 0), planes)
    np.copyto(straight, given[planes].mean(), where=np.isnan(straight))  # columns never measured
    truth = pilot.y[part][left].astype(float)
    noise = pilot.noise.variance(pilot.mean[part][left].astype(float))
    where = pilot.blocks[part][left]

    def by_block(values: Floats) -> Array:
        return np.bincount(where, values, minlength=int(pilot.blocks.max()) + 1)

    return _Sums(
        voxels=by_block(np.ones(len(truth))),
        error=by_block((best[left] - truth) ** 2),
        linear=by_block((straight[left] - truth) ** 2),
        noise=by_block(noise),
        power=by_block(truth**2 - noise),
    )


def interval(
    error: Floats, noise: Floats, divisor: Floats, doubt: tuple[float, float], seed: int
) -> tuple[float, float]:
    """90 % interval of ``sum(error - noise) / sum(divisor)`` over blocks, never below 0.

    Parameters
    ----------
    error, noise, divisor : float arrays ``(blocks,)``
        Sums over the voxels of each block.
    doubt : (float, float)
        Factors by which the noise may be smaller and larger.
    seed : int
        For the draws.

    Returns
    -------
    (float, float)
        Percentiles of 2000 bootstrap draws of whole blocks, since errors of near voxels are correlated (Hall 1985,
        doi:10.1016/0304-4149(85)90212-1), moved away from the middle by the ratio of Student's and the normal
        quantile; the lower end with the most noise, the upper end with the least.

    Examples
    --------
    >>> ones = np.ones(8)
    >>> interval(3 * ones, ones, ones, (1.0, 1.0), 0)
    (2.0, 2.0)
    """
    blocks = np.flatnonzero((divisor > 0) | (error > 0))
    error, noise, divisor = error[blocks], noise[blocks], divisor[blocks]
    draws = np.random.default_rng([seed, 2]).integers(0, len(blocks), (DRAWS, len(blocks)))
    tail = (1 - COVERAGE) / 2
    stretch = 1.0
    if len(blocks) > 1:
        count = len(blocks)
        stretch = stats.t.ppf(1 - tail, count - 1) / stats.norm.ppf(1 - tail) * math.sqrt(count / (count - 1))
    ends = []
    below = np.maximum(divisor[draws].sum(axis=1), 1e-3 * divisor.sum())  # a draw of dark blocks alone
    for quantile, factor in ((tail, doubt[1]), (1 - tail, doubt[0])):
        square = error - factor * noise
        middle = square.sum() / divisor.sum()
        drawn = np.quantile(square[draws].sum(axis=1) / below, quantile)
        ends.append(max(0.0, float(middle + stretch * (drawn - middle))))
    return ends[0], ends[1]


# ------------------------------------------------------------------------------------------------- the decision


def _planes(factor: int) -> str:
    ending = {2: "nd", 3: "rd"}.get(factor % 10 if factor // 10 % 10 != 1 else 0, "th")
    if factor % 10 == 1 and factor % 100 != 11:
        ending = "st"
    return "every plane" if factor == 1 else f"every {factor}{ending} plane"


def _decide(choices: Sequence[PlannedChoice], target: Target) -> tuple[PlannedChoice | None, str]:
    """The choice that saves most and meets the target, if there is one, and the sentence."""

    def errors(choice: PlannedChoice) -> str:
        at_least = f"at least {choice.psnr_interval[0]:.1f} dB, at most {choice.nrmse_interval[1]:.3g}"
        return f"predicted PSNR and NRMSE of what is left out: {at_least}"

    wanted = " and ".join(
        text
        for text in (
            f"an NRMSE of at most {target.nrmse:g}" if target.nrmse is not None else "",
            f"a PSNR of at least {target.psnr:g} dB" if target.psnr is not None else "",
        )
        if text
    )
    finest = min(choices, key=lambda choice: choice.nrmse_interval[1])
    if not wanted:
        sparsest = max(choices, key=lambda choice: choice.dose_saved)
        if len(choices) == 1:
            return None, f"With {finest.label}: {errors(finest)}. No wanted error was given."
        return None, (
            f"No wanted error was given: from {finest.label} (PSNR at least {finest.psnr_interval[0]:.1f} dB) "
            f"to {sparsest.label} (at least {sparsest.psnr_interval[0]:.1f} dB), the table shows what each costs."
        )
    fine = [choice for choice in choices if choice.meets(target)]
    if not fine:
        return None, f"No choice meets {wanted}; the best reachable is {finest.label} ({errors(finest)})."
    best = max(fine, key=lambda choice: (round(choice.dose_saved, 9), -choice.nrmse_interval[1]))
    return best, (
        f"Image {best.label}: it meets {wanted} ({errors(best)}) and saves {best.time_saved:.0%} of the imaging time "
        f"and {best.dose_saved:.0%} of the light dose."
    )


def _without_infinity(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_infinity(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_infinity(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


@contextmanager
def _bar(total: int, wanted: bool) -> Iterator[Any]:
    """A progress bar on stderr over the recoveries, if that is a terminal; yields what counts one on."""
    if not (wanted and sys.stderr.isatty()):
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("recoveries", total=total)
        yield lambda: shown.advance(task)
