"""``method="auto"``: the global model or groups of patches, whichever has the smaller error at left-out voxels."""

from __future__ import annotations

from dataclasses import replace

from tensorcell.methods.local import METHOD as LOCAL
from tensorcell.methods.local import from_patches, needs_trial
from tensorcell.methods.patches import Correct
from tensorcell.methods.protocol import Estimate, Problem
from tensorcell.methods.trial import global_trial, patch_trial
from tensorcell.methods.tucker import from_global_model, global_estimate, was_stopped
from tensorcell.solvers import LocalOptions


def estimate(problem: Problem) -> Estimate:
    """The better of two estimates where measured voxels are kept; groups of patches where they are denoised."""
    return better_estimate(problem, None)


def better_estimate(problem: Problem, correct: Correct | None) -> Estimate:
    """The same as :func:`estimate`; ``correct`` improves the voxels that groups of patches denoised."""
    start = global_estimate(problem)
    if was_stopped(problem):
        return from_global_model(problem, start, None)
    trial = global_trial(problem) if needs_trial(problem) else None
    if trial is None:
        return from_patches(problem, start, None, correct)
    patches = patch_trial(trial, problem.option(LocalOptions), problem.fitting.seed)
    if not problem.keep:
        return from_patches(problem, start, patches, correct)
    better = patches.error < trial.error
    note = (
        f"method {'local' if better else 'tucker'}: at {len(patches.errors)} left-out measured voxels the error of the "
        f"groups of patches is {problem.unit.width(patches.error):.4g}, of the global model "
        f"{problem.unit.width(trial.error):.4g}"
    )
    if better:
        found = from_patches(problem, start, patches, correct)
    else:
        found = from_global_model(problem, start, trial)
    return found._replace(notes=(note, *found.notes))


METHOD = replace(
    LOCAL,
    name="auto",
    summary="Fills gaps by tucker or local, whichever predicts left-out voxels better, and denoises by local.",
    estimate=estimate,
)
