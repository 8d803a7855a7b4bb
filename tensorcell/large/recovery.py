"""`recover_file`: from a file to files, part by part, with no more memory than allowed.

A run that is stopped in any way leaves what it finished under hidden names beside the output, with a journal; another
run with ``resume=True`` goes on from there. What it gives is what the first run would have given, bit for bit on the
same machine: what the parts share is found again on the same sample.
"""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorcell import arguments, version
from tensorcell.errors import InputError
from tensorcell.files import check_outputs, claimed, open_volume, split_path
from tensorcell.files.casting import cast
from tensorcell.files.formats import FilePath, Variant
from tensorcell.files.temporary import remove
from tensorcell.files.tile_writing import TileSpec
from tensorcell.joined_notes import RANGE, joined_notes, with_ranges
from tensorcell.large.cluster import cluster, memory_of_workers, place_of_workers
from tensorcell.large.cut import Part, boxes
from tensorcell.large.inputs import digest_of, facts_of_files, files_named
from tensorcell.large.journal import Journal, read_journal, unfinished_name
from tensorcell.large.measured import MeasuredStack, measured_stacks, tried_of
from tensorcell.large.outputs import Output, check_owners, discard, mark_owned, put_in_place
from tensorcell.large.part import PartFacts, PartResult, in_wanted, recovered_part, recovered_whole
from tensorcell.large.plan import Plan, checked_memory, memory_of_parts, memory_to_use, planned
from tensorcell.large.sample import Told, chosen_blocks, told_by
from tensorcell.large.survey import Survey, block_of, survey_of
from tensorcell.large.workers import Call, Place, ThisProcess, Workers, place_here
from tensorcell.lazy_volume import LazyVolume
from tensorcell.memory import size_text
from tensorcell.methods.table import METHODS
from tensorcell.plane_grid import wanted_grid
from tensorcell.processing import processed
from tensorcell.recovery import SEVERITY, checked_request, notes_on_planes
from tensorcell.solvers import Status
from tensorcell.stack import float_type
from tensorcell.stack_recovery import Request
from tensorcell.volume import Index
from tensorcell.volume_checks import notes_on_file, pixel_size_of

Array = npt.NDArray[Any]

METHODS_IN_PARTS = ("auto", "local", "tucker", "fast")
"""Methods that recover a stack in parts; the others learn from the stack as a whole."""

ASKED = {
    "axial_factor": 1, "spacing_z": None, "lateral_factor": 1, "method": "auto", "rank": "auto", "noise": "auto",
    "nonnegative": "auto", "keep_measured": "auto", "psf_fwhm": None, "missing_value": None, "device": "auto",
    "time_limit": None, "seed": 0,
}  # fmt: skip
"""The arguments of `tensorcell.recover` that hold here, too, with their defaults."""

NOTHING = {"rank": None, "noise": None}
"""What is said of a stack that was not recovered."""

FREE_ON_GPU = "memory of the GPU"
"""Name in a journal of the bytes that were free when the parts were planned."""

