"""The table of methods: those of :func:`tensorcell.recover`, and those that they are compared with."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
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

    @property
    def missing(self) -> tuple[str, ...]:
        """What it needs and is not installed."""
        return tuple(name for name in self.needs if importlib.util.find_spec(name) is None)


def run_recover(measurement: Measurement, seed: int, *, method: str | None = None) -> Array:
    """:func:`tensorcell.recover` with one of its methods; None: the one that it takes by default."""
    arguments: dict[str, Any] = dict(measurement.options)
    if measurement.sigma is not None:
        arguments["noise"] = measurement.sigma
    if method is not None:
        arguments["method"] = method
    result = recover(measurement.data, axial_factor=measurement.axial_factor, seed=seed, **arguments)
    return result.volume.data


def _methods() -> Iterator[Method]:
    p = functools.partial
    for name in METHODS_OF_RECOVER:
        learns = name in LEARNING
        yield Method(
            name, p(run_recover, method=name), ours=True, learns=learns, warm_up=run_recover if learns else None
        )
    complete = ("clean", "noise", "artefacts")
    yield Method("none", peers.run_none, complete)
    for form in INTERPOLATORS:
        kinds = ("planes", "noisy planes") + (("gaps",) if form == "linear" else ())
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
    """Methods by name; ``"bm4d+linear"`` denoises planes and interpolates between them. None: all that are installed.

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
    first, _, second = name.partition("+")
    if first in DENOISERS and second in INTERPOLATORS:
        steps = METHODS[first], METHODS[second]
        run = functools.partial(peers.run_two, first=steps[0].run, second=steps[1].run)
        return Method(name, run, ("noisy planes",), steps[0].needs)
    raise InputError(
        f"expected methods among {', '.join(METHODS)} or DENOISER+INTERPOLATOR such as bm4d+linear, got {name!r}"
    )
