"""Which measured voxels are defects of the camera, and which are as narrow as one voxel but may be signal.

A microscope draws nothing narrower than its point spread function (PSF), so that light is shared by neighbours. A
camera does not share: the wrong values of dead, stuck and hot pixels and of single impulses end at the voxel. Three
observations tell the two from each other; brightness is none of them, since the rarest structures are the brightest.

1. **Place.** A pixel that differs from its neighbours in (nearly) all planes, or again and again, is a pixel of the
   camera (:mod:`tensorcell.solvers.camera_pixels`).
2. **Sign.** Fluorescence adds light. A single voxel darker than everything around it is wrong.
3. **Width.** With the amplitude ``A`` of a bright voxel and the excess ``N`` of its lateral neighbours, ``N / A`` is
   that of the narrowest PSF or more if it is light, and 0 if it is an impulse. Of one voxel noise seldom lets anybody
   tell; of many the mean does. They are defects if their mean excludes the narrowest PSF, and if the rest of the stack
   shows that its optics draw wider (:mod:`tensorcell.solvers.optics`), or if the PSF was given.

Bright voxels that touch others as bright more often than independent places would (filaments, clusters, spots between
two pixels) are structure, and so are, among many impulses, those with light on all sides. Whatever remains open is
kept, and counted, so that the user can be told.
"""

from __future__ import annotations

import enum
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from .arrays import Array, count, from_host, namespace_of, to_host
from .camera_pixels import DEAD, HOT, STUCK, camera_pixels, repeated
from .events import (
    ERRORS,
    LEAST_ERROR,
    SHARED,
    Events,
    clustered,
    events_of,
    mean_share,
    noise_of_share,
    seems_to_share,
    share_error,
    shares_in_plane,
    shares_light,
)
from .neighbourhoods import excluding, values_at
from .noise import NoiseModel
from .optics import NO_WIDTH, Width, neighbours_alike, shared_light, structure_width
from .single_voxels import Field, find_candidates, typical_distances

Floats = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]
Positions = npt.NDArray[np.integer]


class Kind(enum.IntEnum):
    """What is wrong with a voxel."""

    DEAD = DEAD
    STUCK = STUCK
    HOT = HOT
    BRIGHT = 4
    DARK = 5


FEWEST = 5
"""Fewest measured voxels among the 26 neighbours of a voxel that is judged by the measurement alone."""

NARROWEST = 0.35
"""Standard deviation, in pixels, of the narrowest PSF that is considered: a microscope that samples more coarsely draws
spots that nobody can tell from impulses."""

SELECTED = 0.02
"""Where more voxels than this share are candidates, the others may look alike by selection: bright ones are left only
among bright ones. So the ranks of all must show that neighbours are alike before the others show a width."""

BETWEEN = 0.4
"""Standard deviation, in pixels, of a centred spot that shares less than spots of ``NARROWEST`` at places between the
centres of voxels do, on average."""

FREQUENT = 0.01
"""Share of the voxels from which on bright ones are frequent."""

RESOLVED = 0.6
"""If the structure of a stack is wider than spots of this standard deviation in pixels, its optics draw that wide."""

MANY = 10
"""Fewest bright voxels from whose mean a width is concluded."""

PROBABLE = 1.5
"""Standard errors above 0 of the mean light of a class of bright voxels from which on it probably is light."""

NEIGHBOURS = 2
"""Fewest measured neighbours in the plane by which a bright voxel is judged alone."""

ABOVE_MEDIAN = 0.6
"""Share of the light of the neighbours that is certain to show: the median from which they are measured holds a part of
it, a quarter for the narrowest spots, and structure around them moves it as much."""

COARSE = 0.5
"""Standard deviation, in pixels, of the narrowest PSF that is looked for among impulses: half of a pixel's light."""

IMPULSE = 2.0
"""Mean square error, in variances of the noise, that an impulse may cost since it may be kept."""

OCTAVES = (5.0, 10.0, 20.0, 40.0, 80.0)
"""Amplitudes, in standard deviations, at which classes of bright voxels begin."""


NOWHERE = np.zeros(0, np.intp)
"""No positions."""
NOWHERE.setflags(write=False)


