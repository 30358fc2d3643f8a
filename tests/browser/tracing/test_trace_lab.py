"""The trace explorer as a user meets it, in a real JupyterLab and as a Voila page: slider, Play, metric, a click on a neuron, a wrong address.

Both show nbs/dashboards/trace.ipynb for a trace made here, so that every number on the page can be compared with the trace's own.
Nothing may be asked of another machine, and the browser's console stays free of errors.
"""
import contextlib
import json
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from lab import CELL, CELLS, CLICK, CONTRAST, FITTED, OPEN, TRACE, WARM, Seen, change_theme, hover_at, lab_environment, nothing_elsewhere, serve_voila, shoot, stop_voila, wait_open, watch

DASHBOARD = ROOT / "nbs" / "dashboards"
EPOCHS, LAYERS = 6, {"input": 64, "hidden_1": 96, "hidden_2": 32, "output": 10}
SETTLED = 15  # the most seconds until the page shows what was asked for

# The map as the browser has it: a list of lines, null where nothing is drawn. Typed arrays have NaN there, which JSON has not.
DRAWN = "plot => Array.from(plot.data[1].z, line => Array.from(line, v => Number.isFinite(v) ? v : null))"


@dataclass
class Explorer:
    "The explorer on an open page."
    name: str    # lab or voila
    page: object
    seen: Seen
    shots: Path

    @property
    def map(self): return self.page.locator(".js-plotly-plot").first

    @property
    def slider(self): return self.page.locator(".widget-slider .noUi-handle")

    def cells(self): return np.array(self.map.evaluate(DRAWN), dtype="f4")
    def text(self, words): return self.page.get_by_text(words, exact=False).first
    def shot(self, name): shoot(self.page, self.shots / f"trace-{self.name}-{name}.png", full_page=True)

    def wait_cells(self, expected):
        "Wait until the map shows these cells; the seconds it took."
        start = time.perf_counter()
        while not np.array_equal(self.cells(), expected, equal_nan=True):
            assert time.perf_counter() - start < SETTLED, "the map does not show what the trace says"
            self.page.wait_for_timeout(20)
        return time.perf_counter() - start

    def button(self, name): return self.page.get_by_role("button", name=name)
    def choose(self, label, option): self.page.get_by_label(label, exact=True).select_option(option)

    def type(self, address):
        box = self.page.get_by_label("neuron", exact=True)
        box.fill(address)
        box.press("Enter")
        return box


@pytest.fixture(scope="module")
def trace(lab):
    "A small trace of the digits, where the lab's kernels look for one."
    from neural_introspection.tracing.digits import traced_digits
    return traced_digits(lab.folder / TRACE, epochs=EPOCHS).network_trace


def expected(trace, metric, epoch):
    "The map of a metric at an epoch, from the trace itself."
    lines = np.full((len(LAYERS), max(LAYERS.values())), np.nan, "f4")
    for line, (layer, width) in zip(lines, LAYERS.items()): line[:width] = trace.to_frame([epoch], [layer], [metric])[metric]
    return lines


@contextlib.contextmanager
def in_lab(request):
    "The notebook in JupyterLab, all cells run."
    lab = request.getfixturevalue("lab")
    notebook = json.loads((DASHBOARD / "trace.ipynb").read_text())
    notebook["metadata"]["kernelspec"] = WARM
    (lab.folder / "nbs" / "trace.ipynb").write_text(json.dumps(notebook))
    with lab.notebook("trace.ipynb", 1300, 1300): yield lab.page, lab.seen


@contextlib.contextmanager
def in_voila(request):
    "The notebook as Voila's page."
    pytest.importorskip("voila", reason="needs Voila: install the extra dev")
    browser, trace = map(request.getfixturevalue, ("browser", "trace"))
    folder = request.getfixturevalue("tmp_path_factory").mktemp("voila")
    context, seen = browser.new_context(viewport=dict(width=1300, height=1300)), Seen()
    watch(context, seen)
    page = context.new_page()
    page.set_default_timeout(CLICK * 1000)
    server, url = serve_voila(folder, lab_environment(folder) | dict(TRACE=os.path.relpath(trace.path, ROOT)))
    try:
        wait_open(url, server, folder / "voila.log")
        page.goto(url, timeout=CELLS * 1000)   # comes when the notebook has run
        yield page, seen
    finally:
        page.screenshot(path=request.getfixturevalue("lab").shots / "voila-last.png")
        context.close()
        stop_voila(server)


@pytest.fixture(scope="module", params=["lab", "voila"])
def explorer(request, lab, trace):
    "The dashboard's notebook, open and run, in JupyterLab or in Voila."
    with (in_lab if request.param == "lab" else in_voila)(request) as (page, seen):
        explorer = Explorer(request.param, page, seen, lab.shots)
        explorer.map.locator(".main-svg").first.wait_for(timeout=OPEN * 1000)
        yield explorer


