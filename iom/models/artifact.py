"""Artefacts of `iom deploy`: the manifest with its check, and sessions in the runtimes.

A manifest describes an artefact and lists the SHA-256 of its files. A runtime is imported when an artefact of it is
opened.
"""

import dataclasses
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from iom._files import sha256_of, write_json
from iom._registry import COMPARISONS, lookup
from iom._untrusted import paths_inside, read_json
from iom.codes.asymmetric import SYMBOLS
from iom.errors import DataError, PrecisionWarning, WeightsError, needs_extra
from iom.keys import KEY_KINDS
from iom.metrics.likelihood import PRIOR, LikelihoodRatio

FORMAT = 1
INPUTS = ("image", "order")
OUTPUTS = ("codes", "embedding")
SIGNATURE = "serving_default"
OPENVINO_HINTS = {"float32": "f32", "bfloat16": "bf16"}

Outputs = tuple[NDArray[Any], NDArray[np.float32]]
Session = Callable[[NDArray[np.float32], NDArray[np.int32]], Outputs]
"""An open artefact: codes `(B, M)` and raw embeddings `(B, D)` of RGB images `(B, S, S, 3)` in 0..255 and orders `(B,
W)`."""


@dataclasses.dataclass(frozen=True)
class OperatingPoint:
    """A decision threshold, the largest distance that is still a match, and its error rates.

    `fmr` was asked for; `measured_fmr` and `fnmr` were found at the threshold. The bounds are intervals, `None` where
    not computed; a `threshold_low` of -1 rejects everything.
    """

    threshold: int
    fmr: float
    fnmr: float
    measured_fmr: float | None = None
    threshold_low: int | None = None
    threshold_high: int | None = None
    fmr_low: float | None = None
    fmr_high: float | None = None
    fnmr_low: float | None = None
    fnmr_high: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibration(OperatingPoint):
    """The operating point of a hasher, others to choose from, and the likelihood ratio of a distance.

    All were found on the held-out `subjects`, each of the `keys` comparing all pairs (`stolen_key`). Intervals are
    bootstrapped over subjects and keys, at level `confidence`. Hashers of an older version lack `others` and
    `likelihood`. All distances are of one `comparison`, a name of `iom._registry.COMPARISONS`; of an older
    version: symbols.
    """

    subjects: int
    keys: int
    confidence: float | None = None
    others: tuple[OperatingPoint, ...] = ()
    likelihood: LikelihoodRatio | None = None
    comparison: str = SYMBOLS

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Calibration":
        """Read what `dataclasses.asdict` gave; a `TypeError` or `DataError` for something else."""
        comparison = values.get("comparison", SYMBOLS)
        if comparison not in COMPARISONS:
            known = " or ".join(COMPARISONS)
            raise DataError(f"calibration: expected the comparison {known}, received {comparison!r:.100}")
        likelihood = values.get("likelihood")
        others = tuple(OperatingPoint(**each) for each in values.get("others") or ())
        read = LikelihoodRatio(**likelihood) if likelihood else None
        return cls(**{**values, "others": others, "likelihood": read})

    @property
    def points(self) -> tuple[OperatingPoint, ...]:
        """The operating points, the hasher's own first."""
        return self, *self.others

    def probability(self, distance: float, prior: float = PRIOR) -> float | None:
        """Probability that two codes at a distance are of one subject, given `prior`, that before the comparison.

        `None` for a hasher of an older version, which iom calibrate mends; see `LikelihoodRatio.probability`.
        """
        return None if self.likelihood is None else self.likelihood.probability(distance, prior)


@dataclasses.dataclass(frozen=True)
class Check:
    """Comparison of an artefact in its own runtime with its source hasher, under one random key (`stolen_key`).

    The fields have the names of the manifest file: `least_*` and `largest_*` are the bounds, and `pairs` 0 means that
    no error rate was measured.
    """

    faces: str
    images: int
    equal_symbols: float
    least_equal_symbols: float
    pairs: int
    source_eer: float | None
    eer: float | None
    largest_eer_loss: float

    @property
    def passed(self) -> bool:
        """Whether both bounds hold."""
        enough = self.equal_symbols >= self.least_equal_symbols
        if self.eer is None or self.source_eer is None:
            return enough
        return enough and self.eer - self.source_eer <= self.largest_eer_loss


