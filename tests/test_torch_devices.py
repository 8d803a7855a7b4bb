"""Networks on another device than the CPU: nothing is left behind, all values are the same, what is said of torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

torch = pytest.importorskip("torch", reason="needs the extra 'diffusion'")

from second_device import There, second_device  # noqa: E402

from tensorcell import recover  # noqa: E402
from tensorcell.device import is_short_of_memory  # noqa: E402
from tensorcell.diffusion_guidance import denoising, fill_stack, solver_terms  # noqa: E402
from tensorcell.diffusion_guidance.compute import Compute, exact_products  # noqa: E402
from tensorcell.diffusion_guidance.data_terms import GaussianConsistency  # noqa: E402
from tensorcell.diffusion_guidance.denoising import denoise_with_prior, posterior_samples  # noqa: E402
from tensorcell.diffusion_guidance.exchange import on_host  # noqa: E402
from tensorcell.diffusion_guidance.microdiffuse3d import (  # noqa: E402
    Degradation,
    FirstEstimate,
    MicroDiffuse3D,
    MicroDiffuse3DConfig,
    Model,
    Parts,
    Sampling,
    SliceAutoencoder,
    restore_scan,
)
from tensorcell.diffusion_guidance.networks import SliceNetwork, SliceNetworkConfig  # noqa: E402
from tensorcell.diffusion_guidance.operators import Planes  # noqa: E402
from tensorcell.diffusion_guidance.options import DiffusionOptions, MicroDiffuse3DOptions  # noqa: E402
from tensorcell.diffusion_guidance.plane_samples import falling_levels, sample_planes, volume_denoiser  # noqa: E402
from tensorcell.diffusion_guidance.priors import LateralPrior  # noqa: E402
from tensorcell.diffusion_guidance.steps import guided_estimate, heun_step  # noqa: E402
from tensorcell.diffusion_guidance.terms import AxialSmoothness  # noqa: E402
from tensorcell.diffusion_guidance.training import fit_lateral_prior  # noqa: E402
from tensorcell.errors import InputError  # noqa: E402
from tensorcell.methods import diffusion as method  # noqa: E402
from tensorcell.methods import networks  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*to a meta parameter in the current model, which is a no-op")
"""Not on the second device, whose tensors have values."""

TINY = SliceNetworkConfig(widths=(8,), blocks=1)
META = torch.device("meta")
PLANES = gaussian_filter(np.random.default_rng(0).random((7, 10, 12)), 1).astype(np.float32)


@pytest.fixture(autouse=True)
def arrays_of_the_second_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solver_terms, "to_array", on_host)


def on_both(work: Callable[[Any], tuple[Any, ...]]) -> None:
    """The work gives the same values, bit for bit, with the networks on the CPU and on the second device."""
    here = work(torch.device("cpu"))
    with second_device() as other:
        there = work(other)
    for expected, got in zip(here, there, strict=True):
        assert type(got) is np.ndarray
        np.testing.assert_array_equal(got, expected)


def test_the_second_device_refuses_what_a_gpu_does() -> None:
    with second_device() as other:
        x = torch.ones(3, device=other)
        assert isinstance(x + 2 * torch.ones((), device="cpu"), There)
        with pytest.raises(RuntimeError, match="add: expected all tensors on one device, got some on the CPU"):
            x + torch.ones(3)
        with pytest.raises(RuntimeError):
            x.numpy()
        assert x.cpu().tolist() == [1.0] * 3


def test_a_fit_goes_on_on_a_device(tmp_path: Any) -> None:
    def work(device: Any) -> tuple[Any, ...]:
        state, compute = tmp_path / device.type, Compute(device=device)
        fit_lateral_prior(PLANES, steps=2, config=TINY, compute=compute, keep=state)
        prior = fit_lateral_prior(PLANES, steps=4, config=TINY, compute=compute, initial=state)
        prior.save(tmp_path / "prior")
        weights = LateralPrior.load(tmp_path / "prior").network.state_dict()
        return tuple(on_host(each) for each in weights.values())

    on_both(work)


def test_a_prior_for_noise_on_a_device_as_on_the_cpu() -> None:
    def work(device: Any) -> tuple[Any, ...]:
        found = denoise_with_prior(
            PLANES, 0.1, restore=lambda y: gaussian_filter(y, 0.5), steps=2, config=TINY, compute=Compute(device=device)
        )
        assert found.prior.device == device
        drawn = posterior_samples(PLANES, 0.1, found, samples=2, steps=2)
        return found.volume, found.regression, drawn.samples, drawn.spread

    on_both(work)


def tiny_model() -> Model:
    config = replace(
        MicroDiffuse3DConfig.named("tiny"), token_width=12, condition_width=4, injected_width=8, blocks=1, heads=2,
        head_width=4, positions=(4, 2, 2), encoder_width=4, encoder_groups=2, encoder_heads=2, depth_ratios=(2,),
    )  # fmt: skip
    autoencoder = SliceAutoencoder.new(scale=config.latent_scale, channels=config.latent_channels, width=8)
    parts = Parts(MicroDiffuse3D.new(config), autoencoder, estimate=FirstEstimate(axial_factor=2, channels=4, blocks=1))
    for each in (*parts[:2], parts.estimate):
        each.eval().requires_grad_(False)
    return Model(parts=parts, acquisition=Degradation(axial_factor=2, lateral_factor=2, psf=(1.0, 0.7, 0.7)))


def test_a_scan_is_restored_on_a_device_as_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    # Tensors that hold others, as those of the second device, cannot be viewed in inference mode.
    monkeypatch.setattr(torch, "inference_mode", lambda mode=True: torch.set_grad_enabled(not mode))
    sampling = Sampling(samples=2, steps=2, low_rank=True, side=32)

    def work(device: Any) -> tuple[Any, ...]:
        found = restore_scan(PLANES[:3, :8, :8], tiny_model().on(Compute(device=device)), sampling, variance=1e-4)
        return found.volume, found.error, found.samples, np.array(found.misfit)

    on_both(work)


def test_recover_computes_all_of_its_networks_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(denoising, "NETWORK", TINY)
    monkeypatch.setattr(fill_stack, "shipped_prior", lambda: LateralPrior(SliceNetwork(TINY), axial_factor=2))
    monkeypatch.setattr(method, "computing", lambda problem, chosen: chosen)
    noise = 0.05 * np.random.default_rng(1).standard_normal(PLANES.shape)
    told: list[tuple[str, ...]] = []

    def work(device: Any) -> tuple[Any, ...]:
        monkeypatch.setattr(method, "networks_on", lambda *_: (Compute(device=device), ("why",)))
        found = recover(
            PLANES + noise, method="diffusion", axial_factor=2, rank=(2, 3, 3), fit_steps=2, samples=2, steps=2,
            guidance="data,tucker,smooth,lateral",
        )  # fmt: skip
        told.append(found.notes)
        return found.volume.data, found.uncertainty

    on_both(work)
    assert told[0] == told[1]
    assert told[0].count("why") == 1
    assert any(note.startswith("prior fitted to 7 planes") for note in told[0])


def test_a_step_of_the_sampler_leaves_nothing_on_the_cpu() -> None:
    """Torch's own "meta" device has shapes and no values: whatever the CPU had a part in, or read, would raise."""
    prior = LateralPrior(SliceNetwork(TINY), axial_factor=2).on(Compute(device=META))
    levels = falling_levels(3)
    denoise = volume_denoiser(PLANES, prior, levels, ("data", "lateral"), 8)
    measured = torch.empty(1, 1, *PLANES.shape, device=META)
    data = GaussianConsistency(Planes(2), measured, 0.1)
    x = torch.empty(2, 1, 13, 10, 12, device=META)
    terms = [AxialSmoothness(0.1)]
    with torch.no_grad():
        moved = heun_step(lambda x, level: guided_estimate(denoise, data, terms, x, level), x, levels[0], levels[1], 2)
    assert moved.x.device == moved.estimate.device == META
    assert (moved.x.shape, moved.x.dtype) == (x.shape, torch.float32)


