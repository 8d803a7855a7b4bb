"""What a recovery in memory has finished of several stacks, on disk, so that another run goes on after a kill.

Beside the output lie, under hidden names, a journal (`tensorcell.large.journal`), and a folder with the arrays of the
stacks that it names. What is kept together is one file, and has its lines in the journal only when it has reached the
disk. The last stack is not kept: nothing is left to go on with.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorcell import version
from tensorcell.errors import InputError
from tensorcell.files import claimed
from tensorcell.files.formats import FilePath
from tensorcell.files.messages import reason
from tensorcell.files.temporary import remove
from tensorcell.large.journal import KEPT, Journal, read_journal, unfinished_name
from tensorcell.series import Keep, Window
from tensorcell.solvers import IterationRecord, Status
from tensorcell.solvers.units import Unit
from tensorcell.stack_recovery import StackResult
from tensorcell.volume import Volume, stacks

Array = npt.NDArray[Any]

EVERY = 60.0
"""Seconds of work that a kill may lose beside the stack under way: short runs write nothing."""

HELD = 1 << 28
"""Bytes of finished stacks that are written down earlier, so that they are not held twice for long."""

ARRAYS = ("volume", "uncertainty", "measured", "positions", "values", "samples")
"""The fields of a result that are arrays."""


class Checkpoint:
    """The finished stacks of a recovery.

    Parameters
    ----------
    output : path
        The output beside which they are kept; the run must hold it (`tensorcell.files.claimed`).
    resume : bool or None
        What to do where an earlier run was stopped, see `Journal.of`.

    Attributes
    ----------
    problem : str
        Why no more stacks are kept; empty where they are.
    """

    def __init__(self, output: FilePath, resume: bool | None = None) -> None:
        self.output, self.resume, self.problem = Path(output), resume, ""
        self.folder = unfinished_name(self.output, KEPT)
        self.files: dict[str, int] = {}
        self.pending: dict[str, tuple[Sequence[str], Window]] = {}
        self.last = time.monotonic()

    @property
    def exists(self) -> bool:
        """Whether an earlier run left something."""
        return unfinished_name(self.output, ".journal").exists()

    def labels(self) -> list[str]:
        """The stacks that this run will take from an earlier one."""
        if not (self.resume and self.exists):
            return []
        parts = read_journal(unfinished_name(self.output, ".journal")).parts
        return [label for facts in parts.values() for label in facts.get("stacks", ())]

    def begin(self, job: Mapping[str, Any]) -> None:
        """Begin, or go on with the same job; see `Journal.of` for what is raised."""
        self.journal = Journal.of(self.output, job, self.resume)
        self.files = dict(self.journal.parts.keys())
        self.last = time.monotonic()

    def once(self, labels: Sequence[str], find: Callable[[], Window]) -> Window:
        """What was found of a window with the results of these stacks; it is kept when the next window begins.

        Raises
        ------
        InputError
            If what an earlier run kept cannot be read.
        """
        name = labels[0]
        if name in self.files:
            return self._read(name)
        held = sum(bytes_of(window) for _, window in self.pending.values())
        if self.pending and (held > HELD or time.monotonic() - self.last >= EVERY):
            self._keep()
        found = find()
        if not self.problem:
            self.pending[name] = labels, found
        return found

    def remove(self) -> None:
        """Remove all that was kept."""
        remove(unfinished_name(self.output, ".journal"))
        remove(self.folder)

    def _keep(self) -> None:
        """Write down what is finished; where that is not possible, go on without."""
        number = max(self.files.values(), default=-1) + 1
        new = self.folder / f"{number}.new"
        arrays, facts = dict[str, Array](), dict[str, Any]()
        for place, (name, (labels, window)) in enumerate(self.pending.items()):
            facts[name] = {"place": place, "stacks": list(labels), **facts_of(window)}
            arrays |= {f"{place}.{key}": array for key, array in arrays_of(window).items()}
        try:
            self.folder.mkdir(exist_ok=True)
            with new.open("wb") as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]
                file.flush()
                os.fsync(file.fileno())
            os.replace(new, new.with_suffix(".npz"))
            self.journal.begin()
            for name, said in facts.items():
                self.journal.add_part(name, number, said)
                self.files[name] = number
        except OSError as error:
            remove(new)
            self.problem = f"finished stacks could not be kept for another run to go on with: {reason(error)}"
        self.pending.clear()
        self.last = time.monotonic()

    def _read(self, name: str) -> Window:
        facts = self.journal.parts[name, self.files[name]]
        try:
            path = self.folder / f"{self.files[name]}.npz"
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                prefix = f"{facts['place']}."
                arrays = {key.removeprefix(prefix): archive[key] for key in archive if key.startswith(prefix)}
            return window_of(facts, arrays)
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise InputError(
                f"{self.output}: what an earlier run kept of {name} cannot be read ({reason(error)}); resume=False "
                "(--no-resume) begins anew"
            ) from None


@contextlib.contextmanager
def keeping(checkpoint: Checkpoint | FilePath, volume: Volume, options: Mapping[str, Any]) -> Iterator[Keep]:
    """What keeps the finished stacks of a recovery of this volume with these options.

    Beside a path, what was kept is gone on with, and removed at the end.
    """
    job = {
        "program": version.__version__,
        "input": [digest_of(volume), list(volume.shape), volume.axes, str(volume.dtype), volume.spacing],
        "options": {name: repr(value) for name, value in options.items()},
    }
    if isinstance(checkpoint, Checkpoint):
        checkpoint.begin(job)
        yield checkpoint.once
        return
    with claimed([checkpoint]):
        own = Checkpoint(checkpoint, resume=True)
        own.begin(job)
        yield own.once
        own.remove()


def digest_of(volume: Volume) -> str:
    """Digest of the values and of what was measured, read plane by plane.

    >>> one = Volume(np.zeros((2, 3, 4)))
    >>> digest_of(one) == digest_of(Volume(0 * one.data)), digest_of(one) == digest_of(Volume(one.data + 1))
    (True, False)
    """
    found = hashlib.sha256()
    for stack in stacks(volume):
        for array in (stack.data, stack.mask):
            for plane in () if array is None else array:
                found.update(np.ascontiguousarray(plane).data)
    return found.hexdigest()[:16]


def facts_of(window: Window) -> dict[str, Any]:
    """All of a window but its arrays, of what JSON holds."""
    results = [
        {"refused": str(one)}
        if isinstance(one, InputError)
        else {
            "rank": [int(n) for n in one.rank],
            "status": one.status.name,
            "history": [{name: plain(value) for name, value in vars(record).items()} for record in one.history],
            "noise": float(one.noise),
            "notes": list(one.notes),
            "defects": {kind: int(count) for kind, count in one.defects.items()},
        }
        for one in window.results
    ]
    return {
        "results": results,
        "unit": None if window.unit is None else [float(number) for number in window.unit],
        "brightness": [float(mean) for mean in window.brightness],
        "notes": list(window.notes),
    }


def plain(value: Any) -> Any:
    """A number of NumPy as one of Python."""
    return value.item() if isinstance(value, np.generic) else value


def arrays_of(window: Window) -> dict[str, Array]:
    """The arrays of a window by number of the result and name."""
    return {
        f"{number}.{name}": getattr(one, name)
        for number, one in enumerate(window.results)
        if isinstance(one, StackResult)
        for name in ARRAYS
        if getattr(one, name) is not None
    }


def bytes_of(window: Window) -> int:
    """Bytes of its arrays."""
    return sum(array.nbytes for array in arrays_of(window).values())


def window_of(facts: Mapping[str, Any], arrays: Mapping[str, Array]) -> Window:
    """The inverse of `facts_of` and `arrays_of`."""
    results: list[StackResult | InputError] = []
    for number, said in enumerate(facts["results"]):
        if "refused" in said:
            results.append(InputError(said["refused"]))
            continue
        own = {name: arrays[f"{number}.{name}"] for name in ARRAYS if name != "samples"}
        results.append(
            StackResult(
                **own,
                rank=tuple(said["rank"]),
                status=Status[said["status"]],
                history=tuple(IterationRecord(**record) for record in said["history"]),
                noise=said["noise"],
                notes=tuple(said["notes"]),
                samples=arrays.get(f"{number}.samples"),
                defects=said["defects"],
            )
        )
    unit = None if facts["unit"] is None else Unit(*facts["unit"])
    return Window(results, unit, facts["brightness"], facts["notes"])
