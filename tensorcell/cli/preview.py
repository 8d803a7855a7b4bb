"""How large a preview may be: from usual times, and from how fast this machine is at the moment."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

import numpy as np

from tensorcell.lazy_volume import LazyVolume
from tensorcell.stage_shares import SIZES, seconds_of

SECONDS = 45.0
"""What a preview is to take, besides reading, writing and the start of the program."""

PROBE = 0.029
"""Seconds that `probed` takes on the machine on which the usual times were measured."""

USUAL = {"diagnose": (0.3, 0.7), "plan": (6.0, 22.0), "evaluate": (40.0, 200.0)}
"""Seconds of commands that recover nothing or many times, for stacks of `SIZES` voxels."""

LEAST, MOST = 12 * 32 * 32, 4_000_000
"""Fewest and most voxels of a preview."""


@cache
def slowness() -> float:
    """How many times longer than usual this machine takes, by a short measurement."""
    return max(0.25, min(probed() for _ in range(3)) / PROBE)


def probed() -> float:
    """Seconds for a little of what a recovery does."""
    from scipy.ndimage import gaussian_filter

    stack = np.random.default_rng(0).standard_normal((16, 64, 64)).astype(np.float32)
    start = time.perf_counter()
    for _ in range(5):
        np.linalg.svd(gaussian_filter(stack, 1).reshape(64, -1), full_matrices=False)
        np.sort(stack.ravel())
    return time.perf_counter() - start


def voxels_in_time(what: str, *, kind: Callable[[LazyVolume], str] = lambda _: "gaps") -> Callable[[LazyVolume], float]:
    """A function that says how many voxels of a volume are done in a preview.

    Parameters
    ----------
    what : str
        A command of `USUAL`, or a method of `recover`.
    kind : callable
        What is to be done with a volume, for a method: "planes", "gaps" or "complete".
    """

    def voxels(volume: LazyVolume) -> float:
        small, large = SIZES
        if what in USUAL:
            first, second = USUAL[what]
        else:
            first, second = (sum(seconds_of(what, kind(volume), size).values()) for size in SIZES)
        rate = (second - first) / (large - small)
        affordable = (SECONDS / slowness() - first) / rate + small
        return min(max(affordable, LEAST), MOST)

    return voxels
