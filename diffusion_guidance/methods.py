"""The names of the samplers, the settings of single methods, and the checks of what a sampler is asked for."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from tensorcell.diffusion_guidance.steps import Measurement

Method = Literal[
    "ode", "sde", "ddim", "ddpm", "dps", "ddnm", "diffpir", "pigdm", "reddiff", "pnp_admm", "split_gibbs"
]  # fmt: skip

PLAIN = ("ode", "sde", "ddim", "ddpm")
"""Methods that work without a measurement."""

ITERATIVE = ("reddiff", "pnp_admm", "split_gibbs")
"""Methods that improve an iterate at each level, and whose levels may repeat."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of single methods, in the notation of their papers where it is given.

    Parameters
    ----------
    dps_step : float
        zeta of DPS, above 0. It is divided by the norm of the residual and converted from the paper's VP state.
    diffpir_weight, diffpir_renewal : float
        lambda (above 0) and zeta (0 to 1, the share of the noise that is drawn anew) of DiffPIR.
    pigdm_covariance : {"isotropic", "tweedie", "none"}
        Covariance of x0 given x. "isotropic": ``r^2 I``, as published. "tweedie": ``l^2 J``, J the denoiser's Jacobian
        (arXiv 2310.06721), exact for every Gaussian prior, at one backward pass an iteration of conjugate gradients.
        "none": no Jacobian and no graph, an approximation: ``prox_f(D, r^2)``.
    pigdm_iterations : int
        Largest number of iterations of conjugate gradients with "tweedie".
    reddiff_rate, reddiff_weight : float
        Learning rate of Adam, in prior units, and lambda of RED-diff, with its weight ``lambda / SNR``.
    admm_weight : float
        Weight of the prior in PnP-ADMM, above 0; 1 is that of the posterior.
    gibbs_steps : int
        Steps of the diffusion inside one split Gibbs step.

    Raises
    ------
    ValueError
        If a value is outside its range.

    >>> Options(diffpir_renewal=0.5).diffpir_renewal
    0.5
    """

    dps_step: float = 1.0
    diffpir_weight: float = 1.0
    diffpir_renewal: float = 0.3
    pigdm_covariance: Literal["isotropic", "tweedie", "none"] = "isotropic"
    pigdm_iterations: int = 50
    reddiff_rate: float = 0.1
    reddiff_weight: float = 0.25
    admm_weight: float = 1.0
    gibbs_steps: int = 10

    def __post_init__(self) -> None:
        for name in ("dps_step", "diffpir_weight", "reddiff_rate", "reddiff_weight", "admm_weight"):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be above zero, got {value}")
        if not 0 <= self.diffpir_renewal <= 1:
            raise ValueError(f"diffpir_renewal must be between 0 and 1, got {self.diffpir_renewal}")
        if self.pigdm_covariance not in ("isotropic", "tweedie", "none"):
            raise ValueError(f"pigdm_covariance must be isotropic, tweedie or none, got {self.pigdm_covariance!r}")
        for name in ("pigdm_iterations", "gibbs_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


def checked_levels(levels: Tensor | Sequence[float], method: str) -> list[float]:
    """The levels as numbers, or a ValueError on why a method cannot use them."""
    if method not in get_args(Method):
        raise ValueError(f"method must be one of {', '.join(get_args(Method))}, got {method!r}")
    ladder = [float(level) for level in levels]
    if len(ladder) < 2:
        raise ValueError(f"levels need at least 2 entries (1 step), got {len(ladder)}")
    if not all(math.isfinite(level) and level >= 0 for level in ladder):
        raise ValueError(f"levels must be finite and at least 0, got {min(ladder)} to {max(ladder)}")
    for step, (level0, level1) in enumerate(itertools.pairwise(ladder)):
        if level1 > level0 or level0 == 0 or (level1 == level0 and method not in ITERATIVE):
            raise ValueError(f"levels must descend, got {level0:.6g} and then {level1:.6g} at step {step + 1}")
    return ladder


def _needed(method: str, options: Options) -> tuple[str, ...]:
    """What a method reads of a measurement besides its proximal map."""
    if method in ("ddnm", "split_gibbs") or (method == "pigdm" and options.pigdm_covariance == "tweedie"):
        return ("operator", "y", "sigma")
    return {"dps": ("operator", "y"), "reddiff": ("gradient", "sigma")}.get(method, ())


def check_arguments(
    method: str, measurement: Measurement | None, order: int, eta: float | None, churn: float | None, samples: int,
    antithetic: bool, shape: Sequence[int], options: Options,
) -> None:  # fmt: skip
    """Raise a ValueError, or a TypeError for a measurement of the wrong kind, where arguments do not fit together."""
    if len(shape) < 2 or any(size < 1 for size in shape):
        raise ValueError(f"expected a shape (C, *space), got {tuple(shape)}")
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    if antithetic and samples % 2:
        raise ValueError(f"antithetic samples come in pairs, got an odd number, {samples}")
    if method not in PLAIN and measurement is None:
        raise ValueError(f"method {method!r} needs a measurement, got None")
    missing = [name for name in _needed(method, options) if not hasattr(measurement, name)]
    if missing:
        kind = type(measurement).__name__
        raise TypeError(f"method {method!r} needs a Gaussian measurement, got {kind} without {', '.join(missing)}")
    if order not in (1, 2):
        raise ValueError(f"order must be 1 or 2, got {order}")
    if order == 2 and not (method in ("ode", "sde") or (method == "pigdm" and eta == 0)):
        raise ValueError(f"order 2 is for ode, sde and pigdm with eta 0, got method {method!r}")
    if eta is not None and (method not in ("ddim", "pigdm") or not 0 <= eta <= 1):
        raise ValueError(f"eta is between 0 and 1 and for ddim and pigdm, got {eta} for {method!r}")
    if churn is not None and (method != "sde" or churn < 0):
        raise ValueError(f"churn is at least 0 and for sde, got {churn} for {method!r}")
