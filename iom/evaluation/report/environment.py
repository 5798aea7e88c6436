"""What an evaluation ran on: versions, processor, cores, memory. No names of hosts or users."""

import contextlib
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import iom


def environment() -> dict[str, Any]:
    """Everything that a reader needs to repeat the figures, and nothing that names a machine."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {**versions(), "processor": _processor() or platform.machine(), "cores": allowed, "memory_gb": _memory()}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _memory() -> float | None:
    try:
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None
    return round(pages * size / 2**30, 1)


_PACKAGES = ("tensorflow", "keras", "numpy", "scipy", "numba")


def versions() -> dict[str, str]:
    """Versions of this package, of Python and of what the figures rest on."""
    found = {"iom": iom.__version__, "python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found
