"""Sessions: damaged artefacts, and operations that a runtime does not ship."""

import pytest

from iom.errors import WeightsError
from iom.models.artifact import RUNTIMES, open_litert, open_onnx, open_openvino

IR = """<?xml version="1.0"?><net name="m" version="11"><layers>
<layer id="0" name="image" type="Parameter" version="opset1">
<data shape="4" element_type="f32"/>
<output><port id="0" precision="FP32"><dim>4</dim></port></output></layer>
<layer id="1" name="own" type="Own" version="extension">
<input><port id="0"><dim>4</dim></port></input>
<output><port id="1" precision="FP32"><dim>4</dim></port></output></layer>
<layer id="2" name="codes" type="Result" version="opset1">
<input><port id="0"><dim>4</dim></port></input></layer></layers>
<edges><edge from-layer="0" from-port="0" to-layer="1" to-port="0"/>
<edge from-layer="1" from-port="1" to-layer="2" to-port="0"/></edges></net>"""


@pytest.mark.parametrize("domain", ["", "own", "com.microsoft"])
def test_onnxruntime(tmp_path, domain):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper = onnx.helper
    ends = [helper.make_tensor_value_info(name, 1, [4]) for name in ("image", "codes")]
    node = helper.make_node("Own", ["image"], ["codes"], domain=domain)
    graph = helper.make_graph([node], "g", ends[:1], ends[1:])
    opsets = [helper.make_opsetid(name, 1) for name in {"", domain}]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(WeightsError, match=r"a\.onnx: onnxruntime cannot read it"):
        open_onnx(tmp_path / "a.onnx", precision="float32")


def test_openvino(tmp_path):
    pytest.importorskip("openvino")
    (tmp_path / "a.xml").write_text(IR)
    (tmp_path / "a.bin").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"a\.xml: OpenVINO cannot read it"):
        open_openvino(tmp_path / "a.xml", precision="float32")


@pytest.mark.parametrize("kind", ["custom", "TensorFlow's"])
def test_litert(tmp_path, kind):
    """Operations of TensorFlow in a LiteRT file would be as free as those of a SavedModel."""
    pytest.importorskip("ai_edge_litert")
    tf = pytest.importorskip("tensorflow")

    ends = [tf.TensorSpec([1, 4], tf.float32, name=name) for name in ("image", "order")]

    @tf.function(input_signature=ends)
    def serve(image, order):
        tf.raw_ops.WriteFile(filename=str(tmp_path / "ran"), contents="x")
        return {"codes": image + 1, "embedding": order * 2}

    module = tf.Module()
    module.serve = serve
    converter = tf.lite.TFLiteConverter.from_concrete_functions([serve.get_concrete_function()], module)
    if kind == "custom":
        converter.allow_custom_ops = True
    else:
        sets = tf.lite.OpsSet
        converter.target_spec.supported_ops = [sets.TFLITE_BUILTINS, sets.SELECT_TF_OPS]
    (tmp_path / "a.tflite").write_bytes(converter.convert())
    with pytest.raises(WeightsError, match=r"a\.tflite: LiteRT cannot read it"):
        open_litert(tmp_path / "a.tflite", precision="float32")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "litert", "keras"])
def test_a_damaged_file_is_an_error_of_ours(tmp_path, runtime):
    path = tmp_path / f"a{RUNTIMES[runtime].suffix}"
    path.write_bytes(b"this is no graph")
    with pytest.raises(WeightsError, match=r"cannot read it|damaged or not a Keras model"):
        RUNTIMES[runtime].open(path, precision="float32")
