"""What the browser tests share: one JupyterLab, a Voila server of their own, and what is asked of the browser there."""
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

from conftest import ROOT
from shell import warm_kernels

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
         "--disable-component-update --disable-sync").split()
SETTINGS = {"apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False}}  # else Lab asks whether it may
TRACE = "digits.zarr"   # in the folder of a lab: the trace that its kernels explore
WARM = dict(display_name="warm", language="python", name="warm")   # the kernel of `start_lab` that is a fork of warm.py
START, OPEN, CELLS, RUN, CLICK = 80, 80, 200, 90, 30  # the most seconds for the server, the page, all cells, one run, one step
# What Lab itself knows of the notebook: the state of its kernel and the outputs of its code cells.
STATE = """() => {
  const panel = window.jupyterapp.shell.currentWidget, code = panel.content.widgets.filter(c => c.model.type === "code");
  const cells = code.map(c => ({source: c.model.sharedModel.source, count: c.model.executionCount, outputs: c.model.outputs.toJSON()}));
  return {kernel: panel.sessionContext.session?.kernel?.status, cells: cells.filter(c => c.source.trim())};
}"""
READY = """path => { const p = window.jupyterapp?.shell.currentWidget;
  const open = p?.context?.path === path && p.content?.widgets?.length > 2;
  return open && p.sessionContext.isReady && p.sessionContext.session?.kernel?.status === "idle"; }"""
# End the kernel of the open notebook.
END = """async () => { const app = window.jupyterapp, id = app?.shell.currentWidget?.sessionContext?.session?.id;
  if (id) await app.serviceManager.sessions.shutdown(id); }"""
RUN_ALL = "() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }"
DONE = """() => {
  const panel = window.jupyterapp.shell.currentWidget, models = panel.content.widgets.map(c => c.model);
  const code = models.filter(m => m.type === "code" && m.sharedModel.source.trim());
  const failed = code.some(m => {
    for (let i = 0; i < m.outputs.length; i++) if (m.outputs.get(i).type === "error") return true; });
  const kernel = panel.sessionContext.session?.kernel?.status;
  return failed || kernel === "dead" || (kernel === "idle" && code.every(m => m.executionCount !== null)); }"""
FITTED = "plot => plot._fullLayout && Math.abs(plot._fullLayout.width - plot.clientWidth) <= 1"   # a live figure is as wide as its place
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
# Where a cell is on the screen.
CELL = """(plot, [line, column]) => { const {xaxis, yaxis} = plot._fullLayout, box = plot.getBoundingClientRect();
  return [box.x + xaxis._offset + xaxis.l2p(column), box.y + yaxis._offset + yaxis.l2p(line)]; }"""


@dataclass
class Seen:
    "What the browser did and said."
    addresses: list = field(default_factory=list)  # of every request and websocket
    errors: list = field(default_factory=list)     # console errors and uncaught exceptions


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


def with_warm_kernels(folder, env, name="python3"):
    "An environment in which kernels.py has kernels of this name that are forks of warm.py, made in `folder`."
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [env.get("PYTHONPATH")])])
    return env | dict(WARM_KERNELS=str(warm_kernels(folder / "kernels", name)), PYTHONPATH=path)


def start_lab(folder, env):
    """A JupyterLab on a free port of 127.0.0.1, for folder/nbs. Its kernels: `python3`, a new Python as a user's, and
    `warm`, forks of warm.py.

    No language server reads the notebooks: basedpyright of the dev extra would."""
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", "--port=0", f"--ServerApp.root_dir={folder / 'nbs'}",
               "--LabApp.expose_app_in_browser=True", "--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
               "--LanguageServerManager.autodetect=False", "--ServerApp.kernel_spec_manager_class=kernels.WarmKernels"]
    with open(folder / "lab.log", "w") as log:
        return subprocess.Popen(command, cwd=folder, env=with_warm_kernels(folder, env, "warm"), stdout=log,
                                stderr=subprocess.STDOUT, start_new_session=True)


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


@dataclass
class Lab:
    "A JupyterLab, and the browser's context in which its notebooks are opened."
    folder: Path   # its notebooks are in `nbs`, temporary files of its kernels in `temp`
    url: str       # with a place for the path below it
    context: object
    seen: Seen     # since the present notebook was opened
    shots: Path
    page: object = None   # of the present notebook

    @contextlib.contextmanager
    def notebook(self, path, height, width=1400):
        """The notebook of this path below `nbs`, on a page and in a workspace of its own: opened, all cells run. Page and
        kernel end afterwards."""
        self.seen.addresses.clear()
        self.seen.errors.clear()
        name = Path(path).stem
        self.page = page = self.context.new_page()
        page.set_default_timeout(CLICK * 1000)
        page.set_viewport_size(dict(width=width, height=height))
        try:
            page.goto(self.url.format(f"lab/workspaces/{name}/tree/{path}"), timeout=OPEN * 1000)
            page.wait_for_function(READY, arg=path, timeout=OPEN * 1000)
            page.evaluate(RUN_ALL)
            page.wait_for_function(DONE, timeout=CELLS * 1000, polling=250)
            yield
        finally:
            page.screenshot(path=self.shots / f"{name}-last.png")
            page.evaluate(END)
            page.close()


