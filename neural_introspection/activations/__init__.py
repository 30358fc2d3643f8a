"""Activations: capture and replace them in PyTorch and Keras models, and statistics of them that stream."""
import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
