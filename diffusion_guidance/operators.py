"""Linear measurements of volumes: masks, planes left out, differences, compositions, and their normal equations.

A state has shape ``(K, C, Z, Y, X)`` (or ``(K, C, Y, X)``): K samples, C channels. An operator ``A`` acts on the last
axes, the same way for every sample and channel.

======================= ============================================== =======================================
operator                ``A x``                                        ``A'A + w I`` is solved by
======================= ============================================== =======================================
:class:`Identity`       ``x``                                          a division
:class:`Mask`           ``x`` where observed, else 0                   a division
:class:`Planes`         planes 0, s, 2s, ...                           a division
:class:`SecondDifference` second differences along z                   eigenvalues of one matrix
:class:`Compose`        ``A_1 A_2 ... x``                              conjugate gradients
======================= ============================================== =======================================

Blurs are in :mod:`~tensorcell.diffusion_guidance.blurs`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Weight = float | Tensor
Matrix = npt.NDArray[np.float64]


class Operator(Protocol):
    """A linear map between tensors, and its adjoint: ``<A x, y> = <x, A' y>``."""

    def forward(self, x: Tensor) -> Tensor:
        """``A x``."""
        ...

    def adjoint(self, y: Tensor) -> Tensor:
        """``A' y``."""
        ...


@runtime_checkable
class Solvable(Protocol):
    """An operator whose normal equations have a closed solution."""

    def solve(self, rhs: Tensor, weight: Weight) -> Tensor:
        """``(A'A + weight I)^-1 rhs``; with weight 0 the pseudo-inverse ``(A'A)^+ rhs``."""
        ...


def per_sample(value: float | Tensor, like: Tensor) -> Tensor:
    """A number, or one a sample ``(K,)``, shaped so that it multiplies ``(K, C, *space)``.

    Raises
    ------
    ValueError
        If there are neither one nor K numbers.

    >>> per_sample(torch.tensor([1.0, 2.0]), torch.zeros(2, 1, 3, 3)).shape
    torch.Size([2, 1, 1, 1])
    """
    number = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    if number.ndim == 0:
        return number
    if number.shape != like.shape[:1]:
        raise ValueError(f"expected one number or {like.shape[0]}, one a sample, got shape {tuple(number.shape)}")
    return number.reshape(-1, *(1,) * (like.ndim - 1))


def sample_sum(values: Tensor) -> Tensor:
    """Sum over everything but the samples: ``(K, ...)`` to ``(K,)``."""
    return values.flatten(1).sum(1)


def divided(rhs: Tensor, spectrum: Tensor, weight: Weight) -> Tensor:
    """``rhs / (spectrum + weight)``, and 0 where that is a division by (rounded) zero."""
    added = per_sample(weight, rhs)
    total = spectrum + added
    kept = total > torch.where(added > 0, 0.0, 100 * torch.finfo(rhs.dtype).eps * spectrum.max())
    return torch.where(kept, rhs / torch.where(kept, total, 1.0), 0.0)


@dataclass(frozen=True)
class Identity:
    """Everything is observed: ``A x = x``."""

    def forward(self, x: Tensor) -> Tensor:
        """``x``."""
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        """``y``."""
        return y

    def solve(self, rhs: Tensor, weight: Weight) -> Tensor:
        """``rhs / (1 + weight)``."""
        return rhs / (1 + per_sample(weight, rhs))


@dataclass(frozen=True, eq=False)
class Mask:
    """Some entries are observed: ``A x = x`` there and 0 elsewhere (so that NaN under the mask changes nothing).

    Parameters
    ----------
    mask : bool tensor that broadcasts to ``(K, C, *space)``
        True = observed.

    Raises
    ------
    TypeError
        If the mask is not boolean.

    Examples
    --------
    >>> Mask(torch.tensor([True, False])).forward(torch.tensor([[[3.0, float("nan")]]]))
    tensor([[[3., 0.]]])
    """

    mask: Tensor

    def __post_init__(self) -> None:
        if self.mask.dtype != torch.bool:
            raise TypeError(f"expected a bool mask (True = observed), got dtype {self.mask.dtype}")

    def forward(self, x: Tensor) -> Tensor:
        """``x`` where observed, else 0."""
        return torch.where(self.mask, x, 0.0)

    def adjoint(self, y: Tensor) -> Tensor:
        """The same: a mask is symmetric."""
        return torch.where(self.mask, y, 0.0)

    def solve(self, rhs: Tensor, weight: Weight) -> Tensor:
        """``rhs / (W + weight)``."""
        return divided(rhs, self.mask.to(rhs.dtype), weight)


