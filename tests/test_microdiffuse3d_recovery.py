"""``recover(method="microdiffuse3d")``: agreement with the measurement, calibrated errors, and when it is not used."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.spatial
from scipy.ndimage import gaussian_filter

torch = pytest.importorskip("torch", reason="needs the extra 'diffusion'")

from tensorcell import recover  # noqa: E402
from tensorcell.datasets import simulate_cells  # noqa: E402
from tensorcell.diffusion_guidance.microdiffuse3d import (  # noqa: E402
    Degradation,
    MicroDiffuse3D,
    MicroDiffuse3DConfig,
    Model,
    Parts,
    Sampling,
    SliceAutoencoder,
    calibrated_model,
    load_model,
    restore_scan,
    save_model,
    simulated,
)
from tensorcell.diffusion_guidance.microdiffuse3d import scans as scans_module  # noqa: E402
from tensorcell.diffusion_guidance.microdiffuse3d.calibration import (  # noqa: E402
    HeldOut,
    RestoredExample,
    Widths,
    held_out,
    matched,
)
from tensorcell.diffusion_guidance.microdiffuse3d.consistency import (  # noqa: E402
    brought_into_agreement,
    misfit_of,
    residual_of,
    scale_of,
    shrunk,
    with_fitted_psf,
)
from tensorcell.diffusion_guidance.microdiffuse3d.data import Example, Sources, Span  # noqa: E402
from tensorcell.diffusion_guidance.microdiffuse3d.degradation import pixels_of  # noqa: E402
from tensorcell.diffusion_guidance.microdiffuse3d.likeness import (  # noqa: E402
    FAR,
    Likeness,
    distance,
    features_of,
)
from tensorcell.diffusion_guidance.microdiffuse3d.restoration import Restored  # noqa: E402
from tensorcell.errors import InputError  # noqa: E402
from tensorcell.methods import microdiffuse3d as method  # noqa: E402

SCAN = Degradation(axial_factor=2, lateral_factor=2, psf=(1.0, 0.7, 0.7), photons=400.0)
CONFIG = replace(
    MicroDiffuse3DConfig.named("tiny"), token_width=12, condition_width=4, injected_width=8, blocks=1, heads=2,
    head_width=4, positions=(4, 2, 2), encoder_width=4, encoder_groups=2, encoder_heads=2, depth_ratios=(1, 2),
)  # fmt: skip
WIDTHS = Widths(intensities=(0.0, 1.0), squares=(1.0, 4.0), least=1e-3)
ERRORS = HeldOut(
    samples=2, steps=2, error=0.05, interpolation=0.1, misfit=0.2, floor=0.01, spread=WIDTHS,
    single=Widths(intensities=(0.0,), squares=(0.04,), least=1e-3),
)  # fmt: skip


def generator(seed: int = 0) -> Any:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def cells() -> np.ndarray:
    return simulate_cells((9, 40, 48), cells=10, seed=4).truth.astype(np.float32)


@pytest.fixture(scope="module")
def measured(cells: np.ndarray) -> np.ndarray:
    return SCAN.expected(torch.from_numpy(cells)[None, None])[0, 0].numpy()


@pytest.fixture
def model() -> Model:
    """Untrained networks."""
    autoencoder = SliceAutoencoder.new(scale=4, width=8).eval()
    return Model(parts=Parts(MicroDiffuse3D.new(CONFIG).eval(), autoencoder), acquisition=SCAN, held_out=ERRORS)


@pytest.fixture
def knowing(cells: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks that draw the truth, with a little noise and in a scale of their own."""
    truth = torch.from_numpy(np.concatenate([cells, cells[-1:]]))

    def restored(volume: Any, planes: int, parts: Any, *, samples: int, generator: Any, callback: Any, **_: Any) -> Any:
        noise = 0.02 * torch.randn((samples, 1, *truth.shape), generator=generator)
        drawn = 3 * (truth + noise) + 0.5
        callback(1, 1, drawn)
        return Restored(drawn.mean(dim=0), drawn.std(dim=0, correction=0), drawn)

    monkeypatch.setattr(scans_module, "restored", restored)


# ------------------------------------------------------------------------------------------------------ consistency


