"""Tensor algebra: ours beside TensorLy's."""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks.measure import BACKENDS, finish, fix_threads, on_backend
from benchmarks.problems import some, volume_shape

SHAPES = {"100x100x100, rank 5": ((100, 100, 100), 5), "64x256x256, rank 30": ((64, 256, 256), 30)}


def algebra(library: str) -> SimpleNamespace:
    """The same three functions from either library."""
    module = importlib.import_module("tensorcell.solvers" if library == "tensorcell" else "tensorly")
    if library == "tensorcell":
        return SimpleNamespace(
            unfold=module.unfold, mode_product=module.mode_product, contract=module.multi_mode_product
        )
    tenalg = importlib.import_module("tensorly.tenalg")
    return SimpleNamespace(unfold=module.unfold, mode_product=tenalg.mode_dot, contract=tenalg.multi_mode_dot)


class Algebra:
    """Unfolding, one mode product, and the contraction with all factors."""

    params = (
        some(["tensorcell", "tensorly"]),
        some(list(SHAPES)),
        some([0, 1, 2]),
        some(["float32", "float64"]),
        some(BACKENDS),
    )
    param_names = ("library", "size", "mode", "dtype", "backend")

    def setup(self, library: str, size: str, mode: int, dtype: str, backend: str) -> None:
        if library == "tensorly" and backend != "numpy":
            raise NotImplementedError("TensorLy's backend is a global switch, which is left alone")
        fix_threads(2)
        rng = np.random.default_rng(0)
        shape, rank = SHAPES[size]
        shape = volume_shape(shape)
        host = [rng.random(shape).astype(dtype), *(rng.random((min(rank, side), side)).astype(dtype) for side in shape)]
        self.tensor, *self.factors = on_backend(backend, *host)
        self.library, self.mode, self.backend = algebra(library), mode, backend
        self.time_contract_all()  # warm

    def time_unfold(self, *_: Any) -> None:
        self.library.unfold(self.tensor, self.mode).copy()
        finish(self.backend)

    def time_mode_product(self, *_: Any) -> None:
        self.library.mode_product(self.tensor, self.factors[self.mode], self.mode)
        finish(self.backend)

    def time_contract_all(self, *_: Any) -> None:
        self.library.contract(self.tensor, self.factors)
        finish(self.backend)

    def peakmem_setup(self, *_: Any) -> None:
        """Baseline for the next one."""

    def peakmem_contract_all(self, *_: Any) -> None:
        self.library.contract(self.tensor, self.factors)
