"""``tensorcell plan``: predictions on the screen, as JSON or as a page."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from tensorcell.cli import options as o
from tensorcell.cli.exits import Interrupted
from tensorcell.cli.parsing import PAGE_SUFFIXES, list_of, noise_of
from tensorcell.cli.preview import voxels_in_time
from tensorcell.cli.reading import Wanted, read_wanted
from tensorcell.cli.screen import show
from tensorcell.files import check_outputs, claimed
from tensorcell.missing_value import missing_value_of

CHOICES, TARGET = "What is tried", "What is wanted"
"""Panels of the help."""


def plan(
    source: Annotated[str, typer.Argument(metavar="IN", help="A densely sampled pilot stack, in a format of recover.")],
    crop: o.Crop = None,
    preview: o.Preview = False,
    axes: o.Axes = None,
    dataset: o.Dataset = None,
    series: o.Series = None,
    spacing: o.Spacing = None,
    missing_value: o.MissingValue = None,
    target_nrmse: Annotated[float | None, o.option("Wanted error: at most this NRMSE.", TARGET)] = None,
    target_psnr: Annotated[float | None, o.option("Wanted error: at least this PSNR in decibels.", TARGET)] = None,
    axial_factors: Annotated[
        str | None,
        o.option(
            "Values of s, such as 1,2,3; each keeps planes 0, s, 2s, ... Default: up to 8, if the pilot has planes.",
            CHOICES,
            metavar="S,S,...",
        ),
    ] = None,
    pixel_fractions: Annotated[
        str, o.option("Shares of the pixels to keep, such as 1,0.5.", CHOICES, metavar="P,P,...")
    ] = "1",
    exposure_factors: Annotated[
        str, o.option("Shares of the exposure, such as 1,0.5.", CHOICES, metavar="E,E,...")
    ] = "1",
    repeats: Annotated[int, o.option("Number of trials for each choice.", CHOICES, min=1, metavar="N")] = 1,
    noise: o.Noise = "auto",
    html: o.Page = None,
    details: Annotated[bool, o.option("Show what the predictions rest on, too.", o.OUTPUT, "--details")] = False,
    seed: Annotated[int, o.seed("pixels, noise and intervals")] = 0,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> None:
    """Predict from a pilot stack how sparsely the next ones may be imaged."""
    from tensorcell.planning import plan as plan_sampling

    try:
        if html is not None:
            check_outputs({"IN": source}, {"--html": html}, PAGE_SUFFIXES)
        with claimed([] if html is None else [html]):
            volume, _ = read_wanted(
                source, None, spacing, Wanted(crop, preview, voxels_in_time("plan")), quiet=quiet,
                dataset=dataset, series=series, axes=axes,
            )  # fmt: skip
            result = plan_sampling(
                volume,
                axial_factors=None if axial_factors is None else list_of(axial_factors, "--axial-factors", int),
                pixel_fractions=list_of(pixel_fractions, "--pixel-fractions", float),
                exposure_factors=list_of(exposure_factors, "--exposure-factors", float),
                target_nrmse=target_nrmse,
                target_psnr=target_psnr,
                noise=noise_of(noise),
                missing_value=missing_value_of(missing_value),
                seed=seed,
                repeats=repeats,
                progress=not quiet,
            )
            if html is not None:
                result.to_html(html)
    except KeyboardInterrupt:
        raise Interrupted("interrupted; nothing was written") from None
    if as_json:
        show(json.dumps(result.to_dict(), allow_nan=False), data=True)
    elif not quiet:
        show(result.text(details=True) if details else result)
