"""What ImageJ's description, tifffile's JSON and the resolution tags of a TIFF file say of its image."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorcell.files.lazy_values import Converted, Values
from tensorcell.files.notes import NOTES_KEY
from tensorcell.files.tiff_ome import Details
from tensorcell.files.units import (
    NO_UNITS,
    finite,
    is_plausible,
    length,
    micrometres,
    pixel,
    print_resolution,
    seconds_of,
    voxel_size,
)

if TYPE_CHECKING:
    import tifffile

    from tensorcell.files.tiff_series import Choice

RESOLUTION_UNITS = {2: "inch", 3: "cm"}
"""The resolution tag's units of length."""

DROPPED = ("ROI", "Overlays", "Plot")
"""Items of ImageJ's metadata that have no place in a `Volume`."""

SIGNED_16_BIT = (0, -32768.0, 1.0)
"""ImageJ's calibration of signed 16-bit stacks, which it stores unsigned: a straight line, its offset and slope."""


def description_details(tif: tifffile.TiffFile, choice: Choice) -> Details:
    """Voxel size, metadata and notes from an ImageJ description or tifffile's JSON, or the resolution tags alone."""
    page = choice.series.keyframe
    metadata: dict[str, Any] = {"format": "ImageJ TIFF" if tif.is_imagej else "TIFF", "notes": []}
    said = tif.imagej_metadata if tif.is_imagej else (tif.shaped_metadata or ({},))[0] if tif.is_shaped else {}
    said = said or {}
    dz, dy, dx = _steps(page, said, metadata["notes"])
    if isinstance(said.get("Info"), str):
        metadata["info"] = said["Info"]
    interval = finite(said.get("finterval"))
    if interval is not None and interval > 0:
        metadata["time_interval"] = interval * (seconds_of(said.get("tunit", "s")) or 1.0)
    metadata |= _shown(said, page)
    if choice.series.kind == "mmstack":
        depth, about = _micro_manager_summary(tif, choice.series)
        dz = depth or dz
        metadata["notes"] += about.pop("notes")
        metadata |= about
    left_out = [name for name in DROPPED if name in said]
    if left_out:
        metadata["notes"].append(f"not kept of ImageJ's metadata: {', '.join(left_out)}")
    spacing = voxel_size((dz, dy, dx), metadata)
    if not metadata["notes"]:
        del metadata["notes"]
    return spacing, metadata, said.get(NOTES_KEY)


def _shown(said: Mapping[str, Any], page: Any) -> dict[str, Any]:
    """How ImageJ shows the image: labels of the planes, ranges, colour tables, and what its intensities mean."""
    found: dict[str, Any] = {}
    labels = said.get("Labels")
    if labels:
        found["labels"] = [labels] if isinstance(labels, str) else list(labels)
    ranges = said.get("Ranges") or tuple(finite(said.get(name)) for name in ("min", "max"))
    if ranges and None not in ranges:
        found["display_ranges"] = [list(pair) for pair in zip(ranges[::2], ranges[1::2], strict=False)]
    tables = said.get("LUTs")
    if tables is not None:
        found["luts"] = [np.asarray(one) for one in (tables if isinstance(tables, list) else [tables])]
    elif page.colormap is not None and page.colormap.shape == (3, 256):
        found["luts"] = [(page.colormap >> 8).astype(np.uint8)]
    if isinstance(said.get("Properties"), dict):
        found["properties"] = said["Properties"]
    coefficients = [said[name] for name in ("c0", "c1", "c2", "c3", "c4") if name in said]
    if "cf" in said and coefficients:
        found["calibration"] = {"function": said["cf"], "coefficients": coefficients, "unit": said.get("vunit", "")}
    return found


def _micro_manager_summary(tif: tifffile.TiffFile, series: Any) -> tuple[float | None, dict[str, Any]]:
    """The step along z, and names of channels and notes, from Micro-Manager's summary of the run."""
    summary = (tif.micromanager_metadata or {}).get("Summary", {})
    sizes = dict(zip(series.axes, series.shape, strict=True))
    planned = {"T": "Frames", "Z": "Slices", "C": "Channels", "R": "Positions"}
    missing = [
        f"{name} {sizes.get(letter, 1)} of {summary[name]}"
        for letter, name in planned.items()
        if (finite(summary.get(name)) or 1) > sizes.get(letter, 1)
    ]
    found: dict[str, Any] = {
        "notes": [f"the run was stopped or is in further files: {', '.join(missing)}"] * bool(missing)
    }
    names = summary.get("ChNames")
    if isinstance(names, list) and len(names) == sizes.get("C", 1):
        found["channel_names"] = [str(name) for name in names]
    return length(summary.get("z-step_um"), "um"), found


