"""Everything that needs a GPU to be known, in one command of under six minutes.

    python benchmarks/gpu_check.py [--out FOLDER] [--stages conformance,tests,...] [--quick]

Computes every stage on the GPU and on the CPU and prints by how much they differ, runs those tests that need a GPU, and
times: a sweep against the least that the card's own bandwidth and rate allow; completion problems (a), (b), (c) of
``compare_completion.py`` to an error of 1e-6; `recover` of 94 x 512 x 712 voxels, complete, with half of the pixels and
with every second plane, against this machine's CPU and, where installed, a peer on the GPU; a step of MicroDiffuse3D.
What ``gpu_model.py`` predicted for an H100 stands beside the times of `recover`. Where a volume would take longer than
its share of the time, fewer of its rows are recovered, and the time is scaled by voxels; the line says so.

The table is printed and written, as Markdown and JSON, to ``FOLDER/gpu_check.md`` and ``.json``. A stage that fails or
exceeds its seconds does not stop the others. Exit status: 1 where a result differs or a test fails, 2 without a GPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run as a script: find `benchmarks`, and `tensorcell` where it is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks.compare_completion import METHODS, TOLERANCES, Answer, Method, TooLong, alarm_after
from benchmarks.compare_completion import measure as measured_row
from benchmarks.gpu_model import SHAPE
from benchmarks.measure import machine, sweep_bytes, sweep_operations, version
from benchmarks.problems import Problem, make_problem, planted_problem

ROOT = Path(__file__).resolve().parents[1]

PREDICTED = Path(__file__).with_name("gpu_model.json")
"""What ``gpu_model.py --json`` wrote."""

CASE_SECONDS = 18.0
"""What the recovery of one case may take on the GPU."""

PART = (24, 128, 128)
"""Voxels that the CPU recovers of such a volume, and the GPU to know how long it will take."""

CLOSE = 1e-4
"""Largest relative difference of a fit in float32 that counts as rounding: other orders of sums, through iterations."""

MEAN, MOST = 1e-4, 0.05
"""Largest mean and single difference of recoveries, of the standard deviation of the data: rounding, by which a few
thresholds fall."""


@dataclass(frozen=True)
class Line:
    """A row of the table."""

    stage: str
    what: str
    value: str
    against: str = ""
    fails: bool = False


@dataclass(frozen=True)
class Stage:
    """A function that gives lines, and how many seconds it may take."""

    seconds: float
    lines: Callable[[Check], Iterator[Line]]
    judges: bool = False
    """Whether its failure says that results are wrong."""


class Check:
    """What the stages share.

    Parameters
    ----------
    quick : bool
        Small sizes, one case of each.
    """

    def __init__(self, quick: bool) -> None:
        self.quick = quick
        self.shape = (6, 18, 18) if quick else SHAPE

    @cached_property
    def bandwidth(self) -> float:
        """Bytes a second, read and written, of a copy within the memory of the card."""
        import cupy

        count = 1 << (12 if self.quick else 28)
        source, target = cupy.ones((count,), dtype=cupy.float32), cupy.zeros((count,), dtype=cupy.float32)
        return 2 * source.nbytes / best(lambda: cupy.copyto(target, source), target)

    @cached_property
    def rate(self) -> float:
        """Operations a second of a large product in float32."""
        import cupy

        side = 64 if self.quick else 8192
        left, out = (cupy.ones((side, side), dtype=cupy.float32) for _ in range(2))
        return 2 * side**3 / best(lambda: cupy.matmul(left, left, out=out), out)


def best(function: Callable[[], Any], awaited: Any, repeats: int = 5, calls: int = 10) -> float:
    """Least seconds of a call among several rows of them; a number is read of the array to wait for its end."""
    laps = []
    for _ in range(repeats):
        begun = time.perf_counter()
        for _ in range(calls):
            function()
        float(awaited.ravel()[0])
        laps.append((time.perf_counter() - begun) / calls)
    return min(laps)


def seconds_of(function: Callable[[], Any]) -> float:
    """Seconds of one call, whose results come to the host."""
    begun = time.perf_counter()
    function()
    return time.perf_counter() - begun


def is_standin() -> bool:
    """Whether the tests' stand-in plays the GPU: times mean nothing then, and tests that need a GPU cannot run."""
    import cupy

    return hasattr(cupy, "launcher")


