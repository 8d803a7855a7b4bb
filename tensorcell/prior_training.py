"""``tensorcell train``: files in, a prior as a folder out. The folder is written whole or not at all.

A fit that Ctrl-C interrupts leaves its state beside the folder and can go on from there. Torch is imported when a
command runs, not when this module is loaded.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from tensorcell.cropping import box_of, cropped, preview_box, preview_sentence
from tensorcell.diffusion_guidance.installed import missing
from tensorcell.errors import InputError
from tensorcell.files import messages, open_volume, read, same_file, split_path
from tensorcell.files.messages import naming
from tensorcell.files.whole_files import whole_file
from tensorcell.methods.protocol import Stage
from tensorcell.progress import ProgressBar
from tensorcell.solvers import IterationRecord, estimate_noise
from tensorcell.solvers.iteration import duration
from tensorcell.volume import Volume, stacks

if TYPE_CHECKING:
    from tensorcell.diffusion_guidance.training import FitEstimate

KINDS = {"lateral": "LateralPrior", "volume": "VolumePrior"}
"""The values of ``--kind``, and the class of prior that each writes."""

MINUTES = 5.0
"""Minutes for a fit if neither the time nor the number of steps is given."""

PREVIEW_MINUTES, PREVIEW_VOXELS = 0.75, 1 << 18
"""Minutes for the fit of a preview, and about how many voxels of each file it learns from."""

STATE_FILES = ("training_state.json", "training_state.safetensors", "request.json", "losses.csv")
STATE_FOLDERS = ("vae", "estimate", "pretrain", "finetune", "decoder", "distil")
"""What the state of an interrupted fit may hold: of a prior, or of the stages of networks."""

BASE_BYTES = 500 << 20
"""Memory of torch, the solvers and the reading of a small stack, as measured."""

SLIGHT_NOISE = 0.01
"""Noise estimated below this share of a stack's standard deviation counts as none: no level that low is trained."""


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """The options of ``tensorcell train``; ``noise=None`` asks for an estimate of the noise."""

    sources: tuple[str, ...]
    out: Path
    kind: str = "lateral"
    axial_factor: int = 1
    minutes: float | None = None
    steps: int | None = None
    noise: float | None = None
    resume: bool = False
    axes: str | None = None
    crop: str | None = None
    preview: bool = False
    seed: int = 0
    quiet: bool = False

    @property
    def state(self) -> Path:
        """The folder that keeps the state of an interrupted fit."""
        return state_of(self.out)

    def kept(self) -> dict[str, Any]:
        """The options that must be the same when an interrupted fit is resumed."""
        content = asdict(self)
        return {name: content[name] for name in ("kind", "axial_factor", "seed", "crop", "preview")} | {
            "sources": list(self.sources)
        }


def state_of(out: Path) -> Path:
    """The folder beside the output that keeps the state of an interrupted fit."""
    out = out if out.name else out.absolute()  # "." has no name of its own
    return out.with_name(out.name + ".state")


class AnyRequest(Protocol):
    """What the requests of all kinds have in common."""

    @property
    def sources(self) -> tuple[str, ...]: ...
    @property
    def out(self) -> Path: ...
    @property
    def axial_factor(self) -> int: ...
    @property
    def minutes(self) -> float | None: ...
    @property
    def steps(self) -> int | None: ...
    @property
    def axes(self) -> str | None: ...
    @property
    def crop(self) -> str | None: ...
    @property
    def preview(self) -> bool: ...
    @property
    def seed(self) -> int: ...
    @property
    def quiet(self) -> bool: ...
    @property
    def resume(self) -> bool: ...
    @property
    def state(self) -> Path: ...
    def kept(self) -> dict[str, Any]: ...


class Input(NamedTuple):
    """One stack of a file, and the standard deviation of its noise."""

    name: str
    data: npt.NDArray[np.float32]
    noise: float


