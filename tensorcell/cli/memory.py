"""Memory of the machine and of this process, and the line that says what a recovery will need."""

from __future__ import annotations

import os
import sys

from tensorcell.volume import Volume

BYTES_A_VOXEL = 80
"""Measured peak of a recovery from file to file: input, masks, output, and a few slabs."""

BASE = 300
"""MiB that the program takes by itself."""


def say_cost(source: str, before: Volume, axial_factor: int) -> None:
    """One line on stderr before the work, on a terminal; and where memory is short, in any case."""
    planes = before.shape[before.axes.index("Z")]
    voxels = before.data.size // planes * ((planes - 1) * max(1, axial_factor) + 1)
    needed, there = BYTES_A_VOXEL * voxels / 2**20 + BASE, machine_memory()
    short = there is not None and needed > there
    if short or sys.stderr.isatty():
        more = f"; this machine has {there:.0f} MiB" if short else ""
        print(f"{source}: {before!r}; about {needed:.0f} MiB of memory will be needed{more}", file=sys.stderr)


def machine_memory() -> float | None:
    """Memory of the machine in MiB, where the system tells."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20
    except (AttributeError, OSError, ValueError):
        return None


def peak_memory() -> float | None:
    """Largest memory of this process so far in MiB, where the system tells."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)
