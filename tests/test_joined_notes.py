"""Notes on many stacks: nothing that was said of one of them is lost."""

from __future__ import annotations

import numpy as np

from tensorcell import datasets, recover
from tensorcell.joined_notes import joined_notes


def test_notes_that_differ_in_more_than_numbers_stay_apart() -> None:
    found = joined_notes({"T=0": ("a 1", "b"), "T=1": ("a 2",), "T=2": ("a 3", "c"), "T=3": ("a 2", "b")})
    assert found == ["T=0 to T=3 (4 stacks): a 1 to 3", "T=0: b", "T=3: b", "T=2: c"]


def test_stacks_without_the_note_are_not_counted() -> None:
    found = joined_notes({f"C={c}, T=0": () if c == 1 else ("x",) for c in range(6)})
    assert found == ["C=0, T=0; C=2, T=0; C=3, T=0; ... (5 stacks): x"]


def test_several_notes_of_one_kind_on_one_stack_are_given_one_by_one() -> None:
    found = joined_notes({"T=0": ("stripe 3", "stripe 4"), "T=1": ("stripe 3",), "T=2": ("stripe 5",)})
    assert found == ["T=0: stripe 3", "T=0: stripe 4", "T=1: stripe 3", "T=2: stripe 5"]


def test_numbers_within_words_and_signs_are_understood() -> None:
    notes = {"T=0": ("x2, v1.5a, -3, 1e-4 and 0.10.",), "T=1": ("x2, v1.5a, -7, 1e-3 and 0.1.",)}
    (found,) = joined_notes({**notes, "T=2": notes["T=0"]})
    assert found == "T=0 to T=2 (3 stacks): x2, v1.5a, -7 to -3, 1e-4 to 1e-3 and 0.10."


def test_ranges_of_notes_that_were_joined_before_become_one() -> None:
    notes = {
        "C=0": ("in 2 of 3 parts: 3 to 9 voxels",), "C=1": ("in 3 of 3 parts: 5 voxels",),
        "C=2": ("in 2 of 3 parts: 4 to 12 voxels",),
    }  # fmt: skip
    assert joined_notes(notes) == ["C=0 to C=2 (3 stacks): in 2 to 3 of 3 parts: 3 to 12 voxels"]


def test_a_film_has_one_line_for_each_kind_of_note() -> None:
    cells = np.asarray(datasets.simulate_cells((7, 32, 32), cells=4, seed=2).measured)
    film = np.stack([cells + np.float32(0.1) * frame for frame in range(4)])
    result = recover(film, axes="TZYX", axial_factor=2, rank=(3, 6, 6))
    assert sum("interpolated along z" in note for note in result.notes) == 1
    assert len(set(result.notes)) == len(result.notes)
