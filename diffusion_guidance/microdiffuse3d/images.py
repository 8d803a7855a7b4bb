"""What a frozen image encoder, such as DINOv2, sees in the slices of a volume. Its weights come from a local folder."""

from __future__ import annotations

import math
import os
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

SIDE = 224
"""Side of the images that the encoder is shown, in pixels."""

SLICES = 16
"""Slices that are encoded at a time."""

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the colours that such encoders are trained with (ImageNet)."""


class ImageEncoder(nn.Module):
    """Features of slices by a vision transformer of the package transformers.

    Parameters
    ----------
    encoder : module
        ``encoder(pixel_values=(n, 3, 224, 224)).last_hidden_state`` is ``(n, tokens, features)``; its last tokens are
        those of the square grid of patches.
    """

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder.eval().requires_grad_(False)
        self.features = int(encoder.config.hidden_size)

    @staticmethod
    def load(folder: str | os.PathLike[str]) -> ImageEncoder:
        """Read one that transformers saved, from a folder on this machine.

        Raises
        ------
        ValueError
            If transformers is not installed, or the folder holds no such encoder.
        """
        try:
            from transformers import AutoModel
        except ImportError:
            raise ValueError(
                f'{os.fspath(folder)}: expected transformers to read it (pip install "tensorcell[images]"), found none'
            ) from None
        loaded: Any = AutoModel
        try:
            return ImageEncoder(loaded.from_pretrained(os.fspath(folder), local_files_only=True))
        except (OSError, ValueError, AttributeError) as error:
            said = str(error).splitlines()[0]
            raise ValueError(
                f"{os.fspath(folder)}: holds no image encoder that transformers can read: {said}"
            ) from error

    @torch.no_grad()
    def forward(self, volume: Tensor) -> Tensor:
        """``(B, 1, D, H, W)`` of intensities between 0 and 1 -> ``(B, D, n, features)``, of a grid of `n` patches."""
        batch, _, depth = volume.shape[:3]
        images = functional.interpolate(
            volume.transpose(1, 2).flatten(0, 1), size=(SIDE, SIDE), mode="bilinear", antialias=True
        )
        mean, deviation = (images.new_tensor(each).reshape(1, 3, 1, 1) for each in (MEAN, DEVIATION))
        coloured = (images - mean) / deviation
        found = [self.encoder(pixel_values=part).last_hidden_state for part in torch.split(coloured, SLICES)]
        tokens = torch.cat(found)
        side = math.isqrt(tokens.shape[1])  # the tokens before those of patches are few
        return tokens[:, -(side**2) :].reshape(batch, depth, side**2, -1)


def alignment_loss(projected: Tensor, features: Tensor) -> Tensor:
    """One minus the cosine between projected tokens and the features of the truth, averaged.

    S. Yu et al., Representation alignment for generation, arXiv:2410.06940, Eq. 8.

    Parameters
    ----------
    projected : tensor ``(B, D, N, F)``
        Of a square or oblong grid of `N` tokens a plane, of the ratio of the planes' sides; here a square one.
    features : tensor ``(B, D, n, F)``
    """
    count = projected.shape[2]
    if features.shape[2] != count:
        grid, side = math.isqrt(features.shape[2]), math.isqrt(count)
        if side**2 != count:
            raise ValueError(
                f"expected square pieces for the alignment with image features, got {count} tokens a plane"
            )
        planes = features.flatten(0, 1).transpose(1, 2)
        planes = planes.reshape(*planes.shape[:2], grid, grid)
        resized = functional.interpolate(planes, size=(side, side), mode="bilinear", antialias=True)
        features = resized.flatten(2).transpose(1, 2).reshape(projected.shape)
    return 1 - functional.cosine_similarity(projected, features, dim=-1).mean()
