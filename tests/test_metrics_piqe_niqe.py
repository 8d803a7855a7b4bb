"""PIQE and NIQE against examples worked by hand and independent implementations, and rules of all scores of planes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.ndimage
import scipy.special
import scipy.stats
from scipy.signal import convolve2d

from tensorcell import Volume
from tensorcell.errors import InputError
from tensorcell.metrics import niqe, piqe
from tensorcell.metrics.natural_statistics import asymmetric_gaussian, gaussian_shape
from tensorcell.metrics.resampling import resized

# Sums in another order differ by rounding only.
ROUNDING = 1e-12
# Local variances are differences of squares up to 255^2; a square root follows.
LOCAL = 1e-7


# -------------------------------------------------------------------------------------- rules of all scores of planes


def test_white_is_known_or_must_be_given(textured: Any) -> None:
    image = textured((32, 48), 1)
    levels = np.round(255 * image)
    expected = piqe(image)
    assert piqe(levels.astype(np.uint8)) == expected
    assert piqe(levels, data_range=255) == expected
    assert piqe(levels.astype(np.uint16), data_range=255) == expected
    assert piqe(np.where(image > 0.9, 2 * image, image), data_range=1) == piqe(np.where(image > 0.9, 1, image))
    with pytest.raises(InputError, match=r"volume is uint16 from \d+ to \d+, expected data_range=, .* white"):
        piqe(levels.astype(np.uint16))
    with pytest.raises(InputError, match=r"volume is float64 from \S+ to 1.5, expected data_range="):
        piqe(np.where(image == image.max(), 1.5, image))
    for wrong in (0, -1.0, math.inf):
        with pytest.raises(InputError, match=f"data_range is {wrong}, expected a positive finite number"):
            piqe(image, data_range=wrong)


def test_stacks_are_scored_plane_by_plane(textured: Any) -> None:
    stack = np.stack([textured((40, 48), k) for k in range(3)])
    score = piqe(stack)
    assert score.planes == tuple(float(piqe(plane)) for plane in stack)
    assert score == pytest.approx(np.mean(score.planes), rel=ROUNDING)
    turned = np.moveaxis(stack, 0, 2)
    assert piqe(turned, axis=2).planes == piqe(Volume(turned, axes="YXZ")).planes == score.planes
    assert json.dumps(score) == repr(float(score))


def test_data_that_are_no_planes_are_refused(textured: Any) -> None:
    image = textured((40, 48), 1)
    with pytest.raises(InputError, match="data has 4 axes, expected a plane"):
        piqe(image[None, None])
    with pytest.raises(InputError, match="axis is 4, expected 0 to 2"):
        piqe(image[None], axis=4)
    with pytest.raises(InputError, match="volume has 1 NaN or infinite values among its voxels"):
        piqe(np.where(image == image.max(), np.nan, image))
    with pytest.raises(InputError, match=r"volume has no voxel to score, its shape is \(0, 8, 8\)"):
        piqe(np.zeros((0, 8, 8)))


# --------------------------------------------------------------------------------------------------------------- PIQE


def mscn(image: np.ndarray) -> np.ndarray:
    """Mittal et al. 2012, Eq. 1-3, with a two-dimensional window and repeated borders."""
    x = np.arange(7) - 3
    window = np.exp(-(x[:, None] ** 2 + x[None] ** 2) / (2 * (7 / 6) ** 2))
    window /= window.sum()

    def local(values: np.ndarray) -> np.ndarray:
        return convolve2d(np.pad(values, 3, mode="edge"), window, mode="valid")

    mu = local(image)
    return (image - mu) / (np.sqrt(np.abs(local(image**2) - mu**2)) + 1)


def independent_piqe(image: np.ndarray) -> float:
    """Block after block, edge after edge, segment after segment."""
    rows, columns = image.shape
    image = np.pad(image, ((0, -rows % 16), (0, -columns % 16)), mode="edge")
    normalized = mscn(image)
    total, active = 0.0, 0
    for i in range(0, image.shape[0], 16):
        for j in range(0, image.shape[1], 16):
            block = normalized[i : i + 16, j : j + 16]
            variance = block.var(ddof=1)
            if variance <= 0.1:
                continue
            active += 1
            edges = [block[0], block[15], block[:, 0], block[:, 15]]
            if any(edge[k : k + 6].std(ddof=1) < 0.1 for edge in edges for k in range(11)):
                total += 1 - variance
            kept = [0, 1, 2, 3, 4, 5, 6, 8, 10, 11, 12, 13, 14, 15]  # MATLAB takes out columns 8 and 10, from 1
            ratio = block[:, 7:9].std(ddof=1) / block[:, kept].std(ddof=1)
            sigma = math.sqrt(variance)
            if sigma > 2 * abs(sigma - ratio) / max(sigma, ratio):
                total += variance
    return 100 * (total + 1) / (active + 1)


@pytest.mark.parametrize("shape", [(64, 80), (50, 71), (16, 16)])
@pytest.mark.parametrize("noise", [0, 5, 40])
def test_piqe_equals_an_independent_implementation(shape: tuple[int, int], noise: float, textured: Any) -> None:
    rng = np.random.default_rng(2)
    image = np.round(np.clip(255 * textured(shape, 2) + noise * rng.standard_normal(shape), 0, 255))
    image[: shape[0] // 2, : shape[1] // 2] = image[: shape[0] // 2, : shape[1] // 2] // 64 * 64  # flat steps
    assert piqe(image.astype(np.uint8)) == pytest.approx(independent_piqe(image), rel=LOCAL)


def test_piqe_separates_the_middle_columns_as_matlab_does() -> None:
    """Blocks whose columns differ in contrast: in one of 20 the verdict on noise hangs on which are taken out."""
    rng = np.random.default_rng(29)
    blocks = 128 + 20 * rng.standard_normal((200, 16, 16)) * rng.random((200, 1, 16)) ** 2
    blocks = np.round(np.clip(blocks, 0, 255))
    expected = [independent_piqe(block) for block in blocks]
    assert piqe(blocks.astype(np.uint8)).planes == pytest.approx(expected, rel=LOCAL)


def test_piqe_by_hand() -> None:
    # A flat plane has no active block: 100 (0 + 1) / (0 + 1).
    assert piqe(np.full((40, 40), 0.3)) == 100
    # One block of alternating columns of 0 and 255, alike along each column: the left edge never varies, so it is
    # impaired (1 - v). Middle columns and the rest spread alike: c is about 1 and so is s: noise counts v as well.
    # One active block: 100 (1 - v + v + 1) / 2 = 100.
    stripes = np.tile(np.array([0, 255], np.uint8), (16, 8))
    assert piqe(stripes) == pytest.approx(100, rel=ROUNDING)


def test_strong_noise_makes_piqe_worse() -> None:
    rng = np.random.default_rng(3)
    image = scipy.ndimage.gaussian_filter(rng.standard_normal((128, 128)), 1)
    image = 0.5 + 0.15 * image / image.std()
    noise = rng.standard_normal(image.shape)
    values = [float(piqe(np.clip(image + sigma * noise, 0, 1))) for sigma in (0.02, 0.1, 0.4)]
    assert values[0] < values[1] < values[2]


# --------------------------------------------------------------------------------------------------------------- NIQE


def independent_niqe_features(image: np.ndarray, block: int) -> np.ndarray:
    """Features of all blocks, the shape by a search over the whole table."""
    rows, columns = image.shape[0] // block, image.shape[1] // block
    image = image[: rows * block, : columns * block]
    # Bicubic (a = -1/2) at the distances .25, .75, 1.25, 1.75, halved: the eight taps of MATLAB's imresize(., .5).
    taps = np.array([-0.01171875, -0.03515625, 0.11328125, 0.43359375])
    taps = np.concatenate([taps, taps[::-1]])
    padded = np.pad(image, 3, mode="symmetric")
    half = convolve2d(padded, np.outer(taps, taps), mode="valid")[::2, ::2]
    gam = np.arange(0.2, 10.001, 0.001)
    table = scipy.special.gamma(2 / gam) ** 2 / (scipy.special.gamma(1 / gam) * scipy.special.gamma(3 / gam))

    def fit(v: np.ndarray) -> tuple[float, float, float]:
        left, right = np.sqrt(np.mean(v[v < 0] ** 2)), np.sqrt(np.mean(v[v > 0] ** 2))
        g = left / right
        r = np.mean(np.abs(v)) ** 2 / np.mean(v**2) * (g**3 + 1) * (g + 1) / (g**2 + 1) ** 2
        alpha = gam[np.argmin((table - r) ** 2)]
        scale = np.sqrt(scipy.special.gamma(1 / alpha) / scipy.special.gamma(3 / alpha))
        return alpha, left * scale, right * scale

    features = []
    for i in range(rows):
        for j in range(columns):
            row: list[float] = []
            for picture, side in ((image, block), (half, block // 2)):
                part = mscn(picture)[i * side : (i + 1) * side, j * side : (j + 1) * side]
                alpha, left, right = fit(part)
                row += [alpha, (left + right) / 2]
                for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
                    alpha, left, right = fit(part * np.roll(np.roll(part, dy, axis=0), dx, axis=1))
                    eta = (right - left) * scipy.special.gamma(2 / alpha) / scipy.special.gamma(1 / alpha)
                    row += [alpha, eta, left, right]
            features.append(row)
    return np.array(features)


@pytest.fixture
def pristine() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    root = rng.standard_normal((36, 36))
    return rng.random(36), root @ root.T + np.eye(36)


def written(folder: Path, suffix: str, mean: np.ndarray, covariance: np.ndarray, name: str = "prisparam") -> Path:
    path = folder / f"model{suffix}"
    arrays = {f"mu_{name}": mean[None], f"cov_{name}": covariance}
    if suffix == ".mat":
        scipy.io.savemat(path, arrays)
    elif suffix == ".npz":
        np.savez(path, **arrays)
    else:
        with h5py.File(path, "w") as file:
            for key, value in arrays.items():
                file[key] = value
    return path


@pytest.mark.parametrize("suffix", [".mat", ".npz", ".h5"])
def test_niqe_equals_an_independent_implementation(tmp_path: Path, pristine: Any, suffix: str, textured: Any) -> None:
    path = written(tmp_path, suffix, *pristine, name="prisparam" if suffix != ".npz" else "pris_param")
    image = np.round(255 * textured((200, 310), 5)).astype(np.uint8)
    features = independent_niqe_features(image.astype(float), 96)
    assert features.shape == (6, 36)
    difference = features.mean(axis=0) - pristine[0]
    pooled = (np.cov(features.T) + pristine[1]) / 2
    expected = math.sqrt(difference @ np.linalg.inv(pooled) @ difference)
    # Shapes are multiples of .001: with them equal, what is left is the rounding of local variances.
    assert niqe(image, path) == pytest.approx(expected, rel=LOCAL)


def test_niqe_of_the_model_of_the_image_itself_is_zero(tmp_path: Path, textured: Any) -> None:
    image = textured((96, 300), 6)
    features = independent_niqe_features(np.floor(255 * image + 0.5), 96)
    path = written(tmp_path, ".npz", features.mean(axis=0), np.eye(36))
    assert niqe(image, path) == pytest.approx(0, abs=LOCAL)
    shifted = written(tmp_path, ".mat", features.mean(axis=0) + 3, 2 * np.eye(36) - np.cov(features.T))
    # (Sigma + S) / 2 is the identity: sqrt(36 * 3^2) = 18.
    assert niqe(image, shifted) == pytest.approx(18, rel=LOCAL)


def test_niqe_leaves_flat_blocks_and_planes_out(tmp_path: Path, pristine: Any, textured: Any) -> None:
    path = written(tmp_path, ".npz", *pristine)
    image = textured((32, 64), 7)
    half_flat = image.copy()
    half_flat[:16, 16:48] = 0.5
    score = niqe(np.stack([image, np.zeros_like(image), half_flat]), path, block=16)
    assert math.isnan(score.planes[1])
    assert score == pytest.approx((score.planes[0] + score.planes[2]) / 2, rel=ROUNDING)
    with pytest.raises(InputError, match="no plane of the volume has two blocks of 16 x 16 pixels that vary"):
        niqe(np.zeros((32, 64)), path, block=16)


def test_niqe_refuses_planes_without_two_blocks(tmp_path: Path, pristine: Any, textured: Any) -> None:
    path = written(tmp_path, ".npz", *pristine)
    with pytest.raises(InputError, match="planes are 120 x 150, niqe expects room for two blocks of 96 x 96"):
        niqe(textured((120, 150), 8), path)
    with pytest.raises(InputError, match="planes are 86 x 200, niqe expects sides of at least 96 pixels"):
        niqe(textured((86, 200), 8), path)
    for wrong in (7, 15, 24.0):
        with pytest.raises(InputError, match=f"block is {wrong}, expected an even number of at least 8"):
            niqe(textured((120, 200), 8), path, block=wrong)  # type: ignore[arg-type]


def test_niqe_refuses_files_that_hold_something_else(tmp_path: Path, pristine: Any, textured: Any) -> None:
    image = textured((96, 192), 9)
    mean, covariance = pristine
    with pytest.raises(InputError, match=r"parameters: no file .*absent\.mat; expected the published one"):
        niqe(image, tmp_path / "absent.mat")
    with pytest.raises(InputError, match="parameters is None, expected the path of a file"):
        niqe(image, None)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"holds arrays of shape \(1, 35\) and \(36, 36\), expected mu_prisparam"):
        niqe(image, written(tmp_path, ".npz", mean[1:], covariance))
    with pytest.raises(InputError, match="holds NaN or infinite values"):
        niqe(image, written(tmp_path, ".npz", mean * np.nan, covariance))
    with pytest.raises(InputError, match="has no mu_prisparam, expected mu_prisparam of 36"):
        niqe(image, written(tmp_path, ".mat", mean, covariance, name="image"))
    with pytest.raises(InputError, match=r"mu_prisparam in .* has dtype <U"):
        niqe(image, written(tmp_path, ".npz", mean.astype(str), covariance))
    for name in ("text.mat", "text.npz"):
        text = tmp_path / name
        text.write_text("not a matrix at all, but long enough to look like one" * 10)
        with pytest.raises(InputError, match=r"cannot be read \(.*\), expected mu_prisparam"):
            niqe(image, text)


# ------------------------------------------------------------------------------------------------------- shared parts


def test_asymmetric_fit_finds_the_shape_it_was_drawn_from() -> None:
    """Lasmar et al. 2009: left and right scales differ, one shape."""
    rng = np.random.default_rng(10)
    left = rng.random(400_000) < 2 / 5  # the weight of a side is its scale
    draws = np.abs(scipy.stats.gennorm.rvs(1.5, size=400_000, random_state=rng)) * np.where(left, -2, 3)
    # 400 000 draws: moments to about .3 %.
    assert asymmetric_gaussian(draws) == pytest.approx((1.5, 2, 3), rel=0.02)
    assert gaussian_shape(scipy.stats.gennorm.rvs(0.8, size=400_000, random_state=rng))[0] == pytest.approx(
        0.8, rel=0.02
    )


def test_resampling_equals_pillow_inside(textured: Any) -> None:
    image_module = pytest.importorskip("PIL.Image")
    image = textured((64, 50), 11)
    for size in ((32, 25), (128, 100), (21, 40)):
        theirs = image_module.fromarray(image.astype(np.float32)).resize(size[::-1], image_module.Resampling.BICUBIC)
        # Pillow cuts its kernels off at the border, and computes in float32.
        np.testing.assert_allclose(resized(image, size)[4:-4, 4:-4], np.asarray(theirs)[4:-4, 4:-4], atol=1e-6)
    assert resized(image, image.shape) is not None
    np.testing.assert_array_equal(resized(image, image.shape), image)
