"""Several inputs by one command: the plan, the record, what one bad file costs, and going on after a stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorcell as tc
from tensorcell import batch, cli
from tensorcell.errors import InputError

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


@pytest.fixture
def stacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder ``in`` with two stacks, a damaged file, and one that is no volume."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    for number in range(2):
        data = np.random.default_rng(number).random((5, 20, 20)).astype(np.float32)
        tc.write(tmp_path / "in" / f"c{number}.tif", tc.Volume(data, spacing=(0.5, 0.1, 0.1)))
    (tmp_path / "in" / "bad.tif").write_bytes(b"II*\0garbage")
    (tmp_path / "in" / "notes.txt").write_text("no volume")
    return tmp_path


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "tensorcell", "recover", *arguments]
    return subprocess.run(words, capture_output=True, text=True, env=ENVIRONMENT, timeout=600, check=False)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def states(items: list[batch.Item]) -> dict[str, str]:
    return {Path(item.source).name: item.state for item in items}


def test_inputs_are_files_patterns_and_folders_each_once(stacks: Path) -> None:
    every = ["in/bad.tif", "in/c0.tif", "in/c1.tif"]
    assert batch.inputs_of(["in"]) == every
    assert batch.inputs_of(["in/*.tif", "in/c1.tif"]) == every
    assert batch.inputs_of(["in/c1.tif", "in/c0.tif"]) == ["in/c1.tif", "in/c0.tif"]
    (stacks / "in" / "odd[1].tif").write_bytes(b"")
    assert batch.inputs_of(["in/odd[1].tif"]) == ["in/odd[1].tif"]  # a name that looks like a pattern
    for sources, message in ((["in/*.h5"], "fits none"), ([str(stacks)], "found none")):
        with pytest.raises(InputError, match=message):
            batch.inputs_of(sources)


def test_one_bad_file_does_not_stop_the_others_and_the_record_says_what_became_of_each(stacks: Path) -> None:
    found = run("in/*.tif", "out", "--axial-factor", "2", "--uncertainty", "out/{name}.u.tif", "--jobs", "2")
    assert found.returncode == 2
    assert "2 of 3 files recovered" in found.stdout
    assert found.stderr.splitlines()[-1].startswith("tensorcell: 1 of 3 files have problems, first in/bad.tif: ")
    assert names(stacks / "out") == ["c0.tif", "c0.u.tif", "c1.tif", "c1.u.tif", "recovered.json"]
    assert tc.read("out/c0.tif").spacing == pytest.approx((0.25, 0.1, 0.1))
    alone = tc.recover(tc.read("in/c0.tif"), axial_factor=2)
    assert np.array_equal(tc.read("out/c0.tif").data, alone.volume.data)
    record = {each["input"]: each for each in json.loads((stacks / "out" / "recovered.json").read_text())["files"]}
    assert record["in/c0.tif"]["facts"]["shape"] == [9, 20, 20]
    assert record["in/bad.tif"]["output"] is None
    assert "truncated or damaged" in record["in/bad.tif"]["problem"]


def test_the_same_command_goes_on_and_does_nothing_twice(
    stacks: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (stacks / "in" / "bad.tif").unlink()
    begun: list[str] = []

    def recovered(items: Any, options: Any, jobs: int) -> Any:
        for item in items:
            begun.append(item.name)
            tc.write(item.target, np.ones((2, 3, 4)))
            yield batch.Ended(item, 1.0, {"shape": [2, 3, 4]}, "")

    monkeypatch.setattr(batch, "processes", recovered)

    def recover(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["tensorcell", "recover", "in", "out", *arguments])
        begun.clear()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0)  # type: ignore[arg-type]

    assert (recover("--json"), begun) == (0, ["c0", "c1"])
    assert [each["output"] for each in json.loads(capsys.readouterr().out)["files"]] == ["out/c0.tif", "out/c1.tif"]
    assert (recover(), begun) == (0, [])
    assert "0 of 2 files recovered, 2 were there before" in capsys.readouterr().out
    (stacks / "out" / "c1.tif").unlink()
    assert (recover(), begun) == (0, ["c1"])
    assert (recover("--seed", "1"), begun) == (0, ["c0", "c1"])  # other options, other results
    tc.write("in/c0.tif", np.zeros((4, 5, 6), np.uint8))
    assert (recover("--seed", "1"), begun) == (0, ["c0"])
    assert (recover("--seed", "1", "--dry-run"), begun) == (0, [])
    assert capsys.readouterr().out.splitlines()[-1] == "0 to do, 2 done, 0 refused"


def test_files_are_gone_on_with_unless_the_user_says_otherwise(
    stacks: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (stacks / "in" / "bad.tif").unlink()
    given: list[Any] = []

    def recovered(items: Any, options: Any, jobs: int) -> Any:
        given.append((len(items), list(options)))
        for item in items:
            tc.write(item.target, np.ones((2, 3, 4)))
            yield batch.Ended(item, 1.0, {"shape": [2, 3, 4]}, "")

    monkeypatch.setattr(batch, "processes", recovered)
    for words in ([], ["--resume"], ["--no-resume"]):
        monkeypatch.setattr(sys, "argv", ["tensorcell", "recover", "in", "out", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert not ended.value.code
    assert given == [(2, ["--resume"]), (0, ["--resume"]), (0, ["--no-resume"])]
    capsys.readouterr()


def test_a_run_that_was_killed_is_gone_on_from(stacks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its processes may have finished outputs after it."""
    (stacks / "out").mkdir()
    items = batch.planned(["in/c0.tif", "in/c1.tif"], Path("out"), None, [])

    def killed(items: Any, options: Any, jobs: int) -> Any:
        tc.write(items[0].target, np.ones((2, 3, 4)))
        raise MemoryError
        yield

    monkeypatch.setattr(batch, "processes", killed)
    with pytest.raises(MemoryError):
        batch.run(items, Path("out"), [], 1, lambda one, number: None)
    assert states(batch.planned(["in/c0.tif", "in/c1.tif"], Path("out"), None, [])) == {
        "c0.tif": "to do", "c1.tif": "to do",
    }  # fmt: skip


