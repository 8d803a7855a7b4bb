"""DBPN, the deep back-projection network: features go up and down in resolution and are corrected by the errors.

===========  ==============================  ===============================
unit         up-projection                   down-projection
===========  ==============================  ===============================
projected    ``H0 = up(L)``                  ``L0 = down(H)``
error        ``e = down(H0) - L``            ``e = up(L0) - H``
result       ``H0 + up'(e)``                 ``L0 + down'(e)``
===========  ==============================  ===============================

`L` are features of low and `H` of high resolution; each `up` and `down` has weights of its own. The change of a plane
follows from the results of all up-projections.

M. Haris, G. Shakhnarovich, N. Ukita, Deep back-projection networks for super-resolution, CVPR 2018, arXiv:1803.02735.
The paper is given planes of low resolution. Here planes have the lateral size of the truth already, and the pixels of
each ``scale x scale`` block become channels of one pixel, from which the features of low resolution follow.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tensorcell.diffusion_guidance.networks import set_zero

UPS = 3
"""Up-projections; between two of them there is a down-projection."""


def scale_of(lateral_factor: int) -> int:
    """Ratio of the two resolutions: the lateral factor of the acquisition, or 2 where that is 1."""
    return max(2, lateral_factor)


def up(width: int, scale: int) -> nn.Sequential:
    """To `scale` times the resolution; at scales 2, 4 and 8 with the paper's kernels of 6, 8 and 12 pixels."""
    return nn.Sequential(nn.ConvTranspose2d(width, width, scale + 4, stride=scale, padding=2), nn.PReLU())


def down(width: int, scale: int) -> nn.Sequential:
    """The inverse change of size."""
    return nn.Sequential(nn.Conv2d(width, width, scale + 4, stride=scale, padding=2), nn.PReLU())


class Projection(nn.Module):
    """A projection to the other resolution, corrected by the error that is left when it is projected back."""

    def __init__(self, there: nn.Module, back: nn.Module, correction: nn.Module) -> None:
        super().__init__()
        self.there, self.back, self.correction = there, back, correction

    def forward(self, features: Tensor) -> Tensor:
        """``(n, width, h, w)`` to the features of the other resolution."""
        projected = self.there(features)
        found: Tensor = projected + self.correction(self.back(projected) - features)
        return found


def up_projection(width: int, scale: int) -> Projection:
    """To high resolution."""
    return Projection(up(width, scale), down(width, scale), up(width, scale))


def down_projection(width: int, scale: int) -> Projection:
    """To low resolution."""
    return Projection(down(width, scale), up(width, scale), down(width, scale))


class DBPN(nn.Module):
    """The change of a plane; 0 at the start of training.

    Parameters
    ----------
    width : int
        Features at either resolution.
    scale : int
        Ratio of the two resolutions.
    """

    def __init__(self, width: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.first = nn.Sequential(
            nn.Conv2d(scale**2, 2 * width, 3, padding=1), nn.PReLU(), nn.Conv2d(2 * width, width, 1), nn.PReLU()
        )
        self.ups = nn.ModuleList(up_projection(width, scale) for _ in range(UPS))
        self.downs = nn.ModuleList(down_projection(width, scale) for _ in range(UPS - 1))
        self.last = nn.Conv2d(UPS * width, 1, 3, padding=1)
        set_zero(self.last)

    def forward(self, planes: Tensor) -> Tensor:
        """``(n, 1, H, W)``, in and out; the sides are multiples of the scale."""
        low = self.first(functional.pixel_unshuffle(planes, self.scale))  # (n, width, H / scale, W / scale)
        highs = [self.ups[0](low)]  # (n, width, H, W) each
        for lower, higher in zip(self.downs, self.ups[1:], strict=True):
            highs.append(higher(lower(highs[-1])))
        found: Tensor = self.last(torch.cat(highs, dim=1))
        return found
