"""The error that a pilot predicts for a way to sample: PSNR, NRMSE and their 90 % intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

from tensorcell.errors import InputError
from tensorcell.planning.pilot import Pilot
from tensorcell.planning.result import PlannedChoice
from tensorcell.planning.trials import Sampling, Sums, trial
from tensorcell.solvers.spread import COVERED

Floats = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]

DRAWS = 2000
"""Draws of the bootstrap."""


def predict(
    pilot: Pilot, way: Sampling, scored: Sequence[Bools], seed: int, count: Callable[[], None]
) -> PlannedChoice:
    """Degrade, recover and score a pilot one way; ``count`` is called after each recovery.

    ``scored`` holds the voxels that are scored in each turn (`left_out_by_all`).
    """
    rounds = []
    for turn, voxels in enumerate(scored):
        rounds.append(trial(pilot, way, voxels, turn, seed))
        count()
    sums = Sums(*(np.sum(parts, axis=0) for parts in zip(*rounds, strict=True)))
    sums = sums._replace(power=np.maximum(sums.power, 0))  # blocks of nothing but noise come out on either side of 0
    if not sums.power.any():
        raise InputError(f"expected a pilot above its noise, got noise of {pilot.noise.words}")
    return choice_from_sums(pilot, way, sums, seed)


def choice_from_sums(pilot: Pilot, way: Sampling, sums: Sums, seed: int) -> PlannedChoice:
    """The prediction for a way to sample from the sums over what it leaves out."""

    def psnr(square: float) -> float:
        return 20 * math.log10(pilot.data_range) - 10 * math.log10(square) if square > 0 else math.inf

    left_out = float(sums.voxels.sum())
    mean_noise = float(sums.noise.sum()) / left_out
    power = float(sums.power.sum()) / left_out
    square = max(0.0, float(sums.error.sum()) / left_out - mean_noise)
    linear = max(0.0, float(sums.linear.sum()) / left_out - mean_noise)
    low, high = interval(sums.error, sums.noise, sums.voxels, pilot.noise.margin, seed)
    relative = interval(sums.error, sums.noise, sums.power, pilot.noise.margin, seed)
    notes = []
    if low == 0 or square == 0:
        notes.append("the noise of the pilot hides the error, which is known to be small, but not how small")
    if way.leaves_out_nothing:
        notes.append(
            "this choice leaves nothing out: its error is that at pixels left out at random, and should be smaller "
            "where they are measured"
        )
    saved = 1 - way.pixel_fraction * way.exposure_factor / way.axial_factor
    return PlannedChoice(
        **way._asdict(),
        psnr=psnr(square),
        psnr_interval=(psnr(high), psnr(low)),
        nrmse=math.sqrt(square / power),
        nrmse_interval=(math.sqrt(relative[0]), math.sqrt(relative[1])),
        time_saved=saved,
        dose_saved=saved,
        linear_psnr=psnr(linear),
        note="; ".join(notes),
    )


def interval(
    error: Floats, noise: Floats, divisor: Floats, margin: tuple[float, float], seed: int
) -> tuple[float, float]:
    """90 % interval of ``sum(error - noise) / sum(divisor)`` over blocks, never below 0.

    Parameters
    ----------
    error, noise, divisor : float arrays ``(blocks,)``
        Sums over the voxels of each block.
    margin : (float, float)
        Factors by which the noise may be smaller and larger.
    seed : int
        For the draws.

    Returns
    -------
    (float, float)
        Percentiles of 2000 bootstrap draws of whole blocks, since errors of near voxels are correlated (Hall 1985,
        doi:10.1016/0304-4149(85)90212-1), moved away from the middle by the ratio of Student's and the normal
        quantile; the lower end with the most noise, the upper end with the least. An error below what the noise is
        uncertain by cannot be told from none: the upper end is at least that.

    Examples
    --------
    >>> ones = np.ones(8)
    >>> interval(3 * ones, ones, ones, (1.0, 1.0), 0)
    (2.0, 2.0)
    """
    blocks = np.flatnonzero((divisor > 0) | (error > 0))
    error, noise, divisor = error[blocks], noise[blocks], divisor[blocks]
    count = len(blocks)
    draws = np.random.default_rng([seed, 2]).integers(0, count, (DRAWS, count))
    tail = (1 - COVERED) / 2
    stretch = 1.0
    if count > 1:
        stretch = stats.t.ppf(1 - tail, count - 1) / stats.norm.ppf(1 - tail) * math.sqrt(count / (count - 1))
    # A draw may hold nothing but dark blocks: its divisor is kept away from 0.
    below = np.maximum(divisor[draws].sum(axis=1), 1e-3 * divisor.sum())
    ends = []
    for quantile, factor in ((tail, margin[1]), (1 - tail, margin[0])):
        square = error - factor * noise
        middle = square.sum() / divisor.sum()
        drawn = np.quantile(square[draws].sum(axis=1) / below, quantile)
        ends.append(max(0.0, float(middle + stretch * (drawn - middle))))
    doubt = (1 - margin[0]) * float(noise.sum() / divisor.sum())
    return ends[0], max(ends[1], doubt)