def test_the_plan_refuses_what_would_lose_something(stacks: Path) -> None:
    def plan(*sources: str, suffix: str | None = None) -> list[batch.Item]:
        return batch.planned(sources, Path("out"), suffix, [])

    assert states(plan("in/c0.tif", "in/c9.tif", "in/notes.txt")) == {
        "c0.tif": "to do", "c9.tif": "refused", "notes.txt": "refused",
    }  # fmt: skip
    assert plan("in/c0.tif", suffix=".h5")[0].target == "out/c0.h5"
    assert plan("in/c0.ims")[0].target == "out/c0.ome.tif"  # a format that cannot be written
    (stacks / "out").mkdir()
    (stacks / "out" / "c0.tif").write_bytes(b"something else")
    refused = plan("in/c0.tif")[0]
    assert refused.state == "refused"
    assert "exists already" in refused.reason
    (stacks / "out" / "recovered.json").write_text("[]")
    with pytest.raises(InputError, match=r"recovered.json: expected the record of an earlier run, got something else"):
        plan("in/c0.tif")
    for sources, folder in ((["in/c0.tif"], "in"), (["in/c0.tif", "other/c0.tif"], "new")):
        with pytest.raises(InputError, match="expected another"):
            batch.planned(sources, Path(folder), None, [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["in", "out.tif"], "in: holds files of several kinds"),
        (
            ["in", "out", "--uncertainty", "u.tif"],
            "expected {name} in --uncertainty, which stands for the name",
        ),
        (["in", "in/notes.txt"], "in/notes.txt: expected a folder for the outputs of several inputs, got a file"),
        (["in/c0.tif", "out.tif", "--jobs", "2"], "--dry-run, --jobs and --suffix are for several inputs, got one"),
    ],
)
def test_bad_requests_are_one_line_and_make_nothing(
    stacks: Path, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(sys, "argv", ["tensorcell", "recover", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert names(stacks) == ["in"]


@pytest.mark.skipif(sys.platform == "win32", reason="no signals to another process")
def test_an_interrupt_ends_the_processes_and_keeps_what_is_finished(stacks: Path) -> None:
    (stacks / "in" / "bad.tif").unlink()
    large = np.random.default_rng(0).random((40, 200, 200)).astype(np.float32)
    tc.write("in/d.tif", large)
    words = [sys.executable, "-m", "tensorcell", "recover", "in", "out"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    try:
        assert process.stderr is not None
        for number in (1, 2):
            assert process.stderr.readline().startswith(
                f"{number} of 3: in/c{number - 1}.tif: out/c{number - 1}.tif in"
            )
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=120)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 143
    assert err.endswith("tensorcell: interrupted; what is finished is in out, the same command goes on from there\n")
    assert names(stacks / "out") == ["c0.tif", "c1.tif", "recovered.json"]


def test_a_process_that_dies_is_one_line(stacks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "CHILD", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    (one,) = batch.processes([batch.Item("in/c0.tif", "out/c0.tif", "to do")], [], 1)
    assert not one.written
    assert one.problem == "its process was ended by signal 9; if memory ran out, use fewer --jobs"


def test_with_one_output_the_files_are_the_planes_of_a_stack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "planes").mkdir()
    data = np.random.default_rng(0).random((11, 20, 20)).astype(np.float32)
    for number, plane in enumerate(data):
        tc.write(tmp_path / "planes" / f"z{number}.tif", tc.Volume(plane, "YX"))
    tc.write("stack.tif", data)
    for sources in (["planes/*.tif"], ["planes"], ["stack.tif"]):
        monkeypatch.setattr(sys, "argv", ["tensorcell", "recover", *sources, "out.tif", "--json", "--quiet"])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 0
        assert json.loads(capsys.readouterr().out)["shape"] == [11, 20, 20]
        assert np.array_equal(tc.read("out.tif").data, tc.recover(data).volume.data)


@pytest.mark.skipif(sys.platform == "win32", reason="no signals to another process")
def test_the_processes_end_with_the_one_that_started_them(stacks: Path) -> None:
    tc.write("in/d.tif", np.random.default_rng(0).random((40, 200, 200)).astype(np.float32))
    code = (
        "import sys, time; from tensorcell import batch; "
        "run = batch.started(batch.Item('in/d.tif', 'd.tif', 'to do'), [], 1); "
        "print(run.process.pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    time.sleep(2)
    os.kill(child, 0)  # it is there
    parent.kill()
    parent.communicate()
    for _ in range(600):
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            break
        time.sleep(0.1)
    else:
        os.kill(child, signal.SIGKILL)
        pytest.fail("the process goes on")
    assert names(stacks) == ["in"]
