"""The reverse diffusion written down densely against the solver, iterate by iterate; Eq. 20 against its weights."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="diffusion_guidance needs torch")

from tensorcell.diffusion_guidance.admm_as_diffusion import (  # noqa: E402
    DiffusionState,
    admm_as_diffusion,
    corrected_observation,
    damping_weights,
    ddim_step,
    initial_state,
    multiplied,
    reverse_mean,
    tucker_projection,
    unfolded,
)
from tensorcell.solvers import AdmmOptions, AdmmState, IterationRecord, admm, robust_tucker_admm  # noqa: E402
from tensorcell.solvers.passes import sparse_part  # noqa: E402
from tensorcell.solvers.problem import Problem  # noqa: E402


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Matrices of ten rows: threads of torch would only spin beside those of the solver."""
    numba.get_num_threads()  # starts Numba's threading layer, which sets the threads of OpenMP, torch's too
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


ROUNDING = 1e-11
"""Of one step: sums of 1e3 to 1e4 terms at 1e-16, and polar factors, which multiply it by condition numbers to 1e4."""
GROWN = 1e-8
"""Of 22 to 40 steps. Far from its limit the iteration is no contraction, and moves apart what rounding left a little
apart (it is one step's rounding that is let grow: see the restarted runs)."""


def tensor(array: np.ndarray) -> torch.Tensor:
    """A copy as a tensor, whatever its strides."""
    return torch.from_numpy(np.ascontiguousarray(array))


def differences(
    data: np.ndarray, mask: np.ndarray, rank: tuple[int, ...], options: AdmmOptions, nonnegative: bool, restart: bool
) -> dict[str, float]:
    """Largest difference of every part of the state over all iterates, in units of the data's root mean square.

    With ``restart`` every step of the sampler starts from the solver's state, else from its own.
    """
    signs = not options.acceleration
    y, w = torch.from_numpy(np.where(mask, data, 0.0)), torch.from_numpy(mask)
    start = admm.init(Problem(np.where(mask, data, 0.0), mask), rank, options, nonnegative)
    first = initial_state(tensor(start.core), [tensor(u) for u in start.factors], start.threshold)
    states = [admm_as_diffusion(y, w, first, options=options, nonnegative=nonnegative)]
    before = first
    largest = dict.fromkeys(("x", "core", "factors", "dual", "outliers", "threshold"), 0.0)
    scale = float(np.sqrt(np.mean(data[mask] ** 2)))

    def note(part: str, theirs: np.ndarray, mine: torch.Tensor, unit: float) -> None:
        largest[part] = max(largest[part], float(np.abs(theirs - mine.numpy()).max()) / unit)

    def compare(record: IterationRecord, state: AdmmState) -> None:
        nonlocal before
        mine = next(states[0])
        core, factors = mine.core, list(mine.factors)
        for mode, theirs in enumerate(state.factors):  # columns of a decomposition made anew are known up to a sign
            flips = torch.sign((tensor(theirs) * factors[mode]).sum(0)) if not signs else torch.ones(())
            factors[mode] = factors[mode] * flips
            core = (core.movedim(mode, -1) * flips).movedim(-1, mode)
            note("factors", theirs, factors[mode], 1.0)
        length = float(torch.linalg.vector_norm(core))
        note("core", state.core, core, length)
        theirs_x = multiplied(tensor(state.core), [tensor(u) for u in state.factors])
        note("x", theirs_x.numpy(), mine.x, scale)
        if state.dual is not None:
            note("dual", state.dual, mine.dual, scale)
        dual = state.dual if options.fidelity == "equality" else None
        sparse = sparse_part(data, mask, state.core, state.factors, state.threshold, dual=dual, soft=True)
        ours = corrected_observation(mine.x, y, w, mine.dual, mine.threshold, options, nonnegative).outliers
        dense = np.zeros(data.size)
        dense[sparse.positions] = sparse.values
        note("outliers", dense.reshape(data.shape), ours, scale)
        before = DiffusionState(
            theirs_x, tensor(state.core), tuple(tensor(u) for u in state.factors),
            torch.zeros_like(y) if state.dual is None else tensor(state.dual.copy()), state.threshold, state.start,
            state.iteration, before.x, state.momentum, state.change,
        )  # fmt: skip
        if restart:
            states[0] = admm_as_diffusion(y, w, before, options=options, nonnegative=nonnegative)
        note("threshold", np.array(state.threshold), torch.tensor(mine.threshold, dtype=torch.float64), state.threshold)

    robust_tucker_admm(data, mask, rank, options=options, nonnegative=nonnegative, callback=compare)
    return largest


