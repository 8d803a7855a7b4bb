"""Recoveries on the CPU, and on a device that the stand-in for CuPy plays: what differs, and what was called.

Run with the stand-in on the path; prints JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import cupy
import numpy as np
from host_cuda import HostLaunch

import tensorcell as tc
from tensorcell.datasets import simulate_cells
from tensorcell.device import choose_device
from tensorcell.solvers import NoiseModel, complete_tucker, kernels_cuda, slabs
from tensorcell.solvers.defects import Defects, find_defects
from tensorcell.solvers.kriging import kriged
from tensorcell.solvers.outliers import find_outliers


@contextmanager
def planes_at_a_time() -> Iterator[None]:
    """A device that is handed a plane at a time, as a volume that is larger than its memory is in slabs."""
    before, slabs.ON_DEVICE = slabs.ON_DEVICE, 1
    try:
        yield
    finally:
        slabs.ON_DEVICE = before


def leaning_tubes() -> np.ndarray:
    """Noisy planes of two tubes that move sideways from plane to plane, and of a spot that is in one plane only."""
    z, y, x = np.indices((11, 20, 20))
    tubes = ((y - 3 - 0.8 * z) ** 2 + (x - 5) ** 2, (y - 16 + 0.8 * z) ** 2 + (x - 13) ** 2)
    spot = 30 * np.exp(-((y - 15) ** 2 + (x - 4) ** 2) / 3) * (z == 5)
    clean = 5 + 10 * sum(np.exp(-distance / 8) for distance in tubes) + spot
    return (clean + np.random.default_rng(0).standard_normal(clean.shape)).astype(np.float32)


def waits_of_kriging(stack: np.ndarray) -> list[int]:
    """How often the host waits while one plane is kriged, and while all are."""
    found = []
    for targets in ([0.5], np.arange(0.5, len(stack) - 1)):
        cupy.waits.clear()
        for _ in kriged(cupy.asarray(stack), np.arange(float(len(stack))), np.asarray(targets), NoiseModel.white(1.0)):
            pass
        found.append(sum(cupy.waits.values()))
    return found


def wrong_voxels() -> dict[str, list[int]]:
    """How many defects, and outliers of a fit, the host finds in shot noise with failed and bright voxels and gaps, and
    how many voxels the device judges otherwise: at once, and a plane at a time."""
    rng = np.random.default_rng(1)
    truth = 20 + 60 * simulate_cells((10, 24, 24), cells=6, seed=1).truth
    stack, chance, mask = rng.poisson(truth).astype(np.float32), rng.random(truth.shape), rng.random(truth.shape) < 0.8
    stack[chance < 0.015], stack[chance > 0.99], stack[:, 7, 9] = 0, 400, 300
    law, fit = NoiseModel(gain=1.0, offset=0.0, sigma=5.0), complete_tucker(stack, mask, (3, 6, 6), robust=True)

    def found(*given: np.ndarray) -> tuple[Defects, Defects]:
        defects = find_defects(*given, law)
        return defects, find_outliers(*given, fit, law, defects)

    wanted = found(stack, mask)
    told = {name: [len(each.positions)] for name, each in zip(("defects", "outliers"), wanted, strict=True)}
    for place in (nullcontext, planes_at_a_time):
        with place():
            ours = found(*map(cupy.asarray, (stack, mask)))
        for name, one, two in zip(told, wanted, ours, strict=True):
            labels = (set(zip(each.positions.tolist(), each.kinds.tolist(), strict=True)) for each in (one, two))
            told[name].append(len(set.symmetric_difference(*labels)))
    return told


def main() -> None:
    cupy.launcher = HostLaunch(Path(tempfile.mkdtemp()))
    kernels_cuda.BLOCKS = 3
    choose_device("cuda")  # tries it once, and waits for that
    cupy.waits.clear()
    rng = np.random.default_rng(0)
    truth = simulate_cells((6, 18, 18), cells=3, seed=0).truth
    full = (truth + 0.1 * truth.max() * rng.standard_normal(truth.shape)).astype(np.float32)
    half = np.where(rng.random(full.shape) < 0.5, full, np.nan)
    spoiled = full.copy()
    spoiled[:, 4, 7], spoiled[1, 9, 3], spoiled[4, 3, 14] = 2 * full.max(), -full.max(), -full.max()
    small = {"group": 8, "reach": 1, "step": 4, "patch": 3}
    cases = {
        "complete": (spoiled, small),
        "gaps": (half, {**small, "method": "local"}),
        "global model": (half, {"method": "tucker"}),
        "planes": (full[::2], {**small, "axial_factor": 2}),
        "many planes": (leaning_tubes(), {**small, "axial_factor": 2}),
        "series": (np.stack([full, full + 1]), {**small, "axes": "TZYX", "frames": 2}),
    }
    differences, waits, doubles, notes, defects = {}, {}, {}, {}, {}
    for name, (data, options) in cases.items():
        cpu = tc.recover(data, device="cpu", **options)
        cupy.watched = {data.shape, (data.size,), cpu.volume.data.shape}
        given = cupy.asarray(data) if name == "complete" else data  # an array of either library
        gpu = tc.recover(given, device="cuda", **options)
        doubles[name] = sorted({place.split(":")[0] for place in cupy.doubles})
        if name in ("complete", "gaps", "many planes"):
            waits[name] = [sum(cupy.waits.values())]
            with planes_at_a_time():
                cupy.waits.clear()
                tc.recover(given, device="cuda", **options)
            waits[name].append(sum(cupy.waits.values()))
        cupy.waits.clear(), cupy.doubles.clear()
        notes[name] = [" ".join(found.notes) for found in (cpu, gpu)]
        assert isinstance(gpu.volume.data, np.ndarray)
        defects[name] = [cpu.defects, gpu.defects]
        spread = float(np.nanstd(data))
        pairs = ((cpu.volume.data, gpu.volume.data), (cpu.uncertainty, gpu.uncertainty))
        off = [np.abs(one - two) / spread for one, two in pairs]
        differences[name] = {
            "mean": max(float(each.mean()) for each in off),
            "most": max(float(each.max()) for each in off),
        }
    of_kriging = waits_of_kriging(leaning_tubes())
    wrong = wrong_voxels()
    cupy.waits.clear()
    given = np.nan_to_num(half), ~np.isnan(half)
    found = complete_tucker(*map(cupy.asarray, given), (2, 3, 3), robust=True)
    json.dump(
        {
            "differences": differences,
            "calls": sorted(cupy.calls),
            "doubles": doubles,
            "defects": defects,
            "wrong voxels": wrong,
            "waits": waits,
            "notes": notes,
            "waits of kriging": of_kriging,
            "waits of a fit": dict(cupy.waits),
            "steps of a fit": len(found.history),
            "launches": sorted({name.split("<")[0] for _, name in cupy.launcher.functions}),
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
