"""DiffPIR and DPS of deepinv and ours: same prior, same measurement, same units, in one run.

    python benchmarks/compare_samplers.py [--volume FILE --prior FOLDER] [--steps 100] [--threads 1]

(a) A Gaussian prior of 20 voxels, 8 of them seen, whose posterior is known: errors of the samples' mean and spread.
(b) With a volume and a prior fitted to it: lateral slices of which every 4th row is seen, with noise: PSNR.

Needs deepinv: ``pip install --no-deps deepinv torchmetrics lightning-utilities``, ``pip install einops h5py natsort
requests tqdm matplotlib``. deepinv imports torchvision when it is loaded. Its samplers do not use it, so where
torchvision is missing an empty stand-in takes its place while deepinv is loaded; every call of a function of the
stand-in raises.

**Units.** deepinv's images are v on [0, 1], its samplers' states ``alpha u + sigma eps`` with ``u = 2 v - 1``. Ours are
p with ``v = location + scale p``. A level l of p is ``scale l`` of v and ``2 scale l`` of u. deepinv clamps estimates,
DiffPIR to v in [0, 1], DPS to v in [-1, 1]; ours do not. Its first level is 152 of u; in p that is far above
the 80 up to which priors are fitted.

**DiffPIR.** The same step. deepinv's levels are ``sqrt``-spaced in the index of the 1000 of DDPM; it starts at the
measurement plus noise; its prox weighs data by ``2 (scale l)^2 / (lambda (scale s)^2)``, so that ``diffpir_weight`` is
half its lambda; its last call of the network is thrown away, and what it returns holds noise of the level .01 of u.

**DPS.** The same denoiser and ancestral step, another step size: deepinv goes down the gradient of the norm as if the
norm were a negative log likelihood, which in p is ``weight scale (l0^2 - l1^2) grad ||y - A D||``, where the paper (and
ours) has ``zeta sqrt((1 + l0^2) (1 + l1^2)) grad ||y - A D||``. Its alternative "annealed" is the gradient of
``||y - A D||^2 / (2 (s^2 + l^2))``. The weight 1 is its default; 100 and 1000 are shown because its own documentation
expects such values with the norm.

"ours as deepinv" are our steps with deepinv's start, levels, clamping, step size and random numbers: the last column is
their largest difference from deepinv's samples, in p, over a whole run.
"""

from __future__ import annotations

import argparse
import importlib.abc
import importlib.machinery
import importlib.util
import itertools
import math
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run as a script: find `benchmarks`, and `tensorcell` where it is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch import Tensor

from benchmarks.measure import machine, timed, version
from tensorcell.diffusion_guidance.data_terms import GaussianConsistency
from tensorcell.diffusion_guidance.gaussian import GaussianPrior
from tensorcell.diffusion_guidance.methods import Options
from tensorcell.diffusion_guidance.operators import Mask
from tensorcell.diffusion_guidance.paths import edm
from tensorcell.diffusion_guidance.priors import LateralPrior
from tensorcell.diffusion_guidance.samplers import sample
from tensorcell.diffusion_guidance.steps import dps_step

FACTOR = 4
"""Every so many rows of a slice are seen."""
NOISE = 0.05
"""On the rows of (b), in prior units."""
SEED = 1
"""deepinv takes 0 for no seed."""


# ----------------------------------------------------------------------------------------------------
# deepinv


class Absent:
    """Stands for anything of a package that is not installed; using it raises."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __getattr__(self, name: str) -> Absent:
        if name.startswith("__"):
            raise AttributeError(name)
        return Absent(f"{self.name}.{name}")

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise ModuleNotFoundError(f"{self.name} was called, but only a stand-in for it is there")


class StandIn(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds modules of one package that hold nothing but :class:`Absent`."""

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        """For the package and what is in it."""
        wanted = fullname.split(".")[0] == self.package
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True) if wanted else None

    def exec_module(self, module: types.ModuleType) -> None:
        """Every name that is asked for is there."""

        def attribute(name: str) -> Absent:
            if name.startswith("__"):
                raise AttributeError(name)
            return Absent(f"{module.__name__}.{name}")

        vars(module)["__getattr__"] = attribute


