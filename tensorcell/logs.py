"""The logger ``tensorcell``: stages of a recovery with their seconds (INFO), and what was decided (DEBUG).

Nothing is shown unless the program that uses this package asks for it, as by ``logging.basicConfig(level="INFO")``.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator

LOGGER = logging.getLogger("tensorcell")
LOGGER.addHandler(logging.NullHandler())


@contextlib.contextmanager
def timed(stage: str, label: str = "") -> Iterator[None]:
    """Log a stage, with the name of its stack if it has one, and its seconds when it is finished."""
    start = time.perf_counter()
    yield
    LOGGER.info("%s%s: %.2f s", f"{label}: " if label else "", stage, time.perf_counter() - start)
