"""Many files by one command: each is recovered by a process of its own, and what one of them does costs no other.

The folder of the outputs keeps a record, ``recovered.json``, of what became of each file. The same command goes on
where it was stopped: a file whose output is there, made of the same input with the same options, is not done again.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import tensorcell
from tensorcell.errors import InputError
from tensorcell.files import is_readable, split_path, suffix_of, writable_suffixes, write_whole

RECORD = "recovered.json"
"""Name of the record in the folder of the outputs."""

State = Literal["to do", "done", "refused"]

CHILD = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); "
    "from tensorcell.child_processes import end_with; end_with(int(sys.argv.pop(1))); "
    "from tensorcell.cli import main; main()"
)
"""What the process of a file runs, with our module search path, our number and the words of its command."""

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")

GOING_ON = ("--resume", "--no-resume")
"""Words of the command on which no output depends."""

PAUSE, PATIENCE = 0.05, 60.0
"""Seconds between two looks at the processes, and for a process that is asked to end to remove what is unfinished."""


@dataclass(frozen=True)
class Item:
    """One input, its output, and what is to be done with it."""

    source: str
    target: str
    state: State
    reason: str = ""
    """Why it is refused."""

    @property
    def name(self) -> str:
        """Name of the input without folder and suffix, which names its outputs."""
        return stem(Path(self.source))


@dataclass(frozen=True)
class Ended:
    """What became of an input."""

    item: Item
    seconds: float
    facts: Mapping[str, Any]
    """What the command says of the output as JSON; empty if there is none."""
    problem: str
    """The line that says why there is no output, or why it lacks a part; empty if nothing is wrong."""

    @property
    def written(self) -> bool:
        """Whether the output is there."""
        return bool(self.facts)


def stem(path: Path) -> str:
    """The name of a file without its suffix, such as ``.ome.tif``.

    >>> stem(Path("in/cell.1.ome.tif"))
    'cell.1'
    """
    suffix = suffix_of(path)
    return path.name[: len(path.name) - len(suffix)] if suffix else path.name


def is_pattern(source: str) -> bool:
    """Whether a path has signs of a pattern in it."""
    return glob.has_magic(source)


def inputs_of(sources: Sequence[str]) -> list[str]:
    """The files that paths, patterns (``in/*.tif``) and folders mean, each once, in the order of their names.

    Of a folder all files of a known format count.

    Raises
    ------
    InputError
        If a pattern fits no file, or a folder holds none of a known format.
    """
    found: list[str] = []
    for source in sources:
        path = Path(source)
        if path.is_dir() and not is_readable(path):
            fitting = [str(each) for each in sorted(path.iterdir()) if is_readable(each) and each.name[0] != "."]
            if not fitting:
                raise InputError(f"{source}: expected files of a known format in the folder, found none")
        elif is_pattern(source) and not path.exists():
            fitting = sorted(glob.glob(source, recursive=True))
            if not fitting:
                raise InputError(f"{source}: expected a pattern that fits a file, got one that fits none")
        else:
            fitting = [source]
        found += fitting
    return list(dict.fromkeys(found))


def planned(sources: Sequence[str], folder: Path, suffix: str | None, options: Sequence[str]) -> list[Item]:
    """What is to be done for each input.

    Parameters
    ----------
    sources : sequence of str
        Files, as :func:`inputs_of` finds them.
    folder : Path
        Of the outputs.
    suffix : str, optional
        Of the outputs; by default that of each input, if it can be written.
    options : sequence of str
        Words of the command that are the same for all files.

    Raises
    ------
    InputError
        If two inputs would have the same output, or an output would be an input.
    """
    record, items = read_record(folder), list[Item]()
    targets: dict[str, str] = {}
    for source in sources:
        file = split_path(source)[0]
        ending = suffix or suffix_of(file)
        if ending.lower() not in writable_suffixes():
            ending = ".ome.tif" if is_readable(file) else ending
        target = folder / f"{stem(file)}{ending}"
        other = targets.setdefault(str(target), source)
        if other != source:
            raise InputError(f"{target}: expected another output for {source} than for {other}, got the same")
        if target.exists() and any(os.path.samefile(target, split_path(each)[0]) for each in sources if exists(each)):
            raise InputError(f"{folder}: expected another folder for the outputs than that of the inputs, got the same")
        items.append(item_of(source, target, record.get(source), digest_of(source, target, options)))
    return items


def exists(source: str) -> bool:
    """Whether an input is there."""
    return split_path(source)[0].exists()


def item_of(source: str, target: Path, before: Mapping[str, Any] | None, digest: str) -> Item:
    """What is to be done for one input, which was recorded before or not."""
    file = split_path(source)[0]
    if not is_readable(file):
        return Item(source, str(target), "refused", f"the suffix {file.suffix!r} is unknown")
    if not file.exists():
        return Item(source, str(target), "refused", "no such file")
    if before is not None and before["digest"] == digest and not before["problem"] and target.exists():
        return Item(source, str(target), "done")
    if before is None and target.exists():
        reason = f"{target.name} exists already, not made by this command; remove it or name another folder"
        return Item(source, str(target), "refused", reason)
    return Item(source, str(target), "to do")


def digest_of(source: str, target: Path, options: Sequence[str]) -> str:
    """What an output depends on: the file as it is now, the options and the version."""
    try:
        about = split_path(source)[0].stat()
        stamp: tuple[int, ...] = (about.st_size, about.st_mtime_ns)
    except OSError:
        stamp = ()
    options = [word for word in options if word not in GOING_ON]
    said = json.dumps([source, target.name, stamp, options, tensorcell.__version__])
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def read_record(folder: Path) -> dict[str, dict[str, Any]]:
    """What was recorded of each input; nothing where there is no record.

    Raises
    ------
    InputError
        If the file is none of ours.
    """
    file = folder / RECORD
    if not file.exists():
        return {}
    try:
        return {each["input"]: {**each, "digest": each["digest"]} for each in json.loads(file.read_text())["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{file}: expected the record of an earlier run, got something else") from None


def run(
    items: Sequence[Item], folder: Path, options: Sequence[str], jobs: int, say: Callable[[Ended, int], Any]
) -> list[Ended]:
    """Recover the inputs that are to be done, ``jobs`` at a time; the record is written after each of them.

    Parameters
    ----------
    items : sequence of Item
    folder : Path
        Of the outputs; it exists.
    options : sequence of str
        Words of the command that are the same for all files; ``{name}`` stands for the name of each.
    jobs : int
    say : callable
        Called with what became of an input, and how many have ended so far.

    Returns
    -------
    list of Ended
        In the order in which they ended; those that were done before, or are refused, are not among them.
    """
    record, ended = read_record(folder), list[Ended]()
    wanted = [item for item in items if item.state == "to do"]
    for item in wanted:  # if this process is killed, an output that lies there without its facts is known for ours
        record[item.source] = entry_of(Ended(item, 0.0, {}, "was not finished"), options)
    write_record(folder, record)
    for one in processes(wanted, options, jobs):
        ended.append(one)
        record[one.item.source] = entry_of(one, options)
        write_record(folder, record)
        say(one, len(ended))
    return ended


def entry_of(one: Ended, options: Sequence[str]) -> dict[str, Any]:
    """What the record holds of an input."""
    return {
        "input": one.item.source,
        "output": one.item.target if one.written else None,
        "digest": digest_of(one.item.source, Path(one.item.target), options),
        "seconds": round(one.seconds, 2),
        "problem": one.problem,
        "facts": dict(one.facts),
    }


def write_record(folder: Path, record: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the record, whole or not at all."""
    files = [record[source] for source in sorted(record)]
    text = json.dumps({"tensorcell": tensorcell.__version__, "files": files}, indent=1, allow_nan=False)
    write_whole(folder / RECORD, text.encode())


class Running(NamedTuple):
    """The process of an input; what it says goes to files, since a pipe that nobody reads would stop it."""

    item: Item
    process: subprocess.Popen[bytes]
    begun: float
    out: IO[bytes]
    err: IO[bytes]

    def end(self) -> None:
        """Ask the process to end, and wait until it has."""
        self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.out.close()
        self.err.close()

    def outcome(self) -> Ended:
        """What became of the input, when the process has ended."""
        said = []
        for file in (self.out, self.err):
            file.seek(0)
            said.append(file.read().decode(errors="replace"))
            file.close()
        out, err = said
        lines = [line.removeprefix("tensorcell: ") for line in err.strip().splitlines()]
        try:
            facts = json.loads(out)
        except ValueError:
            facts = {}
        status = self.process.returncode
        problem = "" if status == 0 else lines[-1] if lines else ended_by(status)
        return Ended(self.item, time.perf_counter() - self.begun, facts, problem)


def processes(items: Sequence[Item], options: Sequence[str], jobs: int) -> Iterator[Ended]:
    """Run the command for each input; on any exception the processes are asked to end, and waited for."""
    queue, running = list(items), list[Running]()
    try:
        while queue or running:
            while queue and len(running) < jobs:
                running.append(started(queue.pop(0), options, jobs))
            for each in [each for each in running if each.process.poll() is not None]:
                running.remove(each)
                yield each.outcome()
            time.sleep(PAUSE)
    finally:
        for each in running:
            each.process.terminate()
        for each in running:
            each.end()


def started(item: Item, options: Sequence[str], jobs: int) -> Running:
    """The process of one input, which shares the processors with the others, and whose Ctrl-C comes from us."""
    words = [option.replace("{name}", item.name) for option in options]
    begin = [sys.executable, "-c", CHILD, json.dumps(sys.path), str(os.getpid())]
    command = [*begin, "recover", item.source, item.target, *words]
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    environment = {**dict.fromkeys(THREADS, threads), **os.environ} if jobs > 1 else dict(os.environ)
    out, err = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115 (they live as long as the process)
    process = subprocess.Popen(
        [*command, "--json", "--quiet"], stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment,
        start_new_session=True,
    )  # fmt: skip
    return Running(item, process, time.perf_counter(), out, err)


def ended_by(status: int) -> str:
    """How a process ended that said nothing.

    >>> ended_by(-9)
    'its process was ended by signal 9; if memory ran out, use fewer --jobs'
    """
    if status < 0:
        return f"its process was ended by signal {-status}; if memory ran out, use fewer --jobs"
    return f"its process ended with status {status}"
