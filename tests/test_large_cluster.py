"""Recoveries on a cluster of two processes: equal to those of one process bit for bit, whoever dies."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import cluster_volumes
import numpy as np
import pytest
from blocked_stacks import partition

import tensorcell as tc
from tensorcell import cli
from tensorcell.datasets import simulate_cells
from tensorcell.errors import InputError
from tensorcell.large import cluster as module
from tensorcell.large.journal import read_journal, unfinished_name
from tensorcell.large.measured import measured_stacks
from tensorcell.large.workers import Call
from tensorcell.lazy_volume import LazyVolume
from tensorcell.memory import peak_of_recovery
from tensorcell.solvers import AdmmOptions, BlockedStack
from tensorcell.solvers.streamed import streamed_tucker

distributed = pytest.importorskip("distributed")

FRAMES, SHAPE = 3, (5, 36, 72)
MEMORY = peak_of_recovery(5 * 36 * 60, np.float32)
"""Enough for half a frame with its rim."""

Recovered = tuple[dict[str, Any], list[np.ndarray]]

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """Of a cluster of two workers with a thread each, which gives a task up when a second worker dies at it."""
    import dask

    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        distributed.LocalCluster(2, threads_per_worker=1, dashboard_address=":0", memory_limit="4GB") as cluster,
        distributed.Client(cluster, set_as_default=False) as found,
    ):
        yield found


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with frames of noisy cells; of the last one nothing was measured."""
    rng = np.random.default_rng(0)
    truth = np.stack([simulate_cells(SHAPE, cells=5, seed=seed).truth for seed in range(FRAMES)])
    data = (truth / truth.max() + 0.1 * rng.standard_normal(truth.shape)).astype(np.float32)
    data[-1] = np.nan
    path = tmp_path_factory.mktemp("series") / "in.tif"
    tc.write(path, tc.Volume(data, "TZYX", spacing=(0.5, 0.1, 0.1)))
    return path


def recovered(series: Path, folder: Path, **arguments: Any) -> Recovered:
    """What is said of a recovery, but for names and times, and what is in its files."""
    given = {"memory": MEMORY, "rim": 4, **arguments}
    result = tc.recover_file(series, folder / "out.npy", uncertainty=folder / "u.npy", **given)
    said = {each.name: str(getattr(result, each.name)) for each in fields(result)}
    arrays = [np.load(folder / "out.npy"), np.load(folder / "u.npy")]
    return {name: text for name, text in said.items() if name not in ("path", "seconds")}, arrays


@pytest.fixture(scope="module")
def alone(series: Path, tmp_path_factory: pytest.TempPathFactory) -> Recovered:
    """The recovery by this process, each frame in two parts."""
    return recovered(series, tmp_path_factory.mktemp("alone"))


def assert_equal(found: Recovered, wanted: Recovered) -> None:
    assert found[0] == wanted[0]
    for one, two in zip(found[1], wanted[1], strict=True):
        np.testing.assert_array_equal(one, two)


def no_calls_left(client: Any) -> bool:
    """Whether the scheduler has forgotten all calls, within a few seconds."""
    for _ in range(100):
        if not client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)):
            return True
        time.sleep(0.1)
    return False


def test_with_a_worker_killed_in_mid_run_it_equals_one_process(
    series: Path, alone: Recovered, client: Any, tmp_path: Path
) -> None:
    workers = client.run(os.getpid)
    killed = []

    def kill(at: Any) -> None:
        if at.stage == "parts" and not killed:
            killed.append(next(iter(workers.values())))
            os.kill(killed[0], signal.SIGKILL)

    found = recovered(series, tmp_path, client=client, progress=kill)
    assert killed
    assert found[0]["parts"] == "4"
    assert f"T={FRAMES - 1}" in found[0]["not_recovered"]
    assert_equal(found, alone)
    assert no_calls_left(client)


