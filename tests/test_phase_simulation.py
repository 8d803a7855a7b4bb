"""Simulated phase transitions: against a serial loop, resumed, refused."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest

from tensorcell.solvers import phase_store, planted_problems
from tensorcell.solvers.completion import complete_tucker
from tensorcell.solvers.phase_simulation import Cell, PhaseTransition, phase_transition
from tensorcell.solvers.tensors import unfold
from tensorcell.solvers.thresholds import empirical_threshold, read_table

SHAPE = (10, 11, 12)
SMALL: dict[str, Any] = {"trials": 3, "workers": 1}


def half_filled(data: npt.NDArray[Any], mask: npt.NDArray[np.bool_], rank: tuple[int, ...]) -> SimpleNamespace:
    """A method of known behaviour: right when at least half is observed (it peeks at nothing but the data)."""
    return SimpleNamespace(value=complete_tucker(data, mask, rank).value if mask.mean() >= 0.5 else data)


@pytest.fixture(scope="module")
def straight() -> PhaseTransition:
    """Two ranks and two ratios, in this process and without a file."""
    return phase_transition(SHAPE, [1, 2], [0.1, 0.4], **SMALL)


def test_phase_transition_equals_a_serial_loop_over_its_definition() -> None:
    ranks, ratios = [1, (2, 3, 2)], [0.08, 0.6]
    found = phase_transition(SHAPE, ranks, ratios, seed=5, trials=2, workers=1)
    for row, rank in enumerate([(1, 1, 1), (2, 3, 2)]):
        for column, ratio in enumerate(ratios):
            samples = round(ratio * 1320)
            wins = 0
            for trial in range(2):
                # Written out once more: core and factors, scale, permutation, in this order from this stream.
                rng = np.random.default_rng([5, 0, *SHAPE, *rank, samples, trial])
                factors = [np.linalg.qr(rng.standard_normal((n, r)))[0] for n, r in zip(SHAPE, rank, strict=True)]
                truth = np.einsum("abc,ia,jb,kc->ijk", rng.standard_normal(rank), *factors)
                truth /= np.sqrt((truth**2).mean())
                mask = (rng.permutation(1320) < samples).reshape(SHAPE)
                value = complete_tucker(np.where(mask, truth, 0), mask, rank).value
                wins += bool(((value - truth) ** 2).sum() < 1e-6 * (truth**2).sum())
            assert found.samples[row, column] == samples
            assert found.successes[row, column] == wins
    np.testing.assert_allclose(found.probability, found.successes / 2)
    assert found.degrees_of_freedom.tolist() == [31, 12 + 2 * 8 + 3 * 8 + 2 * 10]


def test_phase_transition_in_processes_equals_the_serial_one(straight: PhaseTransition) -> None:
    parallel = phase_transition(SHAPE, [1, 2], [0.1, 0.4], trials=3, workers=2)
    np.testing.assert_array_equal(straight.successes, parallel.successes)


def test_success_rises_with_the_samples_within_noise() -> None:
    found = phase_transition((12, 12, 12), [2], [0.04, 0.12, 0.25, 0.5], trials=5, workers=1)
    probability = found.probability[0]
    # Two shares of 5 trials each differ by up to .63 by chance (two standard deviations at 1/2).
    assert (np.diff(probability) > -0.65).all()
    assert probability[0] == 0  # 69 samples for 68 degrees of freedom
    assert probability[-1] == 1
    assert 69 <= found.threshold[0] <= 0.5 * 12**3
    np.testing.assert_allclose(found.oversampling, found.threshold / 68)


def test_cells_do_not_depend_on_which_others_there_are(straight: PhaseTransition) -> None:
    part = phase_transition(SHAPE, [2], [[0.1]], **SMALL)
    assert part.successes[0, 0] == straight.successes[1, 0]
    job = planted_problems.checked_job(None, SHAPE, "uniform", 3, 1e-3, 0.0, 0.0, 0)
    draws = [job, job._replace(seed=1), job._replace(pattern="lines")]
    cells = [planted_problems.planted(draw, (2, 2, 2), 120, trial)[0].sum() for draw in draws for trial in range(2)]
    assert len(set(cells)) == 6


@pytest.mark.parametrize(("pattern", "kept"), [("uniform", 1), ("planes", 132), ("lines", 12)])
def test_patterns_observe_whole_units(pattern: Any, kept: int) -> None:
    job = planted_problems.checked_job(None, SHAPE, pattern, 1, 1e-3, 0.0, 0.0, 0)
    samples = planted_problems.whole_samples(SHAPE, pattern, 0.3)
    assert samples % kept == 0
    assert abs(samples - 0.3 * 1320) <= kept / 2
    truth, data, mask = planted_problems.planted(job, (2, 3, 2), samples, 0)
    assert np.count_nonzero(mask) == samples
    np.testing.assert_array_equal(data, np.where(mask, truth, 0))
    if pattern == "planes":
        assert set(mask.reshape(10, -1).mean(axis=1)) == {0.0, 1.0}
    if pattern == "lines":
        assert set(mask.mean(axis=2).ravel()) == {0.0, 1.0}
    np.testing.assert_allclose((truth**2).mean(), 1, rtol=1e-12)
    assert [np.linalg.matrix_rank(unfold(truth, mode)) for mode in range(3)] == [2, 3, 2]


def test_noise_and_outliers_have_the_size_asked_for() -> None:
    clean = planted_problems.checked_job(None, (30, 30, 30), "uniform", 1, 1e-3, 0.0, 0.0, 0)
    truth, data, mask = planted_problems.planted(clean._replace(noise=0.2), (2, 2, 2), 20000, 0)
    # Standard error of a standard deviation from 20000 values: half a per cent; five of them.
    np.testing.assert_allclose((data - truth)[mask].std(), 0.2, rtol=0.025)
    assert not data[~mask].any()
    truth, data, mask = planted_problems.planted(clean._replace(outliers=0.1), (2, 2, 2), 20000, 0)
    off = np.abs(data - truth)[mask]
    assert np.count_nonzero(off) == 2000
    assert off[off > 0].min() >= 1
    assert off.max() <= 3


def test_planes_are_never_recovered_by_the_low_rank_model_alone() -> None:
    found = phase_transition(SHAPE, [1], [0.5, 0.9, 1.0], pattern="planes", **SMALL)
    assert found.samples.tolist() == [[5 * 132, 9 * 132, 1320]]
    assert found.successes.tolist() == [[0, 0, 3]]


def test_resuming_computes_nothing_twice_and_changes_nothing(tmp_path: Path, straight: PhaseTransition) -> None:
    path, seen = tmp_path / "table.h5", []

    def one_at_a_time(cell: Cell) -> bool:
        seen.append((cell.rank, cell.samples))
        assert (cell.done, cell.trials) == (1, 3)
        return True

    first = phase_transition(SHAPE, [1, 2], [0.1, 0.4], path=path, callback=one_at_a_time, **SMALL)
    assert (first.successes < 0).sum() == 3
    assert np.isnan(first.probability).sum() == 3
    for _ in range(3):
        last = phase_transition(SHAPE, [1, 2], [0.1, 0.4], path=path, callback=one_at_a_time, **SMALL)
    np.testing.assert_array_equal(last.successes, straight.successes)
    assert len(seen) == len(set(seen)) == 4
    before = path.read_bytes()
    again = phase_transition(SHAPE, [1, 2], [0.1, 0.4], path=path, callback=one_at_a_time, **SMALL)
    np.testing.assert_array_equal(again.successes, straight.successes)
    assert len(seen) == 4
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["table.h5"]


def test_a_file_holds_several_shapes_and_records_settings_and_versions(tmp_path: Path) -> None:
    path = tmp_path / "table.h5"
    phase_transition(SHAPE, [1], [0.3], path=path, **SMALL)
    phase_transition((9, 9), [1], [0.8], path=path, **SMALL)
    phase_transition(SHAPE, [1], [0.5], path=path, pattern="lines", **SMALL)
    with h5py.File(path) as file:
        assert sorted(file) == ["10x11x12 lines", "10x11x12 uniform", "9x9 uniform"]
        assert json.loads(file.attrs["settings"]) == {
            "method": "tensorcell.solvers.completion.complete_tucker",
            "trials": 3, "success": 1e-3, "noise": 0.0, "outliers": 0.0, "seed": 0,
        }  # fmt: skip
        assert json.loads(file.attrs["versions"])["numpy"] == np.__version__
    curves = read_table(path)
    assert [(curve.shape, curve.rank, curve.pattern) for curve in curves] == [
        (SHAPE, (1, 1, 1), "lines"), (SHAPE, (1, 1, 1), "uniform"), ((9, 9), (1, 1), "uniform"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"trials": 4}, "computed with trials 3, expected 4"),
        ({"success": 0.1}, r"computed with success 0\.001, expected 0\.1"),
        ({"seed": 1}, "computed with seed 0, expected 1"),
        ({"noise": 0.1}, r"computed with noise 0\.0, expected 0\.1"),
        ({"outliers": 0.1}, r"computed with outliers 0\.0, expected 0\.1"),
        ({"method": half_filled}, "computed with method .*complete_tucker, expected .*half_filled"),
    ],
)
def test_other_settings_are_refused(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    path = tmp_path / "table.h5"
    phase_transition((6, 6), [1], [0.9], path=path, **SMALL)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message):
        phase_transition((6, 6), [1], [0.9], path=path, **{**SMALL, **changed})
    assert path.read_bytes() == before


def test_an_interrupted_run_leaves_a_readable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "table.h5"
    phase_transition((6, 6), [1], [0.9], path=path, **SMALL)
    before = path.read_bytes()

    def broken(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", broken)
    with pytest.raises(KeyboardInterrupt):
        phase_transition((6, 6), [1], [0.5], path=path, **SMALL)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["table.h5"]


def test_other_methods_are_taken(tmp_path: Path) -> None:
    found = phase_transition((8, 8, 8), [1], [0.4, 0.6], method=half_filled, **SMALL)
    assert found.successes.tolist() == [[0, 3]]
    plain = partial(complete_tucker, robust=False)
    assert phase_store.method_name(plain) == "tensorcell.solvers.completion.complete_tucker(robust=False)"
    with pytest.raises(TypeError, match=r"expected a method that can be pickled for 2 workers, got .*lambda"):
        phase_transition((8, 8), [1], [0.4, 0.6], method=lambda *_: None, workers=2)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"shape": (10,)}, r"expected a shape of at least two whole positive sizes, got \(10,\)"),
        ({"shape": (10, 0)}, "expected a shape of at least two whole positive sizes"),
        ({"ranks": []}, "expected at least one rank, got none"),
        ({"ranks": [11]}, "rank 11 does not fit mode 0 of size 10"),
        ({"ratios": [0.0, 0.5]}, "expected ratios above 0 and at most 1, got 0 to 0.5"),
        ({"ratios": [math.nan]}, "expected ratios above 0 and at most 1"),
        ({"ratios": []}, r"expected ratios of shape \(columns,\) or \(1, columns\), got shape \(0,\)"),
        ({"ratios": [[0.1], [0.2]]}, r"expected ratios of shape .*, got shape \(2, 1\)"),
        ({"pattern": "dots"}, "expected pattern 'uniform', 'planes', 'lines', got 'dots'"),
        ({"trials": 0}, "expected trials as a whole number of at least 1, got 0"),
        ({"seed": -1}, "expected seed as a whole number of at least 0, got -1"),
        ({"success": 0.0}, "expected success as a relative error above 0, got 0"),
        ({"noise": -1.0}, "expected noise as a standard deviation of at least 0, got -1"),
        ({"outliers": 1.0}, "expected outliers as a share from 0 to below 1, got 1"),
        ({"workers": 0}, "expected workers as a whole number of at least 1, got 0"),
        ({"path": "/nowhere/at/all.h5"}, "expected path in a folder that exists, got /nowhere"),
    ],
)
def test_phase_transition_refuses_in_one_line(changed: dict[str, Any], message: str) -> None:
    arguments = {"shape": (10, 10), "ranks": [1], "ratios": [0.5], **changed}
    shape, ranks, ratios = (arguments.pop(name) for name in ("shape", "ranks", "ratios"))
    with pytest.raises(ValueError, match=message):
        phase_transition(shape, ranks, ratios, **arguments)


def test_a_method_that_is_no_function_is_refused() -> None:
    with pytest.raises(TypeError, match="expected method as a function of data, mask and rank, got 'em'"):
        phase_transition((10, 10), [1], [0.5], method="em")  # type: ignore[arg-type]


def test_files_of_others_are_refused(tmp_path: Path) -> None:
    text, foreign = tmp_path / "text.h5", tmp_path / "foreign.h5"
    text.write_text("not HDF5")
    with h5py.File(foreign, "w") as file:
        file["x"] = 1
    with pytest.raises(ValueError, match=r"got .*text\.h5, which cannot be read as one"):
        phase_transition((6, 6), [1], [0.9], path=text, **SMALL)
    with pytest.raises(ValueError, match=r"expected an HDF5 file with format .*, got .*foreign\.h5 without it"):
        phase_transition((6, 6), [1], [0.9], path=foreign, **SMALL)
    with pytest.raises(ValueError, match="expected path as a file, got the folder"):
        phase_transition((6, 6), [1], [0.9], path=tmp_path, **SMALL)
    with pytest.raises(ValueError, match="which cannot be read as one"):
        empirical_threshold((20, 20, 20), 2, table=tmp_path / "missing.h5")
