"""The rank whose fit predicts left-out measured voxels best.

Real volumes have no low rank: their spectra decay without an end, and an estimator of the rank finds as many directions
as the samples support. For prediction, however, there is a best rank: a larger one follows the noise, a smaller one
misses structure. So a few ranks are tried on a central block of which one measured voxel in twenty is left out, and the
rank with the smallest error at these voxels is taken. If a spectrum does end, the rank that was read from it is among
those tried and wins a near tie, so that the rank of a tensor that has one is found. Missing entries do not blur the
spectra of a stack without gaps, so that its rank is read from them without trials.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .arrays import Array, contiguous, count, namespace_of, to_host
from .outliers import find_outliers
from .rank_limits import Rank, affordable
from .ranks import RankEstimate, estimate_rank, from_spectra
from .residual_kriging import estimate_with_neighbours
from .results import CompletionResult
from .slabs import central_block
from .spread import MEDIAN_DEVIATION, NORMAL_QUANTILE
from .subspaces import masked_spectra

Floats = npt.NDArray[np.floating]
Fit = Callable[[Array, Array, Rank], CompletionResult]

SHARES = (0.1, 0.2, 0.35)
"""Shares of the sides that are tried as ranks, besides those read from the data."""

HELD_OUT = 0.05
"""Share of the measured voxels that is left out."""

SAMPLES = 125_000
"""Number of measured voxels from which ranks are read and on which they are tried, if there are so many."""

TRIAL_VOXELS, RANK_VOXELS = 300_000, 1_000_000
"""Largest numbers of voxels for the trials and for reading ranks; the fewer were measured, the more are needed."""

FEWEST = 100
"""Fewest left-out voxels from which an error is computed."""

DRAW = 0.02
"""A rank that was read from a spectrum with an end is taken unless another has an error smaller by this share."""

ROUNDING = 1e-5
"""Typical errors below this share of the root mean square one are rounding: most of a nearly empty volume is predicted
exactly, and then no error is capped."""

CAP = 5.0
"""Errors are capped at this multiple of the typical error, since outliers cannot be predicted."""


class Candidates(NamedTuple):
    """Ranks read from the data: by the spectra of the unfoldings, and by the residual of growing fits."""

    spectral: RankEstimate
    residual: RankEstimate
    ended: bool
    """Whether the rank from the residual stayed below the largest one allowed, so that the tensor has a rank."""

    def ranks(self, shape: Sequence[int], observed: float) -> list[Rank]:
        """All ranks to be tried for a tensor of that shape; none has more unknowns than a quarter of the samples."""
        estimates = [self.residual.rank, self.spectral.rank]
        shares = [tuple(max(1, round(share * size)) for size in shape) for share in SHARES]
        cut = [tuple(min(r, size) for r, size in zip(rank, shape, strict=True)) for rank in estimates]
        return [affordable(rank, shape, observed / 4) for rank in (*cut, *shares)]


def choose_rank(
    stack: Array, mask: Array, fit: Fit, *, noise: float | None = None, neighbours: bool = True, seed: int = 0
) -> RankEstimate:
    """Choose the rank of a global model of a stack.

    Parameters
    ----------
    stack : float array ``(Z, Y, X)``
        Measured intensities, NumPy or CuPy; any finite number where the mask is False.
    mask : bool array of the same shape and library
        True = measured.
    fit : callable
        ``fit(stack, mask, rank)``, the robust fit that the rank is for; its result is on the host.
    noise : float, optional
        Standard deviation of the noise, where it was given by the user.
    neighbours : bool
        Whether the estimate adds what neighbours share of the residual, as
        :func:`tensorcell.solvers.residual_kriging.estimate_with_neighbours` does.
    seed : int
        Seed for the choice of the left-out voxels.

    Returns
    -------
    RankEstimate
        ``spectra`` and ``thresholds`` are those of the best estimate from the data alone.

    Notes
    -----
    Cost: a handful of short fits of at most 300 000 voxels.
    """
    ratio = count(mask) / mask.size
    if ratio == 1:
        return rank_of_complete(stack, noise)
    stack, mask = to_host(stack), to_host(mask)  # all that follows looks at blocks, too small for a GPU
    found = read_ranks(stack, mask, ratio, noise, seed)
    block = central_block(stack.shape, min(TRIAL_VOXELS, round(SAMPLES / ratio)))
    y, w = contiguous(stack[block]), mask[block]
    left_out = w & (np.random.default_rng([seed, 1]).random(y.shape) < HELD_OUT)
    training = w & ~left_out
    if count(left_out) < FEWEST or count(training) < FEWEST or has_empty_lines(training):
        rank = affordable(found.spectral.rank, stack.shape, count(mask) / 5)
        return replace(found.spectral, rank=rank)
    trials = found.ranks(y.shape, count(training))
    errors: dict[Rank, Floats] = {}
    for rank in trials:
        if rank not in errors:
            errors[rank] = _errors(y, training, left_out, fit(y, training, rank), neighbours)
    winner = smallest_error([errors[rank] for rank in trials], preferred=found.ended)
    best = found.ranks(stack.shape, count(mask))[winner]
    if winner == 0 and best == found.residual.rank:
        return found.residual
    reason = f"the one of {len(errors)} ranks that predicts left-out voxels of a block best"
    return replace(found.residual, rank=best, reason=reason)


def rank_of_complete(stack: Array, noise: float | None = None) -> RankEstimate:
    """The rank of a stack without gaps: eigenvalues of its unfoldings above the edge of noise.

    Nothing blurs these spectra, so that no trial is needed. Noise is the same in all directions, structure is not: the
    median eigenvalue of an unfolding with ``m`` columns is ``m`` times the variance of the noise if less than half of
    its directions hold structure, and more otherwise. So the smallest of these variances is taken where none is given.

    References
    ----------
    M. Gavish, D. Donoho, The optimal hard threshold for singular values is 4/sqrt(3), doi:10.1109/TIT.2014.2323359
    (noise from the median singular value).

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> tensor = np.einsum("ir,jr,kr->ijk", *(rng.standard_normal((n, 3)) for n in (20, 30, 40)))
    >>> rank_of_complete(tensor + 0.1 * rng.standard_normal(tensor.shape)).rank
    (3, 3, 3)
    """
    xp, shape = namespace_of(stack), stack.shape
    spectra = masked_spectra(stack, xp.ones(shape, dtype=xp.bool), spreads=None)
    if noise is None:
        medians = [float(np.median(to_host(values))) for values in spectra.values]
        variances = [middle * size / stack.size for middle, size in zip(medians, shape, strict=True)]
        noise = math.sqrt(max(0.0, min(variances)))
    half = tuple((size + 1) // 2 for size in shape)
    return from_spectra(spectra, shape, half, noise, "threshold")


def read_ranks(stack: Array, mask: Array, ratio: float, noise: float | None, seed: int) -> Candidates:
    """The ranks that are read from the data; none exceeds the largest share of the sides that is tried."""
    most = tuple(max(1, round(SHARES[-1] * size)) for size in stack.shape)
    spectral = estimate_rank(stack, mask, method="threshold", noise=noise or None, voxels=RANK_VOXELS, seed=seed)
    voxels = min(RANK_VOXELS, round(SAMPLES / ratio))
    residual = estimate_rank(
        stack, mask, method="residual", noise=noise or None, voxels=voxels, seed=seed, max_rank=most
    )
    ended = all(r < limit for r, limit in zip(residual.rank, most, strict=True))
    return Candidates(spectral, residual, ended)


def has_empty_lines(mask: Array) -> bool:
    """Whether some row or column was measured in no plane."""
    return not (mask.any(axis=(0, 2)).all() and mask.any(axis=(0, 1)).all())


def smallest_error(errors: Sequence[Floats], *, preferred: bool) -> int:
    """Index of the smallest mean square of capped errors; the first one wins a near tie where it is preferred.

    >>> one = np.ones(200)
    >>> smallest_error([1.005 * one, one], preferred=True), smallest_error([1.005 * one, one], preferred=False)
    (0, 1)
    """
    quantiles = [
        max(float(np.median(e)) / MEDIAN_DEVIATION, float(np.quantile(e, 0.9)) / NORMAL_QUANTILE) for e in errors
    ]
    overall = min(math.sqrt(float(np.mean(e**2))) for e in errors)
    typical = min(quantiles)
    cap = CAP * typical if typical > ROUNDING * overall else math.inf
    means = [math.sqrt(float(np.mean(np.minimum(e, cap) ** 2))) for e in errors]
    winner = means.index(min(means))
    return 0 if preferred and means[0] * (1 - DRAW) <= means[winner] else winner


def _errors(y: Array, training: Array, left_out: Array, fit: CompletionResult, neighbours: bool) -> Floats:
    """Absolute errors at the left-out voxels, in double precision."""
    inlier = find_outliers(y, training, fit).inliers(training)
    estimate = estimate_with_neighbours(y, inlier, fit, noise=0.0, keep=True, neighbours=neighbours)
    return np.abs(np.asarray(to_host(estimate.value[left_out] - y[left_out]), np.float64))
