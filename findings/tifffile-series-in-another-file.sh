#!/usr/bin/env bash
# tifffile 2026.3.3: planes of an OME-TIFF set that lie in one block of another file are read from the file that is open.
#
# An OME-TIFF set may have its second image in a second file. TiffFile.series finds the pages of that image, and where
# they follow one another without compression, TiffPageSeries.dataoffset is their place in the second file.
# TiffFile.asarray(series=1), however, reads at that place in the file that was opened: the image has the first one's
# pixels, bytes that are no pixels, or an error that the file is too short. Nothing is warned of. With a key,
# asarray(key=slice(None), series=1), the pages are read one by one from their own file, and right.
#
# Seen as well: a page that is stored otherwise than the first of its series (compression, strips) is decoded by the
# directory of the first (TiffFrame), since a file is taken for uniform by its pages 0, 1, 7 and the last alone.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet tifffile==2026.3.3 numpy==2.4.6
cd "$work"
"$work/env/bin/python" - <<'PYTHON'
import logging

import numpy as np
import tifffile

assert tifffile.__version__ == "2026.3.3"
logging.disable(logging.CRITICAL)  # the standard library's module
data = np.random.default_rng(0).integers(0, 999, (2, 6, 20, 24)).astype(np.uint16)
images = "".join(
    f'<Image ID="Image:{k}"><Pixels ID="Pixels:{k}" DimensionOrder="XYZCT" Type="uint16" SizeX="24" SizeY="20" SizeZ="6" '
    f'SizeC="1" SizeT="1"><TiffData IFD="0" PlaneCount="6"><UUID FileName="{k}.ome.tif">urn:uuid:{k}</UUID></TiffData>'
    "</Pixels></Image>"
    for k in range(2)
)
for k in range(2):
    schema = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
    xml = f'<OME xmlns="{schema}" UUID="urn:uuid:{k}">{images}</OME>'
    tifffile.imwrite(f"{k}.ome.tif", data[k], description=xml, metadata=None, photometric="minisblack")
with tifffile.TiffFile("0.ome.tif") as tif:
    whole, pages = tif.asarray(series=1), tif.asarray(key=slice(None), series=1)
print("one call:", "first image's pixels" if (whole == data[0]).all() else "other", "| page by page right:", (pages == data[1]).all())
assert (whole == data[0]).all() and (pages == data[1]).all()

plain = {"photometric": "minisblack", "metadata": None, "contiguous": False}
with tifffile.TiffWriter("mixed.tif") as writer:
    for z in range(9):
        writer.write(data[0, z % 6], compression="zlib" if z == 3 else None, **plain)
found = tifffile.imread("mixed.tif")
print("planes:", found.shape, "largest number of plane 3:", found[3].max(), "of", data[0, 3].max())
assert found.shape[0] == 9 and not (found[3] == data[0, 3]).all()
PYTHON
