"""``tensorcell recover``: from a file to files, which appear all or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from tensorcell.cli.exits import Interrupted
from tensorcell.cli.flags import given_options, with_flags
from tensorcell.cli.in_parts import goes_in_parts, recover_in_parts
from tensorcell.cli.many_files import are_many, one_stack, recover_many
from tensorcell.cli.memory import peak_memory, say_cost
from tensorcell.cli.parsing import (
    AXES_HELP,
    DATASET_HELP,
    FACTOR_HELP,
    JSON_HELP,
    LATERAL_HELP,
    MASK_HELP,
    MISSING_HELP,
    NOISE_HELP,
    PAGE_SUFFIXES,
    PSF_HELP,
    RANK_HELP,
    SERIES_HELP,
    SOURCES_HELP,
    SPACING_HELP,
    SPACING_Z_HELP,
    TARGET_HELP,
    noise_of,
    numbers_of,
    rank_of,
    spacing_of,
    spacing_z_of,
)
from tensorcell.cli.screen import show
from tensorcell.errors import InputError
from tensorcell.files import (
    Written,
    check_outputs,
    claimed,
    open_volume,
    read,
    read_mask,
    rehearse,
    split_path,
    staged,
    write,
)
from tensorcell.large.outputs import discard
from tensorcell.memory import bytes_of_recovery, check_affordable
from tensorcell.methods.table import METHODS
from tensorcell.missing_value import missing_value_of, without_value
from tensorcell.pages import recovery as reports
from tensorcell.plane_grid import wanted_grid
from tensorcell.processing import processed
from tensorcell.progress import ProgressBar
from tensorcell.recovered import Recovery
from tensorcell.recovery import recover as recover_volume
from tensorcell.stack import float_type
from tensorcell.volume import Volume, stacks

TIME_HELP = "Minutes that auto may take: where they suffice, a prior fills the planes between (method diffusion)."

MEMORY_HELP = (
    "Memory that may be used, such as 4GB; a volume that needs more is recovered in parts. Default: what is free."
)
RESUME_HELP = "Go on with, or discard, what an earlier run in parts on OUT left when it was stopped."

SCHEDULER_HELP = (
    "Address of a dask.distributed scheduler, such as tcp://host:8786: its workers, which must see IN under the same "
    "path, recover the parts."
)

METHOD_HELP = " ".join(f"{method.name}: {method.summary}" for method in METHODS.values())


@with_flags(METHODS)
def recover(
    context: typer.Context,
    paths: Annotated[list[str], typer.Argument(metavar="IN... OUT", help=f"{SOURCES_HELP}. {TARGET_HELP}")],
    axial_factor: Annotated[int, typer.Option(help=FACTOR_HELP)] = 1,
    spacing_z: Annotated[str | None, typer.Option(help=SPACING_Z_HELP)] = None,
    lateral_factor: Annotated[int, typer.Option(help=LATERAL_HELP)] = 1,
    method: Annotated[str, typer.Option(help=METHOD_HELP)] = "auto",
    rank: Annotated[str, typer.Option(help=RANK_HELP)] = "auto",
    noise: Annotated[str, typer.Option(help=NOISE_HELP)] = "auto",
    mask: Annotated[str | None, typer.Option(help=MASK_HELP)] = None,
    missing_value: Annotated[str | None, typer.Option(help=MISSING_HELP)] = None,
    device: Annotated[str, typer.Option(help="Where the model is fitted and patches are filtered: auto, cpu or cuda.")] = "auto",
    time_limit: Annotated[float | None, typer.Option(help=TIME_HELP)] = None,
    outliers: Annotated[str | None, typer.Option(help="Write the outliers that were removed to this file.")] = None,
    uncertainty: Annotated[
        str | None, typer.Option(help="Write u to this file: output +- 1.645 u is to hold the truth in 90 % of voxels.")
    ] = None,
    invented: Annotated[
        str | None, typer.Option(help="Write the share of each voxel that the measurement leaves open, 0 to 1.")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="Data type of OUT: input, uint8, uint16, float32, ...")] = None,
    report: Annotated[str | None, typer.Option(help="Write a report: a picture (.png) or a page (.html).")] = None,
    keep_measured: Annotated[
        bool | None, typer.Option("--keep-measured/--no-keep-measured", help="Default: keep if any voxel is missing.")
    ] = None,
    nonnegative: Annotated[
        bool | None, typer.Option("--nonnegative/--no-nonnegative", help="Default: yes if no measured one is negative.")
    ] = None,
    psf_fwhm: Annotated[str | None, typer.Option(help=PSF_HELP)] = None,
    axes: Annotated[str | None, typer.Option(help=AXES_HELP)] = None,
    dataset: Annotated[str | None, typer.Option(help=DATASET_HELP)] = None,
    series: Annotated[str | None, typer.Option(help=SERIES_HELP)] = None,
    spacing: Annotated[str | None, typer.Option(help=SPACING_HELP)] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed for the choice of left-out voxels.")] = 0,
    memory: Annotated[str | None, typer.Option(help=MEMORY_HELP)] = None,
    resume: Annotated[bool | None, typer.Option("--resume/--no-resume", help=RESUME_HELP, show_default=False)] = None,
    scheduler: Annotated[str | None, typer.Option(help=SCHEDULER_HELP)] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Several inputs: files at a time.")] = 1,
    suffix: Annotated[str | None, typer.Option(help="Several inputs: suffix of the outputs, such as .h5.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Several inputs: show what would be done.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help=JSON_HELP)] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress and no summary.")] = False,
    **flags: Any,
) -> None:
    """Recover a stack: fill gaps and planes, remove outliers, reduce noise.

    Of several channels and frames, one that cannot be recovered is NaN in OUT and named on stderr; the others are
    written, and the exit status is 2.

    Several inputs (files, a pattern such as 'in/*.tif', or a folder) are recovered one by one if OUT is a folder; one
    of them that cannot be read does not stop the others, and the same command goes on where it was stopped. {name} in
    the names of other files stands for the name of each input. If OUT is a file, they are the planes of one stack.
    """
    *sources, target = paths
    if not sources:
        raise InputError(f"expected IN and OUT, got {target} alone")
    if are_many(sources, target):
        recover_many(context, sources, target, jobs=jobs, suffix=suffix, dry_run=dry_run, as_json=as_json, quiet=quiet)
        return
    if dry_run or jobs > 1 or suffix is not None:
        raise InputError("--dry-run, --jobs and --suffix are for several inputs, got one")
    given_as = one_stack(sources)
    planes = [given_as] if isinstance(given_as, str) else given_as
    source = planes[0] if len(planes) == 1 else f"{planes[0]} ... {planes[-1]} ({len(planes)} files)"
    options = {
        "axial_factor": axial_factor,
        "method": method,
        "rank": rank_of(rank),
        "noise": noise_of(noise),
        "nonnegative": "auto" if nonnegative is None else nonnegative,
        "keep_measured": "auto" if keep_measured is None else keep_measured,
        "psf_fwhm": None if psf_fwhm is None else numbers_of(psf_fwhm, "--psf-fwhm", 3),
        "missing_value": missing_value_of(missing_value),
        "spacing_z": spacing_z_of(spacing_z),
        "lateral_factor": lateral_factor,
        "device": device,
        "time_limit": time_limit,
        "seed": seed,
        **given_options(METHODS, method, flags),
    }
    outputs = {
        "OUT": target, "--outliers": outliers, "--uncertainty": uncertainty, "--invented": invented, "--report": report,
    }  # fmt: skip
    try:
        inputs = {"IN" if number == 0 else f"IN {number + 1}": each for number, each in enumerate(planes)}
        check_outputs({**inputs, "--mask": mask}, outputs, PAGE_SUFFIXES)
        lazy = open_volume(given_as, dataset=dataset, series=series, axes=axes)
        voxel = None if spacing is None else spacing_of(spacing, lazy.axes)
        in_parts = goes_in_parts(replace(lazy, spacing=voxel or lazy.spacing), options, memory, resume, target)
        if in_parts or scheduler is not None:
            if report is not None:
                raise InputError("--report is for a volume that fits into memory, expected none for one in parts")
            recover_in_parts(
                given_as, source, target, scheduler, quiet=quiet, as_json=as_json, memory=memory, resume=resume,
                mask=mask, dtype=dtype, uncertainty=uncertainty, invented=invented, outliers=outliers, dataset=dataset,
                series=series, axes=axes, spacing=voxel, **options,
            )  # fmt: skip
            return
        cache = flags.get("cache")
        held = [split_path(path)[0] for path in outputs.values() if path is not None]
        with claimed(held if cache is None else [*held, cache]):
            before = read(given_as, dataset=dataset, series=series, axes=axes)
            if voxel is not None:
                before = replace(before, spacing=voxel)
            measured = read_mask(mask, like=before) if mask is not None else None
            wanted = before.dtype if dtype == "input" else dtype
            rehearse_all(before, target, wanted, (outliers, uncertainty, invented))
            grid = wanted_grid(before, axial_factor, options["spacing_z"], lateral_factor)
            discard(split_path(path)[0] for path in (target, outliers, uncertainty, invented) if path is not None)
            check_affordable(before, grid, bytes_of_recovery(before), lateral_factor=lateral_factor)
            if not quiet:
                say_cost(source, before, grid)
            labels = [stack.label for stack in stacks(before)]
            with ProgressBar(labels, enabled=False if quiet else None) as bar:
                result = recover_volume(before, measured, callback=bar.update, **options)
            facts = {"input": source, "output": target, **reports.facts(before, result)}
            fitting, lost_type = storable(wanted, result)
            given, _ = without_value(Volume.from_array(before, mask=measured), options["missing_value"])
            signed = replace(result.volume, metadata=processed(result.volume.metadata, options))
            written = write_all(outputs, given, result, signed, fitting)
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; nothing was written{how_to_go_on(flags.get('cache'))}") from None
    facts["notes"].extend(lost_type)
    stored = np.dtype(fitting or result.volume.dtype).name
    facts |= {
        "dtype": stored,
        "rounded": written.rounded,
        "clipped": written.clipped,
        "peak_memory_mib": peak_memory(),
    }
    if written.rounded or written.clipped:
        facts["notes"].append(f"{written.rounded} voxels were rounded and {written.clipped} clipped to {stored}")
    if written.lost:
        facts["notes"].append(f"{written.format} does not hold: {', '.join(written.lost)}")
    if as_json:
        show(json.dumps(facts))
    elif not quiet:
        show(summary(facts))
    if result.not_recovered:
        raise InputError(f"{target} was written, but {said_of(result.not_recovered)}")


def storable(wanted: Any, result: Recovery) -> tuple[Any, tuple[str, ...]]:
    """The data type of OUT, and a note if it is not the wanted one, since no integer stands for NaN."""
    if wanted is None or np.dtype(wanted).kind == "f" or not result.not_recovered:
        return wanted, ()
    note = f"OUT is {result.volume.dtype}: NaN, which {np.dtype(wanted)} does not hold, marks what was not recovered"
    return None, (note,)


def said_of(reasons: Mapping[str, str]) -> str:
    """The stacks that were not recovered, with their reasons, in a line.

    >>> said_of({"T=2": "expected at least 2 measured planes, got 1 of 8"})
    '1 stack was not recovered and is NaN there: T=2: expected at least 2 measured planes, got 1 of 8'
    """
    shown = "; ".join(f"{label}: {reason}" for label, reason in list(reasons.items())[:3])
    more = "; ..." if len(reasons) > 3 else ""
    count = "1 stack was" if len(reasons) == 1 else f"{len(reasons)} stacks were"
    return f"{count} not recovered and {'is' if len(reasons) == 1 else 'are'} NaN there: {shown}{more}"


def rehearse_all(before: Volume, target: str, wanted: Any, others: Sequence[str | None]) -> None:
    """Write small volumes of the kinds that are to come, so that a format refuses them before the work is done."""
    small = Volume(np.zeros([2] * len(before.axes), float_type(before.dtype)), before.axes, before.spacing)
    rehearse(target, small, wanted)
    for path in others:
        if path is not None:
            rehearse(path, small)


def write_all(outputs: dict[str, str | None], before: Volume, result: Recovery, volume: Volume, wanted: Any) -> Written:
    """Write all outputs or none."""
    maps: dict[str, Callable[[], Volume]] = {
        "--outliers": lambda: replace(result.volume, data=result.outliers, spacing=before.spacing),
        "--uncertainty": lambda: replace(result.volume, data=result.uncertainty),
        "--invented": lambda: replace(result.volume, data=result.invented),
    }
    with staged([path for path in outputs.values() if path is not None]) as names:
        report = outputs["--report"]
        if report is not None:
            reports.write_report(names[report], before, result)
        for flag, values in maps.items():
            path = outputs[flag]
            if path is not None:
                write(names[path], values())
        return write(names[str(outputs["OUT"])], volume, dtype=wanted)


def how_to_go_on(cache: str | None) -> str:
    """The message after Ctrl-C on a fit whose state was kept beside the cache."""
    if cache is None:
        return ""
    folder = Path(cache).absolute()
    states = list(folder.parent.glob(f"{folder.name}.*.state"))
    return f"; the same command goes on from the fit kept in {states[0]}" if states else ""


def summary(facts: dict[str, Any]) -> str:
    """A line on the output, and a line for the status and each note."""
    shape = " x ".join(map(str, facts["shape"]))
    head = (
        f"{facts['output']}: {shape} {facts['axes']}, {facts['dtype']}; rank {facts['rank']}; {facts['seconds']:.1f} s"
    )
    notes = (note for note in facts["notes"] if not note.startswith("the fit "))
    return "\n  ".join((head, f"the fit {facts['status']}", *notes))
