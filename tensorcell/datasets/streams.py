"""Random streams: cells, their detection and planted tensors can use the same seed without sharing random numbers."""

from __future__ import annotations

import numpy as np

from tensorcell.datasets.checks import check_number

CELLS, DETECTION, PLANTED = 1, 2, 3
"""What a stream is for; the number is part of its seed."""


def random_streams(seed: int, purpose: int, count: int) -> list[np.random.Generator]:
    """``count`` independent generators for one purpose."""
    check_number("seed", seed, lowest=0, whole=True)
    return np.random.default_rng((int(seed), purpose)).spawn(count)
