"""`evaluate`: the grid of references, cases and methods, done cell by cell and resumable."""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tensorcell import pages
from tensorcell.arguments import checked_seed, positive, whole_number
from tensorcell.errors import InputError
from tensorcell.evaluation.cases import Case, choose_cases
from tensorcell.evaluation.cells import Cell, Noise
from tensorcell.evaluation.methods import Method, choose_methods
from tensorcell.evaluation.pace import Pace, Progress, reporter
from tensorcell.evaluation.pictures import write_pictures
from tensorcell.evaluation.processes import check_importable, run_cells
from tensorcell.evaluation.references import Reference, references
from tensorcell.evaluation.result import Evaluation
from tensorcell.evaluation.scores import Row
from tensorcell.evaluation.store import CELLS, Store
from tensorcell.evaluation.versions import code_version
from tensorcell.files import claimed, write_whole
from tensorcell.files.messages import not_written

TABLES = ("scores.csv", "scores.md", "index.html")
"""Names of the tables, which are written anew by every run."""


def evaluate(
    volumes: Any,
    *,
    out: str | os.PathLike[str],
    methods: Iterable[str | Method] | None = None,
    cases: Iterable[str | Case] | None = None,
    crop: Sequence[int] | None = None,
    noise: Noise = "estimated",
    seed: int = 0,
    jobs: int = 1,
    time_limit: float | None = None,
    retry: bool = False,
    progress: bool | Callable[[Progress], None] = False,
) -> Evaluation:
    """Degrade references, restore them with several methods and score all in one table.

    Parameters
    ----------
    volumes : Volume, array or path, a sequence of these, or a mapping of names to them
        References. Each is clipped to its 0.1 and 99.9 percentiles and scaled to [0, 1]. Of a volume with channels or
        frames the first stack is taken; its label says so. They should have little noise of their own: it limits what
        any method can score.
    out : path
        Folder for ``cells.jsonl`` (finished cells), ``scores.csv``, ``scores.md``, ``index.html`` and ``pictures``.
    methods : names or Method, optional
        See `METHODS` and `choose_methods`. A method is run only on cases of its kinds.
    cases : names or Case, optional
        See `CASES` and `choose_cases`.
    crop : (planes, rows, columns), optional
        Take the centre of each reference, after scaling.
    noise : {"estimated", "given"}
        Whether every method estimates the noise for itself, or all are given its standard deviation where it has one.
        Nothing else of the truth reaches any method.
    seed : int
        For the degradation, and for methods that draw numbers.
    jobs : int
        Cells at a time. With more than 1 they share the processors, and seconds mean less.
    time_limit : float, optional
        Seconds after which a cell is stopped, the start of its interpreter included.
    retry : bool
        Repeat cells that failed or were refused.
    progress : bool or callable
        True: progress is shown on stderr. A callable gets a `Progress` at the start and after every cell.

    Returns
    -------
    Evaluation

    Raises
    ------
    InputError
        An unknown case or method, a method whose package is not installed, a volume that cannot serve as reference, no
        cell at all, a folder that another run writes to, or a full disk; one line says what, expected and got. What
        fails inside a cell is a row, not an error.

    Notes
    -----
    A cell is stored under a key of the voxels, case, method, seed, ``noise`` and the source code that it depends on: a
    changed solver repeats the cells of our methods, not those of other packages. This process holds the references in
    memory; what a method needs is held by its own process.
    """
    start = time.perf_counter()
    if noise not in ("estimated", "given"):
        raise InputError(f"expected noise 'estimated' or 'given', got {noise!r}")
    jobs, seed = whole_number("jobs", jobs), checked_seed(seed)
    time_limit = None if time_limit is None else positive("time_limit", time_limit)
    chosen_cases, chosen_methods = choose_cases(cases), choose_methods(methods)
    for method in chosen_methods:
        check_importable(method)
    cells = _cells(references(volumes, crop), chosen_cases, chosen_methods, seed, noise)
    store = Store(Path(out))
    with _made(store.folder), _held(store.folder):
        return _evaluated(cells, store, jobs=jobs, time_limit=time_limit, retry=retry, progress=progress, start=start)


