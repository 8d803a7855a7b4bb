"""What a sample should satisfy besides looking like the prior: composable terms, and denoisers made of denoisers.

A :class:`Term` is a function ``f(x)`` of a state ``(K, C, *space)``, a number a sample, with its gradient and its
proximal map ``prox(x, s) = argmin_z 1/2 ||z - x||^2 + s f(z)``. Data terms are negative log-likelihoods in nats, up to
a constant, so that weights of one mean Bayes' rule.

================================ ================================================== ================================
term                             ``f(x)``, with ``r = A x - y`` on observed entries  proximal map
================================ ================================================== ================================
:class:`GaussianConsistency`     ``||r||^2 / (2 sigma^2)``                          closed, or conjugate gradients
:class:`PoissonConsistency`      ``sum v - u log v``, shifted Poisson               closed for masks and planes
:class:`HuberConsistency`        ``sum huber(r) / sigma^2``, outliers minimised out closed for masks and planes
:class:`NonNegative`             0 where ``x >= lower``, else infinite              clipping
:class:`AxialSmoothness`         ``weight sum`` square or Huber of second           closed, or splitting
                                 differences along z
:class:`Agreement`               disagreement of several denoisings of ``x``        numerical
:class:`TermSum`                 the sum of terms                                   splitting, from theirs
================================ ================================================== ================================

Denoisers, ``denoise(x, level) -> x0`` with ``x = x0 + level * noise``, are made of smaller ones by
:func:`perpendicular` (a product of 2-D priors) and :func:`tiled` (volumes larger than a network may see).

References
----------
N. Parikh, S. Boyd, Proximal algorithms, doi:10.1561/2400000003. S. Lee et al., Improving 3D imaging with pre-trained
perpendicular 2D diffusion models, arXiv 2303.08440.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

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
from tensorcell.solvers import NoiseModel

Step = float | Tensor
Denoiser = Callable[[Tensor, float | Tensor], Tensor]


class Term(Protocol):
    """A function of a state, with what samplers ask of it."""

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
    """``A x - y``, 0 where nothing was observed (``y`` may be NaN there)."""
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
    ``rho``, a number or one a sample; good ones are near the curvature of ``step f``. It stops when ``A z - w`` and the
    move of ``A'w`` are below ``tolerance`` times the norms of ``A z`` and ``z``; linear convergence. An iteration costs
    one solution of normal equations, one forward and one adjoint.
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

    Where ``A A' = I`` it is ``x - A'A x + A' prox_f(A x)``; else :func:`composed_prox`.
    """
    seen = observed(operator, y)

    def partial(values: Tensor, fraction: Tensor) -> Tensor:
        return torch.where(seen, prox(values, fraction), values)

    if orthonormal_rows(operator):
        ahead = operator.forward(x)
        return x - operator.adjoint(ahead) + operator.adjoint(partial(ahead, per_sample(step, x)))
    return composed_prox(operator, partial, x, step, penalty, tolerance=tolerance, max_iterations=max_iterations)


