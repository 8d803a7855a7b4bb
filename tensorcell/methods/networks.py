"""Where the networks of the methods that need torch are computed: on the GPU of the solvers, if torch can use it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tensorcell.device import NUMBERED, choose_device, freed_memory
from tensorcell.errors import InputError
from tensorcell.methods.protocol import Problem

if TYPE_CHECKING:
    from tensorcell.diffusion_guidance.compute import Compute, Precision

ON_CPU = "networks computed on the CPU"
"""How a note on torch begins that finds no GPU."""


def networks_on(device: str, precision: Precision = "float32") -> tuple[Compute, tuple[str, ...]]:
    """The GPU on which the solvers run, or the CPU, and a note where a GPU could have been used.

    Parameters
    ----------
    device : str
        As given to `recover`.
    precision : {"float32", "bfloat16"}
        Of the networks while they sample.

    Raises
    ------
    InputError
        If the device is none, or a GPU is asked for that CuPy or torch cannot use.
    """
    import torch

    from tensorcell.diffusion_guidance.compute import Compute, cuda_problem

    chosen = choose_device(device)
    host = Compute(precision=precision)
    if chosen == "cpu":
        if device == "cpu" or cuda_problem() is not None:
            return host, ()
        return host, (f"{ON_CPU}, although torch finds a GPU, since the solvers' arrays lie there (CuPy finds none)",)
    number = NUMBERED.fullmatch(chosen)
    problem = cuda_problem(None if number is None else int(number[1]))
    if problem is None:
        index = torch.cuda.current_device() if number is None else int(number[1])
        return replace(host, device=torch.device("cuda", index)), ()
    if device != "auto":
        raise InputError(f'device {device!r} needs a torch that can use the GPU, for networks, too: {problem}; "auto" '
                         "computes them on the CPU")  # fmt: skip
    return host, (f"{ON_CPU}, the rest on the GPU: {problem}",)


def computing(problem: Problem, chosen: Compute) -> Compute:
    """Where the networks of a stack are computed: with its solvers on the CPU, where the GPU's memory is short.

    The memory of a GPU that CuPy keeps for later arrays is given back, since torch cannot use it.
    """
    import torch

    if problem.fitting.device == "cpu":
        return replace(chosen, device=torch.device("cpu"))
    if chosen.device.type == "cuda":
        freed_memory()
    return chosen
