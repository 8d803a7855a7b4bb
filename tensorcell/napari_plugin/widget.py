"""The dock widget: choose a layer, diagnose it, recover it, look at the result.

The fields for axes and voxel size show what the layer says, and change the layer; everything is read from there.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from napari.layers import Image, Labels, Shapes
from napari.qt.threading import create_worker
from qtpy.QtCore import QTimer, QUrl
from qtpy.QtGui import QDesktopServices
from qtpy.QtWidgets import (
    QHBoxLayout,
    QLabel,
    QPlainTextEdit,
    QProgressBar,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from tensorcell.errors import InputError
from tensorcell.napari_plugin.crop import crop_of
from tensorcell.napari_plugin.form import Column, Form
from tensorcell.napari_plugin.jobs import Cancelled, Found, Job, Progress, Task
from tensorcell.napari_plugin.layers import (
    LayerData,
    array_of,
    axes_of,
    check_kind,
    scale_without_unit,
    spacing_of,
    volume_of,
)
from tensorcell.napari_plugin.results import place_of_part, show
from tensorcell.progress_estimate import time_left
from tensorcell.volume_checks import check_axes, check_spacing

if TYPE_CHECKING:
    from napari.viewer import Viewer

FINE = 1000
"""Steps of the bar."""


class Outcome(NamedTuple):
    """What a thread returns: an exception alone would be raised by superqt, which runs it."""

    found: Found | Exception


class RecoverWidget(QWidget):  # type: ignore[misc]  # Qt has no types where it is not installed
    """Diagnose and recover an image layer; ``napari_viewer`` is the viewer whose layers are offered."""

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        self.viewer = napari_viewer
        self.running: list[Job] = []  # the one that runs; a list, since what ends it outlives this object
        self.last: Job | None = None
        """The job whose report is shown: it holds the folder of the report."""
        self.begun, self.progress = 0.0, Progress("")
        self._build()
        self.clock = QTimer(self)
        self.clock.setInterval(500)
        self.clock.timeout.connect(self._tick)
        events = self.viewer.layers.events
        heard, listener, running = (events.inserted, events.removed, events.renamed), self._list_layers, self.running
        for event in heard:
            event.connect(listener)
        self._list_layers()
        selected = self.viewer.layers.selection.active
        if isinstance(selected, Image):
            self.form.layer.setCurrentText(selected.name)

        def leave() -> None:
            for event in heard:
                event.disconnect(listener)
            abandon(running)

        self.destroyed.connect(leave)

    # What is shown.

    def _build(self) -> None:
        self.form = Form()
        self.form.layer.currentIndexChanged.connect(self._show_layer)
        self.form.axes.editingFinished.connect(self._change_axes)
        self.form.spacing.editingFinished.connect(self._change_spacing)
        self.diagnose, self.recover = QPushButton("Diagnose"), QPushButton("Recover")
        self.cancel, self.report = QPushButton("Cancel"), QPushButton("Open report")
        for button, call in (
            (self.diagnose, lambda: self._start("diagnose")),
            (self.recover, lambda: self._start("recover")),
            (self.cancel, self.end),
            (self.report, self._open_report),
        ):
            button.clicked.connect(call)
        buttons = QHBoxLayout()
        for button in (self.diagnose, self.recover, self.cancel):
            buttons.addWidget(button)
        self.status = QLabel("")
        self.status.setWordWrap(True)
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.text = QPlainTextEdit()
        self.text.setReadOnly(True)
        layout = QVBoxLayout(self)
        layout.addWidget(Column(self.form), 3)
        layout.addLayout(buttons)
        layout.addWidget(self.status)
        layout.addWidget(self.bar)
        layout.addWidget(self.text, 2)
        layout.addWidget(self.report)
        self.report.setEnabled(False)
        self._show_running(False)

    def _show_running(self, running: bool) -> None:
        for button in (self.diagnose, self.recover):
            button.setEnabled(not running)
        self.cancel.setEnabled(running)
        self.bar.setVisible(running)
        self.bar.setRange(0, 0)

    def say(self, text: str) -> None:
        """Show a line above the results."""
        self.status.setText(text)

    def _list_layers(self, event: Any = None) -> None:
        """Offer the layers that there are, and keep what is chosen."""
        layers = sorted(self.viewer.layers, key=lambda layer: isinstance(layer, Labels))  # images come first
        for box, kinds, none in (
            (self.form.layer, (Image, Labels), None),
            (self.form.mask, (Labels, Image), "every voxel"),
            (self.form.crop, (Shapes,), "none"),
        ):
            self.form.offer(box, [layer for layer in layers if isinstance(layer, kinds)], none)
        self._show_layer()

    def _show_layer(self, index: int = 0) -> None:
        """Show the axes and the voxel size of the chosen layer."""
        layer = self.form.layer.currentData()
        self.form.axes.setText("")
        self.form.spacing.setText("")
        if not isinstance(layer, Image):
            return
        data = layer.as_layer_data_tuple()
        axes = axes_of(data[1], layer.ndim) or ""
        spacing = spacing_of(data[1], axes) if axes else None
        self.form.axes.setText(axes)
        self.form.axes.setPlaceholderText("a letter for each axis, such as TZYX")
        if spacing is not None:
            self.form.spacing.setText(", ".join(f"{step:.6g}" for step in spacing))
        bare = scale_without_unit(data[1], axes) if axes else None
        steps = "1 pixel" if bare is None else " x ".join(f"{step:g}" for step in bare) + " pixel"
        self.form.spacing.setPlaceholderText(f"unknown: the layer says {steps}")

    # What the fields change.

    def _change_axes(self) -> None:
        layer, axes = self.form.layer.currentData(), self.form.axes.text().strip().upper()
        if not isinstance(layer, Image) or not axes or axes == axes_of(layer.as_layer_data_tuple()[1], layer.ndim):
            return
        try:
            check_axes(axes, tuple(array_of(layer.as_layer_data_tuple()).shape))
            layer.axis_labels = tuple(axes.lower())
        except InputError as error:
            self.say(str(error))
            return
        self._show_layer()

    def _change_spacing(self) -> None:
        layer, words = self.form.layer.currentData(), self.form.spacing.text().replace(",", " ").split()
        if not isinstance(layer, Image) or not words:
            return
        _, meta, _ = layer.as_layer_data_tuple()
        axes = axes_of(meta, layer.ndim)
        try:
            if axes is None:
                raise InputError("name the axes first, such as TZYX")
            try:
                spacing = check_spacing([float(word) for word in words], axes)
            except ValueError:
                raise InputError(
                    f"voxel size: expected three positive numbers (z, y, x), got {self.form.spacing.text()}"
                ) from None
        except InputError as error:
            self.say(str(error))
            return
        own = spacing_of(meta, axes)
        assert spacing is not None
        if own is not None and np.allclose(own, spacing, rtol=1e-5):
            return
        steps = dict(zip("ZYX", spacing, strict=True))
        layer.scale = [steps.get(letter, step) for letter, step in zip(axes, layer.scale, strict=True)]
        layer.units = ["um" if letter in steps else unit for letter, unit in zip(axes, layer.units, strict=True)]
        self._show_layer()
        self.say(f"{layer.name}: voxel size set")

    # A run.

    def _start(self, what: str) -> None:
        """Check everything that is known at once, and start a job."""
        if self.running:
            return
        try:
            prepared = self._prepared(what)
        except InputError as error:
            self.say(str(error))
            return
        self.say("")
        self.text.setPlainText("")
        self.report.setEnabled(False)
        self._show_running(True)
        self.begun, self.progress = time.perf_counter(), Progress("reading the layer")
        self.clock.start()
        self._tick()
        layer, box, mask, arguments = prepared
        job = Job()
        self.running.append(job)
        snapshot = layer.as_layer_data_tuple()
        place = place_of_part(layer, box)
        worker: Any = create_worker(done, job, what, snapshot, box, mask, arguments, _start_thread=False)
        worker.yielded.connect(self._show_progress)
        worker.returned.connect(lambda outcome: self._show_found(layer, place, job, outcome.found))
        worker.start()

    def _prepared(self, what: str) -> tuple[Image, tuple[slice, ...], Any, dict[str, Any]]:
        """The layer, the part of it that is wanted, the mask and the arguments; an `InputError` if one does not fit."""
        layer = self.form.layer.currentData()
        if layer is None:
            raise InputError("expected an image layer, got none (File, Open Sample, tensorcell has two)")
        data = layer.as_layer_data_tuple()
        check_kind(data)
        self._change_axes()
        self._change_spacing()
        arguments = self.form.arguments(what)
        shape = tuple(array_of(data).shape)
        typed = self.form.axes.text().strip().upper()
        if not typed:
            raise InputError(f"{layer.name}: {len(shape)} axes without names, expected a letter for each, such as TZYX")
        check_axes(typed, shape)
        box = tuple(slice(None) for _ in shape)
        shapes = self.form.crop.currentData()
        if shapes is not None:
            box = crop_of(shapes, layer, typed, shape)
        mask_layer, mask = self.form.mask.currentData(), None
        if mask_layer is not None:
            mask = array_of(mask_layer.as_layer_data_tuple())
            if tuple(mask.shape) != shape:
                raise InputError(
                    f"{mask_layer.name}: expected the shape of {layer.name} {shape}, got {tuple(mask.shape)}"
                )
        return layer, box, mask, arguments

    def end(self) -> None:
        """End what runs."""
        for job in self.running:
            job.cancel()

    def _tick(self) -> None:
        left = time_left(self.progress.left)
        self.say(f"{self.progress.text} ({time.perf_counter() - self.begun:.0f} s{', ' * bool(left)}{left})")

    def _show_progress(self, progress: Progress) -> None:
        if not self.running:  # the widget is gone
            return
        self.progress = progress
        self.bar.setRange(0, 0 if progress.share is None else FINE)
        self.bar.setValue(round(FINE * (progress.share or 0)))
        self._tick()

    def _show_found(self, layer: Image, place: dict[str, Any], job: Job, found: Found | Exception) -> None:
        if job not in self.running:  # the widget is gone
            return
        self.running.remove(job)
        self.clock.stop()
        self._show_running(False)
        if isinstance(found, Exception):
            expected = isinstance(found, Cancelled | InputError)
            said = str(found) or "cancelled"
            self.say(said if expected else f"a defect of tensorcell: {said} (please report it)")
            return
        self.last = job
        self.report.setEnabled(found.report is not None)
        self.text.setPlainText(found.text)
        seconds = time.perf_counter() - self.begun
        if found.volume is None:
            self.say(f"diagnosed in {seconds:.0f} s")
            return
        show(self.viewer, layer, place, found)
        self.say(f"recovered in {seconds:.0f} s")

    def _open_report(self) -> None:
        if self.last is not None:
            QDesktopServices.openUrl(QUrl.fromLocalFile(str(self.last.report)))


def done(
    job: Job, what: str, layer: LayerData, box: tuple[slice, ...], mask: Any, arguments: dict[str, Any]
) -> Generator[Progress, None, Outcome]:
    """In a thread: read the part of the layer, and run the job; napari would show what is raised as a defect."""
    try:
        _, meta, kind = layer
        part = np.asarray(array_of(layer)[box])
        volume = volume_of((part, {**meta, "multiscale": False}, kind))
        seen = None if mask is None else np.asarray(mask[box]) != 0
        metadata = {**volume.metadata, "source": meta["name"]}
        task = Task(what=what, volume=replace(volume, mask=seen, metadata=metadata), arguments=arguments)
        return Outcome((yield from job.run(task)))
    except Exception as error:
        return Outcome(error)


def abandon(running: list[Job]) -> None:
    """End what runs for a widget that is gone."""
    for job in running:
        job.cancel()
    running.clear()