# Data terms ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class GaussianConsistency:
    """``||A x - y||^2 / (2 sigma^2)``; with ``sigma = 0`` the constraint ``A x = y``.

    Parameters
    ----------
    operator : Operator
        ``A``, with values like ``y``.
    y : tensor that broadcasts to ``A x``
        Measurement in prior units; anything where nothing was observed, NaN too.
    sigma : float
        Standard deviation of the noise, in prior units.

    Raises
    ------
    ValueError
        If sigma is negative, or the gradient of a constraint is asked for.

    Notes
    -----
    ``prox(x, s) = x + (A'A + sigma^2 / s)^-1 A'(y - A x)``, closed where the operator has ``solve`` and by conjugate
    gradients elsewhere. With ``sigma = 0`` this is the projection ``x + A^+ (y - A x)`` for every step.

    Examples
    --------
    >>> from tensorcell.diffusion_guidance.operators import Planes
    >>> term = GaussianConsistency(Planes(2), torch.full((1, 1, 2, 1, 1), 3.0), sigma=1.0)
    >>> term.prox(torch.zeros(1, 1, 3, 1, 1), 2.0).flatten()
    tensor([2., 0., 2.])
    """

    operator: Operator
    y: Tensor
    sigma: float

    def __post_init__(self) -> None:
        if not (self.sigma >= 0 and math.isfinite(self.sigma)):
            raise ValueError(f"expected sigma as a standard deviation of at least 0, got {self.sigma}")

    def value(self, x: Tensor) -> Tensor:
        """``(K,)``; for a constraint 0 where it holds to rounding, else infinity."""
        r = residual(self.operator, x, self.y)
        if self.sigma > 0:
            return sample_sum(r**2) / (2 * self.sigma**2)
        size = sample_sum(torch.where(observed(self.operator, self.y), self.y, 0.0) ** 2 + 0 * r)
        rounding = (100 * torch.finfo(x.dtype).eps) ** 2 * size
        return torch.where(sample_sum(r**2) <= rounding, 0.0, math.inf).to(x.dtype)

    def gradient(self, x: Tensor) -> Tensor:
        """``A'(A x - y) / sigma^2``."""
        if self.sigma == 0:
            raise ValueError("expected sigma above 0 for a gradient, got 0: a constraint has a prox only")
        return self.operator.adjoint(residual(self.operator, x, self.y)) / self.sigma**2

    def prox(self, x: Tensor, step: Step) -> Tensor:
        """Closed form, or conjugate gradients."""
        steps = torch.as_tensor(step, dtype=x.dtype, device=x.device)
        moving = steps > 0
        weight = self.sigma**2 / torch.where(moving, steps, 1.0)
        pull = normal_solve(self.operator, -self.operator.adjoint(residual(self.operator, x, self.y)), weight)
        return torch.where(per_sample(moving, x) > 0, x + pull, x)


