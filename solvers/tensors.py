"""Tensor algebra: unfoldings, mode products, and Tucker models (Kolda & Bader 2009, doi:10.1137/07070111X).

A Tucker model is a core ``G`` of shape ``(r_1, ..., r_k)`` and factors ``U_n`` of shape ``(I_n, r_n)``;
it stands for ``X = G x_1 U_1 ... x_k U_k`` of shape ``(I_1, ..., I_k)``. Unfoldings keep the order of the
remaining axes (row-major, as TensorLy does).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from .arrays import Array, chunk_elements, namespace_of


def unfold(tensor: Array, mode: int) -> Array:
    """Mode-``mode`` unfolding, shape ``(I_mode, product of the others)``.

    >>> import numpy as np
    >>> unfold(np.arange(8).reshape(2, 2, 2), 1)
    array([[0, 1, 4, 5],
           [2, 3, 6, 7]])
    """
    xp = namespace_of(tensor)
    return xp.reshape(xp.moveaxis(tensor, mode, 0), (tensor.shape[mode], -1))


def fold(matrix: Array, mode: int, shape: Sequence[int]) -> Array:
    """Inverse of :func:`unfold`: the tensor of the given shape whose unfolding is ``matrix``."""
    xp = namespace_of(matrix)
    rest = [size for axis, size in enumerate(shape) if axis != mode]
    return xp.moveaxis(xp.reshape(matrix, (shape[mode], *rest)), 0, mode)


def mode_product(tensor: Array, matrix: Array, mode: int) -> Array:
    """``tensor x_mode matrix``: multiply every mode-``mode`` fibre by ``matrix`` of shape ``(J, I_mode)``.

    No axis is moved in memory: the tensor is read as a batch of matrices, so the cost is one product.

    >>> import numpy as np
    >>> mode_product(np.ones((2, 3, 4)), np.ones((5, 3)), 1).shape
    (2, 5, 4)
    """
    xp = namespace_of(tensor, matrix)
    shape = tensor.shape
    left, right = math.prod(shape[:mode]), math.prod(shape[mode + 1 :])
    new_shape = (*shape[:mode], matrix.shape[0], *shape[mode + 1 :])
    if right == 1:
        return xp.reshape(xp.matmul(xp.reshape(tensor, (left, shape[mode])), matrix.T), new_shape)
    product = xp.matmul(matrix, xp.reshape(tensor, (left, shape[mode], right)))
    return xp.reshape(product, new_shape)


def multi_mode_product(
    tensor: Array, matrices: Sequence[Array], *, skip: int | None = None, transpose: bool = False
) -> Array:
    """Product with one matrix along every mode (``skip`` leaves one mode out, ``transpose`` contracts).

    With ``transpose=True`` and factors ``U_n`` this is the contraction ``tensor x_1 U_1' ... x_k U_k'``.
    The products that shrink the tensor most are done first.

    >>> import numpy as np
    >>> multi_mode_product(np.ones((2, 3, 4)), [np.ones((n, 1)) for n in (2, 3, 4)], transpose=True)
    array([[[24.]]])
    """
    if len(matrices) != tensor.ndim:
        raise ValueError(f"expected {tensor.ndim} matrices, one a mode, got {len(matrices)}")
    operators = [matrix.T if transpose else matrix for matrix in matrices]
    modes = [mode for mode in range(tensor.ndim) if mode != skip]
    for mode in sorted(modes, key=lambda n: operators[n].shape[0] / operators[n].shape[1]):
        tensor = mode_product(tensor, operators[mode], mode)
    return tensor


def planes_of(array: Array) -> Array:
    """View of a tensor as a stack of planes, shape ``(product of the leading sizes, I_a, I_b)``."""
    xp = namespace_of(array)
    return xp.reshape(array, (-1, *array.shape[-2:]))


def lead(core: Array, factors: Sequence[Array]) -> Array:
    """The core multiplied along all but the last two modes: one small matrix a plane, ``(planes, r_a, r_b)``."""
    for mode, factor in enumerate(factors[:-2]):
        core = mode_product(core, factor, mode)
    return planes_of(core)


def tucker_to_dense(core: Array, factors: Sequence[Array]) -> Array:
    """The full tensor ``G x_1 U_1 ... x_k U_k``, shape ``(I_1, ..., I_k)``, k >= 2.

    A few planes at a time, so that nothing is large but the result.
    """
    xp = namespace_of(core, *factors)
    left, right = factors[-2:]
    leading = lead(core, factors)
    planes = leading.shape[0]
    dense = xp.empty((planes, left.shape[0], right.shape[0]), dtype=xp.result_type(core, *factors))
    step = max(1, chunk_elements(xp) // (left.shape[0] * right.shape[0]))
    for first in range(0, planes, step):
        part = slice(first, min(planes, first + step))
        dense[part, :, :] = xp.matmul(xp.matmul(left, leading[part, :, :]), right.T)
    return xp.reshape(dense, tuple(factor.shape[0] for factor in factors))


def tucker_distance(core: Array, factors: Sequence[Array], new_core: Array, new_factors: Sequence[Array]) -> Array:
    """``||X_new - X||`` of two Tucker models with orthonormal factors, from the factors alone.

    The difference is split into mutually orthogonal parts (inside the old subspaces; leaving them first in
    mode 1; in mode 2; ...), so small distances do not suffer from cancellation.

    Cost: ``O(sum_n I_n r_n^2)`` and products of core size.
    """
    xp = namespace_of(core, new_core)
    inside = new_core
    squares = xp.zeros((), dtype=new_core.dtype)
    for mode, (old, new) in enumerate(zip(factors, new_factors, strict=True)):
        overlap = old.T @ new
        _, triangle = xp.linalg.qr(new - old @ overlap, mode="reduced")  # as long, but of the rank's size
        leaving = mode_product(inside, triangle, mode)
        squares = squares + xp.sum(leaving * leaving)
        inside = mode_product(inside, overlap, mode)
    squares = squares + xp.sum((inside - core) ** 2)
    return xp.sqrt(squares)
