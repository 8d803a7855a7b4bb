"""Ctrl-C and requests to terminate, from the first moment of a command on.

While the packages are imported nothing has been begun, so that the process just ends. From then on both raise
`KeyboardInterrupt`, and what is unfinished is removed or kept to go on from. A signal that is ignored from the
start, as Ctrl-C is by commands in the background of a script, stays ignored.
"""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)

received: list[int] = []
"""The signals that came so far."""


def leave_at_once() -> dict[int, Any]:
    """Let signals end the process with one line; the handlers so far are returned."""
    return _handled_by(_leave)


def raise_interrupts() -> dict[int, Any]:
    """Let signals raise `KeyboardInterrupt`; the handlers so far are returned."""
    return _handled_by(_interrupt)


def restore(handlers: dict[int, Any]) -> None:
    """Install the handlers that were installed before."""
    for number, handler in handlers.items():
        signal.signal(number, handler)


def status() -> int:
    """The exit status of a command that was interrupted: 128 and the number of the signal, as shells have it."""
    return 128 + (received[-1] if received else int(signal.SIGINT))


def _handled_by(handler: Any) -> dict[int, Any]:
    earlier: dict[int, Any] = {int(number): signal.getsignal(number) for number in SIGNALS}
    found = {number: before for number, before in earlier.items() if before not in (signal.SIG_IGN, None)}
    for number in found:
        signal.signal(number, handler)
    return found


def _leave(number: int, _frame: FrameType | None) -> None:
    os.write(2, b"tensorcell: interrupted; nothing was begun\n")
    os._exit(128 + number)


def _interrupt(number: int, _frame: FrameType | None) -> None:
    received.append(number)
    raise KeyboardInterrupt
