"""The baselines by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import nn

from tensorcell.diffusion_guidance.baselines import care, dbpn, ddpm, rln, swinir
from tensorcell.diffusion_guidance.baselines.rcan3d import RCAN3d
from tensorcell.diffusion_guidance.baselines.srcnn import SRCNN
from tensorcell.diffusion_guidance.baselines.volumes import ResidualRestoration
from tensorcell.diffusion_guidance.microdiffuse3d.degradation import check_factor


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """A network that MicroDiffuse3D is compared with.

    Attributes
    ----------
    name : str
    make : callable ``(axial_factor, lateral_factor, width) -> module``
    width : int
        Default number of features, for which a step of training takes a fraction of a second on a CPU.
    summary : str
    reference : str
        DOI or arXiv number.
    """

    name: str
    make: Callable[[int, int, int], nn.Module]
    width: int
    summary: str
    reference: str


def _srcnn(axial_factor: int, lateral_factor: int, width: int) -> nn.Module:
    return ResidualRestoration(SRCNN(width), axial_factor=axial_factor, slicewise=True)


def _care(axial_factor: int, lateral_factor: int, width: int) -> nn.Module:
    return ResidualRestoration(care.ResidualUNet(width), axial_factor=axial_factor, multiples=care.MULTIPLES)


def _swinir(axial_factor: int, lateral_factor: int, width: int) -> nn.Module:
    multiples = 1, swinir.SIDE, swinir.SIDE
    return ResidualRestoration(swinir.SwinIR(width), axial_factor=axial_factor, multiples=multiples, slicewise=True)


def _rln(axial_factor: int, lateral_factor: int, width: int) -> nn.Module:
    return ResidualRestoration(rln.RLN(width), axial_factor=axial_factor, multiples=rln.MULTIPLES)


def _rcan3d(axial_factor: int, lateral_factor: int, width: int) -> nn.Module:
    return ResidualRestoration(RCAN3d(width), axial_factor=axial_factor)


def _dbpn(axial_factor: int, lateral_factor: int, width: int) -> nn.Module:
    scale = dbpn.scale_of(lateral_factor)
    network = dbpn.DBPN(width, scale)
    return ResidualRestoration(network, axial_factor=axial_factor, multiples=(1, scale, scale), slicewise=True)


def _ddpm(axial_factor: int, lateral_factor: int, width: int) -> nn.Module:
    return ddpm.ConditionalDDPM(width)  # its condition was interpolated before


BASELINES: Mapping[str, Baseline] = MappingProxyType({
    each.name: each
    for each in (
        Baseline(
            name="srcnn", make=_srcnn, width=64, reference="doi:10.1109/TPAMI.2015.2439281",
            summary="Three convolutions refine each plane.",
        ),
        Baseline(
            name="care", make=_care, width=16, reference="doi:10.1038/s41592-018-0216-7",
            summary="A residual 3-D U-Net refines the volume.",
        ),
        Baseline(
            name="swinir", make=_swinir, width=16, reference="arXiv:2108.10257",
            summary="Attention within shifted windows refines each plane.",
        ),
        Baseline(
            name="rln", make=_rln, width=8, reference="doi:10.1038/s41592-022-01652-7",
            summary="Richardson-Lucy steps with learned projectors at two resolutions refine the volume.",
        ),
        Baseline(
            name="rcan3d", make=_rcan3d, width=16, reference="doi:10.1038/s41592-021-01155-x",
            summary="3-D residual groups with channel attention refine the volume.",
        ),
        Baseline(
            name="dbpn", make=_dbpn, width=16, reference="arXiv:1803.02735",
            summary="Up- and down-projections with feedback of their errors refine each plane.",
        ),
        Baseline(
            name="ddpm", make=_ddpm, width=16, reference="arXiv:2006.11239, arXiv:2104.07636",
            summary="A diffusion model draws volumes given the interpolation along z.",
        ),
    )
})  # fmt: skip
"""All of them."""


def make_baseline(
    name: str, *, axial_factor: int, lateral_factor: int = 1, width: int | None = None, seed: int = 0
) -> nn.Module:
    """An untrained baseline.

    Parameters
    ----------
    name : str
        One of :data:`BASELINES`.
    axial_factor, lateral_factor : int
        Planes, and pixels a side, of the restored volume per plane and pixel measured.
    width : int, optional
        Features; by default those of the baseline.
    seed : int
        Of the weights; torch's global generator is left as it is.

    Returns
    -------
    module
        ``(B, 1, d, H, W) -> (B, 1, axial_factor d, H, W)``, where the measured pixels were interpolated to the lateral
        size of the restored volume before; the :class:`~tensorcell.diffusion_guidance.baselines.ddpm.ConditionalDDPM`
        has a call of its own.

    Raises
    ------
    ValueError
        If there is no such baseline, or a number does not fit.

    Examples
    --------
    >>> make_baseline("rln", axial_factor=4)(torch.zeros(1, 1, 2, 9, 7)).shape
    torch.Size([1, 1, 8, 9, 7])
    """
    if name not in BASELINES:
        raise ValueError(f"baseline must be one of {', '.join(BASELINES)}, got {name!r}")
    check_factor(axial_factor, "axial_factor")
    check_factor(lateral_factor, "lateral_factor")
    baseline = BASELINES[name]
    features = baseline.width if width is None else width
    if features < 1:
        raise ValueError(f"width must be at least 1, got {features}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return baseline.make(axial_factor, lateral_factor, features)
