"""`diagnose`: is this sampling enough, and how far may a recovery be trusted?

Every channel and time frame is one 3-D stack and is diagnosed on its own:

1. the mask: counts, slices and fibres without any sample, its pattern (:mod:`tensorcell.solvers.sampling`);
2. noise and multilinear rank of what was measured (:mod:`tensorcell.gaps`, :mod:`tensorcell.solvers.ranks`);
3. a cheap robust Tucker fit at that rank on the slices that hold samples: outliers, and factors for the coherences;
4. samples needed: degrees of freedom, empirical threshold, two theorems (:mod:`tensorcell.solvers.bounds`);
5. along z, for planes that no low-rank argument covers: band limit and Nyquist step (:mod:`tensorcell.axial`).
"""

from __future__ import annotations

import math
import os
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from tensorcell import gaps, recovery
from tensorcell.axial import AxialBand, axial_band, axial_verdict, optics_limits
from tensorcell.errors import InputError
from tensorcell.solvers.bounds import Coherence, RecoveryBound, coherence, recovery_bound, verdict
from tensorcell.solvers.completion import complete_tucker
from tensorcell.solvers.rank_limits import affordable, degrees_of_freedom
from tensorcell.solvers.ranks import BlockRanks, block_ranks, estimate_rank
from tensorcell.solvers.results import CompletionResult
from tensorcell.solvers.sampling import Sampling, describe_sampling
from tensorcell.solvers.thresholds import empirical_threshold
from tensorcell.volume import Stack, Volume, stacks

Array = npt.NDArray[Any]
Rank = tuple[int, ...]

VERDICTS = ("impossible", "unlikely", "likely", "guaranteed")
"""From the worst to the best."""
AXIAL_VERDICTS = ("aliased", "unknown", "resolved")
RANDOM_PATTERNS = ("full", "uniform")
"""The theorems speak of these alone."""
FIT_TOLERANCE, FIT_ITERATIONS = 5e-2, 3
ROUNDING = 1e-7
"""Noise below this share of the range of intensities is called zero."""
WELL_EXPLAINED, HALF_EXPLAINED = 0.9, 0.5
"""Shares of the variance: below the first the theorem is silent on too much, below the second the model is not it."""

WIDTH = 96
"""Columns of the terminal."""


# ------------------------------------------------------------------------------------------------------ report


