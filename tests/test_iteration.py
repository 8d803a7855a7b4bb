"""The loop, its records, and the result that every method returns."""

from __future__ import annotations

import dataclasses
import math
import time
from typing import Any

import numpy as np
import pytest
import tensorly
from tensorly.tucker_tensor import TuckerTensor

from tensorcell.solvers import CompletionResult, IterationRecord, SparsePart, Status, tucker_to_dense
from tensorcell.solvers.iteration import Measures, iterate


def halve(state: float) -> tuple[float, Measures]:
    """A step whose change is the new state."""
    return state / 2, Measures(change=state / 2, residual=state, outliers=3, threshold=0.25)


def run(step: Any = halve, **options: Any) -> tuple[float, Status, tuple[IterationRecord, ...]]:
    """The loop from 1.0 with settings that each test overrides."""
    settings: dict[str, Any] = {"stage": "test", "tolerance": 0.1, "max_iterations": 20}
    return iterate(step, 1.0, **(settings | options))


def test_iterate_stops_at_the_tolerance() -> None:
    state, status, records = run(tolerance=0.125)  # 1/8 is exact: at the tolerance counts as below
    assert (state, status, len(records)) == (0.125, Status.CONVERGED, 3)


def test_iterate_stops_at_the_largest_number() -> None:
    state, status, records = run(tolerance=0.0, max_iterations=4)
    assert (state, status, len(records)) == (1 / 16, Status.MAX_ITERATIONS, 4)


def test_iterate_records_what_the_step_measured() -> None:
    _, _, records = run(max_iterations=2)
    for count, record in enumerate(records, start=1):
        assert dataclasses.replace(record, seconds=0.0) == IterationRecord(
            iteration=count, stage="test", change=2.0**-count, residual=2.0 ** (1 - count), outliers=3,
            threshold=0.25, seconds=0.0,
        )  # fmt: skip


def test_iterate_passes_the_new_state_to_the_callback_which_stops() -> None:
    seen = []

    def callback(record: IterationRecord, state: float) -> bool:
        seen.append((record.iteration, state))
        return record.iteration == 2

    state, status, records = run(callback=callback)
    assert seen == [(1, 0.5), (2, 0.25)]
    assert (state, status, len(records)) == (0.25, Status.STOPPED, 2)


def test_iterate_goes_on_after_a_callback_without_answer() -> None:
    assert run(callback=lambda record, state: None)[1] is Status.CONVERGED


def test_iterate_does_not_count_the_time_of_the_callback(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def step(state: float) -> tuple[float, Measures]:
        clock[0] += 1.0
        return halve(state)

    def callback(record: IterationRecord, state: float) -> None:
        clock[0] += 100.0

    _, _, records = run(step, callback=callback, max_iterations=3, tolerance=0.0)
    assert [record.seconds for record in records] == [1.0, 2.0, 3.0]


def test_iterate_continues_an_earlier_stage() -> None:
    _, _, first = run(max_iterations=2, tolerance=0.0)
    _, _, both = run(max_iterations=2, tolerance=0.0, stage="later", history=first)
    assert both[:2] == first
    assert [(record.iteration, record.stage) for record in both[2:]] == [(3, "later"), (4, "later")]
    assert both[2].seconds >= first[-1].seconds


@pytest.mark.parametrize("broken", [{"change": math.nan}, {"residual": math.inf}])
def test_iterate_discards_a_step_that_is_not_finite(broken: dict[str, float]) -> None:
    def step(state: float) -> tuple[float, Measures]:
        new, measures = halve(state)
        return (new, measures) if state > 0.3 else (math.nan, measures._replace(**broken))

    state, status, records = run(step, tolerance=0.0)
    assert (state, status, len(records)) == (0.25, Status.DIVERGED, 2)


def test_iterate_discards_a_step_whose_matrices_cannot_be_decomposed() -> None:
    def step(state: float) -> tuple[float, Measures]:
        if state < 0.3:
            np.linalg.svd(np.full((2, 2), np.nan))
        return halve(state)

    state, status, records = run(step, tolerance=0.0)
    assert (state, status, len(records)) == (0.25, Status.DIVERGED, 2)


def test_iterate_waits_until_the_step_has_settled() -> None:
    def step(state: float) -> tuple[float, Measures]:
        new, measures = halve(state)
        return new, measures._replace(settled=new < 0.02)

    assert run(step)[0] == 1 / 64


def test_iterate_stops_when_the_step_has_stalled() -> None:
    def step(state: float) -> tuple[float, Measures]:
        new, measures = halve(state)
        return new, measures._replace(stalled=new < 0.3)

    state, status, records = run(step, tolerance=0.0)
    assert (state, status, len(records)) == (0.25, Status.STALLED, 2)


def test_status_is_a_sentence_for_each_way_to_end() -> None:
    sentences = [str(status) for status in Status]
    assert len(set(sentences)) == len(sentences) == 8
    for status in Status:
        assert str(status) == status.value
        assert " " in str(status)
        assert str(status)[0].islower()  # goes into a longer line


@pytest.fixture
def parts() -> tuple[np.ndarray, list[np.ndarray]]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((2, 3, 2)), [rng.standard_normal(sizes) for sizes in ((4, 2), (5, 3), (6, 2))]


def result_of(xp: Any, parts: Any, **changes: Any) -> CompletionResult:
    """A result with outliers 7 and -2 at the first and last entry."""
    core, factors = parts
    fields: dict[str, Any] = {
        "tucker": TuckerTensor((xp.put(core), [xp.put(factor) for factor in factors])),
        "sparse": SparsePart(xp.put(np.array([0, 119])), xp.put(np.array([7.0, -2.0]))),
        "status": Status.CONVERGED,
        "history": (),
        "state": None,
    }
    return CompletionResult(**(fields | changes))


def test_result_value_is_the_tensor_that_tensorly_makes_of_it(xp: Any, parts: Any) -> None:
    result = result_of(xp, parts)
    dense = tucker_to_dense(*parts)
    np.testing.assert_allclose(xp.take(result.value), dense, atol=1e-14)  # sums of twelve products of order one
    assert isinstance(result.tucker, TuckerTensor)
    assert result.rank == (2, 3, 2)
    assert result.iterations == 0
    assert result.value is result.value  # made once
    if xp.name in ("numpy", "read-only"):
        np.testing.assert_allclose(tensorly.tucker_to_tensor(result.tucker), dense, atol=1e-14)


def test_result_value_is_projected_when_nonnegative(xp: Any, parts: Any) -> None:
    value = xp.take(result_of(xp, parts, nonnegative=True).value)
    np.testing.assert_allclose(value, np.maximum(tucker_to_dense(*parts), 0), atol=1e-14)


def test_result_outliers_are_the_sparse_part_in_full(xp: Any, parts: Any) -> None:
    outliers = xp.take(result_of(xp, parts).outliers)
    assert outliers.shape == (4, 5, 6)
    assert np.count_nonzero(outliers) == 2
    assert (outliers[0, 0, 0], outliers[3, 4, 5]) == (7.0, -2.0)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(CompletionResult)])
def test_result_is_frozen(xp: Any, parts: Any, field: str) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(result_of(xp, parts), field, None)


def test_record_is_frozen() -> None:
    _, _, records = run()
    with pytest.raises(dataclasses.FrozenInstanceError):
        records[0].change = 0.0  # type: ignore[misc]
