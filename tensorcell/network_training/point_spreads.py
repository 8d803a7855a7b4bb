"""The PSF of an acquisition as a volume: measured (a file), or computed from the optics."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tensorcell.errors import InputError
from tensorcell.files import read
from tensorcell.volume import stacks

if TYPE_CHECKING:
    from tensorcell.diffusion_guidance.microdiffuse3d.point_spread import PointSpread
    from tensorcell.network_training.request import ModelRequest
    from tensorcell.network_training.volumes import Volumes

Doubles = npt.NDArray[np.float64]

LOST = 0.001
"""Share of the light of a measured PSF that may be cut off with its margin."""

NOISE = 3.0
"""What is not above the background by so many standard deviations of its noise is dark: half of the noise of many dark
voxels would be a good part of the light."""

SAME = 1e-3
"""Voxel sizes that differ by less than this share are the same."""

LARGEST = (33, 65, 65)
"""Sizes of a computed PSF, at most."""

MODEL = "vectorial"
"""What can be computed."""


class Measured(NamedTuple):
    """A PSF from a file, on the voxel grid of the volumes."""

    light: Doubles
    """Array ``(d, h, w)`` of odd sizes, in no unit, whose centre of mass lies in its middle voxel."""
    note: str
    """How its voxel size became that of the volumes; empty where it was the same."""


def check_point_spread(request: ModelRequest) -> None:
    """Raise `InputError` where the flags of the PSF contradict each other or cannot be followed."""
    ways = {"--psf": request.psf, "--psf-model": request.psf_model, "--psf-fwhm": request.psf_fwhm}
    given = [name for name, value in ways.items() if value is not None]
    if len(given) > 1:
        raise InputError(f"expected one of --psf, --psf-model and --psf-fwhm, got {' and '.join(given)}")
    if request.widening and given and request.psf_fwhm is None:
        raise InputError(
            f"expected no --widening with {given[0]}, whose PSF is the same at all depths, got {request.widening:g}"
        )
    optics = {"--na": request.na, "--wavelength": request.wavelength, "--refractive-index": request.refractive_index}
    stated = [name for name, value in optics.items() if value is not None]
    if request.psf_model is None:
        if stated:
            raise InputError(f"expected --psf-model {MODEL} with {stated[0]}, got none")
        return
    if request.psf_model != MODEL:
        raise InputError(f"expected --psf-model {MODEL}, got {request.psf_model!r}")
    if len(stated) < len(optics):
        missing = ", ".join(name for name in optics if name not in stated)
        raise InputError(f"expected {missing} for --psf-model {MODEL}, got none")
    check_model(request)


def check_model(request: ModelRequest) -> None:
    """Raise `InputError` where no PSF can be computed of the numbers, or the library for it is missing."""
    try:
        import psf_generator  # noqa: F401
    except ImportError:
        raise InputError('expected psf-generator for --psf-model (pip install "tensorcell[psf]"), found none') from None
    from tensorcell.diffusion_guidance.microdiffuse3d.vectorial import check_optics

    try:
        check_optics(*optics_of(request))
    except ValueError as error:
        raise InputError(str(error)) from None


def optics_of(request: ModelRequest) -> tuple[float, float, float]:
    """Numerical aperture, wavelength in micrometres and refractive index; NaN where one is not stated."""
    aperture, wavelength, index = (
        math.nan if value is None else value for value in (request.na, request.wavelength, request.refractive_index)
    )
    return aperture, wavelength, index


def point_spread_of(request: ModelRequest, volumes: Volumes) -> PointSpread | None:
    """The PSF that the flags state as a volume, or None; a line on stderr says what it is.

    Raises
    ------
    InputError
        If the file holds no PSF of the size of the volumes, or the voxel size that is needed is unknown.
    """
    from tensorcell.diffusion_guidance.microdiffuse3d.point_spread import PointSpread
    from tensorcell.diffusion_guidance.microdiffuse3d.vectorial import vectorial_point_spread

    smallest = [min(sizes) for sizes in zip(*(volume.shape for volume in volumes.high), strict=True)]
    if request.psf is not None:
        measured = measured_point_spread(request.psf, volumes.spacing, smallest)
        found, note = PointSpread.of(measured.light), f" of {request.psf}{measured.note}"
    elif request.psf_model is not None:
        if volumes.spacing is None:
            raise InputError(f"expected volumes that state their voxel size for --psf-model {MODEL}, got none")
        depth, height, width = (min(most, size - 1 + size % 2) for most, size in zip(LARGEST, smallest, strict=True))
        aperture, wavelength, index = optics_of(request)
        found = vectorial_point_spread(
            (depth, height, width), volumes.spacing, numerical_aperture=aperture, wavelength=wavelength,
            refractive_index=index,
        )  # fmt: skip
        note = f", computed for NA {aperture:g}, {wavelength:g} um and the refractive index {index:g},"
    else:
        return None
    if not request.quiet:
        print(f"{request.out}: the PSF{note} has {by(found.shape)} voxels", file=sys.stderr)
    return found


def measured_point_spread(source: str, spacing: Sequence[float] | None, largest: Sequence[int]) -> Measured:
    """A PSF from a file: an image of a bead, or better the mean of many.

    The background (the median of the outermost voxels) is subtracted, and what is not above its noise is cut. The rest
    is centred on its centre of mass and cropped to the least odd sizes that hold 99.9 % of its light. Where the file
    states another voxel size than the volumes, the PSF is interpolated linearly about its centre of mass; otherwise it
    is moved by whole voxels.

    Parameters
    ----------
    source : str
        A file of any format that `tensorcell.files.read` knows, of one stack.
    spacing : three floats or None
        Voxel size of the volumes in micrometres.
    largest : three ints
        Sizes of the smallest volume.

    Raises
    ------
    InputError
        If the file cannot be read, holds several stacks or gaps, nothing in it is brighter than its border, or the PSF
        is larger than the volumes.
    """
    from scipy.ndimage import affine_transform, center_of_mass

    light, own = read_light(source)
    light = without_background(light)
    if not light.any():
        raise InputError(f"{source}: expected a PSF that is brighter than its border, got a flat or a dark one")
    ratios, note = ratios_of(own, spacing)
    centre = np.array(center_of_mass(light))
    if all(ratio == 1 for ratio in ratios):
        centre = np.rint(centre)
    reaches = [math.ceil(reach_of(light, axis, centre[axis]) / ratio) for axis, ratio in enumerate(ratios)]
    sizes = [2 * reach + 1 for reach in reaches]
    if any(size > most for size, most in zip(sizes, largest, strict=True)):
        raise InputError(
            f"{source}: expected a PSF of at most {by(largest)} voxels, the sizes of the smallest volume, got "
            f"{by(sizes)}"
        )
    found = affine_transform(light, ratios, centre - np.array(ratios) * reaches, tuple(sizes), order=1)
    if not found.any():
        raise InputError(f"{source}: expected a PSF with light at its centre of mass, got none")
    return Measured(found, note)


def read_light(source: str) -> tuple[Doubles, tuple[float, float, float] | None]:
    """The only stack of a file, as shares of its largest value, and its voxel size."""
    volume = read(source)
    found = list(stacks(volume))
    if len(found) != 1:
        raise InputError(f"{source}: expected one stack as PSF, got {len(found)}")
    light = np.asarray(found[0].data, np.float64)
    gaps = ~np.isfinite(light)
    if found[0].mask is not None:
        gaps |= ~found[0].mask
    if gaps.any():
        raise InputError(f"{source}: expected a complete stack as PSF, got {np.count_nonzero(gaps)} gaps")
    largest = np.abs(light).max()
    return light / largest if largest > 0 else light, volume.spacing


def without_background(light: Doubles) -> Doubles:
    """The light above the median of the outermost voxels, 0 where it is not above their noise."""
    border = np.ones(light.shape, bool)
    border[1:-1, 1:-1, 1:-1] = False
    steps = np.diff(light, axis=2)[border[:, :, 1:] & border[:, :, :-1]]
    noise = float(np.median(np.abs(steps))) / (0.6745 * math.sqrt(2)) if steps.size else 0.0  # of a normal distribution
    above = light - np.median(light[border])
    return np.where(above > NOISE * noise, above, 0.0)


def ratios_of(own: Sequence[float] | None, wanted: Sequence[float] | None) -> tuple[list[float], str]:
    """Voxel size of the volumes over that of the PSF, 1 where one of them is unknown; and what to tell the user."""
    if own is None or wanted is None:
        unknown = "it states" if own is None else "they state"
        return [1.0, 1.0, 1.0], f" (whose voxels are taken to be those of the volumes, since {unknown} no size)"
    if all(abs(new / old - 1) < SAME for new, old in zip(wanted, own, strict=True)):
        return [1.0, 1.0, 1.0], ""
    note = f", resampled from voxels of {by(own)} um to {by(wanted)} um,"
    return [new / old for new, old in zip(wanted, own, strict=True)], note


def reach_of(light: Doubles, axis: int, centre: float) -> float:
    """Distance from the centre along an axis within which all light but a third of what may be lost lies."""
    profile = light.sum(axis=tuple(other for other in range(3) if other != axis))
    away = np.abs(np.arange(len(profile)) - centre)
    order = np.argsort(away)
    within = np.cumsum(profile[order])
    return float(away[order][np.searchsorted(within, (1 - LOST / 3) * within[-1])])


def by(sizes: Sequence[Any]) -> str:
    """Sizes for a message, such as ``5 x 0.1 x 0.1``."""
    return " x ".join(f"{size:.6g}" for size in sizes)