def calibrated(values: Values, metadata: dict[str, Any]) -> Values:
    """The intensities, with ImageJ's calibration of signed 16-bit stacks applied; others stay in the metadata.

    >>> from tensorcell.files.lazy_values import Held
    >>> metadata = {"calibration": {"function": 0, "coefficients": [-32768.0, 1.0], "unit": "Gray Value"}}
    >>> calibrated(Held(np.array([32759, 32768], np.uint16)), metadata).whole(), metadata
    (array([-9,  0], dtype=int16), {})
    """
    known = metadata.get("calibration")
    if known is None:
        return values
    if values.dtype == np.uint16 and (known["function"], *known["coefficients"]) == SIGNED_16_BIT:
        del metadata["calibration"]
        return Converted(values, np.int16, signed)
    notes = metadata.setdefault("notes", [])
    notes.append(f"intensities are as stored: ImageJ's calibration {known} was kept and not applied")
    return values


def signed(data: np.ndarray) -> np.ndarray:
    """The signed numbers that ImageJ stores with an offset of half the range of 16 bits."""
    return (data ^ np.uint16(0x8000)).view(np.int16)


def _steps(page: Any, said: Mapping[str, Any], notes: list[str]) -> list[float | None]:
    """(dz, dy, dx) in micrometres from a description's unit and spacing and a page's resolution tags."""
    tag = RESOLUTION_UNITS.get(page.tags.valueof(296, default=1))
    unit, (x, y) = said.get("unit"), (page.tags.valueof(code) for code in (282, 283))
    dx, about_x = pixel_step(x, unit, tag)
    dy, about_y = pixel_step(y, said.get("yunit", unit), tag)
    notes.extend(dict.fromkeys(note for note in (about_x, about_y) if note))
    depth = said.get("spacing")
    if depth is None and unit and said.get("ImageJ") not in (None, "1.11a"):
        depth = 1.0  # ImageJ leaves a step of 1 out; 1.11a is the version that other programs give
    if not unit and print_resolution(x, tag):
        tag = None
    dz = length(depth, said.get("zunit", unit or tag))
    if dz is not None and (dx is None or dy is None):
        notes.append(f"the planes are {dz:g} um apart; the pixel size is unknown")
    return [dz, dy, dx]


def pixel_step(resolution: Any, unit: Any, tag: str | None) -> tuple[float | None, str]:
    """The size of a pixel in micrometres and a note; None where it is unknown.

    Parameters
    ----------
    resolution : (int, int)
        Pixels, and units of length.
    unit : str or None
        The unit in a description.
    tag : {"inch", "cm", None}
        The unit of the resolution tag. ImageJ sets it only if it is the unit of the description.

    >>> pixel_step((10, 1), "um", None), pixel_step((100000, 1), "um", "cm")[0], pixel_step((72, 1), None, "inch")[0]
    ((0.1, ''), 0.1, None)
    """
    described, tagged = pixel(resolution, unit), pixel(resolution, tag)
    printed = print_resolution(resolution, tag)
    if printed and micrometres(unit) != micrometres(tag):
        return None, f"its resolution of {printed} per inch is one for print: the pixel size is unknown"
    if described is not None and tagged is not None and not math.isclose(described, tagged, rel_tol=1e-6):
        both = (
            f"the resolution is {resolution[0] / resolution[1]:g} per {tag} by its tag, per {unit} by the description"
        )
        found = [one for one in (described, tagged) if is_plausible(one)]
        if len(found) == 1:
            return found[0], f"{both}; {found[0]:g} um were taken, since the other would be no microscope's"
        return None, f"{both}; the pixel size is unknown"
    if described is not None:
        return described, ""
    if unit and micrometres(unit) is None:
        said = "" if str(unit).strip() in NO_UNITS else f"{unit!r} is no unit of length: the pixel size is unknown"
        return None, said
    if tagged is None and resolution is not None and len(set(resolution)) == 2 and 0 not in resolution:
        return None, "its resolution has no unit of length: the pixel size is unknown"
    return tagged, ""
