"""Arrays of other libraries: every entry takes every kind, with the same axes, voxel size and values."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import tensorcell as tc
from tensorcell.evaluation import evaluate
from tensorcell.volume import Volume

STACK = np.random.default_rng(0).random((10, 12, 14)).astype(np.float32)
SPACING = (0.5, 0.2, 0.1)


class Kind(NamedTuple):
    """Something that is given, and what is to become of it."""

    value: Any
    axes: str = "ZYX"
    spacing: tuple[float, float, float] | None = None
    data: np.ndarray = STACK


class Layer:
    """What every layer of napari 0.9 has."""

    def __init__(self, data: Any, *, scale: Any = None, units: Any = None, labels: Any = None) -> None:
        count = data[0].ndim if isinstance(data, list) else data.ndim
        self.data, self.name, self.scale = data, "raw", np.ones(count) if scale is None else np.asarray(scale)
        self.units = units or ("pixel",) * count
        self.axis_labels = labels or tuple(str(place) for place in range(-count, 0))
        self.multiscale = isinstance(data, list)


class Image(Layer):
    rgb = False


class Labels(Layer):
    pass


class Points(Layer):
    pass


def from_xarray(_: Path) -> Kind:
    xarray = pytest.importorskip("xarray", reason="needs the extra 'xarray'")
    z = ("depth", 7 + 500 * np.arange(10), {"units": "nm"})
    places = {"depth": z, "y": ("y", 0.2 * np.arange(12)[::-1], {"unit": "µm"}), "x": np.arange(14) * np.float32(0.1)}
    array = xarray.DataArray(STACK.transpose(2, 1, 0), places, ("x", "y", "depth"))
    return Kind(array, "XYZ", SPACING, STACK.transpose(2, 1, 0))


def from_own_xarray(_: Path) -> Kind:
    pytest.importorskip("xarray", reason="needs the extra 'xarray'")
    return Kind(Volume(STACK, spacing=SPACING).to_xarray(), spacing=SPACING)


def from_dask(_: Path) -> Kind:
    dask = pytest.importorskip("dask.array", reason="needs the extra 'distributed'")
    return Kind(dask.from_array(STACK, chunks=5))


def from_zarr(folder: Path) -> Kind:
    zarr = pytest.importorskip("zarr", reason="needs the extra 'formats'")
    array = zarr.create_array(folder / "a.zarr", data=STACK.transpose(1, 2, 0), dimension_names=("y", "x", "z"))
    return Kind(array, "YXZ", data=STACK.transpose(1, 2, 0))


def from_hdf5(folder: Path) -> Kind:
    import h5py

    stored = h5py.File(folder / "a.h5", "w").create_dataset("a", data=STACK.transpose(2, 1, 0))
    for dimension, name in zip(stored.dims, "xyz", strict=True):
        dimension.label = name
    return Kind(stored, "XYZ", data=STACK.transpose(2, 1, 0))


def from_torch(_: Path) -> Kind:
    torch = pytest.importorskip("torch", reason="needs the extra 'diffusion'")
    return Kind(torch.tensor(STACK, requires_grad=True))


def from_torch_planes(_: Path) -> Kind:
    torch = pytest.importorskip("torch", reason="needs the extra 'diffusion'")
    return Kind([torch.tensor(plane, requires_grad=True) for plane in STACK])


def from_bioio(folder: Path) -> Kind:
    reader = pytest.importorskip("bioio_ome_tiff", reason="needs bioio-ome-tiff").Reader
    import tifffile

    sizes = {f"PhysicalSize{axis}": size for axis, size in zip("ZYX", (500, 0.2, 0.1), strict=True)}
    tifffile.imwrite(folder / "a.ome.tif", STACK, metadata={"axes": "ZYX", "PhysicalSizeZUnit": "nm", **sizes})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of dependencies, about themselves
        return Kind(reader(str(folder / "a.ome.tif")), "TCZYX", SPACING, STACK[None, None])


def from_tucker(_: Path) -> Kind:
    from tensorly.decomposition import tucker

    return Kind(tucker(STACK.astype(float), rank=[10, 12, 14]), data=STACK.astype(float))


def from_parafac(_: Path) -> Kind:
    from tensorly.cp_tensor import CPTensor

    vectors = [np.arange(1.0, n + 1)[:, None] for n in STACK.shape]
    return Kind(CPTensor((None, vectors)), data=np.einsum("i,j,k", *(v[:, 0] for v in vectors)))


class Dlpack:
    """An array that speaks DLPack alone."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.shape = array, array.shape

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


