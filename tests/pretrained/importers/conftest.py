"""A small IResNet in plain NumPy, channels first, and its files in the foreign formats."""

import json
import pickle
import struct
import types

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

EPSILON = 2e-5
SIDE = 16
EMBEDDING = 24
STEM, WIDTHS, DEPTHS = 16, (16, 32), (2, 1)


class Reference:
    """InsightFace's MXNet IResNet, slim: random weights under MXNet's names, and its forward pass.

    `ops` are (kind, name, input names, settings) in calling order; `arrays` the weights of each.
    """

    def __init__(self, seed=0):
        self.random = np.random.default_rng(seed)
        self.arrays = {}
        self.ops = []
        last = self.add("conv", "conv0", "image", filters=STEM, before=3)
        last = self.add("prelu", "relu0", self.add("bn", "bn0", last, filters=STEM))
        before = STEM
        for stage, (filters, depth) in enumerate(zip(WIDTHS, DEPTHS, strict=True), start=1):
            for unit in range(1, depth + 1):
                stride = 2 if unit == 1 else 1
                last = self.unit(f"stage{stage}_unit{unit}_", last, before, filters, stride)
                before = filters
        side = SIDE >> len(WIDTHS)
        last = self.add("bn", "bn1", last, filters=before)
        size = before * side * side
        last = self.add("dense", "pre_fc1", last, filters=EMBEDDING, before=size)
        self.add("bn", "fc1", last, filters=EMBEDDING, fixed=True)

    def unit(self, prefix, last, before, filters, stride):
        name = prefix.__add__
        y = self.add("bn", name("bn1"), last, filters=before)
        y = self.add("conv", name("conv1"), y, filters=filters, before=before)
        y = self.add("bn", name("bn2"), y, filters=filters)
        y = self.add("prelu", name("relu1"), y, filters=filters)
        y = self.add("conv", name("conv2"), y, filters=filters, before=filters, stride=stride)
        y = self.add("bn", name("bn3"), y, filters=filters)
        if stride == 2:
            last = self.add("conv", name("conv1sc"), last, filters=filters, before=before, window=1, stride=2)
            last = self.add("bn", name("sc"), last, filters=filters)
        return self.add("add", name("plus"), y, last)

    def add(self, kind, name, *inputs, filters=0, before=0, window=3, stride=1, fixed=False):
        draw = self.random
        settings = {"window": window, "stride": stride, "pad": window // 2, "fixed": fixed}
        if kind == "conv":
            shape = (filters, before, window, window)
            self.arrays[name] = {"weight": draw.normal(0, 1.5 / np.sqrt(np.prod(shape[1:])), shape)}
        elif kind == "dense":
            kernel = draw.normal(0, 1 / np.sqrt(before), (filters, before))
            self.arrays[name] = {"weight": kernel, "bias": draw.normal(0, 0.1, filters)}
        elif kind == "bn":
            self.arrays[name] = {
                "gamma": np.ones(filters) if fixed else draw.uniform(0.7, 1.3, filters),
                "beta": draw.normal(0, 0.2, filters),
                "moving_mean": draw.normal(0, 0.2, filters),
                "moving_var": draw.uniform(0.5, 2, filters),
            }
        elif kind == "prelu":
            self.arrays[name] = {"gamma": draw.uniform(0.1, 0.4, filters or STEM)}
        self.arrays[name] = {role: array.astype(np.float32) for role, array in self.arrays.get(name, {}).items()}
        self.ops.append((kind, name, inputs, settings))
        return name

    def embed(self, images):
        """(N, S, S, 3) raw RGB -> (N, D)."""
        scaled = (np.asarray(images, np.float64) - 127.5) * 0.0078125
        values = {"image": scaled.transpose(0, 3, 1, 2)}
        for kind, name, inputs, settings in self.ops:
            arrays = {k: v.astype(np.float64) for k, v in self.arrays[name].items()}
            x = values[inputs[0]]
            channel = (slice(None), *(None,) * (x.ndim - 2))
            if kind == "conv":
                x = convolve(x, arrays["weight"], settings["stride"], settings["pad"])
            elif kind == "dense":
                x = x.reshape(len(x), -1) @ arrays["weight"].T + arrays["bias"]
            elif kind == "bn":
                scale = arrays["gamma"] / np.sqrt(arrays["moving_var"] + EPSILON)
                shift = arrays["beta"] - arrays["moving_mean"] * scale
                x = x * scale[channel] + shift[channel]
            elif kind == "prelu":
                x = np.where(x > 0, x, x * arrays["gamma"][channel])
            else:
                x = x + values[inputs[1]]
            values[name] = x
        return values[self.ops[-1][1]]


def convolve(x, kernel, stride, pad):
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = sliding_window_view(x, kernel.shape[2:], axis=(2, 3))[:, :, ::stride, ::stride]
    return np.einsum("nchwij,ocij->nohw", windows, kernel)


MXNET_OPS = {
    "conv": "Convolution",
    "bn": "BatchNorm",
    "prelu": "LeakyReLU",
    "dense": "FullyConnected",
    "add": "elemwise_add",
}


def symbol_of(reference):
    """The nodes of `model-symbol.json`."""
    nodes = [
        {"op": "null", "name": "data", "inputs": []},
        {"op": "_minus_scalar", "name": "m", "attrs": {"scalar": "127.5"}, "inputs": [[0, 0, 0]]},
        {"op": "_mul_scalar", "name": "s", "attrs": {"scalar": "0.0078125"}, "inputs": [[1, 0, 0]]},
    ]
    index = {"image": 2}
    for kind, name, inputs, settings in reference.ops:
        sources = [index[source] for source in inputs]
        for role in reference.arrays[name]:
            nodes.append({"op": "null", "name": f"{name}_{role}", "inputs": []})
            sources.append(len(nodes) - 1)
        attributes = {}
        if kind == "conv":
            pair = "({0}, {0})".format
            attributes = {
                "kernel": pair(settings["window"]),
                "stride": pair(settings["stride"]),
                "pad": pair(settings["pad"]),
                "num_filter": str(len(reference.arrays[name]["weight"])),
                "no_bias": "True",
            }
        elif kind == "bn":
            attributes = {"eps": str(EPSILON), "fix_gamma": str(settings["fixed"])}
        elif kind == "prelu":
            attributes = {"act_type": "prelu"}
        nodes.append(
            {"op": MXNET_OPS[kind], "name": name, "attrs": attributes, "inputs": [[source, 0, 0] for source in sources]}
        )
        index[name] = len(nodes) - 1
    return {"nodes": nodes, "heads": [[len(nodes) - 1, 0, 0]]}


def params_of(reference):
    """Arrays under the names of a `.params` file."""
    return {
        f"{'aux' if role.startswith('moving') else 'arg'}:{name}_{role}": array
        for name, arrays in reference.arrays.items()
        for role, array in arrays.items()
    }


def write_params(path, arrays, *, magic=0xF993FAC9):
    """A `.params` file; `magic=None` writes the oldest form."""
    parts = [struct.pack("<QQQ", 0x112, 0, len(arrays))]
    for array in arrays.values():
        if magic is None:
            parts.append(struct.pack(f"<I{array.ndim}I", array.ndim, *array.shape))
        else:
            parts.append(struct.pack("<I", magic))
            if magic != 0xF993FAC8:
                parts.append(struct.pack("<i", 0))
            parts.append(struct.pack(f"<I{array.ndim}q", array.ndim, *array.shape))
        parts.append(struct.pack("<iii", 1, 0, 0))
        parts.append(array.astype("<f4").tobytes())
    parts.append(struct.pack("<Q", len(arrays)))
    for name in arrays:
        parts.append(struct.pack("<Q", len(name)) + name.encode())
    path.write_bytes(b"".join(parts))


def mmdnn_of(reference):
    """The dictionary that MMdnn makes of it."""
    layers = {
        "minusscalar0_second": {"value": np.float32(127.5)},
        "mulscalar0_second": {"value": np.float32(0.0078125)},
    }
    for kind, name, _, settings in reference.ops:
        arrays = reference.arrays[name]
        if kind == "conv":
            layers[name] = {"weights": arrays["weight"].transpose(2, 3, 1, 0)}
        elif kind == "dense":
            side = SIDE >> len(WIDTHS)
            kernel = arrays["weight"].reshape(EMBEDDING, -1, side, side).transpose(2, 3, 1, 0)
            layers[name] = {"weights": kernel.reshape(-1, EMBEDDING), "bias": arrays["bias"]}
        elif kind == "bn":
            layers[name] = {
                "scale": arrays["gamma"],
                "bias": arrays["beta"],
                "mean": arrays["moving_mean"],
                "var": arrays["moving_var"],
            }
            if settings["fixed"]:
                del layers[name]["scale"]
        elif kind == "prelu":
            layers[name] = {"gamma": arrays["gamma"]}
    return layers


def write_npy(path, value, *, protocol=2):
    """What `np.save` writes for an object, with the pickle protocol of old NumPys."""
    header = np.lib.format
    with path.open("wb") as stream:
        header.write_array_header_1_0(stream, {"descr": "|O", "fortran_order": False, "shape": ()})
        pickle.dump(np.array(value, dtype=object), stream, protocol)


@pytest.fixture(scope="session")
def reference():
    return Reference()


@pytest.fixture(scope="session")
def images():
    return np.random.default_rng(5).integers(0, 256, (4, SIDE, SIDE, 3)).astype(np.uint8)


@pytest.fixture(scope="session")
def expected(reference, images):
    return reference.embed(images)


@pytest.fixture
def mxnet_files(tmp_path, reference):
    params, symbol = tmp_path / "slim-0000.params", tmp_path / "slim-symbol.json"
    write_params(params, params_of(reference))
    symbol.write_text(json.dumps(symbol_of(reference)))
    return params, symbol


@pytest.fixture(scope="session")
def mmdnn(reference):
    """Writer and content of an MMdnn dictionary."""
    return types.SimpleNamespace(layers=mmdnn_of(reference), write=write_npy)


@pytest.fixture
def damage():
    """Every way in which a file is damaged here: `(name, bytes)`."""

    def variants(data, *, cuts=12, flips=30, seed=0):
        random = np.random.default_rng(seed)
        for end in {0, 1, 8, len(data) - 1, *random.integers(0, len(data), cuts).tolist()}:
            yield f"cut at {end}", data[:end]
        # Headers are short: half of the flips fall into the first thousand bytes.
        places = [*random.integers(0, min(1000, len(data)), flips // 2).tolist()]
        places += random.integers(0, len(data), flips - flips // 2).tolist()
        for place in places:
            flipped = bytearray(data)
            flipped[place] ^= int(random.integers(1, 256))
            yield f"flipped at {place}", bytes(flipped)

    return variants


@pytest.fixture(name="write_params")
def write_params_fixture():
    return write_params
