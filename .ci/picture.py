"""Take the pictures of README.md: `python .ci/picture.py` (needs Chromium).

Those of the figures that nbs/index.ipynb shows, as stored there, and nbs/images/first_result.png from the run that it shows.
"""
import json
import shutil
import sys
import tempfile
from pathlib import Path

from neural_introspection.introspection import IntrospectionConfig, run_introspection
from neural_introspection.display import Figure, save_figure
from playwright.sync_api import sync_playwright
from readme import ROOT, picture_name

IMAGES = ROOT / "nbs" / "images"
PLOTLY = "application/vnd.plotly.v1+json"
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


def shown_figures():
    "The figures that the index page shows."
    cells = json.loads((ROOT / "nbs" / "index.ipynb").read_text(encoding="utf-8"))["cells"]
    found = [o["data"][PLOTLY] for cell in cells for o in cell.get("outputs", []) if PLOTLY in o.get("data", {})]
    return [Figure({part: figure[part] for part in ("data", "layout")}) for figure in found]


def main():
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not chromium: return "Chromium is needed for the picture and was not found."
    with tempfile.TemporaryDirectory() as folder:
        for figure in shown_figures(): screenshot(save_figure(figure, Path(folder) / "figure.html"), IMAGES / picture_name(figure.name), chromium)
        result = run_introspection(IntrospectionConfig(model="pocket", num_samples=600, output_dir=f"{folder}/first", device="cpu"))
        screenshot(result.run_folder / "figures" / "baselines.html", IMAGES / "first_result.png", chromium)


if __name__ == "__main__": sys.exit(main())
