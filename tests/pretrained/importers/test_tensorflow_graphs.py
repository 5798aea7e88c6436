"""Graphs that would touch files: refused by name before TensorFlow loads anything of them."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.framework import op_def_registry

from iom.errors import WeightsError
from iom.models.artifact import open_saved_model
from iom.pretrained.importers.tensorflow_graphs import (
    OPERATIONS,
    SAVING,
    check_graph,
    check_saved_model,
    read_frozen,
    read_saved_model,
)
from iom.pretrained.manifest import Statement

SIDE = 4
STATED = Statement(colour_order="RGB", range="0..255", size=SIDE)
v1 = tf.compat.v1
IMAGE = tf.TensorSpec([None, SIDE, SIDE, 3], tf.float32, name="image")

_TOUCH_FILES_OR_STATE = """
    Save SaveV2 SaveSlices Restore RestoreSlice RestoreV2 MergeV2Checkpoints ShardedFilename
    ShardedFilespec ImmutableConst RecordInput Skipgram FixedUnigramCandidateSampler
    GenerateVocabRemapping LoadAndRemapMatrix DecodeProtoV2 EncodeProto
    CalibrationStatisticsSaver DumpTensor DebugIdentity DebugIdentityV2 DebugNanCount
    DebugNumericSummary DebugNumericSummaryV2 DTensorRestoreV2 DistributedSave XlaCustomCall
    XlaCustomCallV2 XlaLaunch ReadFile WriteFile MatchingFiles PyFunc PyFuncStateless
    EagerPyFunc Print PrintV2 ReaderReadV2 ReaderReadUpToV2 WholeFileReaderV2 TextLineReaderV2
    TFRecordReaderV2 FixedLengthRecordReaderV2 IdentityReaderV2 LMDBReader
    InitializeTableFromTextFile InitializeTableFromTextFileV2 LookupTableFind LookupTableFindV2
    LookupTableExportV2 LookupTableImportV2 HashTable HashTableV2 MutableHashTableV2
    TextLineDataset TFRecordDataset TFRecordDatasetV2 FixedLengthRecordDataset
    FixedLengthRecordDatasetV2 SqlDataset LMDBDataset MatchingFilesDataset CacheDataset
    CacheDatasetV2 SnapshotDataset SnapshotDatasetV2 SaveDataset SaveDatasetV2 LoadDataset
    DatasetToTFRecord CSVDataset OneShotIterator IteratorV2 IteratorGetNext MakeIterator
    SummaryWriter CreateSummaryFileWriter CreateSummaryDbWriter WriteSummary WriteGraphSummary
    FlushSummaryWriter Send _Send Recv _Recv RemoteCall RpcCall QueueDequeueV2 FIFOQueueV2
    SymbolicGradient CollectiveReduceV2 DataServiceDataset RegisterDataset AssetConst
    GetSessionHandle DecodeImage DecodeJpeg ConfigureTPU TPUReplicate TRTEngineOp StringFormat
    RegexReplace MapDefun ScopedAllocator Batch BatchFunction
