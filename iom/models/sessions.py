"""Sessions: artefacts of `iom deploy` in their runtimes, each imported when an artefact of it is opened."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from iom._registry import lookup
from iom.errors import WeightsError, missing_extra
from iom.models.artifact import Manifest, manifest_path

INPUTS = ("image", "order")
OUTPUTS = ("codes", "embedding")
SIGNATURE = "serving_default"
OPENVINO_HINTS = {"float32": "f32", "bfloat16": "bf16"}

Outputs = tuple[NDArray[Any], NDArray[np.float32]]


class Session(Protocol):
    """An artefact that is ready to run."""

    def run(self, images: NDArray[np.float32], orders: NDArray[np.int32]) -> Outputs:
        """Codes `(B, M)` and raw embeddings `(B, D)` of RGB images `(B, S, S, 3)` in 0..255 and orders `(B, W)`."""
        ...


class OnnxSession:
    """ONNX file in onnxruntime on the CPU; `threads` 0 takes all cores."""

    def __init__(self, path: Path, *, precision: str, threads: int = 0) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise missing_extra(f"running {path}", "onnxruntime", cause=error) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors have no common root
            raise WeightsError(f"{path}: onnxruntime cannot read it: {error}") from error
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        _check_ends(path, [end.name for end in inputs], [end.name for end in outputs])

    def run(self, images: NDArray[np.float32], orders: NDArray[np.int32]) -> Outputs:
        codes, rows = self._session.run(list(OUTPUTS), {"image": images, "order": orders})
        return codes, rows


class LiteRtSession:
    """LiteRT file (`.tflite`).

    Dynamic activation ranges would be those of a whole batch, so that a code would depend on the other faces in it:
    such a file gets one face a call.
    """

    def __init__(self, path: Path, *, precision: str, threads: int = 0) -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            raise missing_extra(f"running {path}", "litert", cause=error) from error
        try:
            self._interpreter = Interpreter(model_path=str(path), num_threads=threads or os.cpu_count() or 1)
            self._interpreter.allocate_tensors()  # fails for operations that LiteRT does not have
            signature = self._interpreter.get_signature_list()[SIGNATURE]
            _check_ends(path, signature["inputs"], signature["outputs"])
            self._runner = self._interpreter.get_signature_runner(SIGNATURE)
        except (ValueError, RuntimeError, KeyError) as error:
            raise WeightsError(f"{path}: LiteRT cannot read it: {error}") from error
        self._one_by_one = precision.startswith("dynamic")

    def run(self, images: NDArray[np.float32], orders: NDArray[np.int32]) -> Outputs:
        codes, rows = [], []
        step = 1 if self._one_by_one else len(images)
        for start in range(0, len(images), step):
            part = slice(start, start + step)
            found = self._runner(image=images[part], order=orders[part])
            codes.append(found["codes"].copy())
            rows.append(found["embedding"].copy())
        return np.concatenate(codes), np.concatenate(rows)


class OpenVinoSession:
    """OpenVINO model (`.xml` and `.bin`), compiled for the precision that its manifest states (`OPENVINO_HINTS`).

    The library would take bfloat16 where the CPU has it and float32 elsewhere, with other symbols on another machine.
    """

    def __init__(self, path: Path, *, precision: str, threads: int = 0) -> None:
        core = _openvino(f"running {path}").Core()
        check_precision(str(path), precision)
        settings = {"INFERENCE_PRECISION_HINT": OPENVINO_HINTS.get(precision, "f32"), "NUM_STREAMS": "1"}
        if threads:
            settings["INFERENCE_NUM_THREADS"] = str(threads)
        try:
            model = core.read_model(path)
            inputs, outputs = ([n for end in side for n in end.get_names()] for side in (model.inputs, model.outputs))
            _check_ends(path, inputs, outputs)
            self._compiled = core.compile_model(model, "CPU", settings)
        except RuntimeError as error:
            raise WeightsError(f"{path}: OpenVINO cannot read it: {error}") from error

    def run(self, images: NDArray[np.float32], orders: NDArray[np.int32]) -> Outputs:
        found = self._compiled({"image": images, "order": orders}, share_inputs=True)
        return found["codes"], found["embedding"]


class KerasSession:
    """`.keras` file in TensorFlow, which chooses the number of threads."""

    def __init__(self, path: Path, *, precision: str, threads: int = 0) -> None:
        # Keras finds the layers of a file by name among those that were imported.
        import iom.nn.hash_network
        import iom.nn.layers.index_of_max  # noqa: F401
        from iom.pretrained.importers.keras_files import load_keras_model

        self._model = load_keras_model(path)
        _check_ends(path, [tensor.name for tensor in self._model.inputs], self._model.output_names)
        self._model.compile(jit_compile=False)

    def run(self, images: NDArray[np.float32], orders: NDArray[np.int32]) -> Outputs:
        found = self._model.predict_on_batch({"image": images, "order": orders})
        return found["codes"], found["embedding"]


class SavedModelSession:
    """SavedModel folder in TensorFlow; operations that `iom.pretrained.importers` does not allow are refused."""

    def __init__(self, path: Path, *, precision: str, threads: int = 0) -> None:
        import tensorflow as tf

        from iom.pretrained.importers.tensorflow_graphs import checked_saved_model

        checked_saved_model(path)
        try:
            self._loaded = tf.saved_model.load(str(path))  # keeps the variables alive
            self._call = self._loaded.signatures[SIGNATURE]
        except (OSError, ValueError, KeyError) as error:
            raise WeightsError(f"{path}: TensorFlow cannot read it: {error}") from error
        _check_ends(path, self._call.structured_input_signature[1], self._call.structured_outputs)
        self._tensor = tf.constant

    def run(self, images: NDArray[np.float32], orders: NDArray[np.int32]) -> Outputs:
        found = self._call(image=self._tensor(images), order=self._tensor(orders))
        return found["codes"].numpy(), found["embedding"].numpy()


class Runtime(NamedTuple):
    """A runtime: the suffix of its artefacts and its session."""

    suffix: str
    session: type[Any]


RUNTIMES: dict[str, Runtime] = {
    "onnxruntime": Runtime(".onnx", OnnxSession),
    "litert": Runtime(".tflite", LiteRtSession),
    "openvino": Runtime(".xml", OpenVinoSession),
    "keras": Runtime(".keras", KerasSession),
    "tensorflow": Runtime(".saved_model", SavedModelSession),
}
"""Name in a manifest to runtime."""


def is_artifact(path: Path) -> bool:
    """Whether `path` names an artefact rather than the folder of a trained hasher."""
    return path.suffix in {runtime.suffix for runtime in RUNTIMES.values()} or manifest_path(path).is_file()


def open_session(path: Path, manifest: Manifest, *, threads: int = 0) -> Session:
    """The artefact in the runtime that its manifest names."""
    if manifest.runtime == "tfjs":
        raise WeightsError(f"{path}: TF.js runs in a browser or in Node.js, not here")
    runtime = lookup(RUNTIMES, manifest.runtime, "runtime")
    if path.suffix != runtime.suffix:
        raise WeightsError(
            f"{path}: its manifest names the runtime {manifest.runtime}, whose artefacts end in {runtime.suffix}"
        )
    session: Session = runtime.session(path, precision=manifest.precision, threads=threads)
    return session


def check_precision(name: str, precision: str) -> None:
    """Refuse a precision (a key of `OPENVINO_HINTS`) that OpenVINO does not have on this CPU."""
    if precision != "bfloat16":
        return
    capabilities = cpu_capabilities()
    if "BF16" not in capabilities:
        raise WeightsError(
            f"{name}: computes in bfloat16, which this CPU does not have (it has {', '.join(capabilities)}); take "
            "another format, such as openvino, the same in float32, or onnx, and enrol with that"
        )


def cpu_capabilities() -> list[str]:
    """Number formats that this CPU computes fast in OpenVINO, such as FP32, BF16, INT8."""
    core = _openvino("running an OpenVINO model").Core()
    return [str(name) for name in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")]


def _openvino(purpose: str) -> Any:
    try:
        import openvino
    except ImportError as error:
        raise missing_extra(purpose, "openvino", cause=error) from error
    return openvino


def _check_ends(path: Path, inputs: Iterable[object], outputs: Iterable[object]) -> None:
    """Refuse other inputs or outputs than those of a deployed hasher: without `order`, a key would be built in."""
    for kind, needed, found in (("input", INPUTS, inputs), ("output", OUTPUTS, outputs)):
        names = sorted(str(name) for name in found)
        missing = [name for name in needed if name not in names]
        if missing:
            raise WeightsError(
                f"{path}: expected the {kind}s {', '.join(needed)}, received {', '.join(names)}; "
                f"{', '.join(missing)} is missing: not an artefact of iom deploy"
            )
