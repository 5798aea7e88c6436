"""TensorFlow graphs as fixed embedders: frozen `.pb` files and SavedModels.

They are run as they are, not turned into Keras graphs: what tf-insightface and Facenet publish has
too many shapes. A graph may hold operations that read or write files or run Python: only those of
`iom.pretrained.importers.tensorflow_graphs` are run, and a graph with others is refused before it is loaded.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError  # type: ignore[import-untyped,unused-ignore]
from numpy.typing import NDArray

from iom._untrusted import read_bytes
from iom.errors import WeightsError
from iom.pretrained.importers.inputs import Statement
from iom.pretrained.importers.messages import check_names, one_line
from iom.pretrained.importers.tensorflow_graphs import LARGEST_GRAPH, check_graph, checked_saved_model

_INPUTS = ("input", "img_inputs", "input_image", "images", "data")
_OUTPUTS = ("embeddings", "embedding", "output", "fc1")
"""Usual names in published graphs."""


class FixedEmbedder:
    """A TensorFlow graph: raw RGB pixels `(B, S, S, 3)` -> embeddings `(B, D)`."""

    def __init__(self, function: Callable[[Any], Any], statement: Statement, *, source: str) -> None:
        self._function = function
        self._spec = statement.input
        self._source = source
        self.input_size = statement.input.size
        probe = self(np.zeros((2, self.input_size, self.input_size, 3), np.float32))
        if probe.ndim != 2 or probe.shape[0] != 2:
            raise WeightsError(f"{source}: expected embeddings (B, D), the output for two images is {probe.shape}")
        self.embedding_size = int(probe.shape[1])
        if statement.embedding_size not in (0, self.embedding_size):
            raise WeightsError(
                f"{source}: embedding size: {statement.embedding_size} is stated, the graph has {self.embedding_size}"
            )

    def __call__(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """Embeddings, not normalised."""
        scale, offset = self._spec.scaling
        pixels = np.asarray(images, np.float32) * np.float32(scale) + np.float32(offset)
        if self._spec.colour_order == "BGR":
            pixels = pixels[..., ::-1]
        try:
            result = self._function(tf.constant(pixels))
        except (tf.errors.OpError, ValueError, TypeError) as error:
            reason = one_line(error)
            raise WeightsError(f"{self._source}: the graph does not run: {reason}") from error
        return np.asarray(result, np.float32)


def read_frozen(path: Path, statement: Statement) -> FixedEmbedder:
    """Embedder of a frozen graph.

    Input, output and further inputs are found by kind and name, or stated under `tensors`:
    `{"input": "img_inputs:0", "output": "embeddings:0", "feed": {"dropout_rate:0": 1.0}}`.

    Raises:
        WeightsError: The file is missing or damaged, holds an operation that is not allowed, or its
            tensors are not clear.
    """
    graph_def = tf.compat.v1.GraphDef()
    try:
        graph_def.ParseFromString(read_bytes(path, LARGEST_GRAPH))
    except OSError as error:
        raise WeightsError(f"cannot read weights {path}: {error.strerror}") from error
    except DecodeError as error:
        raise WeightsError(f"{path}: damaged or not a frozen graph: {error}") from error
    if not graph_def.node:
        raise WeightsError(f"{path}: damaged or not a frozen graph: it has no operations")
    try:
        function = _function(graph_def, statement, path)
    except WeightsError:
        raise
    # A damaged graph fails in many ways inside TensorFlow.
    except Exception as error:
        reason = one_line(error)
        raise WeightsError(f"{path}: damaged or unfit frozen graph: {reason}") from error
    return FixedEmbedder(function, statement, source=str(path))


def read_saved_model(path: Path, statement: Statement) -> FixedEmbedder:
    """Embedder of a SavedModel's serving signature.

    Raises:
        WeightsError: The folder is damaged, holds an operation that is not allowed, or its
            signature has not one input and one output.
    """
    checked_saved_model(path)
    try:
        loaded = tf.saved_model.load(str(path))
        signature = _signature(loaded, path)
    except WeightsError:
        raise
    # Damaged checkpoints and graphs fail in many ways inside TensorFlow.
    except Exception as error:
        reason = one_line(error)
        raise WeightsError(f"{path}: damaged SavedModel: {reason}") from error
    ((name, image),) = signature.structured_input_signature[1].items()
    _compare_size(image.shape, statement, path)
    (output,) = signature.structured_outputs

    def call(images: Any, keep: Any = loaded) -> Any:
        # `keep` holds the variables alive, which a signature alone does not.
        return signature(**{name: images})[output]

    return FixedEmbedder(call, statement, source=str(path))


def _function(graph_def: Any, statement: Statement, path: Path) -> Callable[[Any], Any]:
    """What leads from the image to the embedding, as a function; all else is cut off."""
    tensors = statement.tensors
    nodes = {node.name: node for node in graph_def.node}
    check_names(nodes)
    stated = {_node_name(name): value for name, value in tensors.get("feed", {}).items()}
    image = _node_name(tensors.get("input", ""))
    output = tensors.get("output") or _find_output(nodes, path)
    for name in (*stated, *([image] if image else []), _node_name(output)):
        if name not in nodes:
            raise WeightsError(f"{path}: the graph has no operation '{name}'")
    if not image:
        needed = _ancestors(nodes, _node_name(output), ends=set(stated))
        image = next((name for name in _INPUTS if name in needed), "")
    needed = _ancestors(nodes, _node_name(output), ends={*stated, image})
    if image and image not in needed:
        raise WeightsError(f"{path}: the output '{output}' does not depend on '{image}'")
    feeds = {name: stated[name] for name in stated if name in needed}
    for name in needed - feeds.keys() - {image}:
        _find_feed(nodes[name], feeds)
    unclear = [name for name, value in feeds.items() if value is None]
    if not image and len(unclear) == 1:
        image = unclear[0]
        del feeds[image]
    elif unclear or not image:
        raise WeightsError(
            f"{path}: the inputs {', '.join(sorted(unclear)) or '(none)'} are not clear: state "
            '"tensors": {"input": "IMAGE:0", "feed": {"OTHER:0": VALUE}} in '
            f"{path.name}.input.json"
        )
    _compare_size(tf.TensorShape(nodes[image].attr["shape"].shape), statement, path)
    pruned = tf.compat.v1.GraphDef(versions=graph_def.versions, library=graph_def.library)
    for node in graph_def.node:
        if node.name in needed:
            pruned.node.append(_placeholder(node) if node.name in {*feeds, image} else node)
    check_graph(pruned, path)
    return _imported(pruned, image, output, feeds)


def _compare_size(shape: tf.TensorShape, statement: Statement, path: Path) -> None:
    """A fully convolutional graph would take any size, and embed another worse."""
    sides = shape.as_list()[1:3] if shape.rank == 4 else []
    if any(side not in (None, statement.input.size) for side in sides):
        raise WeightsError(f"{path}: size: {statement.input.size} is stated, the graph takes {sides}")


def _node_name(tensor: str) -> str:
    return tensor.removeprefix("^").partition(":")[0]


def _find_output(nodes: Mapping[str, Any], path: Path) -> str:
    """A tensor of a usual name, or the only one that nothing reads."""
    for name in _OUTPUTS:
        if name in nodes:
            return name
    read = {_node_name(source) for node in nodes.values() for source in node.input}
    ends = [name for name, node in nodes.items() if name not in read and node.op != "NoOp"]
    if len(ends) == 1:
        return ends[0]
    raise WeightsError(
        f"{path}: {len(ends)} tensors could be the output ({', '.join(ends[:5])}): state it as "
        f'"tensors": {{"output": "NAME:0"}} in {path.name}.input.json'
    )


def _ancestors(nodes: Mapping[str, Any], output: str, *, ends: set[str]) -> set[str]:
    """What the output needs, no further than `ends`: Facenet's image comes out of a file queue."""
    needed: set[str] = set()
    pending = [output]
    while pending:
        name = pending.pop()
        if name in needed:
            continue
        needed.add(name)
        if name not in ends:
            pending.extend(_node_name(source) for source in nodes[name].input)
    return needed


