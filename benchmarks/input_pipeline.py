"""How fast stage 1 is fed, beside a loop that only decodes.

    python -m benchmarks.input_pipeline

Images of a folder, and the same images in TFRecord shards written for the occasion, go through the
batches of stage 1 with augmentation on and off. Beside them: `tf.data` that maps the same files
to `tf.io.decode_jpeg` and batches, with the same number of threads. Rounds are
interleaved; each program first takes a round that is not counted.

Ends with one line of JSON: `images_per_s_core` (medians), `share_of_bare_decode`, the median over
the rounds of the ratio within a round, for each source with augmentation (`folder`, `tfrecord`) and
without (`folder_plain`, `tfrecord_plain`), and with the flip alone (`folder_flip` ...). All this by
the clock; `images_per_cpu_s` and `share_of_bare_decode_cpu` count the processor time of the
program instead, which other programs on the machine disturb less.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.command_line import new_parser, run
from iom.errors import ConfigError

BARE = "bare_decode"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m benchmarks.input_pipeline`."""
    parser = new_parser("python -m benchmarks.input_pipeline", str(__doc__))
    parser.add_argument("--root", default="$IOM_DATA/fiw_112x112", help="default: %(default)s")
    parser.add_argument("--images", type=int, default=4096, help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=64, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=7, help="default: %(default)s")
    return run(_measure, parser, argv)


def _measure(arguments: argparse.Namespace) -> int:
    for name in ("images", "batch_size", "threads", "rounds"):
        if getattr(arguments, name) < 1:
            raise ConfigError(f"--{name.replace('_', '-')}: expected at least 1")
    with tempfile.TemporaryDirectory() as scratch:
        programs = _programs(arguments, Path(scratch))
        speeds: dict[str, list[float]] = {name: [] for name in programs}
        by_cpu: dict[str, list[float]] = {name: [] for name in programs}
        for number in range(arguments.rounds + 1):
            for name, dataset in programs.items():
                speed, cpu_speed = _speeds(dataset(number))
                if number:
                    speeds[name].append(speed / arguments.threads)
                    by_cpu[name].append(cpu_speed)
    shares, cpu_shares = _shares(speeds), _shares(by_cpu)
    for name, values in speeds.items():
        share = ""
        if name in shares:
            share = f"  {shares[name]:.2f} of bare decode, {cpu_shares[name]:.2f} by processor time"
        print(f"{name:16} {statistics.median(values):8,.0f} images/s a core{share}")
    figures = {
        "images_per_s_core": {k: round(statistics.median(v), 1) for k, v in speeds.items()},
        "share_of_bare_decode": {k: round(v, 3) for k, v in shares.items()},
        "images_per_cpu_s": {k: round(statistics.median(v), 1) for k, v in by_cpu.items()},
        "share_of_bare_decode_cpu": {k: round(v, 3) for k, v in cpu_shares.items()},
    }
    print(json.dumps(figures))
    return 0


def _shares(speeds: dict[str, list[float]]) -> dict[str, float]:
    """Median over the rounds of each program's speed as a share of the bare loop's."""
    return {
        name: statistics.median(a / b for a, b in zip(values, speeds[BARE], strict=True))
        for name, values in speeds.items()
        if name != BARE
    }


def _speeds(dataset: Any) -> tuple[float, float]:
    """Images a second, and images a second of processor time of all threads."""
    start, cpu_start, images = time.perf_counter(), time.process_time(), 0
    for batch in dataset:
        pixels = batch[0] if isinstance(batch, tuple) else batch
        images += len(pixels)
    cpu_time = time.process_time() - cpu_start
    return images / (time.perf_counter() - start), images / cpu_time


def _programs(arguments: argparse.Namespace, scratch: Path) -> dict[str, Callable[[int], Any]]:
    """Data sets of an epoch, by name."""
    import tensorflow as tf

    from iom.config import AugmentationConfig, FolderConfig
    from iom.data.folders import scan_folder
    from iom.data.formats.conversions import Conversion, FaceSource, write_shards
    from iom.data.image_batches import ImageBatches

    whole = scan_folder(FolderConfig(root=arguments.root, holdout=0))
    listing = scratch / "images.txt"
    paths = whole.paths[: arguments.images]
    listing.write_text("\n".join(paths), encoding="utf-8")
    faces = FaceSource(whole.root, paths, lambda row: (whole.root / paths[row]).read_bytes())
    write_shards(faces, scratch / "shards", Conversion())
    folders = {
        "folder": scan_folder(FolderConfig(root=arguments.root, include=str(listing), min_images=1)),
        "tfrecord": scan_folder(FolderConfig(root=str(scratch / "shards"), min_images=1)),
    }
    options = tf.data.Options()
    options.threading.private_threadpool_size = arguments.threads
    options.threading.max_intra_op_parallelism = 1
    plain = AugmentationConfig(flip=False, crop=0, brightness=0, contrast=0, saturation=0)

    def bare(_: int) -> Any:
        files = [str(file) for file in folders["folder"].files]
        return (
            tf.data.Dataset.from_tensor_slices(files)
            .map(
                lambda path: tf.io.decode_jpeg(tf.io.read_file(path), channels=3, dct_method="INTEGER_ACCURATE"),
                num_parallel_calls=arguments.threads,
            )
            .batch(arguments.batch_size, drop_remainder=True)
            .with_options(options)
        )

    def ours(source: str, augmentation: AugmentationConfig) -> Callable[[int], Any]:
        batches = ImageBatches(folders[source], augmentation, arguments.batch_size, seed=1)
        return lambda epoch: batches.epoch(epoch).with_options(options)

    programs: dict[str, Callable[[int], Any]] = {BARE: bare}
    for source in folders:
        programs[source] = ours(source, AugmentationConfig())
        programs[f"{source}_flip"] = ours(source, plain.replace(flip=True))
        programs[f"{source}_plain"] = ours(source, plain)
    return programs


if __name__ == "__main__":
    raise SystemExit(main())
