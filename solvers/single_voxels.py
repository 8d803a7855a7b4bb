"""Single voxels that stand out from their measured neighbours, and what these neighbours show of them.

The search works on a field: the measured intensities, or what a model left of them. A voxel is a candidate if it is
much further from the median of its neighbours than voxels of that level usually are, and than most of its neighbours.
Of each candidate its :class:`Events` say how much of its light the neighbours share, and how many are as bright.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .anscombe import generalised_anscombe
from .neighbourhoods import AXIAL, IN_PLANE, LATERAL, neighbours, standing_out, surroundings
from .noise import FLOOR_SHARE, NoiseModel
from .results import CompletionResult
from .slabs import model_planes, slabs, widened
from .spread import robust_sigma

Floats = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]
Positions = npt.NDArray[np.integer]

FAR = 5.0
"""A candidate is further from the median of its neighbours than so many standard deviations of such distances."""

SPREADS = 3.0
"""It is also further than this multiple of the distance within which four in five of the neighbours lie."""

ROUNDS = 3
"""Rounds of the search: candidates no longer count as neighbours, since two in one neighbourhood hide each other."""

SAMPLE = 40_000
"""Voxels from which the typical distance from the neighbours' median is estimated, as a function of the level."""

CLASSES, CLASS = 24, 400
"""Most classes of the level, and fewest voxels in a class."""

LEAST = 1e-4
"""Smallest typical distance, as a share of the range of the levels: data without noise have exact neighbours."""

COMPARABLE = 0.5
"""A neighbour with this share of the amplitude counts as bright as the voxel itself."""

CLUSTERED = 0.5
"""Largest share of chance among the events that are taken for structure since they touch others as bright."""

CROWDED = 1.5
"""How much more densely than the share of all voxels of a level independent places may lie where structure is."""

SHARED = 0.1
"""An event shares light with its own neighbours if their mean share of its amplitude is surely above this."""

ERRORS = 3.0
"""Standard errors that a conclusion needs."""

LEAST_ERROR = 0.01
"""Smallest standard error of the light that one voxel shares: the neighbours' median is no exact background."""

CAP = 30.0
"""Height from which on a voxel gets no more weight in the mean of the light shared."""

BACKGROUND = 0.06
"""Variance of the median of 26 normal neighbours, as a share of the variance of one."""

PART = 1 << 16
"""Candidates handled at a time: 26 neighbours each."""


class Planes(NamedTuple):
    """Some planes of a field."""

    values: Floats
    """What is searched: its noise has about the same standard deviation everywhere."""
    linear: Floats
    """The same in the data's unit, in which light adds."""
    levels: Floats | None
    """The model, in the form of ``values``; None where the level of a voxel is the median of its neighbours."""


class Field(NamedTuple):
    """A stack in which single voxels are looked for, or the residual of its model.

    Attributes
    ----------
    stack : float array ``(Z, Y, X)``
        Measured intensities.
    noise : NoiseModel
        Shot noise is stabilised by it (:mod:`tensorcell.solvers.anscombe`), since a dead voxel among bright ones is
        much less probable than a Gaussian tail says, and a bright one among dark ones much more.
    fit : CompletionResult or None
        With it the field is the residual of the model; without, it is the intensities.
    fewest : int
        Fewest measured neighbours of a voxel that is judged. With a fit it may be 0: the model is then compared with.
    """

    stack: Floats
    noise: NoiseModel
    fit: CompletionResult | None = None
    fewest: int = 5

    def planes(self, wide: slice) -> Planes:
        """The field on a range of planes."""
        measured = self.stack[wide]
        values = evened(measured, self.noise)
        if self.fit is None:
            return Planes(values, measured, None)
        model = model_planes(self.fit, wide).astype(measured.dtype, copy=False)
        levels = evened(model, self.noise)
        return Planes(values - levels, measured - model, levels)

    def noise_floor(self, intensity: float) -> tuple[float, float]:
        """Smallest standard deviation of the noise at an intensity: of ``values``, and in the data's unit.

        A single photon, whose signal is the gain, belongs to the noise even where the mean is nothing.
        """
        linear = math.sqrt(float(self.noise.variance(np.array(intensity))) + self.noise.gain**2)
        return (1.0 if self.noise.gain else linear), linear


