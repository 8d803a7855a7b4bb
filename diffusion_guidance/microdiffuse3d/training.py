"""Fits of the autoencoder, the first estimate, the network and the decoder to volumes."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy.typing as npt
import torch
from torch import Tensor

from tensorcell.diffusion_guidance.compute import Compute, process
from tensorcell.diffusion_guidance.microdiffuse3d.autoencoder import SliceAutoencoder
from tensorcell.diffusion_guidance.microdiffuse3d.data import Example, Pieces, Source, Sources, normalised, split
from tensorcell.diffusion_guidance.microdiffuse3d.first_estimate import FirstEstimate
from tensorcell.diffusion_guidance.microdiffuse3d.images import ImageEncoder
from tensorcell.diffusion_guidance.microdiffuse3d.model import MicroDiffuse3D
from tensorcell.diffusion_guidance.microdiffuse3d.objective import (
    FlowBatch,
    Objective,
    PixelBatch,
    estimate_loss,
    pixel_loss,
    prediction_loss,
)
from tensorcell.diffusion_guidance.microdiffuse3d.refinement import RefinementDecoder
from tensorcell.diffusion_guidance.microdiffuse3d.restoration import STEPS
from tensorcell.diffusion_guidance.networks import channels_last
from tensorcell.diffusion_guidance.training_loop import TrainingState, run_training

TEST_BATCHES = 4
"""Held-out batches whose loss decides which weights are kept."""

SEEDS_APART = 1_000_003
"""Between the seeds of two processes that share a fit."""

UNTOLD = 0.1
"""Share of the batches in which the network is not told the features of an image encoder."""

SLICE_BATCH = 16
"""Slices in a batch of the autoencoder."""


class Fit(NamedTuple):
    """A fitted network, and ``steps``, ``seconds``, ``heldout`` and ``ended`` of the fit."""

    network: Any
    report: dict[str, Any]


def fit_autoencoder(
    volumes: Sequence[npt.ArrayLike], autoencoder: SliceAutoencoder, *, side: int = 64, seed: int = 0,
    resume: str | Path | None = None, **budget: Any,
) -> Fit:  # fmt: skip
    """Fit an autoencoder to the slices of volumes, and bring its latents to unit variance.

    Parameters
    ----------
    volumes : sequence of arrays ``(D, H, W)``
        In any unit; normalised one by one.
    autoencoder : SliceAutoencoder
        Fitted from its weights on.
    side : int
        Side of the square pieces of slices, in pixels.
    seed : int
    resume : folder, optional
        That an earlier fit kept: it goes on as if it had not stopped.
    budget
        ``steps``, ``seconds``, ``progress`` and ``keep`` of
        :func:`tensorcell.diffusion_guidance.training_loop.run_training`, and ``compute``, a
        :class:`tensorcell.diffusion_guidance.compute.Compute` (default: this CPU in float32).
    """
    train, held = split(normalised(volumes), (1, side, side))
    latent = (SLICE_BATCH, autoencoder.channels, side // autoencoder.scale, side // autoencoder.scale)

    def draw(generator: torch.Generator, pieces: Pieces = train) -> tuple[Tensor, Tensor]:
        (slices,), _ = pieces.draw(SLICE_BATCH, generator)
        return slices[:, :, 0], torch.randn(latent, generator=generator)

    configuration = {"autoencoder": {key: _plain(value) for key, value in autoencoder.slices.config.items()}}
    fit = run_fit(
        autoencoder, lambda network, batch: network.loss(*batch), draw, lambda g: draw(g, held), configuration, seed,
        resume, budget,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    fit.network.set_scaling(draw(generator)[0] for _ in range(TEST_BATCHES))
    return fit


def fit_first_estimate(
    data: Sources, estimate: FirstEstimate, *, batch: int = 2, seed: int = 0, resume: str | Path | None = None,
    **budget: Any,
) -> Fit:  # fmt: skip
    """Fit the first estimate, by its mean squared error.

    The arguments are those of :func:`fit_network`.
    """

    def draw(generator: torch.Generator, source: Source = data.train) -> Example:
        return source(batch, generator)

    return run_fit(
        estimate, estimate_loss, draw, lambda g: draw(g, data.held), {"estimate": estimate.sizes}, seed, resume, budget
    )


class Told(NamedTuple):
    """What network and decoder are told of measured planes: these, or their first estimate."""

    planes: Tensor
    """``(B, 1, d, H, W)``, for the network."""
    volume: Tensor
    """The same, or ``(B, 1, D, H, W)``, for the decoder."""


def told(measured: Tensor, estimate: FirstEstimate | None) -> Told:
    """Of an estimate the network is told the planes that were measured: it knows the others as well from these."""
    if estimate is None:
        return Told(measured, measured)
    with torch.no_grad():
        volume: Tensor = estimate(measured)
    return Told(volume[:, :, :: estimate.axial_factor], volume)


def fit_network(
    data: Sources, network: MicroDiffuse3D, autoencoder: SliceAutoencoder, *, images: ImageEncoder | None = None,
    estimate: FirstEstimate | None = None, batch: int = 2, objective: Objective = "flow", seed: int = 0,
    resume: str | Path | None = None, **budget: Any,
) -> Fit:  # fmt: skip
    """Fit the network to restore low-resolution volumes.

    Parameters
    ----------
    data : Sources
        Their depths are in one of the network's depth ratios, their sides multiples of the pixels of a token.
    network : MicroDiffuse3D
        Fitted from its weights on: a new one, a published one, or one that was pretrained.
    autoencoder : SliceAutoencoder
        Frozen.
    images : ImageEncoder, optional
        Frozen. The network is told its features of the low-resolution slices (in nine of ten batches, so that it works
        without, too) if it was built for them; its tokens are aligned with those of the truth if it has a projector.
    estimate : FirstEstimate, optional
        Frozen. The network is told its estimate in place of the low-resolution volume.
    batch : int
        Examples in a batch.
    objective : {"flow", "eps"}
    seed, resume, budget
        As for :func:`fit_autoencoder`.
    """

    device = device_of(budget, autoencoder, images, estimate)

    def draw(generator: torch.Generator, source: Source = data.train) -> FlowBatch:
        volume, truth = source(batch, generator)
        volume = told(volume.to(device), estimate).planes
        with torch.no_grad():
            latent = autoencoder.encode(truth.to(device)).drawn(generator)
        noise = torch.randn(latent.shape, generator=generator)
        time, dropped = torch.rand(batch, generator=generator), bool(torch.rand((), generator=generator) < UNTOLD)
        features = images(volume) if images is not None and network.images is not None and not dropped else None
        aligned = images(truth.to(device)) if images is not None and network.alignment is not None else None
        return FlowBatch(latent, noise, time, volume, features, aligned)

    configuration = {"network": asdict(network.config), "objective": objective}
    return run_fit(
        network, lambda module, each: prediction_loss(module, each, objective), draw, lambda g: draw(g, data.held),
        configuration, seed, resume, budget,
    )  # fmt: skip


def fit_few_steps(
    data: Sources, network: MicroDiffuse3D, autoencoder: SliceAutoencoder, *, estimate: FirstEstimate | None = None,
    teacher_steps: int = 20, batch: int = 2, seed: int = 0, resume: str | Path | None = None, **budget: Any,
) -> Fit:  # fmt: skip
    """Fit a network that restores in few steps what `network` restores in many.

    Noise and the latent to which the network's own flow leads from it are pairs on straight paths: few steps follow
    them (X. Liu et al., Flow straight and fast, arXiv:2209.03003, Algorithm 1).

    Parameters
    ----------
    network : MicroDiffuse3D
        The teacher, of objective "flow". It is not changed.
    teacher_steps : int
        Of Euler's method.
    data, autoencoder, estimate, batch, seed, resume, budget
        As for :func:`fit_network`.
    """
    teacher = deepcopy(network).eval().requires_grad_(False)
    device = device_of(budget, autoencoder, teacher, estimate)

    def draw(generator: torch.Generator, source: Source = data.train) -> FlowBatch:
        volume, truth = source(batch, generator)
        volume, noise = told(volume.to(device), estimate).planes, noise_of(truth, autoencoder, generator)
        latent = flow_endpoint(teacher, noise.to(device), volume, teacher_steps)
        return FlowBatch(latent, noise, torch.rand(batch, generator=generator), volume)

    configuration = {"network": asdict(network.config), "teacher_steps": teacher_steps}
    return run_fit(
        deepcopy(network), prediction_loss, draw, lambda g: draw(g, data.held), configuration, seed, resume, budget
    )


def noise_of(truth: Tensor, autoencoder: SliceAutoencoder, generator: torch.Generator) -> Tensor:
    """Noise of the shape of the latents of volumes, ``(B, D, C, h, w)``."""
    batch, _, depth, *sides = truth.shape
    height, width = (side // autoencoder.scale for side in sides)
    return torch.randn((batch, depth, autoencoder.channels, height, width), generator=generator)


@torch.no_grad()
def flow_endpoint(network: MicroDiffuse3D, noise: Tensor, volume: Tensor, steps: int) -> Tensor:
    """The latent to which the flow leads from noise, by Euler's method from time 1 to 0."""
    condition, latent = network.condition(volume, noise.shape[1]), noise
    for step in range(steps):
        time = torch.full((len(noise),), 1 - step / steps, device=noise.device)
        latent = latent - network.velocity(latent, time, None, condition) / steps
    return latent


