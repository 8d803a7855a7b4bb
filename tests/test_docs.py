"""The documentation is true: its commands and blocks of code run; `.ci/run` builds the pages and runs the galleries."""

from __future__ import annotations

import json
import re
from pathlib import Path

import matplotlib as mpl
import pytest

import tensorcell as tc
from tensorcell.version import __version__

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.glob("*.md"), *DOCS.glob("[!_]*/*.md"), *(DOCS / "gallery").glob("*.py")])
README = (ROOT / "README.md").read_text(encoding="utf-8")


def python_blocks() -> list[object]:
    """The blocks of Python of all pages."""
    found = []
    for page in PAGES:
        blocks = re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), flags=re.M | re.S)
        found += [pytest.param(code, id=f"{page.stem}-{number}") for number, code in enumerate(blocks)]
    return found


@pytest.mark.parametrize("code", python_blocks())
def test_python_blocks_run(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "torch" in code:
        pytest.importorskip("torch", reason="needs the extra 'diffusion'")
    monkeypatch.chdir(tmp_path)
    if "stack.tif" in code:
        cells = tc.datasets.simulate_cells((6, 24, 24), cells=2, seed=0)
        tc.write("stack.tif", tc.Volume(cells.measured, spacing=cells.spacing))
    exec(compile(code, "docs", "exec"), {"__name__": "docs"})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_name_flags_that_exist(page: Path) -> None:
    import typer

    from tensorcell.cli import app

    commands = typer.main.get_command(app.APP).commands  # type: ignore[attr-defined]
    lines = re.sub(r"\n# (?! )", " ", page.read_text(encoding="utf-8"))  # what a comment of an example wraps
    for line in re.findall(r"tensorcell (?:recover|diagnose|plan|train|evaluate|demo)\b[^`\n]*", lines):
        name, *words = re.findall(r"'[^']*'|\S+", line.removeprefix("tensorcell "))
        known = {flag for one in commands[name].params for flag in (*one.opts, *one.secondary_opts)}
        assert {word for word in words if word.startswith("--")} <= known, line


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mpl.use("agg")
    cells = json.loads((DOCS / "quickstart.ipynb").read_text(encoding="utf-8"))["cells"]
    names: dict[str, object] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            assert not cell["outputs"], "a notebook is kept without its outputs"
            exec(compile("".join(cell["source"]), "quickstart.ipynb", "exec"), names)
    mpl.pyplot.close("all")
    assert tc.read("recovered.tif").spacing == (0.5, 0.2, 0.2)


def test_versions_agree() -> None:
    assert f"\nversion = {__version__}\n" in (ROOT / "setup.cfg").read_text(encoding="utf-8")
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\n## {__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f'version: "{__version__}"' in (ROOT / "recipe" / "recipe.yaml").read_text(encoding="utf-8")


def test_the_recipe_asks_for_what_the_package_asks_for() -> None:
    import configparser

    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    wanted = {line.replace(">=", " >=") for line in config["options"]["install_requires"].split()}
    recipe = (ROOT / "recipe" / "recipe.yaml").read_text(encoding="utf-8")
    run = recipe.split("  run:\n")[1].split("\n\n")[0].replace("    - ", "").splitlines()
    names = {"matplotlib-base": "matplotlib"}
    got = {names.get(line.split()[0], line.split()[0]) + line[len(line.split()[0]) :] for line in run}
    assert got == wanted | {f"python {config['options']['python_requires']}"}
