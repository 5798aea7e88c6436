"""Recognition networks in PyTorch and their ONNX exports, to check the ONNX reader against.

Runs in its own environment, which `make proofs` makes, since PyTorch is not a dependency:

    python tests/integration/make_onnx_sources.py FOLDER [NAME ...]

For each network and exporter it writes `NAME-EXPORTER.onnx` and `NAME-EXPORTER.npz`: random images
(raw RGB) and what onnxruntime makes of them. The networks are written after InsightFace's
`arcface_torch` (MIT); weights, batch-norm statistics and PReLU slopes are random.
"""

import argparse
import pathlib

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

IRESNETS = {
    "iresnet18": (64, (64, 128, 256, 512), (2, 2, 2, 2), 512, 112),
    "iresnet34": (64, (64, 128, 256, 512), (3, 4, 6, 3), 512, 112),
    "iresnet50": (64, (64, 128, 256, 512), (3, 4, 14, 3), 512, 112),
    "iresnet100": (64, (64, 128, 256, 512), (3, 13, 30, 3), 512, 112),
    "iresnet_slim": (16, (16, 32), (2, 1), 24, 16),
}
MOBILE = {"mobilefacenet": (2, (1, 4, 6, 2), 512), "mobilefacenet_deep": (2, (2, 8, 12, 4), 512)}
EXPORTERS = ("legacy", "unfolded", "dynamo")
"""PyTorch's old exporter, the same without folding batch norms, and the present one."""
IMAGES = 4


class Block(nn.Module):
    """Pre-activation block of IResNet, stride in the second convolution."""

    def __init__(self, before, planes, stride):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.prelu = nn.PReLU(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes)
        self.downsample = None
        if stride != 1 or before != planes:
            self.downsample = nn.Sequential(nn.Conv2d(before, planes, 1, stride, bias=False), nn.BatchNorm2d(planes))

    def forward(self, x):
        y = self.conv1(self.bn1(x))
        y = self.bn3(self.conv2(self.prelu(self.bn2(y))))
        identity = x if self.downsample is None else self.downsample(x)
        return y + identity


