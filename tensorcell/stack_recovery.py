"""One stack from its measurement to its recovery, in named stages (see `tensorcell.recovery`)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tensorcell import arguments
from tensorcell.constant_blocks import constant_notes
from tensorcell.dead_pixels import fill_dead_pixels
from tensorcell.defect_notes import counts_of, defect_notes, psf_in_voxels
from tensorcell.device import with_fallback
from tensorcell.errors import InputError
from tensorcell.finer_pixels import finer_pixels
from tensorcell.fitting import Fitting
from tensorcell.lateral_filling import MeasuredLines, fill_lines, measured_lines
from tensorcell.methods.errors import carried_on
from tensorcell.methods.protocol import Estimate, Filled, Gaps, Method, Options, Problem, Scan
from tensorcell.model import model_of
from tensorcell.plane_grid import PlaneGrid
from tensorcell.settled import Settled
from tensorcell.solvers import Autocorrelation, IterationRecord, NoiseModel, Status
from tensorcell.solvers.units import Unit
from tensorcell.stack import GivenStack, check_planes, given_stack, measured_stack
from tensorcell.stages import stage
from tensorcell.standard import check_representable, intensities, uncertainties, widths
from tensorcell.standing_out import with_measured
from tensorcell.volume import Stack

Array = npt.NDArray[Any]

HOW = (
    "method ", "gaps are filled by ", "measured voxels were denoised by ", "measured voxels are kept, and ",
    "between planes: ", "the finest structure ", "an offset of ",
)  # fmt: skip
"""How notes begin that say how a result was made, and ask for no decision."""

UNEVEN = 0.08
"""A note offers denoised planes where the noise is larger than this share of the spread of the intensities: texture
that is taken for noise is up to some 5 % of it."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """The checked arguments, which are the same for every stack."""

    method: Method
    options: Options
    grid: PlaneGrid
    rank: arguments.Rank | None
    noise: float | None
    nonnegative: bool | None
    keep_measured: bool | None
    fitting: Fitting
    lateral_factor: int = 1
    psf: tuple[float, float, float] | None = None
    """Full widths at half maximum of the point spread function, as given."""
    spacing: tuple[float, float, float] | None = None
    """Voxel size of the stack that was given, in micrometres."""
    settled: Settled = field(default_factory=Settled)
    """What a sample of the stack told, where this is a part of it."""

    def computed_on(self, device: str) -> Request:
        """The request with another device."""
        return replace(self, fitting=replace(self.fitting, device=device))


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
    defects: Mapping[str, int] = {}
    """Number of outliers by kind."""


class Posed(NamedTuple):
    """One stack as it was given, and the problem that a method is given of it."""

    whole: GivenStack
    lines: MeasuredLines
    given: GivenStack
    """Without the rows and columns that were set aside."""
    problem: Problem | None
    """None where all measured voxels have one value."""

    @property
    def unit(self) -> Unit | None:
        """The unit of the problem, if there is one."""
        return None if self.problem is None else self.whole.unit

    @property
    def brightness(self) -> float:
        """Mean of the measured voxels, in the unit given."""
        whole = self.whole
        return float(whole.unit.intensity(float(np.mean(whole.values[whole.mask], dtype=np.float64))))


def posed_stack(
    stack: Stack, request: Request, *, complete: bool | None = None, like: Unit | None = None,
    correlation: Autocorrelation | None = None,
) -> Posed:  # fmt: skip
    """Check a stack and pose its problem (see the top of `tensorcell.recovery` for the stages).

    For the frame of a series, ``complete`` is whether all of it was measured, ``like`` the unit of another frame, and
    ``correlation`` that of the noise of the other frames, where this one alone does not tell it.
    """
    whole, lines = checked_stack(stack, like, request.settled.told("unit"))
    check_arguments(whole, lines, request)
    request.settled.once("unit", lambda: whole.unit)
    given = lines.part_of(whole)
    if whole.constant:
        return Posed(whole, lines, given, None)
    complete = whole.complete if complete is None else complete
    own = in_unit_of(request, whole.unit)
    return Posed(whole, lines, given, posed(given, stack.label, own, complete=complete, correlation=correlation))


def finished(one: Posed, request: Request, estimate: Estimate | None = None) -> StackResult:
    """The result of a stack; without an estimate it is the method's for this stack alone."""
    whole, lines, given, problem = one
    if problem is None:
        return with_finer_pixels(unchanged(whole, request.grid), request.lateral_factor)
    if estimate is None:
        estimate = request.method.estimate(problem)
    estimate = fill_dead_pixels(problem, with_measured(problem, estimate))
    grid = request.grid
    gaps = Gaps(problem, estimate, grid.positions[problem.stack.planes], grid.planes)
    notes = [
        *constant_notes(whole.given_values, whole.mask),
        *estimate.notes,
        *noise_notes(problem.model.noise, problem.unit, weighed=estimate.weighed),
    ]
    gap_notes: list[str] = []
    if gaps.none:
        filled = Filled(estimate.value, estimate.error, (), estimate.samples)
    else:
        with stage("planes", label=problem.label):
            filled = fill_gaps(gaps, request.method)
        gap_notes += [planes_note(gaps.grid, gaps.planes), *unevenness(problem), *filled.notes]
    positions = places_in_given(problem, given)
    if not lines.complete:
        filled = insert_lines(filled, problem, given, positions, lines)
        gap_notes += filled.notes
        positions = lines.places(positions)
    filled, kept, restored = finest(problem, whole, positions, filled, request)
    notes += [*([] if restored else gap_notes), *filled.notes]
    filled = in_given_unit(filled, whole.unit)
    if request.nonnegative or (request.nonnegative is None and whole.unit.intensity(whole.lowest) >= 0):
        for values in (filled.volume, filled.samples):
            if values is not None:
                np.maximum(values, 0, out=values)
    measured = grid.spread(whole.mask)
    if not kept:
        measured = np.zeros(filled.volume.shape, bool)
    elif problem.keep:
        put_back(whole, positions, filled, grid)
    doubt_zeros(whole, positions, filled, grid, kept=kept)
    notes += defect_notes(problem.model.outliers, int(np.count_nonzero(whole.mask)), problem.psf, replaced=True)
    model, unit = problem.model, whole.unit
    if unit.offset:
        notes.append(f"an offset of {unit.offset:g} was subtracted for the computation and added to its result")
    return StackResult(
        filled.volume, filled.error, measured, positions,
        widths(model.outliers.values, unit), model.rank.rank, estimate.status,
        tuple(record_in(record, unit) for record in estimate.history), unit.width(float(model.noise.sigma)),
        decisions_first(notes), filled.samples, counts_of(model.outliers),
    )  # fmt: skip


