"""The frames of a time series: those of one channel that are alike are recovered together.

What a frame does not show, the frames beside it may: patches are followed from frame to frame, wherever the specimen
moves (`tensorcell.solvers.local_tucker`). Frames that differ too much to be compared are recovered by themselves, and
so is every frame where the method knows nothing of time.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tensorcell.device import with_fallback
from tensorcell.errors import InputError
from tensorcell.lacking_planes import with_planes_of_others
from tensorcell.methods.protocol import Estimate, Problem
from tensorcell.solvers import LocalOptions
from tensorcell.solvers.autocorrelation import mean_of
from tensorcell.solvers.units import Unit
from tensorcell.stack_recovery import Posed, Request, StackResult, finished, posed_stack
from tensorcell.volume import Stack

Array = npt.NDArray[Any]
Outcome = tuple[Stack, StackResult | InputError]

WINDOW_VOXELS = 1 << 26
"""Largest number of voxels that are recovered together: a longer series is recovered window by window."""

SHARED = 4
"""Frames that a window has beyond those whose result is taken from it, on either side."""

NOISIER = 1.5
"""Frames are alike if their noise differs by no more than this factor from the median of all frames."""

FADED = 0.02
"""A note tells changes of brightness over the series that are larger than this share."""


def series_of(all_stacks: Sequence[Stack], axes: str) -> list[list[Stack]]:
    """The stacks of each channel and further index, in the order of time.

    >>> from tensorcell.volume import Volume, stacks
    >>> volume = Volume(np.zeros((2, 3, 4, 5, 5)), "CTZYX")
    >>> [[stack.label for stack in series] for series in series_of(list(stacks(volume)), "CTZYX")]
    [['C=0, T=0', 'C=0, T=1', 'C=0, T=2'], ['C=1, T=0', 'C=1, T=1', 'C=1, T=2']]
    """
    found: dict[Any, list[Stack]] = {}
    for stack in all_stacks:
        others = tuple(
            index for letter, index in zip(axes, stack.where, strict=True) if letter != "T" and isinstance(index, int)
        )
        found.setdefault(others, []).append(stack)
    return list(found.values())


class Window(NamedTuple):
    """What was found of frames that were computed together, or of a stack by itself."""

    results: Sequence[StackResult | InputError]
    """Of each frame whose result is taken from this window."""
    unit: Unit | None
    """The unit that later frames of the series share."""
    brightness: Sequence[float]
    """Mean intensities of the frames of the results, in the unit given."""
    notes: Sequence[str]
    """What was not said of earlier windows."""


Keep = Callable[[Sequence[str], Callable[[], Window]], Window]
"""What is known of a window with the results of the stacks of these labels, or else what the function finds of it."""


def recovered_series(frames: Sequence[Stack], request: Request, notes: list[str], keep: Keep) -> Iterator[Outcome]:
    """Each frame with its result, or with the error that says why there is none; what concerns all goes to ``notes``.

    Parameters
    ----------
    frames : sequence of Stack
        In the order of time; one of them for a stack that is in no series.
    request : Request
    notes : list of str
        Notes on the series as a whole are appended.
    keep : callable
        Gives what an earlier run found of a window.
    """
    together = request.method.together is not None and len(frames) > 1 and request.options[LocalOptions].frames > 1
    complete = (all(is_complete(frame) for frame in frames)) if together else None
    brightness: list[float] = []
    unit: Unit | None = None
    size = math.ceil(frames[0].data.size * request.grid.step) if together else frames[0].data.size
    if together and 2 * size > WINDOW_VOXELS:
        notes.append(f"each frame was recovered by itself, since at most {WINDOW_VOXELS} voxels are computed together")
    for window, inner in windows(len(frames), WINDOW_VOXELS // size if together else 1):
        shown = frames[window]
        find = partial(window_found, shown, inner, request, tuple(notes), complete=complete, like=unit)
        found = keep([frame.label for frame in shown[inner]], find)
        yield from zip(shown[inner], found.results, strict=True)
        unit, notes[:] = found.unit, [*notes, *found.notes]
        brightness += found.brightness
    if together:
        notes += notes_on_brightness(brightness)


def window_found(
    frames: Sequence[Stack], inner: slice, request: Request, said: Sequence[str], **options: Any
) -> Window:
    """`recovered_window` on the device of the request, or on the CPU where the memory of the GPU does not suffice."""
    found, notes = with_fallback(
        request.fitting.device,
        lambda device: recovered_window(frames, inner, request.computed_on(device), said, **options),
    )
    return found._replace(notes=[*found.notes, *notes])


def recovered_window(
    frames: Sequence[Stack], inner: slice, request: Request, said: Sequence[str], *, complete: bool | None,
    like: Unit | None,
) -> Window:  # fmt: skip
    """Recover the frames of a window; results are those of its inner frames.

    ``complete`` is whether all of the series was measured, None for a frame that is recovered by itself; ``like`` is
    the unit of earlier windows, and ``said`` are the notes on them.
    """
    together, notes, brightness = complete is not None, list(said), list[float]()
    posed: list[Posed | InputError] = []
    for frame in frames:
        try:
            one = posed_stack(frame, request, complete=complete, like=like)
        except InputError as error:
            posed.append(error)
            continue
        like = like or (one.unit if together else None)
        posed.append(one)
    estimates: dict[int, Estimate] = {}
    if complete is not None:
        posed = with_shared_correlation(posed, frames, request, complete=complete, like=like)
        estimates = estimated(posed, request, notes)
    results: list[StackResult | InputError] = []
    for number in range(len(frames))[inner]:
        each = posed[number]
        if isinstance(each, InputError):
            results.append(each)
            continue
        brightness.append(each.brightness)
        try:
            results.append(finished(each, request, estimates.get(number)))
        except InputError as error:
            results.append(error)
    if together:
        results = completed_by_others(results, notes)
    return Window(results, like, brightness, notes[len(said) :])


def with_shared_correlation(
    posed: Sequence[Posed | InputError], frames: Sequence[Stack], request: Request, *, complete: bool, like: Unit | None
) -> list[Posed | InputError]:
    """The problems, posed again for frames that do not tell whether their noise is correlated as that of most is.

    One detector took them all. A frame is left as it was if its noise would differ from that of the others even so.
    """
    laws = {
        number: one.problem.model.noise
        for number, one in enumerate(posed)
        if isinstance(one, Posed) and one.problem is not None
    }
    told = [law for law in laws.values() if not law.autocorrelation.white]
    again: list[Posed | InputError] = list(posed)
    if request.noise is not None or 2 * len(told) <= len(laws):
        return again
    shared = mean_of([law.autocorrelation for law in told])
    level = float(np.median([law.sigma for law in told]))
    for number in (number for number, law in laws.items() if law.correlated is None):
        one = posed_stack(frames[number], request, complete=complete, like=like, correlation=shared)
        if one.problem is not None and is_as_noisy(one.problem, level):
            again[number] = one
    return again


def is_as_noisy(problem: Problem, level: float) -> bool:
    """Whether the noise is about as large as that."""
    return level <= NOISIER * problem.model.noise.sigma <= NOISIER**2 * level


def completed_by_others(
    results: Sequence[StackResult | InputError], notes: list[str]
) -> list[StackResult | InputError]:
    """The results of successive frames, with planes that one lacks from the frames beside it, too."""
    found, filled = with_planes_of_others([one if isinstance(one, StackResult) else None for one in results])
    if filled:
        notes.append(f"{filled} planes that a frame lacks follow from the same planes of the frames beside it, too")
    return [one if better is None else better for one, better in zip(results, found, strict=True)]


def is_complete(stack: Stack) -> bool:
    """Whether every voxel was measured."""
    return (stack.mask is None or bool(stack.mask.all())) and not bool(np.isnan(stack.data).any())


def windows(count: int, most: int) -> Iterator[tuple[slice, slice]]:
    """Ranges of frames, and where in each of them the frames lie whose result is taken from it.

    >>> [(window.start, window.stop, inner.start, inner.stop) for window, inner in windows(20, 12)]
    [(0, 12, 0, 9), (6, 18, 3, 9), (8, 20, 7, 12)]
    >>> [(window.start, window.stop) for window, _ in windows(3, 1)]
    [(0, 1), (1, 2), (2, 3)]
    """
    most = max(1, most)
    rim = min(SHARED, (most - 1) // 3)
    first = 0
    while first < count:
        start = min(max(0, first - rim), max(0, count - most))
        stop = min(count, start + most)
        last = stop if stop == count else stop - rim
        yield slice(start, stop), slice(first - start, last - start)
        first = last


def estimated(posed: Sequence[Posed | InputError], request: Request, notes: list[str]) -> dict[int, Estimate]:
    """Estimates of the frames that are recovered together, by their number."""
    problems = {
        number: one.problem for number, one in enumerate(posed) if isinstance(one, Posed) and one.problem is not None
    }
    alike = alike_frames(problems)
    together = request.method.together
    if together is None or len(alike) < 2:
        return {}
    found, said = together([problems[number] for number in alike])
    for note in said:
        if note not in notes:
            notes.append(note)
    others = [number for number in problems if number not in alike]
    if others:
        notes.append(
            f"{len(others)} of {len(problems)} frames {'was' if len(others) == 1 else 'were'} recovered without the "
            "others, whose noise, brightness or measured planes differ: "
            f"{', '.join(problems[n].label for n in others[:8])}"
        )
    return dict(zip(alike, found, strict=True))


def alike_frames(problems: dict[int, Problem]) -> list[int]:
    """Frames whose patches can be compared: of the same planes, in the same unit, with about the same noise."""
    if not problems:
        return []
    kinds = {number: (tuple(one.stack.planes.tolist()), one.unit) for number, one in problems.items()}
    (usual, _), *_ = Counter(kinds.values()).most_common(1)
    level = float(np.median([problems[number].model.noise.sigma for number in problems if kinds[number] == usual]))
    return [number for number, one in problems.items() if kinds[number] == usual and is_as_noisy(one, level)]


def notes_on_brightness(means: Sequence[float]) -> list[str]:
    """A line where the frames grow brighter or darker, or flicker.

    >>> notes_on_brightness([100.0, 90.0, 80.0])
    ['brightness: the mean intensity falls by 20 % from the first frame to the last; this was not corrected']
    >>> notes_on_brightness([100.0, 110.0, 100.0, 110.0])
    ['brightness: the mean intensity flickers by 7.8 % from frame to frame; this was not corrected']
    """
    if len(means) < 2 or not min(means) > 0:
        return []
    logs = np.log(means)
    bends = logs[1:-1] - (logs[:-2] + logs[2:]) / 2  # what a steady change does not explain
    flicker = math.sqrt(float(np.mean(bends**2)) / 1.5) if len(means) > 3 else 0.0
    slope, *_ = np.polyfit(np.arange(len(logs)), logs, 1)
    change, notes = math.expm1(slope * (len(logs) - 1)), []
    if abs(change) > max(FADED, 2 * flicker):
        way = "falls" if change < 0 else "rises"
        notes.append(f"{way} by {100 * abs(change):.2g} % from the first frame to the last")
    if flicker > FADED:
        notes.append(f"flickers by {100 * flicker:.2g} % from frame to frame")
    return [f"brightness: the mean intensity {note}; this was not corrected" for note in notes]
