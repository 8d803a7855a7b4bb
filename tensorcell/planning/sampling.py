"""`plan`: from a small, densely sampled pilot stack, how sparsely the next ones may be imaged.

The pilot is degraded in each way asked for: of planes 0, s, 2s, ... a random share of the pixels is taken, at a lower
exposure. :func:`tensorcell.recover` recovers the rest as it will be used later, and the result is compared with the
measured voxels that were left out. Every s-th plane of a pilot of plane distance dz is a stack of plane distance s dz,
so nothing is extrapolated.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from numbers import Real
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tensorcell.arguments import checked_axial_factor, checked_noise, checked_seed, positive, whole_number
from tensorcell.axial import axial_band
from tensorcell.constant_blocks import constant_notes
from tensorcell.errors import InputError
from tensorcell.missing_value import without_value
from tensorcell.planning.decision import decide, depth_of
from tensorcell.planning.noise import local_intensity, noise_of
from tensorcell.planning.pilot import (
    FACTORS,
    Pilot,
    block_numbers,
    check_content,
    check_size,
    intensity_range,
    pilot_block,
    possible_factors,
    stack_of,
)
from tensorcell.planning.prediction import predict
from tensorcell.planning.result import SamplingPlan, Target
from tensorcell.planning.trials import Sampling, left_out_by_all, outliers_of
from tensorcell.progress import CountBar
from tensorcell.stack import GivenStack
from tensorcell.volume import Volume
from tensorcell.volume_checks import notes_on_file
from tensorcell.words import as_sentence

ASSUMPTIONS = (
    "All choices are scored at the same voxels, which each of them leaves out, against the noise-free intensity. The "
    "90 % intervals come from a bootstrap over blocks of the pilot; they hold for stacks that look like the pilot.",
    "Time and dose are shares of the pilot's: planes x pixels x exposure. Skipped planes and pixels save both (pixels "
    "on a scanner with the light off). A lower exposure saves time only if it is shorter, not if the light is dimmed.",
    "A lower exposure is simulated by adding Gaussian noise of variance offset (1/f^2 - 1) + gain x intensity "
    "(1/f - 1), for read and shot noise. An unknown pedestal of the camera makes this too mild, few photons a voxel "
    "make it inexact.",
    "The noise is taken as independent from voxel to voxel. Where neighbours share noise, a recovery predicts some of "
    "it, and the predicted error is too small.",
)


def plan(
    pilot: Volume | npt.ArrayLike,
    *,
    axial_factors: Sequence[int] | None = None,
    pixel_fractions: Sequence[float] = (1.0,),
    exposure_factors: Sequence[float] = (1.0,),
    target_nrmse: float | None = None,
    target_psnr: float | None = None,
    missing_value: float | None = None,
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
        Without ``axial_factors`` those of 1, 2, 3, 4, 6 and 8 are tried for which the pilot has enough planes.
    target_nrmse, target_psnr : float, optional
        The wanted error: at most this NRMSE, at least this PSNR in decibels.
    missing_value : float, optional
        Voxels that have exactly this value were not measured (padding, mosaics, planes after a stopped run); NaN never
        counts as measured.
    axes : str, optional
        For arrays: as in :class:`Volume`.
    noise : "auto" or float
        Standard deviation of the pilot's noise in its unit. "auto": estimated by
        :func:`tensorcell.solvers.estimate_noise`, with a part that grows with the intensity if the pilot shows one. A
        number is taken as exact and the same everywhere.
    seed : int
        For pixels, noise and bootstrap.
    repeats : int
        Degradations tried for each choice, with other pixels, other noise, and another first plane.
    progress : bool
        Show progress on stderr, if that is a terminal.

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
    >>> plan(pilot, axial_factors=(2, 4), target_psnr=22).best.axial_factor
    2
    """
    start = time.perf_counter()
    volume = Volume.from_array(pilot, axes=axes)
    nrmse = None if target_nrmse is None else positive("target_nrmse", target_nrmse)
    target = Target(nrmse, _finite("target_psnr", target_psnr))
    sigma, seed, repeats = checked_noise(noise), checked_seed(seed), whole_number("repeats", repeats)
    volume, said = without_value(volume, missing_value)
    said = (*notes_on_file(volume), *said)
    given = stack_of(volume)
    said = (*said, *constant_notes(given.given_values, given.mask))
    sigma = None if sigma is None else sigma / given.unit.scale
    if axial_factors is None:
        axial_factors = possible_factors(given.values.shape[0])
        if axial_factors != FACTORS:
            planes, largest = given.values.shape[0], axial_factors[-1]
            said = (*said, f"the pilot has too few planes ({planes}) to try every s-th one for s above {largest}")
    ways = _ways(axial_factors, pixel_fractions, exposure_factors)
    check_size(given.values.shape, [way.axial_factor for way in ways])
    with _counted(len(ways) * repeats, progress) as count:
        trial_pilot, notes = _prepared(given, max(way.axial_factor for way in ways), sigma, seed)
        scored = [left_out_by_all(trial_pilot, ways, turn, seed) for turn in range(repeats)]
        choices = tuple(predict(trial_pilot, way, scored, seed, count) for way in ways)
    if volume.spacing is not None:
        choices = tuple(replace(one, step=one.axial_factor * volume.spacing[0]) for one in choices)
    band = axial_band(given.values, volume.spacing, mask=given.mask, noise=sigma)
    step = 1.0 if volume.spacing is None else volume.spacing[0]
    depths = {factor: depth_of(factor, step, band) for factor in sorted({way.axial_factor for way in ways})}
    best, sentence, rule = decide(choices, target, depths)
    return SamplingPlan(
        choices=choices,
        best=best,
        target=target,
        sentence=sentence,
        rule=rule,
        data_range=given.unit.width(trial_pilot.data_range),
        noise=trial_pilot.noise.model.in_unit(given.unit),
        noise_margin=trial_pilot.noise.margin,
        shape=trial_pilot.y.shape,
        assumptions=ASSUMPTIONS,
        notes=(*(as_sentence(note) for note in said), *notes),
        seconds=time.perf_counter() - start,
    )


