"""``method="diffusion"``: improves the estimate of ``"auto"`` by a prior fitted to the stack itself.

The prior fills the planes between evenly spaced measured ones, or improves the denoised stack. All code that needs
torch is in `tensorcell.diffusion_guidance.fill_stack`, which is imported only when a stack needs it.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tensorcell.diffusion_guidance.options import DiffusionOptions
from tensorcell.errors import InputError
from tensorcell.fitting import TuckerOptions
from tensorcell.methods.auto import better_estimate
from tensorcell.methods.denoised_planes import source_of
from tensorcell.methods.kriging import filled_by_kriging
from tensorcell.methods.networks import computing, networks_on
from tensorcell.methods.patches import Corrected, Stabilised
from tensorcell.methods.protocol import Estimate, Filled, Gaps, Method, Options, Problem, Stage
from tensorcell.solvers import IterationRecord, LocalOptions, Status

if TYPE_CHECKING:
    from tensorcell.diffusion_guidance.fill_stack import DiffusionRequest

LARGEST_SEED = 2**32 - 1
"""The largest seed that torch accepts."""

NOTHING_TO_ADD = "no plane is missing and there is no noise to remove: a prior adds nothing"
BY_KRIGING = "a prior cannot fill the planes between them, which were interpolated instead (kriging)"
UNEVEN = f"the measured planes are not evenly spaced: {BY_KRIGING}"
BETWEEN = f"the measured planes are no whole number of wanted planes apart: {BY_KRIGING}"


@dataclass(frozen=True, kw_only=True)
class PreparedOptions(DiffusionOptions):
    """The options with the prior read and the cache checked."""

    name: str = field(default="")
    """The name of the given prior in the notes; empty where none was given."""
    compute: Any = field(default=None)
    """Where networks are computed."""
    notes: tuple[str, ...] = ()
    """Why not on the GPU, where the solvers run there."""


def prepare(options: Options, seed: int, device: str) -> Options:
    """Read the prior that was given, and check the cache, the seed and the device."""
    from tensorcell.diffusion_guidance.fill_stack import checked_cache, given_prior

    if seed > LARGEST_SEED:
        raise InputError(f"expected a seed below 2**32 for method diffusion, got {seed}")
    given = options[DiffusionOptions]
    try:
        prior, name = given_prior(given.prior, given.allow_pickle)
        cache = checked_cache(given.cache)
    except ValueError as error:
        raise InputError(str(error)) from None
    compute, notes = networks_on(device, given.precision)
    fields = {**vars(given), "prior": prior, "cache": cache, "name": name, "compute": compute, "notes": notes}
    return {**options, DiffusionOptions: PreparedOptions(**fields)}


def estimate(problem: Problem) -> Estimate:
    """The estimate of ``"auto"``, corrected by a prior where measured voxels are denoised."""
    found = better_estimate(problem, lambda denoised: _corrected(problem, denoised))
    notes = found.notes
    if not problem.stack.some_set_aside and problem.grid.step == 1:
        if problem.keep or problem.model.noise.sigma == 0:
            notes = (*notes, NOTHING_TO_ADD)
        notes = (*notes, *_unused(problem, notes, found.samples))
    return found._replace(notes=notes)


def between(gaps: Gaps) -> Filled:
    """Planes by the prior where the measured ones are the same whole number of planes apart, else by kriging."""
    problem, spacing = gaps.problem, gaps.spacing
    source = source_of(gaps)
    if spacing > 1 and gaps.estimate.status is not Status.STOPPED:
        from tensorcell.diffusion_guidance.fill_stack import diffused_planes

        asked = request_of(problem, gaps.estimate.history)
        found = _refused(lambda: diffused_planes(source.gaps.estimate.value, spacing, source.noise, asked))
        notes, samples = (*found.notes, *_on_cpu(problem, gaps.estimate.notes)), found.samples
        filled = Filled(found.volume.astype(problem.stack.values.dtype, copy=False), found.error, notes, samples)
    else:
        filled = filled_by_kriging(source.gaps, source.noise)
        if spacing == 0:
            filled = filled._replace(notes=(*filled.notes, UNEVEN if problem.grid.whole else BETWEEN))
    said = (*gaps.estimate.notes, *filled.notes)
    filled = source.carried(filled)
    return filled._replace(notes=(*filled.notes, *_unused(problem, said, filled.samples)))


def _corrected(problem: Problem, found: Stabilised) -> Corrected:
    """A denoised stack, corrected by a prior."""
    from tensorcell.diffusion_guidance.fill_stack import diffused_noise

    asked = request_of(problem, problem.model.fit.history)
    better = _refused(
        lambda: diffused_noise(
            found.values, found.sigma, found.value, found.error, found.restore, found.measured, asked
        )
    )
    return Corrected(better.volume, better.error, better.samples, (*better.notes, *_on_cpu(problem, ())))


def _on_cpu(problem: Problem, said: tuple[str, ...]) -> tuple[str, ...]:
    """Why networks were computed on the CPU, unless that was said."""
    options = problem.option(DiffusionOptions)
    return tuple(note for note in options.notes if note not in said) if isinstance(options, PreparedOptions) else ()


def _refused(work: Callable[[], Any]) -> Any:
    """The result of the work; a ValueError becomes an InputError, since the user can mend its cause."""
    try:
        return work()
    except ValueError as error:
        raise InputError(str(error)) from None


def _unused(problem: Problem, said: tuple[str, ...], samples: Any) -> tuple[str, ...]:
    """Notes on a prior that was given and not used, and on samples that were asked for and not drawn."""
    options, notes = problem.option(DiffusionOptions), []
    name = options.name if isinstance(options, PreparedOptions) else ""
    if name and not any(note.startswith(name) for note in said):
        notes.append(
            f"{name} was not used: this stack has nothing for it to do (a prior for planes fills planes between evenly "
            "spaced ones, a prior for noise denoises measured voxels)"
        )
    if options.keep_samples and samples is None:
        notes.append("no samples of this stack were drawn")
    return tuple(notes)


def request_of(problem: Problem, history: tuple[IterationRecord, ...]) -> DiffusionRequest:
    """The request to the module that uses torch; its progress reaches the callback as records of further stages."""
    from tensorcell.diffusion_guidance.fill_stack import DiffusionRequest

    options: Any = problem.option(DiffusionOptions)
    callback = problem.fitting.callback
    before = history[-1].iteration if history else 0
    begun: dict[str, float] = {}

    def record(stage: str, step: int, value: float) -> IterationRecord:
        now = time.perf_counter()
        return IterationRecord(
            iteration=before + step, stage=stage, change=math.nan, residual=value, outliers=0, threshold=0.0,
            seconds=now - begun.setdefault(stage, now),
        )  # fmt: skip

    def report(stage: str, step: int, steps: int, value: float) -> bool:
        return callback is not None and bool(callback(record(stage, step, value), Stage(step, steps)))

    def say(message: str) -> None:
        if callback is not None:
            callback(record("prior", 0, math.nan), Stage(0, 1, message))

    return DiffusionRequest(
        prior=options.prior, prior_name=options.name if isinstance(options, PreparedOptions) else "",
        cache=cache_of(options.cache, problem.label), key=key_of(problem), fit_steps=options.fit_steps,
        samples=options.samples, steps=options.steps, guidance=tuple(options.guidance),
        keep_samples=options.keep_samples, seed=problem.fitting.seed, compute=computing(problem, options.compute),
        report=report, say=say,
    )  # fmt: skip


def cache_of(cache: Any, label: str) -> Path | None:
    """The folder in which the priors of a stack are kept; each of several stacks has a folder of its own.

    >>> cache_of("priors", "T=0, C=1").name, cache_of("priors", "").name
    ('T-0--C-1', 'priors')
    """
    if cache is None or not label:
        return None if cache is None else Path(cache)
    return Path(cache) / "".join(c if c.isalnum() else "-" for c in label)


def key_of(problem: Problem) -> str:
    """Digest of the stack and of all that a fit to it depends on."""
    stack, options = problem.stack, problem.option(DiffusionOptions)
    measured = np.where(stack.mask, stack.values, np.nan)
    return digest(measured, problem.grid.step, problem.noise, problem.keep, problem.fitting.seed, options.fit_steps)


def digest(values: npt.NDArray[Any], *options: Any) -> str:
    """Digest of values, their shape, and options.

    >>> digest(np.zeros((2, 3)), 1) == digest(np.zeros((3, 2)), 1)
    False
    """
    found = hashlib.sha256(repr((values.shape, *options)).encode())
    found.update(np.ascontiguousarray(values).tobytes())
    return found.hexdigest()[:12]


METHOD = Method(
    name="diffusion",
    summary="Improves planes and noise after auto by a prior fitted to the stack itself (minutes; needs torch).",
    options=(TuckerOptions, LocalOptions, DiffusionOptions),
    estimate=estimate,
    between=between,
    needs=("torch", "safetensors"),
    extra="diffusion",
    prepare=prepare,
    stages={
        "local": "groups of patches",
        "prior": "fitting a prior",
        "samples": "sampling",
        "noise": "learning to denoise",
    },
)