@dataclass(frozen=True)
class Planes:
    """Every ``factor``-th plane is seen: ``A x`` are planes 0, s, 2s, ... of ``(K, C, Z, Y, X)``.

    Parameters
    ----------
    factor : int
        ``s``, at least 1.
    planes : int, optional
        ``Z`` of the wanted volume; None: the last plane is a measured one, ``Z = (n - 1) s + 1``.

    Raises
    ------
    ValueError
        If the factor is below 1, or a measurement does not fit the number of planes.

    Examples
    --------
    >>> Planes(2).adjoint(torch.ones(1, 1, 2, 1, 1)).flatten()
    tensor([1., 0., 1.])
    """

    factor: int
    planes: int | None = None

    def __post_init__(self) -> None:
        if self.factor < 1:
            raise ValueError(f"expected a factor of at least 1, got {self.factor}")

    def forward(self, x: Tensor) -> Tensor:
        """Planes 0, s, 2s, ..."""
        wanted_planes(self.planes, x.shape[-3])
        return x[..., :: self.factor, :, :]

    def adjoint(self, y: Tensor) -> Tensor:
        """The planes at their places, zeros between."""
        planes = planes_before(y.shape[-3], self.factor, self.planes)
        x = y.new_zeros(*y.shape[:-3], planes, *y.shape[-2:])
        x[..., :: self.factor, :, :] = y
        return x

    def solve(self, rhs: Tensor, weight: Weight) -> Tensor:
        """Measured planes over ``1 + weight``, the others over ``weight``."""
        seen = torch.zeros(rhs.shape[-3], 1, 1, dtype=rhs.dtype, device=rhs.device)
        seen[:: self.factor] = 1
        return divided(rhs, seen, weight)


def wanted_planes(planes: int | None, given: int) -> None:
    """Check the number of planes of a volume."""
    if planes is not None and given != planes:
        raise ValueError(f"expected a volume of {planes} planes, got {given}")