KINDS: dict[str, Callable[[Path], Kind]] = {
    "numpy": lambda _: Kind(STACK),
    "list of planes": lambda _: Kind(list(STACK)),
    "volumes of planes": lambda _: Kind(list(Volume(STACK))),
    "xarray": from_xarray,
    "xarray of ours": from_own_xarray,
    "dask": from_dask,
    "zarr": from_zarr,
    "hdf5": from_hdf5,
    "torch": from_torch,
    "torch planes": from_torch_planes,
    "bioio": from_bioio,
    "napari": lambda _: Kind(Image(STACK, scale=SPACING, units=("micrometer",) * 3), spacing=SPACING),
    "napari, levels": lambda _: Kind(Image([STACK, STACK[:, ::2, ::2]])),
    "napari, no unit": lambda _: Kind(Image(STACK, scale=SPACING), spacing=SPACING),
    "napari, names": lambda _: Kind(Image(STACK, labels=("t", "y", "x")), "TYX"),
    "tucker": from_tucker,
    "parafac": from_parafac,
    "dlpack": lambda _: Kind(Dlpack(STACK)),
    "lazy": lambda _: Kind(tc.LazyVolume(STACK, spacing=SPACING), spacing=SPACING),
}

ENTRIES: dict[str, Callable[[Any, Path], Any]] = {
    "recover": lambda value, _: tc.recover(value),
    "diagnose": lambda value, _: tc.diagnose(value),
    "plan": lambda value, _: tc.plan(value),
    "evaluate": lambda value, folder: evaluate(value, out=folder / "out"),
    "write": lambda value, folder: tc.write(folder / "out.h5", value),
}


class Stopped(Exception):
    """Raised in place of the work of an entry once it has its volume."""


@pytest.fixture
def volumes(monkeypatch: pytest.MonkeyPatch) -> list[Volume]:
    """The volumes that entries make of what they are given; then they stop."""
    made: list[Volume] = []
    original = Volume.from_array

    def recorded(*given: Any, **named: Any) -> Volume:
        made.append(original(*given, **named))
        raise Stopped

    monkeypatch.setattr(Volume, "from_array", staticmethod(recorded))
    return made


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_entry_takes_every_kind(kind: str, entry: str, volumes: list[Volume], tmp_path: Path) -> None:
    given = KINDS[kind](tmp_path)
    if entry == "evaluate" and isinstance(given.value, list):
        pytest.skip("a list is one of several references there")
    with pytest.raises(Stopped):
        ENTRIES[entry](given.value, tmp_path)
    (volume,) = volumes
    assert volume.axes == given.axes
    assert volume.spacing == (None if given.spacing is None else pytest.approx(given.spacing))
    np.testing.assert_allclose(volume.data, given.data, rtol=1e-6 if kind != "tucker" else 1e-9, atol=1e-9)


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The stand-in for CuPy, whose arrays refuse what CuPy's refuse."""
    kept = {name: sys.modules.pop(name) for name in [*sys.modules] if name.split(".")[0] == "cupy"}
    monkeypatch.syspath_prepend(Path(__file__).parent / "standin")
    yield importlib.import_module("cupy")
    for name in [name for name in sys.modules if name.split(".")[0] == "cupy"]:
        del sys.modules[name]
    sys.modules.update(kept)


def test_arrays_of_cupy_come_to_the_host(cupy: Any) -> None:
    array = cupy.asarray(STACK)
    np.testing.assert_array_equal(Volume.from_array(array).data, STACK)
    planes = [cupy.asarray(plane) for plane in STACK]
    np.testing.assert_array_equal(Volume.from_array(planes).data, STACK)


