"""The fields of the dock widget: what is recovered, how, and the options of the method that is chosen."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from qtpy.QtCore import QEvent, QSignalBlocker, Qt
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFileDialog,
    QFormLayout,
    QFrame,
    QHBoxLayout,
    QLineEdit,
    QScrollArea,
    QSizePolicy,
    QSpinBox,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from tensorcell.arguments import options_of
from tensorcell.errors import InputError
from tensorcell.methods.protocol import fields_of
from tensorcell.methods.table import METHODS
from tensorcell.napari_plugin.options import (
    default_of,
    is_path,
    kinds_of_options,
    options_given,
    shown_name,
)

MOST_FACTOR = 32
"""Largest factor that can be chosen."""

NARROW = 10
"""Letters of the name of a layer for which there is always room; the panel is no wider for longer names."""


class Form(QWidget):  # type: ignore[misc]  # Qt has no types where it is not installed
    """A row for each field; `arguments` gives what `tensorcell.recover` and `tensorcell.diagnose` take of them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.mask, self.crop, self.method, self.keep = (self._box() for _ in range(5))
        self.axes, self.spacing, self.noise, self.psf, self.missing = (QLineEdit() for _ in range(5))
        self.planes, self.pixels = self._factor("1 in "), self._factor("means of n x n, n = ")
        self.noise.setPlaceholderText("auto")
        self.psf.setPlaceholderText("unknown")
        self.missing.setPlaceholderText("none")
        for word, value in (("auto", "auto"), ("kept", True), ("denoised", False)):
            self.keep.addItem(word, value)
        for name, method in METHODS.items():
            self.method.addItem(name)
            self.method.setItemData(self.method.count() - 1, method.summary, Qt.ItemDataRole.ToolTipRole)
        self.options = Options(self)
        self.method.currentTextChanged.connect(self.options.show_of)
        self.options.show_of(self.method.currentText())
        rows = QFormLayout()
        rows.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        for label, field, help_ in (
            ("Image", self.layer, "The image layer to diagnose or recover."),
            ("Measured", self.mask, "A layer that is not 0 where a voxel was measured; NaN is never measured."),
            ("Not measured", self.missing, "Voxels of exactly this value were not measured, such as 0 for padding."),
            ("Crop", self.crop, "A shapes layer: the rows and columns around its (selected) shapes are taken."),
            ("Axes", self.axes, "A letter for each axis of the layer, such as ZYX or TZYX."),
            ("Voxel size (um)", self.spacing, "Steps along z, y and x in micrometres."),
            ("Planes measured", self.planes, "1 in 2: a plane shall be filled in between each two of the layer."),
            ("Pixels measured", self.pixels, "n above 1: the result has n times as many rows and columns."),
            ("Noise", self.noise, "Standard deviation in the unit of the image, or auto; a number asks for denoising."),
            (
                "Measured voxels",
                self.keep,
                "auto: those of a fully measured image are denoised, all others are kept unless a noise is given.",
            ),
            (
                "PSF width (z, y, x)",
                self.psf,
                "Full widths at half maximum of the point spread function, in micrometres if the voxel size is known, "
                "else in voxels. Bright voxels narrower than it are defects.",
            ),
            ("Method", self.method, "auto takes what predicts left-out voxels best; fast is a preview."),
        ):
            field.setToolTip(help_)
            rows.addRow(label, field)
        layout = QVBoxLayout(self)
        layout.addLayout(rows)
        layout.addWidget(self.options)
        layout.addStretch(1)

    @staticmethod
    def _box() -> Any:
        box = QComboBox()
        box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        box.setMinimumContentsLength(NARROW)
        return box

    @staticmethod
    def _factor(prefix: str) -> Any:
        box = QSpinBox()
        box.setRange(1, MOST_FACTOR)
        box.setSpecialValueText("all")
        box.setPrefix(prefix)
        return box

    def offer(self, box: Any, layers: list[Any], none: str | None = None) -> None:
        """Let these layers be chosen in a box, and keep the one that is chosen."""
        chosen = box.currentData()
        with QSignalBlocker(box):
            box.clear()
            if none is not None:
                box.addItem(none, None)
            for layer in layers:
                box.addItem(layer.name, layer)
            found = [number for number in range(box.count()) if box.itemData(number) is chosen]
            box.setCurrentIndex(found[0] if found else 0)

    def arguments(self, what: str) -> dict[str, Any]:
        """The arguments for ``"recover"`` or ``"diagnose"``.

        Raises
        ------
        InputError
            For what is no number where one is expected, an option that its method refuses, or a method of which
            something is not installed.
        """
        found: dict[str, Any] = {"axial_factor": self.planes.value()}
        noise = self.noise.text().strip().lower()
        found["noise"] = "auto" if noise in ("", "auto") else number_of("noise", noise, "auto or a number")
        if self.psf.text().strip():
            found["psf_fwhm"] = numbers_of("PSF width", self.psf.text())
        if self.missing.text().strip():
            found["missing_value"] = number_of("not measured", self.missing.text().strip(), "a number")
        if what == "recover":
            method = self.method.currentText()
            METHODS[method].check_installed()
            options = self.options.given(method)
            options_of(METHODS[method].options, options, method)
            found |= {"lateral_factor": self.pixels.value(), "keep_measured": self.keep.currentData()}
            found |= {"method": method, **options}
        return found


