"""Interrupts that wait for the end of a step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def interrupts_wait() -> Iterator[None]:
    """Ctrl-C and requests to terminate are handled at the end of the block, so that nothing in it is done by half.

    Handlers that are no Python functions stay as they are, and so do all of them outside the main thread, where Python
    handles no signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers: dict[int, Any] = {int(number): signal.getsignal(number) for number in SIGNALS}
    handlers = {number: handler for number, handler in handlers.items() if callable(handler)}
    waiting: list[tuple[int, Any]] = []
    for number in handlers:
        signal.signal(number, lambda *signalled: waiting.append(signalled))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for signalled in waiting[:1]:
            handlers[signalled[0]](*signalled)
