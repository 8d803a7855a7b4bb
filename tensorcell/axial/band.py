"""`axial_band`: the axial band limit of a stack, from its spectra and, if they are given, from the optics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorcell.axial.band_end import LEVEL
from tensorcell.axial.optics import optics_limits
from tensorcell.axial.preparation import even_run, filled, normalised, part_of
from tensorcell.axial.result import AxialBand, AxialSpectrum, Source, length_text
from tensorcell.axial.spectra import axial_and_lateral, windowed_periodogram
from tensorcell.axial.verdict import TOLERANCE
from tensorcell.errors import InputError
from tensorcell.plain_arrays import array_and_mask
from tensorcell.volume_checks import check_mask, check_spacing

Bools = npt.NDArray[np.bool_]

MIN_PLANES, MIN_PIXELS = 8, 16
"""The smallest stack whose spectrum is computed: planes, and pixels along y and x."""

MOST_FILLED = 0.05
"""Largest share of filled pixels with which power at the end of the axial spectrum counts as that of the stack."""


def axial_band(
    stack: Any,
    spacing: Sequence[float] | None,
    *,
    mask: Bools | None = None,
    noise: float | None = None,
    na: float | None = None,
    wavelength: float | None = None,
    refractive_index: float | None = None,
) -> AxialBand:
    """Estimate the axial band limit of a stack from its spectra and, if they are given, from the optics.

    Parameters
    ----------
    stack : real array ``(Z, Y, X)``
        Planes as measured; NaN = not measured. It is never written to.
    spacing : (dz, dy, dx) in micrometres, or None
        Voxel size of the array: ``dz`` is the distance between its planes, whether they were measured or not. None:
        it is unknown; lengths along z are then in planes, and neither the lateral bound nor the optics can be compared
        with them.
    mask : bool array ``(Z, Y, X)``
        True = measured. Planes without a measured pixel count as gaps, and the longest evenly spaced run of the other
        planes is used. Pixels of these that were not measured get the mean of measured pixels near them, and
        `obtained` says so.
    noise : float
        Standard deviation of white noise, in the data's unit. By default, and always if pixels had to be filled, it is
        estimated from the highest lateral frequencies.
    na, wavelength, refractive_index : float
        Numerical aperture, vacuum wavelength of the emission in micrometres, refractive index of the medium: all
        three or none.

    Returns
    -------
    AxialBand

    Raises
    ------
    InputError
        If the stack is not three-dimensional and real or holds infinities, if a mask or spacing does not fit it, if the
        noise is negative, if only a part of the optics is given, or if they are out of range (a numerical aperture
        above the refractive index, a wavelength above 10, which looks like nanometres).

    Notes
    -----
    On random volumes with a sharp ellipsoidal or a Gaussian band the limit came out within 15 % where it is at least
    four times the frequency resolution ``1 / (planes * step)``. Below that the window makes it too large, so that more
    planes are asked for than needed. Noise makes it smaller, because detail below the noise is not seen. Power counts
    if it exceeds the noise by ``MARGIN`` of the noise power and is above ``LEVEL`` of the peak.

    Noise that is correlated within planes makes the estimate of the noise too low; give `noise` then. The cost is one
    three-dimensional Fourier transform of at most 256 planes of 192 x 192 pixels (of larger stacks, the central planes
    and the tile with the largest variance): at most two seconds, and five times the memory of that part in float32.

    Examples
    --------
    White noise blurred by a Gaussian of 2 planes has its limit at ``sqrt(-ln 0.003) / (2 pi 2)``, 0.19 per um.

    >>> import numpy as np
    >>> from scipy.ndimage import gaussian_filter
    >>> from tensorcell.axial import axial_verdict
    >>> white = np.random.default_rng(0).standard_normal((64, 48, 48))
    >>> band = axial_band(gaussian_filter(white, 2.0, mode="wrap"), (1.0, 1.0, 1.0))
    >>> band.source, round(band.limit, 1), band.unit
    ('axial spectrum', 0.2, 'um')
    >>> axial_verdict(2.0, band)[0], axial_verdict(4.0, band)[0]
    ('resolved', 'aliased')
    """
    data, measured = checked_stack(stack, mask)
    steps = check_spacing(spacing)
    if noise is not None and not (math.isfinite(noise) and noise >= 0):
        raise InputError(f"noise must be a finite standard deviation of at least 0, got {noise}")
    optics = optics_limits(na, wavelength, refractive_index)
    axial, lateral, step, remarks = both_spectra(data, measured, steps or (1.0, 1.0, 1.0), noise)

    known = steps is not None
    optics_axial, optics_lateral = optics or (None, None)
    limit, source = chosen_limit(axial, lateral if known else None, optics_axial if known else None)
    unit = "um" if known else "plane"
    said = about_limit(axial, limit, source, step, unit, optics_axial)
    if not known and optics is not None:
        said.append("the spectrum cannot be compared with the optics, because the spacing is unknown")
    return AxialBand(
        limit=limit,
        nyquist_step=None if limit is None else 1 / (2 * limit),
        unit=unit,
        optics_limit=optics_axial,
        obtained="; ".join(said + remarks),
        source=source,
        at_least=axial.at_least if axial is not None and axial.limit is None and not much_filled(measured) else None,
        lateral_limit=None if lateral is None else lateral.limit,
        optics_lateral_limit=optics_lateral,
        step=step,
        axial=axial,
        lateral=lateral,
    )


def much_filled(measured: Bools | None) -> bool:
    """Whether so many pixels of the measured planes are filled that their errors reach to the end of the spectrum."""
    if measured is None:
        return False
    counts = measured.sum(axis=(1, 2))
    return bool(counts.sum() < (1 - MOST_FILLED) * np.count_nonzero(counts) * measured[0].size)


def checked_stack(stack: Any, mask: Bools | None) -> tuple[npt.NDArray[Any], Bools | None]:
    """The array, and its mask (True = measured); the mask is None if everything was measured."""
    data, valid = array_and_mask(stack, "stack")
    if data.ndim != 3 or 0 in data.shape:
        raise InputError(f"stack must be a non-empty array (z, y, x), got shape {data.shape}")
    if data.dtype.kind not in "fiub":
        raise InputError(f"stack must hold real numbers, got {data.dtype}")
    if mask is not None:
        check_mask(mask, data.shape)
        valid = mask if valid is None else mask & valid
    mask = measured = valid
    if data.dtype.kind == "f":
        finite = np.isfinite(data)
        if not finite.all():
            measured = ~np.isnan(data) if mask is None else mask & ~np.isnan(data)
            if (measured & ~finite).any():
                raise InputError("stack holds infinities at measured voxels, expected finite numbers or NaN")
    return data, None if measured is None or measured.all() else measured


def both_spectra(
    data: npt.NDArray[Any], mask: Bools | None, spacing: tuple[float, float, float], noise: float | None
) -> tuple[AxialSpectrum | None, AxialSpectrum | None, float | None, list[str]]:
    """Axial and lateral spectrum, the distance between the planes used, and remarks for the reader of the result."""
    planes, stride = even_run(np.arange(len(data)) if mask is None else np.flatnonzero(mask.any(axis=(1, 2))))
    if len(planes) < MIN_PLANES:
        return None, None, None, [f"a spectrum needs {MIN_PLANES} evenly spaced planes, {len(planes)} were measured"]
    if min(data.shape[1:]) < MIN_PIXELS:
        size = " x ".join(map(str, data.shape[1:]))
        return None, None, None, [f"a spectrum needs {MIN_PIXELS} pixels along y and x, the planes have {size}"]
    remarks = []
    part, measured, smaller = part_of(data, mask, planes)
    if smaller:
        remarks.append(f"the spectra are those of a part of {' x '.join(map(str, part.shape))} voxels")
    if measured is not None:
        share = 1 - measured.mean()
        remark = f"{share:.0%} of the pixels were not measured and got the mean of measured pixels near them"
        remarks.append(f"{remark}, whose errors the end of the spectrum may show" if share > MOST_FILLED else remark)
        part = filled(part, measured)
        noise = None  # filling changes the noise, so its power is estimated from the filled part
    step = stride * spacing[0]
    part, deviation = normalised(part)
    if deviation == 0:
        return None, None, step, [*remarks, "the stack does not vary"]
    power = windowed_periodogram(part)
    floor = None if noise is None else (noise / deviation) ** 2
    axial, lateral = axial_and_lateral(power, part.shape[2], (step, *spacing[1:]), floor)
    return scaled(axial, deviation**2), scaled(lateral, deviation**2), step, remarks


def scaled(spectrum: AxialSpectrum, factor: float) -> AxialSpectrum:
    """The same spectrum with its powers in another unit."""
    return replace(
        spectrum,
        power=tuple(value * factor for value in spectrum.power),
        floor=spectrum.floor * factor,
        level=spectrum.level * factor,
        peak=spectrum.peak * factor,
    )


def chosen_limit(
    axial: AxialSpectrum | None, lateral: AxialSpectrum | None, optics: float | None
) -> tuple[float | None, Source]:
    """The limit of the axial spectrum, or else the lower one of the two upper bounds: optics and lateral spectrum."""
    if axial is not None and axial.limit is not None:
        return axial.limit, "axial spectrum"
    bounds: list[tuple[float, Source]] = []
    if optics is not None:
        bounds.append((optics, "optics"))
    if lateral is not None and lateral.limit is not None:
        bounds.append((lateral.limit, "lateral spectrum"))
    return min(bounds, default=(None, "none"))


def about_limit(
    axial: AxialSpectrum | None,
    limit: float | None,
    source: Source,
    step: float | None,
    unit: str,
    optics: float | None,
) -> list[str]:
    """How the limit was obtained, or why there is none; ``optics`` is in cycles per um."""
    if axial is not None and source == "axial spectrum" and limit is not None:
        said = [f"the axial spectrum falls to {what_ends(axial)} at {limit:.3g} cycles per {unit}"]
        if unit == "um" and optics is not None and limit > (1 + TOLERANCE) * optics:
            said.append(
                f"this is above the widefield cutoff of {optics:.3g} and points to a confocal microscope, other optics "
                "or noise that is correlated between planes"
            )
        return said
    said = about_missing_end(axial, step, unit)
    if source == "optics":
        said.append(f"a widefield microscope passes {limit:.3g} cycles per um, a confocal one up to twice that")
    elif source == "lateral spectrum":
        said.append(f"an isotropic object has no axial frequency above its lateral limit, {limit:.3g} cycles per um")
    return said


def about_missing_end(axial: AxialSpectrum | None, step: float | None, unit: str) -> list[str]:
    """Why the axial spectrum gives no limit."""
    if axial is None:
        return []
    if step is not None and axial.at_least == 0.5 / step:
        share = (axial.power[-1] - axial.floor) / (axial.peak - axial.floor)
        return [f"the axial spectrum of planes {length_text(step, unit)} apart ends at {share:.0%} of its peak"]
    if axial.hidden:
        return ["the axial spectrum is too weak against the noise"]
    said = ["the axial spectrum neither falls to its level before its end nor is clearly above it there"]
    if axial.at_least is not None:
        said.append(f"it is clearly above its level up to {axial.at_least:.3g} cycles per {unit}")
    return said


def what_ends(spectrum: AxialSpectrum) -> str:
    """What ends the band: the level under the peak, or the noise."""
    by_level = spectrum.level - spectrum.floor <= 1.001 * LEVEL * (spectrum.peak - spectrum.floor)
    return f"{LEVEL:.1%} of its peak" if by_level else "the noise, which hides what is weaker,"
