"""--crop and --preview: which part is read, what of the metadata belongs to it, and what is refused."""

from __future__ import annotations

import json
import logging
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import call, write_stack

import tensorcell as tc
from tensorcell.cli import preview
from tensorcell.cropping import box_of, cropped, cropped_mask, preview_box
from tensorcell.large.measured import opened_mask
from tensorcell.lazy_volume import LazyVolume


def lazy(shape: tuple[int, ...], axes: str, **further: Any) -> LazyVolume:
    return LazyVolume(np.arange(math.prod(shape), dtype=np.float32).reshape(shape), axes, **further)


@pytest.mark.parametrize(
    ("shape", "axes", "text", "where"),
    [
        ((9, 8, 7), "ZYX", "2:5,:,1:", np.s_[2:5, :, 1:]),
        ((9, 8, 7), "ZYX", "-3:,:-1,-2:-1", np.s_[-3:, :-1, -2:-1]),
        ((9, 8, 7), "ZYX", " 0 : 9 , 8, 3", np.s_[0:9, 0:8, 2:5]),
        ((8, 7), "YX", "1:2,:", np.s_[1:2, :]),
        ((8, 7, 9), "YXZ", "2:5,1:4,:", np.s_[1:4, :, 2:5]),  # the order is z, y, x whatever that of the file is
        ((3, 9, 8, 7), "TZYX", "2:5,:,1:", np.s_[:, 2:5, :, 1:]),
        ((3, 9, 2, 8, 7), "TZCYX", "1:2,:,2:5,:,1:", np.s_[1:2, 2:5, :, :, 1:]),
    ],
)
def test_a_text_names_a_box_as_python_does(shape: tuple[int, ...], axes: str, text: str, where: Any) -> None:
    volume = lazy(shape, axes)
    part = cropped(volume, box_of(text, volume))
    np.testing.assert_array_equal(part.part((slice(None),) * len(axes)).data, np.asarray(volume.data)[where])
    np.testing.assert_array_equal(part.data[(0,) * len(axes)], np.asarray(volume.data)[where][(0,) * len(axes)])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("5:5,:,:", "takes nothing along Z, of 9"),
        ("6:2,:,:", "takes nothing along Z, of 9"),
        (":,:,5:99", "99 along X lies outside, expected within 0 to 7"),
        (":,-9:,:", "-9 along Y lies outside, expected within 0 to 8"),
        (":,:", "expected --crop z0:z1,y0:y1,x0:x1 for a volume of 9 x 8 x 7 ZYX, got ':,:'"),
        ("a:b,:,:", "expected start:stop or a number along Z in --crop, got 'a:b'"),
        (",:,:", "expected start:stop or a number along Z in --crop, got ''"),
        ("1:4:2,:,:", "expected start:stop or a number along Z in --crop, got '1:4:2'"),
        ("0,:,:", "expected at least 1 of 9 along Z"),
    ],
)
def test_a_wrong_crop_is_one_line(text: str, said: str) -> None:
    with pytest.raises(tc.InputError, match=re.escape(said)):
        box_of(text, lazy((9, 8, 7), "ZYX"))


def test_metadata_are_those_of_the_part() -> None:
    metadata = {
        "channel_names": ["a", "b"],
        "planes": {"PositionZ": list(range(8)), "odd": [1, 2]},
        "origin": [10.0, 0.0, 1.0],
        "channel_colors": [1, 2, 3],
    }
    volume = lazy((2, 4, 8, 8), "CZYX", spacing=(0.5, 0.2, 0.1), metadata=metadata)
    part = cropped(volume, box_of("1:2,1:3,4:,:", volume))
    assert part.spacing == volume.spacing
    assert part.metadata["channel_names"] == ["b"]
    assert part.metadata["planes"] == {"PositionZ": [5, 6], "odd": [1, 2]}
    assert part.metadata["channel_colors"] == [1, 2, 3]  # which is not said of two channels
    assert part.metadata["origin"] == pytest.approx([10.5, 0.8, 1.0])
    assert part.metadata["notes"] == ["only 1:2, 1:3, 4:8, 0:8 (CZYX) of 2 x 4 x 8 x 8 was read"]
    assert "notes" not in volume.metadata


def test_only_the_part_is_read(tmp_path: Path) -> None:
    class Counted:
        shape, dtype = (50, 400, 400), np.dtype(np.uint16)
        read = 0

        def __getitem__(self, where: Any) -> np.ndarray:
            found = np.empty(self.shape, self.dtype)[where]
            Counted.read += found.size
            return found

    volume = LazyVolume(Counted())
    part = cropped(volume, box_of("3:5,10:20,30:40", volume))
    assert Counted.read == 0
    assert part.part((slice(None),) * 3).shape == (2, 10, 10)
    assert Counted.read == 200


