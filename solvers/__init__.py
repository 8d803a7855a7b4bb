"""Robust Tucker completion on NumPy and CuPy: arrays in, arrays out.

>>> import numpy as np
>>> from tensorcell.solvers import complete_tucker
>>> tensor = np.einsum("i,j,k->ijk", *(np.arange(1.0, n) for n in (8, 9, 10)))
>>> result = complete_tucker(tensor, np.random.default_rng(0).random(tensor.shape) < 0.6, 1)
>>> str(result.status)
'converged: the model changed by less than the tolerance'
"""

from .admm import AdmmOptions, AdmmState, robust_tucker_admm
from .completion import complete_tucker
from .em import EmState, em_tucker
from .proximal import (
    hard_threshold,
    procrustes,
    project_nonnegative,
    singular_value_threshold,
    soft_threshold,
)
from .ranks import BlockRanks, RankEstimate, block_ranks, degrees_of_freedom, estimate_rank
from .results import CompletionResult, IterationRecord, SparsePart, Status
from .riemannian import GaussNewtonOptions, GaussNewtonState, riemannian_gauss_newton
from .subspaces import hosvd, leading_vectors
from .tensors import fold, mode_product, multi_mode_product, tucker_to_dense, unfold

__all__ = [
    "AdmmOptions",
    "AdmmState",
    "BlockRanks",
    "CompletionResult",
    "EmState",
    "GaussNewtonOptions",
    "GaussNewtonState",
    "IterationRecord",
    "RankEstimate",
    "SparsePart",
    "Status",
    "block_ranks",
    "complete_tucker",
    "degrees_of_freedom",
    "em_tucker",
    "estimate_rank",
    "fold",
    "hard_threshold",
    "hosvd",
    "leading_vectors",
    "mode_product",
    "multi_mode_product",
    "procrustes",
    "project_nonnegative",
    "riemannian_gauss_newton",
    "robust_tucker_admm",
    "singular_value_threshold",
    "soft_threshold",
    "tucker_to_dense",
    "unfold",
]
