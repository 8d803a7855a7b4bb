from __future__ import annotations

import itertools
import math

import numba
import numpy as np
import pytest
from scipy import ndimage

from tensorcell.solvers import LocalOptions, local_tucker
from tensorcell.solvers.patch_groups import (
    Geometry,
    corners_along,
    filtered,
    fitted,
    haar_matrix,
    sums_arrays,
    sums_numba,
    window_of,
)
from tensorcell.solvers.stein import error_law, sample_blocks, simplex_weights


def smooth(shape: tuple[int, ...], seed: int = 0, width: float = 2.0) -> np.ndarray:
    """A smooth random volume of mean 0 and standard deviation 1."""
    field = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), width, mode="wrap")
    return ((field - field.mean()) / field.std()).astype(np.float32)


GEOMETRIES = (
    Geometry((4, 4, 4), (3, 3, 3), 8, 3),
    Geometry((2, 5, 3), (1, 4, 2), 16, 2),
    Geometry((1, 4, 4), (0, 3, 5), 4, 1),
    Geometry((3, 3, 3), (2, 2, 2), 1, 2),
)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("second", [False, True])
def test_the_kernel_equals_its_array_twin(geometry: Geometry, second: bool) -> None:
    data = smooth((9, 13, 11)) + 0.3 * np.random.default_rng(1).standard_normal((9, 13, 11)).astype(np.float32)
    pilot = smooth((9, 13, 11)) if second else None
    strength = 1.0 if second else 2.9
    kernel, arrays = (way(data, data, pilot, 0.3, strength, geometry) for way in (sums_numba, sums_arrays))
    for ours, twin in zip(kernel, arrays, strict=True):
        assert np.allclose(ours, twin, rtol=2e-4, atol=2e-4 * np.abs(twin).max())  # float32, other order of sums


def brute_force(data: np.ndarray, sigma: float, strength: float, geometry: Geometry) -> np.ndarray:
    """The first stage from its definition: every group by NumPy's SVD of the unfoldings, in float64."""
    patch, reach, size, step = geometry
    window = window_of(patch).reshape(patch).astype(float)
    total, weights = np.zeros(data.shape), np.zeros(data.shape)
    limits = [s - p for s, p in zip(data.shape, patch, strict=True)]

    def cut(corner: tuple[int, ...]) -> tuple[slice, ...]:
        return tuple(slice(c, c + p) for c, p in zip(corner, patch, strict=True))

    for corner in itertools.product(*(corners_along(s, p, step) for s, p in zip(data.shape, patch, strict=True))):
        ranges = [range(max(0, c - r), min(top, c + r) + 1) for c, r, top in zip(corner, reach, limits, strict=True)]
        own = data[cut(corner)].astype(float)
        others = sorted(
            itertools.product(*ranges), key=lambda at: -1 if at == corner else ((data[cut(at)] - own) ** 2).sum()
        )
        group = np.stack([data[cut(at)] for at in others[:size]]).astype(float)
        core = np.tensordot(haar_matrix(size), group, axes=1)
        factors = []
        for mode in (1, 2, 3):
            u = np.linalg.svd(np.moveaxis(group, mode, 0).reshape(patch[mode - 1], -1))[0]
            factors.append(u)
            core = np.moveaxis(np.tensordot(u.T, core, axes=(1, mode)), 0, mode)
        core[np.abs(core) <= strength * sigma] = 0
        weight = 1 / max(np.count_nonzero(core), 1)
        for mode, u in enumerate(factors, 1):
            core = np.moveaxis(np.tensordot(u, core, axes=(1, mode)), 0, mode)
        for at, estimate in zip(others[:size], np.tensordot(haar_matrix(size).T, core, axes=1), strict=True):
            total[cut(at)] += weight * window * estimate
            weights[cut(at)] += weight * window
    return total / weights