def test_networks_create_nothing_on_the_cpu() -> None:
    parts = tiny_model().on(Compute(device=META)).parts
    latent = torch.empty(1, 4, parts.network.config.latent_channels, 8, 8, device=META)
    volume = torch.empty(1, 1, 2, 32, 32, device=META)
    assert parts.network(latent, torch.empty(1, device=META), None, volume).shape == latent.shape
    assert parts.estimate is not None
    assert parts.estimate.of_all_orientations(volume).shape == (1, 1, 4, 32, 32)
    assert parts.autoencoder.decode(latent).device == META


# Precision -----------------------------------------------------------------------------------------------------------


def test_samples_in_bfloat16_are_near_those_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(solver_terms, "to_array", lambda tensor: seen.append(tensor.dtype) or on_host(tensor))
    prior = fit_lateral_prior(PLANES, axial_factor=2, steps=2, config=TINY)
    low = prior.on(Compute(precision="bfloat16"))
    exact, rough = (
        sample_planes(PLANES, each, samples=2, steps=3, guidance=("data", "tucker")).mean for each in (prior, low)
    )
    assert rough.dtype == np.float32
    assert set(seen) == {torch.float32}  # the projections
    off = np.abs(rough - exact).max() / exact.std()
    assert 0 < off < 0.1  # bfloat16 has 8 bits
    found = [
        restore_scan(PLANES[:3, :8, :8], tiny_model().on(Compute(precision=precision)), Sampling(samples=1, side=32))
        for precision in ("float32", "bfloat16")
    ]
    assert found[1].volume.dtype == np.float32
    assert 0 < np.abs(found[0].volume - found[1].volume).max() < 0.1 * PLANES.std()