def fit_decoder(
    data: Sources, decoder: RefinementDecoder, autoencoder: SliceAutoencoder, *,
    network: MicroDiffuse3D | None = None, estimate: FirstEstimate | None = None, batch: int = 2, seed: int = 0,
    resume: str | Path | None = None, **budget: Any,
) -> Fit:  # fmt: skip
    """Fit the refinement decoder; chosen at held-out examples.

    Parameters
    ----------
    network : MicroDiffuse3D, optional
        Frozen, of objective "flow". The decoder is shown the latents to which it leads, as when a scan is restored:
        with those of the truth, the default, it would trust them too far.
    data, autoencoder, estimate, batch, seed, resume, budget
        As for :func:`fit_network`.
    """
    device = device_of(budget, autoencoder, network, estimate)

    def draw(generator: torch.Generator, source: Source = data.train) -> PixelBatch:
        volume, truth = source(batch, generator)
        planes, volume = told(volume.to(device), estimate)
        with torch.no_grad():
            if network is None:
                latent = autoencoder.encode(truth.to(device)).drawn(generator)
            else:
                noise = noise_of(truth, autoencoder, generator)
                latent = flow_endpoint(network, noise.to(device), planes, STEPS)
        return PixelBatch(volume, latent.transpose(1, 2), truth)

    return run_fit(
        decoder, pixel_loss, draw, lambda g: draw(g, data.held), {"decoder": str(decoder)}, seed, resume, budget
    )