def test_the_first_stage_is_what_its_definition_says() -> None:
    data = smooth((8, 9, 10)) + 0.3 * np.random.default_rng(2).standard_normal((8, 9, 10)).astype(np.float32)
    geometry = Geometry((3, 4, 3), (2, 2, 3), 8, 2)
    found, _ = filtered(data, data, None, 0.3, 2.9, geometry)
    # 3 % of the voxels may differ: a coefficient at the threshold falls on either side in float32
    assert np.mean(np.abs(found - brute_force(data, 0.3, 2.9, geometry)) < 1e-4) > 0.97


def test_without_noise_the_filter_returns_the_data() -> None:
    data = smooth((10, 12, 14))
    found, spread = filtered(data, data, None, 0.0, 2.9, Geometry((4, 4, 4), (3, 3, 3), 16, 3))
    assert np.allclose(found, data, atol=2e-6)
    assert spread.max() < 1e-3


def test_the_result_does_not_depend_on_the_number_of_threads() -> None:
    data = smooth((40, 16, 16)) + 0.3 * np.random.default_rng(3).standard_normal((40, 16, 16)).astype(np.float32)
    geometry = Geometry((4, 4, 4), (3, 3, 3), 8, 3)
    before = numba.get_num_threads()
    try:
        results = []
        for threads in (1, before):
            numba.set_num_threads(threads)
            results.append(sums_numba(data, data, None, 0.3, 2.9, geometry)[0])
    finally:
        numba.set_num_threads(before)
    assert np.array_equal(*results)


def test_a_tile_with_a_rim_gives_what_the_whole_gives() -> None:
    """The rim is what two passes can see: twice the reach and a patch each; tiles begin at multiples of the step."""
    data = smooth((24, 24, 90)) + 0.3 * np.random.default_rng(4).standard_normal((24, 24, 90)).astype(np.float32)
    geometry = Geometry((4, 4, 4), (3, 3, 3), 8, 3)

    def two_passes(v: np.ndarray) -> np.ndarray:
        first, _ = filtered(v, v, None, 0.3, 2.9, geometry)
        return filtered(v, first, first, 0.3, 1.0, geometry)[0]

    rim = 2 * 2 * (3 + 4)
    tile = two_passes(np.ascontiguousarray(data[..., : 40 + rim]))
    assert np.abs(two_passes(data)[..., :40] - tile[..., :40]).max() < 1e-6


def test_axes_may_be_exchanged() -> None:
    data = smooth((12, 12, 12)) + 0.3 * np.random.default_rng(5).standard_normal((12, 12, 12)).astype(np.float32)
    one = local_tucker(data, noise=0.3).value
    other = local_tucker(np.ascontiguousarray(data.transpose(2, 0, 1)), noise=0.3, seed=0).value.transpose(1, 2, 0)
    # the perturbation of Stein's estimate differs, and with it the weights by a few per cent
    assert np.sqrt(np.mean((one - other) ** 2)) < 0.02


def test_scale_and_offset_of_the_data_do_not_matter() -> None:
    data = smooth((12, 16, 16)) + 0.3 * np.random.default_rng(6).standard_normal((12, 16, 16)).astype(np.float32)
    plain = local_tucker(data, noise=0.3)
    moved = local_tucker(1000 * data.astype(np.float64) + 5e5, noise=300.0)
    # coefficients at the threshold fall on either side in float32: 0.5 % of the standard deviation on average
    assert np.sqrt(np.mean((moved.value - 1000 * plain.value - 5e5) ** 2)) < 5
    assert moved.predicted == pytest.approx(1000 * plain.predicted, rel=1e-2)


def test_denoising_beats_every_gaussian_filter_and_knows_its_error() -> None:
    z, y, x = np.mgrid[:24, :48, :48]
    balls = sum(
        ((z - a) ** 2 + (y - b) ** 2 + (x - c) ** 2 < 49) for a, b, c in ((8, 14, 12), (14, 32, 30), (10, 12, 36))
    )
    truth = ndimage.gaussian_filter(balls.astype(np.float32), 0.8)
    noisy = truth + 0.2 * np.random.default_rng(7).standard_normal(truth.shape).astype(np.float32)
    found = local_tucker(noisy, noise=0.2)
    error = found.value - truth
    blurred = min(np.mean((ndimage.gaussian_filter(noisy, w) - truth) ** 2) for w in (0.8, 1.0, 1.3, 1.6))
    assert np.mean(error**2) < 0.6 * blurred
    assert found.predicted == pytest.approx(np.sqrt(np.mean(error**2)), rel=0.5)
    assert found.error is not None
    assert 0.85 < np.mean(np.abs(error) < 1.645 * found.error) < 0.99
    assert sum(found.weights.values()) == pytest.approx(1)