def recovered_alone(stack: Stack, request: Request, *, complete: bool | None) -> StackResult:
    """The result of a stack that is in no series; the CPU computes it where the memory of the GPU does not suffice."""

    def recovered(device: str) -> StackResult:
        asked = request.computed_on(device)
        return finished(posed_stack(stack, asked, complete=complete), asked)

    found, notes = with_fallback(request.fitting.device, recovered)
    return found._replace(notes=(*found.notes, *notes))


def checked_stack(
    stack: Stack, like: Unit | None = None, exactly: Unit | None = None
) -> tuple[GivenStack, MeasuredLines]:
    """The stack as floats, and which rows and columns hold measured voxels; units as in `given_stack`.

    Raises
    ------
    InputError
        If the stack cannot be recovered, whatever the arguments are.
    """
    given = given_stack(stack.data, stack.mask, like=like, exactly=exactly)
    if given.constant:
        return given, MeasuredLines(*(np.ones(size, bool) for size in given.mask.shape[1:]))
    lines = measured_lines(given)
    check_planes(measured_stack(lines.part_of(given)))
    return given, lines


def check_arguments(given: GivenStack, lines: MeasuredLines, request: Request) -> None:
    """Raise `InputError` unless the arguments fit the stack."""
    if given.constant:
        return
    psf_in_voxels(request.psf, request.spacing, given.values.shape)
    lowest = given.unit.intensity(given.lowest)
    if request.nonnegative and lowest < 0:
        raise InputError(f"nonnegative=True, but measured values go down to {lowest:g}")
    if request.rank is not None:
        measured = measured_stack(lines.part_of(given))
        arguments.check_rank_fits(request.rank, measured.values.shape, measured.some_set_aside)


