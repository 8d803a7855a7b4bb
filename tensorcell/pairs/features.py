"""Rotation, scale and lateral shift from features: SIFT on projections along z, and RANSAC for the outliers.

References
----------
Lowe, International Journal of Computer Vision 60, 91 (2004), doi:10.1023/B:VISI.0000029664.99615.94: SIFT.
Fischler and Bolles, Communications of the ACM 24, 381 (1981), doi:10.1145/358669.358692: RANSAC.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
from skimage.feature import SIFT, match_descriptors
from skimage.measure import ransac
from skimage.transform import SimilarityTransform

from tensorcell.errors import InputError
from tensorcell.pairs.placement import Factors, Floats, Placement, binned

FEWEST_MATCHES = 8
"""Matches that must agree on a rotation, scale and shift."""

WIDEST = 512
"""Pixels of a projection along y and x, at most; more are averaged."""

RATIO = 0.8
"""A match counts where its distance is below this part of the distance to the second-best match (Lowe 2004)."""

TOLERANCE = 2.0
"""Pixels of the projection by which a match may miss the transformation."""

SCALES = 0.5, 2.0
"""Smallest and largest scale, beside the lateral factor."""

TRIALS = 5000


class Matched(NamedTuple):
    """The placement that most matches agree on, and their number."""

    placement: Placement
    matches: int


def matched(low: Floats, high: Floats, factors: Factors, start: Placement, seed: int) -> Matched:
    """The placement from features of the maximum or of the mean along z, whichever has more matches that agree."""
    found = [_matched(low, high, factors, start, seed, projection) for projection in ("max", "mean")]
    best = max(found, key=lambda each: each.matches)
    if best.matches < FEWEST_MATCHES:
        raise InputError(
            f"{best.matches} features of low and high agree on one rotation and scale, expected at least "
            f"{FEWEST_MATCHES}; transform='shift' needs none"
        )
    return best


def _matched(low: Floats, high: Floats, factors: Factors, start: Placement, seed: int, projection: str) -> Matched:
    bins = -(-max(low.shape[1:]) // WIDEST)
    width = factors.lateral * bins
    flat = [getattr(stack, projection)(axis=0, keepdims=True) for stack in (low, high)]
    images = [binned(stack, 1, each)[0] for stack, each in zip(flat, (bins, width), strict=True)]
    (places, words), (other_places, other_words) = (_features(image) for image in images)
    if not len(words) or not len(other_words):
        return Matched(start, 0)
    pairs = match_descriptors(words, other_words, max_ratio=RATIO)  # type: ignore[no-untyped-call]
    ends = [width * here[index] + (width - 1) / 2 for here, index in zip((places, other_places), pairs.T, strict=True)]
    if len(pairs) < FEWEST_MATCHES:
        return Matched(start, len(pairs))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns where nothing agrees, and returns None
        model, agree = ransac(  # type: ignore[no-untyped-call]
            tuple(ends), SimilarityTransform, min_samples=2, residual_threshold=TOLERANCE * width, max_trials=TRIALS,
            is_model_valid=lambda model, *_: SCALES[0] <= model.scale <= SCALES[1], stop_probability=0.9999, rng=seed,
        )  # fmt: skip
    if model is None:
        return Matched(start, 0)
    return Matched(_placed(model, start), int(np.sum(agree)))


def _placed(model: SimilarityTransform, start: Placement) -> Placement:
    """The model as a placement around the centre of the start; its coordinates are (y, x)."""
    y, x = (float(new - old) for new, old in zip(model([start.centre])[0], start.centre, strict=True))
    return Placement(start.centre, (0.0, y, x), float(model.rotation), float(model.scale))


def _features(image: Floats) -> tuple[Floats, Floats]:
    """Positions (n, 2) as (y, x), and descriptors (n, 128); none where the image has no features."""
    dark, bright = np.percentile(image, (1, 99.8))
    shown = np.clip((image - dark) / max(float(bright - dark), 1e-30), 0, 1)
    sift: Any = SIFT()  # type: ignore[no-untyped-call]
    try:
        sift.detect_and_extract(shown)
    except RuntimeError:  # how SIFT says that it found nothing
        return np.zeros((0, 2)), np.zeros((0, 128))
    return sift.positions, sift.descriptors
