"""PSFs as volumes: kernels, those of files and those of optics, and networks that are fitted with them."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import command_line
import numpy as np
import pytest
from scipy import integrate, ndimage, special

torch = pytest.importorskip("torch", reason="needs the extra 'diffusion'")

import tensorcell  # noqa: E402
from tensorcell import network_training  # noqa: E402
from tensorcell.datasets import simulate_cells  # noqa: E402
from tensorcell.diffusion_guidance.baselines.fitting import load_baseline  # noqa: E402
from tensorcell.diffusion_guidance.microdiffuse3d import Degradation, PointSpread, Sampling, load_model, restore_scan  # noqa: E402
from tensorcell.diffusion_guidance.microdiffuse3d.checkpoint import acquisition_from, content_of  # noqa: E402
from tensorcell.diffusion_guidance.microdiffuse3d.consistency import with_fitted_psf  # noqa: E402
from tensorcell.diffusion_guidance.microdiffuse3d.data import Example  # noqa: E402
from tensorcell.diffusion_guidance.microdiffuse3d.vectorial import vectorial_point_spread  # noqa: E402
from tensorcell.errors import InputError  # noqa: E402
from tensorcell.network_training import stages  # noqa: E402
from tensorcell.network_training.point_spreads import measured_point_spread  # noqa: E402

WIDE = (99, 99, 99)
"""Sizes of volumes that are larger than any PSF below."""


def spot(shape: tuple[int, ...], widths: tuple[float, ...], centre: tuple[float, ...] | None = None) -> Any:
    """A Gaussian of height 1, sampled at the voxels."""
    middle = tuple((size - 1) / 2 for size in shape) if centre is None else centre
    found = np.ones(shape)
    for axis, (size, width, place) in enumerate(zip(shape, widths, middle, strict=True)):
        profile = np.exp(-0.5 * ((np.arange(size) - place) / width) ** 2)
        found = found * np.expand_dims(profile, [other for other in range(3) if other != axis])
    return found


def generator() -> Any:
    return torch.Generator().manual_seed(0)


# ---------------------------------------------------------------------------------------------------------- kernels


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7), (9, 1, 3), (5, 21, 19)])
@pytest.mark.parametrize(("kind", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-13)])  # roundings of FFTs
def test_convolved_agrees_with_scipy(shape: tuple[int, ...], kind: Any, tolerance: float) -> None:
    """Kernels without any symmetry, and of more rows than the volume."""
    rng = np.random.default_rng(0)
    kernel, volume = PointSpread.of(rng.random(shape)), rng.random((2, 1, 6, 11, 14))
    found = kernel.convolved(torch.from_numpy(volume).to(kind))
    assert (found.dtype, found.shape) == (kind, volume.shape)
    expected = [ndimage.convolve(each[0], kernel.kernel, mode="nearest") for each in volume]
    np.testing.assert_allclose(found[:, 0].numpy(), expected, rtol=0, atol=tolerance)


def test_a_sampled_gaussian_is_the_gaussian_psf() -> None:
    widths = (1.5, 0.7, 2.0)
    kernel = PointSpread.of(spot((13, 7, 17), widths))  # cut where the Gaussian of three widths is cut
    scan = Degradation(axial_factor=2, lateral_factor=2, attenuation=9.0, photons=50.0, read_noise=0.01)
    volume = torch.rand(2, 1, 12, 14, 16, generator=generator())
    torch.testing.assert_close(
        replace(scan, kernel=kernel)(volume, generator()), replace(scan, psf=widths)(volume, generator()),
        rtol=0, atol=0.021,  # a rounding may be one photon more or less in 50
    )  # fmt: skip
    expected = replace(scan, psf=widths).expected(volume)
    torch.testing.assert_close(replace(scan, kernel=kernel).expected(volume), expected, rtol=0, atol=1e-6)


def test_an_acquisition_with_a_kernel_is_written_and_compared() -> None:
    """JSON gives back the same numbers; an acquisition without a kernel is written as before there were kernels."""
    light = np.random.default_rng(0).random((33, 33, 33))
    scan = Degradation(axial_factor=4, photons=100.0, kernel=PointSpread.of(light))
    same = acquisition_from(json.loads(json.dumps(content_of(scan), allow_nan=False)))
    assert same == scan
    assert hash(same) == hash(scan)
    assert same != replace(scan, kernel=PointSpread.of(light[::-1]))
    assert not scan.only_planes
    assert not Degradation(axial_factor=4, kernel=PointSpread.of(light)).only_planes
    plain = Degradation(axial_factor=4)
    assert plain.only_planes
    assert "kernel" not in content_of(plain)
    assert acquisition_from(content_of(plain)) == plain
    assert "0." not in repr(scan.kernel)  # messages do not list all of its numbers


def test_the_sum_of_large_and_of_small_numbers_is_one() -> None:
    for unit in (1e308, 1e-308):
        kernel = PointSpread.of(unit * np.array([[[1.0, 1.5, 0.5]]]))
        np.testing.assert_allclose(kernel.values, [1 / 3, 1 / 2, 1 / 6], rtol=1e-12)


@pytest.mark.parametrize(
    ("light", "message"),
    [
        (np.ones((3, 4, 3)), r"expected three odd sizes of a PSF, got \(3, 4, 3\)"),
        (np.ones((3, 3)), r"expected three odd sizes of a PSF, got \(3, 3\)"),
        (np.ones((3, 0, 3)), r"expected three odd sizes of a PSF, got \(3, 0, 3\)"),
        (np.ones((129, 129, 129), np.int8), "expected a PSF of at most 1048576 voxels, got 129 x 129 x 129"),
        (np.zeros((3, 3, 3)), "expected light in the PSF, got 0 everywhere"),
        (np.array([[[1.0, -0.5, 1.0]]]), "expected a PSF of at least 0 everywhere, got -0.5"),
        (np.array([[[1.0, math.nan, 1.0]]]), "expected a PSF of finite numbers, got 1 that are not"),
        (np.array([[[1.0, math.inf, 1.0]]]), "expected a PSF of finite numbers, got 1 that are not"),
    ],
)
def test_arrays_that_are_no_psf_are_refused(light: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PointSpread.of(light)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"shape": [1, 1, 2], "values": [0.5, 0.5]}, "expected three odd sizes of a PSF"),
        ({"shape": [1, 1, 3], "values": [0.5, 0.5]}, r"expected 3 values of a PSF of shape \(1, 1, 3\), got 2"),
        ({"shape": [1, 1, 3], "values": [0.5, 0.5, 0.5]}, "expected a PSF of sum 1, got 1.5"),
        ({"shape": [1, 1, 3], "values": [1.5, -0.5, 0.0]}, "expected finite shares of light from 0 to 1"),
        ({"shape": [1, 1, 3], "values": [1e308, 1e308, 1e308]}, "expected finite shares of light from 0 to 1"),
        ({"shape": [1, 1, 3], "values": [math.nan, 0.5, 0.5]}, "expected finite shares of light from 0 to 1"),
        ({"shape": [1, 1, 3], "values": [None, 0.5, 0.5]}, "expected finite shares of light from 0 to 1"),
        ({"shape": [1, 1, 1], "values": [1.0], "origin": 0}, "PointSpread knows no origin"),
    ],
)
def test_damaged_kernels_of_files_are_refused(content: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        acquisition_from({"kernel": content})


def test_a_kernel_is_the_only_psf() -> None:
    kernel = PointSpread.of(np.ones((1, 3, 3)))
    with pytest.raises(ValueError, match="expected widths of the PSF or a kernel, got both"):
        Degradation(psf=(1.0, 0.0, 0.0), kernel=kernel)
    with pytest.raises(ValueError, match=r"widening must be 0 with a kernel, which is the same at all depths, got 0.5"):
        Degradation(widening=0.5, kernel=kernel)
    with pytest.raises(ValueError, match="kernel must be a PointSpread or None, got dict"):
        Degradation(kernel=asdict(kernel))  # type: ignore[arg-type]


def test_a_psf_that_is_fitted_to_pairs_replaces_the_kernel() -> None:
    volume = torch.rand(1, 1, 4, 12, 12, generator=generator())
    scan = Degradation(kernel=PointSpread.of(np.ones((1, 3, 3))))
    found = with_fitted_psf(scan, [Example(volume, volume)])
    assert found.kernel is None
    assert max(found.psf) < 0.3


# ------------------------------------------------------------------------------------------------ measured, in files


def written(path: Path, light: Any, spacing: tuple[float, float, float] | None = None) -> str:
    tensorcell.write(path, tensorcell.Volume(np.asarray(light), spacing=spacing))
    return str(path)


def test_a_measured_psf_is_centred_and_cropped_without_background(tmp_path: Path) -> None:
    widths, centre = (2.0, 1.2, 1.2), (14.0, 9.0, 12.0)
    light = 1000 * spot((32, 24, 26), widths, centre)
    source = written(tmp_path / "bead.tif", (light + 100).astype(np.float32))
    found, note = measured_point_spread(source, (1.0, 1.0, 1.0), WIDE)
    assert "whose voxels are taken to be those of the volumes, since it states no size" in note
    assert found.shape[1] == found.shape[2]
    reaches = [(size - 1) / 2 / width for size, width in zip(found.shape, widths, strict=True)]
    assert all(3 < reach < 4.5 for reach in reaches)  # 99.97 % of a Gaussian lie within 3.6 widths
    expected = spot(found.shape, widths)
    assert expected.sum() > 0.999 * spot(WIDE, widths).sum()
    np.testing.assert_allclose(found / found.sum(), expected / expected.sum(), atol=1e-6)  # float32 beside 100


def test_noise_of_the_background_is_no_light(tmp_path: Path) -> None:
    """Without a threshold the noise of 40000 voxels would hold half of the light."""
    light = spot((33, 35, 35), (3.0, 1.5, 1.5)) + np.random.default_rng(0).normal(0.1, 0.01, (33, 35, 35))
    found, _ = measured_point_spread(written(tmp_path / "bead.npy", light), None, WIDE)
    share = np.asarray(ndimage.center_of_mass(found)) - (np.array(found.shape) - 1) / 2
    assert np.abs(share).max() < 0.5
    inner = spot(found.shape, (3.0, 1.5, 1.5)) > 0.01
    assert found[inner].sum() > 0.95 * found.sum()


@pytest.mark.parametrize("size", [(0.1, 0.05, 0.05), (0.4, 0.2, 0.2), (0.2, 0.1, 0.1)])
def test_a_measured_psf_is_resampled_to_the_voxels_of_the_volumes(
    tmp_path: Path, size: tuple[float, float, float]
) -> None:
    """Half as large, twice as large and the same."""
    widths = np.array([1.2, 0.5, 0.5])
    own = tuple(widths / size)
    shape = tuple(2 * math.ceil(5 * width) + 1 for width in own)
    source = written(tmp_path / "bead.tif", spot(shape, own).astype(np.float32), size)
    found, note = measured_point_spread(source, (0.2, 0.1, 0.1), WIDE)
    same = size[0] == 0.2
    text = f", resampled from voxels of {size[0]:g} x {size[1]:g} x {size[2]:g} um to 0.2 x 0.1 x 0.1 um,"
    assert note == ("" if same else text)
    expected = spot(found.shape, tuple(widths / (0.2, 0.1, 0.1)))
    # Linear interpolation between samples that are 0.4 widths apart is off by 0.4^2 / 8 of the height, along each axis.
    tolerance = 1e-6 if same else 0.06 if size[0] == 0.4 else 1e-3
    np.testing.assert_allclose(found / found.max(), expected, atol=tolerance)


@pytest.mark.parametrize(
    ("light", "message"),
    [
        (np.full((5, 6, 7), 3.0), "expected a PSF that is brighter than its border, got a flat or a dark one"),
        (np.zeros((5, 6, 7)), "expected a PSF that is brighter than its border"),
        (5 - spot((9, 9, 9), (1, 1, 1)), "expected a PSF that is brighter than its border"),
        (np.where(spot((5, 5, 5), (1, 1, 1)) == 1, math.nan, 1.0), "expected a complete stack as PSF, got 1 gaps"),
        (np.where(spot((5, 5, 5), (1, 1, 1)) == 1, math.inf, 1.0), "expected a complete stack as PSF, got 1 gaps"),
        (spot((41, 21, 21), (8, 1, 1)), "expected a PSF of at most 8 x 40 x 32 voxels, the sizes of the smallest vol"),
    ],
)
def test_files_that_hold_no_psf_are_refused_in_one_line(tmp_path: Path, light: Any, message: str) -> None:
    source = written(tmp_path / "bead.npy", light)
    with pytest.raises(InputError, match=message) as caught:
        measured_point_spread(source, None, (8, 40, 32))
    assert str(caught.value).startswith(source)
    assert "\n" not in str(caught.value)


def test_several_stacks_gaps_and_two_spots_are_no_psf(tmp_path: Path) -> None:
    tensorcell.write(tmp_path / "two.tif", tensorcell.Volume(np.ones((2, 3, 5, 5), np.float32), axes="CZYX"))
    with pytest.raises(InputError, match="expected one stack as PSF, got 2"):
        measured_point_spread(str(tmp_path / "two.tif"), None, WIDE)
    light = spot((5, 5, 5), (1, 1, 1))
    tensorcell.write(tmp_path / "gaps.h5", tensorcell.Volume(light, mask=light < 1))
    with pytest.raises(InputError, match="expected a complete stack as PSF, got 1 gaps"):
        measured_point_spread(str(tmp_path / "gaps.h5"), None, WIDE)
    light = np.zeros((9, 9, 9))
    light[4, 4, 2] = light[4, 4, 6] = 1
    source = written(tmp_path / "pair.h5", light, (0.1, 0.1, 0.1))
    with pytest.raises(InputError, match="expected a PSF with light at its centre of mass, got none"):
        measured_point_spread(source, (0.4, 0.4, 0.4), WIDE)


def test_huge_numbers_and_even_sizes_are_a_psf_all_the_same(tmp_path: Path) -> None:
    light = 1.7e308 * spot((8, 8, 8), (1.0, 1.0, 1.0), (3, 4, 4))
    found, _ = measured_point_spread(written(tmp_path / "bead.npy", light), None, WIDE)
    kernel = PointSpread.of(found)
    assert all(size % 2 for size in kernel.shape)
    assert np.unravel_index(np.argmax(kernel.kernel), kernel.shape) == tuple(size // 2 for size in kernel.shape)


# ------------------------------------------------------------------------------------------------------- computed


@pytest.fixture
def optics() -> Any:
    pytest.importorskip("psf_generator", reason="needs the extra 'psf'")
    return vectorial_point_spread


def full_width(profile: Any, step: float) -> float:
    """Full width at half maximum of a symmetric profile."""
    half = profile[len(profile) // 2 :] / profile.max()
    after = int(np.argmax(half < 0.5))
    return float(2 * step * (after - 1 + (half[after - 1] - 0.5) / (half[after - 1] - half[after])))


@pytest.mark.parametrize(("aperture", "index"), [(0.3, 1.0), (0.5, 1.33), (0.8, 1.33), (1.05, 1.33), (1.2, 1.33)])
def test_the_computed_psf_is_as_wide_as_textbooks_say(optics: Any, aperture: float, index: float) -> None:
    """Full widths 0.51 lambda / NA and 0.88 lambda / (n - sqrt(n^2 - NA^2)): S. Wilhelm et al., Confocal laser scanning
    microscopy (Carl Zeiss, 2003), for one passage of the light. They hold for scalar waves: fields that point along z
    widen the PSF of large apertures."""
    lateral, axial = 0.51 * 0.52 / aperture, 0.88 * 0.52 / (index - math.sqrt(index**2 - aperture**2))
    spacing = axial / 16, lateral / 16, lateral / 16
    psf = optics((33, 33, 33), spacing, numerical_aperture=aperture, wavelength=0.52, refractive_index=index)
    kernel = psf.kernel
    assert kernel.sum() == pytest.approx(1, abs=1e-12)
    assert full_width(kernel[16, 16], spacing[2]) == pytest.approx(lateral, rel=0.1)
    assert full_width(kernel[16, :, 16], spacing[1]) == pytest.approx(lateral, rel=0.1)
    assert full_width(kernel[:, 16, 16], spacing[0]) == pytest.approx(axial, rel=0.1)
    for other in (kernel[::-1], kernel[:, ::-1], kernel[:, :, ::-1], kernel.transpose(0, 2, 1)):
        np.testing.assert_allclose(kernel, other, rtol=0, atol=1e-5 * kernel.max())  # the fields are float32


def test_the_computed_psf_agrees_with_the_integrals_of_richards_and_wolf(optics: Any) -> None:
    """Each integral by adaptive quadrature, at voxels on and off the axis."""
    aperture, wavelength, index, spacing = 1.05, 0.52, 1.33, (0.25, 0.1, 0.1)
    shape = (7, 11, 9)
    kernel = optics(shape, spacing, numerical_aperture=aperture, wavelength=wavelength, refractive_index=index).kernel
    wave = 2 * math.pi / wavelength * index

    def intensity(z: float, rho: float) -> float:
        total = 0.0
        for order, weight in ((0, 1), (1, 2), (2, 1)):
            for part in (math.cos, math.sin):

                def integrand(t: float, order: int = order, part: Any = part) -> float:
                    last = (1 + math.cos(t), math.sin(t), 1 - math.cos(t))[order]
                    bessel = special.jv(order, wave * rho * math.sin(t))
                    return float(math.sqrt(math.cos(t)) * math.sin(t) * last * bessel * part(wave * z * math.cos(t)))

                total += weight * integrate.quad(integrand, 0, math.asin(aperture / index), limit=200)[0] ** 2
        return total

    scale = kernel[3, 5, 4] / intensity(0, 0)
    for z, y, x in ((3, 5, 6), (3, 9, 1), (1, 5, 4), (0, 10, 8), (6, 2, 4)):
        distance = 0.1 * math.hypot(y - 5, x - 4)
        expected = scale * intensity(0.25 * (z - 3), distance)
        assert kernel[z, y, x] == pytest.approx(expected, rel=1e-3, abs=1e-5 * kernel.max())


def test_each_plane_of_a_widefield_psf_has_the_same_light(optics: Any) -> None:
    """In a field that holds the cone of the light."""
    kernel = optics((9, 97, 97), (0.5, 0.2, 0.2), numerical_aperture=0.8, wavelength=0.52, refractive_index=1.33).kernel
    light = kernel.sum(axis=(1, 2))
    np.testing.assert_allclose(light, light[4], rtol=0.02)


def test_one_plane_is_the_focus(optics: Any) -> None:
    numbers = {"numerical_aperture": 0.8, "wavelength": 0.52, "refractive_index": 1.33}
    stack, plane = (optics((depth, 15, 21), (0.5, 0.2, 0.2), **numbers).kernel for depth in (5, 1))
    focus = stack[2] / stack[2].sum()
    np.testing.assert_allclose(plane[0], focus, rtol=0, atol=1e-5 * focus.max())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"numerical_aperture": 1.4}, "numerical aperture above 0 and below the refractive index 1.33, got 1.4"),
        ({"numerical_aperture": 1.33}, "below the refractive index 1.33, got 1.33"),
        ({"numerical_aperture": 0.0}, "numerical aperture above 0"),
        ({"numerical_aperture": math.nan}, "numerical aperture above 0 and below the refractive index 1.33, got nan"),
        ({"wavelength": 0.0}, "expected a wavelength from 0.1 to 3 micrometres, got 0"),
        ({"wavelength": math.nan}, "expected a wavelength from 0.1 to 3 micrometres, got nan"),
        ({"wavelength": 520.0}, "expected a wavelength from 0.1 to 3 micrometres, got 520"),
        ({"refractive_index": math.inf}, "expected a finite refractive index of at least 1, got inf"),
        ({"refractive_index": 0.9}, "expected a finite refractive index of at least 1, got 0.9"),
        ({"shape": (3, 4, 5)}, "expected three odd sizes of a PSF"),
        ({"spacing": (0.2, 0.1, 0.12)}, "expected pixels as high as wide for a computed PSF, got 0.1 x 0.12 um"),
        ({"spacing": (0.2, math.nan, 0.1)}, "expected a voxel size of three finite lengths above 0"),
        ({"spacing": (0.2, 0.3, 0.3)}, r"expected voxels of at most 1.01 x 0.248 x 0.248 um \(z, y, x\), which"),
        ({"spacing": (1.2, 0.2, 0.2)}, "which resolve the PSF, got 1.2 x 0.2 x 0.2"),
    ],
)
def test_optics_that_no_objective_has_are_refused(change: dict[str, Any], message: str) -> None:
    numbers = {"numerical_aperture": 1.05, "wavelength": 0.52, "refractive_index": 1.33}
    given = {"shape": (3, 5, 5), "spacing": (0.2, 0.1, 0.1), **numbers, **change}
    with pytest.raises(ValueError, match=message):
        vectorial_point_spread(given.pop("shape"), given.pop("spacing"), **given)


# ------------------------------------------------------------------------------------------------ the command line

VECTORIAL = ("--psf-model", "vectorial", "--na", "1.05", "--wavelength", "0.52", "--refractive-index", "1.33")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run ``tensorcell train`` beside a stack with a voxel size and one without: exit status and stderr."""
    monkeypatch.setattr(stages, "PIECE", (4, 16, 16))
    monkeypatch.setattr(stages, "VAE_WIDTHS", {"tiny": 8})
    monkeypatch.setattr(stages, "SAMPLING", Sampling(samples=1, steps=1))
    monkeypatch.setattr(stages, "EXAMPLES", 2)
    cells = (300 * simulate_cells((8, 32, 32), cells=8, seed=0).truth).astype(np.uint16)
    written(tmp_path / "stack.tif", cells, (0.4, 0.2, 0.2))
    np.save(tmp_path / "bare.npy", cells)
    np.save(tmp_path / "low.npy", cells[::2])

    def call(*arguments: str) -> tuple[int, str]:
        status = command_line.call(monkeypatch, tmp_path, "train", *arguments)
        return status, capsys.readouterr().err

    return call


