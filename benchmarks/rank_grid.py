"""How often `estimate_rank` finds a planted rank exactly, around and above the empirical threshold of recovery.

    python benchmarks/rank_grid.py [--seeds 2] [--largest 100x200x200] [--json FILE]

One row a shape and rank, columns for the number of samples: multiples of the empirical threshold
(:func:`tensorcell.solvers.empirical_threshold`), then shares of all voxels. A cell counts the exact
answers over outliers (none, 5 %) x noise (20 dB, 10 dB) x seeds; ``|`` stands between the cells below and those above
twice the threshold. Outliers are 3-9 standard deviations of the tensor, of either sign.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks.problems import planted_tucker
from tensorcell.solvers.ranks import estimate_rank
from tensorcell.solvers.thresholds import empirical_threshold

SHAPES = ((50, 50, 50), (100, 100, 100), (60, 100, 140), (100, 200, 200))
RANKS = ((3, 3, 3), (5, 5, 5), (3, 5, 8), (10, 10, 10), (6, 10, 15), (8, 15, 20), (20, 20, 20))
MULTIPLES = (0.5, 1.0, 1.5, 2.0, 3.0)
SHARES = (0.1, 0.3, 1.0)
OUTLIERS = (0.0, 0.05)
DECIBELS = (20, 10)


class Cell(NamedTuple):
    shape: tuple[int, ...]
    rank: tuple[int, ...]
    samples: float
    threshold: float
    exact: int
    of: int


def problem(
    shape: tuple[int, ...], rank: tuple[int, ...], samples: float, outliers: float, decibels: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """A noisy planted tensor of unit variance with outliers, and a uniform random mask."""
    rng = np.random.default_rng(seed)
    data = planted_tucker(shape, rank, decay=0.0, dtype=np.float64, rng=rng)
    data = data + 10 ** (-decibels / 20) * rng.standard_normal(shape)
    hit = rng.random(shape) < outliers
    data = np.where(hit, data + rng.uniform(3, 9, shape) * rng.choice([-1, 1], shape), data)
    return data, rng.random(shape) < samples / math.prod(shape)


def exact(shape: tuple[int, ...], rank: tuple[int, ...], samples: float, seeds: int) -> tuple[int, int]:
    """Exact answers and tries of one cell."""
    cases = list(itertools.product(OUTLIERS, DECIBELS, range(seeds)))
    return sum(estimate_rank(*problem(shape, rank, samples, *case)).rank == rank for case in cases), len(cases)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--largest", default="100x200x200", help="largest shape of the grid")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    limit = math.prod(map(int, chosen.largest.split("x")))
    head = [f"{m:g} x" for m in MULTIPLES] + [f"{100 * s:g} %" for s in SHARES]
    print("| shape | rank | threshold, % | " + " | ".join(head) + " |\n|" + "---|" * (3 + len(head)))
    cells: list[Cell] = []
    for shape, rank in itertools.product((s for s in SHAPES if math.prod(s) <= limit), RANKS):
        voxels = math.prod(shape)
        threshold = empirical_threshold(shape, rank).samples
        shown = []
        for samples in [m * threshold for m in MULTIPLES] + [s * voxels for s in SHARES]:
            if samples > voxels:
                shown.append("")
                continue
            found, tries = exact(shape, rank, samples, chosen.seeds)
            above = samples >= 2 * threshold
            cells.append(Cell(shape, rank, samples, threshold, found, tries))
            shown.append(f"{'| ' * above}{found}/{tries}".replace("|", "\\|"))
        size, text = "x".join(map(str, shape)), ",".join(map(str, rank))
        print(f"| {size} | {text} | {100 * threshold / voxels:.2g} | " + " | ".join(shown) + " |", flush=True)
        if chosen.json:
            chosen.json.write_text(json.dumps([cell._asdict() for cell in cells]))
    high = [cell for cell in cells if cell.samples >= 2 * cell.threshold]
    found, tries = sum(cell.exact for cell in high), sum(cell.of for cell in high)
    print(f"\nabove twice the threshold: {found} of {tries} exact ({100 * found / max(1, tries):.1f} %)")


if __name__ == "__main__":
    main()
