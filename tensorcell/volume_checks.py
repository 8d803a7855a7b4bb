"""What fits into a volume, and what is said of one: checks of its parts, and sentences on its size and voxels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from tensorcell.errors import InputError


class Shaped(Protocol):
    """Anything with a shape and a data type: an array, or what stands for one in a file."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...


class Described(Protocol):
    """What is known of a volume beside its values: a `Volume`, or one of which parts are read."""

    @property
    def axes(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def planes(self) -> int: ...

    @property
    def spacing(self) -> tuple[float, float, float] | None: ...

    @property
    def metadata(self) -> Mapping[str, Any]: ...


def guess_axes(data: Shaped) -> str:
    """``YX``, ``ZYX`` for two and three axes; raise `InputError` for more and for what looks like an RGB photo."""
    count = len(data.shape)
    if count == 3 and looks_like_rgb(data):
        raise InputError(
            f"data of shape {data.shape} and dtype uint8 looks like an RGB photo, expected a stack of planes "
            "(pass axes='ZYX' if it is one)"
        )
    if count > 3:
        hint = ", the last looks like RGB samples" if looks_like_rgb(data) else ""
        raise InputError(f"data has {count} axes {data.shape} without names{hint}; pass axes=, for example axes='TZYX'")
    return "YX" if count == 2 else "ZYX"


def looks_like_rgb(data: Shaped) -> bool:
    """Whether the last axis looks like the three or four samples of a colour photo."""
    return data.dtype == np.uint8 and data.shape[-1] in (3, 4)


def check_data(data: np.ndarray) -> None:
    """Raise `InputError` unless ``data`` is a non-empty array of at least two axes and a real dtype."""
    if not isinstance(data, np.ndarray):
        raise InputError(f"data must be a NumPy array, got {type(data).__name__}; Volume.from_array takes others")
    check_kind(data.shape, data.dtype)


def check_kind(shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Raise `InputError` unless a shape has at least two axes and is not empty, and a dtype is real."""
    if dtype.kind not in "buif" or dtype.itemsize > 8:
        raise InputError(f"data has dtype {dtype}, expected integers or floats of at most 64 bits")
    if len(shape) < 2:
        axes = "1 axis" if len(shape) == 1 else f"{len(shape)} axes"
        raise InputError(f"data has {axes} {shape}, expected a plane (Y, X) or a stack of planes (Z, Y, X)")
    if math.prod(shape) == 0:
        raise InputError(f"data is empty: shape {shape}")


def check_axes(axes: str, shape: tuple[int, ...]) -> None:
    """Raise `InputError` unless ``axes`` names each axis once, Y and X among them, and no colour samples (S)."""
    if not isinstance(axes, str):
        raise InputError(f"axes must be a string such as 'ZYX', got {type(axes).__name__}")
    if not all("A" <= letter <= "Z" for letter in axes) or len(set(axes)) != len(axes):
        raise InputError(f"axes must be different upper-case letters such as 'TZYX', got {axes!r}")
    if len(axes) != len(shape):
        raise InputError(f"axes {axes!r} name {len(axes)} axes, data has {len(shape)}: {shape}")
    if "S" in axes:
        raise InputError(f"axes {axes!r} hold colour samples (S), expected intensities; split the colours")
    if not set("YX") <= set(axes):
        raise InputError(f"axes {axes!r} hold no planes, expected Y and X among them, and Z in stacks")


def check_spacing(spacing: Sequence[float] | None, axes: str = "ZYX") -> tuple[float, float, float] | None:
    """``spacing`` as three floats; raise `InputError` unless it is None or three positive finite numbers.

    For axes without Z two numbers are enough, and dz is dy.

    >>> check_spacing((0.2, 0.1), "YX")
    (0.2, 0.2, 0.1)
    """
    if spacing is None:
        return None
    try:
        steps = [float(step) for step in spacing]
        if "Z" not in axes and len(steps) in (2, 3):
            steps = [steps[-2], *steps[-2:]]
        dz, dy, dx = steps
    except (TypeError, ValueError) as error:
        fewer = "" if "Z" in axes else "two numbers (dy, dx) or "
        raise InputError(f"spacing must be {fewer}three numbers (dz, dy, dx), got {spacing!r}") from error
    if not all(math.isfinite(step) and step > 0 for step in (dz, dy, dx)):
        raise InputError(f"spacing must be positive and finite, got (dz, dy, dx) = {(dz, dy, dx)}")
    return dz, dy, dx


def check_mask(mask: np.ndarray, shape: tuple[int, ...]) -> None:
    """Raise `InputError` unless ``mask`` is a bool array of the given shape."""
    if not isinstance(mask, np.ndarray):
        raise InputError(f"mask must be a bool array (True = measured), got {type(mask).__name__}")
    check_mask_kind(mask.shape, mask.dtype, shape)


def check_mask_kind(mask_shape: tuple[int, ...], dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    """Raise `InputError` unless a mask of this shape and dtype fits data of the given shape."""
    if dtype.kind != "b":
        raise InputError(f"mask must be a bool array (True = measured), got {dtype}")
    if mask_shape != shape:
        raise InputError(f"mask has shape {mask_shape}, data has shape {shape}")


def described(
    shape: tuple[int, ...], axes: str, dtype: np.dtype[Any], spacing: tuple[float, float, float] | None, *, masked: bool
) -> str:
    """Shape, axes, data type and voxel size of a volume in one line, and whether it has a mask."""
    sizes = " x ".join(map(str, shape))
    size = "spacing unknown"
    if spacing is not None:
        size = " x ".join(f"{step:.6g}" for step in (spacing if "Z" in axes else spacing[1:])) + " um"
    return f"{sizes} {axes}, {dtype}, {size}{', with mask' if masked else ''}"


def notes_on_file(volume: Described) -> tuple[str, ...]:
    """What the reader of a file noted, and the pixel size where the step along z is unknown.

    >>> from tensorcell.volume import Volume
    >>> notes_on_file(Volume(np.zeros((5, 8, 8)), metadata={"notes": ["a"], "pixel_size": (0.2, 0.1)}))
    ('a', 'the pixels are 0.2 x 0.1 um (y, x); the step along z is unknown')
    """
    noted = volume.metadata.get("notes", ())
    notes = [str(note) for note in noted] if isinstance(noted, list | tuple) else [str(noted)]
    pixels = pixel_size_of(volume)
    if volume.spacing is None and pixels is not None:
        notes.append(f"the pixels are {pixels[0]:g} x {pixels[1]:g} um (y, x); the step along z is unknown")
    return tuple(notes)


def pixel_size_of(volume: Described) -> tuple[float, float] | None:
    """(dy, dx) in micrometres where they are known, with or without a step along z; else None."""
    if volume.spacing is not None:
        return volume.spacing[1:]
    try:
        known = check_spacing(volume.metadata.get("pixel_size"), "YX")
    except InputError:
        return None
    return None if known is None else known[1:]
