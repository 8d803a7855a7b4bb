"""The solvers' low-rank projections as denoisers of torch tensors: ``project(x, level) -> x0``.

Both take a state (or an estimate of it) ``(K, C, Z, Y, X)`` and the level of the white noise in it, and keep the
components above that noise: many of a nearly clean state, few of a noisy one. Every channel of every sample is
projected by itself.

Tensors become arrays without a copy (:mod:`~tensorcell.diffusion_guidance.exchange`), so that one on a GPU does not
pass through the host. These are plain functions: no gradient passes through them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from tensorcell.diffusion_guidance.compute import same_threads
from tensorcell.diffusion_guidance.exchange import tensor_of, to_array
from tensorcell.solvers import LocalOptions, hosvd, local_tucker, tucker_to_dense, unfold
from tensorcell.solvers.arrays import Array, namespace_of, to_host
from tensorcell.solvers.patch_groups import HARD, filtered, fitted, smoothed

RankOfLevel = Callable[[Array, float], Sequence[int]]


def levels_of(level: float | Tensor, samples: int) -> list[float]:
    """One number a sample, on the host."""
    numbers = [float(each) for each in torch.as_tensor(level).reshape(-1).tolist()]
    if len(numbers) not in (1, samples):
        raise ValueError(f"expected one level or {samples}, one a sample, got {len(numbers)}")
    if not all(number >= 0 and math.isfinite(number) for number in numbers):
        raise ValueError(f"expected levels of at least 0, got {numbers}")
    return numbers * samples if len(numbers) == 1 else numbers


def each_volume(x: Tensor, level: float | Tensor, project: Callable[[Array, float], Array]) -> Tensor:
    """``project(volume, level)`` of every channel of every sample, in float32 or float64."""
    if x.ndim < 4:
        raise ValueError(f"expected (K, C, *space) with at least two axes of space, got shape {tuple(x.shape)}")
    working = x.detach() if x.dtype in (torch.float32, torch.float64) else x.detach().float()
    result = torch.empty_like(working, memory_format=torch.contiguous_format)
    with same_threads():
        for sample, number in enumerate(levels_of(level, len(x))):
            for channel in range(x.shape[1]):
                volume = to_array(working[sample, channel].contiguous())
                result[sample, channel] = tensor_of(project(volume, number), working.device).to(working.dtype)
    return result.to(x.dtype)


def rank_above_noise(volume: Array, level: float, strength: float = 1.0) -> tuple[int, ...]:
    """Multilinear rank above white noise: the number of singular values of each unfolding above the largest of noise.

    Those of white noise of standard deviation ``level`` in an unfolding ``(m, n)`` end at
    ``level (sqrt(m) + sqrt(n))``; the limit is ``strength`` times that. At least 1, at most what the other ranks allow.

    Parameters
    ----------
    volume : array ``(I_1, ..., I_k)``
    level : float
        Standard deviation of the noise, in the volume's unit.
    strength : float
        Factor of the limit.

    Notes
    -----
    The singular values come from Gram matrices, at ``sum I_n`` multiplications a voxel and one transfer of ``sum I_n``
    numbers to the host. Rounding hides singular values below 1e-3 (float32) or 1e-7 (float64) of the largest, so that
    at levels below that the rank is one of rounding errors.

    References
    ----------
    Gavish & Donoho 2014, doi:10.1109/TIT.2014.2323359 (singular values of noise).

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> tensor = np.einsum("ir,jr,kr->ijk", *(rng.standard_normal((n, 2)) for n in (20, 21, 22)))
    >>> rank_above_noise(tensor + 0.1 * rng.standard_normal(tensor.shape), 0.1)
    (2, 2, 2)
    """
    xp = namespace_of(volume)
    ranks = []
    for mode, size in enumerate(volume.shape):
        matrix = unfold(volume, mode)
        values = to_host(xp.linalg.eigvalsh(matrix @ matrix.T))
        edge = strength * level * (math.sqrt(size) + math.sqrt(matrix.shape[1]))
        ranks.append(max(1, int((values > edge**2).sum())))
    return tuple(min(rank, math.prod(ranks) // rank) for rank in ranks)


@dataclass(frozen=True)
class TuckerProjection:
    """The truncated HOSVD of every volume, at a rank that follows the noise level.

    Parameters
    ----------
    rank_of_level : callable ``(volume, level) -> rank``
        Default: :func:`rank_above_noise`.

    Raises
    ------
    ValueError
        If the state has fewer than two axes of space, or levels do not fit.

    Notes
    -----
    The error of :func:`tensorcell.solvers.hosvd` is within ``sqrt(k)`` of the smallest possible at that rank. A volume
    of low rank has its structure along the axes. The projection removes structure that is oblique to them, so look at
    the difference that it makes.

    Examples
    --------
    >>> x = torch.ones(2, 1, 4, 5, 6)
    >>> bool(torch.allclose(TuckerProjection()(x, 0.5), x, atol=1e-5))
    True
    """

    rank_of_level: RankOfLevel = rank_above_noise

    def __call__(self, x: Tensor, level: float | Tensor) -> Tensor:
        """The projection of ``x`` ``(K, C, *space)``; ``level`` is a number or ``(K,)``."""

        def project(volume: Array, number: float) -> Array:
            return tucker_to_dense(*hosvd(volume, tuple(self.rank_of_level(volume, number))))

        return each_volume(x, level, project)


@dataclass(frozen=True)
class LocalTuckerProjection:
    """Groups of similar patches, each shrunk as a small Tucker tensor above the noise level.

    Parameters
    ----------
    passes : {"one", "all"}
        ``"one"``: the first stage of :func:`tensorcell.solvers.local_tucker`, cores thresholded at 2.9 times the level,
        for every step of a sampler. ``"all"``: ``local_tucker`` itself, whose stages are weighted by Stein's estimate;
        about eight times the cost, for last steps.
    strength : float
        The noise assumed is ``strength * level``.
    options : LocalOptions
        Sizes of the patches and groups.

    Raises
    ------
    ValueError
        If passes or strength are out of range, the state is neither a volume nor a slice, or levels do not fit.

    Notes
    -----
    Computed in float32. At level 0 nothing is changed. Slices ``(K, C, Y, X)`` count as volumes of one plane.

    Examples
    --------
    >>> noise = torch.randn(1, 1, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    >>> bool(LocalTuckerProjection()(noise, 1.0).std() < 0.3)
    True
    """

    passes: Literal["one", "all"] = "one"
    strength: float = 1.0
    options: LocalOptions = field(default_factory=LocalOptions)

    def __post_init__(self) -> None:
        if self.passes not in ("one", "all"):
            raise ValueError(f"expected passes 'one' or 'all', got {self.passes!r}")
        if not self.strength > 0:
            raise ValueError(f"expected a strength above 0, got {self.strength}")

    def __call__(self, x: Tensor, level: float | Tensor) -> Tensor:
        """The projection of ``x`` ``(K, C, Z, Y, X)`` or ``(K, C, Y, X)``; ``level`` is a number or ``(K,)``."""
        if x.ndim == 4:
            return self(x[:, :, None], level)[:, :, 0]
        if x.ndim != 5:
            raise ValueError(f"expected (K, C, Z, Y, X) or (K, C, Y, X), got shape {tuple(x.shape)}")
        return each_volume(x, level, self._project)

    def _project(self, volume: Array, level: float) -> Array:
        noise = self.strength * level
        if noise == 0:
            return volume
        if self.passes == "all":
            return local_tucker(volume, noise=noise, robust=False, options=self.options).value
        return first_stage(volume, noise, self.options)


def first_stage(volume: Array, noise: float, options: LocalOptions) -> Array:
    """The first stage of ``local_tucker`` on a volume without missing voxels, in its dtype."""
    xp: Any = namespace_of(volume)
    centre = xp.mean(volume)
    y = xp.astype(volume - centre, xp.float32)
    estimate, _ = filtered(y, smoothed(y), None, noise, HARD, fitted(options, y.shape))
    return xp.astype(estimate, volume.dtype) + centre
