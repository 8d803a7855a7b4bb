"""Who does the work of a recovery in parts: this process, or others (`tensorcell.large.cluster`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from tensorcell.large.measured import MeasuredStack


class Call(NamedTuple):
    """A call that is to be made: its function is given a stack and the arguments."""

    key: Any
    """By which its result is known."""
    stack: int
    """Number of the stack."""
    arguments: tuple[Any, ...]


class Workers(Protocol):
    """Where functions of a stack run. Each is a function of a module, and its arguments and result can be pickled."""

    def share(self, thing: Any) -> Any:
        """What calls are given in place of a thing that many of them need, so that it is sent only once."""

    def run(
        self, function: Callable[..., Any], calls: Iterable[Call], *, first: bool = False
    ) -> Iterator[tuple[Any, Any]]:
        """Key and result of each call, in the order in which they are finished.

        Calls are drawn as there is somebody for them, so that few results wait to be taken. A run may be made
        while calls of another one are drawn; with ``first`` its calls are made before those that wait of the other.
        """


@dataclass(frozen=True)
class ThisProcess:
    """One call after the other, here."""

    stacks: Sequence[MeasuredStack]

    def share(self, thing: Any) -> Any:
        """The thing itself."""
        return thing

    def run(
        self, function: Callable[..., Any], calls: Iterable[Call], *, first: bool = False
    ) -> Iterator[tuple[Any, Any]]:
        """As `Workers.run`: each result is taken before the next call is drawn."""
        for call in calls:
            yield call.key, function(self.stacks[call.stack], *call.arguments)
