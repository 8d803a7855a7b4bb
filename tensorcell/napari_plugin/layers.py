"""Volumes as layers of napari and back.

A layer is what napari calls layer data: ``(data, metadata, kind)``. Nothing of napari is imported: units are taken by
their names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tensorcell.errors import InputError
from tensorcell.files.units import micrometres, seconds_of
from tensorcell.lazy_volume import LazyVolume
from tensorcell.volume import Volume

LayerData = tuple[Any, dict[str, Any], str]

NAMES = {"TIME": "T", "FRAME": "T", "CHANNEL": "C", "PLANE": "Z", "ROW": "Y", "COLUMN": "X"}
"""Axes by the words that other plugins use; a letter alone stands for itself."""

CHANNEL_COLORS = ("cyan", "magenta", "yellow", "green", "red", "blue")
"""Colormaps of channels for which the file names no colour."""

DISPLAYED = (0.2, 99.9)
"""Percentiles of the measured intensities between which an image is shown."""

SHOWN_VOXELS = 10**6
"""Voxels that are looked at to find the contrast, at most."""


def layers_of(volume: Volume | LazyVolume, name: str) -> list[LayerData]:
    """An image layer for each channel, and a hidden labels layer (1 = measured) for each mask.

    >>> volume = Volume(np.zeros((2, 3, 4, 5)), axes="CZYX", spacing=(0.5, 0.2, 0.2))
    >>> [(data.shape, meta["name"], meta["units"]) for data, meta, _ in layers_of(volume, "cells")]
    ... # doctest: +NORMALIZE_WHITESPACE
    [((3, 4, 5), 'cells C=0', ('um', 'um', 'um')), ((3, 4, 5), 'cells C=1', ('um', 'um', 'um'))]
    """
    axes = volume.axes.replace("C", "")
    placed = place_of(axes, volume.spacing, volume.metadata.get("time_interval"))
    found: list[LayerData] = []
    for where, names, looks in channels_of(volume, name):
        kept = {key: value for key, value in volume.metadata.items() if not key.startswith("channel_")}
        meta = {**placed, "name": names, **looks, "metadata": {"tensorcell": kept}}
        data = volume.data[where] if where else volume.data
        if isinstance(data, np.ndarray):
            meta["contrast_limits"] = contrast_of(data)
        found.append((data, meta, "image"))
        if volume.mask is not None:
            mask: Any = volume.mask[where] if where else volume.mask
            found.append((mask.astype(np.uint8), {**placed, "name": f"{names} measured", "visible": False}, "labels"))
    return found


def channels_of(volume: Volume | LazyVolume, name: str) -> list[tuple[tuple[int | slice, ...], str, dict[str, Any]]]:
    """The index, the name and the looks of each channel; an empty index where there is no axis of channels."""
    if "C" not in volume.axes:
        return [((), name, {"colormap": "gray"})]
    count = volume.shape[volume.axes.index("C")]
    names = [str(each) for each in volume.metadata.get("channel_names", ())]
    colors = list(volume.metadata.get("channel_colors", ()))
    found: list[tuple[tuple[int | slice, ...], str, dict[str, Any]]] = []
    for channel in range(count):
        where = tuple(channel if letter == "C" else slice(None) for letter in volume.axes)
        label = names[channel] if len(names) == count and names[channel] else f"C={channel}"
        looks = (
            {"colormap": colormap_of(colors, channel), "blending": "additive"} if count > 1 else {"colormap": "gray"}
        )
        found.append((where, f"{name} {label}", looks))
    return found


def colormap_of(colors: Sequence[Any], channel: int) -> str:
    """The colour ``#rrggbb`` that the file gives a channel, or one of `CHANNEL_COLORS`."""
    color = str(colors[channel]) if channel < len(colors) else ""
    return color if re.fullmatch("#[0-9a-fA-F]{6}", color) else CHANNEL_COLORS[channel % len(CHANNEL_COLORS)]


def place_of(
    axes: str, spacing: tuple[float, float, float] | None, time_interval: float | None = None
) -> dict[str, Any]:
    """``scale``, ``units`` and ``axis_labels`` of a layer; a step that is unknown is 1 pixel.

    >>> place_of("TZYX", None, 2.5)["units"]
    ('s', 'pixel', 'pixel', 'pixel')
    """
    known = {letter: (step, "um") for letter, step in zip("ZYX", spacing or (), strict=False)}
    if time_interval:
        known["T"] = float(time_interval), "s"
    steps = [known.get(letter, (1.0, "pixel")) for letter in axes]
    return {
        "scale": tuple(step for step, _ in steps),
        "units": tuple(unit for _, unit in steps),
        "axis_labels": tuple(axes.lower()),
    }


def contrast_of(data: np.ndarray) -> tuple[float, float]:
    """The intensities between which an image is shown, from every n-th voxel that was measured."""
    step = max(1, round((data.size / SHOWN_VOXELS) ** (1 / 3)))
    thinned: Any = (..., *(slice(None, None, step) for _ in range(min(3, data.ndim))))
    part = data[thinned]
    part = part[np.isfinite(part)]
    low, high = np.percentile(part, DISPLAYED) if part.size else (0.0, 1.0)
    return float(low), float(high) if high > low else float(low) + 1.0


