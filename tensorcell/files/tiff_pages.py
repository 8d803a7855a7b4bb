"""The planes of an image in a TIFF file, each read by its own directory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorcell.errors import InputError
from tensorcell.files.messages import reason
from tensorcell.files.tiff_directories import Directory, directories_of

if TYPE_CHECKING:
    import tifffile


WHITE_IS_ZERO = 0
"""Photometric interpretation of pages whose intensities are inverted."""


class Chains:
    """The directories of a TIFF file and of the other files that its image is spread over."""

    def __init__(self, tif: tifffile.TiffFile, directories: list[Directory]) -> None:
        self.tif, self.first = tif, directories
        self._of_file = {tif: _by_offset(directories)}

    def find(self, page: Any) -> tuple[int, Directory] | None:
        """The number of a page's directory in its file, and the directory; None if it is in no chain (a SubIFD)."""
        tif = page.parent
        if tif not in self._of_file:
            try:
                self._of_file[tif] = _by_offset(directories_of(Path(tif.filehandle.path)))
            except InputError as error:
                raise InputError(f"belongs together with {tif.filename}, which {error}") from error
        return self._of_file[tif].get(page.offset)


def _by_offset(directories: Sequence[Directory]) -> dict[int, tuple[int, Directory]]:
    return {one.offset: (number, one) for number, one in enumerate(directories)}


def page_at(tif: tifffile.TiffFile, number: int, directory: Directory, like: Any = None) -> Any:
    """The page of a directory; with ``like``, a page that is stored alike, only its places are read."""
    import tifffile

    if like is not None:
        frame = tifffile.TiffFrame(tif, number, offset=directory.offset, keyframe=like)
        if _is_spread_alike(frame, like):
            return frame
    try:
        with open_file(tif):
            tif.filehandle.seek(directory.offset)
            return tifffile.TiffPage(tif, number)
    except Exception as error:  # whatever a damaged directory makes tifffile raise
        raise InputError(f"is damaged: its directory {number} cannot be read: {reason(error)}") from error


@contextmanager
def open_file(tif: tifffile.TiffFile) -> Iterator[None]:
    """The file open; tifffile closes the further files of an image between reads."""
    with ExitStack() as stack:
        if tif.filehandle.closed:
            tif.filehandle.open()
            stack.callback(tif.filehandle.close)
        yield


def _is_spread_alike(page: Any, like: Any) -> bool:
    """Whether several strips lie as those of the page by which they are read, which may be one after another."""
    here, there = page.dataoffsets, like.dataoffsets
    if len(here) != len(there):
        return False
    if len(here) == 1 or not like.is_contiguous:
        return True
    return all(mine - here[0] == its - there[0] for mine, its in zip(here, there, strict=True))


def read_planes(series: tifffile.TiffPageSeries, chains: Chains) -> np.ndarray:
    """The intensities of an image, each plane decoded as its own directory says.

    Raises
    ------
    InputError
        If a plane is missing, or has another size or data type than the first, or does not lie within its file.
    """
    import tifffile

    if block_start(series, chains) is not None:
        return series.asarray()
    pages = pages_of(series, chains)
    shape, names = series.get_shape(squeeze=False), series.get_axes(squeeze=False)
    own = tifffile.TiffPageSeries(pages, shape, series.dtype, names, parent=chains.tif)
    # With a key pages are read one by one. Without, planes that lie in another file are looked for in the one opened.
    data = chains.tif.asarray(key=slice(None), series=own)
    if series.transform is not None:
        data = series.transform(data)
    return data.reshape(series.shape)


def block_start(series: tifffile.TiffPageSeries, chains: Chains) -> int | None:
    """The byte at which planes that follow one another begin; None if they lie otherwise (see `block_of`).

    Raises
    ------
    InputError
        If they do not end within the file.
    """
    if block_of(series, chains) is None:
        return None
    start = int(series.dataoffset or 0)
    end, size = start + series.nbytes, chains.tif.filehandle.size
    if end > size:
        raise InputError(f"is truncated: its planes end at byte {end}, the file has {size}")
    return start


