"""Finished stacks of a run in memory are kept: what a stopped run leaves is gone on with, bit for bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import call_here

import tensorcell as tc
from tensorcell import checkpoint, series
from tensorcell.checkpoint import Checkpoint, digest_of
from tensorcell.errors import InputError
from tensorcell.series import Window
from tensorcell.solvers import Status
from tensorcell.stack_recovery import StackResult

Find = Callable[..., Window]


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep every stack as soon as it is finished."""
    monkeypatch.setattr(checkpoint, "EVERY", 0.0)


SMALL: dict[str, Any] = {"group": 8, "reach": 1, "step": 4, "patch": 3}
"""Groups of few patches, which take little time."""


def frames(count: int = 5, gaps: float = 0.3) -> np.ndarray[Any, Any]:
    """A drifting texture with gaps, noise and one frame that cannot be recovered."""
    cells = tc.datasets.simulate_cells((6, 20, 20), cells=3, seed=1).truth
    rng = np.random.default_rng(2)
    moving = np.stack([np.roll(cells, t, axis=2) for t in range(count)])
    found = (moving + 0.1 * moving.std() * rng.standard_normal(moving.shape)).astype(np.float32)
    found[rng.random(found.shape) < gaps] = np.nan
    return found


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def stopped_after(monkeypatch: pytest.MonkeyPatch, count: int, run: Callable[[], Any]) -> None:
    """Interrupt a run when it begins another window after so many."""
    own, begun = series.recovered_window, [0]

    def found(*arguments: Any, **options: Any) -> Window:
        begun[0] += 1
        if begun[0] > count:
            raise KeyboardInterrupt
        return own(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(series, "recovered_window", found)
        with pytest.raises(KeyboardInterrupt):
            run()


def windows_of(monkeypatch: pytest.MonkeyPatch, run: Callable[[], Any]) -> tuple[Any, int]:
    """What a run gives, and how many windows it recovers."""
    own, begun = series.recovered_window, [0]

    def found(*arguments: Any, **options: Any) -> Window:
        begun[0] += 1
        return own(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(series, "recovered_window", found)
        return run(), begun[0]


def assert_same(one: tc.Recovery, other: tc.Recovery) -> None:
    for name in ("uncertainty", "measured", "outliers"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    np.testing.assert_array_equal(one.volume.data, other.volume.data)
    assert one.volume.data.dtype == other.volume.data.dtype
    assert (one.notes, one.rank, one.status, one.defects) == (other.notes, other.rank, other.status, other.defects)
    np.testing.assert_equal(one.noise, other.noise)  # NaN is equal to NaN
    assert dict(one.not_recovered) == dict(other.not_recovered)
    assert [(r.iteration, r.stage, r.change) for r in one.history] == [
        (r.iteration, r.stage, r.change) for r in other.history
    ]


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("together", [True, False])
def test_a_series_that_was_stopped_is_gone_on_with_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: bool
) -> None:
    """Frames that are recovered together pass on their unit, their notes and their brightness from window to window."""
    data = np.stack([frames(), frames()[::-1]])
    growing = 3e7 * 2.0 ** np.arange(5)  # in a unit that is not the caller's; a note says from all windows how it grows
    data *= growing.astype(np.float32)[:, None, None, None]
    data[1, 2] = np.nan
    monkeypatch.setattr(series, "WINDOW_VOXELS", 3 * data[0, 0].size)

    options: dict[str, Any] = {"frames": 4, **SMALL} if together else {"method": "tucker"}

    def run(**more: Any) -> tc.Recovery:
        return tc.recover(data, axes="CTZYX", rank=3, **options, **more)

    whole, windows = windows_of(monkeypatch, run)
    assert windows > 3
    # In the middle of the second channel, whose last window needs what the ones before it found.
    stopped_after(monkeypatch, windows - 1, lambda: run(checkpoint=tmp_path / "out"))
    found, left = windows_of(monkeypatch, lambda: run(checkpoint=tmp_path / "out"))
    assert left == 1
    assert_same(found, whole)
    assert hidden(tmp_path) == []


@pytest.mark.usefixtures("at_once")
def test_what_lies_there_must_be_of_the_same_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, out = frames(3), tmp_path / "out.tif"

    def run(values: Any = data, **options: Any) -> tc.Recovery:
        return tc.recover(values, axes="CZYX", method="fast", checkpoint=out, **options)

    stopped_after(monkeypatch, 2, run)
    before = hidden(tmp_path)
    assert before == [".out.tif.unfinished.journal", ".out.tif.unfinished.stacks"]
    other = data.copy()
    other[2, 3, 4, :] += 1
    for change, named in (((other,), "input"), ((), "options")):
        with pytest.raises(InputError, match=f"out.tif: .* another job: it differs in {named};"):
            run(*change, **({} if change else {"seed": 1}))
    with pytest.raises(InputError, match="an earlier run finished 2 stacks of it and was stopped; resume=True"):
        tc.recover(data, axes="CZYX", method="fast", checkpoint=Checkpoint(out))
    assert hidden(tmp_path) == before
    archive, _ = sorted((tmp_path / before[1]).iterdir())
    os.truncate(archive, archive.stat().st_size // 2)
    with pytest.raises(InputError, match=r"out.tif: what an earlier run kept of C=0 cannot be read .*--no-resume"):
        run()
    anew = tc.recover(data, axes="CZYX", method="fast", checkpoint=Checkpoint(out, resume=False))
    assert_same(anew, tc.recover(data, axes="CZYX", method="fast"))


def test_short_runs_and_single_stacks_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Checkpoint, "_keep", lambda _: pytest.fail("something was written"))
    tc.recover(frames(3), axes="CZYX", method="fast", checkpoint=tmp_path / "out")
    monkeypatch.setattr(checkpoint, "EVERY", 0.0)
    tc.recover(frames(1)[0], method="fast", checkpoint=tmp_path / "out")
    tc.recover(frames(3), axes="TZYX", checkpoint=tmp_path / "out", rank=3, **SMALL)  # one window
    assert hidden(tmp_path) == []


def window(size: int = 4, **fields: Any) -> Window:
    """A window of one small result."""
    values = np.zeros(size)
    nowhere = np.zeros(0, np.int64)
    given: dict[str, Any] = {"samples": None, "defects": {}} | fields
    result = StackResult(
        values, values, values > 0, nowhere, nowhere * 1.0, (1, 2, 3), Status.CONVERGED, (), 1.5, (), **given
    )
    return Window([result], None, [1.0], [])


def test_finished_stacks_are_written_when_they_are_large_and_before_minutes_have_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Checkpoint(tmp_path / "out")
    kept.begin({})
    assert kept.once(["a"], window).results[0].rank == (1, 2, 3)  # type: ignore[union-attr]
    kept.once(["b"], window)
    assert not kept.exists
    monkeypatch.setattr(checkpoint, "HELD", 100)
    kept.once(["c"], window)
    assert kept.exists
    assert Checkpoint(tmp_path / "out", resume=True).labels() == ["a", "b"]


@pytest.mark.usefixtures("at_once")
def test_all_fields_of_a_result_are_kept(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).random((2, 4)).astype(np.float32)
    first = window(samples=samples, defects={"hot": 3})
    first = first._replace(results=[*first.results, InputError("no")], notes=["said"], unit=series.Unit(2.0, 0.1))
    kept = Checkpoint(tmp_path / "out")
    kept.begin({"a": 1})
    kept.once(["T=0", "T=1"], lambda: first)
    kept.once(["T=2"], window)
    again = Checkpoint(tmp_path / "out", resume=True)
    again.begin({"a": 1})
    found = again.once(["T=0", "T=1"], lambda: pytest.fail("it was kept"))
    assert found[1:] == first[1:]
    one, refused = found.results
    assert str(refused) == "no"
    assert isinstance(one, StackResult)
    np.testing.assert_array_equal(one.samples, samples)
    for name, value in first.results[0]._asdict().items():  # type: ignore[union-attr]
        np.testing.assert_array_equal(getattr(one, name), value)


@pytest.mark.usefixtures("at_once")
def test_a_full_disk_ends_the_keeping_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    monkeypatch.chdir(tmp_path)
    np.save("in.npy", frames(3))
    assert call_here(monkeypatch, "recover", "in.npy", "out.npy", "--axes", "CZYX", "--method", "fast", "--json") == 0
    said = json.loads(capsys.readouterr().out)["notes"]
    assert "finished stacks could not be kept for another run to go on with: No space left on device" in said
    assert hidden(tmp_path) == []


def test_the_digest_sees_values_masks_and_byte_orders() -> None:
    data = np.arange(24.0).reshape(2, 3, 4)
    every = [data, data.astype(">f4"), np.flip(data, 2), tc.Volume(data, mask=data > 3), tc.Volume(data[None], "CZYX")]
    digests = [digest_of(one if isinstance(one, tc.Volume) else tc.Volume(one)) for one in every]
    assert len(set(digests[:4])) == 4
    assert digests[0] == digests[4] == digest_of(tc.Volume(np.asfortranarray(data)))


def test_what_was_begun_in_memory_is_gone_on_with_in_memory_unless_the_user_says_how_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoint, "EVERY", 0.0)
    volume = tc.Volume(frames(3), "CZYX")
    tc.write("in.npz", volume)
    stopped_after(monkeypatch, 2, lambda: tc.recover(volume, method="fast", checkpoint="out.npy"))
    monkeypatch.setattr("tensorcell.cli.in_parts.peak_of_recovery", lambda *_: 1e15)  # nothing fits
    command = ("recover", "in.npz", "out.npy", "--method", "fast")
    assert call_here(monkeypatch, *command) == 2
    assert "an earlier run finished 2 stacks" in capsys.readouterr().err
    assert call_here(monkeypatch, *command, "--resume", "--memory", "4GB") == 2
    assert "is another job: it differs in" in capsys.readouterr().err
    found, windows = windows_of(monkeypatch, lambda: call_here(monkeypatch, *command, "--resume"))
    assert (found, windows) == (0, 1)
    np.testing.assert_array_equal(np.load("out.npy"), tc.recover(volume, method="fast").volume.data)
    assert hidden(tmp_path) == []


KILLED = """
import os, signal, sys
from tensorcell import checkpoint, cli, series
checkpoint.EVERY = 0.0
own, begun = series.recovered_window, []
def found(*a, **k):
    begun.append(a)
    if len(begun) > 3:
        os.kill(os.getpid(), int(os.environ["SIGNAL"]))
    return own(*a, **k)
series.recovered_window = found
sys.argv = ["tensorcell", *sys.argv[1:]]
cli.main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_command_goes_on_where_it_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    monkeypatch.chdir(tmp_path)
    tc.write("in.npz", tc.Volume(frames(4), "TZYX"))
    words = ["--method", "tucker", "--rank", "3", "--outliers"]
    assert call_here(monkeypatch, "recover", "in.npz", "whole.npy", *words, "we.npy", "--json") == 0
    whole = json.loads(capsys.readouterr().out)
    command = ["recover", "in.npz", "out.npy", *words, "e.npy", "--json"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "SIGNAL": str(int(number))}
    run = subprocess.run(
        [sys.executable, "-c", KILLED, *command], env=environment, capture_output=True, text=True, timeout=300
    )
    if number == signal.SIGTERM:
        said = "3 finished stacks of out.npy are kept; the same command with --resume goes on"
        assert (run.returncode, run.stderr) == (143, f"tensorcell: interrupted; {said}\n")
    else:
        assert run.returncode == -number
    assert not Path("out.npy").exists()
    assert call_here(monkeypatch, *command) == 2
    assert "an earlier run finished 3 stacks of it and was stopped; resume=True (--resume)" in capsys.readouterr().err
    assert call_here(monkeypatch, *command, "--resume") == 0
    found = json.loads(capsys.readouterr().out)
    for one, other in (("out.npy", "whole.npy"), ("e.npy", "we.npy")):
        np.testing.assert_array_equal(np.load(one), np.load(other))
    changing = {"output", "seconds", "peak_memory_mib"}
    assert {k: v for k, v in found.items() if k not in changing} == {
        k: v for k, v in whole.items() if k not in changing
    }
    assert hidden(tmp_path) == []
