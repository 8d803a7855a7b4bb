"""What a valid argument is, for every function that takes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import tensorcell as tc
from tensorcell import arguments
from tensorcell.errors import InputError

STACK = np.random.default_rng(0).random((6, 12, 12)).astype(np.float32)

EVERYWHERE: dict[str, Callable[..., Any]] = {"recover": tc.recover, "diagnose": tc.diagnose}


@pytest.mark.parametrize("function", EVERYWHERE.values(), ids=EVERYWHERE)
@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("noise", True, "expected noise 'auto' or a standard deviation of at least 0, got True"),
        ("noise", -1, "expected noise 'auto' or a standard deviation of at least 0, got -1"),
        ("noise", "some", "expected noise 'auto' or a standard deviation of at least 0, got 'some'"),
        ("noise", np.nan, "expected noise 'auto' or a standard deviation of at least 0, got nan"),
        ("seed", True, "expected a whole number of at least 0 as seed, got True"),
        ("seed", -1, "expected a whole number of at least 0 as seed, got -1"),
        ("seed", "one", "expected a whole number of at least 0 as seed, got 'one'"),
        ("axial_factor", True, "expected a whole number of at least 1 as axial factor, got True"),
        ("axial_factor", 1.5, "expected a whole number of at least 1 as axial factor, got 1.5"),
        ("rank", (2, 2), "rank has 2 entries, a stack has 3 axes"),
        ("rank", True, "expected whole numbers of at least 1 as rank, got True"),
        ("rank", (7, 7, 7), "rank 7 along z is larger than the"),
    ],
)
def test_a_bad_argument_is_the_same_line_everywhere(
    function: Callable[..., Any], name: str, value: Any, expected: str
) -> None:
    with pytest.raises(InputError) as error:
        function(STACK, **{name: value})
    assert str(error.value).startswith(expected)


@pytest.mark.parametrize("value", [3, 3.0, np.int64(3), np.float32(3)])
def test_whole_numbers_of_any_kind_are_taken(value: Any) -> None:
    found = arguments.whole_number("repeats", value)
    assert found == 3
    assert type(found) is int


@pytest.mark.parametrize("value", [10**101, 10**400, 10.0**300])
def test_no_stack_has_as_many_planes_as_a_huge_factor_asks_for(value: Any) -> None:
    with pytest.raises(InputError, match="expected an axial factor of at most 1e100, got a larger one"):
        arguments.checked_axial_factor(value)


@dataclass(frozen=True, kw_only=True)
class Small:
    sweeps: int = 6

    def __post_init__(self) -> None:
        if self.sweeps < 1:
            raise ValueError(f"expected sweeps of at least 1, got {self.sweeps}")


@dataclass(frozen=True, kw_only=True)
class Other:
    tolerance: float = 1e-2


def test_options_go_to_the_class_that_has_them() -> None:
    found = arguments.options_of((Small, Other), {"sweeps": 3, "tolerance": 0.5}, "local")
    assert found == {Small: Small(sweeps=3), Other: Other(tolerance=0.5)}
    assert arguments.options_of((Small, Other), {}, "local") == {Small: Small(), Other: Other()}


def test_an_unknown_option_names_the_near_ones_and_the_method() -> None:
    with pytest.raises(TypeError, match="method 'local' has no option 'sweps'; did you mean sweeps"):
        arguments.options_of((Small, Other), {"sweps": 3}, "local")
    with pytest.raises(TypeError, match="method 'local' has no option 'qqq'; it has sweeps, tolerance"):
        arguments.options_of((Small, Other), {"qqq": 3}, "local")
    with pytest.raises(TypeError, match="method 'auto' has no option 'sweps'; did you mean"):
        tc.recover(STACK, sweps=3)
    with pytest.raises(TypeError, match="method 'tucker' has no option 'sweeps'"):
        tc.recover(STACK, method="tucker", sweeps=3)


def test_what_an_option_class_refuses_is_the_users_to_mend() -> None:
    with pytest.raises(InputError, match="expected sweeps of at least 1, got 0"):
        arguments.options_of((Small,), {"sweeps": 0}, "local")


@pytest.mark.parametrize(
    ("option", "value"),
    [("sweeps", 2.5), ("sweeps", None), ("group", True), ("patch", "5"), ("patch", (5, 5)), ("robust", "yes"),
     ("tolerance", "small"), ("max_iterations", 1.5), ("neighbours", 1)],
)  # fmt: skip
def test_options_of_the_wrong_type_are_refused_by_name(option: str, value: Any) -> None:
    with pytest.raises(InputError, match=option):
        tc.recover(STACK, **{option: value})
