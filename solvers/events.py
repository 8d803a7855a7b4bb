"""Voxels that stand out from their neighbours, and what these neighbours show of them: its events.

Light is shared by neighbours; wrong values of a camera are not. Of each candidate of
:mod:`tensorcell.solvers.single_voxels` its :class:`Events` say how much of its light the neighbours share, how many are
as bright, and how often chance explains either. Neighbours are read where the stack lies, events are on the host.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .arrays import Array, from_host, namespace_of, to_host
from .neighbourhoods import AXIAL, IN_PLANE, LATERAL, excluding, neighbours
from .single_voxels import Field, Planes, Scale, compared, linear_middle
from .slabs import parts_of, widened

Floats = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]
Positions = npt.NDArray[np.integer]

COMPARABLE = 0.5
"""A neighbour with this share of the amplitude counts as bright as the voxel itself."""

CLUSTERED = 0.5
"""Largest share of chance among the events that are taken for structure since they touch others as bright."""

CROWDED = 1.5
"""How much more densely than the share of all voxels of a level independent places may lie where structure is."""

SHARED = 0.1
"""An event shares light with its own neighbours if their mean share of its amplitude is surely above this."""

LEAST_ERROR = 0.01
"""Smallest standard error of the light that one voxel shares: the neighbours' median is no exact background."""

CAP = 30.0
"""Height from which on a voxel gets no more weight in the mean of the light shared."""

BACKGROUND = 0.06
"""Variance of the median of 26 normal neighbours, as a share of the variance of one."""

PART = 1 << 16
"""Candidates handled at a time: 26 neighbours each."""

ERRORS = 3.0
"""Standard errors that a conclusion needs."""


class Events(NamedTuple):
    """Voxels of one sign that stand out, with what their neighbours show; arrays of one length."""

    positions: Positions
    height: Floats
    """Distance from the median of the neighbours over the standard deviation of the neighbours, positive."""
    neighbours: Positions
    """Measured neighbours among the 26."""
    comparable: Positions
    """How many of these are at least half as far from that median, on the same side."""
    beside: Positions
    """How many of the comparable ones lie in the plane of the event."""
    lateral: Floats
    """Mean of ``N / A`` over the other neighbours in the plane that share a face; NaN without any."""
    lateral_low: Floats
    """Their lower median: light is shared on all sides, and another event lies on one."""
    lateral_count: Positions
    axial: Floats
    """The same along z."""
    axial_count: Positions
    chance: Floats
    """Share of all voxels that are comparable: the probability that a neighbour is, by chance."""
    sharing: Positions
    """How many of the neighbours that share a face and are not comparable have more than a tenth of its light."""
    sharing_chance: Floats
    """Share of all voxels that have more than that."""

    def where(self, chosen: Bools) -> Events:
        """Some of the events."""
        columns: list[Any] = [column[chosen] for column in self]
        return Events(*columns)


def events_of(field: Field, trusted: Array, candidates: Positions, scale: Scale, sign: int) -> Events:
    """The candidates of one sign (1 bright, -1 dark), and what their neighbours show."""
    xp, plane = namespace_of(trusted), trusted[0].size
    sound = excluding(trusted, candidates)
    parts: list[tuple[Array, ...]] = []
    for slab in parts_of(trusted):
        here = candidates[(candidates >= slab.start * plane) & (candidates < slab.stop * plane)]
        if not len(here):
            continue
        wide, _ = widened(slab, len(trusted), 1)
        planes = field.planes(wide)
        for first in range(0, len(here), PART):
            part = from_host(here[first : first + PART] - wide.start * plane, trusted)
            found, level = _events(planes, trusted[wide], sound[wide], part, scale, sign)
            parts.append((*found._replace(positions=found.positions + wide.start * plane), level))
    columns: list[Any] = [*_none(), np.zeros(0)]
    if parts:
        several = (to_host(xp.concat(each)) for each in zip(*parts, strict=True))
        columns = [np.concatenate(each) for each in zip(columns, several, strict=True)]
    events, level = Events(*columns[:-1]), columns[-1]
    chance, sharing = (scale.share_beyond(level, distance, sign) for distance in (events.chance, events.sharing_chance))
    return events._replace(chance=chance, sharing_chance=sharing)


def _none() -> Events:
    whole, real = np.zeros(0, np.intp), np.zeros(0)
    return Events(whole, real, whole, whole, whole, real, real, whole, real, whole, real, whole, real)


