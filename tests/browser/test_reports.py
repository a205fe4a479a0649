"""Pages of results as a browser shows them: no error, no request, and sliders that change what is drawn."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prefixkv_cli.reports.eval_page import write_evaluation
from tests.cli.program import run_here
from tests.cli.test_plots import evaluation

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
pytestmark = pytest.mark.browser
NAMES = ("chromium", "chromium-browser", "google-chrome")
QUIET = ("background-networking", "component-update", "sync")
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", *(f"--disable-{part}" for part in QUIET)]
expect = sync_api.expect
expect.set_options(timeout=30_000)
SCENE = Path(__file__).parents[2] / "prefixkv" / "demo" / "scene.png"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    with sync_api.sync_playwright() as control:
        opened = control.chromium.launch(executable_path=program, args=FLAGS)
        yield opened
        opened.close()


class Opened:
    """A page, and all that it has complained of or asked for."""

    def __init__(self, browser: Any, path: Path) -> None:
        self.page = browser.new_page(viewport={"width": 1200, "height": 1000})
        self.faults: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.faults.append(message.text))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector(".main-svg")
        self.path = path

    def slide(self, number: int, share: float) -> None:
        """Click on a slider's rail, so far from its left end."""
        rail = self.page.locator(".slider-rail-touch-rect").nth(number)
        rail.scroll_into_view_if_needed()
        box = rail.bounding_box()
        self.page.mouse.click(box["x"] + share * box["width"], box["y"] + box["height"] / 2)

    def close(self) -> None:
        """Check that nothing was wrong, and that nothing but the page itself was read."""
        self.page.close()
        assert self.faults == []
        outside = [url for url in self.requests if not url.startswith(("data:", "blob:"))]
        assert outside == [self.path.as_uri()]


def test_methods_of_an_evaluation_are_hidden_by_a_click(browser: Any, tmp_path: Path) -> None:
    figures = evaluation({"20%": 0.2, "5%": 0.05})
    figures["settings"]["device"] = "cpu"
    write_evaluation(figures, tmp_path / "eval.html")
    opened = Opened(browser, tmp_path / "eval.html")
    lines = opened.page.locator(".scatterlayer .trace")
    assert lines.count() == 4
    opened.page.locator(".legendtoggle").first.click()
    expect(lines).to_have_count(2)
    assert opened.page.locator("[data-title^='Share']").count() == 0
    opened.close()


def test_slider_over_budgets_changes_the_shares_of_a_profile(browser: Any, tmp_path: Path) -> None:
    assert run_here("profile", "show", "demo", "--report", str(tmp_path / "profile.html")).returncode == 0
    opened = Opened(browser, tmp_path / "profile.html")
    assert opened.page.locator("#curves .scatterlayer .trace").count() == 8
    bar = opened.page.locator("#shares .barlayer path").first
    before = bar.get_attribute("d")
    opened.slide(0, 0.0)
    expect(opened.page.locator("#shares .slider-label").first).to_have_text("budget 80%")
    expect(bar).not_to_have_attribute("d", before)
    opened.close()


def test_sliders_over_layers_and_budgets_change_what_is_dark_in_a_picture(browser: Any, tmp_path: Path) -> None:
    words = ["chat", str(SCENE), "--model", "demo", "-p", "Describe the image.", "--max-new-tokens", "6"]
    done = run_here(*words, "--budget", "20%", "--no-log", "--show-kept", str(tmp_path / "kept.html"))
    assert done.returncode == 0, done.stderr
    opened = Opened(browser, tmp_path / "kept.html")
    title, seen = opened.page.locator(".gtitle"), list[str]()
    veil = opened.page.locator(".hm image").first

    def look(expected: str) -> None:
        expect(title).to_contain_text(expected)
        for _ in range(100):
            if veil.evaluate("image => image.href.baseVal") not in seen:
                break
            opened.page.wait_for_timeout(50)
        seen.append(veil.evaluate("image => image.href.baseVal"))

    look("budget 20%, all 8 layers")
    opened.slide(0, 1.0)
    look("budget 20%, layer 7")
    opened.slide(1, 1.0)
    look("budget 5%, layer 7")
    expect(title).to_contain_text("in 2 bits")
    opened.slide(0, 0.0)
    look("budget 5%, all 8 layers")
    assert len(set(seen)) == 4
    opened.close()
