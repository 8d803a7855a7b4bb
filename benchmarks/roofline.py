"""Every hot function against the roofs of this machine: where `recover` loses time that the machine could give.

    python benchmarks/roofline.py [--shape 24,96,96] [--device cuda] [--threads 1] [--json FILE] [--png FILE]
    python benchmarks/roofline.py --growth [--largest 1e7]

The roofs are measured: copying arrays that no cache holds, copying one that the second-level cache holds, and a large
float32 matrix product. A function's floor is the longest of three times: the bytes that must go through memory, and
those through the cache, over the speed of the copies, and the operations over the rate of the product. How many
bytes and operations a call needs is a formula of its arguments, which stands beside each function below.

Functions are timed where they are called: in three runs of `recover` (complete, half of the pixels, every third
plane), in single sweeps, in a Riemannian fit, in writing and reading a TIFF. The time of a function is without that of
the others that it calls; what no function of the table has taken is the row ``all else``, without a floor. The rows are
sorted by the time lost, that is, time less floor. On one thread the clock counts the seconds of the processor, so that
other programs on the machine do not count; on CUDA it is that of events.

``--growth`` fits the exponents with which the time of a sweep and of `recover` grows with voxels and rank. On one core
of a virtual Xeon with AVX-512, a sweep under Huber's rule grew with voxels^0.94 rank^0.58 (1e6 to 1e8 voxels, ranks
5 to 40), and `recover` of simulated cells with voxels^0.89 (complete) and voxels^0.68 (half of the pixels), from 1e5 to
1e6.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import inspect
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks.measure import (
    Clock,
    best_seconds,
    cache_bandwidth,
    copy_bandwidth,
    fix_threads,
    gemm_rate,
    machine,
    sweep_operations,
)
from benchmarks.problems import planted_problem

CASES = ("complete", "half of the pixels", "every third plane")
"""The runs of `recover`."""

SWEPT = (32, 384, 384)
"""Shape of the volume of single sweeps: data, mask and dual together exceed the caches of most machines."""

RANKS = ((5, 5, 5), (20, 40, 40))

REPEATS = 5
"""Times that what is short is called, after a first time that does not count."""


class Work(NamedTuple):
    """The least that a call has to do."""

    memory: float
    """Bytes read and written of arrays that no cache holds."""
    operations: float
    """Multiplications, additions and comparisons."""
    cached: float = 0.0
    """Bytes read and written in the cache, where they are more than those of memory."""


@dataclass(frozen=True)
class Roofs:
    """What the machine can do in a second."""

    memory: float
    """Bytes copied, read plus written, in memory."""
    cache: float
    """The same in the second-level cache."""
    single: float
    """Operations in float32."""
    double: float
    """Operations in float64."""

    def floor(self, work: Work) -> float:
        """Seconds below which the work cannot be done."""
        return max(work.memory / self.memory, work.cached / self.cache, work.operations / self.single)

    def __str__(self) -> str:
        return (
            f"memory {self.memory / 1e9:.1f} GB/s, cache {self.cache / 1e9:.1f} GB/s, "
            f"float32 {self.single / 1e9:.0f} Gflop/s, float64 {self.double / 1e9:.0f} Gflop/s"
        )


# The formulas. Arguments are those of the function; N voxels, float32 unless the data say otherwise.


def work_of_sweep(given: dict[str, Any]) -> Work:
    """Data, the mask, and the dual read and written; products as in :func:`benchmarks.measure.sweep_operations`.

    The curvature reads no data, and expands a model of twice the rank.
    """
    data, core, model = given["data"], given["core"], given["model"]
    size = data.dtype.itemsize
    read = 0 if given["rule"].name == "CURVATURE" else size
    dual = 0 if given["dual"] is None else 2 * size
    shape, rank = _three_modes(data.shape), _three_modes(core.shape)
    operations = sweep_operations(shape, rank)
    if model is not None:
        more = _three_modes(model[0].shape)
        operations += 2 * math.prod(shape) * (min(more) - min(rank))
    return Work((1 + read + dual) * math.prod(shape), operations)


def _three_modes(sizes: Sequence[int]) -> tuple[int, int, int]:
    """The sizes with all but the last two modes as one, as a sweep takes them."""
    *first, rows, columns = (1, *sizes)
    return math.prod(first), rows, columns


def work_of_groups(given: dict[str, Any]) -> Work:
    """One pass over groups of ``K`` patches of ``p`` voxels with ``m`` strengths.

    Search: ``3 p_z`` a voxel, offset and plane of references for squared differences, sums of ``p_y`` rows, then of
    ``p_x`` columns at each reference. A group: Gram matrices ``K p (p_n + 1)``, to the core and back ``2 K p (sum p_n +
    1)``, gains ``5 K p``, sums ``2 K p`` a strength, and ``4 K p`` for spread and weight. Memory: data, guide and pilot
    read, ``m + 2`` sums read and written. Cache: a group's patches read, and added to the sums.
    """
    from tensorcell.solvers.patch_groups import corners_of, in_frames, offsets_within, references_used

    geometry, wanted, shape = given["geometry"], given["wanted"], given["data"].shape
    patch, strengths, arrays = geometry.patch, len(given["strengths"]), 2 + (given["pilot"] is not None)
    lengths, corners = in_frames(shape), corners_of(in_frames(shape), geometry)
    used = references_used(wanted, shape, geometry)[np.ix_(*corners)]
    planes, rows, columns = len(corners[0]) * len(corners[1]), len(corners[2]), len(corners[3])
    offsets, share = len(offsets_within(geometry.reach, geometry.group)), float(np.mean(used))
    search = 3 * patch[0] * lengths[2] * lengths[3] + rows * (patch[1] - 1) * lengths[3] + rows * columns * patch[2]
    entries = int(np.count_nonzero(used)) * math.prod(patch) * geometry.group * geometry.frames
    passes = arrays - 1 + strengths
    group = sum(p + 1 for p in patch) + passes * 2 * (sum(patch) + 1) + 7 * strengths + 4
    voxels = math.prod(shape)
    return Work(
        memory=voxels * (4 * arrays + 8 * (strengths + 2)),
        operations=planes * offsets * share * search + entries * group,
        cached=entries * (4 * (arrays - 1) + 8 * (strengths + 2)),
    )


def work_of_reading(given: dict[str, Any]) -> Work:
    """Data and mask read once: the least of any estimate that looks at all voxels, however it is computed."""
    data = given["data"] if "data" in given else given["stack"]
    return Work((data.dtype.itemsize + 1) * data.size, 2 * data.size)


def work_of_map(operations: int) -> Callable[[dict[str, Any]], Work]:
    """One array read and another one written, entry by entry, with so many operations each."""

    def work(given: dict[str, Any]) -> Work:
        array = next(iter(given.values()))
        return Work(2 * array.dtype.itemsize * array.size, operations * array.size)

    return work


def work_of_kriging(given: dict[str, Any]) -> Work:
    """Cosine transforms, ``2.5 log2(rows columns)`` a pixel of each plane given and wanted; for each plane wanted the
    gains of eight neighbours in ``J`` bands, ``8 (2 J + 2)`` a pixel; planes read and written once."""
    from tensorcell.solvers.kriging import NEIGHBOURS, bands_of

    values, targets = given["values"], len(given["targets"])
    planes, rows, columns = values.shape
    bands, near = len(bands_of(rows, columns)[0]), min(planes, 2 * NEIGHBOURS)
    transforms = 2.5 * math.log2(rows * columns) * (planes + targets)
    return Work(
        memory=rows * columns * 4 * (planes + 3 * targets),
        operations=rows * columns * (transforms + targets * near * (2 * bands + 2)),
    )


def work_of_surroundings(given: dict[str, Any]) -> Work:
    """A position read, three numbers written; 26 neighbours and their mask from the cache; a network of 155
    exchanges of two operations sorts them."""
    positions = len(given["positions"])
    return Work(positions * 17, positions * (2 * 155 + 26), positions * 26 * 5)


def work_of_standing_out(given: dict[str, Any]) -> Work:
    """Volume, two masks and the result; 26 neighbours are compared on two sides and counted, 6 operations each."""
    size = given["volume"].size
    return Work(7 * size, 26 * 6 * size, 26 * 9 * size)


def work_of_columns(given: dict[str, Any]) -> Work:
    """Volume and mask; 8 neighbours a voxel sorted by 19 exchanges, two columns of Z values by ``log2(Z)^2 / 4``."""
    volume = given["volume"]
    depth = math.log2(max(2, len(volume)))
    return Work(5 * volume.size, (2 * 19 + 2 * 2 * depth**2 / 4) * volume.size)


def work_of_axial_mean(given: dict[str, Any]) -> Work:
    """Sums and weights along z with a kernel of ``2 * 4 width + 1``; two arrays read, one written."""
    size, taps = given["lateral"].values.size, 8 * given["width_z"] + 1
    return Work(16 * size, 2 * 2 * taps * size)


def work_of_lateral_sums(given: dict[str, Any]) -> Work:
    """The same within planes, so along two axes."""
    size, taps = given["residual"].size, 8 * given["width"] + 1
    return Work(13 * size, 2 * 2 * 2 * taps * size)


def work_of_laws(given: dict[str, Any]) -> Work:
    """Misfits and divergences of ``m`` candidates read once, and the products of all pairs of misfits."""
    candidates, count = given["trial"].misfits.shape
    return Work(4 * (2 * candidates + 3) * count, 2 * candidates**2 * count)


def work_of_file(given: dict[str, Any]) -> Work:
    """The file's bytes read and written once, in memory: the disk is not counted."""
    path = Path(given["path"])
    size = given["volume"].data.nbytes if "volume" in given else path.stat().st_size
    return Work(2 * size, 0)


