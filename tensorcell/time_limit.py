"""Which method ``"auto"`` stands for where the user says how long it may take."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tensorcell.arguments import positive
from tensorcell.errors import InputError
from tensorcell.methods.networks import networks_on
from tensorcell.methods.table import METHODS
from tensorcell.plane_grid import PlaneGrid
from tensorcell.solvers.interplane import FEWEST_PLANES
from tensorcell.solvers.iteration import duration
from tensorcell.volume import Volume, stacks

BESIDES = 1.3
"""Seconds that a recovery with a prior takes in all, for each second of the fit."""

PRIOR = "diffusion"


def method_within(
    method: Any, minutes: Any, volume: Volume, grid: PlaneGrid, device: str = "cpu"
) -> tuple[Any, tuple[str, ...]]:
    """The method that fits a prior where ``"auto"`` has the time for it, else the method given; and a note.

    Parameters
    ----------
    method : str
    minutes : float or None
        The time allowed; None: nothing is changed.
    volume : Volume
    grid : PlaneGrid
        Where planes are wanted: a prior fills those between evenly spaced ones.
    device : str
        Where the prior would be fitted.

    Raises
    ------
    InputError
        If the time is no positive number, or another method was asked for.

    Examples
    --------
    >>> volume = Volume(np.zeros((9, 32, 32)))
    >>> method_within("auto", None, volume, PlaneGrid(9))
    ('auto', ())
    >>> method_within("auto", 5, volume, PlaneGrid(9))[1]
    ('the time limit changes nothing: no planes are wanted between evenly spaced ones, which a prior would fill',)
    """
    if minutes is None:
        return method, ()
    allowed = 60 * positive("time_limit", minutes)
    if method != "auto":
        raise InputError(f"expected method 'auto' with a time limit, which it decides by, got {method!r}")
    if grid.step == 1 or not grid.whole or volume.planes < FEWEST_PLANES:
        why = "no planes are wanted between evenly spaced ones, which a prior would fill"
        return method, (f"the time limit changes nothing: {why}",)
    try:
        METHODS[PRIOR].check_installed()
        needed = seconds_of_prior(volume, int(grid.step), device)
    except InputError as error:
        return method, (f"the time limit changes nothing: {error}",)
    said = f"about {duration(needed)} of the {duration(allowed)} allowed"
    if needed > allowed:
        return method, (f"no prior was fitted to the stack (method {PRIOR}): it would take {said}",)
    return PRIOR, (f"a prior is fitted to the stack (method {PRIOR}), which takes {said}",)


def seconds_of_prior(volume: Volume, factor: int, device: str = "cpu") -> float:
    """Seconds that the prior of every stack takes, from a few steps on the first one."""
    from tensorcell.diffusion_guidance.fill_stack import settled
    from tensorcell.diffusion_guidance.options import DiffusionOptions
    from tensorcell.diffusion_guidance.training import estimate_fit

    every = list(stacks(volume))
    values = np.nan_to_num(np.asarray(every[0].data, np.float32), posinf=0, neginf=0)
    spread = float(np.std(values)) or 1.0
    compute, _ = networks_on(device)
    with settled(compute):
        cost = estimate_fit(
            (values - values.mean()) / np.float32(spread), steps=DiffusionOptions().fit_steps, axial_factor=factor,
            compute=compute,
        )  # fmt: skip
    return BESIDES * math.ceil(cost.seconds) * len(every)
