"""The table of methods: those of :func:`tensorcell.recover`, and those that they are compared with."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy.typing as npt

from tensorcell.errors import InputError
from tensorcell.evaluation import peers, tensorly_peers
from tensorcell.evaluation.cases import KINDS, Measurement
from tensorcell.methods.table import METHODS as METHODS_OF_RECOVER
from tensorcell.recovery import recover

Array = npt.NDArray[Any]
Run = Callable[[Measurement, int], Array]

LEARNING = ("diffusion",)
"""Methods of :func:`tensorcell.recover` that fit a network to the data, which takes minutes for each volume."""

WEIGHTED = ("microdiffuse3d",)
"""Methods of :func:`tensorcell.recover` that need the weights of a fit: they are named with a folder."""


@dataclass(frozen=True)
class Method:
    """One way to restore.

    Attributes
    ----------
    name : str
    run : callable
        ``run(measurement, seed) -> array`` on the grid of the wanted stack. It must be a function of a module, not a
        lambda: a fresh interpreter finds it again by its name.
    kinds : tuple of str
        Kinds of :class:`tensorcell.evaluation.Case` that it is run on.
    needs : tuple of str
        Modules that have to be installed.
    ours : bool
        Whether it is this package's; its cells are repeated when code of the package changes.
    learns : bool
        Whether it fits a network to the data. Such a method takes minutes, is only run where it is named, and its
        cells depend on :mod:`tensorcell.diffusion_guidance`, too.
    weights : str
        Digest of the weights that it restores with, if it has any: other weights repeat its cells.
    warm_up : callable, optional
        What is run on a tiny volume beforehand, so that compiling is not timed; None: ``run``.
    """

    name: str
    run: Run
    kinds: tuple[str, ...] = KINDS
    needs: tuple[str, ...] = ()
    ours: bool = False
    learns: bool = False
    warm_up: Run | None = None
    weights: str = ""

    @property
    def missing(self) -> tuple[str, ...]:
        """What it needs and is not installed."""
        return tuple(name for name in self.needs if importlib.util.find_spec(name) is None)


def run_recover(measurement: Measurement, seed: int, *, method: str | None = None) -> Array:
    """:func:`tensorcell.recover` with one of its methods; None: the one that it takes by default.

    It is given the whole of a time series.
    """
    arguments: dict[str, Any] = dict(measurement.options)
    if measurement.sigma is not None:
        arguments["noise"] = measurement.sigma
    if method is not None:
        arguments["method"] = method
    data = measurement.data if measurement.series is None else measurement.series
    result = recover(
        data, axial_factor=measurement.axial_factor, lateral_factor=measurement.lateral_factor, seed=seed,
        axes="ZYX" if measurement.series is None else "TZYX", **arguments,
    )  # fmt: skip
    return result.volume.data if measurement.series is None else result.volume.data[measurement.frame]


def run_frame(measurement: Measurement, seed: int) -> Array:
    """:func:`tensorcell.recover` with one frame of a time series."""
    return run_recover(replace(measurement, series=None), seed)


def run_microdiffuse3d(measurement: Measurement, seed: int, *, folder: str) -> Array:
    """``recover(method="microdiffuse3d")`` with the weights of a folder."""
    options = {**measurement.options, "weights": folder}
    return run_recover(replace(measurement, options=options), seed, method="microdiffuse3d")


def run_baseline(measurement: Measurement, seed: int, *, folder: str) -> Array:
    """A network that was fitted by ``tensorcell train --kind NAME``."""
    from tensorcell.diffusion_guidance.baselines.fitting import load_baseline, restore_by_baseline

    fitted = load_baseline(folder)
    factors = fitted.acquisition.axial_factor, fitted.acquisition.lateral_factor
    if factors != (measurement.axial_factor, measurement.lateral_factor):
        raise InputError(
            f"expected axial factor {factors[0]} and lateral factor {factors[1]}, which {folder} was fitted to, got "
            f"{measurement.axial_factor} and {measurement.lateral_factor}"
        )
    return restore_by_baseline(measurement.data, fitted, seed=seed)


def fitted_method(name: str) -> Method:
    """``KIND:FOLDER``: networks that ``tensorcell train --kind KIND --out FOLDER`` wrote."""
    kind, _, folder = name.partition(":")
    file = "network.safetensors" if kind in WEIGHTED else "weights.safetensors"
    path = Path(folder) / file
    if not path.is_file():
        raise InputError(f"method {name}: expected a folder that train --kind {kind} wrote, found no {path}")
    run = run_microdiffuse3d if kind in WEIGHTED else run_baseline
    needs = METHODS_OF_RECOVER[kind].needs if kind in WEIGHTED else ("torch", "safetensors")
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()[:12]
    return Method(
        name, functools.partial(run, folder=str(Path(folder).absolute())), needs=needs, ours=True,
        learns=True, warm_up=run_recover, weights=digest,
    )  # fmt: skip


def _methods() -> Iterator[Method]:
    p = functools.partial
    for name in METHODS_OF_RECOVER:
        if name in WEIGHTED:
            continue
        learns = name in LEARNING
        yield Method(
            name, p(run_recover, method=name), needs=METHODS_OF_RECOVER[name].needs, ours=True, learns=learns,
            warm_up=run_recover if learns else None,
        )  # fmt: skip
    yield Method("frame-by-frame", run_frame, ("time",), ours=True)
    complete = ("clean", "noise", "artefacts")
    yield Method("none", peers.run_none, complete)
    for form in INTERPOLATORS:
        kinds = ("planes", "noisy planes", "resolution", "time") + (("gaps",) if form == "linear" else ())
        yield Method(form, p(peers.run_along_z, form=form), kinds)
    yield Method("median", peers.run_median, ("gaps", "artefacts"))
    yield Method("tv", peers.run_tv, complete)
    yield Method("wavelet", peers.run_wavelet, complete, ("pywt",))
    yield Method("nlm", peers.run_nlm, complete)
    yield Method("bm4d", peers.run_bm4d, complete, ("bm4d",))
    yield Method("tensorly-tucker", tensorly_peers.run_tensorly_tucker, ("noise", "gaps", "artefacts"))
    yield Method("robust-pca", tensorly_peers.run_robust_pca, ("noise", "gaps", "artefacts"))


DENOISERS = ("tv", "wavelet", "nlm", "bm4d")
INTERPOLATORS = ("nearest", "linear", "cubic", "pchip")
METHODS: Mapping[str, Method] = {method.name: method for method in _methods()}
"""All methods by name."""


def choose_methods(wanted: Iterable[str | Method] | None = None) -> tuple[Method, ...]:
    """Methods by name; ``"bm4d+linear"`` denoises planes and interpolates between them, and ``"rcan3d:net"`` is the
    network of kind ``rcan3d`` in the folder ``net``. None: all that are installed.

    Without a choice, methods that fit a network are left out, and denoising before interpolation is done by BM4D where
    it is installed, by non-local means otherwise.
    """
    if wanted is None:
        plain = [method for method in METHODS.values() if not method.missing and not method.learns]
        first = "bm4d" if METHODS["bm4d"] in plain else "nlm"
        return (*plain, *(_by_name(f"{first}+{second}") for second in ("linear", "cubic")))
    found: dict[str, Method] = {}
    for item in [wanted] if isinstance(wanted, str | Method) else wanted:
        method = item if isinstance(item, Method) else _by_name(item)
        if method.missing:
            raise InputError(f"method {method.name} needs {' and '.join(method.missing)}, which is not installed")
        found[method.name] = method
    if not found:
        raise InputError("expected at least one method, got none")
    return tuple(found.values())


def _by_name(name: str) -> Method:
    if name in METHODS:
        return METHODS[name]
    if ":" in name:
        return fitted_method(name)
    first, _, second = name.partition("+")
    if first in DENOISERS and second in INTERPOLATORS:
        steps = METHODS[first], METHODS[second]
        run = functools.partial(peers.run_two, first=steps[0].run, second=steps[1].run)
        return Method(name, run, ("noisy planes", "time"), steps[0].needs)
    raise InputError(
        f"expected methods among {', '.join(METHODS)}, DENOISER+INTERPOLATOR such as bm4d+linear, or KIND:FOLDER of "
        f"fitted networks, got {name!r}"
    )
