"""CARE: a residual 3-D U-Net.

M. Weigert et al., Content-aware image restoration: pushing the limits of fluorescence microscopy, Nature Methods 15,
1090-1097 (2018), doi:10.1038/s41592-018-0216-7. As in the paper: two halvings by the maximum, two convolutions at each
resolution, skip connections that are concatenated, and the sum of the input and the output.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tensorcell.diffusion_guidance.networks import set_zero

HALVINGS = 2
MULTIPLES = (1 << HALVINGS,) * 3
"""Depth, height and width that :class:`ResidualUNet` works on are multiples of these."""


def two_convolutions(before: int, after: int) -> nn.Sequential:
    """Two convolutions of 3 x 3 x 3, each with a ReLU, through which features have the same size on average."""
    first, second = nn.Conv3d(before, after, 3, padding=1), nn.Conv3d(after, after, 3, padding=1)
    for layer in (first, second):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU())


class ResidualUNet(nn.Module):
    """The change of a volume; 0 at the start of training.

    Parameters
    ----------
    width : int
        Features at full resolution; they double at each halving.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = [width << level for level in range(HALVINGS + 1)]
        self.down = nn.ModuleList(
            two_convolutions(before, after) for before, after in zip([1, *widths[:-1]], widths, strict=True)
        )
        self.up = nn.ModuleList(two_convolutions(each + 2 * each, each) for each in reversed(widths[:-1]))
        self.last = nn.Conv3d(width, 1, 1)
        set_zero(self.last)

    def forward(self, volume: Tensor) -> Tensor:
        """``(B, 1, D, H, W)``, in and out; the sides are multiples of :data:`MULTIPLES`."""
        features, skipped = volume, []
        for level, stage in enumerate(self.down):
            if level:
                skipped.append(features)
                features = functional.max_pool3d(features, 2)
            features = stage(features)
        for stage in self.up:
            larger = functional.interpolate(features, scale_factor=2, mode="nearest")
            features = stage(torch.cat([larger, skipped.pop()], dim=1))
        found: Tensor = self.last(features)
        return found
