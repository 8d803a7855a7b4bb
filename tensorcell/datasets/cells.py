"""`simulate_cells`: a cluster of cells with stained membranes and nuclei, imaged by a confocal microscope."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tensorcell.datasets.checks import check_number, checked_sides, entries
from tensorcell.datasets.detection import MOST_PHOTONS, check_degradation, degrade
from tensorcell.datasets.optics import blur, checked_psf
from tensorcell.datasets.specimen import draw_specimen


@dataclass(frozen=True)
class SimulatedCells:
    """Simulated cells: the truth and a measurement of it.

    Attributes
    ----------
    truth
        float32, ZYX: the noise-free blurred image, in the unit of ``measured``. It ends at the last measured plane.
    measured
        float32, ZYX: the measured planes with noise; pixels that were not measured hold NaN.
    mask, outliers
        bool, shape of ``measured``: True = measured, True = replaced by an outlier.
    labels
        int32, shape of ``truth``: the cell (1, 2, ...) that a voxel belongs to, 0 outside of all cells.
    spacing, truth_spacing
        Voxel sizes (z, y, x) of ``measured`` and of ``truth``, in micrometres.
    """

    truth: npt.NDArray[np.float32]
    measured: npt.NDArray[np.float32]
    mask: npt.NDArray[np.bool_]
    outliers: npt.NDArray[np.bool_]
    labels: npt.NDArray[np.int32]
    spacing: tuple[float, float, float]
    truth_spacing: tuple[float, float, float]


def simulate_cells(
    shape: Sequence[int] = (48, 128, 128),
    *,
    spacing: Sequence[float] = (0.5, 0.2, 0.2),
    cells: int = 40,
    psf: bool | Sequence[float] = True,
    peak_photons: float = 100.0,
    shot_noise: bool = True,
    read_noise: float = 1.0,
    background: float = 2.0,
    gain: float = 1.0,
    offset: float = 0.0,
    axial_factor: int = 1,
    keep_pixels: float = 1.0,
    outliers: float = 0.0,
    seed: int = 0,
) -> SimulatedCells:
    """Simulate a cluster of cells with stained membranes and nuclei, imaged by a confocal microscope.

    The cells are a relaxed, weighted Voronoi tessellation (a power diagram of balls) that a smooth random field bends.
    They hold textured nuclei with dark nucleoli and faint cytoplasm, and the light falls with depth. The image is
    blurred by a Gaussian PSF, scaled to photons, and measured by `degrade`. A count of photons ``p`` becomes the
    intensity ``gain p + offset`` in both truth and measurement.

    Parameters
    ----------
    shape
        Number of voxels (z, y, x).
    spacing
        Voxel size (z, y, x) in micrometres. Everything is drawn in micrometres: other voxel sizes show the same cells
        where the extent ``shape * spacing`` and the seed are the same.
    cells
        Number of cells, at most that of voxels. The cells fill the volume, so their number sets their size (by default
        about 7 micrometres).
    psf
        Full widths at half maximum (axial, lateral) of the PSF in micrometres. True: a confocal microscope with NA 1.0
        in water at 520 nm, (1.01, 0.27). False or (0, 0): none. A blur with a standard deviation of half a voxel always
        remains.
    peak_photons
        Photons of the brightest voxel, without the background.
    shot_noise
        False: there is no Poisson noise.
    read_noise
        Standard deviation of the Gaussian noise, in photons.
    background
        Photons that are added to every voxel.
    gain, offset
        Intensity of one photon, and intensity without any light.
    axial_factor, keep_pixels, outliers
        As for `degrade`. They and the noise change nothing in the truth but the plane at which it ends.
    seed
        Sets the cells and the measurement.

    Returns
    -------
    SimulatedCells

    Raises
    ------
    InputError
        If a parameter is out of its range.

    Notes
    -----
    Time and memory are linear in the number of voxels (about a second per million).
    Membranes thinner than a voxel are rendered with a blur of half a voxel, so that they do not alias; the PSF that is
    applied afterwards is narrower by as much.

    Examples
    --------
    >>> cells = simulate_cells((9, 32, 32), cells=4, axial_factor=2, seed=3)
    >>> cells.truth.shape, cells.measured.shape, cells.spacing
    ((9, 32, 32), (5, 32, 32), (1.0, 0.2, 0.2))
    """
    shape, spacing = checked_grid(shape, spacing)
    fwhm = checked_psf(psf, spacing)
    check_number("cells", cells, lowest=1, highest=math.prod(shape), whole=True)
    check_number("peak_photons", peak_photons, above=0, highest=MOST_PHOTONS)
    check_number("background", background, lowest=0, highest=MOST_PHOTONS)
    check_number("gain", gain, above=0)
    check_number("offset", offset)
    check_degradation(axial_factor, keep_pixels, outliers, read_noise)

    specimen, labels = draw_specimen(shape, spacing, int(cells), seed)
    photons = blur(specimen, spacing, fwhm)
    photons *= peak_photons / photons.max()
    photons += background
    detected = degrade(
        photons,
        axial_factor=axial_factor,
        keep_pixels=keep_pixels,
        outliers=outliers,
        peak_photons=float(photons.max()) if shot_noise else None,
        read_noise=read_noise,
        seed=seed,
    )
    planes = (shape[0] - 1) // axial_factor * axial_factor + 1
    return SimulatedCells(
        truth=gain * photons[:planes] + np.float32(offset),
        measured=gain * detected.measured + np.float32(offset),
        mask=detected.mask,
        outliers=detected.outliers,
        labels=labels[:planes],
        spacing=(spacing[0] * axial_factor, spacing[1], spacing[2]),
        truth_spacing=spacing,
    )


def checked_grid(
    shape: Sequence[int], spacing: Sequence[float]
) -> tuple[tuple[int, int, int], tuple[float, float, float]]:
    """Voxels and voxel size along z, y and x as integers and floats."""
    nz, ny, nx = checked_sides(entries("shape", shape, 3, "z, y, x"))
    sizes = entries("spacing", spacing, 3, "z, y, x in micrometres")
    for size in sizes:
        check_number("a voxel size in spacing", size, above=0)
    dz, dy, dx = (float(size) for size in sizes)
    return (nz, ny, nx), (dz, dy, dx)