VARIANTS = [
    pytest.param({"fidelity": fidelity, **more}, nonnegative, id=f"{fidelity}-{name}{'-nonnegative' * nonnegative}")
    for fidelity, (name, more), nonnegative in itertools.product(
        ("equality", "huber"),
        {
            "plain": {"relaxation": 1.0, "adaptive": False, "acceleration": False},
            "relaxed": {"relaxation": 1.6, "adaptive": False, "acceleration": False, "ridge": 0.05},
            "adaptive": {"acceleration": False},
            "accelerated": {"relaxation": 1.3, "adaptive": False, "acceleration": True},
        }.items(),
        (False, True),
    )
]


RUNS = pytest.mark.parametrize(("restart", "limit"), [(False, GROWN), (True, ROUNDING)], ids=["run", "each-step"])


@pytest.mark.parametrize(("changes", "nonnegative"), VARIANTS)
@pytest.mark.parametrize(
    ("shape", "rank", "restart", "limit"),
    [((9, 11, 10), (2, 3, 2), False, GROWN), ((5, 6, 4, 5), (2, 2, 2, 2), True, ROUNDING)],
    ids=["run", "each-step"],
)
def test_sampler_reproduces_the_iterates_on_planted_tensors(
    planted: Any, shape: Any, rank: Any, changes: dict[str, Any], nonnegative: bool, restart: bool, limit: float
) -> None:
    problem = planted(shape, rank, seen=0.7, outliers=0.1, size=(1.0, 4.0), nonnegative=nonnegative, noise=0.05)
    options = AdmmOptions(**changes, tolerance=0.0, max_iterations=22)  # the threshold is adapted twice
    found = differences(problem.data, problem.mask, rank, options, nonnegative, restart)
    assert max(found.values()) < limit, found


