"""`recover` by method and case beside installed peers, and `diagnose`: seconds, peak memory, and the PSNR bought."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.measure import BACKENDS, fix_threads, on_backend, require
from benchmarks.problems import some, volume_shape

SHAPE = (33, 64, 64)
CASES = ("noise-0.05", "pixels-50", "planes-2+noise-0.05")
"""Of `tensorcell.evaluation`: complete, half of the voxels (5 % of them wrong), every second plane."""
OURS = ("auto", "tucker", "local", "fast")
PEERS = ("linear", "median", "tv", "nlm", "wavelet", "bm4d", "tensorly-tucker", "robust-pca")
"""Of `tensorcell.evaluation`: interpolation by SciPy, denoisers of scikit-image, BM4D, TensorLy."""
GROWING = ((17, 64, 64), (33, 96, 96), (65, 128, 128))


def cells(shape: tuple[int, int, int]) -> np.ndarray:
    """Simulated cells, scaled to [0, 1]."""
    from tensorcell.datasets import simulate_cells

    truth = simulate_cells(volume_shape(shape), cells=12, seed=0).truth
    return (truth - truth.min()) / np.ptp(truth)


class OneCase:
    """One method on one degraded volume."""

    number = 1
    repeat = 3
    warmup_time = 0
    timeout = 600

    def begin(self, method: str, case: str, backend: str, shape: tuple[int, int, int]) -> None:
        from tensorcell.evaluation.cases import CASES as ALL
        from tensorcell.evaluation.methods import METHODS

        self.method = METHODS[method]
        require(*self.method.needs)
        if ALL[case].kind not in self.method.kinds:
            raise NotImplementedError(f"{method} is not for {ALL[case].kind}")
        if backend != "numpy" and not self.method.ours:
            raise NotImplementedError(f"{method} takes NumPy arrays")
        on_backend(backend)  # skips
        fix_threads(2)
        self.device = "cuda" if backend == "cupy" else "cpu"
        self.degraded = ALL[case].degrade(cells(shape), np.random.default_rng(0))
        small = ALL[case].degrade(self.degraded.truth[:9, :24, :24], np.random.default_rng(0))
        self.restore(small.measurement)  # compiles the kernels

    def restore(self, measurement: Any = None) -> np.ndarray:
        measurement = measurement or self.degraded.measurement
        if self.method.ours:
            measurement = replace(measurement, options={**measurement.options, "device": self.device})
        return np.asarray(self.method.run(measurement, 0))


class Recover(OneCase):
    """A recovery by each method, and by peers."""

    params = (some(OURS + PEERS), some(CASES), some(BACKENDS))
    param_names = ("method", "case", "backend")

    def setup(self, method: str, case: str, backend: str) -> None:
        self.begin(method, case, backend, SHAPE)

    def time_recover(self, *_: Any) -> None:
        self.restore()

    def track_psnr(self, *_: Any) -> float:
        import tensorcell as tc

        return float(tc.metrics.psnr(self.degraded.truth, self.restore(), data_range=1.0))

    track_psnr.unit = "dB"  # type: ignore[attr-defined]

    def peakmem_setup(self, *_: Any) -> None:
        """Baseline for the next one."""

    def peakmem_recover(self, *_: Any) -> None:
        self.restore()


class Growth(OneCase):
    """How time and peak memory grow with the number of voxels; half of the voxels seen."""

    params = (some(OURS[:3]), some(GROWING))
    param_names = ("method", "shape")
    repeat = 1

    def setup(self, method: str, shape: Any) -> None:
        self.begin(method, "pixels-50", "numpy", shape)

    def time_recover(self, *_: Any) -> None:
        self.restore()

    def peakmem_setup(self, *_: Any) -> None:
        """Baseline for the next one."""

    def peakmem_recover(self, *_: Any) -> None:
        self.restore()


class Diagnose(OneCase):
    """The report on a measurement."""

    params = (some(CASES),)
    param_names = ("case",)

    def setup(self, case: str) -> None:
        self.begin("auto", case, "numpy", SHAPE)
        self.time_diagnose()  # warm

    def time_diagnose(self, *_: Any) -> None:
        import tensorcell as tc

        measurement = self.degraded.measurement
        tc.diagnose(measurement.data, axial_factor=measurement.axial_factor)
