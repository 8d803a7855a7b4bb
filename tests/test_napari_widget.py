"""The dock widget in a model of napari's viewer, which needs no OpenGL, and in a window where there is a display."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import tensorcell as tc
from tensorcell.errors import InputError
from tensorcell.methods.protocol import Method
from tensorcell.napari_plugin import jobs
from tensorcell.napari_plugin.jobs import Found, Task
from tensorcell.napari_plugin.layers import layers_of

if "DISPLAY" not in os.environ:
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
pytest.importorskip("pytestqt", reason="needs pytest-qt")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # napari's own
    pytest.importorskip("qtpy.QtWidgets", reason="needs Qt (pip install PySide6)", exc_type=ImportError)
    napari = pytest.importorskip("napari", reason="needs the extra 'napari'")
    from napari.components import ViewerModel

    from tensorcell.napari_plugin.results import layers_of_result, place_of_part
    from tensorcell.napari_plugin.widget import RecoverWidget, done

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
    assert (widget.form.axes.text(), widget.form.spacing.text()) == ("ZYX", "0.6, 0.2, 0.2")
    corners = np.array([[4, 2], [4, 21], [19, 21], [19, 2]])
    viewer.add_shapes([corners * 0.2], units=("um", "um"), name="box")
    widget.form.crop.setCurrentText("box")
    widget.form.planes.setValue(2)
    widget.form.method.setCurrentText("tucker")
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
    assert widget.form.layer.currentText() == "cells"  # what was chosen stays chosen


def test_finer_voxels_lie_where_those_given_do() -> None:
    rng, viewer = np.random.default_rng(0), ViewerModel()
    affine = np.eye(4)
    affine[1:3, 1:] += rng.normal(size=(2, 3)) / 9
    layer = viewer.add_image(np.zeros((4, 9, 9)), scale=(2, 0.5, 0.5), translate=(1, 2, 3), rotate=30, affine=affine)
    place = place_of_part(layer, (slice(None), slice(2, 9), slice(3, 9)))
    result = np.zeros((7, 21, 18), np.float32)
    found = Found("", tc.Volume(result), outliers=np.array([[1, 4, 2]]), axial_factor=2, lateral_factor=3)
    (outliers, meta, _), (_, above, _) = layers_of_result(layer, place, found)
    fine = viewer.add_image(result, **{key: above[key] for key in place})
    for plane, row, column in rng.integers(0, 4, (5, 3)):  # the middle of 3 x 3 pixels is that of the one given
        middle = fine.data_to_world((2 * plane, 3 * row + 1, 3 * column + 1))
        assert np.allclose(middle, layer.data_to_world((plane, row + 2, column + 3)))
    points = viewer.add_points(outliers, **{key: meta[key] for key in place})
    assert np.allclose(points.data_to_world(outliers[0]), layer.data_to_world((1, 6, 5)))


def task_of(widget: Any, what: str = "recover") -> Task:
    """What a job is given for what is chosen, which is then not run."""
    found: list[Task] = []
    layer, box, mask, arguments = widget._prepared(what)
    outcome = done(SimpleNamespace(run=found.append), what, layer.as_layer_data_tuple(), box, mask, arguments)  # type: ignore[arg-type]
    with contextlib.suppress(StopIteration):
        next(outcome)
    return found[0]


def test_lazy_and_multiscale_layers_are_taken_at_full_resolution(opened: tuple[Any, Any]) -> None:
    array = pytest.importorskip("dask.array")
    viewer, widget = opened
    data = np.random.default_rng(0).random((4, 32, 16), np.float32)
    viewer.add_image([array.from_array(data), array.from_array(data[:, ::2, ::2])], name="levels", multiscale=True)
    viewer.add_shapes([np.array([[0, 0], [0, 15], [9, 15], [9, 0]])], name="box")
    widget.form.layer.setCurrentText("levels")
    widget.form.crop.setCurrentText("box")
    volume = task_of(widget).volume
    assert type(volume.data) is np.ndarray
    assert np.array_equal(volume.data, data[:, :10])
    assert volume.spacing is None


def test_fields_and_options_become_arguments(opened: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    _, widget = opened
    monkeypatch.setattr(Method, "check_installed", lambda self: None)
    form = widget.form
    assert task_of(widget).arguments == {
        "axial_factor": 1, "lateral_factor": 1, "noise": "auto", "keep_measured": "auto", "method": "auto"
    }  # fmt: skip
    form.psf.setText("2, 1,1")
    form.missing.setText("0")
    form.noise.setText("1,5")
    diagnosis = {"axial_factor": 1, "noise": 1.5, "psf_fwhm": (2.0, 1.0, 1.0), "missing_value": 0.0}
    assert task_of(widget, "diagnose").arguments == diagnosis
    fields = {field: widget for fields in form.options.fields.values() for field, widget in fields.items()}
    fields["patch"].setText("3, 5, 5")
    fields["robust"].setChecked(False)
    fields["weights"].setText("folder")  # which other methods do not take
    arguments = task_of(widget).arguments
    assert (arguments["patch"], arguments["robust"], "weights" in arguments) == ((3, 5, 5), False, False)
    form.method.setCurrentText("microdiffuse3d")
    assert task_of(widget).arguments["weights"] == "folder"


@pytest.mark.parametrize(
    ("field", "text", "message"),
    [
        ("psf", "2, 1", "PSF width: expected three numbers (z, y, x), got 2, 1"),
        ("missing", "none", "not measured: expected a number, got none"),
        ("patch", "3, 5", "patch: expected a whole number or three (z, y, x), got 3, 5"),
        ("group", "7", "power of two"),
        ("weights", "", "expected weights=PATH for method microdiffuse3d"),
        ("tile", "4", "expected tiles of at least 32 pixels, got 4"),
    ],
)
def test_a_field_that_cannot_be_read_is_said(
    opened: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, field: str, text: str, message: str
) -> None:
    _, widget = opened
    monkeypatch.setattr(Method, "check_installed", lambda self: None)
    options = {name: line for fields in widget.form.options.fields.values() for name, line in fields.items()}
    if field in ("weights", "tile"):
        options["weights"].setText("folder")
        assert not widget.form.options.head.isChecked()
        options["weights"].setText("" if field == "weights" else "folder")
        widget.form.method.setCurrentText("microdiffuse3d")
        assert widget.form.options.head.isChecked() == (field == "weights")  # what must be given is shown
    line = options[field] if field in options else getattr(widget.form, field)
    line.setText(text)
    widget.recover.click()
    assert message in widget.status.text()
    assert not widget.running


class StubJob:
    """Finds at once what it is told to."""

    found: Found | Exception
    report = None

    def run(self, task: Task) -> Any:
        yield jobs.Progress("fitting", 0.25, 3.0)
        if isinstance(self.found, Exception):
            raise self.found
        return self.found

    def cancel(self) -> None:
        raise AssertionError


def test_a_diagnosis_is_text(qtbot: Any, opened: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    viewer, widget = opened
    monkeypatch.setattr("tensorcell.napari_plugin.widget.Job", StubJob)
    StubJob.found = Found("Every second plane is enough.", report=Path("report.html"))
    widget.diagnose.click()
    qtbot.waitUntil(lambda: not widget.running, timeout=WAIT)
    assert widget.text.toPlainText() == "Every second plane is enough."
    assert widget.status.text().startswith("diagnosed in ")
    assert widget.report.isEnabled()
    assert len(viewer.layers) == 1


def test_a_layer_that_is_removed_while_it_is_recovered_loses_nothing(
    qtbot: Any, opened: tuple[Any, Any], cells: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer, widget = opened
    monkeypatch.setattr("tensorcell.napari_plugin.widget.Job", StubJob)
    StubJob.found = Found("all", tc.Volume(cells.truth), cells.truth, shape=cells.truth.shape)
    widget.recover.click()
    viewer.layers.remove("cells")
    assert widget.form.layer.currentData() is None
    qtbot.waitUntil(lambda: not widget.running, timeout=WAIT)
    assert widget.status.text().startswith("recovered in ")
    assert [layer.name for layer in viewer.layers] == ["cells uncertainty", "cells recovered"]
    assert np.allclose(viewer.layers["cells recovered"].scale, (0.6, 0.2, 0.2))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (InputError("expected axial factor 1, got 2"), "expected axial factor 1, got 2"),
        (RuntimeError("no more"), "a defect of tensorcell: no more (please report it)"),
    ],
)
def test_what_a_job_raises_is_one_line(
    qtbot: Any, opened: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    viewer, widget = opened
    monkeypatch.setattr("tensorcell.napari_plugin.widget.Job", StubJob)
    StubJob.found = error
    viewer.add_image(np.random.default_rng(0).random((24, 24)), name="plane")
    widget.form.layer.setCurrentText("plane")
    assert widget.form.axes.text() == "YX"
    widget.recover.click()
    with qtbot.waitSignal(widget.bar.valueChanged):  # a quarter of it is done
        pass
    qtbot.waitUntil(lambda: not widget.running, timeout=WAIT)
    assert widget.status.text() == said
    assert widget.recover.isEnabled()
    assert len(viewer.layers) == 2


@pytest.mark.skipif("DISPLAY" not in os.environ, reason="needs a display with OpenGL (xvfb-run pytest ...)")
def test_a_window_that_is_closed_ends_the_process(qtbot: Any, cells: Any) -> None:
    viewer = napari.Viewer(show=False)
    (layer,) = layers_of(tc.Volume(cells.measured, spacing=(0.6, 0.2, 0.2)), "cells")
    viewer.add_image(layer[0], **layer[1])
    _, widget = viewer.window.add_plugin_dock_widget("tensorcell", "Diagnose and recover")
    widget.recover.click()
    (job,) = widget.running
    qtbot.waitUntil(lambda: job.process is not None, timeout=WAIT)
    viewer.close()
    qtbot.waitUntil(lambda: job.process.poll() is not None, timeout=WAIT)
    assert job.cancelled


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
    widget.form.layer.setCurrentText("plain")
    assert widget.form.spacing.text() == ""
    assert widget.form.spacing.placeholderText() == "unknown: the layer says 1 pixel"
    widget.form.spacing.setText("0.5 0.2")
    widget.form.spacing.editingFinished.emit()
    assert "expected three positive numbers" in widget.status.text() or "three numbers" in widget.status.text()
    widget.form.spacing.setText("0.5, 0.2, 0.1")
    widget.form.spacing.editingFinished.emit()
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
    widget.form.layer.setCurrentText("odd")
    widget.recover.click()
    assert not widget.running
    assert message in widget.status.text()
    assert "\n" not in widget.status.text()


def test_a_mask_of_another_shape_and_a_wrong_noise_are_refused(opened: tuple[Any, Any]) -> None:
    viewer, widget = opened
    viewer.add_labels(np.ones((2, 2, 2), np.uint8), name="mask")
    widget.form.mask.setCurrentText("mask")
    widget.recover.click()
    assert widget.status.text() == "mask: expected the shape of cells (6, 24, 24), got (2, 2, 2)"
    widget.form.mask.setCurrentIndex(0)
    widget.form.noise.setText("much")
    widget.recover.click()
    assert widget.status.text() == "noise: expected auto or a number, got much"
    assert not widget.running


def test_napari_finds_the_plugin() -> None:
    from npe2 import PluginManifest

    assert jobs.__package__ is not None
    manifest = PluginManifest.from_distribution("tensorcell")
    manifest.validate_imports()
