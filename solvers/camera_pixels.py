"""Pixels of the camera that are wrong in all planes, or again and again: dead, stuck and hot ones.

A pixel is compared with its eight neighbours in every plane. The median of the difference over all planes averages the
noise away, and the sample, too, unless it is the same in every plane. A pixel is wrong if its median difference stands
out from those of the pixels around it and most planes agree on it, or if it has one value in all planes while its
neighbours vary.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from .arrays import Array, to_host
from .events import BACKGROUND, COMPARABLE, ERRORS
from .neighbourhoods import DIAGONAL, LATERAL, column_statistics, neighbours, surroundings, values_at
from .noise import NoiseModel
from .spread import robust_sigma

Floats = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]
Positions = npt.NDArray[np.integer]

DEAD, STUCK, HOT = 1, 2, 3

FEWEST_PLANES = 4
"""Fewest planes in which a pixel must have been measured to be judged: a spot may fill two or three."""

FEWEST_NEIGHBOURS = 3
"""Fewest measured neighbours in the plane of a pixel that is judged."""

FAR = 7.0
"""The median difference exceeds so many standard deviations of such medians."""

SPREADS = 3.0
"""It also exceeds this multiple of the distance within which four in five of the pixels around it lie."""

SHARED = 0.2
"""A pixel whose neighbours in the plane may have this share of its difference from its corners may be a structure that
runs along z: one that gives them a quarter of its light."""

MANY_HOT, TOUCHING = 0.02, 0.05
"""Pixels that touch others as different are structure if the probability of so many is below the second number where
wrong pixels lie independently; the first one is the largest share of wrong pixels that is considered for that."""

AGREE = 0.75
"""Share of the planes that must show a third of that difference, and no fewer than ``FEWEST_PLANES`` of them."""

SAME = 0.9
"""A pixel is stuck if it repeats its value from plane to plane in this share of the planes."""

FEW_STUCK = 0.2
"""If values repeat those of the plane before more often than this, that is how the stack was made and no defect."""

CLASSES, CLASS = 8, 200
"""Most classes of the level of the surroundings, and fewest pixels in a class."""

SURPRISE = 1e-3
"""Expected number of pixels with so many events by chance below which repetition is no chance."""


def camera_pixels(stack: Array, mask: Array, noise: NoiseModel) -> npt.NDArray[np.uint8]:
    """Kind of every pixel ``(Y, X)``, on the host: 0 sound, 1 dead (stuck at a low value), 2 stuck, 3 hot.

    Parameters
    ----------
    stack : float array ``(Z, Y, X)``
    mask : bool array of the same shape
        True = measured.
    noise : NoiseModel
        The median of few photons is 0 or 1 nearly everywhere, so that its spread says nothing: differences count in
        standard deviations of the noise at least.

    Notes
    -----
    Time: one pass over the stack; memory: a few planes.
    """
    kinds = np.zeros(stack.shape[1:], np.uint8)
    if len(stack) < FEWEST_PLANES or min(stack.shape[1:]) < 3:
        return kinds
    excess, level, same, agreeing, used = map(to_host, column_statistics(stack, mask))
    judged = used >= FEWEST_PLANES
    if not judged.any():
        return kinds
    stuck = judged & (same >= SAME) & _no_chance(same, used, judged)
    off = judged & _far(excess, level, used, judged & ~stuck, noise)
    off &= (agreeing >= AGREE) & (agreeing * used > FEWEST_PLANES - 0.5)
    kinds[off & (excess > 0)] = HOT
    kinds[stuck & (off | _quiet(stuck))] = STUCK
    kinds[(kinds == STUCK) & (excess < 0)] = DEAD
    kinds[off & (excess < 0)] = DEAD
    return kinds


def _no_chance(same: Floats, used: Positions, judged: Bools) -> Bools:
    """Pixels whose repeated values are not expected by chance anywhere in the stack."""
    usual = float(np.mean(same[judged]))  # the probability that a value repeats the one of the plane before
    if usual > FEW_STUCK:
        return np.zeros_like(judged)
    return np.asarray(used[judged].size * usual ** np.maximum(used - 1, 1) < SURPRISE)


def _quiet(stuck: Bools) -> Bools:
    """Stuck pixels whose neighbours vary: a clipped background repeats its value, too, but not alone."""
    from scipy.ndimage import uniform_filter

    crowd = uniform_filter(stuck.astype(np.float32), 5, mode="constant")
    return np.asarray(stuck & (crowd * 25 < 12))


def _far(excess: Floats, level: Floats, used: Positions, judged: Bools, noise: NoiseModel) -> Bools:
    """Pixels whose median difference stands out among pixels of the same level, and from those around them."""
    found = np.zeros_like(judged)
    where = np.flatnonzero(judged)
    if not len(where):
        return found
    order = where[np.argsort(level.ravel()[where], kind="stable")]
    sigma = np.ones(excess.shape)
    scaled = np.nan_to_num(excess) * np.sqrt(used)
    least = 1e-4 * float(np.ptp(level.ravel()[where]))
    for part in np.array_split(order, max(1, min(CLASSES, len(order) // CLASS))):
        if len(part):
            middle = float(np.median(level.ravel()[part]))
            floor = math.sqrt(float(noise.variance(np.array(middle))) + noise.gain**2)
            sigma.ravel()[part] = max(robust_sigma(scaled.ravel()[part]), least, floor)
    far = judged & (np.abs(scaled) > FAR * sigma)
    places = np.flatnonzero(far)
    error = (sigma / np.sqrt(np.maximum(used, 1))).ravel()[places]
    image = np.nan_to_num(level + excess)
    found.ravel()[places] = _single(image[None], far[None], judged[None], places, error)
    return found


def _single(image: Floats, far: Bools, judged: Bools, places: Positions, sigma: Floats) -> Bools:
    """Which of the places in the median of all planes, ``(1, Y, X)``, are single pixels: no neighbour shares their
    difference as light is shared."""
    from scipy.stats import binom

    sound = ~far & judged
    middle, spread, known = surroundings(image, sound, places)
    middle[known < FEWEST_NEIGHBOURS] = np.nan
    own = image.ravel()[places] - middle
    around = neighbours(image, judged, places)
    beside = (around - middle[:, None]) / np.where(own == 0, np.inf, own)[:, None]
    comparable = beside >= COMPARABLE
    density = min(MANY_HOT, float(far.mean()))
    count = np.sum(comparable, axis=1)
    structure = (count > 0) & (binom.sf(count - 1, np.sum(~np.isnan(beside), axis=1), density) < TOUCHING)
    share, variance = _shared(np.where(comparable, np.nan, beside))
    with np.errstate(invalid="ignore"):
        error = np.sqrt(variance) * sigma / np.maximum(np.abs(own), sigma)
        return np.asarray(~structure & (np.abs(own) > SPREADS * spread) & (share + ERRORS * error < SHARED))


def _shared(beside: Floats) -> tuple[Floats, Floats]:
    """Mean of the four lateral neighbours less that of the four corners, and its variance for neighbours of variance 1.

    The median of all eight would hold the light of the lateral ones. Without any corner it is taken nevertheless.
    """
    near, corners = beside[:, LATERAL], beside[:, DIAGONAL]
    count, other = np.sum(~np.isnan(near), axis=1), np.sum(~np.isnan(corners), axis=1)
    share = np.nansum(near, axis=1) / np.maximum(count, 1) - np.nansum(corners, axis=1) / np.maximum(other, 1)
    return share, 1 / np.maximum(count, 1) + np.where(other > 0, 1 / np.maximum(other, 1), BACKGROUND)


def repeated(positions: Positions, single: Bools, trusted: Array) -> Bools:
    """Which single bright voxels belong to pixels that are hot in some planes: more often than chance explains.

    Parameters
    ----------
    positions : int array ``(n,)``
        All bright voxels that stand out, flat in C order, ascending.
    single : bool array ``(n,)``
        Which of these are single voxels within their plane.
    trusted : bool array ``(Z, Y, X)``
        True = measured. Planes in which a pixel was not measured do not divide a spot that runs through them.
    """
    from scipy.stats import poisson

    plane = trusted[0].size
    chosen = positions[single]
    z, pixel = chosen // plane, chosen % plane
    order = np.lexsort((z, pixel))
    earlier, later = chosen[order][:-1], chosen[order][1:]
    first = np.ones(len(order), bool)
    first[1:] = (pixel[order][1:] != pixel[order][:-1]) | _apart(earlier, later, positions, trusted)
    runs = np.bincount(pixel[order][first], minlength=plane)
    rate = max(1, int(np.count_nonzero(runs == 1))) / plane  # of a Poisson process, in which few pixels have two
    again = (runs >= 2) & (plane * poisson.sf(runs - 1, rate) < SURPRISE)
    found = np.zeros(len(positions), bool)
    found[single] = again[pixel]
    return found


def _apart(earlier: Positions, later: Positions, positions: Positions, trusted: Array) -> Bools:
    """Whether a measured voxel between two of one pixel does not stand out; ``positions`` are all that do."""
    plane = trusted[0].size
    apart = np.zeros(len(earlier), bool)
    place = earlier + plane
    left = np.flatnonzero(place < later)
    while len(left):
        apart[left] = values_at(trusted, place[left]) & ~np.isin(place[left], positions)
        place[left] += plane
        left = left[~apart[left] & (place[left] < later[left])]
    return apart
