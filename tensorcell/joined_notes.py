"""Notes on many stacks in few lines: notes that differ only in their numbers become one, which gives their ranges."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[-+]?\d+)?(?![\w.]*\w)")
"""A number that is no part of a word."""

RANGE = re.compile(f"{NUMBER.pattern}(?: to {NUMBER.pattern})?")
"""A number, or the two ends of a range, as notes that were joined have it."""

FEW = 3
"""Notes of fewer stacks are given one by one; so many labels are named."""


def joined_notes(notes: Mapping[str, Sequence[str]]) -> list[str]:
    """Notes by the label of their stack, as lines that begin with the labels.

    A list of numbers, such as planes, is left as it is: only notes with as many numbers as each other are joined.

    Examples
    --------
    >>> for line in joined_notes({f"T={t}": (f"noise of {4 + t / 10:g}", "2-D") for t in range(4)}):
    ...     print(line)
    T=0 to T=3 (4 stacks): noise of 4 to 4.3
    T=0 to T=3 (4 stacks): 2-D
    >>> joined_notes({"T=0": ("a",), "T=1": ("a",)})
    ['T=0: a', 'T=1: a']
    """
    if len(notes) < FEW:
        return [f"{label}: {note}" for label, own in notes.items() for note in own]
    alike: dict[str, list[tuple[str, str]]] = {}
    for label, own in notes.items():
        for note in own:
            alike.setdefault(RANGE.sub("#", note), []).append((label, note))
    lines = []
    for found in alike.values():
        labels = list(dict.fromkeys(label for label, _ in found))
        if len(labels) < max(FEW, len(found)):  # few stacks, or several notes of this kind on one of them
            lines += [f"{label}: {note}" for label, note in found]
        else:
            shown = f"{labels[0]} to {labels[-1]}" if len(labels) == len(notes) else named(labels)
            lines.append(f"{shown} ({len(labels)} stacks): {with_ranges([note for _, note in found])}")
    return lines


def named(labels: Sequence[str]) -> str:
    """Some of the labels.

    >>> named(["T=1", "T=4", "T=5", "T=9"])
    'T=1; T=4; T=5; ...'
    """
    return "; ".join(labels[:FEW]) + ("; ..." if len(labels) > FEW else "")


def with_ranges(notes: Sequence[str]) -> str:
    """One note with the range of each number in which they differ.

    >>> with_ranges(["9 of 10 voxels", "9 of 20 voxels", "9 of 15 voxels"])
    '9 of 10 to 20 voxels'
    >>> with_ranges(["9 to 12 voxels", "3 voxels"])
    '3 to 12 voxels'
    """
    columns = iter(zip(*(RANGE.findall(note) for note in notes), strict=True))

    def range_of(_: re.Match[str]) -> str:
        numbers = sorted(NUMBER.findall("; ".join(next(columns))), key=float)
        return numbers[0] if float(numbers[0]) == float(numbers[-1]) else f"{numbers[0]} to {numbers[-1]}"

    return RANGE.sub(range_of, notes[0])
