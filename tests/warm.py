"""What the processes of `shell.Forked` begin with: a command's slowest imports, done once."""
from neural_introspection import agent, antitraining, atlas, cli, pipeline, toy_sweeps  # noqa: F401
from neural_introspection.models import load_model

load_model("pocket", device="cpu")  # brings transformer_lens and what it needs
