"""Cancellable face templates: embedding, keyed rotation, learned Index-of-Max code.

Public names, here and in the packages, stand in `__init__.pyi` and are loaded when they are first used, so that
`import iom` imports neither TensorFlow nor NumPy.
"""

import os
from typing import Any

import lazy_loader

from iom._tensorflow_log import silence

__version__ = "0.2.0"

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # onnxruntime would note a device and send what it runs

_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

silence()


def __getattr__(name: str) -> Any:
    from iom.errors import needs_train

    with needs_train(f"iom.{name}"):
        return _load(name)
