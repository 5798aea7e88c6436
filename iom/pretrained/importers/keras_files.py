"""Keras files: `.keras` archives and legacy `.h5` files, whole models or weights alone."""

import contextlib
import io
import math
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import keras
from keras import layers

from iom._files import atomic_path
from iom._untrusted import check_inflated, check_inflated_size, check_printable, one_line, parse_json, reading
from iom.errors import ConfigError, WeightsError
from iom.pretrained.manifest import RAW, Statement

# Layers whose configuration holds code or names a program.
_CODE = {"Lambda", "TorchModuleWrapper", "TFSMLayer", "JaxLayer", "FlaxLayer"}
_TRUSTED_MODULES = ("keras", "iom", "builtins")
WEIGHTS_MEMBER = "model.weights.h5"
SPARE_ELEMENTS = 1 << 20
"""So that a small misfit is told as such."""
CONFIG_BYTES = 4 << 20
"""Bound of a configuration; one of a thousand layers takes a quarter of it."""
MAX_OUTPUT = 1 << 26
"""Bound of the numbers of a layer's output for one image; face networks have a few million."""


class _Depthwise(layers.DepthwiseConv2D):
    """Layer of a file of Keras 2, whose argument `groups` Keras 3 does not take."""

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> layers.DepthwiseConv2D:
        """The layer of Keras 3."""
        known = {name: value for name, value in config.items() if name != "groups"}
        return layers.DepthwiseConv2D.from_config(known)


def save_model(model: keras.Model, path: Path) -> None:
    """Write `model` as a compressed `.keras` file, atomically, with bytes that depend on the content alone."""
    with atomic_path(path) as temporary:
        model.save(temporary)
        with zipfile.ZipFile(temporary) as archive:
            entries = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for name, content in entries.items():
                archive.writestr(zipfile.ZipInfo(name), content, compress_type=zipfile.ZIP_DEFLATED)


def read_keras(path: Path, statement: Statement | None = None) -> keras.Model:
    """Model of a `.keras` or `.h5` file; of weights alone where the statement names the backbone.

    Code and oversized weights are refused before Keras builds anything.
    """
    with reading(path, "a Keras model", error=WeightsError):
        configuration, elements = _content(path)
        if configuration is not None:
            return _built(path, configuration, elements)
    return _weights_alone(path, statement, elements)


def _built(path: Path, configuration: Any, elements: int) -> keras.Model:
    _refuse_code(configuration, path)
    with _at_most(elements, path):
        known = {"DepthwiseConv2D": _Depthwise}
        model = keras.saving.load_model(path, compile=False, safe_mode=True, custom_objects=known)
    if not isinstance(model, keras.Model):
        raise WeightsError(f"{path}: expected a model, received {type(model).__name__}")
    _check_outputs(model, path)
    return model


def _content(path: Path) -> tuple[Any, int]:
    """Configuration in a file, `None` where it holds weights alone, and the number of its numbers."""
    import h5py

    if not zipfile.is_zipfile(path):
        with h5py.File(path, "r") as file:
            text = file.attrs.get("model_config")
            elements = _stored_elements(file, path.stat().st_size)
        return None if text is None else parse_json(text, max_bytes=CONFIG_BYTES), elements
    if path.suffix != ".keras":
        raise ValueError("a Keras archive must be named .keras")
    with zipfile.ZipFile(path) as archive:
        size = check_inflated(archive)
        if archive.getinfo("config.json").file_size > CONFIG_BYTES:
            raise ValueError(f"expected a config.json of at most {CONFIG_BYTES} bytes")
        broken = archive.testzip()
        if broken is not None:
            raise ValueError(f"the checksum of its part {broken} is wrong")
        configuration = parse_json(archive.read("config.json"), max_bytes=CONFIG_BYTES)
        if WEIGHTS_MEMBER not in archive.namelist():
            return configuration, size
        with h5py.File(io.BytesIO(archive.read(WEIGHTS_MEMBER)), "r") as file:
            return configuration, _stored_elements(file, size)


def _stored_elements(file: Any, size: int) -> int:
    """Numbers in an HDF5 file of `size` bytes; links, datasets in other files and more than it can hold are refused."""
    import h5py

    elements, taken = 0, 0

    def visit(_: str, item: Any) -> None:
        nonlocal elements, taken
        if isinstance(item, h5py.Group):
            for name in item:
                if not isinstance(item.get(name, getlink=True), h5py.HardLink):
                    raise ValueError(f"refused: {name!r} is a link, which may lead to another file")
            return
        if item.external or item.is_virtual:
            raise ValueError(f"refused: {item.name!r} lies in another file")
        elements, taken = elements + item.size, taken + item.size * item.dtype.itemsize

    visit("/", file["/"])
    file.visititems(visit)
    check_inflated_size(taken, size)
    return elements


_COUNTING = threading.Lock()