def evened(intensities: Floats, noise: NoiseModel) -> Floats:
    """Stabilised intensities; where the variance falls to its floor, or a photon's, they go on along the tangent.

    The root ends at the pedestal, so that a dead pixel, which gives 0 on a pedestal of 100, would differ from the
    background by nothing.
    """
    if noise.gain == 0:
        return intensities
    variance = max(1.0, noise.floor / FLOOR_SHARE / noise.gain**2)  # in squares of a photon's signal
    lowest = noise.gain * (variance - 0.375) - noise.offset / noise.gain
    values = generalised_anscombe(np.maximum(intensities, lowest), noise)
    below = np.minimum(intensities - lowest, 0) / intensities.dtype.type(noise.gain * math.sqrt(variance))
    return np.asarray(values + below, dtype=intensities.dtype)


class Scale(NamedTuple):
    """How far sound voxels are from the median of their neighbours, as a function of the level."""

    level: Floats
    sigma: Floats
    """Standard deviation of what is searched."""
    linear: Floats
    """The same in the data's unit."""
    bias: Floats
    """Mean distance in the data's unit: that of skewed noise is not 0. What spots add to it is light."""
    sample: tuple[Floats, ...] = ()
    """Distances in the data's unit, of a sample of each class."""

    def at(self, level: Floats) -> Floats:
        """Standard deviation of what is searched at such levels."""
        return np.asarray(np.interp(level, self.level, self.sigma))

    def linear_at(self, level: Floats) -> tuple[Floats, Floats]:
        """Standard deviation and bias in the data's unit."""
        return np.interp(level, self.level, self.linear), np.interp(level, self.level, self.bias)

    def share_beyond(self, level: Floats, distance: Floats, sign: int) -> Floats:
        """Share of the voxels that are so far, or further, on one side (1 above, -1 below).

        Of the levels at which nine in ten events are: dark ones need bright levels.
        """
        if not len(level):
            return np.zeros(0)
        edge = int(np.searchsorted((self.level[1:] + self.level[:-1]) / 2, np.quantile(level, 0.5 + 0.4 * sign)))
        visible = self.sample[: edge + 1] if sign > 0 else self.sample[edge:]
        sample = np.sort(-sign * np.concatenate(visible))
        beyond = np.searchsorted(sample, -distance, side="right")
        return (beyond + 1) / (len(sample) + 1)  # that of the voxel itself is not known to be smaller


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


class Surroundings(NamedTuple):
    """Of some voxels: what the field is, the median and the spread of the neighbours, and the level."""

    value: Floats
    middle: Floats
    spread: Floats
    level: Floats


def compared(planes: Planes, sound: Bools, positions: Positions, fewest: int) -> Surroundings:
    """Compare voxels (flat positions) of a field with their sound neighbours; NaN where there are too few of these.

    Where the field is a residual and a voxel has fewer than 5 sound neighbours, it is compared with 0, the model.
    """
    values, levels = planes.values, planes.levels
    middle, spread = surroundings(values, sound, positions, max(1, fewest))
    if levels is None:
        return Surroundings(values.ravel()[positions], middle, spread, middle)
    if fewest == 0:
        alone = np.isnan(surroundings(values, sound, positions, 5)[0])
        middle, spread = np.where(alone, 0, middle), np.where(alone, 0, spread)
    return Surroundings(values.ravel()[positions], middle, spread, levels.ravel()[positions])


def linear_middle(planes: Planes, sound: Bools, positions: Positions) -> Floats:
    """Median of the sound neighbours in the data's unit; 0, the model, where a residual has fewer than 5 of them."""
    middle, _ = surroundings(planes.linear, sound, positions, 1 if planes.levels is None else 5)
    return middle if planes.levels is None else np.nan_to_num(middle)


