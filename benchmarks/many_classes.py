"""Peak memory and step time of a head with a million classes, beside the full softmax.

    python -m benchmarks.many_classes [--embedding 512] [--batch 64] [--steps 4]

Each row is a process of its own, so that its peak is its own: the full softmax at 10 k and 100 k
classes, the head that draws 10 % of them at 100 k and 1 M. ArcFace, SGD with momentum and weight
decay, float32; the network below is one linear layer, so that the head alone is measured.
`peak_gb` is above what the process used before the head was built, in 2^30 bytes.
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROWS = (("full", 10_000), ("full", 100_000), ("sampled", 100_000), ("sampled", 1_000_000))
PAGE_STATUS = Path("/proc/self/status")


def main(argv: list[str] | None = None) -> int:
    """Measure every row and print one line of JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.many_classes", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--embedding", type=int, default=512, help="size (default: 512)")
    parser.add_argument("--batch", type=int, default=64, help="images a step (default: 64)")
    parser.add_argument("--steps", type=int, default=4, help="measured steps (default: 4)")
    parser.add_argument("--share", type=float, default=0.1, help="of the classes (default: 0.1)")
    parser.add_argument("--row", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.row:
        kind, classes = arguments.row
        print(json.dumps(_measure(kind, int(classes), arguments)))
        return 0
    result: dict[str, object] = {"embedding": arguments.embedding, "batch": arguments.batch, "share": arguments.share}
    for kind, classes in ROWS:
        command = [sys.executable, "-m", "benchmarks.many_classes", "--row", kind, str(classes)]
        for name in ("embedding", "batch", "steps", "share"):
            command += [f"--{name}", str(getattr(arguments, name))]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            print(done.stderr[-2000:], file=sys.stderr)
            return 1
        figures = json.loads(done.stdout.splitlines()[-1])
        result[f"{kind}_{classes}"] = figures
        print(f"{kind:8} {classes:9,} classes: {figures['peak_gb']:6.2f} GB  "
              f"{figures['step_s']:7.3f} s a step", flush=True)  # fmt: skip
    print(json.dumps(result))
    return 0


def _measure(kind: str, classes: int, arguments: argparse.Namespace) -> dict[str, float]:
    import keras
    import numpy as np
    import tensorflow as tf

    from iom.nn.layers.cosine import CosineLogits
    from iom.nn.layers.sampled_cosine import SampledCosineLogits
    from iom.nn.losses.margin import ArcFaceLoss, SampledLoss

    size, batch = arguments.embedding, arguments.batch
    keras.utils.set_random_seed(1)
    before = _resident()
    peak = _Peak()
    inputs, labels = keras.Input((size,)), keras.Input((), dtype="int32")
    embedding = keras.layers.Dense(size)(inputs)
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9, weight_decay=5e-4)
    if kind == "full":
        model = keras.Model([inputs, labels], CosineLogits(classes)(embedding))
        model.compile(optimizer, ArcFaceLoss(), jit_compile=False)
    else:
        head = SampledCosineLogits(classes, arguments.share)
        model = keras.Model([inputs, labels], head([embedding, labels]))
        model.compile(optimizer, SampledLoss(ArcFaceLoss()), jit_compile=False)
        head.attach(model)
    stream = np.random.default_rng(1)
    moments: list[float] = []

    class Clock(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: object = None) -> None:
            moments.append(time.perf_counter())

    steps = arguments.steps + 2  # the first one traces, the second one warms up
    images = stream.standard_normal((steps * batch, size)).astype(np.float32)
    subjects = stream.integers(0, classes, steps * batch).astype(np.int32)
    data = tf.data.Dataset.from_tensor_slices(((images, subjects), subjects))
    model.fit(data.batch(batch, drop_remainder=True), verbose=0, callbacks=[Clock()])
    spans = [last - first for first, last in itertools.pairwise(moments[1:])]
    return {"peak_gb": round((peak.stop() - before) / 2**30, 2), "step_s": round(statistics.median(spans), 3)}


class _Peak(threading.Thread):
    """Largest resident memory from now on; `VmHWM` would count what imports have freed again."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._highest, self._stopped = 0, threading.Event()
        self.start()

    def run(self) -> None:
        """Look a hundred times a second."""
        while not self._stopped.wait(0.01):
            self._highest = max(self._highest, _resident())

    def stop(self) -> int:
        """The peak in bytes."""
        self._stopped.set()
        self.join()
        return max(self._highest, _resident())


def _resident() -> int:
    for line in PAGE_STATUS.read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"{PAGE_STATUS} has no VmRSS: this benchmark needs Linux")


if __name__ == "__main__":
    sys.exit(main())
