"""The report of a recovery in parts: what is shown is read of the input and of the outputs, a few planes at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tensorcell.files import check_writable, open_volume, suffix_of, write_whole
from tensorcell.files.formats import FilePath
from tensorcell.large.measured import MeasuredStack, measured_stacks
from tensorcell.large.recovery import FileRecovery
from tensorcell.lazy_volume import LazyStack, LazyVolume, lazy_stacks
from tensorcell.pages.coarse import coarse_view
from tensorcell.pages.pictures import MOST_STACKS, Panel, Picture, choose_slices, grey_scale, picture_bytes
from tensorcell.pages.recovery import (
    MOST_BYTES,
    REPORT_SUFFIXES,
    first_within,
    panels_of,
    rendered,
    rows_of,
    sentence_on,
    share_of_stills,
    slices_of,
)
from tensorcell.pages.viewer import Shown, chosen_stacks, grain_for, ways_to_show
from tensorcell.plane_grid import PlaneGrid

MOST_PIXELS = 1024
"""Pixels of the longer side of a slice that is shown whole; of a longer one every second or n-th row and column is."""

FURTHER = {"uncertainty": "uncertainty", "invented": "invented share", "outliers": "outliers"}
"""Names of the further outputs, and what a page calls them."""

NEAR = 4
"""Planes given on either side of a plane that linear interpolation rests on."""


def write_report(
    path: FilePath, before: LazyVolume, after: FileRecovery, grid: PlaneGrid, *,
    mask: FilePath | LazyVolume | None = None, missing_value: Any = None, uncertainty: FilePath | None = None,
    invented: FilePath | None = None, outliers: FilePath | None = None, most: int = MOST_BYTES,
) -> None:  # fmt: skip
    """Write a picture (``.png``) or a self-contained page (``.html``) of a recovery in parts.

    Parameters
    ----------
    path : path
        The file to write; it appears whole or not at all.
    before : LazyVolume
        What was given to :func:`tensorcell.recover_file`.
    after : FileRecovery
        What that returned; its output is read.
    grid : PlaneGrid
        Where the planes given lie in the output.
    mask, missing_value
        As they were given.
    uncertainty, invented, outliers : path, optional
        The further outputs, which are shown beside the result.
    most : int
        Bytes of the page, unless its texts alone have more.

    Raises
    ------
    InputError
        If the suffix is unknown, the file cannot be written, or an output cannot be read.

    Notes
    -----
    For the still pictures, a plane of each volume, a row of every plane, and up to nine planes of the input are read
    where planes between them were filled. For the slices of a page that move, every voxel of the stacks shown is read,
    of each file, once for each grid that is tried, in nearly all cases one. In memory are at most `coarse.MOST_READ`
    voxels of a file at a time (and at least a block of rows of a plane) and the means on the grid of the page.
    """
    target = Path(path)
    check_writable(target, REPORT_SUFFIXES)
    given = measured_stacks(before, mask, missing_value)
    paths = {"result": after.path, "uncertainty": uncertainty, "invented": invented, "outliers": outliers}
    made = {name: _stacks_by_place(_opened(path, after)) for name, path in paths.items() if path is not None}
    stacks = [(stack, {name: each[_place_of(stack.stack)] for name, each in made.items()}) for stack in given]
    pictures = [
        _picture(stack, outputs["result"], outputs.get("uncertainty"), after, grid)
        for stack, outputs in stacks[:MOST_STACKS]
    ]
    if target.suffix.lower() == ".png":
        write_whole(target, picture_bytes(pictures))
    else:
        image = picture_bytes(pictures, share_of_stills(most))
        write_whole(target, _page(before, after, grid, image, stacks, most).encode())


def _page(
    before: LazyVolume, after: FileRecovery, grid: PlaneGrid, image: bytes,
    stacks: Sequence[tuple[MeasuredStack, Mapping[str, LazyStack]]], most: int,
) -> str:  # fmt: skip
    rows = rows_of(
        before, after, measured=after.measured, outliers=after.outliers, whole=grid.whole, noise=after.noise,
        rank=after.rank, counts=("parts", after.parts), seconds=after.seconds,
    )  # fmt: skip
    sentence = sentence_on(str(after.status), after.facts()["observed_ratio"])
    chosen = [stacks[place] for place in chosen_stacks(before.axes, before.shape)]
    absent = [words for name, words in FURTHER.items() if name not in chosen[0][1]]
    remarks = [f"not written, and so not among what the sliders show: {', '.join(absent)}"] if absent else []

    def render(shown: Shown) -> str:
        notes = [*after.notes, *(remarks if shown.stacks else [])]
        return rendered(before, rows, sentence, notes, image, shown, scale="result")

    def ways() -> Iterator[Shown]:
        first = chosen[0]
        shape, factor = first[1]["result"].shape, first[1]["result"].shape[1] // first[0].shape[1]
        grain = grain_for(len(chosen), shape, grid, factor)
        views = [coarse_view(stack, outputs, grid, grain.pixels) for stack, outputs in chosen]
        steps = after.spacing
        yield from ways_to_show(
            views, len(stacks), steps and (steps[0], steps[1] * grain.pixels, steps[2] * grain.pixels)
        )

    return first_within(most, render, ways())


def _opened(path: FilePath, after: FileRecovery) -> LazyVolume:
    """An output, with its axes where the format does not hold them."""
    bare = suffix_of(Path(path)) == ".npy"
    return open_volume(path, axes=after.axes if bare else None)


def _place_of(stack: LazyStack) -> tuple[tuple[str, int], ...]:
    """Which channel and frame it is, whatever the order of the axes; axes of length 1 may be left out."""
    numbers = zip(stack.volume.axes, stack.where, stack.volume.shape, strict=True)
    return tuple(sorted((letter, place) for letter, place, size in numbers if isinstance(place, int) and size > 1))


def _stacks_by_place(volume: LazyVolume) -> dict[tuple[tuple[str, int], ...], LazyStack]:
    return {_place_of(stack): stack for stack in lazy_stacks(volume)}


def _picture(
    given: MeasuredStack, result: LazyStack, error: LazyStack | None, after: FileRecovery, grid: PlaneGrid
) -> Picture:
    factor, shape = result.shape[1] // given.shape[1], result.shape
    mask = grid.spread(np.ones((given.shape[0], shape[1], 1), bool))
    plane, row = choose_slices(mask)
    every, fill = stride(shape[1:], factor), grid.step > 1
    panels = panels_of(given, result, grid, plane, row, fill=fill, every=every, near=NEAR)
    grey = _grey(panels[-1])  # of the input, outliers may be the darkest and the brightest
    if error is not None:
        found = slices_of("", error, plane, row, every)
        scale = 0.0, max(_grey(found)[1], np.finfo(float).tiny)
        panels.append(replace(found, title=f"Uncertainty, 0 to {scale[1]:.2g}", grey=scale))
    between = fill and not mask[plane].any()
    return Picture(
        panels, plane, row, shape, after.spacing, grey, title=given.label, plane_note="not measured" if between else ""
    )


def _grey(panel: Panel) -> tuple[float, float]:
    values = np.concatenate([panel.xy, panel.xz])[None]
    return grey_scale(values, np.isfinite(values))


def stride(sides: Sequence[int], factor: int) -> int:
    """Every how many-th row and column is shown; ``factor`` is how many pixels of the result one given has a side.

    >>> stride((1000, 1024), 1), stride((1000, 5000), 1), stride((1000, 5000), 2)
    (1, 5, 6)
    """
    least = -(-max(sides) // MOST_PIXELS)
    return 1 if least == 1 else factor * -(-least // factor)
