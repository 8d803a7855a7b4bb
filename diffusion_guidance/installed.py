"""Whether what networks need is installed, and new enough: asked before it is imported. This module needs no torch."""

from __future__ import annotations

import importlib.util
import re
from importlib import metadata

LEAST = {"torch": "2.4", "safetensors": "0.4", "diffusers": "0.30"}
"""The oldest versions that the extra ``diffusion`` allows."""


def missing(*names: str, extra: str = "diffusion") -> str | None:
    """What is missing of these modules, or too old, in one line; None if nothing is. The extra brings them.

    >>> missing("json") is None, missing("no_such_module")
    (True, 'expected no_such_module (pip install "tensorcell[diffusion]"), found none')
    """
    for name in names:
        least = LEAST.get(name)
        wanted = f"{name} {least} or newer" if least else name
        found = "none" if importlib.util.find_spec(name) is None else version_below(name, least)
        if found is not None:
            return f'expected {wanted} (pip install "tensorcell[{extra}]"), found {found}'
    return None


def version_below(name: str, least: str | None) -> str | None:
    """The version of an installed package if it is below the least one, else None."""
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
    return version if least is not None and numbers_of(version) < numbers_of(least) else None


def numbers_of(version: str) -> tuple[int, ...]:
    """The first two numbers of a version.

    >>> numbers_of("2.13.0+cpu"), numbers_of("0.4") < numbers_of("0.30.1")
    ((2, 13), True)
    """
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])
