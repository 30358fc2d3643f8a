"""What the processes of `shell.Forked` begin with: a command's slowest imports, done once."""
# ruff: noqa: F401
from neural_introspection import cli
from neural_introspection.analysis import agent
from neural_introspection.antitraining import run_antitrain
from neural_introspection.introspection import atlas, pipeline
from neural_introspection.models import load_model
from neural_introspection.toy import sweeps

load_model("pocket", device="cpu")  # brings transformer_lens and what it needs
