"""Render the site into _docs with Quarto: `python .ci/docs.py`."""
import shutil
import subprocess
import sys

from pages import ROOT, process


def main():
    "Prepare the notebooks, render them and move the site to _docs; a missing Quarto is said in one sentence."
    quarto = shutil.which("quarto")
    if quarto is None:
        print("Quarto is not installed: get it from https://quarto.org/docs/get-started and run `make docs` again.", file=sys.stderr)
        return 1
    folder, site = process(), ROOT / "_docs"
    subprocess.run([quarto, "render", "--no-cache", "--no-execute"], cwd=folder, check=True)
    shutil.rmtree(site, ignore_errors=True)
    shutil.move(folder / "_docs", site)
    print(f"The site is in _docs: {len(list(site.rglob('*.html')))} pages")


if __name__ == "__main__": sys.exit(main())
