"""``tensorcell train``: a prior fitted to stacks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tensorcell.cli.exits import Interrupted
from tensorcell.cli.memory import peak_memory
from tensorcell.cli.parsing import JSON_HELP, NOISE_HELP, numbers_of


def train(
    sources: Annotated[list[str], typer.Argument(metavar="IN...", help="Stacks, in the formats of recover.")],
    out: Annotated[Path, typer.Option(metavar="PRIOR", help="Folder to which the prior is written.")],
    kind: Annotated[str, typer.Option(help="lateral: a prior of xy slices; volume: of whole volumes.")] = "lateral",
    axial_factor: Annotated[int, typer.Option(help="s of the recoveries that the prior is for; 1: a plain prior.")] = 1,
    minutes: Annotated[float | None, typer.Option(help="Minutes for the fit; default 5.")] = None,
    steps: Annotated[int | None, typer.Option(help="Number of steps in place of a time; reproducible.")] = None,
    noise: Annotated[str, typer.Option(help=NOISE_HELP)] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from an interrupted fit.")] = False,
    axes: Annotated[str | None, typer.Option(help="Axes, such as TZYX, where the files do not state them.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed for weights, pieces and noise levels.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help=JSON_HELP)] = False,
    quiet: Annotated[bool, typer.Option(help="Show no progress and no summary.")] = False,
) -> None:
    """Fit a prior to stacks, for recover --method diffusion --prior PRIOR."""
    sigma = None if noise == "auto" else numbers_of(noise, "--noise", 1)[0]
    from tensorcell import prior_training

    request = prior_training.TrainRequest(
        sources=tuple(sources), out=out, kind=kind, axial_factor=axial_factor, minutes=minutes, steps=steps,
        noise=sigma, resume=resume, axes=axes, seed=seed, quiet=quiet,
    )  # fmt: skip
    try:
        facts = prior_training.train(request)
    except KeyboardInterrupt:
        raise Interrupted(prior_training.how_to_go_on(request)) from None
    if as_json:
        print(json.dumps({**facts, "peak_memory_mib": peak_memory()}, allow_nan=False))
    elif not quiet:
        print(prior_training.summary(facts))
