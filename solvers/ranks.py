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
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from .admm import AdmmOptions, robust_tucker_admm
from .arrays import Array, as_double, clip, contiguous, count, from_host, namespace_of, scalar, to_host
from .checks import checked_problem
from .completion import TRIM, complete_tucker
from .passes import residuals
from .problem import Problem
from .results import tucker_tensor
from .riemannian import GaussNewtonOptions, gauss_newton
from .spread import MEDIAN_DEVIATION, median, robust_sigma
from .subspaces import Spectra, masked_spectra, recompress, subgrid, take_grid
from .tensors import multi_mode_product, planes_of, unfold
from .threads import one_blas_thread

if TYPE_CHECKING:
    from tensorly.tucker_tensor import TuckerTensor

Method = Literal["auto", "ratio", "threshold", "core", "residual", "holdout"]
Rank = tuple[int, ...]
Floats = npt.NDArray[np.float64]

BUDGET = 3 << 20
"""Number of voxels on which ranks are estimated."""
UNKNOWNS = 2.0
"""Least number of observed entries for each unknown of a trial fit."""
MARGIN = 1.1
"""Singular values must exceed the edge of the noise by this factor."""
HELD_OUT = 0.1
"""Share of the observed entries that the fits of a comparison leave out."""
RELATIVE_FLOOR = 1e-3
"""Parts of the data, or of the largest singular value, below which differences are put down to unfinished fits."""
GROWTH_STEPS = 30
"""Largest number of fits while the rank grows."""
CLEAR = 1.5
"""A direction stands clear of the noise from this multiple of its edge on."""
LOST = 1.2
"""A fit whose residual exceeds this multiple of the best one of the same rank has not found the model."""
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
        What the rank was read from, descending, one tuple a mode: eigenvalues of the debiased Gram matrices (squared
        unit of the data) for ``"ratio"`` and ``"threshold"``, else singular values of the core of the over-ranked fit
        (unit of the data).
    thresholds : tuple of float
        What a value of ``spectra`` must exceed to count, one number a mode (0 for ``"ratio"``).
    noise : float
        Standard deviation of the noise that was found (or given), in the data's unit; NaN where the method needs none.
    reason : str
        One sentence.
    """

    rank: Rank
    spectra: tuple[tuple[float, ...], ...]
    thresholds: tuple[float, ...]
    noise: float
    reason: str


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
        See the head of this module; ``"auto"`` is ``"holdout"``.
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


def checked_limits(max_rank: int | Sequence[int] | None, shape: Sequence[int]) -> Rank:
    """Upper limits of the ranks, at most the shape."""
    if max_rank is None:
        return tuple(shape)
    limits = (max_rank,) * len(shape) if isinstance(max_rank, int) else tuple(max_rank)
    if len(limits) != len(shape) or min(limits) < 1:
        raise ValueError(f"expected {len(shape)} limits of at least 1 as max_rank, got {max_rank}")
    return tuple(min(limit, size) for limit, size in zip(limits, shape, strict=True))


def has_outliers(data: Array, mask: Array) -> bool:
    """Whether more than one observed entry in a thousand is further out than fifteen robust standard deviations.

    Clipping bends the spectra of data without outliers, so it must have a reason. Outliers of the size of the data are
    not found here, but they do little harm to a spectrum.
    """
    xp = namespace_of(data)
    grid = subgrid(data.shape, 1 << 18, 0)
    values = take_grid(data, grid)[take_grid(mask, grid)]
    if values.shape[0] == 0:
        return False
    deviations = values - median(values)
    return bool(count(xp.abs(deviations) > 15 * robust_sigma(deviations)) > 1e-3 * values.shape[0])


def on_subgrid(data: Array, mask: Array, voxels: int, seed: int) -> tuple[Array, Array]:
    """Data and mask, or their part on a random subgrid of at most so many voxels if something is observed there."""
    if math.prod(data.shape) <= voxels:
        return data, mask
    grid = subgrid(data.shape, voxels, seed)
    part = contiguous(take_grid(mask, grid))
    return (contiguous(take_grid(data, grid)), part) if count(part) else (data, mask)


def spectra_of(data: Array, mask: Array) -> Spectra:
    """Debiased spectra, of clipped data where there is a reason to clip."""
    return masked_spectra(data, mask, spreads=4.0 if has_outliers(data, mask) else None)


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
    )


def lowered(wanted: Rank, rank: Rank, observed: float) -> str:
    """Addition to a reason where a rank had to be lowered."""
    return "" if rank == wanted else f"; lowered from {wanted}, which {round(observed)} observed entries cannot carry"


def largest_ratio(values: Floats, limit: int) -> int:
    """Position of the largest ratio of successive eigenvalues, the noise's size added to both."""
    floor = max(-float(values[-1]), 1e-6 * float(values[0]), 1e-300)
    ladder = np.maximum(values[: min(limit, len(values) - 1) + 1], 0.0) + floor
    return 1 if len(ladder) < 2 else 1 + int(np.argmax(ladder[:-1] / ladder[1:]))


