"""The neuron browser as a user meets it, in a real JupyterLab: steps, a text that lights up, wrong addresses, hostile texts.

Every text that is shown is also looked for in what the library itself says, and a hostile one is in the index as well as typed.
Nothing may be asked of another machine, and the browser's console stays free of errors.
"""
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from lab import CONTRAST, STATE, Seen, change_theme, eventually, notebook_in_lab, nothing_elsewhere, shoot

HOSTILE = "<img src=x onerror=alert(1)> and <script>alert(2)</script>"
TEXT = "Return a list of the items, or None if there are none."
SETTLED = 20  # the most seconds until the page shows what was asked for
START_CELLS = [
    "from neural_introspection.analysis import NeuronBrowser\nfrom neural_introspection.data import load_texts",
    f"texts = [*load_texts('python-docs', 60, seed=0).texts, {HOSTILE!r}]",
    f"browser = NeuronBrowser(texts=texts, layer=1, text={TEXT!r})\nbrowser",
    "browser.wait()\nframe = browser.page.index.frame\nprint('loudest on the hostile text:', frame.neuron[frame.top_text == len(texts) - 1].iloc[0])"]

# The tokens of the lit-up text with their colours, as the browser has them.
LIT = "part => [...part.querySelectorAll('span[title]')].map(e => [e.textContent, getComputedStyle(e).backgroundColor])"
# Resolves when the observer has seen the address and the ablation with its comparison: the milliseconds since the key.
STEP = """([panel, old]) => new Promise((done, fail) => { const start = performance.now();
  const address = () => panel.querySelector("[role=status] b")?.textContent, ready = () => address() !== old && /\\d to -?\\d/.test(panel.querySelector("[aria-label=Ablation]").textContent);
  const look = () => ready() ? done(performance.now() - start) : performance.now() - start > 20000 ? fail(new Error("no step")) : requestAnimationFrame(look);
  [...panel.querySelectorAll("button")].find(b => b.textContent.includes("Next")).click(); look(); })"""


@dataclass
class Shown:
    "The panel on an open page."
    page: object
    seen: Seen
    shots: Path

    @property
    def panel(self): return self.page.locator(".jp-OutputArea-output", has=self.page.get_by_role("button", name="Previous"))
    def part(self, title): return self.panel.get_by_role("region", name=title, exact=True)
    def box(self, label): return self.panel.get_by_label(label, exact=True)
    def button(self, name): return self.panel.get_by_role("button", name=name)
    def shot(self, name): shoot(self.page, self.shots / f"browser-{name}.png")

    @property
    def address(self): return self.panel.get_by_role("status").locator("b").first.inner_text()

    def wait_step(self, old):
        "Wait until another neuron is shown, with its ablation."
        self.page.wait_for_function("([panel, old]) => panel.querySelector('[role=status] b')?.textContent !== old", arg=[self.panel.element_handle(), old])
        self.wait_compared()

    def jump(self, words):
        self.box("address").fill(words)
        self.box("address").press("Enter")

    def type(self, words):
        self.box("text").fill(words)

    def lit(self): return self.part("Text").evaluate(LIT)

    def wait_lit(self, words):
        "Wait until this text is lit up; its tokens and their colours."
        eventually(self.page, lambda: "".join(token for token, _ in self.lit()) == words, SETTLED)
        return self.lit()

    def wait_compared(self): self.part("Ablation").get_by_text(re.compile(r"\d to -?\d")).first.wait_for(timeout=SETTLED * 1000)


@pytest.fixture(scope="module")
def shown(lab):
    "A notebook with the browser, opened in JupyterLab, all cells run."
    with notebook_in_lab(lab, "browser", START_CELLS, 1500, Shown) as shown:
        shown.panel.get_by_role("status").locator("b").first.wait_for(timeout=SETTLED * 1000)
        shown.wait_compared()
        yield shown


def test_cells_run_and_a_neuron_is_shown(shown):
    state = shown.page.evaluate(STATE)
    assert [o for c in state["cells"] for o in c["outputs"] if o["output_type"] == "error"] == []
    assert all(c["count"] for c in state["cells"])
    assert re.fullmatch(r"blocks\.1\.mlp\.hook_post\[\d+\]", shown.address)
    for title in ("Text", "Contexts", "Statistics", "Logits", "Ablation"): assert shown.part(title).is_visible()
    assert "".join(token for token, _ in shown.lit()) == TEXT
    shown.shot("first")


def test_next_and_previous_change_the_neuron_and_its_contexts(shown):
    first, contexts = shown.address, shown.part("Contexts").inner_text()
    shown.button("Next").focus()
    shown.page.keyboard.press("Enter")
    shown.wait_step(first)
    second = shown.address
    assert shown.box("address").input_value() == second
    assert f"[{shown.box('neuron').input_value()}]" in second
    assert shown.part("Contexts").inner_text() != contexts
    assert "Random contexts" in shown.part("Contexts").inner_text()
    shown.button("Previous").click()
    shown.wait_step(second)
    assert shown.address == first
    assert shown.part("Contexts").inner_text() == contexts


