"""A part of a volume, of which only that is read: `--crop` and `--preview` of the command line."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tensorcell.errors import InputError
from tensorcell.lazy_volume import ArrayLike, LazyVolume, resolved
from tensorcell.volume_checks import Described
from tensorcell.volume_parts import COUNTED

FEWEST_PLANES, FEWEST_PIXELS = 12, 32
"""What a preview shows at least, of what there is: planes, and pixels along y and x."""


class PartOfArray:
    """An array-like that is a box of another one."""

    def __init__(self, whole: ArrayLike, box: Sequence[slice]) -> None:
        self.whole, self.box = whole, tuple(box)
        self.shape = tuple(each.stop - each.start for each in self.box)
        self.dtype = whole.dtype

    @property
    def files(self) -> Sequence[Path]:
        """The files that hold the values, where they are known."""
        return getattr(self.whole, "files", ())

    def __getitem__(self, where: Any) -> Any:
        found: list[int | slice] = []
        for entry, own in zip(resolved(where, self.shape), self.box, strict=True):
            if isinstance(entry, slice):
                found.append(slice(entry.start + own.start, entry.stop + own.start, entry.step))
            else:
                found.append(entry + own.start)
        return self.whole[tuple(found)]


def box_of(text: str, volume: Described) -> tuple[slice, ...]:
    """The box that a text names, with a slice for each axis of the volume.

    Parameters
    ----------
    text : str
        Ranges with commas between them along Z, Y and X, as far as the volume has these axes; in front of them may be
        those of its further axes, in its order. Each is ``start:stop`` as in Python, or a number: so many from the
        middle.
    volume : Volume or LazyVolume

    Raises
    ------
    InputError
        If a range is none, is empty, or lies outside.

    Examples
    --------
    >>> volume = LazyVolume(np.zeros((2, 20, 64, 64)), "CZYX")
    >>> box_of("5:10,:,-16:", volume)
    (slice(0, 2, 1), slice(5, 10, 1), slice(0, 64, 1), slice(48, 64, 1))
    >>> box_of("1:,10,32,32", volume)
    (slice(1, 2, 1), slice(5, 15, 1), slice(16, 48, 1), slice(16, 48, 1))
    """
    sizes = dict(zip(volume.axes, volume.shape, strict=True))
    space = [letter for letter in "ZYX" if letter in sizes]
    every = [letter for letter in volume.axes if letter not in "ZYX"] + space
    parts = text.split(",")
    if len(parts) not in (len(space), len(every)):
        wanted = ",".join(f"{letter.lower()}0:{letter.lower()}1" for letter in space)
        shape = " x ".join(map(str, volume.shape))
        raise InputError(f"expected --crop {wanted} for a volume of {shape} {volume.axes}, got {text!r}")
    named = dict(zip(space if len(parts) == len(space) else every, parts, strict=True))
    return tuple(_range_of(named.get(letter, ":"), letter, size, text) for letter, size in sizes.items())


def _range_of(part: str, letter: str, size: int, text: str) -> slice:
    """One range."""
    begin, colon, end = part.strip().partition(":")
    try:
        start, stop = (int(each) if each.strip() else None for each in (begin, end))
        if not colon and start is None:
            raise ValueError
    except ValueError:
        raise InputError(
            f"expected start:stop or a number along {letter} in --crop, got {part!r} in {text!r}"
        ) from None
    if not colon:
        count = min(start or 0, size)
        if count < 1:
            raise InputError(f"expected at least 1 of {size} along {letter} in --crop, got {part!r} in {text!r}")
        return slice((size - count) // 2, (size - count) // 2 + count, 1)
    for each in (start, stop):
        if each is not None and not -size <= each <= size:
            raise InputError(f"--crop {text}: {each} along {letter} lies outside, expected within 0 to {size}")
    first, last, _ = slice(start, stop).indices(size)
    if first >= last:
        raise InputError(f"--crop {text} takes nothing along {letter}, of {size}; expected start before stop")
    return slice(first, last, 1)


def preview_box(volume: Described, voxels: float) -> tuple[slice, ...]:
    """The box in the middle of about so many voxels: one frame, all channels, some planes, and a field within them.

    >>> preview_box(LazyVolume(np.zeros((3, 40, 500, 600)), "TZYX"), 65536)
    (slice(1, 2, 1), slice(12, 28, 1), slice(218, 282, 1), slice(268, 332, 1))
    """
    sizes = dict(zip(volume.axes, volume.shape, strict=True))
    stacks = math.prod(size for letter, size in sizes.items() if letter not in "TZYX")
    planes = min(volume.planes, max(FEWEST_PLANES, min(round((voxels / stacks / 16) ** (1 / 3)), 32)))
    side = max(FEWEST_PIXELS, math.isqrt(round(voxels / stacks / planes)))
    rows = min(sizes["Y"], side)
    columns = min(sizes["X"], max(side, round(voxels / stacks / planes / rows)))
    rows = min(sizes["Y"], max(rows, round(voxels / stacks / planes / columns)))
    planes = min(volume.planes, max(planes, round(voxels / stacks / rows / columns)))
    wanted = {"T": 1, "Z": planes, "Y": rows, "X": columns}
    found = []
    for letter, size in sizes.items():
        count = min(wanted.get(letter, size), size)
        found.append(slice((size - count) // 2, (size - count) // 2 + count, 1))
    return tuple(found)


def cropped(volume: LazyVolume, box: Sequence[slice]) -> LazyVolume:
    """The volume without what lies outside of a box.

    Its voxel size is that of the whole; ``metadata["origin"]`` is the place of its first voxel, and what the metadata
    list for each plane or channel is cut to those that are left. A note says what was read.
    """
    mask = None if volume.mask is None else PartOfArray(volume.mask, box)
    metadata = {**_metadata_of(volume, box), "notes": [*volume.metadata.get("notes", ()), sentence(volume, box)]}
    return replace(volume, data=PartOfArray(volume.data, box), mask=mask, metadata=metadata)


def cropped_mask(mask: LazyVolume, volume: Described, box: Sequence[slice]) -> LazyVolume:
    """What belongs to a box of a volume, of a mask whose axes are some of the volume's."""
    where = dict(zip(volume.axes, box, strict=True))
    return cropped(mask, [where[letter] for letter in mask.axes])


