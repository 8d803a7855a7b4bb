"""Pixels smaller than the measured ones: their means, their error, and what `recover` makes of them."""

from __future__ import annotations

import numpy as np
import pytest

from tensorcell import recover
from tensorcell.datasets import simulate_cells
from tensorcell.errors import InputError
from tensorcell.finer_pixels import binned, divided, enlarged, finer_pixels, followed, pixel_errors, slopes
from tensorcell.methods.protocol import Filled
from tensorcell.volume import Volume


@pytest.fixture(scope="module")
def cells() -> np.ndarray:
    return simulate_cells((10, 48, 60), cells=14, seed=2).truth


def test_pixels_hold_the_value_of_their_middle() -> None:
    """A plane that rises evenly is the same at any pixel size."""
    fine = np.add.outer(np.arange(3.0), np.add.outer(2 * np.arange(36.0), np.arange(48.0)))
    for factor in (2, 3):
        for order in (1, 3):
            inner = slice(9, -9)
            found = enlarged(binned(fine, factor), factor, order)
            tolerance = 1e-9 if order == 1 else 0.1  # the spline feels the constant ends
            np.testing.assert_allclose(found[:, inner, inner], fine[:, inner, inner], atol=tolerance)


def test_binning_drops_what_is_left_over() -> None:
    stack = np.arange(2 * 5 * 7, dtype=float).reshape(2, 5, 7)
    expected = [[[stack[z, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].mean() for x in range(3)] for y in range(2)]
                for z in range(2)]  # fmt: skip
    np.testing.assert_allclose(binned(stack, 2), expected)


def test_slopes_are_largest_differences_from_a_neighbour() -> None:
    stack = np.zeros((1, 3, 4))
    stack[0, 1, 2] = 5
    expected = np.zeros((1, 3, 4))
    expected[0, 1, 1:4] = expected[0, :, 2] = 5
    np.testing.assert_array_equal(slopes(stack), expected)


def test_the_error_of_interpolated_pixels_covers_the_truth(cells: np.ndarray) -> None:
    coarse = binned(cells, 2)
    found = finer_pixels(Filled(coarse, np.zeros(coarse.shape), ()), 2)
    off = np.abs(found.volume - cells)
    assert 0.85 < np.mean(off <= 1.645 * found.error) <= 1
    bright = cells >= np.quantile(cells, 0.9)
    assert np.mean((off <= 1.645 * found.error)[bright]) > 0.8
    assert found.error.min() > 0
    assert np.sqrt(np.mean(off**2)) < np.sqrt(np.mean((enlarged(coarse, 2, 0) - cells) ** 2))
    assert "add no detail" in found.notes[0]


@pytest.mark.parametrize("shape", [(2, 1, 1), (1, 1, 5), (1, 2, 3), (2, 9, 7)])
@pytest.mark.parametrize("factor", [2, 3])
def test_finer_pixels_have_the_means_of_the_measured_ones(shape: tuple[int, int, int], factor: int) -> None:
    stack = np.random.default_rng(0).gamma(0.3, 1, shape) - 0.2  # nearly all of it dark, few bright
    found = divided(stack, factor)
    assert found.shape == (shape[0], factor * shape[1], factor * shape[2])
    np.testing.assert_allclose(binned(found, factor), stack, atol=1e-12)
    assert found.min() >= stack.min() - 1e-12
    np.testing.assert_allclose(divided(3 * stack + 7, factor), 3 * found + 7, atol=1e-12)


def test_finer_pixels_of_a_cubic_sum_are_exact() -> None:
    """Sums that are a cubic without curvature at the last edge are met by the spline; at the first edge it feels it."""

    def means(edges: np.ndarray) -> np.ndarray:
        return np.diff(20 * edges + edges**2 * (72 - edges) / 600) / np.diff(edges)

    coarse, fine = means(np.arange(25.0)), means(np.arange(49) / 2)
    found = divided(np.broadcast_to(coarse[None, :, None], (1, 24, 4)), 2)
    np.testing.assert_allclose(found[0, 20:], np.broadcast_to(fine[20:, None], (28, 8)), rtol=1e-6)


