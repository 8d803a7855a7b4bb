"""3-D RCAN: residual groups of blocks whose channels are weighted by their means.

J. Chen et al., Three-dimensional residual channel attention networks denoise and sharpen fluorescence microscopy image
volumes, Nature Methods 18, 678-687 (2021), doi:10.1038/s41592-021-01155-x. The paper has 5 groups of 5 blocks with 32
features; here there are fewer of each, and the sum of the interpolation and the output.
"""

from __future__ import annotations

from torch import Tensor, nn

from tensorcell.diffusion_guidance.microdiffuse3d.refinement import ResidualGroup, convolution
from tensorcell.diffusion_guidance.networks import set_zero

GROUPS, BLOCKS = 2, 2
"""Residual groups, and blocks in each."""


class RCAN3d(nn.Module):
    """The change of a volume; 0 at the start of training.

    Parameters
    ----------
    width : int
        Features.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = convolution(1, width)
        self.groups = nn.Sequential(*(ResidualGroup(width, BLOCKS) for _ in range(GROUPS)))
        self.after, self.last = convolution(width, width), convolution(width, 1)
        set_zero(self.last)

    def forward(self, volume: Tensor) -> Tensor:
        """``(B, 1, D, H, W)``, in and out."""
        start = self.first(volume)
        found: Tensor = self.last(start + self.after(self.groups(start)))
        return found