def _evaluated(
    cells: Sequence[Cell],
    store: Store,
    *,
    jobs: int,
    time_limit: float | None,
    retry: bool,
    progress: Any,
    start: float,
) -> Evaluation:
    """Run the cells that are not in the store, and write tables and pictures."""
    known = store.load()
    if retry:
        known = {key: found for key, found in known.items() if found.get("status", "done") == "done"}
    waiting = [cell for cell in cells if cell.key not in known]
    reused = len(cells) - len(waiting)
    with reporter(progress, len(waiting)) as report:
        pace = Pace(waiting, jobs)
        report(Progress(0, len(waiting), reused, "", pace.left()))
        for done in run_cells(waiting, store.folder, jobs, time_limit):
            store.add(done.cell, done.found, done.slices)
            known[done.cell.key] = done.found
            pace.add(done.cell, done.seconds)
            report(Progress(pace.done, len(waiting), reused, done.cell.title, pace.left()))
    rows = tuple(cell.row_of(known[cell.key]) for cell in cells)
    notes = (*_notes(cells, rows, jobs), *(_code_note(cells) if waiting else ()))
    seconds = time.perf_counter() - start
    pictures = write_pictures(store, cells, rows)
    result = Evaluation(rows, reused, seconds, notes, store.folder, pictures)
    scores, markdown, page = (store.folder / name for name in TABLES)
    result.to_csv(scores)
    write_whole(markdown, result.to_markdown().encode())
    pages.write(result, page)
    return result


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold the folder and what is written to it for this run; a disk that does not take it is said in one line."""
    try:
        with claimed([folder, *(folder / name for name in (CELLS, *TABLES))]):
            yield
    except OSError as error:
        raise InputError(f"{folder}: {not_written(error)}") from error


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Make the folder if it is missing; if nothing was written into it when an exception comes, remove it again."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: expected a folder for the results: {error.strerror}") from None
    try:
        yield
    except BaseException:
        with suppress(OSError):  # it holds something
            for each in missing:
                each.rmdir()
        raise


def _cells(
    stacks: Sequence[Reference], cases: Sequence[Case], methods: Sequence[Method], seed: int, noise: Noise
) -> list[Cell]:
    """All combinations of a reference, a case and a method that is for it."""
    versions = {method.name: code_version(method) for method in methods}
    cells = [
        Cell(reference, case, method, seed, noise, versions[method.name])
        for reference in stacks
        for case in cases
        for method in methods
        if case.kind in method.kinds
    ]
    for method in methods:
        if not any(case.kind in method.kinds for case in cases):
            wanted = ", ".join(case.name for case in cases)
            raise InputError(f"method {method.name} is for {', '.join(method.kinds)}, got the cases {wanted}")
    return cells


def _code_note(cells: Sequence[Cell]) -> tuple[str, ...]:
    """A note where the code of a method is no longer the one that its cells were begun with."""
    versions = {cell.method.name: (cell.method, cell.version) for cell in cells}
    if all(code_version(method) == version for method, version in versions.values()):
        return ()
    return ("the code was changed while this ran: run it again",)


def _notes(cells: Sequence[Cell], rows: Sequence[Row], jobs: int) -> tuple[str, ...]:
    """What limits the scores, and how they were obtained."""
    notes = []
    for reference in {cell.reference.label: cell.reference for cell in cells}.values():
        shape, own = " x ".join(map(str, reference.data.shape)), reference.noise
        said = "no noise of its own was found"
        if math.isfinite(reference.limit):
            said = f"own noise of standard deviation {own.sigma:.2g} at intensity {own.intensity:.2g}; a PSNR near "
            said += f"{reference.limit:.0f} dB or above says nothing"
        notes.append(f"{reference.label}: {shape} voxels, {said}")
    first = cells[0]
    given = "given to all methods where there is a single one" if first.noise == "given" else "estimated by each method"
    notes.append(f"seed {first.seed}; the standard deviation of the noise is {given}; no method sees the truth")
    notes.append(
        "scores on [0, 1] without a fit of scale or shift; memory is the peak above that before the restoration"
    )
    if jobs > 1:
        notes.append(f"{jobs} cells ran at a time and shared the processors: seconds do not compare with other runs")
    lost = sum(not row.done for row in rows)
    if lost:
        notes.append(f"{lost} of {len(rows)} cells have no scores; the table gives the reason")
    notes.append(f"Python {platform.python_version()}, {os.cpu_count()} processors")
    return tuple(notes)
