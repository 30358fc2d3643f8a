"""Look inside neural networks from JupyterLab: `import neural_introspection as ni`.

The names below are loaded when they are used; `__init__.pyi` lists them. Each folder (core, stats, models, activations, data, display,
introspection, tracing, analysis, antitraining, toy) has more, listed in its own `__init__.pyi`. All else is private.
"""
import lazy_loader as _lazy

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
