"""Write MRC files: one stack with an MRC2014 header, as mrcfile writes it."""

from __future__ import annotations

import warnings
from pathlib import Path

from tensorcell.files.formats import Stored
from tensorcell.files.layout import arrange
from tensorcell.files.mrc_read import mrcfile_library
from tensorcell.volume import Volume

DTYPES = ("int8", "int16", "uint16", "float32")
"""Those that a mode of MRC2014 has; mrcfile turns unsigned bytes into 16 bits, and its sums of float16 overflow."""

AXES = "ZYX"

ANGSTROM = 1e4
"""Angstrom in a micrometre."""


def write_mrc(part: Path, volume: Volume, _dataset: str | None, _compress: bool) -> Stored:
    """Write the stack as a volume (space group 1), which has a step along z; the voxel size is rounded to 32 bits."""
    with warnings.catch_warnings(), mrcfile_library().new(part) as file:
        warnings.simplefilter("ignore")  # of NaN, which is not measured
        file.set_data(arrange(volume.data, volume.axes, AXES))
        file.set_volume()  # before the voxel size, which mrcfile changes with this; a plane would be an image stack
        if volume.spacing is not None:
            file.voxel_size = tuple(ANGSTROM * step for step in volume.spacing[::-1])
    lost = [] if volume.axes == AXES else ["axes"]
    lost += ["mask"] if volume.mask is not None else []
    lost += ["metadata"] if any(key not in ("source", "format") for key in volume.metadata) else []
    return Stored("MRC", tuple(lost))
