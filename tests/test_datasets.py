"""Simulations against their closed forms: noise, sampling, blur, geometry and rank."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from scipy import ndimage, stats

from tensorcell.datasets import CONFOCAL_PSF, SimulatedCells, degrade, planted_tucker, simulate_cells, slabs
from tensorcell.datasets.dye import MEMBRANE_SIGMA, membrane_profile
from tensorcell.datasets.optics import blur
from tensorcell.datasets.smooth_fields import smooth_field
from tensorcell.errors import InputError

# Monte-Carlo checks allow five standard errors; with fixed seeds they pass or fail for good.
SIGMAS = 5.0


def close_to_binomial(hits: int, trials: int, probability: float) -> bool:
    return abs(hits - trials * probability) <= SIGMAS * math.sqrt(trials * probability * (1 - probability))


# -------------------------------------------------------------------------------------------------- degrade


@pytest.fixture(scope="module")
def volume() -> np.ndarray:
    return np.random.default_rng(0).gamma(2.0, 3.0, (13, 40, 50)).astype(np.float32)


@pytest.mark.parametrize("planes", [1, 2, 7, 12, 13])
@pytest.mark.parametrize("axial_factor", [1, 2, 3, 4, 20])
def test_degrade_without_noise_keeps_planes_exactly(volume: np.ndarray, planes: int, axial_factor: int) -> None:
    truth = volume[:planes]
    result = degrade(truth, axial_factor=axial_factor)
    assert result.measured.shape[0] == math.ceil(planes / axial_factor)
    np.testing.assert_array_equal(result.measured, truth[::axial_factor])
    assert result.mask.all()
    assert not result.outliers.any()
    reference = truth[: (planes - 1) // axial_factor * axial_factor + 1]
    np.testing.assert_array_equal(result.measured[-1], reference[-1])


def test_degrade_drops_planes_of_the_third_last_axis(volume: np.ndarray) -> None:
    frames = np.stack([volume, 2 * volume])
    np.testing.assert_array_equal(degrade(frames, axial_factor=3).measured, frames[:, ::3])


def test_degrade_poisson_gaussian_moments() -> None:
    """Mean L and variance L top / peak + sigma^2 at every level L, in the unit of the truth."""
    levels = np.array([0.0, 0.3, 2.0, 10.0, 50.0])
    truth = np.broadcast_to(levels[:, None, None], (5, 300, 300))
    peak, sigma = 100.0, 0.4
    measured = degrade(truth, peak_photons=peak, read_noise=sigma, seed=2).measured
    variance = levels * 50.0 / peak + sigma**2
    n = truth[0].size
    np.testing.assert_array_less(np.abs(measured.mean(axis=(1, 2)) - levels), SIGMAS * np.sqrt(variance / n))
    # Var of a sample variance is v^2 (2 + excess) / n; the fourth cumulant of poisson(q L) / q is L / q^3.
    excess = levels * (50.0 / peak) ** 3 / variance**2
    error = np.abs(measured.var(axis=(1, 2)) - variance)
    np.testing.assert_array_less(error, SIGMAS * variance * np.sqrt((2 + excess) / n))


def test_degrade_shot_noise_counts_photons() -> None:
    """Without read noise the measurement is a whole number of photons with the Poisson distribution."""
    truth = np.full((2, 100, 100), 8.0)
    truth[0, 0, 0] = 16.0  # the brightest voxel: 6 photons, so 3 elsewhere
    counts = degrade(truth, peak_photons=6, seed=3).measured.ravel()[1:] * 6 / 16
    np.testing.assert_allclose(counts, np.round(counts), atol=1e-12)  # of counts near 10, in float64
    observed = np.bincount(counts.round().astype(int), minlength=9)[:9]
    expected = stats.poisson.pmf(np.arange(9), 3) * counts.size
    np.testing.assert_array_less(np.abs(observed - expected), SIGMAS * np.sqrt(expected))


def test_degrade_read_noise_is_normal_and_has_the_unit_of_the_truth(volume: np.ndarray) -> None:
    noise = (degrade(volume.astype(np.float64), read_noise=0.5, seed=4).measured - volume) / 0.5
    assert stats.kstest(noise.ravel(), "norm").pvalue > 1e-3
    scaled = degrade(1e6 * volume.astype(np.float64), read_noise=0.5e6, seed=4).measured
    noise_scaled = (scaled - 1e6 * volume.astype(np.float64)) / 0.5e6
    np.testing.assert_allclose(noise_scaled, noise, atol=1e-12)  # rounding of values near 100


def test_degrade_keeps_the_fraction_of_pixels_and_hides_the_rest(volume: np.ndarray) -> None:
    for keep in (0.5, 0.05):
        result = degrade(volume, keep_pixels=keep, seed=5)
        assert close_to_binomial(int(result.mask.sum()), result.mask.size, keep)
        np.testing.assert_array_equal(np.isnan(result.measured), ~result.mask)
        np.testing.assert_array_equal(result.measured[result.mask], volume[result.mask])
        lines = result.mask.mean(axis=(0, 1))  # every column as often as the others
        assert stats.kstest((lines - keep) / lines.std(), "norm").pvalue > 1e-3


def test_degrade_outliers_replace_measured_voxels_uniformly(volume: np.ndarray) -> None:
    clean = degrade(volume, keep_pixels=0.5, seed=6)
    result = degrade(volume, keep_pixels=0.5, outliers=0.05, seed=6)
    np.testing.assert_array_equal(result.mask, clean.mask)
    assert not (result.outliers & ~result.mask).any()
    assert close_to_binomial(int(result.outliers.sum()), int(result.mask.sum()), 0.05)
    values = result.measured[result.outliers] / (2 * volume.max())
    assert stats.kstest(values, "uniform").pvalue > 1e-3
    untouched = result.mask & ~result.outliers
    np.testing.assert_array_equal(result.measured[untouched], volume[untouched])


def test_degrade_outliers_of_a_truth_with_negative_values(volume: np.ndarray) -> None:
    truth = volume - 10.0
    result = degrade(truth, outliers=0.2, seed=7)
    values = result.measured[result.outliers]
    low, width = truth.min(), 2 * np.ptp(truth)
    assert stats.kstest((values - low) / width, "uniform").pvalue > 1e-3


def test_degrade_streams_are_separate(volume: np.ndarray) -> None:
    plain = degrade(volume, keep_pixels=0.3, outliers=0.1, seed=8)
    noisy = degrade(volume, keep_pixels=0.3, outliers=0.1, peak_photons=20, read_noise=0.3, seed=8)
    np.testing.assert_array_equal(noisy.mask, plain.mask)
    np.testing.assert_array_equal(noisy.outliers, plain.outliers)
    np.testing.assert_array_equal(noisy.measured[noisy.outliers], plain.measured[plain.outliers])
    other = degrade(volume, keep_pixels=0.3, outliers=0.1, seed=9)
    assert (other.mask != plain.mask).any()


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(np.uint8, np.float32), (np.float16, np.float32), (np.float32, np.float32), (np.float64, np.float64)],
)
def test_degrade_leaves_its_input_alone(volume: np.ndarray, dtype: type, expected: type) -> None:
    truth: Any = volume.astype(dtype)
    before = truth.copy()
    truth.flags.writeable = False
    result = degrade(truth, keep_pixels=0.5, outliers=0.1, peak_photons=10, read_noise=1.0)
    assert result.measured.dtype == expected
    np.testing.assert_array_equal(truth, before)
    assert not np.shares_memory(degrade(truth).measured, truth)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"axial_factor": 0}, "axial_factor is 0, expected an integer at least 1"),
        ({"axial_factor": 1.5}, "axial_factor is 1.5, expected an integer"),
        ({"keep_pixels": 0}, "keep_pixels is 0, expected a finite number above 0 and at most 1"),
        ({"keep_pixels": 1.1}, "keep_pixels is 1.1"),
        ({"keep_pixels": True}, "keep_pixels is True"),
        ({"outliers": 1}, "outliers is 1, expected a finite number at least 0 and below 1"),
        ({"outliers": -0.1}, "outliers is -0.1"),
        ({"read_noise": math.nan}, "read_noise is nan, expected a finite number at least 0"),
        ({"peak_photons": 0}, "peak_photons is 0, expected a finite number above 0"),
        ({"peak_photons": 1e16}, r"peak_photons is 1e\+16, expected .* at most 1e\+15"),
        ({"seed": -1}, "seed is -1, expected an integer at least 0"),
        ({"seed": "one"}, "seed is one, expected an integer"),
    ],
)
def test_degrade_refuses_bad_parameters(volume: np.ndarray, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        degrade(volume, **changes)


def test_degrade_refuses_bad_truth() -> None:
    with pytest.raises(InputError, match="truth has 2 axes, expected at least 3"):
        degrade(np.ones((4, 4)))
    with pytest.raises(InputError, match="truth has dtype complex128, expected real numbers"):
        degrade(np.ones((4, 4, 4), complex))
    with pytest.raises(InputError, match=r"truth has shape \(4, 0, 4\), expected at least one voxel"):
        degrade(np.ones((4, 0, 4)))
    with pytest.raises(InputError, match="truth has 2 NaN or infinite values"):
        degrade(np.where(np.arange(27).reshape(3, 3, 3) < 2, np.nan, 1.0))
    for wrong in (np.zeros((3, 3, 3)), np.arange(27.0).reshape(3, 3, 3) - 1):
        with pytest.raises(InputError, match="expected no negative and some positive values for shot noise"):
            degrade(wrong, peak_photons=10)


# ------------------------------------------------------------------------------------------- simulated cells


@pytest.fixture(scope="module")
def cells() -> SimulatedCells:
    return simulate_cells()


SMALL: dict[str, Any] = {"shape": (12, 40, 40), "cells": 6}


def test_simulate_cells_is_reproducible() -> None:
    settings: dict[str, Any] = {"keep_pixels": 0.5, "outliers": 0.1, "seed": 5, **SMALL}
    first, second = (dataclasses.asdict(simulate_cells(**settings)) for _ in range(2))
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
    other = simulate_cells(**{**settings, "seed": 6})
    assert np.corrcoef(other.truth.ravel(), first["truth"].ravel())[0, 1] < 0.9


def test_simulate_cells_fields_agree(cells: SimulatedCells) -> None:
    assert cells.truth.shape == cells.measured.shape == cells.mask.shape == cells.labels.shape
    dtypes = [str(array.dtype) for array in (cells.truth, cells.measured, cells.labels, cells.mask, cells.outliers)]
    assert dtypes == ["float32", "float32", "int32", "bool", "bool"]
    assert cells.spacing == cells.truth_spacing == (0.5, 0.2, 0.2)
    assert cells.truth.min() > 2  # background
    assert cells.truth.max() == pytest.approx(102, rel=1e-6)  # peak + background in float32


def test_simulate_cells_degradations_do_not_change_the_truth() -> None:
    plain = simulate_cells(**SMALL)
    degradations: list[dict[str, Any]] = [
        {"axial_factor": 3},
        {"keep_pixels": 0.1, "outliers": 0.3},
        {"read_noise": 10.0, "shot_noise": False},
    ]
    for changes in degradations:
        degraded = simulate_cells(**SMALL, **changes)
        planes = len(degraded.truth)
        np.testing.assert_array_equal(degraded.truth, plain.truth[:planes])
        np.testing.assert_array_equal(degraded.labels, plain.labels[:planes])


@pytest.mark.parametrize(("axial_factor", "kept", "planes"), [(2, 6, 11), (3, 4, 10), (5, 3, 11), (20, 1, 1)])
def test_simulate_cells_planes_are_the_truth_when_noise_is_off(axial_factor: int, kept: int, planes: int) -> None:
    dark = simulate_cells(**SMALL, shot_noise=False, read_noise=0, axial_factor=axial_factor)
    assert (len(dark.measured), len(dark.truth), len(dark.labels)) == (kept, planes, planes)
    np.testing.assert_array_equal(dark.measured, dark.truth[::axial_factor])
    assert dark.spacing == (0.5 * axial_factor, 0.2, 0.2)
    assert dark.truth_spacing == (0.5, 0.2, 0.2)


def test_simulate_cells_is_degrade_of_its_truth() -> None:
    settings: dict[str, Any] = {"keep_pixels": 0.5, "outliers": 0.1, "read_noise": 2.0, "seed": 3}
    simulated = simulate_cells(**SMALL, **settings)
    again = degrade(simulated.truth, peak_photons=float(simulated.truth.max()), **settings)
    np.testing.assert_array_equal(again.measured, simulated.measured)
    np.testing.assert_array_equal(again.mask, simulated.mask)
    np.testing.assert_array_equal(again.outliers, simulated.outliers)


def test_simulate_cells_noise_has_the_variance_of_its_photons(cells: SimulatedCells) -> None:
    """Gain 1: variance of the residual is photons + 1 in dark, middle and bright voxels alike."""
    residual = np.square(cells.measured - cells.truth, dtype=np.float64)
    for low, high in ((0, 4), (4, 20), (20, 110)):
        chosen = (cells.truth >= low) & (cells.truth < high)
        expected = cells.truth[chosen] + 1.0
        ratio = residual[chosen] / expected
        assert abs(ratio.mean() - 1) < SIGMAS * ratio.std() / math.sqrt(ratio.size)
        assert ratio.std() / math.sqrt(ratio.size) < 0.02  # or the check above would prove nothing


def test_simulate_cells_gain_and_offset_turn_photons_into_intensities() -> None:
    photons = simulate_cells(**SMALL, outliers=0.1, keep_pixels=0.9)
    camera = simulate_cells(**SMALL, outliers=0.1, keep_pixels=0.9, gain=2.5, offset=100.0)
    # One rounding of float32.
    np.testing.assert_allclose(camera.truth, 2.5 * photons.truth + 100, rtol=2e-7)
    np.testing.assert_allclose(camera.measured, 2.5 * photons.measured + 100, rtol=1e-6)


def test_simulate_cells_peak_and_background_are_in_photons() -> None:
    dim = simulate_cells(**SMALL, peak_photons=50, background=0)
    bright = simulate_cells(**SMALL, peak_photons=500, background=7)
    assert dim.truth.max() == pytest.approx(50, rel=1e-6)
    # Float32 steps of numbers up to 500.
    np.testing.assert_allclose(bright.truth, 10 * dim.truth + 7, atol=1e-4)


def test_simulate_cells_labels_are_connected_and_complete(cells: SimulatedCells) -> None:
    assert set(np.unique(cells.labels)) == set(range(41))
    boxes = ndimage.find_objects(cells.labels)
    for label, box in enumerate(boxes, start=1):
        _, pieces = ndimage.label(cells.labels[box] == label, np.ones((3, 3, 3)))
        assert pieces == 1
    assert 0.35 < (cells.labels > 0).mean() < 0.65
    signal = cells.truth - 2  # background
    assert signal[cells.labels > 0].mean() > 4 * signal[cells.labels == 0].mean()


def test_simulate_cells_show_walls_cytoplasm_and_nuclei(cells: SimulatedCells) -> None:
    """From the wall inwards: bright membrane, dim cytoplasm, bright nucleus, for the typical cell."""
    dark = cells.truth - cells.truth.min()
    ratios = []
    for label, box in enumerate(ndimage.find_objects(cells.labels), start=1):
        depth = ndimage.distance_transform_edt(np.pad(cells.labels[box] == label, 1), cells.truth_spacing)
        depth = depth[1:-1, 1:-1, 1:-1] / depth.max()
        wall, between, centre = (
            dark[box][(depth > low) & (depth < high)].mean() for low, high in ((0, 0.15), (0.25, 0.4), (0.75, 1))
        )
        ratios.append((wall / between, centre / between))
    assert (np.median(ratios, axis=0) > [2.0, 2.0]).all()


def test_simulate_cells_shows_the_same_cells_on_other_voxels() -> None:
    """At the same extent, every third voxel of a three times finer grid has the centre of a coarse voxel."""
    settings: dict[str, Any] = {"cells": 6, "psf": (1.5, 0.75), "seed": 4}  # well sampled by both
    coarse = simulate_cells((12, 30, 30), spacing=(0.6, 0.3, 0.3), **settings)
    fine = simulate_cells((36, 90, 90), spacing=(0.2, 0.1, 0.1), **settings)
    centres = (slice(1, None, 3),) * 3
    # A voxel may fall to the other side of a wall by rounding.
    assert (fine.labels[centres] == coarse.labels).mean() > 0.999
    # Chromatin finer than the coarse voxels differs, the picture is the same (another seed: below .6).
    assert np.corrcoef(fine.truth[centres].ravel(), coarse.truth.ravel())[0, 1] > 0.97


def test_simulate_cells_does_not_depend_on_the_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, Any] = {**SMALL, "shot_noise": False, "read_noise": 0}
    whole = simulate_cells(**settings)
    monkeypatch.setattr(slabs, "SLAB_VOXELS", 1)
    planes = simulate_cells(**settings)
    # Matrix products of another size round differently, in float32.
    np.testing.assert_allclose(planes.truth, whole.truth, rtol=1e-4)
    assert (planes.labels == whole.labels).mean() > 0.999


@pytest.mark.parametrize("shape", [(1, 40, 40), (3, 64, 64), (40, 5, 1), (1, 1, 1)])
@pytest.mark.parametrize("spacing", [(0.5, 0.2, 0.2), (5.0, 5.0, 5.0), (1e4, 1e4, 1e4), (0.01, 0.01, 0.01)])
def test_simulate_cells_on_odd_grids(shape: tuple[int, int, int], spacing: tuple[float, ...]) -> None:
    simulated = simulate_cells(shape, spacing=spacing, cells=1 if shape == (1, 1, 1) else 3)
    assert np.isfinite(simulated.truth).all()
    assert simulated.truth.max() == pytest.approx(102, rel=1e-6)
    assert simulated.labels.max() >= 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": (4, 4)}, r"shape has 2 entries, expected 3 \(z, y, x\)"),
        ({"shape": 4}, "shape is 4, expected 3 numbers"),
        ({"shape": (4, 4, 0)}, "a side of shape is 0, expected an integer at least 1"),
        ({"shape": (4, 4, 4.5)}, "a side of shape is 4.5, expected an integer"),
        ({"spacing": (1, 1)}, "spacing has 2 entries, expected 3"),
        ({"spacing": (1, 1, 0)}, "a voxel size in spacing is 0, expected a finite number above 0"),
        ({"cells": 0}, "cells is 0, expected an integer at least 1"),
        ({"cells": 513}, "cells is 513, expected an integer at least 1 and at most 512"),
        ({"psf": 0.5}, "psf is 0.5, expected 2 numbers"),
        ({"psf": (1, 1, 1)}, r"psf has 3 entries, expected 2 \(axial and lateral width in micrometres\)"),
        ({"psf": (1, -1)}, "a width in psf is -1"),
        ({"psf": (1, 201)}, "psf is 1005 voxels wide, expected at most 1000"),
        ({"peak_photons": None}, "peak_photons is None, expected a finite number"),
        ({"peak_photons": -5}, "peak_photons is -5"),
        ({"background": -1}, "background is -1, expected a finite number at least 0"),
        ({"gain": 0}, "gain is 0, expected a finite number above 0"),
        ({"offset": math.inf}, "offset is inf, expected a finite number"),
        ({"axial_factor": 0}, "axial_factor is 0"),
        ({"keep_pixels": 0.0}, "keep_pixels is 0.0"),
        ({"outliers": 2}, "outliers is 2"),
        ({"read_noise": -1}, "read_noise is -1"),
        ({"seed": 1.5}, "seed is 1.5, expected an integer"),
    ],
)
def test_simulate_cells_refuses_bad_parameters(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        simulate_cells(**{"shape": (8, 8, 8), "cells": 2, **changes})


# ------------------------------------------------------------------------------------------------------ psf


@pytest.mark.parametrize("spacing", [(0.5, 0.2, 0.2), (0.3, 0.1, 0.15)])
def test_blur_has_the_variance_of_the_psf_less_that_of_the_voxel(spacing: tuple[float, ...]) -> None:
    """A point spreads with variance (fwhm / 2.3548)^2 - (spacing / 2)^2 on each axis; its photons remain."""
    fwhm = (1.2, 0.4, 0.5)
    point = np.zeros((31, 41, 41), np.float32)
    point[15, 20, 20] = 1
    image = blur(point, spacing, fwhm).astype(np.float64)
    assert image.min() >= 0
    assert image.sum() == pytest.approx(1, rel=1e-6)  # float32
    for axis, middle in enumerate((15, 20, 20)):
        line = image.sum(axis=tuple({0, 1, 2} - {axis}))
        position = (np.arange(line.size) - middle) * spacing[axis]
        expected = (fwhm[axis] / math.sqrt(8 * math.log(2))) ** 2 - (spacing[axis] / 2) ** 2
        assert (line * position**2).sum() == pytest.approx(expected, rel=1e-4)  # float32


@pytest.mark.parametrize("shift", [0.0, 0.13, 0.25])
@pytest.mark.parametrize("angle", [0, 30, 90])
def test_wall_is_imaged_with_its_closed_form_profile(shift: float, angle: float) -> None:
    """A wall thinner than a voxel, wherever it falls between the planes, is a Gaussian of variance
    membrane^2 + n' psf^2 n across the wall: rendering and blur together do not alias."""
    step, fwhm = np.array([0.5, 0.2, 0.2]), (1.01, 0.27, 0.27)
    normal = np.array([math.cos(math.radians(angle)), 0.0, math.sin(math.radians(angle))])
    z, x = np.meshgrid((np.arange(32) - 16) * 0.5, (np.arange(64) - 32) * 0.2, indexing="ij")
    distance = z * normal[0] + x * normal[2] - shift
    profile = membrane_profile(distance.ravel(), np.broadcast_to(normal, (distance.size, 3)), step)
    wall = profile.reshape(distance.shape)[:, None, :].repeat(3, axis=1).astype(np.float32)
    image = blur(wall, (0.5, 0.2, 0.2), fwhm)[8:-8, 1, 16:-16]

    membrane = MEMBRANE_SIGMA
    sigmas = np.array(fwhm) / math.sqrt(8 * math.log(2))
    variance = membrane**2 + (normal**2 * sigmas**2).sum()
    expected = membrane / math.sqrt(variance) * np.exp(-(distance**2) / (2 * variance))[8:-8, 16:-16]
    # An axial PSF of 2 voxels leaves an error of up to 4.4 percent of the peak; rendering the walls without
    # their blur of half a voxel, or blurring them by the whole PSF after it, one of 13 percent and more.
    np.testing.assert_allclose(image, expected, rtol=0, atol=0.05 * expected.max())


