"""The benchmarks that asv runs: they keep its rules, work on tiny volumes, skip what is not there; and their page."""

from __future__ import annotations

import importlib
import inspect
import itertools
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("threadpoolctl", reason="the benchmarks need it")

ROOT = Path(__file__).resolve().parents[1]
SUITE = sorted(path.stem for path in (ROOT / "benchmarks").glob("bench_*.py"))
MEASURES = re.compile(r"(time|track|peakmem)_.+")
Load = Callable[..., Any]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """A module of the folder ``benchmarks``, which is not installed, as it is where tiny volumes are asked for."""
    if not SUITE:
        pytest.skip(f"no benchmarks in {ROOT}")
    monkeypatch.syspath_prepend(str(ROOT))
    before = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "benchmarks"}
    for name in before:
        del sys.modules[name]

    def module(name: str, size: str = "small") -> Any:
        """Of one test, all modules have the size that it asked for first."""
        monkeypatch.setenv("TENSORCELL_BENCH_SIZE", size)
        return importlib.import_module(f"benchmarks.{name}")

    yield module
    for name in [name for name in sys.modules if name.split(".")[0] == "benchmarks"]:
        del sys.modules[name]
    sys.modules.update(before)


def benchmarks_of(module: Any) -> list[type]:
    """The classes that asv finds in a module."""
    public = [kind for name, kind in vars(module).items() if not name.startswith("_")]
    classes = [kind for kind in public if inspect.isclass(kind) and kind.__module__ == module.__name__]
    return [kind for kind in classes if any(MEASURES.match(name) for name in dir(kind))]


def parameters_of(kind: Any) -> list[tuple[Any, ...]]:
    """Their values, one tuple a parameter; asv takes one list for one parameter, too."""
    given = getattr(kind, "params", ())
    nested = bool(given) and isinstance(given[0], list | tuple)
    return [tuple(values) for values in (given if nested else (given,) if given else ())]


def ran_and_skipped(kind: Any, **fixed: Any) -> tuple[int, list[str]]:
    """Set up and run all that a class measures, for all values of its parameters; how often, and why not."""
    ran, reasons = 0, []
    for values in itertools.product(*parameters_of(kind)):
        named = dict(zip(getattr(kind, "param_names", ()), values, strict=True))
        if any(named[name] != value for name, value in fixed.items()):
            continue
        benchmark = kind()
        try:
            benchmark.setup(*values)
            for name in filter(MEASURES.match, dir(kind)):
                found = getattr(benchmark, name)(*values)
                assert found is None or isinstance(found, float), (name, values)
                ran += 1
        except NotImplementedError as reason:
            reasons.append(str(reason))
        finally:
            getattr(benchmark, "teardown", lambda *_: None)(*values)
    return ran, reasons


@pytest.mark.parametrize("name", SUITE)
def test_parameters_fit_their_names_and_all_functions(load: Load, name: str) -> None:
    found = benchmarks_of(load(name, "full"))
    assert found
    for kind in found:
        values = parameters_of(kind)
        assert len(values) == len(getattr(kind, "param_names", ())), kind
        cached = ({},) if hasattr(kind, "setup_cache") else ()
        for function in ("setup", *filter(MEASURES.match, dir(kind))):
            inspect.signature(getattr(kind, function)).bind(None, *cached, *(value[0] for value in values))


@pytest.mark.parametrize("name", SUITE)
def test_one_value_of_each_parameter_is_left_where_ci_runs_them(load: Load, name: str) -> None:
    for kind in benchmarks_of(load(name, "one")):
        assert [len(values) for values in parameters_of(kind)] == [1] * len(parameters_of(kind)), kind


def test_an_unknown_size_is_refused(load: Load) -> None:
    with pytest.raises(ValueError, match="expected TENSORCELL_BENCH_SIZE to be one of full, small, one, got 'huge'"):
        load("problems", "huge")


def test_algebra_of_both_libraries_runs(load: Load) -> None:
    ran, reasons = ran_and_skipped(load("bench_algebra").Algebra, backend="numpy")
    assert ran == 2 * 2 * 3 * 2 * 5
    assert not reasons


def test_every_completion_method_runs_and_says_its_error(load: Load) -> None:
    module = load("bench_completion")
    ran, reasons = ran_and_skipped(module.FixedWork, backend="numpy", problem="a")
    assert ran == 4 * len(module.METHODS)
    assert not reasons


@pytest.mark.parametrize("form", [(False, 8), (True, 5)])
def test_files_of_every_format_are_written_and_read(load: Load, form: tuple[bool, int]) -> None:
    for library in ("zarr", "mrcfile"):
        pytest.importorskip(library, reason="needs the extra 'formats'")
    ran, reasons = ran_and_skipped(load("bench_files").Files, compress=form[0])
    assert ran == 6 * form[1]
    assert len(reasons) == 8 - form[1]


def test_recover_is_compared_with_peers_that_suit_the_case(load: Load) -> None:
    kind = load("bench_recover").Recover
    assert ran_and_skipped(kind, method="median", case="pixels-50", backend="numpy") == (4, [])
    assert ran_and_skipped(kind, method="tv", case="pixels-50", backend="numpy") == (0, ["tv is not for gaps"])


