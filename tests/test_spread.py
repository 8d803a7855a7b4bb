"""Robust standard deviations and interval widths against the normal distribution and by their coverage."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from tensorcell.solvers import spread
from tensorcell.solvers.spread import conformal_width, median, robust_sigma


def test_constants_are_those_of_a_normal_distribution() -> None:
    # Four decimals each, as they are printed everywhere.
    assert pytest.approx(stats.norm.ppf(0.75), abs=5e-5) == spread.MEDIAN_DEVIATION
    assert pytest.approx(stats.norm.ppf(0.875), abs=6e-5) == spread.UPPER_QUARTILE
    assert pytest.approx(stats.chi2(1).median(), abs=5e-5) == spread.MEDIAN_SQUARE
    assert pytest.approx(stats.norm.ppf((1 + spread.COVERED) / 2), abs=6e-5) == spread.NORMAL_QUANTILE


@pytest.mark.parametrize("number", [1, 2, 7, 8])
def test_median_equals_numpy(xp: Any, number: int) -> None:
    values = np.random.default_rng(number).standard_normal(number)
    assert median(xp.put(values)) == pytest.approx(np.median(values), rel=1e-15)  # a sum of two halves


@pytest.mark.parametrize("shape", [(30_000,), (30, 1000)])
def test_robust_sigma_is_that_of_the_normal_majority(xp: Any, shape: tuple[int, ...]) -> None:
    values = 3 * np.random.default_rng(0).standard_normal(shape)
    # A median of 30 000 values varies by .7 %, of which four are allowed.
    assert robust_sigma(xp.put(values)) == pytest.approx(3.0, rel=0.03)
    values.ravel()[::10] = 1e9
    # With a tenth at infinity the median of the rest is its quantile of .5 / .9.
    assert robust_sigma(xp.put(values)) == pytest.approx(3 * stats.norm.ppf(0.5 + 0.25 / 0.9) / 0.6745, rel=0.03)


def test_conformal_width_covers_nine_in_ten_of_voxels_like_those_left_out() -> None:
    draws = np.random.default_rng(0).standard_t(4, (5000, 20))  # tails of no normal distribution
    covered = np.mean(
        [abs(new) <= 1.6449 * conformal_width(known) for known, new in zip(draws[:, 1:], draws[:, 0], strict=True)]
    )
    # The 18th of 19 errors is at least as large as the twentieth with probability .9; the quantile of 19 lies at most
    # 1 % above. 5000 draws vary by .4 %: four of those.
    assert 0.886 < covered < 0.92


def test_conformal_width_leaves_known_noise_out_but_for_a_third_at_most() -> None:
    errors = np.random.default_rng(0).standard_normal((40, 50))
    plain = conformal_width(errors)
    assert conformal_width(errors, 0.3) ** 2 == pytest.approx(plain**2 - 0.09)
    assert conformal_width(errors, 5.0) ** 2 == pytest.approx(0.65 * plain**2)
    assert conformal_width(1000 * errors, 300.0) == pytest.approx(1000 * conformal_width(errors, 0.3))
    assert conformal_width(np.array([-2.0])) == pytest.approx(2 / 1.6449)  # one error is all there is
