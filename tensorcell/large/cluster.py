"""The workers of a dask.distributed cluster: parts of stacks as tasks, and sums over blocks that are added in a tree.

What many tasks need (the stacks, a request, the model of a sweep) is the result of a task, too, and not scattered:
scattered data of which a worker that dies held the only copy are lost, whereas the scheduler repeats tasks.

A worker does one task at a time, with as many threads as it was given (``dask worker --nthreads``) and BLAS on one:
the memory is planned for one part, and results are those of one process bit for bit, since what depends on the number
of threads is added up in shares whose number is fixed (`tensorcell.solvers.threads`).
"""

from __future__ import annotations

import logging
import operator
import platform
import queue
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from tensorcell import version
from tensorcell.device import DEVICES, NUMBERED, cuda_problem, cupy_is_installed, free_on
from tensorcell.errors import InputError
from tensorcell.files.messages import library, reason
from tensorcell.large.measured import MeasuredStack, tried_of
from tensorcell.large.workers import Call, Place
from tensorcell.solvers.blocks import Block, MapBlocks
from tensorcell.solvers.threads import one_blas_thread

IN_FLIGHT = 2
"""Calls for each worker whose results were not taken yet: the one that it does, and the next."""

WAIT = 60
"""Seconds within which there must be a worker."""

CONNECT = 10
"""Seconds within which a scheduler must answer."""

_one = threading.Lock()
"""Held by the task that a worker does."""

_passed: set[str] = set()
"""Tokens of the checks that this process has passed."""


class Unfit(Exception):
    """A worker cannot do what is asked for; no `InputError`, which would be taken for one of the stack."""


class Check(NamedTuple):
    """What a worker must have."""

    token: str
    version: str
    stacks: Sequence[MeasuredStack]
    """Those it works on."""
    tried: Any
    """What `tried_of` reads of the first of them here."""
    device: str = "cpu"


class Card(NamedTuple):
    """What a worker says of its GPU."""

    problem: str
    """Why it cannot be used; else nothing."""
    installed: bool
    """Whether there is a CuPy."""
    name: str = ""
    """Which it is of all GPUs of the cluster."""
    free: int = 0
    """Bytes."""


def same_values(one: Any, two: Any) -> bool:
    """Whether two arrays, or two None, are alike."""
    if one is None or two is None:
        return one is two
    return np.array_equal(one, two, equal_nan=one.dtype.kind == "f")


# What runs on a worker are functions of this module, so that only their names are sent.


def unfit_here(check: Check) -> str:
    """Why this process cannot do the work: it has another program, or does not see the same input; else nothing."""
    if check.token in _passed:
        return ""
    if check.version != version.__version__:
        return f"expected tensorcell {check.version}, got {version.__version__}"
    if check.device != "cpu" and (problem := cuda_problem()):
        return no_gpu(problem)
    if check.stacks:
        try:
            found = tried_of(check.stacks[0])
        except InputError as error:
            return f"cannot read the input: {error}"
        if not all(map(same_values, found, check.tried)):
            return "the input has other values there: expected the same file under the same path"
    _passed.add(check.token)
    return ""


def no_gpu(problem: str) -> str:
    """What is said of a worker on which no GPU can be used."""
    return f"device 'cuda' needs a CUDA GPU and CuPy: {problem}"


def card_here() -> Card:
    """The GPU of this process: the first that it sees."""
    problem = cuda_problem()
    if problem:
        return Card(problem, cupy_is_installed())
    import cupy

    return Card("", True, f"{platform.node()} {cupy.cuda.Device(0).pci_bus_id}", free_on("cuda") or 0)