@dataclass(frozen=True, eq=False)
class PoissonConsistency:
    """Poisson-Gaussian noise, ``var(y) = gain m + offset`` at the mean ``m = A x``, as a shifted Poisson law.

    ``f(x) = sum v - u log v`` with ``v = (A x + c) / gain``, ``u = max((y + c) / gain, 0)``, ``c = offset / gain``:
    photon counts ``u`` whose mean and variance are both ``v``, which is what ``y`` has with this gain and offset.

    Parameters
    ----------
    operator : Operator
    y : tensor that broadcasts to ``A x``
        Measurement in prior units; anything where nothing was observed.
    gain, offset : float
        In prior units: see :func:`noise_in_prior_units`. Gain above 0.
    tolerance, max_iterations : float, int
        Of the splitting that a blur needs.

    Raises
    ------
    ValueError
        If the gain is not positive.

    Notes
    -----
    Convex. Exact for Poisson noise with a pedestal (``offset = - gain * pedestal``); for read noise it has the right
    mean and variance but a Poisson law's skewness (Snyder et al. 1995, doi:10.1364/JOSAA.12.000272). Means below
    ``-c``, where the variance would be negative, are excluded: ``f`` is infinite there. Proximal map of one entry, with
    ``b = x + c - s / gain``: ``z + c = (b + sqrt(b^2 + 4 s u)) / 2``, without cancellation where ``b < 0``.

    Examples
    --------
    >>> from tensorcell.diffusion_guidance.operators import Identity
    >>> term = PoissonConsistency(Identity(), torch.tensor([[[4.0]]]), gain=1.0, offset=0.0)
    >>> term.prox(torch.tensor([[[4.0]]]), 10.0)
    tensor([[[4.]]])
    """

    operator: Operator
    y: Tensor
    gain: float
    offset: float
    tolerance: float = 1e-5
    max_iterations: int = 200

    def __post_init__(self) -> None:
        if not (self.gain > 0 and math.isfinite(self.gain) and math.isfinite(self.offset)):
            raise ValueError(f"expected a gain above 0 and a finite offset, got {self.gain} and {self.offset}")

    @property
    def shift(self) -> float:
        """``c``."""
        return self.offset / self.gain

    def counts(self) -> Tensor:
        """``u``, 0 where nothing was observed."""
        counts = ((self.y + self.shift) / self.gain).clamp_min(0.0)
        return torch.where(observed(self.operator, self.y), counts, 0.0)

    def value(self, x: Tensor) -> Tensor:
        """``(K,)``; infinite where a mean lies below ``-c``."""
        v = (self.operator.forward(x) + self.shift) / self.gain
        u = self.counts()
        inside = (v > 0) | ((v == 0) & (u == 0))
        likelihood = torch.where(inside, v - torch.xlogy(u, torch.where(v > 0, v, 1.0)), math.inf)
        return sample_sum(torch.where(observed(self.operator, self.y), likelihood, 0.0))

    def gradient(self, x: Tensor) -> Tensor:
        """``A'(1 - u / v) / gain``; ``v`` is kept above a thousandth of a photon, below which it is not a gradient."""
        v = ((self.operator.forward(x) + self.shift) / self.gain).clamp_min(1e-3)
        slope = torch.where(observed(self.operator, self.y), (1 - self.counts() / v) / self.gain, 0.0)
        return self.operator.adjoint(slope)

    def prox(self, x: Tensor, step: Step) -> Tensor:
        """Closed form for masks and planes; a splitting for blurs."""
        u = self.counts()

        def entrywise(values: Tensor, s: Tensor) -> Tensor:
            b = values + self.shift - s / self.gain
            root = torch.sqrt(b**2 + 4 * s * u)
            far = 2 * s * u / (root - b).clamp_min(torch.finfo(b.dtype).tiny)
            return torch.where(b >= 0, (b + root) / 2, far) - self.shift

        # Curvature of step * f where the mean is what was measured: step / variance.
        typical = (self.gain * (self.gain * u.mean() + self.gain)).clamp_min(torch.finfo(x.dtype).tiny)
        penalty = torch.as_tensor(step, dtype=x.dtype, device=x.device) / typical
        return pointwise_prox(
            self.operator, entrywise, self.y, x, step, penalty,
            tolerance=self.tolerance, max_iterations=self.max_iterations,
        )  # fmt: skip


def consistency(
    operator: Operator, y: Tensor, noise: NoiseModel, location: float = 0.0, scale: float = 1.0
) -> GaussianConsistency | PoissonConsistency:
    """The data term of a noise model: Gaussian where it has no gain, else shifted Poisson.

    Parameters
    ----------
    operator : Operator
    y : tensor that broadcasts to ``A x``
        Measurement in prior units, ``(intensity - location) / scale``.
    noise : NoiseModel
        In the data's unit.
    location, scale : float
        Of the prior units.

    Raises
    ------
    ValueError
        If the scale is not positive.

    Examples
    --------
    >>> from tensorcell.diffusion_guidance.operators import Identity
    >>> consistency(Identity(), torch.zeros(1), NoiseModel(gain=0.0, offset=4.0, sigma=2.0), scale=10.0).sigma
    0.2
    """
    gain, offset = noise_in_prior_units(noise, location, scale)
    if noise.gain == 0:
        return GaussianConsistency(operator, y, noise.sigma / scale)
    return PoissonConsistency(operator, y, gain, offset)


def noise_in_prior_units(noise: NoiseModel, location: float, scale: float) -> tuple[float, float]:
    """Gain and offset for data ``(intensity - location) / scale``.

    They are ``gain / scale`` and ``(offset + gain location) / scale^2``.

    Raises
    ------
    ValueError
        If the scale is not positive.

    >>> noise_in_prior_units(NoiseModel(gain=2.0, offset=4.0, sigma=2.0), location=3.0, scale=10.0)
    (0.2, 0.1)
    """
    if not scale > 0:
        raise ValueError(f"expected a scale above 0, got {scale}")
    return noise.gain / scale, (noise.offset + noise.gain * location) / scale**2


