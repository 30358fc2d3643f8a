"""Every notebook through nbdev's own test runner, and the checks, in parallel.

In a module of its own, because the runner replaces `__main__`.
"""
import gc
import multiprocessing

from checks import run_check, say
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


def import_all():
    "What most pages import, once for all workers, and out of the way of their garbage collections."
    gc.disable()
    import langgraph.graph           # noqa: F401
    import nbformat                  # noqa: F401
    import neural_introspection.cli  # noqa: F401
    import plotly.graph_objects      # noqa: F401
    import scipy.stats               # noqa: F401
    import sklearn.linear_model      # noqa: F401
    import zarr                      # noqa: F401
    from neural_introspection.models import load_model
    load_model("pocket", device="cpu")   # brings transformer_lens and what it needs
    gc.collect()
    gc.freeze()
    gc.enable()


def run_checks(names, answer):
    "Send what the checks found, the last first: it takes longest."
    answer.send([run_check(name) for name in reversed(names)])


def results(paths, checks=()):
    "The result of every notebook and check; where a notebook kills its process, that is one failure more."
    if not paths and not checks: return []
    say(f"{len(paths)} notebooks and {len(checks)} checks, {WORKERS} at a time")
    ours, theirs = multiprocessing.Pipe(duplex=False)
    aside = multiprocessing.get_context("fork").Process(target=run_checks, args=(checks, theirs))
    aside.start()
    theirs.close()
    if len(paths) > 9: import_all()   # the workers are forks
    # Those of nbs/ itself and the last take longest: they go first, so that none is waited for at the end.
    ordered = sorted(reversed(paths), key=lambda path: len(path.parts))
    try: found = list(parallel(run_notebook, ordered, n_workers=WORKERS)) if paths else []
    except Exception as e:
        say(f"FAILED the notebooks stopped: {type(e).__name__}: {e}")
        found = [("one of the notebooks killed its process", False, 0.0)]
    try: return found + ours.recv()
    except EOFError: return found + [("one of the checks killed its process", False, 0.0)]
