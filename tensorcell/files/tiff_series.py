"""The images of a TIFF file: those that tifffile finds, or the pages by size and data type; and which one is read.

The directories of the file are held against the planes of the images, so that no page is left out without a word.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tensorcell.errors import InputError
from tensorcell.files.formats import MOST_LISTED, chosen_series
from tensorcell.files.scanimage import axes_of_pages, header_of, plane_step
from tensorcell.files.tiff_directories import Directory
from tensorcell.files.tiff_ome import missing_files, planes_claimed
from tensorcell.files.tiff_pages import WHITE_IS_ZERO, Chains, block_of, kind_of, page_at
from tensorcell.files.units import finite

if TYPE_CHECKING:
    import tifffile

ALL_PAGES = "all pages"
"""The series of all pages of a file, whatever its metadata say."""

PLAIN_KINDS = ("uniform", "generic", "scanimage")
"""Kinds of tifffile's series that are put together here instead: pages whose order it takes from no metadata."""

MOST_PLANES = 10**7
"""Planes that the metadata of an image may claim."""

HOW_TO_GO_ON = (
    f"series={ALL_PAGES!r} reads the pages of this file, missing_planes=True (--missing-planes) takes such planes for "
    "not measured"
)

MICRO_MANAGER = 51123
"""Tag in which Micro-Manager says what a page is."""

INDICES = {"R": "PositionIndex", "T": "FrameIndex", "Z": "SliceIndex", "C": "ChannelIndex"}
"""Items of the Micro-Manager tag that number the pages along an axis."""


class Choice(NamedTuple):
    """The image that is read."""

    series: tifffile.TiffPageSeries
    number: int
    """Among the images of the file."""
    of: int
    """Number of images in the file."""
    notes: list[str]
    """What else there is in the file, and how the pages were ordered."""
    gaps: bool = False
    """Whether planes are missing."""


def chosen_image(chains: Chains, wanted: str | int | None, *, gaps: bool = False) -> Choice:
    """The image that is wanted by number or name, else a stack before a plane, then the largest, then the first.

    With ``gaps``, planes of it may be missing.

    Raises
    ------
    InputError
        If there is no such image, if the metadata do not fit the pages, or if, where nothing was named, pages beside
        those of the image may be further planes of it.
    """
    tif = chains.tif
    check_claimed_planes(tif)
    every: list[Any] = list(tif.series)
    notes: list[str] = []
    plain = wanted == ALL_PAGES or not every or every[0].kind in PLAIN_KINDS
    if plain:
        every = pages_alike(chains)
        if wanted == ALL_PAGES:
            _check_one(every)
            return Choice(every[0], 0, 1, [])
        _check_claims(tif)
        if wanted is None and (tif.is_scanimage or tif.is_micromanager):
            _check_one(every)
        if len(every) == 1 and tif.is_scanimage:
            every, notes = in_order_of_scanimage(every[0])
        elif len(every) == 1 and tif.is_micromanager:
            every, notes = in_order_of_micro_manager(every[0], chains)
    number = chosen_series([one.name for one in every], [_worth(one, tif) for one in every], wanted)
    if len(every) > 1:
        others = [f"{k}: {_said(one)}" for k, one in enumerate(every) if k != number]
        more = ", ..." if len(others) > MOST_LISTED else ""
        notes.append(
            f"of {len(every)} images number {number} was read, {_said(every[number])}; not "
            f"{', '.join(others[:MOST_LISTED])}{more}"
        )
    missing = _missing_planes(every[number], tif)
    if missing is not None and not gaps:
        raise InputError(f"is incomplete: {missing}; {HOW_TO_GO_ON}")
    if missing is not None:
        notes.append(f"{missing}; such planes count as not measured")
    notes += _notes_on_other_pages(chains, every, number, named=wanted is not None)
    return Choice(every[number], number, len(every), notes, missing is not None)


def check_claimed_planes(tif: tifffile.TiffFile) -> None:
    """Raise `InputError` if metadata claim more planes than a file has; tifffile would make a list of all of them."""
    claimed = planes_claimed(tif.ome_metadata) if tif.ome_metadata else 0
    if tif.is_mmstack:
        known = tif.micromanager_metadata or {}
        counts = [finite(known["Summary"].get(name)) or 1 for name in ("Frames", "Slices", "Channels", "Positions")]
        lengths = known["IndexMap"][:, :4].astype(float).max(axis=0, initial=0) + 1
        claimed = max(claimed, math.prod(counts), lengths.prod())
    if claimed > MOST_PLANES:
        raise InputError(f"is damaged: its metadata claim {claimed:.3g} planes, expected at most {MOST_PLANES:.0g}")


