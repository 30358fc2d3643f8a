"""The antitraining panel as a user meets it, in a real JupyterLab: a notebook is run, and the panel on it is worked with the mouse.

What the figures show is read from plotly's own data in the browser. Nothing may be asked of another machine, and the browser's
console stays free of errors.
"""
import re
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from lab import CONTRAST, FITTED, STATE, Seen, change_theme, eventually, expect_idle, hover_at, notebook_in_lab, nothing_elsewhere, shoot

START_CELLS = ["from neural_introspection.antitraining import AntitrainPanel", "panel = AntitrainPanel()\npanel", "print(panel.network.steps)"]
SETTLED = 30  # the most seconds until a button's work is done

# The numbers of a trace, null where there is none. Typed arrays have NaN there, which JSON has not.
NUMBERS = "(plot, [trace, key]) => Array.from(plot.data[trace][key]).flat().map(v => v !== null && Number.isFinite(v) ? v : null)"
COLOURS = "plot => new Set(plot.data[1].z.map(line => Array.from(line)).flat().filter(Number.isFinite)).size"
# Where a neuron's cell is on the screen.
CELL = """(plot, [line, column]) => { const {xaxis, yaxis} = plot._fullLayout, box = plot.getBoundingClientRect();
  return [box.x + xaxis._offset + xaxis.l2p(column), box.y + yaxis._offset + yaxis.l2p(line)]; }"""
# From the click on a button to the first figure that has a further point: milliseconds.
CLICK_TO_SCREEN = """([panel, name]) => new Promise((done, fail) => { const plot = panel.querySelectorAll(".js-plotly-plot")[2];
  const points = () => plot.data[0].x.length, old = points(), start = performance.now();
  const look = () => points() > old ? done(performance.now() - start) : performance.now() - start > 20000 ? fail(new Error("no new point")) : requestAnimationFrame(look);
  [...panel.querySelectorAll("button")].find(b => b.textContent.trim() === name).click(); look(); })"""
# Presses a button; resolves when the panel was busy and is so no more.
PRESS = """([panel, name]) => new Promise((done, fail) => { const find = name => [...panel.querySelectorAll("button")].find(b => b.textContent.trim() === name), train = find("Train");
  let changes = 0;
  const watcher = new MutationObserver(seen => { changes += seen.length; if (changes > 1 && !train.disabled) { watcher.disconnect(); done(); } });
  watcher.observe(train, {attributeFilter: ["disabled"]});
  setTimeout(() => fail(new Error(`${name} is not done`)), 30000);
  find(name).click(); })"""


@dataclass
class Shown:
    "The panel on the open page."
    page: object
    seen: Seen
    shots: Path

    @property
    def panel(self): return self.page.locator(".jp-OutputArea-output:has(.widget-button)", has=self.page.locator("h3", has_text=re.compile("^Antitraining, live$")))
    def button(self, name): return self.panel.get_by_role("button", name=re.compile(rf"{name}$"))
    def plot(self, i): return self.panel.locator(".js-plotly-plot").nth(i)
    def numbers(self, plot, trace, key): return self.plot(plot).evaluate(NUMBERS, [trace, key])
    def shot(self, name): shoot(self.page, self.shots / f"antitraining-{name}.png")

    @property
    def words(self): return self.panel.get_by_role("status").inner_text()
    @property
    def steps(self): return tuple(map(int, re.search(r"(\d+) training and (\d+) antitraining", self.words).groups()))
    @property
    def accuracy(self): return self.numbers(2, 0, "y")

    def set(self, name, value):
        box = self.panel.get_by_label(name, exact=True)
        if not box.is_visible(): self.panel.locator(".jupyter-widget-Collapse-header", has_text="Steps").click()
        box.fill(value)
        box.press("Tab")

    def wait_done(self, pattern=r"^Done in "):
        self.panel.get_by_text(re.compile(pattern)).first.wait_for(timeout=SETTLED * 1000)
        expect_idle(self.button("Train"), self.button("Cancel"))
        eventually(self.page, lambda: all(self.numbers(plot, 0, "x")[-1] == sum(self.steps) for plot in (1, 2)))

    def press(self, name):
        "Press a button and wait until its work is done."
        self.page.evaluate(PRESS, [self.panel.element_handle(), name])
        self.wait_done()


@pytest.fixture(scope="module")
def shown(lab):
    "A notebook with the panel, opened in JupyterLab, all cells run."
    with notebook_in_lab(lab, "panel", START_CELLS, 1250, Shown) as shown:
        shown.plot(2).locator(".main-svg").first.wait_for(timeout=SETTLED * 1000)
        shown.page.wait_for_function(FITTED, arg=shown.plot(2).element_handle(), timeout=SETTLED * 1000)
        yield shown


def test_cells_run_and_the_network_is_shown(shown):
    state = shown.page.evaluate(STATE)
    assert [o for c in state["cells"] for o in c["outputs"] if o["output_type"] == "error"] == []
    assert all(c["count"] for c in state["cells"])
    assert shown.steps == (0, 0)
    assert "no core has been measured yet" in shown.words
    assert shown.button("Cancel").is_disabled()
    assert shown.plot(0).evaluate(COLOURS) > 10
    assert shown.numbers(0, 2, "x") == []
    shown.shot("new")


