"""Projections of torch tensors against the solvers called directly, and what their rank does with the level."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

torch = pytest.importorskip("torch", reason="diffusion_guidance needs torch")

from tensorcell.diffusion_guidance.exchange import tensor_of, to_array  # noqa: E402
from tensorcell.diffusion_guidance.solver_terms import (  # noqa: E402
    LocalTuckerProjection,
    TuckerProjection,
    rank_above_noise,
)
from tensorcell.solvers import LocalOptions, hosvd, local_tucker, tucker_to_dense  # noqa: E402
from tensorcell.solvers.patch_groups import HARD, filtered, fitted, smoothed  # noqa: E402


def draw(*shape: int, seed: int = 0) -> Any:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def blobs(shape: tuple[int, ...] = (12, 20, 18)) -> Any:
    z, y, x = np.indices(shape) / 4
    return torch.from_numpy(np.sin(x + z) * np.cos(y))[None, None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tensors_cross_without_a_copy(dtype: Any) -> None:
    x = draw(3, 4).to(dtype)
    array = to_array(x)
    assert array.__array_interface__["data"][0] == x.data_ptr()
    assert tensor_of(array, x.device).data_ptr() == x.data_ptr()
    array[0, 0] = 7
    assert float(x[0, 0]) == 7


def test_threads_of_torch_are_left_alone() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        LocalTuckerProjection()(blobs(), 0.1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_what_requires_a_gradient_crosses_without_it() -> None:
    x = draw(1, 1, 4, 5, 6).requires_grad_()
    assert not TuckerProjection()(x, 0.1).requires_grad


def test_strides_of_the_state_do_not_matter() -> None:
    x = draw(1, 1, 6, 5, 4)
    turned = x.permute(0, 1, 4, 3, 2).contiguous().permute(0, 1, 4, 3, 2)
    assert not turned.is_contiguous()
    projection = TuckerProjection(lambda volume, level: (2, 2, 2))
    torch.testing.assert_close(projection(turned, 0.1), projection(x, 0.1), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tucker_projection_equals_the_solver(dtype: Any) -> None:
    x = draw(2, 2, 7, 8, 9).to(dtype)
    found = TuckerProjection(lambda volume, level: (2, 3, 4))(x, 0.3)
    assert found.dtype == dtype
    for k in range(2):
        for c in range(2):
            direct = tucker_to_dense(*hosvd(x[k, c].numpy(), (2, 3, 4)))
            np.testing.assert_array_equal(found[k, c].numpy(), direct)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_local_projection_equals_the_solver(dtype: Any) -> None:
    x = (blobs() + 0.2 * draw(1, 1, 12, 20, 18) + 3).to(dtype)
    options = LocalOptions(patch=4, group=16)
    volume = x[0, 0].numpy()
    direct = local_tucker(volume, noise=1.5 * float(np.float32(0.2)), robust=False, options=options).value
    found = LocalTuckerProjection("all", strength=1.5, options=options)(x, 0.2)
    np.testing.assert_array_equal(found[0, 0].numpy(), direct)
    centred = (volume - volume.mean()).astype(np.float32)
    stage, _ = filtered(centred, smoothed(centred), None, 0.3, HARD, fitted(options, volume.shape))
    found = LocalTuckerProjection("one", strength=1.5, options=options)(x, 0.2)
    np.testing.assert_array_equal(found[0, 0].numpy(), stage.astype(volume.dtype) + volume.mean())


def test_rank_counts_what_stands_above_the_noise(planted: Callable[..., Any]) -> None:
    truth = planted((20, 22, 24), (2, 3, 4)).truth
    noisy = truth + 0.05 * np.random.default_rng(1).standard_normal(truth.shape)
    assert rank_above_noise(noisy, 0.05) == (2, 3, 4)
    levels = [0.001, 0.01, 0.05, 0.5, 2.0, 50.0]
    ranks = [sum(rank_above_noise(noisy, level)) for level in levels]
    assert ranks == sorted(ranks, reverse=True)
    assert rank_above_noise(noisy, 50.0) == (1, 1, 1)
    assert rank_above_noise(noisy, 0.0) == (20, 22, 24)


@pytest.mark.parametrize("seed", range(5))
def test_white_noise_has_hardly_any_rank(seed: int) -> None:
    """The edge holds on average; single draws exceed it by the width of the Tracy-Widom law, so 5 % are allowed."""
    noise = np.random.default_rng(seed).standard_normal((30, 32, 34))
    assert rank_above_noise(noise, 1.0, strength=1.05) == (1, 1, 1)


def test_ranks_fit_together() -> None:
    """No rank exceeds the product of the others, whatever single unfoldings show."""
    volume = np.zeros((6, 6, 6))
    volume[range(6), range(6), 0] = 1.0
    assert rank_above_noise(volume, 0.01) == (6, 6, 1)
    found = TuckerProjection()(torch.from_numpy(volume)[None, None], 0.01)
    np.testing.assert_allclose(found[0, 0].numpy(), volume, atol=1e-12)  # rounding of eigenvectors


@pytest.mark.parametrize("projection", [TuckerProjection(), LocalTuckerProjection(), LocalTuckerProjection("all")])
def test_projections_denoise_each_sample_at_its_level(projection: Any) -> None:
    truth = blobs()
    levels = torch.tensor([0.05, 0.4], dtype=torch.float64)
    x = truth + levels[:, None, None, None, None] * draw(2, 1, *truth.shape[2:], seed=3)
    found = projection(x, levels)
    error = (found - truth).flatten(1).std(1)
    assert bool((error < 0.6 * levels).all())
    alone = projection(x[1:], 0.4)
    # Stein's weights are float64 sums whose order depends on where the memory lies: a rounding of the float32 result.
    torch.testing.assert_close(found[1:], alone, rtol=0, atol=1e-6)


def test_local_projection_beats_the_global_one_on_a_real_volume(volumes_folder: Path) -> None:
    volume = tifffile.imread(volumes_folder / "nuclei_chromocenters_clean.tif").astype(np.float32)
    z, y, x = (size // 2 for size in volume.shape)
    crop = torch.from_numpy(volume[z - 8 : z + 8, y - 20 : y + 20, x - 20 : x + 20])[None, None]
    crop = (crop - crop.mean()) / crop.std()
    noisy = crop + 0.5 * draw(*crop.shape).float()
    error = [float((p(noisy, 0.5) - crop).std()) for p in (TuckerProjection(), LocalTuckerProjection())]
    assert error[1] < error[0] < 0.5


def test_slices_and_level_zero() -> None:
    x = draw(2, 1, 16, 18)
    assert LocalTuckerProjection()(x, 0.5).shape == x.shape
    torch.testing.assert_close(LocalTuckerProjection()(x, 0.0), x, rtol=0, atol=0)
    assert TuckerProjection()(x, 0.5).shape == x.shape


def test_half_precision_is_projected_in_single() -> None:
    x = blobs().to(torch.bfloat16)
    found = TuckerProjection()(x, 0.1)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, TuckerProjection()(x.float(), 0.1).to(torch.bfloat16), rtol=0, atol=0)


def test_a_gpu_keeps_its_tensors() -> None:
    pytest.importorskip("cupy", reason="no CuPy")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    x = draw(1, 1, 8, 9, 10).cuda()
    assert to_array(x).data.ptr == x.data_ptr()
    projection = TuckerProjection(lambda volume, level: (2, 3, 4))
    found = projection(x, 0.1)
    assert found.device == x.device
    torch.testing.assert_close(found.cpu(), projection(x.cpu(), 0.1), rtol=0, atol=1e-10)  # other eigensolvers


# Bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: to_array(torch.zeros(2, device="meta")), TypeError, "on a CPU or CUDA device, got meta"),
        (lambda: TuckerProjection()(torch.zeros(1, 1, 4), 1.0), ValueError, "at least two axes of space"),
        (lambda: TuckerProjection()(torch.zeros(2, 1, 4, 4), torch.ones(3)), ValueError, "one level or 2.*got 3"),
        (lambda: TuckerProjection()(torch.zeros(2, 1, 4, 4), -1.0), ValueError, r"at least 0, got \[-1.0\]"),
        (lambda: LocalTuckerProjection("two"), ValueError, "passes 'one' or 'all', got 'two'"),  # type: ignore[arg-type]
        (lambda: LocalTuckerProjection(strength=0.0), ValueError, "strength above 0, got 0.0"),
        (lambda: LocalTuckerProjection()(torch.zeros(1, 1, 4), 1.0), ValueError, r"expected \(K, C, Z, Y, X\) or"),
    ],
)
def test_bad_input_is_named(make: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_a_cuda_tensor_without_cupy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class OnDevice:
        """Enough of a CUDA tensor for the question."""

        device = torch.device("cuda", 0)

        def detach(self) -> OnDevice:
            return self

    monkeypatch.setitem(__import__("sys").modules, "cupy", None)
    with pytest.raises(TypeError, match="expected CuPy for CUDA tensors"):
        to_array(OnDevice())  # type: ignore[arg-type]