def in_unit_of(request: Request, unit: Unit) -> Request:
    """The request with the given noise in the unit of computations, and records for the callback in the user's.

    A constraint ``X >= 0`` is dropped where an offset is subtracted, since no estimate comes near zero there.
    """
    if unit.same:
        return request
    callback = request.fitting.callback

    def report(record: IterationRecord, state: Any) -> bool | None:
        return None if callback is None else callback(record_in(record, unit), state)

    fitting = replace(
        request.fitting,
        callback=None if callback is None else report,
        nonnegative=request.fitting.nonnegative and not unit.offset,
    )
    noise = None if request.noise is None else request.noise / unit.scale
    return replace(request, fitting=fitting, noise=noise)


def record_in(record: IterationRecord, unit: Unit) -> IterationRecord:
    """The record with its threshold in the user's unit."""
    return record if unit.scale == 1 else replace(record, threshold=unit.width(record.threshold))


def in_given_unit(filled: Filled, unit: Unit) -> Filled:
    """The wanted stack in the user's unit."""
    volume = intensities(filled.volume, unit)
    samples = None if filled.samples is None else intensities(filled.samples, unit)
    error = uncertainties(filled.error.astype(volume.dtype, copy=False), unit)
    if unit.scale > 1:
        check_representable(volume, "value", unit)
        check_representable(error, "uncertainty", unit)
    return filled._replace(volume=volume, error=error, samples=samples)


def decisions_first(notes: Sequence[str]) -> tuple[str, ...]:
    """The notes, those on how it was done after those on what was lost, what is invented and what to do.

    >>> decisions_first(["gaps are filled by 100 % smooth volume", "7 of 15 planes were not measured"])
    ('7 of 15 planes were not measured', 'gaps are filled by 100 % smooth volume')
    """
    return tuple(sorted(notes, key=lambda note: note.startswith(HOW)))  # a stable sort


def unchanged(given: GivenStack, grid: PlaneGrid) -> StackResult:
    """A stack whose measured voxels all have one value: the result has that value everywhere.

    Such a stack has no spread that could tell an error in its gaps: their uncertainty is as large as the value (1 where
    that is 0).
    """
    measured = grid.spread(given.mask)
    value = np.full(measured.shape, given.lowest, given.values.dtype)
    notes = [f"all measured voxels have the value {given.lowest:g}, which is returned everywhere"]
    error = np.where(measured, 0, abs(given.lowest) or 1).astype(value.dtype)
    if not measured.all():
        notes.append(
            "nothing tells an error where nothing was measured: the uncertainty there is as large as the value"
        )
    nowhere = np.zeros(0, np.int64)
    return StackResult(
        value, error, measured, nowhere, nowhere.astype(value.dtype), (1, 1, 1), Status.UNCHANGED, (),
        0.0, tuple(notes),
    )  # fmt: skip


def with_finer_pixels(result: StackResult, factor: int) -> StackResult:
    """A result that has one value: its pixels are repeated, and as none of them is measured, their error is not 0."""
    if factor == 1:
        return result
    volume = result.volume.repeat(factor, 1).repeat(factor, 2)
    unsure = np.full(volume.shape, abs(float(volume.flat[0])) or 1, volume.dtype)
    return result._replace(volume=volume, uncertainty=unsure, measured=np.zeros(volume.shape, bool))


