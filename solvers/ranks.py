"""Multilinear rank from masked, noisy, outlier-ridden data.

Five estimators, from the quickest to the surest. With ``Z = W (Y - centre)``, sampling ratio ``p`` and the debiased
Gram matrices of :func:`tensorcell.solvers.subspaces.masked_spectra`:

- ``"ratio"``: where the ratio of successive eigenvalues is largest (Lam & Yao 2012, doi:10.1214/12-AOS970).
- ``"threshold"``: eigenvalues above the edge of what missing entries and noise alone would show.
- ``"core"``: singular values of the core of an over-ranked robust fit, up to the largest gap above the edge of fitted
  noise (the hard threshold of Gavish & Donoho 2014, doi:10.1109/TIT.2014.2323359, for a projected noise matrix whose
  variance the missing entries have enlarged to ``sigma^2 / p``).
- ``"residual"``: the rank grows from one; directions of the residual of a robust fit above the edge of noise are added
  until there are none.
- ``"holdout"`` (``"auto"``): nested ranks up to the one of the residual, scored on observed entries left out of their
  fits; the smallest whose error is within one standard error of the best.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import numpy.typing as npt

from .admm import AdmmOptions, robust_tucker_admm
from .arrays import Array, as_double, count, from_host, namespace_of, to_host
from .checks import checked_problem
from .completion import TRIM, complete_tucker
from .passes import residuals
from .problem import Problem
from .rank_fits import (
    RELATIVE_FLOOR,
    Fit,
    beyond_noise_in_gram,
    beyond_noise_in_subspaces,
    clipped_residual,
    fitted,
    judged,
    overlooks_structure,
)
from .rank_limits import Rank, affordable, checked_limits, degrees_of_freedom, lowered
from .rank_spectra import largest_ratio, on_subgrid, spectra_of, spectral_edge
from .results import tucker_tensor
from .riemannian import GaussNewtonOptions, gauss_newton
from .spread import MEDIAN_DEVIATION, robust_sigma
from .subspaces import Spectra, recompress
from .tensors import planes_of
from .threads import one_blas_thread
from .units import Unit

if TYPE_CHECKING:
    pass

Method = Literal["auto", "ratio", "threshold", "core", "residual", "holdout"]
Floats = npt.NDArray[np.float64]

BUDGET = 3 << 20
"""Number of voxels on which ranks are estimated."""
UNKNOWNS = 2.0
"""Least number of observed entries for each unknown of a trial fit."""
HELD_OUT = 0.1
"""Share of the observed entries that the fits of a comparison leave out."""
GROWTH_STEPS = 30
"""Largest number of fits while the rank grows."""
CLEAR = 1.5
"""A direction above this multiple of the edge of noise is clearly no noise."""
LOST = 1.2
"""A fit whose residual exceeds this multiple of that of the best fit of the same rank has not found the model."""
CLIP = 3.0
"""Residuals are clipped to this multiple of their robust standard deviation before directions are counted in them."""


@dataclass(frozen=True, kw_only=True)
class RankEstimate:
    """An estimated multilinear rank and where it comes from.

    Attributes
    ----------
    rank : tuple of int
        One number a mode.
    spectra : tuple of tuple of float
        The values that the rank was read from, descending, one tuple a mode: eigenvalues of the debiased Gram matrices
        (squared unit of the data) for ``"ratio"`` and ``"threshold"``, else singular values of the core of the
        over-ranked fit (unit of the data).
    thresholds : tuple of float
        The number that a value of ``spectra`` must exceed to count, one a mode (0 for ``"ratio"``).
    noise : float
        Standard deviation of the noise that was found (or given), in the data's unit; NaN where the method needs none.
    reason : str
        How the rank was found, in one phrase.
    power : int
        Power of the data's unit in ``spectra``: 2 for eigenvalues of Gram matrices, 1 for singular values.
    """

    rank: Rank
    spectra: tuple[tuple[float, ...], ...]
    thresholds: tuple[float, ...]
    noise: float
    reason: str
    power: int = 1

    def in_unit(self, unit: Unit) -> RankEstimate:
        """The estimate with its numbers in the caller's unit."""
        if unit.same:
            return self
        measure, remark = (unit.of_powers, unit.remark_on_powers) if self.power == 2 else (unit, "")
        if unit.offset:
            remark += f"; of intensities without their offset of {unit.offset:g}"
        return replace(
            self,
            spectra=tuple(tuple(measure.width(value, self.power) for value in values) for values in self.spectra),
            thresholds=tuple(measure.width(edge, self.power) for edge in self.thresholds),
            noise=unit.width(self.noise),
            reason=self.reason + remark,
        )


