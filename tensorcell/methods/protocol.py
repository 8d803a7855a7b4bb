"""What a method of `recover` is: its input, its output, and the entry that describes it.

A method is one file of this folder with a `Method` at its end, and a line in `tensorcell.methods.table`. It estimates
the voxels of the measured planes (``estimate``) and, where whole planes are missing, the planes between them
(``between``). Everything before and after is the same for all methods and stands in `tensorcell.recovery`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from fractions import Fraction
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from tensorcell.diffusion_guidance.installed import missing
from tensorcell.errors import InputError
from tensorcell.fitting import Fitting
from tensorcell.model import StackModel
from tensorcell.plane_grid import PlaneGrid
from tensorcell.settled import Settled
from tensorcell.solvers import IterationRecord, NoiseModel, Status
from tensorcell.solvers.units import AS_GIVEN, Unit
from tensorcell.stack import MeasuredStack

Array = npt.NDArray[Any]
Kind = TypeVar("Kind")
Options = Mapping[type, Any]
"""Option objects by their class."""

FEW = 0.01
"""Gaps of a smaller share than this are few."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Problem:
    """One stack, in the form in which a method is given it.

    Attributes
    ----------
    stack : MeasuredStack
        The planes that hold measured voxels: values, mask (True = measured), places.
    model : StackModel
        Their noise, rank, global fit and outliers.
    keep : bool
        Whether measured voxels that are no outliers keep their value; if not, they are denoised.
    fitting : Fitting
        How a global model is fitted; also the device, the seed and the callback.
    noise : float or None
        The standard deviation of the noise that the user gave.
    grid : PlaneGrid
        Where the planes given lie in the wanted stack.
    label : str
        Channel and frame, such as ``"T=0, C=1"``; empty where there is only one stack.
    options : mapping
        Option objects by their class.
    psf : three floats or None
        Standard deviations of the point spread function that the user gave, in voxels of the measured planes.
    unit : Unit
        How values become intensities of the user: arrays and numbers are in the unit of the values, the numbers in
        notes in the user's.
    settled : Settled
        What a sample of the stack told, where this is a part of it.
    """

    stack: MeasuredStack
    model: StackModel
    keep: bool
    fitting: Fitting
    noise: float | None
    grid: PlaneGrid
    label: str
    options: Options
    psf: tuple[float, ...] | None = None
    unit: Unit = AS_GIVEN
    settled: Settled = field(default_factory=Settled)

    def option(self, kind: type[Kind]) -> Kind:
        """The options of one class."""
        found: Kind = self.options[kind]
        return found

    @property
    def has_gaps(self) -> bool:
        """Whether some voxel of the measured planes was not measured, or is an outlier."""
        return not bool(self.model.inlier.all())

    @property
    def has_few_gaps(self) -> bool:
        """Whether the gaps are so few, as defects are, that they are worth no trial of methods."""
        inlier = self.model.inlier
        return self.has_gaps and bool(inlier.size - np.count_nonzero(inlier) < FEW * inlier.size)

    @property
    def needs_trial(self) -> bool:
        """Whether there are so many gaps that voxels are left out to learn their errors."""
        return self.has_gaps and not self.has_few_gaps

    @property
    def needs_sweeps(self) -> bool:
        """Whether there are gaps that groups of patches are to complete: denoising takes care of few ones."""
        return self.has_gaps and (self.keep or not self.has_few_gaps)

    @property
    def noise_passed_on(self) -> NoiseModel:
        """The noise that measured planes carry to the planes between them: none where they were denoised."""
        return self.model.noise if self.keep else NoiseModel.white(0.0)


class Estimate(NamedTuple):
    """A method's estimate of every voxel of the measured planes."""

    value: Array
    """``(K, Y, X)``."""
    error: Array
    """Standard deviation of its error, of the same shape, in the data's unit."""
    status: Status
    history: tuple[IterationRecord, ...]
    notes: tuple[str, ...] = ()
    samples: Array | None = None
    """``(S, K, Y, X)``, where the method draws samples."""
    weighed: bool = False
    """Whether the noise was removed by its correlation between neighbouring voxels."""


class Gaps(NamedTuple):
    """The measured planes, and their places in the wanted stack."""

    problem: Problem
    estimate: Estimate
    grid: npt.NDArray[np.float64]
    """Positions of the measured planes, ascending; one that is no whole number lies between planes of the stack."""
    planes: int
    """Planes of the wanted stack."""

    @property
    def none(self) -> bool:
        """Whether the measured planes are those of the wanted stack."""
        return np.array_equal(self.grid, np.arange(self.planes))

    @property
    def spacing(self) -> int:
        """Distance between successive measured planes; 0 if it varies or is no whole number, or if the first or last
        plane is missing."""
        steps = np.unique(np.diff(self.grid))
        even = len(steps) == 1 and self.grid[0] == 0 and self.grid[-1] == self.planes - 1
        return int(steps[0]) if even and steps[0] % 1 == 0 else 0


