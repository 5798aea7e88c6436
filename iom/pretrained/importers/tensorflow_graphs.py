"""Operations that a TensorFlow graph from elsewhere may hold: those of networks, and no others.

A graph is a program: some operations read, write or delete files, map files into memory, run
Python or reach other machines. A list of forbidden ones is never whole, so this is the list of
allowed ones. Graphs are checked as protobufs, before TensorFlow loads anything of them.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from iom._untrusted import read_bytes
from iom.errors import WeightsError
from iom.pretrained.importers.messages import one_line

LARGEST_GRAPH = (1 << 31) - 1
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


class _Place(NamedTuple):
    """A function of the library, or else a node of the graph."""

    function: str
    node: str = ""


def check_graph(graph_def: Any, source: object) -> None:
    """Check a graph without a saver, such as a frozen one, with all functions of its library.

    Args:
        graph_def: A `GraphDef`.
        source: For messages.

    Raises:
        WeightsError: Names the first operation that is not allowed, and its node.
    """
    groups = _groups(graph_def)
    _check_calls(groups, source)
    for nodes in groups.values():
        _check_nodes(nodes, OPERATIONS, graph_def, source)


def checked_saved_model(path: Path) -> Any:
    """The `SavedModel` protobuf of a folder whose every operation is allowed.

    Signatures, functions that objects hold, initialisers and everything they reach hold
    `OPERATIONS` alone. What the saver alone reaches may also save and restore.

    Raises:
        WeightsError: Missing or damaged, or an operation that is not allowed.
    """
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped,unused-ignore]
    from tensorflow.core.protobuf import saved_model_pb2

    description = saved_model_pb2.SavedModel()
    try:
        description.ParseFromString(read_bytes(path / "saved_model.pb", LARGEST_GRAPH))
    except OSError as error:
        raise WeightsError(f"cannot read weights {path}: {error.strerror}") from error
    except DecodeError as error:
        raise WeightsError(f"{path}: damaged or not a SavedModel: {one_line(error)}") from error
    for meta_graph in description.meta_graphs:
        _check_meta_graph(meta_graph, path)
    return description


def _check_meta_graph(meta_graph: Any, path: Path) -> None:
    """Each node, and each function, with what its place allows."""
    graph_def, saver = meta_graph.graph_def, meta_graph.saver_def
    groups = _groups(graph_def)
    _check_calls(groups, path)
    served = _reached(graph_def, groups, _served_roots(meta_graph))
    restore = _reached(graph_def, groups, [saver.restore_op_name])
    save = _reached(graph_def, groups, [saver.save_tensor_name])
    filename = _node_name(saver.filename_tensor_name)
    for name, nodes in groups.items():
        for node in nodes:
            place = _Place(name) if name else _Place("", node.name)
            allowed = OPERATIONS
            if place not in served:
                allowed |= SAVING if place in save - restore else frozenset()
                allowed |= RESTORING if place in restore else frozenset()
            _check_nodes([node], allowed, graph_def, path)
            # Without objects the saver's graph is what TensorFlow runs to load the variables.
            executed = not meta_graph.HasField("object_graph_def") and place in restore
            if executed and node.op in RESTORING and (name or _first_input(node) != filename):
                raise _refusal(node, path, "which restores from another file than the model's")


def _groups(graph_def: Any) -> Mapping[str, Iterable[Any]]:
    """Nodes of the graph under an empty name, and of each function under its own."""
    functions = graph_def.library.function
    return {"": graph_def.node, **{f.signature.name: f.node_def for f in functions}}


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


def _reached(graph_def: Any, groups: Mapping[str, Iterable[Any]], roots: Iterable[str]) -> set[_Place]:
    """Functions, and nodes of the graph, that `roots` need; a root is a name of either."""
    nodes = {node.name: node for node in graph_def.node}
    reached: set[_Place] = set()
    pending = [place for root in roots for place in (_Place(root), _Place("", _node_name(root))) if root]
    while pending:
        place = pending.pop()
        inside: Iterable[Any] = ()
        if place in reached:
            continue
        if place.function in groups and place.function:
            inside = groups[place.function]
        elif place.node in nodes and not place.function:
            inside = [nodes[place.node]]
            pending.extend(_Place("", _node_name(name)) for name in nodes[place.node].input)
        reached.add(place)
        for node in inside:
            pending.extend(_Place(name) for name in _called(node))
    return reached


def _check_calls(groups: Mapping[str, Iterable[Any]], source: object) -> None:
    """Refuse functions that call themselves: TensorFlow would run until its stack is full."""
    calls = {name: {called for node in nodes for called in _called(node)} for name, nodes in groups.items() if name}
    left = set(calls)
    while left:
        ends = {name for name in left if not calls[name] & left}
        if not ends:
            raise WeightsError(
                f"{source}: refused: functions of the graph call themselves, {max(left)[:80]!r} or "
                "one that it calls; nothing was run"
            )
        left -= ends


def _called(node: Any) -> Iterator[str]:
    """Names of the functions that a node may call."""
    yield node.op
    for attribute in node.attr.values():
        yield attribute.func.name
        yield from (function.name for function in attribute.list.func)


def _check_nodes(nodes: Iterable[Any], allowed: frozenset[str], graph_def: Any, source: object) -> None:
    functions = {function.signature.name for function in graph_def.library.function}
    for node in nodes:
        if node.op not in allowed and (node.op not in functions or _is_operation(node.op)):
            raise _refusal(node, source, "which is not one that networks need")
        value = node.attr["value"].tensor if node.op == "Const" else None
        if value is not None and (value.dtype in _HANDLES or value.variant_val):
            raise _refusal(node, source, "which holds a handle instead of numbers")


_HANDLES = (20, 21)
"""`DT_RESOURCE` and `DT_VARIANT`."""


def _is_operation(name: str) -> bool:
    """Whether TensorFlow has an operation of that name; a function may not stand in for it."""
    from tensorflow.python.framework import op_def_registry

    return op_def_registry.get(name) is not None


def _refusal(node: Any, source: object, reason: str) -> WeightsError:
    return WeightsError(
        f"{source}: refused: the graph holds {node.op[:80]!r} ({node.name[:80]!r}), {reason}; nothing was run"
    )


def _first_input(node: Any) -> str:
    return _node_name(node.input[0]) if node.input else ""


def _node_name(tensor: str) -> str:
    return tensor.removeprefix("^").partition(":")[0]