def test_train_changes_grid_and_accuracy(shown, capsys):
    before = shown.numbers(0, 1, "z")
    took = shown.page.evaluate(CLICK_TO_SCREEN, [shown.panel.element_handle(), "Train"])
    with capsys.disabled(): print(f"\nfrom the click on Train to the first new figure: {took:.0f} ms")
    shown.wait_done()
    shown.page.wait_for_function("plot => Array.from(plot.data[0].y).at(-1) > .9", arg=shown.plot(2).element_handle())
    assert shown.steps == (200, 0)
    assert shown.accuracy[0] < .3
    assert len(shown.accuracy) >= 2
    assert shown.numbers(0, 1, "z") != before
    shown.shot("trained")


def test_cycles_frame_the_core_which_shrinks(shown):
    for _ in range(3): shown.press("Cycle")
    sizes = [size for size in shown.numbers(1, 1, "y") if size is not None]
    assert len(sizes) >= 3
    assert sizes[-1] < sizes[0]
    assert len(shown.numbers(0, 2, "x")) == 6 * sizes[-1]
    assert f"{sizes[-1]} of 64 neurons are the core" in shown.words
    core_random, spectators_random = (shown.numbers(2, trace, "y")[-1] for trace in (2, 1))
    assert core_random < .35 < .85 < spectators_random
    assert shown.steps == (500, 300)
    shown.shot("cycled")


def test_hover_tells_neuron_information_and_role(shown):
    shown.plot(0).scroll_into_view_if_needed()
    hover = shown.plot(0).locator(".hoverlayer .hovertext", has_text="neuron 19:")
    hover_at(shown.page, lambda: shown.plot(0).evaluate(CELL, [1, 3]), hover)
    text = hover.text_content().strip().replace("−", "-")
    assert re.fullmatch(r"neuron 19: (-?[\d.e-]+ ± [\d.e-]+ nats|dead), (core|spectator)", text), text
    shown.shot("hover")
    shown.page.mouse.move(5, 5)


def test_cancel_stops_a_long_training_and_the_panel_goes_on(shown):
    before = shown.steps[0]
    shown.set("train_steps", "1000000")
    shown.button("Train").click()
    shown.page.wait_for_function("([panel, before]) => Number(panel.querySelector('[role=status]').textContent.match(/(\\d+) training/)[1]) > before", arg=[shown.panel.element_handle(), before])
    assert all(shown.button(name).is_disabled() for name in ("Train", "Antitrain", "Cycle", "Reset"))
    shown.shot("working")
    start = time.perf_counter()
    shown.button("Cancel").click()
    shown.wait_done("^Stopped; what was complete is kept")
    assert time.perf_counter() - start < 10
    assert "Cancelled at train" in shown.panel.get_by_role("alert").inner_text()
    assert before < shown.steps[0] < 1_000_000
    stopped = shown.steps
    shown.page.wait_for_timeout(500)
    assert shown.steps == stopped   # nothing continues behind its back
    shown.set("train_steps", "20")
    shown.press("Train")
    assert shown.steps == (stopped[0] + 20, stopped[1])
    assert shown.panel.get_by_role("alert").count() == 0


def test_what_is_wrong_is_told(shown):
    shown.set("threshold", "2")
    shown.button("Cycle").click()
    shown.panel.get_by_role("alert").get_by_text("threshold is 2.0, but must be above 0 and at most 1").wait_for()
    for theme in ("Dark", "Light"):
        change_theme(shown.page, theme)
        for words in (shown.panel.get_by_role("alert"), shown.panel.get_by_role("status"), shown.panel.locator("h3")):
            assert words.locator("..").evaluate(CONTRAST) >= 4.5, theme
        shown.shot(f"refused-{theme.lower()}")
    shown.set("threshold", "0.9")
    shown.press("Antitrain")
    assert shown.panel.get_by_role("alert").count() == 0


def test_reset_makes_a_new_network(shown):
    shown.panel.locator(".jupyter-widget-Collapse-header", has_text="Network").click()
    shown.set("width", "40")
    shown.panel.get_by_text("Reset makes it").wait_for()
    shown.press("Reset")
    shown.page.wait_for_function("plot => Array.from(plot.data[0].x).length === 1", arg=shown.plot(2).element_handle())
    assert shown.steps == (0, 0)
    assert "no core" in shown.words
    assert len([v for v in shown.numbers(0, 1, "z") if v is not None]) + shown.numbers(0, 0, "z").count(0) == 40
    shown.press("Train")


def test_all_is_readable_where_it_is_narrow(shown):
    shown.page.set_viewport_size(dict(width=760, height=1250))
    shown.page.wait_for_function("panel => panel.getBoundingClientRect().width < 450", arg=shown.panel.element_handle())
    shown.press("Train")
    shown.page.wait_for_function("panel => [...panel.querySelectorAll('.js-plotly-plot')].every(plot => plot.querySelector('.main-svg').getBoundingClientRect().right <= panel.getBoundingClientRect().right + 1)", arg=shown.panel.element_handle())
    shown.panel.locator("h3").scroll_into_view_if_needed()
    shown.shot("narrow")
    assert shown.panel.evaluate("panel => panel.scrollWidth <= panel.clientWidth + 1")
    shown.plot(2).scroll_into_view_if_needed()
    shown.shot("narrow-below")
    assert shown.panel.get_by_role("status").evaluate(CONTRAST) >= 4.5


def test_nothing_was_asked_of_another_machine_and_console_has_no_error(shown): nothing_elsewhere(shown.seen)
