"""Where a recovery is computed, with a CuPy that raises what the real one raises on machines that lack something.

The messages are CuPy's own (14.2 without a driver, 13.6 without the toolkit's libraries).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tensorcell import device, recover, recover_file
from tensorcell.device import choose_device, cuda_problem, on_device, reason_for_cpu, with_fallback
from tensorcell.errors import InputError
from tensorcell.large.workers import Place, place_here
from tensorcell.lazy_volume import LazyVolume
from tensorcell.solvers import cuda

INSUFFICIENT = "cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version"
NO_NVRTC = (
    "CuPy failed to load libnvrtc.so.12: OSError: libnvrtc.so.12: cannot open shared object file: No such file or "
    "directory"
)
NO_LIBRARY = """
================================================================
Failed to import CuPy.

If you installed CuPy via wheels, make sure that the package matches with the version of CUDA or ROCm installed.

Original error:
  ImportError: libcudart.so.11.0: cannot open shared object file: No such file or directory
================================================================
"""


class CUDARuntimeError(RuntimeError):
    __module__ = "cupy_backends.cuda.api.runtime"


class OutOfMemoryError(MemoryError):
    __module__ = "cupy.cuda.memory"


class CUBLASError(RuntimeError):
    __module__ = "cupy_backends.cuda.libs.cublas"


class Device:
    current = 0

    def __init__(self, number: int | None = None) -> None:
        self.id = Device.current if number is None else number

    def __enter__(self) -> None:
        self.before, Device.current = Device.current, self.id

    def __exit__(self, *_: object) -> None:
        Device.current = self.before


class OnDevice:
    """An array that knows the GPU on which it was made."""

    def __init__(self, values: Any) -> None:
        self.values, self.device = np.array(values), Device()

    def __matmul__(self, other: OnDevice) -> OnDevice:
        return OnDevice(self.values @ other.values)

    def __add__(self, other: OnDevice) -> OnDevice:
        return OnDevice(self.values + other.values)

    def sum(self) -> float:
        return float(self.values.sum())


def raising(error: Exception) -> Any:
    def call(*_: Any, **__: Any) -> Any:
        raise error

    return call


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A CuPy that finds two GPUs; each test takes something away."""
    fake: Any = ModuleType("cupy")
    fake.ndarray, fake.float32, fake.asarray = OnDevice, np.float32, OnDevice
    fake.ones = lambda *args, **kwargs: OnDevice(np.ones(*args, **kwargs))
    fake.get_default_memory_pool = lambda: SimpleNamespace(free_all_blocks=lambda: None)
    fake.cuda = SimpleNamespace(
        Device=Device,
        runtime=SimpleNamespace(
            is_hip=False,
            getDeviceCount=lambda: 2,
            driverGetVersion=lambda: 12080,
            runtimeGetVersion=lambda: 12090,
            memGetInfo=lambda: (3_000_000_000, 8_000_000_000),
        ),
    )
    monkeypatch.setitem(sys.modules, "cupy", fake)
    monkeypatch.setattr(device, "cupy_is_installed", lambda: True)
    device.trial_problem.cache_clear()
    yield fake
    device.trial_problem.cache_clear()


def test_a_gpu_that_works_is_taken(cupy: Any) -> None:
    assert [choose_device(name) for name in ("auto", "cuda", "cuda:1", "cpu")] == ["cuda", "cuda", "cuda:1", "cpu"]
    assert reason_for_cpu("auto") == ()


@pytest.mark.parametrize("wrong", ["gpu", "cuda:", "cuda:-1", "cuda:1.0", "CUDA", 1, None])
def test_other_names_are_refused(wrong: Any) -> None:
    with pytest.raises(InputError, match="expected device auto, cpu, cuda or cuda:NUMBER, got"):
        choose_device(wrong)


def no_driver(cupy: Any) -> None:
    cupy.cuda.runtime.getDeviceCount = raising(CUDARuntimeError(INSUFFICIENT))
    cupy.cuda.runtime.driverGetVersion = lambda: 0


def old_driver(cupy: Any) -> None:
    cupy.cuda.runtime.getDeviceCount = raising(CUDARuntimeError(INSUFFICIENT))
    cupy.cuda.runtime.driverGetVersion = lambda: 11040