def planes_before(kept: int, factor: int, planes: int | None) -> int:
    """Number of planes of the volume of which ``kept`` were kept."""
    if planes is None:
        return (kept - 1) * factor + 1
    if -(-planes // factor) != kept:
        raise ValueError(f"expected {-(-planes // factor)} planes, every {factor}th of {planes}, got {kept}")
    return planes


@lru_cache(maxsize=16)
def difference_spectrum(size: int) -> tuple[Matrix, Matrix]:
    """Eigenvectors and eigenvalues of ``D'D`` for second differences ``D`` of shape ``(size - 2, size)``."""
    differences = np.diff(np.eye(size), n=2, axis=0)
    values, vectors = np.linalg.eigh(differences.T @ differences)
    return vectors, np.clip(values, 0.0, None)


@dataclass(frozen=True)
class SecondDifference:
    """``(A x)_z = x_{z-1} - 2 x_z + x_{z+1}`` of inner planes, along axis -3; the map of a straight line is zero.

    >>> SecondDifference().forward(torch.arange(4.0).reshape(1, 1, 4, 1, 1) ** 2).flatten()
    tensor([2., 2.])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Second differences: two planes fewer."""
        if x.ndim < 5 or x.shape[-3] < 3:
            raise ValueError(f"expected (K, C, Z, Y, X) with at least 3 planes, got shape {tuple(x.shape)}")
        return torch.diff(x, n=2, dim=-3)

    def adjoint(self, y: Tensor) -> Tensor:
        """Second differences of the volume continued by zeros: two planes more."""
        return torch.diff(torch.nn.functional.pad(y, (0, 0, 0, 0, 2, 2)), n=2, dim=-3)

    def solve(self, rhs: Tensor, weight: Weight) -> Tensor:
        """``(A'A + weight I)^-1 rhs``."""
        vectors, values = difference_spectrum(rhs.shape[-3])
        spectrum = torch.from_numpy(values).to(rhs.device, rhs.dtype)[:, None, None]
        matrix = torch.from_numpy(vectors).to(rhs.device, rhs.dtype)
        rotated = torch.einsum("zw,...zyx->...wyx", matrix, rhs)
        return torch.einsum("zw,...wyx->...zyx", matrix, divided(rotated, spectrum, weight))


@dataclass(frozen=True)
class Compose:
    """``A = A_1 A_2 ...``: the last operator acts first.

    Raises
    ------
    ValueError
        If there is no operator.

    Examples
    --------
    >>> from tensorcell.diffusion_guidance.blurs import Blur
    >>> Compose((Planes(2), Blur((1.0, 0.0, 0.0)))).forward(torch.ones(1, 1, 5, 2, 2)).shape
    torch.Size([1, 1, 3, 2, 2])
    """

    operators: tuple[Operator, ...]

    def __post_init__(self) -> None:
        if not self.operators:
            raise ValueError("expected at least one operator, got none")

    def forward(self, x: Tensor) -> Tensor:
        """``A_1 (A_2 (... x))``."""
        for operator in reversed(self.operators):
            x = operator.forward(x)
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        """``... A_2' (A_1' y)``."""
        for operator in self.operators:
            y = operator.adjoint(y)
        return y


def normal_solve(
    operator: Operator, rhs: Tensor, weight: Weight, *, tolerance: float | None = None, max_iterations: int = 200
) -> Tensor:
    """``(A'A + weight I)^-1 rhs``: closed where the operator has ``solve``, else by conjugate gradients.

    Parameters
    ----------
    operator : Operator
    rhs : tensor ``(K, C, *space)``
        With weight 0 it must lie in the range of ``A'``.
    weight : float or tensor ``(K,)``
        At least 0.
    tolerance : float, optional
        Conjugate gradients stop when every sample's residual is below this part of its right-hand side; 1e-6 for
        float32 and 1e-12 for float64 where not given.
    max_iterations : int
        Each costs one forward and one adjoint.

    Returns
    -------
    tensor like ``rhs``

    Examples
    --------
    >>> from tensorcell.diffusion_guidance.blurs import Blur
    >>> seen_blur = Compose((Mask(torch.tensor([True, False, True])), Blur((1.0,))))
    >>> x = torch.tensor([[[1.0, 2.0, 3.0]]], dtype=torch.float64)
    >>> rhs = seen_blur.adjoint(seen_blur.forward(x)) + 0.1 * x
    >>> torch.allclose(normal_solve(seen_blur, rhs, 0.1), x)
    True
    """
    if isinstance(operator, Solvable):
        return operator.solve(rhs, weight)
    scale = per_sample(weight, rhs)

    def normal(x: Tensor) -> Tensor:
        return operator.adjoint(operator.forward(x)) + scale * x

    return conjugate_gradients(normal, rhs, max_iterations, tolerance)


def conjugate_gradients(
    apply: Callable[[Tensor], Tensor], rhs: Tensor, max_iterations: int, tolerance: float | None = None
) -> Tensor:
    """``apply^-1 rhs``, sample by sample, for a symmetric positive map.

    A sample is finished when its residual is below ``tolerance`` times its right-hand side; 1e-6 for float32 and 1e-12
    for float64 where not given.

    >>> conjugate_gradients(lambda u: 4 * u, torch.full((1, 2), 8.0), 5).tolist()
    [[2.0, 2.0]]
    """
    limit = tolerance if tolerance is not None else (1e-6 if rhs.dtype == torch.float32 else 1e-12)
    tiny = torch.finfo(rhs.dtype).tiny
    solution, residual, direction = torch.zeros_like(rhs), rhs, rhs
    energy = sample_sum(residual**2)
    enough = limit**2 * energy
    for _ in range(max_iterations):
        if bool((energy <= enough).all()):
            break
        product = apply(direction)
        length = torch.where(energy > enough, energy / sample_sum(direction * product).clamp_min(tiny), 0.0)
        solution = solution + per_sample(length, rhs) * direction
        residual = residual - per_sample(length, rhs) * product
        renewed = sample_sum(residual**2)
        ratio = torch.where(energy > enough, renewed / energy.clamp_min(tiny), 0.0)
        direction = residual + per_sample(ratio, rhs) * direction
        energy = renewed
    return solution


def orthonormal_rows(operator: Operator) -> bool:
    """Whether ``A A' = I`` on what is observed, so that a proximal map of ``f(A x)`` is one of ``f``."""
    return isinstance(operator, Identity | Mask | Planes)


def observed(operator: Operator, y: Tensor) -> Tensor:
    """True where an entry of ``y`` was observed: everywhere but where a mask is False."""
    if isinstance(operator, Compose):
        return observed(operator.operators[0], y)
    if isinstance(operator, Mask):
        return operator.mask
    return torch.ones((), dtype=torch.bool, device=y.device)