def test_the_expected_measurement_is_linear_and_what_noisy_ones_are_about() -> None:
    first, second = (torch.rand(1, 1, 8, 16, 16, generator=generator(n)) for n in (0, 1))
    both = SCAN.expected(2 * first - 3 * second)
    torch.testing.assert_close(both, 2 * SCAN.expected(first) - 3 * SCAN.expected(second), rtol=1e-4, atol=1e-5)
    assert both.shape == (1, 1, 4, 8, 8)
    plain = Degradation(axial_factor=2, psf=(1.0, 1.0, 1.0), photons=50.0, read_noise=0.02)
    many = torch.stack([plain(first, generator(n)) for n in range(200)]).mean(dim=0)
    torch.testing.assert_close(many, plain.expected(first), atol=0.05, rtol=0)


def test_the_scale_of_a_restored_volume_is_found(cells: np.ndarray) -> None:
    volume = torch.from_numpy(cells)[None, None]
    deep = replace(SCAN, attenuation=6.0)
    measured = 40 * deep.expected(volume) + 7 * deep.expected(torch.ones_like(volume))
    slope, offset = scale_of(volume, measured, deep)
    assert slope == pytest.approx(40, rel=1e-3)
    assert offset == pytest.approx(7, rel=1e-2)
    assert scale_of(torch.ones_like(volume), measured, SCAN).slope == 1
    assert scale_of(-volume, SCAN.expected(volume), SCAN).slope == 1


def test_noise_is_not_put_back_and_signal_is() -> None:
    noise = 0.1 * torch.randn(1, 1, 6, 64, 64, generator=generator())
    variance = torch.full_like(noise, 0.01)
    assert float(shrunk(noise, variance).square().mean()) < 0.05 * 0.01
    spot = noise.clone()
    spot[0, 0, 3, 30:32, 30:32] += 2.0
    kept = shrunk(spot, variance)[0, 0, 3, 30:32, 30:32]
    assert float((kept / spot[0, 0, 3, 30:32, 30:32]).min()) > 0.9


def test_a_spot_that_the_network_did_not_draw_comes_back(cells: np.ndarray) -> None:
    truth = torch.from_numpy(np.concatenate([cells, cells[-1:]]))[None, None]
    spots = truth.clone()
    for place in ((2, 10, 11), (4, 25, 30), (6, 33, 17)):
        spots[0, 0, place[0] : place[0] + 2, place[1] : place[1] + 3, place[2] : place[2] + 3] += 1.0
    measured = SCAN.expected(spots) + 0.01 * torch.randn(1, 1, 5, 20, 24, generator=generator())
    variance = torch.full_like(measured, 1e-4)
    after = brought_into_agreement(truth, measured, variance, SCAN)
    before, left = (float(residual_of(x, measured, SCAN).abs().max()) for x in (truth, after))
    assert left < 0.35 * before
    assert float((after - spots).square().mean()) < 0.6 * float((truth - spots).square().mean())
    same = brought_into_agreement(truth, SCAN.expected(truth), variance, SCAN)
    torch.testing.assert_close(same, truth)


def test_the_misfit_is_what_noise_does_not_explain() -> None:
    measured = torch.randn(1, 1, 4, 50, 50, generator=generator())
    noise = 0.3 * torch.randn(1, 1, 4, 50, 50, generator=generator(1))
    variance = torch.full_like(noise, 0.09)
    assert misfit_of(noise, variance, measured) < 0.05
    off = noise + 0.4 * torch.randn(1, 1, 4, 50, 50, generator=generator(2))
    assert misfit_of(off, variance, measured) == pytest.approx(0.4, abs=0.03)


@pytest.mark.parametrize("psf", [(0.0, 0.0, 0.0), (1.8, 0.9, 0.9), (0.6, 1.6, 1.6)])
def test_the_psf_of_pairs_is_found(psf: tuple[float, float, float]) -> None:
    scan = Degradation(axial_factor=2, lateral_factor=2, psf=psf, photons=2000.0)
    volumes = [simulate_cells((16, 64, 64), cells=30, seed=seed).truth for seed in range(3)]
    source, numbers = simulated(volumes, scan, (16, 64, 64)).train, generator()
    found = with_fitted_psf(replace(scan, psf=(0.0, 0.0, 0.0)), [source(1, numbers) for _ in range(3)])
    assert found.psf == pytest.approx(psf, abs=0.3)
    assert found.psf[1] == found.psf[2]