def no_device(cupy: Any) -> None:
    cupy.cuda.runtime.getDeviceCount = raising(
        CUDARuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")
    )


def nothing_found(cupy: Any) -> None:
    cupy.cuda.runtime.getDeviceCount = lambda: 0


def no_compiler(cupy: Any) -> None:
    cupy.ones = raising(RuntimeError(NO_NVRTC))


def no_products(cupy: Any) -> None:
    cupy.ones = raising(ImportError('Failure finding "libcublasLt.so.13 or libcublasLt.so.12": No such file\n'))


def wrong_code(cupy: Any) -> None:
    cupy.ones = raising(CUDARuntimeError("cudaErrorNoKernelImageForDevice: no kernel image\nis available"))


def wrong_sums(cupy: Any) -> None:
    cupy.ones = lambda *_, **__: np.zeros((2, 2), np.float32)


def rocm(cupy: Any) -> None:
    cupy.cuda.runtime.is_hip = True


TROUBLE = [
    (no_driver, "no NVIDIA driver is installed"),
    (old_driver, "driver is too old: expected one for CUDA 12, got one for CUDA 11.4; update the driver, or install"),
    (no_device, "cudaErrorNoDevice: no CUDA-capable device is detected"),
    (nothing_found, "no GPU found"),
    (no_compiler, r'failed to load libnvrtc.so.12.* \(pip install "cupy-cuda12x\[ctk\]"'),
    (no_products, r'Failure finding "libcublasLt.* \(pip install "cupy-cuda12x\[ctk\]"'),
    (wrong_code, "a trial on the GPU failed: cudaErrorNoKernelImageForDevice"),
    (wrong_sums, "a trial on the GPU gave 0.0, expected 12"),
    (rocm, "expected CuPy for CUDA, got one for ROCm"),
]


@pytest.mark.parametrize(("take_away", "message"), TROUBLE, ids=[each.__name__ for each, _ in TROUBLE])
def test_what_is_missing_is_said_in_one_line(cupy: Any, take_away: Any, message: str) -> None:
    take_away(cupy)
    with pytest.raises(InputError, match=f"device 'cuda' needs a CUDA GPU and CuPy: .*{message}") as caught:
        choose_device("cuda")
    assert "\n" not in str(caught.value)
    assert choose_device("auto") == "cpu"
    (note,) = reason_for_cpu("auto")
    assert note.startswith("computed on the CPU, since CuPy is installed but not usable: ")
    assert note.endswith(str(cuda_problem()))
    assert reason_for_cpu("cpu") == ()


def test_a_cupy_that_cannot_be_imported_is_told_by_its_cause(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cause = ImportError("libcudart.so.11.0: cannot open shared object file: No such file or directory")

    class Broken:
        def find_spec(self, name: str, *_: Any) -> None:
            if name == "cupy":
                raise ImportError(NO_LIBRARY) from cause

    monkeypatch.delitem(sys.modules, "cupy")
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    assert cuda_problem() == f"CuPy cannot be imported: {cause}"


def test_a_gpu_that_is_not_there_is_refused(cupy: Any) -> None:
    with pytest.raises(InputError, match=r"device 'cuda:2' needs .* expected a GPU below 2 \(so many are found\), got"):
        choose_device("cuda:2")


def test_without_cupy_nobody_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "cupy_is_installed", lambda: False)
    assert choose_device("auto") == "cpu"
    assert reason_for_cpu("auto") == ()
    with pytest.raises(InputError, match=r'CuPy is not installed \(pip install "tensorcell\[cuda12\]"\)'):
        choose_device("cuda")


def test_arrays_and_computations_are_on_the_gpu_that_was_asked_for(cupy: Any) -> None:
    assert on_device(np.ones(2), "cuda:1").device.id == 1
    assert on_device(np.ones(2), "cuda").device.id == 0
    assert with_fallback("cuda:1", lambda _: Device().id) == (1, ())
    assert Device().id == 0