def test_a_typed_text_lights_up(shown):
    before = shown.lit()
    shown.box("text").fill("")
    shown.box("text").press_sequentially("import os\nfor name in names: print(name)", delay=15)
    lit = shown.wait_lit("import os⏎for name in names: print(name)")
    assert lit != before
    assert len({colour for _, colour in lit}) > 3
    shown.wait_compared()
    shown.shot("typed")
    shown.box("text").fill(" ")
    shown.panel.get_by_role("alert").get_by_text("there is no text: type one.").wait_for()
    shown.type(TEXT)
    shown.panel.get_by_role("alert").wait_for(state="detached")
    shown.wait_compared()


@pytest.mark.parametrize("label, value, words", [
    ("address", "blocks.1.mlp.hook_post[9999]", "neuron 9999 is outside 0..511"),
    ("address", "blocks.9.mlp.hook_post[3]", "layer 9 is outside 0..3"),
    ("address", "nowhere <b>at all</b>", "'nowhere <b>at all</b>' is not a neuron's address"),
    ("neuron", "-3", "neuron -3 is outside 0..511"),
    ("model", "/no/such/model", "model '/no/such/model' cannot be loaded")])
def test_what_is_wrong_is_told_and_the_panel_goes_on(shown, label, value, words):
    before = shown.address
    shown.box(label).fill(value)
    shown.box(label).press("Enter")
    alert = shown.panel.get_by_role("alert")
    alert.get_by_text(words).wait_for()
    assert alert.count() == 1
    assert alert.locator("b").count() == 0
    assert shown.address == before
    if label == "model": shown.shot("refused")
    shown.button("Next").click()
    shown.wait_step(before)
    alert.wait_for(state="detached")


def test_an_address_leads_into_another_layer(shown):
    shown.jump("blocks.3.mlp.hook_post[5]")
    shown.panel.get_by_role("status").get_by_text("blocks.3.mlp.hook_post[5]").wait_for(timeout=SETTLED * 1000)
    assert shown.box("layer").evaluate("box => box.value") == "3"
    assert shown.box("neuron").input_value() == "5"
    shown.wait_compared()
    shown.box("layer").select_option("1")
    shown.panel.get_by_role("status").get_by_text("blocks.1.mlp.hook_post").wait_for(timeout=SETTLED * 1000)
    shown.wait_compared()


def test_hostile_texts_are_escaped(shown):
    shown.type(HOSTILE)
    shown.wait_lit(HOSTILE)
    shown.wait_compared()
    said = shown.page.evaluate(STATE)["cells"][-1]["outputs"][0]["text"]
    address = f"blocks.1.mlp.hook_post[{re.search(r'loudest on the hostile text: ([0-9]+)', said)[1]}]"   # the hostile text is its strongest context
    shown.jump(address)
    shown.panel.get_by_role("status").get_by_text(address).wait_for()
    line = shown.part("Contexts").locator("div > span", has_text=re.compile("<img|onerror|<script|alert"))
    line.first.wait_for()
    shown.wait_compared()
    assert shown.panel.evaluate("panel => [panel.querySelector('img'), panel.querySelector('script')]") == [None, None]
    shown.shot("hostile")
    shown.type(TEXT)
    shown.wait_lit(TEXT)
    shown.wait_compared()


def test_steps_through_the_browser(shown, capsys):
    "Displayed, and not asserted: how long it takes from the click until address and ablation are on the page."
    shown.wait_compared()
    took = [shown.page.evaluate(STEP, [shown.panel.element_handle(), shown.address]) for _ in range(20)]
    with capsys.disabled(): print(f"\na step from the click to the page: median {np.median(took):.0f} ms, slowest {max(took):.0f} ms")
    assert len(took) == 20


def test_all_is_readable_in_narrow_and_dark(shown):
    for theme in ("Dark", "Light"):
        change_theme(shown.page, theme)
        for title in ("Contexts", "Statistics", "Logits", "Ablation"): assert shown.part(title).evaluate(CONTRAST) >= 4.5, (theme, title)
        shown.shot(theme.lower())
    shown.page.set_viewport_size(dict(width=900, height=1500))
    shown.page.wait_for_timeout(300)   # until Lab has laid itself out
    width = shown.panel.bounding_box()["width"]
    for title in ("Text", "Contexts", "Statistics", "Logits", "Ablation"): assert shown.part(title).bounding_box()["width"] <= width
    assert shown.panel.evaluate("panel => panel.scrollWidth <= panel.clientWidth + 1")
    shown.shot("narrow")
    shown.part("Ablation").scroll_into_view_if_needed()
    shown.shot("narrow-below")


def test_nothing_was_asked_of_another_machine_and_console_has_no_error(shown): nothing_elsewhere(shown.seen)
