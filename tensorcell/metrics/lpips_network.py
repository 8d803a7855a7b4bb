"""The networks of LPIPS, AlexNet and VGG-16, built of torch's layers, and how their weights are read from files.

Torch is imported when a function needs it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tensorcell.errors import InputError

from .parameter_files import PathLike, existing_file

EXPECTED = (
    "expected the tensors features.0.weight ... of torchvision's AlexNet or VGG-16 and lin0.model.1.weight ... "
    "lin4.model.1.weight of LPIPS 0.1, in one state dict or in two"
)


class Network(NamedTuple):
    """A network of convolutions, and the weights of the channels of five of its layers."""

    features: Any
    """A ``torch.nn.Sequential`` in which each layer has its number in torchvision's state dict."""
    weights: dict[int, Any]
    """``(1, channels, 1, 1)`` for each layer whose output is scored, by its number."""


def import_torch() -> Any:
    """The module torch, or `InputError` where it is not installed."""
    try:
        import torch
    except ImportError:
        raise InputError("lpips needs torch, which is not installed: install tensorcell[diffusion]") from None
    return torch


def read_network(paths: PathLike | Sequence[PathLike]) -> Network:
    """The network whose weights the files hold; the shape of the first tensor says whether it is AlexNet or VGG-16."""
    listed = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    if not listed:
        raise InputError(f"weights names no file, {EXPECTED}")
    tensors: dict[str, Any] = {}
    for path in listed:
        for key, value in _state_dict(existing_file("weights", path)).items():
            tensors[_short_name(key)] = value
    where = ", ".join(str(path) for path in listed)
    first = tensors.get("features.0.weight")
    if first is None:
        raise InputError(f"{where} has no tensor features.0.weight, {EXPECTED}")
    torch = import_torch()
    nn = torch.nn
    with torch.device("meta"):  # without values, which come from the files
        features, scored = _alexnet(nn) if tuple(first.shape[2:]) == (11, 11) else _vgg16(nn)
        lins = {f"lin{k}": nn.Conv2d(channels, 1, 1, bias=False) for k, channels in enumerate(scored.values())}
        network = nn.ModuleDict({"features": features, **lins})
    try:
        named = {key: value for key, value in tensors.items() if key.startswith(("features.", "lin"))}
        network.load_state_dict(named, assign=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{where} has other tensors ({reason}), {EXPECTED}") from None
    network.float()
    return Network(features, {number: network[f"lin{k}"].weight for k, number in enumerate(scored)})


def _alexnet(nn: Any) -> tuple[Any, dict[int, int]]:
    """AlexNet, and the channels of the layers that are scored by their numbers."""
    layers = [
        *(nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
    ]
    return nn.Sequential(*layers), {1: 64, 4: 192, 7: 384, 9: 256, 11: 256}


def _vgg16(nn: Any) -> tuple[Any, dict[int, int]]:
    """VGG-16, and the channels of the layers that are scored by their numbers."""
    layers: list[Any] = []
    scored, channels = {}, 3
    for width, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(depth):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        scored[len(layers) - 1] = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers[:-1]), scored


def _short_name(key: str) -> str:
    """``features.<n>.weight`` or ``lin<k>.weight`` for the names of torchvision and of the LPIPS authors."""
    if found := re.fullmatch(r"(?:net\.)?slice\d+\.(\d+)\.(weight|bias)", key):
        return f"features.{found[1]}.{found[2]}"
    if found := re.fullmatch(r"lin(?:s\.)?(\d)\.model\.\d\.weight", key):
        return f"lin{found[1]}.weight"
    return key


def _state_dict(path: Path) -> Mapping[str, Any]:
    torch = import_torch()
    try:
        if path.suffix == ".safetensors":
            import safetensors.torch

            loaded: Any = safetensors.torch.load_file(path)
        else:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).split("\n")[0]
        raise InputError(f"{path} cannot be read as a state dict ({reason}), {EXPECTED}") from None
    if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, Mapping) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise InputError(f"{path} holds no state dict of tensors, {EXPECTED}")
    return loaded