@dataclass(frozen=True, kw_only=True)
class BlockRanks:
    """Ranks of the blocks of a volume.

    Attributes
    ----------
    ranks : tuple of tuples of int
        Rank of each block, one number a mode.
    corners : tuple of tuples of int
        First index of each block, one number a mode.
    block : tuple of int
        Size of a block.
    """

    ranks: tuple[Rank, ...]
    corners: tuple[Rank, ...]
    block: Rank


@one_blas_thread()
def estimate_rank(
    data: Array,
    mask: Array | None = None,
    *,
    method: Method = "auto",
    noise: float | None = None,
    max_rank: int | Sequence[int] | None = None,
    seed: int = 0,
    voxels: int = BUDGET,
) -> RankEstimate:
    """Estimate the multilinear rank of a tensor of which only some entries are observed.

    Parameters
    ----------
    data, mask
        As in :func:`tensorcell.solvers.complete_tucker`: True = observed.
    method : {"auto", "ratio", "threshold", "core", "residual", "holdout"}
        See the docstring of this module; ``"auto"`` is ``"holdout"``.
    noise : float, optional
        Standard deviation of the noise in the data's unit; estimated from the residual of the fit where not given.
    max_rank : int or sequence of int, optional
        Upper limits.
    seed : int
        Seed of the random subgrid of large tensors and of the choice of entries to leave out.
    voxels : int
        Larger tensors are represented by a random subgrid of that size, which has the same multilinear rank (as long as
        it is the smaller one).

    Returns
    -------
    RankEstimate

    Raises
    ------
    TypeError, ValueError
        If the arguments do not fit together.

    Notes
    -----
    No rank is returned that has more unknowns than half the observed entries: more unknowns would fit the noise.
    The cost is that of a handful of fits.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> tensor = np.einsum("ir,jr,kr->ijk", *(rng.standard_normal((n, 2)) for n in (40, 41, 42)))
    >>> estimate_rank(tensor, rng.random(tensor.shape) < 0.3).rank
    (2, 2, 2)
    """
    if method not in get_args(Method):
        raise ValueError(f"expected method {', '.join(map(repr, get_args(Method)))}, got {method!r}")
    if noise is not None and not (noise >= 0 and math.isfinite(noise)):
        raise ValueError(f"expected noise as a standard deviation of at least 0, got {noise}")
    data, mask, _ = checked_problem(data, mask, (1,) * data.ndim)
    limits = checked_limits(max_rank, data.shape)
    data, mask = on_subgrid(data, mask, voxels, seed)
    limits = tuple(min(limit, size) for limit, size in zip(limits, data.shape, strict=True))
    if method in ("ratio", "threshold"):
        return from_spectra(spectra_of(data, mask), data.shape, limits, noise, method)
    problem = Problem(data, mask)
    if problem.norm == 0:
        zeros = tuple((0.0,) for _ in data.shape)
        return RankEstimate(
            rank=(1,) * data.ndim, spectra=zeros, thresholds=(0.0,) * data.ndim, noise=0.0, reason="all zero"
        )
    if method == "core":
        return from_core(problem, limits, noise)
    found, fit = from_residual(problem, limits, noise)
    return found if method == "residual" else arbitrate(problem, found, fit, seed)


def block_ranks(
    data: Array,
    mask: Array | None = None,
    *,
    block: int | Sequence[int] = 32,
    method: Method = "residual",
    noise: float | None = None,
    seed: int = 0,
) -> BlockRanks:
    """Rank of each block of a tensor: how the complexity of a specimen is spread over it.

    Parameters
    ----------
    data, mask, method, noise, seed
        As in :func:`estimate_rank`.
    block : int or k ints
        Sizes of the blocks, cut to the tensor's. Blocks lie side by side; the last ones are moved back to fit in.
        Blocks of which nothing was observed are left out.

    Returns
    -------
    BlockRanks

    Raises
    ------
    TypeError, ValueError
        If the arguments do not fit together.

    Notes
    -----
    The distribution of RCT's Figure 7a, for blocks of one volume.

    Examples
    --------
    >>> import numpy as np
    >>> left, right = np.ones((16, 16, 16)), np.einsum("ia,ja,ka->ijk", *np.random.default_rng(0).random((3, 16, 2)))
    >>> block_ranks(np.concatenate([left, right]), block=16).ranks
    ((1, 1, 1), (2, 2, 2))
    """
    data, mask, _ = checked_problem(data, mask, (1,) * data.ndim)
    sizes = (block,) * data.ndim if isinstance(block, int) else tuple(block)
    if len(sizes) != data.ndim or min(sizes) < 2:
        raise ValueError(f"expected {data.ndim} block sizes of at least 2, got {block}")
    sizes = tuple(map(min, sizes, data.shape))
    starts = [
        sorted({min(first, whole - size) for first in range(0, whole, size)})
        for whole, size in zip(data.shape, sizes, strict=True)
    ]
    ranks, corners = [], []
    for corner in product(*starts):
        place = tuple(slice(first, first + size) for first, size in zip(corner, sizes, strict=True))
        if count(mask[place]) > 0:
            found = estimate_rank(data[place], mask[place], method=method, noise=noise, seed=seed)
            ranks.append(found.rank)
            corners.append(corner)
    return BlockRanks(ranks=tuple(ranks), corners=tuple(corners), block=sizes)


