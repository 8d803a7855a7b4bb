"""The PSF of a widefield fluorescence microscope, by the vectorial theory of focusing.

A plane wave that is polarised along ``a`` has the field ``E_a`` in the focus of an objective that obeys the sine
condition (Richards and Wolf). By reciprocity a dipole `p` at the place `r` sends the field ``p . E_a(r)`` into the same
polarisation of the detection path. For dipoles of all directions the mean of its square is ``|E_a(r)|^2 / 3``, and a
camera without a polariser sums both polarisations::

    h(r) = |E_x(r)|^2 + |E_y(r)|^2 = |I_0|^2 + 2 |I_1|^2 + |I_2|^2   (up to a factor)

    I_0 = int sqrt(cos t) sin t (1 + cos t) J_0(k n rho sin t) exp(i k n z cos t) dt
    I_1 = int sqrt(cos t) sin^2 t           J_1(k n rho sin t) exp(i k n z cos t) dt
    I_2 = int sqrt(cos t) sin t (1 - cos t) J_2(k n rho sin t) exp(i k n z cos t) dt

=======  ====================================================
letter   meaning
=======  ====================================================
`t`      angle to the optical axis, from 0 to ``arcsin(NA / n)``
`k`      ``2 pi / wavelength``, the wavelength that in vacuum
`n`      refractive index of immersion and specimen
`rho`    distance from the optical axis
=======  ====================================================

This is the detection alone: light is emitted everywhere in the specimen. The PSFs of confocal, light-sheet and
multiphoton microscopes are narrower along z. There are no aberrations (immersion, cover slip and specimen fit
together), one wavelength, and no dipoles that keep their direction. The fields are computed by psf-generator (MIT).

References
----------
B. Richards, E. Wolf, Electromagnetic diffraction in optical systems II, Proc. R. Soc. A 253 (1959) 358,
doi:10.1098/rspa.1959.0200.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tensorcell.diffusion_guidance.microdiffuse3d.point_spread import PointSpread, check_sizes

SHORTEST, LONGEST = 0.1, 3.0
"""Wavelengths in micrometres: others are likely to be in another unit."""

ANGLES_PER_RADIAN = 3
"""Angles at which the integrals are sampled, per radian of the phase at the corner of the PSF; errors of about 1e-4."""

PICOMETRES = 1e6
"""In a micrometre. psf-generator rounds distances along z to whole numbers."""


def vectorial_point_spread(
    shape: tuple[int, int, int], spacing: Sequence[float], *, numerical_aperture: float, wavelength: float,
    refractive_index: float,
) -> PointSpread:  # fmt: skip
    """The PSF of a widefield fluorescence microscope; see the formulas of the module.

    Parameters
    ----------
    shape : three ints
        Odd sizes along z, y and x. Light beyond them is left out: in focus little, but each plane of a widefield PSF
        has the same light, however far from the focus.
    spacing : three floats
        Voxel size along z, y and x in micrometres. The PSF is sampled at the middles of the voxels.
    numerical_aperture : float
        Above 0 and below the refractive index.
    wavelength : float
        Of the emission in vacuum, in micrometres.
    refractive_index : float
        Of immersion and specimen.

    Returns
    -------
    PointSpread
        Of sum 1, symmetric along all axes.

    Raises
    ------
    ValueError
        If a number is out of range, pixels are no squares, or the voxels are so large that samples of the PSF miss its
        light (above ``wavelength / (2 NA)``, along z ``wavelength / (n - sqrt(n^2 - NA^2))``).
    ModuleNotFoundError
        If psf-generator is not installed.

    Notes
    -----
    Time and memory grow as the number of planes times the number of different distances from the axis; 33 x 65 x 65
    voxels take about a second.
    """
    check_sizes(shape)
    check_optics(numerical_aperture, wavelength, refractive_index)
    check_spacing(spacing, numerical_aperture, wavelength, refractive_index)
    from psf_generator import VectorialSphericalPropagator

    depth, height, width = shape
    side, (dz, dx) = max(height, width), spacing[:2]
    across = math.hypot(height, width) / 2 * dx * numerical_aperture
    along = depth / 2 * dz * path_difference(numerical_aperture, refractive_index)
    phase = 2 * math.pi / wavelength * (across + along)
    light = np.zeros((depth, side, side))
    for x, y in ((1.0, 0.0), (0.0, 1.0)):
        propagator = VectorialSphericalPropagator(
            e0x=x, e0y=y, na=numerical_aperture, n_i=refractive_index, n_i0=refractive_index, apod_factor=True,
            wavelength=wavelength * PICOMETRES, n_pix_pupil=128 + 2 * math.ceil(ANGLES_PER_RADIAN * phase / 2) + 1,
            # psf-generator spreads n samples over n steps, from end to end, where there are n - 1 steps between them.
            n_pix_psf=side, pix_size=(side - 1) / side * dx * PICOMETRES,
            n_defocus=depth, defocus_step=(depth - 1) / depth * dz * PICOMETRES,
        )  # fmt: skip
        field = propagator.compute_focus_field()  # (d, 3, side, side)
        light += field.abs().square().sum(dim=1).double().numpy()
    rows, columns = ((side - size) // 2 for size in (height, width))
    return PointSpread.of(light[:, rows : rows + height, columns : columns + width])


def path_difference(numerical_aperture: float, refractive_index: float) -> float:
    """How much longer the optical path along the axis is than that at the edge of the pupil, per distance along z."""
    return refractive_index - math.sqrt(refractive_index**2 - numerical_aperture**2)


def check_optics(numerical_aperture: float, wavelength: float, refractive_index: float) -> None:
    """Raise a ValueError unless an objective can have these numbers; the wavelength is in micrometres."""
    if not 1 <= refractive_index < math.inf:
        raise ValueError(f"expected a finite refractive index of at least 1, got {refractive_index:g}")
    if not 0 < numerical_aperture < refractive_index:
        raise ValueError(
            f"expected a numerical aperture above 0 and below the refractive index {refractive_index:g}, got "
            f"{numerical_aperture:g}"
        )
    if not SHORTEST <= wavelength <= LONGEST:
        raise ValueError(f"expected a wavelength from {SHORTEST:g} to {LONGEST:g} micrometres, got {wavelength:g}")


def check_spacing(
    spacing: Sequence[float], numerical_aperture: float, wavelength: float, refractive_index: float
) -> None:
    """Raise a ValueError unless voxels of this size in micrometres are squares in a plane and resolve the PSF."""
    if len(spacing) != 3 or not all(math.isfinite(step) and step > 0 for step in spacing):
        raise ValueError(f"expected a voxel size of three finite lengths above 0, got {tuple(spacing)}")
    if not math.isclose(spacing[1], spacing[2], rel_tol=1e-6):
        raise ValueError(f"expected pixels as high as wide for a computed PSF, got {spacing[1]:g} x {spacing[2]:g} um")
    axial = wavelength / path_difference(numerical_aperture, refractive_index)
    lateral = wavelength / (2 * numerical_aperture)
    if spacing[0] > axial or spacing[1] > lateral:
        raise ValueError(
            f"expected voxels of at most {axial:.3g} x {lateral:.3g} x {lateral:.3g} um (z, y, x), which resolve the "
            f"PSF, got {' x '.join(f'{step:.3g}' for step in spacing)}"
        )