def test_simulate_cells_psf_blurs(cells: SimulatedCells) -> None:
    def roughness(image: np.ndarray, axis: int) -> float:
        return float(np.abs(np.diff(image, axis=axis)).mean() / image.std())

    default, sharp, tall = (simulate_cells(**SMALL, psf=psf).truth for psf in (True, False, (2.5, CONFOCAL_PSF[1])))
    np.testing.assert_array_equal(simulate_cells(**SMALL, psf=CONFOCAL_PSF).truth, default)
    np.testing.assert_array_equal(simulate_cells(**SMALL, psf=(0, 0)).truth, sharp)
    assert roughness(default, 2) < roughness(sharp, 2)
    assert roughness(tall, 0) < roughness(default, 0) < roughness(sharp, 0)


def test_smooth_field_has_unit_variance_and_never_more_knots_than_voxels() -> None:
    rng = np.random.default_rng(0)
    for length in (0.4, 3.0):
        fields = [smooth_field((6, 7, 8), (2.0, 1.0, 0.5), length, rng) for _ in range(400)]
        assert max(fields[0].coefficients.shape) <= 8 + 3
        values = np.stack([field(slice(1, 5)) for field in fields])
        assert values.shape[1:] == (4, 7, 8)
        # 400 draws: the variance at a voxel has a standard error of sqrt(2 / 400) = .07.
        assert np.abs(values.var(axis=0) - 1).max() < SIGMAS * 0.07
        assert abs(values.var() - 1) < 0.03


