"""Guidance terms against brute-force minimisation of their definitions, finite differences, and the solvers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from scipy import optimize, stats

torch = pytest.importorskip("torch", reason="diffusion_guidance needs torch")

from tensorcell.diffusion_guidance.guidance import (  # noqa: E402
    Agreement,
    AxialSmoothness,
    GaussianConsistency,
    HuberConsistency,
    NonNegative,
    PoissonConsistency,
    TermSum,
    consistency,
    lateral_axial_agreement,
    noise_in_prior_units,
    perpendicular,
    slicewise,
    sparse_step,
    tile_agreement,
    tiled,
    tiles_along,
)
from tensorcell.diffusion_guidance.operators import (  # noqa: E402
    Blur,
    BlurDecimate,
    Compose,
    Identity,
    Mask,
    Planes,
)
from tensorcell.solvers import NoiseModel  # noqa: E402
from tensorcell.solvers.rules import Rule  # noqa: E402
from tensorcell.solvers.sweeps import direction  # noqa: E402

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


def linear_2d(x: Any, level: Any) -> Any:
    """A linear denoiser of slices that treats their axes differently, weaker at low levels."""
    smooth = Blur((0.9, 0.3)).forward(x)
    gain = (level / (1 + level)).reshape(-1, 1, 1, 1)
    return x + gain * (smooth - x)


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
    "lateral-axial": lateral_axial_agreement(linear_2d, 1.0, weight=5.0),
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


def test_sparse_step_is_that_of_the_solvers() -> None:
    rng = np.random.default_rng(0)
    y, x, dual = (rng.standard_normal((4, 5, 6)) for _ in range(3))
    mask = rng.random(y.shape) < 0.7
    d, new, _ = direction(Rule.EQUALITY, False, y, mask, dual, x, 0.4, 1.3)
    found = sparse_step(*(torch.from_numpy(a) for a in (x, y, mask, dual)), threshold=0.4, relaxation=1.3)
    np.testing.assert_allclose(found.direction.numpy(), d, atol=1e-15)  # the same few additions in another order
    np.testing.assert_allclose(found.dual.numpy()[mask], new[mask], atol=1e-15)
    r = np.where(mask, y - x - dual, 0)
    np.testing.assert_allclose(found.outliers.numpy(), np.sign(r) * np.maximum(abs(r) - 0.4, 0), atol=1e-15)
    corrected = y - found.outliers.numpy() - found.dual.numpy()
    np.testing.assert_allclose((x + found.direction.numpy())[mask], corrected[mask], atol=1e-15)


def test_huber_outliers_minimise_the_joint_definition() -> None:
    term = HuberConsistency(Identity(), draw(*SHAPE, seed=4), 0.4, 0.7)
    e = term.outliers(X)

    def joint(e: Any) -> Any:
        return (((term.y - X - e) ** 2 / 2 + 0.4 * e.abs()) / 0.7**2).flatten(1).sum(1)

    torch.testing.assert_close(joint(e), term.value(X))
    for seed in range(20):
        assert bool((joint(e + 0.1 * draw(*SHAPE, seed=seed)) >= joint(e)).all())


# Products of perpendicular priors ------------------------------------------------------------------------------------


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


def test_agreement_is_zero_for_isotropic_volumes_and_not_for_stretched_ones() -> None:
    rng = np.random.default_rng(0)
    noise = torch.from_numpy(rng.standard_normal((1, 1, 24, 24, 24)))
    term = lateral_axial_agreement(lambda x, level: Blur((1.0, 1.0), "wrap").forward(x), 1.0)
    isotropic = Blur((2.0, 2.0, 2.0), "wrap").forward(noise)
    stretched = Blur((4.0, 1.0, 1.0), "wrap").forward(noise)
    per_power = [float(term.value(x)) / float((x**2).sum()) for x in (isotropic, stretched)]
    assert per_power[1] > 3 * per_power[0]
    same = Agreement((lambda x, level: 0.5 * x, lambda x, level: 0.5 * x), 1.0)
    assert float(same.value(noise)) == 0.0


# Tiles ---------------------------------------------------------------------------------------------------------------


def local_denoiser(x: Any, level: Any) -> Any:
    """Looks three voxels far, not linear."""
    return torch.tanh(Blur((0.75,) * (x.ndim - 2), "nearest").forward(x))


@pytest.mark.parametrize(
    ("shape", "tile", "overlap", "stride"),
    [((23, 31, 17), 16, 8, 1), ((23, 31, 17), (12, 16, 24), 8, 4), ((33, 40), 16, 10, 2), ((50,), 24, 9, 8)],
)
def test_tiles_of_a_local_denoiser_are_the_whole(shape: Any, tile: Any, overlap: int, stride: int) -> None:
    x = draw(2, 1, *shape)
    whole = local_denoiser(x, 1.0)
    found = tiled(local_denoiser, tile, overlap, stride, context=3)(x, 1.0)
    torch.testing.assert_close(found, whole, rtol=1e-14, atol=1e-14)  # weights that sum to one, to rounding


def strided_denoiser(x: Any, level: Any) -> Any:
    """A network that halves its input twice: means over cells of four voxels, whose grid starts at voxel 0."""
    pad = -x.shape[-1] % 4
    padded = torch.nn.functional.pad(x, (0, pad), mode="replicate")
    return torch.repeat_interleave(padded.unfold(-1, 4, 4).mean(-1), 4, dim=-1)[..., : x.shape[-1]]


@pytest.mark.parametrize("size", [40, 41, 43, 95])
def test_tiles_start_on_the_stride_of_the_network(size: int) -> None:
    x = draw(1, 1, size)
    found = tiled(strided_denoiser, 16, 8, 4, context=3)(x, 1.0)
    torch.testing.assert_close(found, strided_denoiser(x, 1.0), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize(("tile", "overlap", "stride"), [(16, 4, 4), (8, 7, 1), (12, 0, 4), (16, 11, 2)])
def test_tiles_cover_overlap_and_stay_on_the_stride(tile: int, overlap: int, stride: int) -> None:
    for size, offset in itertools.product(range(1, 60), range(0, tile - overlap - stride + 1, stride)):
        tiles = tiles_along(size, tile, overlap, stride, offset)
        assert tiles[0].start == 0
        assert tiles[-1].stop == size
        assert [t.first for t in tiles] == [True, *[False] * (len(tiles) - 1)]
        assert [t.last for t in tiles] == [*[False] * (len(tiles) - 1), True]
        assert all(t.start % stride == 0 and 0 < t.stop - t.start <= tile for t in tiles)
        for before, after in itertools.pairwise(tiles):
            assert before.stop - after.start >= overlap
            assert after.start > before.start


def wide_denoiser(x: Any, level: Any) -> Any:
    """Looks as far as the tile goes: a Gaussian of 2.5 voxels, cut at 10, besides a local part."""
    return 0.7 * Blur((0.5,) * 3).forward(x) + 0.3 * Blur((2.5,) * 3).forward(x)


def test_seams_of_a_wide_denoiser_are_below_a_hundredth_of_the_contrast(volumes_folder: Path) -> None:
    volume = tifffile.imread(volumes_folder / "nuclei_chromocenters_clean.tif").astype(float)
    z, y, x = (size // 2 for size in volume.shape)
    crop = torch.from_numpy(volume[z - 20 : z + 20, y - 32 : y + 32, x - 32 : x + 32])[None, None]
    crop = (crop - crop.mean()) / crop.std()
    whole = wide_denoiser(crop, 1.0)
    found = tiled(wide_denoiser, 32, 16, 8)(crop, 1.0)
    contrast = (Blur((2.0,) * 3).forward((whole - Blur((2.0,) * 3).forward(whole)) ** 2)).sqrt()
    floor = 0.1 * float(contrast.mean())  # where nothing is, a tenth of the mean
    seams = (found - whole).abs() / contrast.clamp_min(floor)
    assert float(seams.max()) < 0.01
    naive = tiled(wide_denoiser, 32, 0, 8)(crop, 1.0)
    assert float(((naive - whole).abs() / contrast.clamp_min(floor)).max()) > 0.1  # it is the overlap that does it


def test_tile_agreement_sees_what_seams_cost() -> None:
    x = draw(1, 1, 20, 20)
    # Contexts of a quarter of the overlap: two voxels here.
    narrow = tile_agreement(lambda x, level: Blur((0.4, 0.4), "nearest").forward(x), 1.0, 12, 8)
    wide = tile_agreement(lambda x, level: x - x.mean((2, 3), keepdim=True), 1.0, 12, 8)
    assert float(narrow.value(x)) < 1e-25
    assert float(wide.value(x)) > 1e-3
    move = draw(1, 1, 20, 20, seed=1)
    slope = (wide.value(x + 1e-5 * move) - wide.value(x - 1e-5 * move)) / 2e-5
    assert float((wide.gradient(x) * move).sum()) == pytest.approx(float(slope), rel=1e-6)  # quadratic: rounding only


# Bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussianConsistency(Identity(), X, -1.0), "standard deviation of at least 0, got -1.0"),
        (lambda: GaussianConsistency(Identity(), X, 0.0).gradient(X), "sigma above 0 for a gradient"),
        (lambda: PoissonConsistency(Identity(), X, 0.0, 1.0), "gain above 0 and a finite offset, got 0.0 and 1.0"),
        (lambda: noise_in_prior_units(NoiseModel(1.0, 1.0, 1.0), 0.0, 0.0), "scale above 0, got 0.0"),
        (lambda: HuberConsistency(Identity(), X, 0.0, 1.0), "threshold and sigma above 0, got 0.0 and 1.0"),
        (lambda: sparse_step(X, X, X > 0, X, 0.0), "threshold above 0, got 0.0"),
        (lambda: sparse_step(X, X, X > 0, X, 1.0, 1.7), "relaxation between 0 and 1.618, got 1.7"),
        (lambda: NonNegative(0.0, 0.0), "weight above 0, got 0.0"),
        (lambda: NonNegative().gradient(X), "finite weight for a gradient"),
        (lambda: AxialSmoothness(0.0), "weight above 0, got 0.0"),
        (lambda: AxialSmoothness(1.0, -1.0), "threshold above 0 or None, got -1.0"),
        (lambda: Agreement((white,), 1.0), "at least two denoisers, got 1"),
        (lambda: Agreement((white, white), 1.0, -1.0), "weight above 0, got -1.0"),
        (lambda: TermSum(()), "at least one term"),
        (lambda: slicewise(white, "xy"), "plane 'yx', 'zx' or 'zy', got 'xy'"),
        (lambda: slicewise(white, "yx", batch=0), "batch of at least 1, got 0"),
        (lambda: slicewise(white, "yx")(torch.zeros(1, 1, 3, 3), 1.0), r"expected volumes \(K, C, Z, Y, X\)"),
        (lambda: perpendicular(white, ()), "at least one plane"),
        (lambda: perpendicular(white, weights=(1.0,)), r"3 finite weights, one a plane, got \[1.0\]"),
        (lambda: perpendicular(white, weights=(0.5, 0.2, 0.3), alternate=True), "equal weights"),
        (lambda: tiled(white, 10, 4, 4)(torch.zeros(1, 1, 20), 1.0), "multiple of the stride 4, got 10"),
        (lambda: tiled(white, 8, 8)(torch.zeros(1, 1, 20), 1.0), "overlap from 0 to 7"),
        (lambda: tiled(white, 8, 4, context=2)(torch.zeros(1, 1, 20), 1.0), "context below half the overlap 4, got 2"),
        (lambda: tiled(white, 8, 4, 2, offset=4)(torch.zeros(1, 1, 20), 1.0), "offset to 2 on the stride 2, got 4"),
        (lambda: tiled(white, (8, 8), 4)(torch.zeros(1, 1, 20), 1.0), "one number or 1, one a spatial axis"),
    ],
)
def test_bad_input_is_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_infinite_poisson_value_outside_its_domain() -> None:
    term = PoissonConsistency(Identity(), torch.ones(1, 1, 2), 1.0, 0.0)
    assert math.isinf(float(term.value(torch.tensor([[[-1.0, 1.0]]]))))
