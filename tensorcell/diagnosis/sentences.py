"""The sentences of a diagnosis: its verdicts, its reasons, and where each number comes from."""

from __future__ import annotations

from collections.abc import Sequence

from tensorcell.diagnosis.low_rank import LowRankModel
from tensorcell.diagnosis.result import Diagnosis, in_axes
from tensorcell.solvers import Sampling

WELL_EXPLAINED, HALF_EXPLAINED = 0.9, 0.5
"""Shares of the variance that the model explains. Below the first, recovery is not called guaranteed, since the theorem
covers the model alone; below the second, it is called unlikely
unless every voxel was measured."""


def first_sentence(word: str, axial_word: str, sampling: Sampling, shape: Sequence[int]) -> str:
    """Both verdicts; where whole slices are missing, also that no theorem applies, and what takes its place."""
    missing = [
        f"{len(indices)} of {size} {name}"
        for indices, size, name in zip(sampling.empty_slices, shape, ("planes", "rows", "columns"), strict=True)
        if indices
    ]
    along_z = {
        "resolved": "the measured planes are close enough to determine what lies between them (resolved)",
        "aliased": "the measured planes are too far apart to determine what lies between them (aliased)",
        "unknown": "whether the measured planes determine what lies between them is unknown",
    }[axial_word]
    if not missing:
        return f"Recovery by the low-rank model is {word}; along z {along_z}."
    which = ", ".join(missing)
    what = (
        f"No low-rank theorem covers this sampling ({which} were never measured): recovery by low rank alone is {word}"
    )
    if not sampling.empty_slices[0]:
        return f"{what}, and {lateral_instead(sampling)}; along z {along_z}."
    only, lateral = "", ""
    if any(sampling.empty_slices[1:]):
        only, lateral = "for the planes ", f"; {lateral_instead(sampling)}"
    return f"{what}; {only}smoothness along z takes the place of the theorem, and by that criterion {along_z}{lateral}."


def lateral_instead(sampling: Sampling) -> str:
    """What takes the place of the theorem for rows and columns without samples."""
    _, rows, columns = map(bool, sampling.empty_slices)
    which = "rows and columns" if rows and columns else "rows" if rows else "columns"
    return f"lateral interpolation stands in for the {which}, with an uncertainty from left-out ones"


def by_share(word: str, sentence: str, explained: float, observed: float) -> tuple[str, str]:
    """The verdict, lowered where the model explains too little of the data, since a bound holds for the model alone."""
    if explained >= WELL_EXPLAINED or word not in ("guaranteed", "likely"):
        return word, sentence
    share = f"a model of this rank explains only {100 * explained:.3g} % of the variance of what was measured"
    if explained < HALF_EXPLAINED and observed < 1:
        return "unlikely", f"The low-rank model is unlikely to recover this: {share}."
    if word == "guaranteed":
        return (
            "likely",
            f"The low-rank model is likely to recover its part of this, but {share}, and no bound covers the rest.",
        )
    return word, f"{sentence} But {share}."


def paragraphs(report: Diagnosis) -> tuple[str, ...]:
    """The theory behind the verdicts, a paragraph for each idea."""
    rank = " x ".join(map(str, report.rank))
    low_rank, along_z = report.reasons
    return (
        f"Verdicts. {report.summary}",
        "Low rank. The planes of a stack resemble each other, and so do its rows and its columns: all of them are "
        "mixtures of a few patterns. The rank is the number of these patterns along z, y and x, here "
        f"{rank}, and a model of this rank explains {100 * report.explained:.3g} % of what varies in the stack beside "
        "noise. The fewer the patterns, the fewer measured voxels determine all the others.",
        "Voxels needed. The degrees of freedom count the numbers that describe such a model: fewer measured voxels "
        "than these cannot determine it. From the empirical threshold on, our solver found random models of this rank "
        "in simulations. The theorems promise it for every model of this rank, but with a constant that nobody knows "
        f"(1 is used), for voxels drawn at random. {low_rank}",
        "Coherence. The numbers mu say how evenly the patterns are spread: 1 is even, and a large one along an axis "
        "means that one of its slices is unlike all others, so that only voxels measured in that slice tell about it.",
        "Missing planes. No voxel of a missing plane was measured, so that low rank says nothing about it; it has to "
        "follow from the planes around it. They determine it if nothing in the stack changes along z faster than once "
        "in two of their distances (Nyquist's criterion); what changes faster looks like something slower, and is "
        f"blurred or wrong in between. {along_z}",
    )


def how_obtained(report: Diagnosis, model: LowRankModel, threshold: str) -> dict[str, str]:
    """For each number of the report, one sentence on where it comes from."""
    found = report.coherence.obtained
    theorem = "with its unknown constant set to 1"
    wanted = "counted in the mask of the wanted stack"
    return {
        "shape": "the planes given, and those between them" if report.axial_factor > 1 else "that of the input",
        "observed": "counted: the mask is True and the value is not NaN",
        "observed_ratio": "measured voxels over all voxels of the wanted stack",
        "empty_slices": wanted,
        "empty_fibres": wanted,
        "min_slice_count": f"{wanted}, over the slices of all axes",
        "mask_pattern": in_axes(report.sampling.sentence),
        "rank": model.reason,
        "noise_sigma": model.noise_obtained,
        "explained": "1 - (variance left over by the fit - noise) / (variance of the data - noise), without outliers",
        "outliers": model.outliers_obtained,
        "degrees_of_freedom": "prod r + sum r (I - r), from the shape and the rank: necessary for every method",
        "effective_rank": "r*, from the shape and the rank",
        "mode_coherence": found.get("mode", ""),
        "mu": found.get("mu", ""),
        "alpha": found.get("alpha", ""),
        "lambda": found.get("lam", ""),
        "empirical_threshold": threshold,
        "bound_theorem1": f"Theorem 1 with mu, alpha and lambda as given here, {theorem}",
        "bound_theorem1_simplified": f"(r I^1.5 + r^2 I) log^2 I, coherences of order one, {theorem}",
        "bound_theorem2": f"Theorem 2 as printed, s the number of outliers found, {theorem}",
        "bound_theorem2_full": f"Theorem 2 with the term r^2 I that its proof has, {theorem}",
        "axial_band_limit": report.axial_band.obtained,
        "axial_nyquist_step": "half the inverse of the axial band limit",
        "axial_optics_limit": "(n - sqrt(n^2 - NA^2)) / wavelength, a widefield microscope"
        if report.axial_band.optics_limit is not None
        else "not computed: no optics given",
        "axial_step": "largest distance between measured planes",
        **({"block_ranks": "estimate_rank on each block"} if report.blocks is not None else {}),
    }
