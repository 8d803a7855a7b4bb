"""Progress on stderr, if that is a terminal: two bars, of the stage and of the whole run."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, NamedTuple, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar as Bar
from rich.table import Table
from rich.text import Text

from tensorcell.fitting import Callback
from tensorcell.methods.protocol import Stage
from tensorcell.methods.table import METHODS
from tensorcell.progress_estimate import RunEstimate, time_left
from tensorcell.solvers import IterationRecord
from tensorcell.solvers.iteration import duration
from tensorcell.stages import NAMES, Plan, listening

EXPECTED = {"admm": 25, "polish": 5}
"""Iterations that a fit usually takes on real volumes."""

STAGES = {stage: name for method in METHODS.values() for stage, name in method.stages.items()}
"""The name that is shown for each part of a stage which a method counts the steps of."""

WITHIN = {"prior": (0.0, 0.8), "noise": (0.0, 0.8), "samples": (0.8, 1.0), "restoring": (0.0, 1.0)}
"""Where these parts begin and end in the stage that they belong to."""

WIDEST = 40
"""Columns of a bar where there is room."""


class Shown(NamedTuple):
    """What is shown at a moment."""

    title: str
    steps: str
    """Of the stage, such as "step 5 of 20"."""
    stage: float | None
    """Share of the stage that is done; None if it does not say."""
    share: float | None
    """Of the run; None if nothing is known."""
    left: float | None
    """Seconds."""
    seconds: float
    """Since the run began."""


def is_terminal() -> bool:
    """Whether stderr is a terminal that can draw over a line."""
    return sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown")


def drawn(shown: Shown, width: int) -> Group:
    """A title, a bar for the stage and one for the run, in this many columns."""
    grid = Table.grid(padding=(0, 1, 0, 0), expand=False)
    for _ in range(3):
        grid.add_column(no_wrap=True, overflow="ellipsis")
    of_run = words(shown, short=width < 60)
    text = max(len(of_run), len(shown.steps))
    bar = max(8, min(WIDEST, width - 1 - len("stage") - 2 - text))
    grid.columns[0].min_width = len("stage")
    grid.columns[2].max_width = max(1, width - 1 - len("stage") - 2 - bar)
    if shown.stage is not None:
        grid.add_row("stage", Bar(total=1.0, completed=shown.stage, width=bar), shown.steps)
    grid.add_row("all", Bar(total=1.0, completed=shown.share or 0.0, width=bar), of_run)
    return Group(Text(shown.title, no_wrap=True, overflow="ellipsis"), grid)


def words(shown: Shown, *, short: bool = False) -> str:
    """The share that is done, the time that is left and the time that has passed."""
    percent = "" if shown.share is None else f"{100 * shown.share:.0f} %"
    left, passed = time_left(shown.left), duration(max(1.0, shown.seconds))
    if short:
        return ", ".join(part for part in (percent, left.replace("about ", "")) if part) or passed
    return ", ".join(part for part in (percent, left, f"{passed} so far") if part)


class Screen:
    """Context manager that shows what a function tells, if stderr is a terminal.

    Parameters
    ----------
    told : callable
        Gives a `Shown`.
    enabled : bool or None
        False shows nothing; None shows bars in a terminal.
    """

    def __init__(self, told: Callable[[], Shown], *, enabled: bool | None = None) -> None:
        self.told, self.silent = told, enabled is False
        self.console = Console(stderr=True)
        self.live: Live | None = None

    def __enter__(self) -> Screen:
        if self.silent:
            return self
        if is_terminal():
            self.live = Live(
                get_renderable=lambda: drawn(self.told(), self.console.width), console=self.console, transient=True,
                refresh_per_second=4, redirect_stdout=False,  # which may be a file
            )  # fmt: skip
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.stop()

    def say(self, message: str) -> None:
        """Print a line above the bars."""
        if not self.silent:
            self.console.print(message, markup=False, highlight=False, soft_wrap=True)


class ProgressBar:
    """Context manager; ``update`` is a callback of :func:`tensorcell.recover`.

    While it is open, it listens to the stages of the recovery (`tensorcell.stages`), and shows the stack, the stage and
    its steps, the share that is done and the time that is left.

    Parameters
    ----------
    labels : sequence of str
        Names of the stacks in their order, such as ``("C=0", "C=1")``, where they are not those of the recovery.
    enabled : bool, optional
        False: nothing is shown; None: bars if stderr is a terminal.
    runs : sequence of str
        What each of several recoveries is of.
    budget : float, optional
        Seconds that are given to the run, which it will use.
    clock : callable
        Seconds.
    """

    def __init__(
        self,
        labels: Sequence[str] = (),
        *,
        enabled: bool | None = None,
        runs: Sequence[str] = ("",),
        budget: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.labels, self.runs, self.budget, self.clock = tuple(labels), tuple(runs), budget, clock
        self.start = clock()
        self.number = -1  # of the recovery, counted from 0
        self.estimate = RunEstimate({}, clock=clock)
        self.stacks: Sequence[str] = self.labels
        self.label, self.names, self.count = "", list[str](), ""
        self.now = ""  # the stage, or between two of them that before
        self.part = ""  # of the stage, where a method names what it counts the steps of
        self.steps: float | None = None
        self.screen = Screen(self.shown, enabled=enabled)

    def __enter__(self) -> ProgressBar:
        self.listening = listening(self)
        self.listening.__enter__()
        self.screen.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.screen.__exit__()
        self.listening.__exit__(kind, error, trace)

    def begin(self) -> None:
        """What the budget is for begins now."""
        self.start = self.clock()

    def planned(self, plan: Plan) -> None:
        """A recovery begins."""
        self.number += 1
        self.stacks = self.labels or plan.labels
        self.estimate = RunEstimate(plan.shares, len(self.stacks), plan.seconds, self.clock)
        self.names.clear()
        self.now = ""

    def began(self, name: str, label: str) -> None:
        """A stage begins."""
        self.estimate.began(name)
        self.names.append(NAMES[name])
        self.now = NAMES[name]
        self.label, self.part, self.count, self.steps = label or self.label, "", "", None

    def ended(self, name: str, stacks: int) -> None:
        """A stage ends."""
        self.estimate.ended(name, stacks)
        self.names.pop()
        self.now = self.names[-1] if self.names else self.now
        self.part, self.count, self.steps = "", "", None
        if stacks > 1:
            self.label = ""

    def update(self, record: IterationRecord, state: Any = None) -> None:
        """Show one iteration, or one step of what counts its own."""
        if isinstance(state, Stage):
            self._step(record, state)
            return
        self.count = f"iteration {record.iteration}"
        if record.stage in EXPECTED:
            done = max(EXPECTED["admm"], record.iteration) if record.stage == "polish" else record.iteration
            self.steps = min(0.95, done / max(sum(EXPECTED.values()), done + 1))
            self.estimate.step(self.steps)

    def _step(self, record: IterationRecord, stage: Stage) -> None:
        """Show a step of fitting or sampling a prior; a message is printed on a line of its own."""
        if stage.message:
            self.screen.say(stage.message)
        if stage.step == 0:
            return
        loss = f", loss {record.residual:.3f}" if record.stage == "prior" else ""
        self.part = STAGES.get(record.stage, record.stage)
        self.count = f"step {stage.step} of {stage.steps}{loss}"
        self.steps = stage.step / stage.steps
        first, last = WITHIN.get(record.stage, (0.0, 1.0))
        self.estimate.step(first + (last - first) * self.steps)

    def shown(self) -> Shown:
        """What is to be seen now."""
        share, left = self._share_and_left()
        return Shown(self._title(), self.count, self.steps, share, left, self.clock() - self.start)

    def _share_and_left(self) -> tuple[float | None, float | None]:
        seconds = self.clock() - self.start
        if self.budget is not None and self.number < 0 and not self.count:
            return None, None
        if self.budget is not None:
            return min(0.99, seconds / self.budget), max(0.0, self.budget - seconds)
        if self.number < 0:  # nothing but steps is known
            share = self.steps
            return share, None if not share else seconds * (1 / share - 1)
        share, left = self.estimate.share(), self.estimate.left()
        if len(self.runs) == 1:
            return share, left
        done = (self.number + share) / len(self.runs)
        before = seconds - self.estimate.passed_time()
        if left is None and self.number == 0:
            return done, None
        later = len(self.runs) - self.number - 1
        of_one = before / self.number if self.number else self.estimate.passed_time() + (left or 0.0)
        return done, (max(0.0, of_one - self.estimate.passed_time()) if left is None else left) + later * of_one

    def _title(self) -> str:
        run = self.runs[max(0, self.number)] if self.number < len(self.runs) else ""
        place = ""
        if len(self.stacks) > 1 and self.label in self.stacks:
            place = f"{self.label} ({self.stacks.index(self.label) + 1} of {len(self.stacks)})"
        now = self.now or ("" if self.number < 0 else "reading and checking")
        part = "" if self.part == now else self.part
        return ": ".join(each for each in (run, place, now, part) if each) or "reading and checking"


class CountBar:
    """Context manager that shows how many of several things that take about as long are done.

    Parameters
    ----------
    title : str
        What is counted.
    total : int
    enabled : bool, optional
        As in `ProgressBar`.
    clock : callable
        Seconds.
    """

    def __init__(
        self, title: str, total: int, *, enabled: bool | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.title, self.total, self.clock, self.start = title, max(1, total), clock, clock()
        self.done, self.now = 0, self.start
        self.seconds_left: float | None = None
        self.screen = Screen(self.shown, enabled=enabled)

    def __enter__(self) -> Self:
        self.screen.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.screen.__exit__()

    def advance(self) -> None:
        """One more is done."""
        self.at(self.done + 1)

    def at(self, done: int, left: float | None = None, title: str = "") -> None:
        """So many are done; what is known of the seconds that are left, and what is being done."""
        self.done, self.now, self.seconds_left = done, self.clock(), left
        self.title = title or self.title

    def shown(self) -> Shown:
        """What is to be seen now."""
        now = self.clock()
        left = self.seconds_left
        if left is None and self.done:
            left = (self.now - self.start) / self.done * (self.total - self.done)
        if left is not None:
            left = max(left - (now - self.now), 0.0)
        title = f"{self.title}, {self.done} of {self.total} done"
        return Shown(title, "", None, min(0.99, self.done / self.total), left, now - self.start)


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