def spectral_edge(values: Floats, spectra: Spectra, shape: Sequence[int], mode: int, noise: float | None) -> float:
    """Largest eigenvalue that a debiased Gram matrix would have from missing entries and noise alone.

    Entries of ``Z Z' / p^2`` off the diagonal have a variance of about ``m (v^2 / p^2 - s^2)`` with ``m`` columns, the
    second moments ``v`` of what was observed and ``s`` of the signal: twice its root times ``sqrt(I)`` is the edge
    (Wigner). The most negative eigenvalue shows the same edge on the other side. Noise raises the diagonal.
    """
    columns = math.prod(shape) / shape[mode]
    variance = (noise or 0.0) ** 2
    moment = max(0.0, float(values.sum()) / math.prod(shape) - spectra.centre**2)  # signal and noise
    signal = max(0.0, moment - variance)
    spread = math.sqrt(columns * max(0.0, (moment / spectra.ratio) ** 2 - signal**2))
    edge = columns * variance + 2 * math.sqrt(shape[mode]) * spread
    return max(1.05 * edge, 1.5 * max(0.0, -float(values[-1])), 1e-6 * float(values[0]))


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


class Fit(NamedTuple):
    """A robust fit and the spectra that its rank is judged by."""

    tucker: TuckerTensor
    scale: float
    """Robust standard deviation of the observed residual."""
    spectra: list[Floats]
    """Singular values of the core's unfoldings, descending."""
    edges: tuple[float, ...]
    """Largest singular value that fitted noise would have there, one a mode."""


def fitted(problem: Problem, rank: Rank, noise: float | None, robust: bool) -> Fit:
    """Fit of a given rank, with its spectra and their edges."""
    result = complete_tucker(problem.data, problem.mask, rank, robust=robust, tolerance=1e-4, max_iterations=8)
    return judged(problem, result.tucker, noise, robust)


def judged(problem: Problem, tucker: TuckerTensor, noise: float | None, robust: bool = True) -> Fit:
    """A fit with the spectra of its core, and the largest singular values that noise would leave there.

    Noise of variance ``sigma^2 / p`` in all entries, projected on the other modes' subspaces, is a matrix of ``I_n``
    rows and ``prod_{m != n} r_m`` columns with the largest singular value ``sigma / sqrt(p) (sqrt(rows) +
    sqrt(columns))``. The two subspaces of a matrix are found together, in all of its columns.
    """
    shape, rank = problem.data.shape, tucker.core.shape
    core, factors = recompress(as_double(tucker.core), [as_double(f) for f in tucker.factors], rank)
    found = [np.asarray(to_host(singular_values(unfold(core, mode)))) for mode in range(len(shape))]
    observed = count(problem.mask)
    scale = problem.grid.scale(core, factors, robust)
    free = max(0.2, 1 - degrees_of_freedom(rank, shape) / observed)  # share of the noise that a fit leaves
    spread = (scale / math.sqrt(free) if noise is None else noise) / math.sqrt(observed / math.prod(shape))
    edges = tuple(
        max(
            MARGIN * spread * (math.sqrt(size) + math.sqrt(math.prod(rank) / r if len(rank) > 2 else max(shape))),
            RELATIVE_FLOOR * float(values[0]),
        )
        for size, r, values in zip(shape, rank, found, strict=True)
    )
    return Fit(tucker_tensor(core, factors, problem.data.dtype), scale, found, edges)


def singular_values(matrix: Array) -> Array:
    """Singular values, descending."""
    return namespace_of(matrix).linalg.svdvals(matrix)


def overlooks_structure(problem: Problem, fit: Fit, ratio: float) -> bool:
    """Whether most of the energy is in entries that the robust fit took for outliers, and they are not scattered.

    This happens with a few bright structures on a background of exact zeros.
    """
    xp = namespace_of(problem.data)
    rest = clipped_residual(problem, fit, math.inf)
    if scalar(xp.sum(rest**2, dtype=xp.float64)) < 0.5 * problem.norm**2:
        return False
    return any(beyond_noise_in_gram(rest, factor, mode, ratio) > 1 for mode, factor in enumerate(fit.tucker.factors))


