"""The stages of a command, one after the other."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tensorcell import prior_training
from tensorcell.defect_notes import psf_in_voxels
from tensorcell.errors import InputError
from tensorcell.methods.protocol import Stage
from tensorcell.network_training.losses import LOSSES, LossTable, resumed_at
from tensorcell.network_training.point_spreads import point_spread_of
from tensorcell.network_training.request import ModelRequest
from tensorcell.network_training.volumes import Volumes
from tensorcell.progress import ProgressBar
from tensorcell.solvers import IterationRecord

if TYPE_CHECKING:
    from tensorcell.diffusion_guidance.microdiffuse3d import (
        Degradation,
        Model,
        Sampling,
        SliceAutoencoder,
    )

SHARES = {"vae": 0.08, "estimate": 0.52, "pretrain": 0.15, "decoder": 0.1}
"""Shares of the time that the stages of ``all`` get; what is left is for the calibration."""

WITHOUT_ESTIMATE = {"vae": 0.2, "pretrain": 0.5, "decoder": 0.15}
"""The same where there is no first estimate."""

FINETUNED = {"estimate": 0.5, "finetune": 0.5}
"""Shares where networks with a first estimate are finetuned."""

MINUTES = 20.0
"""Minutes for ``all`` if neither the time nor the number of steps is given."""

CALIBRATION = 0.15
"""Share of the time for the calibration; it takes longer where four examples do."""

PSF_EXAMPLES = 6
"""Pairs of pieces from which their PSF is found."""

EXAMPLES = 12
"""Held-out examples that are restored to calibrate the errors."""

DISTILLED_STEPS = 1
"""Steps of a network that was fitted to few."""

SAMPLING: Sampling | None = None
"""How they are restored; None: as by default."""

ESTIMATES = {"tiny": {"channels": 64, "blocks": 4}, "small": {"channels": 96, "blocks": 6}}
"""Sizes of the first estimates; for larger networks that of ``small``."""

BLOCK, PLANAR_BLOCK = 2, 4
"""Pixels a side of the places of their grids, at least; more where all planes are measured: there are more of them."""

PIECE = (16, 64, 64)
"""Shape of the pieces of volumes that networks are fitted to, at most."""

LARGE_PIECE = (32, 128, 128)
"""Shape of the pieces that errors are calibrated with, at most. At its ends a network sees less than elsewhere, and a
small piece has more of these than a stack."""

VAE_WIDTHS = {"tiny": 16, "small": 32}
"""Features of a new autoencoder at full resolution; 64 for larger networks."""

DECODERS = {
    "tiny": {"channels": 16, "groups": 2, "blocks": 2},
    "small": {"channels": 24, "groups": 3, "blocks": 3},
}
"""Sizes of the refinement decoders; for larger networks that of the class."""


def load_beginning(request: ModelRequest) -> Model | None:
    """The networks that a stage begins with."""
    from tensorcell.diffusion_guidance.microdiffuse3d import load_model

    return None if request.weights is None else load_model(request.weights)


def acquisition_of(request: ModelRequest, volumes: Volumes, began: Model | None) -> Degradation:
    """The acquisition that the flags state, or that of the networks to begin with where they state none."""
    from tensorcell.diffusion_guidance.microdiffuse3d import Degradation
    from tensorcell.diffusion_guidance.microdiffuse3d.data import ratio_of

    factor = request.axial_factor
    if volumes.low:
        shapes = [(volume.shape, scan.shape) for volume, scan in zip(volumes.high, volumes.low, strict=True)]
        factor = ratio_of(shapes, None if request.axial_factor == 1 else request.axial_factor)
    psf = psf_in_voxels(request.psf_fwhm, volumes.spacing, volumes.high[0].shape) or (0.0, 0.0, 0.0)
    stated = Degradation(
        axial_factor=factor, lateral_factor=request.lateral_factor, psf=(psf[0], psf[1], psf[2]),
        photons=math.inf if request.photons is None else request.photons, read_noise=request.read_noise,
        attenuation=math.inf if request.attenuation is None else request.attenuation, widening=request.widening,
        kernel=point_spread_of(request, volumes),
    )  # fmt: skip
    return began.acquisition if began is not None and stated == Degradation() else stated


def seconds_of(request: ModelRequest) -> float | None:
    """The time that is given to all stages; None where their steps are counted."""
    if request.steps is not None:
        return None
    return 60 * prior_training.minutes_of(request, MINUTES)


class Run:
    """The stages of one command, which share volumes, budget, progress and the table of losses."""

    def __init__(
        self, request: ModelRequest, volumes: Volumes, acquisition: Degradation, began: Model | None, bar: ProgressBar
    ) -> None:
        from tensorcell.diffusion_guidance.compute import process

        self.request, self.volumes, self.acquisition, self.began, self.bar = request, volumes, acquisition, began, bar
        self.reports: dict[str, dict[str, Any]] = {}
        self.encoder: Any = None
        self.clock = time.perf_counter()
        self.seconds = seconds_of(request)
        if volumes.low and request.psf_fwhm is None and self.acquisition.kernel is None and request.stage != "pretrain":
            self.acquisition = self.with_fitted_psf()
        self.writes = process().number == 0
        if self.writes and not request.resume:
            (request.state / LOSSES).write_text("stage,step,loss,heldout\n", encoding="utf-8")

    def result(self) -> tuple[Any, Callable[[Path], None]]:
        """What the command fits, and the function that writes it to a folder."""
        from tensorcell.diffusion_guidance.baselines.fitting import save_baseline
        from tensorcell.diffusion_guidance.microdiffuse3d import save_model

        if self.request.kind != "microdiffuse3d":
            baseline = self.baseline()
            return baseline, lambda folder: save_baseline(baseline, folder)
        if self.request.stage == "vae":
            autoencoder = self.vae()
            return autoencoder, autoencoder.save
        model = self.model()
        return model, lambda folder: save_model(model, folder)

    def baseline(self) -> Any:
        """A network that MicroDiffuse3D is compared with."""
        from tensorcell.diffusion_guidance.baselines import BASELINES
        from tensorcell.diffusion_guidance.baselines.fitting import FittedBaseline, fit_baseline

        kind, data = self.request.kind, self.data(masks=False)
        network = self.fitted(
            "pretrain",
            lambda budget: fit_baseline(data, kind, self.acquisition, batch=self.request.batch, **budget),
            share=1.0,
        )
        return FittedBaseline(name=kind, width=BASELINES[kind].width, network=network, acquisition=self.acquisition)

    def vae(self) -> SliceAutoencoder:
        """The autoencoder: the one given, or a new one that is fitted."""
        from tensorcell.diffusion_guidance.microdiffuse3d import SliceAutoencoder, fit_autoencoder
        from tensorcell.diffusion_guidance.networks import channels_last

        request = self.request
        if self.began is not None:
            return self.began.parts.autoencoder
        if request.vae is not None:
            return SliceAutoencoder.load(request.vae)
        done = request.state / "vae" / "done"
        if done.is_dir():
            return channels_last(SliceAutoencoder.load(done))
        scale = self.config().latent_scale
        side = min(PIECE[1], *(min(volume.shape[1:]) // scale * scale for volume in self.volumes.high))
        new = SliceAutoencoder.new(scale=scale, width=VAE_WIDTHS.get(request.size, 64), seed=request.seed)
        fitted: SliceAutoencoder = self.fitted(
            "vae", lambda budget: fit_autoencoder(self.volumes.high, new, side=side, **budget)
        )
        if self.writes:
            prior_training.write_folder(fitted.save, done)
        return fitted

    def model(self) -> Model:
        """The networks, calibrated."""
        from tensorcell.diffusion_guidance.microdiffuse3d import Model, Parts, Sampling, calibrated_model

        self.check_ratios()
        autoencoder, request, data = self.vae(), self.request, self.data()
        estimate = self.first_estimate(data)
        network = self.network(data, autoencoder, estimate)
        decoder = None if self.began is None else self.began.parts.decoder
        if request.stage in ("all", "decoder"):
            decoder = self.decoder(data, autoencoder, network, estimate)
        parts = Parts(network, autoencoder, decoder, self.objective, estimate)
        model = Model(parts=parts, acquisition=self.acquisition, images=self.images())
        if not self.writes:
            return model
        data, sampling = self.calibration_data(), SAMPLING or Sampling()
        if request.stage == "distil":
            sampling = replace(sampling, steps=DISTILLED_STEPS)
        seconds = math.inf if self.seconds is None else CALIBRATION * self.seconds
        return calibrated_model(
            model, data, sampling, seed=request.seed, examples=EXAMPLES, seconds=seconds, without=self.without_networks
        )

    def without_networks(self, planes: Any) -> Any:
        """What ``recover`` returns of measured planes where the networks are not used; None where it cannot."""
        from tensorcell.recovery import recover

        try:
            return recover(
                planes, axial_factor=self.acquisition.axial_factor, lateral_factor=self.acquisition.lateral_factor,
                seed=self.request.seed,
            ).volume.data  # fmt: skip
        except InputError:
            return None

    def with_fitted_psf(self) -> Degradation:
        """The acquisition with the PSF that explains the pairs."""
        import torch

        from tensorcell.diffusion_guidance.microdiffuse3d.consistency import with_fitted_psf

        source, generator = self.data(masks=False).train, torch.Generator().manual_seed(self.request.seed)
        found = with_fitted_psf(self.acquisition, [source(1, generator) for _ in range(PSF_EXAMPLES)])
        if not self.request.quiet:
            widths = ", ".join(f"{width:.2f}" for width in found.psf)
            print(f"{self.request.out}: the pairs differ by a PSF of widths {widths} voxels (z, y, x)", file=sys.stderr)
        return found

    def check_ratios(self) -> None:
        """Raise `InputError` where the networks to begin with do not know the ratio of planes."""
        from tensorcell.diffusion_guidance.microdiffuse3d.restoration import known_factors

        known = self.config().depth_ratios if self.began is None else known_factors(self.began.parts)
        factor = self.acquisition.axial_factor
        wanted = {factor, 1} if self.request.masked else {factor}
        if not wanted <= set(known):
            raise InputError(
                f"expected an axial factor among {', '.join(map(str, known))}, which {self.request.weights} knows, got "
                f"{factor}{' and masks (1)' if self.request.masked else ''}"
            )

    def units(self) -> tuple[int, int]:
        """What depth and sides of a piece are multiples of."""
        own = 1 if self.request.kind != "microdiffuse3d" else self.config().stride
        return self.acquisition.axial_factor, math.lcm(own, self.acquisition.lateral_factor)

    def config(self) -> Any:
        """Sizes of the network, with heads for the ratios that it is to know."""
        from tensorcell.diffusion_guidance.microdiffuse3d import MicroDiffuse3DConfig

        if self.began is not None:
            return self.began.parts.network.config
        named = MicroDiffuse3DConfig.named(self.request.size)
        ratios, images = tuple(sorted({1, self.acquisition.axial_factor})), self.images()
        features = 0 if images is None else images.features
        aligned = 0 if images is None else max(1, named.blocks // 3)
        return replace(
            named, depth_ratios=ratios, image_features=features, aligned_block=aligned, aligned_features=features
        )

    def images(self) -> Any:
        """The frozen image encoder, if one was given."""
        from tensorcell.diffusion_guidance.microdiffuse3d import ImageEncoder

        if self.request.images is not None and self.encoder is None:
            self.encoder = ImageEncoder.load(self.request.images)
        return self.encoder

    def calibration_data(self) -> Any:
        """Examples without masks; the held-out ones are larger where whole volumes were held out."""
        from tensorcell.diffusion_guidance.microdiffuse3d.data import HELD_OUT

        data = self.data(masks=False)
        if len(self.volumes.high) < HELD_OUT:
            return data
        return data._replace(held=self.data(masks=False, most=LARGE_PIECE).held)

    def data(self, *, masks: bool = True, most: tuple[int, int, int] | None = None) -> Any:
        """Examples: pairs where there are scans, what the acquisition makes of the volumes otherwise."""
        from tensorcell.diffusion_guidance.microdiffuse3d import masked, mixed, paired, simulated

        piece, volumes, share = self.piece(most or PIECE), self.volumes, self.request.masked
        if volumes.low and self.request.stage != "pretrain":
            data = paired(volumes.low, volumes.high, piece, self.acquisition.axial_factor)
        else:
            data = simulated(volumes.high, self.acquisition, piece)
        if share and masks:
            data = mixed([(data, 1 - share), (masked(volumes.high, piece, self.config().stride), share)])
        return data

    def piece(self, most: tuple[int, int, int]) -> tuple[int, int, int]:
        """The largest piece up to this one that all volumes hold and the networks can take."""
        shapes = [volume.shape for volume in self.volumes.high]
        axial, lateral = self.units()
        found = []
        for axis, (wanted, unit) in enumerate(zip(most, (axial, lateral, lateral), strict=True)):
            smallest = min(shape[axis] for shape in shapes)
            size = min(max(wanted, unit), smallest) // unit * unit
            if size == 0:
                raise InputError(
                    f"expected volumes of at least {unit} voxels along {'zyx'[axis]}, which the acquisition and the "
                    f"network need, got {smallest}"
                )
            found.append(size)
        return found[0], found[1], found[2]

    def first_estimate(self, data: Any) -> Any:
        """The first estimate, fitted where the stage is one of its own; None for networks that do without."""
        from tensorcell.diffusion_guidance.microdiffuse3d import FirstEstimate, fit_first_estimate

        if not self.has_estimate:
            return None
        request = self.request
        sizes, acquisition = ESTIMATES.get(request.size, ESTIMATES["small"]), self.acquisition
        block = max(PLANAR_BLOCK if acquisition.axial_factor == 1 else BLOCK, acquisition.lateral_factor)
        new: Any = (
            self.seeded(lambda: FirstEstimate(axial_factor=acquisition.axial_factor, block=block, **sizes))
            if self.began is None
            else self.began.parts.estimate
        )
        if request.stage not in ("all", "finetune"):
            return new
        return self.fitted_or_done(
            "estimate", new, lambda budget: fit_first_estimate(data, new, batch=request.batch, **budget)
        )

    @property
    def has_estimate(self) -> bool:
        """Whether a first estimate is fitted or was: networks that are shown masked blocks do without."""
        if self.began is not None:
            return self.began.parts.estimate is not None
        return self.request.stage == "all" and self.request.first_estimate and not self.request.masked

    def network(self, data: Any, autoencoder: SliceAutoencoder, estimate: Any) -> Any:
        """The network, fitted where the stage is one of its own."""
        from tensorcell.diffusion_guidance.microdiffuse3d import MicroDiffuse3D, fit_few_steps, fit_network

        told: dict[str, Any] = {"estimate": estimate, "batch": self.request.batch}
        if self.request.stage == "decoder" and self.began is not None:
            return self.began.parts.network
        if self.request.stage == "distil" and self.began is not None:
            teacher = self.began.parts.network
            return self.fitted_or_done(
                "distil",
                MicroDiffuse3D(teacher.config),
                lambda budget: fit_few_steps(data, teacher, autoencoder, **told, **budget),
            )
        new = MicroDiffuse3D.new(self.config(), seed=self.request.seed)
        if self.began is not None:
            new = self.began.parts.network
        told |= {"images": self.images(), "objective": self.objective}
        new.transformer.recomputed = self.request.recompute
        stage = "finetune" if self.request.stage == "finetune" else "pretrain"
        return self.fitted_or_done(stage, new, lambda budget: fit_network(data, new, autoencoder, **told, **budget))

    def decoder(self, data: Any, autoencoder: SliceAutoencoder, network: Any, estimate: Any) -> Any:
        """The refinement decoder, fitted."""
        from tensorcell.diffusion_guidance.microdiffuse3d import RefinementDecoder, fit_decoder

        if self.began is not None and self.began.parts.decoder is not None:
            new = self.began.parts.decoder
        else:
            sizes = DECODERS.get(self.request.size, {})
            latent = {"latent_channels": autoencoder.channels, "latent_scale": autoencoder.scale}
            residual = estimate is not None
            new = self.seeded(lambda: RefinementDecoder(**latent, **sizes, residual=residual))
        told: dict[str, Any] = {"estimate": estimate, "batch": self.request.batch}
        if self.objective == "flow":
            told |= {"network": network}
        return self.fitted_or_done("decoder", new, lambda budget: fit_decoder(data, new, autoencoder, **told, **budget))

    @property
    def objective(self) -> Any:
        """That of the networks to begin with, or the one asked for."""
        return self.request.objective if self.began is None else self.began.parts.objective

    def seeded(self, make: Callable[[], Any]) -> Any:
        """A new network with weights from the seed; torch's global generator is left as it is."""
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.request.seed)
            return make()

    @property
    def shares(self) -> dict[str, float]:
        """Shares of the time that the stages of this command get; those that are not named get all."""
        if self.request.stage == "all":
            return SHARES if self.has_estimate else WITHOUT_ESTIMATE
        return FINETUNED if self.request.stage == "finetune" and self.has_estimate else {}

    @staticmethod
    def network_of(result: Any) -> Any:
        """The network of a result: of a model, a baseline, or the autoencoder."""
        return result.parts.network if hasattr(result, "parts") else getattr(result, "network", result)

    def fitted_or_done(self, stage: str, network: Any, fit: Callable[[dict[str, Any]], Any]) -> Any:
        """The fitted network; one that an interrupted command had finished is read."""
        from tensorcell.diffusion_guidance.networks import channels_last
        from tensorcell.diffusion_guidance.priors import fill_network, read_safetensors, write_weights

        done = self.request.state / stage / "done" / "weights.safetensors"
        if done.is_file():
            fill_network(channels_last(network), read_safetensors(done), str(done))
            return network.eval()
        fitted = self.fitted(stage, fit)
        if not self.writes:
            return fitted
        done.parent.mkdir(parents=True, exist_ok=True)
        write_weights(fitted.state_dict(), done)
        return fitted

    def fitted(self, stage: str, fit: Callable[[dict[str, Any]], Any], share: float | None = None) -> Any:
        """One stage within its share of the budget; its losses go to the table."""
        from tensorcell.diffusion_guidance.compute import Compute

        request, folder = self.request, self.request.state / stage
        going_on = request.resume and (folder / "training_state.json").is_file()
        if share is None:
            share = self.shares.get(stage, 1.0)
        done = resumed_at(folder) if going_on else 0
        with LossTable(request.state / LOSSES, stage, done) if self.writes else nullcontext() as table:

            def progress(step: int, steps: int, loss: float, heldout: float) -> None:
                if table is not None:
                    table.add(step, loss, heldout)
                record = IterationRecord(
                    iteration=step, stage=stage, change=math.nan, residual=loss, outliers=0, threshold=0.0,
                    seconds=time.perf_counter() - self.clock,
                )  # fmt: skip
                self.bar.update(record, Stage(step, steps))

            found = fit(
                {
                    "steps": request.steps, "seconds": None if self.seconds is None else share * self.seconds,
                    "compute": Compute.named(request.device, request.precision), "seed": request.seed,
                    "resume": folder if going_on else None, "keep": folder, "progress": progress,
                }
            )  # fmt: skip
        self.reports[stage] = found.report
        if "not finite" in found.report["ended"]:
            print(f"tensorcell: {request.out}: {stage}: {found.report['ended']}", file=sys.stderr)
        return found.network
