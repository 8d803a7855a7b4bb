"""What a recovery in parts will take: memory, disk and time, said before it begins."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR
from typing import Any, NamedTuple

from tensorcell.arguments import is_number
from tensorcell.errors import InputError
from tensorcell.large.cut import Cut, Sides, cut
from tensorcell.large.sample import Layout, layout_of
from tensorcell.memory import BASE, free_memory, peak_of_voxel, size_text

SHARE_OF_FREE = 0.7
"""Share of the free memory that is used where none was given."""

SAMPLE = 0.5
"""Voxels of the sample, as a share of those of a part: filters are tried on it, which takes more memory."""

RIM = 16
"""Voxels around a part that are read with it. On real volumes, denoised values inside then differ from those of the
whole by 6e-3 standard deviations of the noise (root mean square), most of it at single voxels that are returned as
measured in one and not in the other; without these it was 4e-4 on a stack of nuclei."""

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


class Plan(NamedTuple):
    """How a stack is recovered in parts."""

    cut: Cut
    sample: Layout
    memory: float
    """Bytes that are expected to be used at most."""


def planned(
    shape: Sides, wanted: Sides, *, dtype: Any, memory: float, whole_z: bool, rim: int | None = None,
    chunks: Sequence[int] = (1, 1, 1),
) -> Plan:  # fmt: skip
    """The plan for a stack.

    Parameters
    ----------
    shape, wanted : three ints
        Of the stack that is given, and of the wanted one.
    dtype : dtype
        Of the stack that is given.
    memory : float
        Bytes that may be used.
    whole_z : bool
        Whether every part needs all planes.
    rim : int, optional
        Voxels around a part that are read with it; `RIM` by default.
    chunks : three ints
        Lengths of which borders between parts are multiples.

    Raises
    ------
    InputError
        If the memory is too small for any part.
    """
    cost = peak_of_voxel(dtype) * math.prod(wanted) / math.prod(shape)
    most = (memory - BASE) / cost
    try:
        found = cut(shape, most, RIM if rim is None else rim, whole_z=whole_z, chunks=chunks)
    except InputError as error:
        least = float(re.findall(r"at least (\d+)", str(error))[0]) * cost + BASE
        raise InputError(
            f"expected memory of at least {size_text(least, ROUND_CEILING)} for a wanted stack of "
            f"{' x '.join(map(str, wanted))} voxels, got {size_text(memory, ROUND_FLOOR)}"
        ) from None
    sample = layout_of(shape, SAMPLE * found.largest, whole_z=whole_z)
    return Plan(found, sample, BASE + cost * found.largest)


def checked_memory(memory: Any) -> float | None:
    """Bytes from a number, or from a text such as "4GB" or "500 MiB".

    >>> checked_memory("4GB"), checked_memory("1.5 GiB"), checked_memory(2e9), checked_memory(None)
    (4000000000.0, 1610612736.0, 2000000000.0, None)
    """
    if memory is None:
        return None
    if isinstance(memory, str):
        found = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([kKMGT]?)(i?)B?\s*", memory)
        if found:
            number, unit, binary = found.groups()
            size = UNITS[unit.upper()]
            if binary and unit:
                size = 1024 ** (len(str(size)) // 3)
            return float(number) * size
    elif is_number(memory) and memory > 0:
        return float(memory)
    raise InputError(f"expected memory such as '4GB' or a number of bytes, got {memory!r}")


def memory_of_parts(memory: float, of_gpu: float | None) -> float:
    """The memory for which parts are cut: what may be used, but no more than most of what is free on the GPU, if any.

    A part takes as much there as on the host (`tensorcell.memory.peak_of_voxel`).

    >>> memory_of_parts(64e9, 8e9), memory_of_parts(4e9, 8e9), memory_of_parts(4e9, None)
    (5600000000.0, 4000000000.0, 4000000000.0)
    """
    return memory if of_gpu is None else min(memory, SHARE_OF_FREE * of_gpu)


def memory_to_use(memory: float | None, free: float | None = None) -> float:
    """The bytes that may be used: those given, or most of what is free, here where it is not said.

    Raises
    ------
    InputError
        If the system does not say how much is free.
    """
    if memory is not None:
        return memory
    free = free_memory() if free is None else free
    if free is None:
        raise InputError("the system does not say how much memory is free: give memory= (--memory 4GB)")
    return SHARE_OF_FREE * free
