"""The page in a real browser: every state that a person can see, by keyboard too, and what a checker says of it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.service.conftest import Running

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("no Chromium in this environment", allow_module_level=True)
AXE = os.environ.get("AXE")  # axe.min.js of axe-core, where it is at hand
SHOTS = os.environ.get("SHOTS")  # a folder for screenshots


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any, request: pytest.FixtureRequest) -> Any:
    def start(url: str, **options: Any) -> Any:
        context = browser.new_context(**options)
        request.addfinalizer(context.close)
        page = context.new_page()
        page.set_default_timeout(30_000)
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda m: errors.append(m.text) if "Content Security" in m.text else None)
        page.errors = errors
        page.goto(url)
        page.wait_for_function("() => !document.getElementById('about').textContent.includes('Connecting')")
        return page

    return start


def shot(page: Any, name: str) -> None:
    if SHOTS:
        page.screenshot(path=f"{SHOTS}/{name}.png", full_page=True)


def check(page: Any) -> None:
    """No error of the page's own, and nothing serious that axe-core finds."""
    assert not page.errors
    if AXE:
        found = page.evaluate(Path(AXE).read_text() + "; axe.run().then(r => JSON.stringify(r.violations))")
        serious = [(v["id"], v["impact"]) for v in json.loads(found) if v["impact"] in ("serious", "critical")]
        assert not serious


def choose(page: Any, *paths: Path) -> None:
    page.set_input_files("#files", [str(path) for path in paths])
    page.wait_for_selector(".hit")
    page.wait_for_load_state("networkidle")


@pytest.mark.parametrize("look", ["light", "dark"])
def test_a_picture_is_searched_and_a_result_searched_by(
    reading: Running, collection: Path, open_page: Any, look: str
) -> None:
    page = open_page(reading.url, color_scheme=look)
    assert "bundle: 60 items, 4 bytes each · other: 60 items, 2 bytes each" in page.inner_text("#about")
    assert "appears here" in page.inner_text("#results")
    shot(page, f"{look}-empty")
    check(page)
    choose(page, collection / "photos/a/04.png")
    assert page.locator(".sides.two .side h2").all_inner_texts() == ["bundle", "other"]
    assert page.locator(".hit").count() == 24
    page.wait_for_function(
        "() => [...document.querySelectorAll('.hit img')].slice(0, 3).every(i => i.naturalWidth > 0)"
    )
    assert page.locator("#queries img").first.evaluate("image => image.naturalWidth > 0")
    shot(page, f"{look}-side-by-side")
    check(page)
    page.locator(".hit .open").nth(2).click()
    page.wait_for_function("() => document.querySelectorAll('.hit').length === 12")
    page.locator(".hit .ask").first.click()
    assert page.locator("#why tbody tr").count() == 4
    assert "the sum of what its codes add" in page.inner_text("#why") and "note: <b>" in page.inner_text("#why")
    shot(page, f"{look}-why")
    check(page)


def test_several_pictures_with_a_filter_on_a_telephone(reading: Running, collection: Path, open_page: Any) -> None:
    page = open_page(reading.url, viewport={"width": 360, "height": 740}, color_scheme="dark", has_touch=True)
    page.uncheck("#beside")
    page.fill("#where", "year >= 2030")
    page.fill("#k", "3")
    choose(page, collection / "photos/a/04.png", collection / "photos/b/07.png")
    assert page.locator("#results h2").all_inner_texts() == ["04.png", "07.png"]
    assert page.locator(".hit").count() == 6 and page.inner_text("#status") == "6 results."
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")  # nothing sticks out
    shot(page, "telephone")
    check(page)


def test_pictures_are_dropped_and_pasted(reading: Running, open_page: Any) -> None:
    page = open_page(reading.url)
    made = """(kind) => new Promise((done) => {
      const canvas = document.createElement('canvas');
      canvas.width = canvas.height = 16;
      canvas.getContext('2d').fillRect(0, 0, 9, 9);
      canvas.toBlob((blob) => {
        const data = new DataTransfer();
        data.items.add(new File([blob], 'made.png', {type: 'image/png'}));
        const event = kind === 'paste'
          ? new ClipboardEvent('paste', {clipboardData: data, bubbles: true})
          : new DragEvent('drop', {dataTransfer: data, bubbles: true});
        document.body.dispatchEvent(event);
        done();
      });
    })"""
    for kind in ("drop", "paste"):
        page.evaluate("document.getElementById('results').replaceChildren()")
        page.evaluate(made, kind)
        page.wait_for_selector(".hit")
    check(page)


def test_all_of_it_by_keyboard(reading: Running, collection: Path, open_page: Any) -> None:
    page = open_page(reading.url)
    choose(page, collection / "photos/a/04.png")
    seen = []
    for _ in range(9):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.id || document.activeElement.className"))
    assert seen[:7] == ["skip", "choose", "camera", "k", "where", "beside", "again"] and seen[7] == "open"
    page.keyboard.press("Enter")  # on "Why?"
    assert page.evaluate("document.getElementById('why').open")
    page.keyboard.press("Escape")
    assert not page.evaluate("document.getElementById('why').open")
    assert page.evaluate("document.activeElement.className") == "ask"


def test_nothing_found_wrong_input_slow_and_offline(reading: Running, collection: Path, open_page: Any) -> None:
    page = open_page(reading.url)
    page.click("#again")
    assert page.inner_text("#problem") == "Choose a picture first."
    choose(page, collection / "photos/a/04.png")
    page.fill("#where", "year < 0")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=Nothing found")
    shot(page, "nothing")
    page.fill("#where", "year <")
    page.keyboard.press("Enter")
    page.wait_for_selector("#problem:visible")
    assert "no filter" in page.inner_text("#problem") and not page.locator(".hit").count()
    shot(page, "error")
    check(page)
    page.fill("#where", "")
    page.fill("#k", "0")
    page.keyboard.press("Enter")
    assert "from 1 to 60" in page.inner_text("#problem")
    page.fill("#k", "5")
    page.route("**/search", lambda route: (page.wait_for_timeout(2500), route.continue_()))
    page.click("#again")
    page.wait_for_selector("text=Still searching")
    shot(page, "slow")
    page.wait_for_selector(".hit")
    page.unroute("**/search")
    page.context.set_offline(True)
    page.click("#again")
    page.wait_for_selector("text=You are offline.")
    shot(page, "offline")
    page.context.set_offline(False)
    check(page)


def test_with_a_key(serve: Any, collection: Path, keys: tuple[Path, str, str], open_page: Any) -> None:
    page = open_page(serve(collection / "bundle", images=collection / "photos", api_keys=keys[0]).url)
    assert "asks for a key" in page.inner_text("#problem")
    shot(page, "key")
    page.fill("#key", keys[1])
    page.keyboard.press("Enter")
    page.wait_for_selector("text=60 items")
    choose(page, collection / "photos/a/04.png")
    page.wait_for_function("() => document.querySelector('.hit img').naturalWidth > 0")
    check(page)
