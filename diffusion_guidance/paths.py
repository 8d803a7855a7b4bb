"""Noise paths ``x_t = alpha(t) x0 + sigma(t) eps``, and exact conversions between what a network may predict.

=============== ============================== =============================================== ======================
path            alpha(t), sigma(t)             time                                            source
=============== ============================== =============================================== ======================
variance        ``exp(-int beta / 2)``,        1 (noise) to 0 (data)                           arXiv 2011.13456, Eq. 33
preserving      ``sqrt(1 - alpha^2)``
cosine          ``cos^2`` law, the same        .999 to 0                                       arXiv 2102.09672, Eq. 17
variance        1, geometric in t              1 to 0, where the level is ``smallest``         arXiv 2011.13456, Eq. 31
exploding
EDM             1, t                           80 to 0                                         arXiv 2206.00364, Eq. 5
linear flow     ``1 - t``, t                   .999 to 0                                       arXiv 2210.02747
=============== ============================== =============================================== ======================

Divided by alpha, every path is the same one: ``x_t / alpha = x0 + level eps`` with ``level = sigma / alpha``. Samplers
work on this rescaled state and need only the levels; a network of any parametrisation is brought into the form
``denoise(x0 + level eps, level) -> E[x0 | .]`` by :func:`denoiser`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

Kind = Literal["x0", "eps", "v", "score", "flow"]
Grid = Literal["karras", "log", "time"]
Denoiser = Callable[[Tensor, float | Tensor], Tensor]

KARRAS_RHO = 7.0


@dataclass(frozen=True)
class Path:
    """A noise path ``x_t = alpha(t) x0 + sigma(t) eps``.

    Parameters
    ----------
    name : str
        For messages and configurations.
    alpha, sigma : callable
        Signal and noise scale at time t; tensor to tensor of the same shape and dtype, differentiable.
    time : callable
        The inverse of :meth:`level`; tensor to tensor.
    start, end : float
        Time of nearly pure noise and time of the data.
    smallest : float
        The smallest level above zero that :meth:`grid` visits with ``kind`` "karras" or "log".
    """

    name: str
    alpha: Callable[[Tensor], Tensor]
    sigma: Callable[[Tensor], Tensor]
    time: Callable[[Tensor], Tensor]
    start: float
    end: float
    smallest: float = 0.002

    def level(self, t: Tensor) -> Tensor:
        """``sigma / alpha``: the noise of the rescaled state; infinite where alpha is zero."""
        return self.sigma(t) / self.alpha(t)

    def snr(self, t: Tensor) -> Tensor:
        """``alpha^2 / sigma^2``; infinite where sigma is zero."""
        return self.level(t) ** -2

    def time_of_level(self, level: float | Tensor) -> Tensor:
        """The time at which the rescaled state holds noise of this level; float64 unless a tensor comes in.

        >>> path = variance_preserving()
        >>> round(float(path.level(path.time_of_level(3.0))), 12)
        3.0
        """
        return self.time(_as_tensor(level))

    def grid(self, steps: int, kind: Grid = "karras") -> Tensor:
        """Times of ``steps`` steps from ``start`` to ``end``, descending in noise: float64 ``(steps + 1,)``.

        "karras": levels spaced as in arXiv 2206.00364, Eq. 5, with rho = 7; "log": evenly in the logarithm of the
        level; "time": evenly in t. The last time is exactly ``end``. Where the level is zero there, "karras" and "log"
        run to ``smallest`` in ``steps - 1`` steps and then to zero in the last.

        Raises
        ------
        ValueError
            If there is no step, or no such kind.

        >>> [round(float(t), 3) for t in edm().grid(4)]
        [80.0, 9.723, 0.47, 0.002, 0.0]
        """
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        if kind not in get_args(Grid):
            raise ValueError(f"kind must be one of {', '.join(get_args(Grid))}, got {kind!r}")
        ends = torch.tensor([self.start, self.end], dtype=torch.float64)
        if kind == "time":
            return torch.linspace(self.start, self.end, steps + 1, dtype=torch.float64)
        largest, last = (float(level) for level in self.level(ends))
        smallest = max(last, self.smallest)
        count = steps if last == 0 else steps + 1
        if kind == "karras":
            levels = karras_levels(largest, smallest, count)
        else:
            levels = largest * (smallest / largest) ** torch.linspace(0, 1, count, dtype=torch.float64)
        times = self.time(levels)
        if last == 0:
            return torch.cat([times, ends[1:]])
        times[-1] = self.end
        return times

    def levels(self, steps: int, kind: Grid = "karras") -> Tensor:
        """Levels of ``steps`` steps down to exactly zero, as samplers take them: float64 ``(steps + 1,)``.

        Those of :meth:`grid`; on a path that ends above zero its ``steps - 1`` steps and then a last one to zero.

        >>> [round(float(level), 4) for level in variance_exploding(0.01, 100.0).levels(3, "log")]
        [100.0, 1.0, 0.01, 0.0]
        """
        if float(self.level(torch.tensor(self.end, dtype=torch.float64))) == 0:
            return self.level(self.grid(steps, kind))
        start = torch.tensor([self.start], dtype=torch.float64)
        above = self.level(self.grid(steps - 1, kind) if steps > 1 else start)
        return torch.cat([above, torch.zeros(1, dtype=torch.float64)])


def karras_levels(largest: float, smallest: float, count: int) -> Tensor:
    """Levels from the largest to the smallest, dense where they are small: float64 ``(count,)``.

    Evenly spaced in ``level^(1 / 7)`` (arXiv 2206.00364, Eq. 5); a single level is the largest.

    >>> [round(float(level), 3) for level in karras_levels(80.0, 0.002, 4)]
    [80.0, 9.723, 0.47, 0.002]
    """
    first, final = largest ** (1 / KARRAS_RHO), smallest ** (1 / KARRAS_RHO)
    fractions = torch.linspace(0, 1, count, dtype=torch.float64)
    levels: Tensor = (first + fractions * (final - first)) ** KARRAS_RHO
    return levels


def variance_preserving(beta_min: float = 0.1, beta_max: float = 20.0) -> Path:
    """VP path with ``beta(t) = beta_min + t (beta_max - beta_min)`` (arXiv 2011.13456, Eq. 33).

    Raises
    ------
    ValueError
        Unless ``0 < beta_min < beta_max``.

    >>> path = variance_preserving()
    >>> t = torch.tensor(0.5, dtype=torch.float64)
    >>> round(float(path.alpha(t) ** 2 + path.sigma(t) ** 2), 12)
    1.0
    """
    if not 0 < beta_min < beta_max:
        raise ValueError(f"expected 0 < beta_min < beta_max, got {beta_min} and {beta_max}")
    slope = beta_max - beta_min

    def integral(t: Tensor) -> Tensor:
        return t * (beta_min + slope * t / 2)

    def time(level: Tensor) -> Tensor:
        # The root of slope t^2 / 2 + beta_min t = log(1 + level^2), written so that small levels do not cancel.
        wanted = torch.log1p(level**2)
        return 2 * wanted / (beta_min + torch.sqrt(beta_min**2 + 2 * slope * wanted))

    return Path(
        "variance_preserving",
        alpha=lambda t: torch.exp(-integral(t) / 2),
        sigma=lambda t: torch.sqrt(-torch.expm1(-integral(t))),
        time=time,
        start=1.0,
        end=0.0,
    )


def cosine(offset: float = 0.008, start: float = 0.999) -> Path:
    """VP path with ``alpha^2 = cos^2(b) / cos^2(a)``, ``b = (t + offset)/(1 + offset) pi/2``, a the same at t = 0.

    arXiv 2102.09672, Eq. 17. At t = 1 the level is infinite, hence ``start``.

    Raises
    ------
    ValueError
        Unless ``0 <= offset`` and ``0 < start < 1``.

    >>> path = cosine()
    >>> round(float(path.level(path.time_of_level(0.3))), 12)
    0.3
    """
    if offset < 0 or not 0 < start < 1:
        raise ValueError(f"expected offset >= 0 and 0 < start < 1, got {offset} and {start}")
    a = offset / (1 + offset) * math.pi / 2

    def angle(t: Tensor) -> Tensor:
        return (t + offset) / (1 + offset) * (math.pi / 2)

    def sigma(t: Tensor) -> Tensor:
        # cos^2 a - cos^2 b = sin(b - a) sin(b + a): no cancellation near the data.
        from_data = t / (1 + offset) * (math.pi / 2)
        return torch.sqrt(torch.sin(from_data) * torch.sin(from_data + 2 * a)) / math.cos(a)

    def time(level: Tensor) -> Tensor:
        b = torch.atan2(torch.sqrt(level**2 + math.sin(a) ** 2), torch.full_like(level, math.cos(a)))
        return b * (2 / math.pi) * (1 + offset) - offset

    return Path(
        "cosine",
        alpha=lambda t: torch.cos(angle(t)) / math.cos(a),
        sigma=sigma,
        time=time,
        start=start,
        end=0.0,
    )


def variance_exploding(sigma_min: float = 0.01, sigma_max: float = 100.0) -> Path:
    """VE path ``sigma(t) = sigma_min (sigma_max / sigma_min)^t`` (arXiv 2011.13456, Eq. 31); it ends at ``sigma_min``.

    Raises
    ------
    ValueError
        Unless ``0 < sigma_min < sigma_max``.

    >>> round(float(variance_exploding().sigma(torch.tensor(0.5, dtype=torch.float64))), 12)
    1.0
    """
    if not 0 < sigma_min < sigma_max:
        raise ValueError(f"expected 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}")
    ratio = math.log(sigma_max / sigma_min)
    return Path(
        "variance_exploding",
        alpha=torch.ones_like,
        sigma=lambda t: sigma_min * torch.exp(t * ratio),
        time=lambda level: torch.log(level / sigma_min) / ratio,
        start=1.0,
        end=0.0,
        smallest=sigma_min,
    )


def edm(sigma_min: float = 0.002, sigma_max: float = 80.0) -> Path:
    """EDM path: time is the level (arXiv 2206.00364); with ``grid(kind="karras")`` its Eq. 5.

    Raises
    ------
    ValueError
        Unless ``0 < sigma_min < sigma_max``.

    >>> float(edm().time_of_level(3.0))
    3.0
    """
    if not 0 < sigma_min < sigma_max:
        raise ValueError(f"expected 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}")
    return Path(
        "edm",
        alpha=torch.ones_like,
        sigma=lambda t: t * 1,
        time=lambda level: level * 1,
        start=sigma_max,
        end=0.0,
        smallest=sigma_min,
    )


def linear_flow(start: float = 0.999) -> Path:
    """Straight lines from data to noise, ``x_t = (1 - t) x0 + t eps`` (arXiv 2210.02747, 2209.03003).

    At t = 1 the level ``t / (1 - t)`` is infinite, hence ``start``.

    Raises
    ------
    ValueError
        Unless ``0 < start < 1``.

    >>> float(linear_flow().time_of_level(1.0))
    0.5
    """
    if not 0 < start < 1:
        raise ValueError(f"expected 0 < start < 1, got {start}")
    return Path(
        "linear_flow",
        alpha=lambda t: 1 - t,
        sigma=lambda t: t * 1,
        time=lambda level: level / (1 + level),
        start=start,
        end=0.0,
    )


def from_scheduler(scheduler: Any) -> Path:
    """The path of a diffusers scheduler, in its own time, so that a network trained with it is asked its own questions.

    With ``alphas_cumprod`` (DDPM, DDIM and their kin) time is the index of the training step, between integers
    log-SNR is interpolated linearly, and ``end`` = 0 still holds the noise of the first training step; levels outside
    the table are taken as its ends. With flow matching (``FlowMatchEulerDiscreteScheduler``) time runs from 0 to
    ``num_train_timesteps`` on straight lines; a ``shift`` moves the times that are visited, not the path.

    Raises
    ------
    TypeError
        If the scheduler has neither ``alphas_cumprod`` nor flow matching's ``scale_noise``.
    ValueError
        If a training step holds no signal at all, or the table does not descend.

    >>> from types import SimpleNamespace
    >>> path = from_scheduler(SimpleNamespace(alphas_cumprod=torch.linspace(0.999, 0.001, 1000)))
    >>> path.start, path.end
    (999.0, 0.0)
    """
    table = getattr(scheduler, "alphas_cumprod", None)
    if table is None:
        if not hasattr(scheduler, "scale_noise"):
            raise TypeError(
                f"expected a scheduler with alphas_cumprod or flow matching, got {type(scheduler).__name__}"
            )
        count = float(scheduler.config.num_train_timesteps)
        flow = linear_flow()
        return Path(
            "scheduler",
            alpha=lambda t: flow.alpha(t / count),
            sigma=lambda t: flow.sigma(t / count),
            time=lambda level: flow.time(level) * count,
            start=flow.start * count,
            end=0.0,
        )
    kept = torch.as_tensor(table, dtype=torch.float64, device="cpu")
    if bool((kept <= 0).any()) or bool((kept >= 1).any()) or bool((kept.diff() >= 0).any()):
        raise ValueError("alphas_cumprod must descend strictly between 1 and 0 (a zero terminal SNR is not supported)")
    log_snr = torch.log(kept) - torch.log1p(-kept)

    def at(t: Tensor) -> Tensor:
        values = log_snr.to(t)
        below = t.detach().floor().clamp(0, len(values) - 2).long()
        fraction = (t - below).clamp(0, 1)
        return values[below] + fraction * (values[below + 1] - values[below])

    def time(level: Tensor) -> Tensor:
        rising = -log_snr.to(level)
        wanted = 2 * torch.log(level)
        below = (torch.searchsorted(rising, wanted.contiguous()) - 1).clamp(0, len(rising) - 2)
        fraction = (wanted - rising[below]) / (rising[below + 1] - rising[below])
        return below + fraction.clamp(0, 1)

    return Path(
        "scheduler",
        alpha=lambda t: torch.sqrt(torch.sigmoid(at(t))),
        sigma=lambda t: torch.sqrt(torch.sigmoid(-at(t))),
        time=time,
        start=float(len(kept) - 1),
        end=0.0,
        smallest=math.exp(-float(log_snr[0]) / 2),
    )


def convert(path: Path, x: Tensor, t: float | Tensor, value: Tensor, source: Kind, target: Kind) -> Tensor:
    """One description of the noise in ``x = x_t`` turned into another, exactly.

    ========= =================================================
    kind      value
    ========= =================================================
    "x0"      the clean state
    "eps"     the noise
    "v"       ``alpha eps - sigma x0`` (arXiv 2202.00512)
    "score"   ``grad log p_t(x_t) = -eps / sigma``
    "flow"    ``d x_t / dt = alpha' x0 + sigma' eps``
    ========= =================================================

    Parameters
    ----------
    x, value : tensor ``(K, C, *space)``
        The state *on the path* (not rescaled) and its description.
    t : float or tensor ``(K,)``
        Time.
    source, target : kind
        What ``value`` is, and what is wanted.

    Raises
    ------
    ValueError
        If a kind is unknown, if t has neither one entry nor K, or if ``x`` and ``value`` do not determine the target:
        at a time without noise (eps and score from x0) or without signal (x0 from eps).

    Notes
    -----
    Two linear equations, ``x = alpha x0 + sigma eps`` and the kind's own, in ``(x0, eps)``; time and memory of a few
    passes over x. ``alpha'`` and ``sigma'`` come from automatic differentiation, so they are exact too.

    >>> x0, eps = torch.ones(1, 1, 2, 2), torch.full((1, 1, 2, 2), 2.0)
    >>> path = linear_flow()
    >>> x = 0.75 * x0 + 0.25 * eps
    >>> float(convert(path, x, 0.25, x0, "x0", "flow")[0, 0, 0, 0])  # eps - x0
    1.0
    """
    for kind in (source, target):
        if kind not in get_args(Kind):
            raise ValueError(f"a kind must be one of {', '.join(get_args(Kind))}, got {kind!r}")
    if source == target:
        return value
    moment = torch.as_tensor(t, dtype=x.dtype, device=x.device)
    if moment.ndim > 0 and moment.shape != x.shape[:1]:
        raise ValueError(f"expected one time or {x.shape[0]}, one a sample, got shape {tuple(moment.shape)}")
    alpha, sigma = path.alpha(moment), path.sigma(moment)
    # The row (p, q) of a kind: value = p x0 + q eps.
    zero, one = torch.zeros_like(alpha), torch.ones_like(alpha)
    rows: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {
        "x0": lambda: (one, zero),
        "eps": lambda: (zero, one),
        "v": lambda: (-sigma, alpha),
        "score": lambda: (zero, -1 / sigma),
        "flow": lambda: (_rate(path.alpha, moment), _rate(path.sigma, moment)),
    }
    (p, q), (u, w) = rows[source](), rows[target]()
    determinant = alpha * q - sigma * p
    # target = u x0 + w eps with x0 = (q x - sigma value) / det, eps = (alpha value - p x) / det
    of_x, of_value = (u * q - w * p) / determinant, (w * alpha - u * sigma) / determinant
    if not bool((torch.isfinite(of_x) & torch.isfinite(of_value)).all()):
        raise ValueError(f"{target} does not follow from {source} at t = {moment.tolist()} of path {path.name}")
    return _over(of_x, x) * x + _over(of_value, x) * value


def denoiser(path: Path, network: Callable[[Tensor, Tensor], Tensor], kind: Kind = "eps") -> Denoiser:
    """A network of any parametrisation as ``denoise(x, level) -> E[x0 | x]`` on the rescaled state.

    Parameters
    ----------
    path : Path
        The path on which the network was trained.
    network : callable ``(x_t, t) -> value``
        x_t ``(K, C, *space)`` on the path, t ``(K,)`` in the path's time.
    kind : kind
        What the network predicts.

    >>> path = variance_preserving()
    >>> denoise = denoiser(path, lambda x, t: torch.zeros_like(x), "x0")
    >>> denoise(torch.ones(2, 1, 3, 3), 0.5).shape
    torch.Size([2, 1, 3, 3])
    """

    def denoise(x: Tensor, level: float | Tensor) -> Tensor:
        levels = torch.as_tensor(level, dtype=torch.float64, device=x.device).expand(x.shape[0])
        t = path.time(levels).to(x.dtype)
        on_path = x * _over(path.alpha(t), x)
        return convert(path, on_path, t, network(on_path, t), kind, "x0")

    return denoise


def _rate(function: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """Derivative of an entrywise function."""
    with torch.inference_mode(False), torch.enable_grad():  # in either mode of the caller
        moving = t.detach().clone().requires_grad_()
        value = function(moving)
        return torch.autograd.grad(value.sum(), moving)[0] if value.requires_grad else torch.zeros_like(t)


def _as_tensor(value: float | Tensor) -> Tensor:
    return value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)


def _over(values: Tensor, like: Tensor) -> Tensor:
    """A number, or one a sample, shaped to multiply ``(K, C, *space)``."""
    return values.reshape(-1, *(1,) * (like.ndim - 1)) if values.ndim else values