def test_the_order_of_named_axes_changes_nothing_of_the_result() -> None:
    """Taken for (z, y, x), an array of (x, y, z) would be another stack, with other gaps."""
    xarray = pytest.importorskip("xarray", reason="needs the extra 'xarray'")
    cells = tc.datasets.simulate_cells((6, 14, 16), cells=2, seed=0)
    plain = tc.recover(cells.measured, axial_factor=2, method="fast", spacing=(1.0, 0.5, 0.5))
    places = {"z": np.arange(6.0), "y": 0.5 * np.arange(14), "x": 0.5 * np.arange(16)}
    turned = xarray.DataArray(cells.measured, places, ("z", "y", "x")).transpose("x", "y", "z")
    found = tc.recover(turned, axial_factor=2, method="fast")
    assert found.volume.axes == "XYZ"
    assert found.volume.spacing == plain.volume.spacing == (0.5, 0.5, 0.5)
    np.testing.assert_array_equal(found.volume.data.transpose(2, 1, 0), plain.volume.data)
    assert any("have no unit and are taken as micrometres" in note for note in found.notes)


def test_a_mask_with_names_has_the_axes_of_the_data() -> None:
    xarray = pytest.importorskip("xarray", reason="needs the extra 'xarray'")
    mask = STACK > 0.5
    data = xarray.DataArray(STACK, dims=("z", "y", "x")).transpose("y", "x", "z")
    for given in (xarray.DataArray(mask, dims=("z", "y", "x")), Volume(mask), data > 0.5, (data > 0.5).values):
        volume = Volume.from_array(data, mask=given)
        assert volume.mask is not None
        np.testing.assert_array_equal(volume.mask, mask.transpose(1, 2, 0))


def test_times_and_channels_of_xarray_are_kept() -> None:
    xarray = pytest.importorskip("xarray", reason="needs the extra 'xarray'")
    data = np.zeros((3, 2, 4, 5, 6))
    places = {"time": np.array(["2026-01-01T00", "2026-01-01T01", "2026-01-01T02"], "datetime64[s]"), "c": ["a", "b"]}
    array = xarray.DataArray(data, places, ("time", "c", "z", "y", "x"), attrs={"units": "counts", "by": "me"})
    volume = Volume.from_array(array)
    assert volume.axes == "TCZYX"
    assert volume.metadata == {"units": "counts", "by": "me", "time_interval": 3600.0, "channel_names": ["a", "b"]}
    uneven = Volume.from_array(array.assign_coords(time=[0.0, 1.0, 3.0]))
    assert "time_interval" not in uneven.metadata
    seconds = array.assign_coords(time=("time", [0.0, 1.0, 3.0], {"units": "s"}))
    assert Volume.from_array(seconds).metadata["notes"] == [
        "the times of the frames are not evenly spaced, and are not kept"
    ]


def test_steps_without_a_unit_are_noted_and_those_of_bioio_not_used() -> None:
    xarray = pytest.importorskip("xarray", reason="needs the extra 'xarray'")
    array = xarray.DataArray(STACK, {"Y": 100.0 * np.arange(12), "X": 100.0 * np.arange(14)}, ("Z", "Y", "X"))
    volume = Volume.from_array(array)
    assert volume.metadata["pixel_size"] == (100, 100)
    assert volume.metadata["notes"] == ["the steps 100, 100 along Y, X have no unit and are taken as micrometres"]
    of_file = Volume.from_array(array.assign_attrs(unprocessed="<OME>", processed=None))
    assert "pixel_size" not in of_file.metadata
    assert "pass spacing=(dz, dy, dx) in micrometres" in of_file.metadata["notes"][0]
    counted = xarray.DataArray(STACK, {"Z": np.arange(10)}, ("Z", "Y", "X"))
    assert not Volume.from_array(counted).metadata
    in_volts = array.assign_coords(X=("X", np.arange(14.0), {"units": "V"}))
    assert (
        "the coordinates of X step by 1 V, which is no unit of length" in Volume.from_array(in_volts).metadata["notes"]
    )


@pytest.mark.parametrize(
    ("attributes", "note"),
    [
        ({}, "the step 0.5 along Z has no unit and is not used; pass spacing=(dz, dy, dx) in micrometres"),
        ({"units": "um"}, "a step is known along Z only and is not used; pass spacing=(dz, dy, dx) in micrometres"),
    ],
)
def test_a_step_of_planes_alone_is_no_voxel_size_and_a_note_says_so(attributes: dict[str, str], note: str) -> None:
    xarray = pytest.importorskip("xarray", reason="needs the extra 'xarray'")
    coordinate = ("z", 0.5 * np.arange(10), attributes)
    volume = Volume.from_array(xarray.DataArray(STACK, {"z": coordinate}, ("z", "y", "x")))
    assert volume.spacing is None
    assert volume.metadata == {"notes": [note]}