@dataclass(frozen=True)
class Function:
    """A function of the table."""

    name: str
    place: str
    """``module:attribute``."""
    work: Callable[[dict[str, Any]], Work] | None
    """None: no floor is known."""

    def called(self, given: dict[str, Any]) -> str:
        """Its name, with the rule of a sweep."""
        return f"{self.name}, {given['rule'].name.lower()}" if "rule" in given else self.name


def _solver(name: str, place: str, work: Callable[[dict[str, Any]], Work] | None) -> Function:
    return Function(name, f"tensorcell.solvers.{place}", work)


FUNCTIONS = (
    _solver("sweep", "sweeps:sweep", work_of_sweep),
    _solver("algebra of a Riemannian step", "riemannian:solve_normal_equations", None),
    _solver("groups of patches", "patch_groups:filtered_by", work_of_groups),
    _solver("guide", "patch_groups:smoothed", work_of_map(2 * 3 * 5)),
    _solver("local contrast", "patch_denoising:local_contrast", work_of_map(2 * 2 * 3 * 13)),
    _solver("Stein's laws", "stein:error_laws", work_of_laws),
    _solver("noise", "noise:estimate_noise", work_of_reading),
    _solver("rank", "ranks:estimate_rank", work_of_reading),
    _solver("defects", "defects:find_defects", work_of_reading),
    _solver("neighbours compared", "neighbourhoods:surroundings", work_of_surroundings),
    _solver("neighbours counted", "neighbourhoods:standing_out", work_of_standing_out),
    _solver("columns compared", "neighbourhoods:column_statistics", work_of_columns),
    _solver("neighbour fill along z", "residual_kriging:axial_mean", work_of_axial_mean),
    _solver("neighbour fill in planes", "residual_kriging:lateral_sums", work_of_lateral_sums),
    _solver("smooth fill, bending", "smooth_fill:bending", work_of_map(2 * 3 * 4)),
    _solver("smooth fill, products", "smooth_fill:inner", work_of_map(2)),
    _solver("kriging", "kriging:kriged", work_of_kriging),
    _solver("stabilisation", "anscombe:generalised_anscombe", work_of_map(6)),
    _solver("stabilisation, back", "anscombe:inverse_anscombe", work_of_map(12)),
    Function("TIFF written", "tensorcell:write", work_of_file),
    Function("TIFF read", "tensorcell:read", work_of_file),
)


