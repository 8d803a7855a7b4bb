"""The regression forests of NRQM: how they are read from the published file, and what they predict."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.io
from numpy.typing import NDArray

from tensorcell.errors import InputError

Array = NDArray[np.float64]

FEATURES = (18, 45, 75)
"""Number of features of each forest."""

EXPECTED = (
    "expected a .mat file with the struct model: linear of 4 numbers, and rf, a cell of 3 regression forests with "
    "lDau, rDau, nodestatus, upper, avnode, mbest (18, 45 and 75 features)"
)


class Forest(NamedTuple):
    """Regression trees, arrays ``(nodes, trees)``; nodes and features count from 0."""

    left: NDArray[np.int64]
    """Node that follows where the feature is at most the threshold."""
    right: NDArray[np.int64]
    """Node that follows where the feature is above the threshold."""
    leaf: NDArray[np.bool_]
    threshold: Array
    value: Array
    """Prediction of a leaf."""
    feature: NDArray[np.int64]


def predicted(forest: Forest, features: Array) -> float:
    """Mean of the predictions of the trees."""
    trees = np.arange(forest.left.shape[1])
    node = np.zeros(len(trees), np.int64)
    for _ in range(len(forest.left)):
        inner = ~forest.leaf[node, trees]
        if not inner.any():
            break
        goes_left = features[forest.feature[node, trees]] <= forest.threshold[node, trees]
        child = np.where(goes_left, forest.left[node, trees], forest.right[node, trees])
        node = np.where(inner, child, node)
    return float(forest.value[node, trees].mean())


def read_model(path: Path) -> tuple[Array, list[Forest]]:
    """The four linear numbers (offset and weight of each forest) and the three forests."""
    try:
        model = scipy.io.loadmat(path, squeeze_me=False, struct_as_record=True)["model"][0, 0]
        linear = np.asarray(model["linear"], dtype=np.float64).ravel()
        cells = model["rf"].ravel()
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} is no model of nrqm ({type(error).__name__}: {reason}), {EXPECTED}") from None
    if linear.shape != (4,) or len(cells) != len(FEATURES):
        raise InputError(f"{path} holds {linear.size} linear numbers and {len(cells)} forests, {EXPECTED}")
    return linear, [_forest(f"forest {k + 1} of {path}", FEATURES[k], cell) for k, cell in enumerate(cells)]


def _forest(where: str, features: int, cell: Any) -> Forest:
    """One forest of the file; nodes and features there count from 1."""
    try:
        fields = cell[0, 0] if cell.dtype.names is None else cell.ravel()[0]
        left, right, status, upper, value, feature = (
            np.asarray(fields[name]) for name in ("lDau", "rDau", "nodestatus", "upper", "avnode", "mbest")
        )
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise InputError(f"{where} lacks a part ({error}), {EXPECTED}") from None
    if left.ndim != 2 or any(part.shape != left.shape for part in (right, status, upper, value, feature)):
        raise InputError(f"{where} has parts of different shapes, {EXPECTED}")
    inner = (status != -1) & (left > 0)  # unused rows of shorter trees hold zeros
    children = np.concatenate([left[inner], right[inner]]).astype(np.int64)
    if (children < 1).any() or (children > len(left)).any():
        raise InputError(f"{where} has children outside its {len(left)} nodes, {EXPECTED}")
    if (feature[inner] < 1).any() or (feature[inner] > features).any():
        raise InputError(f"{where} asks for feature {feature[inner].max()} of {features}, {EXPECTED}")
    return Forest(
        left=np.where(inner, left.astype(np.int64) - 1, 0),
        right=np.where(inner, right.astype(np.int64) - 1, 0),
        leaf=~inner,
        threshold=upper.astype(np.float64),
        value=_without_bias(value.astype(np.float64), fields),
        feature=np.where(inner, feature.astype(np.int64) - 1, 0),
    )


def _without_bias(value: Array, fields: Any) -> Array:
    """The predictions after the linear correction of their bias, where the trainer has stored one."""
    if "coef" not in (fields.dtype.names or ()) or not np.any(fields["coef"]):
        return value
    offset, slope = np.asarray(fields["coef"], dtype=np.float64).ravel()
    return np.asarray(offset + slope * value)
