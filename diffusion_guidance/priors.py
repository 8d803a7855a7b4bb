"""Score priors on disk and in use: a network, the units it was fitted in, and the levels it knows.

A prior is kept as a folder in the layout of diffusers: ``config.json`` and ``diffusion_pytorch_model.safetensors``.
Nothing in it is executed on loading.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from tensorcell.diffusion_guidance.compute import Compute
from tensorcell.diffusion_guidance.networks import SliceNetwork, SliceNetworkConfig, as_levels, broad

CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
HIGHEST_LEVEL = 80.0
"""The highest level of noise that networks are fitted to, in prior units."""

FORMAT = 1

PIPELINE = "model_index.json"
"""The file by which a pipeline of diffusers is recognised."""

EXPECTED_PRIOR = "expected a prior that `tensorcell train` wrote, which knows of measured and missing planes"
READ_AS_DENOISER = "tensorcell.diffusion_guidance.from_diffusers reads the folder of a pipeline for samplers"


@dataclass(frozen=True)
class LateralPrior:
    """E[x0 | x0 + level eps] on slices, with or without a condition.

    Attributes
    ----------
    network : SliceNetwork
    location, scale : float
        Prior units are ``(data - location) / scale``.
    lowest_level : float
        The lowest level that was learnt (noisy slices and precision limit it). Below it the score of this level is
        used.
    axial_factor : int
        Rows from one measured row to the next in the conditions to which it was fitted.
    stretch : float
        The factor by which lateral slices were stretched along the decimated axis to look like axial ones.
    report : dict
        The report of the fit: steps, seconds, held-out loss, how it ended. It holds numbers and strings only.

    Examples
    --------
    >>> prior = LateralPrior(SliceNetwork(SliceNetworkConfig(widths=(8,), blocks=1)), location=100.0, scale=20.0)
    >>> prior.denoise(torch.ones(1, 1, 1, 2), 1.0).tolist()  # untrained: the answer for white Gaussian data
    [[[[0.5, 0.5]]]]
    """

    network: SliceNetwork
    location: float = 0.0
    scale: float = 1.0
    lowest_level: float = 0.0
    axial_factor: int = 1
    stretch: float = 1.0
    report: dict[str, Any] = field(default_factory=dict)

    dimensions: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if self.network.config.dimensions != self.dimensions:
            raise ValueError(
                f"{type(self).__name__} is for {self.dimensions} axes, "
                f"got a network for {self.network.config.dimensions}"
            )
        if not 0 < self.scale < math.inf:
            raise ValueError(f"scale must be positive and finite, got {self.scale}")
        if not math.isfinite(self.location):
            raise ValueError(f"location must be finite, got {self.location}")
        if not 0 <= self.lowest_level <= HIGHEST_LEVEL:
            raise ValueError(f"lowest_level must be between 0 and {HIGHEST_LEVEL:g}, got {self.lowest_level}")
        if not 0 < self.stretch < math.inf:
            raise ValueError(f"stretch must be positive and finite, got {self.stretch}")
        if self.axial_factor < 1:
            raise ValueError(f"axial_factor must be at least 1, got {self.axial_factor}")

    @property
    def device(self) -> torch.device:
        """Where the network lies, and where its tensors must."""
        return next(self.network.parameters()).device

    def on(self, compute: Compute) -> Self:
        """The same prior computed there and in that precision; a network that lies elsewhere is copied.

        >>> prior = LateralPrior(SliceNetwork(SliceNetworkConfig(widths=(8,), blocks=1)))
        >>> prior.on(Compute(precision="bfloat16")).network.precision, prior.network.precision
        ('bfloat16', 'float32')
        """
        if compute == Compute(device=self.device, precision=self.network.precision):
            return self
        network = deepcopy(self.network).to(compute.device)
        network.precision = compute.precision
        return replace(self, network=network)

    @property
    def stride(self) -> int:
        """Tiles must start at multiples of this to give the same as the whole."""
        return self.network.stride

    def standardise(self, data: Tensor) -> Tensor:
        """The caller's unit -> prior units."""
        return (data - self.location) / self.scale

    def restore(self, x: Tensor) -> Tensor:
        """Prior units -> the caller's unit."""
        return x * self.scale + self.location

    def adapted(self, planes: npt.ArrayLike, noise: float = 0.0) -> Self:
        """The same prior in the units of other data.

        Parameters
        ----------
        planes : array
            Data of any shape; NaN = not measured.
        noise : float
            Standard deviation of their noise, in their unit.

        Returns
        -------
        prior of the same class
            The network is shared; location and scale are those of `planes` without their noise.

        Raises
        ------
        ValueError
            If nothing was measured, or there is no contrast beyond the noise.

        Examples
        --------
        >>> prior = LateralPrior(SliceNetwork(SliceNetworkConfig(widths=(8,), blocks=1)))
        >>> other = prior.adapted([[[95.0, 105.0]]])
        >>> other.location, other.scale
        (100.0, 5.0)
        """
        values = np.asarray(planes, dtype=np.float32)
        if np.isnan(values).any():
            values = values[~np.isnan(values)]
        location, scale = units_of([values], [noise])
        return replace(self, location=location, scale=scale)

    def denoise(self, x: Tensor, level: float | Tensor, condition: Tensor | None = None) -> Tensor:
        """E[x0 | x = x0 + level eps] of slices, in prior units.

        Parameters
        ----------
        x : Tensor (K, C, H, W)
            If there is a condition, rows (H) are those of which only some were measured.
        level : float or Tensor (K,)
            Infinite: the regression on the condition alone; `x` is not used.
        condition : Tensor (K, C + 1, H, W), optional
            Interpolation in prior units, and 1 where it was measured, 0 elsewhere.

        Returns
        -------
        Tensor of the shape of `x`

        Notes
        -----
        Below ``lowest_level`` the score ``(D(x) - x) / level^2`` is that of ``lowest_level``, and the result tends to
        `x`. The result is differentiable in `x` and `condition`; the weights of fitted and loaded priors are frozen.
        """
        levels = as_levels(level, x)  # (K,)
        known = levels.clamp(min=self.lowest_level)  # (K,)
        estimate: Tensor = self.network(x, known, condition)  # (K, C, H, W)
        held = torch.where(levels < known, levels / known, 1.0).square()  # (K,)
        return torch.where(broad(levels < known, x), torch.lerp(x, estimate, broad(held, x)), estimate)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write ``config.json`` and ``diffusion_pytorch_model.safetensors``, each under a temporary name first."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        own = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "network"}
        config = {"_class_name": type(self).__name__, "format": FORMAT, "network": self.network.config.to_dict(), **own}
        write_weights(self.network.state_dict(), folder / WEIGHTS)
        write_json(config, folder / CONFIG)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, channels: int | None = None, allow_pickle: bool = False) -> Self:
        """Read a folder written by :meth:`save`. Missing and foreign weights are errors, and nothing is executed.

        Parameters
        ----------
        path : folder, or one of the two files in it
        channels : int, optional
            Number of channels of the data; a prior for another number is refused.
        allow_pickle : bool
            Accept weights from a file of ``torch.save`` in place of safetensors, read with ``weights_only=True``.

        Raises
        ------
        FileNotFoundError, ValueError
            If the folder cannot be read as a prior, in one line.
        """
        given = Path(path)
        folder = given if given.is_dir() or not given.suffix else given.parent
        config = read_json(folder / CONFIG)
        if config.pop("_class_name", None) != cls.__name__ or config.pop("format", None) != FORMAT:
            raise ValueError(f"{folder / CONFIG}: expected a {cls.__name__} of format {FORMAT}, got another config")
        numbers = ("location", "scale", "lowest_level", "axial_factor", "stretch")
        wrong = [name for name in numbers if not isinstance(config.get(name, 1), int | float)]
        if not isinstance(config.get("report", {}), dict):
            wrong.append("report")
        if wrong:
            raise ValueError(
                f"{folder / CONFIG}: expected the config of a {cls.__name__}, got {wrong[0]} of another kind"
            )
        try:
            shape = SliceNetworkConfig(**config.pop("network"))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{folder / CONFIG}: expected the config of a {cls.__name__}, got {error}") from None
        if channels is not None and shape.channels != channels:
            raise ValueError(f"{folder}: this prior is for {shape.channels} channel(s), got data of {channels}")
        weights = read_weights(folder, given if given.is_file() else None, allow_pickle)
        held = sum(value.numel() for value in weights.values())
        least = shape.fewest_weights
        if least > held:
            raise ValueError(f"{folder / CONFIG}: claims a network of at least {least} weights, got {held} in its file")
        network = SliceNetwork(shape)
        try:
            prior = cls(network, **config)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{folder / CONFIG}: expected the config of a {cls.__name__}, got {error}") from None
        fill_network(network, weights, str(folder))
        network.eval().requires_grad_(False)
        return prior


