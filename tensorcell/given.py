"""What callers give in place of an array: its values, and what it says of axes, voxel size and channels.

`recover`, `diagnose`, `plan`, `evaluate` and `write` take arrays of NumPy, xarray, dask, zarr, HDF5, torch and CuPy,
images of bioio, layers of napari, and tensors of TensorLy. All of them ask `given` through `Volume.from_array`. Kinds
are told by what they offer; none of these libraries is imported here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tensorcell.errors import InputError

Spacing = tuple[float, float, float]

LETTERS = {
    **dict.fromkeys(("z", "plane", "planes", "depth", "slice", "slices"), "Z"),
    **dict.fromkeys(("y", "row", "rows"), "Y"),
    **dict.fromkeys(("x", "column", "columns", "col", "cols"), "X"),
    **dict.fromkeys(("t", "time", "times", "frame", "frames"), "T"),
    **dict.fromkeys(("c", "channel", "channels", "ch"), "C"),
}
"""Axes by the names that people give them, in lower case; another single letter is an axis of that name."""

UNEVEN = 1e-3
"""Coordinates are even if no step differs from their mean by more than this share of it."""

NO_UNIT = ("", "pixel", "pixels", "px", "dimensionless", "none")
"""Units that say nothing of the size of a voxel."""

OME_KEYS = ("unprocessed", "processed")
"""Attributes in which bioio puts all of the metadata of a file: not kept."""

PASS_SPACING = "pass spacing=(dz, dy, dx) in micrometres"

MOST_NAMED = 8
"""Most arrays of a group that a message names."""


class Given(NamedTuple):
    """What was given: values, and what is known of them; None where nothing is said."""

    values: Any
    """An array, or what `numpy.asarray` makes one of."""
    axes: str | None = None
    spacing: Spacing | None = None
    metadata: Mapping[str, Any] = {}


def given(value: Any, axes: str | None, *, sized: bool) -> Given:
    """What a value holds, whatever library it is of.

    Parameters
    ----------
    value : object
    axes : str or None
        The names of the axes that the caller gave: they count in place of those of the value.
    sized : bool
        Whether the caller gave the voxel size: coordinates are not read then.

    Raises
    ------
    InputError
        If the axes have names that say nothing, if coordinates are not evenly spaced, for colours and labels, and for a
        group of several arrays; one line says what, expected and got.

    Examples
    --------
    >>> given([np.zeros((2, 3)), np.ones((2, 3))], None, sized=False).axes is None
    True
    """
    if callable(getattr(value, "to_tensor", None)):  # TensorLy's CP, Tucker and other tensors
        return given(value.to_tensor(), axes, sized=sized)
    kinds = {kind.__name__ for kind in type(value).__mro__}
    if "Layer" in kinds and hasattr(value, "data") and hasattr(value, "scale"):
        return _of_layer(value, kinds, axes)
    dims = getattr(value, "dims", None)
    if hasattr(value, "physical_pixel_sizes") and hasattr(dims, "order"):
        return _of_bioio(value, axes)
    if isinstance(dims, tuple) and hasattr(value, "coords") and hasattr(value, "data"):
        return _of_xarray(value, axes, sized)
    if not hasattr(value, "shape") and hasattr(value, "keys") and hasattr(value, "__getitem__"):
        refuse_group(value)
    return Given(value, axes or letters_of(stated_names(value)))


def refuse_group(value: Any) -> None:
    """Raise InputError with the names of the arrays that a group, or another mapping, holds."""
    names = [str(name) for name in list(value.keys())[: MOST_NAMED + 1]]
    listed = ", ".join(names[:MOST_NAMED]) + (", ..." if len(names) > MOST_NAMED else "")
    raise InputError(f"data is a {type(value).__name__} of several arrays, expected one of them: {listed or 'none'}")


def stated_names(value: Any) -> tuple[Any, ...]:
    """The names of the axes that an array of zarr, HDF5 or torch states; empty where it states none."""
    names = getattr(getattr(value, "metadata", None), "dimension_names", None)
    if names is None and type(value).__module__.startswith("h5py"):
        names = [dimension.label for dimension in value.dims]
    if names is None or any(name in (None, "") for name in names):
        return ()
    return tuple(names)


def letters_of(names: Sequence[Any]) -> str | None:
    """The axes of these names; None if they are no names but numbers, as libraries make them up.

    >>> letters_of(("Time", "x", "y", "planes")), letters_of(("dim_0", "dim_1")), letters_of(())
    ('TXYZ', None, None)

    Raises
    ------
    InputError
        For a name of no axis.
    """
    words = [str(name).strip().lower() for name in names]
    if all(word.removeprefix("dim").removeprefix("axis").strip("_- ").isdigit() for word in words):
        return None
    found = [LETTERS.get(word, word.upper() if len(word) == 1 else "") for word in words]
    if not all("A" <= letter <= "Z" for letter in found) or len(set(found)) != len(found):
        shown = ", ".join(map(str, names))
        raise InputError(f"the dimensions are named {shown}; expected names such as z, y, x, t, c, or pass axes='ZYX'")
    return "".join(found)


def _of_xarray(array: Any, axes: str | None, sized: bool) -> Given:
    """An `xarray.DataArray`: dimensions are axes, coordinates give the voxel size."""
    names = axes or letters_of(array.dims)
    attributes = {str(key): value for key, value in array.attrs.items() if key not in OME_KEYS}
    notes: list[str] = []
    steps: dict[str, float | None] = {}
    unnamed: dict[str, float] = {}
    metadata = attributes
    default = attributes.get("units", attributes.get("unit"))
    for letter, dim in zip(names or "ZYX"[-array.ndim :], array.dims, strict=False):
        if dim not in array.coords or np.ndim(array.coords[dim]) != 1:
            continue
        coordinate = array.coords[dim]
        places = np.asarray(coordinate.values)
        unit = coordinate.attrs.get("units", coordinate.attrs.get("unit"))
        if letter in "ZYX" and not sized:
            steps[letter] = _length_of(letter, places, unit, default, notes, unnamed)
        elif letter == "T":
            metadata = metadata | _interval_of(places, unit, notes)
        elif letter == "C" and places.dtype.kind in "UOT":
            metadata = metadata | {"channel_names": [str(name) for name in places]}
    is_bioio = any(key in array.attrs for key in OME_KEYS)  # whose coordinates are in the unit of the file
    sized_pixels = all(letter in unnamed or steps.get(letter) is not None for letter in "YX")
    steps |= without_unit(unnamed, notes, used=sized_pixels and not is_bioio)
    return _measured(array.data, names, [steps.get(letter) for letter in "ZYX"], metadata, notes)


def _length_of(
    letter: str, places: np.ndarray, unit: Any, default: Any, notes: list[str], unnamed: dict[str, float]
) -> float | None:
    """The step of the coordinates of an axis in micrometres; None where they are pixels, or their unit is no length.

    A step without a unit is put among the ``unnamed`` ones, and what else there is to say among the notes.
    """
    from tensorcell.files.units import micrometres

    if len(places) < 2 or places.dtype.kind not in "iuf":
        return None
    step = even_step(letter.lower(), places)
    if unit is None and micrometres(default) is not None:
        unit = default
    if unit is None or str(unit).strip().lower() in NO_UNIT:
        if not (places.dtype.kind in "iu" and step == 1):  # else they only count pixels
            unnamed[letter] = step
        return None
    scale = micrometres(unit)
    if scale is None:
        notes.append(f"the coordinates of {letter} step by {step:g} {unit}, which is no unit of length")
    return None if scale is None else step * scale


def without_unit(steps: Mapping[str, float], notes: list[str], *, used: bool = True) -> dict[str, float]:
    """Steps that state no unit, taken as micrometres if they are used at all; a note says which.

    >>> notes = []
    >>> without_unit({"Z": 0.5, "X": 0.1}, notes), notes
    ({'Z': 0.5, 'X': 0.1}, ['the steps 0.5, 0.1 along Z, X have no unit and are taken as micrometres'])
    """
    if not steps:
        return {}
    numbers, letters = ", ".join(f"{step:g}" for step in steps.values()), ", ".join(steps)
    what, has, are = ("step", "has", "is") if len(steps) == 1 else ("steps", "have", "are")
    ending = "taken as micrometres" if used else f"not used; {PASS_SPACING}"
    notes.append(f"the {what} {numbers} along {letters} {has} no unit and {are} {ending}")
    return dict(steps) if used else {}


def even_step(name: str, places: np.ndarray) -> float:
    """The step of evenly spaced coordinates, without its sign.

    >>> even_step("z", np.array([3.0, 2.5, 2.0]))
    0.5

    Raises
    ------
    InputError
        If the steps differ, or one is not finite.
    """
    steps = np.diff(places.astype(np.float64))
    mean = float(steps.mean())
    rounding = 4 * np.finfo(places.dtype).eps * float(np.abs(places).max()) if places.dtype.kind == "f" else 0.0
    if not np.abs(steps - mean).max() <= UNEVEN * abs(mean) + rounding or mean == 0:
        low, high = float(steps.min()), float(steps.max())
        raise InputError(
            f"the coordinates of {name} have steps from {low:g} to {high:g}, expected equal ones; interpolate, or pass "
            "spacing=(dz, dy, dx)"
        )
    return abs(mean)


def _interval_of(places: np.ndarray, unit: Any, notes: list[str]) -> dict[str, Any]:
    """The seconds between frames, if the times are even."""
    from tensorcell.files.units import seconds_of

    scale = seconds_of(unit)
    if places.dtype.kind in "mM":
        places, scale = (places - places[0]) / np.timedelta64(1, "s"), 1.0
    if len(places) < 2 or scale is None or places.dtype.kind not in "iuf":
        return {}
    try:
        return {"time_interval": even_step("t", np.asarray(places)) * scale}
    except InputError:
        notes.append("the times of the frames are not evenly spaced, and are not kept")
        return {}


def _of_layer(layer: Any, kinds: set[str], axes: str | None) -> Given:
    """A layer of napari: an image, its scale and units."""
    from tensorcell.files.units import length

    name = f"the layer {getattr(layer, 'name', '')!r}"
    if "Labels" in kinds:
        raise InputError(f"{name} holds labels, expected intensities: values between two labels are none")
    if "Image" not in kinds:
        raise InputError(f"{name} is a {type(layer).__name__} layer, expected an Image layer")
    if getattr(layer, "rgb", False):
        raise InputError(f"{name} is an RGB image, expected intensities; split the channels")
    values = layer.data[0] if getattr(layer, "multiscale", False) else layer.data
    names = axes or letters_of(tuple(getattr(layer, "axis_labels", ())))
    count = len(values.shape)
    letters = names or "ZYX"[-count:]
    if len(letters) != count:
        return Given(values, names, metadata=_named(layer))
    scale = [abs(float(step)) for step in layer.scale]
    units = [str(unit) for unit in getattr(layer, "units", None) or ("pixel",) * count]
    notes: list[str] = []
    sizes = {letter: (step, unit) for letter, step, unit in zip(letters, scale, units, strict=True) if letter in "ZYX"}
    unnamed = {letter: step for letter, (step, unit) in sizes.items() if unit in NO_UNIT}
    steps = {letter: length(step, unit) for letter, (step, unit) in sizes.items() if letter not in unnamed}
    if set(scale) != {1.0}:  # else the layer has no scale
        steps |= without_unit(unnamed, notes)
    return _measured(values, names, [steps.get(letter) for letter in "ZYX"], _named(layer), notes)


def _named(layer: Any) -> dict[str, Any]:
    return {"name": str(layer.name)} if getattr(layer, "name", "") else {}


def _of_bioio(image: Any, axes: str | None) -> Given:
    """An image of bioio: the scene that it shows."""
    from tensorcell.files.bioio_sizes import interval, steps_of

    reader = getattr(image, "reader", image)
    names = axes or "".join(image.dims.order)
    if "S" in names:
        raise InputError(f"data is a colour image ({names}), expected intensities; split the colours")
    scenes = list(image.scenes)
    number = scenes.index(image.current_scene)
    notes: list[str] = []
    steps = steps_of(reader, type(reader).__module__.split(".")[0].replace("_", "-"), number, notes)
    metadata: dict[str, Any] = {}
    if image.channel_names:
        metadata["channel_names"] = [str(name) for name in image.channel_names]
    seconds = interval(reader, number)
    if seconds is not None:
        metadata["time_interval"] = seconds
    if len(scenes) > 1:
        metadata["series"] = f"{number} of {len(scenes)}: {scenes[number]}"
    return _measured(image.data, names, steps, metadata, notes)


def _measured(
    values: Any, axes: str | None, steps: Sequence[float | None], metadata: Mapping[str, Any], notes: Sequence[str]
) -> Given:
    """What was given, with the voxel size as far as its steps (dz, dy, dx) are known, and with notes."""
    from tensorcell.files.units import voxel_size

    dz, dy, dx = steps
    if None in (dy, dx) and (lone := [letter for letter, step in zip("ZYX", steps, strict=True) if step is not None]):
        notes = [*notes, f"a step is known along {', '.join(lone)} only and is not used; {PASS_SPACING}"]
    known = {**metadata, **({"notes": [*said, *notes]} if (said := _notes_in(metadata)) or notes else {})}
    if "Z" not in (axes or "ZYX"[-len(values.shape) :]):
        dz = dy
    return Given(values, axes, voxel_size((dz, dy, dx), known), known)


def _notes_in(metadata: Mapping[str, Any]) -> list[str]:
    said = metadata.get("notes", ())
    return [str(note) for note in said] if isinstance(said, list | tuple) else [str(said)]


def on_host(value: Any) -> Any:
    """What NumPy can take of a value that lies on a GPU, belongs to a graph of torch, or only speaks DLPack."""
    if all(hasattr(value, name) for name in ("detach", "cpu", "numpy")):  # torch
        value = value.detach().cpu()
        return value.float() if str(value.dtype) == "torch.bfloat16" else value
    if hasattr(value, "__cuda_array_interface__"):
        from array_api_compat import to_device

        return to_device(value, "cpu")
    if hasattr(value, "__dlpack__") and not hasattr(value, "__array__"):
        try:
            return np.from_dlpack(value)
        except (BufferError, RuntimeError, TypeError, ValueError):
            return value  # which NumPy then refuses with its reason
    return value


def plain_parts(value: Any) -> Any:
    """A list or tuple of arrays of any library as one of NumPy's; anything else as it is."""
    if not isinstance(value, list | tuple) or not any(hasattr(part, "shape") for part in value):
        return value
    return [part if isinstance(part, np.ndarray) else np.asarray(on_host(part)) for part in value]
