"""Wanted stacks that do not fit into memory are refused by what they need, before any work."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest

import tensorcell as tc
from tensorcell import memory
from tensorcell.errors import InputError
from tensorcell.plane_grid import PlaneGrid

STACK = np.random.default_rng(0).random((8, 64, 64)).astype(np.float32)


@pytest.mark.parametrize("entry", [tc.recover, tc.diagnose])
def test_a_factor_that_makes_too_many_planes_is_refused(entry: Callable[..., object]) -> None:
    with pytest.raises(InputError, match=r"axial factor 1000000000 makes 7000000001 planes of 64 x 64 voxels, .* TB"):
        entry(STACK, axial_factor=10**9)
    with pytest.raises(InputError, match=r"makes 7\d+1 planes .* of memory; .* are free"):
        entry(STACK, axial_factor=10**40)
    with pytest.raises(InputError, match="largest possible is 3"):
        tc.plan(STACK, axial_factors=(1, 10**9))


def test_what_is_refused_depends_on_voxels_type_and_stacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recovery of float32 holds value, uncertainty and mask: 9 bytes for each voxel of (n - 1) s + 1 planes."""
    several = tc.Volume(np.zeros((2, 8, 4, 5), np.float64), axes="CZYX")
    for volume, bytes_a_voxel, stacks in ((tc.Volume(STACK), 9, 1), (several, 17, 2)):
        assert memory.bytes_of_recovery(volume) == bytes_a_voxel
        needed = 22 * volume.shape[-2] * volume.shape[-1] * bytes_a_voxel * stacks
        for free, fits in ((needed, True), (needed - 1, False), (None, True)):
            monkeypatch.setattr(memory, "free_memory", lambda free=free: free)
            if fits:
                memory.check_affordable(volume, PlaneGrid(8, Fraction(3)), bytes_a_voxel)
            else:
                with pytest.raises(InputError, match="makes 22 planes"):
                    memory.check_affordable(volume, PlaneGrid(8, Fraction(3)), bytes_a_voxel)
    monkeypatch.setattr(memory, "free_memory", lambda: 0)
    memory.check_affordable(several, PlaneGrid(8), 17)  # what is given is there already
    with pytest.raises(InputError, match="in each of 2 stacks"):
        memory.check_affordable(several, PlaneGrid(8, Fraction(2)), 17)


def test_free_memory_is_that_of_the_machine_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    free, total = memory.free_memory(), memory.machine_memory()
    assert free is None or free > 0
    monkeypatch.setattr(memory, "Path", missing_file)
    assert memory.free_memory() == (None if total is None else int(total * 2**20))


def missing_file(_: str) -> None:
    """A system without such a file."""
    raise OSError
