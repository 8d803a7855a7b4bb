"""A channel or frame that cannot be recovered is found before any work, is NaN, and does not lose the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorcell as tc
from tensorcell import cli
from tensorcell.methods import table
from tensorcell.pages import recovery as reports
from tensorcell.recovered import share_left_open
from tensorcell.solvers import Status


def frames(seed: int = 0) -> np.ndarray:
    """Four frames: the first has an infinite voxel, the second and last are fine, the third was stopped."""
    rng = np.random.default_rng(seed)
    z, y, _ = np.mgrid[:6, :16, :16]
    data = 100 + 20 * np.sin(y / 3 + z / 5) + rng.standard_normal((4, 6, 16, 16))
    data[0, 2, 3, 4] = np.inf
    data[2, 1:] = np.nan
    return data.astype(np.float32)


@pytest.fixture(scope="module")
def result() -> tc.Recovery:
    return tc.recover(frames(), axes="TZYX", method="tucker", rank=(2, 3, 2), axial_factor=2)


def test_bad_frames_are_nan_and_named(result: tc.Recovery) -> None:
    reasons = {
        "T=0": "expected finite values at measured voxels, got 1 infinite",
        "T=2": "expected at least 2 measured planes, got 1 of 6",
    }
    assert result.not_recovered == reasons
    for label, reason in reasons.items():
        assert f"{label}: not recovered, NaN in the result: {reason}" in result.notes
        assert result.rank[label] is result.noise[label] is None
    for values in (result.volume.data, result.uncertainty, result.invented):
        assert np.isnan(values[[0, 2]]).all()
        assert np.isfinite(values[[1, 3]]).all()
    np.testing.assert_array_equal(result.measured[:, ::2], np.isfinite(frames()))
    assert not result.measured[:, 1::2].any()
    assert result.status is Status.NOT_RECOVERED
    assert "the notes say why" in str(result.status)


def test_good_frames_are_as_if_they_were_alone(result: tc.Recovery) -> None:
    alone = tc.recover(frames()[1], method="tucker", rank=(2, 3, 2), axial_factor=2)
    np.testing.assert_array_equal(result.volume.data[1], alone.volume.data)
    np.testing.assert_array_equal(result.uncertainty[1], alone.uncertainty)
    assert alone.not_recovered == {}
    assert alone.status is not Status.NOT_RECOVERED


def test_no_frame_is_computed_if_an_argument_fits_one_of_them_ill(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    data = frames()
    data[3, 1, 1, 1] = -5
    for options, message in (({"nonnegative": True}, "T=3: nonnegative=True"), ({"rank": 7}, "T=1: rank 7 along z")):
        with pytest.raises(tc.InputError, match=message):
            tc.recover(data, axes="TZYX", method="tucker", callback=lambda *_: calls.append(1), **options)
    with pytest.raises(tc.InputError, match="T=0: expected finite values"):
        tc.recover(data[[0, 2]], axes="TZYX", callback=lambda *_: calls.append(1))
    assert not calls


def test_what_a_method_refuses_loses_one_frame_and_a_defect_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    from test_recovery_stages import method_of

    flat = method_of(7.0)
    for complaint in (tc.InputError("expected another prior"), np.linalg.LinAlgError("singular")):

        def estimate(problem: Any, complaint: Exception = complaint) -> Any:
            if problem.label == "T=1":
                raise complaint
            return flat.estimate(problem)

        method = tc.methods.protocol.Method(
            name="flat", summary="", options=flat.options, estimate=estimate, between=flat.between
        )
        monkeypatch.setitem(table.METHODS, "flat", method)  # type: ignore[arg-type]
        if isinstance(complaint, tc.InputError):
            found = tc.recover(frames()[[1, 3, 3]], axes="TZYX", method="flat", rank=(2, 3, 2))
            assert found.not_recovered == {"T=1": "expected another prior"}
        else:
            with pytest.raises(np.linalg.LinAlgError):
                tc.recover(frames()[[1, 3, 3]], axes="TZYX", method="flat", rank=(2, 3, 2))


def test_reports_and_facts_survive(result: tc.Recovery, tmp_path: Path) -> None:
    volume = tc.Volume(frames(), axes="TZYX")
    for name in ("page.html", "picture.png"):
        reports.write_report(tmp_path / name, volume, result)
    assert "T=2: not recovered" in (tmp_path / "page.html").read_text()
    facts = json.loads(json.dumps(reports.facts(volume, result), allow_nan=False))
    assert facts["rank"]["T=2"] is None
    assert list(facts["not_recovered"]) == ["T=0", "T=2"]
    assert np.isnan(share_left_open(np.full((3, 3, 3), np.nan), np.ones((3, 3, 3)))).all()


@pytest.mark.parametrize(("dtype", "stored"), [("uint16", "float32"), ("float64", "float64")])
def test_command_writes_the_others_and_ends_with_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], dtype: str, stored: str
) -> None:
    np.save(tmp_path / "in.npy", frames())
    monkeypatch.chdir(tmp_path)
    words = "recover in.npy out.tif --axes TZYX --method tucker --rank 2,3,2 --json --uncertainty u.tif --report r.html"
    monkeypatch.setattr("sys.argv", ["tensorcell", *words.split(), "--dtype", dtype])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert err.splitlines()[-1].startswith(
        "tensorcell: out.tif was written, but 2 stacks were not recovered and are NaN"
    )
    facts = json.loads(out)
    assert facts["dtype"] == stored
    assert any("uint16 does not hold" in note for note in facts["notes"]) == (dtype == "uint16")
    written = tc.read(tmp_path / "out.tif").data
    assert written.dtype == stored
    assert np.isnan(written[[0, 2]]).all()
    assert np.isfinite(written[[1, 3]]).all()
    assert np.isnan(tc.read(tmp_path / "u.tif").data[0]).all()


def test_diagnose_command_reports_the_others_and_ends_with_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "in.npy", frames()[:2])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "sys.argv", ["tensorcell", *["diagnose", "in.npy", "--axes", "TZYX", "--rank", "2,2,2", "--json"]]
    )
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["stacks"][0]["label"] == "T=1"
    assert "1 of the stacks could not be diagnosed, first T=0: expected finite" in err
