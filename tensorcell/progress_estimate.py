"""How far a run has come and how long it still takes, from the shares of its stages and the time that they took."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping

from tensorcell.stages import INSIDE

UNTIL = 0.1
"""Share of a run before which nothing is said of the time that is left."""

SLACK = 0.2
"""A stage that takes longer than expected is taken to need this share of the time that it has taken, once more."""

NEARLY = 0.95
"""Largest share of a stage that is said to be done while it goes on and tells nothing of itself."""


class RunEstimate:
    """Share that is done, and time that is left, of a run on one or several stacks.

    The shares of the stages are what they usually are. From the time that the finished ones took follows how long the
    others will take; a stage that counts its steps tells it itself.

    Parameters
    ----------
    shares : mapping of str to float
        The usual share of each stage; they add up to 1. Empty if nothing is known.
    stacks : int
        Number of stacks that all stages are passed for.
    usual : float, optional
        Seconds that such a run takes on another machine: bars go on by it until a stage is finished.
    clock : callable
        Seconds.

    Examples
    --------
    >>> now = iter([0, 0, 10, 10, 15])  # two stages of equal share; the first took 10 s
    >>> run = RunEstimate({"patches": 0.5, "planes": 0.5}, clock=lambda: next(now))
    >>> run.began("patches"), run.ended("patches"), run.began("planes")
    (None, None, None)
    >>> run.left()  # 5 s after the second began
    5.0
    """

    def __init__(
        self,
        shares: Mapping[str, float],
        stacks: int = 1,
        usual: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.shares, self.stacks, self.usual, self.clock = dict(shares), max(1, stacks), usual, clock
        self.start = clock()
        self.open: list[str] = []
        self.passed: Counter[str] = Counter()  # stacks for which a stage is finished
        self.inside: set[str] = set()  # finished parts of the stage that is open
        self.since = self.start  # the innermost open stage
        self.steps: float | None = None  # share of the open stage that it says is done
        self.unexpected = 0.0  # seconds of stages that have no share
        self.most = 0.0

    def began(self, name: str) -> None:
        """A stage begins."""
        self.open.append(name)
        if self._counts(name):
            self.since, self.steps = self.clock(), None

    def ended(self, name: str, stacks: int = 1) -> None:
        """The stage that began last ends, for so many stacks."""
        counted = self._counts(name)
        self.open.pop()
        if not self.open:
            for part in INSIDE.get(name, (name,)):
                self.passed[part] += stacks
            self.inside.clear()
        elif self.open[-1] in INSIDE:
            self.inside.add(name)
        if counted:
            before, self.since, self.steps = self.since, self.clock(), None
            if name not in self.shares:
                self.unexpected += self.since - before

    def step(self, share: float) -> None:
        """The open stage says which share of it is done."""
        self.steps = min(max(share, 0.0), 1.0)

    def share(self) -> float:
        """The share of the run that is done; it never decreases."""
        self.most = max(self.most, min(self._done(self.clock()), 0.99))
        return self.most

    def left(self) -> float | None:
        """Seconds; None until enough is done to tell."""
        now = self.clock()
        finished, open_share = self._finished(), self._open_share()
        rate = self._rate(finished, open_share, now)
        if rate is None or not (finished or self.steps) or self._done(now) < UNTIL:
            return None
        spent, later = now - self.since, max(0.0, 1 - finished - open_share) * rate
        if not open_share:
            return later
        if self.steps:
            return later + spent * (1 / self.steps - 1)
        return later + max(open_share * rate - spent, SLACK * spent)

    def passed_time(self) -> float:
        """Seconds since the run began."""
        return self.clock() - self.start

    def _counts(self, name: str) -> bool:
        """Whether an open stage is one of those that the shares are of."""
        return len(self.open) == 1 or name in INSIDE.get(self.open[0], ())

    def _finished(self) -> float:
        """The share of finished stages."""
        of_stack = sum(self.shares.get(name, 0.0) for name in self.inside)
        whole = sum(self.shares.get(name, 0.0) * min(count, self.stacks) for name, count in self.passed.items())
        return (whole + of_stack) / self.stacks

    def _open_share(self) -> float:
        """The share of the innermost open stage, of one stack; 0 where it was done for all, or is done again."""
        found = [name for name in self.open[:2] if name in self.shares]
        if not found or found[-1] in self.inside or self.passed[found[-1]] >= self.stacks:
            return 0.0
        return self.shares[found[-1]] / self.stacks

    def _rate(self, finished: float, open_share: float, now: float) -> float | None:
        """Seconds that all stages with a share take, by what is done of them."""
        done, spent = finished, self.since - self.start - self.unexpected
        if self.steps and open_share:
            done, spent = done + open_share * self.steps, now - self.start - self.unexpected
        return spent / done if done > 0 and spent > 0 else self.usual

    def _done(self, now: float) -> float:
        """The share that is done."""
        finished, open_share = self._finished(), self._open_share()
        return finished + open_share * self._done_of_open(finished, open_share, now)

    def _done_of_open(self, finished: float, open_share: float, now: float) -> float:
        """The share of the open stage that is done: what it says, or what its usual time tells."""
        if self.steps is not None:
            return self.steps
        rate = self._rate(finished, open_share, now)
        if rate is None or not open_share:
            return 0.0
        return min(NEARLY, 1 - math.exp(-(now - self.since) / (open_share * rate)))


def time_left(seconds: float | None) -> str:
    """The time that is left, for people: rounded, and never 0.

    >>> time_left(3), time_left(43), time_left(100), time_left(9000), time_left(None)
    ('a few seconds left', 'about 45 s left', 'about 2 min left', 'about 2.5 h left', '')
    """
    if seconds is None:
        return ""
    if seconds < 8:
        return "a few seconds left"
    if seconds < 58:
        return f"about {max(10, 5 * round(seconds / 5))} s left"
    if seconds < 7200:
        return f"about {max(1, round(seconds / 60))} min left"
    return f"about {seconds / 3600:.1f} h left"
