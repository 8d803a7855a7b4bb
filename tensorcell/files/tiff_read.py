"""Read TIFF files: OME-TIFF, ImageJ hyperstacks, files with tifffile's JSON description, and plain ones."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tensorcell.errors import InputError
from tensorcell.files.claimed_sizes import check_claim
from tensorcell.files.formats import Wanted
from tensorcell.files.lazy_values import Held, Opened, Values, arranged
from tensorcell.files.notes import apply_notes
from tensorcell.files.tiff_details import calibrated, description_details
from tensorcell.files.tiff_directories import directories_of
from tensorcell.files.tiff_ome import Details, metadata_file_of, ome_details
from tensorcell.files.tiff_pages import Chains, pages_of, read_planes
from tensorcell.files.tiff_parts import mask_of, plane_values
from tensorcell.files.tiff_series import ALL_PAGES, Choice, chosen_image
from tensorcell.volume import Volume

if TYPE_CHECKING:
    import tifffile


def read_tiff(path: Path, wanted: Wanted) -> Volume:
    """Read the image that is wanted, else the largest stack of the file, of equally large ones the first."""

    def values(image: _Image, _: Path) -> Values:
        series = image.choice.series
        check_claim(series.shape, series.dtype)
        if image.choice.gaps:
            return plane_values(series, image.chains, list, gaps=True)
        return Held(read_planes(series, image.chains))

    return _opened(path, wanted, values).volume()


def open_tiff(path: Path, wanted: Wanted) -> Opened:
    """Find the image that `read_tiff` reads, and where its planes lie."""

    def values(image: _Image, file: Path) -> Values:
        choice = image.choice
        return plane_values(choice.series, image.chains, partial(_pages_again, file, wanted), gaps=choice.gaps)

    return _opened(path, wanted, values)


class _Image(NamedTuple):
    """The image that is read, in an open file."""

    tif: tifffile.TiffFile
    chains: Chains
    choice: Choice


def _opened(path: Path, wanted: Wanted, values_of: Callable[[_Image, Path], Values]) -> Opened:
    """The image that is wanted; ``values_of`` gives its intensities, from the open image and the path of its file."""
    with _open_file(path) as (tif, chains):
        if tif.ome_metadata and wanted.series != ALL_PAGES:
            main = metadata_file_of(tif.ome_metadata, path.parent)
            if main is not None:
                return _opened_by(path, main, wanted, values_of)
        choice = chosen_image(chains, wanted.series, gaps=wanted.missing_planes)
        series = choice.series
        names, shape = series.axes, series.shape
        if "S" in names:
            raise InputError(f"is a colour image {shape} ({names}), expected intensities; split the colours")
        spacing, metadata, notes = _details(tif, choice)
        data = values_of(_Image(tif, chains, choice), path)
    if data.shape != shape or 0 in shape:
        raise InputError(f"is damaged: its metadata say shape {shape}, its planes make {data.shape}")
    mask = mask_of(data)
    data, before = calibrated(data, metadata), names
    names, spacing, stored = apply_notes(data.shape, names, spacing, notes)
    data = arranged(data, before, names)
    mask = None if mask is None else arranged(mask, before, names)
    if choice.of > 1:
        metadata["series"] = f"{choice.number} of {choice.of}: {series.name}".rstrip(": ")
    said = [*stored.get("notes", ()), *metadata.get("notes", ()), *choice.notes]
    if said:
        metadata["notes"] = list(dict.fromkeys(said))
    noted = stored.pop("pixel_size", None)
    if "pixel_size" in metadata and noted is not None and np.allclose(noted, metadata["pixel_size"], rtol=1e-4, atol=0):
        metadata["pixel_size"] = tuple(noted)  # as it was before it became a ratio of integers
    names = _stack_axes(names, data.shape) if wanted.axes is None else wanted.axes
    if "Z" not in names:  # single planes need no distance
        spacing = metadata.pop("pixel_size", spacing)
    return Opened(data, names, spacing, {**stored, **metadata}, mask)


def _opened_by(path: Path, main: Path, wanted: Wanted, values_of: Callable[[_Image, Path], Values]) -> Opened:
    """The volume of the file that holds the metadata of a set, for a file that holds some of its planes."""
    if main.samefile(path):
        raise InputError(f"names itself as the file that holds its metadata; series={ALL_PAGES!r} reads its pages")
    try:
        opened = _opened(main, wanted, values_of)
    except InputError as error:
        raise InputError(f"belongs to {main.name}, which {error}") from error
    note = f"{path.name} holds planes of {main.name}, which was read"
    return opened._replace(metadata={**opened.metadata, "notes": [note, *opened.metadata.get("notes", ())]})


def _pages_again(path: Path, wanted: Wanted) -> list[Any]:
    """The pages of the image that is wanted."""
    with _open_file(path) as (_, chains):
        choice = chosen_image(chains, wanted.series, gaps=wanted.missing_planes)
        return pages_of(choice.series, chains, gaps=choice.gaps)


@contextmanager
def _open_file(path: Path) -> Iterator[tuple[tifffile.TiffFile, Chains]]:
    """The file and its directories; nothing is taken from it before all of these are found to lie in it."""
    import tifffile

    directories = directories_of(path)
    with quiet_tifffile(), tifffile.TiffFile(path) as tif:
        yield tif, Chains(tif, directories)


@contextmanager
def quiet_tifffile() -> Iterator[None]:
    """Keep tifffile's log lines off the terminal; a program that has set up logging still gets them."""
    handler = logging.NullHandler()
    logging.getLogger("tifffile").addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger("tifffile").removeHandler(handler)


def _stack_axes(axes: str, shape: tuple[int, ...]) -> str:
    """Axes of a TIFF series with its nameless page axis called Z; an error if others have no name."""
    nameless = [letter for letter in axes if letter in "QI"]
    if "Z" not in axes and len(nameless) == 1:
        axes = axes.replace(nameless[0], "Z")
    if len(set(axes)) != len(axes) or ("Z" not in axes and len(nameless) > 1):
        raise InputError(f"has {len(shape)} axes {shape} without names; pass axes=, for example axes='TZYX'")
    return axes


def _details(tif: Any, choice: Choice) -> Details:
    """Details of the image from OME-XML, an ImageJ description, tifffile's JSON or resolution tags."""
    if tif.is_ome and tif.ome_metadata and choice.series.kind == "ome":
        return ome_details(tif.ome_metadata, tif.series, choice.number, Path(tif.filehandle.dirname))
    return description_details(tif, choice)
