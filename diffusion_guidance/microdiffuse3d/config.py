"""Sizes of the network."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

LARGEST = 65536
"""Largest of the sizes of a network: its features, heads and so on."""

LAYERS, MOST_LAYERS = ("blocks", "groups", "encoder_blocks"), 1024
"""Sizes that count layers, and the most of them."""

MAY_BE_NOTHING = ("blocks", "image_features", "aligned_block", "aligned_features")


def check_sizes(name: str, value: Any) -> None:
    """Raise a ValueError unless a size, or each of several, is a whole number that a network may have."""
    if name == "mlp_ratio":
        if not (isinstance(value, int | float) and 0 < value <= LARGEST):
            raise ValueError(f"mlp_ratio must be a number between 0 and {LARGEST}, got {value!r}")
        return
    least, most = 0 if name in MAY_BE_NOTHING else 1, MOST_LAYERS if name in LAYERS else LARGEST
    for each in value if isinstance(value, tuple) else (value,):
        if not isinstance(each, int) or isinstance(each, bool) or not least <= each <= most:
            raise ValueError(f"{name} must be whole numbers from {least} to {most}, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class MicroDiffuse3DConfig:
    """Sizes of a :class:`~tensorcell.diffusion_guidance.microdiffuse3d.MicroDiffuse3D`.

    Depth, height and width of the volumes are free; only the ratios are part of the network.

    Attributes
    ----------
    latent_channels : int
        Channels of the latent volume.
    latent_scale : int
        Pixels a side that one latent pixel stands for, a power of two.
    patch : int
        Latent pixels a side that one token stands for, a power of two.
    depth_ratios : tuple of int
        Planes of the restored volume per plane of the low-resolution one; one head of the conditioning network each.
    token_width, condition_width, injected_width : int
        Features of the latent in a token; of the condition that is concatenated to them; of the condition that is
        injected into each block.
    blocks, heads, head_width : int
        Of the transformer.
    mlp_ratio : float
        Hidden features of a block's perceptron, as a multiple of the token's.
    positions : three ints
        Grid of the learned position code along z, y and x; it is interpolated to other sizes.
    encoder_width : int
        Features of the conditioning encoder at full resolution.
    encoder_multiples : tuple of int
        Features at its last resolutions, as multiples of twice those of its stem.
    encoder_blocks, encoder_groups, encoder_heads : int
        Residual blocks at each of these resolutions, groups of the group norms, and heads of its attention.
    image_features : int
        Features of the frozen image encoder; 0: none.
    aligned_block, aligned_features : int
        The block after which tokens are projected to so many features of an image encoder (REPA); 0: none.

    Examples
    --------
    >>> MicroDiffuse3DConfig.named("published").width
    1408
    >>> MicroDiffuse3DConfig.named("tiny").stride
    8
    """

    latent_channels: int = 4
    latent_scale: int = 8
    patch: int = 2
    depth_ratios: tuple[int, ...] = (1, 4)
    token_width: int = 1152
    condition_width: int = 256
    injected_width: int = 2048
    blocks: int = 28
    heads: int = 16
    head_width: int = 32
    mlp_ratio: float = 4.0
    positions: tuple[int, int, int] = (20, 16, 16)
    encoder_width: int = 32
    encoder_multiples: tuple[int, ...] = (1, 2, 4)
    encoder_blocks: int = 2
    encoder_groups: int = 8
    encoder_heads: int = 8
    image_features: int = 1024
    aligned_block: int = 0
    aligned_features: int = 0

    @staticmethod
    def named(size: str) -> MicroDiffuse3DConfig:
        """``tiny`` (tests, a CPU), ``small``, ``base`` or ``published``.

        Raises
        ------
        ValueError
            If there is no such size.
        """
        if size not in SIZES:
            raise ValueError(f"size {size!r} is unknown, expected one of {', '.join(SIZES)}")
        return SIZES[size]

    def __post_init__(self) -> None:
        """Check what would fail later, and less clearly, or take all of the memory."""
        for field in fields(self):
            check_sizes(field.name, getattr(self, field.name))
        for name in ("latent_scale", "patch"):
            value = getattr(self, name)
            if value & (value - 1):
                raise ValueError(f"{name} must be a power of two, got {value}")
        if not self.depth_ratios:
            raise ValueError("depth_ratios must name at least one ratio, got none")
        if bool(self.aligned_features) != (1 <= self.aligned_block <= self.blocks):
            raise ValueError(
                f"aligned_features {self.aligned_features} and aligned_block {self.aligned_block} of {self.blocks} "
                "blocks do not belong together"
            )
        if self.stem_stages < 0:
            raise ValueError(
                f"encoder_multiples names {len(self.encoder_multiples)} resolutions, which are more than a stride of "
                f"{self.stride} has room for"
            )

    @property
    def width(self) -> int:
        """Features of a token."""
        return self.token_width + self.condition_width

    @property
    def stride(self) -> int:
        """Pixels a side that one token stands for."""
        return self.latent_scale * self.patch

    @property
    def stem_stages(self) -> int:
        """Halvings of the resolution in the encoder's stem; the others lie between its last resolutions."""
        return int(math.log2(self.stride)) - (len(self.encoder_multiples) - 1)

    @property
    def encoder_widths(self) -> tuple[int, ...]:
        """Features at the encoder's last resolutions."""
        stem = self.encoder_width * 2**self.stem_stages
        return tuple(2 * stem * multiple for multiple in self.encoder_multiples)


_TINY = MicroDiffuse3DConfig(
    latent_scale=4, token_width=48, condition_width=16, injected_width=32, blocks=3, heads=4, head_width=16,
    positions=(16, 12, 12), encoder_width=8, encoder_multiples=(1, 2), encoder_blocks=1, encoder_groups=4,
    encoder_heads=4, image_features=0,
)  # fmt: skip

SIZES = {
    "tiny": _TINY,
    "small": replace(
        _TINY, token_width=192, condition_width=64, injected_width=128, blocks=8, heads=8, head_width=32,
        encoder_width=16, encoder_blocks=2,
    ),
    "base": MicroDiffuse3DConfig(
        token_width=640, condition_width=128, injected_width=512, blocks=16, heads=12, head_width=64,
    ),
    "published": MicroDiffuse3DConfig(),
}  # fmt: skip
