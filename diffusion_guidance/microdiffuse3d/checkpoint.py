"""Fitted networks as a folder, with all that restoring a volume needs.

=======================  ======================================================================
file                     contents
=======================  ======================================================================
microdiffuse3d.json      sizes of the networks, the objective, the acquisition, errors held out
network.safetensors      weights of the network
decoder.safetensors      weights of the refinement decoder, where there is one
estimate.safetensors     weights of the first estimate, where there is one
vae/                     the autoencoder, as diffusers writes it
=======================  ======================================================================
"""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch

from tensorcell.diffusion_guidance.microdiffuse3d.autoencoder import SliceAutoencoder
from tensorcell.diffusion_guidance.microdiffuse3d.calibration import HeldOut, Widths
from tensorcell.diffusion_guidance.microdiffuse3d.config import MicroDiffuse3DConfig
from tensorcell.diffusion_guidance.microdiffuse3d.degradation import Degradation
from tensorcell.diffusion_guidance.microdiffuse3d.first_estimate import FirstEstimate
from tensorcell.diffusion_guidance.microdiffuse3d.likeness import Likeness
from tensorcell.diffusion_guidance.microdiffuse3d.model import MicroDiffuse3D
from tensorcell.diffusion_guidance.microdiffuse3d.objective import path_of
from tensorcell.diffusion_guidance.microdiffuse3d.point_spread import PointSpread
from tensorcell.diffusion_guidance.microdiffuse3d.published import read_weights
from tensorcell.diffusion_guidance.microdiffuse3d.refinement import RefinementDecoder
from tensorcell.diffusion_guidance.microdiffuse3d.restoration import Parts, check_parts, known_factors
from tensorcell.diffusion_guidance.microdiffuse3d.scans import Model
from tensorcell.diffusion_guidance.networks import channels_last
from tensorcell.diffusion_guidance.priors import read_json, read_safetensors, write_json, write_weights

CONFIG, NETWORK, DECODER = "microdiffuse3d.json", "network.safetensors", "decoder.safetensors"
ESTIMATE, AUTOENCODER = "estimate.safetensors", "vae"
"""Names in the folder."""


def save_model(model: Model, folder: str | os.PathLike[str]) -> None:
    """Write fitted networks to a new folder, whole or not at all.

    Parameters
    ----------
    model : Model
    folder : path
        Must not exist.

    Raises
    ------
    ValueError
        If the folder exists, or the parts do not belong together.
    """
    parts = model.parts
    check_parts(parts)
    target = Path(folder)
    if target.exists():
        raise ValueError(f"{target}: exists; name a new folder for the networks")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part-{os.getpid()}")
    part.mkdir()
    try:
        write_weights(parts.network.state_dict(), part / NETWORK)
        if parts.decoder is not None:
            write_weights(parts.decoder.state_dict(), part / DECODER)
        if parts.estimate is not None:
            write_weights(parts.estimate.state_dict(), part / ESTIMATE)
        parts.autoencoder.save(part / AUTOENCODER)
        content = {
            "_class_name": MicroDiffuse3D.__name__,
            "network": asdict(parts.network.config),
            "objective": parts.objective,
            "decoder": None if parts.decoder is None else parts.decoder.sizes,
            "estimate": None if parts.estimate is None else parts.estimate.sizes,
            "acquisition": content_of(model.acquisition),
            "held_out": None if model.held_out is None else finite(asdict(model.held_out)),
            "likeness": None if model.likeness is None else asdict(model.likeness),
        }
        write_json(content, part / CONFIG)
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def load_model(folder: str | os.PathLike[str]) -> Model:
    """Read what :func:`save_model` wrote.

    Raises
    ------
    ValueError
        If the folder holds no such networks, or one of its files is damaged or belongs to other sizes.
    """
    given = Path(folder)
    if not (given / CONFIG).is_file():
        raise ValueError(f"{given}: expected a folder with {CONFIG}, got none")
    content = read_json(given / CONFIG)
    kind = content.get("_class_name")
    if kind != MicroDiffuse3D.__name__:
        raise ValueError(f"{given / CONFIG}: expected the sizes of a MicroDiffuse3D, got {kind!r}")
    try:
        path_of(content["objective"])
        with torch.device("meta"):
            network = MicroDiffuse3D(made(MicroDiffuse3DConfig, content["network"]))
            decoder = None if content["decoder"] is None else RefinementDecoder(**content["decoder"])
            estimate = None if content.get("estimate") is None else FirstEstimate(**content["estimate"])
        acquisition = acquisition_from(content["acquisition"])
        likeness = None if content["likeness"] is None else made(Likeness, content["likeness"])
        errors = None if content["held_out"] is None else held_out_of(content["held_out"])
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{given / CONFIG}: does not describe networks: {said}") from error
    for module, name in ((network, NETWORK), (decoder, DECODER), (estimate, ESTIMATE)):
        if module is not None:
            try:
                read_weights(module, read_safetensors(given / name), str)
            except ValueError as error:
                raise ValueError(str(error) if name in str(error) else f"{given / name}: {error}") from error
            channels_last(module.eval())
    parts = Parts(network, SliceAutoencoder.load(given / AUTOENCODER), decoder, content["objective"], estimate)
    check_parts(parts)
    if acquisition.axial_factor not in known_factors(parts):
        raise ValueError(
            f"{given / CONFIG}: expected an axial factor among the depth ratios {known_factors(parts)}, "
            f"got {acquisition.axial_factor}"
        )
    return Model(parts=parts, acquisition=acquisition, held_out=errors, likeness=likeness)


def held_out_of(content: dict[str, Any]) -> HeldOut:
    """Errors at held-out examples from JSON."""
    widths = {name: made(Widths, content[name]) for name in ("spread", "single")}
    found: HeldOut = made(HeldOut, content | widths)
    return found


def content_of(acquisition: Degradation) -> dict[str, Any]:
    """An acquisition as JSON holds it; the kernel of the PSF is there only where the acquisition has one."""
    content = finite(asdict(acquisition))
    return content if acquisition.kernel is not None else {name: content[name] for name in content if name != "kernel"}


def acquisition_from(content: dict[str, Any]) -> Degradation:
    """An acquisition from JSON."""
    kernel = {"kernel": made(PointSpread, content["kernel"])} if "kernel" in content else {}
    found: Degradation = made(Degradation, content | kernel)
    return found


def made(kind: Any, content: dict[str, Any]) -> Any:
    """A frozen dataclass from JSON: lists become tuples, null infinity; unknown names are refused."""
    known = {field.name for field in fields(kind)}
    unknown = sorted(content.keys() - known)
    if unknown:
        raise ValueError(f"{kind.__name__} knows no {', '.join(unknown[:10])}")
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in content.items()}
    return kind(**{name: float("inf") if value is None else value for name, value in values.items()})


def finite(content: dict[str, Any]) -> dict[str, Any]:
    """The same with null in place of infinity, which JSON does not know."""
    return {name: None if value == float("inf") else value for name, value in content.items()}
