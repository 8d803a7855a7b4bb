"""What the network is trained to predict, and the losses of its parts."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

from torch import Tensor
from torch.nn import functional

from tensorcell.diffusion_guidance.microdiffuse3d.data import Example
from tensorcell.diffusion_guidance.microdiffuse3d.images import alignment_loss
from tensorcell.diffusion_guidance.paths import Path, linear_flow, variance_preserving

Objective = Literal["flow", "eps"]
"""``flow``: the velocity on the linear path (the published network); ``eps``: the noise on the variance-preserving path
(the paper's text)."""


ALIGNMENT = 0.5
"""Weight of the alignment in the loss (Yu et al., arXiv:2410.06940)."""


UNIT = 0.1
"""Of the intensities in the squared error. In this unit most gradients are longer than 1 and cut to 1, so that pieces
of high and low contrast count alike: after 300 steps the squared error of held-out pieces was 4 % less."""


class FlowBatch(NamedTuple):
    """Latents, the noise and the times at which they are shown, and the low-resolution volumes."""

    latent: Tensor
    """``(B, D, C, h, w)``."""
    noise: Tensor
    time: Tensor
    """``(B,)`` between 0 and 1."""
    volume: Tensor
    """``(B, 1, d, H, W)``."""
    features: Tensor | None = None
    """Of an image encoder, ``(B, d, n, F)``."""
    aligned: Tensor | None = None
    """Of the truth by an image encoder, ``(B, D, n, F)``: the network's tokens are aligned with them."""


def path_of(objective: Objective) -> Path:
    """The path on which an objective is defined.

    Raises
    ------
    ValueError
        If there is no such objective.
    """
    if objective == "flow":
        return linear_flow()
    if objective == "eps":
        return variance_preserving()
    raise ValueError(f"objective must be one of {', '.join(get_args(Objective))}, got {objective!r}")


def prediction_loss(network: Any, batch: FlowBatch, objective: Objective = "flow") -> Tensor:
    """Mean squared error of the predictions for a batch, and the alignment of tokens where the batch has features."""
    path, time = path_of(objective), batch.time.reshape(-1, 1, 1, 1, 1)
    shown = path.alpha(time) * batch.latent + path.sigma(time) * batch.noise
    target = batch.noise - batch.latent if objective == "flow" else batch.noise
    if batch.aligned is None:
        return functional.mse_loss(network(shown, batch.time, batch.features, batch.volume), target)
    condition = network.condition(batch.volume, shown.shape[1])
    found, projected = network.velocity_and_alignment(shown, batch.time, batch.features, condition)
    return functional.mse_loss(found, target) + ALIGNMENT * alignment_loss(projected, batch.aligned)


class PixelBatch(NamedTuple):
    """What the refinement decoder is shown, and what it is to return."""

    volume: Tensor
    latent: Tensor
    """``(B, C, D, h, w)``."""
    truth: Tensor
    """``(B, 1, D, H, W)``."""


def estimate_loss(estimate: Any, batch: Example) -> Tensor:
    """Mean squared error of the first estimate, in :data:`UNIT`: least for the mean of what may lie behind a scan."""
    return functional.mse_loss(estimate(batch.volume) / UNIT, batch.truth / UNIT)


def pixel_loss(decoder: Any, batch: PixelBatch) -> Tensor:
    """Mean absolute error of the decoder."""
    return functional.l1_loss(decoder(batch.volume, batch.latent), batch.truth)
