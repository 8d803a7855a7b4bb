"""Read TIFF files: OME-TIFF, ImageJ hyperstacks, files with tifffile's JSON description, and plain ones."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from tensorcell.errors import InputError
from tensorcell.files.formats import Wanted
from tensorcell.files.layout import native
from tensorcell.files.notes import NOTES_KEY, apply_notes
from tensorcell.files.tiff_pages import check_complete, check_directories
from tensorcell.files.units import SECONDS, Spacing, finite, length, pixel, voxel_size
from tensorcell.volume import Volume

if TYPE_CHECKING:
    import tifffile

Details = tuple[Spacing | None, dict[str, Any], Any]
"""Voxel size, metadata, and the text of our own notes or None."""


def read_tiff(path: Path, wanted: Wanted) -> Volume:
    """Read the image that is wanted, else the largest one of the file, of equally large ones the first."""
    import tifffile

    check_directories(path)
    with quiet_tifffile(), tifffile.TiffFile(path) as tif:
        every = list(tif.series)
        number = chosen_series([one.name for one in every], [one.size for one in every], wanted.series)
        series = every[number]
        check_complete(tif, series)
        names, shape = series.axes, series.shape
        if "S" in names:
            raise InputError(f"is a colour image {shape} ({names}), expected intensities; split the colours")
        spacing, metadata, notes = _details(tif, number if len(every) > 1 else 0)
        data = series.asarray()
    if data.shape != shape or data.size == 0:
        raise InputError(f"is damaged: its metadata say shape {shape}, its planes make {data.shape}")
    data, names, spacing, stored = apply_notes(native(data), names, spacing, notes)
    if len(every) > 1:
        metadata["series"] = f"{number} of {len(every)}: {series.name}".rstrip(": ")
    names = _stack_axes(names, data.shape) if wanted.axes is None else wanted.axes
    if "Z" not in names:  # single planes need no distance
        spacing = metadata.pop("pixel_size", spacing)
    return Volume(data, names, spacing, metadata={**stored, **metadata})


def chosen_series(names: Sequence[str], sizes: Sequence[int], wanted: str | int | None) -> int:
    """The number of the image that is wanted by number or name; that of the first of the largest where none is.

    >>> chosen_series(["overview", "stack"], [10, 1000], None), chosen_series(["overview", "stack"], [10, 1000], "0")
    (1, 0)

    Raises
    ------
    InputError
        If there is no such image; the message lists them.
    """
    if wanted is None:
        return max(range(len(sizes)), key=lambda number: sizes[number])  # `max` takes the first of equals
    if wanted in names and list(names).count(str(wanted)) == 1:
        return list(names).index(str(wanted))
    number = int(wanted) if str(wanted).isdecimal() else -1
    if not 0 <= number < len(names):
        listed = ", ".join(f"{number}: {name}".rstrip(": ") for number, name in enumerate(names[:8]))
        more = ", ..." if len(names) > 8 else ""
        raise InputError(f"has no series {wanted!r}, it has {listed}{more}")
    return number


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


def _details(tif: tifffile.TiffFile, number: int) -> Details:
    """Details of image ``number``, from OME-XML, an ImageJ description or tifffile's JSON."""
    if tif.is_ome and tif.ome_metadata:
        return _ome_details(tif.ome_metadata, number)
    metadata: dict[str, Any] = {"format": "ImageJ TIFF" if tif.is_imagej else "TIFF"}
    if not tif.is_imagej and not tif.is_shaped:
        return None, metadata, None
    said = tif.imagej_metadata if tif.is_imagej else (tif.shaped_metadata or ({},))[0]
    said = said or {}
    steps = _imagej_steps(tif.pages[0], said)
    if isinstance(said.get("Info"), str):
        metadata["info"] = said["Info"]
    interval = finite(said.get("finterval"))
    if interval is not None and interval > 0:
        metadata["time_interval"] = interval * SECONDS.get(str(said.get("tunit", "s")).lower(), 1.0)
    return voxel_size(steps, metadata), metadata, said.get(NOTES_KEY)


def _imagej_steps(page: Any, said: Mapping[str, Any]) -> tuple[float | None, float | None, float | None]:
    """(dz, dy, dx) in micrometres from a description's unit and spacing and a page's resolution tags."""
    unit = said.get("unit") or {2: "inch", 3: "cm"}.get(page.tags.valueof(296, default=1))
    dx = pixel(page.tags.valueof(282), unit)
    dy = pixel(page.tags.valueof(283), said.get("yunit", unit))
    depth = said.get("spacing")
    if depth is None and said.get("unit") and said.get("ImageJ") not in (None, "1.11a"):
        depth = 1.0  # ImageJ leaves a step of 1 out; 1.11a is the version that other programs give
    return length(depth, said.get("zunit", unit)), dy, dx


def _ome_details(xml: str, number: int) -> Details:
    """Details of image ``number``, from OME-XML."""
    metadata: dict[str, Any] = {"format": "OME-TIFF"}
    root = ElementTree.fromstring(xml)
    images = root.findall("{*}Image")
    image = images[number] if number < len(images) else images[0]
    pixels = image.find("{*}Pixels")
    if pixels is None:
        return None, metadata, None
    steps = [length(pixels.get(f"PhysicalSize{a}"), pixels.get(f"PhysicalSize{a}Unit", "um")) for a in "ZYX"]
    names = [channel.get("Name") for channel in pixels.findall("{*}Channel")]
    if names and all(names):
        metadata["channel_names"] = names
    interval = finite(pixels.get("TimeIncrement"))
    scale = SECONDS.get(pixels.get("TimeIncrementUnit", "s").lower())
    if interval is not None and scale is not None and interval > 0:
        metadata["time_interval"] = interval * scale
    description = image.findtext("{*}Description")
    if description:
        metadata["description"] = description
    notes = next((entry.text for entry in root.iterfind(".//{*}M") if entry.get("K") == NOTES_KEY), None)
    return voxel_size(steps, metadata), metadata, notes
