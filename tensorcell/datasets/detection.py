"""The detector: which planes and pixels are measured, shot noise and read noise, and outliers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorcell.datasets.checks import check_number
from tensorcell.datasets.slabs import voxel_slabs
from tensorcell.datasets.streams import DETECTION, random_streams
from tensorcell.errors import InputError

Floats = npt.NDArray[np.floating[Any]]
Bools = npt.NDArray[np.bool_]

MOST_PHOTONS = 1e15
"""The Poisson generator draws counts as 64-bit integers; this stays well below their limit."""


@dataclass(frozen=True)
class Degraded:
    """A measurement of a volume.

    Attributes
    ----------
    measured
        The measured planes, in the unit of the truth; pixels that were not measured hold NaN.
    mask
        True = measured. Same shape as ``measured``.
    outliers
        True where an outlier replaced the measurement. Same shape as ``measured``.
    """

    measured: Floats
    mask: Bools
    outliers: Bools


def degrade(
    truth: Any,
    *,
    axial_factor: int = 1,
    keep_pixels: float = 1.0,
    outliers: float = 0.0,
    peak_photons: float | None = None,
    read_noise: float = 0.0,
    seed: int = 0,
) -> Degraded:
    """Simulate the measurement of a noise-free volume: planes and pixels are dropped, noise and outliers are added.

    ``measured = poisson(q truth) / q + read_noise n`` on planes 0, s, 2s, ... of the truth, where
    ``q = peak_photons / truth.max()`` and ``n`` is standard normal.

    Parameters
    ----------
    truth
        ZYX array, or one with further axes in front, of finite numbers of any real dtype. Planes are counted along
        the third axis from the end.
    axial_factor
        s: of n planes, ``ceil(n / s)`` are measured. A recovery from them ends at the last measured plane; compare it
        with ``truth[..., : (n - 1) // s * s + 1, :, :]``.
    keep_pixels
        Probability with which a pixel of the measured planes is measured, independently of the others.
    outliers
        Probability with which an outlier replaces a measured pixel. Outliers are uniform in [0, 2 truth.max()]; if the
        truth has a negative minimum ``low``, they are uniform in [low, low + 2 (max - low)].
    peak_photons
        Photons that the brightest voxel of the truth stands for. None: there is no shot noise.
    read_noise
        Standard deviation of the additional Gaussian noise, in the unit of the truth.
    seed
        Noise, mask and outliers have random streams of their own: the mask does not depend on the noise.

    Returns
    -------
    Degraded
        Its intensities are float64 for a float64 truth, else float32.

    Raises
    ------
    InputError
        If a parameter is out of its range; if the truth has fewer than 3 axes, no voxels, or NaN or infinite values;
        if shot noise is asked for and the truth has negative values or no positive one.

    Examples
    --------
    >>> import numpy as np
    >>> d = degrade(np.ones((5, 4, 4)), axial_factor=2, keep_pixels=0.5, seed=1)
    >>> d.measured.shape, bool((np.isnan(d.measured) == ~d.mask).all())
    ((3, 4, 4), True)
    """
    truth = np.asarray(truth)
    check_degradation(axial_factor, keep_pixels, outliers, read_noise)
    check_truth(truth, peak_photons)
    noise_stream, mask_stream, outlier_stream = random_streams(seed, DETECTION, 3)
    low, high = min(0.0, float(truth.min())), float(truth.max())

    dtype = np.float64 if truth.dtype == np.float64 else np.float32
    measured = truth[..., ::axial_factor, :, :].astype(dtype, order="C")
    flat = measured.reshape(-1)
    for slab in voxel_slabs(flat.size):
        part = flat[slab]
        if peak_photons is not None:
            part[:] = noise_stream.poisson(part * (peak_photons / high)) * (high / peak_photons)
        if read_noise > 0:
            part += read_noise * noise_stream.standard_normal(part.size)

    mask = mask_stream.random(measured.shape, dtype=np.float32) < keep_pixels
    outlying = mask & (outlier_stream.random(measured.shape, dtype=np.float32) < outliers)
    measured[outlying] = outlier_stream.uniform(low, low + 2 * (high - low), np.count_nonzero(outlying))
    measured[~mask] = np.nan
    return Degraded(measured, mask, outlying)


def check_degradation(axial_factor: int, keep_pixels: float, outliers: float, read_noise: float) -> None:
    """Raise `InputError` unless these parameters of `degrade` are in their ranges."""
    check_number("axial_factor", axial_factor, lowest=1, whole=True)
    check_number("keep_pixels", keep_pixels, above=0, highest=1)
    check_number("outliers", outliers, lowest=0, below=1)
    check_number("read_noise", read_noise, lowest=0)


def check_truth(truth: npt.NDArray[Any], peak_photons: float | None) -> None:
    """Raise `InputError` unless `degrade` can measure this truth with this number of photons."""
    if truth.ndim < 3:
        raise InputError(f"truth has {truth.ndim} axes, expected at least 3 (ZYX)")
    if truth.dtype.kind not in "buif":
        raise InputError(f"truth has dtype {truth.dtype}, expected real numbers")
    if truth.size == 0:
        raise InputError(f"truth has shape {truth.shape}, expected at least one voxel")
    bad = truth.size - np.count_nonzero(np.isfinite(truth))
    if bad:
        raise InputError(f"truth has {bad} NaN or infinite values, expected finite numbers")
    if peak_photons is None:
        return
    check_number("peak_photons", peak_photons, above=0, highest=MOST_PHOTONS)
    if truth.min() < 0 or truth.max() <= 0:
        raise InputError(
            f"truth runs from {float(truth.min()):g} to {float(truth.max()):g}, "
            "expected no negative and some positive values for shot noise"
        )
