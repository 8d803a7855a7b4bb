"""The command line: ``tensorcell recover``, ``diagnose``, ``plan``, ``evaluate``, ``train`` and ``demo``.

Exit status 0: done; 1: a defect of ours; 2: the user's input, one line on stderr; 3: below
``--fail-under``; 130: interrupted.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NoReturn

import numpy as np
import typer
from typer.core import TyperGroup

import tensorcell
from tensorcell.errors import InputError
from tensorcell.files import (
    check_outputs,
    read,
    read_mask,
    readable_formats,
    rehearse,
    staged,
    writable_suffixes,
    write,
)
from tensorcell.progress import ProgressBar
from tensorcell.recovery import recover as recover_volume
from tensorcell.stack import float_type
from tensorcell.volume import Volume, stacks

app = typer.Typer(
    help="Recover 3-D and 4-D microscopy volumes from too few, too noisy measurements.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    cls=TyperGroup,
)

BYTES_A_VOXEL = 80
"""Measured peak of a recovery from file to file: input, masks, output, and a few slabs."""

SOURCE_HELP = f"Stack: {readable_formats()}"
TARGET_HELP = f"Output; its suffix says the format: {', '.join(writable_suffixes())}"

PAGE_SUFFIXES = {"--report": (".png", ".html"), "--html": (".html",)}
"""Suffixes of the outputs that are no volumes."""

MISSED = 3
INTERRUPTED = 130


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tensorcell {tensorcell.__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Recover 3-D and 4-D microscopy volumes from too few, too noisy measurements."""


