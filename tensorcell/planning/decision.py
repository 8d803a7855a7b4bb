"""Which of the planned choices to take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tensorcell.axial import AxialBand, axial_verdict
from tensorcell.planning.result import PlannedChoice, Target
from tensorcell.words import as_sentence, depth_in_words, planes_in_words


class Depth(NamedTuple):
    """What planes at some distance carry."""

    size: str
    """Structures above this size along z are kept, in words."""
    verdict: str
    """``resolved``, ``aliased`` or ``unknown``: whether the pilot shows finer ones."""


def depth_of(factor: int, step: float, band: AxialBand) -> Depth:
    """What every s-th plane of a pilot carries, whose planes are ``step`` apart (in ``band.unit``)."""
    return Depth(depth_in_words(2 * factor * step, band.unit), axial_verdict(factor * step, band)[0])


def decide(
    choices: Sequence[PlannedChoice], target: Target, depths: Mapping[int, Depth]
) -> tuple[PlannedChoice | None, str, str]:
    """The choice that saves most among those that meet the target, if there is one, a sentence that says so, and the
    rule that was followed.

    Parameters
    ----------
    choices : sequence of PlannedChoice
    target : Target
    depths : dict of axial factor to Depth
        What the planes of each factor carry.
    """
    wanted = _wanted(target)
    if not wanted:
        return None, _without_target(depths), (
            "Without a wanted error (--target-nrmse, --target-psnr) the advice is the sparsest planes that carry the "
            "finest structures that the pilot shows; the errors are for you to judge."
        )  # fmt: skip
    rule = (
        "The advice (*) is the choice that saves most light among those whose whole 90 % interval meets the wanted "
        "error. Of a choice with ~ the predicted value meets it, but not the whole interval."
    )
    fine = [choice for choice in choices if choice.meets(target)]
    if not fine:
        return None, _no_choice(choices, target, wanted), rule
    best = max(fine, key=lambda choice: (round(choice.dose_saved, 9), -choice.nrmse_interval[1]))
    if best.dose_saved <= 0:
        return best, f"Image {best.label}: it meets {wanted}, and no choice that saves light surely does.", rule
    lost = "" if best.axial_factor == 1 else f"; {_lost(depths[best.axial_factor])}"
    return best, (
        f"Image {best.label}: it meets {wanted} and saves {best.time_saved:.0%} of the imaging time and "
        f"{best.dose_saved:.0%} of the light dose{lost}."
    ), rule  # fmt: skip


def _wanted(target: Target) -> str:
    """The wanted error in words, empty if nothing was asked."""
    parts = []
    if target.nrmse is not None:
        parts.append(f"an NRMSE of at most {target.nrmse:g}")
    if target.psnr is not None:
        parts.append(f"a PSNR of at least {target.psnr:g} dB")
    return " and ".join(parts)


def _no_choice(choices: Sequence[PlannedChoice], target: Target, wanted: str) -> str:
    """The sentence where no choice surely meets the target: whether one may, and else which comes next."""
    perhaps = [choice for choice in choices if choice.may_meet(target)]
    if perhaps:
        nearest = min(perhaps, key=lambda choice: choice.nrmse_interval[1])
        return (
            f"No choice surely meets {wanted}: {nearest.label} is predicted to, but its 90 % interval reaches to "
            f"{_worst(nearest)}. A larger pilot or more repeats may narrow it."
        )
    finest = min(choices, key=lambda choice: choice.nrmse_interval[1])
    return f"No choice meets {wanted}; the best reachable is {finest.label} (90 % interval up to {_worst(finest)})."


def _worst(choice: PlannedChoice) -> str:
    """The worse end of the 90 % intervals."""
    return f"a PSNR of {choice.psnr_interval[0]:.1f} dB and an NRMSE of {choice.nrmse_interval[1]:.3g}"


def _lost(depth: Depth) -> str:
    """What is lost between planes."""
    if depth.verdict == "resolved":
        return f"structures above {depth.size} along z are kept, and the pilot shows no finer ones"
    perhaps = "" if depth.verdict == "aliased" else ", if there are any,"
    return f"structures finer than {depth.size} along z{perhaps} will be blurred"


def _without_target(depths: Mapping[int, Depth]) -> str:
    """What the sparsest planes are that lose nothing, and what the next sparser ones lose."""
    factors = sorted(depths)
    enough = [factor for factor in factors if depths[factor].verdict == "resolved"]
    sparser = [factor for factor in factors if factor > max(enough, default=1)]
    lost = f"; with {planes_in_words(sparser[0])} {_lost(depths[sparser[0]])}" if sparser else ""
    if enough:
        known = (
            f"{planes_in_words(enough[-1])} is enough for structures above {depths[enough[-1]].size} along z, and the "
            "pilot shows no finer ones"
        )
    elif depths[factors[0]].verdict == "aliased":
        known = f"{planes_in_words(factors[0])} is already too few for the finest structures of the pilot"
    else:
        known = "whether the planes of the pilot are close enough for its finest structures cannot be told"
    return as_sentence(known + lost)
