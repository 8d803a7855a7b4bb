"""Proximal maps and projections: the closed-form minimisers inside the solvers.

``prox_f(v) = argmin_x f(x) + 1/2 ||x - v||^2`` (Parikh & Boyd 2014, doi:10.1561/2400000003).
"""

from __future__ import annotations

from .arrays import Array, clip, namespace_of


def soft_threshold(values: Array, threshold: float) -> Array:
    """Proximal map of ``threshold * ||.||_1``: shrink towards zero, entry by entry.

    >>> import numpy as np
    >>> soft_threshold(np.array([-3.0, 0.5, 2.0]), 1.0)
    array([-2.,  0.,  1.])
    """
    xp = namespace_of(values)
    return xp.sign(values) * clip(xp.abs(values) - threshold, 0.0, None)


def hard_threshold(values: Array, threshold: float) -> Array:
    """Proximal map of ``threshold^2 / 2 * ||.||_0``: keep entries above the threshold, zero the others.

    >>> import numpy as np
    >>> hard_threshold(np.array([-3.0, 0.5, 2.0]), 1.0)
    array([-3.,  0.,  2.])
    """
    xp = namespace_of(values)
    return xp.where(xp.abs(values) > threshold, values, xp.zeros_like(values))


def project_nonnegative(values: Array) -> Array:
    """Projection on the non-negative orthant.

    >>> import numpy as np
    >>> project_nonnegative(np.array([-3.0, 0.5]))
    array([0. , 0.5])
    """
    return clip(values, 0.0, None)


def singular_value_threshold(matrix: Array, threshold: float) -> Array:
    """Proximal map of ``threshold`` times the nuclear norm: soft-threshold the singular values.

    Cai, Candes & Shen 2010 (doi:10.1137/080738970), Eq. 2.2. ``matrix`` has shape ``(m, n)``.
    """
    xp = namespace_of(matrix)
    left, values, right = xp.linalg.svd(matrix, full_matrices=False)
    return (left * soft_threshold(values, threshold)) @ right


def procrustes(matrix: Array) -> Array:
    """Orthogonal Procrustes: the matrix with orthonormal columns nearest to ``matrix``, shape ``(m, n)``, m >= n.

    With the singular value decomposition ``M = P S Q'`` this is ``P Q'``, the maximiser of ``<U, M>`` over
    ``U' U = I`` (Schoenemann 1966, doi:10.1007/BF02289451; RCT Eq. 23). A QR factorisation first, so that only an
    ``n x n`` matrix is decomposed: ``O(m n^2)``.

    Raises
    ------
    ValueError
        If there are more columns than rows: no such matrix exists.

    >>> import numpy as np
    >>> procrustes(np.array([[2.0, 0.0], [0.0, 3.0], [0.0, 0.0]]))
    array([[1., 0.],
           [0., 1.],
           [0., 0.]])
    """
    xp = namespace_of(matrix)
    rows, columns = matrix.shape
    if columns > rows:
        raise ValueError(f"expected at least as many rows as columns, got shape ({rows}, {columns})")
    basis, triangle = xp.linalg.qr(matrix, mode="reduced")
    left, _, right = xp.linalg.svd(triangle, full_matrices=False)
    return basis @ (left @ right)