@dataclass(frozen=True, kw_only=True, eq=False)
class RecoveryReport:
    """What :func:`diagnose` returns; ``str()`` is one screen of text, with the verdicts in its first sentence.

    Of a volume of several channels or frames it speaks of the stack with the worst verdict (``label`` names it), and
    ``stacks`` holds the reports of all.

    Attributes
    ----------
    label, source : str
        Which stack of which file; empty where there is only one, or no file.
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
        Share of the variance of the measured voxels, noise and outliers taken off, that the low-rank model holds.
    outliers : int
        Measured voxels far from the low-rank model and from what their neighbours leave over.
    coherence : Coherence
        mu_j, mu*, alpha*, lambda* of the fitted model.
    bound : RecoveryBound
        Numbers of samples by the theorems, and the degrees of freedom.
    empirical_threshold : float
        Samples from which simulations succeed.
    extrapolated : bool
        Whether the threshold lies outside the simulated range.
    axial_band : AxialBand
        Band limit along z.
    axial_step : float
        Largest distance between measured planes, in ``axial_band.unit``.
    blocks : BlockRanks or None
        Ranks of blocks, where asked for.
    verdict, axial_verdict : str
        ``impossible``, ``unlikely``, ``likely`` or ``guaranteed``; ``aliased``, ``unknown`` or ``resolved``.
    summary : str
        First sentence: both verdicts.
    reasons : tuple of str
        Why, a sentence each.
    obtained : dict
        For each key of :meth:`to_dict` that holds a number, how that was obtained.
    stacks : tuple of RecoveryReport
        All stacks, where there are several.
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
    coherence: Coherence
    bound: RecoveryBound
    empirical_threshold: float
    extrapolated: bool
    axial_band: AxialBand
    axial_step: float
    blocks: BlockRanks | None
    verdict: str
    axial_verdict: str
    summary: str
    reasons: tuple[str, ...]
    obtained: dict[str, str]
    stacks: tuple[RecoveryReport, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Everything but the spectra, as numbers, texts, lists and dicts that JSON holds.

        ``rank``, ``mode_coherence``, ``empty_slices`` (indices) and ``empty_fibres`` (counts) have one entry an axis,
        in the order z, y, x. With several stacks ``stacks`` is a list of one such dict each.
        """
        bound, found = self.bound, self.coherence
        content: dict[str, Any] = {
            "summary": self.summary,
            "verdict": self.verdict,
            "axial_verdict": self.axial_verdict,
            "reasons": list(self.reasons),
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
        from tensorcell.diagnosis_page import write_page

        write_page(path, self)

    def __str__(self) -> str:
        """At most 24 lines of at most 96 columns."""
        told = shortened(" ".join([self.summary, *self.reasons]), 7 * WIDTH)
        lines = textwrap.wrap(told, WIDTH, max_lines=8, placeholder=" ...")
        return "\n".join([*lines, "", *(f"{name:<20} {one_line(value)}" for name, value in table(self))])


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


def table(report: RecoveryReport) -> list[tuple[str, str]]:
    """Names and values for the screen and the page, at most 15."""
    shape, sampling, bound, found = report.shape, report.sampling, report.bound, report.coherence
    size = "voxel size unknown"
    if report.spacing is not None:
        size = " x ".join(f"{step:.4g}" for step in report.spacing) + " um"
    stack = f"{' x '.join(map(str, shape))} (z, y, x), {size}"
    if report.axial_factor > 1:
        stack += f", {report.input_shape[0]} planes given"
    empty = ", ".join(f"{len(s)} of {n} {a}" for s, n, a in zip(sampling.empty_slices, shape, "zyx", strict=True))
    fibres = ", ".join(
        f"{count:,} of {math.prod(shape) // n:,} along {a}"
        for count, n, a in zip(sampling.empty_fibres, shape, "zyx", strict=True)
    )
    band, simplified = report.axial_band, samples(bound.bound_theorem1_simplified)
    rows = [
        ("stack wanted", stack),
        ("observed", f"{report.observed:,} of {math.prod(shape):,} voxels ({report.observed_ratio:.3g})"),
        ("sampling", in_axes(sampling.sentence)),
        ("slices unmeasured", f"{empty}; fewest samples in a slice: {sampling.min_slice_count:,}"),
        ("fibres unmeasured", fibres),
        ("rank", f"{' x '.join(map(str, report.rank))} holds {100 * report.explained:.3g} % of the variance: "
         + in_axes(report.rank_reason)),
        ("noise, outliers", f"{report.noise_sigma:.4g} (standard deviation), {report.outliers:,} voxels"),
        ("coherence", ", ".join(f"{v:.3g} {a}" for v, a in zip(found.mode, "zyx", strict=True))
         + f"; mu* {found.mu:.3g}, alpha* {found.alpha:.3g}, lambda* {found.lam:.3g}"),
        ("samples: necessary", f"{bound.degrees_of_freedom:,} degrees of freedom"),
        ("  empirical", samples(report.empirical_threshold) + (", extrapolated" if report.extrapolated else "")),
        ("  theorem 1 (C = 1)", f"{samples(bound.bound_theorem1)}; simplified {simplified}"),
        ("  theorem 2 (C = 1)", f"{samples(bound.bound_theorem2_full)}; as printed {samples(bound.bound_theorem2)}"),
        ("planes along z", f"step {report.axial_step:.4g} {band.unit}, " + band_text(band)),
    ]  # fmt: skip
    if report.blocks is not None:
        rows.append(("rank of blocks", block_text(report.blocks)))
    if report.stacks:
        name = f"{report.label}, the worst of {len(report.stacks)}"
        rows.insert(0, ("stack shown", name))
    return rows


def samples(needed: float | None) -> str:
    """The smallest whole number that reaches a bound.

    >>> samples(13_882.3)
    '13,883'
    """
    return "unknown" if needed is None else f"{math.ceil(needed):,}"


def band_text(band: AxialBand) -> str:
    """Band limit and Nyquist step in words."""
    if band.limit is None or band.nyquist_step is None:
        return "band limit unknown"
    optics = "" if band.optics_limit is None else f" (widefield optics {band.optics_limit:.3g} per um)"
    return f"Nyquist step {band.nyquist_step:.3g} {band.unit}, band limit {band.limit:.3g} per {band.unit}{optics}"


def block_text(blocks: BlockRanks) -> str:
    """Median and range of the ranks of blocks, and of their largest entries (RCT's Figure 7a)."""
    ranks = np.array(blocks.ranks)
    largest = ranks.max(axis=1)
    middle = " x ".join(f"{value:g}" for value in np.median(ranks, axis=0))
    return (
        f"median {middle}; largest entry {largest.mean():.3g} on average, {largest.min()} to {largest.max()}, "
        f"in {len(ranks)} blocks of {' x '.join(map(str, blocks.block))}"
    )


# --------------------------------------------------------------------------------------------------- diagnosis


class _Request(NamedTuple):
    """The checked arguments that are the same for every stack."""

    axial_factor: int
    rank: Rank | None
    noise: float | None
    optics: dict[str, float | None]
    blocks: bool
    seed: int


def diagnose(
    data: Volume | npt.ArrayLike,
    mask: npt.ArrayLike | None = None,
    *,
    axial_factor: int = 1,
    noise: Literal["auto"] | float = "auto",
    rank: Literal["auto"] | int | Sequence[int] = "auto",
    na: float | None = None,
    wavelength: float | None = None,
    refractive_index: float | None = None,
    blocks: bool = False,
    axes: str | None = None,
    spacing: tuple[float, float, float] | None = None,
    seed: int = 0,
) -> RecoveryReport:
    """Say whether a volume was sampled densely enough to be recovered, by what, and on which grounds.

    Parameters
    ----------
    data : Volume or array
        Intensities in any unit; NaN means not measured. An unknown 3-D array is ZYX.
    mask : bool array of the same shape, optional
        True = measured. Measured is what the mask *and* NaN allow; an infinity there is an error.
    axial_factor : int
        ``s``: the planes given are planes 0, s, 2s, ... of the wanted stack, which has ``(n - 1) s + 1`` planes.
    noise : "auto" or float
        Standard deviation of the noise in the data's unit.
    rank : "auto", int or three ints
        Multilinear rank along z, y and x to judge by.
    na, wavelength, refractive_index : float, optional
        Numerical aperture, emission wavelength in micrometres in vacuum, and refractive index of the medium: all or
        none. They give the band limit of the optics along z.
    blocks : bool
        Estimate the rank of blocks, too.
    axes, spacing
        For arrays: as in :class:`Volume`.
    seed : int
        Of random subgrids and of the voxels that the choice of the rank leaves out.

    Returns
    -------
    RecoveryReport

    Raises
    ------
    InputError
        If nothing was measured, a rank is above its axis or above the product of the others, optics are out of range,
        or the input cannot be used at all; one line says what, expected and got. Too few samples are a verdict.

    Notes
    -----
    ``verdict`` speaks of the low-rank model alone: ``impossible`` (fewer samples than degrees of freedom, or a slice of
    any axis without samples), ``unlikely`` (below the empirical threshold), ``likely``, ``guaranteed`` (the form of
    Theorem 2 with its unknown constant set to 1; only for masks that agree with uniform random sampling, for the
    theorem speaks of no other). ``axial_verdict`` speaks of the distance between planes: smoothness along z is what
    stands in for the theorem where whole planes were not measured.

    Coherences are those of a model fitted to what was measured. Cost: a few fits of a low rank; memory about two bytes
    a voxel beyond the data as float32.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> tensor = np.einsum("ir,jr,kr->ijk", *(rng.standard_normal((n, 2)) for n in (30, 40, 50)))
    >>> report = diagnose(tensor, rng.random(tensor.shape) < 0.4)
    >>> report.rank, report.verdict, report.sampling.pattern
    ((2, 2, 2), 'guaranteed', 'uniform')
    >>> diagnose(tensor[::2], axial_factor=2, rank=2).verdict
    'impossible'
    """
    volume = Volume.from_array(data, axes=axes, spacing=spacing, mask=mask)
    request = checked_request(axial_factor, noise, rank, na, wavelength, refractive_index, blocks, seed)
    recovery.check_shape(volume)
    reports = []
    for stack in stacks(volume):
        try:
            reports.append(diagnose_stack(stack, volume, request))
        except InputError as error:
            raise InputError(f"{stack.label}: {error}" if stack.label else str(error)) from None
    worst = min(reports, key=severity)
    return worst if len(reports) == 1 else replace(worst, stacks=tuple(reports))


def severity(report: RecoveryReport) -> tuple[int, int, float]:
    """Sorts reports from the worst to the best: both verdicts, then samples over the empirical threshold."""
    words = VERDICTS.index(report.verdict), AXIAL_VERDICTS.index(report.axial_verdict)
    return *words, report.observed / report.empirical_threshold


def checked_request(
    axial_factor: Any, noise: Any, rank: Any, na: Any, wavelength: Any, refractive_index: Any, blocks: Any, seed: Any
) -> _Request:
    """Check every argument that does not depend on the stack."""
    whole = isinstance(axial_factor, Real) and not isinstance(axial_factor, bool) and float(axial_factor).is_integer()
    if not whole or axial_factor < 1:
        raise InputError(f"expected a whole axial factor of at least 1, got {axial_factor!r}")
    number = isinstance(noise, Real) and not isinstance(noise, bool) and 0 <= float(noise) < math.inf
    if not number and not (isinstance(noise, str) and noise == "auto"):
        raise InputError(f"expected noise 'auto' or a standard deviation of at least 0, got {noise!r}")
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise InputError(f"expected a whole seed of at least 0, got {seed!r}")
    optics_limits(na, wavelength, refractive_index)
    optics = {"na": na, "wavelength": wavelength, "refractive_index": refractive_index}
    return _Request(
        int(axial_factor),
        recovery.whole_rank(rank),
        float(noise) if number else None,
        optics,
        bool(blocks),
        int(seed),
    )


def diagnose_stack(stack: Stack, volume: Volume, request: _Request) -> RecoveryReport:
    """Diagnose one 3-D stack (see the top of this file for the steps)."""
    y = np.asarray(stack.data, dtype=recovery.float_type(stack.data.dtype))
    seen = ~np.isnan(y)
    if stack.mask is not None:
        seen &= stack.mask
    recovery.check_measured(y, seen)
    factor = request.axial_factor
    shape = ((y.shape[0] - 1) * factor + 1, *y.shape[1:])
    if request.rank is not None:
        recovery.check_rank(request.rank, shape, False)
    wanted = seen if factor == 1 else np.zeros(shape, bool)
    if factor > 1:
        wanted[::factor] = seen
    sampling = describe_sampling(wanted)
    counts = slice_counts(wanted)
    del wanted

    model = fit_model(y, seen, request)
    bound = recovery_bound(
        shape, model.rank, mu=model.coherence.mu, alpha=model.coherence.alpha, lam=model.coherence.lam,
        sparsity=model.outliers,
    )  # fmt: skip
    pattern = "lines" if sampling.pattern == "lines" else "uniform"
    threshold = empirical_threshold(shape, model.rank, pattern=pattern)
    word, sentence = verdict(
        observed=sampling.observed,
        total=math.prod(shape),
        degrees_of_freedom=bound.degrees_of_freedom,
        empty_slices=any(sampling.empty_slices),
        empirical=threshold.samples,
        theorem=bound.bound_theorem2_full,
    )
    if word == "guaranteed" and sampling.pattern not in RANDOM_PATTERNS:
        word = "likely"
        sentence = (
            f"The low-rank model is likely to recover this: {sampling.observed:,} samples reach the empirical "
            f"threshold of {math.ceil(threshold.samples):,}; the theorem speaks of uniform random sampling only, "
            "and this is not."
        )
    word, sentence = by_share(word, sentence, model.explained, sampling.ratio)

    fine = None if volume.spacing is None else (volume.spacing[0] / factor, *volume.spacing[1:])
    band = axial_band(y, volume.spacing, mask=seen, noise=request.noise, **request.optics)
    known = np.flatnonzero(counts[0])
    step = axial_step(known) * (1.0 if fine is None else fine[0]) / (factor if fine is None else 1)
    axial_word, axial_sentence = axial_verdict(step, band)
    beyond = int(known[0]) + shape[0] - 1 - int(known[-1])
    if beyond and axial_word == "resolved":
        axial_word = "unknown"
        axial_sentence = f"unknown: {beyond} planes lie beyond the measured ones, where smoothness does not reach"
    report = RecoveryReport(
        label=stack.label,
        source=str(volume.metadata.get("source", "")),
        input_shape=y.shape,
        shape=shape,
        spacing=fine,
        axial_factor=factor,
        observed=sampling.observed,
        observed_ratio=sampling.ratio,
        sampling=sampling,
        slice_counts=counts,
        rank=model.rank,
        spectra=model.spectra,
        spectra_edges=model.edges,
        rank_reason=model.reason,
        noise_sigma=model.noise,
        explained=model.explained,
        outliers=model.outliers,
        coherence=model.coherence,
        bound=bound,
        empirical_threshold=float(threshold.samples),
        extrapolated=bool(threshold.extrapolated),
        axial_band=band,
        axial_step=step,
        blocks=model.blocks,
        verdict=word,
        axial_verdict=axial_word,
        summary=first_sentence(word, axial_word, sampling, shape),
        reasons=(sentence, as_sentence(axial_sentence)),
        obtained={},
    )
    return replace(report, obtained=how_obtained(report, model, threshold.sentence))


def slice_counts(mask: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.int64], ...]:
    """Number of True in every slice of a 3-D mask, one array an axis."""
    rows, columns = np.zeros(mask.shape[1], np.int64), np.zeros(mask.shape[2], np.int64)
    planes = np.zeros(mask.shape[0], np.int64)
    for z, plane in enumerate(mask):
        in_rows = plane.sum(axis=1)
        planes[z] = in_rows.sum()
        if planes[z]:
            rows += in_rows
            columns += plane.sum(axis=0)
    return planes, rows, columns


