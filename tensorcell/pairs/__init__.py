"""Pairs of low- and high-resolution stacks: registration, regions for training and test, cubes, and BioTISR's files.

=================  ================================================================================================
`registration`     :func:`register`: where one stack lies in the other, and both cut to their common region
`features`         rotation and scale from SIFT and RANSAC
`search`           the shift in whole voxels, from the correlation of what overlaps
`refinement`       sub-voxel refinement by Gauss-Newton steps
`prediction`       what the high stack predicts for the voxels of the low stack
`placement`        how the voxels of the two stacks correspond
`common`           the common region
`cubes`            :func:`split_regions` and :func:`cubes_of`
`biotisr`          :func:`read_biotisr`
=================  ================================================================================================
"""

from tensorcell.pairs.biotisr import read_biotisr
from tensorcell.pairs.cubes import Cubes, Regions, cubes_of, split_regions
from tensorcell.pairs.registration import Registered, register

__all__ = ["Cubes", "Regions", "Registered", "cubes_of", "read_biotisr", "register", "split_regions"]
