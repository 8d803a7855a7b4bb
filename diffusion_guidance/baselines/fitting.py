"""Fits of the baselines to the same examples as MicroDiffuse3D, their folders, and the stacks that they restore.

===================  =================================================================
file of a folder     contents
===================  =================================================================
baseline.json        name and width of the network, and the acquisition fitted to
weights.safetensors  its weights
===================  =================================================================
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from tensorcell.diffusion_guidance.baselines.ddpm import noise_loss, sampled
from tensorcell.diffusion_guidance.baselines.table import make_baseline
from tensorcell.diffusion_guidance.microdiffuse3d.checkpoint import acquisition_from, content_of
from tensorcell.diffusion_guidance.microdiffuse3d.consistency import scale_of
from tensorcell.diffusion_guidance.microdiffuse3d.data import Example, Source, Sources, Span
from tensorcell.diffusion_guidance.microdiffuse3d.degradation import Degradation, enlarged
from tensorcell.diffusion_guidance.microdiffuse3d.restoration import measured_by
from tensorcell.diffusion_guidance.microdiffuse3d.training import Fit, run_fit
from tensorcell.diffusion_guidance.priors import fill_network, read_json, read_safetensors, write_json, write_weights
from tensorcell.diffusion_guidance.tiles import tiled_at

CONFIG, WEIGHTS = "baseline.json", "weights.safetensors"

TILE, OVERLAP = 256, 32
"""Sides of the tiles of a stack, and what they share, in pixels."""

SAMPLES, STEPS = 4, 50
"""Samples whose mean a diffusion model returns, and their steps."""


@dataclass(frozen=True, kw_only=True)
class FittedBaseline:
    """A network that was fitted to an acquisition."""

    name: str
    width: int
    network: Any
    acquisition: Degradation


def fit_baseline(
    data: Sources, name: str, acquisition: Degradation, *, width: int | None = None, batch: int = 2, seed: int = 0,
    resume: str | Path | None = None, **budget: Any,
) -> Fit:  # fmt: skip
    """Fit a baseline; regressions by the mean absolute error, the diffusion model by the noise that it predicts.

    The arguments are those of :func:`tensorcell.diffusion_guidance.microdiffuse3d.fit_network`.
    """
    network = make_baseline(
        name, axial_factor=acquisition.axial_factor, lateral_factor=acquisition.lateral_factor, width=width, seed=seed
    )

    def draw(generator: torch.Generator, source: Source = data.train) -> tuple[Example, int]:
        number = int(torch.randint(2**31, (1,), generator=generator))
        return source(batch, generator), number

    def loss(module: Any, drawn: tuple[Example, int]) -> Tensor:
        (volume, truth), number = drawn
        if name == "ddpm":
            return noise_loss(module, volume, truth, acquisition.axial_factor, torch.Generator().manual_seed(number))
        return functional.l1_loss(module(volume), truth)

    configuration = {"baseline": name, "width": width}
    return run_fit(network, loss, draw, lambda g: draw(g, data.held), configuration, seed, resume, budget)


def save_baseline(fitted: FittedBaseline, folder: str | os.PathLike[str]) -> None:
    """Write a baseline to a new folder."""
    target = Path(folder)
    target.mkdir(parents=True)
    write_weights(fitted.network.state_dict(), target / WEIGHTS)
    content = {"name": fitted.name, "width": fitted.width, "acquisition": content_of(fitted.acquisition)}
    write_json(content, target / CONFIG)


def load_baseline(folder: str | os.PathLike[str]) -> FittedBaseline:
    """Read what :func:`save_baseline` wrote.

    Raises
    ------
    ValueError
        If the folder holds no baseline, or it is damaged.
    """
    given = Path(folder)
    if not (given / CONFIG).is_file():
        raise ValueError(f"{given}: expected a folder with {CONFIG}, got none")
    content = read_json(given / CONFIG)
    try:
        acquisition = acquisition_from(content["acquisition"])
        name, width = content["name"], content["width"]
        network = make_baseline(
            name, axial_factor=acquisition.axial_factor, lateral_factor=acquisition.lateral_factor, width=width
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{given / CONFIG}: does not describe a baseline: {error}") from error
    fill_network(network, read_safetensors(given / WEIGHTS), str(given / WEIGHTS))
    return FittedBaseline(name=name, width=width, network=network.eval(), acquisition=acquisition)


def restore_by_baseline(planes: npt.ArrayLike, fitted: FittedBaseline, *, seed: int = 0) -> npt.NDArray[np.floating]:
    """Restore measured planes ``(d, h, w)``, in their unit.

    Returns
    -------
    array ``((d - 1) axial_factor + 1, lateral_factor h, lateral_factor w)``
    """
    given, acquisition = np.asarray(planes), fitted.acquisition
    span = Span.of(given)
    measured = torch.from_numpy(span.normalised(given))[None, None]
    wide = enlarged(measured, acquisition.lateral_factor)
    factor, generator = acquisition.axial_factor, torch.Generator().manual_seed(seed)

    def restore_at(place: tuple[slice, ...]) -> Any:
        part = wide[:, :, measured_by(place[0], factor), place[1], place[2]]
        if fitted.name == "ddpm":
            drawn = sampled(fitted.network, part, factor, steps=STEPS, samples=SAMPLES, generator=generator)
            return lambda x, level: drawn.mean(dim=0)
        return lambda x, level: fitted.network(part)

    with torch.inference_mode():
        depth = factor * len(given)
        sizes = (depth, *(min(TILE, side) for side in wide.shape[3:]))
        cut = tiled_at(restore_at, sizes, (0, *(min(OVERLAP, side // 4) for side in sizes[1:])), (factor, 1, 1))
        found = cut(torch.zeros(1, 1, depth, *wide.shape[3:]), 0.0)
        scale = scale_of(found, measured, acquisition)
    values = scale.slope * found[0, 0, : (len(given) - 1) * factor + 1].numpy().astype(np.float64) + scale.offset
    return np.asarray(span.restored(values).astype(np.result_type(given.dtype, np.float32)))
