"""Texts and marks of a panel as options of a method; which there are, and their defaults, the dataclasses say."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorcell.errors import InputError
from tensorcell.methods.protocol import takers
from tensorcell.methods.table import METHODS


def kinds_of_options() -> tuple[type, ...]:
    """The option classes of all methods; those that fewer methods take come first."""
    by_methods = takers(METHODS)
    return tuple(sorted(by_methods, key=lambda kind: len(by_methods[kind])))


def default_of(field: dataclasses.Field[Any]) -> str:
    """The default of a field as a text; empty for None.

    >>> from tensorcell.diffusion_guidance.options import DiffusionOptions
    >>> from tensorcell.methods.protocol import fields_of
    >>> [default_of(field) for field in fields_of(DiffusionOptions)][:4]
    ['', '8', '20', 'data']
    """
    if field.default is None:
        return ""
    return ",".join(map(str, field.default)) if isinstance(field.default, tuple) else str(field.default)


def is_path(kind: type, name: str) -> bool:
    """Whether an option names a folder of priors or networks."""
    wanted = typing.get_type_hints(kind)[name]
    return wanted is Any or Path in typing.get_args(wanted)


def options_given(kind: type, given: Mapping[str, str | bool]) -> dict[str, Any]:
    """The options of a class that differ from their defaults; an empty text stands for the default.

    >>> from tensorcell.solvers import LocalOptions
    >>> options_given(LocalOptions, {"patch": "3, 5, 5", "group": "", "step": "2"})
    {'patch': (3, 5, 5), 'step': 2}

    Raises
    ------
    InputError
        For a text that is no number where one is expected.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(kind)}
    wanted = typing.get_type_hints(kind)
    found: dict[str, Any] = {}
    for name, value in given.items():
        if isinstance(value, bool):
            if value != defaults[name]:
                found[name] = value
        elif value.strip():
            found[name] = value_of(name, wanted[name], value.strip())
    return found


def value_of(name: str, wanted: Any, text: str) -> Any:
    """The value of an option of this type: a number, three, or the text itself.

    >>> value_of("tolerance", float, "1e-3"), value_of("samples", int | None, "8"), value_of("cache", str, "a")
    (0.001, 8, 'a')
    """
    parts = typing.get_args(wanted) or (wanted,)
    several = any(typing.get_origin(part) is tuple for part in parts)
    number = float if float in parts else int if int in parts else None
    if number is None:
        return text
    try:
        numbers = tuple(number(part) for part in text.replace(",", " ").split())
    except ValueError:
        numbers = ()
    if len(numbers) != 1 and not (several and len(numbers) == 3):
        kind = "a whole number" if number is int else "a number"
        raise InputError(f"{shown_name(name)}: expected {kind}{' or three (z, y, x)' if several else ''}, got {text}")
    return numbers[0] if len(numbers) == 1 else numbers


def shown_name(name: str) -> str:
    """The name of an option as a panel shows it.

    >>> shown_name("fit_steps")
    'fit steps'
    """
    return name.replace("_", " ")
