"""The Gaussian reference prior against independent formulas and against draws."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'diffusion'")

from tensorcell.diffusion_guidance.blurs import Blur  # noqa: E402
from tensorcell.diffusion_guidance.gaussian import GaussianPrior  # noqa: E402
from tensorcell.diffusion_guidance.operators import Identity, Mask, Planes  # noqa: E402


def random_prior(shape: tuple[int, ...], seed: int = 0) -> tuple[GaussianPrior, np.ndarray]:
    rng = np.random.default_rng(seed)
    size = int(np.prod(shape))
    root = rng.normal(size=(size, size)) / np.sqrt(size)
    covariance = root @ root.T + 0.05 * np.eye(size)
    return GaussianPrior.from_covariance(torch.tensor(rng.normal(size=shape)), torch.tensor(covariance)), covariance


def periodic_prior(shape: tuple[int, ...]) -> GaussianPrior:
    return GaussianPrior.power_law(shape, 2.0, dtype=torch.float64)


@pytest.mark.parametrize("level", [1e-3, 0.5, 30.0])
def test_denoiser_is_the_conditional_mean(level: float) -> None:
    prior, covariance = random_prior((2, 3, 4))
    x = torch.tensor(np.random.default_rng(1).normal(size=(3, 2, 3, 4)))
    mean = prior.mean.numpy().ravel()
    gain = np.linalg.solve(covariance + level**2 * np.eye(24), covariance).T
    wanted = mean + (x.numpy().reshape(3, -1) - mean) @ gain.T
    np.testing.assert_allclose(prior.denoise(x, level).numpy().reshape(3, -1), wanted, rtol=1e-9, atol=1e-10)


def test_level_may_differ_between_samples() -> None:
    for prior in (random_prior((1, 3, 4))[0], periodic_prior((1, 3, 4))):
        x = torch.tensor(np.random.default_rng(1).normal(size=(2, 1, 3, 4)))
        both = prior.denoise(x, torch.tensor([0.3, 2.0]))
        single = torch.cat([prior.denoise(x[:1], 0.3), prior.denoise(x[1:], 2.0)])
        torch.testing.assert_close(both, single, rtol=1e-6, atol=1e-7)  # levels of float32


def test_spectrum_and_dense_basis_agree() -> None:
    by_spectrum = periodic_prior((2, 4, 5))
    by_matrix = GaussianPrior.from_covariance(by_spectrum.mean, by_spectrum.covariance())
    x = torch.tensor(np.random.default_rng(2).normal(size=(3, 2, 4, 5)))
    torch.testing.assert_close(by_spectrum.denoise(x, 0.7), by_matrix.denoise(x, 0.7), rtol=1e-10, atol=1e-10)


def test_power_law_has_unit_variance_and_is_stationary() -> None:
    covariance = periodic_prior((1, 4, 6)).covariance().reshape(4, 6, 4, 6)
    np.testing.assert_allclose(covariance[1, 2, 1, 2], 1.0, rtol=1e-12)
    np.testing.assert_allclose(covariance[0, 0].roll((1, 2), (0, 1)), covariance[1, 2], rtol=1e-12, atol=1e-12)


def test_denoiser_is_the_score_of_the_noisy_density() -> None:
    # Tweedie: D(x) = x + l^2 grad log N(x; m, C + l^2).
    prior, covariance = random_prior((1, 2, 3))
    level = 0.4
    x = torch.tensor(np.random.default_rng(3).normal(size=(1, 1, 2, 3)), requires_grad=True)
    noisy = torch.distributions.MultivariateNormal(
        prior.mean.flatten(), torch.tensor(covariance + level**2 * np.eye(6))
    )
    (score,) = torch.autograd.grad(noisy.log_prob(x.flatten()), x)
    torch.testing.assert_close(prior.denoise(x, level), x + level**2 * score, rtol=1e-9, atol=1e-10)


def test_direction_without_variance_is_known() -> None:
    prior = GaussianPrior.from_covariance(torch.ones(1, 2), torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    x = torch.full((1, 1, 2), 3.0)
    assert prior.denoise(x, 0.0).flatten().tolist() == [3.0, 1.0]
    assert prior.denoise(x, 1.0).flatten().tolist() == [2.0, 1.0]


@pytest.mark.parametrize("kind", ["dense", "spectrum"])
def test_draws_have_mean_and_covariance(kind: str) -> None:
    prior = random_prior((1, 3, 3))[0] if kind == "dense" else periodic_prior((1, 3, 3))
    count = 4000
    drawn = prior.sample(count, torch.Generator().manual_seed(0)).flatten(1)
    exact = prior.covariance()
    variances = exact.diagonal()
    z_mean = (drawn.mean(0) - prior.mean.flatten()) / (variances / count).sqrt()
    z_covariance = (drawn.T.cov() - exact) / ((variances[:, None] * variances + exact**2) / count).sqrt()
    assert float(z_mean.abs().max()) < 4
    assert float(z_covariance.abs().max()) < 4


@pytest.mark.parametrize(
    "operator",
    [
        Identity(),
        Mask(torch.tensor(np.random.default_rng(5).random((4, 2, 3)) < 0.4)),
        Planes(3),
        Blur((1.0, 0.0, 0.5), "reflect"),
    ],
    ids=["identity", "mask", "planes", "blur"],
)
def test_posterior_is_that_of_the_information_form(operator: object) -> None:
    # An independent form: precision C^-1 + A'A / s^2, where the code solves in the measurement's space.
    prior, covariance = random_prior((1, 4, 2, 3))
    sigma = 0.3
    unit = torch.eye(24, dtype=torch.float64).reshape(24, 1, 4, 2, 3)
    matrix = operator.forward(unit).flatten(1).numpy().T  # type: ignore[attr-defined]
    y = operator.forward(prior.sample(1, torch.Generator().manual_seed(1))) + 0.1  # type: ignore[attr-defined]
    if isinstance(operator, Mask):
        y = torch.where(operator.mask, y, torch.nan)
    found = prior.posterior(operator, y, sigma)  # type: ignore[arg-type]
    wanted = np.linalg.inv(np.linalg.inv(covariance) + matrix.T @ matrix / sigma**2)
    mean = prior.mean.numpy().ravel()
    shift = wanted @ matrix.T @ (np.nan_to_num(y.numpy().ravel()) - matrix @ mean) / sigma**2
    np.testing.assert_allclose(found.covariance().numpy(), wanted, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(found.mean.numpy().ravel(), mean + shift, rtol=1e-7, atol=1e-9)


def test_single_precision_stays_single() -> None:
    prior = GaussianPrior.power_law((1, 4, 4))
    posterior = prior.posterior(Identity(), torch.zeros(1, 1, 4, 4), 1.0)
    assert posterior.mean.dtype == posterior.denoise(torch.zeros(1, 1, 4, 4), 1.0).dtype == torch.float32
    assert prior.sample().dtype == torch.float32


def test_priors_that_do_not_fit_are_refused() -> None:
    mean = torch.zeros(1, 2)
    with pytest.raises(ValueError, match=r"variances must be zero or above, got -1"):
        GaussianPrior(mean, torch.tensor([[-1.0, 1.0]]))
    with pytest.raises(ValueError, match=r"a mean of 2 voxels needs a basis \(2, 2\) and variances \(2,\)"):
        GaussianPrior(mean, torch.ones(3), torch.eye(2))
    with pytest.raises(ValueError, match=r"a spectrum needs the shape of the mean \(1, 2\), got \(1, 3\)"):
        GaussianPrior(mean, torch.ones(1, 3))
    with pytest.raises(ValueError, match="a spectrum must be even"):
        GaussianPrior(torch.zeros(1, 3), torch.tensor([[1.0, 2.0, 3.0]]))
    with pytest.raises(ValueError, match=r"expected a covariance \(2, 2\) for 2 voxels, got \(3, 3\)"):
        GaussianPrior.from_covariance(mean, torch.eye(3))
    with pytest.raises(ValueError, match="a covariance must be symmetric"):
        GaussianPrior.from_covariance(mean, torch.tensor([[1.0, 1.0], [0.0, 1.0]]))
    with pytest.raises(ValueError, match="a covariance has no negative eigenvalue, got -1"):
        GaussianPrior.from_covariance(mean, torch.diag(torch.tensor([1.0, -1.0])))
    with pytest.raises(ValueError, match=r"expected a shape \(C, \*space\), got \(4,\)"):
        GaussianPrior.power_law((4,))


def test_measurements_that_do_not_fit_are_refused() -> None:
    prior = GaussianPrior.power_law((1, 4, 4))
    with pytest.raises(ValueError, match=r"sigma must be above zero, got 0\.0"):
        prior.posterior(Identity(), torch.zeros(1, 1, 4, 4), 0.0)
    with pytest.raises(ValueError, match=r"expected a measurement \(1, 1, 4, 4\), got \(2, 1, 4, 4\)"):
        prior.posterior(Identity(), torch.zeros(2, 1, 4, 4), 1.0)
    with pytest.raises(ValueError, match="a dense covariance of 6400 voxels would not fit, at most 4096"):
        GaussianPrior.power_law((1, 80, 80)).covariance()
