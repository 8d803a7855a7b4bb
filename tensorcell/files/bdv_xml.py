"""What the XML beside a BigDataViewer file says: setups, frames, voxel sizes and transformations."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np

from tensorcell.errors import InputError
from tensorcell.files.messages import reason
from tensorcell.files.units import finite

MOST_FRAMES = 10**6
"""A range of more frames than this is not understood."""


class Setup(NamedTuple):
    """A combination of channel, angle, tile and illumination."""

    name: str
    size: tuple[int, ...] | None
    """Planes, rows and columns."""
    unit: str
    steps: tuple[float, ...]
    """Voxel size along z, y and x in that unit; empty if it is not said."""
    channel: str
    """Name of the channel; empty if there is none."""
    place: tuple[tuple[str, str], ...]
    """All that distinguishes it from other setups, its channel excepted."""


class Description(NamedTuple):
    """What the XML says."""

    setups: dict[int, Setup]
    frames: tuple[int, ...] | None
    """Numbers of the frames, less those of which a view is said to be missing; None if they are not understood."""
    affines: dict[tuple[int, int], np.ndarray]
    """Transformations (3, 4) of x, y, z by frame and setup."""


NOTHING = Description({}, None, {})


def read_description(file: Path) -> Description:
    """The XML of the same name beside an HDF5 file; `NOTHING` if there is none that names that file."""
    xml = file.with_suffix(".xml")
    if not xml.is_file():
        return NOTHING
    try:
        root = parsed(xml)
        named = image_file(xml, root)
    except InputError:  # an XML of the same name may be anything
        return NOTHING
    return description(root) if named.resolve() == file.resolve() else NOTHING


def parsed(xml: Path) -> ElementTree.Element:
    """The tree of a BigDataViewer XML."""
    try:
        root = ElementTree.parse(xml).getroot()
    except (ElementTree.ParseError, UnicodeError) as error:
        raise InputError(f"is no XML, or it is damaged: {reason(error)}") from error
    if root.tag != "SpimData" or root.find("SequenceDescription/ImageLoader") is None:
        raise InputError(f"is no XML of BigDataViewer, it is <{root.tag}>")
    return root


def image_file(xml: Path, root: ElementTree.Element) -> Path:
    """The HDF5 file that a BigDataViewer XML names."""
    loader = root.find("SequenceDescription/ImageLoader")
    kind, file = (None, None) if loader is None else (loader.get("format"), loader.findtext("hdf5"))
    if kind != "bdv.hdf5" or not file:
        raise InputError(f"names images of format {kind!r}, expected 'bdv.hdf5'")
    return xml.parent / (root.findtext("BasePath") or ".").strip() / file.strip()


def description(root: ElementTree.Element) -> Description:
    """What a BigDataViewer XML says about the images."""
    return Description(_setups(root), _frames(root), _affines(root))


def _setups(root: ElementTree.Element) -> dict[int, Setup]:
    """The setups by their numbers."""
    top = root.find("SequenceDescription/ViewSetups")
    if top is None:
        return {}
    channels = {
        each.findtext("id", "").strip(): each.findtext("name", "").strip()
        for each in top.iterfind("Attributes[@name='channel']/Channel")
    }
    setups = {}
    for each in top.iterfind("ViewSetup"):
        number = _integer(each.findtext("id"))
        if number is None:
            continue
        place = {part.tag: (part.text or "").strip() for part in each.iterfind("attributes/*")}
        channel = place.pop("channel", "")
        setups[number] = Setup(
            name=each.findtext("name", "").strip(),
            size=tuple(map(int, _numbers(each.findtext("size"))[::-1])) or None,  # stored as x, y, z
            unit=each.findtext("voxelSize/unit", "").strip(),
            steps=_numbers(each.findtext("voxelSize/size"))[::-1],
            channel=channels.get(channel, ""),
            place=tuple(sorted(place.items())),
        )
    return setups


def _frames(root: ElementTree.Element) -> tuple[int, ...] | None:
    """The frames that have all their views."""
    times = root.find("SequenceDescription/Timepoints")
    if times is None or times.get("type") != "range":
        return None
    first, last = _integer(times.findtext("first")), _integer(times.findtext("last"))
    if first is None or last is None or last - first > MOST_FRAMES:
        return None
    gaps = root.iterfind("SequenceDescription/MissingViews/MissingView")
    missing = {_integer(gap.get("timepoint")) for gap in gaps}
    return tuple(frame for frame in range(first, last + 1) if frame not in missing)


def _affines(root: ElementTree.Element) -> dict[tuple[int, int], np.ndarray]:
    """The transformations of all views; of several for one view the last is applied first."""
    found = {}
    for view in root.iterfind("ViewRegistrations/ViewRegistration"):
        frame, setup = _integer(view.get("timepoint")), _integer(view.get("setup"))
        whole = np.eye(4)
        for each in view.iterfind("ViewTransform/affine"):
            numbers = _numbers(each.text)
            if len(numbers) != 12:
                break
            whole = whole @ np.vstack([np.reshape(numbers, (3, 4)), [0, 0, 0, 1]])
        else:
            if frame is not None and setup is not None:
                found[frame, setup] = whole[:3]
    return found


def _integer(text: str | None) -> int | None:
    try:
        return int(text or "")
    except ValueError:
        return None


def _numbers(text: str | None) -> tuple[float, ...]:
    """Numbers that spaces separate; empty if there are other words among them."""
    numbers = [finite(word) for word in (text or "").split()]
    return tuple(number for number in numbers if number is not None) if None not in numbers else ()