def from_spectra(
    spectra: Spectra, shape: Sequence[int], limits: Sequence[int], noise: float | None, method: str
) -> RankEstimate:
    """The two estimators that need nothing but the debiased Gram matrices."""
    values = [np.asarray(to_host(value)) for value in spectra.values]
    observed = spectra.ratio * math.prod(shape)
    if method == "ratio":
        wanted = tuple(largest_ratio(value, limit) for value, limit in zip(values, limits, strict=True))
        edges = (0.0,) * len(shape)
        reason = "largest ratio of successive eigenvalues"
    else:
        edges = tuple(spectral_edge(value, spectra, shape, n, noise) for n, value in enumerate(values))
        wanted = tuple(
            min(limit, max(1, int((value > edge).sum())))
            for value, edge, limit in zip(values, edges, limits, strict=True)
        )
        reason = "eigenvalues above the edge that missing entries and noise alone would show"
    rank = affordable(wanted, shape, observed / UNKNOWNS)
    return RankEstimate(
        rank=rank,
        spectra=tuple(tuple(map(float, value)) for value in values),
        thresholds=edges,
        noise=math.nan if noise is None else noise,
        reason=reason + lowered(wanted, rank, observed),
        power=2,
    )


def from_core(problem: Problem, limits: Sequence[int], noise: float | None) -> RankEstimate:
    """Singular values of the core of an over-ranked fit: up to the largest gap above the edge of fitted noise."""
    shape = problem.data.shape
    observed = count(problem.mask)
    first = from_spectra(spectra_of(problem.data, problem.mask), shape, limits, noise, "threshold").rank
    trial = affordable([min(2 * r + 2, n) for r, n in zip(first, limits, strict=True)], shape, observed / UNKNOWNS)
    options = AdmmOptions(fidelity="huber", tolerance=1e-3, max_iterations=60)  # an early stop fits less noise
    fit = judged(problem, robust_tucker_admm(problem.data, problem.mask, trial, options=options).tucker, noise)
    kept = []
    for values, edge in zip(fit.spectra, fit.edges, strict=True):
        above = max(1, int((values > edge).sum()))
        ladder = np.append(values, edge)[: above + 1]
        kept.append(1 + int(np.argmax(ladder[:-1] / np.maximum(ladder[1:], 1e-300))))
    rank = affordable(kept, shape, observed / UNKNOWNS)
    return RankEstimate(
        rank=rank,
        spectra=tuple(tuple(map(float, s)) for s in fit.spectra),
        thresholds=tuple(map(float, fit.edges)),
        noise=fit.scale,
        reason=f"largest gap above the noise in the core of a fit of rank {trial}"
        + lowered(tuple(kept), rank, observed),
    )


