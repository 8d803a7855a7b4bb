"""How many samples a low-rank tensor needs: degrees of freedom, coherence, and the recovery bounds of two theorems.

=========  =====================================================================  ==============
symbol     meaning                                                                here
=========  =====================================================================  ==============
k          number of modes                                                        ``len(shape)``
I, d, d*   largest, arithmetic mean and geometric mean of the sizes ``I_j``
r          largest of the ranks ``r_j``
r*         ``[1/(k d) sum_j (I_j/r_j) prod_l r_l]^(1/(k-1))``                     effective rank
mu_j       ``(I_j/r_j) max_i ||U_j' e_i||^2``, from 1 to ``I_j/r_j``              mode coherence
mu*        ``d*^k / (k r*^(k-1) d) max ||Q_T e||^2`` over all unit tensors e      ``mu``
lambda*    ``(1/r*) max_j mu_j r_j``, never below 1                               ``lam``
alpha*     ``(d*^k / r*)^(1/2) max |W_0|``                                        ``alpha``
s          number of outliers                                                     ``sparsity``
=========  =====================================================================  ==============

``Q_T = (x)_j P_j + sum_j P_j^perp (x)_{l != j} P_l`` with the projections ``P_j = U_j U_j'`` (it is wider than the
tangent space of the Tucker manifold, [3]_), and ``W_0`` is the part in the range of ``(x)_j P_j`` of a subgradient of
the tensor nuclear norm.

The theorems hold for entries drawn uniformly at random and for nuclear norm minimisation under incoherence constraints,
which nobody can compute; their constants are unknown. With the constant set to 1 they are a scale to compare with, not
a guarantee for a solver. The degrees of freedom are necessary for every method.

References
----------
.. [1] M. Yuan & C.-H. Zhang, Incoherent tensor norms and their applications in higher order tensor completion,
   arXiv:1606.03504 (2016): order of the sample size ``(r^((k-1)/2) I^(3/2) + r^(k-1) I) log^2 I``.
.. [2] Recover Cell Tensor: diffusion-equivalent tensor completion for fluorescence microscopy imaging: Theorem 1
   (Eq. 4 and 5), Theorem 2 (Eq. 6) and Appendix E. The full statement of Theorem 1 with ``mu*``, ``alpha*`` and
   ``lambda*`` is taken from there; its order agrees with [1]_.
.. [3] M. Yuan & C.-H. Zhang, On tensor completion via nuclear norm minimization, doi:10.1007/s10208-015-9269-5 (2016):
   the projection ``Q_T``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .arrays import Array, chunk_elements, from_host, namespace_of, scalar, to_host
from .rank_limits import degrees_of_freedom
from .tensors import fold, lead, multi_mode_product, unfold

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class RecoveryBound:
    """Numbers of samples, for a shape, a rank and coherences.

    Attributes
    ----------
    bound_theorem1 : float
        Theorem 1 with all its factors: this number suffices without outliers, up to the unknown constant.
    bound_theorem1_simplified : float or None
        Theorem 1 where all coherences are of order one; None unless there are three modes.
    bound_theorem2 : float
        Theorem 2 (outliers) as printed. It lacks a term of its own proof; ``bound_theorem2_full`` is what to judge by.
    bound_theorem2_full : float
        Theorem 2 with that term.
    degrees_of_freedom : int
        Number of free parameters of a tensor of this rank, which is necessary for every method.
    effective_rank : float
        ``r*``.
    """

    bound_theorem1: float
    bound_theorem1_simplified: float | None
    bound_theorem2: float
    bound_theorem2_full: float
    degrees_of_freedom: int
    effective_rank: float


@dataclass(frozen=True, kw_only=True)
class Coherence:
    """How evenly a Tucker model is spread over its entries.

    Attributes
    ----------
    mode : tuple of float
        ``mu_j``, one number a mode: 1 (even) to ``I_j / r_j`` (a slice that shares nothing with the others).
    mu, alpha, lam : float
        ``mu*``, ``alpha*`` (by the surrogate named in ``obtained``) and ``lambda*``.
    effective_rank : float
        ``r*`` of the ranks that the model really has.
    obtained : dict
        One phrase for each of the fields above: where the number comes from.
    """

    mode: tuple[float, ...]
    mu: float
    alpha: float
    lam: float
    effective_rank: float
    obtained: dict[str, str]


def recovery_bound(
    shape: Sequence[int],
    rank: int | Sequence[int],
    *,
    mu: float,
    alpha: float,
    lam: float,
    sparsity: float,
    beta: float = 1.0,
    constant: float = 1.0,
) -> RecoveryBound:
    """Numbers of uniformly drawn samples that two theorems ask for, and the number that every method needs.

    With ``L = log^2 I`` (natural logarithm) and ``C`` the constant::

        Theorem 1              C (1 + beta) [(mu + alpha^2 lam^(k-2)) r*^(k-1) I
                                             + alpha lam^(k/2-1) r*^((k-1)/2) I^(3/2)] L
        simplified, k = 3      C (r I^(3/2) + r^2 I) L
        Theorem 2, printed     C (r I^(3/2) + s) L
        Theorem 2, full        C (r^((k-1)/2) I^(3/2) + r^(k-1) I + s) L
        degrees of freedom     prod_j r_j + sum_j r_j (I_j - r_j)

    Parameters
    ----------
    shape : sequence of k ints
        Sizes of the tensor, k >= 2.
    rank : int or k ints
        Multilinear rank; an int stands for all modes. No rank of a tensor exceeds the product of the others, so a
        larger one is first reduced to that product.
    mu, alpha, lam : float
        ``mu* > 0``, ``alpha* > 0``, ``lambda* >= 1``, without unit; :func:`coherence` estimates them.
    sparsity : float
        Number s of outliers among the samples, from 0 to the number of entries.
    beta : float
        Theorem 1 holds with probability at least ``1 - I^(-beta)``.
    constant : float
        The unknown C of both theorems; 1 is a convention.

    Returns
    -------
    RecoveryBound

    Raises
    ------
    TypeError, ValueError
        If an argument is not a number, is out of its range, or a bound is too large for a float.

    Notes
    -----
    Sources: Theorem 1 is Eq. 5 of Recover Cell Tensor, its simplified form the last line of the theorem (stated there
    for k = 3 only; None for other k); Theorem 2 as printed is Eq. 6, and its full form the line of Step 6 in Appendix
    E.2 from which ``r^(k-1) I`` was dropped. Eq. 6 is printed for every k but derived for k = 3; it is reported as
    printed. A bound may exceed the number of entries; the theorem then says nothing.

    Examples
    --------
    Three modes, worked by hand. Shape (4, 4, 16), rank (1, 3, 5):

    - the product of the other two is 3, so rank 5 becomes 3: the rank is (1, 3, 3), and r = 3;
    - ``k d = 4 + 4 + 16 = 24``; ``r*^2 = (4*3*3 + 4*1*3 + 16*1*3) / 24 = (36 + 12 + 48) / 24 = 4``, so r* = 2;
    - degrees of freedom ``1*3*3 + 1*(4-1) + 3*(4-3) + 3*(16-3) = 9 + 3 + 3 + 39 = 54``;
    - ``I = 16, I^(3/2) = 64, L = (ln 16)^2 = 7.687248``;
    - Theorem 1 with mu 2, alpha 1.5, lam 4, beta 1: ``(2 + 2.25*4) * 4 * 16 = 704``, ``1.5 * 2 * 2 * 64 = 384``,
      so ``2 * (704 + 384) * L = 16727.45``;
    - simplified: ``(3*64 + 9*16) L = 336 L = 2582.92``;
    - Theorem 2 with s = 20: as printed ``(3*64 + 20) L = 212 L = 1629.70``, full ``(336 + 20) L = 2736.66``.

    >>> bound = recovery_bound((4, 4, 16), (1, 3, 5), mu=2, alpha=1.5, lam=4, sparsity=20)
    >>> bound.degrees_of_freedom, bound.effective_rank
    (54, 2.0)
    >>> round(bound.bound_theorem1, 2), round(bound.bound_theorem1_simplified, 2)
    (16727.45, 2582.92)
    >>> round(bound.bound_theorem2, 2), round(bound.bound_theorem2_full, 2)
    (1629.7, 2736.66)
    """
    sizes = checked_shape(shape)
    ranks = clipped_rank(rank, sizes)
    total = math.prod(sizes)
    mu = checked_number("mu", mu, above=0)
    alpha = checked_number("alpha", alpha, above=0)
    lam = checked_number("lam", lam, least=1)
    s = checked_number("sparsity", sparsity, least=0)
    if s > total:
        raise ValueError(f"expected sparsity of at most {total}, the number of entries, got {sparsity}")
    beta = checked_number("beta", beta, above=0)
    constant = checked_number("constant", constant, above=0)
    k, largest, r = len(sizes), max(sizes), max(ranks)
    try:
        r_star = effective_rank(sizes, ranks)
        log2 = math.log(largest) ** 2
        smooth = (mu + alpha**2 * lam ** (k - 2)) * r_star ** (k - 1) * largest
        rough = alpha * lam ** (k / 2 - 1) * r_star ** ((k - 1) / 2) * largest**1.5
        bounds = (
            constant * (1 + beta) * (smooth + rough) * log2,
            constant * (r * largest**1.5 + r**2 * largest) * log2,
            constant * (r * largest**1.5 + s) * log2,
            constant * (r ** ((k - 1) / 2) * largest**1.5 + r ** (k - 1) * largest + s) * log2,
        )
    except OverflowError:
        bounds = (math.inf,) * 4
    if not all(map(math.isfinite, bounds)):
        raise ValueError(
            f"expected numbers whose bounds fit a float, got shape {sizes}, rank {ranks}, mu {mu:g}, alpha {alpha:g}, "
            f"lam {lam:g}, beta {beta:g}, constant {constant:g}"
        )
    return RecoveryBound(
        bound_theorem1=bounds[0],
        bound_theorem1_simplified=bounds[1] if k == 3 else None,
        bound_theorem2=bounds[2],
        bound_theorem2_full=bounds[3],
        degrees_of_freedom=degrees_of_freedom(ranks, sizes),
        effective_rank=r_star,
    )


def effective_rank(shape: Sequence[int], rank: Sequence[int]) -> float:
    """``r* = [1/(k d) sum_j (I_j/r_j) prod_l r_l]^(1/(k-1))``, a mean of the ranks (Appendix E.1 of [2]_).

    >>> effective_rank((4, 4, 16), (1, 3, 3))
    2.0
    """
    product = math.prod(rank)
    mean = sum(size * (product // r) for size, r in zip(shape, rank, strict=True)) / sum(shape)
    return float(mean ** (1 / (len(shape) - 1)))


def coherence(core: Array, factors: Sequence[Array]) -> Coherence:
    """Coherences of a Tucker model ``X = G x_1 U_1 ... x_k U_k``, for :func:`recovery_bound`.

    Parameters
    ----------
    core : array ``(r_1, ..., r_k)``
        k >= 2, of one array library with the factors.
    factors : k arrays ``(I_n, r_n)``
        They may have any columns, which are orthonormalised, and directions that the core does not use (singular values
        of its unfoldings within rounding of zero) are left out.

    Returns
    -------
    Coherence

    Raises
    ------
    TypeError
        If the arrays belong to several libraries or are not real.
    ValueError
        If the factors do not fit the core, the model is zero, or it holds NaN or infinity.

    Notes
    -----
    ``||Q_T e||^2 = sum_j prod_{l != j} p_l - (k-1) prod_l p_l`` for the unit tensor e at ``(i_1, ..., i_k)``, where
    ``p_j = ||U_j' e_{i_j}||^2``. It grows with every ``p_j`` (they are at most 1), so the maximum is at the largest
    ``p_j`` of each mode and no scan is needed.

    ``W_0`` solves an NP-hard problem. Its surrogate is the polar factor ``P Q'`` of the unfolding ``P S Q'`` with the
    largest nuclear norm: its spectral norm as a tensor is at most 1 and it lies in the range of ``(x)_j P_j``, so it is
    dual feasible, and it is a subgradient where that nuclear norm equals the tensor's (two modes; orthogonally
    decomposable tensors). It is a Tucker model again, whose core is the polar factor of the core's unfolding, and its
    largest entry is found a few planes at a time, over all entries.

    These are coherences of the estimated model, so they carry its error.

    Cost: ``2 prod_n I_n r_last`` multiplications for the scan, SVDs of core size; memory of some planes.

    Examples
    --------
    A constant tensor is as even as can be, a single bright voxel as uneven:

    >>> import numpy as np
    >>> even = coherence(np.ones((1, 1, 1)), [np.ones((4, 1))] * 3)
    >>> [round(number, 9) for number in (even.mu, even.alpha, even.lam)]
    [0.833333333, 1.0, 1.0]
    >>> spike = coherence(np.ones((1, 1, 1)), [np.eye(4, 1)] * 3)
    >>> [round(number, 9) for number in (spike.mu, spike.alpha, spike.lam)]
    [5.333333333, 8.0, 4.0]
    """
    small, bases, precision = orthonormal_model(core, factors)
    sizes = tuple(len(basis) for basis in bases)
    subspaces, polar_core, nuclear = [], small, -1.0
    best = 0
    for mode, basis in enumerate(bases):
        left, values, right = np.linalg.svd(unfold(small, mode), full_matrices=False)
        used = values > precision * max(small.shape) * values[0]
        subspaces.append(basis @ left[:, used])
        if values.sum() > nuclear:
            nuclear, best = float(values.sum()), mode
            polar_core = fold(left[:, used] @ right[used, :], mode, small.shape)
    k, rank = len(sizes), tuple(subspace.shape[1] for subspace in subspaces)
    # The squared row norms of an orthonormal basis are at most 1; rounding must not make them larger.
    peaks = [min(1.0, float(np.max(np.sum(subspace**2, axis=1)))) for subspace in subspaces]
    r_star = effective_rank(sizes, rank)
    projected = sum(math.prod(peaks[:j] + peaks[j + 1 :]) for j in range(k)) - (k - 1) * math.prod(peaks)
    peak = largest_entry(polar_core, bases, like=core)
    of_model = "of the estimated model"
    return Coherence(
        mode=tuple(size / r * p for size, r, p in zip(sizes, rank, peaks, strict=True)),
        mu=math.prod(sizes) / (r_star ** (k - 1) * sum(sizes)) * projected,
        alpha=math.sqrt(math.prod(sizes) / r_star) * peak,
        lam=max(1.0, max(size * p for size, p in zip(sizes, peaks, strict=True)) / r_star),
        effective_rank=r_star,
        obtained={
            "mode": f"largest squared row norm of each orthonormal factor {of_model}",
            "mu": f"closed form of the largest ||Q_T e||^2 over all entries, from the factors {of_model}",
            "alpha": f"surrogate: polar factor of the mode-{best} unfolding (largest nuclear norm) {of_model} in place "
            "of the subgradient W_0, which is NP-hard; largest entry over all voxels",
            "lam": "smallest value that the theorem allows, from the mode coherences",
            "effective_rank": f"from the shape and the rank {rank} {of_model}",
        },
    )


def orthonormal_model(core: Array, factors: Sequence[Array]) -> tuple[Floats, list[Floats], float]:
    """The same tensor with orthonormal factors, on the host in float64, and the precision of what was given."""
    namespace_of(core, *factors)
    if core.ndim < 2 or len(factors) != core.ndim:
        raise ValueError(
            f"expected a core of two modes or more and one factor a mode, got {core.ndim} modes, {len(factors)} factors"
        )
    given = [to_host(array) for array in (core, *factors)]
    for array in given:
        if array.dtype.kind not in "fiub":
            raise TypeError(f"expected real numbers, got dtype {array.dtype}")
    for mode, (factor, r) in enumerate(zip(given[1:], core.shape, strict=True)):
        if factor.ndim != 2 or factor.shape[1] != r or min(factor.shape) < 1:
            raise ValueError(
                f"factor {mode} has shape {tuple(factor.shape)}, expected (I_{mode}, {r}) with I and r >= 1"
            )
    if not all(np.all(np.isfinite(array)) for array in given):
        raise ValueError("expected a model of finite numbers, got NaN or infinity")
    precision = max(float(np.finfo(array.dtype).eps) if array.dtype.kind == "f" else 0.0 for array in given)
    doubles = [np.asarray(array, dtype=np.float64) for array in given]
    # Coherences do not depend on the scale; with largest entries of one neither products nor squares overflow.
    scales = [float(np.max(np.abs(array))) for array in doubles]
    if min(scales) > 0:
        doubles = [array / scale for array, scale in zip(doubles, scales, strict=True)]
        pairs = [np.linalg.qr(factor) for factor in doubles[1:]]
        small = multi_mode_product(doubles[0], [triangle for _, triangle in pairs])
        if np.any(small):
            return small, [basis for basis, _ in pairs], max(precision, float(np.finfo(np.float64).eps))
    raise ValueError("expected a model other than zero, got zeros only")


def largest_entry(core: Floats, factors: Sequence[Floats], like: Array) -> float:
    """``max |X|`` of a Tucker model, some planes or rows at a time, on the device of ``like``."""
    xp = namespace_of(like)
    order = np.argsort([len(factor) for factor in factors], kind="stable")  # two longest last: least memory in lead
    model = [from_host(array, like) for array in (np.transpose(core, order), *(factors[mode] for mode in order))]
    stack, (left, right) = lead(model[0], model[1:]), model[-2:]
    rows = max(1, min(left.shape[0], chunk_elements(xp) // right.shape[0]))
    planes = max(1, chunk_elements(xp) // (rows * right.shape[0]))
    largest = 0.0
    for plane in range(0, stack.shape[0], planes):
        part = stack[plane : min(stack.shape[0], plane + planes), :, :]
        for row in range(0, left.shape[0], rows):
            some = left[row : min(left.shape[0], row + rows), :]
            entries = xp.matmul(xp.matmul(some, part), right.T)
            largest = max(largest, scalar(xp.max(entries)), -scalar(xp.min(entries)))
    return largest


def verdict(
    *,
    observed: int,
    total: int,
    degrees_of_freedom: float,
    empty_slices: bool,
    empirical: float | None,
    theorem: float,
) -> tuple[str, str]:
    """Can the low-rank model alone recover the tensor? One word and one sentence.

    Parameters
    ----------
    observed, total : int
        Samples, and entries of the whole tensor.
    degrees_of_freedom : float
        Degrees of freedom of the rank that was asked for.
    empty_slices : bool
        Whether any index of any mode was never measured.
    empirical : float or None
        Number of samples from which simulations succeed; None where there are no simulations.
    theorem : float
        Number of samples in the theorem's form with C = 1 (``bound_theorem2_full``).

    Returns
    -------
    word : str
        ``"impossible"`` where a slice is empty or the samples are fewer than the degrees of freedom; else
        ``"unlikely"`` below the empirical threshold, or, where there is none, between the degrees of freedom and the
        theorem; ``"guaranteed"`` at or above the theorem's form; ``"likely"`` otherwise, and at least this where every
        entry was observed.
    sentence : str

    Raises
    ------
    TypeError, ValueError
        If an argument is not a number or out of its range.

    Notes
    -----
    The empirical threshold is applied before the theorem: C = 1 is a convention, and simulations that fail refute it.
    The word says nothing about models that go beyond low rank (smoothness along an axis, a learned prior), which is
    what planes that were not measured need.

    Examples
    --------
    >>> verdict(observed=900, total=1000, degrees_of_freedom=100, empty_slices=False, empirical=300, theorem=5000)
    ('likely', 'The low-rank model is likely to recover this: 900 samples reach the empirical threshold of 300.')
    """
    total = whole_number("total", total)
    observed = whole_number("observed", observed, least=0)
    if observed > total:
        raise ValueError(f"expected at most {total} observed entries, the total, got {observed}")
    free = checked_number("degrees_of_freedom", degrees_of_freedom, least=0)
    threshold = None if empirical is None else checked_number("empirical", empirical, least=0)
    bound = checked_number("theorem", theorem, least=0)
    samples = f"{observed:,} sample{'' if observed == 1 else 's'}"
    if empty_slices:
        return "impossible", (
            "The low-rank model alone cannot recover this: whole slices were never measured, and the other slices hold "
            "no information about them."
        )
    complete = observed == total
    if observed < free and not complete:
        return "impossible", (
            f"The low-rank model cannot recover this: {samples} for {math.ceil(free):,} degrees of freedom of its rank."
        )
    if not complete and threshold is not None and observed < threshold:
        return "unlikely", (
            f"The low-rank model is unlikely to recover this: {samples}, below the empirical threshold of "
            f"{math.ceil(threshold):,}."
        )
    if observed >= bound:
        return "guaranteed", (
            f"The low-rank model recovers this in the sense of the theorem: {samples} reach its {math.ceil(bound):,} "
            "(with its unknown constant set to 1, for entries drawn uniformly at random)."
        )
    if complete:
        return (
            "likely",
            "Every entry was observed: the low-rank model has noise and outliers to remove, but no gaps to fill.",
        )
    if threshold is None:
        return "unlikely", (
            f"The low-rank model is unlikely to recover this: {samples} lie between the {math.ceil(free):,} degrees of "
            f"freedom and the {math.ceil(bound):,} of the theorem, and no empirical threshold is known."
        )
    return "likely", (
        f"The low-rank model is likely to recover this: {samples} reach the empirical threshold of "
        f"{math.ceil(threshold):,}."
    )


def checked_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape as a tuple of at least two positive ints."""
    if isinstance(shape, str) or np.ndim(shape) != 1 or len(shape) < 2:
        raise ValueError(f"expected a shape of at least two sizes, got {shape!r}")
    return tuple(whole_number("each size", size) for size in shape)


