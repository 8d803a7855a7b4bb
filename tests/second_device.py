"""A second device that torch takes for one although there is none: its tensors hold real values, kept on the CPU.

It goes by the name of torch's device "meta". Under :func:`second_device`, tensors that are created there or moved there
are :class:`There`; operations on them give others of their kind, with the values that the CPU computes. As on a GPU, a
tensor of the CPU with axes cannot take part in an operation with them, except to be copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

NAME = torch.device("meta")

COPIES = ("aten::copy_", "aten::_to_copy", "aten::to")


class There(torch.Tensor):
    """A tensor on the second device."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> There:
        made: There = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            device=NAME, requires_grad=held.requires_grad,
        )  # fmt: skip
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})


class FromNumbers(TorchFunctionMode):
    """Tensors of Python's numbers are made on the CPU and then moved: torch would forget their values on "meta"."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func not in (torch.tensor, torch.as_tensor) or kwargs.get("device") is None:
            return func(*args, **kwargs)
        device = kwargs.pop("device")
        if isinstance(args[0], torch.Tensor):
            return args[0].to(device=device, dtype=kwargs.get("dtype"))
        return func(*args, **kwargs).to(device)


class Dispatched(TorchDispatchMode):
    """Every operation of torch passes through :func:`computed`."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})


@contextmanager
def second_device() -> Iterator[torch.device]:
    """While it is active there is a second device, whose name it gives."""
    with FromNumbers(), Dispatched():
        yield NAME


def on_cpu(leaf: Any) -> Any:
    """The values of a tensor of the second device, the CPU in place of any device, and else what is given."""
    if isinstance(leaf, torch.device):
        return torch.device("cpu")
    return leaf.held if isinstance(leaf, There) else leaf


def computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The operation on the values held, its results on the device on which it belongs."""
    name = func._schema.name
    leaves = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, torch.Tensor)]
    there = came = any(isinstance(leaf, There) for leaf in leaves)
    mixed = there and any(leaf.ndim > 0 and not isinstance(leaf, There) for leaf in leaves)
    if mixed and name not in COPIES:
        raise RuntimeError(f"{name}: expected all tensors on one device, got some on the CPU")
    asked = next((leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, torch.device)), None)
    if asked is not None:
        there = asked == NAME
    if name == "aten::copy_":
        there = isinstance(args[0], There)
    bare, bare_kwargs = tree_map(on_cpu, (args, kwargs))
    found = func(*bare, **bare_kwargs)
    if not there:
        return found
    wrapped = tree_map(lambda leaf: There(leaf) if isinstance(leaf, torch.Tensor) else leaf, found)
    return return_and_correct_aliasing(func, args, kwargs, wrapped) if came else wrapped
