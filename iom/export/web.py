"""Artefacts for the web: all that a browser needs to go from a photograph and a key to a code.

A folder holds the embedder and the detector as ONNX files, the hash network as a plain file of numbers (`head.bin`),
and `web.json`, which says how they are used; docs/on_device.md describes it for those who write other clients. A hasher
whose embedder already is an ONNX file of its own, such as the bundled one, needs neither Keras nor TensorFlow.
"""

import dataclasses
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from iom._files import TEMPORARY, write_json
from iom._untrusted import read_json
from iom._workers import Handler, WorkerPool
from iom.errors import WeightsError
from iom.export.formats import FORMATS
from iom.keys import KEY_KINDS, TransformKey
from iom.models.artifact import Manifest, hashed_files, manifest_path, move_artifacts, read_manifest, write_manifest
from iom.models.embedder import unit_rows
from iom.models.face_hasher import ArtifactFaceHasher, FaceHasher
from iom.nn.hash_numpy import Head, head_path, read_head
from iom.photos.align import EDGE, TEMPLATE, FaceTemplate
from iom.photos.detect import MIN_SCORE
from iom.photos.mtcnn import ALIGNED_OFFSET, ALIGNED_SCORE, FOLDER, MIN_FACE, NETWORKS, PROPOSED, REFINED, SCALE
from iom.photos.photograph import BYSTANDER
from iom.photos.picture import CLEAR, MIN_SHARPNESS, ONE_FACE, QUICK_SIDE
from iom.pretrained import BUNDLED, hasher_path
from iom.pretrained.manifest import RAW, Statement, read_statement

if TYPE_CHECKING:
    from iom.export.context import ExportContext
    from iom.export.trial import TrialFaces

TARGET = "web"
WEB_FORMAT = 1
EMBEDDER, HEAD, DESCRIPTION = "embedder.onnx", "head.bin", "web.json"
"""Files of the folder, beside the networks of the detector."""
ALIGNMENT = 8
"""Arrays of `head.bin` begin at multiples of so many bytes."""
SECONDS = 300.0
"""Time that making an artefact in a process of its own may take."""


def embedder_alone(path: Path) -> ArtifactFaceHasher | None:
    """The hasher at `path` if it is an ONNX embedder with its head, which goes to the web as it is; else `None`."""
    if not manifest_path(path).is_file() or read_manifest(path).hashes:
        return None
    return ArtifactFaceHasher.load(path)


def write_web(context: "ExportContext", path: Path) -> None:
    """Write the folder from a Keras hasher."""
    from iom.export.onnx import write_embedder
    from iom.nn.hash_network import head_program

    source = context.source
    embedder = context.scratch / EMBEDDER
    write_embedder(context, embedder)
    statement = Statement(colour_order="RGB", range=RAW, size=source.backbone.inputs[0].shape[1])
    program = head_program(source.hasher.model)
    _write_folder(path, source.hasher, embedder, statement, source.embedder.template, program)


def deploy_embedder(
    source: ArtifactFaceHasher, folder: Path, *, name: str, faces: "TrialFaces", key: TransformKey | None = None
) -> Manifest:
    """Write the artefact `<name>.web` of an `embedder_alone` into `folder`, whole or not at all.

    Args:
        source: The embedder with its head.
        folder: Made if need be.
        name: Of the artefact.
        faces: To try it on.
        key: For the trial, by default a fresh one.

    Raises:
        WeightsError: The artefact lost too much.
    """
    from iom.export.trial import Trial, loss_message

    facts = source.manifest
    statement = read_statement(source.path) or Statement(colour_order="RGB", range=RAW, size=facts.input_size)
    trial = Trial(source, source.embedder, faces, key or TransformKey.generate())
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=folder) as scratch:
        made = Path(scratch) / TARGET
        path = made / f"{name}{FORMATS[TARGET].suffix}"
        template, program = source.embedder.template, read_head(head_path(source.path))
        _write_folder(path, source, source.path, statement, template, program)
        manifest = dataclasses.replace(
            facts, target=TARGET, runtime=TARGET, files=hashed_files(sorted(path.iterdir()), made), check=None
        )
        check = trial.check(
            run_web(path, manifest, source.embedder.chips(trial.faces.images), trial.key), FORMATS["web"]
        )
        if not check.passed:
            raise WeightsError(loss_message(TARGET, manifest.precision, check))
        manifest = dataclasses.replace(manifest, check=check)
        write_manifest(path, manifest)
        move_artifacts(made, folder)
    return manifest


def bundled_web(folder: Path) -> Path:
    """Write the bundled hasher for the web in a process of its own: no runtime of networks is imported into this one.

    Returns:
        The artefact in `folder`, with its manifest beside it; the same bytes each time.

    Raises:
        WeightsError: As of `deploy_embedder`.
        WorkerError: The process died, or took too long.
    """
    path = hasher_path(BUNDLED)
    pool = WorkerPool("iom.export.web:_maker", str(path), str(folder), workers=1, max_answer=0, start_seconds=SECONDS)
    try:
        pool.check()
    finally:
        pool.close()
    return folder / f"{path.stem}{FORMATS[TARGET].suffix}"


def _maker(hasher: str, folder: str) -> Handler:
    """Handler of the process of `bundled_web`, which makes the artefact before it is ready, and answers nothing."""
    from iom.export.trial import synthetic_faces

    source = ArtifactFaceHasher.load(hasher)
    faces = synthetic_faces(source.input_size)
    deploy_embedder(source, Path(folder), name=Path(hasher).stem, faces=faces, key=TransformKey(bytes(range(32))))
    return lambda request: b""