@pytest.mark.parametrize("options", [DiffusionOptions, MicroDiffuse3DOptions])
def test_a_precision_is_one_that_networks_know(options: Any) -> None:
    with pytest.raises(ValueError, match="expected precision float32 or bfloat16, got 'float16'"):
        options(precision="float16", **({"weights": "model"} if options is MicroDiffuse3DOptions else {}))


def test_tf32_is_off_and_afterwards_as_before() -> None:
    owners = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [owner.allow_tf32 for owner in owners]
    try:
        for wanted in (True, False):
            for owner in owners:
                owner.allow_tf32 = wanted
            with exact_products():
                assert [owner.allow_tf32 for owner in owners] == [False, False]
            assert [owner.allow_tf32 for owner in owners] == [wanted, wanted]
    finally:
        for owner, value in zip(owners, before, strict=True):
            owner.allow_tf32 = value


# Which device --------------------------------------------------------------------------------------------------------


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], None]:
    """A function that sets where solvers run, and how many GPUs torch finds."""

    def found(solvers: str, count: int) -> None:
        monkeypatch.setattr(networks, "choose_device", lambda device: solvers if device == "auto" else device)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)

    return found


@pytest.mark.parametrize(
    ("device", "solvers", "count", "expected"),
    [
        ("cpu", "cuda", 2, "cpu"), ("auto", "cpu", 0, "cpu"), ("auto", "cuda", 2, "cuda:0"),
        ("cuda", "cuda", 1, "cuda:0"), ("cuda:1", "cuda", 2, "cuda:1"),
    ],
)  # fmt: skip
def test_networks_are_where_the_solvers_are(gpus: Any, device: str, solvers: str, count: int, expected: str) -> None:
    gpus(solvers, count)
    compute, notes = networks.networks_on(device, "bfloat16")
    assert compute == Compute(device=torch.device(expected), precision="bfloat16")
    assert notes == ()


def test_a_note_tells_why_networks_are_on_the_cpu(gpus: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus("cuda", 0)
    monkeypatch.setattr(torch.version, "cuda", None)
    compute, (note,) = networks.networks_on("auto")
    assert compute == Compute()
    assert note == (
        f"networks computed on the CPU, the rest on the GPU: torch {torch.__version__} was built without CUDA "
        "(https://pytorch.org/get-started/locally)"
    )
    monkeypatch.setattr(torch.version, "cuda", "12.6")
    _, (note,) = networks.networks_on("auto")
    assert note.endswith("for CUDA 12.6 finds no GPU that it can use")
    gpus("cpu", 1)
    compute, (note,) = networks.networks_on("auto")
    assert compute == Compute()
    assert note.startswith("networks computed on the CPU, although torch finds a GPU")


def test_a_gpu_that_was_asked_for_and_torch_cannot_use_is_refused(gpus: Any) -> None:
    gpus("cuda", 0)
    with pytest.raises(InputError, match=r"^device 'cuda' needs a torch that can use the GPU, .*: torch .*\"auto\""):
        networks.networks_on("cuda")
    gpus("cuda", 2)
    with pytest.raises(InputError, match=r"torch expects a GPU below 2 \(so many are found\), got number 2"):
        networks.networks_on("cuda:2")


def test_memory_of_a_gpu_goes_to_whom_it_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(networks, "freed_memory", lambda: calls.append("CuPy"))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append("torch"))
    chosen = Compute(device=torch.device("cuda", 0), precision="bfloat16")
    problem: Any = SimpleNamespace(fitting=SimpleNamespace(device="cpu"))  # a stack that did not fit the GPU
    assert networks.computing(problem, chosen) == Compute(precision="bfloat16")
    assert not calls
    problem.fitting.device = "cuda"
    with fill_stack.settled(networks.computing(problem, chosen)):
        assert calls == ["CuPy"]
    assert calls == ["CuPy", "torch"]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (4 << 20, 8 << 30))
    said: list[str] = []
    assert fill_stack.slices_that_fit((81, 86, 94), said.append, torch.device("cuda", 0)) < 8
    assert said[0].startswith("memory is short (4 MiB free)")


def test_a_gpu_without_room_for_a_network_is_known_by_its_error() -> None:
    assert is_short_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert not is_short_of_memory(RuntimeError("CUDA error"))