def test_frames_of_one_part_are_recovered_at_a_time(series: Path, client: Any, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    wanted = recovered(series, tmp_path / "one", memory="1GB")
    assert wanted[0]["parts"] == "2"
    assert_equal(recovered(series, tmp_path, memory="1GB", client=client), wanted)


def test_after_ctrl_c_it_goes_on_with_and_without_a_cluster(
    series: Path, alone: Recovered, client: Any, tmp_path: Path
) -> None:
    def stop(at: Any) -> None:
        if at.stage == "parts":
            raise KeyboardInterrupt

    counts = []
    for arguments in ({"client": client, "resume": None}, {"client": client, "resume": True}):
        with pytest.raises(KeyboardInterrupt):
            recovered(series, tmp_path, progress=stop, **arguments)
        assert no_calls_left(client)
        counts.append(len(read_journal(unfinished_name(tmp_path / "out.npy", ".journal")).parts))
    assert counts == [1, 2]
    assert_equal(recovered(series, tmp_path, resume=True), alone)


def stacks_of(data: Any, axes: str = "ZYX") -> Any:
    return measured_stacks(LazyVolume(data, axes), None, None)


def test_calls_are_drawn_as_workers_are_free_and_results_forgotten(client: Any) -> None:
    drawn, taken = 0, 0

    def calls() -> Iterator[Call]:
        nonlocal drawn
        for number in range(20):
            drawn += 1
            assert drawn - taken <= 2 * module.IN_FLIGHT
            yield Call(number, 0, (10**6,))

    keys = set()
    with module.cluster(client, stacks_of(np.zeros((2, 4, 4), np.float32))) as workers:
        for key, result in workers.run(cluster_volumes.larger_than_results, calls()):
            taken += 1
            keys.add(key)
            assert result.nbytes == 10**6
            held = client.run_on_scheduler(lambda dask_scheduler: [t.nbytes for t in dask_scheduler.tasks.values()])
            assert sum(size >= 10**6 for size in held) <= 2 * module.IN_FLIGHT
    assert keys == set(range(20))
    assert no_calls_left(client)


def test_all_workers_are_used_and_each_with_its_own_threads(client: Any) -> None:
    calls = [Call(number, 0, ()) for number in range(8)]
    with module.cluster(client, stacks_of(np.zeros((2, 4, 4), np.float32))) as workers:
        used = {process for _, process in workers.run(cluster_volumes.process_of, calls)}
        threads = {count for _, count in workers.run(cluster_volumes.threads_of, calls)}
    assert used == set(client.run(os.getpid).values())
    assert threads == {1}


def test_a_part_at_which_workers_die_is_one_line(client: Any) -> None:
    with (
        pytest.raises(InputError, match=r"2 workers died at it; perhaps they have less memory than memory="),
        module.cluster(client, stacks_of(np.zeros((2, 4, 4), np.float32))) as workers,
    ):
        list(workers.run(cluster_volumes.killed, [Call(0, 0, ())]))


def test_workers_that_cannot_do_it_are_refused_before_the_work(series: Path, client: Any, tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((4, 24, 24)).astype(np.float32)
    wanted = partial(tc.recover_file, target=tmp_path / "out.npy", client=client, memory="1GB")
    for data, message in (
        (cluster_volumes.Here(values), r"worker tcp://.*: cannot read the input: /data/stack.zarr: no such file"),
        (cluster_volumes.Here(values, values + 1), "the input has other values there: expected the same file"),
        (cluster_volumes.Open(values), "the cluster cannot do the work: .*open file cannot be pickled"),
    ):
        with pytest.raises(InputError, match=message):
            wanted(LazyVolume(data))

    own = tc.__version__
    client.run(cluster_volumes.set_version, "0.0.1")
    try:
        with pytest.raises(InputError, match=rf"worker tcp.*: expected tensorcell {own}, got 0\.0\.1"):
            wanted(series)
    finally:
        client.run(cluster_volumes.set_version, own)
    assert not list(tmp_path.glob("*"))


def test_a_worker_that_comes_later_looks_at_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    stacks, other = (stacks_of(value(shape=(2, 9, 9), dtype=np.float32)) for value in (np.ones, np.zeros))
    check = module.Check("a", tc.__version__, stacks, module.tried_of(stacks[0]))
    assert module.unfit_here(check) == ""
    assert "other values" in module.unfit_here(check._replace(token="b", stacks=other))
    monkeypatch.setattr("tensorcell.version.__version__", "9")
    assert "got 9" in module.unfit_here(check._replace(token="c"))
    assert module.unfit_here(check) == ""  # it was looked at already


def test_a_worker_that_came_later_and_is_unfit_ends_the_run(client: Any) -> None:
    def run() -> None:
        with module.cluster(client, stacks_of(np.zeros((2, 4, 4), np.float32))) as workers:
            client.run(cluster_volumes.set_version, "0.0.1")
            list(workers.run(cluster_volumes.process_of, [Call(0, 0, ())]))

    own = tc.__version__
    with pytest.raises(InputError, match=rf"worker tcp://.*: expected tensorcell {own}, got 0\.0\.1"):
        run()
    client.run(cluster_volumes.set_version, own)


def test_the_memory_is_that_of_the_workers(client: Any) -> None:
    assert module.memory_of_workers(client) == 4e9


def test_without_the_package_or_a_scheduler_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONNECT", 0.5)
    with (
        pytest.raises(
            InputError, match=r"expected the address of a dask.distributed scheduler.*got 'tcp://127.0.0.1:9'"
        ),
        module.connected("tcp://127.0.0.1:9"),
    ):
        pass
    monkeypatch.setitem(sys.modules, "distributed", None)
    with (
        pytest.raises(InputError, match=r'needs the package distributed; pip install "tensorcell\[distributed\]"'),
        module.connected("tcp://127.0.0.1:9"),
    ):
        pass


def test_the_command_takes_a_scheduler(
    series: Path, client: Any, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    address = client.scheduler.address
    words = ["recover", str(series), str(tmp_path / "out.npy"), "--memory", "1GB", "--json"]
    monkeypatch.setattr(sys, "argv", ["tensorcell", *words, "--scheduler", address])
    with pytest.raises(SystemExit) as left:
        cli.main()
    out, err = capsys.readouterr()
    facts = json.loads(out)
    assert left.value.code == 2
    assert f"T={FRAMES - 1}" in err
    assert facts["parts"] == 2
    assert np.isfinite(np.load(tmp_path / "out.npy")[:-1]).all()


def test_ctrl_c_on_the_command_keeps_what_is_finished(
    series: Path, client: Any, tmp_path: Path, heeds_interrupts: None
) -> None:
    source, target = tmp_path / "in.tif", tmp_path / "out.npy"
    tc.write(source, tc.Volume(np.repeat(tc.read(series).data[:1], 9, 0), "TZYX"))
    words = ["recover", str(source), str(target), "--memory", "1GB", "--scheduler", client.scheduler.address]
    process = subprocess.Popen(
        [sys.executable, "-m", "tensorcell", *words], env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    )
    journal = unfinished_name(target, ".journal")
    while process.poll() is None and not (journal.exists() and '"part"' in journal.read_text()):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "the same command with --resume goes on" in err
    assert "Traceback" not in err, err
    assert no_calls_left(client)


def test_a_request_that_has_not_begun_is_cancelled_in_silence(client: Any, caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("tornado.application")

    def failing(message: str, error: Exception) -> None:
        try:
            raise error
        except Exception:
            log.error(message, exc_info=True)

    with module.connected(client.scheduler.address):
        failing("Exception in callback functools.partial(<function sync.<locals>.cancel at 0x1>)", NameError("future"))
        failing("Exception in callback of another kind", NameError("future"))
    failing("sync.<locals>.cancel", NameError("future"))
    said = [record.getMessage() for record in caplog.records if record.name == log.name]
    assert said == ["Exception in callback of another kind", "sync.<locals>.cancel"]


class OneWorker:
    """A client that knows of one worker."""

    def __init__(self, client: Any) -> None:
        self.client, self.submit = client, client.submit

    def nthreads(self) -> dict[str, int]:
        return dict(list(self.client.nthreads().items())[:1])


def bytes_sent(client: Any) -> int:
    """Bytes that workers, the scheduler and the client (which are one process here) have sent."""
    return cluster_volumes.bytes_sent() + sum(client.run(cluster_volumes.bytes_sent).values())


def blocked(folder: Path, shape: tuple[int, int, int]) -> BlockedStack:
    """A stack of low rank with noise and gaps in a file, in blocks that lie on no grid."""
    rng = np.random.default_rng(0)
    data = np.einsum("ir,jr,kr->ijk", *(rng.random((n, 3)) for n in shape)) + 0.01 * rng.standard_normal(shape)
    data[rng.random(shape) < 0.3] = np.nan
    np.save(folder / "data.npy", data)
    return BlockedStack(shape, cluster_volumes.BlocksOf(folder / "data.npy"), partition(shape, 12))


def test_a_sweep_on_a_cluster_moves_models_and_no_voxels(client: Any, tmp_path: Path) -> None:
    rng, stack = np.random.default_rng(0), blocked(tmp_path, (100, 110, 120))
    core, factors = rng.random((8, 8, 8)), [rng.random((n, 8)) for n in stack.shape]
    wanted = stack.sweep(core, factors, 0.1)
    client.run(cluster_volumes.count_bytes)
    cluster_volumes.count_bytes()  # of this client and of the scheduler, which is in this process
    before = bytes_sent(client)
    found = replace(stack, map_blocks=module.dask_map(client)).sweep(core, factors, 0.1)
    moved = bytes_sent(client) - before
    model = core.nbytes + sum(factor.nbytes for factor in factors)
    # The model to the scheduler and the workers, some sums to the other worker, the result to the client: 10 models.
    assert 4 * model < moved < 16 * model
    assert moved < 0.05 * 8 * math.prod(stack.shape)
    for one, two in zip((found.core, *found.factors), (wanted.core, *wanted.factors), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-11)  # the order of the sums differs
    assert found.read().outliers == wanted.read().outliers
    assert no_calls_left(client)


def test_a_fit_on_a_cluster_is_that_of_one_process_and_the_same_with_one_worker(client: Any, tmp_path: Path) -> None:
    options, stack = AdmmOptions(fidelity="huber", max_iterations=5), blocked(tmp_path, (20, 22, 24))
    wanted = streamed_tucker(stack, 3, options=options)
    one, two = (
        streamed_tucker(replace(stack, map_blocks=each), 3, options=options)
        for each in (module.dask_map(client), module.dask_map(OneWorker(client)))
    )
    np.testing.assert_allclose(one.value, wanted.value, rtol=1e-8)
    np.testing.assert_array_equal(one.value, two.value)