@pytest.mark.parametrize(
    ("shape", "axes"),
    [((9, 3000, 2000), "ZYX"), ((200, 40, 41), "ZYX"), ((5, 2, 60, 500, 500), "TCZYX"), ((3000, 2000), "YX")],
)
def test_a_preview_has_about_the_voxels_that_are_wanted(shape: tuple[int, ...], axes: str) -> None:
    volume = LazyVolume(np.broadcast_to(np.uint8(0), shape), axes)
    box = preview_box(volume, 60_000)
    sizes = [each.stop - each.start for each in box]
    assert 30_000 < math.prod(sizes) < 70_000
    for each, size in zip(box, shape, strict=True):
        assert abs(each.start - (size - each.stop)) <= 1  # the middle
    if "T" in axes:
        assert sizes[axes.index("T")] == 1


@pytest.fixture
def files(tmp_path: Path) -> Path:
    return write_stack(tmp_path, (8, 40, 42), cells=6)


def test_recover_takes_a_part_with_its_mask_and_origin(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given, mask = tc.read(files / "in.tif").data[2:, 10:, :30], tc.read(files / "mask.tif").data[2:, 10:, :30] > 0
    words = ("recover", "in.tif", "-o", "out.ome.tif", "--crop", "2:,10:,:30", "--mask", "mask.tif")
    assert call(monkeypatch, files, *words, "--method", "fast", "--no-robust", "--json", "--outliers", "e.npy") == 0
    out, err = capsys.readouterr()
    assert err == ""
    facts = json.loads(out)
    assert facts["shape"] == [6, 30, 30]
    assert "only 2:8, 10:40, 0:30 (ZYX) of 8 x 40 x 42 was read" in facts["notes"]
    result = tc.read(files / "out.ome.tif")
    assert result.spacing == pytest.approx((0.5, 0.2, 0.1))
    assert result.metadata["origin"] == pytest.approx([1.0, 2.0, 0.0])
    kept = mask & (np.load(files / "e.npy") == 0)
    np.testing.assert_array_equal(result.data[kept], given[kept])


def test_recover_in_parts_takes_a_part(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given, mask = tc.read(files / "in.tif").data[2:, 10:, :30], tc.read(files / "mask.tif").data[2:, 10:, :30] > 0
    words = ("recover", "in.tif", "out.npy", "--crop", "2:,10:,:30", "--memory", "600MB", "--method", "tucker")
    monkeypatch.setattr("tensorcell.cli.recover_command.goes_in_parts", lambda *_: True)
    assert call(monkeypatch, files, *words, "--rank", "3", "--json", "--mask", "mask.tif", "--outliers", "e.npy") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["shape"] == [6, 30, 30]
    assert facts["measured"] == mask.sum()
    kept = mask & (np.load(files / "e.npy") == 0)
    np.testing.assert_array_equal(np.load(files / "out.npy")[kept], given[kept])


def test_a_mask_is_cropped_along_the_axes_that_it_has_and_must_fit_the_whole() -> None:
    volume = lazy((2, 4, 8, 9), "CZYX")
    mask = LazyVolume(np.arange(72).reshape(8, 9), "YX")
    part = cropped_mask(opened_mask(mask, volume), volume, box_of("1:3,2:5,4:", volume))
    np.testing.assert_array_equal(part.part((slice(None),) * 2).data, np.asarray(mask.data)[2:5, 4:])
    with pytest.raises(tc.InputError, match=re.escape("mask has shape (8, 9) (YX), data has (3, 5)")):
        opened_mask(mask, cropped(volume, box_of("1:3,2:5,4:", volume)))


@pytest.mark.parametrize(
    "command",
    [("recover", "in.tif", "out.tif"), ("diagnose", "in.tif"), ("plan", "in.tif"), ("evaluate", "in.tif", "-o", "e")],
)
@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--crop", "9:,:,:"), "9 along Z lies outside, expected within 0 to 8"),
        (("--crop", "3:3,:,:"), "takes nothing along Z, of 8"),
        (("--crop", ":,:,:", "--preview"), "expected --crop or --preview, got both"),
    ],
)
def test_every_command_refuses_a_wrong_part(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: Any, more: Any, said: str
) -> None:
    assert call(monkeypatch, files, *command, *more) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err


