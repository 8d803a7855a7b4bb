"""Multi-scale SSIM, concordance, correlation and z profiles against their definitions and scikit-image."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import skimage.metrics
from scipy.signal import convolve2d

from tensorcell import Volume
from tensorcell.errors import InputError
from tensorcell.metrics import Score, ccc, ms_ssim, pcc, profile_ccc, profile_pcc, profile_ssim

SKIMAGE: Any = skimage.metrics

# Sums in another order differ by rounding only.
ROUNDING = 1e-12
# Variances are differences of squares some 100 times larger.
WINDOWS = 1e-10

AGREEMENT: list[Any] = [ccc, pcc]
PROFILES: list[Any] = [profile_ccc, profile_pcc, profile_ssim]


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    reference = 100 + 30 * rng.standard_normal((12, 17, 15))
    return reference, 0.8 * reference + 10 + 15 * rng.standard_normal(reference.shape)


# -------------------------------------------------------------------------------------------------- ccc and pcc


def test_ccc_by_hand() -> None:
    # Means 2 and 3, variances 2/3 each, covariance 2/3: 2 (2/3) / (2/3 + 2/3 + 1) = 4/7.
    assert ccc([1.0, 2.0, 3.0], [2.0, 3.0, 4.0]) == pytest.approx(4 / 7, rel=ROUNDING)
    # Twice as steep, same mean 2: variances 2/3 and 8/3, covariance 4/3: (8/3) / (10/3) = .8.
    assert ccc([1.0, 2.0, 3.0], [0.0, 2.0, 4.0]) == pytest.approx(0.8, rel=ROUNDING)
    assert ccc([1.0, 2.0, 3.0], [3.0, 2.0, 1.0]) == pytest.approx(-1.0, rel=ROUNDING)
    assert ccc([1.0, 2.0, 3.0], [7.0, 7.0, 7.0]) == 0


def test_ccc_is_the_distance_from_the_line_of_identity(pair: tuple[np.ndarray, np.ndarray]) -> None:
    """Lin 1989, Eq. 2: 1 - E(r - e)^2 / (the same if they were uncorrelated)."""
    r, e = pair
    uncorrelated = r.var() + e.var() + (r.mean() - e.mean()) ** 2
    assert ccc(r, e) == pytest.approx(1 - np.mean((r - e) ** 2) / uncorrelated, rel=ROUNDING)


def test_pcc_equals_scipy(pair: tuple[np.ndarray, np.ndarray]) -> None:
    theirs = scipy.stats.pearsonr(pair[0].ravel(), pair[1].ravel()).statistic
    assert pcc(*pair) == pytest.approx(theirs, rel=ROUNDING)
    assert pcc(pair[0], -pair[1]) == pytest.approx(-theirs, rel=ROUNDING)


def test_ccc_is_pcc_times_the_bias_correction(pair: tuple[np.ndarray, np.ndarray]) -> None:
    r, e = pair
    scale, shift = r.std() / e.std(), (r.mean() - e.mean()) / math.sqrt(r.std() * e.std())
    assert ccc(r, e) == pytest.approx(pcc(r, e) * 2 / (scale + 1 / scale + shift**2), rel=ROUNDING)


def test_a_large_offset_does_not_drown_the_correlation() -> None:
    r = np.arange(1000.0)
    # The data themselves are rounded to 1e9 * 1e-16, of a spread of 300.
    assert pcc(r + 1e9, 3 * r + 1e9) == pytest.approx(1.0, abs=1e-9)
    assert ccc(r + 1e9, r + 1e9) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("score", AGREEMENT)
def test_masks_slabs_and_types_of_correlations(
    score: Any, pair: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    r, e = pair
    mask = np.random.default_rng(2).random(r.shape) < 0.3
    expected = score(r[mask], e[mask])
    assert score(np.where(mask, r, np.nan), np.where(mask, e, np.inf), mask=mask) == pytest.approx(expected)
    assert score(Volume(r), Volume(e), mask=mask) == pytest.approx(expected, rel=ROUNDING)
    monkeypatch.setattr("tensorcell.metrics.slabs.SLAB_VOXELS", 2 * r[0].size)
    assert score(r, e, mask=mask) == pytest.approx(expected, rel=ROUNDING)
    small = np.array([0, 100, 255], np.uint8)
    assert score(small, small[::-1]) == pytest.approx(score(small.astype(float), small[::-1].astype(float)))


def test_constant_data_have_no_correlation() -> None:
    flat = np.full((4, 5), 0.1)  # the mean of which is rounded
    ramp = np.arange(20.0).reshape(4, 5)
    for score in AGREEMENT:
        with pytest.raises(InputError, match="reference is constant over the scored voxels"):
            score(flat, ramp)
    with pytest.raises(InputError, match="estimate is constant over the scored voxels, pcc expects"):
        pcc(ramp, flat)
    with pytest.raises(InputError, match="estimate has 1 NaN"):
        ccc(ramp, np.where(ramp == 3, np.nan, ramp))


# ------------------------------------------------------------------------------------------------------- ms_ssim


def independent_ms_ssim(a: np.ndarray, b: np.ndarray, width: float, scales: int) -> float:
    """Wang et al. 2003 with full two-dimensional convolutions."""
    weights = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])[:scales]
    weights = weights / weights.sum()
    x = np.arange(11) - 5
    kernel = np.exp(-(x[:, None] ** 2 + x[None] ** 2) / (2 * 1.5**2))
    kernel /= kernel.sum()

    def local(image: np.ndarray) -> np.ndarray:
        return convolve2d(image, kernel, mode="valid")

    product = 1.0
    for j in range(scales):
        mu_a, mu_b = local(a), local(b)
        s_a, s_b, s_ab = local(a * a) - mu_a**2, local(b * b) - mu_b**2, local(a * b) - mu_a * mu_b
        c1, c2 = (0.01 * width) ** 2, (0.03 * width) ** 2
        cs = (2 * s_ab + c2) / (s_a + s_b + c2)
        lum = (2 * mu_a * mu_b + c1) / (mu_a**2 + mu_b**2 + c1)
        product *= np.mean(lum * cs if j == scales - 1 else cs) ** weights[j]
        quarters = [image[: len(image) // 2 * 2, : image.shape[1] // 2 * 2] for image in (a, b)]
        a, b = (convolve2d(q, np.full((2, 2), 0.25), mode="valid")[::2, ::2] for q in quarters)
    return float(product)


@pytest.mark.parametrize(("shape", "scales"), [((180, 176), 5), ((175, 200), 4), ((45, 60), 3), ((21, 30), 1)])
def test_ms_ssim_equals_an_independent_implementation(shape: tuple[int, int], scales: int) -> None:
    rng = np.random.default_rng(3)
    a = rng.random(shape).cumsum(axis=1) % 1
    b = a + 0.2 * rng.standard_normal(shape)
    score = ms_ssim(a, b, data_range=1)
    assert score.scales == tuple(2**j for j in range(scales))
    assert sum(score.weights) == pytest.approx(1, rel=ROUNDING)
    assert score == pytest.approx(independent_ms_ssim(a, b, 1.0, scales), rel=WINDOWS)


def test_ms_ssim_of_one_scale_is_ssim_with_a_gaussian_window() -> None:
    rng = np.random.default_rng(4)
    a = rng.random((20, 21))
    b = a + 0.1 * rng.standard_normal(a.shape)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    score = ms_ssim(a, b, data_range=1)
    assert score == pytest.approx(SKIMAGE.structural_similarity(a, b, **options), rel=WINDOWS)
    assert score.scales == (1,)
    assert score.weights == (1.0,)


def test_published_weights_are_used_at_five_scales() -> None:
    a = np.random.default_rng(5).random((176, 176))
    # The published weights add up to 1.0001.
    assert ms_ssim(a, a).weights == pytest.approx([0.0448, 0.2856, 0.3001, 0.2363, 0.1333], rel=2e-4)


def test_ms_ssim_of_a_stack_is_the_mean_over_planes() -> None:
    rng = np.random.default_rng(6)
    a = rng.random((3, 24, 30))
    b = a + 0.1 * rng.standard_normal(a.shape)
    score = ms_ssim(a, b, data_range=2)
    singles = [float(ms_ssim(p, q, data_range=2)) for p, q in zip(a, b, strict=True)]
    assert score.planes == pytest.approx(singles, rel=ROUNDING)
    assert score == pytest.approx(np.mean(singles), rel=ROUNDING)
    turned = ms_ssim(np.moveaxis(a, 0, 2), np.moveaxis(b, 0, 2), data_range=2, axis=2)
    assert turned == pytest.approx(score, rel=ROUNDING)
    volume = Volume(np.moveaxis(a, 0, 2), axes="YXZ"), np.moveaxis(b, 0, 2)
    assert ms_ssim(*volume, data_range=2) == pytest.approx(score, rel=ROUNDING)


def test_opposite_structure_scores_zero_not_nan() -> None:
    a = np.random.default_rng(7).random((30, 30))
    assert ms_ssim(a, 1 - a) == 0
    assert ms_ssim(a, a) == 1


def test_ms_ssim_equals_torchmetrics_where_installed() -> None:
    functional = pytest.importorskip("torchmetrics.functional.image")
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(8)
    a = rng.random((192, 192))
    b = np.clip(a + 0.1 * rng.standard_normal(a.shape), 0, 1)
    pair = (torch.from_numpy(x)[None, None] for x in (b, a))
    theirs = functional.multiscale_structural_similarity_index_measure(*pair, data_range=1.0)
    # They use the published weights, which add up to 1.0001.
    assert ms_ssim(a, b, data_range=1) == pytest.approx(float(theirs), rel=1e-3)


def test_planes_that_ms_ssim_cannot_score_are_refused() -> None:
    a = np.random.default_rng(9).random((12, 10, 40))
    with pytest.raises(InputError, match="planes are 10 x 40, expected sides of at least 11 pixels"):
        ms_ssim(a, a)
    with pytest.raises(InputError, match="data has 4 axes, expected a plane"):
        ms_ssim(a[None], a[None])
    with pytest.raises(InputError, match="axis is 3, expected 0 to 2"):
        ms_ssim(a, a, axis=3)
    with pytest.raises(InputError, match="axis is 0, expected None for a single plane"):
        ms_ssim(a[0], a[0], axis=0)
    with pytest.raises(InputError, match="reference is constant"):
        ms_ssim(np.ones((20, 20)), np.ones((20, 20)))
    with pytest.raises(InputError, match="reference has 1 NaN"):
        ms_ssim(np.where(a == a.max(), np.nan, a), a)


def test_scores_are_floats_that_survive_json_and_pickle() -> None:
    a = np.random.default_rng(10).random((2, 30, 30))
    score = ms_ssim(a, a)
    assert json.dumps({"ms_ssim": score}) == '{"ms_ssim": 1.0}'
    copy = pickle.loads(pickle.dumps(score))
    assert copy == score
    assert copy.scales == score.scales
    assert f"{score:.3f}" == "1.000"
    assert type(score + 1) is float
    assert isinstance(score, Score)


# -------------------------------------------------------------------------------------------------- z profiles


def test_profile_correlations_are_means_over_profiles(pair: tuple[np.ndarray, np.ndarray]) -> None:
    r, e = pair
    lines = [(r[:, y, x], e[:, y, x]) for y in range(17) for x in range(15)]
    assert profile_ccc(r, e) == pytest.approx(np.mean([ccc(*line) for line in lines]), rel=ROUNDING)
    theirs = np.mean([scipy.stats.pearsonr(*line).statistic for line in lines])
    assert profile_pcc(r, e) == pytest.approx(theirs, rel=ROUNDING)
    assert profile_pcc(r, e).profiles == 255


def test_profile_ssim_is_ssim_in_one_dimension(pair: tuple[np.ndarray, np.ndarray]) -> None:
    r, e = pair
    theirs = np.mean(
        [
            SKIMAGE.structural_similarity(r[:, y, x].copy(), e[:, y, x].copy(), data_range=90.0)
            for y in range(17)
            for x in range(15)
        ]
    )
    assert profile_ssim(r, e, data_range=90) == pytest.approx(theirs, rel=WINDOWS)


def test_profile_ssim_by_its_definition(pair: tuple[np.ndarray, np.ndarray]) -> None:
    """One scored voxel: Wang et al. 2004, Eq. 13, with sample (co)variances over 5 voxels along z."""
    r, e = pair
    a, b = r[4:9, 3, 2], e[4:9, 3, 2]
    covariance, c1, c2 = np.cov(a, b), (0.01 * 200.0) ** 2, (0.03 * 200.0) ** 2
    expected = (2 * a.mean() * b.mean() + c1) * (2 * covariance[0, 1] + c2)
    expected /= (a.mean() ** 2 + b.mean() ** 2 + c1) * (covariance[0, 0] + covariance[1, 1] + c2)
    mask = np.zeros(r.shape, bool)
    mask[6, 3, 2] = True
    score = profile_ssim(r, e, data_range=200, window=5, mask=mask)
    assert score == pytest.approx(expected, rel=WINDOWS)
    assert (score.profiles, score.left_out) == (1, 254)


@pytest.mark.parametrize("score", PROFILES)
def test_profiles_run_along_z_whatever_the_order_of_axes(score: Any, pair: tuple[np.ndarray, np.ndarray]) -> None:
    r, e = pair
    expected = score(r, e)
    turned = [np.moveaxis(x, 0, 1) for x in pair]
    assert score(*turned, axis=1) == pytest.approx(expected, rel=ROUNDING)
    assert score(*turned, axis=-2) == pytest.approx(expected, rel=ROUNDING)
    assert score(Volume(turned[0], axes="YZX"), turned[1]) == pytest.approx(expected, rel=ROUNDING)
    frames = Volume(np.stack(turned[:1] * 2), axes="TYZX"), np.stack(turned[1:] * 2)
    assert score(*frames) == pytest.approx(expected, rel=ROUNDING)
    assert score(r[:, 0, 0], e[:, 0, 0], **({"data_range": 90} if score is profile_ssim else {})) <= 1


@pytest.mark.parametrize("score", PROFILES)
def test_profiles_do_not_depend_on_the_slabs(
    score: Any, pair: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = np.random.default_rng(11).random(pair[0].shape) < 0.7
    whole = score(*pair), score(*pair, mask=mask)
    monkeypatch.setattr("tensorcell.metrics.slabs.SLAB_VOXELS", 200)
    assert (score(*pair), score(*pair, mask=mask)) == pytest.approx(whole, rel=WINDOWS)


@pytest.mark.parametrize("score", [profile_ccc, profile_pcc])
def test_masked_profiles_use_exactly_the_scored_voxels(score: Any, pair: tuple[np.ndarray, np.ndarray]) -> None:
    r, e = pair
    single = {profile_ccc: ccc, profile_pcc: pcc}[score]
    mask = np.random.default_rng(12).random(r.shape) < 0.3
    values = [
        single(r[:, y, x][m], e[:, y, x][m]) for y in range(17) for x in range(15) if (m := mask[:, y, x]).sum() >= 3
    ]
    result = score(np.where(mask, r, np.nan), np.where(mask, e, np.inf), mask=mask)
    assert result == pytest.approx(np.mean(values), rel=ROUNDING)
    assert (result.profiles, result.left_out) == (len(values), 255 - len(values))


def test_flat_profiles_of_the_reference_alone_are_left_out(pair: tuple[np.ndarray, np.ndarray]) -> None:
    r, e = (x.copy() for x in pair)
    r[:, :5] = 0.1
    for score in (profile_ccc, profile_pcc):
        result = score(r, e)
        assert (result.profiles, result.left_out) == (12 * 15, 5 * 15)
        assert result == pytest.approx(score(r[:, 5:], e[:, 5:]), rel=ROUNDING)
        # An estimate that gives up on half of the profiles cannot have them left out: they count 0.
        flat = e.copy()
        flat[:, 5:11] = 0.1
        halved = score(r, flat)
        assert halved.profiles == 12 * 15
        assert halved == pytest.approx(score(r[:, 11:], e[:, 11:]) / 2, rel=1e-9)
        with pytest.raises(InputError, match=f"{score.__name__} finds no profile .* got 75 profiles along axis 0"):
            score(r[:, :5], e[:, :5])


def test_bad_profiles_are_refused(pair: tuple[np.ndarray, np.ndarray]) -> None:
    r, e = pair
    for score in PROFILES:
        with pytest.raises(InputError, match="axis is 3, expected 0 to 2 for data of 3 axes"):
            score(r, e, axis=3)
        with pytest.raises(InputError, match="estimate has 1 NaN"):
            score(r, np.where(e == e.max(), np.nan, e))
        with pytest.raises(InputError, match="estimate has shape"):
            score(r, e[1:])
    with pytest.raises(InputError, match="window is 7, expected at most the 5 planes along axis 0"):
        profile_ssim(r[:5], e[:5])
    with pytest.raises(InputError, match="window is 4, expected an odd number"):
        profile_ssim(r, e, window=4)


def test_blur_along_z_lowers_every_profile_score(volumes_folder: Path) -> None:
    import tifffile
    from scipy.ndimage import gaussian_filter1d

    reference = tifffile.imread(volumes_folder / "brain_nuclei_mesospim_lightsheet.tif").astype(float)[:24, :64, :64]
    for score in PROFILES:
        values = [float(score(reference, gaussian_filter1d(reference, sigma, axis=0))) for sigma in (0.5, 1, 2)]
        assert 1 > values[0] > values[1] > values[2] > 0