"""
HOSTILE = _TOUCH_FILES_OR_STATE.split()
REGISTERED = sorted(set(dir(tf.raw_ops)) | {"_Send", "_Recv"})
OPERATIONS_NOT_ALLOWED = sorted({*HOSTILE, *REGISTERED, "NoSuchOperation"} - OPERATIONS - {""})
NAMES = [name for name in OPERATIONS_NOT_ALLOWED if not name.startswith("__")]


def node(op, name, *inputs, **functions):
    made = v1.NodeDef(op=op, name=name, input=inputs)
    for attribute, function in functions.items():
        made.attr[attribute].func.name = function
    return made


def function(name, *nodes):
    made = v1.GraphDef().library.function.add()
    made.signature.name = name
    made.node_def.extend(nodes)
    return made


def graph(*nodes, functions=()):
    made = v1.GraphDef(node=nodes)
    made.library.function.extend(functions)
    return made


def frozen(op, place):
    """A graph with an operation, itself or in a function that is called or is not."""
    image, bad = node("Placeholder", "input"), node(op, "bad", "input")
    if place == "graph":
        return graph(image, bad, node("Identity", "embeddings", "bad"))
    if place == "unused function":
        return graph(image, node("Identity", "embeddings", "input"), functions=[function("f", bad)])
    functions = [function("outer", node("If", "i", then_branch="inner")), function("inner", bad)]
    return graph(image, node("PartitionedCall", "embeddings", "input", f="outer"), functions=functions)


def saved(op, place):
    """A SavedModel with a saver of the usual form and an operation in some place."""
    image, bad = node("Placeholder", "input"), node(op, "bad")
    saver = [
        node("Placeholder", "filename"),
        node("PartitionedCall", "save", f="traced_save"),
        node("NoOp", "restore", "^load"),
        node("PartitionedCall", "load", f="traced_restore"),
    ]
    functions = [
        function("traced_save", node("SaveV2", "s")),
        function("traced_restore", node("RestoreV2", "r")),
        function("serve", node("Relu", "r")),
    ]
    nodes = [image, node("PartitionedCall", "served", "input", f="serve")]
    if place == "graph":
        nodes.append(bad)
    elif place == "signature":
        nodes += [bad, node("Identity", "other", "^bad")]
    elif place == "control input":
        nodes += [bad]
        nodes[1].input.append("^bad")
    elif place == "initialiser":
        nodes += [bad, node("NoOp", "init", "^bad")]
    elif place == "served function":
        functions[2].node_def.append(bad)
    elif place == "called from a served function":
        functions[2].node_def.append(node("g", "call"))
        functions.append(function("g", bad))
    elif place == "function of an object":
        functions.append(function("held", node("PartitionedCall", "p", f="g")))
        functions.append(function("g", bad))
    elif place == "function that nothing calls":
        functions.append(function("g", bad))
    elif place == "implementation of another":
        functions[0].attr["api_implements"].s = b"serve"
        functions[0].node_def.append(bad)
    made = saved_model_pb2.SavedModel()
    meta = made.meta_graphs.add()
    meta.graph_def.CopyFrom(graph(*nodes, *saver, functions=functions))
    meta.saver_def.filename_tensor_name = "filename:0"
    meta.saver_def.save_tensor_name = "save:0"
    meta.saver_def.restore_op_name = "restore"
    meta.signature_def["serving_default"].inputs["image"].name = "input:0"
    meta.signature_def["serving_default"].outputs["embedding"].name = "served:0"
    if place == "signature":
        meta.signature_def["other"].outputs["x"].name = "other:0"
    if place == "initialiser":
        meta.collection_def["saved_model_main_op"].node_list.value.append("init")
    meta.object_graph_def.nodes.add().user_object.identifier = "_generic_user_object"
    meta.object_graph_def.concrete_functions["serve"].bound_inputs.extend([])
    if place == "function of an object":
        meta.object_graph_def.concrete_functions["held"].bound_inputs.extend([])
    return made


PLACES = [
    "graph",
    "signature",
    "control input",
    "initialiser",
    "served function",
    "called from a served function",
    "function of an object",
    "function that nothing calls",
    "implementation of another",
]


@pytest.mark.parametrize("place", ["graph", "called function", "unused function"])
def test_frozen_graphs_hold_operations_of_networks_alone(place):
    assert len(NAMES) > 1000
    check_graph(frozen("Relu", place), "x.pb")
    for op in NAMES:
        with pytest.raises(WeightsError, match=rf"x\.pb: refused: .*'{op}' \('bad'\)"):
            check_graph(frozen(op, place), "x.pb")


@pytest.mark.parametrize("place", PLACES)
def test_saved_models_hold_operations_of_networks_alone(tmp_path, place):
    def check(op):
        (tmp_path / "saved_model.pb").write_bytes(saved(op, place).SerializeToString())
        check_saved_model(tmp_path)

    if place != "implementation of another":
        check("Relu")
    for op in {*HOSTILE, *SAVING} - OPERATIONS:
        found = "SaveV2" if place == "implementation of another" else op
        with pytest.raises(WeightsError, match=f"refused: .*'{found}'"):
            check(op)


@pytest.mark.parametrize("op", ["ReadFile", "WriteFile", "Save", "Print"])
@pytest.mark.parametrize("name", ["traced_save", "traced_restore"])
def test_a_saver_saves_and_restores_and_no_more(tmp_path, op, name):
    made = saved("Relu", "graph")
    for each in made.meta_graphs[0].graph_def.library.function:
        if each.signature.name == name:
            each.node_def.append(node(op, "bad"))
    (tmp_path / "saved_model.pb").write_bytes(made.SerializeToString())
    with pytest.raises(WeightsError, match=f"refused: .*'{op}'"):
        check_saved_model(tmp_path)


def test_restoring_does_not_save(tmp_path):
    made = saved("Relu", "graph")
    made.meta_graphs[0].graph_def.library.function[1].node_def.append(node("SaveV2", "bad"))
    (tmp_path / "saved_model.pb").write_bytes(made.SerializeToString())
    with pytest.raises(WeightsError, match=r"refused: .*'SaveV2' \('bad'\)"):
        check_saved_model(tmp_path)


def test_every_meta_graph_counts(tmp_path):
    made = saved("Relu", "graph")
    made.meta_graphs.extend(saved("WriteFile", "served function").meta_graphs)
    (tmp_path / "saved_model.pb").write_bytes(made.SerializeToString())
    with pytest.raises(WeightsError, match="'WriteFile'"):
        check_saved_model(tmp_path)


def test_a_function_cannot_bear_the_name_of_an_operation():
    functions = [function("WriteFile", node("Relu", "r"))]
    with pytest.raises(WeightsError, match="'WriteFile'"):
        check_graph(graph(node("WriteFile", "bad"), functions=functions), "x.pb")
    functions = [function("mine", node("Relu", "r"))]
    check_graph(graph(node("mine", "good"), functions=functions), "x.pb")


@pytest.mark.parametrize("calls", [{"f": "f"}, {"f": "g", "g": "f"}])
@pytest.mark.parametrize("op", ["PartitionedCall", "If", "mine"])
def test_functions_that_call_themselves_are_refused(calls, op):
    """They would end the process with a full stack."""
    functions = [function(name, node("PartitionedCall", "c", f=to)) for name, to in calls.items()]
    functions.append(function("mine", node("Relu", "r")))
    with pytest.raises(WeightsError, match="call themselves"):
        check_graph(graph(node(op, "start", f="f"), functions=functions), "x.pb")


@pytest.mark.parametrize("kind", [tf.resource, tf.variant])
def test_constants_are_numbers_or_texts(kind):
    bad = node("Const", "bad")
    bad.attr["value"].tensor.dtype = kind.as_datatype_enum
    with pytest.raises(WeightsError, match="'Const'"):
        check_graph(graph(bad), "x.pb")


def test_names_of_a_hostile_graph_do_not_break_the_line():
    with pytest.raises(WeightsError) as caught:
        check_graph(graph(node("a\nb" * 100, "\x1b[31m" + "x\n" * 200)), "x.pb")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


def test_every_allowed_operation_exists():
    assert {op for op in OPERATIONS | SAVING if op_def_registry.get(op) is None} == set()


# The same as a user meets it: files that TensorFlow itself wrote.


def embedding(image):
    return tf.reduce_mean(image, [1, 2])


def real_operations(folder):
    """Name to what runs an operation that touches files, after `x`."""
    target, source = str(folder / "ran"), str(folder / "secret")
    raw = tf.raw_ops
    return {
        "Save": lambda x: raw.Save(filename=target, tensor_names=["ssh-ed25519 A"], data=[x]),
        "SaveV2": lambda x: raw.SaveV2(prefix=target, tensor_names=["x"], shape_and_slices=[""], tensors=[x]),
        "MergeV2Checkpoints": lambda x: raw.MergeV2Checkpoints(
            checkpoint_prefixes=[source], destination_prefix=target, delete_old_dirs=True
        ),
        "WriteFile": lambda x: raw.WriteFile(filename=target, contents="x"),
        "ReadFile": lambda x: raw.ReadFile(filename=source),
        "ImmutableConst": lambda x: raw.ImmutableConst(dtype=tf.uint8, shape=[6], memory_region_name=source),
        "MatchingFiles": lambda x: raw.MatchingFiles(pattern=str(folder / "*")),
        "PrintV2": lambda x: raw.PrintV2(input="x", output_stream=f"file://{target}"),
        "RecordInput": lambda x: raw.RecordInput(file_pattern=source),
    }


REAL = sorted(real_operations(Path()))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "secret").write_bytes(b"secret")
    return tmp_path


def untouched(folder):
    return sorted(path.name for path in folder.iterdir()) == ["graph", "secret"]


@pytest.mark.parametrize("op", REAL)
def test_a_frozen_graph_that_touches_files_is_refused(folder, op):
    made = tf.Graph()
    with made.as_default():
        x = embedding(v1.placeholder(tf.float32, [None, SIDE, SIDE, 3], name="input"))
        found = real_operations(folder)[op](x)
        done = [found] if isinstance(found, tf.Operation) else [found.op]
        with tf.control_dependencies(done):
            tf.identity(x, name="embeddings")
    (folder / "graph").write_bytes(made.as_graph_def().SerializeToString())
    with pytest.raises(WeightsError, match=rf"refused: the graph holds '{op}' \('{op}'\)"):
        read_frozen(folder / "graph", STATED)
    assert untouched(folder)


def save(folder, serve, **more):
    module = tf.Module()
    module.scale = tf.Variable(1.0)
    module.serve = tf.function(lambda image: serve(image * module.scale), input_signature=[IMAGE])
    for name, each in more.items():
        setattr(module, name, each)
    signatures = {"serving_default": module.serve}
    tf.saved_model.save(module, str(folder / "graph"), signatures=signatures)
    return folder / "graph"


@pytest.mark.parametrize("op", REAL)
@pytest.mark.parametrize("place", ["signature", "other function"])
def test_a_saved_model_that_touches_files_is_refused(folder, op, place):
    def serve(image):
        real_operations(folder)[op](image)
        return embedding(image)

    if place == "signature":
        path = save(folder, serve)
    else:
        path = save(folder, embedding, other=tf.function(serve, input_signature=[IMAGE]))
        loaded = tf.saved_model.load(str(path))
        assert loaded.other is not None
    for read in (lambda: read_saved_model(path, STATED), lambda: open_saved_model(path, precision="float32")):
        with pytest.raises(WeightsError, match=f"refused: the graph holds '{op}'"):
            read()
    assert untouched(folder)


def write_v1(folder, *, restore=None, main_op=None):
    """A SavedModel as TensorFlow 1 wrote it, with an operation where a loader runs it."""
    made = tf.Graph()
    with made.as_default(), v1.Session(graph=made) as session:
        image = v1.placeholder(tf.float32, [None, SIDE, SIDE, 3], name="input")
        scale = v1.get_variable("scale", initializer=2.0, use_resource=False)
        x = tf.identity(embedding(image) * scale, name="embeddings")
        session.run(v1.global_variables_initializer())
        saver = v1.train.Saver()
        op = real_operations(folder)[main_op](scale) if main_op else None
        builder = v1.saved_model.Builder(str(folder / "graph"))
        signature = v1.saved_model.predict_signature_def({"image": image}, {"embedding": x})
        builder.add_meta_graph_and_variables(
            session, ["serve"], {"serving_default": signature}, saver=saver, main_op=op
        )
        builder.save()
    place = folder / "graph" / "saved_model.pb"
    if restore:
        made = saved_model_pb2.SavedModel.FromString(place.read_bytes())
        restore(made.meta_graphs[0])
        place.write_bytes(made.SerializeToString())
    return folder / "graph"


def test_a_saved_model_of_tensorflow_1_is_read(folder):
    embedder = read_saved_model(write_v1(folder), STATED)
    images = np.random.default_rng(0).uniform(0, 255, (2, SIDE, SIDE, 3))
    np.testing.assert_allclose(embedder(images), 2 * images.mean((1, 2)), rtol=1e-5)


def run_before_restoring(op):
    def change(meta):
        meta.graph_def.node.append(node(op, "bad"))
        for each in meta.graph_def.node:
            if each.name == meta.saver_def.restore_op_name:
                each.input.append("^bad")

    return change


def restore_from_elsewhere(meta):
    other = v1.NodeDef(name="other", op="Const")
    other.attr["value"].tensor.CopyFrom(tf.make_tensor_proto("/elsewhere"))
    meta.graph_def.node.append(other)
    for each in meta.graph_def.node:
        if each.op == "RestoreV2":
            each.input[0] = "other"


@pytest.mark.parametrize(
    ("change", "op"),
    [
        ({"restore": run_before_restoring("Save")}, "Save"),
        ({"restore": run_before_restoring("SaveV2")}, "SaveV2"),
        ({"restore": run_before_restoring("WriteFile")}, "WriteFile"),
        ({"restore": restore_from_elsewhere}, "RestoreV2"),
        ({"main_op": "SaveV2"}, "SaveV2"),
        ({"main_op": "WriteFile"}, "WriteFile"),
    ],
)
def test_what_runs_when_a_saved_model_of_tensorflow_1_is_loaded(folder, change, op):
    path = write_v1(folder, **change)
    with pytest.raises(WeightsError, match=f"refused: the graph holds '{op}'"):
        read_saved_model(path, STATED)
    assert untouched(folder)


def test_only_the_binary_form_of_a_saved_model_is_read(folder):
    """A text beside it, or in its place, would be loaded unseen."""
    path = save(folder, embedding)
    text = str(saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes()))
    (path / "saved_model.pb").unlink()
    (path / "saved_model.pbtxt").write_text(text)
    for read in (lambda: read_saved_model(path, STATED), lambda: open_saved_model(path, precision="float32")):
        with pytest.raises(WeightsError, match="cannot read"):
            read()


def test_a_foreign_artefact_is_checked_before_it_is_run(folder):
    """Its manifest is no protection: who made the file made the manifest."""
    from iom.models.artifact import Manifest, hashed_files, write_manifest
    from iom.models.face_hasher import ArtifactFaceHasher
    from iom.nn.hash_numpy import PROGRAM, head_path

    path = folder / "a.saved_model"

    def serve(image):
        tf.io.write_file(str(folder / "ran"), tf.io.read_file(str(folder / "secret")))
        return embedding(image)

    save(folder, serve).rename(path)
    program = np.frombuffer(json.dumps([]).encode(), np.uint8)
    with head_path(path).open("wb") as stream:
        np.savez(stream, **{PROGRAM: program})
    files = [each for each in path.rglob("*") if each.is_file()] + [head_path(path)]
    write_manifest(
        path,
        Manifest(
            target="saved_model",
            runtime="tensorflow",
            precision="float32",
            files=hashed_files(files, folder),
            input_size=SIDE,
            embedding_size=3,
            code_length=8,
            alphabet_size=2,
            keep=0,
            key_size=3,
            key_kind="permutation",
            embedder={"name": "x", "sha256": "y"},
            hasher="z",
        ),
    )
    with pytest.raises(WeightsError, match=r"a\.saved_model: refused: the graph holds '(Read|Write)File'"):
        ArtifactFaceHasher.load(path)
    assert not (folder / "ran").exists()
