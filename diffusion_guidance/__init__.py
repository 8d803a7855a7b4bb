"""Score priors whose sampling is guided by the solvers' projections.

This module needs the optional dependencies of ``pip install "tensorcell[diffusion]"``.

- ``paths``: noise paths (VP, VE, EDM, linear flow) and conversions of predictions
- ``operators``: masks, planes, blur and decimation, with their adjoints
- ``guidance``: terms that guide an estimate: consistency with data, structure, tiles
- ``solver_terms``: projections of the solvers
- ``samplers``: ``sample``: eleven methods, posterior mean, resumable
- ``gaussian``: a prior whose posterior is known
- ``networks``: the network of a learned prior
- ``training``: a prior fitted to the lateral slices of one volume
- ``priors``: priors as files
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
from tensorcell.diffusion_guidance.priors import LateralPrior
from tensorcell.diffusion_guidance.samplers import Samples, sample
from tensorcell.diffusion_guidance.training import fit_lateral_prior

__all__ = [
    "LateralPrior",
    "Path",
    "Samples",
    "cosine",
    "edm",
    "fit_lateral_prior",
    "from_scheduler",
    "linear_flow",
    "sample",
    "variance_exploding",
    "variance_preserving",
]