def pages_alike(chains: Chains) -> list[Any]:
    """An image for the pages of each size and data type, in the order of the file, however each page is stored.

    Pages that are smaller copies of others are left out.
    """

    keyframes: dict[bytes, Any] = {}
    groups: dict[Any, list[Any]] = {}
    for number, directory in enumerate(chains.first):
        page = page_at(chains.tif, number, directory, keyframes.get(directory.layout))
        keyframes.setdefault(directory.layout, page)
        of = page.keyframe
        if 0 in page.shape or page.dtype is None:
            raise InputError(f"is damaged: its directory {number} describes no image")
        if page is of and of.is_contiguous and page.dataoffsets[0] + of.nbytes > chains.tif.filehandle.size:
            raise InputError(f"is truncated or damaged: page {number} ({kind_of(page)}) is not within the file")
        groups.setdefault((of.shaped, of.dtype, of.photometric == WHITE_IS_ZERO), []).append(page)
    every = list(groups.values())
    whole = [pages for pages in every if not all(page.keyframe.is_reduced for page in pages)] or every
    return [_series(chains.tif, pages, "I", (len(pages),)) for pages in whole]


def _series(tif: Any, pages: Sequence[Any], axes: str, lengths: tuple[int, ...]) -> Any:
    import tifffile

    first = pages[0]
    if len(pages) == 1:
        axes, lengths = "", ()
    return tifffile.TiffPageSeries(
        pages, (*lengths, *first.shape), first.dtype, axes + first.axes, parent=tif, kind="generic"
    )


def in_order_of_scanimage(series: Any) -> tuple[list[Any], list[str]]:
    """The image with the axes that the header of ScanImage gives its pages, and notes."""
    first = series.keyframe
    header = {**header_of(first.description), **header_of(first.software)}
    count = math.prod(series.shape) // math.prod(first.shape)
    try:
        axes, lengths = axes_of_pages(header, count)
    except InputError as error:
        raise InputError(f"{error}; series={ALL_PAGES!r} reads the pages as they follow one another") from error
    step = plane_step(header)
    notes = [] if step is None else [f"the planes are {step:g} um apart; the pixel size is unknown"]
    return [_series(series.parent, list(series), axes, lengths)], notes


def in_order_of_micro_manager(series: Any, chains: Chains) -> tuple[list[Any], list[str]]:
    """The image with the axes that Micro-Manager's tag gives its pages, where every page has one."""
    pages = list(series)
    tags = [page_at(chains.tif, *_found(page, chains)).tags.valueof(MICRO_MANAGER) for page in pages]
    without = [number for number, tag in enumerate(tags) if not isinstance(tag, dict) or INDICES["C"] not in tag]
    if len(without) == len(pages):
        return [series], ["Micro-Manager's tags do not say which channel and plane a page is; all are taken for planes"]
    if without:
        raise InputError(
            f"has pages, first {without[0]}, of which Micro-Manager's tag does not say the channel and plane; "
            f"series={ALL_PAGES!r} reads the pages as they follow one another"
        )
    table = np.array([[int(tag.get(name, 0)) for name in INDICES.values()] for tag in tags])
    lengths = table.max(axis=0) + 1
    if len(np.unique(table, axis=0)) != len(pages) or lengths.prod() != len(pages):
        said = ", ".join(f"{name} to {last}" for name, last in zip(INDICES.values(), lengths - 1, strict=True) if last)
        raise InputError(
            f"has {len(pages)} pages, Micro-Manager numbers them by {said}, expected {lengths.prod()} pages; "
            f"series={ALL_PAGES!r} reads them as they follow one another"
        )
    order = np.lexsort(table.T[::-1])
    named = [(letter, int(length)) for letter, length in zip(INDICES, lengths, strict=True) if length > 1]
    axes = "".join(letter for letter, _ in named)
    return [_series(chains.tif, [pages[k] for k in order], axes, tuple(length for _, length in named))], []


def _found(page: Any, chains: Chains) -> tuple[int, Directory]:
    found = chains.find(page)
    assert found is not None  # the page was made from this directory
    return found


def _worth(series: Any, tif: tifffile.TiffFile) -> tuple[bool, int, bool]:
    """Order of images where none is named: a stack before a plane, the larger one, the one in the file opened."""
    sizes = zip(series.axes, series.shape, strict=True)
    is_stack = any(letter not in "YXS" and size > 1 for letter, size in sizes)
    return is_stack, series.size, series.keyframe.parent is tif


def _said(series: Any) -> str:
    """Name, shape and data type of an image, for messages."""
    name = f"{series.name!r} " if series.name else ""
    return f"{name}{' x '.join(map(str, series.shape))} {series.axes.replace('I', 'Z')} {series.dtype}"


