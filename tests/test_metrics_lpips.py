"""LPIPS on small weights written here, against closed forms and an independent implementation."""

from __future__ import annotations

import math
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tensorcell import Volume
from tensorcell.errors import InputError
from tensorcell.metrics import lpips

ALEX = ((0, 3, 64, 11), (3, 64, 192, 5), (6, 192, 384, 3), (8, 384, 256, 3), (10, 256, 256, 3))
VGG_NUMBERS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
VGG_WIDTHS = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
VGG = tuple((n, VGG_WIDTHS[k], VGG_WIDTHS[k + 1], 3) for k, n in enumerate(VGG_NUMBERS))
SCORED = {"alex": (64, 192, 384, 256, 256), "vgg": (64, 128, 256, 512, 512)}


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch")


def passing(torch: Any, layers: Any, scored: tuple[int, ...]) -> dict[str, Any]:
    """A network whose first two channels are the red input and the constant 1 in every layer, all others 0."""
    tensors = {}
    for k, (number, inside, outside, side) in enumerate(layers):
        weight = torch.zeros(outside, inside, side, side)
        weight[0, 0, side // 2, side // 2] = 1
        if k:
            weight[1, 1, side // 2, side // 2] = 1
        bias = torch.zeros(outside)
        bias[1] = 0 if k else 1
        tensors[f"features.{number}.weight"], tensors[f"features.{number}.bias"] = weight, bias
    for k, channels in enumerate(scored):
        tensors[f"lin{k}.model.1.weight"] = torch.zeros(1, channels, 1, 1)
        tensors[f"lin{k}.model.1.weight"][0, :2, 0, 0] = torch.tensor([2.0 + k, 3.0])
    return tensors


@pytest.fixture(scope="module")
def alex(torch: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import safetensors.torch

    path = tmp_path_factory.mktemp("lpips") / "alex.safetensors"
    safetensors.torch.save_file(passing(torch, ALEX, SCORED["alex"]), path)
    return path


def closed_form(a: float, b: float) -> float:
    """Five layers with the features (x, 1) / sqrt(x^2 + 1), weights 2 + k and 3; x is the scaled red, if positive."""
    total = 0.0
    red = [max(0.0, (2 * v - 1 + 0.030) / 0.458) for v in (a, b)]
    units = [np.array([x, 1]) / math.hypot(x, 1) for x in red]
    for k in range(5):
        total += float(np.array([2 + k, 3]) @ (units[0] - units[1]) ** 2)
    return total


@pytest.mark.parametrize(("a", "b"), [(0.9, 0.6), (1.0, 0.2), (0.5, 0.5)])
def test_lpips_of_flat_planes_in_closed_form(alex: Path, a: float, b: float) -> None:
    first, second = np.full((40, 36), a), np.full((40, 36), b)
    # Central taps see no border; the network runs in float32.
    assert lpips(first, second, alex) == pytest.approx(closed_form(a, b), rel=1e-5, abs=1e-9)
    stack = np.stack([first, second, first])
    score = lpips(stack, np.stack([first] * 3), alex)
    assert score.planes == pytest.approx([0, closed_form(a, b), 0], rel=1e-5, abs=1e-9)


def test_lpips_with_vgg_in_closed_form(torch: Any, tmp_path: Path) -> None:
    import safetensors.torch

    path = tmp_path / "vgg.safetensors"
    safetensors.torch.save_file(passing(torch, VGG, SCORED["vgg"]), path)
    score = lpips(np.full((32, 32), 230, np.uint8), np.full((32, 32), 120, np.uint8), path)
    assert score == pytest.approx(closed_form(230 / 255, 120 / 255), rel=1e-5)


def convolved(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, stride: int, padding: int) -> np.ndarray:
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    side = weight.shape[-1]
    windows = np.lib.stride_tricks.sliding_window_view(x, (side, side), axis=(1, 2))[:, ::stride, ::stride]
    return np.maximum(0, np.einsum("cyxij,ocij->oyx", windows, weight, optimize=True) + bias[:, None, None])


def pooled(x: np.ndarray) -> np.ndarray:
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))
    return windows[:, ::2, ::2].max(axis=(3, 4))


def test_lpips_with_random_alexnet_equals_an_independent_implementation(
    torch: Any, tmp_path: Path, textured: Any
) -> None:
    rng = np.random.default_rng(21)
    arrays = {}
    for number, inside, outside, side in ALEX:
        arrays[f"features.{number}.weight"] = rng.standard_normal((outside, inside, side, side)) / side / inside**0.5
        arrays[f"features.{number}.bias"] = 0.1 * rng.standard_normal(outside)
    lins = [rng.random(channels) for channels in SCORED["alex"]]
    arrays = {key: value.astype(np.float32) for key, value in arrays.items()}
    backbone, linear = tmp_path / "alexnet.pth", tmp_path / "alex.pth"
    tensors = {key: torch.from_numpy(value) for key, value in arrays.items()}
    torch.save(tensors | {"classifier.1.weight": torch.zeros(2, 2)}, backbone)
    torch.save({f"lin{k}.model.1.weight": torch.from_numpy(v)[None, :, None, None] for k, v in enumerate(lins)}, linear)

    planes = [textured((67, 71), 22), textured((67, 71), 23)]
    features = []
    for plane in planes:
        shift, scale = np.array([-0.030, -0.088, -0.188]), np.array([0.458, 0.448, 0.450])
        x = (2 * plane[None] - 1 - shift[:, None, None]) / scale[:, None, None]
        taps = []
        for number, stride, padding, pool in ((0, 4, 2, 0), (3, 1, 2, 1), (6, 1, 1, 1), (8, 1, 1, 0), (10, 1, 1, 0)):
            x = pooled(x) if pool else x
            x = convolved(x, arrays[f"features.{number}.weight"], arrays[f"features.{number}.bias"], stride, padding)
            taps.append(x / np.linalg.norm(x, axis=0))
        features.append(taps)
    expected = sum(
        float((w[:, None, None] * (a - b) ** 2).sum(axis=0).mean()) for w, a, b in zip(lins, *features, strict=True)
    )
    # The network runs in float32, through five layers.
    assert lpips(*planes, [backbone, linear]) == pytest.approx(expected, rel=1e-4)
    assert lpips(*planes[::-1], (linear, backbone)) == pytest.approx(expected, rel=1e-4)


def test_lpips_understands_the_names_of_its_authors(torch: Any, alex: Path, tmp_path: Path, textured: Any) -> None:
    tensors = passing(torch, ALEX, SCORED["alex"])
    slices = {"0": 1, "3": 2, "6": 3, "8": 4, "10": 5}
    renamed = {"scaling_layer.shift": torch.zeros(3), "lins.0.model.1.weight": tensors["lin0.model.1.weight"]}
    for key, value in tensors.items():
        parts = key.split(".")
        named = key.startswith("features")
        renamed[f"net.slice{slices[parts[1]]}.{parts[1]}.{parts[2]}" if named else key] = value
    path = tmp_path / "theirs.pth"
    torch.save({"state_dict": renamed}, path)
    a, b = textured((48, 40), 24), textured((48, 40), 25)
    assert lpips(a, b, path) == lpips(a, b, alex)
    assert lpips(a, a, path) == 0


def test_lpips_scale_clips_and_volumes(alex: Path, textured: Any) -> None:
    a, b = textured((2, 48, 40), 26), textured((2, 48, 40), 27)
    expected = lpips(a, b, alex)
    assert lpips(1000 * a, 1000 * b, alex, data_range=1000) == pytest.approx(float(expected), rel=1e-6)
    beyond = np.where(b >= 1, 1.5, np.where(b <= 0, -0.5, b))
    assert lpips(a, beyond, alex) == expected
    turned = Volume(np.moveaxis(a, 0, 2), axes="YXZ")
    assert lpips(turned, np.moveaxis(b, 0, 2), alex).planes == expected.planes
    with pytest.raises(InputError, match="planes are 31 x 40, lpips expects sides of at least 32 pixels"):
        lpips(a[:, :31], b[:, :31], alex)
    with pytest.raises(InputError, match=r"estimate has shape \(1, 48, 40\)"):
        lpips(a, b[:1], alex)
    with pytest.raises(InputError, match=r"reference is float64 from .* expected data_range="):
        lpips(1000 * a, 1000 * b, alex)


class Payload:
    """Runs code when it is unpickled the unsafe way."""

    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit('executed')",))


def test_lpips_refuses_files_that_hold_something_else(torch: Any, tmp_path: Path, textured: Any) -> None:
    a = textured((32, 32), 28)
    tensors = passing(torch, ALEX, SCORED["alex"])
    path = tmp_path / "weights.pth"

    def refused(content: Any, match: str) -> None:
        torch.save(content, path)
        with pytest.raises(InputError, match=match):
            lpips(a, a, path)

    refused({k: v for k, v in tensors.items() if k.startswith("lin")}, "has no tensor features.0.weight, expected")
    refused({k: v for k, v in tensors.items() if "lin3" not in k}, r'other tensors \(.*Missing key.* "lin3.weight"')
    refused({k: v for k, v in tensors.items() if k != "features.8.bias"}, r'Missing key.* "features.8.bias"')
    refused(tensors | {"features.6.weight": torch.zeros(2, 2)}, r"features.6.weight: .*\[2, 2\].*\[384, 192, 3, 3\]")
    refused(tensors | {"features.13.weight": torch.zeros(1)}, r'Unexpected key.* "features.13.weight"')
    refused([1, 2], "holds no state dict of tensors")
    refused({"epoch": 3}, "holds no state dict of tensors")
    path.write_bytes(pickle.dumps(Payload()))
    with pytest.raises(InputError, match=r"cannot be read as a state dict \(.*\), expected the tensors"):
        lpips(a, a, path)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"not a header")
    with pytest.raises(InputError, match=r"broken\.safetensors cannot be read as a state dict"):
        lpips(a, a, broken)
    with pytest.raises(InputError, match=r"weights: no file .*absent\.pth; expected the published one"):
        lpips(a, a, tmp_path / "absent.pth")
    with pytest.raises(InputError, match="weights: no file"):
        lpips(a, a, tmp_path)
    with pytest.raises(InputError, match="weights names no file"):
        lpips(a, a, [])


def test_lpips_without_torch_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match=r"lpips needs torch, which is not installed: install tensorcell\[diffusion\]"):
        lpips(np.zeros((32, 32)), np.zeros((32, 32)), tmp_path / "alex.pth")