@dataclass(frozen=True, eq=False)
class Defects:
    """Defects of a stack.

    Attributes
    ----------
    positions : int array ``(n,)``
        Flat, C order, ascending.
    kinds : uint8 array ``(n,)``
        A :class:`Kind` each.
    open_ : int
        Number of bright voxels as narrow as one voxel that were kept since they may be signal.
    width : Width
        How wide the structure of the stack is.
    shown : int array ``(m,)``
        Flat positions of the bright voxels that stand out from their neighbours and are no defects.
    """

    positions: Positions
    kinds: npt.NDArray[np.uint8]
    open_: int
    width: Width
    shown: Positions = field(default_factory=lambda: NOWHERE)

    def count(self, kind: Kind) -> int:
        """Number of voxels of one kind."""
        return int(np.count_nonzero(self.kinds == kind))

    def inliers(self, mask: Array) -> Array:
        """The mask (True = measured) without them; the mask itself where there are none."""
        return excluding(mask, self.positions) if len(self.positions) else mask


def find_defects(
    stack: Array,
    mask: Array,
    noise: NoiseModel,
    psf: Sequence[float] | None = None,
    seed: int = 0,
    known: Positions = NOWHERE,
) -> Defects:
    """Find the defects of a stack from the measurement alone.

    Parameters
    ----------
    stack : float array ``(Z, Y, X)``
        Measured intensities, NumPy or CuPy; any finite number where the mask is False.
    mask : bool array of the same shape and library
        True = measured.
    noise : NoiseModel
        Estimated with the defects, or given.
    psf : three floats, optional
        Standard deviation of the PSF along z, y and x, in voxels, where it was given. Bright voxels whose neighbours
        have less than half of the light that it would give them are then defects, whether they are many or not.
    seed : int
        Seed of the sample of voxels.
    known : int array
        Flat positions, ascending, that an earlier search took for defects: they are judged again, but count as
        neighbours of none from the start.

    Returns
    -------
    Defects
        On the host.

    Notes
    -----
    Time: three passes that compare each voxel with 26 neighbours, where the stack lies; candidates are judged on the
    host. Memory: three bytes a voxel, and a few hundred for each candidate of a slab.
    """
    xp, pixels = namespace_of(stack, mask), from_host(camera_pixels(stack, mask, noise), stack)
    kinds = xp.where(mask, pixels, xp.zeros_like(pixels))
    trusted = mask & (kinds == 0)
    searched = Field(stack, noise, fewest=FEWEST)
    known = known[values_at(trusted, known)]
    sound = excluding(trusted, known)
    scale = typical_distances(searched, trusted, sound, seed)
    candidates = find_candidates(searched, trusted, scale, known)
    again = hot_again(events_of(searched, trusted, candidates, scale, 1), trusted)
    trusted.ravel()[from_host(again, trusted)] = False
    candidates = candidates[~np.isin(candidates, again)]
    sound = excluding(trusted, candidates)
    selected = count(sound) < (1 - SELECTED) * count(trusted)
    if not selected or neighbours_alike(stack, trusted):
        width = structure_width(stack, sound)
    else:
        width = NO_WIDTH
    bright = events_of(searched, trusted, candidates, scale, 1)
    defect, open_ = judge_bright(bright, width, psf)
    dark = events_of(searched, trusted, candidates, scale, -1)
    for kind, places in (
        (Kind.HOT, again), (Kind.BRIGHT, bright.positions[defect]), (Kind.DARK, dark.positions[single(dark, rare=True)])
    ):  # fmt: skip
        kinds.ravel()[from_host(places, kinds)] = int(kind)
    positions = xp.flatnonzero(kinds)
    shown = bright.positions[~defect]
    found = to_host(positions), to_host(kinds.ravel()[positions])
    return Defects(*found, int(np.count_nonzero(open_)), width, shown)


def hot_again(events: Events, trusted: Array) -> Positions:
    """Positions of bright events of pixels that are hot in some planes.

    Two hot pixels may touch, so that one neighbour in the plane may be as bright; a filament has two, but for its ends.
    Spots can lie above each other: so neighbours that seem to share light count, even where noise may explain it.
    """
    with np.errstate(invalid="ignore"):
        alone = (events.beside <= 1) & ~shares_in_plane(events) & (events.lateral < SHARED)  # NaN: not seen
    return events.positions[repeated(events.positions, alone, trusted)]


def single(events: Events, *, rare: bool = False) -> Bools:
    """Which events are single voxels: neither as many side by side as structure has, nor sharing light.

    Dark structure as narrow as a voxel is rare.
    """
    return np.asarray(~clustered(events, rare=rare) & ~shares_light(events, rare=rare))


