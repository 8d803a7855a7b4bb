"""`recover` and `diagnose` as users call them: seconds, peak memory, and the PSNR that they bought."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.measure import fix_threads

SHAPE = (48, 64, 64)
CASES = ("complete", "half of the pixels", "every second plane")


def problem(case: str) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """The truth, what was measured of it, and the arguments that go with it."""
    from tensorcell.datasets import simulate_cells

    if case == "every second plane":
        cells = simulate_cells((SHAPE[0] + 1, *SHAPE[1:]), cells=12, axial_factor=2, seed=0)
        return cells.truth, cells.measured, {"axial_factor": 2}
    keep = 0.5 if case == "half of the pixels" else 1.0
    cells = simulate_cells(SHAPE, cells=12, keep_pixels=keep, seed=0)
    return cells.truth, cells.measured, {}


class Recover:
    """One recovery of simulated cells by ``method="auto"``."""

    params = CASES
    param_names = ("case",)
    timeout = 600
    warmup_time = 0
    number = 1
    repeat = 3

    def setup(self, case: str) -> None:
        import tensorcell as tc

        fix_threads()
        self.truth, self.measured, self.options = problem(case)
        tc.recover(self.measured[:8, :24, :24], **self.options)  # compiles the kernels

    def time_recover(self, case: str) -> None:
        import tensorcell as tc

        tc.recover(self.measured, **self.options)

    def time_diagnose(self, case: str) -> None:
        import tensorcell as tc

        tc.diagnose(self.measured, **self.options)

    def peakmem_recover(self, case: str) -> None:
        import tensorcell as tc

        tc.recover(self.measured, **self.options)

    def track_psnr(self, case: str) -> float:
        import tensorcell as tc

        found = tc.recover(self.measured, **self.options).volume.data
        return float(tc.metrics.psnr(self.truth, found, data_range=float(np.ptp(self.truth))))

    track_psnr.unit = "dB"  # type: ignore[attr-defined]


class Baseline:
    """An empty run: what a process holds before any work."""

    def setup(self) -> None:
        import tensorcell.recovery  # noqa: F401

    def peakmem_setup(self) -> None:
        pass


class StartUp:
    """Seconds until a command can begin."""

    params = ("import tensorcell", "import tensorcell.solvers", "import tensorcell.recovery", "import tensorcell.cli")
    param_names = ("statement",)
    number = 1
    repeat = 5

    def time_import(self, statement: str) -> None:
        import subprocess
        import sys

        subprocess.run([sys.executable, "-c", statement], check=True)
