"""Denoisers from folders that diffusers wrote: unconditional networks of images, and the noise they were trained on.

A pipeline (``DDPMPipeline`` and its kin) is a folder with ``unet/`` and ``scheduler/``. Its files are read, and none of
its code: the network is a ``UNet2DModel`` made from the config and filled from safetensors.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tensorcell.diffusion_guidance.networks import pad_to_stride
from tensorcell.diffusion_guidance.paths import Denoiser, Kind, denoiser, from_scheduler
from tensorcell.diffusion_guidance.priors import CONFIG, WEIGHTS, fill_network, read_json, read_weights

SCHEDULER_CONFIG = "scheduler_config.json"

KINDS: dict[Any, Kind] = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
"""What the network predicts, by the ``prediction_type`` of its scheduler."""


def from_diffusers(folder: str | os.PathLike[str]) -> Denoiser:
    """A denoiser of slices, ``denoise(x, level) -> E[x0 | x0 + level eps]``, from a folder that diffusers wrote.

    Parameters
    ----------
    folder : path
        It holds ``unet/`` (an unconditional ``UNet2DModel`` in safetensors) and ``scheduler/``, whose betas and
        ``prediction_type`` say what the network was trained on.

    Returns
    -------
    callable
        x ``(K, C, H, W)`` in the unit of the network's images, which is [-1, 1] as diffusers trains them; level a
        number or ``(K,)`` in that unit. Sides need not be multiples of anything: images are padded. It is on the CPU,
        its weights are frozen, and gradients pass through to x.
        :func:`~tensorcell.diffusion_guidance.denoisers.perpendicular` makes a denoiser of volumes of it.

    Raises
    ------
    ValueError, FileNotFoundError
        If the folder is none of these, in one line. Pickles are not read.

    Notes
    -----
    Levels outside of those of the scheduler are taken as its ends.
    """
    folder = Path(folder)
    scheduler, network = read_scheduler(folder / "scheduler"), read_unet(folder / "unet")
    kind = "flow" if not hasattr(scheduler, "alphas_cumprod") else KINDS.get(scheduler.config.get("prediction_type"))
    if kind is None:
        got = scheduler.config.get("prediction_type")
        raise ValueError(f"{folder}: expected prediction_type {', '.join(KINDS)}, got {got!r}")
    try:
        path = from_scheduler(scheduler)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{folder / 'scheduler'}: {error}") from None
    stride = 2 ** (len(network.config["block_out_channels"]) - 1)

    def predict(x: Tensor, t: Tensor) -> Tensor:
        found: Tensor = network(pad_to_stride(x, stride), t).sample
        return found[..., : x.shape[-2], : x.shape[-1]]

    return denoiser(path, predict, kind)


def read_unet(folder: Path) -> Any:
    """The ``UNet2DModel`` of a folder, on the CPU, frozen."""
    from diffusers import UNet2DModel

    config = read_json(folder / CONFIG)
    kind = config.get("_class_name")
    if kind != "UNet2DModel":
        raise ValueError(f"{folder / CONFIG}: expected an unconditional UNet2DModel, got {kind!r}")
    if config.get("num_class_embeds") or config.get("class_embed_type"):
        raise ValueError(f"{folder / CONFIG}: expected a network without classes, got one that is conditioned on them")
    if config.get("in_channels") != config.get("out_channels"):
        got = f"{config.get('in_channels')} and {config.get('out_channels')}"
        raise ValueError(f"{folder / CONFIG}: expected as many channels out as in, got {got}")
    weights = read_weights(folder, None, allow_pickle=False)
    with torch.device("meta"):  # nothing is allocated before the claim of the config is known to be true
        claimed = sum(value.numel() for value in made(UNet2DModel, config, folder / CONFIG).state_dict().values())
    held = sum(value.numel() for value in weights.values())
    if claimed != held:
        raise ValueError(f"{folder / CONFIG}: claims a network of {claimed} weights, got {held} in {WEIGHTS}")
    network = made(UNet2DModel, config, folder / CONFIG)
    fill_network(network, weights, str(folder))
    return network.eval().requires_grad_(False)


def read_scheduler(folder: Path) -> Any:
    """The scheduler of a folder: one of the classes of diffusers, made from its config."""
    import diffusers

    path = folder / SCHEDULER_CONFIG
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: expected the folder of a pipeline with unet/ and scheduler/, got no such file"
        )
    config = read_json(path)
    kind = getattr(diffusers, str(config.get("_class_name")), None)
    if not isinstance(kind, type) or not issubclass(kind, diffusers.SchedulerMixin):
        raise ValueError(f"{path}: expected a scheduler of diffusers, got {config.get('_class_name')!r}")
    return made(kind, config, path)


def made(kind: Any, config: dict[str, Any], path: Path) -> nn.Module | Any:
    """An object of diffusers from its config; whatever it raises becomes a ValueError of one line."""
    try:
        return kind.from_config(config)
    except Exception as error:  # many kinds for wrong values; all mean the same to the user
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{path}: expected the config of a {kind.__name__}, got one that it refuses ({reason})"
        ) from None
