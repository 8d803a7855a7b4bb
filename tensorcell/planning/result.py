"""What a plan holds: the choices with their predicted errors, the advice, and what both rest on."""

from __future__ import annotations

import math
import os
import textwrap
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from tensorcell import pages
from tensorcell.solvers import NoiseModel
from tensorcell.words import as_sentence, planes_in_words

COLUMNS = (
    "Columns: the share of planes and how far they are apart; the shares of pixels and exposure; the PSNR and its 90 % "
    "interval; the PSNR of linear interpolation along z; the NRMSE and its 90 % interval; the shares of imaging time "
    "and light dose saved."
)
"""What the table shows."""


class Target(NamedTuple):
    """The wanted error: at most this NRMSE, at least this PSNR (decibels); None where nothing was asked."""

    nrmse: float | None
    psnr: float | None


@dataclass(frozen=True, kw_only=True)
class PlannedChoice:
    """A way to sample, and the error that the pilot predicts for what it leaves out.

    All choices of a plan are scored at the same voxels, which each of them leaves out.

    Attributes
    ----------
    axial_factor : int
        s: planes 0, s, 2s, ... of the pilot's grid are imaged.
    pixel_fraction, exposure_factor : float
        Share of the pixels of these planes, at random, and of the pilot's exposure.
    psnr, nrmse : float
        Against the noise-free intensity: decibels with the plan's ``data_range``, and the root mean square error
        divided by that of the intensity. Infinity and 0 where nothing is left after the noise is subtracted.
    psnr_interval, nrmse_interval : (float, float)
        90 % intervals, lower end first.
    time_saved, dose_saved : float
        Shares of the pilot's imaging time and light dose, under the plan's assumptions.
    linear_psnr : float
        PSNR of linear interpolation along z.
    note : str
        What to know of this prediction, empty if nothing.
    step : float or None
        Distance of the planes in micrometres; None where the voxel size of the pilot is unknown.
    """

    axial_factor: int
    pixel_fraction: float
    exposure_factor: float
    psnr: float
    psnr_interval: tuple[float, float]
    nrmse: float
    nrmse_interval: tuple[float, float]
    time_saved: float
    dose_saved: float
    linear_psnr: float
    note: str
    step: float | None = None

    @property
    def label(self) -> str:
        """The choice in words."""
        apart = "" if self.step is None else f" ({self.step:.3g} um apart)"
        words = [planes_in_words(self.axial_factor) + apart]
        if self.pixel_fraction < 1:
            words.append(f"{100 * self.pixel_fraction:.3g}% of the pixels")
        if self.exposure_factor < 1:
            words.append(f"{100 * self.exposure_factor:.3g}% of the exposure")
        return ", ".join(words)

    def meets(self, target: Target) -> bool:
        """Whether the worse end of the interval meets the wanted error."""
        fine = target.nrmse is None or self.nrmse_interval[1] <= target.nrmse
        return fine and (target.psnr is None or self.psnr_interval[0] >= target.psnr)

    def may_meet(self, target: Target) -> bool:
        """Whether the predicted error, without its interval, meets the wanted one."""
        return (target.nrmse is None or self.nrmse <= target.nrmse) and (
            target.psnr is None or self.psnr >= target.psnr
        )


