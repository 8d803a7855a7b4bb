"""``tensorcell recover``: from a file to files, which appear all or not at all."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import typer

from tensorcell.cli.flags import given_options, with_flags
from tensorcell.cli.in_memory import recover_in_memory
from tensorcell.cli.in_parts import goes_in_parts, recover_in_parts
from tensorcell.cli.many_files import are_many, one_stack, recover_many
from tensorcell.cli.parsing import (
    AXES_HELP,
    DATASET_HELP,
    FACTOR_HELP,
    JSON_HELP,
    LATERAL_HELP,
    MASK_HELP,
    MISSING_HELP,
    MISSING_PLANES_HELP,
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
from tensorcell.errors import InputError
from tensorcell.files import check_outputs, open_volume
from tensorcell.methods.table import METHODS
from tensorcell.missing_value import missing_value_of

TIME_HELP = "Minutes that auto may take: where they suffice, a prior fills the planes between (method diffusion)."

PYRAMID_HELP = (
    "Write TIFF as OME-TIFF in tiles, with smaller levels of the image for viewers; OME-Zarr always has them."
)

NGFF_HELP = "Version of OME-Zarr: 0.5 (default), or 0.4 in zarr 2 for older readers."

MEMORY_HELP = (
    "Memory that may be used, such as 4GB; a volume that needs more, or more than the GPU has, is recovered in parts. "
    "Default: what is free."
)
RESUME_HELP = "Go on with, or discard, what an earlier run on OUT left when it was stopped."

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
    missing_planes: Annotated[bool, typer.Option("--missing-planes", help=MISSING_PLANES_HELP)] = False,
    device: Annotated[str, typer.Option(help="Where models are fitted: auto, cpu, cuda, cuda:1.")] = "auto",
    time_limit: Annotated[float | None, typer.Option(help=TIME_HELP)] = None,
    outliers: Annotated[str | None, typer.Option(help="Write the outliers that were removed to this file.")] = None,
    uncertainty: Annotated[
        str | None, typer.Option(help="Write u to this file: output +- 1.645 u is to hold the truth in 90 % of voxels.")
    ] = None,
    invented: Annotated[
        str | None, typer.Option(help="Write the share of each voxel that the measurement leaves open, 0 to 1.")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="Data type of OUT: input, uint8, uint16, float32, ...")] = None,
    pyramid: Annotated[bool, typer.Option("--pyramid", help=PYRAMID_HELP)] = False,
    ngff: Annotated[str | None, typer.Option(help=NGFF_HELP)] = None,
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
    reading: dict[str, Any] = {
        "dataset": dataset, "series": series, "axes": axes, "missing_planes": missing_planes,
    }  # fmt: skip
    layout: dict[str, Any] = {"pyramid": pyramid, "ngff": ngff}
    outputs = {
        "OUT": target, "--outliers": outliers, "--uncertainty": uncertainty, "--invented": invented, "--report": report,
    }  # fmt: skip
    inputs = {"IN" if number == 0 else f"IN {number + 1}": each for number, each in enumerate(planes)}
    check_outputs({**inputs, "--mask": mask}, outputs, PAGE_SUFFIXES)
    lazy = open_volume(given_as, **reading)
    voxel = None if spacing is None else spacing_of(spacing, lazy.axes)
    lazy = replace(lazy, spacing=voxel or lazy.spacing)
    shown: dict[str, Any] = {"quiet": quiet, "as_json": as_json}
    if scheduler is not None or goes_in_parts(lazy, options, memory, resume, target):
        recover_in_parts(
            given_as, source, outputs, lazy, scheduler, memory=memory, resume=resume, mask=mask, dtype=dtype,
            spacing=voxel, reading=reading, layout=layout, options=options, **shown,
        )  # fmt: skip
    else:
        recover_in_memory(
            given_as, source, outputs, resume=resume, mask=mask, dtype=dtype, spacing=voxel, cache=flags.get("cache"),
            reading=reading, layout=layout, options=options, **shown,
        )  # fmt: skip
