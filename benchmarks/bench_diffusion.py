"""Steps of a guided sampler against the network's own forward pass, on a volume of 81 x 86 x 94 voxels; all samplers.

    python benchmarks/bench_diffusion.py [--threads 2] [--steps 30] [--repeats 3]

Every 4th plane is measured. The denoiser is the lateral network on all xz and all yz slices, weights as initialised.
Its forward pass takes nearly all of a step and drifts by more than all guidance costs when anything else runs on the
machine. So a step's overhead is not a difference of two long times: it is what the same step takes with a network that
answers at once, over the forward pass. CPU seconds of the process, the least of several.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from itertools import product
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run as a script: find `benchmarks`, and `tensorcell` where it is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks.measure import available_cores, fix_threads, machine, require, timed
from benchmarks.problems import SMALL, some, volume_shape

SHAPE = volume_shape((81, 86, 94))
FACTOR = 4
STEPS = 30
LEVELS = (1.0, 0.02)
"""At which a step is timed: mid-way, and near the end, where a Tucker projection keeps nearly everything."""
BATCH = 8
"""Slices in one call of the network."""
GUIDANCE: dict[str, Sequence[str]] = {
    "score alone": (),
    "data": ("data",),
    "data, Tucker": ("data", "tucker"),
    "data, structure": ("data", "structure"),
    "data, Tucker, structure": ("data", "tucker", "structure"),
    "data, local Tucker": ("data", "local"),
}
WHOLE = "data, Tucker, structure"
"""What guides the whole sample."""
BAR = 0.25
"""Overhead aimed at."""
SAMPLERS = ("ode", "sde", "ddim", "ddpm", "dps", "ddnm", "diffpir", "pigdm", "reddiff", "pnp_admm", "split_gibbs")
KNOWN = (17, 48, 48)
"""Shape of the volume of a Gaussian prior, whose denoiser is exact and takes next to no time."""


def set_threads(count: int) -> None:
    """For torch, BLAS and Numba; and no denormal numbers, which are slow. asv skips where there is no torch."""
    require("torch", "diffusers")
    import torch

    fix_threads(count)
    torch.set_num_threads(count)
    torch.set_flush_denormal(True)


@lru_cache(maxsize=1)
def volume(shape: tuple[int, ...]) -> Any:
    """Blobs of zero mean and unit deviation, ``(1, 1, Z, Y, X)``."""
    import torch
    from scipy.ndimage import gaussian_filter

    smooth = gaussian_filter(np.random.default_rng(0).standard_normal(shape, np.float32), 3.0)
    return torch.from_numpy((smooth - smooth.mean()) / smooth.std())[None, None]


@lru_cache(maxsize=1)
def network() -> Callable[..., Any]:
    """The lateral network over both axial orientations of a volume."""
    from tensorcell.diffusion_guidance.denoisers import perpendicular
    from tensorcell.diffusion_guidance.networks import SliceNetwork, SliceNetworkConfig
    from tensorcell.diffusion_guidance.priors import LateralPrior

    prior = LateralPrior(SliceNetwork(SliceNetworkConfig()).eval().requires_grad_(False))
    return perpendicular(prior.denoise, ("zx", "zy"), batch=BATCH)


@lru_cache(maxsize=2)
def state(level: float, shape: tuple[int, ...] = SHAPE) -> Any:
    """The volume and noise of this level."""
    import torch

    clean = volume(shape)
    return clean + level * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))


def forward(shape: tuple[int, ...] = SHAPE) -> Any:
    """One estimate by the network."""
    import torch

    with torch.no_grad():
        return network()(state(LEVELS[0], shape), LEVELS[0])


def run(
    guidance: str, levels: Sequence[float], start: Any, *, denoise: Callable[..., Any], shape: tuple[int, ...] = SHAPE
) -> Any:
    """Sample by "ddim" down these levels; projections follow the network, at the noise of its estimate."""
    import torch

    from tensorcell.diffusion_guidance.data_terms import GaussianConsistency
    from tensorcell.diffusion_guidance.operators import Planes
    from tensorcell.diffusion_guidance.samplers import sample
    from tensorcell.diffusion_guidance.solver_terms import LocalTuckerProjection, TuckerProjection
    from tensorcell.diffusion_guidance.steps import spread
    from tensorcell.diffusion_guidance.terms import AxialSmoothness

    parts = GUIDANCE[guidance]
    operator = Planes(FACTOR, planes=shape[0])
    project = LocalTuckerProjection() if "local" in parts else TuckerProjection()

    def projected(x: Any, level: Any) -> Any:
        return project(denoise(x, level), spread(level) ** 0.5)

    return sample(
        projected if {"tucker", "local"} & {*parts} else denoise,
        (1, *shape),
        levels=levels,
        method="ddim",
        measurement=GaussianConsistency(operator, operator.forward(volume(shape)), 0.05) if "data" in parts else None,
        terms=(AxialSmoothness(1.0),) if "structure" in parts else (),
        generator=torch.Generator().manual_seed(0),
        start=start,
    ).samples


def step(guidance: str, level: float, *, answered: bool = False, shape: tuple[int, ...] = SHAPE) -> Any:
    """One step to half the level; with ``answered`` by a network that takes no time."""
    estimate = volume(shape)
    denoise = (lambda *_: estimate) if answered else network()
    return run(guidance, (level, level / 2), state(level, shape), denoise=denoise, shape=shape)


def whole_sample(guidance: str = WHOLE, steps: int = STEPS, *, shape: tuple[int, ...] = SHAPE) -> Any:
    """One sample from noise."""
    from tensorcell.diffusion_guidance.paths import edm

    return run(guidance, edm().levels(steps).tolist(), None, denoise=network(), shape=shape)


def least_cpu(function: Callable[[], Any], repeats: int) -> float:
    """Fewest CPU seconds of several calls, after one that is not counted."""
    function()
    return min(timed(function)[1].cpu for _ in range(repeats))


def overhead(guidance: str, level: float, repeats: int = 5) -> float:
    """All of a step but the network, over the network's forward pass."""
    own = least_cpu(lambda: step(guidance, level, answered=True), repeats)
    return own / least_cpu(forward, 1)


