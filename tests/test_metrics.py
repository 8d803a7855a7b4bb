"""Scores against closed forms, their definitions and scikit-image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.metrics

from tensorcell.errors import InputError
from tensorcell.metrics import nrmse, psnr, ssim
from tensorcell.volume import Volume

SKIMAGE: Any = skimage.metrics

# Sums in another order differ by rounding only.
ROUNDING = 1e-12

SCORES: list[Any] = [psnr, ssim, nrmse]


@dataclass(frozen=True)
class Stack:
    """Looks like a Volume."""

    data: Any
    axes: str = "ZYX"


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    reference = 100 + 30 * rng.standard_normal((12, 17, 15))
    return reference, reference + 5 * rng.standard_normal(reference.shape)


# ------------------------------------------------------------------------------------------- psnr and nrmse


def test_psnr_by_hand() -> None:
    reference = np.array([[0.0, 10.0], [20.0, 30.0]])
    estimate = reference + [[1.0, -1.0], [3.0, 1.0]]  # mean squared error 3, range 30
    assert psnr(reference, estimate) == pytest.approx(10 * math.log10(900 / 3), rel=ROUNDING)
    assert psnr(reference, estimate, data_range=1) == pytest.approx(-10 * math.log10(3), rel=ROUNDING)


def test_nrmse_by_hand() -> None:
    reference = np.array([1.0, 2.0, 3.0, 4.0])
    estimate = reference + [2.0, -2.0, 2.0, -2.0]  # root mean squared error 2
    assert nrmse(reference, estimate) == pytest.approx(2 / math.sqrt(7.5), rel=ROUNDING)
    assert nrmse(reference, estimate, normalization="min-max") == pytest.approx(2 / 3, rel=ROUNDING)
    assert nrmse(reference, estimate, normalization="mean") == pytest.approx(2 / 2.5, rel=ROUNDING)


def test_nrmse_is_the_relative_frobenius_error(pair: tuple[np.ndarray, np.ndarray]) -> None:
    reference, estimate = pair
    relative = np.linalg.norm(reference - estimate) / np.linalg.norm(reference)
    assert nrmse(reference, estimate) == pytest.approx(relative, rel=ROUNDING)


def test_psnr_and_nrmse_equal_scikit_image(pair: tuple[np.ndarray, np.ndarray]) -> None:
    reference, estimate = pair
    theirs = SKIMAGE.peak_signal_noise_ratio(reference, estimate, data_range=np.ptp(reference))
    assert psnr(reference, estimate) == pytest.approx(theirs, rel=ROUNDING)
    for normalization in ("euclidean", "min-max", "mean"):
        theirs = SKIMAGE.normalized_root_mse(reference, estimate, normalization=normalization)
        ours = nrmse(reference, estimate, normalization=normalization)
        assert ours == pytest.approx(theirs, rel=ROUNDING)


def test_equal_arrays_score_perfectly(pair: tuple[np.ndarray, np.ndarray]) -> None:
    reference, _ = pair
    assert psnr(reference, reference) == math.inf
    assert nrmse(reference, reference) == 0
    assert ssim(reference, reference) == 1
    flat = np.full((8, 8, 8), 7, np.uint16)
    assert psnr(flat, flat, data_range=1) == math.inf


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int32, np.float16, np.float32, bool])
def test_scores_do_not_overflow_in_the_dtype(dtype: type) -> None:
    rng = np.random.default_rng(2)
    reference, estimate = (rng.integers(0, 2, (8, 8, 8)) for _ in range(2))
    top = {"b": 1, "f": 60000, "i": np.iinfo(np.int8).max, "u": np.iinfo(np.uint8).max}[np.dtype(dtype).kind]
    narrow: list[Any] = [(top * values).astype(dtype) for values in (reference, estimate)]
    wide = [values.astype(np.float64) for values in narrow]
    for score in SCORES:
        assert score(*narrow) == pytest.approx(score(*wide), rel=ROUNDING)
    assert psnr(*narrow) == pytest.approx(-10 * math.log10(np.mean(reference != estimate)), rel=ROUNDING)


def test_mixed_dtypes_are_compared_by_value() -> None:
    assert psnr(np.array([0, 255], np.uint8), np.array([-1.0, 256.0])) == pytest.approx(20 * math.log10(255))
    assert psnr(np.array([0, 2], np.uint8), np.array([-2, 4], np.int8), data_range=2) == pytest.approx(0.0)


def test_psnr_does_not_change_with_the_unit(pair: tuple[np.ndarray, np.ndarray]) -> None:
    reference, estimate = pair
    expected = psnr(reference, estimate)
    # Adding an offset rounds the data themselves, to 1e-16 * 1e4 of an error of 5.
    assert psnr(1e6 * reference, 1e6 * estimate) == pytest.approx(expected, rel=ROUNDING)
    assert psnr(reference + 1e4, estimate + 1e4) == pytest.approx(expected, rel=1e-10)


def test_no_scale_or_shift_is_fitted(pair: tuple[np.ndarray, np.ndarray]) -> None:
    reference, _ = pair
    width = np.ptp(reference)
    assert psnr(reference, reference + 0.1 * width) == pytest.approx(20.0, rel=ROUNDING)
    assert nrmse(reference, 1.5 * reference) == pytest.approx(0.5, rel=ROUNDING)
    assert ssim(reference, reference + 0.1 * width) < 0.999


def test_mask_scores_exactly_the_true_voxels(pair: tuple[np.ndarray, np.ndarray]) -> None:
    reference, estimate = pair
    mask = np.random.default_rng(3).random(reference.shape) < 0.3
    mask[4] = False  # a plane that is not scored at all
    for score in (psnr, nrmse):
        expected = score(reference[mask], estimate[mask])
        assert score(reference, estimate, mask=mask) == pytest.approx(expected, rel=ROUNDING)
        garbage = [np.where(mask, values, bad) for values, bad in ((reference, np.inf), (estimate, np.nan))]
        assert score(*garbage, mask=mask) == score(reference, estimate, mask=mask)
    expected = nrmse(reference[mask], estimate[mask], normalization="min-max")
    assert nrmse(reference, estimate, mask=mask, normalization="min-max") == pytest.approx(expected)


# ----------------------------------------------------------------------------------------------------- ssim


@pytest.mark.parametrize("shape", [(40, 30), (12, 17, 15), (7, 8, 9, 7)])
@pytest.mark.parametrize("window", [3, 7])
def test_ssim_equals_scikit_image(shape: tuple[int, ...], window: int) -> None:
    rng = np.random.default_rng(4)
    reference = rng.random(shape)
    estimate = reference + 0.1 * rng.standard_normal(shape)
    theirs = SKIMAGE.structural_similarity(reference, estimate, win_size=window, data_range=1.0)
    assert ssim(reference, estimate, window=window, data_range=1) == pytest.approx(theirs, rel=ROUNDING)


def test_ssim_by_its_definition(pair: tuple[np.ndarray, np.ndarray]) -> None:
    """One scored voxel: Wang et al. 2004, Eq. 13, with sample (co)variances over the 5^3 window."""
    reference, estimate = pair
    width = 200.0
    a, b = (values[4:9, 6:11, 2:7].ravel() for values in (reference, estimate))
    covariance = np.cov(a, b)
    c1, c2 = (0.01 * width) ** 2, (0.03 * width) ** 2
    expected = (2 * a.mean() * b.mean() + c1) * (2 * covariance[0, 1] + c2)
    expected /= (a.mean() ** 2 + b.mean() ** 2 + c1) * (covariance[0, 0] + covariance[1, 1] + c2)
    mask = np.zeros(reference.shape, bool)
    mask[6, 8, 4] = True
    # The variance is a difference of squares 10 times larger.
    got = ssim(reference, estimate, window=5, data_range=width, mask=mask)
    assert got == pytest.approx(expected, rel=1e-10)


def test_ssim_masked_is_the_mean_of_the_map(pair: tuple[np.ndarray, np.ndarray]) -> None:
    reference, estimate = pair
    mask = np.random.default_rng(5).random(reference.shape) < 0.4
    _, values = SKIMAGE.structural_similarity(reference, estimate, data_range=90.0, full=True)
    got = ssim(reference, estimate, data_range=90, mask=mask)
    assert got == pytest.approx(values[mask].mean(), rel=ROUNDING)
    inner = np.zeros(mask.shape, bool)
    inner[3:-3, 3:-3, 3:-3] = True
    got = ssim(reference, estimate, data_range=90, mask=inner)
    assert got == pytest.approx(ssim(reference, estimate, data_range=90), rel=ROUNDING)


def test_default_data_range_is_that_of_the_scored_reference(pair: tuple[np.ndarray, np.ndarray]) -> None:
    reference, estimate = pair
    mask = np.random.default_rng(6).random(reference.shape) < 0.2
    for score in (psnr, ssim):
        expected = score(reference, estimate, data_range=np.ptp(reference))
        assert score(reference, estimate) == pytest.approx(expected, rel=ROUNDING)
        expected = score(reference, estimate, data_range=np.ptp(reference[mask]), mask=mask)
        assert score(reference, estimate, mask=mask) == pytest.approx(expected, rel=ROUNDING)


# ------------------------------------------------------------------------------------------- slabs and types


@pytest.mark.parametrize("planes", [1, 2, 5, 11])
def test_scores_do_not_depend_on_the_slabs(
    planes: int, pair: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    reference, estimate = pair
    mask = np.random.default_rng(7).random(reference.shape) < 0.5
    whole = [score(reference, estimate, mask=m) for score in SCORES for m in (None, mask)]
    window3 = ssim(reference, estimate, window=3)
    monkeypatch.setattr("tensorcell.metrics.slabs.SLAB_VOXELS", planes * reference[0].size)
    # The running sums of the windows start elsewhere; their rounding is amplified 100-fold in the variances.
    slabs = [score(reference, estimate, mask=m) for score in SCORES for m in (None, mask)]
    np.testing.assert_allclose(slabs, whole, rtol=1e-10)
    assert ssim(reference, estimate, window=3) == pytest.approx(window3, rel=1e-10)


def test_volumes_lists_and_read_only_arrays_are_accepted(pair: tuple[np.ndarray, np.ndarray]) -> None:
    reference, estimate = pair
    copies = reference.copy(), estimate.copy()
    reference.flags.writeable = estimate.flags.writeable = False
    for score in SCORES:
        expected = score(reference, estimate)
        assert isinstance(expected, float)
        assert score(Stack(reference), Stack(estimate)) == expected
        assert score(Stack(reference), estimate) == expected
        assert score(reference.tolist(), estimate.tolist()) == expected
        assert score(np.asfortranarray(reference), estimate[::-1][::-1]) == pytest.approx(expected, rel=ROUNDING)
    np.testing.assert_array_equal((reference, estimate), copies)


def test_scores_on_a_real_volume_equal_scikit_image(volumes_folder: Path) -> None:
    import tifffile

    reference = tifffile.imread(volumes_folder / "ovule_membranes_confocal.tif")[:16]
    noise = np.random.default_rng(8).normal(0, 12, reference.shape)
    estimate = np.clip(np.round(reference + noise), 0, 255).astype(np.uint8)
    theirs = SKIMAGE.peak_signal_noise_ratio(reference, estimate, data_range=255)
    assert psnr(reference, estimate, data_range=255) == pytest.approx(theirs, rel=ROUNDING)
    theirs = SKIMAGE.structural_similarity(reference, estimate, data_range=255)
    # Running sums of values up to 255^2 along 128 voxels: some 1e-12 each, averaged.
    assert ssim(reference, estimate, data_range=255) == pytest.approx(theirs, rel=1e-9)


# ----------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("score", SCORES)
def test_bad_arrays_are_refused(score: Any) -> None:
    a = np.random.default_rng(9).random((8, 8, 8))
    with pytest.raises(InputError, match=r"estimate has shape \(7, 8, 8\), reference has shape \(8, 8, 8\)"):
        score(a, a[1:])
    with pytest.raises(InputError, match=r"mask has shape \(8, 8\), reference has shape \(8, 8, 8\)"):
        score(a, a, mask=np.ones((8, 8), bool))
    with pytest.raises(InputError, match="mask has dtype uint8, expected bool"):
        score(a, a, mask=np.ones((8, 8, 8), np.uint8))
    with pytest.raises(InputError, match="mask is False everywhere"):
        score(a, a, mask=np.zeros((8, 8, 8), bool))
    with pytest.raises(InputError, match=r"no voxel to score, its shape is \(0, 8\)"):
        score(np.ones((0, 8)), np.ones((0, 8)))
    with pytest.raises(InputError, match="estimate has dtype complex128, expected real numbers"):
        score(a, a + 0j)
    with pytest.raises(InputError, match="reference has dtype object"):
        score(a.astype(object), a)
    with pytest.raises(InputError, match="reference is a NumPy masked array"):
        score(np.ma.masked_less(a, 0.5), a)
    with pytest.raises(InputError, match="estimate is a NumPy masked array"):
        score(a, [np.ma.masked_less(plane, 0.5) for plane in a])
    with pytest.raises(InputError, match="mask is a NumPy masked array"):
        score(a, a + 1, mask=np.ma.array(np.ones(a.shape, bool)))


@pytest.mark.parametrize("score", SCORES)
def test_voxels_of_a_volume_that_were_not_measured_are_not_scored(score: Any) -> None:
    a = np.random.default_rng(9).random((8, 8, 8))
    b, mask = a + 0.1 * np.random.default_rng(1).random(a.shape), np.ones(a.shape, bool)
    mask[:, :, -1] = False
    for volume in (Volume(b, mask=mask), Volume(np.ma.array(b, mask=~mask))):
        with pytest.raises(InputError, match="estimate has 64 voxels that were not measured among those to score"):
            score(a, volume)
        assert float(score(a, volume, mask=mask)) == float(score(a, b, mask=mask))
        with pytest.raises(InputError, match="reference has 64 voxels that were not measured"):
            score(volume, a, mask=np.ones(a.shape, bool))


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_counted_and_refused(score: Any, bad: float) -> None:
    a = np.random.default_rng(10).random((8, 8, 8))
    b = a.copy()
    b[0, :3, 0] = bad
    with pytest.raises(InputError, match="estimate has 3 NaN or infinite values"):
        score(a, b)
    with pytest.raises(InputError, match="reference has 3 NaN or infinite values"):
        score(b, a)
    mask = np.ones(a.shape, bool)
    mask[0, :2, 0] = False
    count = 3 if score is ssim else 1  # windows reach beyond the mask
    with pytest.raises(InputError, match=f"estimate has {count} NaN or infinite values"):
        score(a, b, mask=mask)


@pytest.mark.parametrize("score", [psnr, ssim])
def test_bad_data_ranges_are_refused(score: Any) -> None:
    flat = np.full((8, 8, 8), 5.0)
    with pytest.raises(InputError, match=r"reference is constant \(5\) over the scored voxels"):
        score(flat, flat + 1)
    for wrong in (0, -1.0, math.nan, math.inf):
        with pytest.raises(InputError, match=f"data_range is {wrong}, expected a positive finite number"):
            score(flat, flat, data_range=wrong)


def test_bad_windows_are_refused() -> None:
    a = np.random.default_rng(11).random((5, 9, 9))
    with pytest.raises(InputError, match=r"window is 7, expected at most the shortest side of shape \(5, 9, 9\)"):
        ssim(a, a)
    for wrong in (1, 4, -3, 3.0):
        with pytest.raises(InputError, match=f"window is {wrong}, expected an odd number of at least 3"):
            ssim(a, a, window=wrong)  # type: ignore[arg-type]


def test_bad_normalizations_are_refused() -> None:
    a = np.ones((3, 3))
    with pytest.raises(InputError, match="normalization is 'max', expected 'euclidean', 'min-max' or 'mean'"):
        nrmse(a, a, normalization="max")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"'euclidean' divides by .* got 0"):
        nrmse(0 * a, a)
    with pytest.raises(InputError, match=r"'min-max' divides by .* got 0"):
        nrmse(a, 2 * a, normalization="min-max")
    with pytest.raises(InputError, match=r"'mean' divides by .* got -1"):
        nrmse(-a, a, normalization="mean")