@contextmanager
def all_threads() -> Iterator[None]:
    """The threads that this worker was given, for one task at a time."""
    import distributed
    import numba

    given = distributed.get_worker().state.nthreads
    with _one, one_blas_thread():
        before = numba.get_num_threads()
        numba.set_num_threads(min(given, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
        try:
            yield
        finally:
            numba.set_num_threads(before)


def same(thing: Any) -> Any:
    """The thing itself."""
    return thing


def called(check: Check, function: Callable[..., Any], stack: int, *arguments: Any) -> Any:
    """Make a call."""
    import distributed

    with all_threads():
        problem = unfit_here(check)
        if problem:
            raise Unfit(f"worker {distributed.get_worker().address}: {problem}")
        return function(check.stacks[stack], *arguments)


def applied(function: Callable[[Any], Any], block: Any) -> Any:
    """Run a function on a block."""
    with all_threads():
        return function(block)


class Cluster:
    """The workers of a cluster, as `tensorcell.large.workers.Workers`.

    Parameters
    ----------
    client : distributed.Client
    stacks : sequence of MeasuredStack
    device : {"cpu", "cuda"}

    Raises
    ------
    Unfit
        If there is no worker, or one that has another program or not that device, or cannot read the stacks.
    """

    def __init__(self, client: Any, stacks: Sequence[MeasuredStack], device: str = "cpu") -> None:
        self.client = client
        self.waiting: set[Any] = set()
        check = Check(uuid.uuid4().hex, version.__version__, stacks, tried_of(stacks[0]), device)
        try:
            self.check = self.share(check)
        except Exception as error:  # whatever pickle raises
            raise Unfit(f"this volume cannot be sent to other processes: {reason(first_of(error))}") from error
        check_workers(client, check)

    def share(self, thing: Any) -> Any:
        """As `Workers.share`."""
        return submitted(self.client, same, thing)

    def run(
        self, function: Callable[..., Any], calls: Iterable[Call], *, first: bool = False
    ) -> Iterator[tuple[Any, Any]]:
        """As `Workers.run`."""
        ahead, finished = iter(calls), queue.SimpleQueue[Any]()
        waiting: dict[Any, tuple[Any, str]] = {}  # futures: keys, and the workers that the calls are meant for
        more = True
        while more or waiting:
            addresses = list(self.client.nthreads())
            while more and len(waiting) < IN_FLIGHT * max(1, len(addresses)):
                call = next(ahead, None)
                if call is None:
                    more = False
                    break
                busy = Counter(address for _, address in waiting.values())
                address = min(addresses, key=lambda each: busy[each], default="")
                future = submitted(
                    self.client, called, self.check, function, call.stack, *call.arguments,
                    workers=[address] if address else None, priority=int(first),
                )  # fmt: skip
                waiting[future] = call.key, address
                self.waiting.add(future)
                future.add_done_callback(finished.put)
            if waiting:
                future = finished.get()
                key, _ = waiting.pop(future)
                result = future.result()
                self.waiting.remove(future)
                future.release()  # the worker forgets it
                yield key, result

    def cancel(self) -> None:
        """Have the scheduler forget the calls that are not finished."""
        for future in (self.check, *self.waiting):
            future.release()
        self.waiting.clear()


def first_of(error: BaseException) -> BaseException:
    """The exception with which it began."""
    while (earlier := error.__cause__ or error.__context__) is not None:
        error = earlier
    return error


def check_workers(client: Any, check: Check) -> None:
    """Look at all workers before the work; those that come later look at themselves."""
    wait_for_one(client)
    if isinstance(check.stacks[0].stack.volume.data, np.ndarray):
        check = check._replace(stacks=(), token=f"of the version and {check.device}")  # no file has to be seen
    for address, found in client.run(unfit_here, check, on_error="return").items():
        if found:
            raise Unfit(f"worker {address}: {found if isinstance(found, str) else not_run(found)}")


def wait_for_one(client: Any) -> None:
    """Wait until there is a worker."""
    try:
        client.wait_for_workers(1, timeout=WAIT)
    except TimeoutError:
        raise Unfit(f"expected at least one worker at the scheduler, got none in {WAIT} s") from None


def not_run(error: BaseException) -> str:
    """What is said of a worker that does not find or start the program."""
    return f"tensorcell cannot be run: {reason(error)}"


def place_of_workers(client: Any, device: Any) -> Place:
    """The place of a cluster for a device that was asked for; no GPU is needed here.

    Each worker computes on the first GPU that it sees. The bytes are those that the worker with the fewest has, workers
    that see the same GPU having equal shares of it. ``"auto"`` is the GPU where all workers have one that works.

    Raises
    ------
    InputError
        If there is no worker, or a GPU is asked for that a worker lacks.
    """
    if not isinstance(device, str) or device not in DEVICES:
        if isinstance(device, str) and NUMBERED.fullmatch(device):
            raise InputError(
                "on a cluster each worker computes on the first GPU that it sees (CUDA_VISIBLE_DEVICES, which "
                f"dask cuda worker sets): expected device {', '.join(DEVICES)}, got {device!r}"
            )
        raise InputError(f"expected device {', '.join(DEVICES)}, got {device!r}")
    if device == "cpu":
        return Place("cpu", None)
    with in_one_line():
        wait_for_one(client)
        cards: dict[str, Card] = {}
        for address, card in client.run(card_here, on_error="return").items():
            if not isinstance(card, Card):
                raise Unfit(f"worker {address}: {not_run(card)}")
            if card.problem and device == "cuda":
                raise Unfit(f"worker {address}: {no_gpu(card.problem)}")
            cards[address] = card
    lacking = [f"worker {address}: {card.problem}" for address, card in cards.items() if card.problem]
    if not lacking:
        shared = Counter(card.name for card in cards.values())
        return Place("cuda", min(card.free / shared[card.name] for card in cards.values()))
    if not any(card.installed for card in cards.values()):
        return Place("cpu", None)
    return Place("cpu", None, (f"computed on the CPU, since not all workers have a GPU that works: {lacking[0]}",))


def submitted(
    client: Any, function: Callable[..., Any], *arguments: Any, workers: Any = None, priority: int = 0
) -> Any:
    """The future of a call; ``workers`` are those who should make it, if they can."""
    import dask

    # What is shared is large only where a volume lies in memory, and then it is sent once.
    with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1TB"}):
        return client.submit(
            function, *arguments, pure=False, workers=workers, allow_other_workers=workers is not None,
            priority=priority,
        )  # fmt: skip


@contextmanager
def cluster(client: Any, stacks: Sequence[MeasuredStack], device: str = "cpu") -> Iterator[Cluster]:
    """The workers of a client's cluster for work on stacks; what is unfinished at the end is cancelled.

    Raises
    ------
    InputError
        If they cannot do it, or are lost.
    """
    found = None
    try:
        with in_one_line():
            found = Cluster(client, stacks, device)
            yield found
    finally:
        if found is not None:
            found.cancel()


@contextmanager
def in_one_line() -> Iterator[None]:
    """What goes wrong with a cluster as an `InputError`."""
    distributed = library("distributed", "distributed")
    try:
        yield
    except Unfit as error:
        raise InputError(f"the cluster cannot do the work: {error}") from error
    except distributed.KilledWorker as error:
        raise InputError(
            f"a part was given up, since {error.allowed_failures + 1} workers died at it; perhaps they have less memory"
            " than memory= (--memory) allows"
        ) from error
    except (distributed.comm.CommClosedError, CancelledError, TimeoutError) as error:
        raise InputError(f"the cluster was lost: {reason(error)}") from error


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """A client of the scheduler at an address.

    Raises
    ------
    InputError
        If none answers there.
    """
    distributed = library("distributed", "distributed")
    try:
        client = distributed.Client(address, timeout=CONNECT, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"expected the address of a dask.distributed scheduler, such as tcp://host:8786, got {address!r}: "
            f"{reason(error)}"
        ) from error
    with client, _quiet_cancelling():
        yield client


@contextmanager
def _quiet_cancelling() -> Iterator[None]:
    """No traceback in the log where Ctrl-C comes before a request has begun.

    What is to cancel the request then fails with a `NameError`, since it is not yet there (distributed 2026.8.0, `sync`
    in its ``utils.py``).
    """
    log = logging.getLogger("tornado.application")

    def matters(record: logging.LogRecord) -> bool:
        kind = record.exc_info[0] if record.exc_info else None
        return not (kind is NameError and "sync.<locals>.cancel" in record.getMessage())

    log.addFilter(matters)
    try:
        yield
    finally:
        log.removeFilter(matters)


def memory_of_workers(client: Any) -> float | None:
    """Bytes that each worker may use at least; None where none has a limit."""
    library("distributed", "distributed")
    limits = [worker["memory_limit"] for worker in client.scheduler_info()["workers"].values()]
    return float(min(limit for limit in limits if limit)) if any(limits) else None


def dask_map(client: Any) -> MapBlocks:
    """``map_blocks`` of a `tensorcell.solvers.BlockedStack` that runs on a cluster and adds results up there.

    Parameters
    ----------
    client : distributed.Client

    Returns
    -------
    callable
        It gives one result, the sum. The function (in a sweep: core and factors) goes to each worker once. Blocks side
        by side belong to one worker, and halves of the blocks are added up there where one of them is, so that of the
        results only sums over many blocks travel.

    Notes
    -----
    The tree depends on the number of blocks alone: with any number of workers, and if one dies, sums are the same bit
    for bit. They differ from those of the built-in ``map``, which adds in another order, by rounding.
    """
    library("distributed", "distributed")

    def mapped(function: Callable[[Block], Any], blocks: Sequence[Block]) -> list[Any]:
        addresses, shared = sorted(client.nthreads()), submitted(client, same, function)

        def total(first: int, last: int) -> Any:
            if last - first == 1:
                workers = [addresses[first * len(addresses) // len(blocks)]] if addresses else None
                return submitted(client, applied, shared, blocks[first], workers=workers)
            middle = (first + last) // 2
            return submitted(client, operator.add, total(first, middle), total(middle, last))

        try:
            return [total(0, len(blocks)).result()]
        finally:
            shared.release()

    return mapped
