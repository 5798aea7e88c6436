"""TensorFlow graphs as fixed embedders: frozen `.pb` files and SavedModels, and the operations that they may hold.

They are run as they are. A graph is a program: some operations read, write or delete files, run Python or reach other
machines. A list of forbidden ones is never complete, so this is the list of allowed ones, those of networks. Graphs are
checked as protobufs, before TensorFlow loads anything of them.
"""

import graphlib
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.framework import op_def_registry

from iom._untrusted import check_printable, one_line, read_bytes, reading
from iom.errors import WeightsError
from iom.pretrained.manifest import Statement

MAX_GRAPH_BYTES = (1 << 31) - 1
"""Bytes; protobuf takes no more."""

_PLUMBING = """
    Const Placeholder PlaceholderWithDefault Identity IdentityN NoOp StopGradient PreventGradient
    EnsureShape CheckNumerics Assert ControlTrigger
    VarHandleOp ReadVariableOp AssignVariableOp AssignAddVariableOp AssignSubVariableOp
    VarIsInitializedOp DisableCopyOnRead ResourceGather
    Variable VariableV2 Assign AssignAdd AssignSub IsVariableInitialized
    PartitionedCall StatefulPartitionedCall If StatelessIf While StatelessWhile Case StatelessCase
    Switch Merge Enter Exit NextIteration LoopCond
"""
_LAYERS = """
    Conv2D Conv2DBackpropInput DepthwiseConv2dNative MatMul BatchMatMul BatchMatMulV2 BatchMatMulV3
    Einsum BiasAdd BiasAddV1 FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3
    BatchNormWithGlobalNormalization LRN MaxPool MaxPoolV2 AvgPool
    Relu Relu6 LeakyRelu Elu Selu Softplus Softsign Softmax LogSoftmax Sigmoid Tanh
    SpaceToBatch SpaceToBatchND BatchToSpace BatchToSpaceND SpaceToDepth DepthToSpace
    ResizeBilinear ResizeNearestNeighbor ResizeBicubic ResizeArea CropAndResize
    RandomUniform RandomUniformInt RandomStandardNormal TruncatedNormal StatelessRandomUniform
    StatelessRandomUniformV2 StatelessRandomNormalV2 StatelessRandomGetKeyCounter
    StatelessRandomGetAlg StatelessRandomGetKeyCounterAlg
    FakeQuantWithMinMaxArgs FakeQuantWithMinMaxVars FakeQuantWithMinMaxVarsPerChannel
"""
_MATHEMATICS = """
    Add AddV2 AddN Sub Mul MulNoNan Div RealDiv DivNoNan FloorDiv TruncateDiv FloorMod Mod Neg Abs
    Sign Square SquaredDifference Sqrt Rsqrt Pow Exp Expm1 Log Log1p Inv Reciprocal Erf Erfc Sin Cos
    Atan Atan2 Maximum Minimum ClipByValue Floor Ceil Round Rint Cast L2Loss Cumsum Cumprod
    Sum Mean Max Min Prod All Any ArgMax ArgMin TopK TopKV2 EuclideanNorm
    Equal NotEqual Less LessEqual Greater GreaterEqual LogicalAnd LogicalOr LogicalNot
    Select SelectV2 Where IsNan IsInf IsFinite
"""
_SHAPES = """
    Shape ShapeN Size Rank Reshape Squeeze ExpandDims Transpose Concat ConcatV2 Split SplitV Pack
    Unpack Slice StridedSlice Gather GatherV2 GatherNd Pad PadV2 MirrorPad Tile Fill Range LinSpace
    ZerosLike OnesLike BroadcastTo BroadcastArgs BroadcastGradientArgs Reverse ReverseV2 OneHot
    InvertPermutation ScatterNd TensorScatterUpdate MatrixBandPart MatrixDiag MatrixDiagV3
    ExtractImagePatches
"""
OPERATIONS = frozenset((_PLUMBING + _LAYERS + _MATHEMATICS + _SHAPES).split())
"""Allowed everywhere."""
RESTORING = frozenset({"RestoreV2"})
SAVING = RESTORING | frozenset(
    ["SaveV2", "MergeV2Checkpoints", "ShardedFilename", "StringJoin", "StaticRegexFullMatch"]
)
"""Part of every SavedModel: allowed only where nothing but its saver reaches them."""
Units = Mapping[tuple[str, str], list[Any]]
NODE, FUNCTION = "node", "function"
_INPUTS = ("input", "img_inputs", "input_image", "images", "data")
_OUTPUTS = ("embeddings", "embedding", "output", "fc1")
"""Usual names in published graphs."""


