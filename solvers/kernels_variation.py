"""CPU kernels of total variation of the second order; the equations stand in `tensorcell.solvers.total_variation`.

All arrays have a rim of one voxel: zeros in the dual, whatever is finite in the others, since the weights of the
differences that reach into it are 0. So the inner loops have no branches, and run along contiguous floats.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np

_ARITHMETIC = {"reassoc", "contract", "nsz"}


@numba.njit(nogil=True, cache=True, fastmath=_ARITHMETIC, error_model="numpy")
def update_dual(p: Any, z: Any, second: Any, first: Any, step: Any, begin: int, end: int) -> None:
    """``p <- project(p + s H z)`` on the planes from ``begin`` to ``end``, counted without the rim.

    ``second`` and ``first`` are the weights of the differences at each index, one array an axis.
    """
    one = step / step
    two, root = one + one, math.sqrt(one + one)
    for i in range(begin + 1, end + 1):
        sz, fz = step * second[0][i], first[0][i]
        for j in range(1, z.shape[1] - 1):
            sy, fy = step * second[1][j], first[1][j]
            mixed_zy, mixed_z, mixed_y = root * step * fz * fy, root * step * fz, root * step * fy
            sx, fx = second[2][1:-1], first[2][1:-1]
            here, left, right = z[i, j, 1:-1], z[i, j, :-2], z[i, j, 2:]
            below, above, above_right = z[i - 1, j, 1:-1], z[i + 1, j, 1:-1], z[i + 1, j, 2:]
            front, back, back_right = z[i, j - 1, 1:-1], z[i, j + 1, 1:-1], z[i, j + 1, 2:]
            diagonal = z[i + 1, j + 1, 1:-1]
            pzz, pyy, pxx = p[0, i, j, 1:-1], p[1, i, j, 1:-1], p[2, i, j, 1:-1]
            pzy, pzx, pyx = p[3, i, j, 1:-1], p[4, i, j, 1:-1], p[5, i, j, 1:-1]
            for k in range(len(here)):
                c = here[k]
                zz = pzz[k] + sz * (above[k] - two * c + below[k])
                yy = pyy[k] + sy * (back[k] - two * c + front[k])
                xx = pxx[k] + step * sx[k] * (right[k] - two * c + left[k])
                zy = pzy[k] + mixed_zy * (diagonal[k] - above[k] - back[k] + c)
                zx = pzx[k] + mixed_z * fx[k] * (above_right[k] - above[k] - right[k] + c)
                yx = pyx[k] + mixed_y * fx[k] * (back_right[k] - back[k] - right[k] + c)
                share = one / math.sqrt(max(one, zz * zz + yy * yy + xx * xx + zy * zy + zx * zx + yx * yx))
                pzz[k], pyy[k], pxx[k] = share * zz, share * yy, share * xx
                pzy[k], pzx[k], pyx[k] = share * zy, share * zx, share * yx


@numba.njit(nogil=True, cache=True, fastmath=_ARITHMETIC, error_model="numpy")
def update_estimate(
    x: Any, z: Any, p: Any, y: Any, w: Any, second: Any, first: Any, step: Any, theta: Any, begin: int, end: int
) -> None:
    """``x`` and ``z`` on the planes from ``begin`` to ``end``, counted without the rim."""
    one = step / step
    two, root = one + one, math.sqrt(one + one)
    az, ay, ax = second[0].max(), second[1].max(), second[2].max()
    bz, by, bx = first[0].max(), first[1].max(), first[2].max()
    bzy, bzx, byx = root * bz * by, root * bz * bx, root * by * bx
    total = np.empty_like(x[0, 0, 1:-1])
    for i in range(begin + 1, end + 1):
        for j in range(1, x.shape[1] - 1):
            zz, zz_below, zz_above = p[0, i, j, 1:-1], p[0, i - 1, j, 1:-1], p[0, i + 1, j, 1:-1]
            yy, yy_front, yy_back = p[1, i, j, 1:-1], p[1, i, j - 1, 1:-1], p[1, i, j + 1, 1:-1]
            xx, xx_left, xx_right = p[2, i, j, 1:-1], p[2, i, j, :-2], p[2, i, j, 2:]
            zy, zy_below = p[3, i, j, 1:-1], p[3, i - 1, j, 1:-1]
            zy_front, zy_both = p[3, i, j - 1, 1:-1], p[3, i - 1, j - 1, 1:-1]
            zx, zx_below = p[4, i, j, 1:-1], p[4, i - 1, j, 1:-1]
            zx_left, zx_both = p[4, i, j, :-2], p[4, i - 1, j, :-2]
            yx, yx_front = p[5, i, j, 1:-1], p[5, i, j - 1, 1:-1]
            yx_left, yx_both = p[5, i, j, :-2], p[5, i, j - 1, :-2]
            for k in range(len(total)):
                total[k] = az * (zz_below[k] - two * zz[k] + zz_above[k])
                total[k] += ay * (yy_front[k] - two * yy[k] + yy_back[k])
            for k in range(len(total)):
                total[k] += ax * (xx_left[k] - two * xx[k] + xx_right[k])
                total[k] += bzy * (zy[k] - zy_below[k] - zy_front[k] + zy_both[k])
            for k in range(len(total)):
                total[k] += bzx * (zx[k] - zx_below[k] - zx_left[k] + zx_both[k])
            for k in range(len(total)):
                total[k] += byx * (yx[k] - yx_front[k] - yx_left[k] + yx_both[k])
            old, new, data, known = x[i, j, 1:-1], z[i, j, 1:-1], y[i, j, 1:-1], w[i, j, 1:-1]
            for k in range(len(total)):
                before, pull = old[k], step * known[k]
                value = (before - step * total[k] + pull * data[k]) / (one + pull)
                new[k] = value + theta * (value - before)
                old[k] = value
