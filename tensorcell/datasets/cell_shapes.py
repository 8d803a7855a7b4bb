"""Centres and sizes of simulated cells, of their nuclei and of their nucleoli."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]

DIVIDING = 0.06
"""Share of the cells that are in division: the nucleus is a bright plate of chromosomes without nucleoli."""

LLOYD_STEPS, POINTS_PER_CELL = 5, 100
"""Relaxation of the centres: steps of Lloyd's algorithm, and random points that stand for the volume."""


class CellShapes(NamedTuple):
    """The shapes of n cells before they are bent; lengths are in micrometres.

    Cell i is the part of ball i in which its power distance, ``|x - centre|^2 - radius^2``, is the least of all.
    """

    centres: Floats
    """(n, 3) centres of the balls."""
    radii: Floats
    """(n,) radii of the balls."""
    size: float
    """Radius of the typical cell."""
    membrane: Floats
    """(n,) relative brightness of the membrane."""
    cytoplasm: Floats
    """(n,) relative brightness of the cytoplasm."""
    nucleus: Floats
    """(n,) relative brightness of the nucleus."""
    nucleus_centres: Floats
    """(n, 3) centres of the nuclei."""
    nucleus_frames: Floats
    """(n, 3, 3) matrices that map a nucleus, an ellipsoid, to the unit ball."""
    nucleus_radii: Floats
    """(n,) mean semi-axis of a nucleus."""
    nucleoli: Floats
    """(n, 3, 3) centres of three nucleoli, in the unit ball."""
    nucleoli_radii: Floats
    """(n, 3) radii of the nucleoli in the unit ball, 0 where there is none."""


def draw_cell_shapes(extent: Floats, cells: int, rng: np.random.Generator) -> CellShapes:
    """Draw cells that fill an ellipsoid in a volume of this extent (z, y, x), each with a nucleus."""
    centres, farthest, size = relaxed_centres(extent, cells, rng)
    radii = np.clip(farthest, 0.9 * size, 1.12 * size) * rng.uniform(0.96, 1.04, cells)
    inner = inner_radii(centres, radii)

    semi_axes = np.exp(rng.normal(0.0, 0.14, (cells, 3)))
    semi_axes *= (inner * rng.uniform(0.72, 0.84, cells))[:, None]
    nucleus = rng.lognormal(0.0, 0.22, cells)
    nucleoli_radii = rng.uniform(0.16, 0.3, (cells, 3)) * (rng.random((cells, 3)) < [1.0, 0.6, 0.3])
    dividing = rng.random(cells) < DIVIDING
    semi_axes[dividing] *= [0.35, 1.0, 1.0]
    nucleus[dividing] *= 1.8
    nucleoli_radii[dividing] = 0.0

    rotations = np.linalg.qr(rng.standard_normal((cells, 3, 3)))[0]
    return CellShapes(
        centres=centres,
        radii=radii,
        size=size,
        membrane=rng.lognormal(0.0, 0.25, cells),
        cytoplasm=rng.lognormal(0.0, 0.3, cells),
        nucleus=nucleus,
        nucleus_centres=centres + 0.15 * inner[:, None] * rng.uniform(-1, 1, (cells, 3)),
        nucleus_frames=rotations / semi_axes[:, :, None],
        nucleus_radii=semi_axes.mean(axis=1),
        nucleoli=0.4 * rng.uniform(-1, 1, (cells, 3, 3)),
        nucleoli_radii=nucleoli_radii,
    )


def relaxed_centres(extent: Floats, cells: int, rng: np.random.Generator) -> tuple[Floats, Floats, float]:
    """Centres of cells in an ellipsoid after a few steps of Lloyd's algorithm, which evens out their distances.

    Also returned are the distance from each centre to the farthest point of its cell, and the median of these.
    """
    from scipy.spatial import cKDTree  # slow to import

    semi_axes = extent * [0.5, 0.42, 0.42]
    directions = rng.standard_normal((POINTS_PER_CELL * cells, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    points = extent / 2 + semi_axes * directions * np.cbrt(rng.random((POINTS_PER_CELL * cells, 1)))
    centres = points[:cells]
    for _ in range(LLOYD_STEPS):
        nearest = cKDTree(centres).query(points)[1]
        counts = np.bincount(nearest, minlength=cells)
        sums = np.stack([np.bincount(nearest, points[:, a], cells) for a in range(3)], axis=1)
        centres = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], centres)
    distance, nearest = cKDTree(centres).query(points)
    farthest = np.zeros(cells)
    np.maximum.at(farthest, nearest, distance)
    return centres, farthest, float(np.median(farthest))


def inner_radii(centres: Floats, radii: Floats) -> Floats:
    """Distance of each centre to the nearest membrane of its cell."""
    from scipy.spatial import cKDTree  # slow to import

    if len(centres) == 1:
        return radii.copy()
    tree: Any = cKDTree(centres)
    distance, neighbours = (found[:, 1:] for found in tree.query(centres, min(16, len(centres))))
    walls = (distance**2 + radii[:, None] ** 2 - radii[neighbours] ** 2) / (2 * distance)
    inner: Floats = np.minimum(radii, walls.min(axis=1))
    return inner
