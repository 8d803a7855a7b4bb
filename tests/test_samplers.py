"""Samplers judged on a Gaussian prior, where the posterior and the law of each sampler are known exactly."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'diffusion'")

from tensorcell.diffusion_guidance import posterior_means  # noqa: E402
from tensorcell.diffusion_guidance.data_terms import GaussianConsistency, PoissonConsistency  # noqa: E402
from tensorcell.diffusion_guidance.gaussian import GaussianPrior  # noqa: E402
from tensorcell.diffusion_guidance.methods import PLAIN, Options  # noqa: E402
from tensorcell.diffusion_guidance.noises import correlated_noise  # noqa: E402
from tensorcell.diffusion_guidance.operators import Mask  # noqa: E402
from tensorcell.diffusion_guidance.paths import edm, variance_preserving  # noqa: E402
from tensorcell.diffusion_guidance.posterior_means import combine_estimates  # noqa: E402
from tensorcell.diffusion_guidance.sampler_loop import SamplerState, Samples, SamplingDivergedError, SamplingInterrupted  # noqa: E402
from tensorcell.diffusion_guidance.samplers import sample  # noqa: E402

SHAPE = (1, 4, 5)
SIZE = 20
GUIDED = ("dps", "ddnm", "diffpir", "pigdm", "reddiff", "pnp_admm", "split_gibbs")
ALL = (*PLAIN, *GUIDED)
TWEEDIE = Options(pigdm_covariance="tweedie")


# The problem: 20 voxels, exponential covariance, 8 of them seen or all blurred ---------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Dense:
    """An operator by its matrix ``(m, 20)``."""

    matrix: Any

    def forward(self, x):
        return (x.flatten(1) @ self.matrix.T)[:, None]

    def adjoint(self, y):
        return (y.flatten(1) @ self.matrix).reshape(-1, *SHAPE)


@dataclasses.dataclass(frozen=True, eq=False)
class Seen:
    """``y = A x + sigma noise``, solved with dense matrices: shares no code with the library's measurements."""

    operator: Dense
    y: Any
    sigma: float

    def gradient(self, x):
        return self.operator.adjoint(self.operator.forward(x) - self.y) / self.sigma**2

    def prox(self, x, step):
        matrix = self.operator.matrix
        left = (self.y - self.operator.forward(x)).flatten(1)
        weight = self.sigma**2 / step
        if weight == 0:
            return x + (left @ torch.linalg.pinv(matrix).T).reshape(x.shape)
        normal = matrix @ matrix.T + weight * torch.eye(len(matrix), dtype=matrix.dtype)
        return x + (torch.linalg.solve(normal, left.T).T @ matrix).reshape(x.shape)


def make_prior() -> GaussianPrior:
    places = np.stack(np.meshgrid(np.arange(4), np.arange(5), indexing="ij"), -1).reshape(-1, 2)
    distance = np.linalg.norm(places[:, None] - places[None], axis=-1)
    mean = 0.5 * np.random.default_rng(0).normal(size=SHAPE)
    return GaussianPrior.from_covariance(torch.tensor(mean), torch.tensor(np.exp(-distance / 2)))


PRIOR = make_prior()


def matrix_of(kind: str) -> Any:
    if kind == "mask":
        chosen = np.sort(np.random.default_rng(1).permutation(SIZE)[:8])
        return torch.eye(SIZE, dtype=torch.float64)[torch.tensor(chosen)]
    places = np.stack(np.meshgrid(np.arange(4), np.arange(5), indexing="ij"), -1).reshape(-1, 2)
    weights = np.exp(-((places[:, None] - places[None]) ** 2).sum(-1) / 2)
    return torch.tensor(weights / weights.sum(1, keepdims=True))


def measured(kind: str, sigma: float = 0.3) -> Seen:
    operator = Dense(matrix_of(kind))
    truth = PRIOR.sample(1, torch.Generator().manual_seed(1))
    clean = operator.forward(truth)
    return Seen(operator, clean + sigma * torch.tensor(np.random.default_rng(2).normal(size=clean.shape)), sigma)


def posterior_of(seen: Seen) -> GaussianPrior:
    return PRIOR.posterior(seen.operator, seen.y, seen.sigma)


def run(method: str = "ode", *, steps: int = 12, seed: int = 0, levels: Any = None, **more: Any) -> Samples:
    if method in GUIDED:
        more.setdefault("measurement", measured("mask"))
    more = {"denoise": PRIOR.denoise, "shape": SHAPE, "dtype": torch.float64, **more}
    ladder = edm().levels(steps) if levels is None else levels
    return sample(levels=ladder, method=method, generator=torch.Generator().manual_seed(seed), **more)


def exact_law(method: str, **more: Any) -> tuple[Any, Any]:
    """Mean ``(20,)`` and covariance of what a sampler returns, without sampling error.

    The sampler is an affine map of its noises; so zero noise gives the mean, and one run with as many samples as noise
    numbers, each sample with one number at 1 and all others at 0, gives the matrix.
    """
    sizes: list[tuple[int, ...]] = []

    def silence(size: Any, *, dtype: Any, **_: Any) -> Any:
        sizes.append(tuple(size[1:]))
        return torch.zeros(tuple(size), dtype=dtype)

    start_at = more.pop("start_at", None)
    base = run(method, noise=silence, start=None if start_at is None else start_at[None], **more).samples
    counts = [math.prod(size) for size in sizes]
    total, calls = sum(counts), itertools.count()
    if total == 0:
        return base.flatten(), torch.zeros(SIZE, SIZE, dtype=torch.float64)

    def unit(size: Any, *, dtype: Any, **_: Any) -> Any:
        call = next(calls)
        drawn = torch.zeros((total, counts[call]), dtype=dtype)
        first = sum(counts[:call])
        drawn[first : first + counts[call]] = torch.eye(counts[call], dtype=dtype)
        return drawn.reshape(tuple(size))

    start = None if start_at is None else start_at.expand(total, *SHAPE)
    columns = (run(method, noise=unit, start=start, samples=total, **more).samples - base).flatten(1)
    return base.flatten(), columns.T @ columns


