"""The kernels of fills give the numbers of their array twins bit for bit, on any shape and number of threads."""

from __future__ import annotations

import itertools

import numba
import numpy as np
import pytest

from tensorcell.solvers import kernels_fills
from tensorcell.solvers.residual_kriging import (
    WIDTHS,
    axial_mean_arrays,
    axial_mean_numba,
    lateral_sums,
    within_arrays,
    within_numba,
)
from tensorcell.solvers.smooth_fill import bending_arrays, bending_numba

SHAPES = [(1, 1, 1), (2, 2, 2), (3, 4, 5), (1, 6, 7), (2, 3, 9), (5, 1, 4), (4, 5, 1), (4, 2, 3), (7, 23, 31)]

REALS = [np.float32, np.float64]


def drawn(shape: tuple[int, ...], real: type) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(real)


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("shape", SHAPES)
def test_bend_gives_the_bits_of_its_twin(shape: tuple[int, ...], real: type) -> None:
    volume = drawn(shape, real)
    for weights in ((1.0, 1.0, 1.0), (2.5, 1.0, 1.0), (0.3, 0.7, 1.1)):
        found, expected = np.empty_like(volume), np.empty_like(volume)
        bending_numba(volume, weights, found)
        bending_arrays(volume, weights, expected)
        assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("shape", SHAPES)
def test_sums_within_planes_give_the_bits_of_scipy(shape: tuple[int, ...], real: type) -> None:
    volume = drawn(shape, real)
    for width in (0.0, *WIDTHS):
        assert within_numba(volume, width).tobytes() == within_arrays(volume, width).tobytes()


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("shape", SHAPES)
def test_means_along_z_give_the_bits_of_their_twin(shape: tuple[int, ...], real: type, share: float) -> None:
    """Voxels without a measured neighbour, and stacks that were measured everywhere, too."""
    volume, mask = drawn(shape, real), np.random.default_rng(1).random(shape) < share
    for width, width_z, leave_out in itertools.product((0.5, 1.5), WIDTHS, (True, False)):
        sums = lateral_sums(volume, mask, width)
        found = axial_mean_numba(sums, width_z, leave_out=leave_out)
        expected = axial_mean_arrays(sums, width_z, leave_out=leave_out)
        assert found.dtype == real
        assert found.tobytes() == expected.tobytes()


def test_blocks_and_threads_change_no_bit() -> None:
    """A plane of several blocks of the kernels, in shares of one plane each."""
    shape = (3, 45, 2 * kernels_fills.BLOCK // 45 + 3)
    volume, mask = drawn(shape, np.float32), np.random.default_rng(1).random(shape) < 0.5
    before = numba.get_num_threads()
    try:
        for threads in {1, min(3, numba.config.NUMBA_NUM_THREADS)}:
            numba.set_num_threads(threads)
            sums, bent, expected = lateral_sums(volume, mask, 1.5), np.empty_like(volume), np.empty_like(volume)
            assert sums.total.tobytes() == within_arrays(sums.values, 1.5).tobytes()
            mean = axial_mean_numba(sums, 1.0, leave_out=True)
            assert mean.tobytes() == axial_mean_arrays(sums, 1.0, leave_out=True).tobytes()
            bending_numba(volume, (2.0, 1.0, 1.0), bent)
            bending_arrays(volume, (2.0, 1.0, 1.0), expected)
            assert bent.tobytes() == expected.tobytes()
    finally:
        numba.set_num_threads(before)


@pytest.mark.parametrize("begin", [0, 1, 2, 5])
def test_planes_may_be_bent_from_any_plane_on(begin: int) -> None:
    volume = drawn((8, 5, 6), np.float64)
    weights = np.array([2.0, 1.0, 1.0])
    whole, part = np.empty_like(volume), np.zeros_like(volume)
    kernels_fills.bend(volume, weights, weights**2, whole, 0, 8)
    kernels_fills.bend(volume, weights, weights**2, part, begin, 7)
    np.testing.assert_array_equal(part[begin:7], whole[begin:7])
    assert not part[:begin].any()
    assert not part[7:].any()
