"""The pipeline notebook as a user meets it: a real JupyterLab in headless Chromium, its cells run, both panels worked with the mouse.

Nothing may be asked of another machine, and the browser's console stays free of errors. Screenshots are written in the
folder that the environment variable NI_SCREENSHOTS names.
"""
import json
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from conftest import ROOT
from lab import CONTRAST, FITTED, RUN, STATE, Seen, change_theme, expect_idle, hover_at, nothing_elsewhere, shoot

NOTEBOOK = "introspection/84_panels.ipynb"
FIGURES = ("first.result.plot()", "atlas.plot()")   # cells that the page gets in addition, to be looked at

PLOTLY = "application/vnd.plotly.v1+json"
SCROLL = """text => { const notebook = window.jupyterapp.shell.currentWidget.content;
  return notebook.scrollToItem(notebook.widgets.findIndex(c => c.model.sharedModel.source.includes(text)), "start"); }"""


@dataclass
class Notebook:
    "The open notebook."
    page: object
    seen: Seen
    temp: Path   # the kernel's folder for temporary files, where the notebook keeps its runs
    shots: Path
    title: str = "Introspection"   # of the panel that is worked

    def state(self): return self.page.evaluate(STATE)
    def shot(self, name): shoot(self.page, self.shots / f"{name}.png")
    def show(self, text): self.page.evaluate(SCROLL, text)

    def of(self, title): return replace(self, title=title)

    @property
    def panel(self):
        head = self.page.locator("h3", has_text=re.compile(f"^{self.title}$"))
        return self.page.locator(".jp-OutputArea-output:has(.widget-button)", has=head)

    def button(self, name): return self.panel.locator(".widget-button", has_text=name)
    def section(self, title): self.panel.locator(".jupyter-widget-Collapse-header", has_text=title).click()

    def set(self, **values):
        "Type values into controls of the panel's open section, or pick them from its menus."
        for name, value in values.items():
            control = self.panel.get_by_label(name, exact=True)
            if control.evaluate("box => box.tagName") == "SELECT": control.select_option(value)
            else:
                control.fill(value)
                control.press("Tab")

    def wait_text(self, pattern): self.panel.get_by_text(re.compile(pattern)).first.wait_for(timeout=RUN * 1000)


def add_figures(path):
    "Give a notebook cells that show figures, behind those that make the results."
    notebook = json.loads(path.read_text())
    for source in FIGURES:
        making = f"{source.split('.')[0]} = "
        made = next(i for i, c in enumerate(notebook["cells"]) if c["cell_type"] == "code" and making in "".join(c["source"]))
        figure = dict(cell_type="code", id=f"figure-{made}", metadata={}, execution_count=None, outputs=[], source=source)
        notebook["cells"].insert(made + 1, figure)
    path.write_text(json.dumps(notebook))


@pytest.fixture(scope="module")
def notebook(lab):
    "The panels' notebook, opened, all cells run by a new Python as a user's."
    path = lab.folder / "nbs" / NOTEBOOK
    path.parent.mkdir()
    shutil.copy(ROOT / "nbs" / NOTEBOOK, path)
    add_figures(path)
    with lab.notebook(NOTEBOOK, 1200): yield Notebook(lab.page, lab.seen, lab.folder / "temp", lab.shots)


def test_all_cells_run(notebook):
    state = notebook.state()
    errors = [o["evalue"] for c in state["cells"] for o in c["outputs"] if o["output_type"] == "error"]
    assert errors == []
    assert state["kernel"] == "idle"
    assert [c["source"] for c in state["cells"] if c["count"] is None] == []


def test_figures_are_drawn(notebook):
    drawn = [c["source"] for c in notebook.state()["cells"] if any(PLOTLY in o.get("data", {}) for o in c["outputs"])]
    assert len(drawn) >= 2
    for i, source in enumerate(drawn):
        notebook.show(source)
        cell = notebook.page.locator(".jp-CodeCell", has=notebook.page.locator(".cm-content", has_text=source.splitlines()[0]))
        plot = cell.locator(".js-plotly-plot .main-svg").first
        plot.wait_for()
        size = plot.bounding_box()
        assert size["width"] > 300
        assert size["height"] > 150
        notebook.shot(f"figure-{i}")


