"""The page in Chromium, as a person uses it: by mouse, by keyboard alone, at both widths, light and dark.

`SCREENSHOTS=docs/pictures python -m pytest tests/web/test_page.py` makes the pictures of the manual anew.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.chromium import FLAGS, PROGRAM
from tests.support.foreground_network import write_red_network
from tests.support.web_process import web
from tests.support.web_server import file_of, photograph
from unseg import cli

pytestmark = [pytest.mark.slow, pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium")]
PATIENCE = 60_000  # ms for a step; a busy machine takes seconds for an outline
QUIET = [flag for flag in FLAGS if flag not in ("--headless", "--remote-debugging-pipe")]
KEY = "5a" * 32


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("web")
    (folder / "k.key").write_text(KEY)
    models = tmp_path_factory.mktemp("models")
    write_red_network(models)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("U2NET_HOME", str(models))
        patch.setenv("MODEL_CHECKSUM_DISABLED", "1")
        with web(folder, "--key", str(folder / "k.key"), "--auto-model", "u2netp") as (_, address):
            yield address


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=PROGRAM, args=QUIET)
        yield launched
        launched.close()


@pytest.fixture
def open_page(browser, address):
    """Opens the page; at the end, it has asked nobody else for anything, and no script has failed."""
    contexts, asked, wrong = [], [], []

    def opened(width=1280, height=900, scheme="light"):
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, accept_downloads=True
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if is_wrong(message) else None)
        page.goto(address)
        page.locator("#strengths input").first.wait_for(state="attached")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert wrong == [] and asked and all(url.startswith(address) for url in asked)


def is_wrong(message) -> bool:
    """Chromium reports each answer that is a refusal, too."""
    return message.type == "error" and not message.text.startswith("Failed to load resource")


def choose(page, name: str) -> None:
    page.locator("#pictures .pick").filter(has_text=name).click()


def photographs(folder: Path) -> Path:
    """Three photographs of scikit-image, two of them in a folder of their own."""
    data = Path(pytest.importorskip("skimage").__file__).parent / "data"
    (folder / "trip").mkdir(parents=True)
    for name, place in (("coffee.png", "trip"), ("rocket.jpg", "trip"), ("chelsea.png", ".")):
        shutil.copy(data / name, folder / place / name)
    (folder / "trip/notes.txt").write_text("no picture")
    return folder


def drop(page, *paths: Path):
    """Drops files and folders of the disk on the page, as a file manager does."""
    place = page.locator("#drop").bounding_box()
    session = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send(
            "Input.dispatchDragEvent", {"type": kind, "x": place["x"] + 20, "y": place["y"] + 20, "data": data}
        )


def draw_box(page, left, top, right, bottom):
    """Draws a box by mouse; shares of the picture's sides."""
    page.locator("#stage").scroll_into_view_if_needed()
    sheet = page.locator("#sheet").bounding_box()
    x, y = (lambda share: sheet["x"] + share * sheet["width"]), (lambda share: sheet["y"] + share * sheet["height"])
    page.mouse.move(x(left), y(top))
    page.mouse.down()
    page.mouse.move(x((left + right) / 2), y(bottom))
    page.mouse.move(x(right), y(bottom))
    page.mouse.up()


def verdict_of(page) -> str:
    page.locator("#downloads").wait_for()
    return page.locator("#verdict-status").inner_text()


def download(page, link) -> bytes:
    with page.expect_download() as waiting:
        page.locator(link).click()
    return Path(waiting.value.path()).read_bytes()


def screenshot(page, name: str, tmp_path: Path) -> None:
    """Keeps the whole page as a small WebP where the manual's pictures are asked for."""
    folder = Path(os.environ.get("SCREENSHOTS", tmp_path))
    picture = Image.open(io.BytesIO(page.screenshot(full_page=True, animations="disabled")))
    picture.convert("RGB").save(folder / f"{name}.webp", quality=72, method=6)


def command_of(tmp_path: Path, originals: Path, *options: str) -> Path:
    """Runs `unseg protect` with masks/ and the key; returns its folder."""
    (tmp_path / "k.key").write_text(KEY)
    out = tmp_path / "command"
    words = ["protect", str(originals), "--masks", str(tmp_path / "masks"), "--mask-type", "index"]
    words += ["--objects", "all"]
    assert cli.main([*words, "--key", str(tmp_path / "k.key"), "--out", str(out), "--quiet", *options]) in (0, 1)
    return out