@RUNS
@pytest.mark.parametrize("name", ["nuclei_chromocenters_clean", "ovule_membranes_confocal"])
@pytest.mark.parametrize("options", [{}, {"fidelity": "huber", "acceleration": False}], ids=["default", "huber"])
def test_sampler_reproduces_the_iterates_on_real_volumes(
    volumes_folder: Path, name: str, options: dict[str, Any], restart: bool, limit: float
) -> None:
    volume = tifffile.imread(volumes_folder / f"{name}.tif").astype(float)
    z, y, x = (size // 2 for size in volume.shape)
    crop = np.ascontiguousarray(volume[z - 10 : z + 10, y - 18 : y + 18, x - 17 : x + 17])
    rng = np.random.default_rng(0)
    mask = rng.random(crop.shape) < 0.6
    crop[rng.random(crop.shape) < 0.03] = volume.max()
    chosen = AdmmOptions(**options, tolerance=0.0, max_iterations=40)
    found = differences(crop, mask, (5, 8, 8), chosen, True, restart)
    assert max(found.values()) < limit, found


def test_abar_of_the_states_cancels(planted: Any) -> None:
    problem = planted((6, 7, 8), (2, 2, 2), seen=0.8)
    data, mask = torch.from_numpy(np.where(problem.mask, problem.data, 0.0)), torch.from_numpy(problem.mask)
    first = random_state((6, 7, 8), 2)
    runs = [list(itertools.islice(admm_as_diffusion(data, mask, first, abar=abar), 5)) for abar in (0.001, 0.999)]
    for one, other in zip(*runs, strict=True):
        torch.testing.assert_close(one.x, other.x, rtol=0, atol=0)  # 1 x0_hat + 0 eps_hat: not even rounding


def random_state(shape: tuple[int, ...], rank: int, seed: int = 0) -> DiffusionState:
    """A Tucker model with orthonormal factors."""
    generator = torch.Generator().manual_seed(seed)
    core = torch.randn((rank,) * len(shape), generator=generator, dtype=torch.float64)
    draws = [torch.randn(n, rank, generator=generator, dtype=torch.float64) for n in shape]
    return initial_state(core, [torch.linalg.qr(draw)[0] for draw in draws], threshold=0.5)


def test_the_corrected_projection_is_no_conditional_mean(planted: Any) -> None:
    """A posterior mean has a symmetric Jacobian. Ours, between tangents of the Tucker manifold, has not."""
    problem = planted((4, 5, 6), (2, 2, 2), noise=0.3)
    data, mask = torch.from_numpy(problem.data), torch.from_numpy(problem.mask)
    options = AdmmOptions(fidelity="huber", threshold=0.5)
    state = random_state((4, 5, 6), 2)

    def denoise(x: torch.Tensor) -> torch.Tensor:
        factors = [torch.linalg.svd(unfolded(x, n), full_matrices=False)[0][:, :2] for n in range(3)]
        core = multiplied(x, [u.T for u in factors])
        target = corrected_observation(x, data, mask, torch.zeros_like(x), 0.5, options, False).target
        return multiplied(*tucker_projection(target, core, factors, 0.0))

    generator = torch.Generator().manual_seed(1)

    def tangent() -> torch.Tensor:
        moves = [torch.randn(u.shape, generator=generator, dtype=torch.float64) for u in state.factors]
        terms = [
            multiplied(state.core, [moves[n] if m == n else u for m, u in enumerate(state.factors)]) for n in range(3)
        ]
        total = torch.stack(terms).sum(0)
        return total / torch.linalg.vector_norm(total)

    v, w = tangent(), tangent()
    step = 1e-5  # central differences: error of 1e-10, rounding of 1e-11

    def slope(direction: torch.Tensor) -> torch.Tensor:
        return (denoise(state.x + step * direction) - denoise(state.x - step * direction)) / (2 * step)

    one, other = float((w * slope(v)).sum()), float((v * slope(w)).sum())
    size = float(torch.linalg.vector_norm(slope(v)))
    assert abs(one - other) > 1e-2 * size
    assert size > 1e-2  # it does depend on x


# Eq. 20 --------------------------------------------------------------------------------------------------------------


def schedule(name: str, steps: int) -> np.ndarray:
    """``abar_0 = 1, abar_1, ..., abar_T``: linear beta (Ho et al. 2020), or cosine (Nichol & Dhariwal 2021)."""
    t = np.arange(steps + 1) / steps
    if name == "cosine":
        curve = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
        beta = np.clip(1 - curve[1:] / curve[:-1], 1e-8, 0.999)
    else:
        beta = np.linspace(1e-4, 0.02, steps) * 1000 / max(steps, 50)
    return np.concatenate([[1.0], np.cumprod(1 - beta)])


@given(
    name=st.sampled_from(["linear", "cosine"]),
    steps=st.integers(2, 1000),
    place=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_eq20_is_the_damped_iteration(name: str, steps: int, place: float, seed: int) -> None:
    abars = schedule(name, steps)
    t = 1 + round(place * (steps - 1))
    abar, after = abars[t], abars[t - 1]
    alpha = abar / after
    generator = torch.Generator().manual_seed(seed)
    x, estimate = torch.randn(2, 20, generator=generator, dtype=torch.float64)
    noise = (x - math.sqrt(abar) * estimate) / math.sqrt(1 - abar)
    a = math.sqrt(alpha) * (1 - after) / (1 - abar)
    b = math.sqrt(after) * (1 - alpha) / (1 - abar)
    # Eq. 20 divides by sqrt(alpha) and 1 - abar, down to 3e-2 and 1e-8: 1e-16 becomes 1e-8 at worst, at the start of
    # a long cosine schedule.
    tolerance = 1e-14 / (math.sqrt(alpha) * (1 - abar))
    torch.testing.assert_close(reverse_mean(x, noise, alpha, abar), a * x + b * estimate, rtol=0, atol=tolerance)
    assert damping_weights(alpha, abar) == pytest.approx((a, b), abs=tolerance)
    # In rescaled states the weights are 1 - w and w with w = (1 - alpha) / (1 - abar).
    w = (1 - alpha) / (1 - abar)
    assert a * math.sqrt(abar / after) == pytest.approx(1 - w, abs=tolerance)
    assert b / math.sqrt(after) == pytest.approx(w, abs=tolerance)
    assert a * math.sqrt(abar) + b == pytest.approx(math.sqrt(after), abs=tolerance)  # an exact x0_hat keeps its scale


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_last_step_of_eq20_and_of_ddim_is_the_estimate(name: str) -> None:
    abars = schedule(name, 100)
    assert damping_weights(abars[1], abars[1]) == (0.0, 1.0)
    x, estimate = torch.arange(3.0), torch.ones(3)
    torch.testing.assert_close(ddim_step(x, estimate, float(abars[1]), 1.0), estimate, rtol=0, atol=0)


def test_ddim_keeps_a_known_noise() -> None:
    """With the true x0 the step moves ``sqrt(abar) x0 + sqrt(1 - abar) eps`` along the same eps."""
    x0, eps = torch.tensor([2.0, -1.0], dtype=torch.float64), torch.tensor([0.3, 0.7], dtype=torch.float64)
    x = math.sqrt(0.3) * x0 + math.sqrt(0.7) * eps
    expected = math.sqrt(0.8) * x0 + math.sqrt(0.2) * eps
    torch.testing.assert_close(ddim_step(x, x0, 0.3, 0.8), expected)  # default tolerance of float64: rounding


def test_damped_iteration_shares_the_fixed_point_but_not_the_iterates(planted: Any) -> None:
    """Eq. 20 with a schedule, around the same denoiser: other iterates, the same limit. An analogy."""
    problem = planted((8, 9, 10), (2, 2, 2), seen=1.0)
    data, mask = torch.from_numpy(problem.data), torch.from_numpy(problem.mask)
    options = AdmmOptions(fidelity="huber", threshold=1e3, adaptive=False, acceleration=False)
    start = random_state((8, 9, 10), 2)
    exact = list(itertools.islice(admm_as_diffusion(data, mask, start, options=options), 60))
    abars = schedule("linear", 200)
    x, factors = start.x * math.sqrt(abars[-1]), start.factors
    apart = math.inf
    for t in range(200, 0, -1):
        scaled = x / math.sqrt(abars[t])
        factors = [torch.linalg.svd(unfolded(scaled, n), full_matrices=False)[0][:, :2] for n in range(3)]
        core = multiplied(scaled, [u.T for u in factors])
        estimate = multiplied(*tucker_projection(data, core, factors, 0.0))
        a, b = damping_weights(abars[t] / abars[t - 1], abars[t])
        x = a * x + b * estimate
        apart = min(apart, float((x / math.sqrt(abars[t - 1]) - exact[0].x).abs().max()))
    truth = torch.from_numpy(problem.truth)
    assert float((exact[-1].x - truth).abs().max()) < 1e-8  # the data are the model: both reach it
    assert float((x - truth).abs().max()) < 1e-8
    assert apart > 1e-2  # no damped state is the first iterate


# Bad input -----------------------------------------------------------------------------------------------------------


def test_shapes_must_agree() -> None:
    data = torch.zeros(3, 4, 5, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"one shape, got \(3, 4, 5\), \(3, 4, 5\), \(3, 4, 6\)"):
        next(admm_as_diffusion(data, data == 0, random_state((3, 4, 6), 1)))


@pytest.mark.parametrize(("abar", "after"), [(1.0, 1.0), (0.0, 0.5), (0.5, 1.5)])
def test_ddim_refuses_levels_out_of_range(abar: float, after: float) -> None:
    with pytest.raises(ValueError, match="abar between 0 and 1"):
        ddim_step(torch.zeros(1), torch.zeros(1), abar, after)


@pytest.mark.parametrize(("alpha", "abar"), [(0.5, 0.9), (1.0, 0.9), (0.5, 0.0)])
def test_damping_refuses_levels_out_of_range(alpha: float, abar: float) -> None:
    with pytest.raises(ValueError, match="expected 0 < abar <= alpha < 1"):
        damping_weights(alpha, abar)
