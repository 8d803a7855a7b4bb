"""The plugin for napari, as far as it needs neither napari nor Qt: layers, files, samples, crops, jobs."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import tensorcell as tc
from tensorcell import napari_plugin
from tensorcell.errors import InputError
from tensorcell.files.table import FORMATS
from tensorcell.napari_plugin import files, samples
from tensorcell.napari_plugin.crop import crop_of
from tensorcell.napari_plugin.jobs import Cancelled, Found, Job, Progress, Task, attempt
from tensorcell.napari_plugin.layers import layers_of, volume_of

Layer = tuple[Any, dict[str, Any], str]
SPACING = (0.5, 0.2, 0.1)


@pytest.fixture(scope="module")
def cells() -> Any:
    return tc.datasets.simulate_cells((8, 24, 24), cells=3, axial_factor=2, seed=0)


def as_in_napari(layer: Layer) -> Layer:
    """The layer as napari gives it back: with an entry for each axis of everything."""
    data, meta, kind = layer
    return data, {"axis_labels": tuple(map(str, range(-data.ndim, 0))), "units": ("pixel",) * data.ndim, **meta}, kind


def finished(job: Job, task: Task) -> tuple[list[Progress], Found]:
    said, run = [], job.run(task)
    while True:
        try:
            said.append(next(run))
        except StopIteration as end:
            return said, end.value


def test_the_manifest_names_all_formats_and_functions_that_exist() -> None:
    yaml = pytest.importorskip("yaml")
    parts = yaml.safe_load((Path(napari_plugin.__path__[0]) / "napari.yaml").read_text())["contributions"]
    patterns = [pattern for reader in parts["readers"] for pattern in reader["filename_patterns"]]
    assert patterns == [f"*{suffix}" for one in FORMATS for suffix in one.suffixes]
    written = [tuple(writer["filename_extensions"]) for writer in parts["writers"]]
    assert written == [one.suffixes for one in FORMATS if one.write is not None]
    for command in parts["commands"]:
        module, name = command["python_name"].split(":")
        assert f" {name}(" in Path(napari_plugin.__path__[0], f"{module.split('.')[-1]}.py").read_text()
    named = [each["command"] for kind in ("readers", "writers", "sample_data", "widgets") for each in parts[kind]]
    assert {*named} == {command["id"] for command in parts["commands"]}


def test_import_tensorcell_leaves_the_plugin_alone_and_most_of_the_plugin_napari() -> None:
    script = (
        "import sys, tensorcell, tensorcell.recovery; print([n for n in sys.modules if 'napari' in n]); "
        "from tensorcell.napari_plugin import crop, files, jobs, layers, samples; "
        "print([n for n in sys.modules if n.split('.')[0] in ('napari', 'qtpy', 'matplotlib', 'dask')])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split("\n")[:2] == ["[]", "[]"]


@pytest.mark.parametrize("name", ["a.ome.tif", "a.h5", "a.npz"])
def test_layers_survive_a_file(tmp_path: Path, name: str) -> None:
    data = np.arange(2 * 3 * 4 * 16 * 8, dtype=np.uint16).reshape(2, 3, 4, 16, 8)
    metadata = {"channel_names": ("dna", "actin", "dye"), "time_interval": 2.5}
    tc.write(tmp_path / name, tc.Volume(data, "TCZYX", SPACING, metadata=metadata))
    reader = files.get_reader(str(tmp_path / name))
    assert reader is not None
    layers = reader(str(tmp_path / name))
    assert [meta["name"] for _, meta, _ in layers] == ["a dna", "a actin", "a dye"]
    assert all(meta["units"] == ("s", "um", "um", "um") for _, meta, _ in layers)
    assert all(meta["scale"] == (2.5, *SPACING) for _, meta, _ in layers)
    assert layers[0][1]["axis_labels"] == tuple("tzyx")
    assert np.array_equal(layers[1][0], data[:, 1])
    files.write_layers(str(tmp_path / f"again_{name}"), [as_in_napari(layer) for layer in layers])
    again = tc.read(tmp_path / f"again_{name}")
    assert (again.axes, again.spacing) == ("TCZYX", SPACING)
    assert again.metadata["time_interval"] == 2.5
    assert np.array_equal(again.data, data)


def test_a_mask_in_a_file_is_a_hidden_layer(tmp_path: Path) -> None:
    mask = np.random.default_rng(0).random((3, 9, 8)) < 0.5
    tc.write(tmp_path / "a.npz", tc.Volume(np.ones((3, 9, 8)), mask=mask))
    _, (seen, meta, kind) = files.read_layers(str(tmp_path / "a.npz"))
    assert (kind, meta["visible"]) == ("labels", False)
    assert np.array_equal(seen, mask)


@pytest.mark.parametrize("name", ["a.npz", "a.h5", "a.zarr"])
def test_of_several_volumes_in_a_file_all_are_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    data = np.random.default_rng(0).random((3, 9, 8), np.float32)
    if name == "a.npz":
        np.savez(tmp_path / name, one=data, two=2 * data, three=3 * data)
    elif name == "a.h5":
        with pytest.importorskip("h5py").File(tmp_path / name, "w") as file:
            file.update({"one": data, "two": 2 * data, "three": 3 * data})
    else:
        group = pytest.importorskip("zarr").open_group(tmp_path / name, mode="w")
        for number, key in enumerate(("one", "two", "three"), 1):
            group.create_array(key, data=number * data)
    layers = files.read_layers(str(tmp_path / name))
    assert {meta["name"] for _, meta, _ in layers} == {"a one", "a two", "a three"}
    assert [meta.get("visible", True) for _, meta, _ in layers] == [True, False, False]
    assert np.array_equal(next(values for values, meta, _ in layers if meta["name"] == "a two"), 2 * data)
    monkeypatch.setattr(files, "MOST_VOLUMES", 2)
    with pytest.warns(UserWarning, match=f"{name}: the first 2 of 3 volumes are shown"):
        assert len(files.read_layers(str(tmp_path / name))) == 2


def test_large_files_are_read_plane_by_plane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("dask")
    data = np.random.default_rng(0).integers(0, 99, (2, 5, 9, 8)).astype(np.uint8)
    tc.write(tmp_path / "a.ome.tif", tc.Volume(data, "CZYX", SPACING))
    monkeypatch.setattr(files, "LARGE", 100)
    _, (second, meta, _) = files.read_layers(str(tmp_path / "a.ome.tif"))
    assert second.chunks == ((1,) * 5, (9,), (8,))
    assert "contrast_limits" not in meta  # napari finds it from the plane that is shown
    assert np.array_equal(np.asarray(second), data[1])


def test_what_is_not_known_or_not_kept_is_said(tmp_path: Path) -> None:
    (layer,) = layers_of(tc.Volume(np.zeros((4, 9, 8))), "a")
    assert layer[1]["units"] == ("pixel",) * 3
    layer[1]["scale"] = (2, 1, 1)
    with pytest.warns(UserWarning, match=r"does not hold the scale of a layer without a unit \(expected layer.units"):
        files.write_layers(str(tmp_path / "a.h5"), [layer])
    assert tc.read(tmp_path / "a.h5").spacing is None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        files.write_layers(str(tmp_path / "a.npy"), [layer])
    assert files.get_reader("a.docx") is None


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ((np.zeros((3, 4, 5), int), {"name": "nuclei"}, "labels"), "nuclei: its numbers are names of objects"),
        ((np.zeros((4, 5, 3), np.uint8), {"name": "photo", "rgb": True}, "image"), "photo: expected intensities"),
        ((np.zeros((2, 3, 4, 5)), {"name": "film"}, "image"), "film: 4 axes without names, expected axis labels"),
        ((np.zeros((5, 2)), {"name": "spots"}, "points"), "spots: expected an image layer, got a points layer"),
    ],
)
def test_layers_that_are_no_intensities_are_refused_in_a_line(layer: Layer, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        volume_of(as_in_napari(layer))
    assert "\n" not in str(error.value)


def test_layers_that_differ_are_not_put_together(tmp_path: Path) -> None:
    (one,) = layers_of(tc.Volume(np.zeros((4, 9, 8)), spacing=SPACING), "one")
    (two,) = layers_of(tc.Volume(np.zeros((5, 9, 8)), spacing=SPACING), "two")
    (three,) = layers_of(tc.Volume(np.zeros((4, 9, 8))), "three")
    with pytest.raises(InputError, match=r"two: expected the shape of one \(4, 9, 8\), got \(5, 9, 8\)"):
        files.write_layers(str(tmp_path / "a.tif"), [one, two])
    with pytest.raises(InputError, match="three: expected the voxel size of one"):
        files.write_layers(str(tmp_path / "a.tif"), [one, three])


def test_samples_lack_what_they_say() -> None:
    pixels, planes = samples.missing_pixels(), samples.missing_planes()
    assert [meta["name"] for _, meta, _ in pixels] == ["cells: truth", "cells: half of the pixels"]
    assert 0.45 < np.isnan(pixels[1][0]).mean() < 0.55
    assert len(planes[0][0]) == 2 * len(planes[1][0]) - 1
    assert planes[1][1]["scale"][0] == 2 * planes[0][1]["scale"][0]


def stub(**given: Any) -> Any:
    """Stands for a layer: world coordinates are those of the data times a scale, right-aligned."""
    scale = given.pop("scale", 1.0)
    return SimpleNamespace(
        name="box",
        data_to_world=lambda place: np.asarray(place) * scale,
        world_to_data=lambda place: np.array([*(0.0,) * (3 - len(place)), *place]) / scale,
        **given,
    )


def test_a_crop_is_the_box_around_what_is_drawn() -> None:
    corners = [np.array([[2.0, 3.0], [2.0, 22.0], [41.0, 22.0], [41.0, 3.0]]), np.array([[0.0, 0.0], [900.0, 900.0]])]
    image = stub(scale=0.5)
    drawn = stub(data=corners, selected_data={0})
    assert crop_of(drawn, image, "ZYX", (4, 60, 90)) == (slice(None), slice(4, 60), slice(6, 45))
    everything = stub(data=corners, selected_data=set())
    assert crop_of(everything, image, "ZYX", (4, 60, 90)) == (slice(None), slice(0, 60), slice(0, 90))
    with pytest.raises(InputError, match="box: expected a rectangle around what is to be recovered, got an empty"):
        crop_of(stub(data=[], selected_data=set()), image, "ZYX", (4, 60, 90))
    with pytest.raises(InputError, match="box: expected at least 8 voxels of the image along y, got 0"):
        crop_of(stub(data=[corners[0] + 500], selected_data=set()), image, "ZYX", (4, 60, 90))


def test_a_job_recovers_as_recover_does(cells: Any, tmp_path: Path) -> None:
    volume = tc.Volume(cells.measured, spacing=cells.spacing)
    said: list[Progress] = []
    task = Task(what="recover", volume=volume, arguments={"axial_factor": 2, "method": "tucker"})
    found = attempt(task, tmp_path, said.append)
    expected = tc.recover(volume, axial_factor=2, method="tucker")
    assert found.volume is not None
    assert found.uncertainty is not None
    assert found.invented is not None
    assert np.array_equal(found.volume.data, expected.volume.data)
    assert np.array_equal(found.uncertainty, expected.uncertainty)
    assert np.array_equal(found.invented, expected.invented)
    assert (found.volume.spacing, found.axial_factor) == (expected.volume.spacing, 2)
    assert all(note in found.text for note in expected.notes)
    shares = [each.share for each in said if each.share is not None]
    assert shares == sorted(shares)
    assert said[-1].text == "writing the report"
    assert found.report is not None
    assert found.report.read_text().startswith("<!doctype html>")


def test_a_job_diagnoses_in_words(cells: Any, tmp_path: Path) -> None:
    volume = tc.Volume(cells.measured, spacing=cells.spacing)
    found = attempt(Task(what="diagnose", volume=volume), tmp_path, lambda _: None)
    assert found.text.startswith(tc.diagnose(volume).summary)
    assert found.volume is None
    assert found.report is not None
    assert found.report.exists()


def test_what_a_job_cannot_use_is_one_line(cells: Any) -> None:
    job = Job()
    with pytest.raises(InputError, match="noise") as error:
        finished(job, Task(what="diagnose", volume=tc.Volume(cells.measured), arguments={"noise": -1.0}))
    assert "\n" not in str(error.value)


def test_a_cancelled_job_ends_its_process(cells: Any) -> None:
    job = Job()
    run = job.run(Task(what="recover", volume=tc.Volume(cells.measured)))
    assert next(run).text == "starting"
    job.cancel()
    with pytest.raises(Cancelled):
        list(run)
    assert job.process is not None
    assert job.process.poll() is not None