def axial_step(known: npt.NDArray[np.integer]) -> int:
    """Largest distance between successive measured planes, in planes of the wanted stack (1 where only one is)."""
    return int(np.diff(known).max(initial=1))


def first_sentence(word: str, axial_word: str, sampling: Sampling, shape: Sequence[int]) -> str:
    """Both verdicts; where whole slices lack, also that the theorem is silent and what stands in for it."""
    missing = [
        f"{len(indices)} of {size} {name}"
        for indices, size, name in zip(sampling.empty_slices, shape, ("planes", "rows", "columns"), strict=True)
        if indices
    ]
    along_z = {
        "resolved": "the measured planes are close enough to tell what lies between them (resolved)",
        "aliased": "the measured planes are too far apart to tell what lies between them (aliased)",
        "unknown": "whether the measured planes tell what lies between them is unknown",
    }[axial_word]
    if not missing:
        return f"Recovery by the low-rank model is {word}; along z {along_z}."
    which = ", ".join(missing)
    what = f"No low-rank theorem covers this sampling ({which} were never measured): by low rank alone it is {word}"
    if not sampling.empty_slices[0]:
        return f"{what}, and nothing stands in for it; along z {along_z}."
    only = "for the planes " if any(sampling.empty_slices[1:]) else ""
    return f"{what}; {only}smoothness along z stands in for it, and by that {along_z}."


