"""NRQM on small forests written here: each part of its features against its definition."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import scipy.special
from scipy.signal import convolve2d

from tensorcell.errors import InputError
from tensorcell.metrics import nrqm, nrqm_features
from tensorcell.metrics.image_pyramid import steerable_pyramid
from tensorcell.metrics.natural_statistics import gaussian_shape
from tensorcell.metrics.resampling import resized

# Sums in another order differ by rounding only.
ROUNDING = 1e-12


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


def test_nrqm_of_forests_of_leaves_is_their_linear_combination(tmp_path: Path, textured: Any) -> None:
    path = model_file(tmp_path, [leaf_forest([1, 3]), leaf_forest([4]), leaf_forest([5, 6, 7])])
    # .5 + 1 * 2 + 10 * 4 + 100 * 6
    assert nrqm(textured((90, 84), 12), path) == pytest.approx(642.5, rel=ROUNDING)


def test_nrqm_of_stumps_reads_each_feature_at_its_threshold(tmp_path: Path, textured: Any) -> None:
    image = textured((85, 92), 13)
    features = nrqm_features.image_features(np.floor(255 * image + 0.5))
    assert [len(part) for part in features] == [18, 45, 75]
    for k, feature in ((0, 7), (1, 44), (2, 30)):
        at = float(features[k][feature])
        for threshold, expected in ((at, 2.0), (np.nextafter(at, -np.inf), 3.0)):
            forests = [leaf_forest([0]) for _ in range(3)]
            forests[k] = stump_forest(feature, threshold, 2, 3)
            score = nrqm(image, model_file(tmp_path, forests, linear=(0, 1, 1, 1)))
            assert score == pytest.approx(expected, rel=ROUNDING)


def test_a_bias_correction_in_the_forest_is_applied(tmp_path: Path, textured: Any) -> None:
    forests = [leaf_forest([0]), leaf_forest([4]), leaf_forest([0])]
    forests[1]["coef"] = np.array([[1.0, 2.0]])
    assert nrqm(textured((84, 84), 14), model_file(tmp_path, forests, (0, 1, 1, 1))) == pytest.approx(9, rel=ROUNDING)


def test_dct_features_by_brute_force(textured: Any) -> None:
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
    np.testing.assert_allclose(nrqm_features.dct_features(image), expected, rtol=1e-9)


def test_patch_singular_values_by_brute_force(textured: Any) -> None:
    image = textured((23, 31), 16)
    padded = np.zeros((25, 35))
    padded[:23, :31] = image
    patches = np.array([padded[i : i + 5, j : j + 5].ravel() for i in range(0, 25, 5) for j in range(0, 35, 5)])
    expected = np.sqrt(np.maximum(0, np.linalg.eigvalsh(patches.T @ patches)))[::-1]
    # Squaring loses half of the digits of the smallest.
    np.testing.assert_allclose(nrqm_features.patch_singular_values(image), expected, atol=1e-7 * expected[0])


def test_steerable_pyramid_keeps_the_energy() -> None:
    """The filters are a tight frame. Odd sides, where every frequency has its mirror image; level n is cut out of the
    spectrum, so its energy counts times its pixels; what the low-pass keeps is the rest."""
    image = np.random.default_rng(17).standard_normal((65, 81))
    high, levels = steerable_pyramid(image)
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
        _, levels = steerable_pyramid(wave)
        energies = [np.sum(band[24:-24, 24:-24] ** 2) for band in levels[0]]
        assert np.argmax(energies) == k
        # cos^10 of 30 degrees is .24
        assert energies[(k + 1) % 6] == pytest.approx(0.24 * energies[k], rel=0.2)


def test_normalized_band_by_brute_force(textured: Any) -> None:
    _, levels = steerable_pyramid(255 * textured((64, 70), 18))
    for level, k in ((0, 1), (0, 5), (1, 3)):
        band = levels[level][k]
        rows, columns = band.shape
        parent = resized(levels[1][k], (64, 70)) if level == 0 and k < 5 else None
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
        got = nrqm_features.normalized_band(levels, level, k)
        np.testing.assert_allclose(got, expected - expected.mean(), atol=1e-6 * np.abs(expected).max())


def test_pyramid_features_are_put_together_in_their_order(textured: Any) -> None:
    image = np.round(255 * textured((90, 84), 30))
    high, levels = steerable_pyramid(image)
    normal = [[nrqm_features.normalized_band(levels, level, k) for k in range(6)] for level in range(2)]
    x = np.arange(11) - 5
    window = np.exp(-(x[:, None] ** 2 + x[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()

    def shape(values: np.ndarray) -> float:
        return float(gaussian_shape(values)[0])

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
    expected += [structure(resized(levels[1][k], high.shape), high) for k in range(6)]
    expected += [structure(normal[0][i], normal[0][j]) for i in range(6) for j in range(i + 1, 6)]
    np.testing.assert_allclose(nrqm_features.pyramid_features(image), expected, rtol=1e-9, atol=1e-12)


def test_structure_term_of_equal_and_opposite_bands() -> None:
    band = 300 * np.random.default_rng(19).standard_normal((20, 20))
    assert nrqm_features.structure(band, band) == pytest.approx(1, rel=ROUNDING)
    assert nrqm_features.structure(band, -band) == pytest.approx(-1, rel=0.01)  # the constant 58.5 against 2 * 300^2


def test_nrqm_refuses_what_it_cannot_use(tmp_path: Path, textured: Any) -> None:
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
