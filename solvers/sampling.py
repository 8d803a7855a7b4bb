"""What a mask looks like: whole planes, lines, random pixels, or none of these.

The recovery theorems hold for entries drawn uniformly at random. Whether a mask could have been drawn so is tested by
the smallest and the largest count of a slice, and by pairs of observed entries: pairs in one slice, pairs in one fibre,
and neighbours along one axis. For n of N entries drawn without replacement and a set of M pairs of entries, the number
K of pairs with both observed has

- mean ``M p_2``,
- variance ``M p_2 + D p_3 + (M^2 - M - D) p_4 - (M p_2)^2`` with ``D = sum deg (deg - 1)`` ordered pairs of pairs that
  share an entry, both exact, where ``p_j = n (n-1) ... (n-j+1) / (N (N-1) ... (N-j+1))``,
- third central moment close to ``M (q (1 - 2p))^2 + t q^3``, ``p = n/N``, ``q = p (1-p)``, and t the trace of the cubed
  adjacency matrix without its mean,

and is compared with the gamma distribution of these three moments (Pearson's type III), which is chi squared where
slices are large and observed often, and close to Poisson's where pairs are few. Its lower tail is lighter than the
normal distribution's, which is used below the mean: the gamma distribution ends above the smallest possible K.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .arrays import Array, chunk_elements, contiguous, count, namespace_of, to_host

SIGNIFICANCE = 1e-7
"""A mask is not called uniform where one of its counts is less probable than this under uniform sampling."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Counts and pattern of a mask.

    Attributes
    ----------
    observed : int
        Entries that are True.
    ratio : float
        Their share of all entries.
    empty_slices : tuple of tuples of int
        For each mode the indices that were never observed: a low-rank model cannot predict their entries.
    empty_fibres : tuple of int
        For each mode the number of fibres along it without an observed entry.
    min_slice_count : int
        Smallest number of observed entries in any slice of any mode.
    pattern : str
        ``"full"``: every entry is observed; ``"planes"``: every slice of one mode is observed wholly or not at all;
        ``"lines"``: every fibre along one mode is; ``"uniform"``: the mask agrees with entries drawn uniformly at
        random; ``"planes and pixels"``: some slices of one mode are not observed at all, and the rest agrees with
        entries drawn uniformly; else ``"irregular"``.
    sentence : str
        The pattern in words, with its numbers.
    """

    observed: int
    ratio: float
    empty_slices: tuple[tuple[int, ...], ...]
    empty_fibres: tuple[int, ...]
    min_slice_count: int
    pattern: str
    sentence: str


class Axis(NamedTuple):
    """Counts along one mode."""

    slices: npt.NDArray[np.int64]
    """Observed entries in each slice of the mode."""
    empty: int
    """Fibres along the mode without an observed entry."""
    whole: int
    """Fibres along the mode that are observed wholly."""
    squares: int
    """Sum over the fibres of their squared counts."""
    neighbours: int
    """Pairs of adjacent entries along the mode that are both observed."""


class Chance(NamedTuple):
    """How improbable a count is; the smallest tuple is the least probable count."""

    probability: float
    """Under uniform sampling."""
    minus_deviation: float
    """Minus the distance from the mean in standard deviations: orders those whose probability is zero to rounding."""
    more: bool
    """Whether the count is above the mean."""


def describe_sampling(mask: Array) -> Sampling:
    """Count what a mask observes, and recognise its pattern.

    Parameters
    ----------
    mask : bool array ``(I_1, ..., I_k)``, k >= 2
        True = observed.

    Returns
    -------
    Sampling

    Raises
    ------
    TypeError
        If the mask is not a bool array.
    ValueError
        If it has fewer than two axes, an empty axis, or no True.

    Notes
    -----
    Whole planes and whole lines are recognised exactly and before the other patterns, so that a mask of planes is never
    called uniform. ``"uniform"`` means that none of ``4k + 1`` counts is as improbable as 1e-7 under uniform sampling;
    a mask with few observed entries may agree with it by lack of evidence.

    The cost is one pass along each axis and the memory of some planes.

    Examples
    --------
    >>> import numpy as np
    >>> mask = np.zeros((9, 20, 20), dtype=bool)
    >>> mask[::4] = True
    >>> describe_sampling(mask).sentence
    'planes: every 4th slice of mode 0 is observed wholly, 3 of 9, the others not at all'
    >>> describe_sampling(np.random.default_rng(0).random(mask.shape) < 0.3).pattern
    'uniform'
    """
    xp = namespace_of(mask)
    if mask.dtype != xp.bool:
        raise TypeError(f"expected a bool mask (True = observed), got dtype {mask.dtype}")
    shape = tuple(mask.shape)
    if len(shape) < 2 or min(shape) < 1:
        raise ValueError(f"expected a mask with at least two axes and no empty one, got shape {shape}")
    mask = contiguous(mask)
    axes = [axis_counts(mask, mode) for mode in range(len(shape))]
    observed = int(axes[0].slices.sum())
    if observed == 0:
        raise ValueError("expected at least one observed entry, got a mask without any True")
    pattern, words = find_pattern(mask, shape, axes, observed)
    return Sampling(
        observed=observed,
        ratio=observed / math.prod(shape),
        empty_slices=tuple(tuple(np.flatnonzero(axis.slices == 0).tolist()) for axis in axes),
        empty_fibres=tuple(axis.empty for axis in axes),
        min_slice_count=min(int(axis.slices.min()) for axis in axes),
        pattern=pattern,
        sentence=f"{pattern}: {words}",
    )


def axis_counts(mask: Array, mode: int) -> Axis:
    """Counts along one mode, from blocks of whole fibres."""
    xp = namespace_of(mask)
    shape = tuple(mask.shape)
    size, left, right = shape[mode], math.prod(shape[:mode]), math.prod(shape[mode + 1 :])
    view = xp.reshape(mask, (left, size, right))
    block = min(chunk_elements(xp), 1 << 24)  # so that float32 sums of a block are exact
    columns = max(1, min(right, block // size))
    rows = max(1, block // (size * columns))
    slices = np.zeros(size, dtype=np.int64)
    empty = whole = squares = neighbours = 0
    for row in range(0, left, rows):
        for column in range(0, right, columns):
            part = view[row : min(left, row + rows), :, column : min(right, column + columns)]
            numbers = xp.astype(part, xp.float32)
            fibres = xp.astype(xp.sum(numbers, axis=1), xp.float64)
            slices += to_host(xp.sum(xp.sum(numbers, axis=2), axis=0)).astype(np.int64)
            empty += count(fibres == 0)
            whole += count(fibres == size)
            squares += int(xp.sum(fibres * fibres))
            neighbours += count(part[:, 1:, :] & part[:, :-1, :])
    return Axis(slices, empty, whole, squares, neighbours)


def find_pattern(mask: Array, shape: tuple[int, ...], axes: Sequence[Axis], observed: int) -> tuple[str, str]:
    """The name of the pattern and its description."""
    total = math.prod(shape)
    if observed == total:
        return "full", f"all {total:,} entries are observed"
    for mode, axis in enumerate(axes):
        present = axis.slices > 0
        if np.all(axis.slices[present] == total // shape[mode]):
            number = f"{present.sum()} of {shape[mode]}"
            return "planes", f"{which_slices(present, mode)} observed wholly, {number}, the others not at all"
    along = [n for n, axis in enumerate(axes) if shape[n] > 1 and axis.empty + axis.whole == total // shape[n]]
    if along:
        return "lines", which_lines(mask, along)
    everywhere = [np.ones(size, dtype=bool) for size in shape]
    probability, reason = least_probable(shape, axes, observed, everywhere)
    share = f"{observed:,} of {total:,} entries ({observed / total:.3g})"
    if probability > SIGNIFICANCE:
        return "uniform", f"{share} are observed, in agreement with drawing them uniformly at random"
    for mode, axis in sorted(enumerate(axes), key=lambda pair: -int(np.sum(pair[1].slices == 0))):
        present = axis.slices > 0
        if np.all(present):
            break
        chosen = [*everywhere[:mode], present, *everywhere[mode + 1 :]]
        if least_probable(shape, axes, observed, chosen)[0] > SIGNIFICANCE:
            inside = observed / (total // shape[mode] * int(present.sum()))
            return "planes and pixels", (
                f"{which_slices(present, mode)} observed, {present.sum()} of {shape[mode]}, each at entries that agree "
                f"with drawing {inside:.3g} of them uniformly at random; the other slices not at all"
            )
    return "irregular", f"{share} are observed, not drawn uniformly at random: {reason}"


def which_slices(present: npt.NDArray[np.bool_], mode: int) -> str:
    """Which slices of a mode are observed: one, a block, every s-th, all but these, or no regular subset."""
    if present.sum() == 1:
        return f"one slice of mode {mode} (index {np.flatnonzero(present)[0]}) is"
    if regular := progression(present):
        return f"{regular} of mode {mode} is" if regular.startswith("every") else f"{regular} of mode {mode} are"
    if np.sum(~present) == 1:
        return f"all slices of mode {mode} but one (index {np.flatnonzero(~present)[0]}) are"
    if gap := progression(~present):
        return f"all slices of mode {mode} but {gap} are"
    return f"a random (not regular) subset of the slices of mode {mode} is"


def progression(present: npt.NDArray[np.bool_]) -> str:
    """``"a block of slices"``, ``"every s-th slice"`` (over the whole axis) or nothing, for two slices or more."""
    places = np.flatnonzero(present)
    steps = np.diff(places)
    if len(places) < 2 or np.any(steps != steps[0]):
        return ""
    step = int(steps[0])
    if step == 1:
        return f"a block of slices ({places[0]} to {places[-1]})"
    if places[0] >= step or places[-1] + step < len(present):
        return ""
    ending = "th" if step % 100 in (11, 12, 13) or step % 10 > 3 else ("th", "st", "nd", "rd")[step % 10]
    return f"every {step}{ending} slice"


def which_lines(mask: Array, along: Sequence[int]) -> str:
    """How many lines (or planes, in four modes and more) along these modes are observed, and how they were chosen."""
    ends = contiguous(mask[tuple(0 if mode in along else slice(None) for mode in range(mask.ndim))])
    axes = [axis_counts(ends, mode) for mode in range(ends.ndim)]
    observed = int(axes[0].slices.sum())
    chosen = find_pattern(ends, tuple(ends.shape), axes, observed)[0]
    how = "in agreement with drawing them uniformly at random" if chosen == "uniform" else "not drawn at random"
    modes = f"mode {along[0]}" if len(along) == 1 else "modes " + " and ".join(map(str, along))
    number = f"{observed:,} of {math.prod(ends.shape):,} {'lines' if len(along) == 1 else 'sections'}"
    return f"{number} along {modes} are observed wholly, {how}, the others not at all"


def least_probable(
    shape: Sequence[int], axes: Sequence[Axis], observed: int, chosen: Sequence[npt.NDArray[np.bool_]]
) -> tuple[float, str]:
    """Smallest probability of any pair count under uniform sampling of the chosen slices, and what that count says."""
    sizes = [int(present.sum()) for present in chosen]
    total = math.prod(sizes)
    found = []
    all_pairs = all_squares = all_found = 0
    degrees: list[Fraction] = []
    for mode, (size, axis, present) in enumerate(zip(sizes, axes, chosen, strict=True)):
        counts = axis.slices[present]
        slice_pairs = sum(int(c) * (int(c) - 1) // 2 for c in counts)
        chance = pairs_probability(slice_pairs, *cliques(size, total // size), observed, total)
        found.append((*chance, f"slices of mode {mode} are observed too", "unevenly", "evenly"))
        chance = extreme_probability(counts, observed, total)
        found.append((*chance, f"one slice of mode {mode} is observed too", "often", "seldom"))
        chance = pairs_probability((axis.squares - observed) // 2, *cliques(total // size, size), observed, total)
        found.append((*chance, f"fibres along mode {mode} are observed too", "unevenly", "evenly"))
        degree = np.zeros(len(present), dtype=np.int64)
        adjacent = present[1:] & present[:-1]
        degree[1:] += adjacent
        degree[:-1] += adjacent
        pairs, squares = total // size * int(adjacent.sum()), total // size * int(np.sum(degree**2))
        chance = pairs_probability(axis.neighbours, pairs, squares - 2 * pairs, 0, observed, total)
        found.append((*chance, f"neighbours along mode {mode} are observed together too", "often", "seldom"))
        degrees.append(Fraction(2 * pairs, total))
        all_found, all_pairs, all_squares = all_found + axis.neighbours, all_pairs + pairs, all_squares + squares
    # Degrees along different modes are independent over the entries: the mean of their product is that of the means.
    mixed = total * (sum(degrees) ** 2 - sum(degree**2 for degree in degrees))
    chance = pairs_probability(all_found, all_pairs, int(all_squares + mixed) - 2 * all_pairs, 0, observed, total)
    found.append((*chance, "neighbours are observed together too", "often", "seldom"))
    probability, _, more, what, above, below = min(found)
    return probability, f"{what} {above if more else below}"


def extreme_probability(counts: npt.NDArray[np.int64], n: int, total: int) -> Chance:
    """Upper estimate of the probability that any slice has as few or as many entries as the emptiest or fullest one.

    The hypergeometric tails are replaced by the wider binomial ones of the sparser of observed and unobserved entries.
    """
    from scipy.special import bdtr, bdtrc

    size, share = total // len(counts), 1 / len(counts)
    few, many, turned = int(counts.min()), int(counts.max()), 2 * n > total
    if turned:
        few, many, n = size - many, size - few, total - n
    below = bdtr(few, n, share) if n > 0 else 1.0
    above = bdtrc(many - 1, n, share) if many > 0 else 1.0
    return Chance(min(1.0, 2 * len(counts) * float(min(below, above))), 0.0, bool((above < below) != turned))


def cliques(groups: int, size: int) -> tuple[int, int, int]:
    """Pairs within groups of equal size: how many, how many ordered pairs of them share an entry, and the trace t."""
    pairs = groups * size * (size - 1) // 2
    shared = groups * size * (size - 1) * (size - 2)
    return pairs, shared, (groups - 1) * (size - 1) ** 3 - groups * (size - 1)


def pair_moments(pairs: int, shared: int, n: int, total: int) -> tuple[Fraction, Fraction]:
    """Exact mean and variance of the number of pairs of which both entries are among n drawn without replacement."""
    p = [Fraction(math.perm(n, j), math.perm(total, j)) if j <= total else Fraction(0) for j in range(5)]
    mean = pairs * p[2]
    return mean, mean + shared * p[3] + (pairs * (pairs - 1) - shared) * p[4] - mean**2


def pairs_probability(found: int, pairs: int, shared: int, trace: int, n: int, total: int) -> Chance:
    """Two-sided probability of so many pairs under uniform sampling.

    The letters of the docstring of this module are K ``found``, M ``pairs``, D ``shared``, t ``trace``, N ``total``.
    """
    mean, variance = pair_moments(pairs, shared, n, total)
    if variance == 0:
        return Chance(1.0, 0.0, False)
    sigma = math.sqrt(variance)
    distance = float(found - mean)
    q = n / total * (1 - n / total)
    skew = (pairs * (q * (1 - 2 * n / total)) ** 2 + trace * q**3) / sigma**3 if distance > 0 else 0.0
    z = max(0.0, abs(distance) - 0.5) / sigma  # continuity correction, since K is a whole number
    return Chance(min(1.0, 2 * upper_tail(z, skew)), -z, distance > 0)


def upper_tail(z: float, skew: float) -> float:
    """Probability above z of the standardised Pearson type III distribution of that skewness (0 if negative)."""
    from scipy.special import gammaincc, ndtr

    if skew < 1e-3:
        return float(ndtr(-z))
    shape = 4 / skew**2
    return float(gammaincc(shape, shape + math.sqrt(shape) * z))
