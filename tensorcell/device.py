"""Where arrays are computed: on the host, or on a CUDA GPU if there is one that works."""

from __future__ import annotations

import contextlib
import importlib.util
import re
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

from tensorcell.errors import InputError
from tensorcell.memory import size_text

DEVICES = ("auto", "cpu", "cuda")

NUMBERED = re.compile(r"cuda:(\d{1,4})")
"""One of several GPUs, as CuPy and torch number them."""

LIBRARY_SIGNS = ("failed to load", "Failure finding")
"""In the words of CuPy, until version 13 and from 14 on: a library of the toolkit, which its wheels do not bring, is
missing."""

T = TypeVar("T")


def choose_device(device: str) -> str:
    """``"cpu"``, ``"cuda"`` (CuPy's current GPU) or ``"cuda:1"`` (that GPU).

    Parameters
    ----------
    device : str
        One of these, or ``"auto"``: the GPU where one works, else the CPU (:func:`reason_for_cpu` tells why).

    Raises
    ------
    InputError
        If a GPU is asked for and cannot be used; the line says what is missing and what would help.

    Examples
    --------
    >>> choose_device("cpu")
    'cpu'
    """
    number = NUMBERED.fullmatch(device) if isinstance(device, str) else None
    if number is None and (not isinstance(device, str) or device not in DEVICES):
        raise InputError(f"expected device {', '.join(DEVICES)} or cuda:NUMBER, got {device!r}")
    if device == "cpu" or (device == "auto" and not cupy_is_installed()):
        return "cpu"
    problem = cuda_problem(None if number is None else int(number[1]))
    if problem and device != "auto":
        raise InputError(f"device {device!r} needs a CUDA GPU and CuPy: {problem}")
    return "cpu" if problem else "cuda" if device == "auto" else device


def reason_for_cpu(device: str) -> tuple[str, ...]:
    """A note where ``"auto"`` takes the CPU although CuPy is installed, as somebody wanted a GPU to be used."""
    problem = cuda_problem() if device == "auto" and cupy_is_installed() else None
    return () if problem is None else (f"computed on the CPU, since CuPy is installed but not usable: {problem}",)


def on_device(array: Any, device: str) -> Any:
    """An array on the device, and itself on the CPU or where it lies there already; None stays None."""
    if device == "cpu" or array is None:
        return array
    import cupy

    with using(device):
        return cupy.asarray(array)


def using(device: str) -> Any:
    """A context in which ``"cuda:1"`` is CuPy's current GPU; the other names change nothing."""
    number = NUMBERED.fullmatch(device)
    if number is None:
        return contextlib.nullcontext()
    import cupy

    return cupy.cuda.Device(int(number[1]))


def with_fallback(device: str, compute: Callable[[str], T]) -> tuple[T, tuple[str, ...]]:
    """``compute(device)``, or ``compute("cpu")`` with a note where the memory of the GPU does not suffice.

    All of it is computed anew, so that no result is computed in part here and in part there.
    """
    if device == "cpu":
        return compute(device), ()
    try:
        with using(device):
            return compute(device), ()
    except Exception as error:
        if not is_short_of_memory(error):
            raise
        reason = one_line(error)
    with using(device):  # the traceback, which held arrays, is gone
        free = freed_memory()
    return compute("cpu"), (
        f"recovered on the CPU, since the memory of the GPU, of which {size_text(free)} were free, did not suffice "
        f"({reason}); smaller parts may fit (recover_file, with less memory=; tensorcell recover --memory)",
    )


def is_short_of_memory(error: BaseException) -> bool:
    """Whether a GPU lacked memory: for an array of CuPy or torch, or for a workspace of one of NVIDIA's libraries."""
    if type(error).__module__.partition(".")[0] == "torch" and type(error).__name__ == "OutOfMemoryError":
        return True
    if not type(error).__module__.startswith("cupy"):
        return False
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in ("MemoryAllocation", "ALLOC_FAILED"))


def free_on(device: str) -> int | None:
    """Bytes free on a GPU; None on the CPU.

    >>> free_on("cpu")
    """
    if device == "cpu":
        return None
    with using(device):
        return freed_memory()


def freed_memory() -> int:
    """Bytes free on the current GPU after CuPy has given back what it keeps for later arrays."""
    import cupy

    cupy.get_default_memory_pool().free_all_blocks()
    free, _ = cupy.cuda.runtime.memGetInfo()
    return int(free)


def cupy_is_installed() -> bool:
    """Whether there is a CuPy, which may be broken."""
    return importlib.util.find_spec("cupy") is not None


def cuda_problem(number: int | None = None) -> str | None:
    """Why no CUDA GPU, or not that one, can be used, in one line that says what would help; None where it can."""
    if not cupy_is_installed():
        return 'CuPy is not installed (pip install "tensorcell[cuda12]")'
    try:
        import cupy
    except Exception as error:  # a library that is missing or of another version: any exception may come of it
        return f"CuPy cannot be imported: {one_line(error.__cause__ or error)}"
    runtime = cupy.cuda.runtime
    if getattr(runtime, "is_hip", False):
        return "expected CuPy for CUDA, got one for ROCm, with which the CUDA programs here do not work"
    try:
        count = int(runtime.getDeviceCount())
    except Exception as error:
        return driver_problem(runtime, error)
    if not count:
        return "no GPU found"
    if number is not None and number >= count:
        return f"expected a GPU below {count} (so many are found), got number {number}"
    return trial_problem(number)


def driver_problem(runtime: Any, error: Exception) -> str:
    """What is wrong with the driver, where it cannot say how many GPUs there are.

    CUDA says of a driver that is missing, too, that it is older than the toolkit; its version, 0, tells these apart.
    """
    try:
        driver, toolkit = int(runtime.driverGetVersion()), int(runtime.runtimeGetVersion())
    except Exception:
        return one_line(error)
    if not driver:
        return "no NVIDIA driver is installed (or, in a container, none is passed through)"
    if driver // 1000 < toolkit // 1000:
        return (
            f"the NVIDIA driver is too old: expected one for CUDA {toolkit // 1000}, got one for CUDA "
            f"{version_text(driver)}; update the driver, or install CuPy for CUDA {driver // 1000}"
        )
    return one_line(error)


def version_text(number: int) -> str:
    """CUDA's number of a version as it is written.

    >>> version_text(12090)
    '12.9'
    """
    return f"{number // 1000}.{number % 1000 // 10}"


@cache
def trial_problem(number: int | None) -> str | None:
    """Why a sum and a matrix product fail on a GPU, which need NVIDIA's compiler and a library; None if they do not.

    The first call on a machine compiles a kernel, which takes about a second.
    """
    import cupy

    try:
        with using("cuda" if number is None else f"cuda:{number}"):
            ones = cupy.ones((2, 2), dtype=cupy.float32)
            total = float((ones @ ones + ones).sum())
    except Exception as error:
        if any(sign in str(error) for sign in LIBRARY_SIGNS):
            return f'{one_line(error)} (pip install "cupy-cuda12x[ctk]", or cuda13x, brings the toolkit\'s libraries)'
        return f"a trial on the GPU failed: {one_line(error)}"
    return None if total == 12 else f"a trial on the GPU gave {total}, expected 12"


def one_line(error: BaseException) -> str:
    """The first line of an error's message that says something.

    >>> one_line(ImportError("\\n=====\\nFailed to import CuPy.\\n\\nmore"))
    'Failed to import CuPy.'
    """
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line.strip("=- ")), type(error).__name__)