class Column(QScrollArea):  # type: ignore[misc]
    """A form that scrolls up and down, and is never cut off at the side."""

    def __init__(self, form: QWidget) -> None:
        super().__init__()
        self.setWidget(form)
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)

    def eventFilter(self, watched: Any, event: Any) -> bool:
        """Widen the column where the form has become wider."""
        if event.type() in (QEvent.Type.LayoutRequest, QEvent.Type.Resize):
            bar = self.verticalScrollBar().sizeHint().width()
            self.setMinimumWidth(self.widget().minimumSizeHint().width() + bar)
        return bool(super().eventFilter(watched, event))


class Options(QWidget):  # type: ignore[misc]
    """The options of all methods, of which those of the chosen one can be folded out."""

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self.head = QToolButton()
        self.head.setCheckable(True)
        self.head.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.head.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.head.toggled.connect(self._fold)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.head)
        self.body = QWidget()
        layout.addWidget(self.body)
        below = QVBoxLayout(self.body)
        below.setContentsMargins(0, 0, 0, 0)
        self.pages: dict[type, QWidget] = {}
        self.fields: dict[type, dict[str, Any]] = {}
        for kind in kinds_of_options():
            self.fields[kind] = {field.name: field_for(kind, field) for field in fields_of(kind)}
            self.pages[kind] = page_of(self.fields[kind])
            below.addWidget(self.pages[kind])
        self._fold(False)

    def _fold(self, out: bool) -> None:
        self.head.setArrowType(Qt.ArrowType.DownArrow if out else Qt.ArrowType.RightArrow)
        self.body.setVisible(out)

    def show_of(self, method: str) -> None:
        """Offer the options of a method; those without which it does not run are folded out at once."""
        self.head.setText(f"Options of {method}")
        for kind, page in self.pages.items():
            page.setVisible(kind in METHODS[method].options)
        try:
            options_of(METHODS[method].options, self.given(method), method)
        except InputError:
            self.head.setChecked(True)

    def given(self, method: str) -> dict[str, Any]:
        """The options of a method that differ from their defaults."""
        return {
            name: value
            for kind in METHODS[method].options
            for name, value in options_given(kind, read(self.fields[kind])).items()
        }


def field_for(kind: type, field: dataclasses.Field[Any]) -> Any:
    """A mark for what is true or false, a line for all else; of a folder, with a button that looks for it."""
    widget: Any
    if isinstance(field.default, bool):
        widget = QCheckBox()
        widget.setChecked(field.default)
    else:
        widget = FolderEdit() if is_path(kind, field.name) else QLineEdit()
        widget.setPlaceholderText(default_of(field))
    widget.setToolTip(field.metadata["help"])
    return widget


def page_of(fields: Mapping[str, Any]) -> QWidget:
    """A row for each option."""
    page = QWidget()
    rows = QFormLayout(page)
    rows.setContentsMargins(0, 0, 0, 0)
    rows.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    for name, widget in fields.items():
        rows.addRow(shown_name(name), widget)
    return page


def read(fields: Mapping[str, Any]) -> dict[str, str | bool]:
    """What stands in the fields."""
    return {
        name: widget.isChecked() if isinstance(widget, QCheckBox) else widget.text() for name, widget in fields.items()
    }


class FolderEdit(QWidget):  # type: ignore[misc]
    """A line for the path of a folder, and a button that lets one look for it."""

    def __init__(self) -> None:
        super().__init__()
        self.line, button = QLineEdit(), QToolButton()
        self.text, self.setText, self.setPlaceholderText = (
            self.line.text,
            self.line.setText,
            self.line.setPlaceholderText,
        )
        button.setText("...")
        button.clicked.connect(self._look)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.line)
        layout.addWidget(button)

    def _look(self) -> None:
        found = QFileDialog.getExistingDirectory(self, "Folder", self.text())
        if found:
            self.setText(found)


def number_of(name: str, text: str, expected: str) -> float:
    """The number that a user typed, with a point or a comma."""
    try:
        return float(text.replace(",", "."))
    except ValueError:
        raise InputError(f"{name}: expected {expected}, got {text}") from None


def numbers_of(name: str, text: str) -> tuple[float, ...]:
    """Three numbers, along z, y and x, with commas or blanks between them."""
    try:
        z, y, x = (float(word) for word in text.replace(",", " ").split())
    except ValueError:
        raise InputError(f"{name}: expected three numbers (z, y, x), got {text}") from None
    return z, y, x
