"""The options of ``recover(method="diffusion")``: their names, defaults and checks. This module does not need torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path
from typing import Any

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

    Raises
    ------
    ValueError
        If a number is below 1 or not whole, or a name of the guidance is unknown.

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

    def __post_init__(self) -> None:
        for name in ("samples", "steps", "fit_steps"):
            value = getattr(self, name)
            if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
                raise ValueError(f"expected a whole number of at least 1 as {name}, got {value!r}")
        if isinstance(self.guidance, str):
            object.__setattr__(self, "guidance", tuple(part for part in self.guidance.split(",") if part))
        if not isinstance(self.guidance, Sequence):
            raise ValueError(f"expected guidance as names, got {self.guidance!r}")
        unknown = [name for name in self.guidance if name not in GUIDANCE]
        if unknown:
            raise ValueError(f"expected guidance among {', '.join(GUIDANCE)}, got {unknown[0]!r}")
