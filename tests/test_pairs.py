"""Pairs of stacks: planted transformations are found, unrelated stacks are refused, regions share nothing."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import fft, ndimage

from tensorcell.datasets import simulate_cells
from tensorcell.errors import InputError
from tensorcell.pairs import cubes_of, features, register, registration, split_regions
from tensorcell.pairs.common import common_region
from tensorcell.pairs.placement import Factors, Placement, binned, covered, rectangle
from tensorcell.pairs.prediction import AXIAL_SMOOTHING, Predictor
from tensorcell.pairs.refinement import Level
from tensorcell.volume import Volume

Array = NDArray[np.floating]

BORDER = (4, 12, 12)
"""Voxels that planted pairs lose on each side, so that nothing that was wrapped around or mirrored remains."""


@pytest.fixture(scope="module")
def cells() -> Array:
    return simulate_cells((24, 82, 82), cells=22, seed=1).truth


@pytest.fixture(scope="module")
def other_cells() -> Array:
    return simulate_cells((24, 82, 82), cells=22, seed=2).truth


def inner(stack: Array) -> Array:
    return stack[tuple(slice(width, -width) for width in BORDER)]


def fourier_shifted(stack: Array, shift: Any) -> Array:
    """The periodic stack moved by a sub-voxel shift, exactly."""
    spectrum = fft.fftn(stack.astype(float))
    for axis, (length, step) in enumerate(zip(stack.shape, shift, strict=True)):
        phase = np.exp(-2j * np.pi * fft.fftfreq(length) * step)
        spectrum = spectrum * np.expand_dims(phase, [other for other in range(3) if other != axis])
    return fft.ifftn(spectrum).real


def planted(stack: Array, shift: Any) -> tuple[Array, Array]:
    """A low stack that must be moved by the shift to lie on the high stack, and the high stack."""
    wide = np.pad(stack, [(8, 8)] * 3, mode="reflect")  # against waves from borders that do not meet
    moved = fourier_shifted(wide, -np.asarray(shift))[8:-8, 8:-8, 8:-8]
    return inner(moved), inner(stack)


def turned(stack: Array, placement: Placement) -> Array:
    """The low stack, on the voxels of the high stack, that has this placement."""
    matrix, offset = placement.from_low(Factors(1, 1))
    return ndimage.affine_transform(stack.astype(float), matrix, offset, order=5, mode="reflect")


def noisy(stack: Array, level: float, seed: int) -> Array:
    """The stack with Gaussian noise; the level is in standard deviations of the intensities."""
    return stack + level * stack.std() * np.random.default_rng(seed).standard_normal(stack.shape)


def middle(stack: Array) -> tuple[float, float]:
    return (stack.shape[1] - 1) / 2, (stack.shape[2] - 1) / 2


# ------------------------------------------------------------------------------------------------- registration


@pytest.mark.parametrize("seed", range(2))
def test_register_finds_a_planted_sub_voxel_shift_under_noise(cells: Array, seed: int) -> None:
    shift = np.random.default_rng(seed).uniform((-2, -6, -6), (2, 6, 6))
    low, high = planted(cells, shift)
    low, high = (noisy(each, 0.5, seed + place).astype(np.float32) for place, each in enumerate((low, high)))
    for each in (low, high):
        each.setflags(write=False)  # float32 is not copied on the way in, and is not written to
    found = register(low, high, seed=seed)
    # The error is about 0.02 voxels; that of scikit-image's phase correlation is 0.03 to 0.5.
    np.testing.assert_allclose(found.shift, shift, atol=0.06)
    assert found.agreement_after > 0.8 > found.agreement_before
    assert (found.rotation, found.scale, found.matches) == (0, 1, None)


def test_register_recovers_a_degraded_stack(cells: Array) -> None:
    shift = np.array([1.05, -3.4, 2.7])
    low, _ = planted(ndimage.gaussian_filter(cells, (0.5, 1, 1)), shift)
    low = noisy(binned(low[::4], 1, 2), 0.5, 0)
    found = register(low, inner(cells), axial_factor=4, lateral_factor=2, spacing=(0.5, 0.2, 0.2))
    np.testing.assert_allclose(found.shift, shift, atol=0.1)
    assert found.low.spacing == (2.0, 0.2, 0.2)
    assert found.low.shape[1:] == found.high.shape[1:]
    assert 4 * found.low.shape[0] - 3 <= found.high.shape[0] <= 4 * found.low.shape[0]
    place = tuple(slice(first, first + size) for first, size in zip(found.first, found.high.shape, strict=True))
    np.testing.assert_array_equal(found.high.data, inner(cells)[place])
    again = register(found.low, found.high, axial_factor=4)
    np.testing.assert_allclose(again.shift, 0, atol=0.1)  # the pair is aligned, first plane on first plane
    cubes = cubes_of(found.low.data, found.high.data, (8, 26, 26), axial_factor=4)
    assert cubes.low.shape == (4, 2, 26, 26)
    for one, other in zip(cubes.low, cubes.high, strict=True):
        assert np.corrcoef(one.ravel(), other[::4].ravel())[0, 1] > 0.8


def test_register_takes_pixels_as_means(cells: Array) -> None:
    high = inner(cells)[:, :57, :57]
    low = binned(high[::2], 1, 3)
    found = register(low, high, axial_factor=2, lateral_factor=3)
    np.testing.assert_allclose(found.shift, 0, atol=0.02)  # it would be 1 if a pixel began at its centre
    assert (found.low.shape, found.high.shape, found.share) == ((8, 57, 57), (16, 57, 57), 1.0)
    np.testing.assert_allclose(found.low.data[:, 1::3, 1::3], low, atol=0.02 * np.ptp(low))


def test_register_finds_a_planted_rotation_and_scale(cells: Array) -> None:
    truth = Placement(middle(cells), (1.3, 2.6, -3.4), np.deg2rad(7.0), 0.94)
    low = noisy(turned(cells, truth), 0.1, 0)
    found = register(low, noisy(cells, 0.1, 1), transform="similarity")
    np.testing.assert_allclose(found.shift, truth.shift, atol=0.1)
    # 0.05 degrees and 0.001 are a twentieth of a voxel at the border.
    assert found.rotation == pytest.approx(7.0, abs=0.05)
    assert found.scale == pytest.approx(0.94, abs=0.001)
    assert found.matches is not None
    assert found.matches >= 8
    # Interpolated twice, and smoothed at its borders by the mirror: hence not exactly the high stack.
    assert np.corrcoef(found.low.data.ravel(), found.high.data[: len(found.low.data)].ravel())[0, 1] > 0.9
    start = Placement(middle(cells))
    matches = [features.matched(low, cells, Factors(1, 1), start, seed) for seed in (0, 0, 1)]
    assert matches[0] == matches[1]  # the seed decides which features are tried
    assert matches[0].placement.rotation == pytest.approx(truth.rotation, abs=0.02)


def test_register_leaves_what_agrees_where_it_is(cells: Array) -> None:
    stack = inner(cells).astype(np.uint16)
    stack.setflags(write=False)
    found = register(stack, Volume(stack, spacing=(0.5, 0.2, 0.2)))
    np.testing.assert_allclose(found.shift, 0, atol=0.01)
    assert (found.first, found.share) == ((0, 0, 0), 1.0)
    assert found.agreement_after == pytest.approx(found.agreement_before, abs=1e-3)
    assert found.low.dtype == found.high.dtype == np.float32
    np.testing.assert_allclose(found.low.data, stack, atol=0.01 * np.ptp(stack))
    np.testing.assert_array_equal(found.high.data, stack)
    assert found.low.spacing == found.high.spacing == (0.5, 0.2, 0.2)
    assert found.notes == ()


def test_register_does_not_depend_on_the_unit(cells: Array) -> None:
    low, high = planted(cells, (0.4, 2.3, -1.6))
    np.testing.assert_allclose(register(1e4 * low + 5e4, 1e-3 * high).shift, (0.4, 2.3, -1.6), atol=0.03)


def test_register_ignores_uneven_light(cells: Array) -> None:
    low, high = planted(cells, (0.4, 2.3, -1.6))
    light = np.linspace(0.5, 1.5, low.shape[2]) * np.linspace(1.3, 0.7, low.shape[1])[:, None]
    np.testing.assert_allclose(register(low * light, high).shift, (0.4, 2.3, -1.6), atol=0.1)


def test_register_finds_a_planted_shift_in_a_real_stack(volumes_folder: Path) -> None:
    stack = tifffile.imread(volumes_folder / "brain_nuclei_mesospim_lightsheet.tif")[:28].astype(float)
    shift = np.array([-1.4, 4.7, 2.2])
    low, high = planted(stack, shift)
    found = register(noisy(low, 0.5, 0), noisy(high, 0.5, 1))
    np.testing.assert_allclose(found.shift, shift, atol=0.1)


# ------------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize("kind", ["other cells", "other cells, sampled coarsely", "noise", "negative"])
def test_register_refuses_unrelated_stacks(cells: Array, other_cells: Array, kind: str) -> None:
    other = inner(other_cells)
    noise = np.random.default_rng(3).standard_normal(other.shape)
    low, axial, lateral = {
        "other cells": (other, 1, 1),
        "other cells, sampled coarsely": (binned(other[::4], 1, 2), 4, 2),
        "noise": (noise, 1, 1),
        "negative": (-inner(cells), 1, 1),
    }[kind]
    with pytest.raises(InputError, match=r"^(low and high agree|the evidence for the placement is) ") as caught:
        register(low, inner(cells), axial_factor=axial, lateral_factor=lateral)
    assert "\n" not in str(caught.value)


def test_register_notes_doubts_that_it_is_not_to_refuse(cells: Array) -> None:
    symmetric = inner(cells)[:10, :40, :40] + inner(cells)[9::-1, 39::-1, 39::-1]
    with pytest.raises(InputError, match=r"the evidence for the placement is \d\.\d\d times that for a mirror image"):
        register(symmetric, symmetric)
    found = register(symmetric, symmetric, refuse=False)
    assert [note[:60] for note in found.notes] == ["Doubtful: the evidence for the placement is 1.00 times that "]


def test_register_refuses_too_few_features(cells: Array, other_cells: Array) -> None:
    with pytest.raises(InputError, match=r"^\d features of low and high agree .*, expected at least 8"):
        register(inner(other_cells), inner(cells), transform="similarity")
    smooth = np.linspace(0, 1, 58) + np.zeros((5, 58, 1))
    with pytest.raises(InputError, match=r"^0 features of low and high agree"):
        register(smooth, inner(cells), transform="similarity")


def test_register_refuses_what_agrees_less_than_before(cells: Array, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "searched", lambda level, start: start)
    monkeypatch.setattr(registration, "refined", lambda *_: Placement(middle(inner(cells)), (0, 2, 1)))
    with pytest.raises(InputError, match=r"^low and high agree less after registration, 0.\d+, than before, 1.00$"):
        register(inner(cells), inner(cells))


def test_register_refuses_what_it_cannot_use(cells: Array) -> None:
    stack = inner(cells)
    holes, mask = stack.copy(), np.ones(stack.shape, bool)
    holes[2, 3, 4:6], mask[0] = np.nan, False
    refused = r"{} holds {} voxels that were not measured or are not finite, expected none"
    for low, high, message in [
        (holes, stack, refused.format("low", 2)),
        (stack, np.where(np.isnan(holes), np.inf, holes), refused.format("high", 2)),
        (stack, Volume(stack, mask=mask), refused.format("high", stack[0].size)),
        (stack[None].repeat(2, 0), stack, "pass axes="),
        (Volume(stack[None].repeat(2, 0), "TZYX"), stack, r"low has axes TZYX .* expected one stack"),
        (stack[:1], stack, r"low has shape \(1, 58, 58\), expected at least \(2, 8, 8\)"),
        (np.full((5, 20, 20), 7), stack, "low holds the intensity 7 everywhere"),
    ]:
        with pytest.raises(InputError, match=message):
            register(low, high)
    for options, message in [
        ({"transform": "affine"}, "transform is 'affine', expected one of shift, similarity"),
        ({"axial_factor": 0}, "axial factor"),
        ({"lateral_factor": 1.5}, "lateral factor"),
        ({"lateral_factor": 8}, r"high has shape .* expected at least \(2, 64, 64\)"),
        ({"spacing": (1, 0, 1)}, "spacing must be positive"),
    ]:
        with pytest.raises(InputError, match=message):
            register(stack, stack, **options)  # type: ignore[arg-type]


def test_register_notes_voxel_sizes_that_contradict_the_factors(cells: Array) -> None:
    low, high = Volume(inner(cells), spacing=(2.0, 0.2, 0.2)), Volume(inner(cells), spacing=(0.5, 0.2, 0.2))
    assert register(low, high).notes == (
        "The voxel sizes dz of low and high, 2 and 0.5 um, have the ratio 4, expected 1.",
    )


def test_a_small_common_region_is_refused(cells: Array) -> None:
    stack = inner(cells).astype(np.float32)
    common = common_region(stack, stack, Factors(1, 1), Placement(middle(stack), (0.0, 28.0, 0.0)))
    assert common.share == pytest.approx(30 / 58)
    with pytest.raises(InputError, match=r"have 31% of the smaller stack in common after a shift of 0.00, 40.00, 0.00"):
        common_region(stack, stack, Factors(1, 1), Placement(middle(stack), (0.0, 40.0, 0.0)))


# ------------------------------------------------------------------------------------- geometry, against brute force


def test_a_placement_has_the_signs_that_it_documents(cells: Array) -> None:
    low = inner(cells).astype(np.float32)
    high = np.rot90(low, axes=(1, 2)).copy()  # counter-clockwise, as imshow shows it
    common = common_region(low, high, Factors(1, 1), Placement(middle(low), rotation=np.pi / 2))
    np.testing.assert_allclose(common.low, high, atol=1e-4 * np.ptp(high))
    shifted = common_region(low, np.roll(low, 3, 1), Factors(1, 1), Placement(middle(low), (0.0, 3.0, 0.0)))
    np.testing.assert_allclose(shifted.low, low[:, :-3], atol=1e-4 * np.ptp(low))


def test_placement_inverts_and_bins() -> None:
    placement, factors = Placement((31.5, 40.0), (1.2, -3.4, 5.6), 0.3, 1.1), Factors(4, 2)
    (matrix, offset), (back, start) = placement.from_low(factors), placement.to_low(factors)
    np.testing.assert_allclose(back @ matrix, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(back @ offset + start, 0, atol=1e-12)
    # A bin's centre is the mean of the centres of its pixels, in both stacks.
    coarse, first = placement.binned(4).from_low(factors)
    bin_, pixels = np.array([2, 3, 5]), np.array([[2, 12 + i, 20 + j] for i in range(4) for j in range(4)])
    centre = (pixels @ matrix.T + offset).mean(0)
    np.testing.assert_allclose(coarse @ bin_ + first, [centre[0], *((centre[1:] - 1.5) / 4)], atol=1e-12)
    assert placement.binned(4).enlarged(4, placement.centre).shift == pytest.approx(placement.shift)


def test_the_prediction_is_the_mean_over_pixels(cells: Array) -> None:
    high = inner(cells).astype(np.float32)
    factors, placement = Factors(3, 4), Placement(middle(high), (2.0, 4.0, 8.0))
    predictor = Predictor.of(high, factors)
    box = predictor.box(placement, (7, 18, 18))
    assert box == (slice(0, 5), slice(0, 13), slice(0, 12))  # what lies within the high stack, and no less
    smooth = ndimage.gaussian_filter1d(high, AXIAL_SMOOTHING, 0, mode="nearest")
    np.testing.assert_allclose(
        predictor.at(placement, box).value, binned(smooth[2:16:3, 4:, 8:], 1, 4), rtol=1e-4
    )  # fmt: skip


def test_slopes_are_the_derivatives_of_the_prediction(cells: Array) -> None:
    placement = Placement(middle(inner(cells)), (0.3, 1.7, -0.6), 0.2, 1.05)
    level = Level.of(binned(inner(cells)[::2], 1, 2), inner(cells).astype(np.float32), Factors(2, 2), 1)
    box = level.box(placement, 2.0)
    slopes = level.slopes(placement, box, level.predictor.at(placement, box), similarity=True)
    assert len(slopes) == 5
    for axis, slope in enumerate(slopes):
        step = 0.02 * np.eye(5)[axis]
        ahead, behind = (level.predictor.at(placement.moved(sign * step, level.radius), box).value for sign in (1, -1))
        # float32 leaves a relative error of about 1e-3 in a difference over 0.04 voxels.
        np.testing.assert_allclose(slope, (ahead - behind) / 0.04, atol=5e-3 * np.abs(slope).max())


@settings(max_examples=40, deadline=None)
@given(angle=st.floats(-0.8, 0.8), scale=st.floats(0.6, 1.6), y=st.floats(-9, 9), x=st.floats(-9, 9))
def test_covered_voxels_lie_inside(angle: float, scale: float, y: float, x: float) -> None:
    matrix, offset = Placement((9.5, 11.5), (1.0, y, x), angle, scale).from_low(Factors(2, 1))
    box = covered(matrix, offset, (6, 20, 24), (9, 22, 26), np.zeros(3))
    index = np.stack(np.meshgrid(*(np.arange(part.start, part.stop) for part in box), indexing="ij"), -1)
    position = index @ matrix.T + offset
    assert np.all((position >= -1e-5) & (position <= np.array([8, 21, 25]) + 1e-5))
    if angle == 0 and index.size:  # the largest box, then
        every = np.stack(np.meshgrid(*map(np.arange, (6, 20, 24)), indexing="ij"), -1) @ matrix.T + offset
        assert np.all((every >= -1e-6) & (every <= np.array([8, 21, 25]) + 1e-6), -1).sum() == np.prod(index.shape[:-1])


def test_rectangle_of_a_turned_square_is_large() -> None:
    rows, columns = np.mgrid[-40:41, -40:41]
    inside = np.abs(rows) + np.abs(columns) <= 40
    y, x = rectangle(inside)
    assert inside[y, x].all()
    assert (y.stop - y.start) * (x.stop - x.start) >= 0.95 * 41 * 41  # the largest square in it
    assert rectangle(np.zeros((4, 4), bool)) == (slice(0, 0), slice(0, 0))


# ----------------------------------------------------------------------------------------------- regions and cubes


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(20, 400), height=st.integers(1, 30), gap=st.integers(1, 9),
    share=st.sampled_from([(0.7, 0.1, 0.2), (0.5, 0.5, 0.0), (0.0, 0.2, 0.8), (1.0, 0.0, 0.0), (1 / 3, 1 / 3, 1 / 3)]),
)  # fmt: skip
def test_regions_share_no_voxel(rows: int, height: int, gap: int, share: tuple[float, float, float]) -> None:
    used = [index for index, each in enumerate(share) if each]
    if rows < len(used) * height + (len(used) - 1) * gap:
        with pytest.raises(InputError, match="is too small for"):
            split_regions((4, rows, 8), share, (4, height, 8), gap=gap)
        return
    regions = split_regions((4, rows, 8), share, (4, height, 8), gap=gap)
    counts = [(region.stop - region.start) / height for region in regions]
    owner = np.zeros(rows, int)
    for number, region in enumerate(regions):
        owner[region] += 1 + 10 * number
    assert np.count_nonzero(owner) == sum(counts) * height  # no row is in two regions
    assert all(count == int(count) and (count >= 1) == (index in used) for index, count in enumerate(counts))
    assert all(second.start - first.stop >= gap for first, second in pairwise(regions[index] for index in used))
    assert sum(counts) == (rows - (len(used) - 1) * gap) // height  # as many cubes as fit
    assert regions[used[-1]].stop == rows or len(used) == 1
    wanted = np.array(share) * sum(counts)
    # One piece of rounding, and what the smallest regions were given beyond their share.
    assert np.all(np.abs(counts - wanted) <= 1 + np.maximum(1 - wanted, 0)[used].sum())


def test_cubes_tile_their_region() -> None:
    high = np.arange(9 * 50 * 21).reshape(9, 50, 21)
    low = high[::2]
    regions = split_regions(high.shape, (0.6, 0.2, 0.2), (4, 8, 10), gap=2)
    seen = np.zeros(high.shape, int)
    for region in regions:
        cubes = cubes_of(low, high, (4, 8, 10), axial_factor=2, rows=region)
        assert (cubes.low.shape[1:], cubes.high.shape[1:]) == ((2, 8, 10), (4, 8, 10))
        np.testing.assert_array_equal(cubes.low, cubes.high[:, ::2])
        for (z, y, x), cube in zip(cubes.positions, cubes.high, strict=True):
            assert region.start <= y
            assert y + 8 <= region.stop
            place = slice(z, z + 4), slice(y, y + 8), slice(x, x + 10)
            np.testing.assert_array_equal(cube, high[place])
            seen[place] += 1
    assert seen.max() == 1  # no voxel is in two cubes
    rows = sum(region.stop - region.start for region in regions)
    assert seen.sum() == 8 * rows * 20


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: split_regions((4, 99)), r"shape is \(4, 99\), expected three numbers \(z, y, x\)"),
        (lambda: split_regions((4, 99, 8), (0.5, 0.5, 0.5)), r"share is .* expected three numbers .* make 1"),
        (lambda: split_regions((4, 99, 8), (1.2, -0.2, 0.0)), "not negative"),
        (lambda: split_regions((4, 99, 8), piece=(4, 0, 8)), "at least 1 as piece along y, got 0"),
        (lambda: split_regions((4, 99, 8), piece=(5, 9, 8)), r"expected at least \(5, 29, 8\)"),
        (lambda: split_regions((4, 99, 8), piece=(4, 9, 8), gap=0), "gap"),
        (lambda: cubes_of(np.ones((4, 8, 8)), np.ones((4, 8, 9)), (4, 8, 8)), "expected three axes and the same y"),
        (lambda: cubes_of(np.ones((4, 8, 8)), np.ones((8, 8, 8)), (3, 8, 8), axial_factor=2), "multiple of axial_f"),
        (lambda: cubes_of(np.ones((4, 8, 8)), np.ones((4, 8, 8)), (4, 9, 8)), r"no cube of \(4, 9, 8\) fits into 4"),
        (lambda: cubes_of(*np.ones((2, 4, 8, 8)), (4, 4, 8), rows=slice(0, 8, 2)), "rows has step 2, expected 1"),
    ],
)  # fmt: skip
def test_regions_and_cubes_refuse(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
