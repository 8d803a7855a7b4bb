"""`diagnose`: is this sampling enough, and how far may a recovery be trusted?

Every channel and time frame is one 3-D stack and is diagnosed on its own:

1. the mask: counts, slices and fibres without any sample, its pattern (:mod:`tensorcell.solvers.sampling`);
2. noise, rank, global fit and outliers of what was measured, as `recover` has them (`tensorcell.model`), and the
   coherences of the fit (`tensorcell.diagnosis.low_rank`);
3. samples needed: degrees of freedom, empirical threshold, two theorems (:mod:`tensorcell.solvers.bounds`);
4. along z, for planes that a low-rank model cannot predict: band limit and Nyquist step (`tensorcell.axial`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tensorcell import arguments
from tensorcell.axial import AxialBand, axial_band, axial_verdict, optics_limits
from tensorcell.axial.verdict import TOLERANCE
from tensorcell.constant_blocks import constant_blocks, share_notes
from tensorcell.defect_notes import checked_psf, psf_in_voxels
from tensorcell.diagnosis.answer import answer
from tensorcell.diagnosis.low_rank import LowRankModel, low_rank_model
from tensorcell.diagnosis.result import AXIAL_VERDICTS, VERDICTS, Diagnosis
from tensorcell.diagnosis.sentences import by_share, first_sentence, how_obtained, paragraphs
from tensorcell.errors import InputError
from tensorcell.fitting import Fitting
from tensorcell.memory import BYTES_OF_DIAGNOSIS, check_affordable
from tensorcell.missing_value import without_value
from tensorcell.plane_grid import PlaneGrid
from tensorcell.solvers import RecoveryBound, Sampling, describe_sampling, empirical_threshold, recovery_bound, verdict
from tensorcell.stack import given_stack
from tensorcell.volume import Stack, Volume, stacks
from tensorcell.volume_checks import notes_on_file
from tensorcell.words import as_sentence

Array = npt.NDArray[Any]

RANDOM_PATTERNS = ("full", "uniform")
"""The patterns of a mask for which the theorems hold."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """The checked arguments, which are the same for every stack."""

    axial_factor: int
    rank: arguments.Rank | None
    noise: float | None
    optics: dict[str, float | None]
    blocks: bool
    fitting: Fitting
    psf: tuple[float, float, float] | None


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
    psf_fwhm: Sequence[float] | None = None,
    missing_value: float | None = None,
    axes: str | None = None,
    spacing: tuple[float, float, float] | None = None,
    seed: int = 0,
) -> Diagnosis:
    """Say whether a volume was sampled densely enough to be recovered by low rank or by smoothness along z, and why.

    Parameters
    ----------
    data : Volume or array
        Intensities in any unit; NaN means not measured. A 3-D array without ``axes`` is ZYX.
    mask : bool array of the same shape, optional
        True = measured. NaN counts as not measured whatever the mask says; an infinite measured value is an error.
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
    psf_fwhm : three floats, optional
        Full widths at half maximum of the point spread function along z, y and x, as for :func:`recover`: bright voxels
        narrower than it count as defects.
    missing_value : float, optional
        Voxels that have exactly this value were not measured (padding, mosaics, planes after a stopped run); NaN never
        counts as measured.
    axes, spacing
        For arrays: as in :class:`Volume`.
    seed : int
        Seed of random subgrids, and of the choice of the voxels that are left out to find the rank.

    Returns
    -------
    Diagnosis

    Raises
    ------
    InputError
        If nothing was measured, a rank is above its axis or above the product of the others, optics are out of range,
        or the input cannot be used at all; one line says what, expected and got. Too few samples give a verdict. Of
        several stacks, one that cannot be diagnosed is named in ``not_diagnosed`` and does not lose the others.

    Notes
    -----
    ``verdict`` is about the low-rank model alone: ``impossible`` (fewer samples than degrees of freedom, or a slice of
    any axis without samples), ``unlikely`` (below the empirical threshold), ``likely``, ``guaranteed`` (the form of
    Theorem 2 with its unknown constant set to 1; only for masks that agree with uniform random sampling, since the
    theorem covers no others). ``axial_verdict`` is about the distance between planes: where whole planes were not
    measured, smoothness along z takes the place of the theorem. ``overall_verdict`` puts the two together.

    Noise, rank and outliers are those of `recover` for the same stack. Coherences are those of its global model. Cost:
    a few fits of a low rank; memory about two bytes a voxel beyond the data as float32.

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
    request = Request(
        axial_factor=arguments.checked_axial_factor(axial_factor),
        rank=arguments.checked_rank(rank),
        noise=arguments.checked_noise(noise),
        optics={"na": na, "wavelength": wavelength, "refractive_index": refractive_index},
        blocks=bool(blocks),
        fitting=Fitting(seed=arguments.checked_seed(seed)),
        psf=checked_psf(psf_fwhm),
    )
    optics_limits(**request.optics)
    arguments.check_shape(volume, planes=2)
    grid = PlaneGrid(volume.planes, Fraction(request.axial_factor))
    check_affordable(volume, grid, BYTES_OF_DIAGNOSIS, all_stacks=False)
    volume, notes = without_value(volume, missing_value)
    notes = tuple(map(as_sentence, (*notes_on_file(volume), *notes)))
    reports: list[Diagnosis] = []
    refused: dict[str, str] = {}
    for stack in stacks(volume):
        try:
            reports.append(diagnose_stack(stack, volume, request))
        except InputError as error:
            refused[stack.label] = str(error)
    if not reports:
        label, reason = next(iter(refused.items()))
        raise InputError(f"{label}: {reason}" if label else reason)
    worst = min(reports, key=severity)
    if len(reports) + len(refused) == 1:
        return replace(worst, notes=(*worst.notes, *notes))
    said = tuple(f"{label} could not be diagnosed: {reason}." for label, reason in refused.items())
    return replace(worst, stacks=tuple(reports), not_diagnosed=refused, notes=(*said, *worst.notes, *notes))


