"""Volumes as Python users meet them: NumPy, slices, loops, pictures and xarray."""

from __future__ import annotations

import base64
import re
import sys
from typing import Any

import numpy as np
import pytest

import tensorcell as tc
from tensorcell.volume import Volume

SHAPE = (6, 8, 10)
SPACING = (0.5, 0.2, 0.1)


def made(**parts: Any) -> Volume:
    return Volume(np.arange(480.0).reshape(SHAPE), spacing=SPACING, **parts)


def test_numpy_takes_a_volume_for_its_intensities() -> None:
    volume = made()
    assert np.asarray(volume) is volume.data
    copied = np.array(volume)
    assert not np.shares_memory(copied, volume.data)
    assert np.asarray(volume, dtype=np.float32).dtype == np.float32
    with pytest.raises(ValueError, match="copy"):
        np.asarray(volume, dtype=np.int16, copy=False)
    assert np.max(volume) == 479
    assert np.array_equal(volume, made())
    assert (volume.shape, volume.ndim, volume.size, len(volume), volume.dtype) == (SHAPE, 3, 480, 6, np.float64)
    assert 479.0 in volume
    assert -1 not in volume


def test_arithmetic_with_arrays_gives_arrays() -> None:
    volume = made()
    for found in (volume - volume.data, volume.data - volume):
        assert isinstance(found, np.ndarray)
        assert not found.any()
    assert (volume == volume.data).all()
    assert volume == volume
    assert volume != made()


@pytest.mark.parametrize(
    ("key", "axes", "spacing"),
    [
        (3, "YX", (0.2, 0.2, 0.1)),
        (np.int64(-1), "YX", (0.2, 0.2, 0.1)),
        (slice(None, None, 2), "ZYX", (1.0, 0.2, 0.1)),
        (np.s_[1:4, ::4, 3:], "ZYX", (0.5, 0.8, 0.1)),
        (np.s_[..., ::-3], "ZYX", (0.5, 0.2, 0.3)),
        (np.s_[2, ..., ::5], "YX", (0.2, 0.2, 0.5)),
        (..., "ZYX", SPACING),
    ],
)
def test_parts_keep_their_axes_and_the_step_multiplies_the_voxel_size(key: Any, axes: str, spacing: Any) -> None:
    mask = np.random.default_rng(0).random(SHAPE) < 0.5
    part = made(mask=mask)[key]
    assert part.axes == axes
    assert part.spacing == pytest.approx(spacing)
    np.testing.assert_array_equal(part.data, np.arange(480.0).reshape(SHAPE)[key])
    np.testing.assert_array_equal(part.mask, mask[key])


@pytest.mark.parametrize(
    "key", [np.s_[:, 3], np.s_[0, 0, 0], np.s_[None], np.s_[[0, 2]], np.s_[4:4], np.s_[:, :, [1, 2]], True]
)
def test_other_parts_are_what_numpy_gives(key: Any) -> None:
    found = made()[key]
    assert not isinstance(found, Volume)
    np.testing.assert_array_equal(found, np.arange(480.0).reshape(SHAPE)[key])


def test_a_volume_of_bools_is_an_index() -> None:
    volume = made()
    bright = Volume(volume.data > 400)
    np.testing.assert_array_equal(volume[bright], volume.data[volume.data > 400])


def test_channels_and_times_of_a_part_are_its_own() -> None:
    data = np.zeros((4, 3, 2, 5, 6))
    facts = {"channel_names": ["red", "green", "blue"], "time_interval": 2.0, "other": 1}
    volume = Volume(data, "TCZYX", metadata=facts)
    part = volume[::2, 1:]
    assert part.metadata == {"channel_names": ["green", "blue"], "time_interval": 4.0, "other": 1}
    assert volume[:, -1].metadata["channel_names"] == ["blue"]
    assert volume[:, -1].axes == "TZYX"
    assert volume.metadata == facts


def test_an_index_outside_is_an_error_of_numpy() -> None:
    with pytest.raises(IndexError, match="6 is out of bounds"):
        made()[6]
    with pytest.raises(IndexError, match="too many indices"):
        made()[0, 0, 0, 0]


