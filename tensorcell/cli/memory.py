"""Memory of this process, and the line that says what a recovery will need."""

from __future__ import annotations

import sys

from tensorcell.memory import machine_memory, peak_of_recovery
from tensorcell.plane_grid import PlaneGrid
from tensorcell.volume import Volume


def say_cost(source: str, before: Volume, grid: PlaneGrid) -> None:
    """Print the memory that will be needed on stderr if that is a terminal, or if the machine has less than that."""
    voxels = before.data.size // before.planes * grid.planes
    needed, there = peak_of_recovery(voxels, before.dtype) / 2**20, machine_memory()
    short = there is not None and needed > there
    if short or sys.stderr.isatty():
        more = f"; this machine has {there:.0f} MiB" if short else ""
        print(f"{source}: {before!r}; about {needed:.0f} MiB of memory will be needed{more}", file=sys.stderr)


def peak_memory() -> float | None:
    """Largest memory of this process so far in MiB; None where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)
