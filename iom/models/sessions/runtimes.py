"""Runtimes by name, and the one that a file wants."""

import importlib
from pathlib import Path
from typing import NamedTuple

from iom._registry import lookup
from iom.errors import WeightsError
from iom.models.artifact_manifest import Manifest, manifest_path
from iom.models.sessions.session import Session


class Runtime(NamedTuple):
    """Where a session lives.

    Attributes:
        suffix: Of its artefacts.
        module: In `iom.models.sessions`; imported when an artefact is opened.
        session: The class there.
    """

    suffix: str
    module: str
    session: str


RUNTIMES: dict[str, Runtime] = {
    "onnxruntime": Runtime(".onnx", "onnx_session", "OnnxSession"),
    "litert": Runtime(".tflite", "litert_session", "LiteRtSession"),
    "openvino": Runtime(".xml", "openvino_session", "OpenVinoSession"),
    "keras": Runtime(".keras", "keras_session", "KerasSession"),
    "tensorflow": Runtime(".saved_model", "saved_model_session", "SavedModelSession"),
}
"""Name in a manifest to runtime."""


def is_artefact(path: Path) -> bool:
    """Whether `path` names an artefact rather than the folder of a trained hasher."""
    suffixes = {runtime.suffix for runtime in RUNTIMES.values()}
    return path.suffix in suffixes or manifest_path(path).is_file()


def open_session(path: Path, manifest: Manifest, *, threads: int = 0) -> Session:
    """The artefact in its runtime.

    Raises:
        ConfigError: A runtime that is unknown here.
        MissingExtraError: A runtime that is not installed.
        WeightsError: A damaged artefact, or one for another runtime.
    """
    if manifest.runtime == "tfjs":
        raise WeightsError(f"{path}: TF.js runs in a browser or in node, not here")
    runtime = lookup(RUNTIMES, manifest.runtime, "runtime")
    if path.suffix != runtime.suffix:
        raise WeightsError(
            f"{path}: its manifest names the runtime {manifest.runtime}, whose artefacts end in {runtime.suffix}"
        )
    module = importlib.import_module(f"iom.models.sessions.{runtime.module}")
    opened: Session = getattr(module, runtime.session)(path, precision=manifest.precision, threads=threads)
    return opened
