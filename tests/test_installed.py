"""Whether what networks need is installed and new enough."""

from __future__ import annotations

import configparser
import importlib.util
import re
from importlib import metadata
from pathlib import Path

import pytest

import tensorcell as tc
from tensorcell import diffusion_guidance
from tensorcell.diffusion_guidance.installed import LEAST, missing

EVERY = [name for names in diffusion_guidance._MODULES.values() for name in names if name != "DiffusionOptions"]
NONE = r'expected torch 2\.4 or newer \(pip install "tensorcell\[diffusion\]"\), found none$'


def test_the_oldest_versions_are_those_of_the_extra() -> None:
    setup = Path(__file__).parents[1] / "setup.cfg"
    config = configparser.ConfigParser()
    config.read(setup, encoding="utf-8")
    extra = config["options.extras_require"]["diffusion"].split()
    assert extra == [f"{name}>={least}" for name, least in LEAST.items()]


@pytest.fixture
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "torch" else found(name, *a))


@pytest.mark.usefixtures("no_torch")
@pytest.mark.parametrize("name", EVERY)
def test_without_torch_every_public_name_says_in_one_line_what_is_missing(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(vars(diffusion_guidance), name, raising=False)
    with pytest.raises(ImportError, match=f"^{name}: {NONE}"):
        getattr(diffusion_guidance, name)


@pytest.mark.usefixtures("no_torch")
def test_without_torch_nothing_is_made_for_deepinv() -> None:
    with pytest.raises(tc.InputError, match=NONE):
        tc.to_deepinv_denoiser()
    with pytest.raises(tc.InputError, match=NONE):
        tc.to_deepinv_physics([[[1.0]]])


def test_an_old_version_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    for version, problem in (("2.3.1+cu118", "found 2.3.1+cu118"), ("2.4.0", None), ("2.13.0", None)):
        monkeypatch.setattr(metadata, "version", lambda _, version=version: version)
        said = missing("torch")
        assert said is None if problem is None else re.search(re.escape(problem) + "$", said or "")