def test_missing_voxels_and_outliers_are_completed() -> None:
    truth = smooth((20, 32, 32), width=1.5)
    rng = np.random.default_rng(8)
    mask = rng.random(truth.shape) < 0.5
    hit = mask & (rng.random(truth.shape) < 0.03)
    data = np.where(hit, truth + rng.choice([-6, 6], truth.shape), truth)
    data[~mask] = np.nan
    found = local_tucker(data, mask, noise=0.0, denoise=False)
    error = np.sqrt(np.mean((found.value - truth)[~mask] ** 2))
    clean = local_tucker(np.where(mask, truth, np.nan), mask, noise=0.0, denoise=False)
    blind = local_tucker(data, mask, noise=0.0, denoise=False, robust=False)
    assert error < 2 * np.sqrt(np.mean((clean.value - truth)[~mask] ** 2))
    assert error < 0.5 * np.sqrt(np.mean((blind.value - truth)[~mask] ** 2))
    flagged = found.outliers != 0
    assert flagged[hit].mean() > 0.95
    assert flagged[mask & ~hit].mean() < 0.02
    assert not flagged[~mask].any()
    assert len(found.history) == 6


def test_the_callback_stops_the_sweeps() -> None:
    data = smooth((10, 12, 12))
    mask = np.random.default_rng(9).random(data.shape) < 0.5
    found = local_tucker(data, mask, noise=0.1, callback=lambda record, estimate: record.iteration == 2)
    assert len(found.history) == 2


def test_garbage_under_the_mask_changes_nothing() -> None:
    data = smooth((10, 12, 12))
    mask = np.random.default_rng(10).random(data.shape) < 0.6
    one, other = (local_tucker(np.where(mask, data, fill), mask, noise=0.1).value for fill in (np.nan, 1e9))
    assert np.array_equal(one, other)


def test_the_input_is_not_written_to() -> None:
    data = smooth((8, 10, 10))
    data.flags.writeable = False
    mask = np.random.default_rng(11).random(data.shape) < 0.7
    mask.flags.writeable = False
    assert local_tucker(data, mask, noise=0.1).value.dtype == np.float32


@pytest.mark.parametrize("shape", [(2, 9, 9), (1, 12, 12), (3, 3, 3), (2, 2, 40)])
def test_volumes_thinner_than_a_patch(shape: tuple[int, ...]) -> None:
    data = smooth(shape, width=0.5) + 5
    assert np.isfinite(local_tucker(data, noise=0.2).value).all()


def test_window_and_corners_cover_every_voxel() -> None:
    for size, patch, step in ((5, 5, 3), (17, 4, 3), (9, 4, 5)):
        corners = corners_along(size, patch, min(step, patch))
        assert corners[0] == 0
        assert corners[-1] == size - patch
        assert np.diff(corners).max(initial=0) <= patch
    assert fitted(LocalOptions(group=64), (2, 9, 9)).group == 8 * 2 ** int(math.log2(25 * 1) - 3)


def test_haar_matrix_is_orthonormal_and_begins_with_the_mean() -> None:
    h = haar_matrix(16)
    assert np.allclose(h @ h.T, np.eye(16))
    assert np.allclose(h[0], 0.25)


def test_simplex_weights_are_the_minimum() -> None:
    """Against a fine grid over the simplex."""
    rng = np.random.default_rng(12)
    for _ in range(10):
        root, linear = rng.standard_normal((3, 3)), rng.standard_normal(3)
        quadratic = root @ root.T
        weights, risk = simplex_weights(quadratic, linear)
        grid = np.array([(a, b, 1 - a - b) for a in np.linspace(0, 1, 101) for b in np.linspace(0, 1 - a, 101)])
        values = np.einsum("ni,ij,nj->n", grid, quadratic, grid) + 2 * grid @ linear
        assert weights.min() >= 0
        assert weights.sum() == pytest.approx(1)
        assert risk <= values.min() + 1e-9
        assert risk > values.min() - 0.02


