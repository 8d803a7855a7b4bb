"""Restored volumes brought into agreement with the measurement, as far as that is more than noise.

A network restores what is common; a measurement may hold what is not. What would have been measured of the restored
volume is compared with what was measured, and what noise does not explain of the difference is put back.

========  ==========================================================================  =================
letter    meaning                                                                     shape
========  ==========================================================================  =================
`A`       the acquisition without noise (:meth:`Degradation.expected`)                d h w x D H W
`B`       interpolation of measured planes and pixels                                 D H W x d h w
`y`, `v`  measured planes, and the variance of their noise                            ``(d, h, w)``
`x`       restored volume                                                             ``(D, H, W)``
`r`       residual ``y - A x``                                                        ``(d, h, w)``
`g`       share of the residual that is no noise                                      ``(d, h, w)``
========  ==========================================================================  =================

``x <- x + B (g r)``, a few times (back-projection; M. Irani, S. Peleg 1991, doi:10.1016/1049-9652(91)90045-L), where
``g = max(0, 1 - 2 v / <r^2>)`` with the mean over 3 x 3 pixels of a plane (J.-S. Lee 1980,
doi:10.1109/TPAMI.1980.4766994).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from tensorcell.diffusion_guidance.microdiffuse3d.data import Example
from tensorcell.diffusion_guidance.microdiffuse3d.degradation import Degradation, along_z, enlarged, pixels_of

EVIDENT = 2.0
"""A mean of nine squares of noise is above so many times its variance in one of 28 places only."""

ITERATIONS = 4
"""Back-projections."""

WIDEST = 12.0
"""Widest PSF that is looked for, in voxels."""


FLAT = 1e-6
"""A volume that varies by less than this share of its largest value is flat."""


class Scale(NamedTuple):
    """How restored intensities become measured ones: ``slope x + offset``."""

    slope: float
    offset: float


def scale_of(restored: Tensor, measured: Tensor, acquisition: Degradation) -> Scale:
    """The scale with which the restored volume ``(1, 1, D, H, W)`` explains the measurement ``(1, 1, d, h, w)`` best.

    The network and the measurement are normalised by their own limits. Least squares; a volume that explains nothing
    has slope 1 and the difference of the means as offset.
    """
    seen = acquisition.expected(restored).double().flatten()
    light = acquisition.expected(torch.ones_like(restored)).double().flatten()
    if float(seen.std()) > FLAT * float(seen.abs().max()):
        # On the host, whose solver copes with columns that depend on each other; that of GPUs does not.
        matrix = torch.stack([seen, light], dim=1).cpu()
        found = torch.linalg.lstsq(matrix, measured.double().flatten()[:, None].cpu()).solution[:, 0]
        slope, offset = float(found[0]), float(found[1])
        if math.isfinite(slope) and math.isfinite(offset) and slope > 0:
            return Scale(slope, offset)
    return Scale(1.0, float((measured.double().mean() - seen.mean()) / light.mean()))


def residual_of(restored: Tensor, measured: Tensor, acquisition: Degradation) -> Tensor:
    """``y - A x`` of a volume in measured intensities."""
    return measured - acquisition.expected(restored)


def misfit_of(residual: Tensor, variance: Tensor, measured: Tensor) -> float:
    """Root mean square residual beyond noise, as a share of the standard deviation of the measurement."""
    beyond = float((residual.double().square() - variance.double()).mean())
    return math.sqrt(max(beyond, 0.0) / max(float(measured.double().var()), 1e-30))


def brought_into_agreement(
    restored: Tensor, measured: Tensor, variance: Tensor, acquisition: Degradation, iterations: int = ITERATIONS
) -> Tensor:
    """``x`` after the back-projections.

    Parameters
    ----------
    restored : tensor ``(1, 1, D, H, W)``
        In measured intensities.
    measured, variance : tensors ``(1, 1, d, h, w)``
    acquisition : Degradation
    """
    for _ in range(iterations):
        residual = residual_of(restored, measured, acquisition)
        restored = restored + back_projected(shrunk(residual, variance), acquisition)
    return restored


def shrunk(residual: Tensor, variance: Tensor) -> Tensor:
    """``g r``: the residual without what noise explains of it."""
    square = functional.pad(residual.square(), (1, 1, 1, 1, 0, 0), mode="replicate")
    local = functional.avg_pool3d(square, (1, 3, 3), stride=1)
    share = 1 - EVIDENT * variance / local.clamp(min=torch.finfo(local.dtype).tiny)
    return share.clamp(min=0) * residual


def back_projected(residual: Tensor, acquisition: Degradation) -> Tensor:
    """``B r``: planes after the last measured one repeat it."""
    return along_z(enlarged(residual, acquisition.lateral_factor), acquisition.axial_factor)


def with_fitted_psf(acquisition: Degradation, examples: Sequence[Example]) -> Degradation:
    """The acquisition with the Gaussian PSF that explains pairs of scans best.

    Widths along z and laterally are found by least squares (Nelder and Mead's method), each pair with a scale of its
    own. Pairs that differ in nothing but planes and pixels get widths near 0. The PSF found replaces that of the
    acquisition.

    Parameters
    ----------
    acquisition : Degradation
        Its factors are those of the pairs.
    examples : sequence of Example
        Their volumes are at the lateral size of the truth.
    """
    from scipy.optimize import minimize

    pixels = [pixels_of(each.volume, acquisition.lateral_factor) for each in examples]

    def seen_with(widths: Any) -> Degradation:
        axial, lateral = (float(min(max(width, 0.0), WIDEST)) for width in widths)
        return replace(acquisition, psf=(axial, lateral, lateral), kernel=None)

    def misfit(widths: Any) -> float:
        tried, total = seen_with(widths), 0.0
        for each, measured in zip(examples, pixels, strict=True):
            slope, offset = scale_of(each.truth, measured, tried)
            total += float(residual_of(slope * each.truth + offset, measured, tried).double().square().mean())
        return total

    starts = [(axial, lateral) for axial in (0.5, 2.0) for lateral in (0.5, 1.5)]
    best = min(starts, key=misfit)
    found = minimize(misfit, best, method="Nelder-Mead", options={"maxfev": 60, "xatol": 0.02, "fatol": 0.0})
    return seen_with(found.x)