# ----------------------------------------------------------------------------------------------------
# the stages


def card(check: Check) -> Iterator[Line]:
    """Names, and what the card can do."""
    import cupy

    runtime = cupy.cuda.runtime
    if is_standin():
        yield Line("card", "GPU", "none: the stand-in of the tests")
    else:
        name = runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode()
        driver, toolkit = runtime.driverGetVersion(), runtime.runtimeGetVersion()
        yield Line("card", "GPU", f"{name}, {runtime.memGetInfo()[1] / 1e9:.0f} GB, {runtime.getDeviceCount()} of them")
        yield Line("card", "driver, toolkit, CuPy", f"{driver}, {toolkit}, {cupy.__version__}")
        yield Line("card", "TF32", "on: CUPY_TF32" if os.environ.get("CUPY_TF32") == "1" else "off")
    yield Line("card", "host", machine())
    yield Line("card", "copy", f"{check.bandwidth / 1e9:.0f} GB/s")
    yield Line("card", "product in float32", f"{check.rate / 1e12:.2f} Tflop/s")


def conformance(check: Check) -> Iterator[Line]:
    """Functions that take arrays of a device, and whole recoveries: differences from the CPU."""
    import cupy

    for name, call in fits(check).items():
        cpu, gpu = (np.asarray(on_host(call(put)), np.float64) for put in (np.asarray, cupy.asarray))
        off = float(np.linalg.norm(gpu - cpu) / np.linalg.norm(cpu))
        yield Line("conformance", name, f"{off:.1e}", f"at most {CLOSE:.0e}", fails=not off <= CLOSE)
    yield from recoveries_conform(check)


def fits(check: Check) -> dict[str, Callable[[Any], Any]]:
    """Calls with a function that puts arrays on a device."""
    from tensorcell import solvers as s

    side = (6, 16, 18) if check.quick else (24, 64, 72)
    planted = planted_problem("fits", side, (2, 3, 3), seen=0.6, noise=0.01, dtype=np.float32)
    data, mask, rank = planted.data, planted.mask, planted.rank
    complete = planted.truth + 0.1 * np.random.default_rng(1).standard_normal(side).astype(np.float32)
    small = s.LocalOptions(group=8, reach=2, step=4, patch=3)
    admm = s.AdmmOptions(max_iterations=20, tolerance=0.0)
    found: dict[str, Callable[[Any], Any]] = {
        "robust_tucker_admm": lambda put: s.robust_tucker_admm(put(data), put(mask), rank, options=admm).value,
        "complete_tucker": lambda put: s.complete_tucker(put(data), put(mask), rank).value,
        "estimate_noise": lambda put: s.estimate_noise(put(complete)).sigma,
        "local_tucker": lambda put: s.local_tucker(put(complete), None, noise=0.1, options=small).value,
    }
    if not check.quick:
        found |= {
            "em_tucker": lambda put: s.em_tucker(put(data), put(mask), rank).value,
            "estimate_rank": lambda put: s.estimate_rank(put(data), put(mask)).rank,
        }
    return found


def on_host(value: Any) -> Any:
    """Arrays and numbers on the host."""
    return value.get() if hasattr(value, "get") else value


