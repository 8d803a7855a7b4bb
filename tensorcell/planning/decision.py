"""Which of the planned choices to take."""

from __future__ import annotations

from collections.abc import Sequence

from tensorcell.planning.result import PlannedChoice, Target


def decide(choices: Sequence[PlannedChoice], target: Target) -> tuple[PlannedChoice | None, str]:
    """The choice that saves most among those that meet the target, if there is one, and a sentence that says so."""
    wanted = _wanted(target)
    finest = min(choices, key=lambda choice: choice.nrmse_interval[1])
    if not wanted:
        return None, _without_target(choices, finest)
    fine = [choice for choice in choices if choice.meets(target)]
    if not fine:
        return None, f"No choice meets {wanted}; the best reachable is {finest.label} ({_errors(finest)})."
    best = max(fine, key=lambda choice: (round(choice.dose_saved, 9), -choice.nrmse_interval[1]))
    return best, (
        f"Image {best.label}: it meets {wanted} ({_errors(best)}) and saves {best.time_saved:.0%} of the imaging time "
        f"and {best.dose_saved:.0%} of the light dose."
    )


def _wanted(target: Target) -> str:
    """The wanted error in words, empty if nothing was asked."""
    parts = []
    if target.nrmse is not None:
        parts.append(f"an NRMSE of at most {target.nrmse:g}")
    if target.psnr is not None:
        parts.append(f"a PSNR of at least {target.psnr:g} dB")
    return " and ".join(parts)


def _errors(choice: PlannedChoice) -> str:
    at_least = f"at least {choice.psnr_interval[0]:.1f} dB, at most {choice.nrmse_interval[1]:.3g}"
    return f"predicted PSNR and NRMSE of what is left out: {at_least}"


def _without_target(choices: Sequence[PlannedChoice], finest: PlannedChoice) -> str:
    if len(choices) == 1:
        return f"With {finest.label}: {_errors(finest)}. No wanted error was given."
    sparsest = max(choices, key=lambda choice: choice.dose_saved)
    return (
        f"No wanted error was given: from {finest.label} (PSNR at least {finest.psnr_interval[0]:.1f} dB) "
        f"to {sparsest.label} (at least {sparsest.psnr_interval[0]:.1f} dB), the table shows what each costs."
    )