# ------------------------------------------------------------------------------------------------------ calibration


def test_errors_are_calibrated_at_held_out_examples() -> None:
    """Samples that agree too well: intervals of the spread hold a third of the truth, calibrated ones nine tenths."""
    rng = np.random.default_rng(0)
    truths = [torch.rand(1, 1, 4, 32, 32, generator=generator(seed)) for seed in range(12)]
    examples = [Example(truth[:, :, ::2], truth) for truth in truths]

    def restore(example: Example, numbers: Any) -> RestoredExample:
        truth = example.truth.numpy()[0, 0]
        mean, single = rng.normal(truth, 0.1 + 0.3 * truth), rng.normal(truth, 0.5)
        return RestoredExample(mean, 0.1 * (0.1 + 0.3 * truth), single, 0.1)

    found = held_out(restore, examples, samples=4, steps=2)
    assert held_out(restore, examples, samples=4, steps=2, seconds=0.0).error == pytest.approx(found.error, rel=0.1)
    truth = torch.rand(1, 1, 4, 32, 32, generator=generator(100)).numpy()[0, 0]
    mean, spread = rng.normal(truth, 0.1 + 0.3 * truth), 0.1 * (0.1 + 0.3 * truth)
    held = np.abs(mean - truth) <= 1.645 * found.width(mean, spread, samples=4, steps=2)
    assert np.mean(held) == pytest.approx(0.9, abs=0.03)
    assert np.mean(np.abs(mean - truth) <= 1.645 * spread) < 0.2
    single = rng.normal(truth, 0.5)
    alone = np.abs(single - truth) <= 1.645 * found.width(single, 0 * spread, samples=1, steps=2)
    assert np.mean(alone) == pytest.approx(0.9, abs=0.03)
    assert found.misfit == pytest.approx(0.1)
    assert found.error == pytest.approx(math.sqrt(np.mean((0.1 + 0.3 * truth) ** 2)), rel=0.05)


def test_values_are_matched_to_a_truth_by_scale_and_offset() -> None:
    truth = np.random.default_rng(0).random((3, 4, 5))
    np.testing.assert_allclose(matched(7 * truth - 2, truth), truth, atol=1e-12)
    np.testing.assert_allclose(matched(np.ones(truth.shape), truth), truth.mean())


def test_damaged_calibrations_are_refused() -> None:
    for change in ({"squares": (1.0,)}, {"least": math.nan}, {"intensities": (), "squares": ()}):
        with pytest.raises(ValueError, match=r"in the calibration|as many intensities as factors"):
            replace(WIDTHS, **change)
    for change in ({"error": math.nan}, {"misfit": -1.0}, {"floor": math.inf}):
        with pytest.raises(ValueError, match="expected finite errors of at least 0 in the calibration"):
            replace(ERRORS, **change)


@pytest.mark.usefixtures("knowing")
def test_models_are_calibrated_where_they_are_held_out(model: Model, cells: np.ndarray) -> None:
    whole = np.concatenate([cells, cells[-1:]])

    def source(count: int, numbers: Any) -> Example:
        truth = torch.from_numpy(whole)[None, None]
        return Example(SCAN(truth, numbers), truth)

    found = calibrated_model(model, Sources(source, source), Sampling(samples=4, steps=2), examples=2)
    assert found.held_out is not None
    assert found.held_out.error < 0.5 * found.held_out.interpolation  # whatever the scale of what the networks draw
    assert found.held_out.misfit < 0.3
    assert found.likeness is not None
    assert found.likeness.piece == (5, 20, 24)


# --------------------------------------------------------------------------------------------------------- likeness


@pytest.fixture(scope="module")
def likeness() -> Likeness:
    data = simulated([simulate_cells((16, 64, 64), cells=20, seed=n).truth for n in range(6)], SCAN, (8, 32, 32))
    return Likeness.of(data.train, 2)


