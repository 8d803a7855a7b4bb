"""The number of samples from which a solver recovers half of the random tensors of a shape and rank.

No theorem gives the constant of a bound (see :mod:`tensorcell.solvers.bounds`), so the number is fitted to simulated
phase transitions (see :mod:`tensorcell.solvers.phase_simulation`). The table of them that ships with the package was
computed by ``benchmarks/phase_transitions.py``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from .checks import checked_rank
from .phase_store import recorded
from .planted_problems import Pattern, Rank, Shape, checked_shape, unit_size
from .rank_limits import degrees_of_freedom

TABLE = "phase_transition.h5"
"""Name of the table that ships with the package."""


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """Samples from which a solver recovers half of the random tensors of a shape and rank.

    Attributes
    ----------
    samples : float
        At least the degrees of freedom, and at most the number of voxels.
    extrapolated : bool
        Whether the shape or the rank lies outside of what was simulated.
    sentence : str
        The number and how it was obtained.
    """

    samples: float
    extrapolated: bool
    sentence: str


class Curve(NamedTuple):
    """Success over samples for one shape, rank and pattern of a table."""

    shape: Shape
    rank: Rank
    pattern: Pattern
    trials: int
    samples: tuple[int, ...]
    successes: tuple[int, ...]

    @property
    def oversampling(self) -> float:
        """Samples at probability 1/2 over degrees of freedom; infinite where it is not reached."""
        free = degrees_of_freedom(self.rank, self.shape)
        return half_point(self.samples, np.array(self.successes) / self.trials, free) / free

    @property
    def bracketed(self) -> bool:
        """Whether some cells lie below probability 1/2 and some above, so that the transition lies between them."""
        few = [2 * found < self.trials for found in self.successes]
        return any(few) and math.isfinite(self.oversampling)


def empirical_threshold(
    shape: Sequence[int],
    rank: int | Sequence[int],
    *,
    pattern: str = "uniform",
    table: str | os.PathLike[str] | None = None,
) -> Threshold:
    """Samples at which :func:`complete_tucker` recovers half of the random tensors, from simulated phase transitions.

    Parameters
    ----------
    shape : k ints
        Shape of the tensor.
    rank : int or k ints
        Multilinear rank; entries above the product of the others count as that product.
    pattern : {"uniform", "planes", "lines"}
        As in :func:`phase_transition`.
    table : path, optional
        File of :func:`phase_transition`; the one that ships with the package by default (no noise, no outliers,
        Gaussian cores).

    Returns
    -------
    Threshold

    Raises
    ------
    TypeError, ValueError
        If the rank does not fit, the pattern is unknown, or the table has too few transitions of that pattern.

    Notes
    -----
    The oversampling ``rho`` falls as the degrees of freedom become a larger share of the voxels, and ranks 2 and 3 need
    more samples than that alone explains. For ``"uniform"`` the transitions of the table are fitted by least squares,
    ``log rho = a + b log(N / F) + c / r + d / r^2`` with the geometric mean ``r`` of the ranks. Each of the 18
    transitions of the shipped table, predicted from the others, is off by 11 % (root mean square) and at most 27 %. For
    ``"lines"`` the number of lines is 1.4 times the least number of lines that determine the other modes and leave none
    of their slices empty; this factor rests on two transitions, with 1.3 and 1.5. The threshold is never less than the
    degrees of freedom or than the number that leaves no slice empty in half of the draws, and never more than the
    number of voxels, which is the answer for ``"planes"``.

    The threshold is that of random tensors and of one solver, without noise; real volumes are only nearly of low rank.
    It costs next to nothing.

    Examples
    --------
    >>> found = empirical_threshold((50, 50, 50), 4)
    >>> 616 < found.samples < 6 * 616, found.extrapolated
    (True, False)
    """
    shape = checked_shape(shape)
    rank = clipped(rank, shape)
    if pattern not in get_args(Pattern):
        raise ValueError(f"expected pattern {', '.join(map(repr, get_args(Pattern)))}, got {pattern!r}")
    voxels, free = math.prod(shape), degrees_of_freedom(rank, shape)
    if pattern == "planes":
        return Threshold(
            samples=float(voxels),
            extrapolated=False,
            sentence=f"All {voxels:,} voxels: the low-rank model alone says nothing about a plane without a sample.",
        )
    every = shipped() if table is None else read_table(Path(table))
    curves = [curve for curve in every if curve.pattern == pattern and curve.bracketed]
    law, enough = {"uniform": (entry_law, 6), "lines": (fibre_law, 1)}[pattern]
    if len(curves) < enough:
        raise ValueError(
            f"expected a table with at least {enough} transitions of pattern {pattern!r}, got {len(curves)}"
        )
    wanted, error = law(curves, shape, rank)
    least = covering_units(shape, pattern) * unit_size(shape, pattern)
    samples = min(max(wanted, least, float(free)), float(voxels))
    outside = extrapolates(curves, shape, rank)
    units = f"{samples:,.0f} samples" + (f" ({samples / shape[-1]:,.0f} lines)" if pattern == "lines" else "")
    sentence = (
        f"Half of the random tensors of this shape and rank are recovered from about {units}, {samples / free:.1f} "
        f"times the {free:,} degrees of freedom: fitted to {len(curves)} simulated transitions with an error of about "
        f"{100 * error:.0f} %"
    )
    if outside:
        sentence += f", extrapolated beyond {outside}"
    return Threshold(samples=samples, extrapolated=bool(outside), sentence=sentence + ".")


def clipped(rank: int | Sequence[int], shape: Shape) -> Rank:
    """The rank, checked, after each entry was reduced to the product of the others."""
    given: Any = (rank,) * len(shape) if np.ndim(rank) == 0 else tuple(rank)  # type: ignore[arg-type]
    product = math.prod(given) if all(r == int(r) >= 1 for r in given) else 0
    return checked_rank([min(r, product // int(r)) for r in given] if product else given, shape)


def entry_law(curves: Sequence[Curve], shape: Shape, rank: Rank) -> tuple[float, float]:
    """Samples at probability 1/2 for single entries at random, and the relative error of left-out curves."""
    rows = np.array([coordinates(curve.shape, curve.rank) for curve in curves])
    values = np.log([curve.oversampling for curve in curves])
    pseudo = np.linalg.pinv(rows)
    coefficients = pseudo @ values
    # Errors of the fits that leave one curve out, from the diagonal of the hat matrix.
    left_out = (values - rows @ coefficients) / np.maximum(1 - np.einsum("ij,ji->i", rows, pseudo), 1e-3)
    at = np.array(coordinates(shape, rank))
    samples = degrees_of_freedom(rank, shape) * math.exp(float(at @ coefficients))
    return samples, math.expm1(float(np.sqrt(np.mean(left_out**2))))


def coordinates(shape: Shape, rank: Rank) -> tuple[float, float, float, float]:
    """Terms of the fit to the logarithm of the oversampling: ``1, log(N/F), 1/r, 1/r^2``, r the geometric mean rank."""
    r = math.prod(rank) ** (1 / len(rank))
    return 1.0, math.log(math.prod(shape) / degrees_of_freedom(rank, shape)), 1 / r, 1 / r**2


def fibre_law(curves: Sequence[Curve], shape: Shape, rank: Rank) -> tuple[float, float]:
    """Samples at probability 1/2 for whole fibres of the last mode, and the relative spread of the curves."""

    def fewest(shape: Shape, rank: Rank) -> float:
        # U_k takes r_k fibres; once it is determined, each fibre gives r_k numbers.
        others = degrees_of_freedom(rank, shape) - rank[-1] * (shape[-1] - rank[-1])
        return max(others / rank[-1], covering_units(shape, "lines"))

    excess = np.log(
        [c.oversampling * degrees_of_freedom(c.rank, c.shape) / (c.shape[-1] * fewest(c.shape, c.rank)) for c in curves]
    )
    factor = math.exp(float(np.mean(excess)))
    return factor * fewest(shape, rank) * shape[-1], math.expm1(float(np.ptp(excess)) / 2)


def covering_units(shape: Shape, pattern: str) -> float:
    """Number of random units (entries or lines) with which no slice of any mode stays empty in half of the draws.

    The expected number of empty slices is then ``log 2`` (Poisson); each is empty with a hypergeometric probability.

    >>> round(covering_units((30, 30, 30), "uniform"))
    143
    """
    sides = [side for side in (shape[:-1] if pattern == "lines" else shape) if side > 1]
    units = math.prod(sides)

    def empty(drawn: float) -> float:
        total = 0.0
        for side in sides:
            others = units - units // side
            if drawn < others:
                logs = math.lgamma(others + 1) - math.lgamma(others - drawn + 1)
                total += side * math.exp(logs + math.lgamma(units - drawn + 1) - math.lgamma(units + 1))
        return total

    low, high = 0.0, float(units)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if empty(middle) > math.log(2) else (low, middle)
    return high


def extrapolates(curves: Sequence[Curve], shape: Shape, rank: Rank) -> str:
    """The limit of the simulated transitions that the shape and rank exceed; an empty string where they exceed none."""
    alike = [curve for curve in curves if len(curve.shape) == len(shape)]
    if not alike:
        return f"the simulated numbers of modes, {sorted({len(curve.shape) for curve in curves})}"
    longest = max(max(curve.shape) for curve in alike)
    if max(shape) > longest:
        return f"the simulated sides of up to {longest}"
    sizes = [math.prod(curve.shape) for curve in alike]
    if not min(sizes) <= math.prod(shape) <= max(sizes):
        return f"the simulated sizes of {min(sizes):,} to {max(sizes):,} voxels"
    shares = [math.prod(curve.shape) / degrees_of_freedom(curve.rank, curve.shape) for curve in alike]
    share = math.prod(shape) / degrees_of_freedom(rank, shape)
    if not min(shares) <= share <= max(shares):
        return f"the simulated {min(shares):.0f} to {max(shares):.0f} voxels a degree of freedom"
    return ""


def half_point(samples: npt.ArrayLike, probability: npt.ArrayLike, free: float) -> float:
    """Samples at probability 1/2, infinite where it is not reached; the probability at ``free`` samples is 0.

    >>> half_point([200, 400], [0.0, 1.0], 100)  # the geometric mean of both
    282.842...
    """
    from scipy.optimize import isotonic_regression

    m, p = np.asarray(samples, dtype=np.float64), np.asarray(probability, dtype=np.float64)
    keep = m > free
    order = np.argsort(m[keep], kind="stable")
    logs = np.log(np.concatenate([[free], m[keep][order]]))
    rising = np.concatenate([[0.0], isotonic_regression(p[keep][order]).x if keep.any() else []])
    above = np.flatnonzero(rising >= 0.5)
    if above.size == 0:
        return math.inf
    right = int(above[0])
    share = (0.5 - rising[right - 1]) / (rising[right] - rising[right - 1])
    return float(math.exp(logs[right - 1] + share * (logs[right] - logs[right - 1])))


def read_table(path: Path) -> tuple[Curve, ...]:
    """All curves of a file, sorted by shape and pattern, then rank."""
    curves = []
    for cells in recorded(path):
        for rank in sorted(set(map(tuple, cells.ranks.tolist()))):
            rows = (cells.ranks == rank).all(axis=1)
            samples, successes = (tuple(column[rows].tolist()) for column in (cells.samples, cells.successes))
            curves.append(Curve(cells.shape, rank, cells.pattern, cells.trials, samples, successes))
    return tuple(curves)


@lru_cache(maxsize=1)
def shipped() -> tuple[Curve, ...]:
    """Curves of the table that ships with the package."""
    from importlib import resources

    package = __package__ or "tensorcell.solvers"
    with resources.as_file(resources.files(package) / TABLE) as path:
        return read_table(path)
