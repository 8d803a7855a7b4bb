"""Stacks that are nearly constant: every method and every report ends in finite numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tensorcell as tc
from tensorcell.methods.trial import GlobalTrial
from tensorcell.solvers import NoiseModel, Status, local_tucker

SHAPE = (6, 20, 20)


def nearly_constant(kind: str) -> np.ndarray:
    """One of the stacks."""
    rng = np.random.default_rng(0)
    data = np.zeros(SHAPE, np.float32)
    if kind == "few voxels":
        data[:] = 255
        data.ravel()[rng.permutation(data.size)[:5]] = [0, 1, 2, 250, 254]
    elif kind == "one voxel":
        data[2, 5, 6] = 7
    elif kind == "two values":
        data = (rng.random(SHAPE) < 0.5).astype(np.float32) * 3
    elif kind == "one plane":
        data[:] = 10
        data[3] = 20
    elif kind == "a block":
        data[2:4, 5:12, 6:12] = 1
    return data


KINDS = ("few voxels", "one voxel", "two values", "one plane", "a block")
GAPS = ("complete", "half missing", "a plane missing", "planes between")


def with_gaps(kind: str, gaps: str) -> tuple[np.ndarray, dict[str, Any]]:
    """The stack with these gaps, and the arguments that go with them."""
    data = nearly_constant(kind)
    if gaps == "half missing":
        missing = np.random.default_rng(1).random(SHAPE) < 0.5
        missing[2, 5, 6] = False  # the one voxel that differs
        data[missing] = np.nan
    elif gaps == "a plane missing":
        data[4] = np.nan
    return data, {"axial_factor": 2} if gaps == "planes between" else {}


@pytest.mark.parametrize("gaps", GAPS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["tucker", "local", "auto"])
def test_recover_ends_in_numbers(method: str, kind: str, gaps: str) -> None:
    data, more = with_gaps(kind, gaps)
    result = tc.recover(data, method=method, **more)
    values, u = result.volume.data, result.uncertainty
    assert np.isfinite(values).all()
    assert np.isfinite(u).all()
    assert np.isfinite(result.noise)
    assert result.status is not Status.DIVERGED
    assert (u >= 0).all()
    assert (u[~result.measured] > 0).all()
    known = np.zeros(values.shape, bool)
    known[:: more.get("axial_factor", 1)] = ~np.isnan(data) & (result.outliers == 0)
    if gaps != "complete":
        given = np.zeros(values.shape, np.float32)
        given[:: more.get("axial_factor", 1)] = data
        np.testing.assert_array_equal(values[known], given[known])


@pytest.mark.parametrize("method", ["local", "auto"])
def test_a_stack_that_the_global_model_predicts_exactly_is_not_refined(method: str) -> None:
    """Large enough for voxels to be left out: their errors are all zero, and no noise level can fall from there."""
    data = np.full((8, 44, 44), 255.0)
    data[np.random.default_rng(0).random(data.shape) < 0.5] = np.nan
    data[4, 20, 20] = 0
    result = tc.recover(data, method=method, rank=1)
    assert np.isfinite(result.volume.data).all()
    np.testing.assert_allclose(np.median(result.volume.data), 255)
    assert (result.uncertainty[~result.measured] > 0).all()


@pytest.mark.parametrize("gaps", GAPS)
@pytest.mark.parametrize("kind", KINDS)
def test_diagnose_ends_in_numbers(kind: str, gaps: str) -> None:
    data, more = with_gaps(kind, gaps)
    report = tc.diagnose(data, **more)
    numbers = [report.noise_sigma, report.explained, report.coherence.mu, report.coherence.alpha, report.coherence.lam]
    assert np.isfinite(numbers).all()
    assert str(report)


@pytest.mark.parametrize("value", [0.0, 255.0, 1e-5, 1e-9])
def test_groups_of_patches_return_the_one_value_that_was_measured(value: float) -> None:
    """All deviations are rounding, for which there is no noise level: gaps keep the first guess, or get the mean."""
    rng = np.random.default_rng(0)
    data, mask = value * (1 + 2.0**-52 * rng.integers(0, 3, SHAPE)), rng.random(SHAPE) < 0.5
    for initial, expected in ((None, value), (np.full(SHAPE, 3.0), 3.0)):
        found = local_tucker(data, mask, noise=0.0, initial=initial, denoise=False).value
        np.testing.assert_allclose(found[~mask], expected, rtol=1e-6)
        np.testing.assert_allclose(found[mask], value, rtol=1e-6)


def test_errors_of_a_nearly_empty_stack_are_not_cut_to_nothing() -> None:
    """The typical error is zero there; a cap of a multiple of it would hide the voxels that differ."""
    values = np.zeros((4, 10, 10))
    values[1, 2, 3] = 8.0
    left_out, start = np.ones(values.shape, bool), np.zeros(values.shape)
    trial = GlobalTrial(values, left_out, left_out, start, NoiseModel.white(0.0))
    assert trial.error == pytest.approx(8 / np.sqrt(values.size))
    assert not trial.exact
    assert GlobalTrial(values, left_out, left_out, values, NoiseModel.white(0.0)).exact
