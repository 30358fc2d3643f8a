"""The explorer of toy models as a user meets it: trained, cancelled, compared and clicked in a real JupyterLab, then opened as the page of `make explorer`.

What the figures show is read from plotly's own data in the and compared with the sweeps on disk. Nothing may be asked of
another machine, and the browser's console stays free of errors.
"""
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from lab import CELL, CELLS, CONTRAST, FITTED, OPEN, STATE, Seen, eventually, expect_idle, lab_environment, notebook_in_lab, nothing_elsewhere, serve_voila, shoot, stop_voila, wait_open, watch


TRAINED = 30  # the most seconds until a sweep is trained
# A plot of the page by the words of its title.
PLOT = """([panel, words]) => [...panel.querySelectorAll(".js-plotly-plot")].find(plot => plot._fullLayout?.title?.text?.includes(words))"""
POINTS = """([panel, words]) => { const plot = (%s)([panel, words]); return plot ? Array.from(plot.data[0].y).filter(Number.isFinite).length : 0; }""" % PLOT
# The numbers of points of a figure's first line while it is trained: each time that more are there, until Train can be pressed again.
GROWING = """([panel, words]) => new Promise((done, fail) => { const points = () => (%s)([panel, words]), seen = [];
  const train = [...panel.querySelectorAll("button")].find(b => b.textContent.trim() === "Train"), start = performance.now();
  const look = () => { const now = points(), busy = train.disabled;
    if (busy && now > (seen.at(-1) ?? 0)) seen.push(now);
    if (seen.length && !busy) done(seen); else if (performance.now() - start > 30000) fail(new Error(`not trained: ${seen}`)); else requestAnimationFrame(look); };
  train.click(); look(); })""" % POINTS
# Presses Train, and Cancel as soon as the third line of values has points: the second value is trained.
TRAIN_AND_CANCEL = """([panel, words]) => new Promise((done, fail) => { const find = name => [...panel.querySelectorAll("button")].find(b => b.textContent.trim() === name);
  const points = () => Array.from((%s)([panel, words])?.data[6]?.y ?? []).filter(Number.isFinite).length, start = performance.now();
  const look = () => { if (points() > 1 && !find("Cancel").disabled) { find("Cancel").click(); done(); }
    else if (performance.now() - start > 30000) fail(new Error("nothing to cancel")); else requestAnimationFrame(look); };
  find("Train").click(); look(); })""" % PLOT

# What the lines, bars and cells of a plot show.
DATA = """plot => plot.data.map(t => [t.name ?? "", t.line?.color ?? "", t.x && Array.from(t.x), t.y && Array.from(t.y), t.z && Array.from(t.z, row => Array.from(row))])"""


@dataclass
class Shown:
    "The explorer on the open page."
    page: object
    seen: Seen
    shots: Path
    name: str = "lab"

    @property
    def panel(self): return self.page.locator(".widget-vbox", has=self.page.locator("h3", has_text=re.compile("^Toy models$"))).first
    def button(self, name): return self.panel.get_by_role("button", name=re.compile(rf"{name}$"))
    def control(self, label): return self.panel.get_by_label(label, exact=True)
    def options(self, label): return self.control(label).locator("option").all_inner_texts()
    def status(self, words): return self.panel.get_by_role("status").filter(has_text=words)
    def shot(self, name): shoot(self.page, self.shots / f"toy-{self.name}-{name}.png", full_page=True)

    def plot(self, words):
        "The plot whose title has these words, as soon as it is there."
        handle = self.page.wait_for_function(PLOT, arg=[self.panel.element_handle(), words]).as_element()
        self.page.wait_for_function(FITTED, arg=handle)
        return handle

    @property
    def pair(self): return self.panel.locator(".js-plotly-plot").last.element_handle()

    def set(self, **values):
        for label, value in values.items():
            control = self.control(label)
            if control.evaluate("box => box.tagName") == "SELECT": control.select_option(value)
            else:
                control.fill(value)
                control.press("Tab")

    def wait_text(self, pattern): self.panel.get_by_text(re.compile(pattern)).first.wait_for(timeout=TRAINED * 1000)

    def click_cell(self, row, column):
        "Click a cell of the heat map."
        plot = self.plot("Neurons by feature")
        plot.scroll_into_view_if_needed()
        self.page.mouse.click(*plot.evaluate(CELL, [row, column]))


