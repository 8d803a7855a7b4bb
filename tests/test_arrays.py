"""Dispatch: one namespace, float types, and the crossings between device and host."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tensorcell.solvers import arrays


def test_namespace_of_skips_none_and_finds_the_library(xp: Any) -> None:
    array = xp.put(np.ones(3))
    namespace = arrays.namespace_of(None, array, array)
    xp.take(namespace.asarray([1.0]))
    assert arrays.is_numpy(namespace) == (xp.name in ("numpy", "read-only"))
    assert arrays.is_cupy(namespace) == (xp.name == "cupy")


def test_namespace_of_refuses_two_libraries() -> None:
    strict = pytest.importorskip("array_api_strict")
    with pytest.raises(TypeError, match=r"expected arrays of one library, got array_api_strict and numpy"):
        arrays.namespace_of(np.ones(3), strict.ones(3))


@pytest.mark.parametrize("wrong", [[1.0, 2.0], 3.0, "text"])
def test_namespace_of_refuses_what_is_no_array(wrong: Any) -> None:
    with pytest.raises(TypeError, match=f"expected NumPy or CuPy arrays, got {type(wrong).__name__}"):
        arrays.namespace_of(np.ones(3), wrong)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_as_float_keeps_single_and_double_without_a_copy(xp: Any, dtype: str) -> None:
    array = xp.put(np.ones(3, dtype))
    assert arrays.as_float(array) is array


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int16", "uint16", "int64"])
def test_as_float_makes_other_real_types_double(xp: Any, dtype: str) -> None:
    values = np.array([0, 1, 1, 0]).astype(dtype)
    converted = xp.take(arrays.as_float(xp.put(values)))
    assert converted.dtype == np.float64
    np.testing.assert_array_equal(converted, values.astype(float))


def test_as_float_makes_half_precision_double() -> None:
    assert arrays.as_float(np.ones(3, np.float16)).dtype == np.float64


def test_as_float_makes_the_other_byte_order_native() -> None:  # FITS, many TIFF readers and HDF5 files
    array = np.arange(3, dtype=">f4")
    converted = arrays.as_float(array)
    assert converted.dtype.isnative
    np.testing.assert_array_equal(converted, array)


@pytest.mark.parametrize("dtype", [complex, object, str, "datetime64[s]"])
def test_as_float_refuses_what_is_not_real(dtype: Any) -> None:
    with pytest.raises(TypeError, match="expected real numbers, got dtype"):
        arrays.as_float(np.zeros(3, dtype))


def test_as_double_copies_only_what_is_not_double(xp: Any) -> None:
    double, single = xp.put(np.ones(3)), xp.put(np.ones(3, np.float32))
    assert arrays.as_double(double) is double
    assert xp.take(arrays.as_double(single)).dtype == np.float64


def test_to_host_and_from_host_are_inverse(xp: Any) -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    moved = arrays.from_host(values, xp.put(np.zeros(1)))
    np.testing.assert_array_equal(xp.take(moved), values)
    host = arrays.to_host(moved)
    assert type(host) is np.ndarray
    assert host.dtype == np.float32
    np.testing.assert_array_equal(host, values)


def test_to_host_does_not_copy_host_memory() -> None:
    array = np.ones(3)
    assert arrays.to_host(array) is array


def test_scalar_is_a_python_float(xp: Any) -> None:
    value = arrays.scalar(xp.put(np.float64(2.5)))
    assert type(value) is float
    assert value == 2.5


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_within_mask_and_entries_are_where_and_indexing(xp: Any, dtype: str) -> None:
    """Bit for bit, also for what is not contiguous; what lies outside the mask may be anything."""
    rng = np.random.default_rng(0)
    values, mask = rng.standard_normal((4, 5, 6)).astype(dtype), rng.random((4, 5, 6)) < 0.5
    values[0], values[1, 0], values[1, 1], values[2, 0] = -0.0, np.nan, -np.inf, -0.0
    for part in (slice(None), slice(None, None, 2)):
        given, chosen = xp.put(values)[part, ...], xp.put(mask)[part, ...]
        inside, kept = xp.take(arrays.within_mask(given, chosen)), xp.take(arrays.entries(given, chosen))
        assert inside.tobytes() == np.where(mask[part], values[part], values.dtype.type(0)).tobytes()
        assert kept.tobytes() == values[part][mask[part]].tobytes()


def test_scatter_puts_values_and_zeros(xp: Any) -> None:
    positions, values = xp.put(np.array([4, 1])), xp.put(np.array([7.0, -3.0], np.float32))
    dense = xp.take(arrays.scatter(6, positions, values))
    assert dense.dtype == np.float32
    np.testing.assert_array_equal(dense, [0, -3, 0, 0, 7, 0])


def test_scatter_of_nothing_is_zero(xp: Any) -> None:
    nothing = xp.put(np.zeros(0, np.int64)), xp.put(np.zeros(0))
    np.testing.assert_array_equal(xp.take(arrays.scatter(3, *nothing)), np.zeros(3))


def test_contiguous_copies_only_other_orders(xp: Any) -> None:
    array = xp.put(np.arange(6.0).reshape(2, 3))
    assert arrays.contiguous(array) is array


@pytest.mark.parametrize(
    "array",
    [np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.arange(12.0).reshape(2, 6)[:, ::2], np.arange(6.0)[::-1]],
    ids=["fortran", "strided", "reversed"],
)
def test_contiguous_keeps_the_values(array: np.ndarray) -> None:
    ordered = arrays.contiguous(array)
    assert ordered.flags["C_CONTIGUOUS"]
    np.testing.assert_array_equal(ordered, array)
