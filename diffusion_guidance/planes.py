"""Missing planes by a prior fitted to lateral slices, as far as left-out planes bear it out.

Kriging along z (:func:`tensorcell.solvers.interplane.fill_planes`) is the base ``f``; the regression ``n`` of a
:class:`~tensorcell.diffusion_guidance.priors.LateralPrior` on xz and yz slices proposes the correction ``n - f``. How
much of it to believe is read off the measured planes: every second one is left out, both are done again at twice the
gap, and the slope of the true correction on the proposed one is taken, at the lower end of its confidence interval.
The prior never saw twice the gap, so that the slope is on the low side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tensorcell.diffusion_guidance.priors import LateralPrior
from tensorcell.diffusion_guidance.training import lateral_slices, regress_planes
from tensorcell.solvers.interplane import fill_planes, judged_slope

FEWEST_LEFT_OUT = 2
"""With fewer left-out planes than this the prior cannot be judged, and is not used."""


@dataclass(frozen=True, eq=False)
class PriorFill:
    """A stack with its missing planes filled.

    Attributes
    ----------
    volume : float32 array ((m - 1) s + 1, Y, X)
        In the unit of the planes given, which stand in it bit for bit.
    weight : float
        Share of the prior's correction, in [0, 1]; 0: kriging alone.
    slope, slope_error : float
        Slope of the true on the proposed correction at left-out planes, and its jackknife error; NaN if not judged.
    sentence : str
        All this in words.
    """

    volume: npt.NDArray[np.float32]
    weight: float
    slope: float
    slope_error: float
    sentence: str


def fill_with_prior(planes: npt.ArrayLike, prior: LateralPrior, *, noise: float = 0.0) -> PriorFill:
    """Fill the planes between measured ones by kriging and a prior.

    Parameters
    ----------
    planes : array (m, Y, X)
        Measured planes 0, s, 2s, ... with ``s = prior.axial_factor``, without gaps.
    prior : LateralPrior
        Fitted with that ``axial_factor``, best to these planes (:func:`fit_lateral_prior`).
    noise : float
        Standard deviation of their noise, in their unit; filled planes are estimates without it.

    Returns
    -------
    PriorFill

    Raises
    ------
    ValueError
        If there are fewer than two whole planes, planes with gaps, or no planes between them to fill.

    Notes
    -----
    Three passes of the network over all xz and yz slices, half of them at half the size. Nothing random.

    Examples
    --------
    >>> from tensorcell.diffusion_guidance.networks import SliceNetwork, SliceNetworkConfig
    >>> untrained = LateralPrior(SliceNetwork(SliceNetworkConfig(widths=(8,), blocks=1)), axial_factor=2)
    >>> stack = np.random.default_rng(0).random((9, 16, 16), np.float32)
    >>> filled = fill_with_prior(stack, untrained)
    >>> filled.volume.shape, bool((filled.volume[::2] == stack).all())
    ((17, 16, 16), True)
    """
    given = np.asarray(planes, dtype=np.float32)
    values = lateral_slices(given)
    factor = prior.axial_factor
    if factor < 2:
        raise ValueError(f"expected a prior fitted with an axial_factor of at least 2, got {factor}")
    if len(values) < 2 or len(values) < len(given):
        raise ValueError(f"expected at least two planes, all of them whole, got {len(values)} whole of {len(given)}")
    weight, slope, slope_error = _judged(values, prior, noise)
    count = (len(values) - 1) * factor + 1
    volume = np.asarray(fill_planes(values, np.arange(0, count, factor), count, noise=noise).volume, np.float32)
    if math.isnan(slope):
        sentence = f"kriging alone: {len(values)} measured planes are too few to judge the prior"
        return PriorFill(volume, 0.0, slope, slope_error, sentence)
    if weight > 0:
        missing = np.arange(count) % factor != 0
        volume[missing] += weight * (regress_planes(prior, values) - volume)[missing]
    sentence = (
        f"{weight:.0%} of the prior's correction to kriging: at left-out planes the slope of the true on the proposed "
        f"correction was {slope:.2f} +- {slope_error:.2f}"
    )
    return PriorFill(volume, weight, slope, slope_error, sentence)


def _judged(values: npt.NDArray[np.float32], prior: LateralPrior, noise: float) -> tuple[float, float, float]:
    """Weight, slope and its error, from every second plane left out: the even ones in one turn, the odd in another.

    The prior takes a gap for ``s`` planes whatever it is: the middle of its rows stands for the plane in the middle,
    the mean of the two middle ones where ``s`` is odd.
    """
    factor = prior.axial_factor
    rows = (factor // 2, -(-factor // 2))
    products, squares = [], []
    for first in (0, 1):
        kept, left = values[first::2], values[first + 1 : -1 : 2]
        if len(kept) < 3:
            continue
        guess = regress_planes(prior, kept)
        middle = (guess[rows[0] :: factor] + guess[rows[1] :: factor])[: len(kept) - 1] / 2
        grid = np.arange(0, 2 * len(kept) - 1, 2)
        base = np.asarray(fill_planes(kept, grid, int(grid[-1]) + 1, noise=noise).volume)[1::2]
        for proposed, plain, truth in zip(middle, base, left, strict=True):
            change = (proposed - plain).astype(np.float64)
            products.append(float(np.sum(change * (truth - plain))))
            squares.append(float(np.sum(change * change)))
    if len(products) < FEWEST_LEFT_OUT or not sum(squares) > 0:
        return 0.0, math.nan, math.nan
    slope, error, weight = judged_slope(np.array(products), np.array(squares))
    return weight, slope, error