def recoveries_conform(check: Check) -> Iterator[Line]:
    """Whole recoveries."""
    import tensorcell as tc

    shape = check.shape if check.quick else (24, 96, 96)
    small = {"group": 8, "reach": 2, "step": 4, "patch": 3} if check.quick else {}
    for case, (data, options) in cases(shape, check).items():
        cpu, gpu = (tc.recover(data, device=device, **options, **small) for device in ("cpu", "cuda"))
        spread = float(np.nanstd(data))
        pairs = ((cpu.volume.data, gpu.volume.data), (cpu.uncertainty, gpu.uncertainty))
        off = [np.abs(one - two) / spread for one, two in pairs]
        mean, most = max(float(each.mean()) for each in off), max(float(each.max()) for each in off)
        told = f"mean {mean:.1e}, most {most:.1e}"
        limits = f"at most {MEAN:.0e}, {MOST:.0e}"
        yield Line("conformance", f"recover, {case}", told, limits, fails=not (mean <= MEAN and most <= MOST))


def cases(shape: Sequence[int], check: Check, cells: int = 12) -> dict[str, tuple[np.ndarray, dict[str, Any]]]:
    """Volumes by case, with the arguments of `recover` that go with them: simulated cells, mirrored to size."""
    from tensorcell.datasets import simulate_cells

    rng = np.random.default_rng(0)
    block = tuple(min(size, most) for size, most in zip(shape, (48, 128, 128), strict=True))
    truth = simulate_cells(block, cells=cells, seed=0).truth
    wide = [(0, max(0, size - side)) for size, side in zip(shape, block, strict=True)]
    truth = np.pad(truth, wide, mode="symmetric").astype(np.float32)
    full = truth + 0.1 * np.float32(np.ptp(truth)) * rng.standard_normal(truth.shape, np.float32)
    found: dict[str, tuple[np.ndarray, dict[str, Any]]] = {"complete": (full, {})}
    if not check.quick:
        half = np.where(rng.random(full.shape, np.float32) < 0.5, full, np.float32(np.nan))
        found |= {"half": (half, {}), "planes": (full[::2].copy(), {"axial_factor": 2})}
    return found


