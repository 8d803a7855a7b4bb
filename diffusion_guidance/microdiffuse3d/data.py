"""What networks are trained with: pieces of volumes, and what an acquisition, a mask or a microscope makes of them.

A :class:`Source` draws examples: low-resolution volumes and the truth. :class:`Sources` holds one to train with and one
that is held out. Low-resolution volumes and truths are normalised by their own limits, since nothing else is known of a
scan that is to be restored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tensorcell.diffusion_guidance.microdiffuse3d.degradation import Degradation, masked_blocks

DARKEST, BRIGHTEST = 0.1, 99.9
"""Percentiles of a volume that become 0 and 1."""

HELD_OUT = 6
"""One in so many volumes is held out; of fewer volumes, the last such share of each along y."""

LARGEST = (64, 256, 256)
"""Of larger volumes, only such a central part is degraded to find the limits of the degraded volume."""

Floats = npt.NDArray[np.float32]


class Span(NamedTuple):
    """The intensities of a volume that become 0 and 1."""

    low: float
    high: float

    @staticmethod
    def of(volume: npt.ArrayLike) -> Span:
        """Robust limits of a whole volume, so that its planes keep their relations."""
        low, high = np.percentile(np.asarray(volume), [DARKEST, BRIGHTEST])
        return Span(float(low), float(high) if high > low else float(low) + 1.0)

    def normalised(self, volume: npt.ArrayLike) -> Floats:
        """Intensities between about 0 and 1; those beyond are not cut."""
        return ((np.asarray(volume, dtype=np.float64) - self.low) / (self.high - self.low)).astype(np.float32)

    def restored(self, volume: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
        """The inverse of :meth:`normalised`."""
        return volume * (self.high - self.low) + self.low


class Example(NamedTuple):
    """Low-resolution volumes ``(B, 1, d, H, W)`` and their truth ``(B, 1, D, H, W)``, of the same lateral size."""

    volume: Tensor
    truth: Tensor


Source = Callable[[int, torch.Generator], Example]
"""``source(count, generator)`` draws examples."""


class Sources(NamedTuple):
    """Examples to train with, and examples that are held out."""

    train: Source
    held: Source


class Drawn(NamedTuple):
    """Pieces, and which volumes they are from."""

    pieces: tuple[Tensor, ...]
    """``(B, 1, D, H, W)`` of each of the aligned volumes."""
    numbers: Tensor
    """``(B,)``."""


class Pieces:
    """Random pieces of volumes.

    Parameters
    ----------
    volumes : sequence of tuples of float32 arrays ``(D, H, W)``
        Normalised. The volumes of a tuple show the same specimen; the first has `ratio` planes per plane of the others.
    shape : three ints
        Of a piece of the first; no volume may be smaller.
    ratio : int

    Raises
    ------
    ValueError
        If there is no volume, or one is smaller than a piece.
    """

    def __init__(self, volumes: Sequence[tuple[Floats, ...]], shape: tuple[int, int, int], ratio: int = 1) -> None:
        if not volumes:
            raise ValueError("expected at least one volume to train with, got none")
        for first, *_ in volumes:
            if any(size < wanted for size, wanted in zip(first.shape, shape, strict=True)):
                raise ValueError(f"a piece has shape {shape}, a volume only {first.shape}; choose smaller pieces")
        self.volumes = [tuple(torch.from_numpy(np.ascontiguousarray(v)) for v in aligned) for aligned in volumes]
        self.shape, self.ratio = shape, ratio
        self.weights = torch.tensor([float(first.numel()) for first, *_ in self.volumes])

    def draw(self, count: int, generator: torch.Generator) -> Drawn:
        """Volumes are drawn by their number of voxels; pieces are mirrored and turned at random within planes."""
        numbers = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        drawn = [self._one(self.volumes[int(number)], generator) for number in numbers]
        return Drawn(tuple(torch.stack(aligned)[:, None] for aligned in zip(*drawn, strict=True)), numbers)

    def _one(self, aligned: tuple[Tensor, ...], generator: torch.Generator) -> list[Tensor]:
        """A piece of each of several aligned volumes, at the same place."""

        def below(limit: int) -> int:
            return int(torch.randint(limit, (1,), generator=generator))

        depth, height, width = self.shape
        planes, *sides = aligned[0].shape
        start = self.ratio * below((planes - depth) // self.ratio + 1)
        top, left = (below(side - wanted + 1) for side, wanted in zip(sides, (height, width), strict=True))
        flips = [axis for axis in (1, 2) if torch.rand((), generator=generator) < 0.5]
        turned = height == width and bool(torch.rand((), generator=generator) < 0.5)
        pieces = []
        for number, volume in enumerate(aligned):
            ratio = self.ratio if number else 1
            piece = volume[start // ratio : (start + depth) // ratio, top : top + height, left : left + width]
            piece = piece.flip(flips)
            pieces.append(piece.transpose(1, 2) if turned else piece)
        return pieces


def split(volumes: Sequence[tuple[Floats, ...]], shape: tuple[int, int, int], ratio: int = 1) -> tuple[Pieces, Pieces]:
    """Pieces to train with and pieces that are held out.

    Of at least six volumes every sixth is held out; of fewer, the last sixth of each along y, where that holds a piece.
    Where nothing can be held out, all is trained with and looked at.
    """
    if len(volumes) >= HELD_OUT:
        held = list(volumes[HELD_OUT - 1 :: HELD_OUT])
        train = [each for number, each in enumerate(volumes, 1) if number % HELD_OUT]
        return Pieces(train, shape, ratio), Pieces(held, shape, ratio)
    train, held = [], []
    for aligned in volumes:
        height = aligned[0].shape[1]
        cut = height - max(shape[1], height // HELD_OUT)
        if cut >= shape[1]:
            train.append(tuple(volume[:, :cut] for volume in aligned))
            held.append(tuple(volume[:, cut:] for volume in aligned))
        else:
            train.append(aligned)
    return Pieces(train, shape, ratio), Pieces(held or train, shape, ratio)


def normalised(volumes: Sequence[npt.ArrayLike]) -> list[tuple[Floats]]:
    """Each volume by its own limits.

    Raises
    ------
    ValueError
        If a voxel is no finite number.
    """
    for number, volume in enumerate(volumes, 1):
        if not np.isfinite(volume).all():
            raise ValueError(f"expected finite volumes, got NaN or infinity in number {number}")
    return [(Span.of(volume).normalised(volume),) for volume in volumes]


def simulated(volumes: Sequence[npt.ArrayLike], degradation: Degradation, piece: tuple[int, int, int]) -> Sources:
    """What an acquisition makes of volumes ``(D, H, W)``, in any unit.

    Raises
    ------
    ValueError
        If the depth of a piece is no multiple of the axial factor, a volume is smaller than a piece, or a voxel is no
        finite number.
    """
    check_depth(piece, degradation.axial_factor)
    return Sources(*(_Simulated(pieces, degradation) for pieces in split(normalised(volumes), piece)))


def masked(volumes: Sequence[npt.ArrayLike], piece: tuple[int, int, int], side: int) -> Sources:
    """Volumes with masked blocks of pixels: pretraining that needs no acquisition."""
    return Sources(*(_Masked(pieces, side) for pieces in split(normalised(volumes), piece)))


def paired(
    low: Sequence[npt.ArrayLike], high: Sequence[npt.ArrayLike], piece: tuple[int, int, int],
    ratio: int | None = None,
) -> Sources:  # fmt: skip
    """Scans of the same specimens: `low` ``(d, H, W)`` and `high` ``(D, H, W)``, aligned, of the same lateral size.

    Plane 0 of both is the same. The ratio of their depths is a whole number, the same for all pairs; `high` may end
    with the last plane of `low`: then it has ``(d - 1) ratio + 1`` planes. Where the depths allow several, `ratio` says
    which.

    Raises
    ------
    ValueError
        If the volumes do not belong together.
    """
    if len(low) != len(high):
        raise ValueError(f"expected as many low- as high-resolution volumes, got {len(low)} and {len(high)}")
    pairs = [(first[0], second[0]) for first, second in zip(normalised(high), normalised(low), strict=True)]
    found = ratio_of([(first.shape, second.shape) for first, second in pairs], ratio)
    check_depth(piece, found)
    return Sources(*(_Paired(pieces) for pieces in split(pairs, piece, found)))


def mixed(parts: Sequence[tuple[Sources, float]]) -> Sources:
    """Several tasks: those of a batch are drawn from one of them, by their weights.

    Held-out examples come from each in turn.
    """
    weights = torch.tensor([weight for _, weight in parts], dtype=torch.float64)
    if not parts or not bool((weights > 0).all()) or not bool(weights.isfinite().all()):
        raise ValueError(f"expected tasks of positive weights, got {weights.tolist()}")

    def train(count: int, generator: torch.Generator) -> Example:
        return parts[int(torch.multinomial(weights, 1, generator=generator))][0].train(count, generator)

    return Sources(train, _InTurn([sources.held for sources, _ in parts]))


class _Simulated:
    """Pieces, and what an acquisition makes of them."""

    def __init__(self, pieces: Pieces, degradation: Degradation) -> None:
        self.pieces, self.degradation = pieces, degradation
        self.spans = [self._span(first) for first, *_ in pieces.volumes]

    def __call__(self, count: int, generator: torch.Generator) -> Example:
        (truth,), numbers = self.pieces.draw(count, generator)
        low, size = (torch.stack([self.spans[int(n)][k] for n in numbers]) for k in (0, 1))
        measured = self.degradation(truth, generator)
        return Example((measured - low.reshape(-1, 1, 1, 1, 1)) / size.reshape(-1, 1, 1, 1, 1), truth)

    def _span(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        """Lower limit and size of the range of the degraded volume."""
        factor = self.degradation.lateral_factor
        places = []
        for side, most, unit in zip(volume.shape, LARGEST, (1, factor, factor), strict=True):
            size = min(side, most) // unit * unit
            places.append(slice((side - size) // 2, (side - size) // 2 + size))
        part = volume[tuple(places)][None, None]
        span = Span.of(self.degradation(part, torch.Generator().manual_seed(0)).numpy())
        return torch.tensor(span.low), torch.tensor(span.high - span.low)


class _Masked:
    """Pieces, and the same with masked blocks."""

    def __init__(self, pieces: Pieces, side: int) -> None:
        self.pieces, self.side = pieces, side

    def __call__(self, count: int, generator: torch.Generator) -> Example:
        (truth,), _ = self.pieces.draw(count, generator)
        return Example(masked_blocks(truth, self.side, generator), truth)


class _Paired:
    """Pieces of two scans of a specimen."""

    def __init__(self, pieces: Pieces) -> None:
        self.pieces = pieces

    def __call__(self, count: int, generator: torch.Generator) -> Example:
        (truth, measured), _ = self.pieces.draw(count, generator)
        return Example(measured, truth)


class _InTurn:
    """Several sources, one after the other."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources, self.number = sources, -1

    def __call__(self, count: int, generator: torch.Generator) -> Example:
        self.number += 1
        return self.sources[self.number % len(self.sources)](count, generator)


