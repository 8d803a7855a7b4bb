"""Cells in interpreters of their own: what one of them does to itself costs no other cell."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tensorcell.errors import InputError
from tensorcell.evaluation.cells import Cell, NotWrittenError, measure
from tensorcell.evaluation.methods import Method
from tensorcell.evaluation.store import CELLS
from tensorcell.evaluation.versions import plain_function
from tensorcell.files import write_whole
from tensorcell.files.temporary import mark_of

CHILD = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from tensorcell.child_processes import end_with; end_with(int(sys.argv[3])); "
    "from tensorcell.evaluation.processes import work; work(sys.argv[2])"
)
"""What the interpreter of a cell runs, with our module search path, the folder of the cell and our number."""

NOT_WRITTEN = 74
"""Exit status of an interpreter that cannot write what it found."""


def work(folder: str) -> None:
    """Do the cell of ``folder/task.pkl`` in this process, which was started for it."""
    with suppress(OSError):  # on Linux: when memory runs out, the system ends this process before its parent
        Path("/proc/self/oom_score_adj").write_text("1000")
    try:
        write_whole(Path(folder) / "found.json", json.dumps(attempt(Path(folder))).encode())
    except (InputError, NotWrittenError):
        raise SystemExit(NOT_WRITTEN) from None


def attempt(folder: Path) -> dict[str, Any]:
    """What `measure` finds for the cell of a folder, or the reason why it finds nothing."""
    try:
        cell, data = pickle.loads((folder / "task.pkl").read_bytes())
        cell = replace(cell, reference=cell.reference._replace(data=np.load(data, mmap_mode="r")))
        return measure(cell, folder / "slices.npz")
    except NotWrittenError:
        raise
    except InputError as error:
        return {"status": f"refused: {' '.join(str(error).split())}"}
    except MemoryError:
        return {"status": "failed: not enough memory"}
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return {"status": f"failed: {reason}", "traceback": traceback.format_exc()}


class Finished(NamedTuple):
    """A cell that was run, whatever came of it."""

    cell: Cell
    found: dict[str, Any]
    """What `measure` found, or a status with the reason why it found nothing."""
    slices: Path | None
    """File of the slices for a picture."""
    seconds: float
    """Wall time, the start of the interpreter included."""


class _Running(NamedTuple):
    cell: Cell
    process: subprocess.Popen[bytes]
    folder: Path
    begun: float

    def late(self, time_limit: float | None) -> bool:
        """Whether the cell takes longer than it may."""
        return time_limit is not None and time.perf_counter() - self.begun > time_limit

    def end(self) -> None:
        """Kill the process."""
        self.process.kill()
        self.process.wait()

    def finished(self, time_limit: float | None) -> Finished:
        """The outcome of a process that has ended; one that has not is late and is killed."""
        if self.process.poll() is None:
            self.end()
            found: dict[str, Any] = {"status": f"failed: over the time limit of {time_limit:g} s"}
        else:
            found = _outcome(self)
        slices = self.folder / "slices.npz"
        return Finished(self.cell, found, slices if slices.exists() else None, time.perf_counter() - self.begun)


def run_cells(cells: Sequence[Cell], folder: Path, jobs: int, time_limit: float | None) -> Iterator[Finished]:
    """Run cells, ``jobs`` of them at a time, with scratch files in the folder; yields each as it ends.

    The scratch files are named as unfinished ones of `CELLS`: the next run removes them if this process is killed.

    Raises
    ------
    InputError
        If the disk does not take what a cell found.
    """
    queue, running = list(cells), list[_Running]()
    with tempfile.TemporaryDirectory(prefix=mark_of(folder / CELLS), dir=folder, ignore_cleanup_errors=True) as scratch:
        try:
            while queue or running:
                while queue and len(running) < jobs:
                    running.append(_start(queue.pop(0), Path(scratch)))
                ended = [run for run in running if run.process.poll() is not None or run.late(time_limit)]
                for run in ended:
                    running.remove(run)
                    yield run.finished(time_limit)
                if not ended:
                    time.sleep(0.02)
        finally:
            for run in running:
                run.end()


def _start(cell: Cell, scratch: Path) -> _Running:
    """A fresh interpreter for one cell, in a session of its own: Ctrl-C reaches only this process, which ends it."""
    folder = prepare(cell, scratch)
    command = [sys.executable, "-c", CHILD, json.dumps(sys.path), str(folder), str(os.getpid())]
    quiet = subprocess.DEVNULL
    with (folder / "stderr").open("wb") as errors:
        process = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=errors, start_new_session=True)
    return _Running(cell, process, folder, time.perf_counter())


def prepare(cell: Cell, scratch: Path) -> Path:
    """A folder with the task of a cell; the voxels of a reference lie beside it, once for all its cells."""
    data = scratch / f"{cell.reference.digest}.npy"
    if not data.exists():
        np.save(data, cell.reference.data)
    folder = Path(tempfile.mkdtemp(dir=scratch))
    light = replace(cell, reference=cell.reference._replace(data=np.zeros(0, np.float32)))
    (folder / "task.pkl").write_bytes(pickle.dumps((light, str(data))))
    return folder


def _outcome(run: _Running) -> dict[str, Any]:
    """What a process wrote, or how it ended if it wrote nothing."""
    result = run.folder / "found.json"
    if result.exists():
        found: dict[str, Any] = json.loads(result.read_text())
        return found
    status = run.process.returncode
    if status == NOT_WRITTEN:
        raise InputError(f"{run.folder.parent.parent}: cannot be written (is the disk full?)")
    said = (run.folder / "stderr").read_text(errors="replace").strip().splitlines()
    reason = f"ended with status {status}" if status >= 0 else f"killed by signal {-status}"
    if status == -9:
        reason += ", most likely for lack of memory"
    return {"status": f"failed: {reason}" + (f": {said[-1][:200]}" if said else "")}


def check_importable(method: Method) -> None:
    """Refuse a method whose function a fresh interpreter would not find by its module and name."""
    try:
        pickle.dumps(method)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise InputError(
            f"method {method.name} must be a function of a module, not a lambda or local: {error}"
        ) from None
    if plain_function(method.run).__module__ == "__main__":
        raise InputError(
            f"method {method.name} must be a function of an importable module, got one of the script itself"
        )
