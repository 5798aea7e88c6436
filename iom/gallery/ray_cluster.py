"""One connection of this process to Ray, shared by bulk enrolment and searches.

On this machine Ray is started for the time of the connection, without a dashboard and telemetry, with files that only
this user can read, and with a token, without which no other user can have it run programs.
"""

import contextlib
import logging
import os
import secrets
import sys
import tempfile
import threading
from typing import Any

from iom.errors import ConfigError, IomError, WorkerError, needs_extra

LOCAL = "local"
"""Address of a Ray that is started on this machine."""
_STORE_BYTES = 256 << 20
_LOCK = threading.Lock()


class _Connection:
    """The address that this process is connected to, how many use it, and what ends it."""

    address = ""
    users = 0
    ends = contextlib.ExitStack()


def address_of(address: str) -> str:
    """An address, or where it is empty that of RAY_ADDRESS, else `LOCAL`."""
    return address or os.environ.get("RAY_ADDRESS", "") or LOCAL


def connect(address: str, purpose: str, extra: str, *, cpus: int = 2, otherwise: str = "") -> Any:
    """The module `ray`, connected to a cluster, or to a Ray that is started here; each call needs a `disconnect`.

    Args:
        address: HOST:PORT of a cluster that this machine is a part of, or `LOCAL`.
        purpose: Of `needs_extra`, with `extra` and `otherwise`.
        extra: Name of the optional dependency.
        cpus: Workers that a Ray on this machine runs at once.
        otherwise: How to do without it.

    Raises:
        MissingExtraError: Ray is not installed.
        ConfigError: The process is connected to another cluster, or this one cannot be reached.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address == LOCAL and "RAY_AUTH_TOKEN_PATH" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        if "ray" not in sys.modules:  # it reads this when it is imported, and does it by itself in init, with a warning
            os.environ.setdefault("RAY_AUTH_MODE", "token")
    with needs_extra(purpose, extra, otherwise=otherwise):
        import ray
    with _LOCK:
        if _Connection.users and _Connection.address != address:
            raise ConfigError(
                f"{purpose}: this process uses the Ray of {_Connection.address} already, asked for {address}"
            )
        if not ray.is_initialized():  # else the program that imports this package has done it
            with contextlib.ExitStack() as ends:
                _start(ray, address, cpus, ends)
                _Connection.ends = ends.pop_all()
        _Connection.address = address
        _Connection.users += 1
    return ray


def disconnect() -> None:
    """End the use of the connection; with the last use, the connection."""
    with _LOCK:
        _Connection.users -= 1
        if not _Connection.users:
            _Connection.ends.close()


def error_of_worker(error: Exception) -> IomError:
    """The error of a worker without Ray's traceback."""
    cause: BaseException | None = error
    while cause is not None:
        inner = getattr(cause, "cause", None) or cause.__cause__
        if isinstance(inner, IomError):
            return inner
        cause = inner if isinstance(inner, BaseException) else None
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return WorkerError(f"a worker failed: {lines[-1][:300] if lines else type(error).__name__}")


def _start(ray: Any, address: str, cpus: int, ends: contextlib.ExitStack) -> None:
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == LOCAL:
        # Ray lets everybody write to its folder; only this user may enter the one around it.
        folder = ends.enter_context(tempfile.TemporaryDirectory(prefix="iom-ray-", ignore_cleanup_errors=True))
        settings |= {
            "address": LOCAL,
            "num_cpus": cpus,
            "include_dashboard": False,
            "object_store_memory": _STORE_BYTES,
            "_system_config": {"automatic_object_spilling_enabled": False},
            "_temp_dir": os.path.join(folder, "ray"),  # noqa: PTH118 - a text is wanted
        }
    else:
        settings["address"] = address
    ends.callback(ray.shutdown)
    try:
        ray.init(**settings)
    except (ray.exceptions.RayError, ConnectionError, RuntimeError, ValueError) as error:
        text = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"cannot connect to Ray at {address}: {text}; is this machine a part of the cluster (ray start)?"
        ) from None
