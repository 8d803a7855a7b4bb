"""A diagnosis or a recovery in a process of its own, which can be ended at any time.

Between two calls of the callback of `tensorcell.recover` minutes may pass. A process can be ended at once, and gives
its memory back; what happens in it does not hold up the window.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tensorcell.errors import InputError
from tensorcell.volume import Volume

if TYPE_CHECKING:
    from tensorcell.progress import ProgressBar

CHILD = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from tensorcell.child_processes import end_with; end_with(int(sys.argv[3])); "
    "from tensorcell.napari_plugin.jobs import work; work(sys.argv[2])"
)
"""What the process runs, with our module search path, the folder of the job and our number."""

INTERVAL = 0.2
"""Seconds between two messages on the progress."""


class Cancelled(Exception):
    """The job was ended by `Job.cancel`."""


class Progress(NamedTuple):
    """How far a job is."""

    text: str
    share: float | None = None
    """Of the run; None where it is not known."""
    left: float | None = None
    """Seconds."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """What is to be done with a volume: ``"recover"`` or ``"diagnose"``, with the arguments of that function."""

    what: str
    volume: Volume
    arguments: Mapping[str, Any] = field(default_factory=dict)


class Found(NamedTuple):
    """What a job found, as the window needs it."""

    text: str
    volume: Volume | None = None
    """The recovered volume; None for a diagnosis."""
    uncertainty: np.ndarray | None = None
    invented: np.ndarray | None = None
    """None where everything was measured."""
    outliers: np.ndarray | None = None
    """Positions in the volume given, of shape (N, axes)."""
    shape: tuple[int, ...] = ()
    """Of the volume given."""
    axial_factor: int = 1
    """Planes of the recovered volume for each plane given."""
    lateral_factor: int = 1
    """Rows, and columns, of the recovered volume for each one given."""
    report: Path | None = None
    """An HTML page; it is there as long as the `Job`."""


class Job:
    """A process for one task, and the folder for what it finds.

    Examples
    --------
    >>> from tensorcell.datasets import simulate_cells
    >>> cells = simulate_cells((8, 24, 24), cells=2)
    >>> task, job = Task(what="diagnose", volume=Volume(cells.measured)), Job()
    >>> job.cancel()
    >>> list(job.run(task))
    Traceback (most recent call last):
        ...
    tensorcell.napari_plugin.jobs.Cancelled
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="tensorcell-"))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self.process: subprocess.Popen[str] | None = None
        self.cancelled = False
        self.report: Path | None = None
        """The page of what was found."""

    def run(self, task: Task) -> Generator[Progress, None, Found]:
        """Yield how far the job is, and return what it found.

        Raises
        ------
        Cancelled
            After `cancel`.
        InputError
            If the volume or an argument cannot be used, in one line; or if the process died.
        RuntimeError
            For a defect of the program; its report is in the cause.
        """
        folder = self.folder
        with (folder / "task.pkl").open("wb") as file:
            pickle.dump(task, file, protocol=5)
        with (folder / "errors.txt").open("wb") as errors:
            command = [sys.executable, "-c", CHILD, json.dumps(sys.path), str(folder), str(os.getpid())]
            self._check_wanted()
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True,
                start_new_session=True,
            )  # fmt: skip
        if self.cancelled:  # between the check and the start
            self.process.kill()
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                yield Progress(*json.loads(line))
        status = self.process.wait()
        self._check_wanted()
        if status != 0 or not (folder / "found.pkl").exists():
            raise InputError(f"the computation was ended from outside (status {status}), perhaps for lack of memory")
        with (folder / "found.pkl").open("rb") as file:
            found = pickle.load(file)  # arrays are read without holding up other threads
        if isinstance(found, Exception):
            raise found
        assert isinstance(found, Found)
        self.report = found.report
        return found

    def cancel(self) -> None:
        """End the process, if it runs, and let `run` raise `Cancelled`; may be called from any thread."""
        self.cancelled = True
        if self.process is not None:
            with suppress(OSError):
                self.process.kill()

    def _check_wanted(self) -> None:
        if self.cancelled:
            raise Cancelled