def as_sentence(text: str) -> str:
    """With a capital and a full stop."""
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


# ------------------------------------------------------------------------------------------------------- model


class _Model(NamedTuple):
    """The estimated low-rank model of one stack, as far as the report needs it."""

    rank: Rank
    reason: str
    spectra: tuple[tuple[float, ...], ...]
    edges: tuple[float, ...]
    noise: float
    noise_obtained: str
    explained: float
    outliers: int
    outliers_obtained: str
    coherence: Coherence
    blocks: BlockRanks | None


def fit_model(y: Array, seen: Array, request: _Request) -> _Model:
    """Rank, noise, outliers and coherence of what was measured.

    Slices without samples are left out: they are in no equation. A rank with more unknowns than samples is judged as it
    is, but the coherences then come from a fit of the largest rank that the samples carry.
    """
    known = [np.flatnonzero(counts) for counts in slice_counts(seen)]
    if any(len(indices) < size for indices, size in zip(known, y.shape, strict=True)):
        y, seen = y[np.ix_(*known)], seen[np.ix_(*known)]
    y, seen = np.ascontiguousarray(y), np.ascontiguousarray(seen)
    observed = int(np.count_nonzero(seen))
    second = gaps.estimate_noise(y, seen) if request.noise is None else 0.0
    differences = "median of second differences within planes: an upper bound where the image is sharp"
    lowest, highest = np.min(y, where=seen, initial=np.inf), np.max(y, where=seen, initial=-np.inf)
    given = "given"
    if lowest == highest or observed < degrees_of_freedom((1, 1, 1), y.shape):
        constant = lowest == highest
        why = (
            f"all measured voxels are {float(lowest):g}" if constant else "fewer samples than a tensor of rank 1 needs"
        )
        model = [np.ones((size, 1)) for size in y.shape]
        even = coherence(np.ones((1, 1, 1)), model)
        sources = dict.fromkeys(even.obtained, f"of a constant tensor: {why}")
        return _Model(
            rank=request.rank or (1, 1, 1),
            reason=given if request.rank else why,
            spectra=(),
            edges=(),
            noise=second if request.noise is None else request.noise,
            noise_obtained=differences if request.noise is None else given,
            explained=1.0 if constant else 0.0,
            outliers=0,
            outliers_obtained=f"none looked for: {why}",
            coherence=replace(even, obtained=sources),
            blocks=None,
        )

    spectra: tuple[tuple[float, ...], ...] = ()
    edges: tuple[float, ...] = ()
    rank, reason, sigma = request.rank, given, math.inf
    if rank is None:
        estimate = estimate_rank(y, seen, noise=request.noise, seed=request.seed)
        rank, reason, spectra, edges = estimate.rank, estimate.reason, estimate.spectra, estimate.thresholds
        sigma = estimate.noise
    fitted = tuple(min(r, size) for r, size in zip(rank, y.shape, strict=True))
    if degrees_of_freedom(fitted, y.shape) > observed:
        fitted = affordable(fitted, y.shape, observed / 2)
    else:
        fitted = affordable(fitted, y.shape, math.inf)
    fit = complete_tucker(y, seen, fitted, tolerance=FIT_TOLERANCE, max_iterations=FIT_ITERATIONS)
    cut = fit.history[-1].threshold
    block = gaps.central_block(y.shape)
    residual = y[block] - recovery.model_planes(fit, block[0])[:, block[1], block[2]]
    inside = residual[seen[block]]
    if inside.size >= 50:
        share = max(0.1, 1 - degrees_of_freedom(fitted, y.shape) / observed)
        sigma = min(
            float(np.nan_to_num(sigma, nan=math.inf)), 1.4826 * float(np.median(np.abs(inside))) / math.sqrt(share)
        )
    if request.noise is not None:
        sigma, said = request.noise, given
    elif 0 < second < sigma or not math.isfinite(sigma):
        sigma, said = second, differences
    else:
        said = "robust spread of what a fit of that rank leaves over: an upper bound where structure is not of low rank"
        if sigma < ROUNDING * float(highest - lowest):
            sigma, said = 0.0, f"{said}; zero to the precision of the fit"
    judged = judge_model(y, seen, fit, sigma)
    if (
        judged.explained < WELL_EXPLAINED
    ):  # bright structures may have passed for outliers: once more with all but those
        inlier = seen.copy()
        inlier.ravel()[judged.outliers] = False
        again = complete_tucker(y, inlier, fitted, robust=False, tolerance=FIT_TOLERANCE, max_iterations=FIT_ITERATIONS)
        second_look = judge_model(y, inlier, again, sigma)
        if second_look.explained > judged.explained:
            fit, judged = again, judged._replace(explained=second_look.explained)
    found = coherence(fit.tucker.core, fit.tucker.factors)
    if fitted != rank:
        found = replace(
            found,
            obtained={
                key: f"{how} (of rank {fitted}: more the samples do not carry)" for key, how in found.obtained.items()
            },
        )
    return _Model(
        rank=rank,
        reason=reason,
        spectra=spectra,
        edges=edges,
        noise=sigma,
        noise_obtained=said,
        explained=judged.explained,
        outliers=len(judged.outliers),
        outliers_obtained=f"measured voxels more than {cut:.3g} from a robust fit of rank "
        f"{' x '.join(map(str, fitted))} and from what it leaves over at their neighbours",
        coherence=found,
        blocks=block_ranks(y, seen, seed=request.seed) if request.blocks else None,
    )


