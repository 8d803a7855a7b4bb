"""Missing planes by a prior fitted to lateral slices, as far as measurements that were left out support it.

Kriging along z (:func:`tensorcell.solvers.interplane.fill_planes`) is the base ``f``, and the regression ``n`` of a
:class:`~tensorcell.diffusion_guidance.priors.LateralPrior` on xz and yz slices proposes the correction ``n - f``. The
share of it that is taken is the smallest of three:

1. every second measured plane is left out, everything is done again at twice the gap, and the share is the lower end of
   the confidence interval of the slope of the true correction on the proposed one;
2. what a correction finds of the error of kriging grows with that error, which is larger at twice the gap: the same
   inner product of true and proposed correction, times the ratio of the squared errors of kriging in the gap and in
   twice the gap, over the square of the correction proposed in the gap;
3. rows of the measured planes are left out, as many as planes are missing, and filled in the same way
   (:func:`lateral_slope`): the gap is the true one there, but along y and x, where structures may have another shape.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tensorcell.diffusion_guidance.exchange import on_host, tensor_of
from tensorcell.diffusion_guidance.priors import LateralPrior, VolumePrior
from tensorcell.diffusion_guidance.regression import regress_planes, regress_slices, regress_volume
from tensorcell.diffusion_guidance.slices import lateral_slices, matched_stretch, resized
from tensorcell.solvers import NoiseModel
from tensorcell.solvers.interplane import fill_planes, judged_slope

Floats = npt.NDArray[np.float32]

FEWEST_PLANES = 5
"""The fewest planes by which a prior can be judged: two are left out, between three that are kept."""


class Share(NamedTuple):
    """The share of a proposed correction that is taken, and why."""

    weight: float = 0.0
    """The share, from 0 to 1."""
    slope: float = math.nan
    """Slope of the true correction on the proposed one where something was left out; NaN where it was not measured."""
    error: float = math.nan
    """Jackknife error of the slope."""


class LeftOut(NamedTuple):
    """The stack without every second plane, filled again on a grid that has as many rows in a gap as the real one."""

    kept: Floats
    """The planes that were not left out."""
    truth: Floats
    """The planes left out, in the middle between kept ones."""
    base: Floats
    """Kriging between the kept planes."""
    error: Floats
    """Standard deviation of the error of `base`, as kriging states it."""
    outcome: Floats
    """The base with the share of the correction that is taken."""


@dataclass(frozen=True, eq=False)
class PriorFill:
    """A stack with its missing planes filled.

    Attributes
    ----------
    volume : float32 array ((m - 1) s + 1, Y, X)
        In the unit of the planes given, which stand in it bit for bit.
    error : float32 array of that shape
        Standard deviation of the error of `volume`: that of kriging, times `ratio`.
    ratio : float
        Root mean square error at left-out planes, over that of kriging.
    prior : Share
        The share of the prior's correction that is taken, and its slope at left-out planes.
    lateral : Share
        The largest share that rows left out of the measured planes allow.
    turns : tuple of LeftOut
        The stack without its odd planes, and without its even ones; empty if there were too few planes.
    sentence : str
        All this in words.
    """

    volume: Floats
    error: Floats
    ratio: float
    prior: Share
    lateral: Share
    turns: tuple[LeftOut, ...]
    sentence: str


def fill_with_prior(
    planes: npt.ArrayLike,
    prior: LateralPrior,
    *,
    noise: float | NoiseModel = 0.0,
    slices_at_once: int = 8,
) -> PriorFill:
    """Fill the planes between measured ones by kriging, corrected by a prior as far as measurements support it.

    Parameters
    ----------
    planes : array (m, Y, X)
        Measured planes 0, s, 2s, ... with ``s = prior.axial_factor``, without gaps.
    prior : LateralPrior
        A prior for that ``axial_factor``, best fitted to these planes
        (:func:`~tensorcell.diffusion_guidance.training.fit_lateral_prior`).
    noise : float or NoiseModel
        Standard deviation or model of the planes' noise, in their unit; filled planes are estimates without it.
    slices_at_once : int
        Number of slices in one call of the network.

    Returns
    -------
    PriorFill

    Raises
    ------
    ValueError
        If there are fewer than two whole planes, planes with gaps, or no planes between them to fill.

    Notes
    -----
    The cost is two passes of the network over all xz and yz slices, one of them for the left-out planes; and, where
    these support the prior, one over the measured planes for the rows left out. Nothing is random.

    Examples
    --------
    >>> from tensorcell.diffusion_guidance.networks import SliceNetwork, SliceNetworkConfig
    >>> untrained = LateralPrior(SliceNetwork(SliceNetworkConfig(widths=(8,), blocks=1)), axial_factor=2)
    >>> stack = np.random.default_rng(0).random((9, 16, 16), np.float32)
    >>> filled = fill_with_prior(stack, untrained)
    >>> filled.volume.shape, bool((filled.volume[::2] == stack).all())
    ((17, 16, 16), True)
    """
    values = checked_planes(planes, prior)
    factor = prior.axial_factor
    if len(values) < FEWEST_PLANES:
        return kriged_alone(values, factor, noise)
    base, error = _kriged(values, factor, noise)
    turns = [turn for first in (0, 1) for turn in _left_out(values, first, factor, noise)]
    guesses = [regressed(prior, turn.kept, slices_at_once) for turn in turns]
    taken, lateral = _share(turns, guesses, factor), Share()
    volume: Floats = base
    if taken.weight > 0:
        change = regressed(prior, values, slices_at_once) - base
        change[::factor] = 0
        lateral = lateral_slope(values, prior, noise, slices_at_once)
        in_gap = _share(turns, guesses, factor, _smaller(turns, guesses, change, error, noise, factor))
        taken = taken._replace(weight=min(taken.weight, in_gap.weight, lateral.weight))
        volume = np.add(base, np.float32(taken.weight) * change)
        volume[::factor] = values
    turns = _corrected(turns, guesses, taken, factor)
    ratio = _error_ratio(turns, factor)
    sentence = (
        f"{taken.weight:.0%} of the change that the prior proposed to interpolation (kriging) was taken: at left-out "
        f"planes, the true change was {taken.slope:.2f} +- {taken.error:.2f} of the proposed one"
    )
    if not math.isnan(lateral.slope):
        sentence += f"; at rows left out of the measured planes, {lateral.slope:.2f} +- {lateral.error:.2f} of it"
    return PriorFill(volume, np.float32(ratio) * error, ratio, taken, lateral, tuple(turns), sentence)


def kriged_alone(values: Floats, factor: int, noise: float | NoiseModel = 0.0) -> PriorFill:
    """The fill by kriging alone, where there are too few planes to judge a prior."""
    base, error = _kriged(values, factor, noise)
    sentence = f"they were interpolated (kriging): {len(values)} measured planes are too few to judge a prior"
    return PriorFill(base, error, 1.0, Share(), Share(), (), sentence)


def lateral_slope(
    values: Floats, prior: LateralPrior, noise: float | NoiseModel = 0.0, slices_at_once: int = 8
) -> Share:
    """Slope of the true on the proposed correction at rows and columns left out of the measured planes ``(m, Y, X)``.

    All but every s-th row of each plane are left out and filled by kriging along y, and by the prior's regression on
    the planes; then the same with the columns. The planes are first stretched along that axis, as
    :func:`~tensorcell.diffusion_guidance.slices.matched_stretch` says, so that structures are as long in rows as they
    are along z in planes. Planes to which the prior was fitted are judged too favourably, planes in which nothing
    varies along y and x not at all. A prior of volumes, and planes of fewer than five kept rows and columns, are not
    judged: the share is 1, the slope NaN.
    """
    if isinstance(prior, VolumePrior):
        return Share(1.0)
    factor, stretch = prior.axial_factor, matched_stretch(values, prior.axial_factor)
    products, squares = np.zeros((2, len(values)))
    for planes in (values, values.swapaxes(1, 2)):
        height = (round(planes.shape[1] * stretch) - 1) // factor * factor + 1
        if height < (FEWEST_PLANES - 1) * factor + 1:
            continue
        slices = resized(planes, height, stretch)  # (m, height, width)
        base, _ = _kriged(slices[:, ::factor].swapaxes(0, 1), factor, noise)
        kriging = base.swapaxes(0, 1)
        change = (_regressed_slices(prior, slices, slices_at_once) - kriging).astype(np.float64)
        change[:, ::factor] = 0
        products += np.sum(change * (slices - kriging), axis=(1, 2))
        squares += np.sum(change * change, axis=(1, 2))
    if not squares.sum() > 0:
        return Share(1.0)
    slope, error, weight = judged_slope(products, squares)
    return Share(weight, slope, error)


def _regressed_slices(prior: LateralPrior, slices: Floats, slices_at_once: int) -> Floats:
    """The prior's regression on slices ``(m, height, width)`` of which it is given rows 0, s, 2s, ..."""
    data = prior.standardise(tensor_of(np.ascontiguousarray(slices), prior.device))
    return on_host(prior.restore(regress_slices(prior, data, slices_at_once)))


