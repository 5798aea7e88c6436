"""Metrics of verification, identification and template protection, from distances: lower = more alike."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