@dataclasses.dataclass(frozen=True)
class Manifest:
    """Description of a deployed hasher: its runtime, files with their SHA-256, sizes, sources and check.

    `target` is a key of `iom.export.formats.FORMATS`, `runtime` one of `RUNTIMES` or `ELSEWHERE`;
    `embedder` holds name and SHA-256 of the embedder, `hasher` the fingerprint of the hasher it was made from.
    """

    target: str
    runtime: str
    precision: str
    files: dict[str, str]
    input_size: int
    embedding_size: int
    code_length: int
    alphabet_size: int
    keep: int
    key_size: int
    key_kind: str
    embedder: dict[str, str]
    hasher: str
    template: str = "arcface"
    """How a face lies in the image: a name of `iom.photos.align.TEMPLATES`."""
    hashes: bool = True
    """Whether the graph gives codes, too; the head computes those of an embedder alone."""
    calibration: Calibration | None = None
    check: Check | None = None

    @property
    def order_width(self) -> int:
        """W, entries of an order."""
        return self.key_size * KEY_KINDS[self.key_kind].rounds

    @property
    def embedder_fingerprint(self) -> str:
        """That of the embeddings: the artefact's own, or that of the weights where the graph is the embedder alone."""
        return self.fingerprint if self.hashes else self.embedder["sha256"]

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the files, the precision and the derivation of keys: another precision gives other symbols."""
        parts = (self.files, self.precision, KEY_KINDS[self.key_kind].derivation)
        text = json.dumps(["iom/artefact/v1", *parts], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def manifest_path(artifact: Path) -> Path:
    """The manifest of an artefact: its name and `.json`."""
    return artifact.parent / f"{artifact.name}.json"  # "." and "/" have no name to change


def hashed_files(files: list[Path], folder: Path) -> dict[str, str]:
    """SHA-256 by name relative to `folder`, sorted by name."""
    return dict(sorted((path.relative_to(folder).as_posix(), sha256_of(path)) for path in files))


def read_metadata(path: Path) -> dict[str, Any]:
    """JSON that describes an artefact or a hasher; another format is a `WeightsError`, a missing file an `OSError`."""
    try:
        values = read_json(path)
    except ValueError as error:
        raise WeightsError(f"{path}: damaged: {error}; take it from where it was made") from error
    found = values.get("format") if isinstance(values, dict) else type(values).__name__
    if found != FORMAT:
        raise WeightsError(
            f"{path}: expected version {FORMAT}, received {found!r:.100}; make it again with this program, or use the "
            "program that made it"
        )
    return dict(values)


def write_manifest(artifact: Path, manifest: Manifest) -> None:
    """Write the manifest of an artefact."""
    value = {"format": FORMAT, **dataclasses.asdict(manifest), "fingerprint": manifest.fingerprint}
    write_json(manifest_path(artifact), value)


def move_artifacts(made: Path, folder: Path) -> None:
    """Move new artefacts out of `made`, which then goes, to their place, manifests last: without one there is none."""
    manifests = {manifest_path(made / path.name).name for path in made.iterdir()}
    for path in sorted(made.iterdir(), key=lambda path: path.name in manifests):
        place = folder / path.name
        if place.is_dir():
            shutil.rmtree(place)
        path.replace(place)
    made.rmdir()


def read_manifest(artifact: Path) -> Manifest:
    """Read the manifest of an artefact and check its files against it; `WeightsError` where they differ."""
    path = manifest_path(artifact)
    if not artifact.exists():
        raise WeightsError(f"no artefact {artifact}; make one with iom deploy")
    try:
        values = read_metadata(path)
    except OSError as error:
        if artifact.is_dir() and not artifact.suffix:
            inside = sorted(str(each) for each in artifact.iterdir() if manifest_path(each).is_file())
            advice = f"artefact in it: {', '.join(inside)}" if inside else "file of an artefact; it holds none"
            raise WeightsError(f"{artifact} is a folder; give the {advice}") from error
        raise WeightsError(
            f"{artifact}: expected {path.name} beside it ({error.strerror}); iom deploy writes it"
        ) from error
    manifest = _parsed(path, values)
    files = paths_inside(artifact.parent, manifest.files, source=path, error=WeightsError)
    for file, (name, digest) in zip(files, manifest.files.items(), strict=True):
        if not file.is_file():
            raise WeightsError(f"{artifact}: its file {name} is missing; copy all files listed in {path.name}")
        if sha256_of(file) != digest:
            raise WeightsError(
                f"{file}: the SHA-256 differs from the one in {path.name}: truncated, damaged or "
                "of another export; copy or export it again"
            )
    return manifest


def _parsed(path: Path, values: dict[str, Any]) -> Manifest:
    try:
        fingerprint = values.pop("fingerprint")
        del values["format"]
        for name, read in (("check", lambda found: Check(**found)), ("calibration", Calibration.from_json)):
            values[name] = read(values[name]) if values[name] else None
        manifest = Manifest(**values)
        valid = manifest.fingerprint == fingerprint and manifest.order_width > 0
    except (KeyError, TypeError, AttributeError, DataError) as error:
        raise WeightsError(f"{path}: the manifest is damaged, or of another version: {error}; export again") from error
    if not valid:
        raise WeightsError(f"{path}: the manifest was changed: its fingerprint does not hold")
    return manifest


def open_embedder(path: Path, manifest: Manifest, *, threads: int = 0) -> Session:
    """ONNX file of an embedder alone, raw RGB in unless a statement lies beside it; its codes are `(B, 0)`."""
    from iom.pretrained.manifest import RAW, Statement, read_statement
    from iom.pretrained.onnx_network import OnnxNetwork

    statement = read_statement(path) or Statement(colour_order="RGB", range=RAW, size=manifest.input_size)
    network = OnnxNetwork(path, statement, threads=threads)
    return lambda images, orders: (np.empty((len(images), 0), np.uint8), network.predict_on_batch(images))


def open_onnx(path: Path, *, precision: str, threads: int = 0) -> Session:
    """ONNX file in onnxruntime on the CPU; `threads` 0 takes all cores."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common root
        raise WeightsError(f"{path}: onnxruntime cannot read it: {error}") from error
    _check_ends(path, [end.name for end in session.get_inputs()], [end.name for end in session.get_outputs()])
    return lambda images, orders: tuple(session.run(list(OUTPUTS), {"image": images, "order": orders}))


