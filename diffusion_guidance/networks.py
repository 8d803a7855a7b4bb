"""One small U-Net for two uses: a denoiser at any noise level, and a regression where the level is infinite.

The network is given the rescaled state ``x = x0 + level eps``, optionally a condition `c` (what is known of `x0`: an
interpolation, and where it was measured), and the level. It predicts

    D(x, level, c) = a x + (1 - a) c + tau sqrt(1 - a) F(s (x - c), c, known, flag, level),
    a = 1 / (1 + r^2),   s = 1 / sqrt(tau^2 + level^2),   r = level / tau,

with ``tau`` the root mean square of ``x0 - c``. Without a condition ``c = 0`` and ``tau = 1``, the standard deviation
of the data, and this is the preconditioning of EDM (Karras et al. 2022, table 1). It is the same derivation about
another mean: if ``x0 - c`` were white and Gaussian, ``F = 0`` would be exact at every level; the target of `F` has unit
variance at every level. At ``level = inf`` it reads ``c + tau F(0, c, ...)``: a regression of the residual to the
interpolation, in which `x` has no part. With the last layer zero at the start, training starts from these answers.

Why not diffusers' ``UNet2DModel``: at widths (32, 64, 64) it takes 0.07 s for a 96 x 96 slice on one core (12 s for
all slices of an 81 x 86 x 94 volume, in each of 120 network calls), most of it at full resolution; here the first layer
folds 2 x 2 pixels into channels. Its group norms depend on the whole slice, so that tiles would not agree with the
slice; here there is no normalisation but the preconditioning, and a pixel depends on its surroundings alone.

References
----------
T. Karras, M. Aittala, T. Aila, S. Laine, Elucidating the design space of diffusion-based generative models,
arXiv:2206.00364. K. Zhang et al., Plug-and-play image restoration with deep denoiser prior,
doi:10.1109/TPAMI.2021.3088914 (a U-Net of residual blocks without normalisation).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from tensorcell.diffusion_guidance.compute import Precision, products

Network = TypeVar("Network", bound=nn.Module)

CONVOLUTION = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
FREQUENCIES = 8
"""Sines and cosines that tell the network its noise level."""

LEVEL_LIMITS = (1e-3, 1e3)
"""Levels outside are announced to the network as these; the preconditioning uses the true ones."""


@dataclass(frozen=True, kw_only=True)
class SliceNetworkConfig:
    """Shape of a :class:`SliceNetwork`.

    Attributes
    ----------
    channels : int
        Channels of the data.
    condition_channels : int
        0, or ``channels + 1``: an interpolation of each channel, and 1 where that was measured, 0 elsewhere.
    widths : tuple of int
        Features at each resolution, finest first; each is half the one before.
    blocks : int
        Residual blocks at each resolution, on the way down and on the way up.
    patch : int
        Pixels a side that the first layer folds into features.
    dimensions : int
        2 for slices, 3 for volumes.
    condition_error : float
        Root mean square of ``x0 - c`` in prior units: `tau`.

    Examples
    --------
    >>> SliceNetworkConfig(widths=(8, 16)).stride
    4
    """

    channels: int = 1
    condition_channels: int = 2
    widths: tuple[int, ...] = (32, 48, 64)
    blocks: int = 2
    patch: int = 2
    dimensions: int = 2
    condition_error: float = 0.3

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))  # JSON has lists only
        counts = {"channels": self.channels, "blocks": self.blocks, "patch": self.patch}
        for name, count in {**counts, **{f"widths[{k}]": width for k, width in enumerate(self.widths)}}.items():
            if not isinstance(count, int) or count < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {count!r}")
        if not self.widths:
            raise ValueError("widths must name at least one resolution, got none")
        if self.dimensions not in CONVOLUTION:
            raise ValueError(f"dimensions must be 2 or 3, got {self.dimensions!r}")
        if self.condition_channels not in (0, self.channels + 1):
            raise ValueError(
                f"condition_channels must be 0 or channels + 1 = {self.channels + 1}, got {self.condition_channels!r}"
            )
        if not (isinstance(self.condition_error, int | float) and 0 < self.condition_error < math.inf):
            raise ValueError(f"condition_error must be positive and finite, got {self.condition_error!r}")

    @property
    def fewest_weights(self) -> int:
        """Weights of the residual blocks' convolutions, of which each has two of 3 x 3 pixels: a network has more."""
        return 2 * self.blocks * 9 * sum(width * width for width in self.widths)

    @property
    def stride(self) -> int:
        """Sides that are multiples of this need no padding."""
        return self.patch << (len(self.widths) - 1)

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold."""
        return {**asdict(self), "widths": list(self.widths)}


def channels_last(network: Network) -> Network:
    """The network with its convolutions in the order of memory in which a CPU trains them two to four times as fast."""
    for weight in network.parameters():
        if weight.ndim >= 4:
            order = torch.channels_last if weight.ndim == 4 else torch.channels_last_3d
            weight.data = weight.data.contiguous(memory_format=order)
    return network


def set_zero(layer: nn.Module) -> None:
    """Weights and biases of a layer that adds nothing at the start."""
    for weights in layer.parameters():
        nn.init.zeros_(weights)


class LevelFeatures(nn.Module):
    """Noise level (K,) -> features (K, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2 * FREQUENCIES + 1, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )

    def forward(self, level: Tensor) -> Tensor:
        low, high = LEVEL_LIMITS
        place = (level.clamp(low, high) / low).log() / math.log(high / low)  # (K,) in [0, 1]
        order = torch.arange(1, FREQUENCIES + 1, device=level.device, dtype=level.dtype)
        angle = math.pi / 2 * place[:, None] * order  # (K, FREQUENCIES)
        known = torch.where(level.isinf(), 0.0, 1.0).to(level.dtype)[:, None]  # (K, 1): is there a state at all?
        features: Tensor = self.layers(torch.cat([angle.cos(), angle.sin(), known], dim=1))  # (K, width)
        return features


