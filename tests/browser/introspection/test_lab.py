"""The pipeline notebook as a user meets it: a real JupyterLab in headless Chromium, its cells run, both panels worked with the mouse.

Nothing may be asked of another machine, and the browser's console stays free of errors. Screenshots are written in a temporary
folder, or in the folder that the environment variable NI_SCREENSHOTS names.
"""
import json
import os
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from conftest import ROOT
from lab import CELLS, CLICK, CONTRAST, DONE, FITTED, OPEN, READY, RUN, RUN_ALL, STATE, Seen, expect_idle, lab_environment, nothing_elsewhere, server_url, start_lab, stop, watch

NOTEBOOK = "introspection/84_panels.ipynb"
FIGURES = ("first.result.plot()", "atlas.plot()")   # cells that the page gets in addition, to be looked at

PLOTLY = "application/vnd.plotly.v1+json"
SCROLL = """text => { const notebook = window.jupyterapp.shell.currentWidget.content;
  return notebook.scrollToItem(notebook.widgets.findIndex(c => c.model.sharedModel.source.includes(text)), "start"); }"""


@dataclass
class Lab:
    "The open notebook."
    page: object
    seen: Seen
    temp: Path   # the kernel's folder for temporary files, where the notebook keeps its runs
    shots: Path
    title: str = "Introspection"   # of the panel that is worked

    def state(self): return self.page.evaluate(STATE)
    def shot(self, name): self.page.screenshot(path=self.shots / f"{name}.png")
    def show(self, text): self.page.evaluate(SCROLL, text)

    def of(self, title): return replace(self, title=title)

    def theme(self, name):
        "Change Lab's colours: Light or Dark."
        self.page.evaluate("name => window.jupyterapp.commands.execute('apputils:change-theme', {theme: `JupyterLab ${name}`})", name)
        self.page.wait_for_function("name => document.body.dataset.jpThemeName === `JupyterLab ${name}`", arg=name)

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
def server(tmp_path_factory):
    "A JupyterLab with a copy of the notebooks: its folder, address and token."
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "nbs", folder / "nbs", ignore=lambda _, names: [n for n in names if n.startswith((".", "_"))])
    add_figures(folder / "nbs" / NOTEBOOK)
    env = lab_environment(folder)
    process = start_lab(folder, env, fresh=True)   # as a user's
    try: yield folder, server_url(folder, process), env["JUPYTER_TOKEN"]
    finally: stop(process)


@pytest.fixture(scope="module")
def lab(browser, server, tmp_path_factory):
    "The pipeline notebook, opened, all cells run."
    folder, url, token = server
    shots = Path(os.environ.get("NI_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots")).resolve()
    shots.mkdir(parents=True, exist_ok=True)
    print(f"\nscreenshots: {shots}")
    context, seen = browser.new_context(viewport=dict(width=1400, height=1200)), Seen()
    watch(context, seen)
    page = context.new_page()
    page.set_default_timeout(CLICK * 1000)
    page.goto(f"{url}lab/tree/{NOTEBOOK}?token={token}", timeout=OPEN * 1000)
    lab = Lab(page, seen, folder / "temp", shots)
    try:
        page.wait_for_function(READY, timeout=OPEN * 1000)
        page.evaluate(RUN_ALL)
        page.wait_for_function(DONE, timeout=CELLS * 1000, polling=250)
        yield lab
    finally: lab.shot("last")


def test_all_cells_run(lab):
    state = lab.state()
    errors = [o["evalue"] for c in state["cells"] for o in c["outputs"] if o["output_type"] == "error"]
    assert errors == []
    assert state["kernel"] == "idle"
    assert [c["source"] for c in state["cells"] if c["count"] is None] == []


def test_figures_are_drawn(lab):
    drawn = [c["source"] for c in lab.state()["cells"] if any(PLOTLY in o.get("data", {}) for o in c["outputs"])]
    assert len(drawn) >= 2
    for i, source in enumerate(drawn):
        lab.show(source)
        cell = lab.page.locator(".jp-CodeCell", has=lab.page.locator(".cm-content", has_text=source.splitlines()[0]))
        plot = cell.locator(".js-plotly-plot .main-svg").first
        plot.wait_for()
        size = plot.bounding_box()
        assert size["width"] > 300
        assert size["height"] > 150
        lab.shot(f"figure-{i}")


