"""What a user is told of defects, and the width of the point spread function (PSF) that a user gives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tensorcell.errors import InputError
from tensorcell.solvers.defects import Kind
from tensorcell.solvers.optics import FWHM, Width
from tensorcell.solvers.outliers import Outliers

NAMES = {
    Kind.DEAD: "of dead pixels",
    Kind.STUCK: "of stuck pixels",
    Kind.HOT: "of hot pixels",
    Kind.BRIGHT: "single bright voxels",
    Kind.DARK: "single dark voxels",
}
"""How the voxels of each kind are called."""

LEFT = 0.01
"""If single voxels that are wrong are a larger share of the measured ones, others are hidden by the noise."""

CONTRADICTION = 1.25
"""A PSF whose width exceeds that of the finest structure by more than this factor contradicts the data."""


def checked_psf(value: Any) -> tuple[float, float, float] | None:
    """``psf_fwhm`` as three positive numbers (z, y, x), or None."""
    if value is None:
        return None
    try:
        z, y, x = (float(part) for part in value)
    except (TypeError, ValueError):
        raise InputError(f"expected psf_fwhm as three numbers (z, y, x), got {value!r}") from None
    if not all(math.isfinite(part) and part > 0 for part in (z, y, x)):
        raise InputError(f"expected psf_fwhm positive and finite along z, y and x, got {z:g}, {y:g}, {x:g}")
    return z, y, x


def psf_in_voxels(
    psf: Sequence[float] | None, spacing: Sequence[float] | None, shape: Sequence[int]
) -> tuple[float, ...] | None:
    """Standard deviations of the PSF in voxels, from its full widths at half maximum.

    Parameters
    ----------
    psf : three floats or None
        Full widths along z, y and x: in micrometres if the voxel size is known, otherwise in voxels.
    spacing : three floats or None
        Voxel size in micrometres.
    shape : three ints
        Of the stack.

    Raises
    ------
    InputError
        If the PSF is wider than the stack.
    """
    if psf is None:
        return None
    steps = (1.0, 1.0, 1.0) if spacing is None else spacing
    unit = "voxels" if spacing is None else "um"
    for name, width, step, size in zip("zyx", psf, steps, shape, strict=True):
        if width > size * step:
            raise InputError(
                f"expected psf_fwhm along {name} below the size of the stack, {size * step:g} {unit}, got {width:g}"
            )
    return tuple(width / step / FWHM for width, step in zip(psf, steps, strict=True))


def counts_of(outliers: Outliers) -> dict[str, int]:
    """Number of outliers by kind, those that were found; the keys are ``dead``, ``stuck``, ``hot`` and so on."""
    return {kind.name.lower(): outliers.count(kind) for kind in Kind if outliers.count(kind)}


def defect_notes(outliers: Outliers, measured: int, psf: Sequence[float] | None, *, replaced: bool) -> tuple[str, ...]:
    """Sentences on the defects of a stack, none if there are none and no PSF was given.

    Parameters
    ----------
    outliers : Outliers
    measured : int
        Number of measured voxels.
    psf : three floats or None
        Standard deviations in voxels, where they were given.
    replaced : bool
        Whether they were replaced (`recover`), or found alone (`diagnose`).
    """
    notes = []
    count = len(outliers.positions)
    if count:
        counts = {name: outliers.count(kind) for kind, name in NAMES.items() if outliers.count(kind)}
        kinds = ", ".join(f"{n} {name.removesuffix('s') if n == 1 and name.startswith('single') else name}"
                          for name, n in counts.items())  # fmt: skip
        done = " and were replaced" if replaced else ""
        note = f"{count} of {measured} measured voxels are defects{done}: {kinds}"
        if outliers.count(Kind.BRIGHT) + outliers.count(Kind.DARK) > LEFT * measured:
            note += "; others that differ less from their surroundings are likely to be left"
        notes.append(note)
    if outliers.open_:
        one, done = outliers.open_ == 1, "kept" if replaced else "not counted"
        notes.append(
            "1 bright voxel is as narrow as one voxel, so that it may be signal or a defect, and was "
            f"{done}; psf_fwhm (--psf-fwhm) decides"
            if one
            else f"{outliers.open_} bright voxels are as narrow as one voxel, so that they may be signal or defects, "
            f"and were {done}; psf_fwhm (--psf-fwhm) decides"
        )
    if (count or outliers.open_) and outliers.width.lateral > 0:
        notes.append(f"the finest structure of the stack is as wide as {spot(outliers.width)}")
    if psf is not None and contradicts(psf, outliers.width):
        notes.append(
            f"the given point spread function, {spot(Width(tuple(psf)))}, is wider than the finest structure of the "
            f"stack, {spot(outliers.width)}: signal may have been taken for defects"
        )
    return tuple(notes)


def contradicts(psf: Sequence[float], width: Width) -> bool:
    """Whether the stack shows structure narrower than the PSF; a NaN, where no width was found, contradicts nothing."""
    return any(given > CONTRADICTION * seen for given, seen in zip(psf, width.sigma, strict=True))


def spot(width: Width) -> str:
    """A spot of this width, in words.

    >>> spot(Width((1.0, 1.0, float("nan"))))
    'a spot of FWHM 2.4 x 2.4 x ? voxels (z, y, x)'
    """
    sizes = " x ".join("?" if math.isnan(size) else f"{size:.1f}" for size in width.fwhm)
    return f"a spot of FWHM {sizes} voxels (z, y, x)"