def law_errors(law: tuple[Any, Any], wanted: GaussianPrior) -> tuple[float, float]:
    """Largest error of the mean in posterior standard deviations; Frobenius error of the covariance over its norm."""
    mean, covariance = law
    exact = wanted.covariance()
    off = ((mean - wanted.mean.flatten()) / exact.diagonal().sqrt()).abs().max()
    return float(off), float((covariance - exact).norm() / exact.norm())


def z_scores(drawn: Any, wanted: GaussianPrior) -> tuple[float, float]:
    """Largest |z| of the means and of all covariance entries, with the standard errors of Gaussian samples."""
    values = drawn.flatten(1)
    count, exact = len(values), wanted.covariance()
    of_mean = (values.mean(0) - wanted.mean.flatten()) / (exact.diagonal() / count).sqrt()
    variances = exact.diagonal()
    scatter = ((variances[:, None] * variances[None] + exact**2) / (count - 1)).sqrt()
    return float(of_mean.abs().max()), float(((values.T.cov() - exact) / scatter).abs().max())


# Samplers of the prior -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("order", "rate"), [(1, 1.0), (2, 2.0)])
def test_ode_has_its_order_against_the_closed_flow(order: int, rate: float) -> None:
    # Along an eigenvector of variance c the flow is x(l) - m = sqrt((c + l^2) / (c + L^2)) (x(L) - m).
    assert PRIOR.basis is not None
    start = PRIOR.mean + (PRIOR.basis.T * (1 + 9 * torch.arange(SIZE)[:, None] / SIZE)).reshape(SIZE, *SHAPE)
    shrink = ((PRIOR.variances + 0.1**2) / (PRIOR.variances + 10.0**2)).sqrt()
    exact = PRIOR.mean + (start - PRIOR.mean) * shrink.reshape(-1, 1, 1, 1)
    errors = []
    for steps in (100, 200):
        levels = torch.tensor(np.geomspace(10, 0.1, steps + 1))
        found = run("ode", order=order, start=start, samples=SIZE, levels=levels).samples
        errors.append(float((found - exact).abs().max()))
    assert errors[1] < 0.01
    # The next term of the expansion in the step is 1 / 100 of the first at 100 steps an interval of two decades.
    assert math.log2(errors[0] / errors[1]) == pytest.approx(rate, abs=0.1)


@pytest.mark.parametrize(
    ("method", "more", "rate"),
    [
        ("ddpm", {}, 1.0),
        ("ddim", {"eta": 0.5}, 1.0),
        ("ode", {}, 1.0),
        ("ode", {"order": 2}, 2.0),
        ("sde", {"order": 2, "churn": 8.0}, 2.0),  # noise up and ODE down both keep the marginals: only Heun errs
    ],
)
def test_unconditional_law_tends_to_the_prior(method: str, more: dict[str, Any], rate: float) -> None:
    errors = [law_errors(exact_law(method, steps=steps, **more), PRIOR) for steps in (32, 64)]
    # The start, zero mean and covariance (1 + 80^2) I in place of m and C + 80^2 I, is off by |m| / 80 at most.
    assert errors[1][0] < 0.02
    # Coarse grids, 32 steps for four decades: the order shows within a third, or is exceeded.
    assert math.log2(errors[0][1] / errors[1][1]) > rate - 0.35


@pytest.mark.parametrize(
    ("method", "steps", "more"),
    [
        ("ode", 64, {"order": 2}),
        ("sde", 256, {"order": 2}),
        ("ddpm", 1000, {}),
        ("ddim", 1000, {"eta": 0.5}),
    ],
)
def test_samples_of_the_prior_have_its_mean_and_covariance(method: str, steps: int, more: dict[str, Any]) -> None:
    # Steps so many that the bias of the law (test above) is a third of the standard error of 2000 samples, 2 %.
    mean, covariance = z_scores(run(method, steps=steps, samples=2000, **more).samples, PRIOR)
    assert mean < 4
    assert covariance < 4


def test_edm_churn_of_zero_is_the_ode() -> None:
    assert torch.equal(run("sde", churn=0.0, order=2).samples, run("ode", order=2).samples)


def test_ddim_is_euler_and_ddpm_is_ddim_with_eta_one() -> None:
    # The same numbers in another order of operations.
    torch.testing.assert_close(run("ddim").samples, run("ode").samples, rtol=1e-12, atol=1e-12)
    assert torch.equal(run("ddim", eta=1.0).samples, run("ddpm").samples)


def scheduler_samples(kind: str, noises: list[Any]) -> tuple[Any, Any]:
    """Ten steps of a diffusers scheduler with the exact denoiser, and its rescaled levels."""
    diffusers = pytest.importorskip("diffusers")
    common = {"num_train_timesteps": 1000, "clip_sample": False, "prediction_type": "sample"}
    if kind == "ddpm":
        scheduler = diffusers.DDPMScheduler(**common)
    else:
        scheduler = diffusers.DDIMScheduler(**common, set_alpha_to_one=True)
    scheduler.set_timesteps(10)
    kept = scheduler.alphas_cumprod.double()
    level_of = (1 / kept - 1).sqrt()
    x = noises[0]
    draws = iter(noises[1:])
    for t in scheduler.timesteps:
        estimate = PRIOR.denoise(x / kept[t].sqrt(), float(level_of[t]))
        if kind == "ddim":
            x = scheduler.step(estimate, t, x, eta=0.0).prev_sample
            continue
        # DDPMScheduler draws its own noise; with none of it, step() gives the mean.
        previous = scheduler.previous_timestep(t)
        mean_only = scheduler.step(estimate, t, x, generator=torch.Generator().manual_seed(0)).prev_sample
        own = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
        std = scheduler._get_variance(t) ** 0.5 if t > 0 else 0.0
        x = mean_only - std * own + (std * next(draws) if previous >= 0 else 0.0)
    return x, torch.cat([level_of[scheduler.timesteps], torch.zeros(1, dtype=torch.float64)])