Say = Callable[["Progress"], Any]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a recovery in parts is.

    Attributes
    ----------
    label : str
        The stack, such as ``"T=0, C=1"``.
    stage : {"plan", "survey", "sample", "parts"}
    done, parts : int
        Parts of all stacks that are done, and that there are.
    left : float or None
        Seconds that the rest will take; None where nothing tells it yet.
    message : str
        What will be needed, at the stage "plan".
    """

    label: str
    stage: str
    done: int
    parts: int
    left: float | None = None
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class FileRecovery:
    """What :func:`recover_file` returns.

    Attributes
    ----------
    path : Path
        The output.
    shape, axes, dtype, spacing
        Of the volume in it; the voxel size in micrometres, or None.
    input_shape : tuple of int
    measured : int
        Measured voxels among those of the output.
    rank, noise : one entry, or dict of label to entry
        Of the sample of each stack: the Tucker rank of its global model (each part has one of its own, of at most that
        rank), and the standard deviation of the noise in the data's unit; None where a stack was not recovered.
    defects : dict of kind to int
        Outliers by kind. Those in the rim of a part count in each part that reads them.
    outliers : int
        Number of measured voxels flagged as outliers.
    status : Status
    notes : tuple of str
    seconds : float
        Wall time of this run.
    parts : int
    rounded, clipped : int
        Voxels that the data type of the output changed.
    not_recovered : dict of label to str
        Channels and frames that could not be recovered, with the reason: NaN in the output.
    """

    path: Path
    shape: tuple[int, ...]
    axes: str
    dtype: np.dtype[Any]
    spacing: tuple[float, float, float] | None
    input_shape: tuple[int, ...]
    measured: int
    rank: Any
    noise: Any
    defects: Mapping[str, int]
    outliers: int
    status: Status
    notes: tuple[str, ...]
    seconds: float
    parts: int
    rounded: int
    clipped: int
    not_recovered: Mapping[str, str]

    def facts(self) -> dict[str, Any]:
        """The same in plain numbers, texts and lists, by the names that ``recover --json`` has."""
        voxels = int(np.prod(self.shape, dtype=np.int64))
        return {
            "input_shape": list(self.input_shape),
            "shape": list(self.shape),
            "axes": self.axes,
            "spacing": None if self.spacing is None else list(self.spacing),
            "dtype": str(self.dtype),
            "measured": self.measured,
            "observed_ratio": self.measured / voxels,
            "rank": self.rank,
            "noise": self.noise,
            "outliers": self.outliers,
            "defects": dict(self.defects),
            "status": str(self.status),
            "not_recovered": dict(self.not_recovered),
            "parts": self.parts,
            "seconds": round(self.seconds, 3),
            "notes": list(self.notes),
            "rounded": self.rounded,
            "clipped": self.clipped,
        }


def recover_file(
    source: FilePath | Sequence[FilePath] | LazyVolume,
    target: FilePath,
    *,
    mask: FilePath | LazyVolume | None = None,
    memory: float | str | None = None,
    resume: bool | None = None,
    uncertainty: FilePath | None = None,
    invented: FilePath | None = None,
    outliers: FilePath | None = None,
    dtype: Any = None,
    rim: int | None = None,
    progress: Say | None = None,
    client: Any = None,
    dataset: str | None = None,
    series: str | int | None = None,
    axes: str | None = None,
    missing_planes: bool = False,
    spacing: tuple[float, float, float] | None = None,
    pyramid: bool = False,
    ngff: str | None = None,
    **options: Any,
) -> FileRecovery:
    """Recover a volume of any size from a file to files, part by part.

    Parameters
    ----------
    source : path or LazyVolume
        What `tensorcell.open_volume` opens, or a volume of which parts can be read (of zarr or dask arrays).
    target : path
        OME-Zarr (``.zarr``), TIFF, HDF5 or NPY. It appears when it is finished.
    mask : path or LazyVolume, optional
        Nonzero = measured; axes that only the volume has are repeated.
    memory : float or str, optional
        Bytes that the process may use (on a cluster: each worker), or a text such as ``"4GB"``; by default most of what
        is free, or what the earlier run had that is gone on with. Parts on a GPU fit most of what is free there, too.
    resume : bool, optional
        What to do where an earlier run on this output was stopped: go on (True), or begin anew (False). By default that
        is an error, which says how far that run came.
    uncertainty, invented, outliers : path, optional
        Further outputs: ``u``, the share of each voxel that the measurement leaves open, and ``E``; see
        :class:`tensorcell.Recovery`.
    dtype : dtype, optional
        Of the output; by default the float type that `recover` returns. Where something cannot be recovered, floats
        take the place of integers, since these have no NaN, and a note says so.
    rim : int, optional
        Voxels around each part that are read with it. More make parts more alike to the whole, and take longer.
    progress : callable, optional
        Called with a `Progress` after every part.
    client : distributed.Client, optional
        Of a cluster on whose workers the stacks are read and recovered; this process writes. They need the same version
        of tensorcell, and see ``source`` and ``mask`` under the same (absolute) paths. ``device="cuda"`` is the first
        GPU that each of them sees, and ``"auto"`` is that where all have one; this process needs none.
    dataset, series, axes, missing_planes, spacing
        As in `tensorcell.read` and `tensorcell.recover`.
    pyramid, ngff
        As in `tensorcell.write`, of all outputs.
    **options
        As in `tensorcell.recover`: ``method`` (of those that fill and denoise), ``axial_factor``, ``noise`` ...

    Returns
    -------
    FileRecovery

    Raises
    ------
    InputError
        As `tensorcell.recover` and `tensorcell.write`; if the memory is too small for any part; if an earlier run on
        this output was stopped and ``resume`` does not say what to do; if that was another job; or if the cluster
        cannot do the work or is lost.

    Notes
    -----
    The stack is read twice: one pass finds where its structure is, and the second recovers. Noise, weights of filters,
    errors in gaps and the choice of a method come from a sample of eight blocks of different contrast. Outliers, the
    global model and planes between planes are found part by part. Frames of a series are recovered one by one. Where
    planes are wanted between those given, a part has all planes.

    On a cluster, parts are tasks, at most two a worker at a time, and are written in the order in which they are
    finished. A worker does one of them after the other, with as many threads as it was given. Where a worker dies, its
    parts are recovered by others. The result is that of a run without a cluster, bit for bit on processors of the same
    kind, and a run that was stopped goes on with or without one if ``memory`` is the same.

    Disk: the outputs, under hidden names until they are finished.
    """
    start = time.perf_counter()
    allowed, resume = checked_memory(memory), checked_resume(resume)
    outputs = {"OUT": target, "uncertainty": uncertainty, "invented": invented, "outliers": outliers}
    named = {name: os.fspath(path) for name, path in outputs.items() if path is not None}
    files = files_named(source)
    inputs = {"IN" if number == 0 else f"IN {number + 1}": path for number, path in enumerate(files)}
    masks = [] if mask is None else files_named(mask)
    check_outputs({**inputs, "mask": next(iter(masks), None)}, named)
    for path in named.values():
        if (inside := split_path(path)[1]) is not None:
            raise InputError(
                f"{path}: a volume that is recovered in parts has a file of its own, expected a path without {inside!r}"
            )
    places = [Path(path) for path in named.values()]
    with claimed(places):
        check_owners(places[0], places[1:])
        volume = source
        if not isinstance(volume, LazyVolume):
            volume = open_volume(volume, dataset=dataset, series=series, axes=axes, missing_planes=missing_planes)
        if spacing is not None:
            volume = replace(volume, spacing=spacing)
        asked, others = asked_of(options)
        place = place_here(asked["device"]) if client is None else place_of_workers(client, asked["device"])
        earlier = job_of_earlier(Path(target)) if resume else {}
        allowed = earlier.get("memory") if allowed is None else allowed
        if allowed is None:
            allowed = memory_to_use(None, None if client is None else memory_of_workers(client))
        place = place._replace(free=earlier.get(FREE_ON_GPU, place.free))
        run = Run.prepared(volume, asked, others, mask, named, dtype, rim, allowed, place, Variant(pyramid, ngff))
        given = {"files": facts_of_files(files, volume), "dataset": dataset, "series": series}
        given["missing planes"] = missing_planes
        given["mask"] = None if mask is None else facts_of_files(masks, run.stacks[0].mask)
        if resume is False:
            discard(Path(target))
        # values that are in no file, such as those of a dask array, are told by some of them
        given["voxels"] = [digest_of(*tried_of(stack)) for stack in (run.stacks[0], run.stacks[-1])]
        journal = Journal.of(Path(target), {**run.job(given), "memory": allowed, FREE_ON_GPU: place.free}, resume)
        if client is None:
            return run.made(ThisProcess(run.stacks), journal, progress, start)
        with cluster(client, run.stacks, run.place.device) as workers:
            return run.made(workers, journal, progress, start)


def checked_resume(resume: Any) -> bool | None:
    """True, False, or None."""
    if resume is not None and not isinstance(resume, bool | np.bool_):
        raise InputError(f"expected resume True, False or None, got {resume!r}")
    return None if resume is None else bool(resume)


def job_of_earlier(target: Path) -> Mapping[str, Any]:
    """The job of an earlier run on this output, if there is one: from the memory that it had the same parts follow."""
    path = unfinished_name(target, ".journal")
    return read_journal(path).job if path.exists() else {}


def asked_of(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments of `recover` with their defaults, and the options of the method."""
    asked = {name: options.get(name, default) for name, default in ASKED.items()}
    method = arguments.one_of("method", asked["method"], METHODS)
    if method not in METHODS_IN_PARTS:
        raise InputError(
            f"expected method {', '.join(METHODS_IN_PARTS[:-1])} or {METHODS_IN_PARTS[-1]} for a volume that is "
            f"recovered in parts, got {method}, which learns from all of it"
        )
    if asked["time_limit"] is not None:
        raise InputError("expected no time limit for a volume that is recovered in parts: it is for one that fits in")
    return asked, {name: value for name, value in options.items() if name not in ASKED}


