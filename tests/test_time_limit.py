"""What auto does with the time that it is allowed."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import tensorcell as tc
from tensorcell import time_limit
from tensorcell.errors import InputError
from tensorcell.methods.table import METHODS
from tensorcell.plane_grid import PlaneGrid
from tensorcell.time_limit import method_within, seconds_of_prior

VOLUME = tc.Volume(np.random.default_rng(0).random((6, 24, 24), np.float32))


@pytest.fixture
def takes(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that sets how long a prior takes."""
    monkeypatch.setattr(type(METHODS["diffusion"]), "check_installed", lambda _: None)

    def set_seconds(seconds: float) -> None:
        monkeypatch.setattr(time_limit, "seconds_of_prior", lambda *_: seconds)

    return set_seconds


def test_a_prior_is_fitted_where_there_is_time_for_it(takes: Any) -> None:
    takes(200.0)
    method, (note,) = method_within("auto", 5, VOLUME, PlaneGrid(6, Fraction(3)))
    assert method == "diffusion"
    assert "about 3 min of the 5 min allowed" in note
    takes(301.0)
    method, (note,) = method_within("auto", 5, VOLUME, PlaneGrid(6, Fraction(3)))
    assert method == "auto"
    assert note.startswith("no prior was fitted")


@pytest.mark.parametrize("step", [Fraction(1), Fraction(5, 2)])
def test_a_prior_fills_whole_numbers_of_planes(takes: Any, step: Fraction) -> None:
    takes(0.0)
    method, (note,) = method_within("auto", 5, VOLUME, PlaneGrid(6, step))
    assert method == "auto"
    assert note.startswith("the time limit changes nothing")


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: Any) -> None:
        raise InputError('method "diffusion" needs torch, found none')

    monkeypatch.setattr(type(METHODS["diffusion"]), "check_installed", missing)
    method, (note,) = method_within("auto", 5, VOLUME, PlaneGrid(6, Fraction(2)))
    assert method == "auto"
    assert "needs torch" in note


@pytest.mark.parametrize("minutes", [0, -1, np.nan, np.inf, "soon"])
def test_a_time_limit_is_a_positive_number(minutes: Any) -> None:
    with pytest.raises(InputError, match="time_limit"):
        tc.recover(VOLUME, time_limit=minutes)


def test_other_methods_take_no_time_limit() -> None:
    with pytest.raises(InputError, match=r"expected method 'auto' with a time limit.*got 'local'"):
        tc.recover(VOLUME, method="local", time_limit=3)


def test_the_time_grows_with_the_stacks() -> None:
    pytest.importorskip("torch")
    one = seconds_of_prior(VOLUME, 2)
    assert 0 < one < 1e5
    several = tc.Volume(np.stack([VOLUME.data] * 40), axes="TZYX")
    assert seconds_of_prior(several, 2) > 4 * one  # forty times, on a machine that may be busy with other things


def test_recover_fits_the_prior_and_says_so(takes: Any) -> None:
    pytest.importorskip("torch")
    takes(1.0)
    found = tc.recover(VOLUME, axial_factor=2, time_limit=1, fit_steps=2, samples=2, steps=2)
    assert (
        found.notes[0] == "a prior is fitted to the stack (method diffusion), which takes about 1 s of the 60 s allowed"
    )
    assert any(note.startswith("prior fitted to 6 planes") for note in found.notes)
