"""Robust Tucker completion on NumPy and CuPy: arrays in, arrays out.

>>> import numpy as np
>>> from tensorcell.solvers import complete_tucker
>>> tensor = np.einsum("i,j,k->ijk", *(np.arange(1.0, n) for n in (8, 9, 10)))
>>> result = complete_tucker(tensor, np.random.default_rng(0).random(tensor.shape) < 0.6, 1)
>>> str(result.status)
'converged: a further step would hardly change the estimate'
"""

from .admm import AdmmOptions, AdmmState, robust_tucker_admm
from .anscombe import generalised_anscombe, inverse_anscombe
from .autocorrelation import Autocorrelation
from .blocks import BlockedStack, BlockSums, block_sums
from .bounds import Coherence, RecoveryBound, coherence, recovery_bound, verdict
from .completion import complete_tucker
from .drift import frame_drift
from .em import EmState, em_tucker
from .interplane import PlaneFill, fill_planes
from .local import LocalOptions, LocalResult, LocalState, local_tucker
from .noise import NoiseModel, estimate_noise
from .phase_simulation import PhaseTransition, phase_transition
from .proximal import (
    hard_threshold,
    procrustes,
    project_nonnegative,
    singular_value_threshold,
    soft_threshold,
)
from .rank_limits import degrees_of_freedom
from .ranks import BlockRanks, RankEstimate, block_ranks, estimate_rank
from .results import CompletionResult, IterationRecord, SparsePart, Status
from .riemannian import GaussNewtonOptions, GaussNewtonState, riemannian_gauss_newton
from .sampling import Sampling, describe_sampling
from .streamed import fit_of_tile, streamed_rank, streamed_tucker
from .subspaces import hosvd, leading_vectors
from .tensors import fold, mode_product, multi_mode_product, tucker_to_dense, unfold
from .thresholds import Threshold, empirical_threshold
from .units import Unit

__all__ = [
    "AdmmOptions",
    "AdmmState",
    "Autocorrelation",
    "BlockRanks",
    "BlockSums",
    "BlockedStack",
    "Coherence",
    "CompletionResult",
    "EmState",
    "GaussNewtonOptions",
    "GaussNewtonState",
    "IterationRecord",
    "LocalOptions",
    "LocalResult",
    "LocalState",
    "NoiseModel",
    "PhaseTransition",
    "PlaneFill",
    "RankEstimate",
    "RecoveryBound",
    "Sampling",
    "SparsePart",
    "Status",
    "Threshold",
    "Unit",
    "block_ranks",
    "block_sums",
    "coherence",
    "complete_tucker",
    "degrees_of_freedom",
    "describe_sampling",
    "em_tucker",
    "empirical_threshold",
    "estimate_noise",
    "estimate_rank",
    "fill_planes",
    "fit_of_tile",
    "fold",
    "frame_drift",
    "generalised_anscombe",
    "hard_threshold",
    "hosvd",
    "inverse_anscombe",
    "leading_vectors",
    "local_tucker",
    "mode_product",
    "multi_mode_product",
    "phase_transition",
    "procrustes",
    "project_nonnegative",
    "recovery_bound",
    "riemannian_gauss_newton",
    "robust_tucker_admm",
    "singular_value_threshold",
    "soft_threshold",
    "streamed_rank",
    "streamed_tucker",
    "tucker_to_dense",
    "unfold",
    "verdict",
]
