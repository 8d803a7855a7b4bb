"""Guards of the layout: what may import what, and where host and device meet."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path

import pytest

import tensorcell
from tensorcell import solvers

FILES = sorted(Path(solvers.__path__[0]).rglob("*.py"))
GUIDANCE = sorted((Path(tensorcell.__path__[0]) / "diffusion_guidance").rglob("*.py"))

ABSENT = ("numba", "llvmlite", "scipy", "tensorly", "h5py", "threadpoolctl")
"""Modules that would make the import of the solvers slow; the functions that need them import them."""

LAYER = [
    file
    for file in sorted(Path(tensorcell.__path__[0]).rglob("*.py"))
    if not {"solvers", "diffusion_guidance"} & {*file.parts}
]

REDUCTIONS = {
    "sum", "mean", "std", "var", "median", "average", "nansum", "nanmean", "nanstd", "nanvar", "nanmedian", "cumsum",
    "nancumsum", "trace", "norm", "prod", "nanprod", "cumprod", "percentile", "quantile", "nanpercentile",
    "nanquantile", "vdot", "cov", "corrcoef", "trapz", "trapezoid",
}  # fmt: skip

HEAVY = ("torch", "cupy", "matplotlib", "jax", "tensorflow", "diffusers", "skimage")

ALLOWED = {
    "numpy", "scipy", "numba", "cupy", "tensorly", "array_api_compat", "threadpoolctl", "h5py", "skimage",
    *sys.stdlib_module_names,
}  # fmt: skip


@pytest.mark.parametrize("module", ["tensorcell", "tensorcell.solvers"])
def test_import_is_light_and_under_one_name(module: str) -> None:
    script = (
        f"import sys, {module}\n"
        f"print([name for name in {HEAVY} if name in sys.modules], 'solvers' in sys.modules, "
        "'diffusion_guidance' in sys.modules, 'tensorcell.diffusion_guidance' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=Path(tensorcell.__path__[0]).parent, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.stdout.strip() == "[] False False False"


@pytest.mark.parametrize("module", ["tensorcell.solvers", "tensorcell.recovery"])
def test_solvers_and_recover_import_no_module_that_is_slow_to_load(module: str) -> None:
    script = f"import sys, {module}\nprint(sorted({{name.split('.')[0] for name in sys.modules}} & set({ABSENT})))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=Path(tensorcell.__path__[0]).parent, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.stdout.strip() == "[]"


def imported(tree: ast.AST) -> set[str]:
    """Modules named by absolute imports, and relative ones with their dots."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add("." * node.level + (node.module or ""))
    return names


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_solvers_import_nothing_above_them(file: Path) -> None:
    for name in imported(ast.parse(file.read_text(encoding="utf-8"))):
        assert not name.startswith(".."), f"{file.name} imports {name}"
        own = name.startswith((".", "tensorcell.solvers"))
        assert own or name.split(".")[0] in ALLOWED, f"{file.name} imports {name}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_solvers_import_cupy_inside_functions_only(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    at_import = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert not any(name.split(".")[0] == "cupy" for node in at_import for name in imported(node))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_only_arrays_knows_the_kind_of_an_array(file: Path) -> None:
    # Kernels take arrays of one library by their nature; everything else goes through arrays.py.
    if file.name == "arrays.py":
        return
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        assert not name.endswith(".get"), f"{file.name}:{node.lineno} crosses to the host: {ast.unparse(node)}"
        if name == "isinstance":
            assert "ndarray" not in ast.unparse(node.args[1]), f"{file.name}:{node.lineno} {ast.unparse(node)}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_solvers_never_print(file: Path) -> None:
    calls = [node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    assert not [node.lineno for node in calls if ast.unparse(node.func) == "print"]


MARKS = ("njit", "jit", "guvectorize", "vectorize", "cfunc", "stencil", "overload")
"""Numba's ways to compile a function, as decorators or as calls."""


def compiled(tree: ast.AST) -> list[ast.FunctionDef | ast.Lambda]:
    """Functions that Numba compiles: decorated ones, and those that are passed to its compiler by name."""
    nodes = list(ast.walk(tree))
    compilers = [node for node in nodes if isinstance(node, ast.Call) and compiles(node.func)]
    passed = [argument for call in compilers for argument in call.args]
    names = {argument.id for argument in passed if isinstance(argument, ast.Name)}
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
    found: list[ast.FunctionDef | ast.Lambda] = [argument for argument in passed if isinstance(argument, ast.Lambda)]
    return found + [f for f in functions if f.name in names or any(map(compiles, f.decorator_list))]


def compiles(called: ast.AST) -> bool:
    """Whether a decorator, or what is called, is a compiler of Numba's, with or without arguments of its own."""
    return ast.unparse(called).split("(")[0].split(".")[-1] in MARKS


def reductions(tree: ast.AST) -> list[str]:
    """Calls of reductions, as functions of NumPy, as methods, or as the built-in sum, in compiled functions."""
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    renamed = {name.asname for node in imports for name in node.names if name.name in REDUCTIONS and name.asname}
    calls = [node for function in compiled(tree) for node in ast.walk(function) if isinstance(node, ast.Call)]
    return [
        f"{node.lineno}: {ast.unparse(node)}"
        for node in calls
        if ast.unparse(node.func).split(".")[-1] in REDUCTIONS | renamed | {"reduce", "accumulate"}
    ]


def test_kernels_sum_in_loops_of_their_own() -> None:
    # Numba accumulates a reduction of float32 in float32: the sum of a large volume loses half of its digits.
    found = {file.name: reductions(ast.parse(file.read_text(encoding="utf-8"))) for file in (*FILES, *GUIDANCE, *LAYER)}
    assert not {name: calls for name, calls in found.items() if calls}


def test_the_guard_of_the_kernels_finds_kernels_and_their_reductions() -> None:
    assert len([f for file in FILES for f in compiled(ast.parse(file.read_text(encoding="utf-8")))]) >= 4
    source = "@numba.njit(cache=True)\ndef f(x):\n    return {} + 1\n"
    for name in REDUCTIONS - {"norm"}:
        for call in (f"np.{name}(x)", f"numpy.{name}(x)", f"x.{name}()", f"x[0].{name}(0)", f"{name}(x)"):
            assert reductions(ast.parse(source.format(call))), call
    for call in ("np.linalg.norm(x)", "np.add.reduce(x)", "np.multiply.accumulate(x)"):
        assert reductions(ast.parse(source.format(call))), call
    ways = (
        "@njit\ndef f(x):\n    return x.mean()\n",
        "@numba.njit\ndef f(x):\n    def g(y):\n        return y.std()\n    return g(x)\n",
        "@numba.vectorize(['f4(f4)'])\ndef f(x):\n    return np.sum(x)\n",
        "def f(x):\n    return np.median(x)\nfast = numba.njit(f)\n",
        "def f(x):\n    return np.median(x)\nfast = numba.njit(cache=True)(f)\n",
        "fast = numba.njit(lambda x: x.sum())\n",
        "from numpy import mean as middle\n@njit\ndef f(x):\n    return middle(x)\n",
    )
    for way in ways:
        assert reductions(ast.parse(way)), way
    assert not reductions(ast.parse(source.format("np.dot(x, x)")))
    assert not reductions(ast.parse("def f(x):\n    return x.mean()\n"))


def test_the_package_imports_its_names_when_they_are_asked_for() -> None:
    assert set(tensorcell.__all__) <= set(dir(tensorcell))
    for name in tensorcell.__all__:
        assert getattr(tensorcell, name) is not None
    assert tensorcell.RecoveryReport is tensorcell.Diagnosis  # what it was called before
    with pytest.raises(AttributeError, match="module 'tensorcell' has no attribute 'recovr'"):
        tensorcell.recovr  # noqa: B018


def test_the_manifest_for_napari_is_packaged() -> None:
    named = {entry.value for entry in entry_points(group="napari.manifest", name="tensorcell")}
    assert named == {"tensorcell.napari_plugin:napari.yaml"}
    assert files("tensorcell.napari_plugin").joinpath("napari.yaml").is_file()


def test_solvers_export_what_they_define() -> None:
    assert solvers.__all__ == sorted(solvers.__all__)
    for name in solvers.__all__:
        assert getattr(solvers, name).__module__.startswith("tensorcell.solvers.")
        assert getattr(solvers, name).__doc__


@pytest.mark.parametrize("file", GUIDANCE, ids=lambda file: file.name)
def test_diffusion_guidance_imports_nothing_of_ours_but_the_solvers(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    names = imported(tree)
    for node in ast.walk(tree):  # `from tensorcell import name` names a module, too
        if isinstance(node, ast.ImportFrom) and node.module == "tensorcell":
            names |= {f"tensorcell.{alias.name}" for alias in node.names}
    names.discard("tensorcell")
    for name in names:
        assert not name.startswith(".."), f"{file.name} imports {name}"
        if name.split(".")[0] == "tensorcell":
            assert name.split(".")[1] in ("solvers", "diffusion_guidance"), f"{file.name} imports {name}"


@pytest.mark.parametrize("module", ["tensorcell.diffusion_guidance.options", "tensorcell.prior_training"])
def test_import_needs_no_torch(module: str) -> None:
    script = f"import sys, {module}; print([name for name in ('torch', 'safetensors') if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=Path(tensorcell.__path__[0]).parent, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.stdout.strip() == "[]"


def test_diffusion_guidance_exports_what_it_names() -> None:
    pytest.importorskip("torch", reason="needs the extra 'diffusion'")
    from tensorcell import diffusion_guidance

    assert diffusion_guidance.__all__ == sorted(diffusion_guidance.__all__)
    assert set(diffusion_guidance.__all__) <= set(dir(diffusion_guidance))
    for name in diffusion_guidance.__all__:
        assert getattr(diffusion_guidance, name).__module__.startswith("tensorcell.diffusion_guidance.")
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = diffusion_guidance.nothing
