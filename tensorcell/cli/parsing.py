"""Values from the texts of the command line, and help texts that several commands share."""

from __future__ import annotations

from typing import Any

from tensorcell.errors import InputError
from tensorcell.files import readable_formats, writable_suffixes

SOURCE_HELP = f"Stack to read: {readable_formats()}"
SOURCES_HELP = f"{SOURCE_HELP}; several files, a pattern in quotes, or a folder of them"
TARGET_HELP = f"Output file, its suffix sets the format: {', '.join(writable_suffixes())}; a folder for several inputs"
AXES_HELP = "Axes, such as TZYX, where the file does not state them."
DATASET_HELP = (
    "Dataset to read, where the file holds several: /group/name in HDF5, a name in .npz; it may also follow the file's "
    "name after a colon."
)
SERIES_HELP = "Number (from 0) or name of the image to read, where the file holds several."
MASK_HELP = "Mask file of the input's shape; not zero = measured."
MISSING_HELP = "Voxels that have exactly this value were not measured, such as 0 for padding."
NOISE_HELP = "auto, or the standard deviation of the noise in the data's unit."
RANK_HELP = "auto, one rank for all axes, or three (z,y,x)."
MISSING_PLANES_HELP = (
    "Planes of a set or folder of files that are in none of them were not measured; without this, an incomplete set of "
    "OME-TIFF files is an error."
)
SPACING_HELP = "Voxel size dz,dy,dx in micrometres; dy,dx is enough for single planes."
PSF_HELP = (
    "Full widths at half maximum z,y,x of the point spread function: in micrometres if the voxel size is known, else "
    "in voxels. Bright voxels narrower than it are defects."
)
FACTOR_HELP = "s: the planes given are planes 0, s, 2s, ... of the wanted stack."
SPACING_Z_HELP = (
    "In place of --axial-factor: distance of the wanted planes in micrometres, or isotropic (the height of the pixels)."
)
LATERAL_HELP = "f: a pixel given is the mean of f x f pixels of the wanted stack."
JSON_HELP = "Print one JSON object on stdout and nothing else."
PAGE_HELP = "Write a page to this file (.html)."

PAGE_SUFFIXES = {"--report": (".png", ".html"), "--html": (".html",)}
"""The suffixes that outputs other than volumes may have."""


def rank_of(text: str) -> Any:
    """ "auto", a whole number, or three."""
    if text == "auto":
        return "auto"
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"expected --rank auto, one whole number or three (z,y,x), got {text!r}") from None
    return numbers[0] if len(numbers) == 1 else tuple(numbers)


def noise_of(text: str) -> Any:
    """ "auto", or a number."""
    return "auto" if text == "auto" else numbers_of(text, "--noise", 1)[0]


def list_of(text: str, name: str, kind: type[int] | type[float]) -> Any:
    """Numbers separated by commas."""
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        what = "whole numbers" if kind is int else "numbers"
        raise InputError(f"expected {what} separated by commas for {name}, got {text!r}") from None


def spacing_of(text: str, axes: str) -> Any:
    """The voxel size of a volume with these axes: dz,dy,dx, or dy,dx where there is no Z."""
    return numbers_of(text, "--spacing", *((3,) if "Z" in axes else (2, 3)))


def spacing_z_of(text: str | None) -> Any:
    """ "isotropic", a number, or None where the flag was not given."""
    if text is None or text == "isotropic":
        return text
    try:
        return float(text)
    except ValueError:
        raise InputError(f"expected isotropic or a number of micrometres for --spacing-z, got {text!r}") from None


def numbers_of(text: str, name: str, *counts: int) -> Any:
    """So many numbers separated by commas."""
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) not in counts:
        what = "a number" if counts == (1,) else f"{' or '.join(map(str, counts))} numbers separated by commas"
        raise InputError(f"expected {what} for {name}, got {text!r}")
    return numbers
