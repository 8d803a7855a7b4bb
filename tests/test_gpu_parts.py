"""Parts that fit a GPU, and workers that have one each, on the stand-in for CuPy."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cluster_volumes
import numpy as np
import pytest
from host_cuda import HostLaunch
from test_cuda_standin import HERE, run

import tensorcell as tc
from tensorcell.datasets import simulate_cells
from tensorcell.errors import InputError
from tensorcell.large import cluster as module
from tensorcell.large.measured import measured_stacks
from tensorcell.large.workers import Call, Place
from tensorcell.lazy_volume import LazyVolume


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for kernels that are compiled for the host, all that run here."""
    folder = tmp_path_factory.mktemp("kernels")
    HostLaunch(folder)  # skips where no kernel can run on the host
    return folder


@pytest.fixture(scope="module")
def told(kernels: Path) -> Any:
    return run("standin/parts.py", HERE / "standin", HERE, given=str(kernels))


def test_a_stack_larger_than_the_memory_of_the_gpu_is_recovered_there_in_parts(told: Any) -> None:
    found = told["on the device"]
    assert found["notes"][0] == "2 parts"
    assert "2 parts of 6 x 24 x 36 voxels" in found["said"][0]
    assert found["said"][0].endswith("; the GPU, where a part takes as much, has 0.687 GB free")
    assert found["notes"][1].startswith("recovered in 2 parts (the GPU had 0.687 GB free);")
    assert "CPU" not in " ".join(found["notes"])
    assert told["calls"] > 40
    assert found["off"] < 1e-5  # float32, beside cells of brightness 1


def test_a_run_goes_on_with_its_parts_whatever_is_free_on_the_gpu_by_then(told: Any) -> None:
    assert told["resumed"] == {"off": 0.0, "notes": told["on the device"]["notes"]}


def test_parts_for_which_the_memory_is_short_even_so_are_recovered_on_the_cpu(told: Any) -> None:
    found = told["short"]
    assert found["off"] == 0
    (note,) = (each for each in found["notes"] if "CPU" in each)
    assert re.fullmatch(
        r"recovered on the CPU, since the memory of the GPU, of which 0.687 GB were free, did not suffice \(Out of "
        r"memory .*\); smaller parts may fit \(recover_file, with less memory=; tensorcell recover --memory\)",
        note,
    )


def test_a_gpu_that_has_no_room_for_any_part_leaves_all_to_the_cpu(told: Any) -> None:
    assert told["no room"][:2] == [
        "1 parts", "computed on the CPU, since the 0.1 GB that are free on the GPU are too little for any part",
    ]  # fmt: skip


def test_the_command_goes_in_parts_where_a_stack_does_not_fit_the_gpu(told: Any) -> None:
    goes = {name.removeprefix("command, "): each for name, each in told.items() if name.startswith("command")}
    assert goes == {"ZYX, auto": True, "ZYX, diffusion": False, "TZYX, auto": False, "TZYX, diffusion": False}


@pytest.fixture(scope="module")
def client(kernels: Path) -> Iterator[Any]:
    """Of two workers that see a GPU each, of the same machine; this process sees none."""
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(2, threads_per_worker=1, dashboard_address=":0", memory_limit="4GB") as cluster,
        distributed.Client(cluster, set_as_default=False) as found,
    ):
        found.run(cluster_volumes.see_gpu, kernels)
        yield found
        assert "standin" not in str(getattr(sys.modules.get("cupy"), "__file__", ""))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    truth = np.stack([simulate_cells((6, 24, 24), cells=3, seed=seed).truth for seed in range(2)])
    path = tmp_path_factory.mktemp("series") / "in.npy"
    np.save(path, (truth / truth.max() + 0.1 * np.random.default_rng(0).standard_normal(truth.shape)).astype("f4"))
    return path


def test_each_worker_computes_on_its_own_gpu(client: Any, path: Path, tmp_path: Path) -> None:
    found, cpu = (
        tc.recover_file(path, tmp_path / f"{device}.npy", axes="TZYX", memory="1GB", method="tucker", **given)
        for device, given in (("cuda", {"client": client, "device": "cuda"}), ("cpu", {"device": "cpu"}))
    )
    assert found.parts == cpu.parts == 2
    assert found.notes == cpu.notes
    off = np.abs(np.load(found.path) - np.load(cpu.path))
    assert 0 < off.max() < 1e-5  # other orders of sums in float32, beside cells of brightness 1
    assert min(client.run(cluster_volumes.calls_on_gpu).values()) > 40


def test_the_memory_is_that_of_the_gpu_with_the_least_shared_by_those_that_see_it(client: Any) -> None:
    assert module.place_of_workers(client, "auto") == Place("cuda", 4e9)  # both see one of 8 GB
    assert module.place_of_workers(client, "cpu") == Place("cpu", None)


@pytest.mark.parametrize("device", ["cuda:1", "cuda:99", "gpu", 3])
def test_on_a_cluster_gpus_have_no_numbers(client: Any, path: Path, tmp_path: Path, device: Any) -> None:
    with pytest.raises(InputError, match=f"expected device auto, cpu, cuda, got {device!r}$") as caught:
        tc.recover_file(path, tmp_path / "out.npy", axes="TZYX", client=client, device=device)
    assert ("the first GPU that it sees" in str(caught.value)) is ("cuda:" in str(device))
    assert not list(tmp_path.glob("*"))


@pytest.fixture
def without(client: Any) -> Iterator[str]:
    """The address of a worker that finds no GPU for now."""
    _, address = client.nthreads()
    client.run(cluster_volumes.see_gpus, 0, workers=[address])
    yield address
    client.run(cluster_volumes.see_gpus, 1, workers=[address])


def test_a_worker_without_a_gpu_is_named(client: Any, without: str, path: Path, tmp_path: Path) -> None:
    message = f"the cluster cannot do the work: worker {without}: device 'cuda' needs a CUDA GPU and CuPy: no GPU found"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        tc.recover_file(path, tmp_path / "out.npy", axes="TZYX", client=client, device="cuda")
    note = f"computed on the CPU, since not all workers have a GPU that works: worker {without}: no GPU found"
    assert module.place_of_workers(client, "auto") == Place("cpu", None, (note,))


def test_a_worker_that_came_later_and_has_no_gpu_ends_the_run(client: Any, without: str) -> None:
    stacks = measured_stacks(LazyVolume(np.zeros((2, 4, 4), np.float32)), None, None)
    calls = [Call(number, 0, ()) for number in range(8)]
    client.run(cluster_volumes.see_gpus, 1)

    def run() -> None:
        with module.cluster(client, stacks, "cuda") as workers:
            client.run(cluster_volumes.see_gpus, 0, workers=[without])
            list(workers.run(cluster_volumes.process_of, calls))

    with pytest.raises(InputError, match=f"worker {without}: device 'cuda' needs a CUDA GPU and CuPy: no GPU found$"):
        run()