@dataclass(frozen=True)
class VolumePrior(LateralPrior):
    """The same for volumes: tensors are (K, C, Z, Y, X), and the network has ``dimensions=3``."""

    dimensions: ClassVar[int] = 3


def units_of(parts: Sequence[npt.NDArray[np.float32]], noise: Sequence[float]) -> tuple[float, float]:
    """Mean of the data, all parts together, and their standard deviation without the noise of each part.

    >>> units_of([np.zeros(2, np.float32), np.full(2, 10, np.float32)], [3.0, 3.0])
    (5.0, 4.0)
    """
    sizes = np.array([part.size for part in parts], dtype=np.float64)
    if not sizes.sum():
        raise ValueError("volume must have at least one measured voxel, got none")
    means = np.array([part.mean(dtype=np.float64) for part in parts])
    inner = np.array([part.var(dtype=np.float64) - sigma**2 for part, sigma in zip(parts, noise, strict=True)])
    shares = sizes / sizes.sum()
    location = float(shares @ means)
    variance = float(shares @ (inner + np.square(means - location)))
    if not math.isfinite(variance):
        raise ValueError("volume must be finite where it was measured, got infinity")
    if not variance > 0:
        raise ValueError("volume must have contrast beyond its noise, got none")
    return location, math.sqrt(variance)