def judge_bright(events: Events, width: Width, psf: Sequence[float] | None = None) -> tuple[Bools, Bools]:
    """Which bright events are defects, and which are single voxels of which it remains open."""
    alone = single(events)
    if psf is not None:
        return alone & narrower_than(events, psf), np.zeros_like(alone)
    defect = np.zeros_like(alone)
    if width.lateral > RESOLVED:
        defect = alone & surely_narrow(events)
        seen = ~seems_to_share(events)  # single ones that seem to share have another one beside them
        everything = narrower_than_any_optics(events, np.flatnonzero(alone & seen))
        for part in _classes(events.height, alone):
            rest = part[seen[part]]
            defect[part] |= narrower_than_any_optics(events, rest) or (everything and not shine(events, rest))
        defect &= ~may_be_light(events)
    return defect, alone & ~defect


def _classes(height: Floats, single: Bools) -> list[Positions]:
    """Single events in classes of their amplitude; classes with few events are joined with the next brighter one."""
    edges = [0.0, *OCTAVES[1:], math.inf]
    classes: list[Positions] = []
    held = np.zeros(0, np.intp)
    for low, high in itertools.pairwise(edges):
        held = np.concatenate([held, np.flatnonzero(single & (height >= low) & (height < high))])
        if len(held) >= MANY:
            classes.append(held)
            held = np.zeros(0, np.intp)
    if len(held):
        last = classes.pop() if classes else np.zeros(0, np.intp)
        classes.append(np.concatenate([last, held]))
    return classes


def narrower_than_any_optics(events: Events, part: Positions) -> bool:
    """Whether the mean light that these events share with their neighbours excludes the narrowest PSF.

    Neither light nor impulses have a negative mean: if it is below 0, it is a wrong background, and is counted as 0.
    Where no light is seen at all and such voxels are frequent, the mean need not exclude that all of them are spots at
    the centres of their voxels: at places between, they would share more.
    """
    lateral, error, count = mean_share(events.lateral[part], events.lateral_count[part], events.height[part])
    unlit = count >= MANY and lateral <= PROBABLE * error and np.median(events.chance[part]) > FREQUENT
    narrowest = shared_light(BETWEEN if unlit else NARROWEST)
    if count < MANY or max(0.0, lateral) + ERRORS * error >= ABOVE_MEDIAN * narrowest:
        return False
    axial, error, count = mean_share(events.axial[part], events.axial_count[part], events.height[part])
    return count == 0 or axial - ERRORS * error < shared_light(NARROWEST)


def shine(events: Events, part: Positions) -> bool:
    """Whether these events probably share light: then they are judged without the others."""
    mean, error, count = mean_share(events.lateral[part], events.lateral_count[part], events.height[part])
    return count > 0 and mean > PROBABLE * error


def may_be_light(events: Events) -> Bools:
    """Which events have so much light beside them that few impulses have it by chance: they are kept among impulses.

    The brighter an impulse, the more a kept one costs: the error of a mean that is exceeded by chance with probability
    ``IMPULSE / height^2`` is required, so that kept impulses cost the noise of two voxels each, on average. Another
    impulse lies on one side; so no more than half of the neighbours may surely be without light.
    """
    from scipy.stats import norm

    least = ABOVE_MEDIAN * shared_light(COARSE)
    limit = norm.isf(np.minimum(0.5, IMPULSE / events.height**2)) * share_error(events, events.lateral_count)
    with np.errstate(invalid="ignore"):
        lit = (events.lateral > np.maximum(limit, least)) & (events.lateral_low + 2 / events.height > least)
    return np.asarray(lit & (events.lateral_count >= NEIGHBOURS))


def surely_narrow(events: Events) -> Bools:
    """Which events are each so bright that the light of the narrowest PSF would be seen beside them, and is not."""
    error = noise_of_share(events, events.lateral_count)
    with np.errstate(invalid="ignore"):
        light = np.maximum(events.lateral, 0)
        narrow = light + ERRORS * error < ABOVE_MEDIAN * shared_light(NARROWEST)
    return np.asarray(narrow & (events.lateral_count >= NEIGHBOURS))


def narrower_than(events: Events, psf: Sequence[float]) -> Bools:
    """Which events have neighbours with less than half of the light that a PSF would give them."""
    axial, lateral = 0.5 * shared_light(psf[0]), 0.5 * shared_light(math.sqrt(psf[1] * psf[2]))
    with np.errstate(invalid="ignore"):
        found = events.lateral + ERRORS * share_error(events, events.lateral_count) < lateral
        if axial > 2 * LEAST_ERROR:  # planes further apart than the PSF share nothing
            least = events.axial + ERRORS * share_error(events, events.axial_count) < axial
            found &= np.isnan(events.axial) | least
    return np.asarray(found)