def tests(check: Check) -> Iterator[Line]:
    """The tests that need a GPU."""
    if is_standin():
        yield Line("tests", "pytest", "not run: they need a GPU")
        return
    wanted = re.compile(r"\bxp: |missing_gpu\(\)|cuda_problem\(\)")
    files = [str(path) for path in sorted((ROOT / "tests").glob("test_*.py")) if wanted.search(path.read_text("utf-8"))]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "cupy or gpu or cuda", *files]
    environment = {key: value for key, value in os.environ.items() if key != "PYTEST_ADDOPTS"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    for line in done.stdout.splitlines():
        if line.startswith(("FAILED", "ERROR")):
            yield Line("tests", "failed", line, fails=True)
    last = (done.stdout.strip().splitlines() or ["nothing"])[-1]
    yield Line("tests", "pytest", last.strip("= "), fails=done.returncode != 0)


def sweep(check: Check) -> Iterator[Line]:
    """A sweep against the larger of its floors."""
    import cupy

    from tensorcell.solvers import AdmmOptions, robust_tucker_admm

    shape = (8, 24, 24) if check.quick else (96, 512, 704)
    for rank in [(2, 3, 3)] if check.quick else [(5, 5, 5), (30, 60, 60)]:
        problem = planted_problem("sweep", shape, rank, seen=0.25, noise=0.1, dtype=np.float32)
        ends: list[float] = []
        options = AdmmOptions(fidelity="equality", tolerance=0.0, max_iterations=4 if check.quick else 12)
        robust_tucker_admm(
            cupy.asarray(problem.data), cupy.asarray(problem.mask), rank, options=options,
            callback=lambda *_, ends=ends: ends.append(time.perf_counter()),
        )  # fmt: skip
        took = float(np.diff(ends).min())
        memory, arithmetic = sweep_bytes(shape) / check.bandwidth, sweep_operations(shape, rank) / check.rate
        ratio = took / max(memory, arithmetic)
        floors = f"{ratio:.2f} times its larger floor (memory {memory:.2g} s, products {arithmetic:.2g} s)"
        yield Line("sweep", f"{'x'.join(map(str, shape))}, rank {rank}", f"{took:.3g} s", floors)


def completion(check: Check) -> Iterator[Line]:
    """Completion problems to 1e-6, here and there."""
    on_gpu = Method("GPU", "tensorcell", prepared_on_gpu, lambda *_: TOLERANCES, robust=True, has_defaults=False)
    on_cpu = replace(METHODS["complete"], has_defaults=False)
    for name in ["quick"] if check.quick else ["a", "b", "c"]:
        if check.quick:
            problem = planted_problem(name, (12, 13, 14), (2, 2, 2), seen=0.6, dtype=np.float32)
        else:
            problem = make_problem(name)
        gpu, cpu = (measured_row(method, problem, repeats=1, cap=10.0) for method in (on_gpu, on_cpu))
        took = [None if (run := row.targets[1e-6]) is None else run.timing.wall for row in (gpu, cpu)]
        value, other = ("not reached" if each is None else f"{each:.3f} s" for each in took)
        yield Line("completion", f"({name}) to 1e-6", value, f"CPU {other}")


def prepared_on_gpu(problem: Problem) -> Callable[[float | None], Answer]:
    """`complete_tucker` with its arrays on the GPU; the answer comes to the host."""
    import cupy

    from tensorcell.solvers import complete_tucker

    data, mask = cupy.asarray(problem.data), cupy.asarray(problem.mask)

    def solve(tolerance: float | None) -> Answer:
        options: dict[str, Any] = {} if tolerance is None else {"tolerance": tolerance}
        found = complete_tucker(data, mask, problem.rank, robust=True, **options)
        return Answer(found.value.get(), found.iterations)

    return solve


def recovery(check: Check) -> Iterator[Line]:
    """`recover` of a volume as people have them."""
    import tensorcell as tc

    small = {"group": 8, "reach": 2, "step": 4, "patch": 3} if check.quick else {}
    volumes = cases(check.shape, check)
    for name, (data, options) in volumes.items():

        def took(part: np.ndarray, device: str, options: Any = options) -> float:
            return seconds_of(partial(tc.recover, part, device=device, **options, **small))

        crop = data[tuple(slice(0, most) for most in PART)]
        cpu = took(crop, "cpu") * data.size / crop.size
        rows = data.shape[1]
        if not check.quick:
            took(crop[:12, :48, :48], "cuda")  # compiles
            expected = took(crop, "cuda") * data.size / crop.size
            rows = max(crop.shape[1], min(rows, int(rows * CASE_SECONDS / expected)))
        gpu = took(data[:, :rows], "cuda") * data.shape[1] / rows
        how = "" if rows == data.shape[1] else f" (from {rows} rows, by voxels)"
        against = f"CPU {cpu:.1f} s (from {'x'.join(map(str, crop.shape))}, by voxels): {cpu / gpu:.1f} times"
        if check.shape == SHAPE:
            against += beside_prediction(name, gpu)
        yield Line("recovery", f"{name}, {'x'.join(map(str, data.shape))}", f"{gpu:.2f} s{how}", against)
    yield peer(volumes["complete"][0])


def beside_prediction(case: str, seconds: float) -> str:
    """What ``gpu_model.py`` predicted, where its file is there."""
    if not PREDICTED.exists():
        return ""
    found = json.loads(PREDICTED.read_text("utf-8"))["cases"][case]
    device, host = found["device s"], found["host s"]
    return f"; predicted {device:.2f} s on an H100 and {host:.0f} on the host: {seconds / (device + host):.2f} of that"


def peer(data: np.ndarray) -> Line:
    """Total variation by cuCIM, the only GPU peer that we know for volumes."""
    if is_standin() or importlib.util.find_spec("cucim") is None:
        return Line("recovery", "peer on the GPU", "cucim is not installed")
    import cupy
    from cucim.skimage.restoration import denoise_tv_chambolle

    took = seconds_of(lambda: denoise_tv_chambolle(cupy.asarray(data), weight=0.1).get())
    return Line("recovery", f"cucim {version('cucim') or ''} denoise_tv_chambolle", f"{took:.2f} s")


def network(check: Check) -> Iterator[Line]:
    """A step of training of MicroDiffuse3D, in float32 and bfloat16."""
    if is_standin() or importlib.util.find_spec("torch") is None:
        yield Line("network", "DiT step", "not run: it needs a GPU and torch")
        return
    import torch

    from benchmarks.bench_microdiffuse3d import network as made

    if not torch.cuda.is_available():
        yield Line("network", "DiT step", "torch finds no GPU")
        return
    torch.backends.cuda.matmul.allow_tf32 = False
    for size in ("tiny",) if check.quick else ("tiny", "small"):
        model, inputs = made(size)
        model, inputs = model.cuda(), [each if each is None else each.cuda() for each in inputs]
        for precision in (torch.float32, torch.bfloat16):
            laps = []
            for _ in range(6):
                begun = time.perf_counter()
                with torch.autocast("cuda", dtype=precision, enabled=precision != torch.float32):
                    model(*inputs).float().square().mean().backward()
                torch.cuda.synchronize()
                laps.append(time.perf_counter() - begun)
            yield Line("network", f"DiT step, {size}, {precision}".replace("torch.", ""), f"{1e3 * min(laps):.1f} ms")


STAGES: dict[str, Stage] = {
    "card": Stage(20, card),
    "conformance": Stage(80, conformance, judges=True),
    "tests": Stage(80, tests, judges=True),
    "sweep": Stage(25, sweep),
    "completion": Stage(40, completion),
    "recovery": Stage(85, recovery),
    "network": Stage(25, network),
}
"""In the order in which they run; together they may take less than six minutes."""


# ----------------------------------------------------------------------------------------------------
# the table


def lines_of(name: str, check: Check) -> Iterator[Line]:
    """The lines of a stage, the last of which says what went wrong, if anything did."""
    stage = STAGES[name]
    begun = time.perf_counter()
    try:
        with alarm_after(stage.seconds):
            yield from stage.lines(check)
    except TooLong:
        yield Line(name, "stopped", f"after {stage.seconds:.0f} s, its share of the time", fails=stage.judges)
    except Exception as error:  # the other stages are still of use
        text = (str(error).strip().splitlines() or [""])[0]
        yield Line(name, "failed", f"{type(error).__name__}: {text}", fails=stage.judges)
    yield Line(name, "seconds", f"{time.perf_counter() - begun:.1f}")


def markdown(lines: Sequence[Line]) -> str:
    """The table."""
    rows = [("stage", "what", "value", "against", ""), ("---",) * 5]
    rows += [(line.stage, line.what, line.value, line.against, "FAILS" if line.fails else "") for line in lines]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(), help="folder for gpu_check.md and gpu_check.json")
    parser.add_argument("--stages", default=",".join(STAGES), help="which of them")
    parser.add_argument("--quick", action="store_true", help="small sizes: to try the script itself")
    arguments = parser.parse_args()
    names = arguments.stages.split(",")
    if unknown := [name for name in names if name not in STAGES]:
        parser.error(f"unknown stages {', '.join(unknown)}, expected some of {', '.join(STAGES)}")
    from tensorcell.device import cuda_problem

    if problem := cuda_problem():
        print(f"gpu_check: no GPU can be used: {problem}", file=sys.stderr)
        return 2
    check, lines = Check(arguments.quick), []
    for name in names:
        for line in lines_of(name, check):
            lines.append(line)
            print(f"{line.stage}: {line.what}: {line.value} {line.against} {'FAILS' if line.fails else ''}", flush=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "gpu_check.md").write_text(markdown(lines) + "\n", encoding="utf-8")
    (arguments.out / "gpu_check.json").write_text(json.dumps([asdict(line) for line in lines], indent=1), "utf-8")
    print(f"\n{markdown(lines)}")
    return int(any(line.fails for line in lines))


if __name__ == "__main__":
    sys.exit(main())
