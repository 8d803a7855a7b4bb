"""Perceptual scores on small parameter files written here, against closed forms and independent implementations."""

from __future__ import annotations

import json
import math
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.fft
import scipy.io
import scipy.ndimage
import scipy.special
import scipy.stats
from scipy.signal import convolve2d

from tensorcell import Volume, metrics, perceptual
from tensorcell.errors import InputError
from tensorcell.metrics import lpips, niqe, nrqm, piqe

# Sums in another order differ by rounding only.
ROUNDING = 1e-12
# Local variances are differences of squares up to 255^2; a square root follows.
LOCAL = 1e-7


def textured(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Smooth structure and noise on [0, 1]."""
    rng = np.random.default_rng(seed)
    waves = sum(np.sin(scipy.fft.idct(rng.standard_normal(n) * (np.arange(n) < 6), axis=0)) * 1.0 for n in shape[-1:])
    image = np.cumsum(rng.standard_normal(shape), axis=-1) * 0.02 + 0.2 * waves + 0.05 * rng.standard_normal(shape)
    return np.clip(0.5 + image, 0, 1)


def test_import_leaves_torch_alone() -> None:
    code = (
        "import sys, tensorcell; from tensorcell import metrics; metrics.piqe, metrics.lpips; "
        "print('lpips' in dir(metrics), {'torch', 'matplotlib'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "True set()"


def test_all_public_names_exist() -> None:
    for name in metrics.__all__:
        assert getattr(metrics, name).__doc__
    assert metrics.niqe is perceptual.niqe
    with pytest.raises(AttributeError, match="no attribute 'fid'"):
        _ = metrics.fid


# ------------------------------------------------------------------------------------------------ common rules


def test_white_is_known_or_must_be_given() -> None:
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


def test_stacks_are_scored_plane_by_plane() -> None:
    stack = np.stack([textured((40, 48), k) for k in range(3)])
    score = piqe(stack)
    assert score.planes == tuple(float(piqe(plane)) for plane in stack)
    assert score == pytest.approx(np.mean(score.planes), rel=ROUNDING)
    turned = np.moveaxis(stack, 0, 2)
    assert piqe(turned, axis=2).planes == piqe(Volume(turned, axes="YXZ")).planes == score.planes
    assert json.dumps(score) == repr(float(score))


def test_data_that_are_no_planes_are_refused() -> None:
    image = textured((40, 48), 1)
    with pytest.raises(InputError, match="data has 4 axes, expected a plane"):
        piqe(image[None, None])
    with pytest.raises(InputError, match="axis is 4, expected 0 to 2"):
        piqe(image[None], axis=4)
    with pytest.raises(InputError, match="volume has 1 NaN or infinite values among its voxels"):
        piqe(np.where(image == image.max(), np.nan, image))
    with pytest.raises(InputError, match=r"volume has no voxel to score, its shape is \(0, 8, 8\)"):
        piqe(np.zeros((0, 8, 8)))


# -------------------------------------------------------------------------------------------------------- PIQE


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
def test_piqe_equals_an_independent_implementation(shape: tuple[int, int], noise: float) -> None:
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


# -------------------------------------------------------------------------------------------------------- NIQE


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
def test_niqe_equals_an_independent_implementation(tmp_path: Path, pristine: Any, suffix: str) -> None:
    path = written(tmp_path, suffix, *pristine, name="prisparam" if suffix != ".npz" else "pris_param")
    image = np.round(255 * textured((200, 310), 5)).astype(np.uint8)
    features = independent_niqe_features(image.astype(float), 96)
    assert features.shape == (6, 36)
    difference = features.mean(axis=0) - pristine[0]
    pooled = (np.cov(features.T) + pristine[1]) / 2
    expected = math.sqrt(difference @ np.linalg.inv(pooled) @ difference)
    # Shapes are multiples of .001: with them equal, what is left is the rounding of local variances.
    assert niqe(image, path) == pytest.approx(expected, rel=LOCAL)


def test_niqe_of_the_model_of_the_image_itself_is_zero(tmp_path: Path) -> None:
    image = textured((96, 300), 6)
    features = independent_niqe_features(np.floor(255 * image + 0.5), 96)
    path = written(tmp_path, ".npz", features.mean(axis=0), np.eye(36))
    assert niqe(image, path) == pytest.approx(0, abs=LOCAL)
    shifted = written(tmp_path, ".mat", features.mean(axis=0) + 3, 2 * np.eye(36) - np.cov(features.T))
    # (Sigma + S) / 2 is the identity: sqrt(36 * 3^2) = 18.
    assert niqe(image, shifted) == pytest.approx(18, rel=LOCAL)


def test_niqe_leaves_flat_blocks_and_planes_out(tmp_path: Path, pristine: Any) -> None:
    path = written(tmp_path, ".npz", *pristine)
    image = textured((32, 64), 7)
    half_flat = image.copy()
    half_flat[:16, 16:48] = 0.5
    score = niqe(np.stack([image, np.zeros_like(image), half_flat]), path, block=16)
    assert math.isnan(score.planes[1])
    assert score == pytest.approx((score.planes[0] + score.planes[2]) / 2, rel=ROUNDING)
    with pytest.raises(InputError, match="no plane of the volume has two blocks of 16 x 16 pixels that vary"):
        niqe(np.zeros((32, 64)), path, block=16)


def test_niqe_refuses_planes_without_two_blocks(tmp_path: Path, pristine: Any) -> None:
    path = written(tmp_path, ".npz", *pristine)
    with pytest.raises(InputError, match="planes are 120 x 150, niqe expects room for two blocks of 96 x 96"):
        niqe(textured((120, 150), 8), path)
    with pytest.raises(InputError, match="planes are 86 x 200, niqe expects sides of at least 96 pixels"):
        niqe(textured((86, 200), 8), path)
    for wrong in (7, 15, 24.0):
        with pytest.raises(InputError, match=f"block is {wrong}, expected an even number of at least 8"):
            niqe(textured((120, 200), 8), path, block=wrong)  # type: ignore[arg-type]


def test_niqe_refuses_files_that_hold_something_else(tmp_path: Path, pristine: Any) -> None:
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


def test_asymmetric_fit_finds_the_shape_it_was_drawn_from() -> None:
    """Lasmar et al. 2009: left and right scales differ, one shape."""
    rng = np.random.default_rng(10)
    left = rng.random(400_000) < 2 / 5  # the weight of a side is its scale
    draws = np.abs(scipy.stats.gennorm.rvs(1.5, size=400_000, random_state=rng)) * np.where(left, -2, 3)
    # 400 000 draws: moments to about .3 %.
    assert perceptual._asymmetric_gaussian(draws) == pytest.approx((1.5, 2, 3), rel=0.02)
    assert perceptual._gaussian_shape(scipy.stats.gennorm.rvs(0.8, size=400_000, random_state=rng))[0] == pytest.approx(
        0.8, rel=0.02
    )


def test_resampling_equals_pillow_inside() -> None:
    image_module = pytest.importorskip("PIL.Image")
    image = textured((64, 50), 11)
    for size in ((32, 25), (128, 100), (21, 40)):
        theirs = image_module.fromarray(image.astype(np.float32)).resize(size[::-1], image_module.Resampling.BICUBIC)
        # Pillow cuts its kernels off at the border, and computes in float32.
        np.testing.assert_allclose(
            perceptual._resized(image, size)[4:-4, 4:-4], np.asarray(theirs)[4:-4, 4:-4], atol=1e-6
        )
    assert perceptual._resized(image, image.shape) is not None
    np.testing.assert_array_equal(perceptual._resized(image, image.shape), image)


# -------------------------------------------------------------------------------------------------------- NRQM


def leaf_forest(values: list[float]) -> dict[str, np.ndarray]:
    """Trees that are one leaf each."""
    zeros = np.zeros((3, len(values)), np.int32)
    status = zeros.copy()
    status[0] = -1
    leaves = zeros.astype(float)
    leaves[0] = values
    return {"lDau": zeros, "rDau": zeros, "nodestatus": status, "upper": 0.0 * leaves, "avnode": leaves, "mbest": zeros}


def stump_forest(feature: int, threshold: float, low: float, high: float) -> dict[str, np.ndarray]:
    """One tree: ``low`` where the feature (from 0) is at most the threshold, else ``high``."""
    column = np.array
    return {
        "lDau": column([[2], [0], [0]], np.int32),
        "rDau": column([[3], [0], [0]], np.int32),
        "nodestatus": column([[-3], [-1], [-1]], np.int32),
        "upper": column([[threshold], [0.0], [0.0]]),
        "avnode": column([[0.0], [low], [high]]),
        "mbest": column([[feature + 1], [0], [0]], np.int32),
    }


def model_file(folder: Path, forests: list[dict[str, np.ndarray]], linear: Any = (0.5, 1, 10, 100)) -> Path:
    cells = np.empty((1, len(forests)), object)
    cells[0] = forests
    path = folder / "model.mat"
    scipy.io.savemat(path, {"model": {"rf": cells, "linear": np.array(linear, float)[:, None]}})
    return path


def test_nrqm_of_forests_of_leaves_is_their_linear_combination(tmp_path: Path) -> None:
    path = model_file(tmp_path, [leaf_forest([1, 3]), leaf_forest([4]), leaf_forest([5, 6, 7])])
    # .5 + 1 * 2 + 10 * 4 + 100 * 6
    assert nrqm(textured((90, 84), 12), path) == pytest.approx(642.5, rel=ROUNDING)


def test_nrqm_of_stumps_reads_each_feature_at_its_threshold(tmp_path: Path) -> None:
    image = textured((85, 92), 13)
    features = perceptual._nrqm_features(np.floor(255 * image + 0.5))
    assert [len(part) for part in features] == [18, 45, 75]
    for k, feature in ((0, 7), (1, 44), (2, 30)):
        at = float(features[k][feature])
        for threshold, expected in ((at, 2.0), (np.nextafter(at, -np.inf), 3.0)):
            forests = [leaf_forest([0]) for _ in range(3)]
            forests[k] = stump_forest(feature, threshold, 2, 3)
            score = nrqm(image, model_file(tmp_path, forests, linear=(0, 1, 1, 1)))
            assert score == pytest.approx(expected, rel=ROUNDING)


def test_a_bias_correction_in_the_forest_is_applied(tmp_path: Path) -> None:
    forests = [leaf_forest([0]), leaf_forest([4]), leaf_forest([0])]
    forests[1]["coef"] = np.array([[1.0, 2.0]])
    assert nrqm(textured((84, 84), 14), model_file(tmp_path, forests, (0, 1, 1, 1))) == pytest.approx(9, rel=ROUNDING)


def test_dct_features_by_brute_force() -> None:
    image = textured((20, 25), 15)
    padded = np.zeros((20 + 8, 25 + 8))
    padded[2:22, 2:27] = image
    shapes, variations, spreads = [], [], []
    n = np.arange(7)
    basis = (
        np.cos(np.pi * (2 * n[None] + 1) * n[:, None] / 14) * np.where(n == 0, np.sqrt(1 / 7), np.sqrt(2 / 7))[:, None]
    )
    table = np.arange(0.03, 10.0005, 0.001)
    ratios = scipy.special.gamma(1 / table) * scipy.special.gamma(3 / table) / scipy.special.gamma(2 / table) ** 2
    for i in range(0, 20, 3):
        for j in range(0, 25, 3):
            c = basis @ padded[i : i + 7, j : j + 7] @ basis.T
            waves = c.ravel()[1:]
            rho = waves.var(ddof=1) / (np.abs(waves - waves.mean()).mean() ** 2 + 1e-7)
            shapes.append(table[np.argmin(np.abs(ratios - rho))])
            variations.append(np.abs(waves).std(ddof=1) / (np.abs(waves).mean() + 1e-7))
            parts = (
                np.concatenate([c[0, 1:], c[1, 2:], c[2, 4:], c[3, 5:]]),
                np.concatenate([c[1, 1:2], c[2, 2:4], c[3, 2:5], c[4, 3:], c[5, 4:], c[6, 4:]]),
                np.concatenate([c[1:, 0], c[2:, 1], c[4:, 2], c[5:, 3]]),
            )
            spreads.append(np.var([np.abs(p).std(ddof=1) / (np.abs(p).mean() + 1e-8) for p in parts], ddof=1))
    count = len(shapes)
    assert count == 7 * 9
    low, high = 7, 55  # ceil(6.3) smallest; from the 56th on, fix(56.7)
    expected = [
        np.mean(np.sort(shapes)[:low]),
        np.mean(shapes),
        np.mean(np.sort(variations)[high:]),
        np.mean(variations),
        np.mean(np.sort(spreads)[high:]),
        np.mean(spreads),
    ]
    np.testing.assert_allclose(perceptual._dct_features(image), expected, rtol=1e-9)


def test_patch_singular_values_by_brute_force() -> None:
    image = textured((23, 31), 16)
    padded = np.zeros((25, 35))
    padded[:23, :31] = image
    patches = np.array([padded[i : i + 5, j : j + 5].ravel() for i in range(0, 25, 5) for j in range(0, 35, 5)])
    expected = np.sqrt(np.maximum(0, np.linalg.eigvalsh(patches.T @ patches)))[::-1]
    # Squaring loses half of the digits of the smallest.
    np.testing.assert_allclose(perceptual._patch_singular_values(image), expected, atol=1e-7 * expected[0])


def test_steerable_pyramid_keeps_the_energy() -> None:
    """The filters are a tight frame. Odd sides, where every frequency has its mirror image; level n is cut out of the
    spectrum, so its energy counts times its pixels; what the low-pass keeps is the rest."""
    image = np.random.default_rng(17).standard_normal((65, 81))
    high, levels = perceptual._steerable_pyramid(image)
    assert [level[0].shape for level in levels] == [(65, 81), (33, 41)]
    spectrum = np.fft.fft2(image)
    y, x = np.meshgrid(np.fft.fftfreq(65, 0.5 / 1), np.fft.fftfreq(81, 0.5 / 1), indexing="ij")
    radius = np.hypot(y, x)
    radius[0, 0] = 2 / 81
    octave = np.log2(radius)
    low = np.prod([np.abs(np.sin(np.pi / 2 * np.clip(octave + k, -1, 0))) for k in range(3)], axis=0)
    energy = image.size * np.sum(high**2) + sum(band.size * np.sum(band**2) for level in levels for band in level)
    energy += np.sum(np.abs(low * spectrum) ** 2)
    assert energy == pytest.approx(np.sum(np.abs(spectrum) ** 2), rel=1e-10)


def test_steerable_bands_answer_to_their_orientation() -> None:
    y, x = np.indices((96, 96))
    for k in range(6):
        angle = np.pi * k / 6
        wave = np.cos(2 * np.pi * 0.25 * (x * np.cos(angle) + y * np.sin(angle)))
        _, levels = perceptual._steerable_pyramid(wave)
        energies = [np.sum(band[24:-24, 24:-24] ** 2) for band in levels[0]]
        assert np.argmax(energies) == k
        # cos^10 of 30 degrees is .24
        assert energies[(k + 1) % 6] == pytest.approx(0.24 * energies[k], rel=0.2)


def test_normalized_band_by_brute_force() -> None:
    _, levels = perceptual._steerable_pyramid(255 * textured((64, 70), 18))
    for level, k in ((0, 1), (0, 5), (1, 3)):
        band = levels[level][k]
        rows, columns = band.shape
        parent = perceptual._resized(levels[1][k], (64, 70)) if level == 0 and k < 5 else None
        vectors = []
        for i in range(1, rows - 1):
            for j in range(1, columns - 1):
                vector = list(band[i - 1 : i + 2, j - 1 : j + 2].ravel())
                vector += [] if parent is None else [parent[i, j]]
                vectors.append(vector + [levels[level][m][i, j] for m in range(6) if m != k])
        y = np.array(vectors)
        inverse = np.linalg.inv(y.T @ y / len(y))
        z = np.sqrt([v @ inverse @ v / (9 if parent is None else 10) for v in y])
        centre = band[1:-1, 1:-1]
        expected = (centre - centre.mean()) / z.reshape(centre.shape)
        guard = 16 // 2**level
        expected = expected[guard:-guard, guard:-guard]
        got = perceptual._normalized_band(levels, level, k)
        np.testing.assert_allclose(got, expected - expected.mean(), atol=1e-6 * np.abs(expected).max())


def test_pyramid_features_are_put_together_in_their_order() -> None:
    image = np.round(255 * textured((90, 84), 30))
    high, levels = perceptual._steerable_pyramid(image)
    normal = [[perceptual._normalized_band(levels, level, k) for k in range(6)] for level in range(2)]
    x = np.arange(11) - 5
    window = np.exp(-(x[:, None] ** 2 + x[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()

    def shape(values: np.ndarray) -> float:
        return float(perceptual._gaussian_shape(values)[0])

    def structure(a: np.ndarray, b: np.ndarray) -> float:
        def local(values: np.ndarray) -> np.ndarray:
            return convolve2d(values, window, mode="valid")

        c = (0.03 * 255) ** 2
        covariance = local(a * b) - local(a) * local(b)
        spread = local(a * a) - local(a) ** 2 + local(b * b) - local(b) ** 2
        return float(np.mean((2 * covariance + c) / (spread + c)))

    expected = [shape(normal[level][k].ravel()) for level in range(2) for k in range(6)]
    expected += [shape(np.concatenate([normal[0][k].ravel(), normal[1][k].ravel()])) for k in range(6)]
    expected += [structure(levels[0][k], high) for k in range(6)]
    expected += [structure(perceptual._resized(levels[1][k], high.shape), high) for k in range(6)]
    expected += [structure(normal[0][i], normal[0][j]) for i in range(6) for j in range(i + 1, 6)]
    np.testing.assert_allclose(perceptual._pyramid_features(image), expected, rtol=1e-9, atol=1e-12)


def test_structure_term_of_equal_and_opposite_bands() -> None:
    band = 300 * np.random.default_rng(19).standard_normal((20, 20))
    assert perceptual._structure(band, band) == pytest.approx(1, rel=ROUNDING)
    assert perceptual._structure(band, -band) == pytest.approx(-1, rel=0.01)  # the constant 58.5 against 2 * 300^2


def test_nrqm_refuses_what_it_cannot_use(tmp_path: Path) -> None:
    image = textured((84, 84), 20)
    good = [leaf_forest([0]) for _ in range(3)]
    with pytest.raises(InputError, match=r"model: no file .*none\.mat; expected the published one"):
        nrqm(image, tmp_path / "none.mat")
    with pytest.raises(InputError, match="planes are 80 x 84, nrqm expects sides of at least 84 pixels"):
        nrqm(image[:80], model_file(tmp_path, good))
    with pytest.raises(InputError, match=r"holds 4 linear numbers and 2 forests, expected a \.mat file"):
        nrqm(image, model_file(tmp_path, good[:2]))
    with pytest.raises(InputError, match="holds 3 linear numbers and 3 forests"):
        nrqm(image, model_file(tmp_path, good, linear=(1, 2, 3)))
    lacking = {key: value for key, value in leaf_forest([0]).items() if key != "upper"}
    with pytest.raises(InputError, match=r"forest 2 of .* lacks a part .*upper"):
        nrqm(image, model_file(tmp_path, [good[0], lacking, good[2]]))
    short = leaf_forest([0]) | {"upper": np.zeros((2, 1))}
    with pytest.raises(InputError, match=r"forest 3 of .* has parts of different shapes"):
        nrqm(image, model_file(tmp_path, [*good[:2], short]))
    with pytest.raises(InputError, match=r"forest 1 of .* asks for feature 19 of 18"):
        nrqm(image, model_file(tmp_path, [stump_forest(18, 0, 0, 0), *good[1:]]))
    astray = stump_forest(0, 0, 0, 0)
    astray["rDau"][0] = 4
    with pytest.raises(InputError, match=r"forest 1 of .* has children outside its 3 nodes"):
        nrqm(image, model_file(tmp_path, [astray, *good[1:]]))
    other = tmp_path / "other.mat"
    scipy.io.savemat(other, {"net": np.eye(3)})
    with pytest.raises(InputError, match=r"other\.mat is no model of nrqm \(KeyError: 'model'\), expected a \.mat"):
        nrqm(image, other)
    other.write_text("text")
    with pytest.raises(InputError, match="is no model of nrqm"):
        nrqm(image, other)


# ------------------------------------------------------------------------------------------------------- LPIPS

ALEX = ((0, 3, 64, 11), (3, 64, 192, 5), (6, 192, 384, 3), (8, 384, 256, 3), (10, 256, 256, 3))
VGG_NUMBERS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
VGG_WIDTHS = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
VGG = tuple((n, VGG_WIDTHS[k], VGG_WIDTHS[k + 1], 3) for k, n in enumerate(VGG_NUMBERS))
SCORED = {"alex": (64, 192, 384, 256, 256), "vgg": (64, 128, 256, 512, 512)}


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch")


def passing(torch: Any, layers: Any, scored: tuple[int, ...]) -> dict[str, Any]:
    """A network whose first two channels are the red input and the constant 1 in every layer, all others 0."""
    tensors = {}
    for k, (number, inside, outside, side) in enumerate(layers):
        weight = torch.zeros(outside, inside, side, side)
        weight[0, 0, side // 2, side // 2] = 1
        if k:
            weight[1, 1, side // 2, side // 2] = 1
        bias = torch.zeros(outside)
        bias[1] = 0 if k else 1
        tensors[f"features.{number}.weight"], tensors[f"features.{number}.bias"] = weight, bias
    for k, channels in enumerate(scored):
        tensors[f"lin{k}.model.1.weight"] = torch.zeros(1, channels, 1, 1)
        tensors[f"lin{k}.model.1.weight"][0, :2, 0, 0] = torch.tensor([2.0 + k, 3.0])
    return tensors


@pytest.fixture(scope="module")
def alex(torch: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import safetensors.torch

    path = tmp_path_factory.mktemp("lpips") / "alex.safetensors"
    safetensors.torch.save_file(passing(torch, ALEX, SCORED["alex"]), path)
    return path


def closed_form(a: float, b: float) -> float:
    """Five layers with the features (x, 1) / sqrt(x^2 + 1), weights 2 + k and 3; x is the scaled red, if positive."""
    total = 0.0
    red = [max(0.0, (2 * v - 1 + 0.030) / 0.458) for v in (a, b)]
    units = [np.array([x, 1]) / math.hypot(x, 1) for x in red]
    for k in range(5):
        total += float(np.array([2 + k, 3]) @ (units[0] - units[1]) ** 2)
    return total


@pytest.mark.parametrize(("a", "b"), [(0.9, 0.6), (1.0, 0.2), (0.5, 0.5)])
def test_lpips_of_flat_planes_in_closed_form(alex: Path, a: float, b: float) -> None:
    first, second = np.full((40, 36), a), np.full((40, 36), b)
    # Central taps see no border; the network runs in float32.
    assert lpips(first, second, alex) == pytest.approx(closed_form(a, b), rel=1e-5, abs=1e-9)
    stack = np.stack([first, second, first])
    score = lpips(stack, np.stack([first] * 3), alex)
    assert score.planes == pytest.approx([0, closed_form(a, b), 0], rel=1e-5, abs=1e-9)


def test_lpips_with_vgg_in_closed_form(torch: Any, tmp_path: Path) -> None:
    import safetensors.torch

    path = tmp_path / "vgg.safetensors"
    safetensors.torch.save_file(passing(torch, VGG, SCORED["vgg"]), path)
    score = lpips(np.full((32, 32), 230, np.uint8), np.full((32, 32), 120, np.uint8), path)
    assert score == pytest.approx(closed_form(230 / 255, 120 / 255), rel=1e-5)


def convolved(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, stride: int, padding: int) -> np.ndarray:
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    side = weight.shape[-1]
    windows = np.lib.stride_tricks.sliding_window_view(x, (side, side), axis=(1, 2))[:, ::stride, ::stride]
    return np.maximum(0, np.einsum("cyxij,ocij->oyx", windows, weight, optimize=True) + bias[:, None, None])


def pooled(x: np.ndarray) -> np.ndarray:
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))
    return windows[:, ::2, ::2].max(axis=(3, 4))


def test_lpips_with_random_alexnet_equals_an_independent_implementation(torch: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(21)
    arrays = {}
    for number, inside, outside, side in ALEX:
        arrays[f"features.{number}.weight"] = rng.standard_normal((outside, inside, side, side)) / side / inside**0.5
        arrays[f"features.{number}.bias"] = 0.1 * rng.standard_normal(outside)
    lins = [rng.random(channels) for channels in SCORED["alex"]]
    arrays = {key: value.astype(np.float32) for key, value in arrays.items()}
    backbone, linear = tmp_path / "alexnet.pth", tmp_path / "alex.pth"
    tensors = {key: torch.from_numpy(value) for key, value in arrays.items()}
    torch.save(tensors | {"classifier.1.weight": torch.zeros(2, 2)}, backbone)
    torch.save({f"lin{k}.model.1.weight": torch.from_numpy(v)[None, :, None, None] for k, v in enumerate(lins)}, linear)

    planes = [textured((67, 71), 22), textured((67, 71), 23)]
    features = []
    for plane in planes:
        shift, scale = np.array([-0.030, -0.088, -0.188]), np.array([0.458, 0.448, 0.450])
        x = (2 * plane[None] - 1 - shift[:, None, None]) / scale[:, None, None]
        taps = []
        for number, stride, padding, pool in ((0, 4, 2, 0), (3, 1, 2, 1), (6, 1, 1, 1), (8, 1, 1, 0), (10, 1, 1, 0)):
            x = pooled(x) if pool else x
            x = convolved(x, arrays[f"features.{number}.weight"], arrays[f"features.{number}.bias"], stride, padding)
            taps.append(x / np.linalg.norm(x, axis=0))
        features.append(taps)
    expected = sum(
        float((w[:, None, None] * (a - b) ** 2).sum(axis=0).mean()) for w, a, b in zip(lins, *features, strict=True)
    )
    # The network runs in float32, through five layers.
    assert lpips(*planes, [backbone, linear]) == pytest.approx(expected, rel=1e-4)
    assert lpips(*planes[::-1], (linear, backbone)) == pytest.approx(expected, rel=1e-4)


def test_lpips_understands_the_names_of_its_authors(torch: Any, alex: Path, tmp_path: Path) -> None:
    tensors = passing(torch, ALEX, SCORED["alex"])
    slices = {"0": 1, "3": 2, "6": 3, "8": 4, "10": 5}
    renamed = {"scaling_layer.shift": torch.zeros(3), "lins.0.model.1.weight": tensors["lin0.model.1.weight"]}
    for key, value in tensors.items():
        parts = key.split(".")
        named = key.startswith("features")
        renamed[f"net.slice{slices[parts[1]]}.{parts[1]}.{parts[2]}" if named else key] = value
    path = tmp_path / "theirs.pth"
    torch.save({"state_dict": renamed}, path)
    a, b = textured((48, 40), 24), textured((48, 40), 25)
    assert lpips(a, b, path) == lpips(a, b, alex)
    assert lpips(a, a, path) == 0


def test_lpips_scale_clips_and_volumes(alex: Path) -> None:
    a, b = textured((2, 48, 40), 26), textured((2, 48, 40), 27)
    expected = lpips(a, b, alex)
    assert lpips(1000 * a, 1000 * b, alex, data_range=1000) == pytest.approx(float(expected), rel=1e-6)
    beyond = np.where(b >= 1, 1.5, np.where(b <= 0, -0.5, b))
    assert lpips(a, beyond, alex) == expected
    turned = Volume(np.moveaxis(a, 0, 2), axes="YXZ")
    assert lpips(turned, np.moveaxis(b, 0, 2), alex).planes == expected.planes
    with pytest.raises(InputError, match="planes are 31 x 40, lpips expects sides of at least 32 pixels"):
        lpips(a[:, :31], b[:, :31], alex)
    with pytest.raises(InputError, match=r"estimate has shape \(1, 48, 40\)"):
        lpips(a, b[:1], alex)
    with pytest.raises(InputError, match=r"reference is float64 from .* expected data_range="):
        lpips(1000 * a, 1000 * b, alex)


class Payload:
    """Runs code when it is unpickled the unsafe way."""

    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit('executed')",))


def test_lpips_refuses_files_that_hold_something_else(torch: Any, tmp_path: Path) -> None:
    a = textured((32, 32), 28)
    tensors = passing(torch, ALEX, SCORED["alex"])
    path = tmp_path / "weights.pth"

    def refused(content: Any, match: str) -> None:
        torch.save(content, path)
        with pytest.raises(InputError, match=match):
            lpips(a, a, path)

    refused({k: v for k, v in tensors.items() if k.startswith("lin")}, "has no tensor features.0.weight, expected")
    refused({k: v for k, v in tensors.items() if "lin3" not in k}, "has no tensor lin3, expected the tensors")
    refused({k: v for k, v in tensors.items() if k != "features.8.bias"}, "has no tensor features.8.bias")
    refused(tensors | {"features.6.weight": torch.zeros(2, 2)}, r"features.6.weight in .* \(2, 2\), expected \(384")
    refused(tensors | {"features.13.weight": torch.zeros(1)}, "holds features.13.weight, which neither network has")
    refused([1, 2], "holds no state dict of tensors")
    refused({"epoch": 3}, "holds no state dict of tensors")
    path.write_bytes(pickle.dumps(Payload()))
    with pytest.raises(InputError, match=r"cannot be read as a state dict \(.*\), expected the tensors"):
        lpips(a, a, path)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"not a header")
    with pytest.raises(InputError, match=r"broken\.safetensors cannot be read as a state dict"):
        lpips(a, a, broken)
    with pytest.raises(InputError, match=r"weights: no file .*absent\.pth; expected the published one"):
        lpips(a, a, tmp_path / "absent.pth")
    with pytest.raises(InputError, match="weights: no file"):
        lpips(a, a, tmp_path)
    with pytest.raises(InputError, match="weights names no file"):
        lpips(a, a, [])


def test_lpips_without_torch_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match=r"lpips needs torch, which is not installed: install tensorcell\[diffusion\]"):
        lpips(np.zeros((32, 32)), np.zeros((32, 32)), tmp_path / "alex.pth")
