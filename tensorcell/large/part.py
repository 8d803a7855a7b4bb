"""One part of a stack, recovered as the sample of the stack tells."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tensorcell.errors import InputError
from tensorcell.large.cut import Box, Part, Sides
from tensorcell.large.survey import Source, surveyed
from tensorcell.plane_grid import PlaneGrid
from tensorcell.recovered import share_left_open
from tensorcell.solvers import Status
from tensorcell.solvers.rank_limits import affordable
from tensorcell.stack import float_type
from tensorcell.stack_recovery import Request, StackResult, recovered_alone
from tensorcell.unrecovered import unrecovered
from tensorcell.volume import Stack

Array = npt.NDArray[Any]


class PartResult(NamedTuple):
    """What is taken of one part."""

    arrays: Mapping[str, Array]
    """What was asked for of ``"OUT"`` (the volume), ``"uncertainty"``, ``"invented"`` (the share of each voxel that the
    measurement leaves open), each in the inner box of the wanted stack, and ``"outliers"`` (``E``, 0 where nothing was
    flagged) in that of the stack that was given."""
    facts: PartFacts


class PartFacts(NamedTuple):
    """What is said of a part."""

    measured: int
    """Measured voxels of the wanted stack."""
    defects: Mapping[str, int]
    """Outliers by kind, those of the rim among them."""
    outliers: int
    rank: tuple[int, ...]
    status: Status
    noise: float
    notes: tuple[str, ...]
    reason: str = ""
    """Why it was not recovered."""


def recovered_part(stack: Source, part: Part, label: str, request: Request, names: Sequence[str]) -> PartResult:
    """Read a part with its rim, recover it, and take what is asked for by name in its inner box.

    A part that cannot be recovered keeps what was measured of it, and is NaN elsewhere.

    Raises
    ------
    InputError
        If a stack that is one part cannot be recovered.
    """
    data, mask = stack.read(part.outer)
    one = Stack((), label, data, mask)
    whole_z = data.shape[0] == stack.shape[0]
    request = replace(request, settled=replace(request.settled, inner=part.within, shape=data.shape))
    if request.rank is not None:  # the rank of a stack may be more than that of its parts
        z, y, x = affordable(tuple(map(min, request.rank, data.shape)), data.shape, math.inf)
        request = replace(request, rank=(z, y, x))
    if not whole_z:
        request = replace(request, grid=PlaneGrid(data.shape[0], spacing=request.grid.spacing))
    reason = ""
    try:
        found = recovered_alone(one, request, complete=request.settled.told("complete"))
    except InputError as error:
        if not request.settled.found:
            raise
        reason = str(error)
        found = as_measured(one, request, reason)
    found = with_noise_of_sample(found, request)
    del data, mask, one
    return taken(found, part, request, names, reason)


def recovered_whole(
    stack: Source, part: Part, label: str, request: Request, names: Sequence[str], sides: Sides
) -> PartResult | str:
    """The same for a stack that is one part, after a look at all its blocks; the reason if it cannot be recovered."""
    try:
        surveyed(stack, sides)
        return recovered_part(stack, part, label, request, names)
    except InputError as error:
        return str(error)


def as_measured(stack: Stack, request: Request, reason: str) -> StackResult:
    """What was measured of a part that cannot be recovered, with its noise; NaN elsewhere."""
    nothing = unrecovered(stack, request, reason)
    if request.lateral_factor > 1:
        return nothing
    noise, grid = request.settled.told("noise in the unit given"), request.grid
    places, measured = grid.places, nothing.measured[grid.places]
    nothing.volume[places][measured] = stack.data[grid.shared][measured]
    nothing.uncertainty[places][measured] = noise
    return nothing._replace(notes=(f"kept as measured, NaN where nothing was measured: {reason}",))


def with_noise_of_sample(found: StackResult, request: Request) -> StackResult:
    """The result of a part whose measured voxels have one value, which tell neither the noise nor what lies between."""
    noise, contrast = (request.settled.told(name) for name in ("noise in the unit given", "contrast"))
    if found.status is not Status.UNCHANGED or noise is None:
        return found
    least = np.where(found.measured, noise, max(noise, contrast))
    return found._replace(uncertainty=np.maximum(found.uncertainty, least).astype(found.uncertainty.dtype), noise=noise)


def taken(found: StackResult, part: Part, request: Request, names: Sequence[str], reason: str) -> PartResult:
    """What is asked for of a result, in the inner box."""
    wanted = in_wanted(part.within, request)
    given = tuple(side.stop - side.start for side in part.outer)
    outliers = np.zeros(given, float_type(found.volume.dtype))
    outliers.ravel()[found.positions] = found.values
    inner = outliers[part.within]
    facts = PartFacts(
        int(np.count_nonzero(found.measured[wanted])), found.defects, int(np.count_nonzero(inner)), found.rank,
        found.status, found.noise, found.notes, reason,
    )  # fmt: skip
    ways: dict[str, Callable[[], Array]] = {
        "OUT": lambda: found.volume[wanted],
        "uncertainty": lambda: found.uncertainty[wanted],
        "invented": lambda: left_open(found, outliers, request)[wanted],
        "outliers": lambda: inner,
    }
    return PartResult({name: np.ascontiguousarray(ways[name]()) for name in names}, facts)


def left_open(found: StackResult, outliers: Array, request: Request) -> Array:
    """The share of each voxel that the measurement leaves open; NaN where nothing was recovered."""
    open_ = ~found.measured
    if request.lateral_factor == 1:
        open_ |= request.grid.spread(outliers != 0)
    share = share_left_open(
        np.nan_to_num(found.volume), np.nan_to_num(found.uncertainty), request.settled.told("contrast")
    )
    share[~open_] = 0
    share[np.isnan(found.volume)] = np.nan
    return share.astype(found.volume.dtype)


def in_wanted(box: Box, request: Request) -> Box:
    """A box of the stack that was given, in the wanted stack; all its planes where planes are wanted between others."""
    z, y, x = box
    factor = request.lateral_factor
    if request.grid.step != 1:
        z = slice(0, request.grid.planes)
    return z, slice(factor * y.start, factor * y.stop), slice(factor * x.start, factor * x.stop)
