"""`evaluate`: cases do what they say, methods see nothing else, cells fail alone, and a second run goes on."""

from __future__ import annotations

import csv
import functools
import importlib.util
import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import call
from scipy.ndimage import gaussian_filter

import tensorcell as tc
from tensorcell import evaluation, pages
from tensorcell.errors import InputError
from tensorcell.evaluation import (
    CASES,
    FIGURES,
    METHODS,
    TABLE_2,
    Cell,
    Evaluation,
    Measurement,
    Method,
    Row,
    choose_cases,
    choose_methods,
    evaluate,
    references,
    scaled,
)
from tensorcell.evaluation.methods import fitted_method, run_recover
from tensorcell.evaluation.peers import candidate_of_least_risk, wavelet_sigma
from tensorcell.evaluation.pictures import Shown, draw_case
from tensorcell.evaluation.processes import Finished, attempt, prepare
from tensorcell.evaluation.result import Picture
from tensorcell.evaluation.scores import downstream
from tensorcell.evaluation.segmentation import by_watershed
from tensorcell.evaluation.store import Store
from tensorcell.evaluation.versions import code_version
from tensorcell.pages.pictures import choose_slices
from tensorcell.solvers import estimate_noise
from tensorcell.solvers.spread import MEDIAN_DEVIATION

SHAPE = (11, 20, 22)


def volume(seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """Smooth structure without noise."""
    smooth = gaussian_filter(np.random.default_rng(seed).random(shape), 1.5)
    return (1000 * smooth).astype(np.float32)


@pytest.fixture(scope="module")
def reference() -> evaluation.Reference:
    (found,) = references({"smooth": volume()})
    return found


@pytest.fixture
def helpers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of methods that misbehave, importable here and in fresh interpreters."""
    (tmp_path / "strange_methods.py").write_text(
        "import os, signal, time\n"
        "import numpy as np\n"
        "def good(m, seed): return np.nan_to_num(m.grid, nan=.5)\n"
        "def raises(m, seed): raise RuntimeError('no\\nluck')\n"
        "def crashes(m, seed): os.kill(os.getpid(), signal.SIGSEGV)\n"
        "def killed(m, seed): os.kill(os.getpid(), signal.SIGKILL)\n"
        "def leaves(m, seed): os._exit(3)\n"
        "def hungry(m, seed): raise MemoryError\n"
        "def sleeps(m, seed): time.sleep(60)\n"
        "def wrong_shape(m, seed): return m.grid[1:]\n"
        "def nan(m, seed): return np.full(m.grid.shape, np.nan)\n"
        "def large(m, seed):\n"
        "    held = np.ones((64, 2**20), np.uint8)\n"
        "    return np.nan_to_num(m.grid, nan=.5) + 0 * held[0, 0]\n"
        "def prints(m, seed):\n"
        "    print('talks'); return good(m, seed)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import strange_methods  # type: ignore[import-not-found]

    yield strange_methods
    del sys.modules["strange_methods"]


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells run here, one after the other: for what is not about their processes, which take a second to start."""

    def run(cells: Any, folder: Path, jobs: int, time_limit: float | None) -> Any:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            for cell in cells:
                place = prepare(cell, Path(scratch))
                found = attempt(place)
                slices = place / "slices.npz"
                yield Finished(cell, found, slices if slices.exists() else None, 0.1)

    monkeypatch.setattr(evaluation.grid, "run_cells", run)


# ------------------------------------------------------------------------------------------------- references


def test_scaled_clips_to_the_percentiles_of_the_definition() -> None:
    stack = np.random.default_rng(0).normal(100, 20, (12, 20, 20))
    low, high = np.percentile(stack, [0.1, 99.9])
    v = scaled(stack)
    assert v.dtype == np.float32
    assert (v.min(), v.max()) == (0, 1)
    inside = (stack > low) & (stack < high)
    # float32 rounds at 6e-8
    np.testing.assert_allclose(v[inside], (stack[inside] - low) / (high - low), atol=1e-7)
    # an affine change of unit is undone
    np.testing.assert_allclose(scaled(7 * stack - 3), v, atol=1e-6)


def test_references_take_the_first_stack_and_say_so() -> None:
    four = np.stack([volume(1), volume(2)])
    (found,) = references({"movie": tc.Volume(four, axes="TZYX", spacing=(2.0, 1.0, 1.0))}, crop=(9, 10, 50))
    assert found.label == "movie T=0 [9x10x22]"
    assert found.spacing == (2, 1, 1)
    np.testing.assert_array_equal(found.data, scaled(four[0])[1:10, 5:15])  # scaled as a whole, then cropped


def test_noise_of_a_reference_is_that_of_the_solvers(reference: evaluation.Reference) -> None:
    rng = np.random.default_rng(0)
    noisy = volume(shape=(12, 40, 40)) + 20 * rng.standard_normal((12, 40, 40))
    (found,) = references(noisy)
    assert found.noise == estimate_noise(found.data)
    assert found.noise.sigma == tc.recover(found.data, method="tucker", rank=2).noise
    # A reference of which only noise is between it and the specimen has the PSNR of that noise; sigma is known to 5 %.
    assert found.limit == pytest.approx(-20 * math.log10(found.noise.sigma), abs=0.4)
    assert references(np.kron(np.eye(16), np.ones((12, 2, 2))))[0].limit == math.inf  # flat blocks


def test_references_are_never_written_to() -> None:
    given = volume()
    before = given.copy()
    (found,) = references(given)
    with pytest.raises(ValueError, match="read-only"):
        found.data[0] = 0
    for case in CASES.values():
        case.apply(found, 0)
    np.testing.assert_array_equal(given, before)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ([], "at least one volume"),
        (np.full(SHAPE, np.nan), r"volume 0: .*finite everywhere, got 4840 NaN"),
        (np.ones(SHAPE), "with contrast, got 1"),
        (volume(shape=(8, 20, 20)), "at least 9 x 7 x 7 voxels, got 8 x 20 x 20"),
        (tc.Volume(volume(), mask=volume() > 500), "measured everywhere, got one with a mask"),
    ],
)
def test_references_refuse(given: Any, match: str) -> None:
    with pytest.raises(InputError, match=match):
        references(given)


