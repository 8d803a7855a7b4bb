"""Planes along the flow of structure that moves sideways."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy.ndimage import gaussian_filter, shift

from tensorcell.solvers import fill_planes, interplane, plane_flow
from tensorcell.solvers.interplane import judged_slope
from tensorcell.solvers.kriging import bands_of
from tensorcell.solvers.plane_flow import (
    FEWEST,
    SMALLEST_SIDE,
    FlowLaw,
    MovingPlanes,
    Proposal,
    along_flow,
    flow_between,
    flow_law,
    slopes_of,
)

Doubles = npt.NDArray[np.float64]


def texture(seed: int, side: int = 64, width: float = 2.5) -> Doubles:
    plane = gaussian_filter(np.random.default_rng(seed).standard_normal((side, side)), width, mode="wrap")
    return 10 + np.asarray(plane / plane.std(), np.float64)


def tilted(planes: int, step: float) -> Doubles:
    """A texture that moves sideways by `step` pixels a plane and does not change otherwise."""
    return np.stack([shift(texture(0), (0, step * z), order=5, mode="grid-wrap") for z in range(planes)])


def mean_square(values: Doubles) -> float:
    return float(np.mean(np.square(values)))


@pytest.mark.parametrize(("unit", "offset"), [(1.0, 0.0), (1e-4, 0.0), (1e5, 1e6)])
def test_flow_is_the_shift_in_any_unit(unit: float, offset: float) -> None:
    """The library alone finds no motion in images of 1e-4: its bound on singular systems is absolute."""
    below, above = (offset + unit * texture(1), offset + unit * shift(texture(1), (1.5, -2.0), mode="grid-wrap"))
    flow = flow_between(below, above)
    inner = np.s_[:, 12:-12, 12:-12]
    np.testing.assert_allclose(np.median(flow.up[inner], axis=(1, 2)), [1.5, -2.0], atol=0.05)
    np.testing.assert_allclose(np.median(flow.down[inner], axis=(1, 2)), [-1.5, 2.0], atol=0.05)


@pytest.mark.parametrize("shape", [(64, 64), (75, 41), (16, 40)])
def test_flow_is_that_of_scikit_image(shape: tuple[int, int]) -> None:
    """Also where one half is flat, so that nothing tells the flow there, and noise tells a wrong one."""
    from skimage.registration import optical_flow_ilk

    below, above = texture(1, 80), shift(texture(1, 80), (1.5, -2.0), mode="grid-wrap")
    below[:, 20:40] = above[:, 20:40] = 9.0
    above[50:] += 0.3 * np.random.default_rng(2).standard_normal((30, 80))
    planes = [plane[: shape[0], : shape[1]].astype(np.float32) for plane in (below, above)]
    low, spread = min(plane.min() for plane in planes), max(float(plane.std(dtype=np.float64)) for plane in planes)
    scaled = [(plane - low) / np.float32(spread) for plane in planes]
    found = plane_flow.flow_on_host(*planes)
    for way, pair in zip(found, (scaled, scaled[::-1]), strict=True):
        expected = optical_flow_ilk(*pair, radius=plane_flow.RADIUS, num_warp=plane_flow.WARPS, gaussian=True)
        assert way.dtype == np.float32
        np.testing.assert_allclose(way, expected, rtol=1e-3, atol=1e-3)  # both solve in double precision


def test_large_planes_have_the_flow_of_their_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    below = texture(1, 75, 5.0)
    above = shift(below, (1.5, -2.0), mode="grid-wrap")
    fine = flow_between(below, above)
    monkeypatch.setattr(plane_flow, "LARGE", 75 * 75 - 1)
    coarse = flow_between(below, above)
    assert coarse.up.shape == fine.up.shape == (2, 75, 75)
    inner = np.s_[:, 12:-12, 12:-12]
    for one, other in zip(coarse, fine, strict=True):
        assert not np.array_equal(one, other)
        assert np.abs((one - other)[inner]).mean() < 0.05


def test_halves_are_means_and_edges_are_repeated() -> None:
    plane = np.arange(15.0).reshape(5, 3)
    np.testing.assert_array_equal(plane_flow.halved(plane), [[2.0, 3.5], [8.0, 9.5], [12.5, 14.0]])


def test_the_plane_along_the_flow_lies_where_its_share_of_the_way_says() -> None:
    below, above = texture(1), shift(texture(1), (0.0, 4.0), mode="grid-wrap")
    quarter = along_flow(below, above, flow_between(below, above), 0.25)
    expected, inner = shift(texture(1), (0.0, 1.0), mode="grid-wrap"), np.s_[12:-12, 12:-12]
    # Linear interpolation between pixels and the flow's own error; half of the way would be .4 off.
    assert mean_square((quarter - expected)[inner]) < 0.01


def test_planes_of_one_gap_share_its_flow(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(plane_flow, "flow_between", lambda *planes: calls.append(0) or flow_between(*planes))
    moving = MovingPlanes(tilted(3, 1.0), np.array([0.0, 3.0, 6.0]))
    first = moving.at(1.0)
    moving.at(2.0)
    assert len(calls) == 1
    moving.at(4.0)
    assert len(calls) == 2
    np.testing.assert_array_equal(moving.at(1.0), first)


def test_slopes_are_those_of_each_band_by_itself() -> None:
    products, squares = np.random.default_rng(0).uniform(1.0, 3.0, (2, 7, 4))
    slopes, errors = slopes_of(products, squares)
    for band in range(4):
        slope, error, _ = judged_slope(products[:, band], squares[:, band])
        assert slopes[band] == pytest.approx(slope)
        assert errors[band] == pytest.approx(error)
    squares[:, 2] = 0
    assert slopes_of(products, squares)[0][2] == 0  # nothing was proposed


def proposals(share: float, count: int = 8) -> list[Proposal]:
    """Left-out planes of which this share of the proposed correction is true."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        value, change = rng.standard_normal((2, 48, 48))
        found.append(Proposal(value, np.ones(len(bands_of(48, 48)[0])), value + change, value + share * change))
    return found


