"""The peak of memory in bytes a voxel: no stage makes more arrays of the volume's size than it needs.

Volumes are small here, so that numbers that do not grow with them (voxels of a trial or a slab) are made small, too.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from tensorcell.solvers import LocalOptions, local_tucker
from tensorcell.solvers.interpolation import pchip
from tensorcell.solvers.smooth_fill import smooth_fill

SHAPE = (96, 48, 48)
VOXELS = 96 * 48 * 48


@pytest.fixture
def small_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slabs that are as small beside these volumes as they are beside large ones."""
    for module in ("patch_groups", "patch_denoising", "local"):
        monkeypatch.setattr(f"tensorcell.solvers.{module}.SLAB_VOXELS", 1 << 12)
    monkeypatch.setattr("tensorcell.solvers.slabs.FEW_VOXELS", 1 << 12)
    monkeypatch.setattr("tensorcell.solvers.interpolation.CURVES", 1 << 12)
    monkeypatch.setattr("tensorcell.solvers.stein.TRIAL_VOXELS", 8000)


def bytes_a_voxel(work: Callable[[], object]) -> float:
    """The peak above what was there before, once everything is imported and compiled."""
    work()
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1] / VOXELS
    finally:
        tracemalloc.stop()


def noisy(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(SHAPE, dtype=np.float32)


@pytest.mark.usefixtures("small_slabs")
def test_denoising_holds_six_candidates_and_little_else() -> None:
    """Six candidates, the data, and the sums of one pass: 44 bytes; two arrays of zeros that are never written to."""
    data, options = noisy(), LocalOptions(step=5, group=16)
    assert bytes_a_voxel(lambda: local_tucker(data, noise=1.0, options=options)) < 50


@pytest.mark.usefixtures("small_slabs")
def test_a_sweep_holds_two_states_and_the_sums_of_a_pass() -> None:
    """Data, two states of estimate and spread, what is filtered, weights: 32 bytes; zeros and masks besides."""
    data, known = noisy(), noisy(1) > 0

    def complete() -> None:
        options = LocalOptions(step=5, group=16)
        local_tucker(data, known, noise=0.1, levels=(0.3, 0.1), robust=False, denoise=False, options=options)

    assert bytes_a_voxel(complete) < 42.5


@pytest.mark.usefixtures("small_slabs")
def test_a_smooth_fill_holds_four_volumes() -> None:
    """Estimate, residual, direction and its image; some planes, and a mask for a moment."""
    data, known = noisy(), noisy(1) > 0
    assert bytes_a_voxel(lambda: smooth_fill(data, known, tolerance=0.1)) < 23


@pytest.mark.usefixtures("small_slabs")
def test_planes_are_interpolated_without_volumes_in_double_precision() -> None:
    """The planes of the result, in single precision, and a few curves at a time."""
    data = noisy()

    def interpolate() -> None:
        for _ in pchip(data, np.arange(96.0), np.arange(0.5, 95.0)):
            pass

    assert bytes_a_voxel(interpolate) < 9