def test_panel_runs_and_shows_the_result(lab):
    lab.show("panel = introspection_panel(")
    lab.shot("panel-before")
    lab.set(layer="1", neuron="11", layer_type="mlp_out")
    lab.button("Run").click()
    lab.wait_text("^Done in ")
    table = lab.panel.locator(".widget-output table", has_text="spearman")
    table.wait_for()
    lab.shot("panel-after")
    result = json.loads(next(lab.temp.glob("*/panel/reports/result.json")).read_text())
    assert result["target"] == "blocks.1.mlp.hook_post[11]"
    assert "blocks.1.mlp.hook_post[11]" in lab.panel.locator(".widget-output").inner_text()
    head, others = result["summary"], result["summary"]["baselines"] | result["summary"]["controls"]
    assert table.locator("tbody tr").first.inner_text().split()[:2] == ["head", f"{head['r2']:.2f}"]
    assert table.locator("tbody tr").count() == 1 + len(others)
    assert head["verdict"] in lab.panel.locator(".widget-output").inner_text()


def test_panel_says_what_is_wrong_and_starts_nothing(lab):
    lab.set(layer="seven")
    lab.wait_text("layer is 'seven', but must be")
    lab.button("Run").click()
    lab.wait_text("Not started: a value does not fit")
    lab.shot("panel-refused")
    lab.set(neuron="11")
    lab.panel.get_by_text("neuron is 'seven'").wait_for(state="hidden")


def test_panel_cancels(lab):
    lab.set(layer="", neuron="")
    lab.section("Dataset")
    lab.set(num_samples="2000")
    lab.button("Run").click()
    lab.wait_text(r"^scan: [1-9]\d* of \d+")
    lab.shot("panel-running")
    assert lab.button("Run").is_disabled()
    lab.button("Cancel").click()
    lab.wait_text("^Stopped; what was complete is kept")
    lab.shot("panel-cancelled")
    expect_idle(lab.button("Run"), lab.button("Cancel"))


def test_click_in_the_atlas_brings_the_card(lab):
    lab.show("atlas_explorer(model=")
    lab = lab.of("Atlas")
    lab.button("Run").click()
    lab.wait_text("^Done in ")
    cells = lab.panel.locator(".js-plotly-plot .nsewdrag")
    cells.wait_for()
    lab.panel.locator(".js-plotly-plot").scroll_into_view_if_needed()
    lab.shot("atlas-map")
    lab.page.wait_for_function(FITTED, arg=lab.panel.locator(".js-plotly-plot").element_handle())
    box, panel = cells.bounding_box(), lab.panel.bounding_box()
    assert box["x"] + box["width"] < panel["x"] + panel["width"], "the map is wider than its panel"
    lab.page.mouse.move(box["x"] + 4, box["y"] + box["height"] - 12)   # the best neuron of the last layer
    hover = lab.panel.locator(".hoverlayer .hovertext")
    hover.wait_for()
    address = re.match(r"blocks\.3\.mlp\.hook_post\[\d+\]", hover.text_content()).group()
    lab.shot("atlas-hover")
    lab.page.mouse.click(box["x"] + 4, box["y"] + box["height"] - 12)
    card = lab.panel.locator(".jp-RenderedHTML", has_text="checks,")
    card.wait_for(timeout=RUN * 1000)
    runs = [json.loads(p.read_text()) for p in lab.temp.glob("*/card/reports/result.json")]   # the notebook makes a card itself, too
    stored = next(run for run in runs if run["target"] == address)
    assert stored["summary"]["verdict"] in card.inner_text()
    assert address in card.inner_text()
    for theme in ("Dark", "Light"):
        lab.theme(theme)
        card.scroll_into_view_if_needed()
        lab.shot(f"atlas-card-{theme.lower()}")
        assert card.evaluate(CONTRAST) >= 4.5, theme


def test_nothing_was_asked_of_another_machine_and_console_has_no_error(lab): nothing_elsewhere(lab.seen)
