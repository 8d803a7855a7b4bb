"""From a low-resolution volume to samples of the restored one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from tensorcell.diffusion_guidance.compute import Precision, products
from tensorcell.diffusion_guidance.methods import Method
from tensorcell.diffusion_guidance.microdiffuse3d.autoencoder import SliceAutoencoder
from tensorcell.diffusion_guidance.microdiffuse3d.conditioning import Condition
from tensorcell.diffusion_guidance.microdiffuse3d.first_estimate import FirstEstimate
from tensorcell.diffusion_guidance.microdiffuse3d.images import ImageEncoder
from tensorcell.diffusion_guidance.microdiffuse3d.model import MicroDiffuse3D
from tensorcell.diffusion_guidance.microdiffuse3d.objective import Objective, path_of
from tensorcell.diffusion_guidance.microdiffuse3d.refinement import RefinementDecoder
from tensorcell.diffusion_guidance.paths import Denoiser, denoiser
from tensorcell.diffusion_guidance.samplers import sample
from tensorcell.diffusion_guidance.solver_terms import TuckerProjection
from tensorcell.diffusion_guidance.tiles import tiled_at

TILE, OVERLAP = (20, 256, 256), (8, 64, 64)
"""Default tiles in planes and pixels: those of the published network."""

STEPS = 4
"""Default number of steps. The decoder is fitted to latents that were drawn in as many."""

ERROR_SHARE = 0.1
"""The error of the network's estimates, as a share of that of a prior alone: its condition tells most."""

Network = Callable[[Tensor, Tensor], Tensor]


class Parts(NamedTuple):
    """The networks that restore a volume."""

    network: MicroDiffuse3D
    autoencoder: SliceAutoencoder
    decoder: RefinementDecoder | None = None
    """Without it, the autoencoder decodes."""
    objective: Objective = "flow"
    estimate: FirstEstimate | None = None
    """Network and decoder are told its estimate in place of the measured planes, the network only of these planes."""


class Restored(NamedTuple):
    """Samples of restored volumes."""

    mean: Tensor
    """``(1, D, H, W)``: voxel by voxel."""
    deviation: Tensor
    """Standard deviation of the samples; 0 where there is one."""
    samples: Tensor
    """``(K, 1, D, H, W)``."""