@pytest.mark.parametrize("kind", ["ddim", "ddpm"])
def test_ddim_and_ddpm_agree_with_diffusers(kind: str) -> None:
    generator = torch.Generator().manual_seed(3)
    noises = [torch.randn((2, *SHAPE), generator=generator, dtype=torch.float64) for _ in range(11)]
    wanted, levels = scheduler_samples(kind, noises)
    draws = iter(noises)
    # A VP state starts as white noise; the rescaled one as sqrt(1 + level^2) times it.
    found = run(kind, levels=levels, samples=2, noise=lambda size, **_: next(draws)).samples
    # diffusers keeps alphas_cumprod in float32.
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-5)


# Samplers of the posterior -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mask", "blur"])
@pytest.mark.parametrize(("more", "rate"), [({}, 1.0), ({"eta": 0.0, "order": 2}, 2.0)])
def test_pigdm_with_tweedie_covariance_tends_to_the_posterior(kind: str, more: dict[str, Any], rate: float) -> None:
    seen = measured(kind)
    errors = [
        law_errors(exact_law("pigdm", measurement=seen, options=TWEEDIE, steps=steps, **more), posterior_of(seen))
        for steps in (24, 48)
    ]
    assert errors[1][0] < 0.05  # start, and Heun's error of the mean
    assert math.log2(errors[0][1] / errors[1][1]) == pytest.approx(
        rate, abs=0.5
    )  # coarse grids, 24 steps for 4 decades


@pytest.mark.parametrize("kind", ["mask", "blur"])
def test_pigdm_with_tweedie_covariance_samples_the_posterior(kind: str) -> None:
    seen = measured(kind)
    drawn = run("pigdm", eta=0.0, order=2, steps=64, samples=1000, measurement=seen, options=TWEEDIE).samples
    mean, covariance = z_scores(drawn, posterior_of(seen))
    assert mean < 4
    assert covariance < 4


def test_pigdm_as_published_is_exact_for_a_prior_of_unit_covariance() -> None:
    seen = measured("blur")
    white = GaussianPrior.from_covariance(PRIOR.mean, torch.eye(SIZE, dtype=torch.float64))
    wanted = white.posterior(seen.operator, seen.y, seen.sigma)
    more = {"measurement": seen, "eta": 0.0, "order": 2, "denoise": white.denoise}
    errors = [law_errors(exact_law("pigdm", steps=steps, **more), wanted)[1] for steps in (32, 64)]
    assert errors[1] < 0.01
    assert errors[0] / errors[1] > 3  # second order


def test_pigdm_without_jacobian_is_guided_ddim() -> None:
    seen, options = measured("blur"), Options(pigdm_covariance="none")
    found = run("pigdm", eta=0.5, measurement=seen, options=options).samples
    assert torch.equal(found, run("ddim", eta=0.5, measurement=seen).samples)


def augmented(seen: Seen, coupling: float) -> GaussianPrior:
    """The law of x in ``p(x) exp(-f(z) - ||x - z||^2 / (2 l^2))``: noise ``s^2 I + l^2 A A'``, whitened."""
    matrix = seen.operator.matrix
    noise = seen.sigma**2 * torch.eye(len(matrix), dtype=torch.float64) + coupling**2 * matrix @ matrix.T
    whitener = torch.linalg.inv(torch.linalg.cholesky(noise))
    return PRIOR.posterior(Dense(whitener @ matrix), seen.y @ whitener.T, 1.0)


def gibbs_kernel(seen: Seen, coupling: float, inner: int) -> tuple[Any, Any, Any]:
    """One split Gibbs step is ``x -> M x + b`` plus noise of covariance Q: the three, exactly."""
    more = {"measurement": seen, "levels": [coupling] * 2, "options": Options(gibbs_steps=inner)}
    silence = {"noise": lambda size, *, dtype, **_: torch.zeros(tuple(size), dtype=dtype)}
    starts = torch.cat([torch.zeros(1, SIZE), torch.eye(SIZE)]).double().reshape(-1, *SHAPE)
    images = run("split_gibbs", start=starts, samples=SIZE + 1, **silence, **more).samples.flatten(1)
    _, scatter = exact_law("split_gibbs", start_at=torch.zeros(SHAPE, dtype=torch.float64), **more)
    return (images[1:] - images[0]).T, images[0], scatter


@pytest.mark.parametrize("kind", ["mask", "blur"])
def test_split_gibbs_has_the_stationary_law_of_its_coupling(kind: str) -> None:
    seen, coupling = measured(kind), 0.5
    wanted = augmented(seen, coupling)
    errors = []
    for inner in (20, 40, 80):
        matrix, shift, scatter = gibbs_kernel(seen, coupling, inner)
        mean = torch.linalg.solve(torch.eye(SIZE).double() - matrix, shift)
        power = torch.eye(SIZE * SIZE).double() - torch.kron(matrix, matrix)  # vec S = (I - M (x) M)^-1 vec Q
        covariance = torch.linalg.solve(power, scatter.flatten()).reshape(SIZE, SIZE)
        errors.append(law_errors((mean, covariance), wanted))
    assert max(error[0] for error in errors) < 1e-9  # an ancestral step's mean is exact for a Gaussian, at any length
    # First order in the inner steps, towards the right law; the second order's share halves with them.
    assert errors[0][1] / errors[1][1] == pytest.approx(2, abs=0.25)
    assert errors[1][1] / errors[2][1] == pytest.approx(2, abs=0.13)
    assert errors[2][1] < 0.07


@pytest.mark.parametrize("kind", ["mask", "blur"])
def test_split_gibbs_keeps_samples_of_its_augmented_posterior(kind: str) -> None:
    seen, coupling = measured(kind), 0.5
    wanted = augmented(seen, coupling)
    start = wanted.sample(1000, torch.Generator().manual_seed(4))
    more = {"measurement": seen, "levels": [coupling] * 6, "options": Options(gibbs_steps=100)}
    drawn = run("split_gibbs", start=start, samples=1000, **more).samples
    mean, covariance = z_scores(drawn, wanted)
    assert mean < 4
    assert covariance < 4


