"""LazyVolume: parts equal those of the array, whatever holds it, and stacks are those of `tensorcell.volume.stacks`."""

from __future__ import annotations

import dataclasses
import pickle
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorcell.errors import InputError
from tensorcell.lazy_volume import LazyVolume, lazy_stacks
from tensorcell.volume import Index, Volume, stacks

STACK = np.arange(120, dtype=np.uint16).reshape(4, 5, 6)


class Recorded:
    """An array-like that is no array, and remembers what was asked of it."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.shape, self.dtype = array, array.shape, array.dtype
        self.asked: list[Index] = []

    def __getitem__(self, where: Index) -> np.ndarray:
        self.asked.append(where)
        return self.array[where].copy()


def boxes(shape: tuple[int, ...]) -> st.SearchStrategy[tuple[slice, ...]]:
    """Slices that take something of each axis, with bounds counted from either end and beyond it."""

    def slices(size: int) -> st.SearchStrategy[slice]:
        bounds = st.one_of(st.none(), st.integers(-size - 1, size + 1))
        made = st.builds(slice, bounds, bounds, st.one_of(st.none(), st.integers(1, 3)))
        return made.filter(lambda one: len(range(*one.indices(size))) > 0)

    return st.tuples(*map(slices, shape))


def test_nothing_is_read_before_a_part_is_asked_for_and_then_only_that() -> None:
    data, mask = Recorded(STACK), Recorded(STACK % 2 == 0)
    volume = LazyVolume(data, mask=mask, metadata={"a": 1})
    assert (volume.shape, volume.dtype, volume.planes) == ((4, 5, 6), np.uint16, 4)
    assert not data.asked
    assert not mask.asked
    part = volume.part((slice(1, 2), slice(None), slice(-2, 99)))
    assert data.asked == mask.asked == [(slice(1, 2, 1), slice(0, 5, 1), slice(4, 6, 1))]
    assert isinstance(part, Volume)
    assert part.metadata == {"a": 1}


@given(boxes((4, 5, 6)))
def test_a_part_equals_the_slice_of_the_array(where: tuple[slice, ...]) -> None:
    mask = STACK % 7 != 0
    part = LazyVolume(Recorded(STACK), mask=Recorded(mask), spacing=(3, 2, 1)).part(where)
    np.testing.assert_array_equal(part.data, STACK[where])
    np.testing.assert_array_equal(part.mask, mask[where])
    assert part.spacing == tuple(step * (each.step or 1) for step, each in zip((3, 2, 1), where, strict=True))


def test_a_part_at_an_integer_has_an_axis_less() -> None:
    volume = LazyVolume(STACK[None], axes="TZYX", spacing=(3, 2, 1))
    part = volume.part((-1, 2, slice(None), slice(None, None, 2)))
    assert (part.axes, part.shape) == ("YX", (5, 3))
    assert part.spacing == (2, 2, 2)  # of a plane dz says nothing, and is dy
    np.testing.assert_array_equal(part.data, STACK[2, :, ::2])


@pytest.mark.parametrize("axes", ["".join(order) for order in permutations("CZYX")] + ["YX", "TXY"])
def test_lazy_stacks_are_those_of_the_volume_in_every_order_of_axes(axes: str) -> None:
    sizes = {"C": 2, "T": 3, "Z": 4, "Y": 5, "X": 6}
    shape = tuple(sizes[letter] for letter in axes)
    data = np.random.default_rng(0).integers(0, 99, shape)
    mask = data > 50
    volume = LazyVolume(Recorded(data), axes, mask=Recorded(mask))
    box = (slice(0, 1), slice(1, 4), slice(2, 6, 2))
    pairs = list(zip(lazy_stacks(volume), stacks(Volume(data, axes, mask=mask)), strict=True))
    for lazy, whole in pairs:
        assert (lazy.where, lazy.label, lazy.shape) == (whole.where, whole.label, whole.data.shape)
        values, measured = lazy.read(box)
        np.testing.assert_array_equal(values, whole.data[box])
        assert whole.mask is not None
        np.testing.assert_array_equal(measured, whole.mask[box])


def test_masked_entries_of_the_array_are_not_measured() -> None:
    part = LazyVolume(np.ma.masked_equal(STACK, 7)).part((slice(0, 2), slice(None), slice(None)))
    assert part.mask is not None
    np.testing.assert_array_equal(part.mask, STACK[:2] != 7)


def test_arrays_of_other_libraries_are_read(tmp_path: Any) -> None:
    h5py = pytest.importorskip("h5py")
    zarr = pytest.importorskip("zarr")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        kinds = [file.create_dataset("a", data=STACK, chunks=(2, 2, 2)), zarr.array(STACK, chunks=(2, 2, 2))]
        for data in kinds:
            part = LazyVolume(data).part((slice(1, 3), slice(0, 5, 2), slice(5, 6)))
            np.testing.assert_array_equal(part.data, STACK[1:3, ::2, 5:])


def test_lazy_volume_shows_one_line_and_is_frozen() -> None:
    volume = LazyVolume(Recorded(STACK), spacing=(0.5, 0.1, 1 / 3), mask=Recorded(STACK == 0))
    assert repr(volume) == "LazyVolume(4 x 5 x 6 ZYX, uint16, 0.5 x 0.1 x 0.333333 um, with mask)"
    with pytest.raises(dataclasses.FrozenInstanceError):
        volume.axes = "XYZ"  # type: ignore[misc]


def test_lazy_stacks_can_be_sent_to_another_process() -> None:
    stack = pickle.loads(pickle.dumps(next(lazy_stacks(LazyVolume(STACK)))))
    np.testing.assert_array_equal(stack.read((slice(0, 1),) * 3)[0], STACK[:1, :1, :1])


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"data": [[[1.0]]]}, r"data must be an array-like with shape, dtype and \[...\], got list"),
    ({"data": STACK.astype(complex)}, "data has dtype complex128, expected integers or floats"),
    ({"data": STACK[0]}, r"axes 'ZYX' name 3 axes, data has 2: \(5, 6\)"),
    ({"data": STACK[:0]}, r"data is empty: shape \(0, 5, 6\)"),
    ({"axes": "ZYY"}, "axes must be different upper-case letters"),
    ({"spacing": (0, 1, 1)}, "spacing must be positive and finite"),
    ({"mask": [True]}, "mask must be an array-like .* got list"),
    ({"mask": STACK}, r"mask must be a bool array \(True = measured\), got uint16"),
    ({"mask": STACK[1:] == 0}, r"mask has shape \(3, 5, 6\), data has shape \(4, 5, 6\)"),
    ({"metadata": [1]}, "metadata must be a mapping, got list"),
]


@pytest.mark.parametrize(("changed", "message"), REFUSED)
def test_lazy_volume_refuses_what_does_not_fit(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        LazyVolume(**{"data": STACK, **changed})


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ((slice(None),), r"has 1 entries, expected one for each axis of the shape \(4, 5, 6\)"),
        ((4, slice(None), slice(None)), "the index 4 lies outside, expected one below 4"),
        ((slice(4, 9), slice(None), slice(None)), "takes nothing of 4"),
        ((slice(None, None, -1), slice(None), slice(None)), "goes backwards"),
    ],
)
def test_part_refuses_an_index_that_takes_nothing(where: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        LazyVolume(STACK).part(where)


def test_a_length_that_is_not_known_is_one_line() -> None:
    unknown = Recorded(STACK)
    unknown.shape = (float("nan"), 5, 6)  # type: ignore[assignment]
    with pytest.raises(InputError, match=r"data must have a known length along each axis, got \(nan, 5, 6\); a dask"):
        LazyVolume(unknown)
    with pytest.raises(InputError, match="mask must have a known length"):
        LazyVolume(STACK, mask=unknown)
