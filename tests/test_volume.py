"""Volume: what it takes, what it refuses and in which words, and how it comes apart into stacks."""

from __future__ import annotations

import dataclasses
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorcell.errors import InputError
from tensorcell.volume import Volume, stacks, zyx_view

STACK = np.zeros((3, 4, 5), np.uint16)


def test_volume_keeps_the_array_itself() -> None:
    data = np.zeros((3, 4, 5))[:, ::-1]
    mask = np.ones((3, 4, 5), bool)
    volume = Volume(data, mask=mask, metadata={"channel_names": ("a",)})
    assert volume.data is data
    assert volume.mask is mask
    assert volume.spacing is None
    assert volume.shape == (3, 4, 5)
    assert volume.dtype == np.float64


def test_volume_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Volume(STACK).axes = "XYZ"  # type: ignore[misc]


def test_volume_spacing_becomes_floats() -> None:
    assert Volume(STACK, spacing=np.array([2, 1, 1])).spacing == (2.0, 1.0, 1.0)  # type: ignore[arg-type]
    assert all(type(step) is float for step in Volume(STACK, spacing=(2, 1, 1)).spacing or ())


@pytest.mark.parametrize("dtype", ["bool", "i1", "u2", ">u2", "i4", "u8", "f2", "f4", "f8"])
def test_volume_takes_real_dtypes(dtype: str) -> None:
    assert Volume(np.zeros((2, 2, 2), dtype)).dtype == np.dtype(dtype)


def test_volume_shows_one_line() -> None:
    shown = repr(Volume(STACK, spacing=(0.5, 0.1, 1 / 3), mask=STACK == 0))
    assert shown == "Volume(3 x 4 x 5 ZYX, uint16, 0.5 x 0.1 x 0.333333 um, with mask)"
    assert repr(Volume(STACK)) == "Volume(3 x 4 x 5 ZYX, uint16, spacing unknown)"


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"data": [[[1.0]]]}, "data must be a NumPy array, got list"),
    ({"data": STACK.astype(complex)}, "data has dtype complex128, expected integers or floats"),
    ({"data": STACK.astype(object)}, "data has dtype object, expected"),
    ({"data": STACK.astype(str)}, "data has dtype <U5, expected"),
    ({"data": STACK.astype(np.longdouble)}, "of at most 64 bits"),
    ({"data": STACK[0]}, r"axes 'ZYX' name 3 axes, data has 2: \(4, 5\)"),
    ({"data": STACK[0, 0]}, r"data has 1 axis \(5,\), expected a plane"),
    ({"data": np.array(1.0)}, r"data has 0 axes \(\), expected a plane"),
    ({"data": STACK[:0]}, r"data is empty: shape \(0, 4, 5\)"),
    ({"axes": 3}, "axes must be a string such as 'ZYX', got int"),
    ({"axes": "zyx"}, "axes must be different upper-case letters such as 'TZYX', got 'zyx'"),
    ({"axes": "ZYY"}, "axes must be different upper-case letters"),
    ({"axes": "TZYX"}, r"axes 'TZYX' name 4 axes, data has 3: \(3, 4, 5\)"),
    ({"axes": "YXS"}, "hold colour samples"),
    ({"axes": "TZY"}, "axes 'TZY' hold no planes, expected Y and X among them"),
    ({"spacing": 0.5}, r"spacing must be three numbers \(dz, dy, dx\), got 0.5"),
    ({"spacing": (1, 1)}, "spacing must be three numbers"),
    ({"spacing": ("a", 1, 1)}, "spacing must be three numbers"),
    ({"spacing": (0, 1, 1)}, "spacing must be positive and finite"),
    ({"spacing": (1, np.nan, 1)}, "spacing must be positive and finite"),
    ({"spacing": (1, 1, np.inf)}, "spacing must be positive and finite"),
    ({"mask": STACK}, r"mask must be a bool array \(True = measured\), got uint16"),
    ({"mask": [True]}, "mask must be a bool array .* got list"),
    ({"mask": STACK[1:] == 0}, r"mask has shape \(2, 4, 5\), data has shape \(3, 4, 5\)"),
    ({"metadata": [1]}, "metadata must be a mapping, got list"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=[str(i) for i in range(len(REFUSED))])
