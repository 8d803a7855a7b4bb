"""The first sentence of a diagnosis, for somebody who knows microscopes and no tensors."""

from __future__ import annotations

import numpy as np

from tensorcell.axial import axial_verdict
from tensorcell.diagnosis.result import Diagnosis
from tensorcell.words import as_sentence, depth_in_words, percent, planes_in_words

WITHIN = {
    "guaranteed": "which is likely to be enough to fill in the others",
    "likely": "which is likely to be enough to fill in the others",
    "unlikely": "which is probably not enough: fine structure in the gaps will be blurred",
    "impossible": "which is far from enough: the gaps will hold no more than a smooth guess",
}
"""What a share of measured voxels is worth, by the verdict on the low-rank model."""


def answer(report: Diagnosis) -> str:
    """What the measurement is enough for, and what will be lost: a sentence, or two where pixels are missing as well.

    Where whole planes are missing it speaks of them, and of the pixels of the measured planes if some of these are
    missing, too.
    """
    without_planes, *without_pixels = map(len, report.sampling.empty_slices)
    if any(without_pixels):
        lateral = about_rows_and_columns(report)
        return f"{about_planes(report)} {lateral}" if without_planes else lateral
    if without_planes:
        share = report.observed / (report.observed_planes * report.shape[1] * report.shape[2])
        if share == 1:
            return about_planes(report)
        within = f"Of the pixels of these planes {percent(share)} were measured, {WITHIN[report.planes_verdict]}."
        return f"{about_planes(report)} {within}"
    if report.observed_ratio == 1:
        return about_complete(report)
    too_far = ""
    if report.axial_verdict == "aliased":
        too_far = f"; structures finer than {finest(report)} along z were missed between the planes"
    return as_sentence(
        f"{percent(report.observed_ratio)} of the voxels were measured, {WITHIN[report.verdict]}{too_far}"
    )


def about_complete(report: Diagnosis) -> str:
    """The sentence where every voxel of the wanted stack was measured."""
    if report.axial_verdict == "aliased":
        return (
            f"Every voxel was measured, but structures finer than {finest(report)} along z were missed between the "
            "planes, and no method brings them back."
        )
    near = {
        "resolved": "and the planes are close enough for the structures of this stack",
        "unknown": "but whether the planes are close enough for its finest structures cannot be told",
    }[report.axial_verdict]
    return f"Every voxel was measured, so that only noise has to be removed, {near}."


def about_planes(report: Diagnosis) -> str:
    """The sentence where whole planes of the wanted stack are missing."""
    planes, size = which_planes(report), finest(report)
    verb = "is" if planes.startswith("Every") else "are"
    beyond = planes_beyond(report)
    if beyond:
        outside = f"; the {beyond} planes beyond the measured ones will hold no more than a guess"
    else:
        outside = ""
    if report.axial_verdict == "aliased":
        said = (
            f"{planes} {verb} not enough for this stack: structures above {size} along z come back, but it has finer "
            "ones, which will be blurred"
        )
    elif report.axial_verdict == "resolved" or (beyond and close_enough(report)):
        said = (
            f"{planes} {verb} enough for structures above {size} along z; finer ones would be blurred, and this stack "
            "shows none"
        )
    else:
        said = (
            f"{planes} {verb} enough for structures above {size} along z; finer ones will be blurred, and whether this "
            "stack has any cannot be told"
        )
    return f"{said}{outside}."


def about_rows_and_columns(report: Diagnosis) -> str:
    """The sentence on rows and columns that were measured in no plane."""
    _, rows, columns = report.sampling.empty_slices
    named = [
        f"{len(missing):,} of {size:,} {name}"
        for missing, size, name in ((rows, report.shape[1], "rows"), (columns, report.shape[2], "columns"))
        if missing
    ]
    return (
        f"{' and '.join(named)} were measured in no plane; they are interpolated from their neighbours, and structures "
        "as narrow as the gap are lost there."
    )


def close_enough(report: Diagnosis) -> bool:
    """Whether the planes that were measured are close enough, whatever lies beyond them."""
    return axial_verdict(report.axial_step, report.axial_band)[0] == "resolved"


def planes_beyond(report: Diagnosis) -> int:
    """Number of planes before the first and after the last measured one."""
    known = np.flatnonzero(report.slice_counts[0])
    return int(known[0]) + report.shape[0] - 1 - int(known[-1])


def which_planes(report: Diagnosis) -> str:
    """The measured planes in words, such as "Every second plane"."""
    steps = np.unique(np.diff(np.flatnonzero(report.slice_counts[0])))
    if len(steps) == 1 and steps[0] > 1:
        return planes_in_words(int(steps[0])).capitalize()
    return "The measured planes"


def finest(report: Diagnosis) -> str:
    """The size from which on structures are carried by the planes: two steps."""
    return depth_in_words(2 * report.axial_step, report.axial_band.unit)