def _events(
    planes: Planes, trusted: Array, sound: Array, positions: Array, scale: Scale, sign: int
) -> tuple[Events, Array]:
    """Events of one part of a slab, with distances in place of chances, and their levels, where the planes lie."""
    xp = namespace_of(trusted)
    middle = linear_middle(planes, sound, positions)
    own = xp.astype(sign * (planes.linear.ravel()[positions] - middle), xp.float64)
    of_sign = own > 0
    positions, own, middle = positions[of_sign], own[of_sign], middle[of_sign]
    level = compared(planes, sound, positions, 1).level
    sigma, bias = scale.linear_at(level)
    share = sign * (neighbours(planes.linear, trusted, positions) - (middle + bias)[:, None]) / own[:, None]
    comparable, measured = share >= COMPARABLE, ~xp.isnan(share)
    share[comparable] = np.nan
    in_plane, lateral, axial = (from_host(columns, share) for columns in (IN_PLANE, LATERAL, AXIAL))
    lateral, axial = share[:, lateral], share[:, axial]
    counts = (~xp.isnan(lateral)).sum(axis=1), (~xp.isnan(axial)).sum(axis=1)
    sharing = xp.sum(lateral > SHARED, axis=1) + xp.sum(axial > SHARED, axis=1)
    found = Events(
        positions, own / sigma, measured.sum(axis=1), comparable.sum(axis=1), comparable[:, in_plane].sum(axis=1),
        _mean(lateral, counts[0]), _lower_median(lateral, counts[0]), counts[0], _mean(axial, counts[1]), counts[1],
        COMPARABLE * own + sign * bias, sharing, SHARED * own + sign * bias,
    )  # fmt: skip
    return found, level


def _mean(values: Array, count: Array) -> Array:
    """Mean over each row without NaN; NaN where there is nothing else."""
    xp = namespace_of(values)
    mean = xp.nansum(values, axis=1) / xp.maximum(count, 1)
    return xp.where(count > 0, mean, xp.asarray(np.nan, dtype=mean.dtype))


def _lower_median(values: Array, count: Array) -> Array:
    """Lower median of each row without NaN; NaN where there is nothing else."""
    xp = namespace_of(values)
    ordered = xp.sort(values, axis=1)  # NaN last
    return xp.take_along_axis(ordered, xp.maximum(count - 1, 0)[:, None] // 2, axis=1)[:, 0]


def clustered(events: Events, *, rare: bool = False) -> Bools:
    """Which events touch others as bright more often than voxels at independent places do."""
    return more_than_chance(events.comparable, events.neighbours, events.chance, rare=rare)


def more_than_chance(found: Positions, among: Positions, chance: Floats, *, rare: bool) -> Bools:
    """Which events have more neighbours of a kind, among those measured, than chance explains.

    The step-up rule of Benjamini and Hochberg (doi:10.1111/j.2517-6161.1995.tb02031.x): where structure is rare, one
    touching event in many is chance; where most events touch others, one touching event is structure. How many events
    are no structure is told by those that touch none (J. D. Storey, doi:10.1111/1467-9868.00346), unless structure is
    taken to be rare.
    """
    from scipy.stats import binom

    rate = np.minimum(1, CROWDED * chance)
    p = binom.sf(found - 1, among, rate)
    alone, alone_by_chance = np.count_nonzero(found == 0), float(np.sum((1 - rate) ** among))
    chances = len(p) if rare or alone_by_chance == 0 else len(p) * min(1.0, alone / alone_by_chance)
    order = np.argsort(p)
    passed = np.flatnonzero(p[order] * chances <= CLUSTERED * np.arange(1, len(order) + 1))
    limit = p[order[passed[-1]]] if len(passed) else -1.0
    return np.asarray((found > 0) & (p <= limit))


def noise_of_share(events: Events, count: Positions) -> Floats:
    """Standard deviation, by noise, of the mean light that each event shares with so many neighbours."""
    return np.asarray(np.sqrt(1 / np.maximum(count, 1) + BACKGROUND) / events.height)


def share_error(events: Events, count: Positions) -> Floats:
    """Standard error of that mean: structure moves the background, too."""
    return np.maximum(noise_of_share(events, count), LEAST_ERROR)


def shares_in_plane(events: Events) -> Bools:
    """Which events share light with their neighbours in the plane by more than noise explains."""
    with np.errstate(invalid="ignore"):
        return np.asarray(events.lateral - (ERRORS + 0.5) * share_error(events, events.lateral_count) > SHARED)


def seems_to_share(events: Events) -> Bools:
    """Which events share light with neighbours in the plane or along z by more than noise explains."""
    with np.errstate(invalid="ignore"):
        axial = events.axial - (ERRORS + 0.5) * share_error(events, events.axial_count) > SHARED
    return np.asarray(shares_in_plane(events) | axial)


def shares_light(events: Events, *, rare: bool = False) -> Bools:
    """Which events share light by more than noise explains, and not since another event lies beside them by chance."""
    faces = events.lateral_count + events.axial_count
    return seems_to_share(events) & more_than_chance(events.sharing, faces, events.sharing_chance, rare=rare)


def mean_share(share: Floats, count: Positions, height: Floats) -> tuple[float, float, int]:
    """Weighted mean of the light shared, its standard error, and the number of events with a neighbour."""
    seen = count > 0
    number = int(np.count_nonzero(seen))
    if number == 0:
        return 0.0, np.inf, 0
    weight = np.asarray(np.minimum(height[seen], CAP) ** 2 * count[seen], np.float64)
    weight = weight / weight.sum()
    mean = float(weight @ share[seen])
    scatter = float(np.sqrt(np.sum((weight * (share[seen] - mean)) ** 2)))
    return mean, max(scatter, LEAST_ERROR * float(np.sqrt(np.sum(weight**2)))), number