def device_of(budget: dict[str, Any], *frozen: torch.nn.Module | None) -> torch.device:
    """The device of a fit, to which the networks that stay as they are are moved."""
    device: torch.device = budget.get("compute", Compute()).device
    for module in frozen:
        if module is not None:
            module.to(device)
    return device


def run_fit(
    network: Any, loss: Any, draw: Any, look: Any, configuration: dict[str, Any], seed: int,
    resume: str | Path | None, budget: dict[str, Any],
) -> Fit:  # fmt: skip
    """Fit a network to batches ``draw(generator)``; the weights with the least loss at ``look(generator)`` are kept.

    Of several processes each draws batches of its own; all have the same weights, and the first one keeps the state.
    """
    compute = budget.pop("compute", Compute())
    state = TrainingState.of(channels_last(network.to(compute.device)).train(), loss, seed, configuration)
    state.compute = compute
    if resume is not None:
        state = state.resumed(resume)
    own = process()
    if own.number:
        state.generator.manual_seed(seed + SEEDS_APART * own.number + state.step)
        budget["keep"] = None
    test = [look(torch.Generator().manual_seed(seed + 1 + n)) for n in range(TEST_BATCHES)]
    return Fit(state.best.cpu(), run_training(state, draw, test, **budget))


def _plain(value: Any) -> Any:
    """The value as JSON knows it."""
    return list(value) if isinstance(value, tuple) else value
