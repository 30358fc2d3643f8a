"""A run folder whose failure cannot be noted."""
import pytest
from neural_introspection import core
from neural_introspection.core import open_run
from shell import manifest



def test_the_folder_is_free_again_even_if_the_failure_cannot_be_noted(tmp_path, monkeypatch):
    def full(*_): raise OSError(28, "No space left on device")
    run = open_run(tmp_path / "out", dict(seed=0))
    with pytest.raises(OSError, match="No space left"), monkeypatch.context() as patch, run:
        patch.setattr(core, "write_json", full)
        full()
    with open_run(tmp_path / "out", dict(seed=0)) as again: assert again.resumed
    assert manifest(tmp_path / "out")["status"] == "complete"
