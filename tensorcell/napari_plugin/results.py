"""What a recovery found as layers of napari, placed upon the layer that it is of."""

from __future__ import annotations

from typing import Any

import numpy as np
from napari.components import ViewerModel
from napari.layers import Image
from napari.utils.transforms import Affine

from tensorcell.napari_plugin.jobs import Found
from tensorcell.napari_plugin.layers import LayerData

MOST_POINTS = 5000
"""Outliers that are shown as points; more are shown as labels, which napari draws faster."""

POINT = 5
"""Diameter of the circle around an outlier, in voxels."""

LINKED = ("contrast_limits", "gamma")
"""What a layer and its recovered one have in common: they are in one unit, and are compared."""


def place_of_part(layer: Image, box: tuple[slice, ...]) -> dict[str, Any]:
    """Scale, position, orientation and units of a part of a layer."""
    _, meta, _ = layer.as_layer_data_tuple()
    place = {key: meta[key] for key in ("scale", "rotate", "shear", "units", "affine", "axis_labels")}
    whole = Affine(**{key: meta[key] for key in ("scale", "rotate", "shear", "translate")})
    place["translate"] = whole([part.start or 0 for part in box])
    return place


def finer_place(place: dict[str, Any], axes: str, axial_factor: int, lateral_factor: int) -> dict[str, Any]:
    """The place of a result with more planes, and with pixels of which so many by so many make one that was given.

    The first plane is the one given; the first pixel lies in a corner of the one given.
    """
    factors = {"Z": axial_factor, "Y": lateral_factor, "X": lateral_factor}
    steps = [factors.get(axis, 1) for axis in axes]
    corner = [(1 / step - 1) / 2 if axis in "YX" else 0.0 for axis, step in zip(axes, steps, strict=True)]
    given = Affine(**{key: place[key] for key in ("scale", "rotate", "shear", "translate")})
    scale = [size / step for size, step in zip(place["scale"], steps, strict=True)]
    return {**place, "scale": scale, "translate": given(corner)}


def layers_of_result(layer: Image, place: dict[str, Any], found: Found) -> list[LayerData]:
    """The result on top, below it what tells how far it can be trusted, hidden."""
    volume = found.volume
    assert volume is not None
    finer = finer_place(place, volume.axes, found.axial_factor, found.lateral_factor)
    name, (_, meta, _) = layer.name, layer.as_layer_data_tuple()
    layers: list[LayerData] = []
    for values, what, colormap in (
        (found.uncertainty, "uncertainty", "inferno"),
        (found.invented, "invented", "magenta"),
    ):
        if values is not None:
            looks = {"name": f"{name} {what}", "colormap": colormap, "visible": False, "blending": "additive"}
            if what == "invented":
                looks["contrast_limits"] = (0.0, 1.0)
            layers.append((values, {**finer, **looks}, "image"))
    if found.outliers is not None and len(found.outliers):
        layers.append(outliers_layer(found.outliers, found.shape, {**place, "name": f"{name} outliers"}))
    looks = {key: meta[key] for key in ("colormap", "contrast_limits", "gamma", "blending")}
    kept = {"metadata": {"tensorcell": dict(volume.metadata)}, "name": f"{name} recovered"}
    layers.append((volume.data, {**finer, **looks, **kept}, "image"))
    return layers


def outliers_layer(positions: np.ndarray, shape: tuple[int, ...], meta: dict[str, Any]) -> LayerData:
    """Circles around the outliers, or where there are many, a label at each voxel."""
    meta = {**meta, "visible": False}
    if len(positions) > MOST_POINTS:
        labels = np.zeros(shape, np.uint8)
        labels[tuple(positions.T)] = 1
        return labels, meta, "labels"
    looks = {"size": POINT, "face_color": "transparent", "border_color": "orange", "border_width": 0.2}
    return positions, {**meta, **looks}, "points"


def show(viewer: ViewerModel, layer: Image, place: dict[str, Any], found: Found) -> None:
    """Add the layers of a result, and show the layer and the recovered one with the same contrast."""
    added = [viewer._add_layer_from_data(*each)[0] for each in layers_of_result(layer, place, found)]
    if layer in viewer.layers:
        viewer.layers.link_layers([layer, added[-1]], LINKED)
