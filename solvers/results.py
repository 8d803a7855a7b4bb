"""What every completion method returns: one frozen result with the same fields, always."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from .arrays import Array, clip, namespace_of, scatter
from .tensors import tucker_to_dense

if TYPE_CHECKING:
    from tensorly.tucker_tensor import TuckerTensor


class Status(Enum):
    """How a run ended; ``str`` gives the sentence to show, alone or after "the fit"."""

    CONVERGED = "converged: a further step would hardly change the estimate"
    MAX_ITERATIONS = "stopped at the largest number of steps allowed, while the estimate was still changing"
    COMPLETED = "finished: all planned sweeps over the volume were made"
    STALLED = "stopped where rounding errors, or the voxels taken for outliers, allow no better estimate"
    STOPPED = "stopped on request: this is the estimate so far"
    DIVERGED = "failed: its numbers grew without bound, and the last finite estimate is returned"
    UNCHANGED = "was not needed: all measured values are equal"
    NOT_RECOVERED = "was not possible for some of the stacks: they are NaN in the result, and the notes say why"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, kw_only=True)
class IterationRecord:
    """One iteration, measured on observed entries only.

    Attributes
    ----------
    iteration : int
        Counted from 1 through all stages of a run.
    stage : str
        Method that made the step: ``"admm"``, ``"polish"``, ``"em"``, ``"local"``.
    change : float
        ``||X_new - X|| / ||X_new||``, taken from cores and factors.
    residual : float
        ``||P_Omega(Y - X - E)|| / ||P_Omega(Y)||`` of the model *before* the step (of the
        extrapolated one, where a method extrapolates).
    outliers : int
        Number of entries in the sparse part ``E``.
    threshold : float
        Outlier threshold in the data's unit (0 where the method has none).
    seconds : float
        Wall time since the start without the time spent in callbacks.
    """

    iteration: int
    stage: str
    change: float
    residual: float
    outliers: int
    threshold: float
    seconds: float


class SparsePart(NamedTuple):
    """Outliers in coordinate form: positions in the flattened (C order) tensor and values, both 1-D."""

    positions: Array
    values: Array


@dataclass(frozen=True, kw_only=True)
class CompletionResult:
    """Completed tensor with its factors, its sparse part and its history.

    Attributes
    ----------
    tucker : tensorly.tucker_tensor.TuckerTensor
        Core ``(r_1, ..., r_k)`` and factors ``(I_n, r_n)`` with orthonormal columns, in the data's dtype and namespace.
    sparse : SparsePart
        Outliers in coordinate form.
    status : Status
        How the run ended.
    history : tuple of IterationRecord
        One record an iteration.
    state : NamedTuple
        All that is needed to go on: pass it as ``initial_state``.
    nonnegative : bool
        Whether ``value`` is projected on ``X >= 0``.
    """

    tucker: TuckerTensor
    sparse: SparsePart
    status: Status
    history: tuple[IterationRecord, ...]
    state: Any
    nonnegative: bool = False

    @property
    def rank(self) -> tuple[int, ...]:
        """Multilinear rank of the model."""
        return tuple(self.tucker.core.shape)

    @property
    def iterations(self) -> int:
        """Number of iterations made in this call."""
        return len(self.history)

    @cached_property
    def value(self) -> Array:
        """The full tensor ``X`` (computed when first asked for, then kept)."""
        core, factors = self.tucker
        value = tucker_to_dense(core, factors)
        return clip(value, 0.0, None) if self.nonnegative else value

    @property
    def outliers(self) -> Array:
        """The sparse part ``E`` as a full tensor, zero where nothing was flagged (made anew at each access)."""
        shape = tuple(factor.shape[0] for factor in self.tucker.factors)
        dense = scatter(math.prod(shape), *self.sparse)
        return namespace_of(dense).reshape(dense, shape)


def tucker_tensor(core: Array, factors: Any, dtype: Any) -> TuckerTensor:
    """TensorLy's Tucker tensor in the wanted dtype."""
    from tensorly.tucker_tensor import TuckerTensor

    xp = namespace_of(core)
    return TuckerTensor((xp.astype(core, dtype), [xp.astype(factor, dtype) for factor in factors]))
