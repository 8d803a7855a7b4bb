"""Progress: estimates from shares and times, what a terminal shows, and the stages that a recovery tells."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from rich.console import Console

import tensorcell as tc
from tensorcell import progress
from tensorcell.methods.protocol import Stage
from tensorcell.methods.table import METHODS
from tensorcell.progress import CountBar, ProgressBar, Shown, drawn, words
from tensorcell.progress_estimate import RunEstimate, time_left
from tensorcell.solvers import IterationRecord
from tensorcell.stage_shares import SECONDS, SIZES, shares_of
from tensorcell.stages import INSIDE, NAMES, Plan, listening


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["gaps", "complete", "planes"])
@pytest.mark.parametrize("voxels", [1e4, *SIZES, 1e8])
def test_shares_of_stages_add_up_to_one(method: str, kind: str, voxels: float) -> None:
    shares = shares_of(method, kind, voxels)
    assert sum(shares.values()) == pytest.approx(1)
    assert min(shares.values()) >= 0
    assert set(shares) <= set(NAMES) - set(INSIDE)


def test_a_run_whose_stages_take_their_shares_is_estimated_exactly() -> None:
    clock = Clock()
    shares = {"noise": 0.1, "rank": 0.3, "patches": 0.4, "planes": 0.2}
    run = RunEstimate(shares, 2, usual=7.0, clock=clock)
    seen: list[tuple[float, float | None]] = []
    for _ in range(2):
        for outer in (("noise", "rank"), ("patches",), ("planes",)):
            if len(outer) > 1:
                run.began("model")
            for name in outer:
                run.began(name)
                clock.now += 100 * shares[name] / 2
                seen.append((clock.now, run.left()))
                run.ended(name)
                assert run.share() == pytest.approx(clock.now / 100, abs=0.011)
            if len(outer) > 1:
                run.ended("model")
    assert seen[0][1] is None  # too little is done to tell
    for now, left in seen[2:]:
        assert left == pytest.approx(100 - now, rel=0.2, abs=5)  # a stage at its end is given a little more


def test_a_repeated_stage_does_not_count_twice_and_an_endless_one_is_never_over() -> None:
    clock = Clock()
    run = RunEstimate({"noise": 0.2, "denoising": 0.8}, clock=clock)
    run.began("model")
    for _ in range(3):
        run.began("noise")
        clock.now += 10
        run.ended("noise")
    run.ended("model")
    assert run.share() == pytest.approx(0.2)
    run.began("denoising")
    assert run.left() == pytest.approx(120)
    shares = []
    for _ in range(50):
        clock.now += 100
        shares.append(run.share())
        assert (run.left() or 0) > 10
    assert shares == sorted(shares)
    assert shares[-1] < 1


def test_a_stage_without_a_share_does_not_slow_down_the_others() -> None:
    clock = Clock()
    run = RunEstimate({"noise": 0.5, "planes": 0.5}, clock=clock)
    for name, seconds in (("noise", 10), ("patches", 300)):
        run.began(name)
        clock.now += seconds
        run.step(0.5)
        if name == "patches":
            assert run.left() == pytest.approx(10)  # of the planes; nothing tells how long patches take
        run.ended(name)
    run.began("planes")
    clock.now += 4
    assert run.left() == pytest.approx(6)


def test_steps_of_a_stage_tell_more_than_its_usual_share() -> None:
    clock = Clock()
    bar = ProgressBar(enabled=False, clock=clock)
    bar.planned(Plan({"planes": 1.0}, [""], 10.0))
    bar.began("planes", "")
    clock.now = 60
    record = IterationRecord(
        iteration=5, stage="samples", change=0.1, residual=0.2, outliers=0, threshold=1.0, seconds=2.0
    )
    bar.update(record, Stage(5, 20))  # samples are the last fifth
    shown = bar.shown()
    assert (shown.title, shown.steps) == ("planes between: sampling", "step 5 of 20")
    assert shown.share == pytest.approx(0.85)
    assert shown.left == pytest.approx(60 * 0.15 / 0.85)


def test_a_budget_begins_with_what_it_is_for() -> None:
    clock = Clock()
    bar = ProgressBar(enabled=False, budget=20.0, clock=clock)
    clock.now = 30  # reading
    assert bar.shown()[:5] == ("reading and checking", "", None, None, None)
    bar.begin()
    clock.now = 35
    record = IterationRecord(
        iteration=5, stage="prior", change=0.1, residual=0.2, outliers=0, threshold=1.0, seconds=2.0
    )
    bar.update(record, Stage(5, 20))
    shown = bar.shown()
    assert (shown.title, shown.steps) == ("fitting a prior", "step 5 of 20, loss 0.200")
    assert (shown.share, shown.left) == (pytest.approx(0.25), pytest.approx(15))


def test_the_first_recovery_of_a_process_loads_what_is_compiled() -> None:
    first, later = shares_of("auto", "planes", 1e5, 1.0), shares_of("auto", "planes", 1e5)
    assert sum(first.values()) == pytest.approx(1)
    assert first["defects"] > 2 * later["defects"]


def test_titles_name_run_stack_and_stage() -> None:
    bar = ProgressBar(enabled=False, runs=("pixels", "planes"), clock=Clock())
    bar.planned(Plan({"noise": 1.0}, ["C=0", "C=1"], 10.0))
    bar.began("model", "C=1")
    bar.began("noise", "")
    assert bar.shown().title == "pixels: C=1 (2 of 2): noise"
    bar.ended("noise", 1)
    bar.ended("model", 1)
    assert bar.shown().title == "pixels: C=1 (2 of 2): model of the stack"  # until the next stage begins


def test_time_left_is_told_as_soon_as_a_tenth_is_done_of_a_stage_without_steps() -> None:
    clock = Clock()
    run = RunEstimate({"noise": 0.05, "denoising": 0.95}, clock=clock)
    run.began("noise")
    clock.now = 5
    assert run.left() is None
    run.ended("noise")
    run.began("denoising")
    assert run.left() is None
    clock.now = 15
    assert run.left() == pytest.approx(85)


@pytest.mark.parametrize("seconds", [0.0, 0.4, 7.9, 8.0, 57.9, 58.0, 61.0, 7199.0, 1e6])
def test_time_left_is_never_zero(seconds: float) -> None:
    assert " 0 " not in f" {time_left(seconds)} "
    assert time_left(seconds).endswith("left")


@pytest.mark.parametrize("long", [0, 5])
@pytest.mark.parametrize("width", [40, 60, 120])
def test_bars_fit_into_any_width(width: int, long: int) -> None:
    shown = Shown(
        "T=1 (2 of 8): groups of patches", "step 5 of 20, loss 1.234" + long * ", and more", 0.25, 0.42, 100.0, 75.0
    )
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=True, color_system=None).print(drawn(shown, width))
    lines = out.getvalue().splitlines()
    assert len(lines) == 3
    assert max(map(len, lines)) <= width
    assert lines[1].startswith("stage ")
    assert "step 5 of 20" in lines[1]
    assert "42 %, " in lines[2]
    assert "2 min left" in lines[2]
    assert lines[2].count("\u2501") >= 3  # there is a bar


def test_a_pipe_gets_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
    with CountBar("recoveries", 10, clock=Clock()) as bar:
        bar.at(5)
    assert capsys.readouterr() == ("", "")


def test_a_dumb_terminal_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    for name, expected in (("xterm", True), ("dumb", False)):
        monkeypatch.setenv("TERM", name)
        assert progress.is_terminal() is expected


def test_words_without_knowledge_say_the_time_that_has_passed() -> None:
    assert words(Shown("", "", None, None, None, 12.0)) == "12 s so far"
    assert words(Shown("", "", None, None, None, 12.0), short=True) == "12 s"


class Told:
    """What a recovery tells."""

    def __init__(self) -> None:
        self.plans: list[Plan] = []
        self.open: list[str] = []
        self.names: list[str] = []

    def planned(self, plan: Plan) -> None:
        self.plans.append(plan)

    def began(self, name: str, label: str) -> None:
        self.open.append(name)
        self.names.append(name)

    def ended(self, name: str, stacks: int) -> None:
        assert self.open.pop() == name


def _gaps(data: np.ndarray) -> np.ndarray:
    return np.where(np.random.default_rng(1).random(data.shape) < 0.5, data, np.nan)


@pytest.mark.parametrize("method", ["auto", "tucker", "fast"])
@pytest.mark.parametrize(
    ("made", "options"), [(_gaps, {}), (np.asarray, {}), (lambda data: data[::2], {"axial_factor": 2})]
)
def test_a_recovery_tells_the_stages_that_were_planned(
    method: str, made: Callable[[np.ndarray], np.ndarray], options: dict[str, int]
) -> None:
    cells = tc.datasets.simulate_cells((9, 24, 26), cells=4, peak_photons=100.0, seed=2)
    told = Told()
    with listening(told):
        tc.recover(made(cells.measured), method=method, rank=3, **options)
    (plan,) = told.plans
    assert told.open == []
    assert sum(plan.shares.values()) == pytest.approx(1)
    unforeseen = set(told.names) - set(plan.shares) - set(INSIDE)
    assert unforeseen <= {"rank", "neighbours", "trial", "curvature"}  # which take next to nothing there
    assert {"noise", "defects", "fit", "outliers"} <= set(told.names)


def test_times_are_of_methods_that_there_are() -> None:
    assert set(SECONDS) <= set(METHODS)
