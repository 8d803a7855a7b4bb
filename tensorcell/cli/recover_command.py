"""``tensorcell recover``: from a file to files, which appear all or not at all."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Annotated, Any

import typer

from tensorcell import batch
from tensorcell.cli import options as o
from tensorcell.cli.flags import given_options, with_flags
from tensorcell.cli.in_memory import recover_in_memory
from tensorcell.cli.in_parts import goes_in_parts, recover_in_parts
from tensorcell.cli.many_files import are_many, one_stack, recover_many
from tensorcell.cli.parsing import PAGE_SUFFIXES, noise_of, numbers_of, rank_of, spacing_of, spacing_z_of
from tensorcell.cli.preview import voxels_in_time
from tensorcell.cli.reading import Wanted
from tensorcell.cropping import cropped, cropped_mask
from tensorcell.errors import InputError
from tensorcell.files import check_outputs, open_volume
from tensorcell.large.measured import opened_mask
from tensorcell.lazy_volume import LazyVolume
from tensorcell.methods.table import METHODS
from tensorcell.missing_value import missing_value_of

SPACING_Z_HELP = (
    "In place of --axial-factor: distance of the wanted planes in micrometres, or isotropic (the height of the pixels)."
)
LATERAL_HELP = "f: a pixel given is the mean of f x f pixels of the wanted stack."
TIME_HELP = "Minutes that auto may take: where they suffice, a prior fills the planes between (method diffusion)."
DTYPE_HELP = (
    "Data type of OUT: input for that of IN (integers are rounded and clipped, and counted), or a name as uint16. "
    "Default: a float type that holds all values."
)
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
UNCERTAINTY_HELP = "Write u to this file: output +- 1.645 u is to hold the truth in 90 % of voxels."
DTYPES = ("input", "uint8", "uint16", "float32")
"""What is usually given as --dtype."""


@with_flags(METHODS)
def recover(
    context: typer.Context,
    paths: Annotated[list[str], typer.Argument(metavar="IN... OUT", help=f"{o.SOURCES_HELP}. {o.TARGET_HELP}")],
    crop: o.Crop = None,
    preview: o.Preview = False,
    axes: o.Axes = None,
    dataset: o.Dataset = None,
    series: o.Series = None,
    spacing: o.Spacing = None,
    axial_factor: o.AxialFactor = 1,
    spacing_z: Annotated[str | None, o.option(SPACING_Z_HELP, o.SAMPLING, metavar="UM|isotropic")] = None,
    lateral_factor: Annotated[int, o.option(LATERAL_HELP, o.SAMPLING, metavar="F")] = 1,
    mask: o.Mask = None,
    missing_value: o.MissingValue = None,
    missing_planes: o.MissingPlanes = False,
    psf_fwhm: o.Psf = None,
    method: Annotated[
        str, o.choice({m.name: m.summary for m in METHODS.values()}, text="", panel=o.METHOD, shown="|".join(METHODS))
    ] = "auto",
    rank: o.Rank = "auto",
    noise: o.Noise = "auto",
    keep_measured: Annotated[
        bool | None,
        o.option(
            "Whether measured voxels stay as they are. Default: if any voxel is missing.", o.MODEL,
            "--keep-measured/--no-keep-measured",
        ),
    ] = None,
    nonnegative: Annotated[
        bool | None,
        o.option(
            "Whether the result has no negative values. Default: if no measured one is negative.", o.MODEL,
            "--nonnegative/--no-nonnegative",
        ),
    ] = None,
    time_limit: Annotated[float | None, o.option(TIME_HELP, o.METHOD, metavar="MINUTES")] = None,
    out: Annotated[
        str | None, o.option("OUT, in place of the last argument.", o.OUTPUT, "--out", "-o", metavar="OUT")
    ] = None,
    dtype: Annotated[
        str | None,
        o.option(DTYPE_HELP, o.OUTPUT, metavar="|".join((*DTYPES, "...")), autocompletion=o.among(DTYPES)),
    ] = None,
    report: Annotated[
        str | None, o.option("Write a report: a picture (.png) or a page (.html).", o.OUTPUT, metavar="FILE")
    ] = None,
    uncertainty: Annotated[str | None, o.option(UNCERTAINTY_HELP, o.OUTPUT, metavar="FILE")] = None,
    outliers: Annotated[
        str | None, o.option("Write the outliers that were removed to this file.", o.OUTPUT, metavar="FILE")
    ] = None,
    invented: Annotated[
        str | None,
        o.option(
            "Write the share of each voxel that the measurement leaves open, 0 to 1.", o.OUTPUT, metavar="FILE"
        ),
    ] = None,
    pyramid: Annotated[bool, o.option(PYRAMID_HELP, o.OUTPUT, "--pyramid")] = False,
    ngff: Annotated[
        str | None, o.option(NGFF_HELP, o.OUTPUT, metavar="0.5|0.4", autocompletion=o.among(("0.5", "0.4")))
    ] = None,
    device: Annotated[
        str,
        o.option(
            "Where models are fitted; cuda:1 is the second GPU.", o.RUN, metavar="auto|cpu|cuda|cuda:N",
            autocompletion=o.among(("auto", "cpu", "cuda")),
        ),
    ] = "auto",
    memory: Annotated[str | None, o.option(MEMORY_HELP, o.RUN, metavar="SIZE")] = None,
    resume: Annotated[
        bool | None, o.option(RESUME_HELP, o.RUN, "--resume/--no-resume", show_default=False)
    ] = None,
    scheduler: Annotated[str | None, o.option(SCHEDULER_HELP, o.RUN, metavar="ADDRESS")] = None,
    seed: Annotated[int, o.seed("the choice of left-out voxels")] = 0,
    jobs: Annotated[int, o.option("Files at a time.", o.MANY, min=1, metavar="N")] = 1,
    suffix: Annotated[str | None, o.option("Suffix of the outputs, such as .h5.", o.MANY, metavar="SUFFIX")] = None,
    dry_run: Annotated[bool, o.option("Show what would be done.", o.MANY, "--dry-run")] = False,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    **flags: Any,
) -> None:  # fmt: skip
    """Recover a stack: fill gaps and planes, remove outliers, reduce noise.

    Of several channels and frames, one that cannot be recovered is NaN in OUT and named on stderr; the others are
    written, and the exit status is 2.

    Several inputs (files, a pattern such as 'in/*.tif', or a folder) are recovered one by one if OUT is a folder; one
    of them that cannot be read does not stop the others, and the same command goes on where it was stopped. {name} in
    the names of other files stands for the name of each input. If OUT is a file, they are the planes of one stack.
    """
    *sources, target = paths if out is None else (*paths, out)
    if not sources:
        raise InputError(f"expected IN and OUT, got {target} alone")
    if out is not None and len(paths) > 1 and not batch.is_pattern(paths[-1]) and not os.path.exists(paths[-1]):
        raise InputError(f"{paths[-1]}: no such file; OUT is {out}, by --out")
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

    def kind(volume: LazyVolume) -> str:
        if axial_factor > 1 or spacing_z is not None:
            return "planes"
        return "gaps" if mask or missing_value or missing_planes or volume.dtype.kind == "f" else "complete"

    box = Wanted(crop, preview, voxels_in_time(method, kind=kind)).box(lazy, quiet=quiet)
    part = lazy if box is None else cropped(lazy, box)
    shown: dict[str, Any] = {"quiet": quiet, "as_json": as_json}
    if scheduler is not None or goes_in_parts(part, options, memory, resume, target):
        of_part = mask if mask is None or box is None else cropped_mask(opened_mask(mask, lazy), lazy, box)
        recover_in_parts(
            given_as if box is None else part, source, outputs, part, scheduler, memory=memory, resume=resume,
            mask=of_part, dtype=dtype, spacing=voxel, reading=reading, layout=layout, options=options, **shown,
        )  # fmt: skip
    else:
        recover_in_memory(
            given_as, source, outputs, resume=resume, mask=mask, dtype=dtype, spacing=voxel, cache=flags.get("cache"),
            reading=reading, layout=layout, options=options, box=box, **shown,
        )  # fmt: skip
