"""What deepinv takes: measurements on the wanted grid, and denoisers. Most of it is tested without deepinv."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'diffusion'")

import tensorcell as tc  # noqa: E402
from tensorcell.diffusion_guidance.denoisers import perpendicular  # noqa: E402
from tensorcell.diffusion_guidance.networks import SliceNetwork, SliceNetworkConfig  # noqa: E402
from tensorcell.diffusion_guidance.priors import LateralPrior, VolumePrior  # noqa: E402
from tensorcell.diffusion_guidance.solver_terms import LocalTuckerProjection, TuckerProjection  # noqa: E402

RNG = np.random.default_rng(0)
STACK = RNG.uniform(100, 300, (4, 8, 9)).astype(np.float32)


class Inpainting(torch.nn.Module):
    """What deepinv's class of this name computes: the mask times x; and what it was given."""

    def __init__(self, img_size: tuple[int, ...], mask: Any, noise_model: Any) -> None:
        super().__init__()
        self.img_size, self.mask, self.noise_model = img_size, mask, noise_model

    def A(self, x: Any) -> Any:
        return self.mask * x


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    physics = SimpleNamespace(Inpainting=Inpainting, GaussianNoise=lambda sigma: SimpleNamespace(sigma=sigma))
    monkeypatch.setitem(sys.modules, "deepinv", SimpleNamespace(physics=physics))


@pytest.mark.usefixtures("stand_in")
def test_planes_and_voxels_lie_where_they_were_measured_in_values_from_0_to_1() -> None:
    data, mask = STACK.copy(), RNG.random(STACK.shape) < 0.7
    data[1, 2, 3], data[2, 2, 2] = np.nan, np.inf
    mask[2, 2, 2] = False
    seen = mask & ~np.isnan(data)
    y, physics, _ = tc.to_deepinv_physics(data, mask, axial_factor=3, noise=20.0)
    low, high = data[seen].min(), data[seen].max()
    assert (y.shape, y.dtype, physics.img_size) == ((1, 1, 10, 8, 9), torch.float32, (1, 10, 8, 9))
    measured = physics.mask.bool().numpy()[0, 0]
    np.testing.assert_array_equal(measured[::3], seen)
    assert not measured[1::3].any()
    np.testing.assert_allclose(y.numpy()[0, 0][::3][seen], (data[seen] - low) / (high - low), rtol=1e-6)
    assert torch.equal(physics.A(y), y)
    assert physics.noise_model.sigma == pytest.approx(20 / (high - low))


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize(
    ("axes", "shape"),
    [("XZY", (1, 1, 8, 9, 4)), ("CZYX", (1, 2, 4, 8, 9)), ("CYXT", (9, 2, 4, 8)), ("YX", (1, 1, 4, 8))],
)
def test_axes_come_back(axes: str, shape: tuple[int, ...]) -> None:
    sizes = {
        "XZY": STACK,
        "CZYX": np.stack([STACK, 2 * STACK]),
        "CYXT": np.stack([STACK, 2 * STACK]),
        "YX": STACK[..., 0],
    }
    volume = tc.Volume(sizes[axes], axes=axes, spacing=(0.6, 0.1, 0.1))
    y, _, to_volume = tc.to_deepinv_physics(volume, noise=1.0)
    assert y.shape == shape
    back = to_volume(y)
    assert (back.axes, back.spacing) == (axes, volume.spacing)
    np.testing.assert_allclose(back.data, volume.data, rtol=1e-5)  # float32 on the way


@pytest.mark.usefixtures("stand_in")
def test_the_voxel_size_is_that_of_the_wanted_planes_and_other_shapes_are_refused() -> None:
    y, _, to_volume = tc.to_deepinv_physics(STACK, axial_factor=2, noise=1.0, spacing=(0.6, 0.1, 0.1))
    assert to_volume(y).spacing == (0.3, 0.1, 0.1)
    with pytest.raises(tc.InputError, match=r"expected a result of shape \(1, 1, 7, 8, 9\), got \(1, 7, 8, 9\)"):
        to_volume(y[0])


@pytest.mark.usefixtures("stand_in")
def test_the_noise_is_estimated_in_the_unit_of_y() -> None:
    z, y, x = np.indices((10, 48, 48)) / 48
    data = 1000 + 100 * np.sin(7 * x * y + z) + 10 * RNG.standard_normal(z.shape)
    physics = tc.to_deepinv_physics(data, axial_factor=2).physics
    assert float(physics.noise_model.sigma) == pytest.approx(10 / np.ptp(data), rel=0.1)  # as close as on 23040 voxels
    assert tc.to_deepinv_physics(np.full((3, 8, 8), 7.0)).physics.noise_model.sigma == 0


@pytest.mark.usefixtures("stand_in")
def test_foreign_axes_and_empty_data_are_refused_in_one_line() -> None:
    with pytest.raises(tc.InputError, match="expected axes among T, C, Z, Y, X for deepinv, got P in PZYX"):
        tc.to_deepinv_physics(STACK[None], axes="PZYX", noise=1.0)
    with pytest.raises(tc.InputError, match="expected at least one measured voxel, got none"):
        tc.to_deepinv_physics(STACK, np.zeros(STACK.shape, bool), noise=1.0)


