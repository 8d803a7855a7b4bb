"""The slices of a report: what lies in the page is the volume, and the page works in a browser."""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

import tensorcell as tc
from tensorcell.diagnosis.page import page as diagnosis_page
from tensorcell.pages import pictures, viewer
from tensorcell.pages import recovery as reports
from tensorcell.pages.layout import rendered_page
from tensorcell.pages.recovery import write_report
from tensorcell.pages.tiles import Grain, block_means, coarser, mosaic, tile_sides
from tensorcell.plane_grid import wanted_grid
from tensorcell.recovered import Recovery, StackOutliers
from tensorcell.solvers import Status
from tensorcell.volume import stacks

Case = tuple[tc.Volume, Recovery]


def recovery(frames: int = 0, spacing: tuple[float, float, float] | None = (0.6, 0.1, 0.1)) -> Case:
    """Every second plane of a smooth stack (11, 30, 42) with an outlier, and a result, as `recover` would return it."""
    rng = np.random.default_rng(0)
    z, y, x = np.ogrid[:11, :30, :42]
    one = (100 + 50 * np.sin(z / 3) * np.cos(y / 6) + x).astype(np.float32)
    result = np.stack([one + 3 * t for t in range(frames)]) if frames else one
    given = result[..., ::2, :, :].copy()
    given[..., 2, 10, 20] = 900
    given += rng.uniform(0, 1, given.shape).astype(np.float32)
    axes = "TZYX" if frames else "ZYX"
    before = tc.Volume(given, axes, spacing, metadata={"source": "</script><script>.tif"})
    measured = np.zeros(result.shape, bool)
    measured[..., ::2, :, :] = True
    place = np.ravel_multi_index((2, 10, 20), (6, 30, 42))
    wheres = [(t, *3 * (slice(None),)) for t in range(frames)] if frames else [3 * (slice(None),)]
    after = Recovery(
        volume=tc.Volume(result, axes, spacing and (spacing[0] / 2, *spacing[1:])), measured=measured,
        uncertainty=np.where(measured, 1, 5 + 0 * result).astype(np.float32), rank=(2, 2, 2), status=Status.CONVERGED,
        history=(), noise=1.0, defects={"bright": 1}, notes=("a note",), seconds=1.0, input_shape=given.shape,
        grid=wanted_grid(before, 2),
        _outliers=tuple(StackOutliers(where, np.array([place]), np.array([800.0])) for where in wheres),
    )  # fmt: skip
    return before, after


def shown(before: tc.Volume, after: Recovery, truth: np.ndarray | None = None) -> viewer.Shown:
    """The finest way to show it."""
    return next(viewer.ways_to_show(list(viewer.views(before, after, truth)), 1, after.volume.spacing))


