"""The first estimate of a restored volume, by regression; the flow adds what a regression cannot know.

The mean of what may lie behind a scan is found faster by a regression than by a flow, which spends most of its training
on noise. So a residual network estimates the volume first, and flow and decoder are told its estimate in place of the
scan (M. Mardani et al., Residual corrective diffusion modeling, arXiv:2309.15214).

The network works on blocks of pixels of the measured planes, where a volume has a few per cent of the voxels that
it has when it is restored, and a shuffle of features to voxels follows (W. Shi et al., arXiv:1609.05158).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tensorcell.diffusion_guidance.microdiffuse3d.config import check_sizes
from tensorcell.diffusion_guidance.microdiffuse3d.degradation import along_z, check_factor
from tensorcell.diffusion_guidance.microdiffuse3d.refinement import convolution
from tensorcell.diffusion_guidance.networks import padded, set_zero

START = 0.3
"""Weights of the second convolution of a block at the start of training, as a share of the usual ones."""


class ResidualBlock(nn.Module):
    """Two convolutions, the second within planes, beside a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = convolution(channels, channels)
        self.second = nn.Conv3d(channels, channels, (1, 3, 3), padding=(0, 1, 1))
        nn.init.kaiming_normal_(self.first.weight, nonlinearity="relu")
        with torch.no_grad():
            self.second.weight.mul_(START)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, channels, d, h, w)``, in and out."""
        found: Tensor = x + self.second(functional.relu(self.first(x)))
        return found


class FirstEstimate(nn.Module):
    """Measured planes to an estimate of the volume.

    Parameters
    ----------
    axial_factor : int
        Planes of the volume per plane measured.
    block : int
        Pixels a side that are one place of the network's grid.
    channels : int
        Features at the places of the grid.
    blocks : int
        Residual blocks there; on the coarser grid half as many, rounded up.
    fine_channels : int
        Features at voxels.

    Examples
    --------
    >>> FirstEstimate(axial_factor=4, channels=8, blocks=1)(torch.zeros(1, 1, 3, 10, 7)).shape
    torch.Size([1, 1, 12, 10, 7])
    """

    def __init__(
        self, *, axial_factor: int, block: int = 2, channels: int = 64, blocks: int = 4, fine_channels: int = 8
    ) -> None:
        super().__init__()
        check_factor(axial_factor, "axial_factor")
        self.sizes = {
            "axial_factor": axial_factor, "block": block, "channels": channels, "blocks": blocks,
            "fine_channels": fine_channels,
        }  # fmt: skip
        for name, size in self.sizes.items():
            check_sizes(name, size)
        self.axial_factor, self.block = axial_factor, block
        self.first = convolution(block**2, channels)
        self.body = nn.Sequential(*(ResidualBlock(channels) for _ in range(blocks)))
        fewer = -(-blocks // 2)
        self.coarser = nn.Sequential(convolution(channels, channels), *(ResidualBlock(channels) for _ in range(fewer)))
        self.spread = convolution(channels, fine_channels * axial_factor * block**2)
        self.fine, self.last = convolution(fine_channels + 1, 2 * fine_channels), convolution(2 * fine_channels, 1)
        set_zero(self.last)

    @property
    def multiple(self) -> int:
        """Height and width that the network works on are multiples of it: its coarser grid has half of the places."""
        return 2 * self.block

    def forward(self, volume: Tensor) -> Tensor:
        """``(B, 1, d, H, W) -> (B, 1, axial_factor d, H, W)``; measured pixels were interpolated to H x W before."""
        height, width = volume.shape[3:]
        whole = padded(volume, (1, self.multiple, self.multiple))
        features = self.body(self.first(to_features(whole, self.block)))
        coarse = self.coarser(functional.avg_pool3d(features, (1, 2, 2)))
        features = features + functional.interpolate(
            coarse, size=features.shape[2:], mode="trilinear", align_corners=False
        )
        fine = functional.relu(to_voxels(self.spread(features), self.axial_factor, self.block))
        start = along_z(whole, self.axial_factor)
        change = self.last(functional.relu(self.fine(torch.cat([fine, start], dim=1))))
        found: Tensor = (start + change)[..., :height, :width]
        return found

    def of_all_orientations(self, volume: Tensor) -> Tensor:
        """The mean of the estimates of the volume mirrored and turned within its planes, in all eight ways.

        Training showed it pieces in all of them.
        """
        mirrors = (), (3,), (4,), (3, 4)
        total = volume.new_zeros(())
        for turned in (False, True):
            shown = volume.transpose(3, 4) if turned else volume
            found = self(torch.cat([shown.flip(axes) for axes in mirrors]))
            back = sum(each.flip(axes) for each, axes in zip(found.split(len(volume)), mirrors, strict=True))
            total = total + (back.transpose(3, 4) if turned else back)
        return total / 8


def to_features(volume: Tensor, block: int) -> Tensor:
    """``(B, 1, d, H, W) -> (B, b b, d, H / b, W / b)``: the pixels of a block become features."""
    batch, _, depth, *_ = volume.shape
    planes = functional.pixel_unshuffle(volume.transpose(1, 2).flatten(0, 1), block)  # (B d, b b, h, w)
    return planes.reshape(batch, depth, *planes.shape[1:]).transpose(1, 2)


def to_voxels(features: Tensor, axial_factor: int, block: int) -> Tensor:
    """``(B, b b s C, d, h, w) -> (B, C, s d, b h, b w)``: the features of a place become the voxels that it stands for.

    >>> to_voxels(torch.arange(8.0).reshape(1, 8, 1, 1, 1), 2, 2).flatten()
    tensor([0., 1., 2., 3., 4., 5., 6., 7.])
    """
    batch, _, depth, *_ = features.shape
    planes = functional.pixel_shuffle(features.transpose(1, 2).flatten(0, 1), block)  # (B d, C s, b h, b w)
    apart = planes.reshape(batch, depth, -1, axial_factor, *planes.shape[2:])
    return apart.permute(0, 2, 1, 3, 4, 5).flatten(2, 3)