def test_confocal_psf_follows_the_optics() -> None:
    """0.51 lambda / NA and 0.88 lambda / (n - sqrt(n^2 - NA^2)) at 520 nm, NA 1.0, water."""
    axial, lateral = CONFOCAL_PSF
    assert lateral == pytest.approx(0.2652)
    assert axial == pytest.approx(1.0098, abs=5e-4)


# ------------------------------------------------------------------------------------------- planted tensors


@pytest.mark.parametrize(
    ("shape", "rank"), [((20, 15, 10), (3, 4, 2)), ((6, 7, 8, 9), (2, 3, 2, 3)), ((9, 8), 4), ((5, 6, 7), 1)]
)
def test_planted_tucker_has_exactly_its_rank(shape: tuple[int, ...], rank: int | tuple[int, ...]) -> None:
    planted = planted_tucker(shape, rank, seed=1)
    ranks = (rank,) * len(shape) if isinstance(rank, int) else rank
    for mode, r in enumerate(ranks):
        unfolding = np.moveaxis(planted.truth, mode, 0).reshape(shape[mode], -1)
        values = np.linalg.svd(unfolding, compute_uv=False)
        assert values[r - 1] > 1e-3 * values[0]
        if r < len(values):
            assert values[r] < 1e-13 * values[0]  # rounding


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_planted_tucker_has_unit_deviation(dtype: type) -> None:
    planted = planted_tucker((30, 20, 25), 3, dtype=dtype)
    assert planted.truth.std(dtype=np.float64) == pytest.approx(1, rel=4 * float(np.finfo(dtype).eps))
    assert planted.data.dtype == planted.truth.dtype == planted.outliers.dtype == dtype
    assert planted.truth.flags.c_contiguous
    np.testing.assert_array_equal(planted.data, planted.truth)
    assert planted.mask.all()


