"""``method="tucker"``: the global model, with its residual interpolated between neighbours."""

from __future__ import annotations

from tensorcell.device import on_device
from tensorcell.fitting import TuckerOptions
from tensorcell.methods.errors import errors_of
from tensorcell.methods.kriging import between_by_kriging
from tensorcell.methods.protocol import Estimate, Method, Problem
from tensorcell.methods.trial import GlobalTrial, global_trial
from tensorcell.solvers import Status
from tensorcell.solvers.arrays import to_host
from tensorcell.solvers.residual_kriging import NeighbourEstimate, estimate_with_neighbours

UNJUDGED = (
    "too few voxels were measured to judge the model by voxels left out; where none was measured it may be far off "
    '(method="auto" fills such gaps smoothly)'
)


def estimate(problem: Problem) -> Estimate:
    """The global estimate; its errors in gaps come from measured voxels that were left out."""
    trial = None
    if problem.has_gaps and not was_stopped(problem):
        trial = problem.settled.once("errors of the global model", lambda: global_trial(problem))
    found = from_global_model(problem, global_estimate(problem), trial)
    unjudged = trial is None and problem.needs_trial and not was_stopped(problem)
    return found._replace(notes=(UNJUDGED, *found.notes)) if unjudged else found


def was_stopped(problem: Problem) -> bool:
    """Whether the callback ended the global fit; no later stage is run then."""
    return problem.model.fit.status is Status.STOPPED


def global_estimate(problem: Problem) -> NeighbourEstimate:
    """The model plus what neighbours share of its residual; computed on the device, and returned on the host."""
    values, inlier = (
        on_device(array, problem.fitting.device) for array in (problem.stack.values, problem.model.inlier)
    )
    found = estimate_with_neighbours(
        values, inlier, problem.model.fit, noise=problem.model.noise.sigma, keep=problem.keep,
        neighbours=bool(problem.option(TuckerOptions).neighbours),
    )  # fmt: skip
    return found._replace(value=to_host(found.value), intensity=to_host(found.intensity))


def from_global_model(problem: Problem, start: NeighbourEstimate, trial: GlobalTrial | None) -> Estimate:
    """The global estimate as the result of a method."""
    fit = problem.model.fit
    gap = (lambda planes: trial.uncertainty(start.value[planes])) if trial is not None and trial.telling else None
    error = errors_of(problem, start, start.value, gap=gap)
    notes = error.notes
    if fit.status in (Status.MAX_ITERATIONS, Status.DIVERGED):
        notes = (f"the fit {fit.status}", *notes)
    return Estimate(start.value, error.value, fit.status, fit.history, notes)


METHOD = Method(
    name="tucker",
    summary="Fits one global robust Tucker model, and interpolates its residual between neighbours.",
    options=(TuckerOptions,),
    estimate=estimate,
    between=between_by_kriging,
)
