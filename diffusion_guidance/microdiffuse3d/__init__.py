"""MicroDiffuse3D: a conditional latent 3-D diffusion transformer for the restoration of microscopy volumes.

A low-resolution volume is encoded by a convolutional network into one condition a token. A transformer, whose tokens
are patches of the planes of a latent volume, predicts the velocity from noise to the latent of the restored volume; a
refinement decoder turns that latent and the low-resolution volume into intensities.

- ``config``: sizes of the network; ``tiny``, ``small``, ``base`` and ``published``
- ``attention``: attention within planes, then along z
- ``conditioning``: what the transformer is told of the low-resolution volume, and of its slices as images
- ``transformer``: its blocks
- ``model``: the whole network
- ``refinement``: the decoder
- ``first_estimate``: a regression that flow and decoder begin with
- ``published``: the authors' checkpoints
- ``autoencoder``: the latent space of slices
- ``images``: features of slices by a frozen image encoder
- ``point_spread``, ``vectorial``: PSFs as small volumes, measured or computed
- ``degradation``: what fast acquisitions make of a volume
- ``data``: examples to train with: simulated, masked or paired
- ``objective``, ``training``: losses, and fits of the networks
- ``restoration``: samples of restored volumes
- ``consistency``: restored volumes brought into agreement with the measurement
- ``calibration``: errors at examples that were held out
- ``likeness``: whether a scan looks like those that networks were fitted to
- ``scans``: measured planes in, a restored stack out
- ``checkpoint``: fitted networks as a folder

References
----------
Y. Li et al., MicroDiffuse3D: a foundation model for 3D microscopy imaging restoration, arXiv:2605.08566. Where the
published network (MIT) differs from the text, the network is followed, and the difference is named.
"""

from tensorcell.diffusion_guidance.microdiffuse3d.autoencoder import SliceAutoencoder
from tensorcell.diffusion_guidance.microdiffuse3d.checkpoint import load_model, save_model
from tensorcell.diffusion_guidance.microdiffuse3d.config import MicroDiffuse3DConfig
from tensorcell.diffusion_guidance.microdiffuse3d.data import masked, mixed, paired, simulated
from tensorcell.diffusion_guidance.microdiffuse3d.degradation import Degradation
from tensorcell.diffusion_guidance.microdiffuse3d.first_estimate import FirstEstimate
from tensorcell.diffusion_guidance.microdiffuse3d.images import ImageEncoder
from tensorcell.diffusion_guidance.microdiffuse3d.model import MicroDiffuse3D
from tensorcell.diffusion_guidance.microdiffuse3d.point_spread import PointSpread
from tensorcell.diffusion_guidance.microdiffuse3d.refinement import RefinementDecoder
from tensorcell.diffusion_guidance.microdiffuse3d.restoration import Parts, Restored, restored
from tensorcell.diffusion_guidance.microdiffuse3d.scans import (
    Model,
    Sampling,
    calibrated_model,
    restore_scan,
    strangeness,
)
from tensorcell.diffusion_guidance.microdiffuse3d.training import (
    fit_autoencoder,
    fit_decoder,
    fit_few_steps,
    fit_first_estimate,
    fit_network,
)

__all__ = [
    "Degradation",
    "FirstEstimate",
    "ImageEncoder",
    "MicroDiffuse3D",
    "MicroDiffuse3DConfig",
    "Model",
    "Parts",
    "PointSpread",
    "RefinementDecoder",
    "Restored",
    "Sampling",
    "SliceAutoencoder",
    "calibrated_model",
    "fit_autoencoder",
    "fit_decoder",
    "fit_few_steps",
    "fit_first_estimate",
    "fit_network",
    "load_model",
    "masked",
    "mixed",
    "paired",
    "restore_scan",
    "restored",
    "save_model",
    "simulated",
    "strangeness",
]
