"""``tensorcell recover`` of a volume that does not fit into the memory: part by part."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorcell.cli.exits import Identity, Interrupted, identity_of, written_or_not
from tensorcell.cli.memory import peak_memory
from tensorcell.cli.screen import said_of, show, summary
from tensorcell.device import choose_device, free_on
from tensorcell.errors import InputError
from tensorcell.files import split_path
from tensorcell.large.cluster import connected
from tensorcell.large.journal import read_journal, unfinished_name
from tensorcell.large.plan import checked_memory, memory_of_parts
from tensorcell.large.recovery import METHODS_IN_PARTS, Progress, recover_file
from tensorcell.lazy_volume import LazyVolume, lazy_stacks
from tensorcell.memory import free_memory, peak_of_recovery
from tensorcell.pages.parts import write_report
from tensorcell.plane_grid import wanted_grid
from tensorcell.progress import CountBar, is_terminal
from tensorcell.solvers.results import Status


def goes_in_parts(
    volume: LazyVolume, options: dict[str, Any], memory: str | None, resume: bool | None, target: str
) -> bool:
    """Whether the volume needs more memory than there is, or a stack of it more than is free on the GPU that is asked
    for, or an earlier run on this output was in parts."""
    allowed = checked_memory(memory)
    earlier = journal_name(target)
    if resume is not False and earlier.exists():
        if read_journal(earlier).in_parts:
            return True
        if allowed is None:
            return False
    allowed = free_memory() if allowed is None else allowed
    grid = wanted_grid(volume, options["axial_factor"], options["spacing_z"], options["lateral_factor"])
    voxels = math.prod(volume.shape) * grid.planes / volume.planes * options["lateral_factor"] ** 2
    if allowed is None or peak_of_recovery(voxels, volume.dtype) > allowed:
        return allowed is not None
    if options["method"] not in METHODS_IN_PARTS or options["time_limit"] is not None:
        return False
    of_stack = peak_of_recovery(voxels / sum(1 for _ in lazy_stacks(volume)), volume.dtype)
    return of_stack > memory_of_parts(math.inf, free_on(choose_device(options["device"])))


def recover_in_parts(
    given: str | Sequence[str] | LazyVolume, source: str, outputs: Mapping[str, str | None], volume: LazyVolume,
    scheduler: str | None, *, mask: str | LazyVolume | None, reading: Mapping[str, Any], layout: Mapping[str, Any],
    options: Mapping[str, Any], quiet: bool, as_json: bool, **further: Any,
) -> None:  # fmt: skip
    """Recover part by part, and say what was done.

    Parameters
    ----------
    given : str, sequence of str or LazyVolume
        The input, its planes, or a part of it.
    source : str
        What it is called.
    outputs : dict
        Paths by the names of the options.
    volume : LazyVolume
        The input, of which the report shows a part.
    scheduler : str, optional
        Address of the scheduler of a cluster.
    mask : str or LazyVolume, optional
    reading, layout, options, further : dict
        What `recover_file` takes beside.
    quiet, as_json : bool
        How it is said.
    """
    target = str(outputs["OUT"])
    before = identity_of(target)
    maps: dict[str, Any] = {name: outputs[f"--{name}"] for name in ("uncertainty", "invented", "outliers")}
    with contextlib.ExitStack() as stack:
        try:
            client = None if scheduler is None else stack.enter_context(connected(scheduler))
            bar = stack.enter_context(PartsBar(enabled=False if quiet else None))
            result = recover_file(
                given, target, mask=mask, progress=bar.update, client=client, **maps, **reading, **layout, **options,
                **further,
            )  # fmt: skip
        except KeyboardInterrupt:
            raise Interrupted(f"interrupted; {kept(target, before)}") from None
    if outputs["--report"] is not None:
        grid = wanted_grid(volume, options["axial_factor"], options["spacing_z"], options["lateral_factor"])
        try:
            write_report(
                outputs["--report"], volume, result, grid=grid, mask=mask, missing_value=options["missing_value"],
                **maps,
            )  # fmt: skip
        except KeyboardInterrupt:
            raise Interrupted(f"interrupted; {target} was written, its report was not") from None
        except InputError as error:
            raise InputError(f"{target} was written, but its report was not: {error}") from None
    facts = {"input": source, "output": target, **result.facts(), "peak_memory_mib": peak_memory()}
    if as_json:
        show(json.dumps(facts), data=True)
    elif not quiet:
        show(summary(facts, f"{result.parts} part{'' if result.parts == 1 else 's'}"))
    if result.not_recovered and result.status is Status.NOT_RECOVERED:
        raise InputError(f"{target} was written, but {said_of(result.not_recovered)}")


def journal_name(target: str) -> Path:
    """Where a run on this output has its journal."""
    return unfinished_name(split_path(target)[0], ".journal")


def kept(target: str, before: Identity) -> str:
    """What is left of a run that was stopped; ``before`` it lay at the output."""
    try:
        finished = read_journal(journal_name(target)).finished
    except InputError:
        return written_or_not(target, before)
    return f"{finished.replace(' ', ' finished ')} of {target} are kept; the same command with --resume goes on"


class PartsBar(CountBar):
    """Context manager that shows how many parts are done, and what is left."""

    def __init__(self, *, enabled: bool | None) -> None:
        super().__init__("opening the file", 1, enabled=enabled)

    def update(self, at: Progress) -> None:
        """Show one report."""
        stages = {"plan": "planned", "survey": "reading", "sample": "sample", "parts": "parts"}
        if at.stage == "plan":
            if is_terminal():
                self.screen.say(at.message)
            return
        self.total = at.parts
        self.at(at.done, at.left, f"{at.label}: {stages[at.stage]}" if at.label else stages[at.stage])