def test_networks_are_fitted_with_a_measured_psf_and_restore_with_it(run: Any, tmp_path: Path) -> None:
    written(tmp_path / "bead.tif", spot((13, 31, 31), (0.7, 1.6, 1.6)).astype(np.float32), (0.4, 0.1, 0.1))
    status, err = run(
        "stack.tif", "--kind", "microdiffuse3d", "--stage", "pretrain", "--steps", "1", "--axial-factor", "2",
        "--psf", "bead.tif", "--out", "model",
    )  # fmt: skip
    assert status == 0, err
    said = "model: the PSF of bead.tif, resampled from voxels of 0.4 x 0.1 x 0.1 um to 0.4 x 0.2 x 0.2 um, has 7 x 7 x"
    assert said in err
    kernel = load_model(tmp_path / "model").acquisition.kernel
    assert kernel is not None
    assert kernel.shape == (7, 7, 7)
    found = restore_scan(
        np.load(tmp_path / "low.npy").astype(np.float32), load_model(tmp_path / "model"), Sampling(samples=1, steps=1)
    )
    assert found.volume.shape == (7, 32, 32)
    status, err = run(
        "stack.tif", "--kind", "microdiffuse3d", "--stage", "finetune", "--weights", "model", "--steps", "1",
        "--out", "tuned", "--quiet",
    )  # fmt: skip
    assert (status, err) == (0, "")
    assert load_model(tmp_path / "tuned").acquisition == load_model(tmp_path / "model").acquisition


