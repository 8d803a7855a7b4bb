"""The benchmarks for a machine with a GPU: run in full on the stand-in for CuPy, and as they end without a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from host_cuda import HostLaunch

pytest.importorskip("threadpoolctl", reason="the benchmarks need it")

HERE = Path(__file__).resolve().parent
BENCHMARKS = HERE.parent / "benchmarks"
if not BENCHMARKS.is_dir():
    pytest.skip(f"no benchmarks beside {HERE}", allow_module_level=True)
sys.path.insert(0, str(BENCHMARKS.parent))

from benchmarks import gpu_check, gpu_model  # noqa: E402


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[dict[str, Any]], str]:
    """What the model counted, and the table of the check."""
    out = tmp_path_factory.mktemp("check")
    HostLaunch(out)  # skips where no kernel can run on the host
    path = os.pathsep.join(map(str, (HERE / "standin", HERE, *sys.path)))
    done = subprocess.run(
        [sys.executable, str(HERE / "standin" / "benchmarked.py"), "--quick", "--out", str(out)],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = json.loads((out / "gpu_check.json").read_text("utf-8"))
    return json.loads(done.stdout.splitlines()[-1]), lines, (out / "gpu_check.md").read_text("utf-8")


def test_the_check_runs_in_full_on_the_stand_in(told: Any) -> None:
    counted, lines, table = told
    assert counted["status"] == 0
    assert list(dict.fromkeys(line["stage"] for line in lines)) == list(gpu_check.STAGES)
    assert not [line for line in lines if line["what"] in ("failed", "stopped")]
    judged = {line["what"] for line in lines if line["stage"] == "conformance"}
    assert {"complete_tucker", "local_tucker", "recover, complete"} <= judged
    assert len(table.splitlines()) == len(lines) + 2


def test_the_model_counts_what_a_recovery_asks_of_the_device(told: Any) -> None:
    counted, _, _ = told
    assert sum(counted["host"].values()) > 0
    assert not {"gpu_model.py", "host_cuda.py"} & set(counted["host"])
    assert not counted["unknown"]
    assert counted["stages"]["patch_groups.py"]["operations"] > 0
    # The fit and the patches need the volume in float32 there, and their results back.
    assert sum(cost["link"] for cost in counted["stages"].values()) >= 4 * 4 * 6 * 18 * 18


def test_without_a_gpu_one_line_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("tensorcell.device.cuda_problem", lambda: "no GPU found")
    monkeypatch.setattr(sys, "argv", ["gpu_check.py"])
    assert gpu_check.main() == 2
    assert capsys.readouterr().err == "gpu_check: no GPU can be used: no GPU found\n"


def test_a_stage_that_fails_is_a_line_and_only_those_that_judge_fail_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Any) -> Any:
        yield gpu_check.Line("x", "first", "1")
        raise RuntimeError("out of luck\nand more")

    for judges in (False, True):
        monkeypatch.setitem(gpu_check.STAGES, "x", gpu_check.Stage(5, broken, judges=judges))
        first, failed, seconds = gpu_check.lines_of("x", gpu_check.Check(quick=True))
        assert (first.what, failed.value, failed.fails) == ("first", "RuntimeError: out of luck", judges)
        assert not seconds.fails


def test_all_stages_take_less_than_six_minutes() -> None:
    assert sum(stage.seconds for stage in gpu_check.STAGES.values()) < 360


def test_costs_of_operations_are_those_of_their_definitions() -> None:
    recorder = gpu_model.Recorder()
    left, right = np.ones((4, 2, 3), np.float32), np.ones((4, 3, 5), np.float32)
    cost = recorder.cost("matmul", [left, right], (), left @ right)
    assert (cost.bytes, cost.operations, cost.launches) == (4 * (24 + 60 + 40), 2 * 4 * 2 * 3 * 5, 1)
    broadcast = np.broadcast_to(np.ones(1000, np.float32), (1000, 1000))
    assert recorder.cost("add", [broadcast], (), np.ones(3)).bytes == 4000 + 24
    assert recorder.cost("ndarray.reshape", [left], (), left.reshape(-1)) == gpu_model.Cost()
    assert recorder.cost("ndarray.get", [left], (), None).waits == 0
    assert recorder.cost("get", [left], (), left) == gpu_model.Cost(link=96, waits=1)
    # The table of kernels_cuda: 13, 13, 21 and 9 bytes a voxel, and 21 where the model is held above 0.
    rules = {"0, false": 13, "1, false": 13, "2, false": 21, "3, false": 9, "0, true": 21, "2, true": 21}
    for rule, size in rules.items():
        assert gpu_model.kernel_cost(f"pointwise<float, {rule}>", 10)[0] == 10 * size


def test_a_line_in_voxels_gives_back_what_is_linear() -> None:
    def run(voxels: int) -> dict[str, Any]:
        cost = gpu_model.Cost(launches=voxels ** (1 / 3), bytes=3.0 * voxels + 5, waits=7)
        return {"voxels": voxels, "stages": {"fit": cost}, "host": {"noise.py": 2.0 * voxels}}

    (row,), host = gpu_model.extrapolated([run(1000), run(8000), run(27000)], run(5000), 1e6)
    assert host == pytest.approx({"noise.py": 2e6})
    assert row.cost.bytes == pytest.approx(3e6 + 5)
    assert row.cost.launches == pytest.approx(100)
    assert row.cost.waits == pytest.approx(7)
    assert row.off == pytest.approx(0, abs=1e-9)