@pytest.fixture(scope="module")
def runs(tmp_path_factory): return tmp_path_factory.mktemp("toys") / "sweeps"


@pytest.fixture(scope="module")
def shown(lab, runs):
    "A notebook with the explorer of a new folder, opened in JupyterLab, all cells run."
    cells = ["from neural_introspection.toy import toy_explorer", f"explorer = toy_explorer({str(runs)!r})\nexplorer", "print(len(explorer.sweeps))"]
    with notebook_in_lab(lab, "toys", cells, 1250, Shown) as shown: yield shown


def open_sweep(runs, name):
    from neural_introspection.toy import ToyResult
    return ToyResult.load(runs / name)


def test_an_empty_folder_is_told(shown, runs):
    state = shown.page.evaluate(STATE)
    assert [o for c in state["cells"] for o in c["outputs"] if o["output_type"] == "error"] == []
    assert all(c["count"] for c in state["cells"])
    shown.status("Nothing is trained in").wait_for()
    shown.plot("LR1: by learning rate")
    assert shown.panel.locator(".js-plotly-plot").count() == 1
    assert shown.control("run").is_hidden()
    assert shown.button("Cancel").is_disabled()
    assert not runs.exists()
    shown.shot("empty")


def test_a_row_trains_with_live_points(shown, runs):
    shown.set(preset="LR1", scale="smoke", sweep_values="0.003 0.03", log2_training_steps="10")
    shown.wait_text(r"Varied: learning rate, at 0\.003, 0\.03\. 64 features in 8 dimensions, 128 neurons; 1,024 steps")
    seen = shown.page.evaluate(GROWING, [shown.panel.element_handle(), "LR1: by learning rate"])
    shown.wait_text(r"^Done in ")
    assert len(seen) >= 2, seen   # there were points before all were there
    assert seen == sorted(seen), seen
    result = open_sweep(runs, "LR1-smoke-steps-10-values-0.003-0.03")
    shown.status(result.summary()).wait_for()
    drawn = shown.plot("LR1: by learning rate").evaluate("plot => plot.data.map(line => Array.from(line.y).at(-1))")
    ends = result.runs.set_index("value")
    assert np.allclose(drawn[1::3], ends.per_feature)
    assert np.allclose(drawn[2::3], ends.mean_bias, atol=1e-5)
    shown.shot("trained")


def test_cancel_keeps_what_is_complete_and_train_goes_on(shown, runs):
    shown.set(preset="K1", sweep_values="8 2048 16", log2_training_steps="9")
    folder = runs / "K1-smoke-steps-9-values-8-2048-16"
    shown.page.evaluate(TRAIN_AND_CANCEL, [shown.panel.element_handle(), "K1: by neurons"])
    shown.wait_text("^Stopped; what was complete is kept")
    shown.status("of 3 networks are done and kept").wait_for()
    kept = {path: path.stat().st_mtime_ns for path in (folder / "models").glob("value_*")}
    assert 1 <= len(kept) < 3
    assert shown.status(f"{len(kept)} of 3 networks").count() == 1
    assert "Cancelled at train" in shown.panel.get_by_role("alert").inner_text()
    expect_idle(shown.button("Train"), shown.button("Cancel"))
    shown.button("Train").click()
    shown.wait_text(r"^Done in ")
    shown.status("K1 (neurons").wait_for()
    assert len(open_sweep(runs, folder.name).runs) == 3
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())
    assert shown.panel.get_by_role("alert").count() == 0


def test_what_is_wrong_is_told(shown):
    shown.set(sweep_values="8 8")
    shown.button("Train").click()
    shown.panel.get_by_role("alert").get_by_text("sweep_values has a value twice").wait_for()
    shown.set(sweep_values="many")
    shown.wait_text("sweep_values is 'many', but must be numbers")
    shown.set(sweep_values="8 2048 16")


