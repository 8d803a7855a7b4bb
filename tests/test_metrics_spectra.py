"""Spectra and sharpness against full transforms summed voxel by voxel, and against statistics of white noise."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.ndimage

from tensorcell import Volume
from tensorcell.errors import InputError
from tensorcell.metrics import (
    fourier_ring_correlation,
    fourier_shell_correlation,
    hf_spectral_error,
    laplacian_variance,
)
from tensorcell.metrics.spectra import first_crossing

# Sums in another order differ by rounding only.
ROUNDING = 1e-12
# Transforms of some thousand values, of which single coefficients are small.
TRANSFORM = 1e-9


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    reference = scipy.ndimage.gaussian_filter(rng.standard_normal((9, 16, 13)), 0.7) + 5
    return reference, reference + 0.1 * rng.standard_normal(reference.shape)


def brute_force_shells(shape: tuple[int, ...], steps: tuple[float, ...], limit: float) -> tuple[np.ndarray, np.ndarray]:
    """Shell of each coefficient of a full transform (0 = none) and the radii."""
    thickness = max(1 / (n * step) for n, step in zip(shape, steps, strict=True))
    numbers = np.zeros(shape, int)
    for where in np.ndindex(*shape):
        f = [(k if k < (n + 1) // 2 else k - n) / (n * s) for k, n, s in zip(where, shape, steps, strict=True)]
        numbers[where] = round(math.hypot(*f) / thickness)
    last = math.floor(limit / thickness + 1e-9)
    return np.where(numbers > last, 0, numbers), thickness * np.arange(1, last + 1)


def tapered(values: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    values = values - values.mean(axis=axes, keepdims=True)
    for axis in axes:
        n = values.shape[axis]
        window = 0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(n) + 0.5) / n)  # Hann, centred in its voxels
        values = np.moveaxis(np.moveaxis(values, axis, -1) * window, -1, axis)
    return values - values.mean(axis=axes, keepdims=True)


# ----------------------------------------------------------------------------------------- hf_spectral_error


@pytest.mark.parametrize("taper", [True, False])
@pytest.mark.parametrize("band", [0.0, 0.5, 0.75])
def test_hf_spectral_error_by_brute_force(pair: tuple[np.ndarray, np.ndarray], band: float, taper: bool) -> None:
    shape = pair[0].shape
    numbers, radii = brute_force_shells(shape, (0.5,) * 3, 1.0)
    powers = [np.abs(np.fft.fftn(tapered(x, (0, 1, 2)) if taper else x - x.mean())) ** 2 for x in pair]
    curves = np.array([[p[numbers == k + 1].mean() for k in range(len(radii))] for p in powers])
    high = radii > band
    expected = np.abs(curves[1] - curves[0])[high].sum() / curves[0][high].sum()
    score = hf_spectral_error(*pair, band=band, taper=taper)
    assert score == pytest.approx(expected, rel=TRANSFORM)
    inside = np.isin(numbers, 1 + np.flatnonzero(high))
    shares = [p[inside].sum() / p.sum() for p in powers]
    assert [score.reference_share, score.estimate_share] == pytest.approx(shares, rel=TRANSFORM)


def test_lost_detail_gives_1_and_a_factor_its_square(pair: tuple[np.ndarray, np.ndarray]) -> None:
    reference, _ = pair
    assert hf_spectral_error(reference, reference) == 0
    assert hf_spectral_error(reference, np.full_like(reference, 3)) == pytest.approx(1, rel=ROUNDING)
    assert hf_spectral_error(reference, 3 * reference) == pytest.approx(8, rel=TRANSFORM)
    assert hf_spectral_error(reference, reference + 100) == pytest.approx(0, abs=TRANSFORM)
    assert hf_spectral_error(reference, 3 * reference).estimate_share == pytest.approx(
        hf_spectral_error(reference, reference).reference_share, rel=TRANSFORM
    )


def test_a_wave_along_z_is_seen_along_z_alone() -> None:
    """A wave at 3/4 of the Nyquist frequency along z: all of the band along z, none of it within planes."""
    z = np.arange(32)
    wave = np.cos(2 * np.pi * 0.375 * z)[:, None, None] * np.ones((1, 16, 16))
    slow = np.cos(2 * np.pi * 2 * np.arange(16) / 16)[None, None] * np.ones((32, 16, 1))
    along = hf_spectral_error(wave + slow, slow, axes=0, taper=False)
    assert along == pytest.approx(1, rel=TRANSFORM)
    assert along.reference_share == pytest.approx(1, rel=TRANSFORM)
    within = hf_spectral_error(wave + slow + _checks(16), slow + _checks(16), axes=(1, 2), taper=False)
    assert within == pytest.approx(0, abs=TRANSFORM)


def _checks(side: int) -> np.ndarray:
    """Columns of alternating sign: power at the Nyquist frequency along x."""
    return np.ones((1, side, 1)) * (-1.0) ** np.arange(side)


def test_axes_are_averaged_over_and_slabs_do_not_matter(
    pair: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = {axes: float(hf_spectral_error(*pair, axes=axes)) for axes in (None, 0, 1, (1, 2), (0, 2))}
    rows = [np.abs(np.fft.fft(tapered(x, (0,)), axis=0)) ** 2 for x in pair]
    p = np.array([r.mean(axis=(1, 2)) for r in rows])  # 9 planes: frequencies 2k/9 of Nyquist, k = 3, 4 above .5
    assert whole[0] == pytest.approx(np.abs(p[1] - p[0])[3:5].sum() / p[0][3:5].sum(), rel=TRANSFORM)
    monkeypatch.setattr("tensorcell.metrics.slabs.SLAB_VOXELS", 64)
    for axes, value in whole.items():
        assert hf_spectral_error(*pair, axes=axes) == pytest.approx(value, rel=TRANSFORM)
    assert hf_spectral_error(*pair, axes=[-1, 1]) == pytest.approx(whole[(1, 2)], rel=ROUNDING)


def test_hf_spectral_error_refuses_what_it_cannot_answer(pair: tuple[np.ndarray, np.ndarray]) -> None:
    r, e = pair
    for band in (-0.1, 1.0, "high"):
        with pytest.raises(InputError, match=f"band is {band}, expected a share"):
            hf_spectral_error(r, e, band=band)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="axes is 3, expected some of the 3 axes 0 to 2"):
        hf_spectral_error(r, e, axes=3)
    with pytest.raises(InputError, match=r"axes is \(0, -3\), expected each axis once"):
        hf_spectral_error(r, e, axes=(0, -3))
    with pytest.raises(InputError, match=r"no shell lies above 0.5 .* along axes \(0,\) of shape \(1, 16, 13\)"):
        hf_spectral_error(r[:1], e[:1], axes=0)
    with pytest.raises(InputError, match=r"reference has no power above 0\.5"):
        hf_spectral_error(np.ones((8, 8, 8)), np.ones((8, 8, 8)))
    with pytest.raises(InputError, match="estimate has 1 NaN"):
        hf_spectral_error(r, np.where(e == e.max(), np.nan, e))


# --------------------------------------------------------------------------------------- Fourier correlations


@pytest.mark.parametrize("columns", [13, 12])  # odd, and even: then the Nyquist frequency has no mirror image
@pytest.mark.parametrize("taper", [True, False])
def test_shell_correlation_by_brute_force(pair: tuple[np.ndarray, np.ndarray], taper: bool, columns: int) -> None:
    pair = pair[0][..., :columns], pair[1][..., :columns]
    steps = (0.5, 0.2, 0.25)
    result = fourier_shell_correlation(*pair, spacing=steps, taper=taper)
    numbers, radii = brute_force_shells(pair[0].shape, steps, 0.5 / 0.2)
    f1, f2 = (np.fft.fftn(tapered(x, (0, 1, 2)) if taper else x - x.mean()) for x in pair)
    np.testing.assert_allclose(result.frequency, radii, rtol=ROUNDING)
    for k in range(len(radii)):
        shell = numbers == k + 1
        expected = np.vdot(f1[shell], f2[shell]).real / (np.linalg.norm(f1[shell]) * np.linalg.norm(f2[shell]))
        assert result.correlation[k] == pytest.approx(expected, rel=TRANSFORM)
        assert result.coefficients[k] == shell.sum()


def test_ring_correlation_sums_over_the_planes(pair: tuple[np.ndarray, np.ndarray]) -> None:
    result = fourier_ring_correlation(*pair, spacing=0.1)
    numbers, radii = brute_force_shells(pair[0].shape[1:], (0.1, 0.1), 5)
    f1, f2 = (np.fft.fft2(tapered(x, (1, 2))) for x in pair)
    for k in range(len(radii)):
        a, b = f1[:, numbers == k + 1], f2[:, numbers == k + 1]
        expected = np.vdot(a, b).real / (np.linalg.norm(a) * np.linalg.norm(b))
        assert result.correlation[k] == pytest.approx(expected, rel=TRANSFORM)
    turned = fourier_ring_correlation(*(np.moveaxis(x, 0, 1) for x in pair), spacing=0.1, axis=1)
    np.testing.assert_allclose(turned.correlation, result.correlation, rtol=TRANSFORM)
    single = fourier_ring_correlation(pair[0][3], pair[1][3], spacing=0.1)
    assert single.frequency[-1] == pytest.approx(result.frequency[-1])
    # The section along z of one row has the spacing of z and x.
    section = fourier_ring_correlation(*pair, spacing=(0.5, 0.2, 0.1), axis=1)
    assert section.frequency[0] == pytest.approx(1 / (13 * 0.1))


def test_shell_correlation_of_white_signal_and_noise_is_the_share_of_the_signal() -> None:
    """E FSC = S / (S + N) for recordings of one signal with independent noise; here 1 / (1 + .5^2) = .8."""
    rng = np.random.default_rng(2)
    signal = rng.standard_normal((32, 32, 32))
    first, second = (signal + 0.5 * rng.standard_normal(signal.shape) for _ in range(2))
    result = fourier_shell_correlation(first, second, taper=False)
    # Sample correlations scatter by (1 - .8^2) / sqrt(n), n half the coefficients (they come in conjugate pairs).
    scatter = (1 - 0.8**2) / np.sqrt(result.coefficients / 2)
    assert np.all(np.abs(result.correlation - 0.8) < 5 * scatter)
    assert result.limited_by_sampling
    assert result.resolution == 2


def test_resolution_is_where_the_common_detail_ends() -> None:
    """A signal up to .2 cycles a voxel and noise everywhere: 1 / .2 voxels, to within a shell of 1/64."""
    rng = np.random.default_rng(3)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(64), np.fft.fftfreq(64), indexing="ij"))
    signal = np.fft.ifft2(np.fft.fft2(rng.standard_normal((64, 64))) * (frequency <= 0.2)).real
    first, second = (signal + 0.05 * rng.standard_normal(signal.shape) for _ in range(2))
    result = fourier_ring_correlation(first, second, spacing=0.3, taper=False)
    assert 1 / result.resolution == pytest.approx(0.2 / 0.3, abs=1 / (64 * 0.3))
    assert not result.limited_by_sampling
    noise = fourier_ring_correlation(*rng.standard_normal((2, 64, 64)), threshold=0.9)
    assert noise.resolution == math.inf


def test_crossing_is_interpolated() -> None:
    frequency = np.array([0.1, 0.2, 0.3, 0.4])
    # Between .2 (.5) and .3 (.1): a level of .2 is 3/4 of the way.
    crossing = first_crossing(frequency, np.array([0.9, 0.5, 0.1, 0.8]), 0.2)
    assert crossing == pytest.approx(0.275, rel=ROUNDING)
    assert first_crossing(frequency, np.array([0.9, np.nan, 0.1, 0.8]), 0.5) == pytest.approx(0.2, rel=ROUNDING)
    assert first_crossing(frequency, np.array([0.9, 0.8, 0.7, 0.6]), 0.5) is None


def test_correlation_does_not_see_scale_and_shift_and_is_symmetric(pair: tuple[np.ndarray, np.ndarray]) -> None:
    expected = fourier_shell_correlation(*pair).correlation
    np.testing.assert_allclose(
        fourier_shell_correlation(7 * pair[0] + 3, pair[1]).correlation, expected, rtol=TRANSFORM
    )
    np.testing.assert_allclose(fourier_shell_correlation(*pair[::-1]).correlation, expected, rtol=TRANSFORM)


def test_spacing_comes_from_the_volume(pair: tuple[np.ndarray, np.ndarray]) -> None:
    spacing = (0.5, 0.1, 0.2)
    expected = fourier_shell_correlation(*pair, spacing=spacing)
    assert fourier_shell_correlation(pair[0], Volume(pair[1], spacing=spacing)).resolution == expected.resolution
    turned = Volume(np.moveaxis(pair[0], 0, 2), axes="YXZ", spacing=spacing)
    got = fourier_shell_correlation(turned, np.moveaxis(pair[1], 0, 2))
    np.testing.assert_allclose(got.frequency, expected.frequency, rtol=ROUNDING)
    np.testing.assert_allclose(got.correlation, expected.correlation, rtol=TRANSFORM)


def test_a_shell_without_power_has_no_correlation() -> None:
    z = np.arange(16)
    wave = np.cos(2 * np.pi * 2 * z / 16)[:, None] * np.ones((1, 16))
    result = fourier_shell_correlation(wave, wave, taper=False)
    assert result.correlation[1] == pytest.approx(1)
    assert result.limited_by_sampling


@pytest.mark.parametrize("correlation", [fourier_ring_correlation, fourier_shell_correlation])
def test_fourier_correlations_refuse_bad_input(correlation: Any, pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = pair
    with pytest.raises(InputError, match=r"second has shape \(8, 16, 13\), first has shape \(9, 16, 13\)"):
        correlation(a, b[1:])
    with pytest.raises(InputError, match="first is constant over the scored voxels, the Fourier correlation expects"):
        correlation(np.ones_like(a), b)
    for wrong in (0, 1.0, "1/7"):
        with pytest.raises(InputError, match=f"threshold is {wrong}, expected a number between 0 and 1"):
            correlation(a, b, threshold=wrong)
    with pytest.raises(InputError, match=r"spacing is \(1, 2\), expected 3 positive numbers, or one"):
        correlation(a, b, spacing=(1, 2))
    with pytest.raises(InputError, match="spacing is 0, expected 3 positive"):
        correlation(a, b, spacing=0)
    with pytest.raises(InputError, match="second has 1 NaN"):
        correlation(a, np.where(b == b.max(), np.nan, b))


def test_rings_need_a_plane_or_a_stack() -> None:
    a = np.random.default_rng(4).random((2, 3, 8, 8))
    with pytest.raises(InputError, match="data has 4 axes, expected a plane"):
        fourier_ring_correlation(a, a)
    with pytest.raises(InputError, match=r"shape \(8, 1, 1\) has one voxel along axes \(1, 2\), expected longer"):
        fourier_ring_correlation(a[0, 0, :, :1, None], a[0, 0, :, :1, None])


# ----------------------------------------------------------------------------------------- laplacian_variance


def test_laplacian_variance_by_hand() -> None:
    # f = x^2 + 3 y^2 has the Laplacian 2 + 6 everywhere; one voxel raised by 1 adds -4 there and 1 at 4 neighbours.
    y, x = np.indices((7, 9)).astype(float)
    image = x**2 + 3 * y**2
    assert laplacian_variance(image) == 0
    image[3, 4] += 1
    changed = np.array([-4.0, 1, 1, 1, 1] + [0] * (5 * 7 - 5))
    assert laplacian_variance(image) == pytest.approx(changed.var(), rel=ROUNDING)


@pytest.mark.parametrize("axes", [None, 0, (0, 1, 2), (0, 2)])
def test_laplacian_variance_equals_scipy(pair: tuple[np.ndarray, np.ndarray], axes: Any) -> None:
    volume, _ = pair
    along = (1, 2) if axes is None else (axes,) if isinstance(axes, int) else axes
    full = sum(scipy.ndimage.correlate1d(volume, [1.0, -2.0, 1.0], axis=a) for a in along)
    inner = tuple(slice(1, -1) if a in along else slice(None) for a in range(3))
    assert laplacian_variance(volume, axes=axes) == pytest.approx(full[inner].var(), rel=1e-9)


def test_laplacian_variance_of_white_noise() -> None:
    """The stencil 1, 1, -4, 1, 1 turns variance 1 into 20."""
    noise = np.random.default_rng(5).standard_normal((8, 200, 200))
    # Neighbouring Laplacians are correlated: a scatter of about 20 sqrt(2 * 2 / 320000).
    assert laplacian_variance(noise) == pytest.approx(20, rel=0.02)


def test_laplacian_variance_with_masks_axes_slabs_and_volumes(
    pair: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    volume, _ = pair
    mask = np.random.default_rng(6).random(volume.shape) < 0.9
    stencil = np.zeros((3, 3, 3), bool)
    stencil[1, 1] = stencil[1, :, 1] = True
    whole = scipy.ndimage.binary_erosion(mask, stencil)[:, 1:-1, 1:-1]
    full = sum(scipy.ndimage.correlate1d(volume, [1.0, -2.0, 1.0], axis=a) for a in (1, 2))[:, 1:-1, 1:-1]
    expected = full[whole].var()
    garbage = np.where(mask, volume, np.nan)
    assert laplacian_variance(garbage, mask=mask) == pytest.approx(expected, rel=1e-9)
    turned = Volume(np.moveaxis(garbage, 0, 2), axes="YXZ")
    assert laplacian_variance(turned, mask=np.moveaxis(mask, 0, 2)) == pytest.approx(expected, rel=1e-9)
    deep = laplacian_variance(volume, axes=(0, 1, 2))
    monkeypatch.setattr("tensorcell.metrics.slabs.SLAB_VOXELS", 2 * volume[0].size)
    assert laplacian_variance(garbage, mask=mask) == pytest.approx(expected, rel=1e-9)
    assert laplacian_variance(volume, axes=(0, 1, 2)) == pytest.approx(deep, rel=ROUNDING)
    small = np.array([[0, 255, 0], [255, 0, 255], [0, 255, 0], [255, 255, 0]], np.uint8)
    assert laplacian_variance(small) == laplacian_variance(small.astype(float))


def test_laplacian_variance_refuses_bad_input(pair: tuple[np.ndarray, np.ndarray]) -> None:
    volume, _ = pair
    with pytest.raises(
        InputError, match=r"volume has shape \(2, 16, 13\), expected at least 3 voxels along axes \(0,\)"
    ):
        laplacian_variance(volume[:2], axes=0)
    spoiled = volume.copy()
    spoiled[0, 1, 5] = np.nan  # in the stencils of itself, both sides and the voxel below: that above has none
    with pytest.raises(InputError, match="volume has 4 NaN or infinite values among the second differences"):
        laplacian_variance(spoiled)
    mask = np.zeros(volume.shape, bool)
    mask[:, ::2] = True
    with pytest.raises(InputError, match="mask leaves no voxel with all its neighbours"):
        laplacian_variance(volume, mask=mask)
    with pytest.raises(InputError, match="axes is 5, expected some"):
        laplacian_variance(volume, axes=5)
