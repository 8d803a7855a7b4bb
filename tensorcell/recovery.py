"""`recover`: a stack with gaps, noise and outliers in, a whole stack out.

Every channel and time frame is one 3-D stack. Channels are recovered on their own, and frames together as far as they
are alike (`tensorcell.series`), in named stages:

1. the arguments and all stacks are checked, and each stack is brought into the unit of computations
   (`tensorcell.arguments`, `tensorcell.unrecovered`, `tensorcell.standard`);
2. planes, rows and columns with (nearly) no measured voxel are set aside, since a low-rank model cannot predict them
   (`tensorcell.stack`, `tensorcell.lateral_filling`);
3. defects, rank, global fit, outliers and noise of the other planes are estimated (`tensorcell.model`, as in
   `diagnose`);
4. the method estimates every voxel of these planes and the standard deviation of its error (`tensorcell.methods`);
   where that contradicts the measurement by more than noise explains, the measurement is returned
   (`tensorcell.standing_out`);
5. patches of dead pixels are filled (`tensorcell.dead_pixels`), the method fills the planes that were set aside, and
   rows and columns are filled (`tensorcell.lateral_filling`);
6. signs are corrected, measured voxels put back, and uncertainty and notes collected.

`tensorcell.stack_recovery` runs these stages for one stack; here all stacks of a volume are put together.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from tensorcell import arguments
from tensorcell.defect_notes import checked_psf
from tensorcell.device import choose_device, reason_for_cpu
from tensorcell.fitting import Callback, Fitting, TuckerOptions
from tensorcell.joined_notes import joined_notes
from tensorcell.logs import LOGGER
from tensorcell.memory import bytes_of_recovery, check_affordable
from tensorcell.methods.table import METHODS
from tensorcell.missing_value import without_value
from tensorcell.plane_grid import PlaneGrid, wanted_grid
from tensorcell.progress import with_progress
from tensorcell.recovered import Recovery, StackOutliers
from tensorcell.series import Keep, recovered_series, series_of
from tensorcell.solvers import IterationRecord, Status
from tensorcell.stack import float_type
from tensorcell.stack_recovery import Request, StackResult
from tensorcell.stage_shares import plan_of
from tensorcell.stages import announce
from tensorcell.time_limit import method_within
from tensorcell.unrecovered import check_some_left, refusals, unrecovered
from tensorcell.volume import Stack, Volume, stacks, zyx_view
from tensorcell.volume_checks import Described, notes_on_file, pixel_size_of

if TYPE_CHECKING:
    from tensorcell.checkpoint import Checkpoint

Array = npt.NDArray[Any]

SEVERITY = (
    Status.UNCHANGED, Status.CONVERGED, Status.COMPLETED, Status.STALLED, Status.MAX_ITERATIONS, Status.STOPPED,
    Status.DIVERGED, Status.NOT_RECOVERED,
)  # fmt: skip
"""The outcomes of a fit from the best to the worst; a volume has the worst outcome of its stacks."""


def recover(
    data: Volume | npt.ArrayLike,
    mask: npt.ArrayLike | None = None,
    *,
    axial_factor: int = 1,
    spacing_z: float | Literal["isotropic"] | None = None,
    lateral_factor: int = 1,
    method: str = "auto",
    rank: Literal["auto"] | int | Sequence[int] = "auto",
    noise: Literal["auto"] | float = "auto",
    nonnegative: Literal["auto"] | bool = "auto",
    keep_measured: Literal["auto"] | bool = "auto",
    psf_fwhm: Sequence[float] | None = None,
    missing_value: float | None = None,
    device: Literal["auto", "cpu", "cuda"] | str = "auto",
    time_limit: float | None = None,
    seed: int = 0,
    progress: bool = False,
    callback: Callable[[IterationRecord, Any], bool | None] | None = None,
    checkpoint: str | os.PathLike[str] | Checkpoint | None = None,
    axes: str | None = None,
    spacing: tuple[float, float, float] | None = None,
    **options: Any,
) -> Recovery:
    """Recover a volume from too few, too noisy, partly wrong measurements.

    Parameters
    ----------
    data : Volume or array
        Intensities in any unit; NaN means not measured. An array without ``axes`` is YX or ZYX, unless it names them:
        arrays of xarray, dask, zarr, torch and CuPy, images of bioio and layers of napari are taken as they are, with
        their axes and voxel size (`Volume.from_array`). The result lies on the host.
    mask : bool array of the same shape, optional
        True = measured. NaN counts as not measured whatever the mask says; an infinite measured value is an error.
    axial_factor : int
        ``s``: the planes given are planes 0, s, 2s, ... of the wanted stack, which has ``(n - 1) s + 1`` planes.
    spacing_z : float, "isotropic" or None
        In place of ``axial_factor``: the distance of the wanted planes in micrometres, at most that of the given ones;
        "isotropic" is the height of the wanted pixels. The voxel size must be known (``spacing``). The wanted stack
        begins at the first plane given; those given that lie between its planes are not in it, and a note counts them.
    lateral_factor : int
        ``f``: a pixel given is the mean of ``f x f`` pixels of the wanted stack, which has ``f`` times as many rows and
        columns. No pixel of the result is then measured. ``"microdiffuse3d"`` restores them; other methods interpolate.
    method : {"auto", "tucker", "local", "fast", "diffusion", "microdiffuse3d"}
        ``"tucker"`` fits a global robust Tucker model and interpolates its residual between neighbours. ``"local"``
        refines that model by groups of similar patches, each of low rank. ``"auto"`` fills gaps by whichever of the two
        has the smaller error at left-out measured voxels, and denoises by ``"local"``; the notes say which was taken
        and why. ``"fast"`` is a preview by total variation of the second order; it searches no rank (the one in the
        result is that of a model which only judges outliers). ``"diffusion"`` improves the result of ``"auto"`` by a
        prior fitted to the stack itself: the planes between evenly spaced ones, and denoised voxels (minutes; needs the
        extra ``diffusion``). ``"microdiffuse3d"`` restores resolution, planes and noise together by networks that
        ``tensorcell train --kind microdiffuse3d`` fitted to volumes of the same kind (``weights=``; needs the extra
        ``diffusion``); where a scan is not of that kind, the result is that of ``"auto"``, and a note says so.
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
        with planes between those given, a mask or NaN, and no ``noise`` given, measured voxels are kept.
    psf_fwhm : three floats, optional
        Full widths at half maximum of the point spread function along z, y and x: in micrometres if the voxel size is
        known, otherwise in voxels. Bright voxels narrower than it are defects. Without it a few such voxels are kept,
        since they may be signal, and many are judged by the light that they share with their neighbours.
    missing_value : float, optional
        Voxels that have exactly this value were not measured (padding, mosaics, planes after a stopped run); NaN never
        counts as measured.
    device : {"auto", "cpu", "cuda"} or a string as "cuda:1"
        Where the Tucker fit runs, groups of patches are filtered, and priors are fitted and sampled; "auto" takes a GPU
        if CuPy finds one that works, and a note tells why not where CuPy is installed, or where torch, which priors
        need, cannot use the GPU and runs them on the CPU. A stack for which the memory of the GPU does not suffice is
        recovered on the CPU, with a note; :func:`recover_file` recovers it in parts that fit.
    time_limit : float, optional
        Minutes that ``"auto"`` may take. Where planes are wanted between evenly spaced ones and the time suffices, a
        prior is fitted to the stack and fills them, as by ``"diffusion"``; a note says what was decided.
    seed : int
        Seed for the choice of left-out voxels and for priors.
    progress : bool
        Show progress on stderr, if that is a terminal.
    callback : callable, optional
        ``callback(record, state)`` after every iteration of the fit; returning True stops the fit.
    checkpoint : path, optional
        Keep the finished channels and frames of a long recovery beside this path, under hidden names, about once a
        minute: after a kill the same call goes on from there, with the same result bit for bit. They need up to 9 bytes
        of disk a voxel (17 for float64) and are removed when the recovery is finished.
    axes, spacing
        For arrays: as in :class:`Volume`.
    **options
        Fields of :class:`tensorcell.fitting.TuckerOptions`; of :class:`tensorcell.solvers.LocalOptions` unless the
        method is ``"tucker"`` or ``"fast"``; of
        :class:`tensorcell.diffusion_guidance.options.DiffusionOptions` if it is ``"diffusion"``, and of
        :class:`tensorcell.diffusion_guidance.options.MicroDiffuse3DOptions` if it is ``"microdiffuse3d"``.

    Returns
    -------
    Recovery

    Raises
    ------
    InputError
        If the input cannot be used; one line says what, expected and got. Of several stacks, one that cannot be
        recovered becomes NaN and is named in ``not_recovered`` and in the notes; if none can be, this is raised.
        If what lies beside ``checkpoint`` is of another volume or of other options.
    TypeError
        For an unknown option.

    Notes
    -----
    A low-rank model cannot predict a plane, row or column that was never measured. These are interpolated along z, y
    and x, and the notes name them. Channels are recovered one by one. Frames of a time series are recovered together by
    ``"local"`` and ``"auto"``: patches are followed from frame to frame (``frames=1``: each frame by itself). Single
    planes (axes without Z) are recovered by what is alike within each plane. Memory: about 65 bytes a voxel for float32
    output, of at most 67 million voxels of a series at a time.

    The logger ``tensorcell`` says the seconds of each stage (INFO) and the notes (DEBUG).

    The result does not depend on the unit of the data: intensities far from 1 to 1000 are multiplied by a power of two
    for the computation, and an offset of more than 16 times their range is subtracted (a note says so).

    Examples
    --------
    >>> import numpy as np
    >>> from tensorcell.datasets import simulate_cells
    >>> cells = simulate_cells((24, 48, 48), cells=6, keep_pixels=0.5, seed=1)
    >>> result = recover(cells.measured)
    >>> kept = cells.mask & (result.outliers == 0)
    >>> bool(np.array_equal(result.volume.data[kept], cells.measured[kept]))
    True
    >>> recover(cells.truth, spacing=(1.0, 0.4, 0.4), spacing_z="isotropic").volume
    Volume(58 x 48 x 48 ZYX, float32, 0.4 x 0.4 x 0.4 um)
    """
    start = time.perf_counter()
    volume = Volume.from_array(data, axes=axes, spacing=spacing, mask=mask)
    arguments.check_shape(volume)
    volume, notes = without_value(volume, missing_value)
    grid = wanted_grid(volume, axial_factor, spacing_z, lateral_factor)
    method, decided = method_within(method, time_limit, volume, grid, device)
    with with_progress(callback, enabled=None if progress else False) as shown:
        request = checked_request(
            method, options, device, grid=grid, lateral_factor=lateral_factor, rank=rank, noise=noise,
            nonnegative=nonnegative, keep_measured=keep_measured, psf_fwhm=psf_fwhm, spacing=volume.spacing, seed=seed,
            callback=shown,
        )  # fmt: skip
        check_affordable(volume, request.grid, bytes_of_recovery(volume), lateral_factor=request.lateral_factor)
        asked = {
            "axial_factor": axial_factor, "spacing_z": spacing_z, "lateral_factor": lateral_factor, "method": method,
            "rank": rank, "noise": noise, "nonnegative": nonnegative, "keep_measured": keep_measured,
            "psf_fwhm": psf_fwhm, "device": device, "seed": seed, **options,
        }  # fmt: skip
        announce(plan_of(volume, request.grid, request.lateral_factor, request.method))
        with keeping(checkpoint, volume, asked) as keep:
            found = recover_volume(volume, request, start, keep)
    said = (
        *notes_on_file(volume),
        *notes,
        *decided,
        *reason_for_cpu(device),
        *notes_on_planes(volume),
        *request.grid.notes(),
    )
    LOGGER.info("%r recovered by %s in %.2f s: the fit %s", volume, request.method.name, found.seconds, found.status)
    for note in (*said, *found.notes):
        LOGGER.debug("%s", note)
    return replace(found, notes=(*said, *found.notes), given=volume)


@contextlib.contextmanager
def keeping(
    checkpoint: str | os.PathLike[str] | Checkpoint | None, volume: Volume, options: Mapping[str, Any]
) -> Iterator[Keep]:
    """What keeps finished stacks; without a checkpoint nothing does."""
    if checkpoint is None:
        yield lambda _, find: find()
        return
    from tensorcell import checkpoint as store  # which imports what recovers in parts, and that imports this module

    with store.keeping(checkpoint, volume, options) as keep:
        yield keep


def notes_on_planes(volume: Described) -> list[str]:
    """A line where planes that may be a stack are recovered one by one.

    >>> notes_on_planes(Volume(np.zeros((9, 8, 8)), "TYX"))
    ["axes TYX have no depth, so that planes are not taken for neighbours; if T is depth, pass axes='ZYX'"]
    """
    sizes = zip(volume.axes, volume.shape, strict=True)
    series = [letter for letter, size in sizes if letter not in "CYX" and size > 1]
    if "Z" in volume.axes or not series:
        return []
    return [
        f"axes {volume.axes} have no depth, so that planes are not taken for neighbours; if {series[0]} is depth, pass "
        f"axes={volume.axes.replace(series[0], 'Z')!r}"
    ]


def checked_request(
    method: Any, options: Mapping[str, Any], device: Any, *, grid: PlaneGrid, lateral_factor: Any, rank: Any,
    noise: Any, nonnegative: Any, keep_measured: Any, psf_fwhm: Any, spacing: tuple[float, float, float] | None,
    seed: Any, callback: Callback | None,
) -> Request:  # fmt: skip
    """Check every argument that does not depend on the stack."""
    chosen = METHODS[arguments.one_of("method", method, METHODS)]
    sigma, number = arguments.checked_noise(noise), arguments.checked_seed(seed)
    finer = arguments.checked_lateral_factor(lateral_factor, keep_measured)
    sign = arguments.true_false_or_auto("nonnegative", nonnegative)
    chosen.check_installed()
    found = chosen.prepare(arguments.options_of(chosen.options, options, chosen.name), number, device)
    chosen.accepts(found, grid.step, finer)
    return Request(
        method=chosen,
        options=found,
        grid=grid,
        lateral_factor=finer,
        rank=arguments.checked_rank(rank),
        noise=sigma,
        nonnegative=sign,
        keep_measured=arguments.true_false_or_auto("keep_measured", keep_measured),
        fitting=Fitting(
            options=found[TuckerOptions], nonnegative=bool(sign), device=choose_device(device), seed=number,
            callback=callback,
        ),
        psf=checked_psf(psf_fwhm),
        spacing=spacing,
    )  # fmt: skip


def recover_volume(volume: Volume, request: Request, start: float, keep: Keep) -> Recovery:
    """Recover every stack of the volume and put the results together; ``start`` is when the clock began.

    ``keep`` is that of `tensorcell.series.recovered_series`.
    """
    shape = list(volume.shape)
    if "Z" in volume.axes:
        shape[volume.axes.index("Z")] = request.grid.planes
    for name in "YX":
        shape[volume.axes.index(name)] *= request.lateral_factor
    dtype = float_type(volume.dtype)
    out, uncertainty, measured = np.empty(shape, dtype), np.empty(shape, dtype), np.zeros(shape, bool)
    refused = refusals(volume, request)  # known before hours of work on the others
    check_some_left(volume, refused)
    parts: dict[str, StackResult] = {}
    outliers: list[StackOutliers] = []
    drawn: list[tuple[Any, Array | None]] = []
    notes: list[str] = []
    for stack, part in recovered_stacks(volume, request, refused, notes, keep):
        for whole, values in ((out, part.volume), (uncertainty, part.uncertainty), (measured, part.measured)):
            zyx_view(whole, volume.axes, stack.where)[...] = values
        drawn.append((stack.where, part.samples))
        outliers.append(StackOutliers(stack.where, part.positions, part.values))
        nothing = np.empty(0)
        parts[stack.label] = part._replace(volume=nothing, uncertainty=nothing, measured=nothing, samples=None)
    check_some_left(volume, refused)
    several = len(parts) > 1
    parts = {stack.label: parts[stack.label] for stack in stacks(volume)}
    first, *_ = parts.values()
    fine = None
    if volume.spacing is not None and request.grid.spacing is not None:
        _, dy, dx = volume.spacing
        fine = request.grid.spacing, dy / request.lateral_factor, dx / request.lateral_factor
    metadata = {
        k: v for k, v in volume.metadata.items() if k not in ("format", "notes")
    }  # the result's notes have them
    pixels = pixel_size_of(volume)
    if "pixel_size" in metadata and pixels is not None:
        metadata["pixel_size"] = tuple(step / request.lateral_factor for step in pixels)
    return Recovery(
        volume=Volume(out, axes=volume.axes, spacing=fine, metadata=metadata),
        measured=measured,
        uncertainty=uncertainty,
        rank={label: part.rank or None for label, part in parts.items()} if several else first.rank,
        status=max((part.status for part in parts.values()), key=SEVERITY.index),
        history=tuple(record for part in parts.values() for record in part.history),
        noise={k: None if k in refused else part.noise for k, part in parts.items()} if several else first.noise,
        defects={label: part.defects for label, part in parts.items()} if several else first.defects,
        notes=(*notes, *(joined_notes({k: part.notes for k, part in parts.items()}) if several else first.notes)),
        seconds=time.perf_counter() - start,
        input_shape=volume.shape,
        grid=request.grid,
        _outliers=tuple(outliers),
        samples=samples_of_all(drawn, out, volume.axes),
        not_recovered=refused,
    )


def recovered_stacks(
    volume: Volume, request: Request, refused: dict[str, str], notes: list[str], keep: Keep
) -> Iterator[tuple[Stack, StackResult]]:
    """Every stack with its result; those that cannot be recovered are added to ``refused``, and notes on series to
    ``notes``."""
    for series in series_of(list(stacks(volume)), volume.axes):
        said: list[str] = []
        frames = [stack for stack in series if stack.label not in refused]
        found = recovered_series(frames, request, said, keep) if frames else iter(())
        for stack in series:
            if stack.label not in refused:
                _, part = next(found)
                if isinstance(part, StackResult):
                    yield stack, part
                    continue
                refused[stack.label] = str(part)
            yield stack, unrecovered(stack, request, refused[stack.label])
        next(found, None)  # what follows the last frame
        name = ", ".join(part for part in series[0].label.split(", ") if not part.startswith("T="))
        notes += [f"{name}: {note}" if name else note for note in said]


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
