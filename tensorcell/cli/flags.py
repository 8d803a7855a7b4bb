"""Flags of a command made of the fields of option dataclasses, so that defaults and help texts stand in one place."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from tensorcell.cli.options import option
from tensorcell.errors import InputError
from tensorcell.methods.protocol import Method, fields_of, takers

Command = Callable[..., None]


def with_flags(methods: Mapping[str, Method]) -> Callable[[Command], Command]:
    """Give a command, which takes ``**options``, a flag for each field of the methods' option classes.

    The help text is the field's own (``metadata["help"]``) with its default after it, in a panel for the methods that
    take the option. A flag that is not used is passed on as None.
    """

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        flags = [flag_of(name, homes, methods) for name, homes in homes_of(methods).items()]
        command.__signature__ = signature.replace(parameters=[*own, *flags])  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in (*own, *flags)} | {"return": None}
        return command

    return decorate


class Home(typing.NamedTuple):
    """A field of an option class, and the methods that take it."""

    field: dataclasses.Field[Any]
    kind: type
    names: tuple[str, ...]


def homes_of(methods: Mapping[str, Method]) -> dict[str, list[Home]]:
    """For each name of an option, the fields of this name; those of one name take the same texts."""
    found: dict[str, list[Home]] = {}
    for kind, names in takers(methods).items():
        for field in fields_of(kind):
            found.setdefault(field.name, []).append(Home(field, kind, names))
    return found


def panel_of(names: Sequence[str], methods: Mapping[str, Method]) -> str:
    """The panel of the help for options that these methods take."""
    return f"Options of {'every method' if len(set(names)) == len(methods) else '--method ' + '|'.join(names)}"


def flag_of(name: str, homes: list[Home], methods: Mapping[str, Method]) -> inspect.Parameter:
    """The parameter that typer makes a flag of."""
    wanted = typing.get_type_hints(homes[0].kind)[name]
    texts = {home.names: f"{home.field.metadata['help']}{default_text(home.field)}" for home in homes}
    several = len(texts) > 1
    text = "\n\n".join(f"{', '.join(names)}: {said}" if several else said for names, said in texts.items())
    spelt = f"--{name.replace('_', '-')}"
    panel = panel_of([each for names in texts for each in names], methods)
    if wanted is bool:
        both = f"{spelt}/--no-{spelt[2:]}" if homes[0].field.default else spelt
        annotation: Any = Annotated[bool | None, option(text, panel, both)]
    else:
        simple = next((kind for kind in (int, float) if wanted in (kind, kind | None)), str)
        shown = {int: "N", float: "NUMBER", str: "TEXT"}[simple]
        if takes_three(homes[0].kind, name):
            shown = "N|Z,Y,X"
        annotation = Annotated[simple | None, option(text, panel, spelt, metavar=shown)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def default_text(field: dataclasses.Field[Any]) -> str:
    """The sentence of the help text on the default; empty where that is None or False."""
    default = field.default
    if default is None or default is False or default is dataclasses.MISSING:
        return ""
    if default is True:
        return " Default: yes."
    return f" Default: {','.join(map(str, default)) if isinstance(default, tuple) else default}."


def given_options(methods: Mapping[str, Method], method: str, flags: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given, in the form that the dataclass of each takes.

    Raises
    ------
    InputError
        For an option that the method does not take.
    """
    homes, found = homes_of(methods), {}
    for name, value in flags.items():
        if value is None:
            continue
        names = tuple(each for home in homes[name] for each in home.names)
        if method in methods and method not in names:
            spelt = name.replace("_", "-")
            raise InputError(f"expected --method {' or '.join(names)} with --{spelt}, got --method {method}")
        found[name] = one_or_three(name, value) if takes_three(homes[name][0].kind, name) else value
    return found


def takes_three(kind: type, name: str) -> bool:
    """Whether a field is one whole number or three, which the command line gives as a text."""
    wanted = typing.get_type_hints(kind)[name]
    parts = typing.get_args(wanted) if isinstance(wanted, types.UnionType) else ()
    return int in parts and any(typing.get_origin(part) is tuple for part in parts)


def one_or_three(name: str, text: str) -> Any:
    """One whole number, or three.

    >>> one_or_three("patch", "5"), one_or_three("patch", "3,5,5")
    (5, (3, 5, 5))
    """
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) not in (1, 3):
        raise InputError(f"expected one whole number or three (z,y,x) for --{name.replace('_', '-')}, got {text!r}")
    return numbers[0] if len(numbers) == 1 else numbers
