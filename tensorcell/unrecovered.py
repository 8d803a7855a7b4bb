"""Stacks of a volume that cannot be recovered: they are found before any work, and do not lose the others."""

from __future__ import annotations

import numpy as np

from tensorcell.errors import InputError
from tensorcell.solvers import Status
from tensorcell.stack import float_type
from tensorcell.stack_recovery import (
    Request,
    StackResult,
    check_arguments,
    checked_stack,
    with_finer_pixels,
)
from tensorcell.volume import Stack, Volume, stacks


def refusals(volume: Volume, request: Request) -> dict[str, str]:
    """For each stack that cannot be recovered, by its label, the reason.

    Raises
    ------
    InputError
        If an argument does not fit a stack, since the caller can choose another.
    """
    found = {}
    for stack in stacks(volume):
        try:
            whole, lines = checked_stack(stack)
        except InputError as error:
            found[stack.label] = str(error)
            continue
        try:
            check_arguments(whole, lines, request)
        except InputError as error:
            raise named(stack.label, str(error)) from None
    return found


def named(label: str, reason: str) -> InputError:
    """The error that says why a stack cannot be recovered."""
    return InputError(f"{label}: {reason}" if label else reason)


def check_some_left(volume: Volume, refused: dict[str, str]) -> None:
    """Raise `InputError` for the first stack if none can be recovered."""
    if refused and all(stack.label in refused for stack in stacks(volume)):
        raise named(*next(iter(refused.items())))


def unrecovered(stack: Stack, request: Request, reason: str) -> StackResult:
    """The result for a stack that cannot be recovered: NaN everywhere, and a note with the reason."""
    seen = np.isfinite(stack.data)
    if stack.mask is not None:
        seen &= stack.mask
    measured = request.grid.spread(seen)
    nothing = np.full(measured.shape, np.nan, float_type(stack.data.dtype))
    nowhere = np.zeros(0, np.int64)
    result = StackResult(
        nothing, nothing, measured, nowhere, nowhere.astype(nothing.dtype), (), Status.NOT_RECOVERED, (), np.nan,
        (f"not recovered, NaN in the result: {reason}",),
    )  # fmt: skip
    return with_finer_pixels(result, request.lateral_factor)
