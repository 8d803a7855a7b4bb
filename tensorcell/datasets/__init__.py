"""Simulated cells and planted tensors with known truth, reproducible from a seed.

Lengths are in micrometres. A mask is True where a voxel was measured, and voxels that were not measured hold NaN. The
same seed gives the same numbers.

=================  ================================================================================================
`cells`            :func:`simulate_cells`: cells with stained membranes and nuclei, as a confocal microscope images them
`cell_shapes`      centres and sizes of the cells, their nuclei and nucleoli
`smooth_fields`    smooth random fields, which bend the cells and give them texture
`dye`              concentration of the dye in membranes, cytoplasm and nuclei
`specimen`         dye and labels at every voxel
`optics`           the point spread function (PSF) of the microscope
`detection`        :func:`degrade`: dropped planes and pixels, shot noise, read noise and outliers, for any volume
`planted`          :func:`planted_tucker`: a random tensor of low rank with missing entries and outliers
`checks`           what a valid argument is
`streams`          random streams that do not overlap
`slabs`            parts of a volume that are computed one at a time
=================  ================================================================================================
"""

from tensorcell.datasets.cells import SimulatedCells, simulate_cells
from tensorcell.datasets.detection import Degraded, degrade
from tensorcell.datasets.optics import CONFOCAL_PSF
from tensorcell.datasets.planted import PlantedTensor, planted_tucker

__all__ = [
    "CONFOCAL_PSF",
    "Degraded",
    "PlantedTensor",
    "SimulatedCells",
    "degrade",
    "planted_tucker",
    "simulate_cells",
]