def train(request: TrainRequest) -> dict[str, Any]:
    """Read the stacks, estimate the cost, fit the prior and write it.

    Parameters
    ----------
    request : TrainRequest

    Returns
    -------
    dict
        Facts about the fit: numbers, strings and lists, as JSON holds them.

    Raises
    ------
    InputError
        If torch is missing or the input cannot be used, in one line.
    KeyboardInterrupt
        On Ctrl-C, after the state was written beside the output.
    """
    check_torch()
    from tensorcell.diffusion_guidance import training
    from tensorcell.diffusion_guidance.fill_stack import settled
    from tensorcell.diffusion_guidance.priors import write_json

    check_request(request)
    inputs = [each for source in request.sources for each in read_input(source, request)]
    volumes, noises = [each.data for each in inputs], [each.noise for each in inputs]
    lateral = request.kind == "lateral"
    config = None if lateral else training.VOLUME_CONFIG
    options: dict[str, Any] = {"axial_factor": request.axial_factor, "noise": noises}
    if lateral:
        options["stretch"] = common_stretch(inputs, request.axial_factor)
    seconds = None
    if request.steps is None:
        seconds = 60 * minutes_of(request, MINUTES)
    try:
        with settled(), ProgressBar(enabled=False if request.quiet else None, budget=seconds) as bar:
            cost = training.estimate_fit(
                volumes, steps=request.steps or 1, axial_factor=request.axial_factor, config=config
            )
            if not request.quiet:
                print(announcement(request, inputs, cost, seconds), file=sys.stderr)
            request.state.mkdir(exist_ok=True)
            write_json(request.kept(), request.state / "request.json")
            began = time.perf_counter()
            bar.begin()

            def progress(step: int, steps: int, loss: float, heldout: float) -> None:
                passed = time.perf_counter() - began
                record = IterationRecord(
                    iteration=step, stage="prior", change=math.nan, residual=loss, outliers=0, threshold=0.0,
                    seconds=passed,
                )  # fmt: skip
                bar.update(record, Stage(step, steps))

            fit = training.fit_lateral_prior if lateral else training.fit_volume_prior
            prior = fit(
                volumes, **options, seconds=seconds, steps=request.steps, seed=request.seed, progress=progress,
                initial=request.state if request.resume else None, keep=request.state,
            )  # fmt: skip
    except ValueError as error:
        if not request.resume:
            remove_state(request)
        raise InputError(str(error)) from None
    except OSError as error:
        raise not_written(request, error) from None
    except KeyboardInterrupt:
        if not has_state(request):
            remove_state(request)
        raise
    write_result(prior.save, request)
    report = prior.report
    if "not finite" in report["ended"]:
        print(f"tensorcell: {request.out}: {report['ended']} and written", file=sys.stderr)
    return {
        "inputs": [each.name for each in inputs],
        "output": str(request.out),
        "kind": request.kind,
        "axial_factor": request.axial_factor,
        "noise": noises,
        "stretch": prior.stretch,
        "lowest_level": prior.lowest_level,
        "weights": sum(value.numel() for value in prior.network.parameters()),
        "steps": report["steps"],
        "seconds": report["seconds"],
        "heldout": report["heldout"],
        "ended": report["ended"],
        "expected_memory_mib": round((cost.bytes + BASE_BYTES) / 2**20),
    }


def check_torch(*further: str) -> None:
    """Raise an InputError in one line where what priors need is not installed, or too old."""
    problem = missing("torch", "safetensors", *further)
    if problem is not None:
        raise InputError(problem)


def summary(facts: dict[str, Any]) -> str:
    """The two lines that the command prints on stdout."""
    noises = facts["noise"]
    noise = f"{min(noises):.3g}" if max(noises) - min(noises) < 1e-9 else f"{min(noises):.3g} to {max(noises):.3g}"
    return (
        f"{facts['output']}: {facts['kind']} prior for axial factor {facts['axial_factor']}, "
        f"{facts['weights']} weights; {facts['steps']} steps, {facts['seconds']:.1f} s\n"
        f"  held-out loss {facts['heldout']:.3f}; noise {noise}; {facts['ended']}"
    )


def how_to_go_on(request: TrainRequest) -> str:
    """The line that is printed after Ctrl-C."""
    try:
        step = json.loads((request.state / STATE_FILES[0]).read_text())["step"]
    except (OSError, ValueError, KeyError):
        return "interrupted before the fit; nothing was written"
    return f"interrupted at step {step}; the same command with --resume goes on from the state in {request.state}"


def check_request(request: TrainRequest) -> None:
    """Refuse whatever can be refused before a file is read."""
    if request.kind not in KINDS:
        raise InputError(f"expected --kind {' or '.join(KINDS)}, got {request.kind!r}")
    check_budget(request)
    if request.noise is not None and not 0 <= request.noise < math.inf:
        raise InputError(f"expected --noise of at least 0, got {request.noise:g}")
    check_folders(request, is_prior)


