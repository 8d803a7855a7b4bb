"""What is found of a stack as a whole, once, for all parts of it.

A stack that does not fit into memory is recovered part by part. What an estimate rests on as a whole - the law of the
noise, the weights of the filters, how far left-out voxels were missed - must not differ from part to part, or borders
would show. It is found on a sample of the stack first, and every part is then given the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

Found = TypeVar("Found")


@dataclass(frozen=True, eq=False)
class Settled:
    """What a sample told, by name.

    A sample keeps what is found on it (``keeps``); a part takes what the sample kept, and finds only for itself what
    the sample did not need. A stack that is recovered as a whole does neither.

    Examples
    --------
    >>> sample = Settled(keeps=True)
    >>> sample.once("noise", lambda: 2.0), sample.once("noise", lambda: 3.0)
    (2.0, 2.0)
    >>> part = sample.for_parts()
    >>> part.once("noise", lambda: 3.0), part.once("rank", lambda: 7), "rank" in part.found
    (2.0, 7, False)
    >>> Settled().once("noise", lambda: 3.0)
    3.0
    """

    found: Mapping[str, Any] = field(default_factory=dict)
    keeps: bool = False
    inner: tuple[slice, slice, slice] | None = None
    """What is wanted of a part along z, y and x; the rest is its rim."""
    shape: tuple[int, ...] = ()
    """Sides of the part, with its rim."""

    def inner_of(self, shape: Sequence[int]) -> tuple[slice, slice, slice] | None:
        """What is wanted of a part of this shape; None where all is, or where planes or lines were set aside."""
        if self.inner is None or tuple(shape[-3:]) != self.shape:
            return None
        return self.inner

    def once(self, name: str, find: Callable[[], Found]) -> Found:
        """What the sample told under this name; otherwise what ``find`` finds, which a sample keeps."""
        if name in self.found:
            told: Found = self.found[name]
            return told
        found = find()
        if self.keeps:
            self.found[name] = found  # type: ignore[index]
        return found

    def told(self, name: str) -> Any:
        """What the sample told under this name; None where this is no part, or the sample did not need it."""
        return self.found.get(name)

    def for_parts(self) -> Settled:
        """The same for the parts of the stack."""
        return Settled(dict(self.found))
