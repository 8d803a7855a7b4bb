"""Parts of a stack: how it is cut, what its sample is, and that parts are recovered as the whole is."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from tensorcell.datasets import simulate_cells
from tensorcell.errors import InputError
from tensorcell.large.cut import GRID, Box, Cut, boxes, cut, voxels
from tensorcell.large.part import PartResult, in_wanted, recovered_part
from tensorcell.large.sample import LEAST, Layout, chosen_blocks, layout_of, sampled, settled_by
from tensorcell.large.survey import surveyed
from tensorcell.plane_grid import PlaneGrid
from tensorcell.recovery import checked_request
from tensorcell.settled import Settled
from tensorcell.solvers import LocalOptions, local_tucker
from tensorcell.stack_recovery import Request, StackResult
from tensorcell.volume import Stack

Array = Any


class Source:
    """A stack in memory."""

    def __init__(self, data: Array, mask: Array | None = None) -> None:
        self.data, self.mask, self.shape = data, mask, data.shape
        self.read_voxels = 0

    def read(self, box: Box) -> tuple[Array, Array | None]:
        self.read_voxels += voxels(box)
        return self.data[box], None if self.mask is None else self.mask[box]


def request_of(shape: tuple[int, ...], axial: int = 1, **changed: Any) -> Request:
    arguments: dict[str, Any] = {
        "lateral_factor": 1, "rank": "auto", "noise": "auto", "nonnegative": "auto", "keep_measured": "auto",
        "psf_fwhm": None, "spacing": None, "seed": 0, "callback": None,
    }  # fmt: skip
    method = changed.pop("method", "auto")
    grid = PlaneGrid(shape[0], Fraction(axial))
    return checked_request(method, {}, "cpu", grid=grid, **(arguments | changed))


def settled_by_whole(source: Source, request: Request) -> tuple[Request, StackResult]:
    """What the parts share, found on the whole stack, so that nothing but borders can differ."""
    complete = source.mask is None or bool(source.mask.all())
    return settled_by(Stack((), "", source.data, source.mask), request, complete=complete)


def in_parts(source: Source, request: Request, parts: Cut) -> tuple[Array, Array, list[PartResult]]:
    shape = (request.grid.planes, *source.shape[1:])
    value, error, found = np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32), []
    for part in parts.parts():
        one = recovered_part(source, part, "", request, ("OUT", "uncertainty"))
        where = in_wanted(part.inner, request)
        value[where], error[where] = one.arrays["OUT"], one.arrays["uncertainty"]
        found.append(one)
    return value, error, found


def cells(shape: tuple[int, int, int] = (16, 72, 72), sigma: float = 0.1, seed: int = 0) -> tuple[Array, Array]:
    """Cells of intensities about 0 to 1, and the same with noise."""
    truth = np.asarray(simulate_cells(shape, cells=12, seed=seed).truth, np.float32)
    truth = truth / np.percentile(truth, 99.5)
    noise = sigma * np.random.default_rng(seed).standard_normal(shape)
    return truth, (truth + noise).astype(np.float32)


@pytest.mark.parametrize("shape", [(7, 100, 300), (100, 100, 100), (1, 500, 400), (300, 50, 60), (61, 64, 200)])
@pytest.mark.parametrize("most", [4.5e5, 1e6])
@pytest.mark.parametrize("chunk", [1, 32])
def test_parts_cover_a_stack_once_and_have_their_rims(shape: tuple[int, int, int], most: float, chunk: int) -> None:
    found = cut(shape, most, 16, chunks=(1, chunk, chunk))
    seen = np.zeros(shape, int)
    total = 0
    for part in found.parts():
        seen[part.inner] += 1
        assert voxels(part.outer) <= most
        total += voxels(part.outer)
        for inner, outer, size, step in zip(part.inner, part.outer, shape, (1, chunk, chunk), strict=True):
            assert (outer.start % GRID, inner.start % step) == (0, 0)
            assert outer.start <= max(0, inner.start - 16)
            assert outer.stop >= min(size, inner.stop + 16)
        assert np.zeros(shape)[part.outer][part.within].shape == np.zeros(shape)[part.inner].shape
    assert (seen == 1).all()
    assert (found.total, found.number) == (total, len(list(found.parts())))
    assert found.largest == max(voxels(part.outer) for part in found.parts())


def test_a_stack_that_fits_is_one_part_and_planes_stay_together_where_they_must() -> None:
    assert cut((50, 60, 70), 50 * 60 * 70, 16).number == 1
    assert cut((50, 200, 200), 5e5, 16, whole_z=True).sides[0] == 50
    with pytest.raises(InputError, match="expected memory for parts of at least"):
        cut((2000, 200, 200), 1e5, 16, whole_z=True)


def test_a_survey_counts_what_was_measured_and_finds_what_stops_a_recovery() -> None:
    rng = np.random.default_rng(0)
    data = rng.normal(5, 2, (9, 20, 21)).astype(np.float32)
    data[2, 3, 4] = np.nan
    mask = rng.random(data.shape) < 0.5
    source = Source(data, mask)
    found = surveyed(source, (4, 8, 8))
    known = mask & ~np.isnan(data)
    assert (found.measured, found.voxels, found.complete) == (known.sum(), data.size, False)
    assert (found.lowest, found.highest) == (data[known].min(), data[known].max())
    assert source.read_voxels == data.size  # one pass
    block = next(each for each in found.blocks if each.box == (slice(0, 4), slice(8, 16), slice(8, 16)))
    assert block.contrast == pytest.approx(data[block.box][known[block.box]].std(), rel=1e-5)
    data[8, 19, 20] = np.inf
    with pytest.raises(InputError, match="got 1 infinite"):
        surveyed(Source(data), (4, 8, 8))
    with pytest.raises(InputError, match="at least one measured voxel, got none of 3780"):
        surveyed(Source(data, np.zeros_like(mask)), (4, 8, 8))


def test_the_sample_holds_the_block_with_structure_however_rare_it_is() -> None:
    data = np.random.default_rng(0).normal(0, 1, (16, 160, 160)).astype(np.float32)
    data[:, 96:112, 128:144] += 50 * np.indices((16, 16, 16)).sum(0) % 7
    source, layout = Source(data), Layout((1, 2, 4), (16, 16, 16))
    chosen = chosen_blocks(surveyed(source, layout.sides), layout)
    assert (slice(0, 16), slice(96, 112), slice(128, 144)) in chosen
    values, mask = sampled(source, chosen, layout)
    assert values.shape == (16, 32, 64)
    assert mask is None
    parts = {values[:, 16 * j : 16 * j + 16, 16 * i : 16 * i + 16].tobytes() for j in range(2) for i in range(4)}
    assert parts == {np.ascontiguousarray(data[box]).tobytes() for box in chosen}


@pytest.mark.parametrize("rows", [32, 48, 160])
def test_no_block_is_twice_in_a_sample(rows: int) -> None:
    data = np.random.default_rng(0).normal(0, 1, (4, rows, 64)).astype(np.float32)
    layout = Layout((1, 2, 4), (4, 16, 16))
    blocks = surveyed(Source(data), layout.sides).blocks
    chosen = chosen_blocks(surveyed(Source(data), layout.sides), layout)
    assert len({str(box) for box in chosen}) == 8
    assert chosen[-1] == max(blocks, key=lambda block: block.contrast).box


def test_a_block_at_the_end_is_moved_to_be_whole() -> None:
    data = np.zeros((4, 20, 20), np.float32)
    data[:, 17:, 17:] = np.random.default_rng(0).normal(0, 9, (4, 3, 3))
    mask = np.zeros(data.shape, bool)
    mask[:, 16:, 16:] = True
    layout = Layout((1, 2, 4), (4, 8, 8))
    chosen = chosen_blocks(surveyed(Source(data, mask), layout.sides), layout)
    assert chosen == [(slice(0, 4), slice(12, 20), slice(12, 20))]
    values, measured = sampled(Source(data, mask), chosen, layout)  # there is no other
    np.testing.assert_array_equal(values, data[:, 12:, 12:])
    np.testing.assert_array_equal(measured, mask[:, 12:, 12:])


def test_a_small_stack_is_its_own_sample() -> None:
    """Of a few thousand voxels the noise of real cells came out five times too large."""
    layout = layout_of((12, 90, 100), 5000, whole_z=False)
    source = Source(np.random.default_rng(0).normal(0, 1, (12, 90, 100)).astype(np.float32))
    chosen = chosen_blocks(surveyed(source, layout.sides), layout)
    values, _ = sampled(source, chosen, layout)
    np.testing.assert_array_equal(values, source.data)
    large = layout_of((100, 1000, 1000), 5000, whole_z=False)
    assert 0.9 * LEAST < np.prod(large.shape) <= LEAST


def test_blocks_without_measured_voxels_are_not_in_the_sample() -> None:
    data = np.random.default_rng(0).normal(0, 1, (4, 64, 64)).astype(np.float32)
    mask = np.zeros(data.shape, bool)
    mask[:, :32] = True
    layout = Layout((1, 2, 4), (4, 16, 16))
    chosen = chosen_blocks(surveyed(Source(data, mask), layout.sides), layout)
    assert all(box[1].stop <= 32 for box in chosen)


def test_a_part_is_denoised_as_the_whole_is() -> None:
    """With weights of the whole, a voxel as far from the border as filters reach has the same value."""
    truth, noisy = cells((12, 60, 132))
    whole = local_tucker(noisy, noise=0.1)
    assert whole.laws is not None
    inner = (slice(0, 12), slice(0, 60), slice(48, 60))
    part = local_tucker(noisy[:, :, :108], noise=0.1, laws=whole.laws, inner=inner)
    assert np.abs(part.value[inner] - whole.value[inner]).max() < 1e-5 * truth.max()
    assert np.abs(part.error[inner] - whole.error[inner]).max() < 1e-5 * truth.max()
    own = local_tucker(noisy[:, :, :108], noise=0.1)
    assert np.abs(own.value[inner] - whole.value[inner]).max() > 1e-3  # its own weights are others


def test_what_is_not_wanted_of_a_part_changes_nothing_inside() -> None:
    _, noisy = cells((12, 60, 108))
    inner = (slice(0, 12), slice(0, 60), slice(0, 24))
    laws = local_tucker(noisy, noise=0.1).laws
    every, some = (local_tucker(noisy, noise=0.1, laws=laws, inner=box) for box in (None, inner))
    assert np.abs(some.value[inner] - every.value[inner]).max() < 1e-5
    rng = np.random.default_rng(0)
    mask = rng.random(noisy.shape) < 0.5
    options = LocalOptions(sweeps=2)
    every, some = (
        local_tucker(noisy, mask, noise=0.1, denoise=False, robust=False, options=options, inner=box)
        for box in (None, inner)
    )
    assert np.abs(some.value[inner] - every.value[inner]).max() < 1e-5
    assert not np.array_equal(some.value, every.value)


@pytest.mark.parametrize("what", ["complete", "gaps", "planes"])
def test_parts_are_as_good_as_the_whole_and_no_border_shows(what: str) -> None:
    truth, noisy = cells()
    mask = np.random.default_rng(1).random(truth.shape) < 0.5 if what == "gaps" else None
    axial = 2 if what == "planes" else 1
    given = truth[::2] if what == "planes" else noisy
    source = Source(np.ascontiguousarray(given), mask)
    request, whole = settled_by_whole(source, request_of(given.shape, axial))
    value, error, found = in_parts(source, request, Cut(given.shape, (given.shape[0], 72, 36), 16))
    truth = truth[: len(value)]
    off, difference = whole.volume - truth, value - whole.volume
    assert np.isfinite(value).all()
    assert (error >= 0).all()
    assert np.sqrt(np.mean((value - truth) ** 2)) < 1.03 * np.sqrt(np.mean(off**2))
    assert np.sqrt(np.mean(difference**2)) < {"complete": 0.02, "gaps": 0.15, "planes": 0.3}[what] * off.std()
    steps = np.abs(np.diff(value - truth, axis=2)).mean(axis=(0, 1))  # of the error from pixel to pixel
    assert steps[35] < 1.3 * np.median(steps)
    kept = np.mean(np.abs(value - truth) <= 1.645 * error)
    assert kept > np.mean(np.abs(off) <= 1.645 * whole.uncertainty) - 0.02
    assert sum(one.facts.measured for one in found) == int(whole.measured.sum())


def test_spots_that_the_sample_does_not_hold_are_kept() -> None:
    truth, noisy = cells((12, 60, 96))
    request, _ = settled_by_whole(Source(noisy), request_of(noisy.shape))
    z, y, x = np.indices((5, 5, 5)) - 2
    spot = 2.0 * np.exp(-(z**2 + y**2 + x**2) / 2)
    moved = noisy.copy()
    moved[4:9, 10:15, 70:75] += spot.astype(np.float32)
    value, *_ = in_parts(Source(moved), request, Cut(noisy.shape, (12, 60, 48), 16))
    assert value[6, 12, 72] > truth[6, 12, 72] + 1.6


def test_a_part_of_one_value_has_the_noise_of_the_stack() -> None:
    """Padding, or a detector at its end: nothing there shows the noise, and certainty would be wrong."""
    _, noisy = cells((12, 60, 96))
    noisy[:, :, 40:] = 0
    request, whole = settled_by_whole(Source(noisy), request_of(noisy.shape))
    value, error, found = in_parts(Source(noisy), request, Cut(noisy.shape, (12, 60, 24), 16))
    assert (value[:, :, 72:] == 0).all()
    assert error[:, :, 72:].min() >= whole.noise * 0.99
    assert found[-1].facts.noise == whole.noise


def test_a_part_of_which_hardly_anything_was_measured_is_not_certain() -> None:
    _, noisy = cells((12, 60, 96))
    mask = np.random.default_rng(0).random(noisy.shape) < 0.7
    mask[:, :, 60:] = False
    request, _ = settled_by_whole(Source(noisy, mask), request_of(noisy.shape))
    parts = Cut(noisy.shape, (12, 60, 24), 12)
    value, _, found = in_parts(Source(noisy, mask), request, parts)
    assert np.isnan(value[:, :, 72:]).all()
    assert found[-1].facts.reason
    assert "kept as measured" in found[-1].facts.notes[0]
    assert np.isfinite(value[:, :, :60]).all()
    mask[3, 5, 90] = True  # a single voxel tells nothing of the others
    value, error, _ = in_parts(Source(noisy, mask), request, parts)
    assert value[3, 5, 90] == noisy[3, 5, 90]
    assert error[3, 5, 90] == pytest.approx(request.settled.told("noise in the unit given"))
    assert np.median(error[:, :, 72:]) > 0.8 * noisy.std()


def test_parts_take_the_unit_of_the_sample() -> None:
    """A part of background only would have another unit of computations, in which the law of the noise is wrong."""
    truth, noisy = cells((12, 60, 96))
    scale = 1e-12
    request, whole = settled_by_whole(Source(scale * noisy), request_of(noisy.shape))
    value, _, found = in_parts(Source(scale * noisy), request, Cut(noisy.shape, (12, 60, 48), 16))
    assert all(one.facts.noise == pytest.approx(whole.noise) for one in found)
    assert np.abs(value - whole.volume).max() < 0.1 * scale * 0.1 + 3 * whole.noise
    assert np.sqrt(np.mean((value / scale - truth) ** 2)) < 0.06


def test_a_rank_that_was_given_is_cut_to_that_of_a_part() -> None:
    _, noisy = cells((12, 60, 96))
    request, _ = settled_by_whole(Source(noisy), request_of(noisy.shape, rank=(12, 60, 60)))
    _, _, found = in_parts(Source(noisy), request, Cut(noisy.shape, (12, 24, 48), 12))
    assert {one.facts.rank for one in found} == {(12, 24, 60), (12, 36, 60), (12, 48, 60)}


def test_what_a_sample_settles_is_not_found_again() -> None:
    _, noisy = cells((12, 64, 64))
    request, _ = settled_by_whole(Source(noisy), request_of(noisy.shape))
    assert {"unit", "noise", "rank", "weights", "complete", "contrast"} <= set(request.settled.found)
    nothing = replace(request, settled=Settled())
    cut_ = Cut(noisy.shape, (12, 64, 36), 12)
    noises = [
        {round(one.facts.noise, 9) for one in in_parts(Source(noisy), each, cut_)[2]} for each in (request, nothing)
    ]
    assert [len(each) for each in noises] == [1, 2]


def test_boxes_are_in_the_order_of_a_file() -> None:
    found = list(boxes((4, 6, 8), (2, 6, 5)))
    assert len(found) == 4
    assert found[1] == (slice(0, 2), slice(0, 6), slice(5, 8))