@contextlib.contextmanager
def lab_in(browser, folder, shots):
    "A `Lab` whose files are in `folder`. Its server is gone afterwards."
    (folder / "nbs").mkdir()
    env = lab_environment(folder) | dict(NI_TRACE=str(folder / TRACE))
    server = start_lab(folder, env)
    context, seen = browser.new_context(), Seen()
    watch(context, seen)
    try: yield Lab(folder, server_url(folder, server) + "{}?token=" + env["JUPYTER_TOKEN"], context, seen, shots)
    finally:
        context.close()
        stop(server)


def write_notebook(path, sources):
    "A notebook with these code cells, for a warm kernel."
    empty = dict(cell_type="code", metadata={}, outputs=[], execution_count=None)
    cells = [empty | dict(id=f"cell{i}", source=source) for i, source in enumerate(sources)]
    path.write_text(json.dumps(dict(cells=cells, metadata=dict(kernelspec=WARM), nbformat=4, nbformat_minor=5)))


@contextlib.contextmanager
def notebook_in_lab(lab, name, sources, height, make):
    """What `make` makes of (page, what was seen, folder of screenshots): a notebook of these cells, opened in the lab, all
    cells run."""
    write_notebook(lab.folder / "nbs" / f"{name}.ipynb", sources)
    with lab.notebook(f"{name}.ipynb", height): yield make(lab.page, lab.seen, lab.shots)


def nothing_elsewhere(seen):
    "No other machine was asked for anything, and the browser's console has no error."
    elsewhere = {a for a in seen.addresses if urlsplit(a).scheme not in ("data", "blob") and urlsplit(a).hostname != "127.0.0.1"}
    assert len(seen.addresses) > 10
    assert elsewhere == set()
    assert any(a.startswith("ws://127.0.0.1") for a in seen.addresses)
    assert seen.errors == []


def eventually(page, ready, seconds=CLICK):
    "Wait until something is so on the page: what the kernel says is told before it is drawn."
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, "the page does not show what was asked for"
        page.wait_for_timeout(100)   # each question costs the page time


def hover_at(page, place, label):
    """Hover over a place, a function that says where it is by now, until its label is seen: a figure that is drawn
    again moves, and loses the label. Returns where it was."""
    def seen():
        x, y = place()
        page.mouse.move(x - 1, y)
        page.mouse.move(x, y)
        page.wait_for_timeout(200)   # Plotly waits, too
        return label.count() and label.first.is_visible() and tuple(place()) == (x, y)
    eventually(page, seen)
    return place()


def change_theme(page, name):
    """Change Lab's colours: Light or Dark. Returns when Lab's splash is gone, too: two changes within its 200 ms would
    have Lab remove it twice, which is an error."""
    page.evaluate("name => { window.jupyterapp.commands.execute("
                  "'apputils:change-theme', {theme: `JupyterLab ${name}`}); }", name)
    page.wait_for_function("""name => document.body.dataset.jpThemeName === `JupyterLab ${name}`
      && !document.getElementById("jupyterlab-splash")""", arg=name)


def shoot(page, path, **options):
    "A screenshot, where they are wanted: in the folder that NI_SCREENSHOTS names."
    if "NI_SCREENSHOTS" in os.environ: page.screenshot(path=path, **options)


def expect_idle(start, cancel):
    "The two buttons as they are while nothing is under way; they follow the words of the status by a moment."
    from playwright.sync_api import expect
    expect(start).to_be_enabled()
    expect(cancel).to_be_disabled()


def note_error(seen, message):
    """Note an error of the console, with the address it is about. One is jupyter_server's own: it answers 500 when it
    lists its kernels while one of them starts (`last_activity` is None), and is asked again."""
    if message.type != "error": return
    about = urlsplit(message.location.get("url", "")).path
    if "500" in message.text and about == "/api/kernels": return
    seen.errors.append(f"{message.text} {about}".strip())


def watch(context, seen):
    "Note every request, websocket, console error and uncaught exception of the browser."
    context.on("request", lambda r: seen.addresses.append(r.url))
    context.on("page", lambda page: page.on("websocket", lambda socket: seen.addresses.append(socket.url)))
    context.on("console", lambda m: note_error(seen, m))
    context.on("weberror", lambda e: seen.errors.append(str(e.error)))


def serve_voila(folder, env, what="dashboard"):
    "`make dashboard` (or another) on a free port of 127.0.0.1: its process and address. Nothing is installed: what is there counts as up to date."
    with socket.create_server(("127.0.0.1", 0)) as free: port = free.getsockname()[1]
    flags = f"--no-browser --port={port} --VoilaConfiguration.kernel_spec_manager_class=kernels.WarmKernels"
    command = ["make", "-s", "-C", str(ROOT), "-o", ".venv/.ready", f"BIN={Path(sys.executable).parent}",
               what, f"VOILA_FLAGS={flags}"]
    with open(folder / "voila.log", "w") as log:
        server = subprocess.Popen(command, env=with_warm_kernels(folder, env), stdout=log,
                                  stderr=subprocess.STDOUT, start_new_session=True)
    return server, f"http://127.0.0.1:{port}/"


def stop_voila(server):
    "Ctrl-C to make and to what it started; by force if it does not go."
    os.killpg(server.pid, signal.SIGINT)
    try: server.wait(15)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait(5)


def wait_open(url, server, log):
    "Wait until somebody listens."
    deadline = time.monotonic() + START
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urlopen(url + "voila/static/", timeout=5): return
        except URLError as error:
            if hasattr(error, "code"): return   # an answer, whatever it says
        except OSError: pass
        time.sleep(.1)
    raise AssertionError("Voila did not start:\n" + log.read_text()[-3000:])