@dataclass(frozen=True, eq=False)
class HuberConsistency:
    """Gaussian noise besides sparse outliers ``e``, minimised over them: Huber's function of ``r = A x - y``.

    ``f(x) = min_e ||y - A x - e||^2 / (2 sigma^2) + threshold ||e||_1 / sigma^2``, that is ``r^2 / 2`` where
    ``|r| <= threshold`` and ``threshold |r| - threshold^2 / 2`` elsewhere, over ``sigma^2``. It is
    the loss of ``fidelity="huber"`` of :func:`tensorcell.solvers.robust_tucker_admm`.

    Parameters
    ----------
    operator : Operator
    y : tensor that broadcasts to ``A x``
        Measurement in prior units; anything where nothing was observed.
    threshold : float
        ``tau``, in prior units, above 0; 2.5 to 3 sigma leave most of the noise to the Gaussian.
    sigma : float
        In prior units, above 0.
    tolerance, max_iterations : float, int
        Of the splitting that a blur needs.

    Raises
    ------
    ValueError
        If threshold or sigma are not positive.

    Notes
    -----
    Convex. Proximal map of one entry, ``t = s / sigma^2``: ``r / (1 + t)`` where ``|r| <= threshold (1 + t)``, else
    ``r - t threshold sign(r)``.

    Examples
    --------
    >>> from tensorcell.diffusion_guidance.operators import Identity
    >>> term = HuberConsistency(Identity(), torch.zeros(1, 1, 2), threshold=1.0, sigma=1.0)
    >>> term.prox(torch.tensor([[[1.0, 9.0]]]), 1.0)
    tensor([[[0.5000, 8.0000]]])
    """

    operator: Operator
    y: Tensor
    threshold: float
    sigma: float
    tolerance: float = 1e-5
    max_iterations: int = 200

    def __post_init__(self) -> None:
        if not (self.threshold > 0 and self.sigma > 0):
            raise ValueError(f"expected threshold and sigma above 0, got {self.threshold} and {self.sigma}")

    def value(self, x: Tensor) -> Tensor:
        """``(K,)``."""
        return sample_sum(huber(residual(self.operator, x, self.y), self.threshold)) / self.sigma**2

    def gradient(self, x: Tensor) -> Tensor:
        """``A' clip(A x - y, -threshold, threshold) / sigma^2``."""
        r = residual(self.operator, x, self.y)
        return self.operator.adjoint(r.clamp(-self.threshold, self.threshold)) / self.sigma**2

    def outliers(self, x: Tensor) -> Tensor:
        """The minimising ``e = soft(y - A x, threshold)``, 0 where nothing was observed."""
        return soft_threshold(-residual(self.operator, x, self.y), self.threshold)

    def prox(self, x: Tensor, step: Step) -> Tensor:
        """Closed form for masks and planes; a splitting for blurs."""

        def entrywise(values: Tensor, s: Tensor) -> Tensor:
            return self.y + huber_prox(values - self.y, s / self.sigma**2, self.threshold)

        return pointwise_prox(
            self.operator, entrywise, self.y, x, step,
            torch.as_tensor(step, dtype=x.dtype, device=x.device) / self.sigma**2,
            tolerance=self.tolerance, max_iterations=self.max_iterations,
        )  # fmt: skip


def huber(r: Tensor, threshold: float) -> Tensor:
    """``r^2 / 2`` up to the threshold, then linear."""
    size = r.abs()
    return torch.where(size <= threshold, r**2 / 2, threshold * size - threshold**2 / 2)


def huber_prox(r: Tensor, step: Tensor, threshold: float) -> Tensor:
    """Proximal map of ``step`` times Huber's function."""
    return r - step * (r / (1 + step)).clamp(-threshold, threshold)


