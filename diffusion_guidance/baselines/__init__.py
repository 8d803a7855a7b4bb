"""Supervised restoration networks that MicroDiffuse3D is compared with, compact enough to be trained on a CPU.

Each is given a low-resolution volume whose measured pixels were interpolated to the lateral size of the truth. The
volume is interpolated along z, and the network adds a change; the diffusion model draws volumes instead.

- ``table``: all of them by name
- ``volumes``: the interpolation along z, and what else they share
- ``srcnn``, ``swinir``, ``dbpn``: networks of planes
- ``care``, ``rcan3d``, ``rln``: networks of volumes
- ``ddpm``: a diffusion model
"""

from tensorcell.diffusion_guidance.baselines.ddpm import ConditionalDDPM, noise_loss, sampled
from tensorcell.diffusion_guidance.baselines.table import BASELINES, Baseline, make_baseline
from tensorcell.diffusion_guidance.microdiffuse3d.degradation import along_z

__all__ = ["BASELINES", "Baseline", "ConditionalDDPM", "along_z", "make_baseline", "noise_loss", "sampled"]