def minutes_of(request: AnyRequest, usual: float) -> float:
    """Minutes for a fit that has no number of steps."""
    if request.minutes is not None:
        return request.minutes
    return PREVIEW_MINUTES if request.preview else usual


def check_budget(request: AnyRequest) -> None:
    """Raise `InputError` where factor, seed, time or steps are out of range."""
    for name, value in (("--axial-factor", request.axial_factor), ("--steps", request.steps)):
        if value is not None and value < 1:
            raise InputError(f"expected {name} of at least 1, got {value}")
    if not 0 <= request.seed < 2**32:
        raise InputError(f"expected --seed from 0 to 2**32 - 1, got {request.seed}")
    if request.minutes is not None and request.steps is not None:
        raise InputError("expected --minutes or --steps, got both")
    if request.minutes is not None and not 0 < request.minutes < math.inf:
        raise InputError(f"expected --minutes above 0, got {request.minutes:g}")
    if request.crop is not None and request.preview:
        raise InputError("expected --crop or --preview, got both")


def check_folders(request: AnyRequest, is_ours: Callable[[Path], bool]) -> None:
    """Raise `InputError` where the output cannot be written or would replace something else."""
    out = request.out
    for source in request.sources:
        if same_file(split_path(source)[0], out):
            raise InputError(f"{out}: expected another path for --out than for IN, got the same")
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: expected a folder or a new name for the prior, got a file")
    if out.is_dir() and not is_ours(out):
        raise InputError(f"{out}: expected a prior of an earlier fit or a new name, got a folder of something else")
    parent = Path(os.path.realpath(out)).parent
    if not parent.is_dir():
        raise InputError(f"{out}: the folder {parent} does not exist")
    if not os.access(parent, os.W_OK):
        raise InputError(f"{out}: expected a folder that can be written to, got {parent}")
    check_state(request)


def check_state(request: AnyRequest) -> None:
    """Raise `InputError` if an interrupted fit is not resumed explicitly, or not with the options it began with."""
    there = has_state(request)
    if request.resume and not there:
        raise InputError(f"{request.state}: expected an interrupted fit to go on from, found none")
    if there and not request.resume:
        raise InputError(
            f"{request.state}: an interrupted fit lies there; expected --resume to go on from it, or delete it"
        )
    known = {*STATE_FILES, *STATE_FOLDERS, *(f".{name}.part" for name in STATE_FILES)}
    if request.state.exists() and not (
        request.state.is_dir() and {path.name for path in request.state.iterdir()} <= known
    ):
        raise InputError(f"{request.state}: expected the state of a fit or nothing there, got something else")
    if request.resume:
        try:
            before = json.loads((request.state / "request.json").read_text())
        except (OSError, ValueError):
            before = {}
        for name, value in request.kept().items():
            if name in before and before[name] != value:
                said = "IN" if name == "sources" else "--" + name.replace("_", "-")
                raise InputError(f"{request.state}: expected {said} {before[name]} as in that fit, got {value}")