def _find_feed(node: Any, feeds: dict[str, Any]) -> None:
    """Switches such as Facenet's `phase_train` are off; what has a default keeps it."""
    if node.op in ("Placeholder", "PlaceholderWithDefault"):
        if node.attr["dtype"].type == tf.bool.as_datatype_enum:
            feeds[node.name] = False
        elif node.op == "Placeholder":
            feeds[node.name] = None


def _placeholder(node: Any) -> Any:
    kind = node.attr["dtype"].type or node.attr["T"].type
    attributes = {"dtype": tf.compat.v1.AttrValue(type=kind)}
    return tf.compat.v1.NodeDef(name=node.name, op="Placeholder", attr=attributes)


def _imported(graph_def: Any, image: str, output: str, feeds: Mapping[str, Any]) -> Callable[[Any], Any]:
    """Function of the image alone, with the other inputs as constants."""
    kinds = {
        node.name: tf.dtypes.as_dtype(node.attr["dtype"].type) for node in graph_def.node if node.op == "Placeholder"
    }

    def build() -> None:
        tf.graph_util.import_graph_def(graph_def, name="")

    # Not an import inside a `tf.function`: there the functions of an `If` stay unknown.
    whole = tf.compat.v1.wrap_function(build, [])
    tensor = whole.graph.as_graph_element
    names = [f"{name}:0" for name in (image, *feeds)]
    call = whole.prune([tensor(n) for n in names], tensor(output if ":" in output else f"{output}:0"))
    values = [tf.constant(value, kinds[name]) for name, value in feeds.items()]
    return lambda images: call(tf.cast(images, kinds[image]), *values)


def _signature(loaded: Any, path: Path) -> Any:
    signatures = loaded.signatures
    if not signatures:
        raise WeightsError(f"{path}: this SavedModel has no signature to call")
    chosen = signatures.get("serving_default") or next(iter(signatures.values()))
    inputs, outputs = chosen.structured_input_signature[1], chosen.structured_outputs
    if len(inputs) != 1 or len(outputs) != 1:
        raise WeightsError(
            f"{path}: expected a signature of one image and one embedding, received inputs "
            f"{sorted(inputs)} and outputs {sorted(outputs)}"
        )
    return chosen