def test_split_gibbs_nears_the_posterior_as_the_coupling_falls() -> None:
    seen = measured("mask")
    wanted = posterior_of(seen)
    errors = []
    for coupling in (0.4, 0.2, 0.1):
        matrix, shift, _ = gibbs_kernel(seen, coupling, 10)
        errors.append(law_errors((torch.linalg.solve(torch.eye(SIZE).double() - matrix, shift), 0 * matrix), wanted)[0])
    # The law is that of noise s^2 + l^2 in place of s^2: an error of order l^2.
    assert errors[0] / errors[1] > 2.5
    assert errors[1] / errors[2] > 3


def test_pnp_admm_finds_the_mode() -> None:
    # One fixed level: the denoiser is then the proximal map of the negative log prior, and ADMM converges linearly.
    for kind, level in (("mask", 0.5), ("blur", 0.3)):
        seen = measured(kind)
        found = run("pnp_admm", measurement=seen, levels=[level] * 400).samples
        torch.testing.assert_close(found[0], posterior_of(seen).mean, rtol=0, atol=1e-8)


def test_pnp_admm_stays_at_the_mode_when_the_level_changes() -> None:
    # The scaled dual holds the gradient times the step: rescaled with it, the fixed point is the same at every level.
    seen = measured("blur")
    found = run("pnp_admm", measurement=seen, levels=[0.3] * 400 + [0.15, 0.1]).samples
    torch.testing.assert_close(found[0], posterior_of(seen).mean, rtol=0, atol=1e-8)


def test_pnp_admm_with_weight_seeks_the_mode_of_that_weight() -> None:
    # Step l^2 / w against a denoiser of step l^2: f weighs 1 / w.
    seen = measured("blur")
    softer = dataclasses.replace(seen, sigma=seen.sigma * math.sqrt(3))
    found = run("pnp_admm", measurement=seen, levels=[0.3] * 400, options=Options(admm_weight=3.0)).samples
    torch.testing.assert_close(found[0], posterior_of(softer).mean, rtol=0, atol=1e-8)


# The biases of the others, in numbers: (root mean square error of the mean in posterior std, ratio of rms std)
# at 64 steps, measurement with noise .3. The docstring's table rounds these.
BIASES = {
    ("ddim", "mask"): (0.692, 1.095), ("ddim", "blur"): (0.097, 0.954),
    ("ddpm", "mask"): (0.497, 1.009), ("ddpm", "blur"): (0.055, 0.910),
    ("dps", "mask"): (0.322, 0.865), ("dps", "blur"): (0.548, 0.685),
    ("ddnm", "mask"): (0.481, 0.915), ("ddnm", "blur"): (36.882, 0.048),
    ("diffpir", "mask"): (0.456, 1.001), ("diffpir", "blur"): (0.255, 0.888),
    ("pigdm", "mask"): (0.180, 0.921), ("pigdm", "blur"): (0.090, 0.909),
    ("pigdm tweedie", "mask"): (0.000, 0.917), ("pigdm tweedie", "blur"): (0.000, 0.913),
    ("reddiff", "mask"): (0.360, 0.328), ("reddiff", "blur"): (0.287, 0.237),
    ("pnp_admm", "mask"): (0.000, 0.000), ("pnp_admm", "blur"): (0.000, 0.000),
    ("split_gibbs", "mask"): (0.191, 0.847), ("split_gibbs", "blur"): (0.054, 0.834),
}  # fmt: skip


def bias(mean: Any, covariance: Any, wanted: GaussianPrior) -> tuple[float, float]:
    exact = wanted.covariance().diagonal()
    off = ((mean - wanted.mean.flatten()) ** 2 / exact).mean().sqrt()
    return float(off), float((covariance.diagonal().mean() / exact.mean()).sqrt())


def bias_of(method: str, kind: str) -> tuple[float, float]:
    seen = measured(kind)
    name, _, variant = method.partition(" ")
    more: dict[str, Any] = {"measurement": seen, "steps": 64}
    if variant:
        more["options"] = Options(pigdm_covariance="tweedie")
    if name in ("dps", "reddiff"):  # not affine: sampled
        if name == "reddiff":
            more["levels"] = np.linspace(3, 0.05, 65)
        drawn = run(name, samples=2000, **more).samples.flatten(1)
        return bias(drawn.mean(0), drawn.T.cov(), posterior_of(seen))
    if name == "pnp_admm":
        more["levels"] = np.geomspace(3, 0.3, 65)
    if name == "split_gibbs":
        more["levels"] = np.geomspace(1, 0.1, 25)
    return bias(*exact_law(name, **more), posterior_of(seen))


@pytest.mark.parametrize(("method", "kind"), list(BIASES))
def test_bias_of_each_method_is_the_one_stated(method: str, kind: str) -> None:
    off, ratio = bias_of(method, kind)
    # Affine methods: rounding of the table. Sampled ones: 2000 samples, standard error .022 of the mean and 1.6 % of
    # the ratio a voxel, less on the average of 20.
    room = 0.04 if method in ("dps", "reddiff") else 0.0006
    assert off == pytest.approx(BIASES[method, kind][0], abs=room)
    assert ratio == pytest.approx(BIASES[method, kind][1], abs=room)


# The steps against their papers, written in the papers' VP state -----------------------------------------------------


