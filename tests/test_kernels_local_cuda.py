"""The CUDA filter of patch groups, run on the host, against the kernel for the host."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from host_cuda import HostLaunch, missing_gpu
from scipy import ndimage

from tensorcell.solvers import cuda
from tensorcell.solvers.arrays import to_host
from tensorcell.solvers.autocorrelation import WHITE, Autocorrelation
from tensorcell.solvers.kernels_local_cuda import units_of_sums
from tensorcell.solvers.patch_groups import Geometry, references_used, sums_cuda, sums_numba

GEOMETRIES = (
    Geometry((3, 3, 3), (2, 2, 2), 8, 2),
    Geometry((2, 3, 4), (1, 3, 2), 16, 2),
    Geometry((1, 5, 5), (0, 4, 4), 4, 2),
    Geometry((3, 3, 3), (2, 2, 2), 1, 2),
)


def noisy(shape: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Smooth structure with noise of .3, and without."""
    rng = np.random.default_rng(seed)
    truth = ndimage.gaussian_filter(rng.standard_normal(shape), 2)
    truth = (truth / truth.std()).astype(np.float32)
    return truth + 0.3 * rng.standard_normal(shape).astype(np.float32), truth


@pytest.fixture(scope="session")
def launch(tmp_path_factory: pytest.TempPathFactory) -> HostLaunch:
    return HostLaunch(tmp_path_factory.mktemp("host"))


def assert_alike(found: Any, wanted: Any) -> None:
    for ours, twin in zip(found, wanted, strict=True):
        np.testing.assert_allclose(to_host(ours), twin, rtol=2e-4, atol=2e-4 * np.abs(twin).max())


ROOM = 1 << 17
"""Bytes of shared memory in which all groups of these tests lie."""


def both(launch: HostLaunch, *given: Any, room: int = ROOM) -> tuple[Any, Any]:
    return sums_cuda(*given, launch=launch, shared=lambda: room), sums_numba(*given)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("second", [False, True])
def test_the_kernel_equals_that_of_the_host(geometry: Geometry, second: bool, launch: HostLaunch) -> None:
    data, truth = noisy((7, 9, 8))
    pilot, strengths = (truth, (1.0, 4.0)) if second else (None, (2.9,))
    used = references_used(None, data.shape, geometry)
    assert_alike(*both(launch, data, data, pilot, 0.3, strengths, geometry, used))


def test_patches_are_followed_through_frames_that_drift(launch: HostLaunch) -> None:
    data, truth = noisy((5, 7, 8, 8))
    data = np.stack([np.roll(data[0], (0, t, -t), (0, 1, 2)) for t in range(5)])
    geometry = Geometry((2, 3, 3), (2, 2, 2), 4, 3, 4, tuple((0, t, -t) for t in range(5)))
    used = references_used(np.random.default_rng(0).random(data.shape) < 0.01, data.shape, geometry)
    assert_alike(*both(launch, data, data, truth, 0.3, (1.0,), geometry, used))


@pytest.mark.parametrize("second", [False, True])
def test_noise_that_neighbours_share_is_weighed(second: bool, launch: HostLaunch) -> None:
    data, truth = noisy((6, 8, 8))
    correlation = Autocorrelation((1.0, 0.2), (1.0, 0.5, 0.1), (1.0, 0.4))
    geometry = Geometry((2, 3, 4), (2, 2, 2), 8, 3)
    used = references_used(None, data.shape, geometry)
    given = (data, data, truth if second else None, 0.3, (2.0, 1.0), geometry, used)
    found, wanted = both(launch, *given, correlation)
    assert_alike(found, wanted)
    with pytest.raises(AssertionError):
        assert_alike(found, sums_numba(*given, WHITE))


def test_groups_in_main_memory_are_those_in_shared_memory(launch: HostLaunch) -> None:
    data, truth = noisy((6, 8, 8))
    geometry = Geometry((3, 3, 3), (2, 2, 2), 8, 3)
    given = (data, data, truth, 0.3, (1.0, 0.3), geometry, references_used(None, data.shape, geometry))
    (shared, _), (main, _) = both(launch, *given), both(launch, *given, room=10_000)
    for one, two in zip(shared, main, strict=True):
        np.testing.assert_array_equal(one, two)


def test_the_order_of_threads_changes_nothing(launch: HostLaunch) -> None:
    data, truth = noisy((6, 8, 8))
    geometry = Geometry((2, 3, 3), (2, 2, 2), 8, 2)
    given = (data, data, truth, 0.3, (1.0, 0.3), geometry, references_used(None, data.shape, geometry))
    found = []
    for backwards in (False, True):
        launch.backwards = backwards
        found.append(sums_cuda(*given, launch=launch, shared=lambda: ROOM))
    launch.backwards = False
    for one, two in zip(*found, strict=True):
        np.testing.assert_array_equal(one, two)


