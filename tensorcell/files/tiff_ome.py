"""OME-XML of TIFF files: the files of a set, and what is known of an image."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from tensorcell.errors import InputError
from tensorcell.files.notes import NOTES_KEY
from tensorcell.files.units import Spacing, finite, length, micrometres, seconds_of, voxel_size

Details = tuple[Spacing | None, dict[str, Any], Any]
"""Voxel size, metadata, and the text of our own notes or None."""

PLANE_LENGTHS, PLANE_TIMES = ("PositionX", "PositionY", "PositionZ"), ("DeltaT", "ExposureTime")
"""Attributes of a plane that are kept: lengths and times."""

NO_NAME = re.compile(r"(Image\d+)?")
"""Names that tifffile gives images without one."""

KEPT = frozenset({"Image", "StructuredAnnotations", "BinaryOnly"})
"""Elements of OME-XML that are read; StructuredAnnotations hold, if nothing else, our own notes."""


def metadata_file_of(xml: str, folder: Path) -> Path | None:
    """The file that holds the metadata of a set of which this file has planes only; None if these are here.

    Raises
    ------
    InputError
        If that file is not beside this one.
    """
    element = ElementTree.fromstring(xml).find("{*}BinaryOnly")
    if element is None:
        return None
    name = element.get("MetadataFile", "")
    path = folder / Path(name).name  # nothing outside the folder is opened
    if not name or not path.is_file():
        raise InputError(f"holds planes of a set whose metadata are in {name!r}, expected that file beside it")
    return path


def planes_claimed(xml: str) -> float:
    """The largest number of planes that an image, or a part of one in a file, is said to have."""
    root = ElementTree.fromstring(xml)
    counts = [
        math.prod(finite(one.get(f"Size{letter}")) or 1 for letter in "ZCT") for one in root.iterfind(".//{*}Pixels")
    ]
    names = ("IFD", "NumPlanes", "PlaneCount", "FirstZ", "FirstC", "FirstT")
    parts = [finite(one.get(name)) or 1 for one in root.iterfind(".//{*}TiffData") for name in names]
    return max([*counts, *parts], default=0)


def missing_files(xml: str, folder: Path) -> list[str]:
    """Names of the files with planes of the set that are not in the folder."""
    return [name for name in _files_of(ElementTree.fromstring(xml)) if name and not (folder / name).is_file()]


def image_of(xml: str, series: Sequence[Any], number: int, folder: Path) -> tuple[Any, list[str]]:
    """The Image element of a series, and a note on each image of which no file has planes: it is no series."""
    elements = ElementTree.fromstring(xml).findall("{*}Image")
    found, without = [], []
    for one in series:
        while elements and not _is_image_of(elements[0], one):
            without.append(elements.pop(0))
        found.append(elements.pop(0) if elements else None)
    if found[number] is None:  # their sizes do not agree: then they are taken in their order
        return ElementTree.fromstring(xml).findall("{*}Image")[number], []
    notes = []
    for image in [*without, *elements]:
        files = [name for name in _files_of(image) if not (folder / name).is_file()]
        why = f": {', '.join(map(repr, files))} is not there" if files else ""
        notes.append(f"image {image.get('Name', '')!r} has no planes{why}")
    return found[number], notes


def _files_of(element: Any) -> list[str]:
    """Names of the files that the planes are in, each once."""
    return list(dict.fromkeys(one.get("FileName", "") for one in element.iterfind(".//{*}UUID")))


def _is_image_of(image: Any, series: Any) -> bool:
    pixels = image.find("{*}Pixels")
    if pixels is None or (image.get("Name") or "") != (series.name if series.name != "Baseline" else image.get("Name")):
        return False
    sizes = [int(pixels.get(f"Size{letter}", 0)) for letter in "XYZCT"]
    return bool(math.prod(sizes) == series.size)


def ome_details(
    xml: str, series: Sequence[Any], number: int, folder: Path
) -> tuple[Spacing | None, dict[str, Any], Any]:
    """Voxel size, metadata, and the text of our own notes or None, of the image that is this one of the series."""
    metadata: dict[str, Any] = {"format": "OME-TIFF"}
    root = ElementTree.fromstring(xml)
    image, notes = image_of(xml, series, number, folder)
    pixels = image.find("{*}Pixels")
    steps = []
    for letter in "ZYX":
        value, unit = pixels.get(f"PhysicalSize{letter}"), pixels.get(f"PhysicalSize{letter}Unit", "um")
        steps.append(length(value, unit))
        if finite(value) and steps[-1] is None:
            notes.append(f"PhysicalSize{letter} is {value} in {unit!r}, which is no unit of length")
    metadata |= _channels(pixels) | _times(pixels)
    for key, tag in (("description", "Description"), ("acquisition_date", "AcquisitionDate")):
        text = image.findtext(f"{{*}}{tag}")
        if text:
            metadata[key] = text
    if not NO_NAME.fullmatch(image.get("Name", "")):
        metadata["name"] = image.get("Name")
    planes, said = _planes(pixels)
    if planes:
        metadata["planes"] = planes
    left_out = sorted({each.tag.rpartition("}")[2] for each in root} - KEPT)
    if left_out:
        notes.append(f"of the OME-XML these elements are not kept: {', '.join(left_out)}")
    if notes or said:
        metadata["notes"] = notes + said
    own = next((entry.text for entry in root.iterfind(".//{*}M") if entry.get("K") == NOTES_KEY), None)
    return voxel_size(steps, metadata), metadata, own


def _channels(pixels: Any) -> dict[str, Any]:
    """Names, colours and wavelengths (nanometres) of the channels, each where every channel or any has one."""
    channels = pixels.findall("{*}Channel")
    found: dict[str, Any] = {}
    names = [channel.get("Name") for channel in channels]
    if names and all(names):
        found["channel_names"] = names
    colours = [channel.get("Color") for channel in channels]
    if any(colours):
        found["channel_colors"] = [None if colour is None else int(colour) for colour in colours]
    for kind in ("Emission", "Excitation"):
        waves = [
            length(channel.get(f"{kind}Wavelength"), channel.get(f"{kind}WavelengthUnit", "nm")) for channel in channels
        ]
        if any(waves):
            found[f"{kind.lower()}_wavelengths"] = [None if wave is None else round(1e3 * wave, 9) for wave in waves]
    return found


def _times(pixels: Any) -> dict[str, Any]:
    interval = finite(pixels.get("TimeIncrement"))
    scale = seconds_of(pixels.get("TimeIncrementUnit", "s"))
    if interval is None or scale is None or interval <= 0:
        return {}
    return {"time_interval": interval * scale}


def _planes(pixels: Any) -> tuple[dict[str, list[float | None]], list[str]]:
    """What is known of each plane, in the order T, C, Z with the last one fastest, and notes.

    Lengths are in micrometres, times in seconds. Positions that a stage gives in a unit of its own are left out.
    """
    sizes = [int(pixels.get(f"Size{letter}", 1)) for letter in "TCZ"]
    elements = pixels.findall("{*}Plane")
    if not elements or len(elements) > math.prod(sizes):
        return {}, []
    found: dict[str, list[float | None]] = {}
    unknown: set[str] = set()
    for element in elements:
        t, c, z = (int(element.get(f"The{letter}", 0)) for letter in "TCZ")
        place = (t * sizes[1] + c) * sizes[2] + z
        if place >= math.prod(sizes):
            return {}, ["planes are described that the image does not have; what is said of planes was not kept"]
        for name in (*PLANE_LENGTHS, *PLANE_TIMES):
            value = finite(element.get(name))
            unit = element.get(f"{name}Unit", "reference frame" if name in PLANE_LENGTHS else "s")
            scale = micrometres(unit) if name in PLANE_LENGTHS else seconds_of(unit)
            if value is None:
                continue
            if scale is None:
                unknown.add(f"{name} in {unit!r}")
                continue
            found.setdefault(name, [None] * math.prod(sizes))[place] = value * scale
    notes = [f"of the planes these are not kept: {', '.join(sorted(unknown))}"] if unknown else []
    return found, notes
