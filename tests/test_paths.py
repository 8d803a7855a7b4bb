"""Noise paths against closed forms, round trips, and diffusers' own schedulers."""

from __future__ import annotations

import itertools
import math
from typing import Any, get_args

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'diffusion'")

from tensorcell.diffusion_guidance import paths  # noqa: E402
from tensorcell.diffusion_guidance.paths import Path, convert, denoiser, from_scheduler  # noqa: E402

PATHS = [
    paths.variance_preserving(),
    paths.cosine(),
    paths.variance_exploding(),
    paths.edm(),
    paths.linear_flow(),
]
KINDS = get_args(paths.Kind)


def schedulers() -> list[Any]:
    diffusers = pytest.importorskip("diffusers")
    return [
        diffusers.DDPMScheduler(beta_schedule="linear"),
        diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        diffusers.DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012),
    ]


def inner_times(path: Path, count: int = 9) -> Any:
    return torch.linspace(path.end, path.start, count + 2, dtype=torch.float64)[1:-1]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_scales_are_the_closed_forms(path: Path) -> None:
    t = inner_times(path).numpy()
    angle = (t + 0.008) / 1.008 * np.pi / 2
    forms = {
        "variance_preserving": np.exp(-0.25 * t**2 * 19.9 - 0.5 * t * 0.1),
        "cosine": np.cos(angle) / np.cos(0.008 / 1.008 * np.pi / 2),
        "variance_exploding": np.ones_like(t),
        "edm": np.ones_like(t),
        "linear_flow": 1 - t,
    }
    alpha = forms[path.name]
    sigma = {"variance_exploding": 0.01 * 1e4**t, "edm": t, "linear_flow": t}.get(path.name, np.sqrt(1 - alpha**2))
    times = torch.tensor(t)
    np.testing.assert_allclose(path.alpha(times), alpha, rtol=1e-12)
    np.testing.assert_allclose(path.sigma(times), sigma, rtol=1e-10)
    np.testing.assert_allclose(path.level(times), sigma / alpha, rtol=1e-10)
    np.testing.assert_allclose(path.snr(times), alpha**2 / sigma**2, rtol=1e-10)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_time_of_level_is_the_inverse_down_to_tiny_levels(path: Path) -> None:
    ends = path.level(torch.tensor([path.start, path.end], dtype=torch.float64))
    lowest = max(float(ends[1]), 1e-6)
    levels = torch.tensor(np.geomspace(lowest, float(ends[0]), 50))
    # From float64 times: near the data the cosine's time keeps 1e-16 absolute of about 1e-9.
    torch.testing.assert_close(path.level(path.time_of_level(levels)), levels, rtol=1e-5, atol=0)
    torch.testing.assert_close(path.level(path.time_of_level(levels[10:])), levels[10:], rtol=1e-8, atol=0)


def test_levels_in_single_precision_do_not_cancel() -> None:
    for path in PATHS:
        t = torch.tensor(1e-5 if path.end == 0 and path.name != "edm" else 1.0)
        wanted = path.level(t.double())
        assert float(path.level(t)) == pytest.approx(float(wanted), rel=1e-5)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
@pytest.mark.parametrize("kind", get_args(paths.Grid))
@pytest.mark.parametrize("steps", [1, 2, 17])
def test_grid_descends_in_noise_and_ends_at_the_data(path: Path, kind: paths.Grid, steps: int) -> None:
    times = path.grid(steps, kind)
    levels = path.level(times)
    assert times.shape == (steps + 1,)
    assert times.dtype == torch.float64
    assert float(times[0]) == pytest.approx(path.start, rel=1e-9)
    assert float(times[-1]) == path.end
    assert bool((levels.diff() < 0).all())
    assert float(levels[-1]) == (path.smallest if path.name == "variance_exploding" else 0)
    ladder = path.levels(steps, kind)
    assert ladder.shape == (steps + 1,)
    assert float(ladder[-1]) == 0
    assert bool((ladder.diff() < 0).all())