def soft_threshold(values: Tensor, threshold: float) -> Tensor:
    """Proximal map of ``threshold ||.||_1``: shrink towards zero."""
    return values - values.clamp(-threshold, threshold)


class SparseStep(NamedTuple):
    """What :func:`sparse_step` returns, three tensors like ``y``, 0 where nothing was observed."""

    outliers: Tensor
    """``E``."""
    dual: Tensor
    """The new ``L``."""
    direction: Tensor
    """``D``: the corrected observation ``Y - E - L_new`` less ``A x``."""


def sparse_step(
    seen: Tensor, y: Tensor, mask: Tensor, dual: Tensor, threshold: float, relaxation: float = 1.0
) -> SparseStep:
    """Outliers by soft threshold with their scaled dual, the very update of the solvers' ADMM.

    With ``R = W (Y - A x - L)``: ``E = soft(R, tau)``, ``L_new = L + gamma W (A x + E - Y)`` and the observation
    corrected for both, ``Y - E - L_new``. No state is kept: hand the dual back at the next step. Where guidance changes
    tau, scale the dual by ``tau_new / tau_old``, since it is scaled by the penalty.

    Parameters
    ----------
    seen : tensor
        ``A x``.
    y : tensor like ``seen``
        Measurement; anything where nothing was observed.
    mask : bool tensor
        True = observed.
    dual : tensor like ``seen``
        ``L``, zeros at first.
    threshold : float
        ``tau``, above 0, in the unit of ``y``.
    relaxation : float
        ``gamma`` between 0 and 1.618.

    Raises
    ------
    ValueError
        If threshold or relaxation are out of range.

    References
    ----------
    RCT Eqs. 11-12; :class:`tensorcell.solvers.rules.Rule`.

    Examples
    --------
    >>> zero, seen = torch.zeros(2), torch.tensor([True, True])
    >>> sparse_step(zero, torch.tensor([0.5, 5.0]), seen, zero, threshold=1.0).outliers
    tensor([0., 4.])
    """
    if not threshold > 0:
        raise ValueError(f"expected a threshold above 0, got {threshold}")
    if not 0 < relaxation < 1.618:
        raise ValueError(f"expected a relaxation between 0 and 1.618, got {relaxation}")
    old = torch.where(mask, dual, 0.0)
    misfit = torch.where(mask, y - seen, 0.0)
    outliers = soft_threshold(misfit - old, threshold)
    new = old + relaxation * (outliers - misfit)
    return SparseStep(outliers, new, misfit - outliers - new)


