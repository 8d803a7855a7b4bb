"""The README stays true: its Python blocks and its commands run as they stand there."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from small_networks import shrink_networks

import tensorcell as tc
from tensorcell import cli

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """The blocks of a language; fences are read in pairs, since closing ones look like opening ones."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.M | re.S)
    return [text for name, text in found if name == language]


def commands() -> list[str]:
    return [line for block in blocks("") for line in block.splitlines() if line.startswith("tensorcell ")]


@pytest.mark.parametrize("code", blocks("python"))
def test_python_blocks_run(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "torch" in code:
        pytest.importorskip("torch", reason="needs the extra 'diffusion'")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})


def makes_weights(command: str) -> bool:
    """Whether a command is run before those that need its weights, and with them."""
    return "--out model" in command


def shorter(command: str) -> str:
    """The command with a smaller network, and with fewer steps: what takes a user minutes is to take seconds here."""
    command = command.replace("--kind microdiffuse3d", "--kind microdiffuse3d --size tiny")
    command = command.replace("--method diffusion", "--method diffusion --samples 2 --steps 5")
    return command.replace("--fit-steps 100", "--fit-steps 10").replace("--steps 50", "--steps 5")


@pytest.mark.parametrize("command", [command for command in commands() if not makes_weights(command)])
def test_commands_run(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if re.search("train|diffus", command):
        pytest.importorskip("torch", reason="needs the extra 'diffusion'")
        shrink_networks(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    cells = tc.datasets.simulate_cells((10, 32, 32), cells=4, seed=1)
    counts = np.clip(np.rint(np.nan_to_num(cells.measured)), 0, 65535).astype(np.uint16)
    tc.write(tmp_path / "stack.tif", tc.Volume(counts, spacing=cells.spacing))
    (tmp_path / "scans").mkdir()
    tc.write(tmp_path / "scans" / "one.tif", tc.Volume(counts[:5], spacing=cells.spacing))
    mask = np.random.default_rng(0).random(counts.shape) < 0.7
    tc.write(tmp_path / "measured.tif", tc.Volume(mask.astype(np.uint8)))
    before = [other for other in commands() if "--weights" in command and makes_weights(other)]
    for each in (*before, command):
        monkeypatch.setattr(sys, "argv", shlex.split(shorter(each)))
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert not ended.value.code, capsys.readouterr().err
    for name in (word for word in shlex.split(command)[3:] if re.search(r"\.[a-z]", word)):
        assert (tmp_path / name.replace("{name}", "one")).stat().st_size > 0


def test_readme_names_the_two_commands() -> None:
    # .ci/run greps the second one and runs it word for word.
    assert "pip install . && tensorcell demo\n" in README
    assert 'pip install -c constraints.txt -e ".[diffusion,test]" && pytest\n' in README


def test_linked_files_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
