"""``tensorcell recover`` with several inputs: a plan first, then one process for each file."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from tensorcell import batch
from tensorcell.cli.exits import Interrupted
from tensorcell.cli.screen import show
from tensorcell.errors import InputError
from tensorcell.files import check_writable, claimed, is_readable
from tensorcell.files.plane_files import natural_order
from tensorcell.solvers.iteration import duration

OWN = ("paths", "out", "jobs", "suffix", "dry_run", "as_json", "quiet", "verbose")
"""Parameters that are not passed on to the processes."""

PER_FILE = ("outliers", "uncertainty", "invented", "report", "mask")
"""Parameters that name a file, of which each input has one of its own."""


def are_many(sources: Sequence[str], target: str) -> bool:
    """Whether several files are meant, each with an output of its own in a folder, and not the planes of one stack."""
    (first, *others) = sources
    several = bool(others) or (not os.path.exists(first) and batch.is_pattern(first))
    several |= os.path.isdir(first) and not is_readable(Path(first))
    return several and not is_readable(Path(target))


def one_stack(sources: Sequence[str]) -> str | list[str]:
    """What `read` is to be given for one output: a file or folder, or the files with the planes of a stack."""
    (first, *others) = sources
    if not others and (os.path.exists(first) or not batch.is_pattern(first)):
        return first
    return sorted(batch.inputs_of(sources), key=natural_order)


def words_of(context: typer.Context) -> list[str]:
    """The words of the command that are the same for all files, as the processes are given them.

    A file whose recovery was stopped is gone on with unless the user says otherwise, as the folder is.

    Raises
    ------
    InputError
        If a file is named that all inputs would share.
    """
    words = ["--resume"] if context.params.get("resume") is None else []
    for parameter in context.command.params:
        name, value = str(parameter.name), context.params.get(str(parameter.name))
        if name in OWN or value is None or value == parameter.default:
            continue
        if name in PER_FILE and "{name}" not in str(value):
            raise InputError(f"expected {{name}} in --{name}, which stands for the name of each input, got {value!r}")
        if value is True or value is False:
            words.append((parameter.opts if value else parameter.secondary_opts)[-1])
        else:
            words += [parameter.opts[-1], str(value)]
    return words


def recover_many(
    context: typer.Context,
    sources: Sequence[str],
    target: str,
    *,
    jobs: int,
    suffix: str | None,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Recover several files; one that cannot be recovered does not stop the others.

    Raises
    ------
    InputError
        If the plan cannot be made, or at the end if a file was not recovered.
    """
    folder, options = Path(target), words_of(context)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: expected a folder for the outputs of several inputs, got a file")
    items = batch.planned(batch.inputs_of(sources), folder, suffix, options)
    if dry_run:
        show(json.dumps([vars(item) for item in items]) if as_json else plan_in_words(items), data=as_json)
        refuse_refused(items)
        return
    ours = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    check_writable(folder / batch.RECORD, [".json"])
    count = sum(item.state == "to do" for item in items)

    def say(one: batch.Ended, number: int) -> None:
        if not quiet:
            outcome = one.problem or f"{one.item.target} in {duration(one.seconds)}"
            print(f"{number} of {count}: {one.item.source}: {outcome}", file=sys.stderr, flush=True)

    try:
        with claimed([folder / batch.RECORD]):
            ended = batch.run(items, folder, options, jobs, say)
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted; what is finished is in {folder}, the same command goes on from there"
        ) from None
    finally:
        if ours and not any(folder.iterdir()):
            folder.rmdir()
    if as_json:
        show(json.dumps(summary_of(items, ended)), data=True)
    elif not quiet:
        show(summary_in_words(items, ended, folder))
    problems = [one for one in ended if one.problem]
    if problems:
        first = problems[0]
        raise InputError(
            f"{len(problems)} of {len(items)} files have problems, first {first.item.source}: {first.problem}"
        )
    refuse_refused(items)


def refuse_refused(items: Sequence[batch.Item]) -> None:
    """Raise `InputError` if an input cannot be recovered."""
    refused = [item for item in items if item.state == "refused"]
    if refused:
        first = refused[0]
        raise InputError(f"{len(refused)} of {len(items)} files are refused, first {first.source}: {first.reason}")


def plan_in_words(items: Sequence[batch.Item]) -> str:
    """A line for each input.

    >>> print(plan_in_words([batch.Item("a.tif", "out/a.tif", "to do")]))
    a.tif -> out/a.tif: to do
    1 to do, 0 done, 0 refused
    """
    lines = [f"{item.source} -> {item.target}: {item.reason or item.state}" for item in items]
    counts = [f"{sum(item.state == state for item in items)} {state}" for state in ("to do", "done", "refused")]
    return "\n".join([*lines, ", ".join(counts)])


def summary_of(items: Sequence[batch.Item], ended: Sequence[batch.Ended]) -> dict[str, Any]:
    """What became of each input, as JSON holds it."""
    files = [
        {
            "input": one.item.source,
            "output": one.item.target if one.written else None,
            "problem": one.problem,
            "facts": dict(one.facts),
        }
        for one in ended
    ]
    return {
        "files": files,
        "done_before": [item.source for item in items if item.state == "done"],
        "refused": {item.source: item.reason for item in items if item.state == "refused"},
    }


def summary_in_words(items: Sequence[batch.Item], ended: Sequence[batch.Ended], folder: Path) -> str:
    """One line."""
    written, before = sum(one.written for one in ended), sum(item.state == "done" for item in items)
    earlier = f", {before} were there before" if before else ""
    return f"{folder}: {written} of {len(items)} files recovered{earlier}; {batch.RECORD} says what became of each"
