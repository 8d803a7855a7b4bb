"""Processes that this package starts: they end with the one that started them."""

from __future__ import annotations

import os
import signal
import threading
import time

LOOK = 1.0
"""Seconds between two looks at the process that started this one."""


def end_with(parent: int) -> None:
    """Let this process be asked to end when the one that started it is gone, since nobody waits for it any more."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