def regressed(prior: LateralPrior, planes: Floats, slices_at_once: int = 8) -> Floats:
    """The prior's regression on measured planes, of slices or of volumes."""
    if isinstance(prior, VolumePrior):
        return regress_volume(prior, planes)
    return regress_planes(prior, planes, slices_at_once=slices_at_once)


def checked_planes(planes: npt.ArrayLike, prior: LateralPrior) -> Floats:
    """The planes as float32, or a ValueError where they or the prior do not fit."""
    given = np.asarray(planes, dtype=np.float32)
    values = lateral_slices(given)
    if prior.axial_factor < 2:
        raise ValueError(f"expected a prior fitted with an axial_factor of at least 2, got {prior.axial_factor}")
    if len(values) < 2 or len(values) < len(given):
        raise ValueError(f"expected at least two planes, all of them whole, got {len(values)} whole of {len(given)}")
    return values


def grid_rows(planes: Sequence[object] | Floats, factor: int) -> int:
    """Number of planes of the wanted stack, ``(m - 1) s + 1``."""
    return (len(planes) - 1) * factor + 1


def middle_rows(volume: Floats, factor: int) -> Floats:
    """The rows in the middle between planes 0, s, 2s, ...; the mean of the two middle ones where ``s`` is odd."""
    lower, upper = factor // 2, -(-factor // 2)
    count = (len(volume) - 1) // factor
    middle: Floats = np.float32(0.5) * (volume[lower::factor][:count] + volume[upper::factor][:count])
    return middle


