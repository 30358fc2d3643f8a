"""Every notebook through nbdev's own test runner, and the checks, in parallel.

In a module of its own, because the runner replaces `__main__`.
"""
from checks import CHECKS, run_check, say
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


def run_job(job):
    "The result of a check, by its name, or of a notebook."
    return run_check(job) if job in CHECKS else run_notebook(job)


def results(paths, checks=()):
    "The result of every notebook and check; where a notebook kills its process, that is one failure more."
    # The last pages take longest, and so does the last check: they go first, so that none is waited for at the end.
    jobs = [*reversed(checks), *reversed(paths)]
    if not jobs: return []
    say(f"{len(paths)} notebooks and {len(checks)} checks, {WORKERS} at a time")
    try: return list(parallel(run_job, jobs, n_workers=WORKERS))
    except Exception as e:
        say(f"FAILED the notebooks stopped: {type(e).__name__}: {e}")
        return [("one of the notebooks killed its process", False, 0.0)]
