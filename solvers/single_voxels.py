"""Single voxels that stand out from their measured neighbours: the candidates.

The search works on a field: the measured intensities, or what a model left of them. A voxel is a candidate if it is
much further from the median of its neighbours than voxels of that level usually are, and than most of its neighbours.
What its neighbours show of it (:mod:`tensorcell.solvers.events`) decides what it is.

All voxels are compared where the stack lies, NumPy or CuPy. Candidates, and what is typical, are on the host.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .anscombe import generalised_anscombe
from .arrays import Array, count, from_host, interpolated, namespace_of, to_host
from .neighbourhoods import excluding, standing_out, surroundings
from .noise import FLOOR_SHARE, NoiseModel
from .results import CompletionResult
from .slabs import model_planes, parts_of, widened
from .spread import robust_sigma

Floats = npt.NDArray[np.floating]
Positions = npt.NDArray[np.integer]

FAR = 5.0
"""A candidate is further from the median of its neighbours than so many standard deviations of such distances."""

SPREADS = 3.0
"""It is also further than this multiple of the distance within which four in five of the neighbours lie."""

FEW = 5
"""A voxel of a residual that has fewer sound neighbours is compared with 0, the model."""

ROUNDS = 3
"""Rounds of the search: candidates no longer count as neighbours, since two in one neighbourhood hide each other."""

SAMPLE = 40_000
"""Voxels from which the typical distance from the neighbours' median is estimated, as a function of the level."""

CLASSES, CLASS = 24, 400
"""Most classes of the level, and fewest voxels in a class."""

LEAST = 1e-4
"""Smallest typical distance, as a share of the range of the levels: data without noise have exact neighbours."""


class Planes(NamedTuple):
    """Some planes of a field."""

    values: Array
    """What is searched: its noise has about the same standard deviation everywhere."""
    linear: Array
    """The same in the data's unit, in which light adds."""
    levels: Array | None
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
        With it the field is the residual of the model; without, it is the intensities. It lies where the stack does.
    fewest : int
        Fewest measured neighbours of a voxel that is judged. With a fit it may be 0: the model is then compared with.
    """

    stack: Array
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
        if self.noise.gain == 0:
            residual = measured - model
            return Planes(residual, residual, model)
        levels = evened(model, self.noise)
        return Planes(values - levels, measured - model, levels)

    def noise_floor(self, intensity: float) -> tuple[float, float]:
        """Smallest standard deviation of the noise at an intensity: of ``values``, and in the data's unit.

        A single photon, whose signal is the gain, belongs to the noise even where the mean is nothing.
        """
        linear = math.sqrt(float(self.noise.variance(np.array(intensity))) + self.noise.gain**2)
        return (1.0 if self.noise.gain else linear), linear


def evened(intensities: Array, noise: NoiseModel) -> Array:
    """Stabilised intensities; where the variance falls to its floor, or a photon's, they go on along the tangent.

    The root ends at the pedestal, so that a dead pixel, which gives 0 on a pedestal of 100, would differ from the
    background by nothing.
    """
    if noise.gain == 0:
        return intensities
    variance = max(1.0, noise.floor / FLOOR_SHARE / noise.gain**2)  # in squares of a photon's signal
    lowest = noise.gain * (variance - 0.375) - noise.offset / noise.gain
    xp = namespace_of(intensities)
    values = generalised_anscombe(xp.maximum(intensities, lowest), noise)
    below = xp.minimum(intensities - lowest, 0) / intensities.dtype.type(noise.gain * math.sqrt(variance))
    return xp.astype(values + below, intensities.dtype, copy=False)


class Scale(NamedTuple):
    """How far sound voxels are from the median of their neighbours, as a function of the level.

    It is known on the host, and told where the levels lie that it is asked for.
    """

    level: Floats
    sigma: Floats
    """Standard deviation of what is searched."""
    linear: Floats
    """The same in the data's unit."""
    bias: Floats
    """Mean distance in the data's unit: that of skewed noise is not 0. What spots add to it is light."""
    sample: tuple[Floats, ...] = ()
    """Distances in the data's unit, of a sample of each class."""

    def at(self, level: Array) -> Array:
        """Standard deviation of what is searched at such levels."""
        return interpolated(level, self.level, self.sigma)

    def linear_at(self, level: Array) -> tuple[Array, Array]:
        """Standard deviation and bias in the data's unit."""
        return interpolated(level, self.level, self.linear), interpolated(level, self.level, self.bias)

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


class Surroundings(NamedTuple):
    """Of some voxels: what the field is, the median and the spread of the neighbours, and the level."""

    value: Array
    middle: Array
    spread: Array
    level: Array