def test_two_sweeps_are_compared(shown, runs):
    names = ["K1-smoke-steps-9-values-8-2048-16", "LR1-smoke-steps-10-values-0.003-0.03"]
    assert shown.options("run") == names
    assert shown.options("beside") == ["(none)", *names]
    shown.set(run=names[1], beside=names[0])
    for name in names:
        plot, runs_ = shown.plot(name), open_sweep(runs, name).runs.sort_values("value")
        drawn = plot.evaluate("plot => plot.data.map(line => [Array.from(line.x), Array.from(line.y)])")
        for (x, y), column in zip(drawn, ("loss", "monosemantic_fraction", "per_feature")):
            assert np.allclose(x, runs_.value), column
            assert np.allclose(y, runs_[column]), column
    for name in names:   # the left one has made room
        shown.page.wait_for_function("plot => plot.querySelector('.main-svg').getBoundingClientRect().right <= plot.getBoundingClientRect().right + 1", arg=shown.plot(name))
    eventually(shown.page, lambda: len({tuple(shown.plot(name).evaluate("plot => plot._fullLayout.yaxis.range")) for name in names}) == 1)
    left, right = (shown.plot(name).bounding_box() for name in reversed(names))
    assert left["x"] + left["width"] <= right["x"] + 1
    assert abs(left["y"] - right["y"]) < 2
    shown.shot("compared")


def test_a_click_picks_neuron_and_feature(shown, runs):
    from neural_introspection.toy.explorer import pair_at, pair_words
    from neural_introspection.toy.model import single_feature_activations
    shown.set(value="0.03")
    net = open_sweep(runs, "LR1-smoke-steps-10-values-0.003-0.03").network(.03)
    shown.page.wait_for_function("plot => plot.data[0].z.length === 128", arg=shown.plot("Neurons by feature"))
    for row, column in ((40, 20), (3, 50)):
        shown.click_cell(row, column)
        neuron, feature = pair_at(net, row, column, (128, 64))
        shown.status(pair_words(net, neuron, feature)).wait_for()
        assert (shown.control("neuron").input_value(), shown.control("feature").input_value()) == (str(neuron), str(feature))
    shown.page.wait_for_function("([plot, words]) => plot.layout.annotations[1].text === words", arg=[shown.pair, f"All neurons, to feature {feature}"])
    drawn, told = shown.pair.evaluate("plot => [0, 2].map(i => Array.from(plot.data[i].y))")
    acts = single_feature_activations(net)
    assert np.allclose(np.sort(drawn), acts[:, neuron].sort().values)
    assert np.allclose(np.sort(told), acts[feature].sort().values)
    shown.shot("picked")


def test_neuron_feature_and_step_are_chosen_by_keyboard(shown, runs):
    from neural_introspection.toy.explorer import pair_words
    result = open_sweep(runs, "LR1-smoke-steps-10-values-0.003-0.03")
    shown.set(neuron="5", feature="6")
    shown.status(pair_words(result.network(.03), 5, 6)).wait_for()
    assert shown.options("step")[:2] == ["1", "2"]
    assert shown.options("step")[-1] == "1,024"
    shown.set(step="1")
    shown.status(pair_words(result.network(.03, step=1), 5, 6)).wait_for()   # the same neuron, at the start
    shown.set(value="0.003")
    shown.status(pair_words(result.network(.003, step=1), 5, 6)).wait_for()
    shown.set(run="K1-smoke-steps-9-values-8-2048-16")                        # other widths: another pair

    def eight_neurons():   # the run's own first value may come after it is chosen
        if shown.plot("Neurons by feature").evaluate("plot => plot.data[0].z.length") == 8: return True
        shown.set(value="8")

    eventually(shown.page, eight_neurons)
    shown.set(neuron="999")                                                   # the box ends at the last
    shown.status("Neuron 7 ").wait_for()


def test_all_is_readable_and_labelled(shown):
    assert all(shown.panel.get_by_role("status").nth(i).evaluate(CONTRAST) >= 4.5 for i in range(2))
    unlabelled = shown.panel.evaluate("panel => [...panel.querySelectorAll('input, select, textarea')].filter(box => !box.labels.length && !box.getAttribute('aria-label')).length")
    assert unlabelled == 0
    shown.page.set_viewport_size(dict(width=760, height=1250))
    shown.page.wait_for_function("panel => panel.getBoundingClientRect().width < 470", arg=shown.panel.element_handle())
    shown.shot("narrow")
    shown.page.set_viewport_size(dict(width=1400, height=1250))


