"""Denoisers of volumes made of denoisers of slices: products of perpendicular priors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="diffusion_guidance needs torch")

from tensorcell.diffusion_guidance.blurs import Blur  # noqa: E402
from tensorcell.diffusion_guidance.denoisers import perpendicular, slicewise  # noqa: E402


def draw(*shape: int, seed: int = 0) -> Any:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def linear_2d(x: Any, level: Any) -> Any:
    """A linear denoiser of slices that treats their axes differently, weaker at low levels."""
    smooth = Blur((0.9, 0.3)).forward(x)
    gain = (level / (1 + level)).reshape(-1, 1, 1, 1)
    return x + gain * (smooth - x)


def white(x: Any, level: Any) -> Any:
    """The conditional mean under a white Gaussian prior of variance 1."""
    return x / (1 + level.reshape(-1, *(1,) * (x.ndim - 1)) ** 2)


@pytest.mark.parametrize("weights", [None, (0.2, 0.5, 0.3), (1.0, 0.0, 0.0), (2.0, -0.5, -0.5)])
@pytest.mark.parametrize("level", [0.01, 1.0, 50.0])
def test_perpendicular_leaves_a_white_prior_exact_for_weights_of_sum_one(weights: Any, level: float) -> None:
    x = draw(2, 1, 4, 5, 6)
    levels = torch.tensor([level, 2 * level], dtype=torch.float64)
    found = perpendicular(white, weights=weights)(x, levels)
    torch.testing.assert_close(found, white(x, levels), rtol=1e-13, atol=1e-13)  # a few roundings


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.5, 0.25, 0.0)])
def test_perpendicular_of_another_sum_counts_the_prior_as_often(weights: tuple[float, ...]) -> None:
    """The sampled Gaussian would have the score of W white ones: the deviation is exactly (W - 1) (d - x)."""
    x, total = draw(1, 1, 4, 5, 6), sum(weights)
    level = torch.tensor([3.0], dtype=torch.float64)
    found = perpendicular(white, weights=weights)(x, level)
    assert float((found - white(x, level)).abs().max()) > 0.1
    torch.testing.assert_close(found, x + total * (white(x, level) - x), rtol=1e-13, atol=1e-13)


def test_perpendicular_adds_the_scores_of_its_planes() -> None:
    """Score of the product, from the log-densities themselves by automatic differentiation."""
    size, level = 4, 0.7
    rng = np.random.default_rng(2)
    root = rng.standard_normal((size * size, size * size)) / size
    covariance = torch.from_numpy(root @ root.T) + level**2 * torch.eye(size * size, dtype=torch.float64)
    precision = torch.linalg.inv(covariance)

    def denoise_2d(x: Any, level: Any) -> Any:
        flat = x.flatten(1)
        return (flat - level.reshape(-1, 1) ** 2 * flat @ precision).reshape(x.shape)

    x = draw(1, 1, size, size, size).requires_grad_()
    weights = (0.5, 0.3, 0.4)
    orders = ((2, 3, 4), (3, 2, 4), (4, 2, 3))  # slices along the first, their axes the others
    log_density = 0.0
    for weight, order in zip(weights, orders, strict=True):
        flat = x.permute(0, 1, *order).reshape(size, -1)
        log_density = log_density - weight / 2 * (flat @ precision * flat).sum()
    (score,) = torch.autograd.grad(log_density, x)
    found = perpendicular(denoise_2d, weights=weights)(x.detach(), level)
    torch.testing.assert_close(found, x.detach() + level**2 * score, rtol=1e-12, atol=1e-12)


def test_slicewise_denoises_every_slice_by_itself_at_its_sample_level() -> None:
    x = draw(2, 3, 4, 5, 6)
    levels = torch.tensor([0.5, 2.0], dtype=torch.float64)
    found = slicewise(linear_2d, "zx", batch=3)(x, levels)
    for k in range(2):
        for y in range(5):
            alone = linear_2d(x[k : k + 1, :, :, y, :], levels[k : k + 1])
            torch.testing.assert_close(found[k, :, :, y, :], alone[0], rtol=1e-13, atol=1e-13)


def test_alternating_planes_take_turns_and_average_to_the_product() -> None:
    x, level = draw(1, 1, 4, 5, 6), 1.0
    turns = perpendicular(linear_2d, alternate=True)
    calls = [turns(x, level) for _ in range(3)]
    for call, plane in zip(calls, ("yx", "zx", "zy"), strict=True):
        torch.testing.assert_close(call, slicewise(linear_2d, plane)(x, level))
    torch.testing.assert_close(sum(calls) / 3, perpendicular(linear_2d)(x, level))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: slicewise(white, "xy"), "plane 'yx', 'zx' or 'zy', got 'xy'"),
        (lambda: slicewise(white, "yx", batch=0), "batch of at least 1, got 0"),
        (lambda: slicewise(white, "yx")(torch.zeros(1, 1, 3, 3), 1.0), r"expected volumes \(K, C, Z, Y, X\)"),
        (lambda: perpendicular(white, ()), "at least one plane"),
        (lambda: perpendicular(white, weights=(1.0,)), r"3 finite weights, one a plane, got \[1.0\]"),
        (lambda: perpendicular(white, weights=(0.5, 0.2, 0.3), alternate=True), "equal weights"),
    ],
)
def test_bad_input_is_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
