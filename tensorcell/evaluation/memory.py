"""Memory of this process in MiB, now and at its peak."""

from __future__ import annotations

import math
import sys
from contextlib import suppress
from pathlib import Path


def reset_peak() -> float:
    """Memory of this process; its peak counts from here on where the system can do that."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _status_mib("VmRSS") or peak()


def peak() -> float:
    """Largest memory of this process so far; NaN where the system does not say."""
    found = _status_mib("VmHWM")
    if found is not None:
        return found
    try:
        import resource
    except ImportError:  # Windows
        return math.nan
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def _status_mib(name: str) -> float | None:
    """An entry of Linux's status of this process in MiB."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:")), None)
