"""The share of a stack that its model explains, in closed form, and the fit that explains more."""

from __future__ import annotations

import numpy as np
import pytest

from tensorcell.diagnosis.low_rank import best_explained, explained_share, low_rank_model
from tensorcell.fitting import Fitting
from tensorcell.model import StackModel
from tensorcell.solvers import CompletionResult, NoiseModel, RankEstimate, Status, slabs
from tensorcell.solvers.outliers import no_outliers
from tensorcell.solvers.results import SparsePart, tucker_tensor
from tensorcell.solvers.tensors import tucker_to_dense
from tensorcell.stack import given_stack

SHAPE = (20, 24, 28)
ALL = np.ones(SHAPE, bool)
NO_NOISE = NoiseModel.white(0.0)
NOTHING_WRONG = no_outliers(float)


def projection(y: np.ndarray, rank: tuple[int, ...], seed: int = 0) -> CompletionResult:
    """The model in random subspaces that lies nearest to a stack: it knows nothing of its structure."""
    rng = np.random.default_rng(seed)
    factors = [np.linalg.qr(rng.standard_normal((n, r)))[0] for n, r in zip(SHAPE, rank, strict=True)]
    core = np.einsum("ijk,ia,jb,kc->abc", y, *factors, optimize=True)
    return CompletionResult(
        tucker=tucker_tensor(core, factors, np.float64),
        sparse=SparsePart(np.zeros(0, int), np.zeros(0)),
        status=Status.CONVERGED,
        history=(),
        state=None,
    )