@contextmanager
def stand_in(package: str) -> Iterator[bool]:
    """Empty modules in place of a package that is not installed, taken away again at the end; whether it was needed."""
    needed = importlib.util.find_spec(package) is None
    finder = StandIn(package)
    if needed:
        sys.meta_path.append(finder)
    try:
        yield needed
    finally:
        if needed:
            sys.meta_path.remove(finder)
            for name in [name for name in sys.modules if name.split(".")[0] == package]:
                del sys.modules[name]


def load_deepinv() -> tuple[Any, bool]:
    """The package, and whether torchvision had to be stood in for. Raises ImportError where it is missing."""
    with stand_in("torchvision") as needed:
        return importlib.import_module("deepinv"), needed


@dataclass(frozen=True)
class Units:
    """``v = location + scale p``: deepinv's images and ours; ``u = 2 v - 1`` in its samplers."""

    location: float
    scale: float

    def image(self, p: Tensor) -> Tensor:
        """p -> v."""
        return self.location + self.scale * p

    def prior(self, v: Tensor) -> Tensor:
        """v -> p."""
        return (v - self.location) / self.scale

    def state(self, u: Tensor) -> Tensor:
        """u -> p."""
        return self.prior((u + 1) / 2)

    def level(self, u: Tensor) -> Tensor:
        """A level of u as one of p."""
        return u / (2 * self.scale)


