"""``method="local"``: groups of similar patches, each shrunk as a small Tucker tensor, refine the global model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorcell.fitting import TuckerOptions
from tensorcell.methods.denoised_planes import between_denoised
from tensorcell.methods.errors import OwnErrors, errors_of, own_errors_once
from tensorcell.methods.few import TOO_FEW
from tensorcell.methods.frames import Frames, estimated_in_runs, joined, separate
from tensorcell.methods.patches import Correct, complete_by_patches, denoise_by_patches
from tensorcell.methods.protocol import Estimate, Method, Problem
from tensorcell.methods.trial import GlobalTrial, PatchTrial
from tensorcell.methods.tucker import from_global_model
from tensorcell.solvers import LocalOptions, Status
from tensorcell.solvers.residual_kriging import NeighbourEstimate

Array = npt.NDArray[Any]


def estimate(problem: Problem) -> Estimate:
    """The estimate by groups of patches; its errors in gaps come from measured voxels that were left out."""
    (found,), _ = estimates([problem])
    return found


def estimates(problems: Sequence[Problem]) -> tuple[list[Estimate], list[str]]:
    """The same for the frames of a series, whose patches are followed from frame to frame, and notes on all of them."""
    return estimated_in_runs(problems, estimates_of_run)


def estimates_of_run(frames: Frames) -> list[Estimate]:
    """The same for frames that show the same specimen."""
    if frames.stopped:
        return from_global_models(frames, None)
    trials = frames.trials(frames.problems[0].option(LocalOptions))
    return from_patches(frames, None if trials is None else trials[1])


def from_global_models(frames: Frames, trial: GlobalTrial | None) -> list[Estimate]:
    """The global estimates of all frames."""
    return [from_global_model(one, start, trial) for one, start in zip(frames.problems, frames.starts(), strict=True)]


def from_patches(frames: Frames, trial: PatchTrial | None, correct: Correct | None = None) -> list[Estimate]:
    """The estimates by groups of patches, which start from the global ones, mixed with a smooth fill where that helps.

    Gaps are completed first, in the data's unit; then measured voxels that need not be kept are denoised. ``correct``,
    where given, improves the denoised stack.
    """
    first, count, noise = frames.problems[0], len(frames.problems), frames.noise
    values, inlier, denoises = frames.values, frames.inlier, not first.keep and noise.sigma > 0
    starts: Sequence[NeighbourEstimate | None] = [None] * count
    start, sound = values, inlier
    if not denoises or not inlier.all():
        starts = known = frames.starts()
        start = joined([one.value for one in known])
        del known
    sources = None
    if trial is not None and trial.blend is not None:
        sources = trial.blend.of(values, inlier, start, first.fitting.device)
    if sources is not None:
        start, sound = sources.start, sources.sound
    options, fitting = first.option(LocalOptions), first.fitting
    notes = [*_thin(first, options), *([] if sources is None else sources.notes)]
    if trial is not None and trial.few:
        notes.append(TOO_FEW.format(first.unit.width(trial.least)))
    denoised = None
    best, history, status = start, first.model.fit.history, Status.COMPLETED
    spread = np.zeros(values.shape, values.dtype)
    if frames.needs_sweeps and (trial is None or trial.levels):
        levels = None if trial is None else trial.levels
        completed = complete_by_patches(
            values, sound, start, noise.sigma, levels=levels, options=options, seed=fitting.seed,
            callback=fitting.callback, history=history, drift=frames.drift, settled=first.settled,
            device=fitting.device,
        )  # fmt: skip
        best, spread = completed.value.astype(values.dtype, copy=False), completed.spread
        history, status = completed.history, completed.status
        del completed  # its other arrays
        if sources is not None and status is Status.COMPLETED:
            best = sources.with_patches(best)
    del sources, start
    samples = None
    own: list[OwnErrors | None] = [None] * count
    if denoises and status is not Status.STOPPED:
        if trial is None or not trial.telling:
            own = [
                own_errors_once(one, estimate) if one.has_gaps and estimate is not None else None
                for one, estimate in zip(frames.problems, starts, strict=True)
            ]
        starts = [None] * count  # that is all that the global estimates are good for
        best = values if best is values else np.where(inlier, values, best)
        found = denoise_by_patches(
            best, inlier, noise, options, fitting.seed, correct, drift=frames.drift, overwrite=best is not values,
            settled=first.settled, device=fitting.device,
        )  # fmt: skip
        best, denoised, samples = found.value, found.error, found.samples
        shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in found.weights.items() if share > 0.005)
        notes.append(
            f"measured voxels were denoised by groups of similar patches at a noise of "
            f"{first.unit.width(noise.sigma):.4g}; the shares of the filters are {shares}"
        )
        notes.extend(found.notes)
    estimates = []
    histories = [history, *(one.model.fit.history for one in frames.problems[1:])]
    errors = [None] * count if denoised is None else separate(denoised, count)
    for one, start_of_one, own_of_one, value, disagreement, told, records in zip(
        frames.problems, starts, own, separate(best, count), separate(spread, count), errors, histories, strict=True
    ):
        if one.keep:
            np.copyto(value, one.stack.values, where=one.model.inlier)
        gap = None
        if trial is not None and trial.telling:
            gap = partial(_uncertainty, trial, disagreement, value)
        error = errors_of(one, start_of_one, value, gap=gap, denoised=told, own=own_of_one)
        said = (*notes, *error.notes)
        estimates.append(Estimate(value, error.value, status, records, said, samples, weighed=denoised is not None))
    return estimates


def _uncertainty(trial: PatchTrial, spread: Array, value: Array, planes: slice) -> Array:
    """The standard deviation of the error in gaps, on a range of planes."""
    return trial.uncertainty(spread[planes], value[planes])


def _thin(problem: Problem, options: LocalOptions) -> tuple[str, ...]:
    """A note where the stack is thinner than a patch."""
    shape = problem.stack.values.shape
    if min(shape) >= max(options.sides) or problem.stack.given_planes == 1:
        return ()
    return (f"patches were cut to {min(shape)} voxels along the shortest side of {shape}",)


METHOD = Method(
    name="local",
    summary="Refines the global model by groups of similar patches, each of low rank.",
    options=(TuckerOptions, LocalOptions),
    estimate=estimate,
    together=estimates,
    between=between_denoised,
    stages={"local": "groups of patches"},
)
