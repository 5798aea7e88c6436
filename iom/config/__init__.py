"""Configurations: the settings that each command reads, from strict YAML files or from Python."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