def known_factors(parts: Parts) -> tuple[int, ...]:
    """The axial factors that networks restore."""
    ratios = parts.network.config.depth_ratios
    if parts.estimate is None:
        return ratios
    return tuple(ratio for ratio in ratios if ratio == parts.estimate.axial_factor)


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
    images: ImageEncoder | None = None,
    steps: int = STEPS,
    samples: int = 4,
    order: int = 1,
    method: Method = "ode",
    terms: Sequence[Any] = (),
    low_rank: bool = False,
    tile: tuple[int, int, int] = TILE,
    overlap: tuple[int, int, int] = OVERLAP,
    generator: torch.Generator | None = None,
    callback: Callable[[int, int, Tensor], bool | None] | None = None,
    precision: Precision = "float32",
) -> Restored:
    """Restore a volume.

    Parameters
    ----------
    volume : tensor ``(1, d, H, W)``
        The low-resolution volume, between 0 and 1, of any size.
    planes : int
        Depth of the restored volume: `d` times one of the network's depth ratios.
    parts : Parts
    images : ImageEncoder, optional
        The one with which the network was trained; without it, the network is not told what it sees.
    steps, order, method
        Of :func:`~tensorcell.diffusion_guidance.samplers.sample`: "ode" with order 1 is Euler's and with 2 Heun's
        method; "sde" adds noise on the way (Euler-Maruyama).
    samples : int
        Number of samples.
    terms : sequence of Term
        Guidance of the latent.
    low_rank : bool
        Whether the estimate of the latent is projected to a low Tucker rank at every step, above the error that it has
        at that level.
    tile, overlap : three ints
        Largest tiles of the restored volume, in planes and pixels, and what neighbours share. They are rounded down to
        whole tokens and planes measured. Tiles share one noise field, and their estimates fade into each other at every
        step.
    generator : torch.Generator, optional
    callback : callable ``(step, steps, estimate of the latent) -> bool or None``
        True stops the sampler.
    precision : {"float32", "bfloat16"}
        In which the networks multiply; they and the volume lie on one device, which is that of the result.

    Returns
    -------
    Restored

    Raises
    ------
    ValueError
        If the sizes do not belong together, or a voxel is no finite number.
    """
    network, autoencoder = parts.network, parts.autoencoder
    check_parts(parts)
    unknown = int((~volume.isfinite()).sum())
    if unknown:
        raise ValueError(f"expected a finite volume, got NaN or infinity in {unknown} of {volume.numel()} voxels")
    if planes % volume.shape[1]:
        raise ValueError(f"expected a whole number of planes per plane measured, got {planes} from {volume.shape[1]}")
    path = path_of(parts.objective)
    with torch.inference_mode():
        planes_told = whole = padded(volume, network.config.stride)
        if parts.estimate is not None:
            if planes != parts.estimate.axial_factor * whole.shape[1]:
                raise ValueError(
                    f"expected {parts.estimate.axial_factor} planes per plane measured, which the first estimate was "
                    f"fitted to, got {planes} from {whole.shape[1]}"
                )
            whole = first_estimate(whole, parts.estimate, tile, overlap, precision)
            planes_told = whole[:, :: parts.estimate.axial_factor]
        ratio = planes // volume.shape[1]
        conditions: dict[tuple[int, ...], tuple[Condition, Tensor | None]] = {}

        def denoise_at(place: tuple[slice, ...]) -> Denoiser:
            corner = tuple(each.start for each in place)
            if corner not in conditions:
                part = planes_told[
                    :, measured_by(place[0], ratio), *(times(each, autoencoder.scale) for each in place[1:])
                ]
                depth = place[0].stop - place[0].start
                with products(volume.device, precision):
                    told = None if images is None else images(part[None])
                    conditions[corner] = network.condition(part[None], depth), told
            return denoiser(path, predicting(network, *conditions[corner], precision), parts.objective)

        units = ratio, network.config.patch, network.config.patch
        scales = 1, autoencoder.scale, autoencoder.scale
        sizes, shared = (
            tuple(size // scale // unit * unit for size, scale, unit in zip(each, scales, units, strict=True))
            for each in (tile, overlap)
        )
        denoise = tiled_at(denoise_at, sizes, shared, units)
        latent = sample(
            of_low_rank(denoise) if low_rank else denoise,
            (autoencoder.channels, planes, *(side // autoencoder.scale for side in whole.shape[2:])),
            levels=path.levels(steps, "time"), method=method, order=order, samples=samples, terms=terms,
            generator=generator, callback=callback, device=volume.device,
        ).samples  # fmt: skip
        decoded = torch.cat([_decoded(one[None], whole[None], parts, precision) for one in latent])
    decoded = decoded[..., : volume.shape[2], : volume.shape[3]]
    return Restored(decoded.mean(dim=0), decoded.std(dim=0, correction=0), decoded)


def first_estimate(
    volume: Tensor, estimate: FirstEstimate, tile: tuple[int, int, int], overlap: tuple[int, int, int],
    precision: Precision = "float32",
) -> Tensor:  # fmt: skip
    """The first estimate ``(1, D, H, W)`` of measured planes ``(1, d, H, W)``, in tiles of at most this size."""
    ratio = estimate.axial_factor
    units = ratio, estimate.multiple, estimate.multiple
    sizes, shared = (
        tuple(size // unit * unit for size, unit in zip(each, units, strict=True)) for each in (tile, overlap)
    )

    def estimate_at(place: tuple[slice, ...]) -> Denoiser:
        part = volume[:, measured_by(place[0], ratio), place[1], place[2]]

        def denoise(x: Tensor, level: float | Tensor) -> Tensor:
            with products(x.device, precision):
                return estimate.of_all_orientations(part[None]).to(x.dtype)

        return denoise

    whole = volume.new_zeros((1, 1, ratio * volume.shape[1], *volume.shape[2:]))
    return tiled_at(estimate_at, sizes, shared, units)(whole, 0.0)[0]


def of_low_rank(denoise: Denoiser) -> Denoiser:
    """The denoiser, followed by the truncated HOSVD of each channel.

    The error of an estimate from a state of level `l` is at most ``l / sqrt(1 + l^2)``, that of a prior of unit
    variance alone; components below a share of it are removed.
    """
    project = TuckerProjection()

    def projected(x: Tensor, level: float | Tensor) -> Tensor:
        number = torch.as_tensor(level, dtype=torch.float64, device="cpu").reshape(-1)
        error = ERROR_SHARE * torch.where(number.isinf(), 1.0, number / (1 + number.square()).sqrt())
        return project(denoise(x, level), error)

    return projected


def padded(volume: Tensor, stride: int) -> Tensor:
    """The volume ``(1, d, H, W)`` with its last rows and columns repeated up to multiples of the stride."""
    right, below = (-size % stride for size in (volume.shape[3], volume.shape[2]))
    return functional.pad(volume, (0, right, 0, below), mode="replicate") if right or below else volume


def measured_by(planes: slice, ratio: int) -> slice:
    """The measured planes of a range of restored ones."""
    return slice(planes.start // ratio, -(-planes.stop // ratio))


def times(pixels: slice, scale: int) -> slice:
    """The pixels of a range of pixels of the latent."""
    return slice(pixels.start * scale, pixels.stop * scale)


def predicting(
    network: MicroDiffuse3D, condition: Condition, features: Tensor | None, precision: Precision = "float32"
) -> Network:
    """The network as samplers call it: ``(x (K, C, D, h, w), t (K,)) -> prediction``, of one condition for all."""

    def predict(x: Tensor, time: Tensor) -> Tensor:
        many = Condition(*(each.expand(len(x), -1, -1) for each in condition))
        told = None if features is None else features.expand(len(x), -1, -1, -1)
        times = time.reshape(-1).expand(len(x))
        with products(x.device, precision):
            return network.velocity(x.transpose(1, 2), times, told, many).transpose(1, 2).to(x.dtype)

    return predict


def _decoded(latent: Tensor, volume: Tensor, parts: Parts, precision: Precision) -> Tensor:
    """Intensities ``(1, 1, D, H, W)`` of a latent ``(1, C, D, h, w)``."""
    with products(volume.device, precision):
        if parts.decoder is None:
            return parts.autoencoder.decode(latent.transpose(1, 2)).to(volume.dtype)
        found: Tensor = parts.decoder(volume, latent)
        return found.to(volume.dtype)
