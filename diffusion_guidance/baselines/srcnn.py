"""SRCNN: three convolutions, slice by slice.

C. Dong, C. C. Loy, K. He, X. Tang, Image super-resolution using deep convolutional networks, IEEE TPAMI 38, 295-307
(2016), doi:10.1109/TPAMI.2015.2439281. The sizes 9, 1 and 5 of the kernels and their 64 and 32 features are the
paper's; here the network predicts the change of the interpolation, whereas the paper predicts the image.
"""

from __future__ import annotations

from torch import Tensor, nn

from tensorcell.diffusion_guidance.networks import set_zero


class SRCNN(nn.Module):
    """Patches to features, features to features, and features to the change of a plane; 0 at the start of training.

    Parameters
    ----------
    width : int
        Features of a patch; the second layer has half of them.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        half = max(1, width // 2)
        self.patches = nn.Conv2d(1, width, 9, padding=4)
        self.mapping = nn.Conv2d(width, half, 1)
        self.last = nn.Conv2d(half, 1, 5, padding=2)
        set_zero(self.last)

    def forward(self, planes: Tensor) -> Tensor:
        """``(n, 1, H, W)``, in and out."""
        found: Tensor = self.last(self.mapping(self.patches(planes).relu()).relu())
        return found
