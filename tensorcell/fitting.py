"""The global robust Tucker fit: its options, the device on which it runs, and its arrays on the host."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorcell.device import on_device
from tensorcell.solvers import CompletionResult, IterationRecord, complete_tucker

Array = npt.NDArray[Any]
Callback = Callable[[IterationRecord, Any], bool | None]
"""Called after every iteration; returning True stops the fit."""


@dataclass(frozen=True, kw_only=True)
class TuckerOptions:
    """Options of the global fit, passed to :func:`tensorcell.recover` by name.

    Attributes
    ----------
    robust : bool
        Look for outliers.
    tolerance : float
        Relative change of the model at which the fit ends.
    max_iterations : int
        Largest number of Gauss-Newton steps after the first sweeps.
    neighbours : bool
        Carry the residual that neighbours share into the gaps; False gives the bare low-rank model there.
    """

    robust: bool = field(default=True, metadata={"help": "Look for outliers."})
    tolerance: float = field(default=1e-2, metadata={"help": "Relative change of the global model that ends its fit."})
    max_iterations: int = field(default=5, metadata={"help": "Largest number of Gauss-Newton steps of the global fit."})
    neighbours: bool = field(
        default=True, metadata={"help": "Carry the residual of the global model that neighbours share into the gaps."}
    )

    def __post_init__(self) -> None:
        for name in ("robust", "neighbours"):
            if not isinstance(getattr(self, name), bool | np.bool_):
                raise ValueError(f"expected True or False as {name}, got {getattr(self, name)!r}")
        tolerance, most = self.tolerance, self.max_iterations
        if not isinstance(tolerance, Real) or isinstance(tolerance, bool) or not tolerance > 0:
            raise ValueError(f"expected a positive tolerance, got {tolerance!r}")
        if not isinstance(most, Integral) or isinstance(most, bool) or most < 1:
            raise ValueError(f"expected a whole number of at least 1 as max_iterations, got {most!r}")


@dataclass(frozen=True, kw_only=True)
class Fitting:
    """The settings of a fit; calling the object fits a stack.

    Attributes
    ----------
    options : TuckerOptions
    nonnegative : bool
        Constrain the model to ``X >= 0``.
    device : {"cpu", "cuda"} or a string as "cuda:1"
    seed : int
    callback : callable or None
    """

    options: TuckerOptions = field(default_factory=TuckerOptions)
    nonnegative: bool = False
    device: str = "cpu"
    seed: int = 0
    callback: Callback | None = None

    def __call__(self, stack: Any, mask: Any, rank: Sequence[int]) -> CompletionResult:
        """Fit a stack ``(Z, Y, X)`` where the mask is True, both on the host or on the device.

        The result's arrays are on the host.
        """
        found = self._fitted(on_device(stack, self.device), on_device(mask, self.device), rank)
        return found if self.device == "cpu" else on_host(found, stack.dtype)

    def _fitted(self, stack: Any, mask: Any, rank: Sequence[int]) -> CompletionResult:
        return complete_tucker(
            stack,
            mask,
            tuple(rank),
            robust=bool(self.options.robust),
            tolerance=float(self.options.tolerance),
            max_iterations=int(self.options.max_iterations),
            nonnegative=self.nonnegative,
            callback=self.callback,
            seed=self.seed,
        )

    def quick(self) -> Fitting:
        """The same fit for trials on blocks: two steps, without the callback, on the CPU.

        A fit launches some ten thousand kernels, however small the block: on a GPU it would take longer.
        """
        options = dataclasses.replace(self.options, tolerance=max(1e-2, self.options.tolerance), max_iterations=2)
        return dataclasses.replace(self, options=options, callback=None, device="cpu")


def on_host(result: CompletionResult, dtype: Any) -> CompletionResult:
    """The result with its arrays on the host, without the state from which a fit could be resumed."""
    from tensorcell.solvers.arrays import to_host
    from tensorcell.solvers.results import SparsePart, tucker_tensor

    core, factors = result.tucker
    return CompletionResult(
        tucker=tucker_tensor(to_host(core), [to_host(factor) for factor in factors], dtype),
        sparse=SparsePart(*(to_host(part) for part in result.sparse)),
        status=result.status,
        history=result.history,
        state=None,
        nonnegative=result.nonnegative,
    )
