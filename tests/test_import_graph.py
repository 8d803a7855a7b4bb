"""Modules import downwards only: the graph of imports, those inside functions counted, has no circle."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest

import tensorcell
from tensorcell.methods.table import METHODS

ROOT = Path(tensorcell.__path__[0])


def module_name(file: Path) -> str:
    """``tensorcell/solvers/admm.py`` is tensorcell.solvers.admm, ``tensorcell/pages/__init__.py`` tensorcell.pages."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(("tensorcell", *(part for part in parts if part != "__init__")))


def files_of(folder: Path) -> Iterator[Path]:
    """All Python files below a folder; links to folders are followed (a checkout has two of them)."""
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield from files_of(path)
        elif path.suffix == ".py":
            yield path


MODULES = {module_name(file): file for file in files_of(ROOT)}


def run_time_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a tree without those below ``if TYPE_CHECKING``, which no interpreter imports."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        yield from run_time_nodes(node)


def named_by(node: ast.AST, module: str) -> Iterator[str]:
    """What an import names, the names behind ``from ... import`` as if they were modules."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        package = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
        base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        origin = ".".join([*base, *([node.module] if node.module else [])])
        for alias in node.names:
            yield f"{origin}.{alias.name}" if f"{origin}.{alias.name}" in MODULES else origin
    elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_PLACES":
        places = ast.literal_eval(node.value)  # names that are imported when they are first asked for
        yield from (f"{module}.{place}" for place in places.values())


@lru_cache(maxsize=1)
def graph() -> dict[str, set[str]]:
    """For each module those that it imports."""
    found: dict[str, set[str]] = {}
    for module, file in MODULES.items():
        tree = ast.parse(file.read_text(encoding="utf-8"))
        named = {name for node in run_time_nodes(tree) for name in named_by(node, module)}
        found[module] = {name for name in named if name in MODULES and name != module}
    return found


def test_the_graph_of_imports_has_no_circle() -> None:
    try:
        order = list(graphlib.TopologicalSorter(graph()).static_order())
    except graphlib.CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))
    assert len(order) == len(MODULES)


def test_the_graph_is_not_empty_and_sees_lazy_imports() -> None:
    edges = graph()
    assert len(edges) > 100
    assert "tensorcell.solvers.admm" in edges["tensorcell.solvers.completion"]  # relative
    assert "tensorcell.diffusion_guidance.fill_stack" in edges["tensorcell.methods.diffusion"]  # inside a function
    assert "tensorcell.recovery" in edges["tensorcell"]  # by name, when first asked for


def reachable(module: str) -> set[str]:
    """A module, and all that it imports directly or through others."""
    found, waiting = set[str](), [module]
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting += graph()[one]
    return found


def imported_from_outside(module: str) -> set[str]:
    """The names of the packages that a module imports, at any place."""
    found = set[str]()
    for node in run_time_nodes(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add((node.module or "").partition(".")[0])
    return found


NETWORKS = {"torch", "safetensors", "diffusers"}
"""What the extra ``diffusion`` installs."""


@pytest.mark.parametrize("name", METHODS)
def test_a_method_needs_what_its_modules_import(name: str) -> None:
    modules = reachable(f"tensorcell.methods.{name}")
    assert set(METHODS[name].needs) == NETWORKS & {each for one in modules for each in imported_from_outside(one)}


ROOMS = ("tensorcell.solvers", "tensorcell.diffusion_guidance", "tensorcell")
"""From the bottom up; the last one is the user's layer."""


def room_of(module: str) -> int:
    return next(place for place, name in enumerate(ROOMS) if module == name or module.startswith(f"{name}."))


def test_no_room_imports_a_higher_one() -> None:
    upwards = [(a, b) for a, names in graph().items() for b in names if room_of(b) > room_of(a)]
    assert not upwards


ARRAYS_ALONE = {"tensorcell.pages.pictures", "tensorcell.pages.previews"}
"""Modules that draw arrays and know no result: a result imports them when its picture is asked for."""


def test_modules_that_draw_arrays_import_no_result() -> None:
    for name in ARRAYS_ALONE:
        assert graph()[name] <= ARRAYS_ALONE | {"tensorcell.errors"}


def test_pages_import_results_and_never_back() -> None:
    drawing = {name for name in MODULES if name.endswith(".page") or name.startswith("tensorcell.pages.")}
    pages = drawing - ARRAYS_ALONE
    allowed = {
        "tensorcell.cli", "tensorcell.demo", "tensorcell.evaluation", "tensorcell.napari_plugin", "tensorcell.pages",
    }  # fmt: skip
    for module, names in graph().items():
        package = module == module.rpartition(".")[0] or MODULES[module].name == "__init__.py"
        if package or module in drawing or any(module.startswith(name) for name in allowed):
            continue
        assert not names & pages, f"{module} imports {names & pages}"
