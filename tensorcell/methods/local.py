"""``method="local"``: groups of similar patches, each shrunk as a small Tucker tensor, refine the global model."""

from __future__ import annotations

import numpy as np

from tensorcell.fitting import TuckerOptions
from tensorcell.methods.errors import errors_of
from tensorcell.methods.kriging import between_by_kriging
from tensorcell.methods.patches import Correct, complete_by_patches, denoise_by_patches
from tensorcell.methods.protocol import Estimate, Method, Problem
from tensorcell.methods.trial import PatchTrial, global_trial, patch_trial
from tensorcell.methods.tucker import from_global_model, global_estimate, was_stopped
from tensorcell.solvers import LocalOptions, Status
from tensorcell.solvers.residual_kriging import NeighbourEstimate


def estimate(problem: Problem) -> Estimate:
    """The estimate by groups of patches; its errors in gaps come from measured voxels that were left out."""
    start = global_estimate(problem)
    if was_stopped(problem):
        return from_global_model(problem, start, None)
    trial = global_trial(problem) if needs_trial(problem) else None
    patches = None
    if trial is not None:
        patches = patch_trial(trial, problem.option(LocalOptions), problem.fitting.seed)
    return from_patches(problem, start, patches)


def needs_trial(problem: Problem) -> bool:
    """Whether there are so many gaps that voxels are left out to learn their errors, and which method fills them."""
    return problem.has_gaps and not problem.has_few_gaps


def needs_sweeps(problem: Problem) -> bool:
    """Whether there are gaps that groups of patches are to complete: denoising takes care of few ones."""
    return problem.has_gaps and (problem.keep or not problem.has_few_gaps)


def from_patches(
    problem: Problem, start: NeighbourEstimate, trial: PatchTrial | None, correct: Correct | None = None
) -> Estimate:
    """The estimate by groups of patches, which start from the global estimate.

    Gaps are completed first, in the data's unit; then measured voxels that need not be kept are denoised. ``correct``,
    where given, improves the denoised stack.
    """
    values, inlier, noise = problem.stack.values, problem.model.inlier, problem.model.noise
    options, fitting = problem.option(LocalOptions), problem.fitting
    notes = list(_thin(problem, options))
    denoised = None
    best, history, status, spread = start.value, problem.model.fit.history, Status.COMPLETED, np.zeros_like(values)
    if needs_sweeps(problem) and (trial is None or trial.levels):
        levels = None if trial is None else trial.levels
        completed = complete_by_patches(
            values, inlier, start.value, noise.sigma, levels=levels, options=options, seed=fitting.seed,
            callback=fitting.callback, history=history,
        )  # fmt: skip
        best, spread = completed.value.astype(values.dtype), completed.spread
        history, status = completed.history, completed.status
    samples = None
    if not problem.keep and noise.sigma > 0 and status is not Status.STOPPED:
        whole = np.where(inlier, values, best) if problem.has_gaps else values
        found = denoise_by_patches(whole, inlier, noise, options, fitting.seed, correct)
        best, denoised, samples = found.value, found.error, found.samples
        shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in found.weights.items() if share > 0.005)
        notes.append(
            f"measured voxels were denoised by groups of similar patches at a noise of "
            f"{problem.unit.width(noise.sigma):.4g}; the shares of the filters are {shares}"
        )
        notes.extend(found.notes)
    if problem.keep:
        np.copyto(best, values, where=inlier)
    gap = None if trial is None else lambda value: trial.uncertainty(spread, value)
    error = errors_of(problem, start, best, gap=gap, denoised=denoised)
    return Estimate(best, error.value, status, history, (*notes, *error.notes), samples)


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
    between=between_by_kriging,
    stages={"local": "groups of patches"},
)