def test_planted_tucker_sampling_and_outliers() -> None:
    planted = planted_tucker((40, 50, 60), (3, 4, 5), observed=0.3, outliers=0.1, outlier_range=(1, 3), seed=2)
    outlying = planted.outliers != 0
    assert close_to_binomial(int(planted.mask.sum()), planted.mask.size, 0.3)
    assert close_to_binomial(int(outlying.sum()), int(planted.mask.sum()), 0.1)
    assert not (outlying & ~planted.mask).any()
    np.testing.assert_array_equal(np.isnan(planted.data), ~planted.mask)
    np.testing.assert_array_equal(planted.data[planted.mask], (planted.truth + planted.outliers)[planted.mask])
    values = planted.outliers[outlying]
    assert stats.kstest((np.abs(values) - 1) / 2, "uniform").pvalue > 1e-3
    assert close_to_binomial(int((values > 0).sum()), values.size, 0.5)


def test_planted_tucker_outliers_of_one_magnitude() -> None:
    planted = planted_tucker((20, 20, 20), 2, outliers=0.1, outlier_range=(10, 10))
    assert set(np.unique(planted.outliers)) == {-10.0, 0.0, 10.0}


def test_planted_tucker_noise_is_normal_in_deviations_of_the_truth() -> None:
    planted = planted_tucker((30, 30, 30), 3, noise=0.2, observed=0.5, seed=3)
    noise = (planted.data - planted.truth)[planted.mask] / 0.2
    assert stats.kstest(noise, "norm").pvalue > 1e-3