def open_litert(path: Path, *, precision: str, threads: int = 0) -> Session:
    """LiteRT file (`.tflite`).

    Dynamic activation ranges would be those of a whole batch, so that a code would depend on the other faces in it:
    such a file gets one face a call.
    """
    with needs_extra(f"running {path}", "litert"):
        from ai_edge_litert.interpreter import Interpreter
    try:
        interpreter = Interpreter(model_path=str(path), num_threads=threads or os.cpu_count() or 1)
        interpreter.allocate_tensors()  # fails for operations that LiteRT does not have
        signature = interpreter.get_signature_list()[SIGNATURE]
        _check_ends(path, signature["inputs"], signature["outputs"])
        call = interpreter.get_signature_runner(SIGNATURE)
    except (ValueError, RuntimeError, KeyError) as error:
        raise WeightsError(f"{path}: LiteRT cannot read it: {error}") from error

    def run(images: NDArray[np.float32], orders: NDArray[np.int32]) -> Outputs:
        step = 1 if precision.startswith("dynamic") else len(images)
        found = []
        for start in range(0, len(images), step):
            made = call(image=images[start : start + step], order=orders[start : start + step])
            found.append([made[name].copy() for name in OUTPUTS])
        codes, rows = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return codes, rows

    return run


def open_openvino(path: Path, *, precision: str, threads: int = 0) -> Session:
    """OpenVINO model (`.xml` and `.bin`), compiled for a precision (`OPENVINO_HINTS`; integers stand in the file).

    The library would take bfloat16 where the CPU has it and float32 elsewhere, with other symbols on another machine.
    """
    with needs_extra(f"running {path}", "openvino"):
        import openvino
    settings = {"INFERENCE_PRECISION_HINT": OPENVINO_HINTS.get(precision, "f32"), "NUM_STREAMS": "1"}
    if threads:
        settings["INFERENCE_NUM_THREADS"] = str(threads)
    try:
        core = openvino.Core()
        model = core.read_model(path)
        inputs, outputs = ([n for end in side for n in end.get_names()] for side in (model.inputs, model.outputs))
        _check_ends(path, inputs, outputs)
        compiled = core.compile_model(model, "CPU", settings)
    except RuntimeError as error:
        raise WeightsError(f"{path}: OpenVINO cannot read it: {error}") from error

    def run(images: NDArray[np.float32], orders: NDArray[np.int32]) -> Outputs:
        found = compiled({"image": images, "order": orders}, share_inputs=True)
        return found["codes"], found["embedding"]

    return run


def open_keras(path: Path, *, precision: str, threads: int = 0) -> Session:
    """`.keras` file in TensorFlow, which chooses the number of threads."""
    # Keras finds the layers of a file by name among those that were imported.
    import iom.nn.hash_network
    import iom.nn.layers.index_of_max  # noqa: F401
    from iom.pretrained.importers.keras_files import read_keras

    model = read_keras(path)
    _check_ends(path, [tensor.name for tensor in model.inputs], model.output_names)
    model.compile(jit_compile=False)

    def run(images: NDArray[np.float32], orders: NDArray[np.int32]) -> Outputs:
        found = model.predict_on_batch({"image": images, "order": orders})
        return found["codes"], found["embedding"]

    return run