def centred_normal(seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal(SHAPE)
    return values - values.mean()


@pytest.mark.parametrize("rank", [(8, 9, 10), (14, 15, 16)])
def test_a_model_that_holds_what_its_unknowns_take_by_chance_explains_nothing(rank: tuple[int, ...]) -> None:
    """Of white data it holds 5 to 25 % of the squares, as many as it has unknowns for: free shares tell."""
    y = centred_normal()
    fit = projection(y, rank)
    assert np.sum(fit.value**2) / np.sum(y**2) > 0.04
    assert explained_share(y, ALL, fit, NO_NOISE) == 0


def test_explained_share_is_the_share_of_the_variance_without_the_noise() -> None:
    """A model of variance 1, structure beyond it of .5 and noise of .25 times that: two in three are explained."""
    fit = projection(centred_normal(1), (2, 3, 3))
    fit = projection(fit.value / fit.value.std(), (2, 3, 3))
    rng = np.random.default_rng(2)
    rest, noise = np.sqrt(0.5) * rng.standard_normal(SHAPE), 0.5 * rng.standard_normal(SHAPE)
    y = 5 + fit.value + rest + noise
    with_mean = fit_plus(fit, 5.0)
    # Variances of 13 000 numbers are known to 1.2 %, the rank takes another 1 % of the freedom.
    assert explained_share(y, ALL, with_mean, NoiseModel.white(0.5)) == pytest.approx(2 / 3, abs=0.02)
    assert explained_share(y, ALL, with_mean, NO_NOISE) == pytest.approx(1 / 1.75, abs=0.02)
    assert explained_share(1000 * y, ALL, scaled(with_mean, 1000), NoiseModel.white(500.0)) == pytest.approx(
        2 / 3, abs=0.02
    )


def fit_plus(fit: CompletionResult, mean: float) -> CompletionResult:
    """The model with a constant added: one more direction a mode."""
    core, factors = fit.tucker
    bigger = np.zeros([size + 1 for size in core.shape])
    bigger[:-1, :-1, :-1], bigger[-1, -1, -1] = core, mean
    wide = [np.column_stack([factor, np.ones(len(factor))]) for factor in factors]
    found = CompletionResult(
        tucker=tucker_tensor(bigger, wide, np.float64), sparse=fit.sparse, status=fit.status, history=(), state=None
    )
    np.testing.assert_allclose(tucker_to_dense(bigger, wide), fit.value + mean, rtol=0, atol=1e-9)
    return found


def scaled(fit: CompletionResult, factor: float) -> CompletionResult:
    core, factors = fit.tucker
    return CompletionResult(
        tucker=tucker_tensor(factor * core, factors, np.float64),
        sparse=fit.sparse,
        status=fit.status,
        history=(),
        state=None,
    )


def test_explained_share_asks_inliers_only_and_in_any_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    y = centred_normal(1) + 3
    fit = projection(y, (6, 7, 8))
    inlier = np.random.default_rng(0).random(SHAPE) < 0.9
    share = explained_share(y, inlier, fit, NO_NOISE)
    assert explained_share(np.where(inlier, y, 1e6), inlier, fit, NO_NOISE) == share
    monkeypatch.setattr(slabs, "SLAB_VOXELS", 3 * 24 * 28)
    assert explained_share(y, inlier, fit, NO_NOISE) == pytest.approx(share, rel=1e-9)  # sums in another order


def test_explained_share_stays_between_zero_and_one() -> None:
    y = projection(centred_normal(1), (2, 3, 3)).value
    fit = projection(y, (2, 3, 3), seed=0)
    assert explained_share(y, ALL, fit, NO_NOISE) == pytest.approx(1.0, abs=1e-12)
    assert explained_share(y, ALL, scaled(fit, -5), NO_NOISE) == 0  # far worse than nothing
    assert explained_share(np.full(SHAPE, 2.0), ALL, fit, NO_NOISE) == 0  # nothing to be explained


def told(fit: CompletionResult) -> tuple[Fitting, list[np.ndarray]]:
    """A way of fitting that answers with this fit, whatever it is asked, and the masks that it was asked for."""
    asked: list[np.ndarray] = []

    class Told(Fitting):
        def __call__(self, stack: np.ndarray, mask: np.ndarray, rank: object) -> CompletionResult:
            assert not self.options.robust
            asked.append(mask)
            return fit

    return Told(), asked


def test_best_explained_fits_once_more_where_little_is_explained_and_keeps_the_better_fit() -> None:
    fit = projection(centred_normal(1), (2, 3, 3))
    y = fit.value + 0.01 * centred_normal(2) * fit.value.std()
    poor, fair = scaled(fit, 0.3), scaled(fit, 0.5)
    shares = [explained_share(y, ALL, each, NO_NOISE) for each in (poor, fair, fit)]
    assert shares == pytest.approx([1 - 0.7**2, 1 - 0.5**2, 1], abs=0.03)  # unknowns are counted: 1 %
    rank = RankEstimate(rank=(2, 3, 3), spectra=(), thresholds=(), noise=0.0, reason="")
    for first, second, better in [(poor, fair, fair), (fair, poor, fair), (poor, fit, fit), (fit, poor, fit)]:
        model = StackModel(NoiseModel.white(0.0), rank, first, NOTHING_WRONG, ALL)
        fitting, asked = told(second)
        chosen, share = best_explained(y, model, fitting)
        assert chosen is better
        assert share == explained_share(y, ALL, better, NO_NOISE)
        assert len(asked) == (0 if first is fit else 1)


def test_noise_of_rounding_is_called_zero() -> None:
    """A noise-free tensor of rank 2: what single precision leaves over is no noise."""
    rng = np.random.default_rng(0)
    factors = [rng.random((n, 2)) + 0.2 for n in (10, 24, 24)]
    y = np.einsum("ia,ja,ka->ijk", *factors)
    found = low_rank_model(given_stack(y, None), Fitting(), noise=None, rank=(2, 2, 2), blocks=False)
    assert found.noise == 0
    assert found.explained > 0.999


def test_explained_share_takes_the_noise_of_each_voxel_at_its_intensity() -> None:
    """Shot noise of a stack that is dark but for a corner: the figure at the typical intensity would be too large."""
    truth = np.ones(SHAPE)
    truth[:5, :6, :7] = 100.0
    rng = np.random.default_rng(0)
    rest = 3 * rng.standard_normal(SHAPE)
    noise = NoiseModel(gain=4.0, offset=0.0, sigma=20.0, intensity=100.0)  # of variance 10.2 on average, not 400
    y = truth + rest + np.sqrt(4 * truth) * rng.standard_normal(SHAPE)
    corner = tuple((np.arange(n) < m).astype(float)[:, None] for n, m in zip(SHAPE, (5, 6, 7), strict=True))
    factors = [np.linalg.qr(np.hstack([np.ones_like(c), c]))[0] for c in corner]
    core = np.einsum("ijk,ia,jb,kc->abc", truth, *factors, optimize=True)
    fit = CompletionResult(
        tucker=tucker_tensor(core, factors, np.float64),
        sparse=SparsePart(np.zeros(0, int), np.zeros(0)),
        status=Status.CONVERGED,
        history=(),
        state=None,
    )
    np.testing.assert_allclose(fit.value, truth, rtol=0, atol=1e-9)
    # The mean square of the noise, most of which is that of 210 bright voxels, is known to 8 % of 10.2.
    assert explained_share(y, ALL, fit, noise) == pytest.approx(truth.var() / (truth.var() + 9), abs=0.01)


def test_explained_share_counts_no_noise_where_the_background_was_set_to_one_value() -> None:
    """A bright corner cut out of its background, which is exactly 0: the noise of the corner is not everywhere."""
    y = np.zeros(SHAPE)
    y[:5, :6, :7] = 10 + np.random.default_rng(0).standard_normal((5, 6, 7))
    corner = tuple((np.arange(n) < m).astype(float)[:, None] for n, m in zip(SHAPE, (5, 6, 7), strict=True))
    factors = [c / np.linalg.norm(c) for c in corner]
    core = np.einsum("ijk,ia,jb,kc->abc", y, *factors, optimize=True)
    fit = CompletionResult(
        tucker=tucker_tensor(core, factors, np.float64),
        sparse=SparsePart(np.zeros(0, int), np.zeros(0)),
        status=Status.CONVERGED,
        history=(),
        state=None,
    )
    cut = NoiseModel(gain=0.0, offset=1.0, sigma=1.0, floor=1.0, low=0.0)
    assert explained_share(y, ALL, fit, cut) > 0.99  # all of the structure is in the model
    assert explained_share(5 * y, ALL, scaled(fit, 2.5), cut) == pytest.approx(
        0.75, abs=0.02
    )  # half of it is left over
