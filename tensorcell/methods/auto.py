"""``method="auto"``: the global model or groups of patches, whichever has the smaller error at left-out voxels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tensorcell.methods.frames import started
from tensorcell.methods.local import METHOD as LOCAL
from tensorcell.methods.local import from_patches
from tensorcell.methods.patches import Correct
from tensorcell.methods.protocol import Estimate, Problem
from tensorcell.methods.trial import patch_trial
from tensorcell.methods.tucker import from_global_model
from tensorcell.solvers import LocalOptions


def estimate(problem: Problem) -> Estimate:
    """The better of two estimates where measured voxels are kept; groups of patches where they are denoised."""
    return better_estimate(problem, None)


def better_estimate(problem: Problem, correct: Correct | None) -> Estimate:
    """The same as :func:`estimate`; ``correct`` improves the voxels that groups of patches denoised."""
    (found,), _ = better_estimates([problem], correct)
    return found


def better_estimates(problems: Sequence[Problem], correct: Correct | None = None) -> tuple[list[Estimate], list[str]]:
    """The same for the frames of a series, and notes on all of them."""
    frames = started(problems)
    if frames.stopped:
        return [from_global_model(one, start, None) for one, start in zip(problems, frames.starts, strict=True)], []
    trial = frames.trial()
    if trial is None:
        return from_patches(frames, None, correct), frames.notes
    first = problems[0]
    patches = patch_trial(trial, first.option(LocalOptions), first.fitting.seed)
    if not first.keep:
        return from_patches(frames, patches, correct), frames.notes
    better = patches.error < trial.error
    note = (
        f"method {'local' if better else 'tucker'}: at {len(patches.errors)} left-out measured voxels the error of the "
        f"groups of patches is {first.unit.width(patches.error):.4g}, of the global model "
        f"{first.unit.width(trial.error):.4g}"
    )
    if better:
        found = from_patches(frames, patches, correct)
    else:
        found = [from_global_model(one, start, trial) for one, start in zip(problems, frames.starts, strict=True)]
    return [one._replace(notes=(note, *one.notes)) for one in found], frames.notes


METHOD = replace(
    LOCAL,
    name="auto",
    summary="Fills gaps by tucker or local, whichever predicts left-out voxels better, and denoises by local.",
    estimate=estimate,
    together=better_estimates,
)