@pytest.mark.parametrize("error", [ImportError("No module named 'x'"), RuntimeError("operator does not exist\nmore")])
def test_without_deepinv_one_line_says_why(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(name: str) -> Any:
        raise error

    monkeypatch.setattr(importlib, "import_module", failing)
    from tensorcell.diffusion_guidance.deepinv_modules import inpainting

    with pytest.raises(ImportError, match=r"^expected deepinv \(pip install deepinv\), which cannot be .*[^e]$"):
        inpainting(np.ones((1, 1, 2, 2, 2), bool), 1.0)


X = torch.randn(2, 1, 6, 10, 11, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("name", "projection"), [("local", LocalTuckerProjection()), ("tucker", TuckerProjection())])
@pytest.mark.parametrize("sigma", [0.5, torch.tensor(0.5), torch.full((2, 1, 1, 1, 1), 0.5)])
def test_projections_take_sigma_as_deepinv_gives_it(name: str, projection: Any, sigma: Any) -> None:
    module = tc.to_deepinv_denoiser(name)
    torch.testing.assert_close(module(X, sigma), projection(X, 0.5))
    with pytest.raises(TypeError, match="no gradient passes through a projection of the solvers"):
        module(X.clone().requires_grad_(), sigma)


def prior(dimensions: int = 2, **units: float) -> Any:
    """An untrained one, which divides by ``1 + level^2`` in its own unit."""
    kind = LateralPrior if dimensions == 2 else VolumePrior
    return kind(SliceNetwork(SliceNetworkConfig(widths=(8,), blocks=1, dimensions=dimensions)), **units)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_prior_denoises_in_its_own_unit_and_passes_gradients_on(dimensions: int) -> None:
    x = X.clone().requires_grad_()
    module = tc.to_deepinv_denoiser(prior(dimensions, location=5.0, scale=2.0))
    found = module(x, torch.tensor([1.0, 4.0]))
    shares = torch.tensor([1 / (1 + 0.25), 1 / (1 + 4.0)]).reshape(2, 1, 1, 1, 1)
    torch.testing.assert_close(found, 5 + shares * (x - 5))
    torch.testing.assert_close(torch.autograd.grad(found.sum(), x)[0], shares.expand_as(x))
    assert sum(1 for _ in module.parameters()) > 0  # so that `to(device)` moves it


def test_a_lateral_prior_takes_the_slices_along_the_missing_planes_or_slices_themselves() -> None:
    given = prior()
    torch.nn.init.normal_(given.network.leave.weight, generator=torch.Generator().manual_seed(1))
    module = tc.to_deepinv_denoiser(given)
    torch.testing.assert_close(module(X, 0.7), perpendicular(given.denoise, ("zx", "zy"))(X, 0.7))
    torch.testing.assert_close(module(X[:, :, 0], 0.7), given.denoise(X[:, :, 0], 0.7))


@pytest.mark.usefixtures("stand_in")
def test_a_prior_is_brought_into_the_unit_of_the_measurement(tmp_path: Any) -> None:
    prior(location=1e4, scale=1e3).save(tmp_path)
    problem = tc.to_deepinv_physics(STACK, axial_factor=2, noise=1.0)
    module = tc.to_deepinv_denoiser(tmp_path, problem)
    values = problem.y[problem.physics.mask.bool()]
    expected = values.mean() + (problem.y - values.mean()) / (1 + (0.5 / values.std(correction=0)) ** 2)
    torch.testing.assert_close(module(problem.y, 0.5), expected, rtol=1e-4, atol=1e-5)


def test_what_is_no_denoiser_is_refused_in_one_line(tmp_path: Any) -> None:
    for wrong, message in (
        (3, "expected local, tucker, a prior or a callable as denoiser, got 3"),
        ("lokal", "lokal/config.json: expected a prior with config.json"),
    ):
        with pytest.raises(tc.InputError, match=message) as caught:
            tc.to_deepinv_denoiser(wrong)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="sigma must be one number or one a sample, 2, got 3"):
        tc.to_deepinv_denoiser(lambda x, level: x)(X, torch.ones(3))


def test_deepinv_itself_recovers_with_both() -> None:
    try:
        deepinv = importlib.import_module("deepinv")
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"deepinv cannot be imported: {error}")
    mask = RNG.random(STACK.shape) < 0.6
    problem = tc.to_deepinv_physics(STACK, mask, axial_factor=2, noise=20.0)
    y, physics, to_volume = problem
    sigma = float(physics.noise_model.sigma)
    assert physics.adjointness_test(u=y) < 1e-6
    assert torch.equal(physics.A_dagger(y), y)
    # The minimiser of gamma / 2 |A x - y|^2 + 1/2 |x - z|^2, entry by entry.
    z = torch.rand(y.shape, generator=torch.Generator().manual_seed(0))
    brute = torch.where(physics.mask.bool(), (3 * y + z) / 4, z)
    torch.testing.assert_close(physics.prox_l2(z, y, 3.0), brute)
    data = deepinv.optim.data_fidelity.L2()
    white = tc.to_deepinv_denoiser(prior(), problem)
    plug_and_play = deepinv.optim.optim_builder(
        "HQS", data_fidelity=data, prior=deepinv.optim.PnP(tc.to_deepinv_denoiser("tucker")), max_iter=2,
        params_algo={"stepsize": 1.0, "g_param": sigma},
    )  # fmt: skip
    for found in (
        plug_and_play(y, physics),
        deepinv.sampling.DiffPIR(tc.to_deepinv_denoiser("local"), data, sigma=sigma, max_iter=3)(y, physics),
        deepinv.sampling.DDRM(white, sigmas=np.linspace(1, 0, 3))(y.clone(), physics),
        deepinv.sampling.DPS(white, num_steps=3)(y, physics),
    ):
        assert np.isfinite(to_volume(found).data).all()
