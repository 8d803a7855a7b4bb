"""Where arrays are computed: on the host, or on a CUDA GPU if there is one."""

from __future__ import annotations

import importlib.util
from typing import Any

from tensorcell.arguments import one_of
from tensorcell.errors import InputError

DEVICES = ("auto", "cpu", "cuda")


def choose_device(device: str) -> str:
    """``"cpu"`` or ``"cuda"``; an explicit ``"cuda"`` without CuPy and a GPU is an error."""
    one_of("device", device, DEVICES)
    if device == "cpu" or (device == "auto" and importlib.util.find_spec("cupy") is None):
        return "cpu"
    problem = cuda_problem()
    if problem and device == "cuda":
        raise InputError(f"device 'cuda' needs a CUDA GPU and CuPy: {problem}")
    return "cpu" if problem else "cuda"


def on_device(array: Any, device: str) -> Any:
    """An array on the device, and itself on the CPU or where it lies there already; None stays None."""
    if device == "cpu" or array is None:
        return array
    import cupy

    return cupy.asarray(array)


def cuda_problem() -> str | None:
    """Why no CUDA GPU can be used, or None where one can."""
    try:
        import cupy
    except ImportError:
        return 'CuPy is not installed (pip install "tensorcell[cuda12]")'
    try:
        count = int(cupy.cuda.runtime.getDeviceCount())
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return str(error).splitlines()[0]
    return None if count else "no GPU found"