def test_scans_of_the_same_kind_are_near_and_others_are_far(likeness: Likeness) -> None:
    """At any unit and offset; denser, smoother, noisier or other structures are far."""

    def scan(truth: np.ndarray, seed: int = 0) -> np.ndarray:
        volume = torch.from_numpy((truth / np.quantile(truth, 0.999)).astype(np.float32))[None, None]
        return pixels_of(SCAN(volume, generator(seed)), 2)[0, 0].numpy()

    cells = [simulate_cells((16, 64, 64), cells=20, seed=seed).truth for seed in (20, 21, 22)]
    near = [likeness.strangeness(Span.of(scan(each)).normalised(scan(each))) for each in cells]
    assert max(near) < FAR
    rng = np.random.default_rng(0)
    spots = np.zeros((16, 64, 64))
    spots[tuple(rng.integers(0, size, 40) for size in spots.shape)] = 1
    others = [scan(gaussian_filter(spots, 1.0)), rng.random((8, 32, 32)), scan(gaussian_filter(cells[0], 4.0))]
    assert min(likeness.strangeness(Span.of(each).normalised(each)) for each in others) > FAR
    given = scan(cells[0])
    other_unit = Span.of(1000 * given + 77).normalised(1000 * given + 77)
    assert likeness.strangeness(other_unit) == pytest.approx(near[0], rel=1e-3)


def test_the_distance_is_that_of_mahalanobis(likeness: Likeness) -> None:
    count = len(likeness.mean)
    precision = np.reshape(likeness.precision, (count, count))
    off = np.random.default_rng(0).standard_normal(count)
    expected = scipy.spatial.distance.mahalanobis(np.array(likeness.mean) + off, likeness.mean, precision)
    found = distance(np.array(likeness.mean) + off, np.array(likeness.mean), precision)
    assert found == pytest.approx(expected / math.sqrt(count))


def test_features_of_a_wave_are_in_the_band_of_its_frequency() -> None:
    x = np.arange(40)
    wave = np.broadcast_to(np.sin(2 * np.pi * 0.25 * x), (3, 40, 40))
    features = features_of(wave)
    assert int(np.argmax(features[6:12])) == 3  # .2 to .3 cycles a pixel
    assert features[-1] == pytest.approx(1)
    assert features_of(wave[:1])[-1] == 0


def test_damaged_likenesses_are_refused(likeness: Likeness) -> None:
    for change in (
        {"limit": 0.0},
        {"mean": (math.nan,) * len(likeness.mean)},
        {"precision": (1.0,)},
        {"piece": (0, 1, 1)},
    ):
        with pytest.raises(ValueError, match="expected"):
            replace(likeness, **change)


@pytest.mark.usefixtures("knowing")
def test_a_scan_that_looks_different_is_restored_only_on_request(
    model: Model, likeness: Likeness, tmp_path: Path
) -> None:
    save_model(replace(model, likeness=likeness), tmp_path / "model")
    assert load_model(tmp_path / "model").likeness == likeness
    noise = np.random.default_rng(0).random((5, 20, 24)).astype(np.float32)
    options: dict[str, Any] = {"axial_factor": 2, "lateral_factor": 2, "weights": tmp_path / "model"}
    result = recover(noise, method="microdiffuse3d", **options)
    assert any("fitted to (half of its pieces differ from theirs more than" in note for note in result.notes)
    forced = recover(noise, method="microdiffuse3d", accept_foreign=True, **options)
    assert not any("does not look like" in note for note in forced.notes)


# ----------------------------------------------------------------------------------------------------------- stacks


@pytest.mark.usefixtures("knowing")
def test_a_restored_scan_is_in_the_unit_of_the_measurement(
    model: Model, measured: np.ndarray, cells: np.ndarray
) -> None:
    given = (1000 * measured + 50).astype(np.float32)
    found = restore_scan(given, model, Sampling(samples=4, steps=2), variance=1.0)
    assert found.volume.shape == (9, 40, 48)
    assert found.volume.dtype == np.float32
    np.testing.assert_allclose(found.volume, 1000 * cells + 50, atol=80)
    assert float(np.corrcoef(found.volume.ravel(), cells.ravel())[0, 1]) > 0.99
    assert found.samples.shape == (4, 9, 40, 48)
    assert found.error.min() > 0
    again = restore_scan(given, model, Sampling(samples=4, steps=2), variance=1.0)
    np.testing.assert_array_equal(found.volume, again.volume)


