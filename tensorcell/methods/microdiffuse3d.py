"""``method="microdiffuse3d"``: resolution, planes and noise restored together by networks that were fitted to others.

The measured planes are estimated as by ``"auto"``. Then the networks restore the whole stack, and their result is
compared with the measurement: where the two contradict each other more than at the examples that were held out of the
fits, the scan is not of the kind that the networks know, and the estimate of ``"auto"`` is returned. All code that
needs torch is in `tensorcell.diffusion_guidance.microdiffuse3d`, which is imported only when a stack needs it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

from tensorcell.diffusion_guidance.options import MicroDiffuse3DOptions
from tensorcell.errors import InputError
from tensorcell.methods.auto import METHOD as AUTO
from tensorcell.methods.diffusion import LARGEST_SEED
from tensorcell.methods.networks import computing, networks_on
from tensorcell.methods.protocol import Filled, Options, Problem, Restoration, Scan, Stage
from tensorcell.solvers import IterationRecord

AUTO_INSTEAD = 'the result of method "auto" is returned'

FOREIGN = 2.0
"""A scan whose misfit is so many times that of held-out examples is not of their kind."""


@dataclass(frozen=True, kw_only=True)
class PreparedOptions(MicroDiffuse3DOptions):
    """The options with the networks read, and numbers of samples and steps."""

    model: Any = field(default=None)
    compute: Any = field(default=None)
    """Where they are computed."""
    notes: tuple[str, ...] = ()


def prepare(options: Options, seed: int, device: str) -> Options:
    """Read the networks, and check where they are computed."""
    from tensorcell.diffusion_guidance.microdiffuse3d import Sampling, load_model

    if seed > LARGEST_SEED:
        raise InputError(f"expected a seed below 2**32 for method microdiffuse3d, got {seed}")
    given = options[MicroDiffuse3DOptions]
    try:
        model = load_model(given.weights)
        model, notes = with_images(model, given.images)
    except (ValueError, OSError) as error:
        raise InputError(str(error)) from None
    usual = model.held_out or Sampling()
    found = {name: getattr(given, name) or getattr(usual, name) for name in ("samples", "steps")}
    compute, said = networks_on(device, given.precision)
    prepared = PreparedOptions(**{**vars(given), **found}, model=model, compute=compute, notes=(*notes, *said))
    return {**options, MicroDiffuse3DOptions: prepared}


def with_images(model: Any, folder: Any) -> tuple[Any, tuple[str, ...]]:
    """The model with the image encoder that it was fitted with, or a note where that is not given."""
    from tensorcell.diffusion_guidance.microdiffuse3d import ImageEncoder

    wanted = model.parts.network.config.image_features
    if folder is None:
        if not wanted:
            return model, ()
        return model, (
            f"microdiffuse3d: the weights were fitted with an image encoder of {wanted} features; give its folder as "
            "images=PATH to use it, too",
        )
    images = ImageEncoder.load(folder)
    if images.features != wanted:
        raise ValueError(f"{folder}: expected an image encoder of {wanted} features, got {images.features}")
    return replace(model, images=images), ()


def check_factors(options: Options, axial_factor: Fraction, lateral_factor: int) -> None:
    """Raise `InputError` unless the networks were fitted to scans of these factors."""
    acquisition = options[MicroDiffuse3DOptions].model.acquisition
    wanted = acquisition.axial_factor, acquisition.lateral_factor
    if (axial_factor, lateral_factor) != wanted:
        raise InputError(
            f"expected axial factor {wanted[0]} and lateral factor {wanted[1]}, which the weights were fitted to, "
            f"got {axial_factor} and {lateral_factor}"
        )


def restore(scan: Scan) -> Restoration:
    """The restored stack, or None where the scan is not of the kind that the networks were fitted to."""
    from tensorcell.diffusion_guidance.fill_stack import settled
    from tensorcell.diffusion_guidance.microdiffuse3d import Sampling, restore_scan, strangeness
    from tensorcell.diffusion_guidance.microdiffuse3d.likeness import FAR

    problem = scan.problem
    options: Any = problem.option(MicroDiffuse3DOptions)
    model = options.model
    strange = strangeness(scan.measured, model)
    if strange > FAR and not options.accept_foreign:
        return Restoration(None, (foreign_note(strange, FAR),))
    compute = computing(problem, options.compute)
    sampling = Sampling(
        samples=options.samples, steps=options.steps, consistent="data" in options.guidance,
        low_rank="tucker" in options.guidance, side=options.tile,
    )  # fmt: skip
    try:
        with settled(compute):
            found = restore_scan(
                scan.measured, model.on(compute), sampling, variance=scan.variance, seed=problem.fitting.seed,
                report=report_of(problem),
            )  # fmt: skip
    except ValueError as error:
        raise InputError(str(error)) from None
    if found.stopped:
        return Restoration(None, (f"microdiffuse3d: stopped before a sample was drawn; {AUTO_INSTEAD}",))
    notes, foreign = judged(found.misfit, model.held_out, options)
    if foreign:
        return Restoration(None, notes)
    how = f"microdiffuse3d: the result is the mean of {options.samples} samples of {options.steps} steps each"
    if found.side < options.tile:
        notes = (
            *notes,
            f"microdiffuse3d: out of memory; tiles of {found.side} pixels were used in place of {options.tile}",
        )
    samples = found.samples if options.keep_samples else None
    return Restoration(
        Filled(found.volume, found.error, (), samples), (how, *options.notes, *notes), model.acquisition.only_planes
    )


def foreign_note(strange: float, allowed: float) -> str:
    """Why a scan that does not look like the others is not restored."""
    return (
        "microdiffuse3d was not used: the scan does not look like those that the weights were fitted to (half of its "
        f"pieces differ from theirs more than {strange:.1f} times as much as 99 of 100 of theirs do, up to {allowed:g} "
        f"times is accepted); {AUTO_INSTEAD} (accept_foreign=True restores it all the same)"
    )


def judged(misfit: float, held_out: Any, options: Any) -> tuple[tuple[str, ...], bool]:
    """Notes on how far a restored stack is to be believed, and whether it is not."""
    if held_out is None:
        return (
            "microdiffuse3d: the weights come without errors at examples held out of their fit: the uncertainty is the "
            "spread of the samples, which does not show errors that all of them share (beyond noise they differ from "
            f"the measurement by {misfit:.1%} of its standard deviation)",
        ), False
    if held_out.excess(misfit) > FOREIGN:
        return (
            f"microdiffuse3d was not used: what it restores differs from the measurement by {misfit:.1%} of its "
            f"standard deviation beyond noise, at examples like those it was fitted to by {held_out.misfit:.1%} at "
            f"most; {AUTO_INSTEAD}",
        ), True
    ratio, other = compared(held_out)
    if ratio >= 1:
        return (
            f"microdiffuse3d was not used: at examples that were held out of its fit it had {ratio:.2f} times the "
            f"error of {other}; {AUTO_INSTEAD} (fit the weights longer, or to more volumes)",
        ), True
    notes = [
        f"microdiffuse3d: restored examples that were held out of the fit had {ratio:.2f} times the error of {other}; "
        "the uncertainty is calibrated on them, and holds for stacks of the same kind only"
    ]
    if (options.samples, options.steps) != (held_out.samples, held_out.steps):
        notes.append(
            f"microdiffuse3d: the uncertainty was calibrated for {held_out.samples} samples of {held_out.steps} steps; "
            "for other numbers it is that of one such sample, which is larger and the same for all voxels of one "
            "brightness"
        )
    return tuple(notes), False


def compared(held_out: Any) -> tuple[float, str]:
    """Error at held-out examples as a multiple of that of the best that does without networks, and what that is."""
    if held_out.without < held_out.interpolation:
        return held_out.error / held_out.without, "auto"
    return held_out.error / held_out.interpolation, "linear interpolation"


def report_of(problem: Problem) -> Callable[[int, int], bool]:
    """Progress of the sampler for the callback, as records of a further stage."""
    callback, history = problem.fitting.callback, problem.model.fit.history
    before, began = history[-1].iteration if history else 0, time.perf_counter()

    def report(step: int, steps: int) -> bool:
        if callback is None:
            return False
        record = IterationRecord(
            iteration=before + step, stage="restoring", change=math.nan, residual=math.nan, outliers=0, threshold=0.0,
            seconds=time.perf_counter() - began,
        )  # fmt: skip
        return bool(callback(record, Stage(step, steps)))

    return report


METHOD = replace(
    AUTO,
    name="microdiffuse3d",
    summary="Restores resolution, planes and noise by networks fitted to volumes of the same kind (--weights).",
    options=(*AUTO.options, MicroDiffuse3DOptions),
    restore=restore,
    needs=("torch", "safetensors", "diffusers"),
    extra="diffusion",
    prepare=prepare,
    accepts=check_factors,
    stages={**AUTO.stages, "restoring": "restoring"},
)
