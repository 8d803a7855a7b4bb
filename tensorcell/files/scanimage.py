"""How many channels, planes and frames a ScanImage file has: its pages are a plain sequence, channels fastest."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from tensorcell.errors import InputError

LINE = re.compile(r"^\s*(?:(?:scanimage\.)?SI\w*\.|state\.)(\w[\w.()]*)\s*=\s*(.*?)\s*$")
"""A line of a header: ``SI.hChannels.channelSave = [1;2]``, ``scanimage.SI4.channelsSave = 1``, ``state.acq.x=2``."""

SAVED = ("hChannels.channelSave", "channelsSave", "channelSave")
"""Names of the list of saved channels, in the versions from 4 on."""

COUNTS = {
    "slices": ("hStackManager.actualNumSlices", "hStackManager.numSlices", "stackNumSlices", "acq.numberOfZSlices"),
    "frames": ("hStackManager.framesPerSlice", "acqNumFrames", "acq.numberOfFrames"),
    "averaged": ("hScan2D.logAverageFactor", "acqNumAveragedFrames", "loggingAverageFactor"),
    "volumes": ("hStackManager.actualNumVolumes", "hStackManager.numVolumes", "hFastZ.numVolumes", "fastZNumVolumes"),
}
"""Names of each count, newest first."""

STEPS = ("hStackManager.actualStackZStepSize", "hStackManager.stackZStepSize", "stackZStepSize", "acq.zStepSize")
"""Names of the distance of the planes in micrometres."""


def header_of(text: str) -> dict[str, str]:
    """The items of a ScanImage header, without the prefix that differs between versions.

    >>> header_of("state.acq.numberOfZSlices=6\\rstate.acq.zStepSize=2\\r")
    {'acq.numberOfZSlices': '6', 'acq.zStepSize': '2'}
    """
    found = (LINE.match(line) for line in text.splitlines())
    return {match[1]: match[2] for match in found if match}


def axes_of_pages(header: Mapping[str, str], pages: int) -> tuple[str, tuple[int, ...]]:
    """Names and lengths of the axes along which the pages lie, the last one fastest.

    Repeated frames of a plane are T in a single stack, and R where there are several stacks.

    >>> header = {"hChannels.channelSave": "[1;2]", "hStackManager.numSlices": "5", "hStackManager.numVolumes": "3"}
    >>> axes_of_pages(header, 30)
    ('TZC', (3, 5, 2))

    Raises
    ------
    InputError
        If the number of pages does not fit the header, or if it does not say how many channels there are.
    """
    channels = channels_of(header)
    count = {name: _count(header, names) for name, names in COUNTS.items()}
    slices, volumes = count["slices"] or 1, count["volumes"] or 1
    frames = count["frames"] or (None if any(_is_endless(header.get(name)) for name in COUNTS["frames"]) else 1)
    if frames is not None:
        frames = 1 if _is_on(header.get("acq.averaging")) else max(1, frames // (count["averaged"] or 1))
    said = (
        f"has {pages} pages, its ScanImage header says {channels or 'an unknown number of'} channels, {slices} slices, "
        f"{frames or 'endless'} frames, {volumes} volumes"
    )
    if channels is None or pages % channels:
        raise InputError(said)
    rest = pages // channels
    if slices == 1:
        volumes, frames = 1, rest
    elif frames is None or rest % (slices * frames):
        raise InputError(said)
    else:
        volumes = rest // (slices * frames)  # those that a stopped run got to
    lengths = {"T": volumes, "Z": slices, "R": frames, "C": channels}
    if volumes == 1:
        lengths = {"Z": slices, "T": frames, "C": channels}
    found = {letter: length for letter, length in lengths.items() if length > 1}
    return "".join(found), tuple(found.values())


def channels_of(header: Mapping[str, str]) -> int | None:
    """The number of channels that were saved; None if the header does not say it.

    >>> channels_of({"hChannels.channelSave": "[1;3]"}), channels_of({"acq.numberOfChannelsAcquire": "2"})
    (2, 2)
    """
    for name in SAVED:
        if name in header:
            return len(re.findall(r"\d+", header[name])) or None
    flags = [value for name, value in header.items() if re.fullmatch(r"acq\.savingChannel\d+", name)]
    return sum(map(_is_on, flags)) or _count(header, ("acq.numberOfChannelsSave", "acq.numberOfChannelsAcquire"))


def plane_step(header: Mapping[str, str]) -> float | None:
    """The distance of the planes in micrometres, or None."""
    for name in STEPS:
        try:
            step = abs(float(header[name]))
        except (KeyError, ValueError):
            continue
        if math.isfinite(step) and step > 0:
            return step
    return None


def _count(header: Mapping[str, str], names: tuple[str, ...]) -> int | None:
    """The first of these counts that is a positive number; endless ones are none."""
    for name in names:
        try:
            number = float(header[name])
        except (KeyError, ValueError):
            continue
        if math.isfinite(number) and number >= 1:
            return int(number)
    return None


def _is_on(value: str | None) -> bool:
    return str(value).strip().lower() in ("1", "true")


def _is_endless(value: str | None) -> bool:
    return str(value).strip().lower() == "inf"
