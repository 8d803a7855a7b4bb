"""Notes inside files: one line of JSON with what a format has no place for."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sized
from typing import Any

import numpy as np

from tensorcell.files.units import Spacing
from tensorcell.volume import Volume
from tensorcell.volume_parts import COUNTED

NOTES_KEY = "tensorcell"


def plain_metadata(volume: Volume) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The metadata that JSON can hold and that fit the volume, and a name for each other item."""
    metadata, lost = {}, []
    for key, value in volume.metadata.items():
        if key in ("source", "format", "series"):  # `read` sets these anew
            continue
        if key in COUNTED and key != "channel_names" and not _fits(value, volume, COUNTED[key]):
            lost.append(f"metadata {key!r}")
            continue
        try:
            metadata[str(key)] = json.loads(json.dumps(value, default=_plain))
        except (TypeError, ValueError):
            lost.append(f"metadata {key!r}")
    return metadata, tuple(lost)


def notes_of(volume: Volume) -> tuple[str, tuple[str, ...]]:
    """Axes, shape, voxel size and metadata as one line of ASCII, and a name for each item that JSON cannot hold."""
    metadata, lost = plain_metadata(volume)
    notes = {"axes": volume.axes, "shape": volume.shape, "spacing": volume.spacing, "metadata": metadata}
    return json.dumps(notes), lost


def apply_notes(
    shape: tuple[int, ...], axes: str, spacing: Spacing | None, text: Any
) -> tuple[str, Spacing | None, dict[str, Any]]:
    """Axes, voxel size and metadata as they were written, as far as they still agree with the file.

    The axes are those of the file in the order to which `arrange` is to bring them, some of length 1 beside them.
    Another program may have cropped, reordered or calibrated the file since: then the file counts, not the notes.
    """
    try:
        notes = json.loads(text)
        before = dict(zip(notes["axes"], notes["shape"], strict=True))
        noted, metadata = notes["spacing"], dict(notes["metadata"])
    except (KeyError, TypeError, ValueError):
        return axes, spacing, {}
    now = dict(zip(axes, shape, strict=True))
    if not set(now) <= set(before) or any(size != now.get(letter, 1) for letter, size in before.items()):
        return axes, spacing, {}
    if noted is not None and (spacing is None or np.allclose(noted, spacing, rtol=1e-4, atol=0)):
        spacing = (float(noted[0]), float(noted[1]), float(noted[2]))
    return notes["axes"], spacing, metadata


def add_note(metadata: dict[str, Any], note: str) -> None:
    """Add a sentence to what the metadata say about the file."""
    metadata["notes"] = [*metadata.get("notes", ()), note]


def text_of(value: Any) -> str | None:
    """The text of an attribute, however it is stored, or None if the attribute holds no text."""
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    return value if isinstance(value, str) else None


def json_object(value: Any) -> dict[str, Any]:
    """The JSON object in a text attribute; an empty one if the attribute holds none."""
    try:
        parsed = json.loads(text_of(value) or "{}")
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _fits(value: Any, volume: Volume, axes: str) -> bool:
    """Whether a list, or each list of a mapping, has an entry for each index along the axes."""
    sizes = dict(zip(volume.axes, volume.shape, strict=True))
    count = math.prod(sizes.get(letter, 1) for letter in axes)
    lists = value.values() if isinstance(value, Mapping) else [value]
    return all(isinstance(one, Sized) and len(one) == count for one in lists)


def _plain(value: Any) -> Any:
    """NumPy numbers and small arrays as JSON has them."""
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.size <= 1000):
        return value.tolist()
    raise TypeError
