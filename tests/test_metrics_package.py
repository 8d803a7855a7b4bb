"""The package of the metrics: its names, what its modules import, and that the import is light."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tensorcell import metrics

FILES = sorted(Path(metrics.__path__[0]).glob("*.py"))

# A package of that name without its other modules: what the metrics import by themselves shows.
ALONE = f"""
import sys, types
package = types.ModuleType("tensorcell")
package.__path__ = [{str(Path(metrics.__path__[0]).parent)!r}]
sys.modules["tensorcell"] = package
from tensorcell import metrics
"""


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_import_leaves_torch_alone() -> None:
    code = (
        "import sys, tensorcell; from tensorcell import metrics; metrics.piqe, metrics.lpips; "
        "print('lpips' in dir(metrics), {'torch', 'matplotlib'} & set(sys.modules))"
    )
    assert run(code) == "True set()"


def test_import_of_the_metrics_alone_is_light() -> None:
    heavy = {"torch", "matplotlib", "skimage", "h5py", "scipy.io", "scipy.stats"}
    assert run(f"{ALONE}print({heavy} & set(sys.modules), 'lpips' in dir(metrics))") == "set() True"
    perceptual = {"torch", "matplotlib", "skimage", "scipy.stats"}
    asked = "metrics.lpips, metrics.niqe, metrics.nrqm, metrics.piqe"
    assert run(f"{ALONE}{asked}; print({perceptual} & set(sys.modules))") == "set()"


def test_all_public_names_exist() -> None:
    assert metrics.__all__ == sorted(metrics.__all__)
    for name in metrics.__all__:
        assert getattr(metrics, name).__doc__
        assert getattr(metrics, name).__module__.startswith("tensorcell.metrics.")
        assert name in dir(metrics)
    with pytest.raises(AttributeError, match="no attribute 'fid'"):
        _ = metrics.fid


def test_no_module_has_the_name_of_a_score_or_of_what_it_defines() -> None:
    for file in FILES:
        defined = [getattr(node, "name", "") for node in ast.parse(file.read_text(encoding="utf-8")).body]
        assert file.stem not in [*defined, *metrics.__all__]


ALLOWED = ("tensorcell.errors", "tensorcell.plain_arrays", "tensorcell.volume", "tensorcell.volume_checks")


def test_metrics_import_nothing_above_them_and_not_in_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    for file in FILES:
        graph[file.stem] = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert not any(alias.name.startswith("tensorcell") for alias in node.names), file.name
            elif isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1, f"{file.name} imports from above the package"
                graph[file.stem].add(node.module or "__init__")
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tensorcell"):
                assert node.module in ALLOWED, f"{file.name} imports {node.module}"
    assert len(list(TopologicalSorter(graph).static_order())) == len(FILES)