def test_the_error_law_is_the_one_that_made_the_risks() -> None:
    rng = np.random.default_rng(13)
    spread = rng.uniform(0.5, 2, 200_000)
    truth = 0.02 + 0.05 * spread**2
    least, slope, limit = error_law(truth + rng.standard_normal(spread.size), spread, float(truth.mean()))
    found = least + slope * np.minimum(spread, limit) ** 2
    assert np.abs(found / truth - 1).max() < 0.4  # the noise of a risk is ten times the risk


def test_background_and_structure_get_weights_of_their_own() -> None:
    """Texture that no group shows is kept, where the background is smoothed."""
    rng = np.random.default_rng(14)
    truth = np.zeros((24, 48, 48), np.float32)
    truth[:, :, 24:] = rng.standard_normal((24, 48, 24))
    noisy = truth + 0.3 * rng.standard_normal(truth.shape).astype(np.float32)
    found = local_tucker(noisy, noise=0.3)
    error = found.value - truth
    assert np.sqrt(np.mean(error[:, :, :20] ** 2)) < 0.07
    assert np.sqrt(np.mean(error[:, :, 28:] ** 2)) < 0.32  # the data themselves have 0.3
    assert found.error[:, :, :20].mean() < 0.3 * found.error[:, :, 28:].mean()


@pytest.mark.parametrize("shape", [(20, 30, 40), (32, 128, 128), (124, 86, 94), (57, 256, 256), (400, 500, 600)])
def test_sample_blocks_lie_inside_and_are_no_more_than_wanted(shape: tuple[int, ...]) -> None:
    voxels = 0
    for block, inner in sample_blocks(shape):
        assert all(0 <= part.start < part.stop <= size for part, size in zip(block, shape, strict=True))
        lengths = [part.stop - part.start for part in block]
        assert all(0 <= part.start < part.stop <= size for part, size in zip(inner, lengths, strict=True))
        voxels += math.prod(lengths)
    assert min(100_000, math.prod(shape)) <= voxels <= 500_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"noise": -1.0}, "expected noise as a standard deviation of at least 0, got -1.0"),
        ({"noise": 0.1, "levels": []}, "expected positive levels"),
        ({"noise": 0.1, "initial": np.zeros((3, 3, 3))}, "initial has shape"),
        ({"noise": 0.1, "mask": np.zeros((8, 8, 8), bool)}, "expected at least one observed voxel, got none"),
        ({"noise": 0.1, "mask": np.ones((8, 8, 7), bool)}, "mask has shape"),
    ],
)
def test_bad_arguments_are_said(arguments: dict, message: str) -> None:
    mask = np.ones((8, 8, 8), bool)
    mask[0, 0, 0] = False
    with pytest.raises(ValueError, match=message):
        local_tucker(np.zeros((8, 8, 8)), arguments.pop("mask", mask), **arguments)


def test_bad_types_are_said() -> None:
    with pytest.raises(TypeError, match="expected real numbers"):
        local_tucker(np.zeros((8, 8, 8), complex), noise=1.0)
    with pytest.raises(TypeError, match="expected a bool mask"):
        local_tucker(np.zeros((8, 8, 8)), np.ones((8, 8, 8)), noise=1.0)
    with pytest.raises(ValueError, match="expected 3 axes"):
        local_tucker(np.zeros((8, 8)), noise=1.0)
    with pytest.raises(ValueError, match="expected finite numbers"):
        local_tucker(np.full((8, 8, 8), np.inf), noise=1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch": 0}, "expected patch as a whole number of at least 1"),
        ({"reach": (1, 2)}, "expected reach as a whole number of at least 0, or three"),
        ({"group": 12}, "expected a power of two as group, got 12"),
        ({"step": 0}, "expected step as a whole number of at least 1, got 0"),
    ],
)
def test_bad_options_are_said(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LocalOptions(**options)
