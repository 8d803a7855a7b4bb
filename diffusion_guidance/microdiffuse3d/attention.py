"""Self-attention of the tokens of a volume, decomposed: within each plane, then along z.

For ``D`` planes of ``N`` tokens this takes ``O(D N^2 + N D^2)`` operations in place of ``O(D^2 N^2)``, and memory that
is linear in either length, since no matrix of weights is ever stored.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


class SelfAttention(nn.Module):
    """Self-attention with several heads along one axis.

    Parameters
    ----------
    width : int
        Features of a token.
    heads, head_width : int
        Number of heads and features of each.
    """

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, heads * head_width, bias=False) for _ in range(3))
        self.out = nn.Linear(heads * head_width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Attention along the last axis but one of ``(..., n, width)``."""
        queries, keys, values = (
            each(tokens).reshape(*tokens.shape[:-1], self.heads, -1).transpose(-3, -2)
            for each in (self.query, self.key, self.value)
        )
        found: Tensor = scaled_dot_product_attention(queries, keys, values)
        mixed: Tensor = self.out(found.transpose(-3, -2).flatten(-2))
        return mixed


class DecomposedAttention(nn.Module):
    """Attention within each plane (lateral), and of its result along z (axial).

    Examples
    --------
    >>> import torch
    >>> attention = DecomposedAttention(8, heads=2, head_width=4)
    >>> attention(torch.zeros(1, 5, 9, 8)).shape
    torch.Size([1, 5, 9, 8])
    """

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.lateral = SelfAttention(width, heads, head_width)
        self.axial = SelfAttention(width, heads, head_width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens ``(B, D, N, width)`` of D planes, in and out."""
        found: Tensor = self.axial(self.lateral(tokens).transpose(1, 2))
        return found.transpose(1, 2)
