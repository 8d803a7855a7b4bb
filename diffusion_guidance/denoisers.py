"""Denoisers of volumes made of a denoiser of slices, ``denoise(x, level) -> x0`` with ``x = x0 + level * noise``.

:func:`slicewise` denoises the slices of one orientation; :func:`perpendicular` multiplies the priors of several.

References
----------
S. Lee et al., Improving 3D imaging with pre-trained perpendicular 2D diffusion models, arXiv 2303.08440.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tensorcell.diffusion_guidance.paths import Denoiser

PLANES = {"yx": (2, 3, 4), "zx": (3, 2, 4), "zy": (4, 2, 3)}
"""Orientations of slices: the axis along which they are stacked, and the two axes that span them."""


def slicewise(denoise_2d: Denoiser, plane: str, batch: int | None = None) -> Denoiser:
    """A denoiser of volumes that denoises every slice of one orientation by itself.

    Parameters
    ----------
    denoise_2d : denoiser of slices ``(N, C, H, W)``
    plane : {"yx", "zx", "zy"}
        Axes of the slices.
    batch : int, optional
        Largest number of slices in one call, which limits the memory; None: all.

    Raises
    ------
    ValueError
        If the plane is unknown, the batch below 1, or the state is no volume.

    Examples
    --------
    >>> slicewise(lambda x, level: x - x.mean((2, 3), keepdim=True), "yx")(torch.ones(1, 1, 2, 3, 3), 1.0).abs().max()
    tensor(0.)
    """
    if plane not in PLANES:
        raise ValueError(f"expected plane 'yx', 'zx' or 'zy', got {plane!r}")
    if batch is not None and batch < 1:
        raise ValueError(f"expected a batch of at least 1, got {batch}")
    across = PLANES[plane][0]

    def denoise(x: Tensor, level: float | Tensor) -> Tensor:
        if x.ndim != 5:
            raise ValueError(f"expected volumes (K, C, Z, Y, X), got shape {tuple(x.shape)}")
        slices = x.movedim(across, 1)  # (K, n, C, H, W)
        flat = slices.reshape(-1, *slices.shape[2:])  # (K n, C, H, W)
        levels = (
            torch.as_tensor(level, dtype=x.dtype, device=x.device).expand(len(x)).repeat_interleave(slices.shape[1])
        )
        size = len(flat) if batch is None else batch
        parts = [denoise_2d(a, b) for a, b in zip(torch.split(flat, size), torch.split(levels, size), strict=True)]
        return torch.cat(parts).reshape(slices.shape).movedim(1, across)

    return denoise


def perpendicular(
    denoise_2d: Denoiser,
    planes: Sequence[str] = ("yx", "zx", "zy"),
    weights: Sequence[float] | None = None,
    *,
    alternate: bool = False,
    batch: int | None = None,
) -> Denoiser:
    """A denoiser of volumes from a denoiser of slices: the product of perpendicular 2-D priors.

    Each orientation p is a prior of volumes whose slices are independent draws of the 2-D prior. Their weighted
    product at every noise level, ``prod_p p_p(x; level)^{w_p}``, has the score ``sum_p w_p score_p``, so by Tweedie's
    formula

        ``x0(x) = x + sum_p w_p (d_p(x) - x)``.

    Parameters
    ----------
    denoise_2d : denoiser of slices ``(N, C, H, W)``
        Called with the slices of all samples, and the level of each as a tensor ``(N,)``.
    planes : sequence of {"yx", "zx", "zy"}
    weights : one number a plane, optional
        ``w_p``; None: ``1 / P`` each.
    alternate : bool
        Use one orientation in each call, in turn (as TPDM does), at a third of the cost. The result then depends on how
        often the denoiser was called before. The turns are equal, so that the weights must be equal, too.
    batch : int, optional
        Largest number of slices in one call of the network; None: all.

    Raises
    ------
    ValueError
        If there is no plane, one is unknown, or the weights do not fit.

    Notes
    -----
    **Weights.** For a white Gaussian prior each orientation alone is already exact: ``score_p = -x / (1 + level^2)``.
    So is their product if and only if ``sum_p w_p = 1``. The same holds at high noise for every prior, where every
    score tends to ``-x / level^2``: a sum ``W`` of weights other than 1 counts the noise ``W`` times, and the sampler
    overshoots. Equal weights ``1 / P`` are therefore the default: the geometric mean of the orientations' priors. This
    is not the prior of volumes itself. Where orientations bring independent knowledge the geometric mean is too wide,
    and the product taken at each noise level is not the noised product of the clean priors (at level 0 and for the
    white Gaussian it is).

    References
    ----------
    S. Lee, H. Chung, M. Park, J. Park, W.-S. Ryu, J. C. Ye, arXiv 2303.08440.

    Examples
    --------
    >>> white = perpendicular(lambda x, level: x / (1 + level[:, None, None, None] ** 2))
    >>> white(torch.ones(1, 1, 2, 2, 2), 2.0).flatten()[0]
    tensor(0.2000)
    """
    if not planes:
        raise ValueError("expected at least one plane, got none")
    shares = [1 / len(planes)] * len(planes) if weights is None else list(weights)
    if len(shares) != len(planes) or not all(math.isfinite(share) for share in shares):
        raise ValueError(f"expected {len(planes)} finite weights, one a plane, got {shares}")
    if alternate and len(set(shares)) > 1:
        raise ValueError(f"expected equal weights where planes take turns, got {shares}")
    denoisers = [slicewise(denoise_2d, plane, batch) for plane in planes]
    turns = itertools.cycle(denoisers)
    total = sum(shares)

    def denoise(x: Tensor, level: float | Tensor) -> Tensor:
        if alternate:
            return x + total * (next(turns)(x, level) - x)
        result = (1 - total) * x
        for share, each in zip(shares, denoisers, strict=True):
            result = result + share * each(x, level)
        return result

    return denoise
