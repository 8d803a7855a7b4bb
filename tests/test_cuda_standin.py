"""`recover(device="cuda")` without a GPU: a stand-in for CuPy refuses what CuPy refuses, and runs kernels on the host.

What was called of it is then looked for in CuPy itself, where that is installed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from host_cuda import HostLaunch

HERE = Path(__file__).parent

CUPY = "TENSORCELL_CUPY"
"""Variable that names a folder with CuPy in it, which is then not installed for all other tests."""


def run(script: str, *paths: str | Path, given: str = "") -> Any:
    """What a script prints, as JSON."""
    path = os.pathsep.join(map(str, (*paths, *sys.path)))
    done = subprocess.run(
        [sys.executable, str(HERE / script)], input=given, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Any:
    HostLaunch(tmp_path_factory.mktemp("unused"))  # skips where no kernel can run on the host
    return run("standin/recoveries.py", HERE / "standin", HERE)


def test_the_device_gives_what_the_cpu_gives(told: Any) -> None:
    assert set(told["differences"]) == {"complete", "gaps", "global model", "planes", "many planes", "series"}
    for name, differences in told["differences"].items():
        # Of the standard deviation of the data: float32 and other orders of sums, by which a few thresholds may fall.
        assert differences["mean"] < 1e-4, name
        assert differences["most"] < 0.05, name
    assert told["launches"] == ["along_columns", "around", "far_from_most", "filter_groups", "pointwise"]


def test_the_device_finds_the_defects_that_the_cpu_finds(told: Any) -> None:
    assert told["defects"].pop("complete") == [{"stuck": 6, "dark": 2}] * 2
    for name, (cpu, gpu) in told["defects"].items():
        assert cpu == gpu, name
    for name, (count, *differences) in told["wrong voxels"].items():
        assert count > 50, name
        assert not any(differences), name  # at once, and a plane at a time


def test_all_ways_to_predict_planes_run_on_the_device(told: Any) -> None:
    cpu, gpu = told["notes"]["many planes"]
    assert cpu == gpu
    for way in ("of their noise is taken", "kriging by lateral frequency", "optical flow", "stood out"):
        assert way in gpu


def test_the_host_waits_for_what_it_decides_by_only(told: Any) -> None:
    for name, (few, many) in told["waits"].items():
        assert few == many, name  # however many parts a volume is handled in
    one_plane, all_planes = told["waits of kriging"]
    assert one_plane == all_planes
    fit, steps = told["waits of a fit"], told["steps of a fit"]
    files = {place.split(":")[0] for place in fit}
    assert "sweeps.py" in files  # the sums that a record holds
    assert not files & {"kernels_cuda.py", "tensors.py"}
    assert sum(fit.values()) < 15 * steps


def test_volumes_are_in_single_precision(told: Any) -> None:
    allowed = {
        "kernels_local_cuda.py",  # sums of a pass are whole numbers of 64 bits before they become float32
        "stein.py", "intensity_correction.py",  # what CuPy's interp returns, a slab at a time
        "subspaces.py", "tensors.py",  # a subgrid of 32 768 entries at most: all of a small stack
    }  # fmt: skip
    assert {place for places in told["doubles"].values() for place in places} <= allowed


def test_all_that_is_called_there_is_in_cupy(told: Any) -> None:
    if CUPY not in os.environ:
        pytest.skip(f"needs the folder of CuPy in {CUPY}")
    names = {name for name, *_ in told["calls"]}
    assert {"asarray", "matmul", "linalg.svd", "ndarray.get", "where"} <= names
    found = run("cupy_conformance.py", os.environ[CUPY], given=json.dumps(told["calls"]))
    assert not found["trouble"]


@pytest.mark.parametrize(
    ("call", "trouble"),
    [
        (["no_such_function", 1, []], "there is none"),
        (["clip", 5, []], "too many positional arguments"),
        (["sum", 1, ["initial"]], "unexpected keyword argument 'initial'"),
        (["ndarray.get", 0, ["copy"]], "unexpected keyword argument 'copy'"),
        (["sqrt", 1, ["overwrite"]], "unexpected keyword argument 'overwrite'"),
    ],
)
def test_what_cupy_lacks_is_found(call: Any, trouble: str) -> None:
    if CUPY not in os.environ:
        pytest.skip(f"needs the folder of CuPy in {CUPY}")
    (found,) = run("cupy_conformance.py", os.environ[CUPY], given=json.dumps([call]))["trouble"]
    assert trouble in found


def test_no_other_test_takes_the_stand_in_for_cupy() -> None:
    assert "standin" not in str(getattr(sys.modules.get("cupy"), "__file__", ""))


def test_the_stand_in_refuses_what_cupy_refuses() -> None:
    program = """
import cupy, numpy as np
array = cupy.asarray(np.arange(6.0))
for wrong in (lambda: np.asarray(array), lambda: array + np.ones(6), lambda: np.ones(6) * array,
              lambda: cupy.sum(np.ones(3)), lambda: array[np.array([0, 1])]):
    try:
        wrong()
    except TypeError:
        continue
    raise SystemExit("accepted")
assert float(array.sum()) == 15 and sum(cupy.waits.values()) == 1
assert (2 * array - 1).get().tolist() == [-1, 1, 3, 5, 7, 9]
"""
    path = os.pathsep.join(map(str, (HERE / "standin", *sys.path)))
    subprocess.run([sys.executable, "-c", program], check=True, env={**os.environ, "PYTHONPATH": path})
