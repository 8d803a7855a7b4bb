"""The loop of the samplers: the state to resume from, the start, the steps, and what is made of their result."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor

from tensorcell.diffusion_guidance.methods import ITERATIVE, Method
from tensorcell.diffusion_guidance.posterior_means import combine_estimates, sample_std
from tensorcell.diffusion_guidance.steps import Draw, Measurement, Moved

Callback = Callable[[int, int, Tensor], bool | None]
Advance = Callable[[Tensor, tuple[Tensor, ...], float, float], Moved]

KEPT_LEVELS = (3.0, 1.0, 0.3, 0.1)
"""Levels at which estimates of x0 are set aside for the mean."""


class SamplerState(NamedTuple):
    """All that is needed to go on: pass it back as ``start`` with the other arguments unchanged.

    Attributes
    ----------
    x : tensor ``(K, C, *space)``
        The state before step ``step``.
    step : int
    generator : tensor of bytes
        The state of the random number generator.
    duals : tuple of tensors
        The other variables of the method.
    kept : tuple of tensors
        Estimates of x0 that are set aside for the mean.
    last : tensor or None
        The newest estimate of x0.
    """

    x: Tensor
    step: int
    generator: Tensor
    duals: tuple[Tensor, ...] = ()
    kept: tuple[Tensor, ...] = ()
    last: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Samples:
    """What a sampler returns.

    Attributes
    ----------
    samples : tensor ``(K, C, *space)``
        The samples; the last estimates of x0 where a callback stopped early.
    mean : tensor ``(C, *space)``
        Estimate of the posterior's mean by :func:`~tensorcell.diffusion_guidance.posterior_means.combine_estimates`.
    std : tensor ``(C, *space)`` or None
        Standard deviation of the samples, unbiased in the variance; None with one sample.
    steps : int
        Number of steps done.
    weights : tuple of float
        Weights of the estimates in ``mean``.
    state : SamplerState
        The state to resume from.
    """

    samples: Tensor
    mean: Tensor
    std: Tensor | None
    steps: int
    weights: tuple[float, ...]
    state: SamplerState


class SamplingDivergedError(ArithmeticError):
    """A step gave values that are not finite; ``state`` is the one before that step."""

    def __init__(self, message: str, state: SamplerState) -> None:
        super().__init__(message)
        self.state = state


class SamplingInterrupted(KeyboardInterrupt):
    """Ctrl-C was pressed; ``state`` is the one after the last whole step."""

    def __init__(self, message: str, state: SamplerState) -> None:
        super().__init__(message)
        self.state = state


def march(
    advance: Advance, state: SamplerState, levels: list[float], generator: torch.Generator,
    callback: Callback | None, *, kept: bool,
) -> SamplerState:  # fmt: skip
    """Do the steps that are left, setting estimates aside at some levels where ``kept``."""
    steps = len(levels) - 1
    marks = _kept_steps(levels) if kept else set()
    try:
        for step in range(state.step, steps):
            moved = advance(state.x, state.duals, levels[step], levels[step + 1])
            if not bool(torch.isfinite(moved.x).all()):
                message = f"step {step + 1} of {steps} (level {levels[step]:.3g}) gave values that are not finite"
                raise SamplingDivergedError(message, state)
            stored = (*state.kept, moved.estimate) if step in marks else state.kept
            state = SamplerState(moved.x, step + 1, generator.get_state(), moved.duals, stored, moved.estimate)
            if callback is not None and callback(step, steps, moved.estimate):
                break
    except KeyboardInterrupt as stop:
        raise SamplingInterrupted(f"interrupted after {state.step} of {steps} steps", state) from stop
    return state


def started(
    start: Tensor | SamplerState | None, full: tuple[int, ...], levels: list[float], method: Method,
    measurement: Measurement | None, draw: Draw, generator: torch.Generator, dtype: torch.dtype, device: torch.device,
) -> SamplerState:  # fmt: skip
    """The state to begin with: the one to resume from, the one given, or one drawn at the first level."""
    if isinstance(start, SamplerState):
        if start.x.shape != full:
            raise ValueError(f"expected a state of shape {full} to resume from, got {tuple(start.x.shape)}")
        if not 0 <= start.step <= len(levels) - 1:
            raise ValueError(f"cannot resume before step {start.step + 1} of {len(levels) - 1}")
        generator.set_state(start.generator)
        return start
    if start is not None:
        if start.shape != full:
            raise ValueError(f"expected a start of shape {full}, got {tuple(start.shape)}")
        x = start.to(dtype=dtype, device=device)
    elif method in ITERATIVE:
        rough = draw(full) if method == "split_gibbs" else torch.zeros(full, dtype=dtype, device=device)
        x = cast(Measurement, measurement).prox(rough, 1.0)
    else:
        # The marginal of a prior of unit variance; a VP path starts with exactly this, 1 / alpha times white noise.
        x = math.sqrt(1 + levels[0] ** 2) * draw(full)
    return SamplerState(x, 0, generator.get_state())


def _kept_steps(levels: list[float]) -> set[int]:
    """The steps whose levels have the ratios nearest to 1 with those of ``KEPT_LEVELS``."""
    above = [(step, level) for step, level in enumerate(levels[:-1]) if level > 0]
    return {min(above, key=lambda pair: abs(math.log(pair[1] / wanted)))[0] for wanted in KEPT_LEVELS}


def result(state: SamplerState, levels: list[float], method: Method, antithetic: bool) -> Samples:
    """Samples, mean and standard deviation from the last state."""
    finished = state.step == len(levels) - 1
    drawn = state.x if finished or state.last is None or method in ITERATIVE else state.last
    clean = drawn if method in ITERATIVE or levels[-1] == 0 or state.last is None else state.last
    mean, weights = combine_estimates((*state.kept, clean), antithetic=antithetic)
    return Samples(drawn, mean, sample_std(drawn, antithetic), state.step, weights, state)
