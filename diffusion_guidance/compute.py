"""Where and how networks are computed: the device, the precision, and the processes that share the batches of a fit.

Several processes, one a GPU, fit copies of a network to batches of their own and average the gradients. They are
started by ``torchrun`` or ``accelerate launch``, which tell each its number in the environment.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

Precision = Literal["float32", "bfloat16", "float16"]

NUMBERED = re.compile(r"cuda:(\d{1,4})")
"""One of several GPUs."""


@dataclass(frozen=True, kw_only=True)
class Compute:
    """How networks, their losses and gradients are computed.

    Attributes
    ----------
    device : torch.device
    precision : {"float32", "bfloat16", "float16"}
        Of products; weights, sums and the optimiser stay in float32. The gradients of float16 are not rescaled.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: Precision = "float32"

    @staticmethod
    def named(device: str = "auto", precision: str = "float32") -> Compute:
        """From names; ``"auto"`` is a GPU where torch finds one, that of this process where there are several.

        ``"cuda:1"`` is the GPU of that number.

        Raises
        ------
        ValueError
            If there is no such device or precision.

        >>> Compute.named("cpu", "bfloat16").precision
        'bfloat16'
        """
        if precision not in get_args(Precision):
            raise ValueError(f"precision must be one of {', '.join(get_args(Precision))}, got {precision!r}")
        number = NUMBERED.fullmatch(device)
        if number is None and device not in ("auto", "cpu", "cuda"):
            raise ValueError(f"device must be auto, cpu, cuda or cuda:NUMBER, got {device!r}")
        if device == "cpu" or (device == "auto" and cuda_problem() is not None):
            return Compute(precision=precision)  # type: ignore[arg-type]
        own = process().local if number is None else int(number[1])
        problem = cuda_problem(None if number is None else own)
        if problem is not None:
            raise ValueError(f"device {device} was asked for, but {problem}")
        return Compute(device=torch.device("cuda", own), precision=precision)  # type: ignore[arg-type]

    def loss(self, loss: Callable[[Any, Any], Tensor], network: nn.Module, batch: Any) -> Tensor:
        """The loss of a batch, in this precision."""
        batch = moved(batch, self.device)
        if self.precision == "float32":
            return loss(network, batch)
        with products(self.device, self.precision):
            return loss(network, batch).float()


def cuda_problem(number: int | None = None) -> str | None:
    """Why torch cannot use a GPU, or not that one, in one line; None where it can."""
    if torch.version.hip is not None:
        return f"expected torch for CUDA, got {torch.__version__} for ROCm"
    if not torch.cuda.is_available():
        if torch.version.cuda is None:
            return f"torch {torch.__version__} was built without CUDA (https://pytorch.org/get-started/locally)"
        return f"torch {torch.__version__} for CUDA {torch.version.cuda} finds no GPU that it can use"
    count = torch.cuda.device_count()
    if number is not None and number >= count:
        return f"torch expects a GPU below {count} (so many are found), got number {number}"
    return None


def products(device: torch.device, precision: Precision) -> Any:
    """A context in which networks multiply in this precision; what is no network stays outside of it.

    >>> with products(torch.device("cpu"), "bfloat16"):
    ...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
    torch.bfloat16
    """
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, precision))


@contextmanager
def same_threads() -> Iterator[None]:
    """Torch has as many threads afterwards as before: Numba sets those of OpenMP when it starts."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


@contextmanager
def exact_products() -> Iterator[None]:
    """Products of float32 with all of its bits, which GPUs otherwise leave out of convolutions (TF32)."""
    matrices, convolutions = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matrices, convolutions


@dataclass(frozen=True)
class Process:
    """This process among those that share a fit."""

    number: int = 0
    count: int = 1
    local: int = 0
    """Its number on this machine, which is that of its GPU."""


def process() -> Process:
    """What the environment says of this process."""
    numbers = (os.environ.get(name, start) for name, start in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0")))
    try:
        return Process(*(int(number) for number in numbers))
    except ValueError:
        return Process()


@contextmanager
def shared_fit() -> Iterator[Process]:
    """Connect the processes that were started together; one alone needs nothing."""
    own = process()
    if own.count == 1:
        yield own
        return
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    torch.distributed.init_process_group(backend)
    try:
        yield own
    finally:
        torch.distributed.destroy_process_group()


def together() -> bool:
    """Whether other processes share the fit."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def mean_of_all(value: float) -> float:
    """The mean of a number over all processes, so that all go on or stop for the same reason."""
    if not together():
        return value
    shared = torch.tensor([value], dtype=torch.float64)
    if torch.cuda.is_available():
        shared = shared.cuda()
    torch.distributed.all_reduce(shared)
    return float(shared) / torch.distributed.get_world_size()


def average_gradients(network: nn.Module) -> None:
    """Give every process the mean of the gradients of all."""
    if not together():
        return
    count = torch.distributed.get_world_size()
    for weight in network.parameters():
        if weight.grad is None:  # all processes sum the same weights
            weight.grad = torch.zeros_like(weight)
        torch.distributed.all_reduce(weight.grad)
        weight.grad /= count


def moved(batch: Any, device: torch.device) -> Any:
    """The batch with its tensors on a device: a tensor, or a (named) tuple of tensors and other values."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, tuple):
        parts = [moved(part, device) for part in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else tuple(parts)
    return batch