def _missing_planes(series: Any, tif: tifffile.TiffFile) -> str | None:
    """Which planes are in none of the files, with the names of those that are not there; None if all are."""
    gaps = [number for number, page in enumerate(series) if page is None] if series.kind in ("ome", "mmstack") else []
    if not gaps:
        return None
    listed = ", ".join(map(str, gaps[:MOST_LISTED])) + (", ..." if len(gaps) > MOST_LISTED else "")
    which = f"plane {listed}" if len(gaps) == 1 else f"{len(gaps)} planes ({listed})"
    names = missing_files(tif.ome_metadata, Path(tif.filehandle.dirname)) if tif.ome_metadata else []
    where = f"; expected {', '.join(map(repr, names[:MOST_LISTED]))} beside it" if names else ""
    return f"{which} of {len(series)} {'is' if len(gaps) == 1 else 'are'} in none of its files{where}"


def _check_one(every: Sequence[Any]) -> None:
    """Raise `InputError` if the pages of a file are not one stack."""
    if len(every) > 1:
        kinds = "; ".join(f"{len(one)} of {kind_of(one.keyframe)}" for one in every[:MOST_LISTED])
        raise InputError(f"has pages of {len(every)} kinds, expected one: {kinds}; series=0 reads those of the first")


def _check_claims(tif: tifffile.TiffFile) -> None:
    """Raise `InputError` if there are metadata on the order of the pages, since tifffile could not follow them."""
    claims = {"OME": tif.is_ome, "ImageJ": tif.is_imagej, "shape": tif.is_shaped}
    claimed = [name for name, claim in claims.items() if claim]
    if claimed:
        raise InputError(
            f"is truncated or damaged: its planes do not fit its {claimed[0]} metadata; series={ALL_PAGES!r} reads "
            "its pages as they follow one another"
        )


def _notes_on_other_pages(chains: Chains, every: Sequence[Any], number: int, *, named: bool) -> list[str]:
    """What is said of pages that belong to no image, or lie between those of the image that is read.

    Raises
    ------
    InputError
        If they may be further planes of that image and nothing was named.
    """
    chosen = numbers_of(every[number], chains)
    others = set().union(*(numbers_of(level, chains) for one in every for level in one.levels)) - chosen
    first = every[number].keyframe
    smaller: set[tuple[int, ...]] = set()
    between: list[int] = []
    further: list[int] = []
    unlike: list[int] = []
    for place, directory in enumerate(chains.first):
        if place in chosen:
            continue
        if place in others:
            if every[0].kind == "generic" and min(chosen) < place < max(chosen):
                between.append(place)
            continue
        page = page_at(chains.tif, place, directory)
        if page.is_reduced:
            smaller.add(page.shape)
        else:
            (further if (page.shaped, page.dtype) == (first.shaped, first.dtype) else unlike).append(place)
    left_out = between + further
    if left_out and not named:
        page = page_at(chains.tif, left_out[0], chains.first[left_out[0]])
        raise InputError(
            f"has {_pages(left_out)} ({kind_of(page)}) that {'is' if len(left_out) == 1 else 'are'} not among the "
            f"{len(chosen)} of its image ({kind_of(first)}); series={number} reads the image without"
            + ("" if between else f", series={ALL_PAGES!r} all of them")
        )
    notes = [f"{_pages(left_out)} lie between or after those of the image and were not read"] if left_out else []
    notes += [f"{_pages(unlike)} of another size were not read"] if unlike else []
    # Of images whose planes are put together here, tifffile knows no levels.
    levels = max(len(smaller), len(every[number].levels) - 1, len(first.subifds or ()))
    return notes + ([_note_on_levels(levels)] if levels else [])


def _note_on_levels(count: int) -> str:
    what = "1 smaller level of the image was" if count == 1 else f"{count} smaller levels of the image were"
    return f"{what} not read; pyramid=True (--pyramid) writes new ones"


def _pages(numbers: Sequence[int]) -> str:
    """Numbers of pages for messages.

    >>> _pages([3]), _pages([3, 4])
    ('1 page (3)', '2 pages (3, 4)')
    """
    listed = ", ".join(map(str, numbers[:MOST_LISTED])) + (", ..." if len(numbers) > MOST_LISTED else "")
    return f"{len(numbers)} {'page' if len(numbers) == 1 else 'pages'} ({listed})"


def numbers_of(series: Any, chains: Chains) -> set[int]:
    """The numbers of the directories, in the file that was opened, of an image's planes."""
    block = block_of(series, chains)
    if block is not None:
        return set(block)
    try:
        pages = list(series)
    except (IndexError, RuntimeError):
        pages = [series.keyframe]
    places = [chains.find(page) for page in pages if page is not None and page.parent is chains.tif]
    return {place[0] for place in places if place is not None}