@dataclass
class Run:
    """All that is known before the work."""

    volume: LazyVolume
    stacks: Sequence[MeasuredStack]
    request: Request
    plan: Plan
    place: Place
    outputs: Mapping[str, Output]
    options: Mapping[str, Any]

    @staticmethod
    def prepared(
        volume: LazyVolume, asked: Mapping[str, Any], others: Mapping[str, Any],
        mask: FilePath | LazyVolume | None,
        named: Mapping[str, str], dtype: Any, rim: int | None, memory: float, place: Place, variant: Variant,
    ) -> Run:  # fmt: skip
        """Check everything that can be checked without the values."""
        grid = wanted_grid(volume, asked["axial_factor"], asked["spacing_z"], asked["lateral_factor"])
        taken = ("lateral_factor", "rank", "noise", "nonnegative", "keep_measured", "psf_fwhm", "seed")
        request = checked_request(
            asked["method"], others, "cpu", grid=grid, spacing=volume.spacing, callback=None,
            **{name: asked[name] for name in taken},
        ).computed_on(place.device)  # fmt: skip
        stacks = measured_stacks(volume, mask, asked["missing_value"])
        shape, factor = stacks[0].shape, request.lateral_factor
        outputs = outputs_of(volume, request, named, dtype, {**asked, **others}, variant)
        wanted = grid.planes, factor * shape[1], factor * shape[2]
        rim = None if rim is None else arguments.whole_number("rim", rim, least=0)
        plan_for = partial(planned, shape, wanted, dtype=volume.dtype, whole_z=grid.step != 1, rim=rim)
        try:
            plan = plan_for(memory=memory_of_parts(memory, place.free))
        except InputError:
            plan = plan_for(memory=memory)  # or the same error, where it is not the GPU that is too small
            note = f"the {size_text(place.free or 0)} that are free on the GPU are too little for any part"
            place, request = Place("cpu", None, (f"computed on the CPU, since {note}",)), request.computed_on("cpu")
        return Run(volume, stacks, request, plan, place, outputs, {**asked, **others})

    def job(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """All that the result depends on; ``given`` is said of the input."""
        volume = self.volume
        return {
            "program": version.__version__,
            "input": {**given, "volume": [list(volume.shape), volume.axes, str(volume.dtype), volume.spacing]},
            "options": {name: repr(value) for name, value in self.options.items()},
            "outputs": {
                name: [str(each.path.absolute()), str(each.spec.dtype), *each.spec.variant]
                for name, each in self.outputs.items()
            },
            "parts": [list(self.plan.cut.shape), list(self.plan.cut.sides), self.plan.cut.rim],
            "sample": [list(self.plan.sample.blocks), list(self.plan.sample.sides)],
        }

    @property
    def places(self) -> tuple[Path, list[Path]]:
        """The path of OUT, and those of the other outputs."""
        target, *others = (output.path for output in self.outputs.values())
        return target, others

    def made(self, workers: Workers, journal: Journal, say: Say | None, start: float) -> FileRecovery:
        """Do the work that is left, and put the files in their places."""
        self.outputs["OUT"].floats = journal.floats
        if journal.end is None:
            try:
                self.finish(workers, journal, say)
            except InputError:
                if not journal.parts:  # nothing to go on from
                    discard(*self.places)
                raise
        # an earlier run may have been killed when some files, or all of them, were in their places
        put_in_place({output.path: output.part for output in self.outputs.values() if output.part.exists()})
        discard(*self.places)
        return self.result(journal, time.perf_counter() - start)

    def finish(self, workers: Workers, journal: Journal, say: Say | None) -> None:
        """Do the work that is left, and finish the files under their hidden names."""
        resume = journal.path.exists()
        try:
            for output in self.outputs.values():
                output.open(resume=resume)
            mark_owned(*self.places)
            journal.begin()
            if say is not None:
                number = len(self.stacks) * self.plan.cut.number
                say(Progress(label="", stage="plan", done=len(journal.parts), parts=number, message=self.sentence()))
            refused: dict[str, str] = {}
            self.recover_parts(workers, journal, refused, say)
            if len(refused) == len(self.stacks):
                label, reason = next(iter(refused.items()))
                raise InputError(f"{label}: {reason}" if label else reason)
            stored = {name: output.complete() for name, output in self.outputs.items()}
        finally:
            for output in self.outputs.values():
                output.close()
        form, lost = stored["OUT"]
        journal.add_end({"not recovered": refused, "format": form, "lost": list(lost)})

    def sentence(self) -> str:
        """What the recovery will need."""
        cut, specs = self.plan.cut, [each.spec for each in self.outputs.values()]
        disk = sum(spec.layout().data.nbytes * (4 / 3 if spec.variant.pyramid else 1) for spec in specs)
        sides = " x ".join(map(str, cut.sides))
        stacks = f" of each of {len(self.stacks)} stacks" if len(self.stacks) > 1 else ""
        gpu = f"; the GPU, where a part takes as much, has {self.free_on_gpu} free" if self.free_on_gpu else ""
        return (
            f"{self.volume!r}: {cut.number} part{'' if cut.number == 1 else 's'} of {sides} voxels{stacks}; about "
            f"{size_text(round(self.plan.memory))} of memory and up to {size_text(round(disk))} of disk will be needed"
            f"{gpu}"
        )

    @property
    def free_on_gpu(self) -> str:
        """What was free there when the parts were planned, in words; nothing on the CPU."""
        return "" if self.place.device == "cpu" or self.place.free is None else size_text(self.place.free)

    def recover_parts(self, workers: Workers, journal: Journal, refused: dict[str, str], say: Say | None) -> None:
        """Recover all parts that are not done; what is finished first is written first."""
        cut, number = self.plan.cut, len(self.stacks) * self.plan.cut.number
        begun, first = time.perf_counter(), len(journal.parts)
        whole = cut.number == 1

        def told(stack: MeasuredStack, stage: str) -> None:
            if say is not None:
                done = len(journal.parts)
                new, missed = done - first, cut.number * len(refused)
                left = (time.perf_counter() - begun) / new * (number - done - missed) if new else None
                say(Progress(label=stack.label, stage=stage, done=done, parts=number, left=left))

        calls = self.calls_for_parts(workers, journal, refused, told)
        for (stack, n, part), found in workers.run(recovered_whole if whole else recovered_part, calls):
            if isinstance(found, str):
                self.refuse(stack, found, refused, journal)
                continue
            changed = self.write_part(stack, part, found, journal)
            journal.add_part(stack.label, n, plain(found.facts) | changed)
            told(stack, "parts")

    def calls_for_parts(
        self, workers: Workers, journal: Journal, refused: dict[str, str], told: Callable[[MeasuredStack, str], None]
    ) -> Iterator[Call]:
        """A call for each part that is not done; before those of a stack that is cut its sample is recovered."""
        sides, parts, names = self.plan.sample.sides, list(self.plan.cut.parts()), tuple(self.outputs)
        for number, stack in enumerate(self.stacks):
            left = [n for n in range(len(parts)) if (stack.label, n) not in journal.parts]
            if not left:
                continue
            told(stack, "survey")
            if len(parts) == 1:
                yield Call((stack, 0, parts[0]), number, (parts[0], stack.label, self.request, names, sides))
                continue
            calls = (Call(None, number, (box,)) for box in boxes(stack.shape, sides))
            try:
                survey = survey_of(stack.shape, (block for _, block in workers.run(block_of, calls, first=True)))
                told(stack, "sample")
                told_here = self.told(number, survey, workers, journal)
            except InputError as error:
                self.refuse(stack, str(error), refused, journal)
                continue
            check_sample(journal, stack.label, told_here.digest)
            request = workers.share(told_here.request)
            for n in left:
                yield Call((stack, n, parts[n]), number, (parts[n], stack.label, request, names))

    def told(self, number: int, survey: Survey, workers: Workers, journal: Journal) -> Told:
        """What the sample of a stack that is cut tells of it."""
        layout, stack = self.plan.sample, self.stacks[number]
        chosen = chosen_blocks(survey, layout)
        call = Call(None, number, (chosen, layout, stack.label, self.request, survey.complete))
        ((_, found),) = workers.run(told_by, [call], first=True)
        told: Told = found
        if stack.label not in journal.samples:
            share = len(chosen) * math.prod(layout.sides) / survey.voxels
            side = " x ".join(map(str, layout.sides))
            sample = "the whole stack"
            if len(chosen) > 1:
                sample = f"a sample of {len(chosen)} blocks of {side} voxels, {100 * share:.2g} % of the stack"
            gpu = f" (the GPU had {self.free_on_gpu} free)" if self.free_on_gpu else ""
            count = self.plan.cut.number
            parts = f"{count} part{'' if count == 1 else 's'}{gpu}"
            note = f"recovered in {parts}; the noise, how it is removed, and the errors in gaps were found on {sample}"
            facts = {"rank": list(told.rank), "noise": told.noise, "note": note, "digest": told.digest}
            journal.add_sample(stack.label, facts)
        return told

    def write_part(self, stack: MeasuredStack, part: Part, found: PartResult, journal: Journal) -> dict[str, int]:
        """Write a part to the disk; how many voxels were rounded and clipped to the data type of the output."""
        place, changed = in_wanted(part.inner, self.request), {}
        for name, values in found.arrays.items():
            box = part.inner if name == "outliers" else place
            rounded, clipped = self.write(name, *stack.in_volume(box, values), journal)
            if name == "OUT":
                changed = {"rounded": rounded, "clipped": clipped}
        for output in self.outputs.values():
            output.flush()
        return changed

    def write(self, name: str, where: Index, values: Array, journal: Journal) -> tuple[int, int]:
        """Write values of an output, which holds floats from the first NaN on."""
        output = self.outputs[name]
        if output.lacks(values):
            integers, parts = output.part, list(self.plan.cut.parts())
            stacks = {stack.label: stack for stack in self.stacks}
            output.become_floats(
                stacks[label].place(in_wanted(parts[n].inner, self.request)) for label, n in journal.parts
            )
            journal.add_floats()
            remove(integers)
        return output.write(where, values)

    def refuse(self, stack: MeasuredStack, why: str, refused: dict[str, str], journal: Journal) -> None:
        """Write NaN for a stack that cannot be recovered, and remember the reason."""
        refused[stack.label] = why
        self.write_nothing(stack, journal)

    def write_nothing(self, stack: MeasuredStack, journal: Journal) -> None:
        """NaN for a stack that cannot be recovered."""
        grid, factor = self.request.grid, self.request.lateral_factor
        _, rows, columns = stack.shape
        for name in self.outputs:
            shape = stack.shape if name == "outliers" else (grid.planes, factor * rows, factor * columns)
            for z in range(shape[0]):
                box = (slice(z, z + 1), slice(0, shape[1]), slice(0, shape[2]))
                nothing = np.full((1, *shape[1:]), 0 if name == "outliers" else np.nan, np.float32)
                self.write(name, *stack.in_volume(box, nothing), journal)

    def result(self, journal: Journal, seconds: float) -> FileRecovery:
        """What is said of all of it."""
        refused, form, lost = (journal.end[name] for name in ("not recovered", "format", "lost"))
        parts = list(journal.parts.values())
        spec, output = self.outputs["OUT"].spec, self.outputs["OUT"]
        labels = [stack.label for stack in self.stacks]
        several = len(labels) > 1
        samples = {label: journal.samples.get(label, journal.parts.get((label, 0), NOTHING)) for label in labels}
        own = {label: notes_of(label, journal, refused) for label in labels}
        notes = joined_notes(own) if several else own[labels[0]]
        if "T" in self.volume.axes and several:
            notes = ["each frame was recovered by itself", *notes]
        rounded, clipped = (sum(part.get(name, 0) for part in parts) for name in ("rounded", "clipped"))
        if rounded or clipped:
            notes = [*notes, f"{rounded} voxels were rounded and {clipped} clipped to {spec.dtype}"]
        if output.floats:
            notes = [
                *notes,
                f"OUT is {np.dtype(output.stored.dtype)}: NaN, which {spec.dtype} does not hold, marks "
                f"what was not recovered; all else is rounded to {spec.dtype}",
            ]
        if lost:
            notes = [*notes, f"{form} does not hold: {', '.join(lost)}"]
        defects: Counter[str] = Counter()
        for part in parts:
            defects.update(part["defects"])
        rank, noise = ({label: sample[name] for label, sample in samples.items()} for name in ("rank", "noise"))
        statuses = [Status[part["status"]] for part in parts] + [Status.NOT_RECOVERED] * bool(refused)
        return FileRecovery(
            path=output.path,
            shape=spec.shape,
            axes=spec.axes,
            dtype=np.dtype(output.stored.dtype),
            spacing=spec.spacing,
            input_shape=self.volume.shape,
            measured=sum(part["measured"] for part in parts),
            rank=rank if several else rank[labels[0]],
            noise=noise if several else noise[labels[0]],
            defects=dict(defects),
            outliers=sum(part["outliers"] for part in parts),
            status=max(statuses, key=SEVERITY.index),
            notes=(
                *notes_on_file(self.volume),
                *self.place.notes,
                *notes_on_planes(self.volume),
                *self.request.grid.notes(),
                *notes,
            ),
            seconds=seconds,
            parts=len(parts),
            rounded=rounded,
            clipped=clipped,
            not_recovered=dict(refused),
        )


def outputs_of(
    volume: LazyVolume, request: Request, named: Mapping[str, str], dtype: Any, options: Mapping[str, Any],
    variant: Variant,
) -> dict[str, Output]:  # fmt: skip
    """The files that are to be written; the options are named in the metadata of the volume."""
    grid, factor = request.grid, request.lateral_factor
    sizes = dict(zip(volume.axes, volume.shape, strict=True))
    wanted = {**sizes, "Y": factor * sizes["Y"], "X": factor * sizes["X"]}
    if "Z" in sizes:
        wanted["Z"] = grid.planes
    fine = None
    if volume.spacing is not None and grid.spacing is not None:
        _, dy, dx = volume.spacing
        fine = grid.spacing, dy / factor, dx / factor
    own = float_type(volume.dtype)
    metadata = {k: v for k, v in volume.metadata.items() if k not in ("format", "notes")}
    pixels = pixel_size_of(volume)
    if "pixel_size" in metadata and pixels is not None:
        metadata["pixel_size"] = tuple(step / factor for step in pixels)
    own_of = dict.fromkeys(named, metadata) | {"OUT": processed(metadata, options)}
    found = {}
    for name, path in named.items():
        letters = sizes if name == "outliers" else wanted
        shape = tuple(letters[letter] for letter in volume.axes)
        given = own if dtype is None or name != "OUT" else volume.dtype if dtype == "input" else dtype
        kind = cast(np.zeros((), own), given).data.dtype
        spec = TileSpec(shape, volume.axes, kind, volume.spacing if name == "outliers" else fine, own_of[name], variant)
        found[name] = Output(Path(path), spec)
    return found


def check_sample(journal: Journal, label: str, digest: str) -> None:
    """Raise `InputError` if the sample of a stack has other values than an earlier run found there."""
    if journal.samples[label]["digest"] != digest:
        raise InputError(
            f"{label or 'the stack'} has other values than those of which an earlier run recovered parts; "
            "resume=False (--no-resume) begins anew"
        )


def plain(facts: PartFacts) -> dict[str, Any]:
    """What is said of a part, as JSON holds it."""
    return {**facts._asdict(), "rank": list(facts.rank), "status": facts.status.name, "defects": dict(facts.defects)}


def notes_of(label: str, journal: Journal, refused: Mapping[str, str]) -> list[str]:
    """What is said of a stack: where its sample comes from, and what is said of its parts."""
    if label in refused:
        return [f"not recovered, NaN in the result: {refused[label]}"]
    own = [journal.samples[label]["note"]] if label in journal.samples else []
    parts = {n: facts for (stack, n), facts in journal.parts.items() if stack == label}
    return [*own, *notes_of_parts([parts[n]["notes"] for n in sorted(parts)])]


def notes_of_parts(notes: Sequence[Sequence[str]]) -> list[str]:
    """What is said of parts: what is said of all of them once, and of what differs in numbers only their ranges.

    >>> notes_of_parts([["noise of 2", "3 voxels stand out"], ["noise of 2"], ["noise of 2", "9 voxels stand out"]])
    ['noise of 2', 'in 2 of 3 parts: 3 to 9 voxels stand out']
    """
    alike: dict[str, list[str]] = {}
    for own in notes:
        for note in own:
            alike.setdefault(RANGE.sub("#", note), []).append(note)
    lines = []
    for found in alike.values():
        everywhere = len(found) == len(notes)
        lines.append(f"{'' if everywhere else f'in {len(found)} of {len(notes)} parts: '}{with_ranges(found)}")
    return lines
