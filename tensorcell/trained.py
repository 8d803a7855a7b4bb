"""`train`: what ``tensorcell train`` does, from Python. Torch is imported when it is called."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tensorcell import network_training, prior_training
from tensorcell.errors import InputError
from tensorcell.files import claimed
from tensorcell.network_training import ModelRequest
from tensorcell.prior_training import TrainRequest

FilePath = str | os.PathLike[str]

PATHS = ("weights", "vae", "images")
"""Options that name a folder."""


def train(
    sources: FilePath | Sequence[FilePath],
    out: FilePath,
    *,
    kind: str = "lateral",
    progress: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Fit a prior, or networks that restore, to stacks in files, and write a folder.

    Parameters
    ----------
    sources : path or sequence of paths
        Stacks in the formats of `read`; for networks folders, too.
    out : path
        The folder: for ``recover(method="diffusion", prior=out)``, and networks for
        ``recover(method="microdiffuse3d", weights=out)``.
    kind : str
        ``"lateral"``, a prior of xy slices; ``"volume"``, one of whole volumes; ``"microdiffuse3d"``, networks that
        restore; ``"srcnn"``, ``"care"``, ``"swinir"``, ``"rln"``, ``"rcan3d"``, ``"dbpn"``, ``"ddpm"``, networks that
        these are compared with.
    progress : bool
        Say what the fit will take, and show a bar on stderr, if that is a terminal.
    **options
        The options of ``tensorcell train`` with their defaults: fields of
        :class:`tensorcell.prior_training.TrainRequest` for priors, and of
        :class:`tensorcell.network_training.ModelRequest` for networks.

    Returns
    -------
    dict
        Facts of the fit, such as ``steps``, ``seconds`` and ``heldout``: what ``tensorcell train --json`` prints.

    Raises
    ------
    InputError
        If torch is not installed or the input cannot be used; one line says what, expected and got.
    TypeError
        For an unknown option.
    KeyboardInterrupt
        On Ctrl-C, after the state was written beside ``out``: the same call with ``resume=True`` goes on.

    Notes
    -----
    A fit takes 5 minutes (of networks 20) unless ``minutes`` or ``steps`` is given. The folder appears whole or not at
    all.

    Examples
    --------
    >>> train("stack.tif", "prior", step=3)
    Traceback (most recent call last):
    ...
    TypeError: train has no option 'step' for kind 'lateral'; did you mean steps?
    """
    return fitted(request_of(sources, out, kind, {**options, "quiet": not progress}))


def request_of(
    sources: FilePath | Sequence[FilePath], out: FilePath, kind: str, options: dict[str, Any]
) -> TrainRequest | ModelRequest:
    """The options of a fit, whatever it fits."""
    names = [str(path) for path in _paths(sources)]
    form = TrainRequest if kind in prior_training.KINDS else ModelRequest
    check_options(options, form, kind)
    options = {name: Path(value) if name in PATHS and value is not None else value for name, value in options.items()}
    if form is TrainRequest:
        return TrainRequest(sources=tuple(names), out=Path(out), kind=kind, **options)
    low = network_training.sources_of([str(path) for path in _paths(options.pop("low", None) or ())])
    return ModelRequest(sources=network_training.sources_of(names), low=low, out=Path(out), kind=kind, **options)


def _paths(given: Any) -> list[FilePath]:
    """One path or several as a list."""
    found = [given] if isinstance(given, str | os.PathLike) or hasattr(given, "shape") else list(given)
    for path in found:
        if not isinstance(path, str | os.PathLike):
            raise InputError(
                f"expected paths of stacks to train with, got {type(path).__name__}; tensorcell.write makes files"
            )
    return found


def check_options(options: dict[str, Any], form: type[TrainRequest] | type[ModelRequest], kind: str) -> None:
    """Raise TypeError for an option that a fit of this kind does not have."""
    import difflib

    known = [field.name for field in dataclasses.fields(form) if field.name not in ("sources", "out", "kind")]
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(known)}"
            raise TypeError(f"train has no option {name!r} for kind {kind!r}; {hint}")


def fitted(request: TrainRequest | ModelRequest) -> dict[str, Any]:
    """Fit what is asked for; its facts."""
    with claimed([request.out]):
        return prior_training.train(request) if isinstance(request, TrainRequest) else network_training.train(request)
