"""Blur by a separable Gaussian, and blur with planes left out, with their normal equations.

======================= ============================================== =======================================
operator                ``A x``                                        ``A'A + w I`` is solved by
======================= ============================================== =======================================
:class:`Blur`           separable Gaussian                             singular values of one matrix an axis
:class:`BlurDecimate`   planes 0, s, 2s, ... of the blurred volume     singular values of one matrix an axis
======================= ============================================== =======================================

Separable operators are small dense matrices, one an axis. They cost as many multiplications a voxel as the axes have
voxels, in matrix products: for tiles of a few hundred voxels an axis this is faster than a convolution, and it makes
every boundary condition exact, with an exact adjoint and an exact solution of the normal equations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from tensorcell.diffusion_guidance.operators import Matrix, Weight, divided, planes_before, wanted_planes

Boundary = Literal["reflect", "nearest", "zero", "wrap"]


@lru_cache(maxsize=64)
def blur_matrix(size: int, width: float, boundary: Boundary, truncate: float, factor: int = 1) -> Matrix:
    """Rows 0, s, 2s, ... of the matrix ``(size, size)`` that convolves an axis with a Gaussian.

    The kernel is sampled at the voxels, cut at ``truncate`` standard deviations and normalised to sum 1. Beyond the
    ends the axis is continued by its mirror image ("reflect", d c b a | a b c d | d c b a), its last voxel
    ("nearest"), darkness ("zero") or itself ("wrap").
    """
    reach = int(truncate * width + 0.5)
    offsets = np.arange(-reach, reach + 1)
    kernel = np.exp(-0.5 * (offsets / width) ** 2) if width > 0 else np.ones(1)
    kernel /= kernel.sum()
    matrix = np.zeros((size, size))
    for offset, value in zip(offsets, kernel, strict=True):
        rows = np.arange(size)
        columns = rows + offset
        if boundary == "zero":
            inside = (columns >= 0) & (columns < size)
            rows, columns = rows[inside], columns[inside]
        elif boundary == "nearest":
            columns = np.clip(columns, 0, size - 1)
        elif boundary == "wrap":
            columns = columns % size
        else:
            columns = columns % (2 * size)
            columns = np.where(columns < size, columns, 2 * size - 1 - columns)
        matrix[rows, columns] += value
    return matrix[::factor]


@lru_cache(maxsize=64)
def blur_spectrum(
    size: int, width: float, boundary: Boundary, truncate: float, factor: int = 1
) -> tuple[Matrix, Matrix]:
    """Eigenvectors ``(size, size)`` and eigenvalues ``(size,)`` of ``A'A`` of one axis."""
    _, values, right = np.linalg.svd(blur_matrix(size, width, boundary, truncate, factor))
    return right.T, np.pad(values**2, (0, size - len(values)))


def along_axes(x: Tensor, matrices: Sequence[Matrix], *, transpose: bool = False) -> Tensor:
    """The product with one matrix along each of the last axes, the one that shrinks the tensor most first."""
    operators = [matrix.T if transpose else matrix for matrix in matrices]
    places = range(-len(operators), 0)
    for place, operator in sorted(zip(places, operators, strict=True), key=lambda p: p[1].shape[0] / p[1].shape[1]):
        matrix = torch.tensor(operator, dtype=x.dtype, device=x.device)
        x = torch.movedim(torch.tensordot(x, matrix, dims=([place], [1])), -1, place)
    return x


