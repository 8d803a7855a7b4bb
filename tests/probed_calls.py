"""Stand-ins for a library that crashes or never ends, to be called in a child process."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path


def crash(_file: Path, *_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave(_file: Path, *_: object) -> None:
    os._exit(3)


def hang(_file: Path, *_: object) -> None:
    time.sleep(1000)


def fail(_file: Path, *_: object) -> None:
    raise ValueError("as any damaged file can")


def count(file: Path, *words: str) -> None:
    """Leave a trace of the call, and of the process that made it."""
    with file.with_suffix(".calls").open("a") as stream:
        stream.write(f"{os.getpid()} {' '.join(words)}\n")
