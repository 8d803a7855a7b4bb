"""Volumes as arrays with names and coordinates, of xarray. xarray is imported when one is made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorcell.errors import InputError

if TYPE_CHECKING:
    from tensorcell.volume import Volume


def to_xarray(volume: Volume, dims: Sequence[str] | None) -> Any:
    """See `tensorcell.Volume.to_xarray`."""
    try:
        import xarray
    except ImportError:
        raise InputError('to_xarray needs xarray; pip install "tensorcell[xarray]" installs it') from None
    names = tuple(volume.axes.lower() if dims is None else dims)
    if len(names) != volume.ndim or len(set(names)) != len(names):
        raise InputError(f"expected {volume.ndim} different names as dims, for the axes {volume.axes}, got {dims!r}")
    data = volume.data
    if volume.mask is not None:
        kind = np.result_type(data.dtype, np.float32)
        data = np.where(volume.mask, data, kind.type(np.nan))
    metadata = dict(volume.metadata)
    coordinates = {
        name: coordinate for letter, name in zip(volume.axes, names, strict=True)
        if (coordinate := _coordinate(volume, letter, name, metadata)) is not None
    }  # fmt: skip
    return xarray.DataArray(data, coordinates, names, attrs=metadata)


def _coordinate(volume: Volume, letter: str, name: str, metadata: dict[str, Any]) -> Any:
    """A coordinate as xarray takes it; what it states is taken out of the metadata. None where nothing is known."""
    size = volume.shape[volume.axes.index(letter)]
    if letter in "ZYX" and volume.spacing is not None:
        return name, np.arange(size) * volume.spacing["ZYX".index(letter)], {"units": "um"}
    if letter == "T" and isinstance(metadata.get("time_interval"), int | float):
        return name, np.arange(size) * metadata.pop("time_interval"), {"units": "s"}
    if letter == "C" and isinstance(metadata.get("channel_names"), list | tuple):
        names = metadata["channel_names"]
        if len(names) == size:
            return name, [str(each) for each in metadata.pop("channel_names")]
    return None