Denoise = Callable[[Tensor, float | Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Problem:
    """``y = M x0 + noise eps`` in prior units, for K samples; nothing is known of the truth."""

    denoise: Denoise
    units: Units
    mask: Tensor
    """Bool ``(1, C, H, W)``, True = observed."""
    y: Tensor
    """``(K, C, H, W)``, zero where nothing was observed."""
    noise: float

    @property
    def consistency(self) -> GaussianConsistency:
        """The measurement as our samplers take it."""
        return GaussianConsistency(Mask(self.mask), self.y, self.noise)

    def image_y(self) -> Tensor:
        """The measurement as deepinv takes it: v, zero where nothing was observed."""
        return torch.where(self.mask, self.units.image(self.y), 0.0)

    def physics(self, deepinv: Any) -> Any:
        """deepinv's operator; what it draws itself is not used."""
        noise = deepinv.physics.GaussianNoise(sigma=self.noise * self.units.scale)
        size = tuple(self.y.shape[1:])
        return deepinv.physics.Inpainting(size, mask=self.mask.to(self.y.dtype), noise_model=noise)

    def clamped(self, low: float, high: float) -> Denoise:
        """The denoiser with estimates held between two values of v, in float32 inside as deepinv has it."""
        limits = [float(self.units.prior(torch.tensor(value, dtype=torch.float64))) for value in (low, high)]

        def denoise(x: Tensor, level: float | Tensor) -> Tensor:
            return self.denoise(x.float(), level).clamp(*limits).to(x.dtype)

        return denoise


class ImageDenoiser(torch.nn.Module):
    """Our denoiser as deepinv calls its own: ``(v + sigma eps, sigma) -> v``."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.denoise, self.units = problem.denoise, problem.units

    def forward(self, v: Tensor, sigma: Tensor | float, *_: Any, **__: Any) -> Tensor:
        """``location + scale D((v - location) / scale, sigma / scale)``."""
        return self.units.image(self.denoise(self.units.prior(v), float(sigma) / self.units.scale))


# ----------------------------------------------------------------------------------------------------
# runs: samples (K, C, H, W) in prior units


def deepinv_diffpir_model(deepinv: Any, problem: Problem, steps: int, **options: Any) -> Any:
    """DiffPIR with ``steps`` changes of the state (and one call of the network more)."""
    return deepinv.sampling.DiffPIR(
        ImageDenoiser(problem), deepinv.optim.data_fidelity.L2(), sigma=problem.noise * problem.units.scale,
        max_iter=steps + 1, **options,
    )  # fmt: skip


def deepinv_diffpir(deepinv: Any, problem: Problem, steps: int, **options: Any) -> Tensor:
    """As shipped: lambda 7, zeta .1."""
    model = deepinv_diffpir_model(deepinv, problem, steps, **options)
    with torch.random.fork_rng():  # it seeds the global numbers
        v = model(problem.image_y(), problem.physics(deepinv), seed=SEED)
    return problem.units.prior(v)


def ours_as_deepinv_diffpir(deepinv: Any, problem: Problem, steps: int, **options: Any) -> Tensor:
    """Our DiffPIR with its levels, start, clamping, parameters and random numbers."""
    model, units = deepinv_diffpir_model(deepinv, problem, steps, **options), problem.units
    ladder = model.sigmas[model.seq.long()]  # of u
    generator = torch.Generator().manual_seed(SEED)
    drawn = torch.randn(problem.y.shape, generator=generator)
    sigma = 2 * problem.noise * units.scale  # of u
    start = units.state(2 * problem.image_y() - 1 + (ladder[0] ** 2 - sigma**2).sqrt() * drawn)
    found = sample(
        problem.clamped(0.0, 1.0), problem.y.shape[1:], levels=units.level(ladder.double()), method="diffpir",
        measurement=problem.consistency, samples=len(problem.y), generator=generator, start=start,
        options=Options(diffpir_weight=model.lambda_ / 2, diffpir_renewal=model.zeta),
    )  # fmt: skip
    alpha = model.sqrt_alphas_cumprod[0]  # it returns alpha u + sigma eps as if alpha were 1
    return units.state(alpha * (2 * units.image(found.samples) - 1))


def deepinv_dps_model(deepinv: Any, problem: Problem, steps: int, **options: Any) -> Any:
    """DPS with ``steps`` calls of the network."""
    generator = torch.Generator().manual_seed(SEED)
    return deepinv.sampling.DPS(ImageDenoiser(problem), num_steps=steps + 1, rng=generator, **options)


def deepinv_dps(deepinv: Any, problem: Problem, steps: int, **options: Any) -> Tensor:
    """As shipped: VP, DDPM, weight 1 of the norm."""
    model = deepinv_dps_model(deepinv, problem, steps, **options)
    v = model(problem.image_y(), problem.physics(deepinv), seed=SEED)
    return problem.units.prior(v)


def ours_as_deepinv_dps(deepinv: Any, problem: Problem, steps: int, *, weight: float = 1.0) -> Tensor:
    """Our step of DPS with its levels, start, clamping, step size and random numbers."""
    model, units = deepinv_dps_model(deepinv, problem, steps, weight=weight), problem.units
    ladder = [float(model.sde.sigma_t(t)) for t in model.solver.timesteps]  # of u
    generator = torch.Generator().manual_seed(SEED)

    def draw(size: Sequence[int]) -> Tensor:
        return torch.randn(tuple(size), generator=generator, dtype=torch.float64)

    x = units.state(ladder[0] * draw(problem.y.shape))
    levels = [level / (2 * units.scale) for level in ladder]
    for level0, level1 in itertools.pairwise(levels):
        published = math.sqrt((1 + level0**2) * (1 + level1**2))
        zeta = weight * units.scale * (level0**2 - level1**2) / published
        x = dps_step(problem.clamped(-1.0, 1.0), problem.consistency, (), x, level0, level1, zeta, draw).x
    return x


def ours(method: Any, problem: Problem, steps: int) -> Tensor:
    """As shipped, on EDM's levels."""
    generator = torch.Generator().manual_seed(SEED)
    return sample(
        problem.denoise, problem.y.shape[1:], levels=edm().levels(steps), method=method,
        measurement=problem.consistency, samples=len(problem.y), generator=generator,
    ).samples  # fmt: skip


Run = Callable[[Any, Problem, int], Tensor]
RUNS: dict[str, tuple[Run, str | None]] = {
    "deepinv DiffPIR": (deepinv_diffpir, None),
    "ours as deepinv DiffPIR": (ours_as_deepinv_diffpir, "deepinv DiffPIR"),
    "deepinv DiffPIR, our parameters": (
        lambda d, problem, steps: deepinv_diffpir(d, problem, steps, lambda_=2.0, zeta=0.3),
        None,
    ),
    "ours diffpir": (lambda _, problem, steps: ours("diffpir", problem, steps), None),
    "deepinv DPS": (deepinv_dps, None),
    "ours as deepinv DPS": (ours_as_deepinv_dps, "deepinv DPS"),
    "deepinv DPS, weight 100": (lambda d, problem, steps: deepinv_dps(d, problem, steps, weight=100.0), None),
    "deepinv DPS, weight 1000": (lambda d, problem, steps: deepinv_dps(d, problem, steps, weight=1000.0), None),
    "deepinv DPS, annealed": (lambda d, problem, steps: deepinv_dps(d, problem, steps, guidance="annealed"), None),
    "ours dps": (lambda _, problem, steps: ours("dps", problem, steps), None),
    "ours pigdm": (lambda _, problem, steps: ours("pigdm", problem, steps), None),
}
"""Each run, and the one whose samples it has to give to rounding."""


# ----------------------------------------------------------------------------------------------------
# problems


def gaussian_problem(samples: int) -> tuple[Problem, GaussianPrior]:
    """4 x 5 voxels of exponential covariance, 8 of them seen with noise .3; and the posterior."""
    rng = np.random.default_rng(0)
    places = np.stack(np.meshgrid(np.arange(4), np.arange(5), indexing="ij"), -1).reshape(-1, 2)
    distance = np.linalg.norm(places[:, None] - places[None], axis=-1)
    mean = torch.tensor(0.5 * rng.normal(size=(1, 4, 5)))
    prior = GaussianPrior.from_covariance(mean, torch.tensor(np.exp(-distance / 2)))
    seen = torch.zeros(20, dtype=torch.bool)
    seen[torch.from_numpy(rng.choice(20, 8, replace=False))] = True
    mask = seen.reshape(1, 1, 4, 5)
    generator = torch.Generator().manual_seed(0)
    noisy = prior.sample(1, generator) + 0.3 * torch.randn((1, 1, 4, 5), generator=generator, dtype=torch.float64)
    y = torch.where(mask, noisy, 0.0)
    # Six standard deviations lie within [0, 1], so that deepinv's clamping does not bite.
    problem = Problem(prior.denoise, Units(0.5, 1 / 12), mask, y.float().expand(samples, -1, -1, -1), 0.3)
    return problem, prior.posterior(Mask(mask), y, 0.3)


def slice_problem(volume: np.ndarray, prior: LateralPrior, slices: int, samples: int) -> tuple[Problem, Tensor]:
    """Evenly spaced lateral slices, each ``samples`` times in a row; and the truth in v ``(slices, 1, H, W)``."""
    planes = np.linspace(0, len(volume) - 1, slices + 2).round().astype(int)[1:-1]
    rows = (volume.shape[1] - 1) // FACTOR * FACTOR + 1
    truth = torch.from_numpy(np.ascontiguousarray(volume[planes, :rows], np.float32))[:, None]
    mask = torch.zeros((1, 1, rows, truth.shape[-1]), dtype=torch.bool)
    mask[:, :, ::FACTOR] = True
    noise = NOISE * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    y = torch.where(mask, prior.standardise(truth) + noise, 0.0)
    units = Units(prior.location, prior.scale)
    return Problem(prior.denoise, units, mask, y.repeat_interleave(samples, 0), NOISE), truth


# ----------------------------------------------------------------------------------------------------
# tables


def table(lines: Sequence[Sequence[str]]) -> str:
    """Aligned columns, the first line above a rule."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    padded = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([padded[0], "-" * len(padded[0]), *padded[1:]])


def compared(
    deepinv: Any, problem: Problem, steps: int, judge: Callable[[Tensor], list[str]], names: Sequence[str] = tuple(RUNS)
) -> Iterator[list[str]]:
    """One line a run: name, steps, seconds, what ``judge`` says of the samples, difference from deepinv's."""
    found: dict[str, Tensor] = {}
    for name in names:
        run, twin = RUNS[name]
        drawn, took = timed(partial(run, deepinv, problem, steps))
        found[name] = drawn.double()
        apart = "" if twin is None else f"{float((found[name] - found[twin]).abs().max()):.1e}"
        print(f"{name}: {took.wall:.1f} s", file=sys.stderr, flush=True)  # progress
        yield [name, str(steps), f"{took.wall:.2f}", *judge(found[name]), apart]


def gaussian_judge(posterior: GaussianPrior) -> Callable[[Tensor], list[str]]:
    """Error of the mean in posterior standard deviations, and spread over the right one, root mean squares."""
    variance = posterior.covariance().diagonal().reshape(posterior.mean.shape)

    def judge(samples: Tensor) -> list[str]:
        error = ((samples.mean(0) - posterior.mean) ** 2 / variance).mean().sqrt()
        spread = (samples.var(0) / variance).mean().sqrt()
        return [f"{float(error):.3f}", f"{float(spread):.3f}"]

    return judge


def psnr(estimate: Tensor, truth: Tensor) -> float:
    """Mean over slices of ``-10 log10 mse``, both on [0, 1]."""
    return float((-10 * ((estimate - truth) ** 2).mean((1, 2, 3)).log10()).mean())


def slice_judge(truth: Tensor, units: Units, samples: int) -> Callable[[Tensor], list[str]]:
    """PSNR of single samples, and of the mean of all samples of a slice."""

    def judge(found: Tensor) -> list[str]:
        drawn = units.image(found).reshape(len(truth), samples, *truth.shape[1:])
        single = float(np.mean([psnr(drawn[:, k], truth) for k in range(samples)]))
        return [f"{single:.2f}", f"{psnr(drawn.mean(1), truth):.2f}"]

    return judge


def interpolated(problem: Problem, samples: int) -> Tensor:
    """Lines between the rows that were seen, in v: what a prior has to beat."""
    rows = problem.units.image(problem.y[::samples, :, ::FACTOR])
    size = tuple(problem.y.shape[-2:])
    return torch.nn.functional.interpolate(rows, size, mode="bilinear", align_corners=True)


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--volume", type=Path, help="a clean volume, for (b)")
    parser.add_argument("--prior", type=Path, help="folder of a LateralPrior fitted to it, for (b)")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--draws", type=int, default=2000, help="samples in (a)")
    parser.add_argument("--slices", type=int, default=3)
    parser.add_argument("--samples", type=int, default=4, help="samples a slice in (b)")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    if (arguments.volume is None) != (arguments.prior is None):
        parser.error("--volume and --prior go together")
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)
    try:
        deepinv, stood_in = load_deepinv()
    except ImportError as error:
        parser.exit(1, f"deepinv cannot be imported: {error}\n")
    print(f"{machine()}; torch {torch.__version__}; deepinv {version('deepinv')}")
    if stood_in:
        print("torchvision is not installed: an empty stand-in was there while deepinv was loaded; nothing of it ran.")

    head = ["", "steps", "seconds"]
    problem, posterior = gaussian_problem(arguments.draws)
    lines = list(compared(deepinv, problem, arguments.steps, gaussian_judge(posterior)))
    print(f"\n(a) Gaussian prior, {arguments.draws} samples (a perfect mean has {arguments.draws**-0.5:.3f})\n")
    print(table([[*head, "error of mean", "spread", "from deepinv's"], *lines]))
    if arguments.volume is None:
        return

    from tensorcell.evaluation import references

    prior = LateralPrior.load(arguments.prior)
    volume = np.asarray(references([str(arguments.volume)])[0].data)
    problem, truth = slice_problem(volume, prior, arguments.slices, arguments.samples)
    judge = slice_judge(truth, problem.units, arguments.samples)
    lines = list(compared(deepinv, problem, arguments.steps, judge))
    plain = f"{psnr(interpolated(problem, arguments.samples), truth):.2f}"
    print(
        f"\n(b) {arguments.volume.name}: {arguments.slices} slices {tuple(truth.shape[-2:])}, every {FACTOR}th row with"
        f" noise {NOISE} in prior units; {arguments.samples} samples a slice\n"
    )
    lines.append(["linear interpolation", "", "", plain, plain, ""])
    print(table([[*head, "PSNR of a sample", "of their mean", "from deepinv's"], *lines]))


if __name__ == "__main__":
    main()
