"""Pixels smaller than the measured ones: interpolation, its error, and what `recover` makes of them."""

from __future__ import annotations

import numpy as np
import pytest

from tensorcell import recover
from tensorcell.datasets import simulate_cells
from tensorcell.errors import InputError
from tensorcell.finer_pixels import binned, enlarged, finer_pixels, pixel_errors, slopes
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
    assert "adds no detail" in found.notes[0]


def test_the_better_spline_is_taken() -> None:
    y, x = np.meshgrid(np.arange(40.0), np.arange(40.0), indexing="ij")
    smooth = np.sin(y / 3)[None] * np.cos(x / 3)
    found = pixel_errors(np.repeat(smooth, 2, axis=0), 2)
    assert found is not None
    assert found.order == 3
    for seed in range(3):
        blobs = np.random.default_rng(seed).random((2, 40, 40)) ** 8
        chosen = pixel_errors(blobs, 2)
        missed = {order: np.mean((enlarged(binned(blobs, 2), 2, order) - blobs) ** 2) for order in (1, 3)}
        assert chosen is not None
        assert chosen.rms**2 == pytest.approx(min(missed.values()))
        assert missed[chosen.order] == min(missed.values())


def test_few_pixels_have_the_spread_of_the_stack_as_error() -> None:
    stack = np.random.default_rng(0).random((3, 6, 6))
    found = finer_pixels(Filled(stack, np.zeros(stack.shape), ()), 2)
    np.testing.assert_allclose(found.error, stack.std())
    assert "too few pixels" in found.notes[0]


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
