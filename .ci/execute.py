"""Execute notebooks top to bottom in a fresh kernel and store clean, small outputs: `python .ci/execute.py nbs/core/50_files.ipynb ...`.

Cells under `#| eval: false` or a flag of `tst_flags` (such as `#| slow`) are not run and keep the outputs they have;
`RUN_FLAGS="slow"` in the environment runs those of that flag.
A notebook whose cell fails is left as it was, and the exit code is 1.

Figures are stored as they describe themselves (see `neural_introspection.display.figures.Figure`): as plotly's own data type, which JupyterLab
draws without a network, and as HTML for the web site. A figure without HTML would be invisible there, so its notebook fails.
"""
import os
import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbdev.clean import nbdev_clean
from nbdev.config import get_config

TIMEOUT = 1200  # seconds for one cell
PLOTLY = "application/vnd.plotly.v1+json"
WIDGET = "application/vnd.jupyter.widget-view+json"
WIDGET_NOTE = "<em>A live control panel: run this notebook to use it.</em>"
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
BAR = re.compile(r"^[^\n|]{0,80}?(\d+%\||\d+it |0it )")
KERNEL_ENV = {
    "PLOTLY_RENDERER": "plotly_mimetype",
    "PYTHONHASHSEED": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    "JUPYTER_PREFER_ENV_PATH": "1",
}


def flags(source):
    "The nbdev directives of a cell: {'eval': 'false', 'slow': ''}."
    found = re.findall(r"^#\|[ \t]*(\w+)[ \t]*:?[ \t]*(.*)$", source, re.M)
    return {name: value.strip().lower() for name, value in found}


def is_skipped(cell, tst_flags):
    "Whether a code cell is not run: it is marked so, or it only exports."
    found = flags(cell.source)
    return found.get("eval") == "false" or bool(tst_flags & found.keys())


def is_export_call(cell):
    "Whether the cell is the export call at the end, which rewrites modules and shows nothing."
    return "nbdev_export" + "(" in cell.source


class BareFigure(Exception):
    "A plotly figure without an HTML form."


def check_figure(data):
    "`BareFigure` if a plotly output is visible in JupyterLab only."
    if PLOTLY in data and "text/html" not in data:
        raise BareFigure("a plotly figure has no HTML form, so the site would show nothing: make it with neural_introspection.display.figures")


def clean_widget(data):
    "A widget's output without the view that needs a kernel: its own HTML, a note, or None for a progress bar."
    del data[WIDGET]
    text = data.pop("text/plain", "")
    if BAR.match(text): return None
    if not data: data["text/html"] = WIDGET_NOTE
    return data


def clean_output(output):
    "The output as it is stored, or None where nothing is left to show."
    if output.output_type == "stream": return None if output.name == "stderr" else output
    data = output.get("data", {})
    if WIDGET in data and clean_widget(data) is None: return None
    check_figure(data)
    if "metadata" in output: output.metadata = nbformat.NotebookNode()
    return output


def clean_outputs(nb):
    "Drop progress bars, library noise on stderr and widget state from `nb`, in place; `BareFigure` for a figure that the site can't show."
    nb.metadata = nbformat.NotebookNode(kernelspec={"name": "python3", "display_name": "python3", "language": "python"})
    for cell in nb.cells:
        if cell.cell_type != "code": continue
        cell.outputs = [o for o in map(clean_output, cell.outputs) if o is not None]


def split_title(nb):
    "Move what follows title and subtitle to a cell of its own, in place: nbdev takes the title's cell away and would lose it."
    first = next((i for i, cell in enumerate(nb.cells) if cell.cell_type == "markdown"), None)
    if first is None or not nb.cells[first].source.startswith("# "): return
    cell = nb.cells[first]
    head, prose = re.match(r"(#[^\n]*\n*(?:>[^\n]*\n*)?)(.*)", cell.source, re.S).groups()
    if not prose or prose.startswith("- "): return
    cell.source = head.strip()
    nb.cells.insert(first + 1, nbformat.v4.new_markdown_cell(prose, id=f"{cell.id}-purpose"))


def run_cells(nb, folder, tst_flags):
    "Run the cells of `nb` in order in one fresh kernel, in place."
    client = NotebookClient(nb, timeout=TIMEOUT, kernel_name="python3", resources={"metadata": {"path": str(folder)}},
                            store_widget_state=False, record_timing=False, extra_arguments=["--log-level=ERROR"])
    with client.setup_kernel(env={**os.environ, **KERNEL_ENV}):
        for i, cell in enumerate(nb.cells):
            if cell.cell_type != "code" or is_skipped(cell, tst_flags): continue
            cell.outputs = []
            if not is_export_call(cell): client.execute_cell(cell, i)


def write(nb, path):
    "Write `nb` to `path` as nbdev_clean would leave it, in one step."
    tmp = path.with_name(f"tmp-{os.getpid()}-{path.name}")
    try:
        nbformat.write(nb, tmp)
        nbdev_clean.__wrapped__(str(tmp))
        os.replace(tmp, path)
    finally: tmp.unlink(missing_ok=True)


def execute(path, tst_flags):
    "Execute one notebook and write it back; returns the seconds it took."
    start = time.time()
    nb = nbformat.read(path, as_version=4)
    split_title(nb)
    run_cells(nb, path.parent, tst_flags)
    clean_outputs(nb)
    write(nb, path)
    return time.time() - start


def main(args):
    "Execute every notebook named in `args`; 0 if all succeeded, else 1."
    tst_flags, failed = set(get_config().tst_flags.split()) - set(os.environ.get("RUN_FLAGS", "").split()), []
    for path in map(Path, args):
        try: print(f"{path}: {execute(path.resolve(), tst_flags):.0f} s", flush=True)
        except (CellExecutionError, CellTimeoutError, DeadKernelError, BareFigure) as e:
            print(f"{path}: FAILED\n{ANSI.sub('', str(e))}", file=sys.stderr, flush=True)
            failed.append(path)
    return 1 if failed else 0


if __name__ == "__main__":
    if len(sys.argv) < 2: sys.exit("usage: python .ci/execute.py NOTEBOOK.ipynb ...")
    sys.exit(main(sys.argv[1:]))
