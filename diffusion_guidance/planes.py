"""Missing planes by a prior fitted to lateral slices, as far as planes left out support it.

Kriging along z (:func:`tensorcell.solvers.interplane.fill_planes`) is the base ``f``. Two corrections are proposed, one
after the other:

1. the regression ``n`` of a :class:`~tensorcell.diffusion_guidance.priors.LateralPrior` on xz and yz slices: ``n - f``;
2. the local Tucker projection P of the outcome g at the level of its error
   (:class:`~tensorcell.diffusion_guidance.solver_terms.LocalTuckerProjection`): ``P g - g``.

The share of each that is taken comes from the measured planes: every second one is left out, everything is done again
at twice the gap, and the share is the lower end of the confidence interval of the slope of the true correction on the
proposed one. The prior was not fitted to twice the gap, so that the slope is rather too small than too large.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tensorcell.diffusion_guidance.priors import LateralPrior, VolumePrior
from tensorcell.diffusion_guidance.regression import regress_planes, regress_volume
from tensorcell.diffusion_guidance.slices import lateral_slices
from tensorcell.diffusion_guidance.solver_terms import first_stage
from tensorcell.solvers import LocalOptions, NoiseModel
from tensorcell.solvers.interplane import fill_planes, judged_slope

Floats = npt.NDArray[np.float32]

FEWEST_PLANES = 5
"""The fewest planes by which a prior can be judged: two are left out, between three that are kept."""


class Share(NamedTuple):
    """The share of a proposed correction that is taken, and why."""

    weight: float = 0.0
    """The share, from 0 to 1."""
    slope: float = math.nan
    """Slope of the true correction on the proposed one at left-out planes; NaN where it was not measured."""
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
    """The base with the shares of all corrections so far."""


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
    prior, projection : Share
        The shares of the prior's correction and of the projection's.
    turns : tuple of LeftOut
        The stack without its odd planes, and without its even ones; empty if there were too few planes.
    sentence : str
        All this in words.
    """

    volume: Floats
    error: Floats
    ratio: float
    prior: Share
    projection: Share
    turns: tuple[LeftOut, ...]
    sentence: str


def fill_with_prior(
    planes: npt.ArrayLike,
    prior: LateralPrior,
    *,
    noise: float | NoiseModel = 0.0,
    project: bool = True,
    slices_at_once: int = 8,
) -> PriorFill:
    """Fill the planes between measured ones by kriging, a prior, and a local Tucker projection.

    Parameters
    ----------
    planes : array (m, Y, X)
        Measured planes 0, s, 2s, ... with ``s = prior.axial_factor``, without gaps.
    prior : LateralPrior
        A prior for that ``axial_factor``, best fitted to these planes
        (:func:`~tensorcell.diffusion_guidance.training.fit_lateral_prior`).
    noise : float or NoiseModel
        Standard deviation or model of the planes' noise, in their unit; filled planes are estimates without it.
    project : bool
        Whether the projection is proposed.
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
    The cost is two passes of the network over all xz and yz slices and two local projections of the volume, half of
    each for the left-out planes. Nothing is random.

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
    taken = _share(turns, guesses, factor)
    turns = _corrected(turns, guesses, taken, factor)
    volume: Floats = base
    if taken.weight > 0:
        volume = np.add(base, np.float32(taken.weight) * (regressed(prior, values, slices_at_once) - base))
        volume[::factor] = values
    ratio = _error_ratio(turns, factor)

    projection = Share()
    seen = [_rms(_errors(turn, factor)) for turn in turns]
    level = min(ratio * between_rms(error, factor), *seen)  # the gap is smaller than at left-out planes
    if project and level > 0:
        flat = [_projected(turn.outcome, here) for turn, here in zip(turns, seen, strict=True)]
        projection = _share(turns, flat, factor)
        turns = _corrected(turns, flat, projection, factor)
        if projection.weight > 0:
            volume = np.add(volume, np.float32(projection.weight) * (_projected(volume, level) - volume))
            volume[::factor] = values
            ratio = _error_ratio(turns, factor)
    sentence = (
        f"{taken.weight:.0%} of the change that the prior proposed to interpolation (kriging) was taken: at left-out "
        f"planes, the true change was {taken.slope:.2f} +- {taken.error:.2f} of the proposed one"
    )
    if projection.weight > 0:
        sentence += (
            f"; of the change that similar patches proposed then, {projection.weight:.0%}, judged in the same way"
        )
    return PriorFill(volume, np.float32(ratio) * error, ratio, taken, projection, tuple(turns), sentence)


def kriged_alone(values: Floats, factor: int, noise: float | NoiseModel = 0.0) -> PriorFill:
    """The fill by kriging alone, where there are too few planes to judge a prior."""
    base, error = _kriged(values, factor, noise)
    sentence = f"they were interpolated (kriging): {len(values)} measured planes are too few to judge a prior"
    return PriorFill(base, error, 1.0, Share(), Share(), (), sentence)


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
    return _rms(volume[np.arange(len(volume)) % factor != 0])


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


def _share(turns: Sequence[LeftOut], proposals: Sequence[Floats], factor: int) -> Share:
    """The share of ``proposal - outcome`` that the left-out planes support."""
    products, squares = [], []
    for turn, proposal in zip(turns, proposals, strict=True):
        plain = middle_rows(turn.outcome, factor)
        for proposed, start, truth in zip(middle_rows(proposal, factor), plain, turn.truth, strict=True):
            change = (proposed - start).astype(np.float64)
            products.append(float(np.sum(change * (truth - start))))
            squares.append(float(np.sum(change * change)))
    if not sum(squares) > 0:
        return Share(0.0, 0.0, 0.0)
    slope, error, weight = judged_slope(np.array(products), np.array(squares))
    return Share(weight, slope, error)


def _corrected(turns: Sequence[LeftOut], proposals: Sequence[Floats], share: Share, factor: int) -> list[LeftOut]:
    """The same, with that share of ``proposal - outcome`` added between the kept planes."""
    corrected = []
    for turn, proposal in zip(turns, proposals, strict=True):
        outcome = turn.outcome + np.float32(share.weight) * (proposal - turn.outcome)
        outcome[::factor] = turn.kept
        corrected.append(turn._replace(outcome=outcome))
    return corrected


def _errors(turn: LeftOut, factor: int) -> Floats:
    """Errors of the outcome at the planes left out."""
    errors: Floats = middle_rows(turn.outcome, factor) - turn.truth
    return errors


def _error_ratio(turns: Sequence[LeftOut], factor: int) -> float:
    """Root mean square error of the outcome at left-out planes, over that of kriging."""
    after = sum(float(np.sum(np.square(_errors(turn, factor), dtype=np.float64))) for turn in turns)
    before = sum(
        float(np.sum(np.square(middle_rows(turn.base, factor) - turn.truth, dtype=np.float64))) for turn in turns
    )
    return math.sqrt(after / before) if before > 0 else 1.0


def _projected(volume: Floats, level: float) -> Floats:
    """The first stage of ``local_tucker`` at this noise level."""
    flat: Floats = first_stage(volume, level, LocalOptions())
    return flat


def _rms(values: Floats) -> float:
    """Root mean square."""
    return math.sqrt(float(np.mean(np.square(values, dtype=np.float64))))
