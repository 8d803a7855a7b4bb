"""The options of ``tensorcell train`` for networks, and what can be refused before a file is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from tensorcell import prior_training
from tensorcell.defect_notes import checked_psf
from tensorcell.errors import InputError
from tensorcell.network_training.losses import LOSSES
from tensorcell.network_training.point_spreads import check_point_spread

if TYPE_CHECKING:
    from tensorcell.pairs.registration import Transform

STAGES = ("all", "vae", "pretrain", "finetune", "decoder", "distil")


@dataclass(frozen=True, kw_only=True)
class ModelRequest:
    """The options of ``tensorcell train --kind microdiffuse3d``."""

    sources: tuple[str, ...]
    out: Path
    kind: str = "microdiffuse3d"
    """Or the name of a baseline, which has one stage."""
    stage: str = "all"
    size: str = "tiny"
    weights: Path | None = None
    vae: Path | None = None
    images: Path | None = None
    low: tuple[str, ...] = ()
    register: Transform | None = None
    """What lies between the scans and the volumes; None: nothing."""
    axial_factor: int = 1
    lateral_factor: int = 1
    psf_fwhm: tuple[float, float, float] | None = None
    psf: str | None = None
    psf_model: str | None = None
    na: float | None = None
    wavelength: float | None = None
    refractive_index: float | None = None
    photons: float | None = None
    read_noise: float = 0.0
    attenuation: float | None = None
    widening: float = 0.0
    objective: str = "flow"
    masked: float = 0.0
    first_estimate: bool = True
    batch: int = 2
    device: str = "auto"
    precision: str = "float32"
    recompute: bool = False
    minutes: float | None = None
    steps: int | None = None
    resume: bool = False
    axes: str | None = None
    crop: str | None = None
    preview: bool = False
    seed: int = 0
    quiet: bool = False

    @property
    def state(self) -> Path:
        """The folder that keeps the state of an interrupted fit."""
        return prior_training.state_of(self.out)

    def kept(self) -> dict[str, Any]:
        """The options that must be the same when an interrupted fit is resumed."""
        content = asdict(self)
        names = (
            "kind",
            "stage",
            "size",
            "axial_factor",
            "lateral_factor",
            "psf",
            "psf_model",
            "na",
            "wavelength",
            "refractive_index",
            "photons",
            "read_noise",
            "attenuation",
            "widening",
            "objective",
            "masked",
            "register",
            "first_estimate",
            "batch",
            "crop",
            "preview",
            "seed",
        )
        lists = {"sources": list(self.sources), "low": list(self.low)}
        psf = None if self.psf_fwhm is None else list(self.psf_fwhm)
        return {name: content[name] for name in names} | lists | {"psf_fwhm": psf}


def check_installed(kind: str) -> None:
    """Raise an InputError in one line where what the networks of a kind need is not installed."""
    prior_training.check_torch(*(["diffusers"] if kind == "microdiffuse3d" else []))


def check_request(request: ModelRequest) -> None:
    """Refuse whatever can be refused before a file is read."""
    if request.stage not in STAGES:
        raise InputError(f"expected --stage {' or '.join(STAGES)}, got {request.stage!r}")
    if request.kind != "microdiffuse3d" and (request.stage != "all" or request.vae is not None):
        raise InputError(f"expected neither --stage nor --vae for --kind {request.kind}, which has one stage")
    begins = request.stage in ("finetune", "decoder", "distil")
    if begins != (request.weights is not None):
        wanted = "a folder of fitted networks as" if begins else "no"
        raise InputError(f"expected {wanted} --weights for stage {request.stage}, got {request.weights or 'none'}")
    if request.low and len(request.low) != len(request.sources):
        raise InputError(f"expected one --low for each IN, got {len(request.low)} for {len(request.sources)}")
    if request.low and (request.crop is not None or request.preview):
        raise InputError("expected neither --crop nor --preview with --low, whose scans have pixels of their own")
    if request.register is not None:
        check_transform(request.register)
    if request.register is not None and not request.low:
        raise InputError("expected --low scans to register, got none")
    if not 0 <= request.masked < 1:
        raise InputError(f"expected --masked from 0 to below 1, got {request.masked:g}")
    for name, value in (("--lateral-factor", request.lateral_factor), ("--batch", request.batch)):
        if value < 1:
            raise InputError(f"expected {name} of at least 1, got {value}")
    if request.objective not in ("flow", "eps"):
        raise InputError(f"expected --objective flow or eps, got {request.objective!r}")
    checked_psf(request.psf_fwhm)
    check_point_spread(request)
    prior_training.check_budget(request)
    prior_training.check_folders(request, is_model)


def check_transform(name: str) -> None:
    """Raise an InputError unless registration knows it."""
    from tensorcell.pairs.registration import Transform  # slow to import

    if name not in get_args(Transform):
        raise InputError(f"expected --register {' or '.join(get_args(Transform))}, got {name!r}")


def is_model(folder: Path) -> bool:
    """Whether a folder is empty, or holds networks that this package wrote."""
    from tensorcell.diffusion_guidance.microdiffuse3d.checkpoint import CONFIG

    names = {path.name for path in folder.iterdir()}
    return not names or CONFIG in names or "baseline.json" in names or {"config.json", LOSSES} <= names


def sources_of(names: Sequence[str]) -> tuple[str, ...]:
    """Files; a folder stands for the stacks in it, in the order of their names."""
    found: list[str] = []
    for name in names:
        path = Path(name)
        inside = (
            sorted(p for p in path.iterdir() if p.suffix.lower() in (".tif", ".tiff", ".h5")) if path.is_dir() else []
        )
        found += [str(p) for p in inside] or [name]
    return tuple(found)
