"""Training steps of stage 2 on cached embeddings, beside the predecessor's recipe of computing them.

    python -m benchmarks.stage2_step

Both train in one process, in turns, on the same batches of random embeddings (60 subjects x 4
images, 128 dimensions, 512x8 codes). Ours is the graph that `train_stage2.py` runs, with the losses
of --config, and once more with the predecessor's kind of losses (batch-hard triplet, rounding).
The predecessor: a dense layer, a Python loop over its 512 slices, a softmax and an expected index for
each, in double precision, a batch-hard triplet on those indices plus their rounding, an eager tape.

Ends with one line of JSON: steps/s (medians over the turns), `ratio_ancestor` = ours / predecessor
with the predecessor's losses, `ratio_configured` = with those of --config, which refine their codes
(ten more passes through the projection), and `peak_mb`, the peak memory of the whole process
after our turns, TensorFlow included.
"""

import argparse
import functools
import json
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.command_line import new_parser, run
from iom.config import Stage2Config, load_config
from iom.errors import ConfigError

CONFIG = Path("configs/stage2/trained.yaml")
SAME_LOSSES = [
    "losses=[{name: triplet}, {name: quantization, weight: 0.5, form: rounding}]",
    "hasher.refinement_steps=0", "hasher.train_projection=true",
]  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m benchmarks.stage2_step`."""
    parser = new_parser("python -m benchmarks.stage2_step", str(__doc__))
    parser.add_argument("--config", type=Path, default=CONFIG, help="default: %(default)s")
    parser.add_argument("--subjects", type=int, default=60, help="P; default: %(default)s")
    parser.add_argument("--images", type=int, default=4, help="K; default: %(default)s")
    parser.add_argument("--code-length", type=int, default=512, help="m; default: %(default)s")
    parser.add_argument("--alphabet-size", type=int, default=8, help="q; default: %(default)s")
    parser.add_argument("--embedding-size", type=int, default=128, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=60, help="of ours in a turn; default: 60")
    parser.add_argument("--predecessor-steps", type=int, default=3, help="of the predecessor in a turn; default: 3")
    parser.add_argument("--turns", type=int, default=3, help="default: %(default)s")
    return run(_measure, parser, argv)


def _measure(arguments: argparse.Namespace) -> int:
    if min(arguments.steps, arguments.predecessor_steps, arguments.turns) < 1:
        raise ConfigError("--steps, --predecessor-steps, --turns: expected at least 1 each")
    shape = [
        f"batches.subjects={arguments.subjects}", f"batches.images={arguments.images}",
        f"hasher.code_length={arguments.code_length}",
        f"hasher.alphabet_size={arguments.alphabet_size}",
    ]  # fmt: skip
    load = functools.partial(load_config, Stage2Config, arguments.config)
    config, same = load(overrides=shape), load(overrides=[*shape, *SAME_LOSSES])

    stream = np.random.default_rng(1)
    labels = np.repeat(np.arange(arguments.subjects * 4), arguments.images)
    rows = stream.standard_normal((len(labels), arguments.embedding_size)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    ours = {
        "ours": _ours(config, rows, labels, arguments.steps),
        "same_losses": _ours(same, rows, labels, arguments.steps),
    }
    speeds: dict[str, list[float]] = {"ours": [], "same_losses": [], "predecessor": []}
    for take in ours.values():
        take(0)  # builds the graph
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    predecessor = _predecessor(config, rows, labels, arguments.predecessor_steps)
    predecessor(0)
    for turn in range(1, arguments.turns + 1):
        for name, take in (*ours.items(), ("predecessor", predecessor)):
            started = time.perf_counter()
            steps = take(turn)
            speeds[name].append(steps / (time.perf_counter() - started))
        found = ", ".join(f"{name} {values[-1]:.2f}" for name, values in speeds.items())
        print(f"turn {turn}: steps/s {found}", flush=True)
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    print(
        json.dumps(
            {
                "ratio_ancestor": round(medians["same_losses"] / medians["predecessor"], 1),
                "ratio_configured": round(medians["ours"] / medians["predecessor"], 1),
                "steps_per_s": round(medians["ours"], 2),
                "steps_per_s_same_losses": round(medians["same_losses"], 2),
                "steps_per_s_predecessor": round(medians["predecessor"], 3),
                "peak_mb": round(peak),
            }
        )
    )
    return 0


def _ours(config: Stage2Config, rows: Any, labels: Any, steps: int) -> Callable[[int], int]:
    """`turn -> steps taken` of the graph that `train_stage2.py` trains."""
    from iom.data.batches import CodeBatches, SubjectBatches, TrainingKeys
    from iom.nn.losses.code.objectives import build_objectives
    from iom.training.hasher import start_hasher, training_graph
    from iom.training.optimizers import build_optimizer

    size = rows.shape[1]
    sampler = SubjectBatches(labels, config.batches.subjects, config.batches.images, config.seed)
    objectives = build_objectives(config.losses, config.hasher)
    model = training_graph(
        start_hasher(size, config.hasher, seed=config.seed),
        config.hasher,
        {name: loss.reads for name, loss in objectives.items()},
    )
    model.compile(
        optimizer=build_optimizer(config.optimizer, epochs=100, steps_per_epoch=steps),
        loss=objectives,
        loss_weights={loss.name: loss.weight for loss in config.losses if loss.name in objectives},
        jit_compile=config.xla,
    )
    targets = {name: rows if loss.reads_embeddings else labels.astype(np.float32) for name, loss in objectives.items()}

    def take(turn: int) -> int:
        batches = CodeBatches(
            sampler, rows, targets, TrainingKeys(size, config.seed, config.key), epoch=turn, steps=steps
        )
        model.fit(batches, shuffle=False, verbose=0)
        return steps

    return take


def _predecessor(config: Stage2Config, rows: Any, labels: Any, steps: int) -> Callable[[int], int]:
    """`turn -> steps taken` of the predecessor's formulation."""
    import keras
    import tensorflow as tf

    from iom.data.batches import SubjectBatches

    code = config.hasher
    numbers = tf.range(1, code.alphabet_size + 1, dtype=tf.float64)

    class SlicedSoftIndex(keras.layers.Layer):
        """One slice after the other: softmax, then the expected index."""

        def call(self, responses: Any) -> Any:
            """`(B, M * Q)` -> `(B, M)`, float64."""
            positions = []
            for position in range(code.code_length):
                start = position * code.alphabet_size
                part = tf.nn.softmax(responses[:, start : start + code.alphabet_size], axis=1)
                positions.append(tf.reduce_sum(tf.cast(part, tf.float64) * numbers, axis=-1))
            return tf.transpose(tf.stack(positions))

    model = keras.Sequential(
        [
            keras.layers.Dense(
                code.code_length * code.alphabet_size,
                kernel_initializer=keras.initializers.RandomNormal(stddev=1.0, seed=1),
            ),
            SlicedSoftIndex(dtype="float64", autocast=False),
        ]
    )
    optimizer = keras.optimizers.SGD(learning_rate=1e-3, momentum=0.9, nesterov=True)
    sampler = SubjectBatches(labels, config.batches.subjects, config.batches.images, config.seed)

    def take(turn: int) -> int:
        for step in range(steps):
            chosen = sampler.rows(turn, step)
            with tf.GradientTape() as tape:
                indices = model(tf.constant(rows[chosen]), training=True)
                loss = hardest_triplet(indices, labels[chosen]) + 0.5 * rounding(indices)
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return steps

    return take


def hardest_triplet(indices: Any, labels: Any, margin: float = 1.0) -> Any:
    """Batch-hard triplet on the Euclidean distances of soft indices `(B, M)`."""
    import tensorflow as tf

    products = tf.matmul(indices, indices, transpose_b=True)
    squares = tf.linalg.diag_part(products)
    squared = tf.maximum(squares[:, None] - 2.0 * products + squares[None], 0.0)
    zero = tf.cast(squared == 0.0, squared.dtype)
    distances = tf.sqrt(squared + zero * 1e-16) * (1.0 - zero)
    same = tf.cast(labels[:, None] == labels[None], distances.dtype)
    farthest = tf.reduce_max(distances * same, axis=1)
    largest = tf.reduce_max(distances, axis=1, keepdims=True)
    nearest = tf.reduce_min(distances + largest * same, axis=1)
    return tf.reduce_mean(tf.maximum(farthest - nearest + margin, 0.0))


def rounding(indices: Any) -> Any:
    """Mean squared length of what rounding takes away, `(B, M)` -> scalar."""
    import tensorflow as tf

    return tf.reduce_mean(tf.reduce_sum(tf.square(tf.round(indices) - indices), axis=1))


if __name__ == "__main__":
    raise SystemExit(main())
