"""Denoisers evaluated on tiles: the same as on the whole where the denoiser is local, and seams where it is not."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

torch = pytest.importorskip("torch", reason="diffusion_guidance needs torch")

from tensorcell.diffusion_guidance.blurs import Blur  # noqa: E402
from tensorcell.diffusion_guidance.tiles import tiled, tiles_along  # noqa: E402


def draw(*shape: int, seed: int = 0) -> Any:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def white(x: Any, level: Any) -> Any:
    """The conditional mean under a white Gaussian prior of variance 1."""
    return x / (1 + level.reshape(-1, *(1,) * (x.ndim - 1)) ** 2)


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
    for size in range(1, 60):
        tiles = tiles_along(size, tile, overlap, stride)
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


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tiled(white, 10, 4, 4)(torch.zeros(1, 1, 20), 1.0), "multiple of the stride 4, got 10"),
        (lambda: tiled(white, 8, 8)(torch.zeros(1, 1, 20), 1.0), "overlap from 0 to 7"),
        (lambda: tiled(white, 8, 4, context=2)(torch.zeros(1, 1, 20), 1.0), "context below half the overlap 4, got 2"),
        (lambda: tiled(white, (8, 8), 4)(torch.zeros(1, 1, 20), 1.0), "one number or 1, one a spatial axis"),
    ],
)
def test_bad_input_is_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