def clipped_residual(problem: Problem, fit: Fit, limit: float) -> Array:
    """``W (Y - X)``, limited in size; the shape and dtype of the data."""
    xp = namespace_of(problem.data)
    w = planes_of(problem.mask)
    clipped = xp.empty_like(planes_of(problem.data))
    for part, residual in residuals(problem.data, *fit.tucker):
        limited = residual if math.isinf(limit) else clip(residual, -limit, limit)
        clipped[part, :, :] = xp.where(w[part, :, :], limited, xp.zeros_like(limited))
    return xp.reshape(clipped, problem.data.shape)


def beyond_noise_in_gram(residual: Array, factor: Array, mode: int, ratio: float) -> int:
    """Number of directions of a mode, outside its factor, in which the residual is larger than noise would make it.

    Where there is no such direction, the Gram matrix of the unfolding without its diagonal has independent entries of
    variance ``m v^2 / p^2`` (``m`` columns, ``v`` the mean square of the observed residual), so its eigenvalues lie
    between plus and minus ``2 sqrt(I)`` times the root of that (Wigner); the most negative one shows the same edge.
    """
    xp = namespace_of(residual)
    unfolded = unfold(residual, mode)
    size, columns = unfolded.shape
    gram = as_double(unfolded @ unfolded.T)
    moment = scalar(xp.linalg.trace(gram)) / (ratio * size * columns)
    gram = gram * (1 - xp.eye(size, dtype=xp.float64)) / ratio**2
    basis = as_double(factor)
    gram = gram - basis @ (basis.T @ gram)
    gram = gram - (gram @ basis) @ basis.T
    values = to_host(xp.linalg.eigvalsh(gram))
    edge = max(2 * math.sqrt(size * columns) * moment / ratio, -float(values[0]))
    return int((values > MARGIN * edge).sum())


def beyond_noise_in_subspaces(residual: Array, factors: Sequence[Array], mode: int, ratio: float) -> int:
    """The same count from the residual contracted with the other modes' factors: it is finer once these are fitted.

    Its entries have the variance ``v / p``, so noise has the largest singular value
    ``sqrt(v / p) (sqrt(rows) + sqrt(columns))``.
    """
    xp = namespace_of(residual)
    basis = as_double(factors[mode])
    moment = scalar(xp.sum(residual**2, dtype=xp.float64)) / (ratio * math.prod(residual.shape))
    small = as_double(unfold(multi_mode_product(residual, factors, skip=mode, transpose=True), mode)) / ratio
    small = small - basis @ (basis.T @ small)
    edge = math.sqrt(moment / ratio) * (math.sqrt(small.shape[0]) + math.sqrt(small.shape[1]))
    return int((to_host(singular_values(small)) > MARGIN * edge).sum())


def arbitrate(problem: Problem, found: RankEstimate, fit: Fit, seed: int) -> RankEstimate:
    """Score nested ranks up to the one found on observed entries that were left out of the fits.

    The ranks are shares of that one, and the number of directions that stand clear of the edge of noise. Each is fitted
    from nothing; where the samples are too few for that (the fit ends far above the residual of ``fit``, which grew
    step by step), it is fitted once more from ``fit``. Errors are capped at five times their typical size (outliers
    cannot be predicted) and compared entry by entry; the smallest rank that is not worse than the best by more than one
    standard error of the difference is taken.
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


def degrees_of_freedom(rank: Sequence[int], shape: Sequence[int]) -> int:
    """Dimension of the manifold of tensors of that shape and multilinear rank: ``prod r + sum r (I - r)``."""
    return math.prod(rank) + sum(r * (size - r) for r, size in zip(rank, shape, strict=True))


def affordable(rank: Sequence[int], shape: Sequence[int], unknowns: float) -> Rank:
    """The rank, valid (no entry above the product of the others) and scaled down to at most so many unknowns."""
    scale, found = 1.0, tuple(rank)
    while True:
        found = tuple(max(1, round(scale * r)) for r in rank)
        for mode in range(len(found)):
            others = math.prod(found[:mode]) * math.prod(found[mode + 1 :])
            found = (*found[:mode], min(found[mode], others), *found[mode + 1 :])
        if degrees_of_freedom(found, shape) <= unknowns or max(found) == 1:
            return found
        scale *= 0.95
