"""``tensorcell recover`` of a volume that fits into the memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tensorcell.checkpoint import Checkpoint
from tensorcell.cli.exits import Interrupted, identity_of
from tensorcell.cli.in_parts import kept
from tensorcell.cli.memory import peak_memory, say_cost
from tensorcell.cli.reading import Box, read_box
from tensorcell.cli.screen import said_of, show, summary
from tensorcell.errors import InputError
from tensorcell.files import Written, claimed, open_volume, read, read_mask, rehearse, split_path, staged, write
from tensorcell.large.outputs import check_owners, discard
from tensorcell.memory import bytes_of_recovery, check_affordable
from tensorcell.missing_value import without_value
from tensorcell.pages import recovery as reports
from tensorcell.plane_grid import wanted_grid
from tensorcell.processing import processed
from tensorcell.progress import ProgressBar
from tensorcell.recovered import Recovery
from tensorcell.recovery import recover
from tensorcell.stack import float_type
from tensorcell.volume import Volume, stacks

Outputs = Mapping[str, str | None]
"""Paths by the names of the options; OUT is there always."""

MAPS = ("--outliers", "--uncertainty", "--invented")
"""The outputs beside OUT that are volumes."""


def recover_in_memory(
    given: str | Sequence[str], source: str, outputs: Outputs, *, resume: bool | None, mask: str | None, dtype: Any,
    spacing: tuple[float, float, float] | None, cache: str | None, reading: Mapping[str, Any],
    layout: Mapping[str, Any], options: Mapping[str, Any], box: Box | None, quiet: bool, as_json: bool,
) -> None:  # fmt: skip
    """Recover, write all outputs or none, and say what was done.

    Parameters
    ----------
    given : str or sequence of str
        The input, or its planes.
    source : str
        What it is called.
    outputs : dict
    resume, mask, dtype, spacing, cache
        As the command has them.
    reading, layout, options : dict
        What `read`, `write` and `recover` take beside.
    box : tuple of slice, optional
        What is to be read of the input; None: the whole.
    quiet, as_json : bool
        How it is said.
    """
    target = str(outputs["OUT"])
    before_run = identity_of(target)
    files = [split_path(path)[0] for path in outputs.values() if path is not None]
    others = [split_path(path)[0] for flag in MAPS if (path := outputs[flag]) is not None]
    try:
        with claimed(files if cache is None else [*files, Path(cache)]):
            check_owners(split_path(target)[0], others)
            if box is None:
                before = read(given, **reading)
                if spacing is not None:
                    before = replace(before, spacing=spacing)
                measured = read_mask(mask, like=before) if mask is not None else None
            else:
                lazy = open_volume(given, **reading)
                before, measured = read_box(replace(lazy, spacing=spacing or lazy.spacing), mask, box)
            wanted = before.dtype if dtype == "input" else dtype
            rehearse_all(before, outputs, wanted, layout)
            grid = wanted_grid(before, options["axial_factor"], options["spacing_z"], options["lateral_factor"])
            checkpoint = Checkpoint(split_path(target)[0], resume)
            if resume is False or not checkpoint.exists:
                discard(split_path(target)[0], others)
            check_affordable(before, grid, bytes_of_recovery(before), lateral_factor=options["lateral_factor"])
            if not quiet:
                say_cost(source, before, grid)
            kept_before = checkpoint.labels()
            labels = [stack.label for stack in stacks(before) if stack.label not in kept_before]
            with ProgressBar(labels, enabled=False if quiet else None) as bar:
                result = recover(before, measured, callback=bar.update, checkpoint=checkpoint, **options)
            facts = {"input": source, "output": target, **reports.facts(before, result)}
            fitting, lost_type = storable(wanted, result)
            measurement, _ = without_value(Volume.from_array(before, mask=measured), options["missing_value"])
            signed = replace(result.volume, metadata=processed(result.volume.metadata, options))
            written = write_all(outputs, measurement, result, signed, fitting, layout)
            checkpoint.remove()
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; {kept(target, before_run)}{how_to_go_on(cache)}") from None
    stored = np.dtype(fitting or result.volume.dtype).name
    notes = [*facts["notes"], *lost_type, *([checkpoint.problem] if checkpoint.problem else [])]
    if written.rounded or written.clipped:
        notes.append(f"{written.rounded} voxels were rounded and {written.clipped} clipped to {stored}")
    if written.lost:
        notes.append(f"{written.format} does not hold: {', '.join(written.lost)}")
    facts |= {
        "dtype": stored,
        "notes": notes,
        "rounded": written.rounded,
        "clipped": written.clipped,
        "peak_memory_mib": peak_memory(),
    }
    if as_json:
        show(json.dumps(facts), data=True)
    elif not quiet:
        show(summary(facts, f"rank {facts['rank']}"))
    if result.not_recovered:
        raise InputError(f"{target} was written, but {said_of(result.not_recovered)}")


def storable(wanted: Any, result: Recovery) -> tuple[Any, tuple[str, ...]]:
    """The data type of OUT, and a note if it is not the wanted one, since no integer stands for NaN."""
    if wanted is None or np.dtype(wanted).kind == "f" or not result.not_recovered:
        return wanted, ()
    note = f"OUT is {result.volume.dtype}: NaN, which {np.dtype(wanted)} does not hold, marks what was not recovered"
    return None, (note,)


def rehearse_all(before: Volume, outputs: Outputs, wanted: Any, layout: Mapping[str, Any]) -> None:
    """Write small volumes of the kinds that are to come, so that a format refuses them before the work is done."""
    small = Volume(np.zeros([2] * len(before.axes), float_type(before.dtype)), before.axes, before.spacing)
    rehearse(str(outputs["OUT"]), small, wanted, **layout)
    for flag in MAPS:
        if (path := outputs[flag]) is not None:
            rehearse(path, small, **layout)


def write_all(
    outputs: Outputs, before: Volume, result: Recovery, volume: Volume, wanted: Any, layout: Mapping[str, Any]
) -> Written:
    """Write all outputs or none."""
    maps: dict[str, Callable[[], Volume]] = {
        "--outliers": lambda: replace(result.volume, data=result.outliers, spacing=before.spacing),
        "--uncertainty": lambda: replace(result.volume, data=result.uncertainty),
        "--invented": lambda: replace(result.volume, data=result.invented),
    }
    with staged([path for path in outputs.values() if path is not None]) as names:
        report = outputs["--report"]
        if report is not None:
            reports.write_report(names[report], before, result)
        for flag, values in maps.items():
            path = outputs[flag]
            if path is not None:
                write(names[path], values(), **layout)
        return write(names[str(outputs["OUT"])], volume, dtype=wanted, **layout)


def how_to_go_on(cache: str | None) -> str:
    """The message after Ctrl-C on a fit whose state was kept beside the cache."""
    if cache is None:
        return ""
    folder = Path(cache).absolute()
    states = list(folder.parent.glob(f"{folder.name}.*.state"))
    return f"; the same command goes on from the fit kept in {states[0]}" if states else ""