def is_prior(folder: Path) -> bool:
    """Whether a folder is empty, or holds a prior that this package wrote, and nothing else."""
    from tensorcell.diffusion_guidance.priors import CONFIG, WEIGHTS

    names = {path.name for path in folder.iterdir()}
    if not names:
        return True
    try:
        kind = json.loads((folder / CONFIG).read_text())["_class_name"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return names <= {CONFIG, WEIGHTS} and kind in KINDS.values()


def read_input(source: str, request: TrainRequest) -> list[Input]:
    """The stacks of a file, one for each time frame, with the noise of each."""
    from tensorcell.diffusion_guidance.slices import lateral_slices, whole_volume

    volume = read_part(source, request)
    channels = volume.shape[volume.axes.index("C")] if "C" in volume.axes else 1
    if channels > 1:
        raise InputError(f"{source}: expected one channel, got {channels}; a prior is fitted to one")
    inputs = []
    for stack in stacks(volume):
        name = f"{source} {stack.label}" if len(volume.axes) > 3 else source
        try:
            data = np.asarray(stack.data, dtype=np.float32)
            if stack.mask is not None:
                data = np.where(stack.mask, data, np.float32(np.nan))
            check = lateral_slices(data) if request.kind == "lateral" else whole_volume(data, request.axial_factor)
        except ValueError as error:
            raise InputError(f"{name}: {error}") from None
        inputs.append(Input(name, data, noise_of(stack.data, check, request.noise, name)))
    return inputs


def read_part(source: str, request: AnyRequest) -> Volume:
    """What a fit learns from of a file: all of it, a part, or for a preview some of its middle, which is said."""
    if request.crop is None and not request.preview:
        return read(source, axes=request.axes)
    lazy = open_volume(source, axes=request.axes)
    with naming(source):
        box = preview_box(lazy, PREVIEW_VOXELS) if request.crop is None else box_of(request.crop, lazy)
    if request.preview and not request.quiet:
        print(f"{source}: {preview_sentence(lazy, box)}", file=sys.stderr)
    part = cropped(lazy, box)
    return part.part((slice(None),) * len(part.axes))


def noise_of(stored: npt.NDArray[Any], used: npt.NDArray[np.float32], given: float | None, name: str) -> float:
    """Standard deviation of the noise of a stack, estimated from the stored values, whose steps show their rounding."""
    deviation = float(used.std(dtype=np.float64))
    sigma = given
    if sigma is None:
        sigma = float(estimate_noise(stored).sigma)
        sigma = 0.0 if sigma < SLIGHT_NOISE * deviation else sigma
    if sigma >= deviation:
        raise InputError(f"{name}: expected contrast beyond its noise, got {deviation:.3g} with noise {sigma:.3g}")
    return sigma


def common_stretch(inputs: list[Input], axial_factor: int) -> float:
    """Geometric mean of the stretches that suit the planes of each stack; 1 for a plain prior."""
    from tensorcell.diffusion_guidance.slices import matched_stretch

    if axial_factor == 1:
        return 1.0
    logs = [math.log(matched_stretch(each.data, axial_factor, noise=each.noise)) for each in inputs]
    return math.exp(sum(logs) / len(logs))


def announcement(request: TrainRequest, inputs: list[Input], cost: FitEstimate, seconds: float | None) -> str:
    """The line on the time and memory of the fit that is printed before it starts."""
    from tensorcell.diffusion_guidance.fill_stack import free_memory

    shapes = " x ".join(map(str, inputs[0].data.shape)) if len(inputs) == 1 else f"{len(inputs)} stacks"
    if seconds is None:
        takes = f"about {duration(max(1.0, cost.seconds))} for {request.steps} steps"
    else:
        takes = f"{duration(seconds)} for about {max(1, round(seconds / cost.seconds))} steps"
    if request.preview:
        takes += f", a whole fit {duration(60 * MINUTES)} for about {max(1, round(60 * MINUTES / cost.seconds))}"
    needed, free = cost.bytes + BASE_BYTES, free_memory()
    short = "" if free is None or needed < free else f" ({free >> 20} MiB are free)"
    return f"{request.out}: fitting a {request.kind} prior to {shapes}: {takes}, {needed >> 20} MiB of memory{short}"


def write_folder(save: Callable[[Path], Any], out: Path) -> None:
    """Write the folder under a temporary name and rename it; an earlier one there is replaced or stays whole."""
    with naming(out), whole_file(out) as part:
        save(part)


def has_state(request: AnyRequest) -> bool:
    """Whether an interrupted fit can be gone on from: of a prior, or of a stage of networks."""
    return any(any(request.state.glob(f"{inside}{STATE_FILES[0]}")) for inside in ("", "*/"))


def not_written(request: AnyRequest, error: OSError) -> InputError:
    """What is said where the system does not take the output or the state; a state that is none is removed."""
    if not has_state(request):
        remove_state(request)
    return InputError(f"{request.out}: {messages.not_written(error)}{_resuming(request)}")


def _resuming(request: AnyRequest) -> str:
    """How a fit that was not written is gone on from, if its state is there."""
    if not has_state(request):
        return ""
    return f"; the same command with --resume goes on from the state in {request.state}"


def write_result(save: Callable[[Path], Any], request: AnyRequest) -> None:
    """Write the output, and remove the state of the fit; where the output cannot be written, the state stays."""
    try:
        write_folder(save, request.out)
    except InputError as error:
        raise InputError(f"{error}{_resuming(request)}") from None
    remove_state(request)


def remove_state(request: AnyRequest) -> None:
    """Remove the state of a fit that is done, and nothing else that may lie there."""
    for name in STATE_FILES:
        (request.state / name).unlink(missing_ok=True)
    for name in STATE_FOLDERS:
        shutil.rmtree(request.state / name, ignore_errors=True)
    if request.state.is_dir() and not any(request.state.iterdir()):
        request.state.rmdir()
