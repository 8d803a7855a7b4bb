"""The networks of LPIPS, AlexNet and VGG-16: their layers, and how their weights are read from files.

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


class Layer(NamedTuple):
    """A convolution with a ReLU after it."""

    number: int
    """In ``features.<number>`` of torchvision's state dict."""
    channels_in: int
    channels_out: int
    kernel: int
    stride: int = 1
    padding: int = 1
    pool: int = 0
    """Side of the max pool (stride 2) before it; 0 = none."""
    scored: bool = True
    """Whether the distance is taken of its output."""


class Network(NamedTuple):
    """Layers, and the tensors that belong to them."""

    layers: tuple[Layer, ...]
    tensors: dict[str, Any]
    """``features.<number>.weight`` and ``.bias`` of each layer, and ``lin0`` ... of each scored one, in float32."""


def _vgg16() -> tuple[Layer, ...]:
    layers: list[Layer] = []
    number, channels = 0, 3
    for block, (width, depth) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))):
        for k in range(depth):
            pool = 2 if block and k == 0 else 0
            layers.append(Layer(number, channels, width, 3, pool=pool, scored=k == depth - 1))
            number, channels = number + 2, width
        number += 1  # the pool has a number, too
    return tuple(layers)


ALEXNET = (
    Layer(0, 3, 64, 11, stride=4, padding=2),
    Layer(3, 64, 192, 5, padding=2, pool=3),
    Layer(6, 192, 384, 3, pool=3),
    Layer(8, 384, 256, 3),
    Layer(10, 256, 256, 3),
)
VGG16 = _vgg16()


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
    layers = ALEXNET if tuple(first.shape[2:]) == (11, 11) else VGG16
    shapes = _shapes(layers)
    _check_tensors(tensors, shapes, where)
    return Network(
        layers,
        {key: tensors[key].reshape(-1).float() if key.startswith("lin") else tensors[key].float() for key in shapes},
    )


def _shapes(layers: Sequence[Layer]) -> dict[str, tuple[int, ...]]:
    """Shape of each tensor that a network needs."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in layers:
        shapes[f"features.{layer.number}.weight"] = (layer.channels_out, layer.channels_in, layer.kernel, layer.kernel)
        shapes[f"features.{layer.number}.bias"] = (layer.channels_out,)
    for k, layer in enumerate([layer for layer in layers if layer.scored]):
        shapes[f"lin{k}"] = (1, layer.channels_out, 1, 1)
    return shapes


def _check_tensors(tensors: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Raise `InputError` unless the tensors of the network are there, have their shapes, and are all there is."""
    for key, shape in shapes.items():
        if key not in tensors:
            raise InputError(f"{where} has no tensor {key}, {EXPECTED}")
        if tuple(tensors[key].shape) != shape:
            raise InputError(f"{key} in {where} has shape {tuple(tensors[key].shape)}, expected {shape}")
    unknown = sorted(key for key in tensors if key.startswith(("features.", "lin")) and key not in shapes)
    if unknown:
        raise InputError(f"{where} holds {unknown[0]}, which neither network has, {EXPECTED}")


def _short_name(key: str) -> str:
    """``features.<n>.weight`` or ``lin<k>`` for the names of torchvision and of the LPIPS authors; else the name."""
    if found := re.fullmatch(r"(?:net\.)?slice\d+\.(\d+)\.(weight|bias)", key):
        return f"features.{found[1]}.{found[2]}"
    if found := re.fullmatch(r"lin(?:s\.)?(\d)\.model\.\d\.weight", key):
        return f"lin{found[1]}"
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
