"""The specimen: light from the dye, and the label of the cell, at every voxel."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tensorcell.datasets.cell_shapes import draw_cell_shapes
from tensorcell.datasets.dye import DYE_OUTSIDE, dye_of_cells, nearest_cells
from tensorcell.datasets.slabs import plane_slabs
from tensorcell.datasets.smooth_fields import SmoothField, smooth_field
from tensorcell.datasets.streams import CELLS, random_streams

Floats = npt.NDArray[np.floating[Any]]

ATTENUATION_LENGTH = 60.0
"""Micrometres of depth in which the light falls by a factor e; it never falls by more over the whole depth."""


def draw_specimen(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], cells: int, seed: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """Draw a cluster of cells; return the light of each voxel, blurred by half a voxel, and its label (0 = no cell)."""
    step = np.array(spacing)
    streams = iter(random_streams(seed, CELLS, 9))
    shapes = draw_cell_shapes(np.array(shape) * step, cells, next(streams))

    def field(length: float) -> SmoothField:
        return smooth_field(shape, spacing, length * shapes.size, next(streams))

    bends = [field(1.1), field(1.1), field(1.1)]
    textures = {"mottle": field(0.3), "outline": field(0.3), "fine": field(0.11), "coarse": field(0.3)}
    illumination = field(4.0)
    attenuation = max(ATTENUATION_LENGTH, shape[0] * step[0])

    image = np.empty(shape, np.float32)
    labels = np.zeros(shape, np.int32)
    for slab in plane_slabs(shape):
        grid = voxel_centres(shape, spacing, slab)
        depth = grid[:, :1, :1, 0].copy()
        grid += 0.16 * shapes.size * np.stack([bend(slab) for bend in bends], axis=-1)
        points = grid.reshape(-1, 3)
        near, neighbours, power = nearest_cells(shapes, points, step)
        texture = {name: values(slab).reshape(-1)[near] for name, values in textures.items()}

        dye = np.full(len(points), DYE_OUTSIDE, np.float32)
        dye[near] += dye_of_cells(shapes, points[near], neighbours, power, texture, step)
        light = np.exp(0.1 * illumination(slab) - depth / attenuation)
        image[slab] = dye.reshape(image[slab].shape) * light
        labels[slab].reshape(-1)[near] = np.where(power[:, 0] < 0, neighbours[:, 0] + 1, 0)
    return image, labels


def voxel_centres(shape: tuple[int, int, int], spacing: tuple[float, float, float], slab: slice) -> Floats:
    """Positions (planes, y, x, 3) in micrometres of the voxels of a slab."""
    z, y, x = (
        (np.arange(n)[part] + 0.5) * h
        for n, part, h in zip(shape, (slab, slice(None), slice(None)), spacing, strict=True)
    )
    return np.stack(np.meshgrid(z, y, x, indexing="ij"), axis=-1)
