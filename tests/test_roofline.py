"""The command that holds every hot function against the roofs of the machine."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest

from tensorcell.solvers import kernels_local, kernels_numba
from tensorcell.solvers.rules import Rule

pytest.importorskip("threadpoolctl", reason="the benchmarks need it")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def command(benchmark_module: Any) -> Any:
    return benchmark_module("roofline")


@pytest.fixture
def roofs(command: Any) -> Any:
    return command.Roofs(memory=10.0, cache=100.0, single=1000.0, double=500.0)


def test_floor_is_the_longest_of_the_three_times(command: Any, roofs: Any) -> None:
    assert roofs.floor(command.Work(memory=20, operations=10, cached=10)) == 2
    assert roofs.floor(command.Work(memory=20, operations=3000, cached=10)) == 3
    assert roofs.floor(command.Work(memory=20, operations=3000, cached=400)) == 4


def test_every_function_is_where_the_table_says(command: Any) -> None:
    for function in command.FUNCTIONS:
        module, name = function.place.split(":")
        assert callable(getattr(importlib.import_module(module), name)), function.place


def test_own_time_is_without_that_of_the_functions_called(command: Any, roofs: Any) -> None:
    """A clock that a call moves on: 2 s before the inner call, 3 s in it, 1 s after it."""
    now = [0.0]

    def wait(seconds: float) -> None:
        now[0] += seconds

    probe = command.Probe(lambda: now[0], roofs, run="r")

    def outer() -> None:
        wait(2)
        probe.took("inner", command.Work(10, 0), lambda: wait(3))
        wait(1)

    probe.took("outer", None, outer)
    inner, whole = probe.rows["r", "inner"], probe.rows["r", "outer"]
    assert (inner.seconds, inner.floor, inner.lost, inner.calls) == (3, 1, 2, 1)
    assert (whole.seconds, whole.floor) == (3, 0)
    assert "| r | inner | 1 | 3.0000 | 1.0000 | 3.0 | 2.0000 |" in command.table([whole, inner]).splitlines()[-1]


def test_probe_times_calls_by_any_name_and_goes_away(command: Any, roofs: Any) -> None:
    from tensorcell.solvers import kriging, sweeps
    from tensorcell.solvers.noise import NoiseModel

    before = sweeps.sweep, kriging.kriged
    probe = command.Probe(command.time.perf_counter, roofs, run="r")
    shape, rank = (4, 6, 5), (2, 2, 2)
    rng = np.random.default_rng(0)
    data, mask = rng.random(shape, np.float32), np.ones(shape, bool)
    core, factors = rng.random(rank), [rng.random((n, 2)) for n in shape]
    planes = rng.random((5, 16, 16), np.float32)
    with command.probed(probe):
        from tensorcell.solvers import riemannian

        riemannian.sweep(data, mask, core, factors, rule=Rule.HUBER, threshold=1.0)
        found = list(kriging.kriged(planes, np.arange(5.0), np.array([1.5, 2.5]), NoiseModel.white(0.1)))
    assert len(found) == 2
    assert (sweeps.sweep, kriging.kriged) == before
    row = probe.rows["r", "sweep, huber"]
    assert row.calls == 1
    assert row.memory == 5 * math.prod(shape)  # data and mask, no dual
    assert probe.rows["r", "kriging"].memory == 16 * 16 * 4 * (5 + 3 * 2)  # once, not once a plane


def test_work_of_groups_counts_the_groups(command: Any) -> None:
    """Twice the entries where twice as many references are used; one more array to read with a pilot."""
    from tensorcell.solvers.patch_groups import Geometry

    data = np.zeros((8, 16, 16), np.float32)
    given = {"data": data, "geometry": Geometry((4, 4, 4), (2, 2, 2), 8, 4), "strengths": (1.0,)}
    whole = command.work_of_groups(given | {"wanted": None, "pilot": None})
    half = command.work_of_groups(given | {"wanted": np.arange(16) < 8 + np.zeros(data.shape), "pilot": None})
    assert whole.cached == 2 * 4 * 4 * 64 * 8 * (4 + 8 * 3)
    assert half.cached == whole.cached / 2
    assert half.operations == pytest.approx(whole.operations / 2)
    assert command.work_of_groups(given | {"wanted": None, "pilot": data}).memory - whole.memory == 4 * data.size


def test_plot_and_growth(command: Any, roofs: Any, tmp_path: Path) -> None:
    rows = [command.Row("r", "one", 1, 2.0, 1.0, 3.0, 4.0), command.Row("r", "two", 1, 2.0)]
    command.draw(rows, roofs, tmp_path / "roofline.png")
    assert (tmp_path / "roofline.png").read_bytes().startswith(b"\x89PNG")
    sizes = [[10.0, 2], [1000.0, 2], [10.0, 8], [1000.0, 8]]
    assert command.exponents(sizes, [n**1.5 * r**0.5 for n, r in sizes]) == pytest.approx([1.5, 0.5])


def test_without_a_card_one_line(command: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr("tensorcell.device.cuda_problem", lambda *_: "no GPU found")
    monkeypatch.setattr("sys.argv", ["roofline.py", "--device", "cuda"])
    assert command.main() == 2
    assert capsys.readouterr().err == "device 'cuda' needs a CUDA GPU and CuPy: no GPU found\n"


@pytest.mark.parametrize("name", ["apply_rule", "factor"])
def test_kernels_compute_in_float32_throughout(name: str) -> None:
    """An integer beside a float32 makes a float64 in Numba, and all loops that meet it half as fast."""
    array, flat = numba.float32[:, ::1], numba.float32[::1]
    kernel, arguments = {
        "apply_rule": (
            kernels_numba.apply_rule,
            (
                numba.int64, numba.boolean, array, numba.boolean[:, ::1], array, array, numba.float32, numba.float32,
                numba.float64[::1],
            ),
        ),
        "factor": (kernels_local.factor, (flat, numba.int64, numba.int64, array, array, flat)),
    }[name]  # fmt: skip
    compiled = numba.njit(kernel.py_func, fastmath=kernels_local._ARITHMETIC, error_model="numpy")
    compiled.compile(arguments)
    (found,) = compiled.overloads.values()
    double = {str(variable) for variable, kind in found.type_annotation.typemap.items() if kind == numba.float64}
    named = {variable.split(".")[0] for variable in double if not variable.startswith(("$", "arg."))}
    assert named <= {"fit_sum", "sparse_sum", "absolute_sum", "outlier_sum"}  # sums over rows, kept in float64
