"""The pipeline notebook as a user meets it: a real JupyterLab in headless Chromium, its cells run, both panels worked with the mouse.

Nothing may be asked of another machine, and the browser's console stays free of errors. Screenshots are written in a temporary
folder, or in the folder that the environment variable NI_SCREENSHOTS names.
"""
import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
from conftest import ROOT

NOTEBOOK = "introspection/80_pipeline.ipynb"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
         "--disable-component-update --disable-sync").split()
SETTINGS = {"apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False}}  # else Lab asks whether it may
LEFT_OUT = ("second = run_introspection(", "upstream = run_introspection(")  # slow, of no interest to a browser; the docs' build runs them
START, OPEN, CELLS, RUN, CLICK = 40, 40, 110, 45, 15  # the most seconds for the server, the page, all cells, one run, one step

# What Lab itself knows of the notebook: the state of its kernel and the outputs of its code cells.
STATE = """() => {
  const panel = window.jupyterapp.shell.currentWidget, code = panel.content.widgets.filter(c => c.model.type === "code");
  const cells = code.map(c => ({source: c.model.sharedModel.source, count: c.model.executionCount, outputs: c.model.outputs.toJSON()}));
  return {kernel: panel.sessionContext.session?.kernel?.status, cells: cells.filter(c => c.source.trim())};
}"""
READY = """() => { const p = window.jupyterapp?.shell.currentWidget;
  return p?.content?.widgets?.length > 5 && p.sessionContext.isReady && p.sessionContext.session?.kernel?.status === "idle"; }"""
RUN_ALL = "() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }"
DONE = """() => { const s = (%s)(), failed = s.cells.some(c => c.outputs.some(o => o.output_type === "error"));
  return failed || s.kernel === "dead" || (s.kernel === "idle" && s.cells.every(c => c.count !== null)); }""" % STATE
PLOTLY = "application/vnd.plotly.v1+json"
FITTED = "plot => plot._fullLayout && Math.abs(plot._fullLayout.width - plot.clientWidth) <= 1"   # a live figure is as wide as its place
SCROLL = """text => { const notebook = window.jupyterapp.shell.currentWidget.content;
  return notebook.scrollToItem(notebook.widgets.findIndex(c => c.model.sharedModel.source.includes(text)), "start"); }"""

# The smallest contrast (WCAG: 4.5 is wanted) between a text of an element and what lies behind it.
CONTRAST = """card => {
  const parts = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = colour => { const [r, g, b] = parts(colour).map(c => (c /= 255) <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b; };
  const solid = colour => { const c = parts(colour); return c.length < 4 || c[3] > .5; };
  const behind = e => { while (e && !solid(getComputedStyle(e).backgroundColor)) e = e.parentElement;
    return e ? getComputedStyle(e).backgroundColor : "rgb(255, 255, 255)"; };
  const texts = [...card.querySelectorAll("*")].filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()));
  return Math.min(...texts.map(e => { const [a, b] = [getComputedStyle(e).color, behind(e)].map(light);
    return (Math.max(a, b) + .05) / (Math.min(a, b) + .05); })); }"""


@dataclass
class Seen:
    "What the browser did and said."
    addresses: list = field(default_factory=list)  # of every request and websocket
    errors: list = field(default_factory=list)     # console errors and uncaught exceptions


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


def find_browser(): return next(filter(None, map(shutil.which, BROWSERS)), None)


def lab_environment(folder):
    "An environment in which Jupyter reads and writes in `folder` only."
    names = dict(JUPYTER_CONFIG_DIR="config", JUPYTER_DATA_DIR="data", JUPYTER_RUNTIME_DIR="runtime", JUPYTERLAB_SETTINGS_DIR="settings",
                 JUPYTERLAB_WORKSPACES_DIR="workspaces", IPYTHONDIR="ipython", TMPDIR="temp")
    for name in names.values(): (folder / name).mkdir()
    for plugin, values in SETTINGS.items():
        path = folder / "settings" / "@jupyterlab" / f"{plugin}.jupyterlab-settings"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(values))
    env = {k: v for k, v in os.environ.items() if k not in ("PLOTLY_RENDERER", "JUPYTER_PATH", "JUPYTER_CONFIG_PATH")}
    paths = {k: str(folder / v) for k, v in names.items()}
    return env | paths | dict(JUPYTER_PREFER_ENV_PATH="1", JUPYTER_TOKEN=secrets.token_hex(16), IN_TEST="1")  # IN_TEST: nbdev exports nothing


def start_lab(folder, env):
    "A JupyterLab on a free port of 127.0.0.1, for the notebooks in folder/nbs."
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", "--port=0", f"--ServerApp.root_dir={folder / 'nbs'}",
               "--LabApp.expose_app_in_browser=True", "--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    with open(folder / "lab.log", "w") as log:
        return subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)


def server_url(folder, server):
    "The server's address, as soon as it answers."
    deadline = time.monotonic() + START
    while time.monotonic() < deadline and server.poll() is None:
        for info in (folder / "runtime").glob("jpserver-*.json"):
            try:
                url = json.loads(info.read_text())["url"]
                with urlopen(url + "api", timeout=5): return url
            except (ValueError, URLError, OSError): pass
        time.sleep(.1)
    raise AssertionError("JupyterLab did not start:\n" + (folder / "lab.log").read_text()[-3000:])


