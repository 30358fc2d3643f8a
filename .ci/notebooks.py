"""Every notebook through nbdev's own test runner, in parallel. In a module of its own, because the runner replaces `__main__`."""
from checks import say
from fastcore.parallel import parallel
from joblib.externals.loky import get_reusable_executor
from modules import ROOT
from nbdev.config import get_config
from nbdev.doclinks import nbglob
from nbdev.test import test_nb

WORKERS = 2


def notebooks():
    "The notebooks to test: all, less those beside a file named .notest."
    return [p.absolute() for p in sorted(nbglob(as_path=True)) if not (p.parent / ".notest").exists()]


def run_notebook(path):
    "Run one notebook as nbdev_test does; returns its name, whether it passed, and its seconds."
    ok, seconds = test_nb(path, skip_flags=get_config().tst_flags.split(), basepath=ROOT)
    get_reusable_executor().shutdown()   # joblib's idle workers would keep this process from ending for five minutes
    name = str(path.relative_to(ROOT))
    say(f"{'ok    ' if ok else 'FAILED'} {seconds:5.1f} s  {name}")
    return name, ok, seconds


def notebook_results(paths):
    "The result of every notebook; where one kills its process, that is one failure more."
    if not paths: return []
    say(f"{len(paths)} notebooks, {WORKERS} at a time")
    # The last pages take longest: they go first, so that no process waits for them at the end.
    try: return list(parallel(run_notebook, paths[::-1], n_workers=WORKERS))
    except Exception as e:
        say(f"FAILED the notebooks stopped: {type(e).__name__}: {e}")
        return [("one of the notebooks killed its process", False, 0.0)]