def test_a_spot_of_one_pixel_keeps_its_light() -> None:
    """Far above the error it is followed whole; a difference within the error is noise and stays smooth."""
    stack = np.random.default_rng(0).normal(100, 1, (3, 24, 24))
    stack[1, 9, 11] = 5000
    error = np.ones(stack.shape)
    found = finer_pixels(Filled(stack, error, ()), 4)
    assert binned(found.volume, 4)[1, 9, 11] == pytest.approx(5000, rel=1e-4)
    assert binned(enlarged(stack, 4), 4)[1, 9, 11] < 4000
    smooth = binned(enlarged(stack, 4), 4)
    quiet = np.abs(stack - smooth) < 1
    np.testing.assert_array_equal(followed(stack, error, 4)[quiet], smooth[quiet])
    np.testing.assert_allclose(followed(stack, 0 * error, 4), stack, rtol=1e-12)
    assert followed(stack, error, 4).std() < stack.std()


@pytest.mark.parametrize("factor", [2, 4])
def test_finer_pixels_are_nearer_to_the_truth_than_interpolated_ones(cells: np.ndarray, factor: int) -> None:
    coarse = binned(cells, factor)
    finer = divided(coarse, factor)
    for order in (1, 3):
        assert np.mean((finer - cells) ** 2) < 0.95 * np.mean((enlarged(coarse, factor, order) - cells) ** 2)
    noisy = coarse + 0.03 * cells.max() * np.random.default_rng(0).normal(size=coarse.shape)
    error = np.full(coarse.shape, 0.03 * cells.max())
    finer = divided(followed(noisy, error, factor), factor)
    assert np.mean((finer - cells) ** 2) < np.mean((enlarged(noisy, factor, 1) - cells) ** 2)
    assert np.mean((finer - cells) ** 2) < np.mean((divided(noisy, factor) - cells) ** 2)


def test_the_error_is_that_of_the_same_at_coarser_pixels(cells: np.ndarray) -> None:
    stack = cells.astype(float)
    found = pixel_errors(stack, np.zeros(stack.shape), 2)
    assert found is not None
    again = divided(binned(stack, 2), 2)
    assert 0.85 < np.mean(np.abs(again - stack) <= 1.645 * found(again)) < 0.97


def test_few_pixels_have_the_spread_of_the_stack_as_error() -> None:
    stack = np.random.default_rng(0).random((3, 6, 6))
    found = finer_pixels(Filled(stack, np.zeros(stack.shape), ()), 2)
    np.testing.assert_allclose(found.error, stack.std())
    assert "too few tell their error" in found.notes[0]


def test_recover_gives_smaller_pixels_with_their_size_and_error(cells: np.ndarray) -> None:
    measured = binned(cells[::3], 2).astype(np.float32)
    measured[1, 3, 4] = np.nan
    before = measured.copy()
    result = recover(
        Volume(np.stack([measured, np.full_like(measured, 7.0), np.full_like(measured, np.nan)]), axes="CZYX",
               spacing=(1.5, 0.2, 0.4)),
        axial_factor=3, lateral_factor=2,
    )  # fmt: skip
    np.testing.assert_array_equal(measured, before)
    assert result.volume.shape == (3, 10, 48, 60)
    assert result.volume.spacing == (0.5, 0.1, 0.2)
    assert not result.measured.any()
    assert float(np.corrcoef(result.volume.data[0].ravel(), cells.ravel())[0, 1]) > 0.9
    assert np.all(result.volume.data[1] == 7)
    assert np.all(result.uncertainty[1] == 7)
    assert np.isnan(result.volume.data[2]).all()
    assert result.uncertainty[0].min() > 0
    assert np.nanmin(result.invented[0]) > 0
    assert result.outliers.shape == (3, 4, 24, 30)


def test_samples_have_the_size_of_the_result() -> None:
    stack = np.random.default_rng(0).random((3, 8, 8))
    found = finer_pixels(Filled(stack, np.zeros(stack.shape), (), np.stack([stack, stack + 1])), 2)
    assert found.samples is not None
    np.testing.assert_allclose(found.samples[1], found.volume + 1)


def test_lateral_factors_that_cannot_be_are_refused(cells: np.ndarray) -> None:
    for value in (0, 1.5, "two", True):
        with pytest.raises(InputError, match="whole number of at least 1 as lateral factor"):
            recover(cells, lateral_factor=value)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="lateral factor 1 with keep_measured=True"):
        recover(cells, lateral_factor=2, keep_measured=True)
    with pytest.raises(InputError, match="axial factor 1 and lateral factor 1000000 makes 10 planes of 48000000 x"):
        recover(cells, lateral_factor=10**6)
