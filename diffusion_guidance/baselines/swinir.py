"""SwinIR: attention within windows of a plane, every other time within shifted ones.

J. Liang et al., SwinIR: image restoration using Swin transformer, ICCV workshops 2021, arXiv:2108.10257. As in the
paper: windows of 8 x 8 pixels, a bias of the attention for each relative place, hidden layers of twice the width,
residual blocks of Swin layers that end with a convolution, and the sum of the input and the output. The paper has 6
blocks of 6 layers with 180 features; here there are fewer of each.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from tensorcell.diffusion_guidance.networks import set_zero

SIDE = 8
"""Pixels a side of a window."""

HEAD_WIDTH = 16
"""Features of a head of the attention."""

BLOCKS, LAYERS = 2, 2
"""Residual blocks, and Swin layers in each."""


def windows(x: Tensor, side: int) -> Tensor:
    """Cut ``(n, H, W, C)`` into windows: ``(n, count, side^2, C)``."""
    n, height, width, channels = x.shape
    grid = x.reshape(n, height // side, side, width // side, side, channels)
    return grid.transpose(2, 3).reshape(n, -1, side**2, channels)


def joined(parts: Tensor, side: int, height: int, width: int) -> Tensor:
    """The inverse of :func:`windows`."""
    grid = parts.reshape(len(parts), height // side, width // side, side, side, -1)
    return grid.transpose(2, 3).reshape(len(parts), height, width, -1)


def relative_places(side: int) -> Tensor:
    """``(side^2, side^2)``: for each two pixels of a window, the number of one's place relative to the other."""
    axis = torch.arange(side)
    places = torch.cartesian_prod(axis, axis)
    apart = places[:, None] - places + side - 1  # at least 0
    return apart[..., 0] * (2 * side - 1) + apart[..., 1]


def neighbours(height: int, width: int, side: int, shift: int, device: torch.device | None = None) -> Tensor:
    """Which pixels of a window of a rolled plane were in one window before: bool ``(count, side^2, side^2)``.

    The plane was rolled by `shift` pixels up and left, so that its first rows and columns are its last ones now.
    """
    rows, columns = (torch.arange(size, device=device) >= size - shift for size in (height, width))
    region = 2 * rows.int()[:, None] + columns.int()  # (H, W)
    found = windows(region[None, :, :, None], side)[0]  # (count, side^2, 1)
    return found == found.transpose(1, 2)


class WindowAttention(nn.Module):
    """Self-attention within windows that begin `shift` pixels below and to the right of the first pixel."""

    places: Tensor

    def __init__(self, width: int, side: int, shift: int) -> None:
        super().__init__()
        self.side, self.shift, self.heads = side, shift, width // HEAD_WIDTH
        self.inner, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.bias = nn.Parameter(nn.init.trunc_normal_(torch.empty((2 * side - 1) ** 2, self.heads), std=0.02))
        self.register_buffer("places", relative_places(side), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, H, W, width)``, in and out; `H` and `W` are multiples of the side."""
        height, width = x.shape[1:3]
        parts = windows(x.roll((-self.shift, -self.shift), (1, 2)), self.side)  # (n, count, side^2, width)
        inner = self.inner(parts).reshape(*parts.shape[:3], 3, self.heads, -1)
        queries, keys, values = inner.permute(3, 0, 1, 4, 2, 5)  # (n, count, heads, side^2, head width) each
        bias = self.bias[self.places].permute(2, 0, 1)  # (heads, side^2, side^2)
        if self.shift:
            allowed = neighbours(height, width, self.side, self.shift, x.device)
            bias = torch.where(allowed[:, None], bias, -torch.inf)  # (count, heads, side^2, side^2)
        found = scaled_dot_product_attention(queries, keys, values, attn_mask=bias)
        mixed: Tensor = self.out(found.transpose(2, 3).flatten(3))
        return joined(mixed, self.side, height, width).roll((self.shift, self.shift), (1, 2))


class SwinLayer(nn.Module):
    """Attention and a multi-layer perceptron, each after a layer norm and beside a shortcut."""

    def __init__(self, width: int, shift: int) -> None:
        super().__init__()
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = WindowAttention(width, SIDE, shift)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """``(n, H, W, width)``, in and out."""
        x = x + self.attention(self.norm_attention(x))
        found: Tensor = x + self.mlp(self.norm_mlp(x))
        return found


class SwinBlock(nn.Module):
    """Layers with plain and shifted windows in turn, and a convolution, beside a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(SwinLayer(width, SIDE // 2 * (number % 2)) for number in range(LAYERS)))
        self.convolution = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, width, H, W)``, in and out."""
        found: Tensor = x + self.convolution(self.layers(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
        return found


class SwinIR(nn.Module):
    """The change of a plane; 0 at the start of training.

    Parameters
    ----------
    width : int
        Features, a multiple of :data:`HEAD_WIDTH`.

    Raises
    ------
    ValueError
        If it is none.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        if width % HEAD_WIDTH:
            raise ValueError(f"the width of swinir must be a multiple of {HEAD_WIDTH}, got {width}")
        self.first = nn.Conv2d(1, width, 3, padding=1)
        self.blocks = nn.Sequential(*(SwinBlock(width) for _ in range(BLOCKS)))
        self.norm, self.after = nn.LayerNorm(width), nn.Conv2d(width, width, 3, padding=1)
        self.last = nn.Conv2d(width, 1, 3, padding=1)
        set_zero(self.last)

    def forward(self, planes: Tensor) -> Tensor:
        """``(n, 1, H, W)``, in and out; `H` and `W` are multiples of :data:`SIDE`."""
        start = self.first(planes)  # (n, width, H, W)
        deep = self.norm(self.blocks(start).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        found: Tensor = self.last(start + self.after(deep))
        return found
