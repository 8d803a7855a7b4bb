"""Blocks of voxels that hold one exact value: padding, corners of mosaics, planes after a run that was stopped.

Such voxels were not measured, but nothing in a file says so. Noise makes a block of one value impossible, with one
exception: a detector that clips its dark background gives the same value, mostly 0, to most voxels of it. A block is
told from a clipped or noise-free background by its edge:

1. a whole plane, row or column of one value is a block if its neighbour is like the other ones, since a background that
   fades leaves few voxels of another value in the neighbour, too;
2. any other block must contain a square of ``SIDE`` x ``SIDE`` pixels, and voxels of another value must begin right
   beside it. If it does not fill a box, they must also differ from its value by more than noise does: the dark
   background of objects without noise fades into them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorcell.solvers.spread import robust_sigma

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]
Box = tuple[slice, ...]

SIDE = 8
"""Pixels of the side of the square, in one plane, that a block contains (fewer in small planes)."""

SAMPLE = 200_000
"""Number of voxels, about, among which the most frequent values are found."""

FREQUENT = 3
"""Number of most frequent values that are examined, beside the lowest, the highest and those of constant planes."""

FEW_VALUES = 16
"""A stack of at most so many different values holds labels or few photons, and blocks of one value are no surprise."""

LEAST_SHARE, LEAST_VOXELS = 1e-3, 200
"""Smallest share and number of measured voxels that are called a block."""

OTHERS = 0.2
"""Share of the voxels right beside a block that must have another value."""

LIKE_OTHERS = 0.5
"""That share must also reach this part of the share of other values in the rest of the stack."""

FULL = 0.95
"""Share of its bounding box that a block fills if it is a box."""

JUMP = 3.0
"""Voxels beside a block that is no box must differ from its value by this many standard deviations of the noise."""

MOSTLY = 0.5
"""If a larger share of the measured voxels than this has the lowest value, and is no block, a note says so."""

MOST_BOXES = 4
"""Largest number of boxes that a note lists."""


@dataclass(frozen=True)
class ConstantBlocks:
    """The voxels of a stack that hold one exact value in blocks.

    Attributes
    ----------
    value : float
        That value.
    voxels : int
        Number of measured voxels in blocks.
    places : tuple of str
        Where the blocks are, such as ``"planes 10-13"`` and ``"z 0-9, y 0-19, x 0-19"``.
    """

    value: float
    voxels: int
    places: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """What was found, and what to do if these voxels were not measured."""
        shown = "; ".join(self.places[:MOST_BOXES]) + ("; ..." if len(self.places) > MOST_BOXES else "")
        return (
            f"{self.voxels} voxels in blocks have the exact value {self.value:g} ({shown}) and count as measured; if "
            f"they are padding, pass missing_value={self.value:g} (--missing-value {self.value:g})"
        )


def constant_notes(values: Array, mask: Bools) -> tuple[str, ...]:
    """What to know of blocks of one value, and of a value that most voxels have; empty for most stacks.

    Parameters
    ----------
    values : array ``(Z, Y, X)``
    mask : bool array of the same shape
        True = measured.
    """
    if not mask.any():
        return ()
    found = constant_blocks(values, mask)
    return tuple(blocks.sentence for blocks in found) if found else share_notes(values, mask)


def share_notes(values: Array, mask: Bools) -> tuple[str, ...]:
    """A note if most measured voxels have the lowest value; arguments as for :func:`constant_notes`."""
    value, share = most_frequent(values, mask)
    if share <= MOSTLY or value > values[mask].min():
        return ()
    return (f"{100 * share:.3g} % of the measured voxels have the exact value {value:g}",)


def most_frequent(values: Array, mask: Bools) -> tuple[float, float]:
    """The most frequent value of the measured voxels, and their share that has it, from a sample of them."""
    sample = sampled(values, mask)
    found, counts = np.unique(sample, return_counts=True)
    return float(found[np.argmax(counts)]), float(counts.max() / len(sample))


def sampled(values: Array, mask: Bools) -> Array:
    """About ``SAMPLE`` measured values, evenly spread."""
    step = max(1, values.size // SAMPLE) | 1  # odd, so that not only some columns are met
    flat, seen = values.reshape(-1)[::step], mask.reshape(-1)[::step]
    return flat[seen] if seen.any() else values[mask][:SAMPLE]


def constant_blocks(values: Array, mask: Bools) -> tuple[ConstantBlocks, ...]:
    """The blocks of one exact value, for each value that has any; arguments as for :func:`constant_notes`.

    Notes
    -----
    One comparison with each of a few values, and running sums over the voxels that have one of them.

    Examples
    --------
    >>> stack = np.random.default_rng(0).normal(100, 5, (8, 32, 32))
    >>> stack[5:], stack[:, :10, :12] = 0, 0
    >>> constant_blocks(stack, np.ones(stack.shape, bool))[0].places
    ('planes 5-7', 'z 0-4, y 0-9, x 0-11')
    """
    found = []
    for value in candidates(values, mask):
        blocks = blocks_of(value, values, mask)
        if blocks is not None:
            found.append(blocks)
    return tuple(sorted(found, key=lambda blocks: -blocks.voxels))


def candidates(values: Array, mask: Bools) -> list[Any]:
    """Values that may fill blocks: the most frequent ones, the lowest, the highest and those of constant planes."""
    found, counts = np.unique(sampled(values, mask), return_counts=True)
    if len(found) <= FEW_VALUES:
        return []
    chosen = set(found[np.argsort(counts)[-FREQUENT:]].tolist())
    lows, highs = [], []
    for plane, seen in zip(values, mask, strict=True):
        known = plane if seen.all() else plane[seen]
        if known.size:
            lows.append(known.min())
            highs.append(known.max())
    chosen |= {min(lows).item(), max(highs).item()}
    chosen |= {low.item() for low, high in zip(lows, highs, strict=True) if low == high}
    return sorted(chosen)


def blocks_of(value: Any, values: Array, mask: Bools) -> ConstantBlocks | None:
    """The blocks of one value, or None."""
    equal = (values == value) & mask
    total, measured = int(np.count_nonzero(equal)), int(np.count_nonzero(mask))
    least = max(LEAST_VOXELS, LEAST_SHARE * measured)
    if total < least or not may_hold_blocks(equal, mask, least):
        return None
    inside = np.zeros(equal.shape, bool)
    places = whole_slices(equal, mask, inside)
    for box, part in squares(equal & ~inside, mask, least):
        rest = max(1, measured - total)
        if is_block(box, part, value, values, mask, rest / max(1, measured - int(part.sum()))):
            inside[box] |= part
            places.append(text_of(box))
    voxels = int(np.count_nonzero(inside & equal))
    return ConstantBlocks(float(value), voxels, tuple(places)) if voxels >= least else None


def may_hold_blocks(equal: Bools, mask: Bools, least: float) -> bool:
    """A quick look: False only if there is no row or column of one value, and too few squares for so many voxels.

    A square of 8 x 8 pixels contains 4 x 4 of every second row and column, and a part that squares cover has at most
    64 voxels for each such group. A row or column of one value in all planes has it in the fullest plane, too.
    """
    middle = int(np.argmax(np.count_nonzero(mask, axis=(1, 2))))
    other = mask[middle] & ~equal[middle]
    if not other.any(axis=0).all() or not other.any(axis=1).all():
        return True
    if min(equal.shape[1:]) < 4 * SIDE:  # the squares are smaller
        return True
    points = (equal | ~mask)[:, ::2, ::2]
    for axis in (1, 2):
        for step in (1, 2):  # two of them, then two of these pairs
            ahead, behind = [slice(None)] * 3, [slice(None)] * 3
            ahead[axis], behind[axis] = slice(step, None), slice(None, -step)
            points = points[tuple(ahead)] & points[tuple(behind)]
    return bool(np.count_nonzero(points) * SIDE**2 >= least)


def whole_slices(equal: Bools, mask: Bools, inside: Bools) -> list[str]:
    """Planes, rows and columns of one value beside ones that are like the others; ``inside`` is set to True there."""
    places = []
    for axis, name in enumerate(("plane", "row", "column")):
        across = tuple(other for other in range(3) if other != axis)
        count = np.count_nonzero(mask & ~inside, axis=across)
        others = count - np.count_nonzero(equal & ~inside, axis=across)
        share = np.divide(others, count, out=np.zeros(len(count)), where=count > 0)
        full = (count > 0) & (others == 0)
        if not full.any() or full.all():
            continue
        enough = max(OTHERS, LIKE_OTHERS * float(np.median(share[others > 0]))) if (others > 0).any() else 1.0
        for first, stop in runs_of(full):
            beside = [place for place in (first - 1, stop) if 0 <= place < len(full) and count[place] > 0]
            if beside and all(share[place] >= enough for place in beside):
                np.moveaxis(inside, axis, 0)[first:stop] = True
                places.append(f"{name}{'s' if stop - first > 1 else ''} {range_text(first, stop)}")
    return places


def runs_of(flags: Bools) -> list[tuple[int, int]]:
    """First and past-the-last index of each run of True.

    >>> runs_of(np.array([True, True, False, True]))
    [(0, 2), (3, 4)]
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return [(int(first), int(stop)) for first, stop in edges.reshape(-1, 2)]


