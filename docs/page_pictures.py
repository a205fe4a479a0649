"""The documents' pictures of pages: the program writes each page, and Chromium takes a picture of it.

`make pictures` runs it; it asks and measures the bundled demo model. The terminal's pictures, which are there as SVG,
it draws as PNG, too.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

PROGRAM = [sys.executable, "-m", "prefixkv_cli"]
SCENE = Path(__file__).parents[1] / "prefixkv" / "demo" / "scene.png"
CHROMIUM = shutil.which("chromium") or "chromium"
WIDTH, HEIGHT = 1000, 880
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run"]
PAGES = {
    "report_kept": ("chat", str(SCENE), "--model", "demo", "-p", "Describe the image.", "--show-kept"),
    "report_profile": ("profile", "show", "demo", "--report"),
    "report_eval": (
        *("eval", "--model", "demo", "--data", "scenes:20", "--budgets", "100%,20%,10%,5%"),
        *("--methods", "guided,h2o,local", "--metrics", "ppl,accuracy", "--max-new-tokens", "60", "--report"),
    ),
}
"""The command of each page, without the file that it writes."""


def kept_in_one_layer(page: Page) -> None:
    """Move the sliders to a layer in the middle and to the smallest budget."""
    for number, share in enumerate((0.5, 1.0)):
        box = page.locator(".slider-rail-touch-rect").nth(number).bounding_box()
        assert box is not None
        page.mouse.click(box["x"] + share * box["width"], box["y"] + box["height"] / 2)
        page.wait_for_timeout(1000)
    page.mouse.move(0, 0)
    page.wait_for_timeout(500)


def draw_screens(browser: Browser, folder: Path) -> None:
    """Draw each SVG file as a PNG file beside it, from nothing but itself."""
    page = browser.new_page(offline=True)
    for drawing in sorted(folder.glob("*.svg")):
        page.goto(drawing.resolve().as_uri())
        box = "document.documentElement.viewBox.baseVal"
        height = round(WIDTH * page.evaluate(f"{box}.height / {box}.width"))
        page.set_viewport_size({"width": WIDTH, "height": height})
        page.screenshot(path=drawing.with_suffix(".png"))


def main(folder: Path) -> None:
    """Make all pictures.

    Args:
        folder: where to write them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as home, sync_playwright() as control:
        browser = control.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for name, words in PAGES.items():
            file = Path(home) / f"{name}.html"
            environment = {**os.environ, "PREFIXKV_HOME": home}
            subprocess.run([*PROGRAM, *words, str(file)], check=True, env=environment, stdout=subprocess.DEVNULL)
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
            page.goto(file.as_uri())
            page.wait_for_selector(".main-svg")
            if name == "report_kept":
                kept_in_one_layer(page)
            page.screenshot(path=folder / f"{name}.png")
        draw_screens(browser, folder)
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
