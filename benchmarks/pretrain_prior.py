"""Does a prior that was fitted to simulated cells beforehand save time on real stacks?

::

    python -m benchmarks.pretrain_prior fit pretrained --steps 2500
    python -m benchmarks.pretrain_prior compare pretrained REFERENCE.tif ... --steps 500 1250

The first command fits a lateral prior for axial factor 4 to eight volumes of ``tensorcell.datasets.simulate_cells``
(seeds 0 to 7, other voxel and cell sizes each) and writes it as a folder. The second takes away three planes of four of
each reference, fits a prior to the remaining ones in equally many steps from nothing and from the first one, fills the
planes with both, and prints PSNR on the missing voxels. One thread. 500 and 1250
steps are about 60 and 150 s on one core; counting steps makes the table the same on a busy machine.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from tensorcell.datasets import simulate_cells
from tensorcell.diffusion_guidance.planes import fill_with_prior
from tensorcell.diffusion_guidance.priors import LateralPrior
from tensorcell.diffusion_guidance.regression import regress_planes
from tensorcell.diffusion_guidance.slices import matched_stretch
from tensorcell.diffusion_guidance.training import fit_lateral_prior
from tensorcell.evaluation import references
from tensorcell.solvers.interplane import fill_planes

FACTOR = 4
PIXELS = (0.1, 0.15, 0.2, 0.3)
"""Lateral voxel sizes of the simulated volumes in micrometres."""

Floats = npt.NDArray[np.float32]


def simulated(seed: int) -> Floats:
    """A volume of 12 planes, free of noise, at one of four voxel sizes and two cell sizes."""
    pixel = PIXELS[seed % len(PIXELS)]
    extent = 12 * 0.5 * (160 * pixel) ** 2
    diameter = 7.0 if seed < len(PIXELS) else 4.5  # micrometres
    cells = max(4, round(extent / (np.pi / 6 * diameter**3)))
    volume = simulate_cells((12, 160, 160), spacing=(0.5, pixel, pixel), cells=cells, seed=seed)
    return np.asarray(volume.truth, dtype=np.float32)


def fit(out: Path, *, steps: int, volumes: int, seed: int) -> LateralPrior:
    """Fit to simulated volumes and write."""
    prior = fit_lateral_prior([simulated(k) for k in range(volumes)], axial_factor=FACTOR, steps=steps, seed=seed)
    prior.save(out)
    return prior


def psnr(found: Floats, truth: Floats) -> float:
    """Decibels on missing planes; the references are on [0, 1]."""
    missing = np.arange(len(truth)) % FACTOR != 0
    return float(-10 * np.log10(np.square(found[missing] - truth[missing], dtype=np.float64).mean()))


def compare(start: LateralPrior, reference: str, lengths: list[int], crop: int) -> list[str]:
    """Rows of the table for one reference."""
    truth = np.asarray(references([reference])[0].data, dtype=np.float32)
    middle = [slice(max(0, (side - crop) // 2), max(0, (side - crop) // 2) + crop) for side in truth.shape[1:]]
    truth = truth[: (len(truth) - 1) // FACTOR * FACTOR + 1, middle[0], middle[1]]
    planes = truth[::FACTOR].copy()
    kriging = fill_planes(planes, np.arange(0, len(truth), FACTOR), len(truth)).volume
    base = psnr(np.asarray(kriging), truth)
    stretch = matched_stretch(planes, FACTOR)

    def row(name: str, prior: LateralPrior) -> str:
        torch.set_flush_denormal(True)
        filled = fill_with_prior(planes, prior)
        alone, both = psnr(regress_planes(prior, planes), truth), psnr(filled.volume, truth)
        said = f"{alone - base:+.2f} | {filled.prior.weight:.2f} | {both - base:+.2f}"
        return f"| {Path(reference).stem} | {name} | {prior.report.get('steps', 0)} | {said} |"

    rows = [row("pretrained alone", start.adapted(planes))]
    for steps in lengths:
        for name, initial in (("nothing", None), ("pretrained", start)):
            prior = fit_lateral_prior(planes, axial_factor=FACTOR, stretch=stretch, steps=steps, initial=initial)
            rows.append(row(f"from {name}", prior))
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    fitting = commands.add_parser("fit")
    fitting.add_argument("out", type=Path)
    fitting.add_argument("--steps", type=int, default=2500)
    fitting.add_argument("--volumes", type=int, default=8)
    fitting.add_argument("--seed", type=int, default=0)
    comparing = commands.add_parser("compare")
    comparing.add_argument("prior", type=Path)
    comparing.add_argument("references", nargs="+")
    comparing.add_argument("--steps", type=int, nargs="+", default=[500, 1250])
    comparing.add_argument("--crop", type=int, default=128, help="pixels a side, from the middle")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.command == "fit":
        print(fit(given.out, steps=given.steps, volumes=given.volumes, seed=given.seed).report)
        return
    start = LateralPrior.load(given.prior)
    rows = [row for each in given.references for row in compare(start, each, given.steps, given.crop)]
    print("| reference | prior | steps | regression, dB | weight | filled, dB over kriging |")
    print("|---|---|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
