"""The CUDA kernels that compare voxels with those around them, run on the host, against the kernels for the host."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from host_cuda import HostLaunch, missing_gpu

from tensorcell.solvers import kernels_defects_cuda, neighbourhoods
from tensorcell.solvers.arrays import to_host
from tensorcell.solvers.kernels_defects_cuda import along_columns_cuda, around_cuda, far_from_most_cuda

SHAPES = [(1, 1, 1), (1, 7, 5), (3, 1, 9), (4, 5, 3), (7, 9, 11), (2, 13, 2)]
CASES = [(shape, real, share) for shape in SHAPES for real in ("float32", "float64") for share in (1.0, 0.6, 0.15)]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> HostLaunch:
    """All instances, compiled together."""
    found, byte, whole = HostLaunch(tmp_path_factory.mktemp("host")), "unsigned char*", "long long"
    instances = []
    for real in ("float", "double"):
        one, sides = f"{real}*", ("int",) * 3
        instances += [
            (f"around<{real}>", (one, byte, f"{whole}*", one, one, byte, whole, *sides)),
            (f"far_from_most<{real}>", (one, byte, byte, real, byte, *sides)),
            (f"along_columns<{real}>", (one, byte, *(one,) * 4, f"{whole}*", one, one, "int", "int", *sides)),
        ]
    found.compile(kernels_defects_cuda.PROGRAM, instances)
    return found


@pytest.fixture(params=[False, True], ids=["forwards", "backwards"])
def launch(compiled: HostLaunch, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> HostLaunch:
    """Few blocks, so that threads take several voxels, in either order of threads."""
    monkeypatch.setattr(kernels_defects_cuda, "BLOCKS", 2)
    compiled.backwards = request.param
    return compiled


def sample(shape: tuple[int, ...], real: str, share: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noise that is rounded in part, so that many values are equal and others are not exact; NaN under the mask."""
    rng = np.random.default_rng(seed)
    noise, mask = rng.standard_normal(shape), rng.random(shape) < share
    volume = np.where(rng.random(shape) < 0.5, np.round(4 * noise) / 4, 0.1 * noise)
    return np.where(mask, volume, np.nan).astype(real), mask


def assert_same(found: Any, wanted: Any) -> None:
    for ours, twin in zip(found, wanted, strict=True):
        assert ours.dtype == twin.dtype
        np.testing.assert_array_equal(to_host(ours), twin)


@pytest.mark.parametrize(("shape", "real", "share"), CASES)
def test_kernels_equal_those_of_the_host_bit_for_bit(
    shape: tuple[int, ...], real: str, share: float, launch: HostLaunch
) -> None:
    volume, mask = sample(shape, real, share)
    positions = np.arange(volume.size)[::-1]
    found = around_cuda(volume, mask, positions, launch=launch)
    assert_same(found, neighbourhoods.surroundings(volume, mask, positions))
    wanted = mask & (np.random.default_rng(1).random(shape) < 0.7)
    for least in (0.0, 0.3, 1.25, float(np.finfo(real).max)):
        far = far_from_most_cuda(volume, mask, wanted, least, launch=launch)
        np.testing.assert_array_equal(np.flatnonzero(far), neighbourhoods.standing_out(volume, mask, wanted, least))
    columns = neighbourhoods.column_statistics(volume, mask)
    for voxels in (1, 3 * shape[0] * shape[2], 10**6):
        assert_same(along_columns_cuda(volume, mask, voxels=voxels, launch=launch), columns)


@pytest.mark.parametrize("real", ["float32", "float64"])
def test_medians_along_z_are_those_of_many_numbers_of_either_sign(real: str, launch: HostLaunch) -> None:
    rng = np.random.default_rng(2)
    for planes in (40, 41):
        size = 10.0 ** rng.integers(-30, 30, (planes, 3, 3))
        volume = (size * rng.choice([-1, 0, 1], size.shape)).astype(real)
        mask = np.ones(volume.shape, bool)
        assert_same(along_columns_cuda(volume, mask, launch=launch), neighbourhoods.column_statistics(volume, mask))


def test_no_position_takes_no_launch() -> None:
    volume, mask = sample((3, 4, 5), "float32", 1.0)
    nothing = np.zeros(0, np.int64)

    def refuses(*_: Any) -> None:
        raise AssertionError("launched")

    for column in around_cuda(volume, mask, nothing, launch=refuses):
        assert column.shape == (0,)


def test_on_a_gpu_they_are_the_kernels_of_cupy_arrays() -> None:
    if missing_gpu() is not None:
        pytest.skip(str(missing_gpu()))
    import cupy

    for shape, real, share in CASES:
        volume, mask = sample(shape, real, share)
        given, known = cupy.asarray(volume), cupy.asarray(mask)
        for call, more in (
            (neighbourhoods.surroundings, (np.arange(volume.size),)),
            (neighbourhoods.column_statistics, ()),
        ):
            assert_same(call(given, known, *map(cupy.asarray, more)), call(volume, mask, *more))
        assert_same(
            [neighbourhoods.standing_out(given, known, known, 0.3)],
            [neighbourhoods.standing_out(volume, mask, mask, 0.3)],
        )
