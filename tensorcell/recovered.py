"""What `recover` returns."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tensorcell.plane_grid import PlaneGrid
from tensorcell.solvers import IterationRecord, Status
from tensorcell.volume import Volume, shown_stack, zyx_view

Array = npt.NDArray[Any]

SURROUNDINGS = (1.0, 2.0, 2.0)
"""Widths of the Gaussian window in which the variance of the result counts as structure, along z, y and x."""

LEAST_CONTRAST = 0.02
"""A variation below this share of the standard deviation of a stack does not count as structure."""


WIDTH = 96
"""Columns of the terminal."""

LINES = 24
"""Lines of the terminal."""

MOST_SHOWN = 256
"""Rows and columns of a slice in a notebook."""

MOST_SAMPLED = 1_000_000
"""Voxels of which the median uncertainty is taken; of more every second or n-th."""


class StackOutliers(NamedTuple):
    """Outliers of one stack: place of the stack, flat positions in it, values ``E``."""

    where: tuple[int | slice, ...]
    positions: Array
    values: Array


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Recovery:
    """What :func:`recover` returns; ``str()`` is one screen of text.

    Wherever an array is asked for (``np.asarray``, `tensorcell.write`, `tensorcell.diagnose` ...) the result stands for
    its volume.

    Attributes
    ----------
    volume : Volume
        The recovered volume: axes and unit of the input, spacing ``(dz / axial_factor, dy / lateral_factor, dx /
        lateral_factor)`` (the first is ``spacing_z`` where that was given), float32 (float64 for
        float64 and 32- or 64-bit integer input); NaN only in stacks that could not be recovered.
    measured : bool array of the volume's shape
        True = measured. With ``keep_measured``, those of them that are no outliers hold the measured value. False
        everywhere where pixels are smaller than the measured ones, or blur was undone. Measured planes that lie between
        planes of the volume are not in it.
    uncertainty : float array of the volume's shape
        ``u``, in the data's unit: ``volume +- 1.645 u`` is to contain the noise-free intensity with probability .9.
        At kept voxels it is the standard deviation of the noise at the voxel's intensity. At denoised voxels it comes
        from Stein's estimate, in gaps from the errors at measured voxels left out of a second fit, and between planes
        from left-out planes, whose errors are scaled to the real distance of the planes; gaps and planes are
        calibrated by intensity. Beyond the measured planes it is how much planes at that distance differ, up to the
        spread of the data. In rows, columns and patches of pixels that were
        measured in no plane it comes from rows and columns left out in gaps of the same width. A note says where little
        or nothing tells the error.
    rank : tuple of int, or dict of label to tuple
        Tucker rank used; a dict where there are several channels or frames, with None for one that was not recovered.
    status : Status
        The worst of all stacks; ``str(status)`` is a sentence.
    history : tuple of IterationRecord
        Iterations of all stacks, one after another.
    samples : float array (K, ...) or None
        Samples of the posterior about `volume`, if ``keep_samples`` asked for them.
    noise : float or dict of label to float
        Standard deviation of the noise that was given or estimated, in the data's unit; None as for ``rank``.
    defects : dict of kind to int, or dict of label to such a dict
        Number of outliers by kind: ``dead``, ``stuck`` and ``hot`` (pixels of the camera), ``bright`` and ``dark``
        (single voxels). Kinds that were not found are left out.
    notes : tuple of str
        What one should know of this result, a line each.
    seconds : float
        Wall time.
    input_shape : tuple of int
        Shape of the data given.
    grid : PlaneGrid
        Where the planes given lie in the volume: ``grid.positions``, in its planes.
    not_recovered : dict of label to str
        Channels and frames that could not be recovered, with the reason; they are NaN in ``volume`` and
        ``uncertainty``. Empty where all were.
    given : Volume or None
        What was recovered, as it was given: not copied.
    """

    volume: Volume
    measured: npt.NDArray[np.bool_]
    uncertainty: npt.NDArray[np.floating]
    rank: Any
    status: Status
    history: tuple[IterationRecord, ...]
    noise: Any
    defects: Any
    notes: tuple[str, ...]
    seconds: float
    input_shape: tuple[int, ...]
    grid: PlaneGrid
    _outliers: tuple[StackOutliers, ...] = field(repr=False)
    samples: npt.NDArray[np.floating] | None = None
    not_recovered: Mapping[str, str] = field(default_factory=dict)
    given: Volume | None = field(default=None, repr=False)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """The intensities of ``volume``."""
        return np.array(self.volume.data, dtype=dtype, copy=copy)

    def __str__(self) -> str:
        """At most 24 lines of at most 96 columns; ``notes`` holds all notes in full."""
        head = textwrap.wrap(first_sentence(self), WIDTH)
        lines = [*head, "", *(f"{name:<13}{cut(value, WIDTH - 13)}" for name, value in rows_of(self))]
        room = LINES - len(lines) - 1
        said = [
            line
            for note in self.notes
            for line in textwrap.wrap(f"- {note}", WIDTH, subsequent_indent="  ", break_on_hyphens=False)
        ]
        if len(said) > room:
            said = [*said[: room - 1], "... (all of them: result.notes)"]
        return "\n".join([*lines, *([""] if said else []), *said])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        """What notebooks show: input, result and uncertainty of the first stack, and the text of `str`."""
        from tensorcell.pages.previews import with_layers

        shown = shown_stack(self.volume, 0)
        every = max(1, -(-max(shown.data.shape[1:]) // MOST_SHOWN))
        thin = np.s_[:, ::every, ::every]
        uncertainty = zyx_view(self.uncertainty, self.volume.axes, self._outliers[0].where)[thin]
        layers = {"recovered": shown.data[thin], "uncertainty": uncertainty}
        if self.given is not None:
            layers = {"input": given_on_grid(self, every), **layers}
        return with_layers(str(self), layers, shown.data.shape, shown.spacing)

    @property
    def outliers(self) -> Array:
        """The sparse part ``E``, shaped like the input, zero where nothing was flagged (made anew at each access)."""
        dense = np.zeros(self.input_shape, self.volume.data.dtype)
        for part in self._outliers:
            stack = zyx_view(dense, self.volume.axes, part.where)
            stack[np.unravel_index(part.positions, stack.shape)] = part.values
        return dense

    @property
    def invented(self) -> Array:
        """Share of the result that the measurement does not determine, per voxel, in [0, 1] (made at each access).

        ``u^2 / (u^2 + v)``, the share of the variance that is left open: u is the uncertainty, v the variance of the
        result under a Gaussian window of 1, 2 and 2 voxels along z, y and x. The share is 0 at measured voxels that
        were not replaced, and near 1 where the uncertainty is larger than the structure of the result. A variation
        below a fiftieth of the stack's standard deviation does not count as structure. NaN in a stack that was not
        recovered.
        """
        share = np.zeros(self.volume.shape, self.volume.data.dtype)
        flagged = self.outliers != 0
        for part in self._outliers:
            open_ = ~zyx_view(self.measured, self.volume.axes, part.where)
            wrong = zyx_view(flagged, self.volume.axes, part.where)
            if wrong.shape[1:] == open_.shape[1:]:  # else no pixel of the result was measured
                open_ |= self.grid.spread(wrong)
            values = zyx_view(self.volume.data, self.volume.axes, part.where)
            u = zyx_view(self.uncertainty, self.volume.axes, part.where)
            open_ |= np.isnan(values)
            zyx_view(share, self.volume.axes, part.where)[...] = np.where(open_, share_left_open(values, u), 0)
        return share

    @property
    def outlier_count(self) -> int:
        """Number of measured voxels flagged as outliers."""
        return sum(len(part.positions) for part in self._outliers)


def first_sentence(result: Recovery) -> str:
    """How the fit ended, and how much was measured.

    For example "The fit reached its tolerance. 50.0% of the voxels were measured."
    """
    status = f"The fit {result.status}. {result.measured.mean():.1%} of the voxels were measured"
    count = result.outlier_count
    if count:
        status += f"; {count:,} outlier{'s were' if count > 1 else ' was'} taken out"
    lost = len(result.not_recovered)
    return f"{status}." + (f" {lost} of the stacks could not be recovered." if lost else "")


def rows_of(result: Recovery) -> Iterator[tuple[str, str]]:
    """Names and values for the screen."""
    yield "volume", repr(result.volume).removeprefix("Volume(").removesuffix(")")
    if result.input_shape != result.volume.shape:
        yield "input", " x ".join(map(str, result.input_shape))
    yield "uncertainty", uncertainty_text(result)
    yield "noise", each(result.noise, lambda noise: f"{noise:.3g}") + " (standard deviation)"
    yield "rank", each(result.rank, lambda rank: " x ".join(map(str, rank)))
    if any(found := result.defects.values()) and not any(isinstance(one, Mapping) for one in found):
        yield "outliers", ", ".join(f"{count:,} {kind}" for kind, count in result.defects.items())
    yield "time", f"{result.seconds:.1f} s"


def uncertainty_text(result: Recovery) -> str:
    """The median uncertainty of measured and of filled voxels."""
    every = max(1, result.uncertainty.size // MOST_SAMPLED)
    values, measured = result.uncertainty.ravel()[::every], result.measured.ravel()[::every]
    finite = np.isfinite(values)
    parts = [
        f"{np.median(values[chosen & finite]):.3g} in {name} voxels"
        for name, chosen in (("measured", measured), ("filled", ~measured))
        if (chosen & finite).any()
    ]
    return ", ".join(parts) + " (median)" if parts else "unknown"


def each(value: Any, text: Callable[[Any], str]) -> str:
    """A value as text, or each of several stacks.

    >>> each({"C=0": 2.0, "C=1": None}, str), each(3, str)
    ('C=0: 2.0; C=1: not recovered', '3')
    """
    if not isinstance(value, Mapping):
        return text(value)
    return "; ".join(f"{label}: {'not recovered' if one is None else text(one)}" for label, one in value.items())


def cut(text: str, width: int) -> str:
    """The text, cut at a space."""
    return textwrap.shorten(text, width, placeholder=" ...")


def given_on_grid(result: Recovery, every: int) -> Array:
    """What was given of the first stack, among the planes of the result; NaN where nothing was measured.

    Every how many-th row and column of the result is taken.
    """
    assert result.given is not None
    shape, given = shown_stack(result.volume, 0).data.shape, shown_stack(result.given, 0)
    factor = shape[1] // given.data.shape[1]
    rows, columns = (np.arange(0, size, every) // factor for size in shape[1:])
    found = np.full((shape[0], len(rows), len(columns)), np.nan)
    for place, number in zip(result.grid.positions, range(len(given.data)), strict=False):
        if round(place) < len(found):
            plane = given.data[number][np.ix_(rows, columns)]
            seen = True if given.mask is None else given.mask[number][np.ix_(rows, columns)]
            found[round(place)] = np.where(seen, plane, np.nan)
    return found


def share_left_open(values: Array, u: Array, contrast: float | None = None) -> Array:
    """``u^2 / (u^2 + v)``; see :attr:`Recovery.invented`.

    ``contrast`` is the standard deviation of the stack of which the values are a part; theirs by default.

    >>> share_left_open(np.zeros((3, 3, 3)), np.zeros((3, 3, 3))).max()
    np.float64(0.0)
    """
    from scipy.ndimage import gaussian_filter

    centred = values - values.mean(dtype=np.float64)
    exponent = math.frexp(float(np.abs(centred).max()))[1]  # powers of two are exact, and no square is 0 or infinite
    centred, u = np.ldexp(centred, -exponent), np.ldexp(u, -exponent)
    spread = float(centred.std()) if contrast is None else math.ldexp(contrast, -exponent)
    mean = gaussian_filter(centred, SURROUNDINGS)
    variance = np.maximum(gaussian_filter(np.square(centred), SURROUNDINGS) - np.square(mean), 0)
    open_ = np.square(u.astype(np.float64))
    total = open_ + np.maximum(variance, (LEAST_CONTRAST * spread) ** 2)
    share: Array = np.divide(open_, total, out=np.zeros_like(total), where=total != 0)
    return share
