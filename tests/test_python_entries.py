"""Entries beside the commands, `train` and `evaluate`, and what is logged."""

from __future__ import annotations

import dataclasses
import inspect
import logging
import re
from pathlib import Path

import numpy as np
import pytest

import tensorcell as tc
from tensorcell.cli.train_command import PRIORS
from tensorcell.cli.train_command import train as train_command
from tensorcell.network_training import ModelRequest
from tensorcell.prior_training import KINDS, TrainRequest
from tensorcell.trained import request_of


def test_train_has_the_options_and_defaults_of_the_command() -> None:
    flags = set(inspect.signature(train_command).parameters) - {"sources", "out", "kind", "as_json", "verbose"}
    options = {field.name for form in (TrainRequest, ModelRequest) for field in dataclasses.fields(form)}
    assert flags == options - {"sources", "out", "kind"}
    assert tuple(KINDS) == PRIORS
    assert request_of("a.tif", "prior", "lateral", {}) == TrainRequest(sources=("a.tif",), out=Path("prior"))
    networks = request_of([Path("a.tif"), "b.tif"], "net", "care", {"low": "c.tif", "vae": "folder", "minutes": 2})
    assert networks == ModelRequest(
        sources=("a.tif", "b.tif"), out=Path("net"), kind="care", low=("c.tif",), vae=Path("folder"), minutes=2
    )


def test_train_refuses_in_one_line_what_it_cannot_use() -> None:
    with pytest.raises(
        TypeError, match="train has no option 'photons' for kind 'volume'; it has axial_factor, minutes"
    ):
        tc.train("a.tif", "prior", kind="volume", photons=3)
    for given in (np.zeros((4, 8, 8)), [np.zeros((4, 8, 8))]):
        with pytest.raises(tc.InputError, match="expected paths of stacks to train with, got ndarray"):
            tc.train(given, "prior")  # type: ignore[arg-type]


def test_train_fits_a_prior_without_a_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch", reason="needs the extra 'diffusion'")
    cells = tc.datasets.simulate_cells((8, 32, 32), cells=4, seed=0)
    tc.write(tmp_path / "stack.tif", cells.measured)
    facts = tc.train(tmp_path / "stack.tif", tmp_path / "prior", steps=2)
    assert facts["steps"] == 2
    assert facts["kind"] == "lateral"
    assert (tmp_path / "prior").is_dir()
    assert capsys.readouterr() == ("", "")


def test_evaluate_is_that_of_the_command() -> None:
    from tensorcell.evaluation import evaluate

    assert tc.evaluate is evaluate


def test_stages_and_choices_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    data = np.random.default_rng(0).normal(100, 1, (5, 12, 12))
    with caplog.at_level(logging.DEBUG, "tensorcell"):
        result = tc.recover(data, axial_factor=2, method="fast")
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    names = [line.split(":")[0] for line in said]
    assert {"noise", "model of the stack", "planes between"} < set(names)
    assert all(re.fullmatch(r".+: \d+\.\d\d s", line) for line in said[:-1])
    assert said[-1].startswith("Volume(5 x 12 x 12 ZYX, float64, spacing unknown) recovered by fast in ")
    choices = [record.getMessage() for record in caplog.records if record.levelno == logging.DEBUG]
    assert choices == list(result.notes)


def test_nothing_is_shown_by_default() -> None:
    handlers = logging.getLogger("tensorcell").handlers
    assert any(isinstance(handler, logging.NullHandler) for handler in handlers)
