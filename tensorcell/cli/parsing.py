"""Values from the texts of the command line."""

from __future__ import annotations

from typing import Any

from tensorcell.errors import InputError

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
