"""Python processes that need no ten seconds for their imports: `python warm.py SOCKET` has done them, and forks.

Who connects sends what `python` is asked (words, folder, environment) and its open files; a fork becomes that.
It is told the fork's process id, and its exit code in the end; the fork is killed when who asked is gone. The server
ends with the last connection. Ask it through `shell.Forked`, or `python shell.py SOCKET ...` as if that were Python.
"""
# ruff: noqa: E402, F401
import gc

gc.disable()   # a fifth of the time of all these imports

import atexit
import contextlib
import fcntl
import itertools
import json
import os
import random
import runpy
import selectors
import signal
import socket
import sys
import tempfile
import threading
import types

import datasketch
import ipykernel.ipkernel
import jupyter_client.session
import scipy.stats
import sklearn.linear_model
import torch._dynamo   # with the first optimizer
import tqdm.asyncio
import tqdm.auto
import tyro
import xarray
import zarr
from neural_introspection import cli
from neural_introspection.analysis import agent
from neural_introspection.antitraining import AntitrainPanel, run_antitrain
from neural_introspection.introspection import atlas, pipeline
from neural_introspection.models import load_model
from neural_introspection.toy import sweeps
from neural_introspection.tracing import TraceableNN
from plotly.io import renderers
from plotly.graph_objects import FigureWidget   # brings nbformat, and a grammar that takes seconds

load_model("pocket", device="cpu")  # brings transformer_lens and what it needs
gc.collect()
gc.freeze()   # else the first collection of a fork copies all of it
gc.enable()


def receive(connection):
    "(what is asked, open files) of a new connection; {} asks for nothing but that the server stays."
    head, files, *_ = socket.recv_fds(connection, 8, 250)
    with connection.makefile("rb") as rest: return json.loads(rest.read(int(head or 0)) or "{}"), files


def become(asked, files):
    "Be the Python that was asked for, to its end."
    high = [fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, 300) for file in files]
    for file, number in zip(high, asked["files"]): os.dup2(file, number)   # over what the server has there
    for file in {*high, *files} - {*asked["files"]}: os.close(file)
    os.setsid()
    os.environ.clear()
    os.environ.update(asked["env"])
    os.chdir(asked["cwd"])
    os.nice(asked["nice"])
    signal.signal(signal.SIGINT, signal.default_int_handler)   # a background job would ignore Ctrl-C
    random.seed()
    tempfile.tempdir = None
    exec(asked["first"], {})
    if not any("ipykernel" in word for word in asked["words"]):   # bars of a kernel go to stdout
        tqdm.auto.tqdm = tqdm.asyncio.tqdm_asyncio
    if "PLOTLY_RENDERER" in os.environ: renderers.default = os.environ["PLOTLY_RENDERER"]
    kind, sys.argv, sys.path[0] = None, list(itertools.dropwhile({"-u", "-B"}.__contains__, asked["words"])), ""
    if sys.argv[0] in ("-c", "-m"): kind, *sys.argv = sys.argv
    if kind == "-m": runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        code, sys.argv[0], sys.modules["__main__"] = sys.argv[0], "-c", types.ModuleType("__main__")
        exec(code, vars(sys.modules["__main__"]))
    else:
        sys.path[0] = os.path.dirname(os.path.abspath(sys.argv[0]))
        runpy.run_path(sys.argv[0], run_name="__main__")


def end(run, *args):
    "Run this and end as Python ends: its exit code and its last words, threads waited for, exit handlers run."
    code, stopped = 0, False
    try: run(*args)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        if not isinstance(error.code, int | None): print(error.code, file=sys.stderr)
    except BaseException as error:
        sys.excepthook(*sys.exc_info())
        code, stopped = 1, isinstance(error, KeyboardInterrupt)
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try: stream.flush()
        except OSError: code = 120
    if stopped:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(code)


def serve(path):
    "Fork for whoever asks, until nobody is left; returns in the forks, with what is asked of them."
    listener, selector, forks = socket.socket(socket.AF_UNIX), selectors.DefaultSelector(), {}
    ended, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    listener.bind(path)
    listener.listen(50)
    for file in (listener, ended): selector.register(file, selectors.EVENT_READ)
    print("ready", flush=True)
    while True:
        for key, _ in selector.select():
            if key.fileobj is listener:
                connection = listener.accept()[0]
                asked, files = receive(connection)
                if asked and not (pid := os.fork()):
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    sockets = [key.fileobj for key in selector.get_map().values() if key.fileobj != ended]
                    for file in sockets: file.close()
                    connection.close()
                    selector.close()
                    os.close(ended)
                    os.close(wake)
                    return asked, files
                if asked: forks[pid] = connection
                with contextlib.suppress(OSError): connection.sendall(b"%d\n" % (pid if asked else 0))
                for file in files: os.close(file)
                selector.register(connection, selectors.EVENT_READ)
            elif key.fileobj == ended:
                os.read(ended, 1000)
                for pid in list(forks):
                    if (found := os.waitpid(pid, os.WNOHANG))[0]:
                        code = os.waitstatus_to_exitcode(found[1])
                        with contextlib.suppress(OSError): forks[pid].sendall(b"%d\n" % code)
                        del forks[pid]
            else:   # who asked is gone
                for pid, connection in forks.items():
                    if connection is key.fileobj: os.killpg(pid, signal.SIGKILL)
                selector.unregister(key.fileobj)
                key.fileobj.close()
        if len(selector.get_map()) == 2 and not forks: return os.unlink(path)


if __name__ == "__main__" and (asked := serve(sys.argv[1])): end(become, *asked)