def clipped_rank(rank: int | Sequence[int], shape: Sequence[int]) -> tuple[int, ...]:
    """One rank a mode, each reduced to the product of the others (at most one can exceed it).

    >>> clipped_rank((2, 3, 10), (20, 20, 20))
    (2, 3, 6)
    """
    given: Any = (rank,) * len(shape) if np.ndim(rank) == 0 else tuple(rank)  # type: ignore[arg-type]
    if len(given) != len(shape):
        raise ValueError(f"rank has {len(given)} entries, shape has {len(shape)}")
    ranks = [whole_number("each rank", number) for number in given]
    for mode, (number, size) in enumerate(zip(ranks, shape, strict=True)):
        if number > size:
            raise ValueError(f"rank {number} does not fit mode {mode} of size {size} (expected 1 to {size})")
    product = math.prod(ranks)
    return tuple(min(number, product // number) for number in ranks)


def whole_number(name: str, value: object, least: int = 1) -> int:
    """The value as an int."""
    if not checked_number(name, value, least=least).is_integer():
        raise TypeError(f"expected {name} as a whole number, got {value!r}")
    return int(value)  # type: ignore[call-overload, no-any-return]


def checked_number(name: str, value: object, *, least: float | None = None, above: float | None = None) -> float:
    """The value as a finite float within its range."""
    wanted = f"of at least {least:g}" if least is not None else f"above {above:g}"
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"expected {name} as a number {wanted}, got {value!r}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    low = (least is not None and number < least) or (above is not None and number <= above)
    if low or not math.isfinite(number):
        raise ValueError(f"expected {name} as a finite number {wanted}, got {value!r}")
    return number
