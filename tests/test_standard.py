"""Scale and offset: the same result whatever the unit of the data, and whatever is added to them."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import waves

import tensorcell as tc
from tensorcell.recovered import Recovery
from tensorcell.solvers import NoiseModel, RankEstimate, Unit
from tensorcell.stack import given_stack
from tensorcell.standard import check_representable, intensities, standardised, uncertainties, unit_of

OFFSETS = (1e4, 1e7, 1e9)


@functools.cache
def stack(share: float = 0.6) -> np.ndarray:
    """Waves of about 10 with noise, negative values and a wrong voxel, NaN where nothing was measured."""
    _, noisy, mask = waves(share, planes=8)
    noisy = noisy[:, :24, :24] - 6  # about a true zero, as counts above the dark level are
    noisy[3, 7, 9] = 60
    mask = mask[:, :24, :24].copy()
    mask[3, 7, 9] = True
    found: np.ndarray = np.where(mask, noisy, np.nan)
    return found


@functools.cache
def recovered(method: str, dtype: Any, scale: float = 1.0, offset: float = 0.0) -> Recovery:
    """The stack in another unit, recovered."""
    return tc.recover((stack() * scale + offset).astype(dtype), method=method)


def distance(found: Recovery, expected: Recovery, scale: float, offset: float = 0.0) -> float:
    """Largest difference of the values, in the unit of the expected ones and relative to their range."""
    back = (found.volume.data.astype(np.float64) - offset) / scale
    return float(np.abs(back - expected.volume.data).max() / np.ptp(expected.volume.data))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("method", "scale"),
    [("tucker", 1e-30), ("tucker", 1e-12), ("tucker", 1e12), ("tucker", 1e30), ("local", 1e-30), ("local", 1e30)],
)
def test_recover_gives_the_same_in_every_unit(method: str, dtype: Any, scale: float) -> None:
    expected, found = recovered(method, dtype), recovered(method, dtype, scale)
    # Rounding of the data moves a Tucker fit by as much; groups of patches may swap a patch for an equal one.
    assert distance(found, expected, scale) < (1e-5 if method == "tucker" else 0.02)
    ratio = found.uncertainty.astype(np.float64) / scale / expected.uncertainty
    assert np.median(ratio) == pytest.approx(1, rel=1e-3)
    if method == "tucker":
        np.testing.assert_allclose(ratio, 1, rtol=1e-3)
    np.testing.assert_array_equal(found.outliers != 0, expected.outliers != 0)
    assert found.outliers[3, 7, 9] / scale == pytest.approx(expected.outliers[3, 7, 9], rel=1e-3)
    assert found.rank == expected.rank
    assert found.noise / scale == pytest.approx(expected.noise, rel=1e-4)
    thresholds = [[record.threshold for record in run.history] for run in (found, expected)]
    assert np.array(thresholds[0]) / scale == pytest.approx(np.array(thresholds[1]), rel=1e-3)
    measured = expected.measured & (expected.outliers == 0)
    np.testing.assert_array_equal(found.volume.data[measured], (stack() * scale).astype(dtype)[measured])


@settings(max_examples=3, deadline=None)
@given(low=st.integers(-300, -20), high=st.integers(20, 300))
def test_units_of_powers_of_four_give_the_same_bits(low: int, high: int) -> None:
    found = [recovered("tucker", np.float64, 4.0**exponent) for exponent in (low, high)]
    values, errors = ([r / 4.0**e for r, e in zip(part, (low, high), strict=True)] for part in zip(
        *((run.volume.data, run.uncertainty) for run in found), strict=True
    ))  # fmt: skip
    np.testing.assert_array_equal(*values)
    np.testing.assert_array_equal(*errors)


@pytest.mark.parametrize("offset", OFFSETS)
def test_recover_gives_the_same_on_every_offset(offset: float) -> None:
    expected, found = recovered("tucker", np.float64), recovered("tucker", np.float64, 1.0, offset)
    # The dark end of the data is put at zero, which moves it by a few per cent of the range; a low-rank model of
    # moderate rank holds a constant besides the structure.
    assert distance(found, expected, 1.0, offset) < 0.05
    assert np.median(found.uncertainty / expected.uncertainty) == pytest.approx(1, rel=0.05)
    np.testing.assert_array_equal(found.outliers != 0, expected.outliers != 0)
    assert found.noise == pytest.approx(expected.noise, rel=0.02)
    measured = expected.measured & (expected.outliers == 0)
    np.testing.assert_array_equal(found.volume.data[measured], (stack() + offset)[measured])
    assert any("offset" in note for note in found.notes)
    first = recovered("tucker", np.float64, 1.0, OFFSETS[0])
    # Between offsets nothing but the rounding of the data differs: 1e-16 of 1e9 is 1e-7 of a range of 15.
    assert np.abs((found.volume.data - offset) - (first.volume.data - OFFSETS[0])).max() < 1e-4


def test_integers_of_64_bits_lose_no_digit_to_an_offset() -> None:
    counts = np.round(np.nan_to_num(20 * stack(1.0) + 200)).astype(np.int64)
    expected = given_stack(counts + 10**4, None)
    for dtype, offset in (
        (np.int64, 10**18),
        (np.uint64, 2**63 + 10**6),
        (np.int64, -(10**18)),
        (np.uint32, 4 * 10**9),
    ):
        found = given_stack(counts.astype(dtype) + dtype(offset), None)
        off = (counts + 0.0) - found.values  # a constant, since the offset is one
        np.testing.assert_array_equal(off, off[0, 0, 0])
        assert (found.highest - found.lowest, found.values.dtype) == (np.ptp(counts), np.float64)
        assert expected.unit.scale == found.unit.scale == 1


def test_a_constraint_on_signs_is_kept_beside_an_offset() -> None:
    data = np.where(np.isnan(stack()), np.nan, np.abs(stack())) + 1e7
    free, bound = (tc.recover(data, method="tucker", nonnegative=sign) for sign in ("auto", True))
    np.testing.assert_array_equal(free.volume.data, bound.volume.data)
    with pytest.raises(tc.InputError, match="nonnegative=True, but measured values go down to -1"):
        tc.recover(-data, nonnegative=True)


def test_rounding_beside_an_offset_is_part_of_the_uncertainty() -> None:
    """A float32 of 1e7 is a whole number, so that no error is smaller than that of rounding to one."""
    unit = Unit(scale=1.0, offset=1e7)
    np.testing.assert_allclose(uncertainties(np.zeros(3, np.float32), unit), 1 / math.sqrt(12), rtol=1e-6)
    np.testing.assert_allclose(uncertainties(np.full(3, 2.0), unit), 2.0)
    result = tc.recover((np.nan_to_num(stack(1.0)) + 1e7).astype(np.float32), method="tucker")
    assert result.uncertainty.min() >= 0.28
    assert np.isfinite(result.volume.data).all()


@pytest.mark.parametrize(("scale", "offset"), [(1e-30, 0.0), (1e30, 0.0), (1e200, 0.0), (1e-300, 0.0), (1.0, 1e7)])
def test_diagnose_gives_the_same_in_every_unit(scale: float, offset: float) -> None:
    expected, found = tc.diagnose(stack()), tc.diagnose(stack() * scale + offset)
    assert (found.verdict, found.axial_verdict) == (expected.verdict, expected.axial_verdict)
    assert found.outliers == expected.outliers
    assert found.noise_sigma / scale == pytest.approx(expected.noise_sigma, rel=0.02 if offset else 1e-6)
    told = f"standard deviation is {expected.noise_sigma * scale:.3g}"[:-5]
    assert told in found.obtained["noise_sigma"]
    if not offset:
        assert found.rank == expected.rank
        assert found.explained == pytest.approx(expected.explained, rel=1e-4)
        assert found.coherence.mu == pytest.approx(expected.coherence.mu, rel=1e-3)
        spectra = [np.concatenate(report.spectra) for report in (found, expected)]
        np.testing.assert_allclose(spectra[0] / scale, spectra[1], rtol=1e-3)


def test_the_noise_given_and_the_noise_told_are_in_the_users_unit() -> None:
    whole = np.nan_to_num(stack(1.0))
    expected, found = (
        tc.recover(whole * scale, method="local", noise=0.3 * scale, rank=(2, 3, 3)) for scale in (1, 1e-30)
    )
    assert distance(found, expected, 1e-30) < 1e-3
    assert found.noise == pytest.approx(3e-31)
    assert any("the standard deviation of their noise was 3e-31" in note for note in found.notes)
    assert tc.diagnose(whole * 1e-30, noise=3e-31).noise_sigma == pytest.approx(3e-31)


def test_callbacks_are_given_thresholds_in_the_users_unit() -> None:
    seen: list[float] = []
    tc.recover(stack() * 1e-30, method="tucker", rank=2, callback=lambda record, _: seen.append(record.threshold))
    assert 0 < max(seen) < 1e-27


def test_a_plan_predicts_the_same_in_every_unit() -> None:
    pilot = np.nan_to_num(stack(1.0), nan=0.0)[:7]
    expected, found = (tc.plan(pilot * scale, axial_factors=(2,), exposure_factors=(0.5,)) for scale in (1, 1e-30))
    assert found.choices[0].psnr == pytest.approx(expected.choices[0].psnr, abs=0.01)
    assert found.choices[0].nrmse == pytest.approx(expected.choices[0].nrmse, rel=1e-3)
    assert found.data_range * 1e30 == pytest.approx(expected.data_range)
    assert found.noise.sigma * 1e30 == pytest.approx(expected.noise.sigma, rel=1e-4)


def test_ordinary_stacks_keep_their_unit_and_are_not_copied() -> None:
    everywhere = np.ones((4, 5, 6), bool)
    for data in (np.linspace(-3, 1000, 120), np.linspace(100, 110, 120), np.linspace(0, 0.01, 120)):
        values = data.reshape(4, 5, 6).astype(np.float32)
        unit = unit_of(values, everywhere, float(values.min()), float(values.max()))
        assert unit.same
        assert standardised(values, everywhere, unit, np.float32) is values
        assert intensities(values, unit) is values


@settings(max_examples=40, deadline=None)
@given(exponent=st.integers(-1020, 970), offset=st.sampled_from([0.0, 100.0, -1e6, 1e12]), seed=st.integers(0, 3))
def test_there_and_back_loses_nothing(exponent: int, offset: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    whole = np.round(rng.normal(0, 50, (3, 40, 40))) + offset  # whole numbers, so that scaling by a power is exact
    data = np.ldexp(whole, exponent)
    found = given_stack(data, None)
    np.testing.assert_array_equal(intensities(found.values, found.unit), data)
    assert 2**-11 < np.ptp(found.values) < 2**21
    assert math.frexp(found.unit.scale)[0] == 0.5
    assert math.log2(found.unit.scale) % 2 == 0
    assert np.abs(found.values).max() <= 16 * 2.2 * np.ptp(found.values)


def test_an_outlier_does_not_overflow_single_precision() -> None:
    data = np.random.default_rng(0).random((4, 20, 20)).astype(np.float32)
    data[1, 2, 3] = 1e30
    values = given_stack(data, None).values
    assert np.isfinite(values.astype(np.float32) ** 2).all()


def test_what_the_type_cannot_hold_is_refused() -> None:
    unit = Unit(scale=4.0**60)
    with pytest.raises(tc.InputError, match="got 1 voxels whose value overflows it"):
        check_representable(np.array([1.0, np.inf], np.float32), "value", unit)


def test_numbers_of_noise_and_spectra_change_with_the_unit() -> None:
    unit, intensity = Unit(scale=4.0, offset=1000.0), np.array([0.0, 3.0, 70.0])
    noise = NoiseModel(gain=2.0, offset=5.0, sigma=3.0, intensity=2.0, low=0.0, step=1.0, floor=4.0)
    told = noise.in_unit(unit)
    # The variance of an intensity 4 v + 1000 is 16 times that of v.
    np.testing.assert_allclose(told.variance(4 * intensity + 1000), 16 * noise.variance(intensity))
    assert (told.sigma, told.intensity, told.low, told.high, told.step) == (12.0, 1008.0, 1000.0, None, 4.0)
    rank = RankEstimate(rank=(1,), spectra=((2.0, 1.0),), thresholds=(0.5,), noise=0.5, reason="seen")
    for power, factor in ((1, 4.0), (2, 16.0)):
        found = RankEstimate(**{**vars(rank), "power": power}).in_unit(unit)
        assert (found.spectra, found.thresholds, found.noise) == (((2 * factor, factor),), (0.5 * factor,), 2.0)
        assert found.reason == "seen; of intensities without their offset of 1000"
    far = RankEstimate(**{**vars(rank), "power": 2}).in_unit(Unit(scale=4.0**300))
    assert far.spectra == rank.spectra
    assert "fit into no float" in far.reason