def work(folder: str) -> None:
    """Do the task of a folder in this process, which was started for it."""
    stream, sys.stdout = sys.stdout, sys.stderr  # what a library prints is no message of ours
    task = pickle.loads(Path(folder, "task.pkl").read_bytes())

    def say(progress: Progress) -> None:
        print(json.dumps(progress), file=stream, flush=True)

    found: Found | Exception
    try:
        found = attempt(task, Path(folder), say)
    except InputError as error:
        found = error
    except MemoryError:
        found = InputError("not enough memory; expected a crop, or the command line, which recovers in parts")
    except Exception as error:
        import traceback

        traceback.print_exc()
        found = RuntimeError(" ".join(f"{type(error).__name__}: {error}".split()))
    part = Path(folder, "found.part")
    part.write_bytes(pickle.dumps(found, protocol=5))
    part.replace(Path(folder, "found.pkl"))


def attempt(task: Task, folder: Path, say: Callable[[Progress], None]) -> Found:
    """What `diagnose` or `recover` finds, and its page in the folder."""
    say(Progress("starting"))
    page = folder / "report.html"
    if task.what == "diagnose":
        from tensorcell.diagnosis import diagnose

        say(Progress("diagnosing"))
        diagnosis = diagnose(task.volume, **task.arguments)
        diagnosis.to_html(page)
        return Found("\n".join([diagnosis.summary, *diagnosis.reasons, *diagnosis.notes]), report=page)
    from tensorcell.pages.recovery import write_report
    from tensorcell.progress import ProgressBar
    from tensorcell.recovery import recover

    with ProgressBar(enabled=False) as bar, telling(bar, say):
        result = recover(task.volume, callback=bar.update, **task.arguments)
    say(Progress("writing the report"))
    text, report = text_of(result), None
    try:
        write_report(page, task.volume, result)
        report = page
    except InputError as error:  # which shall not cost the result
        text += f"\n- no report: {error}"
    return Found(
        text=text,
        volume=result.volume,
        uncertainty=result.uncertainty,
        invented=None if result.measured.all() else result.invented,
        outliers=np.argwhere(result.outliers),
        shape=task.volume.shape,
        axial_factor=int(task.arguments.get("axial_factor", 1)),
        lateral_factor=int(task.arguments.get("lateral_factor", 1)),
        report=report,
    )


@contextmanager
def telling(bar: ProgressBar, say: Callable[[Progress], None]) -> Iterator[None]:
    """Say a few times a second what a bar on a screen would show."""
    over = threading.Event()

    def tell() -> None:
        said = None
        while not over.wait(INTERVAL):
            with suppress(IndexError, RuntimeError):  # a stage ended while its names were read
                shown = bar.shown()
                steps = f", {shown.steps}" if shown.steps else ""
                told = Progress(f"{shown.title}{steps}", shown.share, shown.left)
                if told != said:
                    say(told)
                said = told

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        over.set()
        teller.join()


def text_of(result: Any) -> str:
    """What one should know of a recovery, a line each."""
    kinds: list[Mapping[str, int]] = [result.defects]
    if result.defects and all(isinstance(each, Mapping) for each in result.defects.values()):
        kinds = list(result.defects.values())
    counts = {kind: sum(each.get(kind, 0) for each in kinds) for each in kinds for kind in each}
    outliers = f"{result.outlier_count:,} outliers"
    if counts:
        outliers += f" ({', '.join(f'{count:,} {kind}' for kind, count in counts.items())})"
    lost = [f"{label} was not recovered: {why}" for label, why in result.not_recovered.items()]
    return "\n".join(
        [
            f"{result.measured.mean():.1%} of the voxels of the result were measured; {outliers} were replaced.",
            f"The fit {result.status}. It took {result.seconds:.1f} s.",
            *lost,
            *(f"- {note}" for note in result.notes),
        ]
    )
