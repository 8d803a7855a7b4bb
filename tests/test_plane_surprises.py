"""Surprises of left-out planes: none in noise, all of planted structure, and intervals between planes that reach it."""

from __future__ import annotations

import numpy as np
import pytest

from tensorcell.solvers import NoiseModel, fill_planes, plane_surprises
from tensorcell.solvers.plane_surprises import REACH, STANDING_OUT, Surprises, surprise

FACTOR = 4


def filament(step: float, height: float) -> tuple[np.ndarray, np.ndarray]:
    """Photons of a thin filament that moves sideways from measured plane to measured plane, and where it is."""
    z = np.arange(0, 10.01, 1 / FACTOR)[:, None, None]
    y, x = np.arange(60)[:, None], np.arange(64)
    thread = height * np.exp(-((y - 20 - 0.4 * step * z) ** 2 + (x - 10 - step * z) ** 2) / 2.4)
    return 3 + 25 * np.exp(-((y - 44) ** 2 + (x - 50) ** 2) / 40) + thread, thread > 0.2 * height


def flagged(found: list[np.ndarray | None]) -> float:
    """Mean share of the pixels that surprise."""
    return float(np.mean([0.0 if plane is None else np.mean(plane > 0) for plane in found]))


def test_noise_is_no_surprise_whatever_its_scale_in_the_plane() -> None:
    rng = np.random.default_rng(0)
    deviation = np.geomspace(0.1, 10, 80)[:, None] * np.ones(90)
    found = [surprise(deviation * rng.standard_normal(deviation.shape), deviation) for _ in range(50)]
    assert flagged(found) < 5e-4  # places beyond 4 standard deviations, 9 to 25 pixels each


def test_errors_that_all_are_larger_than_predicted_are_no_surprise() -> None:
    rng = np.random.default_rng(1)
    found = [surprise(5 * rng.standard_normal((80, 90)), np.ones((80, 90))) for _ in range(50)]
    assert flagged(found) < 5e-4


@pytest.mark.parametrize("sign", [1, -1])
def test_a_planted_spot_is_a_surprise_of_its_height(sign: int) -> None:
    y, x = np.indices((60, 64))
    spot = 8 * np.exp(-((y - 2) ** 2 + (x - 61) ** 2) / 4)
    error = sign * spot + 0.5 * np.random.default_rng(2).standard_normal(spot.shape)
    found = surprise(error, np.full(spot.shape, 0.5))
    assert found is not None
    assert found[2, 61] == pytest.approx(8, abs=1.5)
    assert (found[spot < 0.01] > 0).mean() < 0.02
    assert (found[spot > 4] > 3).all()


def test_the_way_between_two_surprises_is_one() -> None:
    below, above = np.zeros((2, 30, 30))
    below[4:8, 3:6] = 5.0
    above[4:8, 12:15] = 3.0
    surprises = Surprises({4: below, 5: above}, np.arange(0.0, 40, FACTOR), 2.0)
    found = surprises.least_error(18.0, 2.0) * 1.6449
    assert isinstance(found, np.ndarray)
    np.testing.assert_allclose(found[below > 0], 5, rtol=1e-6)
    np.testing.assert_allclose(found[above > 0], 3, rtol=1e-6)
    assert found[6, 9] == pytest.approx(3)  # between both
    assert not found[20:].any()
    np.testing.assert_allclose(surprises.least_error(17.0, 0.5), found / 1.6449 / 2, rtol=1e-6)  # errors fall to half
    np.testing.assert_allclose(surprises.least_error(17.0, 9.0), found / 1.6449, rtol=1e-6)  # and grow for nobody
    assert np.any(surprises.least_error(13.0, 2.0))
    assert surprises.least_error(2.0, 2.0) == 0.0
    assert surprises.share == pytest.approx((12 + 12) / 900 / 10)


def test_a_surprise_at_the_border_is_not_drawn_inwards() -> None:
    plane = np.zeros((20, 20))
    plane[0, :3] = 1.0
    found = Surprises({0: plane}, np.array([0.0, 4.0]), 1.0).least_error(1.0, 1.0)
    assert np.count_nonzero(found) == 3


@pytest.mark.parametrize("step", [4.0, 8.0])
def test_intervals_reach_a_filament_that_moves_further_than_it_is_wide(
    monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    truth, there = filament(step, 60.0)
    planes = np.random.default_rng(3).poisson(truth[::FACTOR]).astype(np.float32)
    noise = NoiseModel(gain=1.0, offset=0.0, sigma=float(np.sqrt(planes.mean())))
    between = np.arange(len(truth)) % FACTOR > 0
    there &= between[:, None, None]
    covered = {}
    for limit in (STANDING_OUT, np.inf):
        monkeypatch.setattr(plane_surprises, "STANDING_OUT", limit)
        filled = fill_planes(planes, np.arange(0, len(truth), FACTOR), len(truth), noise=noise)
        covered[limit] = np.mean(np.abs(filled.volume - truth)[there] <= 1.645 * filled.error[there])
        assert (" stood out of their prediction" in filled.sentence) == np.isfinite(limit)
    assert covered[STANDING_OUT] > 0.6
    assert covered[np.inf] < 0.3
    assert step / 2 < REACH
