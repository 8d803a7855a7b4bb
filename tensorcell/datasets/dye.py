"""The concentration of the dye at points in or near the cells: membranes, cytoplasm and nuclei.

Every edge is rendered with a blur of half a voxel (standard deviation), so that membranes thinner than a voxel do not
alias. The PSF that is applied afterwards (`tensorcell.datasets.optics`) is narrower by as much.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorcell.datasets.cell_shapes import CellShapes

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.intp]

DYE_MEMBRANE, DYE_NUCLEUS, DYE_CYTOPLASM, DYE_OUTSIDE = 2.0, 1.15, 0.16, 0.02
"""Typical concentrations."""

MEMBRANE_SIGMA = 0.13
"""Micrometres. The profile across a membrane is a Gaussian, 0.3 micrometres wide at half maximum."""

NEIGHBOURS = 5
"""Cells that count at a point: the cell itself and those that may share a membrane with it there."""


def nearest_cells(cells: CellShapes, points: Floats, step: Floats) -> tuple[Ints, Ints, Floats]:
    """Find the cells of least power distance ``|x - centre|^2 - radius^2`` at the points (m, 3).

    The power distance is a Euclidean one in four dimensions, up to a constant, so that a k-d tree finds it.

    Returns
    -------
    near : (k,)
        Indices of the points that lie in or near a cell.
    neighbours : (k, 5)
        For each of them the five nearest cells, the nearest first.
    power : (k, 5)
        Their power distances; infinite where there are fewer cells.
    """
    from scipy.spatial import cKDTree  # slow to import

    largest = cells.radii.max()
    lift = np.sqrt(largest**2 - cells.radii**2)
    tree: Any = cKDTree(np.column_stack([cells.centres, lift]))
    halo = membrane_extent(step) * (6 * largest + membrane_extent(step))  # points beyond it get no dye from a membrane
    distance, neighbours = tree.query(
        np.column_stack([points, np.zeros(len(points))]), NEIGHBOURS, distance_upper_bound=math.sqrt(largest**2 + halo)
    )
    near = np.flatnonzero(np.isfinite(distance[:, 0]))
    return near, neighbours[near], distance[near] ** 2 - largest**2


def dye_of_cells(
    cells: CellShapes,
    points: Floats,
    neighbours: Ints,
    power: Floats,
    texture: dict[str, Floats],
    step: Floats,
) -> Floats:
    """Concentration at points (m, 3) with their nearest cells and power distances (see `nearest_cells`)."""
    own = neighbours[:, 0]
    radial = points - cells.centres[own]
    depth = cells.radii[own] - np.linalg.norm(radial, axis=1)  # below the surface of the ball
    inside = blurred_step(depth / edge_width(radial, step))

    walls = np.square(cells.membrane[own] * membrane_profile(depth, radial, step))
    for k in range(1, neighbours.shape[1]):
        at = np.flatnonzero(power[:, k] - power[:, 0] < 4 * cells.radii.max() * membrane_extent(step))
        mine, other = own[at], neighbours[at, k]
        between = cells.centres[other] - cells.centres[mine]
        distance = (power[at, k] - power[at, 0]) / (2 * np.linalg.norm(between, axis=1))
        brightness = 0.5 * (cells.membrane[mine] + cells.membrane[other])
        walls[at] += np.square(inside[at] * brightness * membrane_profile(distance, between, step))
    walls = np.sqrt(walls) * np.exp(0.3 * texture["mottle"])

    cytoplasm = cells.cytoplasm[own] * np.exp(0.25 * texture["fine"] + 0.25 * texture["coarse"])
    nucleus, brightness = nuclei(cells, own, points, texture, step)
    filling = DYE_CYTOPLASM * cytoplasm * inside * (1 - nucleus) + DYE_NUCLEUS * brightness * nucleus
    dye: Floats = DYE_MEMBRANE * walls + filling
    return dye


def nuclei(
    cells: CellShapes, own: Ints, points: Floats, texture: dict[str, Floats], step: Floats
) -> tuple[Floats, Floats]:
    """Share of the nucleus at each point, and its brightness there: chromatin, a denser rim, dark nucleoli."""
    local = np.einsum("pab,pb->pa", cells.nucleus_frames[own], points - cells.nucleus_centres[own])
    radius = np.linalg.norm(local, axis=1) * (1 + 0.05 * texture["outline"])
    edge = math.sqrt(np.square(step).mean()) / 2
    nucleus = blurred_step((1 - radius) * cells.nucleus_radii[own] / edge)
    brightness = cells.nucleus[own] * np.exp(0.38 * texture["fine"] + 0.2 * texture["coarse"])
    brightness *= 1 + 0.3 * np.exp(-0.5 * np.square((1 - radius) / 0.09))
    for k in range(cells.nucleoli.shape[1]):
        outside = np.linalg.norm(local - cells.nucleoli[own, k], axis=1) - cells.nucleoli_radii[own, k]
        brightness *= 1 - 0.75 * blurred_step(-outside / 0.05) * (cells.nucleoli_radii[own, k] > 0)
    return nucleus, brightness


def blurred_step(position: Floats) -> Floats:
    """A step from 0 to 1 that is blurred by a Gaussian; positions are in standard deviations of it."""
    from scipy.special import ndtr  # slow to import

    step: Floats = ndtr(position)
    return step


def edge_width(normal: Floats, step: Floats) -> Floats:
    """Standard deviation of the blur by half a voxel, across a face with this normal."""
    squares = np.square(normal)
    width: Floats = np.sqrt(squares @ (np.square(step) / 4) / (squares.sum(axis=1) + np.finfo(float).tiny))
    return width


def membrane_extent(step: Floats) -> float:
    """Distance from a membrane beyond which it adds no dye, whatever its normal."""
    return 5 * math.hypot(MEMBRANE_SIGMA, step.max() / 2)


def membrane_profile(distance: Floats, normal: Floats, step: Floats) -> Floats:
    """Concentration at a distance from a membrane: a Gaussian of amplitude 1, after the blur by half a voxel."""
    variance = MEMBRANE_SIGMA**2 + np.square(edge_width(normal, step))
    profile: Floats = MEMBRANE_SIGMA / np.sqrt(variance) * np.exp(-0.5 * np.square(distance) / variance)
    return profile
