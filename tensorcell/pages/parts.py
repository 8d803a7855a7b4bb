"""The report of a recovery in parts: only the slices that are shown are read of the input and of the outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tensorcell.files import check_writable, open_volume, suffix_of, write_whole
from tensorcell.files.formats import FilePath
from tensorcell.large.measured import MeasuredStack, measured_stacks
from tensorcell.large.recovery import FileRecovery
from tensorcell.lazy_volume import LazyStack, LazyVolume, lazy_stacks
from tensorcell.pages.pictures import MOST_STACKS, Panel, Picture, choose_slices, grey_scale, picture_bytes
from tensorcell.pages.recovery import REPORT_SUFFIXES, panels_of, rendered, rows_of, sentence_on, slices_of
from tensorcell.plane_grid import PlaneGrid

MOST_PIXELS = 1024
"""Pixels of the longer side of a slice that is shown whole; of a longer one every second or n-th row and column is."""

NEAR = 4
"""Planes given on either side of a plane that linear interpolation rests on."""


def write_report(
    path: FilePath, before: LazyVolume, after: FileRecovery, grid: PlaneGrid, *,
    mask: FilePath | LazyVolume | None = None, missing_value: Any = None, uncertainty: FilePath | None = None,
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
    uncertainty : path, optional
        The output with the uncertainty, which is shown beside the result.

    Raises
    ------
    InputError
        If the suffix is unknown, the file cannot be written, or an output cannot be read.

    Notes
    -----
    Read are a plane of each volume, a row of every plane, and up to nine planes of the input where planes between them
    were filled. Formats that are compressed in planes have to decode the planes whose row is read.
    """
    target = Path(path)
    check_writable(target, REPORT_SUFFIXES)
    result = _stacks_by_place(_opened(after.path, after))
    error = {} if uncertainty is None else _stacks_by_place(_opened(uncertainty, after))
    pictures = []
    for stack in measured_stacks(before, mask, missing_value)[:MOST_STACKS]:
        place = _place_of(stack.stack)
        pictures.append(_picture(stack, result[place], error.get(place), after, grid))
    image = picture_bytes(pictures)
    write_whole(target, image if target.suffix.lower() == ".png" else _page(before, after, grid, image).encode())


def _page(before: LazyVolume, after: FileRecovery, grid: PlaneGrid, image: bytes) -> str:
    rows = rows_of(
        before, after, measured=after.measured, outliers=after.outliers, whole=grid.whole, noise=after.noise,
        rank=after.rank, counts=("parts", after.parts), seconds=after.seconds,
    )  # fmt: skip
    share = after.facts()["observed_ratio"]
    return rendered(before, rows, sentence_on(str(after.status), share), after.notes, image, scale="result")


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