def test_loops_over_planes_end() -> None:
    planes = list(made())
    assert len(planes) == 6
    assert all(isinstance(plane, Volume) and plane.axes == "YX" for plane in planes)
    assert [plane[0, 0] for plane in planes] == [80.0 * z for z in range(6)]


def image_in(html: str) -> bytes:
    found = re.search(r'base64,([^"]+)"', html)
    assert found is not None
    return base64.b64decode(found[1])


@pytest.mark.parametrize(
    ("shape", "axes"), [((16, 300, 280), "ZYX"), ((40, 50), "YX"), ((2, 3, 20, 30), "CZYX"), ((1, 9, 9), "ZYX")]
)
def test_notebooks_show_a_small_picture_even_of_noise(shape: tuple[int, ...], axes: str) -> None:
    volume = Volume(np.random.default_rng(0).random(shape), axes, (0.5, 0.1, 0.1))
    html = volume._repr_html_()
    assert len(html) < 100_000
    assert repr(volume) in html
    assert image_in(html).startswith(b"\x89PNG")


def test_plot_draws_the_slices_that_are_asked_for_with_a_scale_bar() -> None:
    import matplotlib.pyplot as plt

    volume = Volume(np.random.default_rng(0).random((2, 6, 20, 30)), "CZYX", (0.5, 0.2, 0.1))
    xy, yz, xz = volume.plot(plane=-1, row=3, stack=1)
    assert [ax.get_title() for ax in (xy, yz, xz)] == ["C=1, xy at z = 5", "yz at x = 15", "xz at y = 3"]
    assert [text.get_text() for text in xy.texts] == ["0.5 µm"]  # at most 0.28 of 3 um
    assert xy.figure in map(plt.figure, plt.get_fignums())  # so that plt.show() shows it
    shown = xy.images[0].get_array()
    assert shown is not None
    order = np.argsort(volume.data[1, 5], axis=None)
    assert (np.diff(np.asarray(shown)[..., 0].ravel()[order].astype(int)) >= 0).all()
    plt.close("all")
    for bad in ({"plane": 6}, {"column": -31}, {"stack": 2}):
        with pytest.raises(tc.InputError, match=r"^expected a \w+ from 0 to \d+, got -?\d+$"):
            volume.plot(**bad)


def test_what_was_not_measured_has_a_colour_of_its_own() -> None:
    import matplotlib.pyplot as plt

    from tensorcell.pages.pictures import GAP, rgb

    mask = np.ones(SHAPE, bool)
    mask[3, :4] = False
    shown = np.asarray(made(mask=mask).plot()[0].images[0].get_array())
    assert (shown[:4] == rgb(GAP)).all()
    assert not (shown[4:] == rgb(GAP)).all(axis=-1).any()
    plt.close("all")


def test_xarray_has_coordinates_names_and_gaps() -> None:
    pytest.importorskip("xarray", reason="needs the extra 'xarray'")
    mask = np.ones((2, 3, 4, 5), bool)
    mask[0, 1] = False
    facts = {"channel_names": ["red", "green"], "source": "a.tif"}
    counts = np.arange(120, dtype=np.uint16).reshape(2, 3, 4, 5)
    array = Volume(counts, "CZYX", SPACING, mask, facts).to_xarray()
    assert array.dims == ("c", "z", "y", "x")
    assert array.c.values.tolist() == ["red", "green"]
    assert array.y.values == pytest.approx(0.2 * np.arange(4))
    assert array.y.attrs == {"units": "um"}
    assert array.attrs == {"source": "a.tif"}
    assert array.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(array.values), ~mask)
    np.testing.assert_array_equal(array.values[mask], counts[mask])
    volume = made()
    assert np.shares_memory(volume.to_xarray(("a", "b", "c")).values, volume.data)
    with pytest.raises(tc.InputError, match="expected 3 different names as dims, for the axes ZYX, got \\('z', 'y'\\)"):
        volume.to_xarray(("z", "y"))


def test_without_xarray_one_line_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(tc.InputError, match=r'pip install "tensorcell\[xarray\]"'):
        made().to_xarray()
