"""Texts of the command line as values, and what several commands say about their files."""

from __future__ import annotations

from typing import Any

from tensorcell.errors import InputError
from tensorcell.files import readable_formats, writable_suffixes

SOURCE_HELP = f"Stack: {readable_formats()}"
TARGET_HELP = f"Output; its suffix says the format: {', '.join(writable_suffixes())}"
AXES_HELP = "Axes of the file where it does not say, such as TZYX."
MASK_HELP = "File of the input's shape, not zero = measured."
NOISE_HELP = "auto, or the standard deviation in the data's unit."
RANK_HELP = "auto, one number, or three (z,y,x)."
SPACING_HELP = "Voxel size dz,dy,dx in micrometres."
FACTOR_HELP = "s: the planes given are planes 0, s, 2s, ... of the wanted stack."
JSON_HELP = "One JSON object on stdout, nothing else."
PAGE_HELP = "Write a page (.html)."

PAGE_SUFFIXES = {"--report": (".png", ".html"), "--html": (".html",)}
"""Suffixes of the outputs that are no volumes."""


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


def numbers_of(text: str, name: str, count: int) -> Any:
    """So many numbers separated by commas."""
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != count:
        what = "a number" if count == 1 else f"{count} numbers separated by commas"
        raise InputError(f"expected {what} for {name}, got {text!r}")
    return numbers