def severity(report: Diagnosis) -> tuple[int, int, float]:
    """A key that sorts diagnoses from the worst on: both verdicts, then samples over the empirical threshold."""
    words = VERDICTS.index(report.verdict), AXIAL_VERDICTS.index(report.axial_verdict)
    return *words, report.observed / report.empirical_threshold


def diagnose_stack(stack: Stack, volume: Volume, request: Request) -> Diagnosis:
    """Diagnose one 3-D stack (see the top of this file for the steps)."""
    given = given_stack(stack.data, stack.mask)
    noise = None if request.noise is None else request.noise / given.unit.scale
    factor, planes = request.axial_factor, len(given.values)
    shape = ((planes - 1) * factor + 1, *given.values.shape[1:])
    if request.rank is not None:
        arguments.check_rank_fits(request.rank, shape, False)
    wanted = given.mask if factor == 1 else np.zeros(shape, bool)
    if factor > 1:
        wanted[::factor] = given.mask
    sampling, counts = describe_sampling(wanted), slice_counts(wanted)
    del wanted

    psf = psf_in_voxels(request.psf, volume.spacing, given.values.shape)
    model = low_rank_model(given, request.fitting, noise=noise, rank=request.rank, blocks=request.blocks, psf=psf)
    found = model.coherence
    bound = recovery_bound(shape, model.rank, mu=found.mu, alpha=found.alpha, lam=found.lam, sparsity=model.outliers)
    pattern = "lines" if sampling.pattern == "lines" else "uniform"
    threshold = empirical_threshold(shape, model.rank, pattern=pattern)
    word, sentence = low_rank_verdict(sampling, shape, bound, threshold.samples, model)
    planes_word = word if not any(sampling.empty_slices) else verdict_on_measured_slices(given.mask, model)
    fine = None if volume.spacing is None else (volume.spacing[0] / factor, *volume.spacing[1:])
    band = axial_band(given.values, volume.spacing, mask=given.mask, noise=noise, **request.optics).in_unit(given.unit)
    known = np.flatnonzero(counts[0])
    step = axial_step(known) * (1.0 if fine is None else fine[0]) / (factor if fine is None else 1)
    axial_word, axial_sentence = axial_verdict(step, band)
    beyond = int(known[0]) + shape[0] - 1 - int(known[-1])
    if beyond and axial_word == "resolved":
        axial_word = "unknown"
        axial_sentence = f"unknown: {beyond} planes lie beyond the measured ones, where smoothness cannot predict them"
    blocks = () if given.constant else constant_blocks(given.given_values, given.mask)
    share = () if given.constant or blocks else share_notes(given.given_values, given.mask)
    report = Diagnosis(
        label=stack.label,
        source=str(volume.metadata.get("source", "")),
        input_shape=given.values.shape,
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
        defects=model.defects,
        notes=(*(f"{block.sentence}." for block in blocks), *map(as_sentence, (*model.notes, *share))),
        coherence=model.coherence,
        bound=bound,
        empirical_threshold=float(threshold.samples),
        extrapolated=bool(threshold.extrapolated),
        axial_band=band,
        axial_step=step,
        blocks=model.blocks,
        verdict=word,
        axial_verdict=axial_word,
        planes_verdict=planes_word,
        lateral_verdict=lateral_verdict(counts, band, fine),
        answer="",
        summary=first_sentence(word, axial_word, sampling, shape),
        reasons=(sentence, as_sentence(axial_sentence)),
        details=(),
        obtained={},
    )
    obtained = how_obtained(report, model, threshold.sentence)
    return replace(report, answer=answer(report), details=paragraphs(report), obtained=obtained)


