"""Which measured voxels are outliers: the one answer that all modules use.

Outliers are the defects that the measurement itself shows (:mod:`tensorcell.solvers.defects`), and those that only a
model brings out: the residual ``Y - X`` of a fit is searched as the intensities were. A model of moderate rank leaves
structure in its residual, above all the sparse and the fine, so that what the model contradicts is not wrong for that.
Two kinds are:

1. dark single voxels, darker than the model and than nearly all of their measured neighbours, since fluorescence
   draws none;
2. bright single voxels, if the measurement has shown that the stack holds many impulses, or if too few neighbours were
   measured to see more, and the mean light that all of them share excludes every PSF.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .defects import FEWEST, MANY, Defects, Kind, judge_bright, single
from .neighbourhoods import neighbours
from .noise import NoiseModel
from .optics import Width, structure_width
from .results import CompletionResult
from .single_voxels import ERRORS, Events, Field, density_of, events_of, find_candidates, typical_distances
from .slabs import model_planes, slabs

Floats = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]
Positions = npt.NDArray[np.integer]

BELOW = 0.9
"""A dark voxel is darker than this share of its measured neighbours."""


class Outliers(NamedTuple):
    """Measured voxels taken for wrong.

    Attributes
    ----------
    positions : int array ``(n,)``
        Flat, C order, ascending.
    values : float array ``(n,)``
        ``E``, the distance of the measured value from the model.
    kinds : uint8 array ``(n,)``
        A :class:`tensorcell.solvers.defects.Kind` each.
    open_ : int
        Number of bright voxels as narrow as one voxel that were kept since they may be signal.
    width : Width
        How wide the structure of the stack is.
    """

    positions: Positions
    values: Floats
    kinds: npt.NDArray[np.uint8]
    open_: int
    width: Width

    def inliers(self, mask: Bools) -> Bools:
        """The mask (True = measured) without the outliers."""
        rest = mask.copy()
        rest.ravel()[self.positions] = False
        return rest

    def count(self, kind: Kind) -> int:
        """Number of voxels of one kind."""
        return int(np.count_nonzero(self.kinds == kind))


def no_defects() -> Defects:
    """Defects of a stack in which none were looked for."""
    return Defects(np.zeros(0, np.intp), np.zeros(0, np.uint8), 0, Width((np.nan,) * 3))


def find_outliers(
    stack: Floats,
    mask: Bools,
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
        Measured intensities; any finite number where the mask is False.
    mask : bool array of the same shape
        True = measured and no defect.
    fit : CompletionResult
        Of :func:`tensorcell.solvers.complete_tucker` on them.
    noise : NoiseModel, optional
        By default none is assumed.
    defects : Defects, optional
        What :func:`tensorcell.solvers.defects.find_defects` found.
    seed : int
        Seed of the sample of voxels from which typical distances are estimated.

    Returns
    -------
    Outliers

    Notes
    -----
    Time: as for defects, and the model on all planes twice. Memory: a few slabs.
    """
    before = no_defects() if defects is None else defects
    field = Field(stack, noise or NoiseModel.white(0.0), fit, fewest=0)
    scale = typical_distances(field, mask, seed)
    candidates = find_candidates(field, mask, scale)
    dark = events_of(field, mask, candidates, scale, -1)
    low = dark.positions[single(dark, density_of(dark, mask, scale, -1))]
    low = low[_below_neighbours(stack, mask, low) & _below_model(stack, fit, field.noise, low)]
    bright = events_of(field, mask, candidates, scale, 1)
    high = bright.positions[_wrong(bright, density_of(bright, mask, scale, 1), stack, mask, before)]
    kinds = np.concatenate([before.kinds, np.full(len(low), Kind.DARK), np.full(len(high), Kind.BRIGHT)])
    positions = np.concatenate([before.positions, low, high])
    order = np.argsort(positions)
    positions = positions[order]
    return Outliers(
        positions, off_model(stack, fit, positions), kinds[order].astype(np.uint8), before.open_, before.width
    )


def _wrong(bright: Events, density: float, stack: Floats, mask: Bools, before: Defects) -> Bools:
    """Which bright events of the residual are wrong."""
    if before.count(Kind.BRIGHT) >= MANY:
        return single(bright, density)
    hidden = bright.neighbours < FEWEST
    if not hidden.any():
        return hidden
    few = bright.where(hidden)
    width = before.width if before.width.lateral > 0 else structure_width(stack, mask)
    found = np.zeros_like(hidden)
    found[hidden] = judge_bright(few, density, width)[0]
    return found


def _below_neighbours(stack: Floats, mask: Bools, positions: Positions) -> Bools:
    """Which voxels are darker than nearly all of their measured neighbours; those without any are."""
    around = neighbours(stack, mask, positions)
    with np.errstate(invalid="ignore"):
        darker = np.sum(around > stack.ravel()[positions][:, None], axis=1)
    return np.asarray(darker >= BELOW * np.sum(~np.isnan(around), axis=1))


def _below_model(stack: Floats, fit: CompletionResult, noise: NoiseModel, positions: Positions) -> Bools:
    """Which voxels are darker than the model by more than noise explains: others lie among light that it lacks."""
    off = off_model(stack, fit, positions).astype(np.float64)
    model = stack.ravel()[positions] - off
    return np.asarray(off < -ERRORS * np.sqrt(noise.variance(model)))


def off_model(stack: Floats, fit: CompletionResult, positions: Positions) -> Floats:
    """``Y - X`` at flat positions in ascending order."""
    plane = stack[0].size
    found = np.empty(len(positions), stack.dtype)
    for slab in slabs(stack.shape):
        first, last = np.searchsorted(positions, [slab.start * plane, slab.stop * plane])
        if first < last:
            here = positions[first:last] - slab.start * plane
            found[first:last] = stack[slab].ravel()[here] - model_planes(fit, slab).ravel()[here]
    return found
