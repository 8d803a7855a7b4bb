"""Recoveries in parts on the stand-in for CuPy, whose memory is too small for all of a stack; prints JSON.

Run with the stand-in on the path, and given the folder for kernels.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import cupy
import numpy as np
from host_cuda import HostLaunch

import tensorcell as tc
from tensorcell.cli.in_parts import goes_in_parts
from tensorcell.datasets import simulate_cells
from tensorcell.device import choose_device
from tensorcell.large.plan import SHARE_OF_FREE
from tensorcell.lazy_volume import LazyVolume
from tensorcell.memory import peak_of_recovery
from tensorcell.solvers import kernels_cuda

SHAPE = (6, 24, 72)

ENOUGH = peak_of_recovery(6 * 24 * 60, np.float32)
"""Bytes for a part that is half of it, with its rim."""


class OutOfMemoryError(MemoryError):
    __module__ = "cupy.cuda.memory"


@contextmanager
def short_of_memory() -> Iterator[None]:
    """No array finds room on the device."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise OutOfMemoryError("Out of memory allocating 9,000,000,000 bytes (allocated so far: 512 bytes).")

    before, cupy.asarray = cupy.asarray, refuse
    try:
        yield
    finally:
        cupy.asarray = before


def cells(shape: tuple[int, ...]) -> np.ndarray:
    """Noisy cells."""
    truth = simulate_cells(shape, cells=5, seed=0).truth
    noise = np.random.default_rng(0).standard_normal(shape)
    return (truth / truth.max() + 0.1 * noise).astype(np.float32)


def recovered(data: np.ndarray, target: Path, **options: Any) -> tuple[np.ndarray, list[str], list[str]]:
    """The result of a recovery in parts, its notes, and what was said before it began."""
    said: list[str] = []
    given = {"memory": "4GB", "rim": 4, "device": "cuda", "method": "tucker", **options}
    stop = given.pop("progress", None)

    def say(at: Any) -> None:
        if at.message:
            said.append(at.message)
        if stop is not None:
            stop(at)

    found = tc.recover_file(LazyVolume(data), target, progress=say, **given)
    return np.load(target), [f"{found.parts} parts", *found.notes], said


def stopped(at: Any) -> None:
    """Ctrl-C after the first part."""
    if at.stage == "parts":
        raise KeyboardInterrupt


def main() -> None:
    cupy.launcher = HostLaunch(Path(sys.stdin.read()))
    kernels_cuda.BLOCKS = 3
    choose_device("cuda")
    folder, data, told = Path(tempfile.mkdtemp()), cells(SHAPE), {}
    cupy.cuda.free = ENOUGH / SHARE_OF_FREE
    wanted, *_ = recovered(data, folder / "cpu.npy", device="cpu", memory=ENOUGH)
    cupy.calls.clear()
    found, notes, said = recovered(data, folder / "gpu.npy")
    told["on the device"] = {"off": float(np.abs(found - wanted).max()), "notes": notes, "said": said}
    told["calls"] = len(cupy.calls)
    with suppress(KeyboardInterrupt):
        recovered(data, folder / "stopped.npy", progress=stopped)
    cupy.cuda.free = 2 * ENOUGH
    again, notes, _ = recovered(data, folder / "stopped.npy", resume=True)
    told["resumed"] = {"off": float(np.abs(again - found).max()), "notes": notes}
    cupy.cuda.free = ENOUGH / SHARE_OF_FREE
    with short_of_memory():
        found, notes, _ = recovered(data, folder / "short.npy")
        told["short"] = {"off": float(np.abs(found - wanted).max()), "notes": notes}
    options = {"axial_factor": 1, "spacing_z": None, "lateral_factor": 1, "time_limit": None, "device": "cuda"}
    for axes, shape in (("ZYX", SHAPE), ("TZYX", (3, 6, 24, 48))):
        for method in ("auto", "diffusion"):
            volume = LazyVolume(np.broadcast_to(np.float32(0), shape), axes)
            goes = goes_in_parts(volume, {**options, "method": method}, "4GB", None, str(folder / "no.npy"))
            told[f"command, {axes}, {method}"] = goes
    cupy.cuda.free = 10**8
    _, notes, _ = recovered(data, folder / "none.npy")
    told["no room"] = notes
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    main()
