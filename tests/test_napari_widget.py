"""The dock widget in a model of napari's viewer, which needs no OpenGL."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import tensorcell as tc
from tensorcell.napari_plugin import jobs
from tensorcell.napari_plugin.layers import layers_of

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
pytest.importorskip("pytestqt", reason="needs pytest-qt")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # napari's own
    pytest.importorskip("qtpy.QtWidgets", reason="needs Qt (pip install PySide6)", exc_type=ImportError)
    napari = pytest.importorskip("napari", reason="needs the extra 'napari'")
    from napari.components import ViewerModel

    from tensorcell.napari_plugin.widget import RecoverWidget

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::RuntimeWarning")

WAIT = 60_000
"""Milliseconds for which a job is waited for."""


@pytest.fixture(scope="module")
def cells() -> Any:
    return tc.datasets.simulate_cells((6, 24, 24), cells=3, outliers=0.01, seed=0)


@pytest.fixture
def opened(qtbot: Any, cells: Any) -> Iterator[tuple[Any, Any]]:
    """A viewer with a layer of cells, and the widget."""
    viewer = ViewerModel()
    for data, meta, _ in layers_of(tc.Volume(cells.measured, spacing=(0.6, 0.2, 0.2)), "cells"):
        viewer.add_image(data, **meta)
    widget = RecoverWidget(viewer)
    yield viewer, widget
    with contextlib.suppress(RuntimeError):  # a test deleted it
        widget.deleteLater()


def run(qtbot: Any, widget: Any, button: Any) -> None:
    button.click()
    assert widget.running, widget.status.text()
    assert widget.cancel.isEnabled()
    assert not button.isEnabled()
    qtbot.waitUntil(lambda: not widget.running, timeout=WAIT)


def test_a_crop_of_a_layer_is_recovered_upon_it(qtbot: Any, opened: tuple[Any, Any]) -> None:
    viewer, widget = opened
    assert (widget.axes.text(), widget.spacing.text()) == ("ZYX", "0.6, 0.2, 0.2")
    corners = np.array([[4, 2], [4, 21], [19, 21], [19, 2]])
    viewer.add_shapes([corners * 0.2], units=("um", "um"), name="box")
    widget.crop.setCurrentText("box")
    widget.factor.setValue(2)
    widget.method.setCurrentText("tucker")
    run(qtbot, widget, widget.recover)
    assert widget.status.text().startswith("recovered in ")
    result, given = viewer.layers["cells recovered"], viewer.layers["cells"]
    assert result.data.shape == (11, 16, 20)
    assert np.allclose(result.scale, (0.3, 0.2, 0.2))
    assert np.allclose(result.data_to_world((2, 0, 0)), given.data_to_world((1, 4, 2)))
    assert result.units == given.units
    assert result.axis_labels == ("z", "y", "x")
    assert np.array_equal(result.data[::2], given.data[:, 4:20, 2:22]) or "cells outliers" in viewer.layers
    assert not viewer.layers["cells uncertainty"].visible
    assert viewer.layers["cells invented"].data.max() <= 1
    result.contrast_limits = (1, 7)
    assert tuple(given.contrast_limits) == (1, 7)
    assert widget.last.report.exists()
    assert widget.report.isEnabled()
    assert widget.layer.currentText() == "cells"  # what was chosen stays chosen


def test_a_diagnosis_is_text(qtbot: Any, opened: tuple[Any, Any]) -> None:
    viewer, widget = opened
    run(qtbot, widget, widget.diagnose)
    assert "low-rank model" in widget.text.toPlainText()
    assert len(viewer.layers) == 1


@pytest.mark.parametrize("way", ["cancel", "close"])
def test_what_is_cancelled_or_closed_ends_at_once(qtbot: Any, opened: tuple[Any, Any], way: str) -> None:
    viewer, widget = opened
    widget.recover.click()
    (job,) = widget.running
    qtbot.waitUntil(lambda: job.process is not None, timeout=WAIT)
    if way == "cancel":
        widget.cancel.click()
        qtbot.waitUntil(lambda: not widget.running, timeout=WAIT)
        assert widget.status.text() == "cancelled"
        assert widget.recover.isEnabled()
    else:
        widget.deleteLater()
        qtbot.waitUntil(lambda: job.cancelled, timeout=WAIT)
    qtbot.waitUntil(lambda: job.process.poll() is not None, timeout=WAIT)
    assert len(viewer.layers) == 1
    viewer.add_image(np.zeros((3, 9, 9)))  # which a widget that is gone does not hear


def test_a_layer_without_scale_asks_for_one(opened: tuple[Any, Any]) -> None:
    viewer, widget = opened
    plain = viewer.add_image(np.zeros((4, 24, 24), np.float32), name="plain")
    widget.layer.setCurrentText("plain")
    assert widget.spacing.text() == ""
    assert widget.spacing.placeholderText() == "unknown: the layer says 1 pixel"
    widget.spacing.setText("0.5 0.2")
    widget.spacing.editingFinished.emit()
    assert "expected three positive numbers" in widget.status.text() or "three numbers" in widget.status.text()
    widget.spacing.setText("0.5, 0.2, 0.1")
    widget.spacing.editingFinished.emit()
    assert np.allclose(plain.scale, (0.5, 0.2, 0.1))
    assert [str(unit) for unit in plain.units] == ["micrometer"] * 3


@pytest.mark.parametrize(
    ("kind", "data", "message"),
    [
        ("labels", np.zeros((4, 9, 9), int), "got a labels layer"),
        ("image", np.zeros((9, 9, 3), np.uint8), "got RGB colours"),
        ("image", np.zeros((2, 4, 9, 9)), "4 axes without names"),
    ],
)
def test_what_cannot_be_recovered_is_said_before_it_starts(
    opened: tuple[Any, Any], kind: str, data: np.ndarray, message: str
) -> None:
    viewer, widget = opened
    getattr(viewer, f"add_{kind}")(data, name="odd", **({"rgb": True} if "RGB" in message else {}))
    widget.layer.setCurrentText("odd")
    widget.recover.click()
    assert not widget.running
    assert message in widget.status.text()
    assert "\n" not in widget.status.text()


def test_a_mask_of_another_shape_and_a_wrong_noise_are_refused(opened: tuple[Any, Any]) -> None:
    viewer, widget = opened
    viewer.add_labels(np.ones((2, 2, 2), np.uint8), name="mask")
    widget.mask.setCurrentText("mask")
    widget.recover.click()
    assert widget.status.text() == "mask: expected the shape of cells (6, 24, 24), got (2, 2, 2)"
    widget.mask.setCurrentIndex(0)
    widget.noise.setText("much")
    widget.recover.click()
    assert widget.status.text() == "noise: expected auto or a number, got much"
    assert not widget.running


def test_napari_finds_the_plugin() -> None:
    from npe2 import PluginManifest

    assert jobs.__package__ is not None
    manifest = PluginManifest.from_distribution("tensorcell")
    manifest.validate_imports()