def ratio_of(pairs: Sequence[tuple[tuple[int, ...], tuple[int, ...]]], stated: int | None = None) -> int:
    """Planes of high-resolution volumes per plane of the low-resolution ones, from their shapes.

    9 planes from 3 may be 3 times as many, or planes 0, 4 and 8: the first is taken unless another pair or `stated`
    says the second.

    >>> ratio_of([((16, 64, 64), (4, 64, 64))]), ratio_of([((13, 64, 64), (4, 64, 64)), ((9, 64, 64), (3, 64, 64))])
    (4, 4)

    Raises
    ------
    ValueError
        If they do not belong together.
    """
    possible: set[int] | None = None
    for high, low in pairs:
        if high[1:] != low[1:]:
            raise ValueError(
                f"expected pairs of one lateral size (interpolate the low-resolution one), got {low[1:]} and {high[1:]}"
            )
        found = {ratio for ratio in range(1, high[0] + 1) if high[0] in (ratio * low[0], ratio * (low[0] - 1) + 1)}
        if not found:
            raise ValueError(f"expected a whole number of planes per plane measured, got {high[0]} from {low[0]}")
        possible = found if possible is None else possible & found
    if not possible:
        raise ValueError("expected pairs of one ratio of depths, got several")
    if stated is None:
        return min(possible)
    if stated not in possible:
        raise ValueError(
            f"expected axial factor {' or '.join(map(str, sorted(possible)))} for these pairs, got {stated}"
        )
    return stated


def check_depth(piece: tuple[int, int, int], ratio: int) -> None:
    """Raise a ValueError unless a piece holds whole groups of planes."""
    if piece[0] % ratio:
        raise ValueError(f"the depth of a piece must be a multiple of the axial factor {ratio}, got {piece[0]}")
