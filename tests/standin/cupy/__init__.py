"""Stand-in for CuPy on a machine without a GPU: NumPy behind CuPy's rules, with a record of every call.

Its arrays refuse what CuPy's refuse (NumPy arrays among them, conversion to NumPy but by ``get``), and count what makes
the host wait for a device: ``get``, and a number or truth value that is read. Kernels go to the launcher that a test
sets (:data:`launcher`).
"""

from __future__ import annotations

import builtins as _builtins
import weakref as _weakref
from collections import Counter
from typing import Any

import numpy as _np

calls: set[tuple[str, int, tuple[str, ...]]] = set()
"""Every function and method that was called: its name, the number of its arguments, its keywords."""

waits: Counter[str] = Counter()
"""How often the host waited: by a place of the program, ``file:line``."""

downloads: Counter[str] = Counter()
"""Bytes that went to the host, by place."""

doubles: Counter[str] = Counter()
"""How often an array in double precision was made of one of the shapes that are watched, by place."""

watched: set[tuple[int, ...]] = set()

held: dict[int, _weakref.ref[Any]] = {}
"""The memory of all arrays that are alive, by address."""

taken, most_taken = 0, 0
"""Bytes of it now, and at most so far. Memory that a function takes for its own use is not known here."""

launcher: Any = None
"""What runs kernels, as ``tensorcell.solvers.cuda.launch`` does."""

recorder: Any = None
"""What runs all that a device would do: ``recorder(name, run, given)`` gives what ``run()`` returns. None: nobody."""

__version__ = "0"


def _run(name: str, run: Any, given: Any) -> Any:
    return run() if recorder is None else recorder(name, run, given)


class RawModule:
    """A program; its functions are launched by :data:`launcher`."""

    def __init__(self, *, code: str, options: tuple[str, ...], name_expressions: tuple[str, ...]) -> None:
        self.code, self.options, self.names = code, options, name_expressions

    def get_function(self, name: str) -> RawKernel:
        assert name in self.names
        return RawKernel(self, name)


class RawKernel:
    max_dynamic_shared_size_bytes = 48 << 10

    def __init__(self, module: RawModule, name: str) -> None:
        self.module, self.name = module, name

    def __call__(self, grid: Any, block: Any, args: Any, *, shared_mem: int = 0) -> None:
        from tensorcell.solvers.cuda import Program

        assert shared_mem <= self.max_dynamic_shared_size_bytes
        for argument in args:
            if isinstance(argument, _np.ndarray):
                raise TypeError(f"unsupported type {type(argument)} among arguments of a kernel")
            assert not isinstance(argument, ndarray) or argument.flags.c_contiguous
        program = Program(self.module.code, block[0], self.module.options)
        given = program, self.name, grid[0], tuple(map(_unwrapped, args)), shared_mem
        _run(f"kernel {self.name}", lambda: launcher(*given), args)


_BETWEEN = ("standin/cupy", "array_api_compat", "solvers/arrays.py")


def _place() -> str:
    """Where the program is that uses this module; what crosses to the host for others (``arrays``) does not count."""
    import sys

    frame: Any = sys._getframe(1)
    while _builtins.any(part in frame.f_code.co_filename for part in _BETWEEN):
        frame = frame.f_back
    return f"{frame.f_code.co_filename.rsplit('/', 1)[-1]}:{frame.f_lineno}"


def _unwrapped(value: Any) -> Any:
    """What NumPy is given; an array of NumPy is what CuPy would refuse."""
    if isinstance(value, ndarray):
        return value._data
    if isinstance(value, _np.ndarray):
        raise TypeError(f"unsupported type {type(value)} among arrays of a device")
    if isinstance(value, list | tuple):
        return type(value)(map(_unwrapped, value)) if not hasattr(value, "_fields") else value
    return value


def _hold(data: Any) -> None:
    """Count the memory of an array until all arrays that share it are gone."""
    global taken, most_taken
    while isinstance(data.base, _np.ndarray):
        data = data.base
    address, size = id(data), data.nbytes
    if address in held:
        return

    def release(_: Any) -> None:
        global taken
        del held[address]
        taken -= size

    held[address] = _weakref.ref(data, release)
    taken += size
    most_taken = _builtins.max(taken, most_taken)


def _wrapped(value: Any) -> Any:
    if isinstance(value, _np.ndarray | _np.generic):
        return ndarray(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(_wrapped, value))
    if isinstance(value, list | tuple):
        return type(value)(map(_wrapped, value))
    return value


class _Pool:
    def free_all_blocks(self) -> None: ...


def get_default_memory_pool() -> _Pool:
    return _Pool()


class _Flags:
    def __init__(self, flags: Any) -> None:
        self.c_contiguous, self.f_contiguous = flags.c_contiguous, flags.f_contiguous

    def __getitem__(self, name: str) -> bool:
        return _builtins.bool({"C_CONTIGUOUS": self.c_contiguous, "F_CONTIGUOUS": self.f_contiguous}[name])


