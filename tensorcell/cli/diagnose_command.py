"""``tensorcell diagnose``: verdicts on the screen, as JSON or as a page."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from tensorcell.cli import options as o
from tensorcell.cli.exits import MISSED, Interrupted
from tensorcell.cli.parsing import PAGE_SUFFIXES, noise_of, numbers_of, rank_of
from tensorcell.cli.preview import voxels_in_time
from tensorcell.cli.reading import Wanted, read_wanted
from tensorcell.cli.screen import show
from tensorcell.errors import InputError
from tensorcell.files import check_outputs, claimed
from tensorcell.missing_value import missing_value_of
from tensorcell.progress import ProgressBar

OPTICS = "Optics, which tell the band limit"
"""A panel of the help."""

FAIL_UNDER = ("unlikely", "likely", "guaranteed")
"""Verdicts that are better than the worst one."""


def diagnose(
    source: o.Source,
    crop: o.Crop = None,
    preview: o.Preview = False,
    axes: o.Axes = None,
    dataset: o.Dataset = None,
    series: o.Series = None,
    spacing: o.Spacing = None,
    axial_factor: o.AxialFactor = 1,
    mask: o.Mask = None,
    missing_value: o.MissingValue = None,
    missing_planes: o.MissingPlanes = False,
    psf_fwhm: o.Psf = None,
    rank: o.Rank = "auto",
    noise: o.Noise = "auto",
    blocks: Annotated[bool, o.option("Estimate the ranks of blocks, too.", o.MODEL, "--blocks")] = False,
    na: Annotated[float | None, o.option("Numerical aperture.", OPTICS)] = None,
    wavelength: Annotated[float | None, o.option("Emission wavelength in micrometres.", OPTICS)] = None,
    refractive_index: Annotated[float | None, o.option("Refractive index of the medium.", OPTICS)] = None,
    html: o.Page = None,
    fail_under: Annotated[
        str | None,
        o.choice(
            FAIL_UNDER,
            text="Exit status 3 where the verdict is worse (guaranteed: not where planes or rows are missing).",
            panel=o.OUTPUT,
        ),
    ] = None,
    details: Annotated[bool, o.option("Show the theory behind the verdict, too.", o.OUTPUT, "--details")] = False,
    seed: Annotated[int, o.seed("random subsets of voxels")] = 0,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> None:
    """Say whether a stack was sampled densely enough, what will be lost, and why."""
    from tensorcell.diagnosis import VERDICTS
    from tensorcell.diagnosis import diagnose as diagnose_volume

    if fail_under is not None and fail_under not in VERDICTS[1:]:
        raise InputError(f"expected --fail-under {', '.join(VERDICTS[1:-1])} or {VERDICTS[-1]}, got {fail_under!r}")
    try:
        if html is not None:
            check_outputs({"IN": source, "--mask": mask}, {"--html": html}, PAGE_SUFFIXES)
        with claimed([] if html is None else [html]):
            volume, measured = read_wanted(
                source, mask, spacing, Wanted(crop, preview, voxels_in_time("diagnose")), quiet=quiet,
                dataset=dataset, series=series, axes=axes, missing_planes=missing_planes,
            )  # fmt: skip
            with ProgressBar(enabled=False if quiet else None):
                report = diagnose_volume(
                    volume,
                    measured,
                    axial_factor=axial_factor,
                    missing_value=missing_value_of(missing_value),
                    noise=noise_of(noise),
                    rank=rank_of(rank),
                    na=na,
                    wavelength=wavelength,
                    refractive_index=refractive_index,
                    blocks=blocks,
                    psf_fwhm=None if psf_fwhm is None else numbers_of(psf_fwhm, "--psf-fwhm", 3),
                    seed=seed,
                )
            if html is not None:
                report.to_html(html)
    except KeyboardInterrupt:
        raise Interrupted("interrupted; nothing was written") from None
    if as_json:
        show(json.dumps(report.to_dict()), data=True)
    elif not quiet:
        show(report.text(details=True) if details else report)
    if report.not_diagnosed:
        label, reason = next(iter(report.not_diagnosed.items()))
        raise InputError(f"{len(report.not_diagnosed)} of the stacks could not be diagnosed, first {label}: {reason}")
    if fail_under is not None and VERDICTS.index(report.overall_verdict) < VERDICTS.index(fail_under):
        raise typer.Exit(MISSED)
