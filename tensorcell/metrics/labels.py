"""Agreement of labels and masks: Dice coefficient, F1 of objects or voxels, and panoptic quality."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tensorcell.errors import InputError

from .inputs import PAIR, Checked, checked_pair
from .scores import F1Score, PanopticQuality
from .slabs import scored_slabs


def dice(reference: Any, estimate: Any, *, mask: NDArray[np.bool_] | None = None) -> float:
    """Dice coefficient of two foregrounds, ``2 |R and E| / (|R| + |E|)``, over voxels.

    Parameters
    ----------
    reference, estimate
        Bool or integer arrays or Volumes of one shape. Every voxel that is not 0 is foreground, whatever its label.
    mask
        Bool array of the same shape, True = voxel is scored. Default: all voxels.

    Returns
    -------
    float
        Between 0 and 1; NaN where neither has any foreground.

    Raises
    ------
    InputError
        Shapes differ, nothing is scored, or numbers that are not integers.

    References
    ----------
    Dice 1945, Ecology 26, 297-302, doi:10.2307/1932409.

    Examples
    --------
    >>> import numpy as np
    >>> round(dice(np.array([1, 1, 0, 0]), np.array([0, 1, 1, 1])), 6)
    0.4
    """
    return float(_f1_of_voxels(*_checked_labels(reference, estimate, mask)))


def f1(
    reference: Any,
    estimate: Any,
    *,
    of: Literal["auto", "objects", "voxels"] = "auto",
    iou: float = 0.5,
    mask: NDArray[np.bool_] | None = None,
) -> F1Score:
    """F1 score ``2 tp / (2 tp + fp + fn)`` of detected objects, or of voxels.

    Of **objects**: an object of the estimate is a true positive where its intersection over union with an object of
    the reference is above ``iou``; with at least one half, no object matches two. Of **voxels**: foreground voxels
    count, and the score is the Dice coefficient.

    Parameters
    ----------
    reference, estimate
        Arrays or Volumes of one shape: labels (integers, 0 = background, one number per object), or masks (bool).
    of
        ``"auto"``: voxels of bool arrays, objects of integer ones.
    iou
        Threshold for objects, at least .5 and below 1.
    mask
        Bool array of the same shape, True = voxel is scored: the other voxels are left out of both.

    Returns
    -------
    F1Score
        A float with ``of``, ``precision``, ``recall``, ``tp``, ``fp``, ``fn``. NaN where neither holds any object or
        foreground.

    Raises
    ------
    InputError
        Shapes differ, nothing is scored, numbers that are not integers, negative labels, objects asked of bool
        arrays, an unknown ``of`` or an ``iou`` out of range.

    Examples
    --------
    >>> import numpy as np
    >>> score = f1(np.array([1, 1, 1, 0, 2]), np.array([7, 7, 0, 0, 9]))
    >>> float(score), score.tp
    (1.0, 2)
    """
    if of not in ("auto", "objects", "voxels"):
        raise InputError(f"of is {of!r}, expected 'auto', 'objects' or 'voxels'")
    reference, estimate, mask = _checked_labels(reference, estimate, mask)
    if of == "voxels" or (of == "auto" and reference.dtype == np.bool_ and estimate.dtype == np.bool_):
        return _f1_of_voxels(reference, estimate, mask)
    matches = _matches(reference, estimate, mask, iou)
    return _f1_of_counts("objects", len(matches.ious), matches.fp, matches.fn)


def panoptic_quality(reference: Any, estimate: Any, *, mask: NDArray[np.bool_] | None = None) -> PanopticQuality:
    """Panoptic quality of a label volume: the mean IoU of matched objects times the F1 score of the objects.

    ``PQ = sum of IoU over the matches / (tp + fp / 2 + fn / 2)``. Objects match where their intersection over union
    is above 1/2, which no object can reach with two. One class ("thing") is scored, in 3-D where the labels are 3-D.

    Parameters
    ----------
    reference, estimate
        Integer arrays or Volumes of one shape: labels, 0 = background, one number per object. The numbers of matching
        objects need not agree.
    mask
        Bool array of the same shape, True = voxel is scored: the other voxels are left out of both.

    Returns
    -------
    PanopticQuality
        A float with ``sq`` (mean IoU of the matches), ``rq`` (F1 of the objects), ``tp``, ``fp``, ``fn``. Where no
        object matches it is 0 with ``sq`` NaN; NaN where neither holds an object.

    Raises
    ------
    InputError
        Shapes differ, nothing is scored, negative labels, or arrays that are not integer (of a bool array, label the
        connected components first).

    References
    ----------
    Kirillov et al. 2019, CVPR, doi:10.1109/CVPR.2019.00963, Eq. 1 and 2.

    Examples
    --------
    >>> import numpy as np
    >>> quality = panoptic_quality(np.array([1, 1, 1, 1, 0, 2]), np.array([5, 5, 5, 0, 0, 0]))
    >>> quality, quality.sq, round(quality.rq, 6)
    (0.5, 0.75, 0.666667)
    """
    matches = _matches(*_checked_labels(reference, estimate, mask), iou=0.5)
    tp = len(matches.ious)
    weight = tp + matches.fp / 2 + matches.fn / 2
    return PanopticQuality(
        _ratio(sum(matches.ious), weight),
        sq=_ratio(sum(matches.ious), tp),
        rq=_ratio(tp, weight),
        tp=tp,
        fp=matches.fp,
        fn=matches.fn,
    )


class _Matches(NamedTuple):
    """Objects of reference and estimate that match, and the numbers of those that do not."""

    ious: list[float]
    """Intersection over union of each match."""
    fp: int
    """Number of objects of the estimate without a match."""
    fn: int
    """Number of objects of the reference without a match."""


def _matches(reference: NDArray[Any], estimate: NDArray[Any], mask: Any, iou: float) -> _Matches:
    """Pairs of objects with an intersection over union above ``iou``."""
    if not (isinstance(iou, int | float) and 0.5 <= iou < 1):
        raise InputError(f"iou is {iou}, expected at least .5 and below 1: below .5 an object could match two")
    for name, labels in zip(PAIR, (reference, estimate), strict=True):
        if labels.dtype == np.bool_:
            raise InputError(f"{name} is bool, expected integer labels, one number per object (0 = background)")
    overlaps = _overlaps(reference, estimate, mask)
    sizes_r: Counter[int] = Counter()
    sizes_e: Counter[int] = Counter()
    for (label_r, label_e), count in overlaps.items():
        sizes_r[label_r] += count
        sizes_e[label_e] += count
    for name, sizes in zip(PAIR, (sizes_r, sizes_e), strict=True):
        if min(sizes) < 0:
            raise InputError(f"{name} has the label {min(sizes)}, expected labels of at least 0 (0 = background)")
    ious = []
    for (label_r, label_e), count in overlaps.items():
        union = sizes_r[label_r] + sizes_e[label_e] - count
        if label_r and label_e and count > iou * union:
            ious.append(count / union)
    objects_r, objects_e = (len(sizes) - (0 in sizes) for sizes in (sizes_r, sizes_e))
    return _Matches(ious, fp=objects_e - len(ious), fn=objects_r - len(ious))


def _overlaps(reference: NDArray[Any], estimate: NDArray[Any], mask: Any) -> Counter[tuple[int, int]]:
    """Number of scored voxels of each pair of labels that occurs, background included."""
    overlaps: Counter[tuple[int, int]] = Counter()
    for slab in scored_slabs(reference, estimate, mask=mask):
        r, e = (part.ravel() for part in slab)
        changed = (r[1:] != r[:-1]) | (e[1:] != e[:-1])
        begins = np.flatnonzero(np.concatenate([[True], changed]))  # of runs of one pair: far fewer than voxels
        labels_r, index_r = np.unique(r[begins], return_inverse=True)
        labels_e, index_e = np.unique(e[begins], return_inverse=True)
        pairs, places = np.unique(index_r * len(labels_e) + index_e, return_inverse=True)
        counts = np.bincount(places, np.diff(begins, append=len(r)))
        for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True):
            overlaps[int(labels_r[pair // len(labels_e)]), int(labels_e[pair % len(labels_e)])] += int(count)
    return overlaps


def _f1_of_voxels(reference: NDArray[Any], estimate: NDArray[Any], mask: Any) -> F1Score:
    tp = fp = fn = 0
    for slab in scored_slabs(reference, estimate, mask=mask):
        r, e = slab[0] != 0, slab[1] != 0
        tp += int(np.count_nonzero(r & e))
        fp += int(np.count_nonzero(e & ~r))
        fn += int(np.count_nonzero(r & ~e))
    return _f1_of_counts("voxels", tp, fp, fn)


def _f1_of_counts(of: str, tp: int, fp: int, fn: int) -> F1Score:
    return F1Score(
        _ratio(2 * tp, 2 * tp + fp + fn),
        of=of,
        precision=_ratio(tp, tp + fp),
        recall=_ratio(tp, tp + fn),
        tp=tp,
        fp=fp,
        fn=fn,
    )


def _ratio(part: float, whole: float) -> float:
    """The ratio, NaN where the divisor is 0."""
    return part / whole if whole else math.nan


def _checked_labels(reference: Any, estimate: Any, mask: Any) -> Checked:
    reference, estimate, mask = checked_pair(reference, estimate, mask)
    for name, array in zip(PAIR, (reference, estimate), strict=True):
        if array.dtype.kind not in "bui":
            raise InputError(f"{name} has dtype {array.dtype}, expected bool or integers (0 = background)")
    return reference, estimate, mask