class Block(nn.Module):
    """``h + conv(silu(conv(silu(h)) (1 + gain) + shift))``, gain and shift from the noise level."""

    def __init__(self, width: int, level_width: int, dimensions: int) -> None:
        super().__init__()
        convolution = CONVOLUTION[dimensions]
        self.first = convolution(width, width, 3, padding=1)
        self.modulation = nn.Linear(level_width, 2 * width)
        self.second = convolution(width, width, 3, padding=1)
        for layer in (self.modulation, self.second):
            set_zero(layer)

    def forward(self, h: Tensor, level: Tensor) -> Tensor:
        gain, shift = self.modulation(level).reshape(*level.shape[:1], 2, -1, *(1,) * (h.ndim - 2)).unbind(1)
        inner = self.first(functional.silu(h))  # (K, width, *space)
        inner = functional.silu(torch.addcmul(shift, inner, 1 + gain))  # (K, width, *space)
        out: Tensor = h + self.second(inner)  # (K, width, *space)
        return out


class Stage(nn.Module):
    """Residual blocks at one resolution."""

    def __init__(self, width: int, level_width: int, config: SliceNetworkConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, level_width, config.dimensions) for _ in range(config.blocks))

    def forward(self, h: Tensor, level: Tensor) -> Tensor:
        for block in self.blocks:
            h = block(h, level)  # (K, width, *space)
        return h


