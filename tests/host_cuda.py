"""CUDA programs on the host: the C++ compiler takes their sources, unchanged, after lines that stand in for CUDA.

Every thread of a block is a coroutine that gives way at ``__syncthreads``, so grid, barriers and reductions are run as
written. Which thread of a block goes first can be chosen: what depends on it is a race.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tensorcell.solvers.cuda import Program

HOST_CUDA = r"""
#include <cmath>
#include <cstddef>
#include <cstring>
#include <functional>
#include <setjmp.h>
#include <ucontext.h>
#include <vector>
#define __global__
#define __device__
#define __shared__ static
#define __launch_bounds__(...)
#define POOL(name) unsigned long long* const name = shared_memory
struct Index { unsigned int x; };
static Index threadIdx, blockIdx, gridDim;
static ucontext_t fibres[1024];
static jmp_buf scheduler, places[1024];  // jumps do not ask the system about signals, as swapcontext does
static bool begun[1024], waiting[1024], misaligned;
alignas(16) static unsigned long long shared_memory[1 << 15];
static unsigned int current;
static std::function<void()> body;

static unsigned int __float_as_uint(float value) {
    unsigned int bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

static long long __float2ll_rn(float value) { return std::llrint(value); }

template <typename T>
static void atomicAdd(T* sum, T value) { *sum += value; }

static void __syncthreads() {
    waiting[current] = true;
    if (!_setjmp(places[current])) _longjmp(scheduler, 1);
}

static void enter() {
    body();
    waiting[current] = false;
    _longjmp(scheduler, 1);
}

// Called before a misaligned access, by the code that -fsanitize=alignment adds: the thread ends there.
extern "C" void __ubsan_handle_type_mismatch_v1(void*, void*) {
    misaligned = true;
    waiting[current] = false;
    _longjmp(scheduler, 1);
}

// Run the kernel block by block, all threads of a block in turn from barrier to barrier. Returns 1 if some threads of
// a block have ended while others wait at a barrier (undefined in CUDA), 2 after a misaligned access, 3 where shared
// memory does not suffice, else 0.
static int run(int blocks, unsigned int threads, int shared, bool backwards) {
    if (shared > (int)sizeof shared_memory) return 3;
    const size_t stack = 32768;
    static std::vector<char> stacks(threads * stack);
    gridDim.x = blocks;
    misaligned = false;
    for (blockIdx.x = 0; blockIdx.x < gridDim.x; ++blockIdx.x) {
        std::memset(shared_memory, 0x7F, sizeof shared_memory);
        for (unsigned int t = 0; t < threads; ++t) {
            getcontext(&fibres[t]);
            fibres[t].uc_stack.ss_sp = &stacks[t * stack];
            fibres[t].uc_stack.ss_size = stack;
            begun[t] = false;
            makecontext(&fibres[t], enter, 0);
        }
        static unsigned int left, turn;  // a jump may spoil variables that are not static
        left = threads;
        while (left) {
            left = 0;
            for (turn = 0; turn < threads; ++turn) {
                current = backwards ? threads - 1 - turn : turn;
                threadIdx.x = current;
                if (!_setjmp(scheduler)) {
                    if (begun[current]) _longjmp(places[current], 1);
                    begun[current] = true;
                    setcontext(&fibres[current]);
                }
                left += waiting[current];
            }
            if (misaligned) return 2;
            if (left != 0 && left != threads) return 1;
        }
    }
    return 0;
}
"""


TROUBLE = {
    1: "threads of one block disagree about a barrier",
    2: "misaligned access",
    3: "more shared memory than the stand-in has",
}


def c_name(name: str) -> str:
    """``pointwise<float, 0, true>`` as the name of a C function."""
    return "".join(letter if letter.isalnum() else "_" for letter in name)


C_TYPES = {
    "float32": "float", "float64": "double", "int32": "int", "int64": "long long", "uint64": "unsigned long long",
    "bool": "unsigned char", "uint8": "unsigned char",
}  # fmt: skip

SCALARS = {"float32": ctypes.c_float, "float64": ctypes.c_double, "int32": ctypes.c_int, "int64": ctypes.c_longlong}


class HostLaunch:
    """In the place of ``cuda.launch``: runs the kernel on NumPy arrays.

    Parameters
    ----------
    folder : Path
        Where programs are compiled, each instance when it is first launched.

    Attributes
    ----------
    backwards : bool
        Whether the last thread of a block goes first.
    """

    def __init__(self, folder: Path) -> None:
        if platform.libc_ver()[0] != "glibc":
            pytest.skip("coroutines by ucontext are taken from glibc")
        compiler = shutil.which("g++") or shutil.which("clang++") or shutil.which("c++")
        if compiler is None:
            pytest.skip("no C++ compiler on the path")
        self.compiler, self.folder = compiler, folder
        self.functions: dict[tuple[Program, str], Any] = {}
        self.backwards = False

    def __call__(self, program: Program, name: str, blocks: int, arguments: tuple[Any, ...], shared: int = 0) -> None:
        if (program, name) not in self.functions:
            self.compile(program, [(name, [type_of(argument) for argument in arguments])])
        given = [
            ctypes.c_void_p(a.ctypes.data) if isinstance(a, np.ndarray)
            else ctypes.c_void_p(None) if a.dtype == np.uint64  # no array
            else SCALARS[str(a.dtype)](a.item())
            for a in arguments
        ]  # fmt: skip
        status = self.functions[program, name](blocks, shared, self.backwards, *given)
        assert status == 0, TROUBLE[status]

    def compile(self, program: Program, instances: Sequence[tuple[str, Sequence[str]]]) -> None:
        """Compile instances of a program, each with the C types of its arguments."""
        functions = [
            f'extern "C" int {c_name(name)}(int blocks, int shared, bool backwards, '
            f"{', '.join(f'{kind} a{n}' for n, kind in enumerate(types))}) {{ body = [=] {{ "
            f"{name}({', '.join(f'a{n}' for n in range(len(types)))}); }}; "
            f"return run(blocks, {program.threads}, shared, backwards); }}\n"
            for name, types in instances
        ]
        text = HOST_CUDA + program.source + "".join(functions)
        finished = self.folder / f"{hashlib.sha1(text.encode()).hexdigest()}.so"
        if not finished.exists():
            self.build(text, finished)
        found = ctypes.CDLL(str(finished))
        for name, _ in instances:
            self.functions[program, name] = getattr(found, c_name(name))

    def build(self, text: str, finished: Path) -> None:
        """Compile a source; other processes may do the same."""
        stem = finished.with_name(f"{finished.stem}-{os.getpid()}")
        source, module, library = (str(stem.with_suffix(end)) for end in (".cpp", ".o", ".so"))
        Path(source).write_text(text)
        # Products must not be fused with additions, as on the device; a packet may alias the numbers that it holds.
        flags = [
            "-std=c++14",
            "-O1",
            "-ffp-contract=off",
            "-fno-strict-aliasing",
            "-fsanitize=alignment",
            "-fPIC",
            "-U_FORTIFY_SOURCE",
            "-Wno-clobbered",
        ]
        quiet = ["-Wall", "-Werror", "-Wno-unused-function"]
        subprocess.run([self.compiler, *flags, *quiet, "-c", source, "-o", module], check=True)
        subprocess.run([self.compiler, "-shared", module, "-o", library], check=True)
        os.replace(library, finished)


def type_of(argument: Any) -> str:
    """C type of an argument; a number of type uint64 stands for an array that is not there."""
    if isinstance(argument, np.ndarray):
        return f"{C_TYPES[str(argument.dtype)]}*"
    return "float*" if argument.dtype == np.uint64 else C_TYPES[str(argument.dtype)]


@cache
def missing_gpu() -> str | None:
    """Why tests cannot run on a GPU, or None."""
    try:
        import cupy
    except ImportError:
        return "CuPy is not installed"
    try:
        return None if cupy.cuda.runtime.getDeviceCount() else "no GPU"
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return f"no GPU: {error}"
