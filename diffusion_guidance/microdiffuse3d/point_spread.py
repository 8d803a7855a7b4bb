"""A point spread function (PSF) as a small volume, measured or computed, and volumes seen through it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

LARGEST = 2**20
"""Voxels of a PSF, at most: it is kept as numbers in JSON."""

ROUNDING = 1e-6
"""The sum of the light may differ from 1 by so much."""


@dataclass(frozen=True, kw_only=True)
class PointSpread:
    """The image of a point on the voxel grid of a volume.

    Attributes
    ----------
    shape : three ints
        Odd sizes ``(d, h, w)`` along z, y and x. The middle voxel is the origin.
    values : tuple of d h w floats
        The share of the light of a point that each voxel gets, plane by plane and row by row: at least 0, of sum 1.

    Raises
    ------
    ValueError
        If a size is even, the number of values is another, a value is no finite number of at least 0, or their sum is
        not 1.

    Examples
    --------
    >>> PointSpread.of(np.ones((1, 1, 3))).values
    (0.3333333333333333, 0.3333333333333333, 0.3333333333333333)
    """

    shape: tuple[int, int, int]
    values: tuple[float, ...] = field(repr=False)

    def __post_init__(self) -> None:
        """Check what a file may hold."""
        check_sizes(self.shape)
        if len(self.values) != math.prod(self.shape):
            raise ValueError(
                f"expected {math.prod(self.shape)} values of a PSF of shape {self.shape}, got {len(self.values)}"
            )
        if not all(isinstance(value, int | float) and 0 <= value <= 1 + ROUNDING for value in self.values):
            raise ValueError("expected finite shares of light from 0 to 1 in a PSF, got others")
        total = math.fsum(self.values)
        if abs(total - 1) > ROUNDING:
            raise ValueError(f"expected a PSF of sum 1, got {total:g}")

    @staticmethod
    def of(light: npt.ArrayLike) -> PointSpread:
        """From the light at the voxels, which is normalised to sum 1.

        Parameters
        ----------
        light : array_like ``(d, h, w)``
            Finite and at least 0, in any unit; the sizes are odd.

        Raises
        ------
        ValueError
            If the light is none of these, or there is none.
        """
        given = np.asarray(light, np.float64)
        check_sizes(given.shape)
        bad = int(np.count_nonzero(~np.isfinite(given)))
        if bad:
            raise ValueError(f"expected a PSF of finite numbers, got {bad} that are not")
        if given.min() < 0:
            raise ValueError(f"expected a PSF of at least 0 everywhere, got {given.min():g}")
        if not given.max() > 0:
            raise ValueError("expected light in the PSF, got 0 everywhere")
        relative = given / given.max()  # the sum of large numbers may be infinite
        shares = relative / relative.sum()
        depth, height, width = given.shape
        return PointSpread(shape=(depth, height, width), values=tuple(shares.ravel().tolist()))

    @cached_property
    def kernel(self) -> npt.NDArray[np.float64]:
        """The shares of light as an array ``(d, h, w)``."""
        return np.reshape(np.array(self.values, np.float64), self.shape)

    def convolved(self, volume: Tensor) -> Tensor:
        """The volume seen through the PSF; beyond its ends it is continued by its edge values.

        Parameters
        ----------
        volume : tensor ``(B, C, D, H, W)``
            float32 or float64. It may be smaller than the PSF.

        Returns
        -------
        tensor ``(B, C, D, H, W)``
            Of the dtype of the volume. The error of rounding is a share of the brightest voxel, in dark regions, too.

        Notes
        -----
        The result is that of ``scipy.ndimage.convolve(volume, kernel, mode="nearest")``, by three FFTs of the
        continued volume, which has ``D + d - 1`` planes, and rows and columns accordingly.
        """
        from scipy.fft import next_fast_len

        axes = (-3, -2, -1)
        depth, height, width = (size // 2 for size in self.shape)
        continued = functional.pad(volume, (width, width, height, height, depth, depth), mode="replicate")
        sizes = [next_fast_len(size, real=True) for size in continued.shape[-3:]]
        kernel = torch.from_numpy(self.kernel).to(volume)
        spectrum = torch.fft.rfftn(continued, s=sizes, dim=axes) * torch.fft.rfftn(kernel, s=sizes, dim=axes)
        planes, rows, columns = volume.shape[-3:]
        found: Tensor = torch.fft.irfftn(spectrum, s=sizes, dim=axes)[
            ..., 2 * depth : 2 * depth + planes, 2 * height : 2 * height + rows, 2 * width : 2 * width + columns
        ]
        return found


def check_sizes(shape: Sequence[Any]) -> None:
    """Raise a ValueError unless these are three odd sizes of a PSF that is not too large."""
    if len(shape) != 3 or not all(isinstance(size, int) and size > 0 and size % 2 for size in shape):
        raise ValueError(f"expected three odd sizes of a PSF, got {tuple(shape)}")
    if math.prod(shape) > LARGEST:
        raise ValueError(f"expected a PSF of at most {LARGEST} voxels, got {' x '.join(map(str, shape))}")