def test_references_refuse_the_same_name_twice(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", volume())
    with pytest.raises(InputError, match=r"a\.npy: expected volumes with different names"):
        references([tmp_path / "a.npy", str(tmp_path / "a.npy")])


@pytest.mark.parametrize("crop", [(9, 9), (9, 9, 0), (9, 9, 7.5)])
def test_references_refuse_a_crop(crop: Any) -> None:
    with pytest.raises(InputError, match="crop of 3 whole numbers of at least 1"):
        references(volume(), crop)


# ------------------------------------------------------------------------------------------------------ cases


@pytest.mark.parametrize("name", CASES)
def test_every_case_is_seeded_and_consistent(name: str, reference: evaluation.Reference) -> None:
    case = CASES[name]
    one, same, other = (case.apply(reference, seed) for seed in (0, 0, 1))
    given = one.measurement
    assert given.data.dtype == np.float32
    np.testing.assert_array_equal(given.data, same.measurement.data)
    assert given.grid.shape == one.truth.shape == one.measured.shape
    if case.kind == "resolution":
        assert not one.measured.any()
        np.testing.assert_array_equal(one.truth, reference.data[tuple(map(slice, one.truth.shape))])
    else:
        np.testing.assert_array_equal(np.isnan(given.grid), ~one.measured)
        np.testing.assert_array_equal(one.truth, reference.data[: len(one.truth)])
    assert min(one.truth.shape) >= 7  # the window of SSIM
    if case.kind in ("clean", "planes") or name == "sr-4x4":
        np.testing.assert_array_equal(given.data, other.measurement.data)
        np.testing.assert_array_equal(given.grid[one.measured], one.truth[one.measured])
    else:
        assert not np.array_equal(given.data, other.measurement.data, equal_nan=True)
    noisy = case.kind in ("noise", "noisy planes", "time")
    assert (given.options.get("keep_measured") is False) == (noisy or name == "stripes")


@pytest.mark.parametrize(("name", "sigma"), [("noise-0.01", 0.01), ("noise-0.1", 0.1), ("planes-3+noise-0.05", 0.05)])
def test_gaussian_cases_have_the_noise_they_name(name: str, sigma: float) -> None:
    (reference,) = references(volume(shape=(30, 40, 40)))
    degraded = CASES[name].apply(reference, 0)
    noise = (degraded.measurement.grid - degraded.truth)[degraded.measured]
    assert degraded.measurement.sigma == sigma
    # 16000 voxels or more know the standard deviation to 1 / sqrt(2 n) = .6 %, the mean to .8 % of it; 4 times that
    assert noise.std() == pytest.approx(sigma, rel=0.024)
    assert abs(noise.mean()) < 0.032 * sigma


def test_poisson_case_has_the_variance_of_photons() -> None:
    flat = np.full((40, 60, 60), 0.25, np.float32)
    degraded = evaluation.cases.degrade_poisson(flat, np.random.default_rng(0), peak=20)
    values = degraded.measurement.data
    # v / peak + .01^2; 144000 voxels know a variance of these photons to about .4 %, 4 times that
    assert values.var() == pytest.approx(0.25 / 20 + 1e-4, rel=0.016)
    assert degraded.measurement.sigma is None


def test_a_frame_of_a_time_series_is_judged_and_the_others_are_it_moved(reference: evaluation.Reference) -> None:
    degraded = CASES["time-10"].apply(reference, 0)
    given = degraded.measurement
    assert given.series is not None
    assert given.series.shape == (10, *given.data.shape)
    np.testing.assert_array_equal(given.series[given.frame], given.data)
    off = [np.std(frame - degraded.truth[::2]) for frame in given.series]
    assert off[given.frame] == pytest.approx(0.05, rel=0.05) == min(off)
    assert off[0] > off[3] > off[4] > 0.055
    still = evaluation.cases.degrade_series(
        degraded.truth, np.random.default_rng(0), frames=3, factor=2, sigma=0.0, step=0.0
    )
    for frame in still.measurement.series:
        np.testing.assert_allclose(frame, still.truth[::2], atol=1e-6)


def test_a_time_series_is_recovered_together_and_frame_by_frame(reference: evaluation.Reference) -> None:
    measurement = CASES["time-10"].apply(reference, 0).measurement
    together, alone = (METHODS[name].run(measurement, 0) for name in ("local", "frame-by-frame"))
    assert together.shape == alone.shape == measurement.grid.shape
    assert not np.array_equal(together, alone)
    assert "frame-by-frame" not in [m.name for m in choose_methods() if "planes" in m.kinds]


def test_fewer_planes_and_larger_pixels_are_means_of_the_truth(reference: evaluation.Reference) -> None:
    degraded = CASES["sr-4x4"].apply(reference, 0)
    data, truth = degraded.measurement.data, degraded.truth
    assert (degraded.measurement.axial_factor, degraded.measurement.lateral_factor) == (4, 4)
    for z, y, x in ((0, 0, 0), (1, 2, 3), (2, 4, 1)):
        block = truth[4 * z, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4]
        assert data[z, y, x] == pytest.approx(float(block.mean()), rel=1e-5)
    assert degraded.measurement.grid.shape == truth.shape
    for name in ("nearest", "linear", "cubic", "local"):
        restored = evaluation.METHODS[name].run(degraded.measurement, 0)
        assert restored.shape == truth.shape
        assert np.sqrt(np.mean((restored - truth) ** 2)) < truth.std()


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_planes_are_kept_from_the_first_to_the_last(factor: int, reference: evaluation.Reference) -> None:
    degraded = CASES[f"planes-{factor}"].apply(reference, 0)
    assert (len(degraded.truth) - 1) % factor == 0
    assert len(reference.data) - len(degraded.truth) < factor
    np.testing.assert_array_equal(degraded.measurement.data, reference.data[: len(degraded.truth) : factor])
    assert np.flatnonzero(degraded.measured.any(axis=(1, 2))).tolist() == list(range(0, len(degraded.truth), factor))


def test_pixels_case_keeps_and_spoils_the_shares_it_names() -> None:
    (reference,) = references(volume(shape=(30, 40, 40)))
    degraded = CASES["pixels-20"].apply(reference, 0)
    # 48000 voxels: 4 standard deviations of a binomial share
    assert degraded.measured.mean() == pytest.approx(0.2, abs=4 * math.sqrt(0.2 * 0.8 / 48000))
    wrong = (degraded.measurement.data != degraded.truth)[degraded.measured]
    assert wrong.mean() == pytest.approx(0.05, abs=4 * math.sqrt(0.05 * 0.95 / 9600))
    assert np.nanmax(degraded.measurement.data) > 1.9


def test_lines_blocks_stripes_and_hot_pixels_have_their_form(reference: evaluation.Reference) -> None:
    lines = CASES["lines"].apply(reference, 0).measured
    np.testing.assert_array_equal(lines, np.broadcast_to(lines[..., :1], SHAPE))
    blocks = ~CASES["blocks"].apply(reference, 0).measured
    for z in range(0, SHAPE[0], 3):
        for y in range(0, SHAPE[1], 8):
            for x in range(0, SHAPE[2], 8):
                assert np.ptp(blocks[z : z + 3, y : y + 8, x : x + 8].astype(int)) == 0
    assert blocks.any()
    stripes = CASES["stripes"].apply(reference, 0)
    np.testing.assert_allclose(np.ptp(stripes.measurement.data - stripes.truth, axis=2), 0, atol=5e-7)  # float32
    hot = CASES["hot-pixels"].apply(reference, 0)
    wrong = hot.measurement.data != hot.truth
    assert wrong.any()
    np.testing.assert_array_equal(wrong, np.broadcast_to(wrong[0], SHAPE))


def test_choose_cases_by_name_beginning_and_kind() -> None:
    assert [case.name for case in choose_cases("planes-2")] == ["planes-2"]
    assert len(choose_cases(["planes"])) == 6
    assert {case.kind for case in choose_cases(["noisy planes"])} == {"noisy planes"}
    assert "clean" not in [case.name for case in choose_cases()]
    assert set(TABLE_2) <= set(CASES)
    for wanted in (["noise-0.2"], ["noise-"], [""]):
        with pytest.raises(InputError, match=r"expected cases among clean, noise-0\.01, .*got"):
            choose_cases(wanted)
    with pytest.raises(InputError, match="at least one case"):
        choose_cases([])


# ---------------------------------------------------------------------------------------------------- methods


def test_wavelet_sigma_is_that_of_scikit_image() -> None:
    """But for the coefficients at the edges, of which it mirrors the stack."""
    pywt = pytest.importorskip("pywt")

    noisy = np.random.default_rng(0).normal(1.0, 0.2, (18, 20, 23))
    inner = tuple(slice(1, (size - 4) // 2 + 2) for size in noisy.shape)
    expected = np.median(np.abs(pywt.dwtn(noisy, "db2")["ddd"][inner])) / MEDIAN_DEVIATION
    assert wavelet_sigma(noisy) == pytest.approx(expected, rel=1e-5)


def test_wavelet_sigma_finds_white_noise_and_none_in_a_constant() -> None:
    noise = np.random.default_rng(3).normal(0, 0.3, (24, 64, 64))
    # 14000 coefficients: the median of absolute values is known to 1.17 / sqrt(n) = 1 %; 4 times that
    assert wavelet_sigma(noise) == pytest.approx(0.3, rel=0.04)
    assert wavelet_sigma(np.ones((8, 8, 8))) == 0


@pytest.mark.parametrize("planes", [1, 2, 3, 4, 5, 9, 16])
def test_wavelet_sigma_is_right_for_few_planes(planes: int) -> None:
    """Mirrored edges gave .70 of it at 3 planes."""
    found = [wavelet_sigma(np.random.default_rng(seed).normal(0, 0.3, (planes, 128, 128))) for seed in range(4)]
    assert np.mean(found) == pytest.approx(0.3, rel=0.03)


@pytest.mark.parametrize(("form", "degree"), [("linear", 1), ("pchip", 1), ("cubic", 3)])
def test_interpolators_reproduce_polynomials(form: str, degree: int) -> None:
    z = np.arange(13.0)[:, None, None]
    truth = ((0.1 * z) ** degree + np.zeros((1, 2, 3))).astype(np.float32)
    found = METHODS[form].run(Measurement(truth[::3], 3), 0)
    np.testing.assert_allclose(found, truth, atol=2e-6)  # float32 of numbers near 1


def test_nearest_takes_the_nearest_plane() -> None:
    data = np.arange(4.0, dtype=np.float32)[:, None, None] * np.ones((1, 2, 2), np.float32)
    assert METHODS["nearest"].run(Measurement(data, 3), 0)[:, 0, 0].tolist() == [0, 0, 1, 1, 1, 2, 2, 2, 3, 3]


def test_median_is_the_nan_median_by_brute_force(reference: evaluation.Reference) -> None:
    degraded = CASES["pixels-50"].apply(reference, 0)
    grid, found = degraded.measurement.grid, METHODS["median"].run(degraded.measurement, 0)
    for z, y, x in [(0, 0, 0), (5, 9, 11), (10, 19, 21), (3, 0, 7)]:
        around = grid[max(0, z - 1) : z + 2, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
        assert found[z, y, x] == np.float32(np.nanmedian(around))
    lonely = np.full((3, 3, 9), np.nan, np.float32)
    lonely[1, 1, 0] = 2
    np.testing.assert_array_equal(METHODS["median"].run(Measurement(lonely), 0), 2)


def test_candidate_of_least_risk_is_close_to_the_best_by_the_truth(reference: evaluation.Reference) -> None:
    y = CASES["noise-0.1"].apply(reference, 0).measurement.data

    def shrink(data: np.ndarray, width: float) -> np.ndarray:
        return gaussian_filter(data, width)

    widths = [0.2, 0.5, 0.8, 1.2, 2.0, 4.0]
    errors = {w: float(np.mean((shrink(y, w) - reference.data) ** 2)) for w in widths}
    chosen = candidate_of_least_risk(shrink, y, 0.1, widths, 0)
    # the estimate of the error has a standard deviation of about 2 sigma^2 / sqrt(N): 3e-4 here
    assert errors[chosen] <= min(errors.values()) + 1e-3


@pytest.mark.parametrize("name", ["tv", "nlm", "wavelet", "bm4d", "tensorly-tucker"])
def test_denoisers_denoise_and_do_not_write(name: str, reference: evaluation.Reference) -> None:
    if METHODS[name].missing:
        pytest.skip(f"{', '.join(METHODS[name].missing)} not installed")
    degraded = CASES["noise-0.1"].apply(reference, 0)
    data = degraded.measurement.data.copy()
    data.setflags(write=False)
    found = METHODS[name].run(replace(degraded.measurement, data=data, sigma=None), 0)
    before, after = (float(np.mean((a - degraded.truth) ** 2)) for a in (data, found))
    assert after < 0.6 * before  # any of them halves the error of smooth structure; the measurement has 1


@pytest.mark.parametrize("name", ["tensorly-tucker", "robust-pca"])
def test_tensorly_methods_fill_gaps(name: str, reference: evaluation.Reference) -> None:
    degraded = CASES["pixels-50"].apply(reference, 0)
    found = METHODS[name].run(degraded.measurement, 0)
    flat = np.full(SHAPE, np.nanmedian(degraded.measurement.data))
    missing = ~degraded.measured
    assert tc.metrics.nrmse(degraded.truth, found, mask=missing) < tc.metrics.nrmse(degraded.truth, flat, mask=missing)


def test_no_method_is_handed_the_truth(reference: evaluation.Reference) -> None:
    for case in CASES.values():
        cell = Cell(reference, case, METHODS["none"], 0, "estimated", "")
        assert cell.degraded.measurement.sigma is None
        given = {"data", "axial_factor", "lateral_factor", "sigma", "options", "series", "frame"}
        assert set(vars(cell.degraded.measurement)) == given
    given = Cell(reference, CASES["noise-0.1"], METHODS["none"], 0, "given", "").degraded.measurement
    assert given.sigma == 0.1


def test_choose_methods() -> None:
    assert [method.name for method in choose_methods(["linear", "nlm+cubic"])] == ["linear", "nlm+cubic"]
    names = [method.name for method in choose_methods()]
    assert set(tc.recovery.METHODS) - {"diffusion", "microdiffuse3d"} <= set(names)
    assert "diffusion" not in names
    assert not any(method.missing for method in choose_methods())
    for wrong in ("splines", "linear+nlm", "nlm+"):
        with pytest.raises(InputError, match=rf"expected methods among .*got '{re.escape(wrong)}'"):
            choose_methods([wrong])
    with pytest.raises(InputError, match="at least one method"):
        choose_methods([])
    lacking = Method("odd", METHODS["none"].run, needs=("no_such_module",))
    with pytest.raises(InputError, match="method odd needs no_such_module, which is not installed"):
        choose_methods([lacking])


def test_networks_that_were_fitted_need_diffusers_for_microdiffuse3d_alone(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").touch()
    (tmp_path / "network.safetensors").touch()
    kinds = ("diffusion", f"srcnn:{tmp_path}", f"microdiffuse3d:{tmp_path}")
    needs = [fitted_method(kind).needs if ":" in kind else evaluation.METHODS[kind].needs for kind in kinds]
    assert needs == [("torch", "safetensors")] * 2 + [("torch", "safetensors", "diffusers")]


# ------------------------------------------------------------------------------------------------------ cells


def test_score_on_all_and_on_missing_voxels(reference: evaluation.Reference) -> None:
    degraded = CASES["planes-2"].apply(reference, 0)
    estimate = degraded.truth + np.where(degraded.measured, 0, np.float32(0.1))
    found = evaluation.score(degraded, estimate)
    share = (~degraded.measured).mean()
    assert found["psnr_missing"] == pytest.approx(20, abs=1e-5)  # float32
    assert found["psnr"] == pytest.approx(20 - 10 * math.log10(share), abs=1e-5)
    expected = 0.1 / math.sqrt(np.mean(degraded.truth[~degraded.measured].astype(float) ** 2))
    assert found["nrmse_missing"] == pytest.approx(expected, rel=1e-5)
    complete = CASES["noise-0.1"].apply(reference, 0)
    assert "psnr_missing" not in evaluation.score(complete, complete.truth)
    assert set(found) <= set(evaluation.SCORES)


def test_a_process_that_dies_costs_its_own_cell(helpers: Any, tmp_path: Path) -> None:
    expected = {
        "good": "done",
        "crashes": "failed: killed by signal 11",
        "killed": "failed: killed by signal 9, most likely for lack of memory",
        "leaves": "failed: ended with status 3",
    }
    methods = [Method(name, getattr(helpers, name)) for name in expected]
    result = evaluate({"v": volume()}, out=tmp_path / "out", methods=methods, cases=["noise-0.1"], jobs=2)
    assert {row.method: row.status for row in result.rows} == expected
    assert [row.method for row in result.failed] == ["crashes", "killed", "leaves"]
    assert any("shared the processors" in note for note in result.notes)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "cells.jsonl", "index.html", "pictures", "scores.csv", "scores.md", "slices",
    ]  # fmt: skip


def test_failing_cells_are_rows_with_the_reason(helpers: Any, tmp_path: Path, in_process: None) -> None:
    expected = {
        "raises": "failed: RuntimeError: no luck",
        "hungry": "failed: not enough memory",
        "wrong_shape": "refused: the method returned shape (10, 20, 22), expected (11, 20, 22)",
        "nan": "refused: the method returned 4840 NaN or infinite voxels, expected finite numbers",
    }
    methods = [Method(name, getattr(helpers, name)) for name in expected]
    result = evaluate({"v": volume()}, out=tmp_path, methods=methods, cases=["noise-0.1"])
    assert {row.method: row.status for row in result.rows} == expected
    kept = [json.loads(line) for line in (tmp_path / "cells.jsonl").read_text().splitlines()]
    (trace,) = (record["found"]["traceback"] for record in kept if record["method"] == "raises")
    assert "RuntimeError" in trace
    assert "no luck" in result.to_markdown()


def test_time_limit(helpers: Any, tmp_path: Path) -> None:
    slow = Method("sleeps", helpers.sleeps)
    result = evaluate(volume(), out=tmp_path, methods=[slow], cases=["noise-0.1"], time_limit=0.2)
    assert result.rows[0].status == "failed: over the time limit of 0.2 s"


def test_memory_is_that_of_the_method(helpers: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    methods = [Method(name, getattr(helpers, name)) for name in ("large", "prints")]
    large, prints = evaluate(volume(), out=tmp_path, methods=methods, cases=["noise-0.1"]).rows
    if sys.platform == "linux":
        # 64 MiB are held during the call, and during the warm-up before it, which must not hide them
        assert 60 < large.memory < 90
        assert prints.memory < 20
    assert prints.done
    assert capfd.readouterr().out == ""


def test_a_method_that_recover_refuses_is_a_row(tmp_path: Path, in_process: None) -> None:
    unknown = Method("unknown", functools.partial(run_recover, method="magic"), ours=True)
    result = evaluate(volume(), out=tmp_path, methods=[unknown], cases=["planes-2"])
    assert re.match(r"refused: expected method .*got 'magic'", result.rows[0].status)


def test_a_second_run_does_what_is_missing(tmp_path: Path, in_process: None) -> None:
    steps: list[evaluation.Progress] = []

    def run(**more: Any) -> Evaluation:
        steps.clear()
        options = {"methods": ["linear", "nearest"], "cases": ["planes-2"], **more}
        return evaluate({"v": volume()}, out=tmp_path, progress=steps.append, **options)

    first = run(methods=["linear"])
    assert (len(first.rows), first.reused) == (1, 0)
    assert [(step.done, step.total) for step in steps] == [(0, 1), (1, 1)]
    assert math.isnan(steps[0].seconds_left)
    assert steps[1].seconds_left == 0
    second = run()
    assert (len(second.rows), second.reused) == (2, 1)
    assert second.rows[0] == first.rows[0]
    assert "1 from before" in second.sentence
    assert run().reused == 2
    assert [(step.done, step.total, step.reused) for step in steps] == [(0, 0, 2)]
    assert run(seed=1).reused == 0
    assert run(noise="given").reused == 0
    # a line that a crash cut off is done again, and spoils no other
    lines = (tmp_path / "cells.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "cells.jsonl").write_text(lines[0] + lines[1][:40])
    assert run().reused == 1
    assert run().reused == 2


def test_changed_code_repeats_its_own_cells_only(
    helpers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: evaluation.Reference
) -> None:
    file = Path(helpers.__file__)
    mine, theirs = Method("good", helpers.good), METHODS["linear"]
    before = code_version(mine), code_version(theirs)
    file.write_text(file.read_text() + "# changed\n")
    after = code_version(mine), code_version(theirs)
    assert before[0] != after[0]
    assert before[1] == after[1]
    ours = code_version(METHODS["tucker"])
    assert ours != code_version(theirs)  # it depends on the solvers
    paths = {path.as_posix() for path in evaluation.versions.python_files(evaluation.versions.PACKAGE)}
    for part in ("recovery.py", "solvers/noise.py", "pages/__init__.py", "diffusion_guidance/networks.py"):
        assert any(path.endswith(f"tensorcell/{part}") for path in paths)
    keys = {
        Cell(reference, CASES["clean"], METHODS["tv"], 0, noise, version).key
        for noise in ("estimated", "given")
        for version in ("a", "b")
    }
    assert len(keys) == 4


def test_retry_does_failed_cells_again(helpers: Any, tmp_path: Path, in_process: None) -> None:
    methods = [Method(name, getattr(helpers, name)) for name in ("good", "raises")]
    first, second, third = (
        evaluate(volume(), out=tmp_path, methods=methods, cases=["stripes"], retry=retry)
        for retry in (False, False, True)
    )
    assert [result.reused for result in (first, second, third)] == [0, 2, 1]


def test_results_do_not_depend_on_other_methods(tmp_path: Path, in_process: None) -> None:
    chosen = {"methods": ["linear", "nearest", "cubic"], "cases": ["planes-2+noise-0.05"]}
    alone = evaluate(volume(), out=tmp_path / "a", **(chosen | {"methods": ["cubic"]}))
    together = evaluate(volume(), out=tmp_path / "b", **chosen)
    assert alone.rows[0].psnr == together.rows[2].psnr
    assert [row.method for row in together.rows] == ["linear", "nearest", "cubic"]


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to another process")
@pytest.mark.usefixtures("heeds_interrupts")
def test_ctrl_c_keeps_what_is_done_and_leaves_nothing_running(helpers: Any, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, numpy as np, strange_methods as s\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "from tensorcell.evaluation import Method, evaluate\n"
        "v = np.random.default_rng(0).random((9, 12, 12))\n"
        "methods = [Method('good', s.good), Method('sleeps', s.sleeps)]\n"
        "evaluate(v, out='out', methods=methods, cases=['stripes'], progress=lambda p: print(p.done, flush=True))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), *sys.path))}
    process = subprocess.Popen(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert [process.stdout.readline().strip() for _ in range(2)] == ["0", "1"]
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    finally:  # whatever failed, the next test must find nothing running and nothing open
        process.kill()
        process.communicate()
    assert "KeyboardInterrupt" in err
    assert process.returncode != 0
    assert len((tmp_path / "out" / "cells.jsonl").read_text().splitlines()) == 1
    assert not list((tmp_path / "out").glob(".tensorcell-*"))
    good = Method("good", helpers.good)
    again = evaluate(
        {"volume 0": np.random.default_rng(0).random((9, 12, 12))},
        out=tmp_path / "out",
        methods=[good],
        cases=["stripes"],
    )
    assert again.reused == 1


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"noise": "known"}, "expected noise 'estimated' or 'given', got 'known'"),
        ({"seed": -1}, "expected a whole number of at least 0 as seed, got -1"),
        ({"jobs": 0}, "expected a whole number of at least 1 as jobs, got 0"),
        ({"time_limit": 0}, "expected time_limit above 0, got 0"),
        ({"methods": ["linear"], "cases": ["noise-0.1"]}, "method linear is for planes, .*got the cases noise-0.1"),
        ({"methods": [Method("odd", lambda m, seed: m.data)]}, "method odd must be a function of a module"),
    ],
)
def test_evaluate_refuses(options: Any, match: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=match):
        evaluate(volume(), out=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_evaluate_refuses_a_function_of_the_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def local(m: Measurement, seed: int) -> np.ndarray:
        return m.data

    local.__module__, local.__qualname__ = "__main__", "local"
    monkeypatch.setattr(sys.modules["__main__"], "local", local, raising=False)
    with pytest.raises(InputError, match="importable module, got one of the script itself"):
        evaluate(volume(), out=tmp_path / "out", methods=[Method("local", local)])


def test_a_run_that_wrote_nothing_leaves_no_folder(tmp_path: Path) -> None:
    def stop(_: Any) -> None:
        raise KeyboardInterrupt

    (tmp_path / "there").mkdir()
    for out in ("new/out", "there"):
        with pytest.raises(KeyboardInterrupt):
            evaluate(volume(), out=tmp_path / out, methods=["linear"], cases=["planes-2"], progress=stop)
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]


def test_evaluate_refuses_a_file_as_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(InputError, match="out: expected a folder for the results: File exists"):
        evaluate(volume(), out=tmp_path / "out", methods=["linear"], cases=["planes-2"])
    assert (tmp_path / "out").read_text() == "mine"


# ----------------------------------------------------------------------------------------------------- tables


def row(volume: str, method: str, psnr: float, case: str = "planes-2", **more: Any) -> Row:
    return Row(volume=volume, case=case, method=method, psnr=psnr, **more)


ROWS = (
    row("a", "auto", 31.0), row("a", "linear", 30.0, nrmse=0.1), row("a", "cubic", 30.5, nrmse=0.3),
    row("b", "auto", 28.0), row("b", "linear", 29.0, nrmse=0.3), row("b", "cubic", math.nan, status="failed: odd"),
)  # fmt: skip


def result_of(rows: tuple[Row, ...], folder: Path = Path()) -> Evaluation:
    return Evaluation(rows, 0, 1.0, ("a note",), folder)


def test_means_count_the_volumes_that_were_done() -> None:
    means = {mean.method: mean for mean in result_of(ROWS).means()}
    assert (means["linear"].scores["psnr"], means["linear"].volumes) == (29.5, 2)
    assert (means["cubic"].scores["psnr"], means["cubic"].volumes) == (30.5, 1)
    assert math.isnan(means["auto"].scores["nrmse"])


def test_differences_are_to_the_best_rival_of_each_volume() -> None:
    (found,) = result_of(ROWS).differences("auto", ["linear", "cubic"])
    assert (found.mean, found.lowest, found.volume, found.volumes) == (-0.25, -1.0, "b", 2)
    (found,) = result_of(ROWS).differences("cubic", "linear", score="nrmse")
    assert found.mean == pytest.approx(-0.2)  # lower is better: cubic is worse
    with pytest.raises(InputError, match=r"expected a score among psnr, .*got 'mse'"):
        result_of(ROWS).differences("auto", "linear", score="mse")


def test_markdown_marks_the_best_over_all_volumes() -> None:
    text = result_of(ROWS).to_markdown()
    table = text.split("## Planes: PSNR, dB, mean of 2 volumes\n\n")[1].split("\n\n")[0]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    assert lines[0] == ["method", "planes-2"]
    assert lines[2:] == [["auto", "**29.50**"], ["linear", "**29.50**"], ["cubic", "30.50 (1 of 2)"]]
    assert "| linear or cubic | -0.25 (-1.00) |" in text
    assert "failed: odd" in text
    assert "- a note" in text
    assert "failed: odd" in result_of(ROWS).summary()


def test_csv_holds_every_number(tmp_path: Path) -> None:
    result_of(ROWS).to_csv(tmp_path / "s.csv")
    with (tmp_path / "s.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(r["psnr"]) if r["psnr"] else None for r in rows] == [31, 30, 30.5, 28, 29, None]
    assert rows[5]["status"] == "failed: odd"
    assert rows[0]["ssim"] == ""


def test_paper_table_has_the_rows_and_columns_of_table_2() -> None:
    rows = tuple(row("a", "auto", 30.0 + k, case, ssim=0.9, piqe=20.0) for k, case in enumerate(TABLE_2))
    lines = result_of(rows).paper_table("auto").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert cells[0] == ["setting", "PSNR ↑", "SSIM ↑", "LPIPS ↓", "NIQE ↓", "PIQE ↓", "NRQM ↑"]
    assert cells[2] == ["Original (clean)", "30.00", "0.9000", "–", "–", "20.0", "–"]
    assert [c[0] for c in cells[2:]] == list(TABLE_2.values())
    with pytest.raises(InputError, match="expected finished cells of tucker in the cases clean"):
        result_of(rows).paper_table("tucker")
    with pytest.raises(InputError, match="expected a finished cell of one of our methods"):
        result_of(ROWS[1:2]).paper_tables()


def test_figure_tables_put_all_methods_side_by_side() -> None:
    rows = tuple(
        row("a", method, 30.0 + k, case, ms_ssim=0.8 + 0.1 * k, hf_error=0.2 - 0.1 * k, pq=0.5)
        for case in FIGURES
        for k, method in enumerate(("linear", "rcan3d:net"))
    )
    text = result_of(rows).paper_tables()
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0][:5] == ["method", "PSNR, dB ↑", "SSIM ↑", "MS-SSIM ↑", "PQ ↑"]
    assert cells[0][-2:] == ["HF error ↓", "sharpness → 1"]
    assert cells[3][:5] == ["rcan3d:net", "**31.00**", "–", "**0.9000**", "**0.5000**"]
    assert cells[3][-2] == "**0.1000**"
    assert text.count("| method") == len(FIGURES)
    assert "3D denoising (SNR 5): means over 1 volume(s). Objects by" in text


def test_downstream_scores_are_best_for_the_truth_and_fall_with_noise() -> None:
    truth = tc.datasets.simulate_cells((12, 48, 48), cells=8, seed=3).truth
    truth = (truth / truth.max()).astype(np.float32)
    perfect = downstream(truth, truth)
    for name in ("ms_ssim", "ccc", "pcc", "profile_ssim", "sharpness", "dice", "object_f1", "pq"):
        assert perfect[name] == pytest.approx(1), name
    noisy = downstream(truth, truth + 0.2 * np.random.default_rng(0).standard_normal(truth.shape))
    assert all(noisy[name] < perfect[name] for name in ("ms_ssim", "ccc", "pcc", "profile_ssim", "dice", "pq"))
    assert noisy["sharpness"] > 2
    assert not {"dice", "pcc"} & set(downstream(np.zeros((12, 16, 16)), np.zeros((12, 16, 16))))


def test_objects_are_cut_where_they_touch_and_specks_are_dropped() -> None:
    z, y, x = np.meshgrid(np.arange(14), np.arange(24), np.arange(60), indexing="ij")
    stack = np.zeros(z.shape)
    for middle in (12, 22, 46):
        stack[(z - 7) ** 2 + (y - 12) ** 2 + (x - middle) ** 2 < 36] = 1
    stack[1, 1, 1:3] = 1
    labels = by_watershed(stack)
    assert len(np.unique(labels[labels > 0])) == 3
    assert len({labels[7, 12, middle] for middle in (12, 22, 46)}) == 3
    assert labels[1, 1, 1] == 0
    assert not by_watershed(np.ones((5, 6, 7))).any()


def test_to_dict_is_valid_json() -> None:
    text = json.dumps(result_of((*ROWS, row("c", "auto", math.inf))).to_dict(), allow_nan=False)
    assert json.loads(text)["rows"][5]["psnr"] is None


def test_store_keeps_the_last_of_a_key(tmp_path: Path, reference: evaluation.Reference) -> None:
    store, cell = Store(tmp_path), Cell(reference, CASES["clean"], METHODS["none"], 0, "estimated", "v")
    store.add(cell, {"psnr": 1.0}, None)
    store.add(cell, {"psnr": math.inf}, None)
    assert store.load() == {cell.key: {"psnr": math.inf}}
    assert store.picture_slices(cell) is None


# --------------------------------------------------------------------------------------------------- pictures


def test_draw_case_shows_the_slices_and_their_errors(reference: evaluation.Reference) -> None:
    degraded = CASES["planes-2"].apply(reference, 0)
    plane, line = choose_slices(degraded.measured, degraded.truth)
    xy, xz = degraded.truth[plane] + 0.1, degraded.truth[:, line] - 0.2
    figure = draw_case("title", degraded, [Shown("mine", 30.0, xy, xz)], (2.0, 1.0, 1.0))
    images = [ax.images[0].get_array() for ax in figure.axes]
    assert len(images) == 2 + 2 + 4
    assert images[2].mask.all()  # the plane was not measured
    np.testing.assert_array_equal(images[4], xy)
    np.testing.assert_allclose(images[6], 0.1, atol=1e-6)  # float32
    np.testing.assert_allclose(images[7], 0.2, atol=1e-6)
    heights = [ax.get_position().height * figure.get_size_inches()[1] for ax in figure.axes[:2]]
    # 20 rows of 1 and 11 planes of 2, in columns of the same width
    assert heights[1] / heights[0] == pytest.approx(22 / 20)


def test_page_shows_the_pictures_of_its_case(tmp_path: Path) -> None:
    shown = replace(result_of(ROWS, tmp_path), pictures=(Picture("planes-2", "a, planes-2", "pictures/a.png"),))
    pages.write(shown, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert text.count('src="pictures/a.png"') == 1
    assert "<li>a note</li>" in text
    assert "<b>29.50</b>" in text
    assert "failed: odd" in text


def test_pictures_are_written_for_each_volume_and_case(tmp_path: Path, in_process: None) -> None:
    result = evaluate(
        {"a/b c": volume()}, out=tmp_path, methods=["linear", "nearest"], cases=["planes-2"], crop=(9, 16, 16)
    )
    assert [p.name for p in (tmp_path / "pictures").iterdir()] == ["a_b_c_9x16x16_--planes-2.png"]
    assert (tmp_path / "pictures" / "a_b_c_9x16x16_--planes-2.png").read_bytes()[:4] == b"\x89PNG"
    page = (tmp_path / "index.html").read_text()
    assert 'src="pictures/a_b_c_9x16x16_--planes-2.png"' in page
    assert "a/b c [9x16x16]" in page
    assert "http" not in page
    assert result.to_markdown() == (tmp_path / "scores.md").read_text()


# ----------------------------------------------------------------------------------------------- command line


def test_command_evaluates_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], in_process: None
) -> None:
    tc.write(tmp_path / "in.tif", tc.Volume(volume(), spacing=(2.0, 1.0, 1.0)))
    before = (tmp_path / "in.tif").read_bytes()
    words = ("evaluate", "in.tif", "--out", "out", "--cases", "planes-2", "--crop", "9,12,12", "--methods")
    assert call(monkeypatch, tmp_path, *words, "linear") == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "in.tif" not in out.split("\n")[0]
    assert "1 cells: 1 done now" in out
    assert call(monkeypatch, tmp_path, *words, "linear,nearest", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["reused"] == 1
    assert [r["volume"] for r in facts["rows"]] == ["in.tif [9x12x12]"] * 2
    assert (tmp_path / "in.tif").read_bytes() == before


def test_command_prints_the_paper_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], in_process: None
) -> None:
    np.save(tmp_path / "in.npy", volume())
    words = ("evaluate", "in.npy", "--out", "out", "--methods", "tucker", "--paper-table", "--cases", "clean,planes-4")
    assert call(monkeypatch, tmp_path, *words) == 0
    out = capsys.readouterr().out
    assert "| setting " in out
    assert re.search(r"\| Original \(clean\) +\| +\d\d\.\d\d \|", out)
    assert re.search(r"\| \+ Downsampling x3 +\| +– \|", out)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--cases", "fog"), "expected cases among"),
        (("--methods", "magic"), "expected methods among"),
        (("--crop", "9,9"), "crop of 3 whole numbers"),
        (("--crop", "a"), "expected whole numbers separated by commas for --crop"),
        (("--noise", "known"), "expected noise 'estimated' or 'given'"),
    ],
)
def test_command_refuses_in_one_line(
    words: tuple[str, ...],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    np.save(tmp_path / "in.npy", volume())
    assert call(monkeypatch, tmp_path, "evaluate", "in.npy", "--out", "out", *words) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert expected in err
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------------------ real volumes


@pytest.mark.usefixtures("in_process")
def test_small_grid_on_a_real_volume(volumes_folder: Path, tmp_path: Path) -> None:
    result = evaluate(
        volumes_folder / "brain_nuclei_mesospim_lightsheet.tif",
        out=tmp_path,
        crop=(16, 28, 28),
        methods=["tucker", "none", "linear", "nearest", "median"],
        cases=["noise-0.05", "planes-2", "pixels-20"],
    )
    assert not result.failed
    values = {(r.case, r.method): r.psnr for r in result.rows}
    assert values["noise-0.05", "none"] == pytest.approx(26.02, abs=0.1)  # -20 log10 .05; 12500 voxels know it to .06
    assert values["planes-2", "linear"] > values["planes-2", "nearest"]
    assert values["pixels-20", "tucker"] > values["pixels-20", "median"]


def test_bm4d_is_no_dependency() -> None:
    text = (Path(__file__).resolve().parents[1] / "setup.cfg").read_text()
    assert "bm4d" not in text
    assert (importlib.util.find_spec("bm4d") is None) == bool(METHODS["bm4d"].missing)
