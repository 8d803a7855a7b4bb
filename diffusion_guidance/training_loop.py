"""The loop of a fit: its state, which can be saved and resumed, its steps, and the looks at held-out pieces."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tensorcell.diffusion_guidance.batches import denoising_loss
from tensorcell.diffusion_guidance.compute import Compute, average_gradients, mean_of_all, together
from tensorcell.diffusion_guidance.interrupts import interrupts_wait
from tensorcell.diffusion_guidance.networks import SliceNetwork, SliceNetworkConfig, without_denormals
from tensorcell.diffusion_guidance.priors import (
    fill_network,
    read_json,
    read_safetensors,
    write_json,
    write_weights,
)

Progress = Callable[[int, int, float, float], bool | None]
"""``progress(step, steps, loss, heldout)``; True stops the fit."""

LEARNING_RATE, WARM_UP = 1e-3, 20
"""Highest learning rate, and the steps in which it is reached."""

CHECK_EVERY, PATIENCE = 25, 20
"""Steps between two looks at held-out pieces, and the looks without a better one after which the fit ends."""

SAVE_EVERY = 60.0
"""Seconds after which the state of a fit is written again, so that little is lost where the process is killed."""

STOPPED = "stopped by the caller"
"""Why a fit ended that a callback stopped."""


@dataclass
class TrainingState:
    """All that is needed to go on after an interruption as if there had been none.

    Attributes
    ----------
    network, average, best : module
        The network that is fitted, the running average of its weights, and the average with the least held-out loss.
    optimiser : AdamW
    generator : torch.Generator
        Draws the pieces, levels and noise.
    loss : callable ``(network, batch) -> tensor``
        What is minimised; all that is random in it is drawn with the batch.
    configuration : dict
        What the networks were made from, as JSON.
    compute : Compute
        Device and precision.
    step : int
        Number of steps done.
    best_loss : float
        Held-out loss of `best`.
    since_best : int
        Looks at held-out pieces since `best` was found.
    """

    network: Any
    average: Any
    best: Any
    optimiser: torch.optim.AdamW
    generator: torch.Generator
    loss: Callable[[Any, Any], Tensor]
    configuration: dict[str, Any]
    compute: Compute = field(default_factory=Compute)
    step: int = 0
    best_loss: float = math.inf
    since_best: int = 0

    @classmethod
    def begin(
        cls, config: SliceNetworkConfig, seed: int, weights: dict[str, Tensor] | None = None,
        compute: Compute | None = None,
    ) -> TrainingState:  # fmt: skip
        """A state before the first step, with fresh weights or those of another prior."""
        compute = compute or Compute()
        network = SliceNetwork(config, seed=seed).to(compute.device)
        if weights is not None:
            fill_network(network, weights, "initial")
        state = cls.of(network, lambda network, batch: denoising_loss(network, batch), seed, config.to_dict())
        state.compute = compute
        return state

    @classmethod
    def of(
        cls, network: nn.Module, loss: Callable[[Any, Any], Tensor], seed: int, configuration: dict[str, Any]
    ) -> TrainingState:
        """A state before the first step of any network, which is fitted from its weights on."""
        average, best = (deepcopy(network).requires_grad_(False) for _ in range(2))
        optimiser = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=1e-4)
        generator = torch.Generator().manual_seed(seed)
        return cls(network, average, best, optimiser, generator, loss, configuration)

    def save(self, folder: str | Path) -> None:
        """Write the state to a folder, as safetensors and JSON.

        The safetensors hold all that a fit goes on from, so that a process that is killed leaves this state or the one
        before it; the JSON says what they are the weights of.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        counted = torch.tensor([self.step, self.best_loss, self.since_best], dtype=torch.float64, device="cpu")
        tensors = {"generator": self.generator.get_state(), "counted": counted}
        for name in ("network", "average", "best"):
            tensors |= {f"{name}/{key}": value for key, value in getattr(self, name).state_dict().items()}
        for index, moments in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser/{index}/{key}": value for key, value in moments.items()}
        write_weights(tensors, folder / "training_state.safetensors")
        numbers = {"step": self.step, "best_loss": self.best_loss, "since_best": self.since_best}
        write_json({"network": self.configuration, **numbers}, folder / "training_state.json")

    @classmethod
    def load(cls, folder: str | Path, compute: Compute | None = None) -> TrainingState:
        """Read what :meth:`save` wrote of the fit of a :class:`SliceNetwork`."""
        numbers = read_json(Path(folder) / "training_state.json")
        return cls.begin(SliceNetworkConfig(**numbers["network"]), seed=0, compute=compute).resumed(folder)

    def resumed(self, folder: str | Path) -> TrainingState:
        """This state as it was when :meth:`save` wrote it; its networks must be of the sizes that were saved.

        Raises
        ------
        ValueError
            If they are not.
        """
        there = read_json(Path(folder) / "training_state.json")["network"]
        if there != json.loads(json.dumps(self.configuration)):
            names = sorted({*there, *self.configuration})
            changed = ", ".join(name for name in names if there.get(name) != self.configuration.get(name))
            raise ValueError(f"{folder} holds the fit of another network: {changed} differ")
        tensors = read_safetensors(Path(folder) / "training_state.safetensors")
        grouped: dict[str, dict[str, Any]] = {}
        for name, value in tensors.items():
            group, _, rest = name.partition("/")
            grouped.setdefault(group, {})[rest] = value
        for name in ("network", "average", "best"):
            fill_network(getattr(self, name), grouped.get(name, {}), f"{folder}: {name}")
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in grouped.get("optimiser", {}).items():
            index, _, key = name.partition("/")
            moments.setdefault(int(index), {})[key] = value
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": moments})
        self.generator.set_state(grouped["generator"][""])
        step, self.best_loss, since_best = grouped["counted"][""].tolist()
        self.step, self.since_best = int(step), int(since_best)
        return self

    def advance(self, batch: Any, rate: float) -> float:
        """One step of AdamW, and of the running average of the weights; returns the loss.

        Where the loss or its gradient is not finite nothing changes, and the value returned is NaN or infinite.
        """
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad()
        loss = self.compute.loss(self.loss, self.network, batch)
        value = mean_of_all(float(loss.detach()))
        if not math.isfinite(value):
            return value
        loss.backward()  # type: ignore[no-untyped-call]
        average_gradients(self.network)
        if not torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0).isfinite():
            return math.nan
        self.optimiser.step()
        self.step += 1
        share = 1 / (10 + 0.05 * self.step)  # averages over the last twentieth of the run
        with torch.no_grad():
            for slow, fast in zip(self.average.parameters(), self.network.parameters(), strict=True):
                slow.lerp_(fast, share)
        return value


