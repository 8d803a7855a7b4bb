"""Scores of an estimate against a reference, and of a volume without a reference.

No score fits a scale or a shift first: an estimate in another unit scores badly, as it should (`pcc` and the Fourier
correlations are blind to scale and shift by their definition). Every score is computed in float64, one slab of the
arrays at a time, so that integers do not overflow and large stacks need little memory; only a Fourier transform along
all axes holds a whole volume.

====================  ======================================================  ========================================
question              scores                                                  modules
====================  ======================================================  ========================================
agreement             `psnr`, `nrmse`, `ssim`, `ccc`, `pcc`, `ms_ssim`        ``voxels``, ``planes``
agreement along z     `profile_ccc`, `profile_pcc`, `profile_ssim`            ``profiles``
spectra               `hf_spectral_error`, `fourier_ring_correlation`,        ``spectra``
                      `fourier_shell_correlation`
labels and masks      `panoptic_quality`, `f1`, `dice`                        ``labels``
sharpness             `laplacian_variance` (without a reference)              ``sharpness``
perception            `lpips`; without a reference `niqe`, `piqe`, `nrqm`     ``lpips_score``, ``niqe_score``,
                                                                              ``piqe_score``, ``nrqm_score``
====================  ======================================================  ========================================

Wherever a function takes ``mask``, True marks a voxel that is scored. A score that comes with further numbers is a
`Score`: a float with attributes.

The perceptual scores were made for photographs and are trained or tuned on them. For microscopy they compare methods on
one kind of data; their numbers have no absolute meaning, and none of them notices that a structure is invented. They
score a plane (2-D) or every plane of a stack (3-D) and return the mean over the planes. Intensities from 0 to
``data_range`` are black to white, and intensities outside are clipped. `lpips`, `niqe` and `nrqm` need the published
parameters of their authors: each function takes the path of the file, says what the file must hold, and never
downloads anything. `piqe` has no parameters.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .labels import dice, f1, panoptic_quality
from .planes import ms_ssim
from .profiles import profile_ccc, profile_pcc, profile_ssim
from .scores import (
    F1Score,
    FourierCorrelation,
    MultiScaleSSIM,
    PanopticQuality,
    PlaneScore,
    ProfileScore,
    Score,
    SpectralScore,
)
from .sharpness import laplacian_variance
from .spectra import fourier_ring_correlation, fourier_shell_correlation, hf_spectral_error
from .voxels import ccc, nrmse, pcc, psnr, ssim

if TYPE_CHECKING:
    from .lpips_score import lpips
    from .niqe_score import niqe
    from .nrqm_score import nrqm
    from .piqe_score import piqe

__all__ = [
    "F1Score",
    "FourierCorrelation",
    "MultiScaleSSIM",
    "PanopticQuality",
    "PlaneScore",
    "ProfileScore",
    "Score",
    "SpectralScore",
    "ccc",
    "dice",
    "f1",
    "fourier_ring_correlation",
    "fourier_shell_correlation",
    "hf_spectral_error",
    "laplacian_variance",
    "lpips",
    "ms_ssim",
    "niqe",
    "nrmse",
    "nrqm",
    "panoptic_quality",
    "pcc",
    "piqe",
    "profile_ccc",
    "profile_pcc",
    "profile_ssim",
    "psnr",
    "ssim",
]

_IMPORTED_ON_DEMAND = {"lpips": "lpips_score", "niqe": "niqe_score", "nrqm": "nrqm_score", "piqe": "piqe_score"}
"""The perceptual scores and their modules, which need h5py and scipy.io: these take time to import."""


def __getattr__(name: str) -> Any:
    """Import a perceptual score when it is first asked for."""
    if name in _IMPORTED_ON_DEMAND:
        return getattr(importlib.import_module(f".{_IMPORTED_ON_DEMAND[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_IMPORTED_ON_DEMAND})