def test_volume_refuses_in_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        Volume(**{"data": STACK, **change})
    assert "\n" not in str(caught.value)


def test_from_array_names_three_axes() -> None:
    data = np.zeros((3, 4, 5))
    volume = Volume.from_array(data)
    assert volume.axes == "ZYX"
    assert volume.data is data


def test_from_array_takes_lists_and_read_only_arrays() -> None:
    assert Volume.from_array([[[1, 2]], [[3, 4]]]).shape == (2, 1, 2)
    data = np.zeros((3, 4, 5))
    data.flags.writeable = False
    assert Volume.from_array(data).data is data


def test_from_array_completes_a_volume() -> None:
    first = Volume(STACK, spacing=(3, 2, 1), mask=STACK == 0, metadata={"a": 1})
    assert Volume.from_array(first) is first
    other = Volume.from_array(first, axes="XYZ", spacing=(1, 1, 1))
    assert (other.axes, other.spacing, other.metadata) == ("XYZ", (1.0, 1.0, 1.0), {"a": 1})
    assert other.mask is first.mask
    assert first.axes == "ZYX"


def test_from_array_joins_masks() -> None:
    """Measured = in every mask; a masked array's mask has the opposite polarity (True = left out)."""
    data = np.ma.masked_array(STACK.astype(float), mask=False)
    data[0] = np.ma.masked
    given_mask = np.ones(STACK.shape, np.uint8)
    given_mask[1] = 0
    volume = Volume.from_array(data, mask=given_mask)
    assert type(volume.data) is np.ndarray
    assert volume.mask is not None
    assert volume.mask.dtype == bool
    assert [bool(plane.all()) for plane in volume.mask] == [False, False, True]
    assert [bool(plane.any()) for plane in volume.mask] == [False, False, True]


COUNTS = np.arange(60.0).reshape(3, 4, 5)
HIDDEN = np.random.default_rng(0).random(COUNTS.shape) < 0.4


def masked_stacks() -> dict[str, tuple[Any, Any]]:
    """Data and mask with garbage under the mask of a masked array, in every place where one may stand."""
    garbage = np.where(HIDDEN, 1e9, COUNTS)
    whole, valid = np.ma.array(garbage, mask=HIDDEN), np.ma.array(np.ones(COUNTS.shape, bool), mask=HIDDEN)
    planes = [np.ma.array(plane, mask=part) for plane, part in zip(garbage, HIDDEN, strict=True)]
    plain = [np.where(part, np.nan, plane) for plane, part in zip(COUNTS, HIDDEN, strict=True)]
    return {
        "array": (whole, None),
        "volume": (Volume(data=whole), None),
        "mask of a volume": (Volume(garbage, mask=valid), None),
        "mask": (garbage, valid),
        "mask of integers": (garbage, valid.astype(int)),
        "list of planes": (planes, None),
        "tuple with plain planes": ((planes[0], *plain[1:]), None),
        "list of masks": (garbage, [np.ma.array(np.ones(part.shape, bool), mask=part) for part in HIDDEN]),
    }


@pytest.mark.parametrize("place", masked_stacks())
def test_what_a_masked_array_hides_is_not_measured(place: str) -> None:
    data, mask = masked_stacks()[place]
    volume = Volume.from_array(data, mask=mask)
    (part,) = stacks(volume)
    measured = ~np.isnan(part.data) & (True if part.mask is None else part.mask)
    np.testing.assert_array_equal(measured, ~HIDDEN)
    assert type(volume.data) is np.ndarray
    assert type(volume.mask) is np.ndarray
    np.testing.assert_array_equal(volume.data[measured], COUNTS[~HIDDEN])


def test_frames_and_planes_in_nested_lists_keep_their_masks() -> None:
    frames = [[np.ma.masked_equal(plane, 7.0) for plane in COUNTS], list(COUNTS)]
    mask = Volume.from_array(frames, axes="TZYX").mask
    assert mask is not None
    np.testing.assert_array_equal(mask, [COUNTS != 7, np.ones(COUNTS.shape)])