class _Judged(NamedTuple):
    """Flat positions of the outliers of a fit, and the share of the variance of the rest that its model holds."""

    outliers: npt.NDArray[np.int64]
    explained: float


def judge_model(y: Array, seen: Array, fit: CompletionResult, sigma: float) -> _Judged:
    """Outliers are measured voxels that the fit flags and whose residual their neighbours do not share.

    Of the variance of the others, and of what the model leaves over, that of the noise is taken off; the latter is
    divided by the share of the samples that the degrees of freedom leave.
    """
    positions = np.asarray(fit.sparse.positions)
    plane, count, alone = math.prod(y.shape[1:]), 0, [np.zeros(0, np.int64)]
    left = total = squares = 0.0
    for slab in recovery.slabs(y.shape):
        wide = slice(max(0, slab.start - 1), min(len(y), slab.stop + 1))
        here = positions[(positions >= slab.start * plane) & (positions < slab.stop * plane)] - wide.start * plane
        residual, inlier = y[wide] - recovery.model_planes(fit, wide), seen[wide].copy()
        if len(here):
            here = here[gaps.isolated(residual, seen[wide], here, fit.history[-1].threshold)]
            inlier.ravel()[here] = False
            alone.append(here + wide.start * plane)
        inner = slice(slab.start - wide.start, slab.stop - wide.start)
        values, rest = y[slab][inlier[inner]], residual[inner][inlier[inner]]
        count += values.size
        total += float(np.sum(values, dtype=np.float64))
        squares += float(np.sum(np.square(values, dtype=np.float64)))
        left += float(np.sum(np.square(rest, dtype=np.float64)))
    count = max(count, 1)
    structure = squares / count - (total / count) ** 2 - sigma**2
    free = max(0.1, 1 - degrees_of_freedom(fit.rank, y.shape) / count)
    lost = max(left / count / free - sigma**2, 0.0)
    explained = min(1.0, max(0.0, 1 - lost / structure)) if structure > 0 else 0.0
    return _Judged(np.concatenate(alone), explained)