def test_what_needs_a_gpu_is_skipped_without_one(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tensorcell.device.cuda_problem", lambda: "no GPU found")
    assert set(ran_and_skipped(load("bench_sweep").Sweep, backend="cupy")[1]) == {"no GPU found"}
    ran, reasons = ran_and_skipped(load("bench_recover").Recover, backend="cupy", method="auto")
    assert ran == 0
    assert set(reasons) == {"no GPU found"}


def test_what_needs_a_missing_module_is_skipped(load: Load) -> None:
    with pytest.raises(NotImplementedError, match="module_that_is_not_there is not installed"):
        load("measure").require("math", "module_that_is_not_there")


def test_the_setting_found_is_the_first_that_meets_its_error(load: Load) -> None:
    """The search for a method with a tolerance, against running down the list of tolerances by hand."""
    module = load("bench_completion")
    problem = module.sized_problem("a")
    found = module.settings_that_meet("complete-plain", problem)
    assert set(found) == set(module.TARGETS)
    method = module.COMPARED["complete-plain"]
    solve = method.prepare(problem)
    errors = {setting: problem.relative_error(solve(setting).estimate) for setting in method.settings(problem, 0)}
    for target, setting in found.items():
        assert setting == max(tried for tried, error in errors.items() if error <= target)


def test_a_method_is_timed_with_the_setting_that_was_found_for_it(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    module = load("bench_completion")
    benchmark = module.ToErrorOutliers()
    benchmark.setup({("complete", "b", 1e-4): 1e-5}, "complete", "b", 1e-4)
    assert benchmark.setting == 1e-5
    assert benchmark.track_error() <= 1e-4
    with pytest.raises(NotImplementedError, match=r"admm does not come to 1e-06 on \(b\)"):
        benchmark.setup({}, "admm", "b", 1e-6)
    monkeypatch.setattr(module, "importable", lambda package: package != "tensorly")
    with pytest.raises(NotImplementedError, match="tensorly is not installed"):
        benchmark.setup({}, "robust-pca", "b", 1e-6)
    assert module.all_settings(["robust-pca"], ["b"]) == {}
    lines = {kind.setup_cache.__code__.co_firstlineno for kind in (module.ToError, module.ToErrorOutliers)}
    assert len(lines) == 2  # one line would be one cache to asv


def results_of_asv(folder: Path, commit: str = "abc") -> None:
    """Results as asv 0.6 stores them: one entry a benchmark, its values in the order of the product of parameters."""
    name = "bench_files.Files.time_read"
    values = {"result": [0.1, 0.2, None, 0.4], "params": [["'tif'", "'npy'"], ["False", "True"]], "version": "1"}
    machine = {"commit_hash": commit, "python": "3.11", "params": {"cpu": "a processor", "num_cpu": "2"}}
    (folder / "host").mkdir(parents=True, exist_ok=True)
    (folder / "host" / "machine.json").write_text("{}")
    file = folder / "host" / f"{commit}-env.json"
    results = {"result_columns": [*values, "started_at"], "results": {name: list(values.values())}}
    file.write_text(json.dumps({**machine, **results}))
    known = {name: {"param_names": ["format", "compress"]}, "version": 2}
    (folder / "benchmarks.json").write_text(json.dumps(known))


def test_the_page_holds_each_value_in_its_place_and_leaves_out_what_was_not_measured(
    load: Load, tmp_path: Path
) -> None:
    module = load("draw_results")
    results_of_asv(tmp_path)
    (panel,) = module.panels(module.newest(tmp_path), module.parameter_names(tmp_path))
    assert panel.title == "Reading 34 MB"
    assert [(dot.row, dot.mark, dot.value, dot.ours) for dot in panel.dots] == [
        ("tif", "compress False", 0.1, True),
        ("tif", "compress True", 0.2, True),
        ("npy", "compress True", 0.4, False),
    ]
    assert [module.label(dot, panel) for dot in panel.dots] == ["0.1 s", "0.2 s", "2×"]
    module.main([str(tmp_path / "page.png"), "--results", str(tmp_path)])
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")


def test_results_of_a_commit_are_found_and_others_refused(load: Load, tmp_path: Path) -> None:
    module = load("draw_results")
    results_of_asv(tmp_path, "abc")
    results_of_asv(tmp_path, "def")
    assert module.newest(tmp_path, "ab")["commit_hash"] == "abc"
    with pytest.raises(SystemExit, match="of commit 123, got none"):
        module.newest(tmp_path, "123")


def test_every_question_of_the_page_is_a_benchmark(load: Load) -> None:
    """A benchmark that was renamed would leave the page in silence."""
    for question in load("draw_results").QUESTIONS:
        module, kind, function = question.benchmark.split(".")
        found = getattr(load(module), kind)
        assert hasattr(found, function), question
        assert {question.marks, question.split} - {None} <= set(found.param_names), question
        assert question.ours is None or question.ours in parameters_of(found)[0], question
