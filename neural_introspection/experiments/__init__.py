"""Tests of the papers' claims, the pocket model's recipe, the benchmark harness. No public API."""
import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
