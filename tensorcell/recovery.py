"""`recover`: a stack with gaps, noise and outliers in, a whole stack out.

Every channel and time frame is one 3-D stack and is recovered on its own, in named stages:

1. the arguments and the stack are checked (`tensorcell.arguments`, `tensorcell.stack`);
2. planes with (nearly) no measured voxel are set aside, since a low-rank model cannot predict them;
3. noise, rank, global fit and outliers of the other planes are estimated (`tensorcell.model`, as in `diagnose`);
4. the method estimates every voxel of these planes and the standard deviation of its error (`tensorcell.methods`);
5. the method fills the planes that were set aside;
6. signs are corrected, measured voxels put back, and uncertainty and notes collected, in this module.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from tensorcell import arguments
from tensorcell.device import choose_device
from tensorcell.errors import InputError
from tensorcell.fitting import Callback, Fitting, TuckerOptions
from tensorcell.methods.protocol import Filled, Gaps, Method, Options, Problem
from tensorcell.methods.table import METHODS
from tensorcell.model import model_of
from tensorcell.progress import with_progress
from tensorcell.recovered import Recovery, StackOutliers
from tensorcell.solvers import IterationRecord, NoiseModel, Status
from tensorcell.stack import GivenStack, check_measured_lines, float_type, given_stack, measured_stack
from tensorcell.volume import Stack, Volume, stacks, zyx_view

Array = npt.NDArray[Any]

SHARED = 0.2
"""A note warns where the estimated correlation of the noise of neighbouring voxels is larger than this; gaps and
outliers alone can cause smaller estimates."""

SEVERITY = (
    Status.UNCHANGED, Status.CONVERGED, Status.COMPLETED, Status.STALLED, Status.MAX_ITERATIONS, Status.STOPPED,
    Status.DIVERGED,
)  # fmt: skip
"""The outcomes of a fit from the best to the worst; a volume has the worst outcome of its stacks."""


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


def recover(
    data: Volume | npt.ArrayLike,
    mask: npt.ArrayLike | None = None,
    *,
    axial_factor: int = 1,
    method: str = "auto",
    rank: Literal["auto"] | int | Sequence[int] = "auto",
    noise: Literal["auto"] | float = "auto",
    nonnegative: Literal["auto"] | bool = "auto",
    keep_measured: Literal["auto"] | bool = "auto",
    device: Literal["auto", "cpu", "cuda"] = "auto",
    seed: int = 0,
    progress: bool = False,
    callback: Callable[[IterationRecord, Any], bool | None] | None = None,
    axes: str | None = None,
    spacing: tuple[float, float, float] | None = None,
    **options: Any,
) -> Recovery:
    """Recover a volume from too few, too noisy, partly wrong measurements.

    Parameters
    ----------
    data : Volume or array
        Intensities in any unit; NaN means not measured. A 3-D array without ``axes`` is ZYX.
    mask : bool array of the same shape, optional
        True = measured. NaN counts as not measured whatever the mask says; an infinite measured value is an error.
    axial_factor : int
        ``s``: the planes given are planes 0, s, 2s, ... of the wanted stack, which has ``(n - 1) s + 1`` planes.
    method : {"auto", "tucker", "local", "diffusion"}
        ``"tucker"`` fits a global robust Tucker model and interpolates its residual between neighbours. ``"local"``
        refines that model by groups of similar patches, each of low rank. ``"auto"`` fills gaps by whichever of the two
        has the smaller error at left-out measured voxels, and denoises by ``"local"``; the notes say which was taken
        and why. ``"diffusion"`` improves the result of ``"auto"`` by a prior fitted to the stack itself: the planes
        between evenly spaced ones, and denoised voxels (minutes; needs the extra ``diffusion``).
    rank : "auto", int or three ints
        Tucker rank along z, y and x. "auto": read from the spectra of a complete stack; where voxels are missing, of
        ranks read from the data and a few others the one that predicts left-out measured voxels best.
    noise : "auto" or float
        Standard deviation of the noise in the data's unit. A value above 0 asks for denoised measured voxels.
    nonnegative : "auto" or bool
        "auto": the result has no negative values if the measured voxels have none. True makes it a constraint of the
        fit and negative measured voxels an error.
    keep_measured : "auto" or bool
        Whether measured voxels that are not outliers come back bit for bit. "auto": a fully measured input is denoised;
        with ``axial_factor`` above 1, a mask or NaN, and no ``noise`` given, measured voxels are kept.
    device : {"auto", "cpu", "cuda"}
        Where the Tucker fit runs (priors run on the CPU); "auto" takes a GPU if CuPy finds one.
    seed : int
        Seed for the choice of left-out voxels and for priors.
    progress : bool
        Show a progress bar on stderr, if that is a terminal.
    callback : callable, optional
        ``callback(record, state)`` after every iteration of the fit; returning True stops the fit.
    axes, spacing
        For arrays: as in :class:`Volume`.
    **options
        Fields of :class:`tensorcell.fitting.TuckerOptions`; of :class:`tensorcell.solvers.LocalOptions` unless the
        method is ``"tucker"``; of :class:`tensorcell.diffusion_guidance.options.DiffusionOptions` if it is
        ``"diffusion"``.

    Returns
    -------
    Recovery

    Raises
    ------
    InputError
        If the input cannot be used; one line says what, expected and got.
    TypeError
        For an unknown option.

    Notes
    -----
    A low-rank model cannot predict a plane that was never measured. Such planes are interpolated along z, and the
    notes name them. Channels and frames are recovered one by one. Memory: about 80 bytes a voxel for float32 output.

    Examples
    --------
    >>> import numpy as np
    >>> from tensorcell.datasets import simulate_cells
    >>> cells = simulate_cells((24, 48, 48), cells=6, keep_pixels=0.5, seed=1)
    >>> result = recover(cells.measured)
    >>> kept = cells.mask & (result.outliers == 0)
    >>> bool(np.array_equal(result.volume.data[kept], cells.measured[kept]))
    True
    """
    start = time.perf_counter()
    volume = Volume.from_array(data, axes=axes, spacing=spacing, mask=mask)
    arguments.check_shape(volume)
    labels = [stack.label for stack in stacks(volume)]
    with with_progress(callback, labels, enabled=None if progress else False) as shown:
        request = checked_request(
            method, options, device, axial_factor=axial_factor, rank=rank, noise=noise, nonnegative=nonnegative,
            keep_measured=keep_measured, seed=seed, callback=shown,
        )  # fmt: skip
        return recover_volume(volume, request, start)


def checked_request(
    method: Any, options: Mapping[str, Any], device: Any, *, axial_factor: Any, rank: Any, noise: Any,
    nonnegative: Any, keep_measured: Any, seed: Any, callback: Callback | None,
) -> Request:  # fmt: skip
    """Check every argument that does not depend on the stack."""
    chosen = METHODS[arguments.one_of("method", method, METHODS)]
    factor, sigma, number = (
        arguments.checked_axial_factor(axial_factor), arguments.checked_noise(noise), arguments.checked_seed(seed)
    )  # fmt: skip
    sign = arguments.true_false_or_auto("nonnegative", nonnegative)
    chosen.check_installed()
    found = arguments.options_of(chosen.options, options, chosen.name)
    return Request(
        method=chosen,
        options=chosen.prepare(found, number),
        axial_factor=factor,
        rank=arguments.checked_rank(rank),
        noise=sigma,
        nonnegative=sign,
        keep_measured=arguments.true_false_or_auto("keep_measured", keep_measured),
        fitting=Fitting(
            options=found[TuckerOptions], nonnegative=bool(sign), device=choose_device(device), seed=number,
            callback=callback,
        ),
    )  # fmt: skip


def recover_volume(volume: Volume, request: Request, start: float) -> Recovery:
    """Recover every stack of the volume and put the results together; ``start`` is when the clock began."""
    axis = volume.axes.index("Z")
    shape = list(volume.shape)
    shape[axis] = (shape[axis] - 1) * request.axial_factor + 1
    dtype = float_type(volume.dtype)
    out, uncertainty, measured = np.empty(shape, dtype), np.empty(shape, dtype), np.zeros(shape, bool)
    parts: dict[str, StackResult] = {}
    outliers: list[StackOutliers] = []
    drawn: list[tuple[Any, Array | None]] = []
    for stack in stacks(volume):
        try:
            part = recover_stack(stack, request)
        except InputError as error:
            raise InputError(f"{stack.label}: {error}" if stack.label else str(error)) from None
        for whole, values in ((out, part.volume), (uncertainty, part.uncertainty), (measured, part.measured)):
            zyx_view(whole, volume.axes, stack.where)[...] = values
        drawn.append((stack.where, part.samples))
        outliers.append(StackOutliers(stack.where, part.positions, part.values))
        nothing = np.empty(0)
        parts[stack.label] = part._replace(volume=nothing, uncertainty=nothing, measured=nothing, samples=None)
    several = len(parts) > 1
    first, *_ = parts.values()
    fine = None
    if volume.spacing is not None:
        fine = (volume.spacing[0] / request.axial_factor, *volume.spacing[1:])
    metadata = {k: v for k, v in volume.metadata.items() if k not in ("format",)}
    return Recovery(
        volume=Volume(out, axes=volume.axes, spacing=fine, metadata=metadata),
        measured=measured,
        uncertainty=uncertainty,
        rank={label: part.rank for label, part in parts.items()} if several else first.rank,
        status=max((part.status for part in parts.values()), key=SEVERITY.index),
        history=tuple(record for part in parts.values() for record in part.history),
        noise={label: part.noise for label, part in parts.items()} if several else first.noise,
        notes=tuple(f"{k}: {note}" if several else note for k, part in parts.items() for note in part.notes),
        seconds=time.perf_counter() - start,
        input_shape=volume.shape,
        _outliers=tuple(outliers),
        samples=samples_of_all(drawn, out, volume.axes),
    )


def samples_of_all(drawn: Sequence[tuple[Any, Array | None]], out: Array, axes: str) -> Array | None:
    """The samples of all stacks.

    Each stack that has samples gives as many as the stack with the fewest; one without any gives its result.
    """
    counts = [len(samples) for _, samples in drawn if samples is not None]
    if not counts:
        return None
    whole = np.stack([out] * min(counts))
    for where, samples in drawn:
        if samples is not None:
            for one, sample in zip(whole, samples[: len(whole)], strict=True):
                zyx_view(one, axes, where)[...] = sample
    return whole


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
    error = filled.error
    if not gaps.problem.keep:  # the error that denoised planes still have is carried into the planes between them
        error = np.hypot(error, math.sqrt(float(np.mean(np.square(estimate.error, dtype=np.float64)))))
    error = np.array(error)
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