@dataclass(frozen=True)
class Blur:
    """A separable Gaussian point spread function, and nothing left out unless ``factor`` says so.

    Parameters
    ----------
    widths : one float an axis
        Standard deviations along the last axes, z, y, x, in voxels; 0 for none.
    boundary : {"reflect", "nearest", "zero", "wrap"}
        How the volume goes on beyond its ends; see :func:`blur_matrix`. "reflect" and "wrap" keep the total light.
    truncate : float
        The kernel ends after that many standard deviations.

    Raises
    ------
    ValueError
        If a width is negative, the boundary unknown, or a tensor has fewer axes.

    Notes
    -----
    ``A = H_z (x) H_y (x) H_x``. With the eigenvectors ``V`` of ``H'H`` of each axis, ``A'A`` is diagonal in
    ``V_z (x) V_y (x) V_x``: :meth:`solve` costs two products an axis.

    Examples
    --------
    >>> Blur((0.0, 1.0, 1.0)).forward(torch.ones(1, 1, 2, 5, 5)).mean().round(decimals=6)
    tensor(1.)
    """

    widths: tuple[float, ...]
    boundary: Boundary = "reflect"
    truncate: float = 4.0

    def __post_init__(self) -> None:
        if not self.widths or not all(width >= 0 and math.isfinite(width) for width in self.widths):
            raise ValueError(f"expected widths of at least 0, one an axis, got {self.widths}")
        if self.boundary not in ("reflect", "nearest", "zero", "wrap"):
            raise ValueError(f"expected boundary 'reflect', 'nearest', 'zero' or 'wrap', got {self.boundary!r}")
        if not self.truncate > 0:
            raise ValueError(f"expected truncate above 0, got {self.truncate}")

    @classmethod
    def from_fwhm(cls, fwhm: Sequence[float], boundary: Boundary = "reflect", truncate: float = 4.0) -> Blur:
        """From full widths at half maximum, in voxels: ``2.3548`` standard deviations.

        >>> round(Blur.from_fwhm((4.0, 2.0, 2.0)).widths[0], 4)
        1.6986
        """
        return cls(tuple(width / math.sqrt(8 * math.log(2)) for width in fwhm), boundary, truncate)

    def forward(self, x: Tensor) -> Tensor:
        """The blurred volume."""
        return along_axes(x, self._matrices(self._sizes(x)))

    def adjoint(self, y: Tensor) -> Tensor:
        """The correlation with the kernel; the same as the blur where the boundary is "reflect", "zero" or "wrap"."""
        return along_axes(y, self._matrices(self._sizes(y)), transpose=True)

    def solve(self, rhs: Tensor, weight: Weight) -> Tensor:
        """``(A'A + weight I)^-1 rhs``; with weight 0 eigenvalues below 100 roundings count as zero."""
        return spectral_solve(rhs, [blur_spectrum(*key) for key in self._keys(self._sizes(rhs))], weight)

    def _sizes(self, x: Tensor) -> tuple[int, ...]:
        axes = len(self.widths)
        if x.ndim < axes + 2:
            raise ValueError(f"expected samples, channels and {axes} axes, got shape {tuple(x.shape)}")
        return tuple(x.shape[-axes:])

    def _keys(self, sizes: Sequence[int]) -> list[tuple[int, float, Boundary, float]]:
        return [(n, width, self.boundary, self.truncate) for n, width in zip(sizes, self.widths, strict=True)]

    def _matrices(self, sizes: Sequence[int]) -> list[Matrix]:
        return [blur_matrix(*key) for key in self._keys(sizes)]


def spectral_solve(rhs: Tensor, spectra: Sequence[tuple[Matrix, Matrix]], weight: Weight) -> Tensor:
    """``(A'A + weight I)^-1 rhs`` for a separable ``A``, from eigenvectors and eigenvalues of each axis."""
    vectors = [vector for vector, _ in spectra]
    spectrum = torch.ones((), dtype=torch.float64)
    for _, values in spectra:
        spectrum = spectrum[..., None] * torch.from_numpy(values)
    spectrum = spectrum.to(rhs.device, rhs.dtype)
    return along_axes(divided(along_axes(rhs, vectors, transpose=True), spectrum, weight), vectors)


@dataclass(frozen=True)
class BlurDecimate:
    """Planes 0, s, 2s, ... of a blurred volume: what a microscope with a large axial step sees.

    Parameters
    ----------
    blur : Blur
        Of three axes.
    factor : int
        ``s``, at least 1.
    planes : int, optional
        ``Z`` of the wanted volume; None: ``(n - 1) s + 1``.

    Raises
    ------
    ValueError
        If the factor is below 1, the blur has not three axes, or a tensor does not fit.

    Examples
    --------
    >>> BlurDecimate(Blur((1.0, 0.0, 0.0)), 3).forward(torch.ones(1, 1, 7, 2, 2)).shape
    torch.Size([1, 1, 3, 2, 2])
    """

    blur: Blur
    factor: int
    planes: int | None = None

    def __post_init__(self) -> None:
        if self.factor < 1:
            raise ValueError(f"expected a factor of at least 1, got {self.factor}")
        if len(self.blur.widths) != 3:
            raise ValueError(f"expected a blur of 3 axes, got {len(self.blur.widths)}")

    def forward(self, x: Tensor) -> Tensor:
        """The measured planes."""
        wanted_planes(self.planes, x.shape[-3])
        return along_axes(x, self._matrices(self.blur._sizes(x)))

    def adjoint(self, y: Tensor) -> Tensor:
        """From planes to volumes."""
        kept, height, width = self.blur._sizes(y)
        planes = planes_before(kept, self.factor, self.planes)
        return along_axes(y, self._matrices((planes, height, width)), transpose=True)

    def solve(self, rhs: Tensor, weight: Weight) -> Tensor:
        """``(A'A + weight I)^-1 rhs``."""
        axial, *lateral = self.blur._keys(self.blur._sizes(rhs))
        spectra = [blur_spectrum(*axial, self.factor), *(blur_spectrum(*key) for key in lateral)]
        return spectral_solve(rhs, spectra, weight)

    def _matrices(self, sizes: Sequence[int]) -> list[Matrix]:
        axial, *lateral = self.blur._keys(sizes)
        return [blur_matrix(*axial, self.factor), *(blur_matrix(*key) for key in lateral)]