def compare_by_mouse(page) -> None:
    """Drags the dividing line to a quarter, and looks at every size. The picture is 600 pixels wide."""
    page.get_by_label("Compare").check(force=True)
    page.locator("#busy").wait_for(state="hidden")
    slider = page.get_by_label("Divide between before and after")
    assert slider.input_value() == "50"
    sheet = page.locator("#sheet").bounding_box()
    page.mouse.move(sheet["x"] + sheet["width"] / 2, sheet["y"] + 40)
    page.mouse.down()
    page.mouse.move(sheet["x"] + sheet["width"] / 4, sheet["y"] + 90)
    page.mouse.up()
    assert abs(float(slider.input_value()) - 25) <= 1
    assert page.locator("#protected").evaluate("image => image.style.clipPath").startswith("inset(0px 0px 0px 2")
    page.get_by_label("400 %").check(force=True)
    assert page.locator("#sheet").evaluate("sheet => sheet.clientWidth") == 4 * 600
    page.get_by_label("100 %").check(force=True)
    assert page.locator("#sheet").evaluate("sheet => sheet.clientWidth") == 600
    page.get_by_label("Fit").check(force=True)


def test_a_folder_is_dropped_marked_compared_and_downloaded(open_page, tmp_path):
    originals = photographs(tmp_path / "originals")
    page = open_page()
    drop(page, originals / "trip", originals / "chelsea.png")
    page.locator("#pictures li").nth(2).wait_for()
    names = page.locator("#pictures .name").all_inner_texts()
    assert sorted(names) == ["chelsea.png", "trip/coffee.png", "trip/rocket.jpg"]
    page.locator("#left-out summary").click()
    assert page.locator("#left-out li").all_inner_texts() == ["trip/notes.txt: is no picture"]
    page.locator("#left-out summary").click()

    choose(page, "trip/coffee.png")
    assert page.locator("#work-name").inner_text() == "trip/coffee.png"
    draw_box(page, 0.126, 0.036, 0.804, 0.979)
    assert verdict_of(page) == "Protected: the object carries the noise."
    assert "Largest change\n8 of 255" in page.locator("#figures").inner_text()
    page.locator("#live").get_by_text("Object found. 1 object,").wait_for(state="attached")
    page.locator("#figures").get_by_text("ΔE2000").wait_for()
    screenshot(page, "web-mark-light", tmp_path)

    # What the page shows is the file that the command makes from the page's own mask.
    (tmp_path / "masks/trip").mkdir(parents=True)
    (tmp_path / "masks/trip/coffee.png").write_bytes(download(page, "#get-mask"))
    mask = np.asarray(Image.open(tmp_path / "masks/trip/coffee.png")) > 0
    columns = np.flatnonzero(mask.any(axis=0))
    assert columns[0] >= 0.126 * 600 - 2 and columns[-1] <= 0.804 * 600 + 2
    assert f"Object 1, {100 * mask.mean():.1f} %" in page.locator("#objects li").inner_text()
    shown = download(page, "#get-png")
    assert shown == (command_of(tmp_path, originals) / "trip/coffee.png").read_bytes()

    compare_by_mouse(page)
    page.get_by_label("strong").check(force=True)
    page.locator("#figures").get_by_text("12 of 255").wait_for()
    page.locator("#figures").get_by_text("ΔE2000").wait_for()
    page.locator("#busy").wait_for(state="hidden")
    screenshot(page, "web-compare-light", tmp_path)
    page.get_by_label("Noise × 16").check(force=True)
    page.locator("#noise").wait_for()
    page.get_by_role("button", name="Make the files").click()
    page.locator("#made").wait_for()
    page.emulate_media(color_scheme="dark")
    screenshot(page, "web-files-dark", tmp_path)


