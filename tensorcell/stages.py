"""Where a recovery is: its stages tell a listener when they begin and when they end, and what share of it they take.

A stage is announced where it is computed (``with stage("noise"): ...``), and whoever shows progress listens
(``with listening(bar): ...``). Without a listener its seconds are only logged.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple, Protocol

from tensorcell.logs import LOGGER

NAMES: Mapping[str, str] = {
    "model": "model of the stack",
    "noise": "noise",
    "defects": "defects",
    "rank": "choosing the rank",
    "fit": "fitting the model",
    "outliers": "outliers",
    "trial": "trial on left-out voxels",
    "neighbours": "what neighbours share",
    "patches": "groups of patches",
    "denoising": "denoising",
    "curvature": "smallest curvature",
    "planes": "planes between",
    "restoring": "restoring",
}
"""The stages, and what each is called on the screen."""

INSIDE: Mapping[str, tuple[str, ...]] = {"model": ("noise", "defects", "rank", "fit", "outliers")}
"""Stages that consist of others, some of which are repeated."""


class Plan(NamedTuple):
    """What a recovery is going to do."""

    shares: Mapping[str, float]
    """The share of the time that each stage is expected to take, which add up to 1."""
    labels: Sequence[str]
    """Names of the stacks, such as ``("C=0", "C=1")``."""
    seconds: float
    """What all of it usually takes."""


class Listener(Protocol):
    """What is told of stages."""

    def planned(self, plan: Plan) -> None:
        """A recovery begins."""

    def began(self, name: str, label: str) -> None:
        """A stage begins, of the stack of this label where there are several."""

    def ended(self, name: str, stacks: int) -> None:
        """A stage ends, for so many stacks."""


_LISTENER: ContextVar[Listener | None] = ContextVar("tensorcell_listener", default=None)


@contextmanager
def stage(name: str, stacks: int = 1, label: str = "") -> Iterator[None]:
    """Tell the listener, if there is one, that a stage begins and ends, and log its seconds.

    Parameters
    ----------
    name : str
        A key of `NAMES`.
    stacks : int
        Number of stacks that it computes together.
    label : str
        Name of the stack, where there are several and it is one of them.

    Examples
    --------
    >>> class Print:
    ...     def began(self, name, label):
    ...         print("began", NAMES[name], label)
    ...     def ended(self, name, stacks):
    ...         print("ended", NAMES[name])
    >>> with listening(Print()), stage("rank", label="T=1"):
    ...     pass
    began choosing the rank T=1
    ended choosing the rank
    """
    listener, start = _LISTENER.get(), time.perf_counter()
    if listener is not None:
        listener.began(name, label)
    yield
    if listener is not None:
        listener.ended(name, stacks)
    LOGGER.info("%s%s: %.2f s", f"{label}: " if label else "", NAMES[name], time.perf_counter() - start)


def announce(plan: Plan) -> None:
    """Tell the listener, if there is one, what a recovery is going to do."""
    listener = _LISTENER.get()
    if listener is not None:
        listener.planned(plan)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Let this listener be told of the stages that this thread computes meanwhile."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)
