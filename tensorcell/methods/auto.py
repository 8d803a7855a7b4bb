"""``method="auto"``: the global model, or groups of patches mixed with it and with a smooth fill.

Whichever has the smaller error at left-out voxels is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from tensorcell.methods.frames import Frames, estimated_in_runs
from tensorcell.methods.local import METHOD as LOCAL
from tensorcell.methods.local import from_global_models, from_patches
from tensorcell.methods.patches import Correct
from tensorcell.methods.protocol import Estimate, Problem
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
    return estimated_in_runs(problems, partial(better_of_run, correct=correct))


def better_of_run(frames: Frames, correct: Correct | None) -> list[Estimate]:
    """The same for frames that show the same specimen."""
    if frames.stopped:
        return from_global_models(frames, None)
    first = frames.problems[0]
    trials = frames.trials(first.option(LocalOptions))
    if trials is None:
        return from_patches(frames, None, correct)
    trial, patches = trials
    if trial is None or not first.keep:
        return from_patches(frames, patches, correct)
    better = patches.error < trial.error
    mixed = "" if patches.blend is None else ", mixed with other estimates,"
    note = (
        f"method {'local' if better else 'tucker'}: at {len(patches.errors)} left-out measured voxels the error of the "
        f"groups of patches{mixed} is {first.unit.width(patches.error):.4g}, of the global model "
        f"{first.unit.width(trial.error):.4g}"
    )
    found = from_patches(frames, patches, correct) if better else from_global_models(frames, trial)
    return [one._replace(notes=(note, *one.notes)) for one in found]


METHOD = replace(
    LOCAL,
    name="auto",
    summary="Fills gaps by tucker or local, whichever predicts left-out voxels better, and denoises by local.",
    estimate=estimate,
    together=better_estimates,
)