def squares(equal: Bools, mask: Bools, least: float) -> list[tuple[Box, Bools]]:
    """Connected parts of what squares within planes cover, the largest ones, with their bounding boxes."""
    from scipy.ndimage import find_objects, label, maximum_filter1d, minimum_filter1d

    if np.count_nonzero(equal) < least:
        return []
    covered = (equal | ~mask).view(np.uint8)
    for axis in (1, 2):
        side = min(SIDE, max(2, equal.shape[axis] // 4))
        covered = minimum_filter1d(covered, side, axis=axis, mode="constant", cval=0)
    if not covered.any():
        return []
    for axis in (1, 2):
        side = min(SIDE, max(2, equal.shape[axis] // 4))
        covered = maximum_filter1d(covered, side, axis=axis, mode="constant", cval=0, origin=-1 if side % 2 == 0 else 0)
    labels, _ = label(covered.astype(bool) & equal)
    sizes = np.bincount(labels.ravel())
    boxes = find_objects(labels)
    order = [number for number in np.argsort(-sizes) if number > 0 and sizes[number] >= least][: 2 * MOST_BOXES]
    return [(boxes[number - 1], labels[boxes[number - 1]] == number) for number in order]


def is_block(box: Box, part: Bools, value: Any, values: Array, mask: Bools, others: float) -> bool:
    """Whether other values begin right beside a part; ``others`` is their share in the rest of the stack."""
    from scipy.ndimage import maximum_filter

    if background(box, part, values.shape, mask):
        return False
    wide = tuple(slice(max(0, s.start - 3), min(n, s.stop + 3)) for s, n in zip(box, values.shape, strict=True))
    here = np.zeros([s.stop - s.start for s in wide], np.uint8)
    here[tuple(slice(s.start - w.start, s.stop - w.start) for s, w in zip(box, wide, strict=True))] = part
    # A pixel of the edge itself may be a mixture; the ring lies two pixels away, and one plane.
    beside = maximum_filter(here, (3, 5, 5)).astype(bool) & ~maximum_filter(here, (1, 3, 3)).astype(bool) & mask[wide]
    if not beside.any():
        return False
    found = values[wide][beside]
    if np.mean(found != value) < max(OTHERS, LIKE_OTHERS * others):
        return False
    noise = robust_sigma(np.diff(sampled_rows(values, mask, value))) / np.sqrt(2)
    jump = float(np.median(np.abs(found.astype(np.float64) - value)))
    return noise > 0 and (float(part.mean()) >= FULL or jump > JUMP * noise)


def background(box: Box, part: Bools, shape: tuple[int, ...], mask: Bools) -> bool:
    """Whether a part surrounds everything else: more than half of the measured voxels, and no smaller box."""
    whole = all(s.stop - s.start == n for s, n in zip(box, shape, strict=True))
    return whole and 2 * int(part.sum()) > int(np.count_nonzero(mask))


def sampled_rows(values: Array, mask: Bools, value: Any) -> Array:
    """Neighbouring pairs along x ``(n, 2)`` of measured values of which neither is the value of the block."""
    step = max(1, values.shape[0] * values.shape[1] // 512)
    rows, seen = (array.reshape(-1, values.shape[2])[::step] for array in (values, mask & (values != value)))
    both = seen[:, 1:] & seen[:, :-1]
    pairs = np.stack([rows[:, :-1][both], rows[:, 1:][both]], axis=1).astype(np.float64)
    return pairs if len(pairs) else np.zeros((1, 2))


def text_of(box: Box) -> str:
    """A bounding box in words.

    >>> text_of((slice(0, 10), slice(0, 20), slice(5, 6)))
    'z 0-9, y 0-19, x 5'
    """
    return ", ".join(f"{name} {range_text(s.start, s.stop)}" for name, s in zip("zyx", box, strict=True))


def range_text(first: int, stop: int) -> str:
    """Indices from the first to before the last."""
    return f"{first}-{stop - 1}" if stop - first > 1 else f"{first}"
