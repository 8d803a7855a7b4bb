"""Checked data and mask, with what the methods ask of them again and again."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from .arrays import Array, namespace_of
from .passes import chunks, observed_norm
from .subspaces import ResidualGrid, centred
from .tensors import planes_of

SINGLE_RANGE = 1e15


@dataclass(frozen=True, eq=False)
class Problem:
    """Data and mask that fit together (see :func:`checked_problem`), float32 or float64, in C order."""

    data: Array
    mask: Array

    @cached_property
    def norm(self) -> float:
        """``||P_Omega(Y)||``."""
        return observed_norm(self.data, self.mask)

    @cached_property
    def grid(self) -> ResidualGrid:
        """The subgrid on which the scale of a residual is estimated."""
        return ResidualGrid.of(self.data, self.mask)

    @cached_property
    def single(self) -> Problem:
        """The same in float32, zero where nothing was observed: for the work that needs six digits at most.

        Float32 data, and values that float32 cannot hold the squares of, stay as they are.
        """
        xp = namespace_of(self.data)
        if self.data.dtype == xp.float32 or not 1 / SINGLE_RANGE < self.norm < SINGLE_RANGE:
            return self
        y, w = planes_of(self.data), planes_of(self.mask)
        copy = xp.empty(y.shape, dtype=xp.float32)
        for part in chunks(self.data):
            copy[part, :, :] = xp.astype(centred(y, w, 0.0, None, 0, part), xp.float32)
        return Problem(xp.reshape(copy, self.data.shape), self.mask)