def test_panel_runs_and_shows_the_result(notebook):
    notebook.show("panel = introspection_panel(")
    notebook.shot("panel-before")
    notebook.set(layer="1", neuron="11", layer_type="mlp_out")
    notebook.button("Run").click()
    notebook.wait_text("^Done in ")
    table = notebook.panel.locator(".widget-output table", has_text="spearman")
    table.wait_for()
    notebook.shot("panel-after")
    result = json.loads(next(notebook.temp.glob("*/panel/reports/result.json")).read_text())
    assert result["target"] == "blocks.1.mlp.hook_post[11]"
    assert "blocks.1.mlp.hook_post[11]" in notebook.panel.locator(".widget-output").inner_text()
    head, others = result["summary"], result["summary"]["baselines"] | result["summary"]["controls"]
    assert table.locator("tbody tr").first.inner_text().split()[:2] == ["head", f"{head['r2']:.2f}"]
    assert table.locator("tbody tr").count() == 1 + len(others)
    assert head["verdict"] in notebook.panel.locator(".widget-output").inner_text()


def test_panel_says_what_is_wrong_and_starts_nothing(notebook):
    notebook.set(layer="seven")
    notebook.wait_text("layer is 'seven', but must be")
    notebook.button("Run").click()
    notebook.wait_text("Not started: a value does not fit")
    notebook.shot("panel-refused")
    notebook.set(neuron="11")
    notebook.panel.get_by_text("neuron is 'seven'").wait_for(state="hidden")


def test_panel_cancels(notebook):
    notebook.set(layer="", neuron="")
    notebook.section("Dataset")
    notebook.set(num_samples="2000")
    notebook.button("Run").click()
    notebook.wait_text(r"^scan: [1-9]\d* of \d+")
    notebook.shot("panel-running")
    assert notebook.button("Run").is_disabled()
    notebook.button("Cancel").click()
    notebook.wait_text("^Stopped; what was complete is kept")
    notebook.shot("panel-cancelled")
    expect_idle(notebook.button("Run"), notebook.button("Cancel"))


def test_click_in_the_atlas_brings_the_card(notebook):
    notebook.show("atlas_explorer(model=")
    notebook = notebook.of("Atlas")
    notebook.button("Run").click()
    notebook.wait_text("^Done in ")
    cells = notebook.panel.locator(".js-plotly-plot .nsewdrag")
    cells.wait_for()
    notebook.panel.locator(".js-plotly-plot").scroll_into_view_if_needed()
    notebook.shot("atlas-map")
    notebook.page.wait_for_function(FITTED, arg=notebook.panel.locator(".js-plotly-plot").element_handle())
    box, panel = cells.bounding_box(), notebook.panel.bounding_box()
    assert box["x"] + box["width"] < panel["x"] + panel["width"], "the map is wider than its panel"

    def best_of_last_layer():
        box = cells.bounding_box()
        return box["x"] + 4, box["y"] + box["height"] - 12

    hover = notebook.panel.locator(".hoverlayer .hovertext", has_text="blocks.3.")
    place = hover_at(notebook.page, best_of_last_layer, hover)
    address = re.match(r"blocks\.3\.mlp\.hook_post\[\d+\]", hover.text_content()).group()
    notebook.shot("atlas-hover")
    notebook.page.mouse.click(*place)
    card = notebook.panel.locator(".jp-RenderedHTML", has_text="checks,")
    card.wait_for(timeout=RUN * 1000)
    runs = [json.loads(p.read_text()) for p in notebook.temp.glob("*/card/reports/result.json")]   # the notebook makes a card itself, too
    stored = next(run for run in runs if run["target"] == address)
    assert stored["summary"]["verdict"] in card.inner_text()
    assert address in card.inner_text()
    for theme in ("Dark", "Light"):
        change_theme(notebook.page, theme)
        card.scroll_into_view_if_needed()
        notebook.shot(f"atlas-card-{theme.lower()}")
        assert card.evaluate(CONTRAST) >= 4.5, theme


def test_nothing_was_asked_of_another_machine_and_console_has_no_error(notebook): nothing_elsewhere(notebook.seen)
