"""What `recover(device="cuda")` should take on an H100, from the operations that it asks of the device.

    python benchmarks/gpu_model.py [--cases complete,half,planes] [--json FILE]

No GPU is needed: recoveries of simulated cells run on the stand-in for CuPy of the tests, which tells of every
operation and launch. Counted are launches, bytes to and from the device's memory, floating-point operations, bytes
between host and device, waits of the host, and the seconds of one processor core that the host spends on all else.
Predicted are

    seconds = launches x a launch + sum over operations of max(bytes / bandwidth, operations / rate)
              + waits x a wait + bytes over the link / its rate + seconds of the host here.

That is more than the truth where the device works while the next operations are launched.

Volumes as people have them are too large for the stand-in. What is counted at three small sizes, larger than the
samples and blocks of a fixed size that the host works on, is laid on a line, stage by stage: bytes and operations in
the number of voxels, launches and waits in its third root, since they grow with ranks and planes if at all. The line
is held against a fourth size that it has not seen (printed: how far off). Numbers of iterations and ranks depend on
the data, so that the prediction is no better than that; the seconds of the host, which scatter from size to size, are
rough.

The memory at the peak is that of all arrays that are alive; what libraries take for their own use is not known.

Kernels are counted by the formulas of :func:`kernel_cost` and :func:`group_cost`. Not modelled: caches (all is read
from main memory, except for the search of similar patches, which is counted at the rate of the first cache), transfers
while kernels run, atomic additions that collide, what of a decomposition waits for the host.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field, fields
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run as a script: the stand-in must be found before CuPy
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "standin"))

import numpy as np

SHAPE = (94, 512, 712)

SIZES = ((24, 160, 160), (28, 192, 192), (32, 224, 224))
CHECKED = (26, 176, 176)
"""The line goes through the first, and is held against the last."""

SLOW = ("launches", "waits")
"""Entries of a cost that grow with the third root of the voxels."""

HELPERS = ("arrays.py", "tensors.py", "subspaces.py", "proximal.py", "device.py", "cuda.py", "kernels_cuda.py")
"""Files that work for others: an operation belongs to the stage that called them."""


@dataclass(frozen=True)
class Card:
    """What a GPU can do, as its maker says; in bytes and operations a second."""

    name: str
    bandwidth: float
    single: float
    double: float
    first_cache: float
    link: float
    """One direction of the link to the host."""
    launch: float = 4e-6
    """Seconds of an operation that has nothing to do: a launch from Python through CuPy takes about so long."""
    wait: float = 10e-6
    """Seconds until the host knows that a device has finished."""


H100 = Card("H100 SXM", 3.35e12, 67e12, 34e12, 132 * 128 * 1.755e9, 64e9)
"""NVIDIA H100 Tensor Core GPU, datasheet (https://resources.nvidia.com/en-us-tensor-core/nvidia-tensor-core-gpu-datasheet):
3.35 TB/s, 67 Tflop/s in float32, 34 in float64 (no tensor cores), PCIe 5 at 128 GB/s both ways together. The first
cache gives 128 bytes a clock in each of 132 multiprocessors (CUDA programming guide), at 1.755 GHz."""

DEFECT_KERNELS = ("far_from_most", "around", "along_columns")

COLUMN = 5
"""Launches that a decomposition takes for each column, one after the other, however small the matrix."""


@dataclass
class Cost:
    """Of an operation, or of many."""

    launches: float = 0
    bytes: float = 0
    operations: float = 0
    cached: float = 0
    """Bytes from the first cache."""
    busy: float = 0
    """Seconds of the device, launches not counted."""
    link: float = 0
    waits: float = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(one + two for one, two in zip(astuple(self), astuple(other), strict=True)))

    def total(self, card: Card) -> float:
        """Predicted seconds."""
        return self.launches * card.launch + self.busy + self.waits * card.wait + self.link / card.link


@dataclass
class Recorder:
    """Runs the operations of the stand-in, and adds up what they would cost on a card."""

    card: Card = H100
    stages: dict[str, Cost] = field(default_factory=dict)
    unknown: set[str] = field(default_factory=set)
    """Kernels without a formula: they are counted as reading and writing all their arrays once."""

    def __call__(self, name: str, run: Any, given: Any) -> Any:
        found = run()
        self.add(self.cost(name, list(arrays_in(given)), given, found))
        return found

    def add(self, cost: Cost) -> None:
        stage = calling_stage()
        self.stages[stage] = self.stages.get(stage, Cost()) + cost

    def cost(self, name: str, given: Sequence[np.ndarray], raw: Any, found: Any) -> Cost:
        """What the operation costs."""
        results = list(arrays_in(found))
        if name == "get":
            return Cost(link=sum(map(stored, given)), waits=1)
        if name == "number":
            return Cost(waits=1)
        if name == "put on the device":
            return Cost(link=sum(map(stored, results)))
        if name.startswith("kernel "):
            return self.priced(*self.kernel(name.removeprefix("kernel "), raw))
        written = name in ("put", "copyto") or name.startswith("i")
        if not written and results and all(any(np.may_share_memory(one, each) for each in given) for one in results):
            return Cost()  # a view
        traffic = sum(map(stored, (*given, *results)))
        operations = operations_of(name, given, results)
        columns = min(given[0].shape[-2:]) if name.startswith("linalg.") and given and given[0].ndim > 1 else 0
        return self.priced(traffic, operations, launches=max(1, COLUMN * columns), arrays=given)

    def kernel(self, name: str, arguments: Any) -> tuple[float, float]:
        """Bytes and operations of a launch."""
        arrays = list(arrays_in(arguments))
        if name.startswith("pointwise"):
            return kernel_cost(name, arrays[0].size, arrays[0].dtype.itemsize)
        if name.startswith(DEFECT_KERNELS):
            return defect_cost(name, arrays)
        self.unknown.add(name.split("<")[0])
        return 2.0 * sum(map(stored, arrays)), 0.0

    def priced(
        self, traffic: float, operations: float, cached: float = 0, *, launches: float = 1, arrays: Sequence[Any] = ()
    ) -> Cost:
        """With the seconds of whatever takes longest."""
        double = any(array.dtype == np.float64 and array.size > 1 for array in arrays)
        rate = self.card.double if double else self.card.single
        busy = max(traffic / self.card.bandwidth, operations / rate, cached / self.card.first_cache)
        return Cost(launches, traffic, operations, cached, busy)


def kernel_cost(name: str, voxels: int, itemsize: int = 4) -> tuple[float, float]:
    """Bytes and operations of the fused sweep: see the table of ``solvers/kernels_cuda.py``; 13 operations a voxel."""
    _, rule, nonnegative = name.removesuffix(">").split(",")
    numbers = {"0": 3, "1": 3, "2": 5, "3": 2}[rule.strip()]
    if "true" in nonnegative and rule.strip() in "01":
        numbers += 2
    return float(voxels * (numbers * itemsize + 1)), 13.0 * voxels


def defect_cost(name: str, arrays: Sequence[Any]) -> tuple[float, float]:
    """Bytes and operations of the kernels of ``solvers/kernels_defects_cuda.py``.

    ``far_from_most`` reads each voxel and two masks once, since neighbours come from caches, and compares 26 twice.
    ``around`` reads 26 neighbours of each position from anywhere, and puts them in order. ``along_columns`` writes two
    numbers a voxel, and reads each of them once for every bit of two order statistics.
    """
    volume, itemsize = arrays[0].size, arrays[0].dtype.itemsize
    if name.startswith("far_from_most"):
        return volume * (itemsize + 3.0), 52.0 * volume
    if name.startswith("around"):
        positions = arrays[2].size
        return positions * (26.0 * (itemsize + 1) + 8 + 2 * itemsize + 1), positions * 26.0**2 / 2
    voxels, reads = arrays[-1].size, 2 * 2 * 8 * itemsize
    return voxels * (itemsize + 1.0 + itemsize * (2 + reads)), voxels * (8.0**2 / 2 + 2.0 * reads)


def group_cost(
    voxels: int, references: int, offsets: int, patch: Sequence[int], columns: int, estimates: int
) -> tuple[float, float, float]:
    """Bytes, operations and bytes from the first cache of one pass of ``filter_groups`` over a volume.

    A reference is compared with ``offsets`` patches of ``p^3`` voxels (a load from the guide, 3 operations a voxel; the
    patch of the reference stays in registers and cache). Its group, ``p^3 K`` numbers, is transformed along three modes
    and by the Haar transform, there once and back for each estimate; Gram matrices take ``p_n + 1`` operations a number
    and mode. Each estimate is added up in 64 bits, read and written; weights and squares, too.
    """
    size, group = math.prod(patch), math.prod(patch) * columns
    search = references * offsets * size
    ways = 2 + estimates  # the data, the pilot, and back
    transform = references * group * ways * (2 * sum(patch) + 2 * math.log2(max(2, columns)))
    grams = references * group * sum(side + 1 for side in patch)
    added = 16.0 * references * group * (estimates + 2)
    whole = voxels * (3 * 4 + (estimates + 2) * (8 + 8 + 8 + 8 + 4))  # inputs; sums set to zero and converted
    return whole + added, 3.0 * search + transform + grams, 4.0 * search + 8.0 * references * group * ways * 4


def arrays_in(value: Any) -> Iterator[np.ndarray]:
    """The arrays of the device in nested arguments, as NumPy's."""
    if type(value).__name__ == "ndarray" and hasattr(value, "_data"):
        yield value._data
    elif isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from arrays_in(each)
    elif isinstance(value, Mapping):
        yield from arrays_in(list(value.values()))


def stored(array: np.ndarray) -> int:
    """Bytes that an array takes in memory, repeated entries of a broadcast one counted once."""
    sizes = (size for size, stride in zip(array.shape, array.strides, strict=True) if stride)
    return math.prod(sizes) * array.itemsize


def operations_of(name: str, given: Sequence[np.ndarray], results: Sequence[np.ndarray]) -> float:
    """Floating-point operations, a multiplication and an addition as two.

    >>> operations_of("matmul", [np.ones((2, 3)), np.ones((3, 5))], [np.ones((2, 5))])
    60.0
    """
    out = float(sum(array.size for array in results))
    if name in ("matmul", "rmatmul", "imatmul") and len(given) >= 2:
        return 2 * out * given[0].shape[-1]
    if name in ("tensordot", "einsum", "dot", "vecdot") and len(given) >= 2:
        return 2 * math.sqrt(given[0].size * given[1].size * max(out, 1))
    if name.startswith("linalg.") and given and given[0].ndim >= 2:
        rows, columns = sorted(given[0].shape[-2:], reverse=True)
        batch = given[0].size / max(1, rows * columns)
        return {"qr": 4.0, "svd": 14.0, "eigh": 9.0}.get(name.removeprefix("linalg."), 4.0) * batch * rows * columns**2
    if name.startswith("fft.") and given:
        return 5.0 * given[0].size * math.log2(max(2, given[0].size))
    return max(out, float(max((array.size for array in given), default=0)))


def calling_stage(frame: Any = None) -> str:
    """The file of the program that works with the device, helpers skipped; of the frame given, or of the caller."""
    frame = frame or sys._getframe(1)
    last = "other"
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.parent.name in ("solvers", "tensorcell", "methods"):
            last = path.name
            if last not in HELPERS:
                return last
        frame = frame.f_back
    return last


# ----------------------------------------------------------------------------------------------------
# recoveries on the stand-in


def counted(case: str, shape: Sequence[int]) -> dict[str, Any]:
    """Costs by stage, and the seconds of the host, of a recovery of simulated cells."""
    import cupy

    import tensorcell as tc

    measured, options = problem(case, shape)
    recorder = Recorder()
    cupy.recorder, cupy.most_taken = recorder, cupy.taken
    with groups_by_numba(recorder), host_seconds() as host:
        tc.recover(measured, device="cuda", **options)
    cupy.recorder = None
    return {
        "voxels": math.prod(shape), "stages": recorder.stages, "host": host,
        "unknown": sorted(recorder.unknown), "memory": cupy.most_taken,
    }  # fmt: skip


def problem(case: str, shape: Sequence[int], seed: int = 0) -> tuple[np.ndarray, dict[str, Any]]:
    """What was measured, and the arguments of `recover` that go with it."""
    from tensorcell.datasets import simulate_cells

    if case == "planes":
        shape = (shape[0] // 2 * 2 + 1, *shape[1:])
        return simulate_cells(shape, cells=12, axial_factor=2, seed=seed).measured, {"axial_factor": 2}
    return simulate_cells(shape, cells=12, keep_pixels=0.5 if case == "half" else 1.0, seed=seed).measured, {}


class groups_by_numba:
    """In the place of the kernel of patch groups, its twin: the kernel on the host would take hours."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def __enter__(self) -> None:
        from tensorcell.solvers import patch_groups

        self.module, self.before = patch_groups, patch_groups.sums_cuda
        patch_groups.sums_cuda = self.sums

    def __exit__(self, *_: object) -> None:
        self.module.sums_cuda = self.before

    def sums(
        self,
        data: Any,
        guide: Any,
        pilot: Any,
        sigma: float,
        strengths: Any,
        geometry: Any,
        used: Any,
        *more: Any,
        **_: Any,
    ) -> Any:
        import cupy

        lengths = [count * data.size for count in (len(strengths), 1, 1)]
        sums = [cupy.ndarray(np.zeros(length, np.uint64)) for length in lengths]  # which the kernel has
        host = [None if array is None else np.asarray(array._data) for array in (data, guide, pilot)]
        plain = [array._data if isinstance(array, cupy.ndarray) else array for array in (used, *more)]
        found = self.module.sums_numba(*host, sigma, strengths, geometry, *plain)
        references = len(self.module.references_of(self.module.in_frames(data.shape), geometry, plain[0]))
        offsets = len(self.module.offsets_within(geometry.reach, geometry.group))
        costs = group_cost(
            data.size, references, offsets, geometry.patch, geometry.group * geometry.frames, len(strengths)
        )
        self.recorder.add(self.recorder.priced(*costs))
        results = tuple(cupy.ndarray(array) for array in found)
        del sums
        return results


@contextlib.contextmanager
def host_seconds() -> Iterator[dict[str, float]]:
    """Processor seconds by file of what is no operation of the device, sampled about every two milliseconds."""
    found: dict[str, float] = {}
    last = time.process_time()

    def sample(_: int, frame: Any) -> None:
        nonlocal last
        now, since = time.process_time(), last
        last = now
        outer = frame
        while outer is not None:
            if outer.f_code in (Recorder.__call__.__code__, groups_by_numba.sums.__code__):
                return
            outer = outer.f_back
        stage = calling_stage(frame)
        found[stage] = found.get(stage, 0.0) + now - since

    before = signal.signal(signal.SIGPROF, sample)
    signal.setitimer(signal.ITIMER_PROF, 0.002, 0.002)
    try:
        yield found
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def start() -> None:
    """Kernels of the stand-in run on the host."""
    import cupy
    from host_cuda import HostLaunch

    from tensorcell.solvers import kernels_cuda

    cupy.launcher = HostLaunch(Path(tempfile.mkdtemp()))
    kernels_cuda.BLOCKS = 4


# ----------------------------------------------------------------------------------------------------
# larger volumes


@dataclass(frozen=True)
class Row:
    """A stage of a volume that was not run."""

    stage: str
    cost: Cost
    off: float
    """Bytes of the line over those counted at the size that it has not seen, less 1."""


def extrapolated(
    runs: Sequence[Mapping[str, Any]], check: Mapping[str, Any], voxels: float
) -> tuple[list[Row], dict[str, float]]:
    """Stages at so many voxels, and seconds of the host by file; see the head of this file."""
    names = sorted({stage for run in runs for stage in run["stages"]})
    rows = []
    for name in names:
        each = [run["stages"].get(name, Cost()) for run in runs]

        def at(voxels: float, each: Sequence[Cost] = each) -> Cost:
            found = {}
            for entry in fields(Cost):
                power = 1 / 3 if entry.name in SLOW else 1.0
                places = [run["voxels"] ** power for run in runs]
                found[entry.name] = on_line(places, [getattr(cost, entry.name) for cost in each], voxels**power)
            return Cost(**found)

        seen = check["stages"].get(name, Cost()).bytes
        off = at(check["voxels"]).bytes / seen - 1 if seen else 0.0
        rows.append(Row(name, at(voxels), off))
    places = [run["voxels"] for run in runs]
    names = sorted({stage for run in runs for stage in run["host"]})
    return rows, {name: on_line(places, [run["host"].get(name, 0.0) for run in runs], voxels) for name in names}


def on_line(places: Sequence[float], values: Sequence[float], where: float) -> float:
    """The least-squares line at a place; lines do not fall, since nothing costs less in a larger volume.

    >>> on_line([1, 2, 3], [2, 4, 6], 10)
    20.0
    >>> on_line([1, 2, 3], [6, 4, 2], 10)
    4.0
    """
    slope, level = np.polyfit(places, values, 1)
    return round(float(slope * where + level), 9) if slope > 0 else float(np.mean(values))


def table(rows: Sequence[Row], host: Mapping[str, float], card: Card = H100) -> str:
    """Markdown."""
    lines = ["| stage | launches | GB | Gflop | waits | predicted s | line off |", "|---|---|---|---|---|---|---|"]
    for row in sorted(rows, key=lambda row: -row.cost.total(card)):
        cost = row.cost
        lines.append(
            f"| {row.stage} | {cost.launches:.0f} | {cost.bytes / 1e9:.2f} | {cost.operations / 1e9:.1f} | "
            f"{cost.waits:.0f} | {cost.total(card):.4f} | {row.off:+.0%} |"
        )
    device = sum(row.cost.total(card) for row in rows)
    lines.append(f"| all on the {card.name} | | | | | {device:.3f} | |")
    lines += [
        f"| host: {name} | | | | | {seconds:.1f} | |"
        for name, seconds in sorted(host.items(), key=lambda each: -each[1])
        if seconds > 0.01 * sum(host.values())
    ]
    lines.append(f"| all on one core of the host here | | | | | {sum(host.values()):.1f} | |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", default="complete,half,planes")
    parser.add_argument("--sizes", default=";".join(",".join(map(str, size)) for size in (*SIZES, CHECKED)))
    parser.add_argument("--json", type=Path, help="write the predictions here")
    arguments = parser.parse_args()
    start()
    *sizes, checked = (tuple(map(int, size.split(","))) for size in arguments.sizes.split(";"))
    predictions = {}
    for case in arguments.cases.split(","):
        counted(case, sizes[0])  # compiles
        *runs, check = (counted(case, size) for size in (*sizes, checked))
        rows, host = extrapolated(runs, check, math.prod(SHAPE))
        print(f"\n## {case}, {' x '.join(map(str, SHAPE))}\n\n{table(rows, host)}", flush=True)
        sizes_run = [run["voxels"] for run in runs]
        memory = on_line(sizes_run, [run["memory"] for run in runs], math.prod(SHAPE))
        print(f"\n{memory / 1e9:.2f} GB of memory at the peak, {memory / math.prod(SHAPE):.0f} bytes a voxel")
        unknown = sorted({name for run in runs for name in run["unknown"]})
        if unknown:
            print(f"\nkernels without a formula, counted by their arrays: {', '.join(unknown)}")
        predictions[case] = {
            "device s": sum(row.cost.total(H100) for row in rows), "host s": sum(host.values()), "host": host,
            "memory": memory,
            "stages": {row.stage: asdict(row.cost) | {"line off": row.off} for row in rows},
        }  # fmt: skip
    if arguments.json:
        found = {"card": asdict(H100), "shape": SHAPE, "cases": predictions}
        arguments.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
