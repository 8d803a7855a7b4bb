"""How wide a distribution is, estimated from a sample of it: robust standard deviations and the width of an interval.

The constants of the normal distribution are defined in this module only. Every module that needs a standard deviation
from a median, or an interval from errors at left-out voxels, calls these functions.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from .arrays import Array, namespace_of, order_statistics

MEDIAN_DEVIATION = 0.6745
"""Median of the absolute value of a standard normal variable: its standard deviation is the median over this."""

UPPER_QUARTILE = 1.1503
"""Upper quartile of the absolute value of a standard normal variable."""

MEDIAN_SQUARE = 0.4549
"""Median of the square of a standard normal variable (chi squared with one degree of freedom)."""

COVERED = 0.9
"""Share of the voxels that an interval is to cover."""

NORMAL_QUANTILE = 1.6449
"""Half-width of that interval of a normal distribution, in standard deviations."""

LEAST_SHARE = 0.65
"""Smallest share of the squared width of left-out errors that remains when the variance of the noise is subtracted,
since that variance is an estimate, too."""


def median(values: Array) -> float:
    """Median of a 1-D array as a Python float."""
    count = values.shape[0]
    lower, upper = order_statistics(values, [(count - 1) // 2, count // 2])
    return (lower + upper) / 2


def robust_sigma(deviations: Array) -> float:
    """Standard deviation of normal deviations of which up to half may be outliers: ``median|d| / 0.6745``.

    Parameters
    ----------
    deviations : real array of any shape, at least one entry
        Distances from the centre, of either sign.

    Examples
    --------
    >>> round(robust_sigma(np.array([-1.0, 1.0, 1.0, -1.0, 1e9])), 3)
    1.483
    """
    xp = namespace_of(deviations)
    return median(xp.reshape(xp.abs(deviations), (-1,))) / MEDIAN_DEVIATION


def conformal_width(
    errors: npt.NDArray[np.floating], noise: float = 0.0, least_share: float = LEAST_SHARE
) -> float:  # fmt: skip
    """Standard deviation whose 90 % interval covers 90 % of the left-out errors, with their noise subtracted.

    Parameters
    ----------
    errors : array of any shape, at least one entry
        Errors at measured voxels that were left out; noise is part of them.
    noise : float
        Standard deviation of that noise.
    least_share : float
        Smallest share of the squared width that remains when the noise is subtracted.

    References
    ----------
    H. Papadopoulos et al., Inductive confidence machines for regression, doi:10.1007/3-540-36755-1_29 (the quantile of
    split conformal prediction).

    Examples
    --------
    >>> errors = np.random.default_rng(0).normal(0, 5, 100_000)
    >>> round(conformal_width(errors), 1), round(conformal_width(errors, noise=3.0), 1)
    (5.0, 4.0)
    """
    share = min(1.0, COVERED * (1 + 1 / errors.size))
    square = (float(np.quantile(np.abs(errors), share)) / NORMAL_QUANTILE) ** 2
    return math.sqrt(max(square - noise**2, least_share * square))
