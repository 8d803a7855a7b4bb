"""Stacks as a method of `recover` is given them, quick to make: noise and rank are known."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorcell.fitting import Fitting, TuckerOptions
from tensorcell.methods.protocol import Problem
from tensorcell.model import model_of
from tensorcell.plane_grid import PlaneGrid
from tensorcell.solvers import LocalOptions
from tensorcell.solvers.defects import Kind
from tensorcell.solvers.optics import Width
from tensorcell.solvers.outliers import Outliers
from tensorcell.stack import GivenStack, given_stack, measured_stack

SIGMA = 0.3
"""Standard deviation of the noise of :func:`waves`."""


def waves(share_seen: float = 1.0, seed: int = 0, planes: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Smooth truth of about 10, with noise, and a mask: all float64 or bool, ``(planes, 32, 32)``."""
    rng = np.random.default_rng(seed)
    z, y, x = np.mgrid[:planes, :32, :32]
    truth = 10 + 2 * np.sin(y / 5 + z / 9) + 2 * np.cos(x / 4 - z / 7) + np.sin(x * y / 60)
    return truth, truth + SIGMA * rng.standard_normal(truth.shape), rng.random(truth.shape) < share_seen


def outliers_at(positions: np.ndarray) -> Outliers:
    """Single dark voxels at these flat positions, one unit off the model."""
    kinds = np.full(len(positions), Kind.DARK, np.uint8)
    return Outliers(positions, kinds, 0, Width((np.nan,) * 3), values=np.ones(len(positions)))


def given(data: np.ndarray, mask: np.ndarray) -> GivenStack:
    """The stack, checked."""
    return given_stack(data, mask)


def problem_of(
    data: np.ndarray, mask: np.ndarray, *, keep: bool = True, noise: float = SIGMA, rank: Any = (2, 3, 3), **more: Any
) -> Problem:
    """The stack with its model; `more` are fields of `Problem`."""
    stack = measured_stack(given(data, mask))
    fitting = Fitting()
    fields: dict[str, Any] = {
        "stack": stack,
        "model": model_of(stack.values, stack.mask, fitting, noise=noise, rank=rank),
        "keep": keep,
        "fitting": fitting,
        "noise": noise,
        "grid": PlaneGrid(stack.given_planes),
        "label": "",
        "options": {TuckerOptions: TuckerOptions(), LocalOptions: LocalOptions(sweeps=3)},
    }
    return Problem(**{**fields, **more})