class Network:
    """The forward pass by itself."""

    number = 1
    timeout = 600

    def setup(self) -> None:
        set_threads(2)
        forward()

    def time_forward(self) -> None:
        forward()


class Step:
    """One step, by what guides it and at which level."""

    params = (some(list(GUIDANCE)), some(LEVELS))
    param_names = ("guidance", "level")
    number = 1
    timeout = 600

    def setup(self, guidance: str, level: float) -> None:
        set_threads(2)
        step(guidance, level, answered=True)

    def time_step(self, guidance: str, level: float) -> None:
        step(guidance, level)

    def time_guidance(self, guidance: str, level: float) -> None:
        step(guidance, level, answered=True)

    def track_overhead(self, guidance: str, level: float) -> float:
        return overhead(guidance, level)

    def peakmem_setup(self, guidance: str, level: float) -> None:
        """Baseline for the next one."""

    def peakmem_step(self, guidance: str, level: float) -> None:
        step(guidance, level)


class Sampler:
    """``STEPS`` steps of each sampler from noise, on a Gaussian prior, with every 4th plane measured."""

    params = (some(SAMPLERS), some([1, 4]))
    param_names = ("method", "samples")
    number = 1
    timeout = 300

    def setup(self, method: str, samples: int) -> None:
        set_threads(2)
        import torch

        from tensorcell.diffusion_guidance.gaussian import GaussianPrior

        self.prior = GaussianPrior.power_law((1, *volume_shape(KNOWN)))
        self.truth = self.prior.sample(1, generator=torch.Generator().manual_seed(1))
        self.run(method, samples, steps=2)  # warm

    def run(self, method: str, samples: int, steps: int = 2 if SMALL else STEPS) -> Any:
        import torch

        from tensorcell.diffusion_guidance.data_terms import GaussianConsistency
        from tensorcell.diffusion_guidance.operators import Planes
        from tensorcell.diffusion_guidance.paths import edm
        from tensorcell.diffusion_guidance.samplers import sample

        operator = Planes(FACTOR, planes=self.truth.shape[2])
        return sample(
            self.prior.denoise,
            tuple(self.truth.shape[1:]),
            levels=edm().levels(steps),
            method=method,  # type: ignore[arg-type]
            measurement=GaussianConsistency(operator, operator.forward(self.truth), 0.05),
            samples=samples,
            generator=torch.Generator().manual_seed(0),
        ).samples

    def time_sample(self, method: str, samples: int) -> None:
        self.run(method, samples)

    def track_error(self, method: str, samples: int) -> float:
        """Relative distance of the mean of the samples to the truth."""
        found = self.run(method, samples).mean(0, keepdim=True)
        return float((found - self.truth).norm() / self.truth.norm())

    def peakmem_setup(self, method: str, samples: int) -> None:
        """Baseline for the next one."""

    def peakmem_sample(self, method: str, samples: int) -> None:
        self.run(method, samples)


class Sample:
    """A whole sample with all guidance."""

    number = 1
    repeat = 1
    warmup_time = 0
    timeout = 1800

    def setup(self) -> None:
        set_threads(2)

    def time_sample(self) -> None:
        whole_sample(steps=2 if SMALL else STEPS)

    def peakmem_sample(self) -> None:
        whole_sample(steps=2)


def peak_memory() -> float:
    """Most memory that the process has held so far, in GB; NaN where the system does not tell."""
    try:
        import resource
    except ImportError:
        return float("nan")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--steps", type=int, default=STEPS, help="of the whole sample; 0: none")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    set_threads(arguments.threads)
    print(machine())
    if hasattr(os, "getloadavg"):
        print(f"load average {os.getloadavg()[0]:.1f} before the start")

    alone = least_cpu(forward, arguments.repeats)
    print(f"\nforward pass, xz and yz slices of {SHAPE}: {alone:.3f} s of CPU\n")
    print(f"{'one step':26}{'level':>6}{'CPU s':>8}{'less network':>14}{'overhead':>10}")
    for guidance, level in product(GUIDANCE, LEVELS):
        own = least_cpu(partial(step, guidance, level, answered=True), arguments.repeats)
        full = timed(partial(step, guidance, level))[1].cpu
        verdict = "" if own / alone < BAR else f"  above {BAR:.0%}"
        print(f"{guidance:26}{level:6g}{full:8.3f}{own:14.3f}{own / alone:10.1%}{verdict}")
    print(f"\npeak memory so far {peak_memory():.2f} GB")
    if arguments.steps:
        _, took = timed(partial(whole_sample, steps=arguments.steps))
        print(
            f"one sample, {arguments.steps} steps ({WHOLE}): {took.wall:.1f} s, {took.cpu:.1f} s of CPU, "
            f"{took.cpu / (arguments.steps * alone):.2f} of as many forward passes; peak memory {peak_memory():.2f} GB"
        )


if __name__ == "__main__":
    main()
