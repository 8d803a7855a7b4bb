"""Robust fits of a given rank, and how many directions of their residuals stand out of the noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from .arrays import Array, as_double, clip, count, namespace_of, scalar, to_host
from .completion import complete_tucker
from .passes import residuals
from .problem import Problem
from .rank_limits import Rank, degrees_of_freedom
from .results import tucker_tensor
from .subspaces import recompress
from .tensors import multi_mode_product, planes_of, unfold

if TYPE_CHECKING:
    from tensorly.tucker_tensor import TuckerTensor

Floats = npt.NDArray[np.float64]

MARGIN = 1.1
"""Singular values must exceed the edge of the noise by this factor."""
RELATIVE_FLOOR = 1e-3
"""Differences below this share of the data, or of the largest singular value, are attributed to unfinished fits."""


class Fit(NamedTuple):
    """A robust fit and the spectra that its rank is judged by."""

    tucker: TuckerTensor
    scale: float
    """Robust standard deviation of the residual at observed entries."""
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
    """Whether most of the energy is in entries that the robust fit took for outliers, and these are not scattered.

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
    """The same count from the residual contracted with the other modes' factors, which finds weaker directions.

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