def test_map_is_as_wide_as_its_place_and_shows_the_last_epoch(explorer, trace):
    explorer.text(f"epoch {EPOCHS - 1}").wait_for()
    explorer.page.wait_for_function(FITTED, arg=explorer.map.element_handle())
    size = explorer.map.bounding_box()
    assert size["width"] > 700
    assert size["height"] > 200
    explorer.button("one scale").click()
    explorer.wait_cells(expected(trace, "activation_mean", EPOCHS - 1))
    explorer.shot("map")


def test_slider_moves_the_map_through_the_epochs(explorer, trace, capsys):
    explorer.slider.focus()
    steps = []
    for epoch in [*reversed(range(EPOCHS - 1)), *range(1, EPOCHS)]:
        now = expected(trace, "activation_mean", epoch)
        explorer.slider.press("ArrowLeft" if len(steps) < EPOCHS - 1 else "ArrowRight")
        steps.append(explorer.wait_cells(now))
    with capsys.disabled(): print(f"\n{explorer.name}: a step of the slider, from the key to the map: median {np.median(steps):.3f} s, slowest {max(steps):.3f} s")
    loss = trace.properties[EPOCHS - 1]["loss"]
    explorer.text(f"loss {loss:.4g}").wait_for()


def test_metric_is_chosen(explorer, trace):
    explorer.choose("metric", "weight_norm")
    explorer.wait_cells(expected(trace, "weight_norm", EPOCHS - 1))
    assert explorer.map.evaluate("plot => plot.layout.title.text") == "weight_norm"
    explorer.shot("metric")
    explorer.choose("metric", "activation_mean")
    explorer.wait_cells(expected(trace, "activation_mean", EPOCHS - 1))


def test_a_click_brings_the_neuron(explorer, trace):
    explorer.map.scroll_into_view_if_needed()
    label = explorer.map.locator(".hoverlayer .hovertext", has_text="n_20")
    place = hover_at(explorer.page, lambda: explorer.map.evaluate(CELL, [1, 20]), label)
    explorer.shot("hover")
    explorer.page.mouse.click(*place)
    explorer.text(f"[E_{EPOCHS - 1}][L_hidden_1][n_20]").wait_for()
    history = explorer.page.locator(".js-plotly-plot").nth(1)
    history.locator(".main-svg").first.wait_for()
    explorer.page.wait_for_function(FITTED, arg=history.element_handle())
    explorer.page.wait_for_function("plot => plot.layout.shapes.length > 10", arg=history.element_handle())
    assert explorer.page.get_by_label("neuron", exact=True).input_value() == "L_hidden_1/n_20"
    drawn = history.evaluate("plot => Array.from(plot.data[2].y)")   # the neuron's line of the first panel
    assert np.allclose(drawn, trace.history("hidden_1", 20).activation_mean)
    explorer.shot("neuron")
    explorer.slider.focus()
    explorer.slider.press("ArrowLeft")
    explorer.text(f"[E_{EPOCHS - 2}][L_hidden_1][n_20]").wait_for()
    explorer.page.wait_for_function("([plot, epoch]) => plot.layout.shapes[0].x0 === epoch", arg=[history.element_handle(), EPOCHS - 2])
    explorer.wait_cells(expected(trace, "activation_mean", EPOCHS - 2))


def test_a_wrong_address_is_told_in_a_sentence(explorer):
    explorer.type("L_hidden_9/n_<b>0</b>")
    alert = explorer.page.get_by_role("alert")
    alert.wait_for()
    assert alert.inner_text().startswith("layer 'L_hidden_9' is not in the trace: it has L_input")
    for theme in ("Dark", "Light") if explorer.name == "lab" else ():
        change_theme(explorer.page, theme)
        assert alert.locator("..").evaluate(CONTRAST) >= 4.5, theme
        explorer.shot(theme.lower())
    explorer.shot("refused")
    explorer.type("n_160")
    explorer.text("[L_hidden_2][n_0]").wait_for()
    alert.wait_for(state="detached")


def test_play_goes_through_the_epochs(explorer, trace):
    explorer.slider.focus()
    explorer.slider.press("Home")
    explorer.wait_cells(expected(trace, "activation_mean", 0))
    explorer.page.locator(".jupyter-widgets.widget-play button").first.click()
    explorer.wait_cells(expected(trace, "activation_mean", EPOCHS - 1))


def test_nothing_was_asked_of_another_machine_and_console_has_no_error(explorer): nothing_elsewhere(explorer.seen)


def test_make_dashboard_names_what_is_missing_and_installs_nothing(tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 1\n")   # a Python without Voila, or anything else
    python.chmod(0o755)
    done = subprocess.run(["make", "-s", "-C", str(ROOT), "-o", ".venv/.ready", f"BIN={tmp_path}", "dashboard"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"The dashboard needs Voila: {tmp_path}/python -m pip install -c constraints.txt voila\n")