def test_planted_tucker_streams_are_separate() -> None:
    plain = planted_tucker((10, 11, 12), 2, observed=0.5, seed=4)
    full = planted_tucker((10, 11, 12), 2, observed=0.5, outliers=0.2, noise=0.1, seed=4)
    np.testing.assert_array_equal(full.truth, plain.truth)
    np.testing.assert_array_equal(full.mask, plain.mask)
    other = planted_tucker((10, 11, 12), 2, observed=0.5, seed=5)
    assert abs(np.corrcoef(other.truth.ravel(), plain.truth.ravel())[0, 1]) < 0.3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": (2, 2)}, "rank has 2 entries, shape has 3 axes"),
        ({"rank": (2, 2, 9)}, r"rank 9 of mode 2 is larger than its side in shape \(6, 7, 8\)"),
        ({"rank": (5, 2, 2)}, "rank 5 of mode 0 is larger than the product of the others, 4"),
        ({"rank": 0}, "an entry of rank is 0, expected an integer at least 1"),
        ({"rank": 2.5}, "an entry of rank is 2.5, expected an integer"),
        ({"shape": (6, -7, 8)}, "a side of shape is -7"),
        ({"shape": (1, 1, 1), "rank": 1}, r"shape is \(1, 1, 1\), expected at least two entries"),
        ({"observed": 0}, "observed is 0, expected a finite number above 0 and at most 1"),
        ({"outliers": 1.0}, "outliers is 1.0"),
        ({"noise": -1}, "noise is -1"),
        ({"outlier_range": (3, 1)}, "highest magnitude in outlier_range is 1, expected .* at least 3"),
        ({"outlier_range": (-1, 1)}, "lowest magnitude in outlier_range is -1"),
        ({"outlier_range": 10}, r"outlier_range is 10, expected 2 numbers \(lowest and highest magnitude\)"),
        ({"dtype": np.int32}, "dtype is int32, expected float32 or float64"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_planted_tucker_refuses_bad_parameters(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        planted_tucker(**{"shape": (6, 7, 8), "rank": 2, **arguments})