@app.command()
def recover(
    source: Annotated[str, typer.Argument(metavar="IN", help=SOURCE_HELP)],
    target: Annotated[str, typer.Argument(metavar="OUT", help=TARGET_HELP)],
    axial_factor: Annotated[int, typer.Option(help="s: the planes given are planes 0, s, 2s, ... of the output.")] = 1,
    method: Annotated[str, typer.Option(help="auto, local, tucker or diffusion (minutes; needs torch)")] = "auto",
    rank: Annotated[str, typer.Option(help="auto, one number, or three (z,y,x).")] = "auto",
    noise: Annotated[str, typer.Option(help="auto, or the standard deviation in the data's unit.")] = "auto",
    mask: Annotated[str | None, typer.Option(help="File of the input's shape, not zero = measured.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    outliers: Annotated[str | None, typer.Option(help="Write what was taken out to this file.")] = None,
    uncertainty: Annotated[
        str | None, typer.Option(help="Write u to this file: output +- 1.645 u is to hold the truth in 90 %.")
    ] = None,
    invented: Annotated[
        str | None, typer.Option(help="Write how much of each voxel the measurement leaves open, 0 to 1.")
    ] = None,
    prior: Annotated[
        str | None, typer.Option(help="diffusion: a prior of `tensorcell train`; else one is fitted to the stack.")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="diffusion: folder that keeps the fitted prior for the next run.")
    ] = None,
    samples: Annotated[int | None, typer.Option(help="diffusion: samples of the posterior, 8.")] = None,
    steps: Annotated[int | None, typer.Option(help="diffusion: steps of each sample, 20.")] = None,
    guidance: Annotated[
        str | None, typer.Option(help="diffusion: of data,tucker,smooth,lateral, such as data,tucker.")
    ] = None,
    fit_steps: Annotated[int | None, typer.Option(help="diffusion: largest number of steps of a fit, 2000.")] = None,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="diffusion: accept a prior whose weights are a pickle.")
    ] = False,
    dtype: Annotated[str | None, typer.Option(help="Output dtype: input, uint8, uint16, float32, ...")] = None,
    report: Annotated[str | None, typer.Option(help="Write a picture (.png) or a page (.html).")] = None,
    keep_measured: Annotated[
        bool | None, typer.Option("--keep-measured/--no-keep-measured", help="Default: keep if anything is missing.")
    ] = None,
    nonnegative: Annotated[
        bool | None, typer.Option("--nonnegative/--no-nonnegative", help="Default: if no measured voxel is negative.")
    ] = None,
    axes: Annotated[str | None, typer.Option(help="Axes of the file where it does not say, such as TZYX.")] = None,
    spacing: Annotated[str | None, typer.Option(help="Voxel size dz,dy,dx in micrometres.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="For the choice of left-out voxels.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else.")] = False,
    quiet: Annotated[bool, typer.Option(help="No progress and no summary.")] = False,
) -> None:
    """Recover a stack: fill gaps and planes, remove outliers, reduce noise."""
    from tensorcell.pages import recovery as reports

    options = {
        "axial_factor": axial_factor,
        "method": method,
        "rank": _rank(rank),
        "noise": "auto" if noise == "auto" else _numbers(noise, "--noise", 1)[0],
        "nonnegative": "auto" if nonnegative is None else nonnegative,
        "keep_measured": "auto" if keep_measured is None else keep_measured,
        "device": device,
        "seed": seed,
        **_diffusion_options(method, prior, cache, samples, steps, guidance, fit_steps, allow_pickle),
    }
    outputs = {
        "OUT": target, "--outliers": outliers, "--uncertainty": uncertainty, "--invented": invented, "--report": report,
    }  # fmt: skip
    try:
        check_outputs({"IN": source, "--mask": mask}, outputs, PAGE_SUFFIXES)
        before = read(source, axes=axes)
        if spacing is not None:
            before = replace(before, spacing=_numbers(spacing, "--spacing", 3))
        measured = read_mask(mask, like=before) if mask is not None else None
        wanted = before.dtype if dtype == "input" else dtype
        small = Volume(np.zeros([2] * len(before.axes), float_type(before.dtype)), before.axes, before.spacing)
        rehearse(target, small, wanted)
        for path in (outliers, uncertainty, invented):
            if path is not None:
                rehearse(path, small)
        if not quiet:
            _say_cost(source, before, axial_factor)
        labels = [stack.label for stack in stacks(before)]
        with ProgressBar(labels, enabled=False if quiet else None) as bar:
            result = recover_volume(before, measured, callback=bar.update, **options)
        facts = {"input": source, "output": target, **reports.facts(before, result)}
        volume = _signed(result.volume, options)
        with staged([path for path in outputs.values() if path is not None]) as names:
            if report is not None:
                reports.write_report(names[report], before, result)
            if outliers is not None:
                write(names[outliers], replace(result.volume, data=result.outliers, spacing=before.spacing))
            if uncertainty is not None:
                write(names[uncertainty], replace(result.volume, data=result.uncertainty))
            if invented is not None:
                write(names[invented], replace(result.volume, data=result.invented))
            written = write(names[target], volume, dtype=wanted)
    except KeyboardInterrupt:
        states = [] if cache is None else list(cache.absolute().parent.glob(f"{cache.name}.*.state"))
        kept = f"; the same command goes on from the fit kept in {states[0]}" if states else ""
        raise _Interrupted(f"interrupted; nothing was written{kept}") from None
    stored = np.dtype(wanted or volume.dtype).name
    facts |= {
        "dtype": stored,
        "rounded": written.rounded,
        "clipped": written.clipped,
        "peak_memory_mib": _peak_memory(),
    }
    if written.rounded or written.clipped:
        facts["notes"].append(f"{written.rounded} voxels were rounded and {written.clipped} clipped to {stored}")
    if written.lost:
        facts["notes"].append(f"{written.format} does not hold: {', '.join(written.lost)}")
    if as_json:
        print(json.dumps(facts))
    elif not quiet:
        shape = " x ".join(map(str, volume.shape))
        print(f"{target}: {shape} {volume.axes}, {stored}; rank {facts['rank']}; {facts['seconds']:.1f} s")
        for line in (f"the fit {facts['status']}", *(n for n in facts["notes"] if not n.startswith("the fit "))):
            print(f"  {line}")


@app.command()
def diagnose(
    source: Annotated[str, typer.Argument(metavar="IN", help=SOURCE_HELP)],
    axial_factor: Annotated[int, typer.Option(help="s: the planes given are planes 0, s, 2s, ... of the stack.")] = 1,
    mask: Annotated[str | None, typer.Option(help="File of the input's shape, not zero = measured.")] = None,
    rank: Annotated[str, typer.Option(help="auto, one number, or three (z,y,x).")] = "auto",
    noise: Annotated[str, typer.Option(help="auto, or the standard deviation in the data's unit.")] = "auto",
    na: Annotated[float | None, typer.Option(help="Numerical aperture.")] = None,
    wavelength: Annotated[float | None, typer.Option(help="Emission wavelength in micrometres.")] = None,
    refractive_index: Annotated[float | None, typer.Option(help="Of the medium.")] = None,
    blocks: Annotated[bool, typer.Option("--blocks", help="Ranks of blocks, too.")] = False,
    html: Annotated[str | None, typer.Option(help="Write a page (.html).")] = None,
    fail_under: Annotated[str | None, typer.Option(help="Exit status 3 below: unlikely, likely or guaranteed.")] = None,
    axes: Annotated[str | None, typer.Option(help="Axes of the file where it does not say, such as TZYX.")] = None,
    spacing: Annotated[str | None, typer.Option(help="Voxel size dz,dy,dx in micrometres.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="For random subsets of voxels.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else.")] = False,
) -> None:
    """Say whether a stack was sampled densely enough to be recovered, by what, and on which grounds."""
    from tensorcell.diagnosis import VERDICTS
    from tensorcell.diagnosis import diagnose as diagnose_volume

    if fail_under is not None and fail_under not in VERDICTS[1:]:
        raise InputError(f"expected --fail-under {', '.join(VERDICTS[1:-1])} or {VERDICTS[-1]}, got {fail_under!r}")
    try:
        if html is not None:
            check_outputs({"IN": source, "--mask": mask}, {"--html": html}, PAGE_SUFFIXES)
        volume = read(source, axes=axes)
        if spacing is not None:
            volume = replace(volume, spacing=_numbers(spacing, "--spacing", 3))
        report = diagnose_volume(
            volume,
            read_mask(mask, like=volume) if mask is not None else None,
            axial_factor=axial_factor,
            noise="auto" if noise == "auto" else _numbers(noise, "--noise", 1)[0],
            rank=_rank(rank),
            na=na,
            wavelength=wavelength,
            refractive_index=refractive_index,
            blocks=blocks,
            seed=seed,
        )
        if html is not None:
            report.to_html(html)
    except KeyboardInterrupt:
        raise _Interrupted("interrupted; nothing was written") from None
    print(json.dumps(report.to_dict()) if as_json else report)
    if fail_under is not None and VERDICTS.index(report.verdict) < VERDICTS.index(fail_under):
        raise typer.Exit(MISSED)


@app.command()
def plan(
    source: Annotated[str, typer.Argument(metavar="IN", help="A densely sampled pilot stack; formats as for recover.")],
    target_nrmse: Annotated[float | None, typer.Option(help="Wanted error: at most this NRMSE.")] = None,
    target_psnr: Annotated[float | None, typer.Option(help="Wanted error: at least this PSNR in decibels.")] = None,
    axial_factors: Annotated[str, typer.Option(help="s: keep planes 0, s, 2s, ..., such as 1,2,3.")] = "1,2,3,4,6,8",
    pixel_fractions: Annotated[str, typer.Option(help="Shares of the pixels, such as 1,0.5.")] = "1",
    exposure_factors: Annotated[str, typer.Option(help="Shares of the exposure, such as 1,0.5.")] = "1",
    noise: Annotated[str, typer.Option(help="auto, or the standard deviation in the data's unit.")] = "auto",
    repeats: Annotated[int, typer.Option(min=1, help="Trials for each choice.")] = 1,
    html: Annotated[str | None, typer.Option(help="Write a page (.html).")] = None,
    axes: Annotated[str | None, typer.Option(help="Axes of the file where it does not say, such as ZYX.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="For pixels, noise and intervals.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else.")] = False,
) -> None:
    """Predict from a pilot stack how sparsely the next ones may be imaged."""
    from tensorcell.planning import plan as plan_sampling

    try:
        if html is not None:
            check_outputs({"IN": source}, {"--html": html}, PAGE_SUFFIXES)
        result = plan_sampling(
            read(source, axes=axes),
            axial_factors=_list(axial_factors, "--axial-factors", int),
            pixel_fractions=_list(pixel_fractions, "--pixel-fractions", float),
            exposure_factors=_list(exposure_factors, "--exposure-factors", float),
            target_nrmse=target_nrmse,
            target_psnr=target_psnr,
            noise="auto" if noise == "auto" else _numbers(noise, "--noise", 1)[0],
            seed=seed,
            repeats=repeats,
            progress=True,
        )
        if html is not None:
            result.to_html(html)
    except KeyboardInterrupt:
        raise _Interrupted("interrupted; nothing was written") from None
    print(json.dumps(result.to_dict(), allow_nan=False) if as_json else result)


@app.command()
def evaluate(
    sources: Annotated[list[str], typer.Argument(metavar="IN...", help="References; formats as for recover.")],
    out: Annotated[Path, typer.Option(help="Folder for finished cells, tables and pictures.")],
    methods: Annotated[
        str, typer.Option(help="Such as auto,bm4d,linear,bm4d+linear; all: every installed one.")
    ] = "all",
    cases: Annotated[str, typer.Option(help="Such as noise-0.05,planes or pixels; all: the whole grid.")] = "all",
    crop: Annotated[str | None, typer.Option(help="Take the centre: planes,rows,columns.")] = None,
    noise: Annotated[
        str, typer.Option(help="Its standard deviation: estimated by each method, or given to all.")
    ] = "estimated",
    paper_table: Annotated[
        bool, typer.Option("--paper-table", help="Clean, noise and planes alone, in the form of RCT's Table 2.")
    ] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Cells at a time; above 1, seconds mean less.")] = 1,
    time_limit: Annotated[float | None, typer.Option(help="Seconds after which a cell is given up.")] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Do failed and refused cells again.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="For the degradations and the methods.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else.")] = False,
) -> None:
    """Degrade references, restore them by several methods side by side, and score them; resumable."""
    from tensorcell import evaluation

    wanted = None if cases == "all" else cases.split(",")
    if paper_table and wanted is None:
        wanted = list(evaluation.TABLE_2)
    try:
        result = evaluation.evaluate(
            sources,
            out=out,
            methods=None if methods == "all" else methods.split(","),
            cases=wanted,
            crop=None if crop is None else _list(crop, "--crop", int),
            noise=noise,  # type: ignore[arg-type]
            seed=seed,
            jobs=jobs,
            time_limit=time_limit,
            retry=retry,
            progress=True,
        )
    except KeyboardInterrupt:
        raise _Interrupted(f"interrupted; finished cells are in {out}, the same command goes on from there") from None
    if as_json:
        print(json.dumps(result.to_dict(), allow_nan=False))
        return
    print(result.paper_tables() if paper_table else result.summary())
    print(result.sentence)


@app.command()
def train(
    sources: Annotated[list[str], typer.Argument(metavar="IN...", help="Stacks; formats as for recover.")],
    out: Annotated[Path, typer.Option(metavar="PRIOR", help="Folder that becomes the prior.")],
    kind: Annotated[str, typer.Option(help="lateral: of xy slices; volume: of densely sampled volumes.")] = "lateral",
    axial_factor: Annotated[int, typer.Option(help="s of the recoveries it is for; 1: a plain prior.")] = 1,
    minutes: Annotated[float | None, typer.Option(help="Time for the fit; default 5.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps in place of a time; reproducible.")] = None,
    noise: Annotated[str, typer.Option(help="auto, or the standard deviation in the data's unit.")] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from an interrupted fit.")] = False,
    axes: Annotated[str | None, typer.Option(help="Axes of the files where they do not say, such as TZYX.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="For weights, pieces and levels.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else.")] = False,
    quiet: Annotated[bool, typer.Option(help="No progress and no summary.")] = False,
) -> None:
    """Fit a prior to stacks, for recover --method diffusion --prior PRIOR."""
    sigma = None if noise == "auto" else _numbers(noise, "--noise", 1)[0]
    from tensorcell import train_command

    request = train_command.TrainRequest(
        sources=tuple(sources), out=out, kind=kind, axial_factor=axial_factor, minutes=minutes, steps=steps,
        noise=sigma, resume=resume, axes=axes, seed=seed, quiet=quiet,
    )  # fmt: skip
    try:
        facts = train_command.train(request)
    except KeyboardInterrupt:
        raise _Interrupted(train_command.how_to_go_on(request)) from None
    if as_json:
        print(json.dumps({**facts, "peak_memory_mib": _peak_memory()}, allow_nan=False))
    elif not quiet:
        print(train_command.summary(facts))


@app.command()
def demo(folder: Annotated[Path, typer.Argument(help="Where the files go.")] = Path("tensorcell-demo")) -> None:
    """Simulate cells, degrade them, recover them, and show the scores."""
    from tensorcell.demo import run_demo

    run_demo(folder)


def _diffusion_options(
    method: str, prior: str | None, cache: Path | None, samples: int | None, steps: int | None, guidance: str | None,
    fit_steps: int | None, allow_pickle: bool,
) -> dict[str, Any]:  # fmt: skip
    """Those given; with another method than diffusion none may be."""
    every = {
        "prior": prior, "cache": cache, "samples": samples, "steps": steps, "guidance": guidance,
        "fit_steps": fit_steps, "allow_pickle": allow_pickle or None,
    }  # fmt: skip
    given = {name: value for name, value in every.items() if value is not None}
    if given and method != "diffusion":
        name = next(iter(given)).replace("_", "-")
        raise InputError(f"expected --method diffusion with --{name}, got --method {method}")
    return given


def _rank(text: str) -> Any:
    if text == "auto":
        return "auto"
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"expected --rank auto, one whole number or three (z,y,x), got {text!r}") from None
    return numbers[0] if len(numbers) == 1 else tuple(numbers)


def _list(text: str, name: str, kind: type[int] | type[float]) -> Any:
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        what = "whole numbers" if kind is int else "numbers"
        raise InputError(f"expected {what} separated by commas for {name}, got {text!r}") from None


def _numbers(text: str, name: str, count: int) -> Any:
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != count:
        what = "a number" if count == 1 else f"{count} numbers separated by commas"
        raise InputError(f"expected {what} for {name}, got {text!r}")
    return numbers


def _say_cost(source: str, before: Volume, axial_factor: int) -> None:
    """One line on stderr before the work, on a terminal; and where memory is short, in any case."""
    planes = before.shape[before.axes.index("Z")]
    voxels = before.data.size // planes * ((planes - 1) * max(1, axial_factor) + 1)
    needed, there = BYTES_A_VOXEL * voxels / 2**20 + 300, _machine_memory()
    short = there is not None and needed > there
    if short or sys.stderr.isatty():
        more = f"; this machine has {there:.0f} MiB" if short else ""
        print(f"{source}: {before!r}; about {needed:.0f} MiB of memory will be needed{more}", file=sys.stderr)


def _machine_memory() -> float | None:
    """Memory of the machine in MiB, where the system tells."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20
    except (AttributeError, OSError, ValueError):
        return None


def _peak_memory() -> float | None:
    """Largest memory of this process so far in MiB, where the system tells."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def _signed(volume: Volume, options: dict[str, Any]) -> Volume:
    """The volume with a line in its metadata that says what was done, after the lines of earlier runs."""
    said = ", ".join(f"{name}={value}" for name, value in options.items())
    line = f"tensorcell {tensorcell.__version__} recover: {said}"
    before = volume.metadata.get("processing")
    return replace(volume, metadata={**volume.metadata, "processing": f"{before}\n{line}" if before else line})


class _Interrupted(Exception):
    """Ctrl-C, with what is to be said about it."""


def _fail(message: str, status: int) -> NoReturn:
    print("tensorcell: " + " ".join(message.split()), file=sys.stderr)
    raise SystemExit(status)


def main() -> None:
    """Run the command line; every error of the user's is one line on stderr and status 2.

    A request to terminate (as schedulers of clusters send it) is taken like Ctrl-C: nothing partial stays behind.
    """
    earlier = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        status = app(standalone_mode=False)
    except InputError as error:
        _fail(str(error), 2)
    except _Interrupted as error:
        _fail(str(error), INTERRUPTED)
    except (typer.Abort, KeyboardInterrupt):
        _fail("interrupted", INTERRUPTED)
    except MemoryError:
        _fail("not enough memory for this volume; crop it or use a machine with more", 2)
    except Exception as error:
        message = getattr(error, "format_message", None)  # usage errors of click, which typer may carry inside itself
        if message is None:
            raise
        if type(error).__name__ == "NoArgsIsHelpError":
            print(message())
            raise SystemExit(2) from None
        _fail(message(), 2)
    finally:
        signal.signal(signal.SIGTERM, earlier)
    if status == INTERRUPTED:  # some versions of typer turn Ctrl-C into this
        _fail("interrupted", INTERRUPTED)
    raise SystemExit(status or 0)
