"""A stack on its way into a computation: what counts as measured, and which planes tell a model something."""

from __future__ import annotations

import numpy as np
import pytest

from tensorcell.errors import InputError
from tensorcell.stack import GivenStack, check_planes, given_stack, measured_stack


def given(shares: list[float], side: int = 40, seed: int = 0) -> GivenStack:
    """A stack whose planes have these shares of measured voxels, exactly."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((len(shares), side * side), bool)
    for plane, share in zip(mask, shares, strict=True):
        plane[rng.permutation(side * side)[: round(share * side * side)]] = True
    return given_stack(rng.random((len(shares), side, side)), mask.reshape(-1, side, side))


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf, 1e300])
def test_given_stack_keeps_what_is_measured_and_nothing_else(garbage: float) -> None:
    rng = np.random.default_rng(0)
    data, mask = rng.random((3, 4, 5)), rng.random((3, 4, 5)) < 0.5
    data[0, 0, 0] = np.nan
    expected = mask & ~np.isnan(data)
    stack = given_stack(np.where(mask, data, garbage), mask)
    np.testing.assert_array_equal(stack.mask, expected)
    np.testing.assert_array_equal(stack.values, np.where(expected, data, 0))
    assert (stack.lowest, stack.highest) == (data[expected].min(), data[expected].max())
    assert not stack.complete
    assert given_stack(np.ones((3, 4, 5)), None).complete
    assert given_stack(np.full((3, 4, 5), 7), mask).constant


def test_measured_stack_sets_planes_of_next_to_nothing_aside_and_no_others() -> None:
    """One voxel in two hundred tells no model anything; one in thirty does, and so does one in ten."""
    shares = [0.9, 0.0, 0.03, 0.1, 0.005, 0.5]
    stack = measured_stack(given(shares))
    np.testing.assert_array_equal(stack.planes, [0, 2, 3, 5])
    assert (stack.given_planes, stack.some_set_aside) == (6, True)
    np.testing.assert_array_equal(stack.values, given(shares).values[[0, 2, 3, 5]])
    np.testing.assert_array_equal(stack.mask, given(shares).mask[[0, 2, 3, 5]])


def test_measured_stack_keeps_planes_that_hold_as_little_as_the_others() -> None:
    """Where all planes hold little, few voxels are no reason; a plane with less than half of the fullest one's is."""
    stack = measured_stack(given([0.005, 0.004, 0.005, 0.003]))
    np.testing.assert_array_equal(stack.planes, np.arange(4))
    assert not stack.some_set_aside
    np.testing.assert_array_equal(measured_stack(given([0.005, 0.005, 0.001])).planes, [0, 1])


def test_check_planes_wants_two() -> None:
    values = np.ones((3, 4, 5))
    mask = np.ones((3, 4, 5), bool)
    mask[2] = False
    check_planes(measured_stack(GivenStack(values, mask, 0, 1)))
    mask[1:] = False
    with pytest.raises(InputError, match="at least 2 measured planes, got 1 of 3"):
        check_planes(measured_stack(GivenStack(values, mask, 0, 1)))
