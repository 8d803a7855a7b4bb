"""What each part of ``method="diffusion"`` brings between planes: ``python benchmarks/ablate_guidance.py FILE...``.

Every s-th plane of a volume is kept, a prior is fitted to these alone (or loaded with ``--prior``), and the planes
between are compared with the truth. One table a file: the mean step by step (kriging, the prior's regression, the
blend), then samples with more and more guidance: PSNR of one sample, of the mean of all, their spread
(root mean square), and which share of the voxels lies within the 90 % intervals made of it.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np

GUIDED = ((), ("data",), ("data", "tucker"), ("data", "smooth"), ("data", "lateral"), ("data", "tucker", "smooth"))


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+")
    parser.add_argument("--axial-factor", type=int, default=4)
    parser.add_argument("--side", type=int, default=80, help="largest side in y and x, from the origin")
    parser.add_argument("--fit-steps", type=int, default=2000)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--prior", help="folder of a fitted prior")
    chosen = parser.parse_args()
    for file in chosen.files:
        print(table(file, chosen), flush=True)


def table(file: str, chosen: Any) -> str:
    """The table of one file as text."""
    import torch

    from tensorcell.diffusion_guidance.plane_samples import calibrated, sample_planes
    from tensorcell.diffusion_guidance.planes import fill_with_prior
    from tensorcell.diffusion_guidance.priors import LateralPrior
    from tensorcell.diffusion_guidance.regression import regress_planes
    from tensorcell.diffusion_guidance.slices import matched_stretch
    from tensorcell.diffusion_guidance.training import fit_lateral_prior
    from tensorcell.evaluation import references
    from tensorcell.solvers.interplane import fill_planes

    torch.set_num_threads(1)
    factor = chosen.axial_factor
    truth = np.asarray(references([file])[0].data, np.float32)
    truth = truth[: (len(truth) - 1) // factor * factor + 1, : chosen.side, : chosen.side]
    planes = truth[::factor].copy()
    between = np.arange(len(truth)) % factor != 0

    def psnr(volume: np.ndarray) -> float:
        return -10 * math.log10(float(np.mean(np.square(volume - truth)[between], dtype=np.float64)))

    prior = LateralPrior.load(chosen.prior) if chosen.prior else fit_lateral_prior(
        planes, axial_factor=factor, stretch=matched_stretch(planes, factor), steps=chosen.fit_steps
    )  # fmt: skip
    torch.set_flush_denormal(True)
    kriged = np.asarray(fill_planes(planes, np.arange(0, len(truth), factor), len(truth)).volume)
    filled = fill_with_prior(planes, prior)
    lines = [f"{Path(file).name}, {truth.shape}, every {factor}th plane: PSNR between them, dB"]
    for name, volume in (
        ("kriging", kriged),
        ("the prior's regression", regress_planes(prior, planes)),
        (f"kriging + {filled.prior.weight:.0%} of its correction", filled.volume),
    ):
        lines.append(f"  {name:45s} {psnr(volume):6.2f}")
    lines.append(f"  {'samples guided by':30s}   one   mean  spread  rms error  covered")
    for guidance in GUIDED:
        options = {"samples": chosen.samples, "steps": chosen.steps, "guidance": guidance}
        drawn = sample_planes(planes, prior, keep=True, **options)
        u = calibrated(filled, drawn.std, sample_planes(filled.turns[0].kept, prior, **options).std, factor=factor)
        error = np.abs(filled.volume - truth)[between]
        lines.append(
            f"  {' + '.join(guidance) or 'the conditional score alone':30s} {psnr(drawn.samples[0]):5.2f}  "
            f"{psnr(drawn.mean):5.2f}  {math.sqrt(float(np.mean(np.square(drawn.std[between])))):.4f}     "
            f"{math.sqrt(float(np.mean(np.square(error)))):.4f}     {float((error <= 1.645 * u[between]).mean()):.3f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