def test_equal_patches_are_chosen_in_the_order_of_the_host(launch: HostLaunch) -> None:
    data = np.zeros((5, 7, 7), np.float32)
    data[3, 4, 4] = 1.0  # nearly all distances are 0
    geometry = Geometry((3, 3, 3), (2, 2, 2), 8, 1)
    used = references_used(None, data.shape, geometry)
    (totals, squares, weights), wanted = both(launch, data, data, None, 0.01, (2.9,), geometry, used)
    assert_alike((totals, weights), (wanted[0], wanted[2]))
    assert max(squares.max(), wanted[1].max()) < 1e-12  # rounding


def test_a_patch_moves_only_where_it_is_much_nearer(launch: HostLaunch) -> None:
    """In frames of noise, the nearest of many patches is nearer by chance."""
    data = np.random.default_rng(0).standard_normal((3, 5, 8, 8)).astype(np.float32)
    geometry = Geometry((2, 3, 3), (1, 2, 2), 4, 3, 2)
    used = references_used(None, data.shape, geometry)
    assert_alike(*both(launch, data, data, None, 1.0, (2.9,), geometry, used))


@pytest.mark.parametrize("reach", [(1, 1, 1), (0, 0, 0)])
def test_where_too_few_patches_are_within_reach_all_are_the_reference(
    reach: tuple[int, int, int], launch: HostLaunch
) -> None:
    data, _ = noisy((4, 6, 6))
    geometry = Geometry((3, 3, 3), reach, 16, 1)  # eight from a corner, or one
    used = references_used(None, data.shape, geometry)
    assert_alike(*both(launch, data, data, None, 0.3, (2.9,), geometry, used))


def test_estimates_that_are_far_from_the_guide_count_as_if_they_were_nearer(launch: HostLaunch) -> None:
    data, _ = noisy((5, 7, 7))
    geometry, sigma = Geometry((3, 3, 3), (1, 1, 1), 4, 2), 1e-4
    given = (data, 0 * data, None, sigma, (2.9,), geometry, references_used(None, data.shape, geometry))
    (_, squares, weights), (_, every, _) = both(launch, *given)
    known = weights > 0
    assert np.all(squares[known] <= (1 + 1e-4) * (1024 * sigma) ** 2 * weights[known])
    assert np.median(every[known] / squares[known]) > 10


def test_nothing_wanted_is_nothing(launch: HostLaunch) -> None:
    data, _ = noisy((6, 8, 8))
    geometry = Geometry((3, 3, 3), (2, 2, 2), 8, 2)
    used = np.zeros_like(references_used(None, data.shape, geometry))
    for each in sums_cuda(data, data, None, 0.3, (2.9,), geometry, used, launch=launch, shared=lambda: ROOM):
        assert not each.any()


@pytest.mark.parametrize("level", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("sigma", [1e-6, 1.0])
def test_sums_hold_the_largest_terms_and_keep_small_ones(level: float, sigma: float) -> None:
    geometry = Geometry((3, 3, 3), (2, 3, 4), 8, 2)
    units, farthest = units_of_sums(level, sigma * level, geometry, geometry.reach)
    # A voxel lies in patches of references at most 2, 3, 4 and a patch away, in each at most once.
    overlaps = 8 * np.prod([2 * (way + 2) + 1 for way in (2, 3, 4)]) / 2**3
    for unit, largest in ((units.totals, np.sqrt(27 * 8) * level), (units.squares, farthest), (units.weights, 1.0)):
        assert np.log2(unit) == round(np.log2(unit))
        assert overlaps * largest * unit < 2**63
    assert farthest <= (1024 * sigma * level) ** 2
    assert units.totals * level * 1e-4 > 1e7  # a term of small weight is rounded as float32 rounds it
    assert units.weights * 1e-5 > 1e7


def test_data_of_zero_have_units() -> None:
    geometry = Geometry((3, 3, 3), (2, 3, 4), 8, 2)
    assert units_of_sums(0.0, 1e-18, geometry, geometry.reach)[0].totals == 1.0


def test_on_a_gpu_it_is_the_kernel_of_cupy_arrays(launch: HostLaunch) -> None:
    if missing_gpu() is not None:
        pytest.skip(str(missing_gpu()))
    import cupy

    data, truth = noisy((12, 20, 20))
    for geometry in (Geometry((5, 5, 5), (5, 5, 5), 32, 3), Geometry((6, 6, 6), (5, 5, 5), 32, 3)):
        given = (0.3, (1.0, 4.0), geometry, references_used(None, data.shape, geometry))
        first = sums_cuda(cupy.asarray(data), cupy.asarray(data), cupy.asarray(truth), *given)
        again = sums_cuda(cupy.asarray(data), cupy.asarray(data), cupy.asarray(truth), *given)
        assert_alike(first, sums_numba(data, data, truth, *given))
        for one, two in zip(first, again, strict=True):
            np.testing.assert_array_equal(to_host(one), to_host(two))
    assert cuda.shared_of_device() >= 48 << 10
