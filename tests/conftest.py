"""Fixtures shared by all tests."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import scipy.fft

collect_ignore = ["standin"]
"""No tests; once imported, the stand-in would be CuPy to all of them."""


@pytest.fixture(autouse=True)
def one_torch_thread() -> None:
    """Torch on one thread, where it is loaded: on small tensors several wait for each other, and for the solvers'."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


@pytest.fixture
def heeds_interrupts() -> Iterator[None]:
    """Ctrl-C interrupts this test and the processes it starts, although the tests may run in the background.

    A shell starts a background command with SIGINT ignored. Children inherit that, and Python installs no handler then.
    A handler, however, is not inherited by another program, which starts with the default instead.
    """
    earlier = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, earlier)


@pytest.fixture
def ignores_interrupts() -> Iterator[None]:
    """SIGINT is ignored by this test and the processes it starts, as in a script's background command."""
    earlier = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGINT, earlier)


@pytest.fixture
def train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run ``tensorcell train`` in a folder of its own: exit status, stdout, stderr."""
    from command_line import call as call_in

    def call(*arguments: str) -> tuple[int, str, str]:
        status = call_in(monkeypatch, tmp_path, "train", *arguments)
        out, err = capsys.readouterr()
        return status, out, err

    return call


@pytest.fixture(scope="session")
def volumes_folder() -> Path:
    """Folder of real volumes: ``TENSORCELL_DATA`` or ``../shared/data`` beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("TENSORCELL_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"real volumes not found in {folder} (set TENSORCELL_DATA)")
    return folder


class Backend(NamedTuple):
    """One array library: ``put`` moves a host array into it; ``take`` brings one back, and fails on a stranger."""

    name: str
    put: Callable[[Any], Any]
    take: Callable[[Any], np.ndarray]


def read_only(array: Any) -> np.ndarray:
    """A copy that nobody can write to."""
    copy = np.array(array)
    copy.setflags(write=False)
    return copy


@pytest.fixture(scope="session", params=["numpy", "read-only", "array_api_strict", "cupy"])
def xp(request: pytest.FixtureRequest) -> Backend:
    """NumPy, NumPy that catches writes into the caller's arrays, the bare standard, and CuPy where there is a GPU."""
    if request.param == "array_api_strict":
        put: Any = pytest.importorskip("array_api_strict").asarray
    elif request.param == "cupy":
        put = pytest.importorskip("cupy").asarray
        try:
            put(0.0)
        except Exception as error:
            pytest.skip(f"no CUDA device: {error}")
    else:
        put = read_only if request.param == "read-only" else np.array
    kind = type(put(np.zeros(1)))

    def take(array: Any) -> np.ndarray:
        assert isinstance(array, kind), f"expected {kind}, got {type(array)}"
        return array.get() if request.param == "cupy" else np.asarray(array)

    return Backend(request.param, put, take)


class Planted(NamedTuple):
    """A Tucker tensor of root mean square 1, and what was seen of it."""

    truth: np.ndarray
    data: np.ndarray
    mask: np.ndarray
    support: np.ndarray
    """True where an observed entry was replaced by an outlier."""
    rank: tuple[int, ...]

    def error(self, value: Any) -> float:
        """``||value - truth|| / ||truth||`` over all entries, seen or not."""
        return float(np.linalg.norm(np.asarray(value) - self.truth) / np.linalg.norm(self.truth))


def plant(
    shape: tuple[int, ...],
    rank: tuple[int, ...],
    *,
    seen: float = 1.0,
    outliers: float = 0.0,
    size: tuple[float, float] = (10.0, 10.0),
    noise: float = 0.0,
    nonnegative: bool = False,
    seed: int = 0,
) -> Planted:
    """Random core and factors (not orthonormal); a share of the seen entries is off by ``size``, up or down.

    Unseen entries of ``data`` hold NaN. With ``nonnegative`` core and factors are clipped at zero (a third of their
    entries), so that much of the truth lies on the bound.
    """
    rng = np.random.default_rng(seed)

    def draw(*sizes: int) -> np.ndarray:
        normal = rng.standard_normal(sizes)
        return np.maximum(normal + 0.5, 0) if nonnegative else normal

    truth = draw(*rank)
    for mode, (length, columns) in enumerate(zip(shape, rank, strict=True)):
        truth = np.moveaxis(np.tensordot(draw(length, columns), truth, (1, mode)), 0, mode)
    truth = np.ascontiguousarray(truth / np.sqrt(np.mean(truth**2)))
    mask = rng.random(shape) < seen
    support = mask & (rng.random(shape) < outliers)
    data = truth + noise * rng.standard_normal(shape)
    data[support] += rng.uniform(*size, support.sum()) * rng.choice([-1.0, 1.0], support.sum())
    return Planted(truth, np.where(mask, data, np.nan), mask, support, rank)


@pytest.fixture(scope="session")
def planted() -> Callable[..., Planted]:
    """:func:`plant`."""
    return plant


def textured(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Smooth structure and noise on [0, 1]."""
    rng = np.random.default_rng(seed)
    waves = sum(np.sin(scipy.fft.idct(rng.standard_normal(n) * (np.arange(n) < 6), axis=0)) * 1.0 for n in shape[-1:])
    image = np.cumsum(rng.standard_normal(shape), axis=-1) * 0.02 + 0.2 * waves + 0.05 * rng.standard_normal(shape)
    return np.clip(0.5 + image, 0, 1)


@pytest.fixture(name="textured", scope="session")
def textured_fixture() -> Callable[[tuple[int, ...], int], np.ndarray]:
    """:func:`textured`."""
    return textured


@pytest.fixture
def benchmark_module(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """A function that imports a module of the folder ``benchmarks``, which is not installed."""
    root = Path(__file__).resolve().parents[1]
    if not (root / "benchmarks").is_dir():
        pytest.skip(f"no benchmarks in {root}")
    monkeypatch.syspath_prepend(str(root))
    return lambda name: importlib.import_module(f"benchmarks.{name}")
