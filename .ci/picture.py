"""Take the picture of README.md, nbs/images/first_result.png, from the run that nbs/index.ipynb shows: `python .ci/picture.py` (needs Chromium)."""
import shutil
import sys
import tempfile
from pathlib import Path

from neural_introspection.pipeline import IntrospectionConfig, run_introspection
from playwright.sync_api import sync_playwright

TARGET = Path(__file__).resolve().parent.parent / "nbs" / "images" / "first_result.png"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]


def screenshot(page_file, target, chromium):
    "Draw a saved figure in a headless browser and keep it as PNG."
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": 760, "height": 700})
        page.goto(page_file.as_uri())
        page.wait_for_selector(".main-svg")
        target.parent.mkdir(exist_ok=True)
        page.locator(".js-plotly-plot").screenshot(path=target)
        browser.close()


def main():
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not chromium: return "Chromium is needed for the picture and was not found."
    with tempfile.TemporaryDirectory() as folder:
        result = run_introspection(IntrospectionConfig(model="pocket", num_samples=600, output_dir=f"{folder}/first", device="cpu"))
        screenshot(result.run_folder / "figures" / "baselines.html", TARGET, chromium)


if __name__ == "__main__": sys.exit(main())
