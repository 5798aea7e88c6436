"""A training step of stage 1 beside Keras' own `fit` and beside the predecessor's tape.

    python -m benchmarks.training_step

For each network three programs train in one process, in turns, on the same random images and labels
of 10,000 classes:
- ours: the network, head, loss and optimizer that `train_stage1.py` builds, in its loop;
- keras_fit: the same network written in plain Keras layers (see `training_step_networks.py`), a
  plain dense classifier with softmax, `compile` and `fit`, nothing of ours;
- predecessor: the same plain network under the formulation of arcface-tf2: labels are an input of the
  margin layer, L2 penalties of weights in the loss, an eager `GradientTape`, SGD.
With --bfloat16 a fourth: ours in mixed_bfloat16.

IResNet-50 takes seconds a step on two cores, hence smaller batches and fewer steps for it
(--batches, --steps, in the order of --networks). Every program first takes a round of steps that is
not counted.

Ends with one line of JSON: `images_per_s` (medians over the rounds) and, for each network, medians
over the rounds of the ratios within a round: `ratio_keras_fit` = ours / keras_fit, `ratio_ancestor`
= ours / predecessor, and `ratio_bfloat16` = ours in bfloat16 / ours. 1 or more: ours is no slower.
"""

import argparse
import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks.command_line import new_parser, run
from iom.errors import ConfigError

NETWORKS = ("iresnet18", "iresnet50", "mobilefacenet")
BATCHES = (32, 16, 64)
STEPS = (3, 2, 3)
OURS, KERAS, PREDECESSOR, BFLOAT16 = "ours", "keras_fit", "predecessor", "ours_bfloat16"
Round = Callable[[], float]
"""Takes a round of steps; gives its seconds."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m benchmarks.training_step`."""
    parser = new_parser("python -m benchmarks.training_step", str(__doc__))
    parser.add_argument("--networks", nargs="+", default=NETWORKS, choices=NETWORKS)
    parser.add_argument("--batches", nargs="+", type=int, help="images a batch, per network")
    parser.add_argument("--steps", nargs="+", type=int, help="steps a round, per network")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--classes", type=int, default=10_000, help="default: %(default)s")
    parser.add_argument("--input-size", type=int, default=112, help="default: %(default)s")
    parser.add_argument("--bfloat16", action="store_true", help="also ours in mixed_bfloat16")
    return run(_measure, parser, argv)


def _measure(arguments: argparse.Namespace) -> int:
    defaults = {name: (BATCHES[place], STEPS[place]) for place, name in enumerate(NETWORKS)}
    batches = arguments.batches or [defaults[name][0] for name in arguments.networks]
    steps = arguments.steps or [defaults[name][1] for name in arguments.networks]
    if not len(batches) == len(steps) == len(arguments.networks):
        raise ConfigError("--batches, --steps: expected one number for each of --networks")
    if min(*batches, *steps, arguments.rounds, arguments.classes, arguments.input_size - 31) < 1:
        raise ConfigError("expected positive numbers, and --input-size of at least 32")
    found: dict[str, Any] = {}
    for network, batch, count in zip(arguments.networks, batches, steps, strict=True):
        found[network] = _compare(arguments, network, batch, count)
    print(json.dumps(found))
    return 0


def _compare(arguments: argparse.Namespace, network: str, batch: int, steps: int) -> dict[str, Any]:
    import keras

    stream = np.random.default_rng(1)
    shape = (batch, arguments.input_size, arguments.input_size, 3)
    images = stream.integers(0, 256, shape).astype(np.float32)
    labels = stream.integers(0, arguments.classes, batch)
    case = SimpleNamespace(network=network, steps=steps, classes=arguments.classes, images=images, labels=labels)
    rounds: dict[str, Round] = {OURS: _ours(case, "float32"), KERAS: _keras_fit(case)}
    rounds[PREDECESSOR] = _predecessor(case)
    if arguments.bfloat16:
        rounds[BFLOAT16] = _ours(case, "mixed_bfloat16")
    for take in rounds.values():
        take()  # builds the graph
    speeds: dict[str, list[float]] = {name: [] for name in rounds}
    names = list(rounds)
    for number in range(arguments.rounds):
        # The order changes, so that no program always runs behind the same other one.
        for name in names[number % len(names) :] + names[: number % len(names)]:
            speeds[name].append(batch * steps / rounds[name]())
        told = ", ".join(f"{name} {values[-1]:.2f}" for name, values in speeds.items())
        print(f"{network}, round {number + 1}: images/s {told}", flush=True)
    rounds.clear()
    keras.backend.clear_session()
    gc.collect()
    result = {
        "ratio_keras_fit": _ratio(speeds[OURS], speeds[KERAS]),
        "ratio_ancestor": _ratio(speeds[OURS], speeds[PREDECESSOR]),
        "batch_size": batch,
        "images_per_s": {name: round(statistics.median(values), 2) for name, values in speeds.items()},
    }
    if arguments.bfloat16:
        result["ratio_bfloat16"] = _ratio(speeds[BFLOAT16], speeds[OURS])
    return result


