"""Calls that are tried in a child process first: a damaged file can crash a library written in C, or keep it busy.

One child process serves all calls of this one. It is started with the first call, which takes a fraction of a second;
each further call takes about a millisecond and what it does itself. It ends when this process ends, or is killed. Where
no Python can be started (in a frozen program), nothing is tried.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from tensorcell.errors import InputError

SECONDS = 60.0
"""A call that takes longer is taken for one that never ends."""

SERVE = "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from tensorcell.files.probing import serve; serve()"


class _State:
    """The child process, and what it was asked before."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.child: subprocess.Popen[str] | None = None
        self.possible = bool(sys.executable) and not getattr(sys, "frozen", False)
        self.survived: set[tuple[Any, ...]] = set()


_state = _State()
_inherited: list[_State] = []
"""Of a process that was forked: those of its parent, which alone may use them."""


def try_first(call: str, file: Path, *arguments: Any) -> None:
    """Raise `InputError` if ``call(file, *arguments)`` crashes or does not end; return whatever else it does.

    A file that was tried and has not changed since is not tried again.

    Parameters
    ----------
    call : str
        ``package.module:function``.
    file : path
    arguments : object
        What JSON can hold.

    Raises
    ------
    InputError
        If the child process died in the call, or if it took longer than `SECONDS`.
    """
    key = (*_identity(file), call, *arguments)
    with _state.lock:
        if key in _state.survived or key[:4] in _state.survived:
            return
        child = _running_child()
        if child is None:
            return
        _ask(child, json.dumps([call, os.path.abspath(file), *arguments, SECONDS]))
        _state.survived.add(key)


def trust(file: Path) -> None:
    """Say that a file was written by this process, so that nothing need be tried until it changes."""
    _state.survived.add(_identity(file))


def serve() -> None:
    """In the child process: make the calls that are asked for, a line of JSON each, and answer when one has ended."""
    print("ready", flush=True)
    for line in sys.stdin:
        call, *arguments, seconds = json.loads(line)
        with suppress(AttributeError):  # a system without alarms
            signal.alarm(int(seconds) + 10)  # the parent kills before this, unless it was killed itself
        module, function = call.split(":")
        with suppress(Exception):  # the parent will see it again and say it
            getattr(importlib.import_module(module), function)(Path(arguments[0]), *arguments[1:])
        with suppress(AttributeError):
            signal.alarm(0)
        print("ended", flush=True)


def _identity(file: Path) -> tuple[int, ...]:
    """What changes when a file does; its name may."""
    status = file.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _running_child() -> subprocess.Popen[str] | None:
    """The child process, started if there is none; None if none can be started."""
    if _state.child is not None and _state.child.poll() is None:
        return _state.child
    if not _state.possible:
        return None
    try:
        child = subprocess.Popen(
            [sys.executable, "-c", SERVE, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C is for the parent
        )
    except OSError:
        _state.possible = False
        return None
    _state.child = child
    if not _answer(child, None):
        _state.possible = False
        return None
    return child


def _ask(child: subprocess.Popen[str], request: str) -> None:
    """Raise `InputError` unless the child answers."""
    late = threading.Event()

    def stop() -> None:
        late.set()
        child.kill()

    timer = threading.Timer(SECONDS, stop)
    timer.daemon = True
    timer.start()
    try:
        answer = _answer(child, request)
    finally:
        timer.cancel()
    if late.is_set():
        raise InputError(f"keeps its library busy for more than {SECONDS:g} s before any value is read: it is damaged")
    if not answer:
        raise InputError(f"crashes its library ({_end(child)}) before any value is read: it is damaged")


def _answer(child: subprocess.Popen[str], request: str | None) -> str:
    """A line from the child; empty if it died. If anything happens meanwhile it is ended: its answer would be late."""
    assert child.stdin is not None
    assert child.stdout is not None
    answer = ""
    try:
        with suppress(OSError):
            if request is not None:
                child.stdin.write(request + "\n")
                child.stdin.flush()
            answer = child.stdout.readline()
    finally:
        if not answer:
            _end_child(child)
    return answer


def _end(child: subprocess.Popen[str]) -> str:
    """How a process died, in words."""
    code = child.returncode
    if code is not None and code < 0:
        with suppress(ValueError):
            return signal.Signals(-code).name
    return f"status {code}"


def _end_child(child: subprocess.Popen[str]) -> None:
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()
    try:
        child.wait(timeout=1)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


@atexit.register
def _at_exit() -> None:
    if _state.child is not None:
        _end_child(_state.child)


def _after_fork() -> None:
    """A forked process has a child process of its own."""
    global _state
    _inherited.append(_state)
    _state = _State()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
