"""The random numbers of samplers: white noise, noise that neighbouring slices share, and antithetic pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from tensorcell.diffusion_guidance.steps import Draw


class Noise(Protocol):
    """A function that draws numbers of a standard normal law each; ``torch.randn`` is one."""

    def __call__(
        self, size: Sequence[int], *, generator: torch.Generator, dtype: torch.dtype, device: torch.device
    ) -> Tensor:
        """A tensor of this size."""
        ...


def correlated_noise(correlation: float, axis: int = 2) -> Noise:
    """Noise whose slices along one axis are correlated by ``correlation^distance`` (ISCS, arXiv 2602.04162).

    Each slice by itself is white noise of unit variance. So with a denoiser and a measurement that treat slices
    separately, every slice keeps its law *exactly*, and only the coupling between slices changes: for this case ISCS
    was made. With a denoiser that sees several slices it is an approximation, because the denoiser was trained on
    another noise. The paper interpolates spherically between independent slices; this is the stationary form of it, in
    which each slice is a mix of the one before and fresh noise.

    Parameters
    ----------
    correlation : float
        Correlation of neighbouring slices, 0 to 1; 1 gives all slices the same noise.
    axis : int
        The axis of ``(K, C, *space)`` along which slices follow each other; 2 is z.

    Raises
    ------
    ValueError
        Unless ``0 <= correlation <= 1`` and the axis is one of space.

    >>> drawn = correlated_noise(1.0)((1, 1, 3, 2, 2), generator=torch.Generator().manual_seed(0),
    ...                               dtype=torch.float32, device=torch.device("cpu"))
    >>> bool((drawn[:, :, 0] == drawn[:, :, 2]).all())
    True
    """
    if not 0 <= correlation <= 1:
        raise ValueError(f"correlation must be between 0 and 1, got {correlation}")
    if axis < 2:
        raise ValueError(f"expected an axis of space, 2 or above, got {axis}")
    fresh_share = math.sqrt(1 - correlation**2)

    def noise(size: Sequence[int], *, generator: torch.Generator, dtype: torch.dtype, device: torch.device) -> Tensor:
        fresh = torch.randn(tuple(size), generator=generator, dtype=dtype, device=device)
        slices = list(fresh.unbind(axis))
        for index in range(1, len(slices)):
            slices[index] = correlation * slices[index - 1] + fresh_share * slices[index]
        return torch.stack(slices, axis)

    return noise


def drawing(
    noise: Noise, generator: torch.Generator, dtype: torch.dtype, device: torch.device, antithetic: bool
) -> Draw:
    """A function from a size to random numbers on the device; antithetic ones have a mirrored second half."""

    def draw(size: Sequence[int]) -> Tensor:
        count = size[0] // 2 if antithetic else size[0]
        wanted = (count, *size[1:])
        drawn = noise(wanted, generator=generator, dtype=dtype, device=generator.device)
        if drawn.shape != wanted:
            raise ValueError(f"noise must return the size it was asked for, {wanted}, got {tuple(drawn.shape)}")
        drawn = drawn.to(device)
        return torch.cat([drawn, -drawn]) if antithetic else drawn

    return draw