# Terms without data --------------------------------------------------------------------------------------------------


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
        Huber's, in prior units; None: squares.
    tolerance, max_iterations : float, int
        Of the splitting that Huber's function needs.

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
class Agreement:
    """Denoisings of one volume by several denoisers should agree.

    ``f(x) = weight / (2 P) sum_p ||d_p(x) - mean_p d_p(x)||^2`` for P denoisers. Not convex unless the denoisers are
    linear. See :func:`lateral_axial_agreement` and :func:`tile_agreement`.

    Parameters
    ----------
    denoisers : tuple of denoisers
        At least two, differentiable if gradient or proximal map are wanted.
    level : float
        Noise level that they are asked to remove.
    weight : float
        Above 0.
    max_iterations : int
        Of the quasi-Newton method that finds a (local) minimum for the proximal map. Each needs the gradients of
        all denoisers: an expensive term; use its value to judge, its gradient to guide.

    Raises
    ------
    ValueError
        If there are fewer than two denoisers, or the weight is not positive.

    Examples
    --------
    >>> term = Agreement((lambda x, level: x, lambda x, level: 0 * x), level=1.0)
    >>> term.value(torch.full((1, 1, 2, 2), 2.0))
    tensor([2.])
    """

    denoisers: tuple[Denoiser, ...]
    level: float
    weight: float = 1.0
    max_iterations: int = 20

    def __post_init__(self) -> None:
        if len(self.denoisers) < 2:
            raise ValueError(f"expected at least two denoisers, got {len(self.denoisers)}")
        if not self.weight > 0:
            raise ValueError(f"expected a weight above 0, got {self.weight}")

    def value(self, x: Tensor) -> Tensor:
        """``(K,)``."""
        estimates = torch.stack([denoise(x, self.level) for denoise in self.denoisers])
        spread = (estimates - estimates.mean(0)) ** 2
        return self.weight / 2 * sample_sum(spread.mean(0))

    def gradient(self, x: Tensor) -> Tensor:
        """By automatic differentiation through the denoisers."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(self.value(x).sum(), x)[0]

    def prox(self, x: Tensor, step: Step) -> Tensor:
        """A local minimum from ``x``, by L-BFGS; never a larger objective than at ``x``."""
        steps = torch.as_tensor(step, dtype=x.dtype, device=x.device).expand(len(x))
        z = x.detach().clone().requires_grad_()
        small = torch.finfo(x.dtype).eps
        search = torch.optim.LBFGS(
            [z], max_iter=self.max_iterations, history_size=10, line_search_fn="strong_wolfe",
            tolerance_grad=small, tolerance_change=small,
        )  # fmt: skip

        def objective() -> Tensor:
            with torch.enable_grad():
                total = (sample_sum((z - x) ** 2) / 2 + steps * self.value(z)).sum()
                z.grad = torch.autograd.grad(total, z)[0].contiguous()
            return total.detach()

        search.step(objective)  # type: ignore[no-untyped-call]
        return z.detach()


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
        Each costs one proximal map of every term.

    Raises
    ------
    ValueError
        If there is no term.

    Notes
    -----
    ``prox(x, s)`` by ADMM on copies ``z_i = z`` with penalty 1: ``z = (x + sum_i (z_i - u_i)) / (1 + n)``,
    ``z_i = prox_{s f_i}(z + u_i)``, ``u_i += z - z_i`` (Boyd et al. 2011, doi:10.1561/2200000016, Section 7). It
    converges for convex terms. Constraints hold to the tolerance; of several, apply last the one that has to hold
    exactly.

    Examples
    --------
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
        """By splitting; that of the only term where there is but one."""
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
            apart = torch.stack([sample_sum((z - copy) ** 2) for copy in copies]).amax(0)
            moved = torch.maximum(apart, sample_sum((z - before) ** 2))
            if bool((moved <= self.tolerance**2 * sample_sum(z**2)).all()):
                break
        return z


# Denoisers made of denoisers -----------------------------------------------------------------------------------------

PLANES = {"yx": (2, 3, 4), "zx": (3, 2, 4), "zy": (4, 2, 3)}
"""For the planes of each orientation: the axis that counts them, and their two axes."""


def slicewise(denoise_2d: Denoiser, plane: str, batch: int | None = None) -> Denoiser:
    """A volume denoiser that denoises every slice of one orientation by itself.

    Parameters
    ----------
    denoise_2d : denoiser of slices ``(N, C, H, W)``
    plane : {"yx", "zx", "zy"}
        Axes of the slices.
    batch : int, optional
        Most slices to denoise in one call (memory); None: all.

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
    """A volume denoiser from a denoiser of slices: the product of perpendicular 2-D priors.

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
        One orientation a call, in turn (TPDM): a third of the cost. The result then depends on how often it was
        called; the turns are equal, so weights must be too.
    batch : int, optional
        Most slices in one call of the network.

    Raises
    ------
    ValueError
        If there is no plane, one is unknown, or the weights do not fit.

    Notes
    -----
    **Weights.** For a white Gaussian prior each orientation alone is already exact: ``score_p = -x / (1 + level^2)``.
    So is their product if and only if ``sum_p w_p = 1``. The same holds at high noise for every prior, where every
    score tends to ``-x / level^2``: a sum ``W`` of weights other than 1 counts the noise ``W`` times, and the sampler
    overshoots. Equal weights ``1 / P`` are therefore the default: the geometric mean of the experts. What it is not:
    the volume prior itself. Where orientations bring independent knowledge the geometric mean is too wide, and the
    product taken at each noise level is not the noised product of the clean priors (it is at level 0 and for the white
    Gaussian).

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


def lateral_axial_agreement(
    denoise_2d: Denoiser,
    level: float,
    planes: Sequence[str] = ("yx", "zx", "zy"),
    weight: float = 1.0,
    batch: int | None = None,
) -> Agreement:
    """Disagreement between a volume's denoisings by one 2-D denoiser on slices of several orientations.

    Its value is low for isotropic structure that the prior knows; structure stretched along z, as interpolation makes
    it, is denoised differently from the side. See :class:`Agreement`.
    """
    return Agreement(tuple(slicewise(denoise_2d, plane, batch) for plane in planes), level, weight)


# Tiles ---------------------------------------------------------------------------------------------------------------


class Tile(NamedTuple):
    """A range of one axis."""

    start: int
    stop: int
    first: bool
    last: bool


def tiles_along(size: int, tile: int, overlap: int, stride: int, offset: int = 0) -> list[Tile]:
    """Ranges of at most ``tile`` voxels that cover an axis; starts on multiples of the stride, neighbours overlap.

    ``offset`` makes the first tile that much shorter, so that seams lie elsewhere.

    >>> tiles_along(10, 4, 2, 2)[-1]
    Tile(start=6, stop=10, first=False, last=True)
    """
    if size <= tile and offset == 0:
        return [Tile(0, size, True, True)]
    starts, stops = [0], [min(size, tile - offset)]
    while stops[-1] < size:
        start = (stops[-1] - overlap) // stride * stride
        if size > tile:
            start = min(start, -(-(size - tile) // stride) * stride)
        starts.append(start)
        stops.append(min(size, start + tile))
    count = len(starts)
    return [Tile(a, b, n == 0, n == count - 1) for n, (a, b) in enumerate(zip(starts, stops, strict=True))]


def window_along(tile: Tile, ramp: int, context: int, like: Tensor) -> Tensor:
    """Weight of a tile along one axis: 0 within ``context`` of an inner end, then a raised cosine to 1."""
    length = tile.stop - tile.start
    depth = torch.arange(length, dtype=torch.float64, device=like.device)
    rise = ((depth - context + 0.5) / ramp).clamp(0.0, 1.0)
    rise = (1 - torch.cos(math.pi * rise)) / 2
    window = torch.ones(length, dtype=torch.float64, device=like.device)
    if not tile.first:
        window = window * rise
    if not tile.last:
        window = window * rise.flip(0)
    return window.to(like.dtype)


def tiled(
    denoise: Denoiser,
    tile: int | Sequence[int],
    overlap: int | Sequence[int],
    stride: int | Sequence[int] = 1,
    *,
    context: int | Sequence[int] | None = None,
    offset: int | Sequence[int] = 0,
) -> Denoiser:
    """The denoiser, evaluated on overlapping tiles whose results fade into each other.

    Parameters
    ----------
    denoise : denoiser
    tile : int, or one a spatial axis
        Largest size of a tile, a multiple of the stride; axes no longer than it are not cut.
    overlap : int, or one a spatial axis
        Voxels that neighbouring tiles share, at least (starts are moved down to the stride).
    stride : int, or one a spatial axis
        Tiles start at multiples of it, so that a network that halves its input sees every voxel at the same place of
        its grid as in the whole.
    context : int, or one a spatial axis, optional
        Voxels at inner ends of a tile whose results are thrown away, at most ``(overlap - 1) // 2``. A denoiser that
        looks no further gives the same as on the whole, to rounding. Default: a quarter of the overlap.
    offset : int, or one a spatial axis
        The first tile is shorter by this, for other seams; a multiple of the stride up to ``tile - overlap - stride``.

    Returns
    -------
    denoiser
        Memory: that of the network on one tile, two volumes, and the result.

    Raises
    ------
    ValueError
        If the numbers do not fit together.

    Notes
    -----
    The windows are raised cosines over what is left of the overlap; they are divided by their sum, so that wherever the
    tiles agree nothing is changed.

    Examples
    --------
    >>> x = torch.arange(20.0).reshape(1, 1, 20)
    >>> bool(torch.allclose(tiled(lambda x, level: 2 * x, 8, 4)(x, 1.0), 2 * x))
    True
    """

    def along(x: Tensor) -> list[list[tuple[Tile, Tensor]]]:
        axes = []
        for axis, size in enumerate(x.shape[2:]):
            t, o, s, f = (entry(value, axis, x.ndim - 2) for value in (tile, overlap, stride, offset))
            c = o // 4 if context is None else entry(context, axis, x.ndim - 2)
            check_tiles(t, o, s, c, f)
            ranges = tiles_along(size, t, o, s, f)
            ramp = max(1, o - 2 * c)
            axes.append([(each, window_along(each, ramp, c, x)) for each in ranges])
        return axes

    def whole(x: Tensor, level: float | Tensor) -> Tensor:
        axes = along(x)
        if all(len(axis) == 1 for axis in axes):
            return denoise(x, level)
        total = torch.zeros_like(x)
        weights = torch.zeros(x.shape[2:], dtype=x.dtype, device=x.device)
        for combination in itertools.product(*axes):
            place = tuple(slice(each.start, each.stop) for each, _ in combination)
            part: Any = (..., *place)
            window = torch.ones((), dtype=x.dtype, device=x.device)
            for _, profile in combination:
                window = window[..., None] * profile
            total[part] += window * denoise(x[part], level)
            weights[place] += window
        return total / weights

    return whole


def entry(value: int | Sequence[int], axis: int, axes: int) -> int:
    """One number for all axes, or that of an axis."""
    if isinstance(value, int):
        return value
    if len(value) != axes:
        raise ValueError(f"expected one number or {axes}, one a spatial axis, got {tuple(value)}")
    return value[axis]


def check_tiles(tile: int, overlap: int, stride: int, context: int, offset: int) -> None:
    """Raise where sizes of tiles do not fit together."""
    if stride < 1 or tile < 1 or tile % stride:
        raise ValueError(f"expected a tile that is a multiple of the stride {stride}, got {tile}")
    if not 0 <= overlap <= tile - stride:
        raise ValueError(f"expected an overlap from 0 to {tile - stride} (tile less stride), got {overlap}")
    if context < 0 or (context and 2 * context >= overlap):
        raise ValueError(f"expected a context below half the overlap {overlap}, got {context}")
    if offset < 0 or offset % stride or offset > tile - overlap - stride:
        raise ValueError(f"expected an offset to {tile - overlap - stride} on the stride {stride}, got {offset}")


def tile_agreement(
    denoise: Denoiser,
    level: float,
    tile: int | Sequence[int],
    overlap: int | Sequence[int],
    stride: int = 1,
    weight: float = 1.0,
) -> Agreement:
    """Disagreement of two tilings of one denoiser, the second shifted by half a tile: what seams cost.

    Two equal tilings (a volume no longer than a tile) always agree. See :class:`Agreement`.
    """
    sizes = [tile] if isinstance(tile, int) else list(tile)
    overlaps = [overlap] * len(sizes) if isinstance(overlap, int) else list(overlap)
    shifts = [(t - o) // 2 // stride * stride for t, o in zip(sizes, overlaps, strict=True)]
    shifted = tiled(denoise, tile, overlap, stride, offset=shifts[0] if isinstance(tile, int) else shifts)
    return Agreement((tiled(denoise, tile, overlap, stride), shifted), level, weight)
