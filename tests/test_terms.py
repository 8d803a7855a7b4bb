"""Guidance terms against brute-force minimisation of their definitions, finite differences, and the solvers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import optimize, stats

torch = pytest.importorskip("torch", reason="diffusion_guidance needs torch")

from tensorcell.diffusion_guidance.blurs import Blur, BlurDecimate  # noqa: E402
from tensorcell.diffusion_guidance.data_terms import (  # noqa: E402
    GaussianConsistency,
    HuberConsistency,
    PoissonConsistency,
    consistency,
    noise_in_prior_units,
)
from tensorcell.diffusion_guidance.operators import Compose, Identity, Mask, Planes  # noqa: E402
from tensorcell.diffusion_guidance.terms import AxialSmoothness, NonNegative, TermSum  # noqa: E402
from tensorcell.solvers import NoiseModel  # noqa: E402

SHAPE = (2, 1, 5, 3, 2)


def draw(*shape: int, seed: int = 0) -> Any:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


X = draw(*SHAPE)
MASK = torch.from_numpy(np.random.default_rng(3).random(SHAPE[2:]) < 0.6)
BLUR = Blur((0.8, 0.5, 0.4))
OPERATORS: dict[str, Any] = {
    "identity": Identity(),
    "mask": Mask(MASK),
    "planes": Planes(2),
    "blur": BLUR,
    "decimate": BlurDecimate(BLUR, 2),
    "masked-blur": Compose((Mask(MASK), BLUR)),
}


def measured(operator: Any, seed: int = 1) -> Any:
    """What an operator would see of another volume; NaN under masks."""
    y = operator.forward(draw(*SHAPE, seed=seed)) + 0.3 * draw(*operator.forward(X).shape, seed=seed + 1)
    return torch.where(MASK, y, torch.nan) if "Mask" in repr(operator) or isinstance(operator, Mask) else y


SMOOTH_TERMS: dict[str, Any] = {
    **{f"gaussian-{name}": GaussianConsistency(each, measured(each), 0.7) for name, each in OPERATORS.items()},
    **{
        f"poisson-{name}": PoissonConsistency(each, measured(each) + 3, 0.6, 0.9, tolerance=1e-10, max_iterations=4000)
        for name, each in OPERATORS.items()
    },
    **{
        f"huber-{name}": HuberConsistency(each, measured(each), 0.4, 0.7, tolerance=1e-10, max_iterations=4000)
        for name, each in OPERATORS.items()
    },
    "nonnegative-penalty": NonNegative(0.1, weight=3.0),
    "axial": AxialSmoothness(2.0),
    "axial-huber": AxialSmoothness(2.0, threshold=0.3, tolerance=1e-10, max_iterations=4000),
    "sum": TermSum(
        (GaussianConsistency(BLUR, measured(BLUR), 0.7), AxialSmoothness(2.0), NonNegative(0.1, weight=3.0)),
        tolerance=1e-9,
        max_iterations=3000,
    ),
}
CONSTRAINTS: dict[str, Any] = {
    "nonnegative": NonNegative(0.1),
    "equality-mask": GaussianConsistency(OPERATORS["mask"], measured(OPERATORS["mask"]), 0.0),
    "equality-planes": GaussianConsistency(OPERATORS["planes"], measured(OPERATORS["planes"]), 0.0),
    "equality-decimate": GaussianConsistency(OPERATORS["decimate"], measured(OPERATORS["decimate"]), 0.0),
}
EACH = pytest.mark.parametrize("name", SMOOTH_TERMS)


def position(name: str) -> Any:
    """Where a term is evaluated: Poisson terms need positive means."""
    return X.abs() + 2 if name.startswith("poisson") else X


def numbers(function: Callable[[Any], Any]) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
    """Value and gradient of a tensor function of one sample for scipy, the gradient by automatic differentiation."""

    def both(flat: np.ndarray) -> tuple[float, np.ndarray]:
        z = torch.from_numpy(flat.reshape(1, *SHAPE[1:])).requires_grad_()
        value = function(z)
        (slope,) = torch.autograd.grad(value, z)
        return float(value.detach()), slope.numpy().ravel()

    return both


@EACH
def test_gradient_is_that_of_the_value(name: str) -> None:
    term, x = SMOOTH_TERMS[name], position(name)
    move = draw(*SHAPE, seed=9)
    step = 1e-5
    slope = (term.value(x + step * move) - term.value(x - step * move)) / (2 * step)
    product = (term.gradient(x) * move).flatten(1).sum(1)
    # Central differences: an error of step^2 = 1e-10 times third derivatives, and rounding 1e-16 / 1e-5 times values
    # of up to 1e3; a kink of Huber's function within a step would add 1e-5.
    torch.testing.assert_close(product, slope, rtol=1e-5, atol=1e-5)


@EACH
@pytest.mark.parametrize("step", [0.05, 4.0])
def test_prox_minimises_its_definition(name: str, step: float) -> None:
    term, x = SMOOTH_TERMS[name], position(name)
    found = term.prox(x, step)
    for sample in range(2):
        part = slice(sample, sample + 1)
        single = one_sample(term, part)
        objective = numbers(lambda z, a=x[part], f=single: ((z - a) ** 2).sum() / 2 + step * f.value(z).sum())
        bounds = None
        if name.startswith("poisson") and name.split("-")[1] in ("identity", "mask", "planes"):
            bounds = [(-1.499999, None)] * x[part].numel()  # the domain
        best = optimize.minimize(
            objective, found[part].numpy().ravel() + 0.05, jac=True, method="L-BFGS-B", bounds=bounds,
            options={"maxiter": 5000, "maxfun": 20000, "ftol": 1e-16, "gtol": 1e-9},
        )  # fmt: skip
        # 1-strongly convex: the distance to the minimiser is at most the gradient, to which L-BFGS-B gets at 1e-7.
        np.testing.assert_allclose(found[part].numpy().ravel(), best.x, atol=2e-5)
        assert objective(found[part].numpy().ravel())[0] <= best.fun + 1e-8


def one_sample(term: Any, part: slice) -> Any:
    """The term with one sample of its measurement."""
    if isinstance(term, TermSum):
        return TermSum(tuple(one_sample(each, part) for each in term.terms))
    if not hasattr(term, "y"):
        return term
    fields = {name: getattr(term, name) for name in term.__dataclass_fields__}
    return type(term)(**{**fields, "y": term.y[part]})


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_prox_of_a_constraint_is_the_nearest_point_that_holds_it(name: str) -> None:
    term = CONSTRAINTS[name]
    found = term.prox(X, 0.7)
    assert bool((term.value(found) == 0).all())
    assert bool(torch.isinf(term.value(X)).all())
    if isinstance(term, NonNegative):
        feasible = draw(*SHAPE, seed=5).abs() + 0.1
    else:
        feasible = term.prox(draw(*SHAPE, seed=5), 1.0)
    # Projection on a convex set: no feasible point is at an acute angle (1e-12: rounding).
    angles = ((X - found) * (feasible - found)).flatten(1).sum(1)
    assert bool((angles <= 1e-12).all())


@pytest.mark.parametrize("name", [*SMOOTH_TERMS, *CONSTRAINTS])
def test_prox_takes_one_step_a_sample_and_a_step_of_zero(name: str) -> None:
    term = {**SMOOTH_TERMS, **CONSTRAINTS}[name]
    x = position(name)
    both = term.prox(x, torch.tensor([0.3, 1.7], dtype=torch.float64))
    torch.testing.assert_close(both[:1], term.prox(x, 0.3)[:1], rtol=0, atol=1e-6)  # both to their tolerances
    torch.testing.assert_close(both[1:], term.prox(x, 1.7)[1:], rtol=0, atol=1e-6)
    torch.testing.assert_close(term.prox(x, 0.0), x, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", SMOOTH_TERMS)
def test_terms_work_in_single_precision(name: str) -> None:
    term = SMOOTH_TERMS[name]
    single = {"y": term.y.float()} if hasattr(term, "y") else {}
    if isinstance(term, TermSum):
        return
    fields = {key: getattr(term, key) for key in term.__dataclass_fields__}
    fields.update(single)
    if "tolerance" in fields:
        fields["tolerance"] = 1e-5
    x = position(name)
    found = type(term)(**fields).prox(x.float(), 0.5)
    assert found.dtype == torch.float32
    # Rounding of 1e-7, or the tolerance of the splitting, 1e-5 of a norm of about 10.
    torch.testing.assert_close(found.double(), term.prox(x, 0.5), rtol=0, atol=2e-3)


def test_nan_under_the_mask_changes_nothing() -> None:
    operator = OPERATORS["mask"]
    y = measured(operator)
    assert bool(torch.isnan(y).any())
    filled = torch.where(MASK, y, 1e6)
    for one, other in (
        (GaussianConsistency(operator, y, 0.5), GaussianConsistency(operator, filled, 0.5)),
        (PoissonConsistency(operator, y + 3, 0.5, 1.0), PoissonConsistency(operator, filled + 3, 0.5, 1.0)),
        (HuberConsistency(operator, y, 0.5, 0.5), HuberConsistency(operator, filled, 0.5, 0.5)),
    ):
        torch.testing.assert_close(one.prox(X, 1.0), other.prox(X, 1.0), rtol=0, atol=0)
        torch.testing.assert_close(one.value(X.abs()), other.value(X.abs()), rtol=0, atol=0)
        torch.testing.assert_close(one.gradient(X), other.gradient(X), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["mask", "masked-blur"])
def test_value_may_be_differentiated_where_data_are_missing(name: str) -> None:
    """Samplers that differentiate through a network take the gradient of the value: NaN must not leak into it."""
    operator = OPERATORS[name]
    y = measured(operator) + 3
    for term in (
        GaussianConsistency(operator, y, 0.5),
        PoissonConsistency(operator, y, 0.5, -0.7),  # means of 0, as a mask leaves them, are outside the domain
        HuberConsistency(operator, y, 0.5, 0.5),
    ):
        x = (X.abs() + 2).requires_grad_()
        (slope,) = torch.autograd.grad(term.value(x).sum(), x)
        torch.testing.assert_close(slope, term.gradient(x.detach()))


# Noise ---------------------------------------------------------------------------------------------------------------


def test_poisson_value_is_the_log_likelihood_of_scipy() -> None:
    rng = np.random.default_rng(0)
    mean = rng.uniform(1, 30, (2, 1, 4, 5))
    counts = rng.poisson(mean)
    gain, pedestal = 2.5, 7.0
    y = torch.from_numpy(gain * counts + pedestal)
    term = PoissonConsistency(Identity(), y, gain, -gain * pedestal)
    other = torch.from_numpy(gain * (mean * 1.3) + pedestal)
    first = term.value(torch.from_numpy(gain * mean + pedestal)) - term.value(other)
    expected = -stats.poisson.logpmf(counts, mean) + stats.poisson.logpmf(counts, mean * 1.3)
    np.testing.assert_allclose(first.numpy(), expected.reshape(2, -1).sum(1), rtol=1e-10)  # rounding of sums


def test_poisson_curvature_is_the_inverse_variance_of_the_noise_model() -> None:
    """Where the mean is what was measured the term is Gaussian with the variance of the model."""
    noise = NoiseModel(gain=2.0, offset=30.0, sigma=5.0)
    gain, offset = noise_in_prior_units(noise, location=100.0, scale=40.0)
    y = torch.full((1, 1, 1), 0.25, dtype=torch.float64)  # intensity 110
    term = PoissonConsistency(Identity(), y, gain, offset)
    step = 1e-4
    curvature = (term.gradient(y + step) - term.gradient(y - step)) / (2 * step)
    variance = float(noise.variance(np.array(110.0))) / 40.0**2
    assert float(curvature) == pytest.approx(1 / variance, rel=1e-6)  # differences: step^2
    assert float(term.gradient(y)) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("gain", [1e-4, 1e4])
def test_poisson_prox_without_photons_has_no_cancellation(gain: float) -> None:
    y = torch.tensor([[[0.0, 0.0, 1.0]]], dtype=torch.float64) * gain
    term = PoissonConsistency(Identity(), y, gain, 0.0)
    x = torch.tensor([[[-3.0, 5.0, -1e9]]], dtype=torch.float64) * gain
    found = term.prox(x, gain**2)[0, 0] / gain  # scale-free: step 1 at gain 1
    assert float(found[0]) == 0.0
    assert float(found[1]) == pytest.approx(4.0, rel=1e-12)
    # z - x + 1 - 1 / z = 0 at x = -1e9: z = 1e-9 to nine digits
    assert float(found[2]) == pytest.approx(1e-9, rel=1e-6)


def test_consistency_follows_the_noise_model() -> None:
    y = draw(*SHAPE)
    poisson = consistency(Identity(), y, NoiseModel(gain=2.0, offset=30.0, sigma=5.0), location=100.0, scale=40.0)
    assert isinstance(poisson, PoissonConsistency)
    assert (poisson.gain, poisson.offset) == pytest.approx((0.05, 230 / 1600))
    gaussian = consistency(Identity(), y, NoiseModel(gain=0.0, offset=25.0, sigma=5.0), location=100.0, scale=40.0)
    assert isinstance(gaussian, GaussianConsistency)
    assert gaussian.sigma == pytest.approx(0.125)


def test_huber_outliers_minimise_the_joint_definition() -> None:
    term = HuberConsistency(Identity(), draw(*SHAPE, seed=4), 0.4, 0.7)
    e = term.outliers(X)

    def joint(e: Any) -> Any:
        return (((term.y - X - e) ** 2 / 2 + 0.4 * e.abs()) / 0.7**2).flatten(1).sum(1)

    torch.testing.assert_close(joint(e), term.value(X))
    for seed in range(20):
        assert bool((joint(e + 0.1 * draw(*SHAPE, seed=seed)) >= joint(e)).all())


# Bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussianConsistency(Identity(), X, -1.0), "standard deviation of at least 0, got -1.0"),
        (lambda: GaussianConsistency(Identity(), X, 0.0).gradient(X), "sigma above 0 for a gradient"),
        (lambda: PoissonConsistency(Identity(), X, 0.0, 1.0), "gain above 0 and a finite offset, got 0.0 and 1.0"),
        (lambda: noise_in_prior_units(NoiseModel(1.0, 1.0, 1.0), 0.0, 0.0), "scale above 0, got 0.0"),
        (lambda: HuberConsistency(Identity(), X, 0.0, 1.0), "threshold and sigma above 0, got 0.0 and 1.0"),
        (lambda: NonNegative(0.0, 0.0), "weight above 0, got 0.0"),
        (lambda: NonNegative().gradient(X), "finite weight for a gradient"),
        (lambda: AxialSmoothness(0.0), "weight above 0, got 0.0"),
        (lambda: AxialSmoothness(1.0, -1.0), "threshold above 0 or None, got -1.0"),
        (lambda: TermSum(()), "at least one term"),
    ],
)
def test_bad_input_is_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_infinite_poisson_value_outside_its_domain() -> None:
    term = PoissonConsistency(Identity(), torch.ones(1, 1, 2), 1.0, 0.0)
    assert math.isinf(float(term.value(torch.tensor([[[-1.0, 1.0]]]))))
