"""What a sample should satisfy besides being likely under the prior: the protocol of a term, and terms without data.

A :class:`Term` is a function ``f(x)`` of a state ``(K, C, *space)``, one number a sample, with its gradient and its
proximal map ``prox(x, s) = argmin_z 1/2 ||z - x||^2 + s f(z)``. The terms of a measurement are in
:mod:`~tensorcell.diffusion_guidance.data_terms`.

================================ ================================================== ================================
term                             ``f(x)``                                           proximal map
================================ ================================================== ================================
:class:`NonNegative`             0 where ``x >= lower``, else infinite              clipping
:class:`AxialSmoothness`         ``weight sum`` square or Huber of second           closed, or splitting
                                 differences along z
:class:`TermSum`                 the sum of terms                                   splitting, from theirs
================================ ================================================== ================================

References
----------
N. Parikh, S. Boyd, Proximal algorithms, doi:10.1561/2400000003.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from tensorcell.diffusion_guidance.operators import (
    Operator,
    SecondDifference,
    normal_solve,
    observed,
    orthonormal_rows,
    per_sample,
    sample_sum,
)

Step = float | Tensor


class Term(Protocol):
    """A function ``f`` of a state, with its value, its gradient and its proximal map."""

    def value(self, x: Tensor) -> Tensor:
        """``f(x)``, shape ``(K,)``."""
        ...

    def gradient(self, x: Tensor) -> Tensor:
        """Gradient of ``f``, like ``x``."""
        ...

    def prox(self, x: Tensor, step: Step) -> Tensor:
        """``argmin_z 1/2 ||z - x||^2 + step f(z)``; ``step`` is a number or ``(K,)``."""
        ...


def residual(operator: Operator, x: Tensor, y: Tensor) -> Tensor:
    """``A x - y``, and 0 where nothing was observed (there ``y`` may be NaN)."""
    return torch.where(observed(operator, y), operator.forward(x) - y, 0.0)


def composed_prox(
    operator: Operator,
    prox: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    step: Step,
    penalty: Step,
    *,
    tolerance: float,
    max_iterations: int,
) -> Tensor:
    """Proximal map of ``f(A z)`` from that of ``f``: ADMM on ``w = A z``.

    ``(A'A + I/rho) z = x/rho + A'(w - d)``; ``w = prox_{step f / rho}(A z + d)``; ``d += A z - w``. ``penalty`` is
    ``rho``, a number or one a sample; good values are near the curvature of ``step f``. The iteration stops when
    ``A z - w`` and the move of ``A'w`` are below ``tolerance`` times the norms of ``A z`` and ``z``; its convergence is
    linear. An iteration costs one solution of normal equations, one forward and one adjoint.
    """
    steps = torch.as_tensor(step, dtype=x.dtype, device=x.device)
    rhos = torch.where(steps > 0, torch.as_tensor(penalty, dtype=x.dtype, device=x.device), 1.0)
    rho, fraction = per_sample(rhos, x), per_sample(steps / rhos, x)
    w = operator.forward(x)
    dual = torch.zeros_like(w)
    z = x
    for _ in range(max_iterations):
        z = normal_solve(operator, x / rho + operator.adjoint(w - dual), 1 / rhos)
        seen = operator.forward(z)
        new = prox(seen + dual, fraction)
        dual = dual + seen - new
        primal = sample_sum((seen - new) ** 2) <= tolerance**2 * sample_sum(seen**2)
        move = sample_sum(operator.adjoint(new - w) ** 2) <= tolerance**2 * sample_sum(z**2)
        w = new
        if bool((primal & move).all()):
            break
    return torch.where(per_sample(steps, x) > 0, z, x)


def pointwise_prox(
    operator: Operator,
    prox: Callable[[Tensor, Tensor], Tensor],
    y: Tensor,
    x: Tensor,
    step: Step,
    penalty: Step,
    *,
    tolerance: float = 1e-5,
    max_iterations: int = 200,
) -> Tensor:
    """Proximal map of ``sum_i f_i((A z)_i)`` over observed entries.

    Where ``A A' = I`` it is ``x - A'A x + A' prox_f(A x)``; elsewhere :func:`composed_prox` finds it.
    """
    seen = observed(operator, y)

    def partial(values: Tensor, fraction: Tensor) -> Tensor:
        return torch.where(seen, prox(values, fraction), values)

    if orthonormal_rows(operator):
        ahead = operator.forward(x)
        return x - operator.adjoint(ahead) + operator.adjoint(partial(ahead, per_sample(step, x)))
    return composed_prox(operator, partial, x, step, penalty, tolerance=tolerance, max_iterations=max_iterations)


def huber(r: Tensor, threshold: float) -> Tensor:
    """``r^2 / 2`` up to the threshold, then linear."""
    size = r.abs()
    return torch.where(size <= threshold, r**2 / 2, threshold * size - threshold**2 / 2)


def huber_prox(r: Tensor, step: Tensor, threshold: float) -> Tensor:
    """Proximal map of ``step`` times Huber's function."""
    return r - step * (r / (1 + step)).clamp(-threshold, threshold)


@dataclass(frozen=True)
class NonNegative:
    """``x >= lower`` as a constraint, or as a quadratic penalty ``weight / 2 ||min(x - lower, 0)||^2``.

    Parameters
    ----------
    lower : float
        The smallest value allowed, in prior units: intensity 0 is ``-location / scale``.
    weight : float
        Infinity: a constraint, whose proximal map clips; it has no gradient.

    Raises
    ------
    ValueError
        If the weight is not positive, or the gradient of a constraint is asked for.

    Examples
    --------
    >>> NonNegative().prox(torch.tensor([[[-1.0, 2.0]]]), 1.0)
    tensor([[[0., 2.]]])
    """

    lower: float = 0.0
    weight: float = math.inf

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ValueError(f"expected a weight above 0, got {self.weight}")

    def value(self, x: Tensor) -> Tensor:
        """``(K,)``."""
        if math.isinf(self.weight):
            lowest = x.flatten(1).amin(1)
            return torch.where(lowest < lowest.new_tensor(self.lower), math.inf, 0.0).to(x.dtype)
        below = (x - self.lower).clamp_max(0.0)
        return self.weight / 2 * sample_sum(below**2)

    def gradient(self, x: Tensor) -> Tensor:
        """``weight min(x - lower, 0)``."""
        if math.isinf(self.weight):
            raise ValueError("expected a finite weight for a gradient, got inf: a constraint has a prox only")
        return self.weight * (x - self.lower).clamp_max(0.0)

    def prox(self, x: Tensor, step: Step) -> Tensor:
        """``max(x, lower)``, or towards it."""
        if math.isinf(self.weight):
            return torch.where(per_sample(step, x) > 0, x.clamp_min(self.lower), x)
        below = (x - self.lower).clamp_max(0.0)
        amount = per_sample(step, x) * self.weight
        return x - below * (amount / (1 + amount))


@dataclass(frozen=True)
class AxialSmoothness:
    """Smoothness of gradients along z: ``weight`` times squares (or Huber's function) of second differences.

    ``f(x) = weight sum phi(x_{z-1} - 2 x_z + x_{z+1})`` over inner planes, ``phi(d) = d^2 / 2`` or Huber's function,
    which lets gradients change suddenly at membranes. Lines along z cost nothing.

    Parameters
    ----------
    weight : float
        Above 0. As a log-prior: the inverse variance of second differences.
    threshold : float or None
        Threshold of Huber's function, in prior units; None: squares.
    tolerance, max_iterations : float, int
        When the splitting that Huber's function needs stops.

    Raises
    ------
    ValueError
        If weight or threshold are not positive, or there are fewer than 3 planes.

    Notes
    -----
    Proximal map for squares: ``(I + s weight D'D) z = x``, in the eigenvectors of ``D'D``: ``2 Z`` multiplications a
    voxel.

    Examples
    --------
    >>> x = torch.arange(5.0).reshape(1, 1, 5, 1, 1)
    >>> bool(torch.allclose(AxialSmoothness(10.0).prox(x, 1.0), x, atol=1e-5))
    True
    """

    weight: float
    threshold: float | None = None
    tolerance: float = 1e-5
    max_iterations: int = 500

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ValueError(f"expected a weight above 0, got {self.weight}")
        if self.threshold is not None and not self.threshold > 0:
            raise ValueError(f"expected a threshold above 0 or None, got {self.threshold}")

    def value(self, x: Tensor) -> Tensor:
        """``(K,)``."""
        second = SecondDifference().forward(x)
        cost = second**2 / 2 if self.threshold is None else huber(second, self.threshold)
        return self.weight * sample_sum(cost)

    def gradient(self, x: Tensor) -> Tensor:
        """``weight D' phi'(D x)``."""
        second = SecondDifference().forward(x)
        if self.threshold is not None:
            second = second.clamp(-self.threshold, self.threshold)
        return self.weight * SecondDifference().adjoint(second)

    def prox(self, x: Tensor, step: Step) -> Tensor:
        """Closed for squares; a splitting for Huber's function."""
        steps = torch.as_tensor(step, dtype=x.dtype, device=x.device) * self.weight
        operator = SecondDifference()
        if self.threshold is None:
            pull = normal_solve(operator, operator.adjoint(operator.forward(x)), 1 / steps)
            return x - pull
        threshold = self.threshold
        return composed_prox(
            operator, lambda values, s: huber_prox(values, s, threshold), x, steps, steps / 4,
            tolerance=self.tolerance, max_iterations=self.max_iterations,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class TermSum:
    """``sum_i f_i(x)``; its proximal map is found from those of the terms.

    Parameters
    ----------
    terms : tuple of Term
        At least one.
    tolerance : float
        The proximal map stops when it moves by less than this part of its norm.
    max_iterations : int
        Largest number of iterations; each costs one proximal map of every term.

    Raises
    ------
    ValueError
        If there is no term.

    Notes
    -----
    ``prox(x, s)`` by ADMM on copies ``z_i = z`` with penalty 1: ``z = (x + sum_i (z_i - u_i)) / (1 + n)``,
    ``z_i = prox_{s f_i}(z + u_i)``, ``u_i += z - z_i`` (Boyd et al. 2011, doi:10.1561/2200000016, Section 7). It
    converges for convex terms. Constraints hold to the tolerance; a constraint that has to hold exactly must be applied
    once more afterwards.

    Examples
    --------
    >>> from tensorcell.diffusion_guidance.data_terms import GaussianConsistency
    >>> from tensorcell.diffusion_guidance.operators import Identity
    >>> box = TermSum((NonNegative(0.0), GaussianConsistency(Identity(), torch.zeros(1, 1, 1), 1.0)))
    >>> box.prox(torch.full((1, 1, 1), 4.0), 1.0).round(decimals=3)
    tensor([[[2.]]])
    """

    terms: tuple[Term, ...]
    tolerance: float = 1e-5
    max_iterations: int = 500

    def __post_init__(self) -> None:
        if not self.terms:
            raise ValueError("expected at least one term, got none")

    def value(self, x: Tensor) -> Tensor:
        """``(K,)``."""
        return torch.stack([term.value(x) for term in self.terms]).sum(0)

    def gradient(self, x: Tensor) -> Tensor:
        """Sum of the gradients."""
        return torch.stack([term.gradient(x) for term in self.terms]).sum(0)

    def prox(self, x: Tensor, step: Step) -> Tensor:
        """The proximal map of the sum, by splitting; a single term's own where there is only one."""
        if len(self.terms) == 1:
            return self.terms[0].prox(x, step)
        copies = [x] * len(self.terms)
        duals = [torch.zeros_like(x)] * len(self.terms)
        z = x
        for _ in range(self.max_iterations):
            before = z
            z = (x + sum(copy - dual for copy, dual in zip(copies, duals, strict=True))) / (1 + len(copies))
            copies = [term.prox(z + dual, step) for term, dual in zip(self.terms, duals, strict=True)]
            duals = [dual + z - copy for copy, dual in zip(copies, duals, strict=True)]
            distances = torch.stack([sample_sum((z - copy) ** 2) for copy in copies]).amax(0)
            moved = torch.maximum(distances, sample_sum((z - before) ** 2))
            if bool((moved <= self.tolerance**2 * sample_sum(z**2)).all()):
                break
        return z