def vp_step(method: str, seen: Seen, x: Any, level0: float, level1: float, eps: Any) -> Any:
    """One step as printed, on ``x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) eps``, with dense matrices and Jacobian."""
    abar, abar1 = 1 / (1 + level0**2), 1 / (1 + level1**2)
    alpha, beta = abar / abar1, 1 - abar / abar1
    covariance, matrix = PRIOR.covariance(), seen.operator.matrix
    gain = math.sqrt(abar) * covariance @ torch.linalg.inv(abar * covariance + (1 - abar) * torch.eye(SIZE).double())
    mean = PRIOR.mean.flatten()
    flat, y = x.flatten(), seen.y.flatten()
    x0 = mean + gain @ (flat - math.sqrt(abar) * mean)
    of_x, of_x0 = math.sqrt(alpha) * (1 - abar1) / (1 - abar), math.sqrt(abar1) * beta / (1 - abar)
    std = math.sqrt((1 - abar1) / (1 - abar) * beta)
    if method == "dps":
        left = y - matrix @ x0
        slope = -gain.T @ matrix.T @ left / left.norm()
        return of_x * flat + of_x0 * x0 + std * eps.flatten() - Options().dps_step * slope
    if method == "ddnm":
        weight = 1.0 if std >= of_x0 * seen.sigma else std / (of_x0 * seen.sigma)
        x0 = x0 - weight * torch.linalg.pinv(matrix) @ (matrix @ x0 - y)
        left = std**2 - (of_x0 * weight * seen.sigma) ** 2
        return of_x * flat + of_x0 * x0 + math.sqrt(max(left, 0.0)) * eps.flatten()
    if method == "diffpir":
        zeta, rho = Options().diffpir_renewal, Options().diffpir_weight * seen.sigma**2 * abar / (1 - abar)
        x0 = torch.linalg.solve(matrix.T @ matrix + rho * torch.eye(SIZE).double(), matrix.T @ y + rho * x0)
        found = (flat - math.sqrt(abar) * x0) / math.sqrt(1 - abar)
        mixed = math.sqrt(1 - zeta) * found + math.sqrt(zeta) * eps.flatten()
        return math.sqrt(abar1) * x0 + math.sqrt(1 - abar1) * mixed
    raise AssertionError(method)


@pytest.mark.parametrize(("level0", "level1"), [(5.0, 3.0), (0.8, 0.5), (0.15, 0.1)])
@pytest.mark.parametrize("method", ["dps", "ddnm", "diffpir"])
def test_step_is_the_papers(method: str, level0: float, level1: float) -> None:
    seen = measured("mask")
    generator = torch.Generator().manual_seed(5)
    x, eps = (torch.randn((1, *SHAPE), generator=generator, dtype=torch.float64) for _ in range(2))
    on_path = x / math.sqrt(1 + level0**2)
    wanted = vp_step(method, seen, on_path, level0, level1, eps) * math.sqrt(1 + level1**2)
    found = run(method, measurement=seen, start=x, levels=[level0, level1], noise=lambda size, **_: eps).samples
    torch.testing.assert_close(found.flatten(), wanted, rtol=1e-9, atol=1e-9)


