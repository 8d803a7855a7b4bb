"""The latent space: an autoencoder of single slices (diffusers' ``AutoencoderKL``), applied to planes of volumes."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

SLICES = 16
"""Slices that are encoded or decoded at a time."""

KL_WEIGHT = 1e-6
"""Weight of the Kullback-Leibler divergence in the loss: the latent space is to be bounded, hardly more (Rombach et al.
2022, arXiv:2112.10752)."""


class Latents(NamedTuple):
    """What the encoder says of a volume: mean and standard deviation of its latent, each ``(B, D, C, h, w)``."""

    mean: Tensor
    deviation: Tensor

    def drawn(self, generator: torch.Generator) -> Tensor:
        """A latent of this distribution."""
        noise = torch.randn(self.mean.shape, generator=generator, device=generator.device)
        return self.mean + self.deviation * noise.to(self.mean.device)


class SliceAutoencoder(nn.Module):
    """Volumes of intensities between 0 and 1, plane by plane, to latents of about unit variance and back.

    An autoencoder of grey images has one channel. One of colour images (that of Stable Diffusion, which the published
    network was trained with) is given the same values in all three, and their mean is returned.

    Parameters
    ----------
    slices : diffusers.AutoencoderKL
        Its ``config.scaling_factor`` brings latents to unit variance.

    Examples
    --------
    >>> autoencoder = SliceAutoencoder.new(scale=4, width=8)
    >>> latents = autoencoder.encode(torch.rand(1, 1, 3, 16, 24))
    >>> latents.mean.shape, autoencoder.decode(latents.mean).shape
    (torch.Size([1, 3, 4, 4, 6]), torch.Size([1, 1, 3, 16, 24]))
    """

    def __init__(self, slices: Any) -> None:
        super().__init__()
        self.slices = slices

    @staticmethod
    def new(*, scale: int = 8, channels: int = 4, width: int = 64, seed: int = 0) -> SliceAutoencoder:
        """An untrained one of grey images, which stands for so many pixels a side by one of its own."""
        from diffusers import AutoencoderKL

        stages = scale.bit_length()
        if scale != 1 << (stages - 1):
            raise ValueError(f"scale must be a power of two, got {scale}")
        make: Any = AutoencoderKL
        widths = [width * min(2**n, 4) for n in range(stages)]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return SliceAutoencoder(
                make(
                    in_channels=1, out_channels=1, latent_channels=channels, block_out_channels=widths,
                    layers_per_block=1, norm_num_groups=min(32, width // 2), scaling_factor=1.0,
                    down_block_types=["DownEncoderBlock2D"] * stages, up_block_types=["UpDecoderBlock2D"] * stages,
                    mid_block_add_attention=False,
                )
            )  # fmt: skip

    @staticmethod
    def load(folder: str | os.PathLike[str]) -> SliceAutoencoder:
        """Read one that diffusers saved, from a folder on this machine.

        Raises
        ------
        ValueError
            If the folder holds none, or one of neither one nor three channels.
        """
        from diffusers import AutoencoderKL

        try:
            slices: Any = AutoencoderKL
            slices = slices.from_pretrained(os.fspath(folder), local_files_only=True, low_cpu_mem_usage=False)
        except (OSError, ValueError) as error:
            raise ValueError(f"{os.fspath(folder)}: holds no autoencoder that diffusers can read: {error}") from error
        if slices.config.in_channels not in (1, 3):
            raise ValueError(
                f"{os.fspath(folder)}: expected an autoencoder of 1 or 3 channels, got {slices.config.in_channels}"
            )
        return SliceAutoencoder(slices.eval())

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write it as diffusers does (safetensors and JSON)."""
        self.slices.save_pretrained(os.fspath(folder))

    @property
    def scale(self) -> int:
        """Pixels a side that one of the latent stands for."""
        return int(2 ** (len(self.slices.config.block_out_channels) - 1))

    @property
    def channels(self) -> int:
        """Channels of the latent."""
        return int(self.slices.config.latent_channels)

    def encode(self, volume: Tensor) -> Latents:
        """Encode ``(B, 1, D, H, W)``, whose planes' sides are multiples of :attr:`scale`.

        Raises
        ------
        ValueError
            If they are not.
        """
        if volume.shape[-1] % self.scale or volume.shape[-2] % self.scale:
            raise ValueError(f"height and width must be multiples of {self.scale}, got {tuple(volume.shape[-2:])}")
        batch, _, depth = volume.shape[:3]
        planes = volume.transpose(1, 2).flatten(0, 1)
        found = [self.slices.encode(self._image(part)).latent_dist for part in torch.split(planes, SLICES)]
        factor = self.slices.config.scaling_factor
        mean, deviation = (factor * torch.cat([getattr(each, name) for each in found]) for name in ("mean", "std"))
        shape = batch, depth, *mean.shape[1:]
        return Latents(mean.reshape(shape), deviation.reshape(shape))

    def decode(self, latents: Tensor) -> Tensor:
        """Decode ``(B, D, C, h, w)``."""
        batch, depth = latents.shape[:2]
        planes = latents.flatten(0, 1) / self.slices.config.scaling_factor
        decoded = [self.slices.decode(part).sample.mean(dim=1, keepdim=True) for part in torch.split(planes, SLICES)]
        image = (torch.cat(decoded) + 1) / 2
        return image.reshape(batch, depth, 1, *image.shape[2:]).transpose(1, 2)

    def _image(self, planes: Tensor) -> Tensor:
        """Slices ``(n, 1, H, W)`` as the autoencoder wants them: between -1 and 1, in its channels."""
        return (2 * planes - 1).expand(-1, self.slices.config.in_channels, -1, -1)

    def loss(self, planes: Tensor, noise: Tensor) -> Tensor:
        """Mean absolute error of slices ``(n, 1, H, W)`` that were encoded and decoded, and a little of the divergence.

        ``noise`` ``(n, C, h, w)`` draws the latents.
        """
        posterior = self.slices.encode(self._image(planes)).latent_dist
        decoded = self.slices.decode(posterior.mean + posterior.std * noise).sample.mean(dim=1, keepdim=True)
        divergence: Tensor = posterior.kl().mean()
        return functional.l1_loss(decoded, 2 * planes - 1) + KL_WEIGHT * divergence

    @torch.no_grad()
    def set_scaling(self, slices: Iterator[Tensor]) -> float:
        """Choose the factor that brings latents drawn for some slices ``(n, 1, H, W)`` to unit variance; returns it."""
        means, squares = [], []
        for planes in slices:
            posterior = self.slices.encode(self._image(planes)).latent_dist
            means.append(posterior.mean.double().mean())
            squares.append((posterior.mean.double().square() + posterior.var.double()).mean())
        if not means:
            raise ValueError("expected slices to find the scale of the latents from, got none")
        variance = float(torch.stack(squares).mean() - torch.stack(means).mean().square())
        factor = 1 / math.sqrt(max(variance, 1e-12))
        self.slices.register_to_config(scaling_factor=factor)
        return factor
