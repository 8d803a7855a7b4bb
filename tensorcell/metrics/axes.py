"""Which axis of the data is z, which axes a transform takes, and how far apart the voxels are along each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tensorcell.errors import InputError

from .inputs import as_array


def axis_names(data: Any) -> str | None:
    """The letters of the axes of a Volume; None for data without names."""
    names = getattr(data, "axes", None)
    return names if isinstance(names, str) else None


def z_axis(*data: Any, axis: int | None) -> int:
    """The axis that the caller gives, else Z of the first Volume among the data, else the first axis."""
    ndim = as_array("reference", data[0]).ndim
    if axis is None:
        named = [names for names in map(axis_names, data) if names is not None and "Z" in names]
        return named[0].index("Z") if named else 0
    if not isinstance(axis, int | np.integer) or not -ndim <= axis < ndim:
        raise InputError(f"axis is {axis}, expected 0 to {ndim - 1} for data of {ndim} axes")
    return int(axis) % ndim


def planes_axis(*data: Any, axis: int | None) -> int:
    """The axis across which the planes of a stack lie, as `z_axis`; 0 for a single plane."""
    ndim = as_array("reference", data[0]).ndim
    if ndim not in (2, 3):
        raise InputError(f"data has {ndim} axes, expected a plane (2) or a stack (3): take frames and channels singly")
    if ndim == 2 and axis is not None:
        raise InputError(f"axis is {axis}, expected None for a single plane")
    return z_axis(*data, axis=axis)


def as_planes(array: NDArray[Any], axis: int) -> NDArray[Any]:
    """A plane or a stack as a view ``(planes, rows, columns)``."""
    return array[None] if array.ndim == 2 else np.moveaxis(array, axis, 0)


def plane_size(planes: NDArray[Any]) -> str:
    """Rows and columns of an array ``(planes, rows, columns)``, for messages."""
    return " x ".join(str(side) for side in planes.shape[1:])


def chosen_axes(axes: int | Sequence[int] | None, ndim: int) -> tuple[int, ...]:
    """One or several axes as different numbers from 0 in ascending order; all axes where None is given."""
    if axes is None:
        return tuple(range(ndim))
    chosen = [axes] if isinstance(axes, int | np.integer) else list(axes)
    if not chosen or any(not isinstance(a, int | np.integer) or not -ndim <= a < ndim for a in chosen):
        raise InputError(f"axes is {axes}, expected some of the {ndim} axes 0 to {ndim - 1}")
    positive = sorted(int(a) % ndim for a in chosen)
    if len(set(positive)) < len(positive):
        raise InputError(f"axes is {axes}, expected each axis once")
    return tuple(positive)


def voxel_spacing(*data: Any, spacing: float | Sequence[float] | None) -> tuple[float, ...]:
    """Distance of voxels along each axis: what the caller gives, else that of the first Volume that has one, else 1."""
    ndim = as_array("first", data[0]).ndim
    if spacing is None:
        for volume in data:
            known, names = getattr(volume, "spacing", None), axis_names(volume)
            if known is not None and names is not None:
                by_name = dict(zip("ZYX", known, strict=True))
                return tuple(float(by_name.get(name, 1.0)) for name in names)
        return (1.0,) * ndim
    steps = np.asarray(spacing, dtype=float)
    steps = np.full(ndim, float(steps)) if steps.ndim == 0 else steps
    if steps.shape != (ndim,) or not (np.isfinite(steps).all() and (steps > 0).all()):
        raise InputError(f"spacing is {spacing}, expected {ndim} positive numbers, or one")
    return tuple(steps.tolist())
