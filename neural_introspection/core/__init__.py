"""What everything else stands on: errors, addresses, options, files, run folders, progress and parallel calls. Needs no torch."""
import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
