"""The global model of one stack as far as a diagnosis needs it: rank, noise, outliers, coherences, explained share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tensorcell.arguments import Rank
from tensorcell.defect_notes import counts_of, defect_notes
from tensorcell.fitting import Fitting
from tensorcell.model import StackModel, model_of
from tensorcell.solvers import (
    BlockRanks,
    Coherence,
    CompletionResult,
    NoiseModel,
    block_ranks,
    coherence,
    degrees_of_freedom,
    estimate_noise,
)
from tensorcell.solvers.rank_limits import affordable
from tensorcell.solvers.slabs import model_planes, slabs
from tensorcell.stack import GivenStack, measured_stack

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]

REFIT_BELOW = 0.9
"""Below this explained share the model is fitted again: its robust fit may have taken structures for outliers."""

ROUNDING = 1e-7
"""Noise below this share of the range of intensities is called zero."""

GIVEN = "given"


class LowRankModel(NamedTuple):
    """The estimated low-rank model of one stack."""

    rank: tuple[int, ...]
    reason: str
    spectra: tuple[tuple[float, ...], ...]
    edges: tuple[float, ...]
    noise: float
    noise_obtained: str
    explained: float
    outliers: int
    outliers_obtained: str
    defects: Mapping[str, int]
    notes: tuple[str, ...]
    coherence: Coherence
    blocks: BlockRanks | None


def low_rank_model(
    given: GivenStack,
    fitting: Fitting,
    *,
    noise: float | None,
    rank: Rank | None,
    blocks: bool,
    psf: Sequence[float] | None = None,
) -> LowRankModel:
    """Rank, noise, outliers and coherence of what was measured, in the caller's unit.

    ``noise``, where it was given, is in the unit of ``given.values``.

    Slices without samples are left out, since no equation contains them. A given rank with more unknowns than samples
    is judged as it is, but the coherences then come from a fit of a smaller rank that the samples determine.
    """
    y, seen = with_samples(given)
    observed = int(np.count_nonzero(seen))
    if given.constant or observed < degrees_of_freedom((1, 1, 1), y.shape):
        return _trivial(given, y, seen, noise, rank)
    fitted = None
    if rank is not None:
        cut = tuple(min(r, size) for r, size in zip(rank, y.shape, strict=True))
        carried = degrees_of_freedom(cut, y.shape) <= observed
        fitted = affordable(cut, y.shape, np.inf if carried else observed / 2)
    model = model_of(y, seen, fitting, noise=noise, rank=fitted, psf=psf, unit=given.unit)
    unit, sigma = given.unit, model.noise.sigma
    said = GIVEN if noise is not None else model.noise.sentence
    if noise is None and sigma < ROUNDING * (given.highest - given.lowest):
        sigma, said = 0.0, f"{said} It is zero to the precision of the fit."
    told = model.rank.in_unit(unit)
    fit, explained = best_explained(y, model, fitting)
    found = coherence(fit.tucker.core, fit.tucker.factors)
    if rank is not None and fitted != rank:
        of_rank = f"(of rank {fitted}, since the samples do not determine a larger one)"
        found = replace(found, obtained={key: f"{how} {of_rank}" for key, how in found.obtained.items()})
    return LowRankModel(
        rank=rank or model.rank.rank,
        reason=told.reason,
        spectra=told.spectra,
        edges=told.thresholds,
        noise=unit.width(sigma),
        noise_obtained=said,
        explained=explained,
        outliers=len(model.outliers.positions),
        outliers_obtained="measured voxels that differ from their neighbours, or from a robust fit of rank "
        f"{' x '.join(map(str, model.rank.rank))}, as no microscope draws: {counts_of(model.outliers) or 'none'}",
        defects=counts_of(model.outliers),
        notes=defect_notes(model.outliers, observed, psf, replaced=False),
        coherence=found,
        blocks=block_ranks(y, seen, seed=fitting.seed) if blocks else None,
    )


def with_samples(given: GivenStack) -> tuple[Array, Bools]:
    """The planes that `recover` fits, without the rows and columns that were never measured."""
    stack = measured_stack(given)
    rows, columns = stack.mask.any(axis=(0, 2)), stack.mask.any(axis=(0, 1))
    if rows.all() and columns.all():
        return np.ascontiguousarray(stack.values), np.ascontiguousarray(stack.mask)
    y, seen = (np.ascontiguousarray(array[:, rows][:, :, columns]) for array in (stack.values, stack.mask))
    return y, seen


def _trivial(given: GivenStack, y: Array, seen: Bools, noise: float | None, rank: Rank | None) -> LowRankModel:
    """The model of a stack to which nothing can be fitted: a constant tensor."""
    why = "fewer samples than a tensor of rank 1 needs"
    if given.constant:
        why = f"all measured voxels are {given.lowest:g}"
    even = coherence(np.ones((1, 1, 1)), [np.ones((size, 1)) for size in y.shape])
    sigma, said = noise, GIVEN
    if sigma is None:
        sigma, said = (0.0, why) if given.constant else (estimate_noise(y, seen).sigma, "estimated from few voxels")
    return LowRankModel(
        rank=rank or (1, 1, 1),
        reason=GIVEN if rank else why,
        spectra=(),
        edges=(),
        noise=given.unit.width(sigma),
        noise_obtained=said,
        explained=1.0 if given.constant else 0.0,
        outliers=0,
        outliers_obtained=f"no outliers were looked for: {why}",
        defects={},
        notes=(),
        coherence=replace(even, obtained=dict.fromkeys(even.obtained, f"that of a constant tensor: {why}")),
        blocks=None,
    )


def best_explained(y: Array, model: StackModel, fitting: Fitting) -> tuple[CompletionResult, float]:
    """The robust fit or a plain fit of the inliers, whichever explains more of the variance, and that share."""
    fit, share = model.fit, explained_share(y, model.inlier, model.fit, model.noise)
    if share >= REFIT_BELOW:
        return fit, share
    plain = replace(fitting, options=replace(fitting.options, robust=False))
    again = plain(y, model.inlier, model.rank.rank)
    second = explained_share(y, model.inlier, again, model.noise)
    return (again, second) if second > share else (fit, share)


def explained_share(y: Array, inlier: Bools, fit: CompletionResult, noise: NoiseModel) -> float:
    """Share of the variance of the inliers, without that of the noise, that the model explains.

    The mean variance of the noise, that of each voxel at the model's intensity, is subtracted from the variance of the
    data and from that of the residual. The latter is first divided by the share of the samples that the degrees of
    freedom leave.
    """
    count, left, total, squares, passed = 0, 0.0, 0.0, 0.0, 0.0
    for slab in slabs(y.shape):
        here = inlier[slab]
        values, model = y[slab][here], model_planes(fit, slab)[here]
        count += values.size
        total += float(np.sum(values, dtype=np.float64))
        squares += float(np.sum(np.square(values, dtype=np.float64)))
        left += float(np.sum(np.square(values - model, dtype=np.float64)))
        noisy = (values != noise.low) & (values != noise.high)  # clipped voxels have no noise; None equals no number
        passed += float(np.sum(noise.variance(model[noisy]), dtype=np.float64))
    count = max(count, 1)
    variance = passed / count
    structure = squares / count - (total / count) ** 2 - variance
    free = max(0.1, 1 - degrees_of_freedom(fit.rank, y.shape) / count)
    lost = max(left / count / free - variance, 0.0)
    return min(1.0, max(0.0, 1 - lost / structure)) if structure > 0 else 0.0