def test_a_preview_says_what_it_took(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(preview, "LEAST", 1)
    monkeypatch.setattr(preview, "MOST", 8 * 33 * 33)
    monkeypatch.setattr(preview, "slowness", lambda: 1.0)
    assert call(monkeypatch, files, "diagnose", "in.tif", "--preview", "--rank", "3") == 0
    out, err = capsys.readouterr()
    same = re.search(r"preview: only .* \(ZYX\) of 8 x 40 x 42 was read, as by --crop (\S+)\n", err)
    assert same is not None
    assert call(monkeypatch, files, "diagnose", "in.tif", "--crop", same[1], "--rank", "3") == 0
    assert capsys.readouterr().out == out


def test_a_slow_machine_previews_less(monkeypatch: pytest.MonkeyPatch) -> None:
    volume = LazyVolume(np.broadcast_to(np.uint8(0), (99, 999, 999)))
    found = []
    for slow in (1.0, 3.0):
        monkeypatch.setattr(preview, "slowness", lambda slow=slow: slow)
        found.append(preview.voxels_in_time("auto")(volume))
    assert preview.LEAST < found[1] < 0.5 * found[0]


# ------------------------------------------------------------------------------------------- options of all commands

COMMANDS = ("recover", "diagnose", "plan", "evaluate", "train", "demo")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_short_options_and_examples_that_the_readme_has(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tensorcell.cli.examples import EXAMPLES

    monkeypatch.setenv("COLUMNS", "140")
    assert call(monkeypatch, tmp_path, command, "-h") == 0
    shown = capsys.readouterr().out
    for name in ("-h", "-o", "-q", "-v"):
        assert re.search(rf"\s{name}\s", shown), name
    readme = (Path(__file__).resolve().parents[1] / "README.md").read_text().splitlines()
    for example in EXAMPLES[command]:
        assert " ".join(example.split()) in " ".join(shown.split())
        assert example in readme or example == "tensorcell demo"


def test_values_and_defaults_of_options_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tensorcell.methods.table import METHODS
    from tensorcell.solvers import LocalOptions

    monkeypatch.setenv("COLUMNS", "200")
    assert call(monkeypatch, tmp_path, "recover", "--help") == 0
    shown = capsys.readouterr().out
    assert "|".join(METHODS) in shown
    assert "input|uint8|uint16|float32|..." in shown
    line = next(each for each in shown.splitlines() if "--sweeps" in each)
    assert f"Default: {LocalOptions().sweeps}." in line
    names = re.findall(r"^│ (--[a-z-]+)", shown, re.M)
    assert len(names) == len(set(names)) > 40  # each is documented once


def test_defaults_of_commands_are_those_in_python() -> None:
    """What is given in both places has one default."""
    import inspect

    from tensorcell.cli.parsing import list_of
    from tensorcell.diagnosis import diagnose
    from tensorcell.evaluation import evaluate
    from tensorcell.planning import plan

    for name, function in (("recover", tc.recover), ("diagnose", diagnose), ("plan", plan), ("evaluate", evaluate)):
        command = __import__(f"tensorcell.cli.{name}_command", fromlist=[name])
        ours = {key: each.default for key, each in inspect.signature(getattr(command, name)).parameters.items()}
        theirs = {key: each.default for key, each in inspect.signature(function).parameters.items()}
        for key in set(ours) & set(theirs):
            default = theirs[key]
            if isinstance(default, tuple):
                assert list_of(ours[key], key, type(default[0])) == tuple(default)
            elif default != "auto" and ours[key] != "all":
                assert ours[key] == default, f"{name} {key}"


@pytest.mark.parametrize(
    ("words", "expected"),
    [("recover in.tif out.tif --method l", ["local"]), ("evaluate in.tif --methods linear,loc", ["linear,local"])],
)
def test_shells_complete_names(
    words: str, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_TENSORCELL_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"tensorcell {words}")
    monkeypatch.setenv("COMP_CWORD", str(len(words.split())))
    assert call(monkeypatch, tmp_path) == 0
    assert capsys.readouterr().out.split() == expected


def test_verbose_shows_what_is_logged_and_nothing_else_does(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tensorcell.cli import in_memory

    real = in_memory.recover

    def logged(*arguments: Any, **options: Any) -> Any:
        logging.getLogger("tensorcell.model").info("the rank took 2 s")
        return real(*arguments, **options)

    monkeypatch.setattr(in_memory, "recover", logged)
    for more, expected in ((("-v",), True), ((), False)):
        words = ("recover", "in.tif", "out.tif", "--method", "fast", "--crop", "8,24,24", "-q", *more)
        assert call(monkeypatch, files, *words) == 0
        out, err = capsys.readouterr()
        assert out == ""
        assert bool(re.search(r"^\d\d:\d\d:\d\d the rank took 2 s$", err, re.M)) is expected
