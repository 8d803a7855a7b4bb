"""The smooth fill against its definition, biharmonic inpainting, ramps and invariances."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from tensorcell.solvers import smooth_fill as module
from tensorcell.solvers.smooth_fill import bending, in_line, smooth_fill

SHAPE = (5, 6, 7)


def drawn(shape: tuple[int, ...] = SHAPE, share: float = 0.5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Random values, and which of them are measured; both read-only."""
    rng = np.random.default_rng(seed)
    values, known = rng.standard_normal(shape), rng.random(shape) < share
    values.flags.writeable = known.flags.writeable = False
    return values, known


def energy_matrix(shape: tuple[int, ...], axial: float) -> np.ndarray:
    """``E`` as a quadratic form, from the differences of each unit vector."""
    units = np.eye(int(np.prod(shape))).reshape(-1, *shape)
    weights, total = (axial, 1.0, 1.0), np.zeros((len(units), len(units)))
    for a in range(3):
        for b in range(3):
            rows = np.diff(np.diff(units, axis=a + 1), axis=b + 1).reshape(len(units), -1)
            total += weights[a] * weights[b] * rows @ rows.T
    return total


@pytest.mark.parametrize("shape", [SHAPE, (1, 6, 7), (2, 3, 9)])
def test_bending_is_the_gradient_of_the_energy(shape: tuple[int, ...]) -> None:
    values, _ = drawn(shape)
    expected = energy_matrix(shape, 2.5) @ values.ravel()
    np.testing.assert_allclose(bending(values, (2.5, 1.0, 1.0)).ravel(), expected, atol=1e-11)


@pytest.mark.parametrize("smoothing", [0.0, 0.7])
def test_smooth_fill_solves_the_normal_equations(monkeypatch: pytest.MonkeyPatch, smoothing: float) -> None:
    monkeypatch.setattr(module, "MOST_STEPS", 2000)
    values, known = drawn()
    matrix, w, y = energy_matrix(SHAPE, 3.0), known.ravel(), values.ravel()
    if smoothing:
        expected = np.linalg.solve(smoothing * matrix + np.diag(w.astype(float)), np.where(w, y, 0))
    else:
        expected = y.copy()
        expected[~w] = np.linalg.solve(matrix[np.ix_(~w, ~w)], -matrix[np.ix_(~w, w)] @ y[w])
    expected = np.clip(expected, y[w].min(), y[w].max())
    found = smooth_fill(values, known, axial=3.0, smoothing=smoothing, start=np.ones(SHAPE), tolerance=1e-12)
    np.testing.assert_allclose(found.ravel(), expected, atol=1e-7)


def test_smooth_fill_is_biharmonic_inpainting_away_from_the_borders() -> None:
    """There both solve the same equations: scikit-image has others within two voxels of a border only."""
    from skimage.restoration import inpaint_biharmonic

    values = ndimage.gaussian_filter(drawn((9, 12, 12))[0], 1.5)
    known = np.ones(values.shape, bool)
    known[2:-2, 2:-2, 2:-2] = np.random.default_rng(1).random((5, 8, 8)) < 0.4
    theirs = inpaint_biharmonic(np.where(known, values, 0), ~known)
    np.testing.assert_allclose(smooth_fill(values, known, tolerance=1e-12), theirs, atol=1e-8 * np.ptp(values))


def test_smooth_fill_of_a_ramp_is_the_ramp() -> None:
    """At borders and corners, too, whatever the weights are."""
    z, y, x = np.indices((6, 9, 9)).astype(float)
    ramp = 3 + 2 * z - y + 0.5 * x
    known = np.random.default_rng(2).random(ramp.shape) < 0.4
    known[0, -1, 0] = known[-1, 0, -1] = True  # the darkest and the brightest voxel: the fill stays within them
    known[0, 0, 0] = known[-1, -1, -1] = False
    for smoothing in (0.0, 0.3):
        found = smooth_fill(np.where(known, ramp, 99), known, axial=0.25, smoothing=smoothing, tolerance=1e-12)
        np.testing.assert_allclose(found, ramp, atol=1e-6)


@pytest.mark.parametrize(("scale", "offset"), [(1e6, 0.0), (1e-6, 0.0), (1.0, 1e3)])
def test_smooth_fill_follows_scale_and_offset(scale: float, offset: float) -> None:
    values, known = drawn()
    expected = smooth_fill(values, known)
    found = smooth_fill(scale * values + offset, known)
    np.testing.assert_allclose((found - offset) / scale, expected, atol=1e-9)


def test_smooth_fill_sees_measured_voxels_only_and_keeps_them() -> None:
    values, known = drawn()
    found = smooth_fill(values, known)
    np.testing.assert_array_equal(smooth_fill(np.where(known, values, 1e30), known), found)
    np.testing.assert_allclose(found[known], values[known], atol=1e-15)  # the mean was taken off and put back


def test_smooth_fill_stays_within_the_range_of_the_measurement() -> None:
    """A ramp that ends at a wide gap would go on."""
    values = np.broadcast_to(np.minimum(np.arange(16.0), 4), (4, 12, 16))
    known = np.ones(values.shape, bool)
    known[:, 3:9, 5:] = False
    found = smooth_fill(values, known)
    assert found.max() <= 4
    assert found.min() >= 0


def test_smooth_fill_fills_each_frame_by_itself() -> None:
    values, known = drawn((3, *SHAPE))
    found = smooth_fill(values, known, tolerance=1e-12)
    for number in range(3):
        alone = smooth_fill(values[number], known[number], tolerance=1e-12)
        known_range = values[number][known[number]]
        inside = (found[number] > known_range.min()) & (found[number] < known_range.max())
        np.testing.assert_allclose(found[number][inside], alone[inside], atol=1e-7)


def test_in_line_leaves_out_what_stands_out() -> None:
    rng = np.random.default_rng(3)
    smooth = ndimage.gaussian_filter(rng.standard_normal((10, 20, 20)), 2)
    values, known = smooth / smooth.std() + 0.05 * rng.standard_normal(smooth.shape), rng.random(smooth.shape) < 0.4
    wrong = known & (rng.random(smooth.shape) < 0.03)
    found = in_line(np.where(wrong, values + 6, values), known, np.zeros(values.shape))
    assert not (found & ~known).any()
    assert not (found & wrong).any()
    assert found[known & ~wrong].mean() > 0.97  # of normal deviations, and of neighbours of outliers, few are as far