def run_training(
    state: TrainingState,
    draw: Callable[[torch.Generator], Any],
    test: Sequence[Any],
    *,
    seconds: float | None = None,
    steps: int | None = None,
    progress: Progress | None = None,
    keep: str | Path | None = None,
) -> dict[str, Any]:
    """Fit the state's network to batches; afterwards ``state.best`` holds the averaged weights with the least loss.

    Parameters
    ----------
    state : TrainingState
        Advanced in place.
    draw : callable
        A new batch, of which the state knows the loss, from the state's generator.
    test : sequence of batches
        Held-out pieces, at which the loss is looked every ``CHECK_EVERY`` steps.
    seconds, steps, progress, keep
        As in :func:`tensorcell.diffusion_guidance.training.fit_lateral_prior`.

    Returns
    -------
    dict
        ``steps``, ``seconds``, ``heldout`` (the least held-out loss), ``ended`` (why).

    Raises
    ------
    ValueError
        If the loss is not finite before there was any good state.
    """
    if seconds is not None and together():
        raise ValueError("several processes need a number of steps in place of a time, so that all end together")
    saved = time.perf_counter()
    total = steps if steps is not None else (10**9 if seconds is not None else 1500)
    began, ended, heldout = time.perf_counter(), "all steps done", math.nan
    try:
        with without_denormals():
            while state.step < total:
                elapsed = (time.perf_counter() - began) / seconds if seconds is not None else 0.0
                if elapsed >= 1:
                    ended = "time is up"
                    break
                done = max(state.step / total, elapsed)
                rate = LEARNING_RATE * min(1.0, (state.step + 1) / WARM_UP) * (0.5 + 0.5 * math.cos(math.pi * done))
                with interrupts_wait():
                    loss = state.advance(draw(state.generator), rate)
                    if not math.isfinite(loss):
                        if not math.isfinite(state.best_loss):
                            raise ValueError(f"the loss must be finite, got {loss} at step {state.step + 1}")
                        ended = f"the loss was not finite at step {state.step + 1}: last good state kept"
                        break
                    if state.step % CHECK_EVERY == 0 or state.step == total:
                        heldout = _look(state, test)
                    known = elapsed == 0 or steps is not None
                    expected = total if known else max(state.step, round(state.step / elapsed))
                    # A step is told before it is kept, so that what a caller writes down has every step that was kept.
                    stopped = progress is not None and progress(state.step, expected, loss, heldout)
                    if state.since_best >= PATIENCE:
                        ended = "held-out loss no longer falls"
                        break
                    if stopped:
                        ended = STOPPED
                        break
                if keep is not None and time.perf_counter() - saved > SAVE_EVERY:
                    state.save(keep)
                    saved = time.perf_counter()
    finally:
        if keep is not None:
            state.save(keep)
    if not math.isfinite(state.best_loss):
        _look(state, test)
    state.best.eval()
    seconds_taken = round(time.perf_counter() - began, 1)
    return {"steps": state.step, "seconds": seconds_taken, "heldout": state.best_loss, "ended": ended}


def _look(state: TrainingState, test: Sequence[Any]) -> float:
    """Held-out loss of the averaged weights, which become the best ones where it is the least so far."""
    with torch.inference_mode():
        heldout = float(np.mean([float(state.compute.loss(state.loss, state.average, batch)) for batch in test]))
    state.since_best += 1
    if heldout < state.best_loss:
        state.best.load_state_dict(state.average.state_dict())
        state.best_loss, state.since_best = heldout, 0
    return heldout
