"""How long each stage of a recovery usually takes, for each method and kind of stack, and so its share of the whole.

Measured on simulated cells of two sizes, on one core: half of the pixels missing, all measured, and every second plane
measured. Between and beyond these sizes the time grows in proportion to the voxels that are added.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping

import numpy as np

from tensorcell.methods.protocol import Method
from tensorcell.plane_grid import PlaneGrid
from tensorcell.stages import Plan
from tensorcell.volume import Volume, stacks

SIZES = (36_864, 401_408)
"""Voxels of the stacks that were measured."""

SECONDS: Mapping[str, Mapping[str, Mapping[str, tuple[float, float]]]] = {
    "auto": {
        "gaps": {
            "noise": (1.96, 0.93), "defects": (0.09, 0.39), "rank": (2.2, 4.3), "fit": (0.11, 0.11),
            "outliers": (0.07, 0.1), "trial": (0.53, 4.03), "neighbours": (0.03, 0.26), "patches": (0.18, 1.65),
        },
        "complete": {
            "noise": (0.09, 0.27), "defects": (0.04, 0.11), "fit": (0.04, 0.15), "outliers": (0.02, 0.09),
            "neighbours": (0.005, 0.27), "denoising": (0.38, 4.37),
        },
        "planes": {
            "noise": (0.06, 0.33), "defects": (0.02, 0.1), "fit": (0.02, 0.12), "outliers": (0.01, 0.07),
            "neighbours": (0.01, 0.16), "planes": (0.69, 5.9),
        },
    },
    "tucker": {
        "gaps": {
            "noise": (1.57, 0.76), "defects": (0.07, 0.31), "rank": (1.52, 3.9), "fit": (0.07, 0.11),
            "outliers": (0.05, 0.11), "trial": (0.04, 0.27), "neighbours": (0.02, 0.27),
        },
        "complete": {
            "noise": (0.07, 0.24), "defects": (0.03, 0.11), "fit": (0.03, 0.13), "outliers": (0.02, 0.09),
            "trial": (0.005, 0.26), "neighbours": (0.02, 0.25),
        },
        "planes": {
            "noise": (0.06, 0.23), "defects": (0.02, 0.07), "fit": (0.02, 0.08), "outliers": (0.01, 0.05),
            "neighbours": (0.01, 0.09), "planes": (0.29, 1.9),
        },
    },
    "fast": {
        "gaps": {
            "noise": (1.69, 0.91), "defects": (0.08, 0.44), "fit": (0.05, 0.05), "outliers": (0.06, 0.13),
            "curvature": (0.17, 0.45),
        },
        "complete": {
            "noise": (0.09, 0.26), "defects": (0.03, 0.12), "fit": (0.03, 0.04), "outliers": (0.02, 0.09),
            "curvature": (0.2, 1.42),
        },
        "planes": {
            "noise": (0.06, 0.24), "defects": (0.02, 0.07), "fit": (0.02, 0.03), "outliers": (0.02, 0.05),
            "planes": (0.29, 1.83),
        },
    },
}  # fmt: skip
"""Seconds of the stages by method and kind of stack, for both sizes."""

LOADING = {"noise": 0.25, "defects": 0.75}
"""Seconds more that these stages take in the first recovery of a process, in which compiled functions are loaded."""

LIKE = {"local": "auto"}
"""Methods whose stages take what those of another one do."""

LAST = {"diffusion": 0.9, "microdiffuse3d": 0.5}
"""Methods that do what auto does, and what the last of their stages then takes of the whole."""


def kind_of(volume: Volume, grid: PlaneGrid) -> str:
    """What is to be done: "planes" between those given, "gaps" among them, or nothing but noise ("complete")."""
    if grid.planes > volume.planes:
        return "planes"
    missing = volume.mask is not None and not volume.mask.all()
    return "gaps" if missing or (volume.dtype.kind == "f" and bool(np.isnan(volume.data).any())) else "complete"


def seconds_of(method: str, kind: str, voxels: float) -> dict[str, float]:
    """Usual seconds of each stage, for a stack of so many voxels.

    >>> round(sum(seconds_of("auto", "complete", 401_408).values()), 1)
    5.3
    """
    small, large = SIZES
    known = SECONDS.get(LIKE.get(method, method)) or SECONDS["auto"]
    found = {}
    for name, (first, second) in known[kind].items():
        rate = max(0.0, second - first) / (large - small)
        found[name] = max(0.0, max(first, second) - rate * large) + rate * voxels
    if method in LAST:
        last = {"gaps": "patches", "complete": "denoising"}.get(kind, "planes")
        last = "restoring" if method == "microdiffuse3d" else last
        others = sum(found.values()) - found.get(last, 0.0)
        found[last] = others * LAST[method] / (1 - LAST[method])
    return found


def shares_of(method: str, kind: str, voxels: float, loading: float = 0.0) -> dict[str, float]:
    """The share of each stage; they add up to 1. ``loading`` is the share of the stacks that is the first of a process.

    >>> max(shares_of("auto", "complete", 1e7).items(), key=lambda item: item[1])[0]
    'denoising'
    """
    seconds = seconds_of(method, kind, voxels)
    for name, more in LOADING.items():
        seconds[name] += loading * more
    whole = sum(seconds.values())
    return {name: each / whole for name, each in seconds.items()}


def plan_of(volume: Volume, grid: PlaneGrid, lateral_factor: int, method: Method) -> Plan:
    """What a recovery is going to do."""
    kind, labels = kind_of(volume, grid), [stack.label for stack in stacks(volume)]
    rows, columns = (volume.shape[volume.axes.index(letter)] * lateral_factor for letter in "YX")
    voxels = math.prod((grid.planes, rows, columns))
    seconds = len(labels) * sum(seconds_of(method.name, kind, voxels).values())
    loading = 0.0 if "numba" in sys.modules else 1 / len(labels)
    return Plan(shares_of(method.name, kind, voxels, loading), labels, seconds)
