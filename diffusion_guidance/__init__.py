"""Score priors whose sampling is guided by the solvers' projections.

This module needs the optional dependencies of ``pip install "tensorcell[diffusion]"``.

- ``paths``: noise paths (VP, VE, EDM, linear flow) and conversions of predictions
- ``operators``: masks, planes, blur and decimation, with their adjoints
- ``guidance``: terms that guide an estimate: consistency with data, structure, tiles
- ``solver_terms``: projections of the solvers
- ``samplers``: ``sample``: eleven methods, posterior mean, resumable
- ``gaussian``: a prior whose posterior is known
- ``networks``: the network of a learned prior
- ``training``: priors fitted to the lateral slices of volumes, or to volumes
- ``priors``: priors as files
- ``planes``, ``plane_samples``: planes between measured ones, by a prior, and samples of them
- ``denoising``: what a prior adds to a denoised volume
- ``recovery``, ``train_command``: ``recover(method="diffusion")`` and ``tensorcell train``
- ``admm_as_diffusion``: the iterates of ADMM as those of a sampler
"""

from tensorcell.diffusion_guidance.paths import (
    Path,
    cosine,
    edm,
    from_scheduler,
    linear_flow,
    variance_exploding,
    variance_preserving,
)
from tensorcell.diffusion_guidance.priors import LateralPrior, VolumePrior, load_prior
from tensorcell.diffusion_guidance.samplers import Samples, sample
from tensorcell.diffusion_guidance.training import fit_lateral_prior, fit_volume_prior

__all__ = [
    "LateralPrior",
    "Path",
    "Samples",
    "VolumePrior",
    "cosine",
    "edm",
    "fit_lateral_prior",
    "fit_volume_prior",
    "from_scheduler",
    "linear_flow",
    "load_prior",
    "sample",
    "variance_exploding",
    "variance_preserving",
]
