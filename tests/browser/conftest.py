"""One Chromium and one JupyterLab for all tests of this folder; they end before others begin, which may want an event
loop."""
import os
from pathlib import Path

import pytest
from lab import BROWSERS, FLAGS, START, find_browser, lab_in


@pytest.fixture(scope="package")
def browser():
    "Headless Chromium with a new profile."
    executable = find_browser()
    if executable is None: pytest.skip(f"needs a browser: none of {', '.join(BROWSERS)} is on the PATH")
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright: install the extra dev")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=FLAGS, timeout=START * 1000)
        yield chromium
        chromium.close()


@pytest.fixture(scope="package")
def lab(browser, tmp_path_factory):
    """A JupyterLab without an open notebook; the last screenshots go to a temporary folder, or, with all others, to that
    of NI_SCREENSHOTS."""
    shots = Path(os.environ.get("NI_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots")).resolve()
    shots.mkdir(parents=True, exist_ok=True)
    with lab_in(browser, tmp_path_factory.mktemp("lab"), shots) as lab: yield lab
