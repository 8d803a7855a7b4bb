"""Who does the work of a recovery in parts: this process, or others (`tensorcell.large.cluster`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from tensorcell.device import choose_device, free_on, reason_for_cpu
from tensorcell.large.measured import MeasuredStack


class Place(NamedTuple):
    """On what parts are recovered."""

    device: str
    """``"cpu"``, ``"cuda"`` or one as ``"cuda:1"``."""
    free: float | None
    """Bytes free on the GPU; None on the CPU."""
    notes: tuple[str, ...] = ()
    """Why it is not a GPU."""


def place_here(device: Any) -> Place:
    """The place of this process for a device that was asked for.

    Raises
    ------
    InputError
        As `tensorcell.device.choose_device`.

    >>> place_here("cpu")
    Place(device='cpu', free=None, notes=())
    """
    chosen = choose_device(device)
    return Place(chosen, free_on(chosen), reason_for_cpu(device))


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