def between_rms(volume: Floats, factor: int) -> float:
    """Root mean square over the rows between planes 0, s, 2s, ..."""
    return math.sqrt(_mean_square(volume[np.arange(len(volume)) % factor != 0]))


def _left_out(values: Floats, first: int, factor: int, noise: float | NoiseModel) -> list[LeftOut]:
    """The stack with planes `first`, `first` + 2, ... alone, in a list that is empty if they are fewer than three.

    The prior fills gaps of ``s`` rows, so that the kept planes are put ``s`` rows apart, although they are at twice
    that distance.
    """
    kept, truth = values[first::2], values[first + 1 : -1 : 2]
    if len(kept) < 3:
        return []
    base, error = _kriged(kept, factor, noise)
    return [LeftOut(kept, truth, base, error, base)]


def _kriged(values: Floats, factor: int, noise: float | NoiseModel) -> tuple[Floats, Floats]:
    """Kriging between planes 0, s, 2s, ..., and the standard deviation of its error."""
    count = grid_rows(values, factor)
    found = fill_planes(values, np.arange(0, count, factor), count, noise=noise)
    return np.array(found.volume, np.float32), np.asarray(found.error, np.float32)


def _share(turns: Sequence[LeftOut], proposals: Sequence[Floats], factor: int, scale: float = 1.0) -> Share:
    """The share of ``proposal - base`` that the left-out planes support, where slopes are `scale` times theirs."""
    products, squares = [], []
    for turn, proposal in zip(turns, proposals, strict=True):
        plain = middle_rows(turn.base, factor)
        for proposed, start, truth in zip(middle_rows(proposal, factor), plain, turn.truth, strict=True):
            change = (proposed - start).astype(np.float64)
            products.append(scale * float(np.sum(change * (truth - start))))
            squares.append(float(np.sum(change * change)))
    if not sum(squares) > 0:
        return Share(0.0, 0.0, 0.0)
    slope, error, weight = judged_slope(np.array(products), np.array(squares))
    return Share(weight, slope, error)


def _smaller(
    turns: Sequence[LeftOut],
    guesses: Sequence[Floats],
    change: Floats,
    error: Floats,
    noise: float | NoiseModel,
    factor: int,
) -> float:
    """The slope expected in the real gap, over that at left-out planes, if kriging errs as much as it states.

    ``change`` is the correction proposed in the real gap, ``error`` the standard deviation of kriging's error there.
    """
    here = _mean_square(middle_rows(change, factor))
    if not here > 0:
        return 0.0
    there = twice = 0.0
    law = noise if isinstance(noise, NoiseModel) else NoiseModel.white(noise)
    for turn, guess in zip(turns, guesses, strict=True):
        plain = middle_rows(turn.base, factor)
        there += _mean_square(middle_rows(guess, factor) - plain) / len(turns)
        twice += (_mean_square(turn.truth - plain) - float(np.mean(law.variance(turn.truth)))) / len(turns)
    once = _mean_square(middle_rows(error, factor))
    return there / here * (once / twice if twice > once else 1.0)


def _corrected(turns: Sequence[LeftOut], proposals: Sequence[Floats], share: Share, factor: int) -> list[LeftOut]:
    """The same, with that share of ``proposal - base`` added between the kept planes."""
    corrected = []
    for turn, proposal in zip(turns, proposals, strict=True):
        outcome = turn.base + np.float32(share.weight) * (proposal - turn.base)
        outcome[::factor] = turn.kept
        corrected.append(turn._replace(outcome=outcome))
    return corrected


def _error_ratio(turns: Sequence[LeftOut], factor: int) -> float:
    """Root mean square error of the outcome at left-out planes, over that of kriging."""
    after = sum(_mean_square(middle_rows(turn.outcome, factor) - turn.truth) for turn in turns)
    before = sum(_mean_square(middle_rows(turn.base, factor) - turn.truth) for turn in turns)
    return math.sqrt(after / before) if before > 0 else 1.0


def _mean_square(values: Floats) -> float:
    """Mean square, in double precision."""
    return float(np.mean(np.square(values, dtype=np.float64)))