def volume_of(stack: dict[str, Any], key: str) -> np.ndarray:
    """The levels of a layer, cut from its mosaic as the page does it."""
    import imagecodecs

    (layer,) = (layer for layer in stack["layers"] if layer["key"] == key)
    flat = imagecodecs.imread(base64.b64decode(layer["image"].split(",")[1]))
    (rows, columns), beside, size = stack["tile"], stack["columns"], stack["size"]
    places = ((rows * (z // beside), columns * (z % beside)) for z in range(size["z"]))
    return np.stack([flat[top : top + size["y"], left : left + size["x"]] for top, left in places])


def intensities(stack: dict[str, Any], key: str) -> np.ndarray:
    (layer,) = (layer for layer in stack["layers"] if layer["key"] == key)
    return np.asarray(layer["low"] + volume_of(stack, key) * ((layer["high"] - layer["low"]) / 255))


# ------------------------------------------------------------------------------------------------ what lies in it


def test_block_means_are_those_of_the_known_pixels_of_each_block() -> None:
    rng = np.random.default_rng(0)
    plane, known = rng.standard_normal((10, 13)), rng.random((10, 13)) < 0.3
    plane[0, 0] = np.nan
    known[4:8, 4:8] = False
    found = block_means(plane, 4, known)
    for i, j in np.ndindex(3, 4):
        part = np.s_[4 * i : 4 * i + 4, 4 * j : 4 * j + 4]
        values = plane[part][known[part]]
        values = values[np.isfinite(values)]
        expected = values.mean() if values.size else np.nan
        assert found[i, j] == pytest.approx(expected, abs=1e-6, nan_ok=True)  # float32 sums of 16 numbers near 1


@pytest.mark.parametrize("shape", [(1, 5, 7), (7, 16, 8), (10, 3, 40)])
def test_a_mosaic_holds_every_plane(shape: tuple[int, int, int]) -> None:
    levels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    flat, (rows, columns, beside) = mosaic(levels), tile_sides(shape)
    for z, plane in enumerate(levels):
        top, left = rows * (z // beside), columns * (z % beside)
        np.testing.assert_array_equal(flat[top : top + shape[1], left : left + shape[2]], plane)


def test_layers_hold_the_volumes_and_say_where_voxels_come_from() -> None:
    before, after = recovery()
    (stack,), grain, notes = shown(before, after, after.volume.data)
    assert (stack["size"], stack["spacing"], notes) == ({"z": 11, "y": 30, "x": 42}, [0.3, 0.1, 0.1], [])
    kind = volume_of(stack, "kind")
    expected = np.zeros((11, 30, 42), np.uint8)
    expected[::2] = viewer.MEASURED
    expected[4, 10, 20] = viewer.REPLACED
    np.testing.assert_array_equal(kind, expected)
    # JPEG of a smooth plane: two levels of the window, beside the outlier more
    step = (stack["layers"][1]["high"] - stack["layers"][1]["low"]) / 255
    clean = np.ones(kind.shape, bool)
    clean[4, 8:16, 16:24] = False
    low, high = stack["layers"][1]["low"], stack["layers"][1]["high"]
    for key, values in (("result", after.volume.data), ("truth", after.volume.data)):
        np.testing.assert_allclose(intensities(stack, key), np.clip(values, low, high), rtol=0, atol=4 * step)
    given = np.abs(intensities(stack, "input")[::2] - np.clip(before.data, low, high))
    assert given[clean[::2]].max() < 6 * step
    linear = intensities(stack, "linear")
    assert np.abs(linear[1] - before.data[:2].mean(axis=0))[clean[1]].max() < 6 * step
    np.testing.assert_allclose(intensities(stack, "uncertainty")[1::2], 5, rtol=0, atol=0.2)
    assert "256 levels" in grain
    assert (stack["left"], stack["right"], stack["start"]["z"] % 2) == ("linear", "result", 1)


def test_the_invented_share_of_slabs_is_that_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = recovery()
    monkeypatch.setattr(viewer, "SLAB", 3)
    (view,) = viewer.views(before, after, None)
    # centred on other means: rounding of float32
    np.testing.assert_allclose(viewer.invented(view, Grain(1, 1)), after.invented, rtol=0, atol=1e-4)
    assert viewer.invented(view, Grain(1, 1))[4, 10, 20] > 0  # the outlier was replaced


def test_a_large_volume_is_shown_on_a_coarser_grid_and_the_page_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, after = recovery()
    monkeypatch.setattr(viewer, "MOST_VOXELS", 2000)
    (stack,), grain, _ = shown(before, after)
    assert stack["size"] == {"z": 11, "y": 10, "x": 14}
    assert "each pixel shown is the mean of 3 × 3 pixels" in grain.lower()
    means = after.volume.data.reshape(11, 10, 3, 14, 3).mean(axis=(2, 4))
    assert np.abs(intensities(stack, "result") - means).max() < 3
    assert (volume_of(stack, "kind") == viewer.REPLACED).sum() == 1
    step = wanted_grid(before, 2).step
    assert coarser(Grain(1, 1), (500, 20, 20), step, 1).planes == 3  # never every second one: all would be measured


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages whose charts and still pictures are one small picture: drawing takes longer than all else."""
    dot = pictures.png_bytes(lambda: Figure(figsize=(1, 1)))
    monkeypatch.setattr(reports, "charts_of", lambda *_: [("a", "chart", pictures.data_uri(dot), "")])
    monkeypatch.setattr(reports, "chart", lambda _: pictures.data_uri(dot))
    monkeypatch.setattr(reports, "picture_bytes", lambda _, most: dot + bytes(min(40_000, most)))


@pytest.mark.usefixtures("undrawn")
def test_the_whole_page_has_at_most_the_bytes_that_it_may() -> None:
    case = *recovery(frames=2), []
    free = Page(reports.page(*case))
    most = int(0.8 * len(free.text))
    less = Page(reports.page(*case, most=most))
    assert len(less.text.encode()) <= most
    assert [len(page.stacks) for page in (free, less)] == [2, 2]
    none = Page(reports.page(*case, most=10_000))
    assert (none.stacks, "no slices that move" in none.text) == ([], True)


def test_a_picture_of_too_many_bytes_is_drawn_with_fewer_pixels() -> None:
    def make() -> Figure:
        figure = Figure(figsize=(2, 2))
        figure.add_axes((0, 0, 1, 1)).imshow(np.random.default_rng(0).random((200, 200)), interpolation="nearest")
        return figure

    whole = pictures.png_bytes(make)
    assert len(pictures.png_bytes(make, len(whole) // 3)) <= len(whole) // 3


def test_channels_are_shown_by_their_names() -> None:
    volume = tc.Volume(np.zeros((2, 2, 3, 4, 4)), "TCZYX", metadata={"channel_names": ["DAPI", "GFP"]})
    assert [viewer.channel_of(volume, stack.where) for stack in stacks(volume)] == ["DAPI", "GFP", "DAPI", "GFP"]
    assert viewer.channel_of(replace(volume, metadata={"channel_names": "DAPI"}), next(stacks(volume)).where) == ""


@pytest.mark.usefixtures("undrawn")
def test_a_series_is_shown_as_a_strip_of_frames(tmp_path: Path) -> None:
    before, after = recovery(frames=14)
    write_report(tmp_path / "page.html", before, after)
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert [stack["label"] for stack in page.stacks][:3] == ["T=0", "T=1", "T=2"]
    assert [stack["label"] for stack in page.stacks][-1] == "T=13"
    assert len(page.stacks) == len([tag for tag, known in page.tags if tag == "button" and "data-stack" in known]) == 12
    assert "the sliders go through 12 of 14 stacks" in page.text


# --------------------------------------------------------------------------------------------------- as HTML


class Page(HTMLParser):
    """Tags of a page with their attributes, and the stacks in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.tags, self.inside, self.data = text, [], "", []  # type: ignore[var-annotated]
        self.feed(text)
        self.stacks = [json.loads(data) for data in self.data]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = "data" if tag == "script" and "data-tiles" in dict(attrs) else ""

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.data.append(data)
            self.inside = ""


def pages(folder: Path) -> list[Page]:
    write_report(folder / "page.html", *recovery())
    report = tc.diagnose(np.random.default_rng(0).random((6, 12, 12)), rank=2)
    return [Page((folder / "page.html").read_text(encoding="utf-8")), Page(diagnosis_page(report))]


def test_pages_hold_all_they_need_and_name_all_controls(tmp_path: Path) -> None:
    found = pages(tmp_path)
    for page in found:
        bare = re.sub(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/=]+", "", page.text)
        assert not re.search(r"https?:|//cdn|@import|url\(|<link|<iframe", bare)
        for tag, known in page.tags:
            assert "href" not in known
            if tag == "img":
                assert known["src"].startswith("data:image/")
                assert "alt" in known
            if tag == "canvas" or (tag == "input" and known["type"] == "range"):
                assert known["aria-label"]
        names = [known["id"] for _, known in page.tags if "id" in known]
        assert len(names) == len(set(names))
        assert sum(tag == "h1" for tag, _ in page.tags) == 1
        assert "prefers-color-scheme: dark" in page.text
    viewed = found[0]
    assert len(viewed.stacks) == 1  # a name like </script> ends none
    assert next(known for _, known in viewed.tags if known.get("id") == "viewer").keys() >= {"hidden", "aria-label"}


# ---------------------------------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with api.sync_playwright() as play:
        try:
            started = play.chromium.launch(executable_path=found, args=["--no-sandbox"])
        except api.Error as error:
            pytest.skip(f"no Chromium can be started: {str(error).splitlines()[0]}")
        yield started
        started.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "page.html"
    write_report(path, *recovery(frames=2))
    return path.as_uri()


def opened(browser: Any, address: str, width: int = 900, **options: Any) -> tuple[Any, list[str]]:
    """A page, and what went wrong in it or was asked of the network."""
    page, wrong = browser.new_page(viewport={"width": width, "height": 800}, **options), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: message.type != "error" or wrong.append(message.text))
    page.on("request", lambda asked: asked.url.startswith(("data:", address)) or wrong.append(asked.url))
    page.goto(address)
    return page, wrong


@pytest.mark.parametrize("width", [380, 900, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_and_has_a_bar_in_each_panel(browser: Any, report: str, width: int, scheme: str) -> None:
    page, wrong = opened(browser, report, width, color_scheme=scheme)
    page.wait_for_selector("#viewer[data-ready]")
    page.wait_for_selector("#viewer[data-barxz]")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    boxes = [page.locator(f"[data-panel={name}] canvas").bounding_box() for name in ("xy", "yz", "xz")]
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= width and box["height"] >= 40 for box in boxes)
    xy, yz, xz = boxes
    assert abs(xy["width"] - xz["width"]) < 1
    assert abs(xy["height"] - yz["height"]) < 1
    assert xy["width"] / xy["height"] == pytest.approx(42 / 30, rel=0.02)  # whole pixels of the screen
    assert [page.locator("#viewer").get_attribute(f"data-bar{name}") for name in ("xy", "yz", "xz")] == (
        ["1 µm", "0.5 µm", "1 µm"]  # of 4.2, 3.3 and 4.2 µm
    )
    for theme in (scheme, "light" if scheme == "dark" else "dark"):
        colours = page.evaluate(COLOURS_OF_TEXT)
        assert (colours["body"][1] == [255, 255, 255]) == (theme == "light")
        assert page.locator("#theme").get_attribute("aria-pressed") == str(theme == "dark").lower()
        for name, (text, behind) in colours.items():
            assert contrast(text, behind) >= 4.5, (theme, name)  # WCAG 2, level AA, text of any size
        page.locator("#theme").press("Enter")
    assert wrong == []
    page.close()


COLOURS_OF_TEXT = """() => {
  const parse = (colour) => colour.match(/[\\d.]+/g).map(Number), found = {};
  const behind = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const colour = parse(getComputedStyle(one).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour.slice(0, 3);
    }
    return [255, 255, 255];
  };
  const name = (element) => element.tagName.toLowerCase() + [...element.classList].map((one) => "." + one).join("");
  for (const element of [document.body, ...document.body.querySelectorAll("*")]) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if ((own || element === document.body) && element.checkVisibility()) {
      found[name(element)] = [parse(getComputedStyle(element).color).slice(0, 3), behind(element)];
    }
  }
  return found;
}"""
"""Colour of the text and of what is behind it, of each kind of visible element with text."""


def contrast(one: list[float], other: list[float]) -> float:
    """The contrast ratio of WCAG 2 of two colours, from 1 to 21."""

    def luminance(colour: list[float]) -> float:
        shares = np.array(colour) / 255
        linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_words_of_verdicts_can_be_read_and_all_controls_show_their_focus(browser: Any, tmp_path: Path) -> None:
    body = """{% block main %}<p>{% for name in ("good", "fair", "bad") %}<span class="word {{ name }}">a</span>
    {% endfor %}</p><table><tr class="best"><td>a</td></tr></table>{% endblock %}"""
    path = tmp_path / "words.html"
    path.write_text(rendered_page(body, title="words"), encoding="utf-8")
    for scheme in ("light", "dark"):
        page, wrong = opened(browser, path.as_uri(), color_scheme=scheme)
        for name, (text, behind) in page.evaluate(COLOURS_OF_TEXT).items():
            assert contrast(text, behind) >= 4.5, (scheme, name)
        page.keyboard.press("Tab")
        assert page.evaluate("getComputedStyle(document.querySelector('#theme:focus')).outlineStyle") == "solid"
        assert wrong == []
        page.close()


@pytest.mark.usefixtures("undrawn")
def test_a_layer_comes_back_after_a_frame_that_lacks_it(browser: Any, tmp_path: Path) -> None:
    before, after = recovery(frames=3)
    data, mask = after.volume.data.copy(), after.measured.copy()
    data[1], mask[1] = np.nan, False
    after = replace(after, volume=replace(after.volume, data=data), measured=mask)
    write_report(tmp_path / "page.html", before, after)
    page, wrong = opened(browser, (tmp_path / "page.html").as_uri())
    page.wait_for_selector("#viewer[data-whole='0']", state="attached")
    assert page.locator("[data-stack='1']").inner_text().strip() == "T=1 (not recovered)"
    for number, right in enumerate(("result", "input", "result")):
        page.locator(f"[data-stack='{number}']").press("Enter")
        page.wait_for_selector(f"#viewer[data-whole='{number}']", state="attached")
        assert page.locator("[data-side=right]").input_value() == right
    page.locator("[data-side=right]").select_option("uncertainty")
    for number in (1, 0):
        page.locator(f"[data-stack='{number}']").press("Enter")
        page.wait_for_selector(f"#viewer[data-whole='{number}']", state="attached")
    assert page.locator("[data-side=right]").input_value() == "uncertainty"
    assert wrong == []
    page.close()


def test_the_keyboard_moves_the_cursor_of_all_panels(browser: Any, report: str) -> None:
    page, wrong = opened(browser, report)
    page.wait_for_selector("#viewer[data-ready]")
    said = page.locator("[data-readout]")
    page.locator("[data-panel=xy] canvas").focus()
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").startswith("xy slice")
    before = page.locator("[data-panel=yz] canvas").evaluate("canvas => canvas.toDataURL()")
    x, z = (int(page.locator(f"[data-slider={axis}]").input_value()) for axis in "xz")
    for key in ("ArrowRight", "Shift+ArrowRight", "PageUp"):
        page.keyboard.press(key)
    page.wait_for_function(f"document.querySelector('[data-slider=x]').value === '{x + 11}'")
    assert page.locator("[data-slider=z]").input_value() == str(z + 1)
    assert f"x {x + 11} (" in said.text_content()
    assert page.locator("[data-panel=yz] canvas").evaluate("canvas => canvas.toDataURL()") != before
    page.locator("[data-slider=y]").focus()
    page.keyboard.press("Home")
    page.wait_for_function("document.querySelector('[data-readout]').textContent.includes('y 0 (')")
    page.locator("[data-stack='1']").press("Enter")
    page.wait_for_selector("#viewer[data-ready='1']")
    assert page.locator("[data-stack='1']").get_attribute("aria-pressed") == "true"
    assert wrong == []
    page.close()


def test_the_line_marks_and_layers_change_what_is_shown(browser: Any, report: str) -> None:
    page, wrong = opened(browser, report)
    page.wait_for_selector("#viewer[data-ready]")
    canvas = page.locator("[data-panel=xy] canvas")

    def colour(x: int, y: int) -> list[int]:
        page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        return list(canvas.evaluate(
            """(canvas, [x, y]) => [...canvas.getContext("2d").getImageData(
                 (x + .5) / 42 * canvas.width, (y + .5) / 30 * canvas.height, 1, 1).data].slice(0, 3)""", [x, y]
        ))  # fmt: skip

    def put(name: str, value: int) -> None:
        page.locator(f"[data-slider={name}]").evaluate(
            "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input')); }", value
        )

    put("z", 5)
    page.locator("[data-side=left]").select_option("input")
    put("wipe", 100)
    assert colour(20, 10) == [0x2F, 0x66, 0x90]  # not measured
    put("wipe", 0)
    grey = colour(20, 10)
    assert len(set(grey)) == 1  # the result
    page.locator("[data-mark=filled]").check()
    assert len(set(colour(20, 10))) == 3
    page.locator("[data-mark=filled]").uncheck()
    put("z", 4)
    page.locator("[data-mark=outlier]").check()
    assert colour(20, 10) == [0xD1, 0x49, 0x5B]
    assert len(set(colour(25, 10))) == 1
    page.locator("[data-side=right]").select_option("uncertainty")
    assert len(set(colour(25, 10))) == 3
    assert page.locator("[data-scale]").text_content().count("uncertainty") == 1
    page.locator("[data-side=right]").select_option("result")
    put("black", 1000)
    assert colour(5, 5) == [0, 0, 0]
    page.get_by_role("button", name="as at first").click()
    assert colour(5, 5) != [0, 0, 0]
    box = canvas.bounding_box()
    canvas.click(position={"x": box["width"] * 30.5 / 42, "y": box["height"] * 7.5 / 30})
    page.wait_for_function("document.querySelector('[data-readout]').textContent.includes('y 7 (0.7 µm), x 30 (')")
    assert wrong == []
    page.close()


def test_without_javascript_still_pictures_are_shown(browser: Any, report: str) -> None:
    page, _ = opened(browser, report, java_script_enabled=False)
    assert page.locator(".still img").first.is_visible()
    assert not page.locator("#viewer").is_visible()
    assert "With JavaScript" in page.locator("noscript").inner_text()
    page.close()
    page, _ = opened(browser, report)
    page.wait_for_selector("#viewer[data-ready]")
    assert not page.locator(".still img").first.is_visible()
    page.close()


@pytest.mark.usefixtures("undrawn")
def test_a_stack_without_voxel_size_has_no_bar_and_a_plane_no_sections(browser: Any, tmp_path: Path) -> None:
    write_report(tmp_path / "page.html", *recovery(spacing=None))
    page, wrong = opened(browser, (tmp_path / "page.html").as_uri())
    page.wait_for_selector("#viewer[data-ready]")
    assert page.locator("#viewer").get_attribute("data-barxy") is None
    assert "µm" not in page.locator("[data-readout]").text_content()
    page.close()
    plane = tc.Volume(np.random.default_rng(0).random((20, 24)), "YX")
    write_report(tmp_path / "plane.html", plane, tc.recover(plane, rank=(1, 2, 2)))
    page, more = opened(browser, (tmp_path / "plane.html").as_uri())
    page.wait_for_selector("#viewer[data-ready]")
    assert page.locator("[data-panel=xy]").is_visible()
    assert not page.locator("[data-panel=xz]").is_visible()
    assert not page.locator("[data-slider=z]").is_visible()
    assert [*wrong, *more] == []
    page.close()