def stop(server):
    "End the server, which ends its kernels; by force if it does not go."
    server.terminate()
    try: server.wait(15)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait(5)


@contextlib.contextmanager
def notebook_in_lab(browser, tmp_path_factory, name, sources, height, make):
    "What `make` makes of (page, what was seen, folder of screenshots): a notebook of these cells in a JupyterLab of its own, all cells run. Both are gone afterwards."
    folder = tmp_path_factory.mktemp("lab")
    (folder / "nbs").mkdir()
    cells = [dict(cell_type="code", id=f"cell{i}", source=source, metadata={}, outputs=[], execution_count=None) for i, source in enumerate(sources)]
    about = dict(kernelspec=dict(display_name="Python 3", language="python", name="python3"))
    (folder / "nbs" / f"{name}.ipynb").write_text(json.dumps(dict(cells=cells, metadata=about, nbformat=4, nbformat_minor=5)))
    shots = Path(os.environ.get("NI_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots")).resolve()
    shots.mkdir(parents=True, exist_ok=True)
    env = lab_environment(folder)
    server = start_lab(folder, env)
    context, seen = browser.new_context(viewport=dict(width=1400, height=height)), Seen()
    watch(context, seen)
    page = context.new_page()
    page.set_default_timeout(CLICK * 1000)
    shown = make(page, seen, shots)
    try:
        page.goto(f"{server_url(folder, server)}lab/tree/{name}.ipynb?token={env['JUPYTER_TOKEN']}", timeout=OPEN * 1000)
        page.wait_for_function(READY.replace("> 5", "> 2"), timeout=OPEN * 1000)
        page.evaluate(RUN_ALL)
        page.wait_for_function(DONE, timeout=CELLS * 1000, polling=250)
        yield shown
    finally:
        shown.shot("last")
        context.close()
        stop(server)


def nothing_elsewhere(seen):
    "No other machine was asked for anything, and the browser's console has no error."
    elsewhere = {a for a in seen.addresses if urlsplit(a).scheme not in ("data", "blob") and urlsplit(a).hostname != "127.0.0.1"}
    assert len(seen.addresses) > 10 and elsewhere == set() and any(a.startswith("ws://127.0.0.1") for a in seen.addresses)
    assert seen.errors == []


def eventually(page, ready, seconds=CLICK):
    "Wait until something is so on the page: what the kernel says is told before it is drawn."
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, "the page does not show what was asked for"
        page.wait_for_timeout(10)


def expect_idle(start, cancel):
    "The two buttons as they are while nothing is under way; they follow the words of the status by a moment."
    from playwright.sync_api import expect
    expect(start).to_be_enabled()
    expect(cancel).to_be_disabled()


def leave_out(path):
    "Take the slow cells that concern no browser out of a notebook."
    notebook = json.loads(path.read_text())
    slow = [c for c in notebook["cells"] if any(words in "".join(c["source"]) for words in LEFT_OUT)]
    assert len(slow) == len(LEFT_OUT), "LEFT_OUT names cells that the notebook does not have"
    notebook["cells"] = [c for c in notebook["cells"] if c not in slow]
    path.write_text(json.dumps(notebook))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    "A JupyterLab with a copy of the notebooks: its folder, address and token."
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "nbs", folder / "nbs", ignore=lambda _, names: [n for n in names if n.startswith((".", "_"))])
    leave_out(folder / "nbs" / NOTEBOOK)
    env = lab_environment(folder)
    process = start_lab(folder, env)
    try: yield folder, server_url(folder, process), env["JUPYTER_TOKEN"]
    finally: stop(process)


@pytest.fixture(scope="module")
def browser():
    "Headless Chromium with a new profile."
    executable = find_browser()
    if executable is None: pytest.skip(f"needs a browser: none of {', '.join(BROWSERS)} is on the PATH")
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright: install the extra dev")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=FLAGS, timeout=START * 1000)
        yield chromium
        chromium.close()


def watch(context, seen):
    "Note every request, websocket, console error and uncaught exception of the browser."
    context.on("request", lambda r: seen.addresses.append(r.url))
    context.on("page", lambda page: page.on("websocket", lambda socket: seen.addresses.append(socket.url)))
    context.on("console", lambda m: seen.errors.append(m.text) if m.type == "error" else None)
    context.on("weberror", lambda e: seen.errors.append(str(e.error)))


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
    assert errors == [] and state["kernel"] == "idle"
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
        assert size["width"] > 300 and size["height"] > 150
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
    assert stored["summary"]["verdict"] in card.inner_text() and address in card.inner_text()
    for theme in ("Dark", "Light"):
        lab.theme(theme)
        card.scroll_into_view_if_needed()
        lab.shot(f"atlas-card-{theme.lower()}")
        assert card.evaluate(CONTRAST) >= 4.5, theme


def test_nothing_was_asked_of_another_machine_and_console_has_no_error(lab): nothing_elsewhere(lab.seen)
