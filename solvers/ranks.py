"""Multilinear rank from masked, noisy, outlier-ridden data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .arrays import Array, count, namespace_of, to_host
from .checks import checked_problem
from .kernels_numba import one_blas_thread
from .subspaces import masked_spectra

NOISE_MARGIN = 4.0
OVERSAMPLING = 5.0


@dataclass(frozen=True, kw_only=True)
class RankEstimate:
    """An estimated multilinear rank and where it comes from.

    Attributes
    ----------
    rank : tuple of int
        One number a mode.
    spectra : tuple of tuple of float
        Eigenvalues of the debiased Gram matrices, descending, one tuple a mode (squared unit of the data).
    reason : str
        One sentence.
    """

    rank: tuple[int, ...]
    spectra: tuple[tuple[float, ...], ...]
    reason: str


@one_blas_thread()
def estimate_rank(
    data: Array,
    mask: Array | None = None,
    *,
    method: Literal["auto", "spectra"] = "auto",
    noise: float | None = None,
    max_rank: int | Sequence[int] | None = None,
    seed: int = 0,
) -> RankEstimate:
    """Estimate the multilinear rank of a tensor of which only some entries are known.

    Each mode's rank is the number of eigenvalues of its debiased Gram matrix (see
    :func:`tensorcell.solvers.subspaces.masked_spectra`) above ``4 e``, where ``e`` is the size of the most negative
    eigenvalue: the true matrix has none, so ``e`` is what missing entries, outliers and noise do to the spectrum.
    A fully observed tensor has no negative eigenvalues; there the energy left out is at most that of ``noise``, or 1e-6
    of the whole. The ranks are then lowered together until the degrees of freedom are at most a fifth of the number of
    observed entries.

    Parameters
    ----------
    data, mask
        As in :func:`tensorcell.solvers.complete_tucker`.
    method : {"auto", "spectra"}
        Both mean the spectra so far.
    noise : float, optional
        Standard deviation of the noise in the data's unit, for fully observed tensors.
    max_rank : int or sequence of int, optional
        Upper limits.
    seed : int
        For methods with random parts; this one is deterministic.

    Returns
    -------
    RankEstimate

    Raises
    ------
    TypeError, ValueError
        If the arguments do not fit together.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> tensor = np.einsum("ir,jr,kr->ijk", *(rng.standard_normal((n, 2)) for n in (40, 41, 42)))
    >>> estimate_rank(tensor, rng.random(tensor.shape) < 0.5).rank
    (2, 2, 2)
    """
    del seed
    if method not in ("auto", "spectra"):
        raise ValueError(f"expected method 'auto' or 'spectra', got {method!r}")
    data, mask, _ = checked_problem(data, mask, (1,) * data.ndim)
    xp = namespace_of(data, mask)
    full = count(mask) == math.prod(data.shape)
    spectra = masked_spectra(data, mask, spreads=None if full else 4.0)
    observed = spectra.ratio * math.prod(data.shape)
    values = [to_host(xp.asarray(v)) for v in spectra.values]
    rank = []
    for spectrum, size in zip(values, data.shape, strict=True):
        if not full:
            found = int((spectrum > NOISE_MARGIN * max(0.0, -float(spectrum[-1]))).sum())
        else:
            allowed = max(1e-6 * float(spectrum.sum()), 1.05 * (noise or 0.0) ** 2 * observed)
            tails = spectrum[::-1].cumsum()[::-1]
            found = int((tails > allowed).sum())
        rank.append(max(1, min(found, size)))
    if max_rank is not None:
        limits = (max_rank,) * data.ndim if isinstance(max_rank, int) else tuple(max_rank)
        if len(limits) != data.ndim or min(limits) < 1:
            raise ValueError(f"expected {data.ndim} limits of at least 1 as max_rank, got {max_rank}")
        rank = [min(r, limit) for r, limit in zip(rank, limits, strict=True)]
    wanted = tuple(rank)
    fitted = affordable(wanted, data.shape, observed / OVERSAMPLING)
    reason = f"eigenvalues above {NOISE_MARGIN:g} times the noise of the spectra"
    if full:
        reason = "energy above the noise, or all but a millionth"
    if fitted != wanted:
        reason += f"; lowered from {wanted} so that {round(observed)} entries are {OVERSAMPLING:g} times the unknowns"
    return RankEstimate(rank=fitted, spectra=tuple(tuple(map(float, v)) for v in values), reason=reason)


def degrees_of_freedom(rank: Sequence[int], shape: Sequence[int]) -> int:
    """Dimension of the manifold of tensors of that shape and multilinear rank: ``prod r + sum r (I - r)``."""
    return math.prod(rank) + sum(r * (size - r) for r, size in zip(rank, shape, strict=True))


def affordable(rank: Sequence[int], shape: Sequence[int], unknowns: float) -> tuple[int, ...]:
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
