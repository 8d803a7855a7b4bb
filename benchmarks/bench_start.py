"""Seconds until anything can begin: imports, and the first `recover` of a process and of an installation."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

from benchmarks.measure import timed
from benchmarks.problems import SMALL, some

FIRST = """
import tensorcell as tc
cells = tc.datasets.simulate_cells((12, 24, 24), cells=4, keep_pixels=0.5, seed=0)
tc.recover(cells.measured)
"""


def run(code: str, **variables: str) -> None:
    """The code in a fresh interpreter that finds what this one finds."""
    found = os.pathsep.join(path for path in sys.path if path)
    environment = {**os.environ, "PYTHONPATH": found, **variables}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


class Import:
    """A fresh interpreter and one import."""

    params = some(
        ["tensorcell", "tensorcell.solvers", "tensorcell.recovery", "tensorcell.cli", "numpy", "scipy.ndimage", "numba"]
    )
    param_names = ("module",)
    number = 1
    repeat = 5

    def setup(self, module: str) -> None:
        self.time_import(module)  # from now on the files lie in memory

    def time_import(self, module: str) -> None:
        run(f"import {module}")


class FirstOfProcess:
    """A tiny recovery in a fresh interpreter."""

    number = 1
    repeat = 3
    timeout = 600

    def setup(self) -> None:
        run(FIRST)  # compiles what no cache holds yet

    def time_recover(self) -> None:
        run(FIRST)


class FirstOfInstallation:
    """The same where no kernel has been compiled before."""

    timeout = 600

    def setup(self) -> None:
        if SMALL:
            raise NotImplementedError("compiling everything takes a minute, whatever the volume")

    def track_recover(self) -> float:
        with tempfile.TemporaryDirectory() as folder:
            return timed(lambda: run(FIRST, NUMBA_CACHE_DIR=folder))[1].wall

    track_recover.unit = "s"  # type: ignore[attr-defined]
