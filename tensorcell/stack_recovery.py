"""One stack from its measurement to its recovery, in named stages (see `tensorcell.recovery`)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tensorcell import arguments
from tensorcell.errors import InputError
from tensorcell.fitting import Fitting
from tensorcell.methods.errors import carried_on
from tensorcell.methods.protocol import Filled, Gaps, Method, Options, Problem
from tensorcell.model import model_of
from tensorcell.solvers import IterationRecord, NoiseModel, Status
from tensorcell.stack import GivenStack, check_measured_lines, given_stack, measured_stack
from tensorcell.volume import Stack

Array = npt.NDArray[Any]

SHARED = 0.2
"""A note warns where the estimated correlation of the noise of neighbouring voxels is larger than this; gaps and
outliers alone can cause smaller estimates."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """The checked arguments, which are the same for every stack."""

    method: Method
    options: Options
    axial_factor: int
    rank: arguments.Rank | None
    noise: float | None
    nonnegative: bool | None
    keep_measured: bool | None
    fitting: Fitting


class StackResult(NamedTuple):
    """One recovered stack."""

    volume: Array
    uncertainty: Array
    measured: Array
    positions: Array
    values: Array
    rank: tuple[int, ...]
    status: Status
    history: tuple[IterationRecord, ...]
    noise: float
    notes: tuple[str, ...]
    samples: Array | None = None


def recover_stack(stack: Stack, request: Request) -> StackResult:
    """Recover one 3-D stack (see the top of this file for the stages)."""
    given = given_stack(stack.data, stack.mask)
    if given.constant:
        return unchanged(given, request.axial_factor)
    if request.nonnegative and given.lowest < 0:
        raise InputError(f"nonnegative=True, but measured values go down to {given.lowest:g}")
    problem = posed(given, stack.label, request)
    estimate = request.method.estimate(problem)
    planes = (len(given.values) - 1) * request.axial_factor + 1
    grid = request.axial_factor * problem.stack.planes
    notes = [*estimate.notes, *correlation_notes(problem.model.noise)]
    if len(grid) == planes:
        filled = Filled(estimate.value, estimate.error, (), estimate.samples)
    else:
        filled = fill_gaps(Gaps(problem, estimate, grid, planes), request.method)
        notes += [planes_note(grid, planes), *filled.notes]
    if request.nonnegative or (request.nonnegative is None and given.lowest >= 0):
        for values in (filled.volume, filled.samples):
            if values is not None:
                np.maximum(values, 0, out=values)
    positions = places_in_given(problem, given)
    if problem.keep:
        put_back(given, positions, filled, request.axial_factor)
    if len(positions):
        total = np.count_nonzero(given.mask)
        notes.append(f"{len(positions)} of {total} measured voxels stand out and were replaced as outliers")
    model, dtype = problem.model, given.values.dtype
    return StackResult(
        filled.volume, filled.error.astype(dtype, copy=False), on_grid(given.mask, request.axial_factor), positions,
        model.outliers.values, model.rank.rank, estimate.status, estimate.history, float(model.noise.sigma),
        tuple(notes), filled.samples,
    )  # fmt: skip


def unchanged(given: GivenStack, axial_factor: int) -> StackResult:
    """A stack whose measured voxels all have one value: the result has that value everywhere."""
    measured = on_grid(given.mask, axial_factor)
    value = np.full(measured.shape, given.lowest, given.values.dtype)
    note = f"all measured voxels have the value {given.lowest:g}, which is returned everywhere"
    nowhere = np.zeros(0, np.int64)
    return StackResult(
        value, np.zeros_like(value), measured, nowhere, nowhere.astype(value.dtype), (1, 1, 1), Status.UNCHANGED, (),
        0.0, (note,),
    )  # fmt: skip


def posed(given: GivenStack, label: str, request: Request) -> Problem:
    """The problem that the method is given: the measured planes and their model."""
    keep = request.keep_measured
    if keep is None:
        keep = (request.axial_factor > 1 or not given.complete) and not request.noise
    stack = measured_stack(given)
    check_measured_lines(stack)
    if request.rank is not None:
        arguments.check_rank_fits(request.rank, stack.values.shape, stack.some_set_aside)
    model = model_of(stack.values, stack.mask, request.fitting, noise=request.noise, rank=request.rank)
    return Problem(
        stack=stack, model=model, keep=keep, fitting=request.fitting, noise=request.noise,
        axial_factor=request.axial_factor, label=label, options=request.options,
    )  # fmt: skip


def fill_gaps(gaps: Gaps, method: Method) -> Filled:
    """The wanted stack with all its planes; errors at measured planes are those of the estimate."""
    filled, estimate = method.between(gaps), gaps.estimate
    error = np.sqrt(np.square(filled.error) + carried_on(gaps))
    error[gaps.grid] = estimate.error
    return filled._replace(error=error)


def on_grid(mask: Array, axial_factor: int) -> Array:
    """The mask of the wanted stack."""
    measured = np.zeros(((len(mask) - 1) * axial_factor + 1, *mask.shape[1:]), bool)
    measured[::axial_factor] = mask
    return measured


def places_in_given(problem: Problem, given: GivenStack) -> Array:
    """Flat positions of the outliers in the stack that was given."""
    plane = math.prod(given.values.shape[1:])
    positions = problem.model.outliers.positions
    return np.asarray(problem.stack.planes[positions // plane] * plane + positions % plane)


def put_back(given: GivenStack, outliers: Array, filled: Filled, axial_factor: int) -> None:
    """Measured voxels that are no outliers keep their value, bit for bit, in the result and in every sample."""
    inlier = given.mask.copy()
    inlier.ravel()[outliers] = False
    np.copyto(filled.volume[::axial_factor], given.values, where=inlier)
    if filled.samples is not None:
        np.copyto(filled.samples[:, ::axial_factor], given.values, where=inlier)


def correlation_notes(noise: NoiseModel) -> tuple[str, ...]:
    """A warning where the noise of neighbouring voxels is correlated, since it is then taken for structure."""
    if not noise.correlated or not np.nanmax(noise.correlation) > SHARED:
        return ()
    return (f"{noise.sentence} Noise that neighbouring voxels share looks like structure and is not removed.",)


def planes_note(grid: Array, planes: int) -> str:
    """Which planes were filled."""
    missing = np.setdiff1d(np.arange(planes), grid)
    outside = missing[(missing < grid[0]) | (missing > grid[-1])]
    shown = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
    note = f"{len(missing)} of {planes} planes were not measured and are interpolated along z: {shown}"
    if len(outside):
        note += f" ({len(outside)} of them lie beyond the measured planes and repeat the nearest one)"
    return note
