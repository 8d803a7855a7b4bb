"""Programs in CUDA C++: compiled where they are first launched, kept on disk by CuPy.

A program needs CUDA (not ROCm), and its arrays must be on CuPy's current device. CuPy is imported at the first launch
only, and every launch goes through :func:`launch`, in whose place tests put one that runs the same source on the host.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import array_api_compat

STANDARD = "-std=c++14"

PLAIN_SHARED = 48 << 10
"""Bytes of shared memory that every block may have; a kernel must ask for more."""


class Program(NamedTuple):
    """Source of kernels that are templates."""

    source: str
    threads: int
    """Threads of a block."""
    options: tuple[str, ...]


Launch = Callable[[Program, str, int, tuple[Any, ...], int], None]
"""``launch(program, name, blocks, arguments, shared)`` of one instance of a kernel, with so many bytes of shared memory
whose size is chosen at the launch."""


@cache
def kernel(program: Program, name: str) -> Any:
    """One instance, compiled for each device at its first launch."""
    import cupy

    if getattr(cupy.cuda.runtime, "is_hip", False):
        raise ValueError("expected CuPy for CUDA, got one for ROCm, which does not run programs in CUDA C++")
    return cupy.RawModule(code=program.source, options=program.options, name_expressions=(name,)).get_function(name)


def launch(program: Program, name: str, blocks: int, arguments: tuple[Any, ...], shared: int = 0) -> None:
    """Launch ``name`` (a template instance such as ``pointwise<float, 2, false>``) on CuPy's current stream.

    Raises
    ------
    ValueError
        If an array lies on another GPU than CuPy's current one, whose memory the kernel would read at that address, or
        CuPy is one for ROCm.
    """
    check_devices(arguments)
    found = kernel(program, name)
    if shared > PLAIN_SHARED:
        found.max_dynamic_shared_size_bytes = shared
    found((blocks,), (program.threads,), arguments, shared_mem=shared)


def check_devices(arguments: tuple[Any, ...]) -> None:
    """Raise ValueError unless all arrays among the arguments lie on CuPy's current GPU."""
    import cupy

    here = cupy.cuda.Device().id
    for argument in arguments:
        if array_api_compat.is_cupy_array(argument) and argument.device.id != here:
            there = argument.device.id
            raise ValueError(
                f"expected arrays on CuPy's current GPU, {here}, got one on GPU {there}: call from within "
                f"cupy.cuda.Device({there}), or copy the array"
            )


def shared_of_device() -> int:
    """Bytes of shared memory that a block may ask for on CuPy's current device."""
    import cupy

    return int(cupy.cuda.Device().attributes["MaxSharedMemoryPerBlockOptin"])