def load_prior(
    path: str | os.PathLike[str], *, channels: int | None = None, allow_pickle: bool = False
) -> LateralPrior:
    """The prior in a folder, of the class that its config names; otherwise as :meth:`LateralPrior.load`."""
    given = Path(path)
    folder = given if given.is_dir() or not given.suffix else given.parent
    if (folder / PIPELINE).is_file():
        raise ValueError(f"{folder}: {EXPECTED_PRIOR}, got a pipeline of diffusers; {READ_AS_DENOISER}")
    config = read_json(folder / CONFIG)
    if "_diffusers_version" in config:
        raise ValueError(
            f"{folder}: {EXPECTED_PRIOR}, got a {config.get('_class_name')} of diffusers; {READ_AS_DENOISER}"
        )
    kind = VolumePrior if config.get("_class_name") == VolumePrior.__name__ else LateralPrior
    return kind.load(path, channels=channels, allow_pickle=allow_pickle)


def shipped_prior() -> LateralPrior:
    """A prior of lateral slices of simulated cells (2.2 MB), from which fits to real stacks start.

    Alone it does not improve on kriging of real stacks. ``python -m benchmarks.pretrain_prior fit`` makes it.

    >>> shipped_prior().axial_factor
    4
    """
    return LateralPrior.load(Path(__file__).with_name("pretrained"))


def write_json(content: dict[str, Any], path: Path) -> None:
    """Write JSON under a temporary name and rename it."""
    with _whole(path) as part:
        part.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def unfinished(path: Path) -> Path:
    """The temporary name of a file that is being written; what a killed process leaves there is written over."""
    return path.with_name(f".{path.name}.part")


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A temporary name that becomes ``path`` at the end, or is removed on any exception, as of a full disk."""
    part = unfinished(path)
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())  # after a power cut the old or the new content is there
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object, or raise an error of one line."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a prior with {CONFIG} and {WEIGHTS}, got no such file")
    try:
        content = json.loads(path.read_text())
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: expected JSON, got something else ({str(error).splitlines()[0]})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def write_weights(tensors: dict[str, Tensor], path: Path) -> None:
    """Write safetensors under a temporary name and rename them."""
    with _whole(path) as part:
        part.write_bytes(save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}))


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read tensors by name, or raise a ValueError of one line."""
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path}: expected complete safetensors, got a truncated or foreign file ({reason})") from None


def read_weights(folder: Path, given: Path | None, allow_pickle: bool) -> dict[str, Tensor]:
    """Read the weights of a folder from safetensors, or from a pickle where that is allowed."""
    chosen = given if given is not None and given.name != CONFIG else folder / WEIGHTS
    if chosen == folder / WEIGHTS and not chosen.is_file():
        pickles = sorted(found for pattern in PICKLES for found in folder.glob(pattern))
        if not pickles:
            raise FileNotFoundError(f"{chosen}: expected the weights of the prior, got no such file")
        chosen = pickles[0]
    if chosen.suffix == ".safetensors":
        return read_safetensors(chosen)
    if not allow_pickle:
        raise ValueError(
            f"{chosen}: expected safetensors, got a pickle, which is refused unless allowed (allow_pickle)"
        )
    try:
        weights = torch.load(chosen, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds; all mean the same to the user
        reason = str(error).splitlines()[0]
        raise ValueError(f"{chosen}: expected a pickle of plain weights, got something else ({reason})") from None
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(f"{chosen}: expected a pickle of tensors by name, got something else")
    return weights


def fill_network(network: torch.nn.Module, weights: dict[str, Tensor], label: str) -> None:
    """Load weights into a network; any difference is a ValueError of one line."""
    expected = network.state_dict()
    missing, left = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
    if missing or left:
        raise ValueError(
            f"{label}: expected the weights of its config, got {len(missing)} missing and {len(left)} foreign tensors"
        )
    for name, tensor in expected.items():
        if weights[name].shape != tensor.shape:
            raise ValueError(f"{label}: {name} must be {tuple(tensor.shape)}, got {tuple(weights[name].shape)}")
        if not bool(weights[name].isfinite().all()):
            raise ValueError(f"{label}: {name} must be finite, got NaN or infinity")
    network.load_state_dict(weights, strict=True)
