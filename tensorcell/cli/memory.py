"""Memory of this process, and the line that says what a recovery will need."""

from __future__ import annotations

import sys

from tensorcell.cli.screen import for_terminal
from tensorcell.memory import bytes_of_recovery, machine_memory, peak_of_recovery, size_text
from tensorcell.plane_grid import PlaneGrid
from tensorcell.volume import Volume, stacks


def say_cost(source: str, before: Volume, grid: PlaneGrid) -> None:
    """Print what will be needed on stderr if that is a terminal, or if the machine has less memory than that."""
    voxels = before.data.size // before.planes * grid.planes
    several = sum(1 for _ in stacks(before)) > 1
    disk = f", and up to {size_text(bytes_of_recovery(before) * voxels)} of disk to keep finished stacks meanwhile"
    needed, there = peak_of_recovery(voxels, before.dtype) / 2**20, machine_memory()
    short = there is not None and needed > there
    if short or sys.stderr.isatty():
        more = f"; this machine has {there:.0f} MiB" if short else ""
        said = f"{source}: {before!r}; about {needed:.0f} MiB of memory will be needed{disk if several else ''}{more}"
        print(for_terminal(said, sys.stderr), file=sys.stderr)


def peak_memory() -> float | None:
    """Largest memory of this process so far in MiB; None where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)
