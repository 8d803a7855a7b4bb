"""The box around what was drawn in a shapes layer, in the rows and columns of an image layer."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorcell.errors import InputError

SMALLEST = 8
"""Rows and columns of a crop, at least."""


def crop_of(shapes: Any, image: Any, axes: str, shape: tuple[int, ...]) -> tuple[slice, ...]:
    """The part of an image that holds all shapes, or those that are selected: rows and columns, and whole other axes.

    Parameters
    ----------
    shapes, image : layers of napari
        With ``data_to_world`` and ``world_to_data``; shapes have ``data``, ``selected_data`` and ``name``.
    axes : str
        Of the image.
    shape : tuple of int
        Of the image.

    Raises
    ------
    InputError
        If nothing was drawn, or what was drawn covers too little of the image.
    """
    chosen = sorted(shapes.selected_data) or range(len(shapes.data))
    corners = [corner for number in chosen for corner in np.asarray(shapes.data[number], float)]
    if not corners:
        raise InputError(f"{shapes.name}: expected a rectangle around what is to be recovered, got an empty layer")
    places = np.array([image.world_to_data(shapes.data_to_world(corner)) for corner in corners])
    box = [slice(None)] * len(axes)
    for letter in "YX":
        axis = axes.index(letter)
        low, high = float(places[:, axis].min()), float(places[:, axis].max())
        start, stop = max(0, round(low)), min(shape[axis], round(high) + 1)
        if stop - start < min(SMALLEST, shape[axis]):
            raise InputError(
                f"{shapes.name}: expected at least {SMALLEST} voxels of the image along {letter.lower()}, "
                f"got {max(0, stop - start)}"
            )
        box[axis] = slice(start, stop)
    return tuple(box)
