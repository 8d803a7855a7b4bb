"""Where and how fits are computed."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'diffusion'")

from tensorcell.diffusion_guidance.compute import (  # noqa: E402
    Compute,
    average_gradients,
    mean_of_all,
    moved,
    process,
    shared_fit,
)
from tensorcell.diffusion_guidance.microdiffuse3d import MicroDiffuse3D, MicroDiffuse3DConfig  # noqa: E402
from tensorcell.diffusion_guidance.microdiffuse3d.objective import FlowBatch, prediction_loss  # noqa: E402


def test_names_become_devices_and_precisions(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Compute.named("cpu").device == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert Compute.named().device == torch.device("cpu")
    with pytest.raises(
        ValueError, match=r"^device cuda was asked for, but torch .* (was built without CUDA|finds no GPU)"
    ):
        Compute.named("cuda")
    with pytest.raises(ValueError, match="device must be auto, cpu, cuda or cuda:NUMBER, got 'tpu'"):
        Compute.named("tpu")
    with pytest.raises(ValueError, match="precision must be one of float32, bfloat16, float16, got 'int8'"):
        Compute.named(precision="int8")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert Compute.named().device == torch.device("cuda", 2)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert Compute.named("cuda:3").device == torch.device("cuda", 3)
    with pytest.raises(ValueError, match=r"torch expects a GPU below 4 \(so many are found\), got number 4$"):
        Compute.named("cuda:4")
    monkeypatch.setattr(torch.version, "hip", "6.2")
    with pytest.raises(ValueError, match=r"expected torch for CUDA, got .* for ROCm"):
        Compute.named("cuda")


def test_processes_are_told_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with shared_fit() as own:
        assert (own.number, own.count, own.local) == (0, 1, 0)
    monkeypatch.setenv("RANK", "x")
    assert process().number == 0
    network = torch.nn.Linear(2, 2)
    average_gradients(network)  # alone: nothing to average
    assert network.weight.grad is None
    assert mean_of_all(3.0) == 3.0


def test_batches_are_moved_with_their_names() -> None:
    batch = FlowBatch(*(torch.zeros(1) for _ in range(4)))
    found = moved(batch, torch.device("meta"))
    assert isinstance(found, FlowBatch)
    assert found.latent.device.type == "meta"
    assert found.features is None
    assert moved((torch.zeros(1), 3), torch.device("meta"))[1] == 3


def loss_and_gradient(network: Any, batch: FlowBatch, compute: Compute) -> tuple[float, Any]:
    network.zero_grad()
    loss = compute.loss(prediction_loss, network, batch)
    loss.backward()
    return float(loss.detach()), torch.cat(
        [weight.grad.flatten() for weight in network.parameters() if weight.grad is not None]
    )


@pytest.fixture
def awake() -> Any:
    network = MicroDiffuse3D.new(MicroDiffuse3DConfig.named("tiny"))
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    return network


def test_recomputed_blocks_give_the_same_gradient_and_low_precision_nearly(awake: Any) -> None:
    numbers = torch.Generator().manual_seed(0)
    latent, noise = (torch.randn(1, 4, 4, 4, 4, generator=numbers) for _ in range(2))
    batch = FlowBatch(latent, noise, torch.tensor([0.4]), torch.rand(1, 1, 4, 16, 16, generator=numbers))
    loss, gradient = loss_and_gradient(awake, batch, Compute())
    awake.transformer.recomputed = True
    again, same = loss_and_gradient(awake, batch, Compute())
    assert again == pytest.approx(loss, rel=1e-6)
    torch.testing.assert_close(same, gradient, rtol=1e-4, atol=1e-6)
    low, near = loss_and_gradient(awake, batch, Compute(precision="bfloat16"))
    assert low != loss
    assert low == pytest.approx(loss, rel=0.02)
    assert float(torch.nn.functional.cosine_similarity(near, gradient, dim=0)) > 0.99
