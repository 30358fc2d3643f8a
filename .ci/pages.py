"""The notebooks as nbdev prepares them for the site, and what pandoc makes of them. Quarto is not needed for any of this."""
import ast
import gc
import json
import re
import subprocess
import tempfile
from html.parser import HTMLParser
from pathlib import Path

import nbdev.doclinks
import pypandoc
import yaml
from nbdev.config import get_config
from nbdev.quarto import nbdev_sidebar, refresh_quarto_yml
from nbdev.serve import proc_nbs

from modules import PACKAGE, module_files, parse

ROOT = Path(__file__).resolve().parent.parent
FENCE = "```"


def public_names():
    "The names that a page shows with a heading of their own, by its path on the site: those in its module's `__all__`."
    found = {}
    for path in module_files():
        assigned = [n for n in parse(path).body if isinstance(n, ast.Assign)]
        lists = [n.value for n in assigned if getattr(n.targets[0], "id", "") == "__all__"]
        if lists and isinstance(lists[0], ast.List):
            found[path.relative_to(ROOT / PACKAGE).with_suffix(".html").as_posix()] = set(ast.literal_eval(lists[0]))
    return found


def link_public_names():
    "Have nbdev make links of public names only: private ones (`#| exporti`) stand on no page."
    public, site, doc = public_names(), site_url(), nbdev.doclinks.NbdevLookup.doc
    def public_doc(self, symbol):
        link = doc(self, symbol)
        page, _, name = (link or "").removeprefix(site).partition("#")
        return link if page not in public or not name or name.split(".")[0] in public[page] else None
    nbdev.doclinks.NbdevLookup.doc = public_doc


def process():
    "Prepare all notebooks as nbdev does before it calls Quarto; returns the folder with the results."
    link_public_names()
    refresh_quarto_yml()
    nbdev.doclinks._build_modidx()
    nbdev_sidebar.__wrapped__()
    folder = Path(proc_nbs(n_workers=0, force=True))
    gc.freeze()   # at exit each page's IPython shell collects all garbage: four minutes for 160 pages without this
    return folder


def read_pages(folder):
    "The prepared notebooks in `folder`, by path relative to it."
    paths = sorted(p for p in folder.rglob("*.ipynb"))
    return {p.relative_to(folder).as_posix(): read_page(p) for p in paths}


def read_page(path):
    "One prepared notebook, without the key that nbdev adds to show_doc cells and with the counts that pandoc insists on."
    page = json.loads(path.read_text(encoding="utf-8"))
    for cell in page["cells"]:
        cell.pop("has_sd", None)
        for output in cell.get("outputs", []):
            if "execution_count" in output: output["execution_count"] = 1
    return page


def text(source):
    "A notebook's text field, which is a string or a list of lines, as a string."
    return source if isinstance(source, str) else "".join(source)


def front_matter(page):
    "The title, description and so on of a prepared notebook."
    first = page["cells"][0] if page["cells"] else {"cell_type": ""}
    return yaml.safe_load(text(first["source"]).strip().strip("-")) or {} if first["cell_type"] == "raw" else {}


def pandoc(source, *args):
    "What pandoc makes of `source`; a warning is an error."
    command = [pypandoc.get_pandoc_path(), "--fail-if-warnings", "--wrap=none", *args]
    done = subprocess.run(command, input=source, capture_output=True, text=True, encoding="utf-8")
    if done.returncode or done.stderr.strip(): raise ValueError(f"pandoc says: {done.stderr.strip()}")
    return done.stdout


# One pandoc for many sources, as starting it takes longer than a page; its warnings follow the number of their source.
CONVERT = r"""
local found = {}
for i, source in ipairs(pandoc.json.decode(io.read("a"), false)) do
  io.stderr:write("\n\0", i, "\n")
  local read = pandoc.read(source, arg[1])
  found[i] = pandoc.write(read, "html", pandoc.WriterOptions{wrap_text = "none", highlight_method = "none"})
end
io.write(pandoc.json.encode(found))
"""


def pandoc_html(sources, kind):
    "What pandoc makes of each of the sources of this kind, `markdown` or `ipynb`: its HTML and its warnings."
    with tempfile.TemporaryDirectory() as folder:
        (script := Path(folder) / "convert.lua").write_text(CONVERT)
        command = [pypandoc.get_pandoc_path(), "lua", script, kind]
        done = subprocess.run(command, input=json.dumps(sources), capture_output=True,
                              text=True, encoding="utf-8")
    if done.returncode: raise ValueError(f"pandoc fails: {done.stderr[-2000:].strip()}")
    warnings = [part.partition("\n")[2].strip() for part in done.stderr.split("\0")[1:]]
    return list(zip(json.loads(done.stdout), warnings, strict=True))


def fenced(body, kind=""): return f"{FENCE}{kind}\n{body.rstrip()}\n{FENCE}"


def output_markdown(output):
    "One output as markdown: its own markdown or HTML where it has one, else its text. Scripts and styles are left out."
    if output["output_type"] == "stream": return fenced(text(output["text"]))
    data = {kind: text(value) for kind, value in output.get("data", {}).items() if not kind.endswith("json")}
    if "text/markdown" in data: return data["text/markdown"]
    if "text/html" in data: return re.sub(r"<(style|script)\b.*?</\1>", "", data["text/html"], flags=re.S)
    return fenced(data["text/plain"]) if "text/plain" in data else ""


def cell_markdown(cell):
    "One cell as markdown, as Quarto would show it."
    source = text(cell["source"])
    if cell["cell_type"] == "markdown": return source
    if cell["cell_type"] != "code": return ""
    lines = [line for line in source.splitlines() if not line.startswith("#|")]
    shown = [fenced("\n".join(lines), "python")] if lines and "#| echo: false" not in source else []
    return "\n\n".join(shown + [output_markdown(o) for o in cell["outputs"]])


def page_markdown(page):
    "A prepared notebook as markdown, without its title."
    return "\n\n".join(filter(None, map(cell_markdown, page["cells"])))


class Anchors(HTMLParser):
    "Collects what a page can be linked by (`ids`) and what it links to (`links`)."
    def __init__(self):
        super().__init__()
        self.ids, self.links = set(), []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids |= {attrs[k] for k in ("id", "name") if attrs.get(k)}
        self.links += [attrs[k] for k in ("href", "src") if attrs.get(k) and tag in ("a", "img")]


def anchors(html):
    "The ids and links of a page, from its HTML."
    found = Anchors()
    found.feed(html)
    return found


def output_name(name, page):
    "The web page that a notebook becomes: tutorials/first.ipynb gives tutorials/first.html, core/50_files.ipynb gives files.html."
    return (Path(name).parent / front_matter(page).get("output-file", Path(name).stem + ".html")).as_posix()


def site_url():
    "The address of the published site, with a slash at its end."
    cfg = get_config()
    return f"{cfg.doc_host}{cfg.doc_baseurl}".rstrip("/") + "/"
