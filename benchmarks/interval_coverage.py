"""Do the intervals of `recover` hold? Shares of voxels whose noise-free intensity lies within ``volume +- 1.645 u``.

Simulated cells have a known truth. Each row of the table is a way in which part of a stack was measured, and a method;
each column is a part of the recovered stack. A cell shows the mean coverage over the seeds, and behind it the one that
is furthest from .9. Run ``python benchmarks/interval_coverage.py --help`` for the choices.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from tensorcell import recover
from tensorcell.datasets import simulate_cells
from tensorcell.recovered import Recovery

PARTS = ("all", "measured", "filled", "bright", "bright filled", "beyond")
"""All voxels; those that were measured; those that were not; the tenth that is brightest in the truth, all of it and
what was not measured of it; planes below the first or above the last measured one."""

QUANTILE = 1.645


class Case(NamedTuple):
    """A noisy stack with NaN where nothing was measured, and its noise-free intensities, both ``(Z, Y, X)``."""

    measured: np.ndarray
    truth: np.ndarray
    axial_factor: int = 1


def cells(seed: int, shape: tuple[int, int, int], **detection: Any) -> Case:
    """Simulated cells."""
    made = simulate_cells(shape, cells=12, seed=seed, **detection)
    return Case(made.measured, made.truth, detection.get("axial_factor", 1))


def only_planes(seed: int, shape: tuple[int, int, int], planes: Any) -> Case:
    """Simulated cells of which a few planes were measured."""
    case = cells(seed, shape)
    measured = np.full_like(case.measured, np.nan)
    measured[planes] = case.measured[planes]
    return Case(measured, case.truth)


CASES: dict[str, Callable[[int], Case]] = {
    "pixels 30 %": lambda seed: cells(seed, (16, 48, 48), keep_pixels=0.3),
    "pixels 70 %": lambda seed: cells(seed, (16, 48, 48), keep_pixels=0.7),
    "complete": lambda seed: cells(seed, (16, 48, 48)),
    "every 2nd": lambda seed: cells(seed, (17, 48, 48), axial_factor=2),
    "every 4th": lambda seed: cells(seed, (25, 48, 48), axial_factor=4),
    "every 2nd, 30 %": lambda seed: cells(seed, (17, 48, 48), axial_factor=2, keep_pixels=0.3),
    "first 5 of 12": lambda seed: only_planes(seed, (12, 48, 48), slice(0, 5)),
    "2 planes of 5": lambda seed: only_planes(seed, (5, 48, 48), [0, 4]),
    "3 planes of 7": lambda seed: only_planes(seed, (7, 48, 48), [0, 3, 6]),
    "4 planes of 7": lambda seed: only_planes(seed, (7, 48, 48), [0, 2, 4, 6]),
    "5 planes of 9": lambda seed: only_planes(seed, (9, 48, 48), [0, 2, 4, 6, 8]),
}


def coverage(result: Recovery, truth: np.ndarray) -> dict[str, float]:
    """Share of the voxels of each part whose truth lies in the interval; NaN where a part is empty."""
    inside = np.abs(result.volume.data - truth) <= QUANTILE * result.uncertainty
    planes = np.flatnonzero(result.measured.any(axis=(1, 2)))
    beyond = np.zeros(truth.shape, bool)
    beyond[: planes[0]] = beyond[planes[-1] + 1 :] = True
    bright = truth >= np.quantile(truth, 0.9)
    wheres = (
        np.ones(truth.shape, bool), result.measured, ~result.measured & ~beyond, bright, bright & ~result.measured,
        beyond,
    )  # fmt: skip
    return {
        name: float(inside[where].mean()) if where.any() else np.nan for name, where in zip(PARTS, wheres, strict=True)
    }


def rows(seeds: int, methods: list[str], names: list[str]) -> Iterator[tuple[str, str, list[dict[str, float]]]]:
    """The coverages of all seeds for each case and method."""
    for name in names:
        for method in methods:
            found = []
            for seed in range(seeds):
                case = CASES[name](seed)
                result = recover(case.measured, method=method, axial_factor=case.axial_factor)
                found.append(coverage(result, case.truth))
            yield name, method, found


def shown(values: np.ndarray) -> str:
    """The mean, and the value furthest from .9."""
    if np.isnan(values).all():
        return f"{'-':>13}"
    return f"{np.mean(values):>6.3f} ({values[np.argmax(np.abs(values - 0.9))]:.2f})"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--methods", default="auto,tucker,local")
    parser.add_argument("--cases", default=";".join(CASES), help="names, separated by semicolons")
    chosen = parser.parse_args()
    print(f"{'case':<16} {'method':<7} " + " ".join(f"{part:>13}" for part in PARTS))
    for name, method, found in rows(chosen.seeds, chosen.methods.split(","), chosen.cases.split(";")):
        columns = [shown(np.array([one[part] for one in found])) for part in PARTS]
        print(f"{name:<16} {method:<7} " + " ".join(columns), flush=True)


if __name__ == "__main__":
    main()
