"""Operators against random dot products, dense linear algebra and scipy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import ndimage

torch = pytest.importorskip("torch", reason="diffusion_guidance needs torch")

from tensorcell.diffusion_guidance.blurs import Blur, BlurDecimate  # noqa: E402
from tensorcell.diffusion_guidance.operators import (  # noqa: E402
    Compose,
    Identity,
    Mask,
    Planes,
    SecondDifference,
    normal_solve,
    observed,
    per_sample,
)

SHAPE = (2, 1, 7, 5, 3)


def draw(*shape: int, seed: int = 0) -> Any:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def some_mask(shape: tuple[int, ...] = SHAPE[2:]) -> Any:
    return torch.from_numpy(np.random.default_rng(3).random(shape) < 0.6)


OPERATORS = {
    "identity": Identity(),
    "mask": Mask(some_mask()),
    "planes": Planes(2),
    "planes-of-7": Planes(4, planes=7),
    "blur-reflect": Blur((1.3, 0.7, 0.0)),
    "blur-nearest": Blur((1.3, 0.7, 2.0), "nearest"),
    "blur-zero": Blur((1.3, 0.7, 2.0), "zero"),
    "blur-wrap": Blur((1.3, 0.7, 2.0), "wrap"),
    "blur-lateral": Blur((0.8, 0.9)),
    "decimate": BlurDecimate(Blur((1.2, 0.6, 0.6)), 3),
    "decimate-of-7": BlurDecimate(Blur((1.2, 0.6, 0.6), "nearest"), 4, planes=7),
    "difference": SecondDifference(),
    "masked-blur": Compose((Mask(some_mask()), Blur((1.0, 0.5, 0.5)))),
    "planes-of-blur": Compose((Planes(2), Blur((1.0, 0.5, 0.5)))),
}
ALL = pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)


def dense(operator: Any, shape: tuple[int, ...] = SHAPE[2:]) -> np.ndarray:
    """The matrix of an operator, column by column."""
    size = int(np.prod(shape))
    columns = operator.forward(torch.eye(size, dtype=torch.float64).reshape(size, 1, *shape))
    return columns.reshape(size, -1).numpy().T


@ALL
def test_adjoint_by_random_dot_products(operator: Any) -> None:
    x = draw(*SHAPE)
    seen = operator.forward(x)
    y = draw(*seen.shape, seed=1)
    back = operator.adjoint(y)
    assert back.shape == x.shape
    # Sums of a hundred terms of about 1: rounding of 1e-14.
    assert float((seen * y).sum()) == pytest.approx(float((x * back).sum()), abs=1e-12)


@ALL
@pytest.mark.parametrize("weight", [0.03, 2.0])
def test_solve_equals_dense_algebra(operator: Any, weight: float) -> None:
    rhs = draw(*SHAPE, seed=2)
    matrix = dense(operator)
    normal = matrix.T @ matrix + weight * np.eye(matrix.shape[1])
    expected = np.linalg.solve(normal, rhs.reshape(2, -1).numpy().T).T.reshape(SHAPE)
    # Condition number of at most 1e3 (16 / .03): 1e-13 in closed form; conjugate gradients stop at 1e-12.
    np.testing.assert_allclose(normal_solve(operator, rhs, weight).numpy(), expected, atol=1e-9)


@ALL
def test_solve_takes_one_weight_a_sample(operator: Any) -> None:
    rhs = draw(*SHAPE, seed=2)
    both = normal_solve(operator, rhs, torch.tensor([0.1, 3.0], dtype=torch.float64))
    for sample, weight in enumerate((0.1, 3.0)):
        alone = normal_solve(operator, rhs[sample : sample + 1], weight)
        torch.testing.assert_close(both[sample : sample + 1], alone, rtol=0, atol=1e-9)  # as above


@pytest.mark.parametrize("name", ["identity", "mask", "planes", "planes-of-7", "decimate", "planes-of-blur"])
def test_solve_without_weight_is_the_pseudo_inverse(name: str) -> None:
    operator = OPERATORS[name]
    y = operator.forward(draw(*SHAPE))
    matrix = dense(operator)
    expected = (np.linalg.pinv(matrix, rcond=1e-9) @ y.reshape(2, -1).numpy().T).T.reshape(SHAPE)
    # Singular values are above 1e-2: rounding times 1e4, and conjugate gradients to 1e-12 times that.
    np.testing.assert_allclose(normal_solve(operator, operator.adjoint(y), 0.0).numpy(), expected, atol=1e-7)


@pytest.mark.parametrize(
    ("boundary", "mode"), [("reflect", "reflect"), ("nearest", "nearest"), ("zero", "constant"), ("wrap", "wrap")]
)
@pytest.mark.parametrize("widths", [(0.0, 1.0, 2.5), (3.0, 0.4, 1.7)])
def test_blur_equals_scipy(boundary: Any, mode: str, widths: tuple[float, ...]) -> None:
    x = draw(1, 2, 9, 12, 11)
    found = Blur(widths, boundary).forward(x)[0].numpy()
    for channel in range(2):
        expected = ndimage.gaussian_filter(x[0, channel].numpy(), widths, mode=mode, truncate=4.0)
        np.testing.assert_allclose(found[channel], expected, atol=1e-14)  # the same sums in another order


def test_blur_wider_than_the_volume_equals_scipy() -> None:
    x = draw(1, 1, 3, 4, 5)
    expected = ndimage.gaussian_filter(x[0, 0].numpy(), 4.0, mode="reflect")
    np.testing.assert_allclose(Blur((4.0, 4.0, 4.0)).forward(x)[0, 0].numpy(), expected, atol=1e-14)


def test_full_width_at_half_maximum_is_where_a_spike_falls_to_half() -> None:
    spike = torch.zeros(1, 1, 41, 1, 1, dtype=torch.float64)
    spike[..., 20, 0, 0] = 1
    profile = Blur.from_fwhm((8.0, 0.0, 0.0), truncate=6.0).forward(spike)[0, 0, :, 0, 0]
    assert float(profile[24] / profile[20]) == pytest.approx(0.5, abs=1e-12)  # half the width from the middle


def test_blur_decimate_is_planes_of_blur() -> None:
    x = draw(*SHAPE)
    blur = Blur((1.2, 0.6, 0.6))
    composed = Compose((Planes(3), blur)).forward(x)
    torch.testing.assert_close(BlurDecimate(blur, 3).forward(x), composed, rtol=0, atol=1e-14)


def test_light_is_kept_by_mirrors() -> None:
    x = draw(*SHAPE)
    torch.testing.assert_close(Blur((2.0, 2.0, 2.0)).forward(x).sum(), x.sum(), rtol=0, atol=1e-12)


def test_float32_stays_float32() -> None:
    for operator in OPERATORS.values():
        x = draw(*SHAPE).float()
        assert operator.forward(x).dtype == torch.float32
        assert normal_solve(operator, x, 0.5).dtype == torch.float32


def test_mask_is_blind_to_what_it_hides() -> None:
    mask = some_mask()
    x = torch.where(mask, draw(*SHAPE), torch.nan)
    assert bool(torch.isfinite(Mask(mask).forward(x)).all())
    assert bool((observed(OPERATORS["masked-blur"], x) == mask).all())


def test_tiny_weights_of_a_tensor_are_not_lost() -> None:
    """A float and a tensor mean the same."""
    rhs = draw(*SHAPE)
    one = Planes(2).solve(rhs, 1e-18)
    other = Planes(2).solve(rhs, torch.full((2,), 1e-18, dtype=torch.float64))
    torch.testing.assert_close(one, other, rtol=1e-15, atol=0)
    assert float(one.abs().max()) > 1e17


# Bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Mask(torch.ones(3)), TypeError, r"expected a bool mask \(True = observed\), got dtype torch.float32"),
        (lambda: Planes(0), ValueError, "factor of at least 1, got 0"),
        (lambda: Planes(2, planes=8).forward(torch.zeros(SHAPE)), ValueError, "volume of 8 planes, got 7"),
        (lambda: Planes(2, planes=8).adjoint(torch.zeros(SHAPE)), ValueError, "expected 4 planes.*got 7"),
        (lambda: Blur((1.0, -1.0)), ValueError, r"widths of at least 0, one an axis, got \(1.0, -1.0\)"),
        (lambda: Blur((1.0,), boundary="mirror"), ValueError, "got 'mirror'"),  # type: ignore[arg-type]
        (lambda: Blur((1.0,), truncate=0.0), ValueError, "truncate above 0, got 0.0"),
        (lambda: Blur((1.0, 1.0, 1.0)).forward(torch.zeros(1, 1, 4, 4)), ValueError, "channels and 3 axes"),
        (lambda: BlurDecimate(Blur((1.0, 1.0)), 2), ValueError, "blur of 3 axes, got 2"),
        (lambda: BlurDecimate(Blur((1.0, 1.0, 1.0)), 0), ValueError, "factor of at least 1, got 0"),
        (lambda: SecondDifference().forward(torch.zeros(1, 1, 2, 4, 4)), ValueError, "at least 3 planes"),
        (lambda: Compose(()), ValueError, "at least one operator"),
        (lambda: per_sample(torch.ones(3), torch.zeros(2, 1, 4)), ValueError, "one number or 2, one a sample"),
    ],
)
def test_bad_input_is_named(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()