def open_saved_model(path: Path, *, precision: str, threads: int = 0) -> Session:
    """SavedModel folder in TensorFlow; operations that `iom.pretrained.importers` does not allow are refused."""
    import tensorflow as tf

    from iom.pretrained.importers.tensorflow_graphs import check_saved_model

    check_saved_model(path)
    try:
        loaded = tf.saved_model.load(str(path))  # keeps the variables alive
        ends = loaded.signatures[SIGNATURE]
    except (OSError, ValueError, KeyError) as error:
        raise WeightsError(f"{path}: TensorFlow cannot read it: {error}") from error
    _check_ends(path, ends.structured_input_signature[1], ends.structured_outputs)

    def run(images: NDArray[np.float32], orders: NDArray[np.int32]) -> Outputs:
        found = loaded.signatures[SIGNATURE](image=tf.constant(images), order=tf.constant(orders))
        return found["codes"].numpy(), found["embedding"].numpy()

    return run


class Runtime(NamedTuple):
    """A runtime: the suffix of its artefacts, and what opens one, `(path, *, precision, threads) -> Session`."""

    suffix: str
    open: Callable[..., Session]


RUNTIMES: dict[str, Runtime] = {
    "onnxruntime": Runtime(".onnx", open_onnx),
    "litert": Runtime(".tflite", open_litert),
    "openvino": Runtime(".xml", open_openvino),
    "keras": Runtime(".keras", open_keras),
    "tensorflow": Runtime(".saved_model", open_saved_model),
}
"""Name in a manifest to runtime."""
ELSEWHERE = {
    "tfjs": "TF.js runs in a browser or in Node.js",
    "web": "an artefact for the web runs in a browser, by the client library (docs/on_device.md)",
}
"""Names in manifests of what this program writes and does not run."""


def is_artifact(path: Path) -> bool:
    """Whether `path` names an artefact rather than the folder of a trained hasher."""
    return path.suffix in {runtime.suffix for runtime in RUNTIMES.values()} or manifest_path(path).is_file()


def open_artifact(path: Path, *, threads: int = 0) -> tuple[Session, Manifest]:
    """The artefact in the runtime that its manifest names, and the manifest with the precision that it computes in."""
    manifest = _for_this_cpu(path, read_manifest(path))
    if manifest.runtime in ELSEWHERE:
        raise WeightsError(f"{path}: {ELSEWHERE[manifest.runtime]}, not here")
    runtime = lookup(RUNTIMES, manifest.runtime, "runtime")
    if path.suffix != runtime.suffix:
        raise WeightsError(
            f"{path}: its manifest names the runtime {manifest.runtime}, whose artefacts end in {runtime.suffix}"
        )
    if not manifest.hashes:
        return open_embedder(path, manifest, threads=threads), manifest
    return runtime.open(path, precision=manifest.precision, threads=threads), manifest


def _for_this_cpu(path: Path, manifest: Manifest) -> Manifest:
    """Float32 for bfloat16 where the CPU lacks it; the fingerprint follows (docs/adr/101-fast-on-every-cpu.md)."""
    if manifest.precision != "bfloat16" or has_bfloat16():
        return manifest
    warnings.warn(
        f"{path}: made for bfloat16, which this CPU does not have: it computes in float32 here, with a fingerprint of "
        "its own; codes that were enrolled in bfloat16 are refused: enrol anew, or use the format openvino everywhere",
        PrecisionWarning,
        stacklevel=4,
    )
    return dataclasses.replace(manifest, precision="float32")


def has_bfloat16() -> bool:
    """Whether OpenVINO finds bfloat16 in this CPU."""
    with needs_extra("running an OpenVINO model", "openvino"):
        import openvino
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _check_ends(path: Path, inputs: Iterable[object], outputs: Iterable[object]) -> None:
    """Refuse other inputs or outputs than those of a deployed hasher: without `order`, a key would be built in."""
    for kind, needed, found in (("input", INPUTS, inputs), ("output", OUTPUTS, outputs)):
        names = sorted(str(name) for name in found)
        if missing := sorted(set(needed) - set(names)):
            raise WeightsError(
                f"{path}: expected the {kind}s {', '.join(needed)}, received {', '.join(names)}; "
                f"{', '.join(missing)} is missing: not an artefact of iom deploy"
            )
