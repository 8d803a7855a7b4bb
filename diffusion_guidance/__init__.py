"""Score priors whose sampling is guided by the solvers' projections.

All but ``options`` needs the optional dependencies of ``pip install "tensorcell[diffusion]"``. The names of
``__all__`` are imported when they are first asked for, so that the options can be read without torch.

The product

- ``options``: the options of ``recover(method="diffusion")``
- ``fill_stack``: ``recover(method="diffusion")`` of one stack: a prior chosen or fitted, planes filled, noise removed
- ``planes``, ``plane_samples``: planes between measured ones by a prior, and samples of them
- ``denoising``: the correction that a prior proposes for a denoised volume

Priors

- ``networks``: the network of a fitted prior
- ``slices``, ``batches``: what lateral slices and axial ones have in common, and what a network is shown
- ``training_loop``, ``training``: the loop of a fit; priors fitted to the lateral slices of volumes, or to volumes
- ``priors``: priors as files
- ``regression``: missing planes by a prior alone
- ``gaussian``: a prior whose posterior is known
- ``diffusers_folder``: networks of pipelines of diffusers as denoisers
- ``deepinv_modules``: measurements and denoisers as modules of deepinv
- ``installed``: whether torch and others are there; read without torch, as the options are
- ``denoisers``, ``tiles``: denoisers of volumes from denoisers of slices, and of large volumes from tiles

Sampling

- ``paths``: noise paths (VP, VE, EDM, linear flow), levels, and conversions of predictions
- ``samplers``: ``sample`` with the table of its eleven methods; made of ``methods`` (names, settings, checks),
  ``steps``, ``noises``, ``sampler_loop`` (resumable) and ``posterior_means``
- ``admm_as_diffusion``: the iterates of ADMM as those of a sampler

Guidance

- ``operators``, ``blurs``: masks, planes, blur and decimation, with their adjoints
- ``terms``, ``data_terms``: terms that guide an estimate: structure, and consistency with data
- ``solver_terms``: projections of the solvers
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tensorcell.diffusion_guidance.installed import missing

if TYPE_CHECKING:
    from tensorcell.diffusion_guidance.diffusers_folder import from_diffusers
    from tensorcell.diffusion_guidance.options import DiffusionOptions
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
    from tensorcell.diffusion_guidance.sampler_loop import Samples
    from tensorcell.diffusion_guidance.samplers import sample
    from tensorcell.diffusion_guidance.training import fit_lateral_prior, fit_volume_prior

__all__ = [
    "DiffusionOptions",
    "LateralPrior",
    "Path",
    "Samples",
    "VolumePrior",
    "cosine",
    "edm",
    "fit_lateral_prior",
    "fit_volume_prior",
    "from_diffusers",
    "from_scheduler",
    "linear_flow",
    "load_prior",
    "sample",
    "variance_exploding",
    "variance_preserving",
]

_MODULES = {
    "diffusers_folder": ("from_diffusers",),
    "options": ("DiffusionOptions",),
    "paths": (
        "Path", "cosine", "edm", "from_scheduler", "linear_flow", "variance_exploding", "variance_preserving"
    ),
    "priors": ("LateralPrior", "VolumePrior", "load_prior"),
    "sampler_loop": ("Samples",),
    "samplers": ("sample",),
    "training": ("fit_lateral_prior", "fit_volume_prior"),
}  # fmt: skip

_NEEDS = {"options": (), "diffusers_folder": ("torch", "safetensors", "diffusers")}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for (PEP 562)."""
    for module, names in _MODULES.items():
        if name in names:
            if problem := missing(*_NEEDS.get(module, ("torch", "safetensors"))):
                raise ImportError(f"{name}: {problem}")
            value = getattr(import_module(f"{__name__}.{module}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