def test_uneven_coordinates_are_refused_unless_the_voxel_size_is_given() -> None:
    xarray = pytest.importorskip("xarray", reason="needs the extra 'xarray'")
    places = np.arange(10.0)
    places[5:] += 1
    array = xarray.DataArray(STACK, {"z": places}, ("z", "y", "x"))
    for entry in (tc.recover, tc.diagnose, tc.plan):
        with pytest.raises(tc.InputError, match="the coordinates of z have steps from 1 to 2, expected equal ones"):
            entry(array)
    assert Volume.from_array(array, spacing=SPACING).spacing == SPACING
    with pytest.raises(tc.InputError, match="steps from nan"):
        Volume.from_array(array.assign_coords(z=np.full(10, np.nan)))


REFUSED: dict[str, tuple[Any, str]] = {
    "labels": (Labels(STACK), "the layer 'raw' holds labels, expected intensities: values between two labels are none"),
    "points": (Points(STACK[0]), "the layer 'raw' is a Points layer, expected an Image layer"),
    "rgb": (type("Colour", (Image,), {"rgb": True})(STACK), "the layer 'raw' is an RGB image, expected intensities"),
    "4-D layer": (Image(STACK[None]), "data has 4 axes .* pass axes="),
    "mapping": ({"a": STACK, "b": STACK}, "data is a dict of several arrays, expected one of them: a, b"),
    "path": (Path("a.tif"), "data is the path 'a.tif', expected an array; use tensorcell.read"),
    "paths": (["a.tif", "b.tif"], "data is a list of paths, the first 'a.tif', expected arrays; use tensorcell.read"),
    "nothing": (None, "data is of type NoneType, expected an array"),
    "ragged": ([STACK[0], STACK[0, :5]], "data of type list is not an array: .*inhomogeneous"),
    "stacks": ([Volume(STACK)] * 2, r"data is a list of 2 volumes \(ZYX\), expected one, or planes of a stack"),
    "other planes": ([Volume(STACK)[0], Volume(STACK)[0, :5]], "data is a list of volumes that differ in shape"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_measurement_is_refused_in_one_line(case: str) -> None:
    value, message = REFUSED[case]
    with pytest.raises(tc.InputError, match=f"^{message}") as caught:
        tc.diagnose(value)
    assert "\n" not in str(caught.value)


def test_names_that_say_nothing_are_refused_unless_axes_are_given() -> None:
    xarray = pytest.importorskip("xarray", reason="needs the extra 'xarray'")
    array = xarray.DataArray(STACK, dims=("lat", "lon", "height"))
    with pytest.raises(tc.InputError, match="named lat, lon, height; expected names such as z, y, x, t, c, or pass"):
        tc.recover(array)
    assert Volume.from_array(array, axes="YXZ").axes == "YXZ"
    assert Volume.from_array(xarray.DataArray(STACK)).axes == "ZYX"  # dim_0, dim_1, dim_2


def test_the_constructor_says_where_other_arrays_go() -> None:
    with pytest.raises(tc.InputError, match=r"got list; Volume\.from_array takes others"):
        Volume([[1.0]])  # type: ignore[arg-type]


def test_half_precision_of_torch_is_read() -> None:
    torch = pytest.importorskip("torch", reason="needs the extra 'diffusion'")
    volume = Volume.from_array(torch.tensor(STACK).bfloat16())
    assert volume.dtype == np.float32
    np.testing.assert_allclose(volume.data, STACK, rtol=2**-8)  # 8 bits of a bfloat16


def test_planes_keep_their_pixel_size_and_masks() -> None:
    mask = STACK > 0.5
    stack = Volume(STACK, spacing=SPACING, mask=mask)
    found = Volume.from_array(list(stack), spacing=SPACING)
    np.testing.assert_array_equal(found.mask, mask)
    assert (found.axes, found.spacing) == ("ZYX", SPACING)
    assert Volume.from_array(list(stack)).metadata["pixel_size"] == SPACING[1:]