def by_share(word: str, sentence: str, explained: float, observed: float) -> tuple[str, str]:
    """The verdict, lowered where the model holds too little of the data: a bound speaks for the model alone."""
    if explained >= WELL_EXPLAINED or word not in ("guaranteed", "likely"):
        return word, sentence
    share = f"a model of this rank holds only {100 * explained:.3g} % of the variance of what was measured"
    if explained < HALF_EXPLAINED and observed < 1:
        return "unlikely", f"The low-rank model is unlikely to recover this: {share}."
    if word == "guaranteed":
        return (
            "likely",
            f"The low-rank model is likely to recover its part of this, but {share}, and no bound the rest.",
        )
    return word, f"{sentence} But {share}."


def how_obtained(report: RecoveryReport, model: _Model, threshold: str) -> dict[str, str]:
    """For each number of the report, one sentence on where it comes from."""
    found = report.coherence.obtained
    theorem = "with its unknown constant set to 1"
    wanted = "counted in the mask of the wanted stack"
    return {
        "shape": "planes given, and those between them" if report.axial_factor > 1 else "that of the input",
        "observed": "counted: allowed by the mask and not NaN",
        "observed_ratio": "observed over all voxels of the wanted stack",
        "empty_slices": wanted,
        "empty_fibres": wanted,
        "min_slice_count": f"{wanted}, over the slices of all axes",
        "mask_pattern": in_axes(report.sampling.sentence),
        "rank": model.reason,
        "noise_sigma": model.noise_obtained,
        "explained": "1 - (variance left over by the fit - noise) / (variance of the data - noise), outliers apart",
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