def posed(
    given: GivenStack, label: str, request: Request, *, complete: bool, correlation: Autocorrelation | None
) -> Problem:
    """The problem that the method is given: the measured planes and their model.

    ``complete`` is whether every voxel of the stack was measured, those of rows and columns set aside among them.
    """
    keep = request.keep_measured
    if keep is None:
        keep = (request.grid.step > 1 or not complete) and not request.noise
    stack = measured_stack(given)
    psf = psf_in_voxels(request.psf, request.spacing, given.values.shape)
    if psf is not None:  # planes that were set aside leave the others further apart
        psf = (psf[0] / int(np.diff(stack.planes).max()), *psf[1:])
    with stage("model", label=label):
        model = model_of(
            stack.values, stack.mask, request.fitting, noise=request.noise, rank=request.rank or request.method.rank,
            psf=psf, correlation=correlation, unit=given.unit, settled=request.settled,
        )  # fmt: skip
    return Problem(
        stack=stack, model=model, keep=keep, fitting=request.fitting, noise=request.noise,
        grid=request.grid, label=label, options=request.options, psf=psf,
        unit=given.unit, settled=request.settled,
    )  # fmt: skip


def fill_gaps(gaps: Gaps, method: Method) -> Filled:
    """The wanted stack with all its planes; errors at measured planes are those of the estimate."""
    filled, estimate = method.between(gaps), gaps.estimate
    error = np.sqrt(np.square(filled.error) + carried_on(gaps))
    shared = gaps.grid % 1 == 0
    error[gaps.grid[shared].astype(int)] = estimate.error[shared]
    return filled._replace(error=error)


def insert_lines(filled: Filled, problem: Problem, given: GivenStack, outliers: Array, lines: MeasuredLines) -> Filled:
    """The wanted stack with the rows and columns that were set aside, in every sample, too."""
    volume, kept = filled.volume, np.zeros(filled.volume.shape, bool)
    if problem.keep:  # the lines are predicted from what the result holds: measured values where they are kept
        kept = problem.grid.spread(inliers(given, outliers))
        put_back(replace(given, given=None), outliers, filled, problem.grid)  # in the unit of computations
    whole = fill_lines(volume, filled.error, kept, lines, problem.model.noise)
    samples = filled.samples
    if samples is not None:
        samples = np.stack([fill_lines(one, filled.error, kept, lines, problem.model.noise).volume for one in samples])
    return Filled(whole.volume, whole.error, whole.notes, samples)


class Finest(NamedTuple):
    """The wanted stack at the wanted pixel size."""

    filled: Filled
    """Its notes are those of this stage."""
    kept: bool
    """Whether measured voxels are voxels of the result."""
    restored: bool
    """Whether the method restored it as a whole, so that what filled its gaps before is not in it."""


def finest(problem: Problem, given: GivenStack, outliers: Array, filled: Filled, request: Request) -> Finest:
    """The wanted stack with all that the method restores."""
    filled = filled._replace(notes=())
    restore, stopped = request.method.restore, problem.model.fit.status is Status.STOPPED
    if restore is not None and not stopped:
        with stage("restoring", label=problem.label):
            found = restore(scan_of(problem, given, outliers, filled, request))
        if found.filled is not None:
            kept = request.lateral_factor == 1 and (found.keeps or request.keep_measured is True)
            return Finest(found.filled._replace(notes=found.notes), kept, True)
        filled = filled._replace(notes=found.notes)
    if request.lateral_factor > 1:
        return Finest(finer_pixels(filled, request.lateral_factor), False, False)
    return Finest(filled, True, False)


def scan_of(problem: Problem, given: GivenStack, outliers: Array, filled: Filled, request: Request) -> Scan:
    """The planes that were given, all of them planes of the wanted stack, estimates where they have gaps, and the
    variances of both."""
    from scipy.ndimage import uniform_filter

    inlier, planes = inliers(given, outliers), request.grid.places
    measured = np.where(inlier, given.values, filled.volume[planes])
    around = uniform_filter(measured, (1, 3, 3))  # the noise of a voxel must not tell its variance
    variance = np.where(inlier, problem.model.noise.variance(around), np.square(filled.error[planes]))
    return Scan(problem, measured, variance, filled, request.lateral_factor)