class Filled(NamedTuple):
    """A wanted stack with all its planes."""

    volume: Array
    error: Array
    """Standard deviation of the error between the measured planes; its values at measured planes are not used."""
    notes: tuple[str, ...]
    samples: Array | None = None


class Stage(NamedTuple):
    """Second argument of the callback during a stage of a method that counts its own steps."""

    step: int
    steps: int
    message: str = ""
    """A message to show once, before the stage begins."""


class Scan(NamedTuple):
    """A stack of which all voxels are estimated, for a method that restores what the acquisition lost."""

    problem: Problem
    measured: Array
    """The planes that were given ``(n, Y, X)``, all of them planes of the wanted stack; estimates where nothing was
    measured and at outliers."""
    variance: Array
    """Variance of their noise, and of the error of the estimates among them; of the same shape."""
    estimate: Filled
    """The wanted stack at the measured pixel size."""
    lateral_factor: int
    """Pixels of the wanted stack a side of a measured one."""


class Restoration(NamedTuple):
    """What a method restored."""

    filled: Filled | None
    """The wanted stack, ``lateral_factor`` times as many rows and columns; None: the estimate is better."""
    notes: tuple[str, ...]
    keeps: bool = False
    """Whether measured planes are planes of the restored stack, so that measured voxels can keep their value."""


def any_factors(options: Options, axial_factor: Fraction, lateral_factor: int) -> None:
    """Accept all factors."""


def unchanged(options: Options, seed: int, device: str) -> Options:
    """Options that need no preparation."""
    return options


@dataclass(frozen=True, kw_only=True)
class Method:
    """A method of `recover`.

    Attributes
    ----------
    name : str
    summary : str
        One sentence for the help text.
    options : tuple of types
        Frozen dataclasses that check themselves; their fields are the method's options in Python and, with the help
        text in their metadata, its flags on the command line.
    estimate, between : callables
        ``Problem -> Estimate`` for the measured planes, and ``Gaps -> Filled`` for the planes between them.
    together : callable, optional
        ``[Problem, ...] -> ([Estimate, ...], notes)`` for the frames of a time series, in their order; without it each
        frame is estimated by itself.
    restore : callable, optional
        ``Scan -> Restoration``, called last: it replaces the stack that ``estimate`` and ``between`` gave.
    rank : three ints, optional
        Rank of the global model, for a method that does not start from it: it then only serves to judge outliers.
        Without it the rank is searched, where none was given.
    needs, extra : tuple of str, str
        Modules that must be installed, and the extra that brings them.
    accepts : callable
        ``(options, axial_factor, lateral_factor)``: raises `InputError` where the method does not suit the factors. The
        axial one is the distance of the planes given in wanted planes; a method with ``restore`` accepts whole ones.
    prepare : callable
        ``(options, seed, device) -> options``, called once before any work; it reads and checks whatever the options
        name. The device is the one asked for, ``"auto"`` included.
    stages : mapping
        The name that the progress bar shows for each stage that the method reports.
    """

    name: str
    summary: str
    options: tuple[type, ...]
    estimate: Callable[[Problem], Estimate]
    between: Callable[[Gaps], Filled]
    together: Callable[[Sequence[Problem]], tuple[list[Estimate], list[str]]] | None = None
    restore: Callable[[Scan], Restoration] | None = None
    accepts: Callable[[Options, Fraction, int], None] = any_factors
    rank: tuple[int, int, int] | None = None
    needs: tuple[str, ...] = ()
    extra: str = ""
    prepare: Callable[[Options, int, str], Options] = unchanged
    stages: Mapping[str, str] = field(default_factory=dict)

    def check_installed(self) -> None:
        """Raise `InputError` where a module that the method needs is not installed, or too old."""
        problem = missing(*self.needs, extra=self.extra)
        if problem is not None:
            raise InputError(f'method "{self.name}": {problem}')


def takers(methods: Mapping[str, Method]) -> dict[type, tuple[str, ...]]:
    """For each option class the names of the methods that take it."""
    kinds = dict.fromkeys(kind for method in methods.values() for kind in method.options)
    return {kind: tuple(m.name for m in methods.values() if kind in m.options) for kind in kinds}


def fields_of(kind: type) -> list[Field[Any]]:
    """The fields of an option class that a user is asked for: by flags of the command line, and in panels."""
    return [field for field in fields(kind) if field.metadata.get("flag", True)]
