"""The site, checked without Quarto: what nbdev hands to it is valid, links resolve, figures are visible, the README is in step."""
import json
import posixpath
import re
from pathlib import Path

import nbformat
import pytest
import readme as readme_module
from conftest import ROOT
from pages import anchors, output_name, page_markdown, pandoc_html, read_pages, site_url, text
from shell import python
from nbdev.config import get_config

NOTEBOOKS = sorted(p.relative_to(ROOT / "nbs").as_posix() for p in (ROOT / "nbs").rglob("*.ipynb")
                   if not any(part.startswith((".", "_")) for part in p.relative_to(ROOT / "nbs").parts))
PLOTLY = "application/vnd.plotly.v1+json"
each_notebook = pytest.mark.parametrize("name", NOTEBOOKS)


@pytest.fixture(scope="session")
def pages():
    "Every notebook as nbdev prepares it for Quarto, by path."
    done = python("-c", "import sys; sys.path.insert(0, '.ci'); import pages; print(pages.process())", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return read_pages(Path(done.stdout.splitlines()[-1]))


@pytest.fixture(scope="session")
def linked(pages):
    "The ids and the links of every page."
    made = pandoc_html(list(map(page_markdown, pages.values())), "markdown")
    assert [(name, warnings) for name, (_, warnings) in zip(pages, made) if warnings] == []
    return {name: anchors(html) for name, (html, _) in zip(pages, made)}


@pytest.fixture(scope="session")
def converted(pages):
    "The HTML that pandoc makes of every page as a notebook, and its warnings."
    return dict(zip(pages, pandoc_html(list(map(json.dumps, pages.values())), "ipynb")))


@pytest.fixture(scope="session")
def html_pages(pages):
    "The notebook behind every page of the site."
    return {output_name(name, page): name for name, page in pages.items()}


def outputs(page): return [o for cell in page["cells"] for o in cell.get("outputs", [])]


def broken_link(link, name, linked, html_pages):
    "What is wrong with a link of the page `name`, or None. Other people's sites are not visited."
    source, site = get_config().git_url + "/blob/" + get_config().branch + "/", site_url()
    path, _, fragment = link.partition("#")
    if path.startswith(source): return None if (ROOT / path.removeprefix(source)).exists() else "no such file"
    if path.startswith(site): path = path.removeprefix(site) or "index.html"
    elif re.match(r"\w+:", path): return None
    else: path = posixpath.normpath(posixpath.join(posixpath.dirname(name), path)) if path else name
    target = html_pages.get(path, path)
    if target not in linked: return None if (ROOT / "nbs" / target).is_file() else "no such page"
    return None if not fragment or fragment in linked[target].ids else f"no heading of that name in {target}"


def test_every_notebook_becomes_a_page(pages):
    assert sorted(pages) == NOTEBOOKS


@each_notebook
def test_is_valid(name, pages):
    nbformat.validate(pages[name], relax_add_props=False)


@each_notebook
def test_has_no_error_output(name, pages):
    assert [o["ename"] for o in outputs(pages[name]) if o["output_type"] == "error"] == []


@each_notebook
def test_links_resolve(name, linked, html_pages):
    found = {link: broken_link(link, name, linked, html_pages) for link in linked[name].links}
    assert {link: what for link, what in found.items() if what} == {}


@each_notebook
def test_cross_references_resolve(name, pages):
    prose = [text(c["source"]) for c in pages[name]["cells"] if c["cell_type"] == "markdown"]
    source = "\n".join(text(c["source"]) for c in pages[name]["cells"])
    references = set(re.findall(r"(?<![\w`.])@((?:fig|tbl|sec|eq|lst)-[\w-]+)", "\n".join(prose)))
    labels = set(re.findall(r"\{#([\w-]+)", source)) | set(re.findall(r"^#\| label: *([\w-]+)", source, re.M))
    assert references <= labels


@each_notebook
def test_figures_are_visible_on_the_site(name, pages):
    bare = [o for o in outputs(pages[name]) if PLOTLY in o.get("data", {}) and "text/html" not in o["data"]]
    assert len(bare) == 0, "make these figures with neural_introspection.display.figures: its figures bring their HTML form"


@each_notebook
def test_pandoc_converts_without_a_warning(name, converted):
    html, warnings = converted[name]
    assert html.strip()
    assert warnings == ""


@pytest.mark.parametrize("kind", ["markdown", "ipynb"])
def test_a_warning_of_pandoc_is_seen(kind):
    sources = ["words", r"$\frac{1$", "words"]
    if kind == "ipynb":
        cells = [nbformat.v4.new_markdown_cell(s, id="a") for s in sources]
        sources = [json.dumps(nbformat.v4.new_notebook(cells=[cell])) for cell in cells]
    made = pandoc_html(sources, kind)
    assert ["[WARNING]" in warnings for _, warnings in made] == [False, True, False]
    assert all("<p>words</p>" in html and warnings == "" for html, warnings in made[::2])


def test_readme_is_in_step_with_index(pages):
    written = (ROOT / "README.md").read_text(encoding="utf-8")
    assert written == readme_module.readme(pages), "run `make readme`"


@pytest.mark.parametrize("link, wrong", [("#nowhere", "no heading"), ("99_none.ipynb", "no such page"), ("none.png", "no such page")])
def test_a_broken_link_is_seen(link, wrong, linked, html_pages):
    assert broken_link(link, "index.ipynb", linked, html_pages).startswith(wrong)
