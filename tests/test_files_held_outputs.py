"""One run at a time makes an output, and what killed runs leave of it is removed by the next one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tensorcell import cli
from tensorcell.errors import InputError
from tensorcell.files import claimed, read, write, writing
from tensorcell.files.temporary import OLD, place_of, temporary_name

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}

KILLED = """
import os, signal, sys
import numpy as np
import tensorcell as tc
real = os.replace
def replace(a, b):
    if str(b).endswith(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    real(a, b)
os.replace = replace
tc.write(sys.argv[1], np.ones((4, 5, 6), np.float32))
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def killed_while_writing(path: Path) -> None:
    """A process that dies when its output is finished, but has not its name yet."""
    run = subprocess.run(
        [sys.executable, "-c", KILLED, str(path), path.name], env=ENVIRONMENT, timeout=120, check=False
    )
    assert run.returncode == -signal.SIGKILL


def test_a_second_run_on_an_output_is_refused_and_one_on_another_is_not(tmp_path: Path) -> None:
    with claimed([tmp_path / "a.tif", tmp_path / "a.tif"]):  # named twice, it is one output
        with pytest.raises(InputError, match=r"a\.tif: another run is writing it"), claimed([tmp_path / "a.tif"]):
            pass
        with claimed([tmp_path / "b.tif"]):
            pass
    with claimed([tmp_path / "a.tif"]):
        pass
    assert names(tmp_path) == []


def test_a_claim_by_way_of_a_link_is_one_of_the_same_output(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.tif").symlink_to(tmp_path / "folder" / "a.tif")
    first, second = claimed([tmp_path / "link.tif"]), claimed([tmp_path / "folder" / "a.tif"])
    with first, pytest.raises(InputError, match="another run"), second:
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
@pytest.mark.parametrize("existed", [False, True])
def test_what_a_killed_run_left_is_removed_by_the_next_one_on_that_output(tmp_path: Path, existed: bool) -> None:
    path = tmp_path / "out.npy"
    if existed:
        write(path, np.zeros((2, 3, 4)))
    killed_while_writing(path)
    left = [name for name in names(tmp_path) if name != "out.npy"]
    assert any(name.endswith(".part") for name in left)
    assert path.exists() == existed
    if existed:
        assert read(path).shape == (2, 3, 4)
    with claimed([tmp_path / "other.npy"]):
        assert set(left) <= set(names(tmp_path))
    with claimed([path]):
        assert [name for name in names(tmp_path) if not name.endswith("lock")] == ["out.npy"] * existed
    assert names(tmp_path) == ["out.npy"] * existed


def test_what_lay_there_before_comes_back_if_a_run_was_killed_between_two_renames(tmp_path: Path) -> None:
    path = tmp_path / "out.npy"
    write(path, np.zeros((2, 3, 4)))
    path.rename(temporary_name(path, OLD))
    with claimed([path]):
        assert read(path).shape == (2, 3, 4)
    assert names(tmp_path) == ["out.npy"]


def test_names_of_unfinished_files_lie_beside_the_place_of_the_output(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.tif").symlink_to(tmp_path / "folder" / "a.tif")
    assert temporary_name(tmp_path / "link.tif").parent == place_of(tmp_path / "folder")
    assert temporary_name(tmp_path / "a.tif") != temporary_name(tmp_path / "a.tif")


def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with claimed([tmp_path / "missing" / "a.tif"]):
        assert names(tmp_path) == []


def test_write_waits_for_another_that_writes_the_same_file_and_says_so_at_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "WAIT", 0.1)
    with claimed([tmp_path / "a.npy"]), pytest.raises(InputError) as caught:
        write(tmp_path / "a.npy", np.ones((2, 3, 4)))
    assert str(caught.value).startswith(f"{tmp_path / 'a.npy'}: another run is writing it")


def test_one_run_at_a_time_uses_a_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("in.npy", np.random.default_rng(0).random((11, 16, 16)))
    monkeypatch.setattr(
        sys, "argv", ["tensorcell", "recover", "in.npy", "out.npy", "--method", "diffusion", "--cache", "p"]
    )
    with claimed(["p"]), pytest.raises(SystemExit, match="2"):
        cli.main()
    assert "/p: another run is writing it" in capsys.readouterr().err
    assert names(tmp_path) == ["in.npy"]


@pytest.mark.parametrize("command", [("diagnose",), ("plan", "--axial-factors", "2")])
def test_one_run_at_a_time_makes_a_page_and_removes_what_killed_ones_left_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("in.npy", np.random.default_rng(0).random((11, 16, 16)))
    monkeypatch.setattr(sys, "argv", ["tensorcell", *command, "in.npy", "--html", "page.html"])
    Path("page.html").write_text("older")
    with claimed(["page.html"]), pytest.raises(SystemExit, match="2"):
        cli.main()
    refused = f"tensorcell: {tmp_path / 'page.html'}: another run is writing it; wait for it, or name another output\n"
    assert capsys.readouterr() == ("", refused)
    assert Path("page.html").read_text() == "older"
    temporary_name(tmp_path / "page.html").write_text("cut off")
    with pytest.raises(SystemExit, match="0"):
        cli.main()
    assert "</html>" in Path("page.html").read_text()
    assert names(tmp_path) == ["in.npy", "page.html"]
