"""RLN, the Richardson-Lucy network: deconvolution steps whose projectors are convolutions.

=======  ==============================================================================================
letter   meaning
=======  ==============================================================================================
I        the interpolated volume, at least 0
E        the estimate
FP, BP   forward and back projector: two convolutions each, whose results are positive
DV       the ratio ``I / FP(E)`` of what was measured and what the estimate predicts
=======  ==============================================================================================

A step is ``E BP(DV)``, as in Richardson's and Lucy's method, where FP is the convolution with the PSF and BP that with
its mirror image. The first step (H1 in the paper) works at half the resolution and the second (H2) at the full one;
convolutions (H3) merge both estimates and the volume.

Y. Li et al., Incorporating the image formation process into deep learning improves network performance, Nature Methods
19, 1427-1437 (2022), doi:10.1038/s41592-022-01652-7. Here H3 predicts the change of the interpolation, whereas the
paper predicts the volume.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from tensorcell.diffusion_guidance.networks import set_zero

FLOOR = 1e-3
"""Added to the prediction before the division."""

MULTIPLES = (2, 2, 2)
"""Depth, height and width that :class:`RLN` works on are multiples of these."""


def richardson_lucy(
    measured: Tensor, estimate: Tensor, forward: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor]
) -> Tensor:
    """One step: ``estimate back(measured / forward(estimate))``."""
    return estimate * back(measured / (forward(estimate) + FLOOR))


class Projector(nn.Module):
    """Two convolutions of 3 x 3 x 3, the second of which is shown what the first was; the result is positive."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.first = nn.Conv3d(before, width, 3, padding=1)
        self.second = nn.Conv3d(before + width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, before, D, H, W) -> (B, width, D, H, W)``."""
        inner = functional.softplus(self.first(x))
        return functional.softplus(self.second(torch.cat([x, inner], dim=1)))


class RLN(nn.Module):
    """The change of a volume; 0 at the start of training.

    Parameters
    ----------
    width : int
        Features: estimates that are made side by side.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.coarse_forward, self.coarse_back = Projector(1, width), Projector(width, width)
        self.grow = nn.ConvTranspose3d(width, width, 2, stride=2)
        self.fine_forward, self.fine_back = Projector(width, width), Projector(width, width)
        self.merge = Projector(2 * width + 1, width)
        self.last = nn.Conv3d(width, 1, 3, padding=1)
        set_zero(self.last)

    def forward(self, volume: Tensor) -> Tensor:
        """``(B, 1, D, H, W)``, in and out; the sides are multiples of :data:`MULTIPLES`."""
        merged = self.merge(torch.cat([volume, *self.estimates(volume)], dim=1))
        found: Tensor = self.last(merged)
        return found

    def estimates(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        """The estimates after the first and the second step, each ``(B, width, D, H, W)`` and at least 0."""
        measured = volume.clamp(min=0)
        small = functional.avg_pool3d(measured, 2)  # (B, 1, D / 2, H / 2, W / 2)
        coarse = richardson_lucy(small, small, self.coarse_forward, self.coarse_back)
        first = functional.softplus(self.grow(coarse))
        return first, richardson_lucy(measured, first, self.fine_forward, self.fine_back)