def lateral_verdict(counts: Sequence[npt.NDArray[np.integer]], band: AxialBand, spacing: Sequence[float] | None) -> str:
    """Whether the measured rows and columns are close enough to determine those between: ``resolved`` or ``unknown``.

    The spectrum of a stack with missing rows is that of filled ones, which shows no structure that is finer than they
    are: so they are never called aliased.
    """
    for along, step in zip(counts[1:], (1.0, 1.0) if spacing is None else spacing[1:], strict=True):
        known = np.flatnonzero(along)
        if len(known) == len(along):
            continue
        beyond = known[0] > 0 or known[-1] < len(along) - 1
        widest = float(np.diff(known).max(initial=1)) * step
        if beyond or band.lateral_limit is None or 2 * widest * band.lateral_limit > 1 + TOLERANCE:
            return "unknown"
    return "resolved"


def verdict_on_measured_slices(mask: npt.NDArray[np.bool_], model: LowRankModel) -> str:
    """The verdict on the low-rank model for the planes, rows and columns of which anything was measured."""
    mask = mask[mask.any(axis=(1, 2))]
    mask = mask[:, mask.any(axis=(0, 2))][:, :, mask.any(axis=(0, 1))]
    rank = tuple(map(min, model.rank, mask.shape))
    found, sampling = model.coherence, describe_sampling(mask)
    bound = recovery_bound(mask.shape, rank, mu=found.mu, alpha=found.alpha, lam=found.lam, sparsity=model.outliers)
    pattern = "lines" if sampling.pattern == "lines" else "uniform"
    threshold = empirical_threshold(mask.shape, rank, pattern=pattern)
    return low_rank_verdict(sampling, mask.shape, bound, threshold.samples, model)[0]


def low_rank_verdict(
    sampling: Sampling, shape: Sequence[int], bound: RecoveryBound, empirical: float, model: LowRankModel
) -> tuple[str, str]:
    """The verdict on the low-rank model, and the sentence that gives its reason."""
    word, sentence = verdict(
        observed=sampling.observed,
        total=math.prod(shape),
        degrees_of_freedom=bound.degrees_of_freedom,
        empty_slices=any(sampling.empty_slices),
        empirical=empirical,
        theorem=bound.bound_theorem2_full,
    )
    if word == "guaranteed" and sampling.pattern not in RANDOM_PATTERNS:
        word = "likely"
        sentence = (
            f"The low-rank model is likely to recover this: {sampling.observed:,} samples reach the empirical "
            f"threshold of {math.ceil(empirical):,}; the theorem holds for uniform random sampling only, "
            "and this sampling is not uniform."
        )
    return by_share(word, sentence, model.explained, sampling.ratio)


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
    """Largest distance between successive measured planes, in planes of the wanted stack (1 for a single one)."""
    return int(np.diff(known).max(initial=1))
