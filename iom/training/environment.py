"""What a training runs on, so that its result can be repeated. No names of hosts or users."""

import contextlib
import importlib.metadata
import os
import platform
from typing import Any

import iom

PACKAGES = (
    "tensorflow", "keras", "numpy", "scipy", "scikit-learn", "numba", "pillow", "pyyaml",
    "matplotlib",
)  # fmt: skip


def environment() -> dict[str, Any]:
    """Versions of Python, this package and what it computes with; the processor and its cores."""
    packages = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            packages[package] = importlib.metadata.version(package)
    return {
        "iom": iom.__version__,
        "python": platform.python_version(),
        "packages": packages,
        "system": platform.system(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
    }
