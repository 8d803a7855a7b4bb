"""Measurements and denoisers as modules of deepinv (https://deepinv.github.io), which is imported when it is needed.

deepinv's images are tensors ``(B, C, D, H, W)`` or ``(B, C, H, W)`` with values in [0, 1], its denoisers are called as
``denoiser(x, sigma)`` where sigma is in the unit of x, and its operators are modules with ``A``, ``A_adjoint``,
``A_dagger``, ``prox_l2`` and a ``noise_model``. A measurement with missing voxels or planes is its ``Inpainting``,
whose maps are closed forms and whose singular values its samplers read.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tensorcell.diffusion_guidance.denoisers import perpendicular
from tensorcell.diffusion_guidance.paths import Denoiser
from tensorcell.diffusion_guidance.priors import LateralPrior, VolumePrior
from tensorcell.diffusion_guidance.solver_terms import LocalTuckerProjection, TuckerProjection

PROJECTIONS = {"local": LocalTuckerProjection, "tucker": TuckerProjection}
"""Denoisers of the solvers by name: no gradient passes through them."""

SLICES_AT_ONCE = 8
"""Slices in one call of the network of a lateral prior."""


def inpainting(mask: npt.NDArray[np.bool_], sigma: float) -> Any:
    """``deepinv.physics.Inpainting`` with Gaussian noise.

    Parameters
    ----------
    mask : bool array (B, C, D, H, W) or (B, C, H, W)
        True = measured.
    sigma : float
        Standard deviation of the noise, in the unit of the images.

    Raises
    ------
    ImportError
        If deepinv cannot be imported, in one line.
    """
    try:
        physics = importlib.import_module("deepinv").physics
    except (ImportError, RuntimeError) as error:  # torchvision for another torch raises a RuntimeError
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ImportError(f"expected deepinv (pip install deepinv), which cannot be imported: {reason}") from None
    return physics.Inpainting(
        tuple(mask.shape[1:]), mask=torch.from_numpy(mask).float(), noise_model=physics.GaussianNoise(sigma)
    )


class DenoiserModule(nn.Module):
    """A denoiser ``(x, level) -> x0``, a projection of the solvers or a prior, as deepinv calls its denoisers.

    Parameters
    ----------
    denoiser : {"local", "tucker"}, LateralPrior, VolumePrior or callable
        ``"local"``: groups of similar patches; ``"tucker"``: the truncated HOSVD. A prior denoises in its own unit
        (`location` and `scale`); a lateral one takes the xz and the yz slices of volumes, and the mean of both.
        A callable is ``denoise(x, level)`` in the unit of x.

    Raises
    ------
    ValueError
        If the name is unknown, or the denoiser is none of these.

    Notes
    -----
    Priors and callables pass gradients on; the projections do not, so that samplers which differentiate the denoiser
    (DPS, PiGDM) refuse them in one line.

    Examples
    --------
    >>> DenoiserModule("tucker")(torch.ones(1, 1, 4, 5, 6), 0.5).shape
    torch.Size([1, 1, 4, 5, 6])
    """

    def __init__(self, denoiser: Any = "local") -> None:
        super().__init__()
        self.differentiable = True
        if isinstance(denoiser, LateralPrior):
            self.network = denoiser.network  # so that `to(device)` moves it
            self.denoise = of_prior(denoiser)
        elif callable(denoiser):
            self.denoise = denoiser
        elif denoiser in PROJECTIONS:
            self.denoise = PROJECTIONS[denoiser]()
        else:
            raise ValueError(f"expected {', '.join(PROJECTIONS)}, a prior or a callable as denoiser, got {denoiser!r}")
        self.differentiable = not isinstance(self.denoise, tuple(PROJECTIONS.values()))

    def forward(self, x: Tensor, sigma: float | Tensor, *_: Any, **__: Any) -> Tensor:
        """The denoised images.

        Parameters
        ----------
        x : tensor (B, C, D, H, W) or (B, C, H, W)
        sigma : float or tensor with 1 or B entries
            Standard deviation of the noise in x, in its unit.

        Raises
        ------
        ValueError
            If sigma has another number of entries.
        TypeError
            If a gradient is asked for that does not pass.
        """
        if not self.differentiable and x.requires_grad and torch.is_grad_enabled():
            raise TypeError(
                "expected a sampler that does not differentiate its denoiser (as PnP, DiffPIR and DDRM), got one that "
                "does: no gradient passes through a projection of the solvers, one passes through a prior"
            )
        level = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).reshape(-1)
        if len(level) not in (1, len(x)):
            raise ValueError(f"sigma must be one number or one a sample, {len(x)}, got {len(level)}")
        return self.denoise(x, level.expand(len(x)))


def of_prior(prior: LateralPrior) -> Denoiser:
    """The denoiser of a prior in the unit of its data: of volumes, and of slices if it is lateral."""

    def denoise(x: Tensor, level: float | Tensor) -> Tensor:
        return prior.restore(prior.denoise(prior.standardise(x), level / prior.scale))

    if isinstance(prior, VolumePrior):
        return denoise
    # The rows of the slices that the network was shown are those of the axis along which planes are missing.
    of_volume = perpendicular(denoise, ("zx", "zy"), batch=SLICES_AT_ONCE)

    def denoise_either(x: Tensor, level: float | Tensor) -> Tensor:
        return of_volume(x, level) if x.ndim == 5 else denoise(x, level)

    return denoise_either