class IResNet(nn.Module):
    """The whole network with its BN - dropout - flatten - FC - BN head."""

    def __init__(self, stem, widths, depths, embedding_size, input_size):
        super().__init__()
        self.conv1 = nn.Conv2d(3, stem, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.prelu = nn.PReLU(stem)
        blocks, before = [], stem
        for planes, depth in zip(widths, depths, strict=True):
            for unit in range(depth):
                blocks.append(Block(before, planes, 2 if unit == 0 else 1))
                before = planes
        self.blocks = nn.Sequential(*blocks)
        self.bn2 = nn.BatchNorm2d(before)
        self.dropout = nn.Dropout(0.4, inplace=True)
        self.fc = nn.Linear(before * (input_size >> len(widths)) ** 2, embedding_size)
        self.features = nn.BatchNorm1d(embedding_size)

    def forward(self, x):
        x = self.blocks(self.prelu(self.bn1(self.conv1(x))))
        x = self.dropout(torch.flatten(self.bn2(x), 1))
        return self.features(self.fc(x))


def conv_block(before, planes, kernel=1, stride=1, padding=0, groups=1, activation=True):
    """Convolution - BN (- PReLU)."""
    modules = [nn.Conv2d(before, planes, kernel, stride, padding, groups=groups, bias=False), nn.BatchNorm2d(planes)]
    return nn.Sequential(*modules, *([nn.PReLU(planes)] if activation else []))


class Bottleneck(nn.Module):
    """Expand, depthwise, project; with or without the shortcut."""

    def __init__(self, before, planes, stride, groups, residual):
        super().__init__()
        self.residual = residual
        self.layers = nn.Sequential(
            conv_block(before, groups),
            conv_block(groups, groups, 3, stride, 1, groups),
            conv_block(groups, planes, activation=False),
        )

    def forward(self, x):
        return x + self.layers(x) if self.residual else self.layers(x)


class Flatten(nn.Module):
    """A view by the batch size at run time, which exporters write as a chain of shape nodes."""

    def forward(self, x):
        return x.view(x.size(0), -1)


class MobileFaceNet(nn.Module):
    """The network with its global depthwise head."""

    def __init__(self, scale, blocks, embedding_size):
        super().__init__()
        before = 64 * scale
        modules = [conv_block(3, before, 3, 2, 1)]
        if blocks[0] == 1:
            modules.append(conv_block(before, before, 3, 1, 1, groups=64))
        else:
            modules += [Bottleneck(before, before, 1, 128, residual=True) for _ in range(blocks[0])]
        stages = ((128, 64 * scale, 128), (256, 128 * scale, 256), (512, 128 * scale, 256))
        for (first, planes, groups), count in zip(stages, blocks[1:], strict=True):
            modules.append(Bottleneck(before, planes, 2, first, residual=False))
            modules += [Bottleneck(planes, planes, 1, groups, residual=True) for _ in range(count)]
            before = planes
        self.layers = nn.Sequential(*modules)
        self.conv_sep = conv_block(before, 512)
        self.features = nn.Sequential(
            conv_block(512, 512, 7, groups=512, activation=False),
            Flatten(),
            nn.Linear(512, embedding_size, bias=False),
            nn.BatchNorm1d(embedding_size),
        )

    def forward(self, x):
        return self.features(self.conv_sep(self.layers(x)))


@torch.no_grad()
def randomise(network, seed):
    """Random weights under which signals neither die nor explode, and no batch norm is trivial."""
    torch.manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                module.bias.normal_(0, 0.1)
        elif isinstance(module, nn.PReLU):
            module.weight.uniform_(0.1, 0.4)
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.weight.uniform_(0.7, 1.3)
            module.bias.normal_(0, 0.2)
    # Statistics as after training: of what passes through, and a little off.
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = 1.0
    network.train()
    size = 112 if isinstance(network, MobileFaceNet) else network.input_size
    network(torch.rand(8, 3, size, size) * 2 - 1)
    network.eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean += 0.1 * torch.randn_like(module.running_mean)
            module.running_var *= torch.empty_like(module.running_var).uniform_(0.8, 1.25)
    if isinstance(network, IResNet):
        network.features.weight.fill_(1.0)


def build(name):
    """Network of that name and the side of its images."""
    if name in MOBILE:
        return MobileFaceNet(*MOBILE[name]), 112
    network = IResNet(*IRESNETS[name])
    network.input_size = IRESNETS[name][-1]
    return network, network.input_size


def export(network, size, path, exporter):
    """Write ONNX with one of `EXPORTERS`."""
    example = torch.zeros(1, 3, size, size)
    if exporter != "dynamo":
        mode = torch.onnx.TrainingMode
        torch.onnx.export(
            network,
            (example,),
            str(path),
            dynamo=False,
            opset_version=11,
            training=mode.EVAL if exporter == "legacy" else mode.PRESERVE,
            input_names=["data"],
            dynamic_axes={"data": {0: "batch"}},
        )
        return
    torch.onnx.export(
        network,
        (torch.zeros(2, 3, size, size),),
        str(path),
        dynamo=True,
        input_names=["data"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )
    strip(path)


def strip(path):
    """Remove stack traces: they name folders of this machine."""
    model = onnx.load(path, load_external_data=False)
    del model.metadata_props[:]
    graph = model.graph
    for item in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info):
        del item.metadata_props[:]
        item.doc_string = ""
    for tensor in graph.initializer:
        del tensor.metadata_props[:]
    onnx.save(model, path)


def main():
    """Write all sources asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("names", nargs="*", default=[*IRESNETS, *MOBILE])
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(options.names):
        network, size = build(name)
        randomise(network, seed)
        images = np.random.default_rng(seed).integers(0, 256, (IMAGES, size, size, 3), np.uint8)
        scaled = (images.astype(np.float32) - 127.5) / 127.5
        for exporter in EXPORTERS:
            path = options.folder / f"{name}-{exporter}.onnx"
            export(network, size, path, exporter)
            session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
            (result,) = session.run(None, {"data": scaled.transpose(0, 3, 1, 2)})
            np.savez(path.with_suffix(".npz"), images=images, embeddings=result)
            print(path, result.shape)


if __name__ == "__main__":
    main()
