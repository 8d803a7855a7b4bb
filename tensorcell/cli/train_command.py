"""``tensorcell train``: a prior or networks, fitted to stacks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from tensorcell.cli import options as o
from tensorcell.cli.exits import Interrupted
from tensorcell.cli.memory import peak_memory
from tensorcell.cli.parsing import numbers_of
from tensorcell.cli.screen import show
from tensorcell.errors import InputError
from tensorcell.network_training.request import STAGES, ModelRequest
from tensorcell.network_training.stages import MINUTES as NETWORK_MINUTES
from tensorcell.prior_training import MINUTES as PRIOR_MINUTES

PRIORS = ("lateral", "volume")
"""Kinds of priors; all others are networks that restore."""

NETWORKS, SCAN, COMPUTING = "Networks", "Networks: what the scan does", "Networks: how they are fitted"
"""Panels of the help, for --kind other than lateral and volume."""

KINDS = {
    "lateral": "a prior of xy slices",
    "volume": "a prior of whole volumes",
    "microdiffuse3d": "networks that restore",
    **dict.fromkeys(("srcnn", "care", "swinir", "rln", "rcan3d", "dbpn", "ddpm"), "a network to compare with"),
}
"""What can be fitted."""

NETWORK_HELP = (
    "lateral: a prior of xy slices; volume: of whole volumes; microdiffuse3d: networks that restore; srcnn, care, "
    "swinir, rln, rcan3d, dbpn, ddpm: a network that these are compared with (evaluate)."
)


PREVIEW_HELP = (
    "Try it: learn from the middle of each IN for less than a minute (or for --minutes, --steps), and say which part "
    "that is and what a whole fit takes. What it writes has learnt little."
)


def by_default(name: str, text: str) -> str:
    """A help text with the default of a field of `ModelRequest`."""
    return f"{text} Default: {ModelRequest.__dataclass_fields__[name].default}."


def train(
    sources: Annotated[
        list[str], typer.Argument(metavar="IN...", help="Stacks, in the formats of recover; for networks folders, too.")
    ],
    out: Annotated[
        Path,
        o.option(
            "Folder to which the prior or the networks are written.", o.OUTPUT, "--out", "-o", metavar="FOLDER"
        ),
    ],
    crop: Annotated[
        str | None, o.option(o.CROP_HELP.replace("Take a part", "Learn from a part of each IN"), o.INPUT,
                             metavar="Z0:Z1,Y0:Y1,X0:X1"),
    ] = None,
    preview: Annotated[bool, o.option(PREVIEW_HELP, o.INPUT, "--preview")] = False,
    axes: Annotated[
        str | None, o.option("Axes, such as TZYX, where the files do not state them.", o.INPUT, metavar="LETTERS")
    ] = None,
    kind: Annotated[
        str, o.option(NETWORK_HELP, o.MODEL, metavar="NAME", autocompletion=o.among(KINDS))
    ] = "lateral",
    axial_factor: Annotated[
        int, o.option("s of the recoveries that the fit is for; 1: all planes.", o.MODEL, metavar="S")
    ] = 1,
    noise: Annotated[
        str,
        o.option(
            "Of priors: auto, or the standard deviation of the noise in the data's unit.", o.MODEL,
            metavar="auto|SIGMA",
        ),
    ] = "auto",
    minutes: Annotated[
        float | None,
        o.option(f"Minutes for the fit. Default: {PRIOR_MINUTES:g}, of networks {NETWORK_MINUTES:g}.", o.RUN),
    ] = None,
    steps: Annotated[
        int | None, o.option("Number of steps in place of a time; reproducible.", o.RUN, metavar="N")
    ] = None,
    resume: Annotated[bool, o.option("Go on from an interrupted fit.", o.RUN, "--resume")] = False,
    seed: Annotated[int, o.seed("weights, pieces and noise levels")] = 0,
    stage: Annotated[
        str | None,
        o.choice(
            STAGES, panel=NETWORKS, shown="NAME",
            text=by_default("stage", f"{', '.join(STAGES[:-1])} or {STAGES[-1]} (to one step)."),
        ),
    ] = None,
    size: Annotated[
        str | None,
        o.choice(
            ("tiny", "small", "base", "published"), panel=NETWORKS, text=by_default("size", "Of the networks.")
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        o.option("Folder of the networks that finetune, decoder and distil begin with.", NETWORKS, metavar="FOLDER"),
    ] = None,
    vae: Annotated[
        Path | None, o.option("Folder of an autoencoder of diffusers.", NETWORKS, metavar="FOLDER")
    ] = None,
    images: Annotated[
        Path | None,
        o.option("Folder of a frozen image encoder of transformers (DINOv2).", NETWORKS, metavar="FOLDER"),
    ] = None,
    low: Annotated[
        list[str] | None, o.option("Low-resolution scan of each IN, in their order.", NETWORKS, metavar="FILE")
    ] = None,
    register: Annotated[
        str | None,
        o.choice(
            ("shift", "similarity"), panel=NETWORKS,
            text="Register each scan of --low first; similarity: also turned and scaled within planes.",
        ),
    ] = None,
    lateral_factor: Annotated[
        int | None,
        o.option(by_default("lateral_factor", "f: measured pixels are f x f pixels of IN."), SCAN, metavar="F"),
    ] = None,
    psf_fwhm: Annotated[
        str | None,
        o.option(
            "Full widths z,y,x of the blur that the scan adds: in micrometres if the voxel size is known, else in "
            "voxels of IN.", SCAN, metavar="Z,Y,X",
        ),
    ] = None,
    psf: Annotated[
        str | None, o.option("That blur as a stack: the mean image of small beads.", SCAN, metavar="FILE")
    ] = None,
    psf_model: Annotated[
        str | None,
        o.choice(
            ("vectorial",), panel=SCAN,
            text="That blur computed for a widefield microscope of --na, --wavelength, --refractive-index.",
        ),
    ] = None,
    na: Annotated[float | None, o.option("Numerical aperture.", SCAN)] = None,
    wavelength: Annotated[float | None, o.option("Of the emission, in micrometres.", SCAN)] = None,
    refractive_index: Annotated[float | None, o.option("Of immersion and specimen.", SCAN)] = None,
    photons: Annotated[float | None, o.option("Photons per measured pixel at the brightest.", SCAN)] = None,
    read_noise: Annotated[
        float | None, o.option(by_default("read_noise", "Of the detector, as a share of the brightest."), SCAN)
    ] = None,
    attenuation: Annotated[
        float | None, o.option("Planes of IN over which the light falls to 1 / e.", SCAN)
    ] = None,
    widening: Annotated[
        float | None,
        o.option(by_default("widening", "Share by which the blur is wider at the last plane than at the first."), SCAN),
    ] = None,
    objective: Annotated[
        str | None,
        o.choice(
            {"flow": "velocity on straight paths", "eps": "noise"}, panel=COMPUTING,
            text=by_default("objective", "What the network learns to predict."),
        ),
    ] = None,
    masked: Annotated[
        float | None,
        o.option(by_default("masked", "Share of the batches that fill masked blocks of pixels."), COMPUTING),
    ] = None,
    first_estimate: Annotated[
        bool | None,
        o.option(
            "Whether a regression estimates the volume first. Default: yes; never with --masked.", COMPUTING,
            "--first-estimate/--no-first-estimate",
        ),
    ] = None,
    batch: Annotated[int | None, o.option(by_default("batch", "Pieces in a batch."), COMPUTING, metavar="N")] = None,
    device: Annotated[
        str | None, o.choice(("auto", "cpu", "cuda"), panel=COMPUTING, text=by_default("device", "Where it runs."))
    ] = None,
    precision: Annotated[
        str | None,
        o.choice(
            ("float32", "bfloat16", "float16"), panel=COMPUTING, text=by_default("precision", "Of the computation.")
        ),
    ] = None,
    recompute: Annotated[
        bool | None,
        o.option("Compute blocks again in place of keeping them: less memory.", COMPUTING, "--recompute"),
    ] = None,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> None:  # fmt: skip
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
        "crop": crop, "preview": preview, "seed": seed, "quiet": quiet,
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
        show(json.dumps({**facts, "peak_memory_mib": peak_memory()}, allow_nan=False), data=True)
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