@pytest.mark.usefixtures("knowing")
def test_memory_that_runs_out_makes_smaller_tiles(
    model: Model, measured: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, sides = scans_module.restored, []

    def small(*arguments: Any, tile: Any, **options: Any) -> Any:
        sides.append(tile[1])
        if tile[1] > 64:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte")
        return real(*arguments, tile=tile, **options)

    monkeypatch.setattr(scans_module, "restored", small)
    found = restore_scan(measured, model, Sampling(samples=2, steps=1))
    assert (sides, found.side) == ([256, 128, 64], 64)

    def never(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(scans_module, "restored", never)
    with pytest.raises(RuntimeError, match="out of memory"):
        restore_scan(measured, model, Sampling(samples=2, steps=1))


@pytest.fixture
def folder(model: Model, tmp_path: Path) -> Path:
    save_model(model, tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.usefixtures("knowing")
def test_recover_restores_planes_and_pixels(folder: Path, measured: np.ndarray, cells: np.ndarray) -> None:
    given = measured.copy()
    given[1, 4, 5] = np.nan
    result = recover(
        given, axial_factor=2, lateral_factor=2, method="microdiffuse3d", weights=folder, samples=3, steps=2,
        keep_samples=True, spacing=(1.0, 0.4, 0.4),
    )  # fmt: skip
    assert result.volume.shape == cells.shape
    assert result.volume.spacing == (0.5, 0.2, 0.2)
    assert float(np.corrcoef(result.volume.data.ravel(), cells.ravel())[0, 1]) > 0.99
    assert result.samples is not None
    assert result.samples.shape == (3, *cells.shape)
    assert not result.measured.any()
    assert result.invented.min() > 0
    assert any("0.50 times the error of linear interpolation" in note for note in result.notes)
    assert any("the uncertainty was calibrated for 2 samples of 2 steps" in note for note in result.notes)
    np.testing.assert_allclose(result.uncertainty.std(), 0, atol=1e-4)  # that of one sample, of one group here
    assert not any("interpolated along z" in note for note in result.notes)


@pytest.mark.usefixtures("knowing")
def test_measured_planes_keep_their_value_where_only_planes_were_lost(
    model: Model, cells: np.ndarray, tmp_path: Path
) -> None:
    planes = Degradation(axial_factor=2)
    save_model(replace(model, acquisition=planes), tmp_path / "planes")
    options: dict[str, Any] = {"axial_factor": 2, "method": "microdiffuse3d", "samples": 2, "steps": 2}
    result = recover(cells[::2], weights=tmp_path / "planes", **options)
    np.testing.assert_array_equal(result.volume.data[::2], cells[::2])
    assert result.measured[::2].all()
    save_model(replace(model, acquisition=replace(planes, photons=100.0)), tmp_path / "noisy")
    noisy = recover(cells[::2], weights=tmp_path / "noisy", **options)
    assert not np.array_equal(noisy.volume.data[::2], cells[::2])
    kept = recover(cells[::2], weights=tmp_path / "noisy", keep_measured=True, **options)
    np.testing.assert_array_equal(kept.volume.data[::2], cells[::2])


def test_a_scan_of_another_kind_is_not_restored(folder: Path, measured: np.ndarray) -> None:
    """Untrained networks draw noise, which the measurement contradicts."""
    options: dict[str, Any] = {"axial_factor": 2, "lateral_factor": 2}
    result = recover(measured, method="microdiffuse3d", weights=folder, samples=2, steps=2, **options)
    plain = recover(measured, **options)
    np.testing.assert_array_equal(result.volume.data, plain.volume.data)
    assert any(note.startswith("microdiffuse3d was not used: what it restores differs") for note in result.notes)
    assert any("interpolated along z" in note for note in result.notes)


@pytest.mark.usefixtures("knowing")
def test_weights_that_are_worse_than_auto_are_not_used(model: Model, measured: np.ndarray, tmp_path: Path) -> None:
    """They may be better than linear interpolation all the same."""
    options: dict[str, Any] = {"axial_factor": 2, "lateral_factor": 2, "method": "microdiffuse3d"}
    for without, said in (
        (0.04, '1.25 times the error of auto; the result of method "auto" is returned'),
        (0.0625, "restored examples that were held out of the fit had 0.80 times the error of auto"),
        (0.2, "restored examples that were held out of the fit had 0.50 times the error of linear interpolation"),
    ):
        folder = tmp_path / str(without)
        save_model(replace(model, held_out=replace(ERRORS, without=without)), folder)
        assert any(said in note for note in recover(measured, weights=folder, **options).notes)


@pytest.mark.usefixtures("knowing")
def test_weights_that_are_no_better_than_interpolation_are_not_used(
    model: Model, measured: np.ndarray, tmp_path: Path
) -> None:
    save_model(replace(model, held_out=replace(ERRORS, error=0.1)), tmp_path / "poor")
    options: dict[str, Any] = {"axial_factor": 2, "lateral_factor": 2, "method": "microdiffuse3d", "samples": 2}
    result = recover(measured, weights=tmp_path / "poor", steps=1, **options)
    assert any("1.00 times the error of linear interpolation; the result of method" in note for note in result.notes)
    save_model(replace(model, held_out=None), tmp_path / "unknown")
    result = recover(measured, weights=tmp_path / "unknown", steps=1, **options)
    assert any(
        "errors at examples held out of their fit: the uncertainty is the spread" in note for note in result.notes
    )


@pytest.mark.usefixtures("knowing")
def test_a_restoration_that_is_stopped_gives_the_estimate_of_auto(folder: Path, measured: np.ndarray) -> None:
    stages: list[str] = []

    def stop(record: Any, state: Any) -> bool:
        stages.append(record.stage)
        return record.stage == "restoring"

    options: dict[str, Any] = {"axial_factor": 2, "lateral_factor": 2}
    result = recover(measured, method="microdiffuse3d", weights=folder, samples=2, steps=2, callback=stop, **options)
    assert stages[-1] == "restoring"
    assert any("stopped before a sample was drawn" in note for note in result.notes)


@pytest.mark.parametrize("guidance", ["", "data", "tucker", "data,tucker"])
def test_guidance_is_chosen_by_name(
    folder: Path, measured: np.ndarray, guidance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Sampling] = []
    real = scans_module.restore_scan

    def spy(planes: Any, model: Any, sampling: Sampling, **options: Any) -> Any:
        seen.append(sampling)
        return real(planes, model, sampling, **options)

    monkeypatch.setattr("tensorcell.diffusion_guidance.microdiffuse3d.restore_scan", spy)
    recover(
        measured, axial_factor=2, lateral_factor=2, method="microdiffuse3d", weights=folder, samples=1, steps=1,
        guidance=guidance,
    )  # fmt: skip
    assert (seen[0].consistent, seen[0].low_rank) == ("data" in guidance, "tucker" in guidance)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"axial_factor": 4},
            "expected axial factor 2 and lateral factor 2, which the weights were fitted to, got 4 and 2",
        ),
        (
            {"lateral_factor": 1},
            "expected axial factor 2 and lateral factor 2, which the weights were fitted to, got 2 and 1",
        ),
        (
            {"axial_factor": 1, "spacing": (1.0, 0.5, 0.5), "spacing_z": 0.3},
            "expected axial factor 2 and lateral factor 2, which the weights were fitted to, got 10/3 and 2",
        ),
        ({"guidance": "smooth"}, "expected guidance among data, tucker, got 'smooth'"),
        ({"tile": 16}, "expected tiles of at least 32 pixels, got 16"),
        ({"samples": 0}, "expected a whole number of at least 1 as samples, got 0"),
        ({"weights": None}, "expected weights=PATH for method microdiffuse3d"),
        ({"weights": "nowhere"}, r"nowhere: expected a folder with microdiffuse3d\.json, got none"),
        ({"seed": 2**32}, "expected a seed below"),
    ],
)
def test_what_cannot_be_restored_is_refused(
    folder: Path, measured: np.ndarray, options: dict[str, Any], message: str
) -> None:
    given = {"axial_factor": 2, "lateral_factor": 2, "weights": folder, **options}
    with pytest.raises(InputError, match=message):
        recover(measured, method="microdiffuse3d", **given)


def test_low_rank_guidance_changes_the_samples_of_a_latent(model: Model, measured: np.ndarray) -> None:
    found = [
        restore_scan(measured, replace(model, held_out=None), Sampling(samples=1, steps=3, low_rank=low)).volume
        for low in (False, True)
    ]
    assert not np.array_equal(*found)


def test_the_method_says_what_it_needs() -> None:
    assert method.METHOD.needs == ("torch", "safetensors", "diffusers")
    assert simulated.__doc__
