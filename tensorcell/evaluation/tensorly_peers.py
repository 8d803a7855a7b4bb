"""Methods of TensorLy that ours are compared with; TensorLy is imported when one of them runs."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorcell.evaluation.cases import Measurement
from tensorcell.evaluation.peers import TRIAL
from tensorcell.evaluation.references import central

Array = npt.NDArray[Any]


def _tensorly_input(stack: Array, seed: int) -> tuple[Array, Array, Array]:
    """Values (the median where nothing was measured), the mask, and the mask without the twentieth that is left out."""
    mask = ~np.isnan(stack)
    values = np.where(mask, stack, np.nanmedian(stack)).astype(np.float64)
    return values, mask, mask & (np.random.default_rng(seed).random(stack.shape) >= 0.05)


def _left_out_error(estimate: Array, values: Array, mask: Array, fitted: Array) -> float:
    """Mean absolute error at left-out voxels: outliers among them weigh little, bright structure still counts."""
    left_out = mask & ~fitted
    return float(np.mean(np.abs(estimate[left_out] - values[left_out])))


def _tensorly_tucker(values: Array, mask: Array, share: float, seed: int) -> Array:
    import tensorly
    from tensorly.decomposition import tucker

    rank = [max(1, round(share * side)) for side in values.shape]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorLy warns of ranks that it changes
        # tol=0: TensorLy compares the error under a mask with an outdated norm and would stop too early.
        decomposition = tucker(values, rank, mask=mask, n_iter_max=50, tol=0, random_state=seed)
    return np.asarray(tensorly.tucker_to_tensor(decomposition))


def run_tensorly_tucker(measurement: Measurement, seed: int) -> Array:
    """TensorLy's masked Tucker; its ranks, a share of the sides, err least at voxels left out of the central part."""
    grid = measurement.grid
    values, mask, fitted = _tensorly_input(grid[central(grid.shape, TRIAL)], seed)
    errors = {
        share: _left_out_error(_tensorly_tucker(values, fitted, share, seed), values, mask, fitted)
        for share in (0.08, 0.15, 0.25, 0.4, 0.6)
    }
    values, mask, _ = _tensorly_input(grid, seed)
    return _tensorly_tucker(values, mask, min(errors, key=lambda share: errors[share]), seed)


def _robust_pca(values: Array, mask: Array, weight: float) -> Array:
    from tensorly.decomposition import robust_pca

    low_rank, _ = robust_pca(values, mask=mask.astype(np.float64), reg_E=weight, n_iter_max=100, verbose=0)
    return np.asarray(low_rank)


def run_robust_pca(measurement: Measurement, seed: int) -> Array:
    """TensorLy's robust PCA; the weight of its sparse part errs least at voxels left out of the central part."""
    grid = measurement.grid
    values, mask, fitted = _tensorly_input(grid[central(grid.shape, TRIAL)], seed)
    errors = {
        weight: _left_out_error(_robust_pca(values, fitted, weight), values, mask, fitted)
        for weight in (0.02, 0.05, 0.1, 0.2, 1.0)
    }
    values, mask, _ = _tensorly_input(grid, seed)
    return _robust_pca(values, mask, min(errors, key=lambda weight: errors[weight]))
