"""``tensorcell train``: a prior or networks, fitted to stacks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from tensorcell.cli.exits import Interrupted
from tensorcell.cli.memory import peak_memory
from tensorcell.cli.parsing import JSON_HELP, NOISE_HELP, numbers_of
from tensorcell.cli.screen import show
from tensorcell.errors import InputError

PRIORS = ("lateral", "volume")
"""Kinds of priors; all others are networks that restore."""

NETWORKS = "Networks (--kind microdiffuse3d)"
"""The panel of the help text."""


def train(
    sources: Annotated[
        list[str], typer.Argument(metavar="IN...", help="Stacks, in the formats of recover; for networks folders, too.")
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder to which the prior or the networks are written.")],
    kind: Annotated[
        str,
        typer.Option(
            help="lateral: a prior of xy slices; volume: of whole volumes; microdiffuse3d: networks that restore; "
            "srcnn, care, swinir, rln, rcan3d, dbpn, ddpm: a network that these are compared with (evaluate)."
        ),
    ] = "lateral",
    axial_factor: Annotated[int, typer.Option(help="s of the recoveries that the fit is for; 1: all planes.")] = 1,
    minutes: Annotated[float | None, typer.Option(help="Minutes for the fit; default 5, of networks 20.")] = None,
    steps: Annotated[int | None, typer.Option(help="Number of steps in place of a time; reproducible.")] = None,
    noise: Annotated[str, typer.Option(help=f"Of priors: {NOISE_HELP}")] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from an interrupted fit.")] = False,
    axes: Annotated[str | None, typer.Option(help="Axes, such as TZYX, where the files do not state them.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed for weights, pieces and noise levels.")] = 0,
    stage: Annotated[
        str | None,
        typer.Option(
            help="all (default), vae, pretrain, finetune, decoder or distil (to one step).", rich_help_panel=NETWORKS
        ),
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="tiny (default), small, base or published.", rich_help_panel=NETWORKS)
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the networks that finetune, decoder and distil begin with.", rich_help_panel=NETWORKS
        ),
    ] = None,
    vae: Annotated[
        Path | None, typer.Option(help="Folder of an autoencoder of diffusers.", rich_help_panel=NETWORKS)
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of a frozen image encoder of transformers (DINOv2).", rich_help_panel=NETWORKS),
    ] = None,
    low: Annotated[
        list[str] | None,
        typer.Option(help="Low-resolution scan of each IN, in their order.", rich_help_panel=NETWORKS),
    ] = None,
    register: Annotated[
        str | None,
        typer.Option(
            help="Register each scan of --low first: shift, or similarity (also turned and scaled within planes).",
            rich_help_panel=NETWORKS,
        ),
    ] = None,
    lateral_factor: Annotated[
        int | None, typer.Option(help="f: measured pixels are f x f pixels of IN.", rich_help_panel=NETWORKS)
    ] = None,
    psf_fwhm: Annotated[
        str | None,
        typer.Option(
            help="Full widths z,y,x of the blur that the scan adds: in micrometres if the voxel size is known, else in "
            "voxels of IN.",
            rich_help_panel=NETWORKS,
        ),
    ] = None,
    psf: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="That blur as a stack: the mean image of small beads.", rich_help_panel=NETWORKS
        ),
    ] = None,
    psf_model: Annotated[
        str | None,
        typer.Option(
            help="vectorial: that blur computed for a widefield microscope of --na, --wavelength, --refractive-index.",
            rich_help_panel=NETWORKS,
        ),
    ] = None,
    na: Annotated[float | None, typer.Option(help="Numerical aperture.", rich_help_panel=NETWORKS)] = None,
    wavelength: Annotated[
        float | None, typer.Option(help="Of the emission, in micrometres.", rich_help_panel=NETWORKS)
    ] = None,
    refractive_index: Annotated[
        float | None, typer.Option(help="Of immersion and specimen.", rich_help_panel=NETWORKS)
    ] = None,
    photons: Annotated[
        float | None, typer.Option(help="Photons per measured pixel at the brightest.", rich_help_panel=NETWORKS)
    ] = None,
    read_noise: Annotated[
        float | None,
        typer.Option(help="Noise of the detector, as a share of the brightest.", rich_help_panel=NETWORKS),
    ] = None,
    attenuation: Annotated[
        float | None,
        typer.Option(help="Planes of IN over which the light falls to 1 / e.", rich_help_panel=NETWORKS),
    ] = None,
    widening: Annotated[
        float | None,
        typer.Option(
            help="Share by which the blur is wider at the last plane than at the first.", rich_help_panel=NETWORKS
        ),
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(help="flow (default): velocity on straight paths; eps: noise.", rich_help_panel=NETWORKS),
    ] = None,
    masked: Annotated[
        float | None,
        typer.Option(help="Share of the batches that fill masked blocks of pixels.", rich_help_panel=NETWORKS),
    ] = None,
    first_estimate: Annotated[
        bool | None,
        typer.Option(
            "--first-estimate/--no-first-estimate",
            help="Whether a regression estimates the volume first (default: yes; never with --masked).",
            rich_help_panel=NETWORKS,
        ),
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Pieces in a batch; default 2.", rich_help_panel=NETWORKS)] = None,
    device: Annotated[str | None, typer.Option(help="auto (default), cpu or cuda.", rich_help_panel=NETWORKS)] = None,
    precision: Annotated[
        str | None, typer.Option(help="float32 (default), bfloat16 or float16.", rich_help_panel=NETWORKS)
    ] = None,
    recompute: Annotated[
        bool | None,
        typer.Option(
            "--recompute", help="Compute blocks again in place of keeping them: less memory.", rich_help_panel=NETWORKS
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help=JSON_HELP)] = False,
    quiet: Annotated[bool, typer.Option(help="Show no progress and no summary.")] = False,
) -> None:
    """Fit a prior to stacks, for recover --method diffusion --prior FOLDER.

    With --kind microdiffuse3d networks are fitted, for recover --method microdiffuse3d --weights FOLDER.
    """
    sigma = None if noise == "auto" else numbers_of(noise, "--noise", 1)[0]
    for_networks = {
        "stage": stage, "size": size, "weights": weights, "vae": vae, "images": images,
        "low": tuple(low) if low else None, "register": register, "lateral_factor": lateral_factor,
        "psf_fwhm": None if psf_fwhm is None else numbers_of(psf_fwhm, "--psf-fwhm", 3), "photons": photons,
        "psf": psf, "psf_model": psf_model, "na": na, "wavelength": wavelength, "refractive_index": refractive_index,
        "read_noise": read_noise, "attenuation": attenuation, "widening": widening, "objective": objective,
        "masked": masked, "first_estimate": first_estimate, "batch": batch,
        "device": device, "precision": precision, "recompute": recompute or None,
    }  # fmt: skip
    given = {name: value for name, value in for_networks.items() if value is not None}
    common = {
        "out": out, "axial_factor": axial_factor, "minutes": minutes, "steps": steps, "resume": resume, "axes": axes,
        "seed": seed, "quiet": quiet,
    }  # fmt: skip
    if kind not in PRIORS:
        if sigma is not None:
            raise InputError("expected --photons and --read-noise for networks, got --noise")
        facts, text = fitted_networks(sources, common | given | {"kind": kind})
    else:
        if given:
            name = next(iter(given)).replace("_", "-")
            raise InputError(f"expected --kind microdiffuse3d or a baseline with --{name}, got --kind {kind}")
        facts, text = fitted_prior(sources, common | {"kind": kind, "noise": sigma})
    if as_json:
        show(json.dumps({**facts, "peak_memory_mib": peak_memory()}, allow_nan=False))
    elif not quiet:
        show(text)


def fitted_prior(sources: list[str], options: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Fit a prior; facts and the summary."""
    from tensorcell import prior_training
    from tensorcell.trained import fitted

    request = prior_training.TrainRequest(sources=tuple(sources), **options)
    try:
        facts = fitted(request)
    except KeyboardInterrupt:
        raise Interrupted(prior_training.how_to_go_on(request)) from None
    return facts, prior_training.summary(facts)


def fitted_networks(sources: list[str], options: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Fit networks; facts and the summary."""
    from tensorcell import network_training as training
    from tensorcell.trained import fitted

    low = training.sources_of(options.pop("low", ()))
    request = training.ModelRequest(sources=training.sources_of(sources), low=low, **options)
    try:
        facts = fitted(request)
    except KeyboardInterrupt:
        raise Interrupted(training.how_to_go_on(request)) from None
    return facts, training.summary(facts)
