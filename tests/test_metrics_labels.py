"""Scores of labels and masks against examples worked by hand and brute force over all pairs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.ndimage

from tensorcell import Volume
from tensorcell.errors import InputError
from tensorcell.metrics import dice, f1, panoptic_quality

ROUNDING = 1e-12


@pytest.fixture
def labels() -> tuple[np.ndarray, np.ndarray]:
    """Cells of a Voronoi partition with gaps, and the same after a jitter of borders, two merges and a lost cell."""
    rng = np.random.default_rng(1)
    centres = rng.integers(0, (10, 40, 40), (30, 3))
    grid = np.stack(np.indices((10, 40, 40)), axis=-1)
    distance = np.linalg.norm(grid[..., None, :] - centres, axis=-1)
    reference = (distance.argmin(axis=-1) + 1) * (distance.min(axis=-1) < 6)
    distance += rng.normal(0, 0.8, distance.shape)
    estimate = (distance.argmin(axis=-1) + 1) * (distance.min(axis=-1) < 5.5)
    estimate[estimate == 2] = 1
    estimate[estimate == 4] = 3
    estimate[estimate == 5] = 0
    return reference, 1000 * estimate


def brute_force_matches(reference: np.ndarray, estimate: np.ndarray, iou: float) -> tuple[list[float], int, int]:
    ours, theirs = ([k for k in np.unique(x) if k] for x in (reference, estimate))
    values = [
        np.sum((reference == a) & (estimate == b)) / np.sum((reference == a) | (estimate == b))
        for a in ours
        for b in theirs
    ]
    matched = [float(v) for v in values if v > iou]
    return matched, len(theirs) - len(matched), len(ours) - len(matched)


def test_panoptic_quality_by_hand() -> None:
    reference = np.array([1, 1, 1, 1, 0, 0, 2, 2, 0, 3])
    estimate = np.array([9, 9, 9, 0, 0, 4, 4, 0, 0, 7])
    # 1 and 9: 3 / 4; 2 and 4: 1 / 3, no match; 3 and 7: 1. TP 2, FP 1, FN 1.
    quality = panoptic_quality(reference, estimate)
    assert quality == pytest.approx(1.75 / 3, rel=ROUNDING)
    assert quality.pq == pytest.approx(quality.sq * quality.rq, rel=ROUNDING)
    assert (quality.sq, quality.rq) == pytest.approx((1.75 / 2, 2 / 3), rel=ROUNDING)
    assert (quality.tp, quality.fp, quality.fn) == (2, 1, 1)


def test_half_an_overlap_is_no_match() -> None:
    # IoU exactly 1/2 with both halves: a match would have to be one of two.
    assert panoptic_quality(np.array([1, 1]), np.array([1, 2])).tp == 0
    assert panoptic_quality(np.array([1, 1, 1]), np.array([1, 1, 2])).tp == 1


@pytest.mark.parametrize("iou", [0.5, 0.7, 0.9])
def test_matches_equal_brute_force_over_all_pairs(labels: tuple[np.ndarray, np.ndarray], iou: float) -> None:
    ious, fp, fn = brute_force_matches(*labels, iou)
    score = f1(*labels, iou=iou)
    assert (score.tp, score.fp, score.fn) == (len(ious), fp, fn)
    assert score == pytest.approx(2 * len(ious) / (2 * len(ious) + fp + fn), rel=ROUNDING)
    assert score.precision == pytest.approx(len(ious) / (len(ious) + fp), rel=ROUNDING)
    assert score.recall == pytest.approx(len(ious) / (len(ious) + fn), rel=ROUNDING)
    if iou == 0.5:
        assert fp > 0
        assert fn > 0
        quality = panoptic_quality(*labels)
        assert quality == pytest.approx(sum(ious) / (len(ious) + fp / 2 + fn / 2), rel=ROUNDING)
        assert quality.rq == pytest.approx(float(score), rel=ROUNDING)


def test_names_of_labels_and_slabs_do_not_matter(
    labels: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    reference, estimate = labels
    expected = panoptic_quality(reference, estimate)
    names = np.concatenate([[0], 5 + np.random.default_rng(2).permutation(40)])
    assert panoptic_quality(names[reference], estimate) == pytest.approx(expected, rel=ROUNDING)
    assert panoptic_quality(names[reference].astype(np.uint8), estimate.astype(np.uint32)) == pytest.approx(expected)
    assert panoptic_quality(estimate, reference) == pytest.approx(expected, rel=ROUNDING)
    assert panoptic_quality(Volume(reference), Volume(estimate)) == expected
    monkeypatch.setattr("tensorcell.metrics.slabs.SLAB_VOXELS", 3 * reference[0].size)
    assert panoptic_quality(reference, estimate) == pytest.approx(expected, rel=ROUNDING)
    assert dice(reference, estimate) == pytest.approx(float(f1(reference > 0, estimate > 0)))


def test_masks_make_the_rest_background(labels: tuple[np.ndarray, np.ndarray]) -> None:
    reference, estimate = labels
    mask = np.zeros(reference.shape, bool)
    mask[3:8, 5:30] = True
    for score in (panoptic_quality, f1, dice):
        assert score(reference, estimate, mask=mask) == score(reference * mask, estimate * mask)
        assert score(reference, estimate, mask=mask) != score(reference, estimate)


def test_dice_and_f1_of_voxels() -> None:
    reference = np.array([[1, 1, 0], [0, 0, 5]])
    estimate = np.array([[0, 3, 3], [0, 0, 3]])
    # Two voxels in common, 3 and 3 of foreground.
    assert dice(reference, estimate) == pytest.approx(4 / 6, rel=ROUNDING)
    score = f1(reference > 0, estimate > 0)
    assert (float(score), score.of, score.tp, score.fp, score.fn) == (pytest.approx(4 / 6), "voxels", 2, 1, 1)
    assert f1(reference, estimate, of="voxels") == score
    assert f1(reference, estimate).of == "objects"


def test_dice_equals_scipy(labels: tuple[np.ndarray, np.ndarray]) -> None:
    from scipy.spatial.distance import dice as dissimilarity

    flat = [x.ravel() > 0 for x in labels]
    assert dice(*labels) == pytest.approx(1 - dissimilarity(*flat), rel=ROUNDING)


def test_scores_equal_scikit_learn_where_installed(labels: tuple[np.ndarray, np.ndarray]) -> None:
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    assert dice(*labels) == pytest.approx(sklearn_metrics.f1_score(*(x.ravel() > 0 for x in labels)))


def test_perfect_and_empty_segmentations() -> None:
    found, _ = scipy.ndimage.label(np.random.default_rng(3).random((20, 20)) < 0.3)
    perfect = panoptic_quality(found, found)
    assert (float(perfect), perfect.sq, perfect.rq, perfect.fp, perfect.fn) == (1, 1, 1, 0, 0)
    assert f1(found, found) == dice(found, found) == 1
    nothing = np.zeros_like(found)
    missed = panoptic_quality(found, nothing)
    assert (float(missed), missed.rq, missed.fn) == (0, 0, found.max())
    assert math.isnan(missed.sq)
    assert f1(found, nothing) == dice(found, nothing) == 0
    assert math.isnan(f1(found, nothing).precision)
    for score in (panoptic_quality, f1, dice):
        assert math.isnan(score(nothing, nothing))


@pytest.mark.parametrize("score", [panoptic_quality, f1, dice])
def test_what_is_not_labels_is_refused(score: Any) -> None:
    a = np.arange(8)
    with pytest.raises(InputError, match="estimate has dtype float64, expected bool or integers"):
        score(a, a.astype(float))
    with pytest.raises(InputError, match=r"estimate has shape \(7,\)"):
        score(a, a[1:])
    with pytest.raises(InputError, match="mask has dtype int64, expected bool"):
        score(a, a, mask=a)
    if score is not dice:
        with pytest.raises(InputError, match="reference has the label -1, expected labels of at least 0"):
            score(a - 1, a)
        with pytest.raises(InputError, match="estimate is bool, expected integer labels"):
            score(a, a > 0)


def test_bad_choices_for_f1_are_refused() -> None:
    a = np.arange(8)
    with pytest.raises(InputError, match="of is 'pixels', expected 'auto', 'objects' or 'voxels'"):
        f1(a, a, of="pixels")  # type: ignore[arg-type]
    for wrong in (0.3, 1.0, "half"):
        with pytest.raises(InputError, match=f"iou is {wrong}, expected at least .5 and below 1"):
            f1(a, a, iou=wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="reference is bool, expected integer labels"):
        f1(a > 2, a > 3, of="objects")
