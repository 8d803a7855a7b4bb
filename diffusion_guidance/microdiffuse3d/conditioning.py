"""What the transformer is told: of the low-resolution volume at each token, and of its slices as images as a whole."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional

from tensorcell.diffusion_guidance.microdiffuse3d.attention import DecomposedAttention
from tensorcell.diffusion_guidance.microdiffuse3d.config import MicroDiffuse3DConfig

IMAGE_WIDTH = 512
"""Features between those of the image encoder and those of a token."""


class Condition(NamedTuple):
    """The low-resolution volume, encoded at each token of the restored one."""

    injected: Tensor
    """``(B, D N, injected_width)``: enters every block."""
    concatenated: Tensor
    """``(B, D N, condition_width)``: is concatenated to the tokens of the latent."""


class ConvolutionalBlock(nn.Sequential):
    """Group norm, SiLU, and a 3 x 3 x 3 convolution."""

    def __init__(self, before: int, after: int, groups: int) -> None:
        super().__init__(nn.GroupNorm(groups, before), nn.SiLU(), nn.Conv3d(before, after, 3, padding=1))


class ResidualBlock(nn.Module):
    """Two convolutional blocks beside a shortcut."""

    def __init__(self, before: int, after: int, groups: int) -> None:
        super().__init__()
        self.first = ConvolutionalBlock(before, after, groups)
        self.second = ConvolutionalBlock(after, after, groups)
        self.shortcut = nn.Conv3d(before, after, 1) if before != after else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """``(B, before, D, H, W) -> (B, after, D, H, W)``."""
        found: Tensor = self.second(self.first(x)) + self.shortcut(x)
        return found


class AttentiveBlock(ResidualBlock):
    """A residual block, followed by decomposed attention beside a shortcut."""

    def __init__(self, before: int, after: int, groups: int, heads: int) -> None:
        super().__init__(before, after, groups)
        self.norm = nn.GroupNorm(groups, after)
        self.attention = DecomposedAttention(after, heads, after // heads)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, before, D, H, W) -> (B, after, D, H, W)``."""
        x = super().forward(x)
        tokens = self.norm(x).flatten(3).permute(0, 2, 3, 1)
        found: Tensor = x + self.attention(tokens).permute(0, 3, 1, 2).reshape(x.shape)
        return found


def halving(width: int) -> nn.Conv3d:
    """A convolution that halves the lateral resolution."""
    return nn.Conv3d(width, width, 3, stride=(1, 2, 2), padding=1)


def encoder(config: MicroDiffuse3DConfig) -> nn.Sequential:
    """The encoder of the low-resolution volume: one column of features a token, at its own depth."""
    width, groups = config.encoder_width, config.encoder_groups
    layers: list[nn.Module] = [nn.Conv3d(1, width, 3, padding=1), ResidualBlock(width, width, groups)]
    for _ in range(config.stem_stages):
        layers += [ResidualBlock(width, 2 * width, groups), halving(2 * width)]
        width *= 2
    for stage, after in enumerate(config.encoder_widths):
        coarsest = stage == len(config.encoder_widths) - 1
        for _ in range(config.encoder_blocks):
            if coarsest:
                layers.append(AttentiveBlock(width, after, groups, config.encoder_heads))
            else:
                layers.append(ResidualBlock(width, after, groups))
            width = after
        if not coarsest:
            layers.append(halving(width))
    layers += [AttentiveBlock(width, width, groups, config.encoder_heads) for _ in range(2)]
    return nn.Sequential(*layers)


def prime_factors(number: int) -> list[int]:
    """Ascending, and none of 1.

    >>> prime_factors(12), prime_factors(1)
    ([2, 2, 3], [])
    """
    factors, divisor = [], 2
    while number > 1:
        while number % divisor == 0:
            factors.append(divisor)
            number //= divisor
        divisor += 1
    return factors


def head(before: int, config: MicroDiffuse3DConfig, ratio: int) -> nn.Sequential:
    """Layers from the encoder's features to the injected condition, with `ratio` times as many planes."""
    after, groups = config.injected_width, config.encoder_groups
    if ratio == 1:
        return nn.Sequential(
            ResidualBlock(before, before, groups), nn.SiLU(), ResidualBlock(before, after, groups), nn.SiLU()
        )
    layers: list[nn.Module] = []
    factors = prime_factors(ratio)
    width = before
    for n, factor in enumerate(factors):
        if n == len(factors) - 1:
            wanted = after
        else:
            wanted = width // 2 if width // 2 >= after else width
        layers += [
            ResidualBlock(width, width, groups),
            nn.ConvTranspose3d(width, wanted, (factor + 2, 1, 1), stride=(factor, 1, 1), padding=(1, 0, 0)),
            nn.SiLU(),
        ]
        width = wanted
    return nn.Sequential(*layers)


class ConditioningNetwork(nn.Module):
    """The encoder, a head for each ratio of depths, and the compression of the condition that is concatenated."""

    def __init__(self, config: MicroDiffuse3DConfig) -> None:
        super().__init__()
        self.stride = config.stride
        self.encoder = encoder(config)
        self.heads = nn.ModuleDict(
            {str(ratio): head(config.encoder_widths[-1], config, ratio) for ratio in config.depth_ratios}
        )
        self.compression = nn.Conv3d(config.injected_width, config.condition_width, 1)

    def forward(self, volume: Tensor, ratio: int) -> Condition:
        """Encode volumes ``(B, 1, D, H, W)``; the condition has ``ratio D`` planes.

        Raises
        ------
        ValueError
            If there is no head for the ratio, or a side is no multiple of the pixels of a token.
        """
        if str(ratio) not in self.heads:
            raise ValueError(f"the network restores {' or '.join(self.heads)} planes per plane measured, not {ratio}")
        if volume.shape[-1] % self.stride or volume.shape[-2] % self.stride:
            raise ValueError(
                f"height and width must be multiples of {self.stride}, the pixels of a token, "
                f"got {tuple(volume.shape[-2:])}"
            )
        injected = self.heads[str(ratio)](self.encoder(volume))
        return Condition(*(each.flatten(2).transpose(1, 2) for each in (injected, self.compression(injected))))


class ImageCondition(nn.Module):
    """Features of the slices by an image encoder, as one vector a volume."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.each = nn.Linear(features, IMAGE_WIDTH)
        self.whole = nn.Linear(IMAGE_WIDTH, width)

    def forward(self, features: Tensor) -> Tensor:
        """``(B, D, n, features) -> (B, width)``: the mean over the patches of all slices."""
        found: Tensor = self.whole(functional.gelu(self.each(features)).mean(dim=(1, 2)))
        return found
