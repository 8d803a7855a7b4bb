"""The metadata of OME-Zarr (OME-NGFF 0.1 to 0.5): axes, the levels of an image and where their voxels lie.

Only JSON is dealt with here, no arrays. The rules are those of the specifications at ngff.openmicroscopy.org: the
transformations of a level are applied first, then those that all levels share; an axis without a unit has none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from tensorcell.errors import InputError
from tensorcell.files.units import Spacing, finite, length, micrometres, seconds_of, voxel_size

OLD_AXES = ("t", "c", "z", "y", "x")
"""The axes of NGFF 0.1 and 0.2, which do not name them."""

WORDS = {"depth": "Z", "height": "Y", "width": "X", "time": "T", "frame": "T", "channel": "C"}
"""Axes by longer names that programs give them; of others the first letter counts."""

KINDS = {"T": "time", "C": "channel"}
"""Types of the axes that are not of space."""

COLOURS = ("FFFFFF", "00FF00", "FF00FF", "00FFFF", "FFFF00", "0000FF", "FF0000")
"""Colours of channels for viewers, in their order: white for one, then those that can be told from each other."""


class Axis(NamedTuple):
    """An axis as the metadata name it; texts are empty where nothing is said."""

    name: str
    kind: str
    unit: str

    @property
    def letter(self) -> str:
        """The letter of the axis in a `Volume`, as far as one axis can say it."""
        name = self.name.lower()
        by_kind = {kind: letter for letter, kind in KINDS.items()}
        return by_kind.get(self.kind) or WORDS.get(name) or name[:1].upper()


@dataclass(frozen=True)
class Level:
    """One array of an image: the image itself, or a smaller version of it."""

    path: str
    """Relative to the group that holds the metadata."""
    axes: tuple[Axis, ...]
    scale: tuple[float, ...] | None
    """Step along each axis, in its unit; None if the metadata state what is no scale."""
    translation: tuple[float, ...]
    """Centre of the first voxel along each axis."""

    @property
    def letters(self) -> str | None:
        """Names of the axes, or None if they make no axes of a `Volume`."""
        return letters_of([axis.letter for axis in self.axes])


class Place(NamedTuple):
    """Size and place of the voxels of a level."""

    spacing: Spacing | None
    metadata: dict[str, Any]
    """``time_interval``, ``origin`` and, where the step along z is unknown, ``pixel_size``."""
    notes: tuple[str, ...]


def letters_of(letters: Sequence[str]) -> str | None:
    """The names of axes as one text if they are different letters with Y and X among them, else None.

    >>> letters_of(["T", "Y", "X"]), letters_of(["Z", "Z", "X"])
    ('TYX', None)
    """
    text = "".join(letters)
    whole = len(text) == len(letters) == len(set(text)) and all("A" <= letter <= "Z" for letter in text)
    return text if whole and set("YX") <= set(text) else None


def ngff_of(attributes: Mapping[str, Any]) -> Mapping[str, Any]:
    """The NGFF metadata among the attributes of a group: under ``ome`` from version 0.5 on, at the top before."""
    inner = attributes.get("ome")
    return inner if isinstance(inner, Mapping) else attributes


def version_of(ngff: Mapping[str, Any]) -> str:
    """The version of the metadata, or an empty text."""
    several = ngff.get("multiscales") or [{}]
    return str(ngff.get("version") or several[0].get("version") or "")


def levels_of(ngff: Mapping[str, Any]) -> list[Level]:
    """The levels of all multiscales in their order; none where the group is no image.

    Raises
    ------
    InputError
        If the metadata contradict the specification in what is needed here.
    """
    try:
        return [level for one in ngff.get("multiscales") or [] for level in _levels(one)]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"has damaged metadata: {error} in its multiscales") from error


def _levels(multiscale: Mapping[str, Any]) -> Iterator[Level]:
    axes = tuple(_axis(one) for one in multiscale.get("axes", OLD_AXES))
    shared = multiscale.get("coordinateTransformations") or []
    for dataset in multiscale["datasets"]:
        path = str(dataset["path"]).strip("/")
        if not path or ".." in path.split("/"):
            raise ValueError(f"path {dataset['path']!r}")
        own = dataset.get("coordinateTransformations") or []
        scale, translation = _transformed([*own, *shared], len(axes))
        yield Level(path, axes, scale, translation)


def _axis(said: Any) -> Axis:
    """An axis of version 0.4, or its name alone as in 0.3."""
    if isinstance(said, str):
        return Axis(said, "", "")
    return Axis(str(said["name"]), str(said.get("type") or "").lower(), str(said.get("unit") or ""))


def _transformed(steps: Sequence[Mapping[str, Any]], count: int) -> tuple[tuple[float, ...] | None, tuple[float, ...]]:
    """Scale and translation of several transformations, the first one applied first; no scale if one is no number."""
    scale, translation, known = np.ones(count), np.zeros(count), bool(steps)
    for step in steps:
        kind = step["type"]
        if kind == "identity":
            continue
        values = step.get(kind)
        if kind not in ("scale", "translation") or values is None:  # a file of numbers, or a later version's
            known = False
            continue
        numbers = np.array([float(value) for value in values])
        if numbers.shape != (count,):
            raise ValueError(f"{kind} of {numbers.size} numbers for {count} axes")
        if kind == "scale":
            scale, translation = scale * numbers, translation * numbers
        else:
            translation = translation + numbers
    return (tuple(scale.tolist()) if known else None), tuple(translation.tolist())


def place_of(level: Level, letters: str) -> Place:
    """Voxel size, time step and origin of a level whose axes have these letters, in micrometres and seconds."""
    metadata: dict[str, Any] = {}
    axes = dict(zip(letters, level.axes, strict=True))
    if level.scale is None:
        return Place(None, {}, ("The voxel size is unknown: the file states no scale.",))
    scale = dict(zip(letters, level.scale, strict=True))
    first = dict(zip(letters, level.translation, strict=True))
    sizes = {letter: micrometres(axes[letter].unit) for letter in letters}
    steps = {letter: length(scale[letter] * (sizes[letter] or 0), "um") for letter in "ZYX" if letter in letters}
    notes = []
    lacking = [letter for letter, step in steps.items() if step is None]
    if lacking and any(scale[letter] != 1 for letter in lacking):  # all 1 is what states nothing
        said = ", ".join(f"{letter.lower()} {scale[letter]:g} {axes[letter].unit or '(no unit)'}" for letter in lacking)
        notes.append(f"The voxel size is unknown along {', '.join(lacking).lower()}: the file states {said}.")
    spacing = voxel_size([steps.get(letter) for letter in "ZYX"], metadata)
    if not lacking and any(first[letter] for letter in steps):
        metadata["origin"] = [first[letter] * (sizes[letter] or 0) for letter in steps]
    seconds = seconds_of(axes["T"].unit) if "T" in axes else None
    interval = finite(scale.get("T"))
    if seconds is not None and interval is not None and interval > 0:
        metadata["time_interval"] = interval * seconds
    return Place(spacing, metadata, tuple(notes))


def image_metadata(name: str, letters: str, spacing: Spacing | None, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The multiscale metadata of an image without its levels; see `dataset_metadata`."""
    return {"name": name, "axes": [_written_axis(letter, spacing, metadata) for letter in letters], "datasets": []}