@dataclass(frozen=True, kw_only=True, repr=False)
class SamplingPlan:
    """What :func:`tensorcell.plan` returns; ``str()`` is its table as text.

    Attributes
    ----------
    choices : tuple of PlannedChoice
        Sorted by axial factor, pixels, exposure.
    best : PlannedChoice or None
        The choice that saves most among those whose interval meets the target; None without a target, or if none does.
    target : Target
        The wanted error.
    sentence : str
        What to do, in one sentence.
    rule : str
        How the advice was chosen.
    data_range : float
        Width of the intensities for PSNR: 0.1 to 99.9 percentile of the pilot without its outliers, in its unit.
    noise : NoiseModel
        The noise of the pilot: the one given, or :func:`tensorcell.solvers.estimate_noise` of it.
    noise_margin : (float, float)
        Factors by which the true variance of the noise may be smaller and larger; the intervals allow for them.
    shape : (int, int, int)
        Part of the pilot that was used, planes first.
    assumptions : tuple of str
        What the predictions and savings rest on, a line each.
    notes : tuple of str
        What to know of this pilot.
    seconds : float
        Wall time.
    """

    choices: tuple[PlannedChoice, ...]
    best: PlannedChoice | None
    target: Target
    sentence: str
    rule: str
    data_range: float
    noise: NoiseModel
    noise_margin: tuple[float, float]
    shape: tuple[int, ...]
    assumptions: tuple[str, ...]
    notes: tuple[str, ...]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, texts, lists and dicts; None where a number is not finite (such as the PSNR of no error)."""
        cleaned = _without_infinity({**asdict(self), "target": self.target._asdict()})
        assert isinstance(cleaned, dict)
        return cleaned

    def to_html(self, path: str | os.PathLike[str]) -> None:
        """Write one self-contained HTML page; it appears whole or not at all.

        Raises
        ------
        InputError
            If the file cannot be written or does not end in ``.html``.
        """
        pages.write(self, path)

    def __str__(self) -> str:
        last = "What this rests on: `tensorcell plan --details`; in Python print(plan.text(details=True))."
        return f"{self.text()}\n\n{last}"

    def text(self, details: bool = False) -> str:
        """The advice, the table with its rule, what to know of the pilot and, where asked for, what all rests on.

        Parameters
        ----------
        details : bool
            Add the assumptions behind the predictions, a paragraph each.
        """
        lines = [self.sentence, "", f"{'planes':>6} {'apart':>7} {'pixels':>6} {'expos.':>6} {'PSNR dB':>8} "
                 f"{'90 %':>13} {'linear':>6} {'NRMSE':>7} {'90 %':>16} {'time':>6} {'dose':>6}"]  # fmt: skip
        lines += [" ".join((*row(choice), self.mark(choice))).rstrip() for choice in self.choices]
        lines += ["", self.rule, *(f"+ {as_sentence(remark)}" for remark in self.remarks), *self.notes]
        if details:
            lines += ["", "Details", "-------", COLUMNS]
            lines += [line for assumption in self.assumptions for line in ("", assumption)]
        return "\n".join(textwrap.fill(line, 100) if len(line) > 100 else line for line in lines)

    def mark(self, choice: PlannedChoice) -> str:
        """``*`` for the advice, ``~`` where the predicted error meets the target and its interval does not, ``+`` where
        there is a remark."""
        wanted = any(part is not None for part in self.target)
        meets = "*" if choice == self.best else ""
        if wanted and choice.may_meet(self.target) and not choice.meets(self.target):
            meets = "~"
        return meets + ("+" if choice.note else "")

    def __repr__(self) -> str:
        return str(self)

    @property
    def remarks(self) -> tuple[str, ...]:
        """The notes of the choices, each once."""
        return tuple(sorted({note for choice in self.choices for note in choice.note.split("; ") if note}))


def row(choice: PlannedChoice) -> tuple[str, ...]:
    """The cells of a choice in a table of text: planes, pixels, exposure, errors, and shares of time and dose saved."""
    apart = f"{choice.axial_factor} vox." if choice.step is None else f"{choice.step:.3g} um"
    low, high = choice.psnr_interval
    best = f"{choice.psnr:.1f}" if math.isfinite(choice.psnr) else f"> {low:.1f}"
    upper = f"{high:.1f}" if math.isfinite(high) else "..."
    interval = f"{low:.1f} to {upper}" if math.isfinite(low) else "no error seen"
    return (
        f"{'1/' + str(choice.axial_factor):>6}",
        f"{apart:>7}",
        f"{choice.pixel_fraction:>6.3g}",
        f"{choice.exposure_factor:>6.3g}",
        f"{best:>8}",
        f"{interval:>13}",
        f"{choice.linear_psnr:>6.1f}",
        f"{choice.nrmse:>7.4f}",
        f"{f'{choice.nrmse_interval[0]:.4f} to {choice.nrmse_interval[1]:.4f}':>16}",
        f"{choice.time_saved:>6.0%}",
        f"{choice.dose_saved:>6.0%}",
    )


def _without_infinity(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_infinity(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_infinity(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
