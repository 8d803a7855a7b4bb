"""``tensorcell diagnose``: verdicts on the screen, as JSON or as a page."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Annotated

import typer

from tensorcell.cli.exits import MISSED, Interrupted
from tensorcell.cli.parsing import (
    AXES_HELP,
    DATASET_HELP,
    FACTOR_HELP,
    JSON_HELP,
    MASK_HELP,
    MISSING_HELP,
    MISSING_PLANES_HELP,
    NOISE_HELP,
    PAGE_HELP,
    PAGE_SUFFIXES,
    PSF_HELP,
    RANK_HELP,
    SERIES_HELP,
    SOURCE_HELP,
    SPACING_HELP,
    noise_of,
    numbers_of,
    rank_of,
    spacing_of,
)
from tensorcell.cli.screen import show
from tensorcell.errors import InputError
from tensorcell.files import check_outputs, claimed, read, read_mask
from tensorcell.missing_value import missing_value_of


def diagnose(
    source: Annotated[str, typer.Argument(metavar="IN", help=SOURCE_HELP)],
    axial_factor: Annotated[int, typer.Option(help=FACTOR_HELP)] = 1,
    mask: Annotated[str | None, typer.Option(help=MASK_HELP)] = None,
    missing_value: Annotated[str | None, typer.Option(help=MISSING_HELP)] = None,
    missing_planes: Annotated[bool, typer.Option("--missing-planes", help=MISSING_PLANES_HELP)] = False,
    rank: Annotated[str, typer.Option(help=RANK_HELP)] = "auto",
    noise: Annotated[str, typer.Option(help=NOISE_HELP)] = "auto",
    na: Annotated[float | None, typer.Option(help="Numerical aperture.")] = None,
    wavelength: Annotated[float | None, typer.Option(help="Emission wavelength in micrometres.")] = None,
    refractive_index: Annotated[float | None, typer.Option(help="Refractive index of the medium.")] = None,
    blocks: Annotated[bool, typer.Option("--blocks", help="Estimate the ranks of blocks, too.")] = False,
    psf_fwhm: Annotated[str | None, typer.Option(help=PSF_HELP)] = None,
    html: Annotated[str | None, typer.Option(help=PAGE_HELP)] = None,
    fail_under: Annotated[
        str | None,
        typer.Option(
            help="Exit status 3 where the verdict is worse than this: unlikely, likely, guaranteed (the last not where "
            "planes are missing)."
        ),
    ] = None,
    details: Annotated[bool, typer.Option("--details", help="Show the theory behind the verdict, too.")] = False,
    axes: Annotated[str | None, typer.Option(help=AXES_HELP)] = None,
    dataset: Annotated[str | None, typer.Option(help=DATASET_HELP)] = None,
    series: Annotated[str | None, typer.Option(help=SERIES_HELP)] = None,
    spacing: Annotated[str | None, typer.Option(help=SPACING_HELP)] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed for random subsets of voxels.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help=JSON_HELP)] = False,
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
            volume = read(source, dataset=dataset, series=series, axes=axes, missing_planes=missing_planes)
            if spacing is not None:
                volume = replace(volume, spacing=spacing_of(spacing, volume.axes))
            report = diagnose_volume(
                volume,
                read_mask(mask, like=volume) if mask is not None else None,
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
    show(json.dumps(report.to_dict()) if as_json else report.text(details=True) if details else report)
    if report.not_diagnosed:
        label, reason = next(iter(report.not_diagnosed.items()))
        raise InputError(f"{len(report.not_diagnosed)} of the stacks could not be diagnosed, first {label}: {reason}")
    if fail_under is not None and VERDICTS.index(report.overall_verdict) < VERDICTS.index(fail_under):
        raise typer.Exit(MISSED)
