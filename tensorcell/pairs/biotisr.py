"""Read the MRC files of the BioTISR data set: time frames of stacks, of structured illumination microscopy."""

from __future__ import annotations

import dataclasses

import numpy as np

from tensorcell.arguments import whole_number
from tensorcell.errors import InputError
from tensorcell.files import read
from tensorcell.files.formats import FilePath
from tensorcell.files.messages import naming
from tensorcell.volume import Volume


def read_biotisr(path: FilePath, *, frames: int = 10, patterns: int = 1) -> Volume:
    """Read an MRC file whose sections are time frames, one after the other, of the planes of a stack.

    Section ``(t k + z) patterns + p`` is pattern ``p`` of plane ``z`` of frame ``t``, with ``k`` planes.

    Parameters
    ----------
    path : path
        An MRC file; `tensorcell.files.read_mrc` says which.
    frames : int
        Number of time frames.
    patterns : int
        Number of illumination patterns of each plane, which are averaged to its widefield image. It is 1 for
        reconstructed volumes; of raw images it is the number of phases times that of orientations.

    Returns
    -------
    Volume
        Axes ``TZYX``, with the data type of the file, or float32 where patterns were averaged.

    Raises
    ------
    InputError
        In one line that starts with the path, if the file cannot be read (as for `tensorcell.read`), if its sections
        are no multiple of ``frames * patterns``, or if its header states another number of frames.

    Notes
    -----
    The paper on MicroDiffuse3D rearranges a file of ``(H, W, 10 k)`` into ``(10, k, H, W)``. The published code of the
    laboratory that made BioTISR takes the header as Priism's, which states the number of frames.
    """
    frames, patterns = whole_number("frames", frames), whole_number("patterns", patterns)
    volume = read(path)
    with naming(path):
        if volume.axes not in ("ZYX", "TZYX"):
            raise InputError(f"has axes {volume.axes}, expected ZYX or TZYX")
        if volume.axes == "TZYX" and volume.shape[0] != frames:
            raise InputError(f"states {volume.shape[0]} frames in its header, expected {frames} (frames=)")
        sections = int(np.prod(volume.shape[:-2]))
        if sections % (frames * patterns):
            expected = f"{frames} frames" + (f" of {patterns} patterns" if patterns > 1 else "")
            raise InputError(f"holds {sections} sections, expected a multiple of {expected}")
    data = volume.data.reshape(frames, sections // (frames * patterns), patterns, *volume.shape[-2:])
    data = data[:, :, 0] if patterns == 1 else data.mean(2, dtype=np.float32)
    return dataclasses.replace(volume, data=data, axes="TZYX")
