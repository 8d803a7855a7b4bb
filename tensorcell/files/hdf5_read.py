"""Read HDF5 files: those of tensorcell, plantseg and ilastik, and any whose dimensions are labelled."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorcell.errors import InputError
from tensorcell.files.formats import Wanted
from tensorcell.files.layout import native
from tensorcell.files.notes import json_object, text_of
from tensorcell.files.units import Spacing
from tensorcell.volume import Volume, guess_axes

if TYPE_CHECKING:
    import h5py


def read_hdf5(path: Path, wanted: Wanted) -> Volume:
    """Read the dataset of that name, or the only one that can be a volume, and its mask if there is one."""
    import h5py

    if not h5py.is_hdf5(path):
        raise InputError("is no HDF5 file, or its beginning is damaged")
    with h5py.File(path, "r") as file:
        stored = _choose_dataset(file, wanted.dataset)
        _check_written(stored)
        attributes = stored.attrs
        mask_name = attributes.get("mask")
        mask = None if mask_name is None or mask_name not in file else file[mask_name][()].astype(bool)
        names = wanted.axes or _axes(stored)
        data = native(stored[()])
        spacing = _spacing(attributes.get("element_size_um"), names)
        metadata = json_object(attributes.get("metadata"))
    metadata["format"] = "HDF5"
    return Volume(data, names or guess_axes(data), spacing, mask, metadata)


def _choose_dataset(file: h5py.File, name: str | None) -> h5py.Dataset:
    """The dataset called ``name``, or the only one in the file or group that can be a volume."""
    import h5py

    start = file if name is None else file.get(name)
    if isinstance(start, h5py.Dataset):
        return start
    found: dict[str, h5py.Dataset] = {}

    def visit(_: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim >= 2 and item.dtype.kind in "buif":
            found[item.name] = item

    (file if start is None else start).visititems(visit)
    if any(item.ndim > 2 for item in found.values()):  # what has two axes beside a volume belongs to it
        found = {key: item for key, item in found.items() if item.ndim > 2}
    masks = {text_of(item.attrs.get("mask")) for item in found.values()}
    listed = [key for key in found if key not in masks]
    names = ", ".join(f"{key} {found[key].shape}" for key in listed[:8]) + (", ..." if len(listed) > 8 else "")
    if start is None:
        raise InputError(f"has no dataset {name!r}, it has {names or 'none that can be a volume'}")
    if not listed:
        raise InputError("has no dataset of two or more axes, expected a volume")
    if len(listed) > 1:
        raise InputError(f"has {len(listed)} volumes, name one with dataset= or after a colon: {names}")
    return found[listed[0]]


def _check_written(stored: h5py.Dataset) -> None:
    """Raise `InputError` if parts of the dataset were never written: they would read as zeros."""
    if stored.size in (None, 0) or stored.is_virtual or stored.external:
        return
    if stored.chunks is not None:
        pairs = zip(stored.shape, stored.chunks, strict=True)
        wanted = math.prod(-(-length // chunk) for length, chunk in pairs)
        missing = wanted - stored.id.get_num_chunks()
        if missing > 0:
            raise InputError(f"is incomplete: {missing} of {wanted} chunks of {stored.name} were never written")
    elif stored.id.get_storage_size() == 0:
        raise InputError(f"is incomplete: {stored.name} was never written")


def _axes(stored: h5py.Dataset) -> str | None:
    """Axes from our ``axes`` attribute, ilastik's ``axistags`` or HDF5's dimension labels."""
    own = text_of(stored.attrs.get("axes"))
    tags = json_object(stored.attrs.get("axistags")).get("axes")
    keys = [str(tag.get("key", "")) for tag in tags if isinstance(tag, dict)] if isinstance(tags, list) else []
    words = {"depth": "Z", "height": "Y", "width": "X"}
    labels = [words.get(dim.label.lower(), dim.label[:1]) for dim in stored.dims]
    for candidate in (own, "".join(keys), "".join(labels)):
        named = (candidate or "").upper()
        if len(named) == stored.ndim and set("YX") <= set(named) and len(set(named)) == len(named):
            return named
    return None


def _spacing(value: Any, axes: str | None) -> Spacing | None:
    """``element_size_um``, as (dz, dy, dx) or with one entry per axis, if it holds positive numbers."""
    try:
        steps = [float(step) for step in np.ravel(value)]
    except (TypeError, ValueError):
        return None
    if axes is not None and len(steps) == len(axes) and (len(axes) > 3 or "Z" not in axes):
        steps = [steps[axes.index(letter)] for letter in ("ZYX" if "Z" in axes else "YYX")]
    if len(steps) != 3 or not all(math.isfinite(step) and step > 0 for step in steps):
        return None
    return steps[0], steps[1], steps[2]
