"""Arrays of the solvers and of NumPy as tensors and back, on whichever device they lie.

Tensors become arrays by DLPack: NumPy uses the memory of a CPU tensor, CuPy that of a CUDA tensor. Nothing is copied,
and a tensor on a GPU does not pass through the host.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from tensorcell.solvers.arrays import Array


def tensor_of(array: Array, device: torch.device) -> Tensor:
    """A tensor on the device, of the dtype of an array of NumPy or CuPy: of the same memory where that lies there.

    >>> values = np.zeros(2, np.float32)
    >>> tensor_of(values, torch.device("cpu"))[0] = 5.0
    >>> values
    array([5., 0.], dtype=float32)
    """
    found: Tensor = torch.from_numpy(array) if isinstance(array, np.ndarray) else from_dlpack(array)
    return found.to(device)


def on_host(tensor: Tensor) -> npt.NDArray[Any]:
    """A NumPy array of the tensor's dtype; of the same memory where that is the host's."""
    return tensor.detach().cpu().numpy()


def to_array(tensor: Tensor) -> Array:
    """A NumPy or CuPy view of the same memory, without gradient.

    Raises
    ------
    TypeError
        If the tensor lies neither on a CPU nor on a CUDA device, or CuPy is missing for the latter.

    >>> x = torch.zeros(2)
    >>> to_array(x)[0] = 5.0
    >>> x
    tensor([5., 0.])
    """
    tensor = tensor.detach()
    if tensor.device.type == "cpu":
        return np.from_dlpack(tensor)
    if tensor.device.type == "cuda":
        try:
            import cupy
        except ImportError:
            raise TypeError("expected CuPy for CUDA tensors (extra cuda12 or cuda13), found none") from None
        with cupy.cuda.Device(tensor.device.index or 0):
            return cupy.from_dlpack(tensor)
    raise TypeError(f"expected a tensor on a CPU or CUDA device, got {tensor.device}")