class FixedEmbedder:
    """A TensorFlow graph: raw RGB pixels `(B, S, S, 3)` -> embeddings `(B, D)`."""

    def __init__(self, function: Callable[[Any], Any], statement: Statement, *, source: str) -> None:
        self._function = function
        self._statement = statement
        self._source = source
        probe = self(np.zeros((2, statement.size, statement.size, 3), np.float32))
        if probe.ndim != 2 or probe.shape[0] != 2:
            raise WeightsError(f"{source}: expected embeddings (B, D), the output for two images is {probe.shape}")
        self.embedding_size = int(probe.shape[1])
        if statement.embedding_size not in (0, self.embedding_size):
            raise WeightsError(
                f"{source}: embedding size: {statement.embedding_size} is stated, the graph has {self.embedding_size}"
            )

    def __call__(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """Embeddings, not normalised."""
        scale, offset = self._statement.scaling
        pixels = np.asarray(images, np.float32) * np.float32(scale) + np.float32(offset)
        if self._statement.colour_order == "BGR":
            pixels = pixels[..., ::-1]
        try:
            result = self._function(tf.constant(pixels))
        except (tf.errors.OpError, ValueError, TypeError) as error:
            raise WeightsError(f"{self._source}: the graph does not run: {one_line(error)}") from error
        return np.asarray(result, np.float32)

    predict_on_batch = __call__


def read_frozen(path: Path, statement: Statement) -> FixedEmbedder:
    """Embedder of a frozen graph.

    Input, output and further inputs are found by kind and name, or stated under `tensors`: `{"input": "img_inputs:0",
    "output": "embeddings:0", "feed": {"dropout_rate:0": 1.0}}`.
    """
    with reading(path, "a frozen graph", error=WeightsError):
        graph_def = tf.compat.v1.GraphDef.FromString(read_bytes(path, MAX_GRAPH_BYTES))
        if not graph_def.node:
            raise ValueError("it has no operations")
        function = _function(graph_def, statement, path)
    return FixedEmbedder(function, statement, source=str(path))


def read_saved_model(path: Path, statement: Statement) -> FixedEmbedder:
    """Embedder of a SavedModel's serving signature, which must have one input and one output."""
    check_saved_model(path)
    with reading(path, "a SavedModel", error=WeightsError):
        loaded = tf.saved_model.load(str(path))
    signature = loaded.signatures.get("serving_default") or next(iter(loaded.signatures.values()), None)
    if signature is None:
        raise WeightsError(f"{path}: this SavedModel has no signature to call")
    inputs, outputs = signature.structured_input_signature[1], signature.structured_outputs
    if len(inputs) != 1 or len(outputs) != 1:
        raise WeightsError(
            f"{path}: expected a signature of one image and one embedding, received inputs "
            f"{sorted(inputs)} and outputs {sorted(outputs)}"
        )
    ((name, image),), (output,) = inputs.items(), outputs
    _compare_size(image.shape, statement, path)

    def call(images: Any, keep: Any = loaded) -> Any:
        # `keep` holds the variables alive, which a signature alone does not.
        return signature(**{name: images})[output]

    return FixedEmbedder(call, statement, source=str(path))


def _function(graph_def: Any, statement: Statement, path: Path) -> Callable[[Any], Any]:
    """Function from the image to the embedding; the rest of the graph is cut off."""
    tensors = statement.tensors
    units = _units(graph_def, path)
    nodes = {node.name: node for node in graph_def.node}
    check_printable(nodes)
    stated = {_node_name(name): value for name, value in tensors.get("feed", {}).items()}
    image = _node_name(tensors.get("input", ""))
    output = tensors.get("output") or _find_output(nodes, path)
    for name in (*stated, *([image] if image else []), _node_name(output)):
        if name not in nodes:
            raise WeightsError(f"{path}: the graph has no operation '{name}'")
    if not image:
        found = _reached(units, [output], ends=stated)
        image = next((name for name in _INPUTS if (NODE, name) in found), "")
    # Facenet's image comes out of a file queue: what stands before the image is not needed.
    needed = {name for kind, name in _reached(units, [output], ends={*stated, image}) if kind == NODE}
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
    """Refuse a stated size other than the graph's."""
    sides = shape.as_list()[1:3] if shape.rank == 4 else []
    if any(side not in (None, statement.size) for side in sides):
        raise WeightsError(f"{path}: size: {statement.size} is stated, the graph takes {sides}")


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


def _find_feed(node: Any, feeds: dict[str, Any]) -> None:
    """Switches such as Facenet's `phase_train` are off; inputs with a default keep it."""
    if node.op in ("Placeholder", "PlaceholderWithDefault"):
        if node.attr["dtype"].type == tf.bool.as_datatype_enum:
            feeds[node.name] = False
        elif node.op == "Placeholder":
            feeds[node.name] = None


def _placeholder(node: Any) -> Any:
    attributes = {"dtype": tf.compat.v1.AttrValue(type=node.attr["dtype"].type or node.attr["T"].type)}
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


def check_graph(graph_def: Any, source: object) -> None:
    """Refuse a `GraphDef` without a saver, such as a frozen one, with an operation that is not allowed."""
    units = _units(graph_def, source)
    for nodes in units.values():
        _check_nodes(nodes, OPERATIONS, units, source)


def check_saved_model(path: Path) -> None:
    """Refuse a SavedModel with an operation that is not allowed.

    Signatures, functions that objects hold, initialisers and everything they reach hold `OPERATIONS` alone; only the
    operations that the saver alone reaches may also save and restore.
    """
    with reading(path, "a SavedModel", error=WeightsError):
        description = saved_model_pb2.SavedModel.FromString(read_bytes(path / "saved_model.pb", MAX_GRAPH_BYTES))
    for meta_graph in description.meta_graphs:
        _check_meta_graph(meta_graph, path)


def _check_meta_graph(meta_graph: Any, path: Path) -> None:
    """Check each node and each function against the operations allowed at its place."""
    saver = meta_graph.saver_def
    units = _units(meta_graph.graph_def, path)
    served = _reached(units, _served_roots(meta_graph))
    restore = _reached(units, [saver.restore_op_name])
    save = _reached(units, [saver.save_tensor_name])
    filename = _node_name(saver.filename_tensor_name)
    for unit, nodes in units.items():
        allowed = OPERATIONS
        if unit not in served:
            allowed |= SAVING if unit in save - restore else frozenset()
            allowed |= RESTORING if unit in restore else frozenset()
        _check_nodes(nodes, allowed, units, path)
        # Without objects the saver's graph is what TensorFlow runs to load the variables.
        if meta_graph.HasField("object_graph_def") or unit not in restore:
            continue
        for node in nodes:
            first = _node_name(node.input[0]) if node.input else ""
            if node.op in RESTORING and (unit[0] == FUNCTION or first != filename):
                raise _refusal(node, path, "which restores from another file than the model's")


def _units(graph_def: Any, source: object) -> Units:
    """What is needed or not as a whole: each node of the graph, and each function with its nodes."""
    units: dict[tuple[str, str], list[Any]] = {}
    for node in graph_def.node:
        units.setdefault((NODE, node.name), []).append(node)
    for function in graph_def.library.function:
        units.setdefault((FUNCTION, function.signature.name), []).extend(function.node_def)
    calls = {unit: [need for need in _needs(unit, units) if need in units] for unit in units if unit[0] == FUNCTION}
    try:  # TensorFlow would run functions that call themselves until its stack is full
        graphlib.TopologicalSorter(calls).prepare()
    except graphlib.CycleError as error:
        raise WeightsError(
            f"{source}: refused: functions of the graph call themselves, {error.args[1][0][1][:80]!r} or "
            "one that it calls; nothing was run"
        ) from error
    return units


def _needs(unit: tuple[str, str], units: Units) -> Iterator[tuple[str, str]]:
    """The functions that a unit may call, and the nodes that a node of the graph reads."""
    for node in units[unit]:
        called = [node.op]
        for attribute in node.attr.values():
            called += [attribute.func.name, *(function.name for function in attribute.list.func)]
        yield from ((FUNCTION, name) for name in called)
        if unit[0] == NODE:
            yield from ((NODE, _node_name(name)) for name in node.input)


def _served_roots(meta_graph: Any) -> Iterator[str]:
    """Names of nodes and functions that a loader or a caller runs, the saver's left aside."""
    for signature in meta_graph.signature_def.values():
        for tensor in (*signature.inputs.values(), *signature.outputs.values()):
            yield tensor.name
            if tensor.WhichOneof("encoding") not in (None, "name"):
                for part in ("values_tensor_name", "indices_tensor_name"):
                    yield getattr(tensor.coo_sparse, part)
                for component in tensor.composite_tensor.components:
                    yield component.name
    for key, collection in meta_graph.collection_def.items():
        if key != "saved_model_assets":
            yield from collection.node_list.value
    yield from meta_graph.object_graph_def.concrete_functions
    for function in meta_graph.graph_def.library.function:
        if "api_implements" in function.attr:  # TensorFlow may run it in the place of another
            yield function.signature.name


def _reached(units: Units, roots: Iterable[str], *, ends: Container[str] = ()) -> set[tuple[str, str]]:
    """Units that `roots` need, up to `ends`; a root is a name of either kind."""
    reached: set[tuple[str, str]] = set()
    pending = [unit for root in roots if root for unit in ((FUNCTION, root), (NODE, _node_name(root)))]
    while pending:
        unit = pending.pop()
        if unit in units and unit not in reached:
            reached.add(unit)
            if unit[1] not in ends:
                pending.extend(_needs(unit, units))
    return reached


def _check_nodes(nodes: Iterable[Any], allowed: frozenset[str], units: Units, source: object) -> None:
    for node in nodes:
        is_call = (FUNCTION, node.op) in units and op_def_registry.get(node.op) is None
        if node.op not in allowed and not is_call:
            raise _refusal(node, source, "which is not one that networks need")
        value = node.attr["value"].tensor if node.op == "Const" else None
        if value is not None and (value.dtype in _HANDLES or value.variant_val):
            raise _refusal(node, source, "which holds a handle instead of numbers")


_HANDLES = (20, 21)
"""`DT_RESOURCE` and `DT_VARIANT`."""


def _refusal(node: Any, source: object, reason: str) -> WeightsError:
    return WeightsError(
        f"{source}: refused: the graph holds {node.op[:80]!r} ({node.name[:80]!r}), {reason}; nothing was run"
    )


def _node_name(tensor: str) -> str:
    return tensor.removeprefix("^").partition(":")[0]
