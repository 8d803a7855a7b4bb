"""A progress bar for recoveries, on stderr and only if that is a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn

from tensorcell.fitting import Callback
from tensorcell.methods.protocol import Stage
from tensorcell.methods.table import METHODS
from tensorcell.solvers import IterationRecord
from tensorcell.solvers.iteration import duration

EXPECTED = {"admm": 25, "polish": 5}
"""Iterations that a stage usually takes on real volumes; the remaining time is estimated from them."""

STAGES = {stage: name for method in METHODS.values() for stage, name in method.stages.items()}
"""The name that is shown for each stage of a method."""

WIDE = 110
"""Fewest columns of a terminal that has room for the bar itself."""


class ProgressBar:
    """Context manager; ``update`` is a callback of :func:`tensorcell.recover`.

    It shows the stack, stage, iteration, residual, change, elapsed time and an estimate of the remaining time, which
    follows from the usual number of iterations of each stage, the time that the last iteration took, and the time that
    earlier stacks took.

    Parameters
    ----------
    labels : sequence of str
        Names of the stacks in their order, such as ``("C=0", "C=1")``, where there are several.
    enabled : bool, optional
        Whether anything is shown; None: if stderr is a terminal.
    """

    def __init__(self, labels: Sequence[str] = (), *, enabled: bool | None = None) -> None:
        shown = sys.stderr.isatty() if enabled is None else enabled
        self.silent = enabled is False
        console = Console(stderr=True)
        columns: list[str | ProgressColumn] = [
            TextColumn("{task.description}", markup=False),
            *([BarColumn(bar_width=20)] if console.width >= WIDE else []),
            TimeElapsedColumn(),
            TextColumn("{task.fields[detail]}", markup=False),  # the last column, since a narrow terminal cuts it
        ]
        self.bar = Progress(*columns, console=console, transient=True, disable=not shown)
        self.labels = tuple(labels)
        self.stack = 0  # the one that is being recovered, counted from 0
        self.last: IterationRecord | None = None
        self.begun = time.perf_counter()
        self.task = self.bar.add_task(self._name("choosing the rank"), total=sum(EXPECTED.values()), detail="")

    def __enter__(self) -> ProgressBar:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def update(self, record: IterationRecord, state: Any = None) -> None:
        """Show one iteration; a record whose number is not above the last one's belongs to the next stack."""
        if isinstance(state, Stage):
            self._show(record, state)
            return
        if self.last is not None and record.iteration <= self.last.iteration:
            self.stack += 1
            self.last = None
        pace = record.seconds - (self.last.seconds if self.last is not None else 0.0)
        done = max(EXPECTED["admm"], record.iteration) if record.stage == "polish" else record.iteration
        total = max(sum(EXPECTED.values()), done + 1)
        left = pace * (total - done) + self._later_stacks()
        self.bar.update(
            self.task,
            description=self._name(STAGES.get(record.stage, record.stage)),
            completed=done,
            total=total,
            detail=f"iteration {record.iteration}, about {duration(left)} left, "
            f"residual {record.residual:.3g}, change {record.change:.1e}",
        )
        self.last = record

    def _show(self, record: IterationRecord, stage: Stage) -> None:
        """Show a step of fitting or sampling a prior; a message is printed on a line of its own."""
        if stage.message and not self.silent:
            self.bar.console.print(stage.message, markup=False, highlight=False, soft_wrap=True)
        if stage.step == 0:
            return
        left = record.seconds / stage.step * (stage.steps - stage.step) + self._later_stacks()
        what = STAGES.get(record.stage, record.stage)
        loss = f", loss {record.residual:.3f}" if record.stage == "prior" else ""
        self.bar.update(
            self.task,
            description=self._name(what),
            completed=stage.step,
            total=stage.steps,
            detail=f"step {stage.step} of {stage.steps}, about {duration(left)} left{loss}",
        )

    def _name(self, stage: str) -> str:
        if len(self.labels) > 1 and self.stack < len(self.labels):
            return f"{self.labels[self.stack]} ({self.stack + 1} of {len(self.labels)}): {stage}"
        return stage

    def _later_stacks(self) -> float:
        """Seconds for the stacks after this one, if each takes as long as those before; 0 before one is finished."""
        if self.stack == 0:
            return 0.0
        later = max(0, len(self.labels) - self.stack - 1)
        return later * (time.perf_counter() - self.begun) / (self.stack + 1)


@contextmanager
def with_progress(
    callback: Callback | None, labels: Sequence[str] = (), *, enabled: bool | None = None
) -> Iterator[Callback | None]:
    """Provide a callback that updates a progress bar and then calls the given one; ``enabled`` is that of the bar."""
    if enabled is False:
        yield callback
        return
    with ProgressBar(labels, enabled=enabled) as bar:

        def shown(record: IterationRecord, state: Any) -> bool | None:
            bar.update(record, state)
            return callback(record, state) if callback is not None else None

        yield shown
