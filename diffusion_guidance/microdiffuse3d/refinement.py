"""The refinement decoder: from a latent volume and the low-resolution volume to intensities.

Pixel shuffles within the planes bring the latent to the resolution of the image, where the low-resolution volume joins
it; residual groups with channel attention follow, as in 3-D RCAN (J. Chen et al. 2021, doi:10.1038/s41592-021-01155-x).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from tensorcell.diffusion_guidance.microdiffuse3d.config import check_sizes
from tensorcell.diffusion_guidance.microdiffuse3d.published import read_weights, refinement_key
from tensorcell.diffusion_guidance.networks import set_zero

REDUCTION = 8
"""Channels per feature of the channel attention."""


def convolution(before: int, after: int) -> nn.Conv3d:
    """3 x 3 x 3, the size kept."""
    return nn.Conv3d(before, after, 3, padding=1)


class ChannelAttentionBlock(nn.Module):
    """Two convolutions whose channels are weighted by their means, beside a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        fewer = max(1, channels // REDUCTION)
        self.body = nn.Sequential(convolution(channels, channels), nn.ReLU(), convolution(channels, channels))
        self.weights = nn.Sequential(
            nn.AdaptiveAvgPool3d(1), nn.Conv3d(channels, fewer, 1), nn.ReLU(), nn.Conv3d(fewer, channels, 1),
            nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """``(B, channels, D, H, W)``, in and out."""
        change = self.body(x)
        found: Tensor = x + change * self.weights(change)
        return found


class ResidualGroup(nn.Module):
    """Some such blocks and a convolution, beside a shortcut."""

    def __init__(self, channels: int, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(ChannelAttentionBlock(channels) for _ in range(blocks)))
        self.convolution = convolution(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, channels, D, H, W)``, in and out."""
        found: Tensor = x + self.convolution(self.blocks(x))
        return found


class Doubling(nn.Sequential):
    """Twice the lateral resolution by a convolution and a pixel shuffle within the planes."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__(convolution(before, 4 * after), ChannelAttentionBlock(after))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, before, D, H, W) -> (B, after, D, 2 H, 2 W)``."""
        spread, refine = self
        planes = functional.pixel_shuffle(spread(x).transpose(1, 2).flatten(0, 1), 2)  # (B D, after, 2 H, 2 W)
        found: Tensor = refine(planes.reshape(len(x), x.shape[2], *planes.shape[1:]).transpose(1, 2))
        return found


class RefinementDecoder(nn.Module):
    """Latents and the low-resolution volume to intensities.

    Parameters
    ----------
    latent_channels, latent_scale : int
        Channels of the latent, and the pixels a side that one of its pixels stands for (a power of two).
    channels : int
        Features at full resolution.
    groups, blocks : int
        Residual groups, and blocks in each.
    residual : bool
        Whether the volume is added to what is found, which is 0 before the fit: for a volume that is an estimate.

    Examples
    --------
    >>> decoder = RefinementDecoder(latent_scale=4, channels=8, groups=1, blocks=1)
    >>> decoder(torch.zeros(1, 1, 5, 16, 16), torch.zeros(1, 4, 10, 4, 4)).shape
    torch.Size([1, 1, 10, 16, 16])
    """

    def __init__(
        self, *, latent_channels: int = 4, latent_scale: int = 8, channels: int = 32, groups: int = 5, blocks: int = 5,
        residual: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        for name, size in (("latent_channels", latent_channels), ("latent_scale", latent_scale),
                           ("channels", channels), ("groups", groups), ("blocks", blocks)):  # fmt: skip
            check_sizes(name, size)
        doublings = latent_scale.bit_length() - 1
        if latent_scale != 1 << doublings:
            raise ValueError(f"latent_scale must be a power of two, got {latent_scale}")
        self.sizes = {
            "latent_channels": latent_channels, "latent_scale": latent_scale, "channels": channels,
            "groups": groups, "blocks": blocks, "residual": residual,
        }  # fmt: skip
        self.up = nn.Sequential(*(Doubling(channels if n else latent_channels, channels) for n in range(doublings)))
        self.first = convolution((channels if doublings else latent_channels) + 1, channels)
        self.groups = nn.Sequential(*(ResidualGroup(channels, blocks) for _ in range(groups)))
        self.after, self.last = convolution(channels, channels), convolution(channels, 1)
        self.residual = residual
        if residual:
            set_zero(self.last)

    def forward(self, volume: Tensor, latent: Tensor) -> Tensor:
        """Decode.

        Parameters
        ----------
        volume : tensor ``(B, 1, d, H, W)``
            The low-resolution volume; its planes are interpolated.
        latent : tensor ``(B, C, D, H / scale, W / scale)``

        Returns
        -------
        tensor ``(B, 1, D, H, W)``

        Raises
        ------
        ValueError
            If the sizes do not belong together.
        """
        features = self.up(latent)
        if features.shape[3:] != volume.shape[3:]:
            raise ValueError(
                f"the latent decodes to planes of {tuple(features.shape[3:])}, the volume has {tuple(volume.shape[3:])}"
            )
        measured = functional.interpolate(volume, size=features.shape[2:], mode="trilinear", align_corners=False)
        start = self.first(torch.cat([features, measured], dim=1))
        found: Tensor = self.last(start + self.after(self.groups(start)))
        return measured + found if self.residual else found

    @staticmethod
    def from_published(
        state_dict: Mapping[str, Tensor], *, base_channels: int, num_residual_blocks: int, num_residual_groups: int
    ) -> RefinementDecoder:
        """The authors' decoder with their weights; the arguments are named as theirs.

        Raises
        ------
        ValueError
            If weights lack, are of another shape or are not used; at most ten are named.
        """
        with torch.device("meta"):
            decoder = RefinementDecoder(channels=base_channels, groups=num_residual_groups, blocks=num_residual_blocks)
        read_weights(decoder, state_dict, refinement_key)
        return decoder.eval()
