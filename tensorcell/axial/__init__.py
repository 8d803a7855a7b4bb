"""How close planes must lie: the axial band limit of a stack, estimated from its spectrum and from the optics.

No low-rank theorem covers whole planes that were never measured. Smoothness along z takes its place: a stack without
frequencies above ``f`` is determined by planes ``1 / (2 f)`` apart (Shannon 1949, doi:10.1109/JRPROC.1949.232969).
:func:`axial_band` estimates ``f``, and :func:`axial_verdict` says whether a distance between planes is small enough.

No finite stack is strictly band-limited. The limit meant here is an effective one: the frequency above which the axial
power density is below ``LEVEL`` of its peak, or cannot be distinguished from noise. What lies above it is lost, but
small.

1. *Axial spectrum.* The means of pixels over z (fixed patterns) and the means of planes (flicker of the lamp) are
   subtracted, a Hann window is applied along all three axes, and the power is averaged over the lateral frequencies
   that hold any signal. The limit is where this average falls below the level, if it does so before the Nyquist
   frequency of the measured planes. Power well above the noise at that frequency is evidence of aliasing, because
   spectra fold there.
2. *Noise floor.* The noise is taken as white. Unless its standard deviation is given, its power is that at the highest
   lateral frequencies. Noise that is correlated within planes alone shows as a flat end of the axial spectrum, far
   below its peak.
3. *Lateral spectrum.* This is the power along y and x, with a tenth of the level, to be safe. In an isotropic object
   that is blurred along z at least as much as within planes, no axial frequency is above the lateral limit: the lateral
   limit is an upper bound only.
4. *Optics.* The three-dimensional transfer function of a widefield fluorescence microscope ends along z at
   ``(n - sqrt(n^2 - NA^2)) / wavelength`` and within planes at ``2 NA / wavelength`` (McCutchen 1964,
   doi:10.1364/JOSA.54.000240; Frieden 1967, doi:10.1364/JOSA.57.000056). That of a confocal microscope with a nearly
   closed pinhole extends up to twice as far.

=================  ================================================================================================
`band`             :func:`axial_band`: its arguments, and the band limit from the spectra and the optics together
`verdict`          :func:`axial_verdict`
`optics`           :func:`optics_limits`: the cutoff of a widefield microscope
`preparation`      the part of a stack whose spectrum is computed: even planes, one tile, no gaps
`spectra`          its periodogram, and the axial and the lateral spectrum made of it
`band_end`         where a spectrum falls below the noise or the level
`result`           :class:`AxialBand` and :class:`AxialSpectrum`
=================  ================================================================================================
"""

from tensorcell.axial.band import axial_band
from tensorcell.axial.band_end import LEVEL
from tensorcell.axial.optics import optics_limits
from tensorcell.axial.result import AxialBand, AxialSpectrum
from tensorcell.axial.verdict import axial_verdict

__all__ = ["LEVEL", "AxialBand", "AxialSpectrum", "axial_band", "axial_verdict", "optics_limits"]
