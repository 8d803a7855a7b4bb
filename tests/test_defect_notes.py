"""What a user is told of defects, word by word, and the width of the PSF that a user gives."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tensorcell import InputError
from tensorcell.defect_notes import checked_psf, contradicts, counts_of, defect_notes, psf_in_voxels, spot
from tensorcell.solvers.defects import Kind
from tensorcell.solvers.optics import FWHM, Width
from tensorcell.solvers.outliers import Outliers

NAN = math.nan
NO_WIDTH = (NAN, NAN, NAN)


def outliers(kinds: list[Kind], open_: int = 0, sigma: tuple[float, ...] = NO_WIDTH) -> Outliers:
    found = np.array(kinds, np.uint8)
    return Outliers(np.arange(len(kinds)), found, open_, Width(tuple(sigma)), values=np.ones(len(kinds)))


ALL = [Kind.DEAD] * 2 + [Kind.STUCK] * 3 + [Kind.HOT] * 4 + [Kind.BRIGHT] * 5 + [Kind.DARK] * 6


@pytest.mark.parametrize("replaced", [True, False])
def test_without_defects_nothing_is_said(replaced: bool) -> None:
    assert defect_notes(outliers([], sigma=(1, 1, 1)), 1000, None, replaced=replaced) == ()
    assert defect_notes(outliers([], sigma=(1, 1, 1)), 1000, (1.0, 1.0, 1.0), replaced=replaced) == ()


def test_defects_are_told_by_kind() -> None:
    (note,) = defect_notes(outliers(ALL), 10_000, None, replaced=True)
    assert note == (
        "20 of 10000 measured voxels are defects and were replaced: 2 of dead pixels, 3 of stuck pixels, "
        "4 of hot pixels, 5 single bright voxels, 6 single dark voxels"
    )
    (note,) = defect_notes(outliers([Kind.HOT] * 7), 10_000, None, replaced=False)
    assert note == "7 of 10000 measured voxels are defects: 7 of hot pixels"


@pytest.mark.parametrize(("kind", "said"), [(Kind.BRIGHT, True), (Kind.DARK, True), (Kind.HOT, False)])
def test_many_single_voxels_are_said_to_leave_others(kind: Kind, said: bool) -> None:
    """More than one in a hundred: others are hidden by noise. Pixels of the camera are all found."""
    left = "; others that differ less from their surroundings are likely to be left"
    (note,) = defect_notes(outliers([kind] * 20), 1999, None, replaced=True)
    assert note.endswith(left) == said
    (note,) = defect_notes(outliers([kind] * 20), 2000, None, replaced=True)
    assert not note.endswith(left)


@pytest.mark.parametrize(("replaced", "word"), [(True, "kept"), (False, "not counted")])
def test_what_remains_open_is_said_with_the_option_that_decides(replaced: bool, word: str) -> None:
    (note,) = defect_notes(outliers([], open_=8), 10_000, None, replaced=replaced)
    assert note == (
        f"8 bright voxels are as narrow as one voxel, so that they may be signal or defects, and were {word}; "
        "psf_fwhm (--psf-fwhm) decides"
    )


def test_the_width_of_the_finest_structure_is_said_where_it_matters() -> None:
    said = "the finest structure of the stack is as wide as a spot of FWHM 4.7 x 2.4 x ? voxels (z, y, x)"
    for found in (outliers([Kind.HOT], sigma=(2, 1, NAN)), outliers([], open_=1, sigma=(2, 1, NAN))):
        assert defect_notes(found, 10_000, None, replaced=True)[-1] == said
    assert len(defect_notes(outliers([Kind.HOT]), 10_000, None, replaced=True)) == 1


def test_a_psf_wider_than_the_structure_is_said_to_contradict_the_stack() -> None:
    found = outliers([Kind.BRIGHT], sigma=(1, 1, 1))
    notes = defect_notes(found, 10_000, (1.0, 1.3, 1.0), replaced=True)
    assert notes[-1] == (
        "the given point spread function, a spot of FWHM 2.4 x 3.1 x 2.4 voxels (z, y, x), is wider than the finest "
        "structure of the stack, a spot of FWHM 2.4 x 2.4 x 2.4 voxels (z, y, x): signal may have been taken for "
        "defects"
    )
    assert "point spread" not in defect_notes(found, 10_000, (1.0, 1.2, 1.0), replaced=True)[-1]
    assert len(defect_notes(outliers([], sigma=(1, 1, 1)), 10_000, (3.0, 1.0, 1.0), replaced=True)) == 1


def test_contradiction_asks_for_a_quarter_more_along_any_axis_with_a_width() -> None:
    for psf, expected in [
        ((1.24, 1.24, 1.24), False),
        ((1.26, 1, 1), True),
        ((1, 1.26, 1), True),
        ((1, 1, 1.26), True),
        ((0.1, 0.1, 0.1), False),
    ]:
        assert contradicts(psf, Width((1, 1, 1))) == expected
    assert not contradicts((9, 9, 9), Width(NO_WIDTH))


def test_counts_leave_out_what_was_not_found() -> None:
    assert counts_of(outliers(ALL)) == {"dead": 2, "stuck": 3, "hot": 4, "bright": 5, "dark": 6}
    assert counts_of(outliers([Kind.DARK])) == {"dark": 1}
    assert counts_of(outliers([])) == {}


def test_spot_is_told_by_its_full_widths() -> None:
    assert spot(Width((1 / FWHM, 2 / FWHM, NAN))) == "a spot of FWHM 1.0 x 2.0 x ? voxels (z, y, x)"


def test_checked_psf_takes_three_positive_numbers() -> None:
    assert checked_psf(None) is None
    assert checked_psf([1, 0.5, 0.25]) == (1.0, 0.5, 0.25)
    assert checked_psf(np.array([1, 2, 3])) == (1.0, 2.0, 3.0)


@pytest.mark.parametrize("value", [(1, 2), (1, 2, 3, 4), 0.3, (), "wide", ("a", "b", "c"), (1, None, 2)])
def test_psf_that_is_not_three_numbers_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match=r"expected psf_fwhm as three numbers \(z, y, x\), got"):
        checked_psf(value)


@pytest.mark.parametrize("value", [(0, 1, 1), (1, -0.3, 1), (1, 1, NAN), (math.inf, 1, 1)])
def test_psf_that_is_not_positive_and_finite_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match="expected psf_fwhm positive and finite along z, y and x, got"):
        checked_psf(value)


def test_psf_in_voxels_divides_by_the_voxel_size_where_it_is_known() -> None:
    assert psf_in_voxels(None, (1, 1, 1), (5, 6, 7)) is None
    assert psf_in_voxels((FWHM, 2 * FWHM, 3), None, (8, 8, 8)) == pytest.approx((1, 2, 3 / FWHM))
    found = psf_in_voxels((1.0, 0.3, 0.3), (0.5, 0.1, 0.2), (8, 8, 8))
    assert found == pytest.approx((2 / FWHM, 3 / FWHM, 1.5 / FWHM))


@pytest.mark.parametrize(
    ("psf", "spacing", "said"),
    [
        ((9, 1, 1), None, r"expected psf_fwhm along z below the size of the stack, 8 voxels, got 9"),
        ((1, 1.5, 1), (1, 0.1, 1), r"expected psf_fwhm along y below the size of the stack, 1 um, got 1.5"),
        ((1, 1, 300), (1, 1, 10), r"expected psf_fwhm along x below the size of the stack, 120 um, got 300"),
    ],
)
def test_psf_wider_than_the_stack_is_refused(psf: Any, spacing: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        psf_in_voxels(psf, spacing, (8, 10, 12))