def preview_sentence(volume: Described, box: Sequence[slice]) -> str:
    """What a preview takes of a volume, and how to take the same again.

    >>> volume = LazyVolume(np.zeros((3, 20, 64, 64)), "TZYX")
    >>> preview_sentence(volume, box_of("1:2,5:10,:,:", volume)).partition(", as ")[2]
    'by --crop 1:2,5:10,0:64,0:64'
    """
    ranges = {letter: f"{each.start}:{each.stop}" for letter, each in zip(volume.axes, box, strict=True)}
    outer = [ranges[letter] for letter in volume.axes if letter not in "ZYX"]
    same = ",".join([*outer, *(ranges[letter] for letter in "ZYX" if letter in ranges)])
    return f"preview: {sentence(volume, box)}, as by --crop {same}"


def sentence(volume: Described, box: Sequence[slice]) -> str:
    """What of a volume is read.

    >>> volume = LazyVolume(np.zeros((20, 64, 64)))
    >>> sentence(volume, box_of("5:10,:,48:", volume))
    'only 5:10, 0:64, 48:64 (ZYX) of 20 x 64 x 64 was read'
    """
    ranges = ", ".join(f"{each.start}:{each.stop}" for each in box)
    return f"only {ranges} ({volume.axes}) of {' x '.join(map(str, volume.shape))} was read"


def _metadata_of(volume: LazyVolume, box: Sequence[slice]) -> dict[str, Any]:
    """The metadata, with the origin of the box and what belongs to its planes and channels."""
    where, metadata = dict(zip(volume.axes, box, strict=True)), dict(volume.metadata)
    sizes = dict(zip(volume.axes, volume.shape, strict=True))
    for key, letters in {**COUNTED, "channel_names": "C"}.items():
        if key in metadata:
            metadata[key] = _of_part(metadata[key], [letter for letter in letters if letter in sizes], sizes, where)
    if volume.spacing is not None:
        steps = {letter: step for letter, step in zip("ZYX", volume.spacing, strict=True) if letter in where}
        before = metadata.get("origin")
        known = before if isinstance(before, list | tuple) and len(before) == len(steps) else [0.0] * len(steps)
        metadata["origin"] = [
            float(first) + where[letter].start * step
            for first, (letter, step) in zip(known, steps.items(), strict=True)
        ]
    return metadata


def _of_part(values: Any, letters: Sequence[str], sizes: Mapping[str, int], where: Mapping[str, slice]) -> Any:
    """The entries of a list, or of each list of a mapping, that belong to a box; unchanged if it counts otherwise."""
    if isinstance(values, Mapping):
        return {key: _of_part(each, letters, sizes, where) for key, each in values.items()}
    shape = [sizes[letter] for letter in letters]
    if not isinstance(values, list | tuple) or len(values) != math.prod(shape):
        return values
    kept = np.arange(len(values)).reshape(shape)[tuple(where[letter] for letter in letters)]
    return [values[number] for number in kept.ravel()]
