"""MicroDiffuse3D's attention against attention over all tokens, and its forward pass against its products alone.

    python benchmarks/bench_microdiffuse3d.py [--threads 2] [--repeats 3]

asv runs the classes. As a script it prints the share of a forward pass that matrix products, convolutions and attention
take, by torch's profiler, and what a step of training takes.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run as a script: find `benchmarks`, and `tensorcell` where it is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measure import fix_threads, require
from benchmarks.problems import some

PRODUCTS = (
    "aten::addmm", "aten::mm", "aten::bmm", "aten::mkldnn_convolution", "aten::_slow_conv2d_forward",
    "aten::slow_conv3d_forward", "aten::_scaled_dot_product_flash_attention_for_cpu",
)  # fmt: skip
"""What a forward pass cannot do without, in the profiler's words."""

BAR = 1.3
"""A forward pass over its products, aimed at."""


class Attention:
    """One layer of attention over ``depth`` planes of ``tokens``."""

    params = (some([5, 20]), some([64, 256]))
    param_names = ("depth", "tokens")
    number = 1
    timeout = 300

    def setup(self, depth: int, tokens: int) -> None:
        require("torch", "diffusers")
        import torch

        from tensorcell.diffusion_guidance.microdiffuse3d.attention import DecomposedAttention, SelfAttention

        torch.set_num_threads(2)
        fix_threads(2)
        self.tokens = torch.randn(1, depth, tokens, 256)
        self.decomposed, self.full = DecomposedAttention(256, 8, 32), SelfAttention(256, 8, 32)

    def time_decomposed(self, depth: int, tokens: int) -> None:
        import torch

        with torch.inference_mode():
            self.decomposed(self.tokens)

    def time_over_all_tokens(self, depth: int, tokens: int) -> None:
        import torch

        with torch.inference_mode():
            self.full(self.tokens.flatten(1, 2))


def network(size: str) -> tuple[Any, tuple[Any, ...]]:
    """A network of this size, and the arguments of a call: 16 planes of 64 x 64 pixels from 4."""
    import torch

    from tensorcell.diffusion_guidance.microdiffuse3d import MicroDiffuse3D, MicroDiffuse3DConfig

    config = MicroDiffuse3DConfig.named(size)
    side = 64 // config.latent_scale
    latent = torch.randn(1, 16, config.latent_channels, side, side)
    return MicroDiffuse3D(config), (latent, torch.tensor([0.5]), None, torch.rand(1, 1, 4, 64, 64))


def forward_over_products(size: str, repeats: int) -> float:
    """The least, of several forward passes, of the time over that of the products in it."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    model, inputs = network(size)
    ratios = []
    with torch.inference_mode():
        for _ in range(repeats + 1):
            with profile(activities=[ProfilerActivity.CPU]) as found:
                model(*inputs)
            events = found.key_averages()
            products = sum(event.self_cpu_time_total for event in events if event.key in PRODUCTS)
            ratios.append(sum(event.self_cpu_time_total for event in events) / products)
    return min(ratios[1:])


def step_seconds(size: str, repeats: int) -> float:
    """Seconds of the fastest step of training."""
    model, inputs = network(size)
    laps = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        model(*inputs).square().mean().backward()
        laps.append(time.perf_counter() - began)
    return min(laps)


def main() -> None:
    """Print the table."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    fix_threads(arguments.threads)
    torch.set_num_threads(arguments.threads)
    print(f"{'size':8} forward / products (bar {BAR})   seconds a step")
    for size in ("tiny", "small"):
        ratio = forward_over_products(size, arguments.repeats)
        print(f"{size:8} {ratio:27.2f} {step_seconds(size, arguments.repeats):17.2f}")


if __name__ == "__main__":
    main()
