"""Tensor algebra: ours beside TensorLy's."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import numpy as np

from benchmarks.measure import fix_threads

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
    """Unfolding, one mode product, and the contraction with all factors, float32."""

    params = (["tensorcell", "tensorly"], list(SHAPES), [0, 1, 2])
    param_names = ("library", "size", "mode")

    def setup(self, library: str, size: str, mode: int) -> None:
        fix_threads(2)
        rng = np.random.default_rng(0)
        shape, rank = SHAPES[size]
        self.library = algebra(library)
        self.tensor = rng.random(shape, np.float32)
        self.factors = [rng.random((rank, side), np.float32) for side in shape]
        self.time_contract_all(library, size, mode)  # warm

    def time_unfold(self, library: str, size: str, mode: int) -> None:
        np.ascontiguousarray(self.library.unfold(self.tensor, mode))

    def time_mode_product(self, library: str, size: str, mode: int) -> None:
        self.library.mode_product(self.tensor, self.factors[mode], mode)

    def time_contract_all(self, library: str, size: str, mode: int) -> None:
        self.library.contract(self.tensor, self.factors)

    def peakmem_setup(self, library: str, size: str, mode: int) -> None:
        """Baseline for the next one."""

    def peakmem_contract_all(self, library: str, size: str, mode: int) -> None:
        self.library.contract(self.tensor, self.factors)