def from_residual(
    problem: Problem, limits: Sequence[int], noise: float | None, *, robust: bool = True
) -> tuple[RankEstimate, Fit]:
    """Grow the rank from below until the residual of a robust fit shows no direction above the edge of noise.

    Returns the estimate and the last fit, of at least that rank.

    Missing entries blur the spectra of the data by as much as the data are large. The residual of a fit is smaller, and
    so is what missing entries add to its spectra: weak directions stand out once the strong ones are fitted.
    """
    shape = problem.data.shape
    observed = count(problem.mask)
    ratio = observed / math.prod(shape)

    def fitting(rank: Sequence[int]) -> Rank:
        return affordable(tuple(map(min, rank, limits)), shape, observed / UNKNOWNS)

    rank = fitting((1,) * len(shape))
    wanted, kept, reason = rank, (0,) * len(shape), "no direction of the residual stands out of the noise"
    for _ in range(GROWTH_STEPS):
        fit = fitted(problem, rank, noise, robust)
        before, kept = kept, tuple(max(1, int((s > e).sum())) for s, e in zip(fit.spectra, fit.edges, strict=True))
        if kept == before:  # the last step added nothing but noise
            break
        if fit.scale <= RELATIVE_FLOOR * problem.norm / math.sqrt(observed):
            if robust and overlooks_structure(problem, fit, ratio):
                return from_residual(problem, limits, noise, robust=False)
            reason = "most of the residual is zero to the precision of the fit"
            break
        clipped = clipped_residual(problem, fit, CLIP * fit.scale if robust else math.inf)
        more = [beyond_noise_in_gram(clipped, factor, mode, ratio) for mode, factor in enumerate(fit.tucker.factors)]
        if not any(more):
            more = [beyond_noise_in_subspaces(clipped, fit.tucker.factors, mode, ratio) for mode in range(len(shape))]
        wanted = tuple(min(limit, r + extra) for r, extra, limit in zip(rank, more, limits, strict=True))
        new = fitting(wanted)
        if new == rank:
            break
        rank = new
    rank = affordable(kept, shape, observed / UNKNOWNS)
    estimate = RankEstimate(
        rank=rank,
        spectra=tuple(tuple(map(float, s)) for s in fit.spectra),
        thresholds=tuple(map(float, fit.edges)),
        noise=fit.scale,
        reason=reason + ("" if fitting(wanted) == wanted else lowered(wanted, rank, observed)),
    )
    return estimate, fit


def arbitrate(problem: Problem, found: RankEstimate, fit: Fit, seed: int) -> RankEstimate:
    """Score nested ranks up to the one found on observed entries that were left out of the fits.

    The ranks are shares of that one, and the number of directions clearly above the edge of noise. Each is fitted from
    scratch. Where the samples are too few for that (the fit ends far above the residual of ``fit``, whose rank grew
    step by step), it is fitted again, starting from ``fit``. Errors are capped at five times their typical size
    (outliers cannot be predicted) and compared entry by entry; the smallest rank that is not worse than the best by
    more than one standard error of the difference is taken.
    """
    xp = namespace_of(problem.data)
    shape = problem.data.shape
    drawn = np.random.default_rng([seed, 1]).random(shape) < HELD_OUT
    left_out = problem.mask & from_host(drawn, problem.mask)
    training = Problem(problem.data, problem.mask & ~left_out)
    observed = count(training.mask)
    if count(left_out) < 50 or observed < UNKNOWNS * degrees_of_freedom((1,) * len(shape), shape):
        return found

    shares = [[max(1, round(share * r)) for r in found.rank] for share in (0.35, 0.6, 0.8)]
    clear = [max(1, int((s > CLEAR * e).sum())) for s, e in zip(fit.spectra, fit.edges, strict=True)]
    trials = sorted({affordable(rank, shape, observed / UNKNOWNS) for rank in (*shares, clear, found.rank)})
    options = GaussNewtonOptions(trim=TRIM, tolerance=1e-3, max_iterations=6)
    errors: dict[Rank, Floats] = {}
    for rank in trials:
        result = complete_tucker(training.data, training.mask, rank, tolerance=1e-3, max_iterations=4)
        if (
            rank == found.rank
            and training.grid.scale(result.tucker.core, result.tucker.factors, True) > LOST * fit.scale
        ):
            start = recompress(as_double(fit.tucker.core), [as_double(f) for f in fit.tucker.factors], rank)
            result = gauss_newton(training, tucker_tensor(*start, problem.data.dtype), options, None, (), False)
        parts = []
        held = planes_of(left_out)
        for part, residual in residuals(problem.data, *result.tucker):
            parts.append(np.abs(to_host(xp.reshape(residual, (-1,))[xp.reshape(held[part, :, :], (-1,))])))
        errors[rank] = np.concatenate(parts).astype(np.float64)
    floor = RELATIVE_FLOOR * problem.norm / math.sqrt(count(problem.mask))  # smaller errors count as equal
    cap = 5 * max(floor / MEDIAN_DEVIATION, min(map(robust_sigma, errors.values())))
    capped = {rank: np.clip(error, floor, cap) ** 2 for rank, error in errors.items()}
    best = min(trials, key=lambda rank: float(capped[rank].mean()))
    for rank in sorted(trials, key=lambda rank: degrees_of_freedom(rank, shape)):
        worse = capped[rank] - capped[best]
        if worse.mean() <= worse.std() / math.sqrt(len(worse)):
            break
    reason = found.reason
    if rank != found.rank:
        reason = f"predicts left-out entries best of {len(trials)} ranks up to {found.rank}"
        if rank != best:
            reason = f"predicts left-out entries as well as rank {best}, the best of {len(trials)}"
    return RankEstimate(rank=rank, spectra=found.spectra, thresholds=found.thresholds, noise=found.noise, reason=reason)
