"""Rows and columns that were measured in no plane: they are set aside for the model, and filled after the estimate.

A low-rank model cannot predict a row or column without samples (a dead column of the camera, a masked row), just as it
cannot predict such a plane. They are predicted from the measured rows or columns on either side by the code that fills
planes (:func:`tensorcell.solvers.fill_planes`, with the axes exchanged). The weight of kriging and the errors come from
measured rows or columns that are left out in gaps of the same width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tensorcell.errors import InputError
from tensorcell.solvers import NoiseModel, fill_planes
from tensorcell.stack import EMPTY_PLANE, GivenStack, measured_stack

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]

FEW = 0.05
"""A row or column that holds less than a hundredth of its voxels, and less than this share of what the median one
holds, is set aside, too."""

LEAST_ERROR = 0.1
"""Smallest error of a filled row or column, as a share of the root mean square over all of them: two lines that are
alike do not prove that the one between them is like them."""

LEAST_SPREAD = 1e-3
"""Smallest error there as a share of the standard deviation of the stack."""

FEW_PLANES = 4
"""Measured and filled planes are treated separately if there are so many of either."""

SHOWN = 8
"""Largest number of rows or columns that a note lists."""

NAMES = {1: ("row", "y"), 2: ("column", "x")}
"""What a line across each lateral axis is called, and the axis."""


@dataclass(frozen=True, eq=False)
class MeasuredLines:
    """Which rows ``(Y,)`` and columns ``(X,)`` of a stack hold measured voxels (True)."""

    rows: Bools
    columns: Bools

    @property
    def complete(self) -> bool:
        """Whether no row or column is set aside."""
        return bool(self.rows.all() and self.columns.all())

    def taken_from(self, array: Array) -> Array:
        """The part ``(Z, Y', X')`` of an array ``(Z, Y, X)`` without the lines that are set aside."""
        return array if self.complete else np.ascontiguousarray(array[:, self.rows][:, :, self.columns])

    def part_of(self, given: GivenStack) -> GivenStack:
        """The stack without the rows and columns that are set aside."""
        if self.complete:
            return given
        original = None if given.given is None else self.taken_from(given.given)
        values, mask = self.taken_from(given.values), self.taken_from(given.mask)
        return replace(given, values=values, mask=mask, given=original)

    def places(self, positions: Array) -> Array:
        """Flat positions in the whole stack of flat positions in the part."""
        rows, columns = np.flatnonzero(self.rows), np.flatnonzero(self.columns)
        plane, place = np.divmod(positions, len(rows) * len(columns))
        y, x = np.divmod(place, len(columns))
        return np.asarray((plane * len(self.rows) + rows[y]) * len(self.columns) + columns[x])


def measured_lines(given: GivenStack) -> MeasuredLines:
    """The rows and columns that hold measured voxels in the planes that are not set aside.

    Raises
    ------
    InputError
        If fewer than two rows or columns do.
    """
    _, y, x = given.mask.shape
    lines = MeasuredLines(np.ones(y, bool), np.ones(x, bool))
    while True:  # a plane whose only voxels lie in lines that are set aside is set aside, too, and so on
        mask = measured_stack(lines.part_of(given)).mask
        rows, columns = holds_enough(mask.mean(axis=(0, 2))), holds_enough(mask.mean(axis=(0, 1)))
        if rows.all() and columns.all():
            break
        lines = MeasuredLines(lines.rows.copy(), lines.columns.copy())
        lines.rows[lines.rows], lines.columns[lines.columns] = rows, columns
    for name, present in (("rows", lines.rows), ("columns", lines.columns)):
        if present.sum() < 2:
            raise InputError(f"expected at least 2 measured {name}, got {present.sum()} of {len(present)}")
    return lines


def lines_without(shape: tuple[int, ...], axis: int, lines: slice) -> MeasuredLines:
    """All rows and columns of planes of a shape but those across the axis (1 or 2) in a range."""
    present = [np.ones(size, bool) for size in shape]
    present[axis - 1][lines] = False
    return MeasuredLines(*present)


def holds_enough(share: Array) -> Bools:
    """Whether lines with these shares of measured voxels hold enough for a model.

    >>> holds_enough(np.array([0.9, 0.0, 0.005, 0.9])).tolist(), holds_enough(np.array([0.004, 0.002, 0.005])).tolist()
    ([True, False, False, True], [True, True, True])
    """
    some = share > 0
    return some & (share >= min(EMPTY_PLANE, FEW * float(np.median(share[some])))) if some.any() else some


class FilledLines(NamedTuple):
    """A stack with all its rows and columns."""

    volume: Array
    """``(Z, Y, X)``."""
    error: Array
    """Standard deviation of its error, of the same shape."""
    notes: tuple[str, ...]


def fill_lines(part: Array, error: Array, kept: Bools, lines: MeasuredLines, noise: NoiseModel) -> FilledLines:
    """Insert the rows and columns that were set aside.

    Parameters
    ----------
    part, error : float arrays ``(Z, Y', X')``
        The recovered stack without these lines, and the standard deviation of its error.
    kept : bool array ``(Z, Y', X')``
        True where a voxel holds its measured value with its noise.
    lines : MeasuredLines
    noise : NoiseModel
        The noise of these voxels.
    """
    notes = []
    for axis, present in ((2, lines.columns), (1, lines.rows)):
        if not present.all():
            part, error, note = filled_along(axis, part, error, kept, present, noise)
            wide = np.zeros(part.shape, bool)
            np.moveaxis(wide, axis, 0)[present] = np.moveaxis(kept, axis, 0)
            kept = wide
            notes.append(note)
    return FilledLines(part, error, tuple(notes))


def filled_along(
    axis: int, part: Array, error: Array, kept: Bools, present: Bools, noise: NoiseModel
) -> tuple[Array, Array, str]:
    """The stack with all lines across one axis, the standard deviation of its error, and the note."""
    grid, missing = np.flatnonzero(present), np.flatnonzero(~present)
    shape = list(part.shape)
    shape[axis] = len(present)
    volume, wide = np.empty(shape, part.dtype), np.empty(shape, part.dtype)
    weights = []
    for planes in plane_groups(kept):
        lines, errors = (np.moveaxis(array[planes], axis, 0) for array in (part, error))
        carried = np.where(np.moveaxis(kept[planes], axis, 0), 0, np.square(errors))
        law = noise if kept[planes].any() else NoiseModel.white(0.0)
        filled = fill_planes(lines, grid, len(present), noise=law, each_gap=True)
        upper = np.searchsorted(grid, missing)
        below, above = np.maximum(upper - 1, 0), np.minimum(upper, len(grid) - 1)
        u = np.empty(filled.error.shape, part.dtype)
        u[grid] = errors
        u[missing] = np.sqrt(np.square(filled.error[missing]) + (carried[below] + carried[above]) / 2)
        spread = float(np.std(lines, dtype=np.float64))
        outside = (missing < grid[0]) | (missing > grid[-1])
        u[missing[outside]] = np.maximum(u[missing[outside]], spread)  # nothing tells how far the truth may be there
        least = max(LEAST_ERROR * float(np.sqrt(np.mean(np.square(u[missing])))), LEAST_SPREAD * spread)
        u[missing] = np.maximum(u[missing], least)
        volume[planes], wide[planes] = (np.moveaxis(array, 0, axis) for array in (filled.volume, u))
        weights.append(filled.weight)
    return volume, wide, lines_note(axis, missing, grid, weights[0])


def plane_groups(kept: Bools) -> list[Bools]:
    """Planes with measured voxels and planes without: the latter are smoother, and are judged by themselves."""
    seen = np.asarray(kept.any(axis=(1, 2)))
    if min(np.count_nonzero(seen), np.count_nonzero(~seen)) < FEW_PLANES:
        return [np.ones(len(kept), bool)]
    return [seen, ~seen]


def lines_note(axis: int, missing: Array, grid: Array, weight: float) -> str:
    """Which rows or columns were filled, and how.

    >>> lines_note(2, np.array([15]), np.r_[0:15, 16:32], 0.75)
    'x = 15 was measured in no plane and is interpolated along x (75% kriging, judged at left-out columns)'
    """
    name, letter = NAMES[axis]
    several = len(missing) > 1
    shown = ", ".join(map(str, missing[:SHOWN])) + (f", ... ({len(missing)} in all)" if len(missing) > SHOWN else "")
    how = "pchip" if np.isnan(weight) else f"{weight:.0%} kriging, judged at left-out {name}s"
    note = (
        f"{letter} = {shown} {'were' if several else 'was'} measured in no plane and {'are' if several else 'is'} "
        f"interpolated along {letter} ({how})"
    )
    outside = np.count_nonzero((missing < grid[0]) | (missing > grid[-1]))
    if outside:
        lie = "s lie" if outside > 1 else " lies"
        note += f"; {outside} {name}{lie} beyond the measured ones, where the nearest one is repeated"
    return note
