"""``tensorcell train`` for networks: files in, a folder out."""

from __future__ import annotations

import math
import time
from typing import Any

from tensorcell import prior_training
from tensorcell.errors import InputError
from tensorcell.network_training.losses import LOSSES, resumed_at, with_losses
from tensorcell.network_training.request import ModelRequest, check_installed, check_request
from tensorcell.network_training.stages import Run, acquisition_of, load_beginning, seconds_of
from tensorcell.network_training.volumes import Volumes, read_volumes
from tensorcell.progress import ProgressBar


def train(request: ModelRequest) -> dict[str, Any]:
    """Read the volumes, fit the stages that were asked for, calibrate and write the folder.

    Returns
    -------
    dict
        Facts about the fit: numbers, strings and lists, as JSON holds them.

    Raises
    ------
    InputError
        If torch, or diffusers for microdiffuse3d, is missing or the input cannot be used, in one line.
    KeyboardInterrupt
        On Ctrl-C, after the state was written beside the output.
    """
    check_installed(request.kind)
    from tensorcell.diffusion_guidance.baselines import BASELINES
    from tensorcell.diffusion_guidance.compute import shared_fit
    from tensorcell.diffusion_guidance.fill_stack import settled
    from tensorcell.diffusion_guidance.priors import write_json

    kinds = ("microdiffuse3d", *BASELINES)
    if request.kind not in kinds:
        raise InputError(f"expected --kind {' or '.join((*prior_training.KINDS, *kinds))}, got {request.kind!r}")
    check_request(request)
    try:
        volumes = read_volumes(request)
        began = load_beginning(request)
        acquisition = acquisition_of(request, volumes, began)
        with (
            settled(),
            shared_fit() as own,
            ProgressBar(enabled=False if request.quiet or own.number else None, budget=seconds_of(request)) as bar,
        ):
            request.state.mkdir(exist_ok=True)
            if own.number == 0:
                write_json(request.kept(), request.state / "request.json")
            bar.begin()
            run = Run(request, volumes, acquisition, began, bar)
            result, save = run.result()
            if own.number:  # the first process writes
                return facts_of(request, volumes, run, result)
            losses = (request.state / LOSSES).read_text(encoding="utf-8")
    except ValueError as error:
        if not request.resume:
            prior_training.remove_state(request)
        raise InputError(str(error)) from None
    except OSError as error:
        raise prior_training.not_written(request, error) from None
    except KeyboardInterrupt:
        if not any(request.state.glob("*/training_state.json")) and not any(request.state.glob("*/done")):
            prior_training.remove_state(request)
        raise
    prior_training.write_result(lambda part: with_losses(save, losses, part), request)
    return facts_of(request, volumes, run, result)


def facts_of(request: ModelRequest, volumes: Volumes, run: Run, result: Any) -> dict[str, Any]:
    """What ``--json`` prints."""
    facts: dict[str, Any] = {
        "inputs": volumes.names,
        "output": str(request.out),
        "kind": request.kind,
        "stage": request.stage,
        "weights": sum(value.numel() for value in run.network_of(result).parameters()),
        "pairs": len(volumes.low),
        "axial_factor": run.acquisition.axial_factor,
        "lateral_factor": run.acquisition.lateral_factor,
        "stages": {name: dict(report) for name, report in run.reports.items()},
        "seconds": round(time.perf_counter() - run.clock, 1),
    }
    held = getattr(result, "held_out", None)
    if held is not None:
        facts |= {
            "heldout_error": held.error,
            "interpolation_error": held.interpolation,
            "auto_error": held.without if math.isfinite(held.without) else None,
            "misfit": held.misfit,
        }
    return facts


def summary(facts: dict[str, Any]) -> str:
    """The lines that the command prints on stdout."""
    lines = [
        f"{facts['output']}: {facts['kind']}, stage {facts['stage']}, {facts['weights']} weights, "
        f"{len(facts['inputs'])} volumes; {facts['seconds']:.1f} s"
    ]
    for name, report in facts["stages"].items():
        lines.append(f"{name}: {report['steps']} steps, held-out loss {report['heldout']:.4g}; {report['ended']}")
    if "heldout_error" in facts:
        ratio = facts["heldout_error"] / facts["interpolation_error"]
        line = f"held-out examples: error {ratio:.2f} times that of linear interpolation"
        if facts["auto_error"] is not None:
            line += f", {facts['heldout_error'] / facts['auto_error']:.2f} times that of auto"
        lines.append(line)
    return "\n  ".join(lines)


def how_to_go_on(request: ModelRequest) -> str:
    """The line that is printed after Ctrl-C."""
    if not request.state.is_dir():
        return "interrupted before the fit; nothing was written"
    stages = [path.parent.name for path in request.state.glob("*/training_state.json")]
    reached = ", ".join(f"{stage} step {resumed_at(request.state / stage)}" for stage in sorted(stages))
    return f"interrupted at {reached}; the same command with --resume goes on from the state in {request.state}"