class SliceNetwork(nn.Module):
    """Preconditioned U-Net ``D(x, level, condition)``; see the module's formulas.

    Parameters
    ----------
    config : SliceNetworkConfig
    seed : int or None
        Of the initial weights; the global generator is neither read nor changed. None: not reproducible.

    Notes
    -----
    Two convolutions a block; with the default widths 0.56 million weights, and 1.2 s on one
    core for both orientations of an 81 x 86 x 94 volume.

    Examples
    --------
    >>> network = SliceNetwork(SliceNetworkConfig(widths=(8, 8), blocks=1))
    >>> x = torch.zeros(2, 1, 13, 10)
    >>> network(x, torch.tensor([0.1, float("inf")])).shape
    torch.Size([2, 1, 13, 10])
    """

    def __init__(self, config: SliceNetworkConfig | None = None, *, seed: int | None = 0) -> None:
        super().__init__()
        self.config = config = config or SliceNetworkConfig()
        self.precision: Precision = "float32"
        convolution, transposed = CONVOLUTION[config.dimensions], TRANSPOSED[config.dimensions]
        widths, level_width = config.widths, 4 * config.widths[0]
        taken = 2 * config.channels + 2  # state, interpolation, where measured, flag
        with torch.random.fork_rng(devices=[]):
            if seed is None:
                torch.seed()
            else:
                torch.manual_seed(seed)
            self.level = LevelFeatures(level_width)
            self.enter = convolution(taken, widths[0], config.patch + 2, stride=config.patch, padding=1)
            self.down = nn.ModuleList(Stage(width, level_width, config) for width in widths)
            self.shrink = nn.ModuleList(convolution(fine, coarse, 2, stride=2) for fine, coarse in pairwise(widths))
            self.grow = nn.ModuleList(transposed(coarse, fine, 2, stride=2) for fine, coarse in pairwise(widths))
            self.up = nn.ModuleList(Stage(width, level_width, config) for width in widths[:-1])
            self.leave = transposed(widths[0], config.channels, config.patch, stride=config.patch)
            set_zero(self.leave)
        if config.dimensions == 2:
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # twice as fast on CPUs

    @property
    def stride(self) -> int:
        """Sides that are multiples of this need no padding; tiles that start at multiples of it agree."""
        return self.config.stride

    def forward(self, x: Tensor, level: float | Tensor, condition: Tensor | None = None) -> Tensor:
        """E[x0 | x, condition], all in prior units.

        Parameters
        ----------
        x : Tensor (K, channels, *space)
            ``x0 + level eps``; finite even where ``level`` is infinite.
        level : float or Tensor (K,)
            From 0 (returns `x`) to infinity (`x` has no part in the result).
        condition : Tensor (K, channels + 1, *space), optional
            Interpolation, and 1 where it was measured, 0 elsewhere. None: unconditional.
            NaN throughout a sample: that one is unconditional.

        Raises
        ------
        ValueError
            Shapes that do not fit the config.
        """
        config = self.config
        check_shapes(config, x, condition)
        level = as_levels(level, x)  # (K,)
        share, size, scale = preconditioning(level, 1.0 if condition is None else config.condition_error)
        if condition is None:
            base = torch.zeros_like(x)  # (K, channels, *space)
            given = torch.zeros_like(x[:, :1]).expand(-1, 2, *x.shape[2:])  # (K, 2, *space): measured, flag
        else:
            dropped = condition[:, :1].flatten(1).isnan().all(dim=1)  # (K,)
            # Whether any is dropped is not asked: the answer would have to come from a GPU before the next line.
            free = preconditioning(level, 1.0)
            share, size, scale = (torch.where(dropped, *two) for two in zip(free, (share, size, scale), strict=True))
            condition = torch.where(broad(dropped, x), 0.0, condition)
            base = condition[:, : config.channels]  # (K, channels, *space)
            flag = broad((~dropped).to(x.dtype), x).expand_as(x[:, :1])  # (K, 1, *space)
            given = torch.cat([condition[:, config.channels :], flag], dim=1)  # (K, 2, *space)
        state = (x - base) * broad(scale, x)  # (K, channels, *space)
        inputs = torch.cat([state, base, given], dim=1)  # (K, 2 channels + 2, *space)
        with products(x.device, self.precision):
            residual = self.residual(inputs, level).to(x.dtype)  # (K, channels, *space)
        return base + broad(share, x) * (x - base) + broad(size, x) * residual  # (K, channels, *space)

    def residual(self, inputs: Tensor, level: Tensor) -> Tensor:
        """The network `F` proper, without preconditioning."""
        space = inputs.shape[2:]
        inputs = pad_to_stride(inputs, self.stride)  # (K, taken, *padded)
        if inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        level = self.level(level)  # (K, level_width)
        h = self.enter(inputs)  # (K, widths[0], *padded / patch)
        kept = []
        for stage, shrink in zip(self.down, [*self.shrink, None], strict=True):
            h = stage(h, level)  # (K, widths[j], *padded / patch / 2^j)
            if shrink is not None:
                kept.append(h)
                h = shrink(h)  # (K, widths[j + 1], half)
        for j in range(len(self.up) - 1, -1, -1):
            h = kept[j] + self.grow[j](h)  # (K, widths[j], twice)
            h = self.up[j](h, level)  # (K, widths[j], *padded / patch / 2^j)
        out = self.leave(h)  # (K, channels, *padded)
        crop: Tensor = out[(..., *(slice(side) for side in space))]  # (K, channels, *space)
        return crop


