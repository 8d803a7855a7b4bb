"""Every CUDA kernel compiles for every supported architecture, without a GPU, and fits into what a block has."""

from __future__ import annotations

import platform
import re

import nvrtc
import pytest

from tensorcell.solvers import kernels_cuda, kernels_defects_cuda, kernels_local_cuda
from tensorcell.solvers.cuda import Program
from tensorcell.solvers.local import LocalOptions
from tensorcell.solvers.patch_denoising import stages

ARCHITECTURES = ("sm_75", "sm_80", "sm_90", "sm_100", "sm_120")

REGISTERS, SHARED = 65_536, 48 << 10
"""Of a block, on all of them."""

SPILLED = 64
"""Bytes of a thread that may lie in main memory: a few loads among thousands of operations."""


@pytest.fixture(autouse=True)
def compiler() -> None:
    if nvrtc.library() is None:
        pytest.skip(f"needs the package nvidia-cuda-nvrtc-cu12, which there is for Linux (this is {platform.system()})")


def instances_of_sweeps() -> list[str]:
    return [
        f"pointwise<{real}, {rule}, {flag}>" for real in ("float", "double") for rule in range(4)
        for flag in ("false", "true")
    ]  # fmt: skip


def instances_of_filters() -> list[str]:
    """Those of the three stages of denoising, by default, where the noise is white; the last one also where it is not,
    and in a series."""
    found = []
    for number, each in enumerate(stages(LocalOptions(), (64, 64, 64))):
        sides = ", ".join(map(str, each.patch))
        found.append(f"filter_groups<{sides}, {each.group}, 1, {'true' if number else 'false'}, true>")
    return [*found, f"filter_groups<{sides}, {each.group}, 4, true, false>"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sweeps_compile_without_spills(architecture: str) -> None:
    for each in nvrtc.compiled(kernels_cuda.PROGRAM, instances_of_sweeps(), architecture):
        assert each.spilled == 0
        assert each.registers * kernels_cuda.THREADS <= REGISTERS
        assert each.shared <= SHARED


@pytest.mark.parametrize(("real", "vector", "mask"), [("float", "v4.f32", "v4.u8"), ("double", "v2.f64", "v2.u8")])
def test_sweeps_move_16_bytes_at_once_and_fuse_no_products(real: str, vector: str, mask: str) -> None:
    names = [name for name in instances_of_sweeps() if real in name]
    code = nvrtc.intermediate(kernels_cuda.PROGRAM, names, "compute_80")
    for instruction in (f"ld.global.{vector}", f"st.global.{vector}", f"ld.global.{mask}"):
        assert instruction in code
    for instruction in ("fma.", "atom", "red.global"):
        assert instruction not in code


def test_filters_add_whole_numbers_only() -> None:
    code = nvrtc.intermediate(kernels_local_cuda.PROGRAM, instances_of_filters()[:1], "compute_80")
    added = set(re.findall(r"\b(?:atom|red)\.\S+", code))
    assert added
    assert all("u64" in each for each in added)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_filters_of_patch_groups_compile(architecture: str) -> None:
    every = instances_of_filters() if architecture == "sm_90" else instances_of_filters()[-2:]
    for each in nvrtc.compiled(kernels_local_cuda.PROGRAM, every, architecture):
        assert each.spilled <= SPILLED
        assert 2 * each.registers * kernels_local_cuda.THREADS <= REGISTERS
        assert each.shared <= SHARED


def instances_of_comparisons() -> list[str]:
    return [f"{name}<{real}>" for name in ("around", "far_from_most", "along_columns") for real in ("float", "double")]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_comparisons_of_neighbours_compile(architecture: str) -> None:
    for each in nvrtc.compiled(kernels_defects_cuda.PROGRAM, instances_of_comparisons(), architecture):
        assert each.spilled <= SPILLED
        assert 4 * each.registers * kernels_defects_cuda.THREADS <= REGISTERS
        assert each.shared == 0


def test_comparisons_of_neighbours_fuse_no_products() -> None:
    code = nvrtc.intermediate(kernels_defects_cuda.PROGRAM, instances_of_comparisons(), "compute_80")
    assert "fma." not in code


def test_what_cannot_be_compiled_is_seen() -> None:
    wrong = Program("template <int N> __global__ void f(float* x) { x[0] = y; }", 1, ())
    with pytest.raises(AssertionError, match='identifier "y" is undefined'):
        nvrtc.compiled(wrong, ["f<1>"], "sm_80")
    idle = Program("template <int N> __global__ void f(float* x) { int unused; x[0] = N; }", 1, ())
    with pytest.raises(AssertionError, match="never referenced"):
        nvrtc.compiled(idle, ["f<1>"], "sm_80")
    plain = Program("template <int N> __global__ void f(float* x) { x[0] = N; }", 1, ())
    assert nvrtc.compiled(plain, ["f<1>"], "sm_80")[0].spilled == 0
