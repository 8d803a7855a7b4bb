"""What a fast acquisition makes of a volume: the low-resolution half of a pair that a network is trained with.

=====  ===========================================================================
step   model
=====  ===========================================================================
1      Light is lost with the depth, ``exp(-z / attenuation)``, and the PSF grows.
2      The PSF: Gaussian along each axis, or a small volume.
3      Every `axial_factor`-th plane is measured, in pixels of `lateral_factor` pixels a side, whose mean they hold.
4      Poisson noise of `photons` at intensity 1, Gaussian noise of `read_noise`.
5      Pixels are interpolated to the lateral size of the volume again.
=====  ===========================================================================
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from tensorcell.diffusion_guidance.blurs import Blur
from tensorcell.diffusion_guidance.microdiffuse3d.point_spread import PointSpread


@dataclass(frozen=True, kw_only=True)
class Degradation:
    """An acquisition.

    Attributes
    ----------
    axial_factor, lateral_factor : int
        Planes and pixels a side of the volume per plane and pixel measured.
    psf : three floats
        Standard deviations of the PSF along z, y and x, in voxels of the volume.
    photons : float
        Photons per measured pixel at intensity 1; infinite: no Poisson noise.
    read_noise : float
        Standard deviation of the detector's noise, as a share of intensity 1.
    attenuation : float
        Planes over which the light falls to 1 / e; infinite: no loss.
    widening : float
        The PSF at the last plane is wider by this share than at the first.
    kernel : PointSpread or None
        The PSF as a volume on the voxel grid of the volume, in place of the widths `psf`; the same at all depths.
    """

    axial_factor: int = 1
    lateral_factor: int = 1
    psf: tuple[float, float, float] = (0.0, 0.0, 0.0)
    photons: float = math.inf
    read_noise: float = 0.0
    attenuation: float = math.inf
    widening: float = 0.0
    kernel: PointSpread | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("axial_factor", "lateral_factor"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        if not isinstance(self.psf, tuple) or len(self.psf) != 3:
            raise ValueError(f"psf must be three finite widths of at least 0, got {self.psf!r}")
        if not all(math.isfinite(width) and width >= 0 for width in self.psf):
            raise ValueError(f"psf must be three finite widths of at least 0, got {self.psf}")
        if not (self.photons > 0 and self.attenuation > 0):
            raise ValueError(f"photons and attenuation must be positive, got {self.photons} and {self.attenuation}")
        for name in ("read_noise", "widening"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be finite and at least 0, got {getattr(self, name)}")
        if self.kernel is not None:
            self._check_kernel(self.kernel)

    def _check_kernel(self, kernel: PointSpread) -> None:
        """Raise a ValueError unless the kernel is the only PSF."""
        if not isinstance(kernel, PointSpread):
            raise ValueError(f"kernel must be a PointSpread or None, got {type(kernel).__name__}")
        if any(self.psf):
            raise ValueError(f"expected widths of the PSF or a kernel, got both: {self.psf} and {kernel.shape} voxels")
        if self.widening:
            raise ValueError(f"widening must be 0 with a kernel, which is the same at all depths, got {self.widening}")

    def __call__(self, volume: Tensor, generator: torch.Generator) -> Tensor:
        """Degrade ``(B, 1, D, H, W)``, of intensities about between 0 and 1.

        Returns
        -------
        tensor ``(B, 1, ceil(D / axial_factor), H, W)``

        Raises
        ------
        ValueError
            If height or width is no multiple of the lateral factor.
        """
        measured = self.expected(volume)
        if math.isfinite(self.photons):
            rate = (self.photons * measured.clamp(min=0)).to(generator.device)
            measured = torch.poisson(rate, generator=generator).to(volume.device) / self.photons
        if self.read_noise:
            noise = torch.randn(measured.shape, generator=generator, device=generator.device)
            measured = measured + self.read_noise * noise.to(measured)
        return enlarged(measured, self.lateral_factor)

    def expected(self, volume: Tensor) -> Tensor:
        """What is measured of ``(B, 1, D, H, W)`` without noise, in measured pixels; linear in the volume.

        Returns
        -------
        tensor ``(B, 1, ceil(D / axial_factor), H / lateral_factor, W / lateral_factor)``
        """
        factor = self.lateral_factor
        if volume.shape[-1] % factor or volume.shape[-2] % factor:
            raise ValueError(
                f"height and width must be multiples of the lateral factor {factor}, got {tuple(volume.shape[-2:])}"
            )
        depth = torch.arange(volume.shape[2], device=volume.device)
        light = torch.exp(-depth / self.attenuation).to(volume.dtype)[:, None, None]
        measured = self._blurred(volume * light)[:, :, :: self.axial_factor]
        return functional.avg_pool3d(measured, (1, factor, factor)) if factor > 1 else measured

    @property
    def only_planes(self) -> bool:
        """Whether measured planes are planes of the volume: nothing but the others is lost."""
        return self == Degradation(axial_factor=self.axial_factor)

    def _blurred(self, volume: Tensor) -> Tensor:
        """The volume seen through the PSF, which grows with the depth: a mix of its narrowest and its widest."""
        if self.kernel is not None:
            return self.kernel.convolved(volume)
        narrow = Blur(self.psf, "nearest").forward(volume)
        if not self.widening:
            return narrow
        wide = Blur(tuple((1 + self.widening) * width for width in self.psf), "nearest").forward(volume)
        share = torch.linspace(0, 1, volume.shape[2], dtype=volume.dtype, device=volume.device)[:, None, None]
        return torch.lerp(narrow, wide, share.expand_as(narrow))


def enlarged(measured: Tensor, factor: int) -> Tensor:
    """Measured pixels ``(B, 1, d, h, w)`` interpolated to ``(B, 1, d, factor h, factor w)``: a pixel's value is that of
    its middle."""
    if factor == 1:
        return measured
    size = measured.shape[2], factor * measured.shape[3], factor * measured.shape[4]
    return functional.interpolate(measured, size=size, mode="trilinear", align_corners=False)


def masked_blocks(volume: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """The volume with blocks of pixels set to 0 in each plane, for pretraining without pairs.

    Of nine in ten volumes between half and three quarters of the blocks are masked, of the others none.
    """
    batch, _, depth, height, width = volume.shape
    rows, columns = math.ceil(height / side), math.ceil(width / side)
    share = 0.5 + 0.25 * torch.rand((batch, 1, 1, 1, 1), generator=generator)
    share = torch.where(torch.rand((batch, 1, 1, 1, 1), generator=generator) < 0.9, share, share.new_zeros(()))
    kept = torch.rand((batch, 1, depth, rows, columns), generator=generator) >= share
    kept = kept.repeat_interleave(side, 3).repeat_interleave(side, 4)[..., :height, :width]
    return volume * kept.to(volume)


def pixels_of(volume: Tensor, factor: int) -> Tensor:
    """The pixels of which :func:`enlarged` makes ``(B, 1, d, factor h, factor w)``: its inverse, by least squares.

    Means of the interpolated pixels would not do, since interpolation mixes neighbours.

    >>> pixels = torch.rand(1, 1, 2, 5, 6)
    >>> bool(torch.allclose(pixels_of(enlarged(pixels, 3), 3), pixels, atol=1e-5))
    True
    """
    if factor == 1:
        return volume

    def inverse(size: int) -> Tensor:
        each = torch.eye(size, dtype=volume.dtype, device=volume.device)
        wide = functional.interpolate(each[None], scale_factor=factor, mode="linear", align_corners=False)[0]
        back: Tensor = torch.linalg.pinv(wide.T)
        return back

    height, width = (size // factor for size in volume.shape[3:])
    found: Tensor = inverse(height) @ volume @ inverse(width).T
    return found


def along_z(volume: Tensor, axial_factor: int) -> Tensor:
    """Interpolate linearly along z, to `axial_factor` times the planes.

    Plane ``i`` of the volume is plane ``axial_factor i`` of the result, of which plane `k` is
    ``(1 - share) volume[i] + share volume[i + 1]`` with ``i + share = k / axial_factor``. Planes beyond the last
    measured one repeat it.

    Parameters
    ----------
    volume : tensor ``(B, C, d, H, W)``
    axial_factor : int

    Returns
    -------
    tensor ``(B, C, axial_factor d, H, W)``

    Raises
    ------
    ValueError
        If the factor is below 1.

    Examples
    --------
    >>> along_z(torch.tensor([0.0, 1.0]).reshape(1, 1, 2, 1, 1), 2).flatten()
    tensor([0.0000, 0.5000, 1.0000, 1.0000])
    """
    check_factor(axial_factor, "axial_factor")
    place = torch.arange(axial_factor * volume.shape[2], device=volume.device)
    below = place // axial_factor
    above = (below + 1).clamp(max=volume.shape[2] - 1)
    share = (place % axial_factor / axial_factor).to(volume.dtype)[:, None, None]
    return torch.lerp(volume.index_select(2, below), volume.index_select(2, above), share)


def check_factor(factor: int, name: str) -> None:
    """Raise a ValueError unless the factor is at least 1."""
    if factor < 1:
        raise ValueError(f"{name} must be at least 1, got {factor}")
