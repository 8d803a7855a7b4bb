"""The table of methods: what reads it, and that a new line is enough for a new method."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

import tensorcell as tc
from tensorcell.cli import flags
from tensorcell.fitting import TuckerOptions
from tensorcell.methods import table
from tensorcell.methods.kriging import between_by_kriging
from tensorcell.methods.protocol import Estimate, Method, Problem
from tensorcell.solvers import LocalOptions, Status


@dataclass(frozen=True, kw_only=True)
class OffsetOptions:
    shift: float = field(default=1.5, metadata={"help": "What is added."})
    sides: int | tuple[int, int, int] = field(default=(1, 2, 3), metadata={"help": "Three sides."})
    loud: bool = field(default=False, metadata={"help": "Says more."})
    hidden: str = field(default="", metadata={"help": "Not for the command line.", "flag": False})


def shifted(problem: Problem) -> Estimate:
    """Every voxel of the measured planes as it is, plus something."""
    value = problem.stack.values + np.float32(problem.option(OffsetOptions).shift)
    note = f"shifted {problem.label or 'the stack'}"
    return Estimate(value, np.ones_like(value), Status.COMPLETED, problem.model.fit.history, (note,))


DUMMY = Method(
    name="shift", summary="Adds something.", options=(TuckerOptions, OffsetOptions), estimate=shifted,
    between=between_by_kriging, stages={"shift": "shifting"},
)  # fmt: skip


@pytest.fixture
def dummy(monkeypatch: pytest.MonkeyPatch) -> Method:
    monkeypatch.setitem(table.METHODS, "shift", DUMMY)  # type: ignore[arg-type]
    return DUMMY


STACK = np.random.default_rng(0).random((6, 16, 16)).astype(np.float32)


def test_a_line_in_the_table_is_a_method_of_recover(dummy: Method) -> None:
    result = tc.recover(STACK, method="shift", shift=0.125, keep_measured=False)
    np.testing.assert_array_equal(result.volume.data, STACK + np.float32(0.125))
    assert result.status is Status.COMPLETED
    assert "shifted the stack" in result.notes


def test_kept_voxels_planes_and_stacks_are_done_for_a_method(dummy: Method) -> None:
    two = np.stack([STACK, STACK + 1])
    result = tc.recover(two, axes="CZYX", axial_factor=2, method="shift")
    assert result.volume.shape == (2, 11, 16, 16)
    np.testing.assert_array_equal(result.volume.data[:, ::2], two)  # kept bit for bit, whatever the method made
    assert result.notes[0] == "C=0: shifted C=0"
    assert (result.uncertainty > 0).all()


def test_flags_are_the_fields_of_the_option_classes(dummy: Method) -> None:
    @flags.with_flags({"shift": dummy})
    def command(source: str, **given: object) -> None: ...

    parameters = inspect.signature(command).parameters
    assert list(parameters) == [
        "source", "robust", "tolerance", "max_iterations", "neighbours", "shift", "sides", "loud"
    ]  # fmt: skip
    options = {name: p.annotation.__metadata__[0] for name, p in parameters.items() if name != "source"}
    assert options["shift"].help == "What is added. Default: 1.5."
    assert options["sides"].help == "Three sides. Default: 1,2,3."
    assert options["loud"].help == "Says more."
    assert options["loud"].rich_help_panel == "Options of every method"
    methods = {**table.METHODS, "shift": dummy}
    (loud,) = (
        flags.flag_of("loud", homes, methods) for name, homes in flags.homes_of(methods).items() if name == "loud"
    )
    assert loud.annotation.__metadata__[0].rich_help_panel == "Options of --method shift"
    assert options["robust"].default == "--robust/--no-robust"  # where typer keeps the first name of a flag
    assert options["loud"].default == "--loud"


def test_given_flags_become_options(dummy: Method) -> None:
    given = {"shift": 3.0, "sides": "4,5,6", "loud": None}
    assert flags.given_options({"shift": dummy}, "shift", given) == {"shift": 3.0, "sides": (4, 5, 6)}
    with pytest.raises(tc.InputError, match=r"expected one whole number or three \(z,y,x\) for --sides, got '1,x'"):
        flags.given_options({"shift": dummy}, "shift", {"sides": "1,x"})
    with pytest.raises(tc.InputError, match="expected --method shift with --shift, got --method tucker"):
        flags.given_options({**table.METHODS, "shift": dummy}, "tucker", {"shift": 1.0})


def test_every_option_of_the_solvers_is_a_flag(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tensorcell import cli

    monkeypatch.setattr(sys, "argv", ["tensorcell", "recover", "--help"])
    monkeypatch.setenv("COLUMNS", "300")
    with pytest.raises(SystemExit):
        cli.main()
    said = capsys.readouterr().out
    for kind in (TuckerOptions, LocalOptions):
        for each in dataclasses.fields(kind):
            assert f"--{each.name.replace('_', '-')}" in said
            assert each.metadata["help"].split(".")[0][:40] in said


def test_options_reach_the_solver_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorcell import cli
    from tensorcell.cli import in_memory

    seen: dict[str, object] = {}
    np.save(tmp_path / "in.npy", STACK)

    def spy(*data: object, **options: object) -> tc.Recovery:
        seen.update(options)
        raise tc.InputError("seen enough")

    monkeypatch.setattr(in_memory, "recover", spy)
    monkeypatch.setattr(sys, "argv", [
        "tensorcell", "recover", str(tmp_path / "in.npy"), str(tmp_path / "out.npy"), "--patch", "3,4,4",
        "--sweeps", "2", "--no-robust", "--tolerance", "0.05",
    ])  # fmt: skip
    with pytest.raises(SystemExit):
        cli.main()
    assert {name: seen[name] for name in ("patch", "sweeps", "robust", "tolerance")} == {
        "patch": (3, 4, 4), "sweeps": 2, "robust": False, "tolerance": 0.05
    }  # fmt: skip


def test_what_a_method_needs_is_said_before_the_work() -> None:
    poor = dataclasses.replace(DUMMY, needs=("no_such_module",), extra="rare")
    message = r'method "shift": expected no_such_module \(pip install "tensorcell\[rare\]"\), found none'
    with pytest.raises(tc.InputError, match=message):
        poor.check_installed()