def device_clock() -> Clock:
    """Seconds at which the device has done all that it was given so far, by CUDA events."""
    import cupy

    start = cupy.cuda.Event()
    start.record()

    def now() -> float:
        event = cupy.cuda.Event()
        event.record()
        event.synchronize()
        return float(cupy.cuda.get_elapsed_time(start, event)) / 1e3

    return now


@dataclass
class Row:
    """What all calls of a function took in one run."""

    run: str
    name: str
    calls: int = 0
    seconds: float = 0.0
    floor: float = 0.0
    memory: float = 0.0
    operations: float = 0.0

    @property
    def lost(self) -> float:
        """Seconds above the floor."""
        return self.seconds - self.floor


@dataclass
class Probe:
    """Times functions where they are called, each without the others that it calls."""

    clock: Clock
    roofs: Roofs
    run: str = ""
    rows: dict[tuple[str, str], Row] = field(default_factory=dict)
    inner: list[float] = field(default_factory=lambda: [0.0])
    """Seconds that functions took within each of those that are running."""

    def took(self, name: str, work: Work | None, call: Callable[[], Any]) -> Any:
        """The result of the call, whose time and work are added to its row."""
        self.inner.append(0.0)
        begin = self.clock()
        try:
            return call()
        finally:
            seconds = self.clock() - begin
            own = seconds - self.inner.pop()
            self.inner[-1] += seconds
            row = self.rows.setdefault((self.run, name), Row(self.run, name))
            row.seconds += own
            row.calls += 1
            if work is not None:
                row.floor += self.roofs.floor(work)
                row.memory += work.memory
                row.operations += work.operations

    def wrapped(self, function: Function, original: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed; an iterator is timed from item to item."""
        signature = inspect.signature(original)

        def call(args: Any, kwargs: Any) -> tuple[str, Work | None]:
            given = signature.bind(*args, **kwargs)
            given.apply_defaults()
            work = None if function.work is None else function.work(given.arguments)
            return function.called(given.arguments), work

        @functools.wraps(original)
        def timed(*args: Any, **kwargs: Any) -> Any:
            return self.took(*call(args, kwargs), lambda: original(*args, **kwargs))

        @functools.wraps(original)
        def timed_items(*args: Any, **kwargs: Any) -> Iterator[Any]:
            items, end = original(*args, **kwargs), object()
            name, work = call(args, kwargs)
            while (item := self.took(name, work, lambda: next(items, end))) is not end:
                yield item
                work = None  # that of the whole is counted once

        return timed_items if inspect.isgeneratorfunction(original) else timed


@contextmanager
def probed(probe: Probe, functions: Sequence[Function] = FUNCTIONS) -> Iterator[None]:
    """Time the functions wherever the project calls them."""
    changed: list[tuple[Any, str, Any]] = []
    try:
        for function in functions:
            place, attribute = function.place.split(":")
            original = getattr(importlib.import_module(place), attribute)
            timed = probe.wrapped(function, original)
            for module in [m for name, m in sys.modules.items() if name.split(".")[0] == "tensorcell"]:
                for name in [name for name, value in vars(module).items() if value is original]:
                    setattr(module, name, timed)
                    changed.append((module, name, original))
        yield
    finally:
        for module, name, original in changed:
            setattr(module, name, original)


def noisy_cells(shape: tuple[int, ...], seed: int = 3) -> np.ndarray:
    """Simulated cells with Gaussian noise of 5 % of their range, float32."""
    from tensorcell.datasets import simulate_cells

    truth = simulate_cells(shape, cells=max(6, math.prod(shape) // 20000), seed=seed).truth.astype(np.float32)
    truth /= truth.max()
    return truth + np.float32(0.05) * np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def case_of(stack: np.ndarray, case: str) -> tuple[np.ndarray, dict[str, Any]]:
    """What was measured of a stack, and the arguments that go with it."""
    if case == "every third plane":
        return np.ascontiguousarray(stack[: (len(stack) - 1) // 3 * 3 + 1 : 3]), {"axial_factor": 3}
    if case == "half of the pixels":
        missing = np.random.default_rng(1).random(stack.shape) < 0.5
        return np.where(missing, np.float32(np.nan), stack), {}
    return stack, {}


def run_recover(probe: Probe, shape: tuple[int, ...], device: str, cases: Sequence[str] = CASES) -> None:
    """One `recover` of each case; kernels are compiled before."""
    import tensorcell as tc

    stack = noisy_cells(shape)
    for case in cases:
        measured, arguments = case_of(stack, case)
        tc.recover(measured[:12, :32, :32], device=device, **arguments)
        probe.run = f"recover, {case}"
        with probed(probe):
            probe.took("all else", None, lambda m=measured, a=arguments: tc.recover(m, device=device, **a))


def run_sweeps(probe: Probe, shape: tuple[int, ...], device: str) -> None:
    """Single sweeps and a Riemannian fit, in float32."""
    from tensorcell.device import on_device
    from tensorcell.solvers import GaussNewtonOptions, riemannian_gauss_newton
    from tensorcell.solvers.results import tucker_tensor
    from tensorcell.solvers.rules import Rule
    from tensorcell.solvers.threads import one_blas_thread

    sweeps = importlib.import_module("tensorcell.solvers.sweeps")
    for rank in RANKS:
        rank = tuple(min(r, n) for r, n in zip(rank, shape, strict=True))
        problem = planted_problem("sweep", shape, rank, seen=0.25, noise=0.1, dtype=np.float32)
        data, mask = on_device(problem.data, device), on_device(problem.mask, device)
        rng = np.random.default_rng(0)
        core = on_device(rng.standard_normal(rank), device)
        factors = [
            on_device(np.linalg.qr(rng.standard_normal((n, r)))[0], device) for n, r in zip(shape, rank, strict=True)
        ]
        for rule in (Rule.EQUALITY, Rule.HUBER):
            dual = on_device(np.zeros(shape, np.float32), device) if rule is Rule.EQUALITY else None
            for repeat in range(REPEATS + 1):
                probe.run = f"sweep, {rule.name.lower()}, rank {rank}" if repeat else "warm-up"
                with probed(probe), one_blas_thread():
                    sweeps.sweep(data, mask, core, factors, rule=rule, dual=dual, threshold=1.0, relaxation=1.6)
        probe.run = f"Riemannian, rank {rank}"
        options = GaussNewtonOptions(max_iterations=2)
        with probed(probe):
            riemannian_gauss_newton(data, mask, tucker_tensor(core, factors, np.float64), options=options)


def run_alone(probe: Probe, shape: tuple[int, ...], device: str) -> None:
    """Stabilisation there and back, and a TIFF written and read."""
    import tensorcell as tc
    from tensorcell.device import on_device
    from tensorcell.solvers.noise import NoiseModel

    anscombe = importlib.import_module("tensorcell.solvers.anscombe")
    stack, photons = noisy_cells(shape), NoiseModel(gain=0.01, offset=0.0025, sigma=0.05)
    given = on_device(stack, device)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stack.tif"
        for repeat in range(REPEATS + 1):
            probe.run = "alone" if repeat else "warm-up"
            with probed(probe):
                anscombe.inverse_anscombe(anscombe.generalised_anscombe(given, photons), photons)
                tc.write(path, tc.Volume(stack, axes="ZYX"), compress=False)
                tc.read(path)


def measured_roofs(device: str, threads: int, clock: Clock) -> Roofs:
    """Copies and products on the device that is used."""
    if device == "cpu":
        memory, cache = copy_bandwidth(cores=threads, clock=clock), cache_bandwidth(cores=threads, clock=clock)
        return Roofs(memory, cache, gemm_rate(np.float32, clock=clock), gemm_rate(np.float64, clock=clock))
    import cupy

    def copied(size: int) -> float:
        source, target = cupy.ones(size, np.float32), cupy.empty(size, np.float32)
        return 8 * size / best_seconds(lambda: cupy.copyto(target, source), 7, clock)

    def product(dtype: Any, side: int = 8192) -> float:
        left, right = cupy.ones((side, side), dtype), cupy.ones((side, side), dtype)
        return 2 * side**3 / best_seconds(lambda: cupy.matmul(left, right), 7, clock)

    return Roofs(copied(1 << 28), copied(1 << 20), product(np.float32), product(np.float64))


def table(rows: Sequence[Row]) -> str:
    """Markdown, most seconds lost first; ``all else`` has no floor."""
    lines = [
        "| run | function | calls | seconds | floor | ratio | lost | GB/s | Gflop/s |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in sorted(rows, key=lambda row: -row.lost):
        known = row.floor > 0 and row.seconds > 0
        ratio = f"{row.seconds / row.floor:.1f}" if known else ""
        speed = f"{row.memory / row.seconds / 1e9:.2f} | {row.operations / row.seconds / 1e9:.2f}" if known else " | "
        times = f"{row.seconds:.4f} | {row.floor:.4f}" if known else f"{row.seconds:.4f} | "
        lines.append(f"| {row.run} | {row.name} | {row.calls} | {times} | {ratio} | {row.lost:.4f} | {speed} |")
    return "\n".join(lines)


def draw(rows: Sequence[Row], roofs: Roofs, path: Path) -> None:
    """The roofline plot: operations a byte of memory against operations a second, a dot for each function."""
    from matplotlib.figure import Figure

    total: dict[str, Row] = {}
    for row in rows:
        if row.memory and row.operations and row.seconds:
            name = row.run.removeprefix("sweep, ") if row.run.startswith("sweep") else row.name
            kept = total.setdefault(name, Row("", name))
            kept.seconds += row.seconds
            kept.floor += row.floor
            kept.memory += row.memory
            kept.operations += row.operations
    dots = sorted(total.values(), key=lambda row: -row.lost)
    figure = Figure(figsize=(11, 6.5), facecolor="white", layout="constrained")
    axes = figure.subplots()
    intensity = np.geomspace(0.1, 1e4, 200)
    axes.loglog(intensity, np.minimum(roofs.memory * intensity, roofs.single) / 1e9, "k-", label="memory, float32")
    axes.loglog(intensity, np.minimum(roofs.cache * intensity, roofs.single) / 1e9, "k--", label="cache, float32")
    axes.axhline(roofs.double / 1e9, color="grey", linestyle=":", label="float64")
    for number, row in enumerate(dots, 1):
        x, y = row.operations / row.memory, row.operations / row.seconds / 1e9
        axes.loglog(x, y, "o", color=f"C{number % 10}", label=f"{number} {row.name}")
        axes.annotate(str(number), (x, y), xytext=(5, 3), textcoords="offset points", fontsize=9)
    axes.set_xlabel("operations a byte of memory")
    axes.set_ylabel("10$^9$ operations a second")
    axes.legend(bbox_to_anchor=(1.01, 1), loc="upper left", fontsize=8, frameon=False)
    axes.grid(which="major", color="0.9")
    figure.savefig(path, dpi=110)


def exponents(sizes: Sequence[Sequence[float]], seconds: Sequence[float]) -> list[float]:
    """Least-squares exponents ``b`` of ``seconds = a prod sizes^b``, in logarithms.

    >>> [round(b, 6) for b in exponents([[1, 1], [2, 1], [1, 3], [2, 3]], [5, 20, 15, 60])]
    [2.0, 1.0]
    """
    logs = np.log(np.asarray(sizes, float))
    design = np.column_stack([np.ones(len(logs)), logs])
    found: list[float] = np.linalg.lstsq(design, np.log(np.asarray(seconds, float)), rcond=None)[0][1:].tolist()
    return found


def growth(largest: float, device: str, clock: Clock) -> Iterator[str]:
    """Lines of a table: times of a sweep and of `recover` over voxels (and rank), with the fitted exponents."""
    import tensorcell as tc
    from tensorcell.device import on_device
    from tensorcell.solvers.rules import Rule
    from tensorcell.solvers.sweeps import sweep
    from tensorcell.solvers.threads import one_blas_thread

    yield "| what | voxels | rank | seconds |"
    yield "|---|---:|---:|---:|"
    sizes: list[list[float]] = []
    times: list[float] = []
    rng = np.random.default_rng(0)
    for voxels in (1e6, 1e7, 1e8):
        side = round(voxels ** (1 / 3))
        if voxels > 100 * largest:
            break
        shape = (side, side, side)
        data, mask = on_device(rng.random(shape, dtype=np.float32), device), on_device(rng.random(shape) < 0.25, device)
        for rank in (5, 10, 20, 40):
            core = on_device(rng.standard_normal((rank,) * 3), device)
            factors = [on_device(np.linalg.qr(rng.standard_normal((side, rank)))[0], device)] * 3
            seconds = []
            for _ in range(3):
                begin = clock()
                with one_blas_thread():
                    sweep(data, mask, core, factors, rule=Rule.HUBER, threshold=1.0)
                seconds.append(clock() - begin)
            sizes.append([side**3, rank])
            times.append(min(seconds))
            yield f"| sweep | {side**3:.2g} | {rank} | {times[-1]:.3f} |"
    by_voxels, by_rank = exponents(sizes, times)
    last = [f"a sweep grows with voxels^{by_voxels:.2f} rank^{by_rank:.2f}"]
    for case in CASES[:2]:
        sizes, times, side = [], [], 47
        while side**3 <= largest:
            measured, arguments = case_of(noisy_cells((side,) * 3), case)
            tc.recover(measured[:12, :32, :32], device=device, **arguments)
            begin = clock()
            found = tc.recover(measured, device=device, **arguments)
            times.append(clock() - begin)
            sizes.append([measured.size])
            yield f"| recover, {case} | {measured.size:.2g} | {max(found.rank)} | {times[-1]:.2f} |"
            side = round(side * 3 ** (1 / 3))
        if len(times) > 1:
            last.append(f"recover, {case}, with voxels^{exponents(sizes, times)[0]:.2f}")
    yield "\n" + "; ".join(last)


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="24,96,96", help="stack of the runs of recover (default 24,96,96)")
    parser.add_argument("--swept", default=",".join(map(str, SWEPT)), help="volume of single sweeps")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--png", type=Path)
    parser.add_argument("--growth", action="store_true", help="fit how time grows instead")
    parser.add_argument(
        "--largest",
        type=float,
        default=1e6,
        help="voxels of the largest recover of --growth; sweeps go to a hundred times as many, at most 1e8",
    )
    return parser.parse_args()


def main() -> int:
    """Print the table, or the growth."""
    from tensorcell.device import choose_device
    from tensorcell.errors import InputError

    chosen = arguments()
    try:
        device = choose_device(chosen.device)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    fix_threads(chosen.threads)
    host = time.process_time if chosen.threads == 1 else time.perf_counter
    clock = device_clock() if device == "cuda" else host
    print(machine(), file=sys.stderr)
    if chosen.growth:
        for line in growth(chosen.largest, device, clock):
            print(line, flush=True)
        return 0
    roofs = measured_roofs(device, chosen.threads, clock)
    print(roofs)
    shape, swept = (tuple(map(int, text.split(","))) for text in (chosen.shape, chosen.swept))
    probe = Probe(clock, roofs)
    run_recover(probe, shape, device)
    run_sweeps(probe, swept, device)
    run_alone(probe, swept, device)
    rows = [row for row in probe.rows.values() if row.run != "warm-up"]
    print("\n" + table(rows))
    if chosen.json:
        held = {"machine": machine(), "device": device, "roofs": asdict(roofs), "rows": [asdict(row) for row in rows]}
        chosen.json.write_text(json.dumps(held, indent=1))
    if chosen.png:
        draw(rows, roofs, chosen.png)
    return 0


if __name__ == "__main__":
    sys.exit(main())