def test_a_psf_that_is_stated_is_not_fitted_to_pairs(run: Any, tmp_path: Path) -> None:
    written(tmp_path / "bead.tif", spot((5, 9, 9), (0.6, 1.0, 1.0)).astype(np.float32), (0.4, 0.2, 0.2))
    status, err = run(
        "stack.tif", "--low", "low.npy", "--kind", "srcnn", "--steps", "1", "--psf", "bead.tif", "--out", "net"
    )
    assert status == 0, err
    assert "the pairs differ by a PSF" not in err
    assert "net: the PSF of bead.tif has 5 x" in err
    fitted = load_baseline(tmp_path / "net").acquisition
    assert fitted.axial_factor == 2
    assert fitted.kernel is not None


def test_networks_are_fitted_with_a_computed_psf(run: Any, tmp_path: Path, optics: Any) -> None:
    status, err = run("stack.tif", "--kind", "srcnn", "--steps", "1", *VECTORIAL, "--out", "net")
    assert status == 0, err
    said = "net: the PSF, computed for NA 1.05, 0.52 um and the refractive index 1.33, has 7 x 31 x 31 voxels"
    assert said in err
    expected = optics((7, 31, 31), (0.4, 0.2, 0.2), numerical_aperture=1.05, wavelength=0.52, refractive_index=1.33)
    assert load_baseline(tmp_path / "net").acquisition.kernel == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--psf", "none.tif"), "none.tif: no such file"),
        (
            ("--psf", "bare.npy", "--psf-fwhm", "1,1,1"),
            "expected one of --psf, --psf-model and --psf-fwhm, got --psf a",
        ),
        (("--psf", "bare.npy", *VECTORIAL), "expected one of --psf, --psf-model and --psf-fwhm, got --psf and --psf-m"),
        (("--psf", "bare.npy", "--widening", "0.5"), "expected no --widening with --psf, whose PSF is the same at all"),
        (("--na", "0.8"), "expected --psf-model vectorial with --na, got none"),
        (("--psf-model", "scalar"), "expected --psf-model vectorial, got 'scalar'"),
        (
            ("--psf-model", "vectorial", "--na", "1"),
            "expected --wavelength, --refractive-index for --psf-model vectoria",
        ),
    ],
)
def test_flags_of_the_psf_that_contradict_are_one_line(
    run: Any, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    before = sorted(path.name for path in tmp_path.iterdir())
    status, err = run("stack.tif", "--kind", "srcnn", "--steps", "1", "--out", "net", *arguments)
    assert (status, err.count("\n")) == (2, 1)
    assert message in err
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_optics_that_cannot_be_are_one_line(run: Any, optics: Any) -> None:
    common = ("--kind", "srcnn", "--steps", "1", "--out", "net")
    status, err = run("stack.tif", *common, *VECTORIAL[:3], "1.5", *VECTORIAL[4:])
    assert (status, err.count("\n")) == (2, 1)
    assert "expected a numerical aperture above 0 and below the refractive index 1.33, got 1.5" in err
    status, err = run("bare.npy", *common, *VECTORIAL)
    assert (status, err.count("\n")) == (2, 1)
    assert "expected volumes that state their voxel size for --psf-model vectorial, got none" in err


def test_a_library_that_is_missing_is_one_line(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psf_generator", None)
    status, err = run("stack.tif", "--kind", "srcnn", "--steps", "1", "--out", "net", *VECTORIAL)
    assert (status, err.count("\n")) == (2, 1)
    assert 'expected psf-generator for --psf-model (pip install "tensorcell[psf]"), found none' in err


def test_a_resumed_fit_needs_the_same_psf(tmp_path: Path) -> None:
    request = network_training.ModelRequest(sources=("stack.tif",), out=tmp_path / "net", psf="bead.tif")
    other = replace(request, psf=None, psf_model="vectorial", na=0.8, wavelength=0.5, refractive_index=1.33)
    names = ("psf", "psf_model", "na", "wavelength", "refractive_index")
    assert [request.kept()[name] for name in names] == ["bead.tif", None, None, None, None]
    assert [other.kept()[name] for name in names] == [None, "vectorial", 0.8, 0.5, 1.33]
