"""What every notebook keeps to, seen without preparing the site."""
import json
import pytest
from conftest import ROOT
from pages import text

NOTEBOOKS = sorted(p.relative_to(ROOT / "nbs").as_posix() for p in (ROOT / "nbs").rglob("*.ipynb")
                   if not any(part.startswith((".", "_")) for part in p.relative_to(ROOT / "nbs").parts))
each_notebook = pytest.mark.parametrize("name", NOTEBOOKS)


@each_notebook
def test_title_cell_holds_title_and_subtitle_only(name):
    cells = json.loads((ROOT / "nbs" / name).read_text(encoding="utf-8"))["cells"]
    title = next(text(c["source"]) for c in cells if c["cell_type"] == "markdown")
    lost = [line for line in title.splitlines() if line.strip() and not line.startswith(("# ", "> ", "- "))]
    assert title.startswith("# "), "the first markdown cell is the title"
    assert lost == [], "nbdev drops these lines from the site: move them to the next cell, or run `python .ci/execute.py`"


@each_notebook
def test_stores_no_widget_state(name):
    assert "widgets" not in json.loads((ROOT / "nbs" / name).read_text(encoding="utf-8"))["metadata"]
