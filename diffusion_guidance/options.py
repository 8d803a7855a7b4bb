"""Options of the methods of ``recover`` that draw samples: names, defaults and checks. This module needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path
from typing import Any

SMALLEST_TILE = 32
"""Smallest side of the tiles of a restored stack, in pixels."""

PRECISIONS = ("float32", "bfloat16")
"""In which networks multiply while they sample."""

GUIDANCE = ("data", "tucker", "smooth", "lateral")
"""What may guide the samples; :mod:`tensorcell.diffusion_guidance.plane_samples` says what each does."""


@dataclass(frozen=True, kw_only=True)
class DiffusionOptions:
    """Options of ``method="diffusion"``, passed to ``recover`` by name; ``metadata["help"]`` of a field explains it.

    Attributes
    ----------
    prior : None, path or LateralPrior
        None: a prior is fitted to the stack itself. Otherwise one for the axial factor of the stack, such as
        ``tensorcell train`` writes.
    samples, steps : int
        Number of samples of the posterior, and of the steps that each takes.
    guidance : sequence of {"data", "tucker", "smooth", "lateral"}, or these names in one string with commas
        What guides the samples: see :mod:`tensorcell.diffusion_guidance.plane_samples`.
    fit_steps : int
        Largest number of steps of the fit. The fit ends earlier when held-out slices are no longer predicted better.
    cache : path, optional
        Folder for the fitted priors. Priors of the same stack and options that lie there are used; those of another
        stack or other options are neither used nor replaced. An interrupted fit for planes goes on from the state that
        lies beside the folder.
    allow_pickle : bool
        Accept a prior whose weights are a pickle (loaded weights-only).
    keep_samples : bool
        Return the samples, which take the memory of `samples` volumes.
    precision : {"float32", "bfloat16"}
        In which networks multiply while they sample. All else, fits and the guidance included, is float32 at least.

    Raises
    ------
    ValueError
        If a number is below 1 or not whole, or a name of the guidance or the precision is unknown.

    Examples
    --------
    >>> DiffusionOptions(guidance="data,tucker").guidance
    ('data', 'tucker')
    """

    prior: Any = field(
        default=None,
        metadata={"help": "A prior that `tensorcell train` wrote; without one, a prior is fitted to the stack."},
    )
    samples: int = field(default=8, metadata={"help": "Number of samples of the posterior."})
    steps: int = field(default=20, metadata={"help": "Number of steps that each sample takes."})
    guidance: Sequence[str] = field(
        default=("data",),
        metadata={"help": "What guides the samples: names of data,tucker,smooth,lateral with commas between them."},
    )
    fit_steps: int = field(default=2000, metadata={"help": "Largest number of steps of a fit."})
    cache: str | Path | None = field(
        default=None, metadata={"help": "Folder that keeps the fitted priors for the next run on the same stack."}
    )
    allow_pickle: bool = field(default=False, metadata={"help": "Accept a prior whose weights are a pickle."})
    keep_samples: bool = field(default=False, metadata={"help": "Return the samples, too.", "flag": False})
    precision: str = field(
        default="float32",
        metadata={"help": "Precision of the networks that draw samples: float32, or bfloat16, which suits GPUs."},
    )

    def __post_init__(self) -> None:
        check_counts(self, "samples", "steps", "fit_steps")
        check_precision(self.precision)
        object.__setattr__(self, "guidance", names_among(self.guidance, GUIDANCE))


@dataclass(frozen=True, kw_only=True)
class MicroDiffuse3DOptions:
    """Options of ``method="microdiffuse3d"``, passed to ``recover`` by name.

    Attributes
    ----------
    weights : path
        A folder that ``tensorcell train --kind microdiffuse3d`` wrote. Required.
    images : path, optional
        The folder of the image encoder that the weights were fitted with, if they were; without it they work, too.
    samples, steps : int, optional
        Number of samples of the restored stack, and of the steps that each takes; None: as many as the errors of the
        weights were calibrated with.
    guidance : sequence of {"data", "tucker"}, or these names in one string with commas
        ``"data"``: samples are brought into agreement with the measurement as far as that is more than noise.
        ``"tucker"``: the estimate of the latent is projected to low rank at every step. Neither: the network alone.
    accept_foreign : bool
        Restore a scan that does not look like those that the weights were fitted to, too.
    tile : int
        Largest side of the tiles of the restored stack, in pixels.
    keep_samples : bool
        Return the samples, which take the memory of `samples` volumes.
    precision : {"float32", "bfloat16"}
        In which networks multiply. All else, the guidance included, is float32 at least.

    Raises
    ------
    ValueError
        If a number is below 1 or not whole, a name of the guidance or precision is unknown, or no weights are given.

    Examples
    --------
    >>> MicroDiffuse3DOptions(weights="model", guidance="data,tucker").guidance
    ('data', 'tucker')
    """

    weights: str | Path | None = field(
        default=None, metadata={"help": "The folder that `tensorcell train --kind microdiffuse3d` wrote."}
    )
    images: str | Path | None = field(
        default=None, metadata={"help": "The folder of the image encoder that the weights were fitted with, if any."}
    )
    samples: int | None = field(
        default=None, metadata={"help": "Number of samples of the restored stack. Default: as calibrated, usually 8."}
    )
    steps: int | None = field(
        default=None, metadata={"help": "Number of steps that each sample takes. Default: as calibrated, usually 4."}
    )
    guidance: Sequence[str] = field(
        default=("data",),
        metadata={"help": "What guides the samples: names of data,tucker with commas between them, or an empty text."},
    )
    accept_foreign: bool = field(
        default=False, metadata={"help": "Restore a scan of another kind than the weights were fitted to, too."}
    )
    tile: int = field(default=256, metadata={"help": "Largest side of the tiles, in pixels of the restored stack."})
    keep_samples: bool = field(default=False, metadata={"help": "Return the samples, too.", "flag": False})
    precision: str = field(
        default="float32",
        metadata={"help": "Precision of the networks that draw samples: float32, or bfloat16, which suits GPUs."},
    )

    def __post_init__(self) -> None:
        if self.weights is None or not str(self.weights):
            raise ValueError("expected weights=PATH for method microdiffuse3d: a folder of fitted networks; got none")
        if isinstance(self.tile, int) and 1 <= self.tile < SMALLEST_TILE:
            raise ValueError(f"expected tiles of at least {SMALLEST_TILE} pixels, got {self.tile}")
        check_counts(self, *(name for name in ("samples", "steps") if getattr(self, name) is not None), "tile")
        check_precision(self.precision)
        object.__setattr__(self, "guidance", names_among(self.guidance, ("data", "tucker")))


def check_precision(precision: Any) -> None:
    """Raise a ValueError unless networks can sample in this precision."""
    if precision not in PRECISIONS:
        raise ValueError(f"expected precision {' or '.join(PRECISIONS)}, got {precision!r}")


def check_counts(options: Any, *names: str) -> None:
    """Raise a ValueError unless these fields are whole numbers of at least 1."""
    for name in names:
        value = getattr(options, name)
        if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
            raise ValueError(f"expected a whole number of at least 1 as {name}, got {value!r}")


def names_among(given: Any, known: Sequence[str]) -> tuple[str, ...]:
    """Names of guidance, given as such or as one text with commas."""
    if isinstance(given, str):
        given = tuple(part for part in given.split(",") if part)
    if not isinstance(given, Sequence):
        raise ValueError(f"expected guidance as names, got {given!r}")
    unknown = [name for name in given if name not in known]
    if unknown:
        raise ValueError(f"expected guidance among {', '.join(known)}, got {unknown[0]!r}")
    return tuple(given)
