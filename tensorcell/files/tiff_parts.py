"""Parts of the planes of a TIFF file: of each plane only the strips or tiles are decoded that a part needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tensorcell.errors import InputError
from tensorcell.files.layout import native
from tensorcell.files.lazy_values import Box, Held, Mapped, PlaneMask, Values, length_of
from tensorcell.files.tiff_pages import Chains, block_start, open_file, pages_of, read_planes

if TYPE_CHECKING:
    import tifffile

JPEG = frozenset({6, 7, 34892, 33007})
"""Compressions whose strips and tiles are decoded by tables that they share."""


def plane_values(
    series: tifffile.TiffPageSeries, chains: Chains, again: Callable[[], list[Any]], *, gaps: bool = False
) -> Values:
    """The intensities of an image; what `read_planes` checks is checked, and nothing is decoded.

    ``again`` opens the same file and gives the pages of the same image, in another process, too. With ``gaps`` planes
    may be missing.
    """
    start = block_start(series, chains)
    if start is not None:
        stored = series.dtype.newbyteorder(chains.tif.byteorder)
        return Mapped(Path(chains.tif.filehandle.path), start, series.shape, stored)
    pages = pages_of(series, chains, gaps=gaps)
    outer = _outer_axes(series.shape, series.keyframe)
    if outer is None or series.transform is not None:
        return Held(read_planes(series, chains), files_of_pages(pages))
    return PlaneValues(pages, series.shape, outer, series.dtype, again)


def files_of_pages(pages: Sequence[Any]) -> Sequence[Path]:
    """The files of pages, each once."""
    there = (page for page in pages if page is not None)
    return [Path(name) for name in dict.fromkeys(page.parent.filehandle.path for page in there)]


class PlaneValues(Values):
    """The intensities of planes that have directories of their own.

    Parameters
    ----------
    pages : list of tifffile.TiffPage
        One for each plane, or None for a missing one. They are not sent to another process: there they are read anew.
    shape : tuple of int
        The axes of the planes, and then those of a plane.
    outer : int
        How many axes the planes have.
    dtype : dtype
    again : callable
        Gives the pages.
    """

    def __init__(
        self, pages: list[Any], shape: tuple[int, ...], outer: int, dtype: Any, again: Callable[[], list[Any]]
    ) -> None:
        super().__init__(shape, dtype)
        self.pages: list[Any] | None = pages
        self.outer, self.again = outer, again
        self.files = files_of_pages(pages)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "pages": None}

    def read(self, box: Box) -> np.ndarray:
        if self.pages is None:
            self.pages = self.again()
        planes = math.prod(self.shape[: self.outer])
        if len(self.pages) != planes:
            raise InputError(f"has changed: it has {len(self.pages)} planes, it had {planes}")
        numbers = np.arange(planes).reshape(self.shape[: self.outer])[box[: self.outer]]
        first = next(page.keyframe for page in self.pages if page is not None)
        inner = _box_of_plane(box[self.outer :], self.shape[self.outer :], first)
        data = np.empty([length_of(taken) for taken in box], self.dtype)
        with ExitStack() as stack:
            files: dict[str, IO[bytes]] = {}
            segments: dict[Any, list[_Segment]] = {}
            for place in np.ndindex(numbers.shape):
                page = self.pages[numbers[place]]
                if page is None:
                    data[place] = np.nan if self.dtype.kind == "f" else 0
                    continue
                name, frame = page.parent.filehandle.path, page.keyframe
                if name not in files:
                    files[name] = stack.enter_context(Path(name).open("rb"))
                if frame not in segments:
                    segments[frame] = [] if frame.is_contiguous else [*_segments(frame, inner)]
                data[place] = _part_of_plane(files[name], page, inner, segments[frame]).reshape(data[place].shape)
        return data


def mask_of(values: Values) -> Values | None:
    """Where an image was measured; None if no plane is missing."""
    if not isinstance(values, PlaneValues) or not values.pages or all(page is not None for page in values.pages):
        return None
    there = np.array([page is not None for page in values.pages]).reshape(values.shape[: values.outer])
    return PlaneMask(there, values.shape)


class _Segment(NamedTuple):
    """A strip or tile of a plane."""

    number: int
    start: tuple[int, ...]
    """Its place along depth, rows and columns."""


def _outer_axes(shape: tuple[int, ...], page: Any) -> int | None:
    """How many axes the planes have, where the others are those of a plane; None where they are not."""
    samples, *lengths, more = page.shaped
    long = [length for length in lengths if length > 1]
    for outer in range(len(shape), -1, -1):
        if samples == more == 1 and [length for length in shape[outer:] if length > 1] == long:
            return outer
    return None


def _box_of_plane(box: Box, shape: tuple[int, ...], page: Any) -> Box:
    """The box along depth, rows and columns, from that along the axes that have a length above 1."""
    taken = iter([each for each, length in zip(box, shape, strict=True) if length > 1])
    return tuple(next(taken) if length > 1 else slice(0, 1, 1) for length in page.shaped[1:4])


def _part_of_plane(file: IO[bytes], page: Any, box: Box, segments: Sequence[_Segment]) -> np.ndarray:
    """The intensities in a box of a page along depth, rows and columns."""
    frame = page.keyframe
    lengths = frame.shaped[1:4]
    if frame.is_final:
        stored = frame.dtype.newbyteorder(frame.parent.byteorder)
        return native(np.array(np.memmap(file, stored, "r", page.dataoffsets[0], lengths)[box]))
    if frame.is_contiguous or frame.jpegheader is not None:  # tifffile decodes such planes as a whole
        with open_file(page.parent):
            plane: np.ndarray = page.asarray(squeeze=False)
        return plane.reshape(lengths)[box]
    options: dict[str, Any] = {"_fullsize": False}
    if frame.compression in JPEG:
        options |= {"jpegtables": page.jpegtables, "jpegheader": frame.jpegheader}
    area = np.empty([each.stop - each.start for each in box], frame.dtype)
    for number, start in segments:
        file.seek(page.dataoffsets[number])
        stored_bytes = file.read(page.databytecounts[number])
        segment, _, _ = frame.decode(stored_bytes, number, **options)
        _copy_overlap(segment[..., 0], start, area, [each.start for each in box])
    return area[tuple(slice(None, None, each.step) for each in box)]


def _segments(frame: Any, box: Box) -> Iterator[_Segment]:
    """The strips or tiles that have something of a box."""
    for number in range(math.prod(frame.chunked)):
        _, (_, *start, _), lengths = frame.decode(None, number)
        pairs = zip(start, lengths, box, strict=False)
        if all(first < each.stop and first + length > each.start for first, length, each in pairs):
            yield _Segment(number, tuple(start))


def _copy_overlap(segment: np.ndarray, start: Sequence[int], area: np.ndarray, corner: Sequence[int]) -> None:
    """Copy what a segment that begins at ``start`` has of an area that begins at ``corner``."""
    source, target = [], []
    for mine, its, length, size in zip(start, corner, segment.shape, area.shape, strict=True):
        first, last = max(mine, its), min(mine + length, its + size)
        source.append(slice(first - mine, last - mine))
        target.append(slice(first - its, last - its))
    area[tuple(target)] = segment[tuple(source)]
