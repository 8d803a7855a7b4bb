"""Threads of a solve: how many there are, how a pass is shared out among them, and BLAS held to one in each.

Nothing heavy is imported with this module: Numba is asked for its number of threads when a pass starts.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

Result = TypeVar("Result")

SHARES = 8
"""Shares of a pass whose results are added up: more would use more threads, and hold more of the partial sums."""


@lru_cache(maxsize=1)
def _pool(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="tensorcell")


def thread_count() -> int:
    """Threads that a pass uses: Numba's number (``numba.set_num_threads``), but no more than the cores allowed."""
    import numba

    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return min(int(numba.get_num_threads()), allowed)


@lru_cache(maxsize=1)
def _blas_libraries() -> ThreadpoolController:
    """The BLAS of NumPy and that of SciPy; finding them takes as long as a pass over a small volume."""
    import scipy.linalg.cython_blas  # noqa: F401  (Numba's dot calls it: it must be loaded before it can be found)
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


class _BlasLimit:
    """One BLAS thread while at least one solve runs: the first one in sets it, the last one out restores it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.limit: Any = None

    def enter(self) -> None:
        with self.lock:
            self.users += 1
            if self.users == 1:
                self.limit = _blas_libraries().limit(limits=1, user_api="blas")
                self.give_up_control()

    def leave(self) -> None:
        with self.lock:
            self.users -= 1
            if self.users == 0:
                self.limit.restore_original_limits()
                self.give_up_control()

    def give_up_control(self) -> None:
        """Let any thread change the limit: threadpoolctl ignores all but the one that set it while that is alive."""
        for library in _blas_libraries().lib_controllers:
            if hasattr(library, "clear_controlling_thread"):  # older versions have no such rule
                library.clear_controlling_thread()


_blas = _BlasLimit()


def _forget_threads() -> None:
    """In the child of a fork there are no threads but one."""
    global _blas
    _pool.cache_clear()
    _blas = _BlasLimit()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Hold BLAS to one thread for the length of a solve.

    The threads are those that share a pass. BLAS threads that the small algebra between passes wakes would spin beside
    them, which slowed a pass from 10 ms to 200 ms.
    """
    limit = _blas
    limit.enter()
    try:
        yield
    finally:
        limit.leave()


def share_out(work: Callable[[int, int], Result], size: int) -> list[Result]:
    """``work(first, last)`` on equal consecutive shares of ``range(size)``, one a thread; results in order.

    The calling thread takes the first share: each further thread costs BLAS its buffers, tens of megabytes.
    """
    count = max(1, min(thread_count(), size))
    if count == 1:
        return [work(0, size)]
    first, *rest = equal_shares(size, count)
    others = [_pool(count - 1).submit(work, *share) for share in rest]
    own = work(*first)
    return [own, *(other.result() for other in others)]


def share_out_sums(work: Callable[[int, int], Result], size: int) -> list[Result]:
    """As :func:`share_out`, on at most ``SHARES`` shares whatever the number of threads is.

    Sums over the shares, added in their order, are then the same bit for bit for any number of threads.
    """
    shares = equal_shares(size, max(1, min(SHARES, size)))

    def several(first: int, last: int) -> list[Result]:
        return [work(*share) for share in shares[first:last]]

    return [result for results in share_out(several, len(shares)) for result in results]


def equal_shares(size: int, count: int) -> list[tuple[int, int]]:
    """First and last index of ``count`` consecutive shares of ``range(size)``.

    >>> equal_shares(7, 3)
    [(0, 2), (2, 4), (4, 7)]
    """
    return list(pairwise(size * share // count for share in range(count + 1)))
