"""Which measured voxels are outliers: the one answer that all modules use.

Outliers are the defects that the measurement itself shows (:mod:`tensorcell.solvers.defects`), and those that only a
model brings out: the residual ``Y - X`` of a fit is searched as the intensities were. A model of moderate rank leaves
structure in its residual, above all the sparse and the fine, so that what the model contradicts is not wrong for that.
Three kinds are:

1. dark single voxels, darker than the model and than nearly all of their measured neighbours, since fluorescence
   draws none, and those that have the same value (:mod:`tensorcell.solvers.one_value`);
2. bright single voxels, if the measurement has shown that the stack holds many impulses, or if too few neighbours were
   measured to see more, and the mean light that all of them share excludes every PSF;
3. single voxels of either sign, if neighbours have nothing in common but the model explains them: then the model is
   all there is to compare with.

What the measurement alone showed as a defect is none if a model of the other voxels predicts it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from .arrays import Array, from_host, namespace_of, to_host
from .defects import FEWEST, MANY, NOWHERE, Defects, Kind, judge_bright, may_be_light, single
from .events import ERRORS, Events, events_of
from .neighbourhoods import excluding, neighbours, surroundings, values_at
from .noise import NoiseModel
from .one_value import alike
from .optics import NO_WIDTH, Width, structure_width
from .results import CompletionResult
from .single_voxels import Field, find_candidates, typical_distances
from .slabs import block_residual, model_planes, moved_to, parts_of
from .spread import robust_sigma

Floats = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]
Positions = npt.NDArray[np.integer]

EXPLAINED = 0.5
"""The model explains the bulk of a stack if its residual is below this share of the spread of the intensities."""

PREDICTED = 0.5
"""A defect is none if the model is nearer to it than this share of its distance from its neighbours."""

BELOW = 0.9
"""A dark voxel is darker than this share of its measured neighbours."""


@dataclass(frozen=True, eq=False)
class Outliers(Defects):
    """Measured voxels taken for wrong: defects, and what a model brought out.

    Attributes
    ----------
    values : float array ``(n,)``
        ``E``, the distance of the measured value from the model.
    """

    values: Floats = field(kw_only=True)


def no_defects() -> Defects:
    """Defects of a stack in which none were looked for."""
    return Defects(np.zeros(0, np.intp), np.zeros(0, np.uint8), 0, NO_WIDTH)


def no_outliers(dtype: npt.DTypeLike) -> Outliers:
    """Outliers of a stack of this type in which none were looked for."""
    return Outliers(**vars(no_defects()), values=np.zeros(0, dtype))


def find_outliers(
    stack: Array,
    mask: Array,
    fit: CompletionResult,
    noise: NoiseModel | None = None,
    defects: Defects | None = None,
    *,
    seed: int = 0,
) -> Outliers:
    """Outliers of a stack: its defects, and what a fit to the other voxels brings out.

    Parameters
    ----------
    stack : float array ``(Z, Y, X)``
        Measured intensities, NumPy or CuPy; any finite number where the mask is False.
    mask : bool array of the same shape and library
        True = measured and no defect.
    fit : CompletionResult
        Of :func:`tensorcell.solvers.complete_tucker` on them, on the host.
    noise : NoiseModel, optional
        By default none is assumed.
    defects : Defects, optional
        What :func:`tensorcell.solvers.defects.find_defects` found.
    seed : int
        Seed of the sample of voxels from which typical distances are estimated.

    Returns
    -------
    Outliers
        On the host.

    Notes
    -----
    Time: as for defects, and the model on all planes twice. Memory: a few slabs.
    """
    fit = moved_to(fit, stack)
    before = no_defects() if defects is None else released(stack, mask, fit, defects)
    searched = Field(stack, noise or NoiseModel.white(0.0), fit, fewest=0)
    scale = typical_distances(searched, mask, mask, seed)
    candidates = find_candidates(searched, mask, scale, NOWHERE)
    dark = events_of(searched, mask, candidates, scale, -1)
    bright = events_of(searched, mask, candidates, scale, 1)
    low = dark.positions[single(dark, rare=True)]
    if _model_alone(stack, mask, fit, before.width):
        high = bright.positions[single(bright)]
    else:
        sound = excluding(mask, candidates)
        low = low[_below_neighbours(stack, sound, low) & _below_model(stack, fit, searched.noise, low)]
        high = bright.positions[_wrong(bright, stack, mask, before)]
    low = np.union1d(low, alike(stack, mask, low, lambda positions: model_at(fit, stack, positions)))
    kinds = np.concatenate([before.kinds, np.full(len(low), Kind.DARK), np.full(len(high), Kind.BRIGHT)])
    positions = np.concatenate([before.positions, low, high])
    order = np.argsort(positions)
    positions = positions[order]
    values = off_model(stack, fit, positions)
    shown = before.shown[~np.isin(before.shown, positions)]
    kinds = kinds[order].astype(np.uint8)
    open_ = min(before.open_, len(shown))
    return Outliers(positions, kinds, open_, before.width, shown, values=values)


def released(stack: Array, mask: Array, fit: CompletionResult, defects: Defects) -> Defects:
    """The defects without those that a model of the other voxels predicts."""
    if not len(defects.positions):
        return defects
    off = np.abs(off_model(stack, fit, defects.positions))
    middle = surroundings(stack, mask, from_host(defects.positions, stack)).middle
    own = np.abs(values_at(stack, defects.positions) - to_host(middle))
    wrong = np.isnan(own) | (off >= PREDICTED * own)
    return replace(defects, positions=defects.positions[wrong], kinds=defects.kinds[wrong])


def width_of(width: Width, stack: Array, mask: Array) -> Width:
    """The width of the structure, found in the stack where it is not known."""
    return width if width.lateral > 0 else structure_width(stack, mask)


def _model_alone(stack: Array, mask: Array, fit: CompletionResult, width: Width) -> bool:
    """Whether neighbours have nothing in common, while the model explains the bulk of the stack."""
    block, off = block_residual(stack, fit)
    residual, seen = to_host(off), to_host(mask[block])
    if np.count_nonzero(seen) < FEWEST or width_of(width, stack, mask).lateral > 0:
        return False
    values = to_host(stack[block])[seen]
    return robust_sigma(residual[seen]) < EXPLAINED * robust_sigma(values - np.median(values))


def _wrong(bright: Events, stack: Array, mask: Array, before: Defects) -> Bools:
    """Which bright events of the residual are wrong."""
    if before.count(Kind.BRIGHT) >= MANY:
        return single(bright) & ~may_be_light(bright)
    hidden = bright.neighbours < FEWEST
    if not hidden.any():
        return hidden
    few = bright.where(hidden)
    width = width_of(before.width, stack, mask)
    found = np.zeros_like(hidden)
    found[hidden] = judge_bright(few, width)[0]
    return found


def _below_neighbours(stack: Array, sound: Array, positions: Positions) -> Bools:
    """Which voxels are darker than nearly all of their neighbours that do not stand out; those without any are."""
    around = to_host(neighbours(stack, sound, from_host(positions, stack)))
    with np.errstate(invalid="ignore"):
        darker = np.sum(around > values_at(stack, positions)[:, None], axis=1)
    return np.asarray(darker >= BELOW * np.sum(~np.isnan(around), axis=1))


def _below_model(stack: Array, fit: CompletionResult, noise: NoiseModel, positions: Positions) -> Bools:
    """Which voxels are darker than the model by more than noise explains: others lie among light that it lacks."""
    off = off_model(stack, fit, positions).astype(np.float64)
    model = values_at(stack, positions) - off
    return np.asarray(off < -ERRORS * np.sqrt(noise.variance(model)))


def off_model(stack: Array, fit: CompletionResult, positions: Positions) -> Floats:
    """``Y - X`` at flat positions in ascending order, on the host."""
    return np.asarray(values_at(stack, positions) - model_at(fit, stack, positions).astype(stack.dtype, copy=False))


def model_at(fit: CompletionResult, stack: Array, positions: Positions) -> Floats:
    """``X`` at flat positions in ascending order, on the host; the model lies where the stack does."""
    xp, plane = namespace_of(stack, fit.tucker[0]), math.prod(stack.shape[1:])
    parts = [xp.zeros(0, dtype=fit.tucker[0].dtype)]
    for slab in parts_of(stack):
        first, last = np.searchsorted(positions, [slab.start * plane, slab.stop * plane])
        if first < last:
            here = from_host(positions[first:last] - slab.start * plane, stack)
            parts.append(model_planes(fit, slab).ravel()[here])
    return to_host(xp.concat(parts))
