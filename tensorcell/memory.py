"""Memory of the machine, and a refusal of wanted stacks that it cannot hold, before any work is done."""

from __future__ import annotations

import decimal
import os
from pathlib import Path
from typing import Any

import numpy as np

from tensorcell.errors import InputError
from tensorcell.plane_grid import PlaneGrid
from tensorcell.stack import float_type
from tensorcell.volume import Volume

BYTES_OF_DIAGNOSIS = 2
"""Bytes that a diagnosis holds for each voxel of a wanted stack: its mask, and a copy of it for a moment."""


BASE = 480e6
"""Bytes that the program takes without any data. In its first run on a machine its kernels are compiled, which takes
190 MB of them and is not known before."""

ARRAYS = 20
"""Arrays of floats as large as the wanted stack that a recovery from file to file takes at its peak: what is given,
estimates of different strength, results, copies that the system has not taken back. Measured were 14 where a volume is
recovered as a whole, and up to 23, beside less than the base, where parts follow one another. On a GPU 19 to 27
were counted (`benchmarks/gpu_model.py`): parts leave room for these, since they fit a share of what is free there."""


def peak_of_recovery(voxels: float, dtype: Any) -> float:
    """Bytes that a recovery from file to file takes at its peak, of a whole volume or of a part.

    Parameters
    ----------
    voxels : float
        Of the wanted volume or part.
    dtype : dtype
        Of what is given.
    """
    return BASE + voxels * peak_of_voxel(dtype)


def peak_of_voxel(dtype: Any) -> float:
    """Bytes of that for each voxel of the wanted volume."""
    return float(ARRAYS * np.dtype(float_type(np.dtype(dtype))).itemsize)


def bytes_of_recovery(volume: Volume) -> int:
    """Bytes that a recovery holds at least for each voxel of the wanted volume: its value, uncertainty and mask."""
    return 2 * np.dtype(float_type(volume.dtype)).itemsize + 1


def check_affordable(
    volume: Volume, grid: PlaneGrid, bytes_a_voxel: int, *, all_stacks: bool = True, lateral_factor: int = 1
) -> None:
    """Raise `InputError` where the wanted volume alone needs more memory than is free.

    Parameters
    ----------
    volume : Volume
        What is given.
    grid : PlaneGrid
        Its planes among those of the wanted volume.
    bytes_a_voxel : int
        What is held at least for each voxel of the wanted volume.
    all_stacks : bool
        Whether the results of all channels and frames are held, or those of one.
    lateral_factor : int
        Pixels of the wanted volume a side of a given one.
    """
    if grid.step == 1 and lateral_factor <= 1:
        return
    given, rows, columns = volume.planes, *(volume.shape[volume.axes.index(axis)] for axis in "YX")
    planes = grid.planes
    several = volume.data.size // (given * rows * columns) if all_stacks else 1
    rows, columns = lateral_factor * rows, lateral_factor * columns
    needed, free = several * planes * rows * columns * bytes_a_voxel, free_memory()
    if free is not None and needed > free:
        lateral = f" and lateral factor {lateral_factor}" if lateral_factor > 1 else ""
        each = f" in each of {several} stacks" if several > 1 else ""
        raise InputError(
            f"axial factor {grid.step}{lateral} makes {planes} planes of {rows} x {columns} voxels{each}, "
            f"which need at least {size_text(needed)} of memory; {size_text(free)} are free"
        )


def free_memory() -> int | None:
    """Bytes that can still be used, swap included; those of the machine where only these are known; None if unknown."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        entries = dict(line.split(":", 1) for line in lines)
        return 1024 * sum(int(entries[name].split()[0]) for name in ("MemAvailable", "SwapFree"))
    except (OSError, KeyError, ValueError, IndexError):
        total = machine_memory()
        return None if total is None else int(total * 2**20)


def machine_memory() -> float | None:
    """Memory of the machine in MiB; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20
    except (AttributeError, OSError, ValueError):
        return None


def size_text(count: float, rounding: str = decimal.ROUND_HALF_EVEN) -> str:
    """A number of bytes in words; ``rounding`` is one of `decimal`.

    >>> size_text(3_200_000_000), size_text(252 * 10**12), size_text(10**30)
    ('3.2 GB', '252 TB', '1e+18 TB')
    >>> size_text(426_100_000, decimal.ROUND_CEILING), size_text(426_900_000, decimal.ROUND_FLOOR)
    ('0.427 GB', '0.426 GB')
    """
    count = float(decimal.Context(prec=3, rounding=rounding).create_decimal(count))
    return f"{count / 1e9:.3g} GB" if count < 1e12 else f"{count / 1e12:.3g} TB"