def test_brush_undo_and_several_objects_end_in_the_zip(open_page, tmp_path):
    originals = tmp_path / "originals"
    originals.mkdir()
    (originals / "one.png").write_bytes(file_of(photograph(1, 120, 170)))
    archive = tmp_path / "two.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("deep/two.png", file_of(photograph(2, 120, 170)))
        packed.writestr("deep/notes.txt", "words")
    page = open_page(scheme="dark")
    drop(page, originals / "one.png", archive)
    page.locator("#pictures li").nth(1).wait_for()
    draw_box(page, 0.1, 0.12, 0.54, 0.56)
    page.get_by_role("radio", name="Object 1,").wait_for()
    before = page.locator("#objects li").inner_text()
    page.get_by_label("Brush: remove").check(force=True)
    draw_box(page, 0.2, 0.2, 0.45, 0.2)
    page.locator("#live").get_by_text("Removed.").wait_for(state="attached")
    assert page.locator("#objects li").inner_text() != before
    page.get_by_role("button", name="Undo").click()
    page.locator("#live").get_by_text("Undone.").wait_for(state="attached")
    assert page.locator("#objects li").inner_text() == before
    page.get_by_label("Brush: add").check(force=True)
    draw_box(page, 0.7, 0.7, 0.9, 0.9)
    page.locator("#live").get_by_text("Added.").wait_for(state="attached")
    page.get_by_label("Box", exact=True).check(force=True)
    draw_box(page, 0.7, 0.1, 0.95, 0.5)
    page.get_by_role("radio", name="Object 2,").wait_for()

    choose(page, "deep/two.png")
    page.get_by_label("Whole image", exact=True).check()
    assert "cannot keep networks from learning the objects in it" in verdict_of(page)
    choose(page, "one.png")
    page.get_by_role("button", name="Make the files").click()
    page.locator("#made").wait_for()
    assert page.locator("#made-words").inner_text() == (
        "1 picture is protected. Noise over the whole image, in 1, protects no object."
    )
    assert page.locator("#get-public").evaluate("link => link === document.activeElement")
    assert page.locator("#pictures .state").all_inner_texts() == ["protected", "noise, whole image"]
    for link in ("#get-public", "#get-private"):
        zipfile.ZipFile(io.BytesIO(download(page, link))).extractall(tmp_path)
    (originals / "deep").mkdir()
    (originals / "deep/two.png").write_bytes(file_of(photograph(2, 120, 170)))
    assert (
        cli.main(
            ["verify", str(tmp_path / "protected"), "--originals", str(originals), "--masks", str(tmp_path / "masks")]
        )
        == 0
    )
    again = command_of(tmp_path, originals, "--unmasked", "whole")
    for name in ("one.png", "deep/two.png"):
        assert (again / name).read_bytes() == (tmp_path / "protected" / name).read_bytes()


def test_objects_are_found_and_stay_apart(open_page, tmp_path):
    """Both objects of a picture, by keyboard; one of them goes and comes back."""
    pixels = photograph(1, 120, 170)
    pixels[15:80, 20:60] = pixels[60:110, 100:140] = (225, 30, 20)
    pixels[0, 0] = 255
    (tmp_path / "two.png").write_bytes(file_of(pixels))
    page = open_page()
    page.locator("#files-input").set_input_files(tmp_path / "two.png")
    page.locator("#bench").wait_for()
    page.locator("#propose").press("Enter")
    page.locator("#live").get_by_text(re.compile("^Objects found.* 2 objects, ")).wait_for(state="attached")
    assert page.locator("#propose").evaluate("button => button === document.activeElement")
    rows = page.locator("#objects li")
    assert [words.split(",")[0] for words in rows.all_inner_texts()] == ["Object 1", "Object 2"]
    page.get_by_role("button", name="Remove object 1").click()
    page.locator("#live").get_by_text("Object 1 is removed.").wait_for(state="attached")
    assert rows.count() == 1 and "Object 2" in rows.inner_text()
    one = np.asarray(Image.open(io.BytesIO(download(page, "#get-mask"))))
    assert not one[:50].any() and (one[65:105, 105:135] == 2).all()
    page.get_by_role("button", name="Undo").click()
    page.locator("#live").get_by_text("Undone.").wait_for(state="attached")
    assert rows.count() == 2
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks/two.png").write_bytes(download(page, "#get-mask"))
    shown = download(page, "#get-png")
    originals = tmp_path / "originals"
    originals.mkdir()
    (tmp_path / "two.png").rename(originals / "two.png")
    assert shown == (command_of(tmp_path, originals) / "two.png").read_bytes()


def press_to(page, selector: str, most: int = 60) -> None:
    """Presses Tab until an element has the focus."""
    for _ in range(most):
        page.keyboard.press("Tab")
        if page.locator(selector).evaluate("found => found === document.activeElement"):
            return
    raise AssertionError(f"Tab never leads to {selector}")


def brush_by_keyboard(page) -> None:
    """Goes from the picture back to the tools, and adds a part that lies outside the object."""
    keys, live = page.keyboard, page.locator("#live")
    keys.press("Shift+Tab")  # Undo
    keys.press("Shift+Tab")  # Find objects
    keys.press("Shift+Tab")  # the tools
    keys.press("ArrowRight")
    assert page.get_by_label("Brush: add").is_checked()
    press_to(page, "#stage")
    share = page.locator("#objects li").inner_text()
    keys.press("+")
    live.get_by_text("Brush size 25.").wait_for(state="attached")
    for key in (*["ArrowRight"] * 14, *["Shift+ArrowRight"] * 4, "Space"):
        keys.press(key)
    live.get_by_text("Added.").wait_for(state="attached")
    assert page.locator("#objects li").inner_text() != share


