"""Planes that were never measured: a smooth basis along z with knots at the measured planes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.interpolate import CubicHermiteSpline

Array = npt.NDArray[Any]


def plane_basis(measured: npt.ArrayLike, planes: int) -> npt.NDArray[np.float64]:
    """Cardinal functions of the cubic Hermite spline with knots at the measured planes.

    Column j is 1 at measured plane j and 0 at the others; slopes at the knots are central differences (Catmull & Rom
    1974, doi:10.1016/B978-0-12-079050-0.50020-5), so a filled plane depends on the four nearest measured ones and does
    not ring far away. Rows add up to 1. Planes beyond the first or last measured one repeat it: nothing says more.

    A Tucker model whose z-factor is ``C V`` for this basis ``C`` is smooth along z, and fitting it to the measured
    planes alone is fitting ``V``, because ``C`` is the identity there.

    Parameters
    ----------
    measured : increasing ints ``(m,)``, m >= 2
        Positions of the measured planes in the wanted stack.
    planes : int
        Number of planes of the wanted stack.

    Returns
    -------
    float64 array ``(planes, m)``

    Examples
    --------
    >>> plane_basis([0, 2, 4], 5).round(3)
    array([[ 1.   ,  0.   ,  0.   ],
           [ 0.438,  0.625, -0.062],
           [ 0.   ,  1.   ,  0.   ],
           [-0.062,  0.625,  0.438],
           [ 0.   ,  0.   ,  1.   ]])
    """
    knots = np.asarray(measured, dtype=float)
    cardinal = np.eye(len(knots))
    slopes = np.gradient(cardinal, knots, axis=0)
    where = np.clip(np.arange(planes), knots[0], knots[-1])
    return np.asarray(CubicHermiteSpline(knots, cardinal, slopes)(where))


def fill_planes(stack: Array, measured: npt.ArrayLike, planes: int) -> Array:
    """The stack ``(m, Y, X)`` of measured planes extended to ``(planes, Y, X)`` along z by :func:`plane_basis`."""
    basis = plane_basis(measured, planes)
    filled = np.empty((planes, *stack.shape[1:]), stack.dtype)
    for plane, weights in enumerate(basis):
        (near,) = np.nonzero(weights)
        filled[plane] = np.tensordot(weights[near].astype(stack.dtype), stack[near], axes=1)
    return filled