def test_the_memory_is_that_of_the_gpu_that_is_asked_for(cupy: Any) -> None:
    cupy.cuda.runtime.memGetInfo = lambda: ((3, 5)[Device.current] * 10**9, 8 * 10**9)
    places = [place_here(name) for name in ("cuda", "cuda:1", "cpu")]
    assert places == [Place("cuda", 3 * 10**9), Place("cuda:1", 5 * 10**9), Place("cpu", None)]
    no_driver(cupy)
    (note,) = reason_for_cpu("auto")
    assert place_here("auto") == Place("cpu", None, (note,))


def test_a_gpu_that_is_not_there_is_one_line_before_a_file_is_touched(cupy: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^device 'cuda:7' needs .* expected a GPU below 2 .*, got number 7$"):
        recover_file(LazyVolume(cells()), tmp_path / "out.npy", device="cuda:7")
    assert not list(tmp_path.glob("*"))


def test_kernels_refuse_arrays_of_another_gpu(cupy: Any) -> None:
    with Device(1):
        there = cupy.ones(3)
    program = cuda.Program("", 1, ())
    with pytest.raises(ValueError, match="expected arrays on CuPy's current GPU, 0, got one on GPU 1: "):
        cuda.launch(program, "kernel", 1, (cupy.ones(3), there))
    cupy.cuda.runtime.is_hip = True
    with pytest.raises(ValueError, match="expected CuPy for CUDA, got one for ROCm"):
        cuda.launch(program, "kernel", 1, (cupy.ones(3),))


SHORT = [
    OutOfMemoryError("Out of memory allocating 9,000,000,000 bytes (allocated so far: 512 bytes)."),
    CUDARuntimeError("cudaErrorMemoryAllocation: out of memory"),
    CUBLASError("CUBLAS_STATUS_ALLOC_FAILED"),
]


@pytest.mark.parametrize("error", SHORT, ids=[type(each).__name__ for each in SHORT])
def test_where_memory_of_the_gpu_is_short_the_cpu_computes_all_of_it_and_says_so(cupy: Any, error: Exception) -> None:
    asked: list[str] = []

    def compute(name: str) -> str:
        asked.append(name)
        if name != "cpu":
            raise error
        return name

    found, (note,) = with_fallback("cuda", compute)
    assert (found, asked) == ("cpu", ["cuda", "cpu"])
    assert "of which 3 GB were free" in note
    assert str(error) in note


@pytest.mark.parametrize("error", [MemoryError("the host's"), CUDARuntimeError("cudaErrorIllegalAddress"), OSError()])
def test_other_errors_are_not_hidden(cupy: Any, error: Exception) -> None:
    with pytest.raises(type(error)):
        with_fallback("cuda", raising(error))


def cells() -> np.ndarray:
    return np.random.default_rng(0).poisson(30, (4, 12, 12)).astype(np.float32)


def test_recover_says_why_the_cpu_was_taken(cupy: Any) -> None:
    rocm(cupy)
    (note,) = (note for note in recover(cells(), method="tucker", rank=2).notes if "CPU" in note)
    assert "ROCm" in note


def test_recover_goes_on_where_the_memory_of_the_gpu_is_short(cupy: Any) -> None:
    cupy.asarray = raising(SHORT[0])
    data = np.where(np.random.default_rng(1).random((4, 12, 12)) < 0.6, cells(), np.nan)
    short, cpu = (recover(data, method="tucker", rank=2, device=name) for name in ("cuda", "cpu"))
    np.testing.assert_array_equal(short.volume.data, cpu.volume.data)
    (note,) = set(short.notes) - set(cpu.notes)
    assert note.startswith("recovered on the CPU, since the memory of the GPU")


def test_cupy_itself_without_a_driver() -> None:
    folder = os.environ.get("TENSORCELL_CUPY")
    if not folder:
        pytest.skip("needs the folder of CuPy in TENSORCELL_CUPY")
    if os.path.exists("/dev/nvidiactl"):
        pytest.skip("there is a driver")
    program = "from tensorcell.device import cuda_problem; print(cuda_problem())"
    path = os.pathsep.join((folder, *sys.path))
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.stdout.startswith("no NVIDIA driver is installed"), done.stdout + done.stderr
