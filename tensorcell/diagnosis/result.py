"""What `diagnose` returns: the numbers, the verdicts, and their screen of text."""

from __future__ import annotations

import math
import os
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorcell import pages
from tensorcell.axial import AxialBand
from tensorcell.axial.result import length_text
from tensorcell.solvers import BlockRanks, Coherence, RecoveryBound, Sampling
from tensorcell.words import as_sentence

Rank = tuple[int, ...]

VERDICTS = ("impossible", "unlikely", "likely", "guaranteed")
"""The verdicts on the low-rank model, from the worst to the best."""

AXIAL_VERDICTS = ("aliased", "unknown", "resolved")
"""The verdicts on the distance of planes, from the worst to the best."""

ALONG_Z = {"aliased": "impossible", "unknown": "unlikely", "resolved": "likely"}
"""What a verdict on the distance of planes is worth on the scale of the others, where planes are to be predicted."""

WIDTH = 96
"""Columns of the terminal."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Diagnosis:
    """What :func:`diagnose` returns; ``str()`` is one screen of text, and its first sentence is the answer.

    For a volume of several channels or frames it describes the stack with the worst verdict (``label`` names it), and
    ``stacks`` holds the diagnoses of all stacks.

    Attributes
    ----------
    label, source : str
        Names of the stack and of its file; empty where there is only one stack, or no file.
    input_shape, shape : (int, int, int)
        Voxels (Z, Y, X) of what was given, and of the stack that is wanted: with an axial factor s it has
        ``(n - 1) s + 1`` planes. All counts are of the wanted stack.
    spacing : (float, float, float) or None
        Voxel size (dz, dy, dx) of the wanted stack in micrometres.
    axial_factor : int
        ``s``.
    observed, observed_ratio : int, float
        Measured voxels, and their share of the wanted stack.
    sampling : Sampling
        Counts and pattern of the mask of the wanted stack.
    slice_counts : tuple of int arrays
        Measured voxels in each slice, one array an axis.
    rank, spectra, spectra_edges, rank_reason
        Multilinear rank, for each axis the values it was read from and the value that they had to exceed (empty where
        the rank was given), and how it was found.
    noise_sigma : float
        Standard deviation of the noise in the data's unit.
    explained : float
        Share of the variance of the measured voxels, without noise and outliers, that the low-rank model explains.
    outliers : int
        Number of measured voxels that differ from their neighbours, or from the model, as no microscope draws.
    defects : dict of str to int
        The same by kind: ``dead``, ``stuck`` and ``hot`` (pixels of the camera), ``bright`` and ``dark`` (single
        voxels). Kinds that were not found are left out.
    coherence : Coherence
        mu_j, mu*, alpha*, lambda* of the fitted model.
    bound : RecoveryBound
        Numbers of samples that the theorems ask for, and the degrees of freedom.
    empirical_threshold : float
        Number of samples from which on simulations succeed.
    extrapolated : bool
        Whether the threshold lies outside the simulated range.
    axial_band : AxialBand
        Band limit along z.
    axial_step : float
        Largest distance between measured planes, in ``axial_band.unit``.
    blocks : BlockRanks or None
        Ranks of blocks, where the caller asked for them.
    verdict, axial_verdict : str
        ``impossible``, ``unlikely``, ``likely`` or ``guaranteed``; ``aliased``, ``unknown`` or ``resolved``.
    planes_verdict : str
        As ``verdict``, for the planes, rows and columns of which anything was measured: where whole ones are missing,
        ``verdict`` is ``impossible`` however much of the others was measured.
    lateral_verdict : str
        As ``axial_verdict``, for missing rows and columns; ``resolved`` if none is missing, never ``aliased``.
    answer : str
        What the measurement is enough for, and what will be lost, in words that need no theory.
    summary : str
        Both verdicts in a sentence.
    reasons : tuple of str
        Reasons for the two verdicts, a sentence each.
    notes : tuple of str
        What else one should know of the stack, such as defects of the camera, a sentence each.
    details : tuple of str
        The theory behind the verdicts, a paragraph each.
    obtained : dict
        For each key of :meth:`to_dict` that holds a number, a phrase that says how it was obtained.
    stacks : tuple of Diagnosis
        All stacks, where there are several.
    not_diagnosed : dict of label to str
        Stacks that could not be diagnosed, with the reason.
    """

    label: str
    source: str
    input_shape: tuple[int, ...]
    shape: tuple[int, ...]
    spacing: tuple[float, float, float] | None
    axial_factor: int
    observed: int
    observed_ratio: float
    sampling: Sampling
    slice_counts: tuple[npt.NDArray[np.int64], ...]
    rank: Rank
    spectra: tuple[tuple[float, ...], ...]
    spectra_edges: tuple[float, ...]
    rank_reason: str
    noise_sigma: float
    explained: float
    outliers: int
    defects: Mapping[str, int]
    coherence: Coherence
    bound: RecoveryBound
    empirical_threshold: float
    extrapolated: bool
    axial_band: AxialBand
    axial_step: float
    blocks: BlockRanks | None
    verdict: str
    axial_verdict: str
    planes_verdict: str
    lateral_verdict: str
    answer: str
    summary: str
    reasons: tuple[str, ...]
    notes: tuple[str, ...]
    details: tuple[str, ...]
    obtained: dict[str, str]
    stacks: tuple[Diagnosis, ...] = ()
    not_diagnosed: Mapping[str, str] = field(default_factory=dict)

    @property
    def overall_verdict(self) -> str:
        """The verdict on the recovery as a whole, one of those of ``verdict``; ``--fail-under`` compares with it.

        Where no whole plane, row or column is missing it is ``verdict``. Missing ones are predicted by smoothness
        along their axis and not by the low-rank model: then it is the worst of ``planes_verdict`` and what
        ``axial_verdict`` (missing planes) and ``lateral_verdict`` (rows and columns) are worth. Distances that are
        small enough count as ``likely`` (no theorem guarantees them), unknown ones as ``unlikely``, and planes too far
        apart as ``impossible``.
        """
        planes, *lateral = map(bool, self.sampling.empty_slices)
        words = [self.planes_verdict]
        if planes:
            words.append(ALONG_Z[self.axial_verdict])
        if any(lateral):
            words.append(ALONG_Z[self.lateral_verdict])
        return min(words, key=VERDICTS.index)

    @property
    def observed_planes(self) -> int:
        """Number of planes of the wanted stack in which anything was measured."""
        return self.shape[0] - len(self.sampling.empty_slices[0])

    def to_dict(self) -> dict[str, Any]:
        """Everything but the spectra, as numbers, texts, lists and dicts that JSON holds.

        ``rank``, ``mode_coherence``, ``empty_slices`` (indices) and ``empty_fibres`` (counts) have one entry an axis,
        in the order z, y, x. With several stacks ``stacks`` is a list of one such dict each.
        """
        bound, found = self.bound, self.coherence
        content: dict[str, Any] = {
            "answer": self.answer,
            "summary": self.summary,
            "verdict": self.verdict,
            "axial_verdict": self.axial_verdict,
            "planes_verdict": self.planes_verdict,
            "lateral_verdict": self.lateral_verdict,
            "overall_verdict": self.overall_verdict,
            "reasons": list(self.reasons),
            "notes": list(self.notes),
            "details": list(self.details),
            "label": self.label,
            "source": self.source,
            "input_shape": list(self.input_shape),
            "shape": list(self.shape),
            "spacing": None if self.spacing is None else list(self.spacing),
            "axial_factor": self.axial_factor,
            "observed": self.observed,
            "observed_ratio": self.observed_ratio,
            "mask_pattern": self.sampling.pattern,
            "mask_sentence": in_axes(self.sampling.sentence),
            "empty_slices": [list(indices) for indices in self.sampling.empty_slices],
            "empty_fibres": list(self.sampling.empty_fibres),
            "min_slice_count": self.sampling.min_slice_count,
            "rank": list(self.rank),
            "noise_sigma": self.noise_sigma,
            "explained": self.explained,
            "outliers": self.outliers,
            "defects": dict(self.defects),
            "degrees_of_freedom": bound.degrees_of_freedom,
            "effective_rank": bound.effective_rank,
            "mode_coherence": list(found.mode),
            "mu": found.mu,
            "alpha": found.alpha,
            "lambda": found.lam,
            "empirical_threshold": self.empirical_threshold,
            "empirical_threshold_extrapolated": self.extrapolated,
            "bound_theorem1": bound.bound_theorem1,
            "bound_theorem1_simplified": bound.bound_theorem1_simplified,
            "bound_theorem2": bound.bound_theorem2,
            "bound_theorem2_full": bound.bound_theorem2_full,
            "axial_band_limit": self.axial_band.limit,
            "axial_optics_limit": self.axial_band.optics_limit,
            "axial_nyquist_step": self.axial_band.nyquist_step,
            "axial_step": self.axial_step,
            "axial_unit": self.axial_band.unit,
        }
        if self.blocks is not None:
            content["block_shape"] = list(self.blocks.block)
            content["block_ranks"] = [list(rank) for rank in self.blocks.ranks]
        content["obtained"] = dict(self.obtained)
        content["not_diagnosed"] = dict(self.not_diagnosed)
        if self.stacks:
            content["stacks"] = [report.to_dict() for report in self.stacks]
        return content

    def to_html(self, path: str | os.PathLike[str]) -> None:
        """Write one self-contained HTML page; it appears whole or not at all.

        Raises
        ------
        InputError
            If the suffix is not ``.html`` or the file cannot be written.
        """
        pages.write(self, path)

    def __str__(self) -> str:
        """At most 24 lines of at most 96 columns: the answer, what to know of the stack, and the numbers."""
        last = "The reasons: `tensorcell diagnose --details`; in Python print(diagnosis.text(details=True))."
        return f"{self.text()}\n\n{last}"

    def __repr__(self) -> str:
        return str(self)

    def text(self, details: bool = False) -> str:
        """The answer, what to know of the stack, the numbers and, where they are asked for, the reasons.

        Parameters
        ----------
        details : bool
            Add the theory behind the verdicts, a paragraph each, and its numbers.
        """
        notes = shortened(" ".join(map(as_sentence, self.notes)), 6 * WIDTH)
        parts = [*textwrap.wrap(self.answer, WIDTH), *textwrap.wrap(notes, WIDTH, max_lines=7, placeholder=" ...")]
        lines = [*parts, "", *rows_of(numbers(self), one_line)]
        if details:
            paragraphs = ("\n".join(textwrap.wrap(paragraph, WIDTH)) for paragraph in self.details)
            lines += ["", "Details", "-------", "\n\n".join(paragraphs), "", *rows_of(theory(self), hanging)]
        return "\n".join(lines)


def rows_of(rows: Iterable[tuple[str, str]], shown: Callable[[str], str]) -> list[str]:
    """The lines of a table of names and values."""
    return [f"{name:<20} {shown(value)}" for name, value in rows]


def hanging(text: str) -> str:
    """A value of the table, on as many lines as it takes."""
    return textwrap.fill(text, WIDTH, initial_indent=" " * 21, subsequent_indent=" " * 21).lstrip()


def one_line(text: str) -> str:
    """A value of the table, cut to its column."""
    return textwrap.shorten(text, WIDTH - 21, placeholder=" ...")


def shortened(text: str, characters: int) -> str:
    """The text, cut at a space."""
    return textwrap.shorten(text, characters, placeholder=" ...")


def in_axes(text: str) -> str:
    """A sentence about modes as one about the axes z, y and x.

    >>> in_axes("every 4th slice of mode 0 is observed wholly")
    'every 4th slice along z is observed wholly'
    """
    text = re.sub(r"\bof mode ([012])\b", lambda found: f"along {'zyx'[int(found[1])]}", text)
    return re.sub(r"\bmode[ -]([012])\b", lambda found: "zyx"[int(found[1])], text)


def table(report: Diagnosis) -> list[tuple[str, str]]:
    """Names and values for the page: those of the screen, and those of the theory."""
    return [*numbers(report), *theory(report)]


def numbers(report: Diagnosis) -> list[tuple[str, str]]:
    """Names and values for the screen, at most 9."""
    shape, band = report.shape, report.axial_band
    size = "voxel size unknown"
    if report.spacing is not None:
        size = " x ".join(f"{step:.4g}" for step in report.spacing) + " um"
    stack = f"{' x '.join(map(str, shape))} (z, y, x), {size}"
    if report.axial_factor > 1:
        stack += f", {report.input_shape[0]} planes given"
    rows = [
        ("stack wanted", stack),
        ("measured", f"{report.observed:,} of {math.prod(shape):,} voxels ({report.observed_ratio:.3g})"),
    ]
    if any(report.sampling.empty_slices):
        lacking = zip(report.sampling.empty_slices, shape, ("planes", "rows", "columns"), strict=True)
        rows.append(("never measured", ", ".join(f"{len(s):,} of {n:,} {name}" for s, n, name in lacking)))
    distances = f"planes {report.axial_verdict}"
    if any(report.sampling.empty_slices[1:]):
        distances += f", rows {report.lateral_verdict}"
    rows += [
        ("noise", f"{report.noise_sigma:.4g} (standard deviation, in the unit of the data)"),
        ("outliers", f"{report.outliers:,} voxels{by_kind(report.defects)}"),
        ("planes along z", f"measured {apart_text(report)} apart; {needed_text(band)}"),
        ("verdict", f"{report.overall_verdict} (low-rank model {report.verdict}, {distances})"),
    ]  # fmt: skip
    if report.blocks is not None:
        rows.append(("rank of blocks", block_text(report.blocks)))
    if report.stacks:
        rows.insert(0, ("stack shown", f"{report.label}, the worst of {len(report.stacks)}"))
    return rows


def apart_text(report: Diagnosis) -> str:
    """How far the measured planes are apart."""
    text = length_text(report.axial_step, report.axial_band.unit)
    return f"{text} of the given stack" if report.axial_factor > 1 and report.spacing is None else text


def needed_text(band: AxialBand) -> str:
    """How close planes have to be for the structures of the stack."""
    if band.nyquist_step is None:
        return "how close they have to be is unknown"
    return f"its structures need them at most {length_text(band.nyquist_step, band.unit)} apart"


def theory(report: Diagnosis) -> list[tuple[str, str]]:
    """Names and values of what the verdicts rest on."""
    shape, sampling, bound, found = report.shape, report.sampling, report.bound, report.coherence
    fibres = ", ".join(
        f"{count:,} of {math.prod(shape) // n:,} along {a}"
        for count, n, a in zip(sampling.empty_fibres, shape, "zyx", strict=True)
    )
    simplified = samples(bound.bound_theorem1_simplified)
    return [
        ("sampling", in_axes(sampling.sentence)),
        ("fewest in a slice", f"{sampling.min_slice_count:,} samples"),
        ("fibres unmeasured", fibres),
        ("rank", f"{' x '.join(map(str, report.rank))} explains {100 * report.explained:.3g} % of the variance: "
         + in_axes(report.rank_reason)),
        ("coherence", ", ".join(f"{v:.3g} {a}" for v, a in zip(found.mode, "zyx", strict=True))
         + f"; mu* {found.mu:.3g}, alpha* {found.alpha:.3g}, lambda* {found.lam:.3g}"),
        ("samples: necessary", f"{bound.degrees_of_freedom:,} degrees of freedom"),
        ("  empirical", samples(report.empirical_threshold) + (", extrapolated" if report.extrapolated else "")),
        ("  theorem 1 (C = 1)", f"{samples(bound.bound_theorem1)}; simplified {simplified}"),
        ("  theorem 2 (C = 1)", f"{samples(bound.bound_theorem2_full)}; as printed {samples(bound.bound_theorem2)}"),
        ("band limit along z", band_text(report.axial_band)),
    ]  # fmt: skip


def by_kind(defects: Mapping[str, int]) -> str:
    """The number of each kind, in parentheses.

    >>> by_kind({"hot": 28, "dark": 3})
    ' (28 hot, 3 dark)'
    """
    return f" ({', '.join(f'{count:,} {kind}' for kind, count in defects.items())})" if defects else ""


def samples(needed: float | None) -> str:
    """The smallest whole number that reaches a bound.

    >>> samples(13_882.3)
    '13,883'
    """
    return "unknown" if needed is None else f"{math.ceil(needed):,}"


def band_text(band: AxialBand) -> str:
    """Band limit and Nyquist step in words."""
    if band.limit is None or band.nyquist_step is None:
        return "unknown"
    optics = "" if band.optics_limit is None else f" (widefield optics {band.optics_limit:.3g} per um)"
    unit = "um" if band.unit == "um" else "voxel"
    needed = length_text(band.nyquist_step, band.unit)
    return f"{band.limit:.3g} cycles per {unit}, so that planes may be {needed} apart (Nyquist step){optics}"


def block_text(blocks: BlockRanks) -> str:
    """Median and range of the ranks of blocks, and of their largest entries (RCT's Figure 7a)."""
    ranks = np.array(blocks.ranks)
    largest = ranks.max(axis=1)
    middle = " x ".join(f"{value:g}" for value in np.median(ranks, axis=0))
    return (
        f"median {middle}; largest entry {largest.mean():.3g} on average, {largest.min()} to {largest.max()}, "
        f"in {len(ranks)} blocks of {' x '.join(map(str, blocks.block))}"
    )