def typical_distances(field: Field, trusted: Bools, sound: Bools, seed: int = 0) -> Scale:
    """How far voxels are from the median of their neighbours, in classes of the level.

    Where light is so faint that most voxels caught no photon, the median of the distances says nothing about those
    that did. So no distance is taken to be smaller than the noise. Of the trusted voxels all are in the sample, and the
    sound ones among them tell what is typical.
    """
    share = SAMPLE / max(1, int(np.count_nonzero(trusted)))
    rng = np.random.default_rng([seed, 12])
    parts = []
    for slab in slabs(trusted.shape):
        wide, inner = widened(slab, len(trusted), 1)
        planes = field.planes(wide)
        chosen = np.zeros_like(trusted[wide])
        chosen[inner] = trusted[slab] & (rng.random(trusted[slab].shape, np.float32) < share)
        places = np.flatnonzero(chosen)
        seen = compared(planes, sound[wide], places, field.fewest)
        off = planes.linear.ravel()[places] - linear_middle(planes, sound[wide], places)
        flat = field.stack[wide].ravel()[places], sound[wide].ravel()[places]
        parts.append((seen.level, seen.value - seen.middle, off, *flat))
    level, off, linear, measured, good = (
        np.concatenate(columns).astype(np.float64) for columns in zip(*parts, strict=True)
    )
    known = ~(np.isnan(off) | np.isnan(linear))
    if not np.any(good[known]):
        return Scale(np.zeros(1), np.full(1, np.inf), np.full(1, np.inf), np.zeros(1))
    level, off, linear, measured, good = (column[known] for column in (level, off, linear, measured, good))
    rounding = LEAST * float(np.ptp(level)), LEAST * float(np.ptp(measured))
    rows, samples = [], []
    for everything in np.array_split(np.argsort(level, kind="stable"), max(1, min(CLASSES, len(level) // CLASS))):
        part = everything[good[everything] > 0]
        if not len(part):
            continue
        floor = field.noise_floor(float(np.median(measured[part])))
        sigma = max(robust_sigma(off[part]), rounding[0], floor[0])
        wide_sigma = max(robust_sigma(linear[part]), rounding[1], floor[1])
        bias = float(np.mean(np.clip(linear[part], -3 * wide_sigma, 3 * wide_sigma)))
        bias = max(-floor[1], min(floor[1], bias))  # mean and median of noise: at most one standard deviation apart
        rows.append((float(np.median(level[part])), sigma, wide_sigma, bias))
        samples.append(linear[everything])
    middle, sigma, wide_sigma, bias_ = np.array(rows).T
    return Scale(middle, sigma, wide_sigma, bias_, tuple(samples))


def find_candidates(field: Field, trusted: Bools, scale: Scale, known: Positions) -> Positions:
    """Flat positions of the voxels that stand out from their neighbours, ascending: those known, and more in rounds."""
    plane = trusted[0].size
    sound = trusted.copy()
    sound.ravel()[known] = False
    found = known
    for _ in range(ROUNDS):
        fresh = []
        for slab in slabs(trusted.shape):
            wide, inner = widened(slab, len(trusted), 1)
            planes = field.planes(wide)
            wanted = np.zeros_like(sound[wide])
            wanted[inner] = sound[slab]
            near = standing_out(planes.values, sound[wide], wanted, FAR * float(scale.sigma.min()))
            seen = compared(planes, sound[wide], near, field.fewest)
            with np.errstate(invalid="ignore"):
                far = np.abs(seen.value - seen.middle) > FAR * scale.at(seen.level)
            far[far] = beyond_spread(planes, sound[wide], near[far], seen, far)
            fresh.append(near[far] + wide.start * plane)
        new = np.concatenate(fresh)
        if not len(new):
            break
        sound.ravel()[new] = False
        found = np.concatenate([found, new])
    return np.sort(found)


def beyond_spread(planes: Planes, sound: Bools, positions: Positions, seen: Surroundings, far: Bools) -> Bools:
    """Which voxels are further from the median of their neighbours than most of these are.

    What is searched or the data's unit decides, whichever is clearer: at the edge of a structure stabilised noise
    spreads the dark values, and the data's unit the bright ones.
    """
    with np.errstate(invalid="ignore"):
        found = np.abs(seen.value[far] - seen.middle[far]) > SPREADS * seen.spread[far]
        if planes.values is not planes.linear and planes.levels is None:
            middle, spread = surroundings(planes.linear, sound, positions, 1)
            found |= np.abs(planes.linear.ravel()[positions] - middle) > SPREADS * spread
    return np.asarray(found)


def events_of(field: Field, trusted: Bools, candidates: Positions, scale: Scale, sign: int) -> Events:
    """The candidates of one sign (1 bright, -1 dark), and what their neighbours show."""
    plane = trusted[0].size
    sound = trusted.copy()
    sound.ravel()[candidates] = False
    parts, levels = [_none()], [_none().height]
    for slab in slabs(trusted.shape):
        here = candidates[(candidates >= slab.start * plane) & (candidates < slab.stop * plane)]
        if not len(here):
            continue
        wide, _ = widened(slab, len(trusted), 1)
        planes = field.planes(wide)
        for first in range(0, len(here), PART):
            part = here[first : first + PART] - wide.start * plane
            found, level = _events(planes, trusted[wide], sound[wide], part, scale, sign)
            parts.append(found._replace(positions=found.positions + wide.start * plane))
            levels.append(level)
    events, level = Events(*(np.concatenate(columns) for columns in zip(*parts, strict=True))), np.concatenate(levels)
    chance, sharing = (scale.share_beyond(level, distance, sign) for distance in (events.chance, events.sharing_chance))
    return events._replace(chance=chance, sharing_chance=sharing)


def _none() -> Events:
    whole, real = np.zeros(0, np.intp), np.zeros(0)
    return Events(whole, real, whole, whole, whole, real, real, whole, real, whole, real, whole, real)


def _events(
    planes: Planes, trusted: Bools, sound: Bools, positions: Positions, scale: Scale, sign: int
) -> tuple[Events, Floats]:
    """Events of one part of a slab, with distances in place of chances, and their levels."""
    middle = linear_middle(planes, sound, positions)
    own = (sign * (planes.linear.ravel()[positions] - middle)).astype(np.float64)
    of_sign = own > 0
    positions, own, middle = positions[of_sign], own[of_sign], middle[of_sign]
    level = compared(planes, sound, positions, 1).level
    sigma, bias = scale.linear_at(level)
    share = sign * (neighbours(planes.linear, trusted, positions) - (middle + bias)[:, None]) / own[:, None]
    comparable, measured = share >= COMPARABLE, ~np.isnan(share)
    share[comparable] = np.nan
    lateral, axial = share[:, LATERAL], share[:, AXIAL]
    counts = (~np.isnan(lateral)).sum(axis=1), (~np.isnan(axial)).sum(axis=1)
    sharing = np.sum(lateral > SHARED, axis=1) + np.sum(axial > SHARED, axis=1)
    found = Events(
        positions, own / sigma, measured.sum(axis=1), comparable.sum(axis=1), comparable[:, IN_PLANE].sum(axis=1),
        _mean(lateral, counts[0]), _lower_median(lateral, counts[0]), counts[0], _mean(axial, counts[1]), counts[1],
        COMPARABLE * own + sign * bias, sharing, SHARED * own + sign * bias,
    )  # fmt: skip
    return found, level


def _mean(values: Floats, count: Positions) -> Floats:
    """Mean over each row without NaN; NaN where there is nothing else."""
    return np.where(count > 0, np.nansum(values, axis=1) / np.maximum(count, 1), np.nan)


def _lower_median(values: Floats, count: Positions) -> Floats:
    """Lower median of each row without NaN; NaN where there is nothing else."""
    ordered = np.sort(values, axis=1)  # NaN last
    return np.take_along_axis(ordered, np.maximum(count - 1, 0)[:, None] // 2, axis=1)[:, 0]


def clustered(events: Events) -> Bools:
    """Which events touch others as bright more often than voxels at independent places do."""
    return more_than_chance(events.comparable, events.neighbours, events.chance)


def more_than_chance(found: Positions, among: Positions, chance: Floats) -> Bools:
    """Which events have more neighbours of a kind, among those measured, than chance explains.

    The step-up rule of Benjamini and Hochberg (doi:10.1111/j.2517-6161.1995.tb02031.x): where structure is rare, one
    touching event in many is chance; where most events touch others, one touching event is structure.
    """
    from scipy.stats import binom

    p = binom.sf(found - 1, among, np.minimum(1, CROWDED * chance))
    order = np.argsort(p)
    passed = np.flatnonzero(p[order] * len(order) <= CLUSTERED * np.arange(1, len(order) + 1))
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


def shares_light(events: Events) -> Bools:
    """Which events share light by more than noise explains, and not since another event lies beside them by chance."""
    faces = events.lateral_count + events.axial_count
    return seems_to_share(events) & more_than_chance(events.sharing, faces, events.sharing_chance)


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