def compare_by_keyboard(page) -> None:
    """Goes on to the views, moves the dividing line to its end, and takes less strength."""
    keys = page.keyboard
    keys.press("Shift+Tab")
    while not page.evaluate("document.activeElement.name === 'view'"):
        keys.press("Shift+Tab")
    keys.press("ArrowRight")
    page.locator("#slider").wait_for()
    press_to(page, "#slider")
    keys.press("End")
    assert page.locator("#slider").input_value() == "100"
    press_to(page, 'input[name="strength"]:checked')
    keys.press("ArrowLeft")
    page.locator("#figures").get_by_text("4 of 255").wait_for()


def test_the_keyboard_alone_is_enough(open_page, tmp_path):
    """From the first Tab to both downloads; nothing is clicked. At the width of a telephone."""
    picture = tmp_path / "one.png"
    picture.write_bytes(file_of(photograph(1, 120, 170)))
    page = open_page(width=360, height=780, scheme="dark")
    keys, live = page.keyboard, page.locator("#live")
    page.on(
        "filechooser", lambda chooser: chooser.set_files(picture)
    )  # before the keys: Chromium is told in its own time
    press_to(page, "#choose-files")
    keys.press("Enter")
    live.get_by_text("1 picture taken.").wait_for(state="attached")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360

    press_to(page, "#stage")
    for key in ("ArrowLeft", "Shift+ArrowRight", "Shift+ArrowDown"):
        for _ in range(3):
            keys.press(key)
    live.get_by_text("Box from").wait_for(state="attached")
    keys.press("Enter")
    live.get_by_text(re.compile("1 object, ")).wait_for(state="attached")
    page.locator("#downloads").wait_for()

    brush_by_keyboard(page)
    compare_by_keyboard(page)
    press_to(page, "#get-png")
    with page.expect_download() as waiting:
        keys.press("Enter")
    single = Path(waiting.value.path()).read_bytes()
    press_to(page, "#make")
    keys.press("Enter")
    live.get_by_text("1 picture is protected. The files can be downloaded.").wait_for(state="attached")
    with page.expect_download() as waiting:
        keys.press("Enter")
    with zipfile.ZipFile(waiting.value.path()) as archive:
        assert archive.read("protected/one.png") == single
    changed = np.asarray(Image.open(io.BytesIO(single))).astype(int) - photograph(1, 120, 170)
    assert np.abs(changed).max() == 4


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_telephones_width_is_enough(open_page, tmp_path, scheme):
    data = Path(pytest.importorskip("skimage").__file__).parent / "data"
    page = open_page(width=360, height=780, scheme=scheme)
    page.locator("#files-input").set_input_files([data / "chelsea.png", data / "rocket.jpg"])
    page.locator("#pictures li").nth(1).wait_for()
    draw_box(page, 0.02, 0.02, 0.8, 0.98)
    verdict_of(page)
    page.locator("#figures").get_by_text("ΔE2000").wait_for()
    screenshot(page, f"web-360-{scheme}", tmp_path)
    page.get_by_label("400 %").check(force=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    unnamed = page.evaluate(
        "[...document.querySelectorAll('button, a, input, [role]')].filter(one => !one.textContent.trim()"
        " && !one.labels?.length && !one.getAttribute('aria-label') && one.id !== 'live' && !one.hidden"
        " && one.getAttribute('role') !== 'alert').map(one => one.outerHTML)"
    )
    assert unnamed == []


def test_a_closed_tab_takes_its_pictures_along(open_page, address, tmp_path):
    picture = tmp_path / "one.png"
    picture.write_bytes(file_of(photograph()))
    page = open_page()
    with page.expect_request("**/pictures?name=one.png") as waiting:
        page.locator("#files-input").set_input_files(picture)
    page.locator("#pictures li").wait_for()
    tab = waiting.value.url.partition("/pictures")[0]
    asked = page.context.request
    assert asked.get(f"{tab}/key").status == 200
    page.goto("about:blank")
    page.wait_for_timeout(300)
    assert asked.get(f"{tab}/key").status == 404


def test_time_is_told_as_people_tell_it(open_page):
    told = open_page().evaluate("import('./words.js').then(words => [null, 0.4, 45, 300].map(words.timeLeft))")
    assert told == ["", "about a second left", "about 45 s left", "about 5 min left"]


def test_a_refusal_is_shown_and_said(open_page, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    page = open_page()
    page.locator("#files-input").set_input_files(broken)
    page.locator("#left-out").wait_for()
    page.locator("#live").get_by_text("0 pictures taken, 1 left out.").wait_for(state="attached")
    assert page.locator("#left-out-title").inner_text() == "Left out: 1"