def preconditioning(level: Tensor, deviation: float) -> tuple[Tensor, Tensor, Tensor]:
    """``a``, ``tau sqrt(1 - a)`` and ``s`` of the module's formulas, each (K,), finite and exact from 0 to infinity.

    >>> preconditioning(torch.tensor([0.0, 1.0, float("inf")]), 1.0)[0]
    tensor([1.0000, 0.5000, 0.0000])
    """
    ratio = (level / deviation).clamp(max=1e8)  # its square is finite in float32
    size = deviation * ratio / (1 + ratio.square()).sqrt()
    scale = 1 / (deviation * (1 + ratio.square()).sqrt())
    nothing = level.isinf()
    share = torch.where(nothing, 0.0, 1 / (1 + ratio.square()))
    return share, size, torch.where(nothing, 0.0, scale)


def as_levels(level: float | Tensor, x: Tensor) -> Tensor:
    """Noise levels (K,), in the dtype and on the device of `x`."""
    given = level if isinstance(level, Tensor) else torch.tensor(level, device="cpu")
    # Levels that lie on a GPU are not looked at, since they would have to be waited for.
    if given.device.type == "cpu" and bool((given.isnan() | (given < 0)).any()):
        raise ValueError("level must not be negative or NaN, got such a level")
    levels = torch.as_tensor(level, dtype=x.dtype, device=x.device)
    if levels.ndim > 1 or (levels.ndim == 1 and levels.shape[0] not in (1, x.shape[0])):
        raise ValueError(f"level must be one number or one a sample, {x.shape[0]}, got shape {tuple(levels.shape)}")
    return levels.expand(x.shape[0])


def broad(values: Tensor, like: Tensor) -> Tensor:
    """(K,) -> (K, 1, 1, 1...) of as many axes as `like`."""
    return values.reshape(-1, *(1,) * (like.ndim - 1))


def check_shapes(config: SliceNetworkConfig, x: Tensor, condition: Tensor | None) -> None:
    """ValueError in one line where shapes do not fit."""
    if x.ndim != config.dimensions + 2:
        raise ValueError(f"x must have {config.dimensions + 2} axes (K, C, *space), got shape {tuple(x.shape)}")
    if x.shape[1] != config.channels:
        raise ValueError(f"this network is for {config.channels} channel(s), got data of {x.shape[1]}")
    if condition is None:
        return
    if config.condition_channels == 0:
        raise ValueError("this network was built without a condition, got one")
    expected = (x.shape[0], config.condition_channels, *x.shape[2:])
    if tuple(condition.shape) != expected:
        raise ValueError(f"condition must have shape {expected}, got {tuple(condition.shape)}")


@contextmanager
def without_denormals() -> Iterator[None]:
    """Denormal numbers, which clean backgrounds give and at which CPUs crawl, count as zero; afterwards as before.

    >>> with without_denormals():
    ...     (torch.tensor([1e-40], device="cpu") / 2).item()
    0.0
    """
    before = (torch.tensor([1e-40], device="cpu") / 2).item() == 0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def padded(volume: Tensor, multiples: Sequence[int]) -> Tensor:
    """The volume ``(B, C, D, H, W)`` with the far ends of its last three axes repeated up to multiples.

    Examples
    --------
    >>> padded(torch.zeros(1, 1, 3, 8, 5), (2, 4, 4)).shape
    torch.Size([1, 1, 4, 8, 8])
    """
    depth, height, width = (-size % multiple for size, multiple in zip(volume.shape[2:], multiples, strict=True))
    if not (depth or height or width):
        return volume
    return functional.pad(volume, (0, width, 0, height, 0, depth), mode="replicate")


def pad_to_stride(x: Tensor, stride: int) -> Tensor:
    """Mirror at the far end of each axis of space up to multiples of the stride.

    >>> pad_to_stride(torch.arange(3.0).reshape(1, 1, 1, 3), 4).shape
    torch.Size([1, 1, 4, 4])
    """
    for axis in range(2, x.ndim):
        side, wanted = x.shape[axis], -(-x.shape[axis] // stride) * stride
        if wanted > side:
            x = x.index_select(axis, torch.tensor(mirrored(side, wanted), device=x.device))
    return x


def mirrored(side: int, wanted: int) -> Sequence[int]:
    """Indices ``0 .. wanted - 1`` of an axis continued by reflection without repeating the edge, however short.

    >>> mirrored(3, 8)
    [0, 1, 2, 1, 0, 1, 2, 1]
    """
    period = max(2 * side - 2, 1)
    return [min(k % period, period - k % period) if side > 1 else 0 for k in range(wanted)]
