"""NRQM: the quality of super-resolved planes that regression forests predict from their statistics."""

from __future__ import annotations

from typing import Any

import numpy as np

from .grey_images import grey_planes, in_bytes, mean_over_planes
from .nrqm_features import SMALLEST, image_features
from .parameter_files import PathLike, existing_file
from .regression_forests import predicted, read_model
from .scores import PlaneScore


def nrqm(volume: Any, model: PathLike, *, data_range: float | None = None, axis: int | None = None) -> PlaneScore:
    """No-reference quality metric for super-resolution of planes: about 0 to 10, larger is better.

    Three regression forests, on 18 features of local DCT blocks at three scales, 45 of a steerable pyramid after
    divisive normalisation and 75 singular values of patches at three scales, and a linear combination of the three.

    Parameters
    ----------
    volume
        One plane (2-D) or a stack (3-D), array or Volume, finite everywhere, sides of at least 84 pixels.
    model
        Path of the published ``model.mat``: a struct ``model`` with ``linear`` (4 numbers) and ``rf`` (3 forests).
    data_range
        The intensity that is white. Default: 255 for uint8, 1 for floating data on [0, 1].
    axis
        Axis across which the planes lie. Default: Z of a Volume, the first axis of an array.

    Returns
    -------
    PlaneScore
        Mean over the planes, and ``planes``.

    Raises
    ------
    InputError
        The path does not exist or holds something else, planes that are too small, intensities without a known white.

    Notes
    -----
    The features follow the authors' published program, its peculiarities included: the sixth band of the finer level
    has no parent, and the divisor of the normalisation counts the window and the parent but not the other bands.
    Filters are evaluated instead of read from a table of 256 values. Each part is tested against its definition; the
    whole has not been compared with a published score.

    References
    ----------
    Ma, Yang, Yang, Yang 2017, Computer Vision and Image Understanding 158, doi:10.1016/j.cviu.2016.12.009.
    """
    linear, forests = read_model(existing_file("model", model))
    planes, _ = grey_planes("volume", volume, data_range, axis, smallest=SMALLEST, score="nrqm")
    scores = []
    for plane in planes:
        features = image_features(in_bytes(plane))
        parts = [predicted(forest, group) for forest, group in zip(forests, features, strict=True)]
        scores.append(float(linear @ np.array([1.0, *parts])))
    return mean_over_planes(scores)
