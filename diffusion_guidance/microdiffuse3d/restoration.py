"""From a low-resolution volume to samples of the restored one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tensorcell.diffusion_guidance.methods import Method
from tensorcell.diffusion_guidance.microdiffuse3d.autoencoder import SliceAutoencoder
from tensorcell.diffusion_guidance.microdiffuse3d.model import MicroDiffuse3D
from tensorcell.diffusion_guidance.microdiffuse3d.objective import Objective, path_of
from tensorcell.diffusion_guidance.microdiffuse3d.refinement import RefinementDecoder
from tensorcell.diffusion_guidance.paths import denoiser
from tensorcell.diffusion_guidance.samplers import sample


class Parts(NamedTuple):
    """The networks that restore a volume."""

    network: MicroDiffuse3D
    autoencoder: SliceAutoencoder
    decoder: RefinementDecoder | None = None
    """Without it, the autoencoder decodes."""
    objective: Objective = "flow"


class Restored(NamedTuple):
    """Samples of restored volumes."""

    mean: Tensor
    """``(1, D, H, W)``: voxel by voxel."""
    deviation: Tensor
    """Standard deviation of the samples; 0 where there is one."""
    samples: Tensor
    """``(K, 1, D, H, W)``."""


def check_parts(parts: Parts) -> None:
    """Raise a ValueError unless all parts have the same latents."""
    config = parts.network.config
    others = {"autoencoder": (parts.autoencoder.scale, parts.autoencoder.channels)}
    if parts.decoder is not None:
        others["decoder"] = parts.decoder.sizes["latent_scale"], parts.decoder.sizes["latent_channels"]
    for name, (scale, channels) in others.items():
        if (scale, channels) != (config.latent_scale, config.latent_channels):
            raise ValueError(
                f"the network was made for latents of scale {config.latent_scale} in {config.latent_channels} "
                f"channels, the {name} has scale {scale} and {channels} channels"
            )


def restored(
    volume: Tensor,
    planes: int,
    parts: Parts,
    *,
    features: Tensor | None = None,
    steps: int = 20,
    samples: int = 4,
    order: int = 1,
    method: Method = "ode",
    terms: Sequence[Any] = (),
    generator: torch.Generator | None = None,
    callback: Callable[[int, int, Tensor], bool | None] | None = None,
) -> Restored:
    """Restore a volume.

    Parameters
    ----------
    volume : tensor ``(1, d, H, W)``
        The low-resolution volume, between 0 and 1; its sides are multiples of the pixels of a token.
    planes : int
        Depth of the restored volume: `d` times one of the network's depth ratios.
    parts : Parts
    features : tensor ``(d, n, F)``, optional
        Of the image encoder with which the network was trained.
    steps, order, method
        Of :func:`~tensorcell.diffusion_guidance.samplers.sample`: "ode" with order 1 is Euler's and with 2 Heun's
        method; "sde" adds noise on the way (Euler-Maruyama).
    samples : int
        Number of samples.
    terms : sequence of Term
        Guidance of the latent.
    generator : torch.Generator, optional
    callback : callable ``(step, steps, estimate of the latent) -> bool or None``
        True stops the sampler.

    Returns
    -------
    Restored

    Raises
    ------
    ValueError
        If the sizes do not belong together.
    """
    network, autoencoder = parts.network, parts.autoencoder
    check_parts(parts)
    path = path_of(parts.objective)
    with torch.inference_mode():
        condition = network.condition(volume[None], planes)
        vectors = None if features is None else features[None]

        def predict(x: Tensor, time: Tensor) -> Tensor:
            many = type(condition)(*(each.expand(len(x), -1, -1) for each in condition))
            told = None if vectors is None else vectors.expand(len(x), -1, -1, -1)
            times = time.to(x).reshape(-1).expand(len(x))
            return network.velocity(x.transpose(1, 2), times, told, many).transpose(1, 2)

        latent = sample(
            denoiser(path, predict, parts.objective),
            (autoencoder.channels, planes, *(side // autoencoder.scale for side in volume.shape[2:])),
            levels=path.levels(steps, "time"), method=method, order=order, samples=samples, terms=terms,
            generator=generator, callback=callback,
        ).samples  # fmt: skip
        decoded = torch.cat([_decoded(one[None], volume[None], parts) for one in latent])
    return Restored(decoded.mean(dim=0), decoded.std(dim=0, correction=0), decoded)


def _decoded(latent: Tensor, volume: Tensor, parts: Parts) -> Tensor:
    """Intensities ``(1, 1, D, H, W)`` of a latent ``(1, C, D, h, w)``."""
    if parts.decoder is None:
        return parts.autoencoder.decode(latent.transpose(1, 2))
    found: Tensor = parts.decoder(volume, latent)
    return found