def test_a_masked_array_in_a_volume_is_joined_with_its_mask() -> None:
    data = np.ma.masked_equal(COUNTS, 59.0)
    np.testing.assert_array_equal(Volume(data, mask=COUNTS > 0).mask, (COUNTS > 0) & (COUNTS < 59))
    with pytest.raises(InputError, match="mask"):
        Volume(data, mask=np.ones((1, 2, 3), bool))
    with pytest.raises(InputError, match="mask must be a bool array"):
        Volume(data, mask=np.ma.array(COUNTS))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            np.zeros((2, 3, 4, 5)),
            r"data has 4 axes \(2, 3, 4, 5\) without names; pass axes=, for example axes=",
        ),
        (np.zeros((9, 8, 7, 3), np.uint8), "the last looks like RGB samples; pass axes="),
        (np.zeros((64, 48, 3), np.uint8), "looks like an RGB photo, expected a stack of planes"),
        (np.zeros((64, 48, 4), np.uint8), "looks like an RGB photo"),
        (np.zeros(64), "expected a plane"),
        ("stack.tif", "data is the path 'stack.tif', expected an array; use tensorcell.read"),
        (Path("stack.tif"), "data is the path 'stack.tif'"),
        (None, "data is of type NoneType, expected an array"),
        ([[1, 2], [3]], "data of type list is not an array"),
        ({"a": 1}, "data is a dict of several arrays, expected one of them: a"),
    ],
)
def test_from_array_refuses(data: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        Volume.from_array(data)
    assert "\n" not in str(caught.value)


def test_from_array_believes_axes_about_a_narrow_stack() -> None:
    assert Volume.from_array(np.zeros((64, 48, 3), np.uint8), axes="ZYX").shape == (64, 48, 3)


def test_from_array_refuses_a_float_mask() -> None:
    with pytest.raises(InputError, match=r"mask must be bool or integer .* got float64"):
        Volume.from_array(STACK, mask=np.ones(STACK.shape))
    with pytest.raises(InputError, match="mask has shape"):
        Volume.from_array(STACK, mask=np.ones((3, 4), bool))


@given(st.permutations("TCZYX"), st.integers(3, 5))
def test_stacks_are_the_zyx_views_of_each_frame_and_channel(order: list[str], count: int) -> None:
    letters = [letter for letter in order if letter in "TCZYX"[5 - count :]]
    axes = "".join(letters)
    sizes = dict(zip("TCZYX", (2, 3, 4, 5, 6), strict=True))
    data = np.arange(np.prod([sizes[a] for a in axes])).reshape([sizes[a] for a in axes])
    volume = Volume(data, axes, mask=data % 3 == 0)
    found = list(stacks(volume))
    outer = [a for a in axes if a not in "ZYX"]
    assert len(found) == np.prod([sizes[a] for a in outer])
    reference = np.moveaxis(data, [axes.index(a) for a in outer], range(len(outer)))
    inner = [a for a in axes if a in "ZYX"]
    for stack in found:
        indices = {a: stack.where[axes.index(a)] for a in outer}
        expected = reference[tuple(indices[a] for a in outer)].transpose([inner.index(a) for a in "ZYX"])
        np.testing.assert_array_equal(stack.data, expected)
        assert stack.mask is not None
        np.testing.assert_array_equal(stack.mask, expected % 3 == 0)
        assert stack.label == ", ".join(f"{a}={indices[a]}" for a in outer)
        assert np.shares_memory(stack.data, data)


@pytest.mark.parametrize("axes", ["".join(p) for p in permutations("CZYX")][::5])
def test_zyx_view_puts_results_of_another_length_back(axes: str) -> None:
    """As after filling planes: Z grows from 4 to 7, the rest stays."""
    sizes = {"C": 2, "Z": 4, "Y": 5, "X": 6}
    volume = Volume(np.random.default_rng(0).normal(size=[sizes[a] for a in axes]), axes)
    out = np.full([{**sizes, "Z": 7}[a] for a in axes], np.nan)
    for stack in stacks(volume):
        zyx_view(out, axes, stack.where)[::2] = stack.data
        zyx_view(out, axes, stack.where)[1::2] = 0
    assert not np.isnan(out).any()
    every_second = tuple(slice(None, None, 2) if a == "Z" else slice(None) for a in axes)
    np.testing.assert_array_equal(out[every_second], volume.data)


def test_stacks_of_a_plain_stack_is_itself() -> None:
    (only,) = stacks(Volume(STACK))
    assert only.label == ""
    assert only.mask is None
    assert only.data.base is STACK or only.data is STACK
