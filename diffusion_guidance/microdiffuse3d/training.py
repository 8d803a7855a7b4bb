"""Fits of the autoencoder, the network and the decoder to volumes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tensorcell.diffusion_guidance.microdiffuse3d.autoencoder import SliceAutoencoder
from tensorcell.diffusion_guidance.microdiffuse3d.config import MicroDiffuse3DConfig
from tensorcell.diffusion_guidance.microdiffuse3d.degradation import Degradation
from tensorcell.diffusion_guidance.microdiffuse3d.model import MicroDiffuse3D
from tensorcell.diffusion_guidance.microdiffuse3d.objective import (
    FlowBatch,
    Objective,
    PixelBatch,
    pixel_loss,
    prediction_loss,
)
from tensorcell.diffusion_guidance.microdiffuse3d.refinement import RefinementDecoder
from tensorcell.diffusion_guidance.training_loop import TrainingState, run_training

DARKEST, BRIGHTEST = 0.1, 99.9
"""Percentiles of a volume that become 0 and 1."""

HELD_OUT = 6
"""One in so many volumes is held out; of fewer volumes, the last such share of each along y."""

TEST_BATCHES = 4
"""Held-out batches whose loss decides which weights are kept."""

SLICE_BATCH = 16
"""Slices in a batch of the autoencoder."""


class Span(NamedTuple):
    """The intensities of a volume that become 0 and 1."""

    low: float
    high: float

    @staticmethod
    def of(volume: npt.ArrayLike) -> Span:
        """Robust limits of a whole volume, so that its planes keep their relations."""
        low, high = np.percentile(np.asarray(volume), [DARKEST, BRIGHTEST])
        return Span(float(low), float(high) if high > low else float(low) + 1.0)

    def normalised(self, volume: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Intensities between about 0 and 1; those beyond are not cut."""
        return ((np.asarray(volume, dtype=np.float64) - self.low) / (self.high - self.low)).astype(np.float32)

    def restored(self, volume: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
        """The inverse of :meth:`normalised`."""
        return volume * (self.high - self.low) + self.low


class Pieces:
    """Random pieces of volumes.

    Parameters
    ----------
    volumes : sequence of float32 arrays ``(D, H, W)``
        Normalised.
    shape : three ints
        Of a piece; no volume may be smaller.

    Raises
    ------
    ValueError
        If there is no volume, or one is smaller than a piece.
    """

    def __init__(self, volumes: Sequence[npt.NDArray[np.float32]], shape: tuple[int, int, int]) -> None:
        if not volumes:
            raise ValueError("expected at least one volume to train with, got none")
        for volume in volumes:
            if any(size < wanted for size, wanted in zip(volume.shape, shape, strict=True)):
                raise ValueError(f"a piece has shape {shape}, a volume only {volume.shape}; choose smaller pieces")
        self.volumes, self.shape = [torch.from_numpy(np.ascontiguousarray(v)) for v in volumes], shape
        self.weights = torch.tensor([float(v.numel()) for v in self.volumes])

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """``(count, 1, D, H, W)``: volumes by their number of voxels, mirrored and turned at random within planes."""
        pieces = []
        for which in torch.multinomial(self.weights, count, replacement=True, generator=generator):
            volume = self.volumes[int(which)]
            corner = [
                int(torch.randint(size - wanted + 1, (1,), generator=generator))
                for size, wanted in zip(volume.shape, self.shape, strict=True)
            ]
            piece = volume[tuple(slice(c, c + s) for c, s in zip(corner, self.shape, strict=True))]
            flips = [axis for axis in (1, 2) if torch.rand((), generator=generator) < 0.5]
            piece = piece.flip(flips)
            if self.shape[1] == self.shape[2] and torch.rand((), generator=generator) < 0.5:
                piece = piece.transpose(1, 2)
            pieces.append(piece)
        return torch.stack(pieces)[:, None]


def split(volumes: Sequence[npt.ArrayLike], shape: tuple[int, int, int]) -> tuple[Pieces, Pieces]:
    """Pieces to train with and pieces that are held out, of volumes that are normalised one by one.

    Of at least six volumes every sixth is held out; of fewer, the last sixth of each along y, where that holds a piece.
    Where nothing can be held out, all is trained with and looked at.
    """
    for number, volume in enumerate(volumes, 1):
        if not np.isfinite(volume).all():
            raise ValueError(f"expected finite volumes, got NaN or infinity in number {number}")
    scaled = [Span.of(volume).normalised(volume) for volume in volumes]
    if len(scaled) >= HELD_OUT:
        held = scaled[HELD_OUT - 1 :: HELD_OUT]
        return Pieces([v for n, v in enumerate(scaled, 1) if n % HELD_OUT], shape), Pieces(held, shape)
    train, held = [], []
    for volume in scaled:
        cut = volume.shape[1] - max(shape[1], volume.shape[1] // HELD_OUT)
        if cut >= shape[1]:
            train.append(volume[:, :cut])
            held.append(volume[:, cut:])
        else:
            train.append(volume)
    return Pieces(train, shape), Pieces(held or train, shape)


def split_for(
    degradation: Degradation, volumes: Sequence[npt.ArrayLike], piece: tuple[int, int, int]
) -> tuple[Pieces, Pieces]:
    """The same for pieces of which an acquisition measures whole groups of planes."""
    if piece[0] % degradation.axial_factor:
        raise ValueError(
            f"the depth of a piece must be a multiple of the axial factor {degradation.axial_factor}, got {piece[0]}"
        )
    return split(volumes, piece)


class Fit(NamedTuple):
    """A fitted network, and ``steps``, ``seconds``, ``heldout`` and ``ended`` of the fit."""

    network: Any
    report: dict[str, Any]


def fit_autoencoder(
    volumes: Sequence[npt.ArrayLike], autoencoder: SliceAutoencoder, *, side: int = 64, seed: int = 0,
    resume: str | Path | None = None, **budget: Any,
) -> Fit:  # fmt: skip
    """Fit an autoencoder to the slices of volumes, and bring its latents to unit variance.

    Parameters
    ----------
    volumes : sequence of arrays ``(D, H, W)``
        In any unit; normalised one by one.
    autoencoder : SliceAutoencoder
        Fitted from its weights on.
    side : int
        Side of the square pieces of slices, in pixels.
    seed : int
    resume : folder, optional
        That an earlier fit kept: it goes on as if it had not stopped.
    budget
        ``steps``, ``seconds``, ``progress`` and ``keep`` of
        :func:`tensorcell.diffusion_guidance.training_loop.run_training`.
    """
    train, held = split(volumes, (1, side, side))
    latent = (SLICE_BATCH, autoencoder.channels, side // autoencoder.scale, side // autoencoder.scale)

    def draw(generator: torch.Generator, pieces: Pieces = train) -> tuple[Tensor, Tensor]:
        return pieces.draw(SLICE_BATCH, generator)[:, :, 0], torch.randn(latent, generator=generator)

    configuration = {"autoencoder": {key: _plain(value) for key, value in autoencoder.slices.config.items()}}
    fit = _run(
        autoencoder, lambda network, batch: network.loss(*batch), draw, lambda g: draw(g, held), configuration, seed,
        resume, budget,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    fit.network.set_scaling(draw(generator)[0] for _ in range(TEST_BATCHES))
    return fit


def fit_network(
    volumes: Sequence[npt.ArrayLike], config: MicroDiffuse3DConfig, autoencoder: SliceAutoencoder,
    degradation: Degradation, *, piece: tuple[int, int, int], batch: int = 2, objective: Objective = "flow",
    seed: int = 0, initial: MicroDiffuse3D | None = None, resume: str | Path | None = None, **budget: Any,
) -> Fit:  # fmt: skip
    """Fit the network to restore what an acquisition makes of volumes.

    Parameters
    ----------
    volumes, seed, resume, budget
        As for :func:`fit_autoencoder`.
    config : MicroDiffuse3DConfig
        Ignored where there is an initial network.
    autoencoder : SliceAutoencoder
        Frozen.
    degradation : Degradation
        Its axial factor is one of the network's depth ratios.
    piece : three ints
        Shape of the pieces of volumes: the depth a multiple of the axial factor, the sides of the pixels of a token.
    batch : int
        Pieces in a batch.
    objective : {"flow", "eps"}
    initial : MicroDiffuse3D, optional
        A network to start from: a published or a pretrained one.
    """
    train, held = split_for(degradation, volumes, piece)
    if initial is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            initial = MicroDiffuse3D(config)

    def draw(generator: torch.Generator, pieces: Pieces = train) -> FlowBatch:
        truth = pieces.draw(batch, generator)
        with torch.no_grad():
            latent = autoencoder.encode(truth).drawn(generator)
        noise = torch.randn(latent.shape, generator=generator)
        return FlowBatch(latent, noise, torch.rand(batch, generator=generator), degradation(truth, generator))

    configuration = {"network": asdict(initial.config), "objective": objective}
    return _run(
        initial, lambda network, each: prediction_loss(network, each, objective), draw, lambda g: draw(g, held),
        configuration, seed, resume, budget,
    )  # fmt: skip


def fit_decoder(
    volumes: Sequence[npt.ArrayLike], decoder: RefinementDecoder, autoencoder: SliceAutoencoder,
    degradation: Degradation, *, piece: tuple[int, int, int], batch: int = 2, seed: int = 0,
    resume: str | Path | None = None, **budget: Any,
) -> Fit:  # fmt: skip
    """Fit the refinement decoder to latents of the truth and low-resolution volumes; chosen at held-out pieces.

    The arguments are those of :func:`fit_network`.
    """
    train, held = split_for(degradation, volumes, piece)

    def draw(generator: torch.Generator, pieces: Pieces = train) -> PixelBatch:
        truth = pieces.draw(batch, generator)
        with torch.no_grad():
            latent = autoencoder.encode(truth).drawn(generator).transpose(1, 2)
        return PixelBatch(degradation(truth, generator), latent, truth)

    return _run(decoder, pixel_loss, draw, lambda g: draw(g, held), {"decoder": str(decoder)}, seed, resume, budget)


def _run(
    network: Any, loss: Any, draw: Any, look: Any, configuration: dict[str, Any], seed: int,
    resume: str | Path | None, budget: dict[str, Any],
) -> Fit:  # fmt: skip
    """The weights with the least held-out loss."""
    state = TrainingState.of(network.train(), loss, seed, configuration)
    if resume is not None:
        state = state.resumed(resume)
    test = [look(torch.Generator().manual_seed(seed + 1 + n)) for n in range(TEST_BATCHES)]
    return Fit(state.best, run_training(state, draw, test, **budget))


def _plain(value: Any) -> Any:
    """The value as JSON knows it."""
    return list(value) if isinstance(value, tuple) else value
