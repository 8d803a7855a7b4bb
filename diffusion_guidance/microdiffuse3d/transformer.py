"""The transformer: blocks of decomposed attention whose tokens are patches of the planes of a latent volume."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from tensorcell.diffusion_guidance.microdiffuse3d.attention import DecomposedAttention
from tensorcell.diffusion_guidance.microdiffuse3d.config import MicroDiffuse3DConfig

FREQUENCIES = 256
"""Cosines and sines that tell the time."""

LONGEST = 10_000
"""The longest period of these is so many times the shortest."""

LARGEST = 100.0
"""Modulated features are cut here, as in the published network."""


def normalised(width: int) -> nn.LayerNorm:
    """A layer norm that is modulated afterwards."""
    return nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """``x (1 + scale) + shift``; ``x (B, D, N, width)``, the others ``(B, width)``."""
    return (x * (1 + scale[:, None, None]) + shift[:, None, None]).clamp(-LARGEST, LARGEST)


def modulation(width: int, parts: int) -> nn.Sequential:
    """So many vectors from the global one; 0 at the start of training."""
    linear = nn.Linear(width, parts * width)
    return nn.Sequential(nn.SiLU(), zeroed(linear))


def zeroed(linear: nn.Linear) -> nn.Linear:
    """The layer with all weights 0."""
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


class TimeCode(nn.Module):
    """Time as a vector."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(FREQUENCIES, width), nn.Linear(width, width)

    def forward(self, time: Tensor) -> Tensor:
        """``(B,) -> (B, width)``."""
        half = FREQUENCIES // 2
        frequencies = torch.exp(-math.log(LONGEST) * torch.arange(half, device=time.device) / half)
        angles = time[:, None].float() * frequencies
        code = torch.cat([angles.cos(), angles.sin()], dim=1).to(self.first.weight.dtype)
        found: Tensor = self.second(functional.silu(self.first(code)))
        return found


class Block(nn.Module):
    """A transformer block with adaptive layer norms into which the condition is injected.

    It starts as the identity but for the condition (AdaLN-zero).
    """

    def __init__(self, config: MicroDiffuse3DConfig) -> None:
        super().__init__()
        width, hidden = config.width, int(config.width * config.mlp_ratio)
        self.condition, self.condition_norm = nn.Linear(config.injected_width, width), nn.LayerNorm(width, eps=1e-6)
        self.norm_attention, self.norm_mlp = normalised(width), normalised(width)
        self.attention = DecomposedAttention(width, config.heads, config.head_width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width))
        self.modulation = modulation(width, 6)

    def forward(self, x: Tensor, vector: Tensor, condition: Tensor) -> Tensor:
        """Tokens ``(B, D, N, width)``, a global vector ``(B, width)``, conditions ``(B, D, N, injected_width)``."""
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = self.modulation(vector).chunk(6, dim=-1)
        x = x + self.condition_norm(functional.gelu(self.condition(condition)))
        x = x + gate[:, None, None] * self.attention(modulated(self.norm_attention(x), shift, scale))
        found: Tensor = x + gate_mlp[:, None, None] * self.mlp(modulated(self.norm_mlp(x), shift_mlp, scale_mlp))
        return found


class LastLayer(nn.Module):
    """From tokens to the patches of the velocity."""

    def __init__(self, config: MicroDiffuse3DConfig) -> None:
        super().__init__()
        self.norm = normalised(config.width)
        self.modulation = modulation(config.width, 2)
        self.linear = zeroed(nn.Linear(config.width, config.patch**2 * config.latent_channels))

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        """``(B, D, N, width) -> (B, D, N, patch^2 channels)``."""
        shift, scale = self.modulation(vector).chunk(2, dim=-1)
        found: Tensor = self.linear(modulated(self.norm(x), shift, scale))
        return found


class Transformer(nn.Module):
    """Velocity of a latent volume; 0 at the start of training."""

    def __init__(self, config: MicroDiffuse3DConfig) -> None:
        super().__init__()
        self.patch, self.recomputed = config.patch, False
        self.patches = nn.Conv2d(config.latent_channels, config.token_width, config.patch, stride=config.patch)
        self.position = nn.Parameter(position_code(config.width, config.positions))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.blocks))
        self.last = LastLayer(config)

    def forward(self, latent: Tensor, vector: Tensor, injected: Tensor, concatenated: Tensor) -> Tensor:
        """Latents ``(B, D, C, h, w)``, a vector ``(B, width)`` and conditions ``(B, D N, ...)``; shaped as latents."""
        return self.with_tokens(latent, vector, injected, concatenated, 0)[0]

    def with_tokens(
        self, latent: Tensor, vector: Tensor, injected: Tensor, concatenated: Tensor, block: int
    ) -> tuple[Tensor, Tensor]:
        """The same, and the tokens ``(B, D, N, width)`` after so many blocks."""
        batch, depth, channels, height, width = latent.shape
        rows, columns = height // self.patch, width // self.patch
        patches = self.patches(latent.flatten(0, 1)).flatten(2).transpose(1, 2)
        patches = patches.reshape(batch, depth, rows * columns, -1)
        injected, concatenated = (each.reshape(batch, depth, rows * columns, -1) for each in (injected, concatenated))
        tokens = torch.cat([patches, concatenated], dim=-1)
        tokens = 2 * tokens + self.position_at(depth, rows, columns)  # twice: as in the published network
        kept = tokens
        for number, each in enumerate(self.blocks, 1):
            tokens = self._through(each, tokens, vector, injected)
            kept = tokens if number == block else kept
        out = self.last(tokens, vector).reshape(batch, depth, rows, columns, self.patch, self.patch, channels)
        return out.permute(0, 1, 6, 2, 4, 3, 5).reshape(latent.shape), kept

    def _through(self, block: nn.Module, tokens: Tensor, vector: Tensor, injected: Tensor) -> Tensor:
        """One block; in a fit it may be computed again for the gradient, so that its features need not be kept."""
        if self.recomputed and torch.is_grad_enabled():
            again: Tensor = checkpoint(block, tokens, vector, injected, use_reentrant=False)
            return again
        found: Tensor = block(tokens, vector, injected)
        return found

    def position_at(self, depth: int, rows: int, columns: int) -> Tensor:
        """The position code ``(1, D, N, width)``, interpolated where the grid has another size."""
        code: Tensor = self.position
        if code.shape[2:] != (depth, rows, columns):
            code = functional.interpolate(code, size=(depth, rows, columns), mode="trilinear", align_corners=False)
        return code.flatten(3).permute(0, 2, 3, 1)


def position_code(width: int, grid: tuple[int, int, int]) -> Tensor:
    """``(1, width, D, rows, columns)``: sines and cosines of the place along each axis, in thirds of the features."""
    parts = [2 * (width // 6), 2 * (width // 6)]
    parts.insert(0, width - sum(parts))
    code = torch.zeros(1, width, *grid)
    first = 0
    for axis, (size, features) in enumerate(zip(grid, parts, strict=True)):
        count = features // 2
        frequencies = torch.exp(-math.log(LONGEST) * torch.arange(count) / max(1, count))
        angles = frequencies[:, None] * torch.arange(size)
        shape = [1, count, 1, 1, 1]
        shape[2 + axis] = size
        code[:, first : first + count] = angles.sin().reshape(shape)
        code[:, first + count : first + 2 * count] = angles.cos().reshape(shape)
        first += features
    return code