def block_of(series: tifffile.TiffPageSeries, chains: Chains) -> list[int] | None:
    """The numbers of the directories of planes that follow one another in the file, as their directories say, too.

    One directory may stand for all planes. None if the planes lie otherwise.
    """
    first = series.keyframe
    planes = series.size // math.prod(first.shape) if first.size else 0
    start, size = series.dataoffset, series.nbytes
    if planes < 2 or series.is_multifile or first.parent is not chains.tif or start is None:
        return None
    found = chains.find(first)
    if found is None:
        return None
    number, directory = found
    inside = [
        k
        for k, one in enumerate(chains.first[number:], number)
        if one.first is not None and start <= one.first < start + size
    ]
    if inside == [number]:
        return inside
    there = [chains.first[k] for k in inside]
    alike = len(inside) == planes and {one.layout for one in there} == {directory.layout}
    return inside if alike and [one.first for one in there] == [*range(start, start + size, size // planes)] else None


def pages_of(series: tifffile.TiffPageSeries, chains: Chains, *, gaps: bool = False) -> list[Any]:
    """A page with its own layout for each plane; the checks of `read_planes`.

    With ``gaps`` it is None for a plane that is missing.
    """
    try:
        listed = list(series)
    except (IndexError, RuntimeError) as error:
        raise InputError(f"is truncated or damaged: it lacks some of its {len(series)} planes") from error
    pages: list[Any] = []
    for number, one in enumerate(listed):
        if one is None and gaps:
            pages.append(None)
            continue
        if one is None:
            raise InputError(f"is incomplete: plane {number} of {len(listed)} is in none of its files")
        page = _own_page(one, chains)
        _check_like(page, series.keyframe, number)
        end, size = _end_of_data(page, number), page.parent.filehandle.size
        if end > size:
            file = "the file" if page.parent is chains.tif else page.parent.filename
            raise InputError(f"is truncated: plane {number} ends at byte {end}, {file} has {size}")
        pages.append(page)
    if len(pages) * math.prod(series.keyframe.shape) != series.size:
        raise InputError(f"is damaged: its metadata say shape {series.shape}, it has {len(pages)} planes")
    return pages


def _own_page(page: Any, chains: Chains) -> Any:
    """The page, read anew by its directory where that differs from the one by which tifffile would decode it."""
    found = chains.find(page)
    if found is None:
        return page
    number, directory = found
    known = chains.find(page.keyframe)
    alike = known is not None and known[1].layout == directory.layout and page.dataoffsets[:1] == (directory.first,)
    if page is page.keyframe or (alike and _is_spread_alike(page, page.keyframe)):
        return page
    return page_at(page.parent, number, directory)


def _check_like(page: Any, first: Any, number: int) -> None:
    """Raise `InputError` unless a plane has the size, the data type and the polarity of the first."""
    here, there = ((*one.shaped, one.dtype, one.photometric == WHITE_IS_ZERO) for one in (page.keyframe, first))
    if here != there:
        raise InputError(f"plane {number} is {kind_of(page)}, the first is {kind_of(first)}; expected planes alike")


def kind_of(page: Any) -> str:
    """Size and data type of a page, for messages."""
    polarity = ", white is zero" if page.photometric == WHITE_IS_ZERO else ""
    return f"{' x '.join(map(str, page.shape))} {page.dtype}{polarity}"


def _end_of_data(page: Any, number: int) -> int:
    """Last byte of the strips or tiles of a page; an `InputError` if some are missing."""
    frame = page.keyframe
    offsets, counts = page.dataoffsets, page.databytecounts
    if len(offsets) > 0 and offsets[0] > 0 and frame.is_contiguous:
        if page is frame and number > 0 and 0 < sum(counts) < frame.nbytes:
            raise InputError(f"is incomplete: plane {number} has {sum(counts)} of its {frame.nbytes} bytes")
        return int(offsets[0] + frame.nbytes)
    wanted = math.prod(frame.chunked)
    if len(offsets) < wanted or len(counts) < wanted or 0 in offsets[:wanted] or 0 in counts[:wanted]:
        raise InputError(f"is incomplete: plane {number} lacks some of its {wanted} strips or tiles")
    return int(max(offset + count for offset, count in zip(offsets[:wanted], counts[:wanted], strict=True)))