def _written_axis(letter: str, spacing: Spacing | None, metadata: Mapping[str, Any]) -> dict[str, str]:
    axis = {"name": letter.lower(), "type": KINDS.get(letter, "space")}
    if letter in "ZYX" and spacing is not None:
        axis["unit"] = "micrometer"
    if letter == "T" and finite(metadata.get("time_interval")):
        axis["unit"] = "second"
    return axis


def dataset_metadata(
    path: str, letters: str, spacing: Spacing | None, metadata: Mapping[str, Any], factors: Mapping[str, int]
) -> dict[str, Any]:
    """The metadata of a level whose voxels are the means of blocks of the given lengths.

    The centre of the first block lies (factor - 1) / 2 voxels behind that of the first voxel.
    """
    steps = dict.fromkeys(letters, 1.0)
    if spacing is not None:
        steps |= {letter: step for letter, step in zip("ZYX", spacing, strict=True) if letter in letters}
    interval = finite(metadata.get("time_interval"))
    if "T" in letters and interval:
        steps["T"] = interval
    first = dict.fromkeys(letters, 0.0)
    space = [letter for letter in "ZYX" if letter in letters]
    origin = metadata.get("origin")
    if spacing is not None and isinstance(origin, list | tuple) and len(origin) == len(space):
        first |= {letter: finite(value) or 0.0 for letter, value in zip(space, origin, strict=True)}
    for letter, factor in factors.items():
        first[letter] += (factor - 1) / 2 * steps[letter]
        steps[letter] *= factor
    transformations = [{"type": "scale", "scale": [steps[letter] for letter in letters]}]
    transformations.append({"type": "translation", "translation": [first[letter] for letter in letters]})
    return {"path": path, "coordinateTransformations": transformations}


def channels_metadata(names: Sequence[str], ranges: Sequence[tuple[float, float]], kept: Any) -> dict[str, Any]:
    """The ``omero`` metadata: names, colours and ranges of the channels; ``kept`` is that of the file read, or None."""
    earlier = kept.get("channels") if isinstance(kept, Mapping) else None
    if not isinstance(earlier, list) or len(earlier) != len(names) or not all(isinstance(one, dict) for one in earlier):
        kept, earlier = {}, [{} for _ in names]
    colours = COLOURS if len(names) == 1 else COLOURS[1:]
    channels = []
    for number, (name, (low, high), one) in enumerate(zip(names, ranges, earlier, strict=True)):
        window = {"min": low, "max": high, "start": low, "end": high}
        made = {"color": colours[number % len(colours)], "active": True, "window": window}
        channels.append({**made, **one, "label": name})
    return {**kept, "channels": channels}
