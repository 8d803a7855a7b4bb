"""Periodic stripes are found, and are no noise."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy.ndimage import gaussian_filter

import tensorcell as tc
from tensorcell.solvers import estimate_noise
from tensorcell.solvers.stripes import Profiles, fitted, without_stripes
from tensorcell.solvers.units import Unit

Doubles = npt.NDArray[np.float64]


def noise(shape: tuple[int, ...], seed: int = 0) -> Doubles:
    return np.random.default_rng(seed).standard_normal(shape)


def stripes(shape: tuple[int, int, int], period: float, axis: int, seed: int = 0) -> Doubles:
    """Stripes of amplitude 1 whose phase differs from plane to plane."""
    phases = np.random.default_rng(seed).uniform(0, 2 * np.pi, (shape[0], 1, 1))
    along = np.arange(shape[axis]).reshape((1, -1, 1) if axis == 1 else (1, 1, -1))
    return np.broadcast_to(np.cos(2 * np.pi * along / period + phases), shape)


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("period", [2.5, 4.0, 7.3])
@pytest.mark.parametrize("share", [1.0, 0.6])
def test_stripes_are_found_and_subtracted(axis: int, period: float, share: float) -> None:
    shape = (6, 100, 90)
    structure = 5 * gaussian_filter(noise(shape, 1), (2, 6, 6), mode="wrap") / 0.02 * 0.02
    plain = structure + noise(shape)
    mask = np.random.default_rng(2).random(shape) < share
    data = np.where(mask, plain + 1.5 * stripes(shape, period, axis), np.nan)
    before = data.copy()
    found, (stripe,) = without_stripes(data, mask)
    assert stripe.axis == "zyx"[axis]
    assert stripe.period == pytest.approx(period, rel=0.005)
    assert stripe.amplitude == pytest.approx(1.5, rel=0.05)
    assert found is not None
    # Each plane's amplitude and phase are fitted to 90 or 100 means of rows: two numbers of a variance of some .0004.
    np.testing.assert_allclose(np.sqrt(np.mean(np.square((found - plain)[mask]))), 0, atol=0.08)
    assert np.isnan(found[~mask]).all()
    np.testing.assert_array_equal(data, before)


def test_two_periods_are_found() -> None:
    shape = (5, 96, 80)
    both = 2 * stripes(shape, 4.0, 1) + stripes(shape, 6.7, 1, seed=1) + stripes(shape, 3.1, 2, seed=2)
    _, found = without_stripes(noise(shape) + both)
    assert [(each.axis, round(each.period, 1)) for each in found] == [("y", 4.0), ("y", 6.7), ("x", 3.1)]


def test_noise_and_structure_are_no_stripes() -> None:
    for seed in range(40):
        assert without_stripes(noise((1 + seed % 3, 64, 64), seed)) == (None, ())
        smooth = gaussian_filter(noise((1 + seed % 5, 64, 64), seed), (0, 1.5, 1.5))
        assert without_stripes(smooth) == (None, ())
    cells = tc.datasets.simulate_cells((24, 56, 56), cells=9, seed=1)
    assert without_stripes(np.asarray(cells.truth)) == (None, ())


def test_a_pattern_in_half_of_the_image_is_structure() -> None:
    data = noise((4, 96, 80))
    data[:, :, :40] += 2 * stripes((4, 96, 40), 5.0, 1)
    assert without_stripes(data) == (None, ())


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 200), (2, 40, 3), (4, 31, 31)])
def test_small_stacks_have_no_stripes(shape: tuple[int, int, int]) -> None:
    assert without_stripes(noise(shape)) == (None, ())


def test_the_fit_is_that_of_least_squares() -> None:
    rng = np.random.default_rng(0)
    wave = np.exp(-2j * np.pi * 0.173 * np.arange(50))
    mean, there = rng.standard_normal((1, 1, 50)), rng.random((1, 1, 50)) < 0.7
    design = np.stack([wave.real, -wave.imag, np.ones(50)], axis=1)[there[0, 0]]
    expected = np.linalg.lstsq(design, mean[0, 0][there[0, 0]], rcond=None)[0]
    found = fitted(Profiles(mean, there), wave)[0, 0]
    np.testing.assert_allclose([found.real, found.imag], expected[:2], rtol=1e-9)


@pytest.mark.parametrize("amplitude", [1.0, 2.0])
def test_stripes_do_not_enlarge_the_noise(amplitude: float) -> None:
    shape = (12, 96, 96)
    plain = noise(shape)
    striped = estimate_noise(plain + amplitude * stripes(shape, 4.0, 1), unit=Unit(scale=2.0, offset=0.0))
    assert striped.sigma == pytest.approx(estimate_noise(plain).sigma, rel=0.02)  # 1.3 to 1.9 times as much before
    (stripe,) = striped.stripes
    assert "Periodic stripes are not counted as noise: one of 4 voxels along y" in striped.sentence
    assert f"amplitude of {2 * stripe.amplitude:.3g}" in striped.sentence
    assert striped.in_unit(Unit(scale=2.0, offset=0.0)).stripes[0].amplitude == pytest.approx(2 * stripe.amplitude)
    assert "stripes" not in estimate_noise(plain).sentence


def test_recover_names_the_stripes_that_it_keeps() -> None:
    shape = (6, 64, 64)
    found = tc.recover(100 + noise(shape) + 2 * stripes(shape, 4.0, 1))
    assert sum("periodic stripes" in note for note in found.notes) == 1
    assert found.noise == pytest.approx(1.0, rel=0.1)
