"""What all baselines share: interpolation along z, padding, and the sum of the interpolation and a network's change."""

from __future__ import annotations

from torch import Tensor, nn

from tensorcell.diffusion_guidance.microdiffuse3d.degradation import along_z, check_factor
from tensorcell.diffusion_guidance.networks import channels_last, padded


class ResidualRestoration(nn.Module):
    """The interpolation along z and the change that a network adds to it.

    Parameters
    ----------
    network : module
        From an interpolated volume ``(B, 1, D, H, W)`` to its change, of the same shape; or, slice-wise, from planes
        ``(B D, 1, H, W)`` to theirs.
    axial_factor : int
        Planes of the restored volume per plane measured.
    multiples : three ints
        The network is shown volumes whose depth, height and width are multiples of these.
    slicewise : bool

    Examples
    --------
    >>> import torch
    >>> ResidualRestoration(nn.Conv3d(1, 1, 3, padding=1), axial_factor=4)(torch.zeros(1, 1, 3, 5, 7)).shape
    torch.Size([1, 1, 12, 5, 7])
    """

    def __init__(
        self, network: nn.Module, *, axial_factor: int, multiples: tuple[int, int, int] = (1, 1, 1),
        slicewise: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        check_factor(axial_factor, "axial_factor")
        self.network, self.axial_factor = channels_last(network), axial_factor
        self.multiples, self.slicewise = multiples, slicewise

    def forward(self, volume: Tensor) -> Tensor:
        """``(B, 1, d, H, W) -> (B, 1, axial_factor d, H, W)``, of intensities about between 0 and 1."""
        start = along_z(volume, self.axial_factor)
        whole = padded(start, self.multiples)
        if self.slicewise:
            planes = whole.transpose(1, 2).flatten(0, 1)  # (B D, 1, H, W)
            change = self.network(planes).reshape(whole.transpose(1, 2).shape).transpose(1, 2)
        else:
            change = self.network(whole)
        depth, height, width = start.shape[2:]
        found: Tensor = start + change[..., :depth, :height, :width]
        return found
