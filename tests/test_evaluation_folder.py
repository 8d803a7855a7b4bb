"""The folder of an evaluation: one run at a time, nothing left of killed ones, one line where the disk is full."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tensorcell import cli
from tensorcell.errors import InputError
from tensorcell.evaluation import Method, evaluate
from tensorcell.evaluation.store import CELLS, Store
from tensorcell.files import claimed
from tensorcell.files.temporary import temporary_name

METHODS = """
import os, pathlib, signal, time
import numpy as np
def good(m, seed):
    return np.nan_to_num(m.grid, nan=0.5)
def sleeps(m, seed):
    pathlib.Path(os.environ["STARTED"]).write_text(str(os.getpid()))
    time.sleep(300)
def full(m, seed):
    import resource
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
    return good(m, seed)
"""

KILLED = """
import sys
import numpy as np
import methods_of_a_folder as m
from tensorcell.evaluation import Method, evaluate
volume = np.random.default_rng(0).random((9, 12, 12))
methods = [Method("good", m.good), Method("sleeps", m.sleeps)]
evaluate({"v": volume}, out=sys.argv[1], methods=methods, cases=["stripes"])
"""


@pytest.fixture
def methods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of methods, importable here and in fresh interpreters."""
    (tmp_path / "methods_of_a_folder.py").write_text(METHODS)
    monkeypatch.syspath_prepend(tmp_path)
    import methods_of_a_folder  # type: ignore[import-not-found]

    yield methods_of_a_folder
    del sys.modules["methods_of_a_folder"]


def volume() -> dict[str, np.ndarray]:
    return {"v": np.random.default_rng(0).random((9, 12, 12))}


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".tensorcell-*")]


@pytest.mark.skipif(sys.platform == "win32", reason="no signals to another process")
def test_a_killed_run_leaves_nothing_running_and_the_next_one_removes_its_files(methods: Any, tmp_path: Path) -> None:
    out, started = tmp_path / "runs" / "out", tmp_path / "started"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), *sys.path)), "STARTED": str(started)}
    run = subprocess.Popen([sys.executable, "-c", KILLED, str(out)], env=environment, stderr=subprocess.DEVNULL)
    try:
        while not (started.exists() and started.read_text()):
            assert run.poll() is None
            time.sleep(0.05)
        with pytest.raises(InputError, match="another run is writing it"):
            evaluate(volume(), out=out, methods=[Method("good", methods.good)], cases=["stripes"])
    finally:
        run.kill()
        run.communicate()
    cell = int(started.read_text())
    for _ in range(600):
        try:
            os.kill(cell, 0)
        except ProcessLookupError:
            break
        time.sleep(0.1)
    else:
        os.kill(cell, 9)
        pytest.fail("the process of the cell goes on")
    left = [out / "scores.csv", out / "pictures" / "v--stripes.png"]
    (out / "pictures").mkdir()
    for path in left:
        temporary_name(path).write_text("cut off")
    assert len(hidden(tmp_path)) >= 3  # the scratch folder, too
    result = evaluate(volume(), out=out, methods=[Method("good", methods.good)], cases=["stripes"])
    assert result.reused == 1
    assert all(path.exists() for path in left)
    assert hidden(tmp_path) == []


def test_unfinished_files_of_other_outputs_in_the_folder_stay(methods: Any, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    other = temporary_name(tmp_path / "out" / "of_another_run.tif")
    other.write_text("growing")
    with pytest.raises(InputError, match="another run"), claimed([tmp_path / "out"]):
        evaluate(volume(), out=tmp_path / "out", methods=["none"], cases=["clean"])
    evaluate(volume(), out=tmp_path / "out", methods=["none"], cases=["clean"])
    assert hidden(tmp_path) == [other.name]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), OSError("12 requested and 0 written")])
def test_a_full_disk_is_one_line_and_finished_cells_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    evaluate(volume(), out=tmp_path / "out", methods=["none"], cases=["clean"])
    before = (tmp_path / "out" / "scores.csv").read_bytes()

    def fails(*_: Any) -> None:
        raise error

    monkeypatch.setattr(Store, "add", fails)
    with pytest.raises(InputError, match=r"out: cannot be written: (No space left on device|.*is the disk full\?)"):
        evaluate(volume(), out=tmp_path / "out", methods=["none", "linear"], cases=["clean", "planes-2"])
    assert (tmp_path / "out" / "scores.csv").read_bytes() == before
    assert len((tmp_path / "out" / CELLS).read_text().splitlines()) == 1
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("finished", [0, 1])
def test_ctrl_c_says_whether_there_is_something_to_go_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], finished: int
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("v.npy", volume()["v"])
    real, calls = Store.add, list[Any]()

    def add(*arguments: Any) -> None:
        if len(calls) == finished:
            raise KeyboardInterrupt
        calls.append(real(*arguments))

    words = ["tensorcell", "evaluate", "v.npy", "--out", "out", "--methods", "none", "--cases", "clean,noise-0.1"]
    monkeypatch.setattr(Store, "add", add)
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit, match="130"):
        cli.main()
    go_on = "finished cells are in out, the same command goes on from there"
    assert capsys.readouterr() == ("", f"tensorcell: interrupted; {go_on if finished else 'no cell was finished'}\n")
    assert hidden(tmp_path) == []
    monkeypatch.setattr(Store, "add", real)
    with pytest.raises(SystemExit, match="0"):
        cli.main()
    assert len(Path("out", CELLS).read_text().splitlines()) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="the limit on file sizes is a Unix one")
def test_a_cell_that_cannot_write_what_it_found_ends_the_run_and_is_no_failure_of_its_method(
    methods: Any, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"out: cannot be written \(is the disk full\?\)"):
        evaluate(volume(), out=tmp_path / "out", methods=[Method("full", methods.full)], cases=["stripes"])
    assert not (tmp_path / "out").exists()
