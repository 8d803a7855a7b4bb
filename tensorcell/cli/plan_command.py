"""``tensorcell plan``: predictions on the screen, as JSON or as a page."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from tensorcell.cli.exits import Interrupted
from tensorcell.cli.parsing import (
    AXES_HELP,
    DATASET_HELP,
    JSON_HELP,
    MISSING_HELP,
    NOISE_HELP,
    PAGE_HELP,
    PAGE_SUFFIXES,
    SERIES_HELP,
    list_of,
    noise_of,
)
from tensorcell.cli.screen import show
from tensorcell.files import check_outputs, claimed, read
from tensorcell.missing_value import missing_value_of


def plan(
    source: Annotated[str, typer.Argument(metavar="IN", help="A densely sampled pilot stack, in a format of recover.")],
    target_nrmse: Annotated[float | None, typer.Option(help="Wanted error: at most this NRMSE.")] = None,
    target_psnr: Annotated[float | None, typer.Option(help="Wanted error: at least this PSNR in decibels.")] = None,
    axial_factors: Annotated[
        str, typer.Option(help="Values of s, such as 1,2,3; each keeps planes 0, s, 2s, ...")
    ] = "1,2,3,4,6,8",
    pixel_fractions: Annotated[str, typer.Option(help="Shares of the pixels to keep, such as 1,0.5.")] = "1",
    exposure_factors: Annotated[str, typer.Option(help="Shares of the exposure, such as 1,0.5.")] = "1",
    noise: Annotated[str, typer.Option(help=NOISE_HELP)] = "auto",
    missing_value: Annotated[str | None, typer.Option(help=MISSING_HELP)] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Number of trials for each choice.")] = 1,
    html: Annotated[str | None, typer.Option(help=PAGE_HELP)] = None,
    axes: Annotated[str | None, typer.Option(help=AXES_HELP)] = None,
    dataset: Annotated[str | None, typer.Option(help=DATASET_HELP)] = None,
    series: Annotated[str | None, typer.Option(help=SERIES_HELP)] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed for pixels, noise and intervals.")] = 0,
    details: Annotated[bool, typer.Option("--details", help="Show what the predictions rest on, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help=JSON_HELP)] = False,
) -> None:
    """Predict from a pilot stack how sparsely the next ones may be imaged."""
    from tensorcell.planning import plan as plan_sampling

    try:
        if html is not None:
            check_outputs({"IN": source}, {"--html": html}, PAGE_SUFFIXES)
        with claimed([] if html is None else [html]):
            result = plan_sampling(
                read(source, dataset=dataset, series=series, axes=axes),
                axial_factors=list_of(axial_factors, "--axial-factors", int),
                pixel_fractions=list_of(pixel_fractions, "--pixel-fractions", float),
                exposure_factors=list_of(exposure_factors, "--exposure-factors", float),
                target_nrmse=target_nrmse,
                target_psnr=target_psnr,
                noise=noise_of(noise),
                missing_value=missing_value_of(missing_value),
                seed=seed,
                repeats=repeats,
                progress=True,
            )
            if html is not None:
                result.to_html(html)
    except KeyboardInterrupt:
        raise Interrupted("interrupted; nothing was written") from None
    shown = result.text(details=True) if details else result
    show(json.dumps(result.to_dict(), allow_nan=False) if as_json else shown)
