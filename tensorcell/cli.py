"""The command line: ``tensorcell recover`` and ``tensorcell demo``.

Exit status 0: done; 1: a defect of ours; 2: the user's input, one line on stderr; 130: interrupted.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import numpy as np
import typer
from typer.core import TyperGroup

import tensorcell
from tensorcell.errors import InputError
from tensorcell.files import cast, check_writable, read, read_mask, same_file, split_path, write
from tensorcell.progress import ProgressBar
from tensorcell.recovery import recover as recover_volume
from tensorcell.volume import Volume

app = typer.Typer(
    help="Recover 3-D and 4-D microscopy volumes from too few, too noisy measurements.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    cls=TyperGroup,
)

INTERRUPTED = 130
BYTES_A_VOXEL = 26
"""Measured peak of a recovery from file to file: input, masks, output, and a few slabs."""


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
    source: Annotated[str, typer.Argument(metavar="IN", help="TIFF, OME-TIFF, HDF5 (file.h5:/path), .npy or .npz")],
    target: Annotated[str, typer.Argument(metavar="OUT", help="Output; its suffix says the format.")],
    axial_factor: Annotated[int, typer.Option(help="s: the planes given are planes 0, s, 2s, ... of the output.")] = 1,
    method: Annotated[str, typer.Option(help="auto or tucker")] = "auto",
    rank: Annotated[str, typer.Option(help="auto, one number, or three (z,y,x).")] = "auto",
    noise: Annotated[str, typer.Option(help="auto, or the standard deviation in the data's unit.")] = "auto",
    mask: Annotated[str | None, typer.Option(help="File of the input's shape, not zero = measured.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    outliers: Annotated[str | None, typer.Option(help="Write what was taken out to this file.")] = None,
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
    seed: Annotated[int, typer.Option(help="For the choice of left-out voxels.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else.")] = False,
    quiet: Annotated[bool, typer.Option(help="No progress and no summary.")] = False,
) -> None:
    """Recover a stack: fill gaps and planes, remove outliers, reduce noise."""
    from tensorcell import reports

    outputs = {"OUT": target, "--outliers": outliers, "--report": report}
    _check_outputs(source, mask, outputs)
    if dtype not in (None, "input"):
        cast(np.zeros(0, np.float32), dtype)  # complain before the work rather than after it
    before = read(source, axes=axes)
    if spacing is not None:
        before = Volume(before.data, before.axes, _numbers(spacing, "--spacing", 3), before.mask, before.metadata)
    measured = read_mask(mask, like=before) if mask is not None else None
    planes = before.shape[before.axes.index("Z")]
    voxels = before.data.size // planes * ((planes - 1) * max(1, axial_factor) + 1)
    if not quiet and sys.stderr.isatty():
        needed = BYTES_A_VOXEL * voxels / 2**20 + 300
        print(f"{source}: {before!r}; about {needed:.0f} MiB of memory will be needed", file=sys.stderr)
    with ProgressBar(enabled=False if quiet else None) as bar:
        result = recover_volume(
            before,
            measured,
            axial_factor=axial_factor,
            method=method,  # type: ignore[arg-type]
            rank=_rank(rank),
            noise="auto" if noise == "auto" else _numbers(noise, "--noise", 1)[0],
            nonnegative="auto" if nonnegative is None else nonnegative,
            keep_measured="auto" if keep_measured is None else keep_measured,
            device=device,  # type: ignore[arg-type]
            seed=seed,
            callback=bar.update,
        )
    facts = {"input": source, "output": target, **reports.facts(before, result)}
    with _all_or_nothing(outputs):
        if report is not None:
            reports.write_report(report, before, result)
        if outliers is not None:
            write(outliers, Volume(result.outliers, before.axes, before.spacing))
        wanted = before.dtype if dtype == "input" else dtype
        note = f"tensorcell {tensorcell.__version__} recover, axial factor {axial_factor}, rank {facts['rank']}"
        volume = result.volume
        volume = Volume(volume.data, volume.axes, volume.spacing, None, {**volume.metadata, "processing": note})
        written = write(target, volume, dtype=wanted)
    facts |= {"dtype": str(wanted or volume.dtype), "rounded": written.rounded, "clipped": written.clipped}
    if written.rounded or written.clipped:
        facts["notes"].append(f"{written.rounded} voxels were rounded and {written.clipped} clipped to {wanted}")
    if as_json:
        print(json.dumps(facts))
    elif not quiet:
        print(f"{target}: {volume!r}; the fit {facts['status']}; rank {facts['rank']}; {facts['seconds']:.1f} s")
        for line in facts["notes"]:
            print(f"  {line}")


@app.command()
def demo(folder: Annotated[Path, typer.Argument(help="Where the files go.")] = Path("tensorcell-demo")) -> None:
    """Simulate cells, degrade them, recover them, and show the scores."""
    from tensorcell.demo import run_demo

    run_demo(folder)


def _rank(text: str) -> Any:
    if text == "auto":
        return "auto"
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"expected --rank auto, one whole number or three (z,y,x), got {text!r}") from None
    return numbers[0] if len(numbers) == 1 else tuple(numbers)


def _numbers(text: str, name: str, count: int) -> Any:
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != count:
        what = "a number" if count == 1 else f"{count} numbers separated by commas"
        raise InputError(f"expected {what} for {name}, got {text!r}")
    return numbers


def _check_outputs(source: str, mask: str | None, outputs: dict[str, str | None]) -> None:
    """Refuse outputs that cannot be written, or that would replace an input or each other, before any work."""
    inputs = {"IN": source, "--mask": mask}
    given = [(name, path) for name, path in outputs.items() if path is not None]
    for place, (name, path) in enumerate(given):
        for other, used in [(k, v) for k, v in inputs.items() if v is not None] + given[:place]:
            if same_file(split_path(path)[0], split_path(used)[0]):
                raise InputError(f"{path}: expected another file for {name} than for {other}, got the same")
        check_writable(path, (".png", ".html") if name == "--report" else None)


@contextmanager
def _all_or_nothing(outputs: dict[str, str | None]) -> Iterator[None]:
    """Remove the outputs that this run made if a later one fails."""
    files = [split_path(path)[0] for path in outputs.values() if path is not None]
    new = [file for file in files if not file.exists()]
    try:
        yield
    except BaseException:
        for file in new:
            file.unlink(missing_ok=True)
        raise


def _fail(message: str, status: int) -> NoReturn:
    print("tensorcell: " + " ".join(message.split()), file=sys.stderr)
    raise SystemExit(status)


def main() -> None:
    """Run the command line; every error of the user's is one line on stderr and status 2."""
    try:
        status = app(standalone_mode=False)
    except InputError as error:
        _fail(str(error), 2)
    except (typer.Abort, KeyboardInterrupt):
        status = INTERRUPTED
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
    if status == INTERRUPTED:  # typer turns Ctrl-C into this status
        _fail("interrupted; nothing was written", INTERRUPTED)
    raise SystemExit(status or 0)
