"""Toy models of monosemanticity: 21 sweeps, their analysis and their figures."""
import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
