"""What `recover` keeps of sparse signal and finds of camera defects on simulated stacks; a script.

Spots and filaments are drawn on a black or a textured ground with shot noise, defects into simulated cells. Spots: the
share of the measured peak above the ground that the result holds, and peaks below .8 of it. Filaments: the same over
all of their voxels. Defects: how many of those that differ from the truth by more than five standard deviations of the
noise were found, false alarms, and the root mean square error over the range of the truth, beside a 3 x 3 x 3 median.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter, median_filter

import tensorcell as tc

SHAPE = (14, 48, 48)
Array = Any


def ground(kind: str, rng: np.random.Generator) -> Array:
    """A black ground of 10 photons, or a texture of 60 +- 20 with structures as wide as two pixels."""
    if kind == "black":
        return np.full(SHAPE, 10.0)
    texture = gaussian_filter(rng.standard_normal(SHAPE), (1, 2, 2))
    return np.clip(60 + 20 * texture / texture.std(), 5, None)


def spots(kind: str, seed: int, count: int = 12) -> tuple[Array, Array, list[tuple[int, ...]]]:
    """Ground, photons measured and brightest voxels, 5 to 50 standard deviations high, of spots of sigma .35 to .7."""
    rng = np.random.default_rng(seed)
    base = ground(kind, rng)
    light = base.copy()
    z, y, x = np.indices(SHAPE)
    places = []
    for _ in range(count):
        centre = np.array([rng.integers(2, size - 2) for size in SHAPE], float)
        centre[1:] += rng.uniform(-0.5, 0.5, 2)
        place = tuple(int(c) for c in np.round(centre))
        sigma, height = rng.uniform(0.35, 0.7), rng.uniform(5, 50) * np.sqrt(base[place])
        lateral = ((y - centre[1]) ** 2 + (x - centre[2]) ** 2) / (2 * sigma**2)
        light += height * np.exp(-((z - centre[0]) ** 2) / (2 * 0.5**2) - (lateral - lateral[place]))
        places.append(place)
    return base, rng.poisson(light).astype(np.float32), places


def filaments(kind: str, seed: int, height: float, count: int = 5) -> tuple[Array, Array, Array]:
    """Ground, photons measured and places of straight lines one voxel wide."""
    rng = np.random.default_rng(seed)
    base = ground(kind, rng)
    where = np.zeros(SHAPE, bool)
    for _ in range(count):
        start, end = (np.array([rng.uniform(1, size - 2) for size in SHAPE]) for _ in range(2))
        for t in np.linspace(0, 1, 300):
            where[tuple(np.round(start + t * (end - start)).astype(int))] = True
    return base, rng.poisson(base + where * height * np.sqrt(base)).astype(np.float32), where


def defects(kind: str, seed: int) -> tuple[Array, Array, Array]:
    """Truth of simulated cells, the stack with defects, and where they are."""
    cells = tc.datasets.simulate_cells((16, 56, 56), cells=8, seed=seed + 1)
    rng = np.random.default_rng(seed)
    stack = np.clip(cells.measured, 0, None).astype(np.float32)
    where = np.zeros(stack.shape, bool)
    if kind.startswith("salt"):
        where = rng.random(stack.shape) < float(kind.split()[-2]) / 100
        stack[where] = np.where(rng.random(int(where.sum())) < 0.5, 0, 255)
        stack = np.clip(np.round(stack), 0, 255)
    elif kind == "dead voxels":
        where = (rng.random(stack.shape) < 0.02) & (cells.truth > 40)
        stack[where] = 0
    else:
        where[:, rng.random(stack.shape[1:]) < 0.012] = True
        if kind == "hot in half of the planes":
            where &= rng.permutation(len(stack))[:, None, None] < len(stack) // 2
        values = {"stuck": 4095.0, "dead": 0.0}.get(kind)
        stack[where] = stack[where] + rng.poisson(100, int(where.sum())) if values is None else values
    return cells.truth, stack, where


def rows(seeds: int) -> Iterator[str]:
    """The lines of the three tables."""
    yield "spots | share of the peak kept, mean (worst) | below .8 | measured peaks flagged"
    for kind in ("black", "texture"):
        for missing in (0.0, 0.5):
            kept, flagged = [], 0
            for seed in range(seeds):
                base, stack, places = spots(kind, seed)
                mask = np.random.default_rng(seed + 50).random(SHAPE) >= missing
                result = tc.recover(stack, mask=mask if missing else None)
                value = result.volume.data
                seen = [p for p in places if mask[p]]
                flagged += sum(bool(result.outliers[p]) for p in seen)
                kept += [(value[p] - base[p]) / (stack[p] - base[p]) for p in seen if stack[p] > base[p]]
            found = np.array(kept)
            yield (
                f"{kind}, {missing:.0%} missing | {found.mean():.2f} ({found.min():.2f}) | "
                f"{np.count_nonzero(found < 0.8)} of {len(found)} | {flagged}"
            )
    yield "filaments | light kept, mean (worst seed) | flagged"
    for kind in ("black", "texture"):
        for height in (8.0, 20.0, 50.0):
            kept, flagged, total = [], 0, 0
            for seed in range(seeds):
                base, stack, where = filaments(kind, seed, height)
                result = tc.recover(stack)
                kept.append(np.sum((result.volume.data - base)[where]) / np.sum((stack - base)[where]))
                flagged += int(np.count_nonzero(result.outliers[where]))
                total += int(where.sum())
            yield f"{kind}, {height:g} sd | {np.mean(kept):.2f} ({np.min(kept):.2f}) | {flagged} of {total}"
    yield "defects | found, mean (worst seed) | false alarms | nrmse, mean (worst) | median 3x3x3, mean | worst ratio"
    kinds = ["hot", "hot in half of the planes", "stuck", "dead", "dead voxels"]
    for kind in [*kinds, *(f"salt and pepper {share} %" for share in (2, 5, 10, 20))]:
        shares, false, sound, ours, theirs = [], 0, 0, [], []
        for seed in range(seeds):
            truth, stack, where = defects(kind, seed)
            result = tc.recover(stack)
            flagged = result.outliers != 0
            visible = where & (np.abs(stack - truth) > 5 * np.sqrt(truth + 4))
            shares.append(np.mean(flagged[visible]))
            false += int(np.count_nonzero(flagged & ~where))
            sound += int(np.count_nonzero(~where))
            for errors, value in ((ours, result.volume.data), (theirs, median_filter(stack, 3))):
                errors.append(np.sqrt(np.mean((value - truth) ** 2)) / np.ptp(truth))
        yield (
            f"{kind} | {np.mean(shares):.3f} ({np.min(shares):.3f}) | {false} of {sound} | {np.mean(ours):.4f} "
            f"({np.max(ours):.4f}) | {np.mean(theirs):.4f} | {np.max(np.divide(ours, theirs)):.2f}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=6)
    for row in rows(parser.parse_args().seeds):
        print(row, flush=True)
