#!/usr/bin/env bash
# superqt 0.9.0: a generator worker that raises a RuntimeError says nothing: neither `errored` nor `finished` follow.
#
# napari's thread_worker and create_worker are superqt's. A function that raises in its thread emits `errored` and then
# `finished`; so does a generator that raises a ValueError. One would guess the same of any other exception. But a
# RuntimeError from a generator (or one of its kinds: NotImplementedError, RecursionError, torch's errors of a GPU, out
# of memory among them) is taken for a sign that the worker was deleted. A warning is left, no signal is emitted, and
# `is_running` stays true for ever: a window that waits for `finished` to show its buttons again waits for ever.
# An exception that a worker returns, as a value, is not returned: `errored` is emitted in place of `returned`.
#
# Seen:
#   function, ValueError: ['errored', 'finished'], running: False
#   function, RuntimeError: ['errored', 'finished'], running: False
#   generator, ValueError: ['errored', 'finished'], running: False
#   generator, RuntimeError: [], running: True
#   function that returns a ValueError: ['errored', 'finished'], running: False
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet superqt==0.9.0 QtPy==2.4.3 PySide6_Essentials==6.12.0 shiboken6==6.12.0
cd "$work"
QT_QPA_PLATFORM=offscreen "$work/env/bin/python" -W ignore - <<'PYTHON'
import time
from importlib.metadata import version

from qtpy.QtCore import QCoreApplication
from superqt.utils import create_worker

assert version("superqt") == "0.9.0"
application = QCoreApplication([])


def function(error):
    raise error


def generator(error):
    yield "begun"
    raise error


def returning(error):
    return error


def signals_of(work, error):
    seen = []
    worker = create_worker(work, error, _start_thread=False, _ignore_errors=True)
    for name in ("returned", "errored", "finished"):
        getattr(worker, name).connect(lambda *_, name=name: seen.append(name))
    worker.start()
    end = time.monotonic() + 3
    while time.monotonic() < end and "finished" not in seen:
        application.processEvents()
        time.sleep(0.01)
    return seen, worker.is_running


for what, work, error, signals, running in (
    ("function, ValueError", function, ValueError("a"), ["errored", "finished"], False),
    ("function, RuntimeError", function, RuntimeError("a"), ["errored", "finished"], False),
    ("generator, ValueError", generator, ValueError("a"), ["errored", "finished"], False),
    ("generator, RuntimeError", generator, RuntimeError("a"), [], True),
    ("function that returns a ValueError", returning, ValueError("a"), ["errored", "finished"], False),
):
    found = signals_of(work, error)
    print(f"{what}: {found[0]}, running: {found[1]}")
    assert found == (signals, running), found
PYTHON
echo "as described"
