"""What is estimated before anything is recovered: noise, rank, defects, sampling, bounds, drift."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.measure import BACKENDS, fix_threads, on_backend, require
from benchmarks.problems import planted_problem, some, volume_shape

SHAPE = (48, 128, 128)
SIGMA = 0.05
"""Standard deviation of the noise, of the range of the truth."""


def noisy_cells(seen: float) -> tuple[np.ndarray, np.ndarray]:
    """Simulated cells scaled to [0, 1] with noise, and the mask of what was seen (True = observed); elsewhere 0."""
    from tensorcell.datasets import simulate_cells

    truth = simulate_cells(volume_shape(SHAPE), cells=12, seed=0).truth
    rng = np.random.default_rng(1)
    mask = rng.random(truth.shape, np.float32) < seen
    noisy = (truth - truth.min()) / np.ptp(truth) + SIGMA * rng.standard_normal(truth.shape, np.float32)
    return np.where(mask, noisy, 0).astype(np.float32), mask


class Noise:
    """The standard deviation of noise, by ours and by scikit-image, which knows no mask."""

    params = (some(["tensorcell", "scikit-image"]), some([1.0, 0.5]), some(BACKENDS))
    param_names = ("library", "seen", "backend")
    timeout = 300

    def setup(self, library: str, seen: float, backend: str) -> None:
        if library == "scikit-image":
            require("skimage", "pywt")
            if backend != "numpy" or seen < 1:
                raise NotImplementedError("scikit-image takes NumPy arrays without gaps")
        fix_threads(2)
        self.library = library
        self.data, self.mask = on_backend(backend, *noisy_cells(seen))
        self.estimate()  # warm

    def estimate(self) -> float:
        if self.library == "scikit-image":
            from skimage.restoration import estimate_sigma

            return float(estimate_sigma(self.data))
        from tensorcell.solvers import estimate_noise

        return float(estimate_noise(self.data, self.mask).sigma)

    def time_noise(self, *_: Any) -> None:
        self.estimate()

    def track_relative_error(self, *_: Any) -> float:
        return self.estimate() / SIGMA - 1

    def peakmem_setup(self, *_: Any) -> None:
        """Baseline for the next one."""

    def peakmem_noise(self, *_: Any) -> None:
        self.estimate()


class Rank:
    """The multilinear rank of a planted tensor with noise, by method."""

    params = (some(["auto", "residual", "core", "threshold", "ratio"]), some([0.3, 1.0]), some(BACKENDS))
    param_names = ("method", "seen", "backend")
    number = 1
    timeout = 300

    def setup(self, method: str, seen: float, backend: str) -> None:
        from tensorcell.solvers import estimate_rank

        fix_threads(2)
        shape = volume_shape((64, 96, 96))
        problem = planted_problem("rank", shape, (4, 6, 6), seen=seen, noise=0.1, dtype=np.float32)
        arrays = on_backend(backend, problem.data, problem.mask)
        self.planted = problem.rank
        self.estimate = lambda: estimate_rank(*arrays, method=method).rank  # type: ignore[arg-type]
        self.estimate()  # warm

    def time_rank(self, *_: Any) -> None:
        self.estimate()

    def track_distance_to_planted_rank(self, *_: Any) -> float:
        return float(sum(abs(found - planted) for found, planted in zip(self.estimate(), self.planted, strict=True)))


class Others:
    """What else is read off a stack, from NumPy arrays."""

    params = some(["find_defects", "describe_sampling", "coherence", "generalised_anscombe", "frame_drift"])
    param_names = ("estimator",)
    timeout = 300

    def setup(self, estimator: str) -> None:
        from tensorcell import solvers
        from tensorcell.solvers.defects import find_defects

        fix_threads(2)
        data, mask = noisy_cells(0.7)
        noise = solvers.estimate_noise(data, mask)
        core, factors = solvers.hosvd(data, (4, 8, 8))
        series = np.stack([data, np.roll(data, 2, axis=2)])
        self.estimate = {
            "find_defects": lambda: find_defects(data, mask, noise),
            "describe_sampling": lambda: solvers.describe_sampling(mask),
            "coherence": lambda: solvers.coherence(core, factors),
            "generalised_anscombe": lambda: solvers.generalised_anscombe(data, noise),
            "frame_drift": lambda: solvers.frame_drift(series),
        }[estimator]
        self.estimate()  # warm

    def time_estimate(self, estimator: str) -> None:
        self.estimate()