def compared(planes: Planes, sound: Array, positions: Array, fewest: int) -> Surroundings:
    """Compare voxels (flat positions) of a field with their sound neighbours; NaN where there are too few of these.

    Of a residual, ``fewest`` may be 0: a voxel with fewer than ``FEW`` of them is then compared with 0, the model.
    """
    xp, values, levels = namespace_of(sound), planes.values, planes.levels
    middle, spread, number = surroundings(values, sound, positions)
    few = number < (fewest or FEW)
    unknown = xp.asarray(np.nan if fewest else 0, dtype=values.dtype)
    middle, spread = xp.where(few, unknown, middle), xp.where(few, unknown, spread)
    level = middle if levels is None else levels.ravel()[positions]
    return Surroundings(values.ravel()[positions], middle, spread, level)


def linear_middle(planes: Planes, sound: Array, positions: Array) -> Array:
    """Median of the sound neighbours in the data's unit; 0, the model, where a residual has fewer than ``FEW``."""
    middle, _, number = surroundings(planes.linear, sound, positions)
    if planes.levels is None:
        return middle
    xp = namespace_of(middle)
    return xp.where(number < FEW, xp.zeros_like(middle), middle)


def typical_distances(field: Field, trusted: Array, sound: Array, seed: int = 0) -> Scale:
    """How far voxels are from the median of their neighbours, in classes of the level.

    Where light is so faint that most voxels caught no photon, the median of the distances says nothing about those
    that did. So no distance is taken to be smaller than the noise. Of the trusted voxels all are in the sample, and the
    sound ones among them tell what is typical.
    """
    xp, share = namespace_of(trusted, sound), SAMPLE / max(1, count(trusted))
    rng = np.random.default_rng([seed, 12])
    parts = []
    for slab in parts_of(trusted):
        wide, inner = widened(slab, len(trusted), 1)
        planes = field.planes(wide)
        drawn = np.flatnonzero(rng.random(trusted[slab].size, np.float32) < share) + inner.start * trusted[0].size
        places = from_host(drawn, trusted)
        places = places[trusted[wide].ravel()[places]]
        seen = compared(planes, sound[wide], places, field.fewest)
        same = planes.linear is planes.values
        off = planes.linear.ravel()[places] - (seen.middle if same else linear_middle(planes, sound[wide], places))
        flat = field.stack[wide].ravel()[places], sound[wide].ravel()[places]
        parts.append((seen.level, seen.value - seen.middle, off, *flat))
    level, off, linear, measured, good = (
        to_host(xp.concat(columns)).astype(np.float64) for columns in zip(*parts, strict=True)
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


def find_candidates(field: Field, trusted: Array, scale: Scale, known: Positions) -> Positions:
    """Flat positions of the voxels that stand out from their neighbours, ascending: those known, and more in rounds."""
    xp, plane = namespace_of(trusted), trusted[0].size
    sound = excluding(trusted, known)
    found = known
    for _ in range(ROUNDS):
        fresh = []
        for slab in parts_of(trusted):
            wide, inner = widened(slab, len(trusted), 1)
            planes = field.planes(wide)
            wanted = xp.zeros_like(sound[wide])
            wanted[inner] = sound[slab]
            near = standing_out(planes.values, sound[wide], wanted, FAR * float(scale.sigma.min()))
            seen = compared(planes, sound[wide], near, field.fewest)
            with np.errstate(invalid="ignore"):
                far = xp.abs(seen.value - seen.middle) > FAR * scale.at(seen.level)
            near, seen = near[far], Surroundings(*(column[far] for column in seen))
            fresh.append(near[beyond_spread(planes, sound[wide], near, seen)] + wide.start * plane)
        new = to_host(xp.concat(fresh))
        if not len(new):
            break
        sound.ravel()[from_host(new, sound)] = False
        found = np.concatenate([found, new])
    return np.sort(found)


def beyond_spread(planes: Planes, sound: Array, positions: Array, seen: Surroundings) -> Array:
    """Which voxels are further from the median of their neighbours than most of these are.

    What is searched or the data's unit decides, whichever is clearer: at the edge of a structure stabilised noise
    spreads the dark values, and the data's unit the bright ones.
    """
    xp = namespace_of(sound)
    with np.errstate(invalid="ignore"):
        found = xp.abs(seen.value - seen.middle) > SPREADS * seen.spread
        if planes.values is not planes.linear and planes.levels is None:
            middle, spread, _ = surroundings(planes.linear, sound, positions)
            found |= xp.abs(planes.linear.ravel()[positions] - middle) > SPREADS * spread
    return found
