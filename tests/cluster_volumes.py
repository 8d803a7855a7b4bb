"""What tests on a cluster send to its workers, which find it in this module."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tensorcell import version
from tensorcell.errors import InputError


class Here:
    """Values that only the process which made them can read; others read what is given for them, or fail."""

    def __init__(self, values: np.ndarray, elsewhere: np.ndarray | None = None) -> None:
        self.values, self.elsewhere, self.process = values, elsewhere, os.getpid()
        self.shape, self.dtype = values.shape, values.dtype

    def __getitem__(self, where: Any) -> np.ndarray:
        if os.getpid() == self.process:
            return self.values[where]
        if self.elsewhere is None:
            raise InputError("/data/stack.zarr: no such file")
        return self.elsewhere[where]


class Open:
    """Values that cannot be sent, as those of an open file."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.shape, self.dtype = values, values.shape, values.dtype

    def __getitem__(self, where: Any) -> np.ndarray:
        return self.values[where]

    def __reduce__(self) -> Any:
        raise TypeError("an open file cannot be pickled")


def process_of(_stack: Any) -> int:
    """The process in which this runs."""
    return os.getpid()


def threads_of(_stack: Any) -> int:
    """Threads that a pass of a solver would use."""
    import numba

    return int(numba.get_num_threads())


def set_version(number: str) -> None:
    """Pretend to be another version."""
    version.__version__ = number


def killed(_stack: Any) -> None:
    """The end of the process, as when it takes too much memory."""
    os._exit(1)


def larger_than_results(_stack: Any, size: int) -> np.ndarray:
    """A result of so many bytes."""
    return np.zeros(size, np.uint8)


@dataclass(frozen=True)
class BlocksOf:
    """Reads blocks of the array in a file; what is NaN was not measured."""

    path: Path

    def __call__(self, block: Any) -> tuple[np.ndarray, np.ndarray]:
        data = np.array(np.load(self.path, mmap_mode="r")[block])
        return data, ~np.isnan(data)


def count_bytes() -> None:
    """Count from now on the bytes that this process sends over connections of the cluster."""
    from distributed.comm.tcp import TCP

    if hasattr(TCP, "sent"):
        return
    write = TCP.write

    async def counted(self: Any, *arguments: Any, **named: Any) -> Any:
        size = await write(self, *arguments, **named)
        TCP.sent += size
        return size

    TCP.sent, TCP.write = 0, counted


def bytes_sent() -> int:
    """Bytes sent since they are counted."""
    from distributed.comm.tcp import TCP

    return int(TCP.sent)


def see_gpu(folder: Path) -> None:
    """Give this process the stand-in for CuPy, which runs kernels that it compiles in the folder."""
    import sys

    sys.path.insert(0, str(Path(__file__).parent / "standin"))
    import cupy
    from host_cuda import HostLaunch

    from tensorcell.solvers import kernels_cuda

    cupy.launcher, kernels_cuda.BLOCKS = HostLaunch(folder), 3


def see_gpus(count: int) -> None:
    """Let the stand-in find so many GPUs."""
    import cupy

    cupy.cuda.runtime.getDeviceCount = lambda: count


def calls_on_gpu() -> int:
    """Functions that were called of the stand-in."""
    import cupy

    return len(cupy.calls)