def test_reddiff_is_adam_on_its_loss() -> None:
    seen, levels = measured("mask"), [2.0, 1.0, 0.5, 0.25]
    draws = torch.randn((3, 1, *SHAPE), generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    mu = torch.zeros((1, *SHAPE), dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([mu], lr=0.1, betas=(0.9, 0.99), eps=1e-8)
    for level, eps in zip(levels, draws, strict=False):
        x = mu.detach() + level * eps
        noise = (x - PRIOR.denoise(x, level)) / level  # what the network says eps is
        loss = ((seen.y - seen.operator.forward(mu)) ** 2).sum() / 2 + 0.25 * level * ((noise - eps) * mu).sum()
        adam.zero_grad()
        loss.backward()
        adam.step()
    calls = iter(draws)
    start = torch.zeros((1, *SHAPE), dtype=torch.float64)
    found = run("reddiff", measurement=seen, start=start, levels=levels, noise=lambda size, **_: next(calls)).samples
    torch.testing.assert_close(found, mu.detach(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", [method for method in ALL if method != "pnp_admm"])
def test_library_measurement_gives_what_dense_matrices_give(method: str) -> None:
    # A mask as an operator that keeps the shape, with NaN where nothing was seen, against a matrix of 8 rows.
    rows = matrix_of("mask")
    seen = rows.sum(0).bool().reshape(SHAPE)
    dense = measured("mask")
    values = torch.full((1, *SHAPE), math.nan, dtype=torch.float64)
    values[0, seen] = dense.y.flatten()
    given = GaussianConsistency(Mask(seen), values, dense.sigma)
    silent = {"noise": lambda size, *, dtype, **_: torch.zeros(tuple(size), dtype=dtype)}
    start = torch.randn((2, *SHAPE), generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    options = TWEEDIE if method == "pigdm" else None
    found, wanted = (
        run(method, measurement=each, start=start, samples=2, levels=[2.0, 1.0, 0.5], options=options, **silent).samples
        for each in (given, dense)
    )
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-8)


def test_ddnm_without_noise_keeps_what_was_measured() -> None:
    seen = dataclasses.replace(measured("mask"), sigma=0.0)
    found = run("ddnm", measurement=seen, samples=3).samples
    torch.testing.assert_close(seen.operator.forward(found), seen.y.expand(3, -1, -1), rtol=0, atol=1e-12)


# Posterior mean ------------------------------------------------------------------------------------------------------


def test_mean_of_estimates_has_the_error_of_the_formula() -> None:
    # Exact conditional denoiser: at level l the mean of K estimates errs by tr[S (S + l^2)^-1 S] / K, not by tr S / K.
    posterior = posterior_of(measured("mask"))
    noisy = posterior.sample(4000, torch.Generator().manual_seed(8))
    noisy = noisy + 0.5 * torch.randn(noisy.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    estimates = posterior.denoise(noisy, 0.5).reshape(500, 8, *SHAPE)
    squared = ((estimates.mean(1) - posterior.mean) ** 2).flatten(1).sum(1)
    variances = posterior.variances
    wanted = float((variances**2 / (variances + 0.25)).sum() / 8)
    # 500 means of about 8 effective voxels each: standard error sqrt(2 / 4000) = 2.2 %.
    assert float(squared.mean()) == pytest.approx(wanted, rel=0.09)
    assert wanted < 0.8 * float(variances.sum() / 8)


def smooth_field(size: int = 16) -> tuple[GaussianPrior, GaussianConsistency]:
    """A smooth random field of which every fourth line was measured with noise .1."""
    prior = GaussianPrior.power_law((1, size, size), dtype=torch.float64)
    seen = torch.zeros((1, size, size), dtype=torch.bool)
    seen[:, ::4] = True
    truth = prior.sample(1, torch.Generator().manual_seed(2))
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return prior, GaussianConsistency(Mask(seen), truth + 0.1 * noise, 0.1)


def mean_errors(runs: int, **more: Any) -> tuple[float, float]:
    """Mean squared error of the plain average and of the estimated mean, against the exact posterior mean."""
    prior, seen = smooth_field()
    exact = prior.posterior(seen.operator, seen.y, seen.sigma)
    denoise = exact.denoise if more.get("measurement", seen) is None else prior.denoise
    more = {"shape": (1, 16, 16), "measurement": seen, "denoise": denoise, "steps": 24, "samples": 8} | more
    plain = better = 0.0
    for seed in range(runs):
        drawn = run(seed=seed, **more)
        plain += float(((drawn.samples.mean(0) - exact.mean) ** 2).mean()) / runs
        better += float(((drawn.mean - exact.mean) ** 2).mean()) / runs
    return plain, better


def test_estimated_mean_beats_the_average_of_samples() -> None:
    plain, better = mean_errors(30, method="ddpm", measurement=None)
    # The highest level that is kept, 3, alone would give tr[S (S + 9)^-1 S] / tr S of it, about a third for this field.
    assert better < 0.6 * plain


@pytest.mark.parametrize("method", ["ddpm", "dps", "diffpir", "ddnm"])
def test_estimated_mean_is_not_worse_where_guidance_is_biased(method: str) -> None:
    plain, better = mean_errors(10, method=method)
    assert better < 1.02 * plain  # the rule's price, a share of LARGEST_BIAS
    assert mean_errors(3, method=method, antithetic=True)[1] < 0.95 * plain


def test_estimated_mean_does_not_take_up_the_bias_of_guidance() -> None:
    # 4096 voxels, a white prior of mean 1, variance .3, where guidance assumes variance 1: early estimates are biased.
    shape = (1, 64, 64)
    prior = GaussianPrior(torch.full(shape, 1.0), torch.full(shape, 0.3))
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.5
    truth = prior.sample(1, torch.Generator().manual_seed(2))
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(3))
    seen = GaussianConsistency(Mask(mask), truth + 0.3 * noise, 0.3)
    more = {"shape": shape, "denoise": prior.denoise, "measurement": seen, "samples": 8, "dtype": torch.float32}
    drawn = run("ddpm", steps=30, **more)
    exact = torch.where(mask, (truth[0] * 0.3 + 0.3 * noise[0] * 0.3 + 0.09 * 1.0) / (0.3 + 0.09), 1.0)
    assert float(((drawn.mean - exact) ** 2).mean()) < float(((drawn.samples.mean(0) - exact) ** 2).mean())
    assert sum(drawn.weights) == pytest.approx(1)
    assert min(drawn.weights) >= 0


def test_antithetic_samples_have_the_exact_mean_of_an_affine_sampler() -> None:
    law = exact_law("ddpm")
    drawn = run("ddpm", samples=4, antithetic=True)
    torch.testing.assert_close(drawn.samples.mean(0).flatten(), law[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(drawn.mean.flatten(), law[0], rtol=0, atol=1e-10)


@pytest.mark.parametrize("antithetic", [False, True])
def test_std_is_unbiased_in_the_variance(antithetic: bool) -> None:
    covariance = exact_law("ddpm", steps=6)[1]
    squared = torch.zeros(SIZE, dtype=torch.float64)
    for seed in range(200):
        found = run("ddpm", steps=6, samples=4, antithetic=antithetic, seed=seed).std
        squared += found.flatten() ** 2 / 200
    # 200 times 2 or 3 degrees of freedom: standard error 7 % a voxel, 20 correlated voxels.
    assert float((squared / covariance.diagonal()).mean()) == pytest.approx(1, abs=0.08)


def test_std_of_pairs_counts_what_pairs_share() -> None:
    # x = e + e^2 / 2 of a standard normal e has variance 1 + 1/2; the second part is the same in both of a pair.
    noise = torch.randn((4, 1, 200, 200), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mirrored = torch.cat([noise, -noise])
    found = posterior_means.sample_std(mirrored + mirrored**2 / 2, antithetic=True)
    # 40 000 voxels of 3 and 4 degrees of freedom, heavy tails: within 2 %.
    assert float((found**2).mean()) == pytest.approx(1.5, rel=0.02)


def test_combine_estimates_finds_the_weights_of_known_errors() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn((1, 100, 100), generator=generator)
    bias = 0.05 * torch.randn((1, 100, 100), generator=generator)
    # Independent errors: early a bias of mean square .0025 and variance .01 / 4, last no bias and variance .16 / 4.
    early = truth + bias + 0.1 * torch.randn((4, 1, 100, 100), generator=generator)
    last = truth + 0.4 * torch.randn((4, 1, 100, 100), generator=generator)
    mean, weights = combine_estimates([early, last])
    # Least error at w = V_last / (V_last + V_early + bias^2), 10^4 voxels: within a few percent.
    assert weights[0] == pytest.approx(0.04 / (0.04 + 0.0025 + 0.0025), abs=0.03)
    assert float(((mean - truth) ** 2).mean()) < 0.15 * 0.04
    # A bias that shows, .09 against a noise of .0425 of the difference, shuts the estimate out.
    mean, weights = combine_estimates([early + 6 * bias, last])
    assert weights == (0.0, 1.0)
    assert torch.equal(mean, last.mean(0))


def test_combine_estimates_of_one_sample_is_the_last() -> None:
    first, last = torch.zeros(1, 1, 3, 3), torch.ones(1, 1, 3, 3)
    mean, weights = combine_estimates([first, last])
    assert torch.equal(mean, last[0])
    assert weights == (0.0, 1.0)
    assert run("ddim", samples=1).std is None


def test_combine_estimates_refuses() -> None:
    with pytest.raises(ValueError, match="at least one estimate, got none"):
        combine_estimates([])
    with pytest.raises(ValueError, match="estimates of one shape, got"):
        combine_estimates([torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 3)])


# Noise ---------------------------------------------------------------------------------------------------------------


def test_correlated_noise_has_its_covariance() -> None:
    noise = correlated_noise(0.7)
    generator = torch.Generator().manual_seed(0)
    drawn = noise((4000, 1, 5, 1, 1), generator=generator, dtype=torch.float64, device=torch.device("cpu"))
    steps = torch.arange(5)
    wanted = 0.7 ** (steps[:, None] - steps).abs().double()
    found = drawn.flatten(1).T @ drawn.flatten(1) / 4000
    scatter = ((1 + wanted**2) / 4000).sqrt()
    assert float(((found - wanted) / scatter).abs().max()) < 4


def test_correlated_noise_couples_slices_and_leaves_each_its_law() -> None:
    # A denoiser that sees single slices, unconditional: x is the same affine map of the noise in every slice, so
    # neighbouring slices correlate by exactly the noise's correlation, and a slice has the law it has with white noise.
    plane = GaussianPrior.power_law((1, 4, 4), dtype=torch.float64)

    def slicewise(x: Any, level: Any) -> Any:
        return plane.denoise(x.transpose(1, 2).flatten(0, 1), level).reshape(len(x), -1, 1, 4, 4).transpose(1, 2)

    more = {"denoise": slicewise, "shape": (1, 3, 4, 4), "samples": 1500, "steps": 16}
    drawn = run("ddpm", noise=correlated_noise(0.8), **more).samples
    matrix = run("ddpm", **more).samples
    variances = [(values[:, 0, 1].flatten(1) ** 2).mean() for values in (drawn, matrix)]
    assert float(variances[0] / variances[1]) == pytest.approx(1, abs=0.08)  # 1500 smooth slices: 2.6 % each
    centred = drawn[:, 0].flatten(2)
    across = (centred[:, 0] * centred[:, 1]).mean() / (centred[:, 0] ** 2).mean()
    assert float(across) == pytest.approx(0.8, abs=0.06)


def test_noise_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"noise must return the size it was asked for, .* got \(1,\)"):
        run("ddpm", noise=lambda size, **_: torch.zeros(1))
    with pytest.raises(ValueError, match=r"correlation must be between 0 and 1, got 1\.5"):
        correlated_noise(1.5)
    with pytest.raises(ValueError, match="an axis of space, 2 or above, got 1"):
        correlated_noise(0.5, axis=1)


# The loop ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ALL)
def test_stopped_and_resumed_is_the_straight_run_bit_for_bit(method: str) -> None:
    more: dict[str, Any] = {"samples": 4, "levels": edm(0.05, 5).levels(8)}
    straight = run(method, **more)
    stopped = run(method, callback=lambda step, steps, x0: step == 3, **more)
    assert (stopped.steps, straight.steps) == (4, 8)
    resumed = run(method, start=stopped.state, seed=99, **more)
    for one, other in ((straight, resumed), (straight.state, resumed.state)):
        one, other = (vars(each) if isinstance(each, Samples) else each._asdict() for each in (one, other))
        for name in one.keys() - {"state"}:
            torch.testing.assert_close(one[name], other[name], rtol=0, atol=0)


@pytest.mark.parametrize("method", ALL)
def test_same_generator_same_bits_and_dtype_kept(method: str) -> None:
    more: dict[str, Any] = {"steps": 5, "samples": 2}
    first, second, other = (run(method, seed=seed, **more).samples for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert method == "pnp_admm" or not torch.equal(first, other)  # nothing is random in PnP-ADMM
    plain = dataclasses.replace(
        measured("mask"), operator=Dense(matrix_of("mask").float()), y=measured("mask").y.float()
    )
    single = run(method, dtype=torch.float32, measurement=plain, options=TWEEDIE, **more)
    assert single.samples.dtype == torch.float32
    assert single.mean.dtype == torch.float32


def test_without_generator_seeds_are_fresh() -> None:
    first, second = (sample(PRIOR.denoise, SHAPE, levels=[1.0, 0.5, 0.0], method="ddpm").samples for _ in range(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("method", "more", "calls"),
    [
        ("ode", {}, 6), ("ode", {"order": 2}, 11), ("sde", {"order": 2}, 11), ("ddim", {}, 6), ("ddpm", {}, 6),
        ("dps", {}, 6), ("ddnm", {}, 6), ("diffpir", {}, 6), ("pigdm", {}, 6), ("pigdm", {"options": TWEEDIE}, 6),
        ("reddiff", {}, 6), ("pnp_admm", {}, 6), ("split_gibbs", {"options": Options(gibbs_steps=7)}, 42),
    ],
)  # fmt: skip
def test_network_calls_and_graphs_are_the_ones_stated(method: str, more: dict[str, Any], calls: int) -> None:
    graphs = []

    def counted(x: Any, level: Any) -> Any:
        graphs.append(torch.is_grad_enabled())
        return PRIOR.denoise(x, level)

    run(method, denoise=counted, steps=6, **more)
    assert len(graphs) == calls
    assert set(graphs) == {method in ("dps", "pigdm")}


def test_pigdm_without_jacobian_builds_no_graph() -> None:
    def watched(x: Any, level: Any) -> Any:
        assert not torch.is_grad_enabled()
        return PRIOR.denoise(x, level)

    run("pigdm", denoise=watched, options=Options(pigdm_covariance="none"))


class AtLeast:
    """The constraint ``x >= bound``; counts its calls."""

    def __init__(self, bound: float) -> None:
        self.bound, self.steps = bound, []

    def prox(self, x: Any, step: float) -> Any:
        self.steps.append(step)
        return x.clamp(min=self.bound)


@pytest.mark.parametrize("method", [method for method in ALL if method not in ("dps", "reddiff")])
def test_terms_are_applied_to_each_estimate(method: str) -> None:
    terms = [AtLeast(0.4), AtLeast(0.5)]
    low = dataclasses.replace(measured("mask"), y=torch.zeros((1, 1, 8), dtype=torch.float64), sigma=1e3)
    drawn = run(method, terms=terms, measurement=low, steps=6)
    assert len(terms[0].steps) == len(terms[1].steps) == (60 if method == "split_gibbs" else 6)
    assert all(0 < step < 1 for step in terms[0].steps)
    # The measurement, applied after the terms and nearly without weight, moves 8 voxels by less than 1e-5.
    assert float(drawn.samples.min()) > 0.5 - (0.05 if method == "ddnm" else 1e-5) - (1.0 if method == "ddnm" else 0)


def test_state_not_finite_stops_with_the_last_good_one() -> None:
    def broken(x: Any, level: Any) -> Any:
        return PRIOR.denoise(x, level) * (math.nan if level < 1 else 1)

    with pytest.raises(
        SamplingDivergedError, match=r"step 3 of 4 \(level 0.5\) gave values that are not finite"
    ) as told:
        run("ddpm", denoise=broken, levels=[4.0, 2.0, 0.5, 0.25, 0.0])
    assert told.value.state.step == 2
    resumed = run("ddpm", start=told.value.state, levels=[4.0, 2.0, 0.5, 0.25, 0.0])
    assert torch.equal(resumed.samples, run("ddpm", levels=[4.0, 2.0, 0.5, 0.25, 0.0]).samples)


def test_interrupt_carries_the_state() -> None:
    def pressed(x: Any, level: Any) -> Any:
        if level < 1:
            raise KeyboardInterrupt
        return PRIOR.denoise(x, level)

    with pytest.raises(SamplingInterrupted, match="interrupted after 2 of 4 steps") as told:
        run("ddpm", denoise=pressed, levels=[4.0, 2.0, 0.5, 0.25, 0.0])
    resumed = run("ddpm", start=told.value.state, levels=[4.0, 2.0, 0.5, 0.25, 0.0])
    assert torch.equal(resumed.samples, run("ddpm", levels=[4.0, 2.0, 0.5, 0.25, 0.0]).samples)


def test_stopping_early_returns_estimates_and_callback_sees_each_step() -> None:
    seen: list[tuple[int, int]] = []

    def callback(step: int, steps: int, estimate: Any) -> bool:
        seen.append((step, steps))
        assert estimate.shape == (1, *SHAPE)
        return step == 2

    stopped = run("ddpm", steps=8, callback=callback)
    assert seen == [(0, 8), (1, 8), (2, 8)]
    assert torch.equal(stopped.samples, stopped.state.last)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"method": "euler"}, "method must be one of ode, sde, .* got 'euler'"),
        ({"levels": [1.0]}, r"levels need at least 2 entries \(1 step\), got 1"),
        ({"levels": [1.0, math.nan]}, "levels must be finite and at least 0"),
        ({"levels": [1.0, -1.0]}, "levels must be finite and at least 0, got -1.0 to 1.0"),
        ({"levels": [1.0, 2.0]}, "levels must descend, got 1 and then 2 at step 1"),
        ({"levels": [1.0, 1.0]}, "levels must descend, got 1 and then 1 at step 1"),
        ({"method": "pnp_admm", "levels": [1.0, 0.0, 0.0]}, "levels must descend, got 0 and then 0 at step 2"),
        ({"shape": (4,)}, r"expected a shape \(C, \*space\), got \(4,\)"),
        ({"samples": 0}, "samples must be at least 1, got 0"),
        ({"samples": 3, "antithetic": True}, "antithetic samples come in pairs, got an odd number, 3"),
        ({"method": "dps", "measurement": None}, "method 'dps' needs a measurement, got None"),
        ({"order": 3}, "order must be 1 or 2, got 3"),
        ({"method": "ddpm", "order": 2}, "order 2 is for ode, sde and pigdm with eta 0, got method 'ddpm'"),
        ({"method": "ddim", "eta": 1.5}, "eta is between 0 and 1 and for ddim and pigdm, got 1.5 for 'ddim'"),
        ({"method": "ode", "eta": 0.5}, "eta is between 0 and 1 and for ddim and pigdm, got 0.5 for 'ode'"),
        ({"method": "ode", "churn": 1.0}, "churn is at least 0 and for sde, got 1.0 for 'ode'"),
        ({"start": torch.zeros(2, *SHAPE)}, r"expected a start of shape \(1, 1, 4, 5\), got \(2, 1, 4, 5\)"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(more: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        run(**more)


def test_states_that_do_not_fit_are_refused() -> None:
    state = run("ddpm", steps=4).state
    with pytest.raises(ValueError, match=r"expected a state of shape \(2, 1, 4, 5\) to resume from"):
        run("ddpm", steps=4, samples=2, start=state)
    with pytest.raises(ValueError, match="cannot resume before step 5 of 3"):
        run("ddpm", steps=3, start=state)
    assert isinstance(state, SamplerState)


def test_measurement_without_sigma_is_refused() -> None:
    counts = PoissonConsistency(
        Mask(torch.ones(SHAPE, dtype=torch.bool)), torch.ones((1, *SHAPE)), gain=0.1, offset=0.0
    )
    for method, options in (("split_gibbs", None), ("ddnm", None), ("reddiff", None), ("pigdm", TWEEDIE)):
        told = f"'{method}' needs a Gaussian measurement, got PoissonConsistency without sigma"
        with pytest.raises(TypeError, match=told):
            run(method, measurement=counts, options=options)


def test_other_noise_than_gaussian_serves_where_only_the_prox_is_read() -> None:
    counts = PoissonConsistency(Mask(torch.ones(SHAPE, dtype=torch.bool)), torch.ones((1, *SHAPE)), 0.1, 0.5)
    for method in ("ddpm", "diffpir", "pigdm", "pnp_admm", "dps"):
        drawn = run(method, measurement=counts, levels=edm(0.01, 10).levels(10))
        # The mean of 20 voxels measured as 1 with standard deviation .8 (gain 1 + offset) under a prior of deviation 1.
        assert abs(float(drawn.samples.mean()) - 1) < 1


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"dps_step": 0.0}, "dps_step must be above zero, got 0.0"),
        ({"admm_weight": math.inf}, "admm_weight must be above zero, got inf"),
        ({"diffpir_renewal": 1.5}, "diffpir_renewal must be between 0 and 1, got 1.5"),
        ({"pigdm_covariance": "full"}, "pigdm_covariance must be isotropic, tweedie or none, got 'full'"),
        ({"gibbs_steps": 0}, "gibbs_steps must be at least 1, got 0"),
    ],
)
def test_options_out_of_range_are_refused(more: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Options(**more)


def test_levels_of_any_path_serve() -> None:
    levels = variance_preserving().levels(24)
    assert law_errors(exact_law("ode", order=2, levels=levels), PRIOR)[1] < 0.05
