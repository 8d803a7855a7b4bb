"""A progress bar for recoveries, on stderr and only if that is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn

from tensorcell.solvers import IterationRecord

Callback = Callable[[IterationRecord, Any], bool | None]

EXPECTED = {"admm": 25, "polish": 5}
"""Iterations that a stage usually takes on real volumes; what remains is estimated from these."""


class ProgressBar:
    """Context manager; ``update`` is a callback of :func:`tensorcell.recover`.

    Shows the stack, stage, iteration, residual, change, elapsed time and about how long the stack still takes, from the
    usual number of iterations of each stage and the time that one of them took so far.
    """

    def __init__(self, label: str = "", *, enabled: bool | None = None) -> None:
        shown = sys.stderr.isatty() if enabled is None else enabled
        columns: list[str | ProgressColumn] = [
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[detail]}"), TimeElapsedColumn()
        ]  # fmt: skip
        self.bar = Progress(*columns, console=Console(stderr=True), transient=True, disable=not shown)
        self.task = self.bar.add_task(label or "choosing the rank", total=sum(EXPECTED.values()), detail="")
        self.last: IterationRecord | None = None

    def __enter__(self) -> ProgressBar:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def update(self, record: IterationRecord, state: Any = None) -> None:
        """Show one iteration."""
        before = self.last.seconds if self.last and self.last.iteration < record.iteration else 0.0
        pace = record.seconds - before
        done = record.iteration
        if record.stage == "polish":
            done = max(EXPECTED["admm"], done)
        total = max(sum(EXPECTED.values()), done + 1)
        left = pace * (total - done)
        detail = (
            f"iteration {record.iteration}, residual {record.residual:.3g}, change {record.change:.1e}, "
            f"about {left:.0f} s left"
        )
        self.bar.update(self.task, description=record.stage, completed=done, total=total, detail=detail)
        self.last = record


def with_progress(callback: Callback | None) -> tuple[ProgressBar, Callback]:
    """A progress bar and a callback that feeds it before calling the given one."""
    bar = ProgressBar()

    def shown(record: IterationRecord, state: Any) -> bool | None:
        bar.update(record, state)
        return callback(record, state) if callback is not None else None

    return bar, shown