@contextlib.contextmanager
def _at_most(elements: int, path: Path) -> Iterator[None]:
    """Refuse a model that asks for far more weights than its file holds, before it has them."""
    refused: list[str] = []
    left = 2 * elements + SPARE_ELEMENTS
    plain = keras.layers.Layer.add_weight

    def add_weight(layer: Any, *args: Any, **settings: Any) -> Any:
        nonlocal left
        shape = settings.get("shape", args[0] if args and not isinstance(args[0], str) else ())
        sides = shape if isinstance(shape, list | tuple) else [] if shape is None else [shape]
        left -= math.prod(int(side) for side in sides)
        if left < 0:
            refused.append(
                f"{path}: refused: its layer '{one_line(layer.name)}' asks for weights of shape "
                f"{tuple(sides)}, far more than the {elements} numbers of the file"
            )
            raise ValueError(refused[0])
        return plain(layer, *args, **settings)

    with _COUNTING:
        keras.layers.Layer.add_weight = add_weight
        try:
            yield
        except Exception as error:  # Keras wraps what is raised while it builds a layer
            if refused:
                raise WeightsError(refused[0]) from error
            raise
        finally:
            keras.layers.Layer.add_weight = plain


def _check_outputs(model: keras.Model, path: Path) -> None:
    """Refuse layers whose outputs would not fit into memory."""
    for layer in model._flatten_layers(include_self=False):
        for node in layer._inbound_nodes:
            for tensor in node.output_tensors:
                sides = [side for side in tensor.shape if side is not None]
                if math.prod(sides) > MAX_OUTPUT:
                    raise WeightsError(
                        f"{path}: refused: its layer '{one_line(layer.name)}' gives {sides} for "
                        f"one image, more than {MAX_OUTPUT} numbers"
                    )


def _refuse_code(value: Any, path: Path) -> None:
    """Refuse configurations that name anything but plain layers, before Keras builds them."""
    if isinstance(value, list):
        for item in value:
            _refuse_code(item, path)
    if not isinstance(value, dict):
        return
    name, module = value.get("class_name"), value.get("module")
    check_printable(text for text in (name, module) if text is not None)
    if name in _CODE or name == "function" or name == "__lambda__":
        raise WeightsError(
            f"{path}: refused: its configuration holds a {name}, which is code; nothing was run. "
            "Rebuild the model from plain layers, or export it as a SavedModel or ONNX"
        )
    if isinstance(module, str) and module.split(".")[0] not in _TRUSTED_MODULES:
        raise WeightsError(f"{path}: refused: its configuration names '{module}.{name}', which is outside Keras")
    for item in value.values():
        _refuse_code(item, path)


def _weights_alone(path: Path, statement: Statement | None, elements: int) -> keras.Model:
    if statement is None or not statement.architecture:
        raise WeightsError(
            f"{path}: holds weights without a model: state its 'architecture' (and 'arguments') in "
            f"{path.name}.input.json"
        )
    from iom.nn.backbones.registry import build_backbone

    arguments = dict(statement.arguments)
    if statement.embedding_size:
        arguments["embedding_size"] = statement.embedding_size
    try:
        with _at_most(elements, path):
            model = build_backbone(statement.architecture, input_size=statement.size, **arguments)
    except ConfigError as error:
        raise WeightsError(f"{path}: {error}") from error
    try:
        model.load_weights(path)
    # h5py and Keras raise several kinds for weights of another shape or a damaged file.
    except Exception as error:
        raise WeightsError(f"{path}: does not fit {statement.architecture}: {one_line(error)}") from error
    return model


def own_statement(model: keras.Model) -> Statement | None:
    """The statement in a backbone that this project saved, from its graph; `None` for other models."""
    named = {layer.name: layer for layer in model.layers}
    is_own = isinstance(named.get("pixel_scaling"), layers.Rescaling) and {"image", "embedding"} <= set(named)
    template: Literal["arcface", "dlib"] = "dlib" if model.name == "dlib_resnet" else "arcface"
    return Statement(colour_order="RGB", range=RAW, size=model.input_shape[1], template=template) if is_own else None


def on_raw_pixels(model: keras.Model, statement: Statement, path: Path) -> keras.Model:
    """The model behind a colour swap and a scaling, so that it takes raw RGB pixels."""
    shapes = [tuple(tensor.shape) for tensor in (*model.inputs, *model.outputs)]
    if [len(shape) for shape in shapes] != [4, 2] or shapes[0][1:] != (shapes[0][1] or 0, shapes[0][1], 3):
        raise WeightsError(
            f"{path}: expected a square colour image (B, S, S, 3) in and one embedding (B, D) out, "
            f"received inputs and outputs {shapes}"
        )
    side, size = shapes[0][1], shapes[1][1]
    if side != statement.size:
        raise WeightsError(f"{path}: size: {statement.size} is stated, the model takes {side}")
    if statement.embedding_size not in (0, size):
        raise WeightsError(f"{path}: embedding size: {statement.embedding_size} is stated, the model has {size}")
    scalings = (layers.Rescaling, layers.Normalization)
    if statement.range != RAW and any(isinstance(layer, scalings) for layer in model._flatten_layers()):
        raise WeightsError(
            f"{path}: the range '{statement.range}' is stated, but the model itself scales pixels and so wants '{RAW}'"
        )
    if statement.range == RAW and statement.colour_order == "RGB":
        return model
    image = keras.Input((side, side, 3), name="image")
    x = image[..., ::-1] if statement.colour_order == "BGR" else image
    if statement.range != RAW:
        scale, offset = statement.scaling
        x = layers.Rescaling(scale, offset=offset, name="pixel_scaling")(x)
    embedding = layers.Activation("linear", dtype="float32", name="embedding")(model(x))
    return keras.Model(image, embedding, name=model.name)
