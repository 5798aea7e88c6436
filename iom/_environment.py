"""Record of the software and the machine behind a result, without names of hosts or users."""

import contextlib
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

PACKAGES = ("iom", "tensorflow", "keras", "numpy", "scipy", "scikit-learn", "numba", "pillow", "pyyaml", "matplotlib")


def environment() -> dict[str, Any]:
    """Versions of Python, of this package and of its libraries; processor, cores and memory."""
    versions = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    return {**versions, "processor": _processor(), "cores": usable, "memory_gb": memory}


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