def axes_of(meta: Mapping[str, Any], count: int) -> str | None:
    """The axes that the labels of a layer name, or those of two or three axes without names; None if unknown.

    >>> axes_of({"axis_labels": ("time", "z", "y", "x")}, 4), axes_of({"axis_labels": ("-3", "-2", "-1")}, 3)
    ('TZYX', 'ZYX')
    """
    labels = [str(label).strip().upper() for label in meta.get("axis_labels") or ()]
    letters = "".join(NAMES.get(label, label) for label in labels)
    if len(letters) == count and re.fullmatch("[A-Z]+", letters) and len(set(letters)) == count:
        return letters if {"Y", "X"} <= set(letters) else None
    return {2: "YX", 3: "ZYX"}.get(count)


def spacing_of(meta: Mapping[str, Any], axes: str) -> tuple[float, float, float] | None:
    """(dz, dy, dx) in micrometres, if the layer has a unit of length along Z, Y and X; else None.

    >>> spacing_of({"scale": (500, 0.2, 0.2), "units": ("nm", "um", "um")}, "ZYX")
    (0.5, 0.2, 0.2)
    """
    units = [micrometres(unit) for unit in meta.get("units") or ()]
    scale = [float(step) for step in meta.get("scale") or ()]
    if not len(units) == len(scale) == len(axes):
        return None
    steps = {letter: step * unit for letter, step, unit in zip(axes, scale, units, strict=True) if unit is not None}
    if not {"Y", "X"} <= set(steps) or ("Z" in axes and "Z" not in steps):
        return None
    return steps.get("Z", steps["Y"]), steps["Y"], steps["X"]


def scale_without_unit(meta: Mapping[str, Any], axes: str) -> tuple[float, ...] | None:
    """The scale along Z, Y and X of a layer whose unit is the pixel although it is not 1; None for all others.

    >>> scale_without_unit({"scale": (2, 1, 1), "units": ("pixel",) * 3}, "ZYX")
    (2.0, 1.0, 1.0)
    """
    if spacing_of(meta, axes) is not None or len(meta.get("scale") or ()) != len(axes):
        return None
    steps = tuple(float(step) for letter, step in zip(axes, meta["scale"], strict=True) if letter in "ZYX")
    return steps if any(step != 1 for step in steps) else None


def time_interval_of(meta: Mapping[str, Any], axes: str) -> float | None:
    """Seconds between frames, if the layer has a unit of time along T."""
    units, scale = tuple(meta.get("units") or ()), tuple(meta.get("scale") or ())
    if "T" not in axes or not len(units) == len(scale) == len(axes):
        return None
    unit = seconds_of(units[axes.index("T")])
    return None if unit is None else float(scale[axes.index("T")]) * unit


def check_kind(layer: LayerData) -> None:
    """Raise `InputError` unless a layer holds intensities."""
    _, meta, kind = layer
    name = meta.get("name", "layer")
    if kind == "labels":
        raise InputError(
            f"{name}: its numbers are names of objects, between which there is nothing to estimate; "
            "expected an image layer, got a labels layer"
        )
    if kind != "image":
        raise InputError(f"{name}: expected an image layer, got a {kind} layer")
    if meta.get("rgb"):
        raise InputError(
            f"{name}: expected intensities, got RGB colours (Split RGB in the menu of the layer makes three layers)"
        )


def array_of(layer: LayerData) -> Any:
    """The data of a layer at full resolution, not yet computed where they lie in a file."""
    data, meta, _ = layer
    return data[0] if meta.get("multiscale") else data


def volume_of(layer: LayerData, axes: str | None = None) -> Volume:
    """The volume that an image layer holds.

    Raises
    ------
    InputError
        For layers of other kinds and RGB images; for more than three axes whose labels do not name them.
    """
    check_kind(layer)
    _, meta, _ = layer
    data = np.asarray(array_of(layer))
    axes = axes or axes_of(meta, data.ndim)
    if axes is None:
        name = meta.get("name", "layer")
        raise InputError(f"{name}: {data.ndim} axes without names, expected axis labels such as t, z, y, x")
    kept = dict(dict(meta.get("metadata") or {}).get("tensorcell") or {})
    interval = time_interval_of(meta, axes)
    if interval is not None:
        kept["time_interval"] = interval
    return Volume(data, axes, spacing_of(meta, axes), metadata=kept)


def joined(layers: Sequence[LayerData]) -> Volume:
    """One volume of image layers: a channel for each, in their order; a single one as it is.

    Raises
    ------
    InputError
        As `volume_of`; if the layers differ in shape, axes or voxel size, or have channels of their own.
    """
    volumes = [volume_of(layer) for layer in layers]
    first, *others = volumes
    if not others:
        return first
    names = [str(meta.get("name", "")) for _, meta, _ in layers]
    for name, one in zip(names[1:], others, strict=True):
        for what, own, expected in (
            ("shape", one.shape, first.shape),
            ("axes", one.axes, first.axes),
            ("voxel size", one.spacing, first.spacing),
        ):
            if own != expected:
                raise InputError(f"{name}: expected the {what} of {names[0]} {expected}, got {own}")
    if "C" in first.axes:
        raise InputError(f"{names[0]}: expected layers of one channel each to put together, got axes {first.axes}")
    place = first.axes.index("Y") if "Z" not in first.axes else first.axes.index("Z")
    data = np.stack([one.data for one in volumes], axis=place)
    axes = first.axes[:place] + "C" + first.axes[place:]
    return Volume(data, axes, first.spacing, metadata={**first.metadata, "channel_names": tuple(names)})