def inliers(given: GivenStack, outliers: Array) -> Array:
    """True at the measured voxels of the stack that was given, but for outliers at these flat positions."""
    inlier = given.mask.copy()
    inlier.ravel()[outliers] = False
    return inlier


def places_in_given(problem: Problem, given: GivenStack) -> Array:
    """Flat positions of the outliers in the stack that was given."""
    plane = math.prod(given.values.shape[1:])
    positions = problem.model.outliers.positions
    return np.asarray(problem.stack.planes[positions // plane] * plane + positions % plane)


def put_back(given: GivenStack, outliers: Array, filled: Filled, grid: PlaneGrid) -> None:
    """Measured voxels that are no outliers keep their value, bit for bit, in the result and in every sample."""
    inlier, values = inliers(given, outliers)[grid.shared], given.given_values[grid.shared]
    np.copyto(filled.volume[grid.places], values, where=inlier)
    if filled.samples is not None:
        np.copyto(filled.samples[:, grid.places], values, where=inlier)


def doubt_zeros(given: GivenStack, outliers: Array, filled: Filled, grid: PlaneGrid, *, kept: bool = True) -> None:
    """Where a voxel is estimated and nothing tells an error, its uncertainty is the spread of the measured values.

    ``kept`` is whether measured voxels are voxels of the result; if not, all are estimated.
    """
    unsure = filled.error == 0
    if kept:
        unsure &= ~grid.spread(inliers(given, outliers))
    if unsure.any():
        spread = given.unit.width(float(np.std(given.values[given.mask], dtype=np.float64)))
        filled.error[unsure] = max(spread, float(np.finfo(filled.error.dtype).smallest_subnormal))


def noise_notes(noise: NoiseModel, unit: Unit, *, weighed: bool) -> tuple[str, ...]:
    """Warnings of what looks like structure: noise that neighbouring voxels share, and periodic stripes."""
    notes = []
    if not noise.autocorrelation.white:
        fate = "is not removed"
        if weighed:
            fate = "was weighed by that correlation, so that it was removed as far as it differs from structure"
        notes.append(f"{noise.sentence} Noise that neighbouring voxels share looks like structure; it {fate}.")
    for each in noise.stripes:
        notes.append(
            f"periodic stripes, one every {each.period:.3g} voxels along {each.axis} with an amplitude of "
            f"{unit.width(each.amplitude):.3g}, are no noise and are not removed"
        )
    return tuple(notes)


def unevenness(problem: Problem) -> tuple[str, ...]:
    """A line where measured planes keep noise that the planes between them do not have."""
    level = problem.unit.width(problem.model.noise.sigma)
    spread = problem.unit.width(float(np.std(problem.stack.values[problem.model.inlier], dtype=np.float64)))
    if not problem.keep or level < UNEVEN * spread:
        return ()
    return (
        f"measured planes keep their noise (standard deviation {level:.3g}), which shows as stripes beside the smooth "
        "planes between them; keep_measured=False (--no-keep-measured) denoises them, too",
    )


def planes_note(grid: Array, planes: int) -> str:
    """Which planes were filled."""
    missing = np.setdiff1d(np.arange(planes), grid)
    outside = missing[(missing < grid[0]) | (missing > grid[-1])]
    shown = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
    verbs = ("was", "is") if len(missing) == 1 else ("were", "are")
    note = f"{len(missing)} of {planes} planes {verbs[0]} not measured and {verbs[1]} interpolated along z: {shown}"
    if len(outside):
        verbs = ("lies", "repeats") if len(outside) == 1 else ("lie", "repeat")
        note += f" ({len(outside)} of them {verbs[0]} beyond the measured planes and {verbs[1]} the nearest one)"
    return note
