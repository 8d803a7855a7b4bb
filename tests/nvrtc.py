"""NVIDIA's run-time compiler called directly: it needs neither a driver nor a GPU."""

from __future__ import annotations

import ctypes
import importlib.util
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from tensorcell.solvers.cuda import Program


class Resources(NamedTuple):
    """What an instance of a kernel takes, as the assembler says."""

    registers: int
    """Of a thread."""
    spilled: int
    """Bytes of a thread that did not fit into registers."""
    shared: int
    """Bytes of shared memory of a block, whose size is known when it is compiled."""


@cache
def library() -> Any:
    """The compiler's library, or None where the package is not installed."""
    try:
        found = importlib.util.find_spec("nvidia.cuda_nvrtc")
    except ModuleNotFoundError:
        return None
    folders = [] if found is None else [Path(folder) for folder in found.submodule_search_locations or []]
    paths = sorted(path for folder in folders for path in folder.glob("lib/libnvrtc.so.*"))
    return ctypes.CDLL(str(paths[0])) if paths else None


def compiled(program: Program, names: Sequence[str], architecture: str) -> list[Resources]:
    """Compile instances for an architecture such as ``"sm_90"``, every warning an error; what each of them takes."""
    _, text = built(program, names, architecture, "CUBIN", "-Xptxas", "-v")
    registers, spilled = (re.findall(each, text) for each in (r"Used (\d+) registers", r"(\d+) bytes spill stores"))
    shared = [re.search(r"(\d+) bytes smem", line) for line in re.findall(r"Used .*", text)]
    found = [
        Resources(int(one), int(two), int(three[1]) if three else 0)
        for one, two, three in zip(registers, spilled, shared, strict=True)
    ]
    assert len(found) == len(names)
    return found


def intermediate(program: Program, names: Sequence[str], architecture: str) -> str:
    """What the assembler gets for an architecture such as ``"compute_90"`` (PTX)."""
    code, _ = built(program, names, architecture, "PTX")
    return code.decode()


def built(program: Program, names: Sequence[str], architecture: str, kind: str, *options: str) -> tuple[bytes, str]:
    """Code, and what the compiler says."""
    nvrtc, handle = library(), ctypes.c_void_p()

    def given(name: str) -> bytes:
        size = ctypes.c_size_t()
        assert getattr(nvrtc, f"nvrtcGet{name}Size")(handle, ctypes.byref(size)) == 0
        text = ctypes.create_string_buffer(size.value)
        assert getattr(nvrtc, f"nvrtcGet{name}")(handle, text) == 0
        return text.raw.rstrip(b"\0") if kind != "CUBIN" or name == "ProgramLog" else text.raw

    assert nvrtc.nvrtcCreateProgram(ctypes.byref(handle), program.source.encode(), b"source.cu", 0, None, None) == 0
    for name in names:
        assert nvrtc.nvrtcAddNameExpression(handle, name.encode()) == 0
    texts = [text.encode() for text in (f"-arch={architecture}", *program.options, *options)]
    status = nvrtc.nvrtcCompileProgram(handle, len(texts), (ctypes.c_char_p * len(texts))(*texts))
    said = given("ProgramLog").decode()
    assert status == 0, said
    assert "warning" not in said, said
    code = given(kind)
    assert code
    nvrtc.nvrtcDestroyProgram(ctypes.byref(handle))
    return code, said