def test_karras_grid_is_equation_5() -> None:
    steps, low, high, rho = 18, 0.002, 80.0, 7
    i = np.arange(steps)
    wanted = (high ** (1 / rho) + i / (steps - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    np.testing.assert_allclose(paths.edm(low, high).grid(steps), [*wanted, 0.0], rtol=1e-12)


def test_karras_grid_agrees_with_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0, rho=7.0)
    scheduler.set_timesteps(20)
    np.testing.assert_allclose(scheduler.sigmas, paths.edm().levels(20), rtol=1e-5)  # diffusers keeps float32


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
@pytest.mark.parametrize(("source", "target"), list(itertools.permutations(KINDS, 2)))
def test_conversions_return(path: Path, source: paths.Kind, target: paths.Kind) -> None:
    rng = np.random.default_rng(0)
    t = inner_times(path, 4)
    x, value = (torch.tensor(rng.normal(size=(4, 2, 3, 3))) for _ in range(2))
    there = convert(path, x, t, value, source, target)
    back = convert(path, x, t, there, target, source)
    # The round trip loses as many digits as the two 2 x 2 systems are ill conditioned: levels up to 100.
    torch.testing.assert_close(back, value, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_all_kinds_describe_one_pair(path: Path) -> None:
    rng = np.random.default_rng(1)
    t = inner_times(path, 4)
    x0, eps = (torch.tensor(rng.normal(size=(4, 1, 2, 3))) for _ in range(2))

    def over(values: Any) -> Any:
        return values.reshape(-1, 1, 1, 1)

    def on_path(times: Any) -> Any:
        return over(path.alpha(times)) * x0 + over(path.sigma(times)) * eps

    small = 1e-5 * abs(path.start - path.end)
    described = {
        "x0": x0,
        "eps": eps,
        "v": over(path.alpha(t)) * eps - over(path.sigma(t)) * x0,
        "score": -eps / over(path.sigma(t)),
        "flow": (on_path(t + small) - on_path(t - small)) / (2 * small),
    }
    for source, target in itertools.permutations(KINDS, 2):
        found = convert(path, on_path(t), t, described[source], source, target)
        # The central difference is right to (10 small)^2 in relative terms, and x0 loses a factor of the level.
        exact = "flow" not in (source, target)
        torch.testing.assert_close(found, described[target], rtol=1e-9 if exact else 1e-4, atol=1e-9 if exact else 1e-4)


def test_score_is_that_of_a_gaussian() -> None:
    # x0 ~ N(0, c): p_t = N(0, alpha^2 c + sigma^2), E[x0 | x] = alpha c x / (alpha^2 c + sigma^2).
    path, t, c = paths.variance_preserving(), torch.tensor(0.3, dtype=torch.float64), 2.5
    variance = float(path.alpha(t) ** 2 * c + path.sigma(t) ** 2)
    x = torch.linspace(-2, 2, 5, dtype=torch.float64).reshape(1, 1, 5)
    estimate = float(path.alpha(t)) * c * x / variance
    torch.testing.assert_close(convert(path, x, t, estimate, "x0", "score"), -x / variance, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("index", range(3))
def test_scheduler_tables_are_met_and_diffusers_agrees(index: int) -> None:
    scheduler = schedulers()[index]
    path = from_scheduler(scheduler)
    steps = torch.tensor([0, 1, 250, 999])
    rng = np.random.default_rng(2)
    x0, eps = (torch.tensor(rng.normal(size=(4, 1, 3, 3))) for _ in range(2))
    t = steps.double()
    x = path.alpha(t).reshape(-1, 1, 1, 1) * x0 + path.sigma(t).reshape(-1, 1, 1, 1) * eps
    # Their table has float32 entries: 1 - abar near t = 0 is right to 1e-7 / 1e-4, and its root to half of that.
    torch.testing.assert_close(x, scheduler.add_noise(x0, eps, steps), rtol=1e-3, atol=1e-5)
    velocity = scheduler.get_velocity(x0, eps, steps)
    torch.testing.assert_close(convert(path, x, t, eps, "eps", "v"), velocity, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(convert(path, x, t, velocity, "v", "x0")[1:], x0[1:], rtol=1e-3, atol=1e-3)
    levels = (1 / scheduler.alphas_cumprod.double() - 1).sqrt()
    torch.testing.assert_close(path.time_of_level(levels), torch.arange(1000).double(), rtol=0, atol=1e-6)


def test_scheduler_between_steps_is_linear_in_log_snr() -> None:
    path = from_scheduler(schedulers()[0])
    t = torch.tensor([40.0, 40.25, 41.0], dtype=torch.float64)
    low, between, high = (-2 * torch.log(path.level(t))).tolist()
    assert between == pytest.approx(0.75 * low + 0.25 * high, rel=1e-12)
    assert float(path.time_of_level(path.level(t[1]))) == pytest.approx(40.25, rel=1e-10)
    assert float(path.time_of_level(0.0)) == 0
    assert float(path.time_of_level(1e9)) == 999
    torch.testing.assert_close(path.alpha(t) ** 2 + path.sigma(t) ** 2, torch.ones(3).double(), rtol=1e-12, atol=0)


def test_flow_matching_scheduler() -> None:
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(10)
    path = from_scheduler(scheduler)
    rng = np.random.default_rng(3)
    x0, eps = (torch.tensor(rng.normal(size=(10, 1, 3, 3))).float() for _ in range(2))
    t = scheduler.timesteps
    x = path.alpha(t).reshape(-1, 1, 1, 1) * x0 + path.sigma(t).reshape(-1, 1, 1, 1) * eps
    torch.testing.assert_close(x, scheduler.scale_noise(x0, t, eps), rtol=1e-5, atol=1e-5)
    # Its networks predict eps - x0; the path's time runs to 1000, so its velocity is a thousandth of that.
    found = convert(path, x[1:], t[1:], (eps - x0)[1:] / 1000, "flow", "x0")
    torch.testing.assert_close(found, x0[1:], rtol=1e-4, atol=1e-4)
    assert float(path.level(path.time_of_level(2.0))) == pytest.approx(2)
    assert float(path.levels(5)[-1]) == 0


def test_schedulers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(TypeError, match="expected a scheduler with alphas_cumprod or flow matching, got object"):
        from_scheduler(object())
    scheduler = schedulers()[0]
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.clone()
    scheduler.alphas_cumprod[-1] = 0.0
    with pytest.raises(ValueError, match="alphas_cumprod must descend strictly between 1 and 0"):
        from_scheduler(scheduler)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
@pytest.mark.parametrize("kind", KINDS)
def test_denoiser_is_the_same_for_every_path_and_kind(path: Path, kind: paths.Kind) -> None:
    # A network that knows x0 = N(0, 2): whatever it predicts and wherever, the rescaled denoiser is x 2 / (2 + l^2).
    def network(x: Any, t: Any) -> Any:
        assert t.shape == (3,)
        level = path.level(t).reshape(-1, 1, 1)
        estimate = x / path.alpha(t).reshape(-1, 1, 1) * 2 / (2 + level**2)
        return convert(path, x, t, estimate, "x0", kind)

    x = torch.tensor(np.random.default_rng(4).normal(size=(3, 1, 6)))
    levels = torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64)
    wanted = x * 2 / (2 + levels.reshape(-1, 1, 1) ** 2)
    torch.testing.assert_close(denoiser(path, network, kind)(x, levels), wanted, rtol=1e-9, atol=1e-9)
    single = denoiser(path, network, kind)(x.float(), 1.0)
    torch.testing.assert_close(single, x.float() * 2 / 3, rtol=1e-4, atol=1e-5)


def test_conversions_carry_gradients() -> None:
    x = torch.ones((1, 1, 2), requires_grad=True)
    convert(paths.edm(), x, 2.0, x * 0.5, "eps", "x0").sum().backward()
    assert x.grad is not None
    assert x.grad.flatten().tolist() == [0.0, 0.0]  # x - 2 (x / 2)


def test_conversions_without_an_answer_are_refused() -> None:
    x = torch.zeros((2, 1, 2))
    edm = paths.edm()
    with pytest.raises(ValueError, match=r"eps does not follow from x0 at t = \[1\.0, 0\.0\] of path edm"):
        convert(edm, x, torch.tensor([1.0, 0.0]), x, "x0", "eps")
    with pytest.raises(ValueError, match=r"x0 does not follow from eps at t = 1\.0 of path linear_flow"):
        convert(paths.linear_flow(), x, 1.0, x, "eps", "x0")
    with pytest.raises(ValueError, match="a kind must be one of x0, eps, v, score, flow, got 'noise'"):
        convert(edm, x, 1.0, x, "noise", "x0")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected one time or 2, one a sample, got shape \(3,\)"):
        convert(edm, x, torch.ones(3), x, "x0", "eps")
    assert convert(edm, x, 0.0, x, "x0", "x0") is x


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: paths.variance_preserving(2.0, 1.0), "expected 0 < beta_min < beta_max, got 2.0 and 1.0"),
        (lambda: paths.cosine(-1.0), "expected offset >= 0 and 0 < start < 1, got -1.0 and 0.999"),
        (lambda: paths.variance_exploding(0.0), "expected 0 < sigma_min < sigma_max, got 0.0 and 100.0"),
        (lambda: paths.edm(1.0, 0.5), "expected 0 < sigma_min < sigma_max, got 1.0 and 0.5"),
        (lambda: paths.linear_flow(1.0), "expected 0 < start < 1, got 1.0"),
        (lambda: paths.edm().grid(0), "steps must be at least 1, got 0"),
        (lambda: paths.edm().grid(3, "even"), "kind must be one of karras, log, time, got 'even'"),  # type: ignore[arg-type]
    ],
)
def test_arguments_that_do_not_fit_are_refused(make: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told.replace(".", r"\.")):
        make()


def test_variance_exploding_ends_at_its_smallest_level() -> None:
    path = paths.variance_exploding(0.02, 50.0)
    assert float(path.level(path.grid(6, "log"))[-1]) == pytest.approx(0.02)
    assert path.levels(6, "log")[-2:].tolist() == pytest.approx([0.02, 0.0])
    assert math.isclose(float(path.levels(1)[0]), 50.0)


def test_conversions_are_the_same_where_no_gradients_are_kept() -> None:
    path, x, value = paths.linear_flow(), torch.randn(2, 1, 3, 3), torch.randn(2, 1, 3, 3)
    expected = paths.convert(path, x, 0.3, value, "flow", "x0")
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            torch.testing.assert_close(paths.convert(path, x.clone(), 0.3, value.clone(), "flow", "x0"), expected)