def test_weights_are_the_share_of_the_correction_that_is_true() -> None:
    law = flow_law(proposals(0.4))
    assert law is not None
    np.testing.assert_allclose(law.weights, 0.4, atol=1e-5)  # single-precision transforms
    assert flow_law(proposals(0.0)) is None
    assert flow_law(proposals(-1.0)) is None
    assert flow_law(proposals(0.4, FEWEST - 1)) is None


def test_weights_that_planes_disagree_about_are_small() -> None:
    some, others = proposals(1.0, 4), proposals(-0.2, 4)
    law = flow_law([*some, *others])  # a slope of .4 with a jackknife error of .6 / sqrt(7) = .23
    assert law is not None
    np.testing.assert_allclose(law.weights, 0.4 / (1 + (0.6 / np.sqrt(7) / 0.3) ** 2), rtol=0.15)


def test_weights_fall_with_the_root_of_the_error_that_is_expected() -> None:
    law = FlowLaw(np.array([0.8, 0.8, 0.8]), np.array([1.0, 1.0, 0.0]), np.zeros((3, 8, 8), np.float32))
    np.testing.assert_allclose(law.at(np.array([0.25, 4.0, 0.0])), [0.4, 0.8, 0.8])


def test_the_correction_is_the_difference_in_its_bands() -> None:
    value, flowed = np.random.default_rng(0).standard_normal((2, 40, 56))
    bands, coarse = bands_of(40, 56)
    law = FlowLaw(np.ones(len(bands)), np.ones(len(bands)), bands)
    whole = law.correction(value, flowed, np.ones(len(bands)))
    from scipy.fft import dctn, idctn

    trend = idctn(coarse * dctn(flowed - value, norm="ortho"), norm="ortho")
    np.testing.assert_allclose(whole, flowed - value - trend, atol=1e-5)  # gains in single precision
    alone = FlowLaw(np.eye(len(bands))[0], np.ones(len(bands)), bands)
    assert mean_square(alone.correction(value, flowed, np.ones(len(bands)))) < mean_square(whole)


@pytest.mark.parametrize("step", [3, 4])
def test_structure_that_moves_sideways_is_followed(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = tilted(12 * step + 1, 1.2)
    grid, missing = np.arange(0, len(truth), step), np.arange(len(truth)) % step > 0
    filled = fill_planes(truth[::step], grid, len(truth))
    assert "followed sideways" in filled.sentence
    monkeypatch.setattr(interplane, "flow_law", lambda planes: None)
    still = fill_planes(truth[::step], grid, len(truth))
    assert "followed sideways" not in still.sentence
    errors = [mean_square((each.volume - truth)[missing]) for each in (filled, still)]
    assert errors[0] < 0.6 * errors[1]
    covered = np.abs(filled.volume - truth)[missing] <= 1.645 * filled.error[missing]
    assert np.mean(covered) > 0.85


def test_structure_that_only_blurs_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = gaussian_filter(np.random.default_rng(3).standard_normal((49, 48, 48)), 2.0)
    grid, missing = np.arange(0, 49, 2), np.arange(49) % 2 > 0
    filled = fill_planes(truth[::2], grid, 49)
    monkeypatch.setattr(interplane, "flow_law", lambda planes: None)
    still = fill_planes(truth[::2], grid, 49)
    errors = [mean_square((each.volume - truth)[missing]) for each in (filled, still)]
    assert errors[0] < 1.02 * errors[1]


def test_planes_that_are_too_small_have_no_flow() -> None:
    stack = tilted(9, 1.0)[:, : SMALLEST_SIDE - 1]
    assert "followed" not in fill_planes(stack, 2 * np.arange(9), 17).sentence