class ndarray:
    __array_priority__ = 100
    __module__ = "cupy"

    def __init__(self, data: Any) -> None:
        self._data = _np.asarray(data)
        _hold(self._data)
        if self._data.shape in watched and self._data.dtype == _np.float64:
            doubles[_place()] += 1

    shape = property(lambda self: self._data.shape)
    dtype = property(lambda self: self._data.dtype)
    ndim = property(lambda self: self._data.ndim)
    size = property(lambda self: self._data.size)
    nbytes = property(lambda self: self._data.nbytes)
    itemsize = property(lambda self: self._data.itemsize)
    strides = property(lambda self: self._data.strides)
    flags = property(lambda self: _Flags(self._data.flags))
    T = property(lambda self: ndarray(self._data.T))
    device = property(lambda self: cuda.Device())
    __cuda_array_interface__ = property(lambda self: {"shape": self.shape, "version": 3})

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def get(self) -> Any:
        calls.add(("ndarray.get", 0, ()))
        waits[_place()] += 1
        downloads[_place()] += self._data.nbytes
        return _run("get", self._data.copy, self)

    def _number(self, kind: Any) -> Any:
        waits[_place()] += 1
        return _run("number", lambda: kind(self._data), ())

    def __float__(self) -> float:
        return float(self._number(float))

    def __int__(self) -> int:
        return int(self._number(int))

    def __index__(self) -> int:
        return int(self._number(int))

    def __bool__(self) -> bool:
        return _builtins.bool(self._number(_builtins.bool))

    def item(self) -> Any:
        calls.add(("ndarray.item", 0, ()))
        waits[_place()] += 1
        return self._data.item()

    def tolist(self) -> Any:
        waits[_place()] += 1
        return self._data.tolist()

    def __len__(self) -> int:
        return len(self._data)

    def __iter__(self) -> Any:
        return (ndarray(one) for one in self._data)

    def __repr__(self) -> str:
        return f"standin{self._data!r}"

    def __getitem__(self, key: Any) -> ndarray:
        return _run("take", lambda: ndarray(self._data[_unwrapped(key)]), (self, key))

    def __setitem__(self, key: Any, value: Any) -> None:
        _run("put", lambda: self._data.__setitem__(_unwrapped(key), _unwrapped(value)), (value, value))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        method = getattr(self._data, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            calls.add((f"ndarray.{name}", len(args), tuple(sorted(kwargs))))
            given = _unwrapped(args), {key: _unwrapped(value) for key, value in kwargs.items()}
            return _run(name, lambda: _wrapped(method(*given[0], **given[1])), (self, args, kwargs))

        return call


def _operator(name: str) -> Any:
    def operate(self: ndarray, *others: Any) -> Any:
        if _builtins.any(not isinstance(other, ndarray | int | float | complex | _np.generic) for other in others):
            if _builtins.any(isinstance(other, _np.ndarray) for other in others):
                raise TypeError(f"unsupported type {_np.ndarray} among arrays of a device")
            return NotImplemented
        result = _run(name.strip("_"), lambda: getattr(self._data, name)(*_unwrapped(others)), (self, *others))
        if name.startswith("__i") and name != "__invert__":
            return self
        return result if result is NotImplemented else ndarray(result)

    return operate


_TWO = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor")
_ONE = ("lshift", "rshift", "lt", "le", "gt", "ge", "eq", "ne", "neg", "pos", "abs", "invert")
for _name in (*_ONE, *_TWO, *(f"r{_each}" for _each in _TWO), *(f"i{_each}" for _each in _TWO)):
    setattr(ndarray, f"__{_name}__", _operator(f"__{_name}__"))
ndarray.__hash__ = None  # type: ignore[assignment]


def _function(name: str, function: Any) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        calls.add((name, len(args), tuple(sorted(kwargs))))
        out = kwargs.get("out")
        plain, named = _unwrapped(args), {key: _unwrapped(value) for key, value in kwargs.items()}
        result = _run(name, lambda: _wrapped(function(*plain, **named)), (args, kwargs))
        return result if out is None else out

    call.__name__ = name.rsplit(".", 1)[-1]
    return call


def _from_host(name: str) -> Any:
    function = getattr(_np, name)

    def call(value: Any, *args: Any, **kwargs: Any) -> Any:
        calls.add((name, 1 + len(args), tuple(sorted(kwargs))))
        given = value._data if isinstance(value, ndarray) else value
        found = function(given, *args, **kwargs)
        if isinstance(value, ndarray) and found is given:
            return value
        upload = "put on the device" if isinstance(value, _np.ndarray) else name
        return _run(upload, lambda: ndarray(found.copy() if found is given else found), value)

    return call


array, asarray, ascontiguousarray = map(_from_host, ("array", "asarray", "ascontiguousarray"))

_KEPT = (
    "dtype", "pi", "e", "inf", "nan", "newaxis", "finfo", "iinfo", "issubdtype", "isdtype", "result_type", "can_cast",
    "promote_types",
)  # fmt: skip
for _name in dir(_np):
    _value = getattr(_np, _name)
    if _name in _KEPT or (isinstance(_value, type) and issubclass(_value, _np.generic)):
        globals()[_name] = _value
    elif not _name.startswith("_") and _name not in globals() and callable(_value) and not isinstance(_value, type):
        globals()[_name] = _function(_name, _value)
abs, max, min, round, any, all, sum = (
    _function(_name, getattr(_np, _name)) for _name in ("abs", "max", "min", "round", "any", "all", "sum")
)

from . import cuda as cuda  # noqa: E402
from . import fft as fft  # noqa: E402
from . import linalg as linalg  # noqa: E402
