#!/usr/bin/env bash
# bioio 3.6.0 with bioio-ome-tiff 1.4.0: pixel sizes keep the numbers of the file and lose the units, one by one.
#
# OME-XML states a unit for each axis, and a file may give z in micrometres and y and x in nanometres. One would guess
# that BioImage.physical_pixel_sizes are in one unit, since nothing beside them names any, or that the coordinates of
# xarray_data or dimension_properties tell the units. None of them does: the sizes are the bare numbers, .5, 100, 100,
# the coordinates are 0, 100, 200 without a `units` attribute, and the unit of each dimension is None. A voxel that is
# five times as deep as wide looks two hundred times as wide as deep. Only the OME object itself still holds the units.
#
# Seen: the file holds 0.5 um, 100 nm, 100 nm; physical_pixel_sizes and scale are (0.5, 100.0, 100.0).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet bioio==3.6.0 bioio-base==3.5.0 bioio-ome-tiff==1.4.0 tifffile==2026.3.3
cd "$work"
"$work/env/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version

import numpy as np
import tifffile
from bioio import BioImage

assert (version("bioio"), version("bioio-ome-tiff")) == ("3.6.0", "1.4.0")
tifffile.imwrite(
    "mixed.ome.tif",
    np.zeros((4, 5, 6), np.uint16),
    metadata={
        "axes": "ZYX", "PhysicalSizeZ": 0.5, "PhysicalSizeZUnit": "\u00b5m",
        "PhysicalSizeY": 100, "PhysicalSizeYUnit": "nm", "PhysicalSizeX": 100, "PhysicalSizeXUnit": "nm",
    },
)
image = BioImage("mixed.ome.tif")
pixels = image.ome_metadata.images[0].pixels
units = [unit.value for unit in (pixels.physical_size_z_unit, pixels.physical_size_y_unit, pixels.physical_size_x_unit)]
print("in the file:", units)
assert units == ["\u00b5m", "nm", "nm"]
print(image.physical_pixel_sizes)
assert tuple(image.physical_pixel_sizes) == (0.5, 100.0, 100.0)
assert [getattr(image.scale, axis) for axis in "ZYX"] == [0.5, 100.0, 100.0]
coordinates = {axis: image.xarray_data.coords[axis] for axis in "ZYX"}
for axis, coordinate in coordinates.items():
    print(axis, coordinate.values.tolist(), coordinate.attrs, getattr(image.dimension_properties, axis).unit)
    assert not coordinate.attrs
    assert getattr(image.dimension_properties, axis).unit is None
assert coordinates["X"].values[:3].tolist() == [0.0, 100.0, 200.0]
PYTHON
echo "as described"
