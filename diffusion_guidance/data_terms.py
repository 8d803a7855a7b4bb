"""Terms of a measurement: negative log-likelihoods in nats, up to a constant, so that weights of one mean Bayes' rule.

With ``r = A x - y`` on observed entries:

================================ ================================================== ================================
term                             ``f(x)``                                           proximal map
================================ ================================================== ================================
:class:`GaussianConsistency`     ``||r||^2 / (2 sigma^2)``                          closed, or conjugate gradients
:class:`PoissonConsistency`      ``sum v - u log v``, shifted Poisson               closed for masks and planes
:class:`HuberConsistency`        ``sum huber(r) / sigma^2``, outliers minimised out closed for masks and planes
================================ ================================================== ================================

:func:`consistency` chooses the term that suits a noise model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tensorcell.diffusion_guidance.operators import Operator, normal_solve, observed, per_sample, sample_sum
from tensorcell.diffusion_guidance.terms import Step, huber, huber_prox, pointwise_prox, residual
from tensorcell.solvers import NoiseModel


@dataclass(frozen=True, eq=False)
class GaussianConsistency:
    """``||A x - y||^2 / (2 sigma^2)``; with ``sigma = 0`` the constraint ``A x = y``.

    Parameters
    ----------
    operator : Operator
        ``A``, with values like ``y``.
    y : tensor that broadcasts to ``A x``
        Measurement in prior units; where nothing was observed it may hold anything, NaN too.
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
        Measurement in prior units; where nothing was observed it may hold anything.
    gain, offset : float
        In prior units (see :func:`noise_in_prior_units`), the gain above 0.
    tolerance, max_iterations : float, int
        When the splitting that a blur needs stops.

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
        """``A'(1 - u / v) / gain``, with ``v`` held above a thousandth of a photon, where the slope has no bound."""
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
        Noise of the measurement, in the data's unit.
    location, scale : float
        Prior units are ``(intensity - location) / scale``.

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
    """Gaussian noise and sparse outliers ``e``. The minimum over ``e`` is Huber's function of ``r = A x - y``.

    ``f(x) = min_e ||y - A x - e||^2 / (2 sigma^2) + threshold ||e||_1 / sigma^2``, that is ``r^2 / 2`` where
    ``|r| <= threshold`` and ``threshold |r| - threshold^2 / 2`` elsewhere, over ``sigma^2``. It is
    the loss of ``fidelity="huber"`` of :func:`tensorcell.solvers.robust_tucker_admm`.

    Parameters
    ----------
    operator : Operator
    y : tensor that broadcasts to ``A x``
        Measurement in prior units; where nothing was observed it may hold anything.
    threshold : float
        ``tau``, in prior units, above 0; 2.5 to 3 sigma leave most of the noise to the Gaussian.
    sigma : float
        In prior units, above 0.
    tolerance, max_iterations : float, int
        When the splitting that a blur needs stops.

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
        """The minimising ``e``: the soft threshold of ``y - A x``, 0 where nothing was observed."""
        r = residual(self.operator, x, self.y)
        return r.clamp(-self.threshold, self.threshold) - r

    def prox(self, x: Tensor, step: Step) -> Tensor:
        """Closed form for masks and planes; a splitting for blurs."""

        def entrywise(values: Tensor, s: Tensor) -> Tensor:
            return self.y + huber_prox(values - self.y, s / self.sigma**2, self.threshold)

        return pointwise_prox(
            self.operator, entrywise, self.y, x, step,
            torch.as_tensor(step, dtype=x.dtype, device=x.device) / self.sigma**2,
            tolerance=self.tolerance, max_iterations=self.max_iterations,
        )  # fmt: skip