def _ratio(ours: list[float], others: list[float]) -> float:
    """Median over the rounds: what slows a whole round down slows both."""
    return round(statistics.median(a / b for a, b in zip(ours, others, strict=True)), 3)


def _ours(case: Any, precision: str) -> Round:
    """The network of stage 1 in the loop of stage 1."""
    import keras

    from iom.config import Stage1Config
    from iom.data.image_batches import LABEL
    from iom.nn.backbones.registry import build_backbone
    from iom.training.backbone import build_phase
    from iom.training.loop import TrainingLoop
    from iom.training.run_dir import Progress

    keras.config.set_dtype_policy(precision)
    try:
        size = case.images.shape[1]
        backbone = build_backbone(case.network, embedding_size=512, input_size=size)
        folder = SimpleNamespace(subjects=range(case.classes))
        batches: Any = SimpleNamespace(folder=folder, steps=case.steps)
        model, _ = build_phase(Stage1Config(), backbone, batches, train="all")
    finally:
        keras.config.set_dtype_policy("float32")
    home = tempfile.TemporaryDirectory()
    records: list[dict[str, Any]] = []
    # Only steps are compared: nothing is written but the small picture of the curves.
    nothing: Any = SimpleNamespace(
        path=Path(home.name), log=records.append, records=lambda: records, home=home,
        save_state=lambda *state, **more: None,
    )  # fmt: skip
    data = _stream(case, {LABEL: case.labels})

    loop = TrainingLoop(
        model=model,
        run=nothing,
        steps_per_epoch=case.steps,
        batches=lambda epoch, step: data,
        verify=lambda: {"held_out_eer": 0.5},
        save_model=lambda name: None,
    )

    def take() -> float:
        taken = len(records)
        loop.train(taken + 1, start=Progress(epoch=taken))
        return float(records[-1]["fit_seconds"])

    return take


def _stream(case: Any, answers: Any) -> Any:
    import tensorflow as tf

    return tf.data.Dataset.from_tensors((case.images, answers)).repeat(case.steps).prefetch(4)


def _keras_fit(case: Any) -> Round:
    """Plain network, dense classifier, `compile`, `fit`."""
    import keras

    from benchmarks.training_step_networks import plain_network

    image, embedding = plain_network(case.network, case.images.shape[1])
    scores = keras.layers.Dense(case.classes, use_bias=False)(embedding)
    model = keras.Model(image, scores)
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,  # far slower on a CPU
    )
    data = _stream(case, case.labels)

    def take() -> float:
        started = time.perf_counter()
        model.fit(data, epochs=1, verbose=0, shuffle=False)
        return time.perf_counter() - started

    return take


def _predecessor(case: Any) -> Round:
    """The formulation of arcface-tf2's eager training mode."""
    import keras
    import tensorflow as tf

    from benchmarks.training_step_networks import margin_layer, plain_network

    image, embedding = plain_network(case.network, case.images.shape[1], decay=5e-4)
    label = keras.Input((), dtype="int64")
    logits = margin_layer(case.classes)([embedding, label])
    model = keras.Model([image, label], logits)
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True)
    data = _stream(case, case.labels)

    def take() -> float:
        started = time.perf_counter()
        for images, labels in data:
            with tf.GradientTape() as tape:
                logits = model([images, labels], training=True)
                penalty = tf.reduce_sum(model.losses)
                entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
                loss = tf.reduce_mean(entropy) + penalty
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        float(loss)
        return time.perf_counter() - started

    return take


if __name__ == "__main__":
    raise SystemExit(main())
