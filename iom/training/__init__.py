"""Training: the backbone (stage 1), the hasher (stage 2), calibration, run folders."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