def _prepared(given: GivenStack, largest: int, sigma: float | None, seed: int) -> tuple[Pilot, tuple[str, ...]]:
    """The part of the pilot that is used, its outliers and its noise, and notes on them.

    All numbers but those in the notes are in the unit of the computation, and so is ``sigma``. The noise is that of the
    whole pilot, as :func:`tensorcell.recover` would find it.
    """
    notes, y, mask = [], given.values, given.mask
    block = pilot_block(y.shape, largest)
    part, seen = np.ascontiguousarray(y[block]), np.ascontiguousarray(mask[block])
    if part.size < y.size:
        used, whole = (" x ".join(map(str, shape)) for shape in (part.shape, y.shape))
        notes.append(f"The middle of the pilot was used, {used} of {whole} voxels.")
    check_content(part, seen)
    outliers = outliers_of(part, seen, seed)
    scored = seen & ~outliers
    if outliers.any():
        notes.append(f"{int(outliers.sum())} of {int(seen.sum())} measured voxels stand out as outliers: not scored.")
    noise = noise_of(y, mask, sigma, given.unit)
    notes.append(noise.note)
    pilot = Pilot(
        y=part,
        mask=seen,
        scored=scored,
        intensity=local_intensity(part, scored),
        noise=noise,
        data_range=intensity_range(part, scored, seen),
        blocks=block_numbers(part.shape),
    )
    return pilot, tuple(notes)


# ---------------------------------------------------------------------------------------------- the arguments


def _ways(axial_factors: Any, pixel_fractions: Any, exposure_factors: Any) -> list[Sampling]:
    """All combinations, sorted by axial factor; of pixels and exposure the larger share first."""
    factors = _sequence("axial_factors", axial_factors)
    try:
        factors = sorted({checked_axial_factor(factor) for factor in factors})
    except InputError:
        raise InputError(f"expected whole axial_factors of at least 1, got {axial_factors!r}") from None
    fractions = _shares("pixel_fractions", pixel_fractions)
    exposures = _shares("exposure_factors", exposure_factors)
    return [Sampling(*way) for way in itertools.product(factors, fractions, exposures)]


def _shares(name: str, given: Any) -> list[float]:
    shares = _sequence(name, given)
    if not all(isinstance(f, Real) and not isinstance(f, bool) and 0 < float(f) <= 1 for f in shares):
        raise InputError(f"expected {name} above 0 and at most 1, got {given!r}")
    return sorted({float(f) for f in shares}, reverse=True)


def _sequence(name: str, given: Any) -> list[Any]:
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise InputError(f"expected a sequence of numbers as {name}, got {given!r}")
    values = list(given)
    if not values:
        raise InputError(f"expected at least one number in {name}, got none")
    return values


def _finite(name: str, value: Any) -> float | None:
    if value is None:
        return None
    if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(float(value)):
        raise InputError(f"expected a finite number as {name}, got {value!r}")
    return float(value)


@contextmanager
def _counted(total: int, wanted: bool) -> Iterator[Callable[[], None]]:
    """Shows how many recoveries are done, on stderr; yields a function that counts one more."""
    with CountBar("recoveries", total, enabled=None if wanted else False) as bar:
        yield bar.advance