def run_web(path: Path, manifest: Manifest, images: NDArray[np.uint8], key: TransformKey) -> NDArray[np.uint8]:
    """Codes `(N, M)` of chips `(N, S, S, 3)`, one by one, by the files of an artefact as `web.json` says."""
    import onnxruntime

    found = read_json(path / DESCRIPTION)
    stated = found["embedder"]
    session = onnxruntime.InferenceSession(path / stated["file"], providers=["CPUExecutionProvider"])
    rows = []
    for image in images:
        pixels = image[..., ::-1] if stated["colour_order"] == "BGR" else image
        values = (pixels.astype(np.float32) - np.float32(stated["mean"])) * np.float32(stated["scale"])
        values = values.transpose(2, 0, 1) if stated["layout"] == "NCHW" else values
        feed = {stated["input"]: np.ascontiguousarray(values[None])}
        rows.append(session.run([stated["output"]], feed)[0][0])
    used = found["key"]
    order = KEY_KINDS[used["kind"]].order(key, used["size"], used["keep"])
    embeddings = unit_rows(np.asarray(rows, np.float32), path.name)
    return read_web_head(path).hash(embeddings, np.tile(order, (len(rows), 1)))


def read_web_head(path: Path) -> Head:
    """The hash network of an artefact for the web, as its files have it."""
    stated = read_json(path / DESCRIPTION)["head"]
    data = (path / HEAD).read_bytes()
    arrays = {}
    for name, array in stated["arrays"].items():
        kind = np.dtype(array["dtype"]).newbyteorder("<")
        values = np.frombuffer(data, kind, int(np.prod(array["shape"])), array["offset"])
        arrays[name] = values.reshape(array["shape"]).astype(np.float32)
    return Head(stated["steps"], arrays)


def _write_folder(
    path: Path,
    hasher: FaceHasher,
    embedder: Path,
    statement: Statement,
    template: FaceTemplate,
    program: tuple[list[dict[str, Any]], dict[str, NDArray[Any]]],
) -> None:
    """Write all files of an artefact but its manifest."""
    path.mkdir(parents=True)
    shutil.copyfile(embedder, path / EMBEDDER)
    for network in NETWORKS:
        shutil.copyfile(FOLDER / f"{network}.onnx", path / f"{network}.onnx")
    steps, arrays = program
    data, table = packed_arrays(arrays)
    (path / HEAD).write_bytes(data)
    scale, offset = statement.scaling
    write_json(
        path / DESCRIPTION,
        {
            "format": WEB_FORMAT,
            "embedder": {
                "file": EMBEDDER,
                **_ends(path / EMBEDDER),
                "colour_order": statement.colour_order,
                "mean": -offset / scale if offset else 0.0,
                "scale": scale,
                "size": statement.size,
            },
            "template": {**dataclasses.asdict(template), "landmarks": TEMPLATE.tolist()},
            "detector": {
                "name": "mtcnn",
                "files": {network: f"{network}.onnx" for network in NETWORKS},
                **detector_settings(),
            },
            "head": {"steps": steps, "arrays": table},
            "key": {
                "kind": hasher.key_kind,
                "derivation": KEY_KINDS[hasher.key_kind].derivation,
                "size": hasher.key_size,
                "keep": hasher.keep,
            },
            "limits": limits(),
            "bytes": {file.name: file.stat().st_size for file in sorted(path.iterdir())},
        },
    )


def packed_arrays(arrays: dict[str, NDArray[Any]]) -> tuple[bytes, dict[str, dict[str, Any]]]:
    """Arrays one after the other, little endian, and where each lies; half precision where that loses nothing."""
    data, table = bytearray(), {}
    for name, array in arrays.items():
        half = array.astype(np.float16)
        kind = "float16" if np.array_equal(half, array) else "float32"
        data += bytes(-len(data) % ALIGNMENT)
        table[name] = {"dtype": kind, "shape": list(array.shape), "offset": len(data)}
        data += np.ascontiguousarray(array, np.dtype(kind).newbyteorder("<")).tobytes()
    return bytes(data), table


def detector_settings() -> dict[str, float]:
    """What the packaged detector needs beside its networks, see `iom.photos.mtcnn`."""
    return {
        "min_face": MIN_FACE,
        "scale": SCALE,
        "proposed": PROPOSED,
        "refined": REFINED,
        "reported": MIN_SCORE,
        "aligned_score": ALIGNED_SCORE,
        "aligned_offset": ALIGNED_OFFSET,
    }


def limits() -> dict[str, float]:
    """Numbers by which the one face of a photograph is found and judged, see `iom.photos.picture.one_face`."""
    return {
        "max_side": ONE_FACE.max_side,
        "quick_side": QUICK_SIDE,
        "clear": CLEAR,
        "min_score": ONE_FACE.score,
        "min_size": ONE_FACE.min_size,
        "bystander": BYSTANDER,
        "min_sharpness": MIN_SHARPNESS,
        "edge": EDGE,
        "max_megapixels": ONE_FACE.max_megapixels,
    }


def _ends(path: Path) -> dict[str, str]:
    """Names of input and output of an embedder, and the order of the axes of its image."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (image,), (row,) = session.get_inputs(), session.get_outputs()
    return {"input": image.name, "output": row.name, "layout": "NCHW" if image.shape[1] == 3 else "NHWC"}