def test_a_page_that_is_loaded_anew_shows_the_present_state(shown, runs):
    "JupyterLab asks the kernel for it; nothing is run again."
    words = ("K1: by neurons", "K1-smoke", "Neurons by feature")
    seen = {w: shown.plot(w).evaluate(DATA) for w in words} | {"pair": shown.pair.evaluate(DATA)}
    assert [name for name, *_ in seen["K1: by neurons"][::3]] == ["8", "16", "2048"]
    shown.page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    shown.page.wait_for_function("() => !window.jupyterapp.shell.currentWidget.context.model.dirty")
    shown.page.reload()
    shown.panel.wait_for(timeout=OPEN * 1000)
    eventually(shown.page, lambda: {w: shown.plot(w).evaluate(DATA) for w in words} | {"pair": shown.pair.evaluate(f"plot => plot.data && ({DATA})(plot)")} == seen, TRAINED)
    shown.status("Neuron 7 ").wait_for()
    shown.shot("reloaded")


def test_a_cell_that_is_run_again_shows_what_is_changed_later(shown):
    "The views that were there before are gone, and do not stand in the way of the new ones."
    for _ in range(2):   # the explorer in a second cell; then that again
        shown.page.evaluate("""async () => { const notebook = window.jupyterapp.shell.currentWidget.content;
          notebook.activeCellIndex = 2; notebook.activeCell.model.sharedModel.setSource("explorer"); await window.jupyterapp.commands.execute("notebook:run-cell"); }""")
    shown.page.wait_for_function("() => document.querySelectorAll('.js-plotly-plot').length === 10 && [...document.querySelectorAll('.js-plotly-plot')].every(plot => plot.querySelector('.main-svg'))", timeout=CELLS * 1000)
    shown.set(neuron="3")
    shown.page.wait_for_function("() => [...document.querySelectorAll('.js-plotly-plot')].filter(plot => plot.layout.annotations?.[0]?.text === 'Neuron 3, to every feature').length === 2")


def test_nothing_was_asked_of_another_machine_and_console_has_no_error(shown): nothing_elsewhere(shown.seen)


# A browser that reads plotly's code only when it is told to.
HELD = """() => { const create = URL.createObjectURL;
  URL.createObjectURL = blob => create(blob.size > 1e6 ? new Blob(["await new Promise(done => { globalThis.readPlotly = done; });\\n", blob], {type: blob.type}) : blob); }"""
DRAWN = "plots => plots.length > 3 && plots.every(plot => plot.querySelector('.main-svg') && (%s)(plot))" % FITTED


def test_make_explorer_serves_the_same_folder(browser, shown, runs, tmp_path):
    "After the tests in JupyterLab, whose sweeps it shows. What is asked before plotly is there is not lost."
    pytest.importorskip("voila", reason="needs Voila: install the extra dev")
    from neural_introspection.toy.explorer import pair_at, pair_words
    env = lab_environment(tmp_path) | dict(TOYS=os.path.relpath(runs, ROOT))
    context, seen = browser.new_context(viewport=dict(width=1300, height=1300)), Seen()
    watch(context, seen)
    page = context.new_page()
    page.add_init_script(f"({HELD})()")
    page.set_default_timeout(CELLS * 1000)   # a page that is opened while other tests work
    server, url = serve_voila(tmp_path, env, "explorer")
    voila = Shown(page, seen, shown.shots, "voila")
    try:
        wait_open(url, server, tmp_path / "voila.log")
        page.goto(url)
        voila.control("run").wait_for()
        voila.set(run="LR1-smoke-steps-10-values-0.003-0.03", value="0.03")
        net = open_sweep(runs, "LR1-smoke-steps-10-values-0.003-0.03").network(.03)
        voila.status("LR1 (learning rate").wait_for()
        page.wait_for_function("() => globalThis.readPlotly && (globalThis.since ??= performance.now()) + 2500 < performance.now()")   # anywidget gives up on what takes two seconds
        assert page.locator(".js-plotly-plot").count() == 0   # the words are there, plotly is not
        page.evaluate("() => globalThis.readPlotly()")
        page.wait_for_function("() => (%s)([...document.querySelectorAll('.js-plotly-plot')])" % DRAWN)
        assert voila.plot("Neurons by feature").evaluate("plot => plot.data[0].z.length") == 128
        voila.click_cell(10, 12)
        neuron, feature = pair_at(net, 10, 12, (128, 64))
        voila.status(pair_words(net, neuron, feature)).wait_for()
        page.wait_for_function("([plot, words]) => plot.layout.annotations[1].text === words", arg=[voila.pair, f"All neurons, to feature {feature}"])
        voila.shot("picked")
        nothing_elsewhere(seen)
    finally:
        voila.shot("last")
        context.close()
        stop_voila(server)
